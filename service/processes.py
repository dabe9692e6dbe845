"""What ``/metrics`` of the service shows: the processes of its workers.

A scrape is answered by whichever worker takes it, so each worker reports them all, told apart by the worker's slot.
The engine's numbers are the exporter's to show; ``up`` is made by Prometheus itself with every scrape.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from exporter.pages import choose_format
from service.board import Slot

__all__ = ["render_processes"]


class _Workers(Collector):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """``process_*`` of every worker, with the label ``worker``."""
        families: dict[str, Metric] = {}
        for number, pid in Slot.holders(self._folder).items():
            for family in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    merged.add_sample(sample.name, {"worker": str(number), **sample.labels}, sample.value)
        return families.values()


def render_processes(folder: Path, accept: str) -> tuple[bytes, str]:
    """The exposition and its content type, in the format that the ``Accept`` header asks for. Reads files: blocking."""
    registry = CollectorRegistry()
    registry.register(_Workers(folder))
    PlatformCollector(registry=registry)
    encoder, content_type = choose_format(accept)
    return encoder(registry), content_type

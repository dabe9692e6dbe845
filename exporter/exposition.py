"""The page: the families of the catalogue as prometheus-client writes them."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from typing import Any, Final, NamedTuple

from prometheus_client import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as OpenMetricsExemplar
from prometheus_client.utils import floatToGoString

from exporter.files import MetricsFiles
from smartcache.catalogue import FAMILIES, FAMILY, Family
from smartcache.exemplars import Exemplars
from smartcache.layout import Layout
from smartcache.snapshot import Decoder, Snapshot
from smartcache.tags import MARKETS

__all__ = ["CacheCollector", "families", "text_page"]

_LAYOUT: Final = Layout({"market": MARKETS})
#: Every family at zero, for those of which no process has said anything yet.
_NOTHING: Final = Decoder(_LAYOUT.describe()).decode(bytes(8 * _LAYOUT.cells), 0.0)
_LATENCY: Final = "smartcache_request_duration_seconds"
_NONE: Final[Exemplars] = {}


class CacheCollector(Collector):
    """All processes of a directory as one; any prometheus-client registry can take it.

    Args:
        files: the directory's reader.
    """

    def __init__(self, files: MetricsFiles) -> None:
        self._files = files
        self._made: dict[str, tuple[Mapping[tuple[str, ...], Any], Exemplars, Metric]] = {}

    def describe(self) -> Iterator[Metric]:
        """Names and types alone, so that registering reads no file."""
        return (_metric(family, {}) for family in FAMILIES)

    def collect(self) -> Iterator[Metric]:
        """The whole page.

        A file that cannot be read counts as before; where that is not known, counters and histograms are left off,
        since they must not step back. The last families say so.
        """
        began = time.perf_counter()
        reading = self._files.read()
        yield from families(reading.snapshot, reading.complete, reading.exemplars, self._make)

        def own(name: str, samples: Mapping[tuple[str, ...], float]) -> Metric:
            return self._make(FAMILY[name], samples)

        yield own("smartcache_processes", {(state,): count for state, count in reading.states.items()})
        yield own("smartcache_build_info", {(_version(), platform.python_version()): 1})
        yield own("smartcache_exporter_up", {(): reading.errors == 0})
        yield own("smartcache_exporter_scrape_errors", {(): reading.errors})
        yield own("smartcache_exporter_scrape_duration_seconds", {(): time.perf_counter() - began})

    def _make(self, family: Family, samples: Mapping[tuple[str, ...], Any], exemplars: Exemplars = _NONE) -> Metric:
        """The family with these samples: the very same object as last time if nothing has changed."""
        held = self._made.get(family.name)
        if held is None or held[0] != samples or held[1] != exemplars:
            held = self._made[family.name] = samples, exemplars, _metric(family, samples, exemplars)
        return held[2]


def families(
    snapshot: Snapshot, complete: bool = True, exemplars: Exemplars = _NONE, make: Callable[..., Metric] | None = None
) -> Iterator[Metric]:
    """Every family that processes record, or the gauges alone; one that is absent when idle may have no samples.

    Args:
        snapshot: what they recorded.
        complete: whether counters and histograms are known.
        exemplars: those of the latency histogram.
        make: makes a metric of a family, samples and exemplars.
    """
    make = make or _metric
    for family in FAMILIES:
        if not family.by_exporter and (complete or family.kind == "gauge"):
            samples = snapshot.samples.get(family.name) or _NOTHING.samples.get(family.name, {})
            yield make(family, samples, exemplars if family.name == _LATENCY else _NONE)


def text_page(snapshot: Snapshot) -> str:
    """The snapshot in the Prometheus text format."""
    return generate_latest(_Page(snapshot)).decode()


class _Page(NamedTuple):
    snapshot: Snapshot

    def collect(self) -> Iterator[Metric]:
        return families(self.snapshot)


def _metric(family: Family, samples: Mapping[tuple[str, ...], Any], exemplars: Exemplars = _NONE) -> Metric:
    names = [label.name for label in family.labels]
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=names, unit=family.unit)
        edges = _edges(family.buckets)
        for labels, value in samples.items():
            buckets = [*zip(edges, accumulate(value.counts), strict=True)]
            if exemplars:
                buckets = [(*bucket, *_exemplar(exemplars, (*labels, place))) for place, bucket in enumerate(buckets)]
            histogram.add_metric(labels, buckets, value.total)
        return histogram
    if family.name.endswith("_info"):
        info = InfoMetricFamily(family.name.removesuffix("_info"), family.help, labels=())
        for labels in samples:
            info.add_metric((), dict(zip(names, labels, strict=True)))
        return info
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = make(family.name, family.help, labels=names, unit=family.unit)
    for labels, value in samples.items():
        metric.add_metric(labels, value)
    return metric


@cache
def _edges(buckets: tuple[float, ...]) -> list[str]:
    return [*map(floatToGoString, (*buckets, float("inf")))]


def _exemplar(exemplars: Exemplars, place: Any) -> tuple[OpenMetricsExemplar, ...]:
    """What a bucket has beside its count: an exemplar, or nothing. Only OpenMetrics shows it."""
    found = exemplars.get(place)
    return () if found is None else (OpenMetricsExemplar({"trace_id": found.trace_id}, found.seconds, found.at),)


def _version() -> str:
    try:
        return version("smartcache")
    except PackageNotFoundError:  # run from a folder, not installed
        return "unknown"

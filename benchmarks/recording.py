"""What it costs to record one request: a fresh hit in memory, in every family that it counts in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.peers import Peer, bars, invite
from benchmarks.turns import Effort, Turn, alternate
from benchmarks.verdict import Row, at_most, faster, measured
from benchmarks.workload import COMPETITION
from smartcache import CacheMetrics
from smartcache.catalogue import FAMILY
from smartcache.tags import MARKETS

__all__ = ["recording"]

_FLOOR: Final = "floor: one cell of memory, one more"
_ASKED: Final = 1000.0
_ANSWERED: Final = 1000.000_004
_SECONDS: Final = _ANSWERED - _ASKED
_AGE: Final = 41.0
_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
#: The families that a fresh hit in memory counts in, with its labels; ``market`` changes from request to request.
_COUNTED: Final[dict[str, dict[str, str]]] = {
    "smartcache_requests_total": {"strategy": "serve_fresh", "zone": "active"},
    "smartcache_lookups_total": {"result": "hit_fresh", "tier": "memory"},
    "smartcache_vix_evaluations_total": {"status": "normal", "competition": COMPETITION},
    "smartcache_swr_evaluations_total": {"result": "served_fresh"},
}
_LOOKUPS: Final = "smartcache_lookups_total"
_LATENCY: Final = "smartcache_request_duration_seconds"
_SERVED_AGE: Final = "smartcache_served_age_seconds"


def ours(metrics: CacheMetrics) -> Turn:
    """As the engine does it: one call, the joint cell worked out beforehand, as prometheus-client's label sets are."""
    ways = [metrics.layout.cells_of("fresh_memory", "active", market, "normal", COMPETITION) for market in MARKETS]
    cells = cycle([cell for (cell,) in ways])
    fresh_hit = metrics.recorder.fresh_hit

    async def turn(times: int) -> None:
        for cell in islice(cells, times):
            fresh_hit(cell, "active", _AGE, _ASKED, _ANSWERED)

    return turn


def one_cell() -> Turn:
    """The floor: one cell of a block of memory, one more."""
    cells = memoryview(bytearray(8 * 4096)).cast("q")
    numbers = cycle(range(len(MARKETS)))

    async def turn(times: int) -> None:
        for number in islice(numbers, times):
            cells[number] += 1

    return turn


def prometheus_client() -> Turn:
    """The same families in prometheus-client, every child resolved beforehand, which spares it the labels."""
    from prometheus_client import CollectorRegistry, Counter, Histogram

    registry = CollectorRegistry()

    def parent(make: Any, name: str, **more: Any) -> Any:
        family = FAMILY[name]
        return make(name, family.help, [label.name for label in family.labels], registry=registry, **more)

    def histogram(name: str) -> Any:
        return parent(Histogram, name, buckets=FAMILY[name].buckets)

    lookups = parent(Counter, _LOOKUPS)
    children = cycle([lookups.labels(market=market, **_COUNTED[_LOOKUPS]) for market in MARKETS])
    requests, evaluations, swr = (
        parent(Counter, name).labels(**labels) for name, labels in _COUNTED.items() if name != _LOOKUPS
    )
    latency = histogram(_LATENCY).labels(strategy="serve_fresh")
    age = histogram(_SERVED_AGE).labels(zone="active")

    async def turn(times: int) -> None:
        for lookup in islice(children, times):
            requests.inc()
            lookup.inc()
            evaluations.inc()
            swr.inc()
            latency.observe(_SECONDS)
            age.observe(_AGE)

    return turn


@contextmanager
def multiprocess_mode() -> Iterator[Path]:
    """What is made meanwhile lives in files in a folder, as in a service of several processes.

    prometheus-client chooses between its modes at import, by the environment; here its own function chooses anew, so
    that both modes take turns in one process.
    """
    from prometheus_client import values

    with TemporaryDirectory() as folder:
        os.environ[_FOLDER] = folder
        before, values.ValueClass = values.ValueClass, values.get_value_class()  # type: ignore[no-untyped-call]
        try:
            yield Path(folder)
        finally:
            values.ValueClass = before
            del os.environ[_FOLDER]


async def begin(stack: AsyncExitStack) -> Turn:
    return prometheus_client()


async def begin_in_files(stack: AsyncExitStack) -> Turn:
    stack.enter_context(multiprocess_mode())
    return prometheus_client()


_PEERS: Final = (
    Peer("prometheus-client", "prometheus-client", begin, faster(5)),
    Peer("prometheus-client", "prometheus-client, multiprocess mode", begin_in_files, faster(15)),
)


async def recording(effort: Effort) -> list[Row]:
    """Recording one request, metrics in a mapped file."""
    async with AsyncExitStack() as stack:
        metrics = CacheMetrics(Path(stack.enter_context(TemporaryDirectory())), {"competition": (COMPETITION,)})
        stack.callback(metrics.close)
        turns = {"ours": ours(metrics), _FLOOR: one_cell(), **await invite(_PEERS, stack)}
        samples = await alternate(turns, effort)
    held_to = {"": at_most(0.6, "µs"), _FLOOR: None, **bars(_PEERS)}
    return [measured("recording one request", samples, held_to)]

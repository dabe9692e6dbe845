"""What a scrape costs the exporter: the files of 16 processes under load, as one page."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from benchmarks.recording import multiprocess_mode as multiprocess_folder
from benchmarks.turns import Effort, Turn, alternate
from benchmarks.verdict import Bar, Row, at_most, measured
from exporter.exposition import CacheCollector, families
from exporter.files import MetricsFiles
from exporter.pages import Pages
from smartcache import CacheMetrics
from smartcache.catalogue import FAMILY, STRATEGIES
from smartcache.layout import OUTCOME
from smartcache.tags import MARKETS

__all__ = ["scrape"]

_PROCESSES: Final = 16
#: 10,000 requests a second over 5 seconds and 16 processes.
_BETWEEN_SCRAPES: Final = 3125
_DOMAINS: Final = {
    "market": MARKETS,
    "competition": ("en.1", "en.2", "es.1", "de.1", "it.1", "fr.1"),
    "route": ("/v1/matches", "/v1/matches/{match_id}/markets/{market}", "/v1/odds", "/healthz", "/readyz", "/metrics"),
    "code": ("200", "400", "404", "405", "422", "500", "503"),
    "worker": [str(number) for number in range(_PROCESSES)],
}
#: How often each outcome and zone comes in an evening of ordinary traffic, in a thousand.
_OUTCOMES: Final = {
    "fresh_memory": 900, "fresh_store": 40, "stale_memory": 20, "stale_store": 5, "absent": 10, "too_stale": 10,
    "bypass_panic": 10, "bypass_forced": 1, "bypass_started": 3, "error_memory": 1,
}  # fmt: skip
_ZONES: Final = {"warmup": 100, "golden": 250, "active": 400, "prematch": 150, "standard": 100}
_STATUSES: Final = {"normal": 940, "warning": 40, "panic": 20}
#: What Prometheus sends.
_ACCEPT: Final = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
_WHOLE: Final = "prometheus-client writes it whole, from samples in memory"
_MULTIPROCESS: Final = "prometheus-client, multiprocess mode"


class Stopwatch:
    """A clock that stands while the work is prepared."""

    def __init__(self) -> None:
        self._stood = 0.0

    def __call__(self) -> float:
        return time.perf_counter() - self._stood

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Do what follows in no time."""
        began = time.perf_counter()
        yield
        self._stood += time.perf_counter() - began


def evening(metrics: CacheMetrics) -> Sequence[tuple[str, tuple[int, ...], int, str]]:
    """Requests as they come: the outcome, the cells, the strategy and the zone of each."""
    rng = random.Random(20_251_123)

    def drawn(weights: dict[str, int]) -> list[str]:
        return rng.choices([*weights], [*weights.values()], k=20_000)

    outcomes, zones, statuses = drawn(_OUTCOMES), drawn(_ZONES), drawn(_STATUSES)
    return [
        (
            outcome,
            metrics.layout.cells_of(outcome, zone, rng.choice(MARKETS), status, rng.choice(_DOMAINS["competition"])),
            STRATEGIES.index(OUTCOME[outcome].strategy),
            zone,
        )
        for outcome, zone, status in zip(outcomes, zones, statuses, strict=True)
    ]


def around(metrics: CacheMetrics, worker: int) -> Callable[[], None]:
    """Lets a process record what comes with so many requests: answers, computes, the store, the bus, its own loop."""
    answers = metrics.counter("smartcache_http_requests_total", route=_DOMAINS["route"][1], code="200")
    computes = metrics.counter("smartcache_computes_total", outcome="success")
    durations = metrics.histogram("smartcache_compute_duration_seconds")
    store = [
        metrics.histogram("smartcache_store_operation_duration_seconds", operation=operation)
        for operation in ("read", "lease", "write")
    ]
    lag = metrics.histogram("smartcache_event_loop_lag_seconds")
    longest = metrics.gauge("smartcache_event_loop_lag_max_seconds", worker=str(worker))
    ticks = metrics.counter("smartcache_odds_ticks_total", origin="bus")
    messages = metrics.counter("smartcache_bus_messages_total", kind="ticks")
    heard = metrics.gauge("smartcache_bus_lag_seconds")
    entries, held = metrics.gauge("smartcache_memory_entries"), metrics.gauge("smartcache_memory_bytes")

    def record() -> None:
        answers.add(_BETWEEN_SCRAPES)
        computes.add(50)
        ticks.add(40)
        messages.add(5)
        heard.set(time.monotonic())
        entries.add(1)
        held.add(700)
        longest.add(0.000_1)
        for number in range(50):
            durations.observe(0.02 + number / 2000)
            for operation in store:
                operation.observe(0.000_2 + number / 100_000)
            lag.observe(number / 50_000)

    return record


def traffic(processes: Sequence[CacheMetrics]) -> Callable[[], None]:
    """Lets every process record what comes between two scrapes."""
    requests = cycle(evening(processes[0]))
    beside = [around(metrics, worker) for worker, metrics in enumerate(processes)]

    def record() -> None:
        now = time.monotonic()
        for metrics, others in zip(processes, beside, strict=True):
            others()
            recorder = metrics.recorder
            for outcome, cells, strategy, zone in islice(requests, _BETWEEN_SCRAPES):
                if outcome == "fresh_memory":
                    recorder.fresh_hit(cells[0], zone, 41.0, now, now + 0.000_004)
                else:
                    recorder.request(cells, strategy, 0.03, now)

    return record


def scraping(pages: Callable[[], Pages], record: Callable[[], None], watch: Stopwatch) -> Turn:
    """One page after the other, traffic between them."""

    async def turn(times: int) -> None:
        for _ in range(times):
            with watch.standing():
                record()
            pages().page(_ACCEPT, "gzip")

    return turn


class Prepared(Collector):
    """Samples that are there already."""

    def __init__(self, files: MetricsFiles) -> None:
        self._snapshot = files.read().snapshot

    def collect(self) -> Iterator[Metric]:
        """All families, to be written anew."""
        return families(self._snapshot)


def multiprocess_mode(files: MetricsFiles, stack: ExitStack) -> CollectorRegistry:
    """The same counters and histograms in prometheus-client's files, as 16 of its processes leave them."""
    from prometheus_client import Counter, Histogram, multiprocess, values

    folder = stack.enter_context(multiprocess_folder())
    samples = files.read().snapshot.samples
    for number in range(_PROCESSES):
        values.ValueClass = values.MultiProcessValue(lambda number=number: number)  # type: ignore[no-untyped-call]
        for name, series in samples.items():
            family = FAMILY[name]
            labels = [label.name for label in family.labels]
            metric: Any
            if family.kind == "counter":
                metric = Counter(name, family.help, labels, registry=None)
            elif family.kind == "histogram":
                metric = Histogram(name, family.help, labels, buckets=family.buckets, registry=None)
            else:
                continue
            for label_values in series if labels else ():
                metric.labels(*label_values)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    return registry


async def scrape(effort: Effort) -> list[Row]:
    """Making one page of the files of 16 processes, all of which record 625 requests a second."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        processes = [CacheMetrics(folder, _DOMAINS) for _ in range(_PROCESSES)]
        for metrics in processes:
            stack.callback(metrics.close)
        record = traffic(processes)
        record()
        ours, whole = CollectorRegistry(), CollectorRegistry()
        ours.register(CacheCollector(MetricsFiles(folder)))
        whole.register(Prepared(MetricsFiles(folder)))
        multiprocess = multiprocess_mode(MetricsFiles(folder), stack)
        pages, watch = Pages(ours), Stopwatch()
        turns = {
            "ours": scraping(lambda: pages, record, watch),
            _WHOLE: scraping(lambda: Pages(whole), lambda: None, watch),
            _MULTIPROCESS: scraping(lambda: Pages(multiprocess), lambda: None, watch),
        }
        held_to: dict[str, Bar | None] = {"": at_most(10_000, "µs"), _WHOLE: None, _MULTIPROCESS: None}
        samples = await alternate(turns, effort, clock=watch)
    return [measured("a scrape over 16 processes", samples, held_to)]

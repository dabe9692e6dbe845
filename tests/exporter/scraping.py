"""Processes that record, and an exporter's pages read back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from exporter.exposition import CacheCollector
from exporter.files import MetricsFiles
from smartcache.catalogue import STRATEGIES, VIX_STATUSES, ZONES

#: A sample's name and sorted labels, to its value.
Page = dict[tuple[str, tuple[tuple[str, str], ...]], float]

WRITER = """if True:
    import json, sys
    from smartcache.catalogue import STRATEGIES
    from smartcache.clock import SystemClock
    from smartcache.layout import OUTCOME
    from smartcache.metrics import CacheMetrics

    metrics = CacheMetrics(sys.argv[1], {"competition": ("E0",)})
    print(metrics.path, flush=True)
    for line in sys.stdin:
        times, outcome, zone, market, status, competition = json.loads(line)
        cells = metrics.layout.cells_of(outcome, zone, market, status, competition)
        strategy = STRATEGIES.index(OUTCOME[outcome].strategy)
        for _ in range(times):
            metrics.recorder.request(cells, strategy, 0.25, SystemClock().monotonic())
        metrics.counter("smartcache_computes_total", outcome="success").add(times)
        metrics.gauge("smartcache_memory_entries").add(times)
        print("done", flush=True)
"""


class Writer:
    """A process of its own that records what it is told."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.path = Path(self._answer())

    def record(
        self,
        times: int,
        outcome: str = "absent",
        zone: str = "golden",
        market: str = "btts",
        status: str = "normal",
        competition: str = "E0",
    ) -> None:
        assert self.process.stdin is not None
        print(json.dumps([times, outcome, zone, market, status, competition]), file=self.process.stdin, flush=True)
        assert self._answer() == "done"

    def end(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGKILL)

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


class Scraper:
    """One exporter, asked again and again; it notices a counter that steps back."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._counters: Page = {}
        self.exporter_restarts()

    def exporter_restarts(self) -> None:
        """Forget what the exporter knows, and remember what it said."""
        self._registry = CollectorRegistry()
        self._files = MetricsFiles(self._directory)
        self._registry.register(CacheCollector(self._files))

    def fold(self) -> None:
        """What an exporter does after a page."""
        self._files.fold()

    def scrape(self) -> Page:
        page: Page = {}
        for family in text_string_to_metric_families(generate_latest(self._registry).decode()):
            for sample in family.samples:
                key = sample.name, tuple(sorted(sample.labels.items()))
                assert key not in page, f"{key} stands twice on the page"
                page[key] = sample.value
                if family.type in ("counter", "histogram"):
                    assert sample.value >= self._counters.get(key, 0.0), f"{key} stepped back"
                    self._counters[key] = sample.value
        if page["smartcache_exporter_up", ()] or any(name == "smartcache_requests_total" for name, _ in page):
            assert self._counters.keys() <= page.keys(), "a series that counted has gone from the page"
        return page


def value(page: Page, name: str, **labels: str) -> float:
    return page[name, tuple(sorted(labels.items()))]


def summed(page: Page, name: str, **labels: str) -> float:
    """Sum of the samples that have these labels."""
    return sum(number for (found, has), number in page.items() if found == name and labels.items() <= dict(has).items())


def check_laws(page: Page) -> None:
    """The laws of the contract that concern requests, as they stand on the page."""
    total = summed(page, "smartcache_requests_total")
    strategy = {s: summed(page, "smartcache_requests_total", strategy=s) for s in STRATEGIES}
    lookup = {r: summed(page, "smartcache_lookups_total", result=r) for r in ("hit_fresh", "hit_stale", "miss")}
    vix = {s: summed(page, "smartcache_vix_evaluations_total", status=s) for s in VIX_STATUSES}
    swr = {
        r: summed(page, "smartcache_swr_evaluations_total", result=r)
        for r in ("served_fresh", "served_stale", "too_stale")
    }
    bypasses = value(page, "smartcache_vix_bypasses_total")
    assert sum(strategy.values()) == total == summed(page, "smartcache_request_duration_seconds_count")
    assert sum(lookup.values()) == total - strategy["bypass"]
    assert strategy["serve_fresh"] == lookup["hit_fresh"] == swr["served_fresh"]
    assert strategy["serve_stale"] == lookup["hit_stale"] == swr["served_stale"]
    assert strategy["compute"] == lookup["miss"]
    assert swr["too_stale"] <= lookup["miss"]
    assert sum(vix.values()) <= total
    assert bypasses <= min(vix["panic"], strategy["bypass"])
    assert sum(summed(page, "smartcache_requests_total", zone=zone) for zone in ZONES[:5]) <= total
    for name in ("smartcache_request_duration_seconds", "smartcache_served_age_seconds"):
        buckets: dict[Any, list[tuple[float, float]]] = {}
        for (found, labels), number in page.items():
            if found == f"{name}_bucket":
                others = tuple(label for label in labels if label[0] != "le")
                buckets.setdefault(others, []).append((float(dict(labels)["le"]), number))
        for others, counts in buckets.items():
            ordered = [number for _, number in sorted(counts)]
            assert ordered == sorted(ordered), "buckets are cumulative"
            assert ordered[-1] == page[f"{name}_count", others]

"""From cells to samples, from samples to statistics."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartcache.catalogue import FAMILY, STATISTICS
from smartcache.metrics import CacheMetrics
from smartcache.snapshot import HistogramValue, Snapshot, add_up, decode, derive, totals

DURATION = "smartcache_request_duration_seconds"


class HandClock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def record(metrics: CacheMetrics, seconds: float, now: float) -> None:
    metrics.request(metrics.layout.position("outcome", "absent"), 1, seconds, now)


def written_by(metrics: CacheMetrics, **changes: Any) -> tuple[bytes, dict[str, Any]]:
    return metrics._ints.tobytes(), metrics.layout.describe() | changes


def test_an_idle_process_has_no_slowest_and_no_fastest_request() -> None:
    snapshot = CacheMetrics(clock=HandClock(1000.0)).snapshot()
    assert snapshot.slowest is None
    assert snapshot.fastest is None


@pytest.mark.parametrize("start", [0.0, 3.0, 1_000_003.0])
def test_extremes_are_those_of_the_last_minute(start: float) -> None:
    clock = HandClock(start)
    metrics = CacheMetrics(clock=clock)
    record(metrics, 3.0, clock.now)
    record(metrics, 0.001, clock.now)
    clock.now = start + 30
    record(metrics, 0.5, clock.now)
    clock.now = start + 54.9
    assert (metrics.snapshot().slowest, metrics.snapshot().fastest) == (3.0, 0.001)
    clock.now = start + 60
    assert (metrics.snapshot().slowest, metrics.snapshot().fastest) == (0.5, 0.5)
    clock.now = start + 90
    assert metrics.snapshot().slowest is None


def test_extremes_of_long_ago_do_not_come_back_when_their_slot_does() -> None:
    clock = HandClock(0.0)
    metrics = CacheMetrics(clock=clock)
    record(metrics, 3.0, clock.now)
    for turn in range(1, 40):
        clock.now = turn * 65.0  # 13 slots of 5 s
        assert metrics.snapshot().slowest is None
        clock.now += 0.5
        assert metrics.snapshot().slowest is None


def test_gauges_that_hold_an_instant_say_how_long_ago_it_was() -> None:
    clock = HandClock(500.0)
    metrics = CacheMetrics(clock=clock)
    assert metrics.snapshot().samples["smartcache_bus_lag_seconds"] == {}
    metrics.gauge("smartcache_bus_lag_seconds").set(498.5)
    assert metrics.snapshot().samples["smartcache_bus_lag_seconds"] == {(): 1.5}
    clock.now = 498.0  # read with a slightly older clock
    assert metrics.snapshot().samples["smartcache_bus_lag_seconds"] == {(): 0.0}


def test_bucket_edges_of_another_version_are_sorted_anew_never_downwards() -> None:
    metrics = CacheMetrics()
    for seconds in (0.000_001, 0.09, 0.11, 100.0):
        record(metrics, seconds, 0.0)
    here = metrics.snapshot().samples[DURATION][("compute",)].counts
    buckets = metrics.layout.describe()["buckets"]
    # The writer's edges each lay a little above those of this version: "at most" holds one edge further up.
    cells, description = written_by(metrics, buckets=buckets | {DURATION: [edge * 1.01 for edge in buckets[DURATION]]})
    moved = decode(cells, description, 0.0).samples[DURATION][("compute",)]
    assert moved.counts == (0, *here[:-2], here[-2] + here[-1])
    # With edges of its own making, in other numbers, nothing is lost either.
    fewer = [0.1, 10.0]
    layout = metrics.layout.describe()
    cell = metrics.layout.series[DURATION, ("compute",)].cell
    described = layout | {"series": [[DURATION, ["compute"], cell]], "buckets": {DURATION: fewer}}
    three = decode(cells, described, 0.0).samples[DURATION][("compute",)].counts
    edges = FAMILY[DURATION].buckets
    assert three[edges.index(0.1)] == here[0]
    assert three[edges.index(10.0)] == here[1]
    assert len(three) == len(edges) + 1


def test_families_and_labels_of_another_version_are_left_out() -> None:
    metrics = CacheMetrics(clock=HandClock())
    cells, description = written_by(metrics)
    description["series"] += [["smartcache_of_tomorrow_total", [], 0], ["smartcache_bus_gaps_total", ["new label"], 0]]
    assert decode(cells, description, 0.0).samples == metrics.snapshot().samples


def test_every_label_set_of_the_joint_families_is_there_from_the_start() -> None:
    samples = CacheMetrics(domains={"market": ("btts",), "competition": ("E0",)}).snapshot().samples
    assert len(samples["smartcache_requests_total"]) == 4 * 7
    markets = ("btts", "none", "other")
    hits = [
        (hit, tier, market) for hit in ("hit_fresh", "hit_stale") for tier in ("memory", "store") for market in markets
    ]
    misses = [("miss", "none", market) for market in markets]
    by_hand = [("hit_fresh", "none", "none"), ("hit_stale", "none", "none")]
    assert samples["smartcache_lookups_total"] == dict.fromkeys([*hits, *misses, *by_hand], 0)
    assert samples["smartcache_vix_evaluations_total"] == dict.fromkeys(
        [(status, where) for status in ("panic", "warning", "normal") for where in ("E0", "none", "other")], 0
    )


def test_processes_are_combined_as_the_catalogue_says() -> None:
    def process(entries: float, sampling: float, extra: float, slowest: float) -> Snapshot:
        return Snapshot(
            {
                "smartcache_memory_entries": {(): entries},
                "smartcache_latency_sampling_ratio": {(): sampling},
                "smartcache_model_extra_latency_seconds": {(): extra},
                "smartcache_request_duration_max_seconds": {(): slowest},
                "smartcache_bus_gaps_total": {(): 2},
                DURATION: {("compute",): HistogramValue((1, 0), 0.5)},
            }
        )

    ended = process(7, 0.01, 9.0, 9.0).accumulated()
    both = add_up([process(10, 1.0, 0.025, 3.0), process(5, 0.1, 0.050, 1.0), ended])
    assert both.samples == {
        "smartcache_memory_entries": {(): 15},
        "smartcache_latency_sampling_ratio": {(): 0.1},
        "smartcache_model_extra_latency_seconds": {(): 0.050},
        "smartcache_request_duration_max_seconds": {(): 3.0},
        "smartcache_bus_gaps_total": {(): 6},
        DURATION: {("compute",): HistogramValue((3, 0), 1.5)},
    }
    assert (both.slowest, both.fastest) == (3.0, None)


spans = st.floats(0, 1e6, allow_subnormal=False)


@given(st.lists(spans, min_size=1, max_size=12), st.data())
@settings(max_examples=200, deadline=None)
def test_sums_of_seconds_never_step_back_while_processes_come_and_grow(parts: list[float], data: st.DataObject) -> None:
    def summed() -> float:
        total = add_up(Snapshot({DURATION: {(): HistogramValue((1,), part)}}) for part in parts)
        value: HistogramValue = total.samples[DURATION][()]
        return value.total

    before = summed()
    for _ in range(5):
        if data.draw(st.booleans()):
            parts.insert(data.draw(st.integers(0, len(parts))), data.draw(spans))
        else:
            parts[data.draw(st.integers(0, len(parts) - 1))] += data.draw(spans)
        after = summed()
        assert after >= before
        before = after


def test_statistics_are_zero_without_traffic_and_count_from_the_baseline_of_their_category() -> None:
    stats = derive(totals({}), {}, None, None)
    assert list(stats) == [statistic.name for statistic in STATISTICS]
    assert len(stats) == 35
    assert set(stats.values()) == {0}

    metrics = CacheMetrics()
    metrics.increment("cache_hit_fresh", 3)
    metrics.increment("cache_miss", 1)
    metrics.increment("markets_affected_logical", 4)
    metrics.increment("markets_preserved", 8)
    now = totals(metrics.snapshot().samples)
    stats = derive(now, {}, 0.25, 0.001)
    assert stats["hit_rate_pct"] == 75.0
    assert math.isclose(stats["avg_cpu_saved_pct"], 100 * 8 / 12)
    assert (stats["max_latency_ms"], stats["min_latency_ms"]) == (250.0, 1.0)
    stats = derive(now, {"base_cache": now}, None, None)
    assert stats["cache_hit_fresh"] == stats["hit_rate_pct"] == 0
    assert stats["markets_preserved"] == 8

"""From cells to samples, from samples to statistics."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartcache.catalogue import AGE_BUCKETS, FAMILY, REQUEST_BUCKETS, STATISTICS, STRATEGIES, ZONES
from smartcache.metrics import CacheMetrics
from smartcache.snapshot import Decoder, HistogramValue, Samples, add_up, derive, ticks, totals

DURATION = "smartcache_request_duration_seconds"


class HandClock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def record(metrics: CacheMetrics, seconds: float, now: float) -> None:
    metrics.recorder.request(metrics.layout.cells_of("absent"), 1, seconds, now)


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


EDGES = st.sampled_from((*REQUEST_BUCKETS, *AGE_BUCKETS)).flatmap(
    lambda edge: st.sampled_from((edge, math.nextafter(edge, 0), math.nextafter(edge, math.inf)))
)


def recorders() -> tuple[CacheMetrics, CacheMetrics, int]:
    one, other = (CacheMetrics(domains={"competition": ("E0",)}, clock=HandClock()) for _ in range(2))
    (cell,) = one.layout.cells_of("fresh_memory", "golden", "btts", "normal", "E0")
    return one, other, cell


@given(st.lists(st.tuples(EDGES, EDGES, st.sampled_from(ZONES)), max_size=20), st.sampled_from([1.0, 0.3]))
@settings(max_examples=100, deadline=None)
def test_a_fresh_hit_is_a_request_and_an_age_in_one_call(hits: list[tuple[float, float, str]], rate: float) -> None:
    one, other, cell = recorders()
    for metrics in (one, other):
        metrics.set_latency_sampling(rate)
    for seconds, age, zone in hits:
        one.recorder.fresh_hit(cell, zone, age, 0.0, seconds)
        other.recorder.request((cell,), STRATEGIES.index("serve_fresh"), seconds, seconds)
        other.histogram("smartcache_served_age_seconds", zone=zone).observe(age)
    assert one.snapshot() == other.snapshot()


class KilledError(Exception):
    """The process ended here."""


class Mortal:
    """Memory whose process is killed before a store of its choosing."""

    def __init__(self, memory: memoryview[Any], stores: list[int]) -> None:
        self.memory, self.stores = memory, stores

    def __getitem__(self, cell: int) -> Any:
        return self.memory[cell]

    def __setitem__(self, cell: int, value: Any) -> None:
        if not self.stores[0]:
            raise KilledError
        self.stores[0] -= 1
        self.memory[cell] = value


@pytest.mark.parametrize("hit", [True, False])
def test_a_request_counts_wholly_or_not_at_all_wherever_the_kill_falls(hit: bool) -> None:
    stores, lasted = 0, False
    while not lasted:
        metrics, _, cell = recorders()
        left = [1000]
        ints: Any = Mortal(metrics._ints, left)
        floats: Any = Mortal(metrics._floats, left)
        metrics.recorder.bind(ints, floats, metrics.layout, 0.0)
        left[0] = stores
        try:
            for _ in range(2):
                if hit:
                    metrics.recorder.fresh_hit(cell, "golden", 41.0, 0.0, 0.25)
                else:
                    metrics.recorder.request((cell,), STRATEGIES.index("serve_fresh"), 0.25, 0.25)
            lasted = True
        except KilledError:
            stores += 1
        samples = metrics.snapshot().samples
        total = samples["smartcache_requests_total"]["serve_fresh", "golden"]
        assert sum(samples[DURATION]["serve_fresh",].counts) == total
        assert samples["smartcache_lookups_total"]["hit_fresh", "memory", "btts"] == total
        assert samples["smartcache_vix_evaluations_total"]["normal", "E0"] == total
        assert sum(samples["smartcache_served_age_seconds"]["golden",].counts) <= total
    assert total == 2
    assert stores > 6, "every store of two requests was cut off once"


def test_bucket_edges_of_another_version_are_sorted_anew_never_downwards() -> None:
    metrics = CacheMetrics()
    for seconds in (0.000_001, 0.09, 0.11, 100.0):
        record(metrics, seconds, 0.0)
    here = metrics.snapshot().samples[DURATION][("compute",)].counts
    buckets = metrics.layout.describe()["buckets"]
    # The writer's edges each lay a little above those of this version: "at most" holds one edge further up.
    cells, description = written_by(metrics, buckets=buckets | {DURATION: [edge * 1.01 for edge in buckets[DURATION]]})
    moved = Decoder(description).decode(cells, 0.0).samples[DURATION][("compute",)]
    assert moved.counts == (0, *here[:-2], here[-2] + here[-1])
    # With edges of its own making, in other numbers, nothing is lost either.
    fewer = [0.1, 10.0]
    layout = metrics.layout.describe()
    cell = metrics.layout.series[DURATION, ("compute",)].cell
    described = layout | {
        "series": [[DURATION, ["compute"], cell, layout["counts"]]],
        "buckets": buckets | {DURATION: fewer},
        "hits": {"cell": 0, "zones": []},
    }
    three = Decoder(described).decode(cells, 0.0).samples[DURATION][("compute",)].counts
    edges = FAMILY[DURATION].buckets
    assert three[edges.index(0.1)] == here[0]
    assert three[edges.index(10.0)] == here[1]
    assert len(three) == len(edges) + 1


def test_families_and_labels_of_another_version_are_left_out() -> None:
    metrics = CacheMetrics(clock=HandClock())
    cells, description = written_by(metrics)
    description["series"] += [
        ["smartcache_of_tomorrow_total", [], 0, None],
        ["smartcache_bus_gaps_total", ["new label"], 0, None],
    ]
    assert Decoder(description).decode(cells, 0.0).samples == metrics.snapshot().samples


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
    counted: Samples = {
        "smartcache_bus_gaps_total": {(): 2},
        DURATION: {("compute",): HistogramValue((1, 0), ticks(0.5))},
    }

    def process(entries: float, sampling: float, extra: float, slowest: float) -> Samples:
        return {
            **counted,
            "smartcache_memory_entries": {(): entries},
            "smartcache_latency_sampling_ratio": {(): sampling},
            "smartcache_model_extra_latency_seconds": {(): extra},
            "smartcache_request_duration_max_seconds": {(): slowest},
        }

    both = add_up([process(10, 1.0, 0.025, 3.0), process(5, 0.1, 0.050, 1.0), counted])
    assert both.samples == {
        "smartcache_memory_entries": {(): 15},
        "smartcache_latency_sampling_ratio": {(): 0.1},
        "smartcache_model_extra_latency_seconds": {(): 0.050},
        "smartcache_request_duration_max_seconds": {(): 3.0},
        "smartcache_bus_gaps_total": {(): 6},
        DURATION: {("compute",): HistogramValue((3, 0), ticks(1.5))},
    }
    assert (both.slowest, both.fastest) == (3.0, None)


spans = st.floats(0, 1e6, allow_subnormal=False)


@given(st.lists(spans, min_size=1, max_size=12), st.data())
@settings(max_examples=200, deadline=None)
def test_sums_of_seconds_depend_on_no_order_and_never_step_back(parts: list[float], data: st.DataObject) -> None:
    def share(part: float) -> Samples:
        return {DURATION: {(): HistogramValue((1,), ticks(part))}}

    def summed() -> float:
        folded = data.draw(st.integers(0, len(parts)))
        order = data.draw(st.permutations(parts))
        base = add_up(share(part) for part in order[:folded])
        value: HistogramValue = add_up([base.samples, *map(share, order[folded:])]).samples[DURATION][()]
        return value.total

    before = summed()
    for _ in range(5):
        assert summed() == before
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

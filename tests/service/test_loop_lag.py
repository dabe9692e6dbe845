from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from service.loop_lag import EVERY, watch_loop
from smartcache import CacheMetrics
from smartcache.catalogue import LAG_BUCKETS
from smartcache.snapshot import HistogramValue
from smartcache.testing import VirtualClock


@pytest.fixture
async def watched() -> AsyncIterator[tuple[CacheMetrics, VirtualClock]]:
    metrics, clock = CacheMetrics(domains={"worker": ["0"]}), VirtualClock()
    watch = asyncio.create_task(watch_loop(metrics, 0, clock))
    await asyncio.sleep(0)
    yield metrics, clock
    watch.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch


def observed(metrics: CacheMetrics) -> HistogramValue:
    value: HistogramValue = metrics.snapshot().samples["smartcache_event_loop_lag_seconds"][()]
    return value


def longest(metrics: CacheMetrics) -> float:
    value: float = metrics.snapshot().samples["smartcache_event_loop_lag_max_seconds"]["0",]
    return value


async def looked(metrics: CacheMetrics) -> HistogramValue:
    """What was observed once the watch has looked again."""
    before = observed(metrics)
    for _ in range(1000):
        if observed(metrics) != before:
            return observed(metrics)
        await asyncio.sleep(0.01)
    pytest.fail("it does not look any more")


async def test_a_loop_that_is_on_time_lags_by_nothing(watched: tuple[CacheMetrics, VirtualClock]) -> None:
    metrics, clock = watched
    clock.advance(seconds=EVERY)
    value = await looked(metrics)
    assert value.counts[0] == sum(value.counts) == 1
    assert value.total == pytest.approx(0, abs=1e-9)


async def test_a_blocked_loop_counts_for_all_that_waited_for_it(watched: tuple[CacheMetrics, VirtualClock]) -> None:
    metrics, clock = watched
    clock.advance(seconds=10.5 * EVERY)
    value = await looked(metrics)
    # What was due after one, two, ... ten steps waited for nine and a half steps, ..., for half a step.
    assert sum(value.counts) == 10
    assert value.total == pytest.approx(sum((10.5 - step) * EVERY for step in range(1, 11)))
    assert value.counts[LAG_BUCKETS.index(1.0)] == 5, "from 0.55 to 0.95 s"
    assert longest(metrics) == pytest.approx(9.5 * EVERY)


async def test_it_looks_again_and_again(watched: tuple[CacheMetrics, VirtualClock]) -> None:
    metrics, clock = watched
    for looks in (1, 2, 3):
        clock.advance(seconds=EVERY)
        assert sum((await looked(metrics)).counts) == looks


async def test_the_longest_lag_is_of_the_last_minute(watched: tuple[CacheMetrics, VirtualClock]) -> None:
    metrics, clock = watched
    clock.advance(seconds=2.05)
    await looked(metrics)
    assert longest(metrics) == pytest.approx(1.95)
    clock.advance(seconds=30)
    await looked(metrics)
    assert longest(metrics) == pytest.approx(30, abs=EVERY)
    for _ in range(61):
        clock.advance(seconds=1)
        await looked(metrics)
    assert longest(metrics) == pytest.approx(1, abs=EVERY)


async def test_a_loop_that_was_blocked_for_minutes_shows_all_of_them(
    watched: tuple[CacheMetrics, VirtualClock],
) -> None:
    metrics, clock = watched
    clock.advance(seconds=300)
    await looked(metrics)
    assert longest(metrics) == pytest.approx(300 - EVERY)

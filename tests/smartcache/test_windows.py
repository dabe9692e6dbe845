"""Scheduled resets move the baseline on the full hour, and nothing that is exported."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from smartcache import CacheConfig, SmartCacheEnhanced
from smartcache.catalogue import CATEGORIES, STRATEGIES
from smartcache.metrics import CacheMetrics
from smartcache.snapshot import Samples, totals
from smartcache.testing import VirtualClock
from smartcache.windows import Windows


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOTHING: Samples = {}


def test_hours_begin_on_the_hour_and_days_at_midnight_utc() -> None:
    windows = Windows()
    assert windows.due == math.inf
    windows.schedule("vix", "daily", at("2025-11-23 22:30"))
    assert windows.due == at("2025-11-24 00:00")
    windows.schedule("performance", "hourly", at("2025-11-23 22:30"))
    assert windows.due == at("2025-11-23 23:00")
    assert windows.turn(at("2025-11-23 23:00"), totals(NOTHING)) == ["performance"]
    assert windows.due == at("2025-11-24 00:00")
    assert set(windows.turn(at("2025-11-24 00:00:07"), totals(NOTHING))) == {"vix", "performance"}
    assert windows.due == at("2025-11-24 01:00")
    assert windows.turn(at("2025-11-24 01:00"), totals(NOTHING)) == ["performance"]
    # Nobody looked for a day and a half.
    assert set(windows.turn(at("2025-11-25 13:20"), totals(NOTHING))) == {"vix", "performance"}
    assert windows.describe()["vix"] == {"since": "2025-11-25T00:00:00+00:00", "resets": "daily"}
    assert windows.describe()["performance"] == {"since": "2025-11-25T13:00:00+00:00", "resets": "hourly"}
    assert windows.describe()["swr"] == {"since": None, "resets": None}
    assert list(windows.describe()) == list(CATEGORIES)


def test_a_clock_that_was_far_ahead_and_is_put_right_stops_no_reset() -> None:
    windows = Windows()
    windows.schedule("performance", "hourly", at("2035-01-01 10:30"))
    assert not windows.is_due(at("2025-11-23 22:30"))
    assert windows.due == at("2025-11-23 23:00")
    assert windows.is_due(at("2025-11-23 23:00"))
    assert windows.turn(at("2025-11-23 23:00"), totals(NOTHING)) == ["performance"]
    assert windows.describe()["performance"]["since"] == "2025-11-23T23:00:00+00:00"
    assert not Windows().is_due(at("2025-11-23 23:00"))


def test_what_cannot_be_scheduled_is_named() -> None:
    with pytest.raises(ValueError, match="unknown category 'latency'; the categories are base_cache"):
        Windows().schedule("latency", "hourly", 0.0)
    with pytest.raises(ValueError, match="a reset is hourly or daily, got 'weekly'"):
        CacheMetrics().schedule_reset("vix", "weekly")


def request(metrics: CacheMetrics, clock: VirtualClock, seconds: float) -> None:
    cells = metrics.layout.cells_of("absent", "golden", "btts", "warning")
    metrics.recorder.request(cells, STRATEGIES.index("compute"), seconds, clock.monotonic())


def test_the_first_request_of_the_hour_is_the_first_of_the_window() -> None:
    clock = VirtualClock(datetime(2025, 11, 23, 23, 59, 58, tzinfo=UTC))
    metrics = CacheMetrics(clock=clock)
    metrics.schedule_reset("performance", "hourly")
    metrics.schedule_reset("vix", "daily")
    for seconds in (5.0, 0.001):
        request(metrics, clock, seconds)
    clock.advance(1.875)
    request(metrics, clock, 2.0)
    assert metrics.get_stats()["total_requests"] == metrics.get_stats()["vix_warning_detected"] == 3
    assert metrics.windows()["performance"] == {"since": None, "resets": "hourly"}

    clock.advance(0.125)
    request(metrics, clock, 0.5)
    clock.advance(1.0)
    stats = metrics.get_stats()
    assert (stats["total_requests"], stats["vix_warning_detected"], stats["strategy_compute"]) == (1, 1, 4)
    assert (stats["max_latency_ms"], stats["min_latency_ms"], stats["avg_latency_ms"]) == (500, 500, 500)
    assert metrics.windows()["vix"] == {"since": "2025-11-24T00:00:00+00:00", "resets": "daily"}
    assert metrics.windows()["strategy"] == {"since": None, "resets": None}

    clock.advance(3600.0)
    stats = metrics.get_stats()
    assert (stats["total_requests"], stats["vix_warning_detected"]) == (0, 1)
    snapshot = metrics.snapshot()
    assert snapshot.samples["smartcache_requests_total"]["compute", "golden"] == 4
    assert sum(snapshot.samples["smartcache_request_duration_seconds"]["compute",].counts) == 4


def test_a_reset_by_hand_is_shown_and_does_not_move_the_schedule() -> None:
    clock = VirtualClock(datetime(2025, 11, 23, 12, 30, tzinfo=UTC))
    metrics = CacheMetrics(clock=clock)
    metrics.schedule_reset("swr", "hourly")
    metrics.reset_category("swr")
    assert metrics.windows()["swr"] == {"since": "2025-11-23T12:30:00+00:00", "resets": "hourly"}
    clock.advance(1800.0)
    assert metrics.windows()["swr"] == {"since": "2025-11-23T13:00:00+00:00", "resets": "hourly"}
    clock.advance(60.0)
    metrics.reset()
    assert {window["since"] for window in metrics.windows().values()} == {"2025-11-23T13:01:00+00:00"}


def test_an_engine_schedules_what_its_settings_say(clock: VirtualClock) -> None:
    cache = SmartCacheEnhanced(CacheConfig(reset_hourly=("performance",), reset_daily=("vix",)), clock=clock)
    windows = cache.metrics.windows()
    assert {name: window["resets"] for name, window in windows.items() if window["resets"]} == {
        "performance": "hourly",
        "vix": "daily",
    }

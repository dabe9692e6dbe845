from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartcache.volatility import (
    CELLS,
    NORMAL,
    PANIC,
    WARNING,
    Governor,
    Volatility,
    VolatilityLimits,
    Window,
    above_floor,
)

LIMITS = VolatilityLimits()
BARE = VolatilityLimits(floor=0.0)
KEY = "7:match_result:home:"

odds = st.integers(101, 3000).map(lambda cents: cents / 100)


@given(prices=st.lists(odds, min_size=3, max_size=400), current=odds, gap=st.floats(0.1, 60))
def test_running_moments_equal_the_textbook_ones(prices: list[float], current: float, gap: float) -> None:
    window = Window()
    for number, price in enumerate(prices):
        window.add(number * gap, price, BARE)
    now = (len(prices) - 1) * gap
    kept = [price for number, price in enumerate(prices) if number * gap > now - BARE.window][-BARE.most_samples :]
    assert len(window) == len(kept)
    if current == kept[-1]:
        kept = kept[:-1]
    judged = window.judge(current, BARE)
    if len(kept) < 3:
        assert judged.z is None
        return
    assert judged.mean == pytest.approx(statistics.fmean(kept), rel=1e-9)
    deviation = statistics.stdev(kept)
    if deviation > 1e-6 and current != pytest.approx(statistics.fmean(kept), rel=1e-9):
        assert judged.z == pytest.approx(abs(current - statistics.fmean(kept)) / deviation, rel=1e-5, abs=1e-6)


@given(
    prices=st.lists(st.tuples(odds, st.floats(0, 900)), max_size=30),
    current=st.none() | odds,
    floor=st.sampled_from([0.0, 0.04]),
)
def test_the_status_alone_is_that_of_the_whole_judgement(
    prices: list[tuple[float, float]], current: float | None, floor: float
) -> None:
    volatility = Volatility(VolatilityLimits(floor=floor), 10)
    now = 0.0
    for price, gap in prices:
        now += gap
        volatility.tick(KEY, price, now)
    now += 60
    assert volatility.worst([(KEY, current), ("unknown", 2.0)], now) == volatility.judge(KEY, current, now).status


@given(prices=st.lists(odds, min_size=3, max_size=40), current=odds)
def test_reading_never_writes(prices: list[float], current: float) -> None:
    volatility = Volatility(LIMITS, 10)
    for number, price in enumerate(prices):
        volatility.tick(KEY, price, float(number))
    first = volatility.judge(KEY, current, len(prices))
    assert volatility.judge(KEY, current, len(prices)) == first


def test_steady_odds_then_a_jump_is_a_panic() -> None:
    volatility = Volatility(LIMITS, 10)
    for second, price in enumerate([2.0, 2.02, 1.98, 2.0, 2.02]):
        volatility.tick(KEY, price, float(second))
    assert volatility.judge(KEY, 2.02, 5).status == NORMAL
    assert volatility.judge(KEY, 2.5, 5).status == PANIC


def test_a_jump_from_odds_that_never_moved_is_a_panic_and_a_single_step_is_not() -> None:
    volatility = Volatility(LIMITS, 10)
    for second in range(4):
        volatility.tick(KEY, 2.0, float(second))
    assert volatility.judge(KEY, 2.5, 5).status == PANIC
    assert volatility.judge(KEY, 2.02, 5).status == NORMAL


def test_the_bare_definition_calls_a_single_step_a_panic() -> None:
    volatility = Volatility(BARE, 10)
    for second in range(4):
        volatility.tick(KEY, 2.0, float(second))
    assert volatility.judge(KEY, 2.02, 5).status == PANIC
    assert volatility.judge(KEY, 2.0, 5).status == NORMAL


def test_the_tick_that_brought_the_current_price_is_not_among_the_samples_before_it() -> None:
    volatility = Volatility(LIMITS, 10)
    for second, price in enumerate([2.0, 2.0, 2.0, 2.6]):
        volatility.tick(KEY, price, float(second))
    assert volatility.judge(KEY, 2.6, 4).status == PANIC
    assert volatility.judge(KEY, None, 4).status == PANIC


def test_warning_lies_between() -> None:
    volatility = Volatility(VolatilityLimits(floor=0.0), 10)
    for second, price in enumerate([2.0, 2.2, 1.8, 2.1, 1.9]):
        volatility.tick(KEY, price, float(second))
    deviation = statistics.stdev([2.0, 2.2, 1.8, 2.1, 1.9])
    assert volatility.judge(KEY, 2.0 + 1.7 * deviation, 5).status == WARNING
    assert volatility.judge(KEY, 2.0 + 2.01 * deviation, 5).status == PANIC
    assert volatility.judge(KEY, 2.0 + 1.4 * deviation, 5).status == NORMAL


def test_too_few_samples_and_old_samples_are_not_judged() -> None:
    volatility = Volatility(LIMITS, 10)
    volatility.tick(KEY, 2.0, 0.0)
    volatility.tick(KEY, 2.0, 1.0)
    assert volatility.judge(KEY, 9.0, 2).z is None
    volatility.tick(KEY, 2.0, 2.0)
    assert volatility.judge(KEY, 9.0, 3).status == PANIC
    assert volatility.judge(KEY, 9.0, 1803).z is None


def test_a_late_tick_takes_its_place_in_time_and_one_too_old_is_left_out() -> None:
    volatility = Volatility(LIMITS, 10)
    for second, price in [(4000.0, 2.0), (4002.0, 2.02), (4001.0, 1.98), (4003.0, 2.0), (100.0, 5.0)]:
        volatility.tick(KEY, price, second)
    assert volatility.last(KEY) == (4003.0, 2.0)
    judged = volatility.judge(KEY, None, 4003.0)
    assert (judged.status, judged.samples) == (NORMAL, 3)
    assert judged.mean == pytest.approx(2.0)


def test_the_newest_tick_can_be_read() -> None:
    volatility = Volatility(LIMITS, 10)
    assert volatility.last(KEY) is None
    volatility.tick(KEY, 2.0, 1.0)
    volatility.tick(KEY, 2.1, 3.0)
    assert volatility.last(KEY) == (3.0, 2.1)


def test_windows_are_bounded_in_number() -> None:
    volatility = Volatility(LIMITS, 2)
    for match in ("a", "b", "c"):
        volatility.tick(f"{match}:match_result:home:", 2.0, 0.0)
    assert len(volatility) == 2
    assert volatility.keys_of("a", "match_result") == ()
    assert volatility.keys_of("c", "match_result") == ("c:match_result:home:",)


def test_the_floor() -> None:
    assert above_floor(22.0, 20.0, 0.04), "10 % always counts, at long odds too"
    assert not above_floor(21.0, 20.0, 0.04)
    assert above_floor(2.2, 2.0, 0.04)
    assert not above_floor(1.30, 1.29, 0.04)
    assert above_floor(1.30, 1.29, 0.0)


def feed(governor: Governor, ratio: float, count: int, now: float) -> None:
    for number in range(count):
        governor.record(number % 100 >= 100 - ratio * 100, now)


def test_the_governor_climbs_and_falls_with_hysteresis() -> None:
    governor = Governor()
    feed(governor, 1.0, 199, 0.0)
    assert governor.mode == "normal", "199 judgements are not enough"
    governor.record(True, 0.0)
    assert governor.mode == "high_volatility"
    feed(governor, 1.0, 200, 1.0)
    assert governor.mode == "circuit_open"
    governor = Governor()
    feed(governor, 0.5, 400, 0.0)
    assert governor.mode == "normal", "50 % is not above 50 %"
    feed(governor, 1.0, 200, 0.0)
    assert governor.mode == "high_volatility"
    feed(governor, 0.0, 300, 1.0)
    assert 0.30 < governor.panic_ratio < 0.50
    assert governor.mode == "high_volatility", "it stays until the ratio is below 30 %"
    feed(governor, 0.0, 900, 1.0)
    assert governor.panic_ratio < 0.30
    assert governor.mode == "normal"


def test_old_judgements_are_forgotten_after_half_an_hour() -> None:
    governor = Governor()
    feed(governor, 1.0, 400, 0.0)
    assert governor.mode == "circuit_open"
    assert governor.mode_at(29 * 60) == "circuit_open"
    assert governor.mode_at(31 * 60) == "normal"
    assert governor.panic_ratio == 0.0


def test_the_table() -> None:
    modes = ("normal", "high_volatility", "circuit_open")
    inf = float("inf")
    assert [[CELLS[mode, status] for status in (PANIC, WARNING, NORMAL)] for mode in modes] == [
        [None, 60.0, inf],
        [5.0, 10.0, inf],
        [10.0, 30.0, 60.0],
    ]

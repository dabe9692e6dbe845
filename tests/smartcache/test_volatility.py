from __future__ import annotations

import math
import statistics
import sys
from bisect import insort_right
from collections.abc import Callable
from operator import itemgetter
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartcache import volatility as volatility_module
from smartcache.volatility import (
    CELLS,
    NORMAL,
    PANIC,
    WARNING,
    Governor,
    Judgement,
    Volatility,
    VolatilityLimits,
    Window,
)

LIMITS = VolatilityLimits()
BARE = VolatilityLimits(floor=0.0)
KEY = "7:match_result:home:"

odds = st.integers(101, 3000).map(lambda cents: cents / 100)


#: Few prices, so that equal ones follow one another, and moves in time of which some go back.
ticks = st.lists(
    st.tuples(odds | st.sampled_from([2.0, 2.02, 21.0]), st.floats(0, 60) | st.floats(-300, 900)), max_size=250
)


class Recomputed:
    """The definition taken at its word: everything is worked out anew from the samples."""

    def __init__(self, limits: VolatilityLimits) -> None:
        self.limits = limits
        self.samples: list[tuple[float, float]] = []

    def add(self, instant: float, price: float) -> None:
        insort_right(self.samples, (instant, price), key=itemgetter(0))
        oldest = self.samples[-1][0] - self.limits.window
        self.samples = [one for one in self.samples if one[0] > oldest][-self.limits.most_samples :]

    def judge(self, current: float | None, oldest: float) -> Judgement:
        before = [price for instant, price in self.samples if instant > oldest]
        if before and current in (None, before[-1]):
            current = before.pop()
        if len(before) < self.limits.least_samples:
            return Judgement(NORMAL, None, None, len(before))
        assert current is not None
        mean, deviation = statistics.fmean(before), statistics.stdev(before)
        move = abs(current - mean)
        z = move / deviation if deviation else math.inf if move > 1e-12 * mean else 0.0
        moved = abs(1 / current - 1 / mean) >= self.limits.floor or move >= 0.1 * mean
        status = NORMAL if not moved else PANIC if z >= 2 else WARNING if z >= 1.5 else NORMAL
        return Judgement(status, z, mean, len(before))

    def close_to_a_bound(self, current: float, judged: Judgement) -> bool:
        mean, z = judged.mean, judged.z
        assert mean is not None
        assert z is not None
        return any(
            math.isclose(found, bound, rel_tol=1e-6)
            for found, bound in (
                (z, 1.5), (z, 2.0), (abs(current - mean), 0.1 * mean), (abs(1 / current - 1 / mean), self.limits.floor)
            )
        )  # fmt: skip


@given(
    ticks=ticks,
    current=st.none() | odds,
    later=st.floats(-900, 2400),
    floor=st.sampled_from([0.0, 0.01, 0.04]),
    most=st.sampled_from([4, 20, 100]),
)
def test_the_window_says_what_recomputing_everything_says(
    ticks: list[tuple[float, float]], current: float | None, later: float, floor: float, most: int
) -> None:
    limits = VolatilityLimits(floor=floor, most_samples=most)
    window, recomputed, now = Window(), Recomputed(limits), 1e6
    for price, gap in ticks:
        now += gap
        window.add(now, price, limits)
        recomputed.add(now, price)
        assert len(window) == len(recomputed.samples)
    for oldest in (-math.inf, now + later - limits.window):
        found, truth = window.judge(current, limits, oldest), recomputed.judge(current, oldest)
        if truth.z is None or found.z is None:
            assert found == truth
            continue
        assert found.samples == truth.samples
        assert found.mean == pytest.approx(truth.mean, rel=1e-12)
        # What fmean loses in the last place matters only beside a move that is nearly as small.
        assert found.z == pytest.approx(truth.z, rel=1e-6, abs=1e-6)
        if not recomputed.close_to_a_bound(current or recomputed.samples[-1][1], truth):
            assert found.status == truth.status
        assert window.status(current, limits, oldest) == found.status


@given(
    steps=st.lists(
        st.tuples(st.none() | odds | st.sampled_from([2.0, 2.02]), st.floats(0, 900), st.none() | odds | st.just(2.0)),
        max_size=40,
    ),
    floor=st.sampled_from([0.0, 0.04]),
)
def test_what_is_remembered_of_a_window_is_what_judging_it_anew_says(
    steps: list[tuple[float | None, float, float | None]], floor: float
) -> None:
    volatility, now = Volatility(VolatilityLimits(floor=floor), 10), 0.0
    for price, gap, current in steps:
        now += gap
        if price is not None:
            volatility.tick(KEY, price, now)
        for asked in (current, None, current):
            status = volatility.judge(KEY, asked, now).status
            assert volatility.worst([(KEY, asked), ("unknown", 2.0)], now) == status


def test_a_check_sees_each_tick_and_each_sample_that_runs_out() -> None:
    volatility = Volatility(LIMITS, 10)
    for second, price in enumerate([2.0, 2.0, 2.0, 3.0]):
        volatility.tick(KEY, price, second * 100.0)
    assert volatility.worst([(KEY, 2.0)], 300) == NORMAL
    assert volatility.worst([(KEY, None)], 300) == PANIC
    volatility.tick(KEY, 2.0, 400.0)
    assert volatility.worst([(KEY, None)], 400) == NORMAL
    for second in (500, 600, 700):
        volatility.tick(KEY, 2.0, float(second))
    assert volatility.worst([(KEY, 2.5)], 2099) == NORMAL, "3.00 is among the samples"
    assert volatility.worst([(KEY, 2.5)], 2100) == PANIC, "3.00 has run out"
    assert volatility.worst([(KEY, 2.5)], 2099) == NORMAL, "a clock that was set back"


@given(
    ticks=ticks,
    reads=st.lists(st.tuples(st.none() | odds, st.floats(-4000, 4000)), min_size=1, max_size=20),
)
def test_reading_never_writes(ticks: list[tuple[float, float]], reads: list[tuple[float | None, float]]) -> None:
    read, unread = Volatility(LIMITS, 10), Volatility(LIMITS, 10)
    now = 1e6
    for price, gap in ticks:
        now += gap
        for volatility in (read, unread):
            volatility.tick(KEY, price, now)
    for current, later in reads:
        read.worst([(KEY, current)], now + later)
        read.judge(KEY, current, now + later)
    for current, later in reads:
        assert read.judge(KEY, current, now + later) == unread.judge(KEY, current, now + later)
        assert read.worst([(KEY, current)], now + later) == unread.worst([(KEY, current)], now + later)
    assert read.last(KEY) == unread.last(KEY)


def operations(work: Callable[..., Any], *arguments: Any) -> int:
    """How many instructions of the module's the interpreter carries out for a call."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename != volatility_module.__file__:
            return None
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work(*arguments)
    finally:
        sys.settrace(before)
    return count


class Moves(list[tuple[float, int, int]]):
    """Ticks that count how many are moved up when others are dropped."""

    moved = 0

    def __delitem__(self, place: Any) -> None:
        super().__delitem__(place)
        self.moved += len(self)


def add(window: Window, limits: VolatilityLimits, seconds: range) -> None:
    for second in seconds:
        window.add(float(second), 2.0 + second % 2 / 100, limits)


@pytest.mark.parametrize("leave", ["by number", "by time"])
def test_a_tick_costs_the_same_however_many_a_window_holds(leave: str) -> None:
    costs = []
    for size in (16, 80, 800):
        if leave == "by number":
            limits = VolatilityLimits(window=1e9, most_samples=size)
        else:
            limits = VolatilityLimits(window=size, most_samples=10 * size)
        window = Window()
        add(window, limits, range(2 * size))
        assert len(window) == size
        window._ticks = moves = Moves(window._ticks)
        costs.append(operations(add, window, limits, range(2 * size, 6 * size)) / (4 * size))
        assert moves.moved <= 5 * (4 * size)
    assert costs[2] == pytest.approx(costs[1], rel=0.05)
    assert costs[2] <= costs[0]


def test_a_check_costs_the_same_however_many_a_window_holds() -> None:
    costs = []
    for size in (16, 80, 800):
        window, limits = Window(), VolatilityLimits(window=1e9, most_samples=size)
        add(window, limits, range(3 * size))
        oldest = 2.5 * size  # half of them have run out
        assert window.judge(None, limits, oldest).samples == size // 2 - 2
        first = operations(window.status, 2.01, limits, oldest)
        again = operations(window.status, 2.01, limits, oldest)
        panic = operations(window.status, 3.0, limits, oldest)
        costs.append((first, again, panic))
        assert again < min(first, panic)
    assert costs[0] == costs[1] == costs[2]


class Compared(float):
    """An instant that counts what it is compared with."""

    times = 0

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return float(self) == other

    __hash__ = float.__hash__


def test_where_a_window_begins_is_found_by_bisection() -> None:
    window = Window()
    add(window, LIMITS, range(100))
    before = Compared.times
    assert window.judge(None, LIMITS, Compared(49)).samples == 49
    assert 0 < Compared.times - before <= 8


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


def test_odds_that_never_moved_have_no_deviation_after_whatever_came_before() -> None:
    window, limits = Window(), VolatilityLimits(most_samples=10)
    for second in range(500):
        window.add(float(second), 1.01 + second * 1.37, limits)
    for second in range(500, 511):
        window.add(float(second), 7.1, limits)
    assert window.judge(7.1, limits) == Judgement(NORMAL, 0.0, 7.1, 9)
    assert window.judge(9.9, limits) == Judgement(PANIC, math.inf, 7.1, 10)
    assert window.judge(7.2, limits) == Judgement(NORMAL, math.inf, 7.1, 10)


@pytest.mark.parametrize(
    ("before", "current"),
    [([2.0, 2.0, 2.0], 1.8), ([3.0, 3.0, 3.0], 2.7), ([3.3, 3.3, 3.3], 3.63), ([36.0, 38.0, 40.0], 42.0)],
)
def test_a_tenth_is_a_tenth_and_two_deviations_are_two(before: list[float], current: float) -> None:
    window = Window()
    for second, price in enumerate(before):
        window.add(float(second), price, LIMITS)
    assert window.judge(current, LIMITS).status == PANIC


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


@pytest.mark.parametrize(
    ("mean", "floor", "below", "above"),
    [
        (20.0, 0.04, 21.0, 22.0),  # a tenth always counts, at long odds too
        (20.0, 0.04, 18.5, 18.0),
        (2.0, 0.04, 2.16, 2.18),
        (2.0, 0.04, 1.86, 1.85),
        (1.29, 0.04, 1.36, 1.37),
        (1.29, 0.04, 1.23, 1.22),
        (30.0, 0.0, 30.0, 31.0),
        (1.29, 0.0, 1.29, 1.30),
    ],
)
def test_the_floor(mean: float, floor: float, below: float, above: float) -> None:
    window, limits = Window(), VolatilityLimits(floor=floor)
    for second in range(4):
        window.add(float(second), mean, limits)
    assert window.judge(below, limits).status == NORMAL
    assert window.judge(above, limits).status == PANIC


def test_a_forked_child_drops_what_its_parent_was_changing() -> None:
    volatility = Volatility(LIMITS, 10)
    volatility.tick(KEY, 2.0, 1.0)
    volatility.renew_lock()
    assert volatility.last(KEY) == (1.0, 2.0)
    version = volatility.version
    with volatility._lock:  # as if another thread held it at the fork
        volatility.renew_lock()
    assert (len(volatility), volatility.keys_of("7", "match_result")) == (0, ())
    assert volatility.version != version
    volatility.tick(KEY, 2.0, 2.0)
    assert volatility.last(KEY) == (2.0, 2.0)


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

"""Bars and verdicts, as they stand in the table."""

from __future__ import annotations

import pytest

from benchmarks.hit_ratio import summary
from benchmarks.verdict import (
    Bar,
    Comparison,
    Row,
    Unit,
    ahead,
    at_least,
    at_most,
    counted,
    exactly,
    faster,
    measured,
    no_dearer,
    table,
    unmet,
    within,
)


@pytest.mark.parametrize(
    ("bar", "ours", "theirs", "met"),
    [
        (at_most(3, "µs"), 3.0, None, True),
        (at_most(3, "µs"), 3.01, None, False),
        (at_least(68.6, "%"), 68.6, None, True),
        (at_least(68.6, "%"), 68.59, None, False),
        (exactly(2), 2, None, True),
        (exactly(2), 1, None, False),
        (exactly(2), 3, None, False),
        (ahead(), 9.9, 10.0, True),
        (ahead(), 10.0, 10.0, False),
        (faster(10), 1.0, 10.0, True),
        (faster(10), 1.0, 9.9, False),
        (within(4), 4.0, 1.0, True),
        (within(4), 4.1, 1.0, False),
        (no_dearer(0.5, "µs", 1.25), 1.5, 1.0, True),  # 0.5 more, though 1.5 times
        (no_dearer(0.5, "µs", 1.25), 5.0, 4.0, True),  # 1.25 times, though 1 more
        (no_dearer(0.5, "µs", 1.25), 6.0, 4.0, False),
    ],
)
def test_a_bar_is_met_up_to_its_edge(bar: Bar, ours: float, theirs: float | None, met: bool) -> None:
    times = None if theirs is None else ours / theirs
    assert Comparison("", theirs, times, bar).met(ours) is met


def test_figures_are_medians_and_ratios_are_those_of_the_rounds() -> None:
    # A burst of other work hits the second and third round, in which both take turns.
    samples = {"ours": [1e-6, 9e-6, 8e-6], "peer": [2e-6, 18e-6, 15e-6]}
    row = measured("work", samples, {"": at_most(8, "µs"), "peer": faster(2)})
    assert row.ours == pytest.approx(8)
    alone, beside = row.comparisons
    assert alone.met(row.ours) is True
    assert beside.theirs == pytest.approx(15)
    assert beside.times == pytest.approx(0.5)
    assert beside.met(row.ours) is True


def test_a_bar_beside_an_absent_peer_is_not_judged_and_not_passed_over() -> None:
    row = measured("work", {"ours": [1e-6]}, {"peer": faster(2), "other": None})
    assert [comparison.against for comparison in row.comparisons] == ["peer (absent)", "other (absent)"]
    assert row.comparisons[0].met(row.ours) is None
    assert unmet([row]) == ["not judged: work: ≥ 2× faster beside peer (absent)"]


def test_what_is_missed_is_named_and_what_is_met_is_not() -> None:
    row = measured("work", {"ours": [1e-6], "peer": [3e-6]}, {"": at_most(0.5, "µs"), "peer": faster(2)})
    assert unmet([row]) == ["missed: work: ≤ 0.5 µs"]


def test_the_table_has_one_line_for_each_comparison() -> None:
    row = measured(
        "work",
        {"ours": [2e-6], "floor": [1e-6], "peer": [7e-6]},
        {"": at_most(1, "µs"), "floor": None, "peer": faster(3), "gone": within(4)},
    )
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table([row]).splitlines()]
    assert cells[0] == ["row", "ours", "against", "theirs", "ours is", "bar", "met"]
    assert cells[2:] == [
        ["work", "2 µs", "", "", "", "≤ 1 µs", "NO"],
        ["", "", "floor", "1 µs", "2.00× slower", "", ""],
        ["", "", "peer", "7 µs", "3.50× faster", "≥ 3× faster", "yes"],
        ["", "", "gone (absent)", "", "", "≤ 4×", "not judged"],
    ]


def test_the_mean_hit_ratio_is_judged_on_all_traces_only() -> None:
    rows = [
        Row("a", "%", 60.0, [Comparison("lru", 50.0), Comparison("gone")]),
        Row("b", "%", 80.0, [Comparison("lru", 70.0), Comparison("gone")]),
    ]
    whole, part = summary(rows, whole=True), summary(rows, whole=False)
    assert whole.ours == 70.0
    assert [comparison.theirs for comparison in whole.comparisons] == [None, 60.0, None]
    assert whole.comparisons[0].met(whole.ours) is True
    assert part.comparisons[0].met(part.ours) is None
    assert "+10.00 points" in table([whole])


def test_of_computes_the_worst_round_counts() -> None:
    row = counted("computes", {"ours": [1, 2, 1], "peer": [1, 1, 4000]}, ["peer", "gone"], exactly(1))
    assert row.ours == 2
    assert row.comparisons[0].met(row.ours) is False
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table([row]).splitlines()]
    assert cells[2:] == [
        ["computes", "2", "", "", "", "exactly 1", "NO"],
        ["", "", "peer", "4,000", "3,998 fewer", "", ""],
        ["", "", "gone (absent)", "", "", "", ""],
    ]


@pytest.mark.parametrize(
    ("unit", "ours", "cell"), [("µs", 2500, "2500 µs"), ("ms", 2.5, "2.5 ms"), ("s", 0.0025, "0.0025 s")]
)
def test_a_duration_stands_in_the_unit_of_its_row(unit: Unit, ours: float, cell: str) -> None:
    row = measured("work", {"ours": [0.0025]}, {"": at_most(ours, unit)}, unit)
    assert row.ours == pytest.approx(ours)
    assert cell in table([row])


def test_a_bar_that_speaks_of_more_than_was_done_is_not_judged() -> None:
    timed = measured("work", {"ours": [1.0], "peer": [9.0]}, {"": at_most(2, "s"), "peer": ahead()}, "s", judged=False)
    computes = counted("computes", {"ours": [1]}, [], exactly(1), judged=False)
    assert [line.partition(":")[0] for line in unmet([timed, computes])] == ["not judged"] * 3

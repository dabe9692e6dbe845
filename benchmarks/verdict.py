"""Rows of the table, the bars they are held to, and whether those are met: plain data and pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, Literal

__all__ = [
    "Bar", "Comparison", "Row", "Unit", "ahead", "at_least", "at_most", "beside", "counted", "exactly", "faster",
    "lines", "measured", "no_dearer", "table", "unmet", "within",
]  # fmt: skip

#: ``computes`` are counted; the row's name says so, their figures stand bare.
Unit = Literal["µs", "ms", "s", "%", "MB", "computes"]
_PER_SECOND: Final[dict[Unit, float]] = {"µs": 1e6, "ms": 1e3, "s": 1.0}


@dataclass(frozen=True)
class Bar:
    """What a row must reach.

    Attributes:
        text: as it stands in the table.
        holds: whether our figure reaches it, being so many times theirs.
        alone: it is about our figure alone.
    """

    text: str
    holds: Callable[[float, float], bool]
    alone: bool = False


@dataclass(frozen=True)
class Comparison:
    """Ours beside one other.

    Attributes:
        against: the other's name.
        theirs: its figure, in the row's unit; None when it did not run, or for a bar about ours alone.
        times: ours as a multiple of theirs; None where figures are not told apart by their ratio.
        bar: what is asked of us beside it.
        judged: false when ours is not what the bar speaks of, such as a part of its data.
    """

    against: str
    theirs: float | None = None
    times: float | None = None
    bar: Bar | None = None
    judged: bool = True

    def met(self, ours: float | None) -> bool | None:
        """Whether the bar is met; None when there is none or it cannot be judged."""
        if self.bar is None or ours is None or not self.judged or (self.times is None and not self.bar.alone):
            return None
        return self.bar.holds(ours, math.nan if self.times is None else self.times)


@dataclass(frozen=True)
class Row:
    """One kind of work: our figure and what it is compared with.

    Attributes:
        name: what is done.
        unit: of every figure; less is better, except for ``%``.
        ours: our figure; None when the row could not run.
        comparisons: floor, peers and bars.
        samples: what every round gave, by contender: seconds, or a number of computes.
    """

    name: str
    unit: Unit
    ours: float | None
    comparisons: Sequence[Comparison]
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)


def measured(
    name: str,
    samples: Mapping[str, Sequence[float]],
    bars: Mapping[str, Bar | None],
    unit: Unit = "µs",
    *,
    judged: bool = True,
) -> Row:
    """A row of durations: medians over the rounds.

    Ours is set against another round by round and the median taken of that, which a burst of other work on the machine
    moves less than it moves two medians.

    Args:
        name: what is done.
        samples: seconds per operation in each round, by contender, ``ours`` among them.
        bars: what ours is set beside, in the table's order, with its bar if there is one; "" for ours alone. One
            without samples is absent.
        unit: of the figures, one of time.
        judged: false when the bars speak of more than was done.
    """
    ours, scale = samples["ours"], _PER_SECOND[unit]
    comparisons = []
    for against, bar in bars.items():
        if against in samples:
            theirs = samples[against]
            times = median(mine / other for mine, other in zip(ours, theirs, strict=True))
            comparisons.append(Comparison(against, scale * median(theirs), times, bar, judged))
        else:
            comparisons.append(Comparison(f"{against} (absent)" if against else "", bar=bar, judged=judged))
    return Row(name, unit, scale * median(ours), comparisons, samples)


def counted(
    name: str, samples: Mapping[str, Sequence[int]], others: Iterable[str], bar: Bar, *, judged: bool = True
) -> Row:
    """A row of computes: the most of any round, since one too many is one too many.

    Args:
        name: what is done.
        samples: computes in each round, by contender, ``ours`` among them.
        others: what ours is set beside, in the table's order. One without samples is absent.
        bar: on our figure alone.
        judged: false when the bar speaks of more than was done.
    """
    comparisons = [Comparison("", bar=bar, judged=judged)]
    for other in others:
        there = other in samples
        comparisons.append(Comparison(other, max(samples[other])) if there else Comparison(f"{other} (absent)"))
    return Row(name, "computes", max(samples["ours"]), comparisons, samples)


def at_most(limit: float, unit: Unit) -> Bar:
    """Ours is at most ``limit``."""
    return Bar(f"≤ {limit:g} {unit}", lambda ours, _: ours <= limit, alone=True)


def at_least(limit: float, unit: Unit) -> Bar:
    """Ours is at least ``limit``."""
    return Bar(f"≥ {limit:g} {unit}", lambda ours, _: ours >= limit, alone=True)


def exactly(number: int) -> Bar:
    """Ours is that number."""
    return Bar(f"exactly {number:,}", lambda ours, _: ours == number, alone=True)


def ahead() -> Bar:
    """Ours takes less than theirs."""
    return Bar("faster", lambda _, ratio: ratio < 1)


def faster(times: float) -> Bar:
    """Theirs takes at least ``times`` ours."""
    return Bar(f"≥ {times:g}× faster", lambda _, ratio: ratio * times <= 1)


def within(times: float) -> Bar:
    """Ours takes at most ``times`` theirs."""
    return Bar(f"≤ {times:g}×", lambda _, ratio: ratio <= times)


def no_dearer(extra: float, unit: Unit, times: float) -> Bar:
    """Ours takes at most ``extra`` more than theirs, or at most ``times`` theirs."""
    return Bar(
        f"≤ {extra:g} {unit} more, or ≤ {times:g}×",
        lambda ours, ratio: ours - ours / ratio <= extra or ratio <= times,
    )


def beside(unit: Unit, ours: float | None, comparison: Comparison) -> str:
    """Ours beside the other in words."""
    if ours is None or comparison.theirs is None:
        return ""
    if unit == "%":
        return f"{ours - comparison.theirs:+.2f} points"
    if unit == "computes":
        fewer = comparison.theirs - ours
        return f"{fewer:,.0f} fewer" if fewer > 0 else f"{-fewer:,.0f} more" if fewer else "as many"
    if comparison.times is None:
        return ""
    return f"{1 / comparison.times:.2f}× faster" if comparison.times < 1 else f"{comparison.times:.2f}× slower"


_MET: Final = {True: "yes", False: "NO", None: ""}
_HEADS: Final = ("row", "ours", "against", "theirs", "ours is", "bar", "met")


def lines(row: Row) -> list[tuple[str, ...]]:
    """The row's lines in the table, one for each comparison; its name and our figure stand on the first."""
    found: list[tuple[str, ...]] = []
    for number, comparison in enumerate(row.comparisons):
        theirs = comparison.theirs
        verdict = comparison.met(row.ours)
        found.append(
            (
                "" if number else row.name,
                "" if number else _figure(row.ours, row.unit),
                comparison.against,
                _figure(theirs, row.unit),
                beside(row.unit, row.ours, comparison),
                "" if comparison.bar is None else comparison.bar.text,
                "not judged" if comparison.bar is not None and verdict is None else _MET[verdict],
            )
        )
    return found


def table(rows: Iterable[Row]) -> str:
    """All rows as one table in Markdown."""
    body = [_HEADS, *(line for row in rows for line in lines(row))]
    widths = [max(len(line[column]) for line in body) for column in range(len(_HEADS))]
    body.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in body
    )


def unmet(rows: Iterable[Row]) -> list[str]:
    """The bars that were missed or could not be judged, each in one line that says which."""
    found = []
    for row in rows:
        for comparison in row.comparisons:
            met = comparison.met(row.ours)
            if comparison.bar is not None and not met:
                beside = f" beside {comparison.against}" if comparison.against else ""
                verdict = "not judged" if met is None else "missed"
                found.append(f"{verdict}: {row.name}: {comparison.bar.text}{beside}")
    return found


def _figure(value: float | None, unit: Unit) -> str:
    if value is None:
        return ""
    if unit == "computes":
        return f"{value:,.0f}"
    return f"{value:.2f} {unit}" if unit == "%" else f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"

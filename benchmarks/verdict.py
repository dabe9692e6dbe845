"""Rows of the table, the bars they are held to, and whether those are met: plain data and pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = [
    "Bar", "Comparison", "Row", "Unit", "at_least", "at_most", "faster", "lines", "no_dearer", "ratio", "table",
    "unmet", "within",
]  # fmt: skip

Unit = Literal["µs", "%", "MB"]


@dataclass(frozen=True)
class Bar:
    """What a row must reach.

    Attributes:
        text: as it stands in the table.
        holds: whether ours reaches it beside theirs.
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
        bar: what is asked of us beside it.
        judged: false when ours is not what the bar speaks of, such as a part of its data.
    """

    against: str
    theirs: float | None = None
    bar: Bar | None = None
    judged: bool = True

    def met(self, ours: float | None) -> bool | None:
        """Whether the bar is met; None when there is none or it cannot be judged."""
        if self.bar is None or ours is None or not self.judged or (self.theirs is None and not self.bar.alone):
            return None
        return self.bar.holds(ours, 0.0 if self.theirs is None else self.theirs)


@dataclass(frozen=True)
class Row:
    """One kind of work: our figure and what it is compared with.

    Attributes:
        name: what is done.
        unit: of every figure; less is better, except for ``%``.
        ours: our figure; None when the row could not run.
        comparisons: floor, peers and bars.
        samples: what every round gave, in seconds, by contender.
    """

    name: str
    unit: Unit
    ours: float | None
    comparisons: Sequence[Comparison]
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)


def at_most(limit: float, unit: Unit) -> Bar:
    """Ours is at most ``limit``."""
    return Bar(f"≤ {limit:g} {unit}", lambda ours, _: ours <= limit, alone=True)


def at_least(limit: float, unit: Unit) -> Bar:
    """Ours is at least ``limit``."""
    return Bar(f"≥ {limit:g} {unit}", lambda ours, _: ours >= limit, alone=True)


def faster(times: float) -> Bar:
    """Ours takes at most one ``times``-th of theirs."""
    return Bar(f"≥ {times:g}× faster", lambda ours, theirs: ours * times <= theirs)


def within(times: float) -> Bar:
    """Ours takes at most ``times`` theirs."""
    return Bar(f"≤ {times:g}×", lambda ours, theirs: ours <= times * theirs)


def no_dearer(extra: float, unit: Unit, times: float) -> Bar:
    """Ours takes at most ``extra`` more than theirs, or at most ``times`` theirs."""
    return Bar(
        f"≤ {extra:g} {unit} more, or ≤ {times:g}×",
        lambda ours, theirs: ours <= theirs + extra or ours <= times * theirs,
    )


def ratio(unit: Unit, ours: float, theirs: float) -> str:
    """Ours beside theirs in words."""
    if unit == "%":
        return f"{ours - theirs:+.1f} points"
    if ours <= 0 or theirs <= 0:
        return ""
    return f"{theirs / ours:.2f}× faster" if ours < theirs else f"{ours / theirs:.2f}× slower"


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
                "" if theirs is None or row.ours is None else ratio(row.unit, row.ours, theirs),
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
    return f"{value:.1f} {unit}" if unit == "%" else f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"

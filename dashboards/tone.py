"""Colours and the words for nothing: green, amber and red say good, nearly bad and bad, and nothing else does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from smartcache.objectives import Objective

__all__ = [
    "BAD",
    "GOOD",
    "NEUTRAL",
    "NOT_SEEN",
    "NO_DATA",
    "NO_TRAFFIC",
    "PLAIN",
    "SHADES",
    "TONES",
    "WARN",
    "above",
    "steps",
]

GOOD: Final = "green"
WARN: Final = "orange"
BAD: Final = "red"
#: What is neither good nor bad.
NEUTRAL: Final = "blue"
#: For several neutral series in one panel, from near (kickoff, memory) to far.
SHADES: Final = ("purple", "blue", "light-blue", "super-light-blue", "#A0A7B4", "dark-blue", "super-light-purple")

#: For several kinds of the same evil.
EVILS: Final = ("red", "dark-red", "light-red", "super-light-red")

#: The catalogue's tones.
TONES: Final[Mapping[str, str]] = {"good": GOOD, "warn": WARN, "bad": BAD, "neutral": NEUTRAL}

NO_TRAFFIC: Final = "no traffic seen"
NO_DATA: Final = "no data"
#: Of parts that may be absent or merely unwatched: the page cannot tell.
NOT_SEEN: Final = "not seen"

Step = Mapping[str, str | float | None]
#: Thresholds of what has none.
PLAIN: Final[list[Step]] = [{"color": NEUTRAL, "value": None}]
#: Share of the room between perfect and the bound at which amber begins.
_NEARLY: Final = 0.8


def steps(objective: Objective) -> list[Step]:
    """Thresholds that colour a value by its objective; amber once four fifths of the room are used up."""
    bound = objective.threshold
    if objective.sense == "at_least":
        return [
            {"color": BAD, "value": None},
            {"color": WARN, "value": bound},
            {"color": GOOD, "value": round(1 - _NEARLY * (1 - bound), 6)},
        ]
    if bound == 0:
        return above(bad=0)
    return [
        {"color": GOOD, "value": None},
        {"color": WARN, "value": round(_NEARLY * bound, 6)},
        {"color": BAD, "value": bound},
    ]


def above(*, bad: float) -> list[Step]:
    """Thresholds of what is good up to ``bad`` and bad beyond it."""
    # A step holds from its value on; the smallest figure that a panel could show lies above this.
    return [{"color": GOOD, "value": None}, {"color": BAD, "value": bad + 1e-6}]


def below(*, bad: float) -> list[Step]:
    """Thresholds of what is bad under ``bad`` and good from it on."""
    return [{"color": BAD, "value": None}, {"color": GOOD, "value": bad}]


def line(objective: Objective) -> list[Step]:
    """A line at the objective's bound."""
    return [{"color": "transparent", "value": None}, {"color": BAD, "value": objective.threshold}]

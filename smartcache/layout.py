"""Where each number of the catalogue lies in a process's metrics memory.

The memory is a row of 8-byte cells. Most series have a cell of their own. Requests have a block of joint cells, one per
combination of outcome, zone, market, volatility status and competition: a request is counted by adding one to one cell,
and the families that speak of requests are sums over the block, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, NamedTuple

from smartcache import exemplars
from smartcache.catalogue import FAMILIES, FAMILY, STATISTICS, VIX_STATUSES, ZONES, Family, Statistic

__all__ = ["DIMENSIONS", "OUTCOME", "OUTCOMES", "Layout", "Outcome", "Series"]


class Outcome(NamedTuple):
    """How a request ended, and what that counts as."""

    name: str
    strategy: str
    lookup: tuple[str, str] | None = None  # result, tier
    swr: str | None = None
    bypassed_by_vix: bool = False
    stale_on_error: bool = False


OUTCOMES: Final = (
    Outcome("bypass_panic", "bypass", bypassed_by_vix=True),
    Outcome("bypass_forced", "bypass"),
    Outcome("bypass_started", "bypass"),
    Outcome("fresh_memory", "serve_fresh", ("hit_fresh", "memory"), "served_fresh"),
    Outcome("fresh_store", "serve_fresh", ("hit_fresh", "store"), "served_fresh"),
    Outcome("stale_memory", "serve_stale", ("hit_stale", "memory"), "served_stale"),
    Outcome("stale_store", "serve_stale", ("hit_stale", "store"), "served_stale"),
    Outcome("error_memory", "serve_stale", ("hit_stale", "memory"), "served_stale", stale_on_error=True),
    Outcome("error_store", "serve_stale", ("hit_stale", "store"), "served_stale", stale_on_error=True),
    Outcome("absent", "compute", ("miss", "none")),
    Outcome("too_stale", "compute", ("miss", "none"), "too_stale"),
)

OUTCOME: Final[Mapping[str, Outcome]] = {outcome.name: outcome for outcome in OUTCOMES}

#: Statuses in the joint block: the judged ones, then "not judged".
_VIX: Final = (*VIX_STATUSES, "none")

#: Added to every configured domain: nothing to say, and outside the set.
_ADDED: Final = ("none", "other")

DIMENSIONS: Final = ("outcome", "zone", "market", "status", "competition")


@dataclass(frozen=True, slots=True)
class Series:
    """One series and where it lies.

    Attributes:
        family: family name.
        values: label values, in the family's order.
        cell: first cell; a histogram has its bucket counts (the last is +Inf) and then its sum.
    """

    family: str
    values: tuple[str, ...]
    cell: int


class Layout:
    """The cells of a process's metrics memory.

    Args:
        domains: values of the label domains that configuration fills (``market``, ``competition``, ``route``,
            ``code``). "none" and "other" are added to each.
    """

    def __init__(self, domains: Mapping[str, Sequence[str]]) -> None:
        self.domains: Final = {
            name: tuple(dict.fromkeys(value for value in domains.get(name, ()) if value not in _ADDED)) + _ADDED
            for name in ("market", "competition", "route", "code")
        }
        axes = (
            tuple(outcome.name for outcome in OUTCOMES),
            ZONES,
            self.domains["market"],
            _VIX,
            self.domains["competition"],
        )
        self.axes: Final = axes
        strides = [1] * len(axes)
        for axis in range(len(axes) - 2, -1, -1):
            strides[axis] = strides[axis + 1] * len(axes[axis + 1])
        self.strides: Final = tuple(strides)
        cell = strides[0] * len(axes[0])
        self.series: Final[dict[tuple[str, tuple[str, ...]], Series]] = {}
        for family in FAMILIES:
            if family.by_exporter or family.joint:
                continue
            for values in product(*(self.values_of(family, label.name) for label in family.labels)):
                self.series[family.name, values] = Series(family.name, values, cell)
                cell += len(family.buckets) + 2 if family.kind == "histogram" else 1
        #: Cells for what callers add by hand to a statistic whose family is a sum over the joint block.
        self.by_hand: Final[dict[str, Series]] = {}
        for statistic in STATISTICS:
            labels = _by_hand_labels(statistic)
            if labels is not None:
                self.by_hand[statistic.name] = Series(str(statistic.family), labels, cell)
                cell += 1
        #: The sliding minute: per slot its number, its slowest and its fastest request.
        self.minute: Final = cell
        self.minute_slots: Final = 13
        self.minute_slot_seconds: Final = 5
        #: First cell of the exemplars.
        self.exemplars: Final = self.minute + 3 * self.minute_slots
        self.cells: Final = self.exemplars + exemplars.CELLS

    def values_of(self, family: Family, label: str) -> tuple[str, ...]:
        """The allowed values of a label."""
        values = family.label(label).values
        return self.domains[values] if isinstance(values, str) else values

    def find(self, family_name: str, labels: Mapping[str, str]) -> Series:
        """The series with these labels; a value outside a configured domain is "other".

        Raises:
            KeyError: no such family, or one that is not recorded series by series.
            ValueError: labels missing, unknown, or outside a fixed set.
        """
        family = FAMILY.get(family_name)
        if family is None or family.by_exporter or family.joint:
            raise KeyError(f"no metric {family_name!r} can be recorded by itself; the catalogue lists those that can")
        names = [label.name for label in family.labels]
        if set(labels) != set(names):
            raise ValueError(f"{family_name} takes the labels {names}, got {sorted(labels)}")
        values = []
        for label in family.labels:
            value, allowed = labels[label.name], self.values_of(family, label.name)
            if value not in allowed:
                if not isinstance(label.values, str):
                    raise ValueError(f"{family_name}: {label.name}={value!r} is none of {', '.join(allowed)}")
                value = "other"
            values.append(value)
        return self.series[family_name, tuple(values)]

    def position(self, axis: str, value: str | None) -> int:
        """What ``value`` on an axis of the joint block adds to a cell's index; None is "none"."""
        number = DIMENSIONS.index(axis)
        values = self.axes[number]
        if value is None:
            value = "none"
        return values.index(value if value in values else "other") * self.strides[number]

    def describe(self) -> dict[str, Any]:
        """The layout as plain data, written into each file so that any exporter can read it."""
        return {
            "joint": {"cell": 0, "axes": [list(axis) for axis in self.axes]},
            "buckets": {name: list(family.buckets) for name, family in FAMILY.items() if family.buckets},
            "series": [[s.family, list(s.values), s.cell] for s in (*self.series.values(), *self.by_hand.values())],
            "minute": [self.minute, self.minute_slots, self.minute_slot_seconds],
            "exemplars": exemplars.describe(self.exemplars),
            "cells": self.cells,
        }


def _by_hand_labels(statistic: Statistic) -> tuple[str, ...] | None:
    """Labels under which additions by hand stand; None where a statistic cannot be added to by itself."""
    family = FAMILY.get(statistic.family or "")
    if family is None or not family.joint or not (statistic.match or not family.labels):
        return None
    if statistic.category == "golden_hour":
        return None  # a zone is a property of a request, which also has a strategy
    match = dict(statistic.match)
    return tuple(match.get(label.name, "none") for label in family.labels)

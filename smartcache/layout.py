"""Where each number of the catalogue lies in a process's metrics memory.

The memory is a row of 8-byte cells: counts, which are whole numbers and only grow; sums of seconds, which only grow
too; gauges; the sliding minute; exemplars. Most series have a cell of their own. Requests have a block of joint cells,
by outcome, zone, market, and volatility status with competition: a request is counted by adding one to one cell, and
the families that speak of requests are sums over the block, so they cannot disagree. What they do not tell apart has no
cells of its own, so that there is less to read: a bypass has no market; and of requests that are neither a bypass nor a
fresh hit in memory, which there are fewest of, the judgement is counted beside the block. Judgements need not add up to
the requests, only stay below them; a bypass for panic is the exception.

What lies outside the block is stored after the joint cell, and a process may be killed in between. What the block
counts beyond the buckets of the latency histogram belongs to the bucket +Inf: the histogram's count is that of the
requests whenever it is read, and no bucket ever falls. Where sampling keeps requests out of the histogram, one on its
way into a bucket cannot be told from one on its way past it: then a request counts there once it is in a bucket. The
block is the last of the counts, because memory is read
forwards: what was stored beside it before the reading began is in the block too.

A fresh hit in memory is observed with one store more: a block by zone, duration and age holds both histograms' share of
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, NamedTuple

from smartcache import exemplars
from smartcache.catalogue import (
    AGE_BUCKETS,
    DOMAINS,
    FAMILIES,
    FAMILY,
    REQUEST_BUCKETS,
    STATISTICS,
    STRATEGIES,
    VIX_STATUSES,
    ZONES,
    Family,
    Statistic,
)

__all__ = ["OUTCOME", "OUTCOMES", "Layout", "Outcome", "Series"]


class Outcome(NamedTuple):
    """How a request ended, and what that counts as.

    Attributes:
        lookup: result and tier; None when nothing was looked up.
        judged_jointly: whether its joint cells tell volatility statuses and competitions apart.
    """

    name: str
    strategy: str
    lookup: tuple[str, str] | None = None
    swr: str | None = None
    bypassed_by_vix: bool = False
    stale_on_error: bool = False
    judged_jointly: bool = False


OUTCOMES: Final = (
    Outcome("bypass_panic", "bypass", bypassed_by_vix=True, judged_jointly=True),
    Outcome("bypass_forced", "bypass", judged_jointly=True),
    Outcome("bypass_started", "bypass", judged_jointly=True),
    Outcome("fresh_memory", "serve_fresh", ("hit_fresh", "memory"), "served_fresh", judged_jointly=True),
    Outcome("fresh_store", "serve_fresh", ("hit_fresh", "store"), "served_fresh"),
    Outcome("stale_memory", "serve_stale", ("hit_stale", "memory"), "served_stale"),
    Outcome("stale_store", "serve_stale", ("hit_stale", "store"), "served_stale"),
    Outcome("error_memory", "serve_stale", ("hit_stale", "memory"), "served_stale", stale_on_error=True),
    Outcome("error_store", "serve_stale", ("hit_stale", "store"), "served_stale", stale_on_error=True),
    Outcome("absent", "compute", ("miss", "none")),
    Outcome("too_stale", "compute", ("miss", "none"), "too_stale"),
)

OUTCOME: Final[Mapping[str, Outcome]] = {outcome.name: outcome for outcome in OUTCOMES}

#: Added to every configured domain: nothing to say, and outside the set.
_ADDED: Final = ("none", "other")


@dataclass(frozen=True, slots=True)
class Series:
    """One series and where it lies.

    Attributes:
        family: family name.
        values: label values, in the family's order; none where the cell says which state the process is in.
        cell: its cell; of a histogram the first of its bucket counts (the last is +Inf), of a family of states the
            one that holds the state's place among the label's values, counted from 1; 0 is none of them.
        total: cell of a histogram's sum; None for other kinds.
    """

    family: str
    values: tuple[str, ...]
    cell: int
    total: int | None = None


class Layout:
    """The cells of a process's metrics memory.

    Args:
        domains: values of the label domains that configuration fills (:data:`catalogue.DOMAINS`). "none" and "other"
            are added to each.

    Raises:
        ValueError: a value that is not printable text; one that cannot be written would cost every page.
    """

    def __init__(self, domains: Mapping[str, Sequence[str]]) -> None:
        self.domains: Final[Mapping[str, tuple[str, ...]]] = {
            name: tuple(dict.fromkeys(value for value in domains.get(name, ()) if value not in _ADDED)) + _ADDED
            for name in DOMAINS
        }
        for name, values in self.domains.items():
            if not all(isinstance(value, str) and value.isprintable() for value in values):
                raise ValueError(f"the values of {name} must be printable texts, got {values!r}")
        recorded = [
            (family, values)
            for family in FAMILIES
            if not family.by_exporter and not family.joint
            for values in self._label_sets(family)
        ]
        #: Whether sampling has ever been on, so that the latency histogram may hold fewer than the requests.
        self.thinned: Final = 0
        cell = 1
        counted: list[tuple[Family, tuple[str, ...], int]] = []
        for family, values in recorded:
            if family.kind != "gauge":
                counted.append((family, values, cell))
                cell += len(family.buckets) + 1 if family.buckets else 1
        #: Cells for what callers add by hand to a statistic whose family is a sum over the joint block.
        self.by_hand: Final[dict[str, Series]] = {}
        for statistic in STATISTICS:
            labels = _by_hand_labels(statistic)
            if labels is not None:
                self.by_hand[statistic.name] = Series(str(statistic.family), labels, cell)
                cell += 1
        #: By strategy, a cell for the requests that sampling kept out of the latency histogram.
        self.unsampled: Final = cell
        #: First cell of the fresh hits: by zone, by latency bucket (after +Inf: not sampled), by age bucket.
        self.hits: Final = cell + len(STRATEGIES)
        #: First cell of the judgements beside the joint block: by status, by competition.
        self.judgements: Final = self.hits + len(ZONES) * (len(REQUEST_BUCKETS) + 2) * (len(AGE_BUCKETS) + 1)
        judgements = len(VIX_STATUSES) * len(self.domains["competition"])
        #: First cell of the joint block.
        self.joint: Final = self.judgements + judgements
        cell = self.joint
        #: By outcome, its first joint cell, and the steps from zone to zone and from market to market.
        self.blocks: Final[list[tuple[int, int, int]]] = []
        for outcome in OUTCOMES:
            row = 1 + judgements if outcome.judged_jointly else 1
            markets = len(self.domains["market"]) if outcome.lookup else 1
            self.blocks.append((cell, row * markets, row if outcome.lookup else 0))
            cell += row * markets * len(ZONES)
        #: How many cells hold counts; they come first.
        self.counts: Final = cell
        self.series: Final[dict[tuple[str, tuple[str, ...]], Series]] = {}
        for family, values, first in counted:
            total = None
            if family.buckets:
                total = cell
                cell += 1
            self.series[family.name, values] = Series(family.name, values, first, total)
        #: First cell after the sums.
        self.sums: Final = cell
        for family, values in recorded:
            if family.kind == "gauge":
                self.series[family.name, values] = Series(family.name, values, cell)
                cell += 1
        #: The sliding minute: per slot its number, its slowest and its fastest request.
        self.minute: Final = cell
        self.minute_slots: Final = 13
        self.minute_slot_seconds: Final = 5
        #: First cell of the exemplars.
        self.exemplars: Final = self.minute + 3 * self.minute_slots
        self.cells: Final = self.exemplars + exemplars.CELLS

    def _label_sets(self, family: Family) -> Iterable[tuple[str, ...]]:
        if family.combine == "states":
            return [()]
        return product(*(self.values_of(family, label.name) for label in family.labels))

    def values_of(self, family: Family, label: str) -> tuple[str, ...]:
        """The allowed values of a label."""
        values = family.label(label).values
        return self.domains[values] if isinstance(values, str) else values

    def find(self, family_name: str, labels: Mapping[str, str]) -> Series:
        """The series with these labels, none for a family of states; a value outside a configured domain is "other".

        Raises:
            KeyError: no such family, or one that is not recorded series by series.
            ValueError: labels missing, unknown, or outside a fixed set.
        """
        family = FAMILY.get(family_name)
        if family is None or family.by_exporter or family.joint:
            raise KeyError(f"no metric {family_name!r} can be recorded by itself; the catalogue lists those that can")
        names = [] if family.combine == "states" else [label.name for label in family.labels]
        if set(labels) != set(names):
            raise ValueError(f"{family_name} takes the labels {names}, got {sorted(labels)}")
        values = []
        for name in names:
            label = family.label(name)
            value, allowed = labels[name], self.values_of(family, name)
            if value not in allowed:
                if not isinstance(label.values, str):
                    raise ValueError(f"{family_name}: {label.name}={value!r} is none of {', '.join(allowed)}")
                value = "other"
            values.append(value)
        return self.series[family_name, tuple(values)]

    def cells_of(
        self,
        outcome: str,
        zone: str | None = None,
        market: str | None = None,
        status: str | None = None,
        competition: str | None = None,
    ) -> tuple[int, ...]:
        """The cells in which a request counts, its joint cell first.

        None is "none", and a value outside a configured domain is "other".
        """
        number = [known.name for known in OUTCOMES].index(outcome)
        first, zone_step, market_step = self.blocks[number]
        joint = first + zone_step * ZONES.index(zone or "none") + market_step * self.place("market", market)
        if status is None or status == "none":
            return (joint,)
        judgement = self.judgement(status, competition)
        return (joint + 1 + judgement,) if OUTCOMES[number].judged_jointly else (joint, self.judgements + judgement)

    def place(self, domain: str, value: str | None) -> int:
        """Where a value stands in a configured domain; None is "none", and one outside it is "other"."""
        values = self.domains[domain]
        return values.index("none" if value is None else value if value in values else "other")

    def judgement(self, status: str, competition: str | None) -> int:
        """Where a volatility status with a competition stands among the judgements."""
        return VIX_STATUSES.index(status) * len(self.domains["competition"]) + self.place("competition", competition)

    def describe(self) -> dict[str, Any]:
        """The layout as plain data, written into each file so that any exporter can read it."""
        return {
            "counts": self.counts,
            "sums": self.sums,
            "thinned": self.thinned,
            "unsampled": self.unsampled,
            "hits": {"cell": self.hits, "zones": list(ZONES)},
            "judgements": {
                "cell": self.judgements,
                "statuses": list(VIX_STATUSES),
                "competitions": list(self.domains["competition"]),
            },
            "joint": {
                "outcomes": [
                    [outcome.name, block[0], outcome.judged_jointly]
                    for outcome, block in zip(OUTCOMES, self.blocks, strict=True)
                ],
                "zones": list(ZONES),
                "markets": list(self.domains["market"]),
            },
            "buckets": {name: list(family.buckets) for name, family in FAMILY.items() if family.buckets},
            "series": [
                [s.family, list(s.values), s.cell, s.total] for s in (*self.series.values(), *self.by_hand.values())
            ],
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

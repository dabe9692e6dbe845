"""Reading metrics memory: from cells to samples, from samples to the 35 statistics."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from operator import add, le
from typing import Any, Final, NamedTuple

from smartcache.catalogue import FAMILY, STATISTIC, STATISTICS, STRATEGIES
from smartcache.layout import OUTCOME

__all__ = [
    "TICK", "Decoder", "HistogramValue", "Samples", "Snapshot", "Totals", "add_up", "derive", "grew", "sorted_anew",
    "ticks", "totals",
]  # fmt: skip

#: Sums of seconds are added up as whole numbers of this part of a second, exactly: floats lose a last bit that depends
#: on the order, and a sum that steps back by that bit reads as a counter that began anew.
TICK: Final = 2**100


def ticks(seconds: float) -> int:
    """Seconds in ticks.

    Raises:
        OverflowError, ValueError: not finite.
    """
    return int(seconds * TICK)


class HistogramValue(NamedTuple):
    """Counts per bucket (not cumulative, the last is +Inf) and the sum of what was observed, in ticks."""

    counts: tuple[int, ...]
    ticks: int

    @property
    def total(self) -> float:
        """The sum in the family's unit."""
        return self.ticks / TICK


#: family name to label values to value.
Samples = dict[str, dict[tuple[str, ...], Any]]

_LATENCY: Final = "smartcache_request_duration_seconds"
_AGE: Final = "smartcache_served_age_seconds"
_SLOWEST: Final = "smartcache_request_duration_max_seconds"
_FASTEST: Final = "smartcache_request_duration_min_seconds"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the memory of one process, or of several added up, said at one moment.

    Attributes:
        samples: counters, gauges and histograms. Families that are absent when idle may have none.
    """

    samples: Samples

    @property
    def slowest(self) -> float | None:
        """Slowest request in seconds of the last minute; None without traffic."""
        return self.samples.get(_SLOWEST, {}).get(())

    @property
    def fastest(self) -> float | None:
        """Fastest request in seconds of the last minute; None without traffic."""
        return self.samples.get(_FASTEST, {}).get(())


class Decoder:
    """What the cells of one layout mean, worked out once for all memories that have it.

    Args:
        description: :meth:`Layout.describe` of the process that wrote them; families and label sets that only another
            version knows are left out.

    Attributes:
        counts: cells before this one are counts.
        sums: cells from there to this one are sums of seconds; gauges and the minute follow.
        cells: how many there are.
        familiar: whether nothing of it was left out or has other bucket edges here.

    Raises:
        KeyError, TypeError, ValueError: it describes no layout, or one whose requests cannot be understood.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.counts: Final[int] = description["counts"]
        self.sums: Final[int] = description["sums"]
        self.cells: Final[int] = description["cells"]
        #: Where the exemplars lie; None in memories of a version that had none.
        self.exemplars: Final[Mapping[str, Any] | None] = description.get("exemplars")
        buckets, joint, judgements = description["buckets"], description["joint"], description["judgements"]
        #: The count that says whether sampling has ever been on; None in memories of a version that did not say.
        self.thinned: Final[int | None] = description.get("thinned")
        self._unsampled: Final[int] = description["unsampled"]
        self._hits: Final[int] = description["hits"]["cell"]
        self._hit_zones: Final[list[str]] = description["hits"]["zones"]
        self._durations: Final = len(buckets[_LATENCY]) + 2
        self._ages: Final = len(buckets[_AGE]) + 1
        self._outcomes: Final = [(OUTCOME[name], cell, jointly) for name, cell, jointly in joint["outcomes"]]
        self._zones: Final[list[str]] = joint["zones"]
        self._markets: Final[list[str]] = joint["markets"]
        self._judged: Final[int] = judgements["cell"]
        self._judgements: Final = [*product(judgements["statuses"], judgements["competitions"])]
        first, *self._minute = description["minute"]
        self._first_slot: Final[int] = first - self.sums
        self._counters: Final[list[tuple[str, tuple[str, ...], int]]] = []
        self._gauges: Final[list[tuple[str, tuple[str, ...], int]]] = []
        self._states: Final[list[tuple[str, int]]] = []
        self._histograms: Final[list[tuple[str, tuple[str, ...], int, int, list[float]]]] = []
        self.familiar = True
        for name, values, cell, total in description["series"]:
            family, labels = FAMILY.get(name), tuple(values)
            if family is not None and family.combine == "states" and not labels:
                self._states.append((name, cell - self.sums))
            elif family is None or len(labels) != len(family.labels):
                self.familiar = False
            elif family.kind == "counter":
                self._counters.append((name, labels, cell))
            elif family.kind == "gauge":
                self._gauges.append((name, labels, cell - self.sums))
            elif name == _LATENCY and labels[0] not in STRATEGIES:
                raise ValueError(f"requests of an unknown strategy, {labels[0]!r}")
            else:
                self._histograms.append((name, labels, cell, total, buckets[name]))
                self.familiar &= tuple(buckets[name]) == family.buckets

    def decode(self, cells: bytes, now: float) -> Snapshot:
        """All samples of one memory image.

        Args:
            cells: the image, 8 bytes a cell.
            now: as for :meth:`current`.
        """
        counts = memoryview(cells).cast("q")[: self.counts].tolist()
        sums = [ticks(total) for total in memoryview(cells).cast("d")[self.counts : self.sums]]
        return Snapshot(self.accumulated(counts, sums) | self.current(cells[8 * self.sums :], now))

    def accumulated(self, counts: Sequence[int], sums: Sequence[int]) -> Samples:
        """Counters and histograms: what is left when a process has ended, and what processes add up to.

        Args:
            counts: the counts, of one memory or of several added cell by cell, thinned ones apart from others.
            sums: the sums in ticks, likewise.
        """
        samples: Samples = defaultdict(dict)
        for name, labels, cell in self._counters:
            family_samples = samples[name]
            family_samples[labels] = family_samples.get(labels, 0) + counts[cell]
        committed = self._add_joint(samples, counts)
        latencies, ages, unsampled = self._observations_of_hits(counts)
        thinned = self.thinned is not None and counts[self.thinned] > 0
        for name, labels, cell, total, edges in self._histograms:
            buckets = counts[cell : cell + len(edges) + 1]
            if name == _AGE and labels[0] in ages:
                buckets = [*map(add, buckets, ages[labels[0]])]
            elif name == _LATENCY:
                strategy = labels[0]
                missing = committed[strategy] - counts[self._unsampled + STRATEGIES.index(strategy)]
                if strategy == "serve_fresh":
                    buckets = [*map(add, buckets, latencies)]
                    missing -= unsampled
                missing -= sum(buckets)
                if missing > 0 and not thinned:  # committed, and not sorted into a bucket; see the layout
                    buckets = [*buckets[:-1], buckets[-1] + missing]
            samples[name][labels] = HistogramValue(
                sorted_anew(buckets, edges, FAMILY[name].buckets), sums[total - self.counts]
            )
        return samples

    def current(self, cells: bytes, now: float) -> Samples:
        """Gauges, and the extremes of the last minute.

        Args:
            cells: the cells of one memory after the sums.
            now: the monotonic clock, for the sliding minute and for gauges that hold an instant.
        """
        floats = memoryview(cells).cast("d")
        samples: Samples = defaultdict(dict)
        for name, labels, cell in self._gauges:
            family = FAMILY[name]
            value = floats[cell]
            if not family.absent_when_idle:
                samples[name][labels] = value
            elif family.elapsed and value:
                samples[name][labels] = max(0.0, now - value)
        for name, cell in self._states:
            (label,) = FAMILY[name].labels
            for place, state in enumerate(label.values, start=1):
                samples[name][state,] = float(floats[cell] == place)
        slots, seconds = self._minute
        numbers = memoryview(cells).cast("q")
        newest = int(now // seconds) + 1
        recent = [
            cell
            for cell in range(self._first_slot, self._first_slot + 3 * slots, 3)
            if max(0, newest - 60 // seconds) < numbers[cell] <= newest and floats[cell + 1] >= 0
        ]
        if recent:
            samples[_SLOWEST] = {(): max(floats[cell + 1] for cell in recent)}
            samples[_FASTEST] = {(): min(floats[cell + 2] for cell in recent)}
        return samples

    def _observations_of_hits(self, counts: Sequence[int]) -> tuple[list[int], dict[str, list[int]], int]:
        """Fresh hits by latency bucket, by zone and age bucket, and how many sampling kept out of the former."""
        durations = [0] * self._durations
        ages = {}
        start = self._hits
        for zone in self._hit_zones:
            end = start + self._durations * self._ages
            for number in range(self._durations):
                durations[number] += sum(counts[start + number * self._ages : start + (number + 1) * self._ages])
            ages[zone] = [sum(counts[start + number : end : self._ages]) for number in range(self._ages)]
            start = end
        return durations[:-1], ages, durations[-1]

    def _add_joint(self, samples: Samples, counts: Sequence[int]) -> Mapping[str, int]:
        """Add up the joint block into its families, and by strategy; each label set is there, if only with 0."""
        committed = dict.fromkeys(STRATEGIES, 0)
        judged = counts[self._judged : self._judged + len(self._judgements)]

        def count_for(family: str, labels: tuple[str, ...], count: int) -> None:
            family_samples = samples[family]
            family_samples[labels] = family_samples.get(labels, 0) + count

        for outcome, cell, jointly in self._outcomes:
            row = 1 + len(self._judgements) if jointly else 1
            markets = len(self._markets) if outcome.lookup else 1
            end = cell + row * markets * len(self._zones)
            rows = counts[cell:end]
            if row > 1:
                rows = [sum(rows[first : first + row]) for first in range(0, len(rows), row)]
            for number, zone in enumerate(self._zones):
                here = sum(rows[number * markets : (number + 1) * markets])
                count_for("smartcache_requests_total", (outcome.strategy, zone), here)
            if outcome.lookup:
                for number, market in enumerate(self._markets):
                    count_for("smartcache_lookups_total", (*outcome.lookup, market), sum(rows[number::markets]))
            everywhere = sum(rows)
            committed[outcome.strategy] += everywhere
            if outcome.swr:
                count_for("smartcache_swr_evaluations_total", (outcome.swr,), everywhere)
            count_for("smartcache_vix_bypasses_total", (), everywhere if outcome.bypassed_by_vix else 0)
            count_for("smartcache_stale_on_error_served_total", (), everywhere if outcome.stale_on_error else 0)
            if jointly:
                judged = [
                    count + sum(counts[cell + number : end : row]) for number, count in enumerate(judged, start=1)
                ]
        for judgement, count in zip(self._judgements, judged, strict=True):
            count_for("smartcache_vix_evaluations_total", judgement, count)
        return committed


def sorted_anew(counts: Sequence[int], edges: Sequence[float], into: Sequence[float]) -> tuple[int, ...]:
    """Bucket counts under the edges of this version, if another one wrote them: each goes to the next edge up."""
    if tuple(edges) == into:
        return tuple(counts)
    anew = [0] * (len(into) + 1)
    for edge, count in zip((*edges, float("inf")), counts, strict=True):
        anew[bisect_left(into, edge)] += count
    return tuple(anew)


def add_up(parts: Iterable[Samples]) -> Snapshot:
    """One snapshot of many processes, each family combined as the catalogue says, exactly and in any order."""
    merged: Samples = defaultdict(dict)
    for part in parts:
        for name, samples in part.items():
            family = FAMILY[name]
            into = merged[name]
            for labels, value in samples.items():
                held = into.get(labels)
                if held is None:
                    into[labels] = value
                elif family.kind == "histogram":
                    into[labels] = HistogramValue(tuple(map(add, held.counts, value.counts)), held.ticks + value.ticks)
                elif family.combine in ("sum", "states"):
                    into[labels] = held + value
                else:
                    into[labels] = max(held, value) if family.combine == "max" else min(held, value)
    return Snapshot(dict(merged))


def grew(before: Samples, after: Samples) -> bool:
    """Whether no counter and no histogram of ``before`` is less, or gone, in ``after``."""

    def least(held: Any, value: Any) -> bool:
        if isinstance(held, HistogramValue):
            return (
                isinstance(value, HistogramValue)
                and held.ticks <= value.ticks
                and all(map(le, held.counts, value.counts))
            )
        return held <= value  # type: ignore[no-any-return]

    return all(
        labels in after.get(name, {}) and least(held, after[name][labels])
        for name, samples in before.items()
        for labels, held in samples.items()
    )


class Totals(NamedTuple):
    """What the statistics are derived from; two of them can be subtracted."""

    counts: dict[str, float]
    latency_sum: float
    latency_count: int


def totals(samples: Samples) -> Totals:
    """Counted statistics by name, and the latency histogram's sum (seconds) and count."""
    counts: dict[str, float] = {}
    for statistic in STATISTICS:
        family = FAMILY.get(statistic.family or "")
        if family is None or family.kind != "counter":
            continue
        names = [label.name for label in family.labels]
        wanted = [(names.index(name), value) for name, value in statistic.match]
        counts[statistic.name] = sum(
            count
            for labels, count in samples.get(family.name, {}).items()
            if all(labels[position] == value for position, value in wanted)
        )
    histograms = samples.get("smartcache_request_duration_seconds", {}).values()
    return Totals(counts, sum(h.total for h in histograms), sum(sum(h.counts) for h in histograms))


def derive(
    now: Totals, baseline: Mapping[str, Totals], slowest: float | None, fastest: float | None
) -> dict[str, float]:
    """All 35 statistics, counted from a baseline per category; derived ones are 0 while nothing was counted.

    Args:
        now: present totals.
        baseline: category to the totals at its last reset; none for a category means since the start.
        slowest: slowest request in seconds, None without traffic.
        fastest: fastest request in seconds, None without traffic.
    """
    stats: dict[str, float] = {}
    for name, count in now.counts.items():
        base = baseline.get(STATISTIC[name].category)
        stats[name] = count - (base.counts[name] if base else 0)
    latency = baseline.get("performance")
    latency_sum = now.latency_sum - (latency.latency_sum if latency else 0.0)
    latency_count = now.latency_count - (latency.latency_count if latency else 0)

    def percent(part: float, *others: float) -> float:
        return 100.0 * part / whole if (whole := part + sum(others)) else 0.0

    hits = stats["cache_hit_fresh"] + stats["cache_hit_stale"]
    stats["hit_rate_pct"] = percent(hits, stats["cache_miss"])
    stats["vix_panic_rate_pct"] = percent(
        stats["vix_panic_detected"], stats["vix_warning_detected"], stats["vix_normal"]
    )
    stats["golden_hour_total"] = sum(
        stats[f"golden_hour_{zone}"] for zone in ("warmup", "golden", "active", "prematch", "standard")
    )
    stats["avg_cpu_saved_pct"] = percent(stats["markets_preserved"], stats["markets_affected_logical"])
    stats["avg_latency_ms"] = 1000 * latency_sum / latency_count if latency_count else 0.0
    stats["max_latency_ms"] = 1000 * (slowest or 0.0)
    stats["min_latency_ms"] = 1000 * (fastest or 0.0)
    return {statistic.name: stats[statistic.name] for statistic in STATISTICS}

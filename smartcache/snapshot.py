"""Reading metrics memory: from cells to samples, from samples to the 35 statistics."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from operator import add
from typing import Any, Final, NamedTuple

from smartcache.catalogue import FAMILY, STATISTIC, STATISTICS
from smartcache.layout import OUTCOME

__all__ = ["HistogramValue", "Samples", "Snapshot", "Totals", "add_up", "decode", "derive", "totals"]

_INT: Final = "q"
_FLOAT: Final = "d"


class HistogramValue(NamedTuple):
    """Counts per bucket (not cumulative, the last is +Inf) and the sum of what was observed."""

    counts: tuple[int, ...]
    total: float


#: family name to label values to value.
Samples = dict[str, dict[tuple[str, ...], Any]]


_ALL_ONES: Final = 2**64 - 1
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

    def accumulated(self) -> Snapshot:
        """What is left of it when the process has ended: counters and histograms."""
        return Snapshot({name: samples for name, samples in self.samples.items() if FAMILY[name].kind != "gauge"})


def decode(cells: bytes, description: Mapping[str, Any], now: float) -> Snapshot:
    """Samples of a memory image.

    Args:
        cells: the image, 8 bytes a cell.
        description: :meth:`Layout.describe` of the process that wrote it.
        now: the monotonic clock, for the sliding minute and for gauges that hold an instant.
    """
    ints = memoryview(cells).cast(_INT)
    floats = memoryview(cells).cast(_FLOAT)
    samples: Samples = defaultdict(dict)
    for family_name, values, cell in description["series"]:
        family = FAMILY.get(family_name)
        if family is None or len(values) != len(family.labels):
            continue  # written by another version; its own exporter knew it
        labels = tuple(values)
        family_samples = samples[family_name]
        if family.kind == "histogram":
            edges = description["buckets"][family_name]
            end = cell + len(edges) + 1
            family_samples[labels] = HistogramValue(_sorted_anew(ints[cell:end], edges, family.buckets), floats[end])
        elif family.kind == "counter":
            family_samples[labels] = family_samples.get(labels, 0) + ints[cell]
        elif not family.absent_when_idle:
            family_samples[labels] = floats[cell]
        elif family.elapsed and floats[cell]:
            family_samples[labels] = max(0.0, now - floats[cell])
    _add_joint(samples, cells, description["joint"])
    _add_last_minute(samples, ints, floats, description["minute"], now)
    return Snapshot(dict(samples))


def _sorted_anew(counts: Sequence[int], edges: list[float], into: Sequence[float]) -> tuple[int, ...]:
    """Bucket counts under the edges of this version, if another one wrote them: each goes to the next edge up."""
    if edges == list(into):
        return tuple(counts)
    anew = [0] * (len(into) + 1)
    for edge, count in zip((*edges, float("inf")), counts, strict=True):
        anew[bisect_left(into, edge)] += count
    return tuple(anew)


def _add_joint(samples: Samples, cells: bytes, joint: Mapping[str, Any]) -> None:
    """Add up the joint block into the families it counts for; every label set it knows is there, if only with 0.

    A stretch of cells is taken as one long number in base 2**64, so that adding two adds them cell by cell (no count
    comes near the size at which it would run into the next cell), and the sum of its cells is what is left of it modulo
    2**64 - 1.
    """
    outcomes, zones, markets, statuses, competitions = joint["axes"]
    row = 8 * len(statuses) * len(competitions)
    block = row * len(markets)

    def count_for(family: str, labels: tuple[str, ...], cells: int) -> None:
        family_samples = samples[family]
        family_samples[labels] = family_samples.get(labels, 0) + cells % _ALL_ONES

    judged = 0
    start = 8 * joint["cell"]
    for name in outcomes:
        outcome = OUTCOME[name]
        everywhere = 0
        for zone in zones:
            here = int.from_bytes(cells[start : start + block], "little")
            start += block
            everywhere += here
            count_for("smartcache_requests_total", (outcome.strategy, zone), here)
        for market, counts in zip(markets, _split(everywhere, len(markets), row), strict=True):
            judged += counts
            if outcome.lookup:
                count_for("smartcache_lookups_total", (*outcome.lookup, market), counts)
        if outcome.swr:
            count_for("smartcache_swr_evaluations_total", (outcome.swr,), everywhere)
        count_for("smartcache_vix_bypasses_total", (), everywhere if outcome.bypassed_by_vix else 0)
        count_for("smartcache_stale_on_error_served_total", (), everywhere if outcome.stale_on_error else 0)
    pairs = [*product(statuses, competitions)]
    for (status, competition), count in zip(pairs, _split(judged, len(pairs), 8), strict=True):
        if status != "none":
            count_for("smartcache_vix_evaluations_total", (status, competition), count)


def _split(number: int, parts: int, size: int) -> list[int]:
    """The long number cut into parts of ``size`` bytes."""
    content = number.to_bytes(parts * size, "little")
    return [int.from_bytes(content[at : at + size], "little") for at in range(0, len(content), size)]


def _add_last_minute(
    samples: Samples, ints: memoryview[int], floats: memoryview[float], minute: Sequence[int], now: float
) -> None:
    first, slots, seconds = minute
    newest = int(now // seconds) + 1
    recent = [
        cell
        for cell in range(first, first + 3 * slots, 3)
        if max(0, newest - 60 // seconds) < ints[cell] <= newest and floats[cell + 1] >= 0
    ]
    if recent:
        samples[_SLOWEST] = {(): max(floats[cell + 1] for cell in recent)}
        samples[_FASTEST] = {(): min(floats[cell + 2] for cell in recent)}


def add_up(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot of many processes, each family combined as the catalogue says.

    The order matters to the last bit of a sum of seconds. Given in an order that does not change, sums of things that
    only grow never step back.
    """
    merged: Samples = defaultdict(dict)
    for snapshot in snapshots:
        for name, samples in snapshot.samples.items():
            family = FAMILY[name]
            into = merged[name]
            for labels, value in samples.items():
                held = into.get(labels)
                if held is None:
                    into[labels] = value
                elif family.kind == "histogram":
                    counts = tuple(map(add, held.counts, value.counts))
                    into[labels] = HistogramValue(counts, held.total + value.total)
                elif family.combine == "sum":
                    into[labels] = held + value
                else:
                    into[labels] = max(held, value) if family.combine == "max" else min(held, value)
    return Snapshot(dict(merged))


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

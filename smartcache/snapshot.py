"""Reading metrics memory: from cells to samples, from samples to the 35 statistics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, Final, NamedTuple

from smartcache.catalogue import FAMILY, STATISTIC, STATISTICS
from smartcache.layout import projections

__all__ = ["HistogramValue", "Samples", "Snapshot", "Totals", "add_up", "decode", "derive", "totals"]

_INT: Final = "q"
_FLOAT: Final = "d"


class HistogramValue(NamedTuple):
    """Counts per bucket (not cumulative, the last is +Inf) and the sum of what was observed."""

    counts: tuple[int, ...]
    total: float


#: family name to label values to value.
Samples = dict[str, dict[tuple[str, ...], Any]]


class Snapshot(NamedTuple):
    """What one process's memory said at one moment.

    Attributes:
        samples: counters, gauges and histograms.
        slowest: slowest request in seconds of the last minute; None without traffic.
        fastest: fastest request in seconds of the last minute; None without traffic.
    """

    samples: Samples
    slowest: float | None
    fastest: float | None


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
        if family is None:
            continue  # written by another version; its own exporter knew it
        labels = tuple(values)
        family_samples = samples[family_name]
        if family.kind == "histogram":
            end = cell + len(family.buckets) + 1
            family_samples[labels] = HistogramValue(tuple(ints[cell:end]), floats[end])
        elif family.kind == "gauge":
            value = floats[cell]
            if family.elapsed:
                if value:
                    family_samples[labels] = max(0.0, now - value)
            else:
                family_samples[labels] = value
        else:
            family_samples[labels] = family_samples.get(labels, 0) + ints[cell]
    _add_joint(samples, cells, ints, description["joint"])
    slowest, fastest = _last_minute(ints, floats, description["minute"], now)
    return Snapshot(dict(samples), slowest, fastest)


def _add_joint(samples: Samples, cells: bytes, ints: memoryview[int], joint: Mapping[str, Any]) -> None:
    """Add the joint block's cells to the families they count for, skipping the blocks that are all zero."""
    outcomes, zones, markets, statuses, competitions = joint["axes"]
    rows = [(status, competition) for status in statuses for competition in competitions]
    row = len(rows)
    zeros = bytes(8 * row)
    cell = joint["cell"]
    for outcome, zone, market in product(outcomes, zones, markets):
        if cells[8 * cell : 8 * (cell + row)] != zeros:
            for (status, competition), count in zip(rows, ints[cell : cell + row], strict=True):
                if count:
                    for family, labels in projections(outcome, zone, market, status, competition):
                        family_samples = samples[family]
                        family_samples[labels] = family_samples.get(labels, 0) + count
        cell += row


def _last_minute(
    ints: memoryview[int], floats: memoryview[float], minute: Iterable[int], now: float
) -> tuple[float | None, float | None]:
    first, slots, seconds = minute
    newest = int(now // seconds)
    recent = [
        cell
        for cell in range(first, first + 3 * slots, 3)
        if newest - 60 // seconds < ints[cell] <= newest and ints[cell]
    ]
    if not recent:
        return None, None
    return max(floats[cell + 1] for cell in recent), min(floats[cell + 2] for cell in recent)


def add_up(live: Iterable[Snapshot], dead: Iterable[Snapshot] = ()) -> Snapshot:
    """One snapshot of many processes. Of dead ones only what accumulates counts: counters and histograms."""
    merged: Samples = defaultdict(dict)
    slowest: list[float] = []
    fastest: list[float] = []
    for snapshot, alive in [*((one, True) for one in live), *((one, False) for one in dead)]:
        for name, samples in snapshot.samples.items():
            family = FAMILY[name]
            if family.kind == "gauge" and not alive:
                continue
            into = merged[name]
            for labels, value in samples.items():
                held = into.get(labels)
                if held is None:
                    into[labels] = value
                elif family.kind == "histogram":
                    counts = tuple(a + b for a, b in zip(held.counts, value.counts, strict=True))
                    into[labels] = HistogramValue(counts, held.total + value.total)
                elif family.combine == "sum":
                    into[labels] = held + value
                else:
                    into[labels] = max(held, value) if family.combine == "max" else min(held, value)
        if alive and snapshot.slowest is not None and snapshot.fastest is not None:
            slowest.append(snapshot.slowest)
            fastest.append(snapshot.fastest)
    return Snapshot(dict(merged), max(slowest, default=None), min(fastest, default=None))


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

"""What a load process counts: every request, and latencies at microsecond resolution.

Locust's own percentiles are rounded to whole milliseconds and, above 100 ms, to tens; cache hits take less than one.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from hdrh.histogram import HdrHistogram

#: Latencies: one microsecond to two minutes, three significant digits.
_LOWEST: Final = 1
_HIGHEST: Final = 120_000_000
_DIGITS: Final = 3

#: What a latency belongs to: served from a cache, computed, or the generator's own delay in running its loop.
SERIES: Final = ("hit", "miss", "loop_lag")


def _histogram() -> HdrHistogram:
    return HdrHistogram(_LOWEST, _HIGHEST, _DIGITS)


class Recorder:
    """Counts and latency histograms that can be sent on as deltas and merged.

    Counts, by name:
        ``sent``, ``answered``, ``failed`` (no answer that could be read), ``reopened``: every request;
        ``judged_answered``, ``judged_failed``, ``judged_5xx``, ``judged_not_200``: those of the judged window;
        ``code_<status>``: answers by status code.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.latencies: dict[str, HdrHistogram] = {name: _histogram() for name in SERIES}

    def observe(self, series: str, seconds: float) -> None:
        """Record a duration; longer than the histogram's range counts as its end."""
        self.latencies[series].record_value(min(max(int(seconds * 1e6), _LOWEST), _HIGHEST))

    def quantile(self, series: tuple[str, ...], quantile: float) -> float | None:
        """Quantile (0 to 1) in seconds of several series together; None without values."""
        merged = _histogram()
        for name in series:
            merged.add(self.latencies[name])
        if merged.get_total_count() == 0:
            return None
        return float(merged.get_value_at_percentile(quantile * 100)) / 1e6

    def drain(self) -> dict[str, Any]:
        """Everything since the last drain, as plain data that :meth:`merge` takes."""
        drained = self.dump()
        self.counts.clear()
        for histogram in self.latencies.values():
            histogram.reset()
        return drained

    def dump(self) -> dict[str, Any]:
        """Counts and encoded histograms as plain data; histograms in the HdrHistogram V2 format."""
        return {
            "counts": dict(self.counts),
            "latencies": {name: histogram.encode().decode() for name, histogram in self.latencies.items()},
        }

    def merge(self, dumped: dict[str, Any]) -> None:
        """Add what another recorder dumped or drained."""
        self.counts.update(dumped["counts"])
        for name, encoded in dumped["latencies"].items():
            self.latencies[name].decode_and_add(encoded)

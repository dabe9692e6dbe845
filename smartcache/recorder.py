"""What every request writes: the hot path of counting.

Cells are reached by plain indices, nothing is looked up by name, and a fresh hit is counted by one call.

Several threads may record at once. In CPython a cell's ``cells[i] += 1`` is a load, an add and a store, between which
the interpreter never hands over the GIL (it does so at function entry, after calls and at backward jumps), so no count
is lost and no lock is needed. ``tests/smartcache/test_metrics.py`` holds this to account.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from smartcache.catalogue import AGE_BUCKETS, REQUEST_BUCKETS, STRATEGIES, ZONES
from smartcache.layout import Layout, Series

__all__ = ["Recorder"]

_FRESH: Final = STRATEGIES.index("serve_fresh")
_INFINITY: Final = float("inf")
# The buckets in which nearly all hits end up: comparing with their edges one by one costs less than calling a search.
_LATENCY_0, _LATENCY_1, _LATENCY_2 = REQUEST_BUCKETS[:3]
_AGE_0, _AGE_1, _AGE_2, _AGE_3, _AGE_4, _AGE_5, _AGE_6, _AGE_7 = AGE_BUCKETS[:8]
# From one latency bucket to the next in the block of fresh hits.
_STEP: Final = len(AGE_BUCKETS) + 1
_UNSAMPLED: Final = (len(REQUEST_BUCKETS) + 1) * _STEP


class Recorder:
    """Counts requests in the memory that it is bound to.

    A request counts from its store into its joint cell on. A kill may cut off the stores after that one: the latency's
    bucket and sum, the age at serve. :mod:`smartcache.layout` says why the histogram's count is right even then.

    Args:
        on_time: called before a request counts that is the first in a slot of the minute, or at or after the alarm.

    Attributes:
        rate: share of requests that the latency histogram counts.
        slowest: slowest request in seconds since :meth:`forget_extremes`; -1 without any.
        fastest: the fastest; infinite without any.
    """

    __slots__ = (
        "_alarm", "_floats", "_fresh_total", "_high", "_hits", "_ints", "_latency", "_layout", "_low", "_on_time",
        "_owed", "_owed_hits", "_slot", "_slot_end", "_until", "fastest", "rate", "slowest",
    )  # fmt: skip

    def __init__(self, on_time: Callable[[], None]) -> None:
        self._on_time: Final = on_time
        self._alarm = _INFINITY
        self._slot_end = self._until = 0.0
        self._latency: list[tuple[int, int, int]] = []
        self.sample(1.0)
        self.forget_extremes()

    def bind(self, ints: memoryview[int], floats: memoryview[float], layout: Layout, now: float) -> None:
        """Count in this memory from now on, the monotonic clock being ``now``."""
        self._ints = ints
        self._floats = floats
        self._layout = layout
        self._latency = [
            (*_places(layout.series["smartcache_request_duration_seconds", (strategy,)]), layout.unsampled + number)
            for number, strategy in enumerate(STRATEGIES)
        ]
        self._fresh_total = self._latency[_FRESH][1]
        self._hits = {
            zone: (layout.hits + number * (_UNSAMPLED + _STEP), total)
            for number, zone in enumerate(ZONES)
            for _, total in [_places(layout.series["smartcache_served_age_seconds", (zone,)])]
        }
        self._slot_end = 0.0
        self._open_slot(now)
        self.sample(self.rate)

    def sample(self, rate: float) -> None:
        """Let the latency histogram count this share of requests, in (0, 1].

        The same share of every bucket is counted, so quantiles hardly move: each request adds the rate to what its
        bucket is owed, and one is counted whenever that makes a whole.
        """
        self.rate = rate
        numbers = range(len(REQUEST_BUCKETS) + 1)
        # Half of one at the beginning: what is counted is what is due, rounded.
        cells = [first + number for first, _, _ in self._latency for number in numbers]
        self._owed = dict.fromkeys(cells, 0.5) if rate < 1 else None
        self._owed_hits = dict.fromkeys((_STEP * number for number in numbers), 0.5) if rate < 1 else None

    def set_alarm(self, instant: float) -> None:
        """Set or move the alarm to an instant of the monotonic clock."""
        self._alarm = instant
        self._until = min(self._slot_end, instant)

    def forget_extremes(self) -> None:
        """Begin ``slowest`` and ``fastest`` anew; the exported minute keeps its own."""
        self.slowest = self._high = -1.0
        self.fastest = self._low = _INFINITY

    def fresh_hit(self, cell: int, zone: str, age: float, start: float, end: float) -> None:
        """Count a request served a fresh value from memory: :meth:`request` and the age in one call.

        Args:
            cell: its joint cell, the only one of :meth:`Layout.cells_of`.
            zone: name of the zone, or "none".
            age: of the value, in seconds.
            start: the monotonic clock when it was asked.
            end: the same when it was answered.
        """
        seconds = end - start
        if not self._low <= seconds <= self._high or end >= self._until:
            self._widen(seconds, end)
        ints = self._ints
        floats = self._floats
        ints[cell] += 1
        # fmt: off
        bucket = (
            0 if seconds <= _LATENCY_0 else _STEP if seconds <= _LATENCY_1 else _STEP + _STEP if seconds <= _LATENCY_2
            else _STEP * bisect_left(REQUEST_BUCKETS, seconds)
        )
        age_bucket = (
            (0 if age <= _AGE_0 else 1 if age <= _AGE_1 else 2 if age <= _AGE_2 else 3) if age <= _AGE_3
            else (4 if age <= _AGE_4 else 5 if age <= _AGE_5 else 6 if age <= _AGE_6 else 7) if age <= _AGE_7
            else bisect_left(AGE_BUCKETS, age)
        )
        # fmt: on
        if self._owed_hits is None:
            floats[self._fresh_total] += seconds
        else:
            owed = self._owed_hits[bucket] + self.rate
            if owed >= 1:
                self._owed_hits[bucket] = owed - 1
                floats[self._fresh_total] += seconds
            else:
                self._owed_hits[bucket] = owed
                bucket = _UNSAMPLED
        first, total = self._hits[zone]
        ints[first + bucket + age_bucket] += 1
        floats[total] += age

    def request(self, cells: tuple[int, ...], strategy: int, seconds: float, now: float) -> None:
        """Count one request that ended.

        Args:
            cells: those of :meth:`Layout.cells_of`.
            strategy: position of its strategy in ``catalogue.STRATEGIES``.
            seconds: from asking to the answer.
            now: the monotonic clock at its end.
        """
        if not self._low <= seconds <= self._high or now >= self._until:
            self._widen(seconds, now)
        ints = self._ints
        for cell in cells:
            ints[cell] += 1
        bucket, total, unsampled = self._latency[strategy]
        bucket += bisect_left(REQUEST_BUCKETS, seconds)
        if self._owed is not None:
            owed = self._owed[bucket] + self.rate
            if owed < 1:
                self._owed[bucket] = owed
                ints[unsampled] += 1
                return
            self._owed[bucket] = owed - 1
        ints[bucket] += 1
        self._floats[total] += seconds

    def _widen(self, seconds: float, now: float) -> None:
        """Take a request's duration into the extremes, and let only one beyond them come here again."""
        if now >= self._until:
            self._on_time()
            self._open_slot(now)
        # No call from here on, so no thread comes between.
        floats, slot = self._floats, self._slot
        if seconds < floats[slot + 2]:
            floats[slot + 2] = seconds
        if seconds > floats[slot + 1]:
            floats[slot + 1] = seconds  # the last: a slot that has it is taken for full
        if seconds > self.slowest:
            self.slowest = seconds
        if seconds < self.fastest:
            self.fastest = seconds
        high, low = floats[slot + 1], floats[slot + 2]
        self._high = high if high < self.slowest else self.slowest
        self._low = low if low > self.fastest else self.fastest

    def _open_slot(self, now: float) -> None:
        layout, ints, floats = self._layout, self._ints, self._floats
        number = int(now // layout.minute_slot_seconds) + 1  # 0 is a slot never used
        end = float(number * layout.minute_slot_seconds)
        slot = layout.minute + 3 * (number % layout.minute_slots)
        # No call from here on, so no thread comes between; one may have come before, and must keep what it saw.
        if end > self._slot_end:
            ints[slot] = 0  # not to be read while it is being cleared
            floats[slot + 1] = self._high = -1.0
            floats[slot + 2] = self._low = _INFINITY
            ints[slot] = number
            self._slot = slot
            self._slot_end = end
            self._until = end if end < self._alarm else self._alarm


def _places(histogram: Series) -> tuple[int, int]:
    assert histogram.total is not None
    return histogram.cell, histogram.total

"""The replay clock: a chosen moment is "now" when the stack starts, and time runs on from there."""

from __future__ import annotations

import time
from datetime import UTC, datetime

__all__ = ["ReplayClock"]


class ReplayClock:
    """A :class:`smartcache.clock.Clock` whose wall time began at a chosen moment.

    Args:
        at: epoch seconds that were "now" at the origin.
        origin: reading of the machine's monotonic clock at that instant. All processes of a machine read the same
            monotonic clock, so workers that are given the same pair agree on the time.
    """

    __slots__ = ("_offset", "at", "origin")

    def __init__(self, at: float, origin: float) -> None:
        self.at = at
        self.origin = origin
        self._offset = at - origin

    def time(self) -> float:
        """Seconds since the Unix epoch, as replayed."""
        return time.monotonic() + self._offset

    def monotonic(self) -> float:
        """Seconds on the system-wide monotonic clock."""
        return time.monotonic()

    def now(self) -> datetime:
        """The replayed moment, aware, UTC."""
        return datetime.fromtimestamp(self.time(), UTC)

"""Time comes in from outside, so that policies are pure and tests need not wait."""

from __future__ import annotations

import time as machine
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Two readings of now: one that names an instant, one that only ever moves forward."""

    def time(self) -> float:
        """Seconds since the Unix epoch; kickoffs are compared with it."""

    def monotonic(self) -> float:
        """Seconds on a clock that never steps back; ages and durations are measured with it."""


class SystemClock:
    """The machine's own clocks."""

    time = staticmethod(machine.time)
    monotonic = staticmethod(machine.monotonic)

"""When requests are meant to start, whatever the service does.

An open model: slot ``k`` is due at ``start + k / rate``. Users take slots in order; one who takes a slot late, because
everyone was waiting for answers, still counts its latency from the moment the slot was due. A stall of the service
therefore shows in the figures instead of hiding in requests that were never sent (coordinated omission).
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Slot(NamedTuple):
    """One request to make: when it is due, on the monotonic clock, and whether it is judged."""

    due: float
    judged: bool


class Schedule:
    """The slots of one process.

    Args:
        rate: requests per second of this process.
        start: monotonic time of the first slot, in seconds.
        warm_up: seconds at the beginning that are sent but not judged.
        duration: seconds judged after that; None never ends.
    """

    def __init__(self, rate: float, start: float, warm_up: float, duration: float | None) -> None:
        if rate <= 0:
            raise ValueError(f"rate={rate:g}: allowed: above 0")
        self.start = start
        self.judged_from = start + warm_up
        self.end = None if duration is None else self.judged_from + duration
        self._interval = 1 / rate
        self._taken = 0
        self._first_judged = math.ceil(warm_up * rate)

    def take(self, now: float) -> Slot | None:
        """The next slot; None once the last is taken or the end has passed.

        What is still due at the end is not sent, nor is, once judging has begun, what a cold cache held up before.
        """
        if now >= self.judged_from:
            self._taken = max(self._taken, self._first_judged)
        due = self.start + self._taken * self._interval
        if self.end is not None and (due >= self.end or now >= self.end):
            return None
        self._taken += 1
        return Slot(due, self._taken > self._first_judged)

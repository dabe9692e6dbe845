"""A circuit breaker for the store: closed, open, half open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["Breaker"]


class Breaker:
    """Stops asking a store that keeps failing, and lets one probe through now and then.

    Failures are errors and time-outs alike. Closed until ``failures`` in a row, then open for ``seconds``; then one
    caller probes while the others are still turned away. A probe that fails opens it again, for twice as long, up to
    30 times ``seconds``.

    Args:
        failures: failures in a row that open it.
        seconds: how long it stays open at first.
        on_state: called with ``closed``, ``half_open`` or ``open`` when that changes.
    """

    _LONGEST: Final = 30

    def __init__(self, failures: int, seconds: float, on_state: Callable[[str], None] = lambda state: None) -> None:
        self._most_failures = failures
        self._seconds = seconds
        self._on_state = on_state
        self._failures = 0
        self._openings = 0
        self._retry_at = 0.0
        self.state = "closed"
        on_state("closed")

    def allows(self, now: float) -> bool:
        """Whether the store may be asked at ``now`` (monotonic seconds). True must be followed by an outcome."""
        if self.state == "closed":
            return True
        if now < self._retry_at:
            return False
        # The probe; should its outcome never come, another may follow.
        self._retry_at = now + self._seconds
        self._become("half_open")
        return True

    def succeeded(self) -> None:
        """The store answered; to one asked before it opened, that says nothing about now."""
        if self.state == "open":
            return
        self._failures = 0
        if self.state == "half_open":
            self._openings = 0
            self._become("closed")

    def failed(self, now: float) -> None:
        """The store failed or did not answer in time."""
        self._failures += 1
        if self.state == "half_open" or (self.state == "closed" and self._failures >= self._most_failures):
            self._retry_at = now + self._seconds * min(2**self._openings, self._LONGEST)
            self._openings += 1
            self._become("open")

    def _become(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self._on_state(state)

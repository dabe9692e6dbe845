"""A watch over the model: a compute that fails is told in the log even when a held value hides it from the client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from smartcache.clock import Clock

__all__ = ["FAILING_FOR", "LOG_EVERY", "ModelError", "ModelWatch"]

#: Seconds for which a failed compute counts, unless one succeeds after it.
FAILING_FOR: Final = 30.0
#: At most one line in so many seconds, since a failing model fails thousands of times.
LOG_EVERY: Final = 10.0

_log: Final = logging.getLogger(__name__)


class ModelError(Exception):
    """The model failed to give a prediction."""


class ModelWatch:
    """Watches the computes of one process.

    Attributes:
        stopping: set when the process ends: computes that are given up from then on are not the model's failure.
    """

    def __init__(self, clock: Clock) -> None:
        self.stopping = False
        self._clock = clock
        self._failed = float("-inf")
        self._told = float("-inf")
        self._untold = 0

    @property
    def failing(self) -> bool:
        """Whether the last compute failed, and that not long ago."""
        return self._clock.monotonic() - self._failed < FAILING_FOR

    @contextmanager
    def over(self, what: str) -> Iterator[None]:
        """Watch one compute; ``what`` names it in the log."""
        began = self._clock.monotonic()
        try:
            yield
        except asyncio.CancelledError:
            # While the process goes on, only the engine's hard time-out gives up a compute.
            if not self.stopping:
                self._note(f"{what} was given up after {self._clock.monotonic() - began:.2f} s (hard_timeout)")
            raise
        except ModelError as error:
            self._note(f"{what} failed: {error}")
            raise
        except Exception as error:
            self._note(f"{what} failed", error)
            raise
        self._failed = float("-inf")

    def _note(self, failure: str, error: Exception | None = None) -> None:
        self._failed = self._clock.monotonic()
        self._untold += 1
        if self._failed - self._told >= LOG_EVERY:
            # A failure that nobody foresaw comes with its traceback.
            _log.warning("computing %s; failures since the last such line: %d", failure, self._untold, exc_info=error)
            self._told, self._untold = self._failed, 0

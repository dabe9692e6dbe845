"""How late the event loop of a worker is: what blocks it makes every request wait."""

from __future__ import annotations

import asyncio
from typing import Final

from smartcache.clock import Clock
from smartcache.metrics import Histogram

__all__ = ["EVERY", "watch_loop"]

#: Seconds between two looks.
EVERY: Final = 0.1


async def watch_loop(lag: Histogram, clock: Clock) -> None:
    """Observe, for work that is due every :data:`EVERY` seconds, how long it waited for the loop; runs until cancelled.

    A loop that is blocked for long keeps several of these waiting, each shorter than the one before: all are observed,
    so that the histogram shows what requests that come at any moment wait.
    """
    due = clock.monotonic() + EVERY
    while True:
        await asyncio.sleep(due - clock.monotonic())
        now = clock.monotonic()
        while due <= now:
            lag.observe(now - due)
            due += EVERY

"""How late the event loop of a worker is: what blocks it makes every request wait."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from smartcache import CacheMetrics
from smartcache.clock import Clock

__all__ = ["EVERY", "watch_loop"]

#: Seconds between two looks.
EVERY: Final = 0.1
_MINUTE: Final = 60.0


async def watch_loop(metrics: CacheMetrics, worker: int, clock: Clock) -> None:
    """Observe, for work that is due every :data:`EVERY` seconds, how long it waited for the loop; runs until cancelled.

    A loop that is blocked for long keeps several of these waiting, each shorter than the one before: all are observed,
    so that the histogram shows what requests that come at any moment wait.
    """
    lags = metrics.histogram("smartcache_event_loop_lag_seconds")
    longest = metrics.gauge("smartcache_event_loop_lag_max_seconds", worker=str(worker))
    minute: deque[tuple[float, float]] = deque()  # of each look its instant, and the longest wait that it ended
    due = clock.monotonic() + EVERY
    while True:
        await asyncio.sleep(due - clock.monotonic())
        now = clock.monotonic()
        if due <= now:
            minute.append((now, now - due))
        while due <= now:
            lags.observe(now - due)
            due += EVERY
        while minute and minute[0][0] <= now - _MINUTE:
            minute.popleft()
        longest.set(max((lag for _, lag in minute), default=0.0))

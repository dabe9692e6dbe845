"""The odds feed: drawn price changes, handed to the engine as they fall due."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from service.book import PriceBook
from service.clock import ReplayClock
from smartcache import SmartCacheEnhanced

__all__ = ["Progress", "feed_odds"]

#: Seconds between looks at what fell due.
_EVERY: Final = 0.5
#: Seconds of path that are fed at start, so that volatility windows are warm.
_WARM_UP: Final = 1800.0

_log: Final = logging.getLogger("service.feed")


class Progress:
    """How far the ticks on the bus go, in a file, so that a feeder's successor does not tell them twice."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> float | None:
        """Epoch seconds up to which ticks were fed; None before the first."""
        return float(self._file.read_text()) if self._file.exists() else None

    def write(self, fed: float) -> None:
        """Note that ticks were fed up to ``fed``."""
        # Replaced whole: a killed feeder must not leave half a number behind.
        draft = self._file.with_suffix(".new")
        draft.write_text(repr(fed))
        draft.replace(self._file)


async def feed_odds(
    book: PriceBook, cache: SmartCacheEnhanced, clock: ReplayClock, progress: Progress | None = None
) -> None:
    """Feed changes until cancelled, beginning with those of the last half hour, or where ``progress`` stands.

    Args:
        book: the price paths.
        cache: the engine that takes the ticks.
        clock: where now comes from.
        progress: kept by the one process that feeds a bus; a process that feeds itself alone has none.
    """
    fed = progress.read() if progress else None
    if fed is None:
        fed = clock.time() - _WARM_UP
    while True:
        now = clock.time()
        try:
            for instant, market_key, odds in book.changes(fed, now):
                cache.update_vix_snapshot(market_key=market_key, odds=odds, timestamp=instant)
            fed = now
            if progress:
                progress.write(fed)
        except Exception:
            # A feed that stopped would let every window go cold without a word.
            _log.exception("the odds feed failed and tries again")
        await asyncio.sleep(_EVERY)

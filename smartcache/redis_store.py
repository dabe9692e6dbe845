"""The store tier on Valkey or Redis, one server or a cluster: round trips shared by a loop tick, time-outs, breakers.

The reads of all callers in one tick go out as one ``MGET`` to a single server and as one pipeline to each primary of a
cluster; everything else that is asked in the tick goes with them in the same write.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from hashlib import sha1
from typing import Any, Final, Literal, NamedTuple

import msgspec
import redis
from hiredis import pack_command

from smartcache import protocol, tracing
from smartcache.breaker import Breaker
from smartcache.catalogue import STORE_OPERATIONS
from smartcache.clock import Clock
from smartcache.config import CacheConfig
from smartcache.connection import Done, Endpoint, Node, Replies, is_error
from smartcache.errors import ConfigError
from smartcache.metrics import CacheMetrics
from smartcache.protocol import Change, Command, Names
from smartcache.redaction import shown
from smartcache.redis_bus import RedisBus
from smartcache.store import Begun, Handlers, Lease, Reading, Receipt, StoreUnavailableError

__all__ = ["RedisStore"]

Address = tuple[str, int]
_STATES: Final[tuple[Literal["refused", "granted", "value"], ...]] = ("refused", "granted", "value")
#: Longest wait for a lease before asking again, when wake-ups are heard and when they are not. They are a courtesy: one
#: that is lost costs this much.
_HEARING: Final = 0.5
_DEAF: Final = 0.05
#: Shortest wait, so that a lease about to run out is not asked for all the time.
_SHORTEST: Final = 0.005
#: Redirections of one question by a cluster that is moving slots.
_MOST_REDIRECTIONS: Final = 4
_SLOTS: Final = 16_384
#: Seconds before a cluster is asked again who has which slot.
_SLOTS_REST: Final = 0.1
_INDEX_PAGE: Final = 500
_TIME: Final = b"*1\r\n$4\r\nTIME\r\n"
_CLUSTER_SLOTS: Final = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n"
_ASKING: Final = b"*1\r\n$6\r\nASKING\r\n"


def _endpoint(config: CacheConfig, url: str) -> Endpoint:
    """What a URL says, by redis-py's own reading of it.

    Raises:
        ConfigError: redis-py cannot read it.
    """
    try:
        told: Any = redis.asyncio.ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError) as error:
        # What redis-py could not read may be part of a password, and its own words quote it.
        why = "" if "@" in url else f": {error}"
        raise ConfigError(
            f"SMARTCACHE_REDIS_URL is {shown('redis_url', config.redis_url)}, which redis-py cannot use{why}. "
            "Write it as redis://[user:password@]host:port/database, with what is not a letter or digit in a password "
            "percent-encoded"
        ) from None
    greeting = []
    if told.password:
        who = (told.username, told.password) if told.username else (told.password,)
        greeting.append(_pack(("AUTH", *who)))
    if told.db:
        greeting.append(_pack(("SELECT", told.db)))
    tls = getattr(told, "ssl_context", None)
    return Endpoint(
        getattr(told, "host", ""),
        int(getattr(told, "port", 0)),
        getattr(told, "path", ""),
        None if tls is None else tls.get(),
        b"".join(greeting),
        len(greeting),
        told.db,
    )


def _about(server: Endpoint) -> dict[str, str | int]:
    """What spans say about a store, by OpenTelemetry's semantic conventions for Redis."""
    said: dict[str, str | int] = {"db.system.name": "redis", "db.namespace": str(server.database)}
    if server.path:
        return {**said, "server.address": server.path}
    return {**said, "server.address": server.host, "server.port": server.port}


def _about_error(error: BaseException) -> dict[str, str]:
    """What spans say about a store's error, by the same conventions."""
    code = error.code if isinstance(error, StoreUnavailableError) else ""
    return {"db.response.status_code": code} if code else {}


@lru_cache(maxsize=64)
def _digest(script: str) -> str:
    return sha1(script.encode(), usedforsecurity=False).hexdigest()


def _text(raw: bytes | None) -> str | None:
    # A version that somebody else wrote may be anything; it just equals none of ours.
    return raw.decode("utf-8", "replace") if type(raw) is bytes else None


def _stamp(seconds: bytes, micros: bytes) -> str:
    return f"{int(seconds):010d}{int(micros):06d}"


#: A read that waits for its tick to end: key, names of versions, who waits.
_Read = tuple[str, tuple[str, ...], asyncio.Future[Reading]]


class _Found(NamedTuple):
    value: Any
    now: float


class _Loop:
    """What one event loop has of the store: its connections, by address, and the reads of the present tick."""

    def __init__(self) -> None:
        self.nodes: dict[Address, Node] = {}
        self.reads: list[_Read] = []
        #: Of those, the ones that belong to a traced request.
        self.traced: list[tuple[tracing.Span, asyncio.Future[Reading]]] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.learning: asyncio.Task[Exception | None] | None = None
        self.closed = False

    def forget_learning(self, task: asyncio.Task[Exception | None]) -> None:
        """The cluster has been asked who has which slot."""
        self.learning = None


class _Wait:
    """Somebody who waits for a lease."""

    def __init__(self, hears: Callable[[], bool]) -> None:
        self._hears = hears
        self._loop = asyncio.get_running_loop()
        self._free = asyncio.Event()

    def wake(self) -> None:
        """Called from any thread."""
        with suppress(RuntimeError):  # its loop has closed, and nobody waits there any more
            self._loop.call_soon_threadsafe(self._free.set)

    async def until_free(self, seconds: float) -> None:
        """Return when the lease may be free, after ``seconds`` at the latest."""
        try:
            async with asyncio.timeout(min(max(seconds, _SHORTEST), _HEARING if self._hears() else _DEAF)):
                await self._free.wait()
        except TimeoutError:
            return
        self._free.clear()


class RedisStore:
    """Valkey or Redis, usable from any event loop; each loop has connections of its own.

    Every question raises :class:`StoreUnavailableError` when the store fails, is too slow, or is not asked because it
    kept failing; errors and durations are recorded.
    """

    def __init__(self, config: CacheConfig, clock: Clock, metrics: CacheMetrics) -> None:
        self._config: Final = config
        self._clock: Final = clock
        self._metrics: Final = metrics
        self._cluster: Final = config.redis_cluster
        self._names: Final = Names(protocol.CLUSTER_LANES if config.redis_cluster else 1)
        self._seeds: Final = [_endpoint(config, url) for url in config.store_urls]
        self._first: Final[Address] = (self._seeds[0].host, self._seeds[0].port)
        self._about: Final = _about(self._seeds[0])
        self._place: Final = self._seeds[0].path or f"{self._seeds[0].host}:{self._seeds[0].port}"
        #: Address of each slot's primary; empty until the cluster was asked.
        self._slots: list[Address] = []
        self._slots_doubted = False
        self._slots_asked = 0.0
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}
        self._last: tuple[asyncio.AbstractEventLoop | None, _Loop] = (None, _Loop())
        self._breakers: dict[Address, Breaker] = {}
        self._last_failure: Exception | None = None
        self._waits: dict[str, list[_Wait]] = {}
        self._lock = threading.Lock()
        self._bus: RedisBus | None = None
        self._errors: Final = {
            op: metrics.counter("smartcache_store_errors_total", operation=op) for op in STORE_OPERATIONS
        }
        self._durations: Final = {
            op: metrics.histogram("smartcache_store_operation_duration_seconds", operation=op)
            for op in STORE_OPERATIONS
        }
        self._state: Final = metrics.state("smartcache_store_breaker_state")
        self._show_state()

    # -- what the engine asks ----------------------------------------------------------------------------------------

    @property
    def breaker_state(self) -> Literal["closed", "half_open", "open"]:
        """State of the circuit breaker; of a cluster's, the worst."""
        states = {breaker.state for breaker in list(self._breakers.values())}  # another thread may add one
        return "open" if "open" in states else "half_open" if "half_open" in states else "closed"

    def read(self, key: str, versions: tuple[str, ...]) -> asyncio.Future[Reading]:
        """Read an entry and the versions it may depend on, together with all reads of this loop tick."""
        loop = asyncio.get_running_loop()
        here = self._here(loop)
        answer: asyncio.Future[Reading] = loop.create_future()
        here.reads.append((key, versions, answer))
        if (span := tracing.current.get()).sampled:
            here.traced.append((span, answer))
        if len(here.reads) == 1:
            loop.call_soon(self._flush_reads, here)
        return answer

    async def begin(
        self, key: str, token: str, versions: Sequence[str], newer_than: str, begun_from: str, origin: str
    ) -> Lease:
        """Ask for the lease on a key, unless a value is there that will do."""
        in_step = () if self._cluster else tuple(map(self._names.version, versions))
        command = protocol.begin(key, token, self._lease_ms, in_step, newer_than, begun_from, origin)
        if self._cluster:
            answer, found = await asyncio.gather(self._run("lease", command), self._versions(versions))
        else:
            answer = await self._run("lease", command)
            found = dict(zip(versions, [number.decode(errors="replace") for number in answer[5:]], strict=True))
        state, data, seconds, micros, left = answer[:5]
        return Lease(_STATES[state], data, found, _stamp(seconds, micros), max(0, left) / 1000)

    @contextmanager
    def waiting(self, key: str) -> Iterator[Callable[[float], Awaitable[None]]]:
        """Wait for the lease on a key from now on; gives a function that waits until it may be free, or so long."""
        wait = _Wait(lambda: self._bus is not None and self._bus.alive)
        with self._lock:
            self._waits.setdefault(key, []).append(wait)
        try:
            yield wait.until_free
        finally:
            with self._lock:
                self._waits[key].remove(wait)
                if not self._waits[key]:
                    del self._waits[key]

    async def commit(
        self,
        key: str,
        payload: bytes,
        keep_seconds: float,
        match_id: str | None,
        market: str | None,
        tags: Sequence[str],
        begun: Begun,
    ) -> str | None:
        """Write a value if the lease is still ours and no version has moved; the stamp, None if it was refused."""
        keep_ms = max(1, int(keep_seconds * 1000))
        indexes = protocol.indexes(self._names, match_id, tags)
        held_to = {} if self._cluster else {self._names.version(name): n for name, n in begun.versions.items()}
        in_step = [] if self._cluster else indexes
        command = protocol.commit(key, begun.token, payload, keep_ms, begun.stamp, held_to, in_step, market)
        if not self._cluster:
            return _stamp_of(await self._run("write", command))
        enlisted = (self._run("write", protocol.enlist(index, key, market, keep_ms)) for index in indexes)
        written, *_ = await asyncio.gather(self._run("write", command), *enlisted)
        stamp = _stamp_of(written)
        if stamp is None:
            return None
        if protocol.moved(begun.versions, await self._versions(tuple(begun.versions), keep_ms)) == "same":
            return stamp
        await self._run("write", protocol.withdraw(key, stamp))
        return None

    async def late_versions(
        self, names: Sequence[str], position: Mapping[int, tuple[bytes | None, bytes]]
    ) -> Mapping[str, str] | None:
        """Versions of tags that a compute named itself; None if they may have moved since ``position``.

        The versions are read first and the log after them: one that moved before has left its message there. The log
        must reach up to its sequence number, read just before, since it can be lost while the number goes on.
        """
        lanes = {self._names.lane(name) for name in names}
        if not lanes <= position.keys():
            return None  # the bus had not found its place yet
        found = await self._versions(names)
        for lane in lanes:
            number, last = position[lane]
            log, sequence = self._names.log(lane), self._names.sequence(lane)
            newest, messages = await asyncio.gather(  # in one write, in this order
                self._ask("read", sequence, ("GET", sequence)),
                self._ask("read", log, ("XRANGE", log, b"(" + last, "+")),
            )
            try:
                reached, least = int(number or -1), int(newest or -1)
                for _, flat in messages:
                    fields = dict(zip(flat[::2], flat[1::2], strict=True))
                    change = msgspec.json.decode(fields[b"change"], type=Change)
                    missing, reached = int(fields[b"n"]) != reached + 1, int(fields[b"n"])
                    if missing or (change.what == "tag" and protocol.tag_version(change.name) in names):
                        return None
            except (KeyError, ValueError, msgspec.MsgspecError):
                return None  # none of ours, so nobody knows what it stands in place of
            # Some may have come after the number was read.
            if reached < least or (reached > least and not messages):
                return None
        return found

    async def renew(self, key: str, token: str) -> bool:
        """Prolong a lease; whether it was still ours."""
        return bool(await self._run("lease", protocol.renew(key, token, self._lease_ms)))

    async def release(self, key: str, token: str) -> None:
        """Give a lease back."""
        await self._run("lease", protocol.release(key, token))

    async def change(self, change: Change, origin: str) -> Receipt:
        """Make an explicit change and announce it."""
        if change.what == "key":
            operation = "delete" if change.do == "delete" else "write"
            commands = protocol.drop(self._names, origin, change, in_reach=not self._cluster)
            answers = [await self._run(operation, command) for command in commands]
            self._tell_bus(change, answers[-1][0])
            return Receipt(None, int(answers[0] if self._cluster else answers[0][1]))
        command = protocol.retire(self._names, origin, change, in_reach=not self._cluster)
        number, stamp, cursor, *keys = await self._run("invalidate", command)
        self._tell_bus(change, number)
        try:
            if change.what == "all":
                pass
            elif self._cluster:
                keys += [key async for key in self._strike(change, stamp.decode())]
            else:
                while cursor != b"0":
                    cursor, *more = await self._run(
                        "invalidate", protocol.sweep(self._names, change, cursor.decode(), stamp.decode())
                    )
                    keys += more
        except StoreUnavailableError:
            pass  # the versions have moved, so what is left of the values is of no use to anybody
        found = frozenset(key.decode() for key in keys)
        return Receipt(found, len(found))

    def _tell_bus(self, change: Change, number: bytes) -> None:
        if self._bus is not None:
            self._bus.acknowledged(change, number)

    def listen(self, origin: str, handlers: Handlers) -> RedisBus:
        """Begin to hear what other processes change; ``origin`` is this process's random name."""
        self._bus = RedisBus(
            self._config, self._clock, self._metrics, self._names, origin, handlers, self._was_heard, self._wake
        )
        return self._bus

    def forget_connections(self) -> None:
        """Let go of every connection without a word to the store: in a forked child they are the parent's."""
        self._loops = {}
        self._last = None, _Loop()
        self._waits = {}
        self._lock = threading.Lock()
        self._bus = None

    async def close(self) -> None:
        """Close the connections of the running loop."""
        with self._lock:
            here = self._loops.pop(asyncio.get_running_loop(), None)
        self._last = None, _Loop()
        if here is not None:
            here.closed = True
            for node in here.nodes.values():
                await node.close()
            # What was being asked ends by itself now, and tells those who wait for it.
            await asyncio.gather(*here.tasks, *filter(None, [here.learning]), return_exceptions=True)

    # -- what the bus says -------------------------------------------------------------------------------------------

    def _was_heard(self) -> None:
        """A probe that needs no request, so that an idle process recovers too."""
        now = self._clock.monotonic()
        for breaker in list(self._breakers.values()):
            if breaker.state != "closed" and breaker.allows(now):
                breaker.succeeded()

    def _wake(self, key: str) -> None:
        with self._lock:
            for wait in self._waits.get(key, ()):
                wait.wake()

    # -- reads -------------------------------------------------------------------------------------------------------

    def _flush_reads(self, here: _Loop) -> None:
        reads, here.reads = here.reads, []
        if here.traced:
            self._trace_reads(here, len(reads))
        if self._cluster:
            self._spawn(here, self._read_from_cluster(here, reads))
            return
        version = self._names.version
        wanted: dict[str, None] = {}  # each name once
        for key, versions, _ in reads:
            wanted[key] = None
            for name in versions:
                wanted[version(name)] = None

        def done(replies: Replies) -> None:
            if isinstance(replies, Exception):
                _fail(reads, replies)
                return
            try:
                (seconds, micros), values = [self._accept("read", reply) for reply in replies]
                now = int(seconds) + int(micros) / 1e6
                found = dict(zip(wanted, values, strict=True))
            except Exception as error:  # refused, or answered something else: nobody of this batch may be left waiting
                _fail(reads, error)
                return
            for key, versions, answer in reads:
                if not answer.done():
                    numbers = {name: _text(found[version(name)]) for name in versions}
                    answer.set_result(Reading(found[key], numbers, now))

        self._send("read", here, self._first, _TIME + _pack(("MGET", *wanted)), 2, done, at_once=True)

    async def _read_from_cluster(self, here: _Loop, reads: Sequence[_Read]) -> None:
        """One pipeline to each primary that is concerned; what has moved meanwhile is asked for where it is now."""
        tracing.current.set(tracing.UNSAMPLED)  # it is not the first reader's alone: _trace_reads tells each
        try:
            await self._learn_slots(here)
            version, slot_of = self._names.version, protocol.slot_of
            by_address: dict[Address, dict[str, None]] = {}
            for key, versions, _ in reads:
                for name in (key, *map(version, versions)):
                    by_address.setdefault(self._slots[slot_of(name)], {})[name] = None
            parts = await asyncio.gather(
                *(self._read_from_primary(here, address, [*names]) for address, names in by_address.items())
            )
            found = {name: part for names in parts for name, part in names.items()}
            for read in reads:
                key, versions, answer = read
                data, numbers = found[key], {name: found[version(name)] for name in versions}
                failure = next((one for one in (data, *numbers.values()) if isinstance(one, Exception)), None)
                if failure is not None:
                    _fail([read], failure)
                elif not answer.done():
                    value = data.value if isinstance(data.value, bytes) else None
                    answer.set_result(
                        Reading(value, {name: _text(number.value) for name, number in numbers.items()}, data.now)
                    )
        except Exception as error:
            # Whatever it is, nobody of this batch may be left waiting.
            _fail(reads, error)

    async def _read_from_primary(self, here: _Loop, address: Address, names: Sequence[str]) -> dict[str, Any]:
        """What one primary has of the names, each with the primary's clock; or why it is not known."""
        questions = _TIME + b"".join(_pack(("GET", name)) for name in names)
        try:
            (seconds, micros), *values = await self._question("read", here, address, questions, len(names) + 1)
        except StoreUnavailableError as error:
            return dict.fromkeys(names, error)
        now = int(seconds) + int(micros) / 1e6
        found: dict[str, Any] = {}
        for name, value in zip(names, values, strict=True):
            if _redirection(value) is not None:
                self._slots_doubted = True
                try:
                    value = await self._ask("read", name, ("GET", name))
                except StoreUnavailableError as error:
                    found[name] = error
                    continue
            elif is_error(value) and not str(value).startswith("WRONGTYPE"):
                try:
                    self._accept("read", value)
                except StoreUnavailableError as error:
                    found[name] = error
                    continue
            found[name] = _Found(value, now)
        return found

    # -- questions ---------------------------------------------------------------------------------------------------

    @property
    def _lease_ms(self) -> int:
        return max(1, int(self._config.lease_seconds * 1000))

    async def _versions(self, names: Sequence[str], keep_ms: int = 0) -> dict[str, str]:
        """Versions by name, seeded where they are lost; those of one lane in one step."""
        lanes: dict[str, list[str]] = {}
        for name in names:
            physical = self._names.version(name)
            lanes.setdefault(physical.partition("version:")[0], []).append(name)
        answers = await asyncio.gather(
            *(
                self._run("read", protocol.versions([*map(self._names.version, lane)], keep_ms))
                for lane in lanes.values()
            )
        )
        return {
            name: number.decode(errors="replace")
            for lane, numbers in zip(lanes.values(), answers, strict=True)
            for name, number in zip(lane, numbers, strict=True)
        }

    async def _strike(self, change: Change, stamp: str) -> AsyncIterator[bytes]:
        """Drop what a change retired in a cluster: the index is read, and each key dropped in its own slot."""
        index = protocol.indexes(self._names, change.name if change.what == "match" else None,
                                 [change.name] if change.what == "tag" else [])[0]  # fmt: skip
        cursor = b"0"
        while True:
            cursor, page = await self._ask("invalidate", index, ("ZSCAN", index, cursor, "COUNT", _INDEX_PAGE))
            members = [
                (member, key)
                for member in page[::2]
                for market, _, key in [member.partition(b"\n")]
                if not change.markets or not market or market.decode() in change.markets
            ]
            struck = await asyncio.gather(
                *(self._run("invalidate", protocol.strike(key.decode(), change.do, stamp)) for _, key in members)
            )
            gone = [member for (member, _), there in zip(members, struck, strict=True) if there == 1]
            if gone and change.do == "delete":
                await self._ask("invalidate", index, ("ZREM", index, *gone))
            for (_, key), there in zip(members, struck, strict=True):
                if there == 1:
                    yield key
            if cursor == b"0":
                return

    async def _run(self, operation: str, command: Command) -> Any:
        """Run a script, by its digest while the store knows it."""
        shape = (len(command.keys), *command.keys, *command.args)
        try:
            return await self._ask(operation, command.keys[0], ("EVALSHA", _digest(command.script), *shape))
        except _NoScriptError:
            return await self._ask(operation, command.keys[0], ("EVAL", command.script, *shape))

    async def _ask(self, operation: str, name: str, words: Sequence[str | bytes | int]) -> Any:
        """Ask the server that has ``name``; a part of the traced request, if there is one."""
        span = tracing.current.get()
        if not span.sampled:
            return await self._follow(operation, name, words)
        command = str(words[0])
        about = {"db.operation.name": command, **self._about}
        target = self._place
        if command.startswith("EVAL"):
            about["db.stored_procedure.name"] = target = operation
        with span.part(f"{command} {target}", about, "client") as part:
            try:
                return await self._follow(operation, name, words)
            except StoreUnavailableError as error:
                part.note(_about_error(error))
                raise

    async def _follow(self, operation: str, name: str, words: Sequence[str | bytes | int]) -> Any:
        """Ask the server that has ``name``, following a cluster's redirections."""
        here = self._here(asyncio.get_running_loop())
        packed = _pack(words)
        if not self._cluster:
            return self._accept(operation, (await self._question(operation, here, self._first, packed, 1))[0])
        asking = False
        await self._learn_slots(here)
        address = self._slots[protocol.slot_of(name)]
        for _ in range(_MOST_REDIRECTIONS):
            try:
                replies = await self._question(
                    operation, here, address, _ASKING + packed if asking else packed, 2 if asking else 1
                )
            except StoreUnavailableError:
                await self._learn_slots(here)
                if address == (now_at := self._slots[protocol.slot_of(name)]):
                    raise
                address = now_at  # another server took over
                continue
            redirection = _redirection(replies[-1])
            if redirection is None:
                return self._accept(operation, replies[-1])
            asking, address = redirection[0] == "ASK", redirection[1] or address
            if not asking:
                self._slots_doubted = True
        raise StoreUnavailableError("the cluster is moving slots")

    def _accept(self, operation: str, reply: Any) -> Any:
        if not is_error(reply):
            return reply
        text = str(reply)
        code = text.partition(" ")[0]
        if code == "NOSCRIPT":
            raise _NoScriptError(text, code)
        self._errors[operation].add()
        if text.startswith("MOVED"):
            text += " (the store is a cluster: set SMARTCACHE_REDIS_CLUSTER=true)"
        raise StoreUnavailableError(text, code)

    def _trace_reads(self, here: _Loop, readers: int) -> None:
        """Tell each traced request of this tick about the round trip that they, and the others, share."""
        traced, here.traced = here.traced, []
        start, command = self._clock.monotonic(), "PIPELINE GET" if self._cluster else "MGET"
        about = {"db.operation.name": command, "smartcache.store.readers": readers, **self._about}

        def tell(span: tracing.Span, answer: asyncio.Future[Reading]) -> None:
            error = None if answer.cancelled() else answer.exception()
            told = about if error is None else {**about, **_about_error(error)}
            span.tell(f"{command} {self._place}", self._clock.monotonic() - start, told, "client", error)

        for span, answer in traced:
            answer.add_done_callback(partial(tell, span))

    def _question(
        self, operation: str, here: _Loop, address: Address, packed: bytes, count: int
    ) -> asyncio.Future[list[Any]]:
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

        def done(replies: Replies) -> None:
            if answer.done():
                return
            if isinstance(replies, Exception):
                answer.set_exception(replies)
            else:
                answer.set_result(replies)

        self._send(operation, here, address, packed, count, done)
        return answer

    def _send(
        self,
        operation: str,
        here: _Loop,
        address: Address,
        packed: bytes,
        count: int,
        done: Done,
        *,
        at_once: bool = False,
    ) -> None:
        """Ask a server through its breaker, and record how it went."""
        if here.closed:
            done(StoreUnavailableError("the cache was closed"))
            return
        clock, breaker = self._clock, self._breaker(address)
        start = clock.monotonic()
        if not breaker.allows(start):
            done(StoreUnavailableError("the store kept failing and is given a rest"))
            return

        def settle(replies: Replies) -> None:
            now = clock.monotonic()
            self._durations[operation].observe(now - start)
            if isinstance(replies, Exception):
                if replies is not self._last_failure:  # a cut connection is one failure, however many waited
                    self._last_failure = replies
                    breaker.failed(now)
                self._errors[operation].add()
                self._slots_doubted = True  # another server may have become primary
                failure = StoreUnavailableError(f"{type(replies).__name__}: {replies}")
                failure.__cause__, replies = replies, failure
            else:
                breaker.succeeded()
            done(replies)

        self._node(here, address).send(packed, count, settle, at_once=at_once)

    # -- servers -----------------------------------------------------------------------------------------------------

    def _here(self, loop: asyncio.AbstractEventLoop) -> _Loop:
        last, here = self._last
        if last is loop:
            return here
        found = self._loops.get(loop)
        if found is None:
            with self._lock:  # other threads have loops too, and must not find the table changing
                for ended in [one for one in self._loops if one.is_closed()]:
                    del self._loops[ended]  # with it go its connections, which nobody can use any more
                found = self._loops[loop] = _Loop()
        self._last = loop, found
        return found

    def _node(self, here: _Loop, address: Address) -> Node:
        node = here.nodes.get(address)
        if node is None:
            seed = next((seed for seed in self._seeds if (seed.host, seed.port) == address), self._seeds[0])
            endpoint = seed._replace(host=address[0], port=address[1])
            config = self._config
            node = here.nodes[address] = Node(
                asyncio.get_running_loop(), endpoint, config.store_connect_timeout, config.store_timeout
            )
        return node

    def _breaker(self, address: Address) -> Breaker:
        breaker = self._breakers.get(address)
        if breaker is None:
            config = self._config
            breaker = self._breakers[address] = Breaker(
                config.breaker_failures, config.breaker_seconds, lambda state: self._show_state()
            )
        return breaker

    def _show_state(self) -> None:
        self._state.set(self.breaker_state)

    async def _learn_slots(self, here: _Loop) -> None:
        """Know which primary has which slot; whoever wants to while the cluster is being asked waits for its answer.

        Raises:
            StoreUnavailableError: no server of the cluster said.
        """
        if here.learning is None:
            now = self._clock.monotonic()
            if self._slots and not (self._slots_doubted and now >= self._slots_asked + _SLOTS_REST):
                return
            self._slots_asked = now
            here.learning = asyncio.get_running_loop().create_task(self._ask_slots(here))
            here.learning.add_done_callback(here.forget_learning)
        failure = await asyncio.shield(here.learning)
        if failure is not None and not self._slots:  # otherwise go on with what was known
            raise StoreUnavailableError(f"the cluster does not say who has which slot: {failure}")

    async def _ask_slots(self, here: _Loop) -> Exception | None:
        """Ask one server after the other; why, if none answered."""
        failure: Exception = StoreUnavailableError("none of its servers is known")
        for address in dict.fromkeys([(seed.host, seed.port) for seed in self._seeds] + self._slots):
            try:
                reply = (await self._question("other", here, address, _CLUSTER_SLOTS, 1))[0]
                self._slots = _slots(self._accept("other", reply), address)
            except (StoreUnavailableError, ValueError) as error:
                failure = error
            else:
                self._slots_doubted = False
                return None
        return failure

    def _spawn(self, here: _Loop, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        here.tasks.add(task)
        task.add_done_callback(here.tasks.discard)


class _NoScriptError(StoreUnavailableError):
    """The store does not know the script of that digest."""


def _pack(words: Iterable[str | bytes | int]) -> bytes:
    packed: bytes = pack_command(tuple(words))  # type: ignore[arg-type]  # it says one, it means any number
    return packed


def _stamp_of(written: Any) -> str | None:
    return written.decode() if isinstance(written, bytes) else None


def _fail(reads: Iterable[_Read], error: BaseException) -> None:
    failure = error if isinstance(error, StoreUnavailableError) else StoreUnavailableError(repr(error))
    for _, _, answer in reads:
        if not answer.done():
            answer.set_exception(failure)


def _redirection(reply: Any) -> tuple[str, Address | None] | None:
    """``MOVED`` or ``ASK`` and the address to go to; None for any other answer."""
    if not is_error(reply):
        return None
    kind, _, rest = str(reply).partition(" ")
    if kind not in ("MOVED", "ASK"):
        return None
    host, _, port = rest.rpartition(" ")[2].rpartition(":")
    return kind, (host, int(port)) if host and port.isdigit() else None


def _slots(reply: Sequence[Any], asked: Address) -> list[Address]:
    """The address of each slot's primary, from the answer to ``CLUSTER SLOTS``.

    Raises:
        ValueError: a slot without a primary.
    """
    slots: list[Address | None] = [None] * _SLOTS
    for first, last, (host, port, *_), *_ in reply:
        # A server that does not know its own address says nothing: it is the one that was asked.
        address = (host.decode() if host else asked[0], int(port))
        slots[first : last + 1] = [address] * (last + 1 - first)
    found = [address for address in slots if address is not None]
    if len(found) < _SLOTS:
        raise ValueError(f"{_SLOTS - len(found)} slots have no primary")
    return found

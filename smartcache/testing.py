"""The test kit: time that moves when the test says so, a store and a bus with faults, a check for changed values.

Nothing here reads the machine's clock, draws at random or starts a thread. A :class:`MemoryStore` stands for the
server, each engine that is handed a :class:`Link` to it for a process. What the scripts of ``protocol.py`` do in one
step on Valkey or Redis is done here in one step too, and one set of tests holds both to it.

Virtual is what the engine reads from its clock and the store from its own: ages, lifetimes, leases, waits for leases,
the silence of the bus. Time-outs of computes and the renewal of leases are the event loop's, so they run in real time.
"""

from __future__ import annotations

import asyncio
import copy
import heapq
import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgspec

from smartcache import protocol
from smartcache.clock import Clock
from smartcache.codec import EXPIRED, LIVE, MARK
from smartcache.config import CacheConfig
from smartcache.engine import SmartCache
from smartcache.entry import Entry
from smartcache.errors import SmartCacheError
from smartcache.holdings import EVERYTHING
from smartcache.protocol import ALL, Change, match_version, tag_version
from smartcache.store import Begun, Handlers, Lease, Reading, Receipt, StoreUnavailableError, Tick

__all__ = ["Contents", "Link", "MemoryBus", "MemoryStore", "MutatedValueError", "VirtualClock", "no_mutation"]

T = TypeVar("T")
#: Place in the log and number of the last message that was seen.
Position = tuple[int, int | None]

#: As in protocol.py: how a version moves when what depends on it is gone, how long one is kept, how long the log is.
_GONE: Final = 1 << 16
_VERSION_SECONDS: Final = 72 * 3600.0
_LOG_LENGTH: Final = 10_000
#: Seeds are this far apart, so that no number is met twice however often a version moves from one.
_SEED_STEP: Final = 1 << 40
#: Longest wait for a lease before asking again, as in redis_store.py.
_LONGEST_WAIT: Final = 0.5
#: Turns of the event loop without a question, after which nothing more is expected.
_QUIET_TURNS: Final = 10


# -- time ------------------------------------------------------------------------------------------------------------


class VirtualClock:
    """Time that moves when the test says so.

    Args:
        start: where the wall clock begins, an aware datetime.
    """

    def __init__(self, start: datetime = datetime(2025, 3, 1, 12, tzinfo=UTC)) -> None:
        self._wall = _epoch(start)
        self._steady = 1000.0
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._followers: list[Callable[[], object]] = []

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        return self._wall

    def monotonic(self) -> float:
        """Seconds on a clock that never steps back."""
        return self._steady

    def ahead(self, **delta: float) -> datetime:
        """The instant so far from now; arguments as of :class:`datetime.timedelta`."""
        return datetime.fromtimestamp(self._wall, UTC) + timedelta(**delta)

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks. What waits for an instant on the way happens at that instant.

        Raises:
            ValueError: less than no time, or not a finite one.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"time cannot advance by {seconds!r} s: step_wall() sets the wall clock back")
        end = self._steady + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, call = heapq.heappop(self._timers)
            self._move_to(max(due, self._steady))
            call()
        self._move_to(end)
        for call in self._followers:
            call()

    def _move_to(self, steady: float) -> None:
        self._wall += steady - self._steady
        self._steady = steady

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock ahead or back, as an administrator or NTP does; no time passes."""
        self._wall += seconds

    def set_wall(self, instant: datetime) -> None:
        """Set the wall clock to an aware datetime; no time passes."""
        self._wall = _epoch(instant)

    def call_later(self, seconds: float, call: Callable[[], object]) -> None:
        """Call something as soon as so many seconds have passed."""
        heapq.heappush(self._timers, (self._steady + seconds, next(self._order), call))

    def follow(self, call: Callable[[], object]) -> None:
        """Call something after each :meth:`advance`."""
        self._followers.append(call)

    async def sleep(self, seconds: float) -> None:
        """Wait until so many seconds have passed on this clock, such as in a compute that takes its time."""
        over = asyncio.Event()
        self.call_later(seconds, over.set)
        await over.wait()


def _epoch(instant: datetime) -> float:
    if instant.utcoffset() is None:
        raise ValueError(f"{instant!r} is naive: give it a time zone, such as tzinfo=UTC")
    return instant.timestamp()


# -- the store -------------------------------------------------------------------------------------------------------


class _Kept(NamedTuple):
    """Something with the store's instant, in microseconds, until which it is kept."""

    what: Any
    until: int


class _Message(NamedTuple):
    """An entry of the log.

    Attributes:
        place: grows from entry to entry, whatever happens to the store.
        before: the sequence number before.
        number: its own, one more.
        made: the store's monotonic instant.
    """

    place: int
    before: int | None
    number: int
    origin: str
    change: Change
    made: float


class _Sent(NamedTuple):
    """A tick in the stream."""

    place: int
    origin: str
    tick: Tick
    made: float


@dataclass
class Contents:
    """What a store holds at one instant; see :meth:`MemoryStore.snapshot`."""

    values: dict[str, _Kept] = field(default_factory=dict)
    leases: dict[str, _Kept] = field(default_factory=dict)
    waiting: dict[str, set[str]] = field(default_factory=dict)
    versions: dict[str, _Kept] = field(default_factory=dict)
    indexes: dict[str, dict[tuple[str | None, str], int]] = field(default_factory=dict)
    log: deque[_Message] = field(default_factory=lambda: deque(maxlen=_LOG_LENGTH))
    sequence: int | None = None
    ticks: deque[_Sent] = field(default_factory=lambda: deque(maxlen=protocol.TICKS_LENGTH))


class MemoryStore:
    """The server that engines share: values, leases, versions and the log, on a clock of its own.

    Messages travel when the test says so: at :meth:`deliver`, or when the clock advances. Each question takes one
    microsecond of the store's clock, so that its stamps tell what came first though no time passes.

    Attributes:
        read_only: refuse every write, as a replica does.
        full: refuse what needs room, as a server at ``maxmemory`` that may not evict.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self.read_only = False
        self.full = False
        self._clock = clock
        self._contents = Contents()
        self._links: list[Link] = []
        self._questions = 0
        # Neither goes back with the contents: seeds are random on a server, places come from its clock.
        self._seeds = itertools.count(1)
        self._places = itertools.count(1)
        clock.follow(self.deliver)

    def connect(self, config: CacheConfig | None = None, clock: VirtualClock | None = None) -> Link:
        """The way of one more engine to this store.

        Args:
            config: the engine's settings: how long leases, its patience and the bus's silence last.
            clock: the engine's clock; this store's by default. Another one is that of another machine.
        """
        link = Link(self, config or CacheConfig(), clock or self._clock)
        self._links.append(link)
        if clock is not None and clock is not self._clock:
            clock.follow(self.deliver)
        return link

    # -- messages ----------------------------------------------------------------------------------------------------

    def deliver(self) -> None:
        """Let every message arrive that can, queued changes and ticks first. It is the bus's heartbeat too."""
        buses = [link.bus for link in self._links if link.bus is not None]
        for bus in buses:
            bus.send_queued()
        known: object = self
        while known != self._contents.sequence:  # who finds that the store went back has something to say
            known = self._contents.sequence
            for bus in buses:
                bus.hear()

    async def settle(self) -> None:
        """Let everything go on that can without time passing, then deliver.

        It ends when the event loop has made ten turns in which nobody asked this store for anything.
        """
        quiet = 0
        while quiet < _QUIET_TURNS:
            asked = self._questions
            await asyncio.sleep(0)
            quiet = quiet + 1 if asked == self._questions else 0
        self.deliver()

    # -- what can happen to a server ---------------------------------------------------------------------------------

    def flush(self) -> None:
        """Lose everything, the log too."""
        self._contents = Contents()

    def lose_version(self, name: str) -> None:
        """Lose one version, as by eviction: ``protocol.ALL``, ``match_version(…)`` or ``tag_version(…)``."""
        self._contents.versions.pop(name, None)

    def snapshot(self) -> Contents:
        """What is held now."""
        return copy.deepcopy(self._contents)

    def go_back_to(self, snapshot: Contents) -> None:
        """Hold what was held then, as after a restart, or when a replica that lagged takes over."""
        self._contents = copy.deepcopy(snapshot)

    def data(self, key: str) -> bytes | None:
        """The stored entry of a key, as it lies there."""
        found: bytes | None = self._live(self._contents.values, key, self._now())
        return found

    def overwrite(self, key: str, data: bytes) -> None:
        """Put something in the place of a key's entry, such as garbage."""
        self._contents.values[key] = _Kept(data, self._now() + int(_VERSION_SECONDS * 1e6))

    # -- the steps, as the scripts take them -------------------------------------------------------------------------

    def _read(self, key: str, names: Sequence[str]) -> Reading:
        now = self._now()
        versions = {name: self._live(self._contents.versions, name, now) for name in names}
        return Reading(
            self._live(self._contents.values, key, now),
            {name: None if number is None else str(number) for name, number in versions.items()},
            now / 1e6,
        )

    def _begin(
        self, key: str, token: str, lease_seconds: float, names: Sequence[str], newer: str, begun: str, origin: str
    ) -> Lease:
        now, contents = self._now(), self._contents
        data = self._live(contents.values, key, now)
        good = (
            data is not None
            and data[:4] == MARK + LIVE
            and data[4:20] > newer.encode()
            and data[20:36] >= begun.encode()
        )
        state: Literal["granted", "refused", "value"] = "value"
        left = 0
        if not good:
            self._check_room()
            owner = self._live(contents.leases, key, now)
            state = "granted" if owner in (None, token) else "refused"
            if owner is None:
                contents.leases[key] = _Kept(token, now + _micros(lease_seconds))
            elif state == "refused":
                left = contents.leases[key].until - now
                contents.waiting.setdefault(key, set()).add(origin)
        versions = {name: str(self._seen(name, now)) for name in names}
        return Lease(state, data if good else None, versions, _stamp(now), left / 1e6)

    def _commit(
        self,
        key: str,
        payload: bytes,
        keep_seconds: float,
        owners: Sequence[str],
        market: str | None,
        begun: Begun,
    ) -> str | None:
        now, contents = self._now(), self._contents
        owner = self._live(contents.leases, key, now)
        if not _owns(owner, begun.token):
            return None
        self._check_writable()
        del contents.leases[key]
        stamp = None
        if owner == begun.token and all(
            str(self._live(contents.versions, name, now)) == number for name, number in begun.versions.items()
        ):
            stamp, until = _stamp(now), now + _micros(keep_seconds)
            contents.values[key] = _Kept(MARK + LIVE + stamp.encode() + begun.stamp.encode() + payload, until)
            for owner in owners:
                index = contents.indexes.setdefault(owner, {})
                for member in [member for member, end in index.items() if end <= now]:
                    del index[member]
                index[market, key] = until
        self._wake(key)
        return stamp

    def _versions(self, names: Sequence[str]) -> dict[str, str]:
        now = self._now()
        return {name: str(self._seen(name, now)) for name in names}

    def _renew(self, key: str, token: str, lease_seconds: float) -> bool:
        now, leases = self._now(), self._contents.leases
        owner = self._live(leases, key, now)
        if not _owns(owner, token):
            return False
        self._check_writable()
        leases[key] = _Kept(owner, now + _micros(lease_seconds))
        return True

    def _release(self, key: str, token: str) -> None:
        if _owns(self._live(self._contents.leases, key, self._now()), token):
            self._check_writable()
            del self._contents.leases[key]
            self._wake(key)

    def _change(self, change: Change, origin: str) -> tuple[Receipt, int]:
        """Make a change and say so in the log, in one step; what it met, and its number.

        Raises:
            StoreUnavailableError: nothing can be written.
        """
        self._check_writable()
        if change.what == "key":
            receipt = Receipt(None, self._drop(change))
        else:
            self._check_room()
            now = self._now()
            for name in _moved_by(change):
                self._move(name, _GONE if change.do == "delete" else 1, now)
            keys = frozenset(() if change.what == "all" else self._sweep(change, now))
            receipt = Receipt(keys, len(keys))
        contents = self._contents
        place, before, made = next(self._places), contents.sequence, self._instant()
        contents.sequence = self._seed() if before is None else before + 1
        contents.log.append(_Message(place, before, contents.sequence, origin, change, made))
        return receipt, contents.sequence

    def _begin_sequence(self) -> None:
        """Give a log without a number one, so that its first message can be missed too."""
        if self._contents.sequence is None:
            with suppress(StoreUnavailableError):
                self._check_room()
                self._contents.sequence = self._seed()

    def _drop(self, change: Change) -> int:
        key, now, contents = change.name, self._now(), self._contents
        data = self._live(contents.values, key, now)
        if change.do == "delete":
            contents.values.pop(key, None)
        elif data is not None and len(data) > 3:
            self._check_room()
            marked = data[:3] + EXPIRED + data[4:]
            contents.values[key] = contents.values[key]._replace(what=marked)
        owner = self._live(contents.leases, key, now)
        if owner is not None and not owner.endswith("!"):  # voids the token of a compute under way
            contents.leases[key] = contents.leases[key]._replace(what=owner + "!")
        return 0 if data is None else 1

    def _sweep(self, change: Change, now: int) -> Iterator[str]:
        """The keys of a match or tag that a change found, dropped if it deletes."""
        owner = _owner_of_match(change.name) if change.what == "match" else tag_version(change.name)
        index = self._contents.indexes.get(owner, {})
        for market, key in list(index):
            if change.markets and market is not None and market not in change.markets:
                continue
            written = (self._live(self._contents.values, key, now) or b"")[4:20]
            if not written:
                del index[market, key]
            elif written <= _stamp(now).encode():
                if change.do == "delete":
                    del self._contents.values[key]
                    del index[market, key]
                yield key

    def _seen(self, name: str, now: int) -> int:
        """A version's number, seeded if it is lost, and kept on."""
        number = self._live(self._contents.versions, name, now)
        self._check_writable()
        if number is None:
            self._check_room()
            number = self._seed()
        self._contents.versions[name] = _Kept(number, now + _micros(_VERSION_SECONDS))
        return int(number)

    def _move(self, name: str, by: int, now: int) -> None:
        number = self._live(self._contents.versions, name, now)
        moved = self._seed() if number is None else number + by
        self._contents.versions[name] = _Kept(moved, now + _micros(_VERSION_SECONDS))

    def _seed(self) -> int:
        return next(self._seeds) * _SEED_STEP

    def _wake(self, key: str) -> None:
        waiting = self._contents.waiting.pop(key, ())
        for link in self._links:
            if link.bus is not None and link.bus.origin in waiting:
                link._wake(key)

    def _now(self) -> int:
        """The store's clock in microseconds, for a question of its own."""
        self._questions += 1
        return _micros(self._clock.time()) + self._questions

    def _instant(self) -> float:
        """The store's monotonic instant in seconds, later with every question."""
        return self._clock.monotonic() + self._questions / 1e6

    @staticmethod
    def _live(kept: dict[str, _Kept], name: str, now: int) -> Any:
        found = kept.get(name)
        if found is None:
            return None
        if found.until <= now:
            del kept[name]
            return None
        return found.what

    def _check_writable(self) -> None:
        if self.read_only:
            raise StoreUnavailableError("READONLY the store was made read-only by the test")

    def _check_room(self) -> None:
        self._check_writable()
        if self.full:
            raise StoreUnavailableError("OOM the store was made full by the test")


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)


def _stamp(micros: int) -> str:
    return f"{micros:016d}"


def _owner_of_match(match_id: str) -> str:
    return match_version(match_id, None)


def _moved_by(change: Change) -> list[str]:
    if change.what == "all":
        return [ALL]
    if change.what == "tag":
        return [tag_version(change.name)]
    return [match_version(change.name, market) for market in (None, *change.markets)]


# -- the way of one engine to the store ------------------------------------------------------------------------------


class Link:
    """One engine's way to a :class:`MemoryStore`, for ``SmartCacheEnhanced(store=…)``, and what can go wrong on it.

    Every question makes one turn of the event loop on its way and one on the way back.
    """

    def __init__(self, store: MemoryStore, config: CacheConfig, clock: VirtualClock) -> None:
        self.bus: MemoryBus | None = None
        self._store = store
        self._config = config
        self._clock = clock
        self._waits: dict[str, list[asyncio.Event]] = {}
        self.heal()

    # -- faults ------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """End every fault of this link; what piled up arrives at the next delivery."""
        self._partitioned = False
        self._seconds = 0.0
        self._failures = 0
        self._answers_lost = 0
        self._held = False
        self._lag = 0.0
        self._drops = 0
        self._reorder = False

    def partition(self) -> None:
        """Let questions fail at once and no message through, until :meth:`heal`."""
        self._partitioned = True

    def fail_next(self, questions: int = 1) -> None:
        """Let the next questions fail before the store hears them."""
        self._failures = questions

    def lose_answers(self, questions: int = 1) -> None:
        """Let the store act on the next questions, and their answers be lost."""
        self._answers_lost = questions

    def slow(self, seconds: float) -> None:
        """Let each question take so many seconds of the clock.

        One that takes longer than ``store_timeout`` fails when that is over; the store acts on it all the same, late.
        """
        self._seconds = seconds

    def hold_messages(self) -> None:
        """Let this engine hear nothing, though it can ask, until :meth:`heal`."""
        self._held = True

    def delay_messages(self, seconds: float) -> None:
        """Let this engine hear what was said so many seconds ago."""
        self._lag = seconds

    def drop_messages(self, messages: int = 1) -> None:
        """Lose the next messages on the way to this engine."""
        self._drops = messages

    def reorder_messages(self) -> None:
        """Let the next messages that arrive together arrive in the wrong order."""
        self._reorder = True

    # -- what the engine asks ----------------------------------------------------------------------------------------

    @property
    def breaker_state(self) -> Literal["closed", "half_open", "open"]:
        """``open`` while partitioned; there is no breaker that would stay so afterwards."""
        return "open" if self._partitioned else "closed"

    async def read(self, key: str, versions: tuple[str, ...]) -> Reading:
        """Read an entry and the versions it may depend on."""
        return await self._ask(lambda: self._store._read(key, versions))

    async def begin(
        self, key: str, token: str, versions: Sequence[str], newer_than: str, begun_from: str, origin: str
    ) -> Lease:
        """Ask for the lease on a key, unless a value is there that will do."""
        seconds = self._config.lease_seconds
        return await self._ask(
            lambda: self._store._begin(key, token, seconds, versions, newer_than, begun_from, origin)
        )

    @contextmanager
    def waiting(self, key: str) -> Iterator[Callable[[float], Awaitable[None]]]:
        """Wait for the lease on a key from now on, on the engine's clock; a release that is heard ends the wait."""
        free = asyncio.Event()
        self._waits.setdefault(key, []).append(free)

        async def until_free(seconds: float) -> None:
            self._clock.call_later(min(seconds, _LONGEST_WAIT), free.set)
            await free.wait()
            free.clear()

        try:
            yield until_free
        finally:
            self._waits[key].remove(free)
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
        owners = [*([] if match_id is None else [_owner_of_match(match_id)]), *map(tag_version, tags)]
        return await self._ask(lambda: self._store._commit(key, payload, keep_seconds, owners, market, begun))

    async def late_versions(self, names: Sequence[str], position: Position | None) -> dict[str, str] | None:
        """Versions of tags that a compute named itself; None if they may have moved since ``position``."""
        if position is None:
            return None

        def look() -> dict[str, str] | None:
            found, contents = self._store._versions(names), self._store._contents
            place, number = position
            for message in contents.log:
                if message.place <= place:
                    continue
                if number is None or message.number != number + 1:
                    return None
                number = message.number
                if message.change.what == "tag" and tag_version(message.change.name) in names:
                    return None
            return found if number == contents.sequence else None

        return await self._ask(look)

    async def renew(self, key: str, token: str) -> bool:
        """Prolong a lease; whether it was still ours."""
        return await self._ask(lambda: self._store._renew(key, token, self._config.lease_seconds))

    async def release(self, key: str, token: str) -> None:
        """Give a lease back."""
        await self._ask(lambda: self._store._release(key, token))

    async def change(self, change: Change, origin: str) -> Receipt:
        """Make an explicit change and announce it."""
        receipt, number = await self._ask(lambda: self._store._change(change, origin))
        if self.bus is not None:
            self.bus.acknowledged(change, number)
        return receipt

    def listen(self, origin: str, handlers: Handlers) -> MemoryBus:
        """Begin to hear what other engines change."""
        self.bus = MemoryBus(self, origin, handlers)
        self.bus.hear()
        return self.bus

    def forget_connections(self) -> None:
        """Let go of everything that belongs to a parent process."""
        self.bus = None
        self._waits = {}

    async def close(self) -> None:
        """Nothing is open."""

    async def _ask(self, question: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        if self._seconds:
            await self._travel(question)
        self._check_way()
        if self._failures:
            self._failures -= 1
            raise StoreUnavailableError("the test let this question fail")
        answer = question()
        await asyncio.sleep(0)
        self._check_way()
        if self._answers_lost:
            self._answers_lost -= 1
            raise StoreUnavailableError("the test let the answer be lost")
        return answer

    async def _travel(self, question: Callable[[], object]) -> None:
        patience = self._config.store_timeout
        late = self._seconds - patience
        await self._clock.sleep(min(self._seconds, patience))
        if late > 0:
            self._clock.call_later(late, lambda: _unheard(question))
            raise StoreUnavailableError(f"the store did not answer within {patience:g} s")

    def _check_way(self) -> None:
        if self._partitioned:
            raise StoreUnavailableError("the test cut this link")

    def _wake(self, key: str) -> None:
        if not (self._partitioned or self._held):
            for free in self._waits.get(key, ()):
                free.set()


class MemoryBus:
    """The listener and the sender of one engine, by the rules of ``redis_bus.py``.

    Attributes:
        heard: monotonic instant at which it last knew that it had missed nothing.
        connected: whether the last attempt to hear something succeeded; None before the first.
        gaps: how often it found that messages were missing, or that the store went back in time.
    """

    def __init__(self, link: Link, origin: str, handlers: Handlers) -> None:
        self.origin = origin
        self.heard = -math.inf
        self.connected: bool | None = None
        self.gaps = 0
        self._link = link
        self._store = link._store
        self._clock: Clock = link._clock
        self._handlers = handlers
        self._changes: deque[Change] = deque()
        self._ticks: deque[Tick] = deque()
        self._last: Position | None = None
        #: Changes that the store acknowledged to this engine and that it has not met in the log yet, each with when.
        self._unmet: dict[int, tuple[Change, float]] = {}
        self._last_tick = 0
        self._told_until = -math.inf
        self._lost: set[int] = set()

    @property
    def alive(self) -> bool:
        """Whether this engine knows that it has missed nothing."""
        return self.connected is True and self._clock.monotonic() - self.heard <= self._link._config.bus_silence

    @property
    def queued(self) -> int:
        """Changes that the store has not acknowledged yet."""
        return len(self._changes)

    @property
    def position(self) -> Position | None:
        """Where in the log this engine stands."""
        return self._last

    def send_tick(self, tick: Tick) -> None:
        """Let every other engine know a price at the next delivery."""
        self._ticks.append(tick)

    def send_later(self, change: Change) -> None:
        """Make a change at the next delivery that reaches the store; changes keep their order."""
        self._changes.append(change)

    def acknowledged(self, change: Change, number: int) -> None:
        """The store has made a change for this engine and given it a number."""
        self._unmet.setdefault(number, (change, self._store._instant()))

    def wait_until_tried(self, seconds: float) -> None:
        """Nothing to wait for: listening begins at once."""

    def close(self) -> None:
        """Stop; what could not be delivered is given one last try."""
        self.send_queued()
        if self._link.bus is self:
            self._link.bus = None

    def send_queued(self) -> None:
        """Send what waits, as far as the store takes it."""
        if self._link._partitioned:
            return
        try:
            while self._changes:
                _, number = self._store._change(self._changes[0], self.origin)
                self.acknowledged(self._changes.popleft(), number)
            while self._ticks:
                self._store._check_room()
                sent = _Sent(next(self._store._places), self.origin, self._ticks.popleft(), self._store._instant())
                self._store._contents.ticks.append(sent)
        except StoreUnavailableError:
            return

    def hear(self) -> None:
        """Hear what is new, and whether anything is missing."""
        link = self._link
        if link._partitioned:
            self.connected = False
        if link._partitioned or link._held:
            return
        now = self._store._instant()
        self._told_until = until = max(self._told_until, now - link._lag)  # what was heard is not unheard
        messages, sequence = self._told(until)
        if self._last is not None:
            place, seen = self._last
            news = [message for message in messages if message.place > place]
            if self._went_back(seen, sequence, news, until):
                # An old snapshot, or a replica that lagged: changes that it had acknowledged are undone.
                try:
                    _, number = self._store._change(EVERYTHING, self.origin)
                except StoreUnavailableError:
                    self._handlers.on_gap()
                    self.connected = False
                    return
                self._unmet = {}
                self.acknowledged(EVERYTHING, number)
            elif self._take(self._arrived(news), sequence):
                self._take_ticks(until)
                self._was_heard(now - until)
                return
            self.gaps += 1
        # Begin at the log's end; whatever was said before is taken as missed.
        self._store._begin_sequence()
        self._told_until = self._store._instant()
        messages, sequence = self._told(self._told_until)
        self._last = (messages[-1].place if messages else 0), sequence
        self._handlers.on_gap()
        self._was_heard(0.0)

    def _went_back(self, seen: int | None, sequence: int | None, news: Sequence[_Message], until: float) -> bool:
        """Whether the store has forgotten numbers that were seen or acknowledged, or is giving them out again."""
        least = -1 if seen is None else seen
        self._unmet = {number: known for number, known in self._unmet.items() if number > least}
        known = {number: change for number, (change, when) in self._unmet.items() if when <= until}
        if (-1 if sequence is None else sequence) < max(known, default=least):
            return True
        return any(
            message.number <= least or known.get(message.number, message.change) != message.change for message in news
        )

    def _told(self, until: float) -> tuple[list[_Message], int | None]:
        """The log and its last number as they were at an instant."""
        messages: list[_Message] = []
        for message in self._store._contents.log:
            if message.made > until:
                return messages, message.before
            messages.append(message)
        return messages, self._store._contents.sequence

    def _arrived(self, news: Sequence[_Message]) -> list[_Message]:
        """What comes through of new messages."""
        link = self._link
        arrived = []
        for message in news:
            if link._drops and message.place not in self._lost:
                link._drops -= 1
                self._lost.add(message.place)
            if message.place not in self._lost:
                arrived.append(message)
        if link._reorder and len(arrived) > 1:
            link._reorder = False
            arrived.reverse()
        return arrived

    def _take(self, messages: Sequence[_Message], sequence: int | None) -> bool:
        """Apply new messages; whether it is certain that none is missing up to the number ``sequence``."""
        assert self._last is not None
        _, number = self._last
        for message in messages:
            if number is not None and message.number != number + 1:
                return False
            if message.origin != self.origin:
                self._handlers.on_change(message.change)
            number = message.number
            self._last = message.place, number
        return number == sequence

    def _take_ticks(self, until: float) -> None:
        for sent in self._store._contents.ticks:
            if sent.place > self._last_tick and sent.made <= until:
                self._last_tick = sent.place
                if sent.origin != self.origin:
                    self._handlers.on_ticks([sent.tick])

    def _was_heard(self, ago: float) -> None:
        self.connected = True
        self.heard = self._clock.monotonic() - ago


def _unheard(question: Callable[[], object]) -> None:
    """Let the store act on a question whose answer nobody waits for."""
    with suppress(StoreUnavailableError):
        question()


# -- changed values --------------------------------------------------------------------------------------------------


class MutatedValueError(SmartCacheError, AssertionError):
    """A value that the cache shares was changed by somebody who was given it, or who computed it."""


_encode: Final = msgspec.msgpack.Encoder().encode


@contextmanager
def no_mutation(cache: SmartCache) -> Iterator[None]:
    """Make sure that no value held by ``cache``, or taken in meanwhile, is changed inside the ``with`` block.

    Values are shared and read-only by contract; ``copy=True`` asks for one's own. The check remembers how each value
    was encoded when it was first seen, and compares at the end of the block.

    Raises:
        MutatedValueError: at the end of the block; it names the key and the part that changed.
    """
    memory = cache._holdings.memory
    put = memory.put
    seen: list[tuple[str, Any, bytes]] = []

    def see(entry: Entry) -> None:
        seen.append((entry.key, entry.value, _encode(entry.value)))

    def see_and_put(entry: Entry) -> None:
        see(entry)
        put(entry)

    with memory.lock:
        for entry in memory.concerned(EVERYTHING):
            see(entry)
        memory.put = see_and_put  # type: ignore[method-assign]
    try:
        yield
    finally:
        memory.put = put  # type: ignore[method-assign]
    for key, value, encoded in seen:
        if difference := _difference(msgspec.msgpack.decode(encoded), value, "value"):
            raise MutatedValueError(
                f"the value of {key!r} was changed while the cache shared it: {difference}. "
                "Ask for one's own with copy=True"
            )


def _difference(was: Any, now: Any, path: str) -> str:
    """Where a value differs from what it was, and how; empty when it does not."""
    parts: Iterator[tuple[str, Any, Any]]
    if type(was) is type(now) is dict:
        if list(was) != list(now):
            return f"{path} had the keys {list(was)!r} and has {list(now)!r}"
        parts = ((f"{path}[{key!r}]", was[key], now[key]) for key in was)
    elif type(was) is type(now) is list:
        if len(was) != len(now):
            return f"{path} had {len(was)} items and has {len(now)}"
        parts = ((f"{path}[{place}]", *pair) for place, pair in enumerate(zip(was, now, strict=True)))
    else:
        return "" if type(was) is type(now) and was == now else f"{path} was {was!r} and is {now!r}"
    return next(filter(None, (_difference(*part[1:], part[0]) for part in parts)), "")


def _owns(owner: str | None, token: str) -> bool:
    """Whether a lease is a token's, voided or not."""
    return owner in (token, f"{token}!")

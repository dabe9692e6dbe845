"""The loader: how a value that is not held is got. Once a key at a time, here and across processes."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Final

from smartcache.clock import Clock
from smartcache.codec import UnreadableEntryError, check_json, decode_entry, encode_entry
from smartcache.config import CacheConfig
from smartcache.entry import Entry, judge
from smartcache.errors import ComputeTimeoutError, ReentrantComputeError
from smartcache.flight import Flight
from smartcache.freshness import refresh_early
from smartcache.holdings import Holdings
from smartcache.request import Request
from smartcache.store import RedisStore, StoreUnavailableError
from smartcache.tally import Tally

__all__ = ["Loader"]

#: Below this chance X-Fetch's draw is not made: e**-40.
_HARDLY: Final = 40.0
_LEASE_POLL_SECONDS: Final = (0.005, 0.01, 0.02, 0.04)
#: The store's clock read twice may differ by this much before an entry is "from the future".
_CLOCK_SLACK: Final = 0.001
_MOST_FAILURES: Final = 10_000

#: The keys, by engine, whose computes led to the code that runs now.
_computing: contextvars.ContextVar[frozenset[tuple[int, str]]] = contextvars.ContextVar(
    "smartcache_computing", default=frozenset()
)


class Loader:
    """Computes values, shares computes, stores results, refreshes behind requests.

    Args:
        config: settings.
        clock: where time comes from.
        rng: draws from [0, 1).
        tally: where it counts.
        holdings: what this process holds.
        store: the store tier, if any.
        owes_the_store: whether the store has yet to hear of changes made here, so that what it holds may be retired.
    """

    def __init__(
        self,
        config: CacheConfig,
        clock: Clock,
        rng: Callable[[], float],
        tally: Tally,
        holdings: Holdings,
        store: RedisStore | None,
        owes_the_store: Callable[[], bool],
    ) -> None:
        self._config = config
        self._clock = clock
        self._rng = rng
        self._tally = tally
        self._holdings = holdings
        self._store = store
        self._owes_the_store = owes_the_store
        self._tasks: set[asyncio.Task[Any]] = set()
        self._rests: dict[str, float] = {}
        self._refreshing = 0

    def check_reentry(self, key: str) -> None:
        """Refuse to wait for a compute that itself waits here.

        Raises:
            ReentrantComputeError: ``key`` is asked for by its own compute.
        """
        if (id(self), key) in _computing.get():
            raise ReentrantComputeError(
                f"the compute of {key!r} asked for {key!r}, which would wait for itself for ever: "
                "call the function it needs directly"
            )

    def rests(self, key: str, now: float) -> bool:
        """Whether the key's compute failed a moment ago and is left alone while a held value serves."""
        return now < self._rests.get(key, 0.0)

    async def close(self) -> None:
        """Give up background refreshes of the running loop."""
        here = asyncio.get_running_loop()
        tasks = [task for task in self._tasks if task.get_loop() is here]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- from the store ----------------------------------------------------------------------------------------------

    async def read(self, request: Request) -> Entry | None:
        """The valid entry in the store, if any; also taken into memory.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        assert self._store is not None
        epoch = self._holdings.epoch
        reading = await self._store.read(request.key, request.versions)
        entry = self._decode(request.key, reading.data, reading.now)
        if entry is not None and not entry.versions.keys() <= reading.versions.keys():
            # Stored by a request that knew its match; this one does not.
            reading = await self._store.read(request.key, tuple(entry.versions))
            entry = self._decode(request.key, reading.data, reading.now)
        if entry is None or any(reading.versions.get(name) != number for name, number in entry.versions.items()):
            return None
        self._holdings.take_in(entry, epoch)
        return entry

    def _decode(self, key: str, data: bytes | None, store_now: float) -> Entry | None:
        if data is None:
            return None
        try:
            stored = decode_entry(data)
        except UnreadableEntryError:
            self._tally.unreadable.add()
            return None
        age = store_now - stored.written
        if age < -_CLOCK_SLACK:
            return None  # from the future: the store's clock was set back
        return Entry.from_stored(key, stored, self._clock.monotonic() - max(0.0, age))

    # -- computing ---------------------------------------------------------------------------------------------------

    async def load(
        self,
        request: Request,
        held: Entry | None = None,
        *,
        held_until: float = 0.0,
        only_later: bool = False,
        keep: bool = True,
    ) -> Entry:
        """Run or join the compute of a key and wait for it, no longer than the time-outs allow.

        Args:
            request: who asks.
            held: what is held meanwhile.
            held_until: age up to which that may be served should the compute fail or be late.
            only_later: share only a compute that starts from now on.
            keep: whether the result may be held at all.

        Raises:
            ComputeTimeoutError: it took too long.
            Exception: what the compute raised.
        """
        board = self._holdings.board
        flight, before, mine = board.join(request.key, request.match_id, request.market, only_later)
        if mine:
            self._spawn(self._fly(flight, before, request, held, keep=keep, exclusive=only_later))
        else:
            request.coalesced = True
            self._tally.coalesced.add()
        patience = self._hard_timeout(request)
        setting = "hard_timeout"
        soft = self._config.soft_timeout if request.soft_timeout is None else request.soft_timeout
        may_serve = held is not None and self._clock.monotonic() - held.born < held_until
        if soft is not None and soft < patience and may_serve:
            patience, setting = soft, "soft_timeout"
        try:
            async with asyncio.timeout(patience) as waiting:
                return await flight.result()
        except TimeoutError as error:
            if not waiting.expired():
                raise
            raise ComputeTimeoutError(
                f"the compute of {request.key!r} took longer than {patience:g} s ({setting})"
            ) from error
        finally:
            request.gone = flight.gone

    async def _fly(
        self,
        flight: Flight[Entry],
        before: Flight[Entry] | None,
        request: Request,
        held: Entry | None,
        *,
        keep: bool,
        exclusive: bool,
    ) -> None:
        """Bring a flight to its end, whatever that is."""
        try:
            if before is not None:
                await before.landed()
            flight.started = True
            entry = await self._get(flight, request, held, keep=keep, exclusive=exclusive)
        except asyncio.CancelledError:
            flight.fail(ComputeTimeoutError(f"the compute of {request.key!r} was given up: its event loop is ending"))
            raise
        except Exception as error:
            self._let_rest(request.key)
            flight.fail(error)
        else:
            self._rests.pop(request.key, None)
            flight.succeed(entry)
        finally:
            self._holdings.board.leave(request.key, flight)

    async def _get(
        self, flight: Flight[Entry], request: Request, held: Entry | None, *, keep: bool, exclusive: bool
    ) -> Entry:
        """Get the lease, compute, and store under the versions the compute began with."""
        store = self._store if keep else None
        token = secrets.token_hex(8)
        versions: dict[str, str] = {}
        if store is not None:
            try:
                found = await self._wait_for_lease(store, request, held, token, exclusive)
            except StoreUnavailableError:
                store = None
            else:
                if isinstance(found, Entry):
                    return found
                versions = found
        renewal = None if store is None else self._spawn(self._renew(store, request.key, token))
        leased = store is not None
        try:
            began = self._clock.monotonic()
            value = await self._compute(request)
            entry = self._entry(request, value, self._clock.monotonic() - began, versions)
            payload = encode_entry(entry.envelope())
            entry.size = len(payload)
            lasts = self._lasts(request, entry)
            if not keep or lasts <= 0:
                return entry
            written = True
            if store is not None:
                try:
                    written = await store.commit(
                        request.key, token, payload, lasts, request.match_id, request.market, versions
                    )
                    leased = False
                except StoreUnavailableError:
                    store = None  # then at least this process has it
            if not written or (not self._holdings.keep(entry, flight) and store is None):
                self._tally.writes_fenced.add()
            return entry
        finally:
            if renewal is not None:
                renewal.cancel()
            if leased and store is not None:
                self._spawn(self._release(store, request.key, token))

    async def _wait_for_lease(
        self, store: RedisStore, request: Request, held: Entry | None, token: str, exclusive: bool
    ) -> dict[str, str] | Entry:
        """Wait for the lease on a key, or for the value that the process which has it brings.

        Returns:
            The versions to compute under, once the lease is ours; or the other process's value.
        """
        attempt = 0
        known = 0.0 if held is None else held.written
        while True:
            epoch = self._holdings.epoch
            lease = await store.begin(request.key, token, request.versions)
            newer = None if exclusive or self._owes_the_store() else self._decode(request.key, lease.data, lease.now)
            if newer is not None and newer.written > known and not newer.expired:
                now = self._clock.monotonic()
                life = judge(newer, request, math.inf, self._config.default_ttl, now, self._clock.time())
                current = all(lease.versions.get(name, number) == number for name, number in newer.versions.items())
                if current and now - newer.born < life.expiry:
                    if lease.granted:
                        await store.release(request.key, token)
                    self._holdings.take_in(newer, epoch)
                    if attempt:
                        self._tally.coalesced.add()
                    return newer
            if lease.granted:
                return lease.versions
            await asyncio.sleep(_LEASE_POLL_SECONDS[min(attempt, len(_LEASE_POLL_SECONDS) - 1)])
            attempt += 1

    async def _compute(self, request: Request) -> Any:
        tally = self._tally
        hard = self._hard_timeout(request)
        token = _computing.set(_computing.get() | {(id(self), request.key)})
        start = self._clock.monotonic()
        tally.computes_in_progress.add(1)
        outcome = "error"
        try:
            async with asyncio.timeout(hard) as running:
                awaitable = request.compute()
                if not inspect.isawaitable(awaitable):
                    raise TypeError(
                        f"compute_fn for {request.key!r} returned {type(awaitable).__name__}, not an awaitable: "
                        "make it an async function"
                    )
                value = await awaitable
            check_json(value)
            outcome = "success"
            return value
        except TimeoutError as error:
            if not running.expired():
                raise
            outcome = "timeout"
            raise ComputeTimeoutError(
                f"the compute of {request.key!r} took longer than {hard:g} s (hard_timeout)"
            ) from error
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            _computing.reset(token)
            tally.computes_in_progress.add(-1)
            tally.computes[outcome].add()
            tally.compute_duration.observe(self._clock.monotonic() - start)

    def _entry(self, request: Request, value: Any, seconds: float, versions: dict[str, str]) -> Entry:
        return Entry(
            request.key,
            value,
            born=self._clock.monotonic(),
            compute_seconds=seconds,
            kickoff=request.kickoff,
            lineup_confirmed=bool(request.lineup_confirmed),
            match_id=request.match_id,
            market=request.market,
            ttl=request.ttl,
            stale_for=request.stale_for,
            stale_if_error_for=request.stale_if_error_for,
            shorten=1 - self._config.jitter * self._rng(),
            versions=versions,
        )

    def error_limit(self, request: Request, held: Entry, store_answers: bool) -> float:
        """Age in seconds up to which a held value may be served when its compute fails; never past kickoff."""
        config = self._config
        limit = config.stale_if_error_for if store_answers else config.stale_if_store_down_for
        for set_by_caller in (held.stale_if_error_for, request.stale_if_error_for):
            if set_by_caller is not None:
                limit = set_by_caller
        kickoff = held.kickoff if request.kickoff is None else request.kickoff
        if kickoff is None:
            return limit
        return min(limit, kickoff - self._clock.time() + self._clock.monotonic() - held.born)

    def _lasts(self, request: Request, entry: Entry) -> float:
        """Seconds for which the entry can be of use at all; 0 for a match that has started."""
        life = judge(entry, request, math.inf, self._config.default_ttl, entry.born, self._clock.time())
        return max(life.stale_until, self.error_limit(request, entry, store_answers=True)) if life.expiry > 0 else 0.0

    def _hard_timeout(self, request: Request) -> float:
        return self._config.hard_timeout if request.hard_timeout is None else request.hard_timeout

    async def _renew(self, store: RedisStore, key: str, token: str) -> None:
        while True:
            await asyncio.sleep(self._config.lease_seconds / 3)
            try:
                if not await store.renew(key, token):
                    return
            except StoreUnavailableError:
                continue

    async def _release(self, store: RedisStore, key: str, token: str) -> None:
        try:
            await store.release(key, token)
        except StoreUnavailableError:
            return  # it runs out by itself

    def _let_rest(self, key: str) -> None:
        now = self._clock.monotonic()
        if len(self._rests) >= _MOST_FAILURES:
            self._rests = {name: until for name, until in self._rests.items() if until > now}
        self._rests[key] = now + self._config.error_backoff

    # -- refreshing behind requests ----------------------------------------------------------------------------------

    def draws_early_refresh(self, entry: Entry, remaining: float) -> bool:
        """Whether X-Fetch asks for a refresh ``remaining`` seconds before expiry; one at a time per key."""
        if remaining > self.reach(entry) or self._holdings.board.get(entry.key) is not None:
            return False
        return refresh_early(remaining, entry.compute_seconds, self._config.xfetch_beta, 1.0 - self._rng())

    def reach(self, entry: Entry) -> float:
        """Seconds before expiry from which on X-Fetch may draw a refresh."""
        return entry.compute_seconds * self._config.xfetch_beta * _HARDLY

    def refresh_behind(self, request: Request, entry: Entry) -> None:
        """Start a refresh, unless one is under way or too many are."""
        if self._holdings.board.get(request.key) is not None:
            return
        if self._refreshing >= self._config.refreshes_at_once:
            self._tally.refreshes_skipped.add()
            return
        self._refreshing += 1
        self._tally.refreshes_in_progress.set(self._refreshing)
        self._spawn(self._refresh(request.for_refresh(self._config.refresh_timeout), entry))

    async def _refresh(self, request: Request, entry: Entry) -> None:
        _computing.set(frozenset())  # nobody waits for a refresh
        try:
            board = self._holdings.board
            flight, before, mine = board.join(request.key, request.match_id, request.market, only_later=False)
            if not mine:
                return
            await self._fly(flight, before, request, entry, keep=True, exclusive=False)
            try:
                await flight.result()
            except Exception:
                self._tally.refresh_errors.add()
            else:
                self._tally.refresh_successes.add()
        finally:
            self._refreshing -= 1
            self._tally.refreshes_in_progress.set(self._refreshing)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

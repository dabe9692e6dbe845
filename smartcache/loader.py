"""The loader: how a value that is not held is got. Once a key at a time, here and across processes."""

from __future__ import annotations

import asyncio
import inspect
import math
import secrets
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from smartcache import compute, protocol, tracing
from smartcache.clock import Clock
from smartcache.codec import UnreadableEntryError, check_json, decode_entry, encode_entry
from smartcache.compute import ComputeContext
from smartcache.config import CacheConfig
from smartcache.entry import Entry, judge
from smartcache.errors import ComputeCancelledError, ComputeTimeoutError, ReentrantComputeError
from smartcache.flight import Flight
from smartcache.freshness import refresh_early
from smartcache.holdings import Holdings
from smartcache.protocol import NEVER, moved
from smartcache.request import Request
from smartcache.store import Begun, Bus, Reading, Store, StoreUnavailableError
from smartcache.tally import Tally

__all__ = ["Loader"]

#: Below this chance X-Fetch's draw is not made: e**-40.
_HARDLY: Final = 40.0
#: The store's clock read twice may differ by this much before an entry is "from the future".
_CLOCK_SLACK: Final = 0.001
_MOST_FAILURES: Final = 10_000


class Loader:
    """Computes values, shares computes, stores results, refreshes behind requests.

    Args:
        config: settings.
        clock: where time comes from.
        rng: draws from [0, 1).
        tally: where it counts.
        holdings: what this process holds.
        store: the store tier, if any.
        bus: gives the bus, if there is one by now.
        origin: this process's random name.
    """

    def __init__(
        self,
        config: CacheConfig,
        clock: Clock,
        rng: Callable[[], float],
        tally: Tally,
        holdings: Holdings,
        store: Store | None,
        bus: Callable[[], Bus | None],
        origin: str,
    ) -> None:
        self._config = config
        self._clock = clock
        self._rng = rng
        self._tally = tally
        self._holdings = holdings
        self._store = store
        self._bus = bus
        self._origin = origin
        self._tasks: set[asyncio.Task[Any]] = set()
        self._rests: dict[str, float] = {}
        self._most_rests = _MOST_FAILURES
        self._refreshing: set[Flight[Entry]] = set()
        self._reach = config.xfetch_beta * _HARDLY

    def check_reentry(self, key: str) -> None:
        """Refuse to wait for a compute that itself waits here.

        Raises:
            ReentrantComputeError: ``key`` is asked for by its own compute.
        """
        computes = compute.running.get()
        if computes and any(loader is self and of.key == key and not flight.done for loader, flight, of in computes):
            raise ReentrantComputeError(
                f"the compute of {key!r} asked for {key!r}, which would wait for itself for ever: "
                "call the function it needs directly"
            )

    def rests(self, key: str, now: float) -> bool:
        """Whether the key's compute failed a moment ago and is left alone while a held value serves."""
        return now < self._rests.get(key, 0.0)

    async def close(self) -> None:
        """Give up the computes and background refreshes of the running loop."""
        here = asyncio.get_running_loop()
        tasks = [task for task in self._tasks.copy() if task.get_loop() is here]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- from the store ----------------------------------------------------------------------------------------------

    def accept(self, key: str, reading: Reading, epoch: int, asked: float) -> tuple[Entry | None, tuple[str, ...]]:
        """The valid entry that a read of the store found, if any; also taken into memory.

        Args:
            key: what was read.
            reading: what was found.
            epoch: ``Holdings.epoch`` when it was asked for.
            asked: the monotonic clock then.

        Returns:
            The entry; and, instead of one, the names of the versions with which to read again: it was stored by a
            request that knew its match or tags, and this one does not.
        """
        data, versions, now = reading
        if data is None or (entry := self._decode(key, data, now, asked)) is None:
            return None, ()
        if entry.versions != versions:
            if not versions.keys() >= entry.versions.keys():
                return None, tuple(entry.versions)
            state = moved(entry.versions, versions)
            if state == "gone":
                return None, ()
            entry.expired = entry.expired or state == "expired"
        self._holdings.take_in(entry, epoch)
        return entry, ()

    def _decode(self, key: str, data: bytes | None, store_now: float, asked: float) -> Entry | None:
        """The entry in an answer of the store; its age is counted from when it was asked, so the way adds to it."""
        if data is None:
            return None
        try:
            stored = decode_entry(data)
        except UnreadableEntryError:
            self._tally.unreadable.add()
            return None
        age = store_now - int(stored.written) / 1e6
        if age < 0:
            if age < -_CLOCK_SLACK:
                return None  # from the future: the store's clock was set back
            age = 0.0
        return Entry.from_stored(key, stored, asked - age)

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
        flight, before, mine = board.join(request, only_later)
        seen = len(flight.changes)
        if mine:
            self._launch(flight, before, request, held, keep=keep)
        else:
            self._share(request)
        now = self._clock.monotonic()
        patience = self._hard_timeout(request)
        setting = "hard_timeout"
        soft = self._config.soft_timeout if request.soft_timeout is None else request.soft_timeout
        may_serve = held is not None and now - held.born < held_until
        if soft is not None and soft < patience and may_serve:
            patience, setting = soft, "soft_timeout"
        waited = 0.0 if request.asked is None else now - request.asked  # for the store, before it came to this
        try:
            async with asyncio.timeout(max(0.0, patience - waited)) as waiting:
                entry = await flight.result()
                if any(change.concerns(entry) for change in flight.changes[:seen]):
                    # Its compute named a tag that had been invalidated before this question came.
                    return await self.load(request, held, held_until=held_until, only_later=True, keep=keep)
                return entry
        except ComputeCancelledError:
            if not flight.given_up or flight.loop is asyncio.get_running_loop():
                raise
            # Another loop ended under it.
            return await self.load(request, held, held_until=held_until, only_later=only_later, keep=keep)
        except TimeoutError as error:
            if not waiting.expired():
                raise
            raise ComputeTimeoutError(
                f"the compute of {request.key!r} took longer than {patience:g} s ({setting})"
            ) from error
        finally:
            request.gone = request.gone or flight.gone or (held is not None and flight.took_away(held))

    def _share(self, request: Request) -> None:
        """Count a request, once, that shares what another has started; refreshes and warming are none."""
        if request.asked is not None and not request.coalesced:
            request.coalesced = True
            self._tally.coalesced.add()

    def _launch(
        self, flight: Flight[Entry], before: Flight[Entry] | None, request: Request, held: Entry | None, *, keep: bool
    ) -> asyncio.Task[None]:
        """Start a flight; whatever becomes of its task, it lands."""

        def land(task: asyncio.Task[None]) -> None:
            if not flight.done:
                flight.given_up = True
                flight.fail(
                    ComputeCancelledError(
                        f"the compute of {request.key!r} was given up: the cache was closed or its loop is ending"
                    )
                )
            self._holdings.board.leave(request.key, flight)

        task = self._spawn(self._fly(flight, before, request, held, keep=keep))
        task.add_done_callback(land)
        return task

    async def _fly(
        self, flight: Flight[Entry], before: Flight[Entry] | None, request: Request, held: Entry | None, *, keep: bool
    ) -> None:
        if before is not None:
            await before.landed()
        flight.started = True
        try:
            with _refresh_span(request):
                work = self._get(flight, request, held, keep=keep)
                entry = await (work if request.compute_timeout is None else self._in_time(request, work))
        except Exception as error:
            self._let_rest(request.key)
            self._holdings.board.leave(request.key, flight)
            flight.fail(error)
        else:
            self._rests.pop(request.key, None)
            self._holdings.board.leave(request.key, flight)
            flight.succeed(entry)

    async def _in_time(self, request: Request, work: Coroutine[Any, Any, Entry]) -> Entry:
        """Give a refresh its time for everything, the wait for a lease included."""
        try:
            async with asyncio.timeout(request.compute_timeout) as given:
                return await work
        except TimeoutError as error:
            if not given.expired():
                raise
            raise ComputeTimeoutError(
                f"the refresh of {request.key!r} took longer than {request.compute_timeout:g} s (refresh_timeout)"
            ) from error

    async def _get(self, flight: Flight[Entry], request: Request, held: Entry | None, *, keep: bool) -> Entry:
        """Get the lease, compute, and store under the versions the compute began with."""
        bus = self._bus()
        # A store that has yet to hear of a change made here would let its old versions pass. Where there is no bus the
        # cache was closed after the question came.
        store = self._store if keep and bus is not None and not self.owes_the_store() else None
        token = secrets.token_hex(8)
        begun = None
        position = None if bus is None else bus.position
        if store is not None:
            try:
                found = await self._wait_for_lease(store, flight, request, held, token)
            except asyncio.CancelledError:
                await self._release(store, request.key, token)  # it may have been given
                raise
            except StoreUnavailableError:
                # The lease may have been given although its answer was lost.
                self._spawn(self._release(store, request.key, token))
                store = None
            else:
                if isinstance(found, Entry):
                    return found
                begun = found
        renewal = None
        if store is not None:
            renewal = _Renewal(self._config.lease_seconds / 3, self._spawn, self._renew(store, request.key, token))
        leased = begun is not None
        try:
            began = self._clock.monotonic()
            context = ComputeContext(request.key)
            if held is not None:
                context.held, context.held_age = held.value, began - held.born
            with tracing.current.get().part("smartcache.compute", {"smartcache.key": request.key}):
                value = await self._compute(flight, request, context)
            seconds = self._clock.monotonic() - began
            if keep and store is not None and begun is not None:
                begun = await self._with_late_versions(store, begun, request, context, position)
                keep = begun is not None
                if not keep:
                    self._tally.writes_fenced.add()
            entry = self._entry(request, value, seconds, context, begun)
            payload = encode_entry(entry.envelope())
            entry.size = len(payload)
            lasts = self._lasts(request, entry)
            if not keep or not context.storing or lasts <= 0:
                return entry
            written = True
            if store is not None and begun is not None:
                try:
                    stamp = await store.commit(
                        request.key, payload, lasts, request.match_id, request.market, entry.tags, begun
                    )
                except StoreUnavailableError:
                    self._spawn(self._release(store, request.key, token))
                    store = None  # then at least this process has it
                else:
                    entry.written, written = stamp or "", stamp is not None
                leased = False
            if not written or (not self._holdings.keep(entry, flight) and store is None):
                self._tally.writes_fenced.add()
            return entry
        except asyncio.CancelledError:
            if leased and store is not None:  # its loop may end with this task
                leased = False
                await self._release(store, request.key, token)
            raise
        finally:
            if renewal is not None:
                renewal.end()
            if leased and store is not None:
                self._spawn(self._release(store, request.key, token))

    def owes_the_store(self) -> bool:
        """Whether the store has yet to hear of a change made here; until then it may hold what was retired."""
        bus = self._bus()
        return bus is not None and bus.queued > 0

    async def _wait_for_lease(
        self, store: Store, flight: Flight[Entry], request: Request, held: Entry | None, token: str
    ) -> Begun | Entry:
        """Wait for the lease on a key, or for the value that the process which has it brings.

        Returns:
            What to compute under, once the lease is ours; or the other process's value.
        """
        newer_than = "" if held is None else held.written
        # Who must not share an older compute may share one that another process began after this question.
        begun_from = NEVER if flight.exclusive else ""

        async def ask() -> Begun | Entry | float:
            nonlocal newer_than, begun_from
            while True:
                epoch, asked = self._holdings.epoch, self._clock.monotonic()
                lease = await store.begin(request.key, token, request.versions, newer_than, begun_from, self._origin)
                if begun_from == NEVER:
                    begun_from = lease.stamp
                if lease.state == "granted":
                    return Begun(token, lease.stamp, lease.versions)
                if lease.state == "refused":
                    return lease.left
                if self.owes_the_store():
                    raise StoreUnavailableError("it has yet to hear of a change made here, which may mean the value")
                entry = self._decode(request.key, lease.data, lease.now, asked)
                numbers: Mapping[str, str | None] = lease.versions
                if entry is not None and not numbers.keys() >= entry.versions.keys():
                    # Stored by one who knew its match or tags.
                    numbers = (await store.read(request.key, tuple(entry.versions))).versions
                if entry is not None and self._will_do(entry, request, numbers):
                    self._holdings.take_in(entry, epoch)
                    return entry
                newer_than = NEVER if entry is None else entry.written

        answer = await ask()
        if not isinstance(answer, float):
            return answer
        with store.waiting(request.key) as until_free:
            while True:
                answer = await ask()
                if not isinstance(answer, float):
                    if isinstance(answer, Entry):
                        self._share(request)
                    return answer
                await until_free(answer)

    def _will_do(self, entry: Entry, request: Request, versions: Mapping[str, str | None]) -> bool:
        """Whether a value that another process has stored answers the request."""
        now = self._clock.monotonic()
        life = judge(entry, request, math.inf, self._config.default_ttl, now, self._clock.time())
        fresh = not entry.expired and now - entry.born < life.expiry
        return fresh and entry.satisfies(request) and moved(entry.versions, versions) == "same"

    async def _with_late_versions(
        self, store: Store, begun: Begun, request: Request, context: ComputeContext, position: Any
    ) -> Begun | None:
        """What the write is held to, with the versions of tags that the compute named; None if one may have moved."""
        late = [protocol.tag_version(tag) for tag in context.tags if tag not in request.tags]
        if not late:
            return begun
        try:
            found = None if position is None else await store.late_versions(late, position)
        except StoreUnavailableError:
            found = None
        return None if found is None else begun._replace(versions={**begun.versions, **found})

    async def _compute(self, flight: Flight[Entry], request: Request, context: ComputeContext) -> Any:
        tally = self._tally
        # Callers have their own patience; one in a hurry must not take the compute from the others.
        hard = request.compute_timeout or max(self._config.hard_timeout, self._hard_timeout(request))
        token = compute.running.set((*compute.running.get(), (self, flight, context)))
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
        except asyncio.CancelledError as error:
            outcome = "cancelled"
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise ComputeCancelledError(f"the compute of {request.key!r} was cancelled from within") from error
        finally:
            compute.running.reset(token)
            tally.computes_in_progress.add(-1)
            tally.computes[outcome].add()
            tally.compute_duration.observe(self._clock.monotonic() - start)

    def _entry(
        self, request: Request, value: Any, seconds: float, context: ComputeContext, begun: Begun | None
    ) -> Entry:
        return Entry(
            request.key,
            value,
            born=self._clock.monotonic(),
            compute_seconds=seconds,
            kickoff=request.kickoff,
            lineup_confirmed=bool(request.lineup_confirmed),
            match_id=request.match_id,
            market=request.market,
            ttl=least(request.ttl, context.ttl),
            stale_for=request.stale_for,
            stale_if_error_for=request.stale_if_error_for,
            shorten=1 - self._config.jitter * self._rng(),
            tags=tuple(dict.fromkeys((*request.tags, *context.tags))),
            versions={} if begun is None else begun.versions,
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

    async def _renew(self, store: Store, key: str, token: str) -> None:
        """Prolong a lease, now and again, until it is lost."""
        while True:
            try:
                if not await store.renew(key, token):
                    return
            except StoreUnavailableError:
                pass  # the next time may be in time
            await asyncio.sleep(self._config.lease_seconds / 3)

    async def _release(self, store: Store, key: str, token: str) -> None:
        try:
            await store.release(key, token)
        except StoreUnavailableError:
            return  # it runs out by itself

    def _let_rest(self, key: str) -> None:
        now = self._clock.monotonic()
        if len(self._rests) >= self._most_rests:
            rests = {name: until for name, until in self._rests.copy().items() if until > now}
            self._rests, self._most_rests = rests, max(_MOST_FAILURES, 2 * len(rests))  # amortised
        self._rests[key] = now + self._config.error_backoff

    # -- refreshing behind requests ----------------------------------------------------------------------------------

    def draws_early_refresh(self, entry: Entry, remaining: float) -> bool:
        """Whether X-Fetch asks for a refresh ``remaining`` seconds before expiry; one at a time per key."""
        if remaining > entry.compute_seconds * self._reach or self._holdings.board.get(entry.key) is not None:
            return False
        if self.rests(entry.key, self._clock.monotonic()):
            return False
        return refresh_early(remaining, entry.compute_seconds, self._config.xfetch_beta, 1.0 - self._rng())

    def reach(self, entry: Entry) -> float:
        """Seconds before expiry from which on X-Fetch may draw a refresh."""
        return entry.compute_seconds * self._reach

    def refresh_behind(self, asked_by: Request, entry: Entry) -> bool:
        """Start a refresh, unless one is under way or too many are; whether it was started."""
        if self._holdings.board.get(asked_by.key) is not None:
            return False
        if len(self._refreshing) >= self._config.refreshes_at_once:
            # A loop that was stopped brings its refreshes to no end.
            self._refreshing = {flight for flight in list(self._refreshing) if flight.loop.is_running()}
        if len(self._refreshing) >= self._config.refreshes_at_once:
            self._tally.refreshes_skipped.add()
            return False
        request = asked_by.for_refresh(self._config.refresh_timeout)
        flight, before, mine = self._holdings.board.join(request, only_later=False)
        if not mine:
            return False
        self._refreshing.add(flight)
        self._tally.refreshes_in_progress.set(len(self._refreshing))

        def count(task: asyncio.Task[None]) -> None:
            self._refreshing.discard(flight)
            self._tally.refreshes_in_progress.set(len(self._refreshing))
            (self._tally.refresh_errors if flight.failed else self._tally.refresh_successes).add()

        # Nobody waits for a refresh, so what it asks for in turn is its own affair.
        waited_for = compute.running.set(())
        self._launch(flight, before, request, entry, keep=True).add_done_callback(count)
        compute.running.reset(waited_for)
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Renewal:
    """Keeps a lease while a compute runs. Most computes end before the first renewal is due, and cost a timer."""

    def __init__(
        self,
        after: float,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        work: Coroutine[Any, Any, None],
    ) -> None:
        self._spawn = spawn
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self._due = asyncio.get_running_loop().call_later(after, self._start)

    def _start(self) -> None:
        self._task = self._spawn(self._work)

    def end(self) -> None:
        """The compute has ended."""
        self._due.cancel()
        if self._task is None:
            self._work.close()
        else:
            self._task.cancel()


def _refresh_span(request: Request) -> AbstractContextManager[object]:
    """Of a refresh, a trace of its own, linked to the request that asked for it and did not wait."""
    if request.compute_timeout is None:
        return nullcontext()
    return tracing.current.get().follow_up("smartcache.refresh", {"smartcache.key": request.key})


def least(one: float | None, other: float | None) -> float | None:
    """The smaller of two limits, of which either may be missing."""
    return other if one is None else one if other is None else min(one, other)

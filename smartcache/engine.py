"""The engine: started match? then volatility, lookup, judged at serve, serve or compute, store."""

from __future__ import annotations

import asyncio
import copy as copies
import math
import os
import random
import secrets
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypedDict, TypeVar, Unpack

from smartcache.batch import Batch
from smartcache.clock import Clock, SystemClock
from smartcache.config import CacheConfig
from smartcache.entry import Entry, judge
from smartcache.errors import ConfigError
from smartcache.freshness import Lifetime
from smartcache.golden_hour import MATCH_STARTED, GoldenHour, zone_at
from smartcache.holdings import EVERYTHING, Holdings
from smartcache.keys import check_key, match_id_of
from smartcache.layout import OUTCOMES
from smartcache.loader import Loader
from smartcache.memory import MemoryTier
from smartcache.metrics import CacheMetrics
from smartcache.protocol import Change
from smartcache.request import (
    Limits,
    MatchContext,
    Request,
    check_flags,
    check_many,
    check_odds,
    check_tags,
    is_odds,
)
from smartcache.result import CacheResult
from smartcache.standing import Standing
from smartcache.store import Bus, Handlers, Store, StoreUnavailableError, Tick
from smartcache.tags import EventType, TagManager
from smartcache.tally import Tally
from smartcache.tracing import Tracer, current
from smartcache.volatility import CELLS, NORMAL, PANIC, Governor, Volatility, VolatilityLimits
from smartcache.warming import Progress, Wanted, Warmed, warm_all

__all__ = ["Health", "InvalidationResult", "MatchContext", "SmartCache", "SmartCacheEnhanced"]

V = TypeVar("V")
P = ParamSpec("P")

_OUTCOME: Final = {outcome.name: number for number, outcome in enumerate(OUTCOMES)}
_BYPASS_PANIC: Final = _OUTCOME["bypass_panic"]
_BYPASS_FORCED: Final = _OUTCOME["bypass_forced"]
_BYPASS_STARTED: Final = _OUTCOME["bypass_started"]
_FRESH: Final = {"memory": _OUTCOME["fresh_memory"], "store": _OUTCOME["fresh_store"]}
_STALE: Final = {"memory": _OUTCOME["stale_memory"], "store": _OUTCOME["stale_store"]}
_ON_ERROR: Final = {"memory": _OUTCOME["error_memory"], "store": _OUTCOME["error_store"]}
_ABSENT: Final = _OUTCOME["absent"]
_TOO_STALE: Final = _OUTCOME["too_stale"]
_NO_CONTEXT: Final[MatchContext] = {}
#: Seconds between two looks at a mode that is not normal.
_MODE_LOOKED_AT_EVERY: Final = 15.0
#: Seconds by which the clocks of two processes may differ.
_CLOCKS_DIFFER_BY: Final = 5.0


class InvalidationResult(TypedDict):
    """What an event retired.

    ``invalidated_count`` counts entries, the other numbers markets; ``acknowledged`` is false while the store has not
    confirmed: then it holds in this process and is delivered to the others as soon as the store answers.
    """

    invalidated_count: int
    affected_markets: list[str]
    cpu_saving_pct: float
    total_markets: int
    reasoning: str
    acknowledged: bool


class ChangeCount(int):
    """How many values a change met, as a number.

    Attributes:
        acknowledged: whether the store has confirmed; otherwise the change holds in this process, and is delivered to
            the others as soon as the store answers.
    """

    acknowledged: bool

    def __new__(cls, count: int, acknowledged: bool) -> ChangeCount:
        """A count, confirmed or not."""
        self = super().__new__(cls, count)
        self.acknowledged = acknowledged
        return self


class Health(TypedDict):
    """State of the engine's parts, for readiness pages."""

    store: str
    breaker: str
    bus: str
    governor: str
    queued_invalidations: int


class SmartCache:
    """An async cache with a memory tier and, where one is configured, a Valkey or Redis tier.

    Everything it works with can be handed in; without arguments it is set up from the environment on first use.
    Constructing it opens no connection.

    Args:
        config: settings; None reads them from the environment on first use.
        store: the store tier; None connects to ``config.redis_url`` if that is set.
        clock: where time comes from.
        metrics: where it counts; None makes a recorder of its own from the settings.
        rng: draws from [0, 1).
        tag_manager: the tables of events and markets.
        tracer: who records traces, such as :class:`exporter.tracing.Tracing`; also an attribute, to be set before use.
    """

    tracer: Tracer | None
    config: CacheConfig
    clock: Clock
    metrics: CacheMetrics
    golden_hour: GoldenHour
    tag_manager: TagManager
    volatility: Volatility
    governor: Governor
    _bus: Bus | None
    _store: Store | None
    _tally: Tally
    _holdings: Holdings
    _loader: Loader
    _origin: str
    _mode_shown: str
    _watching: asyncio.AbstractEventLoop | None
    _time: Callable[[], float]
    _monotonic: Callable[[], float]

    def __init__(
        self,
        config: CacheConfig | None = None,
        *,
        store: Store | None = None,
        clock: Clock | None = None,
        metrics: CacheMetrics | None = None,
        rng: Callable[[], float] = random.random,
        tag_manager: TagManager | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._given = (config, store, clock, metrics, tag_manager)
        self._rng = rng
        self.tracer = tracer
        if config is not None:
            self._build()
        _instances.add(self)

    def _attribute(self, name: str) -> Any:
        # Reached only for what is not there yet: first use sets up an instance that was made without settings.
        if "_given" in self.__dict__:
            with _setting_up:
                if "config" not in self.__dict__:
                    self._build()
            if name in self.__dict__:
                return self.__dict__[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    if not TYPE_CHECKING:  # a type checker shall see misspelt names
        __getattr__ = _attribute

    # -- asking ------------------------------------------------------------------------------------------------------

    async def get_or_load(
        self,
        key: str,
        compute_fn: Callable[[], Awaitable[V]],
        *,
        tags: Iterable[str] = (),
        match_context: MatchContext | None = None,
        force_refresh: bool = False,
        copy: bool = False,
        **limits: Unpack[Limits],
    ) -> V:
        """The value of ``key``, computed if it is not held.

        Args:
            key: printable text.
            compute_fn: called without arguments; what it returns is awaited. While it runs,
                :func:`~smartcache.compute_context` tells it what is held and takes what it has to say about its result.
            tags: names by which the value can be expired or deleted with others.
            match_context: what is known about the match.
            force_refresh: compute whatever is held.
            copy: return a value of the caller's own; otherwise it is shared and must not be changed.
            limits: ``ttl``, ``stale_for``, ``stale_if_error_for``, ``soft_timeout``, ``hard_timeout``:
                see :class:`~smartcache.Limits`.

        Raises:
            ComputeTimeoutError: the compute took longer than ``hard_timeout`` and nothing could be served.
            UncacheableValueError: JSON cannot carry the value.
            ReentrantComputeError: ``key`` was asked for by its own compute.
            TypeError, ValueError: an argument that cannot be used.
            Exception: what ``compute_fn`` raised, when nothing could be served.
        """
        if force_refresh is not False or copy is not False:
            check_flags(force_refresh, copy)
        request = self._request(key, compute_fn, match_context, tags, limits)
        answer = None
        entry = None if force_refresh else self._holdings.get(key)
        if (
            entry is not None
            and (standing := entry.standing) is not None
            and entry.is_within(request.ttl, request.stale_for)
            and entry.satisfies(request)
        ):
            answer = self._answer_again(entry, standing, match_context or _NO_CONTEXT)
        if answer is None:
            answer = await self._answer(request, force_refresh)
        return copies.deepcopy(answer.value) if copy else answer.value  # type: ignore[no-any-return]

    async def get_many(
        self,
        keys: Iterable[str],
        load_fn: Callable[[Sequence[str]], Awaitable[Mapping[str, V]]],
        *,
        tags: Iterable[str] = (),
        match_contexts: Mapping[str, MatchContext] | None = None,
        force_refresh: bool = False,
        copy: bool = False,
        **limits: Unpack[Limits],
    ) -> dict[str, V]:
        """The values of many keys, those that are not held computed together.

        Each key is a request of its own, with its own lease and flight, so it is shared with whoever asks for it alone.

        Args:
            keys: what is asked for; a key named twice is asked for once.
            load_fn: given keys, returns their values by key. It is called with the keys that need a compute, mostly
                once; more often when some of them were being computed by others, never twice with the same key.
            tags: for every value, as in :meth:`get_or_load`.
            match_contexts: what is known about the match, by key.
            force_refresh: compute whatever is held.
            copy: return values of the caller's own.
            limits: as in :meth:`get_or_load`.

        Returns:
            The values in the order of ``keys``.

        Raises:
            Exception: as in :meth:`get_or_load`, the first when all have ended.
        """
        check_flags(force_refresh, copy)
        check_many("keys", keys)
        tags, contexts, batch = check_tags(tags), match_contexts or {}, Batch(load_fn)
        asked = dict.fromkeys(keys)
        if not contexts.keys() <= asked.keys():
            stray = next(key for key in contexts if key not in asked)
            raise ValueError(f"match_contexts has {stray!r}, which is not among the keys asked for")
        requests = [self._request(key, partial(batch.load, key), contexts.get(key), tags, limits) for key in asked]
        answers = await asyncio.gather(
            *(self._answer(request, force_refresh) for request in requests), return_exceptions=True
        )
        found: dict[str, V] = {}
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            found[request.key] = copies.deepcopy(answer.value) if copy else answer.value
        return found

    def cached(
        self,
        key: Callable[P, str],
        *,
        tags: Iterable[str] | Callable[P, Iterable[str]] = (),
        match_context: Callable[P, MatchContext] | None = None,
        **limits: Unpack[Limits],
    ) -> Callable[[Callable[P, Awaitable[V]]], Callable[P, Awaitable[V]]]:
        """Decorate an async function so that its results are held.

        Args:
            key: gives the key from the function's own arguments.
            tags: for every value, or a function that gives them from the arguments.
            match_context: gives what is known about the match from the arguments.
            limits: as in :meth:`get_or_load`.
        """

        fixed = () if callable(tags) else check_tags(tags)

        def decorate(function: Callable[P, Awaitable[V]]) -> Callable[P, Awaitable[V]]:
            @wraps(function)
            async def ask(*args: P.args, **kwargs: P.kwargs) -> V:
                return await self.get_or_load(
                    key(*args, **kwargs),
                    lambda: function(*args, **kwargs),
                    tags=tags(*args, **kwargs) if callable(tags) else fixed,
                    match_context=None if match_context is None else match_context(*args, **kwargs),
                    **limits,
                )

            return ask

        return decorate

    async def warm(
        self,
        wanted: Iterable[Wanted[Awaitable[Any]]],
        *,
        at_once: int = 16,
        progress: bool | Progress = False,
        **limits: Unpack[Limits],
    ) -> Warmed:
        """Have values ready before anybody asks; this counts as no request.

        Args:
            wanted: what to have ready.
            at_once: computes running at one time.
            progress: True shows a bar (with tqdm); a function is called with how many are done and how many there
                are.
            limits: as in :meth:`get_or_load`.

        Returns:
            How many were computed, held already, skipped; and the failures, which stop nothing.
        """

        async def warm_one(one: Wanted[Awaitable[Any]]) -> Literal["computed", "held", "skipped"]:
            request = self._request(one.key, one.compute_fn, one.match_context, one.tags, limits)
            if request.kickoff is not None and request.kickoff <= self._time():
                return "skipped"
            entry, _, _ = await self._look_up(request, math.inf)
            now = self._monotonic()
            if (
                entry is not None
                and not entry.expired
                and entry.satisfies(request)
                and now - entry.born < self._judge(entry, request, math.inf, now).expiry
            ):
                return "held"
            await self._loader.load(request)
            return "computed"

        self._listen()
        return await warm_all(wanted, warm_one, at_once, progress)

    def _request(
        self,
        key: str,
        compute_fn: Callable[[], Awaitable[Any]],
        match_context: MatchContext | None,
        tags: Iterable[str],
        limits: Limits,
    ) -> Request:
        request = Request(key, compute_fn, _ABSENT)
        if match_context:
            request.read(match_context)
        if tags:
            request.tag(tags)
        if limits:
            request.limit(limits)
        return request

    # -- changing ----------------------------------------------------------------------------------------------------

    async def expire(self, *keys: str, tags: Iterable[str] = ()) -> ChangeCount:
        """Let the next caller wait for a new value; the old one serves only if that fails.

        In this process it holds when the call returns; in the others within 250 ms on a healthy bus.

        Args:
            keys: what to expire.
            tags: expire every value that carries one of these.

        Returns:
            How many values there were.
        """
        return await self._change_all("expire", keys, tags)

    async def delete(self, *keys: str, tags: Iterable[str] = ()) -> ChangeCount:
        """Let go of values everywhere; they are not served again, whatever happens.

        In this process it holds when the call returns; in the others within 250 ms on a healthy bus.

        Args:
            keys: what to delete.
            tags: delete every value that carries one of these.

        Returns:
            How many values there were.
        """
        return await self._change_all("delete", keys, tags)

    async def invalidate_all(self) -> ChangeCount:
        """Retire everything, everywhere. Returns how many values this process held."""
        self._tally.full_invalidations.add()
        met, acknowledged = await self._change(EVERYTHING)
        self._tally.keys_deleted.add(met)
        return ChangeCount(met, acknowledged)

    # -- state -------------------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """State of the parts: ``ok``, ``down`` or ``none`` (not configured)."""
        bus = self._bus
        return Health(
            store="none" if self._store is None else "ok" if self._store_seems_up() else "down",
            breaker="closed" if self._store is None else self._store.breaker_state,
            bus="none" if self._store is None else "ok" if bus is not None and bus.alive else "down",
            governor=self._mode(),
            queued_invalidations=0 if bus is None else bus.queued,
        )

    def _store_seems_up(self) -> bool:
        reached = self._bus is None or self._bus.connected is not False
        return reached and self._store is not None and self._store.breaker_state == "closed"

    async def start(self) -> None:
        """Connect to the store now instead of at the first request; not finding it is no error."""
        if (bus := self._listen()) is not None:
            await asyncio.to_thread(bus.wait_until_tried, 2 * self.config.store_connect_timeout)

    async def close(self) -> None:
        """Give up computes of this loop, connections and threads; the next use starts them anew.

        Who waits for such a compute gets what is held, if a failure may be answered with it, or
        :class:`~smartcache.ComputeCancelledError`. The recorder stays open, so that what ends later is counted too.
        """
        bus, self._bus = self._bus, None
        if bus is not None:
            await asyncio.to_thread(bus.close)
        await self._loader.close()  # the last to use the store, to which it gives leases back
        if bus is not None:
            self._holdings.apply(EVERYTHING)  # from now on nobody hears what is said about it
        if self._store is not None:
            await self._store.close()

    # -- the order of a request --------------------------------------------------------------------------------------

    async def _answer(self, request: Request, force_refresh: bool) -> CacheResult[Any]:
        """Serve a request and count it, once, however it ends."""
        self._loader.check_reentry(request.key)
        if self._bus is None:
            self._listen()
        request.asked = start = self._monotonic()
        result, tracer = None, self.tracer
        asked = None if tracer is None else tracer.asked(request.key)
        try:
            result = await self._decide(request, force_refresh)
            return result
        finally:
            end = self._monotonic()
            self._tally.request(request, start, end)
            if tracer is not None:
                tracer.answered(asked, request, result, start, end)

    async def _decide(self, request: Request, force_refresh: bool) -> CacheResult[Any]:
        wall = self._time()
        if request.kickoff is not None:
            request.zone = zone_at(request.kickoff - wall)
            if request.zone is MATCH_STARTED:
                request.outcome = _BYPASS_STARTED
                return self._computed(request, await self._loader.load(request, only_later=True, keep=False), 0.0)
        request.status = self._judge_odds(request, wall)
        cap = CELLS[self._mode(), NORMAL if request.status is None else request.status]
        if cap is None or force_refresh:
            request.outcome = _BYPASS_PANIC if cap is None else _BYPASS_FORCED
            return self._computed(request, await self._loader.load(request, only_later=True), cap or 0.0)

        entry, tier, store_answers = await self._look_up(request, cap)
        if entry is None:
            return await self._miss(request, None, tier, cap, store_answers)
        now = self._monotonic()
        life, age = self._judge(entry, request, cap, now), now - entry.born
        if request.kickoff is None and entry.kickoff is not None:
            request.kickoff = entry.kickoff
            request.zone = zone_at(entry.kickoff - wall)
        if age >= life.stale_until or entry.expired or not entry.satisfies(request):
            return await self._miss(request, entry, tier, cap, store_answers)
        if age < life.expiry and (tier == "store" or self._trusts_memory(entry, now)):
            request.outcome = _FRESH[tier]
            if self._loader.draws_early_refresh(entry, life.expiry - age):
                if self._loader.refresh_behind(request, entry):
                    self._tally.early_refreshes.add()
            elif tier == "memory" and cap == math.inf:
                self._let_stand(request, entry, life, wall)
            return self._served(request, entry, tier, age, life, "fresh")
        request.outcome = _STALE[tier]
        if not self._loader.rests(request.key, now):
            self._loader.refresh_behind(request, entry)
        return self._served(request, entry, tier, age, life, "stale")

    async def _miss(
        self, request: Request, held: Entry | None, tier: str, cap: float, store_answers: bool
    ) -> CacheResult[Any]:
        """Compute; what is held, too old to serve otherwise, may still serve if that fails."""
        if held is None:
            request.outcome = _ABSENT
            return self._computed(request, await self._loader.load(request), cap)
        request.outcome = _TOO_STALE
        limit = 0.0 if request.status == PANIC else self._loader.error_limit(request, held, store_answers)
        now = self.clock.monotonic()
        if self._loader.rests(request.key, now) and now - held.born < limit:
            return self._served_on_error(request, held, tier, now - held.born, limit)
        try:
            return self._computed(request, await self._loader.load(request, held, held_until=limit), cap)
        except Exception:
            age = self.clock.monotonic() - held.born
            if request.gone or age >= limit or self._panics_now(request):
                raise
            return self._served_on_error(request, held, tier, age, limit)

    async def _look_up(self, request: Request, cap: float) -> tuple[Entry | None, str, bool]:
        """The best entry held, the tier it was found in, and whether the store answered."""
        entry = self._holdings.get(request.key)
        now = self._monotonic()
        bus = self._bus
        hears = bus is None or now - bus.heard <= self.config.bus_silence
        if entry is not None and hears and not entry.expired and entry.satisfies(request):
            life = self._judge(entry, request, cap, now)
            if now - entry.born < life.stale_until:
                return entry, "memory", True
        if self._store is None:
            return entry, "memory" if entry else "none", True
        if bus is not None and bus.queued:  # until the store has heard of it, it may hold what was retired
            return entry, "memory" if entry else "none", False
        accept, epoch = self._loader.accept, self._holdings.epoch
        try:
            reading = await self._store.read(request.key, request.versions)
            found, more = accept(request.key, reading, epoch, now)
            if more:
                now = self._monotonic()
                found, _ = accept(request.key, await self._store.read(request.key, more), epoch, now)
        except StoreUnavailableError:
            entry = self._holdings.get(request.key)  # it may have been dropped meanwhile
            return entry, "memory" if entry else "none", False
        # While the bus is silent what the store holds, or holds no more, is the truth.
        entry = self._holdings.get(request.key) if hears else None
        if found is not None and (entry is None or entry.expired or found.born >= entry.born):
            return found, "store", True
        return entry, "memory" if entry else "none", True

    def _judge(self, entry: Entry, request: Request, cap: float, now: float) -> Lifetime:
        return judge(entry, request, cap, self.config.default_ttl, now, self._time())

    def _let_stand(self, request: Request, entry: Entry, life: Lifetime, wall: float) -> None:
        """Keep the judgement of a fresh value for those who ask the same."""
        if not entry.is_within(request.ttl, request.stale_for):
            return
        version = self.volatility.version
        named = request.match_id and request.market
        windows = self.volatility.keys_of(request.match_id or "", request.market or "") if named else ()
        entry.standing = Standing(
            request,
            entry,
            life,
            self._loader.reach(entry),
            wall,
            (self._tally.cell(request, None), self._tally.cell(request, NORMAL)),
            windows,
            version,
        )
        if entry.expired:  # meanwhile, by another thread
            entry.standing = None

    def _answer_again(self, entry: Entry, standing: Standing, context: MatchContext) -> CacheResult[Any] | None:
        """The answer to a question whose answer stands; None when it has to be judged."""
        start = self._monotonic()
        if (
            start >= standing.until
            or not standing.from_wall <= (wall := self._time()) < standing.until_wall
            or self.governor.mode != "normal"
            or not standing.answers(context)
            or (self._bus is not None and start - self._bus.heard > self.config.bus_silence)
        ):
            return None
        volatility = self.volatility
        status: int | None = None
        if odds := context.get("current_odds"):
            if type(odds) is not dict and not isinstance(odds, Mapping):
                return None  # reading it says what is wrong
            for market_key, price in odds.items():
                check_odds(market_key, price)
            status = volatility.worst(odds.items(), wall)
        elif standing.windows_known != volatility.version:
            return None
        elif standing.windows:
            status = volatility.worst([(market_key, None) for market_key in standing.windows], wall)
        if status is not None:
            if status != NORMAL:
                return None
            self.governor.record(False, start)
        age, end = start - entry.born, self._monotonic()
        self._tally.fresh_hit(standing.cells[status is not None], standing.zone or "none", age, start, end)
        tracer = self.tracer
        if tracer is not None:
            left = tracer.goes_by = tracer.goes_by - 1  # here, since a call would cost more than all the rest
            if left < 0 or end - start >= tracer.asks_from:  # noqa: SIM102 - all that most hits come to
                # While something is recorded, most hits are no part of it.
                if left < 0 or end - start >= tracer.slow_after or current.get().sampled:
                    tracer.hit(entry.key, standing.zone, age, start, end)
        return CacheResult(entry.value, (_FRESH["memory"], "memory", standing.life, standing.zone, age, NORMAL, False))

    def _trusts_memory(self, entry: Entry, now: float) -> bool:
        """Whether an entry in memory may be called fresh.

        While the bus is silent something may have been said about it, here or where the store still answers; so what
        was computed since the silence was noticed is trusted no longer than the silence before was.
        """
        if self._bus is None:
            return True
        noticed = self._bus.heard + self.config.bus_silence
        began = entry.born - entry.compute_seconds
        return now <= noticed or (entry.born > noticed and now <= began + self.config.bus_silence)

    # -- answers -----------------------------------------------------------------------------------------------------

    def _served(
        self, request: Request, entry: Entry, tier: str, age: float, life: Lifetime, reason: str
    ) -> CacheResult[Any]:
        self._tally.served("none" if request.zone is None else request.zone.name, age, life.stale_until, reason)
        return self._result(request, entry.value, tier, age, life)

    def _served_on_error(self, request: Request, held: Entry, tier: str, age: float, limit: float) -> CacheResult[Any]:
        request.outcome = _ON_ERROR[tier]
        zone = "none" if request.zone is None else request.zone.name
        self._tally.served(zone, age, limit, "error")
        life = self._judge(held, request, math.inf, self.clock.monotonic())
        # Whatever was left of its lifetime ended with the failure.
        return self._result(request, held.value, tier, age, Lifetime(min(life.expiry, age), min(life.stale_until, age)))

    def _computed(self, request: Request, entry: Entry, cap: float) -> CacheResult[Any]:
        now = self.clock.monotonic()
        return self._result(request, entry.value, "none", now - entry.born, self._judge(entry, request, cap, now))

    def _result(self, request: Request, value: Any, tier: str, age: float, life: Lifetime) -> CacheResult[Any]:
        zone = None if request.zone is None else request.zone.name
        status = NORMAL if request.status is None else request.status
        return CacheResult(value, (request.outcome, tier, life, zone, age, status, request.coalesced))

    # -- volatility --------------------------------------------------------------------------------------------------

    def _judge_odds(self, request: Request, wall: float) -> int | None:
        """The worst status over the request's market keys; None when it names none."""
        volatility = self.volatility
        if request.odds:
            status = volatility.worst(request.odds.items(), wall)
        elif request.match_id and request.market and (keys := volatility.keys_of(request.match_id, request.market)):
            status = volatility.worst([(key, None) for key in keys], wall)
        else:
            return None
        self.governor.record(status == PANIC, self.clock.monotonic())
        return status

    def _panics_now(self, request: Request) -> bool:
        """Whether the odds went into panic while the request waited; that is no judgement of its own."""
        prices: Iterable[tuple[str, float | None]] = ()
        if request.odds:
            prices = request.odds.items()
        elif request.match_id and request.market:
            prices = [(key, None) for key in self.volatility.keys_of(request.match_id, request.market)]
        return self.volatility.worst(prices, self._time()) == PANIC

    def _mode(self) -> str:
        """The governor's mode now, shown whenever it has changed."""
        mode = self.governor.mode_at(self._monotonic())
        if mode != self._mode_shown:
            self._mode_shown = mode
            self._tally.governor.set(mode)
        if mode != "normal":
            self._watch_mode()
        return mode

    def _watch_mode(self) -> None:
        """See to it that the mode is shown as it is though nobody asks any more: an idle process calms down too."""
        if self._watching is not None and not self._watching.is_closed():
            return
        try:
            self._watching = loop = asyncio.get_running_loop()
        except RuntimeError:  # the next request looks
            return
        loop.call_later(_MODE_LOOKED_AT_EVERY, _look_at_mode, weakref.ref(self))

    # -- changes, here and from the bus ------------------------------------------------------------------------------

    async def _change_all(
        self, do: Literal["delete", "expire"], keys: Iterable[str], tags: Iterable[str]
    ) -> ChangeCount:
        changes = [Change(do, "key", check_key(key)) for key in keys]
        changes += [Change(do, "tag", tag) for tag in check_tags(tags)]
        if not changes:
            raise ValueError(f"{do}() was given nothing to {do}: name keys, or tags=[...]; invalidate_all() takes all")
        met = await asyncio.gather(*map(self._change, changes))
        return ChangeCount(sum(count for count, _ in met), all(acknowledged for _, acknowledged in met))

    async def _change(self, change: Change, event: str | None = None) -> tuple[int, bool]:
        """Apply a change here and in the store, or queue it.

        Returns:
            How many values it met, and whether the store has confirmed it.
        """
        if self.tracer is None:
            return await self._apply(change)
        with self.tracer.change(change, event) as span:
            met, acknowledged = await self._apply(change)
            span.note({"smartcache.entries": met, "smartcache.acknowledged": acknowledged})
            return met, acknowledged

    async def _apply(self, change: Change) -> tuple[int, bool]:
        here = self._holdings.apply(change)
        if self._store is None:
            return len(here), True
        bus = self._listen()
        receipt = None
        if bus is None or not bus.queued:  # changes keep their order
            try:
                receipt = await self._store.change(change, self._origin)
            except StoreUnavailableError:
                receipt = None
            except asyncio.CancelledError:
                if bus is not None:
                    bus.send_later(change)  # it holds here, so it must elsewhere; twice does no harm
                raise
        if receipt is None and bus is not None:
            bus.send_later(change)
        # What was read from the store before the change may have been taken in meanwhile.
        here |= self._holdings.apply(change)
        if receipt is None:
            return len(here), False
        return (max(len(here), receipt.found) if receipt.keys is None else len(here | receipt.keys)), True

    def _on_ticks(self, ticks: Iterable[Tick]) -> None:
        now = self.clock.time()
        for tick in ticks:
            # One from further ahead was told by a clock that is not ours, such as that of another replay.
            if tick.instant <= now + _CLOCKS_DIFFER_BY and is_odds(tick.odds):
                self.volatility.tick(tick.market_key, tick.odds, min(tick.instant, now))
                self._tally.bus_ticks.add()

    def _listen(self) -> Bus | None:
        if self._bus is None and self._store is not None:
            with _setting_up:
                if self._bus is None:
                    self._bus = self._store.listen(
                        self._origin,
                        Handlers(self._holdings.apply, self._on_ticks, lambda: self._holdings.apply(EVERYTHING)),
                    )
        return self._bus

    # -- set-up ------------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        config, store, clock, metrics, tag_manager = self._given
        config = config or CacheConfig.from_env()
        self.config = config
        self.clock = clock or SystemClock()
        self._time, self._monotonic = self.clock.time, self.clock.monotonic
        if tag_manager is None:
            tag_manager = TagManager.from_file(Path(config.tag_table)) if config.tag_table else TagManager()
        self.tag_manager = tag_manager
        self.metrics = metrics or CacheMetrics(
            config.metrics_dir, {"market": tag_manager.markets, "competition": config.competitions}, self.clock
        )
        for category, period in config.resets.items():
            self.metrics.schedule_reset(category, period)
        self.golden_hour = GoldenHour(self.clock.time)
        limits = VolatilityLimits(
            config.vix_window, config.vix_samples, config.vix_least_samples, config.vix_panic_z,
            config.vix_warning_z, config.vix_floor,
        )  # fmt: skip
        self.volatility = Volatility(limits, config.vix_keys)
        self.governor = Governor(config.governor_evaluations)
        if store is None and config.redis_url:
            store = _redis_store(config, self.clock, self.metrics)
        self._store = store
        self._tally = Tally(self.metrics)
        self._begin_process()

    def _begin_process(self) -> None:
        """What a process, a forked child too, must have for itself."""
        self._origin = secrets.token_hex(8)
        self._bus = None
        memory = MemoryTier(
            self.config.memory_entries, self.config.memory_bytes, self._tally.memory, self._tally.evictions.add
        )
        self._holdings = Holdings(memory)
        self._loader = Loader(
            self.config,
            self.clock,
            self._rng,
            self._tally,
            self._holdings,
            self._store,
            lambda: self._bus,
            self._origin,
        )
        self.volatility.renew_lock()
        self._tally.memory(0, 0)
        self._mode_shown = self.governor.mode
        self._watching = None
        self._tally.governor.set(self._mode_shown)

    def _after_fork_in_child(self) -> None:
        if "config" in self.__dict__:
            if self._store is not None:
                self._store.forget_connections()
            self._begin_process()


class SmartCacheEnhanced(SmartCache):
    """The cache that knows about matches: lifetimes by time to kickoff, volatility, and events."""

    async def get_with_intelligence(
        self,
        cache_key: str,
        compute_fn: Callable[[], Awaitable[V]],
        match_context: MatchContext | None = None,
        force_refresh: bool = False,
        copy: bool = False,
    ) -> CacheResult[V]:
        """The value of ``cache_key`` with the reasons for it, computed if it is not held or cannot be trusted.

        Args:
            cache_key: printable text; ``key_factory`` makes good ones.
            compute_fn: called without arguments; what it returns is awaited.
            match_context: what is known about the match. Without a kickoff the configured TTL holds.
            force_refresh: compute whatever is held.
            copy: return a value of the caller's own; otherwise it is shared and must not be changed.

        Raises:
            ComputeTimeoutError: the compute took longer than the hard time-out and nothing could be served.
            UncacheableValueError: JSON cannot carry the value.
            ReentrantComputeError: the key was asked for by its own compute.
            TypeError, ValueError: an argument that cannot be used.
            Exception: what ``compute_fn`` raised, when nothing could be served.
        """
        if force_refresh is not False or copy is not False:
            check_flags(force_refresh, copy)
        if not force_refresh and type(cache_key) is str:
            entry = self._holdings.get(cache_key)
            if entry is not None and (standing := entry.standing) is not None:
                quick = self._answer_again(entry, standing, match_context or _NO_CONTEXT)
                if quick is not None:
                    if copy:
                        quick.value = copies.deepcopy(quick.value)
                    return quick
        request = Request(cache_key, compute_fn, _ABSENT)
        if match_context:
            request.read(match_context)
        result: CacheResult[V] = await self._answer(request, force_refresh)
        if copy:
            result.value = copies.deepcopy(result.value)
        return result

    def update_vix_snapshot(self, market_key: str, odds: float, timestamp: datetime | float | None = None) -> None:
        """Take in one price, here and in every other process.

        Args:
            market_key: names match, market, selection and line, such as ``12345:match_result:home:``.
            odds: decimal odds above 1.
            timestamp: when it was offered: aware datetime or epoch seconds; now by default, and at the latest.

        Raises:
            TypeError, ValueError: an argument that cannot be used.
        """
        check_odds(market_key, odds)
        if timestamp is None:
            instant = self.clock.time()
        elif isinstance(timestamp, datetime):
            if timestamp.utcoffset() is None:
                raise ValueError(f"timestamp {timestamp!r} is naive: give it a time zone")
            instant = timestamp.timestamp()
        elif isinstance(timestamp, bool) or not isinstance(timestamp, int | float) or not math.isfinite(timestamp):
            raise TypeError(f"timestamp must be an aware datetime or epoch seconds, got {timestamp!r}")
        else:
            instant = float(timestamp)
        instant = min(instant, self.clock.time())
        self.volatility.tick(market_key, float(odds), instant)
        self._tally.local_ticks.add()
        if (bus := self._listen()) is not None:
            bus.send_tick(Tick(market_key, float(odds), instant))

    async def invalidate_by_event(self, event_type: EventType | str, match_key: str) -> InvalidationResult:
        """Retire what an event makes wrong about a match, and nothing else.

        In this process it holds when the call returns; in the others within 250 ms on a healthy bus.

        Args:
            event_type: what happened.
            match_key: the match, such as ``match:12345``.

        Raises:
            ValueError: an unknown event, or no match named.
        """
        markets = self.tag_manager.affected_by(event_type)
        match_id = match_id_of(match_key)
        total = len(self.tag_manager.markets)
        # Counted before anything is awaited: it takes hold, though its caller gives up.
        self._tally.surgical_invalidations.add()
        self._tally.markets_affected.add(len(markets))
        self._tally.markets_preserved.add(total - len(markets))
        retired, acknowledged = await self._change(Change("delete", "match", match_id, markets), str(event_type))
        self._tally.keys_deleted.add(retired)
        decision = self.tag_manager.get_affected_markets(event_type)
        return InvalidationResult(
            invalidated_count=retired,
            affected_markets=list(markets),
            cpu_saving_pct=decision["cpu_saving_pct"],
            total_markets=total,
            reasoning=decision["reasoning"],
            acknowledged=acknowledged,
        )


def _look_at_mode(of: weakref.ref[SmartCache]) -> None:
    if (cache := of()) is not None:
        cache._watching = None
        if cache._mode() != "normal":
            cache._watch_mode()


def _redis_store(config: CacheConfig, clock: Clock, metrics: CacheMetrics) -> Store:
    try:
        from smartcache.redis_store import RedisStore
    except ImportError as error:
        raise ConfigError(
            f"SMARTCACHE_REDIS_URL is set but {error.name} is not installed: pip install 'smartcache[redis]'"
        ) from error
    return RedisStore(config, clock, metrics)


#: Held while an engine sets itself up or starts listening, so that threads do it once.
_setting_up = threading.RLock()
_instances: weakref.WeakSet[SmartCache] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    global _setting_up
    _setting_up = threading.RLock()  # another thread of the parent may have held it
    for cache in list(_instances):
        cache._after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)

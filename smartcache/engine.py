"""The engine: started match? then volatility, lookup, judged at serve, serve or compute, store."""

from __future__ import annotations

import asyncio
import contextvars
import copy as copies
import inspect
import math
import os
import random
import secrets
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec, TypedDict, TypeVar

from smartcache import protocol
from smartcache.bus import Bus, Tick
from smartcache.catalogue import GOVERNOR_MODES, STRATEGIES
from smartcache.clock import Clock, SystemClock
from smartcache.codec import Envelope, UnreadableEntryError, check_json, decode_entry, encode_entry
from smartcache.config import CacheConfig
from smartcache.errors import ComputeTimeoutError, ReentrantComputeError
from smartcache.flight import Board, Flight
from smartcache.freshness import Lifetime, lifetime, refresh_early
from smartcache.golden_hour import MATCH_STARTED, GoldenHour, Zone, kickoff_epoch, zone_at
from smartcache.keys import check_key, match_id_of
from smartcache.layout import OUTCOMES
from smartcache.memory import Entry, MemoryTier
from smartcache.metrics import CacheMetrics
from smartcache.result import CacheResult, CacheStrategy, ResultMetadata
from smartcache.store import RedisStore, StoreUnavailableError
from smartcache.tags import EventType, TagManager
from smartcache.volatility import CELLS, NORMAL, PANIC, STATUS_NAMES, Governor, Volatility, VolatilityLimits

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
_STRATEGY_OF: Final = tuple(STRATEGIES.index(outcome.strategy) for outcome in OUTCOMES)
_STRATEGY_ENUM: Final = tuple(CacheStrategy(outcome.strategy) for outcome in OUTCOMES)
_REASON: Final = {
    _BYPASS_PANIC: "odds in panic, computed afresh",
    _BYPASS_FORCED: "refresh asked for, computed afresh",
    _BYPASS_STARTED: "match started, computed afresh",
    **dict.fromkeys(_FRESH.values(), "held and fresh"),
    **dict.fromkeys(_STALE.values(), "held, past its expiry, refreshed behind"),
    **dict.fromkeys(_ON_ERROR.values(), "held, served because its compute failed"),
    _ABSENT: "not held, computed",
    _TOO_STALE: "held but too old, computed",
}
_CONTEXT_KEYS: Final = ("match_id", "market", "kickoff_time", "lineup_confirmed", "current_odds", "competition")
#: Below this chance X-Fetch's draw is not made: e**-40.
_HARDLY: Final = 40.0
_LEASE_POLL_SECONDS: Final = (0.005, 0.01, 0.02, 0.04)
#: Clocks of two machines, or of one machine read twice, may differ by this much before an entry is "from the future".
_CLOCK_SLACK: Final = 0.001

_computing: contextvars.ContextVar[frozenset[tuple[int, str]]] = contextvars.ContextVar(
    "smartcache_computing", default=frozenset()
)


class MatchContext(TypedDict, total=False):
    """What a caller knows about the match; everything is optional.

    ``kickoff_time`` is an aware datetime; ``current_odds`` maps market keys to decimal odds above 1.
    """

    match_id: str | int | None
    market: str | None
    kickoff_time: datetime | None
    lineup_confirmed: bool | None
    current_odds: Mapping[str, float] | None
    competition: str | None


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


class Health(TypedDict):
    """State of the engine's parts, for readiness pages."""

    store: str
    breaker: str
    bus: str
    governor: str
    queued_invalidations: int


class _Request:
    """One request: what the caller said and, as it goes on, how it ends."""

    __slots__ = (
        "coalesced",
        "competition",
        "compute",
        "gone",
        "hard_timeout",
        "key",
        "kickoff",
        "lineup_confirmed",
        "market",
        "match_id",
        "odds",
        "outcome",
        "soft_timeout",
        "stale_for",
        "stale_if_error_for",
        "status",
        "ttl",
        "versions",
        "zone",
    )

    def __init__(self, key: str, compute: Callable[[], Awaitable[Any]]) -> None:
        self.key = check_key(key)
        if not callable(compute):
            raise TypeError(f"compute_fn for {key!r} must be a function that returns an awaitable, got {compute!r}")
        self.compute = compute
        self.match_id: str | None = None
        self.market: str | None = None
        self.competition: str | None = None
        self.kickoff: float | None = None
        self.lineup_confirmed: bool | None = None
        self.odds: Mapping[str, float] | None = None
        self.ttl: float | None = None
        self.stale_for: float | None = None
        self.stale_if_error_for: float | None = None
        self.soft_timeout: float | None = None
        self.hard_timeout: float | None = None
        self.zone: Zone | None = None
        self.status: int | None = None
        self.outcome = _ABSENT
        self.coalesced = False
        #: What was held when the request came was deleted or retired while it waited.
        self.gone = False
        self.versions: tuple[str, ...] = (protocol.ALL_VERSION,)

    def read(self, context: MatchContext) -> None:
        """Take in a match context; TypeError or ValueError names what is wrong with it."""
        for name in context:
            if name not in _CONTEXT_KEYS:
                raise ValueError(f"match_context has no {name!r}; it may have {', '.join(_CONTEXT_KEYS)}")
        if (match_id := context.get("match_id")) is not None:
            self.match_id = str(match_id)
        self.market = context.get("market")
        self.competition = context.get("competition")
        self.lineup_confirmed = context.get("lineup_confirmed")
        if (kickoff := context.get("kickoff_time")) is not None:
            self.kickoff = kickoff_epoch(kickoff)
        if odds := context.get("current_odds"):
            for market_key, price in odds.items():
                check_odds(market_key, price)
            self.odds = odds
        self.versions = protocol.version_names(self.match_id, self.market)


def check_odds(market_key: str, odds: float) -> None:
    """Make sure that ``odds`` are decimal odds.

    Raises:
        ValueError: not a finite number above 1, or a market key that is empty.
    """
    if isinstance(odds, bool) or not isinstance(odds, int | float) or not 1 < odds < math.inf:
        raise ValueError(f"odds of {market_key!r} must be decimal odds above 1 and finite, got {odds!r}")
    if not isinstance(market_key, str) or not market_key:
        raise ValueError(f"a market key is text such as 'match:market:selection:line', got {market_key!r}")


def _seconds(name: str, value: float | None, least: float) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise ValueError(f"{name} is {value!r}, but must be a finite number of seconds of at least {least:g}")
    return float(value)


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
    """

    config: CacheConfig
    clock: Clock
    metrics: CacheMetrics
    golden_hour: GoldenHour
    tag_manager: TagManager
    volatility: Volatility
    governor: Governor
    _bus: Bus | None
    _backoff: dict[str, float]

    def __init__(
        self,
        config: CacheConfig | None = None,
        *,
        store: RedisStore | None = None,
        clock: Clock | None = None,
        metrics: CacheMetrics | None = None,
        rng: Callable[[], float] = random.random,
        tag_manager: TagManager | None = None,
    ) -> None:
        self._given = (config, store, clock, metrics, tag_manager)
        self._rng = rng
        if config is not None:
            self._build()
        _instances.add(self)

    def __getattr__(self, name: str) -> Any:
        # Reached only for what is not there yet: first use sets up an instance that was made without settings.
        if "config" not in self.__dict__ and "_given" in self.__dict__:
            self._build()
            return getattr(self, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # -- asking ------------------------------------------------------------------------------------------------------

    async def get_or_load(
        self,
        key: str,
        compute_fn: Callable[[], Awaitable[V]],
        *,
        ttl: float | None = None,
        stale_for: float | None = None,
        stale_if_error_for: float | None = None,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
        match_context: MatchContext | None = None,
        force_refresh: bool = False,
        copy: bool = False,
    ) -> V:
        """The value of ``key``, computed if it is not held.

        Args:
            key: printable text.
            compute_fn: called without arguments; what it returns is awaited.
            ttl: limit in seconds on the age of a fresh value; other limits may be shorter.
            stale_for: seconds after expiry in which the value is served while it is refreshed.
            stale_if_error_for: age in seconds up to which it is served when a compute fails.
            soft_timeout: seconds after which a held value is served instead of waiting.
            hard_timeout: seconds after which the call fails.
            match_context: what is known about the match.
            force_refresh: compute whatever is held.
            copy: return a value of the caller's own; otherwise it is shared and must not be changed.

        Raises:
            ComputeTimeoutError: the compute took longer than ``hard_timeout`` and nothing could be served.
            UncacheableValueError: JSON cannot carry the value.
            ReentrantComputeError: ``key`` was asked for by its own compute.
            Exception: what ``compute_fn`` raised, when nothing could be served.
        """
        request = _Request(key, compute_fn)
        if match_context:
            request.read(match_context)
        request.ttl = _seconds("ttl", ttl, 0.001)
        request.stale_for = _seconds("stale_for", stale_for, 0)
        request.stale_if_error_for = _seconds("stale_if_error_for", stale_if_error_for, 0)
        request.soft_timeout = _seconds("soft_timeout", soft_timeout, 0)
        request.hard_timeout = _seconds("hard_timeout", hard_timeout, 0.001)
        value = (await self._answer(request, force_refresh)).value
        return copies.deepcopy(value) if copy else value  # type: ignore[no-any-return]

    def cached(
        self, key: Callable[P, str], *, ttl: float | None = None, stale_for: float | None = None
    ) -> Callable[[Callable[P, Awaitable[V]]], Callable[P, Awaitable[V]]]:
        """Decorate an async function so that its results are held.

        Args:
            key: gives the key from the function's own arguments.
            ttl: as in :meth:`get_or_load`.
            stale_for: as in :meth:`get_or_load`.
        """

        def decorate(function: Callable[P, Awaitable[V]]) -> Callable[P, Awaitable[V]]:
            @wraps(function)
            async def ask(*args: P.args, **kwargs: P.kwargs) -> V:
                return await self.get_or_load(
                    key(*args, **kwargs), lambda: function(*args, **kwargs), ttl=ttl, stale_for=stale_for
                )

            return ask

        return decorate

    # -- changing ----------------------------------------------------------------------------------------------------

    async def expire(self, key: str) -> int:
        """Let the next caller wait for a new value; the old one serves only if that fails.

        Returns how many there were.
        """
        check_key(key)
        entry = self._expire_here(key)
        held, _ = await self._change("write", protocol.expire(self._origin, key))
        return max(int(held or 0), int(entry is not None))

    async def delete(self, key: str) -> int:
        """Let go of a value everywhere. Returns how many there were."""
        check_key(key)
        here = self._forget(key)
        held, _ = await self._change("delete", protocol.delete(self._origin, key))
        self._forget(key)
        return max(int(held or 0), here)

    async def invalidate_all(self) -> int:
        """Retire everything, everywhere. Returns how many entries this process held."""
        count = self._forget_everything()
        await self._change("invalidate", protocol.invalidate_all(self._origin))
        self._forget_everything()
        self._full_invalidations.add()
        self._keys_deleted.add(count)
        return count

    # -- state -------------------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """State of the parts: ``ok``, ``down`` or ``none`` (not configured)."""
        bus = self._bus
        return Health(
            store="none" if self._store is None else "ok" if self._store.breaker.state == "closed" else "down",
            breaker="closed" if self._store is None else self._store.breaker.state,
            bus="none" if self._store is None else "ok" if bus is not None and bus.alive else "down",
            governor=self.governor.mode,
            queued_invalidations=0 if bus is None else bus.queued,
        )

    async def start(self) -> None:
        """Connect to the bus now instead of at the first request."""
        self._listen()

    async def close(self) -> None:
        """Give up background refreshes, connections and threads; what was counted stays."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        bus, self._bus = self._bus, None
        if bus is not None:
            await asyncio.to_thread(bus.close)
        if self._store is not None:
            await self._store.close()
        self.metrics.close()

    # -- the order of a request --------------------------------------------------------------------------------------

    async def _answer(self, request: _Request, force_refresh: bool) -> CacheResult[Any]:
        """Serve a request and count it, once, however it ends."""
        if (id(self), request.key) in _computing.get():
            raise ReentrantComputeError(
                f"the compute of {request.key!r} asked for {request.key!r}, which would wait for itself for ever: "
                "call the function it needs directly"
            )
        self._listen()
        start = self.clock.monotonic()
        try:
            return await self._decide(request, force_refresh)
        finally:
            end = self.clock.monotonic()
            zone = self._zone_cells[-1 if request.zone is None else request.zone.index]
            cell = (
                self._outcome_cells[request.outcome]
                + zone
                + self._market_cells.get(request.market, self._other_market)
                + self._status_cells[request.status]
                + self._competition_cells.get(request.competition, self._other_competition)
            )
            self.metrics.request(cell, _STRATEGY_OF[request.outcome], end - start, end)

    async def _decide(self, request: _Request, force_refresh: bool) -> CacheResult[Any]:
        wall = self.clock.time()
        if request.kickoff is not None:
            request.zone = zone_at(request.kickoff - wall)
            if request.zone is MATCH_STARTED:
                request.outcome = _BYPASS_STARTED
                return self._computed(request, await self._compute(request, None, only_later=True, keep=False))
        request.status = self._judge_odds(request, wall)
        status = NORMAL if request.status is None else request.status
        cap = CELLS[self.governor.mode, status]
        if cap is None or force_refresh:
            request.outcome = _BYPASS_PANIC if cap is None else _BYPASS_FORCED
            return self._computed(request, await self._compute(request, None, only_later=True))

        entry, tier, store_answers = await self._look_up(request, cap)
        now = self.clock.monotonic()
        if entry is None:
            return await self._miss(request, None, tier, store_answers)
        life, age = self._judge(entry, request, cap, now), now - entry.born
        if request.kickoff is None and entry.kickoff is not None:
            request.kickoff = entry.kickoff
            request.zone = zone_at(entry.kickoff - wall)
        trusted = tier == "store" or self._trusts_memory(entry, now)
        if age < life.expiry and not entry.expired and trusted:
            if self._draws_early_refresh(entry, life.expiry - age):
                self._early_refreshes.add()
                self._refresh_behind(request, entry)
            request.outcome = _FRESH[tier]
            return self._served(request, entry, life, tier, now)
        if age < life.stale_until and not entry.expired:
            request.outcome = _STALE[tier]
            if now >= self._backoff.get(request.key, 0.0):
                self._refresh_behind(request, entry)
            return self._served(request, entry, life, tier, now)
        return await self._miss(request, entry, tier, store_answers)

    async def _miss(self, request: _Request, held: Entry | None, tier: str, store_answers: bool) -> CacheResult[Any]:
        """Compute; what is held, too old to serve otherwise, may still serve if that fails."""
        request.outcome = _ABSENT if held is None else _TOO_STALE
        limit = self._error_limit(request, held, store_answers)
        if held is not None and request.status != PANIC:
            now = self.clock.monotonic()
            if now < self._backoff.get(request.key, 0.0) and now - held.born < limit:
                return self._served_on_error(request, held, tier, limit, now)
        try:
            return self._computed(request, await self._compute(request, held, limit=limit))
        except Exception:
            now = self.clock.monotonic()
            if held is None or request.gone or request.status == PANIC or now - held.born >= limit:
                raise
            return self._served_on_error(request, held, tier, limit, now)

    # -- lookup ------------------------------------------------------------------------------------------------------

    async def _look_up(self, request: _Request, cap: float) -> tuple[Entry | None, str, bool]:
        """The best entry held, the tier it was found in, and whether the store answered."""
        now = self.clock.monotonic()
        entry = self._memory.get(request.key)
        hears = self._bus is None or now - self._bus.heard <= self.config.bus_silence
        if entry is not None:
            servable = now - entry.born < self._judge(entry, request, cap, now).stale_until and not entry.expired
            if hears and servable:
                return entry, "memory", True
        if self._store is None:
            return entry, "memory" if entry else "none", True
        try:
            found = await self._read_store(request)
        except StoreUnavailableError:
            return entry, "memory" if entry else "none", False
        if not hears:
            entry = None  # while the bus is silent what the store holds, or holds no more, is the truth
        if found is not None and (entry is None or entry.expired or found.born >= entry.born):
            return found, "store", True
        return entry, "memory" if entry else "none", True

    async def _read_store(self, request: _Request) -> Entry | None:
        assert self._store is not None
        epoch = self._epoch
        reading = await self._store.read(request.key, request.versions)
        entry = self._decode(request, reading.data, reading.now)
        if entry is not None and not entry.versions.keys() <= reading.versions.keys():
            # Stored by a request that knew its match; this one does not.
            reading = await self._store.read(request.key, tuple(entry.versions))
            entry = self._decode(request, reading.data, reading.now)
        if entry is None or any(reading.versions.get(name) != number for name, number in entry.versions.items()):
            return None
        with self._memory.lock:
            # What was invalidated while the read was under way must not slip back into memory.
            if epoch == self._epoch:
                self._memory.put(entry)
        return entry

    def _decode(self, request: _Request, data: bytes | None, store_now: float) -> Entry | None:
        if data is None:
            return None
        try:
            stored = decode_entry(data)
        except UnreadableEntryError:
            self._unreadable.add()
            return None
        age = store_now - stored.written
        if age < -_CLOCK_SLACK:
            return None  # from the future: the store's clock was set back
        kept = stored.envelope
        return Entry(
            request.key,
            kept.value,
            born=self.clock.monotonic() - max(0.0, age),
            compute_seconds=kept.compute_seconds,
            kickoff=kept.kickoff,
            lineup_confirmed=kept.lineup_confirmed,
            match_id=kept.match_id,
            market=kept.market,
            ttl=kept.ttl,
            stale_for=kept.stale_for,
            stale_if_error_for=kept.stale_if_error_for,
            shorten=kept.shorten,
            versions=kept.versions,
            written=stored.written,
            expired=stored.expired,
            size=stored.size,
        )

    def _judge(self, entry: Entry, request: _Request, cap: float, now: float) -> Lifetime:
        """The entry's lifetime under what this request knows."""
        kickoff = entry.kickoff if request.kickoff is None else request.kickoff
        lineup = entry.lineup_confirmed if request.lineup_confirmed is None else request.lineup_confirmed
        for limit in (entry.ttl, request.ttl):
            if limit is not None and limit < cap:
                cap = limit
        # On the entry's own age axis kickoff stands still, unless the wall clock or the fixture moves. Whole
        # milliseconds, rounded towards "too old", keep rounding errors from asking for a new judgement each time.
        kickoff_age = None
        if kickoff is not None:
            kickoff_age = math.floor((kickoff - self.clock.time() + now - entry.born) * 1000) / 1000
        conditions = (kickoff_age, lineup, cap, request.stale_for, request.ttl is None)
        if entry.judgement is None or entry.judgement[0] != conditions:
            life = lifetime(
                kickoff_age,
                lineup_confirmed=bool(lineup),
                cap=cap,
                default_ttl=self.config.default_ttl if request.ttl is None and entry.ttl is None else math.inf,
                shorten=entry.shorten,
                stale_for=entry.stale_for if request.stale_for is None else request.stale_for,
            )
            entry.judgement = (conditions, life)
        return entry.judgement[1]

    def _trusts_memory(self, entry: Entry, now: float) -> bool:
        """Whether an entry in memory may be called fresh.

        While the bus is silent something may have been said about it, unless it was computed after the silence was
        noticed: then the store answers nobody, and no invalidation is acknowledged anywhere.
        """
        if self._bus is None:
            return True
        noticed = self._bus.heard + self.config.bus_silence
        return now <= noticed or entry.born > noticed

    def _error_limit(self, request: _Request, held: Entry | None, store_answers: bool) -> float:
        """Age up to which a held value may be served when its compute fails."""
        set_by_caller = request.stale_if_error_for
        if set_by_caller is None and held is not None:
            set_by_caller = held.stale_if_error_for
        if set_by_caller is None:
            set_by_caller = self.config.stale_if_error_for if store_answers else self.config.stale_if_store_down_for
        kickoff = request.kickoff if request.kickoff is not None or held is None else held.kickoff
        if kickoff is None or held is None:
            return set_by_caller
        return min(set_by_caller, kickoff - self.clock.time() + self.clock.monotonic() - held.born)

    # -- serving -----------------------------------------------------------------------------------------------------

    def _served(self, request: _Request, entry: Entry, life: Lifetime, tier: str, now: float) -> CacheResult[Any]:
        age = now - entry.born
        self._count_age(request, age, life.stale_until, "fresh" if age < life.expiry else "stale")
        return self._result(request, entry.value, tier, age, life)

    def _served_on_error(self, request: _Request, held: Entry, tier: str, limit: float, now: float) -> CacheResult[Any]:
        request.outcome = _ON_ERROR[tier]
        age = now - held.born
        self._count_age(request, age, limit, "error")
        expiry = min(limit, age if held.judgement is None else held.judgement[1].expiry)
        return self._result(request, held.value, tier, age, Lifetime(expiry, limit))

    def _computed(self, request: _Request, entry: Entry) -> CacheResult[Any]:
        if request.outcome == _BYPASS_STARTED:
            return self._result(request, entry.value, "none", 0.0, Lifetime(0.0, 0.0))
        now = self.clock.monotonic()
        cap = CELLS[self.governor.mode, NORMAL if request.status is None else request.status]
        life = self._judge(entry, request, 0.0 if cap is None else cap, now)
        return self._result(request, entry.value, "none", max(0.0, now - entry.born), life)

    def _result(self, request: _Request, value: Any, tier: str, age: float, life: Lifetime) -> CacheResult[Any]:
        status = NORMAL if request.status is None else request.status
        return CacheResult(
            value,
            ResultMetadata(
                strategy=_STRATEGY_ENUM[request.outcome],
                tier=tier,
                ttl=max(0.0, life.expiry),
                zone=None if request.zone is None else request.zone.name,
                age=age,
                vix_status=STATUS_NAMES[status],
                expires_in=life.expiry - age,
                stale_for=max(0.0, life.stale_until - age),
                reason=_REASON[request.outcome],
                coalesced=request.coalesced,
            ),
        )

    def _count_age(self, request: _Request, age: float, promise: float, reason: str) -> None:
        zone = "none" if request.zone is None else request.zone.name
        self._ages[zone].observe(age)
        if age > promise:
            started = request.zone is MATCH_STARTED
            self._beyond[zone, "kickoff" if started else reason].add()

    # -- volatility --------------------------------------------------------------------------------------------------

    def _judge_odds(self, request: _Request, wall: float) -> int | None:
        """The worst status over the request's market keys; None when it names none."""
        volatility = self.volatility
        if request.odds:
            status = min(volatility.judge(key, odds, wall).status for key, odds in request.odds.items())
        elif request.match_id and request.market and (keys := volatility.keys_of(request.match_id, request.market)):
            status = min(volatility.judge(key, None, wall).status for key in keys)
        else:
            return None
        mode = self.governor.mode
        self.governor.record(status == PANIC, self.clock.monotonic())
        if self.governor.mode != mode:
            self._show_mode()
        return status

    def _show_mode(self) -> None:
        for mode, gauge in self._modes.items():
            gauge.set(float(mode == self.governor.mode))

    # -- computing ---------------------------------------------------------------------------------------------------

    async def _compute(
        self,
        request: _Request,
        held: Entry | None,
        *,
        only_later: bool = False,
        keep: bool = True,
        limit: float = 0.0,
    ) -> Entry:
        """Run or join the compute of a key and wait for it, no longer than the time-outs allow."""
        flight, before, mine = self._board.join(request.key, request.match_id, request.market, only_later)
        if mine:
            self._spawn(self._fly(flight, before, request, held, keep=keep, exclusive=only_later))
        else:
            request.coalesced = True
            self._coalesced.add()
        patience = hard = self.config.hard_timeout if request.hard_timeout is None else request.hard_timeout
        soft = self.config.soft_timeout if request.soft_timeout is None else request.soft_timeout
        if soft is not None and held is not None and self.clock.monotonic() - held.born < limit:
            patience = min(soft, hard)
        try:
            async with asyncio.timeout(patience) as waiting:
                return await flight.result()
        except TimeoutError as error:
            if not waiting.expired():
                raise
            raise ComputeTimeoutError(
                f"the compute of {request.key!r} took longer than {patience:g} s (hard_timeout, or soft_timeout with "
                "a value to serve)"
            ) from error
        finally:
            request.gone = flight.gone

    async def _fly(
        self,
        flight: Flight[Entry],
        before: Flight[Entry] | None,
        request: _Request,
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
            entry = await self._load(flight, request, held, keep=keep, exclusive=exclusive)
        except asyncio.CancelledError:
            flight.fail(ComputeTimeoutError(f"the compute of {request.key!r} was given up: its event loop is ending"))
            raise
        except Exception as error:
            self._remember_failure(request.key)
            flight.fail(error)
        else:
            self._backoff.pop(request.key, None)
            flight.succeed(entry)
        finally:
            self._board.leave(request.key, flight)

    async def _load(
        self, flight: Flight[Entry], request: _Request, held: Entry | None, *, keep: bool, exclusive: bool
    ) -> Entry:
        """Get the lease, compute, and store under the versions the compute began with."""
        store = self._store if keep else None
        token = secrets.token_hex(8)
        versions: dict[str, str] = {}
        if store is not None:
            try:
                found = await self._board_across_processes(store, request, held, token, exclusive)
            except StoreUnavailableError:
                store = None
            else:
                if isinstance(found, Entry):
                    return found
                versions = found
        renewal = None if store is None else self._spawn(self._renew(store, request.key, token))
        try:
            began = self.clock.monotonic()
            value = await self._run_compute(request)
            entry = self._entry(request, value, self.clock.monotonic() - began, versions)
            if not keep:
                return entry
            payload = encode_entry(_envelope(entry))
            entry.size = len(payload)
            lasts = self._lasts(request, entry)
            if lasts <= 0:
                return entry
            if store is not None:
                try:
                    written = await store.commit(
                        request.key, token, payload, lasts, request.match_id, request.market, versions
                    )
                    token = ""
                except StoreUnavailableError:
                    written = True  # this process still has it
                if not written:
                    self._fenced.add()
                    return entry
            with self._memory.lock:
                if not flight.fenced:
                    self._memory.put(entry)
                elif store is None:
                    self._fenced.add()
            return entry
        finally:
            if renewal is not None:
                renewal.cancel()
            if store is not None and token:
                self._spawn(self._release(store, request.key, token))

    async def _board_across_processes(
        self, store: RedisStore, request: _Request, held: Entry | None, token: str, exclusive: bool
    ) -> dict[str, str] | Entry:
        """Wait for the lease on a key, or for the value that the process which has it brings.

        Returns:
            The versions to compute under, once the lease is ours; or the other process's value.
        """
        attempt = 0
        known = 0.0 if held is None else held.written
        while True:
            lease = await store.begin(request.key, token, request.versions)
            newer = None if exclusive else self._decode(request, lease.data, lease.now)
            if newer is not None and newer.written > known and not newer.expired:
                current = not lease.granted or all(
                    lease.versions.get(name, number) == number for name, number in newer.versions.items()
                )
                life = self._judge(newer, request, math.inf, self.clock.monotonic())
                if current and self.clock.monotonic() - newer.born < life.expiry:
                    if lease.granted:
                        await store.release(request.key, token)
                    with self._memory.lock:
                        self._memory.put(newer)
                    if attempt:
                        self._coalesced.add()
                    return newer
            if lease.granted:
                return lease.versions
            await asyncio.sleep(_LEASE_POLL_SECONDS[min(attempt, len(_LEASE_POLL_SECONDS) - 1)])
            attempt += 1

    async def _run_compute(self, request: _Request) -> Any:
        hard = self.config.hard_timeout if request.hard_timeout is None else request.hard_timeout
        token = _computing.set(_computing.get() | {(id(self), request.key)})
        start = self.clock.monotonic()
        self._computing_now.add(1)
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
            raise ComputeTimeoutError(f"the compute of {request.key!r} took longer than {hard:g} s") from error
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            _computing.reset(token)
            self._computing_now.add(-1)
            self._computes[outcome].add()
            self._compute_durations.observe(self.clock.monotonic() - start)

    def _entry(self, request: _Request, value: Any, seconds: float, versions: dict[str, str]) -> Entry:
        return Entry(
            request.key,
            value,
            born=self.clock.monotonic(),
            compute_seconds=seconds,
            kickoff=request.kickoff,
            lineup_confirmed=bool(request.lineup_confirmed),
            match_id=request.match_id,
            market=request.market,
            ttl=request.ttl,
            stale_for=request.stale_for,
            stale_if_error_for=request.stale_if_error_for,
            shorten=1 - self.config.jitter * self._rng(),
            versions=versions,
        )

    def _lasts(self, request: _Request, entry: Entry) -> float:
        """Seconds for which the entry can be of use at all; nothing is after kickoff."""
        life = self._judge(entry, request, math.inf, entry.born)
        return max(life.stale_until, self._error_limit(request, entry, store_answers=True)) if life.expiry > 0 else 0.0

    async def _renew(self, store: RedisStore, key: str, token: str) -> None:
        while True:
            await asyncio.sleep(self.config.lease_seconds / 3)
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

    def _remember_failure(self, key: str) -> None:
        now = self.clock.monotonic()
        if len(self._backoff) >= _MOST_FAILURES:
            self._backoff = {name: until for name, until in self._backoff.items() if until > now}
        self._backoff[key] = now + self.config.error_backoff

    # -- refreshing --------------------------------------------------------------------------------------------------

    def _draws_early_refresh(self, entry: Entry, remaining: float) -> bool:
        reach = entry.compute_seconds * self.config.xfetch_beta
        if remaining > reach * _HARDLY or self._board.get(entry.key) is not None:
            return False
        return refresh_early(remaining, entry.compute_seconds, self.config.xfetch_beta, 1.0 - self._rng())

    def _refresh_behind(self, request: _Request, entry: Entry) -> None:
        """Start a refresh unless one is under way or too many are."""
        if self._board.get(request.key) is not None:
            return
        if self._refreshing >= self.config.refreshes_at_once:
            self._refreshes_skipped.add()
            return
        self._refreshing += 1
        self._refreshes_now.set(self._refreshing)
        self._spawn(self._refresh(request, entry))

    async def _refresh(self, asked_by: _Request, entry: Entry) -> None:
        request = _Request(asked_by.key, asked_by.compute)
        for name in ("match_id", "market", "kickoff", "lineup_confirmed", "ttl", "stale_for", "stale_if_error_for",
                     "versions"):  # fmt: skip
            setattr(request, name, getattr(asked_by, name))
        request.hard_timeout = self.config.refresh_timeout
        _computing.set(frozenset())  # nobody waits for a refresh
        try:
            flight, before, mine = self._board.join(request.key, request.match_id, request.market, only_later=False)
            if not mine:
                return
            await self._fly(flight, before, request, entry, keep=True, exclusive=False)
            try:
                await flight.result()
            except Exception:
                self._refresh_errors.add()
            else:
                self._refresh_successes.add()
        finally:
            self._refreshing -= 1
            self._refreshes_now.set(self._refreshing)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- invalidation, here and from the bus -------------------------------------------------------------------------

    async def _change(self, operation: str, command: protocol.Command) -> tuple[Any, bool]:
        """Apply a change in the store; without an answer it is queued. Returns the answer and whether there was one."""
        if self._store is None:
            return None, True
        self._listen()
        assert self._bus is not None
        if self._bus.queued:
            # Changes keep their order.
            self._bus.send_later(command)
            return None, False
        try:
            return await self._store.change(operation, command), True
        except StoreUnavailableError:
            self._bus.send_later(command)
            return None, False

    def _expire_here(self, key: str) -> Entry | None:
        with self._memory.lock:
            self._epoch += 1
            self._board.fence_key(key, gone=False)
            entry = self._memory.get(key)
            if entry is not None:
                entry.expired = True
            return entry

    def _forget(self, key: str) -> int:
        with self._memory.lock:
            self._epoch += 1
            self._board.fence_key(key, gone=True)
            return int(self._memory.drop(key) is not None)

    def _forget_everything(self) -> int:
        with self._memory.lock:
            self._epoch += 1
            self._board.fence_all()
            return self._memory.clear()

    def _retire(self, match_id: str, markets: Iterable[str]) -> set[str]:
        affected = frozenset(markets)
        with self._memory.lock:
            self._epoch += 1
            self._board.fence(match_id, affected)
            return self._memory.retire(match_id, affected)

    def _on_message(self, message: dict[str, str]) -> None:
        match message["do"]:
            case "match":
                self._retire(message["match"], message["markets"].split(","))
            case "all":
                self._forget_everything()
            case "delete":
                self._forget(message["key"])
            case "expire":
                self._expire_here(message["key"])

    def _on_ticks(self, ticks: Iterable[Tick]) -> None:
        for tick in ticks:
            self.volatility.tick(tick.market_key, tick.odds, tick.instant)
            self._bus_ticks.add()

    def _on_gap(self) -> None:
        self._forget_everything()

    def _listen(self) -> None:
        if self._bus is None and self._store is not None:
            self._bus = Bus(
                self.config, self.clock, self.metrics, self._origin, self._on_message, self._on_ticks, self._on_gap
            )

    # -- set-up ------------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        config, store, clock, metrics, tag_manager = self._given
        config = config or CacheConfig.from_env()
        self.config = config
        self.clock = clock or SystemClock()
        if tag_manager is None:
            tag_manager = TagManager.from_file(Path(config.tag_table)) if config.tag_table else TagManager()
        self.tag_manager = tag_manager
        self.metrics = metrics or CacheMetrics(
            config.metrics_dir, {"market": tag_manager.markets, "competition": config.competitions}, self.clock
        )
        self.golden_hour = GoldenHour(self.clock.time)
        limits = VolatilityLimits(
            config.vix_window, config.vix_samples, config.vix_least_samples, config.vix_panic_z,
            config.vix_warning_z, config.vix_floor,
        )  # fmt: skip
        self.volatility = Volatility(limits, config.vix_keys)
        self.governor = Governor(config.governor_evaluations)
        if store is None and config.redis_url:
            store = RedisStore(config, self.clock, self.metrics)
        self._store = store
        self._resolve_metrics()
        self._begin_process()

    def _begin_process(self) -> None:
        """What a forked child must have for itself."""
        self._origin = secrets.token_hex(8)
        self._epoch = 0
        self._bus = None
        self._board: Board[Entry] = Board()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._backoff = {}
        self._refreshing = 0
        evictions = self.metrics.counter("smartcache_memory_evictions_total")
        entries = self.metrics.gauge("smartcache_memory_entries")
        held = self.metrics.gauge("smartcache_memory_bytes")

        def show(count: int, size: int) -> None:
            entries.set(count)
            held.set(size)

        self._memory = MemoryTier(self.config.memory_entries, self.config.memory_bytes, show, evictions.add)
        show(0, 0)
        self._show_mode()

    def _after_fork_in_child(self) -> None:
        if "config" in self.__dict__:
            if self._store is not None:
                self._store.forget_connections()
            self._begin_process()

    def _resolve_metrics(self) -> None:
        metrics, layout = self.metrics, self.metrics.layout
        counter = metrics.counter
        self._outcome_cells = [layout.position("outcome", outcome.name) for outcome in OUTCOMES]
        self._zone_cells = [layout.position("zone", zone) for zone in layout.axes[1]]
        self._market_cells = {value: layout.position("market", value) for value in (*layout.domains["market"], None)}
        self._other_market = layout.position("market", "other")
        self._competition_cells = {
            value: layout.position("competition", value) for value in (*layout.domains["competition"], None)
        }
        self._other_competition = layout.position("competition", "other")
        self._status_cells: dict[int | None, int] = {
            number: layout.position("status", name) for number, name in enumerate(STATUS_NAMES)
        }
        self._status_cells[None] = layout.position("status", None)
        zones = layout.axes[1]
        self._ages = {zone: metrics.histogram("smartcache_served_age_seconds", zone=zone) for zone in zones}
        self._beyond = {
            (zone, reason): counter("smartcache_served_beyond_promise_total", zone=zone, reason=reason)
            for zone in zones
            for reason in ("fresh", "stale", "error", "kickoff")
        }
        self._computes = {
            outcome: counter("smartcache_computes_total", outcome=outcome)
            for outcome in ("success", "error", "timeout", "cancelled")
        }
        self._compute_durations = metrics.histogram("smartcache_compute_duration_seconds")
        self._computing_now = metrics.gauge("smartcache_computes_in_progress")
        self._coalesced = counter("smartcache_coalesced_requests_total")
        self._fenced = counter("smartcache_writes_fenced_total")
        self._unreadable = counter("smartcache_store_unreadable_entries_total")
        self._early_refreshes = counter("smartcache_early_refreshes_total")
        self._refreshes_skipped = counter("smartcache_swr_refreshes_skipped_total")
        self._refreshes_now = metrics.gauge("smartcache_swr_refreshes_in_progress")
        self._refresh_successes = counter("smartcache_swr_refreshes_total", outcome="success")
        self._refresh_errors = counter("smartcache_swr_refreshes_total", outcome="error")
        self._surgical_invalidations = counter("smartcache_invalidations_total", kind="surgical")
        self._full_invalidations = counter("smartcache_invalidations_total", kind="full")
        self._markets_affected = counter("smartcache_invalidation_markets_total", outcome="affected")
        self._markets_preserved = counter("smartcache_invalidation_markets_total", outcome="preserved")
        self._keys_deleted = counter("smartcache_invalidation_keys_deleted_total")
        self._local_ticks = counter("smartcache_odds_ticks_total", origin="local")
        self._bus_ticks = counter("smartcache_odds_ticks_total", origin="bus")
        self._modes = {mode: metrics.gauge("smartcache_governor_mode", mode=mode) for mode in GOVERNOR_MODES}


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
        request = _Request(cache_key, compute_fn)
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
            timestamp: when it was offered: aware datetime or epoch seconds; now by default.

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
        self.volatility.tick(market_key, float(odds), instant)
        self._local_ticks.add()
        self._listen()
        if self._bus is not None:
            self._bus.send_tick(Tick(market_key, float(odds), instant))

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
        retired = self._retire(match_id, markets)
        keys, acknowledged = await self._change(
            "invalidate", protocol.invalidate_match(self._origin, match_id, markets)
        )
        retired |= {key.decode() for key in keys or ()}
        # A store read that began before the change may have brought an old value back meanwhile.
        self._retire(match_id, markets)
        total = len(self.tag_manager.markets)
        self._surgical_invalidations.add()
        self._markets_affected.add(len(markets))
        self._markets_preserved.add(total - len(markets))
        self._keys_deleted.add(len(retired))
        decision = self.tag_manager.get_affected_markets(event_type)
        return InvalidationResult(
            invalidated_count=len(retired),
            affected_markets=list(markets),
            cpu_saving_pct=decision["cpu_saving_pct"],
            total_markets=total,
            reasoning=decision["reasoning"],
            acknowledged=acknowledged,
        )


def _envelope(entry: Entry) -> Envelope:
    return Envelope(
        entry.value, entry.compute_seconds, entry.match_id, entry.market, entry.kickoff, entry.lineup_confirmed,
        entry.ttl, entry.stale_for, entry.stale_if_error_for, entry.shorten, entry.versions,
    )  # fmt: skip


_MOST_FAILURES: Final = 10_000

_instances: weakref.WeakSet[SmartCache] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for cache in list(_instances):
        cache._after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)

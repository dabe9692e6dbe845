"""Judged at serve: how old a value may be, held against the specification's tables whatever happens in between."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st

from smartcache import CacheConfig, SmartCacheEnhanced, compute_context
from smartcache.testing import MemoryStore, VirtualClock

MINUTE, HOUR = 60.0, 3600.0

# -- what the specification says -------------------------------------------------------------------------------------

#: Seconds to kickoff up to which a zone reigns, its TTL, its TTL with the line-up confirmed, its name.
ZONES = [
    (0.0, 0.0, 0.0, "match_started"),
    (15 * MINUTE, 30.0, 30.0, "warmup"),
    (HOUR, 60.0, 60.0, "golden"),
    (6 * HOUR, 900.0, 1800.0, "active"),
    (24 * HOUR, 3600.0, 7200.0, "prematch"),
    (math.inf, 21600.0, 43200.0, "standard"),
]
BOUNDARIES = [farthest for farthest, *_ in ZONES[:-1]]
#: Governor mode and volatility status to the cap on a lifetime; None is a bypass.
CELLS: dict[tuple[str, str], float | None] = {
    ("normal", "panic"): None,
    ("normal", "warning"): 60.0,
    ("normal", "normal"): math.inf,
    ("high_volatility", "panic"): 5.0,
    ("high_volatility", "warning"): 10.0,
    ("high_volatility", "normal"): math.inf,
    ("circuit_open", "panic"): 10.0,
    ("circuit_open", "warning"): 30.0,
    ("circuit_open", "normal"): 60.0,
}
DEFAULT_TTL = 300.0


class Facts(NamedTuple):
    """What the lifetime of a value is judged by; of the value itself, or of who asks for it."""

    kickoff: float | None = None
    lineup: bool | None = None
    ttl: float | None = None
    stale_for: float | None = None


class Life(NamedTuple):
    """Ages at which a value stops being fresh, and stops being servable."""

    expiry: float
    stale_until: float


def life_of(age: float, wall: float, value: Facts, asked: Facts, cell: float) -> Life:
    """The lifetime of a value that is ``age`` seconds old when the wall clock says ``wall``."""
    kickoff = value.kickoff if asked.kickoff is None else asked.kickoff
    lineup = bool(value.lineup if asked.lineup is None else asked.lineup)
    stale_for = value.stale_for if asked.stale_for is None else asked.stale_for
    set_by_callers = [ttl for ttl in (value.ttl, asked.ttl) if ttl is not None]
    born = wall - age

    def limit(at: float) -> float:
        """What the age is held to when the value is so old."""
        if kickoff is None:
            return min([cell, *(set_by_callers or [DEFAULT_TTL])])
        left = kickoff - (born + at)
        ttl = next(known if lineup else plain for farthest, plain, known, _ in ZONES if left <= farthest)
        return min([ttl, cell, *set_by_callers])

    # The limit stays the same from one boundary to the next, so it can only be outlived at one of these ages.
    ages = {cell, DEFAULT_TTL, *set_by_callers, *(ttl for _, plain, known, _ in ZONES for ttl in (plain, known))}
    if kickoff is not None:
        ages |= {kickoff - born - boundary for boundary in BOUNDARIES}
    expiry = min(at for at in ages if 0 <= at < math.inf and at >= limit(at))
    stale_until = expiry + (limit(expiry) if stale_for is None else stale_for)
    return Life(expiry, stale_until if kickoff is None else min(stale_until, max(expiry, kickoff - born)))


# -- what can happen -------------------------------------------------------------------------------------------------

#: Evenings and nights around which clocks change, in London and in New York; and one on which they do not.
STARTS = [
    datetime(2025, 3, 29, 20, tzinfo=UTC),
    datetime(2025, 10, 25, 20, tzinfo=UTC),
    datetime(2025, 3, 9, 2, tzinfo=UTC),
    datetime(2025, 11, 2, 0, tzinfo=UTC),
    datetime(2025, 6, 14, 12, tzinfo=UTC),
]
PLACES = [UTC, ZoneInfo("Europe/London"), ZoneInfo("America/New_York")]
#: Seconds to kickoff: boundaries, their neighbours, and days.
LEFT = [0.0, 0.25, *(edge + by for edge in (900.0, HOUR, 6 * HOUR, 24 * HOUR) for by in (-30.0, 0.0, 0.25, 600.0))]
#: A window in which 2.0 is normal, 2.34 a warning, 3.0 a panic.
TICKS = (1.8, 2.0, 2.2)
ODDS = st.sampled_from([None, None, None, 2.0, 2.34, 3.0])
MARKET_KEY = "7:btts:yes:"

KEYS = st.sampled_from(["7 btts", "7 btts", "7 penalty"])
LINEUPS = st.sampled_from([None, None, False, True])
asks = st.tuples(st.just("ask"), KEYS, st.sampled_from([True, True, False]), LINEUPS, ODDS)
hops = st.tuples(st.just("hop"), KEYS, st.integers(0, 2), st.booleans(), LINEUPS)
others = st.one_of(
    st.tuples(st.just("advance"), st.sampled_from([0.25, 1.0, 5.0, 29.75, 30.0, 60.0, 600.0, 900.0, HOUR, 10 * HOUR])),
    st.tuples(st.just("kickoff_in"), st.sampled_from(LEFT), st.sampled_from(PLACES)),
    st.tuples(st.just("kickoff_by"), st.sampled_from([-HOUR, -900.0, 900.0, HOUR, 24 * HOUR]), st.sampled_from(PLACES)),
    st.tuples(st.just("ticks")),
    st.tuples(st.just("storm"), st.integers(1, 12)),
)


@dataclass
class Held:
    """A value that the oracle knows to be held."""

    run: int
    born: float
    facts: Facts


class Evening:
    """An engine on memory alone, and the oracle beside it that knows what must come of each question."""

    def __init__(self, start: datetime, rng: Callable[[], float] = lambda: 0.0, **config: Any) -> None:
        self.clock = VirtualClock(start)
        self.cache = SmartCacheEnhanced(CacheConfig(governor_evaluations=4, **config), clock=self.clock, rng=rng)
        self.kickoff = start.timestamp() + 2 * HOUR
        self.place: Any = UTC
        self.held: dict[str, Held] = {}
        self.runs = 0

    async def play(self, steps: list[Any]) -> None:
        for what, *arguments in steps:
            await getattr(self, what)(*arguments)
        await self.cache.close()

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def step_wall(self, seconds: float) -> None:
        self.clock.step_wall(seconds)

    async def hop(self, key: str, which: int, just_before: bool, lineup: bool | None) -> None:
        """To an instant at which something changes for a value that is held, or to just before; and ask."""
        instants = {self.kickoff - boundary - self.clock.time() for boundary in BOUNDARIES}
        if (held := self.held.get(key)) is not None:
            age = self.clock.monotonic() - held.born
            life = life_of(age, self.clock.time(), held.facts, Facts(self.kickoff, lineup), math.inf)
            instants = {life.expiry - age, life.stale_until - age, min(instants, key=abs)}
        ahead = sorted(instant for instant in instants if instant >= 0.25)
        if ahead:
            self.clock.advance(ahead[which % len(ahead)] - (0.25 if just_before else 0.0))
        await self.ask(key, True, lineup, None)

    async def kickoff_in(self, seconds: float, place: Any) -> None:
        self.kickoff, self.place = self.clock.time() + seconds, place

    async def kickoff_by(self, seconds: float, place: Any) -> None:
        self.kickoff, self.place = self.kickoff + seconds, place

    async def ticks(self) -> None:
        for odds in TICKS:
            self.cache.update_vix_snapshot(MARKET_KEY, odds)

    async def storm(self, times: int) -> None:
        await self.ticks()
        for _ in range(times):
            await self.ask("7 btts", True, None, 3.0)

    async def ask(self, key: str, knows_kickoff: bool, lineup: bool | None, odds: float | None) -> None:
        context: dict[str, Any] = {"match_id": "7", "market": key.split()[1], "lineup_confirmed": lineup}
        if knows_kickoff:
            context["kickoff_time"] = datetime.fromtimestamp(self.kickoff, self.place)
        if odds is not None:
            context["current_odds"] = {MARKET_KEY: odds}
        asked = Facts(self.kickoff if knows_kickoff else None, lineup)
        runs = self.runs
        result = await self.cache.get_with_intelligence(key, self.compute, context)  # type: ignore[arg-type]
        strategy = str(result.strategy)
        event(strategy)
        self.compare(strategy, self.judge(key, asked, result.vix_status))
        if asked.kickoff is not None:
            left = asked.kickoff - self.clock.time()
            assert result.zone == next(name for farthest, _, _, name in ZONES if left <= farthest)
        await self.confirm(key, asked, strategy, result.value, runs)

    async def load(self, key: str, ttl: float | None, stale_for: float | None, knows_kickoff: bool) -> None:
        asked = Facts(self.kickoff if knows_kickoff else None, None, ttl, stale_for)
        context: Any = {"match_id": "7", "market": key.split()[1]}
        if knows_kickoff:
            context["kickoff_time"] = datetime.fromtimestamp(self.kickoff, self.place)
        runs = self.runs
        value = await self.cache.get_or_load(key, self.compute, ttl=ttl, stale_for=stale_for, match_context=context)
        await self.confirm(key, asked, self.judge(key, asked, "normal"), value, runs)

    async def compute(self) -> int:
        self.runs += 1
        return self.runs

    def compare(self, strategy: str, told: str) -> None:
        assert strategy == told

    def judge(self, key: str, asked: Facts, status: str) -> str:
        """What must come of a question."""
        if asked.kickoff is not None and asked.kickoff <= self.clock.time():
            return "bypass"
        cell = CELLS[self.cache.governor.mode, status]
        if cell is None:
            return "bypass"
        held = self.held.get(key)
        if held is None:
            return "compute"
        age = self.clock.monotonic() - held.born
        life = life_of(age, self.clock.time(), held.facts, asked, cell)
        return "serve_fresh" if age < life.expiry else "serve_stale" if age < life.stale_until else "compute"

    async def confirm(self, key: str, asked: Facts, strategy: str, value: int, runs: int) -> None:
        """Make sure that it was served so; take down what is held since."""
        held = self.held.get(key)
        for _ in range(8):  # for a refresh behind the request
            await asyncio.sleep(0)
        if strategy.startswith("serve"):
            assert held is not None
            assert value == held.run
        else:
            assert value == runs + 1
        assert self.runs - runs == (strategy != "serve_fresh"), "computed once, or refreshed once, or left alone"
        if strategy == "serve_fresh":
            return
        kickoff = asked.kickoff
        if kickoff is None and held is not None and strategy != "bypass":
            kickoff = held.facts.kickoff
        if kickoff is None or kickoff > self.clock.time():
            facts = Facts(kickoff, bool(asked.lineup), asked.ttl, asked.stale_for)
            self.held[key] = Held(self.runs, self.clock.monotonic(), facts)


QUESTIONS = st.one_of(asks, asks, hops, others)


@settings(max_examples=100, deadline=None)
@given(start=st.sampled_from(STARTS), steps=st.lists(QUESTIONS, min_size=20, max_size=50))
def test_every_question_is_answered_as_the_tables_say(start: datetime, steps: list[Any]) -> None:
    asyncio.run(Evening(start).play(steps))


LOADS = st.tuples(
    st.just("load"),
    KEYS,
    st.sampled_from([None, 5.0, 45.0, 600.0, 5000.0]),
    st.sampled_from([None, 0.0, 10.0, 2000.0]),
    st.booleans(),
)
WALL = st.tuples(st.just("step_wall"), st.sampled_from([-2 * HOUR, -900.0, -1.0, 1.0, 30.0, HOUR]))


@settings(max_examples=100, deadline=None)
@given(
    start=st.sampled_from(STARTS),
    steps=st.lists(st.one_of(asks, hops, LOADS, LOADS, WALL, others), min_size=20, max_size=50),
)
def test_what_callers_set_and_a_wall_clock_that_is_set_are_judged_too(start: datetime, steps: list[Any]) -> None:
    """Zones follow the wall clock, ages the one that only runs forward."""
    asyncio.run(Evening(start).play(steps))


class Jittered(Evening):
    """Where the oracle tells only how long a value may serve at most."""

    ORDER = ("compute", "serve_stale", "serve_fresh")

    def compare(self, strategy: str, told: str) -> None:
        if told == "bypass" or strategy == "bypass":
            assert strategy == told
        else:
            assert self.ORDER.index(strategy) <= self.ORDER.index(told)


@settings(max_examples=100, deadline=None)
@given(
    start=st.sampled_from(STARTS),
    jitter=st.sampled_from([0.05, 0.5, 0.99]),
    seed=st.integers(0, 9999),
    steps=st.lists(QUESTIONS, min_size=20, max_size=50),
)
def test_jitter_only_shortens(start: datetime, jitter: float, seed: int, steps: list[Any]) -> None:
    asyncio.run(Jittered(start, random.Random(seed).random, jitter=jitter).play(steps))


# -- X-Fetch ---------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    left=st.one_of(st.sampled_from(LEFT[2:]), st.integers(60, 200_000)),
    lineup=st.booleans(),
    seconds=st.sampled_from([0.5, 2.0, 16.0]),
    uniform=st.sampled_from([1.0, 0.8, 0.5, 0.1, 0.001]),
    share=st.sampled_from([0.5, 0.9, 1.1, 3.0]),
    asked_before=st.booleans(),
)
@example(left=61 * MINUTE, lineup=False, seconds=2.0, uniform=0.5, share=0.9, asked_before=False)
def test_the_expiry_that_xfetch_sees_includes_the_boundaries_of_zones(
    left: float, lineup: bool, seconds: float, uniform: float, share: float, asked_before: bool
) -> None:
    """A value made at T-61 min, of 900 s, is refreshed ahead of the golden hour 60 s later."""

    async def play() -> None:
        clock = VirtualClock()
        cache = SmartCacheEnhanced(CacheConfig(), clock=clock, rng=lambda: 1 - uniform)
        runs = 0

        async def compute() -> int:
            nonlocal runs
            runs += 1
            clock.advance(seconds)
            return runs

        async def ask() -> Any:
            result = await cache.get_with_intelligence("key", compute, context)
            for _ in range(8):
                await asyncio.sleep(0)
            return result

        reach = -seconds * math.log(uniform)
        context: Any = {"kickoff_time": clock.ahead(seconds=seconds + left), "lineup_confirmed": lineup}
        await ask()
        expiry = life_of(0.0, clock.time(), Facts(clock.time() + left, lineup), Facts(), math.inf).expiry
        before_expiry = max(0.01, reach * share)
        assume(before_expiry < expiry)
        if asked_before and expiry > reach + 1:
            await ask()
            assert runs == 1
        clock.advance(expiry - before_expiry)
        result = await ask()
        assert (result.value, result.strategy) == (1, "serve_fresh")
        assert runs == (2 if reach >= before_expiry else 1)
        await cache.close()

    asyncio.run(play())


# -- through the store -----------------------------------------------------------------------------------------------


class Machine:
    """An engine with a clock of its own, and the way to the store."""

    def __init__(self, store: MemoryStore, clock: VirtualClock, rng: Callable[[], float], config: CacheConfig) -> None:
        self.clock = clock
        self.cache = SmartCacheEnhanced(config, store=store.connect(config, clock), clock=clock, rng=rng)


class Night:
    """Engines on machines of their own that share a store, with all that moves while they are asked."""

    CONFIG = CacheConfig(governor_evaluations=4, jitter=0.3)

    def __init__(self, start: datetime, rng: Callable[[], float]) -> None:
        self.clock = VirtualClock(start)
        self.store = MemoryStore(self.clock)
        self.rng = rng
        self.machines = [Machine(self.store, VirtualClock(start), rng, self.CONFIG) for _ in range(2)]
        self.kickoff = start.timestamp() + 2 * HOUR
        self.place: Any = UTC
        self.made: dict[int, tuple[float, Facts]] = {}
        self.fails = False

    async def play(self, steps: list[Any]) -> None:
        for what, *arguments in steps:
            await getattr(self, what)(*arguments)
            await self.store.settle()
        for machine in self.machines:
            await machine.cache.close()

    async def advance(self, seconds: float) -> None:
        for clock in (self.clock, *(machine.clock for machine in self.machines)):
            clock.advance(seconds)

    async def over_boundary(self, number: int, nearest: float, before: float, after: float) -> None:
        """Ask at some instant before a boundary, and again after it."""
        self.kickoff = max(self.kickoff, self.clock.time() + nearest + before)
        await self.advance(self.kickoff - nearest - before - self.clock.time())
        await self.ask(number, "btts", None, None, None)
        await self.store.settle()
        await self.advance(before + after)
        await self.ask(number, "btts", None, None, None)

    async def kickoff_in(self, seconds: float, place: Any) -> None:
        self.kickoff, self.place = self.clock.time() + seconds, place

    async def step_wall(self, number: int, seconds: float) -> None:
        self.machines[number].clock.step_wall(seconds)

    async def restart(self, number: int) -> None:
        old = self.machines[number]
        await old.cache.close()
        self.machines[number] = Machine(self.store, old.clock, self.rng, self.CONFIG)

    async def ticks(self, number: int) -> None:
        for odds in TICKS:
            self.machines[number].cache.update_vix_snapshot(MARKET_KEY, odds, self.clock.time())

    async def fail(self, fails: bool) -> None:
        self.fails = fails

    async def ask(self, number: int, key: str, lineup: bool | None, odds: float | None, ttl: float | None) -> None:
        machine = self.machines[number]
        asked = Facts(self.kickoff, lineup)
        context: Any = {
            "match_id": "7", "market": key, "lineup_confirmed": lineup,
            "kickoff_time": datetime.fromtimestamp(self.kickoff, self.place),
        }  # fmt: skip
        if odds is not None:
            context["current_odds"] = {MARKET_KEY: odds}
        runs = len(self.made)

        async def compute() -> int:
            if self.fails:
                raise ConnectionError
            if ttl is not None:
                compute_context().ttl = ttl
            self.made[len(self.made) + 1] = (self.clock.monotonic(), Facts(self.kickoff, lineup, ttl))
            return len(self.made)

        try:
            result = await machine.cache.get_with_intelligence(key, compute, context)
        except ConnectionError:
            return
        event(result.outcome)
        wall, mode = machine.clock.time(), machine.cache.governor.mode
        if result.value > runs:
            assert not result.strategy.startswith("serve")
            if result.outcome == "bypass_started":
                self.kickoff += 3 * HOUR  # the next match of the day
            return
        born, facts = self.made[result.value]
        age = self.clock.monotonic() - born
        assert self.kickoff > wall, "nothing is served past kickoff"
        assert result.age > age - 0.001, "an age is never told too low"
        cell = CELLS[mode, result.vix_status]
        if result.outcome.startswith("error"):
            assert age < HOUR
            assert result.vix_status != "panic"
            return
        assert cell is not None
        life = life_of(age, wall, facts, asked, cell)
        assert age < (life.expiry if result.strategy == "serve_fresh" else life.stale_until)


NUMBERS = st.integers(0, 1)
MARKETS = st.sampled_from(["btts", "penalty"])
NIGHT = st.one_of(
    st.tuples(st.just("ask"), NUMBERS, MARKETS, LINEUPS, ODDS, st.sampled_from([None, 20.0])),
    st.tuples(st.just("ask"), NUMBERS, st.just("btts"), LINEUPS, st.none(), st.none()),
    st.tuples(st.just("advance"), st.sampled_from([0.25, 5.0, 29.75, 59.75, 60.0, 599.75, 900.0, HOUR])),
    st.tuples(
        st.just("over_boundary"),
        NUMBERS,
        st.sampled_from(BOUNDARIES),
        st.sampled_from([0.25, 20.0, 59.75, 400.0]),
        st.sampled_from([0.0, 0.25, 30.0, 59.75, 60.0, 119.75]),
    ),
    st.tuples(st.just("kickoff_in"), st.sampled_from(LEFT), st.sampled_from(PLACES)),
    st.tuples(st.just("restart"), NUMBERS),
    st.tuples(st.just("step_wall"), NUMBERS, st.sampled_from([-HOUR, -30.0, 30.0, HOUR])),
    st.tuples(st.just("ticks"), NUMBERS),
    st.tuples(st.just("fail"), st.booleans()),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    start=st.sampled_from(STARTS),
    seed=st.integers(0, 9999),
    steps=st.lists(NIGHT, min_size=20, max_size=50),
)
def test_nothing_served_is_older_than_the_tables_allow(start: datetime, seed: int, steps: list[Any]) -> None:
    asyncio.run(Night(start, random.Random(seed).random).play(steps))


@pytest.mark.parametrize(("age", "back"), [(10.0, 0.0), (10.0, 4.0), (10.0, 9.75), (10.0, 10.25), (10.0, 1000.0)])
async def test_an_entry_from_the_future_is_a_miss(age: float, back: float) -> None:
    """Ages between processes are told by the store's clock, in a process by the one that only runs forward."""
    clock = VirtualClock()
    store = MemoryStore(clock)
    config = CacheConfig()
    one, other = (SmartCacheEnhanced(config, store=store.connect(config), clock=clock) for _ in range(2))

    async def compute() -> int:
        return 1

    await one.get_with_intelligence("key", compute)
    clock.advance(age)
    clock.step_wall(-back)
    found = await other.get_with_intelligence("key", compute)
    if back > age:
        assert found.strategy == "compute"
    else:
        assert (found.strategy, found.tier, round(found.age, 3)) == ("serve_fresh", "store", age - back)
    at_home = await one.get_with_intelligence("key", compute)
    assert (at_home.strategy, at_home.tier, at_home.age) == ("serve_fresh", "memory", age)

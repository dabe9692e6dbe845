"""What an invalidation promises, whatever happens to engines, messages and the store, and in whatever order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st

from smartcache import CacheConfig, CacheResult, EventType, SmartCacheEnhanced, compute_context
from smartcache.protocol import ALL, match_version, tag_version
from smartcache.testing import Contents, Link, MemoryStore, VirtualClock

#: Seconds after which an invalidation that was acknowledged holds everywhere, whatever has become of the bus.
AT_THE_LATEST = 2.0

#: Keys with their market of match 7, and the tags they are asked for with; the last names its tag itself, late.
KEYS: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "btts": ("btts", ()),
    "penalty": ("penalty", ()),
    "table": (None, ("form",)),
    "late": (None, ()),
}
#: Changes by name, with the keys they mean.
CHANGES: dict[str, set[str]] = {
    "delete btts": {"btts"},
    "expire btts": {"btts"},
    "delete late": {"late"},
    "expire table": {"table"},
    "delete #form": {"table", "late"},
    "expire #form": {"table", "late"},
    "goalkeeper": {"btts"},
    "referee": {"penalty"},
    "all": set(KEYS),
}


class Computed(NamedTuple):
    """A value: which engine computed it, and when that began."""

    engine: int
    began: int


@dataclass
class Invalidation:
    """A change and what became of it. Orders are moments of the test, times are seconds of the clock."""

    name: str
    engine: int
    issued: int
    returned: int | None = None
    acknowledged: bool = False
    #: Since when the store has it.
    applied: int | None = None
    applied_at: float = 0.0
    #: Since when each other engine has heard of it.
    known: dict[int, int] = field(default_factory=dict)

    @property
    def expires(self) -> bool:
        """Whether the old value may still serve when a compute fails."""
        return self.name.startswith("expire")


class Question(NamedTuple):
    """A request: to which engine, and when it came."""

    engine: int
    key: str
    came: int
    came_at: float


class Engines:
    """Engines on one store, each with a link of its own."""

    def __init__(self, count: int = 3) -> None:
        self.clock = VirtualClock()
        self.store = MemoryStore(self.clock)
        config = CacheConfig()
        self.links: list[Link] = [self.store.connect(config) for _ in range(count)]
        self.caches = [SmartCacheEnhanced(config, store=link, clock=self.clock, rng=lambda: 0.0) for link in self.links]
        self.kickoff = self.clock.ahead(hours=5)
        self.moments = 0
        self.values: list[Computed] = []
        self.invalidations: list[Invalidation] = []
        self.tasks: list[asyncio.Task[Any]] = []
        #: Computes under way, and the gates at which some of them wait.
        self.computing: set[tuple[int, str]] = set()
        self.gates: list[asyncio.Future[bool]] = []
        self.old: Contents | None = None

    def moment(self) -> int:
        self.moments += 1
        return self.moments

    async def play(self, steps: list[Any]) -> None:
        await self.caches[0].delete("something before")
        for engine, cache in enumerate(self.caches):
            await cache.start()
            for key in KEYS:
                self.ask(engine, key, False, "well")
            await self._come_to_rest()
        for turns, what, *arguments in steps:
            getattr(self, what)(*arguments)
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in self.tasks:
                if task.done():
                    task.result()
        await self.end()

    async def end(self) -> None:
        """All is well again, everything comes to its end; then nothing old is left anywhere."""
        self.store.read_only = self.store.full = False
        for link in self.links:
            link.heal()
        await self._come_to_rest()
        self.deliver()
        for engine in range(len(self.caches)):
            for key in KEYS:
                self.ask(engine, key, False, "well")
        await self._come_to_rest()
        for cache in self.caches:
            await cache.close()

    async def _come_to_rest(self) -> None:
        for _ in range(50):
            while self.gates:
                self.finish(0, True)
            await self.store.settle()
            if all(task.done() for task in self.tasks) and not self.gates:
                break
            self.advance(0.5)  # for leases that nobody gave back
        assert all(task.done() for task in self.tasks), "somebody waits for ever"
        for task in self.tasks:
            task.result()

    # -- steps -------------------------------------------------------------------------------------------------------

    def ask(self, engine: int, key: str, force: bool, compute: str) -> None:
        """Ask; a compute that comes of it ``waits`` to be finished, ends at once ``well``, or ``fails``."""
        self.tasks.append(asyncio.get_running_loop().create_task(self._ask(engine, key, force, compute)))

    def change(self, engine: int, name: str) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(self._change(engine, name)))

    def finish(self, which: int, well: bool) -> None:
        """Let one of the computes end."""
        if self.gates:
            self.gates.pop(which % len(self.gates)).set_result(well)

    def deliver(self) -> None:
        self.store.deliver()
        self._note_deliveries()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self._note_deliveries()

    def fault(self, engine: int, name: str) -> None:
        link = self.links[engine]
        {
            "partition": link.partition,
            "hold": link.hold_messages,
            "delay": lambda: link.delay_messages(0.75),
            "delay long": lambda: link.delay_messages(3.0),
            "drop": link.drop_messages,
            "reorder": link.reorder_messages,
            "fail": lambda: link.fail_next(2),
            "lose": lambda: link.lose_answers(1),
            "slow": lambda: link.slow(0.125),
            "too slow": lambda: link.slow(0.75),
            "heal": link.heal,
        }[name]()

    def read_only(self, on: bool) -> None:
        self.store.read_only = on

    def full(self, on: bool) -> None:
        self.store.full = on

    def flush(self) -> None:
        self.store.flush()

    def lose_version(self, name: str) -> None:
        self.store.lose_version(name)

    def snapshot(self) -> None:
        self.old = self.store.snapshot()

    def go_back(self, heard: bool) -> None:
        """The store is restarted from what was saved; somebody notices and can write.

        That is one who has ``heard`` everything, or those who made the changes that nobody may have heard of.
        """
        if self.old is not None:
            self.store.read_only = self.store.full = False
            if heard or any(change.returned is None for change in self.invalidations):
                self.links[0].heal()
                self.deliver()
            else:
                for link in self.links:
                    link.heal()
            self.store.go_back_to(self.old)
            self.deliver()

    # -- what happens, and what must hold ----------------------------------------------------------------------------

    async def _ask(self, engine: int, key: str, force: bool, how: str) -> None:
        market, tags = KEYS[key]
        context: Any = {"match_id": "7", "market": market, "kickoff_time": self.kickoff} if market else None
        question = Question(engine, key, self.moment(), self.clock.monotonic())

        async def compute() -> int:
            began = self.moment()
            if key == "late":
                compute_context().add_tags(["form"])
            assert (engine, key) not in self.computing, "one at a time"
            self.computing.add((engine, key))
            gate: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            if how == "waits":
                self.gates.append(gate)
            else:
                asyncio.get_running_loop().call_soon(gate.set_result, how == "well")
            well = await gate
            self.computing.remove((engine, key))
            if not well:
                raise ConnectionError
            self.values.append(Computed(engine, began))
            return len(self.values) - 1

        cache = self.caches[engine]
        try:
            result = await cache._answer(cache._request(key, compute, context, tags, {}), force)
        except (ConnectionError, TimeoutError):
            return
        event(result.outcome)
        for invalidation in self.invalidations:
            if key in CHANGES[invalidation.name]:
                self._check(question, result, invalidation)

    def _check(self, question: Question, result: CacheResult[int], change: Invalidation) -> None:
        value = self.values[result.value]
        if value.began > change.issued or (change.expires and result.outcome.startswith("error")):
            return
        told = f"{result.metadata} of {value} after {change}, asked {question}"
        here = change.engine == question.engine and change.returned is not None and change.returned < question.came
        assert not here, f"where it was made it holds when the call returns: {told}"
        known = change.known.get(question.engine)
        assert known is None or known > question.came, f"it was delivered: {told}"
        if change.applied is not None and change.applied < question.came:
            assert result.tier != "store", f"the store has it: {told}"
        if change.acknowledged and question.came_at > change.applied_at + AT_THE_LATEST:
            assert result.strategy != "serve_fresh", f"it is long acknowledged: {told}"

    async def _change(self, engine: int, name: str) -> None:
        cache, change = self.caches[engine], Invalidation(name, engine, self.moment())
        self.invalidations.append(change)
        verb, _, what = name.partition(" ")
        if name == "all":
            acknowledged = (await cache.invalidate_all()).acknowledged
        elif what:
            call = getattr(cache, verb)
            acknowledged = (await (call(tags=[what[1:]]) if what.startswith("#") else call(what))).acknowledged
        else:
            kind = {"goalkeeper": EventType.GK_CHANGE, "referee": EventType.REFEREE_ASSIGNED}[name]
            acknowledged = (await cache.invalidate_by_event(kind, "match:7"))["acknowledged"]
        change.returned = self.moment()
        event(f"acknowledged={acknowledged}")
        if acknowledged:
            change.acknowledged = True
            change.applied, change.applied_at = change.returned, self.clock.monotonic()

    def _note_deliveries(self) -> None:
        """Which engines have heard of what by now, told by the faults that are set and not by what they say."""
        now = self.moment()
        for change in self.invalidations:
            queued = self.caches[change.engine]._bus
            if change.applied is None and change.returned is not None and queued is not None and not queued.queued:
                change.applied, change.applied_at = now, self.clock.monotonic()
            if change.applied is None:
                continue
            for engine, link in enumerate(self.links):
                hears = not (link._partitioned or link._held)
                if hears and change.applied_at <= self.clock.monotonic() - link._lag:
                    change.known.setdefault(engine, now)


FAULTS = ["partition", "hold", "delay", "delay long", "drop", "reorder", "fail", "lose", "slow", "too slow"]
#: Turns of the event loop between two steps.
TURNS = [0, 1, 2, 3, 5, 12, 30]


def story(seed: int) -> list[Any]:
    """What happens, in the mixture that finds most: a key or few, many questions, a fault now and then."""
    dice = random.Random(seed)
    keys = dice.sample([*KEYS], dice.choice([1, 1, 2, 4]))
    changes = [name for name, meant in CHANGES.items() if not meant.isdisjoint(keys)]
    versions = [ALL, match_version("7", "btts"), tag_version("form")]

    def engine() -> int:
        return dice.randrange(3)

    steps: dict[str, tuple[float, Callable[[], tuple[Any, ...]]]] = {
        "ask": (8, lambda: (engine(), dice.choice(keys), dice.random() < 0.2, dice.choice(["waits", "well", "fails"]))),
        "finish": (6, lambda: (dice.randrange(4), dice.random() < 0.75)),
        "change": (3, lambda: (engine(), dice.choice(changes))),
        "deliver": (2, lambda: ()),
        "advance": (1.5, lambda: (dice.choice([0.125, 0.5, 1.5, 2.25, 6.0, 400.0]),)),
        "fault": (2.5, lambda: (engine(), dice.choice([*FAULTS, "heal", "heal", "heal", "heal", "heal"]))),
        "read_only": (0.3, lambda: (dice.random() < 0.4,)),
        "full": (0.3, lambda: (dice.random() < 0.4,)),
        "flush": (0.3, lambda: ()),
        "lose_version": (0.5, lambda: (dice.choice(versions),)),
        "snapshot": (0.3, lambda: ()),
        "go_back": (0.3, lambda: (dice.random() < 0.5,)),
    }
    weights = [weight for weight, _ in steps.values()]
    return [
        (dice.choice(TURNS), what, *steps[what][1]())
        for what in dice.choices([*steps], weights, k=dice.choice([20, 40, 80]))
    ]


def broken(steps: list[Any]) -> str:
    """What does not hold after these steps; empty when all does."""
    try:
        asyncio.run(Engines().play(steps))
    except AssertionError as error:
        return str(error)
    return ""


def shortened(steps: list[Any]) -> list[Any]:
    """As few of the steps as still break something."""
    size = len(steps)
    while size := size // 2:
        start = 0
        while start < len(steps):
            fewer = steps[:start] + steps[start + size :]
            if broken(fewer):
                steps = fewer
            else:
                start += size
    return steps


@settings(max_examples=400, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(seed=st.integers(0, 2**32 - 1))
def test_nothing_is_served_that_an_invalidation_has_retired(seed: int) -> None:
    steps = story(seed)
    if broken(steps):
        steps = shortened(steps)
        raise AssertionError("\n".join([broken(steps), "after (turns, what, ...)", *map(str, steps)]))


# -- one load per key ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    asks=st.lists(
        st.tuples(st.sampled_from(TURNS), st.integers(0, 2), st.sampled_from(["btts", "table", "late"])),
        min_size=5,
        max_size=30,
    ),
    turns_of_computes=st.integers(0, 8),
)
def test_a_key_is_computed_once_however_many_ask_while_the_store_answers(
    asks: list[tuple[int, int, str]], turns_of_computes: int
) -> None:
    async def play() -> None:
        engines = Engines()
        runs: dict[str, int] = {}

        async def ask(engine: int, key: str) -> int:
            market, tags = KEYS[key]
            context: Any = {"match_id": "7", "market": market} if market else None

            async def compute() -> int:
                runs[key] = runs.get(key, 0) + 1
                if key == "late":
                    compute_context().add_tags(["form"])
                for _ in range(turns_of_computes):
                    await asyncio.sleep(0)
                return runs[key]

            return await engines.caches[engine].get_or_load(key, compute, tags=tags, match_context=context)

        asking = []
        for turns, engine, key in asks:
            asking.append(asyncio.ensure_future(ask(engine, key)))
            for _ in range(turns):
                await asyncio.sleep(0)
        assert set(await asyncio.gather(*asking)) == {1}
        assert set(runs.values()) == {1}
        for cache in engines.caches:
            await cache.close()

    asyncio.run(play())


# -- races, one by one -----------------------------------------------------------------------------------------------


async def test_a_value_waited_for_is_not_taken_from_a_store_that_has_yet_to_hear_of_its_end() -> None:
    engines = Engines(2)
    one, other = engines.caches
    gate = asyncio.Event()

    async def slowly() -> str:
        await gate.wait()
        return "old"

    async def compute() -> str:
        return "new"

    first = asyncio.ensure_future(one.get_or_load("key", slowly))
    await engines.store.settle()
    waiting = asyncio.ensure_future(other.get_or_load("key", compute))
    await engines.store.settle()
    engines.links[1].fail_next()
    assert not (await other.delete("key")).acknowledged
    gate.set()
    await asyncio.gather(first, waiting)
    assert await other.get_or_load("key", compute) == "new"
    for cache in engines.caches:
        await cache.close()


async def test_what_is_dropped_while_the_store_is_asked_is_not_served() -> None:
    """The bus was silent, so the store is asked; it does not answer, but the bus is heard again meanwhile."""
    engines = Engines(2)
    one, other = engines.caches
    link = engines.links[1]

    async def compute() -> int:
        engines.moment()
        return engines.moments

    old = await one.get_or_load("key", compute)
    assert await other.get_or_load("key", compute) == old
    link.hold_messages()
    assert (await one.delete("key")).acknowledged
    engines.clock.advance(AT_THE_LATEST + 0.25)
    link.slow(0.75)
    asking = asyncio.ensure_future(other.get_or_load("key", compute))
    await asyncio.sleep(0.0)
    await asyncio.sleep(0.0)
    link.heal()
    engines.clock.advance(0.25)
    assert await asking != old
    for cache in engines.caches:
        await cache.close()

"""The test kit: its clock, its faults as an engine feels them, its check for changed values."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from conftest import Model

from smartcache import CacheConfig, EventType, SmartCacheEnhanced
from smartcache.testing import Contents, Link, MemoryStore, MutatedValueError, VirtualClock, no_mutation

ROOT = Path(__file__).parents[2]


class Process:
    """An engine with its own link to the store."""

    def __init__(self, store: MemoryStore, clock: VirtualClock, **settings: Any) -> None:
        config = CacheConfig(**settings)
        self.link: Link = store.connect(config, clock)
        self.cache = SmartCacheEnhanced(config, store=self.link, clock=clock, rng=lambda: 0.0)
        self.model = Model()

    async def ask(self, key: str = "key", **context: Any) -> Any:
        return await self.cache.get_with_intelligence(key, self.model, context)  # type: ignore[arg-type]


@pytest.fixture
def store(clock: VirtualClock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture
async def one(store: MemoryStore, clock: VirtualClock) -> AsyncIterator[Process]:
    process = Process(store, clock)
    yield process
    await process.cache.close()


@pytest.fixture
async def other(store: MemoryStore, clock: VirtualClock) -> AsyncIterator[Process]:
    process = Process(store, clock)
    yield process
    await process.cache.close()


# -- the clock -------------------------------------------------------------------------------------------------------


def test_both_clocks_advance_together_and_the_wall_clock_can_be_set_alone() -> None:
    start = datetime(2025, 10, 26, 0, 30, tzinfo=UTC)
    clock = VirtualClock(start)
    steady = clock.monotonic()
    clock.advance(90)
    assert (clock.time(), clock.monotonic()) == (start.timestamp() + 90, steady + 90)
    clock.step_wall(-3600)
    assert (clock.time(), clock.monotonic()) == (start.timestamp() - 3510, steady + 90)
    clock.set_wall(start.astimezone(ZoneInfo("Europe/London")))
    assert (clock.time(), clock.monotonic()) == (start.timestamp(), steady + 90)
    assert clock.ahead(hours=1, minutes=5) == start + timedelta(minutes=65)


def test_time_does_not_run_backwards_and_an_instant_has_a_zone() -> None:
    clock = VirtualClock()
    for seconds in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=str(seconds)):
            clock.advance(seconds)
    with pytest.raises(ValueError, match=r"2025.*naive"):
        VirtualClock(datetime(2025, 3, 1))
    with pytest.raises(ValueError, match=r"2025.*naive"):
        clock.set_wall(datetime(2025, 3, 1))


def test_what_is_due_on_the_way_happens_at_its_instant_and_in_order(clock: VirtualClock) -> None:
    start = clock.monotonic()
    happened: list[float] = []

    def happen() -> None:
        happened.append(clock.monotonic() - start)

    for seconds in (3.0, 1.0, 5.0, 1.0):
        clock.call_later(seconds, happen)
    clock.advance(4)
    assert happened == [1.0, 1.0, 3.0]
    clock.advance(4)
    assert happened == [1.0, 1.0, 3.0, 5.0]
    assert clock.monotonic() == start + 8


async def test_a_compute_can_take_its_time_on_the_clock(clock: VirtualClock, cache: SmartCacheEnhanced) -> None:
    async def compute() -> str:
        await clock.sleep(2)
        return "value"

    asking = asyncio.ensure_future(cache.get_or_load("key", compute))
    for _ in range(5):
        await asyncio.sleep(0)
        assert not asking.done()
    clock.advance(2)
    assert await asking == "value"


# -- several processes -----------------------------------------------------------------------------------------------


def test_the_example_in_the_documentation_works() -> None:
    example = re.findall(r"```python\n(.*?)```", (ROOT / "docs/testing.md").read_text(), re.S)[0]
    names: dict[str, Any] = {}
    exec(example, names)
    asyncio.run(names["test_rain_reaches_the_other_process"]())


async def test_a_change_is_heard_when_it_is_delivered_or_when_time_passes(
    store: MemoryStore, clock: VirtualClock, one: Process, other: Process
) -> None:
    ways: tuple[Callable[[], None], ...] = (store.deliver, lambda: clock.advance(0.01))
    for run, hear in enumerate(ways, start=1):
        await one.ask()
        assert (await other.ask()).value == {"run": run}
        await one.cache.delete("key")
        assert (await other.ask()).value == {"run": run}, "nothing was delivered yet"
        hear()
        assert (await one.ask()).value == (await other.ask()).value == {"run": run + 1}


async def test_waiters_in_two_processes_share_one_compute(store: MemoryStore, one: Process, other: Process) -> None:
    one.model.gate = asyncio.Event()
    asking = [asyncio.ensure_future(process.ask()) for process in (one, other, other)]
    await store.settle()
    assert not any(task.done() for task in asking)
    one.model.gate.set()
    assert [result.value for result in await asyncio.gather(*asking)] == [{"run": 1}] * 3
    assert other.model.runs == 0


async def test_a_process_that_was_killed_keeps_its_lease_until_it_runs_out(
    store: MemoryStore, clock: VirtualClock, one: Process, other: Process
) -> None:
    one.model.gate = asyncio.Event()
    killed = asyncio.ensure_future(one.ask())
    await store.settle()
    one.link.partition()
    waiting = asyncio.ensure_future(other.ask())
    for _ in range(9):
        clock.advance(0.5)
        await store.settle()
        assert not waiting.done()
    clock.advance(0.5)
    assert (await waiting).value == {"run": 1}
    assert other.model.runs == 1
    one.model.gate.set()
    await killed


# -- faults ----------------------------------------------------------------------------------------------------------


async def test_a_partition_lets_nothing_through_until_it_heals(
    store: MemoryStore, clock: VirtualClock, one: Process, other: Process
) -> None:
    assert (await one.ask()).tier == "none"
    assert (await other.ask()).tier == "store"
    other.link.partition()
    assert (await one.cache.delete("key")).acknowledged
    assert not (await other.cache.expire("something else")).acknowledged
    clock.advance(1.75)
    assert (await other.ask()).strategy == "serve_fresh", "for all it knows"
    clock.advance(0.5)
    assert (await other.ask()).strategy == "serve_stale", "nothing heard for more than two seconds"
    health = other.cache.health()
    assert (health["store"], health["bus"], health["queued_invalidations"]) == ("down", "down", 1)
    other.link.heal()
    store.deliver()
    await store.settle()
    health = other.cache.health()
    assert (health["store"], health["bus"], health["queued_invalidations"]) == ("ok", "ok", 0)
    one.model.runs = 10
    assert (await other.ask()).value == (await one.ask()).value


async def test_a_question_that_fails_and_one_whose_answer_is_lost(
    store: MemoryStore, one: Process, other: Process
) -> None:
    await one.ask()
    one.link.fail_next()
    assert not (await one.cache.delete("key")).acknowledged
    assert store.data("key") is not None
    store.deliver()
    assert store.data("key") is None
    await one.ask()
    one.link.lose_answers()
    assert not (await one.cache.delete("key")).acknowledged
    assert store.data("key") is None, "the store acted on it"
    assert (await one.ask()).value == {"run": 3}


async def test_a_slow_store_costs_its_time_out_and_acts_late(
    store: MemoryStore, clock: VirtualClock, one: Process
) -> None:
    await one.ask()
    one.link.slow(0.2)
    deleting = asyncio.ensure_future(one.cache.delete("key"))
    await store.settle()
    assert not deleting.done()
    clock.advance(0.2)
    assert (await deleting).acknowledged
    one.link.heal()
    await one.ask()
    one.link.slow(1.0)
    deleting = asyncio.ensure_future(one.cache.delete("key"))
    await store.settle()
    one.link.hold_messages()
    clock.advance(0.25)
    assert not (await deleting).acknowledged
    assert one.link.bus is not None
    one.link.bus._changes.clear()  # the late question alone
    assert store.data("key") is not None
    clock.advance(0.75)
    assert store.data("key") is None


async def test_a_process_that_hears_nothing_stops_calling_memory_fresh(
    clock: VirtualClock, one: Process, other: Process
) -> None:
    await one.ask()
    await other.ask()
    other.link.hold_messages()
    await one.cache.delete("key")
    clock.advance(1.75)
    assert (await other.ask()).value == {"run": 1}
    clock.advance(0.5)
    assert (await other.ask()).strategy == "compute", "it asks the store instead, which has it no more"
    assert other.cache.health()["store"] == "ok"


@pytest.mark.parametrize("seconds", [0.0, 1.5])
async def test_what_is_computed_in_a_partition_is_called_fresh_no_longer_than_the_bus_may_be_silent(
    clock: VirtualClock, one: Process, other: Process, seconds: float
) -> None:
    other.link.partition()
    clock.advance(3)
    other.model.clock, other.model.seconds = clock, seconds
    assert (await other.ask()).strategy == "compute"
    assert (await one.cache.delete("key")).acknowledged
    clock.advance(1.75 - seconds)
    assert (await other.ask()).strategy == "serve_fresh"
    clock.advance(0.5)
    assert (await other.ask()).strategy == "serve_stale", "its compute began more than two seconds ago"


async def test_messages_that_are_late_arrive_in_their_time(
    store: MemoryStore, clock: VirtualClock, one: Process, other: Process
) -> None:
    await one.ask()
    await other.ask()
    other.link.delay_messages(0.5)
    await one.cache.delete("key")
    clock.advance(0.25)
    assert (await other.ask()).value == {"run": 1}
    clock.advance(0.25)
    assert other.link.bus is not None
    assert (await other.ask()).strategy == "compute"
    assert other.link.bus.heard == pytest.approx(clock.monotonic() - 0.5)
    assert other.link.bus.gaps == 0


async def test_what_was_heard_is_not_unheard_by_a_delay(
    store: MemoryStore, clock: VirtualClock, one: Process, other: Process
) -> None:
    await other.cache.start()
    await one.cache.delete("something before")
    await one.cache.delete("key")
    store.deliver()
    heard = clock.monotonic()
    for process in (one, other):
        process.link.delay_messages(3.0)
    clock.advance(2.5)
    assert one.link.bus is not None
    assert other.link.bus is not None
    assert other.link.bus.heard == pytest.approx(heard)
    assert other.link.bus.gaps == 0
    store.go_back_to(Contents())
    clock.advance(2.5)
    assert (one.link.bus.gaps, other.link.bus.gaps) == (1, 1)


@pytest.mark.parametrize("fault", ["drop", "reorder"])
async def test_messages_that_are_lost_or_out_of_order_are_noticed(
    store: MemoryStore, one: Process, other: Process, fault: str
) -> None:
    await one.cache.delete("something before")
    store.deliver()
    await one.ask()
    await other.ask()
    if fault == "drop":
        other.link.drop_messages()
    else:
        other.link.reorder_messages()
    await one.cache.delete("key")
    await one.cache.delete("another key")
    store.deliver()
    assert one.link.bus is not None
    assert other.link.bus is not None
    assert (one.link.bus.gaps, other.link.bus.gaps) == (0, 1)
    one.model.runs = 10
    assert (await other.ask()).strategy == "compute"


async def test_a_store_that_went_back_gives_nothing_back_that_was_retired(
    store: MemoryStore, one: Process, other: Process, clock: VirtualClock
) -> None:
    await one.cache.delete("something before")
    match: Any = {"match_id": "7", "market": "clean_sheet", "kickoff_time": clock.ahead(hours=2)}
    await one.ask(**match)
    store.deliver()
    old = store.snapshot()
    await one.cache.invalidate_by_event(EventType.WEATHER_RAIN, "match:7")
    store.deliver()
    store.go_back_to(old)
    store.deliver()
    assert store.data("key") is not None
    assert (await other.ask(**match)).strategy == "compute"


async def test_garbage_is_a_counted_miss(store: MemoryStore, one: Process) -> None:
    store.overwrite("key", b"garbage")
    assert (await one.ask()).strategy == "compute"
    assert one.cache.metrics.snapshot().samples["smartcache_store_unreadable_entries_total"][()] >= 1


async def test_an_engine_on_another_machine_has_its_own_clock(store: MemoryStore, one: Process) -> None:
    ahead = VirtualClock(datetime(2025, 3, 1, 12, 40, tzinfo=UTC))
    distant = Process(store, ahead)
    await one.ask()
    found = await distant.ask()
    assert (found.tier, round(found.age, 3)) == ("store", 0.0), "ages are told by the store's clock"
    ahead.advance(299)
    assert (await distant.ask()).strategy == "serve_fresh"
    ahead.advance(1)
    assert (await distant.ask()).strategy == "serve_stale"
    await distant.cache.close()


# -- changed values --------------------------------------------------------------------------------------------------

VALUE: dict[str, Any] = {"yes": 0.41, "scores": [{"home": 1, "away": 0}], "note": None}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda value: value.update(yes=0.5), r"value\['yes'\] was 0\.41 and is 0\.5"),
        (lambda value: value["scores"][0].update(home=True), r"value\['scores'\]\[0\]\['home'\] was 1 and is True"),
        (lambda value: value["scores"].append(1), r"value\['scores'\] had 1 items and has 2"),
        (
            lambda value: value.pop("note"),
            r"value had the keys \['yes', .*, 'note'\] and has \['yes', 'scores'\]",
        ),
        (lambda value: value.update(note=object()), r"value\['note'\] was None and is <object"),
        (lambda value: value.update(note=value), r"value\['note'\] was None and is \{"),
    ],
)
async def test_a_value_that_was_changed_is_named_with_the_place(
    cache: SmartCacheEnhanced, change: Any, told: str
) -> None:
    async def compute() -> Any:
        return {**VALUE, "scores": [dict(score) for score in VALUE["scores"]]}

    with pytest.raises(MutatedValueError, match=rf"'key'.*{told}"), no_mutation(cache):
        change(await cache.get_or_load("key", compute))
    change(await cache.get_or_load("another key", compute))  # the check is over


async def test_values_held_before_and_dropped_meanwhile_are_checked_too(cache: SmartCacheEnhanced) -> None:
    async def compute() -> list[int]:
        return [1]

    held = await cache.get_or_load("key", compute)
    check = no_mutation(cache)
    check.__enter__()
    await cache.delete("key")
    held.append(2)
    with pytest.raises(MutatedValueError):
        check.__exit__(None, None, None)


async def test_the_shared_value_that_its_compute_goes_on_using_is_found(cache: SmartCacheEnhanced) -> None:
    table = [1]

    async def compute() -> list[int]:
        return table

    check = no_mutation(cache)
    check.__enter__()
    await cache.get_or_load("key", compute)
    table.append(2)
    with pytest.raises(MutatedValueError):
        check.__exit__(None, None, None)


async def test_reading_and_changing_ones_own_copy_is_fine(
    store: MemoryStore, clock: VirtualClock, one: Process, other: Process
) -> None:
    with no_mutation(one.cache), no_mutation(other.cache):
        await one.ask()
        mine = await other.cache.get_or_load("key", other.model, copy=True)
        mine["run"] = 7
        assert (await other.ask()).value == {"run": 1}


async def test_a_failure_inside_the_block_is_told_as_it_is(cache: SmartCacheEnhanced, model: Model) -> None:
    value = await cache.get_or_load("key", model)
    with pytest.raises(KeyError, match="goals"), no_mutation(cache):
        assert value.pop("run") == value["goals"]

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartcache.entry import Entry
from smartcache.eviction import Queue
from smartcache.flight import Flight
from smartcache.holdings import Holdings
from smartcache.memory import MemoryTier
from smartcache.protocol import Change
from smartcache.request import Request


def retire(tier: MemoryTier, match: str) -> set[str]:
    """Let go of what an event on the market "btts" means."""
    with tier.lock:
        met = {one.key for one in tier.concerned(Change("delete", "match", match, ("btts",)))}
        for key in met:
            tier.drop(key)
        return met


def entry(key: str, size: int = 1, match: str | None = None, market: str | None = None) -> Entry:
    return Entry(key, key, born=0.0, size=size, match_id=match, market=market)


def ask(tier: MemoryTier, key: str) -> bool:
    """One request: whether it hit; what did not is computed and put."""
    hit = tier.get(key) is not None
    if not hit:
        tier.put(entry(key))
    return hit


def held(tier: MemoryTier) -> set[str]:
    """What is held, found without a hit."""
    return set(tier._entries)


def line(queue: Queue) -> list[Entry]:
    """A queue's entries, oldest first."""
    entries: list[Entry] = []
    here = queue.oldest
    while here is not None:
        entries.append(here)
        here = here.newer
    return entries


def assert_consistent(tier: MemoryTier) -> None:
    eviction = tier._eviction
    queued: dict[str, Entry] = {}
    for queue in (eviction._window, eviction._probation, eviction._main):
        entries = line(queue)
        assert [one.older for one in entries] == [None, *entries[:-1]][: len(entries)]
        assert queue._newest is (entries[-1] if entries else None)
        assert all(one.queue is queue for one in entries)
        assert (queue.count, queue.bytes) == (len(entries), sum(one.size for one in entries))
        assert not queued.keys() & {one.key for one in entries}, "in two queues"
        queued |= {one.key: one for one in entries}
    assert queued == tier._entries
    assert tier.bytes_held == sum(one.size for one in queued.values())
    assert len(eviction._ghosts) <= tier._most_entries
    assert not eviction._ghosts.keys() & {hash(key) for key in queued}
    by_owner: dict[tuple[str, str], set[str]] = {}
    for one in queued.values():
        if one.match_id is not None:
            by_owner.setdefault(("match", one.match_id), set()).add(one.key)
        for tag in one.tags:
            by_owner.setdefault(("tag", tag), set()).add(one.key)
    assert by_owner == tier._by_owner


def test_it_holds_no_more_entries_and_bytes_than_it_may() -> None:
    changes: list[tuple[int, int]] = []
    evictions: list[int] = []
    tier = MemoryTier(3, 100, lambda count, size: changes.append((count, size)), evictions.append)
    for key in "abcd":
        tier.put(entry(key))
    assert held(tier) == {"a", "b", "d"}, "of those that nobody asked for, the one in the small queue goes first"
    tier.put(entry("big", size=99))
    assert (len(tier), tier.bytes_held) == (2, 100)
    assert sum(evictions) == 3
    assert changes[-1] == (2, 100)
    assert_consistent(tier)


def test_a_value_larger_than_the_tier_is_not_held_nor_is_the_one_it_replaces() -> None:
    tier = MemoryTier(3, 100)
    tier.put(entry("huge", size=100))
    assert held(tier) == {"huge"}
    tier.put(entry("huge", size=101))
    assert (held(tier), tier.bytes_held) == (set(), 0)


def test_a_match_is_retired_market_by_market() -> None:
    tier = MemoryTier(10, 1000)
    for key, match, market in [("a", "1", "btts"), ("b", "1", "penalty"), ("c", "1", None), ("d", "2", "btts")]:
        tier.put(entry(key, match=match, market=market))
    assert retire(tier, "1") == {"a", "c"}, "an entry without a market goes with every event of its match"
    assert (tier.get("b"), tier.get("d")) != (None, None)
    assert retire(tier, "9") == set()
    assert tier.clear() == {"b", "d"}
    assert (len(tier), tier.bytes_held) == (0, 0)


def test_a_tier_of_no_entries_holds_nothing() -> None:
    tier = MemoryTier(0, 100)
    tier.put(entry("a"))
    assert tier.get("a") is None
    assert (tier.drop("a"), tier.clear(), len(tier)) == (None, set(), 0)


def test_a_tier_of_one_entry_holds_the_newest() -> None:
    tier = MemoryTier(1, 100)
    for key in "abcab":
        tier.put(entry(key))
        assert tier.get(key) is not None
        assert held(tier) == {key}
        assert_consistent(tier)


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "get", "drop", "retire", "clear"]), st.integers(0, 25), st.integers(1, 40)),
    max_size=200,
)


@given(operations=OPERATIONS, most=st.integers(1, 20) | st.just(100), most_bytes=st.sampled_from([40, 100, 400]))
def test_bounds_and_books_hold_after_any_operations(
    operations: list[tuple[str, int, int]], most: int, most_bytes: int
) -> None:
    tier = MemoryTier(most, most_bytes)
    model: dict[str, Entry] = {}
    for what, number, size in operations:
        key, match = f"k{number}", str(number % 3)
        if what == "put":
            model[key] = entry(key, size, match, "btts")
            tier.put(model[key])
            assert tier._entries[key] is model[key], "what was put is held"
        elif what == "get":
            found = tier.get(key)
            assert found is None or found is model[key], "never a value that was replaced"
        elif what == "drop":
            tier.drop(key)
            model.pop(key, None)
        elif what == "retire":
            for gone in retire(tier, match):
                model.pop(gone)
            assert not any(one.match_id == match for one in tier._entries.values())
        else:
            tier.clear()
            model.clear()
        assert held(tier) <= model.keys()
        assert len(tier) <= most
        assert tier.bytes_held <= most_bytes
        assert_consistent(tier)


@given(asked=st.lists(st.integers(0, 25), max_size=200), refreshed=st.data(), most=st.integers(1, 20))
def test_a_refreshed_value_keeps_the_standing_of_the_one_it_replaces(
    asked: list[int], refreshed: st.DataObject, most: int
) -> None:
    plain, refreshing = MemoryTier(most, sys.maxsize), MemoryTier(most, sys.maxsize)
    for number in asked:
        assert ask(plain, f"k{number}") == ask(refreshing, f"k{number}")
        for key in refreshed.draw(st.lists(st.sampled_from(sorted(held(refreshing))), max_size=3)):
            refreshing.put(entry(key))
        assert held(plain) == held(refreshing)
    assert_consistent(refreshing)


def test_the_same_entry_put_again_changes_nothing() -> None:
    tier = MemoryTier(10, 100)
    one = entry("a", size=3, match="1")
    tier.put(one)
    tier.get("a")
    tier.put(one)
    assert (len(tier), tier.bytes_held, one.visited) == (1, 3, True)
    assert_consistent(tier)


def test_room_is_made_for_a_value_as_large_as_the_tier() -> None:
    tier = MemoryTier(100, 400)
    for size in (5, 400):
        tier.put(entry(f"of {size}", size=size))
    assert held(tier) == {"of 400"}
    assert_consistent(tier)


def test_a_value_that_grows_makes_others_leave() -> None:
    tier = MemoryTier(100, 100)
    for number in range(10):
        tier.put(entry(f"k{number}", size=10))
    for size in (10, 60, 100):
        tier.put(entry("k3", size=size))
        assert "k3" in held(tier)
        assert_consistent(tier)
    assert (held(tier), tier.bytes_held) == ({"k3"}, 100)


def warm(tier: MemoryTier, keys: list[str], times: int = 3) -> None:
    for key in keys * times:
        ask(tier, key)


def test_a_scan_leaves_nineteen_in_twenty_of_a_hot_set() -> None:
    tier = MemoryTier(1000, sys.maxsize)
    hot = [f"hot{number}" for number in range(900)]
    warm(tier, hot)
    for number in range(100_000):
        ask(tier, f"scan{number}")
    assert len(held(tier) & set(hot)) >= 0.95 * len(hot)


@pytest.mark.parametrize("size", [5_000, 20_000])
def test_a_scan_of_large_values_leaves_as_much(size: int) -> None:
    tier = MemoryTier(10**6, 100_000)
    hot = [f"hot{number}" for number in range(800)]
    for key in hot * 3:
        if tier.get(key) is None:
            tier.put(entry(key, size=100))
    for number in range(10_000):
        tier.put(entry(f"scan{number}", size=size))
    assert len(held(tier) & set(hot)) >= 0.95 * len(hot)


def test_of_a_loop_twice_as_large_the_main_queue_keeps_what_it_can_hold() -> None:
    tier = MemoryTier(1000, sys.maxsize)
    loop = [f"k{number}" for number in range(2000)]
    warm(tier, loop, times=1)
    hits = sum(ask(tier, key) for key in loop * 10)
    assert hits >= 0.9 * 1000 * 10, "least recently used would hit never"


@pytest.mark.parametrize("refreshed", [False, True])
def test_what_is_asked_for_again_stays_and_so_does_its_refreshed_value(refreshed: bool) -> None:
    tier = MemoryTier(100, sys.maxsize)
    for number in range(100):
        ask(tier, f"k{number}")
    ask(tier, "again")
    for number in range(5):
        ask(tier, f"after{number}")
    assert ask(tier, "again")
    if refreshed:
        tier.put(entry("again"))
    for number in range(1000):
        ask(tier, f"scan{number}")
    assert ask(tier, "again")


def test_what_comes_back_soon_after_it_left_outlives_a_scan() -> None:
    tier = MemoryTier(100, sys.maxsize)
    for number in range(101):
        ask(tier, f"k{number}")
    (back,) = {f"k{number}" for number in range(101)} - held(tier)
    ask(tier, back)
    for number in range(50):
        ask(tier, f"scan{number}")
    assert back in held(tier)


def test_a_burst_of_hits_on_an_arrival_is_one_request() -> None:
    tier = MemoryTier(1000, sys.maxsize)
    warm(tier, [f"hot{number}" for number in range(1000)])
    for number in range(2000):
        for _ in range(5):
            ask(tier, f"burst{number}")
    assert sum(key.startswith("hot") for key in held(tier)) >= 900


def test_what_was_used_for_many_rounds_outlives_idle_ones_and_so_does_its_refreshed_value() -> None:
    tier = MemoryTier(1000, sys.maxsize)
    often = [f"often{number}" for number in range(300)]
    warm(tier, often)
    for turn in range(20):
        warm(tier, [f"once{turn}-{number}" for number in range(300)], times=2)
        warm(tier, often, times=1)
    for key in often:
        tier.put(entry(key))
    for turn in range(2):
        warm(tier, [f"last{turn}-{number}" for number in range(600)], times=2)
    assert held(tier) >= set(often)


def test_an_eviction_passes_over_a_hundred_entries_at_most() -> None:
    tier = MemoryTier(5000, sys.maxsize)
    everything = [entry(f"k{number}") for number in range(5000)]
    for one in everything:
        tier.put(one)
    for one in everything:
        tier.get(one.key)
    tier.put(entry("one more"))
    assert len(tier) == 5000
    # One moved to the main queue, a hundred went round it, one left.
    assert sum(not one.visited for one in everything) <= 102


def test_ghosts_are_no_more_than_the_tier_may_hold() -> None:
    tier = MemoryTier(100, sys.maxsize)
    for number in range(10_000):
        ask(tier, f"k{number}")
    assert 0 < len(tier._eviction._ghosts) <= 100
    tier.clear()
    assert not tier._eviction._ghosts


def in_threads(works: Sequence[Callable[[], None]], beside: Callable[[], None]) -> None:
    """Run works in threads of their own, and two threads beside them that repeat a step for as long as they run.

    They give way to one another as often as they can; what fails in one fails here.
    """
    done = threading.Event()

    def repeat() -> None:
        while not done.is_set():
            beside()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(len(works) + 2) as pool:
            repeating = [pool.submit(repeat) for _ in range(2)]
            try:
                for work in [pool.submit(work) for work in works]:
                    work.result()
            finally:
                done.set()
            for step in repeating:
                step.result()
    finally:
        sys.setswitchinterval(interval)


def test_a_reader_takes_no_lock() -> None:
    tier = MemoryTier(100, sys.maxsize)
    tier.put(entry("a"))
    found: list[Entry | None] = []
    reader = threading.Thread(target=lambda: found.append(tier.get("a")), daemon=True)
    with tier.lock:
        reader.start()
        reader.join(10)
        assert found == [tier.get("a")]


def test_a_reader_never_misses_what_is_being_replaced() -> None:
    tier = MemoryTier(100, sys.maxsize)
    tier.put(entry("a"))

    def read() -> None:
        for _ in range(150_000):
            assert tier.get("a") is not None

    in_threads([read, read], beside=lambda: tier.put(entry("a")))


def test_books_hold_with_readers_and_writers_in_threads() -> None:
    tier = MemoryTier(50, 500)

    def read() -> None:
        for number in range(120):
            found = tier.get(f"k{number}")
            assert found is None or found.value == f"k{number}"

    def write(chance: random.Random) -> None:
        for _ in range(10_000):
            number = chance.randrange(120)
            match chance.randrange(20):
                case 0:
                    tier.drop(f"k{number}")
                case 1:
                    retire(tier, str(number % 7))
                case _:
                    tier.put(entry(f"k{number}", chance.randrange(1, 20), str(number % 7), "btts"))

    in_threads([partial(write, random.Random(seed)) for seed in (1, 2)], beside=read)
    assert len(tier) <= 50
    assert tier.bytes_held <= 500
    assert_consistent(tier)


def test_a_key_can_be_put_while_room_is_made_and_its_match_is_retired() -> None:
    """The entry that leaves may be the one that is being replaced, and what is retired the one that is coming."""
    tier = MemoryTier(3, 30)

    def put(chance: random.Random) -> None:
        for _ in range(3_000):
            tier.put(entry("same", chance.randrange(1, 31), str(chance.randrange(2)), "btts"))
            tier.get("same")

    def make_room(chance: random.Random) -> None:
        for number in range(3_000):
            tier.put(entry(f"k{number % 5}", chance.randrange(1, 31), "0", "btts"))
            match chance.randrange(20):
                case 0:
                    tier.clear()
                case 1 | 2:
                    retire(tier, "0")
                case 3 | 4 | 5:
                    tier.drop("same")

    def check() -> None:
        with tier.lock:
            assert_consistent(tier)
            assert len(tier) <= 3
            assert tier.bytes_held <= 30

    works = [partial(work, random.Random(seed)) for seed, work in enumerate([put, put, make_room])]
    in_threads(works, beside=check)
    check()


@pytest.mark.parametrize(
    "change",
    [
        lambda tier: tier.put(entry("same")),
        lambda tier: tier.drop("same"),
        lambda tier: tier.clear(),
        lambda tier: tier.concerned(Change("delete", "all")),
    ],
    ids=["put", "drop", "clear", "concerned"],
)
def test_a_change_waits_for_the_one_before_it(change: Callable[[MemoryTier], object]) -> None:
    tier = MemoryTier(10, 100)
    tier.put(entry("same"))
    with ThreadPoolExecutor(1) as threads:
        with tier.lock:
            waiting = threads.submit(change, tier)
            with pytest.raises(TimeoutError):
                waiting.result(0.05)
        waiting.result(10)
    assert_consistent(tier)


@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize(
    "change", [Change("delete", "key", "same"), Change("delete", "match", "7", ("btts",)), Change("delete", "all")]
)
def test_what_is_being_put_when_its_match_is_retired_is_retired_too(change: Change, computed: bool) -> None:
    begun = threading.Event()

    class Slow(MemoryTier):
        def put(self, entry: Entry) -> None:
            begun.set()
            time.sleep(0.05)  # so that the change comes while it is put
            super().put(entry)

    holdings = Holdings(Slow(10, 100))
    old = Entry("same", "old", born=0.0, size=1, match_id="7", market="btts")
    loop = asyncio.new_event_loop()
    flight: Flight[Entry] = Flight(loop, Request("same", asyncio.Event().wait, 0))
    loop.close()
    with ThreadPoolExecutor(1) as threads:
        putting = (
            threads.submit(holdings.keep, old, flight)
            if computed
            else threads.submit(holdings.take_in, old, holdings.epoch)
        )
        assert begun.wait(10)
        holdings.apply(change)
        putting.result(10)
    assert holdings.get("same") is None

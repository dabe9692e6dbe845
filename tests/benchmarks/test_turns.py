"""The harness: contenders take turns, and what is timed is what the row says."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable

import pytest

from benchmarks.turns import FULL, QUICK, Turn, alternate, alternate_whole
from benchmarks.workload import asks, engine, fill, hits, only_hits
from smartcache import CacheConfig

EFFORT = QUICK._replace(rounds=3, turn_seconds=1.0)


class Stopwatch:
    """A clock that moves when a contender works, and remembers who worked how much."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[tuple[str, int]] = []

    def contender(self, name: str, seconds: float) -> Turn:
        async def turn(times: int) -> None:
            self.log.append((name, times))
            self.now += seconds * times

        return turn


async def test_contenders_alternate_for_as_many_rounds_as_asked() -> None:
    watch = Stopwatch()
    contenders = {"a": watch.contender("a", 0.25), "b": watch.contender("b", 0.125), "c": watch.contender("c", 0.5)}
    samples = await alternate(contenders, EFFORT, clock=lambda: watch.now)
    assert [name for name, _ in watch.log[-9:]] == list("abcabcabc")
    assert samples == {"a": [0.25] * 3, "b": [0.125] * 3, "c": [0.5] * 3}


async def test_a_turn_has_as_many_operations_as_fill_it() -> None:
    watch = Stopwatch()
    await alternate({"quick": watch.contender("quick", 2**-10)}, EFFORT, clock=lambda: watch.now)
    warm_up, measured = watch.log[:-3], watch.log[-3:]
    assert measured == [("quick", 1024)] * 3
    assert [times for _, times in warm_up] == [1, 2, 4, 8, 16, 32, 64, 128, 256]


async def test_no_turn_has_fewer_operations_than_the_least() -> None:
    watch = Stopwatch()
    await alternate({"slow": watch.contender("slow", 4.0)}, EFFORT, least=10, clock=lambda: watch.now)
    assert watch.log == [("slow", 10)] * 4


async def test_what_comes_before_a_turn_is_told_its_size_and_not_timed() -> None:
    watch = Stopwatch()
    contenders = {"a": watch.contender("a", 0.25), "b": watch.contender("b", 0.5)}
    before = {"a": watch.contender("before a", 100.0)}
    samples = await alternate(contenders, EFFORT, before=before, clock=lambda: watch.now)
    assert samples == {"a": [0.25] * 3, "b": [0.5] * 3}
    assert watch.log == [
        *[("before a", 1), ("a", 1), ("b", 1)],
        *[("before a", 4), ("a", 4), ("b", 2)] * 3,
    ]


async def test_whole_runs_alternate_and_say_themselves_how_they_went() -> None:
    done: list[str] = []

    def run(name: str) -> Callable[[], Awaitable[int]]:
        async def once() -> int:
            done.append(name)
            return len(done)

        return once

    assert await alternate_whole({"a": run("a"), "b": run("b")}, 2) == {"a": [1, 3], "b": [2, 4]}
    assert done == list("abab")


async def test_a_failing_contender_leaves_garbage_collection_as_it_was() -> None:
    turns = 0

    async def fails_when_measured(times: int) -> None:
        nonlocal turns
        turns += 1
        if turns > 1:
            raise LookupError

    instants = iter(range(100))
    with pytest.raises(LookupError):
        await alternate({"bad": fails_when_measured}, EFFORT, clock=lambda: float(next(instants)))
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()


def test_a_full_run_does_what_the_bars_speak_of() -> None:
    assert (FULL.hits, FULL.zipf_requests, FULL.entries) == (10_000_000, 200_000, 1_000_000)
    assert (FULL.processes, FULL.callers, FULL.lease_seconds) == (4, 1_000, CacheConfig().lease_seconds)


async def test_hits_are_fresh_hits_in_memory() -> None:
    requests = asks(odds=True)
    with engine() as cache:
        await fill(cache, requests)
        with only_hits(cache, "memory"):
            await hits(cache, requests)(2 * len(requests))


async def test_a_row_of_hits_that_missed_is_refused() -> None:
    with engine() as cache:
        with pytest.raises(RuntimeError, match=r"fresh hits in memory only.*miss"), only_hits(cache, "memory"):
            await fill(cache, asks())
        with pytest.raises(RuntimeError, match="there were none"), only_hits(cache, "memory"):
            pass

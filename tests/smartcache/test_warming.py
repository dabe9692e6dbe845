"""Warming: values ready before anybody asks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Model

from smartcache import SmartCacheEnhanced, Wanted
from smartcache.testing import VirtualClock


async def test_what_is_warmed_is_held_and_counts_as_no_request(cache: SmartCacheEnhanced, model: Model) -> None:
    await cache.get_or_load("held", model)
    warmed = await cache.warm([Wanted(key, model) for key in ("held", "a", "b")])
    assert (warmed.computed, warmed.held, warmed.skipped, warmed.failed) == (2, 1, 0, {})
    assert cache.metrics.get_stats()["total_requests"] == 1
    assert await cache.get_or_load("a", model) in ({"run": 2}, {"run": 3})
    assert model.runs == 3


async def test_a_started_match_is_skipped(cache: SmartCacheEnhanced, model: Model, clock: VirtualClock) -> None:
    warmed = await cache.warm([Wanted("a", model, {"kickoff_time": clock.ahead(seconds=0)})])
    assert (warmed.skipped, model.runs) == (1, 0)


async def test_a_failure_stops_nothing_and_is_named(cache: SmartCacheEnhanced, model: Model) -> None:
    async def broken() -> None:
        raise RuntimeError("down")

    warmed = await cache.warm([Wanted("bad", broken), Wanted("a", model)], at_once=1)
    assert warmed.computed == 1
    assert str(warmed.failed["bad"]) == "down"


async def test_no_more_run_at_once_than_was_said(cache: SmartCacheEnhanced) -> None:
    running, most = 0, 0

    async def compute() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    await cache.warm((Wanted(f"k{number}", compute) for number in range(20)), at_once=3)
    assert most == 3


async def test_progress_is_told_and_shown(cache: SmartCacheEnhanced, model: Model, capsys: Any) -> None:
    told: list[tuple[int, int | None]] = []
    await cache.warm([Wanted(key, model) for key in "abc"], progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    await cache.warm([Wanted(key, model) for key in "abc"], progress=True)
    assert "3/3" in capsys.readouterr().err


async def test_warming_over_a_store_leaves_the_value_there(make_cache: Any, model: Model) -> None:
    await make_cache().warm([Wanted("a", model, tags=("x",))])
    other = make_cache()
    assert await other.get_or_load("a", model) == {"run": 1}
    assert await other.delete(tags=["x"]) == 1


async def test_nothing_at_once_is_refused(cache: SmartCacheEnhanced) -> None:
    with pytest.raises(ValueError, match="at_once is 0"):
        await cache.warm([], at_once=0)


async def test_at_once_is_a_whole_number(cache: SmartCacheEnhanced) -> None:
    with pytest.raises(ValueError, match=r"at_once is 2\.5, but must be a whole number"):
        await cache.warm([], at_once=2.5)  # type: ignore[arg-type]


async def test_what_is_not_wanted_is_refused_by_name(cache: SmartCacheEnhanced, model: Model) -> None:
    with pytest.raises(TypeError, match=r"given \('a', .*: write it as Wanted\(key, compute_fn\)"):
        await cache.warm([("a", model)])  # type: ignore[list-item]


async def test_an_error_of_those_who_are_asked_what_is_wanted_comes_as_it_is(
    cache: SmartCacheEnhanced, model: Model
) -> None:
    def broken() -> Iterator[Wanted[Any]]:
        yield Wanted("a", model)
        raise RuntimeError("no more fixtures")

    with pytest.raises(RuntimeError, match="no more fixtures"):
        await cache.warm(broken())

"""A store full of copies that the engine takes for its own."""

from __future__ import annotations

import pytest
import redis.asyncio as redis

from benchmarks import match_event
from benchmarks.match_event import asks_about, hold, retire, stocked
from benchmarks.workload import caught_computing, only_hits
from smartcache.tags import MARKETS


async def test_every_match_is_held_in_the_store() -> None:
    async with stocked(120) as stock, redis.Redis(port=stock.port) as client:
        assert len(stock.matches) == 120 // len(MARKETS) - 1
        keys = [key for match in stock.matches for key, _ in asks_about(match)]
        assert await client.exists(*keys) == len(keys)
        assert all(0 < left <= 86_400 for left in [await client.ttl(key) for key in keys])
        with only_hits(stock.cache, "store"):
            await hold(stock.cache, stock.matches[1:], caught_computing)


async def test_an_event_about_a_copy_retires_its_markets_alone() -> None:
    computed = 0

    async def compute() -> str:
        nonlocal computed
        computed += 1
        return "anew"

    async with stocked(60) as stock:
        await retire(stock.cache, stock.matches[1])
        await hold(stock.cache, stock.matches, compute)
    assert computed == 8


async def test_an_event_that_retired_something_else_is_no_measurement() -> None:
    async with stocked(60) as stock:
        await retire(stock.cache, stock.matches[1])
        with pytest.raises(RuntimeError, match="meant to retire 8 entries"):
            await retire(stock.cache, stock.matches[1])


async def test_copies_that_do_not_hold_break_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match_event, "_COPY", match_event._COPY.replace("if kind == 'string'", "if false"))
    with pytest.raises((RuntimeError, AssertionError, redis.RedisError)):
        async with stocked(60):
            pass

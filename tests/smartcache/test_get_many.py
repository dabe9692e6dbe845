"""Many keys in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from conftest import Model, eventually

from smartcache import ComputeCancelledError, ReentrantComputeError, SmartCacheEnhanced, compute_context


class Loader:
    """A load of many keys that remembers what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gate: asyncio.Event | None = None

    async def __call__(self, keys: Sequence[str]) -> dict[str, str]:
        self.calls.append(list(keys))
        if self.gate is not None:
            await self.gate.wait()
        return {key: f"value of {key}" for key in keys}


async def test_what_is_not_held_is_loaded_in_one_call_in_the_order_asked(cache: SmartCacheEnhanced) -> None:
    load = Loader()
    await cache.get_many(["b"], load)
    found = await cache.get_many(["c", "b", "a", "c"], load)
    assert list(found.items()) == [("c", "value of c"), ("b", "value of b"), ("a", "value of a")]
    assert load.calls == [["b"], ["c", "a"]]


async def test_each_key_is_a_request_and_counted_once(cache: SmartCacheEnhanced) -> None:
    await cache.get_many(["a", "b"], Loader())
    await cache.get_many(["a", "b", "c"], Loader())
    stats = cache.metrics.get_stats()
    assert (stats["total_requests"], stats["cache_hit_fresh"], stats["cache_miss"]) == (5, 2, 3)


async def test_a_key_that_another_computes_is_shared(cache: SmartCacheEnhanced, model: Model) -> None:
    model.gate = asyncio.Event()
    alone = asyncio.create_task(cache.get_or_load("a", model))
    await eventually(lambda: model.runs == 1)
    load = Loader()
    many = asyncio.create_task(cache.get_many(["a", "b"], load))
    await eventually(lambda: load.calls == [["b"]])
    model.gate.set()
    assert await many == {"a": {"run": 1}, "b": "value of b"}
    assert await alone == {"run": 1}


async def test_over_a_store_cold_keys_still_come_in_one_call(make_cache: Any) -> None:
    load = Loader()
    found = await make_cache().get_many([f"k{number}" for number in range(50)], load)
    assert len(found) == 50
    assert [len(call) for call in load.calls] == [50]


async def test_a_key_without_a_value_is_named(cache: SmartCacheEnhanced) -> None:
    async def load(keys: Sequence[str]) -> dict[str, Any]:
        return {"a": "came"}

    with pytest.raises(KeyError, match="no value for 'b'"):
        await cache.get_many(["a", "b"], load)
    assert await cache.get_many(["a"], Loader()) == {"a": "came"}, "what did come is held"


async def test_a_failing_load_fails_its_keys_and_not_those_that_are_held(cache: SmartCacheEnhanced) -> None:
    await cache.get_many(["a"], Loader())

    async def load(keys: Sequence[str]) -> dict[str, Any]:
        raise RuntimeError("down")

    with pytest.raises(RuntimeError, match="down"):
        await cache.get_many(["a", "b"], load)
    assert await cache.get_many(["a"], load) == {"a": "value of a"}


async def test_a_load_that_returns_no_mapping_is_told_so(cache: SmartCacheEnhanced) -> None:
    async def load(keys: Sequence[str]) -> Any:
        return ["x"]

    with pytest.raises(TypeError, match="not a mapping"):
        await cache.get_many(["a"], load)


@pytest.mark.parametrize("asked", ["a", "b"])
async def test_a_load_that_asks_for_one_of_its_keys_gets_an_error_not_a_deadlock(
    cache: SmartCacheEnhanced, asked: str
) -> None:
    async def load(keys: Sequence[str]) -> dict[str, Any]:
        await cache.get_or_load(asked, Model())
        return {}

    with pytest.raises(ReentrantComputeError):
        await asyncio.wait_for(cache.get_many(["a", "b"], load), 5)


async def test_a_load_of_many_keys_has_no_context_of_one(cache: SmartCacheEnhanced) -> None:
    async def load(keys: Sequence[str]) -> dict[str, Any]:
        compute_context()
        return {}

    with pytest.raises(RuntimeError, match="load of many keys"):
        await cache.get_many(["a"], load)


async def test_a_load_that_nobody_waits_for_any_more_is_given_up(cache: SmartCacheEnhanced) -> None:
    load = Loader()
    load.gate = asyncio.Event()
    with pytest.raises(TimeoutError):
        await cache.get_many(["a", "b"], load, hard_timeout=0.05)
    load.gate.set()
    assert await cache.get_many(["a"], Loader()) == {"a": "value of a"}


async def test_a_context_for_a_key_that_is_not_asked_for_is_refused(cache: SmartCacheEnhanced) -> None:
    with pytest.raises(ValueError, match="match_contexts has 'c', which is not among the keys"):
        await cache.get_many(["a", "b"], Loader(), match_contexts={"a": {"match_id": "1"}, "c": {"match_id": "2"}})


async def test_a_load_that_is_cancelled_from_within_fails_its_keys_at_once(cache: SmartCacheEnhanced) -> None:
    async def load(keys: Sequence[str]) -> dict[str, Any]:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    async with asyncio.timeout(5):  # the hard time-out is 10 s
        with pytest.raises(ComputeCancelledError, match="from within"):
            await cache.get_many(["a", "b"], load)

"""What a compute sees and says."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Model

from smartcache import SmartCacheEnhanced, compute_context
from smartcache.testing import VirtualClock


async def test_skip_storing_hands_the_value_over_and_holds_nothing(cache: SmartCacheEnhanced, model: Model) -> None:
    async def compute() -> Any:
        compute_context().skip_storing()
        return await model()

    assert [await cache.get_or_load("a", compute) for _ in range(2)] == [{"run": 1}, {"run": 2}]


async def test_a_compute_sets_the_ttl_of_its_result(
    cache: SmartCacheEnhanced, model: Model, clock: VirtualClock
) -> None:
    async def compute() -> Any:
        compute_context().ttl = 5
        return await model()

    await cache.get_or_load("a", compute, ttl=60)
    clock.advance(4.9)
    assert await cache.get_or_load("a", model) == {"run": 1}
    clock.advance(5.2)
    assert await cache.get_or_load("a", model) == {"run": 2}


async def test_a_compute_is_shown_what_is_held(cache: SmartCacheEnhanced, model: Model, clock: VirtualClock) -> None:
    seen: list[Any] = []

    async def compute() -> Any:
        context = compute_context()
        seen.append((context.key, context.held, context.held_age))
        return await model()

    await cache.get_or_load("a", compute)
    clock.advance(2.0)
    await cache.expire("a")
    await cache.get_or_load("a", compute)
    assert seen == [("a", None, None), ("a", {"run": 1}, 2.0)]


async def test_a_nested_compute_has_its_own_context(cache: SmartCacheEnhanced) -> None:
    async def inner() -> str:
        return compute_context().key

    async def outer() -> list[str]:
        nested = await cache.get_or_load("inner", inner)
        return [nested, compute_context().key]

    assert await cache.get_or_load("outer", outer) == ["inner", "outer"]


async def test_outside_a_compute_there_is_no_context() -> None:
    with pytest.raises(RuntimeError, match="outside a compute"):
        compute_context()


async def test_a_ttl_that_is_none_is_refused_by_name(cache: SmartCacheEnhanced) -> None:
    async def compute() -> None:
        compute_context().ttl = -1

    with pytest.raises(ValueError, match="ttl is -1"):
        await cache.get_or_load("a", compute)

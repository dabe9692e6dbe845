"""The caller's own tags: expire and delete by tag, and computes that tags overtake."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import Model, eventually

from smartcache import SmartCacheEnhanced, compute_context
from smartcache.testing import VirtualClock


def tagging(model: Model, *tags: str) -> Any:
    """A compute that names tags itself."""

    async def compute() -> Any:
        value = await model()
        compute_context().add_tags(tags)
        return value

    return compute


async def ready(*caches: SmartCacheEnhanced) -> None:
    for cache in caches:
        await cache.start()
    await eventually(lambda: all(cache._bus is not None and cache._bus.alive for cache in caches))


async def test_a_tag_deletes_what_carries_it_and_nothing_else(cache: SmartCacheEnhanced, model: Model) -> None:
    for key, tags in {"a": ["x"], "b": ["x", "y"], "c": ["y"], "d": []}.items():
        await cache.get_or_load(key, model, tags=tags)
    assert await cache.delete(tags=["x"]) == 2
    found = [await cache.get_or_load(key, model) for key in "abcd"]
    assert [value["run"] for value in found] == [5, 6, 3, 4]


async def test_keys_and_tags_go_in_one_call(cache: SmartCacheEnhanced, model: Model) -> None:
    await cache.get_or_load("a", model, tags=["x"])
    await cache.get_or_load("b", model)
    await cache.get_or_load("c", model)
    count = await cache.delete("b", "absent", tags=["x"])
    assert (count, count.acknowledged) == (2, True)
    assert await cache.get_or_load("c", model) == {"run": 3}


async def test_what_a_tag_expired_serves_only_on_error(cache: SmartCacheEnhanced, model: Model) -> None:
    await cache.get_or_load("a", model, tags=["x"])
    assert await cache.expire(tags=["x"]) == 1
    model.error = RuntimeError("down")
    assert await cache.get_or_load("a", model) == {"run": 1}
    await cache.delete(tags=["x"])
    with pytest.raises(RuntimeError, match="down"):
        await cache.get_or_load("a", model)


@pytest.mark.parametrize("tags", [["x"], []])
async def test_a_tag_overtakes_a_compute_that_carries_it_however_it_got_it(
    cache: SmartCacheEnhanced, model: Model, tags: list[str]
) -> None:
    model.gate = asyncio.Event()
    compute = model if tags else tagging(model, "x")
    computing = asyncio.create_task(cache.get_or_load("a", compute, tags=tags))
    await eventually(lambda: model.runs == 1)
    await cache.delete(tags=["x"])
    model.gate.set()
    await computing
    assert await cache.get_or_load("a", model) == {"run": 2}


@pytest.mark.parametrize("verb", ["delete", "expire"])
async def test_tags_reach_the_store_and_the_memory_of_others(make_cache: Any, model: Model, verb: str) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    for key in "abc":
        await one.get_or_load(key, model, tags=["x"] if key < "c" else ["y"])
        await other.get_or_load(key, model)
    count = await getattr(one, verb)(tags=["x"])
    assert (count, count.acknowledged) == (2, True)
    fresh = make_cache(memory_entries=0)
    assert await fresh.get_or_load("a", model) == {"run": 4}, "not read back from the store"
    await asyncio.sleep(0.25)
    assert [(await other.get_or_load(key, model))["run"] for key in "abc"] == [4, 5, 3]


async def test_what_a_tag_expired_elsewhere_serves_on_error_and_what_it_deleted_does_not(
    make_cache: Any, model: Model
) -> None:
    one, other = make_cache(), make_cache(memory_entries=0)
    await ready(one)
    await one.get_or_load("a", model, tags=["x"])
    await one.expire(tags=["x"])
    model.error = RuntimeError("down")
    assert await other.get_or_load("a", model) == {"run": 1}
    await one.delete(tags=["x"])
    with pytest.raises(RuntimeError, match="down"):
        await make_cache(memory_entries=0).get_or_load("a", model)


@pytest.mark.parametrize("named_by", ["caller", "compute"])
async def test_a_tag_deleted_elsewhere_during_a_compute_is_not_overwritten(
    make_cache: Any, model: Model, named_by: str
) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    model.gate = asyncio.Event()
    asked = (
        one.get_or_load("a", model, tags=["x"]) if named_by == "caller" else one.get_or_load("a", tagging(model, "x"))
    )
    computing = asyncio.create_task(asked)
    await eventually(lambda: model.runs == 1)
    await other.delete(tags=["x"])
    model.gate.set()  # at once: the bus may not have said so yet
    assert await computing == {"run": 1}
    assert await other.get_or_load("a", model) == {"run": 2}
    assert await one.get_or_load("a", model) == {"run": 2}


async def test_a_tag_named_by_the_compute_retires_its_value_like_any_other(make_cache: Any, model: Model) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    await one.get_or_load("a", tagging(model, "late"), tags=["early"])
    assert await other.get_or_load("a", model) == {"run": 1}, "it was stored"
    assert await other.delete(tags=["late"]) == 1
    assert await make_cache(memory_entries=0).get_or_load("a", model) == {"run": 2}


async def test_many_entries_of_one_tag_are_all_retired_and_counted(make_cache: Any) -> None:
    cache = make_cache(store_timeout=2.0)
    await ready(cache)
    await cache.get_many([f"k{number}" for number in range(1300)], load, tags=["x"])
    other = make_cache(memory_entries=0, store_timeout=2.0)
    assert await other.delete(tags=["x"]) == 1300


async def load(keys: Any) -> dict[str, str]:
    return {key: f"value of {key}" for key in keys}


@pytest.mark.parametrize(
    ("tags", "named"), [("x", r"write \('x',\)"), ([""], "1 to 256"), ([3], "must be text"), (["a\n"], "printable")]
)
async def test_what_cannot_be_a_tag_is_refused_by_name(cache: SmartCacheEnhanced, tags: Any, named: str) -> None:
    for verb in (cache.delete(tags=tags), cache.expire(tags=tags), cache.get_or_load("a", Model(), tags=tags)):
        with pytest.raises((TypeError, ValueError), match=named):
            await verb


async def test_a_change_of_nothing_is_an_error(cache: SmartCacheEnhanced) -> None:
    with pytest.raises(ValueError, match="name keys, or tags"):
        await cache.delete()


@pytest.mark.parametrize("over_a_store", [False, True])
async def test_a_tag_added_in_code_applies_to_what_is_held_already(
    cache: SmartCacheEnhanced, make_cache: Any, model: Model, over_a_store: bool
) -> None:
    one = make_cache() if over_a_store else cache
    await one.get_or_load("a", model)
    assert await one.get_or_load("a", model, tags=["new"]) == {"run": 2}, "it could not be retired by that tag"
    assert await one.get_or_load("a", model, tags=["new"]) == {"run": 2}
    other = make_cache() if over_a_store else cache
    assert await other.delete(tags=["new"]) == 1


async def test_a_lease_is_given_back_when_a_late_tag_keeps_the_value_out(make_cache: Any, model: Model) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    model.gate = asyncio.Event()
    computing = asyncio.create_task(one.get_or_load("a", tagging(model, "x")))
    await eventually(lambda: model.runs == 1)
    await other.delete(tags=["x"])
    model.gate.set()
    await computing
    async with asyncio.timeout(1):  # a lease lasts 5 s
        assert await other.get_or_load("a", model) == {"run": 2}


@pytest.mark.parametrize("named_by", ["the compute", "the later caller"])
async def test_who_comes_after_a_tag_was_deleted_gets_nothing_that_began_before(
    cache: SmartCacheEnhanced, model: Model, named_by: str
) -> None:
    model.gate = asyncio.Event()
    late = named_by == "the compute"
    first = asyncio.create_task(cache.get_or_load("a", tagging(model, "x") if late else model))
    await eventually(lambda: model.runs == 1)
    await cache.delete(tags=["x"])
    later = asyncio.create_task(cache.get_or_load("a", model, tags=[] if late else ["x"]))
    await asyncio.sleep(0.01)
    model.gate.set()
    assert await first == {"run": 1}
    assert await later == {"run": 2}


async def test_what_a_tag_of_its_own_compute_deletes_while_its_caller_waits_does_not_serve_on_error(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    await cache.get_or_load("a", tagging(model, "x"))
    clock.advance(700)
    model.gate, model.error = asyncio.Event(), RuntimeError("down")
    asking = asyncio.create_task(cache.get_or_load("a", model))
    await eventually(lambda: model.runs == 2)
    await cache.delete(tags=["x"])
    model.gate.set()
    with pytest.raises(RuntimeError, match="down"):
        await asking

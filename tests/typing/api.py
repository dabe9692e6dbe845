"""What a type checker tells the users of the public API; mypy checks it, nothing runs it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, assert_type

from smartcache import (
    CacheResult,
    CacheStrategy,
    ChangeCount,
    ResultMetadata,
    SmartCacheEnhanced,
    Wanted,
    Warmed,
    compute_context,
    key_factory,
    smart_cache_enhanced,
)
from smartcache.sync import SyncCache


async def predict() -> dict[str, float]:
    return {"yes": 0.6}


async def use(cache: SmartCacheEnhanced, kickoff: datetime) -> None:
    result = await cache.get_with_intelligence(
        cache_key=key_factory.prediction("7", "btts"),
        compute_fn=predict,
        match_context={"match_id": "7", "kickoff_time": kickoff, "current_odds": {"7:btts:yes:": 1.9}},
    )
    assert_type(result, CacheResult[dict[str, float]])
    assert_type(result.value, dict[str, float])
    assert_type(result["value"], dict[str, float])
    assert_type(result["metadata"], ResultMetadata)
    assert_type(result.metadata.strategy, CacheStrategy)
    assert_type(result.zone, str | None)
    assert_type(await cache.get_or_load("key", predict, ttl=5), dict[str, float])

    answer = await cache.invalidate_by_event(event_type="weather_rain", match_key="match:7")
    assert_type(answer["invalidated_count"], int)
    assert_type(answer["acknowledged"], bool)
    assert_type(cache.golden_hour.calculate_ttl(kickoff_time=kickoff)["ttl"], int)

    @cache.cached(key=lambda number: f"square:{number}")
    async def square(number: int) -> int:
        return number * number

    assert_type(await square(3), int)

    async def load(keys: Sequence[str]) -> dict[str, float]:
        return dict.fromkeys(keys, 0.5)

    assert_type(await cache.get_many(["a", "b"], load, tags=["x"], stale_for=5), dict[str, float])
    assert_type(await cache.delete("a", tags=["x"]), ChangeCount)
    assert_type((await cache.expire("a")) + 1, int)
    assert_type(await cache.warm([Wanted("a", predict)], progress=True), Warmed)
    assert_type(compute_context().ttl, float | None)


def estimate() -> dict[str, float]:
    return {"yes": 0.6}


def use_without_a_loop(cache: SyncCache, kickoff: datetime) -> None:
    assert_type(cache.get_or_load("key", estimate, ttl=5, match_context={"kickoff_time": kickoff}), dict[str, float])
    result = cache.get_with_intelligence(cache_key="key", compute_fn=estimate, match_context={"match_id": "7"})
    assert_type(result, CacheResult[dict[str, float]])
    assert_type(result.value, dict[str, float])
    assert_type(cache.invalidate_by_event("weather_rain", "match:7")["affected_markets"], list[str])
    assert_type(cache.engine, SmartCacheEnhanced)
    with cache as same:
        assert_type(same, SyncCache)

    @cache.cached(key=lambda number: f"square:{number}", ttl=60)
    def square(number: int) -> int:
        return number * number

    assert_type(square(3), int)

    def load(keys: Sequence[str]) -> dict[str, float]:
        return dict.fromkeys(keys, 0.5)

    assert_type(cache.get_many(["a", "b"], load, tags=["x"], stale_for=5), dict[str, float])
    assert_type(cache.delete("a", tags=["x"]), ChangeCount)
    assert_type(cache.warm([Wanted("a", estimate)], at_once=4), Warmed)
    cache.get_or_load("key", estimate, tll=5)  # type: ignore[call-arg]
    cache.get_or_load("key", estimate, ttl="5")  # type: ignore[arg-type]
    cache.get_or_load("key", predict)  # type: ignore[unused-coroutine]


async def misuse(cache: SmartCacheEnhanced) -> Any:
    await cache.warm([Wanted("a", estimate)])  # type: ignore[arg-type]
    cache.get_with_inteligence("key", predict)  # type: ignore[attr-defined]
    result = await cache.get_with_intelligence("key", predict)
    result.typo  # type: ignore[attr-defined]  # noqa: B018
    await smart_cache_enhanced.get_with_intelligence(
        "key",
        predict,
        {"kick_off": None},  # type: ignore[arg-type]
    )
    await cache.get_or_load("key", lambda: 1)  # type: ignore[arg-type, return-value]
    await cache.get_or_load("key", predict, tll=5)  # type: ignore[call-arg]

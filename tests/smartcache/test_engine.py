"""The read path on the memory tier alone, with time that moves when the test says so."""

from __future__ import annotations

import asyncio
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
from conftest import Model, eventually, wait_until

from smartcache import (
    CacheConfig,
    CacheStrategy,
    ComputeCancelledError,
    ComputeTimeoutError,
    EventType,
    ReentrantComputeError,
    SmartCacheEnhanced,
    UncacheableValueError,
)
from smartcache.testing import VirtualClock

KEY = "bets:prod:v1:pred:{m_7}:btts"


def context(clock: VirtualClock, **more: Any) -> Any:
    return {"match_id": "7", "market": "btts", "kickoff_time": clock.ahead(hours=2), "competition": "en.1", **more}


async def test_miss_then_hit(cache: SmartCacheEnhanced, clock: VirtualClock, model: Model) -> None:
    match = context(clock)
    first = await cache.get_with_intelligence(cache_key=KEY, compute_fn=model, match_context=match)
    clock.advance(10)
    second = await cache.get_with_intelligence(cache_key=KEY, compute_fn=model, match_context=match)
    assert first["value"] == second.value == {"run": 1}
    assert first.metadata.strategy is CacheStrategy.COMPUTE
    metadata = second["metadata"]
    assert metadata["strategy"] == "serve_fresh"
    assert (metadata["tier"], metadata["zone"], metadata["ttl"], metadata["age"]) == ("memory", "active", 900.0, 10.0)
    assert metadata["freshness_score"] == pytest.approx(1 - 10 / 900)
    assert second.source == "cache"
    assert "active" in second.reasoning
    assert not second.swr_served


async def test_none_and_empty_values_are_values(cache: SmartCacheEnhanced) -> None:
    values: tuple[Any, ...] = (None, {}, [], "", 0, False)
    for value in values:
        runs = 0

        async def compute(value: Any = value) -> Any:
            nonlocal runs
            runs += 1
            return value

        for _ in range(2):
            assert await cache.get_or_load(f"empty:{value!r}", compute) == value
        assert runs == 1, f"{value!r} was computed again"


async def test_the_golden_hour_begins_for_what_was_stored_before_it(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    match = context(clock, kickoff_time=clock.ahead(minutes=61))
    await cache.get_with_intelligence(KEY, model, match)
    clock.advance(59)
    assert (await cache.get_with_intelligence(KEY, model, match)).strategy == "serve_fresh"
    clock.advance(2)
    stale = await cache.get_with_intelligence(KEY, model, match)
    assert (stale.strategy, stale.zone, stale.value) == ("serve_stale", "golden", {"run": 1})


async def test_a_moved_kickoff_takes_effect_at_the_next_request(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    await cache.get_with_intelligence(KEY, model, context(clock))
    clock.advance(100)
    sooner = context(clock, kickoff_time=clock.ahead(minutes=10))
    moved = await cache.get_with_intelligence(KEY, model, sooner)
    assert (moved.strategy, moved.zone, moved.value) == ("compute", "warmup", {"run": 2})


async def test_started_matches_are_computed_and_never_held(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    match = context(clock)
    await cache.get_with_intelligence(KEY, model, match)
    clock.advance(2 * 3600)  # kickoff itself belongs to the started match
    for run in (2, 3):
        result = await cache.get_with_intelligence(KEY, model, match)
        assert (result.strategy, result.zone, result.ttl, result.value) == (
            "bypass",
            "match_started",
            0,
            {"run": run},
        )


async def test_stale_is_served_at_once_and_refreshed_behind(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    match = context(clock)
    await cache.get_with_intelligence(KEY, model, match)
    clock.advance(1000)
    stale = await cache.get_with_intelligence(KEY, model, match)
    assert (stale.strategy, stale.value, stale.swr_served) == ("serve_stale", {"run": 1}, True)
    await eventually(lambda: cache.metrics.get_stats()["swr_background_success"] == 1)
    fresh = await cache.get_with_intelligence(KEY, model, match)
    assert (fresh.strategy, fresh.value) == ("serve_fresh", {"run": 2})


async def test_too_stale_waits(cache: SmartCacheEnhanced, clock: VirtualClock, model: Model) -> None:
    await cache.get_or_load(KEY, model)
    clock.advance(601)
    result = await cache.get_with_intelligence(KEY, model)
    assert (result.strategy, result.value, result.zone) == ("compute", {"run": 2}, None)
    assert cache.metrics.get_stats()["swr_too_stale"] == 1


async def test_xfetch_refreshes_before_expiry_what_is_slow_to_compute(clock: VirtualClock, model: Model) -> None:
    cache = SmartCacheEnhanced(CacheConfig(), clock=clock, rng=lambda: 1 - 1e-9)  # U = 1e-9, -ln(U) = 20.7
    model.clock, model.seconds = clock, 5.0
    await cache.get_or_load(KEY, model)
    clock.advance(300 - 5 * 20.7 - 1)
    assert (await cache.get_with_intelligence(KEY, model)).value == {"run": 1}
    assert model.runs == 1
    clock.advance(2)
    early = await cache.get_with_intelligence(KEY, model)
    assert (early.strategy, early.value) == ("serve_fresh", {"run": 1})
    await eventually(lambda: model.runs == 2)


async def test_a_thousand_callers_share_one_compute(cache: SmartCacheEnhanced, model: Model) -> None:
    model.gate = asyncio.Event()
    callers = [asyncio.create_task(cache.get_with_intelligence(KEY, model)) for _ in range(1000)]
    await asyncio.sleep(0.01)
    callers[0].cancel()  # the one that started it
    callers[500].cancel()
    model.gate.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert model.runs == 1
    assert sum(isinstance(result, asyncio.CancelledError) for result in results) == 2
    assert cache.metrics.get_stats()["strategy_compute"] == 1000, "cancelled callers are counted too"


async def test_a_failing_compute_fails_its_waiters_once(cache: SmartCacheEnhanced, model: Model) -> None:
    model.error = RuntimeError("model is down")
    results = await asyncio.gather(*(cache.get_or_load(KEY, model) for _ in range(10)), return_exceptions=True)
    assert all(isinstance(result, RuntimeError) for result in results)
    assert model.runs == 1
    model.error = None
    assert await cache.get_or_load(KEY, model) == {"run": 2}


async def test_a_held_value_serves_when_the_compute_fails_and_the_model_gets_a_rest(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    await cache.get_or_load(KEY, model)
    model.error = RuntimeError("model is down")
    clock.advance(700)
    for _ in range(3):
        result = await cache.get_with_intelligence(KEY, model)
        assert (result.strategy, result.value) == ("serve_stale", {"run": 1})
    assert model.runs == 2, "for 5 s there is no new attempt"
    clock.advance(6)
    await cache.get_with_intelligence(KEY, model)
    assert model.runs == 3
    clock.advance(3600)
    with pytest.raises(RuntimeError, match="model is down"):
        await cache.get_or_load(KEY, model)


async def test_nothing_is_served_on_error_after_delete_or_event_or_when_forced(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    match = context(clock)
    model.error = None
    for take_away in (
        lambda: cache.delete(KEY),
        lambda: cache.invalidate_by_event(EventType.GK_CHANGE, "match:7"),
        lambda: cache.invalidate_all(),
    ):
        model.error = None
        await cache.get_with_intelligence(KEY, model, match)
        model.error = RuntimeError("model is down")
        await take_away()
        with pytest.raises(RuntimeError):
            await cache.get_with_intelligence(KEY, model, match)
    model.error = None
    await cache.get_with_intelligence(KEY, model, match)
    model.error = RuntimeError("model is down")
    with pytest.raises(RuntimeError):
        await cache.get_with_intelligence(KEY, model, match, force_refresh=True)


async def test_an_event_during_a_failing_compute_takes_the_held_value_with_it(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    match = context(clock)
    await cache.get_with_intelligence(KEY, model, match)
    clock.advance(1900)
    model.gate, model.error = asyncio.Event(), RuntimeError("model is down")
    caller = asyncio.create_task(cache.get_with_intelligence(KEY, model, match))
    await asyncio.sleep(0.01)
    await cache.invalidate_by_event(EventType.GK_CHANGE, "match:7")
    model.gate.set()
    with pytest.raises(RuntimeError):
        await caller


async def test_expire_makes_the_next_caller_wait_and_keeps_the_old_value_for_errors(
    cache: SmartCacheEnhanced, model: Model
) -> None:
    await cache.get_or_load(KEY, model)
    assert await cache.expire(KEY) == 1
    assert await cache.get_or_load(KEY, model) == {"run": 2}
    await cache.expire(KEY)
    model.error = RuntimeError("model is down")
    assert await cache.get_or_load(KEY, model) == {"run": 2}
    assert await cache.expire("absent") == 0


async def test_an_invalidation_during_a_compute_is_not_overwritten_by_its_result(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    match = context(clock)
    model.gate = asyncio.Event()
    before = asyncio.create_task(cache.get_with_intelligence(KEY, model, match))
    await asyncio.sleep(0.01)
    await cache.invalidate_by_event(EventType.GK_CHANGE, "match:7")
    after = asyncio.create_task(cache.get_with_intelligence(KEY, model, match))
    await asyncio.sleep(0.01)
    assert model.runs == 1, "one compute at a time"
    model.gate.set()
    assert (await before).value == {"run": 1}
    assert (await after).value == {"run": 2}, "who came after the event gets a compute that began after it"
    assert (await cache.get_with_intelligence(KEY, model, match)).value == {"run": 2}


async def test_rain_leaves_the_markets_alone_that_do_not_depend_on_it(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    for market in cache.tag_manager.markets:
        await cache.get_with_intelligence(f"pred:{market}", model, context(clock, market=market))
    answer = await cache.invalidate_by_event(event_type=EventType.WEATHER_RAIN, match_key="match:7")
    assert answer["invalidated_count"] == 4
    assert answer["acknowledged"]
    strategies = {
        market: (await cache.get_with_intelligence(f"pred:{market}", model, context(clock, market=market))).strategy
        for market in cache.tag_manager.markets
    }
    computed = {market for market, strategy in strategies.items() if strategy == "compute"}
    assert computed == set(answer["affected_markets"])


async def test_panic_bypasses_and_warning_shortens(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    for price in (2.0, 2.2, 1.8, 2.1, 1.9):
        cache.update_vix_snapshot(market_key="7:btts:yes:", odds=price)
    match: Any = context(clock)
    await cache.get_with_intelligence(KEY, model, match)
    panic = await cache.get_with_intelligence(KEY, model, match | {"current_odds": {"7:btts:yes:": 3.0}})
    assert (panic.strategy, panic.vix_status, panic.value) == ("bypass", "panic", {"run": 2})
    clock.advance(61)
    calm = await cache.get_with_intelligence(KEY, model, match | {"current_odds": {"7:btts:yes:": 2.0}})
    assert (calm.strategy, calm.ttl) == ("serve_fresh", 900)
    warning = await cache.get_with_intelligence(
        KEY, model, match | {"current_odds": {"7:btts:yes:": 2.27, "7:match_result:home:": 4.0}}
    )
    assert (warning.vix_status, warning.ttl, warning.strategy) == ("warning", 60, "serve_stale")


async def test_the_last_tick_is_judged_when_the_caller_names_no_odds(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    for price in (2.0, 2.0, 2.0, 2.6):
        cache.update_vix_snapshot("7:btts:yes:", price)
    assert (await cache.get_with_intelligence(KEY, model, context(clock))).vix_status == "panic"


async def test_a_long_panic_does_not_bypass_for_ever(clock: VirtualClock, model: Model) -> None:
    cache = SmartCacheEnhanced(CacheConfig(governor_evaluations=20), clock=clock, rng=lambda: 0.0)
    for _ in range(4):
        cache.update_vix_snapshot("7:btts:yes:", 2.0)
    match = context(clock, current_odds={"7:btts:yes:": 3.0})
    for _ in range(30):
        result = await cache.get_with_intelligence(KEY, model, match)
    assert result.vix_status == "panic"
    assert result.strategy == "serve_fresh"
    assert result.ttl == 10, "circuit_open holds values for 10 s in a panic"
    assert cache.health()["governor"] == "circuit_open"
    clock.advance(11)
    model.error = RuntimeError("model is down")
    await cache.get_with_intelligence(KEY, model, match)
    clock.advance(10)
    with pytest.raises(RuntimeError):
        await cache.get_with_intelligence(KEY, model, match)  # never stale on error in panic


async def test_a_bypassing_request_joins_only_a_compute_that_starts_after_it(
    cache: SmartCacheEnhanced, model: Model
) -> None:
    model.gate = asyncio.Event()
    first = asyncio.create_task(cache.get_or_load(KEY, model))
    await asyncio.sleep(0.01)
    forced = [asyncio.create_task(cache.get_or_load(KEY, model, force_refresh=True)) for _ in range(5)]
    await asyncio.sleep(0.01)
    assert model.runs == 1
    model.gate.set()
    assert await first == {"run": 1}
    assert await asyncio.gather(*forced) == [{"run": 2}] * 5


async def test_soft_timeout_serves_what_is_held_and_the_compute_goes_on(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    await cache.get_or_load(KEY, model)
    clock.advance(700)
    model.gate = asyncio.Event()
    assert await cache.get_or_load(KEY, model, soft_timeout=0.02) == {"run": 1}
    model.gate.set()
    await eventually(lambda: cache._holdings.get(KEY).value == {"run": 2})  # type: ignore[union-attr]


async def test_hard_timeout_reaches_the_caller(cache: SmartCacheEnhanced, model: Model) -> None:
    model.gate = asyncio.Event()
    with pytest.raises(ComputeTimeoutError, match=r"0\.02 s"):
        await cache.get_or_load(KEY, model, hard_timeout=0.02)


async def test_a_compute_that_asks_for_its_own_key_gets_an_error_not_a_deadlock(cache: SmartCacheEnhanced) -> None:
    async def compute() -> Any:
        return await cache.get_or_load(KEY, compute)

    with pytest.raises(ReentrantComputeError, match="m_7"):
        await cache.get_or_load(KEY, compute)


async def test_a_compute_may_ask_for_other_keys(cache: SmartCacheEnhanced, model: Model) -> None:
    async def outer() -> Any:
        return [await cache.get_or_load("inner", model)]

    assert await cache.get_or_load("outer", outer) == [{"run": 1}]


@pytest.mark.parametrize(
    ("match_context", "named"),
    [
        ({"kickoff_time": datetime(2025, 3, 1, 15)}, "naive"),
        ({"kickoff_time": "15:00"}, "'15:00'"),
        ({"kick_off": None}, "'kick_off'.*kickoff_time"),
        ({"current_odds": {"k": -2.0}}, "'k'.*-2.0"),
        ({"current_odds": {"k": float("nan")}}, "nan"),
        ({"current_odds": {"k": 1}}, "above 1"),
        ({"current_odds": {"k": 10**400}}, "above 1"),
        ({"current_odds": [2.0]}, r"\[2\.0\]"),
        ({"match_id": ["7"]}, r"match_id.*\['7'\]"),
        ({"match_id": "\ud800"}, "match_id"),
        ({"market": 5}, "market.*5"),
        ({"competition": ["en.1"]}, "competition"),
        ({"lineup_confirmed": "no"}, "'no'"),
    ],
)
async def test_a_context_that_cannot_be_used_is_named_and_not_counted(
    cache: SmartCacheEnhanced, model: Model, match_context: Any, named: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=named):
        await cache.get_with_intelligence(KEY, model, match_context)
    assert cache.metrics.get_stats()["total_requests"] == 0


async def test_other_bad_input_is_named(cache: SmartCacheEnhanced, model: Model) -> None:
    with pytest.raises(ValueError, match="ttl is -1"):
        await cache.get_or_load(KEY, model, ttl=-1)
    with pytest.raises(ValueError, match="stale_for is inf"):
        await cache.get_or_load(KEY, model, stale_for=float("inf"))
    with pytest.raises(TypeError, match="compute_fn"):
        await cache.get_or_load(KEY, {"run": 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="int, not an awaitable"):
        await cache.get_or_load(KEY, lambda: 1)  # type: ignore[arg-type, return-value]

    async def pair() -> Any:
        return (1, 2)

    with pytest.raises(UncacheableValueError, match="tuple"):
        await cache.get_or_load(KEY, pair)
    with pytest.raises(ValueError, match="meteor"):
        await cache.invalidate_by_event("meteor", "match:7")
    with pytest.raises(ValueError, match="naive"):
        cache.update_vix_snapshot("k", 2.0, datetime(2025, 3, 1))
    with pytest.raises(ValueError, match=r"0\.5"):
        cache.update_vix_snapshot("k", 0.5)


@pytest.mark.parametrize("flag", ["force_refresh", "copy"])
@pytest.mark.parametrize("value", ["no", 0, None])
async def test_a_flag_that_is_not_true_or_false_is_named(
    cache: SmartCacheEnhanced, model: Model, flag: str, value: Any
) -> None:
    given: Any = {flag: value}
    for ask in (
        cache.get_or_load(KEY, model, **given),
        cache.get_with_intelligence(KEY, model, **given),
        cache.get_many([KEY], lambda keys: model(), **given),
    ):
        with pytest.raises(TypeError, match=f"^{flag} must be True or False, got {value!r}$"):
            await ask
    assert model.runs == 0


@pytest.mark.parametrize("given", ["abc", b"abc"])
async def test_one_text_is_not_taken_for_many(cache: SmartCacheEnhanced, model: Model, given: Any) -> None:
    wrong = rf"must be a collection of texts, got {given!r}: write \('abc',\)"
    with pytest.raises(TypeError, match=f"^keys {wrong}"):
        await cache.get_many(given, lambda keys: model())
    for ask in (cache.get_or_load(KEY, model, tags=given), cache.expire(tags=given), cache.delete(tags=given)):
        with pytest.raises(TypeError, match=f"^tags {wrong}"):
            await ask
    with pytest.raises(TypeError, match=f"^tags {wrong}"):
        cache.cached(key=lambda: KEY, tags=given)


async def test_ttl_and_windows_set_by_the_caller(cache: SmartCacheEnhanced, clock: VirtualClock, model: Model) -> None:
    await cache.get_or_load(KEY, model, ttl=5, stale_for=2)
    clock.advance(4)
    assert await cache.get_or_load(KEY, model, ttl=5, stale_for=2) == {"run": 1}
    clock.advance(4)
    assert await cache.get_or_load(KEY, model, ttl=5, stale_for=2) == {"run": 2}


async def test_a_copy_is_the_callers_own(cache: SmartCacheEnhanced, model: Model) -> None:
    shared = await cache.get_or_load(KEY, model)
    own = await cache.get_or_load(KEY, model, copy=True)
    own["run"] = 99
    assert await cache.get_or_load(KEY, model) is shared
    assert shared == {"run": 1}


async def test_the_decorator(cache: SmartCacheEnhanced) -> None:
    calls: list[int] = []

    @cache.cached(key=lambda number: f"square:{number}", ttl=60)
    async def square(number: int) -> int:
        calls.append(number)
        return number * number

    assert [await square(3), await square(3), await square(number=4)] == [9, 9, 16]
    assert calls == [3, 4]


async def test_the_decorator_gives_every_value_the_tags_of_a_generator(cache: SmartCacheEnhanced) -> None:
    calls: list[str] = []

    @cache.cached(key=lambda name: name, tags=(tag for tag in ["x"]))
    async def note(name: str) -> str:
        calls.append(name)
        return name

    await note("a")
    await note("b")
    assert await cache.delete(tags=["x"]) == 2
    await note("b")
    assert calls == ["a", "b", "b"]


def test_it_works_from_one_loop_after_another_and_shares_across_threads(cache: SmartCacheEnhanced) -> None:
    model = Model()
    assert asyncio.run(cache.get_or_load(KEY, model)) == {"run": 1}
    assert asyncio.run(cache.get_or_load(KEY, model)) == {"run": 1}

    runs = 0

    async def slow() -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.1)
        return runs

    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(asyncio.run(cache.get_or_load("shared", slow))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (answers, runs) == ([1] * 8, 1)


def test_a_loop_that_ends_in_mid_compute_leaves_no_one_waiting(cache: SmartCacheEnhanced, model: Model) -> None:
    async def give_up() -> None:
        model.gate = asyncio.Event()
        asyncio.create_task(cache.get_or_load(KEY, model))  # noqa: RUF006 - the loop ends under it
        await asyncio.sleep(0.01)

    asyncio.run(give_up())
    model.gate = None
    assert asyncio.run(cache.get_or_load(KEY, model)) == {"run": 2}


async def test_a_delete_takes_the_held_value_from_those_who_wait_for_the_next_compute(
    cache: SmartCacheEnhanced, model: Model
) -> None:
    await cache.get_or_load(KEY, model)
    model.gate = asyncio.Event()
    forced = asyncio.create_task(cache.get_or_load(KEY, model, force_refresh=True))
    await asyncio.sleep(0.01)
    await cache.expire(KEY)  # who comes now waits for the compute after that one
    waiting = asyncio.create_task(cache.get_or_load(KEY, model))
    await asyncio.sleep(0.01)
    await cache.delete(KEY)
    model.error = RuntimeError("model is down")
    model.gate.set()
    assert isinstance((await asyncio.gather(forced, waiting, return_exceptions=True))[1], RuntimeError)


async def test_what_is_closed_before_it_began_is_given_back(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    await cache.get_or_load(KEY, model)
    clock.advance(400)
    for _ in range(cache.config.refreshes_at_once):
        await cache.get_or_load(KEY, model)
        await cache.close()
    started = asyncio.create_task(cache.get_or_load("other", model))
    await asyncio.sleep(0)
    await cache.close()
    with pytest.raises(ComputeCancelledError):
        await started
    assert await cache.get_or_load("other", model) == {"run": model.runs}
    await cache.get_or_load(KEY, model)
    await eventually(lambda: cache.metrics.get_stats()["swr_background_success"] == 1)


async def test_a_hot_stale_key_takes_one_refresh_and_leaves_room_for_others(
    cache: SmartCacheEnhanced, clock: VirtualClock
) -> None:
    hot, other = Model(), Model()
    await cache.get_or_load("hot", hot)
    await cache.get_or_load("other", other)
    clock.advance(400)
    await asyncio.gather(*(cache.get_or_load("hot", hot) for _ in range(1000)), cache.get_or_load("other", other))
    await eventually(lambda: (hot.runs, other.runs) == (2, 2))
    assert cache.metrics.snapshot().samples["smartcache_swr_refreshes_skipped_total"][()] == 0


async def test_a_caller_in_a_hurry_does_not_take_the_compute_from_the_others(
    cache: SmartCacheEnhanced, model: Model
) -> None:
    model.gate = asyncio.Event()
    hurried = asyncio.create_task(cache.get_or_load(KEY, model, hard_timeout=0.02))
    patient = asyncio.create_task(cache.get_or_load(KEY, model))
    with pytest.raises(ComputeTimeoutError):
        await hurried
    model.gate.set()
    assert await patient == {"run": 1}


async def test_a_compute_cancelled_from_within_is_a_failure_like_others(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    await cache.get_or_load(KEY, model)

    async def give_up() -> Any:
        raise asyncio.CancelledError

    with pytest.raises(ComputeCancelledError, match="from within"):
        await cache.get_or_load("other", give_up)
    clock.advance(400)
    for _ in range(3):
        assert await cache.get_or_load(KEY, give_up) == {"run": 1}
        await asyncio.sleep(0)
    await eventually(lambda: cache.metrics.get_stats()["swr_background_error"] == 1)


async def test_what_a_compute_leaves_behind_may_ask_for_its_key(cache: SmartCacheEnhanced, model: Model) -> None:
    left: list[asyncio.Task[Any]] = []

    async def compute() -> int:
        left.append(asyncio.create_task(later()))
        return 1

    async def later() -> Any:
        await asyncio.sleep(0.02)
        await cache.delete(KEY)
        return await cache.get_or_load(KEY, model)

    await cache.get_or_load(KEY, compute)
    assert await left[0] == {"run": 1}


async def test_the_governor_calms_down_without_evaluations(clock: VirtualClock, model: Model) -> None:
    cache = SmartCacheEnhanced(CacheConfig(governor_evaluations=20), clock=clock, rng=lambda: 0.0)
    for _ in range(40):
        cache.governor.record(True, clock.monotonic())
    assert (await cache.get_with_intelligence(KEY, model)).ttl == 60
    modes = cache.metrics.snapshot().samples["smartcache_governor_mode"]
    assert modes[("circuit_open",)] == 1
    clock.advance(6 * 3600)
    assert (await cache.get_with_intelligence(KEY, model)).ttl == 300
    assert cache.metrics.snapshot().samples["smartcache_governor_mode"][("normal",)] == 1


def test_the_mode_is_shown_as_it_is_though_nobody_asks_any_more(
    clock: VirtualClock, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartcache.engine._MODE_LOOKED_AT_EVERY", 0.01)
    cache = SmartCacheEnhanced(CacheConfig(governor_evaluations=20), clock=clock, rng=lambda: 0.0)

    def shown() -> str:
        modes = cache.metrics.snapshot().samples["smartcache_governor_mode"]
        (mode,) = [mode for (mode,), processes in modes.items() if processes]
        return mode

    async def ask() -> None:
        await cache.get_with_intelligence(KEY, model)
        assert shown() == "circuit_open"

    async def ask_and_wait() -> None:
        await ask()
        clock.advance(4 * 3600)
        await eventually(lambda: shown() == "normal")

    for _ in range(200):
        cache.governor.record(True, clock.monotonic())
    asyncio.run(ask())  # a loop that ends and watches no more
    asyncio.run(ask_and_wait())


async def test_a_failure_shared_by_many_keeps_its_traceback_short(cache: SmartCacheEnhanced, model: Model) -> None:
    model.error = RuntimeError("model is down")
    results = await asyncio.gather(*(cache.get_or_load(KEY, model) for _ in range(200)), return_exceptions=True)
    assert isinstance(results[-1], RuntimeError)
    assert len(traceback.extract_tb(results[-1].__traceback__)) < 30


async def test_a_value_served_on_error_promises_nothing_more(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    await cache.get_or_load(KEY, model)
    clock.advance(700)
    model.error = RuntimeError("model is down")
    result = await cache.get_with_intelligence(KEY, model)
    assert (result.expires_in, result.stale_for, result.outcome) == (-400, 0, "error_memory")


async def test_a_failed_refresh_is_left_alone_before_xfetch_asks_again(clock: VirtualClock, model: Model) -> None:
    cache = SmartCacheEnhanced(CacheConfig(), clock=clock, rng=lambda: 1 - 1e-9)  # X-Fetch draws 20 s before expiry
    model.clock, model.seconds = clock, 1.0
    await cache.get_or_load(KEY, model)
    clock.advance(290)
    model.seconds, model.error = 0.0, RuntimeError("model is down")
    for _ in range(5):
        await cache.get_or_load(KEY, model)
        await eventually(lambda: not cache._loader._refreshing)
    assert model.runs == 2
    clock.advance(5.1)
    await cache.get_or_load(KEY, model)
    await eventually(lambda: model.runs == 3)


async def test_a_panic_that_begins_while_the_compute_fails_keeps_back_what_is_held(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    match: Any = {"match_id": "7", "market": "btts"}
    for _ in range(3):
        cache.update_vix_snapshot("7:btts:yes:", 2.0)
    await cache.get_or_load(KEY, model, match_context=match, ttl=5)
    clock.advance(60)

    async def fail(odds: float) -> Any:
        cache.update_vix_snapshot("7:btts:yes:", odds)
        raise RuntimeError("model is down")

    assert await cache.get_or_load(KEY, lambda: fail(2.0), match_context=match, ttl=5) == {"run": 1}
    clock.advance(60)
    with pytest.raises(RuntimeError, match="model is down"):
        await cache.get_or_load(KEY, lambda: fail(4.0), match_context=match, ttl=5)


@pytest.mark.parametrize("over_a_store", [False, True])
async def test_a_value_stored_without_its_match_is_not_given_to_who_names_it(
    cache: SmartCacheEnhanced, make_cache: Any, model: Model, over_a_store: bool
) -> None:
    one = make_cache() if over_a_store else cache
    await one.get_or_load(KEY, model)
    other = make_cache() if over_a_store else cache
    for _ in range(2):
        named = await other.get_with_intelligence(KEY, model, {"match_id": "7", "market": "btts"})
        assert named.value == {"run": 2}, "no event could have retired the first"
    assert await other.get_or_load(KEY, model) == {"run": 2}


async def test_failures_are_remembered_at_a_cost_that_does_not_grow_with_their_number(
    clock: VirtualClock, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartcache.loader._MOST_FAILURES", 10)
    cache = SmartCacheEnhanced(CacheConfig(error_backoff=60.0), clock=clock)
    model.error = RuntimeError("model is down")
    tables: list[Any] = []
    for number in range(100):
        with pytest.raises(RuntimeError):
            await cache.get_or_load(f"k{number}", model)
        if not tables or tables[-1] is not cache._loader._rests:
            tables.append(cache._loader._rests)
    assert len(tables) <= 6, "gone through each time their number has doubled"
    clock.advance(61)
    for number in range(100):
        with pytest.raises(RuntimeError):
            await cache.get_or_load(f"later{number}", model)
    assert "k0" not in cache._loader._rests, "and forgotten when they have rested"


# -- event loops that stop -------------------------------------------------------------------------------------------


def test_a_compute_whose_loop_paused_brings_nothing_from_before_a_delete(
    cache: SmartCacheEnhanced, model: Model
) -> None:
    paused = asyncio.new_event_loop()
    gate = asyncio.Event()

    async def slow() -> str:
        await gate.wait()
        return "old"

    async def give_up() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(cache.get_or_load(KEY, slow), 0.01)

    async def elsewhere() -> None:
        assert await cache.get_or_load(KEY, model) == {"run": 1}
        assert await cache.delete(KEY) == 1

    paused.run_until_complete(give_up())
    asyncio.run(elsewhere())
    gate.set()
    paused.run_until_complete(asyncio.sleep(0.01))
    assert paused.run_until_complete(cache.get_or_load(KEY, model)) == {"run": 2}
    paused.close()


def test_refreshes_of_loops_that_stopped_leave_room_for_others(clock: VirtualClock, model: Model) -> None:
    cache = SmartCacheEnhanced(CacheConfig(refreshes_at_once=2), clock=clock, rng=lambda: 0.0)

    async def slow() -> int:
        await asyncio.sleep(0.01)
        return 1

    async def refreshed() -> None:
        await cache.get_or_load("other", model)
        clock.advance(400)
        await cache.get_or_load("other", model)
        await eventually(lambda: model.runs == 2)

    stopped = [asyncio.new_event_loop() for _ in range(2)]
    for number, loop in enumerate(stopped):
        loop.run_until_complete(cache.get_or_load(f"k{number}", slow))
        clock.advance(400)
        loop.run_until_complete(cache.get_or_load(f"k{number}", slow))
    asyncio.run(refreshed())
    for loop in stopped:
        loop.run_until_complete(asyncio.sleep(0.02))
        loop.close()


def test_a_loop_that_ends_fails_nobody_who_waits_in_another(cache: SmartCacheEnhanced, model: Model) -> None:
    joined = threading.Event()

    async def never() -> None:
        await asyncio.sleep(60)

    async def give_up() -> None:
        asking = asyncio.create_task(cache.get_or_load(KEY, never))
        await asyncio.to_thread(joined.wait)
        asking.cancel()

    with ThreadPoolExecutor() as threads:
        first = threads.submit(asyncio.run, give_up())
        wait_until(lambda: cache._holdings.board.get(KEY) is not None)
        other = threads.submit(asyncio.run, cache.get_or_load(KEY, model))
        wait_until(lambda: cache.metrics.snapshot().samples["smartcache_coalesced_requests_total"][()] == 1)
        joined.set()
        first.result()
        assert other.result() == {"run": 1}

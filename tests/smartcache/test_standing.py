"""A judgement that stands must fall with whatever it rested on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from conftest import Model

from smartcache import CacheResult, SmartCacheEnhanced
from smartcache.protocol import Change
from smartcache.standing import Standing
from smartcache.testing import VirtualClock

KEY = "bets:prod:v1:pred:{m_7}:btts"
Ask = Callable[..., Awaitable[CacheResult[Any]]]


@pytest.fixture
async def ask(cache: SmartCacheEnhanced, clock: VirtualClock, model: Model) -> Ask:
    """Asks for a value whose judgement stands: six hours and 100 s before kickoff, computed 10 s ago."""
    match: dict[str, Any] = {
        "match_id": "7", "market": "btts", "kickoff_time": clock.ahead(seconds=6 * 3600 + 100), "competition": "en.1",
    }  # fmt: skip

    async def ask(force_refresh: bool = False, **changes: Any) -> CacheResult[Any]:
        context: Any = {name: value for name, value in (match | changes).items() if value is not ...}
        return await cache.get_with_intelligence(KEY, model, context, force_refresh)

    assert (await ask()).strategy == "compute"
    clock.advance(10)
    assert (await ask()).strategy == "serve_fresh"
    entry = cache._holdings.get(KEY)
    assert entry is not None
    assert entry.standing is not None
    return ask


async def test_it_answers_with_the_age_of_the_moment(ask: Ask, clock: VirtualClock, model: Model) -> None:
    clock.advance(20)
    result = await ask()
    assert (result.strategy, result.age, result.zone, result.ttl) == ("serve_fresh", 30, "prematch", 900)
    assert result.expires_in == 870
    assert model.runs == 1


async def test_the_next_zone_ends_it(ask: Ask, clock: VirtualClock) -> None:
    clock.advance(100)
    assert (await ask()).zone == "active"


async def test_a_clock_that_is_set_back_ends_it(ask: Ask, clock: VirtualClock) -> None:
    clock.step_wall(-24 * 3600)
    assert (await ask()).zone == "standard"


@pytest.mark.parametrize("first", [0, 1])
async def test_a_kickoff_moved_within_the_hour_that_comes_twice_ends_it(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model, first: int
) -> None:
    # 26 October 2025 in London: 01:30 is at 00:30 UTC and again at 01:30 UTC.
    kickoff = datetime(2025, 10, 26, 1, 30, tzinfo=ZoneInfo("Europe/London"))
    zones = ("active", "prematch")
    clock.set_wall(datetime(2025, 10, 25, 19, tzinfo=UTC))
    for fold in (first, first, first, 1 - first):
        result = await cache.get_with_intelligence(KEY, model, {"kickoff_time": kickoff.replace(fold=fold)})
        assert result.zone == zones[fold]
        clock.advance(1)
    assert result.strategy == "serve_fresh"


async def test_a_moved_kickoff_ends_it(ask: Ask, clock: VirtualClock) -> None:
    moved = await ask(kickoff_time=clock.ahead(minutes=10))
    assert (moved.zone, moved.strategy) == ("warmup", "serve_fresh")
    assert (await ask(kickoff_time=clock.ahead(minutes=-1))).strategy == "bypass"


async def test_a_lineup_ends_it(ask: Ask) -> None:
    assert (await ask(lineup_confirmed=True)).ttl == 1800


async def test_ticks_for_the_market_end_it(ask: Ask, cache: SmartCacheEnhanced) -> None:
    for price in (2.0, 2.0, 2.0, 2.6):
        cache.update_vix_snapshot("7:btts:yes:", price)
    assert (await ask()).vix_status == "panic"


async def test_windows_it_knows_are_judged_each_time(ask: Ask, cache: SmartCacheEnhanced) -> None:
    for price in (2.0, 2.0, 2.0, 2.0):
        cache.update_vix_snapshot("7:btts:yes:", price)
    assert [(await ask()).vix_status for _ in range(2)] == ["normal", "normal"]
    cache.update_vix_snapshot("7:btts:yes:", 2.6)
    assert (await ask()).vix_status == "panic"


async def test_odds_are_judged_each_time(ask: Ask, cache: SmartCacheEnhanced) -> None:
    for price in (2.0, 2.0, 2.0, 2.0):
        cache.update_vix_snapshot("7:match_result:home:", price)
    assert (await ask(current_odds={"7:match_result:home:": 2.02})).strategy == "serve_fresh"
    assert (await ask(current_odds={"7:match_result:home:": 2.6})).vix_status == "panic"
    with pytest.raises(ValueError, match=r"-2\.0"):
        await ask(current_odds={"7:match_result:home:": -2.0})


async def test_a_context_or_odds_that_are_lists_are_refused_by_name(
    ask: Ask, cache: SmartCacheEnhanced, model: Model
) -> None:
    with pytest.raises(TypeError, match=r"current_odds must map market keys to decimal odds, got \[1\.5\]"):
        await ask(current_odds=[1.5])
    with pytest.raises(TypeError, match=r"match_context must be a dict, got \['7'\]"):
        await cache.get_with_intelligence(KEY, model, ["7"])  # type: ignore[arg-type]


async def test_the_governor_hears_of_every_judgement(ask: Ask, cache: SmartCacheEnhanced) -> None:
    cache.governor.record(True, cache.clock.monotonic())
    for _ in range(9):
        await ask(current_odds={"7:match_result:home:": 2.0})
    assert cache.governor.panic_ratio == 0.1


async def test_another_mode_of_the_governor_ends_it(ask: Ask, cache: SmartCacheEnhanced) -> None:
    cache.governor.mode = "circuit_open"
    assert (await ask()).ttl == 60


async def test_expiring_the_key_ends_it(ask: Ask, cache: SmartCacheEnhanced) -> None:
    await cache.expire(KEY)
    assert (await ask()).strategy == "compute"


async def test_an_expiry_while_it_is_made_ends_it(
    cache: SmartCacheEnhanced, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(*judged: Any) -> Standing:
        cache._holdings.apply(Change("expire", "key", KEY))  # as from the bus's thread
        return Standing(*judged)

    monkeypatch.setattr("smartcache.engine.Standing", overtaken)
    await cache.get_with_intelligence(KEY, model)
    await cache.get_with_intelligence(KEY, model)
    assert (await cache.get_with_intelligence(KEY, model)).strategy == "compute"


async def test_a_refresh_asked_for_is_made(ask: Ask) -> None:
    assert (await ask(force_refresh=True)).strategy == "bypass"


async def test_another_match_is_judged_by_its_own_windows(ask: Ask, cache: SmartCacheEnhanced) -> None:
    for price in (2.0, 2.0, 2.0, 2.6):
        cache.update_vix_snapshot("8:btts:yes:", price)
    assert (await ask()).strategy == "serve_fresh"
    assert (await ask(match_id="8")).vix_status == "panic"


@pytest.mark.parametrize(("name", "value"), [("typo", 1), ("competition", ...), ("match_id", ...), ("market", ...)])
async def test_a_context_of_other_names_is_read_anew(ask: Ask, name: str, value: Any) -> None:
    if name == "typo":
        with pytest.raises(ValueError, match="'typo'"):
            await ask(typo=1)
        with pytest.raises(ValueError, match="'typo'"):
            await ask(typo=1, competition=...)
    else:
        assert (await ask(**{name: value})).strategy == "serve_fresh"


async def test_each_request_counts_where_it_belongs(ask: Ask, cache: SmartCacheEnhanced) -> None:
    await ask(market="penalty")
    await ask(current_odds={"7:match_result:home:": 2.0})
    await ask(current_odds={"7:match_result:home:": 2.0}, competition="xx.9")
    samples = cache.metrics.snapshot().samples
    lookups = samples["smartcache_lookups_total"]
    assert lookups["hit_fresh", "memory", "penalty"] == 1
    assert lookups["hit_fresh", "memory", "btts"] == 3
    evaluations = samples["smartcache_vix_evaluations_total"]
    assert (evaluations["normal", "en.1"], evaluations["normal", "other"]) == (1, 1)
    assert samples["smartcache_requests_total"]["serve_fresh", "prematch"] == 4
    ages = samples["smartcache_served_age_seconds"][("prematch",)]
    assert (sum(ages.counts), ages.total) == (4, 40)


async def test_a_copy_is_the_callers_own(
    ask: Ask, cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    shared = (await ask()).value
    context: Any = {"match_id": "7", "market": "btts"}
    await cache.get_with_intelligence(KEY, model, context)
    own = (await cache.get_with_intelligence(KEY, model, context, copy=True)).value
    own["run"] = 99
    assert (await ask()).value is shared
    assert shared == {"run": 1}


async def test_a_limit_that_the_value_was_stored_with_lets_it_stand(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    for asked_for in ("same", "wider", "narrower", "other window"):
        await cache.get_or_load(asked_for, model, ttl=60)
    await cache.get_or_load("same", model, ttl=60)
    await cache.get_or_load("wider", model, ttl=90)
    await cache.get_or_load("narrower", model, ttl=30)
    await cache.get_or_load("other window", model, stale_for=10)
    stands = {entry.key for entry in map(cache._holdings.get, ("same", "wider", "narrower", "other window"))
              if entry is not None and entry.standing is not None}  # fmt: skip
    assert stands == {"same", "wider"}
    clock.advance(50)
    result = await cache.get_with_intelligence("wider", model)
    assert (result.strategy, result.ttl, result.expires_in, result.stale_for) == ("serve_fresh", 60, 10, 70)

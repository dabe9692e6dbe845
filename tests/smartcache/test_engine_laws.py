"""The numbers add up, and what is served keeps its promise, whatever happens in whatever order."""

from __future__ import annotations

import asyncio
from typing import Any

from conftest import Model
from hypothesis import given, settings
from hypothesis import strategies as st

from smartcache import CacheConfig, EventType, SmartCacheEnhanced
from smartcache.metrics import CacheMetrics
from smartcache.testing import VirtualClock

MARKETS = ("btts", "penalty", "edge_calculation")
LIMITS = [
    ("warmup", 30, 30),
    ("golden", 60, 60),
    ("active", 900, 1800),
    ("prematch", 3600, 7200),
    ("standard", 21600, 43200),
]
STEPS = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 2), st.sampled_from([2.0, 2.01, 2.3, 3.0]), st.booleans()),
    st.tuples(st.just("ask_twice"), st.integers(0, 2), st.just(2.0), st.booleans()),
    st.tuples(st.just("force"), st.integers(0, 2), st.just(2.0), st.booleans()),
    st.tuples(st.just("advance"), st.sampled_from([0.5, 1.0, 29.0, 31.0, 61.0, 899.0, 3601.0, 30_000.0])),
    st.tuples(st.just("event"), st.sampled_from(list(EventType))),
    st.tuples(st.just("fail"), st.booleans()),
    st.tuples(st.just("move_kickoff"), st.sampled_from([-60.0, 10.0, 600.0, 3000.0, 20_000.0, 80_000.0, 200_000.0])),
    st.tuples(st.just("tick"), st.sampled_from([2.0, 2.02, 1.98, 2.5])),
    st.tuples(st.just("delete"), st.integers(0, 2)),
    st.tuples(st.just("invalidate_all")),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(STEPS, max_size=60))
def test_laws(steps: list[Any]) -> None:
    asyncio.run(play(steps))


class JudgesEachTime(SmartCacheEnhanced):
    """The engine without standing judgements."""

    def _let_stand(self, *_: Any) -> None:
        return None


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(STEPS, max_size=60))
def test_a_standing_judgement_answers_as_judging_each_time_does(steps: list[Any]) -> None:
    assert asyncio.run(play(steps)) == asyncio.run(play(steps, JudgesEachTime))


async def play(steps: list[Any], engine: type[SmartCacheEnhanced] = SmartCacheEnhanced) -> list[Any]:
    clock, model = VirtualClock(), Model()
    metrics = CacheMetrics(domains={"competition": ("en.1",)}, clock=clock)
    cache = engine(
        CacheConfig(governor_evaluations=10),
        clock=clock,
        metrics=metrics,
        rng=lambda: 0.3,
    )
    kickoff = clock.ahead(hours=2)
    asked = surgical = 0
    answers: list[Any] = []

    async def ask(number: int, odds: float, lineup: bool, force: bool = False) -> None:
        market = MARKETS[number]
        context: Any = {
            "match_id": "7", "market": market, "kickoff_time": kickoff, "lineup_confirmed": lineup,
            "current_odds": {"7:match_result:home:": odds}, "competition": "en.1",
        }  # fmt: skip
        try:
            result = await cache.get_with_intelligence(f"pred:{market}", model, context, force_refresh=force)
        except RuntimeError:
            return
        answers.append((result.value, dict(result.metadata)))
        left = kickoff.timestamp() - clock.time()
        if left <= 0:
            assert result.strategy == "bypass"
        elif result.strategy == "serve_fresh":
            ttl = next(confirmed if lineup else plain for name, plain, confirmed in LIMITS if name == result.zone)
            assert result.age <= min(ttl, result.ttl)

    for what, *arguments in steps:
        if what == "ask":
            await ask(*arguments)
            asked += 1
        elif what == "ask_twice":
            await asyncio.gather(ask(*arguments), ask(*arguments))
            asked += 2
        elif what == "force":
            number, odds, lineup = arguments
            await ask(number, odds, lineup, force=True)
            asked += 1
        elif what == "advance":
            clock.advance(arguments[0])
        elif what == "event":
            await cache.invalidate_by_event(arguments[0], "match:7")
            surgical += 1
        elif what == "fail":
            model.error = RuntimeError("model is down") if arguments[0] else None
        elif what == "move_kickoff":
            kickoff = clock.ahead(seconds=arguments[0])
        elif what == "tick":
            cache.update_vix_snapshot("7:match_result:home:", arguments[0])
        elif what == "delete":
            await cache.delete(f"pred:{MARKETS[arguments[0]]}")
        else:
            await cache.invalidate_all()
    await cache.close()

    s = cache.metrics.get_stats()
    strategies = {name: s[f"strategy_{name}"] for name in ("bypass", "compute", "serve_stale", "serve_fresh")}
    assert sum(strategies.values()) == s["total_requests"] == asked
    assert s["cache_hit_fresh"] + s["cache_hit_stale"] + s["cache_miss"] == asked - strategies["bypass"]
    assert strategies["serve_fresh"] == s["cache_hit_fresh"] == s["swr_served_fresh"]
    assert strategies["serve_stale"] == s["cache_hit_stale"] == s["swr_served_stale"]
    assert strategies["compute"] == s["cache_miss"] >= s["swr_too_stale"]
    assert s["vix_panic_detected"] + s["vix_warning_detected"] + s["vix_normal"] <= asked
    assert s["cache_bypass_vix"] <= min(s["vix_panic_detected"], strategies["bypass"])
    zones = ("warmup", "golden", "active", "prematch", "standard")
    assert s["golden_hour_total"] == sum(s[f"golden_hour_{zone}"] for zone in zones) <= asked
    assert s["markets_affected_logical"] + s["markets_preserved"] == surgical * 12
    samples = cache.metrics.snapshot().samples
    histogram = samples["smartcache_request_duration_seconds"].values()
    assert sum(sum(strategy.counts) for strategy in histogram) == asked
    assert sum(samples["smartcache_served_beyond_promise_total"].values()) == 0
    return [*answers, s]

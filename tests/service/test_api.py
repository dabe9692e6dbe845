from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import build
from service.board import LOOK_EVERY
from service.book import LEANS_ON
from service.clock import ReplayClock
from service.parts import Parts
from service.routes import CODES, PATHS, PREDICTION
from service.settings import read_settings
from smartcache import CacheConfig, EventType
from smartcache.tags import MARKETS

#: Kicks off at 17:00 UTC, 2 h 44 min after the default moment.
MATCH = "it1-2024-ssc-napoli-fc-internazionale-milano"
#: Kicks off at 14:30 UTC, in 14 minutes.
SOON = "de1-2024-rb-leipzig-1-fsv-mainz-05"
STARTED = "es1-2024-girona-fc-rc-celta-de-vigo"
HOME_KEY = f"{MATCH}:match_result:home:"


class SteppingClock(ReplayClock):
    """A replay clock that a test can put forward."""

    __slots__ = ("ahead",)

    def __init__(self, at: float) -> None:
        super().__init__(at, time.monotonic())
        self.ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


@dataclass
class Served:
    client: httpx.AsyncClient
    clock: SteppingClock
    parts: Parts

    def answered(self, route: str, code: int) -> int:
        """How many answers of this kind the metrics count."""
        counts = self.parts.metrics.snapshot().samples["smartcache_http_requests_total"]
        return int(counts.get((route, str(code)), 0))


Serve = Callable[[Mapping[str, str]], AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Runs the application in this process, on its memory tier alone."""

    @asynccontextmanager
    async def run(environment: Mapping[str, str]) -> AsyncIterator[Served]:
        settings = read_settings({"SERVICE_EXTRA_LATENCY_MS": "0", **environment})
        clock = SteppingClock(settings.at.timestamp())
        application = build(settings, tmp_path, clock, CacheConfig())
        starlette = application.application
        transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
        async with (
            starlette.router.lifespan_context(starlette),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            yield Served(client, clock, application.parts)

    return run


@pytest.fixture
async def served(serve: Serve) -> AsyncIterator[Served]:
    async with serve({"SERVICE_FAULTS": "on"}) as served:
        yield served


def path(market: str, match: str = MATCH) -> str:
    return f"/v1/matches/{match}/markets/{market}"


async def status_of(served: Served, market: str, match: str = MATCH) -> str:
    """The ``Cache-Status`` of one prediction, without the cache's name."""
    answer = await served.client.get(path(market, match))
    assert answer.status_code == 200, answer.text
    return answer.headers["cache-status"].removeprefix("smartcache; ")


async def eventually(condition: Callable[[], bool]) -> None:
    """Let background work go on until ``condition`` holds."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("what was waited for did not come about")


# Predictions ----------------------------------------------------------------------------------------------------------


async def test_a_prediction_is_a_miss_and_then_a_hit(served: Served) -> None:
    first, second = [await served.client.get(path("btts")) for _ in range(2)]
    assert first.headers["cache-status"] == "smartcache; fwd=miss; stored"
    assert second.headers["cache-status"].startswith("smartcache; hit; ttl=")
    assert second.headers["age"] == "0"
    assert second.headers["cache-control"] == "max-age=10, stale-while-revalidate=10"
    assert first.content == second.content
    body = second.json()
    assert (body["match_id"], body["market"], body["competition"]) == (MATCH, "btts", "it.1")
    assert body["kickoff_time"] == "2025-03-01T17:00:00+00:00"


async def test_every_market_of_a_match_answers(served: Served) -> None:
    for market in MARKETS:
        body = (await served.client.get(path(market))).json()
        assert body["market"] == market
        assert body["basis"]


async def test_edges_are_against_odds_that_are_said_to_be_drawn(served: Served) -> None:
    body = (await served.client.get(path("edge_calculation"))).json()
    assert set(body["edges"]) == {
        "match_result:home", "match_result:draw", "match_result:away", "over_under_25:over", "over_under_25:under",
    }  # fmt: skip
    assert "drawn, not recorded" in body["odds_source"]


async def test_a_value_grows_stale_and_is_refreshed_behind_the_answer(served: Served) -> None:
    await status_of(served, "penalty")
    served.clock.ahead = 905.0
    answer = await served.client.get(path("penalty"))
    assert answer.headers["cache-status"].startswith("smartcache; hit; ttl=-")
    assert int(answer.headers["age"]) >= 905
    assert answer.headers["cache-control"].startswith("max-age=0, stale-while-revalidate=")
    await eventually(lambda: served.parts.metrics.get_stats()["swr_background_success"] == 1)
    assert "ttl=-" not in await status_of(served, "penalty")


async def test_near_kickoff_max_age_is_what_remains(served: Served) -> None:
    await status_of(served, "penalty", SOON)
    served.clock.ahead = 26.0
    answer = await served.client.get(path("penalty", SOON))
    fresh = int(answer.headers["cache-control"].split(",")[0].removeprefix("max-age="))
    assert 0 <= fresh <= 4


async def test_a_started_match_is_computed_each_time_and_stored_nowhere(served: Served) -> None:
    for _ in range(2):
        answer = await served.client.get(path("btts", STARTED))
        assert answer.headers["cache-status"] == "smartcache; fwd=bypass; detail=started"
        assert answer.headers["cache-control"] == "no-store"


async def test_no_cache_asks_for_a_new_computation(served: Served) -> None:
    await status_of(served, "btts")
    answer = await served.client.get(path("btts"), headers={"Cache-Control": "no-cache"})
    assert answer.headers["cache-status"] == "smartcache; fwd=request; detail=forced"


async def test_head_has_the_headers(served: Served) -> None:
    answer = await served.client.head(path("btts"))
    assert answer.status_code == 200
    assert "cache-status" in answer.headers


@pytest.mark.parametrize(
    ("url", "named"),
    [(path("btts", "nowhere"), "'nowhere'"), (path("moon"), "'moon'"), ("/v1/moon", "'/v1/moon'")],
)
async def test_what_is_unknown_is_named(served: Served, url: str, named: str) -> None:
    answer = await served.client.get(url)
    assert answer.status_code == 404
    assert named in answer.json()["error"]
    assert answer.json()["allowed"]


async def test_a_wrong_method_is_refused_with_the_right_ones(served: Served) -> None:
    answer = await served.client.post(path("btts"), json={})
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert answer.json()["allowed"] == ["GET", "HEAD"]


# Matches --------------------------------------------------------------------------------------------------------------


async def test_matches_to_come_are_listed_first_soonest_first(served: Served) -> None:
    listed = (await served.client.get("/v1/matches")).json()["matches"]
    assert set(listed[0]) == {"match_id", "competition", "home", "away", "kickoff_time", "zone"}
    to_come = [match for match in listed if match["zone"] != "match_started"]
    started = [match for match in listed if match["zone"] == "match_started"]
    assert listed == to_come + started
    assert started
    assert [match["kickoff_time"] for match in to_come] == sorted(match["kickoff_time"] for match in to_come)
    assert {match["zone"] for match in to_come} == {"warmup", "golden", "active", "prematch", "standard"}
    assert len({match["match_id"] for match in listed}) == len(listed)


async def test_the_list_follows_the_clock(served: Served) -> None:
    async def zone_of(match_id: str) -> str:
        listed = (await served.client.get("/v1/matches")).json()["matches"]
        return str(next(match["zone"] for match in listed if match["match_id"] == match_id))

    assert await zone_of(SOON) == "warmup"
    served.clock.ahead = 15 * 60.0
    assert await zone_of(SOON) == "match_started"


# Events ---------------------------------------------------------------------------------------------------------------


async def test_rain_retires_exactly_the_markets_it_touches(served: Served) -> None:
    for market in MARKETS:
        await status_of(served, market)
    answer = await served.client.post(f"/v1/matches/{MATCH}/events", json={"type": "weather_rain"})
    assert answer.status_code == 200
    told = answer.json()
    assert told["acknowledged"] is True
    assert told["invalidated_count"] == 4
    retired = {market for market in MARKETS if (await status_of(served, market)).startswith("fwd=miss")}
    assert retired == set(told["affected_markets"])
    assert retired == {"over_under_25", "corners_over_under", "cards_over_under", "clean_sheet"}


async def test_a_confirmed_lineup_doubles_the_lifetime(served: Served) -> None:
    await status_of(served, "penalty")
    assert await status_of(served, "penalty") in ("hit; ttl=899; detail=memory", "hit; ttl=898; detail=memory")
    await served.client.post(f"/v1/matches/{MATCH}/events", json={"type": "lineup_confirmed"})
    assert await status_of(served, "penalty") in ("hit; ttl=1799; detail=memory", "hit; ttl=1798; detail=memory")


async def test_every_event_is_taken(served: Served) -> None:
    for event in EventType:
        answer = await served.client.post(f"/v1/matches/{MATCH}/events", json={"type": event.value})
        assert (answer.status_code, answer.json()["type"]) == (200, event.value)


# Odds -----------------------------------------------------------------------------------------------------------------


async def test_a_leap_of_the_odds_is_a_panic(served: Served) -> None:
    assert await status_of(served, "match_result") == "fwd=miss; stored"
    calm = [{"market_key": HOME_KEY, "odds": odds} for odds in (3.2, 3.3, 3.25, 3.3)]
    leap = [{"market_key": HOME_KEY, "odds": 6.0}]
    answer = await served.client.post("/v1/odds", json={"ticks": calm + leap})
    assert answer.json() == {"accepted": 5}
    answer = await served.client.get(path("match_result"))
    assert answer.headers["cache-status"] == "smartcache; fwd=bypass; detail=panic"
    assert answer.headers["cache-control"] == "no-store"


async def test_a_market_without_prices_leans_on_one_with(served: Served) -> None:
    assert await status_of(served, "handicap") == "fwd=miss; stored"
    assert await status_of(served, "btts") == "fwd=miss; stored"
    await served.client.post("/v1/odds", json={"ticks": [{"market_key": HOME_KEY, "odds": 9.0}]})
    assert await status_of(served, "handicap") == "fwd=bypass; detail=panic"
    # Goals are another market, and its prices stood still.
    assert (await status_of(served, "btts")).startswith("hit")
    edges = (await served.client.get(path("edge_calculation"))).json()["edges"]
    assert edges["match_result:home"]["odds"] == 9.0


async def test_windows_are_warm_from_the_start(served: Served) -> None:
    match = served.parts.fixtures.get(SOON)
    assert match is not None
    now = served.clock.time()
    volatility = served.parts.cache.volatility
    await eventually(lambda: volatility.judge(f"{SOON}:match_result:home:", None, now).samples >= 3)


async def test_no_market_is_judged_by_more_than_three_prices(served: Served) -> None:
    match = served.parts.fixtures.get(MATCH)
    assert match is not None
    for market in MARKETS:
        odds = served.parts.book.odds_leant_on(match, market)
        assert len(odds) <= 3
        assert bool(odds) == (market in LEANS_ON)
        assert all(key.startswith(f"{MATCH}:{LEANS_ON.get(market)}:") for key in odds)


# Bad input ------------------------------------------------------------------------------------------------------------


def tick(**changes: Any) -> dict[str, Any]:
    return {"ticks": [{"market_key": HOME_KEY, "odds": 2.0} | changes]}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (tick(odds=-1), "-1"),
        (tick(odds=1.0), "1.0"),
        (tick(odds="2"), "'2'"),
        (tick(timestamp="2025-03-01T14:16:00"), "2025-03-01T14:16:00"),
        (tick(timestamp="2025-03-01T12:00:00Z"), "2025-03-01 12:00:00"),
        (tick(timestamp=1.9e9), "1900000000"),
        (tick(market_key="x"), "'x'"),
        (tick(market_key="nowhere:match_result:home:"), "'nowhere'"),
        (tick(market_key=f"{MATCH}:moon:home:"), "'moon'"),
        (tick(market_key=f"{MATCH}:match_result::"), "match_result::"),
        (tick(moon=1), "`moon`"),
        ({"ticks": []}, "[]"),
        ({}, "`ticks`"),
        ([], "array"),
    ],
)
async def test_wrong_odds_are_refused_by_name_and_none_is_taken(served: Served, body: Any, named: str) -> None:
    if isinstance(body, dict) and body.get("ticks"):
        # A good one before it must not be taken either.
        body["ticks"].insert(0, {"market_key": f"{MATCH}:match_result:draw:", "odds": 1.5})
    answer = await served.client.post("/v1/odds", json=body)
    assert answer.status_code == 422
    assert named in answer.json()["error"]
    assert answer.json()["allowed"]
    edges = (await served.client.get(path("edge_calculation"))).json()["edges"]
    assert edges["match_result:draw"]["odds"] != 1.5


@pytest.mark.parametrize("content", [b"{", b"", b"\xff", b'{"a'])
async def test_what_is_not_json_is_refused(served: Served, content: bytes) -> None:
    for url in ("/v1/odds", f"/v1/matches/{MATCH}/events", "/v1/faults"):
        answer = await served.client.post(url, content=content)
        assert answer.status_code == 400
        assert "not JSON" in answer.json()["error"]


@pytest.mark.parametrize(("odds", "code", "named"), [(b"1e999", 422, "ticks[0].odds is inf"), (b"NaN", 400, "NaN")])
async def test_odds_that_are_no_finite_number_are_refused(served: Served, odds: bytes, code: int, named: str) -> None:
    content = b'{"ticks": [{"market_key": "%s", "odds": %s}]}' % (HOME_KEY.encode(), odds)
    answer = await served.client.post("/v1/odds", content=content)
    assert answer.status_code == code
    assert named in answer.json()["error"]


async def test_an_unknown_event_is_refused_with_the_known_ones(served: Served) -> None:
    answer = await served.client.post(f"/v1/matches/{MATCH}/events", json={"type": "hail"})
    assert answer.status_code == 422
    assert "'hail'" in answer.json()["error"]
    assert answer.json()["allowed"]["type"] == [event.value for event in EventType]


@pytest.mark.parametrize(("body", "named"), [({"type": 1}, "1"), ({}, "`type`"), ({"type": "x", "y": 1}, "`y`")])
async def test_a_wrong_event_is_refused_by_name_with_the_known_ones(served: Served, body: Any, named: str) -> None:
    answer = await served.client.post(f"/v1/matches/{MATCH}/events", json=body)
    assert answer.status_code == 422
    assert named in answer.json()["error"]
    assert answer.json()["allowed"]["type"] == [event.value for event in EventType]


async def test_an_event_of_an_unknown_match_is_refused(served: Served) -> None:
    answer = await served.client.post("/v1/matches/nowhere/events", json={"type": "weather_rain"})
    assert answer.status_code == 404
    assert "'nowhere'" in answer.json()["error"]


async def test_a_body_too_large_is_refused_told_or_not(serve: Serve) -> None:
    async def in_pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 50

    async with serve({"SERVICE_MAX_BODY_BYTES": "100"}) as served:
        for content in (b" " * 101, in_pieces()):
            answer = await served.client.post("/v1/odds", content=content)
            assert answer.status_code == 413
            assert "SERVICE_MAX_BODY_BYTES" in answer.json()["allowed"]


# Faults ---------------------------------------------------------------------------------------------------------------


async def test_faults_are_closed_unless_opened(serve: Serve) -> None:
    async with serve({}) as served:
        answer = await served.client.post("/v1/faults", json={"seconds": 1})
        assert answer.status_code == 404
        assert "SERVICE_FAULTS" in answer.json()["allowed"]
        assert "/v1/faults" not in (await served.client.get("/v1/moon")).json()["allowed"]


async def test_open_faults_are_among_the_paths(served: Served) -> None:
    assert (await served.client.get("/v1/moon")).json()["allowed"] == list(PATHS)


async def test_an_ordered_fault_fails_computes_and_ends(served: Served) -> None:
    order = {"compute_error_ratio": 1, "seconds": 30}
    assert (await served.client.post("/v1/faults", json=order)).status_code == 200
    answer = await served.client.get(path("btts"))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.headers["cache-control"] == "no-store"
    served.clock.ahead = 30.0 + LOOK_EVERY
    assert await status_of(served, "btts") == "fwd=miss; stored"


@pytest.mark.parametrize("body", [{"seconds": 0}, {"seconds": 1, "compute_error_ratio": 2}, {"compute_error_ratio": 1}])
async def test_a_wrong_fault_is_refused(served: Served, body: dict[str, float]) -> None:
    answer = await served.client.post("/v1/faults", json=body)
    assert answer.status_code == 422
    assert answer.json()["allowed"]["seconds"]


# State ----------------------------------------------------------------------------------------------------------------


async def test_health_readiness_and_metrics(served: Served) -> None:
    assert (await served.client.get("/healthz")).json() == {"status": "ok"}
    ready = await served.client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["status"] == "ready"
    assert ready.json()["degraded"] is False
    now = datetime.fromisoformat(ready.json()["now"])
    assert timedelta(0) <= now - datetime(2025, 3, 1, 14, 16, tzinfo=UTC) < timedelta(minutes=1)
    metrics = await served.client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'process_cpu_seconds_total{worker="0"}' in metrics.text
    # Prometheus writes "up" itself; a sample of that name from here would collide with it.
    assert "\nup" not in metrics.text
    openmetrics = await served.client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert openmetrics.text.endswith("# EOF\n")


async def test_not_ready_before_the_start_and_after_the_stop(tmp_path: Path) -> None:
    settings = read_settings({})
    application = build(settings, tmp_path, SteppingClock(settings.at.timestamp()), CacheConfig())
    transport = httpx.ASGITransport(app=application)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        before = await client.get("/readyz")
        async with application.application.router.lifespan_context(application.application):
            assert (await client.get("/readyz")).status_code == 200
        after = await client.get("/readyz")
    assert (before.status_code, before.json()["status"]) == (503, "starting")
    assert (after.status_code, after.json()["status"]) == (503, "stopping")


async def test_every_answer_is_counted_by_route_and_code(served: Served) -> None:
    await served.client.get(path("btts"))
    await served.client.get(path("moon"))
    await served.client.get("/nowhere")
    await served.client.get("/v1/matches/")
    await served.client.post("/v1/matches", json={})
    await served.client.post("/v1/odds", content=b"{")
    assert served.answered(PREDICTION, 200) == 1
    assert served.answered(PREDICTION, 404) == 1
    assert served.answered("other", 404) == 2
    assert served.answered("/v1/matches", 405) == 1
    assert served.answered("/v1/odds", 400) == 1
    counted = served.parts.metrics.snapshot().samples["smartcache_http_requests_total"]
    assert sum(counted.values()) == 6
    assert {(route, code) for (route, code), count in counted.items() if count} <= {
        (route, code) for route in (*PATHS, "other") for code in CODES
    }


async def test_the_extra_latency_is_stated(serve: Serve) -> None:
    async with serve({"SERVICE_EXTRA_LATENCY_MS": "40"}) as served:
        assert served.parts.metrics.snapshot().samples["smartcache_model_extra_latency_seconds"][()] == 0.04
        await status_of(served, "btts")
        assert served.parts.metrics.get_stats()["max_latency_ms"] >= 40


async def test_a_failure_hidden_by_a_held_value_is_logged_and_degrades_readiness(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    await status_of(served, "penalty")
    served.clock.ahead = 905.0
    await served.client.post("/v1/faults", json={"compute_error_ratio": 1, "seconds": 60})
    assert (await status_of(served, "penalty")).startswith("hit; ttl=-")
    await eventually(lambda: served.parts.watch.failing)
    assert f"computing penalty of {MATCH} failed" in caplog.text
    ready = await served.client.get("/readyz")
    assert (ready.status_code, ready.json()["degraded"]) == (200, True)
    assert "the model fails; the log says why" in ready.json()["reasons"]
    served.clock.ahead += 60.0 + LOOK_EVERY
    assert (await served.client.get("/readyz")).json()["degraded"] is False

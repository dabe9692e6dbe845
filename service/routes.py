"""The endpoints."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.answers import Answer, RequestError, cache_headers
from service.board import Fault
from service.bodies import EventBody, FaultBody, OddsBody, TickBody, read_body
from service.fixtures import Match
from service.parts import Parts
from service.processes import render_processes
from smartcache import EventType, key_factory
from smartcache.engine import Health
from smartcache.tags import MARKETS

__all__ = ["CODES", "FAULTS", "PATHS", "routes"]

PREDICTION: Final = "/v1/matches/{match_id}/markets/{market}"
FAULTS: Final = "/v1/faults"
#: Every path, as metrics name them.
PATHS: Final = (
    PREDICTION, "/v1/matches", "/v1/odds", "/v1/matches/{match_id}/events", FAULTS, "/healthz", "/readyz",
    "/metrics",
)  # fmt: skip
#: Every status that is answered.
CODES: Final = ("200", "202", "400", "404", "405", "413", "422", "500", "503", "504")

#: Matches are listed from this long after their kickoff to this long before it.
_LISTED_AFTER: Final = timedelta(hours=3)
_LISTED_BEFORE: Final = timedelta(days=14)
#: Posted ticks may be this old (a volatility window) and this far ahead (clocks differ), in seconds.
_OLDEST_TICK: Final = 1800.0
_FUTURE_TICK: Final = 5.0

_KNOWN_MARKETS: Final = frozenset(MARKETS)
_WHERE_MATCHES: Final = "the match ids that GET /v1/matches lists"


def routes(parts: Parts) -> list[Route]:
    """The routes; predictions first, since nearly all requests are for them."""
    endpoints = Endpoints(parts)
    return [
        Route(PREDICTION, PredictionEndpoint(parts), methods=["GET"]),
        Route("/v1/matches", endpoints.matches),
        Route("/v1/odds", endpoints.odds, methods=["POST"]),
        Route("/v1/matches/{match_id}/events", endpoints.events, methods=["POST"]),
        Route(FAULTS, endpoints.faults, methods=["POST"]),
        Route("/healthz", endpoints.healthz),
        Route("/readyz", endpoints.readyz),
        Route("/metrics", endpoints.metrics),
    ]


def _match(parts: Parts, match_id: str) -> Match:
    match = parts.fixtures.get(match_id)
    if match is None:
        raise RequestError(404, f"unknown match {match_id!r}", _WHERE_MATCHES)
    return match


class PredictionEndpoint:
    """``GET /v1/matches/{match_id}/markets/{market}``: the path that thousands a second take.

    A bare ASGI application, which spares the request object and a layer of error handling.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        parts = self._parts
        names = scope["path_params"]
        match, market = _match(parts, names["match_id"]), names["market"]
        if market not in _KNOWN_MARKETS:
            raise RequestError(404, f"unknown market {market!r}", MARKETS)
        result = await parts.cache.get_with_intelligence(
            cache_key=key_factory.prediction(match.match_id, market),
            compute_fn=partial(parts.predictor.predict, match, market),
            match_context={
                "match_id": match.match_id,
                "market": market,
                "kickoff_time": match.kickoff,
                "lineup_confirmed": parts.board.lineup_confirmed(match.match_id),
                "current_odds": parts.book.odds_leant_on(match, market),
                "competition": match.competition,
            },
            force_refresh=_wants_new(scope),
        )
        headers = cache_headers(result.metadata, parts.settings.max_age)
        await Answer(result.value, headers=headers)(scope, receive, send)


def _wants_new(scope: Scope) -> bool:
    return any(name == b"cache-control" and b"no-cache" in value.lower() for name, value in scope["headers"])


class Endpoints:
    """All other endpoints."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._listed: tuple[int, bytes] = (0, b"")

    async def matches(self, _: Request) -> Response:
        """``GET /v1/matches``: not yet started ones first, soonest kickoff first."""
        second = int(self._parts.clock.time())
        if self._listed[0] != second:
            self._listed = (second, bytes(Answer({"matches": self._list()}).body))
        return Answer(self._listed[1])

    def _list(self) -> list[dict[str, str]]:
        now, zone_of = self._parts.clock.now(), self._parts.cache.golden_hour.calculate_ttl
        listed = self._parts.fixtures.between(now - _LISTED_AFTER, now + _LISTED_BEFORE)
        return [
            {
                "match_id": match.match_id,
                "competition": match.competition,
                "home": match.home,
                "away": match.away,
                "kickoff_time": match.kickoff.isoformat(),
                "zone": zone_of(kickoff_time=match.kickoff)["zone"],
            }
            for match in sorted(listed, key=lambda match: (match.kickoff <= now, match.kickoff))
        ]

    async def odds(self, request: Request) -> Response:
        """``POST /v1/odds``: prices seen elsewhere; all are taken or none."""
        body = await read_body(request.scope, request.receive, OddsBody, self._parts.settings.max_body)
        seen = [(tick, self._checked(index, tick)) for index, tick in enumerate(body.ticks)]
        for tick, instant in seen:
            self._parts.cache.update_vix_snapshot(market_key=tick.market_key, odds=tick.odds, timestamp=instant)
        return Answer({"accepted": len(seen)})

    def _checked(self, index: int, tick: TickBody) -> float:
        """The instant of a posted tick in epoch seconds, once all of it is found right."""
        name = f"ticks[{index}]"
        match_id, *rest = tick.market_key.split(":")
        if len(rest) != 3 or not rest[1]:
            raise RequestError(
                422, f"{name}.market_key is {tick.market_key!r}", "match:market:selection:line; line may be empty"
            )
        if self._parts.fixtures.get(match_id) is None:
            raise RequestError(422, f"{name}.market_key names the unknown match {match_id!r}", _WHERE_MATCHES)
        if rest[0] not in _KNOWN_MARKETS:
            raise RequestError(422, f"{name}.market_key names the unknown market {rest[0]!r}", MARKETS)
        now = self._parts.clock.time()
        if tick.timestamp is None:
            return now
        instant = tick.timestamp.timestamp() if isinstance(tick.timestamp, datetime) else tick.timestamp
        if not now - _OLDEST_TICK <= instant <= now + _FUTURE_TICK:
            raise RequestError(
                422,
                f"{name}.timestamp is {tick.timestamp!s}, while now is {self._parts.clock.now().isoformat()}",
                f"from {_OLDEST_TICK:g} s before now to {_FUTURE_TICK:g} s after, or null for now",
            )
        return instant

    async def events(self, request: Request) -> Response:
        """``POST /v1/matches/{match_id}/events``: 200 once it holds everywhere, 202 while the store is away."""
        match = _match(self._parts, request.path_params["match_id"])
        allowed = {"type": self._parts.cache.tag_manager.events}
        body = await read_body(request.scope, request.receive, EventBody, self._parts.settings.max_body, allowed)
        if body.type not in allowed["type"]:
            raise RequestError(422, f"type is {body.type!r}: no such event", allowed)
        if body.type == EventType.LINEUP_CONFIRMED:
            self._parts.board.confirm_lineup(match.match_id)
        done = await self._parts.cache.invalidate_by_event(event_type=body.type, match_key=f"match:{match.match_id}")
        return Answer({"match_id": match.match_id, "type": body.type, **done}, 200 if done["acknowledged"] else 202)

    async def faults(self, request: Request) -> Response:
        """``POST /v1/faults``: disturb the model of every worker, for demonstrations and game days."""
        if not self._parts.settings.faults:
            raise RequestError(404, "faults are not open to order", "SERVICE_FAULTS=on opens them")
        body = await read_body(request.scope, request.receive, FaultBody, self._parts.settings.max_body)
        until = self._parts.clock.monotonic() + body.seconds
        self._parts.board.order(Fault(body.compute_error_ratio, body.extra_latency_ms / 1000, until))
        return Answer(body)

    async def healthz(self, _: Request) -> Response:
        """``GET /healthz``: this process answers."""
        return Answer({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        """``GET /readyz``: whether predictions can be served, and what is not as it should be."""
        health = self._parts.cache.health()
        reasons = _reasons(health)
        if self._parts.watch.failing:
            reasons.append("the model fails; the log says why")
        body = {
            "status": self._parts.phase,
            "degraded": bool(reasons),
            "reasons": reasons,
            "now": self._parts.clock.now().isoformat(timespec="seconds"),
            **health,
        }
        return Answer(body, 200 if self._parts.phase == "ready" else 503)

    async def metrics(self, request: Request) -> Response:
        """``GET /metrics``: the processes of the service's workers."""
        accept = request.headers.get("accept", "")
        content, content_type = await asyncio.to_thread(render_processes, self._parts.folder, accept)
        return Response(content, headers={"content-type": content_type, "cache-control": "no-store"})


def _reasons(health: Health) -> list[str]:
    reasons = [f"{part} is down" for part in ("store", "bus") if health[part] == "down"]
    if health["breaker"] != "closed":
        reasons.append(f"breaker of the store is {health['breaker']}")
    if health["governor"] != "normal":
        reasons.append(f"volatility governor is in {health['governor']}")
    if health["queued_invalidations"]:
        reasons.append(f"{health['queued_invalidations']} invalidations wait for the store")
    return reasons

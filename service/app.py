"""The application: routes, errors, and the count of what was answered."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.logs import set_up_logs
from exporter.otlp import Traces, TraceSettings
from exporter.trace_requests import TraceRequests
from service.answers import RequestError
from service.clock import ReplayClock
from service.fixtures import COMPETITIONS
from service.model_watch import ModelError
from service.parts import Parts, assemble, running
from service.routes import CODES, FAULTS, PATHS, routes
from service.settings import Settings, read_settings
from smartcache import CacheConfig, CacheMetrics, ComputeTimeoutError, SmartCacheEnhanced
from smartcache.metrics import Counter

__all__ = ["CountAnswers", "build", "create"]


def create() -> ASGIApp:
    """The application of one worker; ``python -m service`` hands it what it needs through the environment."""
    set_up_logs()
    at, origin = os.environ["SERVICE_CLOCK"].split()
    return build(
        read_settings(os.environ),
        Path(os.environ["SERVICE_FOLDER"]),
        ReplayClock(float(at), float(origin)),
        CacheConfig.from_env(competitions=tuple(COMPETITIONS)),
        parent=os.getppid(),
        traced=TraceSettings.from_env(),
    )


def build(
    settings: Settings,
    folder: Path,
    clock: ReplayClock,
    config: CacheConfig,
    parent: int | None = None,
    traced: TraceSettings | None = None,
) -> CountAnswers:
    """The application.

    Args:
        settings: the service's settings.
        folder: what the workers of one service share.
        clock: where now comes from, for the engine too.
        config: the engine's settings.
        parent: the process without which this one shall not go on, if any.
        traced: where traces go, if anywhere.
    """
    metrics = CacheMetrics(
        directory=config.metrics_dir,
        domains={
            "competition": tuple(COMPETITIONS),
            "route": PATHS,
            "code": CODES,
            "worker": [str(number) for number in range(settings.workers)],
        },
        clock=clock,
    )
    parts = assemble(settings, folder, clock, SmartCacheEnhanced(config=config, metrics=metrics, clock=clock), metrics)
    if traced is not None:
        parts.traces = Traces(traced, "smartcache-service", metrics.exemplar)
        parts.cache.tracer = parts.traces.tracing

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with running(parts, parent):
            yield

    application = Starlette(
        routes=routes(parts),
        lifespan=lifespan,
        exception_handlers={
            RequestError: _request_error,
            HTTPException: partial(_http_error, [path for path in PATHS if path != FAULTS or settings.faults]),
            ModelError: _model_error,
            ComputeTimeoutError: _late,
            Exception: _unforeseen,
        },
    )
    application.router.redirect_slashes = False
    return CountAnswers(application, parts)


class CountAnswers:
    """Counts every HTTP answer by route and status, errors and unknown paths included."""

    def __init__(self, application: Starlette, parts: Parts) -> None:
        self.application = application
        self.parts = parts
        self._answer: ASGIApp = application
        if (traces := parts.traces) is not None:
            self._answer = TraceRequests(application, traces.tracing, traces.settings.heeds_callers)
        self._paths = {route.endpoint: route.path for route in application.routes}  # type: ignore[attr-defined]
        self._counters: dict[tuple[Any, int], Counter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""
        if scope["type"] != "http":
            await self._answer(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The router leaves the endpoint it chose in the scope; there is none for an unknown path.
                self._counter(scope.get("endpoint"), message["status"]).add()
            await send(message)

        await self._answer(scope, receive, counted)

    def _counter(self, endpoint: Any, status: int) -> Counter:
        counter = self._counters.get((endpoint, status))
        if counter is None:
            counter = self._counters[endpoint, status] = self.parts.metrics.counter(
                "smartcache_http_requests_total", route=self._paths.get(endpoint, "other"), code=str(status)
            )
        return counter


async def _request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error.answer()


async def _http_error(paths: list[str], request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = sorted((error.headers or {})["Allow"].split(", "))
        refused = RequestError(405, f"{request.method} is not for {request.url.path}", allowed)
        return refused.answer([(b"allow", ", ".join(allowed).encode())])
    return RequestError(error.status_code, f"no such path {request.url.path!r}", paths).answer()


async def _model_error(_: Request, error: Exception) -> Response:
    return RequestError(503, str(error)).answer([(b"retry-after", b"5")])


async def _late(_: Request, error: Exception) -> Response:
    return RequestError(504, str(error)).answer([(b"retry-after", b"5")])


async def _unforeseen(_: Request, __: Exception) -> Response:
    # Starlette raises the error again once this is sent, so that the server logs it.
    return RequestError(500, "the service failed; its log says how").answer()

"""A span for each recorded HTTP request of an ASGI app, with the engine's own below it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.propagators.textmap import Getter
from opentelemetry.semconv.attributes.client_attributes import CLIENT_ADDRESS
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_REQUEST_METHOD_ORIGINAL,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.semconv.attributes.network_attributes import NETWORK_PROTOCOL_VERSION
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.semconv.attributes.url_attributes import URL_PATH, URL_QUERY, URL_SCHEME
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.tracing import Tracing, drawn
from smartcache.redaction import redact
from smartcache.tracing import UNSAMPLED, current

__all__ = ["TraceRequests"]

_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
_TRACEPARENT: Final = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?:-|\Z)"
)


class TraceRequests:
    """ASGI middleware: decides whether a request is recorded, and records it by OpenTelemetry's conventions for HTTP.

    A request whose caller records it is recorded, one whose caller does not is not (``traceparent``); of the others the
    share that the tracer draws. What goes by costs a look at its headers; OpenTelemetry is not called.

    Args:
        app: what answers.
        tracing: the engine's tracer too.
        heeds_callers: whether the caller's decision counts.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing, heeds_callers: bool = True) -> None:
        self._app = app
        self._tracing = tracing
        self._heeds_callers = heeds_callers
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        caller = next((value for name, value in scope["headers"] if name == b"traceparent"), None)
        sampled = _sampled(caller) if caller and self._heeds_callers else None
        if self._tracing.draw() if sampled is None else sampled:
            await self._recorded(scope, receive, send, caller is not None)
            return
        before = current.set(UNSAMPLED)
        try:
            await self._app(scope, receive, send)
        finally:
            with suppress(ValueError):  # abandoned by its loop, it ends elsewhere
                current.reset(before)

    async def _recorded(self, scope: Scope, receive: Receive, send: Send, called: bool) -> None:
        # Whatever else stands in the context stays; the parent is the caller's span, if any.
        context = drawn(trace.set_span_in_context(trace.INVALID_SPAN))
        as_it_came, started = dict(scope), False
        if called:
            context = self._propagator.extract(scope["headers"], context, _Headers())
        method = scope["method"] if scope["method"] in _METHODS else "HTTP"
        with self._tracing.span(method, SpanKind.SERVER, _asked(scope), context) as span:

            async def noted(message: Message) -> None:
                nonlocal started
                if message["type"] == "http.response.start":
                    started = True
                    status = message["status"]
                    span.note({HTTP_RESPONSE_STATUS_CODE: status})
                    if status >= 500:
                        span.note({ERROR_TYPE: str(status)})
                        span.otel.set_status(Status(StatusCode.ERROR))
                await send(message)

            try:
                await self._app(scope, receive, noted)
            except Exception:
                if not started:  # whoever stands around this answers so
                    span.note({HTTP_RESPONSE_STATUS_CODE: 500})
                raise
            finally:
                if route := _route(scope, as_it_came):
                    span.note({HTTP_ROUTE: route})
                    span.otel.update_name(f"{method} {route}")


class _Headers(Getter[list[tuple[bytes, bytes]]]):
    """How OpenTelemetry reads the headers of an ASGI scope."""

    def get(self, carrier: list[tuple[bytes, bytes]], key: str) -> list[str] | None:
        """The values of a header."""
        found = [value.decode("latin-1") for name, value in carrier if name == key.encode()]
        return found or None

    def keys(self, carrier: list[tuple[bytes, bytes]]) -> list[str]:
        """The names of all headers."""
        return [name.decode("latin-1") for name, _ in carrier]


def _sampled(traceparent: bytes) -> bool | None:
    """What the caller decided (W3C Trace Context); None if it says nothing that can be read."""
    found = _TRACEPARENT.match(traceparent)
    if (
        found is None
        or (found["version"] == b"00" and found.end() != len(traceparent))
        or found["version"] == b"ff"
        or not found["trace"].strip(b"0")
        or not found["parent"].strip(b"0")
    ):
        return None
    return bool(int(found["flags"], 16) & trace.TraceFlags.SAMPLED)


def _asked(scope: Scope) -> dict[str, Any]:
    method, raw_path = scope["method"], scope.get("raw_path")
    about: dict[str, Any] = {
        HTTP_REQUEST_METHOD: method if method in _METHODS else "_OTHER",
        URL_SCHEME: scope.get("scheme", "http"),
        URL_PATH: redact(raw_path.decode("latin-1") if raw_path else scope["path"]),
        NETWORK_PROTOCOL_VERSION: scope.get("http_version", "1.1"),
    }
    if method not in _METHODS:
        about[HTTP_REQUEST_METHOD_ORIGINAL] = method
    if query := scope.get("query_string"):
        about[URL_QUERY] = redact(query.decode("latin-1"))
    if client := scope.get("client"):
        about[CLIENT_ADDRESS] = client[0]
    if server := scope.get("server"):
        about[SERVER_ADDRESS] = server[0]
        if server[1] is not None:
            about[SERVER_PORT] = int(server[1])  # granian says it in digits
    return about


def _route(scope: Scope, as_it_came: Scope) -> str | None:
    """The template of the path, of mounted apps and included routers too; None for an unknown path.

    It is looked up once more: only the newest frameworks leave the route in the scope, and none leaves the mount's
    template, but the path that matched it.

    Args:
        scope: as Starlette and FastAPI left it.
        as_it_came: its copy from before.
    """
    template, routes = "", getattr(scope.get("router"), "routes", ())
    while (found := _match(routes, as_it_came)) is not None:
        route, changes = found
        path: Any = getattr(route, "path", None)
        if path is None:  # a router that FastAPI includes
            chosen = scope.get("fastapi", {}).get("effective_route_context")
            path = getattr(chosen, "path_format", "")
        template += path
        as_it_came.update(changes)
        routes = getattr(route, "routes", ())
    return template or None


def _match(routes: Iterable[BaseRoute], scope: Scope) -> tuple[BaseRoute, Scope] | None:
    partial = None
    for route in routes or ():
        match, changes = route.matches(scope)
        if match is Match.FULL:
            return route, changes
        if match is Match.PARTIAL and partial is None:
            partial = route, changes
    return partial

"""A span for each recorded HTTP request of an ASGI app, with the engine's own below it."""

from __future__ import annotations

import re
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
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
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.tracing import Tracing, drawn
from smartcache.redaction import redact
from smartcache.tracing import UNSAMPLED, current

__all__ = ["TraceRequests"]

_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
_TRACEPARENT: Final = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?:-|$)"
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
        before = current.get()
        current.set(UNSAMPLED)
        try:
            await self._app(scope, receive, send)
        finally:
            current.set(before)

    async def _recorded(self, scope: Scope, receive: Receive, send: Send, called: bool) -> None:
        context, outside = drawn(Context()), scope.get("root_path", "")
        if called:
            context = self._propagator.extract(scope["headers"], context, _Headers())
        method = scope["method"] if scope["method"] in _METHODS else "HTTP"
        with self._tracing.span(method, SpanKind.SERVER, _asked(scope), context) as span:

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    span.note({HTTP_RESPONSE_STATUS_CODE: status})
                    if status >= 500:
                        span.note({ERROR_TYPE: str(status)})
                        span.otel.set_status(Status(StatusCode.ERROR))
                await send(message)

            try:
                await self._app(scope, receive, noted)
            finally:
                if route := _route(scope, outside):
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
    if found is None or found["version"] == b"ff" or not found["trace"].strip(b"0") or not found["parent"].strip(b"0"):
        return None
    return bool(int(found["flags"], 16) & trace.TraceFlags.SAMPLED)


def _asked(scope: Scope) -> dict[str, Any]:
    method = scope["method"]
    about: dict[str, Any] = {
        HTTP_REQUEST_METHOD: method if method in _METHODS else "_OTHER",
        URL_SCHEME: scope.get("scheme", "http"),
        URL_PATH: scope["path"],
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
            about[SERVER_PORT] = server[1]
    return about


def _route(scope: Scope, outside: str) -> str | None:
    """The template of the path, as Starlette and FastAPI leave it in the scope; None for an unknown path."""
    path = getattr(scope.get("route"), "path", None)
    if not isinstance(path, str):
        return None
    mounted_at: str = scope.get("root_path", "")[len(outside) :]
    return mounted_at + path

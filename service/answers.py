"""Answers over HTTP: JSON bodies, errors that say what is allowed, and what caches on the way are told.

``Cache-Status`` follows RFC 9211, ``Age`` and ``Cache-Control`` RFC 9111 and RFC 5861.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol

import msgspec
from starlette.types import Receive, Scope, Send

__all__ = ["Answer", "CacheMetadata", "RequestError", "cache_headers"]

Header = tuple[bytes, bytes]

_JSON: Final = (b"content-type", b"application/json")
NO_STORE: Final = (b"cache-control", b"no-store")

encode: Final = msgspec.json.Encoder().encode


class RequestError(Exception):
    """A request that cannot be met as it was asked.

    Attributes:
        code: HTTP status.
        error: what was wrong, naming the value.
        allowed: what would have been right: a description, or the values.
        headers: further headers of the answer.
    """

    def __init__(self, code: int, error: str, allowed: object = None, headers: Iterable[Header] = ()) -> None:
        super().__init__(error)
        self.code = code
        self.error = error
        self.allowed = allowed
        self.headers = tuple(headers)

    def answer(self) -> Answer:
        """The answer that tells the client."""
        body: dict[str, object] = {"error": self.error}
        if self.allowed is not None:
            body["allowed"] = self.allowed
        return Answer(body, self.code, (NO_STORE, *self.headers))


class Answer:
    """A JSON answer; as an ASGI application it sends itself.

    Args:
        content: what the body says, or the body itself when it is bytes.
        code: HTTP status.
        headers: headers beside content type and length.
    """

    __slots__ = ("body", "code", "headers")

    def __init__(self, content: object, code: int = 200, headers: Iterable[Header] = (NO_STORE,)) -> None:
        self.body = content if isinstance(content, bytes) else encode(content)
        self.code = code
        self.headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; without its body when only the head was asked for."""
        length = (b"content-length", str(len(self.body)).encode())
        headers: list[Any] = [_JSON, length, *self.headers]
        await send({"type": "http.response.start", "status": self.code, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else self.body})


class CacheMetadata(Protocol):
    """What the headers need of the engine's metadata; times in seconds."""

    strategy: str
    zone: str | None
    age: float
    tier: str
    vix_status: str | None
    coalesced: bool
    expires_in: float
    stale_for: float


def cache_headers(metadata: CacheMetadata, most: int, forced: bool = False) -> list[Header]:
    """``Cache-Status``, ``Age`` and ``Cache-Control`` of an answer from the engine.

    ``max-age`` is the freshness that remains and ``stale-while-revalidate`` what remains of the window after it, each
    at most ``most`` seconds, since no invalidation reaches a browser. What a restless market or a started match brings
    is not to be stored at all.

    Args:
        metadata: the engine's account of the answer.
        most: cap of either, in seconds.
        forced: the client asked for a fresh computation (``Cache-Control: no-cache``).
    """
    headers = [
        (b"cache-status", _cache_status(metadata, forced).encode()),
        (b"age", b"%d" % max(0, metadata.age)),
    ]
    if metadata.vix_status in ("panic", "warning") or metadata.zone == "match_started":
        return [*headers, NO_STORE]
    fresh = int(min(most, max(0, metadata.expires_in)))
    stale = int(min(most, max(0, metadata.stale_for)))
    return [*headers, (b"cache-control", b"max-age=%d, stale-while-revalidate=%d" % (fresh, stale))]


def _cache_status(metadata: CacheMetadata, forced: bool) -> str:
    match metadata.strategy:
        case "serve_fresh" | "serve_stale":
            # Negative once stale; rounded down, so that a value about to expire never claims a second more.
            status = f"smartcache; hit; ttl={metadata.expires_in // 1:.0f}; detail={metadata.tier}"
        case "compute":
            status = f"smartcache; fwd=miss{_collapsed(metadata)}; stored"
        case _ if forced:
            status = f"smartcache; fwd=request{_collapsed(metadata)}; detail=forced"
        case _:
            reason = "started" if metadata.zone == "match_started" else "panic"
            status = f"smartcache; fwd=bypass{_collapsed(metadata)}; detail={reason}"
    return status


def _collapsed(metadata: CacheMetadata) -> str:
    return "; collapsed" if metadata.coalesced else ""

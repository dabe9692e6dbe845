"""Answers over HTTP: JSON bodies, errors that say what is allowed, and what caches on the way are told.

``Cache-Status`` follows RFC 9211, ``Age`` and ``Cache-Control`` RFC 9111 and RFC 5861.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from smartcache import ResultMetadata

__all__ = ["NO_STORE", "Answer", "RequestError", "cache_headers"]

Header = tuple[bytes, bytes]

NO_STORE: Final = (b"cache-control", b"no-store")
_JSON: Final = (b"content-type", b"application/json")
_encode: Final = msgspec.json.Encoder().encode


class Answer(Response):
    """A JSON answer. Lighter than Starlette's own: bytes go out as they are, headers come ready.

    Args:
        content: what the body says, or the body itself when it is bytes.
        code: HTTP status.
        headers: headers beside content type and length.
    """

    def __init__(self, content: object, code: int = 200, headers: Iterable[Header] = (NO_STORE,)) -> None:
        self.status_code = code
        self.body = content if isinstance(content, bytes) else _encode(content)
        self.raw_headers = [_JSON, (b"content-length", b"%d" % len(self.body)), *headers]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body})


class RequestError(Exception):
    """A request that cannot be met as it was asked.

    Attributes:
        code: HTTP status.
        error: what was wrong, naming the value.
        allowed: what would have been right: a description, or the values.
    """

    def __init__(self, code: int, error: str, allowed: object = None) -> None:
        super().__init__(error)
        self.code = code
        self.error = error
        self.allowed = allowed

    def answer(self, headers: Iterable[Header] = ()) -> Answer:
        """The answer that tells the client."""
        body = {"error": self.error} | ({} if self.allowed is None else {"allowed": self.allowed})
        return Answer(body, self.code, (NO_STORE, *headers))


def cache_headers(metadata: ResultMetadata, most: int) -> list[Header]:
    """``Cache-Status``, ``Age`` and ``Cache-Control`` of an answer from the engine.

    ``max-age`` is the freshness that remains and ``stale-while-revalidate`` what remains of the window after it, each
    at most ``most`` seconds, since no invalidation reaches a browser. What a restless market or a started match brings
    is not to be stored at all.

    Args:
        metadata: the engine's account of the answer.
        most: cap of either, in seconds.
    """
    lifetime = NO_STORE
    if metadata.vix_status == "normal" and metadata.zone != "match_started":
        fresh = max(0, metadata.expires_in)
        stale = max(0, metadata.stale_for - fresh)
        lifetime = (
            b"cache-control",
            b"max-age=%d, stale-while-revalidate=%d" % (min(most, fresh), min(most, stale)),
        )
    return [(b"cache-status", _cache_status(metadata)), (b"age", b"%d" % max(0, metadata.age)), lifetime]


#: Why a request went past the cache, in the words of RFC 9211.
_FORWARDED: Final = {
    "absent": b"fwd=miss; stored",
    "too_stale": b"fwd=stale; stored",
    "bypass_started": b"fwd=bypass; detail=started",
    "bypass_panic": b"fwd=bypass; detail=panic",
    "bypass_forced": b"fwd=request; detail=forced",
}


def _cache_status(metadata: ResultMetadata) -> bytes:
    if metadata.tier != "none":
        # Negative once stale; rounded down, so that a value about to expire never claims a second more.
        return b"smartcache; hit; ttl=%d; detail=%b" % (metadata.expires_in // 1, metadata.tier.encode())
    why = _FORWARDED[metadata.outcome]
    return b"smartcache; %b; collapsed" % why if metadata.coalesced else b"smartcache; %b" % why

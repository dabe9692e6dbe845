"""Answers over HTTP: JSON bodies, errors that say what is allowed, and what caches on the way are told.

``Cache-Status`` follows RFC 9211, ``Age`` and ``Cache-Control`` RFC 9111 and RFC 5861.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from starlette.responses import Response

from smartcache import CacheStrategy, ResultMetadata

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
        self.background = None
        self.body = content if isinstance(content, bytes) else _encode(content)
        self.raw_headers = [_JSON, (b"content-length", b"%d" % len(self.body)), *headers]


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
    headers = [
        (b"cache-status", _cache_status(metadata).encode()),
        (b"age", b"%d" % max(0, metadata.age)),
    ]
    if metadata.vix_status != "normal" or metadata.zone == "match_started":
        return [*headers, NO_STORE]
    fresh = max(0, metadata.expires_in)
    stale = max(0, metadata.stale_for - fresh)
    lifetime = b"max-age=%d, stale-while-revalidate=%d" % (min(most, fresh), min(most, stale))
    return [*headers, (b"cache-control", lifetime)]


#: Why a request went past the cache, in the words of RFC 9211.
_FORWARDED: Final = {
    "absent": "fwd=miss; stored",
    "too_stale": "fwd=stale; stored",
    "bypass_started": "fwd=bypass; detail=started",
    "bypass_panic": "fwd=bypass; detail=panic",
    "bypass_forced": "fwd=request; detail=forced",
}


def _cache_status(metadata: ResultMetadata) -> str:
    if metadata.strategy in (CacheStrategy.SERVE_FRESH, CacheStrategy.SERVE_STALE):
        # Negative once stale; rounded down, so that a value about to expire never claims a second more.
        return f"smartcache; hit; ttl={metadata.expires_in // 1:.0f}; detail={metadata.tier}"
    why = _FORWARDED[metadata.outcome]
    return f"smartcache; {why}; collapsed" if metadata.coalesced else f"smartcache; {why}"

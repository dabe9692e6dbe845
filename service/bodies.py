"""Request bodies: what clients may post, and how a body that breaks the rules is answered."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

import msgspec
from starlette.types import Receive, Scope

from service.answers import RequestError

__all__ = ["EventBody", "FaultBody", "OddsBody", "TickBody", "read_body"]

MOST_TICKS: Final = 1000


class TickBody(msgspec.Struct, forbid_unknown_fields=True):
    """One price: its market key, decimal odds, and when it was seen (aware ISO 8601, epoch seconds, or now)."""

    market_key: str
    odds: Annotated[float, msgspec.Meta(ge=1.01)]
    timestamp: Annotated[datetime, msgspec.Meta(tz=True)] | float | None = None


class OddsBody(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /v1/odds``."""

    ticks: Annotated[list[TickBody], msgspec.Meta(min_length=1, max_length=MOST_TICKS)]


class EventBody(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /v1/matches/{match_id}/events``; the event must be one of the engine's table."""

    type: str


class FaultBody(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /v1/faults``: what to do to the model, and for how many seconds."""

    seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)]
    compute_error_ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    extra_latency_ms: Annotated[float, msgspec.Meta(ge=0, le=60_000)] = 0.0


#: What each body may hold; the events are the engine's to say.
_ALLOWED: Final[dict[type, Any]] = {
    OddsBody: {
        "ticks": f"1 to {MOST_TICKS} of",
        "market_key": "match:market:selection:line, of a known match and market",
        "odds": "a finite number of at least 1.01",
        "timestamp": "a moment with its offset such as 2025-03-01T14:16:00Z, epoch seconds, or null for now",
    },
    FaultBody: {
        "seconds": "above 0, to 3600",
        "compute_error_ratio": "0 to 1",
        "extra_latency_ms": "0 to 60000",
    },
}

B = TypeVar("B", OddsBody, EventBody, FaultBody)


async def read_body(scope: Scope, receive: Receive, kind: type[B], most: int, allowed: object = None) -> B:
    """The body of a request, checked.

    Args:
        scope, receive: the request.
        kind: what it must be.
        most: bytes it may have.
        allowed: what an error says is allowed; None says what always is.

    Raises:
        RequestError: 413 above ``most`` bytes, 400 for what is not JSON, 422 for JSON that is not a ``kind``.
    """
    raw = await _collect(scope, receive, most)
    allowed = _ALLOWED[kind] if allowed is None else allowed
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise RequestError(422, _named(raw, str(error)), allowed) from None
    except msgspec.DecodeError as error:
        raise RequestError(400, f"the body {raw[:200]!r} is not JSON: {error}", allowed) from None


async def _collect(scope: Scope, receive: Receive, most: int) -> bytes:
    too_large = RequestError(413, "the body is too large", f"at most {most} bytes (SERVICE_MAX_BODY_BYTES)")
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > most:
            raise too_large
    raw = bytearray()
    while True:
        message = await receive()
        raw += message.get("body", b"")
        if len(raw) > most:
            raise too_large
        if not message.get("more_body"):
            return bytes(raw)


def _named(raw: bytes, message: str) -> str:
    """The codec's message with the offending value in front, found by the path that ends the message."""
    what, _, path = message.partition(" - at `$")
    if not path:
        return message
    path = path.rstrip("`")
    try:
        # The lenient codec: it has a value even for a number out of range.
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return message
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        value = value[name] if name else value[int(index)]
    return f"{path.lstrip('.')} is {value!r:.100}: {what}"

"""What goes into the store: JSON values in a versioned envelope, never code.

A stored entry is the format mark, a state, two stamps (when it was written, when its compute began: microseconds on the
store's clock in 16 digits, which compare as text), and a MessagePack envelope. The store's scripts write what comes
before the envelope, so that ages between processes are measured on one clock.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import msgspec

from smartcache.errors import UncacheableValueError

__all__ = ["MARK", "Envelope", "Stored", "UnreadableEntryError", "check_json", "decode_entry", "encode_entry"]

#: Format mark of stored entries; a new format gets a new one, and old entries become misses.
MARK: Final = b"SC2"
#: States: as written, or expired by hand (served only when a compute fails).
LIVE: Final = b"L"
EXPIRED: Final = b"E"
_STATES: Final = {MARK + LIVE: LIVE, MARK + EXPIRED: EXPIRED}
_STAMP: Final = 16
_STAMPS: Final = len(MARK) + 1
_HEAD: Final = len(MARK) + 1 + 2 * _STAMP


class UnreadableEntryError(Exception):
    """An entry in the store that is corrupt, foreign, or of another version."""


class Envelope(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A value and what its lifetime is judged by.

    Attributes:
        value: the value.
        compute_seconds: how long its compute took.
        match_id: match it belongs to, if any.
        market: market it belongs to, if any.
        kickoff: epoch seconds, if known.
        lineup_confirmed: whether the line-up was confirmed.
        ttl: limit in seconds set by the caller.
        stale_for: stale window in seconds set by the caller.
        stale_if_error_for: error window in seconds set by the caller.
        shorten: factor in (0, 1] on zone lifetimes; jitter.
        versions: version names and numbers the compute began with.
        tags: the caller's own tags.
    """

    value: Any
    compute_seconds: float
    match_id: str | None
    market: str | None
    kickoff: float | None
    lineup_confirmed: bool
    ttl: float | None
    stale_for: float | None
    stale_if_error_for: float | None
    shorten: float
    versions: dict[str, str]
    tags: tuple[str, ...]


class Stored(NamedTuple):
    """A decoded entry.

    Attributes:
        envelope: what was stored.
        written: stamp of its writing.
        expired: whether it was expired by hand.
        size: encoded bytes.
    """

    envelope: Envelope
    written: str
    expired: bool
    size: int


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Envelope)


def encode_entry(envelope: Envelope) -> bytes:
    """The part of an entry that this process writes; the store's script puts mark, state and time before it.

    Raises:
        UncacheableValueError: a number or text that the format cannot carry.
    """
    try:
        return _encoder.encode(envelope)
    except (OverflowError, UnicodeEncodeError) as error:
        raise UncacheableValueError(f"the computed value cannot be stored: {error}") from error


def decode_entry(data: bytes) -> Stored:
    """Read an entry.

    Raises:
        UnreadableEntryError: it is none of ours, or damaged.
    """
    state, stamps = _STATES.get(data[:_STAMPS]), data[_STAMPS:_HEAD]
    if state is None or len(stamps) != 2 * _STAMP or not stamps.isdigit():
        expected = "" if data.startswith(MARK) else f", not with {MARK!r}"
        raise UnreadableEntryError(f"it starts with {data[:_HEAD]!r}{expected}")
    try:
        envelope = _decoder.decode(data[_HEAD:])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnreadableEntryError(str(error)) from error
    return Stored(envelope, stamps[:_STAMP].decode(), state == EXPIRED, len(data))


def check_json(value: Any) -> None:
    """Make sure that ``value`` comes back from JSON the same by value and type.

    Raises:
        UncacheableValueError: it names the part that does not, and what to use instead.
    """
    try:
        _check(value, "value")
    except RecursionError:
        raise UncacheableValueError("the value is nested too deeply, or contains itself") from None


def _check(value: Any, path: str) -> None:
    kind = type(value)
    if value is None or kind is str or kind is bool:
        return
    if kind is int:
        if not -(2**63) <= value < 2**64:
            raise UncacheableValueError(f"{path} is an integer beyond 64 bits ({value}): make it a string")
    elif kind is float:
        if not math.isfinite(value):
            raise UncacheableValueError(f"{path} is {value}, which JSON has no number for: use None or a string")
    elif kind is list:
        for position, item in enumerate(value):
            _check(item, f"{path}[{position}]")
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise UncacheableValueError(f"{path} has the key {key!r} of type {type(key).__name__}: make it a str")
            _check(item, f"{path}[{key!r}]")
    else:
        hint = {"tuple": "a list", "set": "a list", "datetime": "an ISO 8601 string", "bytes": "a base64 string"}
        raise UncacheableValueError(
            f"{path} is a {kind.__name__}, which JSON cannot carry: "
            f"return {hint.get(kind.__name__, 'None, bool, int, float, str, list or dict')} instead"
        )

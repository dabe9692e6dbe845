"""Keys: readable, versioned, and with the match in braces so that all keys of a match share one cluster slot."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

__all__ = ["KeyFactory", "check_key", "escape", "key_factory", "match_id_of"]

LONGEST_KEY: Final = 1024
# What would break a key apart or hide in a log: separators, braces, the escape sign, white space, control characters.
_UNSAFE: Final = re.compile(r"[:{}%\s\x00-\x1f\x7f]")


def escape(part: object) -> str:
    """``part`` as text that can stand between separators; percent signs and two hex digits for what cannot.

    Raises:
        ValueError: empty.
    """
    return _escaped(str(part))


# The same few parts come with every request.
@lru_cache(maxsize=4096)
def _escaped(text: str) -> str:
    if not text:
        raise ValueError("a part of a key is empty: every part must name something")
    return _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found.group().encode()), text)


def check_key(key: str) -> str:
    """Return ``key`` if it can be one.

    Raises:
        TypeError: not text.
        ValueError: empty, longer than 1,024 characters, or holding control characters.
    """
    if type(key) is not str:
        raise TypeError(f"cache_key must be a str, got {key!r}")
    if not 0 < len(key) <= LONGEST_KEY:
        raise ValueError(f"cache_key must have 1 to {LONGEST_KEY} characters, got {len(key)}: {key[:60]!r}")
    if not key.isprintable():
        raise ValueError(f"cache_key must be printable text, got {key[:60]!r}; key_factory escapes its parts")
    return key


def match_id_of(match_key: str | int) -> str:
    """The match id in ``match:12345``; a bare id stands for itself.

    Raises:
        TypeError: neither text nor a number.
        ValueError: nothing after the prefix, or text that cannot be an id.
    """
    if isinstance(match_key, bool) or not isinstance(match_key, str | int):
        raise TypeError(f"match_key must be text such as 'match:12345', got {match_key!r}")
    match_id = str(match_key).removeprefix("match:")
    if not match_id or not match_id.isprintable():
        raise ValueError(f"match_key {match_key!r} names no match: write it as 'match:12345'")
    return match_id


@lru_cache(maxsize=64)
def _head(*parts: str) -> str:
    return ":".join(map(escape, parts))


@dataclass(frozen=True, slots=True)
class KeyFactory:
    """Makes keys of the form ``app:environment:version:namespace:{m_match}:variant``.

    Attributes:
        app: the application, first part of every key.
        environment: such as ``prod``.
        version: change it to retire every key at once.
    """

    app: str = "bets"
    environment: str = "prod"
    version: str = "v1"

    def key(self, namespace: str, match_id: str | int, *variant: str | int) -> str:
        """A key in ``namespace`` for a match; ``variant`` parts follow in order."""
        key = f"{_head(self.app, self.environment, self.version, namespace)}:{{m_{escape(match_id)}}}"
        for part in variant:
            key = f"{key}:{escape(part)}"
        return key

    def prediction(self, match_id: str | int, market: str) -> str:
        """The key of a match's prediction for one market."""
        return self.key("pred", match_id, market)

    def market_key(self, match_id: str | int, market: str, selection: str, line: str | float = "") -> str:
        """The key of one price: match, market, selection and line, as volatility windows are keyed."""
        line_part = escape(line) if line != "" else ""
        return ":".join([escape(match_id), escape(market), escape(selection), line_part])


key_factory: Final = KeyFactory()

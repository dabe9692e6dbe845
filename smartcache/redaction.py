"""Secrets out of texts that people read: passwords in URLs, authorization headers, tokens."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["REDACTED", "is_secret", "redact", "shown"]

REDACTED: Final = "***"

_SECRET_WORDS: Final = "passw(?:or)?d|passphrase|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credentials?"
#: Up to the last @ of the word: a password that was not percent-encoded may hold quotes and any of : / ? # @.
_USER_INFO: Final = re.compile(r"(?<=://)\S*@")
_AUTHORIZATION: Final = re.compile(
    r"(?P<name>\b(?:proxy-)?authorization\b['\"]?\s*[:=]\s*['\"]?)(?:(?P<scheme>basic|bearer|digest|token)\s+)?[^\s,;'\"]+",
    re.IGNORECASE,
)
_BEARER: Final = re.compile(r"\b(?P<scheme>bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_NAMED: Final = re.compile(
    rf"(?P<name>[\w.-]*(?:{_SECRET_WORDS})[\w.-]*['\"]?\s*[:=]\s*)"
    r"(?:(?P<quote>['\"])(?:\\.|(?!(?P=quote)).)*(?P=quote)|[^\s'\"&,;}\])]+)",
    re.IGNORECASE,
)
_SECRET_NAME: Final = re.compile(rf"{_SECRET_WORDS}|authorization|cookie", re.IGNORECASE)


def redact(text: str) -> str:
    """``text`` with ``***`` in the place of every secret that can be told by its form.

    What stands around a secret stays: the scheme and host of a URL, the name of a header or parameter.
    """
    text = _USER_INFO.sub(_without_password, text)
    text = _AUTHORIZATION.sub(lambda found: f"{found['name']}{REDACTED}", text)
    text = _BEARER.sub(lambda found: f"{found['scheme']} {REDACTED}", text)
    return _NAMED.sub(lambda found: f"{found['name']}{found['quote'] or ''}{REDACTED}{found['quote'] or ''}", text)


def is_secret(name: str) -> bool:
    """Whether what goes by that name is shown to nobody."""
    return _SECRET_NAME.search(name) is not None


def shown(name: str, value: object) -> str:
    """The value of a setting as an error may show it."""
    if is_secret(name):
        return REDACTED
    return repr(redact(value) if isinstance(value, str) else value)


def _without_password(found: re.Match[str]) -> str:
    user, colon, _ = found[0].partition(":")
    return f"{user}:{REDACTED}@" if colon else f"{REDACTED}@"

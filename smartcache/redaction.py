"""Secrets out of texts that people read: passwords in URLs, authorization headers, tokens.

Texts may be long and come from strangers, so every pattern reads each of them a bounded number of times.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["REDACTED", "is_secret", "redact", "redact_url", "shown"]

REDACTED: Final = "***"

_SECRET_WORDS: Final = (
    "passw(?:or)?d|passphrase|pwd|secret|token|(?:api|access|account|private)[-_ ]?key|credentials?|signature|"
    "session[-_]?id|jwt"
)
_WORD: Final = re.compile(r"\S+")
#: What stands between scheme and host, as it is, escaped in JSON, or percent-encoded in a query.
_SLASHES: Final = re.compile(r"://|:\\/\\/|%3A%2F%2F", re.IGNORECASE)
_AT: Final = re.compile("@|%40")
_COLON: Final = re.compile(":|%3A", re.IGNORECASE)
#: From a name to its value: = or :, or a comma where name and value are a pair. Quotes may be escaped.
_TO_VALUE: Final = r"(?:\\{0,3}['\"])?\s{0,3}(?:[:=]|%3[AD])\s{0,3}|\\{0,3}['\"]\s{0,3},\s{0,3}"
#: A quoted or bracketed value. One that is not closed goes on to the end.
_QUOTED: Final = (
    r"b?(?P<escaped>\\{1,3}['\"])(?:(?!(?P=escaped))[\s\S])*(?:(?P=escaped))?"
    r"|b?(?P<quote>['\"])(?:\\[\s\S]|(?!(?P=quote))[^\\])*\\?(?:(?P=quote))?"
    r"|[\[({][^\])}]*[\])}]?"
)
#: Header values may hold several words; the line ends them, or the quote in which the whole header stands.
_HEADER: Final = re.compile(
    rf"(?P<name>(?:authorization|cookie)(?:{_TO_VALUE}))(?:{_QUOTED}|(?:=\"[^\"\r\n]*\"|[^\s&'\"]|[ \t])+)",
    re.IGNORECASE,
)
_BEARER: Final = re.compile(r"\b(?P<scheme>bearer|basic)(?:\s{1,3}|%20)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_NAMED: Final = re.compile(
    rf"(?P<name>(?:{_SECRET_WORDS}|\bsig(?=[=:%]))[\w.-]{{0,40}}(?:{_TO_VALUE}))"
    rf"(?:{_QUOTED}|(?:[^\s'\"&,;}}\])]|,(?=\S))+)",
    re.IGNORECASE,
)
_PEM: Final = re.compile(r"(?P<name>-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----)[^-]*")
_SECRET_NAME: Final = re.compile(rf"{_SECRET_WORDS}|authorization|cookie", re.IGNORECASE)


def redact(text: str) -> str:
    """``text`` with ``***`` in the place of every secret that can be told by its form.

    What stands around a secret stays: the scheme and host of a URL, the name of a header or parameter.
    """
    if _AT.search(text) is not None:
        text = _WORD.sub(_without_password, text)
    text = _HEADER.sub(_without_value, text)
    text = _BEARER.sub(lambda found: f"{found['scheme']} {REDACTED}", text)
    text = _PEM.sub(lambda found: f"{found['name']}{REDACTED}", text)
    return _NAMED.sub(_without_value, text)


def redact_url(url: str) -> str:
    """:func:`redact` of what is one URL and nothing else, however it is mistaken: all before its last @ is a secret."""
    return redact(_without_user(url))


def is_secret(name: str) -> bool:
    """Whether what goes by that name is shown to nobody."""
    return _SECRET_NAME.search(name) is not None


def shown(name: str, value: object) -> str:
    """The value of a setting as an error may show it."""
    if is_secret(name):
        return REDACTED
    if not isinstance(value, str):
        return repr(value)
    return repr(redact_url(value) if name.lower().endswith(("url", "endpoint")) else redact(value))


def _without_password(found: re.Match[str]) -> str:
    word = found[0]
    return _without_user(word) if _SLASHES.search(word) is not None else word


def _without_user(url: str) -> str:
    """A URL without the user's password, up to the last @: one that was not encoded may hold any character."""
    ends = [at.start() for at in _AT.finditer(url)]
    scheme = _SLASHES.search(url)
    begin = 0 if scheme is None else scheme.end()
    if not ends or ends[-1] < begin:
        return url
    colon = _COLON.search(url, begin, ends[-1]) if scheme is not None else None
    user = "" if colon is None else url[begin : colon.end()]
    return f"{url[:begin]}{user}{REDACTED}{url[ends[-1] :]}"


def _without_value(found: re.Match[str]) -> str:
    quote = found["escaped"] or found["quote"] or ""
    return f"{found['name']}{quote}{REDACTED}{quote}"

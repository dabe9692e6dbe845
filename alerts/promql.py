"""The series that a PromQL expression reads.

promtool judges syntax; this finds the selectors in an expression that promtool accepts, which it does not list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["Selector", "operators", "seconds", "selectors"]

_TOKEN: Final = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
      | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`)
      | (?P<duration>(?:\d+(?:ms|[smhdwy]))+)
      | (?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)
      | (?P<name>[a-zA-Z_][a-zA-Z0-9_:]*)
      | (?P<operator>=~|!~|!=|==|<=|>=|[-+*/%^(){}\[\],<>=:@])""",
    re.VERBOSE,
)
_AGGREGATIONS: Final = frozenset(
    ("sum", "min", "max", "avg", "group", "stddev", "stdvar", "count", "count_values", "bottomk", "topk", "quantile")
)  # fmt: skip
_LABEL_LISTS: Final = frozenset(("by", "without", "on", "ignoring", "group_left", "group_right"))
_WORDS: Final = frozenset(("and", "or", "unless", "atan2", "bool", "offset", "inf", "nan", "start", "end"))
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}


@dataclass(frozen=True, slots=True)
class Selector:
    """A vector selector.

    Attributes:
        metric: name of the series.
        matchers: label, operator and value of each matcher.
        range: length of its range in seconds; None for an instant vector.
        function: the function or aggregation it is the sole or first argument of, if any.
    """

    metric: str
    matchers: tuple[tuple[str, str, str], ...]
    range: float | None
    function: str | None


def seconds(duration: str) -> float:
    """The length of a Prometheus duration such as ``1h30m``; ValueError when it is none."""
    if not re.fullmatch(r"(?:\d+(?:ms|[smhdwy]))+", duration):
        raise ValueError(f"{duration!r} is not a Prometheus duration such as 30s or 1h30m")
    return sum(int(count) * _UNIT_SECONDS[unit] for count, unit in re.findall(r"(\d+)(ms|[smhdwy])", duration))


def operators(expr: str) -> frozenset[str]:
    """The operators of an expression, those inside braces left out."""
    found, depth = set(), 0
    for kind, text in _tokens(expr):
        depth += (text == "{") - (text == "}")
        if depth == 0 and kind == "operator" and text != "}":
            found.add(text)
    return frozenset(found)


def selectors(expr: str) -> list[Selector]:
    """Every vector selector in an expression, in the order they stand; ValueError on what is not PromQL."""
    tokens = _tokens(expr)
    found: list[Selector] = []
    place = 0
    while place < len(tokens):
        kind, text = tokens[place]
        following = tokens[place + 1][1] if place + 1 < len(tokens) else ""
        if kind == "name" and text in _LABEL_LISTS and following == "(":
            place = _index(tokens, ")", place)
        elif kind == "name" and following != "(" and text.lower() not in _AGGREGATIONS | _LABEL_LISTS | _WORDS:
            start = place
            matchers: tuple[tuple[str, str, str], ...] = ()
            if following == "{":
                end = _index(tokens, "}", place)
                matchers = tuple(_matchers(tokens[place + 2 : end]))
                place = end
            range_ = None
            if place + 1 < len(tokens) and tokens[place + 1][1] == "[":
                range_ = seconds(tokens[place + 2][1])
                place = _index(tokens, "]", place)
            found.append(Selector(text, matchers, range_, _function(tokens, start)))
        place += 1
    return found


def _tokens(expr: str) -> list[tuple[str, str]]:
    tokens, place = [], 0
    while place < len(expr):
        match = _TOKEN.match(expr, place)
        if match is None:
            raise ValueError(f"not PromQL at {expr[place : place + 20]!r} in {expr!r}")
        if match.lastgroup != "skip":
            tokens.append((str(match.lastgroup), match.group()))
        place = match.end()
    return tokens


def _index(tokens: list[tuple[str, str]], text: str, start: int) -> int:
    return next(place for place in range(start, len(tokens)) if tokens[place][1] == text)


def _matchers(tokens: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    for place in range(0, len(tokens), 4):  # label, operator, value, comma
        (_, label), (_, operator), (_, value) = tokens[place : place + 3]
        yield label, operator, value[1:-1]


def _function(tokens: list[tuple[str, str]], start: int) -> str | None:
    if start < 2 or tokens[start - 1][1] != "(" or tokens[start - 2][0] != "name":
        return None
    return tokens[start - 2][1]

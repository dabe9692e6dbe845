"""A request: what the caller said, checked, and how it goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, TypedDict, cast

from smartcache import protocol
from smartcache.golden_hour import Zone, kickoff_epoch
from smartcache.keys import check_key

__all__ = [
    "Limits", "MatchContext", "Request", "check_flags", "check_many", "check_odds", "check_seconds", "check_tags",
]  # fmt: skip


class MatchContext(TypedDict, total=False):
    """What a caller knows about the match; everything is optional.

    ``kickoff_time`` is an aware datetime; ``current_odds`` maps market keys to decimal odds above 1.
    """

    match_id: str | int | None
    market: str | None
    kickoff_time: datetime | None
    lineup_confirmed: bool | None
    current_odds: Mapping[str, float] | None
    competition: str | None


class Limits(TypedDict, total=False):
    """What a caller may set on a value and on waiting for it; seconds or timedeltas, and None leaves it to the
    settings.

    ``ttl`` limits the age of a fresh value; other limits may be shorter. ``stale_for`` is how long after expiry it is
    served while it is refreshed. ``stale_if_error_for`` is the age up to which it is served when a compute fails.
    ``soft_timeout`` is when a held value is served instead of waiting, ``hard_timeout`` when the call fails.
    """

    ttl: float | timedelta | None
    stale_for: float | timedelta | None
    stale_if_error_for: float | timedelta | None
    soft_timeout: float | timedelta | None
    hard_timeout: float | timedelta | None


#: The least that each limit may be, in seconds.
_LEAST: Final = {
    "ttl": 0.001, "stale_for": 0.0, "stale_if_error_for": 0.0, "soft_timeout": 0.0, "hard_timeout": 0.001,
}  # fmt: skip
_LONGEST_NAME: Final = 256
_YEAR: Final = 366 * 86_400.0
_CONTEXT_KEYS: Final = frozenset(MatchContext.__annotations__)


class Request:
    """One key asked for.

    Attributes:
        context: what the caller said about the match.
        zone: golden-hour zone, once known.
        status: volatility status (0 panic, 1 warning, 2 normal); None when it was not judged.
        outcome: what it counts as if it ended now, a position in ``layout.OUTCOMES``.
        asked: when, on the monotonic clock; None for one that nobody waits for.
        coalesced: it shares a compute that another started.
        gone: what was held when it came was deleted or retired while it waited.
        tags: the caller's own tags.
        versions: names of the versions that its key depends on.
    """

    # Most requests leave most of these as they are; what is not set costs nothing.
    context: MatchContext = {}  # noqa: RUF012 - read only
    match_id: str | None = None
    market: str | None = None
    competition: str | None = None
    kickoff: float | None = None
    lineup_confirmed: bool | None = None
    odds: Mapping[str, float] | None = None
    ttl: float | None = None
    stale_for: float | None = None
    stale_if_error_for: float | None = None
    soft_timeout: float | None = None
    hard_timeout: float | None = None
    compute_timeout: float | None = None
    zone: Zone | None = None
    status: int | None = None
    asked: float | None = None
    coalesced: bool = False
    gone: bool = False
    tags: tuple[str, ...] = ()
    versions: tuple[str, ...] = (protocol.ALL,)

    def __init__(self, key: str, compute: Callable[[], Awaitable[Any]], outcome: int) -> None:
        self.key = check_key(key)
        if not callable(compute):
            raise TypeError(f"compute_fn for {key!r} must be a function that returns an awaitable, got {compute!r}")
        self.compute = compute
        self.outcome = outcome

    def read(self, context: MatchContext) -> None:
        """Take in a match context.

        Raises:
            TypeError, ValueError: an unknown key, a time that names no instant, odds that are none.
        """
        if not isinstance(context, Mapping):
            raise TypeError(f"match_context must be a dict, got {context!r}")
        if not context.keys() <= _CONTEXT_KEYS:
            wrong = next(name for name in context if name not in _CONTEXT_KEYS)
            raise ValueError(f"match_context has no {wrong!r}; it may have {', '.join(MatchContext.__annotations__)}")
        self.context = context
        get = context.get
        if (match_id := get("match_id")) is not None:
            self.match_id = str(match_id) if type(match_id) is int else _name("match_id", match_id)
        if (market := get("market")) is not None:
            self.market = _name("market", market)
        if (competition := get("competition")) is not None:
            self.competition = _name("competition", competition)
        if (lineup := get("lineup_confirmed")) is not None:
            if lineup not in (True, False):
                raise TypeError(f"lineup_confirmed must be True or False, got {lineup!r}")
            self.lineup_confirmed = lineup
        if (kickoff := get("kickoff_time")) is not None:
            self.kickoff = kickoff_epoch(cast(datetime, kickoff))
        if odds := get("current_odds"):
            if not isinstance(odds, Mapping):
                raise TypeError(f"current_odds must map market keys to decimal odds, got {odds!r}")
            for market_key, price in odds.items():
                check_odds(market_key, price)
            self.odds = odds
        self.versions = protocol.dependencies(self.match_id, self.market, self.tags)

    def tag(self, tags: Iterable[str]) -> None:
        """Take in the caller's own tags.

        Raises:
            TypeError, ValueError: something that cannot be a tag.
        """
        self.tags = check_tags(tags)
        self.versions = protocol.dependencies(self.match_id, self.market, self.tags)

    def limit(self, limits: Limits) -> None:
        """Take in what the caller sets.

        Raises:
            TypeError, ValueError: an unknown limit, or one that is not a finite number of seconds.
        """
        for name, value in limits.items():
            if name not in _LEAST:
                raise TypeError(f"there is no argument {name!r}; the limits are {', '.join(_LEAST)}")
            setattr(self, name, check_seconds(name, value, _LEAST[name]))

    def for_refresh(self, compute_timeout: float) -> Request:
        """The same question, asked by the engine itself, which gives the compute that many seconds."""
        request = Request(self.key, self.compute, self.outcome)
        request.match_id = self.match_id
        request.market = self.market
        request.kickoff = self.kickoff
        request.lineup_confirmed = self.lineup_confirmed
        request.ttl = self.ttl
        request.stale_for = self.stale_for
        request.stale_if_error_for = self.stale_if_error_for
        request.tags = self.tags
        request.versions = self.versions
        request.compute_timeout = compute_timeout
        return request


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """``tags``, each once.

    Raises:
        TypeError, ValueError: not a collection of printable texts of 1 to 256 characters.
    """
    check_many("tags", tags)
    return tuple(dict.fromkeys(_name("a tag", tag) for tag in tags))


def check_many(name: str, texts: object) -> None:
    """Make sure that ``texts`` are not one text, whose characters would be taken for them.

    Raises:
        TypeError: a text, or bytes.
    """
    if isinstance(texts, str | bytes):
        one = texts if isinstance(texts, str) else texts.decode(errors="replace")
        raise TypeError(f"{name} must be a collection of texts, got {texts!r}: write ({one!r},)")


def check_flags(force_refresh: object, copy: object) -> None:
    """Make sure that both are True or False: in Python ``"no"`` is true.

    Raises:
        TypeError: something else.
    """
    for name, flag in (("force_refresh", force_refresh), ("copy", copy)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, got {flag!r}")


def check_odds(market_key: str, odds: float) -> None:
    """Make sure that ``odds`` are decimal odds.

    Raises:
        ValueError: not a finite number above 1, or a market key that is empty.
    """
    if type(odds) is float and 1.0 < odds < 1e9 and type(market_key) is str and market_key.isprintable() and market_key:
        return  # as nearly always
    if not is_odds(odds):
        raise ValueError(f"odds of {market_key!r} must be decimal odds above 1 and finite, got {odds!r}")
    if not isinstance(market_key, str) or not market_key or not market_key.isprintable():
        raise ValueError(f"a market key is printable text as 'match:market:selection:line', got {market_key!r}")


def is_odds(odds: object) -> bool:
    """Whether ``odds`` can be decimal odds: a number above 1 and below a thousand million."""
    return isinstance(odds, int | float) and not isinstance(odds, bool) and 1 < odds < 1e9


def _name(what: str, value: object) -> str:
    if type(value) is str and 0 < len(value) <= _LONGEST_NAME and value.isprintable():
        return value  # as nearly always
    if not isinstance(value, str):
        raise TypeError(f"{what} must be text, got {value!r}")
    if not 0 < len(value) <= _LONGEST_NAME or not value.isprintable():
        raise ValueError(f"{what} must be 1 to {_LONGEST_NAME} printable characters, got {value[:60]!r}")
    return value


def check_seconds(name: str, value: object, least: float) -> float | None:
    """``value``, a number or a timedelta, as seconds.

    Raises:
        ValueError: not a number of at least ``least`` and at most a year.
    """
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= _YEAR:
        raise ValueError(f"{name} is {value!r}, but must be seconds, at least {least:g} and at most {_YEAR:g} (a year)")
    return float(value)

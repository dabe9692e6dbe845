"""An entry: a held value, and what its lifetime is judged by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from smartcache.codec import Envelope, Stored
from smartcache.freshness import Lifetime, lifetime
from smartcache.request import Request

if TYPE_CHECKING:
    from smartcache.eviction import Queue
    from smartcache.standing import Standing

__all__ = ["Entry", "judge"]


class Entry:
    """A held value.

    ``born`` is the instant at which its compute ended, on this process's monotonic clock; ``written`` is the stamp of
    its writing, on the store's; empty when it is not there. ``judgement`` holds the last one with its conditions, so
    that asking again under the same conditions costs a comparison; ``standing`` spares asking at all. ``visited``,
    ``rounds``, ``queue``, ``newer`` and ``older`` belong to the memory tier's eviction.
    """

    __slots__ = (
        "born",
        "compute_seconds",
        "expired",
        "judgement",
        "key",
        "kickoff",
        "lineup_confirmed",
        "market",
        "match_id",
        "newer",
        "older",
        "queue",
        "rounds",
        "shorten",
        "size",
        "stale_for",
        "stale_if_error_for",
        "standing",
        "tags",
        "ttl",
        "value",
        "versions",
        "visited",
        "written",
    )

    def __init__(
        self,
        key: str,
        value: Any,
        *,
        born: float,
        compute_seconds: float = 0.0,
        kickoff: float | None = None,
        lineup_confirmed: bool = False,
        match_id: str | None = None,
        market: str | None = None,
        ttl: float | None = None,
        stale_for: float | None = None,
        stale_if_error_for: float | None = None,
        shorten: float = 1.0,
        tags: tuple[str, ...] = (),
        versions: Mapping[str, str] | None = None,
        written: str = "",
        expired: bool = False,
        size: int = 0,
    ) -> None:
        self.key = key
        self.value = value
        self.born = born
        self.compute_seconds = compute_seconds
        self.kickoff = kickoff
        self.lineup_confirmed = lineup_confirmed
        self.match_id = match_id
        self.market = market
        self.ttl = ttl
        self.stale_for = stale_for
        self.stale_if_error_for = stale_if_error_for
        self.shorten = shorten
        self.tags = tags
        self.versions: Mapping[str, str] = versions or {}
        self.written = written
        self.expired = expired
        self.size = size
        self.judgement: tuple[tuple[Any, ...], Lifetime] | None = None
        self.standing: Standing | None = None
        self.visited = False
        self.rounds = 0
        self.queue: Queue | None = None
        self.newer: Entry | None = None
        self.older: Entry | None = None

    @classmethod
    def from_stored(cls, key: str, stored: Stored, born: float) -> Entry:
        """The entry that the store held."""
        kept = stored.envelope
        self = cls.__new__(cls)  # set one by one: half the cost of a call with twenty arguments
        self.key = key
        self.value = kept.value
        self.born = born
        self.compute_seconds = kept.compute_seconds
        self.kickoff = kept.kickoff
        self.lineup_confirmed = kept.lineup_confirmed
        self.match_id = kept.match_id
        self.market = kept.market
        self.ttl = kept.ttl
        self.stale_for = kept.stale_for
        self.stale_if_error_for = kept.stale_if_error_for
        self.shorten = kept.shorten
        self.tags = kept.tags
        self.versions = kept.versions
        self.written = stored.written
        self.expired = stored.expired
        self.size = stored.size
        self.judgement = self.standing = None
        self.visited = False
        self.rounds = 0
        self.queue = self.newer = self.older = None
        return self

    def is_within(self, ttl: float | None, stale_for: float | None) -> bool:
        """Whether a caller's limits change nothing about its lifetime, since it was stored with such limits itself."""
        return (ttl is None or (self.ttl is not None and self.ttl <= ttl)) and stale_for in (None, self.stale_for)

    def envelope(self) -> Envelope:
        """What the store is given."""
        return Envelope(
            value=self.value,
            compute_seconds=self.compute_seconds,
            match_id=self.match_id,
            market=self.market,
            kickoff=self.kickoff,
            lineup_confirmed=self.lineup_confirmed,
            ttl=self.ttl,
            stale_for=self.stale_for,
            stale_if_error_for=self.stale_if_error_for,
            shorten=self.shorten,
            versions=dict(self.versions),
            tags=self.tags,
        )


def judge(entry: Entry, request: Request, cap: float, default_ttl: float, now: float, wall: float) -> Lifetime:
    """The entry's lifetime under what this request knows; what it does not know is taken from the entry.

    Args:
        entry: the entry.
        request: who asks.
        cap: the volatility table's cell, in seconds.
        default_ttl: TTL in seconds where there is no kickoff and no TTL of a caller.
        now: the monotonic clock.
        wall: the wall clock.
    """
    kickoff = entry.kickoff if request.kickoff is None else request.kickoff
    lineup = entry.lineup_confirmed if request.lineup_confirmed is None else request.lineup_confirmed
    kickoff_age = None
    if kickoff is not None:
        # On the entry's own age axis kickoff stands still, unless the wall clock or the fixture moves. Whole
        # milliseconds, rounded towards "too old", keep rounding errors from asking for a new judgement each time.
        kickoff_age = math.floor((kickoff - wall + now - entry.born) * 1000) / 1000
    conditions = (kickoff_age, lineup, cap, request.ttl, request.stale_for)
    if entry.judgement is None or entry.judgement[0] != conditions:
        limit = cap
        unlimited = True
        for set_by_caller in (entry.ttl, request.ttl):
            if set_by_caller is not None:
                unlimited = False
                if set_by_caller < limit:
                    limit = set_by_caller
        life = lifetime(
            kickoff_age,
            bool(lineup),
            limit,
            default_ttl if unlimited else math.inf,
            entry.shorten,
            entry.stale_for if request.stale_for is None else request.stale_for,
        )
        entry.judgement = (conditions, life)
    return entry.judgement[1]

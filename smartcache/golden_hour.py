"""Golden hour: how long a prediction lives, by the time left to kickoff."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypedDict

__all__ = ["MATCH_STARTED", "ZONES", "GoldenHour", "TtlDecision", "Zone", "kickoff_epoch", "zone_at"]

_LONGEST_TTL: Final = 86_400.0
_LINEUP_BONUS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Zone:
    """A span of time before kickoff and the lifetime of predictions in it.

    Attributes:
        name: as it stands in labels and answers.
        index: position in the catalogue's zone label.
        nearest: seconds to kickoff at which the next nearer zone begins; that instant belongs to the nearer one.
        ttl: lifetime in seconds.
        confirmed_ttl: lifetime in seconds once the line-up is confirmed.
    """

    name: str
    index: int
    nearest: float
    ttl: float
    confirmed_ttl: float

    def lifetime(self, lineup_confirmed: bool) -> float:
        """Lifetime in seconds."""
        return self.confirmed_ttl if lineup_confirmed else self.ttl


def _zone(name: str, index: int, nearest: float, ttl: float, bonus: bool) -> Zone:
    return Zone(name, index, nearest, ttl, min(ttl * _LINEUP_BONUS, _LONGEST_TTL) if bonus else ttl)


#: Farthest from kickoff first. The order of ``index`` is that of ``catalogue.ZONES``.
ZONES: Final = (
    _zone("standard", 4, 24 * 3600.0, 21_600.0, True),
    _zone("prematch", 3, 6 * 3600.0, 3_600.0, True),
    _zone("active", 2, 3600.0, 900.0, True),
    _zone("golden", 1, 15 * 60.0, 60.0, False),
    _zone("warmup", 0, 0.0, 30.0, False),
)
MATCH_STARTED: Final = _zone("match_started", 5, float("-inf"), 0.0, False)


def zone_at(to_kickoff: float) -> Zone:
    """The zone that reigns ``to_kickoff`` seconds before kickoff; zero and below is a started match."""
    for zone in ZONES:
        if to_kickoff > zone.nearest:
            return zone
    return MATCH_STARTED


def kickoff_epoch(kickoff: datetime) -> float:
    """The instant of an aware ``kickoff`` in epoch seconds.

    Raises:
        TypeError: not a datetime.
        ValueError: a naive datetime, which names no instant.
    """
    if not isinstance(kickoff, datetime):
        raise TypeError(f"kickoff_time must be an aware datetime, got {kickoff!r}")
    if kickoff.tzinfo is UTC:  # as nearly always
        return kickoff.timestamp()
    if kickoff.utcoffset() is None:
        raise ValueError(
            f"kickoff_time {kickoff!r} is naive: give it a time zone, such as kickoff.replace(tzinfo=timezone.utc)"
        )
    return kickoff.timestamp()


class TtlDecision(TypedDict):
    """What :meth:`GoldenHour.calculate_ttl` answers; ``ttl`` in seconds."""

    ttl: int
    zone: str
    hours_to_kickoff: float
    minutes_to_kickoff: float
    reasoning: str
    lineup_bonus_applied: bool


class GoldenHour:
    """The lifetime table, as an object that knows what time it is."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def calculate_ttl(
        self, kickoff_time: datetime, current_time: datetime | None = None, lineup_confirmed: bool = False
    ) -> TtlDecision:
        """Lifetime of a prediction made at ``current_time`` (now by default) for a match at ``kickoff_time``.

        Raises:
            TypeError, ValueError: a time that is not an aware datetime.
        """
        kickoff = kickoff_epoch(kickoff_time)
        now = self._now() if current_time is None else kickoff_epoch(current_time)
        left = kickoff - now
        zone = zone_at(left)
        ttl = int(zone.lifetime(lineup_confirmed))
        bonus = ttl > zone.ttl
        if zone is MATCH_STARTED:
            reasoning = f"kickoff was at {datetime.fromtimestamp(kickoff, UTC):%Y-%m-%d %H:%M} UTC: never cached"
        else:
            reasoning = f"{left / 60:.1f} min to kickoff: {zone.name}, {ttl} s"
            reasoning += ", doubled for the confirmed line-up" if bonus else ""
        return TtlDecision(
            ttl=ttl,
            zone=zone.name,
            hours_to_kickoff=left / 3600,
            minutes_to_kickoff=left / 60,
            reasoning=reasoning,
            lineup_bonus_applied=bonus,
        )

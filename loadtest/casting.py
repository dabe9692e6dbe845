"""Which matches play which part in the evening, by how far their kickoffs are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from loadtest.popularity import Match
from smartcache.golden_hour import MATCH_STARTED, ZONES, zone_at

#: The zones before kickoff, nearest first.
PREMATCH: Final = tuple(zone.name for zone in reversed(ZONES))
#: Zones in which a value ages, and grows too old, within an evening.
_FAST: Final = tuple(zone for zone in reversed(ZONES) if zone.ttl <= 60)
_HOUR: Final = 3600.0
#: Zones whose prices change seldom enough to be steered by posted ticks.
_STEERED: Final = ("prematch", "active")
#: The stale window is one lifetime; a little more, and a value is too old.
_LIFETIMES: Final = 3


@dataclass(frozen=True, slots=True)
class Cast:
    """The matches of the evening; an empty or absent part cannot be played now.

    Attributes:
        by_zone: a match of each zone that has one, started ones included.
        ageing: matches whose values age within the evening and whose zone lasts for it.
        ttl: seconds a value of those lives; 0 without any.
        steaming: the match whose odds move.
        eventful: the match that things happen to; no other part is played on it.
    """

    by_zone: dict[str, Match]
    ageing: tuple[Match, ...]
    ttl: float
    steaming: Match | None
    eventful: Match | None


def cast(matches: Sequence[Match], now: datetime) -> Cast:
    """Give out the parts at ``now``, the service's own moment."""
    left = {match: (match.kickoff - now).total_seconds() for match in matches}
    soonest = sorted(matches, key=left.__getitem__)
    of_zone: dict[str, list[Match]] = {}
    for match in soonest:
        of_zone.setdefault(zone_at(left[match]).name, []).append(match)
    # Of the started matches the last to have kicked off: most surely still listed.
    by_zone = {name: of[-1 if name == MATCH_STARTED.name else 0] for name, of in of_zone.items()}

    ageing: list[Match] = []
    ttl = 0.0
    for zone in _FAST:
        lasting = [m for m in of_zone.get(zone.name, ()) if left[m] - zone.nearest > _LIFETIMES * zone.ttl]
        if lasting and not ageing:
            ageing, ttl = lasting[-2:], zone.ttl
    steaming = next((by_zone[name] for name in _STEERED if name in by_zone), None)
    eventful = next((m for m in soonest if left[m] > _HOUR and m != steaming), None)
    return Cast(by_zone, tuple(ageing), ttl, steaming, eventful)

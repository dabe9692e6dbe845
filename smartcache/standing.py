"""A standing judgement: asked the same again within its bounds, a held value is fresh without being judged anew.

Thousands of requests a second ask for the same key under the same conditions. Zone limits only fall as kickoff nears,
so a value that is fresh stays so until its age reaches the limit of the present zone or the zone ends, whichever comes
first. Until then, and out of X-Fetch's reach, a request needs to be compared only with what was asked before.
"""

from __future__ import annotations

import math
from typing import Any, Final

from smartcache.entry import Entry
from smartcache.freshness import Lifetime
from smartcache.request import Request

__all__ = ["Standing"]


class Standing:
    """What was asked, what the answer was, and how long it stands.

    Attributes:
        from_wall: first instant of the wall clock at which it stands; a clock that is set back ends it.
        until_wall: instant of the wall clock at which it ends, short of the next zone by X-Fetch's reach.
        until: instant of the monotonic clock at which it ends, short of expiry by the same.
        life: the lifetime that was judged.
        windows: market keys that are judged when the request names no odds.
        windows_known: ``Volatility.version`` at which ``windows`` was read.
        cells: joint cells in which such a request is counted, by volatility status not judged and normal.
        zone: name of the zone; None without a kickoff.
    """

    __slots__ = (
        "cells",
        "competition",
        "from_wall",
        "kickoff_time",
        "life",
        "lineup_confirmed",
        "market",
        "match_id",
        "names",
        "until",
        "until_wall",
        "windows",
        "windows_known",
        "zone",
    )

    def __init__(
        self,
        request: Request,
        entry: Entry,
        life: Lifetime,
        reach: float,
        wall: float,
        cells: tuple[int, int],
        windows: tuple[str, ...],
        windows_known: int,
    ) -> None:
        context = request.context
        self.names: Final = len(context) - ("current_odds" in context)
        self.match_id: Final = context.get("match_id")
        self.market: Final = context.get("market")
        self.kickoff_time: Final = context.get("kickoff_time")
        self.lineup_confirmed: Final = context.get("lineup_confirmed")
        self.competition: Final = context.get("competition")
        self.life: Final = life
        self.cells: Final = cells
        self.windows: Final = windows
        self.windows_known: Final = windows_known
        self.zone: Final = None if request.zone is None else request.zone.name
        self.from_wall: Final = wall
        self.until: Final = entry.born + life.expiry - reach
        self.until_wall: Final = (
            math.inf
            if request.zone is None or request.kickoff is None
            else request.kickoff - request.zone.nearest - reach
        )

    def answers(self, context: Any) -> bool:
        """Whether the same is asked, odds apart."""
        try:
            get = context.get
        except AttributeError:
            return False  # reading it says what is wrong
        return (
            len(context) - ("current_odds" in context) == self.names
            and get("match_id") == self.match_id
            and get("market") == self.market
            and ((kickoff := get("kickoff_time")) is self.kickoff_time or _same_instant(kickoff, self.kickoff_time))
            and get("lineup_confirmed") == self.lineup_confirmed
            and get("competition") == self.competition
        )


def _same_instant(one: Any, other: Any) -> bool:
    # Equal datetimes of one time zone name two instants in the hour that comes twice when clocks are set back.
    return one == other and getattr(one, "fold", None) == getattr(other, "fold", None)

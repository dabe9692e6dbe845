"""Judged at serve: how old an entry may be, worked out when it is asked for.

Everything here is a pure function of the entry's age and of what the request knows. Ages are in seconds.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from smartcache.golden_hour import ZONES

__all__ = ["Lifetime", "lifetime", "refresh_early"]

_FOREVER: Final = math.inf


class Lifetime(NamedTuple):
    """The ages at which an entry changes state.

    Attributes:
        expiry: first age at which the entry is no longer fresh.
        stale_until: first age at which it may not be served at all; between the two it is stale.
    """

    expiry: float
    stale_until: float


def lifetime(
    kickoff_age: float | None,
    lineup_confirmed: bool = False,
    cap: float = _FOREVER,
    default_ttl: float = 300.0,
    shorten: float = 1.0,
    stale_for: float | None = None,
) -> Lifetime:
    """The ages at which an entry stops being fresh and stops being servable.

    At every instant the limit is the least of the TTL of the zone then reigning and ``cap``. The limit falls at zone
    boundaries, so expiry is the first age at which the entry has outlived the limit of its instant. The stale window
    is one such limit, counted from expiry, and ends at kickoff at the latest.

    Args:
        kickoff_age: age the entry will have at kickoff; None when there is no kickoff.
        lineup_confirmed: whether the line-up is known.
        cap: least of the volatility table's cell and what the caller set.
        default_ttl: TTL where there is no kickoff.
        shorten: factor in (0, 1] on zone TTLs; jitter, which may only shorten.
        stale_for: length of the stale window where the caller sets it.
    """
    if kickoff_age is None:
        limit = min(default_ttl * shorten, cap)
        return Lifetime(limit, limit + (limit if stale_for is None else stale_for))
    zone_began = 0.0
    for zone in ZONES:
        end = kickoff_age - zone.nearest
        if end <= 0:
            continue
        limit = (zone.confirmed_ttl if lineup_confirmed else zone.ttl) * shorten
        if cap < limit:
            limit = cap
        # An entry that has outlived the limit before its zone begins expires the instant the zone does.
        expiry = limit if limit > zone_began else zone_began
        if expiry < end:
            stale_until = expiry + (limit if stale_for is None else stale_for)
            if shorten < 1.0:
                # Expiring earlier may be expiring in a farther zone, whose window is longer.
                whole = lifetime(kickoff_age, lineup_confirmed, cap, default_ttl, 1.0, stale_for)
                stale_until = min(stale_until, whole.stale_until)
            return Lifetime(expiry, stale_until if stale_until < kickoff_age else kickoff_age)
        zone_began = end
    return Lifetime(kickoff_age, kickoff_age)


def refresh_early(remaining: float, compute_seconds: float, beta: float, uniform: float) -> bool:
    """Whether X-Fetch draws a refresh before expiry: ``now - delta * beta * ln(U) >= expiry``.

    Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, PVLDB 8(8), 2015, figure 3.

    Args:
        remaining: seconds until expiry.
        compute_seconds: how long the entry took to compute, measured.
        beta: larger refreshes earlier; 0 never does.
        uniform: a draw from (0, 1].
    """
    return -compute_seconds * beta * math.log(uniform) >= remaining

"""Who is asked for: matches draw interest as their kickoff nears.

The law: a match whose kickoff is ``h`` hours away is asked for with weight ``1 / (1 + h)``. The last quarter of an
hour weighs four times a match three hours off and twenty times one on the next day, and the long tail of the coming
weeks still gets its trickle. A started match weighs nothing: pre-match predictions are over. Markets of a match are
equally likely.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import accumulate, pairwise
from typing import Final, NamedTuple
from urllib.parse import quote

from smartcache.golden_hour import MATCH_STARTED, ZONES

#: The instants, in seconds before kickoff, between which a zone reigns: (later bound, earlier bound).
_SPANS: Final = {
    MATCH_STARTED.name: (None, 0.0),
    **{near.name: (near.nearest, far.nearest) for far, near in pairwise(ZONES)},
    ZONES[0].name: (ZONES[0].nearest, None),
}


class Match(NamedTuple):
    """A fixture as the service lists it."""

    match_id: str
    kickoff: datetime
    zone: str


def read_matches(body: bytes) -> list[Match]:
    """The fixtures in an answer to ``GET /v1/matches``; ValueError says what is wrong with it."""
    try:
        listed = json.loads(body)["matches"]
        matches = [
            Match(str(match["match_id"]), datetime.fromisoformat(match["kickoff_time"]), match["zone"])
            for match in listed
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"GET /v1/matches: not a list of matches ({error!r}): {body[:80]!r}") from None
    for match in matches:
        if match.kickoff.tzinfo is None:
            raise ValueError(f"GET /v1/matches: kickoff_time {match.kickoff} of {match.match_id} has no time zone")
    return matches


def service_now(matches: Sequence[Match]) -> datetime:
    """The earliest moment at which every match can be in the zone that the service gives it.

    The service may replay a past day, and only its zones tell what time it is there.

    Raises:
        ValueError: no match whose zone bounds the moment from below.
    """
    earliest = [
        match.kickoff - timedelta(seconds=before) for match in matches if (before := _SPANS[match.zone][1]) is not None
    ]
    if not earliest:
        raise ValueError(f"none of {len(matches)} matches is within a day of its kickoff")
    return max(earliest)


def weights(matches: Sequence[Match], now: datetime) -> list[float]:
    """How often each match is asked for at ``now``, relative to one about to kick off; 0 once started."""
    hours = [(match.kickoff - now) / timedelta(hours=1) for match in matches]
    return [1 / (1 + left) if left > 0 else 0.0 for left in hours]


class Popularity:
    """Draws the path of a prediction: a match by its weight, a market evenly."""

    def __init__(self, matches: Sequence[Match], now: datetime, markets: Sequence[str], rng: random.Random) -> None:
        drawn = weights(matches, now)
        self._paths = [[prediction_path(match.match_id, market) for market in markets] for match in matches]
        self._cumulative = list(accumulate(drawn))
        self._rng = rng
        if not markets or sum(drawn) == 0:
            raise ValueError(f"nothing to ask for: {len(matches)} matches at {now}, {len(markets)} markets")

    def draw(self) -> str:
        """The path of one request."""
        rng = self._rng
        (paths,) = rng.choices(self._paths, cum_weights=self._cumulative)
        return paths[int(rng.random() * len(paths))]


def prediction_path(match_id: str, market: str) -> str:
    """Path of one prediction, percent-encoded."""
    return f"/v1/matches/{quote(match_id, safe='')}/markets/{quote(market, safe='')}"

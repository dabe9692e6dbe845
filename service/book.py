"""The price book: the odds of the coming day's matches, and which of them bear on which market."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Final

from service.clock import ReplayClock
from service.fixtures import Fixtures, Match
from service.model import Model
from service.odds import HORIZON, PricePath, Tick, match_paths

__all__ = ["RELATED", "PriceBook"]

#: The priced market whose odds tell that a market's prediction may have aged. Nothing priced bears on the others.
RELATED: Final[Mapping[str, str]] = {
    "over_under_25": "over_under_25",
    "btts": "over_under_25",
    "clean_sheet": "over_under_25",
    "match_result": "match_result",
    "double_chance": "match_result",
    "handicap": "match_result",
    "halftime_fulltime": "match_result",
    "first_goalscorer": "match_result",
    "edge_calculation": "match_result",
}


class PriceBook:
    """Drawn price paths of the matches that start within a day, and prices posted over HTTP in their place.

    A posted price holds until the path's next change. Paths are drawn when first asked for and dropped at kickoff.
    """

    def __init__(self, fixtures: Fixtures, model: Model, clock: ReplayClock) -> None:
        self._fixtures = fixtures
        self._model = model
        self._clock = clock
        self._paths: dict[str, tuple[PricePath, ...]] = {}
        self._posted: dict[str, Tick] = {}

    def post(self, market_key: str, odds: float, instant: float) -> None:
        """Take in a price seen at ``instant`` (epoch seconds)."""
        self._posted[market_key] = Tick(instant, odds)

    def market_odds(self, match: Match, market: str) -> dict[str, float]:
        """Current decimal odds, by market key, of the priced market that bears on ``market``; three at most."""
        related = RELATED.get(market)
        if related is None:
            return {}
        now = self._clock.time()
        return {
            path.market_key: tick.odds
            for path in self._paths_of(match, now)
            if path.market == related and (tick := self._current(path, now)) is not None
        }

    def selection_odds(self, match: Match) -> dict[str, float]:
        """Current decimal odds of all priced selections, by ``market:selection``."""
        now = self._clock.time()
        return {
            path.selection: tick.odds
            for path in self._paths_of(match, now)
            if (tick := self._current(path, now)) is not None
        }

    def changes(self, after: float, until: float) -> list[tuple[float, str, float]]:
        """Drawn changes later than ``after`` and not later than ``until`` (epoch seconds), oldest first.

        Each is an instant, a market key and decimal odds.
        """
        return sorted(
            (tick.instant, path.market_key, tick.odds)
            for match in self._coming(until)
            for path in self._paths_of(match, until)
            for tick in path.between(after, until)
        )

    def _coming(self, now: float) -> Iterator[Match]:
        moment = self._clock.now()
        return self._fixtures.between(moment, moment + timedelta(seconds=HORIZON))

    def _paths_of(self, match: Match, now: float) -> tuple[PricePath, ...]:
        paths = self._paths.get(match.match_id)
        if paths is None:
            if not 0 < match.kickoff.timestamp() - now <= HORIZON:
                return ()
            self._forget_started(now)
            paths = self._paths[match.match_id] = match_paths(match, self._model.rates(match))
        return paths

"""The price book: the odds of the coming day's matches, and which market leans on which prices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

from service.clock import ReplayClock
from service.fixtures import Fixtures, Match
from service.model import Model
from service.odds import HORIZON, PricePath, match_paths

__all__ = ["LEANS_ON", "PriceBook"]

#: The priced market that a market without prices of its own leans on: when its odds move, the prediction has aged too.
#: A priced market is judged by its own last ticks; corners, cards and penalties have nothing to be judged by.
LEANS_ON: Final[Mapping[str, str]] = {
    "btts": "over_under_25",
    "clean_sheet": "over_under_25",
    "double_chance": "match_result",
    "handicap": "match_result",
    "halftime_fulltime": "match_result",
    "first_goalscorer": "match_result",
    "edge_calculation": "match_result",
}


class PriceBook:
    """Drawn price paths of the matches that start within a day, and the newest ticks in their place.

    A posted price holds until the path's next change. Paths are drawn when first asked for and dropped after kickoff.

    Args:
        fixtures: the matches.
        model: what the paths begin at.
        clock: where now comes from.
        newest: instant (epoch seconds) and odds of a market key's newest tick, posted ones of every worker included.
    """

    def __init__(
        self,
        fixtures: Fixtures,
        model: Model,
        clock: ReplayClock,
        newest: Callable[[str], tuple[float, float] | None],
    ) -> None:
        self._fixtures = fixtures
        self._model = model
        self._clock = clock
        self._newest = newest
        self._paths: dict[str, tuple[PricePath, ...]] = {}

    def odds_leant_on(self, match: Match, market: str) -> dict[str, float]:
        """Current decimal odds, by market key, of the market that ``market`` leans on; three at most."""
        priced = LEANS_ON.get(market)
        if priced is None:
            return {}
        now = self._clock.time()
        return {
            path.market_key: odds
            for path in self._paths_of(match, now)
            if path.market == priced and (odds := self._current(path, now))
        }

    def selection_odds(self, match: Match) -> dict[str, float]:
        """Current decimal odds of all priced selections, by ``market:selection``."""
        now = self._clock.time()
        return {path.selection: odds for path in self._paths_of(match, now) if (odds := self._current(path, now))}

    def changes(self, after: float, until: float) -> list[tuple[float, str, float]]:
        """Drawn changes later than ``after`` and not later than ``until`` (epoch seconds), oldest first.

        Each is an instant, a market key and decimal odds.
        """
        now = self._clock.now()
        return sorted(
            (tick.instant, path.market_key, tick.odds)
            for match in self._fixtures.between(now, now + timedelta(seconds=HORIZON))
            for path in self._paths_of(match, until)
            for tick in path.between(after, until)
        )

    def _paths_of(self, match: Match, now: float) -> tuple[PricePath, ...]:
        paths = self._paths.get(match.match_id)
        if paths is None:
            if not 0 < match.kickoff.timestamp() - now <= HORIZON:
                return ()
            self._forget_started(now)
            paths = self._paths[match.match_id] = match_paths(match, self._model.rates(match))
        return paths

    def _forget_started(self, now: float) -> None:
        self._paths = {match_id: paths for match_id, paths in self._paths.items() if paths[0].kickoff > now}

    def _current(self, path: PricePath, now: float) -> float | None:
        """The newest odds; None while there are none."""
        drawn, newest = path.at(now), self._newest(path.market_key)
        if newest and (drawn is None or newest[0] >= path.instants[drawn]):
            return newest[1]
        return None if drawn is None else path.odds[drawn]

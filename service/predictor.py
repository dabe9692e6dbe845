"""The compute behind the cache: one prediction, as slow as a heavier model would be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from service.board import Board
from service.book import PriceBook
from service.clock import ReplayClock
from service.fixtures import Match
from service.markets import Body, body
from service.model import Model
from service.model_watch import ModelError, ModelWatch
from service.odds import ODDS_SOURCE

__all__ = ["Predictor"]


class Predictor:
    """Computes predictions.

    Args:
        model: the fitted goal rates.
        book: current odds.
        board: the faults ordered, if any.
        watch: told how each compute ends.
        clock: where now comes from.
        extra_latency: seconds that every compute waits.
        rng: a source of draws from [0, 1), for faults.
    """

    def __init__(
        self,
        model: Model,
        book: PriceBook,
        board: Board,
        watch: ModelWatch,
        clock: ReplayClock,
        extra_latency: float,
        rng: Callable[[], float],
    ) -> None:
        self._model = model
        self._book = book
        self._board = board
        self._watch = watch
        self._clock = clock
        self._extra_latency = extra_latency
        self._rng = rng

    async def predict(self, match: Match, market: str) -> Body:
        """The prediction of one market of ``match``: a JSON object.

        Raises:
            ModelError: a fault that was ordered.
            KeyError: an unknown market.
        """
        with self._watch.over(f"{market} of {match.match_id}"):
            return await self._predicted(match, market)

    async def _predicted(self, match: Match, market: str) -> Body:
        fault = self._board.fault()
        await asyncio.sleep(self._extra_latency + (fault.extra_latency if fault else 0.0))
        if fault and self._rng() < fault.compute_error_ratio:
            raise ModelError(f"the model failed for {market} of {match.match_id}: a fault was ordered")
        rates = self._model.rates(match)
        odds = self._book.selection_odds(match) if market == "edge_calculation" else {}
        answer: Body = {
            "match_id": match.match_id,
            "market": market,
            "competition": match.competition,
            "home": match.home,
            "away": match.away,
            "kickoff_time": match.kickoff.isoformat(),
            "computed_at": self._clock.now().isoformat(timespec="milliseconds"),
            "expected_goals": {"home": round(rates.home, 3), "away": round(rates.away, 3)},
            **body(market, rates, match.competition, odds),
            "results_fitted": self._model.leagues[match.competition].results,
        }
        if odds:
            answer["odds_source"] = ODDS_SOURCE
        return answer

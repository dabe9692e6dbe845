"""The twelve markets: what a match's goal rates say about each.

Pure functions from :class:`~service.model.Rates` to a JSON body. Results say nothing about corners, cards and
penalties; those rest on constants assumed here, and on who scores first there is no player data, so the market is
answered by side. Each body lists in ``basis`` what it rests on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from service.model import Rates

__all__ = ["PRICED", "Body", "body", "selection_probabilities"]

#: A JSON object.
Body = dict[str, object]

#: The selections that have an exchange price, by market, with their line.
PRICED: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "match_result": (("home", ""), ("draw", ""), ("away", "")),
    "over_under_25": (("over", "2.5"), ("under", "2.5")),
}

# Assumed, not fitted: round figures for these leagues in recent seasons. The packaged results hold goals alone.
CORNERS_PER_MATCH: Final = 10.0
CARDS_PER_MATCH: Final[Mapping[str, float]] = {"en.1": 4.0, "es.1": 4.8, "it.1": 4.4, "de.1": 4.2, "fr.1": 4.0}
PENALTIES_PER_MATCH: Final = 0.28
#: Corners grow with this power of a match's goal rate over the league's; penalties in proportion to it.
CORNERS_ELASTICITY: Final = 0.3
#: Cards of a match without a favourite, over those of one with a certain winner.
CARDS_TENSION: Final = 1.25

#: Goals a side that are summed over; at 4 goals a match beyond it lies less than 1e-6.
_MOST_GOALS: Final = 16

_GOALS: Final = "goal rates fitted on past results"


def body(market: str, rates: Rates, competition: str, odds: Mapping[str, float]) -> Body:
    """The market's part of a prediction.

    Args:
        market: one of the twelve.
        rates: what the match may be expected to bring.
        competition: such as ``en.1``; the cards' constant differs by it.
        odds: current decimal odds by ``market:selection``; edge_calculation alone reads them.

    Raises:
        KeyError: a market that is none of the twelve.
    """
    if market == "edge_calculation":
        return _edges(rates, odds)
    if market == "cards_over_under":
        return _cards(rates, competition)
    return _BODIES[market](rates)


def selection_probabilities(rates: Rates) -> dict[str, float]:
    """Probability of every priced selection, by ``market:selection``."""
    home, draw, away = _outcomes(_margins(rates.home, rates.away))
    under = _poisson_at_most(rates.home + rates.away, 2)
    return {
        "match_result:home": home,
        "match_result:draw": draw,
        "match_result:away": away,
        "over_under_25:over": 1 - under,
        "over_under_25:under": under,
    }


def _over_under_25(rates: Rates) -> Body:
    under = _poisson_at_most(rates.home + rates.away, 2)
    return _answer([_GOALS], line=2.5, over=1 - under, under=under)


def _btts(rates: Rates) -> Body:
    yes = -math.expm1(-rates.home) * -math.expm1(-rates.away)
    return _answer([_GOALS], yes=yes, no=1 - yes)


def _first_goalscorer(rates: Rates) -> Body:
    total = rates.home + rates.away
    none = math.exp(-total)
    return _answer(
        [_GOALS, "no player data: the side that scores first"],
        home=(1 - none) * rates.home / total,
        away=(1 - none) * rates.away / total,
        no_goal=none,
    )


def _corners(rates: Rates) -> Body:
    mean = CORNERS_PER_MATCH * ((rates.home + rates.away) / rates.league) ** CORNERS_ELASTICITY
    basis = [_GOALS, f"assumed: {CORNERS_PER_MATCH:g} corners a match, elasticity {CORNERS_ELASTICITY:g} to goals"]
    return _total(basis, mean, expected="expected_corners")


def _cards(rates: Rates, competition: str) -> Body:
    home, _, away = _outcomes(_margins(rates.home, rates.away))
    usual = CARDS_PER_MATCH[competition]
    mean = usual * (1 + (CARDS_TENSION - 1) * (0.5 - abs(home - away)))
    basis = [_GOALS, f"assumed: {usual:g} cards a match in {competition}, more of them the more even the sides"]
    return _total(basis, mean, expected="expected_cards")


def _handicap(rates: Rates) -> Body:
    margins = _margins(rates.home, rates.away)

    def covers(line: float) -> float:
        return math.fsum(chance for margin, chance in margins.items() if margin + line > 0)

    # Half goals cannot be drawn; the line nearest to an even bet is the one quoted.
    line = min((half + 0.5 for half in range(-5, 5)), key=lambda line: abs(covers(line) - 0.5))
    return _answer([_GOALS], line=line, home=covers(line), away=1 - covers(line))


def _match_result(rates: Rates) -> Body:
    home, draw, away = _outcomes(_margins(rates.home, rates.away))
    return _answer([_GOALS], home=home, draw=draw, away=away)


def _double_chance(rates: Rates) -> Body:
    home, draw, away = _outcomes(_margins(rates.home, rates.away))
    return _answer([_GOALS], home_or_draw=home + draw, home_or_away=home + away, draw_or_away=draw + away)


def _halftime_fulltime(rates: Rates) -> Body:
    later_share = 1 - rates.first_half
    later = _margins(rates.home * later_share, rates.away * later_share)
    chances = dict.fromkeys((f"{half}_{full}" for half in _SIGNS.values() for full in _SIGNS.values()), 0.0)
    for margin, chance in _margins(rates.home * rates.first_half, rates.away * rates.first_half).items():
        for change, chance_of_change in later.items():
            chances[f"{_sign(margin)}_{_sign(margin + change)}"] += chance * chance_of_change
    return _answer([_GOALS, "share of goals before half time, by league"], **chances)


def _clean_sheet(rates: Rates) -> Body:
    return _answer([_GOALS], home=math.exp(-rates.away), away=math.exp(-rates.home))


def _penalty(rates: Rates) -> Body:
    mean = PENALTIES_PER_MATCH * (rates.home + rates.away) / rates.league
    none = math.exp(-mean)
    return _answer([_GOALS, f"assumed: {PENALTIES_PER_MATCH:g} penalties a match"], yes=1 - none, no=none)


def _edges(rates: Rates, odds: Mapping[str, float]) -> Body:
    chances = selection_probabilities(rates)
    return {
        "edges": {
            selection: {
                "probability": round(chances[selection], 4),
                "odds": price,
                "implied_probability": round(1 / price, 4),
                # Expected profit of a stake of 1.
                "edge": round(chances[selection] * price - 1, 4),
            }
            for selection, price in odds.items()
            if selection in chances
        },
        "basis": [_GOALS, "current exchange odds"],
    }


_BODIES: Final[Mapping[str, Callable[[Rates], Body]]] = {
    "over_under_25": _over_under_25,
    "btts": _btts,
    "first_goalscorer": _first_goalscorer,
    "corners_over_under": _corners,
    "handicap": _handicap,
    "match_result": _match_result,
    "double_chance": _double_chance,
    "halftime_fulltime": _halftime_fulltime,
    "clean_sheet": _clean_sheet,
    "penalty": _penalty,
}

_SIGNS: Final = {1: "home", 0: "draw", -1: "away"}


def _sign(margin: int) -> str:
    return _SIGNS[(margin > 0) - (margin < 0)]


def _answer(basis: list[str], line: float | None = None, **chances: float) -> Body:
    answer: Body = {} if line is None else {"line": line}
    return answer | {"probabilities": {name: round(chance, 4) for name, chance in chances.items()}, "basis": basis}


def _total(basis: list[str], mean: float, expected: str) -> Body:
    # The half line next to the mean, as bookmakers quote it.
    line = math.floor(mean) + 0.5
    under = _poisson_at_most(mean, math.floor(mean))
    return {expected: round(mean, 2)} | _answer(basis, line=line, over=1 - under, under=under)


def _poisson(mean: float, most: int = _MOST_GOALS) -> list[float]:
    return [math.exp(-mean) * mean**goals / math.factorial(goals) for goals in range(most + 1)]


def _poisson_at_most(mean: float, most: int) -> float:
    return math.fsum(_poisson(mean, most))


def _margins(home: float, away: float) -> dict[int, float]:
    """Probability of each goal difference (home less away)."""
    margins = dict.fromkeys(range(-_MOST_GOALS, _MOST_GOALS + 1), 0.0)
    guests = _poisson(away)
    for scored, chance in enumerate(_poisson(home)):
        for conceded, chance_conceded in enumerate(guests):
            margins[scored - conceded] += chance * chance_conceded
    return margins


def _outcomes(margins: Mapping[int, float]) -> tuple[float, float, float]:
    """Probabilities that the home side wins, that nobody does, that the away side does."""
    home = math.fsum(chance for margin, chance in margins.items() if margin > 0)
    away = math.fsum(chance for margin, chance in margins.items() if margin < 0)
    return home, 1 - home - away, away

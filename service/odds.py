"""Exchange odds before kickoff: drawn, not recorded, along moves that were.

No exchange publishes ticks for these matches, so a path is drawn for each selection:

* It opens, an hour before kickoff, at the fair price of the model's probability.
* At 30 minutes and at 1 minute before kickoff it has moved by what a real selection of a similar price moved between
  those moments: a row of the A-League extract (``data/prices``), chosen by the match id.
* In between, and for a day before, it steps on the exchange's price ladder, with rates and step sizes measured on
  real ticks (see the constants). The same match gives the same path in every process.

:data:`ODDS_SOURCE` says so wherever such odds are shown.
"""

from __future__ import annotations

import csv
import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Final, NamedTuple

from service.fixtures import Match
from service.markets import PRICED, selection_probabilities
from service.model import Rates
from smartcache import key_factory

__all__ = ["HORIZON", "LADDER", "ODDS_SOURCE", "PricePath", "Tick", "match_paths"]

ODDS_SOURCE: Final = (
    "drawn, not recorded: model opening price, real A-League moves from 60 to 30 to 1 minutes before kickoff, "
    "steps between them drawn at measured rates and sizes"
)

#: Seconds before kickoff from which there are prices.
HORIZON: Final = 24 * 3600.0

#: Updates of a market per second from this many seconds before kickoff on. Measured on a full-ladder stream: the
#: football one agrees with it until the last hour (0.0034 and 0.0098), where its one message a minute caps it.
_RATES: Final = ((24 * 3600.0, 0.004), (6 * 3600.0, 0.011), (3600.0, 0.06), (600.0, 0.31))
#: Selections that change with an update of their market, measured: the favourite of three in 62 %, each other in
#: 28 %, and 1.17 in all.
_FAVOURITE_SHARE: Final = 0.62
_OTHER_SHARE: Final = 0.28
_EITHER_SHARE: Final = 0.585
#: How hard a price is pulled to its line, per ladder step off it. Measured prices, long and short ones alike, move by
#: 0.8 steps (standard deviation) over half an hour as over an hour: a bounce of 0.6 around a slow line, which is what
#: a walk with this pull has, sqrt(1 / (4 * pull)).
_PULL: Final = 0.7
#: The slow line: standard deviation in ladder steps that it moves in 6 hours.
_DRIFT: Final = 0.8
_DRIFT_SPAN: Final = 6 * 3600.0

#: Real selections, closest in price, among which a match chooses its move.
_SIMILAR: Final = 12


def _ladder() -> Iterator[float]:
    # In hundredths: prices below a bound are this far apart.
    steps = ((200, 1), (300, 2), (400, 5), (600, 10), (1000, 20), (2000, 50), (3000, 100), (5000, 200), (10_000, 500))
    price = 101
    for bound, step in (*steps, (100_001, 1000)):
        while price < bound:
            yield price / 100
            price += step


#: Every price the exchange allows, in decimal odds.
LADDER: Final = tuple(_ladder())


class Tick(NamedTuple):
    """A price from an instant on: epoch seconds, decimal odds."""

    instant: float
    odds: float


@dataclass(frozen=True, slots=True)
class PricePath:
    """The prices of one selection from :data:`HORIZON` before kickoff until kickoff.

    Attributes:
        market: the priced market.
        selection: ``market:selection``.
        market_key: match, market, selection and line, as volatility windows are keyed.
        kickoff: epoch seconds.
        instants: epoch seconds at which the price changed, ascending.
        odds: the price from each instant on, decimal odds.
    """

    market: str
    selection: str
    market_key: str
    kickoff: float
    instants: Sequence[float]
    odds: Sequence[float]

    def at(self, instant: float) -> int | None:
        """Which change was the last at or before ``instant`` (epoch seconds); None before the first."""
        changes = bisect_right(self.instants, instant)
        return changes - 1 if changes else None

    def between(self, after: float, until: float) -> Iterator[Tick]:
        """Changes later than ``after`` and not later than ``until``, in order."""
        span = slice(bisect_right(self.instants, after), bisect_right(self.instants, until))
        return map(Tick, self.instants[span], self.odds[span])


def match_paths(match: Match, rates: Rates) -> tuple[PricePath, ...]:
    """The paths of every priced selection of ``match``."""
    chances = selection_probabilities(rates)
    return tuple(
        _draw(match, market, selection, line, chances)
        for market, selections in PRICED.items()
        for selection, line in selections
    )


def _draw(match: Match, market: str, selection: str, line: str, chances: dict[str, float]) -> PricePath:
    name = f"{market}:{selection}"
    kickoff = match.kickoff.timestamp()
    rng = random.Random(f"{match.match_id}:{name}")
    opening = min(max(1 / max(chances[name], 1e-3), LADDER[0]), LADDER[-1])
    guide = _Guide(kickoff, opening, _similar_move(market, selection, opening, match.match_id), rng)
    share = _share(market, name, chances)

    position = _position(opening)
    instants, odds = [kickoff - HORIZON], [LADDER[position]]
    for (start, rate), (end, _) in pairwise((*_RATES, (0.0, 0.0))):
        instant = kickoff - start
        while (instant := instant + rng.expovariate(rate * share)) < kickoff - end:
            position = _step(position, guide.level(instant), rng)
            if LADDER[position] != odds[-1]:
                instants.append(instant)
                odds.append(LADDER[position])
    market_key = key_factory.market_key(match.match_id, market, selection, line)
    return PricePath(market, name, market_key, kickoff, instants, odds)


class _Guide:
    """The slow line that a path keeps to, in ladder positions: straight between knots."""

    def __init__(self, kickoff: float, opening: float, move: _Move, rng: random.Random) -> None:
        level = _level(opening)
        knots = [
            (kickoff, _level(opening * move.last)),
            (kickoff - 60, _level(opening * move.last)),
            (kickoff - 1800, _level(opening * move.middle)),
            (kickoff - 3600, level),
        ]
        instant = kickoff - 3600
        while instant > kickoff - HORIZON:
            instant -= _DRIFT_SPAN
            level += rng.gauss(0, _DRIFT)
            knots.append((instant, level))
        self._instants = [instant for instant, _ in reversed(knots)]
        self._levels = [level for _, level in reversed(knots)]

    def level(self, instant: float) -> float:
        """The line's ladder position at ``instant`` (epoch seconds)."""
        after = bisect_right(self._instants, instant)
        (start, end), (low, high) = self._instants[after - 1 : after + 1], self._levels[after - 1 : after + 1]
        return low + (high - low) * (instant - start) / (end - start)


def _step(position: int, level: float, rng: random.Random) -> int:
    """The next ladder position: more often towards the line than away, and in long strides when far off it."""
    off = level - position
    upward = 1 if off > 0 else -1
    towards = rng.random() < min(0.98, 0.5 + _PULL * abs(off))
    stride = upward * max(1, round(abs(off) / 2)) if towards else -upward
    return min(max(position + stride, 0), len(LADDER) - 1)


def _share(market: str, name: str, chances: dict[str, float]) -> float:
    rivals = [f"{market}:{selection}" for selection, _ in PRICED[market]]
    if len(rivals) == 2:
        return _EITHER_SHARE
    return _FAVOURITE_SHARE if name == max(rivals, key=chances.__getitem__) else _OTHER_SHARE


def _position(price: float) -> int:
    """Index of the ladder price nearest to ``price``."""
    return round(_level(price))


def _level(price: float) -> float:
    """Ladder position of ``price``, fractional between two prices."""
    price = min(max(price, LADDER[0]), LADDER[-1])
    above = max(1, bisect_left(LADDER, price))
    low, high = LADDER[above - 1], LADDER[above]
    return above - 1 + (price - low) / (high - low)


class _Move(NamedTuple):
    """A real selection's mid price an hour before kickoff and, as factors of it, 30 minutes and 1 minute before."""

    price: float
    middle: float
    last: float


@cache
def _moves() -> dict[tuple[str, str], tuple[_Move, ...]]:
    """The packaged extract, by market and selection, cheapest first."""
    moves: dict[tuple[str, str], list[_Move]] = {}
    extract = files("service").joinpath("data/prices/moves.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(extract.splitlines()):
        start, middle, last = (float(row[f"mid_{minutes}"]) for minutes in (60, 30, 1))
        move = _Move(start, middle / start, last / start)
        moves.setdefault((row["market"], row["selection"]), []).append(move)
    return {key: tuple(sorted(rows, key=lambda move: move.price)) for key, rows in moves.items()}


def _similar_move(market: str, selection: str, price: float, match_id: str) -> _Move:
    """The move of a real selection in the same role whose price was near ``price``; chosen by the match id."""
    rows = sorted(_moves()[market, selection], key=lambda move: abs(math.log(move.price / price)))[:_SIMILAR]
    return random.Random(f"{match_id}:{market}").choice(rows)

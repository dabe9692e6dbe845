"""The model: how many goals each side of a match may expect, learnt from past results.

Goals of a match are two independent Poisson variables (Maher, "Modelling association football scores", 1982):

    home rate = home mean · attack(home) · defence(away)
    away rate = away mean · attack(away) · defence(home)

The strengths maximise the likelihood of past results, each weighted by ``2 ** (-age / HALF_LIFE)`` (Dixon and Coles,
1997, weigh likewise), with a gamma prior worth ``PRIOR_GOALS`` goals. The prior holds a club near 1, or near the
promoted clubs' average when it was not in the league the season before; a club without results has that average.

It is small on purpose: no line-ups, no injuries, no correlation of low scores.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from service.fixtures import Match

__all__ = ["League", "Model", "Rates", "Strength", "fit"]

HALF_LIFE: Final = timedelta(days=300)
#: Weight of the prior on each strength, in goals.
PRIOR_GOALS: Final = 12.0
#: Coordinate ascent settles to four digits in half of this.
_ROUNDS: Final = 30


class Strength(NamedTuple):
    """A club's factors on goal rates: its own (``attack``) and its opponents' (``defence``); 1 is average."""

    attack: float
    defence: float


_AVERAGE: Final = Strength(1.0, 1.0)
#: Promoted clubs of 2023-24 in the five leagues together, over their leagues' averages.
_PROMOTED: Final = Strength(0.75, 1.25)
#: Matches that this figure weighs against a league's own promoted clubs.
_PROMOTED_MATCHES: Final = 40


@dataclass(frozen=True, slots=True)
class Rates:
    """What a match may be expected to bring.

    Attributes:
        home, away: goals of each side.
        first_half: share of goals that fall before half time.
        league: goals of both sides in the competition's average match.
    """

    home: float
    away: float
    first_half: float
    league: float


@dataclass(frozen=True, slots=True)
class League:
    """What was fitted for one competition.

    Attributes:
        home_mean, away_mean: goals of an average club, at home and away.
        first_half: share of goals that fall before half time.
        strengths: by club.
        promoted: the strength of a club without results.
        results: how many results went in.
    """

    home_mean: float
    away_mean: float
    first_half: float
    strengths: Mapping[str, Strength]
    promoted: Strength
    results: int

    def rates(self, home: str, away: str) -> Rates:
        """Expectations for ``home`` receiving ``away``."""
        host = self.strengths.get(home, self.promoted)
        guest = self.strengths.get(away, self.promoted)
        return Rates(
            home=self.home_mean * host.attack * guest.defence,
            away=self.away_mean * guest.attack * host.defence,
            first_half=self.first_half,
            league=self.home_mean + self.away_mean,
        )


class Model:
    """The fitted leagues."""

    def __init__(self, leagues: Mapping[str, League]) -> None:
        self.leagues: Final = leagues

    def rates(self, match: Match) -> Rates:
        """Expectations for ``match``."""
        return self.leagues[match.competition].rates(match.home, match.away)


def fit(results: Iterable[Match], now: datetime) -> Model:
    """Fit each competition on ``results``, all known at ``now``; the same input gives the same model.

    Raises:
        ValueError: no results at all.
    """
    by_competition: dict[str, list[Match]] = defaultdict(list)
    for match in results:
        if match.score is not None:
            by_competition[match.competition].append(match)
    if not by_competition:
        raise ValueError(f"no results are known at {now.isoformat()}: there is nothing to fit the model on")
    return Model({competition: _fit_league(matches, now) for competition, matches in by_competition.items()})


class _Result(NamedTuple):
    home: str
    away: str
    home_goals: int
    away_goals: int
    weight: float


def _fit_league(matches: list[Match], now: datetime) -> League:
    results = [
        _Result(match.home, match.away, score.home, score.away, 0.5 ** ((now - match.kickoff) / HALF_LIFE))
        for match in matches
        if (score := match.score) is not None
    ]
    weight = math.fsum(result.weight for result in results)
    home_mean = math.fsum(result.home_goals * result.weight for result in results) / weight
    away_mean = math.fsum(result.away_goals * result.weight for result in results) / weight

    newcomers = _newcomers(matches)
    promoted = _promoted(matches, newcomers)
    latest = max(newcomers)
    prior = {
        club: promoted if club in newcomers[latest] else _AVERAGE
        for club in sorted({club for result in results for club in (result.home, result.away)})
    }
    attack = {club: centre.attack for club, centre in prior.items()}
    defence = {club: centre.defence for club, centre in prior.items()}
    prior_attack, prior_defence = dict(attack), dict(defence)
    # Read from the other side, the same result tells of the defences: the guests' by the hosts' goals, and conversely.
    mirrored = [result._replace(home=result.away, away=result.home) for result in results]
    for _ in range(_ROUNDS):
        attack = _ascend(results, prior_attack, defence, home_mean, away_mean)
        defence = _ascend(mirrored, prior_defence, attack, home_mean, away_mean)
    return League(
        home_mean=home_mean,
        away_mean=away_mean,
        first_half=_first_half(matches),
        strengths={club: Strength(attack[club], defence[club]) for club in prior},
        promoted=promoted,
        results=len(results),
    )


def _ascend(
    results: list[_Result],
    prior: Mapping[str, float],
    opposing: Mapping[str, float],
    home_mean: float,
    away_mean: float,
) -> dict[str, float]:
    """The likeliest factors of one kind while the ``opposing`` kind stands still: goals seen over goals expected."""
    seen = {club: PRIOR_GOALS * centre for club, centre in prior.items()}
    expected = dict.fromkeys(prior, PRIOR_GOALS)
    for home, away, home_goals, away_goals, weight in results:
        seen[home] += weight * home_goals
        expected[home] += weight * home_mean * opposing[away]
        seen[away] += weight * away_goals
        expected[away] += weight * away_mean * opposing[home]
    return {club: seen[club] / expected[club] for club in prior}


def _newcomers(matches: Iterable[Match]) -> dict[str, set[str]]:
    """Clubs by season that were not there the season before; none in the first season known."""
    clubs: dict[str, set[str]] = defaultdict(set)
    for match in matches:
        clubs[match.season].update((match.home, match.away))
    seasons = sorted(clubs)
    return {
        season: clubs[season] - clubs[before] if before else set()
        for before, season in zip(["", *seasons], seasons, strict=False)
    }


def _promoted(matches: Iterable[Match], newcomers: Mapping[str, set[str]]) -> Strength:
    """What newcomers scored and conceded in their first season, over the average of that season."""
    scored, conceded = (factor * _PROMOTED_MATCHES for factor in _PROMOTED)
    played = float(_PROMOTED_MATCHES)
    by_season: dict[str, list[Match]] = defaultdict(list)
    for match in matches:
        by_season[match.season].append(match)
    for season, games in by_season.items():
        scores = [(match, match.score) for match in games if match.score is not None]
        average = sum(score.home + score.away for _, score in scores) / (2 * len(scores))
        for match, score in scores:
            for club, own, other in ((match.home, score.home, score.away), (match.away, score.away, score.home)):
                if club in newcomers[season]:
                    scored, conceded, played = scored + own / average, conceded + other / average, played + 1
    return Strength(scored / played, conceded / played)


def _first_half(matches: Iterable[Match]) -> float:
    scores = [match.score for match in matches if match.score is not None]
    before = sum(score.home_at_half_time + score.away_at_half_time for score in scores)
    return before / sum(score.home + score.away for score in scores)

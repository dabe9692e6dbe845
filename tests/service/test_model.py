from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest

from service.fixtures import COMPETITIONS, Fixtures, Match, load_fixtures
from service.markets import body, selection_probabilities
from service.model import Model, fit
from smartcache.tags import MARKETS

NOW = datetime(2025, 3, 1, 14, 16, tzinfo=UTC)
OUTCOMES = ("match_result:home", "match_result:draw", "match_result:away")


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return load_fixtures()


@pytest.fixture(scope="module")
def model(fixtures: Fixtures) -> Model:
    return fit(fixtures.played_before(NOW), NOW)


def outcome(match: Match) -> str:
    assert match.score is not None
    if match.score.home == match.score.away:
        return "match_result:draw"
    return "match_result:home" if match.score.home > match.score.away else "match_result:away"


def test_beats_the_league_average_over_a_season_it_had_not_seen(fixtures: Fixtures) -> None:
    """Log-loss of results and of goals over 2024-25, refitted every four weeks on what was known then."""
    losses: defaultdict[str, list[float]] = defaultdict(list)
    start = datetime(2024, 8, 1, tzinfo=UTC)
    while start < datetime(2025, 6, 1, tzinfo=UTC):
        end = start + timedelta(weeks=4)
        past = list(fixtures.played_before(start))
        model = fit(past, start)
        for match in fixtures.between(start, end - timedelta(seconds=1)):
            if match.score is None:
                continue
            chances = selection_probabilities(model.rates(match))
            league = [other for other in past if other.competition == match.competition]
            result = outcome(match)
            losses["model result"].append(-math.log(chances[result]))
            losses["average result"].append(-math.log(sum(outcome(other) == result for other in league) / len(league)))
            over = match.score.home + match.score.away > 2
            average = sum(other.score.home + other.score.away > 2 for other in league if other.score) / len(league)
            losses["model goals"].append(-math.log(chances[f"over_under_25:{'over' if over else 'under'}"]))
            losses["average goals"].append(-math.log(average if over else 1 - average))
        start = end
    mean = {name: math.fsum(values) / len(values) for name, values in losses.items()}
    assert len(losses["model result"]) == 1730
    # Seen: 0.986 against 1.079, and 0.676 against 0.687.
    assert mean["model result"] < mean["average result"] - 0.08
    assert mean["model goals"] < mean["average goals"] - 0.005


def test_only_results_known_by_then_move_it(fixtures: Fixtures, model: Model) -> None:
    again = fit([match for match in fixtures.matches if match.kickoff < NOW - timedelta(hours=2)], NOW)
    assert {name: league.strengths for name, league in again.leagues.items()} == {
        name: league.strengths for name, league in model.leagues.items()
    }


def test_strengths_reproduce_the_goals_they_were_fitted_on(fixtures: Fixtures, model: Model) -> None:
    for competition in COMPETITIONS:
        played = [match for match in fixtures.played_before(NOW) if match.competition == competition]
        seen = sum(match.score.home + match.score.away for match in played if match.score)
        expected = sum(rates.home + rates.away for rates in map(model.rates, played))
        assert expected == pytest.approx(seen, rel=0.05)


def test_an_unknown_club_has_the_promoted_average(model: Model) -> None:
    for league in model.leagues.values():
        newcomer = league.rates("Never Heard Of FC", "Nor Of Them")
        assert newcomer.home == pytest.approx(league.home_mean * league.promoted.attack * league.promoted.defence)
        assert league.promoted.attack < 1 < league.promoted.defence


def test_no_results_is_an_error_that_names_the_moment() -> None:
    with pytest.raises(ValueError, match="2020-01-01"):
        fit([], datetime(2020, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("market", MARKETS)
def test_every_market_is_answered_with_probabilities_and_what_they_rest_on(
    fixtures: Fixtures, model: Model, market: str
) -> None:
    for match in fixtures.between(NOW, NOW + timedelta(days=3)):
        answer = body(market, model.rates(match), match.competition, {"match_result:home": 2.0})
        assert answer["basis"]
        if market == "edge_calculation":
            continue
        probabilities = answer["probabilities"]
        assert isinstance(probabilities, dict)
        assert all(0 <= chance <= 1 for chance in probabilities.values())
        total = {"double_chance": 2.0, "clean_sheet": None}.get(market, 1.0)
        if total is not None:
            assert sum(probabilities.values()) == pytest.approx(total, abs=5e-4)


@pytest.mark.parametrize("market", ["corners_over_under", "cards_over_under", "penalty", "first_goalscorer"])
def test_markets_that_results_do_not_tell_of_say_so(fixtures: Fixtures, model: Model, market: str) -> None:
    match = next(fixtures.between(NOW, NOW + timedelta(days=1)))
    basis = body(market, model.rates(match), match.competition, {})["basis"]
    assert isinstance(basis, list)
    assert any("assumed" in line or "no player data" in line for line in basis)


def test_markets_agree_with_one_another(fixtures: Fixtures, model: Model) -> None:
    match = next(fixtures.between(NOW, NOW + timedelta(days=1)))
    rates = model.rates(match)

    def chances(market: str) -> dict[str, float]:
        probabilities = body(market, rates, match.competition, {})["probabilities"]
        assert isinstance(probabilities, dict)
        return probabilities

    result, double, turns = chances("match_result"), chances("double_chance"), chances("halftime_fulltime")
    assert double["home_or_draw"] == pytest.approx(result["home"] + result["draw"], abs=2e-4)
    for full in ("home", "draw", "away"):
        assert sum(turns[f"{half}_{full}"] for half in ("home", "draw", "away")) == pytest.approx(
            result[full], abs=5e-4
        )
    assert chances("first_goalscorer")["no_goal"] == pytest.approx(math.exp(-rates.home - rates.away), abs=1e-4)


def test_an_edge_is_the_expected_profit_at_the_odds(fixtures: Fixtures, model: Model) -> None:
    match = next(fixtures.between(NOW, NOW + timedelta(days=1)))
    rates = model.rates(match)
    fair = 1 / selection_probabilities(rates)["match_result:home"]
    edges = body("edge_calculation", rates, match.competition, {"match_result:home": fair * 1.1})["edges"]
    assert isinstance(edges, dict)
    assert edges["match_result:home"]["edge"] == pytest.approx(0.1, abs=1e-3)

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from service.fixtures import Match, load_fixtures
from service.model import fit
from service.odds import HORIZON, LADDER, PricePath, match_paths

NOW = datetime(2025, 3, 1, 14, 16, tzinfo=UTC)
Drawn = list[tuple[Match, tuple[PricePath, ...]]]


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    fixtures = load_fixtures()
    model = fit(fixtures.played_before(NOW), NOW)
    return [(match, match_paths(match, model.rates(match))) for match in fixtures.between(NOW, NOW + timedelta(days=9))]


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def price(path: PricePath, instant: float) -> float:
    change = path.at(instant)
    assert change is not None
    return path.odds[change]


def test_the_ladder_is_the_exchanges() -> None:
    assert len(LADDER) == 350
    assert (LADDER[0], LADDER[-1]) == (1.01, 1000)
    assert all(low < high for low, high in pairwise(LADDER))
    steps = {low: round(high - low, 2) for low, high in pairwise(LADDER)}
    assert {at: steps[at] for at in (1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 30.0, 50.0, 100.0)} == {
        1.5: 0.01, 2.0: 0.02, 3.0: 0.05, 4.0: 0.1, 6.0: 0.2, 10.0: 0.5, 20.0: 1.0, 30.0: 2.0, 50.0: 5.0, 100.0: 10.0,
    }  # fmt: skip


def test_the_same_match_gives_the_same_path(drawn: Drawn) -> None:
    fixtures = load_fixtures()
    model = fit(fixtures.played_before(NOW), NOW)
    match, paths = drawn[0]
    assert match_paths(match, model.rates(match)) == paths


def test_prices_are_on_the_ladder_and_within_the_last_day(drawn: Drawn) -> None:
    for match, paths in drawn:
        kickoff = match.kickoff.timestamp()
        assert [path.market_key.split(":")[0] for path in paths] == [match.match_id] * 5
        for path in paths:
            assert set(path.odds) <= set(LADDER)
            assert list(path.instants) == sorted(path.instants)
            assert path.instants[0] == kickoff - HORIZON
            assert path.instants[-1] < kickoff
            assert path.at(kickoff - HORIZON - 1) is None


def test_moves_of_the_last_hour_are_as_large_as_real_ones(drawn: Drawn) -> None:
    """The source's README, match odds from T-60 to T-1: median 4.7 %, P90 12.3 %, P95 15.2 %."""
    moves = [
        abs(price(path, match.kickoff.timestamp() - 60) / price(path, match.kickoff.timestamp() - 3600) - 1)
        for match, paths in drawn
        for path in paths
        if path.market == "match_result"
    ]
    assert quantile(moves, 0.5) == pytest.approx(0.047, abs=0.015)
    assert quantile(moves, 0.9) == pytest.approx(0.123, abs=0.035)


def test_moves_within_a_minute_are_as_large_as_measured_ones(drawn: Drawn) -> None:
    """Measured: favourite (1.29) P90 0.8 %, P99 1.5 % in the last hour; outsider P95 4.2 %."""
    favourites: list[float] = []
    outsiders: list[float] = []
    for match, paths in drawn:
        kickoff = int(match.kickoff.timestamp())
        for path in paths:
            opening = price(path, kickoff - 3600)
            group = favourites if opening < 1.6 else outsiders if opening > 6 else None
            if group is not None:
                group += [
                    abs(price(path, at + 60) / price(path, at) - 1) for at in range(kickoff - 3600, kickoff - 60, 60)
                ]
    assert 0.005 <= quantile(favourites, 0.90) <= 0.012
    assert 0.010 <= quantile(favourites, 0.99) <= 0.025
    assert 0.025 <= quantile(outsiders, 0.95) <= 0.065


def test_prices_wander_off_a_slow_line_by_as_many_steps_as_measured(drawn: Drawn) -> None:
    """Measured before the last hour, in ladder steps: 0.3 to 0.5 a minute, 0.7 to 0.9 an hour, 1.2 to 1.4 in six."""
    position = {odds: index for index, odds in enumerate(LADDER)}

    def deviation(span: int) -> float:
        steps = [
            position[price(path, at + span)] - position[price(path, at)]
            for match, paths in drawn
            for path in paths
            for at in range(int(match.kickoff.timestamp() - 82_800), int(match.kickoff.timestamp() - 3600 - span), 1800)
        ]
        return math.sqrt(sum(step**2 for step in steps) / len(steps))

    assert 0.25 <= deviation(60) <= 0.5
    assert 0.6 <= deviation(3600) <= 1.1
    assert 1.0 <= deviation(21_600) <= 1.5


def test_update_rates_are_the_measured_ones(drawn: Drawn) -> None:
    """Changes of a market per second by time to kickoff; a market's update changes 1.17 selections on average."""
    measured = {(86_400, 21_600): 0.004, (21_600, 3600): 0.011, (3600, 600): 0.06, (600, 0): 0.31}
    for (start, end), rate in measured.items():
        changes = sum(
            len(list(path.between(match.kickoff.timestamp() - start, match.kickoff.timestamp() - end)))
            for match, paths in drawn
            for path in paths
            if path.market == "match_result"
        )
        assert changes / (len(drawn) * (start - end)) == pytest.approx(rate * 1.17, rel=0.1)

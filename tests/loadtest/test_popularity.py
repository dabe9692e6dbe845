import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.popularity import Match, Popularity, prediction_path, read_matches, service_now, weights
from smartcache.golden_hour import zone_at

NOW = datetime(2025, 3, 1, 14, 16, tzinfo=UTC)


def match_in(seconds: float, name: str = "m") -> Match:
    return Match(name, NOW + timedelta(seconds=seconds), zone_at(seconds).name)


def test_weights_follow_the_documented_law() -> None:
    matches = [match_in(60), match_in(3600), match_in(3 * 3600), match_in(19 * 3600)]
    assert weights(matches, NOW) == pytest.approx([60 / 61, 1 / 2, 1 / 4, 1 / 20])


@given(st.lists(st.floats(-1e6, 1e6), max_size=20))
def test_nearer_kickoffs_weigh_more_and_started_matches_nothing(offsets: list[float]) -> None:
    matches = [match_in(offset) for offset in sorted(offsets)]
    drawn = weights(matches, NOW)
    started = [weight for match, weight in zip(matches, drawn, strict=True) if match.kickoff <= NOW]
    ahead = [weight for match, weight in zip(matches, drawn, strict=True) if match.kickoff > NOW]
    assert started == [0] * len(started)
    assert all(0 < weight <= 1 for weight in ahead)
    assert ahead == sorted(ahead, reverse=True)


def test_draws_are_as_frequent_as_the_weights_say_and_markets_even() -> None:
    matches = [match_in(-60, "started"), match_in(3600, "one"), match_in(3 * 3600, "three")]
    popularity = Popularity(matches, NOW, ["btts", "penalty"], random.Random(1))
    drawn = Counter(popularity.draw() for _ in range(30_000))
    assert sum(count for path, count in drawn.items() if "started" in path) == 0
    for path, share in ((prediction_path("one", "btts"), 1 / 3), (prediction_path("three", "penalty"), 1 / 6)):
        assert drawn[path] / 30_000 == pytest.approx(share, abs=0.015)


@given(st.lists(st.integers(-86_400, 10 * 86_400), min_size=1), st.integers(1, 86_400))
def test_the_services_moment_is_read_from_its_zones(offsets: list[int], near: int) -> None:
    matches = [match_in(offset) for offset in [*offsets, near]]
    earliest = service_now(matches)
    assert earliest <= NOW
    # At that moment no match has yet left the zone it is listed in for a nearer one.
    for match in matches:
        left = (match.kickoff - earliest).total_seconds()
        assert zone_at(left).name == match.zone or left > 0


def test_a_service_without_a_match_near_tells_no_moment() -> None:
    with pytest.raises(ValueError, match="none of 1 matches"):
        service_now([match_in(5 * 86_400)])


def test_nothing_to_ask_for_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to ask for: 1 matches"):
        Popularity([match_in(-1)], NOW, ["btts"], random.Random(1))


def test_matches_are_read_as_the_service_lists_them() -> None:
    listed = {"match_id": "en.1", "kickoff_time": "2025-03-01T15:00:00+00:00", "zone": "golden", "home": "Leeds"}
    assert read_matches(json.dumps({"matches": [listed]}).encode()) == [
        Match("en.1", datetime(2025, 3, 1, 15, tzinfo=UTC), "golden")
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "not a list of matches"),
        (b'{"matches": [{"match_id": "1"}]}', "kickoff_time"),
        (b'{"matches": [{"match_id": "1", "kickoff_time": "2025-03-01T15:00:00", "zone": "golden"}]}', "no time zone"),
    ],
)
def test_an_answer_that_lists_no_matches_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_matches(body)


def test_paths_are_escaped() -> None:
    assert prediction_path("a/b c", "btts") == "/v1/matches/a%2Fb%20c/markets/btts"

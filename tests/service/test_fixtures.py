from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from service.fixtures import COMPETITIONS, Fixtures, load_fixtures
from service.settings import read_settings
from smartcache.golden_hour import zone_at


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return load_fixtures()


def test_all_published_matches_are_there(fixtures: Fixtures) -> None:
    counts = Counter((match.season, match.competition) for match in fixtures.matches)
    # As the source's README counts them.
    assert {season: sum(n for (s, _), n in counts.items() if s == season) for season, _ in counts} == {
        "2022-23": 1826,
        "2023-24": 1752,
        "2024-25": 1752,
    }
    assert {competition for _, competition in counts} == set(COMPETITIONS)


def test_match_ids_are_unique_and_plain(fixtures: Fixtures) -> None:
    ids = [match.match_id for match in fixtures.matches]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9-]+", match_id) for match_id in ids)


@pytest.mark.parametrize(
    ("match_id", "kickoff"),
    [
        # 15:00 in London in winter, 12:30 in summer time; 18:00 in Rome and 21:00 in Madrid likewise.
        ("en1-2024-leicester-city-fc-manchester-city-fc", datetime(2024, 12, 29, 14, 30, tzinfo=UTC)),
        ("en1-2024-ipswich-town-fc-liverpool-fc", datetime(2024, 8, 17, 11, 30, tzinfo=UTC)),
        ("it1-2024-ssc-napoli-fc-internazionale-milano", datetime(2025, 3, 1, 17, 0, tzinfo=UTC)),
        ("es1-2024-club-atletico-de-madrid-athletic-club", datetime(2025, 3, 1, 20, 0, tzinfo=UTC)),
    ],
)
def test_kickoffs_are_utc_whatever_the_season(fixtures: Fixtures, match_id: str, kickoff: datetime) -> None:
    match = fixtures.get(match_id)
    assert match is not None
    assert match.kickoff == kickoff
    assert match.kickoff.utcoffset() == timedelta(0)


def test_a_club_has_one_name_through_the_seasons(fixtures: Fixtures) -> None:
    clubs = {match.home for match in fixtures.matches if match.competition == "fr.1"}
    # 18 or 20 clubs a season; two named twice would leave more than the 23 that played in these three.
    assert len(clubs) == 23


def test_goalless_matches_count_and_awarded_ones_do_not(fixtures: Fixtures) -> None:
    scores = [match.score for match in fixtures.matches if match.score]
    assert sum(score.home + score.away == 0 for score in scores) == 322
    awarded = fixtures.get("de1-2024-1-fc-union-berlin-vfl-bochum-1848")
    assert awarded is not None
    assert awarded.score is None


def test_a_result_is_known_only_after_the_match(fixtures: Fixtures) -> None:
    now = datetime(2025, 3, 1, 14, 16, tzinfo=UTC)
    assert all(match.kickoff <= now - timedelta(hours=2) for match in fixtures.played_before(now))


def test_the_default_moment_has_matches_in_all_five_zones(fixtures: Fixtures) -> None:
    now = read_settings({}).at
    soon = fixtures.between(now, now + timedelta(days=7))
    zones = {zone_at((match.kickoff - now).total_seconds()).name for match in soon}
    assert zones >= {"warmup", "golden", "active", "prematch", "standard"}

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from loadtest.casting import cast
from loadtest.popularity import Match
from smartcache.golden_hour import zone_at

NOW = datetime(2025, 3, 1, 14, 16, tzinfo=UTC)


def match_in(minutes: float) -> Match:
    return Match(f"in {minutes:g} min", NOW + timedelta(minutes=minutes), zone_at(minutes * 60).name)


def test_a_saturday_afternoon_fills_every_part() -> None:
    started, warmup, golden, active, later, prematch, standard = map(match_in, (-90, 14, 44, 90, 120, 400, 3000))
    parts = cast([warmup, golden, active, later, prematch, standard, match_in(-200), started], NOW)
    assert parts.by_zone == {
        "match_started": started, "warmup": warmup, "golden": golden, "active": active, "prematch": prematch,
        "standard": standard,
    }  # fmt: skip
    assert (parts.ageing, parts.ttl) == ((warmup,), 30)
    assert parts.steaming == prematch
    assert parts.eventful == active


def test_a_match_about_to_leave_its_zone_does_not_age() -> None:
    # A minute to kickoff, and a minute to the warm-up: neither lasts for three lifetimes.
    assert cast([match_in(1), match_in(16)], NOW).ageing == ()
    assert cast([match_in(1), match_in(40)], NOW).ageing == (match_in(40),)


def test_nobody_is_there_to_play() -> None:
    parts = cast([], NOW)
    assert (parts.by_zone, parts.ageing, parts.steaming, parts.eventful) == ({}, (), None, None)


@given(st.lists(st.integers(-500, 5000), unique=True, max_size=30))
def test_steam_and_events_never_reach_a_match_that_ages(minutes: list[int]) -> None:
    parts = cast([match_in(number) for number in minutes], NOW)
    assert not {parts.steaming, parts.eventful} & set(parts.ageing)
    assert parts.steaming is None or parts.steaming != parts.eventful
    assert all(zone_at((match.kickoff - NOW).total_seconds()).ttl == parts.ttl for match in parts.ageing)

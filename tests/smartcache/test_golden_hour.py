from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from smartcache.catalogue import ZONES as LABELS
from smartcache.golden_hour import MATCH_STARTED, ZONES, GoldenHour, zone_at

KICKOFF = datetime(2025, 3, 1, 15, tzinfo=UTC)
hour = GoldenHour(lambda: KICKOFF.timestamp() - 120)


@pytest.mark.parametrize(
    ("before", "zone", "ttl", "confirmed"),
    [
        (timedelta(minutes=1), "warmup", 30, 30),
        (timedelta(minutes=15), "warmup", 30, 30),
        (timedelta(minutes=15, microseconds=1), "golden", 60, 60),
        (timedelta(hours=1), "golden", 60, 60),
        (timedelta(hours=1, microseconds=1), "active", 900, 1800),
        (timedelta(hours=6), "active", 900, 1800),
        (timedelta(hours=6, microseconds=1), "prematch", 3600, 7200),
        (timedelta(hours=24), "prematch", 3600, 7200),
        (timedelta(hours=24, microseconds=1), "standard", 21600, 43200),
        (timedelta(days=9), "standard", 21600, 43200),
        (timedelta(0), "match_started", 0, 0),
        (timedelta(hours=-2), "match_started", 0, 0),
    ],
)
def test_the_table_with_boundaries_in_the_nearer_zone(before: timedelta, zone: str, ttl: int, confirmed: int) -> None:
    plain = hour.calculate_ttl(KICKOFF, KICKOFF - before)
    known = hour.calculate_ttl(KICKOFF, KICKOFF - before, lineup_confirmed=True)
    assert (plain["zone"], plain["ttl"], known["ttl"]) == (zone, ttl, confirmed)
    assert not plain["lineup_bonus_applied"]
    assert known["lineup_bonus_applied"] == (confirmed > ttl)
    assert plain["minutes_to_kickoff"] == pytest.approx(before.total_seconds() / 60)


def test_now_is_the_default_and_any_time_zone_will_do() -> None:
    kickoff = KICKOFF.astimezone(ZoneInfo("Asia/Tokyo"))
    assert hour.calculate_ttl(kickoff_time=kickoff)["minutes_to_kickoff"] == pytest.approx(2)


def test_hours_are_real_hours_when_the_clocks_change() -> None:
    # 30 March 2025, 02:00 becomes 03:00 in Berlin: 01:30 and 04:30 are two hours apart.
    berlin = ZoneInfo("Europe/Berlin")
    decision = hour.calculate_ttl(
        datetime(2025, 3, 30, 4, 30, tzinfo=berlin), datetime(2025, 3, 30, 1, 30, tzinfo=berlin)
    )
    assert decision["hours_to_kickoff"] == pytest.approx(2)


@pytest.mark.parametrize("bad", [datetime(2025, 3, 1, 15), "2025-03-01T15:00", 1740841200])
def test_a_time_that_names_no_instant_is_refused(bad: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"2025|1740841200"):
        hour.calculate_ttl(bad)  # type: ignore[arg-type]


def test_the_zones_stand_where_the_catalogue_has_their_labels() -> None:
    for zone in (*ZONES, MATCH_STARTED):
        assert LABELS[zone.index] == zone.name
    assert zone_at(1).name == "warmup"

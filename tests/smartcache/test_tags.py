from __future__ import annotations

from pathlib import Path

import pytest

from smartcache import ConfigError, EventType, TagManager
from smartcache.tags import EVENT_TAGS, MARKET_TAGS


def test_rain_retires_four_of_twelve_markets() -> None:
    decision = TagManager().get_affected_markets(event_type=EventType.WEATHER_RAIN)
    assert decision["markets"] == ["over_under_25", "corners_over_under", "cards_over_under", "clean_sheet"]
    assert (decision["affected_count"], decision["total_markets"]) == (4, 12)
    assert decision["impact_pct"] == pytest.approx(100 / 3)
    assert decision["cpu_saving_pct"] == pytest.approx(200 / 3)
    assert decision["tags"] == ["weather"]


@pytest.mark.parametrize(
    ("event", "count"),
    [
        (EventType.GK_CHANGE, 8),
        (EventType.REFEREE_ASSIGNED, 3),
        (EventType.ODDS_STEAM, 1),
        (EventType.LINE_MOVEMENT, 1),
        (EventType.SHARP_MONEY, 1),
        (EventType.VENUE_CHANGED, 3),
    ],
)
def test_how_many_markets_an_event_retires(event: EventType, count: int) -> None:
    assert len(TagManager().affected_by(event)) == count


def test_every_event_is_in_the_table_and_retires_exactly_what_shares_a_tag() -> None:
    manager = TagManager()
    assert set(manager.events) == {event.value for event in EventType}
    for event in EventType:
        sharing = {market for market, tags in MARKET_TAGS.items() if set(tags) & set(EVENT_TAGS[event])}
        assert set(manager.affected_by(event)) == sharing


def test_an_unknown_event_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'meteor'.*weather_rain"):
        TagManager().affected_by("meteor")


def test_the_tables_can_be_replaced_from_a_file(tmp_path: Path) -> None:
    table = tmp_path / "tags.toml"
    table.write_text('[events]\nvar_check = ["goals"]\n[markets]\nnext_goal = ["goals"]\nthrow_ins = ["form"]\n')
    manager = TagManager.from_file(table)
    assert manager.get_affected_markets("var_check")["markets"] == ["next_goal"]
    table.write_text("[events]\nvar_check = 3\n")
    with pytest.raises(ConfigError, match=r"tags\.toml.*events"):
        TagManager.from_file(table)
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        TagManager.from_file(tmp_path / "absent.toml")

"""Surgical invalidation: which markets an event retires, and which it spares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, TypedDict

import msgspec

from smartcache.errors import ConfigError

__all__ = ["EVENT_TAGS", "MARKETS", "MARKET_TAGS", "AffectedMarkets", "EventType", "TagManager"]


class EventType(StrEnum):
    """What can happen around a match."""

    WEATHER_RAIN = "weather_rain"
    WEATHER_SNOW = "weather_snow"
    WEATHER_WIND = "weather_wind"
    PLAYER_INJURY = "player_injury"
    KEY_PLAYER_SUSPENDED = "key_player_suspended"
    GK_CHANGE = "goalkeeper_change"
    LINEUP_CONFIRMED = "lineup_confirmed"
    REFEREE_ASSIGNED = "referee_assigned"
    VENUE_CHANGED = "venue_changed"
    ODDS_STEAM = "odds_steam"
    LINE_MOVEMENT = "line_movement"
    SHARP_MONEY = "sharp_money"


#: The tags that each event touches.
EVENT_TAGS: Final[Mapping[str, tuple[str, ...]]] = {
    "weather_rain": ("weather",),
    "weather_snow": ("weather",),
    "weather_wind": ("weather",),
    "player_injury": ("player_injury", "lineup", "tactics"),
    "key_player_suspended": ("player_injury", "lineup", "tactics"),
    "goalkeeper_change": ("goalkeeper_change", "goals", "lineup"),
    "lineup_confirmed": ("lineup",),
    "referee_assigned": ("referee",),
    "venue_changed": ("home_advantage",),
    "odds_steam": ("edge_calculation", "odds_movement"),
    "line_movement": ("odds_movement",),
    "sharp_money": ("edge_calculation",),
}

#: The tags that each market depends on.
MARKET_TAGS: Final[Mapping[str, tuple[str, ...]]] = {
    "over_under_25": ("goals", "weather", "lineup", "tactics", "form"),
    "btts": ("goals", "lineup", "goalkeeper_change", "tactics", "form"),
    "first_goalscorer": ("lineup", "form", "player_injury", "tactics"),
    "corners_over_under": ("weather", "tactics", "referee", "form"),
    "cards_over_under": ("referee", "rivalry", "weather", "discipline", "tactics"),
    "handicap": ("lineup", "home_advantage", "form", "player_injury", "tactics"),
    "match_result": ("lineup", "home_advantage", "form", "player_injury", "goalkeeper_change", "tactics"),
    "double_chance": ("lineup", "home_advantage", "form", "tactics"),
    "halftime_fulltime": ("tactics", "lineup", "form"),
    "clean_sheet": ("goalkeeper_change", "lineup", "tactics", "form", "weather"),
    "penalty": ("referee", "tactics", "discipline"),
    "edge_calculation": ("edge_calculation", "odds_movement"),
}

#: The markets of the default table, in its order.
MARKETS: Final = tuple(MARKET_TAGS)


class AffectedMarkets(TypedDict):
    """What :meth:`TagManager.get_affected_markets` answers; the percentages are of all markets."""

    markets: list[str]
    tags: list[str]
    impact_pct: float
    affected_count: int
    total_markets: int
    cpu_saving_pct: float
    reasoning: str


class TagManager:
    """The two tables: event to tags, market to tags.

    Args:
        event_tags: tags that each event touches.
        market_tags: tags that each market depends on.
    """

    def __init__(
        self,
        event_tags: Mapping[str, Iterable[str]] = EVENT_TAGS,
        market_tags: Mapping[str, Iterable[str]] = MARKET_TAGS,
    ) -> None:
        self._event_tags = {event: tuple(tags) for event, tags in event_tags.items()}
        self._market_tags = {market: tuple(tags) for market, tags in market_tags.items()}
        self._affected = {
            event: tuple(market for market, needs in self._market_tags.items() if not set(tags).isdisjoint(needs))
            for event, tags in self._event_tags.items()
        }

    @classmethod
    def from_file(cls, path: Path) -> TagManager:
        """Read both tables from a TOML or JSON file with the keys ``events`` and ``markets``.

        Raises:
            ConfigError: the file is missing, malformed, or lists something other than names.
        """

        class Tables(msgspec.Struct, forbid_unknown_fields=True):
            events: dict[str, tuple[str, ...]]
            markets: dict[str, tuple[str, ...]]

        try:
            decode = msgspec.toml.decode if path.suffix == ".toml" else msgspec.json.decode
            tables = decode(path.read_bytes(), type=Tables)
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(
                f"tag table {str(path)!r} cannot be used: {error}. It wants a table 'events' (event to list of tags) "
                "and a table 'markets' (market to list of tags)"
            ) from error
        return cls(tables.events, tables.markets)

    @property
    def markets(self) -> tuple[str, ...]:
        """All markets, in the table's order."""
        return tuple(self._market_tags)

    @property
    def events(self) -> tuple[str, ...]:
        """All events, in the table's order."""
        return tuple(self._event_tags)

    def affected_by(self, event_type: EventType | str) -> tuple[str, ...]:
        """The markets that share a tag with the event, in the table's order.

        Raises:
            ValueError: an event that the table does not know.
        """
        try:
            return self._affected[str(event_type)]
        except KeyError:
            raise ValueError(f"unknown event type {str(event_type)!r}; known: {', '.join(self._event_tags)}") from None

    def get_affected_markets(self, event_type: EventType | str) -> AffectedMarkets:
        """What the event retires and what it spares.

        Raises:
            ValueError: an event that the table does not know.
        """
        markets = self.affected_by(event_type)
        tags = self._event_tags[str(event_type)]
        total = len(self._market_tags)
        impact = 100 * len(markets) / total if total else 0.0
        return AffectedMarkets(
            markets=list(markets),
            tags=list(tags),
            impact_pct=impact,
            affected_count=len(markets),
            total_markets=total,
            cpu_saving_pct=100 - impact if total else 0.0,
            reasoning=f"{event_type} touches {', '.join(tags)}: {len(markets)} of {total} markets depend on it",
        )

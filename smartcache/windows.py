"""Since when the statistics of each category count: the baseline that resets move, by hand or on schedule.

Only :meth:`CacheMetrics.get_stats` and the exporter's JSON count from here; what Prometheus scrapes only grows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TypedDict

from smartcache.catalogue import CATEGORIES
from smartcache.snapshot import Totals

__all__ = ["PERIODS", "Window", "Windows"]

#: Seconds between two scheduled resets; both fall on full hours of UTC, the daily one on 00:00.
PERIODS: Final[Mapping[str, int]] = {"hourly": 3600, "daily": 86_400}


class Window(TypedDict):
    """Since when a category counts (ISO 8601, UTC; None: since counting began), and how often it begins anew."""

    since: str | None
    resets: str | None


class Windows:
    """The baselines of the seven categories.

    Attributes:
        baseline: category to the totals when it last began anew; none means since counting began.
        due: the next scheduled reset, in seconds since the epoch; infinite without any.
    """

    def __init__(self) -> None:
        self.baseline: dict[str, Totals] = {}
        self.due = math.inf
        self._since: dict[str, float] = {}
        self._schedule: dict[str, str] = {}

    def schedule(self, category: str, period: str, now: float) -> None:
        """Let a category begin anew once a period.

        Raises:
            ValueError: not one of the seven categories, or no such period.
        """
        _check(category)
        if period not in PERIODS:
            raise ValueError(f"a reset is {' or '.join(PERIODS)}, got {period!r}")
        self._schedule[category] = period
        self.due = min(_begin(period, now) + PERIODS[period] for period in self._schedule.values())

    def reset(self, category: str, now: float, totals: Totals) -> None:
        """Count a category from these totals on.

        Raises:
            ValueError: not one of the seven categories.
        """
        _check(category)
        self.baseline[category] = totals
        self._since[category] = now

    def is_due(self, now: float) -> bool:
        """Whether a scheduled reset is due; after a clock was set back the next one is no further than a period."""
        self.due = min(
            self.due, *(_begin(period, now) + PERIODS[period] for period in self._schedule.values()), math.inf
        )
        return now >= self.due

    def turn(self, now: float, totals: Totals) -> list[str]:
        """Do the scheduled resets that are due, and say for which categories."""
        begun = {category: _begin(period, now) for category, period in self._schedule.items()}
        turned = [category for category, begin in begun.items() if begin >= self.due]
        for category in turned:
            self.reset(category, begun[category], totals)
        self.due = min((begun[name] + PERIODS[period] for name, period in self._schedule.items()), default=math.inf)
        return turned

    def forget(self) -> None:
        """Count everything from the beginning; the schedule stays."""
        self.baseline.clear()
        self._since.clear()

    def describe(self) -> dict[str, Window]:
        """All seven, as shown to people."""
        return {
            category: Window(
                since=None if (since := self._since.get(category)) is None else _iso(since),
                resets=self._schedule.get(category),
            )
            for category in CATEGORIES
        }


def _begin(period: str, now: float) -> float:
    return float(now // PERIODS[period] * PERIODS[period])


def _iso(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).isoformat(timespec="seconds")


def _check(category: str) -> None:
    if category not in CATEGORIES:
        raise ValueError(f"unknown category {category!r}; the categories are {', '.join(CATEGORIES)}")

"""The recording rules, from the catalogue."""

from __future__ import annotations

from typing import Final

from alerts.promql import seconds, selectors
from alerts.rule import Group, Rule, document
from smartcache.catalogue import RULES, RecordingRule

__all__ = ["recording_file"]

#: Beyond this range a rule reads so many samples, and moves so little in a scrape, that once a minute is enough.
_LONG_SECONDS: Final = seconds("2h")


def recording_file() -> str:
    """The rule file with every recording rule of the catalogue."""
    short = [_rule(rule) for rule in RULES if _range(rule) <= _LONG_SECONDS]
    long = [_rule(rule) for rule in RULES if _range(rule) > _LONG_SECONDS]
    groups = [Group("smartcache-recording", short), Group("smartcache-recording-long", long, interval="1m")]
    return document(groups, "smartcache/catalogue.py")


def _rule(rule: RecordingRule) -> Rule:
    return {"record": rule.record, "expr": rule.expr}


def _range(rule: RecordingRule) -> float:
    return max(selector.range or 0 for selector in selectors(rule.expr))

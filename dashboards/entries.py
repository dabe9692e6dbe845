"""From entries of the catalogue to panels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from grafanalib.core import Panel

from dashboards import promql, tone
from dashboards.panels import State, Target, bars, gauge, graph, tile
from smartcache.catalogue import (
    BREAKER_STATES,
    FAMILY,
    GOVERNOR_MODES,
    RULE,
    STATISTIC,
    STATISTICS,
    Category,
    Family,
    Statistic,
)
from smartcache.objectives import Objective

__all__ = ["BREAKER", "GOVERNOR", "colour", "counted", "derived", "history", "judged_by", "listed", "named", "plain"]

#: Grafana's units for the catalogue's.
_UNITS: Final = {"": "short", "seconds": "s", "bytes": "bytes", "ratio": "percentunit", "per_second": "reqps"}


def _from_good_to_bad(states: tuple[str, str, str]) -> tuple[State, ...]:
    colours = (tone.GOOD, tone.WARN, tone.BAD)
    return tuple(State(index, states[index].replace("_", " "), colours[index]) for index in range(3))


#: Words for what ``promql.worst`` gives.
GOVERNOR: Final = _from_good_to_bad(GOVERNOR_MODES)
BREAKER: Final = _from_good_to_bad(BREAKER_STATES)

#: Label values that are good or bad in themselves.
_MEANING: Final[Mapping[str, str]] = {
    "success": tone.GOOD,
    "error": tone.BAD,
    "timeout": tone.WARN,
    "live": tone.GOOD,
    "dead": tone.WARN,
    "unreadable": tone.BAD,
}


def colour(entry: Statistic) -> str:
    """The colour of a statistic's series."""
    return tone.TONES[entry.colour]


def judged_by(objective: Objective) -> str:
    """What a description says of an objective."""
    return f"Objective: {objective.describe()}. {objective.why}"


def listed(entries: Iterable[Statistic]) -> str:
    """What a description says of statistics."""
    return "\n".join(f"- **{entry.title}** (`{entry.name}`): {entry.help}" for entry in entries)


def named(family: str, label: str) -> dict[str, tuple[str, str]]:
    """What the series of a label's values are called, and their colours."""
    values = FAMILY[family].label(label).values
    shades = iter(tone.SHADES * 2)
    return {value: (value.replace("_", " "), _MEANING.get(value) or next(shades)) for value in values}


def counted(
    category: Category,
    family: str,
    title: str,
    *,
    width: int = 8,
    events: bool = False,
    unit: str = "reqps",
) -> Panel:
    """All statistics of a category that one counter family holds, per second or, as ``events``, counted."""
    entries = [entry for entry in STATISTICS if entry.category == category and entry.family == family]
    neutral = sum(entry.colour == "neutral" for entry in entries)
    shades = iter(tone.SHADES if neutral > 1 else (tone.NEUTRAL,))
    targets = [
        Target(
            promql.statistic(entry, events=events),
            entry.title,
            next(shades) if entry.colour == "neutral" else colour(entry),
        )
        for entry in entries
    ]
    said = listed(entries)
    if events:
        return bars(title, said, targets, size=(width, 7))
    stack = len(entries) > 1
    return graph(title, said, unit, targets, size=(width, 7), stack=stack, no_value=tone.NO_DATA)


def derived(name: str, width: int = 4) -> Panel:
    """One statistic that is a single value."""
    entry = STATISTIC[name]
    said = f"{entry.help} Statistic `{entry.name}`."
    if entry.objective is not None:
        said = f"{said} {judged_by(entry.objective)}"
    target = Target(promql.statistic(entry), entry.title, instant=True)
    if entry.panel == "gauge":
        bound = entry.objective
        return gauge(
            entry.title,
            said,
            target,
            steps=tone.steps(bound) if bound else (),
            size=(width, 7),
            most=4 * bound.threshold if bound and bound.sense == "at_most" else 1,
        )
    unit = {"count": "reqps", "percent": "percentunit", "milliseconds": "s"}[entry.unit]
    return tile(
        entry.title,
        said,
        unit,
        target,
        size=(width, 7),
        steps=tone.steps(entry.objective) if entry.objective else (),
        background=False,
    )


def history(title: str, text: str, record: str, objective: Objective, *more: Target, width: int = 8) -> Panel:
    """A recorded value over time, with a line at its objective."""
    rule = RULE[record]
    at_most = objective.sense == "at_most"
    return graph(
        title,
        f"{text} {judged_by(objective)}",
        _UNITS[rule.unit],
        [Target(promql.recorded(record), objective.title, tone.NEUTRAL), *more],
        size=(width, 7),
        steps=tone.line(objective),
        ceiling=objective.threshold * 1.2 if at_most else 1,
        decimals=1 if rule.unit == "ratio" else None,
    )


def plain(family: Family, title: str, entry: Statistic | None = None) -> Panel:
    """A family, or a statistic of it, as it comes: a counter's rate, a gauge, a histogram's 99th percentile."""
    by = "" if entry else ",".join(label.name for label in family.labels)
    unit = "ops" if family.kind == "counter" else _UNITS[family.unit]
    if entry:
        target = Target(promql.statistic(entry), entry.title, colour(entry))
    elif family.kind == "histogram":
        target = Target(promql.quantile(0.99, family.name, by=by), _legend(family), exemplar=True)
    else:
        query = promql.rate if family.kind == "counter" else promql.gauge
        target = Target(query(family.name, by=by), _legend(family))
    said = f"{entry.help} Statistic `{entry.name}`." if entry else family.help
    return graph(title, said, unit, [target], no_value=tone.NO_DATA)


def _legend(family: Family) -> str:
    return ", ".join(f"{{{{{label.name}}}}}" for label in family.labels) or "all processes"

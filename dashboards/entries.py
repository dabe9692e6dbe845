"""From entries of the catalogue to panels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from grafanalib.core import Panel

from dashboards import promql, tone
from dashboards.panels import State, Target, bars, gauge, graph, heatmap, tile, timeline
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

__all__ = [
    "BREAKER",
    "GOVERNOR",
    "colour",
    "counted",
    "derived",
    "history",
    "judged_by",
    "listed",
    "named",
    "plain",
    "told",
]

#: Grafana's units for the catalogue's.
_UNITS: Final = {"": "short", "seconds": "s", "bytes": "bytes", "ratio": "percentunit", "per_second": "reqps"}


def _from_good_to_bad(states: Sequence[str]) -> tuple[State, ...]:
    colours = (tone.GOOD, *(tone.WARN for _ in states[2:]), tone.BAD)
    return tuple(
        State(place, state.replace("_", " "), shade)
        for place, (state, shade) in enumerate(zip(states, colours, strict=True))
    )


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


def plain(family: Family, title: str, entry: Statistic | None = None, *, width: int = 8) -> Panel:
    """A family, or a statistic of it, all of it in one panel of the kind that the catalogue names."""
    by = "" if entry else ",".join(label.name for label in family.labels)
    match = () if entry is None else tuple(f'{name}="{value}"' for name, value in entry.match)
    legend = entry.title if entry else _legend(family)
    tint = colour(entry) if entry else None
    said = f"{entry.help} Statistic `{entry.name}`." if entry else told(family.name)
    size, name, unit = (width, 7), family.name, _UNITS[family.unit]
    labels = () if entry else family.labels
    names = named(name, labels[0].name) if len(labels) == 1 and not isinstance(labels[0].values, str) else {}

    def lines(unit: str, query: str, exemplar: bool = False) -> Panel:
        target = Target(query, legend, tint, exemplar=exemplar)
        return graph(title, said, unit, [target], size=size, names=names, no_value=tone.NO_DATA)

    match family.shown:
        case "rate":
            return lines("ops", promql.rate(name, *match, by=by))
        case "value":
            return lines(unit, promql.gauge(name, *match, by=by))
        case "quantile":
            return lines(unit, promql.quantile(0.99, name, *match, by=by), exemplar=True)
        case "events":
            return bars(title, said, [Target(promql.count(name, *match, by=by), legend, tint)], size=size, names=names)
        case "heatmap":
            return heatmap(title, said, unit, promql.buckets(name, *match), size=size)
        case "figure":
            return tile(title, said, unit, Target(promql.gauge(name, *match, by=by), legend, instant=True), size=size)
        case "states":
            (label,) = family.labels
            worst = Target(promql.worst(name, label.name), "worst process")
            return timeline(title, said, [worst], _from_good_to_bad(label.values), size=size)


def told(family: str) -> str:
    """What a description says of a family."""
    return f"{FAMILY[family].help} {FAMILY[family].why}"


def _legend(family: Family) -> str:
    return ", ".join(f"{{{{{label.name}}}}}" for label in family.labels) or "all processes"

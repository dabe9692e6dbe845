"""``docs/metrics.md``: the catalogue as a page to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from smartcache.catalogue import CATEGORIES, FAMILIES, PARTS, RULES, STATISTICS, Family, Label, Shown
from smartcache.objectives import OBJECTIVES

__all__ = ["page"]


_SHOWN: Final[Mapping[Shown, str]] = {
    "rate": "per second",
    "events": "events counted",
    "value": "value over time",
    "quantile": "99th percentile",
    "heatmap": "heatmap",
    "states": "states over time",
    "figure": "figure",
}


def page() -> str:
    """The page, ready to be written."""
    return "\n".join(
        [
            "# Metrics",
            "",
            "Generated from `smartcache/catalogue.py` and `smartcache/objectives.py` by `make dashboards`; edit those.",
            "",
            "## Objectives",
            "",
            *_table(
                ("objective", "bound", "over", "why"),
                ((o.title, o.describe(), o.window, o.why) for o in OBJECTIVES),
            ),
            "",
            f"## The {len(STATISTICS)} statistics",
            "",
            "`get_stats()` uses these names. In Prometheus, times are in seconds and shares run from 0 to 1.",
            "",
            *_statistics(),
            "## Series",
            "",
            "What the exporter shows. Counters and histograms of several processes are added up; how gauges are "
            "combined stands beside them. Label values in italics come from configuration; what lies outside is "
            "counted under `other`, and what has no such thing under `none`.",
            "",
            *_families(),
            "## Recording rules",
            "",
            "Computed by Prometheus every 5 s, for each job; absent, not NaN, while there is no traffic.",
            "",
            *_rules(),
        ]
    )


def _statistics() -> Iterable[str]:
    for category, (title, question) in CATEGORIES.items():
        yield from (f"### {title}", "", question, "")
        yield from _table(
            ("statistic", "unit", "series or rule", "meaning", "objective"),
            (
                (f"`{s.name}`", s.unit, f"`{s.selector()}`", s.help, s.objective.describe() if s.objective else "")
                for s in STATISTICS
                if s.category == category
            ),
        )
        yield ""


def _families() -> Iterable[str]:
    for category, (title, _) in {**CATEGORIES, **PARTS}.items():
        if not any(family.category == category for family in FAMILIES):
            continue  # shares the series of another
        yield from (f"### {title}: series", "")
        yield from _table(
            ("series", "type", "unit", "labels", "processes", "shown", "meaning", "why", "objective"),
            (
                (
                    f"`{f.name}`",
                    f.kind,
                    f.unit or "count",
                    _labels(f),
                    _combined(f),
                    _SHOWN[f.shown],
                    f.help + _edges(f),
                    f.why,
                    f.objective.describe() if f.objective else "",
                )
                for f in FAMILIES
                if f.category == category
            ),
        )
        yield ""


def _rules() -> Iterable[str]:
    for rule in RULES:
        bound = f" Objective: {rule.objective.describe()}." if rule.objective else ""
        unit = {"ratio": "Unit: ratio.", "seconds": "Unit: seconds.", "per_second": "Unit: per second."}[rule.unit]
        yield from (f"### `{rule.record}`", "", f"{rule.help} {unit}{bound}", "", "```promql", rule.expr, "```", "")


def _labels(family: Family) -> str:
    return "<br>".join(f"`{label.name}`: {_values(label)}" for label in family.labels)


def _values(label: Label) -> str:
    if isinstance(label.values, str):
        return f"*{label.values}*"
    return ", ".join(f"`{value}`" for value in label.values) or "free text"


def _combined(family: Family) -> str:
    if family.by_exporter:
        return "the exporter's own"
    return {"sum": "added up", "max": "the greatest", "min": "the least", "states": "counted by state"}[family.combine]


def _edges(family: Family) -> str:
    return f" Edges: {', '.join(f'{edge:g}' for edge in family.buckets)}." if family.buckets else ""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]

"""Rules that the final JSON of dashboards must keep. Each says what is wrong, where, and what would be right.

They hold what dashboard-linter demands, and what it cannot see: that a query names only series, labels and label
values which the catalogue has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Final

from dashboards.classic import SCHEMA_VERSION
from dashboards.grid import COLUMNS
from dashboards.promql import RECENT
from smartcache.catalogue import FAMILY, RULE, Family
from smartcache.objectives import OBJECTIVES

__all__ = ["OTHERS", "Selector", "problems", "selectors"]

Json = Mapping[str, Any]

#: Series that are not ours, by whether they are counters.
OTHERS: Final[Mapping[str, bool]] = {
    "ALERTS": False,
    "ALERTS_FOR_STATE": False,
    "up": False,
    "alertmanager_notifications_failed_total": True,
    "process_cpu_seconds_total": True,
    "process_resident_memory_bytes": False,
    "prometheus_notifications_dropped_total": True,
    "prometheus_rule_evaluation_failures_total": True,
    "redis_commands_processed_total": True,
    "redis_connected_clients": False,
    "redis_evicted_keys_total": True,
    "redis_memory_max_bytes": False,
    "redis_memory_used_bytes": False,
    "redis_up": False,
}
_TYPES: Final = frozenset({"bargauge", "gauge", "heatmap", "stat", "state-timeline", "table", "timeseries"})
_UNITS: Final = frozenset({"bytes", "none", "ops", "percentunit", "reqps", "s", "short"})
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WINDOWS: Final = {"$__rate_interval", "$__range", RECENT, *(objective.window for objective in OBJECTIVES)}
_HISTOGRAM: Final = re.compile(r"_(bucket|sum|count)$")


@dataclass(frozen=True, slots=True)
class Selector:
    """One selector of a query.

    Attributes:
        metric: name of the series.
        matchers: label, operator and value.
        function: the function that it stands in directly, such as ``rate``; empty if none.
        window: its range, without brackets; empty if it has none.
    """

    metric: str
    matchers: tuple[tuple[str, str, str], ...]
    function: str
    window: str

    @property
    def family(self) -> Family | None:
        """The catalogue's family behind it."""
        return FAMILY.get(self.metric) or FAMILY.get(_HISTOGRAM.sub("", self.metric))


def problems(dashboards: Sequence[Json]) -> list[str]:
    """What is wrong with the dashboards of one folder; empty when all is well."""
    found = [f"two dashboards have the uid {uid!r}" for uid in _twice(one["uid"] for one in dashboards)]
    found += [f"two dashboards have the title {title!r}" for title in _twice(one["title"] for one in dashboards)]
    for dashboard in dashboards:
        rules = (_head, _variables, _identity, _grid, _look, _queries, _links)
        found += [f"{dashboard['uid']}: {problem}" for rule in rules for problem in rule(dashboard)]
    return found


def selectors(expr: str) -> list[Selector]:
    """The selectors of a PromQL query, the bare names of series among them."""
    named = re.compile(r"(?:(\w+)\s*\(\s*)?([a-zA-Z_:][\w:]*)\s*\{([^{}]*)\}(?:\[([^\]]*)\])?")
    found = [
        Selector(metric, tuple(re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"', matchers)), function, window)
        for function, metric, matchers, window in named.findall(expr)
    ]
    text_or_labels = r'"(?:[^"\\]|\\.)*"|\b(?:by|without|on|ignoring)\s*\([^)]*\)'
    rest = re.sub(text_or_labels, " ", named.sub(r"\1(", expr))
    words = {"and", "bool", "or", "unless"}
    bare = [word for word in re.findall(r"(?<![\w.$])[a-zA-Z_:][\w:]*(?!\s*\()(?![\w:])", rest) if word not in words]
    return found + [Selector(name, (), "", "") for name in bare]


def _head(dashboard: Json) -> Iterator[str]:
    wanted = {"editable": False, "graphTooltip": 1, "schemaVersion": SCHEMA_VERSION}
    for key, value in wanted.items():
        if dashboard.get(key) != value:
            yield f"{key} is {dashboard.get(key)!r}: it must be {value!r}"
    if not 0 < len(dashboard["uid"]) <= 40:
        yield "the uid must have 1 to 40 characters"
    for key in ("refresh", "tags", "time", "timezone", "title"):
        if not dashboard.get(key):
            yield f"{key} is missing"
    for annotation in dashboard["annotations"]["list"]:
        if not {"type", "uid"} <= annotation["datasource"].keys():
            yield f"annotation {annotation['name']!r}: its data source needs type and uid"


def _variables(dashboard: Json) -> Iterator[str]:
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    chooses = {"multi": True, "includeAll": True, "allValue": ".+", "refresh": 2, "datasource": _DATASOURCE}
    wanted: dict[str, dict[str, Any]] = {
        "datasource": {"type": "datasource", "label": "Data source", "query": "prometheus"},
        "job": {"type": "query", "label": "Job", **chooses},
        "instance": {"type": "query", "label": "Instance", **chooses},
    }
    for name, properties in wanted.items():
        if name not in variables:
            yield f"the variable {name!r} is missing"
            continue
        for key, value in properties.items():
            if variables[name].get(key) != value:
                yield f"variable {name!r}: {key} is {variables[name].get(key)!r}: it must be {value!r}"
        if "allValue" in properties and variables[name]["current"].get("value") != "$__all":
            yield f"variable {name!r}: it must begin with all, which is written $__all"


def _identity(dashboard: Json) -> Iterator[str]:
    for key in ("id", "title"):
        for value in _twice(panel[key] for panel in dashboard["panels"]):
            yield f"two panels have the {key} {value!r}"


def _grid(dashboard: Json) -> Iterator[str]:
    boxes = [(panel["title"], *(panel["gridPos"][key] for key in "xywh")) for panel in dashboard["panels"]]
    for title, x, y, w, h in boxes:
        if min(x, y) < 0 or min(w, h) < 1 or x + w > COLUMNS:
            yield f"panel {title!r}: x={x} y={y} w={w} h={h} is not within {COLUMNS} columns"
    for (a, ax, ay, aw, ah), (b, bx, by, bw, bh) in combinations(boxes, 2):
        if ax < bx + bw and bx < ax + aw and ay < by + bh and by < ay + ah:
            yield f"panels {a!r} and {b!r} overlap"


def _look(dashboard: Json) -> Iterator[str]:
    for panel in _drawn(dashboard):
        where = f"panel {panel['title']!r}"
        defaults = panel["fieldConfig"]["defaults"]
        if panel["type"] not in _TYPES:
            yield f"{where}: its type {panel['type']!r} is none of {', '.join(sorted(_TYPES))}"
        if not panel.get("description"):
            yield f"{where}: it has no description"
        if defaults.get("unit") not in _UNITS:
            yield f"{where}: its unit {defaults.get('unit')!r} is none of {', '.join(sorted(_UNITS))}"
        if not defaults.get("noValue"):
            yield f"{where}: it does not say what no value means (noValue)"
        values = [step["value"] for step in defaults["thresholds"]["steps"]]
        if not values or values[0] is not None:
            yield f"{where}: the first threshold is {values[:1]}: it must be null"
        if any(not isinstance(value, int | float) for value in values[1:]):
            yield f"{where}: only the first threshold may be null, and none a text: {values}"
        elif any(low >= high for low, high in pairwise(values[1:])):
            yield f"{where}: its thresholds do not rise: {values}"


def _queries(dashboard: Json) -> Iterator[str]:
    for panel in _drawn(dashboard):
        where = f"panel {panel['title']!r}"
        if panel.get("datasource") != _DATASOURCE:
            yield f"{where}: its data source is {panel.get('datasource')!r}: it must be {_DATASOURCE}"
        if not panel.get("targets"):
            yield f"{where}: it has no query"
        for name in _twice(target["refId"] for target in panel.get("targets", [])):
            yield f"{where}: two queries have the refId {name}"
        for target in panel.get("targets", []):
            place = f"{where}, query {target['refId']}"
            if target.get("datasource") != _DATASOURCE:
                yield f"{place}: its data source is {target.get('datasource')!r}: it must be {_DATASOURCE}"
            found = selectors(target["expr"])
            reads_buckets = any(selector.metric.endswith("_bucket") for selector in found)
            if reads_buckets != target["exemplar"]:
                yield f"{place}: exemplars are asked for exactly where buckets are read"
            for label in re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"]):
                if not re.search(rf"\b{label}\b", target["expr"]):
                    yield f"{place}: the legend names {label!r}, which does not survive the query"
            yield from (f"{place}: {problem}" for selector in found for problem in _selector(selector))


def _selector(selector: Selector) -> Iterator[str]:
    family, metric = selector.family, selector.metric
    matched = {label: operator + value for label, operator, value in selector.matchers}
    if family is not None:
        counter = family.kind != "gauge"
        if family.kind == "histogram" and family.name == metric:
            yield f"{metric} is a histogram: only its _bucket, _sum and _count exist"
        scope = {"job": "=~$job", "instance": "=~$instance"}
        yield from _labels(family, selector)
    elif metric in RULE:
        counter, scope = False, {"job": "=~$job"}
    elif metric in OTHERS:
        counter, scope = OTHERS[metric], {}
        if metric not in ("ALERTS", "ALERTS_FOR_STATE", "up") and not matched.get("job", "").startswith("="):
            yield f"{metric} needs the job it comes from"
    else:
        yield f"{metric} is neither in the catalogue nor among the other series that may be used"
        return
    for label, value in scope.items():
        if matched.get(label) != value:
            yield f'{metric} must be narrowed by {label}{value[:2]}"{value[2:]}"'
    moving = selector.function in ("rate", "irate", "increase")
    if counter != moving:
        yield f"{metric} is a {'counter: use rate or increase' if counter else 'gauge: it has no rate'}"
    if selector.function in ("rate", "irate") and selector.window != "$__rate_interval":
        yield f"{metric}: the range of {selector.function} is {selector.window}: it must be $__rate_interval"
    if selector.function == "increase" and selector.window not in _WINDOWS:
        yield f"{metric}: the range of increase is {selector.window}: it must be one of {', '.join(sorted(_WINDOWS))}"


def _labels(family: Family, selector: Selector) -> Iterator[str]:
    known = {label.name: label.values for label in family.labels}
    for label, operator, value in selector.matchers:
        if label in ("job", "instance"):
            continue
        if label not in known:
            yield f"{family.name} has no label {label!r}"
        elif not isinstance(known[label], str):
            wrong = set(value.split("|") if "~" in operator else [value]) - set(known[label])
            if wrong:
                yield f"{family.name}: {label} is never {', '.join(sorted(wrong))}"


def _links(dashboard: Json) -> Iterator[str]:
    ids = {panel["id"] for panel in dashboard["panels"]}
    for panel in _drawn(dashboard):
        for link in panel["fieldConfig"]["defaults"].get("links", []):
            target = re.search(r"viewPanel=(\d+)", link["url"])
            if target and int(target[1]) not in ids:
                yield f"panel {panel['title']!r}: its link {link['title']!r} leads to no panel"


def _drawn(dashboard: Json) -> Iterator[Json]:
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def _twice(values: Iterator[Any]) -> list[Any]:
    return [value for value, times in Counter(values).items() if times > 1]

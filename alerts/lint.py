"""What promtool lets pass and on-call would regret, checked on the rule files as Prometheus reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast, get_args

import yaml

from alerts.bounds import SCRAPE_SECONDS
from alerts.promql import Selector, operators, seconds, selectors
from alerts.rule import Severity
from smartcache.catalogue import FAMILY, RULE, Kind

__all__ = ["THIRD_PARTY", "lint", "lint_expression"]

#: Series that other programs expose and that rules or runbooks read. A test looks them up on the programs' own pages.
THIRD_PARTY: Final[Mapping[str, Kind]] = {
    # Prometheus itself, about its targets and alerts
    "up": "gauge",
    "ALERTS": "gauge",
    "scrape_duration_seconds": "gauge",
    # every process, the service's among them
    "process_cpu_seconds_total": "counter",
    "process_resident_memory_bytes": "gauge",
    "process_start_time_seconds": "gauge",
    # redis_exporter
    "redis_up": "gauge",
    "redis_connected_clients": "gauge",
    "redis_evicted_keys_total": "counter",
    "redis_instance_info": "gauge",
    "redis_memory_max_bytes": "gauge",
    "redis_memory_used_bytes": "gauge",
    "redis_rejected_connections_total": "counter",
    "redis_uptime_in_seconds": "gauge",
    # Prometheus
    "prometheus_config_last_reload_success_timestamp_seconds": "gauge",
    "prometheus_config_last_reload_successful": "gauge",
    "prometheus_notifications_alertmanagers_discovered": "gauge",
    "prometheus_notifications_errors_total": "counter",
    "prometheus_rule_evaluation_failures_total": "counter",
    "prometheus_rule_group_last_duration_seconds": "gauge",
    # Alertmanager
    "alertmanager_alerts": "gauge",
    "alertmanager_config_last_reload_success_timestamp_seconds": "gauge",
    "alertmanager_config_last_reload_successful": "gauge",
    "alertmanager_notifications_failed_total": "counter",
    "alertmanager_notifications_total": "counter",
}
#: Labels that scraping adds to every series.
_TARGET_LABELS: Final = frozenset(("job", "instance"))
_COUNTER_FUNCTIONS: Final = frozenset(("rate", "increase", "irate", "resets"))
_COMPARISONS: Final = frozenset((">", "<", ">=", "<=", "==", "!="))
_ANNOTATIONS: Final = frozenset(("summary", "description", "runbook_url", "dashboard_url"))
#: A rate needs two samples even when two scrapes of four fail.
_LEAST_SCRAPES: Final = 4


def lint(*files: str) -> list[str]:
    """The defects of rule files, given as text and judged together; empty when there are none."""
    groups = [group for text in files for group in yaml.safe_load(text)["groups"]]
    return list(_defects(groups))


def lint_expression(expr: str) -> list[str]:
    """The defects of one PromQL expression: series and labels nobody exposes, ranges too short, rates of gauges."""
    return [defect for selector in selectors(expr) for defect in _selector_defects(selector)]


def _defects(groups: Sequence[Mapping[str, object]]) -> Iterator[str]:
    seen: set[str] = set()
    for group in groups:
        for rule in cast(Sequence[Mapping[str, object]], group["rules"]):
            name = str(rule.get("alert") or rule.get("record"))
            labels = cast(Mapping[str, str], rule.get("labels", {}))
            defects = [*lint_expression(str(rule["expr"]))]
            if "alert" in rule:
                defects += _alert_defects(name, rule, labels)
            else:
                defects += _record_defects(name, str(rule["expr"]))
            identity = f"{name}{sorted(labels.items())}"
            if identity in seen:
                defects.append("stands twice with the same labels")
            seen.add(identity)
            yield from (f"{name}: {defect}" for defect in defects)


def _record_defects(name: str, expr: str) -> Iterator[str]:
    if name not in RULE:
        yield "is not in the catalogue"
    stated = re.search(r"\d+[smhdwy]$", name)
    ranges = {selector.range for selector in selectors(expr)}
    if stated is None or ranges != {seconds(stated.group())}:
        yield f"its name must end in the one window it is read over, of {sorted(filter(None, ranges))} s"


def _alert_defects(name: str, rule: Mapping[str, object], labels: Mapping[str, str]) -> Iterator[str]:
    expr = str(rule["expr"])
    annotations = cast(Mapping[str, str], rule.get("annotations", {}))
    if not re.fullmatch(r"SmartCache([A-Z][a-z]*\d*)+", name):
        yield "is not CamelCase with the prefix SmartCache"
    if labels.get("severity") not in get_args(Severity):
        yield f"severity is {labels.get('severity')!r}, not one of {', '.join(get_args(Severity))}"
    if not labels.get("component"):
        yield "has no component label, which inhibition and grouping need"
    if any("{{" in value for value in labels.values()):
        yield "a label is a template: each value would be an alert of its own"
    for annotation in sorted(_ANNOTATIONS - {key for key, text in annotations.items() if text.strip()}):
        yield f"has no {annotation}"
    for annotation in ("runbook_url", "dashboard_url"):
        if not annotations.get(annotation, "").startswith(("http://", "https://")):
            yield f"{annotation} is no http address"
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(annotations.values())))
    for label in sorted(used - _surviving(expr)):
        yield f"an annotation names the label {label!r}, which does not survive the expression"
    if not selectors(expr):
        return  # always firing, by design
    if not operators(expr) & _COMPARISONS:
        yield "compares nothing: it would fire on any value"
    for key, least in (("for", 2 * SCRAPE_SECONDS), ("keep_firing_for", SCRAPE_SECONDS)):
        if key not in rule:
            yield f"has no {key}"
        elif seconds(str(rule[key])) < least:
            yield f"{key} {rule[key]} is under {least} s"


def _surviving(expr: str) -> frozenset[str]:
    if lists := re.findall(r"\bby \(([^)]*)\)", expr):
        return frozenset.intersection(*(frozenset(labels.replace(" ", "").split(",")) for labels in lists))
    return frozenset(("job",)) if "absent" in expr else _TARGET_LABELS


def _selector_defects(selector: Selector) -> Iterator[str]:
    metric, kind, labels = selector.metric, _kind(selector.metric), _labels(selector.metric)
    if kind is None:
        yield f"nobody exposes {metric}"
        return
    if selector.function in _COUNTER_FUNCTIONS and kind != "counter":
        yield f"{selector.function}() of {metric}, which is a {kind}"
    if selector.range is not None and selector.range < _LEAST_SCRAPES * SCRAPE_SECONDS:
        yield f"{metric} is read over {selector.range:g} s, under {_LEAST_SCRAPES} scrapes of {SCRAPE_SECONDS} s"
    if labels is None:
        return
    for label, operator, value in selector.matchers:
        allowed = labels.get(label, frozenset())
        values = value.split("|") if operator in ("=~", "!~") else [value]
        if label not in labels:
            yield f"{metric} has no label {label!r}"
        elif allowed is not None and not allowed.issuperset(values):
            yield f"{label} of {metric} is never {value!r}; it may be {', '.join(sorted(allowed))}"


def _family(metric: str) -> str:
    stem = re.sub(r"_(bucket|sum|count)$", "", metric)
    return stem if stem in FAMILY and FAMILY[stem].kind == "histogram" else metric


def _kind(metric: str) -> Kind | None:
    """What the samples under this name are: those of a histogram are counters; None when nobody exposes it."""
    family = FAMILY.get(_family(metric))
    if family is None:
        return "gauge" if metric in RULE else THIRD_PARTY.get(metric)
    if family.kind == "histogram":
        return "counter" if metric != family.name else None
    return family.kind


def _labels(metric: str) -> dict[str, frozenset[str] | None] | None:
    """The labels of an own series with their values, None where configuration sets those; None for others' series."""
    family = FAMILY.get(_family(metric))
    if family is None:
        return None
    free: dict[str, frozenset[str] | None] = dict.fromkeys(_TARGET_LABELS | {"le"})
    own = {
        label.name: frozenset(label.values) if isinstance(label.values, tuple) and label.values else None
        for label in family.labels
    }
    return free | own

"""The lint finds what it is there to find, and nothing in the rules that ship."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import yaml

from alerts.alerting import alerts_file
from alerts.links import Links
from alerts.lint import lint, lint_expression
from alerts.promql import Selector, operators, seconds, selectors
from alerts.recording import recording_file

GOOD: dict[str, Any] = {
    "alert": "SmartCacheHitRatioLow",
    "expr": "sum by (job) (rate(smartcache_requests_total[5m])) > 1",
    "for": "1m",
    "keep_firing_for": "1m",
    "labels": {"severity": "warning", "component": "hits"},
    "annotations": {
        "summary": "s",
        "description": "{{ $value }} of {{ $labels.job }}",
        "runbook_url": "http://127.0.0.1/r",
        "dashboard_url": "http://127.0.0.1/d",
    },
}


def defects(*rules: dict[str, Any]) -> list[str]:
    return lint(yaml.safe_dump({"groups": [{"name": "g", "rules": [deepcopy(rule) for rule in rules]}]}))


def test_the_rules_that_ship_have_no_defects() -> None:
    assert lint(recording_file(), alerts_file(Links())) == []


def test_a_good_alert_has_no_defects() -> None:
    assert defects(GOOD) == []


@pytest.mark.parametrize(
    ("change", "defect"),
    [
        ({"alert": "hit_ratio_low"}, "is not CamelCase with the prefix SmartCache"),
        (
            {"expr": "sum by (job) (rate(smartcache_requests_total[5m]))"},
            "compares nothing: it would fire on any value",
        ),
        ({"for": None}, "has no for"),
        ({"for": "5s"}, "for 5s is under 10 s"),
        ({"keep_firing_for": None}, "has no keep_firing_for"),
        (
            {"labels": {"severity": "page", "component": "hits"}},
            "severity is 'page', not one of critical, warning, info, none",
        ),
        ({"labels": {"severity": "info"}}, "has no component label, which inhibition and grouping need"),
        (
            {"labels": {"severity": "info", "component": "hits", "value": "{{ $value }}"}},
            "a label is a template: each value would be an alert of its own",
        ),
        ({"annotations": {**GOOD["annotations"], "summary": " "}}, "has no summary"),
        ({"annotations": {**GOOD["annotations"], "runbook_url": "runbooks/x"}}, "runbook_url is no http address"),
        (
            {"annotations": {**GOOD["annotations"], "summary": "{{ $labels.instance }}"}},
            "an annotation names the label 'instance', which does not survive the expression",
        ),
        ({"alert": None, "record": "smartcache:unknown:rate5m"}, "is not in the catalogue"),
        (
            {"alert": None, "record": "smartcache:http_error_ratio:rate1h"},
            "its name must end in the one window it is read over, of [300] s",
        ),
    ],
)
def test_a_defect_is_found(change: dict[str, Any], defect: str) -> None:
    rule = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    found = defects(rule)
    assert [line.partition(": ")[2] for line in found] == [defect]


def test_the_same_alert_twice_is_found() -> None:
    assert defects(GOOD, GOOD) == ["SmartCacheHitRatioLow: stands twice with the same labels"]


@pytest.mark.parametrize(
    ("expr", "defect"),
    [
        ("smartcache_request_total", "nobody exposes smartcache_request_total"),
        ("smartcache_request_duration_seconds", "nobody exposes smartcache_request_duration_seconds"),
        ("smartcache:hits:rate5m", "nobody exposes smartcache:hits:rate5m"),
        ("redis_memory_used", "nobody exposes redis_memory_used"),
        ("rate(smartcache_memory_bytes[5m])", "rate() of smartcache_memory_bytes, which is a gauge"),
        (
            "rate(smartcache_requests_total[15s])",
            "smartcache_requests_total is read over 15 s, under 4 scrapes of 5 s",
        ),
        ('smartcache_requests_total{zones="golden"}', "smartcache_requests_total has no label 'zones'"),
        (
            'smartcache_store_breaker_state{state=~"open|opened"}',
            "state of smartcache_store_breaker_state is never 'open|opened'; it may be closed, half_open, open",
        ),
    ],
)
def test_a_defect_of_an_expression_is_found(expr: str, defect: str) -> None:
    assert lint_expression(expr) == [defect]


@pytest.mark.parametrize(
    "expr",
    [
        "histogram_quantile(0.99, sum by (le) (rate(smartcache_request_duration_seconds_bucket[5m])))",
        'smartcache_http_requests_total{code=~"5..", route="/v1/matches"}',
        'up{job="smartcache", instance!="x"}',
    ],
)
def test_a_sound_expression_has_no_defects(expr: str) -> None:
    assert lint_expression(expr) == []


@pytest.mark.parametrize(
    ("expr", "metrics"),
    [
        ("vector(1)", []),
        ("a and on (job) group_left (b, c) d unless ignoring (e) f", ["a", "d", "f"]),
        ("sum(a) by (b) / sum without (c) (d offset 5m)", ["a", "d"]),
        ("sum by (job) (rate(a_total[5m])) > bool 0.5e-3 # b", ["a_total"]),
        ('label_replace(a, "b", "$1", "c", "(.*)d")', ["a"]),
        ("max_over_time(rate(a[1m])[1h:5m])", ["a"]),
        ("a:b:rate5m * 1h30m", ["a:b:rate5m"]),
    ],
)
def test_selectors_are_found_among_everything_else(expr: str, metrics: list[str]) -> None:
    assert [selector.metric for selector in selectors(expr)] == metrics


def test_a_selector_is_read_whole() -> None:
    (selector,) = selectors("""rate(a_total{b="x,}",c=~'y|z',d!=`w`,}[1h30m] offset 5m)""")
    matchers = (("b", "=", "x,}"), ("c", "=~", "y|z"), ("d", "!=", "w"))
    assert selector == Selector("a_total", matchers, 5400.0, "rate")


def test_operators_within_braces_do_not_count() -> None:
    assert operators('a{b!="c"} + d') == {"+"}


def test_what_is_no_promql_is_an_error() -> None:
    with pytest.raises(ValueError, match="not PromQL at '&& b'"):
        selectors("a && b")


@pytest.mark.parametrize(("duration", "length"), [("5m", 300), ("1h30m", 5400), ("500ms", 0.5), ("3d", 259200)])
def test_durations(duration: str, length: float) -> None:
    assert seconds(duration) == length


@pytest.mark.parametrize("duration", ["", "5", "5 m", "m5", "1.5h"])
def test_what_is_no_duration_is_an_error(duration: str) -> None:
    with pytest.raises(ValueError, match="is not a Prometheus duration"):
        seconds(duration)

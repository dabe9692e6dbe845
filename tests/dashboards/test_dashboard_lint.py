"""Each rule of the lint catches what it is for, and the generated dashboards keep them all."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from dashboards import classic
from dashboards.lint import Selector, problems, selectors
from dashboards.overview import overview

Json = dict[str, Any]

DASHBOARD: Json = json.loads(classic.render(overview()))
SCOPE = 'job=~"$job",instance=~"$instance"'


def panel(dashboard: Json, title: str = "Requests per second") -> Json:
    return next(found for found in dashboard["panels"] if found["title"] == title)


def defaults(dashboard: Json, title: str = "Requests per second") -> Json:
    found: Json = panel(dashboard, title)["fieldConfig"]["defaults"]
    return found


def query(expr: str) -> Callable[[Json], object]:
    return lambda dashboard: panel(dashboard)["targets"][0].update(expr=expr)


def test_what_is_generated_keeps_every_rule() -> None:
    assert problems([DASHBOARD]) == []


BREAKS: dict[str, tuple[Callable[[Json], object], str]] = {
    "schema": (lambda d: d.update(schemaVersion=12), "schemaVersion is 12: it must be 41"),
    "editable": (lambda d: d.update(editable=True), "editable is True"),
    "uid": (lambda d: d.update(uid="x" * 41), "1 to 40 characters"),
    "refresh": (lambda d: d.update(refresh=""), "refresh is missing"),
    "annotation": (
        lambda d: d["annotations"]["list"][1].update(datasource={"uid": "${datasource}"}),
        "its data source needs type and uid",
    ),
    "data source variable": (
        lambda d: d["templating"]["list"][0].update(name="ds"),
        "the variable 'datasource' is missing",
    ),
    "all": (lambda d: d["templating"]["list"][1].update(allValue=""), "variable 'job': allValue is ''"),
    "current": (
        lambda d: d["templating"]["list"][2]["current"].update(value="All"),
        "variable 'instance': it must begin with all",
    ),
    "ids": (lambda d: panel(d).update(id=panel(d, "Bus lag")["id"]), "two panels have the id"),
    "titles": (lambda d: panel(d).update(title="Bus lag"), "two panels have the title 'Bus lag'"),
    "width": (lambda d: panel(d)["gridPos"].update(x=20, w=6), "is not within 24 columns"),
    "overlap": (lambda d: panel(d)["gridPos"].update(y=0), "overlap"),
    "type": (lambda d: panel(d).update(type="graph"), "its type 'graph' is none of"),
    "description": (lambda d: panel(d).update(description=""), "it has no description"),
    "no unit": (lambda d: defaults(d).pop("unit"), "its unit None is none of"),
    "unknown unit": (lambda d: defaults(d).update(unit="requests"), "its unit 'requests' is none of"),
    "nothing": (lambda d: defaults(d).pop("noValue"), "it does not say what no value means"),
    "first threshold": (lambda d: defaults(d)["thresholds"]["steps"][0].update(value=0), "it must be null"),
    "threshold text": (
        lambda d: defaults(d)["thresholds"]["steps"].append({"color": "red", "value": "null"}),
        "only the first threshold may be null",
    ),
    "threshold order": (
        lambda d: defaults(d)["thresholds"]["steps"].extend(
            [{"color": "red", "value": 2}, {"color": "red", "value": 1}]
        ),
        "its thresholds do not rise",
    ),
    "panel source": (lambda d: panel(d).update(datasource="Prometheus"), "its data source is 'Prometheus'"),
    "query source": (lambda d: panel(d)["targets"][0].pop("datasource"), "its data source is None"),
    "no query": (lambda d: panel(d).update(targets=[]), "it has no query"),
    "refIds": (
        lambda d: panel(d, "Traffic and failures")["targets"][1].update(refId="A"),
        "two queries have the refId A",
    ),
    "exemplars": (
        lambda d: panel(d, "Request duration")["targets"][0].update(exemplar=False),
        "exemplars are asked for exactly where buckets are read",
    ),
    "legend": (
        lambda d: panel(d)["targets"][0].update(legendFormat="{{market}}"),
        "the legend names 'market', which does not survive",
    ),
    "unknown series": (
        query(f"sum (rate(smartcache_request_total{{{SCOPE}}}[$__rate_interval]))"),
        "neither in the catalogue",
    ),
    "bare series": (query("max (smartcache_memory_entries)"), 'must be narrowed by job=~"$job"'),
    "job": (query('max (smartcache_memory_entries{instance=~"$instance"})'), 'narrowed by job=~"$job"'),
    "instance": (query('max (smartcache_memory_entries{job=~"$job"})'), 'narrowed by instance=~"$instance"'),
    "rule's job": (query("smartcache:hit_ratio:rate5m"), 'narrowed by job=~"$job"'),
    "their job": (query("max (redis_up)"), "redis_up needs the job it comes from"),
    "counter": (query(f"sum (smartcache_requests_total{{{SCOPE}}})"), "is a counter: use rate or increase"),
    "gauge": (query(f"rate(smartcache_memory_bytes{{{SCOPE}}}[$__rate_interval])"), "is a gauge: it has no rate"),
    "rate": (query(f"sum (rate(smartcache_requests_total{{{SCOPE}}}[5m]))"), "it must be $__rate_interval"),
    "increase": (query(f"sum (increase(smartcache_requests_total{{{SCOPE}}}[7m]))"), "the range of increase is 7m"),
    "histogram": (
        query(f"sum (rate(smartcache_request_duration_seconds{{{SCOPE}}}[$__rate_interval]))"),
        "only its _bucket, _sum and _count exist",
    ),
    "label": (
        query(f'sum (rate(smartcache_requests_total{{key="k",{SCOPE}}}[$__rate_interval]))'),
        "has no label 'key'",
    ),
    "value": (
        query(f'sum (rate(smartcache_requests_total{{zone=~"golden|gone",{SCOPE}}}[$__rate_interval]))'),
        "zone is never gone",
    ),
    "link": (
        lambda d: defaults(d, "Hits")["links"][0].update(url="/d/smartcache-overview?viewPanel=7"),
        "leads to no panel",
    ),
}


@pytest.mark.parametrize(("change", "message"), BREAKS.values(), ids=BREAKS)
def test_a_broken_dashboard_is_told(change: Callable[[Json], object], message: str) -> None:
    broken = copy.deepcopy(DASHBOARD)
    change(broken)
    assert any(message in problem for problem in problems([broken])), problems([broken])


def test_dashboards_of_one_folder_share_no_uid_and_no_title() -> None:
    found = problems([DASHBOARD, DASHBOARD])
    assert "two dashboards have the uid 'smartcache-overview'" in found
    assert "two dashboards have the title 'smartcache overview'" in found


def test_selectors_are_read_from_a_query() -> None:
    expr = (
        'max by (job) (up) / sum by (le) (rate(a_bucket{x="1|2",y!~"z"}[$__rate_interval])) and on (job) b:c{} > 0.5e3'
    )
    assert sorted(selectors(expr), key=lambda selector: selector.metric) == [
        Selector("a_bucket", (("x", "=", "1|2"), ("y", "!~", "z")), "rate", "$__rate_interval"),
        Selector("b:c", (), "", ""),
        Selector("up", (), "", ""),
    ]

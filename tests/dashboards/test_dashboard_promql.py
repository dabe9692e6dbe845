"""The queries are valid PromQL and mean what they say, asked of the real promtool."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import classic, promql
from dashboards.overview import overview
from stack.tools import find_tool

VARIABLES = {"$__rate_interval": "1m", "$__range": "5m", "$job": ".+", "$instance": ".+"}
DASHBOARD: dict[str, Any] = json.loads(classic.render(overview()))


def filled(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


def promtool(*arguments: str | Path) -> None:
    run = subprocess.run([find_tool("promtool"), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_query_is_valid(tmp_path: Path) -> None:
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    asked += [note["target"]["expr"] for note in DASHBOARD["annotations"]["list"] if "target" in note]
    rules = [{"record": f"query:{number}", "expr": filled(expr)} for number, expr in enumerate(asked)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}), "utf-8")
    assert len(rules) > 100
    promtool("check", "rules", file)


def expect(tmp_path: Path, series: dict[str, str], expr: str, samples: list[dict[str, Any]]) -> None:
    """That ``expr`` gives ``samples`` after 5 minutes of ``series``, which have a value every 5 s."""
    test = {
        "rule_files": [],
        "evaluation_interval": "5s",
        "tests": [
            {
                "interval": "5s",
                "input_series": [
                    {"series": name.replace("}", ',job="smartcache",instance="a"}'), "values": values}
                    for name, values in series.items()
                ],
                "promql_expr_test": [{"expr": filled(expr), "eval_time": "5m", "exp_samples": samples}],
            }
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump(test), "utf-8")
    promtool("test", "rules", file)


GOVERNOR = "smartcache_governor_mode"


@pytest.mark.parametrize(
    ("processes", "worst"),
    [((2, 0, 0), 0), ((1, 1, 0), 1), ((0, 2, 0), 1), ((1, 1, 1), 2), ((0, 0, 0), None)],
    ids=["all normal", "one restless", "all restless", "one open", "no process"],
)
def test_the_worst_state_of_any_process_is_shown(
    tmp_path: Path, processes: tuple[int, int, int], worst: int | None
) -> None:
    modes = zip(("normal", "high_volatility", "circuit_open"), processes, strict=True)
    series = {f'{GOVERNOR}{{mode="{mode}"}}': f"{count}x60" for mode, count in modes}
    samples = [] if worst is None else [{"value": worst}]
    expect(tmp_path, series, promql.worst(GOVERNOR, "mode"), samples)


LOOKUPS = 'smartcache_lookups_total{result="%s",tier="memory",market="btts"}'
HITS = 'result=~"hit_fresh|hit_stale"'


def test_a_ratio_is_a_share_of_the_whole(tmp_path: Path) -> None:
    series = {LOOKUPS % "hit_fresh": "0+3x60", LOOKUPS % "miss": "0+1x60"}
    expr = f"round({promql.ratio('smartcache_lookups_total', HITS, by='market')}, 0.0001)"
    expect(tmp_path, series, expr, [{"labels": '{market="btts"}', "value": 0.75}])


def test_a_ratio_is_absent_without_traffic(tmp_path: Path) -> None:
    expr = promql.ratio("smartcache_lookups_total", HITS, by="market")
    expect(tmp_path, {LOOKUPS % "hit_fresh": "5x60", LOOKUPS % "miss": "2x60"}, expr, [])


BUCKETS = 'smartcache_compute_duration_seconds_bucket{le="%s"}'
COUNT = "smartcache_compute_duration_seconds_count{}"


@pytest.mark.parametrize(("values", "expected"), [("0+1x60", [{"value": 0.099}]), ("7x60", [])], ids=["some", "none"])
def test_a_quantile_is_absent_without_observations(tmp_path: Path, values: str, expected: list[dict[str, Any]]) -> None:
    series = {BUCKETS % "0.1": values, BUCKETS % "+Inf": values, COUNT.replace("{}", '{x="y"}'): values}
    expr = promql.quantile(0.99, "smartcache_compute_duration_seconds")
    expect(tmp_path, series, f"round({expr}, 0.0001)", expected)


def test_one_event_is_counted_as_one(tmp_path: Path) -> None:
    series = {'smartcache_invalidations_total{kind="full"}': "0x55 1x5"}
    expr = promql.count("smartcache_invalidations_total", 'kind="full"')
    expect(tmp_path, series, expr, [{"value": 1}])


def test_a_gauge_is_combined_as_the_catalogue_says(tmp_path: Path) -> None:
    names = ("smartcache_request_duration_max_seconds", "smartcache_request_duration_min_seconds")
    series = {
        f'{name}{{replica="{replica}"}}': f"{value}x60" for name in names for replica, value in (("a", 2), ("b", 5))
    }
    for name, value in zip(names, (5, 2), strict=True):
        expect(tmp_path, series, promql.gauge(name), [{"value": value}])


def test_the_table_of_alerts_says_how_long_each_has_held(tmp_path: Path) -> None:
    panels = {panel["title"]: panel for panel in DASHBOARD["panels"]}
    labels = 'alertname="A",severity="warning"'
    series = {
        f'ALERTS{{alertstate="firing",{labels}}}': "1x60",
        f"ALERTS_FOR_STATE{{{labels}}}": "60x60",
        'ALERTS{alertstate="firing",alertname="W",severity="none"}': "1x60",
        'ALERTS_FOR_STATE{alertname="W",severity="none"}': "60x60",
    }
    whole = '{alertname="A",severity="warning",job="smartcache",instance="a"}'
    expect(tmp_path, series, panels["Firing alerts"]["targets"][0]["expr"], [{"labels": whole, "value": 240}])
    expect(tmp_path, series, panels["Alerts firing"]["targets"][0]["expr"], [{"value": 1}])


def test_a_family_is_queried_as_what_it_is() -> None:
    with pytest.raises(ValueError, match="is a gauge in the catalogue, and is queried as a counter"):
        promql.rate("smartcache_memory_entries")

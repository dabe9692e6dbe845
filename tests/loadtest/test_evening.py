import re
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.evening import metrics_folder, read_statistics, statistics_table, store_url, unmoved
from loadtest.prometheus import Reading, Sample
from smartcache.catalogue import STATISTICS

ROOT = Path(__file__).parent.parent.parent


def test_counters_tell_what_they_gained_and_the_rest_what_prometheus_has_now() -> None:
    asked: list[str] = []

    def query(expression: str) -> list[Sample]:
        asked.append(expression)
        return [Sample("s", {}, 2), Sample("s", {}, 3)] if "min" not in expression else []

    fresh, stale = ({"result": result, "tier": "memory", "market": "btts"} for result in ("hit_fresh", "hit_stale"))
    gained = Reading([Sample("smartcache_lookups_total", fresh, 7), Sample("smartcache_lookups_total", stale, 1)])
    values = read_statistics(gained, query)
    assert len(values) == 35
    assert (values["cache_hit_fresh"], values["cache_hit_stale"], values["cache_miss"]) == (7, 1, 0)
    assert (values["hit_rate_pct"], values["max_latency_ms"], values["min_latency_ms"]) == (5, 5, None)
    assert 'smartcache:hit_ratio:rate5m{job="smartcache"}' in asked
    assert all("_total" not in expression for expression in asked)


def test_what_did_not_move_is_told_unless_it_could_not() -> None:
    values: dict[str, float | None] = {statistic.name: 1.0 for statistic in STATISTICS}
    assert unmoved(values, {}) == []
    values |= {"swr_too_stale": 0.0, "full_invalidation": 0.0, "max_latency_ms": None}
    excuses = {"full_invalidation": "no such folder"}
    assert unmoved(values, excuses) == ["swr_too_stale", "max_latency_ms"]
    table = {line.split()[1]: line for line in statistics_table(values, excuses).splitlines()}
    assert len(table) == 35
    assert table["full_invalidation"].endswith("0  no such folder")
    assert table["swr_too_stale"].endswith("0  DID NOT MOVE")
    assert table["max_latency_ms"].endswith("absent  DID NOT MOVE")
    assert table["cache_miss"].endswith("1")


def test_values_are_shown_in_their_statistics_unit() -> None:
    values: dict[str, float | None] = dict.fromkeys((statistic.name for statistic in STATISTICS), 0.0125)
    table = statistics_table(values, {})
    assert re.search(r"hit_rate_pct +1\.25 %$", table, re.M)
    assert re.search(r"avg_latency_ms +12\.500 ms$", table, re.M)
    assert re.search(r"golden_hour_total +0\.0 /s$", table, re.M)


def test_the_stacks_own_store_and_folder_are_the_defaults() -> None:
    assert store_url({}) == "redis://127.0.0.1:6379/0"
    assert store_url({"VALKEY_PORT": "7000"}) == "redis://127.0.0.1:7000/0"
    assert store_url({"SMARTCACHE_REDIS_URL": "redis://elsewhere"}) == "redis://elsewhere"
    assert metrics_folder({}) == Path(".stack/metrics")
    assert metrics_folder({"STACK_DIR": "other"}) == Path("other/metrics")
    assert metrics_folder({"SMARTCACHE_METRICS_DIR": "here"}) == Path("here")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--service", "http://127.0.0.1:1"], "--service=http://127.0.0.1:1: 127.0.0.1:1: Connection refused"),
        (["--minutes", "soon"], "argument --minutes: 'soon': allowed: a number of minutes from 0 to 1440"),
    ],
)
def test_without_a_service_or_with_a_wrong_setting_it_ends_with_2(arguments: list[str], message: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "loadtest.evening", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert message in ended.stderr

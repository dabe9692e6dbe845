"""The gate's verdict at the edges of its bars."""

import re
from collections.abc import Mapping

import pytest

from loadtest.gate import table
from loadtest.prometheus import Reading, Sample
from loadtest.recorder import Recorder
from loadtest.verdict import ROUTE, ExitCode, Plan, Record, Verdict, judge
from smartcache.objectives import OBJECTIVES

PLAN = Plan(rate=100, duration=10)
CALM = {"cpu_share": 0.5, "clock_step": 0.0}


def a_record(answered: int = 1000, judged: Mapping[str, int] | None = None, hit: float = 0.001) -> Record:
    recorder = Recorder()
    recorder.counts.update({"sent": answered, "answered": answered, "judged_answered": answered, **(judged or {})})
    for _ in range(100):
        recorder.observe("hit", hit)
        recorder.observe("loop_lag", 0.0001)
    return Record(recorder, [dict(CALM)])


def gains(answered: float = 1000, **changed: float) -> Reading:
    """What Prometheus holds of a good run; ``changed`` names values by the keys below."""
    value = {
        "hit": answered * 0.9, "miss": answered * 0.1, "panic": 0.0, "normal": float(answered), "code_500": 0.0,
        "slow_hits": 0.0, "slow_computes": 0.0, "beyond": 0.0, "seconds": answered * 0.01,
    } | changed  # fmt: skip
    hits, misses = value["hit"], value["miss"]

    def series(name: str, number: float, **labels: str) -> Sample:
        return Sample(f"smartcache_{name}", labels, number)

    return Reading(
        [
            series("requests_total", hits, strategy="serve_fresh", zone="golden"),
            series("requests_total", misses, strategy="compute", zone="golden"),
            series("lookups_total", hits, result="hit_fresh", tier="memory", market="btts"),
            series("lookups_total", misses, result="miss", tier="none", market="btts"),
            series("swr_evaluations_total", hits, result="served_fresh"),
            series("vix_evaluations_total", value["panic"], status="panic", competition="epl"),
            series("vix_evaluations_total", value["normal"], status="normal", competition="epl"),
            series("http_requests_total", answered - value["code_500"], route=ROUTE, code="200"),
            series("http_requests_total", value["code_500"], route=ROUTE, code="500"),
            series("request_duration_seconds_bucket", hits - value["slow_hits"], strategy="serve_fresh", le="0.1"),
            series("request_duration_seconds_bucket", hits, strategy="serve_fresh", le="+Inf"),
            series("request_duration_seconds_bucket", hits, strategy="serve_fresh", le="10.0"),
            series("request_duration_seconds_sum", value["seconds"], strategy="serve_fresh"),
            series("request_duration_seconds_count", hits, strategy="serve_fresh"),
            series("request_duration_seconds_count", misses, strategy="compute"),
            series("compute_duration_seconds_bucket", misses - value["slow_computes"], le="1.0"),
            series("compute_duration_seconds_bucket", misses, le="2.5"),
            series("compute_duration_seconds_bucket", misses, le="+Inf"),
            series("served_beyond_promise_total", value["beyond"], zone="golden", reason="fresh"),
            series("latency_sampling_ratio", 1),
        ]
    )


def missed(verdict: Verdict) -> list[tuple[str, str]]:
    return [(bar.name, bar.source) for bar in verdict.bars if not bar.met]


def test_a_good_run_passes() -> None:
    verdict = judge(PLAN, a_record(), gains())
    assert missed(verdict) == []
    assert verdict.code == ExitCode.PASSED


def test_every_objective_is_a_bar() -> None:
    names = {bar.name for bar in judge(PLAN, a_record(), gains()).bars}
    assert {objective.title for objective in OBJECTIVES} <= names


@pytest.mark.parametrize(
    ("good", "bad", "bar"),
    [
        ({"hit": 800, "miss": 200}, {"hit": 799, "miss": 201}, "Hit ratio"),
        ({"panic": 50, "normal": 950}, {"panic": 51, "normal": 949}, "VIX panic ratio"),
        ({"code_500": 1}, {"code_500": 2}, "Availability of the service"),
        ({"slow_hits": 9}, {"slow_hits": 10}, "Latency p99, served from cache"),
        ({"slow_computes": 5}, {"slow_computes": 6}, "Compute p95"),
        ({"seconds": 100}, {"seconds": 100.1}, "Mean latency, all requests"),
        ({"beyond": 0}, {"beyond": 1}, "Served beyond its promise"),
    ],
)
def test_server_bars_are_met_at_the_bound_and_missed_just_past_it(
    good: dict[str, float], bad: dict[str, float], bar: str
) -> None:
    assert missed(judge(PLAN, a_record(), gains(**good))) == []
    verdict = judge(PLAN, a_record(), gains(**bad))
    assert missed(verdict) == [(bar, "Prometheus")]
    assert verdict.code == ExitCode.MISSED


@pytest.mark.parametrize(("answered", "code"), [(980, ExitCode.PASSED), (979, ExitCode.MISSED)])
def test_98_percent_of_the_rate_must_be_answered(answered: int, code: ExitCode) -> None:
    assert judge(PLAN, a_record(answered), gains(answered)).code == code


@pytest.mark.parametrize(("latency", "code"), [(0.0999, ExitCode.PASSED), (0.102, ExitCode.MISSED)])
def test_the_clients_own_p99_counts_too(latency: float, code: ExitCode) -> None:
    assert judge(PLAN, a_record(hit=latency), gains()).code == code


def test_answers_that_never_came_count_against_availability_and_may_have_been_counted() -> None:
    record = a_record(judged={"failed": 2, "judged_failed": 2, "sent": 2})
    verdict = judge(PLAN, record, gains(1001))
    assert missed(verdict) == [("Availability of the service", "clients")]


@pytest.mark.parametrize("seen", [999, 1001])
def test_clients_and_prometheus_must_agree(seen: int) -> None:
    assert missed(judge(PLAN, a_record(), gains(seen))) == [("Answers, as clients counted them", "both")]


def test_counters_that_do_not_add_up_are_a_missed_bar() -> None:
    broken = Reading([*gains(), Sample("smartcache_vix_bypasses_total", {}, 3)])
    verdict = judge(PLAN, a_record(), broken)
    assert missed(verdict) == [("The counters add up", "Prometheus")]
    assert "cache_bypass_vix <= panic: 3 against 0" in table(verdict)


def test_without_any_traffic_nothing_was_served_well() -> None:
    names = {name for name, _ in missed(judge(PLAN, Record(Recorder(), [dict(CALM)]), Reading([])))}
    assert names == {"Answered, of the target rate", "Hit ratio", "Availability of the service"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cpu_share": 0.91}, "saturated: 91% of a core"),
        ({"clock_step": 0.2}, r"wall clock stepped by 0\.200 s"),
    ],
)
def test_a_run_that_proves_nothing_is_invalid_though_every_bar_was_met(change: dict[str, float], reason: str) -> None:
    record = a_record()
    record.processes = [CALM | change]
    verdict = judge(PLAN, record, gains())
    assert missed(verdict) == []
    assert verdict.code == ExitCode.INVALID
    assert len(verdict.invalid) == 1
    assert re.search(reason, verdict.invalid[0])


def test_locusts_own_warning_makes_the_run_invalid() -> None:
    record = a_record()
    record.cpu_warning = True
    assert judge(PLAN, record, gains()).code == ExitCode.INVALID


def test_a_load_process_that_never_finished_makes_the_run_invalid() -> None:
    verdict = judge(Plan(100, 10, processes=2), a_record(), gains())
    assert verdict.invalid == ("1 of 2 load processes finished",)


@pytest.mark.parametrize(("answered", "hit"), [(900, 0.001), (1000, 0.2)])
def test_what_clients_timed_may_be_the_generators_fault_only_when_its_loop_was_late(answered: int, hit: float) -> None:
    record = a_record(answered, hit=hit)
    assert judge(PLAN, record, gains(answered)).code == ExitCode.MISSED
    for _ in range(5):
        record.recorder.observe("loop_lag", 0.5)
    assert judge(PLAN, record, gains(answered)).code == ExitCode.INVALID


def test_a_late_loop_that_spoilt_nothing_only_made_latencies_look_worse() -> None:
    record = a_record()
    for _ in range(5):
        record.recorder.observe("loop_lag", 0.5)
    assert judge(PLAN, record, gains()).code == ExitCode.PASSED


def test_the_table_names_bar_wanted_seen_and_met() -> None:
    lines = table(judge(PLAN, a_record(), gains(hit=799, miss=201))).splitlines()
    assert lines[0].split() == ["bar", "seen", "by", "wanted", "seen", "met"]
    (hit_ratio,) = [line for line in lines if line.startswith("Hit ratio")]
    assert hit_ratio.split() == ["Hit", "ratio", "Prometheus", "at", "least", "80", "%", "79.9", "%", "NO"]

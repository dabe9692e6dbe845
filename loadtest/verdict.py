"""The release gate's verdict: what was wanted, what was seen, and whether the run can be trusted at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Literal

from loadtest.laws import count_violation, violations
from loadtest.prometheus import Reading
from loadtest.recorder import Recorder
from smartcache.catalogue import WATCHING_ROUTES
from smartcache.objectives import (
    AVAILABILITY,
    COMPUTE_P95,
    HIT_RATIO,
    LATENCY_MEAN,
    LATENCY_P99,
    PROMISE,
    VIX_PANIC,
    Objective,
)

#: The prediction route, as the service labels it.
ROUTE: Final = "/v1/matches/{match_id}/markets/{market}"
#: Share of the target rate that must be answered.
ACHIEVED: Final = Objective(
    "achieved_rate", "Answered, of the target rate", "at_least", 0.98, "ratio", "run",
    "Below it the latencies are those of a lighter load.",
)  # fmt: skip
#: Share of a core above which a load process is too busy to measure others; Locust warns there too.
BUSY: Final = 0.90
#: A generator whose loop is later than this, in seconds (p99), could not have kept its schedule.
LOOP_LAG: Final = 0.025
#: Seconds by which the wall clock may drift from the monotonic one within a run.
CLOCK_STEP: Final = 0.1

_CACHED: Final = ("serve_fresh", "serve_stale")


class ExitCode(IntEnum):
    """How the gate ends."""

    PASSED = 0
    MISSED = 1
    USAGE = 2
    INVALID = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """The load that was to be made: requests per second in all, seconds judged, load processes."""

    rate: float
    duration: float
    processes: int = 1


@dataclass(slots=True)
class Record:
    """What the generator recorded.

    Attributes:
        recorder: counts and latencies of all load processes.
        processes: per load process: ``cpu_share`` of a core and ``clock_step`` in seconds.
        cpu_warning: whether Locust warned of its own load.
    """

    recorder: Recorder
    processes: list[dict[str, float]] = field(default_factory=list)
    cpu_warning: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing the release is held to, in words, and whether it was met."""

    name: str
    source: Literal["clients", "Prometheus", "both"]
    wanted: str
    seen: str
    met: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """All bars, and the reasons for which the run says nothing about the release."""

    bars: tuple[Bar, ...]
    invalid: tuple[str, ...]

    @property
    def code(self) -> ExitCode:
        """The exit code: an invalid run comes before a missed bar, since it proves neither."""
        if self.invalid:
            return ExitCode.INVALID
        return ExitCode.PASSED if all(bar.met for bar in self.bars) else ExitCode.MISSED


def judge(plan: Plan, record: Record, gained: Reading) -> Verdict:
    """Judge a run.

    Args:
        plan: the load that was to be made.
        record: what the clients recorded.
        gained: what the counters in Prometheus gained from rest before the run to rest after it, warm-up included.
    """
    achieved = record.recorder.counts["judged_answered"] / (plan.rate * plan.duration)
    bars = (
        _bar(ACHIEVED, "clients", achieved),
        *_client_bars(record.recorder),
        *_server_bars(gained),
        *_count_bars(record.recorder, gained),
    )
    timed = (ACHIEVED.title, LATENCY_P99.title)
    in_time = all(bar.met for bar in bars if bar.source == "clients" and bar.name in timed)
    return Verdict(bars, tuple(_doubts(plan, record, in_time)))


def _client_bars(recorder: Recorder) -> Iterator[Bar]:
    counts = recorder.counts
    yield _bar(LATENCY_P99, "clients", recorder.quantile(("hit",), 0.99))
    asked = counts["judged_answered"] + counts["judged_failed"]
    good = counts["judged_answered"] - counts["judged_5xx"]
    yield _bar(AVAILABILITY, "clients", good / asked if asked else None)


def _server_bars(gained: Reading) -> Iterator[Bar]:
    def ratio(part: float, whole: float) -> float | None:
        return part / whole if whole else None

    duration = "smartcache_request_duration_seconds"
    evaluations, lookups = "smartcache_vix_evaluations_total", "smartcache_lookups_total"
    served = [
        sample
        for sample in gained.series("smartcache_http_requests_total")
        if sample.labels["route"] not in WATCHING_ROUTES
    ]
    answers = sum(sample.value for sample in served)
    errors = sum(sample.value for sample in served if sample.labels["code"].startswith("5"))
    hits = gained.total(lookups, result=("hit_fresh", "hit_stale"))
    for objective, value in (
        (LATENCY_P99, gained.quantile(duration, 0.99, strategy=_CACHED)),
        (LATENCY_MEAN, ratio(gained.total(f"{duration}_sum"), gained.total(f"{duration}_count"))),
        (HIT_RATIO, ratio(hits, gained.total(lookups))),
        (VIX_PANIC, ratio(gained.total(evaluations, status="panic"), gained.total(evaluations))),
        (AVAILABILITY, ratio(answers - errors, answers)),
        (COMPUTE_P95, gained.quantile("smartcache_compute_duration_seconds", 0.95)),
        (PROMISE, gained.total("smartcache_served_beyond_promise_total")),
    ):
        yield _bar(objective, "Prometheus", value)


def _count_bars(recorder: Recorder, gained: Reading) -> Iterator[Bar]:
    answered, failed = recorder.counts["answered"], recorder.counts["failed"]
    seen = gained.total("smartcache_http_requests_total", route=ROUTE)
    wanted = f"{answered:,}" + (f" to {answered + failed:,}" if failed else "")
    agree = count_violation(answered, seen, uncertain=failed) is None
    yield Bar("Answers, as clients counted them", "both", wanted, f"{seen:,.0f}", agree)
    broken = violations(gained)
    yield Bar(
        "The counters add up", "Prometheus", "every law holds", "; ".join(broken) or "every law holds", not broken
    )


def _bar(objective: Objective, source: Literal["clients", "Prometheus"], value: float | None) -> Bar:
    # Nothing happened: nothing was too slow or went wrong, but nothing was served well either.
    met = objective.sense == "at_most" if value is None else objective.met(value)
    return Bar(objective.title, source, objective.describe(), _amount(objective, value), met)


def _amount(objective: Objective, value: float | None) -> str:
    if value is None:
        return "no data"
    return {
        "ratio": f"{value * 100:.4g} %",
        "seconds": f"{value * 1000:.4g} ms",
        "count": f"{value:g}",
    }[objective.unit]


def _doubts(plan: Plan, record: Record, in_time: bool) -> Iterator[str]:
    if len(record.processes) != plan.processes:
        yield f"{len(record.processes)} of {plan.processes} load processes finished"
        return
    busiest = max(process["cpu_share"] for process in record.processes)
    if record.cpu_warning or busiest > BUSY:
        yield f"the generator was saturated: {busiest:.0%} of a core in its busiest process, allowed {BUSY:.0%}"
    lag = record.recorder.quantile(("loop_lag",), 0.99)
    if not in_time and lag is not None and lag > LOOP_LAG:
        yield (
            f"the generator and not the service may have been late: its loop was {lag * 1000:.0f} ms late (p99), "
            f"allowed {LOOP_LAG * 1000:.0f} ms"
        )
    step = max(process["clock_step"] for process in record.processes)
    if step > CLOCK_STEP:
        yield f"the wall clock stepped by {step:.3f} s during the run, allowed {CLOCK_STEP:g} s"

"""The release gate: load the service, then judge what clients and Prometheus saw.

``python -m loadtest`` exits 0 when every bar was met, 1 when one was missed, 2 for a wrong setting or a target that
does not answer, 3 when the run proves nothing, because the generator and not the service was the limit.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from loadtest.locust_process import LocustProcess, Run, RunFailedError
from loadtest.popularity import read_matches
from loadtest.prometheus import Prometheus, PrometheusError, Reading
from loadtest.verdict import ExitCode, Plan, Record, Verdict, judge
from loadtest.wire import Connection, Target, WireError

JOB: Final = "smartcache"
_ROOT: Final = Path(__file__).resolve().parent.parent
_REACH_TIMEOUT: Final = 10.0
_FIRST_SCRAPE: Final = 20.0
#: One load process makes about this many requests per second with room to spare.
_RATE_PER_PROCESS: Final = 10_000.0
#: Requests per second that one connection is given; the rest of it is room for slow answers.
_RATE_PER_USER: Final = 50.0


class TargetError(Exception):
    """What is to be loaded, or to be read, does not answer as it should."""


class InvalidRunError(Exception):
    """The run cannot be judged."""


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run the gate; returns its exit code."""
    options = _parser(environment).parse_args(arguments)
    plan = Plan(options.rate, options.duration, options.processes or math.ceil(options.rate / _RATE_PER_PROCESS))
    run = Run(
        options.target,
        plan.rate,
        options.users or max(20, math.ceil(plan.rate / _RATE_PER_USER)),
        options.warm_up,
        plan.duration,
        plan.processes,
    )
    started = datetime.now(UTC)
    folder: Path = options.reports / f"load-{started:%Y%m%dT%H%M%SZ}"
    prometheus = Prometheus(options.prometheus)
    try:
        reach(options, environment)
        check_exporter(prometheus)
        folder.mkdir(parents=True)
        print(
            f"load: {plan.rate:,.0f} requests/s to {options.target} for {plan.duration:g} s after "
            f"{run.warm_up:g} s of warm-up; {run.users} connections, {plan.processes} process(es)",
            flush=True,
        )
        record, gained = load(run, prometheus, folder, environment)
    except (TargetError, OSError) as error:
        print(f"load: {error}", file=sys.stderr)
        return ExitCode.USAGE
    except KeyboardInterrupt:
        print("load: interrupted; the load was stopped", file=sys.stderr)
        return 130
    except (InvalidRunError, RunFailedError, PrometheusError) as error:
        print(f"load: invalid run: {error}", file=sys.stderr)
        return ExitCode.INVALID
    verdict = judge(plan, record, gained)
    print(table(verdict))
    report = folder / "report.json"
    report.write_text(json.dumps(_report(run, record, verdict, started), indent=2) + "\n", encoding="utf-8")
    print(f"load: {_OUTCOMES[verdict.code]}; report in {report}")
    return verdict.code


_OUTCOMES: Final = {
    ExitCode.PASSED: "passed",
    ExitCode.MISSED: "missed",
    ExitCode.INVALID: "invalid run, it proves neither",
}


def load(run: Run, prometheus: Prometheus, folder: Path, environment: Mapping[str, str]) -> tuple[Record, Reading]:
    """Make the load between two readings at rest; returns what clients recorded and what the counters gained.

    Raises:
        InvalidRunError: somebody else is asking the service.
        RunFailedError, PrometheusError: no record, or no reading, came of it.
    """
    # One scrape for what was asked before, one more in which nothing may be asked.
    earlier = prometheus.read_at_rest(JOB, scrapes=1)
    before = prometheus.read_at_rest(JOB, scrapes=1)
    if others := before.since(earlier).total("smartcache_requests_total"):
        raise InvalidRunError(f"{others:,.0f} requests came from elsewhere while the service should be at rest")
    with LocustProcess(run, folder, environment) as locust:
        record = locust.wait()
    return record, prometheus.read_at_rest(JOB).since(before)


def reach(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Make sure that there is something to load: unless a target was named, a stack that is absent is started.

    Raises:
        TargetError: there is none.
    """
    try:
        check_target(options.target, "--target")
    except TargetError:
        if options.target != _default_target(environment):
            raise
        print("load: no service there; starting the stack", flush=True)
        if subprocess.run(
            [sys.executable, "-m", "stack", "up"], cwd=_ROOT, env=dict(environment), check=False
        ).returncode:
            raise TargetError("the stack could not be started, and no --target was given") from None
        check_target(options.target, "--target")


def check_target(url: str, setting: str) -> None:
    """Make sure that the service at ``url``, given as ``setting``, lists matches; TargetError when it does not."""
    try:
        target = Target.parse(url, setting)
    except ValueError as error:
        raise TargetError(str(error)) from None
    connection = Connection(target, _REACH_TIMEOUT)
    try:
        answer = connection.get(target.get("/v1/matches"))
        if answer.status != 200:
            raise TargetError(f"{setting}={url}: GET /v1/matches answered {answer.status}, expected 200")
        if not read_matches(answer.body):
            raise TargetError(f"{setting}={url}: GET /v1/matches lists no match")
    except (WireError, ValueError) as error:
        raise TargetError(f"{setting}={url}: {error}") from None
    finally:
        connection.close()


def check_exporter(prometheus: Prometheus) -> None:
    """Make sure that Prometheus scrapes the exporter, in a stack just started soon; TargetError when it does not."""
    deadline = time.monotonic() + _FIRST_SCRAPE
    while True:
        try:
            up = prometheus.query(f'up{{job="{JOB}"}}')
        except PrometheusError as error:
            raise TargetError(f"--prometheus: {error}") from None
        if up and all(sample.value == 1 for sample in up):
            return
        if time.monotonic() > deadline:
            raise TargetError(f"--prometheus: its job {JOB!r} is not up, so there is nothing to judge by")
        time.sleep(0.5)


def table(verdict: Verdict) -> str:
    """The verdict as a table of bars, and the doubts about the run."""
    head = ("bar", "seen by", "wanted", "seen", "met")
    rows = [head, *((bar.name, bar.source, bar.wanted, bar.seen, "yes" if bar.met else "NO") for bar in verdict.bars)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    lines = ["  ".join([*map(str.ljust, row[:-1], widths), row[-1]]) for row in rows]
    return "\n".join([*lines, *(f"invalid: {reason}" for reason in verdict.invalid)])


def _report(run: Run, record: Record, verdict: Verdict, started: datetime) -> dict[str, object]:
    return {
        "started": started.isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "run": asdict(run),
        "outcome": verdict.code.name.lower(),
        "bars": [asdict(bar) for bar in verdict.bars],
        "invalid": verdict.invalid,
        "latency_seconds": {
            series: {f"p{100 * q:g}": record.recorder.quantile((series,), q) for q in (0.5, 0.9, 0.99, 0.999)}
            for series in record.recorder.latencies
        },
        "record": {**record.recorder.dump(), "processes": record.processes, "cpu_warning": record.cpu_warning},
    }


def _default_target(environment: Mapping[str, str]) -> str:
    return f"http://127.0.0.1:{environment.get('SERVICE_PORT', '8000')}"


def _number(low: float, high: float, kind: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r}: allowed: {what} from {low:g} to {high:g}")
        return value

    return parse


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description="The release gate.")
    port = environment.get("PROMETHEUS_PORT", "9090")
    add = parser.add_argument
    add("--target", default=_default_target(environment), help="base address of the service (%(default)s)")
    add("--prometheus", default=f"http://127.0.0.1:{port}", help="base address of Prometheus (%(default)s)")
    add("--rate", type=_number(1, 1e6, float), default=10_000.0, help="requests per second (%(default)g)")
    add("--duration", type=_number(1, 86_400, float), default=60.0, help="seconds judged (%(default)g)")
    add("--warm-up", type=_number(0, 3600, float), default=10.0, help="seconds before that (%(default)g)")
    add("--users", type=_number(1, 10_000, int), help="connections (from the rate)")
    add("--processes", type=_number(1, 64, int), help="load processes, one core each (from the rate)")
    add("--reports", type=Path, default=Path("reports"), help="folder for the report (%(default)s)")
    return parser

"""The whole stack as a stranger starts it: real parts, real requests, read back from Prometheus."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest

from loadtest.laws import violations
from loadtest.prometheus import Prometheus, Sample
from smartcache.catalogue import STATISTICS
from smartcache.tags import MARKETS
from stack.parts import PARTS
from stack.running import Register
from stack.settings import PORTS
from stack.tools import ROOT, look_up_tool

#: The markets that depend on the weather, by the specification's table.
WEATHERED = {"over_under_25", "corners_over_under", "cards_over_under", "clean_sheet"}
#: The statistics that these tests move; the others are there, at zero.
MOVED = ("cache_hit_fresh", "cache_miss", "vix_normal", "golden_hour_standard", "total_requests", "swr_served_fresh",
         "surgical_invalidation", "cache_keys_deleted_actual", "max_latency_ms", "avg_latency_ms", "hit_rate_pct",
         "golden_hour_total")  # fmt: skip
#: Seconds to wait for what takes a few scrapes; generous, for it only bounds a failure.
WITHIN = 90.0

T = TypeVar("T")


def eventually(ask: Callable[[], T | None], what: Callable[[], str]) -> T:
    """What ``ask`` gives once it gives anything; ``what`` tells what was still missing."""
    deadline = time.monotonic() + WITHIN
    while (answer := ask()) is None:
        assert time.monotonic() < deadline, f"not within {WITHIN:.0f} s: {what()}"
        time.sleep(0.5)
    return answer


def free_ports() -> dict[str, int]:
    """A free port for every port setting."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = {name: probe.getsockname()[1] for name, probe in zip(PORTS, probes, strict=True)}
    for probe in probes:
        probe.close()
    return ports


def alive(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended and only awaits its parent's notice does not."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


class Stack:
    """The running stack and its doors."""

    def __init__(self, folder: Path, ports: Mapping[str, int]) -> None:
        self.folder = folder
        self.ports = ports
        self.environment = {
            **os.environ,
            **{name: str(port) for name, port in ports.items()},
            "STACK_DIR": str(folder),
            "MODE": "native",
        }
        self.service = httpx.Client(base_url=self.url("SERVICE_PORT"), timeout=10)
        self.prometheus = Prometheus(self.url("PROMETHEUS_PORT"))
        self.predictions = 0

    def url(self, setting: str) -> str:
        return f"http://127.0.0.1:{self.ports[setting]}"

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "stack", command],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def predict(self, match: str, market: str) -> httpx.Response:
        """One prediction, which must be answered."""
        answer = self.service.get(f"/v1/matches/{match}/markets/{market}")
        assert answer.status_code == 200, answer.text
        self.predictions += 1
        return answer

    def matches(self, zone: str) -> list[str]:
        """The matches now in ``zone``."""
        listed = self.service.get("/v1/matches").json()["matches"]
        return [match["match_id"] for match in listed if match["zone"] == zone]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("stack"), free_ports())
    started = running.run("up")
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield running
    finally:
        running.service.close()
        running.run("down")


def was_hit(answer: httpx.Response) -> bool:
    """Whether ``Cache-Status`` says that the cache answered."""
    status = answer.headers["cache-status"]
    assert ("; hit" in status) != ("; fwd=" in status), status
    return "; hit" in status


def test_every_part_is_ready_and_says_where_it_is(stack: Stack) -> None:
    status = stack.run("status")
    assert status.returncode == 0, status.stdout
    lines = {line.split()[0]: line for line in status.stdout.splitlines()}
    assert {*lines} == {part.name for part in PARTS}
    for part in PARTS:
        if part.tool is not None and look_up_tool(part.tool) is None:
            assert "absent: " in lines[part.name]
        else:
            assert f"127.0.0.1:{stack.ports[part.port]}" in lines[part.name]
            assert "ready" in lines[part.name]


def test_a_second_up_leaves_the_running_stack_alone(stack: Stack) -> None:
    before = Register(stack.folder / "state.json").read()
    again = stack.run("up")
    assert again.returncode == 0
    assert "already running" in again.stdout
    assert Register(stack.folder / "state.json").read() == before


def test_a_prediction_is_a_miss_and_then_a_hit(stack: Stack) -> None:
    match = stack.matches("prematch")[0]
    first, second = (stack.predict(match, "btts") for _ in range(2))
    assert (was_hit(first), was_hit(second)) == (False, True)
    assert first.json() == second.json()
    assert int(second.headers["age"]) >= 0
    assert "max-age=" in second.headers["cache-control"]


def test_rain_retires_exactly_the_markets_of_that_match_that_depend_on_it(stack: Stack) -> None:
    rained_on, dry = stack.matches("standard")[:2]
    for match in (rained_on, dry):
        for market in MARKETS:
            stack.predict(match, market)
            assert was_hit(stack.predict(match, market))

    answer = stack.service.post(f"/v1/matches/{rained_on}/events", json={"type": "weather_rain"})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["acknowledged"], answer.json()["invalidated_count"]) == (True, 4)
    assert {*answer.json()["affected_markets"]} == WEATHERED

    missed = {market for market in MARKETS if not was_hit(stack.predict(rained_on, market))}
    assert missed == WEATHERED
    assert all(was_hit(stack.predict(dry, market)) for market in MARKETS)


@pytest.mark.parametrize(
    ("path", "body", "status", "names"),
    [
        ("/v1/matches/nobody-against-noone/markets/btts", None, 404, "nobody-against-noone"),
        ("/v1/matches/{match}/markets/offside", None, 404, "offside"),
        ("/v1/matches/{match}/events", {"type": "earthquake"}, 422, "earthquake"),
        ("/v1/odds", {"ticks": [{"market_key": "m", "odds": -1, "timestamp": "2025-03-01T14:16:00+00:00"}]}, 422, "-1"),
        ("/v1/odds", {"ticks": [{"market_key": "m", "odds": 2, "timestamp": "2025-03-01T14:16:00"}]}, 422, "timestamp"),
    ],
)  # fmt: skip
def test_bad_input_is_an_error_that_names_it(stack: Stack, path: str, body: Any, status: int, names: str) -> None:
    path = path.format(match=stack.matches("prematch")[0])
    answer = stack.service.get(path) if body is None else stack.service.post(path, json=body)
    assert 400 <= answer.status_code < 500
    assert answer.status_code in (status, 400)
    assert names in answer.text


def test_every_target_is_scraped(stack: Stack) -> None:
    def healthy() -> dict[str, float] | None:
        up = {sample.labels["job"]: sample.value for sample in stack.prometheus.query("up")}
        return up if all(value == 1 for job, value in up.items() if job != "locust") and len(up) == 6 else None

    assert {*eventually(healthy, lambda: f"every job up, of {stack.prometheus.query('up')}")} == {
        "smartcache", "service", "valkey", "prometheus", "alertmanager", "locust",
    }  # fmt: skip
    assert stack.prometheus.query("redis_up")[0].value == 1
    assert stack.prometheus.query('process_resident_memory_bytes{job="service"}')


def test_the_35_statistics_are_read_back_from_prometheus(stack: Stack) -> None:
    match, close = stack.matches("active")[0], stack.matches("golden")[0]
    values: dict[str, float] = {}

    def missing() -> set[str]:
        return {statistic.name for statistic in STATISTICS} - {*values} | {
            name for name in MOVED if not values.get(name)
        }

    def every_statistic() -> bool | None:
        # Rates need something to happen between two scrapes; volatility is judged where odds are quoted.
        stack.predict(match, "corners_over_under")
        stack.predict(close, "match_result")
        stack.service.post(f"/v1/matches/{match}/events", json={"type": "weather_rain"}).raise_for_status()
        for statistic in STATISTICS:
            if series := stack.prometheus.query(statistic.selector('job="smartcache"')):
                values[statistic.name] = sum(sample.value for sample in series)
        return not missing() or None

    eventually(every_statistic, lambda: f"{missing()} in Prometheus")
    assert len(values) == 35
    assert 0 < values["hit_rate_pct"] <= 1
    assert values["avg_cpu_saved_pct"] == pytest.approx(8 / 12)


def test_the_numbers_add_up_and_agree_with_the_clients_and_the_exporter(stack: Stack) -> None:
    reading = stack.prometheus.read_at_rest("smartcache")
    assert violations(reading) == []
    assert reading.total("smartcache_requests_total") == stack.predictions
    stats = httpx.get(f"{stack.url('EXPORTER_PORT')}/api/v1/cache/stats").json()["stats"]
    assert {*stats} == {statistic.name for statistic in STATISTICS}
    for statistic in STATISTICS:
        if statistic.unit == "count" and statistic.family is not None:
            seen = reading.total(statistic.family, **dict(statistic.match))
            assert stats[statistic.name] == seen, statistic.name


def test_alerts_reach_the_receiver_through_alertmanager(stack: Stack) -> None:
    def heartbeat() -> bool | None:
        return httpx.get(f"{stack.url('RECEIVER_PORT')}/api/alerts").json()["heartbeat"] is not None or None

    eventually(heartbeat, lambda: "the watchdog's heartbeat at the alert receiver")


def firing(samples: list[Sample]) -> set[str]:
    return {sample.labels["alertname"] for sample in samples if sample.labels["alertstate"] == "firing"}


def test_nothing_but_the_watchdog_fires_on_a_healthy_stack(stack: Stack) -> None:
    assert firing(stack.prometheus.query("ALERTS")) <= {"SmartCacheWatchdog"}


def test_an_interrupted_up_leaves_nothing(tmp_path: Path) -> None:
    """Asked to end while parts are starting, the launcher stops them again."""
    interrupted = Stack(tmp_path, free_ports())
    interrupted.service.close()
    launcher = subprocess.Popen(
        [sys.executable, "-m", "stack", "up"],
        cwd=ROOT,
        env=interrupted.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    register = Register(tmp_path / "state.json")
    started = eventually(lambda: register.read() or None, lambda: "a first part running")
    processes = [process for part in started.values() for process in part.processes()]
    launcher.terminate()
    assert launcher.wait(timeout=60) == 143
    assert register.read() == {}
    assert not any(alive(process) for process in processes)


def test_down_leaves_no_process_and_frees_every_port(stack: Stack) -> None:
    running = Register(stack.folder / "state.json").read()
    assert len(running) >= 7
    processes = [process for part in running.values() for process in part.processes()]
    ended = stack.run("down")
    assert ended.returncode == 0, ended.stderr
    assert [process for process in processes if alive(process)] == []
    for port in stack.ports.values():
        socket.create_server(("127.0.0.1", port)).close()
    assert json.loads((stack.folder / "state.json").read_text()) == []

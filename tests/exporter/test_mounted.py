"""The exporter mounted in an app of Starlette's and of FastAPI's, as the examples show it, with several workers."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from chaining import free_port
from receiving import SERVER, receiving

from exporter.app import create_app
from smartcache import ConfigError

ROOT = Path(__file__).parents[2]
WORKERS = 2


@contextmanager
def served(app: str, metrics: Path, **settings: str) -> Iterator[str]:
    """An example served by granian as its first lines say, with several workers."""
    port = free_port()
    command = [sys.executable, "-m", "granian", "--interface", "asgi", "--workers", str(WORKERS), "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SMARTCACHE_", "OTEL_"))}
    environment |= {"SMARTCACHE_METRICS_DIR": str(metrics), **settings}
    with (metrics.parent / "log").open("wb") as log:
        process = subprocess.Popen([*command, app], cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: len(list(metrics.glob("*.metrics"))) >= WORKERS and answers(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not start in time"
        time.sleep(0.1)


def counted(page: str) -> float:
    return sum(float(value) for value in re.findall(r"^smartcache_requests_total\{.*\} (\S+)$", page, re.MULTILINE))


@pytest.mark.parametrize("app", ["examples.starlette_app:app", "examples.fastapi_app:app"])
def test_whichever_worker_is_asked_answers_for_all(app: str, tmp_path: Path) -> None:
    with served(app, tmp_path / "metrics") as url:
        for number in range(12):  # each on a connection of its own, so that any worker may take it
            answer = httpx.get(f"{url}/matches/7/markets/btts{number % 3}", timeout=10).json()
            assert answer["prediction"]["yes"] == 0.6
        pages = [httpx.get(f"{url}/cache/metrics", timeout=10).text for _ in range(6)]
        assert [counted(page) for page in pages] == [12.0] * 6
        assert f'smartcache_processes{{state="live"}} {WORKERS}.0' in pages[0].splitlines()
        stats = httpx.get(f"{url}/cache/api/v1/cache/stats", timeout=10).json()["stats"]
        assert stats["total_requests"] == 12


def test_fastapi_has_its_requests_traced_with_what_the_cache_did_below(tmp_path: Path) -> None:
    with receiving() as receiver:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_TRACES_SAMPLER_ARG": "1"}
        with served("examples.fastapi_app:app", tmp_path / "metrics", **settings) as url:
            assert httpx.get(f"{url}/matches/7/markets/btts", timeout=10).status_code == 200
            assert httpx.post(f"{url}/matches/7/events/weather_rain", timeout=10).json()["invalidated_count"] in (0, 1)
            receiver.wait(lambda got: got.named("smartcache.get") and got.named("smartcache.invalidate"))
        asked = receiver.one("GET /matches/{match_id}/markets/{market}")
        told = receiver.one("POST /matches/{match_id}/events/{event_type}")
    assert asked.kind == told.kind == SERVER
    assert receiver.one("smartcache.get").parent_id == asked.span_id
    assert receiver.one("smartcache.invalidate").parent_id == told.span_id
    assert asked.resource["service.name"] == "predictions"


async def test_what_the_environment_says_holds_for_a_mounted_exporter_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTCACHE_METRICS_DIR", str(tmp_path))
    monkeypatch.setenv("SMARTCACHE_RESET_HOURLY", "performance")
    transport = httpx.ASGITransport(create_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://mounted") as client:
        windows = (await client.get("/api/v1/cache/stats")).json()["windows"]
    assert windows["performance"]["resets"] == "hourly"


def test_without_a_folder_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMARTCACHE_METRICS_DIR", raising=False)
    with pytest.raises(ConfigError, match="SMARTCACHE_METRICS_DIR is not set"):
        create_app()

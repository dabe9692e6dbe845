"""The exporter's HTTP side, by itself and mounted."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from exporter.app import create_app
from exporter.files import MetricsFiles, Reading
from smartcache.catalogue import CATEGORIES, STATISTICS
from smartcache.errors import ConfigError
from smartcache.metrics import CacheMetrics

TEXT = "text/plain; version=0.0.4; charset=utf-8"
#: What Prometheus 2.42 and 3 send.
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(tmp_path))
    async with httpx.AsyncClient(transport=transport, base_url="http://exporter") as client:
        yield client


def without_durations(page: str) -> list[str]:
    return [line for line in page.splitlines() if "scrape_duration" not in line]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("text/html,nonsense;;;=", TEXT),
        (PROMETHEUS_2, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"),
        (PROMETHEUS_3, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8"),
    ],
)
async def test_the_content_type_is_exactly_the_one_negotiated(
    client: httpx.AsyncClient, accept: str | None, content_type: str
) -> None:
    answer = await client.get("/metrics", headers={"Accept": accept} if accept else {})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == content_type
    assert answer.text.endswith("# EOF\n") == content_type.startswith("application/openmetrics-text")
    plain = await client.get("/api/v1/cache/metrics", headers={"Accept": accept} if accept else {})
    assert plain.headers["content-type"] == TEXT
    if content_type == TEXT:
        assert without_durations(plain.text) == without_durations(answer.text)


async def test_pages_are_compressed_for_those_who_say_they_can_read_it(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", "/metrics", headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        body = b"".join([chunk async for chunk in answer.aiter_raw()])
    plain = await client.get("/metrics", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert without_durations(gzip.decompress(body).decode()) == without_durations(plain.text)
    assert plain.headers["vary"] == answer.headers["vary"] == "Accept, Accept-Encoding"


async def test_the_statistics_of_all_processes_come_flat_and_in_order(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    first, second = CacheMetrics(tmp_path), CacheMetrics(tmp_path)
    first.record_latency(100)
    second.record_latency(300)
    second.increment("cache_hit_fresh", 2)
    second.increment("surgical_invalidation")
    answer = await client.get("/api/v1/cache/stats")
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["stats", "windows"]
    assert answer.json()["windows"] == {name: {"since": None, "resets": None} for name in CATEGORIES}
    stats = answer.json()["stats"]
    assert list(stats) == [statistic.name for statistic in STATISTICS]
    expected = {
        "total_requests": 2,
        "strategy_compute": 2,
        "cache_miss": 2,
        "cache_hit_fresh": 2,
        "hit_rate_pct": 50,
        "surgical_invalidation": 1,
        "avg_latency_ms": 200,
        "max_latency_ms": 300,
        "min_latency_ms": 100,
    }
    assert stats == dict.fromkeys(stats, 0) | expected
    # A reset moves the baseline of its own process, not of what all have counted.
    first.reset()
    for metrics in (first, second):
        metrics.close()
    assert (await client.get("/api/v1/cache/stats")).json()["stats"] == stats | {
        "max_latency_ms": 0,
        "min_latency_ms": 0,
    }


class HandClock:
    """Time that moves when the test says so."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


async def test_scheduled_resets_move_the_statistics_and_not_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock()
    monkeypatch.setattr("exporter.files.SystemClock", lambda: clock)
    clock.now = datetime(2025, 11, 23, 22, 59, 50, tzinfo=UTC).timestamp()
    app = create_app(tmp_path, {"vix": "daily", "performance": "hourly"})
    metrics = CacheMetrics(tmp_path, clock=clock)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://exporter") as client:

        async def asked(seconds: float) -> tuple[float, float, float]:
            metrics.record_latency(10)
            metrics.increment("vix_normal")
            clock.now += seconds
            answer = (await client.get("/api/v1/cache/stats")).json()
            stats = answer["stats"]
            shown.update(answer["windows"])
            return stats["total_requests"], stats["vix_normal"], stats["cache_miss"]

        shown: dict[str, dict[str, str | None]] = {}
        assert await asked(5) == (1, 1, 1)
        assert shown["performance"] == {"since": None, "resets": "hourly"}
        await client.get("/metrics")
        assert await asked(5) == (0, 2, 2)
        assert shown["performance"] == {"since": "2025-11-23T23:00:00+00:00", "resets": "hourly"}
        assert await asked(3599) == (1, 3, 3)
        assert await asked(10) == (0, 0, 4)
        assert shown["vix"] == {"since": "2025-11-24T00:00:00+00:00", "resets": "daily"}
        assert shown["swr"] == {"since": None, "resets": None}
        page = (await client.get("/metrics")).text.splitlines()
    metrics.close()
    assert 'smartcache_requests_total{strategy="compute",zone="none"} 4.0' in page


async def test_statistics_count_from_the_baseline_of_their_own_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock()
    monkeypatch.setattr("exporter.files.SystemClock", lambda: clock)
    clock.now = datetime(2025, 11, 23, 22, 59, 50, tzinfo=UTC).timestamp()
    app = create_app(tmp_path, {"performance": "hourly"})
    metrics = CacheMetrics(tmp_path, clock=clock)
    metrics.record_latency(10)
    read = MetricsFiles.read

    def read_before_another(self: MetricsFiles) -> Reading:
        reading = read(self)
        metrics.record_latency(10)
        clock.now += 60.0
        read(self)  # as another thread does, in the new hour
        return reading

    monkeypatch.setattr(MetricsFiles, "read", read_before_another)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://exporter") as client:
        answer = (await client.get("/api/v1/cache/stats")).json()
    assert answer["stats"]["total_requests"] == 1
    assert answer["windows"]["performance"]["since"] is None


async def test_statistics_that_would_be_short_are_not_shown(client: httpx.AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "0123456789abcdef.metrics").write_bytes(b"garbage")
    answer = await client.get("/api/v1/cache/stats")
    assert answer.status_code == 503
    assert answer.json() == {"error": f"parts of {tmp_path} cannot be read; /metrics says how many"}


async def test_health_and_landing_page_answer_without_reading_a_file(client: httpx.AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "garbage.metrics").touch()
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    landing = await client.get("/")
    assert landing.headers["content-type"] == "text/html; charset=utf-8"
    for path in ("metrics", "api/v1/cache/metrics", "api/v1/cache/stats", "healthz"):
        assert f'href="{path}"' in landing.text
    assert "smartcache_exporter_scrape_errors 1.0" in (await client.get("/metrics")).text


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/cache/metrics", "/api/v1/cache/stats", "/healthz", "/"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_pages_can_only_be_read(client: httpx.AsyncClient, path: str, method: str) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]
    assert answer.json() == {"error": f"{method} is not possible at {path}; it can be read with GET"}
    assert (await client.head(path)).status_code == 200


async def test_an_unknown_page_is_named_with_those_there_are(client: httpx.AsyncClient) -> None:
    answer = await client.get("/metric")
    assert answer.status_code == 404
    assert answer.json() == {
        "error": "there is nothing at /metric; there is /metrics, /api/v1/cache/metrics, /api/v1/cache/stats, /healthz"
    }


async def test_a_spoilt_file_makes_a_partial_page_and_no_500(client: httpx.AsyncClient, tmp_path: Path) -> None:
    metrics = CacheMetrics(tmp_path)
    metrics.record_latency(1)
    (tmp_path / "garbage.metrics").write_bytes(b"\0" * 5000)
    answer = await client.get("/metrics")
    metrics.close()
    assert answer.status_code == 200
    lines = answer.text.splitlines()
    assert "smartcache_exporter_up 0.0" in lines
    assert 'smartcache_processes{state="unreadable"} 1.0' in lines
    assert 'smartcache_requests_total{strategy="compute",zone="none"} 1.0' in lines


async def test_files_are_read_outside_the_event_loop(
    client: httpx.AsyncClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in ("/metrics", "/api/v1/cache/metrics", "/api/v1/cache/stats"):
        (tmp_path / f"{path.replace('/', '-')}.metrics").touch()
        await client.get(path)
    # The warning about each file comes from the thread that read it.
    assert len(caplog.records) == 3
    assert threading.get_ident() not in {record.thread for record in caplog.records}


async def test_scrapes_at_once_each_get_a_whole_page(client: httpx.AsyncClient, tmp_path: Path) -> None:
    metrics = CacheMetrics(tmp_path)
    metrics.record_latency(1)
    pages = await asyncio.gather(*(client.get("/metrics") for _ in range(8)))
    metrics.close()
    assert {page.status_code for page in pages} == {200}
    assert len({tuple(without_durations(page.text)) for page in pages}) == 1


async def test_it_mounts_in_an_app_of_ones_own(tmp_path: Path) -> None:
    async def hello(_: object) -> PlainTextResponse:
        return PlainTextResponse("hello")

    own = Starlette(routes=[Route("/", hello), Mount("/cache", create_app(tmp_path))])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(own), base_url="http://own") as client:
        assert (await client.get("/")).text == "hello"
        assert "smartcache_exporter_up 1.0" in (await client.get("/cache/metrics")).text
        assert (await client.get("/cache/api/v1/cache/stats")).status_code == 200
        assert (await client.get("/cache/")).status_code == 200
        assert "/cache/metrics" in (await client.get("/cache/nothing")).json()["error"]


def test_a_directory_that_cannot_be_made_is_said_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(ConfigError, match=f"SMARTCACHE_METRICS_DIR='{directory}' is no folder"):
            create_app(directory)
    create_app(tmp_path / "made" / "here")
    assert (tmp_path / "made" / "here").is_dir()

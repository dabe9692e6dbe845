"""Exemplars from the files of several processes to the page that Prometheus asks for."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from exporter.app import create_app
from exporter.files import MetricsFiles
from smartcache import CacheMetrics
from smartcache.exemplars import Exemplar

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
FAMILY = "smartcache_request_duration_seconds"
#: A trace, and what is shown of it.
OLD, NEW = (Exemplar(f"{number:032x}", 0.2, 1_700_000_000.5 + number) for number in (1, 2))


async def page(directory: Path, accept: str = OPENMETRICS) -> str:
    transport = httpx.ASGITransport(create_app(directory))
    async with httpx.AsyncClient(transport=transport, base_url="http://exporter") as client:
        return (await client.get("/metrics", headers={"accept": accept})).text


async def shown(directory: Path) -> dict[tuple[str, str], tuple[str, float, float]]:
    """Trace id, value and timestamp by strategy and bucket, as prometheus-client's own parser reads them."""
    found = {}
    for family in text_string_to_metric_families(await page(directory)):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            if sample.exemplar is not None:
                assert family.name == FAMILY
                said = sample.exemplar
                found[sample.labels["strategy"], sample.labels["le"]] = (
                    said.labels["trace_id"],
                    said.value,
                    float(said.timestamp or 0),
                )
    return found


@pytest.fixture
def metrics(tmp_path: Path) -> CacheMetrics:
    metrics = CacheMetrics(tmp_path)
    metrics.record_latency(200)
    return metrics


async def test_it_stands_at_its_bucket_and_only_in_openmetrics(tmp_path: Path, metrics: CacheMetrics) -> None:
    metrics.exemplar("compute", NEW)
    assert await shown(tmp_path) == {("compute", "0.25"): NEW}
    assert NEW.trace_id not in await page(tmp_path, "text/plain")


async def test_without_a_trace_there_is_none(tmp_path: Path, metrics: CacheMetrics) -> None:
    assert metrics.path is not None
    assert await shown(tmp_path) == {}
    assert "# {" not in await page(tmp_path)


async def test_of_several_processes_the_newest_is_shown(tmp_path: Path, metrics: CacheMetrics) -> None:
    another = CacheMetrics(tmp_path)
    for order in ((metrics, OLD), (another, NEW)), ((metrics, NEW), (another, OLD)):
        for recorder, exemplar in order:
            recorder.exemplar("compute", exemplar)
        assert await shown(tmp_path) == {("compute", "0.25"): NEW}
    another.close()


def test_one_that_was_shown_stays_until_a_newer_one_comes(tmp_path: Path, metrics: CacheMetrics) -> None:
    """Prometheus refuses an exemplar older than the last it had, so a page must not step back to one."""
    another = CacheMetrics(tmp_path)
    metrics.exemplar("compute", OLD)
    another.exemplar("compute", NEW)
    files = MetricsFiles(tmp_path)
    assert [*files.read().exemplars.values()] == [NEW]
    assert another.path is not None
    another.path.unlink()
    another.close()
    assert [*files.read().exemplars.values()] == [NEW]
    newer = NEW._replace(at=NEW.at + 1)
    metrics.exemplar("compute", newer)
    assert [*files.read().exemplars.values()] == [newer]


def test_one_that_ended_earlier_and_is_recorded_later_does_not_take_its_place(
    tmp_path: Path, metrics: CacheMetrics
) -> None:
    files = MetricsFiles(tmp_path)
    for exemplar in (NEW, OLD):
        metrics.exemplar("compute", exemplar)
        assert [*files.read().exemplars.values()] == [NEW]

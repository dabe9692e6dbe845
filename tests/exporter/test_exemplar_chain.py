"""From a request to its trace, through every part as it is run: service, metrics file, exporter, Prometheus."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from chaining import Chain, within
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from receiving import CLIENT, SERVER, Receiver, receiving

MATCH = "it1-2024-ssc-napoli-fc-internazionale-milano"
BUCKETS = "smartcache_request_duration_seconds_bucket"


class Traced(Chain):
    """The parts, and where their traces go."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        super().__init__(folder, stack)
        self.receiver: Receiver = stack.enter_context(receiving())
        self.service = self.start_service(
            SERVICE_FAULTS="on",
            SERVICE_EXTRA_LATENCY_MS="5",
            OTEL_EXPORTER_OTLP_ENDPOINT=self.receiver.url,
            OTEL_TRACES_SAMPLER_ARG="1",
        )
        self.start_exporter()
        self.start_prometheus()

    def exemplars(self) -> list[dict[str, Any]]:
        """What Prometheus stored."""
        now = time.time()
        asked = {"query": BUCKETS, "start": str(now - 600), "end": str(now + 60)}
        found = httpx.get(f"{self.prometheus}/api/v1/query_exemplars", params=asked, timeout=10).json()
        assert found["status"] == "success", found
        return [
            {**series["seriesLabels"], **exemplar["labels"], "seconds": float(exemplar["value"])}
            for series in found["data"]
            for exemplar in series["exemplars"]
        ]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    with ExitStack() as stack:
        yield Traced(tmp_path_factory.mktemp("chain"), stack)


def test_an_exemplar_in_prometheus_names_a_trace_that_arrived(chain: Traced) -> None:
    path = f"{chain.service}/v1/matches/{MATCH}/markets/btts"
    for _ in range(5):
        assert httpx.get(path, timeout=10).status_code == 200
    within(30, lambda: {found["strategy"] for found in chain.exemplars()} >= {"compute", "serve_fresh"})
    roots = {span.trace_id: span for span in chain.receiver.named("smartcache.get")}
    for exemplar in chain.exemplars():
        span = roots[exemplar["trace_id"]]
        assert span.end - span.start == pytest.approx(exemplar["seconds"], abs=1e-6)
        assert exemplar["seconds"] <= float(exemplar["le"])
        assert exemplar["__name__"] == BUCKETS
    # The same as on the page itself, where Prometheus asks for OpenMetrics.
    page = httpx.get(f"{chain.exporter}/metrics", headers={"accept": "application/openmetrics-text"}, timeout=10).text
    families = text_string_to_metric_families(page)  # type: ignore[no-untyped-call]
    shown = [sample.exemplar for family in families for sample in family.samples if sample.exemplar]
    assert {exemplar.labels["trace_id"] for exemplar in shown} <= roots.keys()
    assert len(shown) >= 2


def test_the_trace_of_a_miss_goes_from_the_request_to_the_store_and_the_model(chain: Traced) -> None:
    assert httpx.get(f"{chain.service}/v1/matches/{MATCH}/markets/penalty", timeout=10).status_code == 200
    named = "GET /v1/matches/{match_id}/markets/{market}"
    got = chain.receiver
    got.wait(lambda got: any(span.attributes["url.path"].endswith("/penalty") for span in got.named(named)))
    asked = next(span for span in got.named(named) if span.attributes["url.path"].endswith("/penalty"))
    assert (asked.kind, asked.attributes["http.response.status_code"]) == (SERVER, 200)
    (request,) = got.below(asked)
    names = [span.name.split()[0] for span in got.below(request) if span.status == 0]
    assert (names[0], names[-2]) == ("MGET", "smartcache.compute")
    assert names[-1].startswith("EVAL")
    assert {span.kind for span in got.below(request) if span.name != "smartcache.compute"} == {CLIENT}
    assert asked.holds(request)
    assert asked.resource["service.name"] == "smartcache-service"


def test_an_event_is_traced_down_to_the_store(chain: Traced) -> None:
    events = f"{chain.service}/v1/matches/{MATCH}/events"
    assert httpx.post(events, json={"type": "weather_rain"}, timeout=10).status_code == 200
    got = chain.receiver
    got.wait(lambda got: got.named("smartcache.invalidate"))
    asked, change = got.one("POST /v1/matches/{match_id}/events"), got.one("smartcache.invalidate")
    assert change.parent_id == asked.span_id
    assert "EVAL" in {span.name.split()[0].removesuffix("SHA") for span in got.below(change)}


def test_a_line_of_the_log_names_the_trace_it_was_written_in(chain: Traced) -> None:
    fault = {"seconds": 60, "compute_error_ratio": 1.0, "extra_latency_ms": 0}
    assert httpx.post(f"{chain.service}/v1/faults", json=fault, timeout=10).status_code == 200
    assert httpx.get(f"{chain.service}/v1/matches/{MATCH}/markets/clean_sheet", timeout=10).status_code == 503
    within(10, lambda: any("a fault was ordered" in line for line in chain.log("service")))
    line = json.loads(next(line for line in chain.log("service") if "a fault was ordered" in line))
    assert (line["level"], line["logger"]) == ("warning", "service.model_watch")
    got = chain.receiver
    got.wait(lambda got: any(span.span_id == line["span_id"] for span in got.spans))
    span = next(span for span in got.spans if span.span_id == line["span_id"])
    assert (span.name, span.trace_id) == ("smartcache.compute", line["trace_id"])
    assert span.attributes["error.type"] == "service.model_watch.ModelError"


def test_it_is_said_where_traces_go(chain: Traced) -> None:
    (ready,) = [line for line in chain.log("service") if line.startswith("service ready")]
    assert f"100 % of requests traced to {chain.receiver.traces}" in ready

"""Traces on their way: what the environment says, a queue that holds a bad second, a backend that is away."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Status, StatusCode
from receiving import Receiver, receiving

from exporter import otlp
from exporter.otlp import Traces, TraceSettings
from smartcache import ConfigError

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def traces(receiver: Receiver) -> Iterator[Traces]:
    made = Traces(TraceSettings(receiver.traces, 1.0, True), "tests")
    yield made
    made.close()


def hit(traces: Traces, number: int = 0) -> None:
    traces.tracing.goes_by = -1
    traces.tracing.hit(f"k{number}", None, 0.0, 1.0, 1.000_003)


# -- settings --------------------------------------------------------------------------------------------------------


def test_no_backend_is_a_normal_state() -> None:
    assert TraceSettings.from_env({}) is None
    assert TraceSettings.from_env({ENDPOINT: ""}) is None
    for name, off in (("OTEL_SDK_DISABLED", " True"), ("OTEL_TRACES_EXPORTER", "none")):
        assert TraceSettings.from_env({ENDPOINT: "http://backend:4318", name: off}) is None


@pytest.mark.parametrize(
    ("sampler", "argument", "ratio", "heeds_callers"),
    [
        (None, None, 0.01, True),
        (None, "0.25", 0.25, True),
        ("always_on", None, 1.0, False),
        ("always_off", "0.5", 0.0, False),
        ("traceidratio", "0.5", 0.5, False),
        ("parentbased_always_on", None, 1.0, True),
        ("parentbased_traceidratio", "0", 0.0, True),
    ],
)
def test_the_sampler_is_set_as_everywhere(
    sampler: str | None, argument: str | None, ratio: float, heeds_callers: bool
) -> None:
    given = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    environ = {ENDPOINT: "http://backend:4318", **{name: value for name, value in given.items() if value is not None}}
    assert TraceSettings.from_env(environ) == TraceSettings("http://backend:4318/v1/traces", ratio, heeds_callers)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        (ENDPOINT, "backend:4318", "http://127.0.0.1:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "http/protobuf"),
        (ENDPOINT, "http://", "http://127.0.0.1:4318"),
        (ENDPOINT, "http://backend:port", "http://127.0.0.1:4318"),
        ("OTEL_TRACES_EXPORTER", "console", "otlp or none"),
        ("OTEL_PROPAGATORS", "b3,baggage", "tracecontext"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many", "whole number"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10000", "at most the queue's 8192"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0", "above 0"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "parentbased_"),
        ("OTEL_TRACES_SAMPLER_ARG", "1%", "from 0 to 1"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5", "from 0 to 1"),
        ("OTEL_TRACES_SAMPLER_ARG", "nan", "from 0 to 1"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is '{value}', but must be .*{allowed}"):
        TraceSettings.from_env({ENDPOINT: "http://backend:4318", name: value})


def test_what_is_said_of_traces_wins_over_what_is_said_of_all() -> None:
    environ = {
        ENDPOINT: "http://backend:4318",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    }
    assert TraceSettings.from_env(environ) is not None


@pytest.mark.parametrize("endpoint", ["me:hunter2@backend:4318", "http:/me:two hunter2@backend"])
def test_an_endpoint_that_cannot_be_used_is_shown_without_its_password(endpoint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        TraceSettings.from_env({ENDPOINT: endpoint})
    assert "hunter2" not in str(raised.value)


def test_it_is_said_where_traces_go_without_a_password() -> None:
    settings = TraceSettings.from_env({ENDPOINT: "https://me:hunter2@backend:4318"})
    assert str(settings) == "1 % of requests traced to https://me:***@backend:4318/v1/traces"


def test_headers_and_the_services_name_are_opentelemetrys_own(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20t0ken")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "named")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    traces = Traces(TraceSettings(receiver.traces, 1.0, True), "tests")
    hit(traces)
    traces.close()
    assert [headers["authorization"] for headers in receiver.headers] == ["Bearer t0ken"]
    resource = receiver.spans[0].resource
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("named", "staging")


# -- on the way ------------------------------------------------------------------------------------------------------


def test_the_queue_holds_a_bad_second_and_more(traces: Traces, receiver: Receiver) -> None:
    """At 10,000 requests a second, one in a hundred recorded, 300 spans or so come in a second."""
    for number in range(6_000):
        hit(traces, number)
    receiver.wait(lambda got: len(got.spans) == 6_000)
    assert {span.attributes["smartcache.key"] for span in receiver.spans} == {f"k{number}" for number in range(6_000)}


def test_a_small_queue_makes_small_batches(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    traces = Traces(TraceSettings(receiver.traces, 1.0, True), "tests")
    hit(traces)
    traces.close()
    assert len(receiver.spans) == 1


def test_a_forked_child_has_a_connection_of_its_own(traces: Traces, receiver: Receiver) -> None:
    hit(traces)
    traces.provider.force_flush()
    child = os.fork()
    if child == 0:
        hit(traces)
        traces.provider.force_flush()
        os._exit(0)
    os.waitpid(child, 0)
    hit(traces)
    traces.provider.force_flush()
    assert len(receiver.spans) == 3
    ports = [port for _, port in receiver.callers]
    assert ports[0] == ports[2] != ports[1]


def test_they_go_by_themselves_within_seconds(traces: Traces, receiver: Receiver) -> None:
    hit(traces)
    receiver.wait(lambda got: got.spans, seconds=5)


def test_the_queue_is_set_as_everywhere(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    traces = Traces(TraceSettings(receiver.traces, 1.0, True), "tests")
    for number in range(9):
        hit(traces, number)
    time.sleep(0.2)
    assert receiver.spans == []
    traces.close()
    assert len(receiver.spans) == 9


def test_what_waits_goes_out_at_the_end(traces: Traces, receiver: Receiver) -> None:
    hit(traces)
    traces.close()
    assert len(receiver.spans) == 1


# -- a backend that is away ------------------------------------------------------------------------------------------


def test_one_line_says_that_traces_do_not_arrive_and_one_that_they_do_again(
    traces: Traces, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.status = 401
    for _ in range(3):
        hit(traces)
        traces.provider.force_flush()
    receiver.status = 200
    hit(traces)
    traces.provider.force_flush()
    said = [record.getMessage() for record in caplog.records if "opentelemetry" in record.name or "otlp" in record.name]
    assert len(said) == 2
    assert said[0].startswith(f"traces do not arrive at {receiver.traces}, they are let go until they do: ")
    assert "401" in said[0]
    assert said[1] == f"traces arrive at {receiver.traces} again; 3 spans were let go"


@pytest.mark.parametrize(
    ("status", "rejected", "kind", "said"),
    [
        (301, 0, "text/plain", "it answered 301 Moved Permanently"),
        (200, 0, "text/html; charset=utf-8", "a page for people"),
        (200, 1, "application/x-protobuf", "it rejected 1 of them: too old"),
    ],
)
def test_an_answer_that_takes_nothing_is_no_arrival(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, status: int, rejected: int, kind: str, said: str
) -> None:
    receiver.status, receiver.answers_with = status, {"content-type": kind}
    if rejected:
        receiver.answer.partial_success.rejected_spans = rejected
        receiver.answer.partial_success.error_message = "too old"
    exemplars: list[object] = []
    traces = Traces(TraceSettings(receiver.traces, 1.0, True), "tests", lambda *told: exemplars.append(told))
    hit(traces)
    traces.close()
    assert exemplars == []
    (line,) = [record.getMessage() for record in caplog.records]
    assert said in line


def test_a_backend_that_asks_to_be_left_alone_is(
    traces: Traces, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.status, receiver.answers_with = 429, {"retry-after": "30"}
    for _ in range(3):
        hit(traces)
        traces.provider.force_flush()
    assert len(receiver.headers) == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("it answered 429 Too Many Requests")


def test_what_cannot_be_written_is_counted(
    traces: Traces, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    with traces.provider.get_tracer("application").start_as_current_span("own") as span:
        span.set_status(Status(StatusCode.ERROR, "no file \udcff"))
    traces.provider.force_flush()
    hit(traces)
    traces.provider.force_flush()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "UnicodeEncodeError" in said[0]
    assert said[1].endswith("1 spans were let go")


def test_what_other_exporters_say_is_not_kept_back(
    traces: Traces, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    other = Traces(TraceSettings(receiver.traces, 1.0, True), "others")
    own = TracerProvider()
    own.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(receiver.traces)))
    receiver.status = 401
    for one in (traces, other):
        hit(one)
        one.provider.force_flush()
    own.get_tracer("application").start_span("own").end()
    other.close()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert all("401" in line for line in said)


def test_a_port_where_nobody_listens_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        monkeypatch.setattr(otlp, "TIMEOUT", 1.5)  # one attempt after the first
        traces = Traces(TraceSettings(f"{url}/v1/traces", 1.0, True), "tests")
        hit(traces)
        traces.provider.force_flush()
        traces.close()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"traces do not arrive at {url}")
    assert "refused" in said


def test_a_backend_that_hangs_does_not_keep_the_process_from_ending(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(otlp, "FAREWELL", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        traces = Traces(TraceSettings(f"{url}/v1/traces", 1.0, True), "tests")
        hit(traces)
        began = time.monotonic()
        traces.close()
        assert time.monotonic() - began < 2
        (said,) = [record.getMessage() for record in caplog.records]
        assert said == f"traces were still on their way to {url}/v1/traces at the end: the last are let go"


def test_what_is_let_go_at_the_end_is_not_sent_later(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(otlp, "FAREWELL", 0.1)
    receiver.takes = 0.5
    traces = Traces(TraceSettings(receiver.traces, 1.0, True), "tests")
    for number in range(1600):
        hit(traces, number)
    traces.close()
    time.sleep(1.5)
    assert len(receiver.headers) == 1
    # What other tests left behind may speak too.
    said = [record for record in caplog.records if receiver.url in record.getMessage()]
    assert len(said) == 1, "it shut down twice"

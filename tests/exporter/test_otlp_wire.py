"""What is written in the wire format by hand is what OpenTelemetry's own encoder makes of it."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from exporter.otlp_wire import encode
from exporter.tracing import Told

RESOURCE = Resource({"service.name": "tests", "process.pid": 12})
texts = st.text(max_size=200)
values = st.one_of(texts, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))
times = st.integers(10**16, 2**63)
statuses = st.one_of(st.just(Status()), st.builds(Status, st.just(StatusCode.ERROR), texts))


@st.composite
def contexts(draw: Any, remote: st.SearchStrategy[bool] = st.just(False)) -> SpanContext:  # noqa: B008
    trace_id, span_id = draw(st.integers(1, 2**128 - 1)), draw(st.integers(1, 2**64 - 1))
    state = TraceState([("vendor", "1"), ("other", "b")][: draw(st.integers(0, 2))])
    return SpanContext(trace_id, span_id, draw(remote), TraceFlags(1), state)


told = st.builds(
    Told,
    contexts(),
    st.none() | contexts(st.booleans()),
    texts,
    st.dictionaries(texts, values, max_size=5),
    st.sampled_from(SpanKind),
    statuses,
    st.floats(0, 1e6),
    times,
    st.just(RESOURCE),
)


@given(st.lists(told, max_size=4))
@settings(max_examples=200, deadline=None)
def test_it_is_the_same_message(spans: list[ReadableSpan]) -> None:
    assert ExportTraceServiceRequest.FromString(encode(spans)) == encode_spans(spans)


def test_a_number_that_is_none_stays_one() -> None:
    span = Told(SpanContext(1, 1, False), None, "n", {"a": math.nan}, SpanKind.CLIENT, Status(), 1e-9, 2, RESOURCE)
    request = ExportTraceServiceRequest.FromString(encode([span]))
    assert math.isnan(request.resource_spans[0].scope_spans[0].spans[0].attributes[0].value.double_value)


def test_others_go_along() -> None:
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    other = provider.get_tracer("application").start_span("features")
    other.add_event("noted", {"n": 1})
    other.end()
    assert isinstance(other, ReadableSpan)
    own = Told(SpanContext(1, 1, False), None, "hit", {"k": "v"}, SpanKind.INTERNAL, Status(), 1e-9, 2, RESOURCE)
    request = ExportTraceServiceRequest.FromString(encode([own, other, own]))
    scopes = [scope for of_resource in request.resource_spans for scope in of_resource.scope_spans]
    found = {scope.scope.name: [span.name for span in scope.spans] for scope in scopes}
    assert found == {"smartcache": ["hit", "hit"], "application": ["features"]}
    assert all(of_resource.resource.attributes for of_resource in request.resource_spans)
    assert encode([]) == b""

"""A receiver of OTLP over HTTP that keeps what arrives."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

SERVER, CLIENT, INTERNAL = 2, 3, 1  # as in trace.proto
ERROR = 2


@dataclass(frozen=True)
class Arrived:
    """A span as it came over the wire; times in seconds since the Unix epoch."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    start: float
    end: float
    status: int
    message: str
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]
    events: tuple[dict[str, Any], ...]
    resource: dict[str, Any] = field(compare=False)
    order: int = field(compare=False)

    def holds(self, other: Arrived) -> bool:
        return self.start <= other.start <= other.end <= self.end


class Receiver:
    """What arrived, and how the next requests are answered."""

    def __init__(self) -> None:
        self.spans: list[Arrived] = []
        self.headers: list[dict[str, str]] = []
        self.callers: list[tuple[str, int]] = []
        self.status = 200
        self.answer = ExportTraceServiceResponse()
        self.answers_with = {"content-type": "application/x-protobuf"}
        self.takes = 0.0  # seconds
        self.url = ""

    @property
    def traces(self) -> str:
        """Where traces go, as settings say it."""
        return f"{self.url}/v1/traces"

    def named(self, name: str) -> list[Arrived]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Arrived:
        found = self.named(name)
        assert len(found) == 1, f"{len(found)} spans are named {name}, of {sorted(span.name for span in self.spans)}"
        return found[0]

    def below(self, span: Arrived) -> list[Arrived]:
        """Its children, by their beginnings."""
        return sorted((child for child in self.spans if child.parent_id == span.span_id), key=lambda child: child.start)

    def wait(self, condition: Callable[[Receiver], object], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not condition(self):
            assert time.monotonic() < end, f"not in time; arrived: {sorted(span.name for span in self.spans)}"
            time.sleep(0.02)

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        for of_resource in request.resource_spans:
            resource = _plain(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    self.spans.append(
                        Arrived(
                            name=span.name,
                            trace_id=span.trace_id.hex(),
                            span_id=span.span_id.hex(),
                            parent_id=span.parent_span_id.hex(),
                            kind=span.kind,
                            start=span.start_time_unix_nano / 1e9,
                            end=span.end_time_unix_nano / 1e9,
                            status=span.status.code,
                            message=span.status.message,
                            attributes=_plain(span.attributes),
                            links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                            events=tuple({"name": event.name, **_plain(event.attributes)} for event in span.events),
                            resource=resource,
                            order=len(self.spans),
                        )
                    )


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a free port of loopback."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.headers.append(dict(self.headers))
            receiver.callers.append(self.client_address)
            time.sleep(receiver.takes)
            status = receiver.status if self.path == "/v1/traces" else 404
            if status == 200:
                receiver.take(body)
            answer = receiver.answer.SerializeToString()
            self.send_response(status)
            for name, value in receiver.answers_with.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield receiver
        server.shutdown()
        thread.join()


def _plain(attributes: Any) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(map(_value, value.array_value.values))
    return None if kind is None else getattr(value, kind)

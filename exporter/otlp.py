"""Traces sent by OTLP over HTTP, set up from OpenTelemetry's own environment variables.

No backend is a normal state: without ``OTEL_EXPORTER_OTLP_ENDPOINT`` nothing is traced. With one that does not answer,
spans are let go, and the log says so when it begins and when it ends.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import time
import weakref
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import requests
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from exporter.otlp_wire import encode
from exporter.tracing import ENDED, REQUEST, DecidedSampler, Told, Tracing
from smartcache.catalogue import REQUEST_BUCKETS
from smartcache.errors import ConfigError
from smartcache.exemplars import Exemplar
from smartcache.layout import OUTCOME
from smartcache.redaction import redact, redact_url, shown

__all__ = ["Delivery", "TraceSettings", "Traces"]

#: Share of requests that are recorded unless ``OTEL_TRACES_SAMPLER_ARG`` says otherwise.
RATIO: Final = 0.01
# At 10,000 requests a second one in a hundred brings 100 traces a second, of two spans for a hit and seven for a miss:
# 300 spans or so, 10 slow requests among them. The queue holds those of 25 s in which the backend takes none.
QUEUE: Final = 8192
BATCH: Final = 512
#: Milliseconds between batches: an exemplar is there a second or two after its request, before the next scrape or so.
DELAY_MS: Final = 1000
#: Seconds for one batch, repeated attempts included.
TIMEOUT: Final = 3.0
#: Seconds that what waits may take to go out when the process ends.
FAREWELL: Final = 2.0
#: Seconds for which a backend that asks to be left alone is, at most.
LONGEST_REST: Final = 300.0

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)
_SAMPLERS: Final = ("always_on", "always_off", "traceidratio")


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """Where traces go, and which.

    Attributes:
        endpoint: the URL that takes them.
        ratio: share of requests without a caller's trace that are recorded.
        heeds_callers: whether a request is recorded because its caller's trace is.
    """

    endpoint: str
    ratio: float
    heeds_callers: bool

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> TraceSettings | None:
        """What ``OTEL_*`` says; None when nothing is to be traced.

        Raises:
            ConfigError: a value that cannot be used.
        """
        get = environ.get
        name = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
        endpoint = get(name)
        if not endpoint and (base := get(name := "OTEL_EXPORTER_OTLP_ENDPOINT")):
            endpoint = f"{base.rstrip('/')}/v1/traces"
        exporter = get("OTEL_TRACES_EXPORTER", "").strip().lower()
        if not endpoint or get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
            return None
        if exporter not in ("", "otlp"):
            raise _wrong("OTEL_TRACES_EXPORTER", exporter, "otlp or none")
        if not _is_url(endpoint):
            raise _wrong(name, environ[name], "a URL such as http://127.0.0.1:4318")
        for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
            if protocol := get(name):
                if protocol != "http/protobuf":
                    raise _wrong(name, protocol, "http/protobuf, at the backend's port for HTTP (4318 by default)")
                break
        propagators = get("OTEL_PROPAGATORS") or "tracecontext"
        if "tracecontext" not in map(str.strip, propagators.split(",")):
            raise _wrong(
                "OTEL_PROPAGATORS", propagators, "tracecontext, the only one that is read, with or without others"
            )
        _queue(environ)
        sampler = get("OTEL_TRACES_SAMPLER") or "parentbased_traceidratio"
        kind = sampler.removeprefix("parentbased_")
        if kind not in _SAMPLERS:
            raise _wrong(
                "OTEL_TRACES_SAMPLER", sampler, f"one of {', '.join(_SAMPLERS)}, or parentbased_ and one of them"
            )
        ratio = {"always_on": 1.0, "always_off": 0.0}.get(kind)
        return cls(endpoint, _ratio(get("OTEL_TRACES_SAMPLER_ARG")) if ratio is None else ratio, kind != sampler)

    def __str__(self) -> str:
        return f"{100 * self.ratio:g} % of requests traced to {redact_url(self.endpoint)}"


class Traces:
    """Traces on their way to a backend; close it, or what waits is lost.

    Args:
        settings: where to and which.
        service: the service's name, unless ``OTEL_SERVICE_NAME`` gives one.
        exemplar: takes, with its strategy, each request whose trace has arrived:
            :meth:`smartcache.CacheMetrics.exemplar`.

    Attributes:
        tracing: what the engine is given as its tracer.
        provider: OpenTelemetry's, for spans of the application's own; ``opentelemetry.trace.set_tracer_provider`` makes
            it everybody's.
        processor: the provider's.
    """

    def __init__(
        self,
        settings: TraceSettings,
        service: str,
        exemplar: Callable[[str, Exemplar], None] | None = None,
    ) -> None:
        self.settings: Final = settings
        timeout = _unless(TIMEOUT, "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT")
        self._delivery = Delivery(Exporter(settings.endpoint, timeout=timeout), settings.endpoint, exemplar)
        size, batch, delay_ms = _queue(os.environ)
        self.processor = BatchSpanProcessor(self._delivery, size, delay_ms, batch)
        self.provider = TracerProvider(DecidedSampler(settings.ratio), _Resource(service), shutdown_on_exit=False)
        self.provider.add_span_processor(self.processor)
        self.tracing = Tracing(self.provider, self.processor, ratio=settings.ratio)
        atexit.register(self.close)

    def close(self) -> None:
        """Send what waits, for two seconds at most."""
        atexit.unregister(self.close)
        sender = threading.Thread(target=self.provider.shutdown, daemon=True)
        sender.start()
        sender.join(FAREWELL)
        if sender.is_alive():
            self._delivery.give_up()


class Exporter(OTLPSpanExporter):
    """OpenTelemetry's own, but for the encoding, which costs more than all the rest of it, and for what it overlooks.

    That is an answer which takes nothing although it is no error, and the wish of a backend to be left alone for longer
    than one batch may take.

    Attributes:
        answer: the backend's last answer in words, if it was not that it took what it was sent.
        rejected: how many spans of the last batch it did not take, as it said itself.
    """

    def __init__(self, endpoint: str, timeout: float | None = None) -> None:
        self.answer = ""
        self.rejected = 0
        self._not_before = 0.0
        # Where the environment names a provider of credentials, the session is that one's.
        own = not any(
            os.environ.get(f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{of}CREDENTIAL_PROVIDER") for of in ("", "TRACES_")
        )
        session = requests.Session() if own else None
        super().__init__(endpoint, timeout=timeout, session=session)
        if session is not None:
            session.hooks["response"].append(self._read)
            _sessions.add(session)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        if (rest := self._not_before - time.monotonic()) > 0:
            self.answer = f"it asked to be left alone for {math.ceil(rest)} s more"
            return SpanExportResult.FAILURE
        self.answer, self.rejected = "", 0
        send = getattr(getattr(self, "_client", None), "export", None)
        if send is None:  # a version built otherwise
            result = super().export(spans)
        else:
            result = SpanExportResult.SUCCESS if send(encode(spans)).success else SpanExportResult.FAILURE
        return SpanExportResult.FAILURE if self.answer and not self.rejected else result

    def _read(self, response: Any, *_: Any, **__: Any) -> None:
        """What an answer says."""
        self.answer, self.rejected = "", 0
        kind = response.headers.get("content-type", "")
        if not 200 <= response.status_code < 300:
            self.answer = f"it answered {response.status_code} {response.reason}"
            self._not_before = time.monotonic() + _rest(response.headers.get("retry-after"))
        elif kind.startswith("text/html"):
            self.answer = "it answered with a page for people: something else listens there"
        elif kind.startswith("application/x-protobuf"):
            try:
                partial = ExportTraceServiceResponse.FromString(response.content).partial_success
            except Exception:  # not what it says it is, but taken all the same
                return
            if partial.rejected_spans > 0:
                self.rejected = partial.rejected_spans
                self.answer = f"it rejected {self.rejected} of them: {partial.error_message}"


class Delivery(SpanExporter):
    """Hands spans on, says when they stop arriving, and makes exemplars of requests whose trace has arrived.

    Args:
        exporter: who sends them.
        endpoint: the backend's URL, for messages.
        exemplar: takes a request's strategy and exemplar.
    """

    def __init__(
        self, exporter: Exporter, endpoint: str, exemplar: Callable[[str, Exemplar], None] | None = None
    ) -> None:
        self._exporter = exporter
        self._endpoint = redact_url(endpoint)
        self._exemplar = exemplar
        self._lost = 0
        self._reason = ""
        self._exporting = 0
        self._ended = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Hand on a batch; called by one thread at a time."""
        if self._ended:
            return SpanExportResult.FAILURE
        result = self._hand_on(spans)
        lost = self._exporter.rejected if result is SpanExportResult.SUCCESS else len(spans)
        if lost:
            if not self._lost:
                reason = redact(self._exporter.answer or self._reason)
                _log.warning("traces do not arrive at %s, they are let go until they do: %s", self._endpoint, reason)
            self._lost += lost
            return result
        if self._lost:
            _log.warning("traces arrive at %s again; %d spans were let go", self._endpoint, self._lost)
            self._lost = 0
        if self._exemplar is not None:
            self._make_exemplars(self._exemplar, spans)
        return result

    def _hand_on(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._reason, self._exporting = "", threading.get_ident()
        # What the exporter says of each attempt is kept for the one line that is logged.
        its_words = logging.getLogger(OTLPSpanExporter.__module__)
        its_words.addFilter(self._overhear)
        try:
            return self._exporter.export(spans)
        except Exception as error:  # the processor would not count them
            self._reason = f"{type(error).__name__}: {error}"
            return SpanExportResult.FAILURE
        finally:
            its_words.removeFilter(self._overhear)

    def _make_exemplars(self, exemplar: Callable[[str, Exemplar], None], spans: Sequence[ReadableSpan]) -> None:
        latest: dict[tuple[object, int], tuple[float, ReadableSpan]] = {}
        for span in spans:
            if span.name == REQUEST:
                seconds = span.seconds if type(span) is Told else ((span.end_time or 0) - (span.start_time or 0)) / 1e9
                attributes = span.told if type(span) is Told else span.attributes or {}
                latest[attributes.get(ENDED), bisect_left(REQUEST_BUCKETS, seconds)] = seconds, span
        for (ended, _), (seconds, span) in latest.items():
            outcome = OUTCOME.get(str(ended))
            if outcome is not None and span.context is not None:
                trace_id = trace.format_trace_id(span.context.trace_id)
                exemplar(outcome.strategy, Exemplar(trace_id, seconds, (span.end_time or 0) / 1e9))

    def shutdown(self) -> None:
        """Send nothing any more."""
        if not self._ended:
            self._ended = True
            self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def give_up(self) -> None:
        """Shut down although spans wait."""
        _log.warning("traces were still on their way to %s at the end: the last are let go", self._endpoint)
        self.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is kept here."""
        return True

    def _overhear(self, record: logging.LogRecord) -> bool:
        if record.thread != self._exporting:
            return True  # of another's exporter
        self._reason = self._reason or record.getMessage()  # the first attempt's says more than "gave up"
        return False


class _Resource(Resource):
    """What is known of this process, by OpenTelemetry's conventions; the environment names the service, if it does.

    Encoding groups spans by their resource, and hashes it for each; this one is hashed once.
    """

    def __init__(self, service: str) -> None:
        found = Resource.create()
        unnamed = str(found.attributes[SERVICE_NAME]).startswith("unknown_service")
        super().__init__({**found.attributes, **({SERVICE_NAME: service} if unnamed else {})}, found.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


def _unless(value: T, *names: str) -> T | None:
    """The value, unless the environment sets it: then None, and OpenTelemetry reads it."""
    return None if any(os.environ.get(name) for name in names) else value


def _ratio(text: str | None) -> float:
    if not text:
        return RATIO
    try:
        ratio = float(text)
    except ValueError:
        ratio = math.nan
    if not 0 <= ratio <= 1:
        raise _wrong("OTEL_TRACES_SAMPLER_ARG", text, "a share of requests from 0 to 1, such as 0.01")
    return ratio


def _queue(environ: Mapping[str, str]) -> tuple[int, int, int]:
    """Spans that may wait, spans in a batch, milliseconds between batches.

    Raises:
        ConfigError: a value that cannot be used.
    """
    size = _whole(environ, "OTEL_BSP_MAX_QUEUE_SIZE", QUEUE, None)
    batch = _whole(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", min(BATCH, size), size)
    return size, batch, _whole(environ, "OTEL_BSP_SCHEDULE_DELAY", DELAY_MS, None)


def _whole(environ: Mapping[str, str], name: str, default: int, most: int | None) -> int:
    if not (text := environ.get(name, "").strip()):
        return default
    number = int(text) if text.isdecimal() else 0
    if number < 1 or (most is not None and number > most):
        raise _wrong(name, text, "a whole number above 0" + ("" if most is None else f", at most the queue's {most}"))
    return number


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def _rest(retry_after: str | None) -> float:
    """Seconds that the header Retry-After asks for, as a number or as a date."""
    try:
        seconds = float(retry_after or 0)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after or "").timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(0.0, seconds), LONGEST_REST) if math.isfinite(seconds) else 0.0


def _forget_connections() -> None:
    for session in list(_sessions):
        # Closing them would take locks that a thread of the parent may have held.
        _of_parents.append(dict(session.adapters))
        for scheme in ("https://", "http://"):
            session.mount(scheme, requests.adapters.HTTPAdapter())


#: A forked child opens connections of its own: two that write into one would garble what both send.
_sessions: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
_of_parents: Final[list[Any]] = []
os.register_at_fork(after_in_child=_forget_connections)


def _wrong(name: str, value: str, allowed: str) -> ConfigError:
    return ConfigError(f"{name} is {shown(name, value)}, but must be {allowed}")

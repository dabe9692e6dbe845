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
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from exporter.otlp_wire import encode
from exporter.tracing import ENDED, REQUEST, DecidedSampler, Told, Tracing
from smartcache.catalogue import REQUEST_BUCKETS
from smartcache.errors import ConfigError
from smartcache.exemplars import Exemplar
from smartcache.layout import OUTCOME
from smartcache.redaction import redact, shown

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
        if not endpoint or get("OTEL_SDK_DISABLED", "").lower() == "true" or get("OTEL_TRACES_EXPORTER") == "none":
            return None
        if not endpoint.startswith(("http://", "https://")):
            raise _wrong(name, environ[name], "a URL such as http://127.0.0.1:4318")
        for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
            if get(name, "") not in ("", "http/protobuf"):
                raise _wrong(name, environ[name], "http/protobuf, at the backend's port for HTTP (4318 by default)")
        sampler = get("OTEL_TRACES_SAMPLER") or "parentbased_traceidratio"
        kind = sampler.removeprefix("parentbased_")
        if kind not in _SAMPLERS:
            raise _wrong(
                "OTEL_TRACES_SAMPLER", sampler, f"one of {', '.join(_SAMPLERS)}, or parentbased_ and one of them"
            )
        ratio = {"always_on": 1.0, "always_off": 0.0}.get(kind)
        return cls(endpoint, _ratio(get("OTEL_TRACES_SAMPLER_ARG")) if ratio is None else ratio, kind != sampler)

    def __str__(self) -> str:
        return f"{100 * self.ratio:g} % of requests traced to {redact(self.endpoint)}"


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
        self.processor = BatchSpanProcessor(
            self._delivery,
            max_queue_size=_unless(QUEUE, "OTEL_BSP_MAX_QUEUE_SIZE"),
            schedule_delay_millis=_unless(DELAY_MS, "OTEL_BSP_SCHEDULE_DELAY"),
            max_export_batch_size=_unless(BATCH, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"),
        )
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
            self._delivery.shutdown()


class Exporter(OTLPSpanExporter):
    """OpenTelemetry's own, but for the encoding, which costs more than all the rest of it."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        send = getattr(getattr(self, "_client", None), "export", None)
        if send is None:  # a version built otherwise
            return super().export(spans)
        return SpanExportResult.SUCCESS if send(encode(spans)).success else SpanExportResult.FAILURE


class Delivery(SpanExporter):
    """Hands spans on, says when they stop arriving, and makes exemplars of requests whose trace has arrived.

    Args:
        exporter: who sends them.
        endpoint: the backend's URL, for messages.
        exemplar: takes a request's strategy and exemplar.
    """

    def __init__(
        self, exporter: SpanExporter, endpoint: str, exemplar: Callable[[str, Exemplar], None] | None = None
    ) -> None:
        self._exporter = exporter
        self._endpoint = redact(endpoint)
        self._exemplar = exemplar
        self._lost = 0
        self._reason = ""
        # What the exporter says of each attempt is kept for the one line that is logged.
        self._its_words = logging.getLogger(OTLPSpanExporter.__module__)
        self._its_words.addFilter(self._overhear)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Hand on a batch; called by one thread at a time."""
        self._reason = ""
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._lost:
                _log.warning("traces arrive at %s again; %d spans were let go", self._endpoint, self._lost)
                self._lost = 0
            if self._exemplar is not None:
                self._make_exemplars(self._exemplar, spans)
        else:
            if not self._lost:
                _log.warning(
                    "traces do not arrive at %s, they are let go until they do: %s", self._endpoint, self._reason
                )
            self._lost += len(spans)
        return result

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
        self._its_words.removeFilter(self._overhear)
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is kept here."""
        return True

    def _overhear(self, record: logging.LogRecord) -> bool:
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


def _wrong(name: str, value: str, allowed: str) -> ConfigError:
    return ConfigError(f"{name} is {shown(name, value)}, but must be {allowed}")

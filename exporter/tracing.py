"""Traces of the engine, on OpenTelemetry.

A request is recorded if the trace it came in is (the service's request span, or a caller's), or if a draw says so. The
draw is made ahead: it says how many requests go by until the next one is recorded, so that one that goes by costs a
subtraction and OpenTelemetry is not called. Of those, one that was slow or met a panic is written down after the fact,
in a trace of its own that begins when the request did; only so many a second, since all may be slow at once.

Spans of what lasts are made by the provider's tracer. What is known only when it has ended (hits, round trips shared by
a loop tick, slow requests) goes to the processor as it is, which costs a tenth.
"""

from __future__ import annotations

import math
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from smartcache.layout import OUTCOMES
from smartcache.objectives import LATENCY_P99
from smartcache.protocol import Change
from smartcache.redaction import redact
from smartcache.request import Request
from smartcache.result import CacheResult
from smartcache.store import StoreUnavailableError
from smartcache.tracing import UNDECIDED, UNSAMPLED, Attributes, Kind, Span, current
from smartcache.volatility import STATUS_NAMES

__all__ = ["ENDED", "REQUEST", "DecidedSampler", "Told", "Tracing"]

#: Name of the span of a request to the engine, and its attribute that says how it ended: a name of ``layout.OUTCOMES``.
REQUEST: Final = "smartcache.get"
ENDED: Final = "smartcache.outcome"
_SCOPE: Final = InstrumentationScope("smartcache")
_KINDS: Final[Mapping[Kind, SpanKind]] = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_UNSET: Final = Status()
_NONE: Final[Attributes] = {}
_PANIC: Final = next(number for number, outcome in enumerate(OUTCOMES) if outcome.bypassed_by_vix)
_FRESH: Final = "fresh_memory"
#: In an OpenTelemetry context: what is made in it is recorded, since its root was drawn.
_DRAWN: Final = contexts.create_key("smartcache-drawn")


class DecidedSampler(Sampler):
    """Records what was drawn, and what happens within; of what others make with the same provider, the same ratio.

    Within a request that was decided not to be recorded nothing is: it would be a fragment.
    """

    def __init__(self, ratio: float) -> None:
        self._others = ParentBased(TraceIdRatioBased(ratio))

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        """Whether a span that begins is recorded."""
        if contexts.get_value(_DRAWN, parent_context):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, _around(parent_context).trace_state)
        if current.get() is UNSAMPLED and not _around(parent_context).trace_flags.sampled:
            return SamplingResult(Decision.DROP, trace_state=_around(parent_context).trace_state)
        return self._others.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """What it is, for the SDK."""
        return "DecidedSampler"


def _around(context: Context | None) -> SpanContext:
    """The span, valid or not, of which one that begins in a context is a part."""
    return trace.get_current_span(context).get_span_context()


class Recorded(Span):
    """A span that is recorded; without one of OpenTelemetry, the place where a root will be."""

    sampled = True

    def __init__(self, tracing: Tracing, otel: trace.Span | None) -> None:
        self._tracing = tracing
        self._otel = otel
        self.context: SpanContext | None = None
        if otel is not None:
            self.context = otel.get_span_context()
            self.sampled = self.context.trace_flags.sampled
            self.trace_id = trace.format_trace_id(self.context.trace_id)
            self.span_id = trace.format_span_id(self.context.span_id)

    @contextmanager
    def part(self, name: str, attributes: Attributes = _NONE, kind: Kind = "internal") -> Iterator[Span]:
        """What happens within is a part of this one; an exception that leaves it is noted there."""
        with self._tracing.span(name, _KINDS[kind], attributes) as span:
            try:
                yield span
            except Exception as error:
                if kind == "internal":
                    span.describe(error)
                raise

    @contextmanager
    def follow_up(self, name: str, attributes: Attributes = _NONE) -> Iterator[Span]:
        """What happens within was caused by this one, which does not wait for it: a trace of its own, with a link."""
        links = [] if self.context is None else [Link(self.context)]
        with self._tracing.span(name, SpanKind.INTERNAL, attributes, drawn(Context()), links) as span:
            yield span

    def tell(
        self,
        name: str,
        seconds: float,
        attributes: Attributes = _NONE,
        kind: Kind = "internal",
        error: BaseException | None = None,
    ) -> None:
        """A part of this one that ends now took so many seconds."""
        self._tracing.write(name, self.context, seconds, attributes, _KINDS[kind], error)

    def note(self, attributes: Attributes) -> None:
        """Say more about it."""
        if self._otel is not None:
            self._otel.set_attributes(attributes)

    def fail(self, error: BaseException) -> None:
        """It ends with an exception."""
        if self._otel is not None:
            self._otel.set_attribute(ERROR_TYPE, _type_of(error))
            if isinstance(error, Exception):  # one that was cancelled did not fail
                self._otel.set_status(_failed(error))

    def describe(self, error: Exception) -> None:
        """Where the exception comes from; said once, by the innermost."""
        if self._otel is not None:
            told = {
                EXCEPTION_TYPE: _type_of(error),
                EXCEPTION_MESSAGE: _text(str(error)),
                EXCEPTION_STACKTRACE: _text("".join(traceback.format_exception(error))),
            }
            self._otel.add_event("exception", told)

    @property
    def otel(self) -> trace.Span:
        """OpenTelemetry's own span."""
        return trace.INVALID_SPAN if self._otel is None else self._otel


class Told(ReadableSpan):
    """A span that is known only when it has ended.

    Attributes:
        own: its context.
        told: its attributes; texts, numbers and truths only.
        seconds: how long it took.
    """

    def __init__(
        self,
        own: SpanContext,
        parent: SpanContext | None,
        name: str,
        told: Attributes,
        kind: SpanKind,
        status: Status,
        seconds: float,
        end: int,
        resource: Resource,
    ) -> None:
        start = end - _nanoseconds(seconds)
        super().__init__(
            name, own, parent, resource, told, kind=kind, status=status, start_time=start, end_time=end,
            instrumentation_scope=_SCOPE,
        )  # fmt: skip
        self.own = own
        self.told = told
        self.seconds = seconds


class Tracing:
    """A :class:`smartcache.tracing.Tracer` that records with OpenTelemetry.

    Args:
        provider: makes spans; with a :class:`DecidedSampler` unless ``follows``.
        processor: one of the provider's, which is also handed spans that are known only when they have ended.
        ratio: share in [0, 1] of requests without a caller's trace that are recorded.
        follows: another instrumentation opens the traces (of an HTTP framework, say): record what is asked within its
            sampled spans and nothing else. OpenTelemetry is then asked at every request.
        slow_after: seconds from which on a request that goes by is written down all the same.
        slow_per_second: how many of those, and of those that met a panic, at most.
        rng: draws from [0, 1).
        monotonic: a clock in seconds, for ``slow_per_second``.
    """

    def __init__(
        self,
        provider: TracerProvider,
        processor: SpanProcessor,
        *,
        ratio: float = 0.01,
        follows: bool = False,
        slow_after: float = LATENCY_P99.threshold,
        slow_per_second: float = 10.0,
        rng: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracer = provider.get_tracer(_SCOPE.name)
        self._ids = provider.id_generator
        self._resource = provider.resource
        self._on_end = processor.on_end
        self._ratio = ratio
        self._log_of_rest = math.log1p(-ratio) if 0 < ratio < 1 else 0.0
        self._follows = follows
        self._limit = _Limit(slow_per_second, monotonic)
        self._rng = rng
        self._root = Recorded(self, None)
        self._recording = 0
        self._longest = SpanLimits().max_span_attribute_length
        self._lock = threading.Lock()
        #: Requests that go by before one is recorded; of hits of which nobody has decided, ``goes_by``.
        self._left = self._gap()
        self.goes_by = self._gap()
        self.slow_after = self.asks_from = slow_after

    # -- what the engine tells ---------------------------------------------------------------------------------------

    def hit(self, key: str, zone: str | None, age: float, start: float, end: float) -> None:
        """A value that was fresh in memory has been served."""
        here = current.get()
        if self.goes_by < 0:  # a hit in a request of which it was decided was counted too
            self.goes_by = self._gap()
            if here is UNDECIDED:
                here = self._decide()
        if late := not here.sampled:
            if end - start < self.slow_after or not self._limit.allows():
                return
            here = self._root
        attributes: dict[str, str | float] = {
            "smartcache.key": key,
            ENDED: _FRESH,
            "smartcache.zone": zone or "none",
            "smartcache.age": age,
        }
        if late:
            attributes["smartcache.sampled_for"] = "slow"
        parent = None
        if here is not self._root:
            # Not `here`: the application may have opened a span in between.
            parent = trace.get_current_span().get_span_context()
        self.write(REQUEST, parent, end - start, attributes)

    def asked(self, key: str) -> _Asked:
        """A request comes that has to be judged."""
        here = self.here()
        if not here.sampled:
            return _Asked(0, _Place(self, UNSAMPLED))
        began = time.time_ns()
        context = drawn() if here is self._root else contexts.get_current()
        otel = self._tracer.start_span(REQUEST, context, attributes={"smartcache.key": key}, start_time=began)
        return _Asked(began, _Place(self, Recorded(self, otel), context))

    def answered(
        self, asked: _Asked, request: Request, result: CacheResult[Any] | None, start: float, end: float
    ) -> None:
        """It has ended; without a result, with the exception that is being handled."""
        asked.place.leave()
        span, error = asked.place.span, None if result is not None else sys.exception()
        if isinstance(span, Recorded):
            span.note(_about(request, result))
            if error is not None:
                span.fail(error)
            # The very duration that the metrics have, so that an exemplar stands in the bucket that counted it.
            span.otel.end(asked.began + _nanoseconds(end - start))
            return
        why = "panic" if request.outcome == _PANIC else "slow" if end - start >= self.slow_after else None
        if why is not None and self._limit.allows():
            attributes = {"smartcache.key": request.key, **_about(request, result), "smartcache.sampled_for": why}
            self.write(REQUEST, None, end - start, attributes, error=error)

    @contextmanager
    def change(self, change: Change, event: str | None) -> Iterator[Span]:
        """Within it, something explicit happens to what is held."""
        here = self.here()
        if not here.sampled:
            place = _Place(self, UNSAMPLED)
            try:
                yield UNSAMPLED
            finally:
                place.leave()
            return
        attributes: dict[str, Any] = {"smartcache.change": change.do, "smartcache.change.what": change.what}
        if change.what != "all":
            attributes[f"smartcache.{'match_id' if change.what == 'match' else change.what}"] = change.name
        if change.markets:
            attributes["smartcache.markets"] = change.markets
        if event is not None:
            attributes["smartcache.event"] = event
        context = drawn() if here is self._root else None
        with self.span("smartcache.invalidate", SpanKind.INTERNAL, attributes, context) as span:
            yield span

    # -- deciding ----------------------------------------------------------------------------------------------------

    def draw(self) -> bool:
        """Whether a request of which nobody has decided yet is to be recorded."""
        self._left -= 1
        if self._left >= 0:
            return False
        self._left = self._gap()
        return True

    def here(self) -> Span:
        """Under what a request that comes now is recorded; UNSAMPLED if it is not."""
        here = current.get()
        return here if here is not UNDECIDED else self._decide() if self._follows or self.draw() else UNSAMPLED

    def _decide(self) -> Span:
        otel = trace.get_current_span()
        if otel is trace.INVALID_SPAN or not (context := otel.get_span_context()).is_valid:
            return UNSAMPLED if self._follows else self._root
        # The application's own, which has been decided about.
        return Recorded(self, otel) if context.trace_flags.sampled else UNSAMPLED

    def _gap(self) -> float:
        """How many requests go by until one is recorded, as if each were drawn: a geometric distribution."""
        if self._follows or self._ratio >= 1:
            return 0.0
        if self._ratio <= 0:
            return math.inf
        return math.log(1.0 - self._rng()) // self._log_of_rest

    # -- recording ---------------------------------------------------------------------------------------------------

    @contextmanager
    def span(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, Any] = _NONE,
        context: Context | None = None,
        links: Sequence[Link] = (),
    ) -> Iterator[Recorded]:
        """A span of what happens within; its parent is the one in ``context``, by default OpenTelemetry's current."""
        otel = self._tracer.start_span(name, context, kind, attributes, links)
        span = Recorded(self, otel)
        place = _Place(self, span, context)
        try:
            yield span
        except BaseException as error:
            span.fail(error)
            raise
        finally:
            place.leave()
            otel.end()

    def record(self, more: int) -> None:
        """So many more requests and parts of requests are being recorded."""
        with self._lock:
            self._recording += more
            self.asks_from = 0.0 if self._recording else self.slow_after

    def write(
        self,
        name: str,
        parent: SpanContext | None,
        seconds: float,
        attributes: Attributes,
        kind: SpanKind = SpanKind.INTERNAL,
        error: BaseException | None = None,
    ) -> None:
        """A span of what ends now and took so many seconds."""
        if parent is not None and not parent.trace_flags.sampled:
            return
        status = _UNSET
        if error is not None:
            attributes = {**attributes, ERROR_TYPE: _type_of(error)}
            if isinstance(error, Exception):
                status = _failed(error)
        if (most := self._longest) is not None:
            attributes = {name: said[:most] if isinstance(said, str) else said for name, said in attributes.items()}
        trace_id = self._ids.generate_trace_id() if parent is None else parent.trace_id
        state = None if parent is None else parent.trace_state
        own = SpanContext(trace_id, self._ids.generate_span_id(), False, _SAMPLED, state)
        self._on_end(Told(own, parent, name, attributes, kind, status, seconds, time.time_ns(), self._resource))


class _Place:
    """What runs here belongs to a span, until it is left."""

    __slots__ = ("_before", "_context", "_token", "_tracing", "span")

    def __init__(self, tracing: Tracing, span: Span, context: Context | None = None) -> None:
        self.span = span
        self._tracing = tracing
        self._before = current.set(span)
        self._context = None
        if isinstance(span, Recorded):
            tracing.record(1)
            self._context = trace.set_span_in_context(span.otel, context)
            self._token = contexts.attach(self._context)

    def leave(self) -> None:
        """Go back to where it was."""
        # A task that its loop abandons ends elsewhere, where there is nothing to go back from.
        with suppress(ValueError):
            current.reset(self._before)
        if self._context is not None:
            self._tracing.record(-1)
            if contexts.get_current() is self._context:
                contexts.detach(self._token)


class _Asked(NamedTuple):
    """A request under way: when it began, in nanoseconds if it is recorded, and where it stands."""

    began: int
    place: _Place


class _Limit:
    """So many a second, as many at once."""

    def __init__(self, per_second: float, monotonic: Callable[[], float]) -> None:
        self._per_second = per_second
        self._monotonic = monotonic
        self._allowed = per_second
        self._since = monotonic()

    def allows(self) -> bool:
        """Whether one more is allowed now."""
        now = self._monotonic()
        self._allowed = min(max(1.0, self._per_second), self._allowed + (now - self._since) * self._per_second)
        self._since = now
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True


def drawn(context: Context | None = None) -> Context:
    """The context, by default the current one, in which a root is recorded and all that happens within."""
    return contexts.set_value(_DRAWN, True, context)


def _about(request: Request, result: CacheResult[Any] | None) -> dict[str, str | float | bool]:
    about: dict[str, str | float | bool] = {
        ENDED: OUTCOMES[request.outcome].name,
        "smartcache.zone": "none" if request.zone is None else request.zone.name,
    }
    if request.status is not None:
        about["smartcache.vix_status"] = STATUS_NAMES[request.status]
    if request.coalesced:
        about["smartcache.coalesced"] = True
    if result is not None:
        about["smartcache.age"] = result.metadata.age
    return about


def _type_of(error: BaseException) -> str:
    """The class of an error; of the store's, its own word for it, or the class of what its client met."""
    if isinstance(error, StoreUnavailableError):
        if error.code:
            return error.code
        error = error.__cause__ or error
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _failed(error: Exception) -> Status:
    return Status(StatusCode.ERROR, _text(str(error)))


def _text(text: str) -> str:
    """What an error says, without secrets and in characters that can be sent: names of files may hold others."""
    return redact(text).encode(errors="replace").decode()


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)

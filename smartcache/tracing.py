"""What the engine tells whoever traces it: a small interface with nothing behind it.

The engine imports no tracing library. :mod:`exporter.tracing` is a :class:`Tracer` on OpenTelemetry; an engine without
one pays an attribute test a hit.

Where a request stands in its trace travels in the context variable :data:`current`, so across tasks, and with the tasks
that one request starts for others. A :class:`Span` that nobody records is a null object: code that may run within a
traced request tells its span what happens and never asks whether there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

if TYPE_CHECKING:
    from smartcache.protocol import Change
    from smartcache.request import Request
    from smartcache.result import CacheResult

__all__ = ["UNDECIDED", "UNSAMPLED", "Attributes", "Kind", "Span", "Tracer", "current"]

Attributes = Mapping[str, str | int | float | bool]
#: ``client``: something else is asked and waited for, such as the store.
Kind = Literal["internal", "client"]
_NONE: Final[Attributes] = {}


class Span:
    """A part of a request that nobody records; a tracer's spans are of a subclass.

    Attributes:
        sampled: whether it is recorded.
        trace_id: its trace, 32 hexadecimal digits; empty when it is not recorded.
        span_id: its own, 16 digits.
    """

    sampled: bool = False
    trace_id: str = ""
    span_id: str = ""

    def part(self, name: str, attributes: Attributes = _NONE, kind: Kind = "internal") -> AbstractContextManager[Span]:
        """What happens within is a part of this one; an exception that leaves it is noted there."""
        return nullcontext(self)

    def follow_up(self, name: str, attributes: Attributes = _NONE) -> AbstractContextManager[Span]:
        """What happens within was caused by this one, which does not wait for it: a trace of its own, with a link."""
        return nullcontext(self)

    def tell(
        self,
        name: str,
        seconds: float,
        attributes: Attributes = _NONE,
        kind: Kind = "internal",
        error: BaseException | None = None,
    ) -> None:
        """A part of this one that ends now took so many seconds."""

    def note(self, attributes: Attributes) -> None:
        """Say more about it."""


#: Nobody has decided yet whether what runs here is recorded: the next request does.
UNDECIDED: Final = Span()
#: It was decided that it is not.
UNSAMPLED: Final = Span()

#: Where the code that runs now stands.
current: Final[ContextVar[Span]] = ContextVar("smartcache_span", default=UNDECIDED)


class Tracer(Protocol):
    """Who decides which requests are recorded, and records them. Its methods must not raise.

    Attributes:
        goes_by: how many hits go by before one is told; the engine counts it down.
        slow_after: a hit that took so many seconds is told too.
        asks_from: the same, but 0 while a request is recorded, since a hit may be a part of it: one that is, is told.
    """

    goes_by: float
    slow_after: float
    asks_from: float

    def hit(self, key: str, zone: str | None, age: float, start: float, end: float) -> None:
        """A value that was fresh in memory has been served; what most requests do, and few of them tell.

        Args:
            key: its key.
            zone: golden-hour zone; None without a kickoff.
            age: of the value, in seconds.
            start: the engine's monotonic clock when it was asked.
            end: the same when it was answered.
        """

    def asked(self, key: str) -> Any:
        """Another request comes, one that has to be judged; until :meth:`answered`, what happens here belongs to it."""

    def answered(self, asked: Any, request: Request, result: CacheResult[Any] | None, start: float, end: float) -> None:
        """It has ended; without a result, with the exception that is being handled.

        Args:
            asked: what :meth:`asked` returned.
            request: what was asked for, its outcome known.
            result: the answer.
            start: the engine's monotonic clock when it was asked.
            end: the same when it ended.
        """

    def change(self, change: Change, event: str | None) -> AbstractContextManager[Span]:
        """Within it, something explicit happens to what is held, because of an event if there was one."""

"""What the engine asks of a store tier and of a bus.

``redis_store.py`` and ``redis_bus.py`` do it on Valkey and Redis; the test kit has a store of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol

from smartcache.protocol import Change

__all__ = ["Begun", "Bus", "Handlers", "Lease", "Reading", "Receipt", "Store", "StoreUnavailableError", "Tick"]


class StoreUnavailableError(Exception):
    """The store did not answer, or answered with an error; the engine goes on without it.

    Attributes:
        code: the store's own word for its error, such as ``WRONGTYPE``; empty when it did not answer.
    """

    def __init__(self, message: str = "", code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Reading(NamedTuple):
    """What a read found.

    Attributes:
        data: the stored entry; None when there is none.
        versions: the versions asked for, by name; None for one that the store does not have.
        now: the store's clock in seconds.
    """

    data: bytes | None
    versions: Mapping[str, str | None]
    now: float


class Lease(NamedTuple):
    """The answer to asking for a lease.

    Attributes:
        state: ``granted``, ``refused`` (another has it), or ``value`` (one is there that will do).
        data: that value.
        versions: the versions, by name, that a compute begins with.
        stamp: the store's clock, as it stands in entries.
        left: seconds that another's lease lasts if it is not renewed.
    """

    state: Literal["granted", "refused", "value"]
    data: bytes | None
    versions: Mapping[str, str]
    stamp: str
    left: float

    @property
    def now(self) -> float:
        """The store's clock in seconds."""
        return int(self.stamp) / 1e6


class Begun(NamedTuple):
    """What a compute began with, and a write is held to.

    Attributes:
        token: the lease's token.
        stamp: the store's clock when the lease was granted.
        versions: versions by name.
    """

    token: str
    stamp: str
    versions: Mapping[str, str]


class Receipt(NamedTuple):
    """What a change met.

    Attributes:
        keys: keys of the values it found; None where only their number is known.
        found: how many values it found.
    """

    keys: frozenset[str] | None
    found: int


class Tick(NamedTuple):
    """One price: market key, decimal odds, epoch seconds."""

    market_key: str
    odds: float
    instant: float


class Handlers(NamedTuple):
    """What a bus calls, from a thread of its own.

    Attributes:
        on_change: with a change that another process made.
        on_ticks: with ticks that other processes saw.
        on_gap: when changes may have been missed.
    """

    on_change: Callable[[Change], object]
    on_ticks: Callable[[Iterable[Tick]], object]
    on_gap: Callable[[], object]


class Bus(Protocol):
    """How changes and ticks of one process reach the others."""

    #: Monotonic instant at which this process last knew that it had missed nothing.
    heard: float
    #: Whether the last attempt to hear something succeeded; None before the first.
    connected: bool | None

    @property
    def alive(self) -> bool:
        """Whether this process knows that it has missed nothing."""

    @property
    def queued(self) -> int:
        """Changes that the store has not acknowledged yet."""

    @property
    def position(self) -> Any:
        """Where in the log this process stands, for :meth:`Store.late_versions`."""

    def send_tick(self, tick: Tick) -> None:
        """Let every other process know a price; returns at once."""

    def send_later(self, change: Change) -> None:
        """Deliver a change as soon as the store answers again; changes keep their order."""

    def wait_until_tried(self, seconds: float) -> None:
        """Block until the store was reached or found not to be, ``seconds`` at most."""

    def close(self) -> None:
        """Stop; what could not be delivered is given one last try."""


class Store(Protocol):
    """A tier that processes share. Every question raises :class:`StoreUnavailableError` when it gets no answer."""

    @property
    def breaker_state(self) -> Literal["closed", "half_open", "open"]:
        """State of the circuit breaker; the worst where there are several."""

    def read(self, key: str, versions: tuple[str, ...]) -> Awaitable[Reading]:
        """Read an entry and the versions it may depend on, together with all reads of this loop tick."""

    async def begin(
        self, key: str, token: str, versions: Sequence[str], newer_than: str, begun_from: str, origin: str
    ) -> Lease:
        """Ask for the lease on a key, unless a value is there that will do: see :func:`protocol.begin`."""

    def waiting(self, key: str) -> AbstractContextManager[Callable[[float], Awaitable[None]]]:
        """Wait for the lease on a key from now on; gives a function that waits until it may be free, or so long."""

    async def commit(
        self,
        key: str,
        payload: bytes,
        keep_seconds: float,
        match_id: str | None,
        market: str | None,
        tags: Sequence[str],
        begun: Begun,
    ) -> str | None:
        """Write a value if the lease is still ours and no version has moved; the stamp, None if it was refused."""

    async def late_versions(self, names: Sequence[str], position: Any) -> Mapping[str, str] | None:
        """Versions of tags that a compute named itself; None if they may have moved since ``position``."""

    async def renew(self, key: str, token: str) -> bool:
        """Prolong a lease; whether it was still ours."""

    async def release(self, key: str, token: str) -> None:
        """Give a lease back."""

    async def change(self, change: Change, origin: str) -> Receipt:
        """Make an explicit change and announce it."""

    def listen(self, origin: str, handlers: Handlers) -> Bus:
        """Begin to hear what other processes change; ``origin`` is this process's random name."""

    def forget_connections(self) -> None:
        """Let go of every connection without a word to the store: in a forked child they are the parent's."""

    async def close(self) -> None:
        """Close the connections of the running loop."""

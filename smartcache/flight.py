"""Single flight: at one time one compute a key, shared by callers in every loop and thread of the process."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from types import TracebackType
from typing import Generic, TypeVar

from smartcache.protocol import Belonging, Change
from smartcache.request import Request

__all__ = ["Board", "Flight"]

T = TypeVar("T")


class Flight(Generic[T]):
    """A compute under way, or waiting for the one before it, and those who wait for its result.

    Attributes:
        loop: the event loop that runs it.
        asked_by: the request that it computes for.
        exclusive: whether someone waits who may be given only what is computed from its start on.
        started: whether the compute has begun; until then, whoever needs a compute that starts later may join.
        fenced: whether something was invalidated since it began, so that its result may be handed to those who
            waited already, but to nobody else.
        changes: what was changed since it began; its result may turn out to be meant by one of them.
        given_up: whether its loop ended under it.
        gone: whether that took away what was held before too, so that it may not be served if the compute fails.
        following: the flight that starts when this one ends.
    """

    __slots__ = (
        "_done",
        "_error",
        "_lock",
        "_trace",
        "_value",
        "_waiters",
        "asked_by",
        "changes",
        "exclusive",
        "fenced",
        "following",
        "given_up",
        "gone",
        "loop",
        "started",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, asked_by: Request) -> None:
        self.loop = loop
        self.asked_by = asked_by
        self.exclusive = False
        self.started = False
        self.fenced = False
        self.gone = False
        self.given_up = False
        self.changes: list[Change] = []
        self.following: Flight[T] | None = None
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._done = False
        self._value: T | None = None
        self._error: Exception | None = None
        self._trace: TracebackType | None = None

    async def landed(self) -> None:
        """Wait for the end, whatever it is. Being cancelled here harms nobody else."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._done:
                return
            future: asyncio.Future[None] = loop.create_future()
            self._waiters.append((loop, future))
        await future

    async def result(self) -> T:
        """Wait for the value; raises what the compute raised."""
        await self.landed()
        if self._error is not None:
            # Each waiter adds its own frames to the traceback as it was, not to those of the waiters before it.
            raise self._error.with_traceback(self._trace)
        return self._value  # type: ignore[return-value]  # a T once landed without an error

    def succeed(self, value: T) -> None:
        """Hand the value to everyone who waits."""
        self._value = value
        self._land()

    def fail(self, error: Exception) -> None:
        """Hand the failure to everyone who waits; it is not kept for those who come later."""
        self._error, self._trace = error, error.__traceback__
        self._land()

    @property
    def failed(self) -> bool:
        """Whether it has landed without a value."""
        return self._error is not None

    @property
    def done(self) -> bool:
        """Whether it has landed."""
        return self._done

    def missed(self, request: Request) -> bool:
        """Whether something changed since it began that means what is asked for, though not what it was asked for."""
        return any(change.concerns(request) for change in self.changes)

    def took_away(self, held: Belonging) -> bool:
        """Whether something that is held was deleted or retired since it began."""
        return any(change.do == "delete" and change.concerns(held) for change in self.changes)

    def _land(self) -> None:
        with self._lock:
            self._done = True
            waiters, self._waiters = self._waiters, []
        here = asyncio._get_running_loop()
        for loop, future in waiters:
            if loop is here:
                _wake(future)
                continue
            with suppress(RuntimeError):  # its loop has closed, and nobody waits there any more
                loop.call_soon_threadsafe(_wake, future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Board(Generic[T]):
    """The flights of a process, by key."""

    def __init__(self) -> None:
        self._flights: dict[str, Flight[T]] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> Flight[T] | None:
        """The flight of a key, if there is one."""
        flight = self._flights.get(key)
        # A loop at rest brings nothing to its end.
        return flight if flight is not None and flight.loop.is_running() else None

    def join(self, request: Request, only_later: bool) -> tuple[Flight[T], Flight[T] | None, bool]:
        """The flight a caller belongs to.

        Args:
            request: who asks.
            only_later: the caller may share only a compute that starts from now on.

        Returns:
            The flight, the flight it has to wait for before it starts, and whether the caller must run it.
        """
        loop, key = asyncio.get_running_loop(), request.key
        with self._lock:
            running = self._flights.get(key)
            if running is None or not running.loop.is_running():  # a loop at rest brings nothing to its end
                if running is not None:  # should its loop go on, no change reaches it any more
                    running.fenced = True
                flight = self._flights[key] = Flight(loop, request)
                flight.exclusive = only_later
                return flight, None, True
            if not running.started or not (only_later or running.fenced or running.missed(request)):
                running.exclusive = running.exclusive or only_later
                return running, None, False
            before, mine = None, running.following is None or not running.following.loop.is_running()
            if mine:
                running.following = Flight(loop, request)
                before = running
            assert running.following is not None
            running.following.exclusive = running.following.exclusive or only_later
            return running.following, before, mine

    def leave(self, key: str, flight: Flight[T]) -> None:
        """Take a flight that has landed off the board; the one that follows takes its place."""
        with self._lock:
            if self._flights.get(key) is flight:
                if flight.following is None:
                    del self._flights[key]
                else:
                    self._flights[key] = flight.following

    def fence(self, change: Change) -> None:
        """Mark the flights that a change overtakes."""
        with self._lock:
            if change.what == "key":
                flights = [flight] if (flight := self._flights.get(change.name)) else []
            else:
                flights = list(self._flights.values())
            for flight in flights:
                asked = flight.asked_by
                flight.changes.append(change)
                if change.concerns(asked):
                    _fence(flight, gone=change.do == "delete")


def _fence(flight: Flight[T], *, gone: bool) -> None:
    # One that has not begun will see the world as it is then.
    if flight.started:
        flight.fenced = True
    for waited_for in (flight, flight.following):
        if waited_for is not None:
            waited_for.gone = waited_for.gone or gone

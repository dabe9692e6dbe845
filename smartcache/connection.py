"""A pipelined connection to one server: whatever the callers of one loop tick ask goes out in one write.

redis-py lends a connection to one caller at a time, who waits for the answer before the next may ask; here all callers
of an event loop share one connection, and answers come back in the order of the questions. Parsing is hiredis's.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, cast

import hiredis

__all__ = ["Done", "Endpoint", "Node", "Replies", "is_error"]

#: Answers to what was sent together, or why there are none.
Replies = list[Any] | Exception
#: Called with them, once, on the loop. It must not raise.
Done = Callable[[Replies], None]

#: Questions that may wait for one server; a store this far behind answers none of them in time.
_MOST_WAITING: Final = 20_000


class Endpoint(NamedTuple):
    """Where a server is and how one becomes its client.

    Attributes:
        host: its name or address; empty for a socket file.
        port: its port.
        path: its socket file.
        tls: how to encrypt; None for plain text.
        greeting: packed commands to begin with (who we are, which database).
        greetings: how many those are.
        database: number of the database that the greeting selects.
    """

    host: str
    port: int
    path: str = ""
    tls: ssl.SSLContext | None = None
    greeting: bytes = b""
    greetings: int = 0
    database: int = 0


def is_error(reply: object) -> bool:
    """Whether an answer is the server's refusal."""
    return isinstance(reply, hiredis.ReplyError)


class _Question:
    __slots__ = ("asked", "count", "done", "replies")

    def __init__(self, count: int, done: Done, asked: float) -> None:
        self.count = count
        self.done = done
        self.asked = asked
        self.replies: list[Any] = []


class _Connection(asyncio.Protocol):
    """An open connection. One that does not answer in time is cut, since its answers could not be told apart."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: float, on_end: Callable[[], None]) -> None:
        self._loop = loop
        self._patience = patience
        self._on_end = on_end
        self._reader = hiredis.Reader()
        self._waiting: deque[_Question] = deque()
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self.ended: Exception | None = None
        self._heard = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, packed: bytes, questions: Sequence[tuple[int, Done]]) -> None:
        """Send commands; each question names how many answers are its own and takes them."""
        if self.ended is not None:
            for _, done in questions:
                done(self.ended)
            return
        now = self._loop.time()
        self._waiting.extend(_Question(count, done, now) for count, done in questions)
        assert self._transport is not None
        self._transport.write(packed)
        if self._watch is None:
            self._watch = self._loop.call_at(now + self._patience, self._look)

    def cut(self, error: Exception) -> None:
        """End it; whoever waits gets the error."""
        if self._transport is not None:
            self._transport.abort()
        self._end(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not say so

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        self._heard = self._loop.time()
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                question = waiting[0]
                question.replies.append(reply)
                if len(question.replies) == question.count:
                    waiting.popleft()
                    self._hand_over(question)
        except (hiredis.ProtocolError, IndexError) as error:
            self.cut(ConnectionError(f"the store answered what cannot be read: {error}"))

    def _hand_over(self, question: _Question) -> None:
        try:
            question.done(question.replies)
        except Exception as error:  # one who cannot take an answer must not keep the others from theirs
            self._loop.call_exception_handler({"message": "an answer of the store was not taken", "exception": error})

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ConnectionError(f"the connection to the store was lost: {exc or 'closed by the store'}"))

    def _look(self) -> None:
        self._watch = None
        if self._waiting:
            # An answer may take longer to come than to begin.
            due = max(self._waiting[0].asked, self._heard) + self._patience
            if self._loop.time() >= due:
                self.cut(TimeoutError(f"the store did not answer within {self._patience:g} s"))
            else:
                self._watch = self._loop.call_at(due, self._look)

    def _end(self, error: Exception) -> None:
        if self.ended is not None:
            return
        self.ended = error
        self._on_end()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        waiting, self._waiting = self._waiting, deque()
        for question in waiting:
            question.done(error)


class Node:
    """One server as one event loop sees it; connects when it is first asked, and again after a loss.

    Args:
        loop: the event loop.
        endpoint: where the server is.
        connect_timeout: seconds to wait for a connection, greeting included.
        timeout: seconds to wait for an answer.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint, connect_timeout: float, timeout: float
    ) -> None:
        self.endpoint: Final = endpoint
        self._loop = loop
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._packed: list[bytes] = []
        self._questions: list[tuple[int, Done]] = []

    def send(self, packed: bytes, count: int, done: Done, *, at_once: bool = False) -> None:
        """Ask with the others of this tick.

        Args:
            packed: one or more commands.
            count: how many answers they have.
            done: takes the answers.
            at_once: the tick is over for those who ask.
        """
        waiting = len(self._questions) + (0 if self._connection is None else len(self._connection))
        if waiting >= _MOST_WAITING:
            done(ConnectionError(f"{waiting} questions wait for the store already"))
            return
        self._packed.append(packed)
        self._questions.append((count, done))
        if at_once and self._connection is not None:
            self._flush()
            return
        if len(self._questions) > 1:
            return
        if self._connection is not None:
            self._loop.call_soon(self._flush)
        elif self._connecting is None:
            self._connecting = self._loop.create_task(self._connect())

    async def close(self) -> None:
        """End the connection; whoever waits gets an error."""
        error = ConnectionError("the connection to the store was closed here")
        self._fail(error)  # a task that is cancelled before it began does not
        if self._connecting is not None:
            self._connecting.cancel()
            with suppress(asyncio.CancelledError):
                await self._connecting
        if self._connection is not None:
            self._connection.cut(error)

    def _flush(self) -> None:
        if not self._questions:
            return
        if self._connection is None:  # lost since
            if self._connecting is None:
                self._connecting = self._loop.create_task(self._connect())
            return
        packed, self._packed = self._packed, []
        questions, self._questions = self._questions, []
        self._connection.send(b"".join(packed), questions)

    async def _connect(self) -> None:
        error: Exception = ConnectionError("the event loop is ending")
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._open()
                await self._greet(connection)
            if connection.ended is not None:
                raise connection.ended
            self._connection = connection
        except TimeoutError:
            error = TimeoutError(f"no connection to the store within {self._connect_timeout:g} s")
        except Exception as found:
            error = found
        finally:
            self._connecting = None
            if self._connection is not None:
                self._flush()
            else:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._packed.clear()
        questions, self._questions = self._questions, []
        for _, done in questions:
            done(error)

    async def _open(self) -> _Connection:
        where = self.endpoint

        def make() -> _Connection:
            return _Connection(self._loop, self._timeout, self._lost)

        if where.path:
            _, connection = await self._loop.create_unix_connection(make, where.path)
        else:
            _, connection = await self._loop.create_connection(make, where.host, where.port, ssl=where.tls)
        return connection

    async def _greet(self, connection: _Connection) -> None:
        if not self.endpoint.greetings:
            return
        answered: asyncio.Future[Replies] = self._loop.create_future()

        def done(replies: Replies) -> None:
            if not answered.done():
                answered.set_result(replies)

        try:
            connection.send(self.endpoint.greeting, [(self.endpoint.greetings, done)])
            replies = await answered
            if isinstance(replies, Exception):
                raise replies
            for reply in replies:
                if is_error(reply):
                    raise ConnectionError(f"the store refused us: {reply}")
        except BaseException:
            connection.cut(ConnectionError("the store was not greeted"))
            raise

    def _lost(self) -> None:
        self._connection = None

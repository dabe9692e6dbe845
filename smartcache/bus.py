"""The bus: how an invalidation or a tick in one process reaches the others.

Both travel in streams of the store. A reader asks for what comes after the last message it has seen, so one that was
away catches up by itself; the sequence numbers tell it when something was lost. An answer without messages, checked
against the sequence, is the heartbeat: at that moment nothing was missed. Two threads do the work, so that it goes on
whatever the application's event loops are busy with.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from smartcache import protocol
from smartcache.clock import Clock
from smartcache.config import CacheConfig
from smartcache.metrics import CacheMetrics
from smartcache.store import connect_sync

__all__ = ["Bus", "Tick"]

_log: Final = logging.getLogger("smartcache.bus")
_BLOCK_MS: Final = 400
_MOST_AT_ONCE: Final = 1000
_REPLY_TIMEOUT: Final = 1.0
_RETRY_SECONDS: Final = 0.5
_MOST_TICKS_WAITING: Final = 50_000


class Tick(NamedTuple):
    """One price: market key, decimal odds, epoch seconds."""

    market_key: str
    odds: float
    instant: float


class Bus:
    """The listener and the sender of one process.

    Args:
        config: where the store is.
        clock: monotonic time, for :attr:`heard`.
        metrics: where messages, gaps and lag are counted.
        origin: this process's random name; its own messages come back and are not applied twice.
        on_message: called from the listener's thread with the fields of an invalidation message.
        on_ticks: called from the listener's thread with ticks of other processes.
        on_gap: called from the listener's thread when messages may have been missed.
        on_heard: called from the listener's thread whenever the store has answered.
    """

    def __init__(
        self,
        config: CacheConfig,
        clock: Clock,
        metrics: CacheMetrics,
        origin: str,
        on_message: Callable[[dict[str, str]], None],
        on_ticks: Callable[[Iterable[Tick]], None],
        on_gap: Callable[[], object],
        on_heard: Callable[[], None],
    ) -> None:
        self._config = config
        self._clock = clock
        self._origin = origin
        self._on_message = on_message
        self._on_ticks = on_ticks
        self._on_gap = on_gap
        self._on_heard = on_heard
        self._messages = metrics.counter("smartcache_bus_messages_total", kind="invalidate")
        self._tick_messages = metrics.counter("smartcache_bus_messages_total", kind="ticks")
        self._gaps = metrics.counter("smartcache_bus_gaps_total")
        self._queued = metrics.gauge("smartcache_invalidations_queued")
        self._last_heard = metrics.gauge("smartcache_bus_lag_seconds")
        #: Monotonic instant at which this process last knew that it had missed nothing.
        self.heard = -math.inf
        self._last_heard.set(clock.monotonic())
        #: Whether the last attempt to hear something succeeded; None before the first.
        self.connected: bool | None = None
        self._tried = threading.Event()
        self._sequence: bytes | None = None
        self._log_id: bytes | None = None
        self._ticks_id: bytes | int = int((time.time() - config.vix_window) * 1000)  # a window's worth to begin with
        self._ticks: deque[Tick] = deque(maxlen=_MOST_TICKS_WAITING)
        self._changes: deque[protocol.Command] = deque()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._listen, name="smartcache-bus-listener", daemon=True),
            threading.Thread(target=self._send, name="smartcache-bus-sender", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued(self) -> int:
        """Invalidations that the store has not acknowledged yet."""
        return len(self._changes)

    @property
    def alive(self) -> bool:
        """Whether this process knows that it has missed nothing."""
        return self.connected is True and self._clock.monotonic() - self.heard <= self._config.bus_silence

    def wait_until_tried(self, seconds: float) -> None:
        """Block until the store was reached or found not to be, ``seconds`` at most."""
        self._tried.wait(seconds)

    def send_tick(self, tick: Tick) -> None:
        """Let every other process know a price; returns at once."""
        self._ticks.append(tick)
        self._wake.set()

    def send_later(self, change: protocol.Command) -> None:
        """Deliver a change as soon as the store answers again; changes keep their order."""
        self._changes.append(change)
        self._queued.set(len(self._changes))
        self._wake.set()

    def close(self) -> None:
        """Stop both threads; what could not be delivered is given one last try."""
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(timeout=_REPLY_TIMEOUT + 1)
        self._last_heard.set(0.0)  # nobody listens any more, so nothing lags

    # -- listening ---------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self._stop.is_set():
            client = None
            try:
                client = connect_sync(self._config, _REPLY_TIMEOUT)
                if self._log_id is None:
                    self._find_place(client)
                while not self._stop.is_set():
                    self._hear(client)
            except Exception as error:
                if self._stop.is_set():
                    return
                if self.connected is not False:
                    _log.warning("the bus is silent, memory is trusted no longer than %g s: %s",
                                 self._config.bus_silence, error)  # fmt: skip
                self.connected = False
                self._tried.set()
                self._stop.wait(_RETRY_SECONDS)
            finally:
                if client is not None:
                    client.close()

    def _find_place(self, client: Any) -> None:
        """Begin at the log's end; whatever was said before is taken as missed."""
        # The last message and the sequence in one step, so that nothing falls between them.
        pipeline = client.pipeline(transaction=True)
        pipeline.get(protocol.LOG_SEQUENCE)
        pipeline.xrevrange(protocol.LOG, count=1)
        asked = self._clock.monotonic()
        self._sequence, newest = pipeline.execute()
        self._log_id = newest[0][0] if newest else b"0"
        # What this process took into memory before it listened may have been retired meanwhile.
        self._on_gap()
        self._heard_at(asked)

    def _hear(self, client: Any) -> None:
        asked = self._clock.monotonic()
        reply = client.xread(
            {protocol.LOG: self._log_id, protocol.TICKS: self._ticks_id}, count=_MOST_AT_ONCE, block=_BLOCK_MS
        )
        streams = dict(reply or ())
        for message_id, fields in streams.get(protocol.TICKS.encode(), ()):
            self._ticks_id = message_id
            if fields[b"from"].decode() != self._origin:
                self._on_ticks([Tick(*tick) for tick in msgspec.msgpack.decode(fields[b"ticks"])])
                self._tick_messages.add()
        log = streams.get(protocol.LOG.encode(), ())
        for message_id, fields in log:
            try:
                message = {name.decode(): value.decode() for name, value in fields.items()}
                in_sequence = self._sequence is None or int(message["n"]) == int(self._sequence) + 1
                if in_sequence and message["from"] != self._origin:
                    self._on_message(message)
                    self._messages.add()
            except (KeyError, ValueError):
                in_sequence = False  # none of ours, so nobody knows what it stands in place of
            if not in_sequence:
                self._missed(client)
                return
            self._sequence, self._log_id = fields[b"n"], message_id
        if log:
            if len(log) < _MOST_AT_ONCE:  # otherwise there may be more
                self._heard_at(asked)
            return
        # Nothing came: true only if the sequence stands where this process left it.
        asked = self._clock.monotonic()
        sequence = client.get(protocol.LOG_SEQUENCE)
        if sequence == self._sequence:
            self._heard_at(asked)
        elif not client.xread({protocol.LOG: self._log_id}, count=1):
            self._missed(client)

    def _missed(self, client: Any) -> None:
        _log.warning("messages on the bus were lost; memory is dropped")
        self._gaps.add()
        self._find_place(client)

    def _heard_at(self, instant: float) -> None:
        self.heard = instant
        self._last_heard.set(instant)
        if self.connected is False:
            _log.warning("the bus is heard again")
        self.connected = True
        self._tried.set()
        self._on_heard()

    # -- sending -----------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        client = connect_sync(self._config, _REPLY_TIMEOUT)
        while True:
            self._wake.wait()
            self._wake.clear()
            try:
                self._deliver(client)
            except Exception as error:
                _log.debug("what waits for the store is tried again: %s", error)
                self._stop.wait(_RETRY_SECONDS)
                self._wake.set()
            if self._stop.is_set():
                client.close()
                return

    def _deliver(self, client: Any) -> None:
        while self._changes:
            change = self._changes[0]
            client.register_script(change.script)(keys=list(change.keys), args=list(change.args))
            self._changes.popleft()
            self._queued.set(len(self._changes))
        while self._ticks:
            batch = [self._ticks.popleft() for _ in range(min(500, len(self._ticks)))]
            try:
                client.xadd(
                    protocol.TICKS,
                    {"from": self._origin, "ticks": msgspec.msgpack.encode(batch)},
                    maxlen=protocol.TICKS_LENGTH,
                    approximate=True,
                )
            except Exception:
                self._ticks.extendleft(reversed(batch))
                raise

"""The bus on Valkey or Redis: how a change or a tick in one process reaches the others.

Changes travel in the log of their lane, ticks in a stream. Publishing only wakes the readers: each asks for what comes
after the last message it has seen, so one that was away catches up by itself, and the sequence numbers tell it when
something was lost. An answer without messages, checked against the sequence, is the heartbeat: at that moment nothing
was missed. Two threads do the work, so that it goes on whatever the application's event loops are busy with.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - for host names; a child forked while a thread imports it could never connect
import logging
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Final

import msgspec
import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.exceptions import ClusterCrossSlotError, RedisClusterException

from smartcache import protocol
from smartcache.clock import Clock
from smartcache.config import CacheConfig
from smartcache.metrics import CacheMetrics
from smartcache.protocol import Change, Names
from smartcache.store import Handlers, Tick

__all__ = ["Position", "RedisBus"]

_log: Final = logging.getLogger("smartcache.bus")
#: How long to wait to be woken before asking anyway.
_HEARTBEAT: Final = 0.4
_MOST_AT_ONCE: Final = 1000
#: Messages of ticks, each of up to 500: few, so that a backlog of them holds up no change.
_TICKS_AT_ONCE: Final = 20
_MOST_CHANGES_WAITING: Final = 10_000
_REPLY_TIMEOUT: Final = 1.0
_RETRY_SECONDS: Final = 0.5
_MOST_TICKS_WAITING: Final = 50_000

#: By lane, the number and the id of the last message that was seen.
Position = Mapping[int, tuple[bytes | None, bytes]]
_change: Final = msgspec.json.Decoder(Change)
_EVERYTHING: Final = Change("delete", "all")


class RedisBus:
    """The listener and the sender of one process.

    Args:
        config: where the store is.
        clock: monotonic time, for :attr:`heard`.
        metrics: where messages, gaps and lag are counted.
        names: where the store keeps what.
        origin: this process's random name; its own messages come back and are not applied twice.
        handlers: called from the listener's thread.
        on_heard: called from the listener's thread whenever the store has answered.
        on_wake: called from the listener's thread with a key whose lease may be free.
    """

    def __init__(
        self,
        config: CacheConfig,
        clock: Clock,
        metrics: CacheMetrics,
        names: Names,
        origin: str,
        handlers: Handlers,
        on_heard: Callable[[], None],
        on_wake: Callable[[str], None],
    ) -> None:
        self._config = config
        self._clock = clock
        self._names = names
        self._origin = origin
        self._handlers = handlers
        self._on_heard = on_heard
        self._on_wake = on_wake
        self._messages = metrics.counter("smartcache_bus_messages_total", kind="invalidate")
        self._tick_messages = metrics.counter("smartcache_bus_messages_total", kind="ticks")
        self._gaps = metrics.counter("smartcache_bus_gaps_total")
        self._errors = metrics.counter("smartcache_store_errors_total", operation="bus")
        self._durations = metrics.histogram("smartcache_store_operation_duration_seconds", operation="bus")
        self._queued = metrics.gauge("smartcache_invalidations_queued")
        self._last_heard = metrics.gauge("smartcache_bus_lag_seconds")
        #: Monotonic instant at which this process last knew that it had missed nothing.
        self.heard = -math.inf
        self._last_heard.set(clock.monotonic())
        #: Whether the last attempt to hear something succeeded; None before the first.
        self.connected: bool | None = None
        self._tried = threading.Event()
        self._position: dict[int, tuple[bytes | None, bytes]] = {}
        #: Lane, number and text of changes that the store acknowledged to this process, as they come in; and by lane
        #: those that have not been met in its log yet.
        self._acknowledged: deque[tuple[int, int, bytes]] = deque(maxlen=_MOST_CHANGES_WAITING)
        self._unmet: defaultdict[int, dict[int, bytes]] = defaultdict(dict)
        # A window's worth to begin with.
        self._ticks_id = f"{int((time.time() - config.vix_window) * 1000)}-0".encode()
        self._ticks: deque[Tick] = deque(maxlen=_MOST_TICKS_WAITING)
        self._changes: deque[Change] = deque()
        self._waiting: set[Change] = set()
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
        """Changes that the store has not acknowledged yet."""
        return len(self._changes)

    @property
    def alive(self) -> bool:
        """Whether this process knows that it has missed nothing."""
        return self.connected is True and self._clock.monotonic() - self.heard <= self._config.bus_silence

    @property
    def position(self) -> Position:
        """Where in the log this process stands."""
        return dict(self._position)

    def wait_until_tried(self, seconds: float) -> None:
        """Block until the store was reached or found not to be, ``seconds`` at most."""
        self._tried.wait(seconds)

    def send_tick(self, tick: Tick) -> None:
        """Let every other process know a price; returns at once."""
        self._ticks.append(tick)
        self._wake.set()

    def send_later(self, change: Change) -> None:
        """Deliver a change as soon as the store answers again; changes keep their order."""
        if change in self._waiting:
            return  # said again before it was delivered
        if len(self._changes) >= _MOST_CHANGES_WAITING:
            if _EVERYTHING in self._waiting:
                return
            change = _EVERYTHING  # which says it all
        self._waiting.add(change)
        self._changes.append(change)
        self._queued.set(len(self._changes))
        self._wake.set()

    def acknowledged(self, change: Change, number: bytes) -> None:
        """The store has made a change for this process and given it a number in its lane's log."""
        self._acknowledged.append((protocol.lane_of(self._names, change), int(number), msgspec.json.encode(change)))

    def close(self) -> None:
        """Stop both threads; what could not be delivered is given one last try."""
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(timeout=_REPLY_TIMEOUT + 1)
        self._last_heard.set(0.0)  # nobody listens any more, so nothing lags

    def _connect(self) -> Any:
        """A blocking client of the server or the cluster."""
        patience: dict[str, Any] = {
            "socket_connect_timeout": self._config.store_connect_timeout,
            "socket_timeout": _REPLY_TIMEOUT,
            "protocol": 2,
        }
        first, *others = self._config.store_urls
        if not self._config.redis_cluster:
            return redis.Redis.from_url(first, **patience)
        places: list[Any] = [parse_url(url) for url in others]  # type: ignore[no-untyped-call]
        nodes = [
            ClusterNode(place["host"], place.get("port", 6379))  # type: ignore[no-untyped-call]
            for place in places
        ]
        return RedisCluster.from_url(first, startup_nodes=nodes, **patience)

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        client = self._connect()
        try:
            yield client
        finally:
            self._close(client)

    def _close(self, client: Any) -> None:
        if self._config.redis_cluster:  # its own close() leaves the connections to the garbage collector
            client.disconnect_connection_pools()
        client.close()

    # -- listening ---------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                with self._connected() as client, closing(client.pubsub()) as woken:
                    # Subscribed before the log is read, so that nothing new goes by unnoticed.
                    woken.subscribe(protocol.WAKE, protocol.wake_channel(self._origin))
                    if not self._position:
                        self._find_place(client)
                    while not self._stop.is_set():
                        while self._catch_up(client) and not self._stop.is_set():
                            pass
                        self._rest(woken)
            except Exception as error:
                if self._stop.is_set():
                    return
                self._errors.add()
                if self.connected is not False:
                    _log.warning("the bus is silent, memory is trusted no longer than %g s: %s",
                                 self._config.bus_silence, error)  # fmt: skip
                self.connected = False
                self._tried.set()
                self._stop.wait(_RETRY_SECONDS)

    def _rest(self, woken: Any) -> None:
        """Wait until there is something to read, a heartbeat at most; wakes for leases are passed on meanwhile."""
        until = time.monotonic() + _HEARTBEAT
        news = False
        while (left := until - time.monotonic()) > 0:
            message = woken.get_message(timeout=0.0 if news else left)
            if message is None:
                return
            if message["type"] != "message":
                continue
            if message["channel"] == protocol.WAKE.encode():
                news = True  # and whatever else is there already
            else:
                self._on_wake(message["data"].decode())

    def _find_place(self, client: Any) -> None:
        """Begin at the logs' ends; whatever was said before is taken as missed."""
        asked = self._clock.monotonic()
        lanes = range(self._names.lanes)
        beginnings, pipeline = (client.pipeline(transaction=False) for _ in range(2))
        for lane in lanes:
            # A log without a number gets one, or nobody would notice that its first message came and went.
            beginnings.set(self._names.sequence(lane), protocol.seed(), nx=True)
        for answer in beginnings.execute(raise_on_error=False):
            if isinstance(answer, Exception) and not isinstance(answer, redis.ResponseError):
                raise answer  # others come from a store that takes no writes
        for lane in lanes:
            pipeline.get(self._names.sequence(lane))
            pipeline.xrevrange(self._names.log(lane), count=1)
            pipeline.get(self._names.sequence(lane))
        answers = pipeline.execute()
        for lane, before, newest, after in zip(lanes, answers[::3], answers[1::3], answers[2::3], strict=True):
            if not newest:
                self._position[lane] = after, b"0-0"
            else:
                # Where the number stood still it is that of the newest message, whatever became of the message itself.
                message_id, fields = newest[0]
                self._position[lane] = after if before == after else fields.get(b"n"), message_id
        # What this process took into memory before it listened may have been retired meanwhile.
        self._handlers.on_gap()
        self._heard_at(asked)

    def _catch_up(self, client: Any) -> bool:
        """Read what is new in every log, and some of the ticks; whether there may be more."""
        asked, acknowledged = self._clock.monotonic(), len(self._acknowledged)
        pipeline = client.pipeline(transaction=False)
        lanes = range(self._names.lanes)
        for lane in lanes:
            # The number first, so that the messages up to it are among those that follow.
            pipeline.get(self._names.sequence(lane))
            pipeline.xrange(self._names.log(lane), min=b"(" + self._position[lane][1], count=_MOST_AT_ONCE)
        pipeline.xrange(protocol.TICKS, min=b"(" + self._ticks_id, count=_TICKS_AT_ONCE)
        *answers, ticks = pipeline.execute()
        self._durations.observe(self._clock.monotonic() - asked)
        for _ in range(acknowledged):  # when the store was asked, so its logs must reach as far
            lane, number, change = self._acknowledged.popleft()
            self._unmet[lane].setdefault(number, change)
        more = False
        for lane, sequence, messages in zip(lanes, answers[::2], answers[1::2], strict=True):
            if went_back := self._went_back(lane, sequence, messages):
                _log.warning("the store went back in time (an old snapshot, or a replica that lagged took over): "
                             "what it held is retired, since changes that it had acknowledged are undone")  # fmt: skip
                try:
                    self._run(client, _EVERYTHING)
                except Exception:
                    self._handlers.on_gap()  # that much is known though the store takes nothing
                    raise
            elif self._read_log(lane, sequence, messages):
                more = more or len(messages) == _MOST_AT_ONCE
                continue
            else:
                _log.warning("messages on the bus were lost; memory is dropped")
            self._gaps.add()
            self._find_place(client)
            if went_back:
                self._unmet.clear()
            return True
        if not more:
            self._heard_at(asked)
        for message_id, fields in ticks:
            self._ticks_id = message_id
            if fields[b"from"].decode() != self._origin:
                self._handlers.on_ticks([Tick(*tick) for tick in msgspec.msgpack.decode(fields[b"ticks"])])
                self._tick_messages.add()
        return more or len(ticks) == _TICKS_AT_ONCE

    def _went_back(self, lane: int, sequence: bytes | None, messages: list[tuple[bytes, dict[bytes, bytes]]]) -> bool:
        """Whether the store has forgotten numbers that were seen or acknowledged, or is giving them out again."""
        position = self._position[lane][0]
        seen = int(position) if position and position.isdigit() else -1
        unmet = self._unmet[lane] = {number: change for number, change in self._unmet[lane].items() if number > seen}
        known = max(unmet, default=seen)
        if known >= 0 and (sequence is None or (sequence.isdigit() and int(sequence) < known)):
            return True
        for _, fields in messages:
            number, change = fields.get(b"n", b""), fields.get(b"change")
            if number.isdigit() and (int(number) <= seen or unmet.get(int(number), change) != change):
                return True
        return False

    def _read_log(self, lane: int, sequence: bytes | None, messages: list[tuple[bytes, dict[bytes, bytes]]]) -> bool:
        """Apply a lane's new messages; whether it is certain that none is missing up to the number ``sequence``."""
        number = self._position[lane][0]
        for message_id, fields in messages:
            try:
                new = fields[b"n"]
                if number is not None and int(new) != int(number) + 1:
                    return False
                if fields[b"from"].decode() != self._origin:
                    self._handlers.on_change(_change.decode(fields[b"change"]))
                    self._messages.add()
            except (KeyError, ValueError, msgspec.MsgspecError):
                return False  # none of ours, so nobody knows what it stands in place of
            number = new
            self._position[lane] = number, message_id
        if number == sequence or len(messages) == _MOST_AT_ONCE:
            return True
        # Messages may have come after the number was read.
        return bool(messages and number and sequence and sequence.isdigit() and int(number) > int(sequence))

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
        client: Any = None
        while True:
            self._wake.wait()
            self._wake.clear()
            try:
                if client is None:
                    client = self._connect()
                self._deliver(client)
            except Exception as error:
                self._errors.add()
                _log.debug("what waits for the store is tried again: %s", error)
                self._stop.wait(_RETRY_SECONDS)
                self._wake.set()
            if self._stop.is_set():
                if client is not None:
                    self._close(client)
                return

    def _run(self, client: Any, change: Change) -> None:
        in_reach = not self._config.redis_cluster
        if change.what == "key":
            commands = protocol.drop(self._names, self._origin, change, in_reach=in_reach)
        else:
            commands = [protocol.retire(self._names, self._origin, change, in_reach=in_reach)]
        for command in commands:
            answer = client.eval(command.script, len(command.keys), *command.keys, *command.args)
        self.acknowledged(change, answer[0])

    def _run_or_retire(self, client: Any, change: Change) -> None:
        try:
            self._run(client, change)
        except (redis.ResponseError, RedisClusterException) as error:
            if change == _EVERYTHING or not _for_good(error):
                raise
            # It would be refused each time, and every later change with it.
            _log.warning("the store refuses %s, so everything is retired instead: %s", change, error)
            self._run(client, _EVERYTHING)

    def _deliver(self, client: Any) -> None:
        while self._changes:
            change = self._changes[0]
            self._waiting.discard(change)  # said again from now on, it must be delivered again
            try:
                self._run_or_retire(client, change)
            except Exception:
                if change in self._waiting:
                    self._changes.popleft()  # it was said again meanwhile
                    self._queued.set(len(self._changes))
                self._waiting.add(change)
                raise
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
                client.publish(protocol.WAKE, "ticks")
            except Exception:
                self._ticks.extendleft(reversed(batch))
                raise


def _for_good(error: Exception) -> bool:
    """Whether the same command will get the same answer."""
    if isinstance(error, ClusterCrossSlotError) or "same key slot" in str(error):  # redis-py found out by itself
        return True
    if type(error) is not redis.ResponseError:
        return False  # what redis-py has a class for, such as READONLY and OOM, may pass
    code = str(error).partition(" ")[0]  # redis-py takes ERR off, and leaves what it does not know, such as MISCONF
    return code == "WRONGTYPE" or not code.isupper()

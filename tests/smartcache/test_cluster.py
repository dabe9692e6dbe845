"""The engine on a real cluster of three primaries."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import Cluster, Model, eventually, wait_until
from redis.connection import AbstractConnection

from smartcache import CacheConfig, EventType, SmartCacheEnhanced, key_factory, protocol
from smartcache.protocol import Names, slot_of
from smartcache.store import StoreUnavailableError

NAMES = Names(protocol.CLUSTER_LANES)


@pytest.fixture
def raw(cluster: Cluster) -> Iterator[Any]:
    with cluster.client() as client:
        client.flushall(target_nodes="primaries")
        yield client


@pytest.fixture
async def make(cluster: Cluster, raw: Any) -> Any:
    made: list[SmartCacheEnhanced] = []

    def make(**settings: Any) -> SmartCacheEnhanced:
        config = CacheConfig(redis_url=cluster.url, redis_cluster=True, **{"store_timeout": 2.0, **settings})
        made.append(SmartCacheEnhanced(config, rng=lambda: 0.0))
        return made[-1]

    yield make
    for cache in made:
        await cache.close()


async def ready(*caches: SmartCacheEnhanced) -> None:
    for cache in caches:
        await cache.start()
    await eventually(lambda: all(cache._bus is not None and cache._bus.alive for cache in caches))


def context(match: str, market: str = "btts") -> Any:
    return {"match_id": match, "market": market, "kickoff_time": datetime.now(UTC) + timedelta(hours=2)}


def test_lanes_lie_on_every_primary() -> None:
    thirds = {slot_of(NAMES.log(lane)) * 3 // 16_384 for lane in range(protocol.CLUSTER_LANES)}
    assert thirds == {0, 1, 2}


@pytest.mark.parametrize("name", ["a", "{a}b", "x{", "{}a", "a{b}c{d}", "é{", "bets:prod:v1:pred:{m_12345}:btts"])
def test_slots_are_those_of_the_cluster(name: str) -> None:
    from redis.crc import key_slot

    assert slot_of(name) == key_slot(name.encode())


async def test_values_of_one_engine_are_found_by_another_wherever_they_lie(make: Any) -> None:
    one, other = make(), make()
    models = {key: Model() for key in (f"spread:{number}" for number in range(100))}
    await asyncio.gather(*(one.get_or_load(key, model) for key, model in models.items()))
    found = await asyncio.gather(*(other.get_or_load(key, model) for key, model in models.items()))
    assert found == [{"run": 1}] * 100
    assert one.metrics.get_stats()["cache_errors"] == other.metrics.get_stats()["cache_errors"] == 0
    assert len({slot_of(key) * 3 // 16_384 for key in models}) == 3, "the keys lie on all three"


async def test_an_event_retires_the_markets_of_one_match_everywhere(make: Any, raw: Any) -> None:
    one, other = make(), make()
    await ready(one, other)
    model = Model()
    for match in ("7", "8"):
        for market in ("btts", "penalty"):
            await one.get_with_intelligence(key_factory.prediction(match, market), model, context(match, market))
            await other.get_with_intelligence(key_factory.prediction(match, market), model, context(match, market))
    answer = await one.invalidate_by_event(EventType.GK_CHANGE, "match:7")
    assert (answer["invalidated_count"], answer["acknowledged"]) == (1, True)
    assert not raw.exists(key_factory.prediction("7", "btts"))
    await eventually(lambda: other._holdings.get(key_factory.prediction("7", "btts")) is None, 0.25)
    assert other._holdings.get(key_factory.prediction("7", "penalty")) is not None
    assert other._holdings.get(key_factory.prediction("8", "btts")) is not None


@pytest.mark.parametrize("verb", ["delete", "expire"])
async def test_keys_and_tags_change_everywhere_and_are_counted(make: Any, verb: str) -> None:
    one, other = make(), make()
    await ready(one, other)
    model = Model()
    keys = [f"k{number}" for number in range(30)]
    for key in keys:
        await one.get_or_load(key, model, tags=["x", "y"])
        await other.get_or_load(key, model)
    assert await getattr(one, verb)("k0") == 1
    third = make(memory_entries=0)
    await ready(third)
    assert await getattr(third, verb)(tags=["x"]) == (29 if verb == "delete" else 30)
    assert (await one.get_or_load("k5", model))["run"] > 30 or await settled(one, "k5")
    await eventually(lambda: all(gone(other, key) for key in keys), 0.25)
    assert (await other.get_or_load("k7", model))["run"] > 30


async def settled(cache: SmartCacheEnhanced, key: str) -> bool:
    await eventually(lambda: gone(cache, key), 0.25)
    return True


def gone(cache: SmartCacheEnhanced, key: str) -> bool:
    entry = cache._holdings.get(key)
    return entry is None or entry.expired


@pytest.mark.parametrize("change", ["tag", "match", "key", "all"])
async def test_a_change_elsewhere_during_a_compute_is_not_overwritten(make: Any, model: Model, change: str) -> None:
    one, other = make(), make()
    await ready(one, other)
    model.gate = asyncio.Event()
    # The key, its match and its tag lie in three different slots.
    ask: Any = {"tags": ["x"], "match_context": context("7")}
    computing = asyncio.create_task(one.get_or_load("plain", model, **ask))
    await eventually(lambda: model.runs == 1)
    match change:
        case "tag":
            await other.delete(tags=["x"])
        case "match":
            await other.invalidate_by_event(EventType.GK_CHANGE, "match:7")
        case "key":
            await other.delete("plain")
        case "all":
            await other.invalidate_all()
    model.gate.set()
    assert await computing == {"run": 1}
    assert await make(memory_entries=0).get_or_load("plain", model, **ask) == {"run": 2}
    assert await one.get_or_load("plain", model, **ask) == {"run": 2}


async def test_a_tag_that_moves_between_the_write_and_the_check_withdraws_the_entry(
    make: Any, model: Model, raw: Any
) -> None:
    cache = make()
    await ready(cache)
    store = cache._store
    read = store._versions
    asked = 0

    async def late(names: Any, *more: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 2:  # the check after the write: somebody else moves the tag just before
            assert raw.exists("plain"), "it was written before it is checked"
            raw.incrby(NAMES.version(protocol.tag_version("x")), 1 << 16)
        return await read(names, *more)

    store._versions = late
    await cache.get_or_load("plain", model, tags=["x"])
    assert asked == 2
    assert not raw.exists("plain")
    assert cache._holdings.get("plain") is None
    assert cache.metrics.snapshot().samples["smartcache_writes_fenced_total"][()] == 1


async def test_a_tag_named_by_the_compute_is_checked_in_its_own_lane(make: Any, model: Model) -> None:
    from smartcache import compute_context

    one, other = make(), make()
    await ready(one, other)
    model.gate = asyncio.Event()

    async def compute() -> Any:
        value = await model()
        compute_context().add_tags(["late"])
        return value

    computing = asyncio.create_task(one.get_or_load("plain", compute))
    await eventually(lambda: model.runs == 1)
    await other.delete(tags=["unrelated", "other"])
    model.gate.set()
    await computing
    assert await make().get_or_load("plain", model) == {"run": 1}, "other tags do not matter"
    assert await other.delete(tags=["late"]) == 1
    assert await make().get_or_load("plain", model) == {"run": 2}


@pytest.mark.parametrize("change", ["tag", "match", "key"])
async def test_a_change_that_a_primary_forgot_before_anybody_heard_of_it_is_made_good(
    make: Any, model: Model, raw: Any, cluster: Cluster, change: str
) -> None:
    one, other = make(), make()
    await ready(one, other)
    await other.get_or_load("plain", model, tags=["x"], match_context=context("7"))
    numbers = [NAMES.sequence(lane) for lane in range(protocol.CLUSTER_LANES)]
    before = [raw.get(number) for number in numbers]
    with ExitStack() as deaf:
        for server in cluster.servers:
            client: Any = deaf.enter_context(redis.Redis(port=server.port))
            client.execute_command("ACL SETUSER default -xrange")
            deaf.callback(client.execute_command, "ACL SETUSER default +xrange")
        match change:
            case "tag":
                assert (await one.delete(tags=["x"])).acknowledged
            case "match":
                assert (await one.invalidate_by_event(EventType.GK_CHANGE, "match:7"))["acknowledged"]
            case "key":
                assert (await one.delete("plain")).acknowledged
        (forgetful,) = (lane for lane, number in enumerate(numbers) if raw.get(number) != before[lane])
        raw.set(numbers[forgetful], before[forgetful])
        raw.delete(NAMES.log(forgetful))
        assert other._holdings.get("plain") is not None
    await eventually(lambda: other._holdings.get("plain") is None)


async def test_the_bus_gives_all_lanes_their_first_numbers_in_one_round_trip_to_each_primary(
    make: Any, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[bytes] = []
    send: Any = AbstractConnection.send_packed_command

    def noted(self: Any, command: Any, **more: Any) -> Any:
        writes.append(command if isinstance(command, bytes) else b"".join(command))
        return send(self, command, **more)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", noted)
    await ready(make())
    assert sum(b"$3\r\nSET\r\n" in write for write in writes) == 3
    assert all(raw.exists(NAMES.sequence(lane)) for lane in range(protocol.CLUSTER_LANES))


async def test_the_bus_listens_though_a_primary_takes_no_writes(make: Any, raw: Any, cluster: Cluster) -> None:
    client: Any = redis.Redis(port=cluster.servers[1].port)
    client.config_set("min-replicas-to-write", 1)
    try:
        cache = make()
        await ready(cache)
        numbered = [number is not None for number, _ in cache._bus.position.values()]
        assert any(numbered), "the others take them"
        assert not all(numbered)
    finally:
        client.config_set("min-replicas-to-write", 0)
        client.close()


async def test_ticks_reach_every_process(make: Any) -> None:
    one, other = make(), make()
    await ready(one, other)
    for price in (2.0, 2.0, 2.0, 2.6):
        one.update_vix_snapshot("7:btts:yes:", price)
    await eventually(lambda: other.volatility.judge("7:btts:yes:", None, other.clock.time()).samples == 3)


WORKER = textwrap.dedent(
    """
    import asyncio, sys, time
    from smartcache import CacheConfig, SmartCacheEnhanced

    async def main(url, runs, seconds):
        cache = SmartCacheEnhanced(CacheConfig(redis_url=url, redis_cluster=True, store_timeout=2.0, lease_seconds=1.0))
        await cache.start()
        async def compute():
            with open(runs, "a") as log:
                log.write("run\\n")
            await asyncio.sleep(seconds)
            return "computed"
        found = await asyncio.gather(*(cache.get_or_load("cold", compute, tags=["x"]) for _ in range(50)))
        assert set(found) == {"computed"}
        await cache.close()

    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
    """
)


def worker(cluster: Cluster, runs: Path, seconds: float) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-c", WORKER, cluster.url, str(runs), str(seconds)], env=environment)


def test_processes_share_one_compute_and_a_killed_owner_is_replaced_once(
    cluster: Cluster, raw: Any, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    workers = [worker(cluster, runs, 0.5) for _ in range(3)]
    assert [one.wait(60) for one in workers] == [0, 0, 0]
    assert runs.read_text() == "run\n"
    raw.flushall(target_nodes="primaries")
    runs.unlink()
    owner = worker(cluster, runs, 30)
    wait_until(lambda: runs.exists() and runs.read_text() == "run\n")
    others = [worker(cluster, runs, 0.3) for _ in range(2)]
    owner.kill()
    owner.wait()
    assert [one.wait(60) for one in others] == [0, 0]
    assert runs.read_text() == "run\nrun\n"


async def test_slots_that_moved_are_found_again(make: Any, cluster: Cluster, raw: Any) -> None:
    cache = make(memory_entries=0)
    model = Model()
    await cache.get_or_load("moving", model)
    slot = slot_of("moving")
    nodes = {node.port: raw.cluster_myid(node) for node in raw.get_primaries()}
    source = next(node for node in raw.get_primaries() if node.port == raw.get_node_from_key("moving").port)
    target = next(node for node in raw.get_primaries() if node.port != source.port)
    clients: list[Any] = [redis.Redis(port=node.port) for node in (target, source)]
    there, here = clients
    here_id, there_id = nodes[source.port], nodes[target.port]
    there.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", here_id)
    here.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", there_id)
    assert await cache.get_or_load("moving", model) == {"run": 1}, "while it is on its way"
    for key in here.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
        here.execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 1000)
    assert await cache.get_or_load("moving", model) == {"run": 1}, "when its value has gone ahead"
    for client in (there, here):
        client.execute_command("CLUSTER SETSLOT", slot, "NODE", there_id)
    try:
        assert await cache.get_or_load("moving", model) == {"run": 1}, "where it is now"
        assert await cache.get_or_load("another{moving}", model) == {"run": 2}
        assert await cache.delete("moving", "another{moving}") == 2
    finally:
        for key in there.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
            there.delete(key)
        for client in (there, here):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", here_id)
            client.close()


async def test_a_store_that_is_a_cluster_says_what_to_set(cluster: Cluster, model: Model) -> None:
    cache = SmartCacheEnhanced(CacheConfig(redis_url=f"redis://127.0.0.1:{cluster.servers[0].port}"))
    store = cache._store
    assert store is not None
    elsewhere = next(key for key in map(str, range(100)) if slot_of(key) > 16_000)
    with pytest.raises(StoreUnavailableError, match="SMARTCACHE_REDIS_CLUSTER=true"):
        await store.release(elsewhere, "token")
    async with asyncio.timeout(5):  # the hard time-out is 10 s
        with pytest.raises(StoreUnavailableError, match="CROSSSLOT"):
            await store.read(elsewhere, (protocol.ALL,))
        assert await cache.get_or_load(elsewhere, model) == {"run": 1}
    await cache.close()


async def test_a_replica_that_takes_over_is_found_and_nothing_stale_is_served(tmp_path: Path) -> None:
    with Cluster(tmp_path, replicas=3) as cluster:
        config = CacheConfig(redis_url=cluster.url, redis_cluster=True, store_timeout=1.0, store_connect_timeout=0.5)
        one, other = SmartCacheEnhanced(config), SmartCacheEnhanced(config)
        await ready(one, other)
        models = {f"k{number}": Model() for number in range(60)}
        for key, model in models.items():
            await one.get_or_load(key, model, tags=["x"])
            await other.get_or_load(key, model)
        cluster.servers[0]._process.kill()
        answered = [await one.get_or_load(key, model) for key, model in models.items()]
        assert len(answered) == 60, "callers get values while a third of the store is dead"
        assert await one.delete(tags=["x"]) == 60
        await asyncio.sleep(2.1)  # the bus may be silent for so long before memory is not trusted
        for key, model in models.items():
            answer = await other.get_with_intelligence(key, model)
            assert answer.value["run"] > 1 or answer.strategy != "serve_fresh", "what was deleted is not called fresh"
        await eventually(lambda: one.health()["bus"] == other.health()["bus"] == "ok", 20)
        assert (await one.delete(*models)).acknowledged
        await asyncio.sleep(0.25)
        for key, model in models.items():
            before = model.runs
            assert await other.get_or_load(key, model) == {"run": before + 1}
        errors = other.metrics.get_stats()["cache_errors"]
        for key, model in models.items():
            assert await one.get_or_load(key, model) == {"run": model.runs}
        assert other.metrics.get_stats()["cache_errors"] == errors, "all of the store answers again"
        for cache in (one, other):
            await cache.close()


@pytest.mark.parametrize("key", ["a}b", "a{}b{c}", "}{"])
async def test_a_key_may_have_braces_wherever_it_likes(make: Any, model: Model, key: str) -> None:
    one, other = make(), make()
    await ready(one, other)
    assert await one.get_or_load(key, model) == await other.get_or_load(key, model) == {"run": 1}
    found = await one.delete(key)
    assert (found, found.acknowledged, one.health()["queued_invalidations"]) == (1, True, 0)
    await eventually(lambda: other._holdings.get(key) is None)
    assert await other.get_or_load(key, model) == {"run": 2}


async def test_a_change_whose_keys_lie_in_two_slots_is_replaced_by_retiring_everything(
    make: Any, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = make(), make()
    await ready(one, other)
    await other.get_or_load("a", model)
    apart = protocol.Command("return 1", ["a", "b"], [])
    monkeypatch.setattr(protocol, "drop", lambda *_, **__: [apart])
    assert not (await one.delete("a")).acknowledged
    await eventually(lambda: one.health()["queued_invalidations"] == 0)
    await eventually(lambda: other._holdings.get("a") is None)
    assert await other.get_or_load("a", model) == {"run": 2}


async def test_a_read_that_a_server_refuses_is_a_failure_and_no_miss(make: Any, model: Model, cluster: Cluster) -> None:
    cache = make()
    await cache.get_or_load("a", model)
    with ExitStack() as stack:
        for server in cluster.servers:
            client: Any = stack.enter_context(redis.Redis(port=server.port))
            client.execute_command("ACL SETUSER default -get")
            stack.callback(client.execute_command, "ACL SETUSER default +get")
        with pytest.raises(StoreUnavailableError, match="NOPERM"):
            await cache._store.read("a", (protocol.ALL,))
        assert await make(memory_entries=0).get_or_load("a", model) == {"run": 2}
    assert cache.metrics.snapshot().samples["smartcache_store_errors_total"]["read",] == 2

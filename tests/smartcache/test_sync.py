"""Plain functions on the engine: whose thread runs what, and that nobody is left waiting."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from exporter.files import MetricsFiles
from smartcache import (
    CacheConfig,
    ComputeCancelledError,
    ComputeTimeoutError,
    ReentrantComputeError,
    SmartCacheEnhanced,
    UncacheableValueError,
    Wanted,
    compute_context,
    smart_cache_enhanced,
)
from smartcache.loop_thread import Call, Job, LoopThread, Outcome
from smartcache.sync import SyncCache
from smartcache.testing import VirtualClock

ROOT = Path(__file__).parents[2]
KEY = "bets:prod:v1:pred:{m_7}:btts"
LOOP, WORKER = "smartcache-sync-loop", "smartcache-sync-worker"
REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")


class Model:
    """A plain compute that says in which threads it ran; it can be held back and made to fail."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.error: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()

    @property
    def runs(self) -> int:
        return len(self.threads)

    def __call__(self) -> Any:
        self.threads.append(threading.current_thread())
        run = self.runs
        self.begun.set()
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        return {"run": run}

    def hold(self) -> None:
        self.begun.clear()
        self.gate.clear()


@pytest.fixture
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.gate.set()


@pytest.fixture
def sync(cache: SmartCacheEnhanced) -> Iterator[SyncCache]:
    with SyncCache(cache) as sync:
        yield sync


@pytest.fixture
def crowd() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as crowd:
        yield crowd


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to hold in time"
        time.sleep(0.005)


def coalesced(sync: SyncCache) -> Any:
    return sync.engine.metrics.snapshot().samples["smartcache_coalesced_requests_total"][()]


def threads_of_ours() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith(("smartcache", "asyncio"))}


def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# -- whose thread ----------------------------------------------------------------------------------------------------


def test_a_compute_is_run_by_the_thread_that_asked_as_if_it_had_called_it(sync: SyncCache) -> None:
    connection = threading.local()
    connection.name = "mine"
    REQUEST.set("GET /")

    def compute() -> list[str]:
        name = REQUEST.get()
        REQUEST.set("seen")
        return [name, connection.name]

    assert sync.get_or_load(KEY, compute) == ["GET /", "mine"]
    assert REQUEST.get() == "seen", "a context variable was set in a copy"
    assert sync.get_with_intelligence("other", compute).value == ["seen", "mine"]


def test_threads_that_ask_for_a_cold_key_share_one_compute_in_one_of_them(
    sync: SyncCache, model: Model, crowd: ThreadPoolExecutor
) -> None:
    model.hold()
    start = threading.Barrier(32)
    askers: set[threading.Thread] = set()

    def ask() -> dict[str, int]:
        askers.add(threading.current_thread())
        start.wait()
        return sync.get_or_load(KEY, model)

    answers = [crowd.submit(ask) for _ in range(32)]
    eventually(lambda: coalesced(sync) == 31)
    model.gate.set()
    assert [answer.result() for answer in answers] == [{"run": 1}] * 32
    assert model.threads[0] in askers


def test_async_users_of_the_engine_share_computes_with_threads(
    sync: SyncCache, model: Model, crowd: ThreadPoolExecutor
) -> None:
    async def never() -> Any:
        raise AssertionError("computed twice")

    async def ask() -> Any:
        return await sync.engine.get_or_load(KEY, never)

    model.hold()
    plain = crowd.submit(sync.get_or_load, KEY, model)
    assert model.begun.wait(10)
    other = crowd.submit(asyncio.run, ask())
    eventually(lambda: coalesced(sync) == 1)
    model.gate.set()
    assert plain.result() == other.result() == {"run": 1}


def test_threads_share_the_compute_of_an_async_user(sync: SyncCache, model: Model, crowd: ThreadPoolExecutor) -> None:
    gate = threading.Event()

    async def compute() -> str:
        await asyncio.to_thread(gate.wait, 20)
        return "async"

    async def ask() -> str:
        return await sync.engine.get_or_load(KEY, compute)

    first = crowd.submit(asyncio.run, ask())
    eventually(lambda: sync.engine._holdings.board.get(KEY) is not None)
    joined: Future[Any] = crowd.submit(sync.get_or_load, KEY, model)
    eventually(lambda: coalesced(sync) == 1)
    gate.set()
    assert first.result() == joined.result() == "async"
    assert model.runs == 0


def test_computes_may_ask_for_other_keys_and_know_where_they_are(sync: SyncCache) -> None:
    seen: list[tuple[str, int]] = []

    def note() -> None:
        seen.append((compute_context().key, threading.get_ident()))

    def inner() -> int:
        note()
        return 1

    def middle() -> int:
        note()
        compute_context().ttl = 5
        return sync.get_or_load("inner", inner) + 1

    def outer() -> int:
        value = sync.get_or_load("middle", middle) + 1
        note()
        return value

    assert sync.get_or_load("outer", outer) == 3
    here = threading.get_ident()
    assert seen == [("middle", here), ("inner", here), ("outer", here)]
    assert sync.get_with_intelligence("middle", middle).ttl == 5
    with pytest.raises(RuntimeError, match="outside a compute"):
        compute_context()


def test_a_compute_that_asks_for_its_own_key_is_told_so(sync: SyncCache) -> None:
    def outer() -> Any:
        return sync.get_or_load("inner", inner)

    def inner() -> Any:
        return sync.get_or_load("outer", outer)

    with pytest.raises(ReentrantComputeError, match="'outer' asked for 'outer'"):
        sync.get_or_load("outer", outer)
    assert sync.get_or_load("outer", lambda: 1) == 1


# -- calls that cannot be ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("get_or_load", lambda sync: sync.get_or_load(KEY, int)),
        ("get_with_intelligence", lambda sync: sync.get_with_intelligence(KEY, int)),
        ("get_or_load", lambda sync: sync.cached(key=lambda: KEY)(int)()),
        ("get_many", lambda sync: sync.get_many([KEY], dict.fromkeys)),
        ("warm", lambda sync: sync.warm([])),
        ("expire", lambda sync: sync.expire(KEY)),
        ("delete", lambda sync: sync.delete(KEY)),
        ("invalidate_all", lambda sync: sync.invalidate_all()),
        ("invalidate_by_event", lambda sync: sync.invalidate_by_event("weather_rain", "match:7")),
        ("start", lambda sync: sync.start()),
        ("close", lambda sync: sync.close()),
    ],
)
async def test_inside_a_running_loop_the_remedy_is_named(
    cache: SmartCacheEnhanced, method: str, call: Callable[[SyncCache], Any]
) -> None:
    sync = SyncCache(cache)
    with pytest.raises(RuntimeError, match=rf"SyncCache\.{method}\(\) .*: await cache\.{method}\(\.\.\.\)"):
        call(sync)
    sync.update_vix_snapshot("7:btts:yes:", 1.9)  # blocks nobody
    assert sync.health()["store"] == "none"


def test_an_async_compute_function_is_refused(sync: SyncCache) -> None:
    async def compute() -> int:
        return 1

    given = compute()
    with pytest.raises(TypeError, match=f"compute_fn for '{KEY}' returned coroutine.*plain function"):
        sync.get_or_load(KEY, lambda: given)  # type: ignore[unused-coroutine]
    assert inspect.getcoroutinestate(given) == inspect.CORO_CLOSED, "it would warn that nobody awaited it"
    with pytest.raises(TypeError, match="compute is an async function"):
        sync.cached(key=lambda: KEY)(compute)


def test_arguments_that_cannot_be_used_are_named(sync: SyncCache) -> None:
    with pytest.raises(TypeError, match=f"compute_fn for '{KEY}' must be a plain function, got 3"):
        sync.get_or_load(KEY, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ttl is -1"):
        sync.get_or_load(KEY, int, ttl=-1)
    with pytest.raises(TypeError, match="tll"):
        sync.get_or_load(KEY, int, tll=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"cache must be .* got 'redis:"):
        SyncCache("redis://127.0.0.1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="workers is 0"):
        SyncCache(workers=0)


@pytest.mark.parametrize("flag", ["force_refresh", "copy"])
@pytest.mark.parametrize("value", ["no", 0, None])
def test_a_flag_that_is_not_true_or_false_is_named(sync: SyncCache, flag: str, value: Any) -> None:
    given: Any = {flag: value}
    for held in (False, True):
        for ask in (
            lambda: sync.get_or_load(KEY, int, **given),
            lambda: sync.get_with_intelligence(KEY, int, **given),
            lambda: sync.get_many([KEY], lambda keys: {KEY: 0}, **given),
        ):
            with pytest.raises(TypeError, match=f"^{flag} must be True or False, got {value!r}$"):
                ask()
        if not held:
            sync.get_or_load(KEY, int)


@pytest.mark.parametrize("given", ["abc", b"abc"])
def test_one_text_is_not_taken_for_many(sync: SyncCache, given: Any) -> None:
    wrong = rf"must be a collection of texts, got {given!r}: write \('abc',\)"
    with pytest.raises(TypeError, match=f"^keys {wrong}"):
        sync.get_many(given, lambda keys: dict.fromkeys(keys, 0))
    for ask in (
        lambda: sync.get_or_load(KEY, int, tags=given),
        lambda: sync.expire(tags=given),
        lambda: sync.delete(tags=given),
        lambda: sync.cached(key=lambda: KEY, tags=given),
    ):
        with pytest.raises(TypeError, match=f"^tags {wrong}"):
            ask()


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_failure_reaches_everyone_once_and_shows_where_it_happened(
    sync: SyncCache, model: Model, crowd: ThreadPoolExecutor
) -> None:
    model.hold()
    model.error = LookupError("no such match")
    answers = [crowd.submit(sync.get_or_load, KEY, model) for _ in range(8)]
    eventually(lambda: coalesced(sync) == 7)
    model.gate.set()
    for answer in answers:
        error = answer.exception()
        assert isinstance(error, LookupError)
        frames = traceback.extract_tb(error.__traceback__)
        assert frames[-1].line == "raise self.error"
        assert any(frame.name == "get_or_load" and frame.filename.endswith("sync.py") for frame in frames)
    assert model.runs == 1
    model.error = None
    assert sync.get_or_load(KEY, model) == {"run": 2}


def test_a_value_that_json_cannot_carry_is_an_error_at_the_call(sync: SyncCache) -> None:
    with pytest.raises(UncacheableValueError):
        sync.get_or_load(KEY, lambda: {1, 2})


def test_stop_iteration_does_not_get_lost_on_the_way(sync: SyncCache) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        sync.get_or_load(KEY, lambda: next(iter([])))


def test_an_exit_within_a_compute_is_the_callers_and_a_failure_to_the_others(
    sync: SyncCache, model: Model, crowd: ThreadPoolExecutor
) -> None:
    model.hold()
    model.error = SystemExit(3)
    runs_it = crowd.submit(sync.get_or_load, KEY, model)
    assert model.begun.wait(10)
    waits = crowd.submit(sync.get_or_load, KEY, model)
    eventually(lambda: coalesced(sync) == 1)
    model.gate.set()
    assert isinstance(runs_it.exception(), SystemExit)
    with pytest.raises(ComputeCancelledError, match="interrupted"):
        waits.result()
    model.error = None
    assert sync.get_or_load(KEY, model) == {"run": 2}


def test_stale_is_served_on_error(sync: SyncCache, clock: VirtualClock, model: Model) -> None:
    sync.get_or_load(KEY, model)
    clock.advance(700)
    model.error = RuntimeError("model is down")
    result = sync.get_with_intelligence(KEY, model)
    assert (result.value, result.outcome) == ({"run": 1}, "error_memory")
    assert model.threads[1] is threading.current_thread()


# -- behind requests -------------------------------------------------------------------------------------------------


def test_a_refresh_behind_a_request_runs_in_a_worker_within_its_context(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    entered: list[tuple[str, str]] = []

    @contextmanager
    def application() -> Iterator[None]:
        entered.append((threading.current_thread().name, REQUEST.get()))
        REQUEST.set("left behind")
        yield

    REQUEST.set("GET /")
    with SyncCache(cache, workers=1, worker_context=application) as sync:
        sync.get_or_load(KEY, model)
        clock.advance(400)
        model.hold()
        stale = sync.get_with_intelligence(KEY, model)  # returns though the refresh is held back
        assert (stale.value, stale.strategy) == ({"run": 1}, "serve_stale")
        assert model.begun.wait(10)
        model.gate.set()
        eventually(lambda: cache.metrics.get_stats()["swr_background_success"] == 1)
        assert sync.get_or_load(KEY, model) == {"run": 2}
        clock.advance(400)
        sync.get_or_load(KEY, model)
        eventually(lambda: cache.metrics.get_stats()["swr_background_success"] == 2)
    assert [thread.name for thread in model.threads] == [threading.current_thread().name, WORKER, WORKER]
    assert entered == [(WORKER, "none")] * 2, "the caller's request is over by then"


def test_refreshes_take_no_more_threads_than_allowed(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    with SyncCache(cache, workers=2) as sync:
        for number in range(5):
            sync.get_or_load(f"{number}", lambda: 0)
        clock.advance(400)
        model.hold()
        for number in range(5):
            assert sync.get_or_load(f"{number}", model) == 0
        eventually(lambda: model.runs == 2)
        time.sleep(0.05)
        assert model.runs == 2
        model.gate.set()
        eventually(lambda: cache.metrics.get_stats()["swr_background_success"] == 5)
        assert len({thread.ident for thread in model.threads}) == 2


def test_a_refresh_that_is_given_up_in_line_is_not_run(clock: VirtualClock, model: Model) -> None:
    engine = SmartCacheEnhanced(CacheConfig(refresh_timeout=0.1), clock=clock, rng=lambda: 0.0)
    given_up = Model()
    with SyncCache(engine, workers=1) as sync:
        for key in ("one", "other"):
            sync.get_or_load(key, lambda: 0)
        clock.advance(400)
        model.hold()
        assert (sync.get_or_load("one", model), sync.get_or_load("other", given_up)) == (0, 0)
        eventually(lambda: engine.metrics.get_stats()["swr_background_error"] == 2)
        model.gate.set()
        clock.advance(10)
        sync.get_or_load("one", model)
        eventually(lambda: engine.metrics.get_stats()["swr_background_success"] == 1)
    assert (model.runs, given_up.runs) == (2, 0)


def test_a_refresh_that_fails_is_told_in_the_log(
    sync: SyncCache, clock: VirtualClock, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    sync.get_or_load(KEY, model)
    clock.advance(400)
    model.error = RuntimeError("working outside of application context")
    with caplog.at_level(logging.WARNING, "smartcache.sync"):
        assert sync.get_or_load(KEY, model) == {"run": 1}
        eventually(lambda: "outside of application context" in caplog.text)
    assert f"'{KEY}' failed in a worker thread" in caplog.text
    eventually(lambda: sync.engine.metrics.get_stats()["swr_background_error"] == 1)
    model.error = None
    clock.advance(10)
    sync.get_or_load(KEY, model)
    eventually(lambda: sync.engine.metrics.get_stats()["swr_background_success"] == 1)


# -- time-outs -------------------------------------------------------------------------------------------------------


def test_with_a_soft_timeout_a_worker_runs_it_so_that_the_caller_can_be_let_go(
    sync: SyncCache, clock: VirtualClock, model: Model
) -> None:
    assert sync.get_or_load(KEY, model, soft_timeout=0.05) == {"run": 1}
    assert model.threads[0] is threading.current_thread(), "nothing held, nothing to be let go with"
    clock.advance(700)
    model.hold()
    result = sync.get_or_load(KEY, model, soft_timeout=0.05)  # returns though the compute is held back
    assert result == {"run": 1}
    assert model.threads[1].name == WORKER
    model.gate.set()
    eventually(lambda: sync.get_or_load(KEY, model) == {"run": 2})
    clock.advance(700)
    model.hold()
    assert sync.get_many([KEY], lambda keys: dict.fromkeys(keys, model()), soft_timeout=0.05) == {KEY: {"run": 2}}
    model.gate.set()
    eventually(lambda: sync.get_or_load(KEY, model) == {"run": 3})


def test_what_led_to_a_compute_is_not_what_it_could_be_let_go_with(sync: SyncCache, clock: VirtualClock) -> None:
    sync.get_or_load("outer", int)
    clock.advance(700)
    ran_in = sync.get_or_load("outer", lambda: sync.get_or_load("inner", threading.get_ident, soft_timeout=5))
    assert ran_in == threading.get_ident()


def test_a_busy_pool_keeps_nobody_from_running_it_himself(
    cache: SmartCacheEnhanced, clock: VirtualClock, model: Model
) -> None:
    with SyncCache(cache, workers=1) as sync:
        sync.get_or_load("slow", lambda: 0)
        clock.advance(300)
        sync.get_or_load(KEY, lambda: 0)
        clock.advance(300)
        model.hold()
        assert sync.get_or_load("slow", model, stale_for=1000) == 0
        assert model.begun.wait(10)
        assert sync.get_or_load(KEY, threading.get_ident, ttl=1, stale_for=0, soft_timeout=5) == threading.get_ident()
        model.gate.set()


def test_who_runs_it_is_held_past_a_hard_timeout_and_the_others_are_not(
    sync: SyncCache, model: Model, crowd: ThreadPoolExecutor
) -> None:
    model.hold()
    runs_it = crowd.submit(sync.get_or_load, KEY, model, hard_timeout=0.05)
    assert model.begun.wait(10)
    waits = crowd.submit(sync.get_or_load, KEY, model, hard_timeout=0.05)
    with pytest.raises(ComputeTimeoutError, match=r"0\.05 s \(hard_timeout\)"):
        waits.result(10)
    assert not runs_it.done()
    model.gate.set()
    with pytest.raises(ComputeTimeoutError):
        runs_it.result(10)
    assert sync.get_or_load(KEY, model) == {"run": 1}, "its value serves those who come later"


def test_a_compute_past_its_own_timeout_is_thrown_away(model: Model, crowd: ThreadPoolExecutor) -> None:
    with SyncCache(CacheConfig(hard_timeout=0.1)) as sync:
        model.hold()
        late = crowd.submit(sync.get_or_load, KEY, model)
        eventually(lambda: sync.engine._holdings.board.get(KEY) is None and model.runs == 1)
        assert sync.get_or_load(KEY, lambda: "next") == "next"
        model.gate.set()
        with pytest.raises(ComputeTimeoutError):
            late.result(10)
        assert sync.get_or_load(KEY, model) == "next"


# -- on the spot -----------------------------------------------------------------------------------------------------


def test_hits_in_memory_need_no_other_thread(cache: SmartCacheEnhanced, clock: VirtualClock, model: Model) -> None:
    async def compute() -> dict[str, list[int]]:
        return {"odds": [1]}

    async def warm() -> None:
        for _ in range(2):
            await cache.get_or_load(KEY, compute, ttl=60)

    asyncio.run(warm())
    sync = SyncCache(cache)
    assert sync.get_or_load(KEY, model) == {"odds": [1]}
    assert sync.get_or_load(KEY, model, ttl=60, hard_timeout=1) == {"odds": [1]}
    assert sync.get_or_load(KEY, model, ttl=90, force_refresh=False) == {"odds": [1]}
    result = sync.get_with_intelligence(KEY, model)
    assert (result.strategy, result.tier, result.ttl) == ("serve_fresh", "memory", 60)
    assert cache.metrics.get_stats()["cache_hit_fresh"] == 5
    with pytest.raises(TypeError, match="tll"):
        sync.get_or_load(KEY, model, tll=5)  # type: ignore[call-arg]
    sync.close()
    own = sync.get_or_load(KEY, model, copy=True)
    own["odds"].append(2)
    sync.get_with_intelligence(KEY, model, copy=True).value["odds"].append(3)
    assert sync.get_or_load(KEY, model) == {"odds": [1]}
    assert LOOP not in threads_of_ours()
    with sync:
        clock.advance(30)
        assert sync.get_or_load(KEY, model, force_refresh=True) == {"run": 1}
        assert sync.get_or_load(KEY, model) == {"run": 1}  # from here on this judgement stands
        clock.advance(30)
        assert sync.get_or_load(KEY, model, ttl=20, stale_for=0) == {"run": 2}, "a narrower limit is judged anew"
        assert [sync.get_or_load(KEY, model, ttl=20, stale_for=0) for _ in range(2)] == [{"run": 2}] * 2
        assert sync.get_or_load(KEY, model, tags=["x"]) == {"run": 3}, "the held one cannot be retired by the tag"
        assert [sync.get_or_load(KEY, model, tags=["x"]) for _ in range(2)] == [{"run": 3}] * 2
        assert sync.get_with_intelligence(KEY, model, force_refresh=True).value == {"run": 4}


def test_a_copy_is_ones_own_when_it_was_computed_too(sync: SyncCache) -> None:
    value = {"odds": [1]}
    own = sync.get_or_load(KEY, lambda: value, copy=True)
    own["odds"].append(2)
    assert sync.get_or_load(KEY, dict) == {"odds": [1]}


# -- the other verbs -------------------------------------------------------------------------------------------------


def test_the_decorator_holds_results_by_arguments(sync: SyncCache) -> None:
    calls: list[tuple[int, int]] = []

    @sync.cached(key=lambda number, power=2: f"{number}^{power}", ttl=60)
    def raised(number: int, power: int = 2) -> int:
        """A power."""
        calls.append((number, power))
        return int(number**power)

    assert [raised(3), raised(3), raised(3, power=3), raised(4)] == [9, 9, 27, 16]
    assert calls == [(3, 2), (3, 3), (4, 2)]
    assert (raised.__name__, raised.__doc__) == ("raised", "A power.")


def test_the_decorator_gives_every_value_the_tags_of_a_generator(sync: SyncCache) -> None:
    note = sync.cached(key=lambda name: name, tags=(tag for tag in ["x"]))(lambda name: name)
    assert [note(name) for name in "ab"] == ["a", "b"]
    assert sync.delete(tags=["x"]) == 2


def test_the_decorator_gives_tags_and_context_from_the_arguments(sync: SyncCache, clock: VirtualClock) -> None:
    kickoff = clock.ahead(minutes=10)

    @sync.cached(
        key=lambda match_id: f"form:{match_id}",
        tags=lambda match_id: (f"team-of-{match_id}" for _ in range(1)),
        match_context=lambda match_id: {"match_id": match_id, "kickoff_time": kickoff},
    )
    def form(match_id: str) -> str:
        return match_id

    assert (form("7"), form("8")) == ("7", "8")
    assert sync.get_with_intelligence("form:7", str).ttl == 30
    assert sync.delete(tags=(f"team-of-{number}" for number in (7, 9))) == 1


def test_many_keys_are_loaded_by_one_call_in_the_callers_thread(sync: SyncCache, crowd: ThreadPoolExecutor) -> None:
    calls: list[list[str]] = []
    here = threading.get_ident()

    def load(keys: Any) -> dict[str, list[int]]:
        assert threading.get_ident() == here
        calls.append(list(keys))
        return {key: [len(key)] for key in keys}

    assert sync.get_or_load("b", lambda: [0]) == [0]
    found = sync.get_many((key for key in ("a", "b", "cc", "a")), load, tags=iter(["letters"]), copy=True)
    assert list(found.items()) == [("a", [1]), ("b", [1]), ("cc", [2])], "the held one lacked the tag"
    assert calls == [["a", "b", "cc"]]
    found["a"].append(9)
    assert sync.get_many(["a", "cc"], load) == {"a": [1], "cc": [2]}
    with pytest.raises(KeyError, match="no value for 'd'"):
        sync.get_many(["d"], lambda keys: {})
    with pytest.raises(ReentrantComputeError):
        sync.get_many(["e"], lambda keys: sync.get_many(keys, load))
    with pytest.raises(TypeError, match="load_fn must be a plain function, got 3"):
        sync.get_many(["d"], 3)  # type: ignore[arg-type]
    assert len(calls) == 1


def test_a_load_of_many_whose_thread_is_busy_with_another_waits_its_turn(
    sync: SyncCache, model: Model, crowd: ThreadPoolExecutor
) -> None:
    calls: list[list[str]] = []

    def load(keys: Any) -> dict[str, str]:
        calls.append(list(keys))
        if "a" in keys:
            model()
        return dict.fromkeys(keys, "loaded")

    async def gone_wrong() -> str:
        await asyncio.to_thread(gate.wait, 20)
        raise LookupError

    gate = threading.Event()
    other = crowd.submit(asyncio.run, sync.engine.get_or_load("b", gone_wrong))
    eventually(lambda: sync.engine._holdings.board.get("b") is not None)
    model.hold()
    many = crowd.submit(sync.get_many, ["a", "b"], load, force_refresh=True)
    assert model.begun.wait(10)
    gate.set()  # from here on "b" is to be loaded too, and "a" still is
    with pytest.raises(LookupError):
        other.result(10)
    time.sleep(0.05)
    assert calls == [["a"]]
    model.gate.set()
    assert many.result(10) == {"a": "loaded", "b": "loaded"}
    assert calls == [["a"], ["b"]]


def test_warming_runs_here_or_in_workers(cache: SmartCacheEnhanced, model: Model) -> None:
    told: list[tuple[int, int | None]] = []
    with SyncCache(cache, workers=2) as sync:
        sync.get_or_load("held", int)
        wanted = [Wanted(key, model) for key in ("held", "a", "b")]
        warmed = sync.warm((each for each in wanted), progress=lambda done, total: told.append((done, total)), ttl=60)
        assert warmed == (2, 1, 0, {})
        assert told == [(1, 3), (2, 3), (3, 3)]
        assert set(model.threads) == {threading.current_thread()}
        model.threads.clear()
        model.hold()
        done = threading.Thread(target=lambda: sync.warm([Wanted(key, model) for key in "cdefg"], at_once=16))
        done.start()
        eventually(lambda: model.runs == 2)
        time.sleep(0.05)
        assert model.runs == 2
        model.gate.set()
        done.join(10)
        assert model.runs == 5
        assert {thread.name for thread in model.threads} <= {WORKER, done.name}
        model.error = LookupError("no such match")
        assert sync.warm([Wanted("bad", model)]).failed == {"bad": model.error}
        assert sync.get_with_intelligence("a", model).ttl == 60
        with pytest.raises(TypeError, match=r"given \('a', .*: write it as Wanted"):
            sync.warm([("a", model)])  # type: ignore[list-item]


def test_changes_take_hold(sync: SyncCache, clock: VirtualClock, model: Model) -> None:
    match: Any = {"match_id": "7", "market": "btts", "kickoff_time": clock.ahead(hours=2)}

    def ask() -> Any:
        return sync.get_with_intelligence(KEY, model, match).value

    assert ask() == {"run": 1}
    assert sync.delete(KEY) == 1
    assert ask() == {"run": 2}
    assert sync.expire(KEY).acknowledged
    assert ask() == {"run": 3}
    assert sync.invalidate_all() == 1
    assert ask() == {"run": 4}
    assert sync.invalidate_by_event("weather_rain", "match:7")["invalidated_count"] == 0
    assert sync.invalidate_by_event(event_type="goalkeeper_change", match_key="match:7")["invalidated_count"] == 1
    assert ask() == {"run": 5}
    with pytest.raises(ValueError, match="nothing to delete"):
        sync.delete()
    for _ in range(4):
        sync.update_vix_snapshot("7:btts:yes:", 2.0)
    sync.update_vix_snapshot("7:btts:yes:", 3.0)
    assert sync.get_with_intelligence(KEY, model, match).vix_status == "panic"


def test_the_same_verbs_with_the_same_arguments_as_the_engine() -> None:
    for name, method in inspect.getmembers(SmartCacheEnhanced, inspect.isfunction):
        if name.startswith("_"):
            continue
        ours, engines = (
            [(each.name, each.kind, each.default) for each in inspect.signature(verb).parameters.values()]
            for verb in (getattr(SyncCache, name), method)
        )
        if name == "warm":  # in the caller's thread unless told otherwise
            engines[2] = ("at_once", engines[2][1], 1)
        assert ours == engines, name


def test_the_process_wide_engine_is_the_default() -> None:
    assert SyncCache().engine is smart_cache_enhanced
    assert SyncCache(CacheConfig(default_ttl=7)).engine.config.default_ttl == 7


# -- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True])
def test_close_leaves_no_thread_and_the_next_use_starts_anew(
    request: pytest.FixtureRequest, clock: VirtualClock, stored: bool
) -> None:
    url = request.getfixturevalue("valkey_url") if stored else None
    before = threads_of_ours()
    sync = SyncCache(CacheConfig(redis_url=url))
    runs: list[str] = []

    def compute() -> int:
        runs.append(threading.current_thread().name)
        return 1

    for _ in range(2):
        sync.start()
        sync.get_or_load(KEY, compute)
        time.sleep(0.06)
        sync.get_or_load(KEY, compute, ttl=0.05, stale_for=300)
        eventually(lambda: runs[-1:] == [WORKER])
        assert threads_of_ours() > before
        sync.close()
        assert threads_of_ours() == before
        runs.clear()


def test_what_is_asked_after_close_is_exported_too(tmp_path: Path) -> None:
    sync, files = SyncCache(CacheConfig(metrics_dir=str(tmp_path))), MetricsFiles(tmp_path)
    for key in ("a", "b", "b"):
        sync.get_or_load(key, lambda: 1)
        sync.close()
        files.fold()
    assert sum(files.read().snapshot.samples["smartcache_requests_total"].values()) == 3


def test_close_lets_go_of_those_who_wait(sync: SyncCache, model: Model, crowd: ThreadPoolExecutor) -> None:
    model.hold()
    runs_it = crowd.submit(sync.get_or_load, KEY, model)
    assert model.begun.wait(10)
    waits = crowd.submit(sync.get_or_load, KEY, model)
    eventually(lambda: coalesced(sync) == 1)
    sync.close()
    with pytest.raises(ComputeCancelledError):
        waits.result(10)
    assert not runs_it.done()
    model.gate.set()
    with pytest.raises(ComputeCancelledError):
        runs_it.result(10)
    assert sync.get_or_load(KEY, model) == {"run": 2}


def test_close_lets_go_of_those_who_wait_for_another_loop(
    sync: SyncCache, model: Model, crowd: ThreadPoolExecutor
) -> None:
    async def compute() -> Any:
        return await asyncio.to_thread(model)

    async def ask() -> Any:
        return await sync.engine.get_or_load(KEY, compute)

    model.hold()
    theirs = crowd.submit(asyncio.run, ask())
    assert model.begun.wait(10)
    waits = crowd.submit(sync.get_or_load, KEY, model)
    eventually(lambda: coalesced(sync) == 1)
    sync.close()
    with pytest.raises(ComputeCancelledError, match="closed"):
        waits.result(10)
    model.gate.set()
    assert theirs.result(10) == {"run": 1}


def test_close_waits_for_what_runs_in_a_worker(cache: SmartCacheEnhanced, clock: VirtualClock, model: Model) -> None:
    sync = SyncCache(cache)
    sync.get_or_load(KEY, model)
    clock.advance(400)
    model.hold()
    sync.get_or_load(KEY, model)
    assert model.begun.wait(10)
    threading.Timer(0.1, model.gate.set).start()
    sync.close()
    assert not model.threads[1].is_alive()


def test_the_interpreter_ends_without_close_whatever_runs(valkey_url: str) -> None:
    program = """
import sys, threading, time
from smartcache import CacheConfig
from smartcache.sync import SyncCache
cache = SyncCache(CacheConfig(redis_url=sys.argv[1]))
begun = threading.Event()
def refresh():
    begun.set()
    time.sleep(300)
cache.get_or_load("key", lambda: 1)
time.sleep(0.011)
assert cache.get_or_load("key", refresh, ttl=0.01, stale_for=300) == 1
assert begun.wait(10)
threading.Thread(target=cache.get_or_load, args=("other", refresh), daemon=True).start()
"""
    done = run(program, valkey_url)
    assert (done.returncode, done.stderr) == (0, "")


INTERRUPTED = """
import os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from smartcache import CacheConfig, ComputeCancelledError
from smartcache.sync import SyncCache
cache = SyncCache(CacheConfig())
others = ThreadPoolExecutor(8)
gate, begun = threading.Event(), threading.Event()
waiting = lambda: cache.engine.metrics.snapshot().samples["smartcache_coalesced_requests_total"][()]
def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
def interrupt_when(condition):
    def wait():
        until(condition)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
    others.submit(wait)
def slow():
    begun.set()
    assert gate.wait(20)
    return threading.current_thread().name
def interrupted(call):
    try:
        call()
    except KeyboardInterrupt:
        return True
"""


def test_ctrl_c_gets_through_to_one_who_waits_and_harms_nobody() -> None:
    program = (
        INTERRUPTED
        + """
computes = others.submit(cache.get_or_load, "key", slow)
assert begun.wait(10)
interrupt_when(lambda: waiting() == 1)
assert interrupted(lambda: cache.get_or_load("key", slow))
until(lambda: cache.engine.metrics.get_stats()["total_requests"] == 1)  # its request is over, the other's is not
gate.set()
assert computes.result(10).startswith("ThreadPool")
cache.close()
"""
    )
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_an_interrupted_thread_was_to_run_is_run_by_a_worker() -> None:
    program = (
        INTERRUPTED
        + """
first = others.submit(cache.get_or_load, "key", slow)
assert begun.wait(10)
board = cache.engine._holdings.board
# The main thread's compute comes after the first; the third shares it.
def third():
    until(lambda: board.get("key").following is not None)
    return cache.get_or_load("key", lambda: "not to be run", force_refresh=True)
third = others.submit(third)
interrupt_when(lambda: waiting() == 1)
assert interrupted(lambda: cache.get_or_load("key", lambda: threading.current_thread().name, force_refresh=True))
gate.set()
assert third.result(10) == "smartcache-sync-worker", third.result()
cache.close()
"""
    )
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_within_a_compute_fails_it_for_the_others() -> None:
    program = (
        INTERRUPTED
        + """
shares = others.submit(lambda: begun.wait(10) and cache.get_or_load("key", slow))
interrupt_when(lambda: waiting() == 1)
assert interrupted(lambda: cache.get_or_load("key", slow))
assert isinstance(shares.exception(5), ComputeCancelledError), shares.exception()
gate.set()
assert cache.get_or_load("key", slow) == "MainThread"
cache.close()
"""
    )
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread(1, nullcontext)
    yield thread
    thread.stop(10)


def handed_over(call: Call[Any]) -> bool:
    return not call._inbox.empty()


def test_a_loop_that_was_asked_nothing_can_be_stopped() -> None:
    unused = LoopThread(1, nullcontext)
    unused.stop(10)
    assert not unused.begin(Call(), asyncio.Event().wait)


def test_what_was_handed_over_and_not_begun_is_passed_on(loop_thread: LoopThread, model: Model) -> None:
    computing: list[asyncio.Task[Any]] = []

    async def wait() -> None:
        computing.append(asyncio.create_task(torn_away.compute(KEY, model, False)))
        await asyncio.shield(computing[0])

    async def in_a_hurry() -> str:
        computing.append(asyncio.create_task(answered.compute(KEY, model, False)))
        await asyncio.sleep(0)
        return "answered"

    torn_away: Call[None] = Call()
    assert loop_thread.begin(torn_away, wait)
    eventually(lambda: handed_over(torn_away))
    loop_thread.post(torn_away._let_go)  # its thread does not come to look
    eventually(lambda: model.runs == 1)
    answered: Call[str] = Call()
    model.hold()
    assert loop_thread.begin(answered, in_a_hurry)
    eventually(lambda: model.runs == 2)
    assert [type(answered._inbox.get()) for _ in range(2)] == [Job, Outcome]
    loop_thread.post(answered._let_go)  # the answer does not reach its thread; what a worker runs is not its own
    model.gate.set()
    eventually(computing[1].done)
    assert computing[1].result() == {"run": 2}
    assert [thread.name for thread in model.threads] == [WORKER, WORKER]


def test_what_was_begun_in_a_thread_that_was_torn_away_has_failed(loop_thread: LoopThread, model: Model) -> None:
    errors: list[BaseException] = []

    async def wait() -> None:
        task = asyncio.create_task(call.compute(KEY, model, False))
        task.add_done_callback(lambda done: errors.append(done.exception() or AssertionError("it did not fail")))
        await asyncio.shield(task)

    call: Call[None] = Call()
    assert loop_thread.begin(call, wait)
    job = call._inbox.get()
    assert isinstance(job, Job)
    assert job.take()
    loop_thread.post(call._let_go)
    eventually(lambda: errors != [])
    assert isinstance(errors[0], ComputeCancelledError)
    assert model.runs == 0


# -- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True])
def test_a_forked_child_has_a_loop_of_its_own(request: pytest.FixtureRequest, stored: bool) -> None:
    program = """
import os, signal, sys, threading
from smartcache import CacheConfig
from smartcache.sync import SyncCache
cache = SyncCache(CacheConfig(redis_url=sys.argv[1] or None))
assert cache.get_or_load("key", lambda: "parent's") == "parent's"
cache._lock.acquire()  # as a thread that starts the loop
child = os.fork()
if child == 0:
    signal.alarm(20)
    assert cache.get_or_load("key", lambda: "child's") == ("parent's" if sys.argv[1] else "child's")
    assert cache.get_or_load("new", threading.get_ident) == threading.get_ident()
    cache.close()
    os._exit(0)
cache._lock.release()
assert os.waitpid(child, 0)[1] == 0
assert cache.get_or_load("another", lambda: 2) == 2
cache.close()
"""
    done = run(program, request.getfixturevalue("valkey_url") if stored else "")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_fork_within_a_compute_leaves_neither_hanging() -> None:
    program = """
import os, signal
from smartcache import CacheConfig, ComputeCancelledError
from smartcache.sync import SyncCache
cache = SyncCache(CacheConfig())
def compute():
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        return "child's"
    return os.waitpid(child, 0)[1]
try:
    ended = cache.get_or_load("key", compute)
except ComputeCancelledError as error:
    assert "forked" in str(error)
    assert cache.get_or_load("key", lambda: "again") == "again"
    os._exit(7)
assert os.waitstatus_to_exitcode(ended) == 7, ended
cache.close()
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")


def test_processes_share_one_compute(valkey_url: str) -> None:
    program = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from smartcache import CacheConfig
from smartcache.sync import SyncCache
runs = []
def compute():
    runs.append(threading.current_thread().name)
    time.sleep(0.5)
    return runs[0] + sys.argv[2]
with SyncCache(CacheConfig(redis_url=sys.argv[1], store_timeout=10)) as cache:
    cache.start()
    print("ready", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(8) as crowd:
        values = {answer.result() for answer in [crowd.submit(cache.get_or_load, "key", compute) for _ in range(8)]}
print(len(runs), *values)
"""
    processes = [start(program, valkey_url, name) for name in ("one", "two", "three")]
    for process in processes:
        assert line_of(process) == "ready"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=30)[0].split() for process in processes]
    assert sorted(runs for runs, _ in told) == ["0", "0", "1"]
    assert len({value for _, value in told}) == 1


def test_a_compute_longer_than_its_lease_keeps_it(valkey_url: str) -> None:
    program = """
import sys, time
from smartcache import CacheConfig
from smartcache.sync import SyncCache
def compute():
    print("computing", flush=True)
    time.sleep(3)
    return sys.argv[2]
with SyncCache(CacheConfig(redis_url=sys.argv[1], store_timeout=10, lease_seconds=1)) as cache:
    print(cache.get_or_load("key", compute))
"""
    first = start(program, valkey_url, "first")
    assert line_of(first) == "computing"
    second = run(program, valkey_url, "second")
    assert (second.stdout, second.stderr) == ("first\n", "")
    assert first.communicate(timeout=30)[0] == "first\n"


def test_a_connection_to_the_store_keeps_nothing_of_the_request_that_opened_it(valkey_url: str) -> None:
    class Body:
        pass

    held: contextvars.ContextVar[Body] = contextvars.ContextVar("held")
    with SyncCache(CacheConfig(redis_url=valkey_url)) as sync:

        def request() -> weakref.ref[Body]:
            body = Body()
            held.set(body)
            sync.get_or_load(KEY, lambda: 1)
            return weakref.ref(body)

        body = contextvars.Context().run(request)
        gc.collect()
        assert body() is None


def test_changes_reach_the_memory_of_another(valkey_url: str, model: Model) -> None:
    with SyncCache(CacheConfig(redis_url=valkey_url)) as one, SyncCache(CacheConfig(redis_url=valkey_url)) as other:
        for sync in (one, other):
            sync.start()
        assert one.get_or_load(KEY, model) == {"run": 1}
        assert other.get_with_intelligence(KEY, model).tier == "store"
        assert other.get_with_intelligence(KEY, model).tier == "memory"
        assert one.delete(KEY).acknowledged
        eventually(lambda: other.engine._holdings.get(KEY) is None)
        assert other.get_or_load(KEY, model) == {"run": 2}


def test_the_example_for_flask_runs() -> None:
    program = """
import runpy, sys, time
app = runpy.run_path(sys.argv[1])["app"]
app.config["MODEL_SECONDS"] = 0.05
client = app.test_client()
def ask():
    answer = client.get("/matches/7/markets/corners_over_under").get_json()
    assert answer["prediction"] == {"match_id": "7", "market": "corners_over_under", "yes": 0.6}
    return answer["strategy"]
def change(event):
    answer = client.post(f"/matches/7/events/{event}")
    return answer.get_json()["invalidated_count"]
assert [ask(), ask()] == ["compute", "serve_fresh"]
assert [change("weather_rain"), ask()] == [1, "compute"]
time.sleep(2.2)
assert ask() == "serve_stale"
end = time.monotonic() + 10
while ask() != "serve_fresh":
    assert time.monotonic() < end, "it was not refreshed"
"""
    done = run(program, str(ROOT / "examples/flask_app.py"), SMARTCACHE_DEFAULT_TTL="2")
    assert (done.returncode, done.stderr) == (0, "")


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()

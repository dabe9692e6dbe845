"""The cache for plain functions, as in Flask, Django and scripts.

A thread asks and waits; the engine answers in an event loop that has a thread of its own. When a value has to be
computed, the loop hands the function to the thread that asked, which runs it as if it had called it itself. Time-outs,
the lease and the bus go on in the loop meanwhile. What nobody waits for runs in a few worker threads.
"""

from __future__ import annotations

import asyncio
import copy as copies
import inspect
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import partial, wraps
from typing import Any, Final, ParamSpec, Self, TypeVar, Unpack, cast

from smartcache import smart_cache_enhanced
from smartcache.config import CacheConfig
from smartcache.engine import ChangeCount, Health, InvalidationResult, MatchContext, SmartCacheEnhanced
from smartcache.loop_thread import Call, LoopThread
from smartcache.request import Limits, check_flags, check_tags
from smartcache.result import CacheResult
from smartcache.tags import EventType
from smartcache.warming import Progress, Wanted, Warmed, check_wanted

__all__ = ["SyncCache"]

T = TypeVar("T")
V = TypeVar("V")
P = ParamSpec("P")

_log: Final = logging.getLogger("smartcache.sync")
_NO_CONTEXT: Final[MatchContext] = {}
_NO_LIMITS: Final[Limits] = {}


class SyncCache:
    """The engine for callers that cannot await: the same verbs, as plain functions that compute with plain functions.

    A compute runs in the thread that asked for it. A refresh behind a request, and what its thread no longer waits
    for, runs in a worker thread, which has neither the caller's thread-locals nor its context variables. A plain
    function cannot be interrupted: a caller that runs one gets the engine's answer, a time-out included, once it has
    returned.

    The event loop's thread starts on first use, and again in a forked child.

    Args:
        cache: the engine, or settings for one of its own; the process-wide ``smart_cache_enhanced`` by default.
        workers: worker threads at most.
        worker_context: gives what is entered around each function in a worker thread, such as ``app.app_context``.

    Attributes:
        engine: the engine; async code in the same process may use it too.
    """

    def __init__(
        self,
        cache: SmartCacheEnhanced | CacheConfig | None = None,
        *,
        workers: int = 4,
        worker_context: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        if isinstance(cache, CacheConfig):
            cache = SmartCacheEnhanced(cache)
        elif cache is not None and not isinstance(cache, SmartCacheEnhanced):
            raise TypeError(f"cache must be a SmartCacheEnhanced, a CacheConfig or None, got {cache!r}")
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ValueError(f"workers is {workers!r}, but must be a whole number of at least 1")
        self.engine: Final = smart_cache_enhanced if cache is None else cache
        self._workers = workers
        self._worker_context = worker_context
        self._loop_thread: LoopThread | None = None
        self._lock = threading.Lock()
        _instances.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- asking ------------------------------------------------------------------------------------------------------

    def get_or_load(
        self,
        key: str,
        compute_fn: Callable[[], V],
        *,
        tags: Iterable[str] = (),
        match_context: MatchContext | None = None,
        force_refresh: bool = False,
        copy: bool = False,
        **limits: Unpack[Limits],
    ) -> V:
        """The value of ``key``, computed if it is not held.

        Args:
            key: printable text.
            compute_fn: a plain function, called without arguments. While it runs, :func:`~smartcache.compute_context`
                tells it what is held and takes what it has to say about its result.
            tags: names by which the value can be expired or deleted with others.
            match_context: what is known about the match.
            force_refresh: compute whatever is held.
            copy: return a value of the caller's own; otherwise it is shared and must not be changed.
            limits: ``ttl``, ``stale_for``, ``stale_if_error_for``, ``soft_timeout``, ``hard_timeout``:
                see :class:`~smartcache.Limits`.

        Raises:
            ComputeTimeoutError: the compute took longer than ``hard_timeout`` and nothing could be served.
            UncacheableValueError: JSON cannot carry the value.
            ReentrantComputeError: ``key`` was asked for by its own compute.
            RuntimeError: an event loop runs in this thread.
            TypeError, ValueError: an argument that cannot be used.
            Exception: what ``compute_fn`` raised, when nothing could be served.
        """
        _refuse_in_a_loop("get_or_load")
        if force_refresh is not False or copy is not False:
            check_flags(force_refresh, copy)
        tags = _listed(tags)
        value: V
        if not force_refresh and (quick := self._at_once(key, compute_fn, match_context, tags, limits)) is not None:
            value = quick.value
        else:
            call: Call[V] = Call()
            computing = self._handed_over(call, f"compute_fn for {key!r}", compute_fn, limits)
            value = self._answer_to(
                call,
                lambda: self.engine.get_or_load(
                    key, computing, tags=tags, match_context=match_context, force_refresh=force_refresh, **limits
                ),
            )
        return copies.deepcopy(value) if copy else value

    def get_many(
        self,
        keys: Iterable[str],
        load_fn: Callable[[Sequence[str]], Mapping[str, V]],
        *,
        tags: Iterable[str] = (),
        match_contexts: Mapping[str, MatchContext] | None = None,
        force_refresh: bool = False,
        copy: bool = False,
        **limits: Unpack[Limits],
    ) -> dict[str, V]:
        """The values of many keys, those that are not held computed together; as :meth:`SmartCache.get_many`.

        Args:
            keys: what is asked for; a key named twice is asked for once.
            load_fn: a plain function that is given keys and returns their values by key. It is called with the keys
                that need a compute, mostly once; more often when some of them were being computed by others, never
                twice with the same key.
            tags: for every value, as in :meth:`get_or_load`.
            match_contexts: what is known about the match, by key.
            force_refresh: compute whatever is held.
            copy: return values of the caller's own.
            limits: as in :meth:`get_or_load`.

        Raises:
            Exception: as in :meth:`get_or_load`, the first when all have ended.
        """
        _refuse_in_a_loop("get_many")
        check_flags(force_refresh, copy)
        keys, tags = _listed(keys), _listed(tags)
        call: Call[dict[str, V]] = Call()
        loading = self._handed_over(call, "load_fn", load_fn, limits)
        found = self._answer_to(
            call,
            lambda: self.engine.get_many(
                keys, loading, tags=tags, match_contexts=match_contexts, force_refresh=force_refresh, **limits
            ),
        )
        return {key: copies.deepcopy(value) for key, value in found.items()} if copy else found

    def get_with_intelligence(
        self,
        cache_key: str,
        compute_fn: Callable[[], V],
        match_context: MatchContext | None = None,
        force_refresh: bool = False,
        copy: bool = False,
    ) -> CacheResult[V]:
        """The value of ``cache_key`` with the reasons for it, computed if it is not held or cannot be trusted.

        Args:
            cache_key: printable text; ``key_factory`` makes good ones.
            compute_fn: a plain function, called without arguments.
            match_context: what is known about the match. Without a kickoff the configured TTL holds.
            force_refresh: compute whatever is held.
            copy: return a value of the caller's own; otherwise it is shared and must not be changed.

        Raises:
            ComputeTimeoutError: the compute took longer than the hard time-out and nothing could be served.
            UncacheableValueError: JSON cannot carry the value.
            ReentrantComputeError: the key was asked for by its own compute.
            RuntimeError: an event loop runs in this thread.
            TypeError, ValueError: an argument that cannot be used.
            Exception: what ``compute_fn`` raised, when nothing could be served.
        """
        _refuse_in_a_loop("get_with_intelligence")
        if force_refresh is not False or copy is not False:
            check_flags(force_refresh, copy)
        result = None if force_refresh else self._at_once(cache_key, compute_fn, match_context)
        if result is None:
            call: Call[CacheResult[V]] = Call()
            computing = self._handed_over(call, f"compute_fn for {cache_key!r}", compute_fn, {})
            result = self._answer_to(
                call, lambda: self.engine.get_with_intelligence(cache_key, computing, match_context, force_refresh)
            )
        if copy:
            result.value = copies.deepcopy(result.value)
        return result

    def cached(
        self,
        key: Callable[P, str],
        *,
        tags: Iterable[str] | Callable[P, Iterable[str]] = (),
        match_context: Callable[P, MatchContext] | None = None,
        **limits: Unpack[Limits],
    ) -> Callable[[Callable[P, V]], Callable[P, V]]:
        """Decorate a plain function so that its results are held.

        Args:
            key: gives the key from the function's own arguments.
            tags: for every value, or a function that gives them from the arguments.
            match_context: gives what is known about the match from the arguments.
            limits: as in :meth:`get_or_load`.

        Raises:
            TypeError: the function is an async one.
        """

        fixed = () if callable(tags) else check_tags(tags)

        def decorate(function: Callable[P, V]) -> Callable[P, V]:
            if inspect.iscoroutinefunction(function):
                raise TypeError(f"{function.__qualname__} is an async function: decorate it with the engine's cached()")

            @wraps(function)
            def ask(*args: P.args, **kwargs: P.kwargs) -> V:
                return self.get_or_load(
                    key(*args, **kwargs),
                    partial(function, *args, **kwargs),
                    tags=tags(*args, **kwargs) if callable(tags) else fixed,
                    match_context=None if match_context is None else match_context(*args, **kwargs),
                    **limits,
                )

            return ask

        return decorate

    def warm(
        self,
        wanted: Iterable[Wanted[Any]],
        *,
        at_once: int = 1,
        progress: bool | Progress = False,
        **limits: Unpack[Limits],
    ) -> Warmed:
        """Have values ready before anybody asks; this counts as no request.

        Args:
            wanted: what to have ready, with plain functions.
            at_once: computes running at one time: 1 in this thread, more in worker threads, as many as there are.
            progress: True shows a bar (with tqdm); a function is called, in the loop's thread, with how many are done
                and how many there are.
            limits: as in :meth:`get_or_load`.

        Returns:
            How many were computed, held already, skipped; and the failures, which stop nothing.
        """
        _refuse_in_a_loop("warm")
        call: Call[Warmed] = Call()
        plain = [
            one._replace(
                compute_fn=self._handed_over(
                    call, f"compute_fn for {one.key!r}", one.compute_fn, limits, elsewhere=at_once > 1
                )
            )
            for one in map(check_wanted, wanted)
        ]
        return self._answer_to(
            call,
            lambda: self.engine.warm(plain, at_once=min(at_once, self._workers), progress=progress, **limits),
        )

    # -- changing ----------------------------------------------------------------------------------------------------

    def expire(self, *keys: str, tags: Iterable[str] = ()) -> ChangeCount:
        """Let the next caller wait for a new value; as :meth:`SmartCache.expire`."""
        tags = _listed(tags)
        return self._await("expire", lambda: self.engine.expire(*keys, tags=tags))

    def delete(self, *keys: str, tags: Iterable[str] = ()) -> ChangeCount:
        """Let go of values everywhere; as :meth:`SmartCache.delete`."""
        tags = _listed(tags)
        return self._await("delete", lambda: self.engine.delete(*keys, tags=tags))

    def invalidate_all(self) -> ChangeCount:
        """Retire everything, everywhere; as :meth:`SmartCache.invalidate_all`."""
        return self._await("invalidate_all", self.engine.invalidate_all)

    def invalidate_by_event(self, event_type: EventType | str, match_key: str) -> InvalidationResult:
        """Retire what an event makes wrong about a match; as :meth:`SmartCacheEnhanced.invalidate_by_event`."""
        return self._await("invalidate_by_event", lambda: self.engine.invalidate_by_event(event_type, match_key))

    def update_vix_snapshot(self, market_key: str, odds: float, timestamp: datetime | float | None = None) -> None:
        """Take in one price; as :meth:`SmartCacheEnhanced.update_vix_snapshot`."""
        self.engine.update_vix_snapshot(market_key, odds, timestamp)

    # -- state -------------------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """State of the engine's parts; as :meth:`SmartCache.health`."""
        return self.engine.health()

    def start(self) -> None:
        """Connect to the store now instead of at the first request; not finding it is no error."""
        self._await("start", self.engine.start)

    def close(self) -> None:
        """Close the engine, whoever else uses it, and end the threads; the next use starts them anew.

        A function that runs in a worker thread is waited for, ``refresh_timeout`` seconds at most.
        """
        self._await("close", self.engine.close)
        with self._lock:
            thread, self._loop_thread = self._loop_thread, None
        if thread is not None:
            thread.stop(self.engine.config.refresh_timeout)

    # -- how ---------------------------------------------------------------------------------------------------------

    def _at_once(
        self,
        key: str,
        function: object,
        match_context: MatchContext | None,
        tags: Iterable[str] = (),
        limits: Limits = _NO_LIMITS,
    ) -> CacheResult[Any] | None:
        """The answer that stands for a value in memory; None where the loop must judge."""
        entry = self.engine._holdings.get(key) if type(key) is str else None
        if entry is None or (standing := entry.standing) is None or not callable(function):
            return None
        if tags or limits:
            asked = self.engine._request(key, function, None, tags, limits)
            if not (entry.is_within(asked.ttl, asked.stale_for) and entry.satisfies(asked)):
                return None
        return self.engine._answer_again(entry, standing, match_context or _NO_CONTEXT)

    def _handed_over(
        self, call: Call[Any], what: str, function: Callable[P, V], limits: Limits, *, elsewhere: bool = False
    ) -> Callable[P, Coroutine[Any, Any, V]]:
        """A function as the engine takes it: async, and run by the thread that waits for ``call``."""
        if not callable(function):
            raise TypeError(f"{what} must be a plain function, got {function!r}")
        soft = limits.get("soft_timeout")
        hurried = (self.engine.config.soft_timeout if soft is None else soft) is not None

        async def run(*args: P.args, **kwargs: P.kwargs) -> V:
            # Who may be let go with a held value must not be held by the function.
            let_go = hurried and call.holds_something()
            return await call.compute(what, partial(function, *args, **kwargs), elsewhere or let_go)

        return run

    def _await(self, method: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        _refuse_in_a_loop(method)
        return self._answer_to(Call(), work)

    def _answer_to(self, call: Call[T], work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        while True:
            with self._lock:
                if self._loop_thread is None or self._loop_thread.ended:
                    self._loop_thread = LoopThread(self._workers, self._worker_context)
                thread = self._loop_thread
            if (outcome := call.ask(thread, work)) is not None:
                return cast(T, outcome.open())

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()  # another thread of the parent may have held it
        thread, self._loop_thread = self._loop_thread, None
        if thread is not None:
            thread.leave_to_parent()


def _listed(names: Iterable[str]) -> Iterable[str]:
    # What is a query of the caller's is made in the caller's thread.
    return names if isinstance(names, str | bytes | tuple) else tuple(names)


def _refuse_in_a_loop(method: str) -> None:
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            f"SyncCache.{method}() would block the event loop that runs in this thread: "
            f"await cache.{method}(...) of the engine instead (SyncCache.engine)"
        )


_instances: weakref.WeakSet[SyncCache] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for cache in list(_instances):
        cache._after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)

"""An event loop in a thread of its own, which has plain functions run by the threads that wait for its answers."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import Context
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

from smartcache import compute
from smartcache.errors import ComputeCancelledError

__all__ = ["Call", "LoopThread"]

T = TypeVar("T")
V = TypeVar("V")

_log: Final = logging.getLogger("smartcache.sync")


class Outcome(NamedTuple):
    """How something ended: a value, or an error with its traceback as it was then."""

    value: Any
    error: Exception | None = None
    trace: TracebackType | None = None

    @classmethod
    def of(cls, error: Exception) -> Outcome:
        """The outcome that is an error."""
        return cls(None, error, error.__traceback__)

    def open(self) -> Any:
        """The value; raises the error."""
        if self.error is None:
            return self.value
        # Whoever shares the error adds frames to the traceback as it was, not to those that others have added.
        raise self.error.with_traceback(self.trace)


class Job:
    """A function that the loop wants run, by whichever thread takes it first.

    Attributes:
        what: whose it is, for messages: ``compute_fn for 'key'``.
        landed: its outcome, in the loop.
    """

    __slots__ = ("_computes", "_function", "_taken", "_thread", "landed", "what")

    def __init__(self, what: str, function: Callable[[], Any], thread: LoopThread) -> None:
        self.what = what
        self.landed: asyncio.Future[Outcome] = thread.loop.create_future()
        self._function = function
        self._computes = compute.running.get()
        self._thread = thread
        self._taken = threading.Lock()

    @property
    def taken(self) -> bool:
        """Whether somebody has taken it."""
        return self._taken.locked()

    def take(self) -> bool:
        """Whether it is the asker's: the first who asks gets it."""
        return self._taken.acquire(blocking=False)

    def run(self, around: Callable[[], AbstractContextManager[object]] = nullcontext) -> Exception | None:
        """Run the function here and tell the loop; the error if it failed.

        Raises:
            BaseException: what is no Exception, such as KeyboardInterrupt, goes on in this thread; to the loop it is
                a compute that was given up.
        """
        token = compute.running.set(self._computes)
        try:
            with around():
                value = self._function()
            if inspect.isawaitable(value):
                if inspect.iscoroutine(value):
                    value.close()
                raise TypeError(
                    f"{self.what} returned {type(value).__name__}, which would have to be awaited: "
                    "give a plain function here, and async ones to the engine (SyncCache.engine)"
                )
            outcome = Outcome(value)
        except Exception as error:
            outcome = Outcome.of(error)
        except BaseException:
            outcome = self.interrupted()
            raise
        finally:
            compute.running.reset(token)
            self._thread.post(self.land, outcome)
        return outcome.error

    def land(self, outcome: Outcome) -> None:
        """Called in the loop; only the first outcome counts."""
        if not self.landed.done():
            self.landed.set_result(outcome)

    def interrupted(self) -> Outcome:
        """The outcome when the thread that ran it was torn away."""
        return Outcome.of(ComputeCancelledError(f"{self.what} was interrupted in its thread"))


class Call(Generic[T]):
    """What one thread asks of the loop and waits for, running meanwhile what it is handed.

    Attributes:
        computes: the computes that led to it, so that one that waits for itself is noticed.
        thread: the loop's, once it has begun.
        task: answers it.
    """

    def __init__(self) -> None:
        self.computes: Final = compute.running.get()
        self.thread: LoopThread | None = None
        self.task: asyncio.Task[None] | None = None
        self._jobs: set[Job] = set()
        self._waits = True
        self._inbox: SimpleQueue[Job | Outcome] = SimpleQueue()

    # In the thread that asks.

    def ask(self, thread: LoopThread, work: Callable[[], Coroutine[Any, Any, T]]) -> Outcome | None:
        """Wait for the answer, and run what is handed over until then.

        Args:
            thread: the loop's.
            work: gives the answer; called in the loop.

        Returns:
            The answer; None if the loop has ended already.
        """
        outcome, begun = None, True
        try:
            begun = thread.begin(self, work)
            while begun and outcome is None:
                message = self._inbox.get()
                if isinstance(message, Outcome):
                    outcome = message
                elif message.take():
                    message.run()
        finally:
            if begun and outcome is None:  # interrupted, as by Ctrl-C
                thread.post(self._let_go)
        return outcome

    def abort(self, why: str) -> None:
        """Let the thread go without an answer: there is no loop any more."""
        self._inbox.put(Outcome.of(ComputeCancelledError(why)))

    # In the loop.

    def holds_something(self) -> bool:
        """Whether something is held while the compute that calls this runs."""
        mine = compute.running.get()[len(self.computes) :]
        return any(context is not None and context.held_age is not None for _, _, context in mine)

    async def compute(self, what: str, function: Callable[[], V], elsewhere: bool) -> V:
        """Have a function run: by the thread that waits, unless that is gone, or a worker shall and is free."""
        assert self.thread is not None
        workers = self.thread.workers
        job = Job(what, function, self.thread)
        if self._waits and not (elsewhere and workers.free):
            self._jobs.add(job)
            self._inbox.put(job)
        else:
            workers.put(job)
        try:
            outcome = await job.landed
        finally:
            job.take()  # it is too late for whoever has not begun
            self._jobs.discard(job)
        return cast(V, outcome.open())

    def answer(self, outcome: Outcome) -> None:
        """Let the thread go with the answer, once it has run what it may be running."""
        self._waits = False
        self._inbox.put(outcome)
        self._pass_on()

    def _let_go(self) -> None:
        if self.thread is None:
            return  # it was interrupted before it could begin
        self._waits = False
        self.thread.forget(self)
        if self.task is not None:
            self.task.cancel()
        self._pass_on()
        for job in self._jobs:
            job.land(job.interrupted())

    def _pass_on(self) -> None:
        """Let workers run what the thread has not begun."""
        assert self.thread is not None
        for job in [job for job in self._jobs if not job.taken]:
            self._jobs.remove(job)
            self.thread.workers.put(job)


class LoopThread:
    """An event loop, the thread it runs in from the first call on, and the workers.

    Args:
        workers: worker threads at most.
        worker_context: gives what is entered around each function in a worker thread.

    Attributes:
        loop: the event loop.
        workers: run what no caller's thread runs.
        ended: whether it takes no more calls.
    """

    def __init__(self, workers: int, worker_context: Callable[[], AbstractContextManager[object]]) -> None:
        # Nothing of the caller's context here, nor in what it asks for: the loop and the connections that are opened
        # in it keep the context they were made in for good.
        self.loop: Final = Context().run(asyncio.new_event_loop)
        self.workers: Final = Workers(workers, worker_context)
        self.ended = False
        self._calls: set[Call[Any]] = set()
        self._lock = threading.Lock()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._live, name="smartcache-sync-loop", daemon=True)

    def begin(self, call: Call[T], work: Callable[[], Coroutine[Any, Any, T]]) -> bool:
        """Start a call, answered by what ``work`` gives when called in the loop; whether there still is a loop."""
        with self._lock:
            if self.ended:
                return False
            if self._thread.ident is None:
                self._thread.start()
            call.thread = self
            self.loop.call_soon_threadsafe(self._start, call, work, context=Context())
            self._calls.add(call)
        return True

    def forget(self, call: Call[Any]) -> None:
        """A call is over."""
        with self._lock:
            self._calls.discard(call)

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """Have something called in the loop; does nothing once that has ended."""
        if not self.ended:
            with suppress(RuntimeError):  # it has just closed
                self.loop.call_soon_threadsafe(callback, *args, context=Context())

    def stop(self, patience: float) -> None:
        """End the threads; workers are given ``patience`` seconds."""
        with self._lock:
            if self._thread.ident is None:  # nothing was asked of it
                self.ended = True
                self.loop.close()
                return
        self.post(self._stop.set)
        self._thread.join()
        self.workers.stop(patience)

    def leave_to_parent(self) -> None:
        """In a forked child: there is no such thread here, and the loop's descriptors are the parent's."""
        self.ended = True
        _of_the_parent.append(self)
        for call in self._calls:
            call.abort("the process was forked while the cache was asked")

    def _live(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self._until_stopped())
        finally:
            for call in list(self._calls):
                call.abort("the cache was closed while it was asked")

    async def _until_stopped(self) -> None:
        try:
            await self._stop.wait()
        finally:
            with self._lock:
                self.ended = True

    def _start(self, call: Call[T], work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        call.task = self.loop.create_task(self._answer(call, work))

    async def _answer(self, call: Call[T], work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        compute.running.set(call.computes)
        try:
            outcome = Outcome(await work())
        except Exception as error:
            outcome = Outcome.of(error)
        self.forget(call)
        call.answer(outcome)


class Workers:
    """A few threads for functions that nobody's own thread runs.

    Args:
        most: how many threads.
        context: gives what is entered around each function.
    """

    def __init__(self, most: int, context: Callable[[], AbstractContextManager[object]]) -> None:
        self._most = most
        self._context = context
        self._line: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._lock = threading.Lock()

    @property
    def free(self) -> bool:
        """Whether a function would not have to wait in line."""
        return self._busy < self._most

    def put(self, job: Job) -> None:
        """Have a job run; called in the loop."""
        with self._lock:
            self._busy += 1
            more = len(self._threads) < min(self._busy, self._most)
        if more:
            thread = threading.Thread(target=self._work, name="smartcache-sync-worker", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                if not self._threads:
                    job.land(Outcome.of(error))
            else:
                self._threads.append(thread)
        self._line.put(job)

    def stop(self, patience: float) -> None:
        """End the threads, each when it has run what it is running, and wait for that so many seconds."""
        for _ in self._threads:
            self._line.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(patience)

    def _work(self) -> None:
        while (job := self._line.get()) is not None:
            if job.take():
                self._run(job)
            else:
                self._rest()
            del job  # an idle worker keeps nothing alive

    def _rest(self) -> None:
        with self._lock:
            self._busy -= 1

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        # Over before the loop is told, so that whoever hears of it finds the worker free.
        try:
            with self._context():
                yield
        finally:
            self._rest()

    def _run(self, job: Job) -> None:
        try:
            error: BaseException | None = Context().run(job.run, self._at_work)
        except BaseException as raised:  # the loop has been told, and the thread goes on
            error = raised
        if error is not None:
            # Where nobody waits only the numbers would tell.
            _log.warning("%s failed in a worker thread", job.what, exc_info=error)


#: What a forked child must neither use nor close.
_of_the_parent: Final[list[LoopThread]] = []

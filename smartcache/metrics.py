"""The recorder: every number the engine counts, in one block of memory per process.

With a directory the memory is a file mapped and shared, so that an exporter in another process can read it and a killed
process keeps its share. Without one it is plain memory.

Several threads may record at once. In CPython a cell's ``cells[i] += 1`` is a load, an add and a store, between which
the interpreter never hands over the GIL (it does so at function entry and at backward jumps), so no count is lost and
no lock is needed. ``tests/smartcache/test_metrics.py`` holds this to account.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import warnings
import weakref
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from smartcache import exemplars
from smartcache.catalogue import CATEGORIES, FAMILY, STATISTIC, STRATEGIES
from smartcache.clock import Clock, SystemClock
from smartcache.exemplars import Exemplar
from smartcache.layout import Layout, Series
from smartcache.metrics_file import cells_start, new_name, pack_header
from smartcache.recorder import Recorder
from smartcache.snapshot import Decoder, Snapshot, derive, totals
from smartcache.tags import MARKETS
from smartcache.windows import Window, Windows

__all__ = ["CacheMetrics", "Counter", "Gauge", "Histogram", "State"]

_MOST_AT_ONCE: Final = 2**32


class _Handle:
    """A place in the memory; it moves when a fork gives the process a memory of its own."""

    __slots__ = ("_cell", "_edges", "_floats", "_ints", "_metrics", "_total")

    def __init__(self, metrics: CacheMetrics, series: Series) -> None:
        self._metrics = metrics  # whose file ends with it
        self._cell = series.cell
        self._total = series.total or 0
        self._edges = FAMILY[series.family].buckets
        self.rebind()

    def rebind(self) -> None:
        """Point to the memory that there is now, of the same layout."""
        self._ints = self._metrics._ints
        self._floats = self._metrics._floats


class Counter(_Handle):
    """A count that only grows."""

    __slots__ = ()

    def add(self, amount: int = 1) -> None:
        """Add ``amount``, a whole number of at least 0."""
        self._ints[self._cell] += amount


class Gauge(_Handle):
    """A value that goes up and down."""

    __slots__ = ()

    def set(self, value: float) -> None:
        """Say what the value is now, in the family's unit."""
        self._floats[self._cell] = value

    def add(self, amount: float) -> None:
        """Move the value by ``amount``."""
        self._floats[self._cell] += amount


class Histogram(_Handle):
    """Observations sorted into buckets."""

    __slots__ = ()

    def observe(self, value: float) -> None:
        """Take in one observation, in the family's unit."""
        self._ints[self._cell + bisect_left(self._edges, value)] += 1
        self._floats[self._total] += value


class State(_Handle):
    """Which of several states the process is in. One store says it, so no reader finds it in two."""

    __slots__ = ("_places",)

    def __init__(self, metrics: CacheMetrics, series: Series) -> None:
        (label,) = FAMILY[series.family].labels
        self._places: Final = {state: float(place) for place, state in enumerate(label.values, start=1)}
        super().__init__(metrics, series)

    def set(self, state: str) -> None:
        """Say which one it is in now.

        Raises:
            KeyError: no such state.
        """
        self._floats[self._cell] = self._places[state]


_H = TypeVar("_H", bound=_Handle)


class CacheMetrics:
    """What one process counted.

    Args:
        directory: where the file goes that an exporter reads; None for plain memory, ``""`` to take
            ``SMARTCACHE_METRICS_DIR`` from the environment at first use.
        domains: values of the configured label domains, or what to ask for them at first use; markets default to
            the engine's twelve.
        clock: where now comes from.

    The memory is made on first use. A forked child makes its own.
    """

    # Set when the memory is made; reading one before that makes it.
    layout: Layout
    _close_file: weakref.finalize[..., CacheMetrics] | None
    _path: Path | None
    _inode: int
    _ints: memoryview[int]
    _floats: memoryview[float]
    _decoder: Decoder
    _increments: dict[str, int]

    def __init__(
        self,
        directory: Path | str | None = None,
        domains: Mapping[str, Sequence[str]] | Callable[[], Mapping[str, Sequence[str]]] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._directory = directory
        self._clock: Clock = clock or SystemClock()
        self._domains = domains
        self._recorder = Recorder(self._on_time)
        self._windows = Windows()
        self._handles: dict[tuple[str, tuple[str, ...]], _Handle] = {}
        _instances.add(self)

    # -- recording ---------------------------------------------------------------------------------------------------

    @property
    def recorder(self) -> Recorder:
        """What counts requests; a fork moves it along."""
        self._ints  # noqa: B018 - opens the memory
        return self._recorder

    def counter(self, name: str, **labels: str) -> Counter:
        """The handle of a counter; resolve it once and keep it.

        Raises:
            KeyError, ValueError: no such metric or label value.
        """
        return self._handle(name, labels, Counter)

    def gauge(self, name: str, **labels: str) -> Gauge:
        """The handle of a gauge; resolve it once and keep it.

        Raises:
            KeyError, ValueError: no such metric or label value.
        """
        return self._handle(name, labels, Gauge)

    def histogram(self, name: str, **labels: str) -> Histogram:
        """The handle of a histogram; resolve it once and keep it.

        Raises:
            KeyError, ValueError: no such metric or label value.
        """
        return self._handle(name, labels, Histogram)

    def state(self, name: str) -> State:
        """The handle of a gauge that counts processes by state; resolve it once and keep it.

        Raises:
            KeyError: no such metric.
        """
        return self._handle(name, {}, State)

    def increment(self, name: str, value: int = 1) -> None:
        """Add ``value`` to one of the counted statistics by name.

        Raises:
            ValueError: not a statistic that can be added to by itself, or not from 0 to 2**32.
        """
        # A reader takes what is beyond measure for garbage, and then shows no counter of any process.
        if type(value) is not int or not 0 <= value <= _MOST_AT_ONCE:
            raise ValueError(f"{name} can only grow, by a whole number of at most 2**32; got {value!r}")
        cell = self._increments.get(name)
        if cell is None:
            raise ValueError(f"{name!r} cannot be incremented; those that can: {', '.join(sorted(self._increments))}")
        self._ints[cell] += value

    def record_latency(self, milliseconds: float) -> None:
        """Take in the duration of a request that this engine did not serve, in milliseconds; counts as a compute.

        Raises:
            ValueError: not from 0 to 2**32.
        """
        if not 0 <= milliseconds <= _MOST_AT_ONCE:
            raise ValueError(f"a latency is a number of milliseconds from 0 to 2**32, got {milliseconds!r}")
        cells = self.layout.cells_of("absent")
        self._recorder.request(cells, STRATEGIES.index("compute"), milliseconds / 1000, self._clock.monotonic())

    def exemplar(self, strategy: str, exemplar: Exemplar) -> None:
        """Let a request whose trace was exported stand for its latency bucket; one thread at a time may say so.

        Raises:
            ValueError: no such strategy.
        """
        exemplars.write(self._ints, self.layout.exemplars, strategy, exemplar)

    def set_latency_sampling(self, rate: float) -> None:
        """Let the latency histogram count only a share of requests; everything else stays exact.

        Raises:
            ValueError: not in (0, 1].
        """
        if not 0 < rate <= 1:
            raise ValueError(f"the latency sampling rate must lie in (0, 1], got {rate!r}")
        if rate < 1:
            self._ints[self.layout.thinned] = 1
        self._recorder.sample(rate)
        self.gauge("smartcache_latency_sampling_ratio").set(rate)

    # -- reading -----------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Every sample of this process, now."""
        return self._decoder.decode(self._ints.tobytes(), self._clock.monotonic())

    def get_stats(self) -> dict[str, float]:
        """All 35 statistics of this process by name, each since the last reset of its category."""
        self._turn_windows()
        slowest, fastest = self._recorder.slowest, self._recorder.fastest
        traffic = slowest >= 0
        return derive(
            totals(self.snapshot().samples),
            self._windows.baseline,
            slowest if traffic else None,
            fastest if traffic else None,
        )

    def windows(self) -> dict[str, Window]:
        """By category, since when its statistics count and how often they begin anew."""
        self._turn_windows()
        return self._windows.describe()

    def reset(self) -> None:
        """Count :meth:`get_stats` from now on; what is exported goes on growing."""
        now = totals(self.snapshot().samples)
        for category in CATEGORIES:
            self._windows.reset(category, self._clock.time(), now)
        self._recorder.forget_extremes()

    def reset_category(self, name: str) -> None:
        """Count one category of :meth:`get_stats` from now on.

        Raises:
            ValueError: not one of the seven categories.
        """
        self._windows.reset(name, self._clock.time(), totals(self.snapshot().samples))
        if name == "performance":
            self._recorder.forget_extremes()

    def schedule_reset(self, category: str, period: str) -> None:
        """Let a category of :meth:`get_stats` begin anew every full hour or at 00:00 UTC.

        Args:
            category: one of the seven.
            period: ``hourly`` or ``daily``.

        Raises:
            ValueError: no such category or period.
        """
        self._ints  # noqa: B018 - opens the memory
        self._windows.schedule(category, period, self._clock.time())
        self._set_alarm()

    def _on_time(self) -> None:
        self._keep_file()
        self._turn_windows()

    def _turn_windows(self) -> None:
        """Do the scheduled resets that are due."""
        now = self._clock.time()
        if self._windows.is_due(now) and "performance" in self._windows.turn(now, totals(self.snapshot().samples)):
            self._recorder.forget_extremes()
        self._set_alarm()

    def _set_alarm(self) -> None:
        self._recorder.set_alarm(self._clock.monotonic() + self._windows.due - self._clock.time())

    def to_prometheus(self) -> str:
        """This process's page in the Prometheus text format; needs the ``exporter`` extra.

        Raises:
            ImportError: prometheus-client is not installed.
        """
        try:
            from exporter.exposition import text_page
        except ImportError as error:
            raise ImportError("to_prometheus needs prometheus-client: pip install 'smartcache[exporter]'") from error
        return text_page(self.snapshot())

    @property
    def path(self) -> Path | None:
        """The file an exporter reads; None while the memory is this process's alone."""
        self._ints  # noqa: B018 - opens it
        return self._path

    def close(self) -> None:
        """Let go of the file: what was counted is the share of an ended process, and what follows is not exported."""
        if (close := self.__dict__.get("_close_file")) is not None:
            close()

    # -- memory ------------------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        # Reached only before the memory is there.
        if name in _OPENED:
            with _opening:
                if name not in self.__dict__:
                    self._open()
            return self.__dict__[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _open(self) -> None:
        directory = os.environ.get("SMARTCACHE_METRICS_DIR") if self._directory == "" else self._directory
        self._close_file = None
        self._path = None
        self._inode = 0
        domains = self._domains() if callable(self._domains) else self._domains
        self.layout = Layout({"market": MARKETS, **(domains or {})})
        memory = memoryview(bytearray(8 * self.layout.cells))
        if directory:
            try:
                memory = self._map(Path(directory, new_name()))
            except OSError as error:
                _warn(
                    f"metrics stay in this process: no file can be made in {str(directory)!r} ({error}). "
                    "Set SMARTCACHE_METRICS_DIR to a folder this process can write to"
                )
        self._ints = memory.cast("q")
        self._floats = memory.cast("d")
        self._decoder = Decoder(self.layout.describe())
        self._increments = {name: series.cell for name, series in self.layout.by_hand.items()}
        for statistic in STATISTIC.values():
            family = FAMILY.get(statistic.family or "")
            if family and family.kind == "counter" and not family.joint:
                match = dict(statistic.match)
                values = tuple(match.get(label.name, "other") for label in family.labels)
                self._increments[statistic.name] = self.layout.series[family.name, values].cell
        self._tell_sampling(memory)
        self._recorder.bind(self._ints, self._floats, self.layout, self._clock.monotonic())

    def _tell_sampling(self, memory: memoryview) -> None:
        """What a memory must say from the first reading on."""
        memory.cast("q")[self.layout.thinned] = self._recorder.rate < 1
        memory.cast("d")[self.layout.series["smartcache_latency_sampling_ratio", ()].cell] = self._recorder.rate

    def _keep_file(self) -> None:
        """Make the file anew if somebody took it away.

        All that was counted is in the new one, under the same name, so whoever read the first finds no count that is
        less. What another thread is counting at this very moment may be lost.
        """
        with _opening:
            if self._path is None or self._close_file is None or not self._close_file.alive:
                return
            try:
                if self._path.stat().st_ino == self._inode:
                    return
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError:
                return  # it cannot be told
            close, old, counts = self._close_file, (self._ints, self._floats), self.layout.counts
            content = self._ints.tobytes()
            try:
                memory = self._map(self._path, content)
            except OSError as error:
                _warn(f"the metrics file {str(self._path)!r} was taken away and cannot be made anew ({error})")
                return
            self._ints, self._floats = memory.cast("q"), memory.cast("d")
            self._recorder.bind(self._ints, self._floats, self.layout, self._clock.monotonic())
            for handle in [*self._handles.values()]:
                handle.rebind()
            # What other threads counted between the copy and now.
            ints, floats = memoryview(content).cast("q"), memoryview(content).cast("d")
            for cell in range(counts):
                self._ints[cell] += old[0][cell] - ints[cell]
            for cell in range(counts, self.layout.sums):
                self._floats[cell] += old[1][cell] - floats[cell]
            close()
            # The last: where warnings are errors, all is in its place before it is raised.
            _warn(f"the metrics file {str(self._path)!r} was taken away, and was made anew with all that it held")

    def _map(self, path: Path, content: bytes = b"") -> memoryview:
        """A new file with these cells, by default with none counted; it is complete when it appears.

        Raises:
            OSError: it cannot be made, or there is no room for it.
        """
        header = pack_header(self.layout.describe())
        start = cells_start(header)
        size = start + 8 * self.layout.cells
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".new")
        fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            # Every page is backed by the disk before it is mapped: a write to one that a full disk cannot back
            # would kill the process.
            os.posix_fallocate(fd, 0, size)
            os.pwrite(fd, header, 0)
            # The lock says "alive"; it goes with the process however that ends, and works across containers.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Mapped through an open file of its own: a map keeps a descriptor for as long as anything refers to it,
            # and the lock must end with `close`, and with the parent though a forked child has yet to drop the map.
            with unfinished.open("r+b") as file:
                memory = memoryview(mmap.mmap(file.fileno(), size))[start:]
            memory[: len(content)] = content
            self._tell_sampling(memory)
            inode = os.fstat(fd).st_ino
            unfinished.rename(path)
        except OSError:
            os.close(fd)
            unfinished.unlink(missing_ok=True)
            raise
        # A recorder that nobody has any more is an ended process, closed or not.
        self._close_file = weakref.finalize(self, os.close, fd)
        self._close_file.atexit = False
        self._path = path
        self._inode = inode
        return memory

    def _handle(self, name: str, labels: Mapping[str, str], make: type[_H]) -> _H:
        series = self.layout.find(name, labels)
        family = FAMILY[name]
        kind, wanted = "state" if family.combine == "states" else family.kind, make.__name__.lower()
        if kind != wanted:
            raise KeyError(f"{name} is a {kind}, not a {wanted}")
        key = (series.family, series.values)
        handle = self._handles.get(key)
        if handle is None:
            # One handle per series, whichever thread was first: a fork moves those that are kept here.
            handle = self._handles.setdefault(key, make(self, series))
        return handle  # type: ignore[return-value]  # one kind per family, checked above

    def _after_fork_in_child(self) -> None:
        if "_ints" not in self.__dict__:
            return
        # The lock belongs to the open file, which parent and child share: holding on to it here would keep the
        # parent's file "alive" after the parent's death.
        self.close()
        for name in _OPENED:
            self.__dict__.pop(name, None)
        self._windows.forget()
        self._recorder.forget_extremes()
        self._open()
        for handle in self._handles.values():
            handle.rebind()


def _warn(what: str) -> None:
    warnings.warn(what, RuntimeWarning, stacklevel=5)


_OPENED: Final = frozenset({"layout", "_close_file", "_path", "_inode", "_ints", "_floats", "_decoder", "_increments"})
_instances: weakref.WeakSet[CacheMetrics] = weakref.WeakSet()
#: Held while a memory is made, so that threads share one, and across a fork, so that no child sees half of one.
_opening: Final = threading.RLock()


def _after_fork_in_child() -> None:
    try:
        for metrics in list(_instances):
            metrics._after_fork_in_child()
    finally:
        _opening.release()


os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_after_fork_in_child)

"""The metrics files of a directory: read, judged, and remembered.

Every process that records keeps one file there (:mod:`smartcache.metrics` writes it). What was read from a file once
stays counted, whatever becomes of it: a sum that shrank would look like a restart to Prometheus, and turn ten requests
a second into thousands.

All counts of a file are taken as one long number in base 2**64: adding two adds them cell by cell, and in a difference
the upper bits of a cell tell whether its count fell. So files of one layout are judged and added in a few operations
each, and decoded once.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from operator import le
from pathlib import Path
from typing import Final, Literal, NamedTuple

from smartcache.metrics_file import SUFFIX, TornError, cells_start, parse_header
from smartcache.snapshot import Decoder, Samples, Snapshot, add_up, ticks

__all__ = ["MetricsFiles", "Reading", "State"]

State = Literal["live", "dead", "unreadable"]

_LOG: Final = logging.getLogger(__name__)


class Reading(NamedTuple):
    """What a directory said at one moment.

    Attributes:
        snapshot: all processes added up.
        states: how many files are in each state.
        errors: parts that could not be read this time.
        errors_total: the same, since this reader began.
    """

    snapshot: Snapshot
    states: Mapping[State, int]
    errors: int
    errors_total: int


class MetricsFiles:
    """Reads the metrics files of a directory; safe to share between threads.

    Args:
        directory: where the files are.
        monotonic: the clock by which processes stamped what they wrote, in seconds.
    """

    def __init__(self, directory: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.directory: Final = directory
        self._monotonic = monotonic
        self._layouts: dict[bytes, Decoder] = {}
        self._files: dict[str, _File] = {}
        self._errors_total = 0
        self._trouble = ""
        self._lock = threading.Lock()

    def read(self) -> Reading:
        """Read every file; one that cannot be read counts with what it last said."""
        with self._lock:
            states: dict[State, int] = {"live": 0, "dead": 0, "unreadable": 0}
            errors = 0
            try:
                for name in self._names():
                    if name not in self._files:
                        self._files[name] = _File(self.directory / name, self._layouts)
                self._trouble = ""
            except OSError as error:
                errors += 1
                if self._trouble != str(error):
                    _LOG.warning("%s; what its files last said stays counted", error)
                    self._trouble = str(error)
            now = self._monotonic()
            for file in self._files.values():
                if state := file.read():
                    states[state] += 1
                    errors += state == "unreadable"
            self._errors_total += errors
            return Reading(add_up(_shares(self._files.values(), now)), states, errors, self._errors_total)

    def _names(self) -> list[str]:
        with os.scandir(self.directory) as entries:
            return [entry.name for entry in entries if entry.name.endswith(SUFFIX)]


def _shares(files: Iterable[_File], now: float) -> Iterable[Samples]:
    """What the files say: their counts, those of one layout added cell by cell, and the gauges of each."""
    alike: dict[Decoder, list[_File]] = {}
    for file in files:
        if file.decoder is not None:
            alike.setdefault(file.decoder, []).append(file)
            if file.gauges:
                yield file.decoder.current(file.gauges, now)
    for decoder, group in alike.items():
        content = sum(file.counts for file in group).to_bytes(8 * decoder.counts, "little")
        counts = memoryview(content).cast("q").tolist()
        yield decoder.accumulated(counts, [*map(sum, zip(*(file.sums for file in group), strict=True))])


class _File:
    """One file, and what it last said.

    Attributes:
        decoder: what its cells mean; None until it could be read.
        counts: its counts, as one long number.
        sums: its sums in ticks.
        gauges: the cells after them; nothing unless its process was seen alive just now.
    """

    def __init__(self, path: Path, layouts: dict[bytes, Decoder]) -> None:
        self._path = path
        self._layouts = layouts
        self._header = b""
        self._final: tuple[int, ...] | None = None
        self._trouble = ""
        self.decoder: Decoder | None = None
        self.counts = 0
        self.sums: list[int] = []
        self.gauges = b""

    def read(self) -> State | None:
        """Bring it up to date; None when there is no such file (any more)."""
        self.gauges = b""
        try:
            state = self._read()
            self._trouble = ""
        except FileNotFoundError:
            self._final = None
            state = None
        except Exception as error:  # whatever is wrong with one file must not cost the others their page
            trouble = f"{type(error).__name__}: {error}"
            if self._trouble != trouble:
                _LOG.warning("%s cannot be read and counts with what it last said: %s", self._path, trouble)
                self._trouble = trouble
            state = "unreadable"
        return state

    def _read(self) -> State:
        if self._final is not None and self._final == _signature(self._path.stat()):
            return "dead"
        self._final = None
        # Not blocking: a pipe under this name must not hang the page.
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise TornError("not a regular file")
            # Asked before the cells are read: of a dead process nothing more can come.
            state: State = "live" if _is_locked(fd) else "dead"
            gauges = self._take(os.pread(fd, status.st_size, 0))
        finally:
            os.close(fd)
        if state == "live":
            self.gauges = gauges
        else:
            self._final = _signature(status)
        return state

    def _take(self, content: bytes) -> bytes:
        """Take in what accumulates, if all of it has only grown; return the cells of the gauges."""
        header, decoder = self._header, self.decoder
        if decoder is None:
            header, description = parse_header(content)
            decoder = self._layouts.get(header)
            if decoder is None:
                decoder = self._layouts[header] = Decoder(description)
        elif not content.startswith(header):
            raise TornError("its header has changed")
        start = cells_start(header)
        end = start + 8 * decoder.cells
        if len(content) < end:
            raise TornError(f"{len(content)} bytes where its header says {end}")
        sums_start, gauges_start = start + 8 * decoder.counts, start + 8 * decoder.sums
        counts = int.from_bytes(content[start:sums_start], "little")
        if (counts - self.counts) & _too_many(decoder.counts):
            raise TornError("counts fell, or grew beyond measure")
        sums = [ticks(total) for total in memoryview(content[sums_start:gauges_start]).cast("d")]
        if not all(map(le, self.sums or [0] * len(sums), sums)):
            raise TornError("sums of seconds fell")
        self._header, self.decoder, self.counts, self.sums = header, decoder, counts, sums
        return content[gauges_start:end]


@cache
def _too_many(cells: int) -> int:
    """The bits of so many cells that no count reaches, but garbage does; one that fell borrows from them."""
    return int.from_bytes(b"\0\0\0\0\0\0\xff\xff" * cells, "little")


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _is_locked(fd: int) -> bool:
    """Whether the process that writes the file is alive: it holds the lock for as long as it lives."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False

"""The metrics files of a directory: read, judged, and remembered.

Every process that records keeps one file there (:mod:`smartcache.metrics` writes it). What was read from a file once
stays counted, whatever becomes of it: a sum that shrank would look like a restart to Prometheus, and turn ten requests
a second into thousands.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from smartcache import exemplars
from smartcache.exemplars import Exemplars
from smartcache.metrics import MAGIC, SUFFIX, cells_start
from smartcache.snapshot import HistogramValue, Snapshot, add_up, decode

__all__ = ["MetricsFiles", "Reading", "State"]

State = Literal["live", "dead", "unreadable"]

_LOG: Final = logging.getLogger(__name__)
_FIXED: Final = len(MAGIC) + 8
#: Beyond this a count is no longer exact on the page. No process gets there, but garbage does.
_PLAUSIBLE: Final = 2**53


class Reading(NamedTuple):
    """What a directory said at one moment.

    Attributes:
        snapshot: all processes added up.
        states: how many files are in each state.
        errors: parts that could not be read this time.
        errors_total: the same, since this reader began.
        exemplars: of all processes, living or dead, the newest; one that was read once stays until a newer one comes.
    """

    snapshot: Snapshot
    states: Mapping[State, int]
    errors: int
    errors_total: int
    exemplars: Exemplars


class MetricsFiles:
    """Reads the metrics files of a directory; safe to share between threads.

    Args:
        directory: where the files are.
        monotonic: the clock by which processes stamped what they wrote, in seconds.
    """

    def __init__(self, directory: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.directory: Final = directory
        self._monotonic = monotonic
        self._files: dict[str, _File] = {}
        self._errors_total = 0
        self._exemplars: Exemplars = {}
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
                        self._files[name] = _File(self.directory / name)
                self._trouble = ""
            except OSError as error:
                errors += 1
                if self._trouble != str(error):
                    _LOG.warning("%s; what its files last said stays counted", error)
                    self._trouble = str(error)
            shares = []
            # By name, whatever their state: see add_up.
            for _, file in sorted(self._files.items()):
                if state := file.read(self._monotonic()):
                    states[state] += 1
                    errors += state == "unreadable"
                shares.append(file.share)
            self._errors_total += errors
            # Prometheus takes no exemplar older than the last it had.
            self._exemplars = exemplars.newest([self._exemplars, *(file.exemplars for file in self._files.values())])
            return Reading(add_up(shares), states, errors, self._errors_total, self._exemplars)

    def _names(self) -> list[str]:
        with os.scandir(self.directory) as entries:
            return [entry.name for entry in entries if entry.name.endswith(SUFFIX)]


class _TornError(ValueError):
    """The content of a file is not what its process wrote."""


class _File:
    """One file, and what it last said.

    Attributes:
        share: what it adds to the sum; only what accumulates, unless its process was seen alive just now.
        exemplars: requests that stand for their latency buckets.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header = b""
        self._description: Mapping[str, Any] = {}
        self._final: tuple[int, ...] | None = None
        self._trouble = ""
        self.share = Snapshot({})
        self.exemplars: Exemplars = {}

    def read(self, now: float) -> State | None:
        """Bring ``share`` up to date; None when there is no such file (any more)."""
        try:
            state = self._read(now)
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
        if state != "live":
            self.share = self.share.accumulated()
        return state

    def _read(self, now: float) -> State:
        if self._final is not None and self._final == _signature(self._path.stat()):
            return "dead"
        self._final = None
        # Not blocking: a pipe under this name must not hang the page.
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise _TornError("not a regular file")
            # Asked before the cells are read: of a dead process nothing more can come.
            state: State = "live" if _is_locked(fd) else "dead"
            self.share = self._decode(os.pread(fd, status.st_size, 0), now)
        finally:
            os.close(fd)
        if state == "dead":
            self._final = _signature(status)
        return state

    def _decode(self, content: bytes, now: float) -> Snapshot:
        header, description = self._header, self._description
        if not header or not content.startswith(header):
            header, description = _parse(content)
        start = cells_start(len(header))
        cells = content[start : start + 8 * description["cells"]]
        if len(cells) != 8 * description["cells"]:
            raise _TornError(f"{len(cells)} bytes of cells where its header says {8 * description['cells']}")
        snapshot = decode(cells, description, now)
        _check_growth(self.share, snapshot)
        self._header, self._description = header, description
        self.exemplars = exemplars.read(cells, description.get("exemplars"))
        return snapshot


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


def _parse(content: bytes) -> tuple[bytes, Mapping[str, Any]]:
    if not content.startswith(MAGIC):
        raise _TornError(f"does not begin with {MAGIC.decode()}")
    end = _FIXED + int.from_bytes(content[len(MAGIC) : _FIXED], "little")
    if end > len(content):
        raise _TornError(f"its header ends at byte {end} of {len(content)}")
    return content[:end], json.loads(content[_FIXED:end])


def _check_growth(before: Snapshot, after: Snapshot) -> None:
    """What accumulates must not be less than it was, nor absurd."""
    for name, samples in after.accumulated().samples.items():
        held = before.samples.get(name, {})
        for labels, value in samples.items():
            least = held.get(labels)
            if isinstance(value, HistogramValue):
                counts, total = (least.counts, least.total) if least else ((0,) * len(value.counts), 0.0)
                grew = total <= value.total < math.inf and all(map(_in_order, counts, value.counts))
            else:
                grew = _in_order(least or 0, value)
            if not grew:
                raise _TornError(f"{name}{labels} went from {least or 0} to {value}")


def _in_order(less: int, more: int) -> bool:
    return less <= more < _PLAUSIBLE

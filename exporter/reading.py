"""One metrics file: judged, and taken in.

All counts of a file are taken as one long number in base 2**64: adding two adds them cell by cell, and in a difference
the upper bits of a cell tell whether its count fell. So files of one layout are judged and added in a few operations
each, and decoded once.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from operator import le
from pathlib import Path
from typing import Final, Literal

from smartcache import exemplars
from smartcache.exemplars import Exemplars
from smartcache.metrics_file import ForeignError, TornError, cells_start, parse_header
from smartcache.snapshot import Decoder, Samples, ticks

__all__ = ["TROUBLE", "File", "opened", "shares", "signature"]

#: What reading a file that is not what it should be can raise.
TROUBLE: Final = (OSError, LookupError, TypeError, ValueError, ArithmeticError)


class File:
    """A metrics file and what it last said.

    Args:
        path: where it is.
        layouts: decoders by header, shared by the files of a directory.

    Attributes:
        decoder: what its cells mean; None until it could be read.
        foreign: whether another version wrote it, so that nothing of it was ever counted here.
        counts: its counts, as one long number.
        sums: its sums in ticks.
        thinned: whether sampling has ever been on in its process.
        gauges: the cells after them; empty unless its process was seen alive just now.
        exemplars: the requests that stand for their latency buckets.
    """

    def __init__(self, path: Path, layouts: dict[bytes, Decoder]) -> None:
        self.path: Final = path
        self._layouts: Final = layouts
        self._header = b""
        self._final: tuple[int, ...] | None = None
        self.decoder: Decoder | None = None
        self.foreign = False
        self.counts = 0
        self.sums: list[int] = []
        self.thinned = False
        self.gauges = b""
        self.exemplars: Exemplars = {}

    def read(self) -> Literal["live", "dead"]:
        """Bring it up to date and say whether its process lives.

        Raises:
            Exception: one of :data:`TROUBLE`: it cannot be read; it stays at what it last said.
        """
        self.gauges = b""
        if self._final is not None and self._final == signature(self.path.stat()):
            return "dead"
        self._final = None
        with opened(self.path) as (fd, status):
            # Asked before the cells are read: of a dead process nothing more can come.
            alive = _is_locked(fd)
            gauges = self._take(os.pread(fd, status.st_size, 0))
        if alive:
            self.gauges = gauges
            return "live"
        self._final = signature(status)
        return "dead"

    def _take(self, content: bytes) -> bytes:
        """Take in what accumulates, if all of it has only grown; return the cells of the gauges."""
        header, decoder = self._header, self.decoder
        if decoder is None:
            try:
                header, description = parse_header(content)
            except ForeignError:
                self.foreign = True
                raise
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
        if decoder.thinned is not None:
            self.thinned = any(content[start + 8 * decoder.thinned : start + 8 * (decoder.thinned + 1)])
        self.exemplars = exemplars.read(content[start:end], decoder.exemplars)
        return content[gauges_start:end]


def shares(files: Iterable[File], now: float) -> Iterator[Samples]:
    """What files say: counts and sums, those of one layout added cell by cell, and the gauges of each.

    Args:
        files: those that could never be read say nothing.
        now: the monotonic clock.
    """
    alike: dict[tuple[Decoder, bool], list[File]] = {}
    for file in files:
        if file.decoder is not None:
            alike.setdefault((file.decoder, file.thinned), []).append(file)
            if file.gauges:
                yield file.decoder.current(file.gauges, now)
    for (decoder, _), group in alike.items():
        content = sum(file.counts for file in group).to_bytes(8 * decoder.counts, "little")
        counts = memoryview(content).cast("q").tolist()
        yield decoder.accumulated(counts, [*map(sum, zip(*(file.sums for file in group), strict=True))])


@contextmanager
def opened(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """A file open for reading, and its status.

    Raises:
        TornError: it is something else.
        OSError: it cannot be opened.
    """
    # Not blocking: a pipe under this name must not hang the page.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise TornError("not a regular file")
        yield fd, status
    finally:
        os.close(fd)


def signature(status: os.stat_result) -> tuple[int, ...]:
    """What tells one content of a path from another."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@cache
def _too_many(cells: int) -> int:
    """The bits of so many cells that no count reaches, but garbage does; one that fell borrows from them."""
    return int.from_bytes(b"\0\0\0\0\0\0\xff\xff" * cells, "little")


def _is_locked(fd: int) -> bool:
    """Whether the process that writes the file is alive: it holds the lock for as long as it lives."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False

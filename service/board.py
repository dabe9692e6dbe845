"""The board: facts that the service's workers share, in one folder of the machine they run on.

Line-ups confirmed and faults ordered by a request to one worker must hold in all. They live in a small file that is
replaced whole; a worker looks at it at most every :data:`LOOK_EVERY` seconds, and only at its time stamp when nothing
changed. Workers also claim a slot each, so that one of them, and one only, draws the odds.

The board is of one machine. An instance elsewhere learns of an event over the engine's bus, which retires its entries,
but does not learn that the line-up is confirmed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from smartcache.clock import Clock

__all__ = ["Board", "Fault", "Slot"]

#: Seconds for which a worker trusts what it last read.
LOOK_EVERY: Final = 0.1


class Fault(msgspec.Struct, frozen=True):
    """An ordered disturbance of the model.

    Attributes:
        compute_error_ratio: share of computes that fail.
        extra_latency: seconds that every compute waits beside the configured ones.
        until: reading of the monotonic clock at which it ends.
    """

    compute_error_ratio: float = 0.0
    extra_latency: float = 0.0
    until: float = 0.0


class _Facts(msgspec.Struct):
    lineups: set[str] = msgspec.field(default_factory=set)
    fault: Fault = Fault()


class Board:
    """Reads and writes the shared facts in ``folder``."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._file = folder / "facts.json"
        self._lock = folder / "facts.lock"
        self._clock = clock
        self._facts = _Facts()
        self._stamp: tuple[int, int] | None = None
        self._looked = float("-inf")

    def lineup_confirmed(self, match_id: str) -> bool:
        """Whether the match's line-up has been confirmed."""
        self._look()
        return match_id in self._facts.lineups

    def fault(self) -> Fault | None:
        """The disturbance in force, if any."""
        self._look()
        fault = self._facts.fault
        return fault if self._clock.monotonic() < fault.until else None

    def confirm_lineup(self, match_id: str) -> None:
        """Make it known that the match's line-up is confirmed."""
        with self._rewrite() as facts:
            facts.lineups.add(match_id)

    def order(self, fault: Fault) -> None:
        """Put ``fault`` in the place of the one before."""
        with self._rewrite() as facts:
            facts.fault = fault

    def _look(self) -> None:
        now = self._clock.monotonic()
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        try:
            status = self._file.stat()
        except FileNotFoundError:
            return
        # Each rewrite is a new file, so its number or its time differs.
        stamp = (status.st_ino, status.st_mtime_ns)
        if stamp != self._stamp:
            self._facts = msgspec.json.decode(self._file.read_bytes(), type=_Facts)
            self._stamp = stamp

    @contextmanager
    def _rewrite(self) -> Iterator[_Facts]:
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._looked = float("-inf")
            self._look()
            facts = self._facts
            yield facts
            draft = self._file.with_suffix(".new")
            draft.write_bytes(msgspec.json.encode(facts))
            draft.replace(self._file)
        self._looked = float("-inf")


class Slot:
    """A worker's number, lowest first, held for as long as its process lives.

    The kernel frees the slot of a killed worker; the one that takes its place takes its slot.
    """

    def __init__(self, folder: Path) -> None:
        self.number, self._held = self._claim(folder)

    @staticmethod
    def _claim(folder: Path) -> tuple[int, int]:
        number = 0
        while True:
            held = os.open(folder / f"worker-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(held)
                number += 1
            else:
                os.ftruncate(held, 0)
                os.pwrite(held, str(os.getpid()).encode(), 0)
                return number, held

    @staticmethod
    def holders(folder: Path) -> dict[int, int]:
        """Process ids of the workers by slot; one that just ended may still be among them."""
        pids = {int(file.name.removeprefix("worker-")): file.read_text() for file in folder.glob("worker-*")}
        return {number: int(pid) for number, pid in sorted(pids.items()) if pid}

    def release(self) -> None:
        """Give the slot back before the process ends."""
        os.close(self._held)

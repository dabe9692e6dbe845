"""What was started and still runs: recorded, recognised again, and ended.

A process id can be taken over by a stranger. A record therefore also holds when the process started, and what does not
match is never touched. Each part leads a session of its own, so its workers are found by it. Every process also carries
a mark in its environment, by which it is found when the record was lost.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil

from stack.settings import SettingsError

__all__ = ["Register", "Running", "mark"]

#: Seconds a part has to end by itself when asked to.
STOP_WITHIN: Final = 15.0


@dataclass(frozen=True, slots=True)
class Running:
    """A part that was started.

    Attributes:
        name: the part.
        pid: its first process, which leads its session.
        started: when that process started, as the kernel tells it.
        port: where it listens.
        fingerprints: of its command and of each variable and file it was started with, by name.
    """

    name: str
    pid: int
    started: str
    port: int
    fingerprints: Mapping[str, str]

    def processes(self) -> list[psutil.Process]:
        """Its processes that live, the first one first; empty when it is gone."""
        leader = started_at(self.pid)
        if leader not in (None, self.started):
            return []  # the id belongs to a stranger now
        members = []
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, PermissionError, psutil.Error):
                if os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    members.append(process)
        return sorted(members, key=lambda process: process.pid != self.pid)

    def intact(self) -> bool:
        """Whether its first process lives; workers that it left behind do not count."""
        return any(process.pid == self.pid for process in self.processes())

    def stop(self) -> None:
        """End it: politely, then by force. None of its processes is left when this returns."""
        # First the process that ends its workers, then whatever that one left behind.
        _end(lambda: [process for process in self.processes() if process.pid == self.pid])
        _end(self.processes)


class Register:
    """The record of what runs, a file that outlives the command that wrote it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Running]:
        """The parts that were started and still live, by name, in the order they were started.

        Without the record, those that carry the mark of its folder.
        """
        try:
            parts = [Running(**entry) for entry in json.loads(self._path.read_text(encoding="utf-8"))]
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):  # lost, damaged, or of another version
            parts = _marked(self._path.parent)
        except OSError as error:
            raise SettingsError(f"STACK_DIR={self._path.parent} cannot be used: {error.strerror}") from None
        return {part.name: part for part in parts if part.processes()}

    def write(self, parts: Iterable[Running]) -> None:
        """Replace the record, whole or not at all."""
        scratch = self._path.with_suffix(".new")
        scratch.touch(mode=0o600)  # only its owner may guess at values from their fingerprints
        scratch.write_text(json.dumps([asdict(part) for part in parts], indent=1), encoding="utf-8")
        scratch.replace(self._path)


def mark(folder: Path, name: str, port: int) -> dict[str, str]:
    """The variables by which a process of the part ``name`` is known to belong to the stack in ``folder``."""
    return {"STACK_DIR": str(folder), "STACK_PART": name, "STACK_PART_PORT": str(port)}


def _marked(folder: Path) -> list[Running]:
    """The parts that carry the mark of ``folder``, in the order they were started; how they were set is not known."""
    found: dict[int, Running] = {}
    for process in sorted(psutil.process_iter(), key=lambda process: process.pid):
        with suppress(ProcessLookupError, PermissionError, KeyError, ValueError, psutil.Error):
            variables, session = process.environ(), os.getsid(process.pid)
            part, port = variables["STACK_PART"], int(variables["STACK_PART_PORT"])
            if variables["STACK_DIR"] == str(folder):
                found.setdefault(session, Running(part, session, started_at(session) or "", port, {}))
    return sorted(found.values(), key=lambda part: int(part.started) if part.started.isdigit() else 0)


def started_at(pid: int) -> str | None:
    """When process ``pid`` started, in a form that a step of the clock does not change; None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[19]  # field 22, in ticks since the machine started
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return None
    except ProcessLookupError:
        return None
    try:  # a system without /proc
        return str(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def _end(these: Callable[[], list[psutil.Process]]) -> None:
    """End the processes that ``these`` finds; one that only awaits its parent's notice has ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in these():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        deadline = time.monotonic() + STOP_WITHIN
        while these() and time.monotonic() < deadline:
            time.sleep(0.05)

"""Running the scenario in Locust, headless, in processes of its own.

Importing Locust rewires the standard library for gevent; whoever runs it this way keeps their own process as it was.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from loadtest.recorder import Recorder
from loadtest.verdict import Record

_ROOT: Final = Path(__file__).resolve().parent.parent
_LOCUSTFILE: Final = _ROOT / "loadtest" / "locustfile.py"
#: Answers under way at the end get this long; longer than the scenario waits for any one.
_STOP_TIMEOUT: Final = 30
#: Users that appear a second; faster ramps are known to stutter.
_SPAWN_RATE: Final = 100


class RunFailedError(Exception):
    """Locust ended without a record; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the scenario.

    Attributes:
        target: base address of the service.
        rate: requests per second in all.
        users: connections in all; each has one request under way at most.
        warm_up: seconds sent before any is judged.
        duration: seconds judged; None runs until stopped.
        processes: load processes.
        markets: markets asked for; none named means all.
    """

    target: str
    rate: float
    users: int
    warm_up: float = 0.0
    duration: float | None = None
    processes: int = 1
    markets: tuple[str, ...] = ()

    def command(self, result: Path) -> list[str]:
        """The command line; the record goes to ``result``."""
        command = [
            sys.executable, "-m", "locust", "--locustfile", str(_LOCUSTFILE), "--headless", "--only-summary",
            "--host", self.target, "--rate", f"{self.rate!r}", "--warm-up", f"{self.warm_up!r}",
            "--duration", f"{self.duration or 0.0!r}", "--users", str(self.users), "--spawn-rate", str(_SPAWN_RATE),
            "--stop-timeout", str(_STOP_TIMEOUT), "--exit-code-on-error", "0", "--result", str(result),
            "--markets", ",".join(self.markets),
        ]  # fmt: skip
        # One process needs no master beside it.
        return command if self.processes == 1 else [*command, "--processes", str(self.processes)]


class LocustProcess:
    """A run under way; as a context manager it leaves nothing running.

    Args:
        run: what to run.
        folder: where the record and Locust's log go.
        environment: environment of the process.
    """

    def __init__(self, run: Run, folder: Path, environment: Mapping[str, str]) -> None:
        self._run = run
        self._result = folder / "record.json"
        self._log = folder / "locust.log"
        self._result.unlink(missing_ok=True)
        with self._log.open("wb") as log:
            # A session of its own: an interrupt at the keyboard reaches it through stop() alone.
            self._process = subprocess.Popen(
                run.command(self._result),
                cwd=_ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> LocustProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def wait(self) -> Record:
        """The record, once the run has come to its end; RunFailedError when it came to none."""
        whole = self._run.warm_up + (self._run.duration or 0.0) + self._run.users / _SPAWN_RATE
        return self._end(whole + 3 * _STOP_TIMEOUT)

    def stop(self) -> Record:
        """End the run after the answers under way, and return its record."""
        self._process.terminate()
        return self._end(2 * _STOP_TIMEOUT)

    def _end(self, timeout: float) -> Record:
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise RunFailedError(f"Locust did not end within {timeout:.0f} s:\n{self._last_lines()}") from None
        if code or not self._result.exists():
            raise RunFailedError(f"Locust ended with code {code}:\n{self._last_lines()}")
        written = json.loads(self._result.read_bytes())
        recorder = Recorder()
        recorder.merge(written)
        return Record(recorder, written["processes"], written["cpu_warning"])

    def _last_lines(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

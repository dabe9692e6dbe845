"""The metrics files of a directory: read, judged, and remembered.

Every process that records keeps one file there (:mod:`smartcache.metrics` writes it), and what ended ones counted is
folded into one more (:mod:`exporter.ended`). What was read once stays counted, whatever becomes of the file: a sum that
shrank would look like a restart to Prometheus, and turn ten requests a second into thousands. A file that cannot be
read, and has not been since this reader began, may have counted on pages of an earlier one: then no sum is known. One
that came when every part was known counted on none, and costs only itself.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

from exporter import ended
from exporter.ended import Ended
from exporter.reading import TROUBLE, File, shares, signature
from smartcache import exemplars
from smartcache.clock import Clock, SystemClock
from smartcache.exemplars import Exemplars
from smartcache.metrics_file import SUFFIX, TornError, is_name
from smartcache.snapshot import Decoder, Samples, Snapshot, Totals, add_up, grew, totals
from smartcache.windows import Window, Windows

__all__ = ["MetricsFiles", "Reading", "State"]

State = Literal["live", "dead", "unreadable"]

_LOG: Final = logging.getLogger(__name__)


class Reading(NamedTuple):
    """What a directory said at one moment.

    Attributes:
        snapshot: all processes added up.
        states: how many processes are in each state; those that ended are counted for as long as their share is.
        complete: whether every part is counted, if only with what it last said; otherwise the counters and histograms
            may be less than they were once.
        errors: parts that could not be read this time.
        exemplars: of all processes, living or dead, the newest; one that was read once stays until a newer one comes.
        baseline: by category, what its statistics count from.
        windows: since when they do.
    """

    snapshot: Snapshot
    states: Mapping[State, int]
    complete: bool
    errors: int
    exemplars: Exemplars
    baseline: Mapping[str, Totals]
    windows: Mapping[str, Window]


class MetricsFiles:
    """Reads the metrics files of a directory; safe to share between threads.

    Args:
        directory: where the files are.
        resets: how often each category of the statistics begins anew, for those that do: at the first reading after
            the full hour, or after 00:00 UTC.
        clock: where now comes from; its monotonic one must be that of the processes.

    Attributes:
        windows: since when the statistics count.
        to_fold: whether the last reading saw files of ended processes that can be folded.
    """

    def __init__(self, directory: Path, resets: Mapping[str, str] | None = None, clock: Clock | None = None) -> None:
        self.directory: Final = directory
        self.windows: Final = Windows()
        self.to_fold = False
        self._clock: Final = clock or SystemClock()
        for category, period in (resets or {}).items():
            self.windows.schedule(category, period, self._clock.time())
        self._layouts: dict[bytes, Decoder] = {}
        self._files: dict[str, File] = {}
        self._ended: Ended | None = None
        self._ended_signature: tuple[int, ...] = ()
        self._lost: list[Samples] = []
        self._listed = False
        self._complete = False
        self._came_later: set[str] = set()
        self._troubles: dict[str, str] = {}
        self._exemplars: Exemplars = {}
        self._lock = threading.Lock()

    def read(self) -> Reading:
        """Read every file; one that cannot be read counts with what it last said."""
        with self._lock:
            # In this order: see exporter.ended.
            errors = self._list()
            states = {name: self._read(file) for name, file in self._files.items()}
            errors += [*states.values()].count("unreadable")
            errors += self._read_ended(gone=[name for name, state in states.items() if state is None])
            parts = [*self._lost, *shares(self._files.values(), self._clock.monotonic())]
            count: dict[State, int] = {"live": 0, "dead": 0, "unreadable": 0}
            complete = self._listed and (self._ended is not None or ended.NAME not in self._troubles)
            self.to_fold = False
            for name, file in [*self._files.items()]:
                if state := states[name]:
                    count[state] += 1
                    complete &= (
                        file.decoder is not None or file.foreign or name in self._came_later or not is_name(name)
                    )
                    self.to_fold |= state == "dead" and file.decoder is not None and file.decoder.familiar
                elif file.decoder is None:
                    del self._files[name]  # never read, and gone
            if self._ended is not None:
                parts.append(self._ended.samples)
                count["dead"] += self._ended.folded
            snapshot = add_up(parts)
            self._complete = complete
            if complete and self.windows.is_due(now := self._clock.time()):
                self.windows.turn(now, totals(snapshot.samples))
            # Prometheus takes no exemplar older than the last it had.
            self._exemplars = exemplars.newest([self._exemplars, *(file.exemplars for file in self._files.values())])
            return Reading(
                snapshot,
                count,
                complete,
                errors,
                self._exemplars,
                dict(self.windows.baseline),
                self.windows.describe(),
            )

    def fold(self) -> None:
        """Fold the files of ended processes into one, unless somebody else is at it."""
        try:
            ended.fold(self.directory)
            self._troubles.pop("fold", None)
        except TROUBLE as error:
            self._say("fold", f"{self.directory}: the files of ended processes cannot be folded and stay", error)

    def _list(self) -> int:
        """Find new files; return the number of errors."""
        folded = () if self._ended is None else self._ended.names
        try:
            with os.scandir(self.directory) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(SUFFIX)]
        except OSError as error:
            self._say("list", f"{self.directory} cannot be read; what its files last said stays counted", error)
            return 1
        self._listed = True
        self._troubles.pop("list", None)
        for name in set(names).difference(self._files, folded):
            self._files[name] = File(self.directory / name, self._layouts)
            if self._complete:
                self._came_later.add(name)
        self._came_later.intersection_update(self._files)
        return 0

    def _read(self, file: File) -> State | None:
        """Bring a file up to date; None when there is no such file (any more)."""
        try:
            state: State = file.read()
        except FileNotFoundError:
            return None
        except TROUBLE as error:  # one file must not cost the others their page
            counts = "counts nothing" if file.decoder is None else "counts with what it last said"
            self._say(file.path.name, f"{file.path} cannot be read and {counts}", error)
            return "unreadable"
        self._troubles.pop(file.path.name, None)
        return state

    def _read_ended(self, gone: list[str]) -> int:
        """Take in what was folded and let go of the files in it; return the number of errors."""
        path, known = self.directory / ended.NAME, self._ended
        try:
            now = signature(path.stat())
            if now == self._ended_signature:
                return 0
            told = ended.load(self.directory)
            if known is not None and known.lineage != told.lineage:
                self._lost.append(known.samples)  # the file is another: what the first one said stays counted
                known = None
            if known is not None and not grew(known.samples, told.samples):
                raise TornError("counts fell")
        except FileNotFoundError:
            return 0
        except TROUBLE as error:
            self._ended_signature = ()
            self._say(path.name, f"{path} cannot be read and counts with what it last said", error)
            return 1
        self._troubles.pop(path.name, None)
        missed = told.folded - (known.folded if known is not None else 0)
        # Of names it no longer has, any may be that of a file that is gone.
        for name in (*told.names, *(gone if missed > len(told.names) else ())):
            self._files.pop(name, None)
        self._ended, self._ended_signature = told, now
        return 0

    def _say(self, about: str, what: str, error: Exception) -> None:
        """Say what is wrong, once and not with every page."""
        trouble = f"{type(error).__name__}: {error}"
        if self._troubles.get(about) != trouble:
            _LOG.warning("%s: %s", what, trouble)
            self._troubles[about] = trouble

"""Ended processes: their metrics files folded into one.

Processes come and go, and each leaves a file. What ended ones counted is added up in ``ended.json``, which also names
the files it took in. It is replaced in one step (written beside, then renamed), so a reader finds a file's share either
in the file or here, never in both: it reads the files first, then this, and leaves out the files named here. A folder
that is killed before the step leaves everything as it was; after it, the files that are still there are named and count
no more, and the next folder removes them before it does anything else.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from exporter.reading import File, shares
from smartcache.catalogue import FAMILY
from smartcache.metrics_file import SUFFIX, TornError
from smartcache.snapshot import Decoder, HistogramValue, Samples, add_up, sorted_anew

__all__ = ["LOCK", "NAME", "Ended", "fold", "load"]

NAME: Final = "ended.json"
_UNFINISHED: Final = "ended.new"
LOCK: Final = "ended.lock"
#: Names kept, newest last; a reader that missed more forgets what it remembers of files that are gone.
_NAMES: Final = 4096
#: Files folded in one step: all of them must be among the names until they are removed.
_AT_ONCE: Final = 1024


class Ended(NamedTuple):
    """What ended processes counted.

    Attributes:
        lineage: tells it from one that was begun anew after this was lost.
        folded: how many files it took in since it was begun.
        names: the last of them.
        samples: counters and histograms.
        foreign: families that this version does not know, as another one wrote them.
    """

    lineage: str
    folded: int
    names: tuple[str, ...]
    samples: Samples
    foreign: Mapping[str, Any]


def load(directory: Path) -> Ended:
    """Read ``ended.json``.

    Raises:
        FileNotFoundError: there is none.
        TornError, OSError, LookupError, TypeError, ValueError: it cannot be read.
    """
    told = json.loads((directory / NAME).read_bytes())
    if not isinstance(told, dict):
        raise TornError("no object")
    samples: Samples = {}
    foreign = {}
    for name, family_told in told["families"].items():
        family = FAMILY.get(name)
        if family is None or family_told["labels"] != [label.name for label in family.labels]:
            foreign[name] = family_told
        elif edges := family_told.get("edges"):
            samples[name] = {
                tuple(labels): HistogramValue(sorted_anew(counts, edges, family.buckets), total)
                for labels, counts, total in family_told["samples"]
            }
        else:
            samples[name] = {tuple(labels): count for labels, count in family_told["samples"]}
    return Ended(told["lineage"], told["folded"], tuple(told["names"]), samples, foreign)


def fold(directory: Path) -> int:
    """Take in the files of ended processes and remove them, unless somebody else is at it.

    Files of another version, whose layout tells more than this one knows, are left for it.

    Returns:
        How many were taken in.

    Raises:
        OSError: the directory cannot be written to.
        TornError, LookupError, TypeError, ValueError: ``ended.json`` cannot be read; nothing is folded without it.
    """
    with _alone(directory) as alone:
        if not alone:
            return 0
        try:
            ended = load(directory)
        except FileNotFoundError:
            ended = Ended(secrets.token_hex(8), 0, (), {}, {})
        names = {path.name for path in directory.iterdir() if path.suffix == SUFFIX}
        for name in names.intersection(ended.names):
            (directory / name).unlink()
        dead = _dead(directory, names.difference(ended.names))
        if not dead:
            return 0
        added = add_up([ended.samples, *shares(dead.values(), 0.0)]).samples
        taken = Ended(ended.lineage, ended.folded + len(dead), (*ended.names, *dead)[-_NAMES:], added, ended.foreign)
        _write(directory, taken)
        for name in dead:
            (directory / name).unlink()
        return len(dead)


@contextmanager
def _alone(directory: Path) -> Iterator[bool]:
    """Whether nobody else folds meanwhile; the lock goes with the process however that ends."""
    fd = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        yield alone
    finally:
        os.close(fd)


def _dead(directory: Path, names: set[str]) -> dict[str, File]:
    layouts: dict[bytes, Decoder] = {}
    dead: dict[str, File] = {}
    for name in sorted(names):
        file = File(directory / name, layouts)
        try:
            if file.read() == "dead" and file.decoder is not None and file.decoder.familiar:
                dead[name] = file
        except (OSError, LookupError, TypeError, ValueError):
            continue  # whoever reads it for a page says so
        if len(dead) == _AT_ONCE:
            break
    return dead


def _write(directory: Path, ended: Ended) -> None:
    families: dict[str, Any] = dict(ended.foreign)
    for name, samples in ended.samples.items():
        family = FAMILY[name]
        families[name] = {"labels": [label.name for label in family.labels]}
        if family.buckets:
            families[name]["edges"] = family.buckets
            families[name]["samples"] = [[labels, value.counts, value.ticks] for labels, value in samples.items()]
        else:
            families[name]["samples"] = [*samples.items()]
    told = {"lineage": ended.lineage, "folded": ended.folded, "names": ended.names, "families": families}
    with (directory / _UNFINISHED).open("w") as file:
        json.dump(told, file)
        file.flush()
        # What it replaces is removed: it must be on the disk before that.
        os.fsync(file.fileno())
    (directory / _UNFINISHED).rename(directory / NAME)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

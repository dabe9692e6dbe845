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

from exporter.reading import TROUBLE, File, opened, shares
from smartcache.catalogue import FAMILY, Family
from smartcache.metrics_file import SUFFIX, TornError
from smartcache.snapshot import TICK, Decoder, HistogramValue, Samples, add_up, sorted_anew

__all__ = ["LOCK", "NAME", "Ended", "fold", "load"]

NAME: Final = "ended.json"
_UNFINISHED: Final = "ended.new"
LOCK: Final = "ended.lock"
#: Names kept, newest last; a reader that missed more forgets what it remembers of files that are gone.
_NAMES: Final = 4096
#: Files folded in one step: all of them must be among the names until they are removed.
_AT_ONCE: Final = 1024
#: Above any count.
_MOST: Final = 2**63


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
        Exception: one of :data:`TROUBLE`: it cannot be read.
    """
    with opened(directory / NAME) as (fd, status):
        content = os.pread(fd, status.st_size, 0)
    try:
        told = json.loads(content)
    except RecursionError as error:
        raise TornError("nested too deep") from error
    if not isinstance(told, dict) or not isinstance(told["families"], dict):
        raise TornError("no object")
    samples: Samples = {}
    foreign = {}
    for name, family_told in told["families"].items():
        family = FAMILY.get(name)
        if family is None or family_told["labels"] != [label.name for label in family.labels]:
            foreign[name] = family_told
        elif edges := family_told.get("edges"):
            samples[name] = {
                _labels(labels, family): HistogramValue(
                    sorted_anew(_counts(counts, edges), edges, family.buckets), _count(total, _MOST * TICK)
                )
                for labels, counts, total in family_told["samples"]
            }
        elif family.buckets:
            raise TornError(f"{name} has no edges")
        else:
            samples[name] = {_labels(labels, family): _count(count) for labels, count in family_told["samples"]}
    return Ended(told["lineage"], _count(told["folded"]), tuple(told["names"]), samples, foreign)


def _labels(told: list[object], family: Family) -> tuple[str, ...]:
    values = tuple(value for value in told if isinstance(value, str))
    if not len(values) == len(told) == len(family.labels):
        raise TornError(f"{told!r} are no label values of {family.name}")
    return values


def _counts(told: list[object], edges: list[float]) -> list[int]:
    if len(told) != len(edges) + 1:
        raise TornError(f"{len(told)} buckets of {len(edges)} edges")
    return [*map(_count, told)]


def _count(told: object, most: int = _MOST) -> int:
    if type(told) is not int or not 0 <= told < most:
        raise TornError(f"{told!r} is no count")
    return told


def fold(directory: Path) -> int:
    """Take in the files of ended processes and remove them, unless somebody else is at it.

    Files of another version, whose layout tells more than this one knows, are left for it.

    Returns:
        How many were taken in.

    Raises:
        OSError: the directory cannot be written to.
        Exception: one of :data:`TROUBLE`: ``ended.json`` cannot be read; nothing is folded without it.
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
        except TROUBLE:
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
    (directory / _UNFINISHED).unlink(missing_ok=True)  # of a folder that was killed; or what is no file at all
    with (directory / _UNFINISHED).open("x") as file:
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

"""Warming: computing values before anybody asks, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from smartcache.request import MatchContext

__all__ = ["Progress", "Wanted", "Warmed", "check_wanted", "warm_all"]

R_co = TypeVar("R_co", covariant=True)

#: Called with how many are done and how many there are, None where that is not known.
Progress = Callable[[int, int | None], None]


class Wanted(NamedTuple, Generic[R_co]):
    """A value to have ready.

    Attributes:
        key: its key.
        compute_fn: called without arguments; the engine awaits what it returns, :class:`SyncCache` does not.
        match_context: what is known about the match.
        tags: the caller's own tags.
    """

    key: str
    compute_fn: Callable[[], R_co]
    match_context: MatchContext | None = None
    tags: tuple[str, ...] = ()


class Warmed(NamedTuple):
    """What warming did.

    Attributes:
        computed: values that were computed and are held now.
        held: values that were there, fresh.
        skipped: matches that have started, whose values are never held.
        failed: keys whose compute failed, with its error.
    """

    computed: int
    held: int
    skipped: int
    failed: dict[str, Exception]


async def warm_all(
    wanted: Iterable[Wanted[Awaitable[Any]]],
    warm_one: Callable[[Wanted[Awaitable[Any]]], Awaitable[Literal["computed", "held", "skipped"]]],
    at_once: int,
    progress: bool | Progress,
) -> Warmed:
    """Warm what is wanted, ``at_once`` values at a time.

    Raises:
        TypeError, ValueError: something that is not wanted, or no number.
        Exception: what ``wanted`` or ``progress`` raised.
    """
    if isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1:
        raise ValueError(f"at_once is {at_once!r}, but must be a whole number of at least 1")
    total = len(wanted) if isinstance(wanted, list | tuple | set | dict) else None
    counts = {"computed": 0, "held": 0, "skipped": 0}
    failed: dict[str, Exception] = {}
    queue = iter(wanted)

    async def work(show: Progress) -> None:
        for one in map(check_wanted, queue):
            try:
                counts[await warm_one(one)] += 1
            except Exception as error:
                failed[one.key] = error
            show(sum(counts.values()) + len(failed), total)

    with _shown(progress, total) as show:
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(at_once):
                    workers.create_task(work(show))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
    return Warmed(counts["computed"], counts["held"], counts["skipped"], failed)


def check_wanted(one: Wanted[R_co]) -> Wanted[R_co]:
    """What is wanted, made sure of.

    Raises:
        TypeError: something else.
    """
    if not isinstance(one, Wanted):
        raise TypeError(f"warm() was given {one!r}: write it as Wanted(key, compute_fn)")
    return one


@contextmanager
def _shown(progress: bool | Progress, total: int | None) -> Iterator[Progress]:
    if not isinstance(progress, bool):
        yield progress
    elif progress:
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise ImportError("progress=True needs tqdm: pip install 'smartcache[progress]'") from error
        with tqdm(total=total, desc="warming", unit="value") as bar:

            def show(done: int, total: int | None) -> None:
                bar.update(done - bar.n)

            yield show
    else:
        yield lambda done, total: None

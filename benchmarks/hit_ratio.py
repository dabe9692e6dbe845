"""How much of real traffic the memory tier holds, at 1 % and at 10 % of a trace's distinct keys.

The traces are not part of the project: cluster 52 of Twitter's caches (Yang, Yue, Rashmi, OSDI 2020) and two of an
e-commerce site (headissue, Jens Wilke), both CC BY 4.0. They lie beside the checkout, in ``../shared/data``.
"""

from __future__ import annotations

import gzip
import lzma
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Final

from benchmarks.peers import absent
from benchmarks.turns import Effort
from benchmarks.verdict import Comparison, Row, at_least
from smartcache.entry import Entry
from smartcache.memory import MemoryTier

__all__ = ["DATA", "TRACES", "average", "hit_ratio", "summary"]

DATA: Final = Path(__file__).resolve().parents[2] / "shared" / "data"
_ORM_REQUESTS: Final = 1_500_000
_SHARES: Final = (0.01, 0.10)
_BAR: Final = at_least(68.6, "%")

#: Replays requests into a cache of so many entries; returns how many of them hit.
Replay = Callable[[Sequence[str], int], int]


def twitter(folder: Path) -> Iterator[str]:
    with gzip.open(folder / "cache_trace_twitter" / "twitter_cluster52_req_0000001_1000000.csv.gz", "rt") as lines:
        next(lines)
        for line in lines:
            yield line.split(",", 2)[1]


def cache2k(name: str) -> Callable[[Path], Iterator[str]]:
    def read(folder: Path) -> Iterator[str]:
        numbers = array("I", lzma.decompress((folder / "cache_trace_cache2k" / f"{name}.trace.xz").read_bytes()))
        if sys.byteorder == "little":
            numbers.byteswap()
        return map(str, numbers)

    return read


#: Name to what reads its keys, in order.
TRACES: Final[dict[str, Callable[[Path], Iterator[str]]]] = {
    "twitter": twitter,
    "web12": cache2k("web12"),
    "orm-busy": lambda folder: islice(cache2k("orm-busy")(folder), _ORM_REQUESTS),
}


def ours(keys: Sequence[str], size: int) -> int:
    tier = MemoryTier(size, sys.maxsize)
    hits = 0
    for key in keys:
        if tier.get(key) is None:
            tier.put(Entry(key, None, born=0.0))
        else:
            hits += 1
    return hits


def lru(keys: Sequence[str], size: int) -> int:
    from cachetools import LRUCache

    held = LRUCache(size)
    hits = 0
    for key in keys:
        if held.get(key) is None:
            held[key] = True
        else:
            hits += 1
    return hits


def theine(keys: Sequence[str], size: int) -> int:
    from theine import Cache

    held = Cache(size, nolock=True)
    hits = 0
    for key in keys:
        if held.get(key)[1]:
            hits += 1
        else:
            held.set(key, True)
    held.close()
    return hits


def sieve(keys: Sequence[str], size: int) -> int:
    """Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is Simpler than LRU, NSDI 2024."""
    visited: dict[str, bool] = {}
    newer: dict[str, str] = {}
    newest = behind = ""  # "" lies before the oldest; the hand lies just after ``behind``
    hits = 0
    for key in keys:
        if key in visited:
            visited[key] = True
            hits += 1
            continue
        if len(visited) == size:
            while visited[newer[behind]]:
                behind = newer[behind]
                visited[behind] = False
                if behind == newest:
                    behind = ""
            victim = newer.pop(behind)
            del visited[victim]
            if victim == newest:
                newest, behind = behind, ""
            else:
                newer[behind] = newer.pop(victim)
        newer[newest] = newest = key
        visited[key] = False
    return hits


#: Distribution, if it is one's, label, and how it is replayed.
_PEERS: Final[tuple[tuple[str | None, str, Replay], ...]] = (
    ("cachetools", "cachetools LRU", lru),
    ("theine", "theine W-TinyLFU", theine),
    (None, "SIEVE", sieve),
)


async def hit_ratio(effort: Effort) -> list[Row]:
    """Hit ratios by trace and size, and their mean, which has the bar."""
    if not DATA.is_dir():
        print("hit-ratio: left out, no traces in ../shared/data beside the checkout", file=sys.stderr)
        return [Row("hit ratio", "%", None, [Comparison("", bar=_BAR)])]
    names = effort.traces or tuple(TRACES)
    missing = absent()
    rows = []
    for name in names:
        keys = list(TRACES[name](DATA))
        distinct = len(set(keys))
        for share in _SHARES:
            size = int(share * distinct)
            others = [
                Comparison(f"{label} (absent)")
                if distribution in missing
                else Comparison(label, share_held(replay, keys, size))
                for distribution, label, replay in _PEERS
            ]
            title = f"hit ratio, {name}, {share:.0%} of {distinct:,} keys"
            rows.append(Row(title, "%", share_held(ours, keys, size), others))
    return [*rows, summary(rows, whole=set(names) == set(TRACES))]


def share_held(replay: Replay, keys: Sequence[str], size: int) -> float:
    """Percentage of the requests that hit in a cache of ``size`` entries."""
    return 100 * replay(keys, size) / len(keys)


def summary(rows: Sequence[Row], whole: bool) -> Row:
    """The mean over the rows; the bar speaks of the ``whole`` set of traces only."""
    means = [
        Comparison(column[0].against, average([one.theirs for one in column]))
        for column in zip(*(row.comparisons for row in rows), strict=True)
    ]
    return Row(
        f"hit ratio, mean of the {len(rows)} above",
        "%",
        average([row.ours for row in rows]),
        [Comparison("", bar=_BAR, judged=whole), *means],
    )


def average(figures: Sequence[float | None]) -> float | None:
    """The mean; None when one is missing."""
    there = [figure for figure in figures if figure is not None]
    return mean(there) if len(there) == len(figures) else None

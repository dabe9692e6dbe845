"""Whether ten million hits leave anything behind."""

from __future__ import annotations

import gc

import psutil

from benchmarks.turns import FULL, Effort
from benchmarks.verdict import Comparison, Row, at_most
from benchmarks.workload import asks, engine, fill, hits, only_hits, tick

__all__ = ["memory_growth"]


async def memory_growth(effort: Effort) -> list[Row]:
    """Resident memory that this process gained over hits with odds and metrics, after a hundredth to warm up."""
    requests = asks(odds=True)
    with engine() as cache:
        tick(cache, requests)
        await fill(cache, requests)
        turn = hits(cache, requests)
        with only_hits(cache, "memory"):
            await turn(effort.hits // 100)
            before = resident()
            await turn(effort.hits)
            grown = resident() - before
    whole = effort.hits == FULL.hits
    return [
        Row(
            f"memory growth over {effort.hits:,} hits",
            "MB",
            grown / 1e6,
            [Comparison("", bar=at_most(5, "MB"), judged=whole)],
        )
    ]


def resident() -> int:
    """Bytes of this process in memory, garbage collected."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)

"""Whether a million hits leave anything behind."""

from __future__ import annotations

import gc
from typing import Final

import psutil

from benchmarks.turns import Effort
from benchmarks.verdict import Comparison, Row, at_most
from benchmarks.workload import asks, engine, fill, hits, only_hits, tick

__all__ = ["memory_growth"]

#: The bar speaks of 10 million hits; this is its share for one million.
_BAR_PER_MILLION: Final = 5 / 10


async def memory_growth(effort: Effort) -> list[Row]:
    """Resident memory that this process gained over hits with odds and metrics, after a tenth as many to warm up."""
    requests = asks(odds=True)
    with engine() as cache:
        tick(cache, requests)
        await fill(cache, requests)
        turn = hits(cache, requests)
        with only_hits(cache, "memory"):
            await turn(effort.hits // 10)
            before = resident()
            await turn(effort.hits)
            grown = resident() - before
    whole = effort.hits == 1_000_000
    return [
        Row(
            f"memory growth over {effort.hits:,} hits",
            "MB",
            grown / 1e6,
            [Comparison("", bar=at_most(_BAR_PER_MILLION, "MB"), judged=whole)],
        )
    ]


def resident() -> int:
    """Bytes of this process in memory, garbage collected."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)

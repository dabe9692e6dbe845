"""``python -m benchmarks``: run, print one table, keep the figures."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from benchmarks.cold_key import cold_key
from benchmarks.hit_ratio import hit_ratio
from benchmarks.match_event import match_event
from benchmarks.memory_growth import memory_growth
from benchmarks.memory_hits import memory_hit, memory_hit_with_odds, metrics_on
from benchmarks.peers import absent
from benchmarks.recording import recording
from benchmarks.scraping import scrape
from benchmarks.store_hits import store_hit, store_hits_64
from benchmarks.tracing import tracing
from benchmarks.turns import FULL, QUICK, Effort
from benchmarks.verdict import Row, table, unmet
from benchmarks.zipf import zipf

ROWS: Final[dict[str, Callable[[Effort], Coroutine[Any, Any, list[Row]]]]] = {
    # First: what other rows leave free in the heap would hide growth.
    "memory-growth": memory_growth,
    "memory-hit": memory_hit,
    "memory-hit-odds": memory_hit_with_odds,
    "metrics-on": metrics_on,
    "recording": recording,
    "scrape": scrape,
    "tracing": tracing,
    "store-hits-64": store_hits_64,
    "store-hit": store_hit,
    "hit-ratio": hit_ratio,
    "match-event": match_event,
    "cold-key": cold_key,
    "zipf": zipf,
}
REPORTS: Final = Path(__file__).resolve().parents[1] / "reports"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows asked for.

    Returns:
        0 when all ran, whatever the figures; 1 when a row broke or, with ``--strict``, a bar was missed or could not
        be judged.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="The benchmarks, beside the peers.")
    parser.add_argument("--only", metavar="ROW", action="append", choices=ROWS, help=f"one of {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="a few seconds; figures too noisy to quote")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a bar is missed or cannot be judged")
    parser.add_argument("--reports", metavar="FOLDER", type=Path, default=REPORTS, help="where the JSON goes")
    asked = parser.parse_args(arguments)
    effort = QUICK if asked.quick else FULL

    if missing := absent():
        say(f"not installed: {', '.join(missing)} (`make bench` installs the peers)")
    facts = report.machine()
    rows: list[Row] = []
    failures: dict[str, str] = {}
    took: dict[str, float] = {}
    for name in asked.only or ROWS:
        say(f"running: {name}")
        began = time.perf_counter()
        try:
            rows += asyncio.run(ROWS[name](effort))
        except Exception as error:
            traceback.print_exc()
            failures[name] = f"{type(error).__name__}: {error}"
        took[name] = time.perf_counter() - began
        say(f"took {took[name]:.0f} s")
    path = report.save(rows, failures, took, facts, effort, asked.reports)
    print(table(rows))
    for name, reason in failures.items():
        say(f"broke: {name} ({reason})")
    short = unmet(rows)
    for line in short:
        say(line)
    say(f"kept in {path}")
    return int(bool(failures) or (asked.strict and bool(short)))


def say(line: str) -> None:
    """Progress and remarks; the table alone goes to standard output."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

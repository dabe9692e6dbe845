"""The run as a file: what was measured, on what machine, with which versions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks import peers
from benchmarks.turns import Effort
from benchmarks.verdict import Row

__all__ = ["describe", "machine", "save"]


def machine() -> dict[str, Any]:
    """What the figures depend on beside the code; the load says who else was there."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_average": os.getloadavg(),
        "commit": _commit(),
        "peers": peers.versions(),
    }


def describe(row: Row) -> dict[str, Any]:
    """A row as plain data."""
    return {
        "row": row.name,
        "unit": row.unit,
        "ours": row.ours,
        "comparisons": [
            {
                "against": comparison.against or None,
                "theirs": comparison.theirs,
                "times": comparison.times,
                "bar": comparison.bar.text if comparison.bar else None,
                "met": comparison.met(row.ours),
            }
            for comparison in row.comparisons
        ],
        "samples_computes" if row.unit == "computes" else "samples_seconds": {
            name: list(values) for name, values in row.samples.items()
        },
    }


def save(
    rows: Sequence[Row],
    failures: dict[str, str],
    took: dict[str, float],
    facts: dict[str, Any],
    effort: Effort,
    folder: Path,
) -> Path:
    """Write ``bench-<time>.json`` and return where."""
    now = datetime.now(UTC)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"bench-{now:%Y%m%dT%H%M%SZ}.json"
    report = {
        "time": now.isoformat(timespec="seconds"),
        "effort": effort._asdict(),
        "machine": facts,
        "rows": [describe(row) for row in rows],
        "failures": failures,
        "took_seconds": took,
    }
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor()


def _commit() -> str | None:
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return asked.stdout.strip()

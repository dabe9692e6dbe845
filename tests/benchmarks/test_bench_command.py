"""``python -m benchmarks``: the table, the file, the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import ROWS, main
from benchmarks.recording import multiprocess_mode
from benchmarks.turns import Effort
from benchmarks.verdict import Row, at_most, measured

ROOT = Path(__file__).resolve().parents[2]


def kept(folder: Path) -> Any:
    (path,) = folder.glob("bench-*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_quick_run_prints_a_table_and_keeps_its_figures(tmp_path: Path) -> None:
    names = ("recording", "match-event", "cold-key", "zipf", "scrape")
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--reports", tmp_path, *(f"--only={name}" for name in names)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ran.returncode == 0, ran.stderr
    assert "| recording one request" in ran.stdout
    report = kept(tmp_path)
    assert report["failures"] == {}
    assert set(report["took_seconds"]) == set(names)
    assert {"processor", "cores", "python", "load_average", "commit", "peers"} <= set(report["machine"])
    rows = report["rows"]
    assert {"prometheus-client", "prometheus-client, multiprocess mode"} <= set(rows[0]["samples_seconds"])
    assert all(len(samples) == 3 for samples in rows[0]["samples_seconds"].values())
    assert all(row["ours"] > 0 for row in rows)
    assert [row["ours"] for row in rows if row["unit"] == "computes"][:2] == [1, 2]
    assert all(len(row["samples_seconds"]["ours"]) == 1 for row in rows if row["unit"] == "s")


async def missing(effort: Effort) -> list[Row]:
    return [measured("work", {"ours": [2e-6]}, {"": at_most(1, "µs")})]


async def breaking(effort: Effort) -> list[Row]:
    raise OSError("the disk is gone")


@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--strict"], 1)])
def test_a_missed_bar_fails_a_strict_run_only(
    flags: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ROWS, "memory-hit", missing)
    assert main(["--quick", "--only", "memory-hit", "--reports", str(tmp_path), *flags]) == code
    assert kept(tmp_path)["rows"][0]["comparisons"][0]["met"] is False


def test_a_row_that_breaks_is_named_and_the_others_still_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ROWS, "recording", breaking)
    monkeypatch.setitem(ROWS, "memory-hit", missing)
    assert main(["--only", "recording", "--only", "memory-hit", "--reports", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "| work" in printed.out
    assert "broke: recording (OSError: the disk is gone)" in printed.err
    assert kept(tmp_path)["failures"] == {"recording": "OSError: the disk is gone"}


def test_the_client_beside_us_really_is_in_multiprocess_mode() -> None:
    from prometheus_client import CollectorRegistry, Counter, values

    with multiprocess_mode() as folder:
        Counter("tried", "A try.", registry=CollectorRegistry()).inc()
        assert [path.name.split("_")[0] for path in folder.iterdir()] == ["counter"]
    assert not values.ValueClass._multiprocess
    assert not folder.exists()

"""Traces are read as published, and replayed into caches of the size asked for."""

from __future__ import annotations

import gzip
import lzma
import struct
from pathlib import Path

import pytest

from benchmarks import hit_ratio
from benchmarks.hit_ratio import TRACES
from benchmarks.turns import FULL, QUICK


def write_numbers(folder: Path, name: str, numbers: list[int]) -> None:
    (folder / "cache_trace_cache2k").mkdir(exist_ok=True)
    packed = lzma.compress(struct.pack(f">{len(numbers)}I", *numbers))
    (folder / "cache_trace_cache2k" / f"{name}.trace.xz").write_bytes(packed)


def test_numbers_are_big_endian(tmp_path: Path) -> None:
    write_numbers(tmp_path, "web12", [1, 258, 4_000_000_000])
    assert list(TRACES["web12"](tmp_path)) == ["1", "258", "4000000000"]


def test_of_the_long_trace_the_first_million_and_a_half_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hit_ratio._ORM_REQUESTS == 1_500_000
    monkeypatch.setattr(hit_ratio, "_ORM_REQUESTS", 2)
    write_numbers(tmp_path, "orm-busy", [7, 8, 9])
    assert list(TRACES["orm-busy"](tmp_path)) == ["7", "8"]


def test_keys_are_the_second_column(tmp_path: Path) -> None:
    folder = tmp_path / "cache_trace_twitter"
    folder.mkdir()
    with gzip.open(folder / "twitter_cluster52_req_0000001_1000000.csv.gz", "wt") as file:
        file.write("time,object,size\n0,111,40\n0,222,50\n1,111,40\n")
    assert list(TRACES["twitter"](tmp_path)) == ["111", "222", "111"]


async def test_hit_ratios_are_those_of_the_memory_tier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_numbers(tmp_path, "web12", [key for key in range(200) for _ in range(4)])
    monkeypatch.setattr(hit_ratio, "DATA", tmp_path)
    rows = await hit_ratio.hit_ratio(QUICK)
    assert [(row.name, row.ours) for row in rows] == [
        ("hit ratio, web12, 1% of 200 keys", 75.0),
        ("hit ratio, web12, 10% of 200 keys", 75.0),
        ("hit ratio, mean of the 2 above", 75.0),
    ]


def test_a_cache_is_no_larger_than_asked_for() -> None:
    going_round = [str(key) for key in range(3)] * 10
    assert hit_ratio.ours(going_round, 3) == 27
    assert hit_ratio.ours(going_round, 2) < 27


def test_sieve_keeps_behind_its_hand_what_was_asked_for() -> None:
    assert hit_ratio.sieve(list("abcadefa"), 3) == 2, "least recently used would have let go of a"


async def test_the_memory_tier_reaches_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hit_ratio.DATA.is_dir():
        pytest.skip("no traces in ../shared/data beside the checkout: the bar on hit ratios was not tested")
    monkeypatch.setattr(hit_ratio, "_PEERS", ())
    *rows, mean = await hit_ratio.hit_ratio(FULL)
    assert len(rows) == 6
    assert mean.comparisons[0].met(mean.ours), f"{mean.ours} %, of {[row.ours for row in rows]}"


async def test_without_traces_one_line_says_so_and_the_bar_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hit_ratio, "DATA", tmp_path / "absent")
    (row,) = await hit_ratio.hit_ratio(QUICK)
    assert row.comparisons[0].bar is not None
    assert row.comparisons[0].met(row.ours) is None
    assert capsys.readouterr().err.count("\n") == 1

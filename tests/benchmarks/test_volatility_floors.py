"""Recorded prices are read as published, and candidates for the floor counted as they say."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import volatility
from benchmarks.betfair import Price, pre_match_prices
from benchmarks.volatility import BARE, CANDIDATES, calibrate, count, is_large, judged, steps_between
from smartcache.volatility import NORMAL, PANIC

DOCS = Path(__file__).resolve().parents[2] / "docs"
START = 1_493_557_500.0


def market(number: str, **about: Any) -> dict[str, Any]:
    definition = {"eventId": "7", "inPlay": False, "marketTime": "2017-04-30T13:05:00.000Z", **about}
    return {"id": number, "marketDefinition": definition}


def traded(number: str, odds: float, runner: int = 1, **about: Any) -> dict[str, Any]:
    return {"id": number, "rc": [{"id": runner, "ltp": odds, **about}]}


def write(file: Path, *messages: tuple[float, list[dict[str, Any]]]) -> Path:
    lines = [json.dumps({"op": "mcm", "pt": round((START + at) * 1000), "mc": changes}) for at, changes in messages]
    opener = gzip.open if file.suffix == ".gz" else bz2.open
    with opener(file, "wt") as stream:
        stream.write("\n".join(lines) + "\n")
    return file


@pytest.mark.parametrize("name", ["stream.bz2", "stream.gz"])
def test_a_price_is_named_by_match_market_selection_and_line(tmp_path: Path, name: str) -> None:
    file = write(
        tmp_path / name,
        (-60, [market("1.1"), traded("1.1", 2.02)]),
        (-59.5, [market("1.2"), traded("1.2", 1.9, runner=5, hc=-0.5), {"id": "1.1", "rc": [{"id": 1, "tv": 3.0}]}]),
        (-59, [traded("1.2", 1.8, runner=5, hc=0)]),
    )
    assert list(pre_match_prices(file)) == [
        Price("7:1.1:1:", START - 60, 2.02, 60),
        Price("7:1.2:5:-0.5", START - 59.5, 1.9, 59.5),
        Price("7:1.2:5:", START - 59, 1.8, 59),
    ]


def test_nothing_counts_once_the_match_is_in_play(tmp_path: Path) -> None:
    file = write(
        tmp_path / "stream.bz2",
        (-90, [market("1.1"), market("1.2"), market("1.3", eventId="8"), traded("1.2", 2.0)]),
        (-60, [market("1.1", inPlay=True), traded("1.1", 3.0), traded("1.2", 3.0), traded("1.3", 1.5)]),
        (-30, [market("1.1"), traded("1.1", 4.0)]),
        (0, [traded("1.3", 1.6)]),
        (1, [traded("1.3", 9.0)]),
    )
    assert [price.odds for price in pre_match_prices(file)] == [2.0, 1.5, 1.6]


def test_a_file_that_is_no_stream_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stream\.bz2, line 1: a price of market 1\.1, which was not defined"):
        list(pre_match_prices(write(tmp_path / "stream.bz2", (-60, [traded("1.1", 2.0)]))))
    with bz2.open(tmp_path / "other.bz2", "wt") as stream:
        stream.write('{"op": "ocm"}\n')
    with pytest.raises(ValueError, match=r"other\.bz2, line 1: no market change message"):
        list(pre_match_prices(tmp_path / "other.bz2"))


def test_steps_are_those_of_the_ladder() -> None:
    assert steps_between(2.0, 1.98) == pytest.approx(2)
    assert steps_between(2.02, 2.0) == pytest.approx(1)
    assert steps_between(14.0, 13.25) == pytest.approx(1.5)
    assert steps_between(1000.0, 1.01) == pytest.approx(349)


def series(*odds: float) -> list[Price]:
    return [Price("7:1.1:1:", START - 600 + number, price, 600 - number) for number, price in enumerate(odds)]


def test_updates_are_judged_by_what_came_before_them() -> None:
    updates = judged(series(2.0, 2.02, 1.98, 2.0, 2.5, 2.0), BARE)
    assert [(one.odds, one.before) for one in updates] == [(2.0, 1.98), (2.5, 2.0), (2.0, 2.5)]
    assert [one.mean for one in updates] == pytest.approx([2.0, 2.0, 2.1])
    assert [one.status for one in updates] == [NORMAL, PANIC, NORMAL]
    assert [is_large(one) for one in updates] == [False, True, False]
    assert count(updates) == (3, 1, 0, 1, 1)
    assert not count(updates, [PANIC, NORMAL, NORMAL]).met


def test_a_candidate_ignores_what_does_not_reach_it() -> None:
    prices = series(2.0, 2.0, 2.0, 2.04, 2.0, 2.06)  # two steps and about three off the mean
    found = {(floor.unit, floor.size): calibrate(floor, prices, judged(prices, BARE)).panics for floor in CANDIDATES}
    assert found["price steps", 1] == 2
    assert found["price steps", 2] == 2
    assert found["price steps", 3] == 0
    assert found["implied probability", 0.01] == 1
    assert found["percent of the mean", 3] == 0


def test_without_streams_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(volatility, "STREAM_FOLDER", tmp_path / "absent")
    assert volatility.main(["--plots", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)


def test_the_page_shows_plots_that_are_there() -> None:
    page = (DOCS / "volatility.md").read_text(encoding="utf-8")
    drawn = sorted((DOCS / "volatility").glob("*.svg"))
    assert len(drawn) >= 3
    for plot in drawn:
        assert f"](volatility/{plot.name})" in page
    assert page.count("](volatility/") == len(drawn)

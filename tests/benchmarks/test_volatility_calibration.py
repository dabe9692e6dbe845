"""The default floor keeps its promise on the recorded prices; left out in one line where there are none."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from benchmarks.betfair import STREAM_FOLDER, Price
from benchmarks.volatility import BARE, CANDIDATES, DEFAULT, calibrate, is_large, judged, recorded, tables
from smartcache.volatility import NORMAL, PANIC

if not STREAM_FOLDER.is_dir():
    pytest.skip(
        "no streams in ../shared/data beside the checkout: the floor is not calibrated", allow_module_level=True
    )

PAGE = Path(__file__).resolve().parents[2] / "docs" / "volatility.md"


@pytest.fixture(scope="module")
def streams() -> dict[str, list[Price]]:
    return recorded()


def by_the_definition(prices: list[Price]) -> dict[Price, tuple[bool, bool]]:
    """For each update with 3 samples before it: is z 2 or more, and is it a tenth or more off the mean?

    Nothing is shared with the engine: windows are cut anew for each price, prices are the decimals that were published,
    and fractions of them round nowhere.
    """
    earlier: dict[str, list[tuple[float, Fraction]]] = {}
    found = {}
    for price in prices:
        ticks = earlier.setdefault(price.market_key, [])
        samples = [odds for instant, odds in ticks[-99:] if instant > price.instant - 1800]
        odds = Fraction(str(price.odds))
        ticks.append((price.instant, odds))
        if len(samples) >= 3:
            mean = sum(samples, Fraction()) / len(samples)
            variance = sum(((sample - mean) ** 2 for sample in samples), Fraction()) / (len(samples) - 1)
            move = abs(odds - mean)
            found[price] = (bool(move and move**2 >= 4 * variance), bool(move >= mean / 10))
    return found


def test_the_bare_z_is_the_definition(streams: dict[str, list[Price]]) -> None:
    for prices in streams.values():
        truth = by_the_definition(prices)
        updates = judged(prices, BARE)
        assert [one.price for one in updates] == list(truth)
        assert [(one.status == PANIC, is_large(one)) for one in updates] == [
            (panic, panic and large) for panic, large in truth.values()
        ]


def test_every_large_move_panics_and_at_most_2_percent_of_the_others(streams: dict[str, list[Price]]) -> None:
    large = others = panics = bare = 0
    for prices in streams.values():
        truth = by_the_definition(prices)
        statuses = {one.price: one.status for one in judged(prices, DEFAULT)}
        assert list(statuses) == list(truth)
        for price, (panic, far) in truth.items():
            if panic and far:
                large += 1
                assert statuses[price] == PANIC, price
            else:
                others += 1
                panics += statuses[price] == PANIC
                bare += panic
    assert large >= 20
    assert others >= 1000
    assert panics <= 0.02 * others
    assert bare > 0.02 * others, "the bare definition would do"


def test_a_floor_of_implied_probability_is_the_engines(streams: dict[str, list[Price]]) -> None:
    prices = [price for stream in streams.values() for price in stream]
    bare = judged(prices, BARE)
    for floor in CANDIDATES:
        if floor.unit == "implied probability":
            statuses = [one.status if is_large(one) or floor.reached(one) else NORMAL for one in bare]
            assert calibrate(floor, prices, bare).panics == statuses.count(PANIC)


def test_the_page_has_the_figures_of_the_streams(streams: dict[str, list[Price]]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for table in tables(streams).split("\n\n"):
        assert table in page

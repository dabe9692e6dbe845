"""The volatility floor, calibrated on recorded prices: ``python -m benchmarks.volatility``."""

from __future__ import annotations

import argparse
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.betfair import STREAM_FOLDER, STREAMS, Price, pre_match_prices
from service.odds import LADDER
from smartcache.volatility import LARGE_MOVE, NORMAL, PANIC, WARNING, Volatility, VolatilityLimits

__all__ = [
    "BARE", "CANDIDATES", "DEFAULT", "MOST_OTHERS", "Counts", "Floor", "Update", "calibrate", "count", "is_large",
    "judged", "percent_moved", "probability_moved", "recorded", "steps_between", "tables",
]  # fmt: skip

BARE: Final = VolatilityLimits(floor=0.0)
DEFAULT: Final = VolatilityLimits()
#: Of the updates that are no large moves with z of 2 or more, this share may panic.
MOST_OTHERS: Final = 0.02
PLOTS: Final = Path(__file__).resolve().parents[1] / "docs" / "volatility"


class Update(NamedTuple):
    """A price that had enough samples before it, and what they made of it.

    Attributes:
        price: the price.
        before: decimal odds of the tick before it.
        mean: mean of the samples before it.
        z: how many of their standard deviations it is away from it.
        status: what the engine called it: 0 panic, 1 warning, 2 normal.
    """

    price: Price
    before: float
    mean: float
    z: float
    status: int

    @property
    def odds(self) -> float:
        """Decimal odds."""
        return self.price.odds


class Floor(NamedTuple):
    """A candidate: a move counts when it reaches ``size``, or a tenth of the mean.

    Attributes:
        unit: what moves are measured in.
        size: the least move, in that unit.
        move: size of a move from the second to the first odds.
    """

    unit: str
    size: float
    move: Callable[[float, float], float]

    def reached(self, update: Update) -> bool:
        """Whether a move is as large as that, the tenth of the mean apart."""
        return round(self.move(update.odds, update.mean), 9) >= self.size


class Counts(NamedTuple):
    """Updates counted by what they are and what they were called.

    Attributes:
        updates: all of them.
        panics: called a panic.
        warnings: called a warning.
        large: moves of a tenth of the mean or more with z of 2 or more.
        large_panics: of those, called a panic.
    """

    updates: int
    panics: int
    warnings: int
    large: int
    large_panics: int

    @property
    def others(self) -> int:
        """Updates that are not large."""
        return self.updates - self.large

    @property
    def other_panics(self) -> int:
        """Of the others, called a panic."""
        return self.panics - self.large_panics

    @property
    def other_share(self) -> float:
        """Share of the others that was called a panic."""
        return self.other_panics / self.others if self.others else 0.0

    @property
    def met(self) -> bool:
        """Whether every large move is a panic, and no more of the others than may be."""
        return self.large_panics == self.large and self.other_share <= MOST_OTHERS


def probability_moved(odds: float, mean: float) -> float:
    """Difference of implied probabilities."""
    return abs(1 / odds - 1 / mean)


def steps_between(odds: float, mean: float) -> float:
    """Difference in steps of the exchange's price ladder; fractional, since a mean lies between prices."""
    return abs(_position(odds) - _position(mean))


def percent_moved(odds: float, mean: float) -> float:
    """Difference in percent of the mean."""
    return 100 * abs(odds - mean) / mean


CANDIDATES: Final = (
    *(
        Floor("implied probability", size, probability_moved)
        for size in (0.0, 0.0025, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.04)
    ),
    *(Floor("price steps", size, steps_between) for size in (1, 1.5, 2, 3, 4, 5, 6, 8)),
    *(Floor("percent of the mean", size, percent_moved) for size in (1, 2, 3, 4, 5, 6, 8)),
)
_CHOSEN: Final = Floor("implied probability", DEFAULT.floor, probability_moved)


def recorded() -> dict[str, list[Price]]:
    """The pre-match prices of every recording, by file."""
    return {name: list(pre_match_prices(STREAM_FOLDER / name)) for name in STREAMS}


def judged(prices: Iterable[Price], limits: VolatilityLimits) -> list[Update]:
    """The updates that the engine judges when it takes in ``prices`` in order, each compared with those before it."""
    volatility = Volatility(limits, most_keys=sys.maxsize)
    updates = []
    for price in prices:
        last = volatility.last(price.market_key)
        volatility.tick(price.market_key, price.odds, price.instant)
        status, z, mean, _ = volatility.judge(price.market_key, None, price.instant)
        if last is not None and z is not None and mean is not None:
            updates.append(Update(price, last[1], mean, z, status))
    return updates


def is_large(update: Update) -> bool:
    """Whether it is a tenth of the mean or more away from it, and so are two deviations."""
    return percent_moved(update.odds, update.mean) >= 100 * LARGE_MOVE - 1e-9 and update.z >= 2 - 1e-9


def count(updates: Sequence[Update], statuses: Sequence[int] | None = None) -> Counts:
    """Count ``updates`` by ``statuses``; by their own when None."""
    called = [update.status for update in updates] if statuses is None else statuses
    large = [status for update, status in zip(updates, called, strict=True) if is_large(update)]
    return Counts(len(updates), called.count(PANIC), called.count(WARNING), len(large), large.count(PANIC))


def calibrate(floor: Floor, prices: Iterable[Price], bare: Sequence[Update]) -> Counts:
    """What a candidate makes of ``prices``; ``bare`` is what the bare z makes of them.

    The engine has floors of implied probability, so it judges those itself. The others take from the bare z what does
    not reach them.
    """
    if floor.move is probability_moved:
        return count(judged(prices, VolatilityLimits(floor=floor.size)))
    return count(bare, [one.status if is_large(one) or floor.reached(one) else NORMAL for one in bare])


def tables(streams: dict[str, list[Price]]) -> str:
    """What the bare z and the default floor make of each recording, and the candidates, as tables in Markdown."""
    everything = [price for prices in streams.values() for price in prices]
    return f"{_by_recording({**streams, 'all': everything})}\n\n{_by_floor(streams, everything)}"


def _by_recording(streams: dict[str, list[Price]]) -> str:
    columns: list[Sequence[str]] = [(
        "", "pre-match prices", "updates judged", "bare z: panic", "of them one price step off the price before",
        "bare z: warning", "default floor: panic", "default floor: warning", "moves of 10 % or more with z ≥ 2",
        "of them panic by the default floor", "other updates", "of them panic by the bare z",
        "of them panic by the default floor",
    )]  # fmt: skip
    for name, prices in streams.items():
        bare = judged(prices, BARE)
        plain, floored = count(bare), count(judged(prices, DEFAULT))
        single = sum(one.status == PANIC and round(steps_between(one.odds, one.before), 6) <= 1 for one in bare)
        columns.append((
            name, f"{len(prices):,}", f"{plain.updates:,}", _share(plain.panics, plain.updates), str(single),
            _share(plain.warnings, plain.updates), _share(floored.panics, floored.updates),
            _share(floored.warnings, floored.updates), str(floored.large), str(floored.large_panics),
            f"{floored.others:,}", _share(plain.other_panics, plain.others),
            _share(floored.other_panics, floored.others),
        ))  # fmt: skip
    return _table(list(zip(*columns, strict=True)))


def _by_floor(streams: dict[str, list[Price]], everything: Sequence[Price]) -> str:
    bare = judged(everything, BARE)
    large = [update for update in bare if is_large(update)]
    alone = [(name, judged(prices, BARE)) for name, prices in streams.items()]
    alone = [(name, updates) for name, updates in alone if updates]
    rows = [
        ["floor", "large moves: panic", "without the rule of 10 %", "others: panic"]
        + [f"in {STREAMS[name].partition(',')[0]}" for name, _ in alone]
        + ["warnings", "bar"]
    ]
    for floor in CANDIDATES:
        found = calibrate(floor, everything, bare)
        each = [calibrate(floor, streams[name], updates) for name, updates in alone]
        rows.append([
            _name(floor),
            f"{found.large_panics} of {found.large}",
            f"{sum(map(floor.reached, large))} of {len(large)}",
            *(_share(counts.other_panics, counts.others) for counts in (found, *each)),
            str(found.warnings),
            "missed" if not found.met else "met" if all(counts.met for counts in each) else "met in all, not in each",
        ])  # fmt: skip
    return _table(rows)


def _name(floor: Floor) -> str:
    if not floor.size:
        return "none, the bare z"
    return f"{floor.size:g} {floor.unit}{' (default)' if floor == _CHOSEN else ''}"


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.1%})" if whole else "0"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], ["-" * width for width in widths], *lines[1:]))


def _position(odds: float) -> float:
    above = min(max(1, bisect_left(LADDER, odds)), len(LADDER) - 1)
    low, high = LADDER[above - 1], LADDER[above]
    return above - 1 + (odds - low) / (high - low)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the calibration and draw its plots.

    Returns:
        0 when the default floor meets the bar, or there are no recordings to judge it by; 1 when it misses it.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.volatility", description="The floor, on real prices.")
    parser.add_argument("--plots", metavar="FOLDER", type=Path, default=PLOTS, help="where the plots go")
    asked = parser.parse_args(arguments)
    if not STREAM_FOLDER.is_dir():
        print("volatility: left out, no streams in ../shared/data beside the checkout", file=sys.stderr)
        return 0
    streams = recorded()
    print(tables(streams))
    if find_spec("matplotlib") is None:
        print("no plots: matplotlib is not installed (`make bench` installs it)", file=sys.stderr)
    else:
        from benchmarks.volatility_plots import draw

        draw(streams, asked.plots)
    met = count([update for prices in streams.values() for update in judged(prices, DEFAULT)]).met
    print(f"a floor of {DEFAULT.floor:g} {'meets' if met else 'misses'} the bar", file=sys.stderr)
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())

"""The plots of docs/volatility.md, drawn from the recorded prices; the same prices give the same files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.betfair import STREAMS, Price
from benchmarks.volatility import (
    BARE,
    CANDIDATES,
    DEFAULT,
    MOST_OTHERS,
    Update,
    calibrate,
    count,
    judged,
    percent_moved,
    probability_moved,
)
from service.odds import LADDER
from smartcache.volatility import LARGE_MOVE, PANIC

__all__ = ["draw"]

_STYLE: Final[dict[Any, Any]] = {
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.facecolor": "white",
    "font.size": 9,
    "grid.color": "#e8e8e8",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.facecolor": "white",
    # Text stays text and names of parts depend on nothing, so that files are small and come out alike.
    "svg.fonttype": "none",
    "svg.hashsalt": "smartcache",
}
_ODDS: Final = "#7a8793"
_MEAN: Final = "#2468b2"
_ALARM: Final = "#c62828"
_IGNORED: Final = "#e09020"
#: One for each recording, and one for all.
_LOOKS: Final[tuple[dict[str, Any], ...]] = (
    {"color": _ODDS, "linewidth": 1, "marker": "s", "markersize": 3},
    {"color": _ODDS},
    {"color": _IGNORED, "linewidth": 1, "marker": "^", "markersize": 3.5},
    {"color": _MEAN, "linewidth": 1.4, "marker": "o", "markersize": 3.5},
)

#: Match odds: market key and who is backed. A short price, a long one, and one that truly moved.
_SELECTIONS: Final = (
    ("28202626:1.131162806:47999:", "football: Man City to win at Middlesbrough, 30 April 2017"),
    ("28202626:1.131162806:63907:", "football: Middlesbrough to win"),
    ("31573045:1.200806927:2857977:", "cricket: the outsider of two, 11 July 2022"),
)
_HOURS: Final = 6
_PRICES: Final = (1, 2, 3, 5, 10, 20, 50, 100, 1000)


def draw(streams: dict[str, list[Price]], folder: Path) -> None:
    """Write every plot into ``folder`` as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    prices = [price for stream in streams.values() for price in stream]
    bare = judged(prices, BARE)
    floored = judged(prices, DEFAULT)
    plots: dict[str, Callable[[], Any]] = {
        "selections": lambda: _selections(prices, bare, floored),
        "panics_by_size": lambda: _panics_by_size(bare, floored),
        "share_by_floor": lambda: _share_by_floor(streams),
        "price_steps": _price_steps,
    }
    with matplotlib.rc_context(_STYLE):
        for name, plot in plots.items():
            figure = plot()
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
            pyplot.close(figure)


def _selections(prices: Sequence[Price], bare: Sequence[Update], floored: Sequence[Update]) -> Any:
    figure, axes = pyplot.subplots(3, 1, figsize=(7.2, 7), sharex=True, layout="constrained")
    for axis, (market_key, title) in zip(axes, _SELECTIONS, strict=True):

        def shown(price: Price, market_key: str = market_key) -> bool:
            return price.market_key == market_key and price.ahead <= _HOURS * 3600

        ticks = [price for price in prices if shown(price)]
        means = [update for update in bare if shown(update.price)]
        panics = {update.price for update in floored if update.status == PANIC}
        ignored = [one.price for one in means if one.status == PANIC and one.price not in panics]
        alarms = [one.price for one in means if one.price in panics]
        axis.step(*_track(ticks), where="post", color=_ODDS, linewidth=0.8, label="last traded price")
        axis.plot(
            [-one.price.ahead / 3600 for one in means],
            [one.mean for one in means],
            ".",
            color=_MEAN,
            markersize=2.5,
            label="mean of the 30 minutes before, where judged",
        )
        axis.plot(*_track(ignored), "o", mfc="none", mec=_IGNORED, markersize=7, label="panic by the bare z alone")
        axis.plot(*_track(alarms), "o", color=_ALARM, markersize=6, label="panic by the floor too")
        axis.set(title=title, ylabel="decimal odds")
    axes[-1].set_xlabel("hours to the scheduled start")
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda hours, _: f"{abs(hours):g}"))
    axes[0].legend(loc="upper left")
    return figure


def _track(prices: Sequence[Price]) -> tuple[list[float], list[float]]:
    return [-price.ahead / 3600 for price in prices], [price.odds for price in prices]


def _panics_by_size(bare: Sequence[Update], floored: Sequence[Update]) -> Any:
    figure, axis = pyplot.subplots(figsize=(7.2, 3.8), layout="constrained")
    panics = {update.price for update in floored if update.status == PANIC}
    called = [update for update in bare if update.status == PANIC]
    looks: tuple[tuple[bool, str, dict[str, Any]], ...] = (
        (False, "panic by the bare z alone", {"mfc": "none", "mec": _IGNORED}),
        (True, "panic by the floor too", {"color": _ALARM}),
    )
    for kept, label, look in looks:
        chosen = [one for one in called if (one.price in panics) is kept]
        axis.plot(
            [one.mean for one in chosen],
            [percent_moved(one.odds, one.mean) for one in chosen],
            "o",
            markersize=4,
            label=f"{label} ({len(chosen)})",
            **look,
        )
    odds = [1.01 * 1.01**number for number in range(694)]
    axis.plot(
        odds,
        [100 * min(LARGE_MOVE, DEFAULT.floor * mean / (1 + DEFAULT.floor * mean)) for mean in odds],
        color=_MEAN,
        linewidth=1.2,
        label=f"the floor, for odds that fall: {DEFAULT.floor:g} of probability or {LARGE_MOVE:.0%}",
    )
    axis.plot(*_steps(percent_moved), color=_ODDS, linewidth=0.9, label="one price step")
    axis.set(xlabel="mean of the samples before, decimal odds", ylabel="move, % of the mean", yscale="log")
    axis.yaxis.set_major_locator(FixedLocator((0.5, 1, 2, 5, 10, 20, 50)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda percent, _: f"{percent:g}"))
    _odds_axis(axis)
    axis.legend(loc="upper left")
    axis.set_ylim(0.4, 100)
    return figure


def _share_by_floor(streams: dict[str, list[Price]]) -> Any:
    units = list(dict.fromkeys(floor.unit for floor in CANDIDATES))
    figure, axes = pyplot.subplots(1, len(units), figsize=(7.2, 3), sharey=True, layout="constrained")
    everything = [price for prices in streams.values() for price in prices]
    for (name, prices), look in zip({**streams, "all": everything}.items(), _LOOKS, strict=True):
        bare = judged(prices, BARE)
        if not bare:
            continue
        for axis, unit in zip(axes, units, strict=True):
            floors = [floor for floor in CANDIDATES if floor.unit == unit]
            sizes, shares = [0.0], [count(bare).other_share]
            for floor in filter(attrgetter("size"), floors):
                sizes.append(floor.size)
                shares.append(calibrate(floor, prices, bare).other_share)
            label = f"{STREAMS[name].partition(',')[0] if name in STREAMS else name} ({count(bare).others:,})"
            axis.plot(sizes, [100 * share for share in shares], label=label, **look)
    for axis, unit in zip(axes, units, strict=True):
        axis.axhline(100 * MOST_OTHERS, color=_ALARM, linewidth=1, linestyle="--", label=f"the bar, {MOST_OTHERS:.0%}")
        axis.set_xlabel(f"floor, {unit}")
        axis.set_ylim(bottom=0)
    axes[0].axvline(DEFAULT.floor, color=_MEAN, linewidth=1, linestyle=":")
    axes[0].annotate("default", (DEFAULT.floor, 8), xytext=(-3, 0), textcoords="offset points", color=_MEAN, ha="right")
    axes[0].set_ylabel("other updates called panic, %")
    axes[-1].legend(loc="upper right")
    return figure


def _price_steps() -> Any:
    figure, axes = pyplot.subplots(1, 2, figsize=(7.2, 2.8), layout="constrained")
    axes[0].plot(*_steps(percent_moved), color=_ODDS, linewidth=1)
    axes[0].axhline(100 * LARGE_MOVE, color=_MEAN, linewidth=1, linestyle="--")
    axes[0].annotate(
        "always above the floor", (1.05, 100 * LARGE_MOVE), xytext=(0, -10), textcoords="offset points", color=_MEAN
    )
    axes[0].set(ylabel="one price step, % of the odds", ylim=(0, 12))
    axes[1].plot(*_steps(probability_moved), color=_ODDS, linewidth=1)
    axes[1].axhline(DEFAULT.floor, color=_MEAN, linewidth=1, linestyle="--")
    axes[1].annotate("the floor", (1.05, DEFAULT.floor), xytext=(0, 3), textcoords="offset points", color=_MEAN)
    axes[1].set(ylabel="one price step, implied probability", ylim=(0, 0.048))
    for axis in axes:
        _odds_axis(axis)
        axis.set_xlabel("decimal odds")
    return figure


def _steps(move: Callable[[float, float], float]) -> tuple[Sequence[float], list[float]]:
    """Odds of the ladder, and the size of the step up from each."""
    return LADDER[:-1], [move(high, low) for low, high in pairwise(LADDER)]


def _odds_axis(axis: Any) -> None:
    axis.set_xscale("log")
    axis.set_xlim(1, 1000)
    axis.xaxis.set_major_locator(FixedLocator(_PRICES))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda odds, _: f"{odds:g}"))

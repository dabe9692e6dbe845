"""Odds that steam: ticks that leave a volatility window calm, restless, or in panic, whatever it held before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from smartcache.config import CacheConfig

#: As many as a window holds, so that nothing older than the ladder counts.
_TICKS: Final = CacheConfig().vix_samples
#: The ladder swings by this share of the price, which is then its standard deviation.
_SWING: Final = 0.06
#: Above the floor at any price (a move of a tenth always is) and between the warning's and the panic's deviations.
_WARNING_MOVE: Final = 1.75 * _SWING
_PANIC_MOVE: Final = 6 * _SWING
#: A swing so small that no step of it is above the floor.
_CALM_SWING: Final = 0.005


def ladder(price: float) -> list[float]:
    """Ticks that swing around ``price``: the window knows its mean and its deviation, and nothing is above both."""
    return [*_swing(price, _SWING), price]


def warning(price: float) -> float:
    """The tick that, after :func:`ladder`, is a warning."""
    return price * (1 + _WARNING_MOVE)


def panic(price: float) -> float:
    """The tick that, after :func:`ladder` and :func:`warning`, is a panic."""
    return price * (1 + _PANIC_MOVE)


def calm(price: float) -> list[float]:
    """Ticks after which ``price`` is the new normal."""
    return [*_swing(price, _CALM_SWING), price]


def _swing(price: float, share: float) -> Iterator[float]:
    for number in range(_TICKS):
        yield price * (1 + share if number % 2 else 1 - share)

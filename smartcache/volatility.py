"""Volatility: is the market moving so fast that a held prediction cannot be trusted?

Windows and the governor hold what they were fed and are told the time; nothing here reads a clock.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

__all__ = ["CELLS", "Governor", "Judgement", "Volatility", "VolatilityLimits", "Window"]

# Positions in the catalogue's status label; the worst is the smallest, so a request takes the min over its keys.
PANIC: Final = 0
WARNING: Final = 1
NORMAL: Final = 2
STATUS_NAMES: Final = ("panic", "warning", "normal")

#: A move of this share of the window's mean is above any floor.
LARGE_MOVE: Final = 0.10

_INF: Final = math.inf
#: What a unit of odds is divided into: the spacing of floats from 1 to 2.
_GRAINS: Final = 2**52
#: A move that reaches a bound counts, though floats fall short of decimals: 2.70 is a tenth below 3.00.
_BUT_FOR_ROUNDING: Final = 1 - 1e-9
#: Volatility table: (mode, status) to the cap in seconds on the base lifetime; None is a bypass.
CELLS: Final[dict[tuple[str, int], float | None]] = {
    ("normal", PANIC): None,
    ("normal", WARNING): 60.0,
    ("normal", NORMAL): _INF,
    ("high_volatility", PANIC): 5.0,
    ("high_volatility", WARNING): 10.0,
    ("high_volatility", NORMAL): _INF,
    ("circuit_open", PANIC): 10.0,
    ("circuit_open", WARNING): 30.0,
    ("circuit_open", NORMAL): 60.0,
}


@dataclass(frozen=True, slots=True)
class VolatilityLimits:
    """Settings of the volatility judgement.

    Attributes:
        window: seconds of ticks a window holds.
        most_samples: ticks a window holds at most.
        least_samples: earlier ticks below which nothing is judged and the status is normal.
        panic_z: standard deviations from the mean at which a move is a panic.
        warning_z: standard deviations from the mean at which a move is a warning.
        floor: least move, as a difference of implied probabilities (1/odds), that counts at all; a move of 10 % of
            the mean always does. 0 gives the bare z.
    """

    window: float = 1800.0
    most_samples: int = 100
    least_samples: int = 3
    panic_z: float = 2.0
    warning_z: float = 1.5
    floor: float = 0.04


class Judgement(NamedTuple):
    """What one market key's odds amount to.

    Attributes:
        status: 0 panic, 1 warning, 2 normal.
        z: standard deviations between the current odds and the mean of the samples before; None when not judged,
            infinite when those samples were all alike and the current odds are not.
        mean: mean of the samples before; None when not judged.
        samples: how many samples there were before.
    """

    status: int
    z: float | None
    mean: float | None
    samples: int


#: since, until, low, high: while the window begins in [since, until), epoch seconds, odds from low to high are normal.
#: A plain tuple: taking a named one apart costs three times as much, on the way of every hit.
Calm = tuple[float, float, float, float]

#: Holds at no time: nothing was worked out since the last tick.
_NOT_KNOWN: Final[Calm] = (_INF, -_INF, _INF, -_INF)


class Window:
    """A sliding window of one market key's odds.

    Every float from 1 on is a whole number of 2**-52, and so are all decimal odds. Whole numbers are added up without
    rounding, so running sums serve as they are: nothing drifts, and odds that are all alike have no deviation.

    Ticks alone change what is held. A tick costs O(1) amortised; a late one also as many additions as there are ticks
    after it. A check compares with :attr:`calm`. The first check after a tick, or after a sample ran out, works that
    out: it finds by bisection where the window begins, the rest is a fixed number of operations.

    Attributes:
        newest: instant and odds of the newest tick; None before the first.
        calm: between which odds the status is normal, and how long; remembered until the next tick.
    """

    __slots__ = ("_start", "_ticks", "calm", "newest")

    def __init__(self) -> None:
        self.newest: tuple[float, float] | None = None
        self.calm: Calm = _NOT_KNOWN
        # Instants in order, each with the sums of all odds and of their squares so far: the difference of two is the
        # sum over those between. One tick that has left, or none ever, comes before the first.
        self._ticks: list[tuple[float, int, int]] = [(-_INF, 0, 0)]
        self._start = 1

    def __len__(self) -> int:
        return len(self._ticks) - self._start

    def add(self, instant: float, odds: float, limits: VolatilityLimits) -> None:
        """Take in a tick at its place in time; one too old for the window is left out."""
        grains = int(odds * _GRAINS)
        if self.newest is None or instant >= self.newest[0]:
            _, total, squares = self._ticks[-1]
            self._ticks.append((instant, total + grains, squares + grains * grains))
            self.newest = instant, odds
        else:
            self._insert(instant, grains)
        self._forget(self.newest[0] - limits.window, limits.most_samples)
        self.calm = _NOT_KNOWN

    def judge(self, current: float | None, limits: VolatilityLimits, oldest: float = -_INF) -> Judgement:
        """Compare ``current`` (the last tick when None) with the samples before it and after ``oldest``.

        The last tick is the current observation itself when it carries the current odds, so it is left out then.
        """
        first, end = self._first_after(oldest), len(self._ticks)
        if self.newest is None or first == end:
            return Judgement(NORMAL, None, None, 0)
        if current is None or current == self.newest[1]:
            current = self.newest[1]
            end -= 1
        if end - first < limits.least_samples:
            return Judgement(NORMAL, None, None, end - first)
        mean, deviation = self._moments(first, end)
        move = abs(current - mean)
        z = move / deviation if deviation else _INF if move else 0.0
        for status, least_z in ((PANIC, limits.panic_z), (WARNING, limits.warning_z)):
            low, high = _normal_odds(mean, least_z * deviation, limits.floor)
            if not low <= current <= high:
                return Judgement(status, z, mean, end - first)
        return Judgement(NORMAL, z, mean, end - first)

    def status(self, current: float | None, limits: VolatilityLimits, oldest: float) -> int:
        """The status alone, of the samples after ``oldest``; what was worked out for it is kept in :attr:`calm`."""
        since, until, low, high = self.calm
        if not since <= oldest < until:
            _, _, low, high = self.calm = self._calm_from(oldest, limits)
        if low <= (low if current is None else current) <= high:
            return NORMAL
        return self.judge(current, limits, oldest).status

    def _calm_from(self, oldest: float, limits: VolatilityLimits) -> Calm:
        first, end = self._first_after(oldest), len(self._ticks)
        since = self._ticks[first - 1][0] if first > self._start else -_INF
        if end - first < limits.least_samples:
            return since, _INF, -_INF, _INF
        until = self._ticks[first][0]
        if self.judge(None, limits, oldest).status != NORMAL:
            # Its own odds may look normal beside moments that it is part of, so no odds are taken for normal unjudged.
            return since, until, _INF, -_INF
        mean, deviation = self._moments(first, end)
        return since, until, *_normal_odds(mean, limits.warning_z * deviation, limits.floor)

    def _first_after(self, oldest: float) -> int:
        return bisect_right(self._ticks, (oldest, _INF), self._start)

    def _moments(self, first: int, end: int) -> tuple[float, float]:
        """Mean and sample standard deviation of the ticks from place ``first`` up to ``end``."""
        _, total_before, squares_before = self._ticks[first - 1]
        _, total, squares = self._ticks[end - 1]
        count, total, squares = end - first, total - total_before, squares - squares_before
        spread = count * squares - total * total
        return total / count / _GRAINS, math.sqrt(spread / (count * (count - 1))) / _GRAINS

    def _insert(self, instant: float, grains: int) -> None:
        place = self._first_after(instant)
        _, total, squares = self._ticks[place - 1]
        later = [(when, one + grains, two + grains * grains) for when, one, two in self._ticks[place:]]
        self._ticks[place:] = [(instant, total + grains, squares + grains * grains), *later]

    def _forget(self, oldest: float, most: int) -> None:
        """Leave out ticks at or before ``oldest``, and the first ones of more than ``most``."""
        ticks = self._ticks
        start = max(self._start, len(ticks) - most)
        while ticks[start][0] <= oldest:
            start += 1
        if 4 * start > len(ticks):
            # Only now and then, so that moving up those that stay costs each that leaves a fixed share.
            del ticks[: start - 1]
            start = 1
        self._start = start


def _normal_odds(mean: float, deviations: float, floor: float) -> tuple[float, float]:
    """The lowest and the highest odds that lie within ``deviations`` (in odds) of the mean or below the floor.

    A price step is a different share of short odds and of long ones, but nearly the same difference of implied
    probability, so the floor is one. 1 / (1 / mean + floor) is ``fall`` below the mean.
    """
    share = floor * mean
    fall = share * mean / (1 + share)
    rise = share * mean / (1 - share) if share < 1 else _INF
    large = LARGE_MOVE * mean
    return (
        mean - max(deviations, min(fall, large)) * _BUT_FOR_ROUNDING,
        mean + max(deviations, min(rise, large)) * _BUT_FOR_ROUNDING,
    )


class Volatility:
    """The windows of all market keys, bounded in number; the least recently ticked goes first."""

    def __init__(self, limits: VolatilityLimits, most_keys: int) -> None:
        self.limits: Final = limits
        self._most_keys = most_keys
        self._windows: OrderedDict[str, Window] = OrderedDict()
        self._by_market: dict[str, dict[str, Window]] = {}
        #: Changes whenever a window comes or goes, so that what :meth:`keys_of` said can be kept.
        self.version = 0
        # Ticks come from the bus's thread too; moments read half-way through an update would be wrong.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._windows)

    def renew_lock(self) -> None:
        """Give a forked child a lock of its own.

        A tick that another thread of the parent was taking in is half done for ever, so the windows are dropped then.
        """
        if self._lock.locked():
            self._windows.clear()
            self._by_market.clear()
            self.version += 1
        self._lock = threading.Lock()

    def tick(self, market_key: str, odds: float, instant: float) -> None:
        """Take in a tick at ``instant`` (epoch seconds)."""
        with self._lock:
            self._tick(market_key, odds, instant)

    def _tick(self, market_key: str, odds: float, instant: float) -> None:
        window = self._windows.get(market_key)
        if window is None:
            if len(self._windows) >= self._most_keys:
                self._forget_least_recent()
            self.version += 1
            window = self._windows[market_key] = Window()
            self._by_market.setdefault(_market_of(market_key), {})[market_key] = window
        else:
            self._windows.move_to_end(market_key)
        window.add(instant, odds, self.limits)

    def last(self, market_key: str) -> tuple[float, float] | None:
        """Instant (epoch seconds) and odds of the newest tick of a market key; None when it has no window."""
        window = self._windows.get(market_key)
        return None if window is None else window.newest

    def judge(self, market_key: str, current: float | None, now: float) -> Judgement:
        """Judge one market key at ``now`` (epoch seconds)."""
        window = self._windows.get(market_key)
        if window is None:
            return Judgement(NORMAL, None, None, 0)
        with self._lock:
            return window.judge(current, self.limits, now - self.limits.window)

    def worst(self, prices: Iterable[tuple[str, float | None]], now: float) -> int:
        """The worst status at ``now`` (epoch seconds) over market keys with their current odds (None: last tick)."""
        worst = NORMAL
        oldest = now - self.limits.window
        windows = self._windows
        for market_key, current in prices:
            if (window := windows.get(market_key)) is None:
                continue
            # As nearly always; what is remembered is replaced whole, so that reading it takes no lock.
            since, until, low, high = window.calm
            if since <= oldest < until and low <= (low if current is None else current) <= high:
                continue
            with self._lock:
                worst = min(worst, window.status(current, self.limits, oldest))
        return worst

    def keys_of(self, match_id: str, market: str) -> tuple[str, ...]:
        """Market keys with a window that name this match and market."""
        return tuple(self._by_market.get(f"{match_id}:{market}", ()))

    def _forget_least_recent(self) -> None:
        market_key, _ = self._windows.popitem(last=False)
        siblings = self._by_market[_market_of(market_key)]
        del siblings[market_key]
        if not siblings:
            del self._by_market[_market_of(market_key)]


def _market_of(market_key: str) -> str:
    """``match:market`` of a market key ``match:market:selection:line``."""
    match, _, rest = market_key.partition(":")
    return f"{match}:{rest.partition(':')[0]}"


#: mode: the panic ratio above which it climbs, and to which mode.
_CLIMB: Final = {"normal": (0.50, "high_volatility"), "high_volatility": (0.80, "circuit_open")}
#: mode: the panic ratio below which it falls back, and to which mode.
_FALL: Final = {"circuit_open": (0.60, "high_volatility"), "high_volatility": (0.30, "normal")}


class Governor:
    """Keeps a long panic from becoming an outage of the model.

    Watches the share of panics among judgements over 30 minutes, in one-minute buckets, and moves between modes with
    hysteresis. It judges only on ``least`` judgements or more and otherwise keeps its mode; a window without any
    judgement is calm again.
    """

    def __init__(self, least: int = 200, minutes: int = 30) -> None:
        self.mode = "normal"
        self._least = least
        self._minutes = minutes
        self._minute_ends = -_INF
        self._buckets: deque[list[int]] = deque()  # [minute, judgements, panics], oldest first
        self._bucket = [0, 0, 0]  # the last of them
        self._judged = 0
        self._panics = 0

    @property
    def panic_ratio(self) -> float:
        """Share of panics among the judgements in the window; 0 when there were none."""
        return self._panics / self._judged if self._judged else 0.0

    def record(self, panic: bool, now: float) -> None:
        """Count one judgement at ``now`` (seconds on any clock that moves forward) and reconsider the mode."""
        if now >= self._minute_ends:
            self._roll(int(now // 60))
        self._bucket[1] += 1
        self._judged += 1
        if panic:
            self._bucket[2] += 1
            self._panics += 1
        if panic or self.mode != "normal":
            self._reconsider()

    def mode_at(self, now: float) -> str:
        """The mode at ``now``, old judgements forgotten."""
        if now >= self._minute_ends:
            self._roll(int(now // 60))
        return self.mode

    def _roll(self, minute: int) -> None:
        """Open the bucket of a new minute and forget those that are too old."""
        self._minute_ends = 60.0 * (minute + 1)
        while self._buckets and self._buckets[0][0] <= minute - self._minutes:
            _, judged, panics = self._buckets.popleft()
            self._judged -= judged
            self._panics -= panics
        if self._judged == 0:
            self.mode = "normal"
        self._bucket = [minute, 0, 0]
        self._buckets.append(self._bucket)
        self._reconsider()

    def _reconsider(self) -> None:
        if self._judged < self._least:
            return
        ratio = self._panics / self._judged
        above, up = _CLIMB.get(self.mode, (_INF, self.mode))
        below, down = _FALL.get(self.mode, (-_INF, self.mode))
        if ratio > above:
            self.mode = up
        elif ratio < below:
            self.mode = down

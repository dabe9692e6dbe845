"""Volatility: is the market moving so fast that a held prediction cannot be trusted?

Windows and the governor hold what they were fed and are told the time; nothing here reads a clock.
"""

from __future__ import annotations

import math
import threading
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
            infinite when those samples were all alike and the move is above the floor.
        mean: mean of the samples before; None when not judged.
        samples: how many samples there were before.
    """

    status: int
    z: float | None
    mean: float | None
    samples: int


class Window:
    """A sliding window of one market key's odds with running moments: a tick costs O(1) amortised, a read O(1)."""

    __slots__ = ("_mean", "_since_rebuild", "_squares", "_ticks")

    def __init__(self) -> None:
        self._ticks: deque[tuple[float, float]] = deque()
        self._mean = 0.0
        self._squares = 0.0  # sum of squared deviations from the mean (Welford)
        self._since_rebuild = 0

    def __len__(self) -> int:
        return len(self._ticks)

    @property
    def newest(self) -> tuple[float, float] | None:
        """Instant and odds of the newest tick; None when there is none."""
        return self._ticks[-1] if self._ticks else None

    def add(self, instant: float, odds: float, limits: VolatilityLimits) -> None:
        """Take in a tick at its place in time; one too old for the window is left out."""
        ticks = self._ticks
        if ticks and instant <= ticks[-1][0] - limits.window:
            return
        if len(ticks) >= limits.most_samples:
            if instant < ticks[0][0]:
                return
            self._drop_oldest()
        place = len(ticks)
        while place and instant < ticks[place - 1][0]:
            place -= 1
        ticks.insert(place, (instant, odds))
        step = odds - self._mean
        self._mean += step / len(ticks)
        self._squares += step * (odds - self._mean)
        self.forget_before(ticks[-1][0] - limits.window)
        self._since_rebuild += 1
        if self._since_rebuild >= limits.most_samples:
            self._rebuild()

    def forget_before(self, instant: float) -> None:
        """Drop the ticks at or before ``instant``."""
        while self._ticks and self._ticks[0][0] <= instant:
            self._drop_oldest()

    def judge(self, current: float | None, limits: VolatilityLimits) -> Judgement:
        """Compare ``current`` (the last tick when None) with the samples before it.

        The last tick is the current observation itself when it carries the current odds, so it is left out then.
        """
        if not self._ticks:
            return Judgement(NORMAL, None, None, 0)
        last = self._ticks[-1][1]
        count, mean, squares = len(self._ticks), self._mean, self._squares
        if current is None:
            current = last
        if current == last:
            count, mean, squares = _without(last, count, mean, squares)
        if count < limits.least_samples:
            return Judgement(NORMAL, None, None, count)
        variance = squares / (count - 1)
        # What rounding leaves of a window of equal odds is no deviation.
        deviation = math.sqrt(variance) if variance > (1e-9 * mean) ** 2 else 0.0
        move = abs(current - mean)
        if not above_floor(current, mean, limits.floor):
            return Judgement(NORMAL, move / deviation if deviation else 0.0, mean, count)
        z = move / deviation if deviation else _INF
        status = PANIC if z >= limits.panic_z else WARNING if z >= limits.warning_z else NORMAL
        return Judgement(status, z, mean, count)

    def status(self, current: float | None, limits: VolatilityLimits, oldest: float) -> int:
        """The status alone, of the ticks after ``oldest``: most moves are below the floor, and need no deviation."""
        ticks = self._ticks
        if not ticks:
            return NORMAL
        if ticks[0][0] <= oldest:
            self.forget_before(oldest)
            return self.judge(current, limits).status
        count, mean, last = len(ticks), self._mean, ticks[-1][1]
        if current is None or current == last:
            current = last
            count -= 1
            if count < limits.least_samples:
                return NORMAL
            mean -= (last - mean) / count
        elif count < limits.least_samples:
            return NORMAL
        return self.judge(current, limits).status if above_floor(current, mean, limits.floor) else NORMAL

    def _drop_oldest(self) -> None:
        _, odds = self._ticks.popleft()
        _, self._mean, self._squares = _without(odds, len(self._ticks) + 1, self._mean, self._squares)

    def _rebuild(self) -> None:
        # Taking samples out of running moments gathers rounding errors; starting over once a window is O(1) a tick.
        values = [odds for _, odds in self._ticks]
        self._mean = math.fsum(values) / len(values)
        self._squares = math.fsum((value - self._mean) ** 2 for value in values)
        self._since_rebuild = 0


def _without(sample: float, count: int, mean: float, squares: float) -> tuple[int, float, float]:
    """Moments with ``sample`` taken out: Welford's update run backwards."""
    if count <= 1:
        return 0, 0.0, 0.0
    rest = mean - (sample - mean) / (count - 1)
    return count - 1, rest, max(0.0, squares - (sample - mean) * (sample - rest))


def above_floor(current: float, mean: float, floor: float) -> bool:
    """Whether the move from ``mean`` to ``current`` (decimal odds) is large enough to count.

    A single price step is 4 % of long odds and 0.8 % of short ones, so the floor is a difference of implied
    probabilities, which the exchange's ladder spaces more evenly.
    """
    if floor <= 0:
        return current != mean
    return abs(1 / current - 1 / mean) >= floor or abs(current - mean) >= LARGE_MOVE * mean


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
        """Give a forked child a lock of its own: a thread of the parent may have held this one."""
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
            window.forget_before(now - self.limits.window)
            return window.judge(current, self.limits)

    def worst(self, prices: Iterable[tuple[str, float | None]], now: float) -> int:
        """The worst status at ``now`` (epoch seconds) over market keys with their current odds (None: last tick)."""
        worst = NORMAL
        oldest = now - self.limits.window
        with self._lock:
            for market_key, current in prices:
                window = self._windows.get(market_key)
                if window is not None and (status := window.status(current, self.limits, oldest)) < worst:
                    worst = status
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
        self._minute = 0
        self._buckets: deque[list[int]] = deque()  # [minute, judgements, panics], oldest first
        self._judged = 0
        self._panics = 0

    @property
    def panic_ratio(self) -> float:
        """Share of panics among the judgements in the window; 0 when there were none."""
        return self._panics / self._judged if self._judged else 0.0

    def record(self, panic: bool, now: float) -> None:
        """Count one judgement at ``now`` (seconds on any clock that moves forward) and reconsider the mode."""
        minute = int(now // 60)
        if minute != self._minute:
            self._roll(minute)
        bucket = self._buckets[-1] if self._buckets else self._open(minute)
        bucket[1] += 1
        self._judged += 1
        if panic:
            bucket[2] += 1
            self._panics += 1
        if panic or self.mode != "normal":
            self._reconsider()

    def mode_at(self, now: float) -> str:
        """The mode at ``now``, old judgements forgotten."""
        minute = int(now // 60)
        if minute != self._minute:
            self._roll(minute)
        return self.mode

    def _open(self, minute: int) -> list[int]:
        bucket = [minute, 0, 0]
        self._buckets.append(bucket)
        return bucket

    def _roll(self, minute: int) -> None:
        self._minute = minute
        while self._buckets and self._buckets[0][0] <= minute - self._minutes:
            _, judged, panics = self._buckets.popleft()
            self._judged -= judged
            self._panics -= panics
        if self._judged == 0:
            self.mode = "normal"
        self._open(minute)
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

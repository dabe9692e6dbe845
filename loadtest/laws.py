"""The laws that the counters keep at rest: "the numbers add up".

A law holds for a reading of everything since the start and for the difference of two readings at rest alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from loadtest.prometheus import Reading
from smartcache.catalogue import ZONES
from smartcache.tags import MARKETS

_PREMATCH_ZONES: Final = tuple(zone for zone in ZONES if zone not in ("match_started", "none"))


@dataclass(frozen=True, slots=True)
class Law:
    """One relation between sums of counters.

    Attributes:
        left: what the left side is called.
        sense: ``=`` or ``<=``.
        right: what the right side is called.
        sides: both values in a reading.
    """

    left: str
    sense: str
    right: str
    sides: Callable[[Reading], tuple[float, float]]

    def violation(self, reading: Reading) -> str | None:
        """The broken law with both values; None when it holds."""
        left, right = self.sides(reading)
        if left == right or (self.sense == "<=" and left < right):
            return None
        return f"{self.left} {self.sense} {self.right}: {left:g} against {right:g}"


def _requests(reading: Reading, *strategies: str) -> float:
    if not strategies:
        return reading.total("smartcache_requests_total")
    return reading.total("smartcache_requests_total", strategy=strategies)


def _lookups(reading: Reading, *results: str) -> float:
    return reading.total("smartcache_lookups_total", result=results)


def _swr(reading: Reading, result: str) -> float:
    return reading.total("smartcache_swr_evaluations_total", result=result)


def _vix(reading: Reading, *statuses: str) -> float:
    return reading.total("smartcache_vix_evaluations_total", status=statuses)


def _bypasses(reading: Reading) -> float:
    return reading.total("smartcache_vix_bypasses_total")


_ALL_STRATEGIES: Final = ("bypass", "compute", "serve_stale", "serve_fresh")
_ALL_LOOKUPS: Final = ("hit_fresh", "hit_stale", "miss")

LAWS: Final = (
    Law("requests by strategy", "=", "total_requests", lambda r: (_requests(r, *_ALL_STRATEGIES), _requests(r))),
    Law(
        "lookups", "=", "total_requests - strategy_bypass",
        lambda r: (_lookups(r, *_ALL_LOOKUPS), _requests(r) - _requests(r, "bypass")),
    ),
    Law("serve_fresh", "=", "hit_fresh", lambda r: (_requests(r, "serve_fresh"), _lookups(r, "hit_fresh"))),
    Law("hit_fresh", "=", "swr_served_fresh", lambda r: (_lookups(r, "hit_fresh"), _swr(r, "served_fresh"))),
    Law("serve_stale", "=", "hit_stale", lambda r: (_requests(r, "serve_stale"), _lookups(r, "hit_stale"))),
    Law("hit_stale", "=", "swr_served_stale", lambda r: (_lookups(r, "hit_stale"), _swr(r, "served_stale"))),
    Law("compute", "=", "miss", lambda r: (_requests(r, "compute"), _lookups(r, "miss"))),
    Law("too_stale", "<=", "miss", lambda r: (_swr(r, "too_stale"), _lookups(r, "miss"))),
    Law(
        "panic + warning + normal", "<=", "total_requests",
        lambda r: (_vix(r, "panic", "warning", "normal"), _requests(r)),
    ),
    Law("cache_bypass_vix", "<=", "panic", lambda r: (_bypasses(r), _vix(r, "panic"))),
    Law("cache_bypass_vix", "<=", "strategy_bypass", lambda r: (_bypasses(r), _requests(r, "bypass"))),
    Law(
        "the five zones", "<=", "total_requests",
        lambda r: (r.total("smartcache_requests_total", zone=_PREMATCH_ZONES), _requests(r)),
    ),
    Law(
        "affected + preserved", "=", f"surgical_invalidation x {len(MARKETS)}",
        lambda r: (
            r.total("smartcache_invalidation_markets_total", outcome=("affected", "preserved")),
            r.total("smartcache_invalidations_total", kind="surgical") * len(MARKETS),
        ),
    ),
)  # fmt: skip

#: Holds only while every request's latency is sampled.
SAMPLING_LAW: Final = Law(
    "the latency histogram's count", "=", "total_requests",
    lambda r: (r.total("smartcache_request_duration_seconds_count"), _requests(r)),
)  # fmt: skip


def violations(reading: Reading) -> list[str]:
    """The laws of the counters that a reading at rest breaks, each with its two values; empty when they add up.

    The histogram's law is asked only of a reading whose ``smartcache_latency_sampling_ratio`` says 1.
    """
    sampled = all(sample.value == 1 for sample in reading.series("smartcache_latency_sampling_ratio"))
    laws = (*LAWS, SAMPLING_LAW) if sampled else LAWS
    return [broken for law in laws if (broken := law.violation(reading))]


def count_violation(clients: float, seen: float, uncertain: float = 0) -> str | None:
    """Whether Prometheus saw what clients counted; None when it did.

    Args:
        clients: requests that got an answer.
        seen: what Prometheus counted of them.
        uncertain: requests that got none, or were in flight around a kill: each may have been counted or not.
    """
    if clients <= seen <= clients + uncertain:
        return None
    allowed = f"{clients:g}" if not uncertain else f"{clients:g} to {clients + uncertain:g}"
    return f"what clients counted = what Prometheus sees: {allowed} against {seen:g}"

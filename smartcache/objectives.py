"""The objectives: one place that rules, dashboards, documents and the load gate all read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["AVAILABILITY", "COMPUTE_P95", "HIT_RATIO", "LATENCY_MEAN", "LATENCY_P99", "OBJECTIVES", "PROMISE",
           "VIX_PANIC", "Objective"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Objective:
    """A bound that the running system is held to.

    Attributes:
        name: stable identifier, in snake case.
        title: what a dashboard calls it.
        sense: ``at_most`` or ``at_least``.
        threshold: the bound, in ``unit``.
        unit: ``ratio`` (0 to 1), ``seconds`` or ``count``.
        window: how long the value is averaged over, as a Prometheus duration.
        why: what it protects, in one sentence.
    """

    name: str
    title: str
    sense: Literal["at_most", "at_least"]
    threshold: float
    unit: Literal["ratio", "seconds", "count"]
    window: str
    why: str

    def met(self, value: float) -> bool:
        """Whether ``value``, in the objective's unit, keeps the bound; the bound itself still does."""
        return value <= self.threshold if self.sense == "at_most" else value >= self.threshold

    def describe(self) -> str:
        """The bound in words, such as ``at most 100 ms``."""
        amount = {
            "ratio": f"{self.threshold * 100:g} %",
            "seconds": f"{self.threshold:g} s" if self.threshold >= 1 else f"{self.threshold * 1000:g} ms",
            "count": f"{self.threshold:g}",
        }[self.unit]
        return f"{self.sense.replace('_', ' ')} {amount}"


VIX_PANIC: Final = Objective(
    "vix_panic_ratio", "VIX panic ratio", "at_most", 0.05, "ratio", "5m",
    "Above it the cache is bypassed so often that the model carries the traffic.",
)  # fmt: skip
LATENCY_P99: Final = Objective(
    "latency_p99_cached", "Latency p99, served from cache", "at_most", 0.100, "seconds", "5m",
    "A request that found a value never waits for the model.",
)  # fmt: skip
LATENCY_MEAN: Final = Objective(
    "latency_mean", "Mean latency, all requests", "at_most", 0.100, "seconds", "5m",
    "The mean holds the waits for the model too.",
)  # fmt: skip
HIT_RATIO: Final = Objective(
    "hit_ratio", "Hit ratio", "at_least", 0.80, "ratio", "5m",
    "Below it the model computes more than it was sized for.",
)  # fmt: skip
AVAILABILITY: Final = Objective(
    "availability", "Availability of the service", "at_least", 0.999, "ratio", "30d",
    "Answers without a server error, over all answers.",
)  # fmt: skip
COMPUTE_P95: Final = Objective(
    "compute_p95", "Compute p95", "at_most", 1.0, "seconds", "5m",
    "A slower model makes every miss and every refresh late.",
)  # fmt: skip
PROMISE: Final = Objective(
    "served_beyond_promise", "Served beyond its promise", "at_most", 0, "count", "5m",
    "No answer may be older than the limit it was judged by.",
)  # fmt: skip

OBJECTIVES: Final = (VIX_PANIC, LATENCY_P99, LATENCY_MEAN, HIT_RATIO, AVAILABILITY, COMPUTE_P95, PROMISE)

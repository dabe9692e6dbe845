"""Bounds that are not objectives: when a mechanism counts as ill, and how much traffic a ratio needs.

The objectives themselves stand in ``smartcache.objectives``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from alerts.rule import Severity

__all__ = [
    "BURN_RATES",
    "BUS_LAG_SECONDS",
    "COMPUTE_ERROR_RATIO",
    "MINIMUM_ANSWERS",
    "MINIMUM_COMPUTES",
    "MINIMUM_REQUESTS",
    "SCRAPE_SECONDS",
    "STORE_ERRORS_PER_SECOND",
    "STORE_MEMORY_RATIO",
    "WORKER_RESTARTS",
    "BurnRate",
]  # fmt: skip

#: How often Prometheus scrapes and evaluates.
SCRAPE_SECONDS: Final = 5

#: Engine requests a second below which a ratio or quantile of them says nothing: 300 in a window of 5 minutes.
MINIMUM_REQUESTS: Final = 1.0
#: The same for computes. A cache that works makes few; a 95th percentile needs some tens: 30 in 5 minutes.
MINIMUM_COMPUTES: Final = 0.1
#: The same for HTTP answers. Low, since an outage keeps clients away; one error alone still burns too little.
MINIMUM_ANSWERS: Final = 0.1

#: A process that hears nothing on the bus for this long stops trusting its memory.
BUS_LAG_SECONDS: Final = 2.0
#: Share of computes that may fail before the values held are all that stands between a failure and the clients.
COMPUTE_ERROR_RATIO: Final = 0.05
#: Failed store operations a second: 30 in 5 minutes is no longer a hiccup.
STORE_ERRORS_PER_SECOND: Final = 0.1
#: Share of the store's memory limit. Beyond the limit it evicts entries and version counters, or refuses writes.
STORE_MEMORY_RATIO: Final = 0.9
#: Times within 10 minutes that a worker may be replaced: a release, its withdrawal, and one mishap.
WORKER_RESTARTS: Final = 3


@dataclass(frozen=True, slots=True)
class BurnRate:
    """How fast the month's error budget may burn, over a long window that a short one confirms.

    Attributes:
        factor: multiple of the pace that spends exactly the whole budget in its period.
        long: window that shows the burn is large enough to matter.
        short: window that shows it is still going on.
        severity: who is told: ``critical`` pages, ``warning`` opens a ticket.
        pending: how long both must hold.
    """

    factor: float
    long: str
    short: str
    severity: Severity
    pending: str


BURN_RATES: Final = (
    BurnRate(14.4, "1h", "5m", "critical", "2m"),
    BurnRate(6, "6h", "30m", "critical", "15m"),
    BurnRate(3, "1d", "2h", "warning", "1h"),
    BurnRate(1, "3d", "6h", "warning", "3h"),
)

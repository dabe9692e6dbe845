"""What a request answers: the value, and why it is that value."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, overload

from smartcache.freshness import Lifetime
from smartcache.layout import OUTCOMES
from smartcache.volatility import STATUS_NAMES

__all__ = ["CacheResult", "CacheStrategy", "ResultMetadata"]

V = TypeVar("V")

_REASON: Final = {
    "bypass_panic": "odds in panic, computed afresh",
    "bypass_forced": "refresh asked for, computed afresh",
    "bypass_started": "match started, computed afresh",
    **dict.fromkeys(("fresh_memory", "fresh_store"), "held and fresh"),
    **dict.fromkeys(("stale_memory", "stale_store"), "held, past its expiry, refreshed behind"),
    **dict.fromkeys(("error_memory", "error_store"), "held, served because its compute failed or was late"),
    "absent": "not held, computed",
    "too_stale": "held but too old, computed",
}


class CacheStrategy(StrEnum):
    """What the engine did with a request."""

    BYPASS = "bypass"
    COMPUTE = "compute"
    SERVE_STALE = "serve_stale"
    SERVE_FRESH = "serve_fresh"


_STRATEGY_OF: Final = tuple(CacheStrategy(outcome.strategy) for outcome in OUTCOMES)


class ResultMetadata:
    """Why a value was served.

    Attributes:
        strategy: what the engine did: bypass, compute, serve_stale or serve_fresh.
        source: ``cache`` or ``compute``.
        tier: the tier that held the value: memory, store or none.
        ttl: the limit in seconds that the request was judged by; 0 where nothing may be held.
        zone: golden-hour zone; None without a kickoff.
        age: age of the value in seconds when it was served.
        vix_status: panic, warning or normal.
        swr_served: whether a value past its expiry was served.
        coalesced: whether the request shared a compute it had not started.
        expires_in: seconds until expiry; 0 or less for a value that is no longer fresh.
        stale_for: seconds from now until the value may not be served at all.
        outcome: how the request ended, by the names of ``layout.OUTCOMES``, such as ``too_stale``.
        reasoning: the decision in words.
    """

    __slots__ = (
        "age",
        "coalesced",
        "expires_in",
        "outcome",
        "reason",
        "stale_for",
        "strategy",
        "tier",
        "ttl",
        "vix_status",
        "zone",
    )

    def __init__(
        self,
        strategy: CacheStrategy,
        tier: str,
        ttl: float,
        zone: str | None,
        age: float,
        vix_status: str,
        expires_in: float,
        stale_for: float,
        outcome: str,
        reason: str,
        coalesced: bool = False,
    ) -> None:
        self.strategy = strategy
        self.tier = tier
        self.ttl = ttl
        self.zone = zone
        self.age = age
        self.vix_status = vix_status
        self.expires_in = expires_in
        self.stale_for = stale_for
        self.outcome = outcome
        self.reason = reason
        self.coalesced = coalesced

    @property
    def source(self) -> str:
        """Where the value came from: ``cache`` or ``compute``."""
        return "compute" if self.tier == "none" else "cache"

    @property
    def swr_served(self) -> bool:
        """Whether a value past its expiry was served."""
        return self.strategy is CacheStrategy.SERVE_STALE

    @property
    def freshness_score(self) -> float:
        """1 for a new value, 0 for one at or past its limit."""
        return max(0.0, min(1.0, 1 - self.age / self.ttl)) if self.ttl > 0 else 0.0

    @property
    def reasoning(self) -> str:
        """The decision in words."""
        parts = [self.reason, f"age {self.age:.3g} s of {self.ttl:g} s" if self.ttl else "never held"]
        if self.zone:
            parts.append(f"zone {self.zone}")
        if self.vix_status != "normal":
            parts.append(f"odds in {self.vix_status}")
        if self.coalesced:
            parts.append("shared another request's compute")
        return ", ".join(parts)

    def __getitem__(self, name: str) -> Any:
        if name in _METADATA:
            return getattr(self, name)
        raise KeyError(f"metadata has no {name!r}; it has {', '.join(_METADATA)}")

    def keys(self) -> tuple[str, ...]:
        """The names that can be asked for; with these, ``dict(metadata)`` works."""
        return _METADATA

    def __repr__(self) -> str:
        return f"ResultMetadata({dict(self)!r})"


_METADATA = (
    "strategy", "source", "ttl", "zone", "age", "tier", "vix_status", "freshness_score", "reasoning", "swr_served",
    "coalesced", "expires_in", "stale_for", "outcome",
)  # fmt: skip


#: What metadata is made of: outcome, tier, lifetime, zone, age, volatility status, coalesced.
Facts = tuple[int, str, Lifetime, str | None, float, int, bool]


class CacheResult(Generic[V]):
    """A value with its metadata, as attributes and by name (``result["value"]``)."""

    __slots__ = ("_facts", "_metadata", "value")

    def __init__(self, value: V, facts: Facts) -> None:
        self.value = value
        self._facts = facts
        self._metadata: ResultMetadata | None = None

    @property
    def metadata(self) -> ResultMetadata:
        """Why the value was served; put together when first asked for."""
        if self._metadata is None:
            outcome, tier, life, zone, age, status, coalesced = self._facts
            self._metadata = ResultMetadata(
                strategy=_STRATEGY_OF[outcome],
                tier=tier,
                ttl=max(0.0, life.expiry),
                zone=zone,
                age=age,
                vix_status=STATUS_NAMES[status],
                expires_in=life.expiry - age,
                stale_for=max(0.0, life.stale_until - age),
                outcome=OUTCOMES[outcome].name,
                reason=_REASON[OUTCOMES[outcome].name],
                coalesced=coalesced,
            )
        return self._metadata

    if TYPE_CHECKING:
        # The metadata's attributes, which the result has too.
        strategy: CacheStrategy
        source: str
        ttl: float
        zone: str | None
        age: float
        tier: str
        vix_status: str
        freshness_score: float
        reasoning: str
        swr_served: bool
        coalesced: bool
        expires_in: float
        stale_for: float
        outcome: str
    else:

        def __getattr__(self, name: str) -> Any:
            if name in _METADATA:
                return getattr(self.metadata, name)
            raise AttributeError(f"a result has no {name!r}")

    @overload
    def __getitem__(self, name: Literal["value"]) -> V: ...
    @overload
    def __getitem__(self, name: Literal["metadata"]) -> ResultMetadata: ...
    @overload
    def __getitem__(self, name: str) -> Any: ...
    def __getitem__(self, name: str) -> Any:
        """The value or the metadata, by name."""
        if name in ("value", "metadata"):
            return getattr(self, name)
        raise KeyError(f"a result has 'value' and 'metadata', not {name!r}")

    def keys(self) -> tuple[str, str]:
        """The names that can be asked for; with these, ``dict(result)`` works."""
        return ("value", "metadata")

    def __repr__(self) -> str:
        return f"CacheResult(value={self.value!r}, metadata={self.metadata!r})"

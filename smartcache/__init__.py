"""An async cache for predictions that age faster as kickoff nears.

Importing opens no connection and reads no setting; the default instances set themselves up on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smartcache.catalogue import CATEGORIES, STATISTICS
from smartcache.compute import ComputeContext, compute_context
from smartcache.config import CacheConfig
from smartcache.engine import ChangeCount, MatchContext, SmartCache, SmartCacheEnhanced
from smartcache.errors import (
    ComputeCancelledError,
    ComputeTimeoutError,
    ConfigError,
    ReentrantComputeError,
    SmartCacheError,
    UncacheableValueError,
)
from smartcache.keys import KeyFactory, key_factory
from smartcache.metrics import CacheMetrics
from smartcache.request import Limits
from smartcache.result import CacheResult, CacheStrategy, ResultMetadata
from smartcache.tags import EventType, TagManager
from smartcache.warming import Wanted, Warmed

__all__ = [
    "CATEGORIES",
    "STATISTICS",
    "CacheConfig",
    "CacheMetrics",
    "CacheResult",
    "CacheStrategy",
    "ChangeCount",
    "ComputeCancelledError",
    "ComputeContext",
    "ComputeTimeoutError",
    "ConfigError",
    "EventType",
    "KeyFactory",
    "Limits",
    "MatchContext",
    "ReentrantComputeError",
    "ResultMetadata",
    "SmartCache",
    "SmartCacheEnhanced",
    "SmartCacheError",
    "TagManager",
    "UncacheableValueError",
    "Wanted",
    "Warmed",
    "cache_config",
    "cache_metrics",
    "compute_context",
    "key_factory",
    "smart_cache",
    "smart_cache_enhanced",
]


def _domains() -> dict[str, tuple[str, ...]]:
    return {"competition": CacheConfig.from_env().competitions}


#: The default recorder; its file goes to ``SMARTCACHE_METRICS_DIR``.
cache_metrics = CacheMetrics("", _domains)
#: The default engine, set up from the environment on first use.
smart_cache_enhanced = SmartCacheEnhanced(metrics=cache_metrics)
#: The same instance under the name of its base.
smart_cache: SmartCache = smart_cache_enhanced

if TYPE_CHECKING:
    cache_config: CacheConfig


if not TYPE_CHECKING:  # a type checker shall see misspelt names

    def __getattr__(name: str) -> Any:
        if name == "cache_config":
            return smart_cache_enhanced.config
        raise AttributeError(f"module 'smartcache' has no attribute {name!r}")

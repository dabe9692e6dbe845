"""Whether a part could run with its settings, asked before the one that runs is stopped for it."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.otlp import TraceSettings
from service.settings import read_settings
from smartcache import CacheConfig, CacheMetrics, SmartCacheEnhanced

__all__ = ["prove_service"]


def prove_service(environment: Mapping[str, str]) -> None:
    """ValueError when the service would refuse ``environment``; nothing is connected to, nothing listens."""
    read_settings(environment)
    TraceSettings.from_env(environment)
    SmartCacheEnhanced(config=CacheConfig.from_env(environment), metrics=CacheMetrics())

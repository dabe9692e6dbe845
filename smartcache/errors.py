"""The errors that callers meet. Each names the value that was wrong and what would be right."""

from __future__ import annotations

__all__ = [
    "ComputeCancelledError",
    "ComputeTimeoutError",
    "ConfigError",
    "ReentrantComputeError",
    "SmartCacheError",
    "UncacheableValueError",
]


class SmartCacheError(Exception):
    """Base of the errors that are this package's own."""


class ComputeCancelledError(SmartCacheError):
    """A compute was cancelled from within, or its event loop ended."""


class ConfigError(SmartCacheError, ValueError):
    """A setting has a value that cannot be used."""


class UncacheableValueError(SmartCacheError, TypeError):
    """A computed value that JSON cannot carry unchanged."""


class ComputeTimeoutError(SmartCacheError, TimeoutError):
    """A compute took longer than its hard time-out and there was nothing else to serve."""


class ReentrantComputeError(SmartCacheError, RuntimeError):
    """A compute asked the cache for the key it is computing, which could never end."""

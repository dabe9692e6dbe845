"""Settings, validated where they come in: the environment, a file, or arguments."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from smartcache.catalogue import CATEGORIES
from smartcache.errors import ConfigError
from smartcache.redaction import redact, redact_url, shown

__all__ = ["CacheConfig"]

PREFIX: Final = "SMARTCACHE_"


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an engine behaves. Every setting ``name`` is ``SMARTCACHE_NAME`` in the environment.

    Attributes:
        redis_url: where Valkey or Redis is, such as ``redis://127.0.0.1:6379/0``; None runs on memory alone. A
            cluster's may name several of its servers: ``redis://one:6379,two:6379``.
        redis_cluster: whether it is a cluster.
        metrics_dir: folder of the metrics files that the exporter reads; None keeps the numbers in the process.
        competitions: the competitions that metrics tell apart; others count as ``other``.
        reset_hourly: categories of ``get_stats()`` that begin anew every full hour.
        reset_daily: categories that begin anew at 00:00 UTC.
        tag_table: file that replaces the tables of events and markets; see :meth:`TagManager.from_file`.
        default_ttl: seconds an entry without a kickoff lives.
        jitter: share in [0, 1) by which a lifetime is shortened at random.
        xfetch_beta: how eagerly values are refreshed before expiry; 0 never.
        refreshes_at_once: background refreshes running at one time, at most.
        refresh_timeout: seconds after which a background refresh is given up.
        soft_timeout: seconds after which a held value is served instead of waiting; None waits.
        hard_timeout: seconds after which a compute is given up.
        stale_if_error_for: age in seconds up to which a held value may be served when a compute fails.
        stale_if_store_down_for: the same while the store does not answer.
        error_backoff: seconds after a failed compute during which a held value is served without a new attempt.
        memory_entries: entries held in memory at most; 0 turns the memory tier off.
        memory_bytes: encoded bytes held in memory at most.
        lease_seconds: how long a compute's lease lasts without renewal.
        store_connect_timeout: seconds to wait for a connection to the store.
        store_timeout: seconds to wait for an operation of the store.
        breaker_failures: failures in a row that open the store's circuit breaker.
        breaker_seconds: seconds it stays open before a probe.
        bus_silence: seconds without a word on the bus after which memory is not trusted.
        vix_window: seconds of odds a volatility window holds.
        vix_samples: ticks it holds at most.
        vix_least_samples: earlier ticks without which nothing is judged.
        vix_panic_z: standard deviations that are a panic.
        vix_warning_z: standard deviations that are a warning.
        vix_floor: least move in implied probability that counts; a move of 10 % always does; 0 is the bare z.
        vix_keys: market keys with a window at most.
        governor_evaluations: judgements without which the governor keeps its mode.
    """

    redis_url: str | None = None
    redis_cluster: bool = False
    metrics_dir: str | None = None
    competitions: tuple[str, ...] = ()
    reset_hourly: tuple[str, ...] = ()
    reset_daily: tuple[str, ...] = ()
    tag_table: str | None = None
    default_ttl: float = 300.0
    jitter: float = 0.0
    xfetch_beta: float = 1.0
    refreshes_at_once: int = 64
    refresh_timeout: float = 10.0
    soft_timeout: float | None = None
    hard_timeout: float = 10.0
    stale_if_error_for: float = 3600.0
    stale_if_store_down_for: float = 86_400.0
    error_backoff: float = 5.0
    memory_entries: int = 100_000
    memory_bytes: int = 256 * 1024 * 1024
    lease_seconds: float = 5.0
    store_connect_timeout: float = 1.0
    store_timeout: float = 0.25
    breaker_failures: int = 5
    breaker_seconds: float = 1.0
    bus_silence: float = 2.0
    vix_window: float = 1800.0
    vix_samples: int = 100
    vix_least_samples: int = 3
    vix_panic_z: float = 2.0
    vix_warning_z: float = 1.5
    vix_floor: float = 0.04
    vix_keys: int = 50_000
    governor_evaluations: int = 200

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            _convert(name, value, strict=True)
            if isinstance(value, float) and not math.isfinite(value):
                raise _wrong(name, value, "a finite number")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise _wrong(name, value, "greater than 0")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise _wrong(name, getattr(self, name), "0 or more")
        for competition in self.competitions:
            if not competition.isprintable():
                raise _wrong("competitions", competition, "printable names")
        for name in ("reset_hourly", "reset_daily"):
            for category in getattr(self, name):
                if category not in CATEGORIES:
                    raise _wrong(name, category, f"some of {', '.join(CATEGORIES)}")
        for category in set(self.reset_hourly).intersection(self.reset_daily):
            raise _wrong("reset_daily", category, f"none of those in {PREFIX}RESET_HOURLY")
        if not 0 <= self.jitter < 1:
            raise _wrong("jitter", self.jitter, "in [0, 1)")
        if self.vix_least_samples < 2:
            raise _wrong("vix_least_samples", self.vix_least_samples, "2 or more: a deviation needs two samples")
        if self.vix_samples <= self.vix_least_samples:
            raise _wrong("vix_samples", self.vix_samples, f"more than vix_least_samples ({self.vix_least_samples})")
        if self.vix_warning_z > self.vix_panic_z:
            raise _wrong("vix_warning_z", self.vix_warning_z, f"at most vix_panic_z ({self.vix_panic_z})")
        if self.redis_url is not None and self.redis_url.partition("://")[0] not in _SCHEMES:
            raise _wrong(
                "redis_url", self.redis_url, f"a URL that starts with {', '.join(f'{s}://' for s in _SCHEMES)}"
            )
        if self.redis_cluster and self.redis_url is None:
            raise _wrong("redis_cluster", True, f"false, unless {PREFIX}REDIS_URL says where the cluster is")

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        settings = {name: getattr(self, name) for name in self.__struct_fields__}
        if self.redis_url is not None:
            settings["redis_url"] = redact_url(self.redis_url)
        return [(name, redact(value) if isinstance(value, str) else value) for name, value in settings.items()]

    @property
    def resets(self) -> dict[str, str]:
        """How often each category begins anew, for those that do."""
        return dict.fromkeys(self.reset_hourly, "hourly") | dict.fromkeys(self.reset_daily, "daily")

    @property
    def store_urls(self) -> list[str]:
        """One URL for each server that ``redis_url`` names, as redis-py writes them."""
        # redis-py knows Valkey's URLs under Redis's names.
        url = str(self.redis_url).replace("valkeys://", "rediss://", 1).replace("valkey://", "redis://", 1)
        scheme, _, rest = url.partition("://")
        place, slash, path = rest.partition("/")
        user, at, hosts = place.rpartition("@")
        if not self.redis_cluster:
            return [url]
        return [f"{scheme}://{user}{at}{host}{slash}{path}" for host in hosts.split(",")]

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, **overrides: Any) -> Self:
        """Settings from ``SMARTCACHE_*``, on top of a TOML file that ``SMARTCACHE_CONFIG`` names; arguments win.

        Raises:
            ConfigError: an unknown setting or a value that cannot be used.
        """
        given = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environ.items()
            if name.startswith(PREFIX) and value != ""
        }
        settings = _read_file(Path(path)) if (path := given.pop("config", None)) else {}
        for name in _LISTS.intersection(given):
            settings[name] = [part.strip() for part in given.pop(name).split(",") if part.strip()]
        return cls._of({**settings, **given, **overrides})

    @classmethod
    def from_file(cls, path: Path | str, **overrides: Any) -> Self:
        """Settings from a TOML file; arguments win.

        Raises:
            ConfigError: the file cannot be read, or holds an unknown setting or a value that cannot be used.
        """
        return cls._of({**_read_file(Path(path)), **overrides})

    @classmethod
    def _of(cls, settings: Mapping[str, Any]) -> Self:
        for name, value in settings.items():
            if name not in cls.__struct_fields__:
                known = ", ".join(PREFIX + field.upper() for field in cls.__struct_fields__)
                given = f"{PREFIX}{name.upper()}={shown(name, value)}"
                raise ConfigError(f"unknown setting {given}; the settings are {known}")
        return cls(**{name: _convert(name, value, strict=False) for name, value in settings.items()})


_TYPES: Final = {field.name: field.type for field in msgspec.structs.fields(CacheConfig)}
_KINDS: Final = {
    float: "a number", int: "a whole number", str: "text", bool: "true or false", tuple[str, ...]: "a list of names",
    str | None: "text", float | None: "a number",
}  # fmt: skip
_SCHEMES: Final = ("redis", "rediss", "valkey", "valkeys", "unix")
_LISTS: Final = frozenset({"competitions", "reset_hourly", "reset_daily"})
_POSITIVE: Final = (
    "default_ttl", "refreshes_at_once", "refresh_timeout", "soft_timeout", "hard_timeout", "lease_seconds",
    "store_connect_timeout", "store_timeout", "breaker_failures", "breaker_seconds", "bus_silence", "memory_bytes",
    "vix_window", "vix_keys", "vix_panic_z", "vix_warning_z", "governor_evaluations",
)  # fmt: skip
_NOT_NEGATIVE: Final = (
    "xfetch_beta", "stale_if_error_for", "stale_if_store_down_for", "error_backoff", "memory_entries", "vix_floor",
)  # fmt: skip


def _wrong(name: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"{PREFIX}{name.upper()} is {shown(name, value)}, but must be {allowed}")


def _convert(name: str, value: object, *, strict: bool) -> Any:
    """A value as its setting has it; text stands for a number only where ``strict`` is false."""
    try:
        return msgspec.convert(value, _TYPES[name], strict=strict)
    except msgspec.ValidationError:
        raise _wrong(name, value, _KINDS[_TYPES[name]]) from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        settings = msgspec.toml.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"the settings file {str(path)!r} cannot be used: {error}") from error
    return dict(settings)

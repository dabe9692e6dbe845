"""The service's settings: one place that reads them, checks them and says what is allowed."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from smartcache.redaction import shown

__all__ = ["Settings", "SettingsError", "read_settings"]


class SettingsError(ValueError):
    """A setting has a value that cannot be used; the message names the value, what is allowed, and the setting."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the service is told.

    Attributes:
        host, port: where it listens.
        workers: processes that answer.
        at: the replayed moment that is "now" at start; aware, UTC.
        extra_latency: seconds that every compute waits, standing for a heavier model.
        faults: whether ``POST /v1/faults`` is there.
        max_age: most seconds that ``Cache-Control`` allows a client to keep an answer without asking.
        max_body: most bytes of a request's body.
        texts: every setting as it was given, by its environment variable.

    The engine's own settings (``SMARTCACHE_*``) are read and checked by :class:`smartcache.CacheConfig`.
    """

    host: str
    port: int
    workers: int
    at: datetime
    extra_latency: float
    faults: bool
    max_age: int
    max_body: int
    texts: Mapping[str, str]


def _whole(lowest: int, highest: int) -> tuple[Callable[[str], int], str]:
    def parse(text: str) -> int:
        number = int(text)
        if not lowest <= number <= highest:
            raise ValueError(text)
        return number

    return parse, f"a whole number from {lowest} to {highest}"


def _milliseconds(text: str) -> float:
    number = float(text)
    if not (math.isfinite(number) and 0 <= number <= 60_000):
        raise ValueError(text)
    return number / 1000


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.utcoffset() is None:
        raise ValueError(text)
    return moment.astimezone(UTC)


def _switch(text: str) -> bool:
    return {"on": True, "off": False}[text.strip().lower()]


def _named(text: str) -> str:
    if not text.strip():
        raise ValueError(text)
    return text.strip()


@dataclass(frozen=True, slots=True)
class _Setting:
    field: str
    variable: str
    default: str
    option: str | None
    parse: Callable[[str], Any]
    allowed: str
    help: str


_PREFIX: Final = "SERVICE_"
#: What ``python -m service`` hands to its workers in the same environment.
_HANDED_ON: Final = ("SERVICE_FOLDER", "SERVICE_CLOCK")
_SETTINGS: Final = (
    _Setting("host", "SERVICE_HOST", "127.0.0.1", "--host", _named, "a host name or address", "where to listen"),
    _Setting("port", "SERVICE_PORT", "8000", "--port", *_whole(1, 65535), "port to listen on"),
    _Setting("workers", "SERVICE_WORKERS", "1", "--workers", *_whole(1, 64), "processes that answer"),
    _Setting(
        "at", "SERVICE_AT", "2025-03-01T14:16+00:00", "--at", _moment,
        "an ISO 8601 moment with its offset, such as 2025-03-01T14:16+00:00",
        'the replayed moment that is "now" at start',
    ),
    _Setting(
        "extra_latency", "SERVICE_EXTRA_LATENCY_MS", "25", "--extra-latency-ms", _milliseconds,
        "milliseconds from 0 to 60000", "what every compute waits, standing for a heavier model",
    ),
    _Setting("faults", "SERVICE_FAULTS", "off", "--faults", _switch, "on or off", "on opens POST /v1/faults"),
    _Setting(
        "max_age", "SERVICE_MAX_AGE_S", "10", None, *_whole(0, 3600), "most seconds a client may keep an answer",
    ),
    _Setting(
        "max_body", "SERVICE_MAX_BODY_BYTES", "262144", None, *_whole(1, 64 * 1024 * 1024), "most bytes of a body",
    ),
)  # fmt: skip


def read_settings(environment: Mapping[str, str], arguments: Sequence[str] = ()) -> Settings:
    """Settings from command-line arguments, else the environment, else the defaults.

    Raises:
        SettingsError: an unknown setting or a value that cannot be used.
        SystemExit: ``--help``, or an option that does not exist.
    """
    parser = argparse.ArgumentParser(prog="python -m service", description="The reference prediction service.")
    for setting in _SETTINGS:
        if setting.option:
            parser.add_argument(
                setting.option,
                dest=setting.field,
                metavar=setting.field.upper(),
                help=f"{setting.help}: {setting.allowed} ({setting.variable}, default {setting.default})",
            )
    given = vars(parser.parse_args(arguments))
    _check_names(environment)
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for setting in _SETTINGS:
        text = given.get(setting.field)
        if text is None:
            text = environment.get(setting.variable, setting.default)
        texts[setting.variable] = text
        try:
            values[setting.field] = setting.parse(text)
        except (ValueError, KeyError):
            names = setting.variable + (f" or {setting.option}" if setting.option else "")
            raise SettingsError(f"{names} is {shown(setting.field, text)}: allowed is {setting.allowed}") from None
    return Settings(**values, texts=texts)


def _check_names(environment: Mapping[str, str]) -> None:
    known = [setting.variable for setting in _SETTINGS]
    for name, text in environment.items():
        if name.startswith(_PREFIX) and text and name not in known and name not in _HANDED_ON:
            raise SettingsError(f"unknown setting {name}={shown(name, text)}; the settings are {', '.join(known)}")

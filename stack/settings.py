"""What can be set about the stack: every setting is an environment variable, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

from stack.tools import ROOT

__all__ = ["PORTS", "Mode", "Settings", "SettingsError"]

Mode = Literal["auto", "docker", "native"]

#: The port settings and their defaults.
PORTS: Final[Mapping[str, int]] = {
    "SERVICE_PORT": 8000,
    "EXPORTER_PORT": 9464,
    "PROMETHEUS_PORT": 9090,
    "ALERTMANAGER_PORT": 9093,
    "RECEIVER_PORT": 9095,
    "REDIS_EXPORTER_PORT": 9121,
    "GRAFANA_PORT": 3000,
    "JAEGER_PORT": 16686,
    "OTLP_PORT": 4318,
    "LOCUST_PORT": 8089,
    "LOCUST_METRICS_PORT": 9646,
    "VALKEY_PORT": 6379,
}


class SettingsError(ValueError):
    """A setting is wrong; the message names it, its value, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The stack's settings.

    Attributes:
        ports: port by the name of its setting.
        directory: where this stack keeps its state, logs, data and rendered configuration (``STACK_DIR``).
        mode: how the parts are run (``MODE``).
        environment: the variables the parts inherit.
    """

    ports: Mapping[str, int]
    directory: Path
    mode: Mode
    environment: Mapping[str, str]

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """Read and check the settings; SettingsError says what is wrong."""
        ports = {name: _port(name, environment.get(name, str(default))) for name, default in PORTS.items()}
        users: dict[int, str] = {}
        for name, port in ports.items():
            if port in users:
                raise SettingsError(f"{users[port]} and {name} are both {port}: set one of them to another port")
            users[port] = name
        mode = environment.get("MODE", "auto") or "auto"
        if mode not in ("auto", "docker", "native"):
            raise SettingsError(f"MODE={mode}: allowed are docker and native; leave it out to let the machine decide")
        _refuse_public(environment.get("PUBLIC", "0"))
        directory = (ROOT / (environment.get("STACK_DIR") or ".stack")).resolve()
        return cls(ports, directory, cast("Mode", mode), dict(environment))


def _port(name: str, value: str) -> int:
    if value.isascii() and value.isdecimal() and 1 <= int(value) <= 65535:
        return int(value)
    raise SettingsError(f"{name}={value}: a port is a whole number from 1 to 65535")


def _refuse_public(value: str) -> None:
    if value in ("", "0"):
        return
    if value == "1":
        raise SettingsError(
            "PUBLIC=1 would publish the ports, and must then turn on authentication and TLS for every part; the "
            "service, the exporter and the alert receiver have neither yet, so nothing is published and nothing was "
            "started. Leave PUBLIC out: everything listens on 127.0.0.1 only (docs/operations.md says how to reach "
            "it from elsewhere)"
        )
    raise SettingsError(f"PUBLIC={value}: allowed are 0 (loopback only) and 1")

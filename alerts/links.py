"""Where the links in alerts point: the one place of the base addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["OVERVIEW", "Links"]

#: The dashboard that answers "what is wrong" for the whole engine.
OVERVIEW: Final = "smartcache-overview"


@dataclass(frozen=True, slots=True)
class Links:
    """Base addresses, without a trailing slash. The defaults fit a stack on its default ports.

    Attributes:
        runbooks: address under which ``<AlertName>`` is a runbook; the alert receiver serves them.
        dashboards: address under which ``<uid>`` is a dashboard.
    """

    runbooks: str = "http://127.0.0.1:9095/runbooks"
    dashboards: str = "http://127.0.0.1:3000/d"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Links:
        """The addresses in ``ALERT_RUNBOOKS_URL`` and ``ALERT_DASHBOARDS_URL``, or the defaults.

        Raises:
            ValueError: one of them is not an http or https address.
        """
        default = cls()
        return cls(
            runbooks=_address(environment, "ALERT_RUNBOOKS_URL", default.runbooks),
            dashboards=_address(environment, "ALERT_DASHBOARDS_URL", default.dashboards),
        )

    def runbook(self, alert: str) -> str:
        """The address of an alert's runbook."""
        return f"{self.runbooks}/{alert}"

    def dashboard(self, uid: str) -> str:
        """The address of the dashboard called ``uid``."""
        return f"{self.dashboards}/{uid}"


def _address(environment: Mapping[str, str], setting: str, default: str) -> str:
    address = environment.get(setting, default)
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"{setting}={address!r} is not an address: it must start with http:// or https://")
    return address.rstrip("/")

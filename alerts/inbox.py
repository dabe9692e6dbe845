"""What on-call would have got: Alertmanager's notifications, read strictly and kept within a bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

__all__ = ["HEARTBEAT_LIMIT", "WATCHDOG", "Entry", "Inbox", "Notification", "read_notification"]

#: The alert that always fires; its arrival is the heartbeat of the whole pipeline.
WATCHDOG: Final = "SmartCacheWatchdog"
#: Without a heartbeat for this long the pipeline counts as broken: the routing repeats it within 90 s.
HEARTBEAT_LIMIT: Final = timedelta(minutes=3)

_SEVERITIES: Final = ("critical", "warning", "info")


class WebhookAlert(msgspec.Struct, rename="camel"):
    """One alert of a notification, as Alertmanager writes it."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    starts_at: datetime
    annotations: dict[str, str] = {}


class Notification(msgspec.Struct, rename="camel"):
    """A webhook call of Alertmanager, format version 4; fields that are not read here are left out."""

    version: Literal["4"]
    receiver: str
    alerts: list[WebhookAlert]


@dataclass(frozen=True, slots=True)
class Entry:
    """An alert as it was last heard of."""

    name: str
    status: Literal["firing", "resolved"]
    severity: str
    receiver: str
    summary: str
    description: str
    runbook_url: str
    dashboard_url: str
    labels: Mapping[str, str]
    started: datetime
    received: datetime

    @property
    def rank(self) -> tuple[bool, int, float]:
        """Sorts entries as on-call reads them: firing first, then the worst, then the latest."""
        known = self.severity in _SEVERITIES
        severity = _SEVERITIES.index(self.severity) if known else len(_SEVERITIES)
        return (self.status == "resolved", severity, -self.started.timestamp())


def read_notification(body: bytes) -> Notification:
    """A webhook call's body; ValueError naming what is wrong with it and where."""
    try:
        notification = msgspec.json.decode(body, type=Notification)
    except msgspec.DecodeError as wrong:
        raise ValueError(f"not a notification of Alertmanager: {wrong}") from None
    for place, alert in enumerate(notification.alerts):
        if not alert.labels.get("alertname"):
            raise ValueError(f"not a notification of Alertmanager: $.alerts[{place}].labels has no alertname")
    return notification


class Inbox:
    """The alerts heard of, each by its labels, at most ``limit`` of them.

    Those over the limit are forgotten, resolved and long silent ones first. ``now`` gives aware datetimes.
    """

    def __init__(self, limit: int, now: Callable[[], datetime]) -> None:
        self._limit = limit
        self._now = now
        self._entries: dict[frozenset[tuple[str, str]], Entry] = {}
        self._heartbeat: datetime | None = None

    def take(self, notification: Notification) -> list[Entry]:
        """Keep the alerts of a notification; what they are now."""
        received = self._now()
        taken = [_entry(alert, notification.receiver, received) for alert in notification.alerts]
        for entry in taken:
            if entry.name == WATCHDOG:
                self._heartbeat = received
            else:
                self._entries[frozenset(entry.labels.items())] = entry
        while len(self._entries) > self._limit:
            key, _ = min(self._entries.items(), key=lambda item: (item[1].status == "firing", item[1].received))
            del self._entries[key]
        return taken

    def entries(self) -> list[Entry]:
        """The alerts in the order on-call reads them."""
        return sorted(self._entries.values(), key=lambda entry: entry.rank)

    @property
    def heartbeat(self) -> datetime | None:
        """When the watchdog was last heard; None if never."""
        return self._heartbeat

    def silent_for(self) -> timedelta | None:
        """How long ago the watchdog was heard; None if never."""
        return None if self._heartbeat is None else self._now() - self._heartbeat


def _entry(alert: WebhookAlert, receiver: str, received: datetime) -> Entry:
    return Entry(
        name=alert.labels["alertname"],
        status=alert.status,
        severity=alert.labels.get("severity", "unknown"),
        receiver=receiver,
        summary=alert.annotations.get("summary", ""),
        description=alert.annotations.get("description", ""),
        runbook_url=_link(alert.annotations.get("runbook_url", "")),
        dashboard_url=_link(alert.annotations.get("dashboard_url", "")),
        labels=alert.labels,
        started=alert.starts_at,
        received=received,
    )


def _link(address: str) -> str:
    # An alert is text from elsewhere: no other scheme may end up behind a link.
    return address if address.startswith(("http://", "https://")) else ""

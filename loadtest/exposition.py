"""The load as Prometheus sees it: requests, failures, users, and a mark on the dashboards while a run lasts.

One page per run of Locust, from its master (or its only process), built anew for each scrape.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from locust import events
from locust.env import Environment
from locust.runners import WorkerRunner
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from loadtest.scenario import SCENARIO, load

PORT_SETTING: Final = "LOCUST_METRICS_PORT"
HOST_SETTING: Final = "LOCUST_METRICS_HOST"


class LoadCollector(Collector):
    """Builds the page from the recorder and the runner."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._run_id: str | None = None

    def begin(self) -> None:
        """A run starts; its id is the second it started in."""
        self._run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"

    def end(self) -> None:
        """The run is over."""
        self._run_id = None

    def describe(self) -> list[Metric]:
        """Nothing: asking would collect before there is anything."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families of one scrape."""
        counts, runner = load.recorder.counts, self._environment.runner
        yield CounterMetricFamily("smartcache_load_requests", "Predictions asked for.", value=counts["sent"])
        yield CounterMetricFamily(
            "smartcache_load_failures",
            "Predictions asked for without a readable answer of status 200.",
            value=counts["failed"] + counts["answered"] - counts["code_200"],
        )
        yield GaugeMetricFamily(
            "smartcache_load_users", "Users asking now.", value=runner.user_count if runner is not None else 0
        )
        info = GaugeMetricFamily(
            "smartcache_load_run_info", "1 while a run lasts; its id and scenario.", labels=["run_id", "scenario"]
        )
        if self._run_id is not None:
            info.add_metric([self._run_id, SCENARIO], 1)
        yield info


def _serve(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, WorkerRunner):
        return
    setting = os.environ.get(PORT_SETTING, "9646")
    if not setting.isdigit() or not 0 < int(setting) < 65536:
        raise SystemExit(f"{PORT_SETTING}={setting!r}: allowed: a port, 1 to 65535")
    collector, registry = LoadCollector(environment), CollectorRegistry()
    registry.register(collector)
    try:
        start_http_server(int(setting), os.environ.get(HOST_SETTING, "127.0.0.1"), registry)
    except OSError as error:
        raise SystemExit(f"{PORT_SETTING}={setting}: cannot serve the load's metrics there: {error.strerror}") from None
    events.test_start.add_listener(lambda **_: collector.begin())
    events.test_stop.add_listener(lambda **_: collector.end())


def register() -> None:
    """Hook the page into Locust."""
    events.init.add_listener(_serve)

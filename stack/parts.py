"""The parts of the native stack, as data: what runs, where it listens, and how its health is asked.

Texts in braces are filled in from the settings: a port setting's name in lower case (``{service_port}``), a program's
name (``{prometheus}``), ``{python}``, ``{data}`` (the stack's data folder), ``{configuration}`` (its rendered files),
``{traces_url}`` (where Grafana finds traces), ``{otel_exporter_otlp_endpoint}`` (where the service sends them, if
anywhere), ``{root}`` (the checkout) and ``{directory}`` (the stack's own folder).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from stack.proof import prove_service

__all__ = ["PARTS", "Part", "overruled"]


@dataclass(frozen=True, slots=True)
class Part:
    """One program of the stack.

    Attributes:
        name: what it is called in tables, messages and logs.
        port: name of the setting that holds the port it listens on.
        command: program and arguments.
        health: path that answers 200 when the part is ready; ``PING`` asks as Valkey is asked.
        tool: the program it needs that Python's packages do not bring, a name of ``stack.tools.TOOLS``.
        optional: true when the part only runs if its program is here; it is never fetched.
        needs: parts that must be healthy before it starts.
        environment: variables set for it.
        settings: beginnings of the names of variables that it reads itself; `up` restarts it when one changes.
        configuration: names of the rendered files it reads.
        prove: raises ValueError when it could not run with the variables given.
    """

    name: str
    port: str
    command: tuple[str, ...]
    health: str
    tool: str | None = None
    optional: bool = False
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    configuration: tuple[str, ...] = ()
    prove: Callable[[Mapping[str, str]], object] | None = None

    def address(self, port: int) -> str:
        """Where it is on ``port`` of this machine, as one would type it."""
        return f"{'redis' if self.health == 'PING' else 'http'}://127.0.0.1:{port}"


PARTS: Final[tuple[Part, ...]] = (
    Part(
        "valkey",
        "VALKEY_PORT",
        (
            "{valkey}", "--bind", "127.0.0.1", "--port", "{valkey_port}", "--dir", "{data}/valkey",
            # A title of its own would be written over its environment, by which it is known as a part of this stack.
            "--set-proc-title", "no",
            # A cache: what is lost at a restart is computed again.
            "--save", "", "--appendonly", "no",
            # Entries and version counters carry a lifetime and may be evicted (an entry whose version is lost is a
            # miss, never wrong); the log of invalidations carries none and stays. volatile-ttl would evict what is
            # nearest to kickoff first: the entries asked for most.
            "--maxmemory", "256mb", "--maxmemory-policy", "volatile-lru",
        ),
        health="PING",
    ),
    Part(
        "jaeger",
        "JAEGER_PORT",
        ("{jaeger}", "--config={configuration}/jaeger.yml"),
        health="/",
        tool="jaeger",
        optional=True,
        configuration=("jaeger.yml",),
    ),
    Part(
        "service",
        "SERVICE_PORT",
        ("{python}", "-m", "service"),
        health="/readyz",
        needs=("valkey",),
        settings=("SERVICE_", "SMARTCACHE_", "OTEL_"),
        environment={
            "SERVICE_HOST": "127.0.0.1",
            "SERVICE_PORT": "{service_port}",
            "SMARTCACHE_REDIS_URL": "redis://127.0.0.1:{valkey_port}/0",
            "SMARTCACHE_METRICS_DIR": "{directory}/metrics",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "{otel_exporter_otlp_endpoint}",
        },
        prove=prove_service,
    ),
    Part(
        "exporter",
        "EXPORTER_PORT",
        ("{python}", "-m", "exporter"),
        health="/healthz",
        settings=("EXPORTER_", "SMARTCACHE_"),
        environment={
            "EXPORTER_HOST": "127.0.0.1",
            "EXPORTER_PORT": "{exporter_port}",
            "SMARTCACHE_METRICS_DIR": "{directory}/metrics",
        },
    ),
    Part(
        "receiver",
        "RECEIVER_PORT",
        ("{python}", "-m", "alerts.receiver"),
        health="/healthz",
        settings=("RECEIVER_",),
        environment={"RECEIVER_HOST": "127.0.0.1", "RECEIVER_PORT": "{receiver_port}"},
    ),
    Part(
        "redis_exporter",
        "REDIS_EXPORTER_PORT",
        (
            "{redis_exporter}", "--redis.addr=redis://127.0.0.1:{valkey_port}",
            "--web.listen-address=127.0.0.1:{redis_exporter_port}",
            # A store that hangs must be seen as down before Prometheus gives up on the scrape, after 4 s.
            "--connection-timeout=2s",
        ),
        health="/health",
        tool="redis_exporter",
        needs=("valkey",),
    ),
    Part(
        "alertmanager",
        "ALERTMANAGER_PORT",
        (
            "{alertmanager}", "--config.file={configuration}/alertmanager.yml", "--storage.path={data}/alertmanager",
            "--web.listen-address=127.0.0.1:{alertmanager_port}",
            "--web.external-url=http://127.0.0.1:{alertmanager_port}", "--cluster.listen-address=",
        ),
        health="/-/ready",
        tool="alertmanager",
        configuration=("alertmanager.yml",),
    ),
    Part(
        "prometheus",
        "PROMETHEUS_PORT",
        (
            "{prometheus}", "--config.file={configuration}/prometheus.yml", "--storage.tsdb.path={data}/prometheus",
            "--storage.tsdb.retention.time=15d", "--storage.tsdb.retention.size=2GB",
            "--enable-feature=exemplar-storage",
            # An Alertmanager that comes back, or comes late, hears of what fires within 15 s.
            "--rules.alert.resend-delay=15s",
            "--web.listen-address=127.0.0.1:{prometheus_port}", "--web.external-url=http://127.0.0.1:{prometheus_port}",
        ),
        health="/-/ready",
        tool="prometheus",
        configuration=("prometheus.yml", "rules/recording.yml", "rules/alerts.yml"),
    ),
    Part(
        "grafana",
        "GRAFANA_PORT",
        ("{grafana}", "server", "--homepath", "{grafana_home}"),
        health="/api/health",
        tool="grafana",
        optional=True,
        settings=("GF_",),
        environment={
            "GF_SERVER_HTTP_ADDR": "127.0.0.1",
            "GF_SERVER_HTTP_PORT": "{grafana_port}",
            "GF_PATHS_DATA": "{data}/grafana",
            "GF_PATHS_LOGS": "{data}/grafana/logs",
            "GF_PATHS_PROVISIONING": "{root}/dashboards/provisioning",
            # Dashboards are code: everyone on this machine may look, and there is no account to break into.
            "GF_AUTH_ANONYMOUS_ENABLED": "true",
            "GF_AUTH_DISABLE_LOGIN_FORM": "true",
            "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
            "GF_PLUGINS_PREINSTALL_DISABLED": "true",
            "PROMETHEUS_URL": "http://127.0.0.1:{prometheus_port}",
            "TRACES_URL": "{traces_url}",
            "DASHBOARDS_PATH": "{root}/dashboards/generated",
        },
    ),
)  # fmt: skip


def overruled(environment: Mapping[str, str]) -> list[str]:
    """The variables of ``environment`` that the stack sets itself, to something else; not those it hands on."""
    handed_on = {name: f"{{{name.lower()}}}" for part in PARTS for name in part.environment}
    own = {name: text for part in PARTS for name, text in part.environment.items() if text != handed_on[name]}
    return sorted(name for name, text in own.items() if environment.get(name, "") not in ("", text))

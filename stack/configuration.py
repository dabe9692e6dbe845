"""The configuration files of Prometheus, Alertmanager and Jaeger, and the rules, filled in for where the parts are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Final

from alerts import routing
from alerts.alerting import alerts_file
from alerts.links import Links
from alerts.recording import recording_file
from stack.settings import PORTS
from stack.tools import ROOT

__all__ = ["DOCKER", "for_docker", "for_native", "native_links", "write"]

#: Where the files for Docker are committed, so that a plain ``docker compose up`` finds them.
DOCKER: Final = ROOT / "stack" / "docker"

#: Which port setting each target of the template stands for.
_TARGETS: Final = {
    "service": "SERVICE_PORT",
    "exporter": "EXPORTER_PORT",
    "prometheus": "PROMETHEUS_PORT",
    "alertmanager": "ALERTMANAGER_PORT",
    "redis_exporter": "REDIS_EXPORTER_PORT",
    "locust": "LOCUST_METRICS_PORT",
}


def _render(ports: Mapping[str, int], rules: str, host: Mapping[str, str]) -> dict[str, str]:
    """File texts by file name.

    ``ports`` by setting name; ``rules`` the folder of rule files as Prometheus sees it; ``host`` the host of each
    part as the others reach it.
    """
    targets = {name: f"{host[name]}:{ports[port]}" for name, port in _TARGETS.items()}
    template = Template((ROOT / "stack" / "prometheus.yml").read_text(encoding="utf-8"))
    return {
        "prometheus.yml": template.substitute(targets, rules=rules),
        "alertmanager.yml": routing.render(f"http://{host['receiver']}:{ports['RECEIVER_PORT']}/alerts"),
    }


def native_links(ports: Mapping[str, int], environment: Mapping[str, str]) -> Links:
    """Where the alerts of the native stack link to: its own ports, unless ``environment`` says otherwise.

    ValueError when it names what is not an address.
    """
    own = {
        "ALERT_RUNBOOKS_URL": f"http://127.0.0.1:{ports['RECEIVER_PORT']}/runbooks",
        "ALERT_DASHBOARDS_URL": f"http://127.0.0.1:{ports['GRAFANA_PORT']}/d",
    }
    return Links.from_environment({**own, **environment})


def for_native(ports: Mapping[str, int], links: Links | None = None) -> dict[str, str]:
    """The files of the native stack; without ``links``, alerts link to where the default ports are."""
    host = dict.fromkeys((*_TARGETS, "receiver"), "127.0.0.1")
    return {
        **_render(ports, "rules", host),  # Prometheus looks beside its configuration
        "jaeger.yml": Template((ROOT / "stack" / "jaeger.yml").read_text(encoding="utf-8")).substitute(
            jaeger=f"127.0.0.1:{ports['JAEGER_PORT']}", otlp=f"127.0.0.1:{ports['OTLP_PORT']}"
        ),
        "rules/recording.yml": recording_file(),
        "rules/alerts.yml": alerts_file(links or Links()),
    }


def for_docker() -> dict[str, str]:
    """The files of the compose stack, where parts know each other by name and keep their default ports."""
    return _render(PORTS, "/etc/prometheus/rules", {name: name for name in (*_TARGETS, "receiver")})


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write ``files`` into ``folder``."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

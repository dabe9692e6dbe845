"""The dashboard ``smartcache overview``."""

from __future__ import annotations

from typing import Any, Final

from grafanalib.core import HIDE_VARIABLE, Annotations, Dashboard, Template, Templating, Time

from alerts.links import OVERVIEW, Links
from dashboards import tone
from dashboards.front import FIRING, front
from dashboards.grid import place
from dashboards.panels import DATASOURCE
from dashboards.promql import SCOPE
from dashboards.sections import sections

__all__ = ["DATA_SOURCE_UID", "overview"]

#: The uid of the provisioned data source.
DATA_SOURCE_UID: Final = "smartcache-prometheus"


def overview() -> Dashboard:
    """What is wrong now, then the 35 statistics by category, then each part of the system."""
    return Dashboard(
        uid=OVERVIEW,
        title="smartcache overview",
        description="What is wrong now, the 35 statistics in their 7 categories, and each part of the system. "
        "Generated: edit the catalogue or dashboards/, not this page.",
        tags=["smartcache"],
        editable=False,
        graphTooltip=1,
        timezone="browser",
        refresh="10s",
        time=Time("now-1h", "now"),
        templating=Templating(list=_variables()),
        annotations=Annotations(list=_annotations()),
        panels=place([*front(), *sections()]),
    )


def _variables() -> list[Template]:
    return [
        Template(
            name="datasource", label="Data source", type="datasource", query="prometheus", default=DATA_SOURCE_UID
        ),
        _query("job", "Job", "label_values(smartcache_exporter_up, job)"),
        _query("instance", "Instance", 'label_values(smartcache_exporter_up{job=~"$job"}, instance)'),
        # Alerts carry no annotations in ALERTS, so their runbooks are linked from here.
        Template(name="runbooks", label="Runbooks", type="constant", query=Links().runbooks, hide=HIDE_VARIABLE),
    ]


def _query(name: str, label: str, query: str) -> Template:
    return Template(
        name=name,
        label=label,
        query={"query": query, "refId": f"variable-{name}", "qryType": 5},
        dataSource=DATASOURCE,
        default="$__all",
        includeAll=True,
        allValue=".+",
        multi=True,
        refresh=2,
    )


def _annotations() -> list[dict[str, Any]]:
    """Marks on every graph, told apart by colour."""
    return [
        {
            "builtIn": 1,
            "datasource": {"type": "grafana", "uid": "-- Grafana --"},
            "enable": True,
            "hide": True,
            "iconColor": tone.NEUTRAL,
            "name": "Annotations & Alerts",
            "type": "dashboard",
        },
        _annotation("Alerts firing", FIRING, tone.BAD),
        _annotation("Service restarts", 'changes(process_start_time_seconds{job="service"}[1m]) > 0', tone.WARN),
        _annotation(
            "Everything invalidated",
            f'increase(smartcache_invalidations_total{{kind="full",{SCOPE}}}[1m]) > 0',
            tone.SHADES[0],
        ),
        _annotation("Load runs", "smartcache_load_run_info == 1", tone.NEUTRAL),
    ]


def _annotation(name: str, expr: str, colour: str) -> dict[str, Any]:
    return {
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": colour,
        "name": name,
        "target": {"expr": expr, "interval": "15s", "refId": "Anno"},
    }

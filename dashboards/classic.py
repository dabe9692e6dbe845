"""From grafanalib's objects to the dashboard JSON that Grafana 11.6 to 13 load without a migration.

grafanalib writes for Grafana 8. What it adds for that is removed here, and what it cannot say is set, so that the
result holds only keys that the classic schema knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from grafanalib._gen import DashboardEncoder
from grafanalib.core import Dashboard

__all__ = ["SCHEMA_VERSION", "finalize", "render"]

Json = dict[str, Any]

#: The newest version that Grafana 11.6 knows; later ones know it too.
SCHEMA_VERSION: Final = 41

# The keys of the classic schema that these dashboards use.
_DASHBOARD: Final = frozenset((
    "annotations", "description", "editable", "graphTooltip", "links", "panels", "refresh", "schemaVersion",
    "tags", "templating", "time", "timepicker", "timezone", "title", "uid",
))  # fmt: skip
_PANEL: Final = frozenset((
    "datasource", "description", "fieldConfig", "gridPos", "id", "interval", "links", "options", "targets",
    "title", "transformations", "transparent", "type",
))  # fmt: skip
_ROW: Final = frozenset((
    "collapsed", "gridPos", "id", "panels", "title", "type",
))  # fmt: skip
_VARIABLE: Final = frozenset((
    "allValue", "current", "datasource", "hide", "includeAll", "label", "multi", "name", "options", "query",
    "refresh", "regex", "sort", "type",
))  # fmt: skip


def render(dashboard: Dashboard) -> str:
    """The file of a dashboard: sorted keys, so that the same dashboard is always the same text."""
    return json.dumps(finalize(dashboard), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def finalize(dashboard: Dashboard) -> Json:
    """The dashboard as strict classic JSON."""
    written = json.loads(json.dumps(dashboard, cls=DashboardEncoder))
    final = _only(_DASHBOARD, written)
    final["schemaVersion"] = SCHEMA_VERSION
    final["timepicker"] = {}
    final["templating"] = {"list": [_variable(variable) for variable in written["templating"]["list"]]}
    final["panels"] = [_panel(panel) for panel in written["panels"]]
    return final


def _variable(variable: Json) -> Json:
    final = _only(_VARIABLE, variable)
    chosen = variable["current"]["value"] or variable["query"]
    final["current"] = {"selected": True, "text": "All" if chosen == "$__all" else chosen, "value": chosen}
    return final


def _panel(panel: Json) -> Json:
    if panel["type"] == "row":
        return _only(_ROW, panel)
    final = _only(_PANEL, panel)
    final["targets"] = [{**target, "refId": name} for target, name in zip(panel["targets"], _names(), strict=False)]
    defaults = final["fieldConfig"]["defaults"]
    # The one null that means something: the first threshold reaches down without end.
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    if not defaults.get("mappings"):
        defaults.pop("mappings", None)
    return final


def _only(known: frozenset[str], piece: Json) -> Json:
    return {key: _without_null(value) for key, value in piece.items() if key in known and value is not None}


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_null(inner) for inner in value]
    return value


def _names() -> Iterator[str]:
    """refIds, as Grafana gives them: A to Z."""
    return iter("ABCDEFGHIJKLMNOPQRSTUVWXYZ")

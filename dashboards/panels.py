"""The kinds of panel, as grafanalib objects: one look for all, and what grafanalib writes for older Grafanas left out.

A panel is made with its size only; ``dashboards.grid`` gives it its place.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from grafanalib.core import GridPos, Panel, Stat, StateTimeline, TimeSeries

from dashboards import tone
from dashboards.tone import Step

__all__ = [
    "DATASOURCE",
    "State",
    "Target",
    "bars",
    "gauge",
    "graph",
    "heatmap",
    "panel_id",
    "ranking",
    "table",
    "tile",
    "timeline",
]

#: What the variable ``datasource`` chooses.
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

Size = tuple[int, int]
#: Width and height of a graph, in cells of the grid of 24 columns.
GRAPH: Final[Size] = (8, 7)
#: Widths of axes with long units, in pixels: measured by itself, an axis may come out too narrow for its figures.
_AXIS: Final = {"reqps": 80, "ops": 76, "s": 62}


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel.

    Attributes:
        expr: PromQL.
        legend: the name of its series; ``{{label}}`` stands for a label's value.
        colour: colour of its series; None leaves it to the panel.
        exemplar: ask for exemplars too, which link a point to a trace.
        dashed: draw a dashed line without an area, as for a limit.
        instant: ask for the present value only, so that a series which has ended is not shown as if it lived.
        format: shape of the answer.
    """

    expr: str
    legend: str
    colour: str | None = None
    exemplar: bool = False
    dashed: bool = False
    instant: bool = False
    format: Literal["time_series", "heatmap", "table"] = "time_series"

    def to_json_data(self) -> dict[str, Any]:
        """As grafanalib's encoder asks for it."""
        return {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "exemplar": self.exemplar,
            "expr": self.expr,
            "format": self.format,
            "instant": self.instant,
            "legendFormat": self.legend,
            "range": not self.instant,
        }


@dataclass(frozen=True, slots=True)
class State:
    """A value that is shown as words."""

    value: int
    text: str
    colour: str


class _CorePanel(Panel):  # type: ignore[misc]
    """A panel that grafanalib has only as older Grafanas knew it, or not at all; all of it stands in ``extraJson``."""

    def to_json_data(self) -> Any:
        return self.panel_json({})


def panel_id(title: str) -> int:
    """The id of the panel with this title: it stays when panels come and go, and so do links to it."""
    return zlib.crc32(title.encode()) & 0x7FFFFFFF


def graph(
    title: str,
    description: str,
    unit: str,
    targets: Sequence[Target],
    *,
    size: Size = GRAPH,
    stack: bool = False,
    steps: Sequence[Step] = (),
    ceiling: float | None = None,
    log: bool = False,
    decimals: int | None = None,
    names: Mapping[str, tuple[str, str]] | None = None,
    events: bool = False,
    no_value: str = tone.NO_TRAFFIC,
) -> Panel:
    """Values over time.

    Args:
        title: unique in the dashboard.
        description: what it shows and what to think of it.
        unit: Grafana's id of the unit.
        targets: the queries.
        size: width and height in the grid.
        stack: pile the series up.
        steps: thresholds, drawn as dashed lines.
        ceiling: the axis reaches at least so far, for a threshold to be in sight.
        log: logarithmic axis.
        decimals: of values; None lets Grafana choose.
        names: by the name of a series, what it is called and its colour.
        events: draw bars, as ``bars`` does.
        no_value: shown when there are no data.
    """
    piled = stack or events
    return TimeSeries(
        **_common(title, description, size, targets),
        unit=unit,
        interval="1m" if events else None,
        drawStyle="bars" if events else "line",
        # A series at zero still draws its line, on top of the pile: red where nothing fails.
        lineWidth=1 if not piled else 0,
        fillOpacity=80 if piled else 10 if len(targets) == 1 and not log else 0,
        showPoints="never",
        stacking={"mode": "normal" if piled else "none", "group": "A"},
        thresholds=list(steps) or tone.PLAIN,
        thresholdsStyleMode="dashed" if steps else "off",
        scaleDistributionType="log" if log else "linear",
        scaleDistributionLog=10,
        tooltipMode="multi",
        tooltipSort="desc",
        overrides=_overrides(targets, names or {}),
        extraJson={
            "fieldConfig": {
                "defaults": {
                    "color": {"mode": "shades", "fixedColor": tone.NEUTRAL},
                    "decimals": decimals,
                    "min": None if log else 0,
                    "noValue": no_value,
                    "custom": {"axisSoftMax": ceiling, "axisWidth": _AXIS.get(unit)},
                }
            },
            "options": {"legend": {"showLegend": _needs_legend(targets)}, "tooltip": {"hideZeros": False}},
        },
    )


def bars(
    title: str,
    description: str,
    targets: Sequence[Target],
    *,
    size: Size = GRAPH,
    names: Mapping[str, tuple[str, str]] | None = None,
    no_value: str = tone.NO_DATA,
) -> Panel:
    """What happens rarely, counted: one bar for each interval of a minute or more."""
    return graph(
        title,
        description,
        "short",
        targets,
        size=size,
        events=True,
        decimals=0,
        ceiling=4,
        names=names,
        no_value=no_value,
    )


def tile(
    title: str,
    description: str,
    unit: str,
    target: Target,
    *,
    size: Size = (3, 4),
    steps: Sequence[Step] = (),
    states: Sequence[State] = (),
    decimals: int | None = None,
    no_value: str = tone.NO_TRAFFIC,
    link: tuple[str, str] | None = None,
    show: Literal["value", "name", "value_and_name"] = "value",
    background: bool = True,
) -> Panel:
    """One value, now, in words or figures.

    Args:
        title: unique in the dashboard.
        description: what it shows and what to think of it.
        unit: Grafana's id of the unit.
        target: the query, which should give one series.
        size: width and height in the grid.
        steps: thresholds that give the colour; none at all means neither good nor bad.
        states: words for values.
        decimals: of the value; None lets Grafana choose.
        no_value: shown when there is none.
        link: title and address that a click on the value leads to.
        show: the value, the name of its series, or both.
        background: colour the whole tile, not the figure alone.
    """
    return Stat(
        **_common(title, description, size, [target]),
        format=unit,
        colorMode="background_solid" if background and (steps or states) else "value",
        graphMode="none" if target.instant else "area",
        alignment="center",
        textMode=show,
        reduceCalc="lastNotNull",
        noValue=no_value,
        decimals=decimals,
        mappings=_mappings(states),
        thresholds=list(steps) or tone.PLAIN,
        extraJson={
            "fieldConfig": {
                "defaults": {
                    "color": {"mode": "thresholds"},
                    "links": [{"title": link[0], "url": link[1], "targetBlank": False}] if link else [],
                }
            },
            "options": {
                # Set, for all tiles to be alike, and so that words fit.
                "text": {
                    "titleSize": 13,
                    "valueSize": _value_size(size, bool(states)),
                },
                "wideLayout": False,
                "showPercentChange": False,
                "percentChangeColorMode": "standard",
            },
        },
    )


def gauge(
    title: str,
    description: str,
    target: Target,
    *,
    steps: Sequence[Step] = (),
    size: Size = (4, 7),
    most: float = 1,
) -> Panel:
    """A ratio on a dial that ends at ``most``."""
    return _core(
        "gauge",
        title,
        description,
        [target],
        size,
        steps,
        defaults={
            "color": {"mode": "thresholds"},
            "unit": "percentunit",
            "decimals": 1,
            "min": 0,
            "max": most,
            "noValue": tone.NO_TRAFFIC,
        },
        options={
            "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "showThresholdLabels": False,
            "showThresholdMarkers": True,
            "sizing": "auto",
            "minVizHeight": 75,
            "minVizWidth": 75,
        },
    )


def ranking(
    title: str,
    description: str,
    expr: str,
    *,
    by: str,
    unit: str = "percentunit",
    steps: Sequence[Step] = (),
    most: float | None = 1,
    long_names: bool = False,
    size: Size = GRAPH,
) -> Panel:
    """A value of each value of the label ``by``, greatest first, as horizontal bars that end at ``most``.

    Long names stand above the bars.
    """
    return _core(
        "bargauge",
        title,
        description,
        [Target(f"sort_desc({expr})", f"{{{{{by}}}}}", instant=True)],
        size,
        steps,
        defaults={
            "color": {"mode": "thresholds"},
            "unit": unit,
            "decimals": 1 if unit == "percentunit" else 0,
            "min": 0,
            "max": most,
            "noValue": tone.NO_TRAFFIC,
        },
        options={
            "displayMode": "basic",
            "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
            "maxVizHeight": 300,
            "minVizHeight": 10,
            "minVizWidth": 8,
            "namePlacement": "top" if long_names else "left",
            "orientation": "horizontal",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "showUnfilled": True,
            "sizing": "auto",
            "text": {"titleSize": 13, "valueSize": 16},
            "valueMode": "color",
        },
    )


def heatmap(title: str, description: str, unit: str, expr: str, *, size: Size = GRAPH, legend: bool = True) -> Panel:
    """A histogram over time; the darker a cell, the fewer values fell into it."""
    target = Target(expr, "{{le}}", exemplar=True, format="heatmap")
    return _core(
        "heatmap",
        title,
        description,
        [target],
        size,
        defaults={"unit": unit, "noValue": tone.NO_TRAFFIC, "custom": {"scaleDistribution": {"type": "linear"}}},
        options={
            "calculate": False,
            "cellGap": 1,
            "cellValues": {"unit": "cps", "decimals": 1},
            "color": {
                "exponent": 0.4,
                "fill": tone.NEUTRAL,
                "mode": "scheme",
                "reverse": False,
                "scale": "exponential",
                "scheme": "Blues",
                "steps": 64,
            },
            "exemplars": {"color": "rgba(255,255,255,0.8)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": legend},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": True},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
        },
    )


def timeline(
    title: str,
    description: str,
    targets: Sequence[Target],
    states: Sequence[State],
    *,
    size: Size = GRAPH,
    no_value: str = tone.NO_DATA,
) -> Panel:
    """States over time, in words."""
    return StateTimeline(
        **_common(title, description, size, targets),
        mappings=_mappings(states),
        thresholds=tone.PLAIN,
        showValue="auto",
        fillOpacity=80,
        legendDisplayMode="list",
        rowHeight=0.8,
        extraJson={
            "fieldConfig": {"defaults": {"unit": "none", "noValue": no_value, "custom": {"lineWidth": 0}}},
            "options": {"legend": {"showLegend": True}, "tooltip": {"mode": "multi", "sort": "none"}},
        },
    )


def table(
    title: str,
    description: str,
    target: Target,
    *,
    columns: Sequence[tuple[str, str, Mapping[str, Any]]],
    sort: str,
    size: Size,
    no_value: str,
) -> Panel:
    """Labels of instant samples as rows.

    Args:
        title: unique in the dashboard.
        description: what it shows and what to think of it.
        target: an instant query in the format ``table``.
        columns: label (``Value`` for the sample), heading, and further properties, in order; the rest is hidden.
        sort: the heading to sort by, descending.
        size: width and height in the grid.
        no_value: shown when there are no rows.
    """
    fields = [name for name, _, _ in columns]
    return _core(
        "table",
        title,
        description,
        [target],
        size,
        defaults={
            "color": {"mode": "thresholds"},
            "custom": {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": False, "inspect": False},
            "noValue": no_value,
            "unit": "none",
        },
        overrides=[
            {
                "matcher": {"id": "byName", "options": heading},
                "properties": [{"id": key, "value": value} for key, value in properties.items()],
            }
            for _, heading, properties in columns
            if properties
        ],
        options={
            "cellHeight": "sm",
            "frameIndex": 0,
            "showHeader": True,
            "sortBy": [{"displayName": sort, "desc": False}],
        },
        transformations=[
            {"id": "filterFieldsByName", "options": {"include": {"names": fields}}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {},
                    "indexByName": {name: index for index, name in enumerate(fields)},
                    "renameByName": {name: heading for name, heading, _ in columns},
                },
            },
        ],
    )


def _common(title: str, description: str, size: Size, targets: Sequence[Target]) -> dict[str, Any]:
    width, height = size
    return {
        "id": panel_id(title),
        "title": title,
        "description": description,
        "dataSource": DATASOURCE,
        "gridPos": GridPos(h=height, w=width, x=0, y=0),
        "targets": list(targets),
    }


def _core(
    kind: str,
    title: str,
    description: str,
    targets: Sequence[Target],
    size: Size,
    steps: Sequence[Step] = (),
    *,
    defaults: Mapping[str, Any],
    options: Mapping[str, Any],
    overrides: Sequence[Mapping[str, Any]] = (),
    transformations: Sequence[Mapping[str, Any]] = (),
) -> Panel:
    return _CorePanel(
        **_common(title, description, size, targets),
        thresholds=list(steps) or tone.PLAIN,
        transformations=list(transformations),
        extraJson={
            "type": kind,
            "fieldConfig": {"defaults": dict(defaults), "overrides": list(overrides)},
            "options": dict(options),
        },
    )


def _value_size(size: Size, words: bool) -> int:
    """Height of a tile's letters in pixels: one for each size of tile, such that words fit."""
    wide = size[0] > 3
    if words:
        return 30 if wide else 22
    return 44 if wide else 30


def _needs_legend(targets: Sequence[Target]) -> bool:
    return len(targets) > 1 or "{{" in targets[0].legend


def _overrides(targets: Sequence[Target], names: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    properties: dict[str, list[dict[str, Any]]] = {}
    for target in targets:
        if target.colour:
            properties[target.legend] = [_fixed(target.colour)]
        if target.dashed:
            properties.setdefault(target.legend, []).extend(_DASHED)
    for name, (text, colour) in names.items():
        properties[name] = [_fixed(colour), *([{"id": "displayName", "value": text}] if text != name else [])]
    return [{"matcher": {"id": "byName", "options": name}, "properties": found} for name, found in properties.items()]


_DASHED: Final = (
    {"id": "custom.fillOpacity", "value": 0},
    {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 10]}},
)


def _fixed(colour: str) -> dict[str, Any]:
    return {"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}


def _mappings(states: Sequence[State]) -> list[dict[str, Any]]:
    if not states:
        return []
    options = {
        str(state.value): {"color": state.colour, "index": index, "text": state.text}
        for index, state in enumerate(states)
    }
    return [{"type": "value", "options": options}]

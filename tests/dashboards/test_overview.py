"""The overview shows the whole catalogue, and judges by the objectives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from alerts.bounds import BUS_LAG_SECONDS, COMPUTE_ERROR_RATIO
from alerts.links import OVERVIEW
from dashboards import classic, sections
from dashboards.front import front
from dashboards.lint import Selector, selectors
from dashboards.overview import overview
from smartcache.catalogue import CATEGORIES, FAMILIES, FAMILY, PARTS, RULES, STATISTICS, Family, Label, Statistic
from smartcache.objectives import OBJECTIVES, Objective

Json = Mapping[str, Any]

DASHBOARD: Json = json.loads(classic.render(overview()))


def by_section() -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for panel in DASHBOARD["panels"]:
        if panel["type"] == "row":
            found[panel["title"]] = []
        else:
            found[list(found)[-1]].append(panel)
    return found


SECTIONS = by_section()
PANELS = [panel for panels in SECTIONS.values() for panel in panels]


def queries(panels: list[Json]) -> list[Selector]:
    return [selector for panel in panels for target in panel["targets"] for selector in selectors(target["expr"])]


def exprs(panel: Json, kind: str, function: str) -> bool:
    """Whether a panel is of this kind and asks with this function."""
    return panel["type"] == kind and any(function in target["expr"] for target in panel["targets"])


def bars(panel: Json) -> bool:
    return bool(panel["fieldConfig"]["defaults"]["custom"]["drawStyle"] == "bars")


#: What a panel is like that shows a family in one of the catalogue's ways.
FORMS: Mapping[str, Callable[[Json], bool]] = {
    "rate": lambda panel: exprs(panel, "timeseries", "rate(") and not bars(panel),
    "events": lambda panel: exprs(panel, "timeseries", "increase(") and bars(panel),
    "value": lambda panel: exprs(panel, "timeseries", "") and not bars(panel),
    "quantile": lambda panel: exprs(panel, "timeseries", "histogram_quantile("),
    "heatmap": lambda panel: panel["type"] == "heatmap",
    "states": lambda panel: panel["type"] == "state-timeline",
    "figure": lambda panel: panel["type"] == "stat",
}


def shows(target: Json, statistic: Statistic) -> bool:
    """Whether a query is exactly of the statistic's series, and named after it."""
    if target["legendFormat"] != statistic.title:
        return False
    wanted = {(name, "=", value) for name, value in statistic.match}
    narrowing = {"job", "instance"}
    return any(
        selector.metric == (statistic.family or statistic.rule)
        and {matcher for matcher in selector.matchers if matcher[0] not in narrowing} == wanted
        for selector in selectors(target["expr"])
    )


def test_seven_categories_then_the_parts_in_the_order_of_the_catalogue() -> None:
    titles = [title.split(":")[0] for title in SECTIONS]
    assert titles == ["Right now", "Right now", *(title for title, _ in [*CATEGORIES.values(), *PARTS.values()])]
    assert DASHBOARD["uid"] == OVERVIEW


def test_there_are_35_statistics() -> None:
    assert len(STATISTICS) == 35


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda statistic: statistic.name)
def test_each_statistic_is_shown_in_its_section(statistic: Statistic) -> None:
    title, question = CATEGORIES[statistic.category]
    panels = SECTIONS[f"{title}: {question[0].lower()}{question[1:]}"]
    showing = [panel for panel in panels if any(shows(target, statistic) for target in panel["targets"])]
    assert showing, f"no panel of {title!r} has a series {statistic.title!r} of {statistic.selector()}"
    described = [panel for panel in showing if f"`{statistic.name}`" in panel["description"]]
    assert described, f"{[panel['title'] for panel in showing]} do not say that they show `{statistic.name}`"
    if statistic.objective is not None:
        assert statistic.objective.describe() in described[0]["description"]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_family_has_a_panel_of_its_kind_in_its_section(family: Family) -> None:
    title, question = {**CATEGORIES, **PARTS}[family.category]
    name = family.name if family.kind != "histogram" else f"{family.name}_bucket"
    panels = [
        panel
        for panel in SECTIONS[f"{title}: {question[0].lower()}{question[1:]}"]
        if any(selector.metric == name for selector in queries([panel]))
    ]
    assert panels, f"no panel shows {family.name}"
    assert any(FORMS[family.shown](panel) for panel in panels), f"no panel shows {family.name} as {family.shown}"


def test_each_recording_rule_has_a_panel() -> None:
    names = {selector.metric for selector in queries(PANELS)}
    missing = {rule.record for rule in RULES} - names
    assert not missing


def test_a_new_statistic_gets_a_panel_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family("smartcache_novel_total", "counter", "swr", "Something new.", "Nobody knows it yet.", "rate")
    statistic = Statistic("novel", "swr", "Novelties", "How much is new.", family.name, colour="bad")
    monkeypatch.setitem(FAMILY, family.name, family)
    monkeypatch.setattr(sections, "FAMILIES", (*FAMILIES, family))
    monkeypatch.setattr(sections, "STATISTICS", (*STATISTICS, statistic))
    added = [panel for _, panels in sections.sections() for panel in panels if "novel" in panel.targets[0].expr]
    assert [panel.title for panel in added] == ["Novelties"]
    assert "`novel`" in added[0].description


@pytest.mark.parametrize(
    ("kind", "shown", "panel"),
    [
        ("counter", "rate", "timeseries"),
        ("counter", "events", "timeseries"),
        ("gauge", "value", "timeseries"),
        ("gauge", "figure", "stat"),
        ("gauge", "states", "state-timeline"),
        ("histogram", "quantile", "timeseries"),
        ("histogram", "heatmap", "heatmap"),
    ],
)
def test_a_new_family_gets_a_panel_by_itself(
    kind: Any, shown: Any, panel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = Family(
        "smartcache_novel", kind, "bus", "Something new.", "Nobody knows it yet.", shown, unit="seconds",
        labels=(Label("stage", ("calm", "wild")),), buckets=(1.0,) if kind == "histogram" else (),
        combine="states" if shown == "states" else "sum",
    )  # fmt: skip
    monkeypatch.setitem(FAMILY, family.name, family)
    monkeypatch.setattr(sections, "FAMILIES", (*FAMILIES, family))
    (made,) = [made for made in json.loads(classic.render(overview()))["panels"] if made["title"] == "smartcache_novel"]
    assert made["description"] == "Something new. Nobody knows it yet."
    assert made["type"] == panel
    assert FORMS[shown](made), made["targets"]


def colour_at(panel: Json, value: float) -> str:
    """As Grafana colours it: the last step whose value is not above."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return str([step["color"] for step in steps if step["value"] is None or step["value"] <= value][-1])


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.name)
def test_each_objective_is_a_tile_that_turns_red_where_it_is_missed(objective: Objective) -> None:
    tiles = SECTIONS["Right now: are the objectives kept?"]
    (tile,) = [tile for tile in tiles if tile["targets"][0]["legendFormat"] == objective.describe()
               and objective.title in tile["description"]]  # fmt: skip
    at_most = objective.sense == "at_most"
    room = objective.threshold if at_most else 1 - objective.threshold
    beyond = objective.threshold + (0.01 * (room or 1)) * (1 if at_most else -1)
    assert not objective.met(beyond)
    assert colour_at(tile, beyond) == "red"
    assert colour_at(tile, 0 if at_most else 1) == "green"
    if room:
        nearly = objective.threshold * 0.9 if at_most else 1 - room * 0.9
        assert objective.met(nearly)
        assert colour_at(tile, nearly) == "orange"


def test_tiles_show_the_present_only() -> None:
    """A range query would show the last value of a series that has ended, in green."""
    for panel in PANELS:
        if panel["type"] in ("stat", "gauge", "bargauge", "table"):
            assert all(target["instant"] and not target["range"] for target in panel["targets"]), panel["title"]


def test_the_bus_tile_turns_red_where_memory_is_no_longer_trusted() -> None:
    (tile,) = [panel for panel in PANELS if panel["title"] == "Bus silence"]
    assert colour_at(tile, BUS_LAG_SECONDS) == "green"
    assert colour_at(tile, BUS_LAG_SECONDS + 0.01) == "red"


def test_a_failing_model_shows_on_the_first_screen() -> None:
    (tile,) = [panel for panel in list(SECTIONS.values())[1] if panel["title"] == "Computes failing"]
    assert colour_at(tile, COMPUTE_ERROR_RATIO) == "green"
    assert colour_at(tile, COMPUTE_ERROR_RATIO + 0.001) == "red"
    failed, _ = queries([tile])
    assert ("outcome", "=~", "error|timeout") in failed.matchers


def test_states_are_words() -> None:
    words = {
        panel["title"]: [state["text"] for state in panel["fieldConfig"]["defaults"]["mappings"][0]["options"].values()]
        for panel in PANELS
        if panel["fieldConfig"]["defaults"].get("mappings")
    }
    assert words["Governor"] == words["Governor mode"] == ["normal", "high volatility", "circuit open"]
    assert words["Breaker"] == words["Store breaker"] == ["closed", "half open", "open"]
    assert words["Valkey"] == ["down", "up"]


def test_green_amber_and_red_mean_something() -> None:
    """Series without a meaning of their own take shades of blue, never a colour that says good or bad."""
    for panel in PANELS:
        if panel["type"] == "timeseries":
            assert panel["fieldConfig"]["defaults"]["color"] == {"mode": "shades", "fixedColor": "blue"}, panel["title"]


def test_the_head_fits_on_one_screen() -> None:
    """A screen of 1080 pixels shows some 24 cells below Grafana's own bars."""
    head = sum(1 + sum({panel.gridPos.h for panel in panels}) for _, panels in front())
    assert head <= 24
    assert max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in list(SECTIONS.values())[1]) <= 24


def test_every_heatmap_reads_buckets() -> None:
    heatmaps = [panel for panel in PANELS if panel["type"] == "heatmap"]
    titles = {panel["title"] for panel in heatmaps}
    assert "Request duration" in titles
    assert len([title for title in titles if title.startswith("Age at serve")]) == 6
    for panel in heatmaps:
        (target,) = panel["targets"]
        assert target["format"] == "heatmap"
        assert target["exemplar"]
        assert re.search(r"sum by \(le\) \(rate\(\w+_bucket", target["expr"])

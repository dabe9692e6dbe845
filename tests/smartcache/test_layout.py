"""The layout: every number has a place of its own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartcache import exemplars
from smartcache.catalogue import FAMILIES, FAMILY, STATISTIC
from smartcache.layout import DIMENSIONS, OUTCOMES, Layout
from smartcache.tags import MARKETS

names = st.lists(st.sampled_from(["a", "b", "c", "none", "other", "a"]), max_size=5)


@given(market=names, competition=names, route=names, code=names)
@settings(max_examples=30, deadline=None)
def test_no_two_numbers_share_a_cell_and_none_is_wasted(
    market: list[str], competition: list[str], route: list[str], code: list[str]
) -> None:
    layout = Layout({"market": market, "competition": competition, "route": route, "code": code})
    cells = list(range(layout.strides[0] * len(layout.axes[0])))
    for series in (*layout.series.values(), *layout.by_hand.values()):
        family = FAMILY[series.family]
        size = len(family.buckets) + 2 if family.kind == "histogram" else 1
        cells += range(series.cell, series.cell + size)
    cells += range(layout.minute, layout.minute + 3 * layout.minute_slots)
    cells += range(layout.exemplars, layout.exemplars + exemplars.CELLS)
    assert cells == list(range(layout.cells))


def test_joint_cells_are_told_apart_by_every_dimension() -> None:
    layout = Layout({"market": ["btts"], "competition": ["E0"]})
    cells = set()
    for outcome in layout.axes[0]:
        for zone in layout.axes[1]:
            for market in layout.axes[2]:
                for status in layout.axes[3]:
                    for competition in layout.axes[4]:
                        values = (outcome, zone, market, status, competition)
                        cells.add(sum(map(layout.position, DIMENSIONS, values)))
    assert cells == set(range(layout.strides[0] * len(OUTCOMES)))


def test_every_family_that_processes_record_series_by_series_can_be_found() -> None:
    layout = Layout({"market": MARKETS})
    for family in FAMILIES:
        if family.joint or family.by_exporter:
            with pytest.raises(KeyError, match="can be recorded by itself"):
                layout.find(family.name, {})
        else:
            labels = {label.name: layout.values_of(family, label.name)[0] for label in family.labels}
            assert layout.find(family.name, labels).values == tuple(labels.values())


def test_configured_domains_overflow_into_other_and_fixed_ones_refuse() -> None:
    layout = Layout({"route": ["/v1/matches"], "code": ["200"]})
    found = layout.find("smartcache_http_requests_total", {"route": "/secret/key", "code": "200"})
    assert found.values == ("other", "200")
    assert layout.position("market", "no such market") == layout.position("market", "other")
    assert layout.position("market", None) == layout.position("market", "none")
    with pytest.raises(ValueError, match=r"mode='wild' is none of normal, high_volatility, circuit_open"):
        layout.find("smartcache_governor_mode", {"mode": "wild"})
    with pytest.raises(ValueError, match=r"takes the labels \['mode'\], got \[\]"):
        layout.find("smartcache_governor_mode", {})
    with pytest.raises(KeyError, match="no metric 'smartcache_nonsense'"):
        layout.find("smartcache_nonsense", {})


def test_what_can_be_added_by_hand_is_counted_under_the_statistics_own_labels() -> None:
    layout = Layout({"market": MARKETS})
    for name, series in layout.by_hand.items():
        statistic = STATISTIC[name]
        labels = dict(zip((label.name for label in FAMILY[series.family].labels), series.values, strict=True))
        assert series.family == statistic.family
        assert labels.items() >= dict(statistic.match).items()


def test_the_description_survives_the_file() -> None:
    description = Layout({"market": MARKETS, "competition": ["Première Ligue"]}).describe()
    assert json.loads(json.dumps(description)) == description

"""The layout: every number has a place of its own."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartcache import exemplars
from smartcache.catalogue import FAMILIES, FAMILY, STATISTIC, STRATEGIES, VIX_STATUSES, ZONES
from smartcache.layout import OUTCOMES, Layout
from smartcache.metrics import CacheMetrics
from smartcache.tags import MARKETS

names = st.lists(st.sampled_from(["a", "b", "c", "none", "other", "a"]), max_size=5)


@given(market=names, competition=names, route=names, code=names)
@settings(max_examples=30, deadline=None)
def test_no_two_numbers_share_a_cell_and_none_is_wasted(
    market: list[str], competition: list[str], route: list[str], code: list[str]
) -> None:
    layout = Layout({"market": market, "competition": competition, "route": route, "code": code})
    counts = [layout.thinned]
    sums: list[int] = []
    gauges: list[int] = []
    for series in (*layout.series.values(), *layout.by_hand.values()):
        family = FAMILY[series.family]
        (gauges if family.kind == "gauge" else counts).append(series.cell)
        if family.kind == "histogram":
            counts += range(series.cell + 1, series.cell + 1 + len(family.buckets))
            assert series.total is not None
            sums.append(series.total)
    counts += range(layout.unsampled, layout.unsampled + len(STRATEGIES))
    counts += range(layout.hits, layout.judgements)
    counts += range(layout.judgements, layout.joint)
    counts += range(layout.joint, layout.counts)
    rest = [
        *range(layout.minute, layout.minute + 3 * layout.minute_slots),
        *range(layout.exemplars, layout.exemplars + exemplars.CELLS),
    ]
    assert sorted(counts) == [*range(layout.counts)]
    assert [*counts[-1:], *sorted(sums), *sorted(gauges), *rest] == [*range(layout.counts - 1, layout.cells)]
    assert layout.sums == layout.counts + len(sums)


def test_cells_of_requests_are_told_apart_by_everything_that_a_family_tells_apart() -> None:
    layout = Layout({"market": ["btts"], "competition": ["E0"]})
    meanings: dict[int, set[tuple[str, ...]]] = {}
    for outcome, zone, market, status, competition in product(
        OUTCOMES, ZONES, layout.domains["market"], (*VIX_STATUSES, "none"), layout.domains["competition"]
    ):
        joint, *beside = layout.cells_of(outcome.name, zone, market, status, competition)
        judged = (status, competition) if status != "none" else ()
        told = (outcome.name, zone, market if outcome.lookup else "")
        assert len(beside) == bool(judged and not outcome.judged_jointly)
        meanings.setdefault(joint, set()).add(told if beside else (*told, *judged))
        for cell in beside:
            meanings.setdefault(cell, set()).add(judged)
    assert all(len(told) == 1 for told in meanings.values())
    assert sorted(meanings) == [*range(layout.judgements, layout.counts)]


def test_every_family_that_processes_record_series_by_series_can_be_found() -> None:
    layout = Layout({"market": MARKETS})
    for family in FAMILIES:
        if family.joint or family.by_exporter:
            with pytest.raises(KeyError, match="can be recorded by itself"):
                layout.find(family.name, {})
        else:
            labels = {
                label.name: layout.values_of(family, label.name)[0]
                for label in family.labels
                if family.combine != "states"
            }
            assert layout.find(family.name, labels).values == tuple(labels.values())


def test_configured_domains_overflow_into_other_and_fixed_ones_refuse() -> None:
    layout = Layout({"route": ["/v1/matches"], "code": ["200"]})
    found = layout.find("smartcache_http_requests_total", {"route": "/secret/key", "code": "200"})
    assert found.values == ("other", "200")
    assert layout.cells_of("absent", market="no such market") == layout.cells_of("absent", market="other")
    assert layout.cells_of("absent", market=None) == layout.cells_of("absent", market="none")
    with pytest.raises(ValueError, match=r"kind='wild' is none of surgical, full"):
        layout.find("smartcache_invalidations_total", {"kind": "wild"})
    with pytest.raises(ValueError, match=r"takes the labels \['kind'\], got \[\]"):
        layout.find("smartcache_invalidations_total", {})
    with pytest.raises(ValueError, match=r"takes the labels \[\], got \['mode'\]"):
        layout.find("smartcache_governor_mode", {"mode": "normal"})
    with pytest.raises(KeyError, match="no metric 'smartcache_nonsense'"):
        layout.find("smartcache_nonsense", {})


@pytest.mark.parametrize("value", ["\udcff", "two\nlines", 7])
def test_a_label_value_that_no_page_can_show_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="the values of competition must be printable texts, got "):
        CacheMetrics(None, {"competition": [value]}).snapshot()


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

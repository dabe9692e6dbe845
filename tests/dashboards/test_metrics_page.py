"""The page of metrics names the whole catalogue."""

from __future__ import annotations

import re
from itertools import pairwise

from dashboards.metrics_page import page
from smartcache.catalogue import FAMILIES, RULES, STATISTICS
from smartcache.objectives import OBJECTIVES

PAGE = page()


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    return [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in lines]


def test_every_entry_has_its_row() -> None:
    first = [row[0] for row in rows()]
    assert {f"`{statistic.name}`" for statistic in STATISTICS} <= set(first)
    assert {f"`{family.name}`" for family in FAMILIES} <= set(first)
    assert {objective.title for objective in OBJECTIVES} <= set(first)


def test_every_rule_stands_with_its_expression() -> None:
    for rule in RULES:
        assert f"### `{rule.record}`\n" in PAGE
        assert f"```promql\n{rule.expr}\n```" in PAGE


def test_labels_stand_with_their_allowed_values() -> None:
    row = next(row for row in rows() if row[0] == "`smartcache_vix_evaluations_total`")
    assert row[3] == "`status`: `panic`, `warning`, `normal`<br>`competition`: *competition*"


def test_each_family_stands_with_how_it_is_combined_and_shown_and_why() -> None:
    found = {row[0]: row for row in rows()}
    for family in FAMILIES:
        row = found[f"`{family.name}`"]
        bound = [family.objective.describe()] if family.objective else []
        assert row[7:] == [family.why, *bound]
    assert found["`smartcache_governor_mode`"][4:6] == ["counted by state", "states over time"]
    assert found["`smartcache_bus_lag_seconds`"][4:6] == ["the greatest", "value over time"]


def test_no_cell_breaks_its_table() -> None:
    """A bar inside a cell must be escaped, or the rest of the row moves on by one."""
    lines = PAGE.splitlines()
    for above, below in pairwise(lines):
        if above.startswith("|") and below.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", above)) == len(re.findall(r"(?<!\\)\|", below)), below

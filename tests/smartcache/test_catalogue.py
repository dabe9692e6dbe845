"""What is listed is recorded, and what is recorded is listed; read from the sources, so a call that goes is missed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from smartcache.catalogue import FAMILIES, FAMILY, RULE, STATISTICS, STRATEGIES, VIX_STATUSES, ZONES
from smartcache.layout import OUTCOMES
from smartcache.metrics import CacheMetrics

ROOT = Path(__file__).parents[2]
SOURCES = {
    path: ast.parse(path.read_text()) for folder in ("smartcache", "service") for path in (ROOT / folder).glob("*.py")
}
KINDS = ("counter", "gauge", "histogram", "state")
#: Families that the recorder and the recorder's memory fill without a handle.
BY_THE_RECORDER = {
    "smartcache_request_duration_seconds",
    "smartcache_request_duration_max_seconds",
    "smartcache_request_duration_min_seconds",
}


class Handle(NamedTuple):
    """A call that resolves a metric, and the attribute it is kept in, if any."""

    where: str
    kind: str
    name: str
    labels: dict[str, ast.expr | None]
    kept_in: str | None


def handles() -> Iterator[Handle]:
    for path, tree in SOURCES.items():
        kept = {
            call: target.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Attribute)
            for call in ast.walk(node.value)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                name = node.args[0].value
                if called in KINDS and isinstance(name, str):
                    labels = {keyword.arg or "": keyword.value for keyword in node.keywords}
                    yield Handle(f"{path.name}:{node.lineno}", called, name, dict(labels), kept.get(node))


HANDLES = [*handles()]


@pytest.mark.parametrize("handle", HANDLES, ids=lambda handle: f"{handle.name} {handle.where}")
def test_what_code_records_is_in_the_catalogue(handle: Handle) -> None:
    family = FAMILY[handle.name]
    states = family.combine == "states"
    assert handle.kind == ("state" if states else family.kind)
    assert handle.labels.keys() == (set() if states else {label.name for label in family.labels})
    for label in family.labels:
        value = handle.labels.get(label.name)
        if isinstance(value, ast.Constant) and not isinstance(label.values, str):
            assert value.value in label.values


def test_what_is_in_the_catalogue_is_recorded() -> None:
    by_handle = {handle.name for handle in HANDLES}
    exporter = ast.parse((ROOT / "exporter" / "exposition.py").read_text())
    by_exporter = {
        node.args[0].value
        for node in ast.walk(exporter)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "own"
        and isinstance(node.args[0], ast.Constant)
    }
    for family in FAMILIES:
        if family.by_exporter:
            assert family.name in by_exporter, f"the exporter does not produce {family.name}"
        elif not family.joint and family.name not in BY_THE_RECORDER:
            assert family.name in by_handle, f"nothing records {family.name}"
    assert by_exporter == {family.name for family in FAMILIES if family.by_exporter}


def test_every_metric_that_is_resolved_is_used() -> None:
    loaded = {
        node.attr
        for tree in SOURCES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    unused = [handle for handle in HANDLES if handle.kept_in is not None and handle.kept_in not in loaded]
    assert not unused, "resolved and never moved"
    assert sum(handle.kept_in is not None for handle in HANDLES) > 30


def test_every_family_of_requests_moves_with_some_outcome() -> None:
    metrics = CacheMetrics()
    before = metrics.snapshot().samples
    for outcome in OUTCOMES:
        cells = metrics.layout.cells_of(outcome.name, ZONES[0], "btts", VIX_STATUSES[0])
        metrics.recorder.request(cells, STRATEGIES.index(outcome.strategy), 0.1, 1.0)
    after = metrics.snapshot().samples
    for family in FAMILIES:
        if family.joint or family.name in BY_THE_RECORDER - {
            family.name for family in FAMILIES if family.kind == "gauge"
        }:
            assert before[family.name] != after[family.name], family.name


def test_every_statistic_is_a_family_or_a_rule() -> None:
    for statistic in STATISTICS:
        assert (statistic.family in FAMILY) != (statistic.rule in RULE), statistic.name

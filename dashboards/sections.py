"""The sections of the overview, in the order of the catalogue.

What the catalogue has and no section shows gets a plain panel at the end of its own, so that a new entry is never
invisible.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from grafanalib.core import Panel

from dashboards import categories, parts, promql
from dashboards.entries import derived, plain
from smartcache.catalogue import CATEGORIES, FAMILIES, FAMILY, PARTS, STATISTICS, Category

__all__ = ["sections"]

_SECTIONS: Final[Mapping[Category, Callable[[], list[Panel]]]] = {
    "base_cache": categories.base_cache,
    "vix": categories.vix,
    "golden_hour": categories.golden_hour,
    "swr": categories.swr,
    "tagmanager": categories.tagmanager,
    "strategy": categories.strategy,
    "performance": categories.performance,
    "compute": parts.compute,
    "store": parts.store,
    "memory": parts.memory,
    "bus": parts.bus,
    "service": parts.service,
    "exporter": parts.exporter,
}


def sections() -> list[tuple[str, list[Panel]]]:
    """Title and panels of each section, in the order of the catalogue."""
    built: list[tuple[str, list[Panel]]] = []
    for category, (title, question) in {**CATEGORIES, **PARTS}.items():
        panels = _SECTIONS[category]() if category in _SECTIONS else []
        built.append((f"{title}: {question[0].lower()}{question[1:]}", panels))
    everything = [panel for _, panels in built for panel in panels]
    for category, (_, panels) in zip({**CATEGORIES, **PARTS}, built, strict=True):
        panels += _unseen(category, everything)
    return built


def _unseen(category: Category, panels: Sequence[Panel]) -> list[Panel]:
    """Plain panels for what a category has in the catalogue and ``panels`` do not show."""
    queries = {(target.expr, target.legend) for panel in panels for target in panel.targets}
    missing = [
        derived(entry.name, width=8) if entry.family is None else plain(FAMILY[entry.family], entry.title, entry)
        for entry in STATISTICS
        if entry.category == category
        and not any((promql.statistic(entry, events=events), entry.title) in queries for events in (False, True))
    ]
    shown = " ".join(target.expr for panel in [*panels, *missing] for target in panel.targets)
    return missing + [
        plain(family, family.name)
        for family in FAMILIES
        if family.category == category and not re.search(rf"\b{family.name}(_bucket)?\b", shown)
    ]

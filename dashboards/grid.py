"""Where panels stand: rows of 24 columns, filled from the left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import attr
from grafanalib.core import GridPos, Panel, RowPanel

from dashboards.panels import panel_id

__all__ = ["COLUMNS", "place"]

COLUMNS: Final = 24


def place(sections: Iterable[tuple[str, Sequence[Panel]]]) -> list[Panel]:
    """Sections one under another, each under a row with its title; the last panel of a line takes what is left."""
    placed: list[Panel] = []
    top = 0
    for title, panels in sections:
        placed.append(RowPanel(id=panel_id(title), title=title, gridPos=GridPos(h=1, w=COLUMNS, x=0, y=top)))
        top += 1
        for line in _lines(panels):
            left, height = 0, max(panel.gridPos.h for panel in line)
            for panel in line:
                width = panel.gridPos.w if panel is not line[-1] else COLUMNS - left
                placed.append(attr.evolve(panel, gridPos=GridPos(h=height, w=width, x=left, y=top)))
                left += width
            top += height
    return placed


def _lines(panels: Sequence[Panel]) -> list[list[Panel]]:
    lines: list[list[Panel]] = []
    left = COLUMNS
    for panel in panels:
        if left + panel.gridPos.w > COLUMNS:
            lines.append([])
            left = 0
        lines[-1].append(panel)
        left += panel.gridPos.w
    return lines

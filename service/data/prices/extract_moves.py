"""Cut ``moves.csv`` from the published A-League price file.

    cd service/data/prices; python extract_moves.py A-League_Womens_2021-2022_All_Markets.csv.gz > moves.csv

A row is one selection whose best back and best lay prices were both there, and less than 5 % apart, at 60, 30 and
1 minutes before kickoff. Prices are mid prices (mean of best back and best lay), decimal odds.
"""

from __future__ import annotations

import csv
import gzip
import sys
from pathlib import Path
from typing import Final

MAX_SPREAD: Final = 0.05
MINUTES: Final = (60, 30, 1)
MARKETS: Final = {"Match Odds": "match_result", "Over/Under 2.5 Goals": "over_under_25"}


def mid_price(row: dict[str, str], minutes: int) -> float | None:
    """Mid of best back and lay ``minutes`` before kickoff; None when a side is missing or the spread too wide."""
    back, lay = row[f"BEST_BACK_PRICE_{minutes}_MIN_PRIOR"], row[f"BEST_LAY_PRICE_{minutes}_MIN_PRIOR"]
    if not back or not lay:
        return None
    mid = (float(back) + float(lay)) / 2
    return mid if 0 <= float(lay) - float(back) < MAX_SPREAD * mid else None


def selection(row: dict[str, str]) -> str:
    """The role of a runner: home, draw, away, over or under."""
    name = row["RUNNER_NAME"]
    if name == "The Draw":
        return "draw"
    if name.startswith(("Over", "Under")):
        return name.split()[0].lower()
    return "home" if name == row["HOME_TEAM"] else "away"


def main(path: Path) -> None:
    """Write the extract of the file at ``path`` to standard output."""
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("event", "market", "selection", *(f"mid_{minutes}" for minutes in MINUTES)))
    with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as source:
        for row in csv.DictReader(source):
            if row["MARKET_NAME"] not in MARKETS:
                continue
            mids = [mid for minutes in MINUTES if (mid := mid_price(row, minutes)) is not None]
            if len(mids) == len(MINUTES):
                market = MARKETS[row["MARKET_NAME"]]
                out.writerow((row["EVENT_ID"], market, selection(row), *(f"{mid:g}" for mid in mids)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Recorded prices of the Betfair Exchange, in its stream format: one market change message a line.

The recordings are not part of the project. They lie beside the checkout, in ``../shared/data/betfair_stream``, each
under the licence of the repository that published it: MIT (Peter McLagan; Liam Pauling) and BSD-2-Clause (the
betfair_parser developers). The prices are Betfair's, whose terms hold for whoever passes them on.
"""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.hit_ratio import DATA
from smartcache import key_factory

__all__ = ["STREAMS", "STREAM_FOLDER", "Price", "pre_match_prices"]

STREAM_FOLDER: Final = DATA / "betfair_stream"
#: File to what it is a recording of.
STREAMS: Final = {
    "football-basic-sample.bz2": "football, one match, 77 markets, once a minute at most",
    "1.242971311.bz2": "football, 200 markets, days ahead",
    "1.200806927.gz": "cricket, one market",
}


class Price(NamedTuple):
    """A last traded price.

    Attributes:
        market_key: match, market, selection and line. The market is its id: a match has several of one type and name.
        instant: epoch seconds at which it was published.
        odds: decimal odds.
        ahead: seconds from then to the scheduled start.
    """

    market_key: str
    instant: float
    odds: float
    ahead: float


def pre_match_prices(file: Path) -> Iterator[Price]:
    """The last traded prices of a recording before play.

    A match is in play from the first market definition that says so, in all its markets. So it is from its scheduled
    start on: one recording goes on for 40 minutes after it without a word of play, with odds that only goals explain.

    Raises:
        ValueError: a line that is no market change message, or a price of a market that was not defined before.
    """
    definitions: dict[str, dict[str, Any]] = {}
    in_play: set[str] = set()
    for number, message in _messages(file):
        instant = message["pt"] / 1000
        for change in message["mc"]:
            market = change["id"]
            if "marketDefinition" in change:
                definitions[market] = change["marketDefinition"]
                if definitions[market]["inPlay"]:
                    in_play.add(definitions[market]["eventId"])
            traded = [runner for runner in change.get("rc", ()) if "ltp" in runner]
            if traded and market not in definitions:
                raise ValueError(
                    f"{file.name}, line {number}: a price of market {market}, which was not defined before"
                )
            for runner in traded:
                match = definitions[market]["eventId"]
                ahead = datetime.fromisoformat(definitions[market]["marketTime"]).timestamp() - instant
                if match not in in_play and ahead >= 0:
                    line = f"{runner['hc']:g}" if runner.get("hc") else ""
                    key = key_factory.market_key(match, market, runner["id"], line)
                    yield Price(key, instant, runner["ltp"], ahead)


def _messages(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and messages."""
    with (gzip.open if file.suffix == ".gz" else bz2.open)(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            message = json.loads(line)
            if message.get("op") != "mcm":
                raise ValueError(f"{file.name}, line {number}: no market change message (op 'mcm'): {line[:60]!r}")
            yield number, message

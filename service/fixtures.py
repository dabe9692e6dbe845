"""The fixtures: who plays whom, when, and how the matches already played ended.

Read from the packaged openfootball files (``data/fixtures``). Their dates and times are local to the league's country
and carry no offset; here every kickoff is an instant in UTC.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

__all__ = ["COMPETITIONS", "Fixtures", "Match", "Score", "load_fixtures"]

#: The competitions, with the time zone that their files' times are local to.
COMPETITIONS: Final[Mapping[str, ZoneInfo]] = {
    "en.1": ZoneInfo("Europe/London"),
    "es.1": ZoneInfo("Europe/Madrid"),
    "it.1": ZoneInfo("Europe/Rome"),
    "de.1": ZoneInfo("Europe/Berlin"),
    "fr.1": ZoneInfo("Europe/Paris"),
}

#: The files of 2022-23 call some French clubs otherwise than the later ones; a club has one name here.
_ALIASES: Final = {
    "AS Monaco": "AS Monaco FC",
    "Olympique Marseille": "Olympique de Marseille",
    "Paris Saint-Germain": "Paris Saint-Germain FC",
    "RC Lens": "Racing Club de Lens",
    "RC Strasbourg": "RC Strasbourg Alsace",
    "Stade Rennais": "Stade Rennais FC 1901",
}

#: A result is known this long after kickoff: two halves, the pause, the stoppages.
RESULT_AFTER: Final = timedelta(hours=2)


class Score(NamedTuple):
    """Goals of a match that was played to its end."""

    home: int
    away: int
    home_at_half_time: int
    away_at_half_time: int


@dataclass(frozen=True, slots=True)
class Match:
    """One fixture.

    Attributes:
        match_id: lower-case letters, digits and hyphens; made of competition, season and clubs, so that it survives
            a change of the kickoff.
        competition: such as ``en.1``.
        season: such as ``2024-25``.
        home, away: the clubs' names.
        kickoff: aware, UTC.
        score: how it ended; None when the file has no result, or one that was awarded rather than played.
    """

    match_id: str
    competition: str
    season: str
    home: str
    away: str
    kickoff: datetime
    score: Score | None


class Fixtures:
    """All fixtures, ordered by kickoff."""

    def __init__(self, matches: tuple[Match, ...]) -> None:
        self.matches: Final = tuple(sorted(matches, key=lambda match: (match.kickoff, match.match_id)))
        self._by_id = {match.match_id: match for match in self.matches}

    def get(self, match_id: str) -> Match | None:
        """The match called ``match_id``; None when there is none."""
        return self._by_id.get(match_id)

    def between(self, earliest: datetime, latest: datetime) -> Iterator[Match]:
        """Matches that kick off from ``earliest`` to ``latest``, soonest first."""
        return (match for match in self.matches if earliest <= match.kickoff <= latest)

    def played_before(self, now: datetime) -> Iterator[Match]:
        """Matches whose result was known at ``now``, oldest first."""
        return (match for match in self.matches if match.score and match.kickoff + RESULT_AFTER <= now)


class _FileScore(msgspec.Struct):
    ft: tuple[int, int] | None = None
    ht: tuple[int, int] | None = None


class _FileMatch(msgspec.Struct):
    date: str
    time: str
    team1: str
    team2: str
    score: _FileScore
    status: str = "played"


class _File(msgspec.Struct):
    matches: list[_FileMatch]


@cache
def load_fixtures() -> Fixtures:
    """Read the packaged files, once.

    Raises:
        msgspec.ValidationError: a file that does not have the published form.
    """
    matches: list[Match] = []
    for file in sorted(files("service").joinpath("data/fixtures").iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".json.gz"):
            continue
        season, competition = file.name.removesuffix(".json.gz").split("_")
        content = msgspec.json.decode(gzip.decompress(file.read_bytes()), type=_File)
        matches.extend(_match(season, competition, row) for row in content.matches)
    return Fixtures(tuple(matches))


def _match(season: str, competition: str, row: _FileMatch) -> Match:
    home, away = _ALIASES.get(row.team1, row.team1), _ALIASES.get(row.team2, row.team2)
    local = datetime.fromisoformat(f"{row.date}T{row.time}").replace(tzinfo=COMPETITIONS[competition])
    return Match(
        match_id="-".join((competition.replace(".", ""), season[:4], _slug(home), _slug(away))),
        competition=competition,
        season=season,
        home=home,
        away=away,
        kickoff=local.astimezone(UTC),
        score=None if row.status == "awarded" else _score(row.score),
    )


def _score(score: _FileScore) -> Score | None:
    if score.ft is None:
        return None
    # The files leave out the half-time score of the goalless, and of them alone.
    return Score(*score.ft, *(score.ht or (0, 0)))


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")

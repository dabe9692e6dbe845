"""What one scrape costs the exporter when sixteen processes record."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.turns import Effort, Turn, alternate
from benchmarks.verdict import Row, at_most, measured
from benchmarks.workload import COMPETITION, asks, engine, fill, hits
from exporter.app import create_app
from smartcache import CacheMetrics

__all__ = ["scrape"]

_PROCESSES: Final = 16
_HITS: Final = 252
_FLOOR: Final = "floor: the files read"
#: As Prometheus asks.
_SCOPE: Final[dict[str, Any]] = {
    "type": "http",
    "method": "GET",
    "path": "/metrics",
    "query_string": b"",
    "headers": [(b"accept", b"text/plain;version=0.0.4"), (b"accept-encoding", b"gzip")],
}


def scraped(folder: Path) -> Turn:
    """The exporter's app asked for its page, without a socket in between."""
    app = create_app(folder)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def turn(times: int) -> None:
        for _ in range(times):
            sent: list[Any] = []

            async def send(message: Any, keep: Callable[[Any], None] = sent.append) -> None:
                keep(message)

            await app(dict(_SCOPE), receive, send)
            if sent[0]["status"] != 200:
                raise RuntimeError(f"the exporter answered {sent[0]['status']}: {sent[1:]}")

    return turn


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.iterdir()]


def read(folder: Path) -> Turn:
    """The floor: every file read and nothing made of it."""

    async def turn(times: int) -> None:
        for _ in range(times):
            contents(folder)

    return turn


async def scrape(effort: Effort) -> list[Row]:
    """A page with what sixteen recorders say, each in a file of its own, all of which record between two scrapes."""
    requests = asks()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        recording: list[Turn] = []
        for _ in range(_PROCESSES):
            metrics = CacheMetrics(folder, {"competition": (COMPETITION,)})
            stack.callback(metrics.close)
            cache = stack.enter_context(engine(metrics))
            await fill(cache, requests)
            recording.append(hits(cache, requests))
        if (files := len(contents(folder))) != _PROCESSES:
            raise RuntimeError(f"meant to have {_PROCESSES} files of metrics, but there are {files}")

        async def record(times: int) -> None:
            for turn in recording:
                await turn(_HITS)

        turns = {"ours": scraped(folder), _FLOOR: read(folder)}
        # One scrape a turn: the exporter never finds what it has read already.
        samples = await alternate(turns, effort._replace(turn_seconds=0.0), before={"ours": record})
    held_to = {"": at_most(10, "ms"), _FLOOR: None}
    return [measured(f"scrape over {_PROCESSES} processes' files", samples, held_to, "ms")]

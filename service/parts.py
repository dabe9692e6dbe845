"""The parts of one worker, and how they come up and go down."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from exporter.otlp import Traces
from service.board import Board, Slot
from service.book import PriceBook
from service.clock import ReplayClock
from service.feed import Progress, feed_odds
from service.fixtures import Fixtures, load_fixtures
from service.loop_lag import watch_loop
from service.model import Model, fit
from service.model_watch import ModelWatch
from service.predictor import Predictor
from service.settings import Settings
from smartcache import CacheMetrics, SmartCacheEnhanced

__all__ = ["Parts", "assemble", "running"]


@dataclass(slots=True)
class Parts:
    """What the endpoints work with.

    Attributes:
        traces: on their way to a backend, if there is one.
        phase: ``starting``, ``ready`` or ``stopping``.
    """

    settings: Settings
    folder: Path
    clock: ReplayClock
    fixtures: Fixtures
    book: PriceBook
    board: Board
    watch: ModelWatch
    predictor: Predictor
    cache: SmartCacheEnhanced
    metrics: CacheMetrics
    traces: Traces | None = None
    phase: str = "starting"


def assemble(
    settings: Settings, folder: Path, clock: ReplayClock, cache: SmartCacheEnhanced, metrics: CacheMetrics
) -> Parts:
    """Load the fixtures and fit the model on what was known at the clock's first moment."""
    fixtures, model = load_fixtures(), _fitted(settings.at)
    book = PriceBook(fixtures, model, clock, cache.volatility.last)
    board, watch = Board(folder, clock), ModelWatch(clock)
    predictor = Predictor(model, book, board, watch, clock, settings.extra_latency, random.random)
    return Parts(settings, folder, clock, fixtures, book, board, watch, predictor, cache, metrics)


@cache
def _fitted(at: datetime) -> Model:
    return fit(load_fixtures().played_before(at), at)


@asynccontextmanager
async def running(parts: Parts, parent: int | None) -> AsyncIterator[None]:
    """Run the worker's background work; ``parent`` is the process without which it shall not go on."""
    slot = Slot(parts.folder)
    parts.metrics.gauge("smartcache_model_extra_latency_seconds").set(parts.settings.extra_latency)
    await parts.cache.start()
    tasks = [asyncio.create_task(watch_loop(parts.metrics, slot.number, parts.clock))]
    # One process draws the odds and the bus carries them; without a bus each draws its own, which are the same.
    if parts.cache.health()["bus"] == "none":
        tasks.append(asyncio.create_task(feed_odds(parts.book, parts.cache, parts.clock)))
    elif slot.number == 0:
        progress = Progress(parts.folder / "odds-fed")
        tasks.append(asyncio.create_task(feed_odds(parts.book, parts.cache, parts.clock, progress)))
    if parent is not None:
        threading.Thread(target=_stay_with, args=(parent,), daemon=True).start()
    parts.phase = "ready"
    try:
        yield
    finally:
        parts.phase = "stopping"
        parts.watch.stopping = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await parts.cache.close()
        if parts.traces is not None:
            await asyncio.to_thread(parts.traces.close)
        slot.release()


def _stay_with(parent: int) -> None:
    """End this worker when its parent is gone: killed, it cannot tell its workers to stop."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)

"""Predictions behind the cache in FastAPI, with the cache's metrics beside them and traces of both: ``granian
--interface asgi examples.fastapi_app:app``.

Processes of several workers (``--workers 4``) share a folder, ``SMARTCACHE_METRICS_DIR``; whichever is asked for
``/cache/metrics`` answers for all. Traces go where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says, if it does.
"""

from __future__ import annotations

import asyncio

from fastapi import FastAPI

from exporter.app import create_app
from exporter.otlp import Traces, TraceSettings
from exporter.trace_requests import TraceRequests
from smartcache import CacheConfig, EventType, SmartCacheEnhanced, key_factory

app = FastAPI()
cache = SmartCacheEnhanced(CacheConfig.from_env())

app.mount("/cache", create_app())  # the exporter: /cache/metrics, /cache/api/v1/cache/stats

if settings := TraceSettings.from_env():
    traces = Traces(settings, "predictions", cache.metrics.exemplar)
    cache.tracer = traces.tracing
    app.add_middleware(TraceRequests, tracing=traces.tracing)


async def predict(match_id: str, market: str) -> dict[str, object]:
    """Stands for a slow model."""
    await asyncio.sleep(0.2)
    return {"match_id": match_id, "market": market, "yes": 0.6}


@app.get("/matches/{match_id}/markets/{market}")
async def prediction(match_id: str, market: str) -> dict[str, object]:
    """One prediction, and why it was served."""
    result = await cache.get_with_intelligence(
        key_factory.prediction(match_id, market),
        lambda: predict(match_id, market),
        {"match_id": match_id, "market": market},
    )
    return {"prediction": result.value, "reasoning": result.metadata.reasoning}


@app.post("/matches/{match_id}/events/{event_type}")
async def event(match_id: str, event_type: EventType) -> dict[str, object]:
    """Something has happened: what it makes wrong is retired."""
    return {**await cache.invalidate_by_event(event_type, f"match:{match_id}")}

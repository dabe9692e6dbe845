"""Predictions behind the cache in Starlette, with the cache's metrics beside them: ``granian --interface asgi
examples.starlette_app:app``.

Processes of several workers (``--workers 4``) share a folder, ``SMARTCACHE_METRICS_DIR``; whichever is asked for
``/cache/metrics`` answers for all.
"""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from exporter.app import create_app
from smartcache import CacheConfig, SmartCacheEnhanced, key_factory

cache = SmartCacheEnhanced(CacheConfig.from_env())


async def predict(match_id: str, market: str) -> dict[str, object]:
    """Stands for a slow model."""
    await asyncio.sleep(0.2)
    return {"match_id": match_id, "market": market, "yes": 0.6}


async def prediction(request: Request) -> JSONResponse:
    """One prediction, and why it was served."""
    match_id, market = request.path_params["match_id"], request.path_params["market"]
    result = await cache.get_with_intelligence(
        key_factory.prediction(match_id, market),
        lambda: predict(match_id, market),
        {"match_id": match_id, "market": market},
    )
    return JSONResponse({"prediction": result.value, "reasoning": result.metadata.reasoning})


app = Starlette(
    routes=[
        Route("/matches/{match_id}/markets/{market}", prediction),
        Mount("/cache", create_app()),  # the exporter: /cache/metrics, /cache/api/v1/cache/stats
    ]
)

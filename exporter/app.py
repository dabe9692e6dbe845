"""The exporter as an ASGI app: to run by itself, or to mount in an app of one's own."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from exporter.exposition import CacheCollector
from exporter.files import MetricsFiles
from exporter.pages import Pages
from smartcache.config import CacheConfig
from smartcache.errors import ConfigError
from smartcache.snapshot import derive, totals

__all__ = ["create_app"]

_PAGES: Final = {
    "metrics": "for Prometheus: text, or OpenMetrics if asked for",
    "api/v1/cache/metrics": "the same as plain text",
    "api/v1/cache/stats": "the 35 statistics as JSON, all processes together, and since when they count",
    "healthz": "whether this exporter answers",
}


def create_app(directory: Path | None = None, resets: Mapping[str, str] | None = None) -> Starlette:
    """The exporter of a directory of metrics files, by default as the environment says: ``SMARTCACHE_METRICS_DIR``.

    Mounted in another app it needs no further set-up: ``app.mount("/cache", create_app())``. Every worker of that app
    may carry one; Prometheus may then ask any of them.

    Args:
        directory: where the processes keep their files.
        resets: how often each category of ``api/v1/cache/stats`` begins anew, ``hourly`` or ``daily``, for those that
            do: :attr:`CacheConfig.resets`, by default the environment's if that names the directory too.

    Raises:
        ConfigError: no directory is named, or it is not there and cannot be made.
    """
    if directory is None:
        config = CacheConfig.from_env()
        if not config.metrics_dir:
            raise ConfigError(
                "SMARTCACHE_METRICS_DIR is not set: name the folder of the metrics files there, with --dir, "
                "or in create_app()"
            )
        directory = Path(config.metrics_dir)
        resets = config.resets if resets is None else resets
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"SMARTCACHE_METRICS_DIR={str(directory)!r} is no folder and cannot be made one ({error.strerror}); "
            "name a folder that the recording processes can write to"
        ) from error
    files = MetricsFiles(directory, resets)
    registry = CollectorRegistry()
    registry.register(CacheCollector(files))
    pages = Pages(registry)

    # Reading and writing the page is work for a thread: an app that mounts this one must go on answering.
    async def answer(accept: str, request: Request) -> Response:
        accept_encoding = request.headers.get("accept-encoding", "")
        response = await run_in_threadpool(pages.page, accept, accept_encoding)
        if files.to_fold:
            response.background = BackgroundTask(files.fold)  # nobody waits for the disk
        return response

    async def metrics(request: Request) -> Response:
        return await answer(request.headers.get("accept", ""), request)

    async def text_metrics(request: Request) -> Response:
        return await answer("text/plain", request)

    async def stats(_: Request) -> Response:
        reading = await run_in_threadpool(files.read)
        if not reading.complete:
            return JSONResponse({"error": f"parts of {directory} cannot be read; /metrics says how many"}, 503)
        snapshot = reading.snapshot
        statistics = derive(totals(snapshot.samples), reading.baseline, snapshot.slowest, snapshot.fastest)
        return JSONResponse({"stats": statistics, "windows": reading.windows})

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def landing(_: Request) -> Response:
        links = "".join(f'<li><a href="{path}">{path}</a>: {html.escape(text)}</li>' for path, text in _PAGES.items())
        return HTMLResponse(
            "<!doctype html><html lang=en><title>smartcache exporter</title><h1>smartcache exporter</h1>"
            f"<p>Reads {html.escape(str(directory))}.</p><ul>{links}</ul></html>"
        )

    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/api/v1/cache/metrics", text_metrics),
            Route("/api/v1/cache/stats", stats),
            Route("/healthz", healthz),
            Route("/", landing),
        ],
        exception_handlers={404: _not_found, 405: _not_allowed},
    )


async def _not_found(request: Request, _: Exception) -> Response:
    known = ", ".join(f"{request.scope.get('root_path', '')}/{path}" for path in _PAGES)
    return JSONResponse({"error": f"there is nothing at {request.url.path}; there is {known}"}, 404)


async def _not_allowed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(
        {"error": f"{request.method} is not possible at {request.url.path}; it can be read with GET"},
        405,
        headers=error.headers,
    )

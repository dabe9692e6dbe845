"""The exporter as an ASGI app: to run by itself, or to mount in an app of one's own."""

from __future__ import annotations

import gzip
import html
import os
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from exporter.exposition import CacheCollector
from exporter.files import MetricsFiles
from smartcache.errors import ConfigError
from smartcache.snapshot import derive, totals

__all__ = ["create_app"]

_PAGES: Final = {
    "metrics": "for Prometheus: text, or OpenMetrics if asked for",
    "api/v1/cache/metrics": "the same as plain text",
    "api/v1/cache/stats": "the 35 statistics as JSON, all processes together",
    "healthz": "whether this exporter answers",
}


def create_app(directory: Path | None = None) -> Starlette:
    """The exporter of a directory of metrics files, by default the one that ``SMARTCACHE_METRICS_DIR`` names.

    Mounted in another app it needs no further set-up: ``app.mount("/cache", create_app())``. Every worker of that app
    may carry one; Prometheus may then ask any of them.

    Raises:
        ConfigError: no directory is named, or it is not there and cannot be made.
    """
    if directory is None:
        named = os.environ.get("SMARTCACHE_METRICS_DIR")
        if not named:
            raise ConfigError(
                "SMARTCACHE_METRICS_DIR is not set: name the folder of the metrics files there, with --dir, "
                "or in create_app()"
            )
        directory = Path(named)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"SMARTCACHE_METRICS_DIR={str(directory)!r} is no folder and cannot be made one ({error.strerror}); "
            "name a folder that the recording processes can write to"
        ) from error
    files = MetricsFiles(directory)
    registry = CollectorRegistry()
    registry.register(CacheCollector(files))

    def page(accept: str, accept_encoding: str) -> Response:
        encode, content_type = choose_encoder(accept)
        body = encode(registry)
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if gzip_accepted(accept_encoding):
            body = gzip.compress(body, compresslevel=6)
            headers["Content-Encoding"] = "gzip"
        return Response(body, headers=headers)

    # Reading and writing the page is work for a thread: an app that mounts this one must go on answering.
    async def metrics(request: Request) -> Response:
        headers = request.headers
        return await run_in_threadpool(page, headers.get("accept", ""), headers.get("accept-encoding", ""))

    async def text_metrics(request: Request) -> Response:
        return await run_in_threadpool(page, "text/plain", request.headers.get("accept-encoding", ""))

    async def stats(_: Request) -> Response:
        snapshot = (await run_in_threadpool(files.read)).snapshot
        return JSONResponse({"stats": derive(totals(snapshot.samples), {}, snapshot.slowest, snapshot.fastest)})

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

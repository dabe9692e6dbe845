"""A service of the load tests' own: the same API as the real one, a dictionary for a cache, and its own counters."""

import os
from collections import Counter
from datetime import UTC, datetime, timedelta

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from loadtest.verdict import ROUTE

#: Every so many answers is a server error; 0 for none.
ERROR_EVERY = int(os.environ.get("TINY_ERROR_EVERY", "0"))

seen: set[str] = set()
counts: Counter[str] = Counter()


async def matches(_: Request) -> Response:
    now = datetime.now(UTC)
    listed = [
        {"match_id": f"m{number}", "kickoff_time": (now + timedelta(minutes=10 + number)).isoformat(), "zone": zone}
        for number, zone in enumerate(("warmup", "golden", "golden"), start=4)
    ]
    return JSONResponse({"matches": listed})


async def prediction(request: Request) -> Response:
    counts["asked"] += 1
    if ERROR_EVERY and counts["asked"] % ERROR_EVERY == 0:
        counts["code_503"] += 1
        return JSONResponse({"error": "on order"}, 503)
    counts["code_200"] += 1
    hit = request.url.path in seen
    seen.add(request.url.path)
    counts["hit" if hit else "miss"] += 1
    return JSONResponse({}, headers={"Cache-Status": "tiny; hit" if hit else "tiny; fwd=miss"})


async def metrics(_: Request) -> Response:
    hits, misses = counts["hit"], counts["miss"]
    lines = [
        f'smartcache_requests_total{{strategy="serve_fresh",zone="golden"}} {hits}',
        f'smartcache_requests_total{{strategy="compute",zone="golden"}} {misses}',
        f'smartcache_lookups_total{{result="hit_fresh",tier="memory",market="btts"}} {hits}',
        f'smartcache_lookups_total{{result="miss",tier="none",market="btts"}} {misses}',
        f'smartcache_swr_evaluations_total{{result="served_fresh"}} {hits}',
        f'smartcache_request_duration_seconds_bucket{{strategy="serve_fresh",le="0.1"}} {hits}',
        f'smartcache_request_duration_seconds_bucket{{strategy="serve_fresh",le="+Inf"}} {hits}',
        f'smartcache_request_duration_seconds_count{{strategy="serve_fresh"}} {hits}',
        f'smartcache_request_duration_seconds_count{{strategy="compute"}} {misses}',
        *(
            f'smartcache_http_requests_total{{route="{ROUTE}",code="{code}"}} {counts[f"code_{code}"]}'
            for code in (200, 503)
        ),
        "smartcache_latency_sampling_ratio 1",
    ]
    return Response("\n".join(lines) + "\n", media_type=CONTENT_TYPE_LATEST)


app = Starlette(
    routes=[Route("/v1/matches", matches), Route(ROUTE, prediction), Route("/metrics", metrics)],
)

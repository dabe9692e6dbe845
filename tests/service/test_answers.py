from __future__ import annotations

from typing import Any

import pytest

from service.answers import RequestError, cache_headers
from smartcache import CacheStrategy, ResultMetadata


def headers_of(strategy: CacheStrategy, most: int = 10, **changes: Any) -> dict[str, str]:
    told: dict[str, Any] = {
        "tier": "memory", "ttl": 900.0, "zone": "active", "age": 5.9, "vix_status": "normal", "expires_in": 894.1,
        "stale_for": 1794.1, "outcome": "absent", "reason": "",
    } | changes  # fmt: skip
    metadata = ResultMetadata(strategy=strategy, **told)
    return {name.decode(): value.decode() for name, value in cache_headers(metadata, most)}


def test_a_fresh_hit() -> None:
    headers = headers_of(CacheStrategy.SERVE_FRESH)
    assert headers == {
        "cache-status": "smartcache; hit; ttl=894; detail=memory",
        "age": "5",
        "cache-control": "max-age=10, stale-while-revalidate=10",
    }


def test_what_remains_is_told_when_it_is_less_than_the_cap() -> None:
    headers = headers_of(CacheStrategy.SERVE_FRESH, expires_in=3.7, stale_for=9.2)
    assert headers["cache-control"] == "max-age=3, stale-while-revalidate=5"
    assert headers["cache-status"] == "smartcache; hit; ttl=3; detail=memory"


def test_a_stale_hit_has_a_negative_ttl_and_nothing_left() -> None:
    headers = headers_of(CacheStrategy.SERVE_STALE, tier="store", age=902.5, expires_in=-2.5, stale_for=4.5)
    assert headers["cache-status"] == "smartcache; hit; ttl=-3; detail=store"
    assert headers["cache-control"] == "max-age=0, stale-while-revalidate=4"
    assert headers["age"] == "902"


@pytest.mark.parametrize(
    ("strategy", "changes", "status"),
    [
        (CacheStrategy.COMPUTE, {}, "smartcache; fwd=miss; stored"),
        (CacheStrategy.COMPUTE, {"coalesced": True}, "smartcache; fwd=miss; stored; collapsed"),
        (CacheStrategy.COMPUTE, {"outcome": "too_stale"}, "smartcache; fwd=stale; stored"),
        (CacheStrategy.BYPASS, {"outcome": "bypass_forced"}, "smartcache; fwd=request; detail=forced"),
        (CacheStrategy.BYPASS, {"outcome": "bypass_panic"}, "smartcache; fwd=bypass; detail=panic"),
        (CacheStrategy.BYPASS, {"outcome": "bypass_started"}, "smartcache; fwd=bypass; detail=started"),
    ],
)
def test_the_reasons_for_a_compute(strategy: CacheStrategy, changes: dict[str, Any], status: str) -> None:
    assert headers_of(strategy, **{"tier": "none", "age": 0.0, **changes})["cache-status"] == status


@pytest.mark.parametrize("changes", [{"vix_status": "panic"}, {"vix_status": "warning"}, {"zone": "match_started"}])
@pytest.mark.parametrize("strategy", list(CacheStrategy))
def test_restless_and_started_matches_are_not_stored_downstream(
    strategy: CacheStrategy, changes: dict[str, Any]
) -> None:
    assert headers_of(strategy, **changes)["cache-control"] == "no-store"


def test_a_cap_of_zero_lets_no_client_keep_anything() -> None:
    assert headers_of(CacheStrategy.SERVE_FRESH, most=0)["cache-control"] == "max-age=0, stale-while-revalidate=0"


def test_an_error_says_what_is_allowed() -> None:
    answer = RequestError(404, "unknown market 'x'", ["btts"]).answer([(b"allow", b"GET")])
    assert answer.status_code == 404
    assert answer.body == b'{"error":"unknown market \'x\'","allowed":["btts"]}'
    assert (b"cache-control", b"no-store") in answer.raw_headers
    assert (b"allow", b"GET") in answer.raw_headers

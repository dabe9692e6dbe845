"""Every stream of requests keeps the laws; every single miscount breaks one."""

from collections import Counter
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.laws import count_violation, violations
from loadtest.prometheus import Reading, Sample
from smartcache.catalogue import VIX_STATUSES, ZONES
from smartcache.tags import MARKETS

Series = Counter[tuple[str, frozenset[tuple[str, str]]]]

_HITS: Final = {"serve_fresh": ("hit_fresh", "served_fresh"), "serve_stale": ("hit_stale", "served_stale")}

#: A request as the contract counts it: strategy, zone, volatility status, market, and whether a miss found a corpse.
requests = st.one_of(
    st.tuples(
        st.sampled_from(("compute", "serve_stale", "serve_fresh")),
        st.sampled_from(ZONES),
        st.sampled_from((None, "warning", "normal")),
        st.sampled_from(MARKETS),
        st.booleans(),
    ),
    st.tuples(
        st.just("bypass"),
        st.sampled_from(ZONES),
        st.sampled_from((None, *VIX_STATUSES)),
        st.sampled_from(MARKETS),
        st.just(False),
    ),
)
Request = tuple[str, str, str | None, str, bool]


def add(series: Series, name: str, value: float = 1, **labels: str) -> None:
    series[name, frozenset(labels.items())] += value  # type: ignore[assignment]


def count(stream: list[Request], events: list[int]) -> Series:
    """The counters after a stream of requests and events, an event being the number of markets it touches."""
    series: Series = Counter()
    for strategy, zone, vix, market, too_stale in stream:
        add(series, "smartcache_requests_total", strategy=strategy, zone=zone)
        add(series, "smartcache_request_duration_seconds_count", strategy=strategy)
        if vix:
            add(series, "smartcache_vix_evaluations_total", status=vix, competition="epl")
        if strategy == "bypass":
            if vix == "panic":
                add(series, "smartcache_vix_bypasses_total")
            continue
        lookup, judged = _HITS.get(strategy, ("miss", "too_stale" if too_stale else ""))
        tier = "none" if strategy == "compute" else "memory"
        add(series, "smartcache_lookups_total", result=lookup, tier=tier, market=market)
        if judged:
            add(series, "smartcache_swr_evaluations_total", result=judged)
    for affected in events:
        add(series, "smartcache_invalidations_total", kind="surgical")
        add(series, "smartcache_invalidation_markets_total", affected, outcome="affected")
        add(series, "smartcache_invalidation_markets_total", len(MARKETS) - affected, outcome="preserved")
    return series


def reading(series: Series, sampling: float = 1) -> Reading:
    samples = [Sample(name, dict(labels), value) for (name, labels), value in series.items()]
    return Reading([*samples, Sample("smartcache_latency_sampling_ratio", {}, sampling)])


streams = st.lists(requests, max_size=30)
events = st.lists(st.integers(0, len(MARKETS)), max_size=5)


@given(streams, events)
def test_a_stream_of_requests_keeps_every_law(stream: list[Request], touched: list[int]) -> None:
    assert violations(reading(count(stream, touched))) == []


@given(streams, streams, events)
def test_the_difference_of_two_readings_keeps_them_too(
    first: list[Request], second: list[Request], touched: list[int]
) -> None:
    before, after = count(first, touched), count(first + second, touched + touched)
    assert violations(reading(after).since(reading(before))) == []


_EXACT: Final = (
    "smartcache_requests_total",
    "smartcache_lookups_total",
    "smartcache_invalidations_total",
    "smartcache_invalidation_markets_total",
    "smartcache_request_duration_seconds_count",
)


@given(st.lists(requests, min_size=1, max_size=30), st.lists(st.integers(0, len(MARKETS)), min_size=1), st.data())
def test_one_count_too_many_or_lost_breaks_a_law(
    stream: list[Request], touched: list[int], data: st.DataObject
) -> None:
    series = count(stream, touched)
    wrong = data.draw(st.sampled_from(sorted((key for key in series if key[0] in _EXACT), key=str)))
    series[wrong] += data.draw(st.sampled_from((1, -1)))
    assert violations(reading(series))


@pytest.mark.parametrize(
    ("name", "labels", "law"),
    [
        ("smartcache_swr_evaluations_total", {"result": "served_fresh"}, "hit_fresh = swr_served_fresh: 0 against 5"),
        ("smartcache_swr_evaluations_total", {"result": "served_stale"}, "hit_stale = swr_served_stale: 0 against 5"),
        ("smartcache_swr_evaluations_total", {"result": "too_stale"}, "too_stale <= miss: 5 against 0"),
        ("smartcache_vix_evaluations_total", {"status": "normal"}, "panic + warning + normal <= total_requests"),
        ("smartcache_vix_bypasses_total", {}, "cache_bypass_vix <= panic: 5 against 0"),
    ],
)
def test_a_broken_law_is_named_with_both_values(name: str, labels: dict[str, str], law: str) -> None:
    broken = violations(Reading([Sample(name, labels, 5)]))
    assert any(violation.startswith(law) for violation in broken), broken


def test_the_histogram_is_asked_only_while_every_request_is_sampled() -> None:
    series = count([("bypass", "golden", None, "btts", False)] * 4, [])
    series["smartcache_request_duration_seconds_count", frozenset({("strategy", "bypass")})] = 1
    assert violations(reading(series, sampling=0.25)) == []
    assert violations(reading(series)) == ["the latency histogram's count = total_requests: 1 against 4"]


def test_clients_and_prometheus_must_agree_but_for_what_got_no_answer() -> None:
    assert count_violation(clients=10, seen=10) is None
    assert count_violation(clients=10, seen=12, uncertain=2) is None
    assert count_violation(clients=10, seen=9, uncertain=2) is not None
    assert count_violation(clients=10, seen=11) == ("what clients counted = what Prometheus sees: 10 against 11")
    assert "10 to 12 against 13" in str(count_violation(clients=10, seen=13, uncertain=2))

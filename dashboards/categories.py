"""The sections of the seven categories, which show the 35 statistics and the series nearest to them."""

from __future__ import annotations

from typing import Final

from grafanalib.core import Panel

from dashboards import promql, tone
from dashboards.entries import GOVERNOR, colour, counted, derived, history, listed, named, told
from dashboards.panels import Target, graph, heatmap, ranking, tile, timeline
from smartcache.catalogue import FAMILY, STATISTIC, STATISTICS, ZONES
from smartcache.golden_hour import ZONES as LIFETIMES
from smartcache.objectives import HIT_RATIO, LATENCY_P99, VIX_PANIC

__all__ = ["base_cache", "golden_hour", "performance", "strategy", "swr", "tagmanager", "vix"]

_HITS: Final = 'result=~"hit_fresh|hit_stale"'
_PANIC: Final = 'status="panic"'
_FROM_CACHE: Final = 'strategy=~"serve_fresh|serve_stale"'


def base_cache() -> list[Panel]:
    """Whether requests are answered from the cache."""
    return [
        derived("hit_rate_pct"),
        history(
            "Hit ratio over time",
            "Of lookups, and of all requests: bypasses count against the second, so a panic shows there.",
            "smartcache:hit_ratio:rate5m",
            HIT_RATIO,
            Target(promql.recorded("smartcache:served_from_cache_ratio:rate5m"), "Served from cache", tone.SHADES[0]),
        ),
        counted("base_cache", "smartcache_lookups_total", "Lookups by result"),
        counted("base_cache", "smartcache_store_errors_total", "Store errors", width=4, events=True),
        ranking(
            "Hit ratio by market",
            "Over 5 minutes. One red market points to what invalidates it; all at once, to the store or a cold start.",
            promql.share("smartcache_lookups_total", _HITS, by="market"),
            by="market",
            steps=tone.steps(HIT_RATIO),
            size=(12, 9),
        ),
        graph(
            "Lookups by tier",
            "Where the value was held: in this process, in the store, or nowhere.",
            "reqps",
            [Target(promql.rate("smartcache_lookups_total", by="tier"), "{{tier}}")],
            size=(12, 9),
            stack=True,
            names=named("smartcache_lookups_total", "tier"),
        ),
    ]


def vix() -> list[Panel]:
    """Whether the market moves so fast that values cannot be trusted."""
    return [
        derived("vix_panic_rate_pct"),
        history(
            "Panic ratio over time",
            "Share of volatility judgements that were a panic.",
            "smartcache:vix_panic_ratio:rate5m",
            VIX_PANIC,
        ),
        counted("vix", "smartcache_vix_evaluations_total", "Judgements by status"),
        counted("vix", "smartcache_vix_bypasses_total", "Panic bypasses", width=4),
        timeline(
            "Governor mode",
            f"The worst mode of any process. {FAMILY['smartcache_governor_mode'].why}",
            [Target(promql.worst("smartcache_governor_mode", "mode"), "worst process")],
            GOVERNOR,
        ),
        ranking(
            "Panic ratio by competition",
            "Over 5 minutes. One competition alone is its own market moving; all at once point to the feed of odds.",
            promql.share("smartcache_vix_evaluations_total", _PANIC, by="competition"),
            by="competition",
            steps=tone.steps(VIX_PANIC),
            most=4 * VIX_PANIC.threshold,
        ),
        graph(
            "Odds ticks",
            told("smartcache_odds_ticks_total"),
            "ops",
            [Target(promql.rate("smartcache_odds_ticks_total", by="origin"), "{{origin}}")],
            names=named("smartcache_odds_ticks_total", "origin"),
        ),
    ]


def golden_hour() -> list[Panel]:
    """How close to kickoff the traffic is."""
    family = "smartcache_requests_total"
    return [
        derived("golden_hour_total"),
        counted("golden_hour", family, "Requests by time to kickoff", width=12),
        graph(
            "Served from cache by zone",
            "Share of requests answered from the cache. The nearer to kickoff, the shorter values live.",
            "percentunit",
            [
                Target(promql.ratio(family, _FROM_CACHE, f'zone="{zone}"'), zone.capitalize(), shade)
                for zone, shade in zip((zone.name for zone in reversed(LIFETIMES)), tone.SHADES, strict=False)
            ],
            decimals=1,
            ceiling=1,
        ),
    ]


def swr() -> list[Panel]:
    """Whether stale answers are refreshed in time, and how old answers are."""
    lifetimes = {zone.name: zone.ttl for zone in LIFETIMES}
    ages = [
        heatmap(
            f"Age at serve, {zone.replace('_', ' ')}" if zone != "none" else "Age at serve, no kickoff",
            told("smartcache_served_age_seconds")
            + (f" Fresh up to {_duration(lifetimes[zone])}; stale at most as long again." if zone in lifetimes else ""),
            "s",
            promql.buckets("smartcache_served_age_seconds", f'zone="{zone}"'),
            size=(4, 7),
            legend=False,
        )
        for zone in ZONES
        if zone != "match_started"  # never served
    ]
    return [
        counted("swr", "smartcache_swr_evaluations_total", "Held values by staleness"),
        counted("swr", "smartcache_swr_refreshes_total", "Background refreshes", unit="ops"),
        graph(
            "Refreshes ahead and held back",
            " ".join(
                told(f"smartcache_{name}")
                for name in ("early_refreshes_total", "swr_refreshes_in_progress", "swr_refreshes_skipped_total")
            ),
            "short",
            [
                Target(promql.rate("smartcache_early_refreshes_total"), "Early, per second", tone.SHADES[1]),
                Target(promql.gauge("smartcache_swr_refreshes_in_progress"), "Running", tone.SHADES[0]),
                Target(promql.rate("smartcache_swr_refreshes_skipped_total"), "Held back, per second", tone.BAD),
            ],
        ),
        *ages,
    ]


def tagmanager() -> list[Panel]:
    """What events retired, and what they spared."""
    return [
        derived("avg_cpu_saved_pct"),
        counted("tagmanager", "smartcache_invalidations_total", "Invalidations", width=5, events=True),
        counted(
            "tagmanager", "smartcache_invalidation_markets_total", "Markets touched by events", width=6, events=True
        ),
        counted(
            "tagmanager",
            "smartcache_invalidation_keys_deleted_total",
            "Entries retired by events",
            width=5,
            events=True,
        ),
        graph(
            "Invalidations queued",
            told("smartcache_invalidations_queued"),
            "short",
            [Target(promql.gauge("smartcache_invalidations_queued"), "Queued", tone.BAD)],
            size=(4, 7),
            decimals=0,
            ceiling=1,
            no_value=tone.NO_DATA,
        ),
    ]


def strategy() -> list[Panel]:
    """What the engine decided."""
    family = "smartcache_requests_total"
    return [
        counted("strategy", family, "Requests by strategy", width=12),
        graph(
            "Share of requests by strategy",
            "The same as shares of all requests.",
            "percentunit",
            [
                Target(promql.ratio(family, f'strategy="{entry.match[0][1]}"'), entry.title, colour(entry))
                for entry in STATISTICS
                if entry.category == "strategy"
            ],
            size=(12, 7),
            stack=True,
            ceiling=1,
        ),
    ]


def performance() -> list[Panel]:
    """How much traffic there is, and how fast it is answered."""
    family = "smartcache_request_duration_seconds"
    return [
        derived("avg_latency_ms"),
        graph(
            "Slowest and fastest",
            listed([STATISTIC["max_latency_ms"], STATISTIC["min_latency_ms"]]),
            "s",
            [
                Target(promql.statistic(STATISTIC[name]), STATISTIC[name].title, shade)
                for name, shade in (("max_latency_ms", tone.SHADES[0]), ("min_latency_ms", tone.SHADES[2]))
            ],
            log=True,
        ),
        counted("performance", "smartcache_requests_total", "Requests per second", width=6),
        graph(
            "Latency and its objective",
            "The 99th percentile of requests served from the cache, and the mean of all. "
            f"Objective of both: {LATENCY_P99.describe()}.",
            "s",
            [
                Target(
                    promql.recorded("smartcache:request_duration_seconds_cached:p99_5m"),
                    "p99, from cache",
                    tone.SHADES[1],
                ),
                Target(promql.recorded("smartcache:request_duration_seconds:mean5m"), "Mean, all", tone.SHADES[0]),
                # A series, since a logarithmic axis does not stretch to a threshold.
                Target(f"vector({LATENCY_P99.threshold:g})", "Objective", tone.BAD, dashed=True),
            ],
            size=(6, 7),
            log=True,
        ),
        heatmap(
            "Request duration",
            told(family),
            "s",
            promql.buckets(family),
            size=(10, 9),
        ),
        graph(
            "Request p99 by strategy",
            "What a caller waits at worst, by what was done for it.",
            "s",
            [Target(promql.quantile(0.99, family, by="strategy"), "{{strategy}}", exemplar=True)],
            size=(10, 9),
            log=True,
            names={
                entry.match[0][1]: (entry.title, colour(entry)) for entry in STATISTICS if entry.category == "strategy"
            },
        ),
        tile(
            "Latency sampling",
            told("smartcache_latency_sampling_ratio"),
            "percentunit",
            Target(promql.gauge("smartcache_latency_sampling_ratio"), "Sampled", instant=True),
            size=(4, 9),
            decimals=0,
            no_value=tone.NO_DATA,
        ),
    ]


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"

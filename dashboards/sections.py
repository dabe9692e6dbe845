"""The sections of the overview: the seven categories of statistics, then the parts of the system.

Each function lays out one section. What the catalogue has and no panel shows yet gets a plain panel at the end of its
section, so that a new entry is never invisible.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from grafanalib.core import Panel

from alerts.bounds import BURN_RATES, BUS_LAG_SECONDS, STORE_MEMORY_RATIO
from dashboards import promql, tone
from dashboards.panels import State, Target, gauge, graph, heatmap, ranking, tile, timeline
from smartcache.catalogue import (
    BREAKER_STATES,
    BURN_WINDOWS,
    CATEGORIES,
    FAMILIES,
    FAMILY,
    GOVERNOR_MODES,
    PARTS,
    RULE,
    STATISTIC,
    STATISTICS,
    ZONES,
    Category,
    Family,
    Statistic,
)
from smartcache.golden_hour import ZONES as LIFETIMES
from smartcache.objectives import (
    AVAILABILITY,
    COMPUTE_P95,
    HIT_RATIO,
    LATENCY_P99,
    PROMISE,
    VIX_PANIC,
    Objective,
)

__all__ = ["BREAKER", "GOVERNOR", "sections"]

#: Grafana's units for the catalogue's.
UNITS: Final = {"": "short", "seconds": "s", "bytes": "bytes", "ratio": "percentunit", "per_second": "reqps"}

GOVERNOR: Final = tuple(
    State(index, mode.replace("_", " "), colour)
    for index, (mode, colour) in enumerate(zip(GOVERNOR_MODES, (tone.GOOD, tone.WARN, tone.BAD), strict=True))
)
BREAKER: Final = tuple(
    State(index, state.replace("_", " "), colour)
    for index, (state, colour) in enumerate(zip(BREAKER_STATES, (tone.GOOD, tone.WARN, tone.BAD), strict=True))
)

_HITS: Final = 'result=~"hit_fresh|hit_stale"'
_FAILED: Final = 'code=~"5.."'
_PANIC: Final = 'status="panic"'
_FROM_CACHE: Final = 'strategy=~"serve_fresh|serve_stale"'

#: Label values that are good or bad in themselves.
_MEANING: Final[Mapping[str, str]] = {
    "success": tone.GOOD,
    "error": tone.BAD,
    "timeout": tone.WARN,
    "live": tone.GOOD,
    "dead": tone.WARN,
    "unreadable": tone.BAD,
}


def sections() -> list[tuple[str, list[Panel]]]:
    """Title and panels of each section, in the order of the catalogue."""
    built: list[tuple[str, list[Panel]]] = []
    for category, (title, question) in {**CATEGORIES, **PARTS}.items():
        panels = _SECTIONS[category]() if category in _SECTIONS else []
        built.append((f"{title}: {question[0].lower()}{question[1:]}", panels))
    everything = [panel for _, panels in built for panel in panels]
    for category, (_, panels) in zip({**CATEGORIES, **PARTS}, built, strict=True):
        panels += _unseen(category, everything)
    return built


# ---- what is said of a panel ----


def _judged_by(objective: Objective) -> str:
    return f"Objective: {objective.describe()}. {objective.why}"


def _list(entries: Iterable[Statistic]) -> str:
    return "\n".join(f"- **{entry.title}** (`{entry.name}`): {entry.help}" for entry in entries)


def _named(family: str, label: str) -> dict[str, tuple[str, str]]:
    """What the series of a label's values are called, and their colours."""
    values = FAMILY[family].label(label).values
    shades = iter(tone.SHADES * 2)
    return {value: (value.replace("_", " "), _MEANING.get(value) or next(shades)) for value in values}


# ---- panels of statistics ----


def _counted(
    category: Category,
    family: str,
    title: str,
    text: str = "",
    *,
    width: int = 8,
    events: bool = False,
    stack: bool = True,
    unit: str = "reqps",
) -> Panel:
    """All statistics of a category that one counter family holds."""
    entries = [entry for entry in STATISTICS if entry.category == category and entry.family == family]
    neutral = sum(entry.colour == "neutral" for entry in entries)
    shades = iter(tone.SHADES if neutral > 1 else (tone.NEUTRAL,))
    return graph(
        title,
        f"{text}\n\n{_list(entries)}".strip(),
        "short" if events else unit,
        [
            Target(
                promql.statistic(entry, events=events),
                entry.title,
                next(shades) if entry.colour == "neutral" else tone.TONES[entry.colour],
            )
            for entry in entries
        ],
        size=(width, 7),
        stack=stack and len(entries) > 1,
        events=events,
        decimals=0 if events else None,
        ceiling=4 if events else None,
        no_value=tone.NO_DATA,
    )


def _derived(name: str, width: int = 4) -> Panel:
    """One statistic that is a single value."""
    entry = STATISTIC[name]
    said = f"{entry.help} Statistic `{entry.name}`."
    if entry.objective is not None:
        said = f"{said} {_judged_by(entry.objective)}"
    target = Target(promql.statistic(entry), entry.title, instant=True)
    if entry.panel == "gauge":
        bound = entry.objective
        return gauge(
            entry.title,
            said,
            target,
            steps=tone.steps(bound) if bound else (),
            size=(width, 7),
            most=4 * bound.threshold if bound and bound.sense == "at_most" else 1,
        )
    unit = {"count": "reqps", "percent": "percentunit", "milliseconds": "s"}[entry.unit]
    return tile(
        entry.title,
        said,
        unit,
        target,
        size=(width, 7),
        steps=tone.steps(entry.objective) if entry.objective else (),
        background=False,
    )


def _history(title: str, text: str, record: str, objective: Objective, *more: Target, width: int = 8) -> Panel:
    """A recorded value over time, with a line at its objective."""
    rule = RULE[record]
    at_most = objective.sense == "at_most"
    return graph(
        title,
        f"{text} {_judged_by(objective)}",
        UNITS[rule.unit],
        [Target(promql.recorded(record), objective.title, tone.NEUTRAL), *more],
        size=(width, 7),
        steps=tone.line(objective),
        ceiling=objective.threshold * 1.2 if at_most else 1,
        decimals=1 if rule.unit == "ratio" else None,
    )


# ---- the seven categories ----


def _base_cache() -> list[Panel]:
    return [
        _derived("hit_rate_pct"),
        _history(
            "Hit ratio over time",
            "Of lookups, and of all requests: bypasses count against the second, so a panic shows there.",
            "smartcache:hit_ratio:rate5m",
            HIT_RATIO,
            Target(promql.recorded("smartcache:served_from_cache_ratio:rate5m"), "Served from cache", tone.SHADES[0]),
        ),
        _counted("base_cache", "smartcache_lookups_total", "Lookups by result"),
        _counted("base_cache", "smartcache_store_errors_total", "Store errors", width=4, events=True),
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
            names=_named("smartcache_lookups_total", "tier"),
        ),
    ]


def _vix() -> list[Panel]:
    return [
        _derived("vix_panic_rate_pct"),
        _history(
            "Panic ratio over time",
            "Share of volatility judgements that were a panic.",
            "smartcache:vix_panic_ratio:rate5m",
            VIX_PANIC,
        ),
        _counted("vix", "smartcache_vix_evaluations_total", "Judgements by status"),
        _counted("vix", "smartcache_vix_bypasses_total", "Panic bypasses", width=4),
        timeline(
            "Governor mode",
            "The worst mode of any process. High volatility caches panicking requests for seconds; an open circuit "
            "serves them from the cache, to keep the model alive.",
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
            "Ticks that entered a volatility window. None for minutes: the feed is silent, and volatility blind.",
            "ops",
            [Target(promql.rate("smartcache_odds_ticks_total", by="origin"), "{{origin}}")],
            names=_named("smartcache_odds_ticks_total", "origin"),
        ),
    ]


def _golden_hour() -> list[Panel]:
    family = "smartcache_requests_total"
    return [
        _derived("golden_hour_total"),
        _counted("golden_hour", family, "Requests by time to kickoff", width=12),
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


def _swr() -> list[Panel]:
    lifetimes = {zone.name: zone.ttl for zone in LIFETIMES}
    ages = [
        heatmap(
            f"Age at serve, {zone.replace('_', ' ')}" if zone != "none" else "Age at serve, no kickoff",
            "How old values were when served."
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
        _counted("swr", "smartcache_swr_evaluations_total", "Held values by staleness"),
        _counted("swr", "smartcache_swr_refreshes_total", "Background refreshes", unit="ops"),
        graph(
            "Refreshes ahead and held back",
            "Started early by the X-Fetch draw; running now; and not started, because as many as allowed were running: "
            "then values grow too stale.",
            "short",
            [
                Target(promql.rate("smartcache_early_refreshes_total"), "Early, per second", tone.SHADES[1]),
                Target(promql.gauge("smartcache_swr_refreshes_in_progress"), "Running", tone.SHADES[0]),
                Target(promql.rate("smartcache_swr_refreshes_skipped_total"), "Held back, per second", tone.BAD),
            ],
        ),
        *ages,
    ]


def _tagmanager() -> list[Panel]:
    return [
        _derived("avg_cpu_saved_pct"),
        _counted("tagmanager", "smartcache_invalidations_total", "Invalidations", width=5, events=True),
        _counted(
            "tagmanager", "smartcache_invalidation_markets_total", "Markets touched by events", width=6, events=True
        ),
        _counted(
            "tagmanager",
            "smartcache_invalidation_keys_deleted_total",
            "Entries retired by events",
            width=5,
            events=True,
        ),
        graph(
            "Invalidations queued",
            "Applied in their process, not yet acknowledged by the store. While it is above zero another process may "
            "still serve what was retired.",
            "short",
            [Target(promql.gauge("smartcache_invalidations_queued"), "Queued", tone.BAD)],
            size=(4, 7),
            decimals=0,
            ceiling=1,
            no_value=tone.NO_DATA,
        ),
    ]


def _strategy() -> list[Panel]:
    family = "smartcache_requests_total"
    return [
        _counted("strategy", family, "Requests by strategy", width=12),
        graph(
            "Share of requests by strategy",
            "The same as shares of all requests.",
            "percentunit",
            [
                Target(promql.ratio(family, f'strategy="{entry.match[0][1]}"'), entry.title, _colour(entry))
                for entry in STATISTICS
                if entry.category == "strategy"
            ],
            size=(12, 7),
            stack=True,
            ceiling=1,
        ),
    ]


def _performance() -> list[Panel]:
    family = "smartcache_request_duration_seconds"
    return [
        _derived("avg_latency_ms"),
        graph(
            "Slowest and fastest",
            _list([STATISTIC["max_latency_ms"], STATISTIC["min_latency_ms"]]),
            "s",
            [
                Target(promql.statistic(STATISTIC[name]), STATISTIC[name].title, shade)
                for name, shade in (("max_latency_ms", tone.SHADES[0]), ("min_latency_ms", tone.SHADES[2]))
            ],
            log=True,
        ),
        _counted("performance", "smartcache_requests_total", "Requests per second", width=6),
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
            "All requests. Two bands are healthy: hits in microseconds, computes at the model's pace.",
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
                entry.match[0][1]: (entry.title, _colour(entry)) for entry in STATISTICS if entry.category == "strategy"
            },
        ),
        tile(
            "Latency sampling",
            f"{FAMILY['smartcache_latency_sampling_ratio'].help} Counters, maximum and minimum are exact at any ratio.",
            "percentunit",
            Target(promql.gauge("smartcache_latency_sampling_ratio"), "Sampled", instant=True),
            size=(4, 9),
            decimals=0,
            no_value=tone.NO_DATA,
        ),
    ]


# ---- the parts ----


def _compute() -> list[Panel]:
    promise = "smartcache_served_beyond_promise_total"
    return [
        _history(
            "Compute p95 over time",
            "95th percentile of computes.",
            "smartcache:compute_duration_seconds:p95_5m",
            COMPUTE_P95,
        ),
        heatmap(
            "Compute duration", "How long the model took.", "s", promql.buckets("smartcache_compute_duration_seconds")
        ),
        graph(
            "Computes by outcome",
            "Computes that ended, for requests and refreshes together.",
            "ops",
            [Target(promql.rate("smartcache_computes_total", by="outcome"), "{{outcome}}")],
            stack=True,
            names=_named("smartcache_computes_total", "outcome"),
            no_value=tone.NO_DATA,
        ),
        graph(
            "Computes running and shared",
            "Computes running now, and requests that joined one that another had started.",
            "short",
            [
                Target(promql.gauge("smartcache_computes_in_progress"), "Running now", tone.SHADES[0]),
                Target(
                    promql.rate("smartcache_coalesced_requests_total"),
                    "Joined, per second",
                    tone.SHADES[2],
                ),
            ],
            no_value=tone.NO_DATA,
        ),
        graph(
            "Served despite failure, and results fenced off",
            "Requests served a held value because the compute failed or was late; and computed values not stored "
            "because an invalidation or a newer owner came between.",
            "short",
            [
                Target(promql.count("smartcache_stale_on_error_served_total"), "Stale on error", tone.WARN),
                Target(promql.count("smartcache_writes_fenced_total"), "Fenced off", tone.NEUTRAL),
            ],
            events=True,
            decimals=0,
            ceiling=4,
            no_value=tone.NO_DATA,
        ),
        graph(
            "Served beyond its promise",
            f"{FAMILY[promise].help} {_judged_by(PROMISE)}",
            "short",
            [Target(promql.count(promise, by="reason"), "{{reason}}")],
            names={
                reason: (f"judged {reason}", colour)
                for reason, colour in zip(FAMILY[promise].label("reason").values, tone.EVILS, strict=True)
            },
            events=True,
            decimals=0,
            ceiling=4,
            no_value=tone.NO_DATA,
        ),
    ]


def _store() -> list[Panel]:
    duration = "smartcache_store_operation_duration_seconds"
    return [
        timeline(
            "Store breaker",
            "The worst state of any process. Open: the store is not asked; each process serves and computes alone.",
            [Target(promql.worst("smartcache_store_breaker_state", "state"), "worst process")],
            BREAKER,
        ),
        graph(
            "Store p99 by operation",
            "Round trips as the engine sees them, the network included.",
            "s",
            [Target(promql.quantile(0.99, duration, by="operation"), "{{operation}}", exemplar=True)],
            names=_named(duration, "operation"),
            log=True,
            no_value="no store traffic seen",
        ),
        graph(
            "Store operations",
            "Round trips per second.",
            "ops",
            [Target(promql.observations(duration, by="operation"), "{{operation}}")],
            names=_named(duration, "operation"),
            stack=True,
            no_value="no store traffic seen",
        ),
        graph(
            "Store errors by operation",
            "Operations that failed or timed out; callers still got answers.",
            "short",
            [Target(promql.count("smartcache_store_errors_total", by="operation"), "{{operation}}")],
            names=_named(duration, "operation"),
            events=True,
            decimals=0,
            ceiling=4,
            no_value=tone.NO_DATA,
        ),
        graph(
            "Unreadable entries",
            f"{FAMILY['smartcache_store_unreadable_entries_total'].help} A few after a release are an old format; more "
            "are somebody else writing under our keys.",
            "short",
            [Target(promql.count("smartcache_store_unreadable_entries_total"), "Unreadable", tone.WARN)],
            events=True,
            decimals=0,
            ceiling=4,
            no_value=tone.NO_DATA,
        ),
        graph(
            "Valkey memory",
            f"As Valkey itself says. Above {STORE_MEMORY_RATIO:.0%} of its limit it soon refuses writes.",
            "bytes",
            [
                Target('max(redis_memory_used_bytes{job="valkey"})', "Used", tone.NEUTRAL),
                Target('max(redis_memory_max_bytes{job="valkey"})', "Limit", tone.BAD, dashed=True),
            ],
            no_value="not watched",
        ),
        graph(
            "Valkey clients",
            "Connections open now.",
            "short",
            [Target('sum(redis_connected_clients{job="valkey"})', "Clients", tone.NEUTRAL)],
            decimals=0,
            no_value="not watched",
        ),
        graph(
            "Valkey commands",
            "Commands that Valkey carried out, whoever sent them.",
            "ops",
            [
                Target(
                    'sum(rate(redis_commands_processed_total{job="valkey"}[$__rate_interval]))',
                    "Commands",
                    tone.NEUTRAL,
                )
            ],
            no_value="not watched",
        ),
        graph(
            "Valkey evictions",
            "Entries evicted for room. Each is a miss to come.",
            "short",
            [
                Target(
                    _foreign("valkey", "redis_evicted_keys_total"),
                    "Evicted",
                    tone.WARN,
                )
            ],
            events=True,
            decimals=0,
            ceiling=4,
            no_value="not watched",
        ),
    ]


def _memory() -> list[Panel]:
    return [
        _plain(FAMILY["smartcache_memory_entries"], "Memory entries"),
        _plain(FAMILY["smartcache_memory_bytes"], "Memory size"),
        graph(
            "Memory evictions",
            f"{FAMILY['smartcache_memory_evictions_total'].help} Many: the memory tier is too small for what is asked.",
            "short",
            [Target(promql.count("smartcache_memory_evictions_total"), "Evicted", tone.WARN)],
            events=True,
            decimals=0,
            ceiling=4,
            no_value=tone.NO_DATA,
        ),
    ]


def _bus() -> list[Panel]:
    return [
        graph(
            "Bus lag",
            f"{FAMILY['smartcache_bus_lag_seconds'].help} Beyond {BUS_LAG_SECONDS:g} s it trusts nothing it holds.",
            "s",
            [Target(promql.gauge("smartcache_bus_lag_seconds"), "Longest silence", tone.NEUTRAL)],
            steps=[{"color": "transparent", "value": None}, {"color": tone.BAD, "value": BUS_LAG_SECONDS}],
            ceiling=BUS_LAG_SECONDS * 1.2,
            no_value="no bus",
        ),
        graph(
            "Bus messages",
            "Messages of other processes applied here.",
            "ops",
            [Target(promql.rate("smartcache_bus_messages_total", by="kind"), "{{kind}}")],
            names=_named("smartcache_bus_messages_total", "kind"),
            no_value="no bus",
        ),
        graph(
            "Bus gaps",
            FAMILY["smartcache_bus_gaps_total"].help,
            "short",
            [Target(promql.count("smartcache_bus_gaps_total"), "Gaps", tone.BAD)],
            events=True,
            decimals=0,
            ceiling=4,
            no_value="no bus",
        ),
    ]


def _service() -> list[Panel]:
    family = "smartcache_http_requests_total"
    budget = round(1 - AVAILABILITY.threshold, 6)
    return [
        graph(
            "HTTP answers by code",
            "What clients saw.",
            "reqps",
            [
                Target(promql.rate(family, 'code=~"2.."'), "2xx", tone.GOOD),
                Target(promql.rate(family, 'code=~"[13].."'), "1xx, 3xx", tone.NEUTRAL),
                Target(promql.rate(family, 'code=~"4.."'), "4xx, refused", tone.WARN),
                Target(promql.rate(family, 'code!~"[1-4].."'), "5xx, failed", tone.BAD),
            ],
            stack=True,
        ),
        ranking(
            "HTTP answers by route",
            "Answers of the last 5 minutes, by the route's pattern.",
            f"{promql.recent(family, by='route')} > 0",
            by="route",
            unit="short",
            most=None,
            long_names=True,
            size=(8, 9),
        ),
        ranking(
            "Failed answers by route",
            "Share of a route's answers of the last 5 minutes that were server errors.",
            promql.share(family, _FAILED, by="route"),
            by="route",
            steps=[
                {"color": tone.GOOD, "value": None},
                {"color": tone.WARN, "value": budget},
                {"color": tone.BAD, "value": budget * BURN_RATES[0].factor},
            ],
            most=budget * BURN_RATES[0].factor * 2,
            long_names=True,
            size=(8, 9),
        ),
        graph(
            "Error budget burn",
            f"How many times faster than allowed the budget of {AVAILABILITY.window} is spent: 1 spends all of it. "
            f"Pages go out at {BURN_RATES[0].factor:g} over {BURN_RATES[0].long} and {BURN_RATES[1].factor:g} over "
            f"{BURN_RATES[1].long}. {_judged_by(AVAILABILITY)}",
            "none",
            [
                Target(f"{promql.recorded(f'smartcache:http_error_ratio:rate{window}')} / {budget:g}", window, colour)
                for window, colour in zip(BURN_WINDOWS, _RAMP, strict=True)
            ],
            steps=[{"color": "transparent", "value": None}, {"color": tone.BAD, "value": BURN_RATES[0].factor}],
            ceiling=BURN_RATES[0].factor * 1.2,
        ),
        tile(
            "Availability, time shown",
            f"Answers without a server error, of all answers in the time range shown. {_judged_by(AVAILABILITY)}",
            "percentunit",
            Target(
                f"1 - sum(increase({family}{{{_FAILED},{promql.SCOPE}}}[$__range]))"
                f" / (sum(increase({family}{{{promql.SCOPE}}}[$__range])) > 0)",
                "Availability",
                instant=True,
            ),
            size=(4, 7),
            steps=tone.steps(AVAILABILITY),
            decimals=3,
            background=False,
        ),
        tile(
            "Model's extra latency",
            f"{FAMILY['smartcache_model_extra_latency_seconds'].help} Every compute takes at least so long.",
            "s",
            Target(promql.gauge("smartcache_model_extra_latency_seconds"), "Extra latency", instant=True),
            size=(4, 7),
            no_value=tone.NO_DATA,
        ),
        graph(
            "Service CPU",
            "Cores in use by the service's processes.",
            "none",
            [
                Target(
                    'sum by (instance) (rate(process_cpu_seconds_total{job="service"}[$__rate_interval]))',
                    "{{instance}}",
                )
            ],
            size=(4, 7),
            no_value=tone.NO_DATA,
        ),
        graph(
            "Service memory",
            "Resident memory of the service's processes.",
            "bytes",
            [Target('sum by (instance) (process_resident_memory_bytes{job="service"})', "{{instance}}")],
            size=(4, 7),
            no_value=tone.NO_DATA,
        ),
    ]


def _exporter() -> list[Panel]:
    return [
        timeline(
            "Scrape targets",
            "Whether Prometheus reaches each job; load tests, which come and go, are left out.",
            [Target('min by (job) (up{job!="locust"})', "{{job}}")],
            (State(0, "down", tone.BAD), State(1, "up", tone.GOOD)),
        ),
        graph(
            "Processes by state",
            "Metrics files by the state of their process. Dead ones still count, so that totals never decrease.",
            "short",
            [Target(promql.gauge("smartcache_processes", by="state"), "{{state}}")],
            names=_named("smartcache_processes", "state"),
            decimals=0,
            ceiling=2,
            no_value=tone.NO_DATA,
        ),
        tile(
            "Exporter page",
            FAMILY["smartcache_exporter_up"].help,
            "none",
            Target(f"min (smartcache_exporter_up{{{promql.SCOPE}}})", "Page", instant=True),
            size=(4, 7),
            states=(State(0, "partial", tone.BAD), State(1, "complete", tone.GOOD)),
            no_value="no exporter",
            background=False,
        ),
        tile(
            "Version",
            FAMILY["smartcache_build_info"].help,
            "none",
            Target(promql.gauge("smartcache_build_info", by="version"), "{{version}}", instant=True),
            size=(4, 7),
            show="name",
            no_value=tone.NO_DATA,
        ),
        graph(
            "Exporter scrape duration",
            FAMILY["smartcache_exporter_scrape_duration_seconds"].help,
            "s",
            [Target(promql.gauge("smartcache_exporter_scrape_duration_seconds"), "Collecting", tone.NEUTRAL)],
            no_value=tone.NO_DATA,
        ),
        graph(
            "Exporter errors",
            FAMILY["smartcache_exporter_scrape_errors_total"].help,
            "short",
            [Target(promql.count("smartcache_exporter_scrape_errors_total"), "Parts not collected", tone.BAD)],
            events=True,
            decimals=0,
            ceiling=4,
            no_value=tone.NO_DATA,
        ),
        graph(
            "Watchers' failures",
            "Rules that Prometheus could not evaluate, and notifications that Prometheus dropped or Alertmanager could "
            "not deliver. Above zero, silence proves nothing.",
            "short",
            [
                Target(
                    _foreign("prometheus", "prometheus_rule_evaluation_failures_total"),
                    "Rules",
                    tone.EVILS[0],
                ),
                Target(
                    _foreign("prometheus", "prometheus_notifications_dropped_total"),
                    "Dropped",
                    tone.EVILS[1],
                ),
                Target(
                    _foreign("alertmanager", "alertmanager_notifications_failed_total"),
                    "Not delivered",
                    tone.EVILS[2],
                ),
            ],
            events=True,
            stack=True,
            decimals=0,
            ceiling=4,
            no_value=tone.NO_DATA,
        ),
    ]


_SECTIONS: Final[Mapping[Category, Callable[[], list[Panel]]]] = {
    "base_cache": _base_cache,
    "vix": _vix,
    "golden_hour": _golden_hour,
    "swr": _swr,
    "tagmanager": _tagmanager,
    "strategy": _strategy,
    "performance": _performance,
    "compute": _compute,
    "store": _store,
    "memory": _memory,
    "bus": _bus,
    "service": _service,
    "exporter": _exporter,
}

#: From the shortest window to the longest.
_RAMP: Final = ("purple", "light-purple", "dark-blue", "blue", "light-blue", "super-light-blue", "#A0A7B4")


def _colour(entry: Statistic) -> str:
    return tone.TONES[entry.colour]


def _foreign(job: str, counter: str) -> str:
    """Events that another program counts."""
    return f'round(sum (increase({counter}{{job="{job}"}}[$__rate_interval])))'


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


# ---- what no panel above shows ----


def _unseen(category: Category, panels: Sequence[Panel]) -> list[Panel]:
    """Plain panels for what a category has in the catalogue and ``panels`` do not show."""
    queries = {(target.expr, target.legend) for panel in panels for target in panel.targets}
    missing = [
        _derived(entry.name, width=8) if entry.family is None else _plain(FAMILY[entry.family], entry.title, entry)
        for entry in STATISTICS
        if entry.category == category
        and not any((promql.statistic(entry, events=events), entry.title) in queries for events in (False, True))
    ]
    shown = " ".join(target.expr for panel in [*panels, *missing] for target in panel.targets)
    return missing + [
        _plain(family, family.name)
        for family in FAMILIES
        if family.category == category and not re.search(rf"\b{family.name}(_bucket)?\b", shown)
    ]


def _plain(family: Family, title: str, entry: Statistic | None = None) -> Panel:
    """A family, or a statistic of it, as it comes: a counter's rate, a gauge, a histogram's 99th percentile."""
    by = "" if entry else ",".join(label.name for label in family.labels)
    unit = "ops" if family.kind == "counter" else UNITS[family.unit]
    if entry:
        target = Target(promql.statistic(entry), entry.title, tone.TONES[entry.colour])
    elif family.kind == "histogram":
        target = Target(promql.quantile(0.99, family.name, by=by), _legend(family), exemplar=True)
    else:
        query = promql.rate if family.kind == "counter" else promql.gauge
        target = Target(query(family.name, by=by), _legend(family))
    said = f"{entry.help} Statistic `{entry.name}`." if entry else family.help
    return graph(title, said, unit, [target], no_value=tone.NO_DATA)


def _legend(family: Family) -> str:
    return ", ".join(f"{{{{{label.name}}}}}" for label in family.labels) or "all processes"

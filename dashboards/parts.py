"""The sections of the parts: computes, store, memory, bus, service, exporter."""

from __future__ import annotations

from typing import Final

from grafanalib.core import Panel

from alerts.bounds import BURN_RATES, BUS_LAG_SECONDS, STORE_MEMORY_RATIO
from dashboards import promql, tone
from dashboards.entries import BREAKER, history, judged_by, named, plain, told
from dashboards.panels import State, Target, bars, graph, ranking, tile, timeline
from smartcache.catalogue import BURN_WINDOWS, FAMILY
from smartcache.objectives import AVAILABILITY, COMPUTE_P95, PROMISE

__all__ = ["bus", "compute", "exporter", "memory", "service", "store"]

_FAILED: Final = 'code=~"5.."'
#: Processes of the service, in the words of the panels.
_WORKER: Final = "{{instance}}, worker {{worker}}"
#: From the shortest window to the longest.
_RAMP: Final = ("purple", "light-purple", "dark-blue", "blue", "light-blue", "super-light-blue", "#A0A7B4")


def compute() -> list[Panel]:
    """Whether the model keeps up, and what happens when it does not."""
    promise = "smartcache_served_beyond_promise_total"
    return [
        history(
            "Compute p95 over time",
            "95th percentile of computes.",
            "smartcache:compute_duration_seconds:p95_5m",
            COMPUTE_P95,
        ),
        plain(FAMILY["smartcache_compute_duration_seconds"], "Compute duration"),
        graph(
            "Computes by outcome",
            f"{told('smartcache_computes_total')} Those of requests and of refreshes together.",
            "ops",
            [Target(promql.rate("smartcache_computes_total", by="outcome"), "{{outcome}}")],
            stack=True,
            names=named("smartcache_computes_total", "outcome"),
            no_value=tone.NO_DATA,
        ),
        graph(
            "Computes running and shared",
            f"{told('smartcache_computes_in_progress')} {told('smartcache_coalesced_requests_total')}",
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
        bars(
            "Served despite failure, and results fenced off",
            f"{told('smartcache_stale_on_error_served_total')} {told('smartcache_writes_fenced_total')}",
            [
                Target(promql.count("smartcache_stale_on_error_served_total"), "Stale on error", tone.WARN),
                Target(promql.count("smartcache_writes_fenced_total"), "Fenced off", tone.NEUTRAL),
            ],
        ),
        bars(
            "Served beyond its promise",
            f"{told(promise)} {judged_by(PROMISE)}",
            [Target(promql.count(promise, by="reason"), "{{reason}}")],
            names={
                reason: (f"judged {reason}", colour)
                for reason, colour in zip(FAMILY[promise].label("reason").values, tone.EVILS, strict=True)
            },
        ),
    ]


def store() -> list[Panel]:
    """Whether Valkey or Redis answers."""
    duration = "smartcache_store_operation_duration_seconds"
    return [
        timeline(
            "Store breaker",
            f"The worst state of any process. {FAMILY['smartcache_store_breaker_state'].why}",
            [Target(promql.worst("smartcache_store_breaker_state", "state"), "worst process")],
            BREAKER,
        ),
        graph(
            "Store p99 by operation",
            told(duration),
            "s",
            [Target(promql.quantile(0.99, duration, by="operation"), "{{operation}}", exemplar=True)],
            names=named(duration, "operation"),
            log=True,
            no_value="no store traffic seen",
        ),
        graph(
            "Store operations",
            "Round trips per second.",
            "ops",
            [Target(promql.observations(duration, by="operation"), "{{operation}}")],
            names=named(duration, "operation"),
            stack=True,
            no_value="no store traffic seen",
        ),
        bars(
            "Store errors by operation",
            told("smartcache_store_errors_total"),
            [Target(promql.count("smartcache_store_errors_total", by="operation"), "{{operation}}")],
            names=named(duration, "operation"),
        ),
        bars(
            "Unreadable entries",
            told("smartcache_store_unreadable_entries_total"),
            [Target(promql.count("smartcache_store_unreadable_entries_total"), "Unreadable", tone.WARN)],
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
        bars(
            "Valkey evictions",
            "Entries evicted for room. Each is a miss to come.",
            [
                Target(
                    _foreign("valkey", "redis_evicted_keys_total"),
                    "Evicted",
                    tone.WARN,
                )
            ],
            no_value="not watched",
        ),
    ]


def memory() -> list[Panel]:
    """How much the processes hold."""
    return [
        plain(FAMILY["smartcache_memory_entries"], "Memory entries"),
        plain(FAMILY["smartcache_memory_bytes"], "Memory size"),
        bars(
            "Memory evictions",
            told("smartcache_memory_evictions_total"),
            [Target(promql.count("smartcache_memory_evictions_total"), "Evicted", tone.WARN)],
        ),
    ]


def bus() -> list[Panel]:
    """Whether invalidations and ticks reach every process."""
    return [
        graph(
            "Bus lag",
            told("smartcache_bus_lag_seconds"),
            "s",
            [Target(promql.gauge("smartcache_bus_lag_seconds"), "Longest silence", tone.NEUTRAL)],
            steps=[{"color": "transparent", "value": None}, {"color": tone.BAD, "value": BUS_LAG_SECONDS}],
            ceiling=BUS_LAG_SECONDS * 1.2,
            no_value="no bus seen",
        ),
        graph(
            "Bus messages",
            told("smartcache_bus_messages_total"),
            "ops",
            [Target(promql.rate("smartcache_bus_messages_total", by="kind"), "{{kind}}")],
            names=named("smartcache_bus_messages_total", "kind"),
            no_value="no bus seen",
        ),
        bars(
            "Bus gaps",
            told("smartcache_bus_gaps_total"),
            [Target(promql.count("smartcache_bus_gaps_total"), "Gaps", tone.BAD)],
            no_value="no bus seen",
        ),
    ]


def service() -> list[Panel]:
    """What clients see."""
    family = "smartcache_http_requests_total"
    budget = round(1 - AVAILABILITY.threshold, 6)
    return [
        graph(
            "HTTP answers by code",
            told(family),
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
            f"{BURN_RATES[1].long}. {judged_by(AVAILABILITY)}",
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
            f"Answers without a server error, of all answers in the time range shown. {judged_by(AVAILABILITY)}",
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
            told("smartcache_model_extra_latency_seconds"),
            "s",
            Target(promql.gauge("smartcache_model_extra_latency_seconds"), "Extra latency", instant=True),
            size=(4, 7),
            no_value=tone.NO_DATA,
        ),
        graph(
            "Event-loop lag",
            f"{told('smartcache_event_loop_lag_seconds')} {told('smartcache_event_loop_lag_max_seconds')}",
            "s",
            [
                Target(
                    promql.quantile(0.99, "smartcache_event_loop_lag_seconds"),
                    "p99, all workers",
                    tone.SHADES[0],
                    exemplar=True,
                ),
                Target(
                    promql.gauge("smartcache_event_loop_lag_max_seconds", 'worker!~"none|other"', by="worker"),
                    "longest, worker {{worker}}",
                ),
            ],
            log=True,
            no_value=tone.NO_DATA,
        ),
        graph(
            "Service CPU by worker",
            "Cores in use by each process of the service. One answers on one core: at 1 its requests wait for it.",
            "none",
            [
                Target(
                    'sum by (instance,worker) (rate(process_cpu_seconds_total{job="service"}[$__rate_interval]))',
                    _WORKER,
                )
            ],
            ceiling=1,
            no_value=tone.NO_DATA,
        ),
        graph(
            "Service memory by worker",
            "Resident memory of each process of the service. The memory tier is only a part of it; what grows without "
            "end is a leak.",
            "bytes",
            [Target('sum by (instance,worker) (process_resident_memory_bytes{job="service"})', _WORKER)],
            no_value=tone.NO_DATA,
        ),
    ]


def exporter() -> list[Panel]:
    """Whether these numbers can be trusted."""
    return [
        timeline(
            "Scrape targets",
            "Whether Prometheus reaches each job; load tests, which come and go, are left out.",
            [Target('min by (job) (up{job!="locust"})', "{{job}}")],
            (State(0, "down", tone.BAD), State(1, "up", tone.GOOD)),
        ),
        graph(
            "Processes by state",
            told("smartcache_processes"),
            "short",
            [Target(promql.gauge("smartcache_processes", by="state"), "{{state}}")],
            names=named("smartcache_processes", "state"),
            decimals=0,
            ceiling=2,
            no_value=tone.NO_DATA,
        ),
        tile(
            "Exporter page",
            told("smartcache_exporter_up"),
            "none",
            Target(f"min (smartcache_exporter_up{{{promql.SCOPE}}})", "Page", instant=True),
            size=(4, 7),
            states=(State(0, "partial", tone.BAD), State(1, "complete", tone.GOOD)),
            no_value="no exporter",
            background=False,
        ),
        tile(
            "Version",
            told("smartcache_build_info"),
            "none",
            Target(promql.gauge("smartcache_build_info", by="version"), "{{version}}", instant=True),
            size=(4, 7),
            show="name",
            no_value=tone.NO_DATA,
        ),
        graph(
            "Exporter scrape duration",
            told("smartcache_exporter_scrape_duration_seconds"),
            "s",
            [Target(promql.gauge("smartcache_exporter_scrape_duration_seconds"), "Collecting", tone.NEUTRAL)],
            no_value=tone.NO_DATA,
        ),
        graph(
            "Exporter errors",
            told("smartcache_exporter_scrape_errors"),
            "short",
            [Target(promql.gauge("smartcache_exporter_scrape_errors"), "Parts not collected", tone.BAD)],
            decimals=0,
            ceiling=4,
            no_value=tone.NO_DATA,
        ),
        bars(
            "Watchers' failures",
            "Rules that Prometheus could not evaluate, and notifications that Prometheus dropped or Alertmanager could "
            "not deliver. Above zero, silence proves nothing.",
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
        ),
    ]


def _foreign(job: str, counter: str) -> str:
    """Events that another program counts."""
    return f'round(sum (increase({counter}{{job="{job}"}}[$__rate_interval])))'

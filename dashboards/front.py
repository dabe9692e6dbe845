"""The head of the overview: what is wrong, readable at a glance and half asleep."""

from __future__ import annotations

from typing import Final

from grafanalib.core import Panel

from alerts.bounds import BUS_LAG_SECONDS, COMPUTE_ERROR_RATIO
from alerts.links import OVERVIEW
from dashboards import promql, tone
from dashboards.entries import BREAKER, GOVERNOR, told
from dashboards.panels import State, Target, graph, panel_id, table, tile, timeline
from smartcache.catalogue import FAMILY
from smartcache.objectives import (
    AVAILABILITY,
    COMPUTE_P95,
    HIT_RATIO,
    LATENCY_MEAN,
    LATENCY_P99,
    PROMISE,
    VIX_PANIC,
    Objective,
)

__all__ = ["FIRING", "front"]

#: Alerts that somebody should read; severity none is the watchdog's.
FIRING: Final = 'ALERTS{alertstate="firing",severity!="none"}'

#: Of tiles whose titles and words are short, so that the states fit in one row.
_NARROW: Final = (2, 4)
#: The worst first.
_SEVERITIES: Final = (State(3, "critical", tone.BAD), State(2, "warning", tone.WARN), State(1, "info", tone.NEUTRAL))


def front() -> list[tuple[str, list[Panel]]]:
    """Title and panels of each row of the head."""
    return [
        ("Right now: are the objectives kept?", _objectives()),
        ("Right now: what state is it in, and what is firing?", [*_states(), _firing(), _fired(), _traffic()]),
    ]


def _objectives() -> list[Panel]:
    promise = f"ceil(sum(increase(smartcache_served_beyond_promise_total{{{promql.SCOPE}}}[{PROMISE.window}])))"
    return [
        _kept(AVAILABILITY, "Availability", "1 - " + promql.recorded("smartcache:http_error_ratio:rate5m"),
              "HTTP answers by code", decimals=2, over="the last 5 minutes"),
        _kept(LATENCY_P99, "p99, cached", promql.recorded("smartcache:request_duration_seconds_cached:p99_5m"),
              "Latency and its objective"),
        _kept(LATENCY_MEAN, "Mean, all", promql.recorded("smartcache:request_duration_seconds:mean5m"),
              "Latency and its objective"),
        _kept(PROMISE, "Outdated", promise, "Served beyond its promise", decimals=0),
        _kept(HIT_RATIO, "Hits", promql.recorded("smartcache:hit_ratio:rate5m"), "Hit ratio over time", decimals=1),
        tile(
            "From cache",
            "Share of all requests, bypasses counted against it: in a panic it falls while the hit ratio stays. "
            "It has no objective of its own.",
            "percentunit",
            Target(promql.recorded("smartcache:served_from_cache_ratio:rate5m"), "Served from cache", instant=True),
            decimals=1,
            link=_to("Hit ratio over time"),
        ),
        _kept(VIX_PANIC, "Panics", promql.recorded("smartcache:vix_panic_ratio:rate5m"), "Panic ratio over time",
              decimals=1),
        _kept(COMPUTE_P95, "Compute p95", promql.recorded("smartcache:compute_duration_seconds:p95_5m"),
              "Compute p95 over time"),
    ]  # fmt: skip


def _kept(
    objective: Objective, name: str, expr: str, details: str, *, decimals: int | None = None, over: str = ""
) -> Panel:
    unit = {"ratio": "percentunit", "seconds": "s", "count": "none"}[objective.unit]
    return tile(
        name,
        f"{objective.title}, over {over or objective.window}. Objective: {objective.describe()}"
        f"{f' over {objective.window}' if over else ''}. {objective.why} Red: missed. Amber: four fifths of the way.",
        unit,
        Target(expr, objective.describe(), instant=True),
        show="value_and_name",
        steps=tone.steps(objective),
        decimals=decimals,
        no_value=tone.NO_DATA if objective.unit == "count" else tone.NO_TRAFFIC,
        link=_to(details),
    )


def _states() -> list[Panel]:
    computes = "smartcache_computes_total"
    return [
        tile(
            "Alerts firing",
            "Critical and warning alerts that fire now; the table below names them.",
            "none",
            Target(
                'count(ALERTS{alertstate="firing",severity=~"critical|warning"}) or vector(0)', "Alerts", instant=True
            ),
            steps=tone.above(bad=0),
            states=(State(0, "none", tone.GOOD),),
        ),
        tile(
            "Targets down",
            "Parts that Prometheus cannot reach; what they say elsewhere on this page is old or absent. A load test's "
            "job is left out.",
            "none",
            Target('count(up{job!="locust"} == 0) or vector(0)', "Down", instant=True),
            steps=tone.above(bad=0),
            states=(State(0, "none", tone.GOOD),),
            link=_to("Scrape targets"),
        ),
        tile(
            "Alive",
            "Processes of the service whose metrics are read.",
            "none",
            Target(promql.gauge("smartcache_processes", 'state="live"'), "Live", instant=True),
            size=_NARROW,
            steps=tone.below(bad=1),
            decimals=0,
            no_value="no exporter",
            link=_to("Processes by state"),
        ),
        tile(
            "Computes failing",
            f"Computes of the last {promql.RECENT} that failed or timed out, of all; red above "
            f"{COMPUTE_ERROR_RATIO:.0%}. Values held hide it from clients for a while.",
            "percentunit",
            Target(promql.share(computes, 'outcome=~"error|timeout"', by=""), "Computes failing", instant=True),
            steps=tone.above(bad=COMPUTE_ERROR_RATIO),
            decimals=1,
            no_value=tone.NOT_SEEN,
            link=_to("Computes by outcome"),
        ),
        tile(
            "Governor",
            f"The worst mode of any process. {FAMILY['smartcache_governor_mode'].why}",
            "none",
            Target(promql.worst("smartcache_governor_mode", "mode"), "Governor", instant=True),
            states=GOVERNOR,
            no_value=tone.NO_DATA,
            link=_to("Governor mode"),
        ),
        tile(
            "Breaker",
            f"The worst state of any process. {FAMILY['smartcache_store_breaker_state'].why}",
            "none",
            Target(promql.worst("smartcache_store_breaker_state", "state"), "Breaker", instant=True),
            size=_NARROW,
            states=BREAKER,
            no_value=tone.NOT_SEEN,
            link=_to("Store breaker"),
        ),
        tile(
            "Valkey",
            "Whether Valkey answers its own exporter.",
            "none",
            Target('min(redis_up{job="valkey"})', "Valkey", instant=True),
            size=_NARROW,
            states=(State(0, "down", tone.BAD), State(1, "up", tone.GOOD)),
            no_value="not watched",
            link=_to("Valkey memory"),
        ),
        tile(
            "Bus silence",
            told("smartcache_bus_lag_seconds"),
            "s",
            Target(promql.gauge("smartcache_bus_lag_seconds"), "Silence", instant=True),
            steps=tone.above(bad=BUS_LAG_SECONDS),
            no_value=tone.NOT_SEEN,
            link=_to("Bus lag"),
        ),
        tile(
            "Traffic",
            "Engine requests per second, over 5 minutes.",
            "reqps",
            Target(promql.recorded("smartcache:requests:rate5m"), "Requests", instant=True),
            link=_to("Requests by strategy"),
        ),
    ]


def _firing() -> Panel:
    severities = {
        severity.text: {"color": severity.colour, "index": index, "text": severity.text}
        for index, severity in enumerate(_SEVERITIES)
    }
    return table(
        "Firing alerts",
        "What Prometheus fires now, and how long ago each was first seen, the wait before it fired included. The name "
        "leads to its runbook.",
        Target(f"(time() - ALERTS_FOR_STATE) and ignoring (alertstate) {FIRING}", "", instant=True, format="table"),
        columns=(
            ("severity", "Severity", {
                "custom.width": 100,
                "custom.cellOptions": {"type": "color-background", "mode": "basic"},
                "mappings": [{"type": "value", "options": severities}],
            }),
            ("alertname", "Alert", {
                "links": [{"title": "Runbook", "url": "${runbooks}/${__value.raw}", "targetBlank": True}],
            }),
            ("Value", "Since first seen", {"custom.width": 140, "unit": "s", "decimals": 0}),
        ),
        sort="Severity",
        size=(8, 7),
        no_value="nothing is firing",
    )  # fmt: skip


def _fired() -> Panel:
    severities = (
        f'0 * ALERTS{{alertstate="firing",severity="{severity.text}"}} + {severity.value}' for severity in _SEVERITIES
    )
    fired = f"max by (alertname) ({' or '.join(severities)})"
    named = f'label_replace({fired}, "alert", "$1", "alertname", "(?:SmartCache)?(.*)")'
    none = 'label_replace(vector(0), "alert", "no alert", "", "")'
    return timeline(
        "Alerts over time",
        "When each alert fired, by its severity. The same spans are marked in red on every graph.",
        [Target(f"{named} or on () {none}", "{{alert}}")],
        (*_SEVERITIES, State(0, "quiet", tone.GOOD)),
        size=(8, 7),
    )


def _traffic() -> Panel:
    http = "smartcache_http_requests_total"
    return graph(
        "Traffic and failures",
        "Requests that the engine answered, how many of them it had to compute, and HTTP answers that were failures.",
        "reqps",
        [
            Target(promql.rate("smartcache_requests_total"), "Engine requests", tone.NEUTRAL),
            Target(promql.rate("smartcache_requests_total", 'strategy=~"compute|bypass"'), "Not from cache", tone.WARN),
            Target(promql.rate(http, 'code=~"5.."'), "Server errors", tone.BAD),
        ],
        size=(8, 7),
    )


def _to(title: str) -> tuple[str, str]:
    """A link to a panel of this dashboard, over the whole screen, with the time range and variables kept."""
    return title, f"/d/{OVERVIEW}?viewPanel={panel_id(title)}&${{__url_time_range}}&${{__all_variables}}"

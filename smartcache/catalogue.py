"""The catalogue: every series, statistic and recording rule, once.

The recorder lays out its memory from it, the exporter exposes it, the rule files, the dashboards and
``docs/metrics.md`` are generated from it, and the tests compare what runs with it. A new metric is one entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

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

Category = Literal[
    "base_cache", "vix", "golden_hour", "swr", "tagmanager", "strategy", "performance",
    "store", "memory", "bus", "compute", "service", "exporter",
]  # fmt: skip

#: The seven categories of the 35 statistics, with the title and the question each answers.
CATEGORIES: Final[Mapping[Category, tuple[str, str]]] = {
    "base_cache": ("Base cache", "Are requests answered from the cache?"),
    "vix": ("Volatility (VIX)", "Is the market moving so fast that values cannot be trusted?"),
    "golden_hour": ("Golden hour", "How close to kickoff is the traffic?"),
    "swr": ("Stale while revalidate", "Are stale answers refreshed in time?"),
    "tagmanager": ("Tags and invalidation", "What did events retire, and what did they spare?"),
    "strategy": ("Strategy", "What did the engine decide?"),
    "performance": ("Performance", "How much traffic, and how fast?"),
}

#: Families beside the 35 statistics, grouped by the part they watch.
PARTS: Final[Mapping[Category, tuple[str, str]]] = {
    "compute": ("Computes", "Is the model keeping up, and what happens when it does not?"),
    "store": ("Store tier", "Does Valkey or Redis answer?"),
    "memory": ("Memory tier", "How much is held in the processes?"),
    "bus": ("Invalidation bus", "Do invalidations and ticks reach every process?"),
    "service": ("Service", "What do clients see?"),
    "exporter": ("Exporter", "Can these numbers be trusted?"),
}

Combine = Literal["sum", "max", "min"]
Kind = Literal["counter", "gauge", "histogram"]

# Label domains whose values come from configuration; the recorder fills them in and adds "none" and "other".
ZONES: Final = ("warmup", "golden", "active", "prematch", "standard", "match_started", "none")
STRATEGIES: Final = ("bypass", "compute", "serve_stale", "serve_fresh")
TIERS: Final = ("memory", "store", "none")
LOOKUP_RESULTS: Final = ("hit_fresh", "hit_stale", "miss")
VIX_STATUSES: Final = ("panic", "warning", "normal")
SWR_RESULTS: Final = ("served_fresh", "served_stale", "too_stale")
GOVERNOR_MODES: Final = ("normal", "high_volatility", "circuit_open")
BREAKER_STATES: Final = ("closed", "half_open", "open")
STORE_OPERATIONS: Final = ("read", "lease", "write", "delete", "invalidate", "bus", "other")

#: Upper edges in seconds. Sub-millisecond for hits, and one edge exactly at each latency objective.
REQUEST_BUCKETS: Final = (
    0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.05, LATENCY_P99.threshold, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
COMPUTE_BUCKETS: Final = (
    0.001,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    COMPUTE_P95.threshold,
    2.5,
    5.0,
    10.0,
)
STORE_BUCKETS: Final = (
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
)  # fmt: skip
#: Age edges in seconds: one at each zone's TTL, one at twice it (the end of the stale window).
AGE_BUCKETS: Final = (
    1.0,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    900.0,
    1800.0,
    3600.0,
    7200.0,
    21600.0,
    43200.0,
)


@dataclass(frozen=True, slots=True)
class Label:
    """A label and the bounded set of its values.

    ``values`` is the set itself, or the name of a domain that configuration fills: ``market``, ``competition``,
    ``route`` or ``code``. What lies outside a configured domain is counted under ``other``.
    """

    name: str
    values: tuple[str, ...] | Literal["market", "competition", "route", "code"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family as it stands on ``/metrics``.

    Attributes:
        name: the exposed name, with its unit and ``_total`` where Prometheus naming wants them.
        kind: counter, gauge or histogram.
        unit: base unit of a sample: ``""`` (a count), ``seconds``, ``bytes``, ``ratio``.
        help: the HELP line.
        category: section it belongs to.
        labels: label names with their allowed values.
        buckets: upper edges of a histogram, without +Inf.
        combine: how the values of several processes become one.
        joint: true when the family is a sum over the cells of joint outcomes that requests commit.
        by_exporter: true when the exporter itself produces it.
        absent_when_idle: true when no sample is exposed while there is nothing to say.
        elapsed: true when processes record an instant of the monotonic clock and the time since is exposed.
        objective: the objective it serves, if any.
    """

    name: str
    kind: Kind
    help: str
    category: Category
    labels: tuple[Label, ...] = ()
    unit: Literal["", "seconds", "bytes", "ratio"] = ""
    buckets: tuple[float, ...] = ()
    combine: Combine = "sum"
    joint: bool = False
    by_exporter: bool = False
    absent_when_idle: bool = False
    elapsed: bool = False
    objective: Objective | None = None

    def label(self, name: str) -> Label:
        """The label called ``name``; KeyError when the family has none."""
        for label in self.labels:
            if label.name == name:
                return label
        raise KeyError(f"{self.name} has no label {name!r}; it has {[label.name for label in self.labels]}")


@dataclass(frozen=True, slots=True)
class RecordingRule:
    """A derived series, computed by Prometheus, aggregated to ``job``."""

    record: str
    expr: str
    help: str
    unit: Literal["ratio", "seconds", "per_second"]
    objective: Objective | None = None


@dataclass(frozen=True, slots=True)
class Statistic:
    """One of the 35 statistics of ``get_stats()``.

    Exactly one of ``family`` and ``rule`` names where Prometheus finds it.

    Attributes:
        name: key in ``get_stats()``.
        category: one of the seven categories.
        title: what a panel calls it.
        help: one sentence for on-call.
        family: name of the counter or gauge family behind it.
        match: label values that select its series within the family.
        rule: name of the recording rule behind a derived one.
        unit: unit of the ``get_stats()`` value: ``count``, ``percent`` or ``milliseconds``.
        panel: how a dashboard shows it: ``rate`` (time series per second), ``stat``, ``gauge``.
        colour: tone of its line: ``good``, ``warn``, ``bad`` or ``neutral``.
        objective: the objective it is judged by.
    """

    name: str
    category: Category
    title: str
    help: str
    family: str | None = None
    match: tuple[tuple[str, str], ...] = ()
    rule: str | None = None
    unit: Literal["count", "percent", "milliseconds"] = "count"
    panel: Literal["rate", "stat", "gauge"] = "rate"
    colour: Literal["good", "warn", "bad", "neutral"] = "neutral"
    objective: Objective | None = None

    def selector(self, extra: str = "") -> str:
        """The PromQL vector selector of the statistic's series; ``extra`` are further matchers, comma separated."""
        if self.family is None:
            return f"{self.rule}{{{extra}}}" if extra else str(self.rule)
        matchers = [f'{name}="{value}"' for name, value in self.match]
        if extra:
            matchers.append(extra)
        return f"{self.family}{{{','.join(matchers)}}}" if matchers else self.family


_MARKET: Final = Label("market", "market")
_ZONE: Final = Label("zone", ZONES)
_STRATEGY: Final = Label("strategy", STRATEGIES)
_OPERATION: Final = Label("operation", STORE_OPERATIONS)

FAMILIES: Final[tuple[Family, ...]] = (
    # Sums over the joint outcomes of requests: their laws hold by construction.
    Family("smartcache_requests_total", "counter", "Requests by what was done with them and by time to kickoff.",
           "strategy", (_STRATEGY, _ZONE), joint=True),
    Family("smartcache_lookups_total", "counter", "Lookups by result, by the tier that held the value, by market.",
           "base_cache", (Label("result", LOOKUP_RESULTS), Label("tier", TIERS), _MARKET), joint=True,
           objective=HIT_RATIO),
    Family("smartcache_vix_evaluations_total", "counter", "Volatility judgements made for requests.",
           "vix", (Label("status", VIX_STATUSES), Label("competition", "competition")), joint=True,
           objective=VIX_PANIC),
    Family("smartcache_vix_bypasses_total", "counter", "Requests that bypassed the cache because of a panic.",
           "vix", joint=True, objective=VIX_PANIC),
    Family("smartcache_swr_evaluations_total", "counter", "Held values judged for staleness when asked for.",
           "swr", (Label("result", SWR_RESULTS),), joint=True),
    Family("smartcache_stale_on_error_served_total", "counter",
           "Requests served a held value because its compute failed or was late.", "compute", joint=True),
    # The rest of the engine.
    Family("smartcache_swr_refreshes_total", "counter", "Background refreshes that ended.", "swr",
           (Label("outcome", ("success", "error")),)),
    Family("smartcache_swr_refreshes_in_progress", "gauge", "Background refreshes running now.", "swr"),
    Family("smartcache_swr_refreshes_skipped_total", "counter",
           "Background refreshes not started because as many as allowed were running.", "swr"),
    Family("smartcache_early_refreshes_total", "counter",
           "Background refreshes started before expiry by the X-Fetch draw.", "swr"),
    Family("smartcache_invalidations_total", "counter", "Invalidations accepted, by kind.", "tagmanager",
           (Label("kind", ("surgical", "full")),)),
    Family("smartcache_invalidation_markets_total", "counter",
           "Markets that surgical invalidations affected and preserved.", "tagmanager",
           (Label("outcome", ("affected", "preserved")),)),
    Family("smartcache_invalidation_keys_deleted_total", "counter", "Entries that invalidations retired.",
           "tagmanager"),
    Family("smartcache_invalidations_queued", "gauge",
           "Invalidations applied in their process that the store has not acknowledged yet.", "tagmanager"),
    Family("smartcache_request_duration_seconds", "histogram", "Time from asking the engine to its answer.",
           "performance", (_STRATEGY,), unit="seconds", buckets=REQUEST_BUCKETS, objective=LATENCY_P99),
    Family("smartcache_request_duration_max_seconds", "gauge", "Slowest request of the last minute.",
           "performance", unit="seconds", combine="max", absent_when_idle=True, objective=LATENCY_P99),
    Family("smartcache_request_duration_min_seconds", "gauge", "Fastest request of the last minute.",
           "performance", unit="seconds", combine="min", absent_when_idle=True),
    Family("smartcache_latency_sampling_ratio", "gauge", "Share of requests that the latency histogram counts.",
           "performance", unit="ratio", combine="min"),
    Family("smartcache_served_beyond_promise_total", "counter",
           "Answers from the cache that were older than the limit they were judged by.", "compute",
           (_ZONE, Label("reason", ("fresh", "stale", "error", "kickoff"))), objective=PROMISE),
    Family("smartcache_served_age_seconds", "histogram", "Age of values served from the cache, when served.",
           "swr", (_ZONE,), unit="seconds", buckets=AGE_BUCKETS),
    Family("smartcache_computes_total", "counter", "Computes that ended, by outcome.", "compute",
           (Label("outcome", ("success", "error", "timeout", "cancelled")),)),
    Family("smartcache_compute_duration_seconds", "histogram", "Duration of computes.", "compute",
           unit="seconds", buckets=COMPUTE_BUCKETS, objective=COMPUTE_P95),
    Family("smartcache_computes_in_progress", "gauge", "Computes running now.", "compute"),
    Family("smartcache_coalesced_requests_total", "counter",
           "Requests that shared a compute which another request, here or in another process, had started.",
           "compute"),
    Family("smartcache_writes_fenced_total", "counter",
           "Computed values not stored because an invalidation or a newer owner came between.", "compute"),
    Family("smartcache_governor_mode", "gauge", "Processes in each mode of the volatility governor.", "vix",
           (Label("mode", GOVERNOR_MODES),)),
    Family("smartcache_odds_ticks_total", "counter", "Odds ticks that entered a volatility window.", "vix",
           (Label("origin", ("local", "bus")),)),
    Family("smartcache_store_errors_total", "counter", "Store operations that failed or timed out.", "base_cache",
           (_OPERATION,)),
    Family("smartcache_store_operation_duration_seconds", "histogram", "Duration of store round trips.", "store",
           (_OPERATION,), unit="seconds", buckets=STORE_BUCKETS),
    Family("smartcache_store_breaker_state", "gauge", "Processes by state of their store circuit breaker.",
           "store", (Label("state", BREAKER_STATES),)),
    Family("smartcache_store_unreadable_entries_total", "counter",
           "Store entries that could not be decoded and were counted as misses.", "store"),
    Family("smartcache_memory_entries", "gauge", "Entries held in memory tiers.", "memory"),
    Family("smartcache_memory_bytes", "gauge", "Encoded size of the entries held in memory tiers.", "memory",
           unit="bytes"),
    Family("smartcache_memory_evictions_total", "counter", "Entries evicted from memory tiers for room.", "memory"),
    Family("smartcache_bus_lag_seconds", "gauge", "Longest time for which a process has heard nothing on the bus.",
           "bus", unit="seconds", combine="max", absent_when_idle=True, elapsed=True),
    Family("smartcache_bus_messages_total", "counter", "Bus messages applied.", "bus",
           (Label("kind", ("invalidate", "ticks")),)),
    Family("smartcache_bus_gaps_total", "counter",
           "Times a process could not prove that it had heard every message, and stopped trusting its memory.", "bus"),
    # Recorded by the service around the engine.
    Family("smartcache_http_requests_total", "counter", "HTTP answers by route and status code.", "service",
           (Label("route", "route"), Label("code", "code")), objective=AVAILABILITY),
    Family("smartcache_model_extra_latency_seconds", "gauge",
           "Latency that the reference model adds to stand for a heavier one.", "service", unit="seconds",
           combine="max"),
    # Produced by the exporter.
    Family("smartcache_processes", "gauge", "Processes by state; what dead ones counted stays in the sums.", "exporter",
           (Label("state", ("live", "dead", "unreadable")),), by_exporter=True),
    Family("smartcache_build_info", "gauge", "Always 1; the version of the exporter in its labels.", "exporter",
           (Label("version", ()), Label("python_version", ())), by_exporter=True),
    Family("smartcache_exporter_up", "gauge", "1 when every part of the page could be collected.", "exporter",
           by_exporter=True),
    Family("smartcache_exporter_scrape_duration_seconds", "gauge", "Time taken to collect this page.", "exporter",
           unit="seconds", by_exporter=True),
    Family("smartcache_exporter_scrape_errors_total", "counter", "Parts of pages that could not be collected.",
           "exporter", by_exporter=True),
)  # fmt: skip

FAMILY: Final[Mapping[str, Family]] = {family.name: family for family in FAMILIES}


def _ratio(record: str, part: str, whole: str, window: str, help: str, objective: Objective | None) -> RecordingRule:
    # "> 0" keeps the series absent, not NaN, while there is no traffic.
    expr = f"sum by (job) (rate({part}[{window}])) / (sum by (job) (rate({whole}[{window}])) > 0)"
    return RecordingRule(record, expr, help, "ratio", objective)


#: Routes that watch the service; availability is judged by what clients ask for.
WATCHING_ROUTES: Final = ("/metrics", "/healthz", "/readyz")
SERVED: Final = f'route!~"{"|".join(WATCHING_ROUTES)}"'
#: Windows of the burn-rate alerts on availability.
BURN_WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")

RULES: Final[tuple[RecordingRule, ...]] = (
    _ratio("smartcache:hit_ratio:rate5m", 'smartcache_lookups_total{result=~"hit_fresh|hit_stale"}',
           "smartcache_lookups_total", "5m", "Share of lookups that found a value they could serve.", HIT_RATIO),
    _ratio("smartcache:served_from_cache_ratio:rate5m",
           'smartcache_requests_total{strategy=~"serve_fresh|serve_stale"}', "smartcache_requests_total", "5m",
           "Share of all requests served from the cache; bypasses count against it, so a panic shows.", None),
    _ratio("smartcache:vix_panic_ratio:rate5m", 'smartcache_vix_evaluations_total{status="panic"}',
           "smartcache_vix_evaluations_total", "5m", "Share of volatility judgements that were a panic.", VIX_PANIC),
    RecordingRule("smartcache:golden_hour_requests:rate5m",
                  'sum by (job) (rate(smartcache_requests_total{zone=~"warmup|golden|active|prematch|standard"}[5m]))',
                  "Requests a second for matches with a known kickoff still to come.", "per_second"),
    RecordingRule("smartcache:requests:rate5m", "sum by (job) (rate(smartcache_requests_total[5m]))",
                  "Requests a second.", "per_second"),
    _ratio("smartcache:invalidation_saved_ratio:rate1h", 'smartcache_invalidation_markets_total{outcome="preserved"}',
           "smartcache_invalidation_markets_total", "1h",
           "Share of markets that events spared from being computed again.", None),
    RecordingRule("smartcache:request_duration_seconds:mean5m",
                  "sum by (job) (rate(smartcache_request_duration_seconds_sum[5m]))"
                  " / (sum by (job) (rate(smartcache_request_duration_seconds_count[5m])) > 0)",
                  "Mean time to an answer, all requests.", "seconds", LATENCY_MEAN),
    RecordingRule("smartcache:request_duration_seconds_cached:p99_5m",
                  "histogram_quantile(0.99, sum by (job, le) (rate("
                  'smartcache_request_duration_seconds_bucket{strategy=~"serve_fresh|serve_stale"}[5m])))'
                  ' and on (job) sum by (job) (rate(smartcache_request_duration_seconds_count'
                  '{strategy=~"serve_fresh|serve_stale"}[5m])) > 0',
                  "99th percentile of requests served from the cache.", "seconds", LATENCY_P99),
    RecordingRule("smartcache:compute_duration_seconds:p95_5m",
                  "histogram_quantile(0.95, sum by (job, le) (rate(smartcache_compute_duration_seconds_bucket[5m])))"
                  " and on (job) sum by (job) (rate(smartcache_compute_duration_seconds_count[5m])) > 0",
                  "95th percentile of computes.", "seconds", COMPUTE_P95),
    *(
        _ratio(f"smartcache:http_error_ratio:rate{window}", f'smartcache_http_requests_total{{{SERVED},code=~"5.."}}',
               f"smartcache_http_requests_total{{{SERVED}}}", window,
               f"Share of HTTP answers that were server errors, over {window}.", AVAILABILITY)
        for window in BURN_WINDOWS
    ),
)  # fmt: skip

RULE: Final[Mapping[str, RecordingRule]] = {rule.record: rule for rule in RULES}


def _zone_statistic(zone: str, range_: str) -> Statistic:
    return Statistic(f"golden_hour_{zone}", "golden_hour", zone.capitalize(), f"Requests {range_} before kickoff.",
                     "smartcache_requests_total", (("zone", zone),))  # fmt: skip


STATISTICS: Final[tuple[Statistic, ...]] = (
    Statistic("cache_hit_fresh", "base_cache", "Fresh hits", "Lookups that found a fresh value.",
              "smartcache_lookups_total", (("result", "hit_fresh"),), colour="good"),
    Statistic("cache_hit_stale", "base_cache", "Stale hits", "Lookups served a held value that was not fresh.",
              "smartcache_lookups_total", (("result", "hit_stale"),), colour="warn"),
    Statistic("cache_miss", "base_cache", "Misses", "Lookups that found nothing they could serve.",
              "smartcache_lookups_total", (("result", "miss"),), colour="bad"),
    Statistic("cache_errors", "base_cache", "Store errors", "Store operations that failed; callers still got answers.",
              "smartcache_store_errors_total", colour="bad"),
    Statistic("hit_rate_pct", "base_cache", "Hit ratio", "Share of lookups that found a value they could serve.",
              rule="smartcache:hit_ratio:rate5m", unit="percent", panel="gauge", objective=HIT_RATIO),
    Statistic("vix_panic_detected", "vix", "Panic", "Judgements that the odds were in panic.",
              "smartcache_vix_evaluations_total", (("status", "panic"),), colour="bad"),
    Statistic("vix_warning_detected", "vix", "Warning", "Judgements that the odds were restless.",
              "smartcache_vix_evaluations_total", (("status", "warning"),), colour="warn"),
    Statistic("vix_normal", "vix", "Normal", "Judgements that the odds were calm.",
              "smartcache_vix_evaluations_total", (("status", "normal"),), colour="good"),
    Statistic("cache_bypass_vix", "vix", "Panic bypasses", "Requests computed afresh because of a panic.",
              "smartcache_vix_bypasses_total", colour="bad"),
    Statistic("vix_panic_rate_pct", "vix", "Panic ratio", "Share of judgements that were a panic.",
              rule="smartcache:vix_panic_ratio:rate5m", unit="percent", panel="gauge", objective=VIX_PANIC),
    _zone_statistic("warmup", "under 15 minutes"),
    _zone_statistic("golden", "15 minutes to 1 hour"),
    _zone_statistic("active", "1 to 6 hours"),
    _zone_statistic("prematch", "6 to 24 hours"),
    _zone_statistic("standard", "more than 24 hours"),
    Statistic("golden_hour_total", "golden_hour", "All zones", "Requests for matches still to start, all zones.",
              rule="smartcache:golden_hour_requests:rate5m", panel="stat"),
    Statistic("swr_served_fresh", "swr", "Served fresh", "Held values that were fresh when asked for.",
              "smartcache_swr_evaluations_total", (("result", "served_fresh"),), colour="good"),
    Statistic("swr_served_stale", "swr", "Served stale", "Held values served though no longer fresh.",
              "smartcache_swr_evaluations_total", (("result", "served_stale"),), colour="warn"),
    Statistic("swr_too_stale", "swr", "Too stale", "Held values too old to serve; the caller waited.",
              "smartcache_swr_evaluations_total", (("result", "too_stale"),), colour="bad"),
    Statistic("swr_background_success", "swr", "Refreshed", "Background refreshes that brought a new value.",
              "smartcache_swr_refreshes_total", (("outcome", "success"),), colour="good"),
    Statistic("swr_background_error", "swr", "Refresh errors", "Background refreshes that failed or timed out.",
              "smartcache_swr_refreshes_total", (("outcome", "error"),), colour="bad"),
    Statistic("surgical_invalidation", "tagmanager", "Surgical", "Events that retired only the markets they touch.",
              "smartcache_invalidations_total", (("kind", "surgical"),)),
    Statistic("full_invalidation", "tagmanager", "Full", "Calls that retired everything.",
              "smartcache_invalidations_total", (("kind", "full"),), colour="bad"),
    Statistic("markets_affected_logical", "tagmanager", "Markets affected", "Markets that events retired.",
              "smartcache_invalidation_markets_total", (("outcome", "affected"),), colour="warn"),
    Statistic("markets_preserved", "tagmanager", "Markets preserved", "Markets that events spared.",
              "smartcache_invalidation_markets_total", (("outcome", "preserved"),), colour="good"),
    Statistic("cache_keys_deleted_actual", "tagmanager", "Entries retired", "Entries that invalidations removed.",
              "smartcache_invalidation_keys_deleted_total"),
    Statistic("avg_cpu_saved_pct", "tagmanager", "Computes spared", "Share of markets that events spared.",
              rule="smartcache:invalidation_saved_ratio:rate1h", unit="percent", panel="gauge"),
    Statistic("strategy_bypass", "strategy", "Bypass", "Requests computed without a lookup.",
              "smartcache_requests_total", (("strategy", "bypass"),), colour="bad"),
    Statistic("strategy_compute", "strategy", "Compute", "Requests that waited for a compute after a miss.",
              "smartcache_requests_total", (("strategy", "compute"),), colour="warn"),
    Statistic("strategy_serve_stale", "strategy", "Serve stale", "Requests answered with a value not fresh.",
              "smartcache_requests_total", (("strategy", "serve_stale"),), colour="neutral"),
    Statistic("strategy_serve_fresh", "strategy", "Serve fresh", "Requests answered with a fresh value.",
              "smartcache_requests_total", (("strategy", "serve_fresh"),), colour="good"),
    Statistic("total_requests", "performance", "Requests", "Every key asked for.",
              "smartcache_requests_total"),
    Statistic("avg_latency_ms", "performance", "Mean latency", "Mean time to an answer, all requests.",
              rule="smartcache:request_duration_seconds:mean5m", unit="milliseconds", panel="stat",
              objective=LATENCY_MEAN),
    Statistic("max_latency_ms", "performance", "Slowest", "Slowest request of the last minute.",
              "smartcache_request_duration_max_seconds", unit="milliseconds", panel="stat"),
    Statistic("min_latency_ms", "performance", "Fastest", "Fastest request of the last minute.",
              "smartcache_request_duration_min_seconds", unit="milliseconds", panel="stat"),
)  # fmt: skip

STATISTIC: Final[Mapping[str, Statistic]] = {statistic.name: statistic for statistic in STATISTICS}

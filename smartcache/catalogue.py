"""The catalogue: every series, statistic and recording rule, once.

The recorder lays out its memory from it, the exporter exposes it, the rule files, the dashboards and
``docs/metrics.md`` are generated from it, and the tests compare what runs with it. A new metric is one entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

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

#: How the values of several processes become one. ``states``: each process is in one state, and those in each count.
Combine = Literal["sum", "max", "min", "states"]
Kind = Literal["counter", "gauge", "histogram"]
#: How a dashboard shows a family: per second, or counted in intervals where its events are rare; as a value over time;
#: as its 99th percentile or all of its buckets over time; as words over time; as one figure, now.
Shown = Literal["rate", "events", "value", "quantile", "heatmap", "states", "figure"]

#: Sets of label values that come from configuration; the layout adds "none" and "other" to each.
Domain = Literal["market", "competition", "route", "code", "worker"]
DOMAINS: Final[tuple[Domain, ...]] = get_args(Domain)

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
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, COMPUTE_P95.threshold, 2.5, 5.0, 10.0,
)  # fmt: skip
STORE_BUCKETS: Final = (
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
)  # fmt: skip
LAG_BUCKETS: Final = (0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, LATENCY_P99.threshold, 0.25, 0.5, 1.0, 2.5)
#: Age edges in seconds: one at each zone's TTL, one at twice it (the end of the stale window).
AGE_BUCKETS: Final = (
    1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 21600.0, 43200.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Label:
    """A label and the bounded set of its values.

    ``values`` is the set itself, or the name of a domain that configuration fills. What lies outside a configured
    domain is counted under ``other``.
    """

    name: str
    values: tuple[str, ...] | Domain


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family as it stands on ``/metrics``.

    Attributes:
        name: the exposed name, with its unit and ``_total`` where Prometheus naming wants them.
        kind: counter, gauge or histogram.
        category: section it belongs to.
        help: the HELP line.
        why: what somebody on call learns from it, in one sentence.
        shown: how a dashboard shows it.
        labels: label names with their allowed values.
        unit: base unit of a sample: ``""`` (a count), ``seconds``, ``bytes``, ``ratio``.
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
    category: Category
    help: str
    why: str
    shown: Shown
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
    Family("smartcache_requests_total", "counter", "strategy",
           "Requests by what was done with them and by time to kickoff.",
           "What the engine does now: computes and bypasses that grow are load on the model.",
           "rate", (_STRATEGY, _ZONE), joint=True),
    Family("smartcache_lookups_total", "counter", "base_cache",
           "Lookups by result, by the tier that held the value, by market.",
           "Where the hit ratio comes from, and which market or tier spoils it.",
           "rate", (Label("result", LOOKUP_RESULTS), Label("tier", TIERS), _MARKET), joint=True,
           objective=HIT_RATIO),
    Family("smartcache_vix_evaluations_total", "counter", "vix", "Volatility judgements made for requests.",
           "Whether one competition moves or all do, which points to the feed of odds.",
           "rate", (Label("status", VIX_STATUSES), Label("competition", "competition")), joint=True,
           objective=VIX_PANIC),
    Family("smartcache_vix_bypasses_total", "counter", "vix", "Requests that bypassed the cache because of a panic.",
           "What a panic costs the model.", "rate", joint=True, objective=VIX_PANIC),
    Family("smartcache_swr_evaluations_total", "counter", "swr", "Held values judged for staleness when asked for.",
           "Too stale means that refreshes do not come in time and callers wait.",
           "rate", (Label("result", SWR_RESULTS),), joint=True),
    Family("smartcache_stale_on_error_served_total", "counter", "compute",
           "Requests served a held value because its compute failed or was late.",
           "A failing model that clients do not see yet.", "events", joint=True),
    # The rest of the engine.
    Family("smartcache_swr_refreshes_total", "counter", "swr", "Background refreshes that ended.",
           "Refreshes that fail turn into stale answers, then into waits.",
           "rate", (Label("outcome", ("success", "error")),)),
    Family("smartcache_swr_refreshes_in_progress", "gauge", "swr", "Background refreshes running now.",
           "Near its bound, further refreshes are held back.", "value"),
    Family("smartcache_swr_refreshes_skipped_total", "counter", "swr",
           "Background refreshes not started because as many as allowed were running.",
           "Then values grow too stale: the model is slow, or the bound too low.", "rate"),
    Family("smartcache_early_refreshes_total", "counter", "swr",
           "Background refreshes started before expiry by the X-Fetch draw.",
           "How much of the refreshing keeps hot keys from expiring at all.", "rate"),
    Family("smartcache_invalidations_total", "counter", "tagmanager", "Invalidations accepted, by kind.",
           "A full one is a cold start: misses and computes follow it.",
           "events", (Label("kind", ("surgical", "full")),)),
    Family("smartcache_invalidation_markets_total", "counter", "tagmanager",
           "Markets that surgical invalidations affected and preserved.",
           "How much computing the tags spare.", "events", (Label("outcome", ("affected", "preserved")),)),
    Family("smartcache_invalidation_keys_deleted_total", "counter", "tagmanager",
           "Entries that invalidations retired.",
           "How many values an event really cost: none at all means that it named a match nobody asked for.", "events"),
    Family("smartcache_invalidations_queued", "gauge", "tagmanager",
           "Invalidations applied in their process that the store has not acknowledged yet.",
           "While it is above zero another process may still serve what was retired.", "value"),
    Family("smartcache_request_duration_seconds", "histogram", "performance",
           "Time from asking the engine to its answer.",
           "Two bands are healthy: hits in microseconds, computes at the model's pace.",
           "heatmap", (_STRATEGY,), unit="seconds", buckets=REQUEST_BUCKETS, objective=LATENCY_P99),
    Family("smartcache_request_duration_max_seconds", "gauge", "performance", "Slowest request of the last minute.",
           "The one bad answer that no quantile shows.",
           "value", unit="seconds", combine="max", absent_when_idle=True, objective=LATENCY_P99),
    Family("smartcache_request_duration_min_seconds", "gauge", "performance", "Fastest request of the last minute.",
           "The floor: if it rises, the processes lack CPU.",
           "value", unit="seconds", combine="min", absent_when_idle=True),
    Family("smartcache_latency_sampling_ratio", "gauge", "performance",
           "Share of requests that the latency histogram counts.",
           "Counters, maximum and minimum are exact at any ratio; below 1 the histogram counts fewer requests.",
           "figure", unit="ratio", combine="min"),
    Family("smartcache_served_beyond_promise_total", "counter", "compute",
           "Answers from the cache that were older than the limit they were judged by.",
           "Clients got outdated predictions; this should never move.",
           "events", (_ZONE, Label("reason", ("fresh", "stale", "error", "kickoff"))), objective=PROMISE),
    Family("smartcache_served_age_seconds", "histogram", "swr", "Age of values served from the cache, when served.",
           "How old answers really are, beside what is allowed.",
           "heatmap", (_ZONE,), unit="seconds", buckets=AGE_BUCKETS),
    Family("smartcache_computes_total", "counter", "compute", "Computes that ended, by outcome.",
           "Whether the model works: values held hide its failures from clients for a while.",
           "rate", (Label("outcome", ("success", "error", "timeout", "cancelled")),)),
    Family("smartcache_compute_duration_seconds", "histogram", "compute", "Duration of computes.",
           "A slower model makes every miss and every refresh late.",
           "heatmap", unit="seconds", buckets=COMPUTE_BUCKETS, objective=COMPUTE_P95),
    Family("smartcache_computes_in_progress", "gauge", "compute", "Computes running now.",
           "A number that only grows is a model that no longer answers.", "value"),
    Family("smartcache_coalesced_requests_total", "counter", "compute",
           "Requests that shared a compute which another request, here or in another process, had started.",
           "Computes that the model was spared when many asked at once.", "rate"),
    Family("smartcache_writes_fenced_total", "counter", "compute",
           "Computed values not stored because an invalidation or a newer owner came between.",
           "Many at once: computes take longer than the time between two events.", "events"),
    Family("smartcache_governor_mode", "gauge", "vix", "Processes in each mode of the volatility governor.",
           "High volatility caches panicking requests for seconds; an open circuit serves them from the cache, to keep "
           "the model alive.",
           "states", (Label("mode", GOVERNOR_MODES),), combine="states"),
    Family("smartcache_odds_ticks_total", "counter", "vix", "Odds ticks that entered a volatility window.",
           "None for minutes: the feed is silent, and volatility blind.",
           "rate", (Label("origin", ("local", "bus")),)),
    Family("smartcache_store_errors_total", "counter", "base_cache", "Store operations that failed or timed out.",
           "Callers still got answers, each process from what it has.", "events", (_OPERATION,)),
    Family("smartcache_store_operation_duration_seconds", "histogram", "store", "Duration of store round trips.",
           "As the engine sees them, the network included: a slow store makes every miss in memory slow.",
           "quantile", (_OPERATION,), unit="seconds", buckets=STORE_BUCKETS),
    Family("smartcache_store_breaker_state", "gauge", "store", "Processes by state of their store circuit breaker.",
           "Open: the store is not asked; each process serves and computes alone.",
           "states", (Label("state", BREAKER_STATES),), combine="states"),
    Family("smartcache_store_unreadable_entries_total", "counter", "store",
           "Store entries that could not be decoded and were counted as misses.",
           "A few after a release are an old format; more are somebody else writing under our keys.", "events"),
    Family("smartcache_memory_entries", "gauge", "memory", "Entries held in memory tiers.",
           "At its bound, the hit ratio depends on what is evicted.", "value"),
    Family("smartcache_memory_bytes", "gauge", "memory", "Encoded size of the entries held in memory tiers.",
           "Whether values grew, beside the resident memory of the processes.", "value", unit="bytes"),
    Family("smartcache_memory_evictions_total", "counter", "memory", "Entries evicted from memory tiers for room.",
           "Many: the memory tier is too small for what is asked.", "events"),
    Family("smartcache_bus_lag_seconds", "gauge", "bus",
           "Longest time for which a process has heard nothing on the bus.",
           "Beyond 2 s that process trusts nothing it holds.",
           "value", unit="seconds", combine="max", absent_when_idle=True, elapsed=True),
    Family("smartcache_bus_messages_total", "counter", "bus", "Bus messages applied.",
           "None while another process invalidates: its changes do not arrive.",
           "rate", (Label("kind", ("invalidate", "ticks")),)),
    Family("smartcache_bus_gaps_total", "counter", "bus",
           "Times a process could not prove that it had heard every message, and stopped trusting its memory.",
           "Each is a dip in the hit ratio; many are a network or a store that loses messages.", "events"),
    # Recorded by the service around the engine.
    Family("smartcache_http_requests_total", "counter", "service", "HTTP answers by route and status code.",
           "What clients see; availability is judged by it.",
           "rate", (Label("route", "route"), Label("code", "code")), objective=AVAILABILITY),
    Family("smartcache_event_loop_lag_seconds", "histogram", "service",
           "How long work that was due had to wait for the event loop of its worker.",
           "Every request waits as long: something blocks the loops, or the CPU is taken.",
           "quantile", unit="seconds", buckets=LAG_BUCKETS),
    Family("smartcache_event_loop_lag_max_seconds", "gauge", "service",
           "Longest lag of the event loop in the last minute, by worker.",
           "One worker alone that lags is blocked by a request of its own.",
           "value", (Label("worker", "worker"),), unit="seconds", combine="max"),
    Family("smartcache_model_extra_latency_seconds", "gauge", "service",
           "Latency that the reference model adds to stand for a heavier one.",
           "Every compute takes at least so long, by configuration.", "figure", unit="seconds", combine="max"),
    # Produced by the exporter.
    Family("smartcache_processes", "gauge", "exporter", "Processes by state; what dead ones counted stays in the sums.",
           "Whether the processes that should run do; an unreadable one counts with what it last said.",
           "value", (Label("state", ("live", "dead", "unreadable")),), by_exporter=True),
    Family("smartcache_build_info", "gauge", "exporter", "Always 1; the version of the exporter in its labels.",
           "What runs here.", "figure", (Label("version", ()), Label("python_version", ())), by_exporter=True),
    Family("smartcache_exporter_up", "gauge", "exporter", "1 when every part of the page could be collected.",
           "At 0 some numbers stand still or are missing.", "figure", by_exporter=True),
    Family("smartcache_exporter_scrape_duration_seconds", "gauge", "exporter", "Time taken to collect this page.",
           "Near the time-out of a scrape, pages are lost.", "value", unit="seconds", by_exporter=True),
    # A gauge, since each exporter of a folder has a count of its own and Prometheus may ask any of them.
    Family("smartcache_exporter_scrape_errors", "gauge", "exporter",
           "Parts of this page that could not be collected.", "The exporter's log says which.", "value",
           by_exporter=True),
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

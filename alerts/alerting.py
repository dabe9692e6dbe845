"""The alerts. What is too much stands in ``smartcache.objectives`` and ``alerts.bounds``; here is what to say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from alerts.bounds import (
    BURN_RATES,
    BUS_LAG_SECONDS,
    COMPUTE_ERROR_RATIO,
    MINIMUM_ANSWERS,
    MINIMUM_COMPUTES,
    MINIMUM_REQUESTS,
    STORE_ERRORS_PER_SECOND,
    STORE_MEMORY_RATIO,
    WORKER_RESTARTS,
    BurnRate,
)
from alerts.links import Links
from alerts.promql import seconds
from alerts.rule import Alert, Group, document
from smartcache.catalogue import SERVED
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

__all__ = ["ALERTS", "alerts_file"]

#: Gauges are read over this window, so that one missed scrape neither raises an alert nor clears it: max_over_time
#: where one bad sample counts or where all must be 0, min_over_time where all must be bad.
_GAUGE: Final = "1m"
#: Window of rates that no objective sets.
_RATE: Final = "5m"
#: The value of an increase(), which Prometheus extrapolates, as the whole number it stands for.
_COUNT: Final = '{{ $value | printf "%.0f" }}'


def _missed(objective: Objective, record: str, traffic: str, floor: float) -> str:
    """``record`` beyond its objective, while ``traffic`` (a counter) is above ``floor`` a second."""
    beyond = ">" if objective.sense == "at_most" else "<"
    return (
        f"{record} {beyond} {objective.threshold:g}\n"
        f"and on (job) sum by (job) (rate({traffic}[{objective.window}])) > {floor:g}"
    )


def _down_or_absent(job: str, proof: str) -> str:
    """Nothing of the job answers, or ``proof``, a series it must expose, is nowhere: it may not be scraped at all."""
    proven = _series(proof, {"job": job})
    return f"{_highest('up', job=job)} == 0\nor on (job) absent_over_time({proven}[{_GAUGE}]) == 1"


def _highest(gauge: str, **labels: str) -> str:
    return f"max_over_time({_series(gauge, labels)}[{_GAUGE}])"


def _lowest(gauge: str, **labels: str) -> str:
    return f"min_over_time({_series(gauge, labels)}[{_GAUGE}])"


def _series(name: str, labels: Mapping[str, str]) -> str:
    matchers = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{matchers}}}" if matchers else name


def _burn(burn: BurnRate) -> Alert:
    # Rounded: 1 - 0.999 is not 0.001 in binary.
    budget = round(1 - AVAILABILITY.threshold, 6)
    hours = seconds(AVAILABILITY.window) / 3600 / burn.factor
    spent = f"{hours:.0f} hours" if hours < 72 else f"{hours / 24:.0f} days"
    return Alert(
        "SmartCacheErrorBudgetBurn",
        burn.severity,
        "service",
        f"smartcache:http_error_ratio:rate{burn.long} > ({burn.factor:g} * {budget:g})\n"
        f"and on (job) smartcache:http_error_ratio:rate{burn.short} > ({burn.factor:g} * {budget:g})\n"
        f"and on (job) sum by (job) (rate(smartcache_http_requests_total{{{SERVED}}}[{burn.short}]))"
        f" > {MINIMUM_ANSWERS:g}",
        burn.pending,
        f"Server errors spend the availability budget at {burn.factor:g} times the pace it allows",
        f"{{{{ $value | humanizePercentage }}}} of the answers of the last {burn.long} are server errors, and the last "
        f"{burn.short} are no better. At that pace the budget of {AVAILABILITY.window} is spent in {spent}.",
        labels=(("window", burn.long),),
    )


#: Alerts by group.
ALERTS: Final[Mapping[str, tuple[Alert, ...]]] = {
    "objectives": (
        Alert(
            "SmartCacheVixPanicHigh", "warning", "volatility",
            _missed(VIX_PANIC, "smartcache:vix_panic_ratio:rate5m", "smartcache_vix_evaluations_total",
                    MINIMUM_REQUESTS),
            "5m",
            "Too many volatility judgements are a panic",
            "{{ $value | humanizePercentage }} of the volatility judgements of the last "
            f"{VIX_PANIC.window} are a panic; the objective is {VIX_PANIC.describe()}. Requests in panic bypass the "
            "cache, so the model computes each of them.",
            keep="5m",
        ),
        Alert(
            "SmartCacheLatencyP99High", "critical", "latency",
            _missed(LATENCY_P99, "smartcache:request_duration_seconds_cached:p99_5m",
                    'smartcache_requests_total{strategy=~"serve_fresh|serve_stale"}', MINIMUM_REQUESTS),
            "5m",
            "Requests served from the cache are slow",
            "The 99th percentile of requests served from the cache is {{ $value | humanizeDuration }} over "
            f"{LATENCY_P99.window}; the objective is {LATENCY_P99.describe()}. None of them waits for the model.",
            keep="5m",
        ),
        Alert(
            "SmartCacheLatencyMeanHigh", "warning", "latency",
            _missed(LATENCY_MEAN, "smartcache:request_duration_seconds:mean5m",
                    "smartcache_requests_total", MINIMUM_REQUESTS),
            "5m",
            "The mean answer is slow",
            "A request takes {{ $value | humanizeDuration }} on average over "
            f"{LATENCY_MEAN.window}, waits for the model included; the objective is {LATENCY_MEAN.describe()}.",
            keep="5m",
        ),
        Alert(
            "SmartCacheHitRatioLow", "warning", "hits",
            _missed(HIT_RATIO, "smartcache:hit_ratio:rate5m", "smartcache_lookups_total", MINIMUM_REQUESTS),
            "5m",
            "Too few lookups find a value",
            "{{ $value | humanizePercentage }} of the lookups of the last "
            f"{HIT_RATIO.window} found a value they could serve; the objective is {HIT_RATIO.describe()}. The model "
            "computes the rest.",
            keep="5m",
        ),
        Alert(
            "SmartCacheComputeSlow", "warning", "model",
            _missed(COMPUTE_P95, "smartcache:compute_duration_seconds:p95_5m",
                    "smartcache_compute_duration_seconds_count", MINIMUM_COMPUTES),
            "5m",
            "The model computes slowly",
            "The 95th percentile of computes is {{ $value | humanizeDuration }} over "
            f"{COMPUTE_P95.window}; the objective is {COMPUTE_P95.describe()}. Misses wait that long, and refreshes "
            "come late.",
            keep="5m",
        ),
        Alert(
            "SmartCacheServedBeyondPromise", "critical", "promise",
            "sum by (job, zone, reason) (increase(smartcache_served_beyond_promise_total"
            f"[{PROMISE.window}])) > {PROMISE.threshold:g}",
            "15s",
            "Answers of zone {{ $labels.zone }} were older than allowed ({{ $labels.reason }})",
            f"About {_COUNT} answers of the last {PROMISE.window} were older than the limit they were judged by (zone "
            "{{ $labels.zone }}, judged {{ $labels.reason }}). None may be: customers may have seen outdated "
            "predictions.",
            keep="10m",
        ),
    ),
    "availability": tuple(_burn(burn) for burn in BURN_RATES),
    "engine": (
        Alert(
            "SmartCacheComputesFailing", "warning", "model",
            f'sum by (job) (rate(smartcache_computes_total{{outcome=~"error|timeout"}}[{_RATE}]))\n'
            f"/ (sum by (job) (rate(smartcache_computes_total[{_RATE}])) > {MINIMUM_COMPUTES:g})\n"
            f"> {COMPUTE_ERROR_RATIO:g}",
            "5m",
            "Computes fail",
            f"{{{{ $value | humanizePercentage }}}} of the computes of the last {_RATE} failed or timed out "
            f"({COMPUTE_ERROR_RATIO:.0%} are tolerated). Values held are served meanwhile, until they are too old.",
            keep="5m",
        ),
        Alert(
            "SmartCacheGovernorCircuitOpen", "critical", "volatility",
            f"sum by (job) ({_highest('smartcache_governor_mode', mode='circuit_open')}) > 0",
            "30s",
            "The volatility governor has opened the circuit",
            "Processes with an open circuit: {{ $value }}. So many judgements are a panic that panicking requests are "
            "served from the cache after all, to keep the model alive.",
        ),
        Alert(
            "SmartCacheGovernorHighVolatility", "info", "volatility",
            f"sum by (job) ({_highest('smartcache_governor_mode', mode='high_volatility')}) > 0",
            "30s",
            "The volatility governor has shortened lifetimes",
            "Processes in high volatility: {{ $value }}. Panicking requests are cached there for seconds instead of "
            "bypassing the cache.",
        ),
        Alert(
            "SmartCacheInvalidationsQueued", "critical", "bus",
            f"sum by (job) ({_lowest('smartcache_invalidations_queued')}) > 0",
            "30s",
            "Invalidations wait for the store",
            f"For {_GAUGE} at least {{{{ $value }}}} invalidations have waited for the store. They hold in the process "
            "that took them; one that still reaches the store may serve what they retired.",
        ),
        Alert(
            "SmartCacheBusLagging", "warning", "bus",
            f"max by (job) ({_highest('smartcache_bus_lag_seconds')}) > {BUS_LAG_SECONDS:g}",
            "2m",
            "A process hears nothing on the invalidation bus",
            f"A process heard nothing on the bus for {{{{ $value | humanizeDuration }}}}; beyond {BUS_LAG_SECONDS:g} s "
            "it serves nothing it holds as fresh until it has caught up.",
        ),
        Alert(
            "SmartCacheBusGapsRecurring", "warning", "bus",
            f"sum by (job) (increase(smartcache_bus_gaps_total[{_RATE}])) > 0",
            "15m",
            "Processes keep losing bus messages",
            f"About {_COUNT} times in the last {_RATE}, and again and again before, a process could "
            "not prove that it had heard every message. Each time it stops trusting its memory.",
            keep="5m",
        ),
    ),
    "store": (
        Alert(
            "SmartCacheValkeyDown", "critical", "store",
            f"{_highest('redis_up')} == 0",
            "15s",
            "Valkey does not answer ({{ $labels.instance }})",
            f"No scrape of the last {_GAUGE} found that the exporter at {{{{ $labels.instance }}}} reaches Valkey. "
            "Each process serves from its own memory, computes for itself, and queues its invalidations.",
        ),
        Alert(
            "SmartCacheValkeyUnwatched", "warning", "store",
            f"{_highest('up', job='valkey')} == 0",
            "15s",
            "The Valkey exporter does not answer ({{ $labels.instance }})",
            f"For {_GAUGE} no scrape of {{{{ $labels.instance }}}} has succeeded: the alerts on Valkey itself cannot "
            "fire.",
        ),
        Alert(
            "SmartCacheValkeyMemoryHigh", "warning", "store",
            f"{_highest('redis_memory_used_bytes')} / {_highest('redis_memory_max_bytes')} > {STORE_MEMORY_RATIO:g}\n"
            f"and {_highest('redis_memory_max_bytes')} > 0",
            "5m",
            "Valkey nears its memory limit ({{ $labels.instance }})",
            "Valkey uses {{ $value | humanizePercentage }} of its maxmemory "
            f"({STORE_MEMORY_RATIO:.0%} is tolerated). At the limit it evicts entries and version counters, or "
            "refuses writes.",
            keep="5m",
        ),
        Alert(
            "SmartCacheStoreBreakerOpen", "warning", "store",
            f"sum by (job) ({_highest('smartcache_store_breaker_state', state='open')}) > 0",
            "2m",
            "Processes have given up on the store",
            "Processes whose circuit breaker is open: {{ $value }}. They no longer ask the store, serve from their own "
            "memory, and queue their invalidations.",
        ),
        Alert(
            "SmartCacheStoreErrors", "warning", "store",
            f"sum by (job, operation) (rate(smartcache_store_errors_total[{_RATE}])) > {STORE_ERRORS_PER_SECOND:g}",
            "2m",
            "Store operations fail ({{ $labels.operation }})",
            '{{ $value | printf "%.2f" }} {{ $labels.operation }} operations a second fail or time out '
            f"({STORE_ERRORS_PER_SECOND:g} is tolerated). Callers still get answers.",
            keep="5m",
        ),
    ),
    "service": (
        Alert(
            "SmartCacheServiceDown", "critical", "service",
            _down_or_absent("service", "up"),
            "15s",
            "The prediction service does not answer",
            f"For {_GAUGE} no scrape of a target of job {{{{ $labels.job }}}} has succeeded.",
        ),
        Alert(
            "SmartCacheWorkersDying", "critical", "service",
            # By worker: however many there are, a release replaces each once.
            f'max by (job) (changes(process_start_time_seconds{{job="service"}}[10m])) > {WORKER_RESTARTS}',
            "15s",
            "Workers of the service die again and again",
            "A worker was replaced {{ $value }} times within 10m. Each time its connections break and its memory is "
            "lost; what is refused meanwhile is no server error and no alert on availability counts it.",
        ),
    ),
    "exporter": (
        Alert(
            "SmartCacheExporterDown", "critical", "exporter",
            _down_or_absent("smartcache", "smartcache_exporter_up"),
            "15s",
            "The exporter does not answer: the cache is not watched",
            f"For {_GAUGE} a target of job {{{{ $labels.job }}}} gave no page with smartcache_exporter_up on it. Every "
            "alert on the engine is blind.",
        ),
        Alert(
            "SmartCacheExporterBlind", "critical", "exporter",
            f"{_highest('smartcache_exporter_up')} == 0\n"
            f"unless on (job, instance) count by (job, instance) ({_highest('smartcache_requests_total')}) > 0",
            "15s",
            "The exporter shows no counter: the cache is not watched ({{ $labels.instance }})",
            f"For {_GAUGE} {{{{ $labels.instance }}}} has not known every sum and left all counters off its page. "
            "Every alert on the engine is blind.",
        ),
        Alert(
            "SmartCacheExporterPartial", "warning", "exporter",
            f"{_highest('smartcache_exporter_up')} == 0",
            "15s",
            "The exporter's page is partial ({{ $labels.instance }})",
            f"For {_GAUGE} {{{{ $labels.instance }}}} could not collect every part of its page: series are missing.",
        ),
        Alert(
            "SmartCacheMetricsFileUnreadable", "warning", "exporter",
            f"sum by (job) ({_lowest('smartcache_processes', state='unreadable')}) > 0",
            "15s",
            "Metrics files cannot be read",
            "Metrics files that cannot be read: {{ $value }}. What they count stands still, or every counter is off "
            "the page.",
        ),
        Alert(
            "SmartCacheNoLiveProcess", "warning", "exporter",
            f"sum by (job) ({_highest('smartcache_processes', state='live')}) == 0",
            "15s",
            "The exporter sees no live process",
            "The exporter answers, but no live process writes metrics where it reads: engine alerts cannot fire.",
        ),
    ),
    "monitoring": (
        Alert(
            "SmartCachePrometheusRuleFailures", "critical", "prometheus",
            f"sum by (job, rule_group) (increase(prometheus_rule_evaluation_failures_total[{_RATE}])) > 0",
            "30s",
            "Prometheus cannot evaluate its rules",
            "Evaluations in {{ $labels.rule_group }} fail: what its rules watch is not watched.",
            keep="5m",
        ),
        Alert(
            "SmartCachePrometheusNotConnected", "critical", "prometheus",
            f"{_highest('prometheus_notifications_alertmanagers_discovered')} == 0",
            "30s",
            "Prometheus knows no Alertmanager ({{ $labels.instance }})",
            "{{ $labels.instance }} has nowhere to send alerts: nobody is notified of anything.",
        ),
        Alert(
            "SmartCachePrometheusBadConfig", "warning", "prometheus",
            f"{_highest('prometheus_config_last_reload_successful')} == 0",
            "30s",
            "Prometheus refused its new configuration ({{ $labels.instance }})",
            "{{ $labels.instance }} failed to load its configuration and runs on with the one before.",
        ),
        Alert(
            "SmartCacheAlertmanagerDown", "critical", "alertmanager",
            _down_or_absent("alertmanager", "up"),
            "15s",
            "Alertmanager does not answer",
            f"For {_GAUGE} no scrape of a target of job {{{{ $labels.job }}}} has succeeded: nobody is notified of "
            "anything.",
        ),
        Alert(
            "SmartCacheAlertmanagerBadConfig", "warning", "alertmanager",
            f"{_highest('alertmanager_config_last_reload_successful')} == 0",
            "30s",
            "Alertmanager refused its new configuration ({{ $labels.instance }})",
            "{{ $labels.instance }} failed to load its configuration and runs on with the one before.",
        ),
        Alert(
            "SmartCacheAlertmanagerNotificationsFailing", "critical", "alertmanager",
            f"sum by (job, integration) (increase(alertmanager_notifications_failed_total[{_RATE}])) > 0",
            "30s",
            "Alertmanager cannot deliver notifications ({{ $labels.integration }})",
            f"About {_COUNT} notifications by {{{{ $labels.integration }}}} failed in the last "
            f"{_RATE}: on-call is not told.",
            keep="5m",
        ),
        Alert(
            "SmartCacheWatchdog", "none", "watchdog",
            "vector(1)",
            None,
            "The alert pipeline works",
            "Always firing. When it stops arriving, Prometheus, Alertmanager or the way to the receiver is broken.",
            keep=None,
        ),
    ),
}  # fmt: skip


def alerts_file(links: Links) -> str:
    """The rule file with every alert, its links based on ``links``."""
    groups = [Group(f"smartcache-{name}", [alert.rule(links) for alert in alerts]) for name, alerts in ALERTS.items()]
    return document(groups, "alerts/alerting.py, alerts/bounds.py or smartcache/objectives.py")

"""PromQL, written from catalogue entries: a query can only name what the catalogue knows."""

from __future__ import annotations

from typing import Final

from smartcache.catalogue import FAMILY, RULE, Kind, Statistic

__all__ = [
    "buckets",
    "count",
    "gauge",
    "quantile",
    "rate",
    "ratio",
    "recent",
    "recorded",
    "share",
    "statistic",
    "worst",
]

#: The variables at the head of a dashboard, which narrow every series that the exporter exposes.
SCOPE: Final = 'job=~"$job",instance=~"$instance"'
#: Recording rules are aggregated to ``job``.
JOB: Final = 'job=~"$job"'
#: What "now" means for ratios: the window of the objectives' recording rules.
RECENT: Final = "5m"


def rate(family: str, *match: str, by: str = "") -> str:
    """A counter per second, summed to the labels ``by``; ``match`` are further matchers."""
    return f"{_over('sum', by)} (rate({_selector(family, 'counter', match)}[$__rate_interval]))"


def count(family: str, *match: str, by: str = "") -> str:
    """How often a counter of rare events moved in each interval; whole, though ``increase`` extrapolates."""
    increase = f"increase({_selector(family, 'counter', match)}[$__rate_interval])"
    return f"round({_over('sum', by)} ({increase}))"


def ratio(family: str, part: str, *among: str, by: str = "") -> str:
    """The share of a counter that the matcher ``part`` takes; absent, not NaN, where nothing is counted."""
    return f"{rate(family, part, *among, by=by)} / ({rate(family, *among, by=by)} > 0)"


def share(family: str, part: str, *, by: str) -> str:
    """The share of a counter that the matcher ``part`` takes, of what was counted in the last 5 minutes."""
    return f"{recent(family, part, by=by)} / ({recent(family, by=by)} > 0)"


def recent(family: str, *match: str, by: str) -> str:
    """How far a counter moved in the last 5 minutes."""
    return f"{_over('sum', by)} (increase({_selector(family, 'counter', match)}[{RECENT}]))"


def gauge(family: str, *match: str, by: str = "") -> str:
    """A gauge, combined over instances as the catalogue says for processes."""
    combine = FAMILY[family].combine
    return f"{_over('sum' if combine == 'states' else combine, by)} ({_selector(family, 'gauge', match)})"


def quantile(q: float, family: str, *match: str, by: str = "") -> str:
    """A quantile of a histogram; absent, not NaN, where nothing was observed."""
    labels = f"le,{by}" if by else "le"
    edges = _selector(family, "histogram", match, "_bucket")
    observed = f"{_over('sum', by)} (rate({_selector(family, 'histogram', match, '_count')}[$__rate_interval]))"
    return f"histogram_quantile({q:g}, sum by ({labels}) (rate({edges}[$__rate_interval]))) and {observed} > 0"


def buckets(family: str, *match: str) -> str:
    """The buckets of a histogram per second, as a heatmap wants them."""
    return f"sum by (le) (rate({_selector(family, 'histogram', match, '_bucket')}[$__rate_interval]))"


def observations(family: str, *match: str, by: str = "") -> str:
    """How many values a histogram took per second."""
    return f"{_over('sum', by)} (rate({_selector(family, 'histogram', match, '_count')}[$__rate_interval]))"


def recorded(record: str) -> str:
    """A recording rule of the catalogue."""
    return f"{RULE[record].record}{{{JOB}}}"


def worst(family: str, label: str) -> str:
    """The worst state that any process is in, as its position among the label's values, of which the best is first."""
    states = FAMILY[family].label(label).values
    processes = (_selector(family, "gauge", (f'{label}="{state}"',)) for state in states)
    found = (f"0 * ({there} > 0) + {position}" for position, there in enumerate(processes))
    return f"max ({' or '.join(found)})"


def statistic(entry: Statistic, *, events: bool = False) -> str:
    """What a dashboard draws for one of the 35 statistics.

    Args:
        entry: the statistic.
        events: count what happened in each interval instead of giving it per second.
    """
    if entry.family is None:
        return entry.selector(JOB)
    match = tuple(f'{name}="{value}"' for name, value in entry.match)
    if FAMILY[entry.family].kind == "gauge":
        return gauge(entry.family, *match)
    return count(entry.family, *match) if events else rate(entry.family, *match)


def _over(operation: str, by: str) -> str:
    return f"{operation} by ({by})" if by else operation


def _selector(family: str, kind: Kind, match: tuple[str, ...], suffix: str = "") -> str:
    if FAMILY[family].kind != kind:
        raise ValueError(f"{family} is a {FAMILY[family].kind} in the catalogue, and is queried as a {kind}")
    return f"{family}{suffix}{{{','.join([*match, SCOPE])}}}"

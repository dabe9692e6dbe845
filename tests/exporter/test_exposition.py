"""The page against the catalogue, and against those who will read it."""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as parse_text
from scraping import Scraper, summed, value

from exporter import ended
from exporter.exposition import CacheCollector, text_page
from exporter.files import MetricsFiles
from exporter.pages import Pages
from service.fixtures import COMPETITIONS
from service.routes import CODES, PATHS
from smartcache.catalogue import FAMILIES, FAMILY, STATISTICS, STRATEGIES, VIX_STATUSES, ZONES, Family
from smartcache.layout import OUTCOMES, Layout
from smartcache.metrics import CacheMetrics
from smartcache.objectives import COMPUTE_P95, LATENCY_P99
from smartcache.tags import MARKETS
from stack.tools import ROOT, find_tool

#: What a service of ordinary size configures.
DOMAINS = {
    "market": MARKETS,
    "competition": ("E0", "E1", "SP1", "D1", "I1", "F1"),
    "route": ("/v1/matches", "/v1/matches/{match_id}/markets/{market}", "/v1/odds", "/healthz", "/readyz", "/metrics"),
    "code": ("200", "400", "404", "405", "422", "500", "503"),
    "worker": ("0", "1", "2", "3"),
}


class StillClock:
    """The machine's clock, stopped."""

    def __init__(self) -> None:
        self._now = time.monotonic()

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now


def busy(directory: Path | None = None) -> CacheMetrics:
    """A process in which everything that the catalogue names has happened."""
    clock = StillClock()
    metrics = CacheMetrics(directory, DOMAINS, clock)
    now = clock.monotonic()
    layout = metrics.layout
    for number, outcome in enumerate(OUTCOMES):
        zone, status = ZONES[number % len(ZONES)], VIX_STATUSES[number % len(VIX_STATUSES)]
        cells = layout.cells_of(outcome.name, zone, MARKETS[number], status, "SP1")
        metrics.recorder.request(cells, STRATEGIES.index(outcome.strategy), 0.1, now)
    for name, values in layout.series:
        if FAMILY[name].combine == "states":
            metrics.state(name).set(FAMILY[name].labels[0].values[1])
            continue
        labels = {label.name: value for label, value in zip(FAMILY[name].labels, values, strict=True)}
        match FAMILY[name].kind:
            case "counter":
                metrics.counter(name, **labels).add(3)
            case "gauge":
                metrics.gauge(name, **labels).set(now - 0.5 if FAMILY[name].elapsed else 1.0)
            case "histogram":
                metrics.histogram(name, **labels).observe(0.1)
    return metrics


def registry_of(directory: Path) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(CacheCollector(MetricsFiles(directory)))
    return registry


def samples_of(family: Family) -> set[str]:
    return {f"{family.name}{suffix}" for suffix in ("_bucket", "_count", "_sum")} if family.buckets else {family.name}


def test_everything_in_the_catalogue_is_on_the_page_and_nothing_else(tmp_path: Path) -> None:
    metrics = busy(tmp_path)
    exposed: dict[str, set[tuple[str, ...]]] = {}
    kinds: dict[str, tuple[str, str]] = {}
    for metric in parse_text(generate_latest(registry_of(tmp_path)).decode()):
        for sample in metric.samples:
            exposed.setdefault(sample.name, set()).add(tuple(name for name in sample.labels if name != "le"))
            kinds[sample.name] = metric.type, metric.documentation
    metrics.close()
    assert exposed.keys() == set().union(*map(samples_of, FAMILIES))
    for family in FAMILIES:
        for name in samples_of(family):
            assert {tuple(sorted(names)) for names in exposed[name]} == {
                tuple(sorted(label.name for label in family.labels))
            }
            assert kinds[name] == (family.kind, family.help)


def test_an_exporter_without_files_exposes_every_family_at_zero(tmp_path: Path) -> None:
    page = Scraper(tmp_path).scrape()
    names = {name for name, _ in page}
    for family in FAMILIES:
        assert family.absent_when_idle or samples_of(family) <= names, family.name
    assert {
        number for (name, _), number in page.items() if FAMILY.get(name) is None or not FAMILY[name].by_exporter
    } == {0}
    assert value(page, "smartcache_exporter_up") == 1
    assert {dict(labels)["market"] for name, labels in page if name == "smartcache_lookups_total"} == {
        *MARKETS,
        "none",
        "other",
    }


def test_a_process_that_did_nothing_yet_shows_every_label_set_at_zero(tmp_path: Path) -> None:
    metrics = CacheMetrics(tmp_path, DOMAINS)
    assert metrics.path
    before = Scraper(tmp_path).scrape()
    metrics.close()
    after = busy(tmp_path)
    grown = Scraper(tmp_path).scrape()
    after.close()
    new = {key for key in grown.keys() - before.keys() if not FAMILY[key[0]].absent_when_idle}
    assert not new, "series that appear with their first count are missed by rate()"
    assert all(number == 0 for (name, _), number in before.items() if name.endswith(("_total", "_bucket", "_count")))


def test_each_statistic_is_a_series_of_the_page(tmp_path: Path) -> None:
    metrics = busy(tmp_path)
    page = Scraper(tmp_path).scrape()
    stats = metrics.get_stats()
    metrics.close()
    for statistic in STATISTICS:
        if statistic.family and FAMILY[statistic.family].kind == "counter":
            assert summed(page, statistic.family, **dict(statistic.match)) == stats[statistic.name] > 0
        elif statistic.family:
            assert value(page, statistic.family) * 1000 == stats[statistic.name]


def test_the_page_has_a_bounded_number_of_series(tmp_path: Path) -> None:
    metrics = busy(tmp_path)
    single = Scraper(tmp_path).scrape()
    for number in range(1000):
        metrics.counter("smartcache_http_requests_total", route=f"/v1/matches/{number}", code=str(number)).add()
        metrics.recorder.request(
            metrics.layout.cells_of("absent", market=f"m{number}"), 1, 0.1, metrics._clock.monotonic()
        )
    others = [busy(tmp_path), busy(tmp_path)]
    page = Scraper(tmp_path).scrape()
    for other in (metrics, *others):
        other.close()
    assert page.keys() == single.keys(), "neither keys nor processes make series"
    for family in FAMILIES:
        assert sum(name in samples_of(family) for name, _ in page) <= most_series(family, DOMAINS) < 150, family.name
    assert len(page) <= sum(most_series(family, DOMAINS) for family in FAMILIES) < 900


def most_series(family: Family, domains: Mapping[str, Sequence[str]]) -> int:
    """The most series that a family can have, from its label sets alone."""
    layout = Layout(domains)
    # What no configuration tells has one value: the versions in the labels of build_info.
    label_sets = math.prod(len(layout.values_of(family, label.name)) or 1 for label in family.labels)
    return label_sets * (len(family.buckets) + 3 if family.buckets else 1)


def test_the_page_of_the_service_stays_far_below_what_prometheus_takes() -> None:
    domains = {
        "market": MARKETS,
        "competition": tuple(COMPETITIONS),
        "route": PATHS,
        "code": CODES,
        "worker": [str(number) for number in range(64)],
    }
    limit = re.search(r"job_name: smartcache\n\s+sample_limit: (\d+)", (ROOT / "stack" / "prometheus.yml").read_text())
    assert limit
    assert sum(most_series(family, domains) for family in FAMILIES) < int(limit[1]) / 10


def test_bucket_edges_stand_exactly_at_the_objectives_and_below_a_millisecond() -> None:
    content = text_page(busy().snapshot())
    assert (LATENCY_P99.threshold, COMPUTE_P95.threshold) == (0.1, 1.0)
    for name, edge in (
        ("smartcache_request_duration_seconds", "0.1"),
        ("smartcache_request_duration_seconds", "0.00025"),
        ("smartcache_compute_duration_seconds", "1.0"),
    ):
        assert re.search(rf'^{name}_bucket{{.*le="{re.escape(edge)}".*}} ', content, re.MULTILINE), edge


def test_bucket_counts_are_cumulative() -> None:
    metrics = CacheMetrics()
    durations = metrics.histogram("smartcache_compute_duration_seconds")
    for seconds in (0.1, 0.1, 0.7, 60.0):
        durations.observe(seconds)
    page = text_page(metrics.snapshot())
    for line in (
        'smartcache_compute_duration_seconds_bucket{le="0.05"} 0.0',
        'smartcache_compute_duration_seconds_bucket{le="0.1"} 2.0',
        'smartcache_compute_duration_seconds_bucket{le="1.0"} 3.0',
        'smartcache_compute_duration_seconds_bucket{le="10.0"} 3.0',
        'smartcache_compute_duration_seconds_bucket{le="+Inf"} 4.0',
        "smartcache_compute_duration_seconds_count 4.0",
        "smartcache_compute_duration_seconds_sum 60.9",
    ):
        assert line in page.splitlines()


def test_one_process_can_show_its_own_page() -> None:
    metrics = busy()
    assert metrics.to_prometheus() == text_page(metrics.snapshot())
    assert "smartcache_vix_bypasses_total 1.0" in metrics.to_prometheus().splitlines()


@pytest.fixture(params=["idle", "busy", "with ended processes", "partial"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> CollectorRegistry:
    """An exporter whose page is of each kind there is."""
    if request.param != "idle":
        busy(tmp_path).close()
    if request.param == "with ended processes":
        assert ended.fold(tmp_path) == 1
    if request.param == "partial":
        (tmp_path / "0123456789abcdef.metrics").write_bytes(b"garbage")
    return registry_of(tmp_path)


def test_promtool_accepts_every_page(registry: CollectorRegistry) -> None:
    done = subprocess.run(
        [find_tool("promtool"), "check", "metrics"],
        input=generate_latest(registry),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (0, "", "")


def test_the_openmetrics_page_is_the_text_page(registry: CollectorRegistry) -> None:
    text = generate_latest(registry).decode()
    accept = "application/openmetrics-text; version=1.0.0"
    openmetrics = bytes(Pages(registry).page(accept, "").body).decode()
    assert openmetrics.endswith("\n# EOF\n")
    encode, _ = choose_encoder(accept)
    for ours, theirs in zip(openmetrics.splitlines(), encode(registry).decode().splitlines(), strict=True):
        assert ours == theirs or "scrape_" in ours, "as prometheus-client writes it"

    def parse_openmetrics(page: str) -> Iterable[Metric]:
        families: Iterable[Metric] = openmetrics_parser.text_string_to_metric_families(page)  # type: ignore[no-untyped-call]
        return families

    units = {family.name: family.unit for family in parse_openmetrics(openmetrics)}
    assert units.get("smartcache_request_duration_seconds", "seconds") == "seconds"
    assert units["smartcache_memory_bytes"] == "bytes"
    moving = "smartcache_exporter_scrape_"
    assert [
        (sample.name, sample.labels, sample.value)
        for family in parse_openmetrics(openmetrics)
        for sample in family.samples
        if not sample.name.startswith(moving)
    ] == [
        (sample.name, sample.labels, sample.value)
        for family in parse_text(text)
        for sample in family.samples
        if not sample.name.startswith(moving)
    ]
    for content in (text, openmetrics):
        assert "_created" not in content


def test_names_follow_the_rules_of_the_field() -> None:
    for family in FAMILIES:
        assert re.fullmatch(r"smartcache_[a-z_]+[a-z]", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert not family.unit or family.unit in family.name.split("_"), family.name
        assert bool(family.buckets) == (family.kind == "histogram")
        assert family.help.endswith(".")
        for label in family.labels:
            assert not set(label.name.split("_")) & {"type", "env", "region", "service", "stage", "le"}
            assert "total" not in label.values


def test_registering_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[MetricsFiles] = []
    monkeypatch.setattr(MetricsFiles, "read", read.append)
    CollectorRegistry().register(CacheCollector(MetricsFiles(tmp_path)))
    assert not read

"""Pages of a registry that changes, against prometheus-client's own of the same moment."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.openmetrics.exposition import ALLOWUTF8, DOTS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from starlette.responses import Response

from exporter.pages import Pages

FORMATS: dict[str, Callable[[Collector], bytes]] = {
    "text/plain": generate_latest,
    "text/plain; version=1.0.0; escaping=dots": partial(generate_latest, escaping=DOTS),
    "application/openmetrics-text; version=1.0.0": partial(generate_openmetrics, escaping=ALLOWUTF8),
    "application/openmetrics-text; version=1.0.0; escaping=dots": partial(generate_openmetrics, escaping=DOTS),
}

values = st.integers(0, 3)
labels = st.sampled_from(["a", "b", 'quoted "c"', "two\nlines", "back\\slash", "carriage\rreturn"])
counters = st.tuples(st.just("counter"), st.dictionaries(labels, values, max_size=4))
gauges = st.tuples(
    st.just("gauge"), st.dictionaries(labels, st.floats().filter(lambda value: str(value) != "-0.0"), max_size=4)
)
histograms = st.tuples(
    st.just("histogram"), st.dictionaries(labels, st.tuples(values, values, st.booleans()), max_size=3)
)
#: What a registry holds, by name.
contents = st.dictionaries(
    st.sampled_from(["one", "two", "three"]), st.tuples(st.one_of(counters, gauges, histograms), st.booleans())
)


def metric(name: str, kind: str, samples: dict[str, Any], bytes_: bool) -> Metric:
    unit = "bytes" if bytes_ else ""
    full = f"{name}_bytes" if bytes_ else name
    if kind == "histogram":
        histogram = HistogramMetricFamily(full, "Some.\nHelp", labels=["of"], unit=unit)
        for label, (low, high, shown) in samples.items():
            exemplar = [Exemplar({"trace_id": "1f"}, 0.5, 17.25)] if shown else []
            buckets = [("0.5", low, *exemplar), ("+Inf", low + high)]
            histogram.add_metric([label], buckets, low * 0.25)
        return histogram
    family = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(
        full, "Some.\nHelp", labels=["of"], unit=unit
    )
    for label, value in samples.items():
        family.add_metric([label], value)
    return family


class Drawn(Collector):
    def __init__(self) -> None:
        self.metrics: list[Metric] = []

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self.metrics


def body(response: Response) -> bytes:
    content = bytes(response.body)
    return gzip.decompress(content) if "content-encoding" in response.headers else content


@pytest.fixture
def drawn() -> Drawn:
    return Drawn()


@given(st.lists(contents, min_size=2, max_size=5), st.data())
@settings(max_examples=150, deadline=None)
def test_it_is_what_prometheus_client_writes_whatever_changed(
    rounds: list[dict[str, Any]], data: st.DataObject
) -> None:
    drawn, registry = Drawn(), CollectorRegistry()
    registry.register(drawn)
    pages = Pages(registry)
    for content in rounds:
        made = [metric(name, kind, samples, bytes_) for name, ((kind, samples), bytes_) in content.items()]
        kept = {metric.name: metric for metric in drawn.metrics}
        # Some are handed over as the very same object, as a collector does whose samples are the same.
        drawn.metrics = [
            kept[metric.name] if metric.name in kept and data.draw(st.booleans()) else metric for metric in made
        ]
        for accept, write in FORMATS.items():
            for encoding in ("", "gzip"):
                assert body(pages.page(accept, encoding)) == write(registry)


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("counter", {"a": 1}, {"b": 1}),
        ("counter", {"a": 1, "b": 1}, {"b": 1, "a": 1}),
        ("gauge", {"a": 1, "b": 2}, {"a": 2}),
        ("histogram", {"a": (1, 1, False)}, {"a": (1, 1, True)}),
        ("histogram", {"a": (1, 1, False)}, {"a": (0, 2, False)}),
    ],
)
def test_a_sample_is_told_by_all_of_it(drawn: Drawn, kind: str, before: Any, after: Any) -> None:
    registry = CollectorRegistry()
    registry.register(drawn)
    pages = Pages(registry)
    for samples in (before, after, before):
        drawn.metrics = [metric("family", kind, samples, False)]
        for accept, write in FORMATS.items():
            assert body(pages.page(accept, "")) == write(registry)


def test_several_threads_may_ask_at_once(drawn: Drawn) -> None:
    registry = CollectorRegistry()
    registry.register(drawn)
    pages = Pages(registry)
    drawn.metrics = [metric(f"family_{number}", "counter", {"a": number}, False) for number in range(50)]
    accept, write = next(iter(FORMATS.items()))
    with ThreadPoolExecutor(8) as threads:
        for round_ in range(20):
            drawn.metrics = [
                metric(f"family_{number}", "counter", {"a": number + round_}, False) for number in range(50)
            ]
            expected = write(registry)
            found = threads.map(lambda _: body(pages.page(accept, "")), range(8))
            assert all(page == expected for page in found)


def test_versions_that_requests_name_are_not_remembered(drawn: Drawn) -> None:
    registry = CollectorRegistry()
    registry.register(drawn)
    pages = Pages(registry)
    drawn.metrics = [metric("family", "counter", {"a": 1}, False)]
    for number in range(20):
        pages.page(f"application/openmetrics-text; version=1.0.{number}", "")
    assert len(pages._written) == 1


@pytest.mark.parametrize("version", ["one", "1.x", "9" * 5000])
@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
def test_a_version_that_is_no_number_gets_the_text_format(drawn: Drawn, kind: str, version: str) -> None:
    registry = CollectorRegistry()
    registry.register(drawn)
    drawn.metrics = [metric("family", "counter", {"a": 1}, False)]
    assert body(Pages(registry).page(f"{kind}; version={version}", "")) == generate_latest(registry)

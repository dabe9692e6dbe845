import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.prometheus import Prometheus, PrometheusError, Reading, Sample


def series(name: str, value: float, **labels: str) -> Sample:
    return Sample(name, labels, value)


def histogram(**below: float) -> list[Sample]:
    return [series("wait_seconds_bucket", count, le=edge) for edge, count in below.items()]


def test_totals_add_the_series_that_match() -> None:
    reading = Reading(
        [series("a_total", 1, x="p", y="q"), series("a_total", 2, x="r", y="q"), series("b_total", 9, x="p")]
    )
    assert reading.total("a_total") == 3
    assert reading.total("a_total", x="p") == 1
    assert reading.total("a_total", x=("p", "r"), y="q") == 3
    assert reading.total("a_total", x="nowhere") == 0
    assert reading.total("absent_total") == 0


def test_a_difference_counts_what_counters_gained_and_keeps_gauges() -> None:
    before = Reading([series("a_total", 5, x="p"), series("ratio", 1)])
    after = Reading([series("a_total", 8, x="p"), series("a_total", 2, x="new"), series("ratio", 0.5)])
    gained = after.since(before)
    assert gained.total("a_total", x="p") == 3
    assert gained.total("a_total", x="new") == 2
    assert gained.total("ratio") == 0.5


def test_quantiles_interpolate_within_a_bucket() -> None:
    reading = Reading(histogram(**{"0.1": 50, "1.0": 100, "+Inf": 100}))
    assert reading.quantile("wait_seconds", 0.25) == pytest.approx(0.05)
    assert reading.quantile("wait_seconds", 0.75) == pytest.approx(0.55)


def test_edges_are_the_same_edge_however_they_are_written() -> None:
    reading = Reading([*histogram(**{"1": 10, "+Inf": 10}), *histogram(**{"1.0": 30, "+Inf": 30})])
    assert reading.quantile("wait_seconds", 1) == 1


def test_what_lies_beyond_the_last_edge_is_at_least_there() -> None:
    assert Reading(histogram(**{"1": 0, "2.5": 0, "+Inf": 4})).quantile("wait_seconds", 0.5) == 2.5


def test_an_empty_histogram_has_no_quantile() -> None:
    assert Reading([]).quantile("wait_seconds", 0.5) is None
    assert Reading(histogram(**{"1": 0, "+Inf": 0})).quantile("wait_seconds", 0.5) is None


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6), st.floats(0.01, 1))
def test_quantiles_lie_in_the_bucket_that_holds_their_rank(counts: list[int], quantile: float) -> None:
    edges = [float(edge) for edge in range(1, len(counts) + 1)]
    below = [sum(counts[: index + 1]) for index in range(len(counts))]
    named = {f"{edge}": float(count) for edge, count in zip(edges, below, strict=True)}
    seen = Reading(histogram(**named, **{"+Inf": below[-1]})).quantile("wait_seconds", quantile)
    if below[-1] == 0:
        assert seen is None
    else:
        assert seen is not None
        upper = next(edge for edge, count in zip(edges, below, strict=True) if count >= quantile * below[-1])
        assert upper - 1 <= seen <= upper


class NotPrometheus(BaseHTTPRequestHandler):
    """A server that answers, though not as Prometheus would."""

    body: bytes
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), NotPrometheus) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, b"<html>", "not an answer of Prometheus"),
        (200, b"[]", "not an answer of Prometheus"),
        (400, b'{"error": "bad_data"}', "400 .*bad_data"),
        (200, json.dumps({"data": {"resultType": "scalar", "result": [0, "1"]}}).encode(), "gives a scalar"),
    ],
)
def test_what_is_not_an_answer_is_said(
    address: str, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, message: str
) -> None:
    monkeypatch.setattr(NotPrometheus, "status", status)
    monkeypatch.setattr(NotPrometheus, "body", body, raising=False)
    with pytest.raises(PrometheusError, match=message):
        Prometheus(address).query("1")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense"])
def test_nobody_there_is_said_with_the_address(url: str) -> None:
    with pytest.raises(PrometheusError, match=url):
        Prometheus(url).query("1")

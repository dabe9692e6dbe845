import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.recorder import Recorder


@given(st.lists(st.floats(1e-6, 60), min_size=1, max_size=200), st.floats(0.01, 1))
def test_quantiles_are_exact_to_three_digits(values: list[float], quantile: float) -> None:
    recorder = Recorder()
    for value in values:
        recorder.observe("hit", value)
    # Which value of a few is "the" quantile is a convention; that it is a recorded one is not.
    rank, ordered = len(values) * quantile, sorted(values)
    below, above = ordered[max(0, math.floor(rank) - 1)], ordered[min(len(values) - 1, math.ceil(rank))]
    seen = recorder.quantile(("hit",), quantile)
    assert seen is not None
    assert below * 0.998 - 2e-6 <= seen <= above * 1.002 + 2e-6


def test_hits_below_a_millisecond_are_told_apart() -> None:
    recorder = Recorder()
    recorder.observe("hit", 0.000_120)
    recorder.observe("hit", 0.000_480)
    assert recorder.quantile(("hit",), 0.5) == pytest.approx(0.000_120)
    assert recorder.quantile(("hit",), 1.0) == pytest.approx(0.000_480)


def test_processes_merge_into_one_record_over_plain_data() -> None:
    workers = [Recorder(), Recorder()]
    master = Recorder()
    for latency, worker in zip((0.001, 0.1), workers, strict=True):
        for _ in range(2):  # two reports each: what was sent is not sent again
            worker.observe("hit", latency)
            worker.counts["sent"] += 1
            master.merge(json.loads(json.dumps(worker.drain())))
    assert master.counts["sent"] == 4
    assert master.quantile(("hit",), 0.5) == pytest.approx(0.001, rel=1e-3)
    assert master.quantile(("hit", "miss"), 1.0) == pytest.approx(0.1, rel=1e-3)


def test_no_value_has_no_quantile() -> None:
    assert Recorder().quantile(("hit", "miss"), 0.99) is None


def test_a_latency_beyond_the_range_counts_as_its_end() -> None:
    recorder = Recorder()
    recorder.observe("miss", 3600)
    assert recorder.quantile(("miss",), 0.5) == pytest.approx(120, rel=1e-3)

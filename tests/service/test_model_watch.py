from __future__ import annotations

import asyncio

import pytest

from service.model_watch import FAILING_FOR, LOG_EVERY, ModelError, ModelWatch


class HandClock:
    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def watch(clock: HandClock) -> ModelWatch:
    return ModelWatch(clock)


def fail(watch: ModelWatch, error: BaseException) -> None:
    with pytest.raises(type(error)), watch.over("btts of m"):
        raise error


def test_the_first_failure_is_told_and_then_one_line_with_the_count(
    watch: ModelWatch, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(50):
        fail(watch, ModelError("no rates"))
    clock.now += LOG_EVERY
    fail(watch, ModelError("no rates"))
    assert [record.getMessage() for record in caplog.records] == [
        "computing btts of m failed: no rates; failures since the last such line: 1",
        "computing btts of m failed: no rates; failures since the last such line: 50",
    ]


def test_a_failure_that_nobody_foresaw_comes_with_its_traceback(
    watch: ModelWatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail(watch, ZeroDivisionError("division by zero"))
    assert "ZeroDivisionError: division by zero" in caplog.text
    assert watch.failing


def test_it_fails_until_a_compute_succeeds_or_time_passes(watch: ModelWatch, clock: HandClock) -> None:
    assert not watch.failing
    fail(watch, ModelError("no"))
    assert watch.failing
    with watch.over("btts of m"):
        pass
    assert not watch.failing
    fail(watch, ModelError("no"))
    clock.now += FAILING_FOR
    assert not watch.failing


def test_a_compute_given_up_is_a_failure_unless_the_process_ends(
    watch: ModelWatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch.stopping = True
    fail(watch, asyncio.CancelledError())
    assert not watch.failing
    assert caplog.records == []
    watch.stopping = False
    fail(watch, asyncio.CancelledError())
    assert watch.failing
    assert "given up after 0.00 s (hard_timeout)" in caplog.text

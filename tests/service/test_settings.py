from __future__ import annotations

from datetime import UTC, datetime

import pytest

from service.clock import ReplayClock
from service.settings import SettingsError, read_settings


def test_defaults() -> None:
    settings = read_settings({})
    assert (settings.host, settings.port, settings.workers, settings.faults) == ("127.0.0.1", 8000, 1, False)
    assert settings.at == datetime(2025, 3, 1, 14, 16, tzinfo=UTC)
    assert settings.extra_latency == 0.025


def test_arguments_win_over_the_environment() -> None:
    environment = {"SERVICE_PORT": "8100", "SERVICE_WORKERS": "2"}
    settings = read_settings(environment, ["--port", "8200", "--at", "2024-12-26T13:00+01:00"])
    assert (settings.port, settings.workers) == (8200, 2)
    assert settings.at == datetime(2024, 12, 26, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("SERVICE_PORT", "eighty", "1 to 65535"),
        ("SERVICE_PORT", "70000", "1 to 65535"),
        ("SERVICE_WORKERS", "0", "1 to 64"),
        ("SERVICE_AT", "2025-03-01T14:16", "offset"),
        ("SERVICE_AT", "yesterday", "offset"),
        ("SERVICE_EXTRA_LATENCY_MS", "-1", "0 to 60000"),
        ("SERVICE_EXTRA_LATENCY_MS", "nan", "0 to 60000"),
        ("SERVICE_FAULTS", "maybe", "on or off"),
        ("SERVICE_MAX_AGE_S", "ten", "0 to 3600"),
        ("SERVICE_MAX_BODY_BYTES", "0", "from 1"),
        ("SERVICE_HOST", " ", "host name"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed_and_the_setting(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({variable: value})
    message = str(caught.value)
    assert variable in message
    assert repr(value) in message
    assert allowed in message


def test_an_unknown_setting_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"unknown setting SERVICE_WORKER='4'; .*SERVICE_WORKERS"):
        read_settings({"SERVICE_WORKER": "4"})


def test_what_workers_are_handed_and_what_is_empty_is_no_unknown_setting() -> None:
    assert (
        read_settings({"SERVICE_FOLDER": "f", "SERVICE_CLOCK": "0 0", "SERVICE_WORKER": "", "OTHER": "x"}).workers == 1
    )


def test_the_replay_clock_starts_at_its_moment_and_runs_on() -> None:
    clock = ReplayClock(at=1_740_838_560.0, origin=ReplayClock(0, 0).monotonic())
    first = clock.time()
    second = clock.time()
    assert 1_740_838_560.0 <= first <= second
    assert clock.now() >= datetime(2025, 3, 1, 14, 16, tzinfo=UTC)


def test_two_clocks_with_one_origin_agree() -> None:
    one, other = ReplayClock(1000.0, 5.0), ReplayClock(1000.0, 5.0)
    before = one.time()
    between = other.time()
    after = one.time()
    assert before <= between <= after

"""Prometheus's and Alertmanager's own tools accept what ships, and the unit tests of the rules leave nothing out."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from alerts.alerting import ALERTS
from alerts.checks import CHECKS, CheckFailedError
from alerts.routing import main, render
from smartcache.catalogue import RULES
from stack.tools import find_tool

TESTS = Path(__file__).resolve().parents[2] / "alerts" / "tests"
NAMES = sorted({alert.name for group in ALERTS.values() for alert in group})


def unit_tests() -> Iterator[dict[str, Any]]:
    for path in sorted(TESTS.glob("*.yml")):
        yield from yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]


@pytest.mark.parametrize("check", CHECKS)
def test_the_check_passes(check: str) -> None:
    assert CHECKS[check]()


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_is_seen_firing_and_silent(name: str) -> None:
    cases = [case for test in unit_tests() for case in test.get("alert_rule_test", ()) if case["alertname"] == name]
    assert any(case["exp_alerts"] for case in cases), f"{name} fires in no unit test"
    if name != "SmartCacheWatchdog":
        assert any(not case["exp_alerts"] for case in cases), f"{name} is silent in no unit test"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "SmartCacheWatchdog"])
def test_every_alert_is_seen_resolving(name: str) -> None:
    # A silent case after a firing one, within one test.
    resolved = False
    for test in unit_tests():
        fired = False
        for case in test.get("alert_rule_test", ()):
            if case["alertname"] == name:
                resolved |= fired and not case["exp_alerts"]
                fired |= bool(case["exp_alerts"])
    assert resolved, f"{name} resolves in no unit test"


def test_expected_alerts_state_all_their_annotations() -> None:
    for test in unit_tests():
        for case in test.get("alert_rule_test", ()):
            for expected in case["exp_alerts"]:
                assert set(expected["exp_annotations"]) == {"summary", "description", "runbook_url", "dashboard_url"}
                assert set(expected["exp_labels"]) >= {"severity", "component"}


def test_every_recording_rule_is_asserted() -> None:
    asserted = " ".join(case["expr"] for test in unit_tests() for case in test.get("promql_expr_test", ()))
    for rule in RULES:
        window_family = rule.record.startswith("smartcache:http_error_ratio:rate")
        assert ("smartcache:http_error_ratio:rate" if window_family else rule.record) in asserted


def test_routing_names_the_receiver_and_nothing_else_of_this_machine() -> None:
    config = yaml.safe_load(render("http://receiver:9095/alerts"))
    urls = [webhook["url"] for receiver in config["receivers"] for webhook in receiver["webhook_configs"]]
    assert urls == ["http://receiver:9095/alerts"] * 4


@pytest.mark.parametrize("address", ["", "receiver:9095", "/alerts", "ftp://receiver/alerts", 'http://a/"\nx: "'])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"receiver address .* is none: give one such as"):
        render(address)


def test_routing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["http://receiver:9095/alerts"]) == 0
    assert capsys.readouterr().out == render("http://receiver:9095/alerts")
    assert main([]) == 2
    assert "one receiver address is needed, 0 given" in capsys.readouterr().err


def test_a_route_that_leads_elsewhere_would_be_seen(tmp_path: Path) -> None:
    config = tmp_path / "alertmanager.yml"
    config.write_text(render("http://receiver:9095/alerts"), encoding="utf-8")
    command = [
        str(find_tool("amtool")),
        "config",
        "routes",
        "test",
        f"--config.file={config}",
        "--verify.receivers=note",
    ]
    assert subprocess.run([*command, "severity=critical"], capture_output=True, timeout=60).returncode != 0


def test_a_failing_tool_is_reported_with_its_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "rules.yml"
    broken.write_text("groups: [{name: g, rules: [{alert: A, expr: 'sum('}]}]")
    monkeypatch.setattr("alerts.checks._RULES", (broken,))
    with pytest.raises(CheckFailedError, match="could not parse expression"):
        CHECKS["promtool check rules"]()

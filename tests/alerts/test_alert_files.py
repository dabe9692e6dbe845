"""The committed rule files are what the catalogue and the objectives say."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import alerts.alerting
from alerts.__main__ import generated, main
from alerts.links import Links
from smartcache import objectives
from smartcache.catalogue import RULES

ROOT = Path(__file__).resolve().parents[2]


def rules(text: str) -> list[dict[str, object]]:
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("name", generated(Links()))
def test_the_committed_file_is_what_is_generated(name: str) -> None:
    committed = (ROOT / name).read_text(encoding="utf-8")
    assert committed == generated(Links())[name], f"{name} is out of date: run make alerts and commit it"


def test_the_check_passes_on_a_clean_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALERT_RUNBOOKS_URL", raising=False)
    monkeypatch.delenv("ALERT_DASHBOARDS_URL", raising=False)
    assert main(["--check"]) == 0


def test_the_check_names_files_that_are_out_of_date(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALERT_RUNBOOKS_URL", "https://elsewhere.example/runbooks")
    assert main(["--check"]) == 1
    assert "alerts/generated/alerts.yml is out of date" in capsys.readouterr().err


def test_generation_does_not_depend_on_hashing(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-m", "alerts", "--output", str(tmp_path / seed)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=60)
    for name in ("recording.yml", "alerts.yml"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_every_rule_of_the_catalogue_is_recorded_once() -> None:
    recorded = [rule["record"] for rule in rules(generated(Links())["alerts/generated/recording.yml"])]
    assert sorted(map(str, recorded)) == sorted(rule.record for rule in RULES)


def test_links_follow_their_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALERT_RUNBOOKS_URL", "https://example.org/book/")
    monkeypatch.setenv("ALERT_DASHBOARDS_URL", "https://example.org/d")
    assert main(["--output", str(tmp_path)]) == 0
    for rule in rules((tmp_path / "alerts.yml").read_text()):
        annotations = rule["annotations"]
        assert isinstance(annotations, dict)
        assert annotations["runbook_url"] == f"https://example.org/book/{rule['alert']}"
        assert annotations["dashboard_url"].startswith("https://example.org/d/")


def test_a_link_base_that_is_no_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALERT_DASHBOARDS_URL", "grafana:3000")
    with pytest.raises(SystemExit, match="2"):
        main(["--check"])
    assert "ALERT_DASHBOARDS_URL='grafana:3000' is not an address" in capsys.readouterr().err


@pytest.fixture
def hit_ratio_of_70_percent() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objectives, "HIT_RATIO", replace(objectives.HIT_RATIO, threshold=0.7, window="10m"))
        importlib.reload(alerts.alerting)
        yield
    importlib.reload(alerts.alerting)


@pytest.mark.usefixtures("hit_ratio_of_70_percent")
def test_an_objective_changes_expression_and_text_alike() -> None:
    (rule,) = (rule for rule in rules(alerts.alerting.alerts_file(Links())) if rule["alert"] == "SmartCacheHitRatioLow")
    annotations = rule["annotations"]
    assert isinstance(annotations, dict)
    assert "< 0.7\n" in str(rule["expr"])
    assert "[10m]" in str(rule["expr"])
    assert "of the last 10m" in annotations["description"]
    assert "at least 70 %" in annotations["description"]

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack import configuration
from stack.settings import PORTS
from stack.tools import ROOT, find_tool

JOBS = {"smartcache", "service", "valkey", "prometheus", "alertmanager", "locust"}
FILES = {"native": configuration.for_native(PORTS), "docker": configuration.for_docker()}


@pytest.mark.parametrize("name", ["prometheus.yml", "alertmanager.yml"])
def test_the_files_for_docker_are_generated_anew(name: str) -> None:
    committed = (configuration.DOCKER / name).read_text(encoding="utf-8")
    assert committed == FILES["docker"][name], "run `python -m stack render` and commit stack/docker"


def test_prometheus_accepts_its_configuration_and_finds_the_rules(tmp_path: Path) -> None:
    configuration.write(FILES["native"], tmp_path)
    ended = subprocess.run(
        [str(find_tool("promtool")), "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 rule files found" in ended.stdout


def test_alertmanager_accepts_its_configuration(tmp_path: Path) -> None:
    configuration.write(FILES["native"], tmp_path)
    ended = subprocess.run(
        [str(find_tool("amtool")), "check-config", str(tmp_path / "alertmanager.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("mode", FILES)
def test_every_job_is_scraped_every_five_seconds_within_bounds(mode: str) -> None:
    prometheus: dict[str, Any] = yaml.safe_load(FILES[mode]["prometheus.yml"])
    assert prometheus["global"]["scrape_interval"] == prometheus["global"]["evaluation_interval"] == "5s"
    assert prometheus["global"]["scrape_timeout"] == "4s"
    jobs = {job["job_name"]: job for job in prometheus["scrape_configs"]}
    assert {*jobs} == JOBS
    assert all(job["sample_limit"] > 0 for job in jobs.values())


def test_the_parts_find_each_other_in_both_modes() -> None:
    ports = {**PORTS, "EXPORTER_PORT": 1234, "RECEIVER_PORT": 4321}
    native = configuration.for_native(ports)
    assert '"127.0.0.1:1234"' in native["prometheus.yml"]
    assert "http://127.0.0.1:4321/alerts" in native["alertmanager.yml"]
    assert '"exporter:9464"' in FILES["docker"]["prometheus.yml"]
    assert "http://receiver:9095/alerts" in FILES["docker"]["alertmanager.yml"]


def linked(environment: Mapping[str, str]) -> set[str]:
    """The addresses that the alerts of a stack on ports of its own link to, without what they end in."""
    ports = {**PORTS, "RECEIVER_PORT": 4321, "GRAFANA_PORT": 1234}
    files = configuration.for_native(ports, configuration.native_links(ports, environment))
    return {
        url.rpartition("/")[0]
        for group in yaml.safe_load(files["rules/alerts.yml"])["groups"]
        for rule in group["rules"]
        for name, url in rule["annotations"].items()
        if name.endswith("_url")
    }


def test_the_links_of_alerts_lead_to_this_stack_unless_said_otherwise() -> None:
    assert linked({}) == {"http://127.0.0.1:4321/runbooks", "http://127.0.0.1:1234/d"}
    elsewhere = "https://elsewhere.example/books"
    assert linked({"ALERT_RUNBOOKS_URL": elsewhere}) == {elsewhere, "http://127.0.0.1:1234/d"}
    with pytest.raises(ValueError, match="ALERT_DASHBOARDS_URL='ftp'"):
        linked({"ALERT_DASHBOARDS_URL": "ftp"})


def test_rules_on_the_default_ports_are_the_committed_ones() -> None:
    for name in ("recording.yml", "alerts.yml"):
        committed = (ROOT / "alerts" / "generated" / name).read_text(encoding="utf-8")
        assert FILES["native"][f"rules/{name}"] == committed

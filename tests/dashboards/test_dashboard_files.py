"""What is committed is what the generator writes, and Grafana is told where to find it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dashboards import __main__ as command
from dashboards.overview import DATA_SOURCE_UID
from stack.parts import PARTS

ROOT = Path(__file__).parents[2]
PROVISIONING = ROOT / "dashboards" / "provisioning"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_committed_files_are_as_generated(seed: str) -> None:
    """In two processes that hash differently, so that no order depends on it."""
    run = subprocess.run(
        [sys.executable, "-m", "dashboards", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "GENERATED", tmp_path / "dashboards" / "generated")
    return tmp_path


def test_the_command_writes_what_its_check_then_accepts(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--check"]) == 1
    assert "dashboards/generated/smartcache-overview.json is not as generated" in capsys.readouterr().err
    assert not any(elsewhere.rglob("*.json"))
    assert command.main([]) == 0
    assert command.main(["--check"]) == 0
    assert (elsewhere / "docs" / "metrics.md").read_text("utf-8").endswith("\n")


def test_a_dashboard_that_is_generated_no_more_is_removed(elsewhere: Path) -> None:
    command.main([])
    orphan = elsewhere / "dashboards" / "generated" / "old.json"
    orphan.write_text("{}", "utf-8")
    assert command.main(["--check"]) == 1
    assert command.main([]) == 0
    assert not orphan.exists()


def test_files_are_sorted_and_end_with_a_newline() -> None:
    for path in (ROOT / "dashboards" / "generated").glob("*.json"):
        text = path.read_text("utf-8")
        assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_the_data_source_is_the_one_that_dashboards_begin_with() -> None:
    provisioned = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text("utf-8"))
    (source,) = provisioned["datasources"]
    assert source["uid"] == DATA_SOURCE_UID
    assert source["url"] == "$PROMETHEUS_URL"
    assert source["jsonData"]["httpMethod"] == "POST"
    text = (ROOT / "dashboards" / "generated" / "smartcache-overview.json").read_text("utf-8")
    (variable,) = [found for found in json.loads(text)["templating"]["list"] if found["name"] == "datasource"]
    assert variable["current"]["value"] == DATA_SOURCE_UID


def test_the_data_source_knows_the_scrape_interval() -> None:
    provisioned = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text("utf-8"))
    prometheus = yaml.safe_load((ROOT / "stack" / "prometheus.yml").read_text("utf-8"))
    assert provisioned["datasources"][0]["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"] == "5s"


def test_points_of_exemplars_lead_to_the_data_source_of_traces() -> None:
    folder = PROVISIONING / "datasources"
    sources = {
        source["uid"]: source
        for path in folder.glob("*.yml")
        for source in yaml.safe_load(path.read_text("utf-8"))["datasources"]
    }
    links = sources[DATA_SOURCE_UID]["jsonData"]["exemplarTraceIdDestinations"]
    assert isinstance(links, list), "Grafana shows none of another form"
    (link,) = links
    # The label of our exemplars, and a data source that is there.
    assert link["name"] == "trace_id"
    traces = sources[link["datasourceUid"]]
    assert (traces["type"], traces["url"]) == ("jaeger", "$TRACES_URL")
    for stack in (
        next(part for part in PARTS if part.name == "grafana").environment,
        COMPOSE["grafana"]["environment"],
    ):
        assert stack["TRACES_URL"]


def test_what_is_provisioned_cannot_be_changed_in_the_browser() -> None:
    provisioned = yaml.safe_load((PROVISIONING / "dashboards" / "smartcache.yml").read_text("utf-8"))
    (provider,) = provisioned["providers"]
    assert provider["allowUiUpdates"] is False
    assert provider["disableDeletion"] is True
    assert provider["options"]["path"] == "$DASHBOARDS_PATH"

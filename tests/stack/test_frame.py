"""The project's frame: make targets, pinned requirements, what continuous integration runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
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


PIP = """#!/bin/sh
# A Python with a pip that warns, as real ones do to root, unless it is told twice to be quiet, and that fails.
case "$*" in
    *--version) ;;
    *" --quiet --quiet "*) echo "ERROR: no matching distribution" >&2; exit 1 ;;
    *) echo "WARNING: running pip as root" >&2; exit 1 ;;
esac
"""


def test_set_up_says_what_fails_and_nothing_else(tmp_path: Path) -> None:
    script = tmp_path / "stack" / "set_up.sh"
    python = tmp_path / ".venv" / "bin" / "python"
    for path, text in ((script, (ROOT / "stack" / "set_up.sh").read_text(encoding="utf-8")), (python, PIP)):
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    ended = subprocess.run(
        [script], env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stdout == "set-up: installing requirements/dev.txt into .venv\n"
    assert ended.stderr == "ERROR: no matching distribution\n"
    assert not (tmp_path / ".venv" / "up-to-date").exists()


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text(encoding="utf-8").splitlines()[-1] == "make test"

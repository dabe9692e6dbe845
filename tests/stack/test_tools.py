from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from stack.tools import TOOLS, ToolMissingError, find_tool, look_up_tool


@pytest.mark.parametrize("name", [name for name, tool in TOOLS.items() if tool.package])
def test_every_tool_can_be_had_and_runs(name: str) -> None:
    flag = "-version" if name == "redis_exporter" else "--version"
    ended = subprocess.run([str(find_tool(name)), flag], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_what_is_on_the_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "promtool"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_tool("promtool") == own


def test_debians_names_are_known_too() -> None:
    assert find_tool("prometheus-alertmanager") == find_tool("alertmanager")


def test_a_missing_tool_names_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("stack.tools.UNPACKED", tmp_path)
    assert look_up_tool("promtool") is None
    with pytest.raises(ToolMissingError, match="apt-get install --no-install-recommends prometheus"):
        find_tool("promtool")


def test_a_package_that_cannot_be_fetched_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "apt-get").write_text("#!/bin/sh\necho 'E: no network' >&2; exit 100\n")
    (tmp_path / "dpkg").write_text("#!/bin/sh\n")
    for command in ("apt-get", "dpkg"):
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("stack.tools.UNPACKED", tmp_path / "unpacked")
    with pytest.raises(ToolMissingError, match=r"no network\n.*apt-get install"):
        find_tool("amtool")
    assert [*(tmp_path / "unpacked").iterdir()] == []


def test_an_unknown_tool_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(ToolMissingError, match="'kubectl'; known are prometheus, promtool"):
        find_tool("kubectl")

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stack.settings import PORTS, Settings, SettingsError
from stack.tools import ROOT


def run(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stack", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_defaults_are_the_ports_people_rely_on() -> None:
    settings = Settings.read({})
    assert settings.ports == PORTS
    assert (settings.ports["SERVICE_PORT"], settings.ports["PROMETHEUS_PORT"]) == (8000, 9090)
    assert settings.directory == ROOT / ".stack"
    assert settings.mode == "auto"


def test_a_folder_may_be_anywhere(tmp_path: Path) -> None:
    assert Settings.read({"STACK_DIR": str(tmp_path)}).directory == tmp_path


def test_an_empty_folder_is_the_default_one() -> None:
    assert Settings.read({"STACK_DIR": ""}).directory == ROOT / ".stack"


@pytest.mark.parametrize("value", ["0", "65536", "-1", "http", "", "8000.0", "٣٠٠٠"])
def test_a_wrong_port_names_its_setting(value: str) -> None:
    with pytest.raises(SettingsError, match=r"^SERVICE_PORT=.*from 1 to 65535"):
        Settings.read({"SERVICE_PORT": value})


def test_two_parts_cannot_share_a_port() -> None:
    with pytest.raises(SettingsError, match="SERVICE_PORT and EXPORTER_PORT are both 9000"):
        Settings.read({"SERVICE_PORT": "9000", "EXPORTER_PORT": "9000"})


def test_a_wrong_mode_names_what_is_allowed() -> None:
    with pytest.raises(SettingsError, match="MODE=podman: allowed are docker and native"):
        Settings.read({"MODE": "podman"})


@pytest.mark.parametrize(("value", "says"), [("1", "authentication and TLS"), ("yes", "allowed are 0")])
def test_nothing_is_published_without_authentication(value: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Settings.read({"PUBLIC": value})


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["up"], {"PUBLIC": "1"}, "stack: PUBLIC=1 would publish"),
        (["up"], {"VALKEY_PORT": "x"}, "stack: VALKEY_PORT=x"),
        (["upp"], {}, "usage: python -m stack COMMAND"),
        ([], {}, "usage: python -m stack COMMAND"),
    ],
)
def test_the_command_refuses_before_it_starts_anything(
    arguments: list[str], environment: dict[str, str], says: str, tmp_path: Path
) -> None:
    ended = run(arguments, {"PATH": "", "STACK_DIR": str(tmp_path / "stack"), **environment})
    assert ended.returncode == 2
    assert ended.stderr.startswith(says)
    assert not (tmp_path / "stack").exists()


@pytest.mark.parametrize("command", ["up", "down"])
def test_a_folder_that_cannot_be_is_an_error_that_names_it(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        ended = run([command], {"PATH": "", "MODE": "native", "STACK_DIR": str(folder)})
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"stack: STACK_DIR={folder} cannot be used: ")
        assert len(ended.stderr.splitlines()) == 1


def test_docker_that_is_asked_for_and_not_there_names_the_remedy(tmp_path: Path) -> None:
    ended = run(["up"], {"PATH": "", "MODE": "docker", "STACK_DIR": str(tmp_path / "stack")})
    assert ended.returncode == 1
    assert ended.stderr == (
        "stack: MODE=docker, but there is no docker command: start Docker, or leave MODE out for native mode\n"
    )

"""Docker mode against a command line that answers as Docker's does; the containers themselves need an engine."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stack.docker import DockerMissingError, DockerStack
from stack.parts import PARTS
from stack.settings import PORTS, Settings
from stack.standing import StackError

#: Answers what the launcher asks of `docker`, from the folder it is in: `containers.json` is what runs.
DOCKER = """
import json, pathlib, sys
here = pathlib.Path(__file__).parent
said = here / "said"
said.write_text((said.read_text() if said.exists() else "") + " ".join(sys.argv[1:]) + "\\n")
broken = json.loads((here / "broken.json").read_text())
running = here / "containers.json"
match sys.argv[1:]:
    case words if any(" ".join(words).startswith(start) for start in broken):
        sys.exit("not today")
    case ["compose", "config"]:
        print((here / "compose.yml").read_text())
    case ["compose", "up", *_]:
        running.write_text(json.dumps(json.loads((here / "names.json").read_text())))
    case ["compose", *_, "down", "--remove-orphans"]:
        running.unlink()
    case ["compose", "ps", *_]:
        print("\\n".join(json.loads(running.read_text())) if running.exists() else "")
    case ["compose", "logs", *words]:
        print("the last lines of", words[-1])
    case ["inspect", *names]:
        health = {"service": "unhealthy"} if (here / "ill").exists() else {}
        print(json.dumps([{
            "Id": name,
            "Config": {"Labels": {"com.docker.compose.service": name}},
            "State": {"Status": "running", "Health": {"Status": health.get(name, "healthy")}},
        } for name in names]))
"""
COMPOSE = """
services:
  service: {image: "ours:1", build: .}
  exporter: {image: "ours:1", build: .}
  valkey: {image: "valkey:9"}
  locust: {image: "ours:1", build: ., profiles: [load]}
"""


def free_ports() -> dict[str, str]:
    """A free port for every port setting."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = {name: str(probe.getsockname()[1]) for name, probe in zip(PORTS, probes, strict=True)}
    for probe in probes:
        probe.close()
    return ports


Make = Callable[..., DockerStack]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A stack on a Docker of which the commands given do not work."""

    def build(*broken: str) -> DockerStack:
        docker = tmp_path / "docker"
        docker.write_text(f"#!{sys.executable}\n{DOCKER}")
        docker.chmod(0o755)
        (tmp_path / "broken.json").write_text(json.dumps(broken))
        (tmp_path / "names.json").write_text(json.dumps([part.name for part in PARTS]))
        (tmp_path / "compose.yml").write_text(COMPOSE)
        monkeypatch.setenv("PATH", str(tmp_path))
        return DockerStack(Settings.read({**os.environ, **free_ports(), "STACK_DIR": str(tmp_path)}))

    return build


def said(folder: Path) -> list[str]:
    return (folder / "said").read_text().splitlines()


def test_without_docker_it_says_what_is_missing(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DockerMissingError, match="no Docker engine answers"):
        make("version")
    with pytest.raises(DockerMissingError, match="there is no compose command"):
        make("compose version")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DockerMissingError, match="there is no docker command"):
        DockerStack(Settings.read({"STACK_DIR": str(tmp_path)}))


def test_an_image_that_cannot_be_had_is_named(make: Make) -> None:
    with pytest.raises(DockerMissingError, match="the image valkey:9 is not here and cannot be had: not today"):
        make("image inspect", "pull").get_images()
    with pytest.raises(DockerMissingError, match="the image ours:1 is not here and cannot be had: not today"):
        make("compose build").get_images()


def test_missing_images_are_pulled_and_ours_is_built_once(make: Make, tmp_path: Path) -> None:
    make("image inspect").get_images()
    asked = said(tmp_path)
    assert "pull --quiet valkey:9" in asked
    assert [line for line in asked if "build" in line] == ["compose build --quiet service"]


def test_up_waits_for_health_and_is_idempotent_and_down_removes_all(make: Make) -> None:
    stack = make()
    assert stack.down() == []
    assert stack.up() == {part.name: "started" for part in PARTS}
    assert stack.up() == {}
    assert [standing.name for standing in stack.status()] == [part.name for part in PARTS]
    assert stack.down() == [part.name for part in PARTS]
    assert {standing.said for standing in stack.status()} == {"not running"}


def test_a_part_that_stays_ill_is_named_and_the_rest_is_taken_down(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stack.docker.HEALTHY_WITHIN", 0.0)
    stack = make()
    (tmp_path / "ill").touch()
    with pytest.raises(StackError, match=r"not healthy within 0 s: service\n.*the last lines of service"):
        stack.up()
    assert not (tmp_path / "containers.json").exists()

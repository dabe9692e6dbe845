"""The stack in containers, through whichever compose command this machine has."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import Final

import yaml

from stack.health import ask
from stack.parts import PARTS
from stack.port import check_ports
from stack.settings import Settings
from stack.standing import StackError, Standing
from stack.tools import ROOT

__all__ = ["DockerMissingError", "DockerStack"]

#: Seconds for a question to the engine, for an image to be pulled or built, and for all containers to be healthy.
ANSWER_WITHIN: Final = 10.0
IMAGE_WITHIN: Final = 900.0
HEALTHY_WITHIN: Final = 180.0


class DockerMissingError(RuntimeError):
    """The containers cannot be run here; the message says what is missing."""


class DockerStack:
    """The compose project of this checkout. DockerMissingError when no engine or no compose command answers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._environment = dict(settings.environment)
        if shutil.which("docker") is None:
            raise DockerMissingError("there is no docker command")
        if self._run("docker", "version", "--format", "{{.Server.Version}}").returncode:
            raise DockerMissingError("no Docker engine answers")
        for command in (("docker", "compose"), ("docker-compose",)):
            if shutil.which(command[0]) and not self._run(*command, "version").returncode:
                self._compose = command
                break
        else:
            raise DockerMissingError("there is no compose command (docker compose, or docker-compose)")

    def get_images(self) -> None:
        """Have every image here, pulled or built; DockerMissingError names the one that cannot be had."""
        services = yaml.safe_load(self._output(*self._compose, "config"))["services"]
        built = False
        # Pulling first: it fails sooner than building.
        for name, service in sorted(services.items(), key=lambda entry: "build" in entry[1]):
            image = service["image"]
            if service.get("profiles") or (built and "build" in service):
                continue
            if "build" in service and "STACK_IMAGE" not in self._environment:
                done = self._run(*self._compose, "build", "--quiet", name, within=IMAGE_WITHIN)
                built = True
            elif self._run("docker", "image", "inspect", image).returncode:
                done = self._run("docker", "pull", "--quiet", image, within=IMAGE_WITHIN)
            else:
                continue
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["no reason given"]
                raise DockerMissingError(f"the image {image} is not here and cannot be had: {lines[-1]}")

    def up(self) -> dict[str, str]:
        """Start what is not running and wait until all is healthy; what was done to each part, and why.

        Whatever goes wrong, a stack that this call started from nothing is taken down again.
        """
        before = self._containers()
        if not before:
            check_ports({part.name: part.port for part in PARTS}, self._settings.ports)
        try:
            started = self._run(*self._compose, "up", "--detach", "--no-build", within=IMAGE_WITHIN)
            if started.returncode:
                reason = self._last_words() or started.stderr.strip()
                raise StackError(f"compose could not start the stack:\n{reason}")
            self._await_health()
        except BaseException:
            if not before:
                self.down()
            raise
        known = {container.id for container in before}
        restarted = {container.service: "restarted, its image or a setting of it changed" for container in before}
        otherwise = "started, it was not running" if before else "started"
        return {
            container.service: restarted.get(container.service, otherwise)
            for container in self._containers()
            if container.id not in known
        }

    def down(self) -> list[str]:
        """Stop and remove every container, keeping the volumes; the names of the parts that were running."""
        names = [container.service for container in self._containers()]
        if names:
            self._output(*self._compose, "--profile", "load", "down", "--remove-orphans", within=IMAGE_WITHIN)
        return names

    def status(self) -> list[Standing]:
        """How every part stands, in the table's order."""
        state = {container.service: container for container in self._containers()}
        standings = []
        for part in PARTS:
            if part.name not in state:
                standings.append(Standing(part.name, "", False, "not running"))
                continue
            answer = ask(self._settings.ports[part.port], part.health)
            address = part.address(self._settings.ports[part.port])
            said = answer.said if answer.ready else f"container {state[part.name].health}; {answer.said}"
            standings.append(Standing(part.name, address, answer.ready, said))
        return standings

    def _await_health(self) -> None:
        deadline = time.monotonic() + HEALTHY_WITHIN
        while waiting := [container for container in self._containers() if container.health != "healthy"]:
            if time.monotonic() > deadline:
                names = ", ".join(container.service for container in waiting)
                raise StackError(f"not healthy within {HEALTHY_WITHIN:.0f} s: {names}\n{self._last_words()}")
            time.sleep(1)

    def _last_words(self) -> str:
        """The end of the log of each container that is not healthy."""
        ill = [container.service for container in self._containers() if container.health != "healthy"]
        return self._run(*self._compose, "logs", "--no-color", "--tail", "15", *ill).stdout.strip() if ill else ""

    def _containers(self) -> list[_Container]:
        identifiers = self._output(*self._compose, "ps", "--all", "--quiet").split()
        if not identifiers:
            return []
        return [
            _Container(
                each["Id"],
                each["Config"]["Labels"]["com.docker.compose.service"],
                each["State"].get("Health", {}).get("Status", each["State"]["Status"]),
            )
            for each in json.loads(self._output("docker", "inspect", *identifiers))
        ]

    def _output(self, *command: str, within: float = ANSWER_WITHIN) -> str:
        done = self._run(*command, within=within)
        if done.returncode:
            raise StackError(f"{' '.join(command)} failed: {done.stderr.strip()}")
        return done.stdout

    def _run(self, *command: str, within: float = ANSWER_WITHIN) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command, cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=within, check=False
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 1, "", f"no answer within {within:.0f} s")


@dataclass(frozen=True, slots=True)
class _Container:
    id: str
    service: str
    health: str

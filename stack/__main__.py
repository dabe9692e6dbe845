"""``python -m stack COMMAND``: start, stop and look at the whole stack."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from stack import configuration
from stack.docker import DockerMissingError, DockerStack
from stack.native import NativeStack
from stack.parts import overruled
from stack.settings import Settings, SettingsError
from stack.standing import StackError, Standing, table
from stack.tools import ROOT, TOOLS, ToolMissingError, find_tool


def up(settings: Settings) -> int:
    """Start the whole stack in the background and print each part's address and health."""
    stack = _choose(settings)
    if names := overruled(settings.environment):
        print(f"stack: not used as given, since the stack sets them itself: {', '.join(names)}")
    done = stack.up()
    for name, what in done.items():
        if what != "started":  # of a stack that is new, the table says enough
            print(f"{name}: {what}")
    mode = "Docker" if isinstance(stack, DockerStack) else "native"
    print(f"stack: {'started' if done else 'already running'}, in {mode} mode")
    standings = stack.status()
    print(table(standings))
    if isinstance(stack, NativeStack):
        print(f"stack: logs are in {settings.directory / 'logs'}; `make down` stops it")
    return _verdict(standings)


def down(settings: Settings) -> int:
    """Stop all of it, in either mode."""
    stopped = NativeStack(settings).down()
    with suppress(DockerMissingError):  # then nothing of ours runs in it
        stopped += DockerStack(settings).down()
    print(f"stack: stopped {', '.join(stopped)}" if stopped else "stack: nothing was running")
    return 0


def status(settings: Settings) -> int:
    """Print each part's address and health; 1 unless all are ready but those absent here."""
    native = NativeStack(settings)
    standings = native.status()
    if not any(standing.address for standing in standings):
        with suppress(DockerMissingError):
            standings = DockerStack(settings).status()
    print(table(standings))
    return _verdict(standings)


def _verdict(standings: Sequence[Standing]) -> int:
    return 0 if all(standing.ready or standing.absent for standing in standings) else 1


def demo(settings: Settings) -> int:
    """Start the stack and play an evening on it."""
    environment = {**settings.environment, "SERVICE_FAULTS": "on"}
    up(Settings.read(environment))
    sys.stdout.flush()
    played = subprocess.run([sys.executable, "-m", "loadtest.evening"], cwd=ROOT, env=environment, check=False)
    print("stack: POST /v1/faults stays open until the next `make up`, which restarts the service, or `make down`")
    return played.returncode


def tools(_: Settings) -> int:
    """Fetch the programs that are not Python, without installing them."""
    for name, tool in TOOLS.items():
        if tool.package is not None:
            print(f"{name}: {find_tool(name)}")
    return 0


def render(_: Settings) -> int:
    """Write the configuration files that the containers read."""
    configuration.write(configuration.for_docker(), configuration.DOCKER)
    print(f"stack: wrote {configuration.DOCKER.relative_to(ROOT)}")
    return 0


COMMANDS: Final[Mapping[str, Callable[[Settings], int]]] = {
    "up": up,
    "down": down,
    "status": status,
    "demo": demo,
    "tools": tools,
    "render": render,
}


def _choose(settings: Settings) -> DockerStack | NativeStack:
    """The stack for the mode that is set, or the one this machine can run."""
    native = NativeStack(settings)
    if settings.mode == "native" or (settings.mode == "auto" and native.running()):
        return native
    try:
        docker = DockerStack(settings)
        docker.get_images()
    except DockerMissingError as missing:
        if settings.mode == "docker":
            raise StackError(f"MODE=docker, but {missing}: start Docker, or leave MODE out for native mode") from None
        print(f"stack: native mode, since {missing}")
        return native
    return docker


def main() -> int:
    """Run the command; 0 done, 1 it failed, 2 usage."""
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        width = max(map(len, COMMANDS))
        usage = "\n".join(f"  {name:<{width}}  {command.__doc__}" for name, command in COMMANDS.items())
        print(f"usage: python -m stack COMMAND\n{usage}", file=sys.stderr)
        return 2
    # Asked to end while parts are starting: end like Ctrl-C does, which stops them again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return COMMANDS[sys.argv[1]](Settings.read(os.environ))
    except SettingsError as error:
        print(f"stack: {error}", file=sys.stderr)
        return 2
    except (StackError, ToolMissingError) as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stack: interrupted; what had started was stopped again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

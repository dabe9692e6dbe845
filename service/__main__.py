"""``python -m service``: check everything, start the workers, say when they answer, stop them."""

from __future__ import annotations

import errno
import http.client
import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.log import LogLevels

from exporter.logs import CONFIG
from exporter.otlp import TraceSettings
from service.board import Slot
from service.fixtures import COMPETITIONS, RESULT_AFTER, load_fixtures
from service.settings import Settings, SettingsError, read_settings
from smartcache import CacheConfig, CacheMetrics, ConfigError, SmartCacheEnhanced

#: Seconds after which a service that does not answer is given up.
_PATIENCE: Final = 60.0
#: Seconds that a worker may take to end before it is killed.
_FAREWELL: Final = 10


def main(arguments: list[str]) -> int:
    """Run the service; 0 after it was asked to stop, 1 when it failed, 2 when it was told what cannot be."""
    try:
        settings = read_settings(os.environ, arguments)
        # The engine that the workers will build, to hear now what is wrong with its settings; it connects to nothing.
        SmartCacheEnhanced(config=CacheConfig.from_env(), metrics=CacheMetrics())
        traced = TraceSettings.from_env()
        _check_moment(settings)
        _check_port(settings)
    except (SettingsError, ConfigError) as error:
        return _refuse(str(error), 2)
    with tempfile.TemporaryDirectory(prefix="smartcache-service-", ignore_cleanup_errors=True) as folder:
        try:
            _serve(settings, Path(folder), str(traced or "no traces"))
        except SystemExit:
            return _refuse("a worker ended as soon as it was started; the lines above say why", 1)
    return 0


def _refuse(reason: str, code: int) -> int:
    print(f"service cannot run: {reason}", file=sys.stderr, flush=True)
    return code


def _serve(settings: Settings, folder: Path, traced: str) -> None:
    # Workers read the environment, so what the arguments said goes there; "now" begins here for all of them.
    os.environ.update(settings.texts)
    os.environ["SERVICE_FOLDER"] = str(folder)
    os.environ["SERVICE_CLOCK"] = f"{settings.at.timestamp()!r} {time.monotonic()!r}"
    # A forked worker would inherit the locks of this process's threads.
    multiprocessing.set_start_method("spawn")
    server = Granian(
        "service.app:create",
        factory=True,
        address=settings.host,
        port=settings.port,
        workers=settings.workers,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        loop=Loops.uvloop,
        log_level=LogLevels.warning,
        log_dictconfig=CONFIG,
        respawn_failed_workers=True,
        workers_kill_timeout=_FAREWELL,
    )
    threading.Thread(target=_announce, args=(settings, folder, traced), daemon=True).start()
    server.serve()


def _announce(settings: Settings, folder: Path, traced: str) -> None:
    """Say so once every worker answers, or give up."""
    given_up = time.monotonic() + _PATIENCE
    while time.monotonic() < given_up:
        state = _readiness(settings) if len(Slot.holders(folder)) >= settings.workers else None
        if state is not None:
            store = {"none": "no store, memory alone"}.get(state["store"], f"store {state['store']}")
            print(
                f"service ready: http://{settings.host}:{settings.port}, {settings.workers} worker(s), {store}, "
                f"{traced}, now is {state['now']}",
                flush=True,
            )
            return
        time.sleep(0.1)
    _refuse(f"no answer on {settings.host}:{settings.port} after {_PATIENCE:g} s", 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _readiness(settings: Settings) -> dict[str, str] | None:
    """What ``/readyz`` says; None while it is not 200."""
    connection = http.client.HTTPConnection(settings.host, settings.port, timeout=1)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        state: dict[str, str] = json.loads(response.read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return state if response.status == 200 else None


def _check_moment(settings: Settings) -> None:
    fixtures = load_fixtures()
    first = max(
        min(match.kickoff for match in fixtures.matches if match.competition == competition)
        for competition in COMPETITIONS
    )
    earliest, latest = first + RESULT_AFTER, fixtures.matches[-1].kickoff
    if not earliest <= settings.at < latest:
        raise SettingsError(
            f"SERVICE_AT or --at is {settings.at.isoformat()}: allowed is a moment from {earliest.isoformat()}, when "
            f"every competition has a result, to {latest.isoformat()}, the last kickoff"
        )


def _check_port(settings: Settings) -> None:
    address = f"{settings.host}:{settings.port}"
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise SettingsError(
            f"SERVICE_HOST or --host is {settings.host!r}: allowed is a name or address of this machine ({error})"
        ) from None
    with socket.socket(family, kind, protocol) as probe:
        # As servers do: a port that only lingers after its last owner is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise SettingsError(
                    f"{address} is already taken: allowed is a free port (SERVICE_PORT or --port)"
                ) from None
            raise SettingsError(
                f"cannot listen on {address}: {error.strerror} (SERVICE_HOST and SERVICE_PORT, --host and --port)"
            ) from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""``python -m exporter``: serve the metrics of a directory until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from granian.constants import Interfaces
from granian.server.embed import Server
from starlette.applications import Starlette

from exporter.app import create_app
from smartcache.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the exporter; the exit code is 0 when it was told to stop and 2 when it could not start."""
    parser = argparse.ArgumentParser("python -m exporter", description="Expose smartcache's metrics to Prometheus.")
    parser.add_argument("--dir", help="folder of metrics files (SMARTCACHE_METRICS_DIR)")
    parser.add_argument("--host", help="address to listen on (EXPORTER_HOST, 127.0.0.1)")
    parser.add_argument("--port", help="port to listen on (EXPORTER_PORT, 9464)")
    given = parser.parse_args(arguments)
    try:
        directory = given.dir or os.environ.get("SMARTCACHE_METRICS_DIR")
        if not directory:
            raise ConfigError(
                "SMARTCACHE_METRICS_DIR is not set: name the folder of the metrics files there or with --dir"
            )
        host = given.host or os.environ.get("EXPORTER_HOST") or "127.0.0.1"
        port = _port(given.port or os.environ.get("EXPORTER_PORT") or "9464")
        app = create_app(Path(directory))
        _check_address(host, port)
    except ConfigError as error:
        print(f"exporter: {error}", file=sys.stderr)
        return 2
    asyncio.run(_serve(app, host, port))
    return 0


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ConfigError(f"EXPORTER_PORT={text!r} is no port; it can be 1 to 65535")
    return int(text)


def _check_address(host: str, port: int) -> None:
    # The server lets several processes share a port; here a second one would only split the scrapes.
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"EXPORTER_HOST={host!r} is no address of this machine ({error.strerror})") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port} ({error.strerror}); "
                "set EXPORTER_PORT to a free port, EXPORTER_HOST to an address of this machine"
            ) from error


async def _serve(app: Starlette, host: str, port: int) -> None:
    server = Server(app, host, port, interface=Interfaces.ASGI, websockets=False, log_enabled=False)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    serving = asyncio.create_task(server.serve())
    while not serving.done():
        try:
            _, connection = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        connection.close()
        print(f"exporter: ready on http://{host}:{port}/metrics", flush=True)
        break
    await serving


if __name__ == "__main__":
    sys.exit(main())

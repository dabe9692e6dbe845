"""One ASGI application in one process: check the address, say when it answers, stop in bounded time."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from typing import Final, NoReturn

from granian.constants import Interfaces
from granian.server.embed import Server
from starlette.types import ASGIApp

__all__ = ["AddressError", "check_address", "read_port", "serve"]

#: Seconds that requests under way have to end, once the process was told to stop.
_FAREWELL: Final = 3


class AddressError(Exception):
    """An address cannot be listened on; the message names it and the setting."""


def read_port(text: str, setting: str) -> int:
    """The port in a setting.

    Raises:
        AddressError: not a number from 1 to 65535.
    """
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise AddressError(f"{setting}={text!r} is no port; it can be 1 to 65535")
    return int(text)


def check_address(host: str, port: int, prefix: str) -> None:
    """Make sure that ``host:port`` can be listened on; ``prefix`` begins the names of its settings.

    Raises:
        AddressError: it is taken, or not of this machine.
    """
    # The server would share a port that is taken already, and each process would get half of what comes in.
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise AddressError(
            f"cannot listen on {host}:{port} ({error.strerror}); set {prefix}_PORT to a free port, "
            f"{prefix}_HOST to an address of this machine"
        ) from error


def serve(app: ASGIApp, host: str, port: int, ready: str) -> NoReturn:
    """Serve until SIGINT or SIGTERM, then end the process; ``ready`` is printed once it answers."""
    with asyncio.Runner() as runner:
        runner.run(_serve(app, host, port, ready))
        sys.stdout.flush()
        # The server's threads outlive it while a client keeps a connection open, and abort in an interpreter that ends.
        os._exit(0)


async def _serve(app: ASGIApp, host: str, port: int, ready: str) -> None:
    server = Server(app, host, port, interface=Interfaces.ASGI, websockets=False, log_enabled=False)
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    serving = asyncio.create_task(server.serve())
    # The server's own start-up hook runs before it listens.
    while not serving.done():
        try:
            _, connection = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        connection.close()
        print(ready, flush=True)
        break
    await asyncio.wait({serving, asyncio.create_task(told.wait())}, return_when=asyncio.FIRST_COMPLETED)
    server.stop()  # type: ignore[no-untyped-call]
    # A request whose body never ends would keep it from stopping.
    await asyncio.wait({serving}, timeout=_FAREWELL)
    if serving.done():
        serving.result()

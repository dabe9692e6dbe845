"""Whether the stack's ports are free, asked before anything starts."""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping
from contextlib import suppress

import psutil

from stack.standing import StackError

__all__ = ["check_ports"]


def check_ports(settings: Mapping[str, str], ports: Mapping[str, int], own: Collection[int] = ()) -> None:
    """StackError when a port is taken.

    ``settings`` names the port setting of each part to start, ``ports`` the port of each setting; ``own`` are ports
    held by parts that are about to be stopped.
    """
    for part, setting in settings.items():
        port = ports[setting]
        if port not in own and not _free(port):
            raise StackError(
                f"port {port} of {part} is taken{_holder(port)}; nothing was started. "
                f"Free it, or set {setting} to another port"
            )


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    """Which process listens on ``port``, as far as this user may know."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
            if listens and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""

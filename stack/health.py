"""Asking a part how it is.

``python -m stack.health PORT PATH`` is the health check of our own containers: 0 ready, 1 not.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
from dataclasses import dataclass

__all__ = ["Health", "ask"]


@dataclass(frozen=True, slots=True)
class Health:
    """What a part answered: whether it is ready, and a word or two for people."""

    ready: bool
    said: str


def ask(port: int, question: str, timeout: float = 2.0) -> Health:
    """Ask the part on loopback ``port``; ``question`` is a path, or ``PING`` for Valkey. ``timeout`` in seconds."""
    try:
        return _ping(port, timeout) if question == "PING" else _get(port, question, timeout)
    except (OSError, http.client.HTTPException) as unreachable:
        return Health(False, f"no answer: {unreachable}")


def _ping(port: int, timeout: float) -> Health:
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.sendall(b"PING\r\n")
        answer = connection.recv(64).decode("ascii", "replace").strip()
    return Health(answer == "+PONG", "ready" if answer == "+PONG" else answer)


def _get(port: int, path: str, timeout: float) -> Health:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != http.client.OK:
        return Health(False, f"{path} answered {answer.status}")
    return Health(True, _degraded(body) or "ready")


def _degraded(body: bytes) -> str | None:
    """What a readiness answer says is wrong though the part serves."""
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    if not isinstance(answer, dict) or not answer.get("degraded"):
        return None
    reasons = answer.get("reasons") or answer["degraded"]
    return f"ready, degraded: {', '.join(map(str, reasons)) if isinstance(reasons, list) else reasons}"


if __name__ == "__main__":
    health = ask(int(sys.argv[1]), sys.argv[2])
    print(health.said)
    sys.exit(not health.ready)

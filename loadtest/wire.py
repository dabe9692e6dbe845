"""A lean HTTP/1.1 client over one keep-alive gevent socket: GET only, answers with a Content-Length only.

General clients spend more time per request than the service does. What this one does not speak (chunked answers, TLS)
it refuses by name instead of misreading it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from gevent import socket

_RECEIVE: Final = 65536
_MAX_HEAD: Final = 65536
_BODILESS: Final = (204, 304)
#: The headers that matter here, in a lower-cased head.
_HEADER: Final = re.compile(
    rb"\r\n(content-length|transfer-encoding|connection|cache-status):[ \t]*([^\r\n]*?)[ \t]*(?=\r|$)"
)
#: The parameter ``hit`` in a lower-cased Cache-Status (RFC 9211).
_HIT: Final = re.compile(rb";[ \t]*hit[ \t]*(?:[;,]|$)")


class WireError(Exception):
    """The connection failed, or the answer is not one that this client speaks."""


class Answer(NamedTuple):
    """One HTTP answer.

    Attributes:
        status: status code.
        cache: ``hit`` when a cache served it, ``miss`` when it went forward, ``""`` without a Cache-Status header.
        keep_alive: whether the connection may carry another request.
        body: the content.
    """

    status: int
    cache: str
    keep_alive: bool
    body: bytes


class Target(NamedTuple):
    """Where requests go."""

    host: str
    port: int

    @classmethod
    def parse(cls, url: str, setting: str) -> Target:
        """Take ``http://host[:port]`` apart; ValueError names ``setting``, the value, and what is allowed."""
        try:
            parts = urlsplit(url)
            port = parts.port or 80
        except ValueError as error:
            raise ValueError(f"{setting}={url!r}: {error}; allowed: http://host[:port]") from None
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/") or parts.query:
            raise ValueError(f"{setting}={url!r}: allowed: http://host[:port], without a path")
        return cls(parts.hostname, port)

    def get(self, path: str) -> bytes:
        """The bytes of a GET of ``path``, which is already percent-encoded."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"GET {path} HTTP/1.1\r\nHost: {host}:{self.port}\r\nAccept: application/json\r\n\r\n".encode()


class Head(NamedTuple):
    """What the status line and headers of an answer say."""

    status: int
    length: int
    keep_alive: bool
    cache: str


def parse_head(raw: bytes) -> Head:
    """Read a status line and headers, without the empty line after them; WireError when they cannot be trusted."""
    head = raw.lower()
    version, status = head[:9], head[9:12]
    if version not in (b"http/1.1 ", b"http/1.0 ") or not status.isdigit() or head[12:13] not in (b" ", b"\r", b""):
        raise WireError(f"status line {raw[:40]!r}; expected HTTP/1.1 and a three-digit code")
    code = int(status)
    headers: dict[bytes, bytes] = {}
    for name, value in _HEADER.findall(head):
        headers[name] = value if name not in headers else headers[name] + b"," + value
    if (coding := headers.get(b"transfer-encoding")) is not None:
        raise WireError(f"Transfer-Encoding {coding.decode('latin-1')!r}: this client reads Content-Length only")
    length = b"0" if code in _BODILESS else headers.get(b"content-length", b"absent")
    if not length.isdigit():
        # A list of lengths is refused too: the answer's end could be read in two ways (RFC 9112, 6.3).
        raise WireError(f"Content-Length {length.decode('latin-1')!r}: expected one number")
    connection = headers.get(b"connection", b"")
    keep_alive = b"close" not in connection if version == b"http/1.1 " else b"keep-alive" in connection
    cache_status = headers.get(b"cache-status")
    cache = "" if cache_status is None else "hit" if _HIT.search(cache_status) else "miss"
    return Head(code, int(length), keep_alive, cache)


class Connection:
    """One keep-alive connection, reopened when needed.

    Attributes:
        reopened: times that an idle connection, closed by the server, was replaced and the request sent again.
    """

    def __init__(self, target: Target, timeout: float) -> None:
        self.reopened = 0
        self._target = target
        self._timeout = timeout
        self._socket: socket.socket | None = None

    def get(self, request: bytes) -> Answer:
        """Send the bytes of a GET and read its answer; WireError when there is none that can be trusted.

        A server may close an idle connection just as it is used again. A GET on which no byte came back is then sent
        once more on a new connection (RFC 9112, 9.3.1); anything else that breaks is an error.
        """
        reused = self._socket is not None
        try:
            answer = self._exchange(request)
            if answer is None and reused:
                self.close()
                self.reopened += 1
                answer = self._exchange(request)
            if answer is None:
                raise WireError("connection closed before the answer")
        except TimeoutError:
            self.close()
            raise WireError(f"no answer within {self._timeout:g} s") from None
        except OSError as error:
            self.close()
            raise WireError(f"{self._target.host}:{self._target.port}: {error.strerror or error}") from None
        except BaseException:
            # Also a kill in the middle: what is still under way must not be read as the next answer.
            self.close()
            raise
        if not answer.keep_alive:
            self.close()
        return answer

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        opened = socket.create_connection(self._target, timeout=self._timeout)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened

    def _exchange(self, request: bytes) -> Answer | None:
        """One request and its answer; None when the server closed before the first byte of it."""
        if self._socket is None:
            self._socket = self._open()
        try:
            self._socket.sendall(request)
            data = self._socket.recv(_RECEIVE)
        except (ConnectionResetError, BrokenPipeError):
            return None
        if not data:
            return None
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > _MAX_HEAD:
                raise WireError(f"headers of more than {_MAX_HEAD} bytes")
            data += self._more(data)
        head = parse_head(data[:end])
        whole = end + 4 + head.length
        while len(data) < whole:
            data += self._more(data)
        if len(data) > whole:
            raise WireError(f"{len(data) - whole} bytes after the answer")
        return Answer(head.status, head.cache, head.keep_alive, data[end + 4 :])

    def _more(self, data: bytes) -> bytes:
        assert self._socket is not None
        more: bytes = self._socket.recv(_RECEIVE)
        if not more:
            raise WireError(f"connection closed after {len(data)} bytes of the answer")
        return more

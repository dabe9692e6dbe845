"""The lean client against a real HTTP server, and against real sockets that misbehave."""

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loadtest.wire import Answer, Connection, Head, Target, WireError, parse_head


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"2\r\nhi\r\n0\r\n\r\n")
            return
        body = b"x" * 200_000 if self.path == "/large" else self.path.encode()
        self.send_response(404 if self.path == "/absent" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Status", "smartcache; hit; ttl=12")
        if self.path == "/close":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Target]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield Target("127.0.0.1", running.server_port)
        running.shutdown()


@pytest.fixture
def answers() -> Iterator[Callable[[list[list[bytes]]], Target]]:
    """A server of raw bytes: one list of answers per connection it accepts, which it then closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connections: list[list[bytes]]) -> None:
        for raw in connections:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return  # the test is over
            with accepted:
                for answer in raw:
                    accepted.recv(65536)
                    accepted.sendall(answer)

    def start(connections: list[list[bytes]]) -> Target:
        threading.Thread(target=serve, args=(connections,), daemon=True).start()
        return Target("127.0.0.1", listener.getsockname()[1])

    yield start
    listener.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_answers_come_one_after_another_over_one_connection(server: Target) -> None:
    connection = Connection(server, 5)
    for path in ("/a", "/large", "/absent", "/b"):
        answer = connection.get(server.get(path))
        assert answer.status == (404 if path == "/absent" else 200)
        assert answer.cache == "hit"
        assert answer.body == (b"x" * 200_000 if path == "/large" else path.encode())
    assert connection.reopened == 0
    connection.close()


def test_an_answer_that_closes_the_connection_is_followed_on_a_new_one(server: Target) -> None:
    connection = Connection(server, 5)
    assert connection.get(server.get("/close")).keep_alive is False
    assert connection.get(server.get("/a")).status == 200
    assert connection.reopened == 0
    connection.close()


def test_a_chunked_answer_is_refused_by_name(server: Target) -> None:
    with pytest.raises(WireError, match="Transfer-Encoding 'chunked'"):
        Connection(server, 5).get(server.get("/chunked"))


def test_an_idle_connection_that_the_server_closed_is_replaced_once(
    answers: Callable[[list[list[bytes]]], Target],
) -> None:
    target = answers([[OK], [OK]])
    connection = Connection(target, 5)
    assert connection.get(target.get("/")) == Answer(200, "", True, b"ok")
    assert connection.get(target.get("/")) == Answer(200, "", True, b"ok")
    assert connection.reopened == 1


def test_a_new_connection_closed_without_an_answer_is_an_error(
    answers: Callable[[list[list[bytes]]], Target],
) -> None:
    target = answers([[b""]])
    with pytest.raises(WireError, match="closed before the answer"):
        Connection(target, 5).get(target.get("/"))


def test_an_answer_cut_short_is_an_error_and_not_retried(answers: Callable[[list[list[bytes]]], Target]) -> None:
    target = answers([[OK, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"], [OK]])
    connection = Connection(target, 5)
    connection.get(target.get("/"))
    with pytest.raises(WireError, match="closed after 40 bytes of the answer"):
        connection.get(target.get("/"))
    assert connection.reopened == 0


def test_bytes_after_an_answer_are_an_error(answers: Callable[[list[list[bytes]]], Target]) -> None:
    target = answers([[OK + OK]])
    with pytest.raises(WireError, match=f"{len(OK)} bytes after the answer"):
        Connection(target, 5).get(target.get("/"))


def test_a_server_that_says_nothing_is_given_up_on(answers: Callable[[list[list[bytes]]], Target]) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    target = Target("127.0.0.1", listener.getsockname()[1])
    with pytest.raises(WireError, match=r"no answer within 0\.2 s"):
        Connection(target, 0.2).get(target.get("/"))
    listener.close()


def test_nobody_listening_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(WireError, match=f"127.0.0.1:{port}: .*refused"):
        Connection(Target("127.0.0.1", port), 5).get(b"")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5", Head(200, 5, True, "")),
        (b"HTTP/1.1 200\r\ncontent-length:5", Head(200, 5, True, "")),
        (b"HTTP/1.1 204 No Content", Head(204, 0, True, "")),
        (b"HTTP/1.1 503 No\r\nCONTENT-LENGTH: 0\r\nConnection: Close", Head(503, 0, False, "")),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1", Head(200, 1, False, "")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nCache-Status: a; fwd=miss; stored", Head(200, 1, True, "miss")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nCache-Status: a; ttl=-3; hit", Head(200, 1, True, "hit")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nCache-Status: hits; fwd=stale", Head(200, 1, True, "miss")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1 \r\nCache-Status: a; hit, b; fwd=miss", Head(200, 1, True, "hit")),
        (b"HTTP/1.1 200 OK\r\nX-Content-Length: 9\r\nContent-Length: 1", Head(200, 1, True, "")),
    ],
)
def test_heads_that_are_understood(head: bytes, expected: Head) -> None:
    assert parse_head(head) == expected


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"HTTP/2 200\r\nContent-Length: 1", "status line"),
        (b"HTTP/1.1 2000 OK\r\nContent-Length: 1", "status line"),
        (b"SSH-2.0-OpenSSH", "status line"),
        (b"HTTP/1.1 200 OK", "Content-Length 'absent'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1", "Content-Length '-1'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2", "Content-Length '1,2'"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked", "Transfer-Encoding 'gzip, chunked'"),
    ],
)
def test_heads_that_cannot_be_trusted_are_refused(head: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        parse_head(head)


def test_targets() -> None:
    assert Target.parse("http://127.0.0.1:8000/", "--target") == Target("127.0.0.1", 8000)
    assert Target.parse("http://service", "--target") == Target("service", 80)
    assert b"Host: [::1]:80\r\n" in Target.parse("http://[::1]", "--target").get("/")


@pytest.mark.parametrize("url", ["https://x", "x:80", "http://", "http://x/v1", "http://x:99999", "http://x?a=1"])
def test_targets_that_cannot_be_loaded_name_the_setting_and_what_is_allowed(url: str) -> None:
    with pytest.raises(ValueError, match=r"--target='.*allowed: http://host\[:port\]"):
        Target.parse(url, "--target")

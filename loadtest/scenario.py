"""The matchday scenario: people look up predictions, most of them for the matches about to kick off.

Each Locust process has one open schedule that all its users take slots from, one recorder, and one law of popularity
read from the service's own fixtures. The web interface, ``--headless`` and the release gate run this same file.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import gevent
from locust import User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.rpc import Message
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

from loadtest.popularity import Popularity, read_matches, service_now
from loadtest.recorder import Recorder
from loadtest.schedule import Schedule, Slot
from loadtest.verdict import ROUTE
from loadtest.wire import Connection, Target, WireError
from smartcache.tags import MARKETS

_log: Final = logging.getLogger(__name__)

SCENARIO: Final = "matchday"
#: A little longer than the service's own limit for one answer, so that it gets to say what went wrong.
ANSWER_TIMEOUT: Final = 12.0
#: From the start of a test to the first slot: time for users to appear.
_LEAD: Final = 1.0
_LOOP_PROBE: Final = 0.01
#: Kickoffs pass while a run lasts, so the fixtures are read again.
_FIXTURES_EVERY: Final = 30.0
_FINISHED: Final = "load_finished"


class Load:
    """The load that one process makes: its schedule, what is drawn, and what is recorded.

    Attributes:
        recorder: this process's record; on a master, that of all workers.
        report: facts per load process, once it finished: share of a core used and step of the wall clock in seconds.
    """

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.report: list[dict[str, float]] = []
        self.target = Target("", 0)
        self._schedule: Schedule | None = None
        self._popularity: Popularity | None = None
        self._requests: dict[str, bytes] = {}
        self._rng = random.Random()
        self._chores: list[gevent.Greenlet] = []

    def start(self, environment: Environment) -> None:
        """Read the fixtures and lay out the schedule; ValueError or WireError when the target gives none."""
        options, runner = environment.parsed_options, environment.runner
        assert options is not None
        assert isinstance(runner, (LocalRunner, WorkerRunner))
        self.stop()
        self._schedule = None
        if not options.rate > 0:
            raise ValueError(f"--rate={options.rate:g}: allowed: above 0")
        self.target = Target.parse(environment.host or "", "--host")
        self._requests.clear()
        markets = chosen_markets(options.markets)
        self._read_fixtures(markets)
        # The processes' slots interleave instead of coinciding.
        start = time.monotonic() + _LEAD + max(runner.worker_index, 0) / options.rate
        self._schedule = Schedule(
            options.rate / options.load_processes, start, options.warm_up, options.duration or None
        )
        self._chores = [
            gevent.spawn(self._read_fixtures_again, markets),
            gevent.spawn(self._probe_loop),
            gevent.spawn(self._finish, runner, self._schedule),
        ]

    def stop(self) -> None:
        """End what runs beside the users."""
        gevent.killall(self._chores)
        self._chores = []

    def take(self) -> Slot | None:
        """Wait for the next slot and return it when due; None when there is no more."""
        if self._schedule is None:
            return None
        now = time.monotonic()
        slot = self._schedule.take(now)
        if slot is not None and slot.due > now:
            gevent.sleep(slot.due - now)
        return slot

    def draw(self) -> bytes:
        """The bytes of the next request."""
        assert self._popularity is not None
        path = self._popularity.draw()
        request = self._requests.get(path)
        if request is None:
            request = self._requests[path] = self.target.get(path)
        return request

    def _read_fixtures(self, markets: tuple[str, ...]) -> None:
        connection = Connection(self.target, ANSWER_TIMEOUT)
        try:
            answer = connection.get(self.target.get("/v1/matches"))
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(f"GET /v1/matches: {answer.status}, expected 200")
        matches = read_matches(answer.body)
        self._popularity = Popularity(matches, service_now(matches), markets, self._rng)

    def _read_fixtures_again(self, markets: tuple[str, ...]) -> None:
        while True:
            gevent.sleep(_FIXTURES_EVERY)
            try:
                self._read_fixtures(markets)
            except WireError:
                # The requests themselves will tell; the last fixtures stay good for a while.
                self.recorder.counts["fixtures_failed"] += 1

    def _probe_loop(self) -> None:
        # A loop that is late for its own alarm is the generator's delay, not the service's.
        while True:
            due = time.monotonic() + _LOOP_PROBE
            gevent.sleep(_LOOP_PROBE)
            late = time.monotonic() - due
            assert self._schedule is not None
            if due >= self._schedule.judged_from and (self._schedule.end is None or due < self._schedule.end):
                self.recorder.observe("loop_lag", max(late, 0.0))

    def _finish(self, runner: LocalRunner | WorkerRunner, schedule: Schedule) -> None:
        if schedule.end is None:
            return
        gevent.sleep(schedule.judged_from - time.monotonic())
        cpu, wall, monotonic = time.process_time(), time.time(), time.monotonic()
        gevent.sleep(schedule.end - monotonic)
        passed = time.monotonic() - monotonic
        facts = {
            "cpu_share": (time.process_time() - cpu) / passed,
            "clock_step": abs(time.time() - wall - passed),
        }
        runner.user_greenlets.join(timeout=ANSWER_TIMEOUT * 2)
        drained = self.recorder.drain() if isinstance(runner, WorkerRunner) else None
        runner.send_message(_FINISHED, {"facts": facts, "recorded": drained})


load = Load()


def chosen_markets(names: str) -> tuple[str, ...]:
    """The markets asked for: all, or those in a comma-separated list; ValueError names an unknown one."""
    chosen = tuple(name for name in names.split(",") if name)
    for name in chosen:
        if name not in MARKETS:
            raise ValueError(f"--markets: {name!r} is not a market; allowed: {', '.join(MARKETS)}")
    return chosen or tuple(MARKETS)


class Bettor(User):
    """Asks for one prediction after another over one keep-alive connection, at the times the schedule gives."""

    host = os.environ.get("LOAD_TARGET") or f"http://127.0.0.1:{os.environ.get('SERVICE_PORT', '8000')}"
    _leaving = False

    def on_start(self) -> None:
        """Prepare the connection; it opens with the first request."""
        self.connection = Connection(load.target, ANSWER_TIMEOUT)

    def on_stop(self) -> None:
        """Close the connection."""
        self.connection.close()

    def stop(self, force: bool = False) -> bool:
        """Leave after the answer under way, so that the service counts no request that this side did not."""
        self._leaving = True
        return bool(super().stop(force))

    @task
    def ask(self) -> None:
        """Take slots until there are none; Locust's own pacing is for closed models and costs a switch each."""
        while not self._leaving:
            slot = load.take()
            if slot is None or self._leaving:
                break
            self._ask_once(slot)
        raise StopUser

    def _ask_once(self, slot: Slot) -> None:
        counts = load.recorder.counts
        request = load.draw()
        counts["sent"] += 1
        error: Exception | None = None
        status, length, cache, reopened = 0, 0, "", self.connection.reopened
        try:
            answer = self.connection.get(request)
        except WireError as failure:
            error = failure
        else:
            status, length, cache = answer.status, len(answer.body), answer.cache
            if status != 200:
                error = WireError(f"answered {status}")
        took = time.monotonic() - slot.due
        counts["reopened"] += self.connection.reopened - reopened
        counts["answered" if status else "failed"] += 1
        if status:
            counts[f"code_{status}"] += 1
        if slot.judged:
            counts["judged_answered" if status else "judged_failed"] += 1
            counts["judged_5xx"] += status >= 500
            if status == 200:
                load.recorder.observe("hit" if cache == "hit" else "miss", took)
        self.environment.events.request.fire(
            request_type="GET",
            name=ROUTE,
            response_time=took * 1000,
            response_length=length,
            response=None,
            context={},
            exception=error,
        )


def _add_arguments(parser: LocustArgumentParser) -> None:
    # Locust's page has no lock: it is for this machine unless --web-host says otherwise.
    parser.set_defaults(web_host="127.0.0.1")
    parser.add_argument("--rate", type=float, env_var="LOAD_RATE", default=200.0, help="Requests per second in all")
    parser.add_argument(
        "--warm-up", type=float, env_var="LOAD_WARM_UP", default=0.0, help="Seconds sent before any is judged"
    )
    parser.add_argument(
        "--duration", type=float, env_var="LOAD_DURATION", default=0.0, help="Seconds judged; 0 runs on until stopped"
    )
    parser.add_argument(
        "--markets", env_var="LOAD_MARKETS", default="", help="Markets asked for, comma separated; none named: all"
    )
    parser.add_argument("--result", default="", include_in_web_ui=False, help="File to write the record to, as JSON")


def _start(environment: Environment, **_: Any) -> None:
    options, runner = environment.parsed_options, environment.runner
    assert options is not None
    if not isinstance(runner, WorkerRunner):
        # Sent on to the workers with the other options when users are spawned.
        options.load_processes = runner.worker_count if isinstance(runner, MasterRunner) else 1
        load.report.clear()
    if isinstance(runner, MasterRunner):
        return
    try:
        load.start(environment)
    except (ValueError, WireError) as error:
        _log.error("cannot start: %s", error)
        environment.process_exit_code = 2
        if runner is not None:
            gevent.spawn(runner.stop if isinstance(runner, LocalRunner) and not options.headless else runner.quit)


def _stop(environment: Environment, **_: Any) -> None:
    load.stop()


def _listen(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, (LocalRunner, MasterRunner)):
        environment.runner.register_message(_FINISHED, _finished)


def _finished(environment: Environment, msg: Message, **_: Any) -> None:
    """One load process has sent its last request and had its last answer."""
    options, runner = environment.parsed_options, environment.runner
    assert options is not None
    assert isinstance(runner, (LocalRunner, MasterRunner))
    load.report.append(msg.data["facts"])
    if msg.data["recorded"]:
        load.recorder.merge(msg.data["recorded"])
    if len(load.report) == options.load_processes:
        gevent.spawn(runner.quit if options.headless else runner.stop)


def _report(client_id: str, data: dict[str, Any], **_: Any) -> None:
    data["smartcache"] = load.recorder.drain()


def _merge(client_id: str, data: Mapping[str, Any], **_: Any) -> None:
    load.recorder.merge(data["smartcache"])


def _write_result(environment: Environment, **_: Any) -> None:
    options, runner = environment.parsed_options, environment.runner
    if isinstance(runner, WorkerRunner) or not isinstance(options, Namespace) or not options.result:
        return
    if isinstance(runner, LocalRunner):
        # Stopped from outside: let the answers under way come in first.
        runner.stop()
    warned = runner is not None and (runner.cpu_warning_emitted or runner.worker_cpu_warning_emitted)
    result = {**load.recorder.dump(), "processes": load.report, "cpu_warning": warned}
    Path(options.result).write_text(json.dumps(result), encoding="utf-8")


def register() -> None:
    """Hook the scenario into Locust."""
    events.init_command_line_parser.add_listener(_add_arguments)
    events.init.add_listener(_listen)
    events.test_start.add_listener(_start)
    events.test_stop.add_listener(_stop)
    events.report_to_master.add_listener(_report)
    events.worker_report.add_listener(_merge)
    events.quitting.add_listener(_write_result)

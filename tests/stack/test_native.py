"""The launcher, on small real servers; the real parts are started by tests/end_to_end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from stack.health import ask
from stack.native import NativeStack
from stack.parts import PARTS, Part, overruled
from stack.proof import prove_service
from stack.running import Register, Running, started_at
from stack.settings import PORTS, Settings, SettingsError
from stack.standing import StackError

WEB = ("{python}", "-m", "http.server", "--bind", "127.0.0.1", "{service_port}")
SERVICE = Part("service", "SERVICE_PORT", WEB, health="/", settings=("SERVICE_",))
EXPORTER = Part("exporter", "EXPORTER_PORT", (*WEB[:-1], "{exporter_port}"), health="/", needs=("service",))
DYING = Part("exporter", "EXPORTER_PORT", ("{python}", "-c", "raise SystemExit('the cupboard is bare')"), health="/")


def free_ports() -> dict[str, str]:
    """A free port for every port setting."""
    probes = [socket.socket() for _ in PORTS]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = {name: str(probe.getsockname()[1]) for name, probe in zip(PORTS, probes, strict=True)}
    for probe in probes:
        probe.close()
    return ports


def alive(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended and only awaits its parent's notice does not."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


Make = Callable[..., NativeStack]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Stacks of one folder and one set of free ports, taken down at the end."""
    fixed = {**os.environ, **free_ports(), "STACK_DIR": str(tmp_path)}
    yield lambda *parts, **changed: NativeStack(Settings.read({**fixed, **changed}), parts)
    NativeStack(Settings.read(fixed), ()).down()


def recorded(folder: Path) -> dict[str, Running]:
    return Register(folder / "state.json").read()


def test_up_starts_every_part_and_down_leaves_no_process(make: Make, tmp_path: Path) -> None:
    stack = make(SERVICE, EXPORTER)
    assert stack.up()
    standings = stack.status()
    assert [(standing.name, standing.ready) for standing in standings] == [("service", True), ("exporter", True)]
    processes = [process for part in recorded(tmp_path).values() for process in part.processes()]
    assert len(processes) == 2
    assert stack.down() == ["service", "exporter"]
    assert not any(alive(process) for process in processes)
    assert not stack.running()
    assert stack.down() == []


def test_a_second_up_changes_nothing(make: Make, tmp_path: Path) -> None:
    assert make(SERVICE).up()
    before = recorded(tmp_path)
    assert not make(SERVICE).up()
    assert recorded(tmp_path) == before


def test_up_restarts_what_changed_and_what_died_and_only_that(make: Make, tmp_path: Path) -> None:
    make(SERVICE, EXPORTER).up()
    before = recorded(tmp_path)
    assert make(SERVICE, EXPORTER).up() == {}

    os.kill(before["exporter"].pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(before["exporter"].pid)], timeout=10)
    assert make(SERVICE, EXPORTER).up() == {"exporter": "started, it was not running"}
    repaired = recorded(tmp_path)
    assert repaired["service"] == before["service"]
    assert repaired["exporter"].pid != before["exporter"].pid

    moved = free_ports()["SERVICE_PORT"]
    assert make(SERVICE, EXPORTER, SERVICE_PORT=moved).up()
    assert recorded(tmp_path)["service"].port == int(moved)
    assert recorded(tmp_path)["exporter"].pid == repaired["exporter"].pid
    assert not ask(before["service"].port, "/").ready

    told = make(SERVICE, EXPORTER, SERVICE_PORT=moved, SERVICE_FAULTS="on").up()
    assert told == {"service": "restarted, SERVICE_FAULTS is now 'on'"}
    assert recorded(tmp_path)["service"].pid != repaired["service"].pid
    assert recorded(tmp_path)["exporter"].pid == repaired["exporter"].pid

    assert make(SERVICE, SERVICE_PORT=moved).up() == {
        "exporter": "stopped, its program is no longer here",
        "service": "restarted, SERVICE_FAULTS is no longer set",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVICE_FAULTS", "maybe"),
        ("SMARTCACHE_JITTER", "2"),
        ("SMARTCACHE_TAG_TABLE", "nowhere"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "backend:4318"),
    ],
)
def test_a_wrong_setting_leaves_what_runs_alone(name: str, value: str, make: Make, tmp_path: Path) -> None:
    part = replace(SERVICE, settings=("SERVICE_", "SMARTCACHE_", "OTEL_"), prove=prove_service)
    make(part).up()
    before = recorded(tmp_path)
    with pytest.raises(SettingsError, match=f"(?s){value}.*; nothing was changed"):
        make(part, **{name: value}).up()
    assert recorded(tmp_path) == before
    assert ask(before["service"].port, "/").ready


def test_what_the_stack_sets_itself_is_told_when_it_was_given() -> None:
    given = {"SERVICE_HOST": "0.0.0.0", "SMARTCACHE_REDIS_URL": "redis://:tulip@elsewhere", "SERVICE_PORT": "9000"}
    assert overruled(given) == ["SERVICE_HOST", "SMARTCACHE_REDIS_URL"]
    assert overruled({"SERVICE_HOST": "127.0.0.1", "SMARTCACHE_METRICS_DIR": "", "SERVICE_FAULTS": "on"}) == []
    assert overruled({"TRACES_URL": "http://elsewhere:16686"}) == [], "handed on as it is"


def test_rules_are_rendered_for_the_ports_in_force(make: Make, tmp_path: Path) -> None:
    settings = free_ports()
    make(SERVICE, **settings).up()
    rules = (tmp_path / "configuration" / "rules" / "alerts.yml").read_text()
    assert f"http://127.0.0.1:{settings['RECEIVER_PORT']}/runbooks/" in rules
    with pytest.raises(SettingsError, match=r"ALERT_RUNBOOKS_URL='here'.*; nothing was changed"):
        make(SERVICE, **settings, ALERT_RUNBOOKS_URL="here").up()


def test_a_secret_that_changed_is_named_and_not_shown(make: Make, tmp_path: Path) -> None:
    part = replace(SERVICE, settings=("SERVICE_", "GF_", "OTEL_"))
    headers = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=rose"}
    make(part, GF_SECURITY_ADMIN_PASSWORD="tulip", SERVICE_AT="then").up()
    assert "tulip" not in (tmp_path / "state.json").read_text()
    assert (tmp_path / "state.json").stat().st_mode & 0o077 == 0
    told = make(part, GF_SECURITY_ADMIN_PASSWORD="rose", SERVICE_AT="now").up()["service"]
    assert told == "restarted, GF_SECURITY_ADMIN_PASSWORD changed and SERVICE_AT is now 'now'"
    told = make(part, GF_SECURITY_ADMIN_PASSWORD="rose", SERVICE_AT="now", **headers).up()["service"]
    assert told == "restarted, OTEL_EXPORTER_OTLP_HEADERS is new"


def test_a_part_that_lost_its_first_process_is_started_anew(make: Make, tmp_path: Path) -> None:
    leading = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"
    part = Part("service", "SERVICE_PORT", ("{python}", "-c", leading, *WEB[1:]), health="/")
    make(part).up()
    (before,) = recorded(tmp_path).values()
    leader, worker = before.processes()
    leader.kill()
    leader.wait()
    assert alive(worker)
    assert make(part).up() == {"service": "restarted, its first process had ended"}
    assert not alive(worker)
    assert recorded(tmp_path)["service"].pid != before.pid


@pytest.mark.parametrize("damage", ["deleted", "damaged", "of another version"])
def test_what_runs_is_found_without_its_record(damage: str, make: Make, tmp_path: Path) -> None:
    make(SERVICE, EXPORTER).up()
    before = recorded(tmp_path)
    processes = [process for part in before.values() for process in part.processes()]
    if damage == "deleted":
        shutil.rmtree(tmp_path)
    else:
        (tmp_path / "state.json").write_text("[{" if damage == "damaged" else '[{"name": "service", "pid": 1}]')
    assert [standing.ready for standing in make(SERVICE, EXPORTER).status()] == [True, True]
    assert {name: (part.pid, part.started, part.port) for name, part in recorded(tmp_path).items()} == {
        name: (part.pid, part.started, part.port) for name, part in before.items()
    }
    if damage == "damaged":
        assert {*make(SERVICE, EXPORTER).up().values()} == {"restarted, its record was lost"}
    assert {*make(SERVICE, EXPORTER).down()} == {"service", "exporter"}
    assert not any(alive(process) for process in processes)
    assert not make(SERVICE, EXPORTER).running()


def test_valkey_too_is_found_without_its_record(make: Make, tmp_path: Path) -> None:
    valkey = next(part for part in PARTS if part.name == "valkey")
    make(valkey).up()
    (process,) = recorded(tmp_path)["valkey"].processes()
    (tmp_path / "state.json").unlink()
    assert make(valkey).down() == ["valkey"]
    assert not alive(process)


def test_another_stack_is_not_taken_for_this_one(make: Make, tmp_path: Path) -> None:
    make(SERVICE).up()
    settings = Settings.read({**free_ports(), "STACK_DIR": str(tmp_path / "other")})
    assert NativeStack(settings, (SERVICE,)).down() == []
    assert [standing.ready for standing in make(SERVICE).status()] == [True]


def test_a_taken_port_is_said_by_name_before_anything_starts(make: Make, tmp_path: Path) -> None:
    port = int(free_ports()["EXPORTER_PORT"])
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(StackError) as said:
            make(SERVICE, EXPORTER, EXPORTER_PORT=str(port)).up()
        assert f"port {port} of exporter is taken" in str(said.value)
        assert f"(process {os.getpid()})" in str(said.value)
        assert "set EXPORTER_PORT to another port" in str(said.value)
    assert recorded(tmp_path) == {}
    assert not (tmp_path / "logs").exists()


def test_a_part_that_dies_at_start_shows_its_log_and_takes_the_others_down(make: Make, tmp_path: Path) -> None:
    settings = free_ports()
    with pytest.raises(StackError, match=r"exporter ended at start with exit code 1\n(.*\n)*.*the cupboard is bare"):
        make(SERVICE, DYING, **settings).up()
    assert recorded(tmp_path) == {}
    assert not ask(int(settings["SERVICE_PORT"]), "/").ready


def test_a_failed_repair_leaves_what_ran_before(make: Make, tmp_path: Path) -> None:
    make(SERVICE).up()
    before = recorded(tmp_path)
    with pytest.raises(StackError, match="the cupboard is bare"):
        make(SERVICE, DYING).up()
    assert recorded(tmp_path) == before


def test_an_absent_optional_part_says_how_to_get_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    grafana = Part("grafana", "GRAFANA_PORT", ("{grafana}",), health="/", tool="grafana", optional=True)
    stack = make(SERVICE, grafana)
    assert stack.up()
    absent = stack.status()[1]
    assert (absent.name, absent.address, absent.ready) == ("grafana", "", False)
    assert absent.said.startswith("absent: put Grafana's bin folder on the PATH")


def test_a_store_that_hangs_is_down_to_prometheus(make: Make) -> None:
    """redis_exporter itself would wait 15 s, longer than a scrape may take."""
    settings = free_ports()
    part = replace(next(part for part in PARTS if part.name == "redis_exporter"), needs=())
    with socket.create_server(("127.0.0.1", int(settings["VALKEY_PORT"]))):  # connects, and never answers
        make(part, **settings).up()
        page = httpx.get(f"http://127.0.0.1:{settings['REDIS_EXPORTER_PORT']}/metrics", timeout=10).text
    assert "\nredis_up 0\n" in page


def test_grafana_runs_when_its_program_is_here(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Grafana can be fetched for a test; this one answers as it does and tells how it was started."""
    home = tmp_path / "grafana"
    (home / "bin").mkdir(parents=True)
    (home / "conf").mkdir()
    program = home / "bin" / "grafana"
    program.write_text(
        f"#!{sys.executable}\n"
        "import http.server, json, os, sys\n"
        "class Answer(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'{}')\n"
        "print(json.dumps([sys.argv[1:], dict(os.environ)]), flush=True)\n"
        "address = os.environ['GF_SERVER_HTTP_ADDR'], int(os.environ['GF_SERVER_HTTP_PORT'])\n"
        "http.server.HTTPServer(address, Answer).serve_forever()\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    stack = make(next(part for part in PARTS if part.name == "grafana"))
    assert stack.up()
    assert [standing.ready for standing in stack.status()] == [True]
    arguments, environment = json.loads((tmp_path / "logs" / "grafana.log").read_text().splitlines()[0])
    assert arguments == ["server", "--homepath", str(home)]
    assert Path(environment["GF_PATHS_PROVISIONING"], "datasources").is_dir()
    assert [*Path(environment["DASHBOARDS_PATH"]).glob("*.json")]
    assert environment["PROMETHEUS_URL"].startswith("http://127.0.0.1:")


def test_jaeger_runs_when_its_program_is_here_and_the_service_is_told(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Jaeger can be fetched for a test; this one listens where its configuration says."""
    program = tmp_path / "bin" / "jaeger"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        "import http.server, sys, threading, yaml\n"
        "class Answer(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'{}')\n"
        "told = yaml.safe_load(open(sys.argv[1].removeprefix('--config=')))\n"
        "for part in told['extensions']['jaeger_query']['http'], told['receivers']['otlp']['protocols']['http']:\n"
        "    host, port = part['endpoint'].split(':')\n"
        "    server = http.server.HTTPServer((host, int(port)), Answer)\n"
        "    threading.Thread(target=server.serve_forever).start()\n"
    )
    program.chmod(0o755)
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "{otel_exporter_otlp_endpoint}"}
    jaeger, service = next(part for part in PARTS if part.name == "jaeger"), replace(SERVICE, environment=endpoint)
    assert endpoint.items() <= next(part for part in PARTS if part.name == "service").environment.items()

    def told() -> str:
        """What the service that runs now was told."""
        return psutil.Process(recorded(tmp_path)["service"].pid).environ()["OTEL_EXPORTER_OTLP_ENDPOINT"]

    monkeypatch.setenv("PATH", "")
    stack = make(jaeger, service)
    assert stack.up() == {"service": "started"}
    assert [(standing.name, standing.absent) for standing in stack.status()] == [("jaeger", True), ("service", False)]
    assert told() == ""
    monkeypatch.setenv("PATH", str(program.parent))
    assert sorted(stack.up()) == ["jaeger", "service"], "the service too, since it is told another endpoint"
    assert all(standing.ready for standing in stack.status())
    assert httpx.get(told(), timeout=10).status_code == 200
    make(jaeger, service, OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318").up()
    assert told() == "http://collector:4318"


def test_down_never_touches_a_stranger_who_got_the_process_id(make: Make, tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        entry = {"name": "service", "pid": stranger.pid, "started": "1", "port": 1, "fingerprints": {}}
        (tmp_path / "state.json").write_text(json.dumps([entry]))
        assert make(SERVICE).down() == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_workers_that_outlive_their_leader_and_those_that_do_not_listen_are_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    leader = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"],
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    assert leader.stdout is not None
    assert leader.stdout.readline() == b"up\n"
    part = Running("service", leader.pid, started_at(leader.pid) or "", 1, {})
    assert len(part.processes()) == 2
    leader.kill()
    leader.wait()
    leader.stdout.close()
    (orphan,) = part.processes()
    monkeypatch.setattr("stack.running.STOP_WITHIN", 0.2)
    part.stop()
    assert not alive(orphan)
    assert part.processes() == []


def test_a_degraded_part_is_ready_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "readyz").write_text(json.dumps({"degraded": True, "reasons": ["store down"]}))
    port = int(free_ports()["SERVICE_PORT"])
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path), str(port)],
        stderr=subprocess.DEVNULL,
    )
    try:
        while not ask(port, "/").ready:
            assert server.poll() is None
            time.sleep(0.05)
        health = ask(port, "/readyz")
        assert (health.ready, health.said) == (True, "ready, degraded: store down")
        assert ask(port, "/nowhere").said == "/nowhere answered 404"
    finally:
        server.terminate()
        server.wait()

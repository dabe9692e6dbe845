"""What docker-compose.yml promises, checked by parsing it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from stack.parts import PARTS
from stack.settings import PORTS
from stack.tools import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
#: What writes state worth keeping, and where.
STATEFUL = {"prometheus": "/prometheus", "alertmanager": "/alertmanager", "grafana": "/var/lib/grafana"}
#: Programs that the image behind each health check holds; ours hold Python.
ASKS_WITH = {
    "valkey": "valkey-cli",
    "redis_exporter": "wget",  # the alpine variant
    "alertmanager": "wget",  # busybox
    "prometheus": "wget",  # busybox
    "grafana": "curl",
    "jaeger": "wget",  # alpine
}

every_service = pytest.mark.parametrize("name", SERVICES)


def test_the_containers_are_the_parts_of_the_native_stack_the_load_and_the_traces() -> None:
    assert {*SERVICES} == {part.name for part in PARTS} | {"jaeger", "locust"}
    asked_for = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert asked_for == {"jaeger": ["traces"], "locust": ["load"]}


@every_service
def test_each_is_contained(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    user, group = service["user"].split(":")
    assert int(user) > 0, "runs as root"
    assert group.isdecimal()


@every_service
def test_each_is_limited(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert 0 < service["cpus"] <= 2
    assert service["pids_limit"] > 0
    assert service["logging"]["options"] == {"max-size": "5m", "max-file": "2"}


@every_service
def test_each_image_is_pinned_and_can_be_replaced(name: str) -> None:
    variable, image = re.fullmatch(r"\$\{(\w+_IMAGE):-(.+)\}", SERVICES[name]["image"]).groups()  # type: ignore[union-attr]
    assert variable == ("STACK_IMAGE" if "build" in SERVICES[name] else f"{name.upper()}_IMAGE")
    tag = image.rpartition(":")[2]
    assert re.match(r"v?\d+\.\d+\.\d+", tag), f"{image} is not pinned to a version"


@every_service
def test_each_is_asked_for_its_health_by_a_program_its_image_holds(name: str) -> None:
    test = SERVICES[name]["healthcheck"]["test"]
    assert test[0] == "CMD"
    assert test[1] == ASKS_WITH.get(name, "python")
    assert ("build" in SERVICES[name]) == (name not in ASKS_WITH)


@every_service
def test_each_port_is_published_on_loopback_under_its_setting(name: str) -> None:
    settings = {part.name: part.port for part in PARTS} | {"jaeger": "JAEGER_PORT"}
    expected = [settings[name]] if name in settings else ["LOCUST_PORT", "LOCUST_METRICS_PORT"]
    assert SERVICES[name]["ports"] == [
        f"127.0.0.1:${{{setting}:-{PORTS[setting]}}}:{PORTS[setting]}" for setting in expected
    ]


@every_service
def test_each_starts_after_what_it_needs_is_healthy(name: str) -> None:
    needs = next((part.needs for part in PARTS if part.name == name), ())
    awaited = SERVICES[name].get("depends_on", {})
    assert {*needs} <= {*awaited}
    assert all(condition == {"condition": "service_healthy"} for condition in awaited.values())


def test_state_is_kept_in_named_volumes() -> None:
    for name, folder in STATEFUL.items():
        assert f"{name}:{folder}" in SERVICES[name]["volumes"]
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {source for source in mounted if not source.startswith("./")} == {*COMPOSE["volumes"]}


def test_what_is_mounted_from_the_checkout_is_committed_and_read_only() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source, _, mode = (*volume.split(":"), "")[:3]
            if source.startswith("./"):
                assert mode == "ro"
                assert (ROOT / source).exists(), f"{source} is mounted but not there"


def test_service_and_exporter_share_the_folder_of_metrics() -> None:
    folders = {SERVICES[name]["environment"]["SMARTCACHE_METRICS_DIR"] for name in ("service", "exporter")}
    assert len(folders) == 1
    for name in ("service", "exporter"):
        assert f"metrics:{folders.copy().pop()}" in SERVICES[name]["volumes"]


def test_valkey_runs_as_in_the_native_stack() -> None:
    native = next(part for part in PARTS if part.name == "valkey").command
    container = SERVICES["valkey"]["command"]
    assert container[container.index("--save") :] == [*native[native.index("--save") :]]


def test_redis_exporter_gives_up_on_a_store_as_in_the_native_stack() -> None:
    native = next(part for part in PARTS if part.name == "redis_exporter").command
    timeout = SERVICES["redis_exporter"]["environment"]["REDIS_EXPORTER_CONNECTION_TIMEOUT"]
    assert f"--connection-timeout={timeout}" in native


def test_prometheus_and_alertmanager_run_as_in_the_native_stack() -> None:
    for name in ("prometheus", "alertmanager"):
        native = {flag for flag in next(part for part in PARTS if part.name == name).command if "{" not in flag}
        assert native <= {*SERVICES[name]["command"]}


def test_traces_can_be_sent_where_the_environment_says() -> None:
    environment = SERVICES["service"]["environment"]
    handed_on = {name: text for name, text in environment.items() if name.startswith("OTEL_")}
    assert handed_on == {name: f"${{{name}:-}}" for name in handed_on}, "off unless somebody sets it"
    read = re.findall('"(OTEL_[A-Z_]+)"', (ROOT / "exporter" / "otlp.py").read_text())
    assert {"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_COMPRESSION", *read} <= {*handed_on}


def test_grafana_has_no_account_and_no_password() -> None:
    native = next(part for part in PARTS if part.name == "grafana").environment
    container = SERVICES["grafana"]["environment"]
    shared = {name: value for name, value in native.items() if re.match("GF_(AUTH|SECURITY|ANALYTICS|PLUGINS)", name)}
    assert shared.items() <= container.items()
    assert container["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert not any("PASSWORD" in name for name in container)

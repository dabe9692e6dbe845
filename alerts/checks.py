"""Everything that must hold before rules and routing are used, judged by Prometheus's and Alertmanager's own tools."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from alerts.lint import lint
from alerts.routing import render
from stack.tools import find_tool

__all__ = ["CHECKS", "ROUTES", "CheckFailedError"]

_FOLDER: Final = Path(__file__).parent
_RULES: Final = tuple(_FOLDER / "generated" / name for name in ("recording.yml", "alerts.yml"))
#: The receiver that alerts with these labels reach.
ROUTES: Final[Mapping[str, str]] = {
    "alertname=SmartCacheWatchdog severity=none": "watchdog",
    "alertname=SmartCacheServiceDown severity=critical": "page",
    "alertname=SmartCacheHitRatioLow severity=warning": "ticket",
    "alertname=SmartCacheGovernorHighVolatility severity=info": "note",
    "alertname=SomethingElse severity=unheard-of": "ticket",
}


class CheckFailedError(Exception):
    """A check found defects; the message lists them."""


def check_lint() -> str:
    """Judge the rule files by the project's own rules."""
    if defects := lint(*(path.read_text(encoding="utf-8") for path in _RULES)):
        raise CheckFailedError("\n".join(defects))
    return "no defects"


def check_rules() -> str:
    """Let Prometheus parse the rule files."""
    return _last_line(_run("promtool", "check", "rules", *map(str, _RULES)))


def unit_test_rules() -> str:
    """Run the unit tests of the rules."""
    tests = sorted(map(str, (_FOLDER / "tests").glob("*.yml")))
    _run("promtool", "test", "rules", *tests)
    return f"{len(tests)} files"


def check_routing() -> str:
    """Let Alertmanager parse its configuration and route an alert of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "alertmanager.yml"
        config.write_text(render("http://127.0.0.1:9095/alerts"), encoding="utf-8")
        _run("amtool", "check-config", str(config))
        for labels, receiver in ROUTES.items():
            options = (f"--config.file={config}", f"--verify.receivers={receiver}")
            _run("amtool", "config", "routes", "test", *options, *labels.split())
    return f"{len(ROUTES)} routes"


CHECKS: Final[Mapping[str, Callable[[], str]]] = {
    "lint": check_lint,
    "promtool check rules": check_rules,
    "promtool test rules": unit_test_rules,
    "amtool": check_routing,
}


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run([find_tool(tool), *arguments], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise CheckFailedError(f"{tool} {' '.join(arguments)}:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def _last_line(output: str) -> str:
    return output.strip().splitlines()[-1].strip()

"""Generate the rules: ``python -m alerts``; ``--check`` only compares, ``--verify`` also lints and unit-tests them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from alerts.alerting import alerts_file
from alerts.checks import CHECKS, CheckFailedError
from alerts.guide import guide
from alerts.links import Links
from alerts.recording import recording_file
from stack.tools import ToolMissingError

_ROOT = Path(__file__).resolve().parent.parent


def generated(links: Links) -> Mapping[str, str]:
    """Every generated file: its path from the project's root, and its content."""
    return {
        "alerts/generated/recording.yml": recording_file(),
        "alerts/generated/alerts.yml": alerts_file(links),
        "docs/alerts.md": guide(),
    }


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 a check failed or files are out of date, 2 wrong usage or setting."""
    parser = argparse.ArgumentParser(prog="python -m alerts", description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    mode.add_argument("--verify", action="store_true", help="generate, then lint, check and unit-test")
    mode.add_argument("--output", type=Path, metavar="FOLDER", help="write recording.yml and alerts.yml there instead")
    options = parser.parse_args(arguments)
    try:
        files = generated(Links.from_environment(os.environ))
    except ValueError as wrong:
        parser.error(str(wrong))
    if options.check:
        return _compare(files)
    for name, content in files.items():
        if options.output is None:
            _write(_ROOT / name, content)
        elif name.endswith(".yml"):
            _write(options.output / Path(name).name, content)
    return _verify() if options.verify else 0


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    print(f"wrote {path}")


def _compare(files: Mapping[str, str]) -> int:
    stale = [
        name
        for name, content in files.items()
        if not (path := _ROOT / name).exists() or path.read_text(encoding="utf-8") != content
    ]
    for name in stale:
        print(f"{name} is out of date: run make alerts and commit it", file=sys.stderr)
    return 1 if stale else 0


def _verify() -> int:
    for name, check in CHECKS.items():
        try:
            print(f"{name}: {check()}")
        except (CheckFailedError, ToolMissingError) as failed:
            print(f"{name} failed:\n{failed}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

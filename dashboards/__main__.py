"""``python -m dashboards`` writes the dashboards and the page of metrics; ``--check`` only tells what would change."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from dashboards import classic, lint, metrics_page
from dashboards.overview import overview

ROOT = Path(__file__).parent.parent
GENERATED = ROOT / "dashboards" / "generated"


def files() -> Mapping[Path, str]:
    """What is generated: text by path."""
    dashboards = [overview()]
    return {
        **{GENERATED / f"{dashboard.uid}.json": classic.render(dashboard) for dashboard in dashboards},
        ROOT / "docs" / "metrics.md": metrics_page.page(),
    }


def main(arguments: list[str] | None = None) -> int:
    """Write or check the files; 0 when all is well, 1 when a dashboard is wrong or a file is not as generated."""
    parser = argparse.ArgumentParser(prog="python -m dashboards", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is not as generated")
    check = parser.parse_args(arguments).check

    wanted = files()
    problems = lint.problems([json.loads(text) for path, text in wanted.items() if path.suffix == ".json"])
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
    stale += [path for path in sorted(GENERATED.glob("*.json")) if path not in wanted]
    for problem in problems:
        print(problem, file=sys.stderr)
    if check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not as generated: run python -m dashboards", file=sys.stderr)
        return 1 if problems or stale else 0
    if problems:
        return 1
    for path in stale:
        if path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], "utf-8")
        else:
            path.unlink()
        print(f"{'wrote' if path in wanted else 'removed'} {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Who is told of what: Alertmanager's configuration, with the receiver's address filled in.

``python -m alerts.routing http://127.0.0.1:9095/alerts`` prints it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from string import Template
from typing import Final
from urllib.parse import urlsplit

__all__ = ["render"]

_TEMPLATE: Final = Path(__file__).with_name("alertmanager.yml")


def render(receiver_url: str) -> str:
    """Alertmanager's configuration, sending every notification to ``receiver_url``.

    Raises:
        ValueError: the address is not an absolute http or https one.
    """
    parts = urlsplit(receiver_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or set(receiver_url) & set('"\\\n '):
        raise ValueError(f"receiver address {receiver_url!r} is none: give one such as http://127.0.0.1:9095/alerts")
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(receiver_url=receiver_url)


def main(arguments: list[str]) -> int:
    """Print the configuration; 2 on wrong usage."""
    try:
        (receiver_url,) = arguments
        sys.stdout.write(render(receiver_url))
    except ValueError as wrong:
        reason = wrong if len(arguments) == 1 else f"one receiver address is needed, {len(arguments)} given"
        print(f"alerts.routing: {reason}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

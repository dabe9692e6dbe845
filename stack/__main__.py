"""``python -m stack tools``: fetch the programs that are not Python."""

from __future__ import annotations

import sys

from stack.tools import TOOLS, ToolMissingError, find_tool


def main() -> int:
    """Run the command; 0 done, 1 it failed, 2 usage."""
    if sys.argv[1:] != ["tools"]:
        print("usage: python -m stack tools", file=sys.stderr)
        return 2
    try:
        for name, tool in TOOLS.items():
            if tool.package is not None:
                print(f"{name}: {find_tool(name)}")
    except ToolMissingError as missing:
        print(f"stack: {missing}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

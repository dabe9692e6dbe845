"""``python -m alerts.receiver``: takes Alertmanager's webhooks and shows what on-call would get, and the runbooks."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import jinja2
import msgspec
from markdown_it import MarkdownIt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from alerts.inbox import HEARTBEAT_LIMIT, WATCHDOG, Entry, Inbox, read_notification
from exporter.serving import AddressError, check_address, read_port, serve

__all__ = ["create_app", "main"]

#: Alerts kept in memory.
_LIMIT: Final = 200
#: Largest webhook body taken, in bytes; a notification of a few hundred alerts is far smaller.
_LARGEST_BODY: Final = 4 * 1024 * 1024
_RUNBOOKS: Final = Path(__file__).resolve().parent.parent / "docs" / "runbooks"
_PAGES: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_HEADERS: Final = {
    # The pages need their own style and nothing else.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def create_app(inbox: Inbox, runbooks: Path) -> Starlette:
    """The receiver over an inbox and a folder of runbooks, one Markdown file for each alert."""
    # Raw HTML in Markdown stays text.
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    known = frozenset(path.stem for path in runbooks.glob("*.md"))

    async def take(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LARGEST_BODY:
                return PlainTextResponse(f"the body is larger than {_LARGEST_BODY} bytes\n", 413)
        try:
            notification = read_notification(bytes(body))
        except ValueError as wrong:
            return PlainTextResponse(f"{wrong}\n", 400)
        for entry in inbox.take(notification):
            _log(entry)
        return PlainTextResponse("")

    async def page(_: Request) -> Response:
        silence = inbox.silent_for()
        entries = inbox.entries()
        return _page(
            "inbox.tmpl",
            entries=entries,
            runbooks={entry.runbook_url: _nearest(entry.runbook_url, known) for entry in entries},
            firing=sum(entry.status == "firing" for entry in entries),
            silence=None if silence is None else int(silence.total_seconds()),
            alive=silence is not None and silence <= HEARTBEAT_LIMIT,
        )

    async def api(_: Request) -> Response:
        content = {"heartbeat": inbox.heartbeat, "alerts": [asdict(entry) for entry in inbox.entries()]}
        return Response(msgspec.json.encode(content), media_type="application/json")

    # Not async: these read files, and so run in a thread.
    def runbook_list(_: Request) -> Response:
        names = sorted(path.stem for path in runbooks.glob("*.md"))
        return _page("runbook.tmpl", title="Runbooks", body=None, names=names)

    def runbook(request: Request) -> Response:
        # Links between runbooks name files, so that they work in a checkout too.
        name = request.path_params["name"].removesuffix(".md")
        path = runbooks / f"{name}.md"
        if not re.fullmatch(r"\w+", name) or not path.is_file():
            return PlainTextResponse(f"no runbook is called {name!r}; /runbooks lists them\n", 404)
        body = markdown.render(path.read_text(encoding="utf-8"))
        return _page("runbook.tmpl", title=name, body=body, names=[])

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(
        routes=[
            Route("/", page),
            Route("/alerts", take, methods=["POST"]),
            Route("/api/alerts", api),
            Route("/healthz", healthy),
            Route("/runbooks", runbook_list),
            Route("/runbooks/{name}", runbook),
        ]
    )


def _nearest(address: str, known: Set[str]) -> str:
    """Where a runbook is: here when this receiver has it, at whatever address it is reached."""
    folder, _, name = address.rpartition("/")
    return f"/runbooks/{name}" if folder.endswith("/runbooks") and name in known else address


def _page(template: str, **values: object) -> Response:
    return HTMLResponse(_PAGES.get_template(template).render(values), headers=_HEADERS)


def _log(entry: Entry) -> None:
    if entry.name != WATCHDOG:
        # Quoted, since a summary is text from elsewhere and a line must stay one line.
        summary = msgspec.json.encode(entry.summary).decode()
        print(
            f"{entry.received:%FT%TZ} {entry.status} {entry.severity} {entry.name} to={entry.receiver} {summary}",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run the receiver; it ends with 0 when it was told to stop and answers 2 when it cannot start."""
    parser = argparse.ArgumentParser("python -m alerts.receiver", description=__doc__)
    parser.add_argument(
        "--host", default=environment.get("RECEIVER_HOST", "127.0.0.1"), help="RECEIVER_HOST, 127.0.0.1"
    )
    parser.add_argument("--port", default=environment.get("RECEIVER_PORT", "9095"), help="RECEIVER_PORT, 9095")
    options = parser.parse_args(arguments)
    try:
        port = read_port(options.port, "RECEIVER_PORT")
        check_address(options.host, port, "RECEIVER")
    except AddressError as wrong:
        print(f"alert receiver: {wrong}", file=sys.stderr)
        return 2
    app = create_app(Inbox(_LIMIT, lambda: datetime.now(UTC)), _RUNBOOKS)
    return serve(app, options.host, port, f"alert receiver: ready on http://{options.host}:{port}")


if __name__ == "__main__":
    sys.exit(main())

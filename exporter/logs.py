"""Logs as JSON: one object a line on standard error, of structlog's loggers and of the standard library's alike.

Each line names the trace and the span it was written in, if that is recorded, and no secret: passwords in URLs,
authorization headers and tokens are taken out of every text, and what goes by a secret name is not shown at all.
"""

from __future__ import annotations

import json
import logging
import logging.config
import math
import sys
from collections.abc import Mapping
from typing import Any, Final

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

from smartcache.redaction import REDACTED, is_secret, redact
from smartcache.tracing import current

__all__ = ["CONFIG", "json_formatter", "redact_secrets", "set_up_logs", "trace_ids"]

#: For :func:`logging.config.dictConfig`, and for servers that take such a thing.
CONFIG: Final[dict[str, Any]] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "exporter.logs.json_formatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    # granian's, which have handlers of their own by default.
    "loggers": {name: {"handlers": [], "propagate": True} for name in ("_granian", "granian.access")},
}


def set_up_logs() -> None:
    """Let everything that this process logs, Python's warnings included, be JSON on standard error."""
    logging.config.dictConfig(CONFIG)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*_CHAIN, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


class JsonFormatter(ProcessorFormatter):
    """Turns every record into a line, one whose content cannot be shown too."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; it never raises, since logging would show the arguments as they are, or the caller fail."""
        try:
            return super().format(record)
        except Exception as error:
            told = {"level": record.levelname.lower(), "logger": record.name, "error": type(error).__name__}
            return json.dumps(
                {**told, "event": f"what was logged in {record.filename}:{record.lineno} cannot be shown"}
            )


def json_formatter() -> logging.Formatter:
    """What turns a record into a line."""
    return JsonFormatter(
        foreign_pre_chain=_CHAIN,
        processors=[
            ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            redact_secrets,
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
    )


def trace_ids(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Name the trace and the span in which the line is written, one of the application's own too."""
    span = current.get()
    if (otel := sys.modules.get("opentelemetry.trace")) is not None:
        context = otel.get_current_span().get_span_context()
        if context.trace_flags.sampled:
            event["trace_id"] = otel.format_trace_id(context.trace_id)
            event["span_id"] = otel.format_span_id(context.span_id)
            return event
    if span.sampled:
        event["trace_id"], event["span_id"] = span.trace_id, span.span_id
    return event


def redact_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Take every secret out of a line, however deep it lies."""
    return {name: _redacted(value, name) for name, value in event.items()}


def _redacted(value: Any, name: str = "", depth: int = 0) -> Any:
    """What JSON can carry of a value, without a secret."""
    if is_secret(name):
        return REDACTED
    if isinstance(value, str):
        return redact(value)
    if value is None or isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, int) and value.bit_length() <= _LONGEST_INTEGER:
        return int(value)
    if depth < _DEEPEST:
        if isinstance(value, Mapping):
            return {redact(str(key)): _redacted(inner, str(key), depth + 1) for key, inner in value.items()}
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str | bytes):  # a header, say
            return [_redacted(value[0], "", depth + 1), _redacted(value[1], str(value[0]), depth + 1)]
        if isinstance(value, list | tuple | set | frozenset):
            return [_redacted(inner, "", depth + 1) for inner in value]
    try:
        return redact(repr(value))
    except Exception as error:
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


#: Containers within containers that are shown piece by piece; one may hold itself.
_DEEPEST: Final = 16
#: In bits. Python refuses to write very long ones in decimal digits.
_LONGEST_INTEGER: Final = 1024

_CHAIN: Final[list[Processor]] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.CallsiteParameterAdder({structlog.processors.CallsiteParameter.PROCESS}),
    trace_ids,
]

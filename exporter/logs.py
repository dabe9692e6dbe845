"""Logs as JSON: one object a line on standard error, of structlog's loggers and of the standard library's alike.

Each line names the trace and the span it was written in, if that is recorded, and no secret: passwords in URLs,
authorization headers and tokens are taken out of every text, and what goes by a secret name is not shown at all.
"""

from __future__ import annotations

import logging
import logging.config
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


def json_formatter() -> logging.Formatter:
    """What turns a record into a line."""
    return ProcessorFormatter(
        foreign_pre_chain=_CHAIN,
        processors=[
            ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            redact_secrets,
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
    )


def trace_ids(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Name the trace and the span in which the line is written."""
    span = current.get()
    if span.sampled:
        event["trace_id"], event["span_id"] = span.trace_id, span.span_id
    return event


def redact_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Take every secret out of a line, however deep it lies."""
    return {name: REDACTED if is_secret(name) else _redacted(value) for name, value in event.items()}


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: REDACTED if is_secret(str(name)) else _redacted(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact(repr(value))


_CHAIN: Final[list[Processor]] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.CallsiteParameterAdder({structlog.processors.CallsiteParameter.PROCESS}),
    trace_ids,
]

"""A registry's page as prometheus-client writes it, in the format and compression that a request asks for.

Writing takes longer than all the rest of a scrape, and from one to the next hardly more than the figures change: only
those are written anew where nothing else has changed.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.openmetrics.exposition import ALLOWUTF8, DOTS
from prometheus_client.openmetrics.exposition import generate_latest as write_openmetrics
from prometheus_client.utils import floatToGoString
from starlette.responses import Response

__all__ = ["Pages", "choose_format"]

_END: Final = b"# EOF\n"
#: Timestamp, exemplar and native histogram of a sample that has none.
_BARE: Final = (None, None, None)
#: Small enough for any network at a fraction of the time of the smallest.
_COMPRESSION: Final = 3
#: Whether it is OpenMetrics, and whether names are escaped with dots.
_Format = tuple[bool, bool]


def choose_format(accept: str) -> tuple[Callable[..., bytes], str]:
    """What writes the format that an ``Accept`` header asks for, and its content type; text where none can be read."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no number
        return choose_encoder("")


class _Written(NamedTuple):
    """A family as it stands on a page: some lines about it, then one for each sample."""

    metric: Metric
    lines: list[bytes]


class _One(NamedTuple):
    """A registry of one family."""

    metric: Metric

    def collect(self) -> Iterator[Metric]:
        yield self.metric


class Pages:
    """The pages of a registry; several threads may ask for one.

    Args:
        registry: what to write. It must not change a metric that it has handed over.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry: Final = registry
        #: By format and name of a family, how it was written last. A content type repeats whatever version a request
        #: named, so it is none of the formats, of which there are four.
        self._written: Final[dict[tuple[_Format, str], _Written]] = {}

    def page(self, accept: str, accept_encoding: str) -> Response:
        """Collect and write.

        Args:
            accept: the header of a request, which chooses between the text format and OpenMetrics.
            accept_encoding: the same, whether it may be compressed.
        """
        encode, content_type = choose_format(accept)
        openmetrics = content_type.startswith("application/openmetrics-text")
        end = _END if openmetrics else b""
        dots = content_type.endswith(f"escaping={DOTS}")
        if openmetrics and not dots:
            # Names that another escaping would change there are none here, and looking for them letter by letter takes
            # longer than the rest of the page.
            encode = partial(write_openmetrics, escaping=ALLOWUTF8)
        lines = [
            line
            for metric in self._registry.collect()
            for line in self._write(metric, (openmetrics, dots), encode, end).lines
        ]
        body = b"\n".join((*lines, end))
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if gzip_accepted(accept_encoding):
            body = gzip.compress(body, compresslevel=_COMPRESSION)
            headers["Content-Encoding"] = "gzip"
        return Response(body, headers=headers)

    def _write(self, metric: Metric, format_: _Format, encode: Callable[..., bytes], end: bytes) -> _Written:
        held = self._written.get((format_, metric.name))
        if held is not None and held.metric is metric:
            return held
        if held is not None and _alike(held.metric, metric):
            lines = [*held.lines]
            # Counted from the end, where the samples are.
            for place, (before, now) in enumerate(
                zip(held.metric.samples, metric.samples, strict=True), -len(metric.samples)
            ):
                if before.value != now.value:
                    figure: str = floatToGoString(now.value)  # type: ignore[no-untyped-call]
                    lines[place] = lines[place][: lines[place].rindex(b" ") + 1] + figure.encode()
        else:
            lines = encode(_One(metric)).removesuffix(end).split(b"\n")[:-1]
        written = self._written[format_, metric.name] = _Written(metric, lines)
        return written


def _alike(before: Metric, now: Metric) -> bool:
    """Whether the two differ in the values of their samples alone, each line of which ends with its value."""
    return (before.documentation, before.type, before.unit, len(before.samples)) == (
        now.documentation,
        now.type,
        now.unit,
        len(now.samples),
    ) and not any(
        one.name != other.name or one.labels != other.labels or one[3:] != _BARE or other[3:] != _BARE
        for one, other in zip(before.samples, now.samples, strict=True)
    )

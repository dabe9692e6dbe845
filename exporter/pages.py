"""A registry's page as prometheus-client writes it, in the format and compression that a request asks for.

Writing takes longer than all the rest of a scrape, and most samples are what they were at the one before: only those
that changed are written anew.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.openmetrics.exposition import ALLOWUTF8, DOTS
from prometheus_client.openmetrics.exposition import generate_latest as write_openmetrics
from prometheus_client.samples import Sample
from starlette.responses import Response

__all__ = ["Pages", "choose_format"]

_END: Final = b"# EOF\n"
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

        def lines(samples: Sequence[Sample]) -> list[bytes]:
            some = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            some.samples = list(samples)
            return encode(_One(some)).removesuffix(end).split(b"\n")[:-1]

        if held is None or not _alike(held.metric, metric):
            written = _Written(metric, lines(metric.samples))
        else:
            written = _Written(metric, [*held.lines])
            # Counted from the end, where the samples are.
            places = [
                place - len(metric.samples)
                for place, (before, now) in enumerate(zip(held.metric.samples, metric.samples, strict=True))
                if before != now
            ]
            anew = lines([metric.samples[place] for place in places])
            for place, line in zip(places, anew[len(anew) - len(places) :], strict=True):
                written.lines[place] = line
        self._written[format_, metric.name] = written
        return written


def _alike(before: Metric, now: Metric) -> bool:
    """Whether a sample of one can stand in the place of the other's."""
    return (before.documentation, before.type, before.unit, len(before.samples)) == (
        now.documentation,
        now.type,
        now.unit,
        len(now.samples),
    )

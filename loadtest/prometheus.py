"""Reading what Prometheus holds, through its HTTP API."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

_TIMEOUT: Final = 10.0
#: How the names of counters, and of the counters in histograms, end.
_COUNTED: Final = ("_total", "_bucket", "_count", "_sum")


class PrometheusError(Exception):
    """Prometheus does not answer, or not with what was asked."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One series' value at one instant."""

    name: str
    labels: Mapping[str, str]
    value: float


def _identity(sample: Sample) -> tuple[object, ...]:
    return (sample.name, *sorted(sample.labels.items()))


class Reading:
    """The values of many series at one instant."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._by_name: dict[str, list[Sample]] = {}
        for sample in samples:
            self._by_name.setdefault(sample.name, []).append(sample)

    def __iter__(self) -> Iterator[Sample]:
        return (sample for samples in self._by_name.values() for sample in samples)

    def series(self, name: str) -> Sequence[Sample]:
        """The series of ``name``; none is an empty sequence."""
        return self._by_name.get(name, ())

    def total(self, name: str, **labels: str | Iterable[str]) -> float:
        """Sum of the series of ``name`` whose labels are as given, each one value or several; 0 when there is none."""
        wanted = {key: {value} if isinstance(value, str) else set(value) for key, value in labels.items()}
        return math.fsum(
            sample.value
            for sample in self._by_name.get(name, ())
            if all(sample.labels.get(key) in values for key, values in wanted.items())
        )

    def since(self, earlier: Reading) -> Reading:
        """What counters gained since an earlier reading, one it did not have from zero; gauges as they stand now."""
        before = {_identity(sample): sample.value for sample in earlier if sample.name.endswith(_COUNTED)}
        return Reading(replace(sample, value=sample.value - before.get(_identity(sample), 0.0)) for sample in self)

    def quantile(self, histogram: str, quantile: float, **labels: str | Iterable[str]) -> float | None:
        """Quantile (0 to 1) of a histogram, in its unit, as Prometheus would interpolate it; None when it is empty."""
        # The text of an edge differs between versions ("1" and "1.0"), its value does not.
        texts: dict[float, set[str]] = {}
        for sample in self.series(f"{histogram}_bucket"):
            texts.setdefault(float(sample.labels["le"]), set()).add(sample.labels["le"])
        edges = sorted(texts)
        below = [self.total(f"{histogram}_bucket", le=texts[edge], **labels) for edge in edges]
        if not below or below[-1] == 0:
            return None
        rank = quantile * below[-1]
        place = next(index for index, count in enumerate(below) if count >= rank)
        low, under = (edges[place - 1], below[place - 1]) if place else (0.0, 0.0)
        if math.isinf(edges[place]):
            return low
        return low + (edges[place] - low) * (rank - under) / (below[place] - under)


class Prometheus:
    """A Prometheus server.

    Args:
        url: its base address.
        sleep: how to wait; seconds.
    """

    def __init__(self, url: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._url = url.rstrip("/")
        self._sleep = sleep

    def query(self, expression: str) -> list[Sample]:
        """The vector that an expression has now; PrometheusError when there is no answer or it is no vector."""
        data = self._get("query", {"query": expression})
        if data["resultType"] != "vector":
            raise PrometheusError(f"{expression!r} gives a {data['resultType']}, expected a vector")
        return [
            Sample(series["metric"].get("__name__", ""), series["metric"], float(series["value"][1]))
            for series in data["result"]
        ]

    def read(self, job: str) -> Reading:
        """Every series that a job's scrapes gave."""
        return Reading(self.query(f'{{__name__=~"smartcache_.+",job="{job}"}}'))

    def read_at_rest(self, job: str, scrapes: int = 2, timeout: float = 60.0) -> Reading:
        """Every series of a job once ``scrapes`` more scrapes have passed and nobody asks for anything.

        Raises:
            PrometheusError: no such scrapes within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        seen = self._last_scrape(job)
        passed = 0
        while passed < scrapes:
            if time.monotonic() > deadline:
                raise PrometheusError(f"{self._url}: job {job!r} was scraped {passed} times in {timeout:g} s")
            self._sleep(0.5)
            latest = self._last_scrape(job)
            if latest != seen:
                seen, passed = latest, passed + 1
        return self.read(job)

    def _last_scrape(self, job: str) -> float:
        scraped = self.query(f'max(timestamp(smartcache_requests_total{{job="{job}"}}))')
        return scraped[0].value if scraped else 0.0

    def _get(self, endpoint: str, parameters: Mapping[str, str]) -> Any:
        address = f"{self._url}/api/v1/{endpoint}?{urlencode(parameters)}"
        try:
            with urlopen(address, timeout=_TIMEOUT) as answer:
                return json.load(answer)["data"]
        except HTTPError as error:
            raise PrometheusError(f"{self._url}: {error.code} {error.read(300).decode(errors='replace')}") from None
        except (URLError, OSError) as error:
            raise PrometheusError(f"{self._url}: {getattr(error, 'reason', error)}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise PrometheusError(f"{self._url}: not an answer of Prometheus ({error!r})") from None

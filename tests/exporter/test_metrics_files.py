"""Files come, go, die and rot; what they once said stays counted."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import struct
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from scraping import Page, Scraper, Writer, check_laws, summed, value

from exporter import ended
from exporter.files import MetricsFiles
from smartcache.catalogue import FAMILY, STRATEGIES, VIX_STATUSES, ZONES
from smartcache.layout import OUTCOME, OUTCOMES
from smartcache.metrics import CacheMetrics
from smartcache.metrics_file import MAGIC, cells_start, new_name, parse_header
from smartcache.testing import VirtualClock


def states(page: Page) -> tuple[float, float, float]:
    live, dead, unreadable = (value(page, "smartcache_processes", state=s) for s in ("live", "dead", "unreadable"))
    return live, dead, unreadable


def test_a_file_that_another_version_left_is_told_and_blinds_no_counter(tmp_path: Path) -> None:
    other = MAGIC[:-1] + bytes([MAGIC[-1] - 1])
    (tmp_path / new_name()).write_bytes(other + b"whatever that version had")
    scraper = Scraper(tmp_path)
    with Writer(tmp_path) as writer:
        writer.record(5)
        page = scraper.scrape()
        assert states(page) == (1, 0, 1)
        assert summed(page, "smartcache_requests_total") == 5


def test_processes_are_added_up_and_a_killed_one_keeps_its_share(tmp_path: Path) -> None:
    scraper = Scraper(tmp_path)
    with Writer(tmp_path) as first, Writer(tmp_path) as second:
        first.record(5)
        second.record(7, "bypass_panic", status="panic")
        page = scraper.scrape()
        assert states(page) == (2, 0, 0)
        assert value(page, "smartcache_requests_total", strategy="compute", zone="golden") == 5
        assert value(page, "smartcache_vix_bypasses_total") == 7
        assert value(page, "smartcache_memory_entries") == 12
        assert value(page, "smartcache_request_duration_max_seconds") == 0.25

        second.record(1, "bypass_panic", status="panic")
        second.end(signal.SIGKILL)
        page = scraper.scrape()
        assert states(page) == (1, 1, 0)
        assert value(page, "smartcache_vix_bypasses_total") == 8
        assert value(page, "smartcache_memory_entries") == 5, "a dead process holds nothing any more"

        with Writer(tmp_path) as third:
            third.record(2)
            page = scraper.scrape()
            assert states(page) == (2, 1, 0)
            assert summed(page, "smartcache_requests_total") == 15
            assert summed(page, "smartcache_request_duration_seconds_count") == 15
        first.end(signal.SIGTERM)
    page = scraper.scrape()
    assert states(page) == (0, 3, 0)
    assert summed(page, "smartcache_requests_total") == 15
    assert "smartcache_request_duration_max_seconds" not in {name for name, _ in page}
    # An exporter that starts now finds the same.
    fresh = Scraper(tmp_path).scrape()
    assert {k: v for k, v in fresh.items() if "exporter" not in k[0]} == {
        k: v for k, v in page.items() if "exporter" not in k[0]
    }


def test_the_histogram_takes_no_request_for_its_own_that_sampling_keeps_out(tmp_path: Path) -> None:
    count, scraper = "smartcache_request_duration_seconds_count", Scraper(tmp_path)
    killed = CacheMetrics(tmp_path)
    killed._ints[killed.layout.cells_of("absent")[0]] += 1  # killed before the latency was sorted into a bucket
    killed.close()
    thinned = CacheMetrics(tmp_path)
    thinned.set_latency_sampling(0.1)
    assert summed(scraper.scrape(), count) == 1
    for strategy, outcome in (("compute", "absent"), ("serve_fresh", "fresh_memory")):
        thinned._ints[thinned.layout.cells_of(outcome)[0]] += 1  # under way
        assert summed(scraper.scrape(), count) == 1
        thinned._ints[thinned.layout.unsampled + STRATEGIES.index(strategy)] += 1
        assert summed(scraper.scrape(), count) == 1
    thinned.set_latency_sampling(1.0)
    thinned.close()
    assert ended.fold(tmp_path) == 2
    assert summed(scraper.scrape(), count) == 1
    assert summed(scraper.scrape(), "smartcache_requests_total") == 3


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    tail = 8 * 1000
    match how:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "short of one cell":
            path.write_bytes(content[:-8])
        case "empty":
            path.write_bytes(b"")
        case "foreign":
            path.write_bytes(b"\x7fELF" + content[4:])
        case "header torn":
            path.write_bytes(content[:500] + b"\0" * 100 + content[600:])
        case "header of another program":
            path.write_bytes(MAGIC + (2).to_bytes(8, "little") + b"[]" + content[18:])
        case "header too long":
            path.write_bytes(MAGIC + b"\xff" * 8 + content[16:])
        case "cells of noise":
            path.write_bytes(content[:-tail] + bytes(range(256)) * (tail // 256) + b"\x55" * (tail % 256))
        case "sums without end":
            header, description = parse_header(content)
            start, end = (cells_start(header) + 8 * description[part] for part in ("counts", "sums"))
            path.write_bytes(content[:start] + struct.pack("d", math.inf) * ((end - start) // 8) + content[end:])
        case "cells of zeros":
            path.write_bytes(
                content[: -8 * CacheMetrics(None, {"competition": ("E0",)}).layout.cells].ljust(len(content), b"\0")
            )
        case "a folder":
            path.unlink()
            path.mkdir()
        case "a pipe":
            path.unlink()
            os.mkfifo(path)
        case "a link to a folder":
            path.unlink()
            path.symlink_to(path.parent)
    if path.is_file():
        os.utime(path, (1, 1))  # so that the change shows, however coarse the clock of the file system


WAYS = (
    "truncated",
    "short of one cell",
    "empty",
    "foreign",
    "header torn",
    "header of another program",
    "header too long",
    "cells of noise",
    "sums without end",
    "cells of zeros",
    "a folder",
    "a pipe",
    "a link to a folder",
)


@pytest.mark.parametrize("how", WAYS)
def test_a_spoilt_file_counts_with_what_it_last_said(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    scraper = Scraper(tmp_path)
    with Writer(tmp_path) as writer:
        writer.record(3)
        page = scraper.scrape()
        assert value(page, "smartcache_exporter_up") == 1
        writer.record(4)
    page = scraper.scrape()
    assert summed(page, "smartcache_requests_total") == 7
    good = writer.path.read_bytes()

    spoil(writer.path, how)
    for _ in range(2):
        page = scraper.scrape()
        assert states(page) == (0, 0, 1)
        assert summed(page, "smartcache_requests_total") == 7
        assert value(page, "smartcache_exporter_up") == 0
        assert value(page, "smartcache_exporter_scrape_errors") == 1
    said = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1, "said once, not with every scrape"
    assert str(writer.path) in said[0].getMessage()

    if writer.path.is_dir() and not writer.path.is_symlink():
        writer.path.rmdir()
    else:
        writer.path.unlink()
    writer.path.write_bytes(good)
    page = scraper.scrape()
    assert states(page) == (0, 1, 0)
    assert summed(page, "smartcache_requests_total") == 7
    assert value(page, "smartcache_exporter_up") == 1
    assert value(page, "smartcache_exporter_scrape_errors") == 0


@pytest.mark.parametrize("how", ["the file", "the folder", "another in its place"])
def test_a_file_that_is_taken_away_comes_back_with_all_it_held(tmp_path: Path, how: str) -> None:
    folder, clock = tmp_path / "metrics", VirtualClock()
    scraper, metrics = Scraper(folder_made(folder)), CacheMetrics(folder, clock=clock)
    computes, cells = metrics.counter("smartcache_computes_total", outcome="success"), metrics.layout.cells_of("absent")

    def record(times: int) -> None:
        for _ in range(times):
            metrics.recorder.request(cells, STRATEGIES.index("compute"), 0.25, clock.monotonic())
        computes.add(times)

    record(3)
    path = metrics.path
    assert path is not None
    assert summed(scraper.scrape(), "smartcache_requests_total") == 3
    if how == "the folder":
        shutil.rmtree(folder)
    else:
        path.unlink()
    if how == "another in its place":
        path.write_bytes(b"garbage")
    record(4)
    clock.advance(5)
    with pytest.warns(RuntimeWarning, match="was taken away, and was made anew with all that it held"):
        record(1)
    record(2)
    for reader in (scraper, Scraper(folder)):
        page = reader.scrape()
        assert states(page) == (1, 0, 0)
        for family in ("smartcache_requests_total", "smartcache_request_duration_seconds_count"):
            assert summed(page, family) == 10, family
        assert value(page, "smartcache_computes_total", outcome="success") == 10
        assert summed(page, "smartcache_request_duration_seconds_sum") == 2.5
    metrics.close()
    assert states(scraper.scrape()) == (0, 1, 0)
    path.unlink()
    clock.advance(5)
    record(1)
    assert not path.exists(), "a recorder that was closed leaves it"


def test_a_file_that_cannot_be_made_anew_costs_a_warning(tmp_path: Path) -> None:
    folder, clock = tmp_path / "metrics", VirtualClock()
    metrics = CacheMetrics(folder_made(folder), clock=clock)
    metrics.record_latency(1)
    shutil.rmtree(folder)
    folder.touch()
    clock.advance(5)
    with pytest.warns(RuntimeWarning, match="was taken away and cannot be made anew"):
        metrics.record_latency(1)
    assert metrics.get_stats()["total_requests"] == 2
    folder.unlink()
    clock.advance(5)
    with pytest.warns(RuntimeWarning, match="was made anew"):
        metrics.record_latency(1)
    assert summed(Scraper(folder).scrape(), "smartcache_requests_total") == 3


def folder_made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("how", WAYS)
def test_an_exporter_that_restarts_while_a_file_is_spoilt_shows_no_sum_that_fell(tmp_path: Path, how: str) -> None:
    scraper = Scraper(tmp_path)
    with Writer(tmp_path) as good, Writer(tmp_path) as bad:
        good.record(3)
        bad.record(4)
        bad.end(signal.SIGKILL)
        content = bad.path.read_bytes()
        assert summed(scraper.scrape(), "smartcache_requests_total") == 7
        if how == "cells of zeros":  # says that nothing happened, which cannot be told from the truth
            return
        spoil(bad.path, how)
        scraper.exporter_restarts()
        for _ in range(2):
            page = scraper.scrape()
            assert states(page) == (1, 0, 1)
            assert value(page, "smartcache_exporter_up") == 0
            assert value(page, "smartcache_memory_entries") == 3, "gauges may stay"
            kinds = {FAMILY[name].kind for name, _ in page if name in FAMILY and not FAMILY[name].by_exporter}
            assert kinds == {"gauge"}
        good.record(1)
        (shutil.rmtree if bad.path.is_dir() and not bad.path.is_symlink() else Path.unlink)(bad.path)
        bad.path.write_bytes(content)
        page = scraper.scrape()
    assert value(page, "smartcache_exporter_up") == 1
    assert summed(page, "smartcache_requests_total") == 8


def test_a_file_that_no_process_can_have_named_costs_only_itself(tmp_path: Path) -> None:
    for name in ("garbage.metrics", "0123456789abcdef0.metrics", "0123456789ABCDEF.metrics"):
        (tmp_path / name).write_bytes(b"garbage")
    with Writer(tmp_path) as writer:
        writer.record(3)
        page = Scraper(tmp_path).scrape()
    assert states(page) == (1, 0, 3)
    assert value(page, "smartcache_exporter_up") == 0
    assert summed(page, "smartcache_requests_total") == 3


def test_a_file_that_comes_spoilt_blinds_no_exporter_that_knew_all_before(tmp_path: Path) -> None:
    scraper = Scraper(tmp_path)
    with Writer(tmp_path) as writer:
        writer.record(3)
        assert summed(scraper.scrape(), "smartcache_requests_total") == 3
        (tmp_path / new_name()).touch()
        for total in (5, 7):
            writer.record(2)
            page = scraper.scrape()
            assert states(page) == (1, 0, 1)
            assert value(page, "smartcache_exporter_up") == 0
            assert summed(page, "smartcache_requests_total") == total
        scraper.exporter_restarts()
        assert "smartcache_requests_total" not in {name for name, _ in scraper.scrape()}
        writer.record(2)
        late = tmp_path / new_name()
        late.touch()
        assert "smartcache_requests_total" not in {name for name, _ in scraper.scrape()}


@pytest.mark.parametrize("missing", ["what was folded", "the directory"])
def test_an_exporter_that_restarts_while_a_part_cannot_be_read_shows_no_sum_that_fell(
    tmp_path: Path, missing: str
) -> None:
    scraper = Scraper(tmp_path)
    with Writer(tmp_path) as first, Writer(tmp_path) as second:
        first.record(3)
        second.record(4)
        second.end(signal.SIGKILL)
        assert ended.fold(tmp_path) == 1
        assert summed(scraper.scrape(), "smartcache_requests_total") == 7
        if missing == "what was folded":
            part, aside = tmp_path / ended.NAME, tmp_path / "aside"
            part.rename(aside)
            part.mkdir()
        else:
            part, aside = tmp_path, tmp_path.with_name("aside")
            part.rename(aside)
            part.touch()
        scraper.exporter_restarts()
        page = scraper.scrape()
        assert value(page, "smartcache_exporter_up") == 0
        assert "smartcache_requests_total" not in {name for name, _ in page}
        (part.rmdir if part.is_dir() else part.unlink)()
        aside.rename(part)
        assert summed(scraper.scrape(), "smartcache_requests_total") == 7


def test_a_file_that_was_never_read_and_is_gone_is_forgotten(tmp_path: Path) -> None:
    directory = folder_made(tmp_path / "metrics")
    scraper = Scraper(directory)
    garbage = directory / new_name()
    garbage.touch()
    assert states(scraper.scrape()) == (0, 0, 1)
    garbage.unlink()
    assert states(scraper.scrape()) == (0, 0, 0)
    directory.rmdir()
    directory.touch()
    page = scraper.scrape()
    assert states(page) == (0, 0, 0)
    assert value(page, "smartcache_exporter_scrape_errors") == 2, "the folder, and what was folded"


def test_files_without_the_suffix_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("not metrics")
    (tmp_path / "0123.new").write_text("unfinished")
    page = Scraper(tmp_path).scrape()
    assert states(page) == (0, 0, 0)
    assert value(page, "smartcache_exporter_up") == 1


def test_a_directory_that_goes_leaves_a_page(tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    scraper = Scraper(directory)
    with Writer(directory) as writer:
        writer.record(3)
        scraper.scrape()
    shutil.rmtree(directory)
    page = scraper.scrape()
    assert states(page) == (0, 0, 0)
    assert value(page, "smartcache_exporter_up") == 0
    assert summed(page, "smartcache_requests_total") == 3
    with Writer(directory) as writer:
        writer.record(2)
        page = scraper.scrape()
        assert value(page, "smartcache_exporter_up") == 1
        assert summed(page, "smartcache_requests_total") == 5


def test_reading_takes_no_lock_that_a_process_could_miss(tmp_path: Path) -> None:
    files = MetricsFiles(tmp_path)
    metrics = CacheMetrics(tmp_path)
    metrics.increment("full_invalidation")
    for _ in range(3):
        assert files.read().states == {"live": 1, "dead": 0, "unreadable": 0}
    metrics.close()
    for _ in range(3):
        assert files.read().states == {"live": 0, "dead": 1, "unreadable": 0}


# -- the laws, and a plain model of what the page must say ------------------------------------------------------------


MARKETS = ("btts", "penalty", "cards_over_under", "unheard of")
COMPETITIONS = ("E0", "SP1", "unheard of")


def expected_of(outcome: str, zone: str, market: str, status: str, competition: str) -> list[tuple[str, ...]]:
    """What one request adds one to: the contract, written a second time."""
    market = "other" if market == "unheard of" else market
    competition = "other" if competition == "unheard of" else competition
    kind, _, where = outcome.partition("_")
    strategy = {"bypass": "bypass", "fresh": "serve_fresh", "stale": "serve_stale", "error": "serve_stale"}.get(
        kind, "compute"
    )
    adds: list[tuple[str, ...]] = [("requests", strategy, zone)]
    if strategy == "serve_fresh":
        adds += [("lookups", "hit_fresh", where, market), ("swr", "served_fresh")]
    elif strategy == "serve_stale":
        adds += [("lookups", "hit_stale", where, market), ("swr", "served_stale")]
    elif strategy == "compute":
        adds += [("lookups", "miss", "none", market)]
    if outcome == "too_stale":
        adds += [("swr", "too_stale")]
    if status != "none":
        adds += [("vix", status, competition)]
    if outcome == "bypass_panic":
        adds += [("bypassed",)]
    if kind == "error":
        adds += [("on_error",)]
    return adds


def told_by(page: Page) -> Counter[tuple[str, ...]]:
    names = {
        "smartcache_requests_total": ("requests", "strategy", "zone"),
        "smartcache_lookups_total": ("lookups", "result", "tier", "market"),
        "smartcache_swr_evaluations_total": ("swr", "result"),
        "smartcache_vix_evaluations_total": ("vix", "status", "competition"),
        "smartcache_vix_bypasses_total": ("bypassed",),
        "smartcache_stale_on_error_served_total": ("on_error",),
    }
    told: Counter[tuple[str, ...]] = Counter()
    for (name, labels), number in page.items():
        if name in names:
            short, *label_names = names[name]
            told[short, *(dict(labels)[label] for label in label_names)] = int(number)
    return +told


class Recorder:
    def __init__(self, directory: Path) -> None:
        self.metrics = CacheMetrics(directory, {"competition": ("E0", "SP1")})
        assert self.metrics.path is not None
        self.path = self.metrics.path
        self.counted: Counter[tuple[str, ...]] = Counter()
        self.said: Counter[tuple[str, ...]] = Counter()
        self.live = True
        self.good: bytes | None = None  # its true content, while the file is spoilt or gone
        self.there = True
        self.folded = False
        self.known = True  # to the exporter that runs now


class Directory(RuleBasedStateMachine):
    """Recorders start, count, end and are killed; their files are folded, spoilt, mended, removed and put back; the
    exporter restarts; all between scrapes."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(dir=root))
        self.recorders: list[Recorder] = []
        self.scraper = Scraper(self.directory)
        self.time = 1

    def teardown(self) -> None:
        for recorder in self.recorders:
            recorder.metrics.close()
        shutil.rmtree(self.directory)

    def choose(self, data: st.DataObject, **wanted: bool) -> Recorder | None:
        among = [
            recorder
            for recorder in self.recorders
            if all(
                {"live": recorder.live, "spoilt": recorder.good is not None, "there": recorder.there}[k] is v
                for k, v in wanted.items()
            )
            and not recorder.folded
        ]
        return data.draw(st.sampled_from(among)) if among else None

    @precondition(lambda self: len(self.recorders) < 4)
    @rule()
    def start(self) -> None:
        self.recorders.append(Recorder(self.directory))

    @rule(
        data=st.data(),
        times=st.integers(1, 50),
        outcome=st.sampled_from([outcome.name for outcome in OUTCOMES]),
        zone=st.sampled_from(ZONES),
        market=st.sampled_from(MARKETS),
        status=st.sampled_from((*VIX_STATUSES, "none")),
        competition=st.sampled_from(COMPETITIONS),
    )
    def record(
        self, data: st.DataObject, times: int, outcome: str, zone: str, market: str, status: str, competition: str
    ) -> None:
        if outcome == "bypass_panic":
            status = "panic"
        recorder = self.choose(data, live=True)
        if recorder:
            values = {"outcome": outcome, "zone": zone, "market": market, "status": status, "competition": competition}
            cells = recorder.metrics.layout.cells_of(**values)
            for _ in range(times):
                recorder.metrics.recorder.request(cells, STRATEGIES.index(OUTCOME[outcome].strategy), times / 64, 0.0)
            recorder.counted.update(expected_of(**values) * times)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        recorder = self.choose(data, live=True)
        if recorder:
            recorder.metrics.close()
            recorder.live = False

    @rule(
        data=st.data(),
        stores=st.integers(0, 2),
        outcome=st.sampled_from([outcome.name for outcome in OUTCOMES]),
        zone=st.sampled_from(ZONES),
        status=st.sampled_from(("panic", "none")),
    )
    def kill(self, data: st.DataObject, stores: int, outcome: str, zone: str, status: str) -> None:
        """End in the middle of counting a request, after so many stores into its cells."""
        if outcome == "bypass_panic":
            status = "panic"
        recorder = self.choose(data, live=True)
        if recorder:
            values = {"outcome": outcome, "zone": zone, "market": "btts", "status": status, "competition": "E0"}
            cells = recorder.metrics.layout.cells_of(**values)[:stores]
            for cell in cells:
                recorder.metrics._ints[cell] += 1
            judged_later = len(recorder.metrics.layout.cells_of(**values)) == 2 and stores == 1
            counted = expected_of(**values) if cells else []
            recorder.counted.update(family for family in counted if not (judged_later and family[0] == "vix"))
            recorder.metrics.close()
            recorder.live = False

    @rule()
    def fold(self) -> None:
        ended.fold(self.directory)
        for recorder in self.recorders:
            if not recorder.live and recorder.good is None:
                recorder.folded = True

    # What was removed is known to an exporter that runs, and to none that begins.
    @precondition(lambda self: all(recorder.there for recorder in self.recorders))
    @rule()
    def exporter_restarts(self) -> None:
        self.scraper.exporter_restarts()
        for recorder in self.recorders:
            recorder.known = recorder.good is None

    # A live file is not cut short: its own process would be killed by the next count.
    @rule(data=st.data(), how=st.sampled_from(WAYS[:-4]))
    def spoil(self, data: st.DataObject, how: str) -> None:
        recorder = self.choose(data, live=False, spoilt=False, there=True)
        if recorder:
            recorder.good = recorder.path.read_bytes()
            spoil(recorder.path, how)
            self._touch(recorder)

    @rule(data=st.data())
    def mend(self, data: st.DataObject) -> None:
        recorder = self.choose(data, spoilt=True)
        if recorder and recorder.good is not None:
            recorder.path.write_bytes(recorder.good)
            self._touch(recorder)
            recorder.good = None
            recorder.there = True

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        recorder = self.choose(data, live=False, spoilt=False, there=True)
        if recorder:
            recorder.good = recorder.path.read_bytes()
            recorder.path.unlink()
            recorder.there = False

    @invariant()
    def page_says_what_the_model_says(self) -> None:
        page = self.scraper.scrape()
        expected: Counter[tuple[str, ...]] = Counter()
        seen: Counter[str] = Counter()
        for recorder in self.recorders:
            if recorder.good is None:
                recorder.said = recorder.counted.copy()
                recorder.known = True
                seen["live" if recorder.live else "dead"] += 1
            elif recorder.there:
                seen["unreadable"] += 1
            expected += recorder.said
        complete = all(recorder.known for recorder in self.recorders)
        assert told_by(page) == (expected if complete else Counter())
        assert states(page) == (seen["live"], seen["dead"], seen["unreadable"])
        assert value(page, "smartcache_exporter_up") == (seen["unreadable"] == 0)
        if complete:
            check_laws(page)

    def _touch(self, recorder: Recorder) -> None:
        self.time += 1
        os.utime(recorder.path, (self.time, self.time))


def test_the_page_agrees_with_a_plain_model_whatever_happens_to_the_files(tmp_path: Path) -> None:
    run_state_machine_as_test(
        lambda: Directory(tmp_path),  # type: ignore[arg-type]  # hypothesis takes any factory
        settings=settings(max_examples=20, stateful_step_count=25, deadline=None),
    )

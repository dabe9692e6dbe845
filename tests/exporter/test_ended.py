"""Files of ended processes become one, and no page shows when."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from scraping import Page, Scraper, Writer, summed, value

from exporter import ended
from exporter.app import create_app
from exporter.files import MetricsFiles
from smartcache.catalogue import FAMILY, STRATEGIES
from smartcache.metrics import CacheMetrics
from smartcache.metrics_file import cells_start, pack_header, parse_header


def counted(page: Page) -> dict[Any, float]:
    """What processes counted, by series."""
    return {key: number for key, number in page.items() if not key[0].startswith("smartcache_exporter_")}


def dead(directory: Path, requests: int, seconds: float = 0.1) -> Path:
    """Leave the file of a process that counted and ended."""
    metrics = CacheMetrics(directory)
    for number in range(requests):
        cells = metrics.layout.cells_of("absent", "golden", "btts", "panic")
        metrics.recorder.request(cells, STRATEGIES.index("compute"), seconds / (number + 1), 0.0)
    metrics.histogram("smartcache_compute_duration_seconds").observe(seconds)
    path = metrics.path
    assert path is not None
    metrics.close()
    return path


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {"ended.lock"}


def test_ended_processes_become_one_file_and_the_page_stays_what_it_was(tmp_path: Path) -> None:
    scraper = Scraper(tmp_path)
    with Writer(tmp_path) as alive, Writer(tmp_path) as killed:
        alive.record(5)
        killed.record(7, "bypass_panic", status="panic")
        killed.end(signal.SIGKILL)
        for number in range(1, 4):
            dead(tmp_path, number, 0.1 * number)
        (tmp_path / "garbage.metrics").write_bytes(b"garbage")
        before = scraper.scrape()
        assert value(before, "smartcache_processes", state="dead") == 4
        assert ended.fold(tmp_path) == 4
        assert files(tmp_path) == {"ended.json", alive.path.name, "garbage.metrics"}
        assert ended.fold(tmp_path) == 0
        for reader in (scraper, Scraper(tmp_path)):
            assert counted(reader.scrape()) == counted(before)
    after = scraper.scrape()
    assert ended.fold(tmp_path) == 1
    assert counted(scraper.scrape()) == counted(after)
    assert value(after, "smartcache_processes", state="dead") == 5


async def test_a_page_that_shows_ended_processes_is_followed_by_their_folding(tmp_path: Path) -> None:
    transport = httpx.ASGITransport(create_app(tmp_path))
    async with httpx.AsyncClient(transport=transport, base_url="http://exporter") as client:
        path = dead(tmp_path, 3)
        page = (await client.get("/metrics")).text
        assert not path.exists()
        assert files(tmp_path) == {"ended.json"}
        again = (await client.get("/metrics")).text
    lines = [line for line in page.splitlines() if "scrape_duration" not in line]
    assert lines == [line for line in again.splitlines() if "scrape_duration" not in line]
    assert 'smartcache_requests_total{strategy="compute",zone="golden"} 3.0' in lines


#: Folds, and is killed before the operation on the file system of that number; prints when it was not.
FOLDER = """if True:
    import json, os, signal, sys
    from pathlib import Path
    from exporter import ended

    left = int(sys.argv[2])

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def deadly(function):
        def first(*arguments, **options):
            global left
            if left == 0:
                die()
            left -= 1
            return function(*arguments, **options)
        return first

    def write_half(told, file):
        global left
        text = json.dumps(told)
        file.write(text[: len(text) // 2])
        if left == 0:
            file.flush()
            die()
        left -= 1
        file.write(text[len(text) // 2 :])

    for name in ("open", "unlink", "rename", "fsync", "scandir"):
        setattr(os, name, deadly(getattr(os, name)))
    json.dump = write_half
    print(ended.fold(Path(sys.argv[1])))
"""


def test_a_folder_killed_at_any_step_neither_loses_nor_doubles_a_count(tmp_path: Path) -> None:
    scraper = Scraper(tmp_path)
    dead(tmp_path, 1)
    ended.fold(tmp_path)
    requests = 1
    for step in range(100):
        for number in (2, 3):
            dead(tmp_path, number, 0.1 / (step + 1))
            requests += number
        before = counted(scraper.scrape())
        assert summed(before, "smartcache_requests_total") == requests
        done = subprocess.run(
            [sys.executable, "-c", FOLDER, str(tmp_path), str(step)], capture_output=True, text=True, check=False
        )
        for reader in (scraper, Scraper(tmp_path)):
            assert counted(reader.scrape()) == before, f"killed at step {step}"
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        ended.fold(tmp_path)  # takes up what was left
        assert files(tmp_path) == {"ended.json"}
        assert counted(scraper.scrape()) == before
    assert 8 < step < 99, "every step was cut off once"


@pytest.mark.parametrize("step", ["_list", "_read", "_read_ended"])
@pytest.mark.parametrize("after", [False, True])
def test_a_fold_in_the_middle_of_a_reading_neither_loses_nor_doubles_a_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    original = getattr(MetricsFiles, step)

    def folded_meanwhile(*arguments: Any, **options: Any) -> Any:
        if not after:
            ended.fold(tmp_path)
        answer = original(*arguments, **options)
        if after:
            ended.fold(tmp_path)
        return answer

    monkeypatch.setattr(MetricsFiles, step, folded_meanwhile)
    old = Scraper(tmp_path)
    for requests in (1, 2, 3):
        dead(tmp_path, 1)
        fresh = Scraper(tmp_path)
        assert summed(fresh.scrape(), "smartcache_requests_total") == requests
        dead(tmp_path, 0)  # and another fold for the old one
        assert summed(old.scrape(), "smartcache_requests_total") == requests
        assert value(old.scrape(), "smartcache_processes", state="dead") == 2 * requests


FOLDING = """if True:
    import sys, time
    from pathlib import Path
    from exporter import ended
    while True:
        ended.fold(Path(sys.argv[1]))
        time.sleep(0.001)
"""


class Folders:
    """Two processes that fold without pause; killed at any moment, others take their place."""

    def __init__(self, directory: Path) -> None:
        self._command = [sys.executable, "-c", FOLDING, str(directory)]
        self._running = [self._start(), self._start()]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command)

    def replace_one(self, rng: random.Random) -> None:
        number = rng.randrange(2)
        self._running[number].kill()
        self._running[number].wait()
        self._running[number] = self._start()

    def end(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Folders]:
    folders = Folders(tmp_path)
    yield folders
    folders.end()


def test_no_page_steps_back_while_processes_come_and_go_and_folders_are_killed(
    tmp_path: Path, folders: Folders
) -> None:
    rng = random.Random(20_251_123)
    stop = threading.Event()
    told: list[float] = []

    def scrape(restart: bool) -> None:
        scraper = Scraper(tmp_path)
        while not stop.is_set():
            page = scraper.scrape()
            if restart:  # an exporter that begins anew shows no less either
                scraper.exporter_restarts()
            assert summed(page, "smartcache_requests_total") == summed(
                page, "smartcache_request_duration_seconds_count"
            )
        told.append(summed(scraper.scrape(), "smartcache_requests_total"))

    scrapers = [threading.Thread(target=scrape, args=(restart,)) for restart in (False, True)]
    for thread in scrapers:
        thread.start()
    requests, processes = 0, 0
    end, kill = time.monotonic() + 6, time.monotonic() + 1
    while time.monotonic() < end:
        number = rng.randrange(20)
        dead(tmp_path, number, rng.random())
        requests += number
        processes += 1
        if time.monotonic() > kill:
            folders.replace_one(rng)
            kill = time.monotonic() + rng.uniform(0.2, 0.6)
    stop.set()
    for thread in scrapers:
        thread.join()
    assert told == [requests, requests], "a scraper failed, or lost or doubled a count"
    folders.end()
    ended.fold(tmp_path)
    assert files(tmp_path) == {"ended.json"}
    page = Scraper(tmp_path).scrape()
    assert summed(page, "smartcache_requests_total") == requests
    assert value(page, "smartcache_processes", state="dead") == processes


def test_one_folder_at_a_time(tmp_path: Path) -> None:
    dead(tmp_path, 1)
    with ended._alone(tmp_path) as alone:
        assert alone
        assert ended.fold(tmp_path) == 0
    assert ended.fold(tmp_path) == 1


def test_a_reader_that_missed_more_names_than_are_kept_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ended, "_NAMES", 2)
    monkeypatch.setattr(ended, "_AT_ONCE", 2)
    scraper = Scraper(tmp_path)
    for _ in range(5):
        dead(tmp_path, 1)
    before = scraper.scrape()
    assert [ended.fold(tmp_path) for _ in range(4)] == [2, 2, 1, 0]
    assert len(ended.load(tmp_path).names) == 2
    assert counted(scraper.scrape()) == counted(before)


def test_what_another_version_knows_more_is_left_for_it(tmp_path: Path) -> None:
    ours, theirs = dead(tmp_path, 1), dead(tmp_path, 2)
    content = theirs.read_bytes()
    header, description = parse_header(content)
    description["series"].append(["smartcache_of_tomorrow_total", [], 0, None])
    theirs.write_bytes(pack_header(description).ljust(cells_start(header), b"\0") + content[cells_start(header) :])
    before = Scraper(tmp_path).scrape()
    assert summed(before, "smartcache_requests_total") == 3
    assert ended.fold(tmp_path) == 1
    assert not ours.exists()
    assert theirs.exists()
    assert counted(Scraper(tmp_path).scrape()) == counted(before)

    told = json.loads((tmp_path / "ended.json").read_text())
    of_tomorrow = {"labels": ["colour"], "samples": [[["red"], 7]]}
    told["families"] |= {"smartcache_of_tomorrow_total": of_tomorrow, "smartcache_bus_gaps_total": of_tomorrow}
    edges = told["families"]["smartcache_compute_duration_seconds"]["edges"]
    told["families"]["smartcache_compute_duration_seconds"]["edges"] = [edge * 1.01 for edge in edges]
    (tmp_path / "ended.json").write_text(json.dumps(told))
    page = Scraper(tmp_path).scrape()
    assert value(page, "smartcache_compute_duration_seconds_count") == 2
    assert value(page, "smartcache_compute_duration_seconds_bucket", le="0.1") == 1, "moved up by an edge, never down"
    dead(tmp_path, 1)
    assert ended.fold(tmp_path) == 1
    told = json.loads((tmp_path / "ended.json").read_text())
    assert told["families"]["smartcache_of_tomorrow_total"] == of_tomorrow


def test_what_was_folded_counts_with_what_it_last_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scraper = Scraper(tmp_path)
    dead(tmp_path, 3)
    ended.fold(tmp_path)
    path = tmp_path / "ended.json"
    page = scraper.scrape()
    good = path.read_bytes()
    fewer = json.loads(good)
    fewer["families"]["smartcache_requests_total"]["samples"] = []
    for number, content in enumerate((good[: len(good) // 2], b"", b"[]", b"\0" * 50, json.dumps(fewer).encode()), 1):
        path.write_bytes(content)
        for _ in range(2):
            spoilt = scraper.scrape()
            assert summed(spoilt, "smartcache_requests_total") == 3
            assert value(spoilt, "smartcache_exporter_up") == 0
        assert len(caplog.records) == number, "said once, not with every scrape"
    del content
    path.write_bytes(good)
    assert counted(scraper.scrape()) == counted(page)

    path.unlink()
    assert summed(scraper.scrape(), "smartcache_requests_total") == 3
    dead(tmp_path, 2)
    ended.fold(tmp_path)
    assert summed(scraper.scrape(), "smartcache_requests_total") == 5


DURATIONS, REQUESTS = "smartcache_request_duration_seconds", "smartcache_requests_total"


def told(family: str = REQUESTS, folded: Any = 1, **about: Any) -> str:
    """What a file of ended processes may say, or may not."""
    return json.dumps({"lineage": "1", "folded": folded, "names": [], "families": {family: about}})


BY_STRATEGY: dict[str, Any] = {"labels": ["strategy"]}
BY_ZONE: dict[str, Any] = {"labels": ["strategy", "zone"]}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"families": []}',
        told(folded=None, **BY_ZONE, samples=[]),
        told(folded=-1, **BY_ZONE, samples=[]),
        told(**BY_ZONE, samples=[[["compute", "none"], "7"]]),
        told(**BY_ZONE, samples=[[["compute", "none"], math.nan]]),
        told(**BY_ZONE, samples=[[["compute", 3], 7]]),
        told(**BY_ZONE, samples=[[["compute"], 7]]),
        told(DURATIONS, **BY_STRATEGY, samples=[[["compute"], 7]]),
        told(DURATIONS, **BY_STRATEGY, edges=[1.0], samples=[[["compute"], [1, 2], 10**400]]),
        told(DURATIONS, **BY_STRATEGY, edges=FAMILY[DURATIONS].buckets, samples=[[["compute"], [1, 2], 3]]),
    ],
    ids=range(11),
)
def test_an_ended_file_of_another_making_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "ended.json").write_text(text)
    with Writer(tmp_path) as writer:
        writer.record(3)
        page = Scraper(tmp_path).scrape()
    assert value(page, "smartcache_exporter_up") == 0
    assert value(page, "smartcache_memory_entries") == 3
    assert not any(name == REQUESTS for name, _ in page)


def test_a_pipe_by_the_name_of_the_ended_file_hangs_nobody(tmp_path: Path) -> None:
    for name in ("ended.json", "ended.new"):
        os.mkfifo(tmp_path / name)
    dead(tmp_path, 3)
    asked = threading.Thread(target=lambda: pages.append(Scraper(tmp_path).scrape()), daemon=True)
    pages: list[Page] = []
    asked.start()
    asked.join(10)
    assert value(pages[0], "smartcache_exporter_up") == 0
    (tmp_path / "ended.json").unlink()
    folding = threading.Thread(target=ended.fold, args=(tmp_path,), daemon=True)
    folding.start()
    folding.join(10)
    assert summed(Scraper(tmp_path).scrape(), REQUESTS) == 3
    assert files(tmp_path) == {"ended.json"}


def test_nothing_is_folded_onto_what_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = dead(tmp_path, 1)
    (tmp_path / "ended.json").write_bytes(b"torn")
    reader = MetricsFiles(tmp_path)
    reader.fold()
    reader.fold()
    assert path.exists()
    assert [record.getMessage().partition(":")[2] for record in caplog.records] == [
        " the files of ended processes cannot be folded and stay: JSONDecodeError: "
        "Expecting value: line 1 column 1 (char 0)"
    ]


def test_a_directory_that_cannot_be_written_to_keeps_its_files_and_its_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = dead(tmp_path, 2)
    (tmp_path / "ended.lock").mkdir()  # root may write anywhere
    reader = MetricsFiles(tmp_path)
    for _ in range(2):
        assert reader.read().states["dead"] == 1
        assert reader.to_fold
        reader.fold()
    assert path.exists()
    assert len(caplog.records) == 1
    assert "cannot be folded and stay: IsADirectoryError" in caplog.records[0].getMessage()

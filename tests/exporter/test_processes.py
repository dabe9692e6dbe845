"""Real processes, each in a pid namespace of its own where that is permitted: killed, replaced, and all counted."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from chaining import UNSHARE, free_port, refusal
from scraping import Scraper, check_laws, summed, value

#: Counts requests of all kinds as fast as it can and says so after each: what is in the pipe, a client received.
LOADED = """if True:
    import os, random, sys, time
    from smartcache.catalogue import STRATEGIES, VIX_STATUSES, ZONES
    from smartcache.layout import OUTCOMES
    from smartcache.metrics import CacheMetrics

    rng = random.Random(int(sys.argv[2]))
    metrics = CacheMetrics(sys.argv[1], {"competition": ("E0",)})
    recorder = metrics.recorder
    kinds = []
    for outcome in OUTCOMES:
        for zone in ZONES[:5]:
            status = "panic" if outcome.bypassed_by_vix else rng.choice((*VIX_STATUSES, "none"))
            cells = metrics.layout.cells_of(outcome.name, zone, "btts", status, "E0")
            kinds.append((outcome.name, cells, STRATEGIES.index(outcome.strategy), zone))
    os.write(1, b"%d\\n" % os.getpid())
    while True:
        name, cells, strategy, zone = rng.choice(kinds)
        now = time.monotonic()
        if name == "fresh_memory":
            recorder.fresh_hit(cells[0], zone, rng.random() * 100, now - rng.random() / 1000, now)
        else:
            recorder.request(cells, strategy, rng.random() / 10, now)
        os.write(1, b".")
"""


class Loaded:
    """A process under load, and how many of its requests were received."""

    def __init__(self, directory: Path, seed: int, prefix: Sequence[str] = ()) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-c", LOADED, str(directory), str(seed)], stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.pid = int(self._process.stdout.readline())
        os.set_blocking(self._process.stdout.fileno(), False)
        self.received = 0

    def receive(self) -> None:
        assert self._process.stdout is not None
        self.received += len(self._process.stdout.read() or b"")

    def kill(self) -> None:
        self._process.kill()
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), True)  # until the last of them is gone
        self.received += len(self._process.stdout.read())
        self._process.wait()
        self._process.stdout.close()


@contextmanager
def loaded(directory: Path, prefix: Sequence[str]) -> Iterator[list[Loaded]]:
    processes = [Loaded(directory, seed, prefix) for seed in range(4)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()


def test_what_clients_received_is_what_the_page_says_but_for_the_requests_cut_by_kills(tmp_path: Path) -> None:
    apart = () if refusal() else UNSHARE
    rng = random.Random(20_251_123)
    scraper = Scraper(tmp_path)
    ended: list[Loaded] = []
    with loaded(tmp_path, apart) as processes:
        assert not apart or {process.pid for process in processes} == {1}, "their numbers tell nothing apart"
        for seed in range(4, 10):
            until = time.monotonic() + rng.uniform(0.1, 0.5)
            while time.monotonic() < until:
                for process in processes:
                    process.receive()
                page = scraper.scrape()
                assert value(page, "smartcache_processes", state="live") == 4
                assert value(page, "smartcache_processes", state="dead") == len(ended)
                scraper.fold()
            killed = processes.pop(rng.randrange(4))
            killed.kill()
            ended.append(killed)
            processes.append(Loaded(tmp_path, seed, apart))
    page = scraper.scrape()
    received = sum(process.received for process in ended + processes)
    assert received <= summed(page, "smartcache_requests_total") <= received + len(ended + processes)
    assert value(page, "smartcache_processes", state="dead") == 10
    check_laws(page)


def test_writers_and_exporter_live_in_pid_namespaces_of_their_own(tmp_path: Path) -> None:
    if why := refusal():
        pytest.skip(why)
    port = free_port()
    command = [*UNSHARE, sys.executable, "-m", "exporter", "--dir", str(tmp_path), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as exporter, loaded(tmp_path, UNSHARE) as processes:
        try:
            assert exporter.stdout is not None
            exporter.stdout.readline()
            assert states(port) == (4, 0)
            processes.pop().kill()
            assert states(port) == (3, 1)
        finally:
            exporter.kill()


def states(port: int) -> tuple[int, int]:
    """How many processes the exporter calls live and dead."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    live, dead = (
        re.search(rf'^smartcache_processes{{state="{state}"}} (\d+)', page, re.M) for state in ("live", "dead")
    )
    assert live
    assert dead
    return int(live[1]), int(dead[1])

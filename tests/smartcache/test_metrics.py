"""The recorder: nothing lost, by threads, forks, full disks or resets."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from exporter.files import MetricsFiles
from smartcache import CacheConfig, SmartCache
from smartcache.catalogue import CATEGORIES, FAMILIES, FAMILY, GOVERNOR_MODES, STATISTIC, STATISTICS, STRATEGIES
from smartcache.layout import OUTCOME
from smartcache.metrics import CacheMetrics
from smartcache.metrics_file import SUFFIX
from smartcache.snapshot import HistogramValue, add_up

DURATION = "smartcache_request_duration_seconds"


class AtZero:
    """A clock that stands at 0; requests bring their own times."""

    def time(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return 0.0


def request(metrics: CacheMetrics, outcome: str, seconds: float = 0.001, now: float = 0.0, **values: str) -> None:
    strategy = STRATEGIES.index(OUTCOME[outcome].strategy)
    metrics.recorder.request(metrics.layout.cells_of(outcome, **values), strategy, seconds, now)


def is_alive(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


# -- threads ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads that hand over to each other as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(threads: int, work: Callable[[int], None]) -> None:
    barrier = threading.Barrier(threads)

    def begin(number: int) -> None:
        barrier.wait()
        work(number)

    running = [threading.Thread(target=begin, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


@pytest.mark.usefixtures("hasty_threads")
def test_threads_that_record_at_once_lose_no_count() -> None:
    metrics = CacheMetrics(clock=AtZero())
    each, threads = 20_000, 4
    (cell,) = metrics.layout.cells_of("fresh_memory", zone="golden")
    gaps = metrics.counter("smartcache_bus_gaps_total")
    running = metrics.gauge("smartcache_computes_in_progress")
    durations = metrics.histogram("smartcache_compute_duration_seconds")

    def work(number: int) -> None:
        for turn in range(each):
            # Durations a power of two each, so that their sum is exact; a slot of the minute every 2,560 turns.
            metrics.recorder.request((cell,), 3, 0.25, turn / 512)
            metrics.recorder.fresh_hit(cell, "golden", 0.5, turn / 512, turn / 512 + 0.25)
            gaps.add()
            running.add(1)
            durations.observe(0.5)
            running.add(-1)
            metrics.increment("full_invalidation")

    at_once(threads, work)
    total = each * threads
    samples = metrics.snapshot().samples
    assert samples["smartcache_requests_total"]["serve_fresh", "golden"] == 2 * total
    edges = FAMILY[DURATION].buckets
    assert samples[DURATION]["serve_fresh",].counts[edges.index(0.25)] == 2 * total
    assert samples[DURATION]["serve_fresh",].total == 0.25 * 2 * total
    assert sum(samples["smartcache_served_age_seconds"]["golden",].counts) == total
    assert samples["smartcache_served_age_seconds"]["golden",].total == 0.5 * total
    assert samples["smartcache_bus_gaps_total"][()] == total
    assert samples["smartcache_computes_in_progress"][()] == 0
    assert sum(samples["smartcache_compute_duration_seconds"][()].counts) == total
    assert samples["smartcache_compute_duration_seconds"][()].total == 0.5 * total
    assert samples["smartcache_invalidations_total"]["full",] == total


@pytest.mark.usefixtures("hasty_threads")
def test_threads_that_open_a_slot_of_the_minute_at_once_keep_each_others_extremes() -> None:
    for _ in range(50):
        metrics = CacheMetrics(clock=AtZero())
        cells = metrics.layout.cells_of("absent")

        def work(number: int, metrics: CacheMetrics = metrics, cells: tuple[int, ...] = cells) -> None:
            for turn in range(1, 20):
                metrics.recorder.request(cells, 1, 1.0 + number, 5.0 * turn)

        at_once(4, work)
        first = metrics.layout.minute
        last = first + 3 * (20 % metrics.layout.minute_slots)  # the slot that begins at 95 s
        assert metrics._ints[last] == 20
        assert (metrics._floats[last + 1], metrics._floats[last + 2]) == (4.0, 1.0)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_at_first_use_share_one_memory(tmp_path: Path) -> None:
    for turn in range(20):
        metrics = CacheMetrics(tmp_path / str(turn))
        at_once(4, lambda _, metrics=metrics: metrics.counter("smartcache_bus_gaps_total").add())  # type: ignore[misc]
        assert [*(tmp_path / str(turn)).glob("*")] == [metrics.path]
        assert metrics.snapshot().samples["smartcache_bus_gaps_total"][()] == 4
        metrics.close()


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_alive_until_it_is_closed_and_keeps_its_counts(tmp_path: Path) -> None:
    metrics = CacheMetrics(tmp_path)
    request(metrics, "absent")
    path = metrics.path
    assert path is not None
    assert path.suffix == SUFFIX
    assert path.stat().st_blocks * 512 >= path.stat().st_size, "the disk must back every page before it is mapped"
    assert is_alive(path)
    metrics.close()
    assert not is_alive(path)
    assert metrics.get_stats()["strategy_compute"] == 1


def test_without_a_directory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SMARTCACHE_METRICS_DIR", raising=False)
    for directory in (None, ""):
        metrics = CacheMetrics(directory)
        request(metrics, "absent")
        assert metrics.path is None
        metrics.close()
    assert not [*tmp_path.iterdir()]


def test_the_directory_can_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTCACHE_METRICS_DIR", str(tmp_path / "made" / "when needed"))
    metrics = CacheMetrics("")
    assert metrics.path is not None
    assert metrics.path.parent == tmp_path / "made" / "when needed"
    metrics.close()


def test_a_folder_that_cannot_be_written_to_costs_a_warning_and_no_count(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    metrics = CacheMetrics(tmp_path / "file" / "folder")
    with pytest.warns(RuntimeWarning, match=r"metrics stay in this process.*file/folder.*Set SMARTCACHE_METRICS_DIR"):
        request(metrics, "absent")
    assert metrics.path is None
    assert metrics.get_stats()["total_requests"] == 1


def test_a_disk_without_room_costs_a_warning_and_no_count(tmp_path: Path) -> None:
    # A limit on the size of files stands for a full disk: allocation fails in the same call.
    done = run(
        """if True:
        import resource, sys
        from smartcache.metrics import CacheMetrics
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        metrics = CacheMetrics(sys.argv[1])
        for _ in range(1000):
            metrics.increment("full_invalidation")
        print(metrics.path, metrics.get_stats()["full_invalidation"])
        """,
        tmp_path,
    )
    assert done.stdout == "None 1000\n", done.stderr
    assert "RuntimeWarning: metrics stay in this process" in done.stderr
    assert not [*tmp_path.iterdir()], "nothing half-made is left"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


#: Fills the disk before or after the memory is mapped, counts in every cell, and says what became of it.
ON_A_FULL_DISK = """if True:
    import os, sys
    from pathlib import Path
    from smartcache.metrics import CacheMetrics

    folder, when, allocated = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "allocated"
    if not allocated:
        os.posix_fallocate = lambda fd, offset, size: os.ftruncate(fd, offset + size)

    def fill():
        with (folder / "other").open("wb", buffering=0) as other:
            try:
                while other.write(b"x" * 512):
                    pass
            except OSError as error:
                print(error.strerror)

    if when == "before":
        fill()
    metrics = CacheMetrics(folder / "metrics")
    path = metrics.path
    if when == "after":
        fill()
    for cell in range(metrics.layout.cells):
        metrics._ints[cell] = 1
    metrics.increment("full_invalidation", 41)
    print(path is not None, metrics.get_stats()["full_invalidation"])
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_full_disk_costs_no_count_and_kills_nobody(disk: Path, when: str) -> None:
    done = run(ON_A_FULL_DISK, disk, when, "allocated")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"No space left on device\n{when == 'after'} 42\n"
    assert ("RuntimeWarning: metrics stay in this process" in done.stderr) == (when == "before")
    assert ("No space left on device" in done.stderr) == (when == "before")
    assert len([*disk.glob("metrics/*")]) == (when == "after"), "nothing half-made is left"


def test_a_file_that_is_not_allocated_would_kill_its_process_on_a_full_disk(disk: Path) -> None:
    assert run(ON_A_FULL_DISK, disk, "after", "sparse").returncode == -signal.SIGBUS


def test_a_killed_process_keeps_its_share_and_is_dead(tmp_path: Path) -> None:
    done = run(
        """if True:
        import os, signal, sys
        from smartcache.metrics import CacheMetrics
        metrics = CacheMetrics(sys.argv[1])
        metrics.increment("full_invalidation", 41)
        print(metrics.path, flush=True)
        metrics.increment("full_invalidation")
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    assert done.returncode == -signal.SIGKILL
    path = Path(done.stdout.strip())
    assert not is_alive(path)
    layout = CacheMetrics().layout
    cell = layout.series["smartcache_invalidations_total", ("full",)].cell
    start = path.stat().st_size - 8 * layout.cells
    assert int.from_bytes(path.read_bytes()[start + 8 * cell :][:8], "little") == 42


FORKING = """if True:
    import os, signal, sys, threading
    from pathlib import Path
    from smartcache.metrics import CacheMetrics
    metrics = CacheMetrics(sys.argv[1])
    gaps = metrics.counter("smartcache_bus_gaps_total")
    gaps.add(7)
    metrics.record_latency(5000)
    parents = metrics.path
    if os.fork() == 0:
        gaps.add(1)
        stats = metrics.get_stats()
        count = metrics.snapshot().samples["smartcache_bus_gaps_total"][()]
        print(parents, metrics.path, count, stats["total_requests"], stats["max_latency_ms"], flush=True)
        signal.pause()
    signal.pause()
"""


def test_a_forked_child_counts_in_its_own_file_and_does_not_keep_its_parents_alive(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", FORKING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children: list[int] = []
    try:
        parents, own, count, requests, slowest = parent.stdout.readline().split()
        children = [int(pid) for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
        assert parents != own
        assert (count, requests, slowest) == ("1", "0", "0.0")
        assert is_alive(Path(parents))
        assert is_alive(Path(own))
        parent.kill()
        parent.wait()
        assert not is_alive(Path(parents)), "the child must not hold its parent's lock"
        assert is_alive(Path(own))
    finally:
        parent.kill()
        parent.wait()
        for child in children:
            os.kill(child, signal.SIGKILL)
        parent.stdout.close()


# -- what can be recorded --------------------------------------------------------------------------------------------


def test_handles_are_one_per_series_and_of_the_kind_the_catalogue_says() -> None:
    metrics = CacheMetrics(domains={"route": ("/v1/matches",), "code": ("200",)})
    known = metrics.counter("smartcache_http_requests_total", route="/v1/matches", code="200")
    assert metrics.counter("smartcache_http_requests_total", code="200", route="/v1/matches") is known
    metrics.counter("smartcache_http_requests_total", route="/u/1234", code="200").add()
    assert metrics.snapshot().samples["smartcache_http_requests_total"]["other", "200"] == 1
    with pytest.raises(KeyError, match="smartcache_memory_bytes is a gauge, not a counter"):
        metrics.counter("smartcache_memory_bytes")
    with pytest.raises(KeyError, match="no metric 'smartcache_requests_total' can be recorded by itself"):
        metrics.counter("smartcache_requests_total", strategy="bypass", zone="none")
    with pytest.raises(ValueError, match="outcome='maybe' is none of success, error"):
        metrics.counter("smartcache_swr_refreshes_total", outcome="maybe")


def test_a_process_is_in_one_state_at_a_time_and_in_none_before_it_says_so(tmp_path: Path) -> None:
    mode = "smartcache_governor_mode"
    first, second = CacheMetrics(tmp_path), CacheMetrics(tmp_path)
    assert first.state(mode) is first.state(mode)
    assert set(first.snapshot().samples[mode].values()) == {0}
    for state in GOVERNOR_MODES:
        first.state(mode).set(state)
        assert first.snapshot().samples[mode] == {(other,): float(other == state) for other in GOVERNOR_MODES}
    second.state(mode).set("circuit_open")
    both = add_up([first.snapshot().samples, second.snapshot().samples])
    assert both.samples[mode] == {("normal",): 0, ("high_volatility",): 0, ("circuit_open",): 2}
    with pytest.raises(KeyError, match="wild"):
        first.state(mode).set("wild")
    with pytest.raises(KeyError, match="smartcache_governor_mode is a state, not a gauge"):
        first.gauge(mode)
    with pytest.raises(KeyError, match="smartcache_memory_entries is a gauge, not a state"):
        first.state("smartcache_memory_entries")


def test_an_observation_on_an_edge_belongs_to_the_bucket_it_closes() -> None:
    metrics = CacheMetrics()
    durations = metrics.histogram("smartcache_compute_duration_seconds")
    family = next(family for family in FAMILIES if family.name == "smartcache_compute_duration_seconds")
    for edge in family.buckets:
        durations.observe(edge)
    durations.observe(math.nextafter(family.buckets[-1], math.inf))
    value = metrics.snapshot().samples[family.name][()]
    assert value.counts == (1,) * (len(family.buckets) + 1)
    assert math.isclose(value.total, sum(family.buckets) + family.buckets[-1])


def test_each_counted_statistic_that_stands_for_itself_can_be_incremented() -> None:
    metrics = CacheMetrics()
    for number, name in enumerate(sorted(metrics._increments), 1):
        metrics.increment(name, number)
    stats = metrics.get_stats()
    for number, name in enumerate(sorted(metrics._increments), 1):
        assert stats[name] == number
    by_request = {name for name in STATISTIC if name.startswith("golden_hour_")} | {"total_requests"}
    derived = {name for name, statistic in STATISTIC.items() if statistic.unit != "count"}
    assert set(metrics._increments) == set(STATISTIC) - by_request - derived


@pytest.mark.parametrize("name", ["hit_rate_pct", "golden_hour_golden", "total_requests", "max_latency_ms", "nonsense"])
def test_other_names_cannot_be_incremented(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' cannot be incremented; those that can: cache_bypass_vix, "):
        CacheMetrics().increment(name)


@pytest.mark.parametrize("value", [-1, 1.5, True, "1", None, 2**33])
def test_counts_grow_by_whole_numbers(value: object) -> None:
    metrics = CacheMetrics()
    with pytest.raises(ValueError, match=r"cache_miss can only grow, by a whole number of at most 2\*\*32; got "):
        metrics.increment("cache_miss", value)  # type: ignore[arg-type]
    assert metrics.get_stats()["cache_miss"] == 0


@pytest.mark.parametrize("milliseconds", [-0.1, math.inf, math.nan, 1e300])
def test_latencies_are_within_reason(milliseconds: float) -> None:
    metrics = CacheMetrics()
    with pytest.raises(ValueError, match=r"a latency is a number of milliseconds from 0 to 2\*\*32, got "):
        metrics.record_latency(milliseconds)
    assert metrics.get_stats()["total_requests"] == 0


def test_a_latency_by_hand_keeps_the_laws() -> None:
    metrics = CacheMetrics()
    metrics.record_latency(250)
    metrics.record_latency(0)
    stats = metrics.get_stats()
    assert (stats["total_requests"], stats["strategy_compute"], stats["cache_miss"]) == (2, 2, 2)
    assert (stats["avg_latency_ms"], stats["max_latency_ms"], stats["min_latency_ms"]) == (125, 250, 0)


def test_a_request_under_way_shows_no_extreme_that_is_none() -> None:
    metrics = CacheMetrics(clock=AtZero())
    seen = []

    def look(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_name != "_widen":
            return None
        seen.append((metrics.snapshot().slowest, metrics.snapshot().fastest))
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        request(metrics, "absent", 0.25)
    finally:
        sys.settrace(before)
    assert set(seen) == {(None, None), (0.25, 0.25)}


def test_a_file_says_the_sampling_rate_from_the_first_reading_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, seen = MetricsFiles(tmp_path), []
    rename = Path.rename

    def rename_and_read(self: Path, target: Path) -> Path:
        path = rename(self, target)
        seen.append(files.read().snapshot.samples["smartcache_latency_sampling_ratio"][()])
        return path

    monkeypatch.setattr(Path, "rename", rename_and_read)
    metrics = CacheMetrics(tmp_path)
    assert metrics.path
    assert seen == [1.0]


def test_a_recorder_that_nobody_has_any_more_is_an_ended_process(tmp_path: Path) -> None:
    gc.collect()  # what other tests left
    open_before = len([*Path("/dev/fd").iterdir()])
    counter = CacheMetrics(tmp_path).counter("smartcache_bus_gaps_total")
    (path,) = tmp_path.glob(f"*{SUFFIX}")
    gc.collect()
    counter.add()
    assert is_alive(path), "its handle is in use"
    del counter
    gc.collect()
    assert not is_alive(path)
    assert len([*Path("/dev/fd").iterdir()]) == open_before


# -- sampling and resets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0, -1, 1.01, math.nan])
def test_sampling_rates_lie_in_0_to_1(rate: float) -> None:
    with pytest.raises(ValueError, match=r"the latency sampling rate must lie in \(0, 1\], got "):
        CacheMetrics().set_latency_sampling(rate)


def test_sampling_thins_the_histogram_alone() -> None:
    metrics = CacheMetrics()
    assert metrics.snapshot().samples["smartcache_latency_sampling_ratio"][()] == 1
    metrics.set_latency_sampling(0.1)
    durations = [random.Random(5).lognormvariate(-7, 1) for _ in range(20_000)]
    durations[777] = 9.0
    durations[778] = 2**-20
    for seconds in durations:
        request(metrics, "fresh_store", seconds, zone="active")
    snapshot = metrics.snapshot()
    counted = sum(snapshot.samples[DURATION]["serve_fresh",].counts)
    assert math.isclose(counted, 0.1 * len(durations), rel_tol=0.01)
    assert snapshot.samples["smartcache_latency_sampling_ratio"][()] == 0.1
    stats = metrics.get_stats()
    assert stats["total_requests"] == stats["cache_hit_fresh"] == stats["golden_hour_active"] == len(durations)
    assert (stats["max_latency_ms"], stats["min_latency_ms"]) == (9000, 1000 * 2**-20)
    assert (snapshot.slowest, snapshot.fastest) == (9.0, 2**-20)


def quantile(value: HistogramValue, share: float) -> float:
    """As Prometheus's histogram_quantile has it: interpolated within the bucket."""
    edges = (0.0, *FAMILY[DURATION].buckets)
    rank, below = share * sum(value.counts), 0
    for low, high, count in zip(edges, edges[1:], value.counts, strict=False):
        if count and below + count >= rank:
            return low + (high - low) * (rank - below) / count
        below += count
    return edges[-1]


async def real_latencies() -> list[float]:
    """How long an engine really took, hits and computes of several lengths mixed."""
    cache = SmartCache(CacheConfig(), metrics=CacheMetrics())
    rng = random.Random(20_251_123)
    took = []

    async def compute() -> int:
        await asyncio.sleep(rng.expovariate(500))
        return 1

    for _ in range(1500):
        began = time.perf_counter()
        await cache.get_or_load(f"key:{int(rng.paretovariate(0.5)) % 500}", compute, ttl=0.05)
        took.append(time.perf_counter() - began)
    await cache.close()
    return took


async def test_quantiles_under_sampling_are_within_a_tenth_of_the_full_ones() -> None:
    took = random.Random(1).choices(await real_latencies(), k=100_000)
    full, thinned = CacheMetrics(clock=AtZero()), CacheMetrics(clock=AtZero())
    thinned.set_latency_sampling(0.1)
    for metrics in (full, thinned):
        (hit,) = metrics.layout.cells_of("fresh_memory")
        miss = metrics.layout.cells_of("absent")
        for seconds in took:
            if seconds < 0.000_5:
                metrics.recorder.fresh_hit(hit, "none", 1.0, 0.0, seconds)
            else:
                metrics.recorder.request(miss, STRATEGIES.index("compute"), seconds, 0.0)
    for strategy in ("serve_fresh", "compute"):
        all_of_it = full.snapshot().samples[DURATION][strategy,]
        part = thinned.snapshot().samples[DURATION][strategy,]
        assert math.isclose(sum(part.counts), 0.1 * sum(all_of_it.counts), rel_tol=0.01)
        for share in (0.5, 0.9, 0.95, 0.99):
            assert math.isclose(quantile(part, share), quantile(all_of_it, share), rel_tol=0.1), (strategy, share)
    exact = full.get_stats()
    assert thinned.get_stats() == exact | {"avg_latency_ms": thinned.get_stats()["avg_latency_ms"]}
    assert (thinned.snapshot().slowest, thinned.snapshot().fastest) == (max(took), min(took))
    assert thinned.snapshot().samples["smartcache_latency_sampling_ratio"][()] == 0.1


def test_a_reset_moves_the_local_baseline_and_not_what_is_exported() -> None:
    metrics = CacheMetrics()
    for _ in range(3):
        request(metrics, "stale_memory", 0.5, zone="golden", status="panic", competition="E0")
    metrics.increment("surgical_invalidation")
    exported = metrics.snapshot().samples["smartcache_requests_total"]
    assert metrics.get_stats()["swr_served_stale"] == 3

    metrics.reset_category("vix")
    stats = metrics.get_stats()
    assert (stats["vix_panic_detected"], stats["vix_panic_rate_pct"]) == (0, 0)
    assert (stats["cache_hit_stale"], stats["hit_rate_pct"], stats["max_latency_ms"]) == (3, 100, 500)

    metrics.reset_category("performance")
    stats = metrics.get_stats()
    assert (stats["total_requests"], stats["avg_latency_ms"], stats["max_latency_ms"]) == (0, 0, 0)
    assert stats["strategy_serve_stale"] == 3

    metrics.reset()
    assert set(metrics.get_stats().values()) == {0}
    request(metrics, "absent", 0.25)
    stats = metrics.get_stats()
    assert (stats["total_requests"], stats["avg_latency_ms"], stats["min_latency_ms"]) == (1, 250, 250)
    assert stats["cache_hit_stale"] == stats["surgical_invalidation"] == 0
    now = metrics.snapshot().samples["smartcache_requests_total"]
    assert all(now[labels] >= count for labels, count in exported.items())
    assert now["serve_stale", "golden"] == 3


def test_only_the_seven_categories_can_be_reset() -> None:
    with pytest.raises(ValueError, match=f"unknown category 'store'; the categories are {', '.join(CATEGORIES)}"):
        CacheMetrics().reset_category("store")


def test_the_35_statistics_come_in_the_catalogues_order() -> None:
    assert list(CacheMetrics().get_stats()) == [statistic.name for statistic in STATISTICS]

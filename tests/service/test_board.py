from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from service.board import LOOK_EVERY, Board, Fault, Slot


class StillClock:
    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def test_what_one_worker_posts_the_others_see(tmp_path: Path) -> None:
    clock = StillClock()
    one, other = Board(tmp_path, clock), Board(tmp_path, clock)
    assert not other.lineup_confirmed("a")
    one.confirm_lineup("a")
    assert one.lineup_confirmed("a")
    clock.now += 2 * LOOK_EVERY
    assert other.lineup_confirmed("a")
    other.confirm_lineup("b")
    clock.now += 2 * LOOK_EVERY
    assert one.lineup_confirmed("a")
    assert one.lineup_confirmed("b")
    assert not one.lineup_confirmed("c")


def test_a_fault_ends_by_itself(tmp_path: Path) -> None:
    clock = StillClock()
    board = Board(tmp_path, clock)
    assert board.fault() is None
    board.order(Fault(compute_error_ratio=0.5, until=clock.now + 10))
    fault = board.fault()
    assert fault is not None
    assert fault.compute_error_ratio == 0.5
    clock.now += 10
    assert board.fault() is None


def test_slots_are_claimed_lowest_first_and_freed_with_their_process(tmp_path: Path) -> None:
    first, second = Slot(tmp_path), Slot(tmp_path)
    assert (first.number, second.number) == (0, 1)
    first.release()
    claim = "import sys, pathlib; from service.board import Slot; print(Slot(pathlib.Path(sys.argv[1])).number)"
    child = subprocess.run([sys.executable, "-c", claim, str(tmp_path)], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "0"
    assert Slot(tmp_path).number == 0
    assert Slot.holders(tmp_path) == {0: os.getpid(), 1: os.getpid()}
    second.release()

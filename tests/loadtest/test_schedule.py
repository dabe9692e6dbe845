import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.schedule import Schedule


@given(rate=st.integers(1, 1000), warm_up=st.integers(0, 3), duration=st.integers(1, 3))
def test_a_run_has_the_slots_that_its_rate_asks_for(rate: int, warm_up: int, duration: int) -> None:
    schedule = Schedule(rate, 100.0, warm_up, duration)
    slots = []
    while (slot := schedule.take(100.0)) is not None:
        slots.append(slot)
    assert len(slots) == pytest.approx(rate * (warm_up + duration), abs=1)
    assert sum(slot.judged for slot in slots) == pytest.approx(rate * duration, abs=1)
    assert all(slot.judged == (slot.due >= 100 + warm_up - 1e-9) for slot in slots)


def test_slots_stay_due_when_they_were_planned_however_late_they_are_taken() -> None:
    schedule = Schedule(10, 0.0, 0, None)
    # The service stalls for two seconds: the 20 slots that came due meanwhile are all taken, each with its own time.
    late = [schedule.take(2.0) for _ in range(20)]
    assert [slot.due for slot in late if slot] == pytest.approx([number / 10 for number in range(20)])


def test_what_is_still_due_after_the_end_is_not_sent() -> None:
    schedule = Schedule(10, 0.0, 0, 1)
    assert schedule.take(0.5) is not None
    assert schedule.take(1.0) is None


def test_a_backlog_of_the_warm_up_is_not_carried_into_the_judged_time() -> None:
    schedule = Schedule(10, 0.0, 2, 1)
    first = schedule.take(1.9)
    assert first is not None
    assert (first.due, first.judged) == (0.0, False)
    late = schedule.take(2.05)
    assert late is not None
    assert (late.due, late.judged) == (2.0, True)


def test_without_a_duration_it_never_ends() -> None:
    assert Schedule(10, 0.0, 0, None).take(1e9) is not None


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="rate=0: allowed: above 0"):
        Schedule(0, 0.0, 0, None)

from __future__ import annotations

from smartcache.breaker import Breaker


def test_it_opens_after_failures_in_a_row_and_probes_half_open() -> None:
    states: list[str] = []
    breaker = Breaker(3, 1.0, states.append)
    for _ in range(2):
        assert breaker.allows(0.0)
        breaker.failed(0.0)
    breaker.succeeded()
    for _ in range(3):
        assert breaker.allows(0.0)
        breaker.failed(0.0)
    assert not breaker.allows(0.5)
    assert breaker.allows(1.0), "one probe"
    assert not breaker.allows(1.0), "and only one"
    breaker.failed(1.1)
    assert not breaker.allows(2.0), "a failed probe keeps it open for longer"
    assert breaker.allows(3.2)
    breaker.succeeded()
    assert breaker.allows(3.2)
    assert states == ["closed", "open", "half_open", "open", "half_open", "closed"]


def test_a_probe_whose_outcome_never_comes_does_not_lock_it() -> None:
    breaker = Breaker(1, 1.0)
    breaker.failed(0.0)
    assert breaker.allows(1.0)
    assert breaker.allows(2.0)

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from smartcache.freshness import lifetime, refresh_early

# Written out again from the specification: (nearer than, TTL, TTL with the line-up confirmed), in seconds.
TABLE = [(15 * 60, 30, 30), (3600, 60, 60), (6 * 3600, 900, 1800), (24 * 3600, 3600, 7200), (math.inf, 21600, 43200)]
BOUNDARIES = [0, 15 * 60, 3600, 6 * 3600, 24 * 3600]

ages_at_kickoff = st.one_of(
    st.integers(-10, 200_000),
    st.builds(lambda edge, off: edge + off, st.sampled_from(BOUNDARIES), st.integers(-1000, 50_000)),
)
caps = st.one_of(st.just(math.inf), st.sampled_from([5.0, 10.0, 30.0, 60.0]), st.floats(0.1, 50_000))


def ttl_at(to_kickoff: float, lineup: bool) -> float:
    if to_kickoff <= 0:
        return 0
    return next(known if lineup else ttl for nearer, ttl, known in TABLE if to_kickoff <= nearer)


@given(kickoff=ages_at_kickoff, lineup=st.booleans(), cap=caps)
def test_expiry_is_the_first_instant_at_which_the_limit_is_outlived(kickoff: int, lineup: bool, cap: float) -> None:
    def limit(age: float) -> float:
        return min(ttl_at(kickoff - age, lineup), cap)

    # The limit is constant between boundaries, so it can only be outlived at one of these ages.
    candidates = sorted({0.0, cap, *(t for row in TABLE for t in row[1:]), *(kickoff - edge for edge in BOUNDARIES)})
    expected = next(age for age in candidates if 0 <= age < math.inf and age >= limit(age)) if kickoff > 0 else kickoff
    life = lifetime(kickoff, lineup_confirmed=lineup, cap=cap)
    assert life.expiry == expected
    # The stale window is one limit of the zone then reigning and ends at kickoff.
    window = min(ttl_at(kickoff - expected, lineup), cap)
    assert life.stale_until == max(min(expected + window, kickoff), expected if kickoff <= 0 else 0)


@given(kickoff=ages_at_kickoff, lineup=st.booleans(), cap=caps, shorten=st.floats(0.01, 1), age=st.floats(0, 200_000))
def test_nothing_fresh_is_older_than_its_zone_allows(
    kickoff: int, lineup: bool, cap: float, shorten: float, age: float
) -> None:
    life = lifetime(kickoff, lineup_confirmed=lineup, cap=cap, shorten=shorten)
    if age < life.expiry:
        assert age <= ttl_at(kickoff - age, lineup)
        assert age <= cap
        assert age < kickoff
    assert life.stale_until <= max(kickoff, 0) or kickoff <= 0
    whole = lifetime(kickoff, lineup_confirmed=lineup, cap=cap)
    assert life.expiry <= whole.expiry, "jitter only shortens"
    assert life.stale_until <= whole.stale_until, "the stale window too"


def test_a_value_from_before_the_golden_hour_does_not_run_on_into_it() -> None:
    made_61_minutes_before = lifetime(61 * 60.0)
    assert made_61_minutes_before == (60.0, 120.0)


def test_without_a_kickoff_the_configured_ttl_holds() -> None:
    assert lifetime(None) == (300.0, 600.0)
    assert lifetime(None, default_ttl=10, stale_for=5) == (10, 15)
    assert lifetime(None, cap=7) == (7, 14)


@given(remaining=st.floats(0.001, 100), seconds=st.floats(0.001, 10), uniform=st.floats(1e-12, 1))
def test_xfetch_is_the_published_formula(remaining: float, seconds: float, uniform: float) -> None:
    assert refresh_early(remaining, seconds, 1.0, uniform) == (-seconds * math.log(uniform) >= remaining)
    assert not refresh_early(remaining, seconds, 0.0, uniform)
    assert refresh_early(0.0, seconds, 1.0, uniform), "at expiry it always refreshes"

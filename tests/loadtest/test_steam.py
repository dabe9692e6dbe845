import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import steam
from smartcache.volatility import STATUS_NAMES, VolatilityLimits, Window


@given(st.floats(1.2, 100), st.lists(st.floats(1.01, 200), max_size=150))
def test_the_ladder_leads_through_warning_and_panic_to_calm_whatever_came_before(
    price: float, before: list[float]
) -> None:
    window, limits = Window(), VolatilityLimits()
    seen = []
    for odds in before:
        window.add(0.0, odds, limits)
    for ticks in (steam.ladder(price), [steam.warning(price)], [steam.panic(price)], steam.calm(steam.panic(price))):
        for odds in ticks:
            window.add(1.0, odds, limits)
        seen.append(STATUS_NAMES[window.judge(None, limits).status])
    assert seen == ["normal", "warning", "panic", "normal"]


def test_every_tick_of_a_plausible_price_is_one_the_service_takes() -> None:
    assert min(steam.ladder(1.2)) == pytest.approx(1.128)

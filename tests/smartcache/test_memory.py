from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smartcache.entry import Entry
from smartcache.memory import MemoryTier
from smartcache.protocol import Change


def entry(key: str, size: int = 1, match: str | None = None, market: str | None = None) -> Entry:
    return Entry(key, key, born=0.0, size=size, match_id=match, market=market)


def test_it_holds_no_more_entries_and_bytes_than_it_may() -> None:
    changes: list[tuple[int, int]] = []
    evictions: list[int] = []
    tier = MemoryTier(3, 100, lambda count, size: changes.append((count, size)), evictions.append)
    for key in "abcd":
        tier.put(entry(key))
    assert len(tier) == 3
    assert tier.get("a") is None, "the oldest that nobody asked for goes first"
    tier.put(entry("big", size=99))
    assert (len(tier), tier.bytes_held) == (2, 100)
    assert sum(evictions) == 3
    assert changes[-1] == (2, 100)
    tier.put(entry("huge", size=101))
    assert tier.get("huge") is None


def test_what_is_asked_for_survives_a_scan() -> None:
    tier = MemoryTier(10, 10**9)
    for number in range(10):
        tier.put(entry(f"hot{number}"))
        tier.get(f"hot{number}")
    for number in range(9):
        tier.put(entry(f"scan{number}"))
        for hot in range(10):
            tier.get(f"hot{hot}")
    assert sum(tier.get(f"hot{number}") is not None for number in range(10)) == 9


def test_a_match_is_retired_market_by_market() -> None:
    tier = MemoryTier(10, 1000)
    for key, match, market in [("a", "1", "btts"), ("b", "1", "penalty"), ("c", "1", None), ("d", "2", "btts")]:
        tier.put(entry(key, match=match, market=market))
    met = {one.key for one in tier.concerned(Change("delete", "match", "1", ("btts",)))}
    assert met == {"a", "c"}, "an entry without a market goes with every event of its match"
    for key in met:
        tier.drop(key)
    assert (tier.get("b"), tier.get("d")) != (None, None)
    assert tier.concerned(Change("delete", "match", "9", ("btts",))) == []
    assert tier.clear() == {"b", "d"}
    assert (len(tier), tier.bytes_held) == (0, 0)


operations = st.lists(
    st.tuples(st.sampled_from(["put", "get", "drop", "retire"]), st.integers(0, 12), st.integers(1, 40)), max_size=120
)


@given(operations=operations, most=st.integers(1, 8))
def test_bounds_and_books_hold_after_any_operations(operations: list[tuple[str, int, int]], most: int) -> None:
    tier = MemoryTier(most, 100)
    model: dict[str, int] = {}
    for what, number, size in operations:
        key, match = f"k{number}", str(number % 3)
        if what == "put":
            tier.put(entry(key, size, match, "btts"))
            model[key] = size
        elif what == "get":
            tier.get(key)
        elif what == "drop":
            tier.drop(key)
            model.pop(key, None)
        else:
            for gone in tier.concerned(Change("delete", "match", match, ("btts",))):
                tier.drop(gone.key)
                model.pop(gone.key, None)
            assert not any(tier.get(f"k{other}") for other in range(13) if str(other % 3) == match)
        held = {name for name in model if tier.get(name) is not None}
        assert len(tier) == len(held) <= most
        assert tier.bytes_held == sum(model[name] for name in held) <= 100
        model = {name: model[name] for name in held}


def test_a_tier_of_no_entries_holds_nothing() -> None:
    tier = MemoryTier(0, 100)
    tier.put(entry("a"))
    assert tier.get("a") is None

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartcache import UncacheableValueError
from smartcache.codec import Envelope, UnreadableEntryError, check_json, decode_entry, encode_entry

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)  # fmt: skip


def entry(value: Any) -> bytes:
    envelope = Envelope(value, 0.025, "7", "btts", 1740841200.0, True, None, 5.0, None, 1.0, {"v": "3"}, ("t",))
    return b"SC2L" + b"1740841200000000" + b"1740841199000000" + encode_entry(envelope)


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return bool(one == other)


@given(json_values)
def test_every_json_value_comes_back_the_same_by_value_and_type(value: Any) -> None:
    check_json(value)
    stored = decode_entry(entry(value))
    assert same(stored.envelope.value, value)
    assert stored.written == "1740841200000000"
    assert not stored.expired


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ((1, 2), "value is a tuple"),
        ({"a": [1, {2}]}, r"value\['a'\]\[1\] is a set"),
        ({"at": datetime(2025, 3, 1, tzinfo=UTC)}, r"value\['at'\] is a datetime.*ISO 8601"),
        ({1: 2}, "has the key 1 of type int"),
        ([float("nan")], r"value\[0\] is nan"),
        (float("inf"), "value is inf"),
        (2**64, "beyond 64 bits"),
        (b"x", "value is a bytes"),
        (object(), "value is a object"),
    ],
)
def test_what_json_cannot_carry_is_named_with_its_place(value: Any, named: str) -> None:
    with pytest.raises(UncacheableValueError, match=named):
        check_json(value)


@given(st.binary(max_size=200))
def test_foreign_bytes_are_unreadable_and_nothing_worse(data: bytes) -> None:
    with pytest.raises(UnreadableEntryError):
        decode_entry(data)


@given(cut=st.integers(0, 60), flip=st.integers(0, 60))
def test_damaged_entries_are_unreadable_or_still_an_entry(cut: int, flip: int) -> None:
    whole = entry({"a": 1})
    for damaged in (whole[: min(cut, len(whole) - 1)], whole[:flip] + b"\xc1" + whole[flip + 1 :]):
        try:
            decode_entry(damaged)
        except UnreadableEntryError:
            continue


def test_another_version_is_unreadable() -> None:
    with pytest.raises(UnreadableEntryError, match="SC3"):
        decode_entry(entry(1).replace(b"SC2", b"SC3", 1))


def test_an_entry_expired_by_hand_says_so() -> None:
    assert decode_entry(entry(1).replace(b"SC2L", b"SC2E", 1)).expired

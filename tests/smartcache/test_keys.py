from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartcache import KeyFactory, key_factory
from smartcache.keys import check_key, match_id_of

parts = st.text(min_size=1, max_size=20).filter(lambda text: max(text) < "\ud800" or max(text) > "\udfff")


def test_the_form_of_a_prediction_key() -> None:
    assert key_factory.prediction("12345", "btts") == "bets:prod:v1:pred:{m_12345}:btts"
    assert KeyFactory("b", "dev", "v2").key("x", 7) == "b:dev:v2:x:{m_7}"


@given(parts, parts)
def test_parts_are_escaped_so_that_keys_stay_apart_and_usable(match: str, market: str) -> None:
    key = key_factory.prediction(match, market)
    assert key.count(":") == 5
    assert key.count("{") == key.count("}") == 1
    assert not any(character.isspace() for character in key)
    assert key == key_factory.prediction(match, market)


@given(st.tuples(parts, parts), st.tuples(parts, parts))
def test_different_things_have_different_keys(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (key_factory.prediction(*one) == key_factory.prediction(*other)) == (one == other)


@pytest.mark.parametrize("bad", ["", "x" * 1025, "a\nb", "a\x00b"])
def test_keys_that_cannot_be_are_refused_by_name(bad: str) -> None:
    with pytest.raises(ValueError, match="cache_key"):
        check_key(bad)


def test_a_key_is_text() -> None:
    with pytest.raises(TypeError, match="b'key'"):
        check_key(b"key")  # type: ignore[arg-type]


def test_match_keys() -> None:
    assert match_id_of("match:12345") == match_id_of("12345") == "12345"
    with pytest.raises(ValueError, match="match:12345"):
        match_id_of("match:")


@pytest.mark.parametrize(
    ("bad", "error"), [(None, TypeError), (["match:1"], TypeError), (True, TypeError), ("match:\n", ValueError)]
)
def test_what_names_no_match_is_refused_by_name(bad: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=re.escape(repr(bad))):
        match_id_of(bad)

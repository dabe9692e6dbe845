"""No message shows a secret, whichever way a URL with a password is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from smartcache import CacheConfig, CacheMetrics, ConfigError, SmartCacheEnhanced
from smartcache.redaction import is_secret, redact

SECRET = "hunter2-correct-horse"
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"redis://:{SECRET}@store:6379/0", "redis://:***@store:6379/0"),
        (f"at rediss://me:{SECRET}@store, twice", "at rediss://me:***@store, twice"),
        (f"redis://{SECRET}@store", "redis://***@store"),
        (f"redis://:a/b?c#d'e@{SECRET}@store:6379", "redis://:***@store:6379"),
        (f"redis://store?password={SECRET}&db=1", "redis://store?password=***&db=1"),
        (f"Authorization: Bearer {SECRET}", "Authorization: ***"),
        (f"{{'authorization': 'Basic {SECRET}'}}", "{'authorization': '***'}"),
        (f"sent Bearer {SECRET} along", "sent Bearer *** along"),
        (f'"api_key": "two words {SECRET}"', '"api_key": "***"'),
        (f"X-Auth-Token={SECRET};", "X-Auth-Token=***;"),
        ("http://127.0.0.1:8000/v1/matches", "http://127.0.0.1:8000/v1/matches"),
        ("redis://one:6379,two:6379", "redis://one:6379,two:6379"),
        ("the lease has a token, the store a key", "the lease has a token, the store a key"),
    ],
)
def test_a_secret_is_told_by_its_form_and_the_rest_stays(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_what_goes_by_a_secret_name_is_secret() -> None:
    assert all(
        map(is_secret, ("REDIS_PASSWORD", "authorization", "Set-Cookie", "OTLP_TOKEN", "apiKey", "client_secret"))
    )
    assert not any(map(is_secret, ("redis_url", "cache_key", "market_key", "default_ttl", "author")))


WRONG = [
    {"SMARTCACHE_REDIS_URL": f"http://:{SECRET}@store"},  # no scheme of the store's
    {"SMARTCACHE_REDIS_URL": f"redis://:{SECRET}@store:port/0"},  # no port
    {"SMARTCACHE_REDIS_URL": f"redis://:{SECRET}/{SECRET}@store/0"},  # a password that was not encoded
    {"SMARTCACHE_REDIS_URL": f"redis://:{SECRET}'\"{SECRET}@store:port/0"},
    {"SMARTCACHE_REDIS_URL": f"redis://:{SECRET}\N{DOUBLE EXCLAMATION MARK}\N{CARE OF}@store/0"},
    {"SMARTCACHE_REDIS_URL": f"redis://:{SECRET}@store/0?no_such_option=1"},
    {"SMARTCACHE_REDIS_URL": f"redis://[:{SECRET}@store/0"},
    {"SMARTCACHE_REDIS_URL": f"redis://store/0?password={SECRET}&no_such_option=1"},
    {"SMARTCACHE_REDIS_URI": f"redis://:{SECRET}@store/0"},  # no such setting
    {"SMARTCACHE_REDIS_PASSWORD": SECRET},
]


@pytest.mark.parametrize("environment", WRONG)
def test_no_error_about_the_settings_shows_it(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as raised:
        SmartCacheEnhanced(CacheConfig.from_env(environment), metrics=CacheMetrics())
    told: BaseException | None = raised.value
    while told is not None:  # a traceback shows what came before it too
        assert SECRET not in str(told)
        told = None if told.__suppress_context__ else told.__cause__ or told.__context__


def test_settings_given_as_arguments_are_shown_no_less_carefully() -> None:
    with pytest.raises(ConfigError) as raised:
        CacheConfig(redis_url=f"http://:{SECRET}@store")
    assert SECRET not in str(raised.value)
    config = CacheConfig(redis_url=f"redis://:{SECRET}@store/0")
    assert SECRET not in f"{config} {config!r} {dict(config.__rich_repr__())}"
    assert "redis_url='redis://:***@store/0'" in repr(config)


@pytest.mark.parametrize("environment", [WRONG[1], WRONG[2], WRONG[8], {"SERVICE_TOKEN": SECRET}])
def test_a_service_that_cannot_run_does_not_show_it(environment: dict[str, str]) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SERVICE_", "SMARTCACHE_"))}
    done = subprocess.run(
        [sys.executable, "-m", "service"],
        env={**kept, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("service cannot run: ")
    assert SECRET not in done.stdout + done.stderr

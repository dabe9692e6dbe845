"""No message shows a secret, whichever way a URL with a password is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import time
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
        (f"password=a,{SECRET} next", "password=*** next"),
        (f"sent Authorization: ApiKey {SECRET}\nthen", "sent Authorization: ***\nthen"),
        (f'Authorization: Digest username="me", response="{SECRET}"', "Authorization: ***"),
        (f"curl -H 'Authorization: Api-Token {SECRET}' http://backend", "curl -H 'Authorization: ***' http://backend"),
        (f"Set-Cookie: session={SECRET}; Path=/", "Set-Cookie: ***"),
        (f"[(b'x-api-key', b'{SECRET}'), (b'accept', b'*/*')]", "[(b'x-api-key', '***'), (b'accept', b'*/*')]"),
        (f"('authorization', 'ApiKey {SECRET}')", "('authorization', '***')"),
        (f'"{{\\"password\\": \\"{SECRET}\\", \\"a\\": 1}}"', '"{\\"password\\": \\"***\\", \\"a\\": 1}"'),
        (f"password=b'{SECRET}'", "password='***'"),
        (f"token: ['{SECRET}', 'b'] and", "token: *** and"),
        (f'password="a line\n{SECRET}" and', 'password="***" and'),
        (f'password="not closed {SECRET}', 'password="***"'),
        (f"to=redis%3A%2F%2Fme%3A{SECRET}%40store%3A6379&page=2", "to=redis%3A%2F%2Fme%3A***%40store%3A6379&page=2"),
        (f"https:\\/\\/me:{SECRET}@store", "https:\\/\\/me:***@store"),
        (f"q=token%3D{SECRET}&sig={SECRET}&X-Goog-Signature={SECRET}", "q=token%3D***&sig=***&X-Goog-Signature=***"),
        (
            f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET.replace('-', '')}\n-----END",
            "-----BEGIN RSA PRIVATE KEY-----***-----END",
        ),
        ("http://127.0.0.1:8000/v1/matches", "http://127.0.0.1:8000/v1/matches"),
        ("mail me@example.org about http://store/", "mail me@example.org about http://store/"),
        ("redis://one:6379,two:6379", "redis://one:6379,two:6379"),
        ("the lease has a token, the store a key", "the lease has a token, the store a key"),
    ],
)
def test_a_secret_is_told_by_its_form_and_the_rest_stays(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "unit", ["a", "token", "token=", 'token="', "://", "@://", "bearer ", "authorization:", 'cookie:="']
)
def test_a_long_text_takes_no_longer_than_its_length(unit: str) -> None:
    """Messages of errors may hold what strangers sent, and are read on the event loop."""
    began = time.perf_counter()
    redact((unit * 100_000)[:100_000])
    assert time.perf_counter() - began < 2


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
    {"SMARTCACHE_REDIS_URL": f"me:{SECRET}@store:6379"},  # no scheme
    {"SMARTCACHE_REDIS_URL": f"redis:/:two words {SECRET}@store"},
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
    for password in (SECRET, f"two words {SECRET}"):
        config = CacheConfig(redis_url=f"redis://:{password}@store/0")
        assert SECRET not in f"{config} {config!r} {dict(config.__rich_repr__())}"
    assert "redis_url='redis://:***@store/0'" in repr(config)


@pytest.mark.parametrize("environment", [WRONG[1], WRONG[2], WRONG[10], {"SERVICE_TOKEN": SECRET}])
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

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smartcache import CacheConfig, ConfigError


def test_the_environment_sets_what_is_named_and_converts_it() -> None:
    config = CacheConfig.from_env(
        {
            "SMARTCACHE_REDIS_URL": "redis://127.0.0.1:6379/1",
            "SMARTCACHE_MEMORY_ENTRIES": "500",
            "SMARTCACHE_SOFT_TIMEOUT": "0.5",
            "SMARTCACHE_COMPETITIONS": "en.1, es.1",
            "SMARTCACHE_RESET_DAILY": "vix",
            "SMARTCACHE_RESET_HOURLY": "performance,swr",
            "SMARTCACHE_JITTER": "",
            "PATH": "/bin",
        }
    )
    assert config.redis_url == "redis://127.0.0.1:6379/1"
    assert (config.memory_entries, config.soft_timeout, config.jitter) == (500, 0.5, 0.0)
    assert config.competitions == ("en.1", "es.1")
    assert config.resets == {"vix": "daily", "performance": "hourly", "swr": "hourly"}
    assert CacheConfig().resets == {}


def test_arguments_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cache.toml"
    path.write_text("default_ttl = 10\nhard_timeout = 3\njitter = 0.1\n")
    environ = {"SMARTCACHE_CONFIG": str(path), "SMARTCACHE_HARD_TIMEOUT": "4"}
    config = CacheConfig.from_env(environ, jitter=0.2)
    assert (config.default_ttl, config.hard_timeout, config.jitter) == (10, 4, 0.2)
    assert CacheConfig.from_file(path).hard_timeout == 3


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("DEFAULT_TTL", "-5", "greater than 0"),
        ("DEFAULT_TTL", "soon", "a number"),
        ("MEMORY_ENTRIES", "1.5", "a whole number"),
        ("JITTER", "1.5", r"\[0, 1\)"),
        ("REDIS_URL", "http://localhost", "redis://"),
        ("VIX_WARNING_Z", "3", "vix_panic_z"),
        ("MEMORY_ENTRIES", "-1", "0 or more"),
        ("HARD_TIMEOUT", "inf", "finite"),
        ("VIX_LEAST_SAMPLES", "1", "2 or more"),
        ("COMPETITIONS", "en.1,\udcff", "printable names"),
        ("RESET_DAILY", "vix,latency", "some of base_cache, vix, "),
    ],
)
def test_a_wrong_value_is_named_with_its_setting_and_what_is_allowed(name: str, value: str, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"SMARTCACHE_{name} is .*{allowed}"):
        CacheConfig.from_env({f"SMARTCACHE_{name}": value})


def test_a_category_begins_anew_by_the_hour_or_by_the_day() -> None:
    with pytest.raises(ConfigError, match=r"SMARTCACHE_RESET_DAILY is 'vix', .* none of those in SMARTCACHE_RESET_H"):
        CacheConfig(reset_hourly=("performance", "vix"), reset_daily=("vix",))


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ({"competitions": "en.1"}, "a list of names"),
        ({"memory_entries": 1.5}, "a whole number"),
        ({"hard_timeout": True}, "a number"),
        ({"default_ttl": "300"}, "a number"),
        ({"redis_url": 5}, "text"),
        ({"redis_cluster": "yes"}, "true or false"),
    ],
)
def test_an_argument_of_another_type_is_named_with_its_setting_and_what_is_allowed(
    setting: dict[str, Any], allowed: str
) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(ConfigError, match=f"^SMARTCACHE_{name.upper()} is {value!r}, but must be {allowed}$"):
        CacheConfig(**setting)


def test_a_cluster_has_an_address() -> None:
    with pytest.raises(
        ConfigError, match=r"SMARTCACHE_REDIS_CLUSTER is True, .* false, unless SMARTCACHE_REDIS_URL says"
    ):
        CacheConfig.from_env({"SMARTCACHE_REDIS_CLUSTER": "true"})


def test_an_unknown_setting_is_refused_and_the_known_ones_listed() -> None:
    with pytest.raises(ConfigError, match=r"SMARTCACHE_REDISURL='x'.*SMARTCACHE_REDIS_URL"):
        CacheConfig.from_env({"SMARTCACHE_REDISURL": "x"})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        CacheConfig.from_env({"SMARTCACHE_CONFIG": str(tmp_path / "nowhere.toml")})

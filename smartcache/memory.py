"""The memory tier: entries of this process, bounded by number and by bytes, evicted by SIEVE.

SIEVE: Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is Simpler than LRU, NSDI 2024. A hit only sets a bit, so readers need
no lock; a scan that is never asked for again leaves at the first pass of the hand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from smartcache.entry import Entry
from smartcache.protocol import Change

__all__ = ["MemoryTier"]


class MemoryTier:
    """A bounded map from key to entry; reads are lock-free, changes take a lock.

    Args:
        most_entries: bound on the number of entries; 0 holds nothing.
        most_bytes: bound on the sum of their sizes.
        on_change: called with entries and bytes held after each change.
        on_evict: called with the number of entries evicted for room.
    """

    def __init__(
        self,
        most_entries: int,
        most_bytes: int,
        on_change: Callable[[int, int], None] = lambda entries, held: None,
        on_evict: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._on_change = on_change
        self._on_evict = on_evict
        self._entries: dict[str, Entry] = {}
        #: Keys by match and by tag.
        self._by_owner: dict[tuple[str, str], set[str]] = {}
        self._bytes = 0
        self._newest: Entry | None = None
        self._oldest: Entry | None = None
        self._hand: Entry | None = None
        self.lock: Final = threading.RLock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def off(self) -> bool:
        """Whether it holds nothing by configuration."""
        return self._most_entries == 0

    @property
    def bytes_held(self) -> int:
        """Encoded size of everything held."""
        return self._bytes

    def get(self, key: str) -> Entry | None:
        """The entry, marked as used."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.visited = True
        return entry

    def put(self, entry: Entry) -> None:
        """Hold an entry in place of what the key had; one larger than the whole tier is not held."""
        if self._most_entries == 0 or entry.size > self._most_bytes:
            return
        with self.lock:
            old = self._entries.get(entry.key)
            if old is not None:
                entry.visited = old.visited
                self._unlink(old)
            evicted = 0
            while self._entries and (
                len(self._entries) >= self._most_entries or self._bytes + entry.size > self._most_bytes
            ):
                self._unlink(self._victim())
                evicted += 1
            self._link(entry)
            if evicted:
                self._on_evict(evicted)
            self._on_change(len(self._entries), self._bytes)

    def drop(self, key: str) -> Entry | None:
        """Let go of a key; returns what it had."""
        with self.lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._unlink(entry)
                self._on_change(len(self._entries), self._bytes)
            return entry

    def concerned(self, change: Change) -> list[Entry]:
        """The entries that a change means; finding them costs what the match or tag has, not what is held."""
        with self.lock:
            if change.what == "key":
                entry = self._entries.get(change.name)
                return [] if entry is None else [entry]
            if change.what == "all":
                return list(self._entries.values())
            entries = [self._entries[key] for key in self._by_owner.get((change.what, change.name), ())]
            return [one for one in entries if change.concerns(one.key, one.match_id, one.market, one.tags)]

    def clear(self) -> set[str]:
        """Let go of everything; returns the keys that were held."""
        with self.lock:
            held = set(self._entries)
            self._entries = {}
            self._by_owner = {}
            self._bytes = 0
            self._newest = self._oldest = self._hand = None
            self._on_change(0, 0)
            return held

    def _victim(self) -> Entry:
        hand = self._hand or self._oldest
        assert hand is not None
        while hand.visited:
            hand.visited = False
            hand = hand.newer or self._oldest
            assert hand is not None
        self._hand = hand.newer
        return hand

    def _link(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        self._bytes += entry.size
        for owner in _owners(entry):
            self._by_owner.setdefault(owner, set()).add(entry.key)
        entry.older, entry.newer = self._newest, None
        if self._newest is not None:
            self._newest.newer = entry
        self._newest = entry
        if self._oldest is None:
            self._oldest = entry

    def _unlink(self, entry: Entry) -> None:
        del self._entries[entry.key]
        self._bytes -= entry.size
        for owner in _owners(entry):
            siblings = self._by_owner[owner]
            siblings.discard(entry.key)
            if not siblings:
                del self._by_owner[owner]
        if self._hand is entry:
            self._hand = entry.newer
        if entry.newer is not None:
            entry.newer.older = entry.older
        else:
            self._newest = entry.older
        if entry.older is not None:
            entry.older.newer = entry.newer
        else:
            self._oldest = entry.newer
        entry.older = entry.newer = None


def _owners(entry: Entry) -> list[tuple[str, str]]:
    match = [] if entry.match_id is None else [("match", entry.match_id)]
    return [*match, *(("tag", tag) for tag in entry.tags)]

"""The memory tier: entries of this process, bounded by number and by bytes; ``eviction.py`` says which leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from smartcache.entry import Entry
from smartcache.eviction import Eviction
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
        self._eviction = Eviction(most_entries, most_bytes)
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
        """Hold an entry in place of what the key had, with its standing; one larger than the tier leaves none held."""
        if self._most_entries == 0:
            return
        if entry.size > self._most_bytes:
            self.drop(entry.key)
            return
        with self.lock:
            old = self._entries.get(entry.key)
            evicted = 0
            while not self._fits(entry, old):
                victim = self._eviction.evict(entry.size)
                self._unlink(victim)
                evicted += 1
                if victim is old:
                    old = None
            if old is None:
                self._eviction.admit(entry)
            else:
                self._eviction.replace(old, entry)
                self._unindex(old)
            self._link(entry)
            if evicted:
                self._on_evict(evicted)
            self._on_change(len(self._entries), self._bytes)

    def drop(self, key: str) -> Entry | None:
        """Let go of a key; returns what it had."""
        with self.lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._let_go(entry)
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
            return [one for one in entries if change.concerns(one)]

    def clear(self) -> set[str]:
        """Let go of everything; returns the keys that were held."""
        with self.lock:
            held = set(self._entries)
            self._entries = {}
            self._by_owner = {}
            self._bytes = 0
            self._eviction = Eviction(self._most_entries, self._most_bytes)
            self._on_change(0, 0)
            return held

    def _fits(self, entry: Entry, old: Entry | None) -> bool:
        count, held = (1, 0) if old is None else (0, old.size)
        return len(self._entries) + count <= self._most_entries and self._bytes - held + entry.size <= self._most_bytes

    def _let_go(self, entry: Entry) -> None:
        self._eviction.remove(entry)
        self._unlink(entry)

    def _link(self, entry: Entry) -> None:
        # What the key had gives way in one step: a reader, who takes no lock, finds the one or the other.
        self._entries[entry.key] = entry
        self._index(entry)

    def _unlink(self, entry: Entry) -> None:
        del self._entries[entry.key]
        self._unindex(entry)

    def _index(self, entry: Entry) -> None:
        self._bytes += entry.size
        for owner in _owners(entry):
            self._by_owner.setdefault(owner, set()).add(entry.key)

    def _unindex(self, entry: Entry) -> None:
        self._bytes -= entry.size
        for owner in _owners(entry):
            siblings = self._by_owner[owner]
            siblings.discard(entry.key)
            if not siblings:
                del self._by_owner[owner]


def _owners(entry: Entry) -> list[tuple[str, str]]:
    match = [] if entry.match_id is None else [("match", entry.match_id)]
    return [*match, *(("tag", tag) for tag in entry.tags)]

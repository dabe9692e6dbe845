"""What this process holds and is computing, and how changes from anywhere take hold of both at once."""

from __future__ import annotations

from collections.abc import Iterable

from smartcache.entry import Entry
from smartcache.flight import Board, Flight
from smartcache.memory import MemoryTier

__all__ = ["Holdings"]


class Holdings:
    """The memory tier and the flights of a process.

    A change drops what is held and fences what is being computed in one step, so that neither a result nor a value read
    from the store before the change can come in after it.
    """

    def __init__(self, memory: MemoryTier) -> None:
        self.memory = memory
        self.board: Board[Entry] = Board()
        #: Grows with every change; a value read under an older number is not taken in.
        self.epoch = 0

    def get(self, key: str) -> Entry | None:
        """What memory holds."""
        return self.memory.get(key)

    def take_in(self, entry: Entry, epoch: int) -> None:
        """Hold an entry read from the store, unless something has changed since ``epoch`` or a newer one is held."""
        with self.memory.lock:
            held = self.memory.get(entry.key)
            if epoch == self.epoch and (held is None or held.born <= entry.born):
                self.memory.put(entry)

    def keep(self, entry: Entry, flight: Flight[Entry]) -> bool:
        """Hold an entry that was computed, unless something overtook its flight; whether it is held."""
        with self.memory.lock:
            if flight.fenced:
                return False
            self.memory.put(entry)
            return True

    def retire(self, match_id: str, markets: Iterable[str]) -> set[str]:
        """Let go of a match's markets; returns the keys that were held."""
        affected = frozenset(markets)
        with self.memory.lock:
            self.epoch += 1
            self.board.fence(match_id, affected)
            return self.memory.retire(match_id, affected)

    def forget(self, key: str) -> int:
        """Let go of a key; returns how many values that was."""
        with self.memory.lock:
            self.epoch += 1
            self.board.fence_key(key, gone=True)
            return int(self.memory.drop(key) is not None)

    def expire(self, key: str) -> int:
        """Mark a key's value as expired; returns how many values that was."""
        with self.memory.lock:
            self.epoch += 1
            self.board.fence_key(key, gone=False)
            entry = self.memory.get(key)
            if entry is None:
                return 0
            entry.expired = True
            entry.standing = None
            return 1

    def forget_everything(self) -> int:
        """Let go of everything; returns how many values that was."""
        with self.memory.lock:
            self.epoch += 1
            self.board.fence_all()
            return self.memory.clear()

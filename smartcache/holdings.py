"""What this process holds and is computing, and how changes from anywhere take hold of both at once."""

from __future__ import annotations

from smartcache.entry import Entry
from smartcache.flight import Board, Flight
from smartcache.memory import MemoryTier
from smartcache.protocol import Change

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
        if self.memory.off:
            return
        with self.memory.lock:
            held = self.memory.get(entry.key)
            if epoch == self.epoch and (held is None or held.born <= entry.born):
                self.memory.put(entry)

    def keep(self, entry: Entry, flight: Flight[Entry]) -> bool:
        """Hold an entry that was computed, unless something overtook its flight; whether it is held."""
        with self.memory.lock:
            if flight.fenced or any(change.concerns(entry) for change in flight.changes):
                return False
            self.memory.put(entry)
            return True

    def apply(self, change: Change) -> set[str]:
        """Let a change take hold; returns the keys of the values it met."""
        with self.memory.lock:
            self.epoch += 1
            self.board.fence(change)
            if change == EVERYTHING:
                return self.memory.clear()
            met = self.memory.concerned(change)
            for entry in met:
                if change.do == "delete":
                    self.memory.drop(entry.key)
                else:
                    entry.expired = True
                    entry.standing = None
            return {entry.key for entry in met}


#: The change that retires everything.
EVERYTHING = Change("delete", "all")

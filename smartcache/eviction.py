"""Which entry leaves when room is needed: three first-in-first-out queues, and the keys of those that left.

Arrivals enter a small queue, a tenth of the tier. Those asked for again move to the main queue, the others leave, and
one whose key comes back soon enough goes straight to the main queue: S3-FIFO (Yang, Zhang, Qiu, Yue, Vinayak: FIFO
Queues Are All You Need for Cache Eviction, SOSP 2023). A scan that is never asked for again passes through the small
queue alone.

Hits on the newest quarter of the small queue say nothing, for one request is often followed at once by more of the
same key: the correlation window of Clock2Q+ (Zhai et al.: Clock2Q+: A Simple and Efficient Replacement Algorithm for
Metadata Cache in VMware vSAN, VLDB 2026). The main queue is a clock that counts the rounds in which an entry was used,
where GCLOCK (Smith: Sequentiality and Prefetching in Database Systems, ACM TODS 3(3), 1978) counts hits: so a hit has
but a bit to set, and a burst of hits is one use.

One thing is of neither: while the main queue has room, the small queue lets go into it. Of a loop larger than the tier
the main queue then keeps what it can hold, where S3-FIFO, like LRU, keeps nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from smartcache.entry import Entry

__all__ = ["Eviction", "Queue"]

#: Rounds in which an entry of the main queue was used, as far as they count: what two bits hold.
_MOST_ROUNDS: Final = 3
#: Entries of the main queue that one eviction passes over at most, so that none lasts long under the lock.
_MOST_PASSED: Final = 100


class Queue:
    """Entries in the order in which they came, linked through themselves.

    Attributes:
        count: how many.
        bytes: sum of their sizes.
        oldest: the one that came first.
    """

    __slots__ = ("_newest", "bytes", "count", "oldest")

    def __init__(self) -> None:
        self.oldest: Entry | None = None
        self._newest: Entry | None = None
        self.count = 0
        self.bytes = 0

    def push(self, entry: Entry) -> None:
        """Take in an entry as the newest; its hits so far no longer count."""
        entry.visited = False
        entry.queue = self
        entry.older, entry.newer = self._newest, None
        if self._newest is None:
            self.oldest = entry
        else:
            self._newest.newer = entry
        self._newest = entry
        self.count += 1
        self.bytes += entry.size

    def pop(self) -> Entry:
        """Let go of the oldest; there must be one."""
        oldest = self.oldest
        assert oldest is not None
        self.remove(oldest)
        return oldest

    def remove(self, entry: Entry) -> None:
        """Let go of an entry of this queue."""
        if entry.newer is None:
            self._newest = entry.older
        else:
            entry.newer.older = entry.older
        if entry.older is None:
            self.oldest = entry.newer
        else:
            entry.older.newer = entry.newer
        entry.older = entry.newer = entry.queue = None
        self.count -= 1
        self.bytes -= entry.size

    def replace(self, old: Entry, new: Entry) -> None:
        """Put an entry in the place of another."""
        older, newer = old.older, old.newer
        old.older = old.newer = old.queue = None
        new.older, new.newer, new.queue = older, newer, self
        if newer is None:
            self._newest = new
        else:
            newer.older = new
        if older is None:
            self.oldest = new
        else:
            older.newer = new
        self.bytes += new.size - old.size


class Eviction:
    """The queues of a tier; a hit only sets ``visited`` on its entry, everything else happens under the tier's lock.

    The ghosts are hashes of evicted keys, about 150 bytes each. There are never more of them than the main queue had
    entries when the last one came, so never more than ``most_entries``.

    Args:
        most_entries: bound of the tier on the number of entries.
        most_bytes: bound of the tier on the sum of their sizes.
    """

    def __init__(self, most_entries: int, most_bytes: int) -> None:
        self._small_count = max(1, most_entries // 10)
        self._small_bytes = most_bytes // 10
        self._main_count = most_entries - self._small_count
        self._main_bytes = most_bytes - self._small_bytes
        self._window = Queue()
        self._probation = Queue()
        self._main = Queue()
        self._ghosts: OrderedDict[int, None] = OrderedDict()

    def admit(self, entry: Entry) -> None:
        """Queue an entry whose key is not held and for which there is room."""
        ghost = hash(entry.key)
        if ghost in self._ghosts:
            del self._ghosts[ghost]
            self._main.push(entry)
            return
        self._window.push(entry)
        while self._window.count > self._small_count // 4 or self._window.bytes > self._small_bytes // 4:
            self._probation.push(self._window.pop())
        while (oldest := self._probation.oldest) and not self._small_takes(0, 0) and self._main_takes(oldest):
            self._main.push(self._probation.pop())

    def replace(self, old: Entry, new: Entry) -> None:
        """Let the new entry of a key take the place and the standing of its old one."""
        assert old.queue is not None
        new.visited, new.rounds = old.visited, old.rounds
        old.queue.replace(old, new)

    def remove(self, entry: Entry) -> None:
        """Let go of an entry that the tier no longer holds."""
        assert entry.queue is not None
        entry.queue.remove(entry)

    def evict(self, size: int) -> Entry:
        """Let go of the entry that is worth the least, to make room for another; there must be one.

        Args:
            size: of the entry that needs the room.
        """
        while self._probation.count and not self._small_takes(1, size):
            oldest = self._probation.pop()
            if not oldest.visited:
                self._remember(oldest)
                return oldest
            self._main.push(oldest)
        return self._main_victim() if self._main.count else self._window.pop()

    def _small_takes(self, count: int, size: int) -> bool:
        return (
            self._window.count + self._probation.count + count <= self._small_count
            and self._window.bytes + self._probation.bytes + size <= self._small_bytes
        )

    def _main_takes(self, entry: Entry) -> bool:
        return self._main.count < self._main_count and self._main.bytes + entry.size <= self._main_bytes

    def _main_victim(self) -> Entry:
        for _ in range(_MOST_PASSED):
            oldest = self._main.pop()
            rounds = min(oldest.rounds + 1, _MOST_ROUNDS) if oldest.visited else oldest.rounds - 1
            if rounds <= 0:
                return oldest
            oldest.rounds = rounds
            self._main.push(oldest)
        return self._main.pop()

    def _remember(self, entry: Entry) -> None:
        self._ghosts[hash(entry.key)] = None
        while len(self._ghosts) > self._main.count:
            self._ghosts.popitem(last=False)

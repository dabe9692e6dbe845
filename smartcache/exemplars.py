"""Exemplars in a process's metrics memory: for each latency bucket the last request whose trace was exported.

They lie at the end of the memory, by strategy and bucket. A slot is five cells: the trace id (two), the latency, the
instant at its end, and a checksum over these. Writer and readers share no lock: a slot that is read while it is being
written fails its checksum, whatever the order in which its bytes arrive, and counts as empty.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple
from zlib import crc32

from smartcache.catalogue import REQUEST_BUCKETS, STRATEGIES

__all__ = ["CELLS", "Exemplar", "Exemplars", "describe", "newest", "read", "write"]

_CONTENT: Final = struct.Struct("=16sdd")
_SLOT: Final = struct.Struct("=16sddQ")
_EMPTY: Final = bytes(16)
_SLOTS: Final = len(REQUEST_BUCKETS) + 1
#: Cells of all slots.
CELLS: Final = len(STRATEGIES) * _SLOTS * _SLOT.size // 8


class Exemplar(NamedTuple):
    """One request that stands for its bucket.

    Attributes:
        trace_id: its trace, 32 hexadecimal digits.
        seconds: from asking to the answer.
        at: when it was answered, in seconds since the Unix epoch.
    """

    trace_id: str
    seconds: float
    at: float


#: By strategy and position of the bucket in ``catalogue.REQUEST_BUCKETS``, the last being +Inf.
Exemplars = Mapping[tuple[str, int], Exemplar]


def describe(first: int) -> dict[str, Any]:
    """Where the slots lie, as plain data, when they begin at cell ``first``."""
    return {"cell": first, "strategies": list(STRATEGIES), "slots": _SLOTS}


def write(cells: memoryview[int], first: int, strategy: str, exemplar: Exemplar) -> None:
    """Let a request stand for its bucket from now on; one at a time may write."""
    slot = STRATEGIES.index(strategy) * _SLOTS + bisect_left(REQUEST_BUCKETS, exemplar.seconds)
    content = _CONTENT.pack(bytes.fromhex(exemplar.trace_id), exemplar.seconds, exemplar.at)
    at = 8 * first + slot * _SLOT.size
    cells.cast("B")[at : at + _SLOT.size] = content + struct.pack("=Q", crc32(content))


def read(cells: bytes, description: Mapping[str, Any] | None) -> Exemplars:
    """The exemplars in a memory image; none where it was written by a version that had none.

    Args:
        cells: the image, 8 bytes a cell.
        description: :func:`describe` of the process that wrote it.
    """
    found: dict[tuple[str, int], Exemplar] = {}
    if description is None:
        return found
    first, slots, strategies = 8 * description["cell"], description["slots"], description["strategies"]
    region = cells[first : first + len(strategies) * slots * _SLOT.size]
    if region == bytes(len(region)):
        return found
    for number, (trace_id, seconds, at, checksum) in enumerate(_SLOT.iter_unpack(region)):
        if trace_id == _EMPTY or crc32(_CONTENT.pack(trace_id, seconds, at)) != checksum:
            continue
        # Under the edges of this version, which may not be those it was written under.
        found[strategies[number // slots], bisect_left(REQUEST_BUCKETS, seconds)] = Exemplar(
            trace_id.hex(), seconds, at
        )
    return found


def newest(several: Iterable[Exemplars]) -> Exemplars:
    """Of several processes' exemplars the newest for each bucket."""
    found: dict[tuple[str, int], Exemplar] = {}
    for exemplars in several:
        for place, exemplar in exemplars.items():
            if place not in found or found[place].at < exemplar.at:
                found[place] = exemplar
    return found

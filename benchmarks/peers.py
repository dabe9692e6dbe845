"""The peers, and which of them can be imported here."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import cache
from importlib.metadata import version
from typing import Final, NamedTuple

from benchmarks.turns import Turn
from benchmarks.verdict import Bar, Comparison

__all__ = ["PEERS", "Peer", "absent", "comparisons", "invite", "versions"]

#: Distribution to the module that it brings.
PEERS: Final = {
    "cashews": "cashews",
    "aiocache": "aiocache",
    "dogpile.cache": "dogpile.cache",
    "async-lru": "async_lru",
    "cachetools": "cachetools",
    "cachebox": "cachebox",
    "theine": "theine",
    "redis": "redis",
    "valkey-glide": "glide",
    "prometheus-client": "prometheus_client",
}


class Peer(NamedTuple):
    """One way to do a row's work with a peer.

    Attributes:
        distribution: whose it is.
        label: as it stands in the table.
        begin: sets it up and gives its turn; what must be closed goes on the stack.
        bar: what is asked of us beside it.
    """

    distribution: str
    label: str
    begin: Callable[[AsyncExitStack], Awaitable[Turn]]
    bar: Bar | None = None


@cache
def absent() -> dict[str, str]:
    """The peers that cannot be imported, with the reason."""
    reasons = {}
    for distribution, module in PEERS.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # a compiled one may fail in any way
            reasons[distribution] = f"{type(error).__name__}: {error}"
    return reasons


def versions() -> dict[str, str]:
    """The versions of the peers that are there."""
    return {name: version(name) for name in PEERS if name not in absent()}


async def invite(peers: Sequence[Peer], stack: AsyncExitStack) -> dict[str, Turn]:
    """The turns of the peers that are there, by label."""
    return {peer.label: await peer.begin(stack) for peer in peers if peer.distribution not in absent()}


def comparisons(peers: Sequence[Peer], figures: Mapping[str, float]) -> list[Comparison]:
    """Ours beside each peer; one that is absent has no figure."""
    return [
        Comparison(peer.label if peer.label in figures else f"{peer.label} (absent)", figures.get(peer.label), peer.bar)
        for peer in peers
    ]

"""The peers, and which of them are installed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from importlib.metadata import PackageNotFoundError, version
from typing import Final, NamedTuple

from benchmarks.turns import Turn
from benchmarks.verdict import Bar

__all__ = ["PEERS", "Peer", "absent", "bars", "invite", "versions"]

#: Their distributions.
PEERS: Final = (
    "cashews", "aiocache", "dogpile.cache", "async-lru", "cachetools", "cachebox", "theine", "redis", "valkey-glide",
    "prometheus-client",
)  # fmt: skip


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


def versions() -> dict[str, str | None]:
    """The version of each peer; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def absent() -> list[str]:
    """The peers that are not installed."""
    return [name for name, number in versions().items() if number is None]


async def invite(peers: Sequence[Peer], stack: AsyncExitStack) -> dict[str, Turn]:
    """The turns of the peers that are there, by label."""
    missing = absent()
    return {peer.label: await peer.begin(stack) for peer in peers if peer.distribution not in missing}


def bars(peers: Sequence[Peer]) -> dict[str, Bar | None]:
    """What is asked of us beside each peer, by label."""
    return {peer.label: peer.bar for peer in peers}

"""How a stack stands, in either mode, and why it could not be brought there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["StackError", "Standing", "table"]


class StackError(RuntimeError):
    """The stack could not be started or stopped; the message says which part, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one part stands.

    Attributes:
        name: the part.
        address: where it is; empty when it does not run.
        ready: whether it does its work.
        said: a few words for people.
        absent: true when this machine has no program for it.
    """

    name: str
    address: str
    ready: bool
    said: str
    absent: bool = False


def table(standings: Sequence[Standing]) -> str:
    """The parts as lines for a terminal."""
    name = max(len(standing.name) for standing in standings)
    address = max(len(standing.address) for standing in standings)
    return "\n".join(f"  {s.name:<{name}}  {s.address or '-':<{address}}  {s.said}" for s in standings)

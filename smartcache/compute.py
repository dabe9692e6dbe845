"""What a compute can see and say while it runs: what is held, and how its result shall be kept."""

from __future__ import annotations

import contextvars
from collections.abc import Iterable
from typing import Any, Final

from smartcache.request import check_seconds, check_tags

__all__ = ["ComputeContext", "compute_context", "running"]


class ComputeContext:
    """The present compute.

    Attributes:
        key: what it computes.
        held: the value held meanwhile, such as one that expired; None when there is none.
        held_age: its age in seconds; None when there is none.
    """

    __slots__ = ("_tags", "_ttl", "held", "held_age", "key", "storing")

    def __init__(self, key: str, held: Any = None, held_age: float | None = None) -> None:
        self.key = key
        self.held = held
        self.held_age = held_age
        #: Whether the result will be held.
        self.storing = True
        self._ttl: float | None = None
        self._tags: tuple[str, ...] = ()

    def skip_storing(self) -> None:
        """Hand the result to those who wait, and hold it nowhere; what is held already stays."""
        self.storing = False

    @property
    def ttl(self) -> float | None:
        """Limit in seconds on the age of the result while fresh; None leaves it to the caller and the match."""
        return self._ttl

    @ttl.setter
    def ttl(self, seconds: float | None) -> None:
        self._ttl = check_seconds("ttl", seconds, 0.001)

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags that the compute gave its result, beside those of the caller."""
        return self._tags

    def add_tags(self, tags: Iterable[str]) -> None:
        """Give the result more tags. One that is invalidated from the compute's start on keeps the result out.

        Raises:
            TypeError, ValueError: something that cannot be a tag.
        """
        self._tags = tuple(dict.fromkeys((*self._tags, *check_tags(tags))))


#: The computes that led to the code that runs now, the innermost last: whose they are, and their contexts.
running: Final[contextvars.ContextVar[tuple[tuple[Any, Any, Any], ...]]] = contextvars.ContextVar(
    "smartcache_computing", default=()
)


def compute_context() -> ComputeContext:
    """The context of the compute that calls this.

    Raises:
        RuntimeError: nothing is being computed here, or many keys at once.
    """
    computes = running.get()
    context: ComputeContext | None = computes[-1][2] if computes else None
    if context is None:
        where = "in a load of many keys" if computes else "outside a compute"
        raise RuntimeError(f"compute_context() {where}: only the compute of one key has a context")
    return context

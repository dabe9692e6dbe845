"""Loading many keys with one call of the function that knows how."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from smartcache import compute

__all__ = ["Batch"]

V = TypeVar("V")


class Batch(Generic[V]):
    """Gathers the computes of single keys that begin in the same loop tick into one call.

    Each key keeps its own lease, flight and time-out; a key whose value another caller or process brings is not asked
    for.

    Args:
        load_fn: given keys, returns their values by key; called once for all keys that come together.
    """

    def __init__(self, load_fn: Callable[[Sequence[str]], Awaitable[Mapping[str, V]]]) -> None:
        self._load_fn = load_fn
        self._together: _Together[V] | None = None

    async def load(self, key: str) -> V:
        """The value of one key; the compute that the engine runs.

        Raises:
            KeyError: ``load_fn`` returned no value for it.
        """
        if self._together is None:
            self._together = _Together(self._load_fn)
            asyncio.get_running_loop().call_soon(self._begin, self._together)
        return await self._together.value_of(key)

    def _begin(self, together: _Together[V]) -> None:
        self._together = None
        together.begin()


class _Together(Generic[V]):
    """Keys loaded in one call."""

    def __init__(self, load_fn: Callable[[Sequence[str]], Awaitable[Mapping[str, V]]]) -> None:
        self._load_fn = load_fn
        self._waiting: dict[str, asyncio.Future[V]] = {}
        self._computes: list[tuple[Any, Any, Any]] = []
        self._task: asyncio.Task[None] | None = None

    async def value_of(self, key: str) -> V:
        future: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        self._computes += compute.running.get()
        try:
            return await future
        finally:
            del self._waiting[key]
            if not self._waiting and self._task is not None:
                self._task.cancel()  # nobody waits any more

    def begin(self) -> None:
        if self._waiting:
            self._task = asyncio.get_running_loop().create_task(self._load(list(self._waiting)))

    async def _load(self, keys: list[str]) -> None:
        # Asking for any of the keys from within would wait for itself; and the call speaks for none of them alone.
        compute.running.set((*self._computes, (None, None, None)))
        try:
            found = await self._load_fn(keys)
            if not isinstance(found, Mapping):
                raise TypeError(f"load_fn returned {type(found).__name__}, not a mapping of keys to values")
        except Exception as error:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(error)
            return
        except BaseException:
            for future in self._waiting.values():
                future.cancel()
            raise
        for key, future in self._waiting.items():
            if future.done():
                continue
            if key in found:
                future.set_result(found[key])
            else:
                future.set_exception(
                    KeyError(f"load_fn returned no value for {key!r}: return None where there is nothing to hold")
                )

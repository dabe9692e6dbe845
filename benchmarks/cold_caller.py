"""One of the processes that ask for a cold key: ``python -m benchmarks.cold_caller LABEL PORT CALLERS LEASE``.

It says that it is ready, is told a key and an instant on standard input, and says on standard output when it computes
and when the last of its callers was answered. It ends with its standard input, so that it outlives nobody.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import AsyncExitStack
from typing import Any, Final

from benchmarks.loading import OURS, PEERS, WITHOUT_STORE, Ask

__all__ = ["COMPUTE_SECONDS"]

COMPUTE_SECONDS: Final = 0.5
_CACHES: Final = {cache.label: cache for cache in (OURS, WITHOUT_STORE, *PEERS)}


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


async def load(key: str) -> dict[str, str]:
    """The compute; instants are those of the monotonic clock, which all processes of a machine share."""
    say(computing=time.monotonic())
    await asyncio.sleep(COMPUTE_SECONDS)
    return {"of": key}


async def answers(ask: Ask, key: str, callers: int) -> dict[str, Any]:
    """Let all callers ask for the key; how many were answered rightly, and when the last was."""
    found = await asyncio.gather(*(ask(key) for _ in range(callers)), return_exceptions=True)
    now = time.monotonic()
    wrong = [repr(answer) for answer in found if answer != {"of": key}]
    return {"answered": len(found) - len(wrong), "at": now, "wrong": wrong[0][:200] if wrong else None}


async def standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def work(label: str, port: int, callers: int, lease: float) -> None:
    orders = await standard_input()
    async with AsyncExitStack() as stack:
        ask = await _CACHES[label].begin(port, load, lease, stack)
        # Connections and scripts are there long before a key is cold.
        await ask(f"warm-up:{os.getpid()}")
        say(ready=True)
        if line := await orders.readline():
            order = json.loads(line)
            await asyncio.sleep(order["at"] - time.monotonic())
            asking = asyncio.create_task(answers(ask, order["key"], callers))
            asking.add_done_callback(lambda task: say(**task.result()))
            await orders.read()
    # Callers who still wait, in threads above all, must not keep the process.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))

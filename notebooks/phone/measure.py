"""How fast a call through the server is: server, caller and callee as three programs. For tests/benchmark.py.

async with two_programs((640, 480)) as url:
    measured = await one_call(url, (640, 480), seconds=3)
    measured.setup, measured.delays         # in seconds; delays of the pictures that came from the other program
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from loopback import CallError, SyntheticSource

from .end import End

HERE = Path(__file__).parent
WARM_UP = 1.5  # s: the first second of a call has a key frame and finds its bit rate


class Measured(NamedTuple):
    """What one call measured."""

    setup: float  # s, from sending the offer to the first picture from the other program
    delays: list[float]  # s, capture there to decoded picture here, by the server's clock (0.5 ms or better)
    received: int  # pictures in that time


@contextlib.asynccontextmanager
async def two_programs(size: tuple[int, int], fps: float = 30) -> AsyncIterator[str]:
    """Start `serve` and `answer`, and give the address of the server. Raises CallError where they do not start."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*arguments: str, log: int | None = None) -> asyncio.subprocess.Process:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(HERE), *arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
            stack.push_async_callback(process.communicate)
            stack.callback(process.terminate)
            return process

        server = await start("serve", "--port", "0")
        assert server.stdout is not None
        first = (await asyncio.wait_for(server.stdout.readline(), 30)).decode()
        if not (found := re.search(r"http://\S+", first)):
            raise CallError(f"the phone's server does not start: {first.strip()}")
        shape = ["--size", f"{size[0]}x{size[1]}", "--fps", f"{fps:g}"]
        await start("answer", "--server", found[0], *shape, "--view", "none", "--json", log=subprocess.DEVNULL)
        yield found[0]


async def one_call(url: str, size: tuple[int, int], seconds: float, fps: float = 30) -> Measured:
    """Call the program that answers there, and hang up after that time. Raises CallError where the call fails."""
    async with End(url, "Caller", source=lambda: SyntheticSource(*size, fps)) as end:
        await end.call("Python")
        conversation = end.conversation
        if conversation is None:
            raise CallError(f"the call ended at once: {end.failure or end.phone.why}")
        await end.until(lambda: conversation.arrivals.received, 10, "no picture")
        await asyncio.sleep(WARM_UP)
        arrivals = conversation.arrivals
        before, known = arrivals.received, len(arrivals.delays)
        await asyncio.sleep(seconds)
        if end.conversation is not conversation:
            raise CallError(f"the call has ended: {end.failure or end.phone.why}")
        delays, received = list(arrivals.delays)[known:], arrivals.received - before
        await end.hang_up()
    return Measured(conversation.after("first picture") or 0.0, delays, received)

"""What the tests of the call share: a call that is always closed, a channel that records and edits, a wait."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from loopback import Call, Channel, Event, Message, SyntheticSource, memory_channel

Edit = Callable[[Message], list[Message | str]]


def as_sent(message: Message) -> list[Message | str]:
    """Let a message through."""
    return [message]


class Wire:
    """One end of a channel that keeps what its peer sends, and sends on what `edit` makes of it."""

    def __init__(self, inner: Channel, edit: Edit = as_sent) -> None:
        self.inner, self.edit = inner, edit
        self.sent: list[str] = []

    async def send(self, text: str) -> None:
        self.sent.append(text)
        for message in self.edit(json.loads(text)):
            await self.inject(message)

    async def inject(self, message: Message | str) -> None:
        """Send something that the peer did not."""
        await self.inner.send(message if isinstance(message, str) else json.dumps(message))

    async def receive(self) -> str:
        return await self.inner.receive()


def wires(pc1_says: Edit = as_sent, pc2_says: Edit = as_sent) -> tuple[Wire, Wire]:
    """Return pc1's and pc2's end of a channel whose words are edited on their way."""
    one, two = memory_channel()
    return Wire(one, pc1_says), Wire(two, pc2_says)


@contextlib.asynccontextmanager
async def calling(
    size: tuple[int, int] = (160, 120), fps: float = 30, call: type[Call] = Call, **options: Any
) -> AsyncIterator[Call]:
    """Give a call with a synthetic source, not begun, and close it at the end."""
    made = call(SyntheticSource(*size, fps), **options)
    try:
        yield made
    finally:
        await made.close()


async def pictures(call: Call, more: int) -> None:
    """Wait until so many more pictures have arrived."""
    goal = call.meter.received + more
    async with asyncio.timeout(10):
        while call.meter.received < goal:
            await call.check()
            await asyncio.sleep(0.005)


def logged(call: Call, what: str, who: str = "") -> list[Event]:
    """Return the events whose `what` begins so."""
    return [event for event in call.log.events if event.what.startswith(what) and who in ("", event.who)]

"""What the tests of the call share: a call that is always closed, a channel that records and edits, a wait, a source
that keeps what it gave, a clock moved by hand."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from unittest.mock import patch

import cv2

from loopback import Call, Channel, Event, Message, Picture, SyntheticSource, memory_channel, read_time_code

Edit = Callable[[Message], list[Message | str]]


def as_sent(message: Message) -> list[Message | str]:
    """Let a message through."""
    return [message]


def without(*kinds: str) -> Edit:
    """Return an edit that loses the messages of these types."""
    return lambda message: [] if message["type"] in kinds else [message]


def changed(start: str, change: Callable[[str], str]) -> Edit:
    """Return an edit of the lines of a description that begin so; there must be one."""

    def edit(message: Message) -> list[Message | str]:
        if "sdp" not in message:
            return [message]
        lines = message["sdp"].splitlines(keepends=True)
        new = [change(line) if line.startswith(start) else line for line in lines]
        assert new != lines
        return [message | {"sdp": "".join(new)}]

    return edit


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


class Said:
    """A channel in which everything has already been said; after that nothing more comes."""

    def __init__(self, *messages: Message) -> None:
        self.left = [json.dumps(message) for message in messages]

    async def send(self, text: str) -> None: ...

    async def receive(self) -> str:
        if not self.left:
            await asyncio.sleep(3600)
        return self.left.pop(0)


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


class Clock:
    """The time as loopback sees it, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@contextlib.contextmanager
def clock() -> Iterator[Clock]:
    """Let loopback read a clock that stands still until it is moved."""
    with patch.object(loopback, "time", Clock()) as mine:
        yield mine


class Keeping(SyntheticSource):
    """A test picture that keeps what it gave; the call draws the time codes into the same arrays."""

    def __init__(self, width: int, height: int, fps: float, *, night: bool = False) -> None:
        super().__init__(width, height, fps, night=night)
        self.kept: list[Picture] = []

    async def next(self) -> tuple[Picture, float]:
        picture, captured_at = await super().next()
        self.kept.append(picture)
        return picture, captured_at


def check_arrived(received: list[Picture], sent: list[Picture]) -> None:
    """Fail unless these are the pictures sent, from the first one on, each once and in order: by their time codes, and
    each one is more like the one sent under its number than like any other."""
    assert received
    assert [read_time_code(picture) for picture in received] == list(range(len(received)))
    rows, columns = sent[0].shape[:2]
    assert {picture.shape for picture in received} == {(rows + rows % 2, columns + columns % 2, 3)}  # sent even
    for number, picture in enumerate(received):
        seen = picture[20:rows, :columns]  # below the time code
        likeness = [cv2.PSNR(seen, other[20:]) for other in sent]
        assert likeness[number] > 20
        assert max(range(len(likeness)), key=likeness.__getitem__) == number, "it is like another picture sent"

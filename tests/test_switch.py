"""Changing the source of a running call: other pictures, the same m-line, numbers and timestamps that go on."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import run, run_at_once
from faults import logged

from loopback import Call, CallError, Picture

SIZE = (320, 240)


@pytest.fixture
def red(tmp_path: Path) -> str:
    """A video file of 2 s that is red all over."""
    path = tmp_path / "red.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for _ in range(50):
            file.mux(stream.encode(loopback.to_frame(np.full((*SIZE[::-1], 3), (0, 0, 255), np.uint8))))
        file.mux(stream.encode(None))
    return str(path)


class Watched(loopback.SyntheticSource):
    """A synthetic source that notes its end."""

    closed = False

    async def close(self) -> None:
        self.closed = True


def redness(picture: Picture) -> float:
    """Mean of red minus blue below the time code; about 255 in the red file, near 0 in the view from the train."""
    return float(picture[40:, :, 2].mean() - picture[40:, :, 0].mean())


async def received(call: Call, more: int) -> Picture:
    """Return pc2's picture after that many more have come."""
    target = call.meter.received + more
    while call.meter.received < target:
        await call.check()
        await asyncio.sleep(0.005)
    assert call.pc2.picture is not None
    return call.pc2.picture


def test_the_source_changes_and_the_call_goes_on(red: str) -> None:
    async def scenario() -> None:
        first, log = Watched(*SIZE, 30), loopback.Log()
        call = Call(first, log=log)
        stamps: list[int] = []
        ticks = call.track.clock.ticks
        call.track.clock.ticks = lambda at: stamps.append(ticks(at)) or stamps[-1]  # type: ignore[method-assign,func-returns-value]
        try:
            await call.run()
            assert redness(await received(call, 10)) < 60
            known = len(log.events)
            done = await call.switch(loopback.open_source(red, SIZE, 30, log))
            assert "no state changed" in repr(done)
            assert first.closed
            assert redness(await received(call, 15)) > 150
            await call.switch(loopback.SyntheticSource(*SIZE, 30))
            assert redness(await received(call, 15)) < 60
            assert [thread.name for thread in threading.enumerate() if thread.name.startswith("source")] == []
            new = list(log.events)[known:]
            assert [event.what for event in new if event.who == "pc1"] == ["replaceTrack", "replaceTrack"]
            assert [event for event in new if event.who == "pc2"] == []  # nothing was negotiated
            await call.finish()
            assert call.meter.misread == 0
            assert call.meter.received == call.meter.sent
            assert stamps == sorted(set(stamps))
            assert len(stamps) == call.meter.sent  # one clock for all three sources
        finally:
            await call.close()

    run(scenario())


def test_a_source_that_does_not_open_leaves_the_call_as_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        call = Call(loopback.SyntheticSource(*SIZE, 30))
        try:
            await call.run()
            before = call.track
            with pytest.raises(CallError, match=r"none\.mp4 cannot be read \(No such file or directory\)"):
                await call.switch(loopback.open_source(str(tmp_path / "none.mp4"), SIZE, 30, call.log))
            with pytest.raises(ZeroDivisionError):
                await call.switch(loopback.Reader("broken", lambda stop: (1 // 0 for _ in range(1))))
            assert redness(await received(call, 5)) < 60
            assert call.track is before
            assert call.track.source.label == "synthetic"
            assert call.track.successor is None
            assert logged(call, "replaceTrack") == []
            assert [thread.name for thread in threading.enumerate() if thread.name.startswith("source")] == []
        finally:
            await call.close()

    run(scenario())


def test_switching_again_and_again() -> None:
    async def scenario() -> None:
        call = Call(Watched(*SIZE, 30))
        sources = []
        try:
            await call.run()
            for _ in range(20):
                sources.append(call.track.source)
                await call.switch(Watched(*SIZE, 30))
                await received(call, 1)
            await call.finish()
            assert call.meter.misread == 0
        finally:
            await call.close()
        assert all(source.closed for source in [*sources, call.track.source])  # type: ignore[attr-defined]

    run(scenario())


class Slow(Watched):
    """A source whose next picture takes long, and may never come."""

    dies = False
    given_so_far = 0

    async def next(self) -> tuple[Picture, float]:
        picture, captured_at = await super().next()
        self.given_so_far += 1
        if self.given_so_far > 10:
            await asyncio.sleep(0.7)
            if self.dies:
                raise CallError("the camera is gone: plug it in")
        return picture, captured_at


async def until_slow(source: Slow) -> None:
    """Wait until the sender waits for a picture that takes long."""
    while source.given_so_far <= 10:
        await asyncio.sleep(0.005)


def test_hanging_up_while_the_source_is_being_switched_releases_both() -> None:
    async def scenario() -> None:
        slow, other = Slow(*SIZE, 30), Watched(*SIZE, 30)
        call = Call(slow)
        await call.run()
        await until_slow(slow)
        switching = asyncio.create_task(call.switch(other))
        await asyncio.sleep(0.1)
        assert not switching.done()
        switching.cancel()
        await asyncio.gather(switching, return_exceptions=True)
        await call.close()
        assert slow.closed
        assert other.closed

    run(scenario())


def test_hanging_up_while_the_new_source_is_being_opened_releases_it() -> None:
    class Opening(Watched):
        async def ready(self) -> None:
            await asyncio.sleep(3600)

    async def scenario() -> None:
        opening = Opening(*SIZE, 30)
        call = Call(Watched(*SIZE, 30))
        await call.run()
        switching = asyncio.create_task(call.switch(opening))
        await received(call, 3)
        assert not switching.done()
        assert not opening.closed
        switching.cancel()
        await asyncio.gather(switching, return_exceptions=True)
        assert opening.closed
        await received(call, 3)
        await call.close()

    run(scenario())


def test_a_source_that_dies_can_still_be_replaced() -> None:
    async def scenario() -> None:
        dying = Slow(*SIZE, 30)
        dying.dies = True
        call = Call(dying)
        try:
            await call.run()
            await until_slow(dying)
            await call.switch(Watched(*SIZE, 30))
            await received(call, 20)
            assert dying.closed
        finally:
            await call.close()

    run(scenario())


def test_where_nothing_is_sent_any_more_nothing_is_replaced() -> None:
    async def scenario() -> None:
        dying, other = Slow(*SIZE, 30), Watched(*SIZE, 30)
        dying.dies = True
        call = Call(dying)
        try:
            await call.run()
            with pytest.raises(CallError, match=r"^the camera is gone"):
                await received(call, 10_000)
            before = call.track
            with pytest.raises(CallError, match="nothing is being sent"):
                await call.switch(other)
            assert other.closed
            assert call.track is before
        finally:
            await call.close()
        assert dying.closed

    run(scenario())


# ---- A device that hangs ---------------------------------------------------------------------------------------------


class Hanging(loopback.Reader[tuple[Picture, float]]):
    """A device that gives some pictures, and then hangs in its driver until it is let go, whoever calls stop."""

    def __init__(self, count: int = 10**6) -> None:
        self.count, self.hangs, self.freed = count, threading.Event(), threading.Event()
        super().__init__("hanging", self._pictures)

    def _pictures(self, stop: threading.Event) -> Generator[tuple[Picture, float]]:
        while not stop.is_set() and self.count > 0:
            self.count -= 1
            yield np.full((*SIZE[::-1], 3), (0, 0, 255), np.uint8), time.perf_counter()
            stop.wait(0.03)
        self.hangs.set()
        self.freed.wait(10)


@contextlib.asynccontextmanager
async def ticking() -> AsyncIterator[list[float]]:
    """Look every 10 ms meanwhile; give the longest time the event loop was held up, to be read at the end."""
    longest = [0.0]

    async def tick() -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            longest[0] = max(longest[0], time.monotonic() - before)
            before = time.monotonic()

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.02)
    try:
        yield longest
    finally:
        await asyncio.sleep(0.02)
        ticker.cancel()


HELD_UP = 0.5  # s; a join of the thread would hold up the event loop for 2 s


async def no_pictures(_: Call, device: Hanging) -> None:
    """Close the source alone."""
    await device.close()


async def closing(call: Call, _: Hanging) -> None:
    await call.close()


async def hanging_up(call: Call, _: Hanging) -> None:
    await call.hang_up()
    assert call.pc2.hung_up


async def switching(call: Call, _: Hanging) -> None:
    await call.switch(Watched(*SIZE, 30))
    assert redness(await received(call, 15)) < 60


def test_a_device_that_hangs_does_not_hold_up_the_event_loop() -> None:
    async def scenario(end: Callable[[Call, Hanging], Awaitable[None]]) -> None:
        device = Hanging(count=20)
        device.PATIENCE = 0.5  # until a device that gives nothing counts as dead
        call = Call(device)
        try:
            await call.run()
            await asyncio.to_thread(device.hangs.wait, 5)
            async with ticking() as longest:
                await end(call, device)
            assert longest[0] < HELD_UP
            assert not device.freed.is_set()
        finally:
            device.freed.set()
            await call.close()

    run_at_once(scenario, [no_pictures, closing, hanging_up, switching])

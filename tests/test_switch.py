"""Changing the source of a running call: other pictures, the same m-line, numbers and timestamps that go on."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import run

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

    def close(self) -> None:
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
        ticks = call.clock.ticks
        call.clock.ticks = lambda at: stamps.append(ticks(at)) or stamps[-1]  # type: ignore[method-assign,func-returns-value]
        try:
            await call.run()
            assert redness(await received(call, 10)) < 60
            known = len(log.events)
            done = await call.switch(loopback.open_source(red, *SIZE, 30, log))
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
        finally:
            await call.close()

    run(scenario())


def test_a_source_that_does_not_open_leaves_the_call_as_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        call = Call(loopback.SyntheticSource(*SIZE, 30))
        try:
            await call.run()
            with pytest.raises(CallError, match="does not exist"):
                await call.switch(loopback.open_source(str(tmp_path / "none.mp4"), *SIZE, 30, call.log))
            before = call.track
            await received(call, 5)
            assert call.track is before
            assert call.track.source.label == "synthetic"
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

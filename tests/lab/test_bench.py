"""Around the cells: a section's state is restored, old calls are closed, calls rest, errors take one line."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiortc import RTCPeerConnection
from conftest import run
from faults import calling
from jupyter_client.manager import start_new_kernel

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))

import lab  # noqa: E402 - lies beside the lessons, not installed
from lab import bench  # noqa: E402
from lab.check import Mistake  # noqa: E402


def test_a_call_is_brought_to_a_step() -> None:
    async def scenario() -> None:
        for step, last in (("createOffer", "createOffer"), ("pc1 setRemoteDescription(answer)", "answer"), (3, "")):
            call = await lab.call_after(step)
            try:
                whats = [event.what for event in call.log.events]
                assert "createOffer" in whats
                assert ("setLocalDescription(offer)" in whats) is (last != "createOffer")
                assert ("setRemoteDescription(answer)" in whats) is (last == "answer")
                assert "connected" not in whats
            finally:
                await call.close()
        call = await lab.call_after(channels=lab.faulty(), source=loopback.SyntheticSource(160, 120, 30))
        assert call.pc2.picture is not None
        assert call.pc2.picture.shape == (120, 160, 3)
        await call.close()
        with pytest.raises(Mistake, match="no step is called 'createOfer'; there is pc1 addTrack, pc1 createOffer,"):
            await lab.call_after("createOfer")

    run(scenario())


def test_what_loses_its_name_is_closed_and_nothing_else() -> None:
    async def scenario() -> None:
        async with calling() as call, calling() as kept, calling() as listed:
            pc, tap = RTCPeerConnection(), lab.Tap(call).open()
            space: dict[str, Any] = {"call": call, "mine": kept, "also": kept, "each": listed, "pc": pc, "tap": tap}
            names = bench.Names(space)
            names.note()
            space |= {"call": None, "mine": None, "each": 5, "calls": [listed], "pc": 1, "tap": 2, "_": pc, "Out": [pc]}
            names.close_old()
            await asyncio.gather(*names.closing)
            assert [one.closed for one in (call, kept, listed)] == [True, False, False]
            assert pc.connectionState == "closed"
            assert tap not in lab.Tap._opened
            names.note()
            names.close_old()
            assert not names.closing

    run(scenario())


def test_a_call_rests_between_cells_and_not_in_them() -> None:
    class Track:
        asked, successor = 0, None

        async def recv(self) -> int:
            """Say how often it was asked."""
            await asyncio.sleep(0.001)
            self.asked += 1
            return self.asked

    async def scenario() -> None:
        rest = bench.Rest()
        recv = rest.slowing(Track.recv)
        track = Track()
        rest.over.clear()
        resting = asyncio.create_task(recv(track))
        await asyncio.sleep(0.05)
        assert not resting.done()
        rest.over.set()  # a cell begins
        assert await resting == 1
        assert await recv(track) == 2
        rest.over.clear()
        assert await recv(track) == 3  # late, but it comes
        assert recv.__doc__ == "Say how often it was asked."

    run(scenario())


def test_the_source_of_a_resting_call_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        rest = bench.Rest()
        monkeypatch.setattr(loopback.OutgoingTrack, "recv", rest.slowing(loopback.OutgoingTrack.recv))
        async with calling() as call:
            await call.run()
            for width in (160, 240, 200):
                rest.over.clear()
                await asyncio.sleep(0.1)  # the sender waits for its turn
                await call.switch(loopback.SyntheticSource(width, 160, 30))
                rest.over.set()
                assert (await lab.new_picture(call)).shape[1] == width
                await call.check()

    run(scenario())


def test_a_clock_is_steady_until_something_holds_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(idle=0.0)
    monkeypatch.setattr(bench.psutil, "cpu_times", lambda: SimpleNamespace(idle=now.idle))
    monkeypatch.setattr(bench.psutil, "cpu_count", lambda: 2)

    async def measured(idle: float, late: float) -> lab.steady:
        with lab.steady() as clock:
            await asyncio.sleep(0.3)
            now.idle += idle
            clock.late += late
        clock.late = late  # what this machine itself did meanwhile does not count here
        return clock

    async def scenario() -> None:
        assert (await measured(0.6, 0.0)).steady
        assert "the program waited 0.2 s" in str(await measured(0.6, 0.2))
        starved = await measured(0.0, 0.0)
        assert not starved.steady
        assert "End other programs and run the cell again" in str(starved)

    run(scenario())


def test_a_clock_sees_a_blocked_event_loop() -> None:
    async def scenario() -> bool:
        with lab.steady() as clock:
            await asyncio.sleep(0.02)
            np.linalg.svd(np.random.default_rng(1).random((900, 900)))
            await asyncio.sleep(0.02)
        return clock.late > 0

    assert run(scenario())


# ---- In a kernel -----------------------------------------------------------------------------------------------------


class Kernel:
    """A kernel in which cells are run; what they show is kept as (kind, content)."""

    def __init__(self) -> None:
        self.manager, self.client = start_new_kernel(kernel_name="python3", cwd=str(NOTEBOOKS), startup_timeout=60)

    def __enter__(self) -> "Kernel":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, source: str, interrupt_at: str = "") -> list[tuple[str, Any]]:
        asked, shown = self.client.execute(source), []
        while True:
            message = self.client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != asked:
                continue
            if message["content"].get("execution_state") == "idle":
                return shown
            shown.append((message["msg_type"], message["content"]))
            if message["msg_type"] == interrupt_at:
                self.manager.interrupt_kernel()
                interrupt_at = ""

    def value(self, expression: str) -> str:
        """Return what print() makes of an expression."""
        return next(content["text"] for kind, content in self.run(f"print({expression})") if kind == "stream").strip()


@pytest.fixture(scope="module")
def kernel() -> Any:
    with Kernel() as kernel:
        kernel.run("from lab import *\nfrom loopback import *\nimport asyncio")
        yield kernel


def test_a_new_call_of_the_same_name_closes_the_old_one(kernel: Kernel) -> None:
    kernel.run("call = await call_after()\nimport weakref\nkept = weakref.ref(call)")
    assert kernel.value("kept().closed") == "False"
    kernel.run("call = await call_after()")
    assert kernel.value("kept() is None or kept().closed") == "True"
    assert kernel.value("call.closed") == "False"
    kernel.run("await call.close()")


def test_an_error_that_says_all_takes_one_line(kernel: Kernel) -> None:
    for source, line in (
        ("raise CallError('nothing answers: start it')", "CallError: nothing answers: start it"),
        ("predict('00 pixles', 1)", "Mistake: no prediction is called '00 pixles'; this lesson has "),
    ):
        [error] = [content for kind, content in kernel.run(source) if kind == "error"]
        assert len(error["traceback"]) == 1
        assert error["traceback"][0].startswith(line)
    [error] = [content for kind, content in kernel.run("1 / 0") if kind == "error"]
    assert len(error["traceback"]) > 1, "any other has its traceback"


def test_interrupting_watch_leaves_its_last_picture_and_one_word(kernel: Kernel) -> None:
    kernel.run("call = await call_after()")
    shown = kernel.run("await watch(call, seconds=60)", interrupt_at="update_display_data")
    [error] = [content for kind, content in shown if kind == "error"]
    assert error["traceback"] == ["interrupted"]
    last = [content["data"] for kind, content in shown if kind == "update_display_data"][-1]
    assert "image/png" in last
    assert kernel.value("call.closed") == "False"
    kernel.run("await call.close()")

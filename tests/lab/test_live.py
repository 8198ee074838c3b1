"""Pictures in a cell: they move, they are those of the call, and their colours are right."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import base64
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run, unwrapped
from faults import calling
from jupyter_client.manager import start_new_kernel
from pages import image

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))

import lab  # noqa: E402 - lies beside the lessons, not installed
from lab import live  # noqa: E402
from lab.check import register  # noqa: E402

LIVE = """
import asyncio
from lab import watch
from loopback import Call, SyntheticSource
call = Call(SyntheticSource(160, 120, 30))
await call.run()
await watch(call, seconds=0.6)
await call.close()
"""


def until_idle(client: Any, asked: str) -> Iterator[dict[str, Any]]:
    """Yield what a kernel sends for a cell until it has run it; fail when it is silent for 20 s."""
    while True:
        message = client.get_iopub_msg(timeout=20)
        if message["parent_header"].get("msg_id") == asked:
            assert message["msg_type"] not in ("error", "stream"), message["content"]
            yield message
            if message["content"].get("execution_state") == "idle":
                return


def test_watch_moves_the_picture_inside_its_cell() -> None:
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(NOTEBOOKS), startup_timeout=30)
    try:
        asked = client.execute(LIVE)
        shown = list(until_idle(client, asked))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    first = [message for message in shown if message["msg_type"] == "display_data"]
    later = [message for message in shown if message["msg_type"] == "update_display_data"]
    assert len(first) == 1
    assert len(later) >= 3
    assert {message["content"]["transient"]["display_id"] for message in first + later} == {
        first[0]["content"]["transient"]["display_id"]
    }
    *moving, last = [message["content"]["data"] for message in first + later]
    frames = [base64.b64decode(data["image/jpeg"]) for data in moving]
    assert len(set(frames)) == len(frames), "every picture is another"
    still = base64.b64decode(last["image/png"])  # what stays in the file
    assert len(still) < 150_000
    assert image(still).shape[1] == 980
    left, right = np.split(image(still)[60:360].astype(int), 2, axis=1)
    assert abs(left[:, 30:460] - right[:, 24:454]).mean() < 60, "what arrives looks like what is sent"


def test_watch_says_when_the_call_breaks() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            call.track.failure = loopback.CallError("the camera was unplugged")
            with pytest.raises(loopback.CallError, match="unplugged"):
                await lab.watch(call, seconds=1)

    run(scenario())


def test_watch_ends_with_the_call() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            watching = asyncio.create_task(lab.watch(call, seconds=10_000))
            await asyncio.sleep(0.2)
            await call.hang_up()
            await watching

    run(scenario())


def test_a_picture_that_stands_still_is_grey_and_says_since_when(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    write = live._write
    monkeypatch.setattr(live, "_write", lambda canvas, text, *more: said.append(text) or write(canvas, text, *more))

    def colourful(canvas: np.ndarray) -> tuple[bool, bool]:
        """Whether either of the two pictures has colours."""
        panes = np.split(canvas[live.CAPTION + 8 : -live.GAP - 8].astype(int), 2, axis=1)
        spread = [pane[:, 40:440].max(axis=2) - pane[:, 40:440].min(axis=2) for pane in panes]
        return spread[0].max() > 60, spread[1].max() > 60

    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            assert live.still_for(call) == 0.0
            assert colourful(live.both(call)) == (True, True)
            with lab.Tap(call, faults=[lab.Cut()]):
                while not live.still_for(call):
                    await asyncio.sleep(0.05)
                said.clear()
                assert colourful(live.both(call, 30.0)) == (True, False)
        words = [text for text in said if text.startswith("no picture for ")]
        assert re.fullmatch(r"no picture for \d+\.\d s", words[0])
        assert not any("/s" in text for text in said), "what stands still has no rate"

    run(scenario())


# ---- A learner's picture ---------------------------------------------------------------------------------------------


def flipped(view: np.ndarray) -> np.ndarray:
    return view[::-1]


def forgotten(view: np.ndarray) -> None:
    view[::-1]


def misspelt(view: np.ndarray) -> np.ndarray:
    return veiw[::-1]  # noqa: F821


def spoilt(view: np.ndarray) -> np.ndarray:
    return view[:10]


@pytest.mark.parametrize(
    ("paint", "said"),
    [
        (forgotten, "your forgotten returned None, not an array of 120 x 160 x 3, uint8"),
        (misspelt, "your misspelt raised NameError: name 'veiw' is not defined, in line "),
        (spoilt, "your spoilt returned an array of 10 x 160 x 3, uint8, not an array of 120 x 160 x 3, uint8"),
    ],
)
def test_a_mistake_in_a_learners_function_is_theirs_and_ends_no_call(
    paint: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    register("99 flipped", lambda answer, received: bool(received[:20].mean() < received[-20:].mean()), look="it")

    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            await call.switch(lab.Painted(paint, 160, 120, 30))
            lab.check("99 flipped", paint, received=await lab.new_picture(call))
            await call.switch(lab.Painted(flipped, 160, 120, 30))
            lab.check("99 flipped", flipped, received=await lab.new_picture(call))
            await call.check()

    run(scenario())
    mistake, right = unwrapped(capsys.readouterr().out).splitlines()
    assert mistake.startswith(f"not yet: {said}")
    assert right == "right"


def test_a_new_picture_was_made_after_it_was_asked_for() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            for _ in range(3):
                sent = call.meter.sent
                picture = await lab.new_picture(call)
                number = loopback.read_time_code(picture)
                assert number is not None
                assert number >= sent
            with (
                lab.Tap(call, faults=[lab.Cut()]),
                pytest.raises(loopback.CallError, match=r"no new picture within 0.2 s"),
            ):
                await lab.new_picture(call, within=0.2)

    run(scenario())


def test_picture_shows_the_colours_it_is_given() -> None:
    blue, red = np.zeros((60, 80, 3), np.uint8), np.zeros((60, 80, 3), np.uint8)
    blue[:, :, 0], red[:, :, 2] = 255, 255
    pixels = image(lab.picture(blue, red, titles=("blue", "red")).data)
    assert tuple(pixels[200, 200]) == (0, 0, 255)
    assert tuple(pixels[200, 700]) == (255, 0, 0)
    grey = image(lab.picture(np.full((60, 80), 100, np.uint8)).data)
    assert tuple(grey[200, 500]) == (100, 100, 100)
    assert image(lab.picture(blue, None).data).shape[1] == 980, "a picture that has not come yet"
    with pytest.raises(ValueError, match="2 pictures, but 1 titles"):
        lab.picture(blue, red, titles=("blue",))

"""The screen as a source: what it shows arrives, at its pace; without a screen, or without mss, one line says so."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Xvfb, environment, run
from faults import pictures

from loopback import Call, CallError

sys.path.append(str(Path(loopback.__file__).resolve().parent / "notebooks"))
from phone.screen import ScreenSource

pytest.importorskip("mss")


@contextlib.contextmanager
def filled_screen(display: str, colour: int) -> Iterator[None]:
    """Fill the root window of an X display with a colour, 0xRRGGBB. The server forgets it when its last client goes."""
    connection = pytest.importorskip("Xlib.display").Display(display)
    root = connection.screen().root
    root.change_attributes(background_pixel=colour)
    root.clear_area()
    connection.sync()
    yield
    connection.close()


@pytest.mark.parametrize(("size", "shape"), [((320, 240), (240, 320, 3)), (None, (412, 640, 3))], ids=["size", "own"])
def test_the_screen_is_carried(
    xvfb: Xvfb, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int] | None, shape: tuple[int, int, int]
) -> None:
    """1400 x 900 become 640 x 411, which is sent as 640 x 412; or, in 320 x 240, have 17 black rows above and below."""
    monkeypatch.setenv("DISPLAY", xvfb.name)

    async def scenario() -> None:
        call = Call(ScreenSource(size, fps=30))
        try:
            await call.run()
            await pictures(call, 10)
        finally:
            await call.close()
        assert call.meter.misread == 0
        assert call.track.source.given == "1400x900"
        got = call.pc2.picture
        assert got is not None
        assert got.shape == shape
        assert np.abs(got[60:200, 10:310].mean(axis=(0, 1)) - (0xC0, 0x60, 0x30)).max() < 12
        assert (got[-12:].mean() < 12) == (size is not None)

    with filled_screen(xvfb.name, 0x3060C0):
        run(scenario())


def test_it_can_take_the_place_of_another_source(xvfb: Xvfb, monkeypatch: pytest.MonkeyPatch) -> None:
    """getDisplayMedia() and replaceTrack(), in a browser."""
    monkeypatch.setenv("DISPLAY", xvfb.name)

    async def scenario() -> None:
        call = Call(loopback.SyntheticSource(320, 240, 30))
        try:
            await call.run()
            await call.switch(ScreenSource((320, 240), fps=30))
            await pictures(call, 10)
            assert call.pc2.picture is not None
            assert np.abs(call.pc2.picture[60:200].mean(axis=(0, 1)) - (0xC0, 0x60, 0x30)).max() < 12
            assert [event.what for event in call.log.events].count("createOffer") == 1
        finally:
            await call.close()

    with filled_screen(xvfb.name, 0x3060C0):
        run(scenario())


def test_it_comes_as_often_as_asked(xvfb: Xvfb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", xvfb.name)

    async def scenario() -> None:
        source = ScreenSource((160, 120), fps=20)
        try:
            await source.next()
            start, times = time.perf_counter(), []
            for _ in range(20):
                picture, captured_at = await source.next()
                times.append(captured_at)
                assert picture.flags.owndata  # the time code is drawn into it
            assert 0.8 < time.perf_counter() - start < 3
            assert times == sorted(times)
        finally:
            await source.close()

    run(scenario())


PROGRAM = """
import asyncio, sys
import loopback
from phone.screen import ScreenSource

async def call():
    call = loopback.Call(ScreenSource(None, fps=30), log=loopback.Log(lambda event: print(event, flush=True)))
    try:
        await call.run()
        while True:
            await call.check()
            await asyncio.sleep(0.01)
    finally:
        await call.close()

try:
    asyncio.run(call())
except loopback.CallError as error:
    sys.exit(str(error))
"""


def test_a_screen_that_dies_ends_the_call_with_one_line(xvfb: Xvfb) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=environment(DISPLAY=xvfb.name, PYTHONPATH=os.pathsep.join(sys.path)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout
            assert any("first picture" in line for line in process.stdout)
            xvfb.process.kill()
            _, errors = process.communicate(timeout=15)
        finally:
            process.kill()
    assert process.returncode == 1
    assert errors.startswith("the screen cannot be read (")
    assert errors.count("\n") == 1


async def first_picture() -> None:
    source = ScreenSource(None, fps=30)
    try:
        await source.next()
    finally:
        await source.close()


@pytest.mark.parametrize("display", [None, ":4242", "nonsense"])
def test_no_screen_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, display: str | None) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", display)
    with pytest.raises(CallError, match=r"^the screen cannot be read \(.+\): is there a display\?$") as raised:
        run(first_picture())
    assert str(raised.value).isprintable()


def test_without_mss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mss", None)
    with pytest.raises(CallError, match=r"^the screen needs the package mss: pip install -e '\.\[phone\]'"):
        run(first_picture())

"""Where the pictures come from: file, camera, screen, test picture; what happens when they stall, end or break."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from conftest import PROGRAM, Xvfb, environment, program, run, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

import loopback

WIDTH, HEIGHT, FPS = 160, 120, 60.0
LEVELS = 10  # pictures that can be told apart


def picture_number(number: int, width: int = 320, height: int = 240) -> np.ndarray:
    """Return a picture whose left half is blue and whose right half has a grey that tells its number."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:, : width // 2] = (200, 60, 60)
    picture[:, width // 2 :] = 20 + number % LEVELS * 24
    return picture


def number_in(picture: np.ndarray) -> int:
    """Return the number of a picture that has travelled, modulo LEVELS."""
    rows, columns = picture.shape[:2]
    grey = picture[rows // 2 - 8 : rows // 2 + 8, columns // 2 + 4 : columns // 2 + 12].mean()
    return round((grey - 20) / 24)


def make_video(
    path: Path, *, rate: int = 10, count: int = 10, size: tuple[int, int] = (320, 240), codec: str = "libx264"
) -> Path:
    """Write a video of numbered pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture_number(number, *size), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def make_sound(path: Path) -> Path:
    """Write a file without video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def source_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("source")}


@contextlib.asynccontextmanager
async def opened(
    spec: str, *, width: int = WIDTH, height: int = HEIGHT, fps: float = FPS, log: loopback.Log | None = None
) -> AsyncIterator[loopback.Source]:
    """Open a source; close it afterwards, and see that its thread has gone."""
    before = source_threads()
    source = loopback.open_source(spec, width, height, fps, log or loopback.Log())
    try:
        yield source
    finally:
        source.close()
    assert source_threads() <= before


async def pictures_of(spec: str, seconds: float, **options: Any) -> list[tuple[np.ndarray, float]]:
    """Return what a source gives within that many seconds after its first picture, as (picture, when it was asked)."""
    async with opened(spec, **options) as source:
        taken = [(await source.next())[0]]
        times, start = [0.0], time.perf_counter()
        while times[-1] < seconds:
            taken.append((await source.next())[0])
            times.append(time.perf_counter() - start)
    return list(zip(taken, times, strict=True))


async def called(source: loopback.Source, seconds: float) -> tuple[list[np.ndarray], loopback.Meter, loopback.Log]:
    """Make a call with a source; return every picture received within that many seconds after the first."""
    await source.ready()
    call = loopback.Call(source)
    received: list[np.ndarray] = []

    def on_picture(picture: np.ndarray) -> None:
        received.append(picture)
        call.meter.on_received(picture)

    call.pc2.on_picture = on_picture
    try:
        await call.run()
        until = call.log.now() + seconds
        while call.log.now() < until:
            await asyncio.sleep(0.02)
            await call.check()
    finally:
        await call.close()
    return received, call.meter, call.log


async def called_with(spec: str, seconds: float, **options: Any) -> Any:
    async with opened(spec, **options) as source:
        return await called(source, seconds)


def fails(source: Callable[[], loopback.Source] | str, words: str, *, seconds: float = 3, within: float = 15) -> str:
    """Check that a call with this source ends with one line that names what is wrong, and return it."""

    async def scenario() -> None:
        await (called_with(source, seconds) if isinstance(source, str) else called(source(), seconds))

    with pytest.raises(loopback.CallError, match=words) as raised:
        run(scenario(), within)
    text = str(raised.value)
    assert "\n" not in text
    return text


# ---- A file


@pytest.mark.parametrize(
    ("name", "rate"), [("slow.mp4", 10), ("slow.mkv", 10), ("usual.mp4", 25), ("fast.mkv", 60)], ids=str
)
def test_file_is_sent_at_its_own_rate(name: str, rate: int, tmp_path: Path) -> None:
    path = make_video(tmp_path / name, rate=rate, count=2 * rate)
    received, meter, _ = run(called_with(str(path), 1.5))
    assert 0.6 * rate < meter.received_fps < 1.25 * rate
    assert meter.misread == 0
    # At most a few places where the order breaks: where the file starts again, where a busy machine skips.
    numbers = [number_in(picture) for picture in received]
    assert set(numbers) == set(range(LEVELS))
    steps = [(after - before) % LEVELS for before, after in itertools.pairwise(numbers)]
    assert steps.count(1) > len(steps) / 2
    blue = np.median([picture[60:100, 20:60].mean(axis=(0, 1)) for picture in received], axis=0)
    assert np.abs(blue - (200, 60, 60)).max() < 16


def test_file_slower_than_asked_keeps_its_rate_and_faster_is_thinned(tmp_path: Path) -> None:
    path = make_video(tmp_path / "fast.mp4", rate=60, count=60)
    taken = run(pictures_of(str(path), 1.5, fps=15))
    assert 8 < len(taken) / taken[-1][1] < 19


def test_file_plays_in_a_loop(tmp_path: Path) -> None:
    path = make_video(tmp_path / "short.mp4", rate=20, count=8)
    taken = run(pictures_of(str(path), 1.5))
    numbers = [number_in(picture) for picture, _ in taken]
    assert set(numbers) == set(range(8))
    assert sum(after < before for before, after in itertools.pairwise(numbers)) >= 2
    assert len(taken) / taken[-1][1] < 25  # the seam does not hurry


@pytest.mark.parametrize("size", [(101, 301), (601, 99), (160, 120), (322, 242)], ids=str)
def test_file_keeps_its_shape(size: tuple[int, int], tmp_path: Path) -> None:
    path = make_video(tmp_path / "shape.mkv", size=size, count=30, codec="libvpx")
    received, _, _ = run(called_with(str(path), 0.3, width=320, height=240))
    got = received[-1]
    assert got.shape == (240, 320, 3)
    scale = min(320 / size[0], 240 / size[1])
    width, height = round(size[0] * scale), round(size[1] * scale)
    assert min(320 - width, 240 - height) == 0
    top, left = (240 - height) // 2, (320 - width) // 2
    blue = got[top : top + height, left : left + width // 2][height // 4 : -height // 4 or None, 4:-4]
    assert np.abs(blue.mean(axis=(0, 1)) - (200, 60, 60)).max() < 24
    got[loopback.CODE_AREA] = 0
    for bar in (got[: max(0, top - 6)], got[30:, : max(0, left - 6)], got[top + height + 6 :]):
        assert bar.size == 0 or bar.mean() < 20


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_still_picture_keeps_coming(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"still{suffix}"
    cv2.imwrite(str(path), picture_number(4))
    received, meter, _ = run(called_with(str(path), 1))
    assert 5 < meter.received_fps < 40
    assert {number_in(picture) for picture in received} == {4}


def cut(path: Path, part: float) -> Path:
    """Keep the first part of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    return path


BROKEN: dict[str, Callable[[Path], Any]] = {
    "missing.mp4": lambda path: None,
    "text.mp4": lambda path: path.write_text("this is no video\n" * 100),
    "empty.mp4": lambda path: path.touch(),
    "empty.mkv": lambda path: path.touch(),
    "folder.mp4": lambda path: path.mkdir(),
    "sound.wav": make_sound,
    "no_index.mp4": lambda path: cut(make_video(path), 0.5),  # the moov box comes last
    "header_only.mkv": lambda path: cut(make_video(path), 0.05),
}


@pytest.mark.parametrize("name", BROKEN)
def test_file_that_cannot_be_played_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    BROKEN[name](path)
    assert "video file" in fails(str(path), name)


@pytest.mark.parametrize("name", ["cut.mkv", "cut.webm"])
def test_truncated_file_plays_what_is_there_and_says_so_once(name: str, tmp_path: Path) -> None:
    codec = "libx264" if name.endswith("mkv") else "libvpx"
    path = cut(make_video(tmp_path / name, rate=25, count=50, codec=codec), 0.4)
    log = loopback.Log()

    async def scenario() -> None:
        async with opened(str(path), log=log) as source:
            until, numbers = time.perf_counter() + 2.5, list[int]()
            while time.perf_counter() < until:
                numbers.append(number_in((await source.next())[0]))
            assert set(numbers) == set(range(LEVELS))
            assert len(numbers) > 25  # longer than what is there: it plays again

    run(scenario())
    notes = [event.detail for event in log.events if event.what == "note"]
    assert len(notes) == 1, notes
    assert name in notes[0]
    assert "truncated" in notes[0] or "damaged" in notes[0]


def test_file_goes_on_after_a_long_halt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-Z, a coffee, fg: the time that has passed is not made up for."""
    path = make_video(tmp_path / "short.mp4", rate=20, count=10)
    clock, stop, halt = time.perf_counter, threading.Event(), 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + halt)
    with contextlib.closing(loopback.file_pictures(str(path), print, stop)) as pictures:
        next(pictures)
        halt = 60.0
        start = clock()
        numbers = [number_in(next(pictures)) for _ in range(12)]
    assert len(set(numbers)) > 5, numbers
    assert clock() - start > 8 / 20  # and there is no burst


# ---- A camera


class Camera:
    """Stands in for cv2.VideoCapture: no machine that runs the tests has one."""

    opens = True
    opening = 0.0  # seconds
    rate = 30.0
    pictures = 10**9  # then it is unplugged
    fault: Exception | None = None  # raised instead of that
    hangs = False  # read() never returns then
    devices: list[Camera]

    def __init__(self, index: int) -> None:
        self.index, self.settings, self.reads = index, dict[int, float](), 0
        self.released = threading.Event()
        self.devices.append(self)
        time.sleep(self.opening)

    def isOpened(self) -> bool:  # noqa: N802
        return self.opens

    def set(self, setting: int, value: float) -> bool:
        self.settings[setting] = value
        return True

    def get(self, setting: int) -> float:
        return {cv2.CAP_PROP_FPS: self.rate}[setting]

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.reads >= self.pictures:
            if self.hangs:
                self.released.wait(60)
            if self.fault:
                raise self.fault
            return False, None
        time.sleep(1 / self.rate)
        self.reads += 1
        return True, picture_number(self.reads, 640, 480)

    def release(self) -> None:
        self.released.set()


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Camera]]:
    """A kind of camera to change; whatever opens one gets it."""
    kind = type("FakeCamera", (Camera,), {"devices": []})
    monkeypatch.setattr(cv2, "VideoCapture", kind)
    yield kind
    for device in kind.devices:  # whatever a test has left: let its thread go
        device.released.set()
    wait_until(lambda: not source_threads())


@pytest.mark.parametrize(("spec", "index"), [("camera", 0), ("camera:1", 1)])
def test_camera_is_asked_for_its_size_and_released(camera: type[Camera], spec: str, index: int) -> None:
    received, meter, _ = run(called_with(spec, 0.5, width=320, height=240, fps=30))
    assert received[-1].shape == (240, 320, 3)
    assert meter.misread == 0
    assert len({number_in(picture) for picture in received}) > 3
    (device,) = camera.devices
    assert device.index == index
    wanted = {cv2.CAP_PROP_FRAME_WIDTH: 320, cv2.CAP_PROP_FRAME_HEIGHT: 240, cv2.CAP_PROP_FPS: 30}
    assert device.settings == wanted
    assert device.released.is_set()


def test_camera_faster_than_asked_is_thinned(camera: type[Camera]) -> None:
    camera.rate = 100
    taken = run(pictures_of("camera", 1.5, fps=20))
    assert 10 < len(taken) / taken[-1][1] < 25
    assert len({number_in(picture) for picture, _ in taken}) > 3


CAMERA_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "not there": ({"opens": False}, "camera 77"),
    "taken": ({"pictures": 0}, "camera 77 .*another program"),
    "unplugged": ({"pictures": 20}, "camera 77 stopped"),
    "driver raises": ({"pictures": 20, "fault": cv2.error("bad ioctl")}, "camera:? ?77"),
    "driver raises at once": ({"pictures": 0, "fault": cv2.error("bad ioctl")}, "camera:? ?77"),
}


@pytest.mark.parametrize("fault", CAMERA_FAULTS)
def test_camera_fault_is_one_line(camera: type[Camera], fault: str, capfd: pytest.CaptureFixture[str]) -> None:
    settings, words = CAMERA_FAULTS[fault]
    for name, value in settings.items():
        setattr(camera, name, value)
    fails("camera:77", words)
    assert all(device.released.is_set() for device in camera.devices)
    assert "Traceback" not in capfd.readouterr().err


def test_camera_fault_ends_the_program_with_status_1(camera: type[Camera], capsys: pytest.CaptureFixture[str]) -> None:
    camera.pictures = 10
    assert loopback.main(["--source", "camera:77", "--view", "none", "--size", "320x240", "--seconds", "20"]) == 1
    output, errors = capsys.readouterr()
    assert errors.count("\n") == 1
    assert errors.startswith("loopback: ")
    assert "camera 77" in errors
    assert "pictures sent" in output


@pytest.mark.parametrize("pictures", [0, 20], ids=["at once", "in the call"])
def test_camera_that_hangs_is_named(
    camera: type[Camera], pictures: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    camera.pictures, camera.hangs = pictures, True
    if pictures:  # else with the limits as they are: one must not be mistaken for another
        monkeypatch.setattr(loopback.ThreadedSource, "PATIENCE", 0.5)

    arguments = ["--source", "camera:77", "--view", "none", "--size", "320x240", "--seconds", "20"]
    assert loopback.main(arguments) == 1
    errors = capfd.readouterr().err
    assert errors.startswith("loopback: camera:77 gave nothing")
    assert errors.count("\n") == 1


def test_camera_that_opens_slowly_is_waited_for(camera: type[Camera]) -> None:
    camera.opening = 4.0
    received, _, _ = run(called_with("camera", 0.2))
    assert received


# ---- The screen


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


def test_screen_is_carried(xvfb: Xvfb, tmp_path: Path) -> None:
    pytest.importorskip("mss")
    arguments = (
        "--source",
        "screen",
        "--size",
        "320x240",
        "--view",
        "none",
        "--seconds",
        "1",
        "--snapshot",
        "view.png",
    )
    with filled_screen(xvfb.name, 0x3060C0):
        ended = program(*arguments, cwd=tmp_path, display=xvfb.name)
    assert ended.returncode == 0, ended.stderr
    view, layout = cv2.imread(str(tmp_path / "view.png")), loopback.View(320, 240, loopback.Log())
    assert view is not None
    x, y = layout.corner(1)
    # 1400 x 900 in 320 x 240: 17 black rows above and below.
    assert np.abs(view[y + 60 : y + 200, x + 10 : x + 310].mean(axis=(0, 1)) - (0xC0, 0x60, 0x30)).max() < 12
    assert view[y + 228 : y + 240, x + 10 : x + 310].mean() < 12


def test_screen_that_dies_ends_the_call_with_one_line(xvfb: Xvfb, tmp_path: Path) -> None:
    pytest.importorskip("mss")
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), "--source", "screen", "--view", "none", "--seconds", "60"],
        cwd=tmp_path,
        env=environment(DISPLAY=xvfb.name),
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
    assert process.returncode == 1, errors
    assert errors.startswith("loopback: ")
    assert errors.count("\n") == 1
    assert "screen" in errors or "display" in errors


def test_screen_without_mss_names_the_extra(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["mss"] = None
import loopback
sys.exit(loopback.main(["--source", "screen", "--view", "none", "--seconds", "1"]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(PROGRAM.parent)),
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("loopback: ")
    assert ended.stderr.count("\n") == 1
    assert ".[screen]" in ended.stderr


# ---- The test picture

sizes = st.tuples(st.integers(160, 500), st.integers(120, 400))


@settings(max_examples=25, deadline=None)
@given(size=sizes, t=st.floats(0, 10_000))
def test_test_picture_of_any_size_at_any_time(size: tuple[int, int], t: float) -> None:
    one, other = loopback.SyntheticSource(*size, 30), loopback.SyntheticSource(*size, 30)
    picture = one.draw(t)
    assert picture.shape == (size[1], size[0], 3)
    assert picture.dtype == np.uint8
    one.draw(t + 1)  # what was drawn before does not matter
    assert np.array_equal(one.draw(t), other.draw(t))
    assert not np.array_equal(picture, one.draw(t + 0.5))


@pytest.mark.parametrize("size", [(320, 240), (640, 480)], ids=str)
def test_test_picture_has_no_seam(size: tuple[int, int]) -> None:
    """Where a strip begins again its columns go on as neighbours do, not as columns from different places."""
    width = size[0]
    for top, bottom, _, pixels in loopback.SyntheticSource(*size, 30)._strips:
        strip = pixels.astype(int)
        assert len(strip) == bottom - top
        neighbours = np.abs(strip[:, 2 * width] - strip[:, 2 * width - 1]).mean()
        strangers = np.abs(strip - np.roll(strip, width // 2, axis=1)).mean()
        assert neighbours < 0.7 * strangers


# ---- Pace


async def stalled_track(source: loopback.Source) -> tuple[list[int], list[float]]:
    """Take frames from a source, with the event loop held up for half a second after the tenth; return the pts of each
    frame in ms, and the time."""
    track, pts, times = (
        loopback.OutgoingTrack(source, loopback.Meter(), loopback.RtpClock()),
        list[int](),
        list[float](),
    )
    for number in range(25):
        frame = await track.recv()
        assert frame.pts is not None
        assert frame.time_base is not None
        pts.append(round(frame.pts * frame.time_base * 1000))
        times.append(time.perf_counter())
        if number == 9:
            time.sleep(0.5)  # noqa: ASYNC251 - a stall is what is wanted
    return pts, times


@pytest.mark.parametrize("kind", ["synthetic", "file", "camera"])
def test_stall_is_skipped_not_made_up_for(kind: str, tmp_path: Path, camera: type[Camera]) -> None:
    spec = str(make_video(tmp_path / "usual.mp4", rate=30, count=90)) if kind == "file" else kind

    async def scenario() -> tuple[list[int], list[float]]:
        async with opened(spec, fps=30) as source:
            return await stalled_track(source)

    pts, times = run(scenario())
    assert all(after > before for before, after in itertools.pairwise(pts))
    assert max(after - before for before, after in itertools.pairwise(pts)) > 400
    # 14 intervals of 33 ms follow. One or two may be short: a picture that waited, a slot that was nearly over.
    assert times[-1] - times[10] > 11 / 30


# ---- Fitting a picture into another shape


@settings(max_examples=150, deadline=None)
@given(columns=st.integers(1, 700), rows=st.integers(1, 700), size=sizes, mirrored=st.booleans())
def test_fit_keeps_the_shape(columns: int, rows: int, size: tuple[int, int], mirrored: bool) -> None:
    width, height = size
    picture = np.full((rows, columns, 3), 200, np.uint8)
    given = picture[::-1, ::-1] if mirrored else picture
    fitted = loopback.fit(given, width, height)
    assert fitted.shape == (height, width, 3)
    assert fitted.dtype == np.uint8
    scale = min(width / columns, height / rows)
    ys, xs = np.nonzero(fitted[:, :, 0] > 100)
    assert abs(np.ptp(xs) + 1 - max(1, columns * scale)) <= 1
    assert abs(np.ptp(ys) + 1 - max(1, rows * scale)) <= 1
    assert np.ptp(xs) + 1 == width or np.ptp(ys) + 1 == height
    assert abs(xs.min() - (width - 1 - xs.max())) <= 1  # in the middle
    assert abs(ys.min() - (height - 1 - ys.max())) <= 1
    assert not np.shares_memory(fitted, picture)


@pytest.mark.parametrize("channels", [slice(0, 3), slice(None, None, -1)])
def test_fit_of_the_same_size_is_a_copy(channels: slice) -> None:
    """A screen comes as a view of four channels; the time code is drawn into the copy, not into the original."""
    original = np.random.default_rng(1).integers(0, 256, (120, 160, 3), np.uint8)
    fitted = loopback.fit(original[:, :, channels], 160, 120)
    assert np.array_equal(fitted, original[:, :, channels])
    kept = original.copy()
    fitted[:] = 0
    assert np.array_equal(original, kept)


# ---- A source that breaks


class BreakingSource(loopback.SyntheticSource):
    """Gives some pictures, then breaks."""

    def __init__(self, pictures: int, outcome: BaseException | np.ndarray) -> None:
        super().__init__(WIDTH, HEIGHT, FPS)
        self.left, self.outcome = pictures, outcome

    async def next(self) -> tuple[np.ndarray, float]:
        self.left -= 1
        if self.left >= 0:
            return await super().next()
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome, time.perf_counter()


@pytest.mark.parametrize("pictures", [0, 10], ids=["at once", "in the call"])
@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (loopback.CallError("the lens cap is on: take it off"), "^the lens cap is on: take it off$"),
        (ValueError("seven"), "source.*seven"),
        (ValueError(), "source.*ValueError"),
        (KeyError("lens"), "source.*KeyError"),
        (ValueError("one\ntwo"), "source.*one"),
        (np.zeros((HEIGHT, WIDTH), np.uint8), "source"),
        (np.zeros((8, 8, 3), np.uint8), "source"),
    ],
    ids=["CallError", "ValueError", "no text", "KeyError", "two lines", "grey picture", "tiny picture"],
)
def test_source_that_breaks_fails_the_call(pictures: int, outcome: Any, words: str) -> None:
    fails(lambda: BreakingSource(pictures, outcome), words)

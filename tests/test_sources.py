"""Where the pictures come from: file, camera, test picture; what happens when they stall, end or break."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from conftest import PROGRAM, environment, program, run, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

import loopback

SIZE, FPS = (160, 120), 60.0
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
    path: Path,
    *,
    rate: int = 10,
    count: int = 10,
    size: tuple[int, int] = (320, 240),
    codec: str = "libx264",
    times: Sequence[float] = (),
    title: str = "",
) -> Path:
    """Write a video of numbered pictures, `rate` a second, or each at its time (s)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        container.metadata["title"] = title
        for number in range(len(times) or count):
            frame = av.VideoFrame.from_ndarray(picture_number(number, *size), format="bgr24")
            if times:
                frame.pts, frame.time_base = round(times[number] * 1000), Fraction(1, 1000)
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
    spec: str, *, size: tuple[int, int] | None = SIZE, fps: float = FPS, log: loopback.Log | None = None
) -> AsyncIterator[loopback.Source]:
    """Open a source; close it afterwards, and see that its thread has gone."""
    before = source_threads()
    source = loopback.open_source(spec, size, fps, log or loopback.Log())
    try:
        yield source
    finally:
        await source.close()
    assert source_threads() <= before


async def called(source: loopback.Source, pictures: int = 30) -> tuple[list[np.ndarray], loopback.Meter]:
    """Make a call with a source until so many pictures have been received; return them."""
    await source.ready()
    call = loopback.Call(source)
    received: list[np.ndarray] = []

    def on_picture(picture: np.ndarray) -> None:
        received.append(picture)
        call.meter.on_received(picture)

    call.pc2.on_picture = on_picture
    try:
        await call.run()
        while len(received) < pictures:
            await asyncio.sleep(0.02)
            await call.check()
    finally:
        await call.close()
    return received, call.meter


async def called_with(spec: str, pictures: int = 30, **options: Any) -> tuple[list[np.ndarray], loopback.Meter]:
    async with opened(spec, **options) as source:
        return await called(source, pictures)


def fails(source: Callable[[], loopback.Source] | str, words: str, *, within: float = 15) -> str:
    """Check that a call with this source ends with one line that names what is wrong, and return it."""

    async def scenario() -> None:
        await (called_with(source, 10**9) if isinstance(source, str) else called(source(), 10**9))

    with pytest.raises(loopback.CallError, match=words) as raised:
        run(scenario(), within)
    text = str(raised.value)
    assert "\n" not in text
    return text


# ---- Time that passes only where it is waited for


class Clock:
    """Stands in for the clock and for the event a source's thread waits on, so that a busy machine changes nothing."""

    def __init__(self) -> None:
        self.now, self.asked = 1000.0, 0

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return False

    def is_set(self) -> bool:
        self.asked += 1
        assert self.asked < 10_000, "the source does not wait"
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: made.now)
    return made


class Unread(loopback.DeviceSource):
    """A device whose thread reads nothing: the test does."""

    def _read(self, *_: Any) -> None:
        pass


def taken(
    clock: Clock,
    spec: str | Path,
    count: int,
    *,
    fps: float = FPS,
    size: tuple[int, int] | None = SIZE,
    between: Callable[[int], object] = lambda index: None,
) -> list[tuple[int, float]]:
    """Return the number of each of so many pictures, and the second it was captured. `between` is called after each."""

    async def scenario() -> list[tuple[int, float]]:
        source, began, found = Unread(str(spec), size, fps, loopback.Log()), clock.now, list[tuple[int, float]]()
        with contextlib.closing(source._pictures(clock)) as pictures:  # type: ignore[arg-type]
            for index, (picture, captured_at) in enumerate(itertools.islice(pictures, count)):
                found.append((number_in(picture), captured_at - began))
                between(index)
        return found

    found: list[tuple[int, float]] = run(scenario())
    return found


def gaps(found: list[tuple[int, float]]) -> np.ndarray:
    """Return the seconds from each picture to the next."""
    return np.diff([captured_at for _, captured_at in found])


# ---- A file


@pytest.mark.parametrize(
    ("name", "rate"), [("slow.mp4", 10), ("slow.mkv", 10), ("usual.mp4", 25), ("fast.mkv", 60)], ids=str
)
def test_file_is_played_at_its_own_rate_in_a_loop_without_a_seam(
    name: str, rate: int, tmp_path: Path, clock: Clock
) -> None:
    path = make_video(tmp_path / name, rate=rate, count=20)
    found = taken(clock, path, 50)
    assert [number for number, _ in found] == [number % LEVELS for number in range(50)]
    assert [captured_at for _, captured_at in found] == pytest.approx([n / rate for n in range(50)], abs=0.002)


def test_file_is_carried(tmp_path: Path) -> None:
    path = make_video(tmp_path / "usual.mp4", rate=25, count=50)
    received, meter = run(called_with(str(path), 60))
    assert meter.misread == 0
    numbers = [number_in(picture) for picture in received]
    assert set(numbers) == set(range(LEVELS))
    steps = [(after - before) % LEVELS for before, after in itertools.pairwise(numbers)]
    assert steps.count(1) > len(steps) / 2  # a busy machine passes some over
    blue = np.median([picture[60:100, 20:60].mean(axis=(0, 1)) for picture in received], axis=0)
    assert np.abs(blue - (200, 60, 60)).max() < 16


def test_file_faster_than_asked_is_thinned(tmp_path: Path, clock: Clock) -> None:
    found = taken(clock, make_video(tmp_path / "fast.mp4", rate=60, count=60), 60, fps=15)
    assert 59 / found[-1][1] == pytest.approx(15, abs=0.3)
    assert gaps(found).min() > 0.04


def test_file_of_which_the_pictures_do_not_come_at_one_rate(tmp_path: Path, clock: Clock) -> None:
    """A recording of a screen, and what a browser records: a picture only where something has changed."""
    times = [slot / 60 for slot in (0, 1, 2, 30, 31, 72, 120)]
    found = taken(clock, make_video(tmp_path / "screen.mkv", rate=60, times=times), 7)
    assert [number for number, _ in found] == list(range(7))
    assert [captured_at for _, captured_at in found] == pytest.approx(times, abs=0.002)


def test_what_is_not_damaged_is_not_called_so(tmp_path: Path, clock: Clock) -> None:
    """The container tells its duration and a highest rate; from both OpenCV makes a number of pictures."""
    path = make_video(tmp_path / "screen.mkv", rate=60, times=[0, 0.02, 0.5, 1.2, 2.0])
    assert not notes_of(clock, path, 20)


def notes_of(clock: Clock, path: Path, pictures: int) -> list[str]:
    """Return what the log says of a file while so many pictures are taken."""
    log = loopback.Log()

    async def scenario() -> None:
        source = Unread(str(path), SIZE, FPS, log)
        with contextlib.closing(source._pictures(clock)) as found:  # type: ignore[arg-type]
            for _ in itertools.islice(found, pictures):
                await asyncio.sleep(0)

    run(scenario())
    return [event.detail for event in log.events if event.what == "note"]


@pytest.mark.parametrize("halt", [0.3, 7.0, 3600.0])
def test_file_goes_on_after_a_halt(halt: float, tmp_path: Path, clock: Clock) -> None:
    """Ctrl-Z, a coffee, fg: the time that has passed is not made up for in a burst."""
    path = make_video(tmp_path / "short.mp4", rate=20, count=10)
    found = taken(clock, path, 25, between=lambda index: clock.wait(halt if index == 5 else 0))
    assert [number for number, _ in found] == [number % LEVELS for number in range(25)]
    *usual, longest = sorted(gaps(found))
    assert longest > 0.9 * halt
    assert usual == pytest.approx([0.05] * 23, abs=0.01)


def test_file_that_is_decoded_too_slowly_is_shown_slowly(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one picture in thirty of them."""
    count_reads(monkeypatch, lambda: clock.wait(0.05))
    found = taken(clock, make_video(tmp_path / "large.mp4", rate=60, count=60), 30)
    assert gaps(found).max() < 0.11


def count_reads(monkeypatch: pytest.MonkeyPatch, at_each: Callable[[], object] = lambda: None) -> list[str]:
    """Note, in the list returned, each picture that is decoded from a file."""
    original, reads = cv2.VideoCapture, list[str]()

    class Counted:
        def __init__(self, *arguments: Any) -> None:
            self.device = original(*arguments)

        def read(self) -> Any:
            at_each()
            reads.append("read")
            return self.device.read()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.device, name)

    monkeypatch.setattr(cv2, "VideoCapture", Counted)
    return reads


def test_file_with_a_long_gap_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it has given a picture, a file is not given up for being silent."""
    monkeypatch.setattr(loopback.Reader, "PATIENCE", 0.3)
    path = make_video(tmp_path / "gap.mkv", times=[0, 0.1, 1.5, 1.6])

    async def scenario() -> list[int]:
        async with opened(str(path)) as source:
            return [number_in((await source.next())[0]) for _ in range(4)]

    assert run(scenario()) == [0, 1, 2, 3]


# The program with less patience, which prints a line for each picture received.
HALTED = """
import loopback, sys
loopback.Reader.PATIENCE = 1
loopback.Health.SILENCE = 1.6  # RTCP comes every 1.5 s
on_received = loopback.Meter.on_received
def told(meter, picture):
    on_received(meter, picture)
    print("picture", meter.received, flush=True)
loopback.Meter.on_received = told
sys.exit(loopback.main(["--source", sys.argv[1], "--view", "none", "--seconds", "60"]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system has no SIGSTOP")
def test_program_halted_for_seconds_goes_on_with_its_file(tmp_path: Path) -> None:
    """Longer than a device is waited for, and longer than the other side may be silent."""
    path = make_video(tmp_path / "film.mp4")
    command = [sys.executable, "-c", HALTED, path.name]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(PROGRAM.parent)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            last = next(int(line.split()[1]) for line in process.stdout if line.startswith("picture"))
            process.send_signal(signal.SIGSTOP)
            time.sleep(2.6)
            process.send_signal(signal.SIGCONT)
            assert any(line.startswith(f"picture {last + 20}") for line in process.stdout)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=15)
        finally:
            process.kill()
    assert errors == ""
    assert process.returncode == 130


@pytest.mark.parametrize("size", [(101, 301), (601, 99), (160, 120), (322, 242)], ids=str)
def test_file_with_a_size_keeps_its_shape_between_bars(size: tuple[int, int], tmp_path: Path) -> None:
    path = make_video(tmp_path / "shape.mkv", size=size, rate=30, count=30, codec="libvpx")
    received, _ = run(called_with(str(path), 8, size=(320, 240)))
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


@pytest.mark.parametrize(
    ("size", "sent"),
    [((320, 240), (320, 240)), ((640, 360), (640, 360)), ((1280, 720), (640, 360)), ((480, 854), (270, 480))],
    ids=str,
)
def test_file_without_a_size_is_sent_in_its_own_shape(
    size: tuple[int, int], sent: tuple[int, int], tmp_path: Path
) -> None:
    path = make_video(tmp_path / "shape.mp4", size=size, rate=30, count=5)
    received, meter = run(called_with(str(path), 8, size=None))
    assert received[-1].shape == (sent[1], sent[0], 3)
    assert meter.misread == 0
    received[-1][loopback.CODE_AREA] = 100
    assert received[-1].max(axis=2).min() > 15, "there is a black bar"


def test_what_a_device_gives_is_told_where_it_is_not_what_is_sent(tmp_path: Path) -> None:
    async def given_by(path: Path, size: tuple[int, int] | None) -> str:
        async with opened(str(path), size=size) as source:
            for _ in range(3):
                await source.next()
            return source.given

    large, small = make_video(tmp_path / "large.mp4", size=(1280, 720)), make_video(tmp_path / "small.mp4")
    assert run(given_by(large, None)) == "1280x720"
    assert run(given_by(small, (160, 120))) == "320x240"
    assert run(given_by(small, None)) == ""
    cv2.imwrite(str(tmp_path / "still.png"), picture_number(4, 960, 720))
    assert run(given_by(tmp_path / "still.png", None)) == "960x720"


# The matrix of a track, 9 numbers, as the file format writes it (ISO 14496-12, 8.3.2), for a picture of 320 x 240.
ONE, W = 1 << 16, 1 << 30
TURNED = {
    0: (ONE, 0, 0, 0, ONE, 0, 0, 0, W),
    90: (0, ONE, 0, -ONE, 0, 0, 240 * ONE, 0, W),
    180: (-ONE, 0, 0, 0, -ONE, 0, 320 * ONE, 240 * ONE, W),
    270: (0, -ONE, 0, ONE, 0, 0, 0, 320 * ONE, W),
}


@pytest.mark.parametrize("degrees", TURNED)
def test_video_of_a_phone_stands_upright(degrees: int, tmp_path: Path) -> None:
    """A phone held upright writes lying pictures, and into the file how far to turn them."""
    path = make_video(tmp_path / "phone.mp4")
    content = path.read_bytes()
    at = content.index(b"tkhd") + 44
    assert content[at : at + 36] == struct.pack(">9i", *TURNED[0])
    path.write_bytes(content[:at] + struct.pack(">9i", *TURNED[degrees]) + content[at + 36 :])

    async def first() -> np.ndarray:
        async with opened(str(path), size=None) as source:
            picture, _ = await source.next()
            return picture

    turned = np.rot90(picture_number(0), -degrees // 90)
    picture = run(first())
    assert picture.shape == turned.shape
    assert np.abs(picture.astype(int) - turned).mean() < 8


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_still_picture_keeps_coming(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"still{suffix}"
    cv2.imwrite(str(path), picture_number(4))
    received, _ = run(called_with(str(path), 12))
    assert {number_in(picture) for picture in received} == {4}


def test_large_still_picture_is_decoded_and_scaled_once(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    cv2.imwrite(str(path), picture_number(4, 2000, 1500))
    original, resized = cv2.resize, list[Any]()
    monkeypatch.setattr(
        cv2, "resize", lambda picture, *a, **o: resized.append(picture.shape) or original(picture, *a, **o)
    )
    reads = count_reads(monkeypatch)
    found = taken(clock, path, 30, fps=30)
    assert {number for number, _ in found} == {4}
    assert len(resized) <= 2
    assert len(reads) <= 2  # the second one says that there are no more


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
    "loop.mp4": lambda path: path.symlink_to(path.name),
    f"{'long' * 64}.mp4": lambda path: None,
    "no_memory.mp4": lambda path: path.symlink_to("/proc/self/mem"),  # every read() fails
}


def programs(commands: dict[Any, tuple[str, ...]], **options: Any) -> dict[Any, subprocess.CompletedProcess[str]]:
    """Run the program with each of these command lines, some at a time, for beginning takes it longest."""
    with ThreadPoolExecutor(4) as threads:
        ended = threads.map(lambda command: program(*command, **options), commands.values())
        return dict(zip(commands, ended, strict=True))


def test_files_that_cannot_be_played_are_named(tmp_path: Path) -> None:
    """In one line, without a word of the libraries below: their words are off before the program begins."""
    names = [name for name in BROKEN if name != "no_memory.mp4" or Path("/proc/self/mem").exists()]
    for name in names:
        BROKEN[name](tmp_path / name)
    commands = {name: ("--source", name, "--view", "none", "--seconds", "0.5") for name in names}
    for name, ended in programs(commands, cwd=tmp_path).items():
        assert ended.returncode == 1, (name, ended.stderr)
        assert ended.stderr.count("\n") == 1, ended.stderr
        assert ended.stderr.startswith(f"loopback: {name[:100]}")
        assert "video file" in ended.stderr
        assert "RTCPeerConnection" not in ended.stdout


@pytest.mark.parametrize(
    ("option", "name", "advice"),
    [("--source", "film.mp4", "name a video file"), ("--snapshot", "view.png", "choose another place")],
)
def test_working_folder_that_is_gone(option: str, name: str, advice: str, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    ended = program(option, name, "--view", "none", cwd=folder, preexec_fn=lambda: shutil.rmtree(folder))
    assert ended.returncode == 1
    assert re.fullmatch(f"loopback: {name} .*{advice}\n", ended.stderr)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_is_played_or_refused_and_never_crashes(tmp_path: Path) -> None:
    """OpenCV cannot go back in it, and it must not matter that it cannot."""
    film, pipe = make_video(tmp_path / "film.mkv"), tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["sh", "-c", f"exec cat '{film}' > '{pipe}'"]) as writer:
        try:
            ended = program("--source", "pipe", "--view", "none", "--seconds", "0.5", cwd=tmp_path)
        finally:
            writer.kill()
    assert ended.returncode in (0, 1), ended.stderr
    assert ended.stderr.count("\n") == ended.returncode, ended.stderr


@pytest.mark.parametrize("name", ["cut.mkv", "cut.webm"])
def test_truncated_file_plays_what_is_there_and_says_so_once(name: str, tmp_path: Path, clock: Clock) -> None:
    codec = "libx264" if name.endswith("mkv") else "libvpx"
    path = cut(make_video(tmp_path / name, rate=25, count=50, codec=codec), 0.4)
    assert {number for number, _ in taken(clock, path, 40)} == set(range(LEVELS))
    (note,) = notes_of(clock, path, 60)
    assert name in note
    assert "truncated" in note or "damaged" in note


def test_truncated_file_says_so_in_one_line_and_nothing_on_stderr(tmp_path: Path) -> None:
    path = cut(make_video(tmp_path / "cut.mkv", rate=25, count=50), 0.4)
    ended = program("--source", path.name, "--view", "none", "--seconds", "1.5", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("truncated") == 1


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv"])
def test_file_with_a_tag_that_is_not_utf_8_plays(suffix: str, tmp_path: Path) -> None:
    path = make_video(tmp_path / f"tag{suffix}", rate=30, codec="mpeg4", title="TITLETITLE")
    content = path.read_bytes()
    assert content.count(b"TITLETITLE") == 1
    path.write_bytes(content.replace(b"TITLETITLE", b"caf\xe9 \xff\xfe\xfd\xc3\x28"))
    received, _ = run(called_with(str(path), 8))
    assert len({number_in(picture) for picture in received}) > 2


NOT_UTF_8 = os.fsdecode(b"caf\xe9 \xff.mp4")
ANY_BYTES = [  # a file, and a snapshot of it
    (NOT_UTF_8, ""),
    (NOT_UTF_8, "view.png"),
    (NOT_UTF_8, os.fsdecode(b"vue caf\xe9.png")),
    ("käse ☃.mp4", "käse ☃.png"),
]
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.skipif(sys.platform != "linux", reason="file names are any bytes on Linux only")
@pytest.mark.parametrize("locale", [{}, C_LOCALE], ids=["UTF-8", "C"])
def test_file_names_of_any_bytes_play(locale: dict[str, str], tmp_path: Path) -> None:
    """It ended the process: OpenCV crashes over them, as a name and as a text to draw."""
    film, commands = make_video(tmp_path / "film.mp4"), dict[str, tuple[str, ...]]()
    for name, snapshot in ANY_BYTES:
        shutil.copy(film, tmp_path / name)
        arguments = ("--source", name, "--view", "none", "--seconds", "0.5")
        commands[snapshot] = (*arguments, *(("--snapshot", snapshot) if snapshot else ()))
    for snapshot, ended in programs(commands, cwd=tmp_path, env=environment(**locale)).items():
        assert (ended.returncode, ended.stderr) == (0, ""), snapshot
        assert "pictures sent" in ended.stdout
        if snapshot:
            assert cv2.imdecode(np.fromfile(tmp_path / snapshot, np.uint8), cv2.IMREAD_COLOR) is not None


# ---- A camera


class Camera:
    """Stands in for cv2.VideoCapture: no machine that runs the tests has one."""

    opens = True
    opening = 0.0  # seconds
    rate = 30.0
    pictures = 10**9  # then it is unplugged
    fault: Exception | None = None  # raised instead of that
    hangs = False  # read() never returns then
    sleep: Callable[[float], object] = staticmethod(time.sleep)
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
        return {cv2.CAP_PROP_FPS: self.rate, cv2.CAP_PROP_FRAME_COUNT: -1.0}[setting]

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.reads >= self.pictures:
            if self.hangs:
                self.released.wait(60)
            if self.fault:
                raise self.fault
            return False, None
        self.sleep(1 / self.rate)
        self.reads += 1
        return True, picture_number(self.reads, 640, 480)

    def release(self) -> None:
        self.released.set()


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Camera]]:
    """A kind of camera to change; whatever opens one gets it. Files are still files."""
    kind, original = type("FakeCamera", (Camera,), {"devices": []}), cv2.VideoCapture
    monkeypatch.setattr(
        cv2, "VideoCapture", lambda what, *more: kind(what) if isinstance(what, int) else original(what, *more)
    )
    yield kind
    for device in kind.devices:  # whatever a test has left: let its thread go
        device.released.set()
    wait_until(lambda: not source_threads())


@pytest.mark.parametrize(
    ("spec", "index", "size", "sent"),
    [("camera", 0, (320, 240), (320, 240)), ("camera:1", 1, None, (640, 480)), ("camera:1", 1, (160, 200), (160, 200))],
    ids=str,
)
def test_camera_is_asked_for_its_size_and_released(
    camera: type[Camera], spec: str, index: int, size: tuple[int, int] | None, sent: tuple[int, int]
) -> None:
    received, meter = run(called_with(spec, 10, size=size, fps=30))
    assert received[-1].shape == (sent[1], sent[0], 3)
    assert meter.misread == 0
    assert len({number_in(picture) for picture in received}) > 3
    (device,) = camera.devices
    assert device.index == index
    wanted = {cv2.CAP_PROP_FRAME_WIDTH: sent[0], cv2.CAP_PROP_FRAME_HEIGHT: sent[1], cv2.CAP_PROP_FPS: 30}
    assert device.settings == wanted
    assert device.released.is_set()


def test_camera_faster_than_asked_is_thinned(camera: type[Camera], clock: Clock) -> None:
    camera.rate, camera.sleep = 100, clock.wait
    found = taken(clock, "camera", 40, fps=20)
    assert 39 / (found[-1][1] - found[0][1]) == pytest.approx(20, abs=0.5)
    assert gaps(found).min() > 0.025


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
        monkeypatch.setattr(loopback.Reader, "PATIENCE", 0.5)

    arguments = ["--source", "camera:77", "--view", "none", "--size", "320x240", "--seconds", "20"]
    assert loopback.main(arguments) == 1
    errors = capfd.readouterr().err
    assert errors.startswith("loopback: camera:77 gave nothing")
    assert errors.count("\n") == 1


def test_camera_that_opens_slowly_is_waited_for(camera: type[Camera]) -> None:
    camera.opening = 4.0
    received, _ = run(called_with("camera", 3))
    assert received


# ---- The thread that reads


def reading(items: Callable[[threading.Event], Generator[Any]], keep: int = 1) -> loopback.Reader[Any]:
    return loopback.Reader("a device", items, keep)


@pytest.mark.parametrize(("keep", "left"), [(1, [4]), (3, [2, 3, 4])])
def test_newest_items_win(keep: int, left: list[int]) -> None:
    given_all = threading.Event()

    def items(stop: threading.Event) -> Generator[int]:
        yield from range(5)
        given_all.set()
        stop.wait()

    async def scenario() -> None:
        reader = reading(items, keep)
        given_all.wait()  # the event loop stands still meanwhile
        assert [await reader.next() for _ in left] == left
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.next(), 0.1)
        await reader.close()

    run(scenario())


@pytest.mark.parametrize(
    "failure",
    [loopback.CallError("the lens cap is on"), KeyError("mine"), UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "x")],
)
def test_failure_of_any_kind_is_raised_after_what_was_given(failure: Exception) -> None:
    def items(stop: threading.Event) -> Generator[int]:
        yield 1
        raise failure

    async def scenario() -> None:
        reader = reading(items)
        assert await reader.next() == 1
        for _ in range(2):
            with pytest.raises(type(failure)):
                await reader.next()
        await reader.close()

    run(scenario())


def test_event_loop_goes_on_while_a_slow_device_is_closed() -> None:
    reached, let_go = threading.Event(), threading.Event()

    def items(stop: threading.Event) -> Generator[int]:
        yield 1
        reached.set()
        let_go.wait(10)

    async def scenario() -> None:
        reader = reading(items)
        await reader.next()
        reached.wait()
        closing = asyncio.create_task(reader.close())
        await asyncio.sleep(0.05)
        assert not closing.done(), "the event loop stood still until the device was closed"
        let_go.set()
        await closing
        assert not reader._thread.is_alive()

    run(scenario())


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


def test_night_is_darker_and_the_balloon_is_not() -> None:
    day, night = (loopback.SyntheticSource(320, 240, 30, night=dark).draw(1.0) for dark in (False, True))
    assert night.mean() < 0.6 * day.mean()
    assert night.max() > 200


@pytest.mark.parametrize("size", [None, (320, 240)])
def test_test_picture_without_a_size_is_640x480(size: tuple[int, int] | None) -> None:
    async def shape() -> Any:
        async with opened("synthetic", size=size) as source:
            return (await source.next())[0].shape

    width, height = size or (640, 480)
    assert run(shape()) == (height, width, 3)


# ---- Pace


def test_stall_is_skipped_not_made_up_for(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test picture's slots that were missed are left out: each picture shows its own moment."""

    async def sleep(seconds: float) -> None:
        clock.now += max(0.0, seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)

    async def pts() -> list[float]:
        track, found = loopback.OutgoingTrack(loopback.SyntheticSource(*SIZE, 30)), list[float]()
        for number in range(25):
            frame = await track.recv()
            assert frame.pts is not None
            assert frame.time_base is not None
            found.append(float(frame.pts * frame.time_base) * 30)
            if number == 9:
                clock.now += 0.51  # 15.3 slots
        return found

    assert run(pts()) == pytest.approx([*range(10), 24.3, *range(25, 39)], abs=0.01)


# ---- Fitting a picture into another shape


@settings(max_examples=150, deadline=None)
@given(columns=st.integers(1, 700), rows=st.integers(1, 700), size=sizes, mirrored=st.booleans())
def test_fit_keeps_the_shape(columns: int, rows: int, size: tuple[int, int], mirrored: bool) -> None:
    width, height = size
    picture = np.full((rows, columns, 3), 200, np.uint8)
    given = picture[::-1, ::-1] if mirrored else picture
    fitted = loopback.fit(given, size)
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


@settings(max_examples=150, deadline=None)
@given(columns=st.integers(1, 1500), rows=st.integers(1, 1500))
def test_fit_without_a_size_has_bars_only_where_the_time_code_needs_room(columns: int, rows: int) -> None:
    fitted = loopback.fit(np.full((rows, columns, 3), 200, np.uint8), None)
    scale = min(1, 640 / columns, 480 / rows)
    height, width = fitted.shape[:2]
    assert 160 <= width <= 640
    assert 120 <= height <= 480
    assert width == 160 or abs(width - columns * scale) <= 0.5
    assert height == 120 or abs(height - rows * scale) <= 0.5
    ys, xs = np.nonzero(fitted[:, :, 0] > 100)
    assert abs(np.ptp(xs) + 1 - max(1, columns * scale)) <= 0.5
    assert abs(np.ptp(ys) + 1 - max(1, rows * scale)) <= 0.5


@pytest.mark.parametrize("size", [None, (160, 120)])
@pytest.mark.parametrize("channels", [slice(0, 3), slice(None, None, -1)])
def test_fit_of_the_same_size_is_a_copy(channels: slice, size: tuple[int, int] | None) -> None:
    """The time code is drawn into the copy, not into the original."""
    original = np.random.default_rng(1).integers(0, 256, (120, 160, 3), np.uint8)
    fitted = loopback.fit(original[:, :, channels], size)
    assert np.array_equal(fitted, original[:, :, channels])
    kept = original.copy()
    fitted[:] = 0
    assert np.array_equal(original, kept)


# ---- A source that breaks


class BreakingSource(loopback.SyntheticSource):
    """Gives some pictures, then breaks."""

    def __init__(self, pictures: int, outcome: BaseException | np.ndarray) -> None:
        super().__init__(*SIZE, FPS)
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
        (np.zeros((*SIZE,), np.uint8), "source"),
        (np.zeros((8, 8, 3), np.uint8), "source"),
    ],
    ids=["CallError", "ValueError", "no text", "KeyError", "two lines", "grey picture", "tiny picture"],
)
def test_source_that_breaks_fails_the_call(pictures: int, outcome: Any, words: str) -> None:
    fails(lambda: BreakingSource(pictures, outcome), words)

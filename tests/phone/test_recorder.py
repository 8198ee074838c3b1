"""The recording: it plays, also after a kill; no source is overwritten; no failure of its thread is lost."""

import loopback  # first: it imports cv2 before av  # isort: skip

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import environment, run, run_at_once, wait_until
from faults import calling

from loopback import Call, CallError, Picture, View, read_time_code, sides

sys.path.append(str(Path(loopback.__file__).resolve().parent / "notebooks"))
from phone.recorder import Recorder, check_not_a_source
from phone.sound import BLOCK, SOUND_RATE, OutgoingSound, SoundMeter, ToneSource, with_sound

SHAPE = (120, 160, 3)
GREY = np.full(SHAPE, 128, np.uint8)


async def written(recorder: Recorder) -> None:
    """Wait until the thread has nearly caught up, so that nothing is dropped, however busy the machine."""
    while recorder._jobs.qsize() > 2:
        await asyncio.sleep(0.002)


async def record(call: Call, recorder: Recorder, view: View, seconds: float) -> None:
    """Record the view of a running call for some seconds, and close the recording."""
    until = call.log.now() + seconds
    try:
        while call.log.now() < until:
            await call.check()
            recorder.write(view.draw(sides(call)), call.log.now())
            await asyncio.sleep(0.1)
    finally:
        await recorder.close()


def film(path: Path) -> tuple[list[float], list[list[int | None]]]:
    """Return the time of each frame of a recorded view, and the time codes of both pictures in it."""
    view = View(loopback.Log(), (844, 416))
    areas = [view.areas["pane0"], view.areas["pane1"]]
    times: list[float] = []
    codes: list[list[int | None]] = []
    # A file that was cut ends in an error; what comes before it is what plays.
    with av.open(str(path)) as container, contextlib.suppress(av.FFmpegError):
        for frame in container.decode(video=0):
            times.append(float(frame.time or 0))
            picture = frame.to_ndarray(format="bgr24")
            assert picture.shape == view.shape
            codes.append([read_time_code(picture[y : y + height, x : x + width]) for x, y, width, height in areas])
    return times, codes


def check_film(path: Path, *, least: int) -> list[float]:
    """Check that a recording plays and shows both pictures moving; return its times."""
    times, codes = film(path)
    assert len(times) >= least
    assert times == sorted(times)
    for side in (0, 1):
        read = [code[side] for code in codes if code[side] is not None]
        assert len(read) >= len(codes) / 2
        assert read == sorted(read)
        assert len(set(read)) > least / 3
    return times


# ---- It plays --------------------------------------------------------------------------------------------------------


def test_a_recording_plays(tmp_path: Path) -> None:
    async def scenario(name: str) -> None:
        async with calling((320, 240), fps=10) as call:
            await call.run()
            view = View(call.log, (844, 416))
            await record(call, Recorder(tmp_path / name, view.shape), view, 2)

    names = ["call.mkv", "call.mp4", "call.webm", "CALL.MKV", "caf\udce9.mp4"]
    run_at_once(scenario, names)
    for path in map(tmp_path.joinpath, names):
        times = check_film(path, least=8)
        assert 1 < times[-1] - times[0] < 4
        with av.open(str(path)) as container:
            assert container.format.name.split(",")[0] in ("matroska", "mov")
    assert not [thread for thread in threading.enumerate() if thread.name == "recorder"]


@pytest.mark.parametrize("suffix", Recorder.KINDS)
def test_the_sound_is_recorded_with_the_picture(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"call{suffix}"
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(100 * BLOCK) / SOUND_RATE)).astype(np.int16).reshape(100, BLOCK)

    async def scenario() -> None:
        recorder = Recorder(path, SHAPE, sound=True)
        for number, block in enumerate(tone):
            recorder.write_sound(block, number // 4 * 0.08)  # in bursts, as it comes
            if number % 2:
                recorder.write(GREY, number * BLOCK / SOUND_RATE)
            await written(recorder)
        await recorder.close()
        assert recorder.dropped == 0

    run(scenario())
    with av.open(str(path)) as file:
        assert [stream.type for stream in file.streams] == ["video", "audio"]
        shown = [frame.time for frame in file.decode(video=0)]
    with av.open(str(path)) as file:
        blocks = list(file.decode(audio=0))
    times = [frame.time for frame in blocks]
    meter = SoundMeter()
    for frame in blocks[-25:-5]:  # the codec rounds off the very end
        meter.on_received((frame.to_ndarray()[0] * 32767).astype(np.int16))
    assert meter.frequency == pytest.approx(440, abs=1)
    assert np.mean(np.abs(np.diff(times) - 0.02) < 0.003) > 0.9, "it has gaps"
    assert times == sorted(times)
    assert abs(times[-1] - shown[-1]) < 0.1, "sound and picture do not end together"
    assert (len(shown), len(times) in range(98, 104)) == (50, True)


def test_the_sound_of_a_call_is_recorded(tmp_path: Path) -> None:
    async def scenario() -> int:
        async with calling(fps=10) as call:
            view = View(call.log, (844, 416))
            recorder, sound = Recorder(tmp_path / "call.mkv", view.shape, sound=True), OutgoingSound(ToneSource())
            sound.meter.on_block = lambda samples: recorder.write_sound(samples, call.log.now())
            await call.run(with_sound(call, sound))
            await record(call, recorder, view, 1)
            return sound.meter.blocks_received

    received = run(scenario())
    with av.open(str(tmp_path / "call.mkv")) as file:
        blocks = [np.abs(frame.to_ndarray()).max() for frame in file.decode(audio=0)]
    assert received - 10 < len(blocks) <= received + 1
    assert max(blocks) > 0.1  # it is not silent


def test_sound_that_pauses_goes_on_at_its_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        recorder, block = Recorder(tmp_path / "call.mkv", SHAPE, sound=True), np.zeros(BLOCK, np.int16)
        for t in (0.0, 0.0, 0.0, 2.0, 2.0):  # in bursts, as they come
            recorder.write_sound(block, t)
        recorder.write(GREY, 2.0)
        await recorder.close()

    run(scenario())
    with av.open(str(tmp_path / "call.mkv")) as file:
        times = [float(frame.time or 0) for frame in file.decode(audio=0)]
    gaps = np.diff(times)
    assert gaps.max() == pytest.approx(2 - 2 * BLOCK / SOUND_RATE, abs=0.03)
    assert sorted(gaps)[-2] < 0.03


def test_without_a_stream_for_it_sound_is_passed_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        recorder = Recorder(tmp_path / "call.mkv", SHAPE)
        recorder.write_sound(np.zeros(BLOCK, np.int16), 0)
        recorder.write(GREY, 0)
        await recorder.close()

    run(scenario())
    with av.open(str(tmp_path / "call.mkv")) as file:
        assert [stream.type for stream in file.streams] == ["video"]
        assert len(list(file.decode(video=0))) == 1


def test_pictures_of_an_odd_size_and_of_one_moment_are_recorded(tmp_path: Path) -> None:
    async def scenario() -> None:
        recorder = Recorder(tmp_path / "call.mkv", (121, 161, 3))
        for t in (0.5, 0.5, 0.4):  # the file knows one picture a millisecond, later ones later
            recorder.write(np.full((121, 161, 3), 128, np.uint8), t)
        await recorder.close()

    run(scenario())
    with av.open(str(tmp_path / "call.mkv")) as file:
        assert [(frame.height, frame.width, round((frame.time or 0) * 1000)) for frame in file.decode(video=0)] == [
            (122, 162, 500),
            (122, 162, 501),
            (122, 162, 502),
        ]


@pytest.mark.parametrize("suffix", Recorder.KINDS)
def test_the_disk_is_less_than_half_a_second_behind(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"call{suffix}"

    async def scenario() -> None:
        recorder = Recorder(path, SHAPE)
        for number in range(40):
            recorder.write(GREY, number / 30)
            await written(recorder)
        with av.open(str(path)) as file:
            assert sum(1 for _ in file.decode(video=0)) >= 40 - 15
        await recorder.close()

    run(scenario())


PROGRAM = """
import asyncio, pathlib, sys
import loopback
from phone.recorder import Recorder

async def call(path):
    call = loopback.Call(loopback.SyntheticSource(320, 240, 30))
    view = loopback.View(call.log, (844, 416))
    recorder = Recorder(path, view.shape)
    try:
        await call.run()
        while True:
            await call.check()
            recorder.write(view.draw(loopback.sides(call)), call.log.now())
            await asyncio.sleep(1 / 30)
    finally:
        await recorder.close()
        await call.close()

asyncio.run(call(pathlib.Path(sys.argv[1])))
"""


@contextlib.contextmanager
def recording(folder: Path) -> Iterator[dict[Path, subprocess.Popen[bytes]]]:
    """Give processes that record a call, one for each kind of file, once each has recorded twenty pictures."""
    paths = [folder / f"call{suffix}" for suffix in Recorder.KINDS]
    processes = {
        path: subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path)],
            env=environment(PYTHONPATH=os.pathsep.join(sys.path)),
            stderr=subprocess.DEVNULL,
        )
        for path in paths
    }
    try:
        for path in paths:
            wait_until(lambda path=path: frames_so_far(path) >= 20, 30)
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait(timeout=10)


def frames_so_far(path: Path) -> int:
    try:
        return len(film(path)[0])
    except (av.FFmpegError, OSError, IndexError):
        return 0


def test_a_recording_plays_after_a_kill(tmp_path: Path) -> None:
    with recording(tmp_path) as processes:
        for process in processes.values():
            process.kill()
    for path in processes:
        check_film(path, least=20)


def test_after_ctrl_c_its_last_picture_is_there(tmp_path: Path) -> None:
    with recording(tmp_path) as processes:
        for process in processes.values():
            process.send_signal(signal.SIGINT)
        for process in processes.values():
            assert process.wait(timeout=10) == -signal.SIGINT
    for path in processes:
        check_film(path, least=20)
        with av.open(str(path)) as container:  # and it ends as it should
            assert len(list(container.decode(video=0))) >= 20


# ---- No source is overwritten ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_source_under_another_name_is_not_overwritten(link: Callable[[Path, Path], None], tmp_path: Path) -> None:
    source, path = tmp_path / "film.mkv", tmp_path / "call.mkv"
    source.write_bytes(b"precious")
    link(source, path)
    with pytest.raises(CallError, match=r"call\.mkv is the source .*film\.mkv: choose another name"):
        check_not_a_source(path, "tone", str(source))


def test_a_source_under_its_own_name_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("film.mkv").write_bytes(b"precious")
    for name in ("film.mkv", "./film.mkv", str(tmp_path / "film.mkv")):
        with pytest.raises(CallError):
            check_not_a_source(Path("film.mkv"), name)
    os.rename("film.mkv", "\x1b[2J\n.mkv")
    with pytest.raises(CallError) as raised:
        check_not_a_source(Path("\x1b[2J\n.mkv"), "\x1b[2J\n.mkv")
    assert str(raised.value).isprintable()


def test_another_file_may_be_written(tmp_path: Path) -> None:
    for name in ("film.mkv", "call.mkv"):
        (tmp_path / name).write_bytes(b"the same")
    check_not_a_source(tmp_path / "call.mkv", "tone", "mic:plughw:1", "", "camera:1", str(tmp_path / "film.mkv"))
    check_not_a_source(tmp_path / "new.mkv", str(tmp_path / "film.mkv"), str(tmp_path / "new.mkv"))


# ---- What goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["missing/out.mkv", "folder.mkv", "out.avi", "out", "\x1b[2J/\n.mkv"])
def test_a_file_that_cannot_be_written_is_named_before_the_call(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.mkv").mkdir()
    with pytest.raises(CallError) as raised:
        Recorder(tmp_path / name, SHAPE)
    text = str(raised.value)
    assert text.startswith(loopback.printable(str(tmp_path / name)))
    assert text.isprintable()
    assert "choose another" in text


@pytest.mark.parametrize("suffix", Recorder.KINDS)
def test_a_full_disk_is_told_to_who_writes_or_closes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"full{suffix}"
    path.symlink_to("/dev/full")  # each write fails: no space left on device

    async def scenario() -> None:
        recorder = Recorder(path, SHAPE)
        try:
            for number in range(30):
                recorder.write(GREY, number / 30)
                await asyncio.sleep(0.01)
        finally:
            await recorder.close()

    with pytest.raises(CallError) as raised:
        run(scenario())
    text = str(raised.value)
    assert text.startswith(f"{path} cannot be written (No space left on device): ")
    assert text.isprintable()


@pytest.mark.parametrize("who", ["write", "write_sound", "close"])
def test_a_bug_in_the_thread_is_told_to_who_writes_or_closes(who: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        recorder = Recorder(tmp_path / "call.mkv", SHAPE, sound=True)
        recorder.write("no picture", 0)  # type: ignore[arg-type]
        wait_until(lambda: not recorder._thread.is_alive())
        if who == "write":
            recorder.write(GREY, 1)
        elif who == "write_sound":
            recorder.write_sound(np.zeros(BLOCK, np.int16), 1)
        else:
            await recorder.close()

    with pytest.raises(AttributeError, match="'str' object"):
        run(scenario())
    assert str(tmp_path / "call.mkv") not in {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}


class Slow(Recorder):
    """A recorder for a slow disk."""

    def _write_picture(self, picture: Picture, t: float) -> None:
        time.sleep(0.05)
        super()._write_picture(picture, t)


def test_where_the_disk_is_slow_pictures_are_dropped_and_the_call_is_not_held_up(tmp_path: Path) -> None:
    async def scenario() -> int:
        recorder, started = Slow(tmp_path / "call.mkv", SHAPE), time.perf_counter()
        for number in range(30):
            recorder.write(GREY, number / 30)
        assert time.perf_counter() - started < 0.5
        await recorder.close()
        return recorder.dropped

    assert run(scenario()) in (21, 22)  # eight wait, and one may be under way
    with av.open(str(tmp_path / "call.mkv")) as file:
        assert len(list(file.decode(video=0))) in (8, 9)


@contextlib.asynccontextmanager
async def longest_wait() -> AsyncIterator[list[float]]:
    """Measure how long the event loop is held up meanwhile, in seconds."""
    waits: list[float] = []

    async def measure() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            waits.append(time.perf_counter() - before)

    task = asyncio.create_task(measure())
    yield waits
    task.cancel()


def test_a_disk_that_hangs_holds_up_neither_the_event_loop_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recorder, "PATIENCE", 0.8)
    path = tmp_path / "call.mkv"
    os.mkfifo(path)
    disk = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    async def scenario() -> Recorder:
        recorder = Recorder(path, SHAPE)
        recorder.write(GREY, 0)
        with contextlib.suppress(BlockingIOError):
            while os.write(disk, bytes(4096)):  # what a pipe holds, and no more
                pass
        async with longest_wait() as waits:
            with pytest.raises(CallError, match=r"call\.mkv is not written after 0\.8 s"):
                await recorder.close()
        assert len(waits) > 20
        assert max(waits) < 0.4
        return recorder

    try:
        recorder = run(scenario())
        helper = subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL)  # in the end it goes on
        try:
            wait_until(lambda: not recorder._thread.is_alive())
        finally:
            helper.kill()
            helper.wait(timeout=10)
    finally:
        os.close(disk)

"""Sound: the tone that arrives is the tone sent, over the transport of the picture; it can be added to a call."""

import loopback  # first: it imports cv2 before av  # isort: skip

import asyncio
import contextlib
import json
import math
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import environment, run
from faults import calling, logged, pictures

from loopback import Call, CallError, play

sys.path.append(str(Path(loopback.__file__).resolve().parent / "notebooks"))
from phone.sound import (
    BLOCK,
    SOUND_RATE,
    OutgoingSound,
    Samples,
    SoundMeter,
    SoundSource,
    ToneSource,
    add_sound,
    draw_level,
    open_sound,
    sound_blocks,
    with_sound,
)


async def heard(call: Call, sound: OutgoingSound, blocks: int = 25) -> None:
    """Wait until that many more blocks of sound have arrived."""
    goal = sound.meter.blocks_received + blocks
    async with asyncio.timeout(10):
        while sound.meter.blocks_received < goal:
            await call.check()
            await asyncio.sleep(0.01)


async def tuned(call: Call, sound: OutgoingSound, frequency: float) -> None:
    """Wait until that frequency is heard: on a busy machine a block is skipped now and then."""
    async with asyncio.timeout(10):
        while abs((sound.meter.frequency or 0) - frequency) > 1:
            await heard(call, sound, 1)


@contextlib.asynccontextmanager
async def sounding(source: SoundSource, **options: Any) -> AsyncIterator[tuple[Call, OutgoingSound]]:
    """Give a call that runs and has sound from the start."""
    async with calling(**options) as call:
        sound = OutgoingSound(source)
        await call.run(with_sound(call, sound))
        yield call, sound


class Tone(ToneSource):
    """A tone of another frequency."""

    FREQUENCY = 1234.5


def m_lines(sdp: str) -> list[list[str]]:
    return [part.splitlines() for part in sdp.split("\r\nm=")[1:]]


# ---- The meter -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frequency", [55.0, 440.0, 440.4, 1000.0, 12_345.6])
def test_the_meter_measures_frequency_and_level(frequency: float) -> None:
    meter = SoundMeter()
    wave = 0.1 * 32767 * np.sin(2 * np.pi * frequency * np.arange(10 * BLOCK) / SOUND_RATE)
    for block in wave.astype(np.int16).reshape(10, BLOCK):
        meter.sent.append(block)
        meter.on_received(block)
    assert meter.frequency == pytest.approx(frequency, abs=0.1)
    assert meter.levels == pytest.approx((20 * math.log10(0.1 / math.sqrt(2)),) * 2, abs=0.1)
    assert repr(meter) == f"sound: -23 dB sent, -23 dB received, {meter.frequency:.1f} Hz"


def test_silence_has_no_frequency() -> None:
    meter = SoundMeter()
    assert meter.levels == (meter.SILENCE, meter.SILENCE)
    for _ in range(10):
        meter.on_received(np.zeros(BLOCK, np.int16))
    assert (meter.frequency, meter.levels[1]) == (None, meter.SILENCE)
    assert repr(meter) == "sound: -96 dB sent, -96 dB received"


@pytest.mark.parametrize(("level", "part"), [(-96.0, 0.0), (-60.0, 0.0), (-30.0, 0.5), (0.0, 1.0)])
@pytest.mark.parametrize("size", [(844, 416), (1686, 832)])
def test_the_level_is_drawn_beside_the_picture_of_its_side(size: tuple[int, int], level: float, part: float) -> None:
    view = loopback.View(loopback.Log(), size)
    for side in (0, 1):
        canvas = view.draw((loopback.Side("pc1", "pc1"), loopback.Side("pc2", "pc2")))
        before = canvas.copy()
        draw_level(canvas, view, side, level)
        rows, columns = np.nonzero((canvas != before).any(axis=2))
        x, y, width, height = view.areas[f"pane{side}"]
        assert (rows.min(), rows.max()) == (y, y + height - 1)
        assert x + width <= columns.min()
        assert columns.max() < (view.areas["ladder"][0] if side == 0 else view.shape[1])
        bar = canvas[y : y + height, columns.min()]
        lit = (bar == bar.max(axis=0)).all(axis=1)
        if 0 < part < 1:
            assert lit.mean() == pytest.approx(part, abs=0.01)
            assert lit[-1]  # it grows from below
        else:
            assert np.ptp(bar, axis=0).max() == 0
            assert (bar.max() > 100) == (part == 1)


# ---- In a call -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_the_tone_arrives_beside_the_pictures_over_one_transport(codec: str) -> None:
    async def scenario() -> None:
        async with sounding(Tone(), codec=codec) as (call, sound):
            await heard(call, sound, 60)
            await tuned(call, sound, Tone.FREQUENCY)
            sent, received = sound.meter.levels
            assert -25 < sent < -8
            assert abs(sent - received) < 12  # it swells, and what is received was sent a moment ago
            offer, answer = call.pc1.pc.localDescription.sdp, call.pc1.pc.remoteDescription.sdp
            for sdp in (offer, answer):
                assert [lines[0].split()[0] for lines in m_lines(sdp)] == ["video", "audio"]
                assert "a=group:BUNDLE 0 1" in sdp
                assert {line for line in sdp.splitlines() if "rtpmap" in line and "opus" in line} == {
                    "a=rtpmap:96 opus/48000/2"
                }
            transports = {id(receiver.transport) for receiver in call.pc2.pc.getReceivers()}
            assert len(transports) == 1
            assert len(logged(call, "send candidate")) == 2  # one address a peer
            await call.finish()
            assert call.meter.misread == 0
            assert call.meter.received == call.meter.sent

    run(scenario())


def test_the_measurements_for_json() -> None:
    async def scenario() -> None:
        async with sounding(ToneSource()) as (call, sound):
            await heard(call, sound, 60)
            await tuned(call, sound, 440)
            found = json.loads(json.dumps(sound.meter.as_dict()))
            assert set(found) == {"blocks_received", "level_sent_db", "level_received_db", "frequency_hz"}
            assert found["frequency_hz"] == pytest.approx(440, abs=1.1)
            assert found["blocks_received"] >= 60
            assert -30 < found["level_received_db"] < -8

    run(scenario())


def test_mute_sends_silence_and_then_the_sound_again() -> None:
    async def scenario() -> None:
        async with sounding(ToneSource()) as (call, sound):
            await heard(call, sound)
            sound.muted = True
            await heard(call, sound)
            assert sound.meter.levels[1] < -60
            assert call.pc2.picture is not None
            assert call.pc2.picture[24:].max() > 100, "the pictures are not muted"
            sound.muted = False
            await heard(call, sound)
            await tuned(call, sound, 440)

    run(scenario())


def test_sound_is_added_to_a_running_call_by_a_second_offer_and_answer() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            await pictures(call, 10)
            pair, known = call.pc1.selected_pair, len(call.log.events)
            first = m_lines(call.pc1.pc.localDescription.sdp)
            sound = OutgoingSound(ToneSource())
            steps = add_sound(call, sound)
            assert [(step.who, step.what) for step in steps] == [
                ("pc1", "addTrack(audio)"),
                ("pc1", "createOffer"),
                ("pc1", "setLocalDescription(offer)"),
                ("pc1", "send the offer"),
                ("pc2", "setRemoteDescription(offer)"),
                ("pc2", "createAnswer"),
                ("pc2", "setLocalDescription(answer)"),
                ("pc2", "send the answer"),
                ("pc1", "setRemoteDescription(answer)"),
            ]
            assert all(len(step.why) > 60 for step in steps)
            for step in steps:
                await step.run()
                await asyncio.sleep(0.05)  # whoever listens in the background has time to take what is not theirs
            await heard(call, sound, 40)
            await tuned(call, sound, 440)
            new = [event.what for event in list(call.log.events)[known:]]
            assert not [
                what for what in new if "ice" in what.lower() or "candidate" in what or "connectionState" in what
            ]
            assert not [what for what in new if what.startswith("refused")]
            assert loopback.nominated_pair(call.pc1.pc) == pair
            second = m_lines(call.pc1.pc.localDescription.sdp)
            assert len(first) == 1
            assert len(second) == 2
            assert first[0][0] == second[0][0]
            await pictures(call, 10)
            await call.finish()
            assert (call.meter.misread, call.meter.received) == (0, call.meter.sent)
            await call.hang_up()
            assert call.pc2.hung_up, "after the renegotiation pc2 no longer listens"

    run(scenario())


def test_sound_is_added_to_a_call_with_video_both_ways() -> None:
    async def scenario() -> None:
        async with calling(back=loopback.SyntheticSource(160, 120, 30, night=True)) as call:
            await call.run()
            sound = OutgoingSound(ToneSource())
            await play(add_sound(call, sound))
            await heard(call, sound)
            await pictures(call, 10)
            assert len(m_lines(call.pc2.pc.localDescription.sdp)) == 2

    run(scenario())


def test_a_bye_in_the_middle_of_the_renegotiation_is_heard() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            steps = add_sound(call, OutgoingSound(ToneSource()))
            await play(steps[:4])
            await call.pc2.hang_up()  # where pc1 waits for the answer
            with pytest.raises(CallError, match="the other side hung up"):
                await steps[-1].run()
            assert call.hung_up

    run(scenario())


class Broken(ToneSource):
    async def next(self) -> tuple[Samples, int]:
        raise CallError("the microphone was unplugged: plug it in")


def test_a_source_of_sound_that_dies_ends_the_call_with_its_words() -> None:
    async def scenario() -> None:
        async with calling() as call:
            with pytest.raises(CallError, match="unplugged"):
                await asyncio.gather(call.run(with_sound(call, OutgoingSound(Broken()))), pictures(call, 50))

    run(scenario())


class Closing(ToneSource):
    closed = 0

    async def close(self) -> None:
        await asyncio.sleep(0.1)  # as a device does
        self.closed += 1


@pytest.mark.parametrize("how", ["from the start", "added", "added, and at once the end"])
def test_the_call_closes_the_source(how: str) -> None:
    async def scenario() -> None:
        source = Closing()
        async with calling() as call:
            sound = OutgoingSound(source)
            if how == "from the start":
                await call.run(with_sound(call, sound))
            else:
                await call.run()
                await play(add_sound(call, sound)[: 1 if "end" in how else None])
            if "end" in how:
                await call.pc1.close()
        assert (source.closed, sound.readyState) == (1, "ended")

    run(scenario())


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    path = str(sound_file(tmp_path / "tone.wav"))

    async def scenario() -> None:
        async with sounding(open_sound(path)) as (call, sound):
            await heard(call, sound)
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("source")] == []

    run(scenario())
    assert path not in {_target(link) for link in Path("/proc/self/fd").iterdir()}


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""


# ---- Files -----------------------------------------------------------------------------------------------------------


def sound_file(path: Path, frequency: float = 700.0, seconds: float = 0.6, rate: int = 22_050) -> Path:
    """Write a file with a tone, at a rate that is not Opus's, on two channels."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=rate, layout="stereo")
        t = np.arange(round(seconds * rate)) / rate
        tone = (8000 * np.sin(2 * np.pi * frequency * t)).astype(np.int16).repeat(2)
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


async def first_blocks(spec: str, count: int) -> SoundMeter:
    """Return a meter that has heard so many blocks of a source, in order and without a gap."""
    meter, source = SoundMeter(), open_sound(spec)
    try:
        for number in range(count):
            samples, position = await source.next()
            assert (len(samples), position) == (BLOCK, number * BLOCK)
            meter.on_received(samples)
    finally:
        await source.close()
    return meter


def test_a_file_is_heard_again_and_again_at_its_own_pace(tmp_path: Path) -> None:
    path, started = sound_file(tmp_path / "tone.wav"), time.perf_counter()
    meter = run(first_blocks(str(path), 60))  # twice what the file has
    assert time.perf_counter() - started > 1.1
    assert meter.frequency == pytest.approx(700, abs=2)


def test_a_file_goes_on_after_a_long_halt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-Z, a coffee, fg: the time that has passed is not made up for."""
    path = sound_file(tmp_path / "tone.wav")
    clock, halt = time.perf_counter, 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + halt)
    with contextlib.closing(sound_blocks(str(path), threading.Event())) as blocks:
        next(blocks)
        halt = 60.0
        start = clock()
        for _ in range(20):
            next(blocks)
    assert clock() - start > 0.3  # there is no burst


def riff_with_tag(path: Path, text: bytes) -> Path:
    """Put a title into a WAV or AVI file."""
    riff = sound_file(path).read_bytes()
    title = b"INFOINAM" + struct.pack("<I", len(text)) + text + b"\0" * (len(text) % 2)
    riff += b"LIST" + struct.pack("<I", len(title)) + title
    path.write_bytes(riff[:4] + struct.pack("<I", len(riff) - 8) + riff[8:])
    return path


@pytest.mark.parametrize("name", ["tagged.wav", "tagged.avi"])
def test_a_tag_that_is_not_utf_8_does_no_harm(name: str, tmp_path: Path) -> None:
    path = riff_with_tag(tmp_path / name, "café".encode("latin-1"))
    assert run(first_blocks(str(path), 12)).frequency == pytest.approx(700, abs=2)


def test_a_name_that_is_not_utf_8_does_no_harm(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    os.rename(sound_file(tmp_path / "tone.wav"), path)
    assert run(first_blocks(path, 12)).frequency == pytest.approx(700, abs=2)


def failure(spec: str) -> str:
    """Return what the source's reader is told."""

    async def scenario() -> None:
        source = open_sound(spec)
        assert source.label.isprintable()
        try:
            await source.ready()
        finally:
            await source.close()

    with pytest.raises(CallError) as raised:
        run(scenario())
    text = str(raised.value)
    assert text.isprintable()  # and so one line
    return text


@pytest.mark.parametrize("content", [None, b"", b"no sound at all" * 99], ids=["missing", "empty", "text"])
@pytest.mark.parametrize("name", ["none.wav", "\x1b[2J\n\udce9.wav"])
def test_a_file_without_sound_is_named(content: bytes | None, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    found = failure(str(path))
    assert f"{loopback.printable(str(path))} cannot be read (" in found
    assert found.endswith("): name a sound file that plays")


def test_a_folder_is_no_sound(tmp_path: Path) -> None:
    assert "cannot be read (Is a directory)" in failure(str(tmp_path))


def test_a_film_without_sound_is_named(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "silent.mkv"), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        frame = loopback.to_frame(loopback.SyntheticSource(640, 480, 10).draw(0))
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    found = failure(str(tmp_path / "silent.mkv"))
    assert found.endswith("silent.mkv has no sound in it: name a file with sound")


# ---- The microphone: in a process of its own, for ALSA reads its configuration once ----------------------------------

PROGRAM = """
import asyncio, json, sys
import loopback
from phone.sound import OutgoingSound, open_sound, with_sound

async def call():
    sound = OutgoingSound(open_sound(sys.argv[1]))
    call = loopback.Call(loopback.SyntheticSource(160, 120, 30))
    try:
        await call.run(with_sound(call, sound))
        while sound.meter.blocks_received < 40:
            await call.check()
            await asyncio.sleep(0.01)
    finally:
        await call.close()
    print(json.dumps(sound.meter.as_dict()))

try:
    asyncio.run(call())
except loopback.CallError as error:
    sys.exit(str(error))
"""


def microphone(folder: Path, capture: str, spec: str = "mic") -> subprocess.CompletedProcess[str]:
    """Make a call with sound where ALSA's default microphone is of that kind, as users make it: in ~/.asoundrc. No
    sound card is touched."""
    (folder / ".asoundrc").write_text(f"pcm.!default {{ {capture} }}\n")
    env = environment(HOME=str(folder))
    for name in ("ALSA_CONFIG_PATH", "ALSA_CONFIG_DIR"):
        env.pop(name, None)
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, spec],
        cwd=folder,
        env=env | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
    )


linux = pytest.mark.skipif(sys.platform != "linux", reason="ALSA is Linux's")


@linux
def test_the_microphone_is_heard(tmp_path: Path) -> None:
    """ALSA itself reads it, from a device that it makes out of a file (its plugins "file" and "null")."""
    raw = (8000 * np.sin(2 * np.pi * 523 * np.arange(48_000 * 20) / 48_000)).astype("<i2").repeat(2)
    (tmp_path / "voice.raw").write_bytes(raw.tobytes())
    device = f"type file; slave.pcm {{ type null }}; file /dev/null; infile {tmp_path}/voice.raw; format raw"
    ended = microphone(tmp_path, device)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["frequency_hz"] == pytest.approx(523, abs=20)


@linux
def test_a_microphone_can_be_named(tmp_path: Path) -> None:
    ended = microphone(tmp_path, "type hw; card 31", "mic:null")  # ALSA's own
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["blocks_received"] >= 40


@linux
def test_no_microphone_is_said_in_one_line(tmp_path: Path) -> None:
    ended = microphone(tmp_path, "type hw; card 31")
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("ALSA lib")]  # it speaks for itself
    assert len(lines) == 1
    assert lines[0].startswith("no microphone (")
    assert "send the tone" in lines[0]

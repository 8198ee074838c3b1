"""Sound: the tone that arrives is the tone sent, over the transport of the picture; it is recorded; it can be added."""

import loopback  # first: it imports cv2 before av  # isort: skip

import asyncio
import math
import os
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import program, report, run
from faults import calling, logged, pictures

from loopback import BLOCK, SOUND_RATE, Call, CallError, Samples, SoundMeter, ToneSource

TONE = ("--audio", "tone", "--size", "320x240", "--view", "none")


async def heard(call: Call, blocks: int = 25) -> None:
    """Wait until that many more blocks of sound have arrived."""
    goal = call.sound_meter.blocks_received + blocks
    async with asyncio.timeout(10):
        while call.sound_meter.blocks_received < goal:
            await call.check()
            await asyncio.sleep(0.01)


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


def test_silence_has_no_frequency() -> None:
    meter = SoundMeter()
    assert meter.levels == (meter.SILENCE, meter.SILENCE)
    for _ in range(10):
        meter.on_received(np.zeros(BLOCK, np.int16))
    assert (meter.frequency, meter.levels[1]) == (None, meter.SILENCE)


# ---- In a call -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_the_tone_arrives_beside_the_pictures_over_one_transport(codec: str) -> None:
    async def scenario() -> None:
        async with calling(codec=codec, sound=Tone()) as call:
            await call.run()
            await heard(call, 60)
            assert call.sound_meter.frequency == pytest.approx(Tone.FREQUENCY, abs=1)
            sent, received = call.sound_meter.levels
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


def test_mute_sends_silence_and_black_and_then_the_track_again() -> None:
    async def scenario() -> None:
        async with calling(sound=ToneSource()) as call:
            await call.run()
            await heard(call)
            call.mute(call.sound)
            call.mute(call.track)
            await heard(call)
            await pictures(call, 10)
            assert call.sound_meter.levels[1] < -60
            assert call.pc2.picture is not None
            assert call.pc2.picture[24:].max() < 30
            assert call.meter.misread == 0  # the numbers go on
            await call.switch(loopback.SyntheticSource(160, 120, 30, night=True))
            await pictures(call, 10)
            assert call.pc2.picture[24:].max() < 30, "another source is muted as well"
            call.mute(call.sound)
            call.mute(call.track)
            await heard(call)
            await pictures(call, 10)
            assert call.sound_meter.frequency == pytest.approx(440, abs=1)
            assert call.pc2.picture[24:].max() > 100
            assert [event.what for event in logged(call, "") if "mute" in event.what] == [
                "mute",
                "mute",
                "unmute",
                "unmute",
            ]

    run(scenario())


def test_sound_is_added_to_a_running_call_by_a_second_offer_and_answer() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            await pictures(call, 10)
            pair, known = call.selected_pair, len(call.log.events)
            first = m_lines(call.pc1.pc.localDescription.sdp)
            steps = call.steps_to_add_sound(ToneSource())
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
            for step in steps:
                await step.run()
                await asyncio.sleep(0.05)  # whoever listens in the background has time to take what is not theirs
            await heard(call, 40)
            assert call.sound_meter.frequency == pytest.approx(440, abs=1)
            new = [event.what for event in list(call.log.events)[known:]]
            assert not [
                what for what in new if "ice" in what.lower() or "candidate" in what or "connectionState" in what
            ]
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


def test_a_bye_in_the_middle_of_the_renegotiation_is_heard() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            steps = call.steps_to_add_sound(ToneSource())
            for step in steps[:4]:
                await step.run()
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
        async with calling(sound=Broken()) as call:
            with pytest.raises(CallError, match="unplugged"):
                await asyncio.gather(call.run(), pictures(call, 50))

    run(scenario())


# ---- On the command line ---------------------------------------------------------------------------------------------


def test_the_report_has_level_and_frequency(tmp_path: Path) -> None:
    sound = report(*TONE, "--seconds", "1.5", cwd=tmp_path)["sound"]
    assert sound["frequency_hz"] == pytest.approx(440, abs=0.5)
    assert sound["blocks_received"] > 40
    assert -30 < sound["level_received_db"] < -8


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


def test_a_file_is_heard_again_and_again(tmp_path: Path) -> None:
    path = sound_file(tmp_path / "tone.wav")
    found = report("--audio", str(path), *TONE[2:], "--seconds", "1.8", cwd=tmp_path)
    assert found["sound"]["frequency_hz"] == pytest.approx(700, abs=2)
    assert found["sound"]["blocks_received"] > 50  # more than the file has


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".webm"])
def test_the_sound_is_recorded_with_the_picture(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"call{suffix}"
    ended = program(*TONE, "--seconds", "2", "--record", str(path), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
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
    assert abs(times[-1] - shown[-1]) < 0.4, "sound and picture do not end together"
    assert len(times) > 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "none.wav does not exist: give a sound file, tone or mic"),
        (b"", "none.wav cannot be read"),
        (b"no sound at all" * 99, "none.wav cannot be read"),
    ],
)
def test_a_file_without_sound_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "none.wav").write_bytes(content)
    ended = program("--audio", "none.wav", *TONE[2:], cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"loopback: {message}")
    assert ended.stderr.count("\n") == 1


def test_a_film_without_sound_is_named(tmp_path: Path) -> None:
    program("--record", "silent.mkv", "--seconds", "0.5", *TONE[2:], cwd=tmp_path)
    ended = program("--audio", "silent.mkv", *TONE[2:], cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (1, "loopback: silent.mkv has no sound in it: give a file with sound\n")


def use_alsa(monkeypatch: pytest.MonkeyPatch, folder: Path, capture: str) -> None:
    """Make ALSA's default microphone one of that kind, as users do: in ~/.asoundrc. No sound card is touched."""
    (folder / ".asoundrc").write_text(f"pcm.!default {{ {capture} }}\n")
    monkeypatch.setenv("HOME", str(folder))
    for name in ("ALSA_CONFIG_PATH", "ALSA_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_the_microphone_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ALSA itself reads it, from a device that it makes out of a file (its plugins "file" and "null")."""
    raw = (8000 * np.sin(2 * np.pi * 523 * np.arange(48_000 * 20) / 48_000)).astype("<i2").repeat(2)
    (tmp_path / "voice.raw").write_bytes(raw.tobytes())
    use_alsa(
        monkeypatch,
        tmp_path,
        f"type file; slave.pcm {{ type null }}; file /dev/null; infile {tmp_path}/voice.raw; format raw",
    )
    found = report("--audio", "mic", *TONE[2:], "--seconds", "1.5", cwd=tmp_path)
    assert found["sound"]["frequency_hz"] == pytest.approx(523, abs=3)


def test_a_microphone_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_alsa(monkeypatch, tmp_path, "type hw; card 31")
    found = report("--audio", "mic:null", *TONE[2:], "--seconds", "1", cwd=tmp_path)  # ALSA's own
    assert found["sound"]["blocks_received"] > 10


def test_no_microphone_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_alsa(monkeypatch, tmp_path, "type hw; card 31")
    ended = program("--audio", "mic", *TONE[2:], cwd=tmp_path)
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("ALSA lib")]  # it speaks for itself
    assert len(lines) == 1
    assert lines[0].startswith("loopback: no microphone (")
    assert "use --audio tone" in lines[0]


def test_a_sound_file_is_not_overwritten_by_the_recording(tmp_path: Path) -> None:
    path = sound_file(tmp_path / "tone.mkv")
    before = path.read_bytes()
    ended = program("--audio", str(path), "--record", str(path), *TONE[2:], cwd=tmp_path)
    assert ended.returncode == 2
    assert "--audio" in ended.stderr
    assert path.read_bytes() == before


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = str(sound_file(tmp_path / "tone.wav"))
        async with calling(sound=loopback.open_sound(path)) as call:
            await call.run()
            await heard(call)
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("source")] == []

    run(scenario())
    assert str(tmp_path / "tone.wav") not in {_target(link) for link in Path("/proc/self/fd").iterdir()}


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""

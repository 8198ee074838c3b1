"""Sound: where it comes from, the track that sends it, a meter that listens, and two ways for a call to have it.

    sound = OutgoingSound(ToneSource())         # or open_sound("mic"), open_sound("voice.wav")
    await call.run(with_sound(call, sound))     # either: pc1 sends sound from the start, the offer has two m-lines
    await play(add_sound(call, sound))          # or: the running call gets it, by a second offer and answer
    sound.meter.frequency, sound.meter.levels   # what pc2 hears
    sound.muted = True                          # silence is sent; the other side is not told

Both functions return steps (loopback.Step), to be taken one by one as well. From "addTrack(audio)" on, closing the call
closes the source. Sound is measured and never played aloud: with both ends in one room it would howl.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from fractions import Fraction
from typing import Any, Protocol

import av
import numpy as np
import numpy.typing as npt
from aiortc.mediastreams import MediaStreamError

from loopback import Call, CallError, Done, OutgoingTrack, Picture, Reader, Step, View, in_turns, printable

Samples = npt.NDArray[np.int16]  # of one channel

SOUND_RATE, BLOCK = 48_000, 960  # samples a second, samples in a packet: Opus over RTP (RFC 7587), 20 ms


# ---- The track, the meter --------------------------------------------------------------------------------------------


class SoundSource(Protocol):
    """Where the sound comes from: a loopback.Source of BLOCK samples at a time, and the number of their first one."""

    label: str
    given: str

    async def ready(self) -> None: ...
    async def next(self) -> tuple[Samples, int]: ...
    async def close(self) -> None: ...


class OutgoingSound(OutgoingTrack):
    """An audio track to send: 20 ms a frame."""

    kind = "audio"

    def __init__(self, source: SoundSource) -> None:
        super().__init__(source)
        self.meter: SoundMeter = SoundMeter()  # type: ignore[assignment]

    async def _next_frame(self) -> av.AudioFrame:  # type: ignore[override]
        samples, position = await self.source.next()
        if self.readyState != "live":
            raise MediaStreamError
        samples = np.zeros_like(samples) if self.muted else samples
        self.meter.sent.append(samples)
        return to_sound_frame(samples, int(position))

    async def until_cancelled(self) -> None:
        """As a task of the peer that sends it, which the peer cancels when it is closed: release the source then."""
        try:
            await asyncio.Event().wait()
        finally:
            await self.retire()


def to_sound_frame(samples: Samples, position: int) -> av.AudioFrame:
    """Return a frame of these samples, of which the first has that number. Both of its channels are the same: from
    one, aiortc's Opus encoder would make two that are 3 dB weaker."""
    frame = av.AudioFrame.from_ndarray(samples.repeat(2)[None], format="s16", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, position, Fraction(1, SOUND_RATE)
    return frame


def to_samples(frame: av.AudioFrame) -> Samples:
    """Return the left channel of a decoded frame; aiortc always decodes Opus to two."""
    return frame.to_ndarray().reshape(-1, len(frame.layout.channels))[:, 0].astype(np.int16)


class SoundMeter:
    """A level meter at both ends, and a tuner at the receiving one. It listens to the last fifth of a second.

    aiortc holds back four packets of sound before it decodes them (80 ms): its jitter buffer for audio.
    """

    SILENCE = -96.0  # dB; one step of 16 bits is -90

    def __init__(self) -> None:
        self.sent: deque[Samples] = deque(maxlen=10)
        self.received: deque[Samples] = deque(maxlen=10)
        self.blocks_received = 0
        self.on_block: Callable[[Samples], None] = lambda samples: None

    def on_received(self, samples: Samples) -> None:
        """Note a decoded block."""
        self.received.append(samples)
        self.blocks_received += 1
        self.on_block(samples)

    @property
    def levels(self) -> tuple[float, float]:
        """Root mean square of what was sent and received, in dB; 0 is a square wave at full scale, a sine has -3."""

        def level(blocks: deque[Samples]) -> float:
            power = float(np.mean(np.square(np.concatenate(blocks).astype(float)))) if blocks else 0.0
            return max(self.SILENCE, 10 * math.log10(power / 32768**2)) if power else self.SILENCE

        return level(self.sent), level(self.received)

    @property
    def frequency(self) -> float | None:
        """The strongest frequency of what was received, in Hz; None in silence."""
        if len(self.received) < 10 or self.levels[1] < -60:
            return None
        samples = np.concatenate(self.received)
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
        peak = min(max(int(spectrum.argmax()), 1), len(spectrum) - 2)
        # The parabola through the logarithms of the highest value and its neighbours has its top between two steps.
        left, middle, right = np.log(spectrum[peak - 1 : peak + 2] + 1e-9)
        return float((peak + (left - right) / (left - 2 * middle + right) / 2) * SOUND_RATE / len(samples))

    def as_dict(self) -> dict[str, Any]:
        """Return the measurements, for JSON."""
        sent, received = self.levels
        return {
            "blocks_received": self.blocks_received,
            "level_sent_db": round(sent, 1),
            "level_received_db": round(received, 1),
            "frequency_hz": None if self.frequency is None else round(self.frequency, 1),
        }

    def __repr__(self) -> str:
        sent, received = self.levels
        heard = f", {self.frequency:.1f} Hz" if self.frequency else ""
        return f"sound: {sent:.0f} dB sent, {received:.0f} dB received{heard}"


def draw_level(canvas: Picture, view: View, side: int, level: float) -> None:
    """Draw a level meter beside the left (0) or right (1) picture of a view, from -60 dB to full scale."""
    (x, y, width, height), (gap, *_) = view.areas[f"pane{side}"], view.areas["keys"]
    bar = canvas[y : y + height, x + width + gap // 4 : x + width + gap * 3 // 4]
    bar[:] = (55, 50, 46)
    bar[round(height * min(1.0, level / -60)) :] = (120, 210, 255)


# ---- A call with sound -----------------------------------------------------------------------------------------------


def with_sound(call: Call, sound: OutgoingSound) -> list[Step]:
    """Return the steps of a call in which pc1 sends sound from the start, beside its pictures."""
    one, two = call.scripts
    return in_turns([one[0], _add_track(call, sound), *one[1:]], two)


def add_sound(call: Call, sound: OutgoingSound) -> list[Step]:
    """Return the steps that add sound to a running call: a second offer and answer, with one m-line more. It is bundled
    with the first (RFC 9143), so there is no new port, no candidate and no handshake."""
    there = ("addTrack", "send its candidates", "addIceCandidate", "connect", "first picture")
    again = ([step for step in script if not step.what.startswith(there)] for script in call.scripts)
    *steps, last = in_turns(*again)
    return [_add_track(call, sound), *steps, last._replace(run=functools.partial(_receive_answer, call))]


def _add_track(call: Call, sound: OutgoingSound) -> Step:
    async def run() -> Done:
        """Give pc1 a second track to send. Nothing is heard before an offer has told pc2 of the new m-line."""
        for peer in call.peers:
            if peer.listening:  # for a bye: it would take the second offer, and refuse it
                peer.listening.cancel()
                await asyncio.gather(peer.listening, return_exceptions=True)
        call.pc2.on_sound = lambda frame: sound.meter.on_received(to_samples(frame))
        call.pc1.tasks.append(asyncio.create_task(sound.until_cancelled()))
        await asyncio.sleep(0)  # a task that has not begun would be cancelled without its `finally`
        return await call.pc1.add_track(sound)

    return Step(call.pc1, "addTrack(audio)", run)


async def _receive_answer(call: Call) -> Done:
    """Take pc2's second answer. From now on pc2 expects sound as well, over the connection that is there; and both
    sides listen for a bye again."""
    done = await call.pc1.receive_description("answer")
    for peer in call.peers:
        peer.listening = asyncio.create_task(peer.listen())
        peer.tasks.append(peer.listening)
    return done


# ---- Sources: tone, microphone, file ---------------------------------------------------------------------------------


class ToneSource:
    """The tone that orchestras tune to, swelling once a second so that a level meter moves."""

    FREQUENCY = 440.0  # Hz

    def __init__(self) -> None:
        self.label, self.given = "tone", ""
        self._start: float | None = None
        self._slot = -1

    async def ready(self) -> None:
        """It always is."""

    async def next(self) -> tuple[Samples, int]:
        now = time.perf_counter()
        self._start = self._start or now
        self._slot = max(self._slot + 1, int((now - self._start) * SOUND_RATE / BLOCK))  # missed ones are skipped
        await asyncio.sleep(self._start + self._slot * BLOCK / SOUND_RATE - now)
        position = self._slot * BLOCK
        t = (position + np.arange(BLOCK)) / SOUND_RATE
        swell = 0.25 - 0.15 * np.cos(2 * np.pi * t)
        return (32767 * swell * np.sin(2 * np.pi * self.FREQUENCY * t)).astype(np.int16), position

    async def close(self) -> None:
        """Nothing was opened."""


# What FFmpeg calls the microphone: format and name, by sys.platform.
MICROPHONES = {
    "linux": ("alsa", "default"),
    "darwin": ("avfoundation", ":default"),
    "win32": ("dshow", "audio=default"),
}


def open_sound(spec: str) -> SoundSource:
    """Return the source of this name: tone, mic, mic:DEVICE, or the path of a file with sound."""
    if spec == "tone":
        return ToneSource()
    return Reader(printable(spec), functools.partial(sound_blocks, spec), keep=10)


def sound_blocks(spec: str, stop: threading.Event) -> Generator[tuple[Samples, int]]:
    """Yield the sound of a microphone as it comes, or of a file at its own pace, from the start again at its end."""
    microphone, label = spec.partition(":")[0] == "mic", printable(spec)
    began, position = time.perf_counter(), 0
    while not stop.is_set():
        before = position
        try:
            for samples in decoded(spec):
                late = time.perf_counter() - began - position / SOUND_RATE
                if late > 1:  # the program was halted: go on from here
                    began, late = began + late, 0.0
                if not microphone:
                    stop.wait(max(0.0, -late))
                if stop.is_set():
                    return
                yield samples, position
                position += BLOCK
        except (av.FFmpegError, OSError) as error:
            if microphone:
                advice = "plug one in, name a device (mic:plughw:1), or send the tone"
                raise CallError(f"no microphone ({error.strerror}): {advice}") from error
            if position == before:
                raise CallError(f"{label} cannot be read ({error.strerror}): name a sound file that plays") from error
        if position == before:
            raise CallError(f"{label} holds no sound that can be decoded: name a sound file that plays")


def decoded(spec: str) -> Generator[Samples]:
    """Yield what a microphone hears, or the sound in a file, once: mono, at SOUND_RATE, a BLOCK at a time."""
    word, _, device = spec.partition(":")
    with contextlib.ExitStack() as stack:
        if word == "mic":
            # The ALSA library inside av looks for its configuration where it was built, not where systems have it.
            os.environ.setdefault("ALSA_CONFIG_DIR", "/usr/share/alsa")
            kind, default = MICROPHONES[sys.platform]
            container = stack.enter_context(av.open(device or default, "r", format=kind))
        else:  # a tag in it, such as the title, need not be UTF-8
            file = stack.enter_context(open(spec, "rb"))
            container = stack.enter_context(av.open(file, "r", metadata_errors="replace"))
        if not container.streams.audio:
            raise CallError(f"{printable(spec)} has no sound in it: name a file with sound")
        shape, resampler = None, av.AudioResampler("s16", "mono", SOUND_RATE, frame_size=BLOCK)
        for frame in container.decode(container.streams.audio[0]):
            last, shape = shape, (frame.format.name, frame.layout.name, frame.sample_rate)  # may change within a file
            if shape != last:
                resampler = av.AudioResampler("s16", "mono", SOUND_RATE, frame_size=BLOCK)
            frame.pts = None  # the samples are counted by their reader
            for block in resampler.resample(frame):
                yield block.to_ndarray()[0]

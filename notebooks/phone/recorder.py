"""A recording of what is seen and heard, in a file that plays even if the process is killed.

check_not_a_source(path, "holiday.mp4")             # before it is overwritten
recorder = Recorder(path, view.shape, sound=True)
recorder.write(view.draw(call), log.now())          # each picture that was shown
sound.meter.on_block = lambda samples: recorder.write_sound(samples, log.now())
await recorder.close()
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import queue
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import av

from loopback import CallError, Picture, printable, to_frame

from .sound import SOUND_RATE, Samples, to_sound_frame


def check_not_a_source(path: Path, *sources: str) -> None:
    """Raise CallError where a recording would overwrite a source: the same file, perhaps under another name."""
    for source in sources:
        with contextlib.suppress(OSError):  # one of them is not there, or the source is no file
            if os.path.samefile(path, source):
                raise CallError(f"{printable(str(path))} is the source {printable(source)}: choose another name")


class Recorder:
    """Writes pictures and sound to a file, in a thread of its own. Every packet is written at once, and the containers
    are of kinds that need no ending, so what is on the disk plays even if the process is killed."""

    KINDS: ClassVar[dict[str, tuple[str, str, dict[str, str]]]] = {
        ".mkv": ("matroska", "libx264", {"cluster_time_limit": "200"}),
        # A fragment each 0.1 s, in microseconds. One for each frame would spoil every fifth block of sound.
        ".mp4": ("mp4", "libx264", {"movflags": "empty_moov+default_base_moof", "frag_duration": "100000"}),
        ".webm": ("webm", "libvpx", {"cluster_time_limit": "200"}),
    }
    CODECS: ClassVar[dict[str, dict[str, str]]] = {
        "libx264": {"preset": "ultrafast", "tune": "zerolatency", "crf": "23"},
        "libvpx": {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "2M"},
    }
    PATIENCE = 5.0  # s for the disk to take what is left

    def __init__(self, path: Path, shape: tuple[int, int, int], *, sound: bool = False) -> None:
        """`shape` is that of every picture. Raises CallError when the file cannot be written."""
        self.path, self.dropped = path, 0
        self._shown, self._heard = -1, 0  # the last picture's ms, the next sample's number
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._failure: Exception | None = None
        if path.suffix.lower() not in self.KINDS:
            raise CallError(f"{printable(str(path))} does not end in {', '.join(self.KINDS)}: choose another name")
        container, codec, options = self.KINDS[path.suffix.lower()]
        # In microseconds: how long a picture waits for the sound that belongs before it.
        options = {**options, "max_interleave_delta": "200000"}
        with self._named_errors(), contextlib.ExitStack() as stack:
            # Opened by Python: when av itself writes the end of a file, it makes all other threads wait.
            self._disk = stack.enter_context(path.open("wb", buffering=0))
            self._file = av.open(self._disk, "w", format=container, options=options)
            video = self._file.add_stream(codec, options=self.CODECS[codec])
            assert isinstance(video, av.VideoStream)
            video.height, video.width = (length + length % 2 for length in shape[:2])  # as to_frame has it
            video.pix_fmt = "yuv420p"
            video.time_base = video.codec_context.time_base = Fraction(1, 1000)
            video.codec_context.gop_size = 30
            self._video = video
            self._sound = self._file.add_stream("libopus", rate=SOUND_RATE, layout="stereo") if sound else None
            self._file.start_encoding()
            stack.pop_all()  # from here on the thread closes it
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def write(self, picture: Picture, t: float) -> None:
        """Record a picture shown at second `t`. Raises CallError when the disk does not take it."""
        self._put(functools.partial(self._write_picture, picture, t), room=21 if self._sound else 8)  # some 0.25 s

    def write_sound(self, samples: Samples, t: float) -> None:
        """Record a block of sound heard at second `t`."""
        if self._sound:
            self._put(functools.partial(self._write_sound, self._sound, samples, t), room=200)

    async def close(self) -> None:
        """Write what is left and close the file. Raises CallError when the disk does not take it, or not in time."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join, self.PATIENCE)  # a disk that hangs keeps its daemon thread, no more
        if self._thread.is_alive():
            raise CallError(f"{printable(str(self.path))} is not written after {self.PATIENCE:g} s: is the disk there?")
        if self._failure:
            raise self._failure

    def _put(self, job: Callable[[], None], room: int) -> None:
        if self._failure:
            raise self._failure
        if self._jobs.qsize() < room:
            self._jobs.put(job)
        else:
            self.dropped += 1  # rather than hold up the call

    # In the thread:

    def _work(self) -> None:
        try:
            with self._named_errors(), self._disk, contextlib.closing(self._file):
                while job := self._jobs.get():
                    job()
                for stream in (self._video, self._sound):
                    if stream:
                        self._file.mux(stream.encode(None))
        except Exception as error:  # noqa: BLE001 - of any kind: write() or close() raises it, where somebody hears of it
            self._failure = error

    def _write_picture(self, picture: Picture, t: float) -> None:
        self._shown = max(round(t * 1000), self._shown + 1)
        frame = to_frame(picture)
        frame.pts, frame.time_base = self._shown, Fraction(1, 1000)
        self._file.mux(self._video.encode(frame))

    def _write_sound(self, stream: av.AudioStream, samples: Samples, t: float) -> None:
        if t * SOUND_RATE > self._heard + SOUND_RATE / 10:  # blocks come in bursts; this is a real gap
            self._heard = round(t * SOUND_RATE)
        self._file.mux(stream.encode(to_sound_frame(samples, self._heard)))
        self._heard += len(samples)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            advice = "make room or choose another place"
            raise CallError(f"{printable(str(self.path))} cannot be written ({error.strerror}): {advice}") from error

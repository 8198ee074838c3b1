"""What two people of a call say to each other on the data channel "talk": chat, files, times, and their logs.

    talk = Talk("Ann", log, clock, save=Path("received"))
    talk.use(peer.pc.createDataChannel("talk"))     # or, where the other end makes it: pc.on("datachannel", talk.use)
    talk.chat("hello")
    await talk.send_file(Path("holiday.jpg"))       # True: the other end has it, and the hash is the same

It is part of the call: it goes from end to end, over the same port as picture and sound (SCTP over DTLS, RFC 8831), and
no server reads it. Texts are JSON; a file's bytes are binary messages between "file" and "file-end".
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from aiortc import RTCDataChannel

from loopback import CallError, Log, Message, SignallingError, parse_message, printable

TALK: dict[str, tuple[str, ...]] = {  # each type, and the texts it must have
    "chat": ("text",),
    "file": ("name", "sha256"),  # and "size" in bytes
    "file-end": (),
    "file-ok": ("sha256",),
    "file-bad": (),  # it did not arrive as it was sent, or it is not wanted: nothing more of it need be sent
    "captured": (),  # and "times": [[number of a picture, ms on the server's clock], ...]
    "events": (),  # and "events": [{t, who, what, detail}, ...], t in ms on the server's clock
    "log": (),  # asks for the other end's events, from the first on
}
LONGEST_CHAT, CHUNK, LARGEST_FILE, MOST_UNSENT = 2_000, 16_384, 100_000_000, 1_000_000  # letters, bytes, bytes, bytes
EVENTS_AT_ONCE = 100  # so that a message stays short


class Clock(Protocol):
    """The server's clock, which both ends can tell: see end.ServerClock."""

    def server_ms(self, t: float) -> float | None: ...
    def local(self, ms: float) -> float | None: ...


class Incoming:
    """A file that is being received. It has its name only once it is whole."""

    def __init__(self, message: Message, save: Path) -> None:
        size = message.get("size")
        if not isinstance(size, int) or not 0 <= size <= LARGEST_FILE:
            raise SignallingError(f"a file has 0 to {LARGEST_FILE} bytes")
        # A name, and no path; nor does it begin with a dot, for such files are hidden and may be somebody's settings.
        name = printable(message["name"].replace("\\", "/").rpartition("/")[2], 100).lstrip(". ")
        self.name = re.sub(r"[\\:]", "_", name) or "file"  # of an escape that printable made; of a Windows drive
        self.size, self.wanted, self.received, self.hash = size, message["sha256"], 0, hashlib.sha256()
        self.save, self.part = save, save / f"{self.name}.{os.getpid()}.part"
        self._file: IO[bytes] = self.part.open("wb")

    def add(self, data: bytes) -> None:
        self.received += len(data)
        if self.received > self.size:
            raise SignallingError(f"more than the {self.size} bytes that were announced")
        self.hash.update(data)
        self._file.write(data)

    def finish(self) -> Path:
        """Give it its name, or another where that is taken. Raises SignallingError where it is not what was sent."""
        self._file.close()
        if (self.received, self.hash.hexdigest()) != (self.size, self.wanted):
            raise SignallingError(f"{self.received} of {self.size} bytes, or another hash")
        stem, dot, kind = self.name.partition(".")
        for number in itertools.count(1):
            path = self.save / (self.name if number == 1 else f"{stem} ({number}){dot}{kind}")
            with contextlib.suppress(FileExistsError):
                path.touch(exist_ok=False)
                os.replace(self.part, path)
                return path
        raise AssertionError

    def drop(self) -> None:
        """Close it, and remove what is there of it."""
        self._file.close()
        self.part.unlink(missing_ok=True)


class Talk:
    """One end of the data channel. What is said that cannot be used is refused by its name."""

    def __init__(self, who: str, log: Log, clock: Clock, save: Path | None = None) -> None:
        """`save` is the folder for files; without one none is taken."""
        self.who, self.log, self.clock, self.save = who, log, clock, save
        self.channel: RTCDataChannel | None = None
        self.chats: deque[str] = deque(maxlen=1000)  # received
        self.files: list[Path] = []  # received
        self.on_chat: Callable[[str], None] = lambda text: None
        self.on_captured: Callable[[list[tuple[int, float]]], None] = lambda times: None
        self.on_progress: Callable[[str, int, int], None] = lambda name, done, size: None  # bytes, either way
        self.on_bug: Callable[[Exception], None] = lambda error: None  # a handler of ours raised
        self._told = math.inf  # up to which second the other end has our log; infinite until it asks
        self._incoming: Incoming | None = None
        self._refusing = False  # the rest of a file that is not taken
        self._sending: asyncio.Future[bool] | None = None

    @property
    def open(self) -> bool:
        return self.channel is not None and self.channel.readyState == "open"

    def use(self, channel: RTCDataChannel) -> None:
        """Take a channel. The first one of this name counts."""
        if self.channel is not None or channel.label != "talk":
            self.log(self.who, "refused datachannel", channel.label)
            return
        self.channel = channel
        self.log(self.who, "datachannel", channel.label)
        channel.on("message", self.take)
        channel.on("close", self.close)
        channel.on("error", self.on_bug)

    def chat(self, text: str) -> None:
        """Say something. Raises CallError where that is not possible."""
        if not 0 < len(text) <= LONGEST_CHAT:
            raise CallError(f"a chat has 1 to {LONGEST_CHAT} letters: say it in parts")
        self.send({"type": "chat", "text": text})

    def send(self, message: Message) -> None:
        """Send a message. Raises CallError where there is no open channel."""
        if self.channel is None or not self.open:
            raise CallError("the data channel is not open: wait until the call is connected")
        self.channel.send(json.dumps(message))

    async def send_file(self, path: Path) -> bool:
        """Send a file; return whether it arrived whole. Raises CallError where it cannot be read or sent."""
        if self._sending is not None:
            raise CallError("a file is being sent: one after the other")
        self._sending = asyncio.get_running_loop().create_future()
        try:
            data = await asyncio.to_thread(path.read_bytes)
            if len(data) > LARGEST_FILE:
                raise CallError(f"{printable(str(path))} has more than {LARGEST_FILE} bytes: send a smaller one")
            digest = hashlib.sha256(data).hexdigest()
            self.send({"type": "file", "name": path.name, "size": len(data), "sha256": digest})
            for start in range(0, len(data), CHUNK):
                await self._send_chunk(data[start : start + CHUNK])
                if self._sending.done():
                    break  # it is not wanted
                self.on_progress(path.name, min(start + CHUNK, len(data)), len(data))
            self.send({"type": "file-end"})
            arrived = await self._sending
        except OSError as error:
            raise CallError(f"{printable(str(path))} cannot be read ({error.strerror}): name a file") from error
        finally:
            self._sending = None
        self.log(self.who, "file sent" if arrived else "file not taken", path.name)
        return arrived

    async def _send_chunk(self, data: bytes) -> None:
        while self.channel and self.open and self.channel.bufferedAmount > MOST_UNSENT:
            await asyncio.sleep(0.005)
        if self.channel is None or not self.open:
            raise CallError("the data channel was closed while a file was being sent: call again")
        self.channel.send(data)

    def send_captured(self, times: Iterable[tuple[int, float]]) -> None:
        """Tell when pictures were captured (number, s perf_counter)."""
        told = [(number, self.clock.server_ms(t)) for number, t in times]
        if self.open and (known := [[number, round(ms, 2)] for number, ms in told if ms is not None]):
            self.send({"type": "captured", "times": known})

    def send_events(self) -> None:
        """Send what our log has since the last time, if the other end has asked for it."""
        if self.open and (new := [event for event in self.log.events if event.t > self._told][:EVENTS_AT_ONCE]):
            self._told = new[-1].t
            times = [self.clock.server_ms(self.log.start + event.t) for event in new]
            told = [
                {"t": t and round(t, 2), "who": event.who, "what": event.what, "detail": event.detail}
                for t, event in zip(times, new, strict=True)
            ]
            self.send({"type": "events", "events": told})

    def close(self) -> None:
        """Give up what is under way."""
        self._drop()
        if self._sending and not self._sending.done():
            self._sending.set_exception(CallError("the call ended while a file was being sent: call again"))

    # What comes in.

    def take(self, data: str | bytes) -> None:
        """Do what a message is for, or refuse it by its name."""
        kind = "chunk"
        try:
            if isinstance(data, bytes):
                self._take_chunk(data)
            else:
                kind = "message"
                message = parse_message(data, TALK)
                kind = message["type"]
                self._do(message)
        except SignallingError as error:
            self.log(self.who, f"refused {kind}", str(error))
            if kind in ("file", "file-end") or (kind == "chunk" and self._incoming):
                self._drop()
                self._refusing = kind != "file-end"
                self._answer({"type": "file-bad"})

    def _do(self, message: Message) -> None:
        kind = message["type"]
        if kind == "chat":
            if len(message["text"]) > LONGEST_CHAT:
                raise SignallingError(f"more than {LONGEST_CHAT} letters")
            self.chats.append(message["text"])
            self.on_chat(printable(message["text"], LONGEST_CHAT))
        elif kind == "file":
            self._take_file(message)
        elif kind == "file-end":
            self._take_file_end()
        elif kind in ("file-ok", "file-bad"):
            if self._sending is None or self._sending.done():
                raise SignallingError("no file is being sent")
            self._sending.set_result(kind == "file-ok")
        elif kind == "captured":
            self._take_captured(message.get("times"))
        elif kind == "log":
            self._told = -1.0
        else:
            raise SignallingError("it was not asked for")

    def _take_captured(self, times: Any) -> None:
        try:
            told = [(int(number), self.clock.local(float(ms))) for number, ms in times]
        except (ValueError, TypeError, OverflowError) as error:
            raise SignallingError(f"times are pairs of numbers ({error})") from error
        self.on_captured([(number, t) for number, t in told if t is not None])

    def _take_file(self, message: Message) -> None:
        if self._incoming:
            raise SignallingError("another file has not ended")
        if self.save is None:
            raise SignallingError("no files are taken here (--save DIR)")
        with writing(self.save):
            self._incoming = Incoming(message, self.save)
        self._refusing = False

    def _take_chunk(self, data: bytes) -> None:
        if self._incoming:
            with writing(self._incoming.part):
                self._incoming.add(data)
            self.on_progress(self._incoming.name, self._incoming.received, self._incoming.size)
        elif not self._refusing:
            raise SignallingError("it belongs to no file")

    def _take_file_end(self) -> None:
        if self._refusing:
            self._refusing = False
        elif self._incoming is None:
            raise SignallingError("no file has begun")
        else:
            with writing(self._incoming.part):
                path = self._incoming.finish()
            self.files.append(path)
            self.log(self.who, "file received", f"{path} ({self._incoming.size} bytes)")
            self._answer({"type": "file-ok", "sha256": self._incoming.wanted})
            self._incoming = None

    def _answer(self, message: Message) -> None:
        if self.open:
            self.send(message)

    def _drop(self) -> None:
        if self._incoming:
            self._incoming.drop()
            self._incoming = None


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise SignallingError where the disk does not take what the other end sends."""
    try:
        yield
    except OSError as error:
        raise SignallingError(f"{printable(str(path))} cannot be written ({error.strerror})") from error

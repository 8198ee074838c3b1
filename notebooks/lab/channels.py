"""Data channels, tried: a call that has nothing else, messages through loss, a file with and without waiting, a picture
and a sound as messages, labels."""

from __future__ import annotations

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import gc
import hashlib
import io
import logging
import random
import statistics
import wave
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from aiortc import RTCDataChannel
from IPython.display import Image

from loopback import Call, CallError, Done, Picture, Step, SyntheticSource

from .draw import BAD, HUES, INK, SOFT, Table, chart, still
from .faults import Delay, WireFault
from .sctp import SctpTap
from .wire import Datagram, Forward, Later, Tap

__all__ = [
    *("CHUNK", "IN_A_BROWSER", "DataCall", "Ending", "Inbox", "LoseMessages", "Race", "Transfer"),
    *("a_sound", "announced", "as_jpeg", "as_wav", "data_call", "delivered", "ended_by", "nearest", "race"),
    *("race_chart", "race_table", "send_file", "someone_ends", "sound_chart", "transfer", "transfer_chart", "until"),
]

Handed = Callable[[int], object]
CHUNK = 16_384  # bytes: one message of a file
HIGH, LOW = 262_144, 65_536  # bytes waiting: stop at more than that, go on at that

IN_A_BROWSER: dict[str, tuple[str, str]] = {  # what is shown beside them: the code, and a sentence
    "take": (
        """\
pc2.ondatachannel = ({channel}) => {
  channel.binaryType = 'arraybuffer';
  channel.onmessage = ({data}) => inbox.push(data);
};""",
        "Bytes come as bytes here, in a browser as ArrayBuffer or Blob: say which. There events are objects.",
    ),
    "send_file": (
        """\
channel.bufferedAmountLowThreshold = LOW;
for (let start = 0; start < data.byteLength; start += CHUNK) {
  if (channel.bufferedAmount > HIGH)
    await new Promise(go => channel.addEventListener(
      'bufferedamountlow', go, {once: true}));
  channel.send(data.slice(start, start + CHUNK));
}""",
        "The same. Without the look at a channel that closes meanwhile, either one would wait for ever.",
    ),
}


async def until(reached: Callable[[], Any], within: float = 5.0) -> None:
    """Wait until something holds. Raises TimeoutError after that many seconds."""
    async with asyncio.timeout(within):
        while not reached():
            await asyncio.sleep(0.002)


def nearest(value: float, *choices: float) -> float:
    """Return that of the choices which is nearest: what of a measurement is the same on every run."""
    return min(choices, key=lambda choice: abs(choice - value))


class Inbox(list[str | bytes]):
    """The messages of a channel, in the order they came. `pc.on("datachannel", inbox.take)` takes the next channel."""

    def __init__(self) -> None:
        super().__init__()
        self.channel: Any = None  # the latest one

    def take(self, channel: RTCDataChannel) -> None:
        """Listen to that channel."""
        self.channel = channel
        channel.on("message", self.append)

    async def expect(self, count: int, within: float = 5.0) -> Inbox:
        """Wait until so many messages are there. Raises TimeoutError."""
        await until(lambda: len(self) >= count, within)
        return self


class DataCall(Call):
    """A call without a track: its only m-line is for data channels. `create` is called with pc1 where addTrack would
    stand, and makes them; without it there is one, "chat". What comes on pc2's channels is in `inbox`."""

    def __init__(self, create: Callable[[Any], Any] | None = None, **options: Any) -> None:
        super().__init__(SyntheticSource(160, 120, 10), **options)
        self._create = create or (lambda pc: pc.createDataChannel("chat"))
        self.channel: Any = None  # what `create` returned
        self.inbox, self.heard = Inbox(), list[RTCDataChannel]()  # of pc2: messages; its ends of pc1's channels
        self.pc2.pc.on("datachannel", self.heard.append)
        self.pc2.pc.on("datachannel", self.inbox.take)

    @property
    def scripts(self) -> tuple[list[Step], list[Step]]:
        """Those of a call, with a data channel in the place of the track."""
        (_, *one), (*two, _) = super().scripts
        return [Step(self.pc1, "createDataChannel", self.create), *one], two

    async def create(self) -> Done:
        """Make the channels, before the offer, so that it has an m-line for them."""
        self.channel = self._create(self.pc1.pc)
        return self.pc1.done("createDataChannel", self.channel)


async def data_call(create: Callable[[Any], Any] | None = None, **options: Any) -> DataCall:
    """Return a DataCall that is connected; its channel, where there is a single one, is open at both ends."""
    call = DataCall(create, **options)
    try:
        await call.run()
        if isinstance(call.channel, RTCDataChannel):
            await until(lambda: call.channel.readyState == "open")
    except BaseException:
        await call.close()
        raise
    return call


# ---- The same messages through the same loss -------------------------------------------------------------------------


class LoseMessages(WireFault):
    """Lose a part of the datagrams that carry messages of pc1. Whether one is lost is decided by which message it has,
    and whether it is its first copy, second ...: so every run, and every kind of channel, meets the same loss."""

    def __init__(self, under: SctpTap, rate: float, messages: int, seed: int = 1) -> None:
        super().__init__(seed, layer="DTLS", who="pc1")
        self.under, self.rate, self.messages = under, rate, messages
        self.first: int | None = None  # the TSN of the first message
        self.copies: Counter[int] = Counter()  # sent so far of each message
        self.lost: set[int] = set()  # messages whose first copy was lost

    def concerns(self, datagram: Datagram) -> bool:
        """Whether the datagram has one of the messages in it."""
        packet = self.under.passing
        return super().concerns(datagram) and packet is not None and packet.tsn is not None

    def apply(self, datagram: Datagram, forward: Forward, later: Later) -> None:
        """Let the datagram pass, or not."""
        packet = self.under.passing
        assert packet is not None
        assert packet.tsn is not None
        self.first = packet.tsn if self.first is None else self.first
        number = (packet.tsn - self.first) % 2**32
        self.copies[number] += 1
        chance = random.Random(f"{self.seed} {number} {self.copies[number]}").random()
        if number < self.messages and chance < self.rate:
            self.mark(datagram, dropped=True)
            if self.copies[number] == 1:
                self.lost.add(number)
        else:
            forward()


@dataclass
class Race:
    """What became of numbered messages on a channel of one kind."""

    name: str
    sent: dict[int, float] = field(default_factory=dict)  # message -> s on the clock
    arrived: dict[int, float] = field(default_factory=dict)  # in the order of arrival
    lost: set[int] = field(default_factory=set)  # those whose first datagram was lost
    again: int = 0  # datagrams sent again
    held_up: int = 0  # messages that this program itself sent too late: the machine was busy

    @property
    def delays(self) -> dict[int, float]:
        """How long each message took, in ms."""
        return {number: (t - self.sent[number]) * 1000 for number, t in self.arrived.items()}

    @property
    def late(self) -> int:
        """How many took more than twice as long as the path takes."""
        return sum(delay > 2000 * ONE_WAY for delay in self.delays.values())

    @property
    def missing(self) -> set[int]:
        """The messages that never came."""
        return set(self.sent) - set(self.arrived)

    @property
    def in_order(self) -> bool:
        """Whether they came in the order in which they were sent."""
        return list(self.arrived) == sorted(self.arrived)

    def __repr__(self) -> str:
        order = "in order" if self.in_order else "not in order"
        return f"{self.name}: {len(self.arrived)} of {len(self.sent)} arrived, {order}"


PAUSE, TAIL = 0.015, 15  # s between two messages; messages behind the race, so that the last losses are noticed, too
ONE_WAY, RATE = 0.02, 0.1  # s, part of the datagrams
TRIES, HELD_UP, TOO_LATE = 3, 2, 0.01  # runs at most; messages sent too late, by so many s, that spoil none


async def race(modes: Mapping[str, Mapping[str, Any]], messages: int = 150, seed: int = 1) -> list[Race]:
    """Send the same numbered messages on channels of these kinds, each in a call of its own, all at the same time: one
    every 15 ms, through a network of 20 ms each way that loses 10 % of the datagrams. `modes` has for each name what
    createDataChannel is given. A run in which this machine was too busy to send in time is made again."""
    for _ in range(TRIES):
        races = await asyncio.gather(*(_race(name, options, messages, seed) for name, options in modes.items()))
        if max(one.held_up for one in races) <= HELD_UP:
            break
    return list(races)


async def _race(name: str, options: Mapping[str, Any], messages: int, seed: int) -> Race:
    found, now = Race(name), asyncio.get_running_loop().time
    async with _raced(options, messages, seed) as (call, fault):
        call.inbox.channel.on("message", lambda text: found.arrived.setdefault(int(text[:4]), now()))
        begun = now()
        for number in range(messages + TAIL):
            await asyncio.sleep(max(0, begun + number * PAUSE - now()))
            found.sent[number] = now()
            found.held_up += now() > begun + number * PAUSE + TOO_LATE
            call.channel.send(f"{number:04}".ljust(100))
        call.channel.close()  # it is closed when all is settled, and not before
        await until(lambda: call.channel.readyState == "closed", 10)
    found.sent = {number: t for number, t in found.sent.items() if number < messages}
    found.arrived = {number: t for number, t in found.arrived.items() if number < messages}
    found.lost, found.again = fault.lost, sum(fault.copies.values()) - len(fault.copies)
    return found


@contextlib.asynccontextmanager
async def _raced(options: Mapping[str, Any], messages: int, seed: int) -> AsyncIterator[tuple[DataCall, LoseMessages]]:
    call = await data_call(lambda pc: pc.createDataChannel("race", **options))
    try:
        await until(lambda: call.inbox.channel is not None)
        wire = Tap(call)
        with wire, SctpTap(call, wire=wire) as under:
            fault = LoseMessages(under, RATE, messages, seed)
            wire.faults += [fault, Delay(ONE_WAY, layer="DTLS")]
            yield call, fault
    finally:
        await call.close()


def race_table(races: Sequence[Race]) -> Table:
    """Return what became of the messages, a row for each kind of channel."""
    rows: list[tuple[str, ...]] = []
    for one in races:
        delays = sorted(one.delays.values())
        median, last = statistics.median(delays), delays[-1]
        came, order = f"{len(one.arrived)} of {len(one.sent)}", "yes" if one.in_order else "no"
        times = (f"≈{one.late}", f"≈{median:.0f} ms", f"≈{last:.0f} ms")
        rows.append((one.name, str(len(one.lost)), f"≈{one.again}", came, order, *times))
    heads = (
        "channel",
        "first datagram lost",
        "sent again",
        "arrived",
        "in order",
        "half within",
        "9 of 10 within",
        "all",
    )
    return Table(heads, [("", rows)], (30, 11, 9, 12, 9, 9, 11, 9))


def race_chart(races: Sequence[Race]) -> Image:
    """Draw each message as a dot: when it was sent, and how long it took. Red: its datagram was lost; a cross: it never
    came."""
    figure, first = chart(150 * len(races) + 40)
    first.remove()
    top = 1.08 * max(max(one.delays.values()) for one in races)
    for row, one in enumerate(races, 1):
        axes = figure.add_subplot(len(races), 1, row, facecolor="none")
        _style(axes)
        kept = [number for number in one.arrived if number not in one.lost]
        repaired = [number for number in one.arrived if number in one.lost]
        axes.scatter(kept, [one.delays[number] for number in kept], s=9, color=HUES["message"])
        axes.scatter(repaired, [one.delays[number] for number in repaired], s=16, color=BAD)
        axes.scatter(sorted(one.missing), [top * 0.95] * len(one.missing), s=22, marker="x", color=BAD)
        axes.set_ylim(0, top)
        axes.set_xlim(-2, len(one.sent) + 1)
        axes.set_ylabel("ms", color=INK)
        title = f"{one.name}: {len(one.arrived)} of {len(one.sent)}"
        axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(
        "number of the message: one every 15 ms. Red: its datagram was lost; cross: it never came", color=INK
    )
    return still(figure)


def _style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)
    axes.tick_params(colors=INK, labelcolor=INK)


# ---- A file ----------------------------------------------------------------------------------------------------------


async def send_file(channel: RTCDataChannel, data: bytes, handed: Handed = lambda count: None) -> None:
    """Send bytes as messages of 16 KiB, and wait while too many are waiting. `handed` is told how many bytes send() has
    been given. Raises CallError where the channel closes."""
    room = asyncio.Event()
    channel.bufferedAmountLowThreshold = LOW
    channel.on("bufferedamountlow", room.set)
    channel.on("close", room.set)
    for start in range(0, len(data), CHUNK):
        if channel.bufferedAmount > HIGH:
            room.clear()
            await room.wait()
        if channel.readyState != "open":
            raise CallError("the channel was closed while a file was being sent")
        channel.send(data[start : start + CHUNK])
        handed(min(start + CHUNK, len(data)))


async def send_at_once(channel: RTCDataChannel, data: bytes, handed: Handed = lambda count: None) -> None:
    """Send bytes as messages of 16 KiB, all of them now."""
    for start in range(0, len(data), CHUNK):
        channel.send(data[start : start + CHUNK])
        handed(min(start + CHUNK, len(data)))


@dataclass
class Transfer:
    """A file's way through a channel, and that of a short message on a second channel, said at half of the file."""

    size: int
    handed: list[tuple[float, int]] = field(default_factory=list)  # s, bytes given to send()
    arrived: list[tuple[float, int]] = field(default_factory=list)  # s, bytes
    sha256: str = ""  # of what arrived
    most_waiting: int = 0  # bytes: the highest bufferedAmount
    ahead: int = 0  # bytes of the file that came between saying and hearing the short message
    chat: tuple[float, float] = (0.0, 0.0)  # s: said, heard

    @property
    def seconds(self) -> float:
        """From the first byte handed over to the last one that arrived."""
        return self.arrived[-1][0] - self.handed[0][0]

    @property
    def meanwhile(self) -> int:
        """Bytes that had arrived when the last ones were handed over."""
        return max((size for t, size in self.arrived if t <= self.handed[-1][0]), default=0)

    def __repr__(self) -> str:
        speed = self.size / self.seconds / 1e6
        return (
            f"{self.arrived[-1][1]:,} bytes in ≈{self.seconds:.2f} s, that is ≈{speed:.1f} MB/s; "
            f"most waiting: {self.most_waiting:,} bytes"
        )


async def transfer(data: bytes, wait: bool = True, progress: Callable[[str], object] = lambda words: None) -> Transfer:
    """Send a file through a new call, waiting for room or not; at half of it, say "ping" on a second channel. Each
    fifth that has arrived is told to `progress`."""
    call = await data_call(lambda pc: (pc.createDataChannel("file"), pc.createDataChannel("chat")))
    try:
        return await _transfer(call, data, wait, progress)
    finally:
        await call.close()


async def _transfer(call: DataCall, data: bytes, wait: bool, progress: Callable[[str], object]) -> Transfer:
    file, chat = call.channel
    await until(lambda: file.readyState == chat.readyState == "open")
    found, digest, now, fifths = Transfer(len(data)), hashlib.sha256(), asyncio.get_running_loop().time, 0

    def on_message(message: str | bytes) -> None:
        nonlocal fifths
        before = found.arrived[-1][1] if found.arrived else 0
        if isinstance(message, str):
            found.chat, found.ahead = (found.chat[0], now()), before - found.ahead
            return
        digest.update(message)
        found.arrived.append((now(), before + len(message)))
        if (done := 5 * found.arrived[-1][1] // found.size) > fifths:
            fifths = done
            progress(f"{20 * fifths:3} % has arrived")

    def on_handed(count: int) -> None:
        before = found.handed[-1][1] if found.handed else 0
        found.handed.append((now(), count))
        found.most_waiting = max(found.most_waiting, file.bufferedAmount)
        if before < found.size / 2 <= count:
            found.chat, found.ahead = (now(), 0.0), found.arrived[-1][1] if found.arrived else 0
            chat.send("ping")

    await until(lambda: len(call.heard) == 2)
    for end in call.heard:
        end.on("message", on_message)
    await (send_file if wait else send_at_once)(file, data, on_handed)
    await until(lambda: found.arrived and found.arrived[-1][1] == found.size and found.chat[1], 30)
    found.sha256 = digest.hexdigest()
    return found


def transfer_chart(transfers: Mapping[str, Transfer]) -> Image:
    """Draw each transfer: what the program has handed to send(), what has arrived, and between them what waits."""
    figure, first = chart(290)
    first.remove()
    longest = max(one.seconds for one in transfers.values())
    for column, (name, one) in enumerate(transfers.items(), 1):
        axes = figure.add_subplot(1, len(transfers), column, facecolor="none")
        _style(axes)
        begun = one.handed[0][0]
        ends_at = one.arrived[-1][0] - begun
        handed = [(t - begun, size / 1e6) for t, size in one.handed] + [(ends_at, one.size / 1e6)]
        arrived = [(0.0, 0.0)] + [(t - begun, size / 1e6) for t, size in one.arrived]
        axes.step(*zip(*handed, strict=True), where="post", color=HUES["message"], label="handed to send()")
        axes.step(*zip(*arrived, strict=True), where="post", color=HUES["SRTP"], label="arrived")
        said, heard = (t - begun for t in one.chat)
        axes.hlines(one.size / 2e6, said, heard, color=BAD, linewidth=3, label="a chat under way")
        axes.set_xlim(-0.02 * longest, 1.05 * longest)
        axes.set_title(name, loc="left", fontsize=10, color=INK)
        axes.set_xlabel("s", color=INK)
        axes.set_ylabel("MB", color=INK)
        axes.legend(loc="lower right", fontsize=8.5, labelcolor=INK)
    return still(figure)


# ---- A picture and a sound -------------------------------------------------------------------------------------------


def as_jpeg(picture: Picture, quality: int = 95) -> bytes:
    """Return a picture as the bytes of a JPEG file."""
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def a_sound(seconds: float = 1.0, rate: int = 48_000) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Return three tones, one after the other, each dying away: (samples, 2), int16."""
    t = np.arange(round(seconds * rate)) / rate
    pitch = np.select([t < seconds / 3, t < 2 * seconds / 3], [440, 550], 660)
    mono = np.sin(2 * np.pi * pitch * t) * np.exp(-12 * (t % (seconds / 3)))
    return np.repeat((mono * 20_000).astype(np.int16)[:, None], 2, axis=1)


def as_wav(samples: np.ndarray[Any, np.dtype[np.int16]], rate: int = 48_000) -> bytes:
    """Return samples, (samples, channels) int16, as the bytes of a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((samples.shape[1], 2, rate, len(samples), "NONE", ""))
        out.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


async def delivered(*messages: str | bytes) -> Inbox:
    """Return what pc2 has received after pc1 has sent these messages on a new channel."""
    call = await data_call()
    try:
        for message in messages:
            call.channel.send(message)
        return await call.inbox.expect(len(messages))
    finally:
        await call.close()


def sound_chart(wav: bytes) -> Image:
    """Draw the sound in a WAV file."""
    with wave.open(io.BytesIO(wav)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())[:, 0]
        seconds = np.arange(len(samples)) / file.getframerate()
    figure, axes = chart(170)
    axes.plot(seconds[::20], samples[::20] / 32768, color=HUES["SRTP"], linewidth=0.7)
    axes.set_xlabel("s", color=INK)
    axes.set_ylabel("loudness", color=SOFT)
    return still(figure)


# ---- Labels, and who ends it -----------------------------------------------------------------------------------------


class Heard(logging.Handler):
    """Keeps the last line of what aiortc writes to its log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's last line."""
        self.last = record.getMessage().strip().splitlines()[-1]


@contextlib.contextmanager
def complaints() -> Iterator[Heard]:
    """While entered, what aiortc warns of is kept instead of written to stderr; so is the error that ends its task."""
    heard, logger, loop = Heard(), logging.getLogger("aiortc"), asyncio.get_running_loop()
    before = loop.get_exception_handler()
    logger.addHandler(heard)
    loop.set_exception_handler(lambda loop, context: None)
    try:
        yield heard
        gc.collect()  # a task whose error nobody has fetched complains when it goes
    finally:
        loop.set_exception_handler(before)
        logger.removeHandler(heard)


async def announced(label: str) -> str:
    """Say what pc2 is told when pc1 makes a channel with that label, or how it ends."""
    call = DataCall(lambda pc: pc.createDataChannel(label), deadline=2)
    with complaints() as heard:
        try:
            with contextlib.suppress(CallError):
                await call.run()
            gone = lambda: call.pc2.pc.connectionState == "closed"  # noqa: E731
            with contextlib.suppress(TimeoutError):
                await until(lambda: call.inbox.channel or gone(), 2)
            told = f"pc2 has a channel {call.inbox.channel.label!r}" if call.inbox.channel else "no channel at pc2"
            return f"{told}; pc2 closed its connection: {heard.last}" if gone() else told
        finally:
            await call.close()


@dataclass
class Ending:
    """How messages under way have fared when somebody ended their channel, and what ended it on the wire."""

    how: str
    sent: int
    arrived: int
    last: list[str]  # the chunks that were neither messages nor acknowledgements

    def __repr__(self) -> str:
        return f"{self.how}: {self.arrived} of {self.sent} arrived; the end was {', '.join(self.last)}"


async def ended_by(how: str, messages: int = 300) -> Ending:
    """Send messages of 1,000 bytes on a new channel and end it by "pc.close()" or "channel.close()", without a pause;
    wait until pc2's end is closed."""
    call = await data_call()
    try:
        with SctpTap(call) as under:
            for _ in range(messages):
                call.channel.send(bytes(1000))
            if how == "pc.close()":
                await call.pc1.pc.close()
            else:
                call.channel.close()
            await until(lambda: call.inbox.channel.readyState == "closed")
        last = [packet.summary for packet in under.only(who="pc1") if packet.kind not in ("DATA", "SACK")]
        return Ending(how, messages, len(call.inbox), list(dict.fromkeys(last)))  # a reset may be asked for twice
    finally:
        await call.close()


async def someone_ends() -> SctpTap:
    """Return what passed, in the clear, when one of the two ended a channel or the connection."""
    call = await data_call()
    with Tap(call) as wire, SctpTap(call, wire=wire) as under:
        call.channel.send("anything else?")
        await call.inbox.expect(1)
        await until(lambda: len(under.only("SACK", "pc2")) == 1)
        call.inbox.channel.close()
        await until(lambda: call.channel.readyState == "closed")
        await asyncio.sleep(0.05)
    await call.close()
    return under

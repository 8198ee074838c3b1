"""One camera for several viewers, and several people who all see each other: who gets which picture, and what it costs.

numbers_seen([track, track])     the same track sent over several connections: which pictures each viewer has got
await left_behind()              what waits for somebody who has subscribed to a relay and does not read
Camera(source)                   one source, read once; each viewer() of it is a source that has every picture
Work()                           while entered, counts what is encoded and decoded, and the processor's time
await star(3)                    one publisher, a connection and an encoder for each viewer
await mesh(4)                    everybody with everybody
work_table(costs), bars(costs)   what they cost, as a table and as a figure
effort(meshes)                   what meshes cost, against n(n-1)
three_sizes()                         one camera encoded in three sizes, as simulcast does
"""

from __future__ import annotations

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
from aiortc import MediaStreamTrack
from aiortc.codecs.vpx import Vp8Decoder, Vp8Encoder
from aiortc.contrib.media import MediaRelay
from IPython.display import Image

from loopback import (
    Call,
    Log,
    OutgoingTrack,
    Peer,
    Picture,
    Source,
    SyntheticSource,
    callee,
    caller,
    cancelled,
    memory_channel,
    play,
    read_time_code,
)

from . import private
from .draw import HUES, Table, chart, still
from .wire import Tap

__all__ = [
    *("Camera", "Cost", "Encoding", "Work", "bars", "dots", "effort", "left_behind", "mesh", "numbers_seen", "star"),
    *("three_sizes", "work_table"),
]

Numbers = dict[str, list[int]]  # a viewer -> the numbers in the pictures it has got


# ---- One camera ------------------------------------------------------------------------------------------------------


async def numbers_seen(tracks: Sequence[MediaStreamTrack], pictures: int = 24) -> Numbers:
    """Send each of these tracks over a connection of its own, and return the numbers that each viewer has read in its
    pictures, until they have so many together, and not those of the start, when some are not connected yet. The same
    track may stand there twice. Raises CallError where nothing comes."""
    log, seen = Log(), Numbers()
    pairs = []
    for number, _ in enumerate(tracks, 1):
        one, two = memory_channel()
        pairs.append((Peer(f"camera {number}", one, log), Peer(f"viewer {number}", two, log)))
        seen[f"viewer {number}"] = []
    try:
        async with asyncio.timeout(10):
            scripts = [
                play(script)
                for (sender, viewer), track in zip(pairs, tracks, strict=True)
                for script in (caller(sender, track), callee(viewer))
            ]
            await asyncio.gather(*scripts)
            for _, viewer in pairs:
                viewer.on_picture = partial(_note, seen[viewer.name])
            while sum(map(len, seen.values())) < pictures:
                await asyncio.sleep(0.01)
    except TimeoutError as error:
        raise loopback.CallError("no pictures within 10 s: does the track give any?") from error
    finally:
        await asyncio.gather(*(peer.close() for pair in pairs for peer in pair))
    return seen


def _note(numbers: list[int], picture: Picture) -> None:
    number = read_time_code(picture)
    if number is not None:
        numbers.append(number)


def dots(seen: Mapping[str, Numbers]) -> Image:
    """Draw which viewer has got which pictures: a group for each way of sending, a row for each viewer."""
    figure, axes = chart(110 + 34 * sum(map(len, seen.values())))
    axes.set_xlabel("number in the picture, counted from the first one drawn")
    axes.invert_yaxis()
    rows = []
    for colour, (way, numbers) in zip((HUES["STUN"], HUES["SRTP"], HUES["message"]), seen.items(), strict=False):
        first = min(itertools.chain(*numbers.values()))
        for viewer, found in numbers.items():
            axes.scatter([number - first for number in found], [len(rows)] * len(found), s=46, color=colour)
            rows.append(f"{way}, {viewer}")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", color="#7f7f7f", alpha=0.3)
    return still(figure)


async def left_behind(seconds: float = 0.4) -> dict[str, int]:
    """Subscribe to a relayed track in three ways, read one picture of each, and no more; return how many wait for each
    after that time."""
    track, relay = OutgoingTrack(SyntheticSource(160, 120, 30)), MediaRelay()
    readers = {
        "subscribed, not read": relay.subscribe(track),
        "the same, then stop()": relay.subscribe(track),
        "buffered=False": relay.subscribe(track, buffered=False),
    }
    try:
        await asyncio.gather(*(reader.recv() for reader in readers.values()))
        readers["the same, then stop()"].stop()
        await asyncio.sleep(seconds)
        return {name: private.relayed(reader) for name, reader in readers.items()}
    finally:
        track.stop()
        await asyncio.sleep(0.1)  # the relay's own task ends with the picture it waits for


class Camera:
    """A source that is read once, for any number of viewers: each viewer() is a source with every picture of it, the
    newest where one is slow. It reads while somebody views."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.read = 0  # pictures taken from the source
        self.viewers: list[Viewer] = []
        self._reading: asyncio.Task[None] | None = None

    def viewer(self) -> Viewer:
        """Return a source for one more call."""
        one = Viewer(self)
        self.viewers.append(one)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        return one

    async def _read(self) -> None:
        while True:
            picture, captured_at = await self.source.next()
            self.read += 1
            for one in self.viewers:
                one.give(picture.copy(), captured_at)  # a call draws its number into it

    async def leave(self, one: Viewer) -> None:
        """Take a viewer off; with the last one, reading ends."""
        if one in self.viewers:
            self.viewers.remove(one)
        if not self.viewers and self._reading:
            reading, self._reading = self._reading, None
            await cancelled(reading)
            await self.source.close()


class Viewer:
    """A source, for one call, that has what the camera reads."""

    given = ""

    def __init__(self, camera: Camera) -> None:
        self.camera, self.label = camera, camera.source.label
        self._newest: tuple[Picture, float] | None = None
        self._there = asyncio.Event()

    def give(self, picture: Picture, captured_at: float) -> None:
        """Take a picture, in place of one that was not fetched."""
        self._newest = picture, captured_at
        self._there.set()

    async def ready(self) -> None: ...  # the camera is

    async def next(self) -> tuple[Picture, float]:
        await self._there.wait()
        self._there.clear()
        assert self._newest is not None, "give() sets both"
        return self._newest

    async def close(self) -> None:
        await self.camera.leave(self)


# ---- What it costs ---------------------------------------------------------------------------------------------------


class Work:
    """While entered, what this process does: pictures encoded and decoded, its processor time in seconds. The counting
    wraps one method each of aiortc's VP8 encoder and decoder; the last to leave puts the originals back."""

    entered: ClassVar[list[Work]] = []
    originals: ClassVar[dict[type, Any]] = {}
    METHODS: ClassVar[dict[type, str]] = {Vp8Encoder: "encode", Vp8Decoder: "decode"}

    def __init__(self) -> None:
        self.encoded = self.decoded = 0
        self.seconds = self.lasted = 0.0

    def __enter__(self) -> Work:
        if not Work.entered:
            for kind, name in Work.METHODS.items():
                Work.originals[kind] = getattr(kind, name)
                setattr(kind, name, _counting(name, Work.originals[kind]))
        Work.entered.append(self)
        self._began = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.lasted = time.process_time() - self._began[0], time.perf_counter() - self._began[1]
        Work.entered.remove(self)
        if not Work.entered:
            for kind, original in Work.originals.items():
                setattr(kind, Work.METHODS[kind], original)


def _counting(name: str, original: Any) -> Any:
    def counted(*arguments: Any, **options: Any) -> Any:
        for work in Work.entered:
            setattr(work, f"{name}d", getattr(work, f"{name}d") + 1)
        return original(*arguments, **options)

    return counted


@dataclass
class Cost:
    """What a way to bring pictures to people has cost, while one person sent `pictures`. `recorded` says when and with
    what, where it was not run here and now."""

    people: int
    connections: int
    pictures: int  # of one camera
    encoded: int
    decoded: int
    uploaded: int  # bytes that left one publisher
    seconds: float  # of processor time, in this process
    lasted: float  # s
    others: float = 0.0  # s of processor time in another process: a server's
    readable: int = 0  # pictures that arrived and whose number could be read
    recorded: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def a_picture(self) -> float:
        """Processor time, in ms, for each picture of a camera."""
        return (self.seconds + self.others) * 1000 / max(self.pictures, 1)

    @property
    def encoders(self) -> int:
        """How often each picture of a camera was encoded."""
        return round(self.encoded / max(self.pictures, 1))

    @property
    def uplink(self) -> float:
        """kbit/s that left one publisher."""
        return self.uploaded * 8 / 1000 / self.lasted


async def star(viewers: int, seconds: float = 1.5, *, size: tuple[int, int] = (320, 240), rate: float = 30) -> Cost:
    """Send one camera to so many viewers, each over a connection of its own, and return what it has cost."""
    async with _calls([(Camera(SyntheticSource(*size, rate)), None)] * viewers) as calls:
        return await _observed(calls, viewers + 1, seconds, [call.pc1 for call in calls])


async def mesh(people: int, seconds: float = 1.5, *, size: tuple[int, int] = (160, 120), rate: float = 8) -> Cost:
    """Let everybody see everybody: each two of these people have a connection, with video both ways. Return what it has
    cost. `uploaded` is the first person's, `pictures` those of all cameras."""
    cameras = [Camera(SyntheticSource(*size, rate)) for _ in range(people)]
    pairs = list(itertools.combinations(cameras, 2))
    async with _calls(pairs) as calls:
        mine = [call.pc1 for call, (one, _) in zip(calls, pairs, strict=True) if one is cameras[0]]
        return await _observed(calls, people, seconds, mine)


@contextlib.asynccontextmanager
async def _calls(pairs: Iterable[tuple[Camera, Camera | None]]) -> AsyncIterator[list[Call]]:
    """Connect calls, each from one camera, or between two; close them at the end."""
    calls = [Call(one.viewer(), back=other.viewer() if other else None, deadline=20) for one, other in pairs]
    try:
        for call in calls:  # one after the other: set-up is not what is to be measured
            await call.run()
        yield calls
    finally:
        await asyncio.gather(*(call.close() for call in calls))


async def _observed(calls: list[Call], people: int, seconds: float, publisher: list[Peer]) -> Cost:
    """Look at running calls for a moment."""
    cameras = {id(track.source.camera): track.source.camera for track in _tracks(calls)}.values()
    with contextlib.ExitStack() as stack:
        taps = [stack.enter_context(Tap(peer)) for peer in publisher]
        before = sum(camera.read for camera in cameras), _readable(calls)
        with Work() as work:
            await asyncio.sleep(seconds)
        read = sum(camera.read for camera in cameras) - before[0]
    sent = sum(d.size for tap in taps for d in tap.only("SRTP", direction="out"))
    arrived = _readable(calls) - before[1]
    return Cost(people, len(calls), read, work.encoded, work.decoded, sent, work.seconds, work.lasted, readable=arrived)


def _tracks(calls: list[Call]) -> list[Any]:
    return [track for call in calls for track in (call.track, call.back) if isinstance(track, OutgoingTrack)]


def _readable(calls: list[Call]) -> int:
    return sum(len(track.meter.delays) for track in _tracks(calls))


class Encoding(NamedTuple):
    """One encoding of a camera."""

    rid: str  # its name in the SDP (RFC 8851)
    size: str
    kbps: float
    ms: float  # of processor time, a picture

    def __repr__(self) -> str:
        about = round(self.kbps / 50) * 50
        return f"{self.rid}: {self.size}, about {about} kbit/s, ≈{self.ms:.1f} ms of the processor a picture"


def three_sizes(pictures: int = 30) -> list[Encoding]:
    """Encode a second of one camera in three sizes, each with an encoder of its own, and return what they take."""
    view, found = SyntheticSource(640, 480, 30), []
    for rid, part, target in (("f", 1, 1_500_000), ("h", 2, 500_000), ("q", 4, 250_000)):
        encoder, clock, sent = Vp8Encoder(), loopback.RtpClock(), 0
        encoder.target_bitrate = target
        spent = 0.0
        for number in range(pictures):
            frame = loopback.to_frame(loopback.fit(view.draw(number / 30), (640 // part, 480 // part)))
            frame.pts, frame.time_base = clock.ticks(number / 30), loopback.VIDEO_TIME_BASE
            began = time.process_time()
            payloads, _ = encoder.encode(frame, force_keyframe=number == 0)
            spent += time.process_time() - began
            sent += sum(map(len, payloads))
        found.append(
            Encoding(rid, f"{640 // part}x{480 // part}", sent * 8 * 30 / pictures / 1000, spent * 1000 / pictures)
        )
    return found


# ---- Drawing ---------------------------------------------------------------------------------------------------------


def work_table(costs: Mapping[str, Cost]) -> Table:
    """Show what each way has cost, a row each."""
    head = ("", "connections", "encoded, a picture", "upload of a publisher", "processor, a picture", "of it a server")
    rows = [
        (
            name,
            str(cost.connections),
            f"{cost.encoders} times" if cost.encoders != 1 else "once",
            f"{cost.encoders} stream{'s' * (cost.encoders != 1)}, ≈{cost.uplink:.0f} kbit/s",
            f"≈{cost.a_picture:.1f} ms",
            f"≈{cost.others * 1000 / max(cost.pictures, 1):.1f} ms" if cost.others else "none",
        )
        for name, cost in costs.items()
    ]
    recorded = " ".join(dict.fromkeys(cost.recorded for cost in costs.values() if cost.recorded))
    return Table(head, [("", rows)], (25, 12, 15, 22, 15, 11), note=recorded)


def bars(costs: Mapping[str, Cost]) -> Image:
    """Draw what each way has cost of the processor, for each picture of the camera: a server's own part apart."""
    figure, axes = chart(70 + 42 * len(costs))
    axes.set_xlabel("ms of processor time for each picture of the camera: publisher, viewers, server")
    axes.invert_yaxis()
    most = max(cost.a_picture for cost in costs.values())
    for row, cost in enumerate(costs.values()):
        apart = cost.others * 1000 / max(cost.pictures, 1)
        axes.barh(row, cost.a_picture - apart, height=0.55, color=HUES["SRTP"])
        axes.barh(row, apart, left=cost.a_picture - apart, height=0.55, color=HUES["STUN"])
        words = f"{cost.a_picture:.1f} ms" + (f", {apart:.1f} of it the server" if apart else "")
        axes.text(cost.a_picture + most / 80, row, f"{words}; upload {cost.uplink:.0f} kbit/s", va="center")
    axes.set_yticks(range(len(costs)), list(costs))
    axes.set_xlim(0, most * 1.6)
    return still(figure)


def effort(costs: Mapping[str, Cost], rate: float = 30) -> Image:
    """Draw what a mesh costs against n(n-1): the processor's time for one round, in which each person sends a picture
    to each other; and what this machine has for it at `rate` pictures a second."""
    figure, axes = chart(330)
    crowds = [cost.people for cost in costs.values()]
    links = np.array([people * (people - 1) for people in crowds])
    spent = np.array([cost.a_picture * cost.people for cost in costs.values()])
    slope = float((links * spent).sum() / (links * links).sum())
    have = 1000 / rate * (os.cpu_count() or 1)
    most = max(links) * 1.25
    axes.plot([0, most], [0, slope * most], color=HUES["SRTP"], linewidth=1.5, zorder=1)
    axes.axhline(have, color=HUES["STUN"], linestyle="--", linewidth=1.2)
    axes.text(most / 100, have, f"all {os.cpu_count()} processors, at {rate:g} rounds a second", va="bottom")
    axes.scatter(links, spent, s=60, color=HUES["SRTP"], zorder=2)
    for name, x, y in zip(costs, links, spent, strict=True):
        axes.annotate(name, (x, y), xytext=(8, -12), textcoords="offset points")
    axes.set_xticks(links, [f"{people}·{people - 1} = {people * (people - 1)}" for people in crowds])
    axes.set_xlim(0, most)
    top = max(spent.max(), have) * 1.25
    axes.set_ylim(-0.06 * top, top)  # with room for a name below the first dot
    axes.set_xlabel("streams of pictures, n(n-1)")
    axes.set_ylabel("ms of processor time a round")
    return still(figure)

"""A running call that changes: tracks added, replaced, taken away, and directions.

await play(another_offer(call))      a second offer and answer over the same connection; offering=call.pc2: from pc2
screen = await added(call, source)   one more track at pc1, before anybody has told pc2
await arrivals(call, 0.5)            how many pictures came meanwhile, by their size, which tells the tracks apart
m_lines(call)                        each m-line, with what each side wants, and what was agreed
await after_one_loss(rtx=True)       two tracks in one connection, and a lost packet in one of them
agreed(offered, wanted)              the direction that an answer may have (RFC 3264, section 6.1)
"""

from __future__ import annotations

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from functools import partial

from aiortc import RTCRtpSender, RTCRtpTransceiver

from loopback import Call, OutgoingTrack, Peer, Picture, Source, Step, SyntheticSource, cancelled, in_turns, play

from . import private
from .draw import Table
from .faults import Cut
from .sdp import sections
from .wire import Datagram, Tap

__all__ = [
    *(
        "DIRECTIONS",
        "OneLoss",
        "added",
        "after_one_loss",
        "agreed",
        "another_offer",
        "arrivals",
        "direction_table",
        "directions",
    ),
    *("longest_gap", "m_lines", "overheard", "ssrc_of", "transceiver_of", "two_tracks", "without_rtx"),
]

DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
MIRRORED = {"sendonly": "recvonly", "recvonly": "sendonly"}


def another_offer(call: Call, offering: Peer | None = None) -> list[Step]:
    """Return the steps of one more offer and answer in a running call, in one list. Addresses and keys are there, so
    there are no candidates to send and nothing to connect."""
    one = offering or call.pc1
    other = call.pc2 if one is call.pc1 else call.pc1
    asking = [
        Step(one, "createOffer", partial(_create_offer, one, other)),
        Step(one, "setLocalDescription(offer)", one.set_local_description),
        Step(one, "send the offer", one.send_description, sends="offer"),
        Step(one, "setRemoteDescription(answer)", partial(one.receive_description, "answer"), needs="answer"),
    ]
    answering = [
        Step(other, "setRemoteDescription(offer)", partial(other.receive_description, "offer"), needs="offer"),
        Step(other, "createAnswer", other.create_answer),
        Step(other, "setLocalDescription(answer)", other.set_local_description),
        Step(other, "send the answer", other.send_description, sends="answer"),
    ]
    return in_turns(asking, answering)


async def _create_offer(one: Peer, other: Peer) -> loopback.Done:
    """Write down what this peer would like to send and receive from now on. Each m-line that was there stays where it
    was; a new track has one more, behind them."""
    for peer in (one, other):
        if peer.listening:  # for a bye: it would take the second offer, and refuse it
            await cancelled(peer.listening)
    return await one.create_offer()


async def added(call: Call, source: Source) -> OutgoingTrack:
    """Give pc1 one more track to send. It ends with the call."""
    track = OutgoingTrack(source)
    call.pc1.tasks.append(asyncio.create_task(_retired_with(track)))
    await asyncio.sleep(0)  # a task that has not begun would be cancelled without its `finally`
    await call.pc1.add_track(track)
    return track


async def _retired_with(track: OutgoingTrack) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await track.retire()


async def _without_reports(call: Call) -> None:
    with Tap(call, faults=[Cut(layer="SRTCP", who="pc2")]):
        await asyncio.Event().wait()


async def two_tracks() -> tuple[Call, RTCRtpTransceiver]:
    """Return a call with both tracks, agreed on and running for a moment, and what serves the second one's m-line. The
    second has grown meanwhile, from 160x120 to 240x180, so that its encoder is not the first one: aiortc makes a new
    one for each size, and each bit rate; what pc2 reports is cut, so that this one stays."""
    call = Call(SyntheticSource(320, 240, 30))
    call.pc1.tasks.append(asyncio.create_task(_without_reports(call)))
    try:
        await call.run()
        small = await added(call, SyntheticSource(160, 120, 30))
        await play(another_offer(call))
        await asyncio.sleep(0.3)
        line = transceiver_of(call.pc1, small)
        line.sender.replaceTrack(OutgoingTrack(SyntheticSource(240, 180, 30), replaces=small))
        await asyncio.sleep(0.3)
    except BaseException:
        await call.close()
        raise
    return call, line


def transceiver_of(peer: Peer, track: OutgoingTrack) -> RTCRtpTransceiver:
    """Return what serves the m-line on which a peer sends that track."""
    return next(one for one in peer.pc.getTransceivers() if one.sender.track is track)


# ---- Looking ---------------------------------------------------------------------------------------------------------


def _size(picture: Picture) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


@contextlib.contextmanager
def _heard(call: Call) -> Iterator[list[tuple[float, str]]]:
    """While entered, note when pc2 gets a picture, and of which size; whoever was told before is told still."""
    found: list[tuple[float, str]] = []
    before = call.pc2.on_picture

    def note(picture: Picture) -> None:
        found.append((call.log.now(), _size(picture)))
        before(picture)

    call.pc2.on_picture = note
    try:
        yield found
    finally:
        call.pc2.on_picture = before


class Arrivals(Counter[str]):
    """How many pictures came, by size, "320x240"; the largest first."""

    def __repr__(self) -> str:
        sizes = sorted(self, key=lambda size: -int(size.partition("x")[0]))
        return ", ".join(f"{size}: ≈{self[size]} pictures" for size in sizes) or "no pictures"


async def arrivals(call: Call, seconds: float = 0.4, *, begin: float = 0.1) -> Arrivals:
    """Return how many pictures pc2 gets in that time. What is still under way gets `begin` seconds to arrive first."""
    await asyncio.sleep(begin)
    with _heard(call) as found:
        await asyncio.sleep(seconds)
    return Arrivals(size for _, size in found)


async def longest_gap(call: Call, seconds: float) -> dict[str, float]:
    """Return, by size, the longest time in which pc2 got no picture, in s; the end counts, too."""
    began = call.log.now()
    with _heard(call) as found:
        await asyncio.sleep(seconds)
    ended = call.log.now()
    gaps = {}
    for size in sorted({size for _, size in found}):
        times = [began, *(t for t, one in found if one == size), ended]
        gaps[size] = max(later - earlier for earlier, later in itertools.pairwise(times))
    return gaps


def directions(sdp: str) -> list[str]:
    """Return the direction of each m-line of a description."""
    return [line for part in sections(sdp)[1:] for line in DIRECTIONS if f"a={line}" in part.lines]


def m_lines(call: Call) -> Table:
    """Show each m-line of a call: what each side wants, what was agreed, and what each sends."""
    one, two = (peer.pc.getTransceivers() for peer in call.peers)
    rows = []
    for number, (mine, theirs) in enumerate(itertools.zip_longest(one, two)):
        rows.append(
            (
                f"{number}: {mine.kind if mine else theirs.kind}",
                *(_wants(side) for side in (mine, theirs)),
                *(_agreed(side) for side in (mine, theirs)),
                *(_sends(side) for side in (mine, theirs)),
            )
        )
    head = ("m-line", "pc1 wants", "pc2 wants", "agreed, at pc1", "agreed, at pc2", "pc1 has", "pc2 has")
    return Table(head, [("", rows)], (12, 13, 13, 15, 15, 16, 16))


def _wants(side: RTCRtpTransceiver | None) -> str:
    return side.direction if side else "(knows nothing of it)"


def _agreed(side: RTCRtpTransceiver | None) -> str:
    return (side.currentDirection or "not yet") if side else "not yet"


def _sends(side: RTCRtpTransceiver | None) -> str:
    track = side.sender.track if side else None
    if track is None:
        return "no track"
    return f"{track.source.label} {track.source.width}x{track.source.height}" if hasattr(track, "source") else "a track"


@contextlib.contextmanager
def overheard(name: str) -> Iterator[list[str]]:
    """While entered, collect what a library's logger has to say from WARNING on: the last line of each, for a traceback
    tells its cause there. It is kept from the screen."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage().strip().splitlines()[-1])

    logger, handler = logging.getLogger(name), Keep(logging.WARNING)
    spread = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.propagate = spread


# ---- One loss --------------------------------------------------------------------------------------------------------


def ssrc_of(sender: RTCRtpSender) -> int:
    """Return the number that a sender's packets carry."""
    return private.sending(sender).ssrc


class OneLoss(Cut):
    """Loses one packet: the `number`th that pc1 sends with this SSRC."""

    def __init__(self, number: int, ssrc: int) -> None:
        super().__init__(layer="SRTP", who="pc1")
        self.number, self.ssrc, self.seen = number, ssrc, 0

    def concerns(self, datagram: Datagram) -> bool:
        """Whether it is that packet."""
        if not super().concerns(datagram) or int.from_bytes(datagram.data[8:12], "big") != self.ssrc:
            return False
        self.seen += 1
        return self.seen == self.number


def without_rtx(peer: Peer) -> None:
    """Take video/rtx out of what a peer offers from now on: what is asked for again comes with its own SSRC."""
    for transceiver in peer.pc.getTransceivers():
        codecs = [codec for codec in RTCRtpSender.getCapabilities("video").codecs if codec.mimeType == "video/VP8"]
        transceiver.setCodecPreferences(codecs)


async def after_one_loss(*, rtx: bool, stock: bool = True, seconds: float = 1.2) -> dict[str, str]:
    """Send two tracks over one connection and lose one packet of the first; return what became of each in that
    time. With `rtx` a packet that is asked for again comes on a stream of its own (RFC 4588); `stock` takes
    aiortc's own jitter buffer."""
    call = Call(SyntheticSource(320, 240, 30), marker_bit=not stock)
    first, *others = call.steps
    try:
        await first.run()
        await added(call, SyntheticSource(240, 180, 30))
        if not rtx:
            without_rtx(call.pc1)
        await play(others)
        await asyncio.sleep(0.3)
        with Tap(call, faults=[OneLoss(3, ssrc_of(call.pc1.pc.getSenders()[0]))]):
            gaps = await longest_gap(call, seconds)
    finally:
        await call.close()
    sizes = {"first": "320x240", "second": "240x180"}
    return {name: _fate(gaps.get(size, seconds), seconds) for name, size in sizes.items()}


def _fate(gap: float, seconds: float) -> str:
    if gap > 0.85 * seconds:
        return "stands still for good"
    return "stood still for about half a second" if gap > 0.4 else "goes on"


# ---- Directions ------------------------------------------------------------------------------------------------------


def agreed(offered: str, wanted: str) -> str:
    """Return the direction in the answer to an m-line offered as `offered`, by somebody who wants `wanted`: what both
    want, seen from the one who answers (RFC 3264 section 6.1, RFC 9429 section 5.3.1)."""
    seen = MIRRORED.get(offered, offered)
    sends, receives = (all(one in ("sendrecv", way) for one in (seen, wanted)) for way in ("sendonly", "recvonly"))
    return {(True, True): "sendrecv", (True, False): "sendonly", (False, True): "recvonly"}.get(
        (sends, receives), "inactive"
    )


def direction_table() -> Table:
    """Show the answer to each offer, for each that the answering side may want."""
    rows = [(offered, *(agreed(offered, wanted) for wanted in DIRECTIONS)) for offered in DIRECTIONS]
    return Table(
        ("offered", *(f"I want {wanted}" for wanted in DIRECTIONS)),
        [("", rows)],
        (20, 20, 20, 20, 20),
        code=(0, 1, 2, 3, 4),
    )

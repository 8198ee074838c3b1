"""A call over a bad network, for lesson 06: faults that strike a chosen packet, a link with one queue, and experiments
that run a call over them and keep what there is to see."""

from __future__ import annotations

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import itertools
import json
import logging
import math
import statistics
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiortc
import av
import cv2
import numpy as np
from aiortc.codecs.vpx import Vp8Decoder, Vp8Encoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import VIDEO_TIME_BASE
from IPython.display import Image

from loopback import Call, Picture, SyntheticSource, cancelled, to_frame, to_picture

from . import private
from .draw import BAD, HUES, INK, Drawing, Table, chart, still
from .faults import Cut, Delay, Loss, WireFault
from .rtp import Stopwatch, Stream, opened, way
from .wire import Datagram, Fault, Forward, Later, Tap

__all__ = [
    *("BEGIN", "From", "LoseOne", "Narrow", "Trial", "at_bitrate", "both_reported", "delays_over_time", "dots", "far"),
    *(
        "growing",
        "in_parallel",
        "jittered",
        "late_call",
        "lost_repair",
        "nearest",
        "psnr",
        "share_figure",
        "stats_table",
        "sweep",
    ),
    *("narrow_figure", "reported", "trial", "unread"),
]

BEGIN = 10  # the number of the picture with which a fault begins: the first ones get through


# ---- Faults ----------------------------------------------------------------------------------------------------------


def timestamp_of(datagram: Datagram) -> int:
    """Return the RTP timestamp, which SRTP leaves in clear."""
    return int(struct.unpack(">L", datagram.data[4:8])[0])


class Counted(WireFault):
    """Knows at which of pc1's pictures the wire is, from the headers that go by: 0 at the first."""

    def __init__(self, begin: int, **only: str) -> None:
        super().__init__(0, **only)
        self.begin, self.picture = begin, -1
        self._timestamp: int | None = None
        self.is_new = False  # whether the packet now on the wire begins a picture

    def concerns(self, datagram: Datagram) -> bool:
        """Count pictures, and say whether the fault has begun and may strike this datagram."""
        if datagram.who == "pc1" and datagram.direction == "out" and datagram.codec in ("VP8", "H264"):
            self.is_new = timestamp_of(datagram) != self._timestamp
            self.picture += self.is_new
            self._timestamp = timestamp_of(datagram)
        return self.picture >= self.begin and super().concerns(datagram)


class From(Counted):
    """Another fault, which begins with a picture, and ends before another one."""

    def __init__(self, fault: Fault, begin: int = BEGIN, end: float = float("inf")) -> None:
        super().__init__(begin)
        self.fault, self.end = fault, end

    def concerns(self, datagram: Datagram) -> bool:
        """Whether it is time, and the other fault may strike."""
        super().concerns(datagram)
        return self.begin <= self.picture < self.end and self.fault.concerns(datagram)

    def apply(self, datagram: Datagram, forward: Forward, later: Later) -> None:
        """Do what the other fault does."""
        self.fault.apply(datagram, forward, later)


class LoseOne(Counted):
    """Lose one packet: the first or the last of the first picture from `begin` on that has several."""

    def __init__(self, which: str = "first", begin: int = BEGIN) -> None:
        super().__init__(begin, layer="SRTP", who="pc1")
        if which not in ("first", "last"):
            raise ValueError(f"{which!r}: there are first and last")
        self.which = which
        self.struck: int | None = None  # the picture that it was

    def apply(self, datagram: Datagram, forward: Forward, later: Later) -> None:
        """Let the datagram pass, or not."""
        marker = bool(datagram.data[1] & 0x80)
        chosen = (self.is_new if self.which == "first" else not self.is_new) and marker == (self.which == "last")
        if datagram.codec != "rtx" and chosen and self.struck is None:
            self.struck = self.picture
            self.mark(datagram, dropped=True)
        else:
            forward()

    def __str__(self) -> str:
        return "lost"


class Narrow(WireFault):
    """A link that carries so many kbit/s, with one queue before it: what does not fit waits its turn, and nothing is
    thrown away. A datagram counts with the 28 bytes of its UDP and IP headers."""

    def __init__(self, kbps: float, **only: str) -> None:
        super().__init__(0, **only)
        if kbps <= 0:
            raise ValueError(f"a link of {kbps} kbit/s carries nothing")
        self.kbps = kbps
        self._queue: deque[tuple[Datagram, Forward, Later]] = deque()

    def apply(self, datagram: Datagram, forward: Forward, later: Later) -> None:
        """Let the datagram wait behind the others."""
        self.mark(datagram)
        self._queue.append((datagram, forward, later))
        if len(self._queue) == 1:
            self._carry()

    def _carry(self) -> None:
        datagram, _, later = self._queue[0]
        # One timer at a time: of several that are due together the order would be lost.
        later((datagram.size + 28) * 8 / self.kbps / 1000, self._arrived)

    def _arrived(self) -> None:
        _, forward, _ = self._queue.popleft()
        forward()
        if self._queue:
            self._carry()


def far(seconds: float = 0.02) -> list[Fault]:
    """Return a delay each way, as over a distance."""
    return [Delay(seconds)]


# ---- Trials ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def noted() -> Iterator[list[str]]:
    """Keep aiortc's words about pictures that it cannot decode from the cell, and give them as a list."""
    said: list[str] = []

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, note = logging.getLogger(aiortc.rtcrtpreceiver.__name__), Note()
    before = logger.propagate
    logger.addHandler(note)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.removeHandler(note)
        logger.propagate = before


class Trial:
    """A call over a network with faults: what was on the wire, opened, and when each picture was there."""

    def __init__(self, call: Call, faults: Sequence[Fault]) -> None:
        self.call, self.watch = call, Stopwatch(call)
        self.tap = Tap(call, faults=faults)
        self.faults = list(faults)
        self.stream = Stream()
        self.undecoded = 0  # frames that aiortc could not decode
        self.first, self.last = 0, 0  # the pictures that are looked at: from this number, and before that one
        self.stats: dict[str, dict[str, Any]] = {}  # what getStats said at the end, by peer and type
        self.waiting = private.Waiting(0, 0, 0)  # at pc2, at the end
        self.begun = 0.0  # when the first picture that is looked at was captured, on the log's clock

    @property
    def share(self) -> float:
        """The part of the pictures that arrived and could be read."""
        return self.watch.share(self.first, self.last)

    @property
    def lost(self) -> int:
        """How many of pc1's video packets were lost, repairs not counted."""
        return sum(packet.lost for packet in self.stream.of("VP8"))

    @property
    def delays(self) -> dict[int, float]:
        """Seconds from captured to there, by the pictures' numbers."""
        return {n: delay for n, delay in self.watch.delays(self.first).items() if n < self.last}

    @property
    def median_ms(self) -> float:
        """Median delay."""
        return statistics.median(self.delays.values()) * 1000 if self.delays else float("nan")

    @property
    def unevenness_ms(self) -> float:
        """How far apart from a picture's time the moments are at which pictures were shown: the mean difference."""
        times = [self.watch.shown[number] for number in sorted(self.delays)]
        return statistics.mean(abs(later - earlier - 1 / 30) for earlier, later in itertools.pairwise(times)) * 1000

    @property
    def struck(self) -> int:
        """The number of the picture that LoseOne has struck. Raises LookupError where it has not."""
        for fault in self.faults:
            if isinstance(fault, LoseOne) and fault.struck is not None:
                return fault.struck
        raise LookupError("no picture of this call has lost a packet to LoseOne")

    @property
    def after_loss(self) -> list[int]:
        """The numbers of the pictures that were shown, of those captured after the first loss."""
        lost = min(packet.sent for packet in self.stream.of("VP8") if packet.lost and packet.sent is not None)
        first = max(number for number, t in self.watch.captured.items() if t < lost)
        return [number for number in self.watch.shown if first <= number < self.last]

    @property
    def stood_still(self) -> float:
        """How many seconds pc2 had no new picture after the one that was struck; infinite where none came any more."""
        before = max(t for number, t in self.watch.shown.items() if number < self.struck)
        return min((t for number, t in self.watch.shown.items() if number >= self.struck), default=math.inf) - before

    def way(self, pictures: int) -> Drawing:
        """Draw what crossed from the picture that was struck on, for so many pictures."""
        captured = self.watch.captured
        return way(self.stream, captured[self.struck], captured[self.struck + pictures], self.watch.shown)

    def __repr__(self) -> str:
        asked = f"{len(self.stream.said('NACK'))} NACK, {len(self.stream.said('PLI'))} PLI"
        return f"≈{self.share:.0%} of the pictures from {self.first} to {self.last - 1}, ≈{asked}"


async def trial(
    *faults: Fault,
    pictures: int = 45,
    more: int = 6,
    first: int = BEGIN,
    marker_bit: bool = True,
    fps: float = 30,
    size: tuple[int, int] = (320, 240),
    also: Callable[[Trial], Awaitable[None]] | None = None,
) -> Trial:
    """Run a call with these faults on its wire until so many pictures were sent after the first ones, and so many more:
    a loss shows by what comes after it. Raises TimeoutError where this takes three times as long as it should."""
    call = Call(SyntheticSource(*size, fps), marker_bit=marker_bit)
    one = Trial(call, faults)
    one.first, one.last = first, first + pictures
    try:
        with one.tap, noted() as said:
            await call.run()
            async with asyncio.timeout(5 + 3 * (one.last + more) / fps):
                if also:
                    await also(one)
                while call.meter.sent < one.last + more:
                    await asyncio.sleep(0.005)
            one.begun = one.watch.captured[first]
            one.waiting = private.waiting(call.pc2)
            one.stats = {peer.name: await stats_of(peer) for peer in call.peers}
            one.stream = opened(call, one.tap)
            one.undecoded = len(said)
    finally:
        await call.close()
    return one


async def stats_of(peer: loopback.Peer) -> dict[str, Any]:
    """Return what a peer's getStats says of its streams, by type."""
    return {one.type: one for one in (await peer.pc.getStats()).values() if one.type != "transport"}


async def in_parallel(trials: Mapping[str, Awaitable[Trial]]) -> dict[str, Trial]:
    """Run several trials at once; return them by their names."""
    found = await asyncio.gather(*trials.values())
    return dict(zip(trials, found, strict=True))


async def lost_repair(marker_bit: bool = True, pictures: int = 30) -> Trial:
    """Lose one packet of picture 10, and every repair."""
    return await trial(*far(), LoseOne(), Cut(codec="rtx"), pictures=pictures, marker_bit=marker_bit)


# ---- Loss against pictures -------------------------------------------------------------------------------------------

RECORDED = Path(__file__).with_name("badnetwork_runs.json")
WAYS = {  # name -> (whether repairs get through, whether loopback's jitter buffer is used, colour)
    "repaired": (True, True, HUES["SRTP"]),
    "no repair, a key picture asked for": (False, True, HUES["message"]),
    "no repair, aiortc's own buffer": (False, False, BAD),
}


async def sweep(*rates: float, pictures: int = 45, seed: int = 11) -> dict[str, dict[float, Trial]]:
    """Run a call for each way and rate of loss, small ones and all at once; return the trials of each way, by rate."""
    trials = {}
    for name, (repaired, marker_bit, _) in WAYS.items():
        for rate in rates:
            faults = [From(Loss(rate, seed, layer="SRTP", who="pc1")), *([] if repaired else [Cut(codec="rtx")])]
            trials[f"{name} {rate}"] = trial(*faults, pictures=pictures, marker_bit=marker_bit, size=(160, 120))
    found = await in_parallel(trials)
    return {name: {rate: found[f"{name} {rate}"] for rate in rates} for name in WAYS}


def recorded_shares() -> dict[str, Any]:
    """Return a longer sweep that was recorded: with what, the rates, and the shares of each way."""
    stored: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return stored


def share_figure(found: Mapping[str, Mapping[float, Trial]]) -> Image:
    """Draw the part of the pictures that arrived against the part of the packets that were lost: a recorded sweep as
    lines, these trials as rings."""
    longer = recorded_shares()
    figure, axes = chart(330)
    for name, (_, _, colour) in WAYS.items():
        shares = [100 * share for share in longer["shares"][name]]
        axes.plot([100 * rate for rate in longer["rates"]], shares, ".-", color=colour, label=name, linewidth=2)
        for rate, one in found[name].items():
            axes.plot(100 * rate, 100 * one.share, "o", markersize=11, markerfacecolor="none", color=colour)
    axes.set(xlabel="% of pc1's packets lost", ylabel="% of the pictures there", ylim=(-4, 106), xlim=(0, 31))
    axes.set_title(f"rings: these calls; lines {longer['recorded']}", loc="left", fontsize=9)
    axes.legend(loc="center right", bbox_to_anchor=(1, 0.62))
    return still(figure)


def nearest(value: float, *choices: float) -> float:
    """Return the choice that a measured value is nearest to."""
    return min(choices, key=lambda choice: abs(choice - value))


# ---- What getStats says ----------------------------------------------------------------------------------------------


async def reported() -> Trial:
    """Run a small call in which a tenth of the video packets is lost and repaired, until pc2 has reported on both its
    streams, and pc1 knows the round trip."""

    async def both_known(one: Trial) -> None:
        while True:
            stats = await stats_of(one.call.pc1)
            reports = opened(one.call, one.tap).said("RR", who="pc2")
            known = "remote-inbound-rtp" in stats and stats["remote-inbound-rtp"].roundTripTime is not None
            if known and len(reports[-1].said.reports) == 2:
                return
            await asyncio.sleep(0.1)

    return await trial(From(Loss(0.1, codec="VP8")), pictures=30, size=(160, 120), also=both_known)


def stats_table(run: Trial) -> Table:
    """Return what aiortc's statistics said at the end of a trial, beside what the tap has counted. What the last column
    says was compared in this very run."""
    sent, repairs = run.stream.of("VP8"), run.stream.of("rtx")
    out, far_in = run.stats["pc1"]["outbound-rtp"], run.stats["pc1"]["remote-inbound-rtp"]
    near_in = run.stats["pc2"]["inbound-rtp"]
    # The newest report may still be on its way: pc1's statistics are of the one that it had.
    told = [(one.said.ssrc, b) for one in run.stream.said("RR", who="pc2") for b in one.said.reports]
    blocks = [(who, b) for who, b in reversed(told) if b.ssrc == sent[0].ssrc]
    heard = [(who, b) for who, b in blocks if (b.jitter, b.packets_lost) == (far_in.jitter, far_in.packetsLost)]
    reporter, block = (heard or blocks)[0]
    whole, rtt = sum(packet.size for packet in sent + repairs), far_in.roundTripTime

    def so(holds: bool, words: str) -> str:
        return words if holds else "not as expected"

    def row(name: str, says: object, tap: str, what: str) -> tuple[str, ...]:
        return name, says if isinstance(says, str) else f"≈{says}", tap, what

    about_repairs = near_in.ssrc == repairs[0].ssrc
    rows = [
        row(
            "pc1 outbound-rtp packetsSent",
            out.packetsSent,
            f"≈{len(sent)}, and ≈{len(repairs)} repairs",
            so(abs(out.packetsSent - len(sent)) < min(5, len(repairs) + 1), "without the repairs"),
        ),
        row("pc1 outbound-rtp bytesSent", out.bytesSent, f"≈{whole}", so(out.bytesSent < whole, "less: payload only")),
        row(
            "pc1 remote-inbound-rtp packetsLost",
            far_in.packetsLost,
            f"≈{block.packets_lost} in the report, ≈{run.lost} by now",
            so(far_in.packetsLost == block.packets_lost, "equal to the last report"),
        ),
        row(
            "pc1 remote-inbound-rtp fractionLost",
            far_in.fractionLost,
            f"≈{block.fraction_lost} of 256 in the report",
            so(far_in.fractionLost == block.fraction_lost, "0 to 255; W3C: 0 to 1"),
        ),
        row(
            "pc1 remote-inbound-rtp jitter",
            far_in.jitter,
            f"≈{block.jitter} ticks are ≈{block.jitter / 90:.1f} ms",
            so(far_in.jitter == block.jitter, "ticks; W3C: seconds"),
        ),
        row(
            "pc1 remote-inbound-rtp roundTripTime",
            "none yet" if rtt is None else f"≈{rtt:.4f}",
            "",
            "seconds, as in W3C",
        ),
        row(
            "pc1 remote-inbound-rtp ssrc",
            "pc2's own" if far_in.ssrc == reporter else "pc1's",
            "the report is about pc1's",
            so(far_in.ssrc == reporter, "W3C: that of the stream"),
        ),
        row(
            "pc2 inbound-rtp ssrc",
            "that of the repairs" if about_repairs else "that of the pictures",
            "pc2 receives both",
            so(about_repairs, "one has replaced the other"),
        ),
        row(
            "pc2 inbound-rtp packetsLost", f"{near_in.packetsLost}", f"≈{run.lost}", so(run.lost > 0, "of the repairs")
        ),
    ]
    return Table(("statistic", "says", "the tap", "so"), [("", rows)], (32, 20, 24, 24), code=(0,))


# ---- A narrow link ---------------------------------------------------------------------------------------------------


def narrow_figure(found: Mapping[str, Trial], kbps: float) -> Image:
    """Draw what pc1 puts into a narrow link, and how late pictures come out, over time."""
    figure, axes = chart(470)
    axes.remove()
    above, below = figure.subplots(2, 1, sharex=True)
    colours = dict(zip(found, (HUES["SRTP"], BAD), strict=False))
    for one in (above, below):
        one.set_facecolor("none")
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["bottom", "left"]].set_color(INK)
        one.tick_params(colors=INK, labelcolor=INK)
    for name, run in found.items():
        sent = [(packet.sent - run.begun, packet.size + 28) for packet in run.stream.packets if packet.sent]
        edges = np.arange(0, sent[-1][0], 0.25)
        per = [sum(size for t, size in sent if edge <= t < edge + 0.25) * 8 / 250 for edge in edges]
        above.stairs(per[:-1], edges, baseline=None, color=colours[name], linewidth=2, label=name)
        times, late = zip(*delays_over_time(run), strict=True)
        below.plot(times, late, color=colours[name], linewidth=2)
    above.axhline(kbps, color=INK, linewidth=1, linestyle="--")
    above.text(0, kbps * 0.97, f"the link carries {kbps:g}", va="top")  # where both are above it
    above.set(ylabel="kbit/s from pc1", ylim=(0, None))
    below.set(ylabel="delay of a picture, ms", xlabel="s after the link became narrow", ylim=(0, None))
    above.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    return still(figure)


def growing(run: Trial) -> bool:
    """Whether the delay grew to more than half a second, and was still growing in the second half."""
    late = [delay for _, delay in delays_over_time(run)]
    return late[-1] > max(500, 1.4 * late[len(late) // 2])


def delays_over_time(run: Trial) -> list[tuple[float, float]]:
    """Return, for each picture that arrived, when it was captured, in s after the first that is looked at, and its
    delay in ms."""
    return [(run.watch.captured[n] - run.begun, delay * 1000) for n, delay in run.delays.items()]


# ---- Jitter ----------------------------------------------------------------------------------------------------------


async def jittered(*most: float) -> dict[str, Trial]:
    """Run small calls, all at once, whose packets take up to so many ms longer: with either jitter buffer."""
    trials = {}
    for ms in most:
        for name in ("marker", "stock"):
            late = Delay(0.001, ms / 1000, layer="SRTP", who="pc1")
            trials[f"{ms:g} ms, {name}"] = trial(late, pictures=36, marker_bit=name == "marker", size=(160, 120))
    return await in_parallel(trials)


def dots(found: Mapping[str, Trial]) -> Image:
    """Draw the delay of every picture of each trial as a dot, and the median as a bar."""
    figure, axes = chart(60 + 40 * len(found))
    axes.invert_yaxis()
    axes.set_xlabel("ms from captured to shown; a dot is a picture, the bar is the median")
    for row, (name, run) in enumerate(found.items()):
        late = [delay * 1000 for delay in run.delays.values()]
        colour = HUES["SRTP"] if "marker" in name else HUES["STUN"]
        spread = row + np.linspace(-0.25, 0.25, len(late))
        axes.scatter(late, spread, s=9, color=colour, alpha=0.6, linewidths=0)
        axes.plot([run.median_ms] * 2, [row - 0.36, row + 0.36], color=INK, linewidth=3)
    axes.set_yticks(range(len(found)), list(found))
    axes.set_xlim(0)
    return still(figure)


# ---- Queues ----------------------------------------------------------------------------------------------------------


async def unread(call: Call, moments: int = 3, seconds: float = 0.5) -> list[private.Waiting]:
    """Stop reading pc2's track; return what waits at pc2 after each of so many pauses."""
    await cancelled(*[task for task in call.pc2.tasks if task is not call.pc2.listening])
    found = []
    for _ in range(moments):
        await asyncio.sleep(seconds)
        found.append(private.waiting(call.pc2))
    return found


async def both_reported(call: Call, tap: Tap, within: float = 5.0) -> Stream:
    """Wait until a sender report of each of pc1's two streams was seen, and return what was. Raises TimeoutError."""
    async with asyncio.timeout(within):
        while True:
            stream = opened(call, tap)
            if len({one.said.ssrc for one in stream.said("SR", who="pc1")}) == 2:
                return stream
            await asyncio.sleep(0.1)


async def late_call() -> dict[str, int]:
    """Run a call whose pictures come ever later; return what waits where then."""
    one = await trial(From(Narrow(250, layer="SRTP", who="pc1"), 5), Cut(layer="SRTCP", who="pc2"), pictures=32, more=0)
    return {
        "sent by pc1, not at pc2 yet": sum(packet.received is None for packet in one.stream.of("VP8")),
        "packets in pc2's jitter buffer": one.waiting.packets,
        "put together, not decoded": one.waiting.frames,
        "decoded, not read": one.waiting.pictures,
    }


# ---- The price of a bit rate -----------------------------------------------------------------------------------------


def at_bitrate(kbps: int, pictures: int = 45, size: tuple[int, int] = (320, 240)) -> tuple[Picture, Picture, int]:
    """Encode the test picture with aiortc's VP8 encoder, without a call; return the last picture as it was, as it came
    out, and the bytes that all took."""
    encoder, decoder, source = Vp8Encoder(), Vp8Decoder(), SyntheticSource(*size, 30)
    encoder.target_bitrate = kbps * 1000
    made = 0
    for number in range(pictures):
        before = source.draw(number / 30)
        frame = to_frame(before)
        frame.pts, frame.time_base = number * 3000, VIDEO_TIME_BASE
        payloads, timestamp = encoder.encode(frame)
        made += sum(map(len, payloads))
        # Without the descriptor: 4 bytes, as aiortc writes it, with a picture number of 15 bits.
        whole = JitterFrame(b"".join(payload[4:] for payload in payloads), timestamp)
        decoded = decoder.decode(whole)
    last = decoded[-1]
    assert isinstance(last, av.VideoFrame)
    return before, to_picture(last), made


def psnr(one: Picture, other: Picture) -> float:
    """Return how alike two pictures are, in dB: the peak signal to noise ratio."""
    return float(cv2.PSNR(one, other))

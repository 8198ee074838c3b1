"""RTP and RTCP in the clear, for lesson 06: the packets of each picture, one packet's way, the pipe, the reports.

with Tap(call) as tap: ...
stream = opened(call, tap)              every packet and report, decrypted, in order
packet_table(stream.pictures[0])        the packets of the first picture
way(stream, since, until)               who sent what when, and when it came: a figure with a slider
pipe({"marker": one, "stock": other})   how many milliseconds a picture spends where
"""

from __future__ import annotations

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import functools
import itertools
import statistics
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pylibsrtp
from aiortc.mediastreams import VIDEO_CLOCK_RATE
from aiortc.rtp import RtcpPacket, RtcpPsfbPacket, RtcpRrPacket, RtcpRtpfbPacket, RtcpSrPacket, unpack_remb_fci
from IPython.display import Image

from loopback import Call, Picture, is_key_picture, read_time_code

from . import private
from .draw import BAD, HUES, INK, SOFT, Canvas, Drawing, Moment, Table, chart, still, text_width
from .packets import decode, told
from .wire import Datagram, Tap

__all__ = [
    *("Clocks", "Packet", "Report", "Stopwatch", "Stream", "clocks", "media_table", "opened"),
    *("packet_bars", "packet_table", "pipe", "report_table", "stages", "ticks", "way"),
]

FULL = 1340  # bytes: what aiortc cuts to, 1,300 of VP8, with the headers and the tag
KEY, DELTA, REPAIR = HUES["message"], "#8a93a0", HUES["SRTP"]


# ---- Opened ----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Packet:
    """One RTP packet, opened: `sent` and `received` in seconds on the log's clock, None where it was not seen there."""

    who: str  # the sender
    sent: float | None
    received: float | None
    codec: str  # what the SDP calls its payload type: VP8, rtx, opus
    number: int  # sequence number
    timestamp: int
    marker: bool
    ssrc: int
    size: int  # bytes on the wire, without UDP and IP
    data: bytes  # what the header is followed by: of rtx, the two bytes of the old number first
    lost: bool = False

    @property
    def repairs(self) -> int | None:
        """The number of the packet that a repair brings again (RFC 4588 section 4); None for others."""
        return int.from_bytes(self.data[:2], "big") if self.codec == "rtx" else None

    @property
    def payload(self) -> bytes:
        """VP8's payload descriptor and what follows it."""
        return self.data[2:] if self.codec == "rtx" else self.data

    @property
    def starts(self) -> bool:
        """Whether a VP8 picture begins here: the bit S, of partition 0 (RFC 7741 section 4.2)."""
        return bool(self.payload) and bool(self.payload[0] & 0x10) and not self.payload[0] & 0x07

    @property
    def coded(self) -> bytes:
        """What is left without the payload descriptor: a piece of the encoded picture."""
        head = decode(struct.pack(">BBHLL", 128, 0, 0, 0, 0) + self.payload, protected=False, codec="VP8")
        length = next((one.length for one in head if one.name == "VP8 payload descriptor"), 0)
        return self.payload[length:]

    @property
    def key(self) -> bool:
        """Whether a key picture begins here: one that needs no earlier picture."""
        return self.starts and is_key_picture(self.coded)

    def __repr__(self) -> str:
        first = "key picture begins, " if self.key else "picture begins, " if self.starts else ""
        return f"{self.codec} seq {self.number}, {first}{'marker, ' * self.marker}≈{self.size} bytes"


@dataclass(eq=False)
class Report:
    """One RTCP packet, opened: a report or a request. A datagram may hold several."""

    who: str  # the sender
    sent: float | None
    received: float | None
    kind: str  # SR, RR, SDES, BYE, NACK, PLI, REMB
    said: Any  # as aiortc parses it
    plain: bytes  # the whole datagram, opened
    lost: bool = False

    @property
    def asked(self) -> list[int]:
        """The numbers that a NACK asks for; none of others."""
        return list(self.said.lost) if self.kind == "NACK" else []

    @property
    def bits(self) -> int:
        """The bits a second that a REMB allows; 0 of others."""
        return int(unpack_remb_fci(self.said.fci)[0]) if self.kind == "REMB" else 0

    def __repr__(self) -> str:
        return f"{self.who} {self.kind}"


@dataclass(eq=False)
class Stream:
    """What a tap has seen, opened: packets and reports in the order they were sent."""

    packets: list[Packet] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    def of(self, codec: str, who: str = "pc1") -> list[Packet]:
        """Return the packets of one codec that a peer sent; "rtx" are the repairs."""
        return [packet for packet in self.packets if packet.codec == codec and packet.who == who]

    def said(self, *kinds: str, who: str | None = None) -> list[Report]:
        """Return the reports of these kinds."""
        return [report for report in self.reports if report.kind in kinds and who in (None, report.who)]

    @functools.cached_property
    def pictures(self) -> list[list[Packet]]:
        """pc1's video packets, a list for each picture: they share a timestamp. Repairs are not among them."""
        found: dict[int, list[Packet]] = {}
        for packet in self.packets:
            if packet.who == "pc1" and packet.codec in ("VP8", "H264"):
                found.setdefault(packet.timestamp, []).append(packet)
        return list(found.values())


def opened(call: Call, tap: Tap, since: float = 0.0) -> Stream:
    """Return what the tap has seen since that second, opened with the keys of the call's peers; the call must still be
    connected. What cannot be opened, a datagram from before the handshake was over or of somebody else, is left out.
    """
    sessions = {"pc1": private.srtp_sessions(call.pc2).incoming, "pc2": private.srtp_sessions(call.pc1).incoming}
    seen: dict[bytes, list[Datagram]] = {}
    for one in tap.datagrams:
        if one.t >= since and one.layer in ("SRTP", "SRTCP"):
            seen.setdefault(one.data, []).append(one)
    stream = Stream()
    for sightings in seen.values():
        first = sightings[0]
        sender = first.who if first.direction == "out" else {"pc1": "pc2", "pc2": "pc1"}[first.who]
        sent, received = (next((d.t for d in sightings if d.direction == way), None) for way in ("out", "in"))
        facts = sender, sent, received
        lost = any(d.dropped for d in sightings)
        try:
            if first.layer == "SRTP":
                plain = sessions[sender].unprotect(first.data)
                stream.packets.append(_packet(facts, first, plain, lost))
            else:
                plain = sessions[sender].unprotect_rtcp(first.data)
                stream.reports += [Report(*facts, _kind(one), one, plain, lost) for one in RtcpPacket.parse(plain)]
        except pylibsrtp.Error:
            continue
    return stream


def _packet(facts: tuple[str, float | None, float | None], datagram: Datagram, plain: bytes, lost: bool) -> Packet:
    first, second, number, timestamp, ssrc = struct.unpack(">BBHLL", plain[:12])
    start = 12 + 4 * (first & 15)
    if first & 16:  # a header extension, with its length in words (RFC 3550 section 5.3.1)
        start += 4 + 4 * int.from_bytes(plain[start + 2 : start + 4], "big")
    names = datagram.codec, number, timestamp, bool(second >> 7), ssrc
    return Packet(*facts, *names, datagram.size, plain[start:], lost)


def _kind(packet: Any) -> str:
    if isinstance(packet, RtcpRtpfbPacket):
        return "NACK" if packet.fmt == 1 else f"RTPFB {packet.fmt}"
    if isinstance(packet, RtcpPsfbPacket):
        return {1: "PLI", 4: "FIR", 15: "REMB"}.get(packet.fmt, f"PSFB {packet.fmt}")
    names = {RtcpSrPacket: "SR", RtcpRrPacket: "RR"}
    return names.get(type(packet), type(packet).__name__.removeprefix("Rtcp").removesuffix("Packet").upper())


def ticks(later: int, earlier: int, bits: int = 32) -> int:
    """Return how far a counter of so many bits went, which begins anew at its end: a timestamp, a sequence number."""
    distance = (later - earlier) % 2**bits
    return distance - 2**bits if distance >= 2 ** (bits - 1) else distance


# ---- Tables ----------------------------------------------------------------------------------------------------------


def packet_table(packets: Sequence[Packet]) -> Table:
    """Return packets as a table; numbers and times as counted from the first."""
    first, rows = packets[0], []
    for packet in packets:
        inside = "a key picture begins" if packet.key else "a picture begins" if packet.starts else "it goes on"
        when = (packet.sent or 0) - (first.sent or 0)
        rows.append(
            (
                f"first + {ticks(packet.number, first.number, 16)}",
                f"first + {ticks(packet.timestamp, first.timestamp)}",
                "1, the last" if packet.marker else "0",
                f"{packet.size}" if packet.size == FULL else f"≈{packet.size}",
                packet.payload[:2].hex(" "),
                inside,
                f"≈{when * 1000:.1f} ms",
            )
        )
    head = ("sequence number", "timestamp", "marker", "bytes", "payload begins", "which says", "sent")
    return Table(head, [("", rows)], (15, 15, 12, 10, 20, 18, 10), code=(4,))


def report_table(report: Report) -> Table:
    """Return the fields of the RTCP datagram that a report came in."""
    decoded, rows = decode(report.plain, protected=False), []
    for one in decoded:
        if one.name not in ("first byte", "length", "content"):
            stream = "SSRC" in one.name and one.length == 4 and one.value
            rows.append((one.name, f"SSRC {one.value}" if stream else told(decoded, one), one.meaning))
    return Table(("field", "value", "meaning"), [("", rows)], (25, 25, 50))


# ---- Pictures as packets ---------------------------------------------------------------------------------------------


def packet_bars(stream: Stream, count: int = 40) -> Image:
    """Draw the first pictures, a column each: one block a packet, as high as it has bytes."""
    figure, axes = chart(300)
    for place, packets in enumerate(stream.pictures[:count]):
        bottom = 0
        for packet in packets:
            colour = KEY if packets[0].key else DELTA
            axes.bar(place, packet.size - 40, bottom=bottom + 20, width=0.75, color=colour)
            bottom += packet.size
    for colour, words in ((KEY, "key picture: needs no other"), (DELTA, "needs the pictures before it")):
        axes.bar(0, 0, color=colour, label=words)
    axes.set(xlabel="picture", ylabel="bytes sent; a block is a packet", xlim=(-0.8, count - 0.2))
    axes.legend(loc="upper right")
    return still(figure)


# ---- One packet's way ------------------------------------------------------------------------------------------------

LEFT, TOP, BETWEEN = 84, 62, 190  # pixels: before the time axis, above pc1's line, from there to pc2's


class Crossing(NamedTuple):
    """Something that went from one peer to the other, or was lost between."""

    who: str
    sent: float
    received: float | None
    words: str
    colour: str
    wide: float


def way(stream: Stream, since: float, until: float, shown: Mapping[int, float] | None = None) -> Drawing:
    """Draw what crossed between two moments of the log's clock: packets downwards from pc1, reports upwards from pc2.
    `shown` has the moments at which pictures were there, by their number."""
    bottom = TOP + BETWEEN + 66
    canvas = Canvas(980, bottom + 62)
    scale = (canvas.axes.get_xlim()[1] - LEFT - 30) / (until - since)

    def x(t: float) -> float:
        return LEFT + (min(max(t, since), until) - since) * scale

    lines = {"pc1": TOP, "pc2": TOP + BETWEEN}
    for name, y in lines.items():
        canvas.text(16, y, name, pixels=15, weight="bold")
        canvas.line((LEFT, 980 - 24), (y, y), INK, 1.5)
    moments, taken = [], {"pc1": [-99.0] * 3, "pc2": [-99.0] * 3}
    for one in crossings(stream, since, until):
        here, there = lines[one.who], lines["pc2" if one.who == "pc1" else "pc1"]
        moments.append(Moment(one.sent, x(one.sent) + 3))
        _draw_crossing(canvas, one, x, here, there)
        if one.words:
            _write_beside(canvas, one, x(one.sent), here, taken[one.who])
    there: dict[float, list[int]] = {}  # those of nearly the same moment share a label
    for number, t in sorted((shown or {}).items(), key=lambda one: one[1]):
        if since <= t <= until:
            moments.append(Moment(t, x(t) + 3))
            canvas.text(x(t), bottom, "●", colour=KEY, pixels=13, align="center")
            near = next((place for place in there if abs(place - x(t)) < 26), x(t))
            there.setdefault(near, []).append(number)
    for place, numbers in there.items():
        words = ", ".join(map(str, numbers)) if len(numbers) < 3 else f"{numbers[0]} to {numbers[-1]}"
        canvas.text(place, bottom + 17, words, colour=KEY, pixels=11, align="center")
    if shown:
        canvas.text(14, bottom, "pictures", colour=KEY, pixels=11.5)
    span = until - since
    step = 10 if span < 0.15 else 20 if span < 0.3 else 100 if span < 1.2 else 200  # ms
    for mark in range(0, int(span * 1000) + 1, step):
        canvas.text(x(since + mark / 1000), bottom + 42, f"{mark}", colour=SOFT, pixels=11, align="center")
    canvas.text(14, bottom + 42, "ms", colour=SOFT, pixels=11)
    return Drawing(canvas, "one packet's way", moments, downwards=False)


def crossings(stream: Stream, since: float, until: float) -> list[Crossing]:
    """Return what was sent between two moments, with words for what is not just the next packet."""
    found = []
    lost = {packet.number for packet in stream.of("VP8") if packet.lost}
    for packet in stream.packets:
        if packet.sent is None or not since <= packet.sent <= until or packet.who != "pc1":
            continue
        repair = packet.codec == "rtx"
        words = "lost" if packet.lost else ""
        if repair:
            words = "the repair, lost too" if packet.lost else "the repair (RTX)"
        elif packet.key and packet is not stream.packets[0]:
            words = "a key picture"
        colour = BAD if packet.lost else REPAIR if repair else KEY if packet.key else DELTA
        wide = 2.4 if packet.lost or repair or packet.key else 1.2
        found.append(Crossing("pc1", packet.sent, None if packet.lost else packet.received, words, colour, wide))
    for report in stream.said("NACK", "PLI"):
        if report.sent is not None and since <= report.sent <= until:
            words = f"{report.kind}: {'it is missing' if set(report.asked) & lost else 'send a key picture'}"
            if report.kind == "NACK" and not set(report.asked) & lost:
                words = "NACK, needless"
            arrived = None if report.lost else report.received
            found.append(Crossing(report.who, report.sent, arrived, words, HUES["SRTCP"], 2.4))
    return sorted(found, key=lambda one: one.sent)


def _draw_crossing(canvas: Canvas, one: Crossing, x: Callable[[float], float], here: float, there: float) -> None:
    if one.received is None:
        middle = here + (there - here) * 0.45
        canvas.line((x(one.sent), x(one.sent) + 6), (here, middle), one.colour, one.wide)
        canvas.cross(x(one.sent) + 6, middle)
    else:
        canvas.arrow((x(one.sent), here), (x(one.received), there), one.colour, one.wide)


def _write_beside(canvas: Canvas, one: Crossing, x: float, y: float, taken: list[float]) -> None:
    """Write what an arrow is at its beginning, in the first of the rows that has room: above pc1, below pc2."""
    width = text_width(one.words, 11.5)
    left = min(x - 4, 950 - width)
    row = next((row for row, end in enumerate(taken) if end < left), len(taken) - 1)
    taken[row] = left + width + 8
    canvas.text(left, y + (-1 if one.who == "pc1" else 1) * (16 + 15 * row), one.words, colour=one.colour, pixels=11.5)


# ---- The pipe --------------------------------------------------------------------------------------------------------


class Stopwatch:
    """Notes, for each picture of a call, when it was captured and when pc2 had it, on the log's clock. Made before the
    first picture."""

    def __init__(self, call: Call) -> None:
        self.log = call.log
        self.captured: dict[int, float] = {}  # number of the picture -> s
        self.shown: dict[int, float] = {}
        self.unreadable = 0
        on_sent, on_received = call.meter.on_sent, call.meter.on_received

        def sent(captured_at: float) -> int:
            number = on_sent(captured_at)
            self.captured[number] = captured_at - self.log.start
            return number

        def received(picture: Picture) -> None:
            number = read_time_code(picture)
            if number is None:
                self.unreadable += 1
            else:
                self.shown.setdefault(number, self.log.now())
            on_received(picture)

        call.meter.on_sent = sent  # type: ignore[method-assign]
        call.pc2.on_picture = received

    def delays(self, first: int = 0) -> dict[int, float]:
        """Return the seconds from captured to there, of each picture from that number on that arrived."""
        both = self.captured.keys() & self.shown.keys()
        return {n: self.shown[n] - self.captured[n] for n in sorted(both) if n >= first}

    def share(self, first: int, last: int) -> float:
        """Return the part of the pictures from one number to before another that arrived and could be read."""
        return sum(number in self.shown for number in range(first, last)) / max(last - first, 1)


STAGES = {  # what a picture goes through, and its colour
    "convert, encode": HUES["message"],
    "cut, encrypt, send": HUES["DTLS"],
    "on the way": HUES["STUN"],
    "put together, decode, show": HUES["SRTP"],
}


def stages(stream: Stream, watch: Stopwatch, first: int = 5) -> list[dict[str, float]]:
    """Return, for each picture from that number on that arrived without a repair, the seconds it spent in each stage.
    The picture in the camera and the packets on the wire are matched by their timestamps."""
    origin = next(packet.timestamp for packet in stream.packets if packet.codec == "VP8")
    by_time = {ticks(packets[0].timestamp, origin): packets for packets in stream.pictures}
    found = []
    for number, shown in watch.shown.items():
        if number < first or number not in watch.captured:
            continue
        due = round((watch.captured[number] - watch.captured[0]) * VIDEO_CLOCK_RATE)
        packets = by_time.get(due)
        if not packets or any(one.received is None or one.sent is None for one in packets):
            continue
        times = [watch.captured[number], packets[0].sent, packets[-1].sent, packets[-1].received, shown]
        spans = [later - earlier for earlier, later in itertools.pairwise(times)]
        found.append(dict(zip(STAGES, spans, strict=True)))
    return found


def pipe(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> Image:
    """Draw, for each run, the median milliseconds that a picture spends in each stage, one after the other."""
    figure, axes = chart(90 + 60 * len(runs))
    axes.set_xlabel("ms from captured to shown, median of each stage")
    axes.invert_yaxis()
    for row, pictures in enumerate(runs.values()):
        left = 0.0
        for name, colour in STAGES.items():
            width = statistics.median(one[name] for one in pictures) * 1000
            axes.barh(row, width, left=left, height=0.55, color=colour, label=name if row == 0 else None)
            if width > 1.2:
                axes.text(left + width / 2, row, f"{width:.1f}", ha="center", va="center", color="#ffffff", size=8.5)
            left += width
        axes.text(left + 0.4, row, f"{left:.1f} ms", va="center")
    axes.set_yticks(range(len(runs)), list(runs))
    axes.set_xlim(0, axes.get_xlim()[1] * 1.12)
    axes.legend(ncols=len(STAGES), loc="lower left", bbox_to_anchor=(0, 1))
    return still(figure)


# ---- Two media -------------------------------------------------------------------------------------------------------


class Clocks(NamedTuple):
    """What a sender report says of a stream: one moment on the clock that all streams share, and on its own."""

    seconds: float  # NTP: since 1900
    ticks: int  # RTP timestamp
    rate: int  # ticks a second, from a=rtpmap

    def at(self, timestamp: int) -> float:
        """Return when something with that timestamp was, on the clock that all streams share."""
        return self.seconds + ticks(timestamp, self.ticks) / self.rate


def clocks(stream: Stream, codec: str, rate: int) -> Clocks:
    """Return what the first sender report of a codec's stream says. Raises LookupError before there is one."""
    ssrc = stream.of(codec)[0].ssrc
    for report in stream.said("SR", who="pc1"):
        if report.said.ssrc == ssrc:
            info = report.said.sender_info
            return Clocks(info.ntp_timestamp / 2**32, info.rtp_timestamp, rate)
    raise LookupError(f"no sender report about {codec} yet: one comes each 0.5 to 1.5 s")


def media_table(stream: Stream, rates: Mapping[str, int]) -> Table:
    """Return what tells pc1's streams apart: one row for each SSRC. `rates` are the ticks a second of each codec."""
    rows = []
    for codec, rate in rates.items():
        packets = stream.of(codec)
        stamps = sorted({ticks(packet.timestamp, packets[0].timestamp) for packet in packets})
        step = statistics.median(b - a for a, b in itertools.pairwise(stamps))
        each = (len(stamps) - 1) * rate / (stamps[-1] - stamps[0])
        marked = "every packet" if all(packet.marker for packet in packets) else "the last of each picture"
        steps = f"about {round(step, -3 if step > 2000 else 0):.0f}"
        rows.append((codec, f"SSRC {packets[0].ssrc}", f"{rate}", steps, marked, f"about {round(each, -1):.0f}"))
    head = ("codec", "stream", "ticks a second", "from one to the next", "marker on", "a second")
    return Table(head, [("", rows)], (10, 26, 16, 18, 18, 12))

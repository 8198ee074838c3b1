"""SCTP in the clear: a tap under the tap, for what DTLS hides on the wire.

    with Tap(call) as wire, SctpTap(call, wire=wire) as under:
        await call.run()
    under.table()

The packets of data channels (SCTP, RFC 9260) travel inside DTLS records, so a `Tap` sees their size and nothing else.
Two methods of aiortc have them unencrypted: the one that hands a packet to DTLS, and the one that gets it back at the
other end. While a tap is open they are replaced; the last tap to close puts the originals back.
"""

from __future__ import annotations

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import functools
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from aiortc import RTCDtlsTransport, RTCSctpTransport

from . import private
from .draw import HUES, INK, SOFT, WIDTH, Canvas, Drawing, Moment, Table, shortened
from .packets import DRAWN, Decoded, MalformedError, Reader, name_of, table_of
from .wire import Datagram, Tap

__all__ = ["Packet", "SctpTap", "decode_sctp", "exchange", "message_of"]

# What differs from run to run, for hexdump().
DRAWN["SCTP"] = {
    *("verification tag", "checksum", "TSN", "initiate tag", "initial TSN", "cumulative TSN", "state cookie"),
    *("request number", "response number", "last TSN"),
}

# ---- What the bytes say ----------------------------------------------------------------------------------------------

CHUNKS = table_of(
    "0 DATA, 1 INIT, 2 INIT ACK, 3 SACK, 4 HEARTBEAT, 5 HEARTBEAT ACK, 6 ABORT, 7 SHUTDOWN, 8 SHUTDOWN ACK, 9 ERROR, "
    "10 COOKIE ECHO, 11 COOKIE ACK, 14 SHUTDOWN COMPLETE, 130 RE-CONFIG, 192 FORWARD TSN"
)
KINDS = table_of("50 DCEP, 51 text, 53 bytes, 56 empty text, 57 no bytes")  # PPID, RFC 8831 section 8
OPEN, ACK = 3, 2  # RFC 8832 section 8.2.1
PARAMETERS = table_of(
    "7 state cookie, 13 reset of outgoing streams, 16 response, 17 more outgoing streams, 0x8008 supported extensions, "
    "0xc000 FORWARD TSN supported"
)
RESULTS = table_of("0 nothing to do, 1 performed, 2 denied, 6 in progress")  # RFC 6525 section 4.4
FRAGMENT = {3: "whole", 2: "first part", 0: "middle part", 1: "last part"}  # the flags B and E


def decode_sctp(data: bytes) -> Decoded:
    """Return the named fields of an SCTP packet (RFC 9260 section 3), with those of DCEP (RFC 8832) where it opens a
    channel. Bytes that make no sense give a result whose `malformed` says why; nothing is raised."""
    decoded = Decoded(data, "SCTP")
    reader = Reader(decoded, 0, len(data))
    try:
        for name in ("source port", "destination port"):
            reader.field(name, 2, "of SCTP, inside DTLS: no UDP port")
        reader.field("verification tag", 4, "drawn by the receiver: this packet is of our association")
        reader.field("checksum", 4, "CRC32c")
        said = [_read_chunk(reader)]
        while reader.left:
            said.append(_read_chunk(reader))
        decoded.summary = " + ".join(said)
    except MalformedError as error:
        decoded.malformed, decoded.summary = str(error), f"malformed SCTP: {error}"
    return decoded


def message_of(packet: Packet) -> Decoded:
    """Return the fields of a packet's message alone: its PPID, and what follows up to the padding."""
    decoded = decode_sctp(packet.data)
    names = [field.name for field in decoded]
    decoded.fields = decoded.fields[names.index("PPID") : names.index("padding") if "padding" in names else None]
    return decoded


def _read_chunk(reader: Reader) -> str:
    kind = reader.field("chunk", 1, name_of(CHUNKS, 2))
    flags = reader.field("flags", 1, "U unordered, B begins, E ends a message" if kind == 0 else "")
    length = reader.field("length", 2, "of the chunk")
    if length < 4:
        raise MalformedError(f"a chunk of {length} bytes")
    inner = reader.part(length - 4)
    name = name_of(CHUNKS, 2)(kind)
    said = READERS[name](inner, flags) if name in READERS else ""
    inner.raw("content", inner.left)
    reader.raw("padding", min(-length % 4, reader.left))
    return f"{name} {said}".strip()


def _read_data(reader: Reader, flags: int) -> str:
    reader.field("TSN", 4, "number of the chunk, over all streams")
    stream = reader.field("stream", 2, "the channel's id")
    order = "does not count: unordered" if flags & 4 else "place within the stream"
    reader.field("stream sequence number", 2, order)
    kind = reader.field("PPID", 4, name_of(KINDS))
    part = FRAGMENT[flags & 3]
    if kind == 50 and part == "whole":
        return f"stream {stream}: {_read_dcep(reader)}"
    content = reader.raw("message" if part == "whole" else part, reader.left)
    words = repr(content.decode("utf-8", "replace")) if kind == 51 else name_of(KINDS)(kind)
    short = part == "whole" and kind != 53 and len(words) < 40
    what = words if short else f"{len(content)} bytes"
    return f"stream {stream}: {what}" + ("" if part == "whole" else f", {part}") + (" unordered" * bool(flags & 4))


def _read_dcep(reader: Reader) -> str:
    kind = reader.field("DCEP message", 1, name_of({OPEN: "DATA_CHANNEL_OPEN", ACK: "DATA_CHANNEL_ACK"}, 2))
    if kind != OPEN:
        return "DATA_CHANNEL_ACK"
    reader.field("channel type", 1, _channel_type)
    reader.field("priority", 2)
    reader.field("reliability parameter", 4, "how often, or how many ms")
    label = reader.field("label length", 2, "bytes of UTF-8")
    protocol = reader.field("protocol length", 2)
    said = reader.raw("label", min(label, reader.left)).decode("utf-8", "replace")
    reader.raw("protocol", min(protocol, reader.left))
    return f"DATA_CHANNEL_OPEN {said!r}"


def _channel_type(number: int) -> str:
    how = {0: "reliable", 1: "a number of retransmissions", 2: "a lifetime"}.get(number & 0x7F, "unknown")
    return f"{'un' * bool(number & 0x80)}ordered, {how}"


def _read_init(reader: Reader, flags: int) -> str:
    reader.field("initiate tag", 4, "what your packets to me must carry")
    reader.field("receiver window", 4, "bytes I can keep")
    reader.field("outgoing streams", 2)
    reader.field("incoming streams", 2)
    reader.field("initial TSN", 4)
    _read_parameters(reader)
    return ""


def _read_sack(reader: Reader, flags: int) -> str:
    reader.field("cumulative TSN", 4, "all up to this one have come")
    reader.field("receiver window", 4, "bytes I can keep")
    gaps, twice = reader.field("gap blocks", 2), reader.field("duplicates", 2)
    for _ in range(gaps):
        reader.field("from", 2, "behind the cumulative TSN: these have come too")
        reader.field("to", 2)
    for _ in range(twice):
        reader.field("TSN", 4, "came twice")
    return "with a gap" if gaps else ""


def _read_forward(reader: Reader, flags: int) -> str:
    reader.field("cumulative TSN", 4, "do not wait for what is missing up to here")
    while reader.left >= 4:
        reader.field("stream", 2)
        reader.field("stream sequence number", 2, "the last one given up")
    return ""


def _read_reconfig(reader: Reader, flags: int) -> str:
    return ", ".join(filter(None, _read_parameters(reader)))


def _read_parameters(reader: Reader) -> list[str]:
    said = []
    while reader.left >= 4:
        kind = reader.field("parameter", 2, name_of(PARAMETERS))
        length = reader.field("length", 2)
        if length < 4:
            raise MalformedError(f"a parameter of {length} bytes")
        said.append(_read_parameter(reader.part(length - 4), kind))
        reader.part(min(-length % 4, reader.left))
    return said


def _read_parameter(reader: Reader, kind: int) -> str:
    said = ""
    if kind == 13:  # RFC 6525 section 4.1
        reader.field("request number", 4)
        reader.field("response number", 4)
        reader.field("last TSN", 4, "reset when all up to here have come")
        streams = [reader.field("stream", 2) for _ in range(reader.left // 2)]
        said = f"reset stream {', '.join(map(str, streams))}"
    elif kind == 16:
        reader.field("response number", 4)
        said = name_of(RESULTS)(reader.field("result", 4, name_of(RESULTS)))
    reader.raw(name_of(PARAMETERS)(kind), reader.left)
    return said


READERS: dict[str, Callable[[Reader, int], str]] = {
    "DATA": _read_data,
    "INIT": _read_init,
    "INIT ACK": _read_init,
    "SACK": _read_sack,
    "FORWARD TSN": _read_forward,
    "RE-CONFIG": _read_reconfig,
}

# ---- The tap ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Packet:
    """One SCTP packet, seen unencrypted at one peer."""

    t: float  # seconds on the log's clock
    who: str  # the peer at which it was seen: pc1, pc2
    direction: str  # out, in
    data: bytes
    datagram: Datagram | None = None  # what became of an outgoing one on the wire, where a Tap was given

    @functools.cached_property
    def decoded(self) -> Decoded:
        """Its fields: `packet.decoded["TSN"]`."""
        return decode_sctp(self.data)

    @property
    def summary(self) -> str:
        """What it is, in one line."""
        return self.decoded.summary

    @property
    def kind(self) -> str:
        """The name of its first chunk."""
        return CHUNKS.get(self.data[12], "?") if len(self.data) > 12 else "?"

    @property
    def tsn(self) -> int | None:
        """The TSN of its first chunk, None where that is no DATA."""
        return int(struct.unpack_from("!L", self.data, 16)[0]) if self.kind == "DATA" else None

    @property
    def lost(self) -> bool:
        """Whether its datagram was lost on the wire."""
        return self.datagram is not None and self.datagram.dropped

    def __repr__(self) -> str:
        fate = "  [lost]" if self.lost else ""
        return (
            f"≈{self.t * 1000:.1f} ms  {self.who} {self.direction:<3}  {len(self.data):4} bytes  {self.summary}{fate}"
        )


class SctpTap:
    """All SCTP packets of a call's peers, or of these peers, while it is open. With `wire`, a Tap that is open too,
    each outgoing packet knows the datagram that carried it."""

    KEPT: ClassVar[int] = 20_000  # packets; older ones are forgotten
    _opened: ClassVar[list[SctpTap]] = []
    _originals: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init__(self, *watched: loopback.Call | loopback.Peer, wire: Tap | None = None) -> None:
        self.peers: list[loopback.Peer] = []
        for one in watched:
            self.peers += [one.pc1, one.pc2] if isinstance(one, loopback.Call) else [one]
        if not self.peers or not all(isinstance(peer, loopback.Peer) for peer in self.peers):
            raise TypeError("whose packets? SctpTap(call), or SctpTap(pc1, pc2)")
        self.log, self.wire = self.peers[0].log, wire
        self.packets: list[Packet] = []
        self.passing: Packet | None = None  # the one that DTLS is encrypting and sending at this moment

    def open(self) -> SctpTap:
        """Begin to listen."""
        if self in SctpTap._opened:
            raise RuntimeError("this tap is open already")
        if not SctpTap._opened:
            for direction, (owner, name) in private.sctp_doors().items():
                SctpTap._originals[direction] = getattr(owner, name)
                setattr(owner, name, {"out": _send, "in": _receive}[direction])
        SctpTap._opened.append(self)
        return self

    def close(self) -> None:
        """Stop listening. Closing twice does no harm."""
        if self not in SctpTap._opened:
            return
        SctpTap._opened.remove(self)
        if not SctpTap._opened:
            for direction, (owner, name) in private.sctp_doors().items():
                setattr(owner, name, SctpTap._originals[direction])

    def __enter__(self) -> SctpTap:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def only(self, kind: str | None = None, who: str | None = None, direction: str | None = "out") -> list[Packet]:
        """Return the packets whose first chunk is of that kind ("DATA", "INIT", "SACK" ...), of that peer and
        direction. Outgoing ones only, unless told otherwise: so each packet is there once."""
        wanted = {"kind": kind, "who": who, "direction": direction}
        return [p for p in self.packets if all(value in (None, getattr(p, name)) for name, value in wanted.items())]

    @property
    def counts(self) -> dict[str, int]:
        """How many packets of each kind were sent, by both peers."""
        return dict(sorted(Counter(packet.kind for packet in self.only()).items()))

    def table(self, kind: str | None = None, who: str | None = None, limit: int = 30) -> Table:
        """Return what was sent as a table: the bytes in the clear, the bytes of the datagram, and what it says."""
        found = self.only(kind, who)
        rows: list[tuple[str, ...]] = [
            (p.who, str(len(p.data)), str(p.datagram.size) if p.datagram else "", p.summary, "lost" * p.lost)
            for p in found[:limit]
        ]
        more = f"and ≈{len(found) - limit} more" if len(found) > limit else ""
        heads = ("sent by", "bytes, clear", "bytes, on the wire", "what the packet says", "fate")
        columns = 5 if any(row[-1] for row in rows) else 4
        return Table(heads[:columns], [("", [row[:columns] for row in rows])], (9, 12, 15, 56, 8)[:columns], note=more)

    def __iter__(self) -> Iterator[Packet]:
        return iter(self.packets)

    def __len__(self) -> int:
        return len(self.packets)

    def __repr__(self) -> str:
        return f"SctpTap: sent {', '.join(f'≈{count} {kind}' for kind, count in self.counts.items()) or 'nothing'}"

    def _take(self, owner: RTCDtlsTransport | RTCSctpTransport, direction: str, data: bytes) -> Packet | None:
        for peer in self.peers:
            if owner is peer.pc.sctp or (peer.pc.sctp is not None and owner is peer.pc.sctp.transport):
                self.packets.append(Packet(self.log.now(), peer.name, direction, bytes(data)))
                if len(self.packets) > SctpTap.KEPT:
                    del self.packets[: SctpTap.KEPT // 10]
                return self.packets[-1]
        return None

    def _sent(self, packet: Packet) -> None:
        """Note the datagram that has just carried the packet: DTLS makes one of it at once."""
        recorded = reversed(self.wire.datagrams if self.wire else ())
        last = next((d for d in recorded if (d.who, d.direction) == (packet.who, "out")), None)
        if last is not None and last.t >= packet.t and last.layer == "DTLS":
            packet.datagram = last


async def _send(transport: RTCDtlsTransport, data: bytes) -> None:
    taken = [(tap, tap._take(transport, "out", data)) for tap in SctpTap._opened]
    for tap, packet in taken:
        tap.passing = packet
    try:
        await SctpTap._originals["out"](transport, data)
    finally:
        for tap, packet in taken:
            tap.passing = None
            if packet is not None:
                tap._sent(packet)


async def _receive(transport: RTCSctpTransport, data: bytes) -> None:
    for tap in SctpTap._opened:
        tap._take(transport, "in", data)
    await SctpTap._originals["in"](transport, data)


# ---- Drawing ---------------------------------------------------------------------------------------------------------

ROW, TOP, PC1_X, PC2_X = 26, 44, 150, 830  # pixels


def exchange(packets: Iterable[Packet], most: int = 24) -> Drawing:
    """Draw the packets that were sent, at most so many, as arrows between the two peers: time runs down. What opens a
    channel, or carries a message, is coloured."""
    sent = sorted((packet for packet in packets if packet.direction == "out"), key=lambda packet: packet.t)[:most]
    height = TOP + ROW * len(sent) + 16
    canvas = Canvas(WIDTH, height)
    for name, x in (("pc1", PC1_X), ("pc2", PC2_X)):
        canvas.text(x, 18, name, align="center", weight="bold")
        canvas.line((x, x), (32, height - 8), SOFT, 1)
    moments = []
    for number, packet in enumerate(sent):
        y = TOP + ROW * (number + 0.5)
        colour = HUES["message"] if packet.kind == "DATA" else HUES["DTLS"] if packet.kind != "SACK" else INK
        start, end = (PC1_X, PC2_X) if packet.who == "pc1" else (PC2_X, PC1_X)
        if packet.lost:
            end = start + round((end - start) * 0.8)
            canvas.cross(end, y)
        canvas.arrow((start, y), (end, y), colour, 1.4, "-|>")
        words = shortened(packet.summary, PC2_X - PC1_X - 40, 11)
        canvas.text((PC1_X + PC2_X) / 2, y, words, colour=colour, pixels=11, align="center", label=True)
        canvas.text(66, y, f"{(packet.t - sent[0].t) * 1000:.1f} ms", colour=SOFT, pixels=11, align="right")
        moments.append(Moment(packet.t - sent[0].t, y + ROW / 2))
    return Drawing(canvas, "SCTP packets", moments)

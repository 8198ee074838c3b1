"""A server that forwards: packets come in from one publisher and go out to each viewer, never decoded (the Selective
Forwarding Middlebox of RFC 7667, section 3.7).

server = await publish(source)     a publisher's call to the server; server.call is that call
leg = await server.join()          one more viewer: a call from the server to it
passed(server, taps)               one packet as it came in and as it went out to each, decrypted, side by side
"""

from __future__ import annotations

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping
from typing import ClassVar

from aiortc import RTCRtpSender, clock
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtp import RTP_HISTORY_SIZE, RtpPacket

from loopback import Call, Peer, Picture, Source

from . import private
from .crowd import Cost, Work
from .draw import Table
from .sdp import payload_types
from .wire import Tap

__all__ = ["Leg", "Nothing", "PassOn", "Server", "passed", "publish"]


class PassOn(JitterBuffer):
    """Takes the place of a jitter buffer, which would put pictures together: gives each packet to the legs at once."""

    def __init__(self) -> None:
        super().__init__(capacity=16, is_video=True)  # none of it is used
        self.legs: list[Leg] = []
        self.packets, self.key_wanted = 0, False

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        self.packets += 1
        for leg in self.legs:
            leg.waiting.put_nowait(packet)
        wanted, self.key_wanted = self.key_wanted, False
        return wanted, None  # whether to ask the publisher for a key picture; and no picture to decode


class Leg:
    """The way out to one viewer: a sender of aiortc's that gets packets in place of pictures."""

    def __init__(self, sender: RTCRtpSender, payload_type: int) -> None:
        self.sender, self.payload_type = sender, payload_type
        self.waiting = asyncio.Queue[RtpPacket]()
        self.sent = 0

    def readdressed(self, packet: RtpPacket) -> RtpPacket:
        """Return the packet with this leg's marks; number, time, marker bit and payload stay as they were."""
        marks = private.sending(self.sender)
        copy = RtpPacket(self.payload_type, packet.marker, packet.sequence_number, packet.timestamp)
        copy.ssrc, copy.payload = marks.ssrc, packet.payload
        copy.extensions.mid = marks.mid
        copy.extensions.abs_send_time = (clock.current_ntp_time() >> 14) & 0xFFFFFF
        marks.history[copy.sequence_number % RTP_HISTORY_SIZE] = copy  # for a viewer that has lost it
        return copy

    async def run(self) -> None:
        """Send what comes in, until cancelled or the viewer has gone."""
        with contextlib.suppress(ConnectionError):
            while True:
                packet = self.readdressed(await self.waiting.get())
                await private.send_rtp(self.sender, packet.serialize(private.sending(self.sender).extensions))
                self.sent += 1


class Nothing:
    """A source that never gives a picture: a leg's sender has no encoder to feed."""

    label, given = "nothing", ""

    async def ready(self) -> None: ...

    async def next(self) -> tuple[Picture, float]:
        await asyncio.Event().wait()
        raise AssertionError("nothing sets that event")

    async def close(self) -> None: ...


class Server:
    """Both sides of the server: pc2 of the publisher's call, and pc1 of a call to each viewer."""

    running: ClassVar[set[Server]] = set()

    def __init__(self, call: Call) -> None:
        self.call, self.inside = call, PassOn()
        self.legs: list[Call] = []

    async def publish(self) -> None:
        """Let the publisher in. Raises CallError."""
        for step in self.call.steps[:-1]:  # the last would wait for a picture: there is none here
            await step.run()
            if step.what == "setRemoteDescription(offer)":
                await asyncio.sleep(0)  # loopback's own jitter buffer is put in, as soon as there is a track
                private.set_jitter_buffer(self.call.pc2.pc.getReceivers()[0], self.inside)

    async def join(self, *, ask: bool = True, within: float = 5.0) -> Call:
        """Let one more viewer in and return the call to it, from the server (pc1) to the viewer (pc2), when its first
        picture is there. Without `ask` nobody asks the publisher for a key picture, and no picture is waited for."""
        call = Call(Nothing(), deadline=within)
        self.legs.append(call)
        *steps, last = call.steps
        for step in steps:
            await step.run()
        self.attach(call.pc1, ask=ask)
        if ask:
            await last.run()
        return call

    def attach(self, peer: Peer, *, ask: bool = True) -> Leg:
        """Pass packets on through a connected peer's sender, from now on."""
        sender = peer.pc.getSenders()[0]
        types = payload_types(peer.pc.remoteDescription.sdp)
        leg = Leg(sender, next(number for number, codec in types.items() if codec == "VP8"))
        if ask:
            private.on_key_request(sender, self.ask_for_key)
        else:
            private.on_key_request(sender, lambda: None)
        self.inside.legs.append(leg)
        peer.tasks.append(asyncio.create_task(self._serve(leg)))
        return leg

    async def _serve(self, leg: Leg) -> None:
        try:
            await leg.run()
        finally:
            self.inside.legs.remove(leg)  # nothing more is queued for a viewer who has gone

    def listen_to(self, leg: Call) -> None:
        """Pass on a viewer's requests for a key picture, from now on."""
        private.on_key_request(leg.pc1.pc.getSenders()[0], self.ask_for_key)

    def ask_for_key(self) -> None:
        """Ask the publisher for a key picture, with the next packet that comes in."""
        self.inside.key_wanted = True

    async def cost(self, seconds: float = 0.8) -> Cost:
        """Look at the running server for a moment, and return what publisher, server and viewers have cost together."""
        meter = self.call.meter
        with Tap(self.call.pc1) as tap, Work() as work:
            before = meter.sent
            await asyncio.sleep(seconds)
            sent = meter.sent - before
        connections = 1 + len(self.inside.legs)
        uploaded = sum(datagram.size for datagram in tap.only("SRTP", direction="out"))
        return Cost(connections, connections, sent, work.encoded, work.decoded, uploaded, work.seconds, work.lasted)

    async def close(self) -> None:
        """Close the calls to the viewers, then the publisher's."""
        Server.running.discard(self)
        await asyncio.gather(*(call.close() for call in self.legs))
        await self.call.close()

    def __repr__(self) -> str:
        sent = ", ".join(f"≈{leg.sent}" for leg in self.inside.legs) or "nobody"
        return f"server: ≈{self.inside.packets} packets came in, sent on to {sent}"


async def publish(source: Source) -> Server:
    """Return a server with a publisher that sends this source; one that was there before is closed, so that a cell
    that is run twice leaves one. Raises CallError."""
    for other in [*Server.running]:
        await other.close()
    server = Server(Call(source))
    Server.running.add(server)
    try:
        await server.publish()
    except BaseException:
        await server.close()
        raise
    return server


# ---- Looking ---------------------------------------------------------------------------------------------------------


def passed(taps: Mapping[str, tuple[Tap, Peer]]) -> Table:
    """Show one packet, as several peers have received it, side by side: each tap with the peer whose keys open it. The
    newest packet is taken that ends a picture and has come to all."""
    opened = {name: _opened(tap, peer) for name, (tap, peer) in taps.items()}
    first, *others = opened.values()
    common = set(first).intersection(*others)
    number = max((n for n in common if first[n][0].marker), default=max(common))
    columns = [_described(*packets[number]) for packets in opened.values()]
    rows = [
        (what, *values, "the same" if len(set(values)) == 1 else "different")
        for what, *values in zip(columns[0], *(column.values() for column in columns), strict=True)
    ]
    tints = {"the": "background:rgba(46,160,67,.18)", "different": "background:rgba(210,153,34,.18)"}
    wide = 56 // len(taps)
    return Table(("", *opened, ""), [("", rows)], (26, *[wide] * len(taps), 18), tints=tints, tinted=len(taps) + 1)


def _opened(tap: Tap, peer: Peer) -> dict[int, tuple[RtpPacket, bytes]]:
    """Return the pictures' packets that a tap has seen come in at a peer, decrypted, by their numbers."""
    found = {}
    for datagram in tap.only("SRTP", peer.name, "in"):
        if datagram.codec == "VP8":
            session = private.srtp_sessions(peer).incoming
            packet = RtpPacket.parse(session.unprotect(datagram.data))
            found[packet.sequence_number] = packet, datagram.data
    return found


def _described(packet: RtpPacket, data: bytes) -> dict[str, str]:
    payload = hashlib.sha256(packet.payload).digest()
    return {
        "SSRC": f"SSRC {packet.ssrc}",
        "sequence number": f"≈{packet.sequence_number}",
        "timestamp": f"≈{packet.timestamp}",
        "marker bit": str(packet.marker),
        "payload, decrypted: its hash": f"≈{payload[:4].hex(' ')}",
        "last 4 bytes as sent: encrypted": f"≈{data[-4:].hex(' ')}",
    }

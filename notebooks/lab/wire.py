"""The wire tap: every datagram of both peers, on the log's clock. What its bytes say is in `packets`.

    with Tap(call) as tap:
        await call.run()
    tap.table()

Three methods of `aioice.ice.StunProtocol`, the object behind each UDP socket, see everything a peer sends, and of what
comes in everything that a `loopback.GuardedSocket` lets through. While a tap is open they are replaced; the last tap to
close puts the originals back.
"""

import loopback  # first: loopback imports cv2 before aiortc  # isort: skip

import asyncio
import functools
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import aioice

from . import private
from .draw import Table
from .packets import LAYERS, decode, layer_of, masked
from .sdp import sections

__all__ = ["LAYERS", "Datagram", "Tap"]

Forward = Callable[[], None]
Later = Callable[[float, Forward], Forward]


@dataclass(eq=False)
class Datagram:
    """One datagram, seen at one peer: an arrow's tail (`out`) or its head (`in`)."""

    t: float  # seconds on the log's clock
    who: str  # the peer at which it was seen: pc1, pc2
    direction: str  # out, in
    layer: str  # one of LAYERS
    data: bytes
    remote: str = ""  # "address:port" it goes to, or comes from
    codec: str = ""  # of SRTP: what the SDP calls its payload type
    dropped: bool = False
    fault: str = ""  # what was done to it

    @property
    def size(self) -> int:
        """Bytes, without the headers of UDP and IP."""
        return len(self.data)

    @functools.cached_property
    def summary(self) -> str:
        """What it is, in one line."""
        return decode(self.data, codec=self.codec).summary

    def __repr__(self) -> str:
        fate = f"  [{self.fault}]" if self.fault else ""
        return (
            f"≈{self.t * 1000:.1f} ms  {self.who} {self.direction:<3}  {self.layer:<5}  ≈{self.size} bytes  "
            f"{masked(self.summary)}{fate}"
        )


class Fault(Protocol):
    """Something that happens to datagrams on their way; lab.faults has them."""

    def concerns(self, datagram: Datagram) -> bool:
        """Whether this fault may touch that datagram."""

    def apply(self, datagram: Datagram, forward: Forward, later: Later) -> None:
        """Call `forward` now, or through `later(seconds, forward)`, or never. `later` returns what cancels it."""


class Tap:
    """All datagrams of the peers of a call while it is open, in the order they were seen.

    `Tap(call)` watches a call's two peers, `Tap(pc1, pc2)` peers that were made without one. It may be opened before
    they have a socket, several times, and beside other taps, of the same call too: each tap is a piece of the wire, the
    last one opened the farthest from the peers. Datagrams of other calls are not seen. What goes through a TURN server
    is seen as the peer means it, with the other peer's address; what is really sent, `turn.TurnTap` sees.
    """

    KEPT: ClassVar[int] = 5_000  # datagrams, some 4 MB
    _opened: ClassVar[list["Tap"]] = []
    _originals: ClassVar[dict[str, Callable[..., Any]]] = {}
    _sending: ClassVar[set[asyncio.Task[None]]] = set()

    def __init__(self, *watched: loopback.Call | loopback.Peer, faults: Iterable[Fault] = ()) -> None:
        self.peers: list[loopback.Peer] = []
        for one in watched:
            self.peers += [one.pc1, one.pc2] if isinstance(one, loopback.Call) else [one]
        if not self.peers or not all(isinstance(peer, loopback.Peer) for peer in self.peers):
            raise TypeError("whose datagrams? Tap(call), or Tap(pc1, pc2)")
        self.log = self.peers[0].log
        self.faults = list(faults)  # may be changed while the tap is open
        self.datagrams: list[Datagram] = []
        self._owners: weakref.WeakKeyDictionary[aioice.ice.StunProtocol, loopback.Peer] = weakref.WeakKeyDictionary()
        self._codecs: dict[tuple[str, int], str] = {}
        self._held: dict[asyncio.TimerHandle, Datagram] = {}

    # Opening and closing. `with` does it for one cell, these two for several.

    def open(self) -> "Tap":
        """Begin to listen."""
        if self in Tap._opened:
            raise RuntimeError("this tap is open already")
        if not Tap._opened:
            for name, replacement in REPLACEMENTS.items():
                Tap._originals[name] = getattr(aioice.ice.StunProtocol, name)
                setattr(aioice.ice.StunProtocol, name, replacement)
        Tap._opened.append(self)
        return self

    def close(self) -> None:
        """Stop listening; what a fault still holds back is lost. Closing twice does no harm."""
        if self not in Tap._opened:
            return
        Tap._opened.remove(self)
        for timer, datagram in self._held.items():
            timer.cancel()
            datagram.dropped = True
        self._held.clear()
        if not Tap._opened:
            for name, original in Tap._originals.items():
                setattr(aioice.ice.StunProtocol, name, original)

    def __enter__(self) -> "Tap":
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    # Looking

    def only(self, layer: str | None = None, who: str | None = None, direction: str | None = None) -> list[Datagram]:
        """Return the datagrams of that layer, peer and direction."""
        wanted = {"layer": layer, "who": who, "direction": direction}
        return [d for d in self.datagrams if all(value in (None, getattr(d, name)) for name, value in wanted.items())]

    def table(
        self, layer: str | None = None, limit: int = 40, who: str | None = None, direction: str | None = None
    ) -> Table:
        """Return the first `limit` of them as a table."""
        found = self.only(layer, who, direction)
        rows: list[tuple[str, ...]] = [
            (f"≈{d.t * 1000:.1f} ms", d.who, d.direction, d.layer, f"≈{d.size}", masked(d.summary), d.fault)
            for d in found[:limit]
        ]
        more = f"and ≈{len(found) - limit} more" if len(found) > limit else ""
        heads, widths = ("time", "peer", "way", "layer", "bytes", "what", "fault"), (10, 7, 7, 8, 8, 45, 15)
        columns = 7 if any(row[-1] for row in rows) else 6  # the last one only where there is a fault
        return Table(heads[:columns], [("", [row[:columns] for row in rows])], widths[:columns], note=more)

    def __iter__(self) -> Iterator[Datagram]:
        return iter(self.datagrams)

    def __len__(self) -> int:
        return len(self.datagrams)

    def __repr__(self) -> str:
        sent = Counter(datagram.layer for datagram in self.datagrams if datagram.direction == "out")
        lost = sum(datagram.dropped for datagram in self.datagrams)
        parts = ", ".join(f"≈{sent[layer]} {layer}" for layer in LAYERS if sent[layer])
        return f"Tap: sent {parts or 'nothing'}; dropped ≈{lost}"

    # What happens to each datagram

    def _take(
        self, protocol: aioice.ice.StunProtocol, direction: str, data: bytes, addr: tuple[Any, ...], onward: Forward
    ) -> None:
        peer = self._owner(protocol) if self in Tap._opened else None
        if peer is None:
            onward()
            return
        layer = layer_of(data)
        codec = self._codec(peer, data[1] & 0x7F) if layer == "SRTP" and len(data) > 1 else ""
        datagram = Datagram(self.log.now(), peer.name, direction, layer, bytes(data), f"{addr[0]}:{addr[1]}", codec)
        self.datagrams.append(datagram)
        if len(self.datagrams) > Tap.KEPT:
            self._forget()
        self._disturb(protocol, datagram, self.faults, onward)

    def _forget(self) -> None:
        """Forget a tenth, of the oldest: media before all else, but not the first pictures. A call that runs while one
        reads makes 40 datagrams a second; its set-up and its consent are looked at long afterwards."""
        media = [datagram for datagram in self.datagrams if datagram.layer == "SRTP"][Tap.KEPT // 10 :]
        gone = {id(datagram) for datagram in (media or self.datagrams)[: Tap.KEPT // 10]}
        self.datagrams[:] = [datagram for datagram in self.datagrams if id(datagram) not in gone]

    def _disturb(
        self, protocol: aioice.ice.StunProtocol, datagram: Datagram, faults: Sequence[Fault], onward: Forward
    ) -> None:
        if not faults:
            # Kept back so long that the socket was closed meanwhile? TURN's transport has no such method.
            if getattr(protocol.transport, "is_closing", bool)():
                datagram.dropped = True
            else:
                onward()
            return
        fault, *rest = faults
        forward = functools.partial(self._disturb, protocol, datagram, rest, onward)
        if fault.concerns(datagram):
            fault.apply(datagram, forward, functools.partial(self._later, datagram))
        else:
            forward()

    def _later(self, datagram: Datagram, seconds: float, forward: Forward) -> Forward:
        def release() -> None:
            del self._held[timer]
            forward()

        def cancel() -> None:
            timer.cancel()
            self._held.pop(timer, None)

        timer = asyncio.get_running_loop().call_later(seconds, release)
        self._held[timer] = datagram
        return cancel

    def _owner(self, protocol: aioice.ice.StunProtocol) -> loopback.Peer | None:
        if protocol not in self._owners:
            for peer in self.peers:
                if protocol.receiver in private.connections(peer):
                    self._owners[protocol] = peer
        return self._owners.get(protocol)

    def _codec(self, peer: loopback.Peer, payload_type: int) -> str:
        key = peer.name, payload_type
        if key not in self._codecs and (description := peer.pc.localDescription):
            for section in sections(description.sdp):
                self._codecs |= {(peer.name, int(number)): name for number, name in section.codecs.items()}
        return self._codecs.get(key, "")


def _lead(
    taps: Sequence[Tap],
    protocol: aioice.ice.StunProtocol,
    direction: str,
    data: bytes,
    addr: tuple[Any, ...],
    deliver: Forward,
) -> None:
    """Lead a datagram through the taps, then deliver it."""
    if not taps:
        deliver()
        return
    tap, *rest = taps
    onward = functools.partial(_lead, rest, protocol, direction, data, addr, deliver)
    tap._take(protocol, direction, data, addr, onward)


def _datagram_received(protocol: aioice.ice.StunProtocol, data: bytes, addr: tuple[Any, ...]) -> None:
    original = Tap._originals["datagram_received"]
    _lead(Tap._opened[::-1], protocol, "in", data, addr, functools.partial(original, protocol, data, addr))


def _send_stun(protocol: aioice.ice.StunProtocol, message: aioice.stun.Message, addr: tuple[str, int]) -> None:
    original = Tap._originals["send_stun"]
    _lead(
        tuple(Tap._opened), protocol, "out", bytes(message), addr, functools.partial(original, protocol, message, addr)
    )


async def _send_data(protocol: aioice.ice.StunProtocol, data: bytes, addr: tuple[str, int]) -> None:
    original = Tap._originals["send_data"]
    waits, at_once = True, False

    def deliver() -> None:
        nonlocal at_once
        if waits:
            at_once = True
        else:  # the sender has long gone on
            task = asyncio.get_running_loop().create_task(original(protocol, data, addr))
            Tap._sending.add(task)
            task.add_done_callback(Tap._sending.discard)

    _lead(tuple(Tap._opened), protocol, "out", data, addr, deliver)
    waits = False
    if at_once:
        await original(protocol, data, addr)


REPLACEMENTS = {"datagram_received": _datagram_received, "send_data": _send_data, "send_stun": _send_stun}

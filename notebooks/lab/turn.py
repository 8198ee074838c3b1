"""TURN laid open: spoken to a server one message at a time, and tapped below aioice, where the wrapping is.

    client = await TurnClient(coturn).open()
    await client.request("Allocate", {"REQUESTED-TRANSPORT": UDP})     the response, decoded
    client.send(b"hello", to), await client.receive()                  Send and Data indications
    client.send_on(0x4000, b"hello")                                   the same by a channel
    client.table()                                                     every datagram of it

    with TurnTap() as tap: ...      what every TURN client of aioice sends and receives while it is open

Where coturn is not installed, the client plays a recorded conversation: each answer is the one recorded.
"""

from __future__ import annotations

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import aioice
from aioice.stun import Class, Message, Method

from .bench import CLOSED
from .draw import Table
from .packets import Decoded, decode

__all__ = ["UDP", "TurnClient", "TurnTap", "turn_table"]

UDP = 17 << 24  # REQUESTED-TRANSPORT: the protocol's number, then three bytes of zeros (RFC 8656 section 18)
METHODS = {
    "Binding": Method.BINDING,
    "Allocate": Method.ALLOCATE,
    "Refresh": Method.REFRESH,
    "CreatePermission": Method.CREATE_PERMISSION,
    "ChannelBind": Method.CHANNEL_BIND,
}
ANEW = "begin again at the cell that makes it, client = await coturn.client()"
Address = tuple[str, int]


class Passed(NamedTuple):
    """A datagram between a client and its TURN server, or a piece of a TCP stream."""

    way: str  # out, in
    over: str  # UDP, TCP
    data: bytes


def turn_table(passed: Iterable[Passed], limit: int = 40, note: str = "", *, fixed: bool = False) -> Table:
    """Show what has passed between a client and a TURN server. `fixed`: the sizes of what was sent are the same each
    time; those of the answers depend on the server."""
    found = list(passed)
    rows: list[tuple[str, ...]] = [
        (one.way, one.over, f"{'' if fixed and one.way == 'out' else '≈'}{len(one.data)}", said(one.data))
        for one in found[:limit]
    ]
    more = [f"and ≈{len(found) - limit} more"] if len(found) > limit else []
    head, widths = ("way", "over", "bytes", "what"), (10, 10, 10, 70)
    return Table(head, [("", rows)], widths, note=". ".join([*more, *filter(None, [note])]))


def said(data: bytes) -> str:
    """Return what a datagram is, in one line: of a request with a password, as whom."""
    decoded = decode(data)
    signed = f", signed by {decoded['USERNAME']}" if "REALM" in decoded and "USERNAME" in decoded else ""
    peer = f", peer {decoded['XOR-PEER-ADDRESS']}" if "XOR-PEER-ADDRESS" in decoded else ""
    return f"{decoded.summary}{signed}{peer}"


class Server(Protocol):
    """What a client has to know of a server; relay.Coturn has it."""

    port: int
    user: str
    password: str

    @property
    def running(self) -> bool: ...


class TurnClient(asyncio.DatagramProtocol):
    """A TURN client over UDP that does nothing by itself: the caller makes every request.

    Once `sign` was given the words of a 401, requests are signed with them (RFC 8489 section 9.2). `passed` has every
    datagram. `recorded` is played where the server does not run.
    """

    def __init__(self, server: Server, recorded: Iterable[Passed] = ()) -> None:
        self.server = server
        self.passed: list[Passed] = []
        self._recorded = list(recorded)
        self._credentials: dict[str, Any] = {}
        self._key = b""
        self._lent = False
        self._heard: asyncio.Queue[bytes] = asyncio.Queue()
        self._transport: asyncio.DatagramTransport | None = None

    async def open(self) -> TurnClient:
        """Open the socket."""
        if self.server.running:
            loop = asyncio.get_running_loop()
            await loop.create_datagram_endpoint(lambda: self, remote_addr=("127.0.0.1", self.server.port))
        return self

    def connection_made(self, transport: Any) -> None:
        """Keep the socket."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Note what comes in."""
        self.passed.append(Passed("in", "UDP", data))
        self._heard.put_nowait(data)

    def sign(self, refusal: Decoded, password: str = "") -> None:
        """Sign the requests from now on with what a 401 has said, realm and nonce, and with the server's password or
        another one. The key is the MD5 hash of user, realm and password (RFC 8489 section 9.2.2). Raises CallError, and
        goes on with the old signature, where this client has been through its conversation."""
        if self._lent:
            raise loopback.CallError(f"this client has an address already: {ANEW}")
        user, realm, password = self.server.user, refusal["REALM"], password or self.server.password
        self._credentials = {"USERNAME": user, "REALM": realm, "NONCE": refusal["NONCE"].encode()}
        self._key = hashlib.md5(f"{user}:{realm}:{password}".encode(), usedforsecurity=False).digest()

    async def request(self, method: str, attributes: Mapping[str, Any] | None = None) -> Decoded:
        """Send a request and return the response, whatever it says. Raises CallError when none comes in 2 s, or this
        client has been through its conversation."""
        message = Message(METHODS[method], Class.REQUEST, attributes={**(attributes or {}), **self._credentials})
        if self._key:
            message.add_message_integrity(self._key)
        while not self._heard.empty():  # what came unasked
            self._heard.get_nowait()
        self._put(bytes(message))
        answer = await self.receive(2.0)
        if answer is None:
            raise loopback.CallError(f"the TURN server does not answer {method}: is it running?")
        if answer.summary.startswith("Allocate error response, 437"):
            raise loopback.CallError(f"this client has an address already (437): {ANEW}")
        self._lent = self._lent or answer.summary.startswith("Allocate success")
        return answer

    def send(self, data: bytes, to: Address) -> None:
        """Have the server send a datagram to a peer, in a Send indication: 36 bytes of wrapping, and no answer."""
        attributes = {"XOR-PEER-ADDRESS": to, "DATA": data}
        self._put(bytes(Message(Method.SEND, Class.INDICATION, attributes=attributes)))

    def send_on(self, channel: int, data: bytes) -> None:
        """Have the server send a datagram to the peer that a channel stands for: 4 bytes of wrapping."""
        self._put(struct.pack(">HH", channel, len(data)) + data)

    async def receive(self, seconds: float = 0.3) -> Decoded | None:
        """Return the next datagram from the server, decoded; None when none comes."""
        try:
            async with asyncio.timeout(seconds):
                return decode(await self._heard.get())
        except TimeoutError:
            return None

    def _put(self, data: bytes) -> None:
        if self._transport:
            if self._transport.is_closing():
                raise loopback.CallError(f"this client is closed: {ANEW}")
            self.passed.append(Passed("out", "UDP", data))
            self._transport.sendto(data)
            return
        if self._recorded and self._recorded[0].way == "out":
            self.passed.append(self._recorded.pop(0))
        while self._recorded and self._recorded[0].way == "in":
            one = self._recorded.pop(0)
            self.datagram_received(one.data, None)

    def table(self) -> Table:
        """Show every datagram."""
        note = "" if self._transport else "A recorded conversation: coturn is not installed here."
        return turn_table(self.passed, note=note, fixed=True)

    def close(self) -> None:
        """Close the socket. The server keeps the allocation until its lifetime is over, or a Refresh of 0."""
        if self._transport:
            self._transport.close()

    def __repr__(self) -> str:
        return f"a TURN client, ≈{len(self.passed)} datagrams so far"


CLOSED.append(TurnClient)


# ---- Below aioice ----------------------------------------------------------------------------------------------------


class TappedTransport:
    """Stands between a TURN client of aioice and its socket or stream, and notes what is sent."""

    def __init__(self, transport: Any, note: Callable[[str, str, bytes], None]) -> None:
        self._transport, self._note = transport, note

    def sendto(self, data: bytes, *where: Any) -> None:
        """Send a datagram."""
        self._note("out", "UDP", data)
        self._transport.sendto(data, *where)

    def write(self, data: bytes) -> None:
        """Write to a stream: one message each time."""
        self._note("out", "TCP", data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class TurnTap:
    """What the TURN clients of aioice send and receive that connect while it is open: the requests that the tap above
    never sees, and each datagram in its wrapping. It keeps the client of each peer apart, in order of their coming."""

    HOOKS: ClassVar[tuple[str, ...]] = ("connection_made", "datagram_received")
    KEPT: ClassVar[int] = 2000  # datagrams of each client

    def __init__(self) -> None:
        self.clients: dict[object, list[Passed]] = {}
        self._originals: dict[str, Callable[..., None]] = {}

    def __enter__(self) -> TurnTap:
        mixin, notes = aioice.turn.TurnClientMixin, self._notes
        self._originals = originals = {name: getattr(mixin, name) for name in self.HOOKS}

        def connection_made(client: Any, transport: Any) -> None:
            originals["connection_made"](client, TappedTransport(transport, notes(client)))

        def datagram_received(client: Any, data: bytes, addr: Any) -> None:
            over = "TCP" if isinstance(client, asyncio.Protocol) else "UDP"
            notes(client)("in", over, data)
            originals["datagram_received"](client, data, addr)

        for name, function in zip(self.HOOKS, (connection_made, datagram_received), strict=True):
            setattr(mixin, name, function)
        return self

    def __exit__(self, *_: object) -> None:
        for name, original in self._originals.items():
            setattr(aioice.turn.TurnClientMixin, name, original)

    def _notes(self, client: object) -> Callable[[str, str, bytes], None]:
        passed = self.clients.setdefault(client, [])

        def note(way: str, over: str, data: bytes) -> None:
            if len(passed) < self.KEPT:
                passed.append(Passed(way, over, bytes(data)))

        return note

    @property
    def first(self) -> list[Passed]:
        """What the client that came first has sent and received."""
        return next(iter(self.clients.values()), [])

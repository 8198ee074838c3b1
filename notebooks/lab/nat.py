"""Toy NATs on 127.0.0.1, and real ICE across them.

Machine("server")                         a machine on the open net, or behind a NAT: send(), await receive()
Nat("symmetric")                          a NAT; .table() shows its mappings and what became of the last datagrams
Homes({call.pc1: one, call.pc2: two})     while open, the sockets of these peers are behind these NATs
at_home("symmetric", configuration)       a call, each peer behind such a NAT, and the two NATs
await nat_matrix(server)                  each kind against each, measured

Every socket is bound to 127.0.0.1, so all machines have one IP address. The toy net takes them apart by their ports:
the ports of one machine or NAT count as one address, and a port behind a NAT is a private address that nobody outside
can send to.
"""

from __future__ import annotations

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import functools
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import aioice
from aiortc import RTCConfiguration

from . import private
from .bench import CLOSED
from .draw import BAD, GREEN, HUES, RED, SOFT, WHITE, Canvas, Drawing, Table

__all__ = ["KINDS", "Homes", "Kind", "Machine", "Nat", "at_home", "named", "nat_matrix"]

HERE = "127.0.0.1"
Address = tuple[str, int]
Heard = Callable[[bytes, Address], None]

INDEPENDENT, ADDRESS, PORT = "endpoint-independent", "address-dependent", "address-and-port-dependent"


class Kind(NamedTuple):
    """How a NAT behaves, in the terms of RFC 4787: which outside port it uses, and whom it lets in there."""

    mapping: str  # section 4.1
    filtering: str  # section 5


KINDS = {  # by their old names, RFC 3489 section 5
    "full cone": Kind(INDEPENDENT, INDEPENDENT),
    "restricted cone": Kind(INDEPENDENT, ADDRESS),
    "port-restricted cone": Kind(INDEPENDENT, PORT),
    "symmetric": Kind(PORT, PORT),
}


# ---- The toy net -----------------------------------------------------------------------------------------------------


class Box:
    """Something on the toy net with sockets of its own. All its ports count as one address."""

    owners: ClassVar[dict[int, Box]] = {}  # by port

    def __init__(self, name: str) -> None:
        self.name = name
        self._sockets: dict[int, socket.socket] = {}

    def open_port(self, heard: Heard) -> Address:
        """Open a UDP socket and return its address; `heard` gets what arrives there."""
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.bind((HERE, 0))
        one.setblocking(False)
        port = one.getsockname()[1]
        self._sockets[port] = one
        Box.owners[port] = self
        asyncio.get_running_loop().add_reader(one, self._read, one, heard)
        return HERE, port

    def put(self, port: int, data: bytes, to: Address) -> None:
        """Send a datagram from one of the ports."""
        with contextlib.suppress(BlockingIOError):  # no room: a datagram may be lost
            self._sockets[port].sendto(data, to)

    def _read(self, one: socket.socket, heard: Heard) -> None:
        with contextlib.suppress(BlockingIOError):
            while one.fileno() >= 0:
                data, source = one.recvfrom(65536)
                heard(data, source)

    def close(self) -> None:
        """Close all sockets. Closing twice does no harm."""
        for one in self._sockets.values():
            asyncio.get_running_loop().remove_reader(one)
            one.close()
        self._sockets.clear()
        for port in [port for port, box in Box.owners.items() if box is self]:
            del Box.owners[port]


def owner(address: Address) -> object:
    """Return what an address belongs to: a box of the toy net; a port that is in no box stands for itself."""
    return Box.owners.get(address[1], address)


def called(address: Address) -> str:
    """Return an address with the name of what it belongs to."""
    home, box = Nat.homes.get(address), Box.owners.get(address[1])
    name = home.names[address] if home else box.name if box else ""
    return f"{name} {address[0]}:{address[1]}".lstrip()


def named(name: str, address: Address) -> Box:
    """Give a name to a port that is no socket of the toy net's own, until the box that is returned is closed."""
    box = Box.owners[address[1]] = Box(name)
    return box


CLOSED.append(Box)


class Machine(Box):
    """A machine that sends and receives datagrams: on the open net, or at home, behind a NAT."""

    def __init__(self, name: str, behind: Nat | None = None, ports: int = 1) -> None:
        super().__init__(name)
        self.behind = behind
        self._heard: asyncio.Queue[tuple[bytes, Address]] = asyncio.Queue()
        # What comes to a port at home directly has not come through the NAT: on the real net it could not come at all.
        hear: Heard = (lambda data, source: None) if behind else self._hear
        self.addresses = [self.open_port(hear) for _ in range(ports)]
        if behind:
            for address in self.addresses:
                behind.plug_in(address, name, self._hear)

    @property
    def address(self) -> Address:
        """Its own address, the first where it has several ports."""
        return self.addresses[0]

    def send(self, data: bytes, to: Address, port: int = 0) -> None:
        """Send a datagram, from the first port or another one."""
        source = self.addresses[port]
        if self.behind:
            self.behind.send(source, data, to)
        else:
            self.put(source[1], data, to)

    async def receive(self, seconds: float = 0.2) -> tuple[bytes, Address] | None:
        """Return the next datagram and where it came from; None when none comes."""
        try:
            async with asyncio.timeout(seconds):
                return await self._heard.get()
        except TimeoutError:
            return None

    def _hear(self, data: bytes, source: Address) -> None:
        self._heard.put_nowait((data, source))

    def __repr__(self) -> str:
        return f"{self.name}: {', '.join(f'{host}:{port}' for host, port in self.addresses)}"


# ---- NATs ------------------------------------------------------------------------------------------------------------


@dataclass
class Binding:
    """One line of a NAT's table: an inside address, the outside port that stands for it, and whom it has sent to."""

    inside: Address
    outside: Address
    towards: object  # whom this port is used for; None is everybody
    sent_to: dict[Address, object] = field(default_factory=dict)  # address: what it belongs to


class Passage(NamedTuple):
    """What became of a datagram at a NAT."""

    way: str  # out, in
    source: str
    to: str
    fate: str


class NatTable(NamedTuple):
    """A NAT's mappings, and below them what has passed or not passed since the last look."""

    bindings: Table
    passages: Table

    def _repr_html_(self) -> str:
        return "\n".join(table._repr_html_() for table in self if table.rows)

    def __repr__(self) -> str:
        return "\n".join(repr(table) for table in self if table.rows)


class Nat(Box):
    """A NAT of one of KINDS, or of another pair of mapping and filtering.

    Inside addresses reach the outside through outside ports, which are real sockets. A datagram to a private address of
    another home is dropped; within one home it is delivered directly.
    """

    homes: ClassVar[dict[Address, Nat]] = {}  # which private address is behind which NAT

    def __init__(self, kind: str | Kind, name: str = "NAT") -> None:
        super().__init__(name)
        if isinstance(kind, str) and kind not in KINDS:
            raise ValueError(f"no NAT is called {kind!r}: there are {', '.join(KINDS)}")
        self.mapping, self.filtering = KINDS[kind] if isinstance(kind, str) else kind
        self.bindings: list[Binding] = []
        self.passages: deque[Passage] = deque(maxlen=200)
        self.last_sent: dict[Address, Address] = {}  # inside address: where its last datagram was to go
        self.names: dict[Address, str] = {}  # of what is inside
        self._inside: dict[Address, Heard] = {}

    def plug_in(self, inside: Address, name: str, heard: Heard) -> None:
        """Take an address into the home behind this NAT."""
        self._inside[inside], self.names[inside] = heard, name
        Nat.homes[inside] = self

    def send(self, inside: Address, data: bytes, to: Address) -> None:
        """Send a datagram that comes from inside. A NAT that was closed sends nothing."""
        if inside not in self._inside:
            return
        self.last_sent[inside] = to
        home = Nat.homes.get(to)
        if home is self:
            self._note("out", inside, to, "delivered at home")
            self._inside[to](data, inside)
        elif home:
            self._note("out", inside, to, "dropped: a private address, not of this home")
        else:
            binding = self._binding(inside, to)
            binding.sent_to[to] = owner(to)
            self._note("out", inside, to, f"left from {called(binding.outside)}")
            self.put(binding.outside[1], data, to)

    def _binding(self, inside: Address, to: Address) -> Binding:
        towards = {INDEPENDENT: None, ADDRESS: owner(to), PORT: to}[self.mapping]
        for binding in self.bindings:
            if binding.inside == inside and binding.towards == towards:
                return binding
        outside = self.open_port(lambda data, source: self._arrive(made, data, source))
        made = Binding(inside, outside, towards)
        self.bindings.append(made)
        return made

    def _arrive(self, binding: Binding, data: bytes, source: Address) -> None:
        machine_known, port_known = owner(source) in binding.sent_to.values(), source in binding.sent_to
        if {INDEPENDENT: True, ADDRESS: machine_known, PORT: port_known}[self.filtering]:
            self._note("in", source, binding.outside, "let in")
            self._inside[binding.inside](data, source)
        else:
            unknown = "port" if machine_known else "address"
            self._note("in", source, binding.outside, f"dropped: nothing was sent to that {unknown} from here")

    def _note(self, way: str, source: Address, to: Address, fate: str) -> None:
        self.passages.append(Passage(way, called(source), called(to), fate))

    def table(self, fate: str = "") -> NatTable:
        """Return the mappings, and what became of the datagrams since the last table, repetitions left out.

        `fate` is how a fate begins that is of interest: "dropped"; then what leaves stands first.
        """
        bindings: list[tuple[str, ...]] = [
            (called(one.inside), called(one.outside), self._used_for(one), self._lets_in(one)) for one in self.bindings
        ]
        passages: list[tuple[str, ...]] = list(dict.fromkeys(one for one in self.passages if one.fate.startswith(fate)))
        if fate:  # which of them came first differs from run to run
            passages.sort(key=lambda one: one[0] != "out")
        self.passages.clear()
        title = f"{self.name}: {self.mapping} mapping, {self.filtering} filtering"
        head = ("inside", "outside, as the net sees it", "used for datagrams to", "lets in datagrams from")
        fates = {"let": GREEN, "delivered": GREEN, "dropped": RED}
        return NatTable(
            Table(head, [(title, bindings)], (23, 25, 25, 27)),
            Table(("way", "from", "to", "fate"), [("", passages)], (8, 26, 26, 40), tints=fates, tinted=3),
        )

    def _used_for(self, binding: Binding) -> str:
        return "everybody" if binding.towards is None else ", ".join(map(called, binding.sent_to))

    def _lets_in(self, binding: Binding) -> str:
        if self.filtering == INDEPENDENT:
            return "everybody"
        if self.filtering == PORT:
            return ", ".join(map(called, binding.sent_to))
        names = (one.name if isinstance(one, Box) else called(at) for at, one in binding.sent_to.items())
        return ", ".join(f"any port of {name}" for name in dict.fromkeys(names))

    def close(self) -> None:
        """Close all outside ports and forget the home."""
        super().close()
        for inside in self._inside:
            Nat.homes.pop(inside, None)
        self._inside.clear()

    def __repr__(self) -> str:
        return f"{self.name}: {self.mapping} mapping, {self.filtering} filtering"


# ---- Peers behind NATs -----------------------------------------------------------------------------------------------


HOOK = "connection_made"  # called with each new socket, before anything is sent from it


class HomeTransport:
    """Stands between aioice and one of its sockets: what is sent goes to the NAT."""

    def __init__(self, transport: asyncio.DatagramTransport, nat: Nat) -> None:
        self._transport, self._nat = transport, nat
        self.inside: Address = transport.get_extra_info("sockname")

    def sendto(self, data: bytes, addr: Address) -> None:
        """Send a datagram through the NAT."""
        self._nat.send(self.inside, data, addr)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the socket says of itself."""
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Whether the socket is closing."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the socket."""
        self._transport.close()


class Indoors(asyncio.DatagramProtocol):
    """What a socket at home reports to in place of aioice's protocol: a datagram that comes to it directly has not come
    through the NAT, and on the real net could not come at all."""

    def __init__(self, protocol: aioice.ice.StunProtocol) -> None:
        self._protocol = protocol

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Drop a datagram."""

    def error_received(self, error: Exception) -> None:
        """Hand on what the socket says."""
        self._protocol.error_received(error)

    def connection_lost(self, error: Exception | None) -> None:
        """Hand on what the socket says."""
        self._protocol.connection_lost(error)


class Homes:
    """While open, each socket that one of these peers opens is behind its NAT.

    `with Homes({call.pc1: nat1, call.pc2: nat2}):` for one cell, open() and close() for several. Closing it closes the
    NATs: close the call first. A peer's way to a TURN server does not go through its NAT, which would let it pass
    whatever its kind: the server answers from where it was asked.
    """

    _opened: ClassVar[list[Homes]] = []
    _original: ClassVar[Callable[..., None]]

    def __init__(self, nats: Mapping[loopback.Peer | aioice.Connection, Nat]) -> None:
        self.nats = dict(nats)

    def open(self) -> Homes:
        """Begin to put sockets behind NATs."""
        if not Homes._opened:
            Homes._original = getattr(aioice.ice.StunProtocol, HOOK)
            setattr(aioice.ice.StunProtocol, HOOK, _connection_made)
        Homes._opened.append(self)
        return self

    def close(self) -> None:
        """Close the NATs. Closing twice does no harm."""
        if self not in Homes._opened:
            return
        Homes._opened.remove(self)
        if not Homes._opened:
            setattr(aioice.ice.StunProtocol, HOOK, Homes._original)
        for nat in self.nats.values():
            nat.close()

    def __enter__(self) -> Homes:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def home_of(self, connection: aioice.Connection) -> tuple[Nat | None, str]:
        """Return the NAT, and the name, of the peer that a connection belongs to."""
        for peer, nat in self.nats.items():
            if isinstance(peer, loopback.Peer) and connection in private.connections(peer):
                return nat, peer.name
            if peer is connection:
                return nat, "peer"
        return None, ""


def _connection_made(protocol: aioice.ice.StunProtocol, transport: Any) -> None:
    """Put a new socket behind the NAT of its peer, if it has one."""
    found = (homes.home_of(protocol.receiver) for homes in Homes._opened)
    nat, name = next(((nat, name) for nat, name in found if nat), (None, ""))
    if nat and not isinstance(transport, aioice.turn.TurnTransport):
        home = HomeTransport(transport, nat)
        nat.plug_in(home.inside, name, functools.partial(_deliver, protocol))
        transport.set_protocol(Indoors(protocol))
        Homes._original(protocol, home)
    else:
        Homes._original(protocol, transport)


def at_home(kind: str, configuration: RTCConfiguration, **options: Any) -> tuple[loopback.Call, Nat, Nat]:
    """Return a call whose peers are at home, each behind a NAT of that kind, and the NATs; they go with the call."""
    call = loopback.Call(loopback.SyntheticSource(320, 240, 30), configuration=configuration, **options)
    nats = Nat(kind, "NAT 1"), Nat(kind, "NAT 2")
    homes = Homes(dict(zip(call.peers, nats, strict=True))).open()

    def leave() -> None:
        if {peer.pc.connectionState for peer in call.peers} == {"closed"}:
            homes.close()

    for peer in call.peers:
        peer.pc.on("connectionstatechange", leave)
    return call, *nats


def _deliver(protocol: aioice.ice.StunProtocol, data: bytes, source: Address) -> None:
    protocol.datagram_received(data, source)  # looked up now: a loopback.GuardedSocket has one of its own


# ---- Each kind against each ------------------------------------------------------------------------------------------


class Meeting(NamedTuple):
    """How two peers met: of which type each one's address is in the eyes of the other, or "none"."""

    kinds: tuple[str, str]
    types: tuple[str, str]
    seconds: float

    def __str__(self) -> str:
        return "no pair" if "none" in self.types else f"{self.types[0]} ↔ {self.types[1]}"


async def meet(kind1: str, kind2: str, server: Address, deadline: float = 2.0) -> Meeting:
    """Run ICE between two peers behind NATs, with a STUN server, and let a word cross each way."""
    began = time.perf_counter()
    ends = [aioice.Connection(one, stun_server=server, use_ipv6=False) for one in (True, False)]
    one, two = ends
    nats = Nat(kind1, "NAT 1"), Nat(kind2, "NAT 2")
    types = ("none", "none")
    with Homes(dict(zip(ends, nats, strict=True))):
        try:
            with loopback.LoopbackOnly():
                await asyncio.gather(*(end.gather_candidates() for end in ends))
            for end, other in (ends, ends[::-1]):
                end.remote_username, end.remote_password = other.local_username, other.local_password
                for candidate in (*other.local_candidates, None):
                    await end.add_remote_candidate(candidate)
            async with asyncio.timeout(deadline):
                await asyncio.gather(*(end.connect() for end in ends))
                for end, other in (ends, ends[::-1]):
                    await end.send(b"hello")
                    await other.recv()
            types = _type_seen(two, nats[1]), _type_seen(one, nats[0])
        except (TimeoutError, ConnectionError):
            pass  # no pair: that is the outcome
        finally:
            await asyncio.gather(*(end.close() for end in ends))
    return Meeting((kind1, kind2), types, time.perf_counter() - began)


def _type_seen(end: aioice.Connection, nat: Nat) -> str:
    """Return the type of the remote candidate that a connection has just sent to."""
    last = nat.last_sent[end.local_candidates[0].host, end.local_candidates[0].port]
    return next(other.type for other in end.remote_candidates if (other.host, other.port) == last)


class NatMatrix(Drawing):
    """The outcome of each kind of NAT against each, as a coloured figure."""

    def __init__(self, meetings: Iterable[Meeting]) -> None:
        self.meetings = {meeting.kinds: meeting for meeting in meetings}
        super().__init__(_drawn(self.meetings), "each kind of NAT against each")

    def __getitem__(self, kinds: tuple[str, str]) -> Meeting:
        return self.meetings[kinds]


COLOURS = {"srflx ↔ srflx": HUES["SRTP"], "no pair": BAD}
SOME_PRFLX = HUES["STUN"]


def _drawn(meetings: Mapping[tuple[str, str], Meeting]) -> Canvas:
    """Draw a square for each meeting: pc1's NAT is the row, pc2's the column."""
    left, top, wide, high, gap = 190, 74, 188, 72, 6
    canvas = Canvas(left + 4 * wide + gap, top + 4 * high + 34)
    canvas.text(left + 2 * wide, 18, "pc2 is behind a NAT of the kind", colour=SOFT, align="center")
    canvas.text(12, top - 26, "pc1 is behind", colour=SOFT)
    for number, kind in enumerate(KINDS):
        canvas.text(left + (number + 0.5) * wide, top - 26, kind, pixels=13.5, weight="bold", align="center")
        canvas.text(12, top + (number + 0.5) * high, kind, pixels=13.5, weight="bold")
    for row, one in enumerate(KINDS):
        for column, other in enumerate(KINDS):
            meeting = meetings[one, other]
            x, y = left + column * wide, top + row * high
            failed = "none" in meeting.types
            canvas.box(x, y, wide - gap, high - gap, COLOURS.get(str(meeting), SOME_PRFLX), round_by=5)
            middle = x + (wide - gap) / 2
            canvas.text(middle, y + 25, str(meeting), pixels=15, weight="bold", align="center", colour=WHITE)
            words = "needs a relay" if failed else f"after {meeting.seconds:.2f} s"
            canvas.text(middle, y + 47, words, pixels=11.5, align="center", colour=WHITE)
    words = "pc1's address as pc2 sees it ↔ pc2's address as pc1 sees it, in the pair over which a datagram crossed"
    canvas.text(left, top + 4 * high + 14, words, colour=SOFT, pixels=11.5)
    return canvas


async def nat_matrix(server: Address, deadline: float = 2.0) -> NatMatrix:
    """Run ICE between peers behind each two kinds of NAT, all sixteen at once, with that STUN server. Those that found
    no pair have a second try, with less going on."""
    meetings = await asyncio.gather(*(meet(one, two, server, deadline) for one in KINDS for two in KINDS))
    without = [meeting.kinds for meeting in meetings if "none" in meeting.types]
    again = await asyncio.gather(*(meet(*kinds, server, deadline) for kinds in without))
    return NatMatrix([*meetings, *again])

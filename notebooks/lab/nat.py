"""Toy NATs on 127.0.0.1, real ICE across them, and a real TURN server where one is installed.

Machine("server")                         a machine on the open net, or behind a NAT: send(), await receive()
Nat("symmetric")                          a NAT; .table() shows its mappings and what became of the last datagrams
Homes({call.pc1: one, call.pc2: two})     while open, the sockets of these peers are behind these NATs
await nat_matrix(server)                  each kind against each, measured
Coturn()                                  coturn on 127.0.0.1; where it is not installed, recorded runs
paths({"direct": one, "relayed": two})    what a relay costs, as a table
ways({"direct": one, "relayed": two})     the same as a figure: how long each media datagram was under way

Every socket is bound to 127.0.0.1, so all machines have one IP address. The toy net takes them apart by their ports:
the ports of one machine or NAT count as one address, and a port behind a NAT is a private address that nobody outside
can send to.
"""

from __future__ import annotations

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import atexit
import base64
import contextlib
import functools
import json
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import aioice
import cv2
import numpy as np
from aiortc import RTCIceServer, RTCIceTransportPolicy

from . import private
from .draw import BAD, INK, SOFT, Canvas, Drawing
from .sdp import GREEN, RED, Table
from .wire import Tap

__all__ = ["KINDS", "Coturn", "Homes", "Kind", "Machine", "Nat", "Run", "carry", "named", "nat_matrix", "paths", "ways"]

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

        `fate` is how a fate begins that is of interest: "dropped".
        """
        bindings: list[tuple[str, ...]] = [
            (called(one.inside), called(one.outside), self._used_for(one), self._lets_in(one)) for one in self.bindings
        ]
        passages: list[tuple[str, ...]] = list(dict.fromkeys(one for one in self.passages if one.fate.startswith(fate)))
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


COLOURS = {"srflx ↔ srflx": "#cfe8d5", "no pair": "#f6cfcb"}
SOME_PRFLX = "#fbe5c6"


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
            colour = BAD if failed else INK
            canvas.text(middle, y + 25, str(meeting), pixels=15, weight="bold", align="center", colour=colour)
            words = "needs a relay" if failed else f"after {meeting.seconds:.2f} s"
            canvas.text(middle, y + 47, words, pixels=11.5, align="center", colour=SOFT)
    words = "pc1's address as pc2 sees it ↔ pc2's address as pc1 sees it, in the pair over which a datagram crossed"
    canvas.text(left, top + 4 * high + 14, words, colour=SOFT, pixels=11.5)
    return canvas


async def nat_matrix(server: Address, deadline: float = 2.0) -> NatMatrix:
    """Run ICE between peers behind each two kinds of NAT, all sixteen at once, with that STUN server."""
    return NatMatrix(await asyncio.gather(*(meet(one, two, server, deadline) for one in KINDS for two in KINDS)))


# ---- A relay ---------------------------------------------------------------------------------------------------------

RECORDED = Path(__file__).with_name("relay_runs.json")
HALT = 0.4  # s for which the server stands still


@dataclass
class Run:
    """What a call over one way has shown. `recorded` says when and with what, where it was not run here and now."""

    candidates: list[str]  # pc1's own, as lines of an SDP
    pair: str  # selected, as pc1 sees it
    connected_ms: float  # from making the peers
    datagrams: list[tuple[str, ...]]  # pc1's: layer, number sent, to whom, number received, from whom
    ways: list[tuple[float, float]]  # of media datagrams: when they left pc1, in s after the halt, and ms until pc2
    delay_ms: float  # median time of a picture, from captured to decoded
    received: int  # pictures
    misread: int
    while_halted: int  # pictures received while the server stood still
    jpeg: str  # the newest picture received, base64
    recorded: str = ""

    @property
    def path_ms(self) -> float:
        """Median time of a media datagram from pc1 to pc2, before the halt."""
        return statistics.median(way for left, way in self.ways if left < 0)

    @property
    def picture(self) -> loopback.Picture:
        """The newest picture received."""
        decoded = cv2.imdecode(np.frombuffer(base64.b64decode(self.jpeg), np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None, "this is no JPEG"
        return decoded

    @property
    def wire(self) -> Table:
        """pc1's datagrams as its tap saw them: how many went where, and came from where."""
        head = ("pc1's", "sent", "to", "received", "from")
        return Table(head, [(self.recorded, self.datagrams)], (12, 12, 32, 12, 32), code=(2, 4))

    @classmethod
    def read(cls, name: str) -> Run:
        """Return a recorded run."""
        stored = json.loads(RECORDED.read_text(encoding="utf-8"))[name]
        return cls(**stored | {name: [tuple(row) for row in stored[name]] for name in ("datagrams", "ways")})

    def __repr__(self) -> str:
        said = f" ({self.recorded})" if self.recorded else ""
        return f"{self.pair}{said}"


class Coturn:
    """The STUN and TURN server coturn on 127.0.0.1, with a password made up for this run.

    Where it is not installed it does not run, and carry() returns the recorded run.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = (
        *("-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--allow-loopback-peers"),
        *("--lt-cred-mech", "--realm=loopback", "--no-tls", "--no-dtls", "--no-cli", "--log-file=stdout"),
    )

    def __init__(self) -> None:
        self.user, self.password = "learner", secrets.token_hex(16)
        self.port = _free_port()
        self.program = shutil.which("turnserver")
        self._process: asyncio.subprocess.Process | None = None
        self._stack = contextlib.ExitStack()

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self._process is not None

    @property
    def ice_server(self) -> RTCIceServer:
        """What a peer has to know of it."""
        return RTCIceServer(f"turn:{HERE}:{self.port}", username=self.user, credential=self.password)

    async def start(self) -> Coturn:
        """Start the server, where it is installed, and wait until it answers. Raises CallError after 5 s."""
        if self.program and not self._process:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory())
            own = (f"--listening-port={self.port}", f"--user={self.user}:{self.password}", f"--pidfile={folder}/pid")
            self._process = await asyncio.create_subprocess_exec(
                *(self.program, *self.OPTIONS, *own),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self._stack.callback(_end, self._process)
            atexit.register(_end, self._process)  # a notebook that is closed half-way leaves nothing behind
            await self._answers()
        return self

    async def _answers(self) -> None:
        """Send STUN requests until one is answered."""
        asking = Machine("probe")
        request = bytes(aioice.stun.Message(aioice.stun.Method.BINDING, aioice.stun.Class.REQUEST))
        try:
            async with asyncio.timeout(5):
                while not await asking.receive(0.05):
                    asking.send(request, (HERE, self.port))
        except TimeoutError as error:
            await self.close()
            raise loopback.CallError("coturn does not answer after 5 s: does turnserver start by hand?") from error
        finally:
            asking.close()

    async def carry(self, call: loopback.Call) -> Run:
        """Run a call whose options name this server; return what it shows. Where there is none, return a recorded run,
        and print that it is one."""
        if self._process:
            return await carry(call, self)
        relay_only = call.pc1.configuration.iceTransportPolicy is RTCIceTransportPolicy.RELAY
        recorded = Run.read("relay only" if relay_only else "all candidates")
        print(recorded.recorded)
        return recorded

    def halt(self) -> None:
        """Let the server stand still."""
        if self._process:
            self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let the server work again."""
        if self._process:
            self._process.send_signal(signal.SIGCONT)

    async def close(self) -> None:
        """End the server. Closing twice does no harm."""
        self._stack.close()
        if self._process:
            async with asyncio.timeout(10):
                await self._process.wait()
            self._process = None

    def __repr__(self) -> str:
        if self._process:
            return f"coturn on {HERE}:{self.port}"
        return "coturn is not installed (turnserver was not found): the relayed call below is a recorded one"


def store(runs: Mapping[str, Run], said: str) -> None:
    """Make these the recorded runs; `said` is the day and the versions."""
    found = {name: asdict(run) | {"recorded": f"recorded run: {said}"} for name, run in runs.items()}
    RECORDED.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((HERE, 0))
        return int(one.getsockname()[1])


async def carry(call: loopback.Call, server: Coturn) -> Run:
    """Run a call for a moment, halt the server for HALT seconds, and return what the call has shown."""
    with Tap(call) as tap:
        await call.run()
        await asyncio.sleep(0.5)
        delay_ms = call.meter.latency_ms["p50"] or 0.0
        halted_at = call.log.now()
        server.halt()
        try:
            await asyncio.sleep(0.05)  # what was under way arrives
            before = call.meter.received
            await asyncio.sleep(HALT - 0.05)
            while_halted = call.meter.received - before
        finally:
            server.go_on()
        await asyncio.sleep(0.15)  # what has waited arrives
    assert call.pc2.picture is not None, "run() ends with the first picture"
    picture = cv2.imencode(".jpg", call.pc2.picture, [cv2.IMWRITE_JPEG_QUALITY, 70])[1].tobytes()
    return Run(
        candidates=[one["candidate"] for one in loopback.candidates_in(call.pc1.pc.localDescription.sdp)],
        pair=str(call.pc1.selected_pair),
        connected_ms=(call.after("connected") or 0.0) * 1000,
        datagrams=[_summed(tap, layer) for layer in ("STUN", "DTLS", "SRTP")],
        ways=_ways(tap, halted_at),
        delay_ms=delay_ms,
        received=call.meter.received,
        misread=call.meter.misread,
        while_halted=while_halted,
        jpeg=base64.b64encode(picture).decode(),
    )


def _summed(tap: Tap, layer: str) -> tuple[str, ...]:
    """Return how many datagrams of a layer pc1 has sent and received, with the addresses of the other end."""
    row = [layer]
    for direction in ("out", "in"):
        found = tap.only(layer, "pc1", direction)
        row += [f"≈{len(found)}" if found else "none", ", ".join(sorted({datagram.remote for datagram in found}))]
    return tuple(row)


def _ways(tap: Tap, since: float) -> list[tuple[float, float]]:
    """Return when each media datagram left pc1, in s after `since`, and how many ms later pc2 had it."""
    left = {datagram.data: datagram.t for datagram in tap.only("SRTP", "pc1", "out")}
    arrived = [datagram for datagram in tap.only("SRTP", "pc2", "in") if datagram.data in left]
    return [(round(left[d.data] - since, 4), round((d.t - left[d.data]) * 1000, 3)) for d in arrived]


def paths(runs: Mapping[str, Run]) -> Table:
    """Show what the runs have measured, a column each."""
    rows: list[tuple[str, ...]] = [
        ("selected pair", *(run.pair for run in runs.values())),
        ("connected after", *(f"≈{run.connected_ms:.0f} ms" for run in runs.values())),
        ("a media datagram's way, median", *(f"≈{run.path_ms:.2f} ms" for run in runs.values())),
        ("a picture's delay, median", *(f"≈{run.delay_ms:.1f} ms" for run in runs.values())),
        ("pictures received, misread", *(f"≈{run.received}, {run.misread}" for run in runs.values())),
        (
            f"pictures received in the {HALT} s in which the server stands still",
            *(f"≈{run.while_halted}" if run.while_halted else "none" for run in runs.values()),
        ),
    ]
    said = {run.recorded: None for run in runs.values() if run.recorded}
    wide = 72 // len(runs)
    return Table(("", *runs), [("", rows)], (28, *[wide] * len(runs)), note="; ".join(said))


def ways(runs: Mapping[str, Run]) -> Drawing:
    """Draw how long each media datagram was under way, before, in and after the halt of the server."""
    canvas = Canvas(980, 330)
    axes = canvas.figure.add_axes((0.075, 0.155, 0.9, 0.74))
    axes.axvspan(0, HALT, color="#f6cfcb", alpha=0.5, linewidth=0)
    for (name, run), colour, marker in zip(runs.items(), ("#1d5fa8", "#a85b00", "#217a46"), "os^", strict=False):
        title = f"{name}, recorded" if run.recorded else name
        label = f"{title}: connected after {run.connected_ms:.0f} ms; median way, before the halt, {run.path_ms:.2f} ms"
        lefts, times = ([way[part] for way in run.ways] for part in (0, 1))
        axes.scatter(lefts, times, s=16, color=colour, marker=marker, alpha=0.75, label=label, linewidth=0)
    axes.set_yscale("log")
    axes.set_ylabel("ms under way")
    axes.set_xlabel("when it left pc1, in seconds after the server was halted (shaded: the server stands still)")
    axes.set_yticks([0.1, 1, 10, 100], labels=["0.1", "1", "10", "100"])
    axes.legend(loc="upper left", ncols=2, frameon=False, bbox_to_anchor=(-0.08, 1.14), handletextpad=0.1, fontsize=8.5)
    axes.grid(axis="y", color="#e3e8ec")
    axes.spines[["top", "right"]].set_visible(False)
    return Drawing(canvas, f"datagrams of {', '.join(runs)}")

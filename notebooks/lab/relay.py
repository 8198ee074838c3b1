"""A real TURN server, coturn, where one is installed; and what a relay costs.

Coturn()                                  coturn on 127.0.0.1; where it is not installed, recorded runs
configured(server, policy="relay")        a configuration that names servers
await coturn.run(call)                    runs a call, halts the server for a moment, keeps what there is to look at
paths({"direct": one, "relayed": two})    what a relay costs, as a table
ways({"direct": one, "relayed": two})     the same as a figure: how long each media datagram was under way
"""

from __future__ import annotations

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import atexit
import base64
import contextlib
import json
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import aioice
import cv2
import numpy as np
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCIceServer, RTCIceTransportPolicy
from IPython.display import Image

from .draw import BAD, HUES, Table, chart, still
from .nat import HERE, Machine
from .turn import Passed, TurnClient, TurnTap, said, turn_table
from .wire import Tap

__all__ = ["Coturn", "Run", "configured", "paths", "ways"]

RECORDED = Path(__file__).with_name("relay_runs.json")
HALT = 0.4  # s for which the server stands still


def configured(*servers: RTCIceServer, policy: str = "all") -> RTCConfiguration:
    """Return a configuration that names these servers; with the policy "relay" nothing but a relay may be used."""
    return RTCConfiguration(
        iceServers=list(servers),
        iceTransportPolicy=RTCIceTransportPolicy(policy),
        bundlePolicy=RTCBundlePolicy.MAX_BUNDLE,  # all media over one port (RFC 9143), as browsers end up with
    )


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
    below: list[Passed]  # what pc1's TURN client has really sent and received at first, its wrapping too
    recorded: str = ""

    @property
    def path_ms(self) -> float:
        """Median time of a media datagram from pc1 to pc2, before the halt."""
        return statistics.median(way for left, way in self.ways if left < 0)

    @property
    def fastest_ms(self) -> float:
        """Shortest time of a media datagram from pc1 to pc2: what was slower was kept waiting."""
        return min(way for _, way in self.ways)

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

    @property
    def turn(self) -> Table:
        """The same, one layer below: what has really passed between pc1 and the TURN server, the first of each kind."""
        return turn_table(first_of_each(self.below), note=self.recorded)

    @classmethod
    def read(cls, name: str) -> Run:
        """Return a recorded run."""
        stored = json.loads(RECORDED.read_text(encoding="utf-8"))[name]
        rows = {name: [tuple(row) for row in stored[name]] for name in ("datagrams", "ways")}
        return cls(**stored | rows | {"below": read_passed(stored["below"])})

    def __repr__(self) -> str:
        said = f" ({self.recorded})" if self.recorded else ""
        return f"{self.pair}{said}"


def read_passed(stored: Iterable[tuple[str, str, str]]) -> list[Passed]:
    """Return datagrams from their hexadecimal form."""
    return [Passed(way, over, bytes.fromhex(data)) for way, over, data in stored]


# Of each kind that passes between a peer and its TURN server, the first. Its RTCP and refreshes come when they come.
KINDS = (
    *("Allocate request", "Allocate error", "Allocate request, signed", "Allocate success"),
    *("ChannelBind request", "ChannelBind success"),
    *(f"ChannelData 0x4000: {layer}" for layer in ("STUN", "DTLS", "SRTP")),
)


def first_of_each(passed: Iterable[Passed]) -> list[Passed]:
    """Return the first datagram of each kind and way, kind by kind."""
    found: dict[tuple[str, str], Passed] = {}
    for one in passed:
        words = said(one.data)
        kind = max((kind for kind in KINDS if words.startswith(kind)), key=len, default="")
        found.setdefault((kind, one.way), one)
    return [found[kind, way] for kind in KINDS for way in ("out", "in") if (kind, way) in found]


class Coturn:
    """The STUN and TURN server coturn on 127.0.0.1, with a password made up for this run.

    Where it is not installed it does not run, and run() returns the recorded run.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = (
        *("-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--allow-loopback-peers"),
        *("--lt-cred-mech", "--realm=loopback", "--no-tls", "--no-dtls", "--no-cli", "--log-file=stdout"),
    )

    started: ClassVar[set[Coturn]] = set()

    def __init__(self, *options: str) -> None:
        self.options = options  # more of them
        self.user, self.password = "learner", secrets.token_hex(16)
        self.port = _free_port()
        self.program = shutil.which("turnserver")
        self._process: asyncio.subprocess.Process | None = None
        self._stack = contextlib.ExitStack()

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self._process is not None

    def ice_server(self, transport: str = "udp") -> RTCIceServer:
        """What a peer has to know of it. `transport` is between the peer and the server: udp or tcp."""
        uri = f"turn:{HERE}:{self.port}?transport={transport}"
        return RTCIceServer(uri, username=self.user, credential=self.password)

    async def client(self) -> TurnClient:
        """Return a TURN client of the server. Where it does not run it plays a recorded conversation: that of a server
        with more options is the one about its errors."""
        conversation = "two errors" if self.options else "by hand"
        stored = json.loads(RECORDED.read_text(encoding="utf-8"))[conversation] if not self.running else []
        return await TurnClient(self, read_passed(stored)).open()

    async def start(self) -> Coturn:
        """Start the server, where it is installed, and wait until it answers. Raises CallError after 5 s."""
        for other in Coturn.started - {self}:  # a cell that is run twice leaves one server
            await other.close()
        if self.program and not self._process:
            Coturn.started.add(self)
            folder = self._stack.enter_context(tempfile.TemporaryDirectory())
            own = (f"--listening-port={self.port}", f"--user={self.user}:{self.password}", f"--pidfile={folder}/pid")
            self._process = await asyncio.create_subprocess_exec(
                *(self.program, *self.OPTIONS, *own, *self.options),
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

    async def run(self, call: loopback.Call) -> Run:
        """Run a call for a moment, halt the server for HALT seconds, close the call, and return what it has shown. One
        that needs the server where there is none is not run: the recorded run is returned, and that is printed."""
        servers = loopback.uris(call.pc1.configuration)
        if self.running or not servers:
            try:
                return await observed(call, self)
            finally:
                await call.close()
        await call.close()
        relay_only = call.pc1.configuration.iceTransportPolicy is RTCIceTransportPolicy.RELAY
        over = " over TCP" if "tcp" in servers[-1] else ""
        recorded = Run.read(f"relay only{over}" if relay_only else "all candidates")
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
        Coturn.started.discard(self)

    def __repr__(self) -> str:
        if self._process:
            return f"coturn on {HERE}:{self.port}"
        return "coturn is not installed (turnserver was not found): the relayed call below is a recorded one"


def store(runs: Mapping[str, Run], conversations: Mapping[str, Iterable[Passed]], when: str) -> None:
    """Make these the recorded runs, and these the conversations with a server, "by hand" and "two errors"; `when` is
    the day and the versions."""

    def hexed(passed: Iterable[Passed]) -> list[tuple[str, str, str]]:
        return [(one.way, one.over, one.data.hex()) for one in passed]

    found: dict[str, Any] = {
        name: asdict(run) | {"recorded": f"recorded run: {when}", "below": hexed(first_of_each(run.below))}
        for name, run in runs.items()
    }
    found |= {name: hexed(passed) for name, passed in conversations.items()}
    RECORDED.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((HERE, 0))
        return int(one.getsockname()[1])


async def observed(call: loopback.Call, server: Coturn) -> Run:
    """Run a call for a moment, halt the server for HALT seconds, and return what the call has shown."""
    with TurnTap() as below, Tap(call) as tap:
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
        below=below.first,
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
    recorded = {run.recorded: None for run in runs.values() if run.recorded}
    (first, base), *others = runs.items()
    notes = [f"Against {first}: {'; '.join(f'{name} {against(base, run)}' for name, run in others)}."] if others else []
    wide = 72 // len(runs)
    return Table(("", *runs), [("", rows)], (28, *[wide] * len(runs)), note=" ".join([*notes, *recorded]))


def against(base: Run, other: Run) -> str:
    """Return in words how another run compares with one: the numbers differ from machine to machine."""
    return (
        f"connected {'later' if other.connected_ms > base.connected_ms else 'no later'}, "
        f"the fastest datagram was under way {'longer' if other.fastest_ms > base.fastest_ms else 'no longer'}"
    )


def ways(runs: Mapping[str, Run]) -> Image:
    """Draw how long each media datagram was under way, before, in and after the halt of the server."""
    figure, axes = chart(330)
    axes.axvspan(0, HALT, color=BAD, alpha=0.15, linewidth=0)
    hues = [HUES[layer] for layer in ("message", "STUN", "SRTP")]
    for (name, run), colour, marker in zip(runs.items(), hues, "os^", strict=False):
        title = f"{name}, recorded" if run.recorded else name
        label = f"{title}: connected after {run.connected_ms:.0f} ms; median way, before the halt, {run.path_ms:.2f} ms"
        lefts, times = ([way[part] for way in run.ways] for part in (0, 1))
        axes.scatter(lefts, times, s=16, color=colour, marker=marker, alpha=0.75, label=label, linewidth=0)
    axes.set_yscale("log")
    axes.set_ylabel("ms under way")
    axes.set_xlabel("when it left pc1, in seconds after the server was halted (shaded: the server stands still)")
    axes.set_yticks([0.1, 1, 10, 100], labels=["0.1", "1", "10", "100"])
    axes.legend(loc="lower left", ncols=2, frameon=False, bbox_to_anchor=(-0.08, 1), handletextpad=0.1, fontsize=8.5)
    axes.grid(axis="y", color="#7f7f7f", alpha=0.3)
    return still(figure)

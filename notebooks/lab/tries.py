"""A call tried in other ways, for lesson 03: addresses that ICE shall find, ways to walk down the steps, small faults,
waiting, and two drawings."""

from __future__ import annotations

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

import aioice
from aiortc import RTCSessionDescription
from IPython.display import Image

from loopback import (
    Call,
    CallError,
    Event,
    LoopbackOnly,
    Message,
    Peer,
    SyntheticSource,
    in_time,
    play,
)

from .check import expect
from .draw import Table, chart, still
from .faults import Cut, Edit, FaultyChannel, Send, delay
from .ice import pair_table
from .private import check_list
from .sdp import edit
from .wire import Datagram, Fault, Tap

__all__ = [
    *("STRANGERS", "Rounds"),
    *("addresses", "answer_sent", "as_mdns", "at_once", "attempt", "bars", "check_lists", "connected", "ended"),
    *("ice_lite", "impatient", "latest_requests", "riddle", "rounds", "second_late", "stopwatch", "strips", "trickled"),
    *("ufrag", "usable", "wrong_password"),
]

Channels = tuple[FaultyChannel, FaultyChannel]
Way = tuple[Callable[[Call], Awaitable[None]], Callable[[], Channels]]
States = Mapping[str, Sequence[tuple[float, str]]]  # pair -> (ms, state)

# Chromium 156, addresses replaced: of a page that may not use the camera, then of one that may; and a media server's.
STRANGERS = """\
candidate:1137833290 1 udp 2113942271 83934c7b-cc5e-44ed-b6f9-481d80854f89.local 51812 typ host generation 0 ufrag wmxG
candidate:1863039928 1 udp 2122134271 2001:db8::2 58084 typ host generation 0 ufrag Ec57 network-id 2
candidate:1752815368 1 udp 2122063615 192.0.2.2 40540 typ host generation 0 ufrag Ec57 network-id 1
candidate:7 1 tcp 1518280447 198.51.100.7 4443 typ host tcptype passive"""

COLOURS = {
    "frozen": "#9fb3c8",
    "waiting": "#5b8def",
    "in-progress": "#e8a33d",
    "succeeded": "#2e9e6b",
    "failed": "#c0392b",
}


def usable(*wanted: str) -> list[str]:
    """Return those of the addresses that this machine can bind, or 127.0.0.1 alone."""
    found = []
    for address in wanted:
        with contextlib.suppress(OSError), socket.socket(type=socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
            found.append(address)
    return found or ["127.0.0.1"]


@contextlib.contextmanager
def addresses(*found: str) -> Iterator[None]:
    """While entered, ICE finds these addresses in place of 127.0.0.1."""
    original = LoopbackOnly.__enter__

    def enter(guard: LoopbackOnly) -> None:
        original(guard)
        aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: list(found)

    LoopbackOnly.__enter__ = enter  # type: ignore[method-assign]
    try:
        yield
    finally:
        LoopbackOnly.__enter__ = original  # type: ignore[method-assign]


class Blocked(Cut):
    """Lets nothing through to one host."""

    def __init__(self, host: str) -> None:
        super().__init__()
        self.host = host

    def concerns(self, datagram: Datagram) -> bool:
        """Whether the datagram goes there."""
        return super().concerns(datagram) and datagram.remote.startswith(f"{self.host}:")


# ---- Ways to walk down the steps -------------------------------------------------------------------------------------


async def trickled(call: Call) -> None:
    """Take the steps up to connecting; candidates are taken in the background, as they come."""
    for step in call.steps[:-3]:
        if step.what == "addIceCandidate":
            step.peer.tasks.append(asyncio.create_task(play([step])))
        else:
            await step.run()


async def at_once(call: Call) -> None:
    """Take the steps up to connecting; candidates stay in the descriptions, which a Peer would take out of them."""
    for step in call.steps[:-3]:
        pc, channel = step.peer.pc, step.peer.channel
        if step.what.startswith("send the"):
            await channel.send(json.dumps({"type": pc.localDescription.type, "sdp": pc.localDescription.sdp}))
        elif step.what.startswith("setRemoteDescription"):
            await pc.setRemoteDescription(RTCSessionDescription(**json.loads(await channel.receive())))
        elif "andidate" not in step.what:
            await step.run()


async def stopwatch(way: Callable[[Call], Awaitable[None]], channels: Channels) -> float:
    """Return how many milliseconds a call takes from its making to connected, on both sides."""
    call = Call(SyntheticSource(320, 240, 30), channels=channels)
    with addresses(*usable("127.0.0.1", "127.0.0.2")):
        await way(call)
    await connected(call)
    milliseconds = (call.log.now() - call.started) * 1000
    await call.close()
    return milliseconds


class Rounds(dict[str, list[float]]):
    """The times of some ways, in ms, from rounds in which each had its turn. What outcome() takes for a clock."""

    @property
    def fastest(self) -> dict[str, float]:
        """The shortest time of each way: what took longer was kept waiting by something else."""
        return {name: min(times) for name, times in self.items()}

    @property
    def steady(self) -> bool:
        """Whether a difference of 150 ms can be told: with nothing slow a call needs less than half of that."""
        *others, last = self.fastest.values()
        return max(others) < 75 and last < 375

    def __str__(self) -> str:
        return "this machine is too busy. End other programs and run the cell again"


async def rounds(ways: Mapping[str, Way], least: int = 4, most: int = 12) -> Rounds:
    """Time each way in turn: as many rounds as it takes, on a busy machine, until the fastest can be right."""
    found = Rounds({name: [] for name in ways})
    for count in range(1, most + 1):
        for name, (way, channels) in ways.items():
            found[name].append(await stopwatch(way, channels()))
        if count >= least and found.steady:
            break
    return found


def second_late(seconds: float) -> Edit:
    """Let the candidate with the second address arrive later, and the end-of-candidates behind it."""

    def edit(message: Message, send: Send) -> None:
        late = " 127.0.0.2 " in message.get("candidate", "") or message["type"] == "end-of-candidates"
        delay(message["type"], seconds)(message, send) if late else send(message)

    return edit


async def attempt(channels: Channels | None = None, faults: Iterable[Fault] = ()) -> tuple[list[Event], Tap]:
    """Try a call that will not connect; print its error, return what happened and what was on the wire."""
    call = Call(SyntheticSource(320, 240, 30), channels=channels)
    call.deadline = 1.0  # s, to connect; 5 would be a long wait
    with Tap(call, faults=faults) as wire, expect(CallError):
        await trickled(call)
        await in_time(call, [play([step]) for step in call.steps if step.what == "connect"])
    events = list(call.log.events)
    await call.close()
    return events, wire


def ufrag(sdp: str) -> str:
    """Return the first ice-ufrag of a description."""
    found = re.search(r"a=ice-ufrag:(\S+)", sdp)
    assert found, "every description has one"
    return found[1]


def ice_lite(sdp: str) -> str:
    """Return the SDP of an agent that says it is a lite one (RFC 8839 section 5.3)."""
    return edit(sdp, "t=0 0", "t=0 0\r\na=ice-lite")


def as_mdns(line: str) -> str:
    """Return a candidate line with a name in place of its address, as a browser without a camera permission has it."""
    words = line.split()
    return " ".join([*words[:4], "1f2e3d4c-5b6a-4798-8a9b-0c1d2e3f4a5b.local", *words[5:]])


def wrong_password(sdp: str) -> str:
    """Return the SDP with another ice-pwd."""
    found = re.search(r"a=ice-pwd:(\S+)", sdp)
    assert found, "every description has a password"
    return edit(sdp, found[1], "x" * 22)


async def riddle() -> Tap:
    """Try a call with a fault that lies beyond the tap that is returned."""
    call = Call(SyntheticSource(320, 240, 30))
    with Tap(call) as wire, Tap(call, faults=[Cut(who="pc2")]):
        await trickled(call)
        await asyncio.sleep(0.6)
    await call.close()
    return wire


# ---- Waiting and looking ---------------------------------------------------------------------------------------------


async def connected(call: Call, within: float = 10.0) -> None:
    """Wait until both peers say connected. Raises TimeoutError."""
    async with asyncio.timeout(within):
        while {call.pc1.pc.connectionState, call.pc2.pc.connectionState} != {"connected"}:
            await asyncio.sleep(0.001)


async def ended(call: Call, within: float = 10.0) -> None:
    """Wait until both peers say closed. Raises TimeoutError."""
    async with asyncio.timeout(within):
        while {call.pc1.pc.connectionState, call.pc2.pc.connectionState} != {"closed"}:
            await asyncio.sleep(0.001)


def answer_sent(events: Iterable[Event]) -> float:
    """Return when pc2 sent its answer."""
    return next(event.t for event in events if event.what == "send answer")


async def latest_requests(tap: Tap, who: str, within: float = 20.0) -> tuple[Datagram, Datagram]:
    """Return the last two STUN requests of a peer, once there are two. Raises TimeoutError."""

    def requests() -> list[Datagram]:
        return [d for d in tap.only("STUN", who, "out") if d.summary.startswith("Binding request")]

    async with asyncio.timeout(within):
        while len(requests()) < 2:
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)  # for the response
    before, last = requests()[-2:]
    return before, last


async def check_lists(
    own: list[str], others: list[str], blocked: Iterable[str], seconds: float = 0.05
) -> tuple[Table, States]:
    """Run a call whose peers have these addresses, with nothing coming through to the blocked ones. Return pc1's check
    list as it was when the candidates had crossed, and the states of each pair from then on, looked at now and then,
    until so many seconds after the first one works."""
    call = Call(SyntheticSource(320, 240, 30))
    with Tap(call, faults=[Blocked(host) for host in blocked]):
        for step in call.steps[:-3]:
            with addresses(*(own if step.who == "pc1" else others)):
                await step.run()
        at_first = pair_table(call.pc1)
        seen = await states_over_time(call.pc1, seconds)
    await call.close()
    return at_first, seen


async def states_over_time(peer: Peer, seconds: float) -> States:
    """Look at a peer's check list every 2 ms, until so many seconds after the first pair works, 5 s at most; return the
    states of each pair, with their times."""
    seen: dict[str, list[tuple[float, str]]] = {}
    began, until = peer.log.now(), 5.0
    while (elapsed := peer.log.now() - began) < until:
        if any(pair.state == "succeeded" for pair in check_list(peer)):
            until = min(until, elapsed + seconds)
        for pair in check_list(peer):
            name = f"{pair.local.host} → {pair.remote.host}"
            seen.setdefault(name, []).append((elapsed * 1000, pair.state))
        await asyncio.sleep(0.002)
    return seen


@contextlib.contextmanager
def impatient(interval: float, failures: int) -> Iterator[None]:
    """While entered, aioice asks for consent every `interval` seconds and gives up after so many failures."""
    before = aioice.ice.CONSENT_INTERVAL, aioice.ice.CONSENT_FAILURES
    aioice.ice.CONSENT_INTERVAL, aioice.ice.CONSENT_FAILURES = interval, failures  # type: ignore[assignment]
    try:
        yield
    finally:
        aioice.ice.CONSENT_INTERVAL, aioice.ice.CONSENT_FAILURES = before


# ---- Drawing ---------------------------------------------------------------------------------------------------------


def strips(seen: States) -> Image:
    """Draw one row a pair, coloured by its state."""
    figure, axes = chart()
    axes.set_xlabel("ms after the candidates had crossed")
    axes.invert_yaxis()
    for row, moments in enumerate(seen.values()):
        ends = [t for t, _ in moments[1:]] + [moments[-1][0] + 2]
        for (t, state), end in zip(moments, ends, strict=True):
            axes.barh(row, end - t, left=t, height=0.6, color=COLOURS[state])
    found = {state for moments in seen.values() for _, state in moments}
    for state in [state for state in COLOURS if state in found]:
        axes.barh(0, 0, color=COLOURS[state], label=state)
    axes.set_xlim(0)
    axes.set_yticks(range(len(seen)), list(seen))
    axes.legend(ncols=len(COLOURS), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return still(figure)


def bars(times: Mapping[str, Sequence[float]]) -> Image:
    """Draw the fastest of each row of times as a bar, and each time as a dot: what is slower was kept waiting."""
    figure, axes = chart()
    axes.set_xlabel("ms from the new RTCPeerConnections to connected on both sides; bar: fastest, dots: single runs")
    axes.invert_yaxis()
    for row, (name, runs) in enumerate(times.items()):
        colour = COLOURS["succeeded" if name.startswith("trickled") else "frozen"]
        axes.barh(row, min(runs), height=0.6, color=colour)
        axes.scatter(runs, [row] * len(runs), color="#7f7f7f", s=14, zorder=3)
        axes.text(max(runs) + 6, row, f"fastest {min(runs):.0f} ms", va="center")
    axes.set_yticks(range(len(times)), list(times))
    axes.set_xlim(0, max(map(max, times.values())) * 1.25)
    return still(figure)

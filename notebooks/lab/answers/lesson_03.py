"""Answers of lesson 03, ICE, and what its cells borrow: ways to walk down the steps, waiting, drawing."""

import asyncio
import contextlib
import io
import json
import re
import socket
import statistics
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import aioice
from aiortc import RTCSessionDescription
from IPython.display import Image
from matplotlib.figure import Figure

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

from ..check import Question, expect, register, register_quiz
from ..faults import Cut, Edit, FaultyChannel, Send, delay
from ..ice import priority
from ..private import check_list
from ..sdp import edit
from ..wire import Datagram, Fault, Tap

__all__ = [
    *("addresses", "answer_sent", "at_once", "attempt", "bars", "connected", "ended", "impatient", "latest_requests"),
    *("riddle", "second_late", "states_over_time", "stopwatch", "strips", "trickled", "usable", "wrong_password"),
]

Channels = tuple[FaultyChannel, FaultyChannel]
States = Mapping[str, Sequence[tuple[float, str]]]  # pair -> (ms, state)

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
    """While entered, ICE finds these addresses; at the end of LoopbackOnly the library's own function is back."""
    with LoopbackOnly():
        aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: list(found)
        yield


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


async def connected(call: Call, within: float = 3.0) -> None:
    """Wait until both peers say connected. Raises TimeoutError."""
    async with asyncio.timeout(within):
        while {call.pc1.pc.connectionState, call.pc2.pc.connectionState} != {"connected"}:
            await asyncio.sleep(0.001)


async def ended(call: Call, within: float = 3.0) -> None:
    """Wait until both peers say closed. Raises TimeoutError."""
    async with asyncio.timeout(within):
        while {call.pc1.pc.connectionState, call.pc2.pc.connectionState} != {"closed"}:
            await asyncio.sleep(0.001)


def answer_sent(events: Iterable[Event]) -> float:
    """Return when pc2 sent its answer."""
    return next(event.t for event in events if event.what == "send answer")


async def latest_requests(tap: Tap, who: str, within: float = 8.0) -> tuple[Datagram, Datagram]:
    """Return the last two STUN requests of a peer, once there are two. Raises TimeoutError."""

    def requests() -> list[Datagram]:
        return [d for d in tap.only("STUN", who, "out") if d.summary.startswith("Binding request")]

    async with asyncio.timeout(within):
        while len(requests()) < 2:
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)  # for the response
    before, last = requests()[-2:]
    return before, last


async def states_over_time(peer: Peer, seconds: float) -> States:
    """Look at a peer's check list every 2 ms; return the states of each pair, with their times."""
    seen: dict[str, list[tuple[float, str]]] = {}
    began = peer.log.now()
    while (elapsed := peer.log.now() - began) < seconds:
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
    figure, axes = _figure("ms after the candidates had crossed")
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
    return _png(figure)


def bars(times: Mapping[str, Sequence[float]]) -> Image:
    """Draw the median of each row of times as a bar, and each time as a dot."""
    figure, axes = _figure(
        "ms from the new RTCPeerConnections to connected on both sides; bar: median, dots: single runs"
    )
    for row, (name, runs) in enumerate(times.items()):
        colour = COLOURS["succeeded" if name.startswith("trickled") else "frozen"]
        median = statistics.median(runs)
        axes.barh(row, median, height=0.6, color=colour)
        axes.scatter(runs, [row] * len(runs), color="#1a1e26", s=12, zorder=3)
        axes.text(max(runs) + 6, row, f"median {median:.0f} ms", va="center")
    axes.set_yticks(range(len(times)), list(times))
    axes.set_xlim(0, max(map(max, times.values())) * 1.25)
    return _png(figure)


def _figure(label: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(9.8, 2.7), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(label)
    return figure, axes


def _png(figure: Figure) -> Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image(buffer.getvalue(), format="png")


# ---- Answers ---------------------------------------------------------------------------------------------------------


def in_order(answer: Any) -> bool:
    """Whether a function puts descriptions before candidates, and leaves the rest in order."""
    return callable(answer) and all(
        _kept(answer, names) for names in ("c1 c2 offer end", "answer c1 end", "c1 answer c2")
    )


def _kept(function: Callable[[list[Message]], Any], names: str) -> bool:
    arrived: list[Message] = [{"type": name if name.isalpha() else "candidate", "name": name} for name in names.split()]
    first = [message for message in arrived if message["type"] in ("offer", "answer")]
    others = [message for message in arrived if message not in first]
    return bool(function(list(arrived)) == first + others)


register(
    "03 priority",
    right=priority(126, 65000, 1),
    look="the column 'its parts': put 65000 in the place of the local preference of a host",
    why="a little below the other two host candidates, far above every other type",
)
register(
    "03 type",
    right="prflx",
    look="the first of the three parts, and the four types of candidate",
    why="whoever is asked by an unknown address learns a peer-reflexive candidate, with this priority",
)
register(
    "03 order",
    right=in_order,
    look="what the function returns for [candidate, offer]: the offer has to stand first, the rest as it came",
    why="nothing is lost, and each peer sees a description before the first candidate",
)
register(
    "03 riddle",
    right="d",
    look="the rows that say 'in': at which peer are there none at all",
    why="pc1's requests arrive and are answered, and neither the answers nor pc2's own requests come in at pc1",
)
register_quiz(
    "03",
    Question(
        "Two candidates have priorities 2130706431 and 1694498815. What do you know without reading on?",
        (
            "the first is nearer",
            "the first is a host candidate, the second server-reflexive",
            "the first was found first",
        ),
        "b",
        "the highest byte is the type preference: 126 and 100 (RFC 8445, section 5.1.2.2)",
    ),
    Question(
        "Who nominates the pair?",
        ("the controlling side, which is the one that made the offer", "the side with the better candidate", "both"),
        "a",
        "with USE-CANDIDATE in a check; the other side follows (RFC 8445, sections 6.1.1 and 8.1.1)",
    ),
    Question(
        "No message with pc2's candidates reaches pc1, but pc1's reach pc2. What happens?",
        ("pc1 stays in checking", "pc2 fails at once", "pc1 learns pc2's address from its checks, and they connect"),
        "c",
        "a peer-reflexive candidate (RFC 8445, section 7.3.1.3)",
    ),
    Question(
        "The tap shows 401 responses. What do you look at first?",
        ("the firewall", "whether each side has the SDP of this very call", "the number of candidates"),
        "b",
        "the check was signed with a password that is not the receiver's",
    ),
    Question(
        "Pictures arrive, but no STUN response has come for half a minute. What must the sender do?",
        ("go on", "make a new offer", "stop sending"),
        "c",
        "its consent has expired (RFC 7675, section 5.1)",
    ),
)

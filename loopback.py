"""A whole WebRTC call in one process, laid open.

Two aiortc peers, pc1 and pc2, live in this one process. pc1 has a camera (or a test picture), and sound if asked;
pc2 has a screen. They share nothing: every word between them is a JSON text through a channel, and every picture is
a few encrypted UDP datagrams over 127.0.0.1. Both pictures are shown side by side.

    python loopback.py                  two moving pictures, every step on the terminal
    python loopback.py --step           the same call, one step at a time, each one explained
    python loopback.py --help           sources, codecs, recording, JSON, STUN and TURN

Map: the file reads from top to bottom. Whoever stops after part 4 has read the whole negotiation.

    1  The log         what happened, on one clock            5  Call control  ringing, busy: this is not WebRTC
    2  Signalling      the words that cross, and how          6  Pictures      time code, delay; sound and its level
    3  A peer          one RTCPeerConnection and its steps    7  Sources       test picture, camera, screen, file, tone
    4  A call          the steps in order, deadline, end      8  Looking       side-by-side view, window, recorder
                                                              9  Session       keys, command line, exit status

Dictionary

    SDP           a text that describes media: one m-line for each track, with its codecs and addresses (RFC 8866);
                  the m-line's name is its mid
    offer/answer  the two SDPs of a negotiation; the answer keeps what both sides can do (RFC 3264, RFC 9429)
    transceiver   what serves one m-line: a sender and a receiver; a sender's packets carry its number, the SSRC
    candidate     an address where a peer may be reached: host, server-reflexive (seen from outside) or relayed
                  (RFC 8839); one that is learned from a datagram is peer-reflexive
    ICE           trying pairs of candidates until one carries datagrams both ways; the offering side, which is
                  controlling, then nominates a pair (RFC 8445)
    ufrag, pwd    a name, and the password that signs ICE's test datagrams (STUN); both are sent in the SDP
    fingerprint   the hash, sent in the SDP, of the certificate a peer shows in the DTLS handshake (RFC 8122)
    DTLS, SRTP    the handshake that agrees on keys (DTLS 1.2, RFC 6347), the answering side its client; the media
                  encrypted with them (RFC 3711, RFC 5764)
    RTP, RTCP     pictures cut into numbered packets; reports on them, and requests: for a lost packet (NACK), for a
                  picture that needs no earlier one (PLI), for another bit rate (RFC 3550, RFC 4585)
    jitter buffer where the receiver puts packets back in order until a frame is whole

Left out: loudspeakers (the sound that arrives would howl into the microphone; it is measured, shown and recorded
instead), a signalling server, and what a browser has but aiortc has not: candidates that are sent while others are
still being gathered (trickle ICE, RFC 8838), VP9, AV1, simulcast. Comments say where else they differ.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # Ctrl-C during the imports below, a third of a second: leave without a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import argparse
import asyncio
import atexit
import binascii
import contextlib
import ctypes
import ctypes.util
import functools
import gc
import inspect
import ipaddress
import itertools
import json
import math
import queue
import secrets
import select
import statistics
import struct
import textwrap
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

# cv2 must be imported before aiortc. Both wheels carry libraries of the same name (libxcb); with av's copy loaded
# first, OpenCV's windows spin for ever. An import sorter must not move this block.
try:
    import cv2
except ModuleNotFoundError:
    sys.exit(
        f"loopback: this Python ({sys.executable}) has no OpenCV: use .venv/bin/python, or install as README.md says"
    )
except ImportError as missing:
    sys.exit(
        f"loopback: OpenCV cannot start ({missing}). Install what it needs: "
        "on Debian or Ubuntu, apt install libgl1 libglib2.0-0 libxcb1; on Fedora, dnf install mesa-libGL glib2 libxcb"
    )
# isort: split

import aioice
import av
import numpy as np
import numpy.typing as npt
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceCandidate,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.exceptions import InternalError, InvalidAccessError, InvalidStateError, OperationError
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.mediastreams import VIDEO_CLOCK_RATE, VIDEO_TIME_BASE, MediaStreamError
from aiortc.rtcicetransport import connection_kwargs, parse_stun_turn_uri
from aiortc.rtp import RtpPacket
from aiortc.sdp import SessionDescription, candidate_from_sdp

Picture = npt.NDArray[Any]  # uint8, (height, width, 3), blue-green-red: OpenCV's way
Samples = npt.NDArray[np.int16]  # one channel of sound, 48,000 a second


cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what matters is raised here, in one line
cv2.setNumThreads(1)  # pictures of this size are converted sooner by one thread than by waking others


class CallError(Exception):
    """The call or a device failed. The text is one line: the cause, then what to do about it."""


# ---- 1  The log ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """One thing that happened: `t` seconds after the log began, `who` did `what`."""

    t: float
    who: str
    what: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.t * 1000:8.1f} ms  {self.who:<6} {self.what:<28} {self.detail}".rstrip()

    def as_dict(self) -> dict[str, Any]:
        return {"t_ms": round(self.t * 1000, 3), "who": self.who, "what": self.what, "detail": self.detail}


class Log:
    """Steps, messages and state changes of both peers, on one clock; terminal, window and JSON show it."""

    def __init__(self, listener: Callable[[Event], None] = lambda event: None) -> None:
        self.start = time.perf_counter()
        self.events: deque[Event] = deque(maxlen=10_000)
        self.listener = listener

    def __call__(self, who: str, what: str, detail: str = "") -> Event:
        # Details may come from the other side. What cannot be printed could steer a terminal, or crash OpenCV.
        detail = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in detail)
        event = Event(self.now(), who, what, detail)
        self.events.append(event)
        self.listener(event)
        return event

    def now(self) -> float:
        """Seconds since the log began."""
        return time.perf_counter() - self.start

    def __repr__(self) -> str:
        return "\n".join(map(str, self.events))


# ---- 2  Signalling: the words that cross -----------------------------------------------------------------------------
#
# WebRTC does not say how offer and answer travel (W3C webrtc-pc, section 4.1): any way that carries text will do. Here
# it is a pair of queues. A WebSocket with the same two methods would turn this program into one for two machines.

Message = dict[str, Any]

MESSAGES: dict[str, dict[str, type]] = {
    "offer": {"sdp": str},
    "answer": {"sdp": str},
    "candidate": {"candidate": str, "sdpMid": str},
    "end-of-candidates": {},
    "bye": {},
}


class SignallingError(Exception):
    """A message that cannot be used: not one of MESSAGES, or not at this moment."""


def parse_message(text: str, known: dict[str, dict[str, type]] = MESSAGES) -> Message:
    """Return the message in a JSON text, one of those known. Raises SignallingError with what is wrong with it."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SignallingError(f"not JSON ({error})") from error
    if not isinstance(message, dict):
        raise SignallingError("not a JSON object")
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in known:
        raise SignallingError(f"unknown type {kind!r:.40}")
    for name, wanted in known[kind].items():
        if not isinstance(message.get(name), wanted):
            raise SignallingError(f"{kind} without the {'text' if wanted is str else 'list'} {name!r}")
    return message


class Channel(Protocol):
    """One end of the way between two peers: texts in order, nothing else."""

    async def send(self, text: str) -> None: ...
    async def receive(self) -> str: ...


class MemoryChannel:
    """A Channel made of two queues: what one end sends, the other receives."""

    def __init__(self, inbox: asyncio.Queue[str], outbox: asyncio.Queue[str]) -> None:
        self.inbox, self.outbox = inbox, outbox

    async def send(self, text: str) -> None:
        self.outbox.put_nowait(text)

    async def receive(self) -> str:
        return await self.inbox.get()


def memory_channel() -> tuple[MemoryChannel, MemoryChannel]:
    """Return the two ends of a new channel."""
    one: asyncio.Queue[str] = asyncio.Queue()
    other: asyncio.Queue[str] = asyncio.Queue()
    return MemoryChannel(one, other), MemoryChannel(other, one)


# ---- 3  A peer -------------------------------------------------------------------------------------------------------

STATES = ("signalingState", "iceGatheringState", "iceConnectionState", "connectionState")

# What aiortc raises for a description or candidate it cannot use; its SDP parser has no error of its own.
UNUSABLE = (
    *(SignallingError, InternalError, InvalidAccessError, InvalidStateError, OperationError),
    *(ValueError, AssertionError, LookupError, AttributeError, TypeError),
)


def describe_sdp(sdp: str) -> str:
    """Return one line about an SDP: its media, their codecs, its size."""
    media = [line[2:].split()[0] for line in sdp.splitlines() if line.startswith("m=")]
    codecs = [line.split()[1].split("/")[0] for line in sdp.splitlines() if line.startswith("a=rtpmap:")]
    return f"{', '.join(media) or 'no media'} ({' '.join(dict.fromkeys(codecs))}), {len(sdp)} bytes"


def check_description(sdp: str) -> None:
    """Raise SignallingError for what aiortc would take only half, or take and then be unable to answer."""
    try:
        description = SessionDescription.parse(sdp)
    except StopIteration as error:  # aiortc looks for the format of an a=fmtp line
        raise SignallingError("a=fmtp for a payload type without a=rtpmap") from error
    mids = [media.rtp.muxId for media in description.media]
    if not mids or not all(mids) or len(set(mids)) < len(mids):
        raise SignallingError("no m-line, or one without a mid of its own")
    if any(set(group.items) - set(mids) for group in description.group):
        raise SignallingError("a=group names an m-line that is not there")
    for media in description.media:
        if media.kind not in ("audio", "video"):
            raise SignallingError(f"unknown kind of media {media.kind!r:.40}")
        known = {codec.mimeType.lower() for codec in RTCRtpSender.getCapabilities(media.kind).codecs} - {"video/rtx"}
        if not known & {codec.mimeType.lower() for codec in media.rtp.codecs}:
            raise SignallingError(f"no {media.kind} codec in common")
        if media.direction is None or media.dtls is None or not media.dtls.fingerprints:
            raise SignallingError("direction, a=setup or a=fingerprint is missing")
        if media.ice is None or not media.ice.usernameFragment or not media.ice.password:
            raise SignallingError("a=ice-ufrag or a=ice-pwd is missing")


def parse_candidate(line: str) -> RTCIceCandidate:
    """Return the candidate in a "candidate:..." line. Raises one of UNUSABLE.

    aioice passes over an unknown type in silence, looks a .local name up in the network, and loses its socket over an
    impossible port.
    """
    candidate = candidate_from_sdp(line.removeprefix("candidate:"))
    ipaddress.ip_address(candidate.ip)
    if candidate.type not in ("host", "srflx", "relay") or not 0 < candidate.port < 65536:
        raise SignallingError(f"type {candidate.type!r:.40} or port {candidate.port} is impossible")
    return candidate


def without_candidates(sdp: str) -> str:
    """Return the SDP as it was before gathering: aiortc ignores later candidates once it has read end-of-candidates."""
    lines = sdp.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(("a=candidate:", "a=end-of-candidates")))


def candidates_in(sdp: str) -> list[dict[str, str]]:
    """Return the candidates of an SDP in the form of RTCIceCandidateInit (W3C webrtc-pc, section 4.8.1)."""
    lines = sdp.splitlines()
    found = [line.removeprefix("a=") for line in lines if line.startswith("a=candidate:")]
    # MAX_BUNDLE: one transport serves all m-lines, so its candidates are sent once, with the first one's mid.
    mids = [line.removeprefix("a=mid:") for line in lines if line.startswith("a=mid:")]
    return [{"candidate": candidate, "sdpMid": mids[0]} for candidate in dict.fromkeys(found)]


class Pair(NamedTuple):
    """The selected candidate pair as pc1 sees it: "address:port type protocol", empty before there is one."""

    local: str = ""
    remote: str = ""

    def __str__(self) -> str:
        return f"{self.local} ↔ {self.remote}"


@dataclass(frozen=True)
class Done:
    """What one step did: what it made (an SDP, candidates, a picture) and which states it changed."""

    who: str
    what: str
    made: Any = None
    changed: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{self.who}: {self.what} · {', '.join(self.changed) or 'no state changed'}"


@dataclass(frozen=True)
class IceOptions:
    """Which servers help ICE to find addresses: a STUN server tells a peer its address as seen from outside
    (RFC 8489), a TURN server lends it one of its own and relays (RFC 8656). Without any there are host candidates only.
    """

    servers: tuple[RTCIceServer, ...] = field(default=(), repr=False)  # aiortc uses the first stun: and the first turn:
    relay_only: bool = False

    @property
    def configuration(self) -> RTCConfiguration:
        """What a new RTCPeerConnection is given."""
        return RTCConfiguration(
            iceServers=list(self.servers),  # None would ask a public STUN server who we are
            iceTransportPolicy=RTCIceTransportPolicy.RELAY if self.relay_only else RTCIceTransportPolicy.ALL,
            # All media over one transport, one UDP port (RFC 9143). It is also what browsers end up with.
            bundlePolicy=RTCBundlePolicy.MAX_BUNDLE,
        )

    @property
    def uris(self) -> list[str]:
        """The servers without user and password."""
        return [str(server.urls) for server in self.servers]

    @property
    def stays_here(self) -> bool:
        """Whether 127.0.0.1 is enough to reach every server."""
        return all(parse_stun_turn_uri(uri)["host"] in ("127.0.0.1", "localhost") for uri in self.uris)

    def check(self, sdp: str) -> None:
        """Raise CallError when a server has given no candidate; aiortc passes over that in silence."""
        types = {parse_candidate(candidate["candidate"]).type for candidate in candidates_in(sdp)}
        for uri in self.uris:
            if uri.startswith("turn") and "relay" not in types:
                raise CallError(f"{uri} lends no address: is it running, and are user and password right?")
            if uri.startswith("stun") and "srflx" not in types and not self.relay_only:
                raise CallError(f"{uri} tells no address: is it running, and can it be reached?")


class Peer:
    """One end of the call: an RTCPeerConnection, its end of the channel, and the steps it can take.

    Nothing here knows the other peer. Each step is one move of the standard's API or of the channel.
    """

    def __init__(
        self,
        name: str,
        channel: Channel,
        log: Log,
        *,
        ice: IceOptions | None = None,
        patience: float = 5.0,
        marker_bit: bool = True,
    ) -> None:
        self.name, self.channel, self.log = name, channel, log
        self.ice = ice or IceOptions()
        self.patience = patience  # seconds a step waits for a message
        self.marker_bit = marker_bit
        self.hung_up = False  # the other side said bye
        self.found: list[dict[str, str]] | None = None  # its own candidates
        self.waiting = ""  # for which message
        self.refused = ""  # the last message refused, and why
        self.picture: Picture | None = None  # the newest one received
        self.on_picture: Callable[[Picture], None] = lambda picture: None
        self.on_sound: Callable[[Samples], None] = lambda samples: None
        self.tasks: list[asyncio.Task[None]] = []
        self.ear: asyncio.Task[None] | None = None  # listens for a bye
        self.paused = False  # it does not: a new offer and answer are under way
        self.pc = RTCPeerConnection(self.ice.configuration)
        for state in STATES:
            self.pc.on(f"{state.lower()}change", functools.partial(self._on_state, state))
        self.pc.on("track", self._on_track)
        self._seen = self.states
        log(name, "new RTCPeerConnection")

    @property
    def states(self) -> dict[str, str]:
        """The four state machines of an RTCPeerConnection (W3C webrtc-pc, section 4.3)."""
        return {state: getattr(self.pc, state) for state in STATES}

    @property
    def dtls_state(self) -> str:
        """State of the DTLS transport: new, connecting, connected, closed, failed; "none" before there is one."""
        receivers = self.pc.getReceivers()
        return receivers[0].transport.state if receivers else "none"

    def __repr__(self) -> str:
        return f"{self.name}: " + ", ".join(f"{name} {state}" for name, state in self.states.items())

    # The steps, in the order a call takes them. Their docstrings are what --step prints.

    async def add_track(self, track: MediaStreamTrack, codec: str) -> Done:
        """Give this peer something to send, before it makes the offer: an offer describes the tracks that are there,
        and without any it has no m-line and negotiates no media."""
        sender = self.pc.addTrack(track)
        self.log(self.name, "addTrack", track.kind)
        # video/rtx: packets asked for again come as a stream of their own (RFC 4588); without it they are repeated.
        known = RTCRtpSender.getCapabilities(track.kind).codecs
        chosen = [c for c in known if c.mimeType in (f"{track.kind}/{codec}", "video/rtx")]
        next(t for t in self.pc.getTransceivers() if t.sender is sender).setCodecPreferences(chosen)
        self.log(self.name, "setCodecPreferences", ", ".join(dict.fromkeys(c.mimeType for c in chosen)))
        return self.done("addTrack", track)

    async def create_offer(self) -> Done:
        """Write down, as SDP text, what this peer would like to send and receive, with which codecs. Nothing is sent
        and no state changes: it is a draft."""
        self.draft = await self.pc.createOffer()
        self.log(self.name, "createOffer", describe_sdp(self.draft.sdp))
        return self.done("createOffer", self.draft.sdp)

    async def create_answer(self) -> Done:
        """Write down which of the offered media and codecs this peer takes. It may refuse an m-line, it cannot add
        one."""
        self.draft = await self.pc.createAnswer()
        self.log(self.name, "createAnswer", describe_sdp(self.draft.sdp))
        return self.done("createAnswer", self.draft.sdp)

    async def set_local_description(self) -> Done:
        """Commit to the draft. The signalling state moves; the first time, a UDP port is opened, and ICE gathers the
        addresses where this peer may be reached. (A browser returns at once and reports each candidate as it is found;
        aiortc returns when all are there.)"""
        self.log(self.name, f"setLocalDescription({self.draft.type})")
        with LoopbackOnly() if self.ice.stays_here else contextlib.nullcontext():
            await self.pc.setLocalDescription(self.draft)
        self.ice.check(self.pc.localDescription.sdp)
        return self.done(f"setLocalDescription({self.draft.type})", self.pc.localDescription.sdp)

    async def send_description(self) -> Done:
        """Send the description to the other side, as text through the channel. The candidates are taken out of it,
        to travel on their own."""
        description = self.pc.localDescription
        sdp = without_candidates(description.sdp)
        await self._send({"type": description.type, "sdp": sdp}, f"{len(sdp)} bytes")
        return self.done(f"send {description.type}", sdp)

    async def receive_description(self, kind: str) -> Done:
        """Take the other side's description. Now this peer knows the other's codecs, its ICE name and password, and
        the fingerprint of the certificate it will have to show."""

        async def apply(message: Message) -> None:
            check_description(message["sdp"])
            self.log(self.name, f"setRemoteDescription({kind})", describe_sdp(message["sdp"]))
            await self.pc.setRemoteDescription(RTCSessionDescription(message["sdp"], kind))

        bye = {"bye": self._said_bye} if self.paused else {}
        message = await self._take({kind: apply, **bye}, self.patience)
        if self.hung_up:
            raise CallError("the other side hung up meanwhile: call again")
        if self.paused:
            self.listen()
        return self.done(f"setRemoteDescription({kind})", message["sdp"])

    async def send_candidates(self) -> Done:
        """Send every address where this peer may be reached, one message each, then say that these were all: without
        that aiortc would wait for more and never fail."""
        candidates = self.found = candidates_in(self.pc.localDescription.sdp)
        for candidate in candidates:
            await self._send({"type": "candidate", **candidate}, candidate["candidate"])
        await self._send({"type": "end-of-candidates"})
        return self.done("send candidates", candidates)

    async def receive_candidates(self) -> Done:
        """Hand the other side's candidates to ICE. It pairs each with its own and sends test datagrams, signed with
        the password from the SDP, until a pair has worked both ways."""
        candidates: list[str] = []
        finished = False

        async def apply(message: Message) -> None:
            if message["sdpMid"] not in {transceiver.mid for transceiver in self.pc.getTransceivers()}:
                raise SignallingError(f"no m-line has the mid {message['sdpMid']!r:.40}")
            candidate = parse_candidate(message["candidate"])
            candidate.sdpMid = message["sdpMid"]
            self.log(self.name, "addIceCandidate", f"{candidate.type} {candidate.ip}:{candidate.port}")
            await self.pc.addIceCandidate(candidate)
            candidates.append(message["candidate"])

        async def end(message: Message) -> None:
            nonlocal finished
            self.log(self.name, "addIceCandidate(null)", "that was the last one")
            await self.pc.addIceCandidate(None)
            finished = True

        while not finished:
            await self._take({"candidate": apply, "end-of-candidates": end}, self.patience)
        return self.done("addIceCandidate", candidates)

    async def replace_track(self, track: MediaStreamTrack) -> Done:
        """Send another track in place of the present one. The m-line, the codec and the SSRC stay, so there is nothing
        to negotiate: the other side sees other pictures, and no event."""
        next(s for s in self.pc.getSenders() if s.kind == track.kind).replaceTrack(track)
        self.log(self.name, "replaceTrack", track.kind)
        return self.done("replaceTrack", track)

    async def hang_up(self) -> None:
        """Tell the other side, over the channel, that the call is over. Closing also sends an RTCP BYE and a DTLS
        alert, but as datagrams, which may be lost and do not say why."""
        await self._send({"type": "bye"})

    def listen(self) -> None:
        """From now on read the channel in the background: a bye ends the call, anything else is refused."""

        async def until_bye() -> None:
            await self._take({"bye": self._said_bye}, None)

        self.paused = False
        self.ear = asyncio.create_task(until_bye())
        self.tasks.append(self.ear)

    async def pause(self) -> None:
        """Stop listening until the next description is here, so that the step that waits for it gets it."""
        if self.ear:
            self.paused = True
            self.tasks.remove(self.ear)
            self.ear.cancel()
            await asyncio.gather(self.ear, return_exceptions=True)
            self.ear = None

    async def _said_bye(self, message: Message) -> None:
        self.hung_up = True

    async def close(self) -> None:
        """Stop the tasks and close the connection: its sockets, its threads, its timers. Raises CallError after 3 s."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.log(self.name, "close")
        connecting = [ice_connection(self.pc)] if self.pc.iceConnectionState == "checking" else []
        try:
            async with asyncio.timeout(3):
                await self.pc.close()
                for connection in connecting:
                    # aioice's connect() looks up every 20 ms and, closed meanwhile, may still start its consent timer.
                    await asyncio.sleep(0.05)
                    await connection.close()
        except TimeoutError as error:
            raise CallError(f"{self.name} did not close within 3 s: an event handler raised; see above") from error

    # What the steps are made of.

    async def _send(self, message: Message, detail: str = "") -> None:
        self.log(self.name, f"send {message['type']}", detail)
        await self.channel.send(json.dumps(message))

    async def _take(self, actions: dict[str, Callable[[Message], Awaitable[None]]], patience: float | None) -> Message:
        """Read the channel until one of the awaited messages has been acted on; refuse every other by its name."""
        wanted = self.waiting = " or ".join(actions)
        try:
            async with asyncio.timeout(patience):
                while True:
                    text, kind = await self.channel.receive(), "message"
                    try:
                        message = parse_message(text)
                        kind = message["type"]
                        if kind not in actions:
                            raise SignallingError(f"in state {self.pc.signalingState}, waiting for {wanted}")
                        self.log(self.name, f"receive {kind}")
                        await actions[kind](message)
                        self.waiting = ""
                        return message
                    except UNUSABLE as error:
                        reason = str(error).partition("\n")[0][:200] or f"malformed ({type(error).__name__})"
                        self.log(self.name, f"refused {kind}", reason)
                        self.refused = f"{self.name} refused the {kind} ({reason})"
        except TimeoutError as error:
            raise CallError(f"{self.name} waited {patience:g} s for {wanted} and got none. {self.refused}") from error

    def done(self, what: str, made: Any = None) -> Done:
        """Return what a step made and which states have changed since the last one."""
        before, self._seen = self._seen, self.states
        changed = tuple(
            f"{name} {before[name]} → {state}" for name, state in self._seen.items() if before[name] != state
        )
        return Done(self.name, what, made, changed)

    def _on_state(self, state: str) -> None:
        self.log(self.name, state, f"→ {getattr(self.pc, state)}")

    def _on_track(self, track: MediaStreamTrack) -> None:
        self.log(self.name, "track", f"the other side will send {track.kind}")
        if self.marker_bit and track.kind == "video":
            end_frames_at_marker(next(r for r in self.pc.getReceivers() if r.track is track))
        self.tasks.append(asyncio.create_task(self._read(track)))

    async def _read(self, track: MediaStreamTrack) -> None:
        # A track nobody reads would queue its frames without bound.
        with contextlib.suppress(MediaStreamError):  # raised by recv() when the track has ended
            while True:
                frame = await track.recv()
                if isinstance(frame, av.AudioFrame):
                    self.on_sound(to_samples(frame))
                elif isinstance(frame, av.VideoFrame):
                    self.picture = to_picture(frame)
                    self.on_picture(self.picture)


# The places where this program departs from stock aiortc, or looks where aiortc does not show.


class LoopbackOnly:
    """While entered, ICE finds one address: 127.0.0.1.

    aioice leaves the loopback address out of its host candidates, as RFC 8445 section 5.1.1.1 asks, so a machine
    without a network would find none and wait for ever. Here it is the only one: no datagram leaves the
    machine from here. The function belongs to the whole process; the last one to leave puts the original back.
    """

    entered: ClassVar[int] = 0
    original: ClassVar[Callable[..., list[str]]]

    def __enter__(self) -> None:
        if LoopbackOnly.entered == 0:
            LoopbackOnly.original = aioice.ice.get_host_addresses
            aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
        LoopbackOnly.entered += 1

    def __exit__(self, *_: object) -> None:
        LoopbackOnly.entered -= 1
        if LoopbackOnly.entered == 0:
            aioice.ice.get_host_addresses = LoopbackOnly.original


class MarkerJitterBuffer(JitterBuffer):
    """A jitter buffer that releases a frame with its last packet.

    aiortc's own waits for the first packet of the next frame, one frame interval later: 33 ms at 30 frames/s.
    The last packet of a video frame has the RTP marker bit set (RFC 3550 section 5.1; VP8: RFC 7741 section 4.1,
    H264: RFC 6184 section 5.1). When
    a lost packet comes late, several frames are whole at once; aiortc takes one a packet, so they follow one by one.
    """

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        lost, frame = super().add(packet)
        return lost, frame or self._release_marked()

    def _release_marked(self) -> JitterFrame | None:
        payloads: list[bytes] = []
        while self._origin is not None and len(payloads) < self.capacity:
            packet = self._packets[(self._origin + len(payloads)) % self.capacity]
            if packet is None:
                break  # a gap: the missing packet may still come
            payloads.append(vars(packet)["_data"])
            if packet.marker:
                self.remove(len(payloads))
                return JitterFrame(data=b"".join(payloads), timestamp=packet.timestamp)
        return None


def end_frames_at_marker(receiver: RTCRtpReceiver) -> None:
    """Give a video receiver a MarkerJitterBuffer before its first packet. Raises CallError when aiortc has moved it."""
    name = "_RTCRtpReceiver__jitter_buffer"  # private: aiortc offers no way to choose a jitter buffer
    if not isinstance(getattr(receiver, name, None), JitterBuffer):
        raise CallError("this version of aiortc keeps its jitter buffer elsewhere: run with --jitter-buffer stock")
    setattr(receiver, name, MarkerJitterBuffer(capacity=512, is_video=True))  # 512 packets, as aiortc's own


def ice_connection(pc: RTCPeerConnection) -> aioice.Connection:
    """Return aioice's side of a peer that has a transceiver. Private: aiortc does not say which pair was nominated."""
    connection = vars(pc.getTransceivers()[0].receiver.transport.transport)["_connection"]
    assert isinstance(connection, aioice.Connection)
    return connection


def nominated_pair(pc: RTCPeerConnection) -> Pair:
    """Return the pair of candidates ICE chose; empty before it has chosen."""
    for pair in vars(ice_connection(pc))["_nominated"].values():
        sides = (pair.local_candidate, pair.remote_candidate)
        return Pair(*(f"{side.host}:{side.port} {side.type} {side.transport}" for side in sides))
    return Pair()


# ---- 4  A call -------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One line of the negotiation: who does what, and the coroutine function that does it."""

    who: str
    what: str
    run: Callable[[], Awaitable[Done]]

    @property
    def why(self) -> str:
        """What the step is for, in a sentence or two."""
        run = self.run.func if isinstance(self.run, functools.partial) else self.run
        return " ".join((inspect.getdoc(run) or "").split())


class Call:
    """Two peers, a channel between them, and a source of pictures at pc1: from the first offer to the end.

    `sound` is a source of sound to send as well. `channels` are the two ends, pc1's and pc2's, of another way between
    them. `deadline` is in seconds.
    """

    SILENCE = 3.0  # s without a datagram; aiortc's RTCP alone sends one every 0.5 to 1.5 s

    def __init__(
        self,
        source: Source,
        *,
        codec: str = "VP8",
        marker_bit: bool = True,
        deadline: float = 5.0,
        ice: IceOptions | None = None,
        log: Log | None = None,
        channels: tuple[Channel, Channel] | None = None,
        sound: SoundSource | None = None,
    ) -> None:
        self.log = Log() if log is None else log
        self.codec, self.deadline = codec, deadline
        self.meter, self.sound_meter = Meter(), SoundMeter()
        self.clock = RtpClock()
        self.track = OutgoingTrack(source, self.meter, self.clock, even=codec == "H264")
        self.sound = OutgoingSound(sound, self.sound_meter) if sound else None
        one, two = channels or memory_channel()
        self.started = self.log.now()
        self.pc1 = Peer("pc1", one, self.log, ice=ice, patience=deadline, marker_bit=marker_bit)
        self.pc2 = Peer("pc2", two, self.log, ice=ice, patience=deadline, marker_bit=marker_bit)
        self.pc2.on_picture, self.pc2.on_sound = self.meter.on_received, self.sound_meter.on_received
        self.connected_after: float | None = None  # seconds from making the peers
        self.first_frame_after: float | None = None
        self.selected_pair = Pair()
        self.bytes_sent = self.packets_lost = 0
        self.bitrate_kbps = 0.0  # of the last half second
        self.closed = False
        self._heard = {"pc1": 0, "pc2": 0}  # datagrams received from
        self._silent = {"pc1": 0.0, "pc2": 0.0}  # seconds
        self._checked = self.log.now()

    @property
    def steps(self) -> list[Step]:
        """The negotiation. The program, --step and the tests all walk down this list."""
        pc1, pc2 = self.pc1, self.pc2
        return [
            Step("pc1", "addTrack", functools.partial(pc1.add_track, self.track, self.codec)),
            *(
                [Step("pc1", "addTrack(audio)", functools.partial(pc1.add_track, self.sound, "opus"))]
                if self.sound
                else []
            ),
            Step("pc1", "createOffer", pc1.create_offer),
            Step("pc1", "setLocalDescription(offer)", pc1.set_local_description),
            Step("pc1", "send the offer", pc1.send_description),
            Step("pc2", "setRemoteDescription(offer)", functools.partial(pc2.receive_description, "offer")),
            Step("pc1", "send its candidates", pc1.send_candidates),
            Step("pc2", "addIceCandidate", pc2.receive_candidates),
            Step("pc2", "createAnswer", pc2.create_answer),
            Step("pc2", "setLocalDescription(answer)", pc2.set_local_description),
            Step("pc2", "send the answer", pc2.send_description),
            Step("pc1", "setRemoteDescription(answer)", functools.partial(pc1.receive_description, "answer")),
            Step("pc2", "send its candidates", pc2.send_candidates),
            Step("pc1", "addIceCandidate", pc1.receive_candidates),
            Step("both", "connect", self.connect),
            Step("pc2", "first picture", self.first_picture),
        ]

    def steps_to_add_sound(self, source: SoundSource) -> list[Step]:
        """The steps that add sound to the running call: a second offer and answer, with one m-line more. It is bundled
        with the first (RFC 9143), so there is no new port, no candidate and no handshake."""
        done = ("addTrack", "send its candidates", "addIceCandidate", "connect", "first picture")
        again = [step for step in self.steps if not step.what.startswith(done)]
        return [Step("pc1", "addTrack(audio)", functools.partial(self.add_sound, source)), *again]

    async def run(self, steps: list[Step] | None = None) -> None:
        """Take all the steps, one after the other. Raises CallError if the call does not come about in time."""
        now = "the first step"
        try:
            async with asyncio.timeout(self.deadline):
                for step in steps or self.steps:
                    now = f"{step.who} {step.what}"
                    await step.run()
        except TimeoutError as error:
            missed = "not finished" if self.connected_after else "not connected"
            raise CallError(f"{missed} after {self.deadline:g} s, at: {now}. {self.diagnosis}") from error

    async def connect(self) -> Done:
        """Wait. ICE finds the pair of addresses that works; over it a DTLS handshake makes keys that only these two
        have, and each peer compares the certificate it is shown with the fingerprint from the SDP."""
        peers = (self.pc1, self.pc2)
        await self._until(lambda: all(peer.pc.connectionState == "connected" for peer in peers), "not connected")
        self.connected_after = self.log.now() - self.started
        self.selected_pair = nominated_pair(self.pc1.pc)
        self.log(
            "call", "connected", f"{self.connected_after * 1000:.0f} ms after the peers were made, {self.selected_pair}"
        )
        for peer in peers:
            peer.listen()
        changed = tuple(f"{peer.name} {change}" for peer in peers for change in peer.done("connect").changed)
        return Done("both", "connect", self.selected_pair, changed)

    async def first_picture(self) -> Done:
        """pc1 encodes a picture, cuts it into RTP packets and encrypts them; pc2 puts them back in order, decodes, and
        has the first picture. This one is whole, a key frame; those that follow hold what has changed since."""
        await self._until(lambda: self.pc2.picture is not None, "connected, but no picture arrived")
        self.first_frame_after = self.log.now() - self.started
        self.log("pc2", "first picture", f"{self.first_frame_after * 1000:.0f} ms after the peers were made")
        return Done("pc2", "first picture", self.pc2.picture)

    async def switch(self, source: Source) -> Done:
        """Send another source's pictures from now on, and release the old source. The m-line, the codec and the SSRC
        stay, so nothing is negotiated. (If the new source gives no picture, the old one stays: CallError.)"""
        with contextlib.ExitStack() as stack:
            stack.callback(source.close)
            await source.ready()
            stack.pop_all()
        old, self.track = self.track, OutgoingTrack(source, self.meter, self.clock, even=self.track.even)
        self.track.picture, self.track.muted = old.picture, old.muted
        self.log("call", "switch", f"{old.source.label} → {source.label}")
        old.successor = self.track
        done = await self.pc1.replace_track(self.track)
        try:
            async with old.busy:  # the sender may still wait for the old track's last picture
                pass
        finally:
            old.stop()
            old.source.close()
        return done

    async def add_sound(self, source: SoundSource) -> Done:
        """Give pc1 a second track to send. Nothing is heard yet: a new offer has to tell pc2 of the new m-line."""
        self.sound = OutgoingSound(source, self.sound_meter)
        for peer in (self.pc1, self.pc2):
            await peer.pause()
        return await self.pc1.add_track(self.sound, "opus")

    def mute(self, track: Outgoing) -> None:
        """Send black pictures or silence in place of a track's own, or its own again. The other side is not told."""
        track.muted = not track.muted
        self.log("pc1", "mute" if track.muted else "unmute", track.kind)

    async def _until(self, reached: Callable[[], bool], otherwise: str) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.deadline):
                while not reached():
                    await self.check()
                    await asyncio.sleep(0.001)
        if not reached():
            raise CallError(f"{otherwise} after {self.deadline:g} s. {self.diagnosis}")

    async def check(self) -> None:
        """Raise CallError if the call is broken: aiortc tells of a dead source or a vanished peer late or never."""
        for track in (self.track, self.sound):
            if track and (failure := track.failure):
                if isinstance(failure, CallError):
                    raise failure
                raise CallError(f"the source failed with {failure!r}: mend its next()") from failure
        for peer in (self.pc1, self.pc2):
            if peer.hung_up:
                return
            if peer.pc.connectionState in ("failed", "closed"):
                raise CallError(f"{peer.name} is {peer.pc.connectionState}. {self.diagnosis}")
            for task in peer.tasks:
                if task.done() and not task.cancelled() and (error := task.exception()):
                    raise error
        elapsed = self.log.now() - self._checked
        if elapsed >= 0.5:
            self._checked += elapsed
            await self._read_stats(elapsed)

    async def _read_stats(self, elapsed: float) -> None:
        reports = {peer.name: list((await peer.pc.getStats()).values()) for peer in (self.pc1, self.pc2)}
        # aiortc's inbound-rtp counts no losses once a packet was sent again: ask the sender what pc2 reported to it.
        outgoing = {stats.type: stats for stats in reports["pc1"] if getattr(stats, "kind", "") == "video"}
        if "outbound-rtp" in outgoing:
            sent = outgoing["outbound-rtp"].bytesSent
            self.bitrate_kbps = (sent - self.bytes_sent) * 8 / elapsed / 1000
            self.bytes_sent = sent
        if "remote-inbound-rtp" in outgoing:
            self.packets_lost = outgoing["remote-inbound-rtp"].packetsLost
        for name, other in (("pc1", "pc2"), ("pc2", "pc1")):
            heard = sum(stats.packetsReceived for stats in reports[name] if stats.type == "transport")
            # At most 1 s at a time: a process that was asleep has not listened.
            self._silent[other] = 0.0 if heard != self._heard[other] else self._silent[other] + min(elapsed, 1.0)
            self._heard[other] = heard
            if self._silent[other] > self.SILENCE and self.meter.received:
                raise CallError(f"{other} vanished: no datagram from it for {self.SILENCE:g} s, and it did not say bye")

    @property
    def hung_up(self) -> bool:
        """Whether a peer heard the other say bye."""
        return self.pc1.hung_up or self.pc2.hung_up

    @property
    def diagnosis(self) -> str:
        """The state of every layer of both peers and the likely cause, in one line."""
        peers = (self.pc1, self.pc2)
        layers = "; ".join(
            f"{peer.name}: signalling {peer.pc.signalingState}, gathering {peer.pc.iceGatheringState}, "
            f"ICE {peer.pc.iceConnectionState}, DTLS {peer.dtls_state}, connection {peer.pc.connectionState}"
            for peer in peers
        )
        ice = {peer.pc.iceConnectionState for peer in peers}
        dtls = {peer.dtls_state for peer in peers}
        waiting = [peer for peer in peers if peer.waiting not in ("", "bye")]
        missing = [peer.refused or f"{peer.name} still waits for the {peer.waiting}" for peer in waiting]
        servers = " or ".join(self.pc1.ice.uris)
        causes = {
            f"no answer from {servers}": any(peer.pc.iceGatheringState == "gathering" for peer in peers),
            ", ".join(missing): bool(missing),
            "no candidate was found: there is no network address to use": any(
                peer.found == [] and candidates_in(peer.pc.remoteDescription.sdp) for peer in peers
            ),
            "ICE checks go unanswered: candidates did not arrive, the ICE password is wrong, or a firewall stops UDP": (
                bool(ice & {"new", "checking", "failed"})
            ),
            "the connection was up and has ended": "closed" in dtls,
            "a certificate does not match the fingerprint in the SDP, or both took the same role in the handshake: "
            "the SDP was changed on its way": "failed" in dtls,
            "the DTLS handshake is not answered": dtls != {"connected"},
            "the source gives no picture, or none can be decoded": True,
        }
        return f"{layers}. Likely cause: {next(cause for cause, holds in causes.items() if holds)}"

    async def finish(self) -> None:
        """Stop capturing, and give the pictures under way up to half a second to arrive."""
        self.track.stop()
        until = self.log.now() + 0.5
        while self.meter.sent > self.meter.received and self.log.now() < until:
            await asyncio.sleep(0.005)
        await self._read_stats(max(self.log.now() - self._checked, 0.001))

    async def hang_up(self) -> None:
        """pc1 says bye, pc2 hears it, both sides close: the end of a call that has no call control around it."""
        await self.pc1.hang_up()
        until = self.log.now() + 0.5
        while self.connected_after and not self.pc2.hung_up and self.log.now() < until:
            await asyncio.sleep(0.001)
        await self.close()

    async def close(self) -> None:
        """Release everything: the source first, so that nothing new is made, then both peers."""
        if self.closed:
            return
        self.closed = True
        try:
            for track in (self.track, self.sound):
                if track:
                    track.stop()
                    track.source.close()
        finally:
            outcomes = await asyncio.gather(self.pc1.close(), self.pc2.close(), return_exceptions=True)
            self.log("call", "closed")
        for outcome in outcomes:
            if outcome is not None:
                raise outcome


# ---- 5  Call control: who calls whom. This is not WebRTC -------------------------------------------------------------
#
# WebRTC begins when both people want to talk. How they find each other, ring, accept or refuse is no part of it: every
# program makes up its own way. This is one, as a table. Parts 3 and 4 know nothing of it, and it knows nothing of them.

# What people say to one another names the call, so that a late word of an old one is known as such.
SPOKEN: dict[str, type] = {"from": str, "to": str, "call": str}

CALL_MESSAGES: dict[str, dict[str, type]] = {
    "join": {"from": str},  # to the room
    "leave": {"from": str},
    "welcome": {"people": list},  # from the room
    "full": {},
    "taken": {},
    "arrived": {"from": str},
    "left": {"from": str},
    **dict.fromkeys(("call", "ringing", "accept", "reject", "busy", "cancel", "bye"), SPOKEN),
}

# (state, what happens) -> (next state, what is done). What happens is a key that a person presses, a message heard,
# the time running out (PATIENCE), or news of the media. What is not here is refused by its name. "take" makes a call
# that was heard of the present one; "send" speaks to the other one of the present call, "reply" to whoever just spoke.
CALL_CONTROL: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    ("away", "press join"): ("joining", ("send join",)),
    ("joining", "hear welcome"): ("idle", ()),
    ("joining", "hear full"): ("away", ()),  # all places of the room are taken
    ("joining", "hear taken"): ("away", ()),  # somebody there has the same name
    ("joining", "time-out"): ("away", ("send leave",)),  # we may be in, and the welcome was lost
    ("idle", "press call"): ("calling", ("take", "send call")),
    ("idle", "hear call"): ("ringing", ("take", "send ringing")),
    ("idle", "hear accept of an old call"): ("idle", ("reply bye",)),  # cancelled, but the cancel was not heard
    ("idle", "press leave"): ("away", ("send leave",)),
    # The caller, while it rings over there
    ("calling", "hear ringing"): ("calling", ()),
    ("calling", "hear accept"): ("connecting", ("negotiate",)),
    ("calling", "hear reject"): ("idle", ()),
    ("calling", "hear busy"): ("idle", ()),
    ("calling", "hear left"): ("idle", ()),
    ("calling", "hear call that crossed ours"): ("calling", ()),  # ours counts: our name is the first of the two
    ("calling", "hear call that ours crossed"): ("connecting", ("take", "send accept")),  # theirs counts
    ("calling", "hear another call"): ("calling", ("reply busy",)),
    ("calling", "hear accept of an old call"): ("calling", ("reply bye",)),
    ("calling", "press hang up"): ("idle", ("send cancel",)),
    ("calling", "press leave"): ("away", ("send cancel", "send leave")),
    ("calling", "time-out"): ("idle", ("send cancel",)),  # no answer
    # The one who is called
    ("ringing", "press accept"): ("connecting", ("send accept",)),
    ("ringing", "press reject"): ("idle", ("send reject",)),
    ("ringing", "hear cancel"): ("idle", ()),
    ("ringing", "hear left"): ("idle", ()),
    ("ringing", "hear call again"): ("ringing", ("take", "send ringing")),  # the first was cancelled, unheard
    ("ringing", "hear another call"): ("ringing", ("reply busy",)),
    ("ringing", "hear accept of an old call"): ("ringing", ("reply bye",)),
    ("ringing", "press leave"): ("away", ("send reject", "send leave")),
    ("ringing", "time-out"): ("idle", ()),
    # Both, while offer and answer, ICE and DTLS do their work
    ("connecting", "media connected"): ("in call", ()),
    ("connecting", "media failed"): ("idle", ("send bye", "close")),
    ("connecting", "hear bye"): ("idle", ("close",)),
    ("connecting", "hear cancel"): ("idle", ("close",)),  # it crossed our accept
    ("connecting", "hear left"): ("idle", ("close",)),
    ("connecting", "hear another call"): ("connecting", ("reply busy",)),
    ("connecting", "hear accept of an old call"): ("connecting", ("reply bye",)),
    ("connecting", "press hang up"): ("idle", ("send bye", "close")),
    ("connecting", "press leave"): ("away", ("send bye", "close", "send leave")),
    ("connecting", "time-out"): ("idle", ("send bye", "close")),
    ("in call", "media failed"): ("idle", ("send bye", "close")),  # the other one vanished
    ("in call", "hear bye"): ("idle", ("close",)),
    ("in call", "hear left"): ("idle", ("close",)),
    ("in call", "hear another call"): ("in call", ("reply busy",)),
    ("in call", "hear accept of an old call"): ("in call", ("reply bye",)),
    ("in call", "press hang up"): ("idle", ("send bye", "close")),
    ("in call", "press leave"): ("away", ("send bye", "close", "send leave")),
}

PATIENCE = {"joining": 5.0, "calling": 20.0, "ringing": 25.0, "connecting": 15.0}  # seconds until the time-out


class Phone:
    """One person's side of call control: where in the table they are, and with whom.

    It has no clock and no network: `send` takes a message's text to the room, `act` is told "negotiate" or "close".
    """

    def __init__(self, name: str, room: Room, act: Callable[[Phone, str], None], log: Log) -> None:
        self.name, self.act, self.log = name, act, log
        self.send = room.enter(self.hear)
        self.state, self.other, self.call = "away", "", ""
        self.why = ""  # what happened last
        self.people: list[str] = []  # the others in the room
        self.waited = 0.0  # seconds in this state
        self._heard: deque[str] = deque(maxlen=100)  # calls heard of: a doubled message rings only once

    def __str__(self) -> str:
        with_whom = {"calling": " {}", "ringing": ": {} calls", "connecting": " with {}", "in call": " with {}"}
        after = f" ({self.why})" if self.state in ("away", "idle") and self.why else ""
        return f"{self.name}: {self.state}{with_whom.get(self.state, '').format(self.other)}{after}"

    def press(self, what: str, other: str = "") -> None:
        """Do what this person wants: join, call somebody, accept, reject, hang up, leave."""
        if what == "call" and other not in self.people:
            self.log(self.name, "refused press call", f"{other} is not in the room")
        elif what == "call" and self.state == "idle":
            self._happens("press call", other, secrets.token_hex(4))
        else:
            self._happens(f"press {what}", self.other, self.call)

    def hear(self, text: str) -> None:
        """Take a message from the room."""
        try:
            message = parse_message(text, CALL_MESSAGES)
        except SignallingError as error:
            self.log(self.name, "refused message", str(error))
            return
        kind, sender, call = message["type"], message.get("from", ""), message.get("call", "")
        if kind == "welcome":
            self.people = message["people"]
        if kind in ("arrived", "left"):
            self.people = [name for name in self.people if name != sender] + [sender] * (kind == "arrived")
        if kind == "arrived" or (kind == "left" and sender != self.other):
            self.log(self.name, f"hear that {sender} {kind}")
        elif kind == "call":
            self._happens(f"hear {self._which_call(sender, call)}", sender, call)
        else:
            old = " of an old call" if call != self.call and "call" in CALL_MESSAGES[kind] else ""
            self._happens(f"hear {kind}{old}", sender, call)

    def _which_call(self, sender: str, call: str) -> str:
        if call in self._heard:
            return "call heard before"
        self._heard.append(call)
        if sender == self.other and self.state == "calling":
            return "call that crossed ours" if self.name < sender else "call that ours crossed"
        if sender == self.other and self.state == "ringing":
            return "call again"
        return "call" if self.state == "idle" else "another call"

    def media(self, news: str) -> None:
        """Take news of the media: "connected" or "failed"."""
        self._happens(f"media {news}", self.other, self.call)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.waited += seconds
        if self.waited > PATIENCE.get(self.state, math.inf):
            self._happens("time-out", self.other, self.call)

    def _happens(self, what: str, who: str, call: str) -> None:
        if (self.state, what) not in CALL_CONTROL:
            self.log(self.name, f"refused {what}", f"in state {self.state}")
            return
        before = self.state
        self.state, does = CALL_CONTROL[before, what]
        self.log(self.name, what, f"{before} → {self.state}" if self.state != before else who)
        if self.state != before:
            self.waited = 0.0
            self.why = "no answer" if what == "time-out" else what.removeprefix("hear ").removeprefix("press ")
        for action in does:
            verb, _, kind = action.partition(" ")
            if verb == "take":
                self.other, self.call = who, call
            elif verb == "send":
                self._say(kind, self.other, self.call)
            elif verb == "reply":
                self._say(kind, who, call)
            else:
                self.act(self, verb)
        if self.state in ("away", "idle"):
            self.other, self.call = "", ""

    def _say(self, kind: str, to: str, call: str) -> None:
        self.log(self.name, f"send {kind}", to)
        self.send(json.dumps({"type": kind, "from": self.name, "to": to, "call": call}))


class Room:
    """Where people meet. It knows who is there, and passes on what they say: on the net, a server. It sees no media."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.people: dict[str, Callable[[str], object]] = {}  # name: how to reach them

    def enter(self, hear: Callable[[str], None]) -> Callable[[str], None]:
        """Return how someone who hears in that way can speak to the room. What is said is heard soon, in order."""

        def reach(text: str) -> None:
            asyncio.get_running_loop().call_soon(hear, text)

        return lambda text: self._pass_on(text, reach)

    def _pass_on(self, text: str, reach: Callable[[str], None]) -> None:
        message = parse_message(text, CALL_MESSAGES)
        kind, name = message["type"], message["from"]
        if kind == "join":
            others = [person for person in self.people if person != name]
            refusal = "taken" if name in self.people else "full" if len(others) >= self.places else ""
            reach(json.dumps({"type": refusal or "welcome", "people": others}))
            if not refusal:
                self.people[name] = reach
                self._tell(others, {"type": "arrived", "from": name})
        elif kind == "leave":
            self.people.pop(name, None)
            self._tell([*self.people], {"type": "left", "from": name})
        elif message["to"] in self.people:
            self.people[message["to"]](text)
        else:
            reach(json.dumps({"type": "left", "from": message["to"]}))

    def _tell(self, people: list[str], news: Message) -> None:
        for person in people:
            self.people[person](json.dumps(news))


# ---- 6  Pictures and sound: time code, colour, delay, level ----------------------------------------------------------
#
# "connected" proves nothing; a picture does. Every outgoing picture carries its number in the top left corner, as 32
# black and white cells: 16 bits number, 16 bits checksum. A cell is 8 pixels wide, to survive the compression. The
# block starts at (4, 4), off VP8's 16-pixel grid on purpose: on it, up to one picture in five had a stale cell.

CELL, CODE_ROWS, CODE_COLUMNS = 8, 2, 16  # pixels, cells, cells
CODE_AREA = (slice(4, 4 + CODE_ROWS * CELL), slice(4, 4 + CODE_COLUMNS * CELL))  # rows, columns


def write_time_code(picture: Picture, number: int) -> None:
    """Draw `number` modulo 65536 into a picture of at least 132 x 20 pixels, in place."""
    code = struct.pack(">H", number % 65536)
    bits = np.unpackbits(np.frombuffer(code + struct.pack(">H", binascii.crc_hqx(code, 0xFFFF)), np.uint8))
    cells = bits.reshape(CODE_ROWS, 1, CODE_COLUMNS, 1, 1) * np.uint8(255)
    picture[CODE_AREA].reshape(CODE_ROWS, CELL, CODE_COLUMNS, CELL, 3)[:] = cells


def read_time_code(picture: Picture) -> int | None:
    """Return the number in a picture (0..65535), or None where its checksum says that it cannot be read."""
    area = picture[CODE_AREA][:, :, 1]  # green is enough
    if area.shape != (CODE_ROWS * CELL, CODE_COLUMNS * CELL):
        return None
    centres = area.reshape(CODE_ROWS, CELL, CODE_COLUMNS, CELL)[:, 3:5, :, 3:5].mean((1, 3))
    code = np.packbits(centres > 127).tobytes()
    number, checksum = struct.unpack(">HH", code)
    return int(number) if checksum == binascii.crc_hqx(code[:2], 0xFFFF) else None


class Meter:
    """A stopwatch beside the call: it sees both ends, which no peer does, and times each picture from the moment it was
    captured until pc2 has it decoded, on one clock."""

    def __init__(self) -> None:
        self.sent = self.received = self.misread = 0
        self.delays: deque[float] = deque(maxlen=100_000)  # seconds
        self._arrivals: deque[float] = deque(maxlen=30)
        self.first_arrival = self.last_arrival = 0.0
        self._captured: dict[int, float] = {}  # pictures under way

    def on_sent(self, captured_at: float) -> int:
        """Note a picture captured at that time (s, perf_counter); return its number."""
        number, self.sent = self.sent % 65536, self.sent + 1
        self._captured[number] = captured_at
        while len(self._captured) > 1024:  # lost on the way
            del self._captured[next(iter(self._captured))]
        return number

    def on_received(self, picture: Picture) -> None:
        """Note a decoded picture. A number that is unreadable or not under way is a misread, never a delay."""
        now = time.perf_counter()
        number = read_time_code(picture)
        captured_at = None if number is None else self._captured.pop(number, None)
        if captured_at is None:
            self.misread += 1
        else:
            self.delays.append(now - captured_at)
        self.received += 1
        self.first_arrival = self.first_arrival or now
        self.last_arrival = now
        self._arrivals.append(now)

    @property
    def latency_ms(self) -> dict[str, float | None]:
        """Median, 95th percentile and maximum of the delay, in ms; None before the first picture."""
        if not self.delays:
            return {"p50": None, "p95": None, "max": None}
        p50, p95, most = np.percentile(self.delays, [50, 95, 100]) * 1000
        return {"p50": round(float(p50), 2), "p95": round(float(p95), 2), "max": round(float(most), 2)}

    @property
    def received_fps(self) -> float:
        """Pictures a second, over the whole call."""
        span = self.last_arrival - self.first_arrival
        return (self.received - 1) / span if span else 0.0

    @property
    def recent(self) -> tuple[float, float]:
        """Median delay in seconds and pictures a second, over the last thirty; zeros before there are two."""
        if len(self._arrivals) < 2 or not self.delays:
            return 0.0, 0.0
        now, last = time.perf_counter(), self._arrivals[-1]
        span = (last if now - last < 0.5 else now) - self._arrivals[0]  # a picture that stands still has no rate
        return statistics.median(itertools.islice(reversed(self.delays), 30)), (len(self._arrivals) - 1) / span

    def __repr__(self) -> str:
        known = {name: f"{delay:.1f}" if delay is not None else "?" for name, delay in self.latency_ms.items()}
        return (
            f"{self.sent} pictures sent, {self.received} received, {self.misread} misread, {self.received_fps:.1f}/s; "
            f"delay {known['p50']} ms median, {known['p95']} p95, {known['max']} max"
        )


def planes(frame: av.VideoFrame) -> list[npt.NDArray[np.uint8]]:
    """Return views of an I420 frame: brightness for every pixel, two colours for every 2 x 2 pixels."""
    raw = [(p, np.frombuffer(memoryview(p), np.uint8).reshape(-1, p.line_size)) for p in frame.planes]
    return [rows[: plane.height, : plane.width] for plane, rows in raw]


def i420_parts(i420: npt.NDArray[Any], rows: int, columns: int) -> list[npt.NDArray[Any]]:
    """Return views of the same three parts in OpenCV's I420 array, which knows even sizes only."""
    colours = i420[rows:].reshape(2, rows // 2, columns // 2)
    return [i420[:rows], colours[0], colours[1]]


def make_even(picture: Picture) -> Picture:
    """Return the picture, its last row and column doubled where their number is odd."""
    rows, columns = picture.shape[:2]
    if rows % 2 == columns % 2 == 0:
        return picture
    return cv2.copyMakeBorder(picture, 0, rows % 2, 0, columns % 2, cv2.BORDER_REPLICATE)


def to_frame(picture: Picture) -> av.VideoFrame:
    """Convert a picture of any size to what encoders take: I420."""
    even = make_even(picture)
    frame = av.VideoFrame(picture.shape[1], picture.shape[0], "yuv420p")
    parts = i420_parts(cv2.cvtColor(even, cv2.COLOR_BGR2YUV_I420), *even.shape[:2])
    for plane, part in zip(planes(frame), parts, strict=True):
        plane[:] = part[: plane.shape[0], : plane.shape[1]]
    return frame


def to_picture(frame: av.VideoFrame) -> Picture:
    """Convert a decoded I420 frame to a picture."""
    rows, columns = frame.height + frame.height % 2, frame.width + frame.width % 2
    i420 = np.empty((rows * 3 // 2, columns), np.uint8)
    for plane, part in zip(planes(frame), i420_parts(i420, rows, columns), strict=True):
        part[: plane.shape[0], : plane.shape[1]] = plane
    return cv2.cvtColor(i420, cv2.COLOR_YUV2BGR_I420)[: frame.height, : frame.width]


class RtpClock:
    """The 90 kHz clock of a call's video (RFC 7741 section 4.1). One for all its tracks: a time that went back would
    stop the encoder."""

    def __init__(self) -> None:
        self._start: float | None = None
        self._last = -1

    def ticks(self, captured_at: float) -> int:
        """Return the time of a picture captured at that second, later than any before. The sender adds a random start
        (RFC 3550 section 5.1)."""
        self._start = captured_at if self._start is None else self._start
        self._last = max(round((captured_at - self._start) * VIDEO_CLOCK_RATE), self._last + 1)
        return self._last


class Outgoing(MediaStreamTrack):
    """A track of pc1's. aiortc's sender asks it for the next frame each time it has sent the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.busy = asyncio.Lock()  # held while a frame is being taken
        self.muted = False  # a browser's track.enabled = false: black, or silence, is sent on
        self.successor: Outgoing | None = None  # the track that has replaced this one
        self.failure: Exception | None = None

    async def recv(self) -> av.VideoFrame | av.AudioFrame:
        """Return the next frame. Raises MediaStreamError at the end."""
        try:
            async with self.busy:
                return await self._next_frame()
        except CallError as error:
            if self.successor is None:
                self.failure = error  # aiortc would only log it; Call.check() raises it
                raise MediaStreamError(str(error)) from error  # the end of a track, in aiortc's words
        finally:
            unforeseen = sys.exception()
            if isinstance(unforeseen, Exception) and self.readyState == "live":
                self.failure = self.failure or unforeseen
        # The source died while its last picture was awaited, but it had been replaced: the sender goes on.
        return await self.successor.recv()

    async def _next_frame(self) -> av.VideoFrame | av.AudioFrame:
        raise NotImplementedError


class OutgoingTrack(Outgoing):
    """pc1's video track: takes pictures from a source, numbers them, hands them on."""

    kind = "video"

    def __init__(self, source: Source, meter: Meter, clock: RtpClock, *, even: bool = False) -> None:
        super().__init__()
        self.source, self.meter, self.clock = source, meter, clock
        self.even = even  # H264 with 4:2:0 colour has no odd sizes: such a picture is sent one row or column larger
        self.picture: Picture | None = None  # the newest one, as sent

    async def _next_frame(self) -> av.VideoFrame:
        picture, captured_at = await self.source.next()
        if self.readyState != "live":
            raise MediaStreamError
        if self.muted:
            picture = np.zeros_like(picture)
        if self.even:
            picture = make_even(picture)
        write_time_code(picture, self.meter.on_sent(captured_at))
        self.picture = picture
        frame = to_frame(picture)
        frame.pts, frame.time_base = self.clock.ticks(captured_at), VIDEO_TIME_BASE
        return frame


SOUND_RATE, BLOCK = 48_000, 960  # samples a second, samples in a packet: Opus over RTP (RFC 7587), 20 ms


class OutgoingSound(Outgoing):
    """pc1's audio track: 20 ms a frame, mono, sent as two equal channels."""

    kind = "audio"

    def __init__(self, source: SoundSource, meter: SoundMeter) -> None:
        super().__init__()
        self.source, self.meter = source, meter

    async def _next_frame(self) -> av.AudioFrame:
        samples, position = await self.source.next()
        if self.readyState != "live":
            raise MediaStreamError
        if self.muted:
            samples = np.zeros_like(samples)
        self.meter.sent.append(samples)
        return to_sound_frame(samples, position)


def to_sound_frame(samples: Samples, position: int) -> av.AudioFrame:
    """Return a frame of these samples, of which the first has that number. Both of its channels are the same: from
    one, aiortc's Opus encoder would make two that are 3 dB weaker."""
    frame = av.AudioFrame.from_ndarray(samples.repeat(2)[None], format="s16", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, position, Fraction(1, SOUND_RATE)
    return frame


def to_samples(frame: av.AudioFrame) -> Samples:
    """Return the left channel of a decoded frame; aiortc always decodes Opus to two."""
    return frame.to_ndarray().reshape(-1, len(frame.layout.channels))[:, 0].astype(np.int16)


class SoundMeter:
    """A level meter at both ends, and a tuner at the receiving one. It listens to the last fifth of a second.

    aiortc holds back four packets of sound before it decodes them (80 ms): its jitter buffer for audio.
    """

    SILENCE = -96.0  # dB; one step of 16 bits is -90

    def __init__(self) -> None:
        self.sent: deque[Samples] = deque(maxlen=10)
        self.received: deque[Samples] = deque(maxlen=10)
        self.blocks_received = 0
        self.on_block: Callable[[Samples], None] = lambda samples: None

    def on_received(self, samples: Samples) -> None:
        """Note a decoded block."""
        self.received.append(samples)
        self.blocks_received += 1
        self.on_block(samples)

    @property
    def levels(self) -> tuple[float, float]:
        """Root mean square of what was sent and received, in dB; 0 is a square wave at full scale, a sine has -3."""

        def level(blocks: deque[Samples]) -> float:
            power = float(np.mean(np.square(np.concatenate(blocks).astype(float)))) if blocks else 0.0
            return max(self.SILENCE, 10 * math.log10(power / 32768**2)) if power else self.SILENCE

        return level(self.sent), level(self.received)

    def as_dict(self) -> dict[str, Any]:
        sent, received = self.levels
        return {
            "blocks_received": self.blocks_received,
            "level_sent_db": round(sent, 1),
            "level_received_db": round(received, 1),
            "frequency_hz": None if self.frequency is None else round(self.frequency, 1),
        }

    @property
    def frequency(self) -> float | None:
        """The strongest frequency of what was received, in Hz; None in silence."""
        if len(self.received) < 10 or self.levels[1] < -60:
            return None
        samples = np.concatenate(self.received)
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
        peak = min(max(int(spectrum.argmax()), 1), len(spectrum) - 2)
        # The parabola through the logarithms of the highest value and its neighbours has its top between two steps.
        left, middle, right = np.log(spectrum[peak - 1 : peak + 2] + 1e-9)
        return float((peak + (left - right) / (left - 2 * middle + right) / 2) * SOUND_RATE / len(samples))


# ---- 7  Sources: where pictures come from ----------------------------------------------------------------------------


Item = TypeVar("Item")
Given = TypeVar("Given", covariant=True)


class SourceOf(Protocol[Given]):
    """Where something to send comes from. Written for one reader, who asks for the next when the last is encoded."""

    label: str
    given: str  # the size the device gives, where that is not the size sent

    async def ready(self) -> None:
        """Wait until there is a first one. Raises CallError if there will be none."""

    async def next(self) -> Given:
        """Return the next one."""

    def close(self) -> None:
        """Release the device."""


Source = SourceOf[tuple[Picture, float]]  # a picture, the caller's to draw on; when it was captured (s, perf_counter)
SoundSource = SourceOf[tuple[Samples, int]]  # a BLOCK of samples, 20 ms; the number of the first one


class SyntheticSource:
    """A view from a train: calm sky, far hills, near grass that rushes by. A codec keeps the calm parts and blurs the
    fast, finely drawn ones; the bright balloon shows what 4:2:0 does to colour. At night it is dark, but for the
    balloon."""

    HORIZON = 0.55  # of the height

    def __init__(self, width: int, height: int, fps: float, *, night: bool = False) -> None:
        self.label, self.given = "night" if night else "synthetic", ""
        self._light = np.array((0.45, 0.25, 0.2) if night else (1, 1, 1))
        self.width, self.height, self.fps = width, height, fps
        self._start: float | None = None
        self._slot = -1
        horizon, lap = int(height * self.HORIZON), 2 * width  # the landscape repeats after two widths
        noise = np.random.default_rng(7)
        angle = np.arange(lap) * 2 * np.pi / lap
        sky = np.linspace((150, 75, 45), (150, 190, 250), horizon)[:, None].repeat(lap, 1)
        for shade, size, waves in (((150, 120, 120), 0.5, (2, 5, 9)), ((110, 95, 70), 0.25, (3, 7, 13))):
            ridge = horizon * (1 - size * (0.5 + sum(np.sin(w * angle + w * w) / w for w in waves) * 0.6))
            sky[np.arange(horizon)[:, None] > ridge] = shade
        for x, size in zip(noise.integers(0, lap, 90), noise.uniform(0.02, 0.1, 90) * height, strict=True):
            crown = ((x, horizon - size), (x - size * 0.3, horizon), (x + size * 0.3, horizon))
            shade = 480 * size / height  # the far ones are smaller and paler
            cv2.fillPoly(sky, [np.array(crown, np.int32)], (90 - shade, 100 - shade / 2, 60 - shade / 2), cv2.LINE_AA)
        # The ground in strips; each is nearer than the one above it and so passes faster.
        edges = horizon + ((height - horizon) * np.array([0, 0.08, 0.2, 0.36, 0.58, 1])).astype(int)
        self._strips: list[tuple[int, int, float, Picture]] = [(0, horizon, 0.03, self._loop(sky))]
        for nearness, (top, bottom) in enumerate(itertools.pairwise(edges)):
            blades: npt.NDArray[Any] = noise.normal(0, 40, (bottom - top, lap)).astype(np.float32)
            blades = cv2.GaussianBlur(np.tile(blades, 2), (0, 0), sigmaX=0.5 + 0.8 * nearness, sigmaY=0.8) * (
                0.6 + 0.3 * nearness
            )
            blades = np.roll(blades[:, width : width + lap], width, axis=1)  # the middle of two laps has no seam
            flowers = noise.random(blades.shape) > 1 - 0.0015 / (1 + nearness)
            flowers = cv2.dilate(flowers.astype(np.uint8), np.ones((1 + nearness // 2, 1 + nearness), np.uint8)) > 0
            ground = blades[:, :, None] + np.array((60, 140, 110)) * (1 - 0.09 * nearness)
            ground[flowers] = (90, 200, 250) if nearness % 2 else (235, 235, 245)
            self._strips.append((top, bottom, 0.08 * 2**nearness, self._loop(ground)))

    def _loop(self, strip: npt.NDArray[Any]) -> Picture:
        looped = np.concatenate([strip, strip[:, : self.width + 1]], axis=1)
        return np.asarray(looped * self._light).clip(0, 255).astype(np.uint8)

    def draw(self, t: float) -> Picture:
        """Return the view at second `t`."""
        picture = np.empty((self.height, self.width, 3), np.uint8)
        for top, bottom, speed, strip in self._strips:
            left, part = divmod(t * speed * self.width % (2 * self.width), 1)  # whole pixels, and what is between two
            view = strip[:, int(left) : int(left) + self.width + 1]
            cv2.addWeighted(view[:, :-1], 1 - part, view[:, 1:], part, 0, dst=picture[top:bottom])
        size = max(self.height // 12, 4)
        x = int(self.width * (0.5 + 0.35 * math.sin(t * 0.7)))
        y = int(self.height * (0.3 + 0.08 * math.sin(t * 1.9)))
        cv2.ellipse(picture, (x, y), (size, int(size * 1.2)), 0, 0, 360, (60, 40, 220), -1, cv2.LINE_AA)
        cv2.ellipse(picture, (x, y), (size // 3, int(size * 1.2)), 0, 0, 360, (40, 210, 250), -1, cv2.LINE_AA)
        for side in (-1, 1):
            cv2.line(
                picture,
                (x + side * size * 2 // 3, y + size),
                (x + side * size // 4, y + size * 3 // 2),
                (40, 60, 90),
                1,
                cv2.LINE_AA,
            )
        cv2.rectangle(picture, (x - size // 4, y + size * 3 // 2), (x + size // 4, y + size * 2), (40, 60, 90), -1)
        return picture

    async def ready(self) -> None:
        """It always is."""

    async def next(self) -> tuple[Picture, float]:
        now = time.perf_counter()
        self._start = self._start or now
        # A slot that was missed is skipped. Making up for it would send a burst and show the past.
        self._slot = max(self._slot + 1, int((now - self._start) * self.fps))
        await asyncio.sleep(self._start + self._slot / self.fps - now)
        picture = self.draw(self._slot / self.fps)
        return picture, time.perf_counter()

    def close(self) -> None:
        """Nothing was opened."""


class Reader(Generic[Item]):
    """What blocks is read in a thread. The newest items wait, at most `keep` of them; older ones go."""

    PATIENCE = 5.0  # seconds without an item before the device counts as dead

    def __init__(self, label: str, items: Callable[[threading.Event], Generator[Item]], keep: int) -> None:
        self.label, self.given = label, ""
        self._items = items
        self._loop = asyncio.get_running_loop()
        self._newest: deque[Item] = deque(maxlen=keep)
        self._failure: CallError | None = None
        self._news = asyncio.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"source {label}", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            with contextlib.closing(self._items(self._stop)) as items:
                for item in items:
                    if self._stop.is_set():
                        return
                    self._publish([item], None)
        except CallError as error:
            self._publish([], error)
        except cv2.error as error:
            self._publish([], CallError(f"{self.label} cannot be used ({error.err}): choose another source"))

    def _publish(self, items: list[Item], failure: CallError | None) -> None:
        def publish() -> None:
            self._newest.extend(items)
            self._failure = failure
            self._news.set()

        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everyone who could want an item
            self._loop.call_soon_threadsafe(publish)

    async def ready(self) -> None:
        try:
            async with asyncio.timeout(self.PATIENCE):
                await self._news.wait()
        except TimeoutError as error:
            raise CallError(f"{self.label} gave nothing for {self.PATIENCE:g} s: is it still there?") from error
        if self._failure:
            raise self._failure

    async def next(self) -> Item:
        await self.ready()
        item = self._newest.popleft()
        if not self._newest:
            self._news.clear()
        return item

    def close(self) -> None:
        """Stop reading. Waits up to 2 s for a device that is being opened or read."""
        self._stop.set()
        self._thread.join(timeout=2)  # a driver that hangs in read() keeps its daemon thread, not the program


class ThreadedSource(Reader[tuple[Picture, float]]):
    """A source whose reading blocks (camera, file, screen). The newest picture wins."""

    def __init__(
        self, label: str, pictures: Callable[[threading.Event], Generator[Picture]], width: int, height: int, fps: float
    ) -> None:
        self.width, self.height, self.fps = width, height, fps
        self._pictures = pictures
        super().__init__(label, self._fitted, keep=1)

    def _fitted(self, stop: threading.Event) -> Generator[tuple[Picture, float]]:
        due = None  # s: when the next picture may come; a source faster than --fps is thinned out
        period = 1 / self.fps
        with contextlib.closing(self._pictures(stop)) as pictures:
            for picture in pictures:
                now = time.perf_counter()
                due = now if due is None else due
                if now >= due - period / 4:
                    due = max(due, now - period) + period
                    rows, columns = picture.shape[:2]
                    self.given = f"{columns}x{rows}" if (columns, rows) != (self.width, self.height) else ""
                    yield fit(picture, self.width, self.height), now


def fit(picture: Picture, width: int, height: int) -> Picture:
    """Return a copy of that size, scaled with its aspect ratio kept, black where the shapes differ."""
    rows, columns = picture.shape[:2]
    scale = min(width / columns, height / rows)
    if scale != 1:
        size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    rows, columns = picture.shape[:2]
    top, left = (height - rows) // 2, (width - columns) // 2
    return cv2.copyMakeBorder(picture, top, height - rows - top, left, width - columns - left, cv2.BORDER_CONSTANT)


def camera_pictures(
    index: int, width: int, height: int, fps: float, note: Callable[[str], None], stop: threading.Event
) -> Generator[Picture]:
    """Yield the pictures of a camera, asked for the nearest it has to that size and rate."""
    device = cv2.VideoCapture(index)
    try:
        if not device.isOpened():
            path = Path(f"/dev/video{index}")
            if sys.platform == "linux" and not path.exists():
                raise CallError(
                    f"there is no camera {index} ({path} does not exist): plug one in, or use --source synthetic"
                )
            raise CallError(
                f"camera {index} cannot be opened: close the program that uses it, and check the permission"
            )
        device.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        device.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        device.set(cv2.CAP_PROP_FPS, fps)
        ever = False
        while not stop.is_set():
            arrived, picture = device.read()
            if not arrived:
                raise CallError(
                    f"camera {index} stopped giving pictures: was it unplugged? Plug it in and start again"
                    if ever
                    else f"camera {index} is open but gives no picture: another program may be using it; close it"
                )
            if not ever:
                size, rate = f"{picture.shape[1]}x{picture.shape[0]}", device.get(cv2.CAP_PROP_FPS)
                note(f"camera {index} was asked for {width}x{height} at {fps:g}/s and gives {size} at {rate:g}/s")
            ever = True
            yield picture
    finally:
        device.release()


def file_pictures(path: str, note: Callable[[str], None], stop: threading.Event) -> Generator[Picture]:
    """Yield the pictures of a video file at its own rate, from the start again at its end."""
    began, noted = time.perf_counter(), False
    while not stop.is_set():
        count, shown, length = 0, 0.0, 0.0  # pictures, s, s
        try:
            with av.open(path) as container:
                if not container.streams.video:
                    raise CallError(f"{path} has no video in it: give a video file")
                stream = container.streams.video[0]
                period = 1 / float(stream.average_rate or 25)
                length = (container.duration or 0) / av.time_base
                first = None
                for frame in container.decode(stream):
                    first = frame.time if first is None else first
                    shown = count * period if frame.time is None or first is None else frame.time - first
                    count += 1
                    late = time.perf_counter() - began - shown
                    if late > 1:  # the program was halted, or decoding is too slow: go on from here
                        began, late = began + late, 0.0
                    if late < period or count == 1:  # one that comes too late is skipped, not shown in a hurry
                        stop.wait(max(0.0, -late))
                        yield frame.to_ndarray(format="bgr24")
                    if stop.is_set():
                        return
        except (av.FFmpegError, OSError) as error:
            if not Path(path).exists():
                raise CallError(f"{path} does not exist: give a video file, synthetic, camera or screen") from error
            if count == 0:
                raise CallError(f"{path} cannot be read ({error.strerror}): give a video file that plays") from error
            problem = f"is damaged after {shown:.1f} s ({error.strerror})"
        else:
            if count == 0:
                raise CallError(f"{path} holds no picture that can be decoded: give a video file that plays")
            cut = length > shown + period + 0.5
            problem = f"is truncated: it ends after {shown:.1f} s of {length:.1f} s" if cut else ""
        if problem and not noted:
            note(f"{path} {problem}; what is there is played in a loop")
            noted = True
        began += shown + period
        while count == 1 and not stop.wait(period):  # a still picture
            yield frame.to_ndarray(format="bgr24")


def screen_pictures(fps: float, stop: threading.Event) -> Generator[Picture]:
    """Yield what the first screen shows. (Through av's x11grab the process would crash: libxcb again.)"""
    try:
        import mss
        import mss.exception
    except ImportError as error:
        raise CallError(
            "--source screen needs the package mss: pip install -e '.[screen]', or pip install mss"
        ) from error
    try:
        with mss.MSS() as grabber:
            while not stop.wait(0.5 / fps):
                yield np.asarray(grabber.grab(grabber.monitors[1]))[:, :, :3]
    except mss.exception.ScreenShotError as error:
        raise CallError(f"the screen cannot be read ({error}); --source synthetic needs no display") from error


def open_source(spec: str, width: int, height: int, fps: float, log: Log) -> Source:
    """Return the source that --source names: synthetic, night, camera, camera:1, screen, or a video file's path."""
    if spec in ("synthetic", "night"):
        return SyntheticSource(width, height, fps, night=spec == "night")
    kind, _, number = spec.partition(":")
    loop = asyncio.get_running_loop()

    def note(text: str) -> None:
        loop.call_soon_threadsafe(log, "source", "note", text)

    pictures: Callable[[threading.Event], Generator[Picture]]
    if kind == "camera":
        pictures = functools.partial(camera_pictures, int(number or 0), width, height, fps, note)
    elif spec == "screen":
        pictures = functools.partial(screen_pictures, fps)
    else:
        pictures = functools.partial(file_pictures, spec, note)
    return ThreadedSource(spec, pictures, width, height, fps)


class ToneSource:
    """The tone that orchestras tune to, swelling once a second so that a level meter moves."""

    FREQUENCY = 440.0  # Hz

    def __init__(self) -> None:
        self.label, self.given = "tone", ""
        self._start: float | None = None
        self._slot = -1

    async def ready(self) -> None:
        """It always is."""

    async def next(self) -> tuple[Samples, int]:
        now = time.perf_counter()
        self._start = self._start or now
        self._slot = max(self._slot + 1, int((now - self._start) * SOUND_RATE / BLOCK))  # missed ones are skipped
        await asyncio.sleep(self._start + self._slot * BLOCK / SOUND_RATE - now)
        position = self._slot * BLOCK
        t = (position + np.arange(BLOCK)) / SOUND_RATE
        swell = 0.25 - 0.15 * np.cos(2 * np.pi * t)
        return (32767 * swell * np.sin(2 * np.pi * self.FREQUENCY * t)).astype(np.int16), position

    def close(self) -> None:
        """Nothing was opened."""


# What FFmpeg calls the microphone: format and name, by sys.platform.
MICROPHONES = {
    "linux": ("alsa", "default"),
    "darwin": ("avfoundation", ":default"),
    "win32": ("dshow", "audio=default"),
}


def sound_blocks(spec: str, stop: threading.Event) -> Generator[tuple[Samples, int]]:
    """Yield the sound of a microphone as it comes, or of a file at its own pace, from the start again at its end."""
    word, _, device = spec.partition(":")
    kind, name = MICROPHONES[sys.platform] if word == "mic" else (None, spec)
    if word == "mic" and device:
        name = device
    # The ALSA library inside av looks for its configuration where it was built, not where systems have it.
    os.environ.setdefault("ALSA_CONFIG_DIR", "/usr/share/alsa")
    began, position = time.perf_counter(), 0
    while not stop.is_set():
        before, last = position, None
        try:
            with av.open(name, format=kind) as container:
                if not container.streams.audio:
                    raise CallError(f"{spec} has no sound in it: give a file with sound")
                for frame in container.decode(container.streams.audio[0]):
                    shape = (frame.format.name, frame.layout.name, frame.sample_rate)  # may change within a file
                    if shape != last:
                        last = shape
                        resampler = av.AudioResampler("s16", "mono", SOUND_RATE, frame_size=BLOCK)
                    frame.pts = None  # the samples are counted here
                    for block in resampler.resample(frame):
                        if word != "mic":
                            stop.wait(max(0.0, began + position / SOUND_RATE - time.perf_counter()))
                        if stop.is_set():
                            return
                        yield block.to_ndarray()[0], position
                        position += BLOCK
        except (av.FFmpegError, OSError) as error:
            if word == "mic":
                raise CallError(
                    f"no microphone ({error.strerror}): plug one in, name a device (mic:plughw:1), or use --audio tone"
                ) from error
            if not Path(spec).exists():
                raise CallError(f"{spec} does not exist: give a sound file, tone or mic") from error
            if position == before:
                raise CallError(f"{spec} cannot be read ({error.strerror}): give a sound file that plays") from error
        if position == before:
            raise CallError(f"{spec} holds no sound that can be decoded: give a sound file that plays")


def open_sound(spec: str) -> SoundSource:
    """Return the source that --audio names: tone, mic, mic:DEVICE, or the path of a file with sound."""
    return ToneSource() if spec == "tone" else Reader(spec, functools.partial(sound_blocks, spec), keep=10)


# ---- 8  Looking: view, window, recorder ------------------------------------------------------------------------------

INK, PALE, FAINT, ACCENT = (240, 240, 240), (190, 190, 185), (130, 125, 120), (120, 210, 255)  # blue-green-red
BACKGROUND = (38, 33, 30)
KEYS = (
    "c call · a accept · r reject · h/j hang up (left/right) · t third person · n next source · o add sound · "
    "v/m mute picture/sound · g grey · s snapshot · q quit"
)


class View:
    """Draws the call: both pictures side by side, captions, states and the last lines of the log."""

    LARGEST = (640, 480)  # a larger picture is scaled down to this
    MARGIN, TITLE, LINE, LINES = 16, 34, 20, 6  # pixels, pixels, pixels, log lines

    def __init__(self, width: int, height: int, log: Log) -> None:
        scale = min(1.0, self.LARGEST[0] / width, self.LARGEST[1] / height)
        self.size = (round(width * scale), round(height * scale))
        self.log = log
        self.grey = False
        self.message = ""  # shown above the log
        self.phones: tuple[Phone, Phone, Phone] | None = None  # left, right, and of the third person
        self.pane = max(self.size[0], 540)  # room for the captions
        rows = self.TITLE + self.size[1] + (self.LINES + 5) * self.LINE + 2 * self.MARGIN
        columns = 2 * self.pane + 3 * self.MARGIN
        self.shape = (rows + rows % 2, columns + columns % 2, 3)  # even: it may be recorded
        self._font = cv2.FontFace("sans")

    def corner(self, side: int) -> tuple[int, int]:
        """Return x and y of the left (0) or right (1) picture in the view."""
        return self.MARGIN + side * (self.pane + self.MARGIN), self.TITLE + self.MARGIN // 2

    def draw(self, live: Call | None) -> Picture:
        """Return the view as a picture; without a live call its panes are empty."""
        canvas = np.full(self.shape, BACKGROUND, np.uint8)
        for side, title in enumerate(("pc1 captures", "pc2 received")):
            (x, y), (width, height) = self.corner(side), self.size
            end = self._text(canvas, title, (x, y - 10), INK, 19)
            pane = canvas[y : y + height, x : x + width]
            pane[:] = (55, 50, 46)
            if self.phones:
                phone = self.phones[side]
                seen = f"   in the room: {', '.join(phone.people) or 'nobody'}" if phone.state == "idle" else ""
                self._text(canvas, f"{phone}{seen}", (x, y + height + 2 * self.LINE), INK, 15)
            if live is None:
                hints = {
                    "idle": "" if side else "press c to call",
                    "calling": "it rings",
                    "ringing": "press a to accept, r to reject",
                }
                hint = hints.get(self.phones[side].state, "") if self.phones else ""
                self._text(pane, hint, (14, height // 2), PALE, 18)
                continue
            peer, picture = ((live.pc1, live.track.picture), (live.pc2, live.pc2.picture))[side]
            if picture is None:
                self._text(pane, "waiting for the first picture", (14, height // 2), FAINT)
            else:
                pane[:] = self._prepared(picture, grey=self.grey and side == 1)
            self._text(canvas, self._caption(live, side), (end + 16, y - 10), ACCENT, 15)
            signalling, gathering, ice, connection = peer.states.values()
            states = f"signalling {signalling} · gathering {gathering} · ICE {ice} · connection {connection}"
            self._text(canvas, states, (x, y + height + self.LINE), PALE, 14)
            if live.sound:
                self._draw_level(canvas, live, side)
        x, y = self.MARGIN, self.corner(0)[1] + self.size[1] + 3 * self.LINE + 8
        self._text(canvas, self.message, (x, y), ACCENT)
        if self.phones and (self.phones[2].state, self.phones[2].why) != ("away", ""):
            self._text(canvas, f"the third: {self.phones[2]}", (self.corner(1)[0], y), PALE)
        for row, event in enumerate(reversed([*itertools.islice(reversed(self.log.events), self.LINES)]), 1):
            for column, text in (
                (0, f"{event.t * 1000:.0f} ms"),
                (80, event.who),
                (130, event.what),
                (350, event.detail),
            ):
                room = (self.shape[1] - column) // 8  # letters
                self._text(canvas, text[:room], (x + column, y + row * self.LINE), PALE if column else FAINT, 14)
        self._text(canvas, KEYS, (x, self.shape[0] - self.MARGIN), INK, 15)
        return canvas

    def _draw_level(self, canvas: Picture, live: Call, side: int) -> None:
        (x, y), (width, height), meter = self.corner(side), self.size, live.sound_meter
        level, frequency = meter.levels[side], meter.frequency if side else None
        bar = canvas[y : y + height, x + width + 4 : x + width + 12]
        bar[:] = (55, 50, 46)
        bar[round(height * min(1.0, level / -60)) :] = ACCENT  # from -60 dB at the bottom to full scale
        muted = ", muted" if side == 0 and live.sound and live.sound.muted else ""
        heard = f"sound {level:.0f} dB{muted}" + (f", {frequency:.1f} Hz" if frequency else "")
        self._text(canvas, heard, (x + self.pane - 170, y + height + 2 * self.LINE), ACCENT, 15)

    def _prepared(self, picture: Picture, *, grey: bool) -> Picture:
        if (picture.shape[1], picture.shape[0]) != self.size:
            picture = cv2.resize(picture, self.size, interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR) if grey else picture

    def _caption(self, call: Call, side: int) -> str:
        picture, meter = call.track.picture, call.meter
        if side == 0:
            source = call.track.source
            size = f"{picture.shape[1]}x{picture.shape[0]}" if picture is not None else ""
            given = f"gives {source.given}, sent as {size}" if source.given else size
            return f"{source.label[-24:]}   {given}   {'muted' if call.track.muted else ''}"
        delay, rate = meter.recent
        if not rate:
            return call.codec
        traffic = f"{call.bitrate_kbps:.0f} kbit/s   lost {call.packets_lost}"
        return f"{call.codec}   delay {delay * 1000:.1f} ms   {rate:.1f}/s   {traffic}"

    def _text(
        self, canvas: Picture, text: str, at: tuple[int, int], colour: tuple[int, int, int], size: int = 15
    ) -> int:
        """Draw text with its baseline at (x, y); return the x where it ends."""
        end, _ = cv2.putText(canvas, text, at, colour, self._font, size, 450)
        return int(end[0])


class Display:
    """The X display of this session, on Linux. Qt, which draws OpenCV's windows, ends the whole process when it finds
    none, or when it dies; no `except` catches that. So: ask first, look before each use, and for a display that dies
    within a use let the C library call `last_words` before it ends the process."""

    def __init__(self, last_words: Callable[[], None]) -> None:
        """Raises CallError with the reason why no window can be shown here."""
        self._poll: select.poll | None = None
        if cv2.currentUIFramework() == "":
            raise CallError("this OpenCV has no windows (opencv-python-headless): install opencv-python instead of it")
        if sys.platform != "linux":
            return  # macOS and Windows usually have one, and do not end the process
        loaded = list(sys.modules)
        if loaded.index("av") < loaded.index("cv2"):
            raise CallError("aiortc was imported before cv2, so a window would hang: import loopback (or cv2) first")
        try:
            x11 = ctypes.CDLL("libX11.so.6")
        except OSError as error:
            raise CallError("libX11 is missing: on Debian or Ubuntu, apt install libx11-6") from error
        x11.XOpenDisplay.restype = ctypes.c_void_p
        self._connection = ctypes.c_void_p(x11.XOpenDisplay(None))
        if not self._connection:
            raise CallError(f"no display (DISPLAY is {os.environ.get('DISPLAY') or 'not set'})")
        self._close = x11.XCloseDisplay
        self._poll = select.poll()
        self._poll.register(x11.XConnectionNumber(self._connection), 0)  # 0: tell of a hang-up only
        self._libc, self._key, self._done = ctypes.CDLL(None), ctypes.c_int(), False
        self._at_exit = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None if self._done else last_words())
        self._libc["__cxa_atexit"](self._at_exit, None, ctypes.byref(self._key))
        atexit.register(self._forget)  # Python itself is about to end: its functions can be called no more

    @property
    def alive(self) -> bool:
        return self._poll is None or not self._poll.poll(0)

    def _forget(self) -> None:
        if not self._done:
            self._done = True
            self._libc["__cxa_finalize"](ctypes.byref(self._key))  # takes the function back, and calls it

    def close(self) -> None:
        if self._poll is not None:
            self._forget()
            atexit.unregister(self._forget)
            if self.alive:
                self._close(self._connection)


class Window:
    """A window on the screen. Raises CallError where there can be none, and when its display dies."""

    NAME = "loopback: a WebRTC call"
    DIED = "the display died, and the window with it: start the program again where there is one"

    def __init__(self, last_words: Callable[[], None]) -> None:
        self._display = Display(last_words)
        # Qt would complain that it finds no fonts; View draws the text. cv2 sets Qt's variables at import, so here.
        os.environ["QT_LOGGING_RULES"] = "*.warning=false"
        cv2.namedWindow(self.NAME, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)
        self._shown = False

    def show(self, canvas: Picture) -> str | None:
        """Show a picture and return the key pressed, "" for none, None when the user has closed the window."""
        if not self._display.alive:
            raise CallError(self.DIED)
        # After the close button OpenCV has no window left to ask about, and imshow would open another.
        try:
            if self._shown and cv2.getWindowProperty(self.NAME, cv2.WND_PROP_VISIBLE) < 1:
                return None
        except cv2.error:
            return None
        cv2.imshow(self.NAME, canvas)
        self._shown = True
        key = cv2.pollKey()
        return chr(key) if 0 < key < 128 else ""  # an arrow or a function key has a larger number

    def close(self) -> None:
        if self._display.alive:
            cv2.destroyAllWindows()
        self._display.close()


class Recorder:
    """Writes the view to a video file, in a thread of its own. Every packet is written at once, and the containers are
    of kinds that need no ending, so what is on the disk plays even if the process is killed."""

    KINDS: ClassVar[dict[str, tuple[str, str, dict[str, str]]]] = {
        ".mkv": ("matroska", "libx264", {"cluster_time_limit": "200"}),
        # A fragment each 0.1 s, in microseconds. One for each frame would spoil every fifth block of sound.
        ".mp4": ("mp4", "libx264", {"movflags": "empty_moov+default_base_moof", "frag_duration": "100000"}),
        ".webm": ("webm", "libvpx", {"cluster_time_limit": "200"}),
    }
    CODECS: ClassVar[dict[str, dict[str, str]]] = {
        "libx264": {"preset": "ultrafast", "tune": "zerolatency", "crf": "23"},
        "libvpx": {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "2M"},
    }

    def __init__(self, path: Path, shape: tuple[int, int, int], *, sound: bool = False) -> None:
        """`shape` is that of every picture. Raises CallError when the file cannot be written."""
        self.path = path
        self.dropped = 0
        self._queue: queue.Queue[tuple[Picture, float] | tuple[Samples, float] | None] = queue.Queue()
        self._failure: OSError | av.FFmpegError | None = None
        container, codec, options = self.KINDS[path.suffix.lower()]
        try:
            # max_interleave_delta, in microseconds: how long a picture waits for the sound that belongs before it.
            options = {**options, "flush_packets": "1", "max_interleave_delta": "200000"}
            self._file = av.open(str(path), "w", format=container, options=options)
            stream = self._file.add_stream(codec, options=self.CODECS[codec])
            assert isinstance(stream, av.VideoStream)
            self._stream = stream
            stream.height, stream.width = shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
            stream.codec_context.gop_size = 30
            self._sound = self._file.add_stream("libopus", rate=SOUND_RATE, layout="stereo") if sound else None
            self._file.start_encoding()
        except (OSError, av.FFmpegError) as error:
            raise self._trouble(error) from error
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    def write(self, picture: Picture, t: float) -> None:
        """Record a picture shown at second `t`. Raises CallError when the disk does not take it."""
        self._put(picture, t, room=21 if self._sound else 8)  # about a quarter of a second

    def write_sound(self, samples: Samples, t: float) -> None:
        """Record a block of sound heard at second `t`."""
        if self._sound:
            self._put(samples, t, room=200)

    def _put(self, item: Picture | Samples, t: float, room: int) -> None:
        if self._failure:
            raise self._trouble(self._failure)
        if self._queue.qsize() < room:
            self._queue.put((item, t))
        else:
            self.dropped += 1  # rather than hold up the call

    def close(self) -> None:
        """Write what is left and close the file. Raises CallError when the disk did not take it."""
        self._queue.put(None)
        self._thread.join(timeout=5)
        if self._failure:
            raise self._trouble(self._failure)

    def _write(self) -> None:
        last, position = -1, 0
        try:
            while (item := self._queue.get()) is not None:
                content, t = item
                if content.ndim == 3:
                    frame = to_frame(content)
                    frame.pts, frame.time_base = max(round(t * 1000), last + 1), Fraction(1, 1000)
                    last = frame.pts
                    self._file.mux(self._stream.encode(frame))
                elif self._sound:
                    if t * SOUND_RATE > position + SOUND_RATE / 10:  # blocks come in bursts; this is a real gap
                        position = round(t * SOUND_RATE)
                    self._file.mux(self._sound.encode(to_sound_frame(content, position)))
                    position += len(content)
            for stream in (self._stream, self._sound):
                if stream:
                    self._file.mux(stream.encode(None))
            self._file.close()
        except (OSError, av.FFmpegError) as error:
            self._failure = error

    def _trouble(self, error: OSError | av.FFmpegError) -> CallError:
        return CallError(f"{self.path} cannot be written ({error.strerror}): make room or choose another place")


def check_writable(path: Path) -> None:
    """Raise CallError where a file cannot be written, before a call is made in vain."""
    if not path.parent.is_dir():
        raise CallError(f"{path} cannot be written: there is no folder {path.parent}; make it, or choose another place")
    if path.is_dir():
        raise CallError(f"{path} cannot be written: it is a folder; give the name of a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise CallError(f"{path} cannot be written: permission is missing; choose another place")


def write_picture(path: Path, picture: Picture) -> None:
    """Write a picture file. Raises CallError when it cannot be written."""
    try:
        path.write_bytes(cv2.imencode(path.suffix, picture)[1].tobytes())
    except OSError as error:
        raise CallError(f"{path} cannot be written ({error.strerror}): choose another place") from error


# ---- 9  Session: keys, command line, exit status ---------------------------------------------------------------------


class Session:
    """What a user does with calls: see, step, hang up, call again, record. Holds what lives longer than one call.

    The user plays all the people: Ann, whose call the program begins with, Ben, whom she calls, and Cem, the third.
    """

    TICK = 1 / 30  # s between two views

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.console = Console(sys.stderr if options.json else sys.stdout)
        self.log = Log(self.console.event)
        self.view = View(options.width, options.height, self.log)
        self.call: Call | None = None
        self.window: Window | None = None
        self.recorder: Recorder | None = None
        self.snapshot: Path | None = options.snapshot
        self.seconds: float | None = options.seconds
        self.setup: asyncio.Task[None] | None = None
        self.switching: asyncio.Task[None] | None = None
        self.room = Room(options.places)
        self.ann, self.ben, self.cem = self.people = [
            Phone(name, self.room, self._act, self.log) for name in ("Ann", "Ben", "Cem")
        ]
        self.ending = False  # the call is to be closed
        self.ticked = 0.0  # s on the log's clock: the last tick
        self.seen = 0  # pictures of the call that had come by then
        # The first one is in use.
        self.sources = list(dict.fromkeys((options.source, "synthetic", "night", "camera", "screen")))
        self.go = asyncio.Semaphore(0)  # --step: one for each Enter or key
        self.hurry = False  # --step: nobody can press Enter
        self.ended, self.interrupted = False, 0

    @property
    def live(self) -> Call | None:
        """The call, until it is hung up."""
        return self.call if self.call and not self.call.closed else None

    def interrupt(self, number: int, *_: object) -> None:
        """Handle Ctrl-C and SIGTERM: end at the next tick. A second one changes nothing: the end is under way."""
        self.ended, self.interrupted = True, number

    async def run(self) -> None:
        """Run until the user, --seconds or a failure ends it. Raises CallError; leaves nothing open."""
        try:
            self._open_view()
            if self.options.step:
                self._read_enter()
            await self._first_call()
            until = math.inf
            while not self.ended and self.log.now() < until:
                await self._next_tick()
                await self._tick()
                started = self.call and self.call.meter.received and not self.view.message
                if until == math.inf and self.seconds is not None and started:
                    until = self.log.now() + self.seconds
            if self.live:
                await self.live.finish()
            self._keep_picture()
            for phone in self.people:
                if phone.state != "away":
                    phone.press("leave")
                    await asyncio.sleep(0)  # the others hear it
        except CallError:
            if self.caller.state in ("connecting", "in call"):
                self.caller.media("failed")
                await asyncio.sleep(0)  # the other one hears it
            raise
        finally:
            await self._close()

    async def _next_tick(self) -> None:
        # Drawing holds up the event loop for some 10 ms. So draw when a picture has just come, not when one is due.
        await asyncio.sleep(max(0.0, self.ticked + 0.8 * self.TICK - self.log.now()))
        seen = self.seen
        while (call := self.live) and call.meter.received == seen and self.log.now() < self.ticked + 1.3 * self.TICK:
            await asyncio.sleep(0.001)
        self.seen = call.meter.received if call else 0

    def _open_view(self) -> None:
        if self.options.view != "none":
            try:
                self.window = Window(self._last_words)
                self.window.show(self.view.draw(None))
            except CallError as error:
                if self.options.view == "window":
                    raise CallError(f"{error}: there can be no window; use --view none") from error
                self.snapshot = self.snapshot or Path("loopback.png")
                self.console.line(f"{error}: no window; the view is written to {self.snapshot} at the end")
        if self.window is None and self.seconds is None:
            self.seconds = 5.0
        for path in (self.snapshot, self.options.record):
            if path:
                check_writable(path)
        if self.options.record:
            self.recorder = Recorder(self.options.record, self.view.shape, sound=bool(self.options.audio))

    async def _first_call(self) -> None:
        """Ann and Ben enter the room, and she calls him. This once he accepts without a key."""
        async with asyncio.timeout(PATIENCE["joining"]):
            for phone in (self.ann, self.ben):
                phone.press("join")
            while "Ben" not in self.ann.people:
                await asyncio.sleep(0)
            self.ann.press("call", "Ben")
            while self.ben.state != "ringing":
                await asyncio.sleep(0)
            self.ben.press("accept")

    @property
    def caller(self) -> Phone:
        """Whose picture is on the left."""
        return self.cem if self.cem.state in ("calling", "connecting", "in call") else self.ann

    def _act(self, phone: Phone, action: str) -> None:
        if action == "negotiate":
            self.go = asyncio.Semaphore(0)
            self.setup = asyncio.create_task(self._set_up(phone))
        else:
            self.ending = True  # the next tick closes the call; both people say so

    async def _set_up(self, caller: Phone) -> None:
        o = self.options
        with contextlib.ExitStack() as stack:
            source = open_source(self.sources[0], o.width, o.height, o.fps, self.log)
            stack.callback(source.close)
            self.view.message = f"opening {source.label}"
            await source.ready()
            sound = open_sound(o.audio) if o.audio else None
            if sound:
                stack.callback(sound.close)
                await sound.ready()
            stack.pop_all()  # from here on the call closes them
        self.view.message = ""
        marker_bit = o.jitter_buffer == "marker"
        self.call = call = Call(
            source, codec=o.codec, marker_bit=marker_bit, deadline=o.deadline, ice=o.ice, log=self.log, sound=sound
        )
        if recorder := self.recorder:
            call.sound_meter.on_block = lambda samples: recorder.write_sound(samples, self.log.now())
        if o.step:
            await self._step_through(call)
        else:
            await call.run()
        for phone in (caller, self.ben):
            phone.media("connected")

    async def _end_call(self) -> None:
        self.ending = False
        await self._drop_setup()
        if call := self.live:
            await call.close()
            self.console.line(f"hung up: {call.meter!r}")

    def _change(self, what: str, change: Callable[[Call], Coroutine[Any, Any, None]]) -> None:
        """Begin to change the running call, unless it is being set up or changed."""
        if self.live and self.setup and self.setup.done() and self.switching is None:
            self.switching = asyncio.create_task(change(self.live))
        else:
            self.log("window", f"refused {what}", "there is no call, or it is being set up or changed")

    async def _add_sound(self, call: Call) -> None:
        if call.sound:
            self.log("window", "refused add sound", "there is sound")
            return
        if self.recorder and not self.options.audio:
            self.log("recorder", "note", "a recording with sound has to begin with --audio; this one stays silent")
        await call.run(call.steps_to_add_sound(ToneSource()))

    async def _next_source(self, call: Call) -> None:
        """Switch to the next source that works."""
        o = self.options
        for spec in self.sources[1:]:
            try:
                await call.switch(open_source(spec, o.width, o.height, o.fps, self.log))
            except CallError as error:
                self.log("source", f"{spec} passed over", str(error))
            else:
                place = self.sources.index(spec)
                self.sources = self.sources[place:] + self.sources[:place]
                break

    def key(self, key: str) -> None:
        """Do what a key of the window stands for (KEYS)."""
        presses = {
            "c": functools.partial(self.ann.press, "call", "Ben"),
            "a": functools.partial(self.ben.press, "accept"),
            "r": functools.partial(self.ben.press, "reject"),
            "h": functools.partial(self.caller.press, "hang up"),
            "j": functools.partial(self.ben.press, "hang up"),
            # The third person's first key is to come in; the next ones call.
            "t": functools.partial(self.cem.press, *(("join",) if self.cem.state == "away" else ("call", "Ben"))),
            "n": functools.partial(self._change, "next source", self._next_source),
            "o": functools.partial(self._change, "add sound", self._add_sound),
        }
        if key in ("q", "\x1b"):
            self.ended = True
        elif key in presses:
            presses[key]()
        elif key in ("v", "m"):
            if self.live and (track := self.live.track if key == "v" else self.live.sound):
                self.live.mute(track)
            else:
                self.log("window", "refused mute", "there is no call" if self.live is None else "there is no sound")
        elif key == "g":
            self.view.grey = not self.view.grey
        elif key == "s":
            path = self.options.snapshot or Path("loopback.png")
            try:
                write_picture(path, self.view.draw(self.live))
                self.log("window", "snapshot", str(path))
            except CallError as error:
                self.log("window", "no snapshot", str(error))
        elif key:
            self.go.release()

    async def _tick(self) -> None:
        if self.ending:
            await self._end_call()
        if self.setup is None or self.setup.done():  # a call that is being set up has a deadline of its own
            for phone in self.people:
                phone.wait(self.log.now() - self.ticked)
        self.ticked = self.log.now()
        if self.setup and self.setup.done():
            self.setup.result()
        if self.switching and self.switching.done():
            self.switching.result()
            self.switching = None
        if (call := self.live) and call.connected_after is not None:
            await call.check()
        caller = self.caller
        self.view.phones = (caller, self.ben, self.ann if caller is self.cem else self.cem)
        if self.window or self.recorder:
            canvas = self.view.draw(self.live)
            if self.recorder:
                self.recorder.write(canvas, self.log.now())
            if self.window:
                key = self.window.show(canvas)
                if key is None:
                    self.ended = True
                else:
                    self.key(key)
        if self.live:
            self.console.progress(self.live)

    async def _step_through(self, call: Call) -> None:
        steps = call.steps
        other = SyntheticSource(self.options.width, self.options.height, self.options.fps, night=True)
        steps.append(Step("pc1", "replaceTrack", functools.partial(call.switch, other)))
        if call.sound is None:
            steps += call.steps_to_add_sound(ToneSource())
        for number, step in enumerate(steps, 1):
            title = f"Step {number} of {len(steps)}: {step.who} {step.what}"
            why = textwrap.fill(step.why, 100, initial_indent="  ", subsequent_indent="  ")
            self.console.line(f"\n{title}\n{why}\n  [Enter{', or the space bar in the window' if self.window else ''}]")
            self.view.message = f"{title}   (press the space bar)"
            if not self.hurry:
                await self.go.acquire()
            done = await step.run()
            self.console.line(f"  {done!r}\n  {call.pc1}\n  {call.pc2}")
        self.view.message = ""

    def _read_enter(self) -> None:
        # A thread: Windows cannot wait for a terminal and for sockets in one event loop. It ends with the process, and
        # reads without Python's buffer, whose lock it would hold at that moment.
        loop = asyncio.get_running_loop()

        def lines(text: bytes) -> None:
            for _ in range(text.count(b"\n")):
                self.go.release()
            if not text and not self.window:
                self.hurry = True
                self.go.release()

        def read() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                while True:
                    try:
                        text = os.read(0, 1024) if sys.stdin else b""  # None: closed, and 0 may be another file by now
                    except OSError:
                        text = b""
                    loop.call_soon_threadsafe(lines, text)
                    if not text:
                        return

        threading.Thread(target=read, name="stdin", daemon=True).start()

    async def _drop_setup(self) -> None:
        tasks = [task for task in (self.setup, self.switching) if task]
        self.setup = self.switching = None
        self.view.message = ""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _close(self) -> None:
        async with contextlib.AsyncExitStack() as stack:  # each of these runs, whatever the others raise
            if self.window:
                stack.callback(self.window.close)
            if self.recorder:
                stack.callback(
                    lambda r: self.log("recorder", "closed", f"{r.path}, {r.dropped} views dropped"), self.recorder
                )
                stack.callback(self.recorder.close)
            if self.call:
                stack.push_async_callback(self.call.close)
            stack.push_async_callback(self._drop_setup)
            self._keep_picture()

    def _keep_picture(self) -> None:
        if self.snapshot and self.call and self.call.meter.received:
            path, self.snapshot = self.snapshot, None
            write_picture(path, self.view.draw(self.live))
            self.log("call", "picture written", str(path))

    def _last_words(self) -> None:
        # The display died within a window call, and Qt is ending the process.
        with contextlib.suppress(CallError):
            if self.recorder:
                self.recorder.close()
        self.summary(Window.DIED)
        os._exit(1)

    def summary(self, failure: str | None) -> None:
        """Print the measurements of the last call, and why it failed."""
        if self.call and self.call.meter.received:
            self.console.line(f"{self.call.meter!r}, {self.call.packets_lost} packets lost")
        if self.options.json:
            Console(sys.stdout).line(json.dumps(self.report() | ({"error": failure} if failure else {})))
        if failure:
            Console(sys.stderr).line(f"loopback: {failure}")

    def report(self) -> dict[str, Any]:
        """Return what --json prints: the measurements of the last call."""
        o, call = self.options, self.call
        meter = call.meter if call else Meter()
        picture = call.track.picture if call else None
        span = meter.last_arrival - meter.first_arrival

        def milliseconds(seconds: float | None) -> float | None:
            return None if seconds is None else round(seconds * 1000, 1)

        return {
            "source": call.track.source.label if call else o.source,
            "width": o.width if picture is None else picture.shape[1],
            "height": o.height if picture is None else picture.shape[0],
            "fps": o.fps,
            "codec": o.codec,
            "setup_ms": {
                "connected": milliseconds(call.connected_after if call else None),
                "first_frame": milliseconds(call.first_frame_after if call else None),
            },
            "latency_ms": meter.latency_ms,
            "frames": {"sent": meter.sent, "received": meter.received, "misread": meter.misread},
            "received_fps": round(meter.received_fps, 2),
            "bitrate_kbps": round(call.bytes_sent * 8 / span / 1000, 1) if call and span else 0.0,
            "packets_lost": call.packets_lost if call else 0,
            "sound": None if call is None or call.sound is None else call.sound_meter.as_dict(),
            "selected_pair": (call.selected_pair if call else Pair())._asdict(),
            "log": [event.as_dict() for event in self.log.events],
        }


class Console:
    """The terminal: log lines, and on a real terminal one line of live progress below them."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream or open(os.devnull, "w")  # noqa: SIM115 - None: it was closed before the program began
        self.stream.reconfigure(errors="replace")  # a file or pipe on Windows may have no arrows
        self.live = self.stream.isatty()
        self._due = 0.0

    def line(self, text: str, end: str = "\n") -> None:
        try:
            print(("\r\x1b[K" if self.live else "") + text, end=end, file=self.stream, flush=True)
        except OSError:  # the reader has gone (| head), or the disk is full: the call goes on without
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def event(self, event: Event) -> None:
        self.line(str(event))

    def progress(self, call: Call) -> None:
        if self.live and call.meter.received and time.perf_counter() >= self._due:
            self._due = time.perf_counter() + 0.5
            columns = os.get_terminal_size(self.stream.fileno()).columns
            delay, rate = call.meter.recent
            text = (
                f"{rate:.1f}/s  delay {delay * 1000:.1f} ms  {call.bitrate_kbps:.0f} kbit/s  lost {call.packets_lost}"
            )
            self.line(f"{text}  {call.meter.received} pictures  {call.meter.misread} misread"[: columns - 1], end="")


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> Any:
        hint = " (--help lists what there is)" if "unrecognized" in message else ""
        self.exit(2, f"loopback: {message}{hint}\n")


def size(text: str) -> tuple[int, int]:
    """Return (width, height) of "640x480"; the smallest has room for the time code."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 640x480")
    if not (160 <= int(width) <= 3840 and 120 <= int(height) <= 2160):
        raise argparse.ArgumentTypeError(f"{text} is out of range: 160x120 to 3840x2160")
    return int(width), int(height)


def number_between(least: float, most: float) -> Callable[[str], float]:
    """Return a converter for argparse that takes numbers in a range."""

    def convert(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:g} to {most:g}")
        return number

    return convert


def source(text: str) -> str:
    """Return what --source names, once it can be a source."""
    kind, colon, number = text.partition(":")
    if not text or (kind == "camera" and colon and not (number.isdecimal() and len(number) < 4)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no source: write synthetic, night, camera, camera:1, screen, or a file"
        )
    return text


def ice_server(text: str) -> str:
    """Return a stun: or turn: URI (RFC 7064, RFC 7065) that aiortc can use."""
    try:
        parsed = parse_stun_turn_uri(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a URI like stun:HOST:PORT or turn:HOST:PORT") from error
    if not connection_kwargs([RTCIceServer(text)]):  # aiortc would pass over it in silence
        raise argparse.ArgumentTypeError(f"{text!r}: aiortc has no {parsed['scheme']}: of that transport")
    return text


def path_with(*suffixes: str) -> Callable[[str], Path]:
    """Return a converter for argparse that takes paths with one of these endings."""

    def convert(text: str) -> Path:
        if Path(text).suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {' or '.join(suffixes)}")
        return Path(text)

    return convert


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options. Exits with 2 and one line on standard error for wrong ones."""
    parser = Parser(
        prog="loopback.py",
        description="A WebRTC call between two peers in one process, laid open.",
        epilog=f"Keys in the window: {KEYS}",
    )
    add = parser.add_argument
    rate, seconds, wait = number_between(1, 60), number_between(0.1, 86400), number_between(0.1, 600)
    add("--source", type=source, default="synthetic", help="synthetic (default), night, camera:1, screen or a file")
    add("--audio", metavar="tone|mic|FILE", help="send sound too; it is measured, and not played aloud: it would howl")
    add("--size", type=size, default=(640, 480), metavar="WxH", help="size of the picture, 640x480 by default")
    add("--fps", type=rate, default=30.0, metavar="N", help="pictures a second, 1 to 60, 30 by default")
    add("--codec", type=str.upper, choices=("VP8", "H264"), default="VP8", help="VP8 by default")
    add("--view", choices=("auto", "window", "none"), default="auto", help="auto: a window where there is a display")
    add("--seconds", type=seconds, metavar="S", help="end after S seconds; without a window, 5 by default")
    add("--step", action="store_true", help="one step at a time: explain it, wait for Enter, show what it changed")
    add("--snapshot", type=path_with(".png", ".jpg"), metavar="FILE", help="write the view at the end: .png or .jpg")
    add("--record", type=path_with(*Recorder.KINDS), metavar="FILE", help="record the view to a .mkv, .mp4 or .webm")
    add("--json", action="store_true", help="print the measurements as one JSON object; all else to standard error")
    add("--deadline", type=wait, default=5.0, metavar="S", help="give up without a picture after S seconds (5)")
    add("--places", type=int, choices=(2, 3), default=3, help="in the room (3); with 2 it is full for the third person")
    add("--ice-server", type=ice_server, action="append", default=[], metavar="URI", help="stun: or turn:; repeatable")
    add("--ice-user", metavar="NAME", help="user at the TURN server; the password comes from LOOPBACK_ICE_PASSWORD")
    add("--relay-only", action="store_true", help="use relayed candidates only")
    buffers = "marker: a frame is complete with its last packet; stock: aiortc's own, one frame later"
    add("--jitter-buffer", choices=("marker", "stock"), default="marker", help=buffers)
    options = parser.parse_args(arguments)
    options.width, options.height = options.size
    password = os.environ.get("LOOPBACK_ICE_PASSWORD")  # an argument would show in the list of processes
    kinds = [uri.partition(":")[0].removesuffix("s") for uri in options.ice_server]
    if len(set(kinds)) < len(kinds):
        parser.error("argument --ice-server: aiortc uses one STUN and one TURN server")
    if options.relay_only and "turn" not in kinds:
        parser.error("argument --relay-only: give --ice-server turn:...; only a TURN server relays")
    if options.ice_user and "turn" not in kinds:
        parser.error("argument --ice-user: give --ice-server turn:...; only a TURN server asks for a user")
    for output, option in itertools.product((options.record, options.snapshot), ("source", "audio")):
        if output and output.resolve() == Path(getattr(options, option) or "").resolve():
            parser.error(f"argument --{option}: {output} would be overwritten by the output; choose another name")
    if "turn" in kinds and not (options.ice_user and password):
        parser.error("argument --ice-server: turn: needs --ice-user and its password in LOOPBACK_ICE_PASSWORD")
    servers = [RTCIceServer(uri, options.ice_user, password) for uri in options.ice_server]
    options.ice = IceOptions(tuple(servers), options.relay_only)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 1 the call or a device failed, 130 Ctrl-C.

    Exits with 2 for wrong arguments.
    """
    options = parse(arguments)
    gc.freeze()  # what the imports made stays; looking through it for garbage would stop the set-up for 15 ms
    session = Session(options)
    failure, status = None, 0
    before = {number: signal.signal(number, session.interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(session.run())
    except CallError as error:
        failure, status = str(error), 1
    if session.interrupted:
        status = 128 + session.interrupted
        session.console.line("interrupted")
    session.summary(failure)
    for number, handler in before.items():
        signal.signal(number, handler)
    return status


if __name__ == "__main__":
    sys.exit(main())

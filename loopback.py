# /// script
# requires-python = ">=3.11"
# dependencies = ["aiortc>=1.16,<2", "numpy>=2", "opencv-python>=5"]
# ///
"""A whole WebRTC call in one process, laid open.

Two peers, pc1 and pc2, live in this one process. pc1 has a camera (or a test picture), pc2 has a screen. They share
nothing: what they say to each other are JSON texts through a channel, and every picture is a few encrypted UDP
datagrams over 127.0.0.1. Both pictures are shown side by side.

    python loopback.py                  two moving pictures, every step on the terminal
    python loopback.py --step           the same call, one step at a time, each one explained
    python loopback.py --help           your camera, a film, video both ways, H264, JSON

Map: the file reads from top to bottom. Whoever stops after part 5 has read the whole call.

    1  The log           what happened, on one clock          6  Health    waiting, silence, the likely cause
    2  Signalling        the messages, and how they cross     7  Guards    where aiortc needs help
    3  The two scripts   the whole negotiation, on one page   8  Pictures  time code, delay, the track that is sent
    4  A peer            one RTCPeerConnection, its steps     9  Sources   test picture, camera, file
    5  A call            two peers, until the end            10  Looking  11  Running: keys, options, exit status

Dictionary

    SDP, m-line    a text that describes media, an m-line for each track; the m-line's name is its mid (RFC 8866)
    offer, answer  the two SDPs of a negotiation; the answer keeps what both sides can do (RFC 3264, RFC 9429)
    transceiver    what serves one m-line: a sender, whose packets carry its number, the SSRC, and a receiver
    candidate      an address where a peer may be reached: its own (host), as seen from outside (server-reflexive), or
                   lent by a relay (RFC 8839); one learned from a datagram is peer-reflexive
    ICE            tries pairs of candidates until one carries datagrams both ways; the offering side, which is
                   controlling, nominates it (RFC 8445). Its test datagrams (STUN) are signed with ufrag and pwd
    fingerprint    the hash, sent in the SDP, of the certificate a peer shows in the DTLS handshake (RFC 8122)
    DTLS, SRTP     the handshake that agrees on keys, and the media encrypted with them (RFC 5764, RFC 3711)
    RTP, RTCP      pictures cut into numbered packets; reports on them, and requests: for a lost packet (NACK), for a
                   picture that needs no earlier one (PLI), for another bit rate (RFC 3550, RFC 4585)
    jitter buffer  where the receiver puts packets back in order until a frame is whole

Left out: sound, people who ring and answer, servers, recording: those are in notebooks/phone. And what a browser can
do but aiortc cannot: send candidates while it still looks for others (trickle ICE, RFC 8838), VP9, AV1, simulcast.
"""

from __future__ import annotations

import os
import signal
import sys

# Ctrl-C during the imports below, a third of a second: leave without a traceback, also as the installed command.
if os.path.splitext(os.path.basename(sys.argv[0]))[0] == "loopback":
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import argparse
import asyncio
import binascii
import contextlib
import ctypes
import gc
import ipaddress
import itertools
import json
import math
import re
import shutil
import struct
import textwrap
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, NoReturn, Protocol, TypeVar

# cv2 must be imported before aiortc: both bring a library of the same name (libxcb), and with aiortc's loaded first
# OpenCV's windows hang. An import sorter must not move this block.
try:
    import cv2
except ImportError as missing:
    sys.exit(
        f"loopback: OpenCV cannot be imported ({missing}) by {sys.executable}: install as README.md says; on Debian or "
        "Ubuntu it needs apt install libgl1 libglib2.0-0 libxcb1, on Fedora dnf install mesa-libGL glib2 libxcb"
    )
# isort: split

import aioice
import av
import numpy as np
import numpy.typing as npt
from aiortc import MediaStreamTrack, RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.codecs import get_capabilities
from aiortc.exceptions import InternalError, InvalidAccessError, InvalidStateError, OperationError
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.mediastreams import VIDEO_CLOCK_RATE, VIDEO_TIME_BASE, MediaStreamError
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceCandidate, parse_stun_turn_uri
from aiortc.rtp import RtpPacket
from aiortc.sdp import SessionDescription, candidate_from_sdp, grouplines

__version__ = "0.2.0"

Picture = npt.NDArray[Any]  # uint8, (height, width, 3), blue-green-red: OpenCV's way
Colour = tuple[int, int, int]
Message = dict[str, Any]


class CallError(Exception):
    """The call or a device failed. The text is one line: the cause, then what to do about it."""


class SignallingError(Exception):
    """A message that cannot be used: unknown, malformed, or not at this moment."""


class ChannelError(CallError):
    """A Channel's way to the other side has ended. A call that is connected goes on without it."""


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


class Log:
    """Steps, messages and state changes, on one clock; terminal, window and JSON show it."""

    def __init__(self, listener: Callable[[Event], object] = lambda event: None) -> None:
        self.start = time.perf_counter()
        self.events: deque[Event] = deque(maxlen=10_000)
        self.listener = listener

    def __call__(self, who: str, what: str, detail: str = "") -> Event:
        event = Event(self.now(), who, printable(what), printable(detail))
        self.events.append(event)
        self.listener(event)
        return event

    def now(self) -> float:
        """Seconds since the log began."""
        return time.perf_counter() - self.start

    def __repr__(self) -> str:
        return "\n".join(map(str, self.events))


# ---- 2  Signalling: the messages, and how they cross -----------------------------------------------------------------
# WebRTC does not say how offer and answer travel (W3C webrtc-pc, section 4.1): any way that carries text will do. Here
# it is a pair of queues. With a Channel made of a WebSocket the other end may be another program, or a browser.

MESSAGES: dict[str, tuple[str, ...]] = {  # each type, and the texts it must have; parse_message (part 7) looks
    "offer": ("sdp",),
    "answer": ("sdp",),
    "candidate": ("candidate", "sdpMid"),
    "end-of-candidates": (),
    "bye": (),
}


class Channel(Protocol):
    """One end of the way between two peers: texts in order, nothing else. `receive` may be cancelled while it waits,
    and must then lose nothing. Both raise ChannelError, and nothing else, when the way has ended."""

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
    one, other = asyncio.Queue[str](), asyncio.Queue[str]()
    return MemoryChannel(one, other), MemoryChannel(other, one)


# ---- 3  The two scripts: the whole negotiation, on one page ----------------------------------------------------------
# This is the call. Each end goes down a list of its own, and only messages join the two. A step is one method of the
# standard's RTCPeerConnection, one kind of message through the channel, or a wait; part 4 has them all.


class Step(NamedTuple):
    """One line of a script: who does what, and the message it sends, or which the other side must have sent before."""

    peer: Peer
    what: str
    run: Callable[[], Awaitable[Done]]
    sends: str = ""
    needs: str = ""

    @property
    def who(self) -> str:
        return self.peer.name

    @property
    def why(self) -> str:
        """What the step is for, in a sentence or two: the docstring of what it runs."""
        run = self.run.func if isinstance(self.run, partial) else self.run
        return " ".join((run.__doc__ or "").split())


def caller(peer: Peer, track: MediaStreamTrack) -> list[Step]:
    """The end that makes the offer, and has something to send."""
    return [
        Step(peer, "addTrack", partial(peer.add_track, track)),
        Step(peer, "createOffer", peer.create_offer),
        Step(peer, "setLocalDescription(offer)", peer.set_local_description),
        Step(peer, "send the offer", peer.send_description, sends="offer"),
        Step(peer, "send its candidates", peer.send_candidates, sends="candidates"),
        Step(peer, "setRemoteDescription(answer)", partial(peer.receive_description, "answer"), needs="answer"),
        Step(peer, "addIceCandidate", peer.receive_candidates, needs="candidates"),
        Step(peer, "connect", peer.connect),
    ]


def callee(peer: Peer, track: MediaStreamTrack | None = None) -> list[Step]:
    """The end that answers. With a track of its own, which then goes onto the offered m-line, video goes both ways."""
    return [
        Step(peer, "setRemoteDescription(offer)", partial(peer.receive_description, "offer"), needs="offer"),
        Step(peer, "addIceCandidate", peer.receive_candidates, needs="candidates"),
        *([Step(peer, "addTrack", partial(peer.add_track, track))] if track else []),
        Step(peer, "createAnswer", peer.create_answer),
        Step(peer, "setLocalDescription(answer)", peer.set_local_description),
        Step(peer, "send the answer", peer.send_description, sends="answer"),
        Step(peer, "send its candidates", peer.send_candidates, sends="candidates"),
        Step(peer, "connect", peer.connect),
        Step(peer, "first picture", peer.first_picture),
    ]


async def play(script: Iterable[Step]) -> None:
    """Take the steps in order. Two tasks, or two programs, play a script each; messages make one wait for the other."""
    for step in script:
        await step.run()


def in_turns(one: list[Step], other: list[Step]) -> list[Step]:
    """Merge two scripts into one list, for --step, lessons and diagrams: what was sent is taken up at once."""
    merged: list[Step] = []
    left, sent = (deque(one), deque(other)), ({""}, {""})  # steps to come; messages sent, "" for the steps without
    while left[0] or left[1]:
        ready = [side for side in (0, 1) if left[side] and left[side][0].needs in sent[1 - side]]
        if not ready:
            raise ValueError(f"the scripts wait for each other: {[side[0].needs for side in left if side]}")
        side = max(ready, key=lambda ready_side: bool(left[ready_side][0].needs))  # one that takes up a message first
        merged.append(left[side].popleft())
        sent[side].add(merged[-1].sends)
    return merged


# ---- 4  A peer -------------------------------------------------------------------------------------------------------

STATES = ("signalingState", "iceGatheringState", "iceConnectionState", "connectionState")
# Without servers there are host candidates only; None would ask a public STUN server who we are. MAX_BUNDLE: all media
# over one transport, one UDP port (RFC 9143), which is also what browsers end up with.
NO_SERVERS = RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)


@dataclass(frozen=True)
class Done:
    """What one step did: what it made (an SDP, candidates, a picture) and which states it changed."""

    who: str
    what: str
    made: Any = None
    changed: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{self.who}: {self.what} · {', '.join(self.changed) or 'no state changed'}"


class Peer:
    """One end of a call: an RTCPeerConnection, its end of the channel, and the steps it can take.

    Nothing here knows what is at the other end: this process, another one, or a browser. `deadline` is in seconds, how
    long a step waits; `marker_bit` False takes aiortc's own jitter buffer (part 7), `here_only` False offers
    this machine's other addresses besides 127.0.0.1, for somebody on another one.
    """

    def __init__(
        self,
        name: str,
        channel: Channel,
        log: Log,
        *,
        configuration: RTCConfiguration = NO_SERVERS,
        codec: str = "VP8",
        deadline: float = 5.0,
        marker_bit: bool = True,
        here_only: bool = True,
    ) -> None:
        self.name, self.channel, self.log, self.configuration = name, channel, log, configuration
        self.codec, self.deadline, self.marker_bit, self.here_only = codec, deadline, marker_bit, here_only
        self.draft: RTCSessionDescription | None = None  # made, but not yet committed to
        self.remote_candidates: list[str] = []
        self.all_candidates = False  # the other side has said that there are no more
        self.selected_pair = Pair()  # of candidates; empty until ICE has chosen
        self.picture: Picture | None = None  # the newest one received
        self.on_picture: Callable[[Picture], None] = lambda picture: None
        self.on_sound: Callable[[av.AudioFrame], None] = lambda frame: None
        self.waiting = self.refused = ""  # for which message; what was refused, and why
        self.hung_up = False  # the other side said bye
        self.tasks: list[asyncio.Task[None]] = []
        self.tracks: list[Any] = []  # what it was given to send
        self.bugs: list[Exception] = []  # raised by its event handlers, within aiortc; Health.check() raises it
        self.listening: asyncio.Task[None] | None = None  # for a bye; cancel it before other steps read the channel
        self.health = Health(self)  # part 6: silence, statistics, diagnosis
        self.pc = RTCPeerConnection(configuration)
        for state in STATES:
            self.pc.on(f"{state.lower()}change", partial(self._on_state, state))
        self.pc.on("track", self._on_track)  # pc.on("datachannel", ...) would stand here, createDataChannel in a step
        self.pc.on("error", self.bugs.append)
        self._watched: set[RTCDtlsTransport] = set()
        self._seen = self.states
        log(name, "new RTCPeerConnection")

    @property
    def states(self) -> dict[str, str]:
        """The four state machines of an RTCPeerConnection (W3C webrtc-pc, section 4.3)."""
        return {state: getattr(self.pc, state) for state in STATES}

    def __repr__(self) -> str:
        return f"{self.name}: " + ", ".join(f"{name} {state}" for name, state in self.states.items())

    # The steps. Their docstrings are what --step prints.

    async def add_track(self, track: MediaStreamTrack) -> Done:
        """Give this peer something to send, before its offer or answer is made, for that describes only the tracks that
        are there: an offer without any has no line for media (m=) and negotiates none."""
        sender = self.pc.addTrack(track)
        self.tracks.append(track)
        self.log(self.name, "addTrack", track.kind)
        if track.kind == "video":
            # video/rtx: packets asked for again come as a stream of their own (RFC 4588); without it they are repeated.
            wanted = (f"video/{self.codec}", "video/rtx")
            chosen = [codec for codec in get_capabilities("video").codecs if codec.mimeType in wanted]
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
        """Write down which of the offered media and codecs this peer takes. It may refuse one, but not add
        an m-line."""
        self.draft = await self.pc.createAnswer()
        self.log(self.name, "createAnswer", describe_sdp(self.draft.sdp))
        return self.done("createAnswer", self.draft.sdp)

    async def set_local_description(self) -> Done:
        """Commit to the draft. The signalling state moves; the first time, a UDP port is opened, and ICE gathers the
        addresses where this peer may be reached. (A browser returns at once and reports each candidate as it is found;
        aiortc returns when all are there.)"""
        if self.draft is None:
            raise InvalidStateError("there is no draft to commit to: createOffer or createAnswer comes first")
        self.log(self.name, f"setLocalDescription({self.draft.type})")
        with LoopbackOnly(self.configuration, self.here_only):
            await self.pc.setLocalDescription(self.draft)
        check_servers(self.configuration, self.pc.localDescription.sdp)
        for transport in set(dtls_transports(self.pc)) - self._watched:
            transport.on("statechange", partial(self._on_dtls_state, transport))
            self._watched.add(transport)
        return self.done(f"setLocalDescription({self.draft.type})", self.pc.localDescription.sdp)

    async def send_description(self) -> Done:
        """Send the description to the other side, as text through the channel. The candidates are taken out of it,
        to travel on their own."""
        description = self.pc.localDescription
        sdp = without_candidates(description.sdp)
        await self._send({"type": description.type, "sdp": sdp}, f"{len(sdp)} bytes")
        return self.done(f"send the {description.type}", sdp)

    async def send_candidates(self) -> Done:
        """Send every address where this peer may be reached, one message each, then say that there are no more;
        otherwise aiortc would wait for ever instead of failing."""
        candidates = candidates_in(self.pc.localDescription.sdp)
        for candidate in candidates:
            await self._send({"type": "candidate", **candidate}, candidate["candidate"])
        await self._send({"type": "end-of-candidates"})
        return self.done("send its candidates", candidates)

    async def receive_description(self, kind: str) -> Done:
        """Take the other side's description. Now this peer knows the other's codecs, its ICE name and password, and
        the fingerprint of the certificate that the other one will have to show."""
        message = await self._take(kind)
        return self.done(f"setRemoteDescription({kind})", message["sdp"])

    async def receive_candidates(self) -> Done:
        """Hand the other side's candidates to ICE. Once this peer has both descriptions, ICE pairs each with its own
        and sends test datagrams, signed with the other's password from the SDP, until a pair has worked both ways."""
        kind = ""
        while kind != "end-of-candidates":
            kind = (await self._take("candidate", "end-of-candidates"))["type"]
        return self.done("addIceCandidate", self.remote_candidates)

    async def connect(self) -> Done:
        """Wait. ICE finds the pair of addresses that works; over it a DTLS handshake makes keys that only these two
        have, and this peer compares the certificate it is shown with the fingerprint from the SDP."""
        await self.health.until(lambda: self.pc.connectionState == "connected", "not connected")
        self.selected_pair = nominated_pair(self.pc)
        self.log(self.name, "connected", str(self.selected_pair))
        self.listening = asyncio.create_task(self.listen())
        self.tasks.append(self.listening)
        return self.done("connect", self.selected_pair)

    async def first_picture(self) -> Done:
        """Wait. The other side encodes a picture, cuts it into RTP packets and encrypts them; this peer puts them back
        in order and decodes. The first picture is complete, a key frame; later ones hold only what has changed."""
        await self.health.until(lambda: self.picture is not None, "connected, but no picture arrived")
        self.log(self.name, "first picture")
        return self.done("first picture", self.picture)

    # After the script: listening for the other side's bye, and the end.

    async def listen(self) -> None:
        """Read the channel until the other side says bye, and candidates of a browser that come late: it has no use for
        them any more. Anything else is refused."""
        try:
            while not self.hung_up:
                await self._act(*(() if self.all_candidates else ("candidate", "end-of-candidates")))
        except ChannelError as error:
            self.log(self.name, "channel closed", f"{error}: the call goes on, but no bye can be heard")

    async def hang_up(self) -> None:
        """Tell the other side, over the channel, that the call is over. Closing also sends an RTCP BYE and a DTLS
        alert, but as datagrams, which may be lost and do not say why."""
        with contextlib.suppress(ChannelError):
            await self._send({"type": "bye"})

    async def close(self) -> None:
        """Stop the tasks and close the connection: its sockets, threads and timers. Raises CallError after 3 s."""
        await cancelled(*self.tasks)
        self.log(self.name, "close")
        await close_connection(self)

    # What the steps are made of.

    async def apply(self, message: Message) -> None:
        """Do what a message is for. Raises SignallingError where it cannot be used."""
        if message["type"] in ("offer", "answer"):
            sdp = without_candidates(message["sdp"])  # they come one by one, and each is looked at
            check_description(sdp)
            self.log(self.name, f"setRemoteDescription({message['type']})", describe_sdp(sdp))
            with refusing():
                await self.pc.setRemoteDescription(RTCSessionDescription(sdp, message["type"]))
        elif message["type"] == "candidate":
            if passed_over := unusable(message["candidate"]) or "a pair works already" * bool(self.selected_pair.local):
                self.log(self.name, "passed over a candidate", passed_over)
                return
            candidate = parse_candidate(message["candidate"])
            candidate.sdpMid = message["sdpMid"]
            check_candidate(candidate, self)
            self.log(self.name, "addIceCandidate", f"{candidate.type} {candidate.ip}:{candidate.port}")
            await self.pc.addIceCandidate(candidate)
            self.remote_candidates.append(message["candidate"])
        elif message["type"] == "end-of-candidates":
            self.all_candidates = True
            self.log(self.name, "addIceCandidate(null)", "that was the last one")
            # aiortc without any would fail at once, while the other side's checks may still reveal one (RFC 8863).
            if self.remote_candidates:
                await self.pc.addIceCandidate(None)
        elif message["type"] == "bye":
            self.hung_up = True

    async def _send(self, message: Message, detail: str = "") -> None:
        self.log(self.name, f"send {message['type']}", detail)
        await self.channel.send(json.dumps(message))

    async def _take(self, *kinds: str) -> Message:
        """Read the channel until a message of one of these types has been used. Raises CallError if none comes."""
        self.waiting, self.refused = " or ".join(kinds), ""
        try:
            async with asyncio.timeout(self.deadline) as limit:
                while (message := await self._act(*kinds)) is None:
                    if self.refused.startswith(kinds) and "candidate" not in kinds:  # another one may come, but soon
                        limit.reschedule(min(limit.when() or math.inf, asyncio.get_running_loop().time() + 1))
        except (TimeoutError, ChannelError) as error:
            how = f" before the channel closed ({error})" if isinstance(error, ChannelError) else ""
            words = f"{self.name} waited for the {self.waiting} and got none{how}. {self.refused}"
            raise CallError(words.strip()) from error
        self.waiting = ""
        if self.hung_up:
            raise CallError(f"{self.name}: the other side hung up meanwhile")
        return message

    async def _act(self, *kinds: str) -> Message | None:
        """Read one message and do what it is for. None: it is refused by its name, not awaited or of no use."""
        text, kind = await self.channel.receive(), "message"
        await asyncio.sleep(0)  # a flood of messages does not hold up the event loop
        try:
            message = parse_message(text)
            kind = message["type"]
            if kind not in (*kinds, "bye"):
                raise SignallingError(f"in state {self.pc.signalingState}, waiting for {' or '.join(kinds) or 'bye'}")
            self.log(self.name, f"receive {kind}")
            await self.apply(message)
            return message
        except SignallingError as error:
            self.log(self.name, f"refused {kind}", str(error))
            if kind in ("offer", "answer") or (kind in (*kinds, "message") and not self.refused):
                self.refused = f"{kind} refused by {self.name}: {printable(str(error))}"
            return None

    def done(self, what: str, made: Any = None) -> Done:
        """Return what a step made and which states have changed since the last one."""
        before, self._seen = self._seen, self.states
        changed = [f"{name} {before[name]} → {state}" for name, state in self._seen.items() if before[name] != state]
        return Done(self.name, what, made, tuple(changed))

    def _on_state(self, state: str) -> None:
        self.log(self.name, state, f"→ {getattr(self.pc, state)}")

    def _on_dtls_state(self, transport: RTCDtlsTransport) -> None:
        self.log(self.name, "dtlsState", f"→ {transport.state}")  # RTCDtlsTransport.state, W3C webrtc-pc section 5.5

    def _on_track(self, track: MediaStreamTrack) -> None:
        self.log(self.name, "track", f"the other side will send {track.kind}")
        self.tasks.append(asyncio.create_task(receive_frames(self, track)))


# ---- 5  A call -------------------------------------------------------------------------------------------------------


class Call:
    """Two peers in one process, a channel between them, and a source of pictures at pc1: from the offer to the end.

    `back` is a source at pc2; `channels` are two ends to use instead of the queues'; the rest are options of Peer.
    """

    def __init__(
        self,
        source: Source,
        *,
        back: Source | None = None,
        log: Log | None = None,
        channels: tuple[Channel, Channel] | None = None,
        **options: Any,
    ) -> None:
        self.log = Log() if log is None else log
        self.started = self.log.now()
        self.closing: asyncio.Task[None] | None = None
        one, two = channels or memory_channel()
        self.pc1, self.pc2 = self.peers = Peer("pc1", one, self.log, **options), Peer("pc2", two, self.log, **options)
        self.codec, self.deadline = self.pc1.codec, self.pc1.deadline
        self.track, self.back = OutgoingTrack(source), OutgoingTrack(back) if back else None
        self.pc2.on_picture = self.meter.on_received
        if self.back:
            self.pc1.on_picture = self.back.meter.on_received
        self.measured = False  # whether run() played the scripts at once, without a reader's pauses in between

    @property
    def meter(self) -> Meter:
        """It times the pictures from pc1 to pc2: a stopwatch that sees both ends, which no peer does."""
        return self.track.meter

    @property
    def steps(self) -> list[Step]:
        """Both scripts in one list, to walk through."""
        return in_turns(*self.scripts)

    @property
    def scripts(self) -> tuple[list[Step], list[Step]]:
        """What pc1 and pc2 have to do."""
        one, two = caller(self.pc1, self.track), callee(self.pc2, self.back)
        if self.back:
            one.append(Step(self.pc1, "first picture", self.pc1.first_picture))
        return one, two

    async def run(self, steps: list[Step] | None = None) -> None:
        """Play both scripts at once, as two programs would; or these steps in a row. CallError after the deadline."""
        self.measured = self.measured or steps is None
        await in_time(self, [play(script) for script in (self.scripts if steps is None else [steps])])

    def after(self, what: str) -> float | None:
        """Seconds from making the peers until the last one logged that; None where run() did not play both at once."""
        times = [event.t for event in self.log.events if event.what == what and event.t >= self.started]
        return times[-1] - self.started if self.measured and times else None

    async def check(self) -> None:
        """Raise CallError if the call is broken: aiortc tells of a dead source or a vanished peer late or never."""
        for peer in self.peers:
            await peer.health.check()

    def mute(self) -> None:
        """Send black pictures in place of the source's, or its own again. The other side is not told."""
        self.track.muted = not self.track.muted
        self.log("pc1", "mute" if self.track.muted else "unmute", "video")

    @property
    def hung_up(self) -> bool:
        """Whether a peer heard the other say bye."""
        return self.pc1.hung_up or self.pc2.hung_up

    async def switch(self, source: Source) -> Done:
        """Send another source's pictures from now on, and release the old source. The m-line, the codec and the SSRC
        stay, so nothing is negotiated. (If the new source gives no picture, the old one stays: CallError.)"""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(source.close)
            await source.ready()
            sender = next((sender for sender in self.pc1.pc.getSenders() if sender.track is self.track), None)
            if sender is None:
                raise CallError("nothing is being sent that could be replaced: call again")
            stack.pop_all()  # it works: from here on the track closes it
        old, self.track = self.track, OutgoingTrack(source, replaces=self.track)
        self.log("call", "switch", f"{old.source.label} → {source.label}")
        sender.replaceTrack(self.track)
        self.log("pc1", "replaceTrack", "video")
        await old.retire()
        return self.pc1.done("replaceTrack", self.track)

    async def hang_up(self) -> None:
        """pc1 says bye, pc2 hears it, both sides close."""
        await self.pc1.hang_up()
        if self.pc2.listening:
            await asyncio.wait([self.pc2.listening], timeout=0.5)
        await self.close()

    async def finish(self) -> None:
        """Stop capturing, and give the pictures under way up to half a second to arrive."""
        tracks, until = [track for track in (self.track, self.back) if track], self.log.now() + 0.5
        for track in tracks:
            track.stop()
        while any(track.meter.sent > track.meter.received for track in tracks) and self.log.now() < until:
            await asyncio.sleep(0.005)
        await self.pc1.health.read_stats()

    @property
    def closed(self) -> bool:
        return self.closing is not None

    async def close(self) -> None:
        """Release everything: the sources first, so that nothing new is made, then both peers. Whoever asks for it
        again, or is cancelled meanwhile, changes nothing."""
        self.closing = self.closing or asyncio.create_task(self._close())
        await asyncio.shield(self.closing)

    async def _close(self) -> None:
        ends = [track.retire() for track in (self.track, self.back) if track] + [peer.close() for peer in self.peers]
        outcomes = await asyncio.gather(*ends, return_exceptions=True)
        self.log("call", "closed")
        for outcome in filter(None, outcomes):
            raise outcome


# ---- 6  Health: waiting, statistics, silence, the likely cause -------------------------------------------------------


async def in_time(call: Call, scripts: list[Coroutine[Any, Any, None]]) -> None:
    """Run scripts at once until all have ended. Raises the first error, or CallError after the call's deadline."""
    tasks = [asyncio.create_task(script) for script in scripts]
    begun = now = call.log.now()
    late = 0.0  # s this process was kept waiting by others
    try:
        while not all(task.done() for task in tasks):
            await asyncio.wait(tasks, timeout=0.02, return_when=asyncio.FIRST_EXCEPTION)
            before, now = now, call.log.now()
            late += max(0.0, now - before - 0.04)  # 20 ms were asked for, and the call's own work takes some, too
            over = now - begun > call.deadline
            for task in filter(asyncio.Task.done, tasks):
                if not (over and isinstance(task.exception(), CallError)):
                    task.result()
            await call.check()
            if over and any(not task.done() or task.exception() for task in tasks):
                connected = {peer.pc.connectionState for peer in call.peers} == {"connected"}
                why = diagnosis(*call.peers)
                if late > 0.2 * call.deadline:  # then that is the cause
                    why = f"This machine is too busy, the program was kept waiting for {late:.1f} s: end other programs"
                    why += ", or give it more time (--deadline 30) or less to do (--size 320x240). "
                    why += f"{layer_states(*call.peers)}."
                raise CallError(f"{'no picture' if connected else 'not connected'} after {call.deadline:g} s. {why}")
    finally:
        await cancelled(*tasks)


LAYERS = ("signalling", "ICE", "DTLS", "SRTP", "picture")


class Layer(NamedTuple):
    """One layer of a call at one peer: how far it is ("", "working", "done", "failed"), and its state in the words of
    the API, or our own in brackets."""

    name: str
    mark: str = ""
    state: str = ""
    why: str = ""  # it failed


def layer_states(*peers: Peer) -> str:
    """The state of every layer, in one line."""
    return "; ".join(
        f"{peer.name}: signalling {peer.pc.signalingState}, gathering {peer.pc.iceGatheringState}, ICE "
        f"{peer.pc.iceConnectionState}, DTLS {peer.health.dtls_state}, connection {peer.pc.connectionState}"
        for peer in peers
    )


def diagnosis(*peers: Peer) -> str:
    """The state of every layer and the likely cause, in one line: what is wrong below explains what is above."""
    return f"{layer_states(*peers)}. Likely cause: {min(peer.health.trouble for peer in peers)[1]}"


class Health:
    """What a peer can tell of itself: whether it is still connected, how much it sends, and what is likely wrong."""

    SILENCE = 3.0  # s without a datagram; aiortc's RTCP alone sends one every 0.5 to 1.5 s

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.bytes_sent = self.packets_lost = 0
        self.bitrate_kbps = 0.0  # sent, over the last half second
        self._heard, self._silent, self._read_at = 0, 0.0, peer.log.now()  # datagrams, s, s

    async def until(self, reached: Callable[[], bool], otherwise: str) -> None:
        """Wait until something holds. Raises CallError with the diagnosis when it does not in time, or cannot."""
        until = self.peer.log.now() + self.peer.deadline
        while not reached():
            if self.peer.log.now() > until:
                raise CallError(f"{otherwise} after {self.peer.deadline:g} s. {diagnosis(self.peer)}")
            await self.check()
            await asyncio.sleep(0.001)

    async def check(self) -> None:
        """Raise CallError if this end is broken."""
        peer = self.peer
        for track in peer.tracks:  # not the senders' tracks: aiortc's sender forgets one that has ended
            while getattr(track, "successor", None):
                track = track.successor
            if failure := getattr(track, "failure", None):
                raise failure
        if peer.bugs:
            raise peer.bugs[0]
        for task in peer.tasks:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error
        if peer.hung_up:
            return
        if peer.pc.connectionState in ("failed", "closed"):
            raise CallError(f"{peer.name} is {peer.pc.connectionState}. {diagnosis(self.peer)}")
        if peer.log.now() - self._read_at >= 0.5:
            await self.read_stats()

    async def read_stats(self) -> None:
        """Read the statistics (W3C webrtc-stats). Raises CallError if the other side has fallen silent."""
        peer, now = self.peer, self.peer.log.now()
        elapsed, self._read_at = now - self._read_at, now
        reports = list((await peer.pc.getStats()).values())
        # aiortc's inbound-rtp counts no losses once a packet was sent again: take what the other side has reported.
        outgoing = {stats.type: stats for stats in reports if getattr(stats, "kind", "") == "video"}
        if "outbound-rtp" in outgoing:
            sent = outgoing["outbound-rtp"].bytesSent
            self.bitrate_kbps = (sent - self.bytes_sent) * 8 / max(elapsed, 0.001) / 1000
            self.bytes_sent = sent
        if "remote-inbound-rtp" in outgoing:  # a packet that came twice counts twice, so this can be below zero
            self.packets_lost = max(0, outgoing["remote-inbound-rtp"].packetsLost)
        heard = sum(stats.packetsReceived for stats in reports if stats.type == "transport")
        # At most 1 s at a time: a process that was asleep has not listened.
        self._silent = 0.0 if heard != self._heard else self._silent + min(elapsed, 1.0)
        self._heard = heard
        if self._silent > self.SILENCE and peer.selected_pair.local:
            raise CallError(f"the other side vanished: {peer.name} got no datagram for {self.SILENCE:g} s, and no bye")

    @property
    def dtls_state(self) -> str:
        """State of the DTLS transport: new, connecting, connected, closed, failed; "none" before there is one."""
        return next((transport.state for transport in dtls_transports(self.peer.pc)), "none")

    @property
    def layers(self) -> tuple[Layer, ...]:
        """How far each layer of the call is at this peer."""
        peer, pc, dtls = self.peer, self.peer.pc, self.dtls_state
        if pc.connectionState == "closed":
            return tuple(Layer(name, "", "closed") for name in LAYERS)
        marks = {"checking": "working", "connecting": "working", "failed": "failed"}
        marks |= {"connected": "done", "completed": "done"}
        begun = "working" if peer.draft or pc.signalingState != "stable" else ""
        agreed = pc.signalingState == "stable" and pc.remoteDescription is not None
        media, keys = peer.picture is not None or self.bytes_sent > 0, dtls == "connected"
        picture = any(one.picture is not None for one in (peer, *peer.tracks) if hasattr(one, "picture"))
        found = (
            ("done" if agreed else begun, pc.signalingState),
            (marks.get(pc.iceConnectionState, ""), pc.iceConnectionState),
            (marks.get(dtls, ""), dtls.replace("none", "new")),
            ("done", "(packets)") if media else ("working", "(keys)") if keys else ("", "(no keys)"),
            ("done", "(there)") if picture else ("", "(none)"),
        )
        return tuple(Layer(name, *mark_and_state) for name, mark_and_state in zip(LAYERS, found, strict=True))

    @property
    def trouble(self) -> tuple[int, str]:
        """The likely cause, behind the number of the layer that is not up: the lowest one counts."""
        peer, dtls, servers = self.peer, self.dtls_state, " or ".join(uris(self.peer.configuration))
        own, ice, changed = peer.pc.localDescription, peer.pc.iceConnectionState, "the SDP was changed on its way"
        unheard = "candidates did not arrive, the ICE password is wrong, or a firewall stops UDP"
        unmet = peer.refused or f"{peer.name} still waits for the {peer.waiting}"
        unfed = any(isinstance(s.track, OutgoingTrack) and s.track.picture is None for s in peer.pc.getSenders())
        causes: list[tuple[object, str]] = [
            (servers and peer.pc.iceGatheringState == "gathering", f"no answer from {servers}"),
            (peer.waiting and peer.waiting != "answer", unmet),
            (peer.waiting, unmet),  # for an answer, which cannot come while the other side waits for something itself
            (
                dtls == "failed" and ice not in ("new", "checking", "failed"),  # it fails, too, where ICE has failed
                f"{changed}: its fingerprint is of another certificate, or both took the same DTLS role",
            ),
            (own and not candidates_in(own.sdp), "no candidate was found: there is no network address to use"),
            (ice in ("new", "checking", "failed"), f"ICE checks go unanswered: {unheard}"),
            (dtls == "closed", "the connection was up and has ended"),
            (dtls != "connected", "the DTLS handshake is not answered"),
            (unfed, "the source gives no picture"),
            (True, "pictures were sent, but none arrived whole: the network loses packets"),
        ]
        return next((layer, cause) for layer, (holds, cause) in enumerate(causes) if holds)


# ---- 7  Guards: where aiortc needs help ------------------------------------------------------------------------------
# What comes from outside is looked at here, before a library sees it. Limits and checks are no part of WebRTC; each one
# stands for a message or datagram that ended a call, or held up the event loop for seconds.

# A browser's offer of sound and two videos has 100 codecs; the worst that is taken is answered within 50 ms.
LONGEST_MESSAGE, LONGEST_DESCRIPTION, MOST_CANDIDATES = 65_536, 700, 100  # letters, lines; a peer has some ten
MOST_LINES = {"m=": 16, "a=rtpmap:": 110, "a=rtcp-fb:": 220, "a=rtcp-fb:*": 4, "a=ssrc": 100}


def printable(text: str, most: int = 300) -> str:
    """Return a text from outside with escapes for what could steer a terminal or crash OpenCV, and cut where long."""
    return shortened("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: most + 1]), most)


def shortened(text: str, most: int) -> str:
    """Return a text, cut where it has more letters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def parse_message(text: str, known: dict[str, tuple[str, ...]] = MESSAGES) -> Message:
    """Return the message in a JSON text, one of those known. Raises SignallingError with what is wrong with it."""
    if len(text) > LONGEST_MESSAGE:
        raise SignallingError(f"longer than {LONGEST_MESSAGE} letters")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SignallingError(f"not JSON ({error})") from error
    if not isinstance(message, dict):
        raise SignallingError("not a JSON object")
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in known:
        raise SignallingError(f"unknown type {kind!r:.40}")
    for name in known[kind]:
        if not isinstance(message.get(name), str):
            raise SignallingError(f"{kind} without the text {name!r}")
    return message


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Around one use of aiortc with words of the other side: raise SignallingError for whatever it raises over them.
    Its SDP parser has no error of its own."""
    try:
        yield
    except (InternalError, InvalidAccessError, InvalidStateError, OperationError) as error:
        raise SignallingError(str(error)) from error
    except (ValueError, AssertionError, LookupError, AttributeError, TypeError, StopIteration) as error:
        raise SignallingError(f"malformed ({type(error).__name__}: {error})") from error


def check_description(sdp: str) -> None:
    """Raise SignallingError for what aiortc would take only half, or take and then be unable to answer."""
    lines = sdp.splitlines()
    if len(lines) > LONGEST_DESCRIPTION:
        raise SignallingError(f"more than {LONGEST_DESCRIPTION} lines")
    for start, most in MOST_LINES.items():
        if sum(line.startswith(start) for line in lines) > most:
            raise SignallingError(f"more than {most} lines with {start}")
    with refusing():
        for section in grouplines(sdp)[1]:
            types = [int(line[9:].split()[0]) for line in section if line.startswith("a=rtpmap:")]
            if len(set(types)) < len(types):  # each a=rtcp-fb line would be copied to all of them
                raise SignallingError("two codecs with one payload type")
        description = SessionDescription.parse(sdp)
    for media, section in zip(description.media, grouplines(sdp)[1], strict=True):
        if media.port == 0 and "a=bundle-only" not in section:  # RFC 9429 section 5.3.1; aiortc would ask it for ICE
            raise SignallingError(f"the m-line {media.rtp.muxId or '?':.40} ({media.kind:.40}) is rejected (port 0)")
    mids = [media.rtp.muxId for media in description.media]
    if not mids or not all(mids) or len(set(mids)) < len(mids):
        raise SignallingError("no m-line, or one without a mid of its own")
    if any(set(group.items) - set(mids) for group in description.group):
        raise SignallingError("a=group names an m-line that is not there")
    for media in description.media:
        if media.kind not in ("audio", "video", "application"):
            raise SignallingError(f"unknown kind of media {media.kind!r:.40}")
        if media.kind != "application":
            known = {c.mimeType.lower() for c in get_capabilities(media.kind).codecs} - {"video/rtx"}
            if not known & {codec.mimeType.lower() for codec in media.rtp.codecs}:
                raise SignallingError(f"no {media.kind} codec in common")
        if (media.direction is None and media.kind != "application") or not (media.dtls and media.dtls.fingerprints):
            raise SignallingError("direction, a=setup or a=fingerprint is missing")
        if media.ice is None or not media.ice.usernameFragment or not media.ice.password:
            raise SignallingError("a=ice-ufrag or a=ice-pwd is missing")


def parse_candidate(line: str) -> RTCIceCandidate:
    """Return the candidate in a "candidate:..." line. Raises SignallingError.

    aioice passes over an unknown type in silence, looks a .local name up in the network, loses its socket over an
    impossible port, and takes the right candidate for a duplicate after one with component 2 (RTCP has no port of its
    own here).
    """
    with refusing():
        candidate = candidate_from_sdp(line.removeprefix("candidate:"))
        candidate.ip = str(ipaddress.ip_address(candidate.ip))  # as datagrams' addresses are written
    if candidate.type not in ("host", "srflx", "relay") or not 0 < candidate.port < 65536 or candidate.component != 1:
        raise SignallingError(f"type {candidate.type!r:.40}, component or port {candidate.port} is impossible")
    return candidate


def unusable(line: str) -> str:
    """Return why a candidate that browsers send is of no use here and is no fault either, "" for any other."""
    if not line:
        return "empty: what some browsers send in place of end-of-candidates"
    if len(words := line.split()) > 4 and words[4].endswith(".local"):
        return f"{words[4]} is a name for the local network only (mDNS), which hides an address; aiortc cannot use it"
    return ""


def check_candidate(candidate: RTCIceCandidate, peer: Peer) -> None:
    """Raise SignallingError for a candidate of no m-line, or one too many."""
    if candidate.sdpMid not in {user.mid for user in (*peer.pc.getTransceivers(), peer.pc.sctp) if user}:
        raise SignallingError(f"no m-line has the mid {candidate.sdpMid!r:.40}")
    if len(peer.remote_candidates) >= MOST_CANDIDATES:
        raise SignallingError(f"more than {MOST_CANDIDATES} candidates")


def describe_sdp(sdp: str) -> str:
    """Return one line about an SDP: its media, their codecs, its size."""
    media = [line[2:].partition(" ")[0] for line in sdp.splitlines() if line.startswith("m=")]
    codecs = [line.partition(" ")[2].partition("/")[0] for line in sdp.splitlines() if line.startswith("a=rtpmap:")]
    return f"{', '.join(media) or 'no media'} ({' '.join(dict.fromkeys(codecs))}), {len(sdp)} bytes"


def without_candidates(sdp: str) -> str:
    """Return the SDP as it was before gathering: aiortc ignores later candidates once it has read end-of-candidates."""
    lines = sdp.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(("a=candidate:", "a=end-of-candidates")))


def candidates_in(sdp: str) -> list[dict[str, str]]:
    """Return the candidates of an SDP in the form of RTCIceCandidateInit (W3C webrtc-pc, section 4.8.1)."""
    lines = [line.removeprefix("a=") for line in sdp.splitlines()]
    # MAX_BUNDLE: one transport serves all m-lines, so its candidates are sent once, with the first one's mid.
    mid = next((line.removeprefix("mid:") for line in lines if line.startswith("mid:")), "")
    return [{"candidate": line, "sdpMid": mid} for line in dict.fromkeys(lines) if line.startswith("candidate:")]


def uris(configuration: RTCConfiguration) -> list[str]:
    """Return the STUN and TURN servers of a configuration, without users and passwords."""
    urls = [server.urls for server in configuration.iceServers or []]
    return [uri for one in urls for uri in ([one] if isinstance(one, str) else one)]


def check_servers(configuration: RTCConfiguration, sdp: str) -> None:
    """Raise CallError when a server has given no candidate; aiortc passes over that in silence."""
    types = {parse_candidate(candidate["candidate"]).type for candidate in candidates_in(sdp)}
    for uri in uris(configuration):
        if uri.startswith("turn") and "relay" not in types:
            raise CallError(f"{uri} lends no address: is it running, and are user and password right?")
        if uri.startswith("stun") and "srflx" not in types and "host" in types:  # there is none where all is relayed
            raise CallError(f"{uri} gives no answer: is it running, and can it be reached?")


class LoopbackOnly:
    """While entered, ICE finds one address, 127.0.0.1, unless a server is named that is elsewhere; and the sockets that
    it opens are GuardedSockets.

    aioice leaves the loopback address out of its host candidates, as RFC 8445 section 5.1.1.1 asks, so a machine
    without a network would find none and wait for ever. Here it is the only one: no datagram leaves the machine. Both
    names belong to the whole process; the last one to leave puts the originals back.
    """

    entered: ClassVar[int] = 0
    originals: ClassVar[dict[str, Any]]

    def __init__(self, configuration: RTCConfiguration = NO_SERVERS, here_only: bool = True) -> None:
        self.here_only = here_only
        hosts = {parse_stun_turn_uri(uri)["host"] for uri in uris(configuration)}
        self.wanted = hosts <= {"127.0.0.1", "localhost"}

    def __enter__(self) -> None:
        names = vars(aioice.ice)
        if LoopbackOnly.entered == 0:
            LoopbackOnly.originals = {name: names[name] for name in ("get_host_addresses", "StunProtocol")}
            names["StunProtocol"] = GuardedSocket
        if self.wanted or not self.here_only:
            found = [] if self.here_only else LoopbackOnly.originals["get_host_addresses"](True, False)
            names["get_host_addresses"] = lambda use_ipv4, use_ipv6: ["127.0.0.1", *found]
        LoopbackOnly.entered += 1

    def __exit__(self, *_: object) -> None:
        LoopbackOnly.entered -= 1
        if LoopbackOnly.entered == 0:
            vars(aioice.ice).update(LoopbackOnly.originals)


class GuardedSocket(aioice.ice.StunProtocol):
    """A UDP socket of aioice that lets in only what can belong to the call: any program may send to an open port, and
    one empty datagram would end the call."""

    def __init__(self, receiver: aioice.Connection) -> None:
        super().__init__(receiver)
        vars(self)["datagram_received"] = self._receive  # in front of the class's own, which a tap may replace

    def _receive(self, data: bytes, address: tuple[Any, ...]) -> None:
        if not 0 < len(data) <= 1500:  # RFC 9147 and RFC 3711 keep below what Ethernet carries
            return
        try:  # STUN, which may come from anywhere: it is signed
            message = aioice.stun.parse_message(data)
            if message.message_class == aioice.stun.Class.REQUEST and "PRIORITY" not in message.attributes:
                return
        except struct.error:  # an attribute is too short
            return
        except ValueError:
            known = {(candidate.host, candidate.port) for candidate in self.receiver.remote_candidates}
            if data[0] < 4 or address[:2] not in known:  # malformed STUN (RFC 7983), or a stranger's
                return
        type(self).datagram_received(self, data, address)


def dtls_transports(pc: RTCPeerConnection) -> list[RTCDtlsTransport]:
    """Return the transport of each m-line: with MAX_BUNDLE it is the same for all."""
    return [receiver.transport for receiver in pc.getReceivers()] + ([pc.sctp.transport] if pc.sctp else [])


def ice_connection(pc: RTCPeerConnection) -> aioice.Connection:
    """Return aioice's side of a peer. Private: aiortc does not say which pair was nominated."""
    connection: aioice.Connection = vars(dtls_transports(pc)[0].transport)["_connection"]
    return connection


class Pair(NamedTuple):
    """The selected candidate pair: "address:port type protocol" of either side, empty before there is one."""

    local: str = ""
    remote: str = ""

    def __str__(self) -> str:
        return f"{self.local} ↔ {self.remote}"


def nominated_pair(pc: RTCPeerConnection) -> Pair:
    """Return the pair of candidates ICE chose; empty before it has chosen."""
    for pair in vars(ice_connection(pc))["_nominated"].values():
        sides = (pair.local_candidate, pair.remote_candidate)
        return Pair(*(f"{side.host}:{side.port} {side.type} {side.transport}" for side in sides))
    return Pair()


async def close_connection(peer: Peer) -> None:
    """Close a peer's connection. Raises CallError where that takes more than 3 s."""
    connections = [ice_connection(peer.pc)] if dtls_transports(peer.pc) else []
    sockets = [socket for connection in connections for socket in vars(connection)["_protocols"]]

    async def close() -> None:
        checking = peer.pc.iceConnectionState == "checking"
        await peer.pc.close()
        for transceiver in peer.pc.getTransceivers():
            await transceiver.stop()  # again: aiortc may have started it since, if DTLS was done just then
        if checking:  # aioice's connect() looks up every 20 ms and, closed meanwhile, may still start its consent timer
            await asyncio.sleep(0.05)
            await connections[0].close()

    closing = asyncio.create_task(close())
    await asyncio.wait([closing], timeout=3)
    for socket in () if closing.done() else sockets:
        # A TURN server does not answer. aioice would ask it for a minute to take its address back, which then expires.
        if asking := getattr(socket.transport, "_TurnTransport__close_task", None):
            peer.log(peer.name, "note", f"{' and '.join(uris(peer.configuration))}: no answer at the end of the call")
            asking.cancel()
            await asyncio.wait([closing], timeout=1)
    if not closing.done():
        closing.cancel()
        raise CallError(f"{peer.name} did not close within 3 s: an event handler raised, or this machine is too busy")
    closing.result()


class MarkerJitterBuffer(JitterBuffer):
    """A jitter buffer that releases a frame with its last packet, and does not wait for what will not come.

    aiortc's own waits for the first packet of the next frame, one frame interval later: 33 ms at 30 frames/s. The last
    packet of a video frame has the RTP marker bit set (RFC 3550 section 5.1; VP8: RFC 7741 section 4.1, H264: RFC 6184
    section 5.1). And after a gap aiortc's waits until 512 packets have come; this one asks for a key picture (PLI) when
    the sender can no longer repair the gap (it keeps 128 packets), or has not within half a second. When a lost packet
    comes late, several frames are whole at once; aiortc takes one a packet, so they follow one by one.

    `undecoded` tells how many frames wait to be decoded. Where a busy machine does not get through them, the rest is
    thrown away and the next key picture is what goes on: the newest picture wins.
    """

    KEPT, PATIENCE = 128, 0.5  # packets a sender can repeat, s

    def __init__(self, undecoded: Callable[[], int] = lambda: 0) -> None:
        super().__init__(capacity=512, is_video=True)  # as many packets as aiortc's own
        self.needs_key, self._stuck_since, self._asked_at = True, math.inf, 0.0
        self.undecoded, self._idle_at = undecoded, 0.0  # when nothing waited

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        now, waiting = time.perf_counter(), self.undecoded()
        self._idle_at = self._idle_at if waiting else now
        behind = waiting > 4 and now > self._idle_at + 0.25  # a repaired gap gives as many, but soon decoded
        if self._origin is not None:
            ahead = (packet.sequence_number - self._origin) % 65536
            if ahead > 65536 - self.capacity:  # it comes too late
                return False, None
            gap = next((n for n in range(self.capacity) if not self._packets[(self._origin + n) % self.capacity]), 0)
            if ahead > gap + self.KEPT or now > self._stuck_since + self.PATIENCE:
                self.remove(self.capacity)
                self._origin, self.needs_key = packet.sequence_number, True
        _, frame = super().add(packet)
        frame = frame if frame and frame.data else self._release_marked()  # without data: packets of padding
        if frame:
            self._stuck_since = math.inf
            self.needs_key = behind or (self.needs_key and not is_key_picture(frame.data))
        elif packet.marker:  # the end of a frame that is not whole
            self._stuck_since = min(self._stuck_since, now)
        ask = self.needs_key and not behind and packet.marker == 1 and now > self._asked_at + 0.2
        self._asked_at = now if ask else self._asked_at
        return ask, None if self.needs_key or not (frame and frame.data) else frame

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


def is_key_picture(data: bytes) -> bool:
    """Whether a frame can be decoded without earlier ones: VP8's start code (RFC 6386 section 9.1), or an H264 frame
    with its parameters or a whole picture in it (RFC 6184 section 1.3)."""
    if data[:4] == b"\0\0\0\1":
        return any(unit and unit[0] & 31 in (5, 7) for unit in data.split(b"\0\0\1"))
    return data[3:6] == b"\x9d\x01\x2a"


def end_frames_at_marker(pc: RTCPeerConnection, track: MediaStreamTrack) -> None:
    """Give a video track a MarkerJitterBuffer before its first packet. Raises CallError when aiortc has moved it."""
    receiver = next(receiver for receiver in pc.getReceivers() if receiver.track is track)
    name = "_RTCRtpReceiver__jitter_buffer"  # private: aiortc offers no way to choose a jitter buffer
    if not isinstance(getattr(receiver, name, None), JitterBuffer):
        raise CallError("this version of aiortc keeps its jitter buffer elsewhere: run with --jitter-buffer stock")
    setattr(receiver, name, MarkerJitterBuffer(vars(receiver)["_RTCRtpReceiver__decoder_queue"].qsize))


# ---- 8  Pictures: time code, delay, the track that is sent -----------------------------------------------------------
# "connected" proves nothing; a picture does. Every outgoing picture carries its number in the top left corner, as 32
# black and white cells: 16 bits number, 16 bits checksum. A cell is 8 pixels wide, to survive the compression. The
# block starts at (4, 4), off VP8's 16-pixel grid on purpose: on it, up to one picture in five had a stale cell.

CELL, CODE_ROWS, CODE_COLUMNS = 8, 2, 16  # pixels, cells, cells
CODE_AREA = (slice(4, 4 + CODE_ROWS * CELL), slice(4, 4 + CODE_COLUMNS * CELL))  # rows, columns
CELLS = (CODE_ROWS, CELL, CODE_COLUMNS, CELL)


def write_time_code(picture: Picture, number: int) -> None:
    """Draw `number` modulo 65536 into a picture of at least 132 x 20 pixels, in place."""
    code = struct.pack(">H", number % 65536)
    bits = np.unpackbits(np.frombuffer(code + struct.pack(">H", binascii.crc_hqx(code, 0xFFFF)), np.uint8))
    picture[CODE_AREA].reshape(*CELLS, 3)[:] = bits.reshape(CODE_ROWS, 1, CODE_COLUMNS, 1, 1) * np.uint8(255)


def read_time_code(picture: Picture) -> int | None:
    """Return the number in a picture (0..65535), or None where its checksum says that it cannot be read."""
    area = picture[CODE_AREA][:, :, 1]  # green is enough
    if area.size < math.prod(CELLS):
        return None
    centres = area.reshape(CELLS)[:, CELL // 2 - 1 : CELL // 2 + 1, :, CELL // 2 - 1 : CELL // 2 + 1].mean((1, 3))
    code = np.packbits(centres > 127).tobytes()  # number, checksum: over both, a right one gives 0
    return int.from_bytes(code[:2]) if binascii.crc_hqx(code, 0xFFFF) == 0 else None


class Meter:
    """Times each picture from the moment it was captured until the other side has it decoded, on one clock."""

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
        self.first_arrival, self.last_arrival = self.first_arrival or now, now
        self._arrivals.append(now)

    @property
    def latency_ms(self) -> dict[str, float | None]:
        """Median, 95th percentile and maximum of the delay, in ms; None before the first picture."""
        found = np.percentile(self.delays, [50, 95, 100]) * 1000 if self.delays else [None] * 3
        return {name: one and round(float(one), 2) for name, one in zip(("p50", "p95", "max"), found, strict=True)}

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
        return float(np.median([*itertools.islice(reversed(self.delays), 30)])), (len(self._arrivals) - 1) / span

    def __repr__(self) -> str:
        delays = ", ".join(f"{'?' if one is None else f'{one:.1f}'} {name}" for name, one in self.latency_ms.items())
        counts = f"{self.sent} pictures sent, {self.received} received, {self.misread} misread"
        return f"{counts}, {self.received_fps:.1f}/s; delay in ms: {delays}"


def to_frame(picture: Picture) -> av.VideoFrame:
    """Convert a picture to what encoders take: I420, which knows even sizes only. A last row or column is doubled."""
    rows, columns = picture.shape[:2]
    picture = cv2.copyMakeBorder(picture, 0, rows % 2, 0, columns % 2, cv2.BORDER_REPLICATE)
    i420: Any = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420)
    return av.VideoFrame.from_ndarray(i420, format="yuv420p")


def to_picture(frame: av.VideoFrame) -> Picture:
    """Convert a decoded frame to a picture."""
    return frame.to_ndarray(format="bgr24", threads=1)  # more would be started anew for each picture


class RtpClock:
    """The 90 kHz clock of a call's video (RFC 7741 section 4.1). One for all tracks that follow each other: a time that
    went back would stop the encoder."""

    def __init__(self) -> None:
        self._start, self._last = math.inf, -1  # s; ticks

    def ticks(self, captured_at: float) -> int:
        """Return the time of a picture captured at that second, later than any before. The sender adds a random start
        (RFC 3550 section 5.1)."""
        self._start = min(self._start, captured_at)
        self._last = max(round((captured_at - self._start) * VIDEO_CLOCK_RATE), self._last + 1)
        return self._last


class OutgoingTrack(MediaStreamTrack):
    """A video track to send: it takes pictures from a source, numbers them, hands them on. aiortc's sender asks for the
    next one each time it has sent the one before.

    `replaces` is the track whose place it takes in a running call.
    """

    kind = "video"

    def __init__(self, source: Source, replaces: OutgoingTrack | None = None) -> None:
        super().__init__()
        self.source = source
        self.meter, self.clock = Meter(), RtpClock()
        self.picture: Picture | None = None  # the newest one, as sent
        self.muted = False  # a browser's track.enabled = false: black is sent
        self.successor: OutgoingTrack | None = None
        if replaces:
            self.meter, self.clock, self.muted = replaces.meter, replaces.clock, replaces.muted
            self.picture, replaces.successor = replaces.picture, self
        self.failure: CallError | None = None  # aiortc would only log it; Health.check() raises it
        self._busy = asyncio.Lock()  # held while a frame is being made

    async def recv(self) -> av.VideoFrame:
        """Return the next frame. Raises MediaStreamError at the end."""
        try:
            async with self._busy:
                return await self._next_frame()
        except MediaStreamError:
            raise
        except Exception as error:  # of any kind, for a source may be anybody's
            if self.successor is None:
                words = str(error) if isinstance(error, CallError) else f"the source failed with {error!r}: mend it"
                self.failure = CallError(printable(words))
                self.failure.__cause__ = error
                raise MediaStreamError(words) from error
        # The source died while its last picture was awaited, but it had been replaced: the sender goes on.
        return await self.successor.recv()

    async def _next_frame(self) -> av.VideoFrame:
        picture, captured_at = await self.source.next()
        if self.readyState != "live":
            raise MediaStreamError
        picture = np.zeros_like(picture) if self.muted else picture
        write_time_code(picture, self.meter.on_sent(captured_at))
        self.picture = picture
        frame = to_frame(picture)
        frame.pts, frame.time_base = self.clock.ticks(captured_at), VIDEO_TIME_BASE
        return frame

    async def retire(self) -> None:
        """Stop, and release the source, once the picture that the sender may wait for is there."""
        try:
            if self.successor:
                async with self._busy:
                    pass
        finally:
            self.stop()
            await self.source.close()


async def receive_frames(peer: Peer, track: MediaStreamTrack) -> None:
    """Read a track that the other side sends. One that nobody reads would queue its frames without bound."""
    if peer.marker_bit and track.kind == "video":
        end_frames_at_marker(peer.pc, track)
    with contextlib.suppress(MediaStreamError):  # raised by recv() when the track has ended
        while True:
            frame = await track.recv()
            if isinstance(frame, av.AudioFrame):
                peer.on_sound(frame)
            elif isinstance(frame, av.VideoFrame) and vars(track)["_queue"].qsize() < 4:  # private: the newest win
                peer.picture = to_picture(frame)
                peer.on_picture(peer.picture)


# ---- 9  Sources: test picture, camera, file --------------------------------------------------------------------------

DEFAULT_SIZE = (640, 480)
Item = TypeVar("Item")


class Source(Protocol):
    """Where the pictures come from. Written for one reader, who asks for the next when the last is encoded."""

    label: str
    given: str  # the size the device gives, where that is not the size sent

    async def ready(self) -> None:
        """Wait until there is a first picture. Raises CallError if there will be none."""

    async def next(self) -> tuple[Picture, float]:
        """Return the next picture, the caller's to draw on, and when it was captured (s, perf_counter)."""

    async def close(self) -> None:
        """Release the device."""


def open_source(spec: str, size: tuple[int, int] | None, fps: float, log: Log) -> Source:
    """Return the source that --source names. Another kind of source is one line here."""
    if spec in ("synthetic", "night"):
        return SyntheticSource(*(size or DEFAULT_SIZE), fps, night=spec == "night")
    return DeviceSource(spec, size, fps, log)


class SyntheticSource:
    """A view from a train: calm sky, far hills, near grass that rushes by. A codec keeps the calm parts and blurs the
    fast, finely drawn ones; the bright balloon shows what 4:2:0 does to colour. At night all but it is dark."""

    def __init__(self, width: int, height: int, fps: float, *, night: bool = False) -> None:
        self.label, self.given = "night" if night else "synthetic", ""
        self.width, self.height, self.fps = width, height, fps
        self._start, self._slot = 0.0, -1
        horizon, lap = int(height * 0.55), 2 * width  # the landscape repeats after two widths
        noise, angle = np.random.default_rng(7), np.arange(lap) * 2 * np.pi / lap
        sky = np.linspace((150, 75, 45), (150, 190, 250), horizon)[:, None].repeat(lap, 1)
        for shade, high, waves in (((150, 120, 120), 0.5, (2, 5, 9)), ((110, 95, 70), 0.25, (3, 7, 13))):
            ridge = horizon * (1 - high * (0.5 + sum(np.sin(w * angle + w * w) / w for w in waves) * 0.6))
            sky[np.arange(horizon)[:, None] > ridge] = shade
        strips = [(0, horizon, 0.03, sky)]
        # The ground in strips; each is nearer than the one above it and so passes faster.
        edges = horizon + ((height - horizon) * np.array([0, 0.08, 0.2, 0.36, 0.58, 1])).astype(int)
        for near, (top, bottom) in enumerate(itertools.pairwise(edges)):
            grass: npt.NDArray[Any] = noise.normal(0, 1, (bottom - top, lap)).astype(np.float32)
            grass = cv2.GaussianBlur(np.tile(grass, 2), (0, 0), sigmaX=0.5 + 0.8 * near, sigmaY=0.8)
            grass = np.roll(grass[:, width : width + lap], width, axis=1)  # the middle of two laps has no seam
            ground = grass[:, :, None] * (24 + 12 * near) + np.array((60, 140, 110)) * (1 - 0.09 * near)
            strips.append((top, bottom, 0.08 * 2**near, ground))
        light = np.array((0.45, 0.25, 0.2) if night else (1, 1, 1))
        self._strips: list[tuple[int, int, float, Picture]] = []
        for top, bottom, speed, strip in strips:
            wrapped = np.pad(strip * light, ((0, 0), (0, width + 1), (0, 0)), "wrap")
            self._strips.append((top, bottom, speed, wrapped.clip(0, 255).astype(np.uint8)))

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
        for wide, colour in ((size, (60, 40, 220)), (size // 3, (40, 210, 250))):
            cv2.ellipse(picture, (x, y), (wide, int(size * 1.2)), 0, 0, 360, colour, -1, cv2.LINE_AA)
        cv2.rectangle(picture, (x - size // 4, y + size * 3 // 2), (x + size // 4, y + size * 2), (40, 60, 90), -1)
        return picture

    async def ready(self) -> None: ...  # it always is

    async def next(self) -> tuple[Picture, float]:
        now = time.perf_counter()
        self._start = self._start or now
        # A slot that was missed is skipped. Making up for it would send a burst and show the past.
        self._slot = max(self._slot + 1, int((now - self._start) * self.fps))
        await asyncio.sleep(self._start + self._slot / self.fps - now)
        return self.draw(self._slot / self.fps), time.perf_counter()

    async def close(self) -> None: ...  # nothing was opened


class Reader(Generic[Item]):
    """What blocks is read in a thread. The newest items wait, at most `keep` of them; older ones go. A `patient` one
    may take as long as it likes."""

    PATIENCE = 5.0  # seconds without an item before a device counts as dead

    def __init__(self, label: str, items: Callable[[threading.Event], Generator[Item]], keep: int = 1) -> None:
        self.label, self.given, self.patient = label, "", False
        self._loop, self._news, self._stop = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
        self._newest: deque[Item] = deque(maxlen=keep)
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._read, args=(items,), name=f"source {label}", daemon=True)
        self._thread.start()

    def _read(self, items: Callable[[threading.Event], Generator[Item]]) -> None:
        try:
            with contextlib.closing(items(self._stop)) as given:
                for item in given:
                    if self._stop.is_set():
                        return
                    self._publish(item)
        except cv2.error as error:
            self._publish(failure=CallError(f"{self.label} cannot be used ({error.err}): choose another source"))
        except Exception as error:  # noqa: BLE001 - of any kind: next() raises it, where somebody hears of it
            self._publish(failure=error)

    def _publish(self, *items: Item, failure: Exception | None = None) -> None:
        def publish() -> None:
            self._newest.extend(items)
            self._failure = failure
            self._news.set()

        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everyone who could want an item
            self._loop.call_soon_threadsafe(publish)

    async def ready(self) -> None:
        waited = 0
        while not self._news.is_set():  # ten times a tenth of it: a process that was halted (Ctrl-Z) has not waited
            if waited >= 10 and not self.patient:
                raise CallError(f"{self.label} gave nothing for {self.PATIENCE:g} s: is it still there?")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self.PATIENCE / 10)
            waited += 1
        if self._failure and not self._newest:
            raise self._failure

    async def next(self) -> Item:
        await self.ready()
        item = self._newest.popleft()
        if not self._newest and not self._failure:
            self._news.clear()
        return item

    async def close(self) -> None:
        """Stop reading. Waits up to 2 s for a device that is being opened or read."""
        self._stop.set()  # a driver that hangs in read() keeps its daemon thread, not the program
        await asyncio.to_thread(self._thread.join, 2)


class DeviceSource(Reader[tuple[Picture, float]]):
    """A camera, or a video file at its own rate and from the start again at its end: OpenCV reads both. The newest
    picture wins, and where more than `fps` a second come, some are passed over."""

    def __init__(self, spec: str, size: tuple[int, int] | None, fps: float, log: Log) -> None:
        kind, _, number = spec.partition(":")
        self.camera = int(number or 0) if kind == "camera" else None
        self.path, self.size, self.fps, self.log = spec, size, fps, log
        super().__init__(printable(spec), self._pictures)

    def _pictures(self, stop: threading.Event) -> Generator[tuple[Picture, float]]:
        due = time.perf_counter()
        for picture in self._captured(stop):
            now = time.perf_counter()
            if now >= due - 0.25 / self.fps:
                due = max(due, now - 1 / self.fps) + 1 / self.fps
                fitted = fit(picture, self.size)
                if picture.shape != fitted.shape:  # a still picture comes scaled from the second time on
                    self.given = f"{picture.shape[1]}x{picture.shape[0]}"
                self.patient = self.camera is None
                yield fitted, now

    def _captured(self, stop: threading.Event) -> Generator[Picture]:
        """Yield the pictures, each when it is due."""
        began, noted = time.perf_counter(), False
        while not stop.is_set():
            count, shown = 0, 0.0  # pictures, s
            with self._opened() as device:
                rate, length = device.get(cv2.CAP_PROP_FPS), device.get(cv2.CAP_PROP_FRAME_COUNT)
                period = 1 / rate if 0 < rate < 1000 else 0.04
                while not stop.is_set() and (read := device.read())[0]:
                    picture, count = read[1], count + 1
                    if self.camera is None:
                        at = device.get(cv2.CAP_PROP_POS_MSEC) / 1000
                        shown = at if at > shown or count == 1 else shown + period
                        late = time.perf_counter() - began - shown
                        began += late if late > period else 0.0  # halted, or decoding is too slow: no hurry afterwards
                        stop.wait(max(0.0, -late))
                    yield picture
            if not stop.is_set() and (self.camera is not None or count == 0):
                raise self._trouble(count)
            if shown + period < 0.9 * length * period and not noted and not stop.is_set():
                words = f"{shown + period:.1f} of {length * period:.1f} s, which are repeated"
                noted, words = True, f"{self.label} is damaged or truncated: it plays {words}"
                self._loop.call_soon_threadsafe(self.log, "source", "note", words)
            began += shown + period
            still = fit(picture, self.size) if count == 1 else None
            while still is not None and not stop.wait(period):
                yield still

    @contextlib.contextmanager
    def _opened(self) -> Generator[cv2.VideoCapture]:
        with contextlib.ExitStack() as stack:
            if self.camera is None:
                try:  # by Python: OpenCV does not tell why it cannot, and crashes over a name that is not UTF-8
                    file = stack.enter_context(open(self.path, "rb"))
                except OSError as error:
                    raise CallError(f"{self.label} cannot be read ({error.strerror}): name a video file") from error
                # By its number: OpenCV takes `file` itself too, but crashes where that cannot be read (a pipe, a disk).
                name = self.path if os.name == "nt" else f"/dev/fd/{file.fileno()}"
                device = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
            else:
                device = cv2.VideoCapture(self.camera)
                width, height = self.size or DEFAULT_SIZE
                device.set(cv2.CAP_PROP_FRAME_WIDTH, width)
                device.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
                device.set(cv2.CAP_PROP_FPS, self.fps)
            stack.callback(device.release)
            if not device.isOpened():
                raise self._trouble(-1)
            yield device

    def _trouble(self, count: int) -> CallError:
        """Return what to say of a device that has given so many pictures, and gives no more; -1: it does not open."""
        if self.camera is None:
            return CallError(f"{self.label} holds no picture that can be decoded: name a video file that plays")
        words = {-1: "cannot be opened: close the program that uses it, and check the permission"}
        words[0] = "is open but gives no picture: another program may be using it; close it"
        if count < 0 and sys.platform == "linux" and not Path(f"/dev/video{self.camera}").exists():
            words[-1] = f"is not there (no /dev/video{self.camera}): plug one in, or use --source synthetic"
        gone = "stopped giving pictures: was it unplugged? Plug it in and start again"
        return CallError(f"camera {self.camera} {words.get(count, gone)}")


def fit(picture: Picture, size: tuple[int, int] | None) -> Picture:
    """Return a copy of that size (width, height), scaled with its shape kept, black where the shapes differ. Without a
    size the shape stays: scaled down to fit 640x480, black only where the time code would have no room."""
    rows, columns = picture.shape[:2]
    scale = min((size or DEFAULT_SIZE)[0] / columns, (size or DEFAULT_SIZE)[1] / rows, math.inf if size else 1)
    if scale != 1:
        fitted = (max(1, round(columns * scale)), max(1, round(rows * scale)))
        picture = cv2.resize(picture, fitted, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    rows, columns = picture.shape[:2]
    width, height = size or (max(columns, 160), max(rows, 120))
    top, left = (height - rows) // 2, (width - columns) // 2
    return cv2.copyMakeBorder(picture, top, height - rows - top, left, width - columns - left, cv2.BORDER_CONSTANT)


# ---- 10  Looking: the window -----------------------------------------------------------------------------------------

INK, PALE, FAINT, ACCENT = (240, 240, 240), (195, 195, 190), (140, 135, 130), (120, 210, 255)  # blue-green-red
BACKGROUND, EMPTY, GREEN, RED = (38, 33, 30), (55, 50, 46), (120, 205, 110), (110, 110, 250)
PEERS = (250, 200, 120), (140, 190, 250)  # what stands on the left, on the right
MARKS = {"": FAINT, "working": ACCENT, "done": GREEN, "failed": RED}
Words = tuple[str, Colour]

# The lines of an SDP that matter most, and what they are for.
SDP_WORDS = {
    "m=": "one track: kind, port (9: none yet), numbers (payload types) of its codecs",
    "a=rtpmap:": "a codec, its number, its clock; rtx: lost packets sent again",
    "a=sendonly": "I send",
    "a=recvonly": "I receive",
    "a=sendrecv": "I can send and receive",
    "a=ice-ufrag:": "my name in ICE's test datagrams",
    "a=ice-pwd:": "what those sent to me are signed with",
    "a=fingerprint:sha-256": "the hash of the certificate that I will show: who shows another is not me",
    "a=setup:": "who begins the DTLS handshake: active: I do; actpass: you choose",
    "a=candidate:": "an address where I may be reached",
}


def what_it_made(done: Done, known: str = "") -> list[tuple[str, str]]:
    """Return what a step made, line by line, and what each is for. Of an SDP those that matter, with a + where the
    known SDP has not got them; a candidate is taken apart (RFC 8839 section 5.1)."""
    told: list[tuple[str, str]] = []
    if isinstance(done.made, str):
        for line in done.made.splitlines():
            mark = "+ " if known and line not in known else ""
            shown = re.sub(r"candidate:\S+", "candidate:…", line)  # what follows says more than the foundation
            told += [(f"{mark}{shown}", words) for start, words in SDP_WORDS.items() if line.startswith(start)]
    elif isinstance(done.made, list):
        for one in done.made:
            candidate = parse_candidate(one if isinstance(one, str) else one["candidate"])
            kinds = "host: one of its own addresses; srflx: as seen from outside; relay: a relay's"
            told.append((f"{candidate.protocol} {candidate.ip} port {candidate.port}", "where to send test datagrams"))
            told.append((f"typ {candidate.type}", kinds))
            told.append((f"priority {candidate.priority}", "the higher, the sooner it is tried and taken"))
    elif isinstance(done.made, Pair):
        told = [(done.made.local, "this peer's end of the pair that works"), (done.made.remote, "the other end")]
    elif isinstance(done.made, np.ndarray):
        told = [(f"{done.made.shape[1]}x{done.made.shape[0]}", "a whole picture, decoded")]
    return [(shortened(line, 60), words) for line, words in told]


class Row(NamedTuple):
    """One row of the ladder: at `t` seconds `who` did something; with `to`, it went from the one to the other."""

    t: float
    who: str
    words: str
    to: str = ""


STEPS = ("addTrack", "createOffer", "createAnswer", "setLocal", "setRemote", "addIce", "replaceTrack", "mute", "unmute")
TOGETHER = {"iceConnectionState → completed": "ICE: a pair that works", "dtlsState → connected": "DTLS: keys"}


def ladder(events: Iterable[Event], names: tuple[str, str]) -> list[Row]:
    """Return what two people at a blackboard would draw of these events: steps, messages from one to the other, and
    what both come to together. Several candidates are one row."""
    told = [event for event in events if event.who in names]
    rows: list[Row] = []
    done: set[tuple[str, str]] = set()
    for event in told:
        what, (verb, _, kind), first = f"{event.what} {event.detail}", event.what.partition(" "), event.who == names[0]
        other = names[first]
        row = Row(event.t, event.who, event.what.removesuffix("(null)"))
        if verb in ("send", "receive"):
            sender, receiver = (event.who, other) if verb == "send" else (other, event.who)
            if verb == "receive" and (sender, f"send {kind}") in done:
                continue  # else the log is of one peer alone, and only this tells that it was sent
            row = Row(event.t, sender, "candidates" if "candidate" in kind else kind, receiver)
        elif what in TOGETHER:
            if (other, what) not in done and any(event.who == other for event in told):
                row = row._replace(words="")  # the other one has yet to come to it
            else:
                row = Row(event.t, names[0], TOGETHER[what], names[1])
        elif event.what == "first picture":
            row = Row(event.t, other, "SRTP: pictures", event.who)
        elif what.endswith("State → failed"):
            row = row._replace(words=f"{event.what.removesuffix('State')} failed")
        elif not event.what.startswith((*STEPS, "refused", "close")):
            continue
        done |= {(event.who, event.what), (event.who, what)}
        if row.words and not any(one[1:] == row[1:] for one in rows[-2:]):
            rows.append(row)
    return rows


class Side(NamedTuple):
    """What one half of the window shows of a peer. The words stand where there is no picture; `figure` is how the
    curve's newest value is written: "delay {:.1f} ms"."""

    name: str
    title: str
    picture: Picture | None = None
    words: tuple[Words, ...] = ()
    caption: str = ""
    layers: tuple[Layer, ...] = ()
    figure: str = ""
    curve: Sequence[tuple[float, float]] = ()  # s, value; the newest last


def sides(call: Call) -> tuple[Side, Side]:
    """Return what the two halves of the window show of a call."""
    (one, two), waiting = call.peers, (("waiting for the first picture", FAINT),)

    def received(track: OutgoingTrack, sender: Peer) -> str:
        delay, rate = track.meter.recent
        told = f"   delay {delay * 1000:.1f} ms   {rate:.1f}/s   lost {sender.health.packets_lost}" if rate else ""
        return call.codec + told + "   muted" * track.muted

    size = "" if call.track.picture is None else "{1}x{0}".format(*call.track.picture.shape)
    given = f"gives {call.track.source.given}, sent as {size}" if call.track.source.given else size
    title, picture = f"{one.name} captures", call.track.picture
    caption = f"{call.track.source.label[-24:]}   {given}"
    if call.back and not call.closed:
        title, picture, caption = f"{one.name} received", one.picture, received(call.back, two)
    left = Side(one.name, title, picture, waiting, caption, one.health.layers, "bit rate {:.0f} kbit/s")
    title, caption = f"{two.name} received", received(call.track, one)
    return left, Side(two.name, title, two.picture, waiting, caption, two.health.layers, "delay {:.1f} ms")


def blamed(sides: tuple[Side, Side], why: str) -> tuple[Side, Side]:
    """Return the sides of a call that failed: the lowest layer that is not up bears the blame."""
    up = [next((n for n, layer in enumerate(side.layers) if layer.mark != "done"), 9) for side in sides]

    def blame(side: Side, place: int) -> Side:
        failed = {place: {"mark": "failed", "why": why}} if place == min(up) else {}
        return side._replace(layers=tuple(one._replace(**failed.get(n, {})) for n, one in enumerate(side.layers)))

    return blame(sides[0], up[0]), blame(sides[1], up[1])


class View:
    """Draws a call into a picture of any size: left and right a peer with its picture and its layers, between them the
    ladder, below the keys. Only what has changed is drawn again; `changed` tells whether draw() did anything."""

    SPAN = 30.0  # s, of the curves

    def __init__(self, log: Log, size: tuple[int, int] = (1686, 832)) -> None:
        self.log, self.grey, self.changed = log, False, True
        self._font = cv2.FontFace("sans")
        self.resize(*size)

    def resize(self, width: int, height: int) -> None:
        """Lay the view out for another size. All measures follow from that of the letters, in pixels."""
        self.shape, self.letter = (height, width, 3), min(width / 80, height / 39.5)
        line, gap, middle = int(1.35 * self.letter), int(0.6 * self.letter), int(17 * self.letter)
        wide, top, bottom = (width - middle - 4 * gap) // 2, 2 * line, height - 2 * line
        high = min(wide * 3 // 4, bottom - top - 8 * line)
        self.areas = {  # x, y, width, height
            "message": (gap, 0, width - 2 * gap, top),
            "ladder": (2 * gap + wide, top, middle, bottom - top),
            "keys": (gap, bottom, width - 2 * gap, height - bottom),
        }
        for side, x in enumerate((gap, width - gap - wide)):
            y = top
            for name, rows in (("title", line), ("pane", high), ("caption", line), ("layers", 3 * line)):
                self.areas[f"{name}{side}"] = (x, y, wide, rows)
                y += rows
            self.areas[f"curve{side}"] = (x, y, wide, bottom - y)
        self.buttons: list[tuple[int, int, str]] = []  # a key's label: from x to x
        self.canvas: Picture = np.full(self.shape, BACKGROUND, np.uint8)
        self._blank, self._drawn = self.canvas.copy(), dict[str, tuple[object, Picture | None]]()

    def draw(
        self,
        sides: tuple[Side, Side],
        *,
        since: float = 0.0,
        message: Words = ("", INK),
        keys: dict[str, str] | None = None,
        coming: Row | None = None,
    ) -> Picture:
        """Return the view as a picture, the same array each time. `since` is when the call began, in seconds of the
        log; `coming` is the row that is waited for."""
        self.changed = False
        newest, names = self.log.events[-1] if self.log.events else None, (sides[0].name, sides[1].name)
        self._part("message", partial(self._text, text=message[0], at=(0, 1.5), colour=message[1], size=1.15), message)
        self._part("ladder", partial(self._ladder, names, since, coming), newest, since, coming)
        self._part("keys", partial(self._keys, keys or {}), keys)
        for number, side in enumerate(sides):
            moment = round(side.curve[-1][0] * 2) if side.curve else 0
            self._part(f"title{number}", partial(self._text, text=side.title, colour=PEERS[number]), side.title)
            self._part(f"pane{number}", partial(self._pane, side, number), side.words, self.grey, picture=side.picture)
            self._part(f"caption{number}", partial(self._text, text=side.caption, size=0.8), side.caption)
            self._part(f"layers{number}", partial(self._layers, side.layers), side.layers)
            self._part(f"curve{number}", partial(self._curve, side), side.name, moment)
        return self.canvas

    def _part(
        self, name: str, paint: Callable[[Picture], object], *shows: object, picture: Picture | None = None
    ) -> None:
        """Draw a part again if it shows something else now: `shows` by value, the picture by identity."""
        before, old = self._drawn.get(name, (None, None))
        if before != shows or old is not picture:
            x, y, width, height = self.areas[name]
            area = self.canvas[y : y + height, x : x + width]
            if picture is None or old is None or picture.shape != old.shape:  # else it covers the one before
                area[:] = self._blank[y : y + height, x : x + width]  # many times faster than filling in a colour
            paint(area)
            self._drawn[name], self.changed = (shows, picture), True

    def place(self, number: int, picture: Picture) -> tuple[int, int, int, int]:
        """Return where the left (0) or right (1) picture lies in the view: x, y, width, height."""
        x, y, width, height = self.areas[f"pane{number}"]
        rows, columns = picture.shape[:2]
        scale = min(height / rows, width / columns)
        wide, high = round(columns * scale), round(rows * scale)
        return x + (width - wide) // 2, y + (height - high) // 2, wide, high

    def _text(
        self,
        area: Picture,
        text: str,
        at: tuple[float, float] = (0, 0.95),
        colour: Colour = PALE,
        size: float = 1.0,
        align: float = 0.0,
        room: float = math.inf,
    ) -> float:
        """Draw text at (x, y), measures in letters: x is where it begins (align 0), its middle (0.5) or its end (1), y
        its baseline. It is made smaller where it would not fit. Return the x where it ends."""
        (x, y), text, width = at, printable(text), area.shape[1] / self.letter
        room = min(room, width - x if align == 0 else x if align == 1 else width)
        pixels, wide = size * self.letter, self._wide(text, size)
        if wide > room:
            pixels, wide = pixels * room / wide, room
        at = self._pixel(x - align * wide, y)
        return float(cv2.putText(area, text, at, colour, self._font, max(int(pixels), 6), 450)[0][0] / self.letter)

    def _wide(self, text: str, size: float) -> float:
        pixels = int(size * self.letter)
        return float(cv2.getTextSize((0, 0), text, (0, 0), self._font, pixels, 450)[2] / self.letter) if text else 0.0

    def _pixel(self, x: float, y: float) -> tuple[int, int]:
        return int(x * self.letter), int(y * self.letter)

    def _line(
        self, area: Picture, start: tuple[float, float], end: tuple[float, float], colour: Colour, tip: float = 0
    ) -> None:
        thick = max(round(self.letter / 12), 1)
        cv2.arrowedLine(area, self._pixel(*start), self._pixel(*end), colour, thick, cv2.LINE_AA, 0, tip)

    def _pane(self, side: Side, number: int, area: Picture) -> None:
        if side.picture is not None:
            x, y, wide, high = self.place(number, side.picture)
            grey = self.grey and number == 1
            picture = cv2.cvtColor(side.picture[:, :, 1], cv2.COLOR_GRAY2BGR) if grey else side.picture
            cv2.resize(picture, (wide, high), dst=self.canvas[y : y + high, x : x + wide])
            return
        area[:] = EMPTY
        room = area.shape[1] / self.letter - 1.4
        for size in (0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55):  # smaller where it would not fit
            lines = []
            for text, colour in ((printable(words), colour) for words, colour in side.words):
                columns = 0.96 * room * len(text) / (self._wide(text, size) or 1)
                lines += [(line, colour) for line in textwrap.wrap(text, max(int(columns), 1))]
            if len(lines) * 1.5 * size * self.letter < area.shape[0] - self.letter:
                break
        for number, (line, colour) in enumerate(lines):
            self._text(area, line, (0.7, 1.5 * size * (number + 1)), colour, size)

    def _layers(self, layers: tuple[Layer, ...], area: Picture) -> None:
        wide = area.shape[1] / self.letter / max(len(layers), 1)
        for number, layer in enumerate(layers):
            x, colour = number * wide, MARKS[layer.mark]
            cv2.rectangle(area, self._pixel(x, 0.25), self._pixel(x + wide - 0.4, 0.5), colour, -1)
            self._text(area, layer.name, (x, 1.75), colour if layer.mark else PALE, 0.85, room=wide - 0.4)
            self._text(area, layer.state, (x, 2.8), FAINT, 0.7, room=wide - 0.4)
            self._text(area, layer.why, (0, 3.8), RED, 0.75)

    def _curve(self, side: Side, area: Picture) -> None:
        if len(side.curve) > 1:
            times, values = np.array(side.curve).T
            (height, width), most = area.shape[:2], max(values.max(), 1e-9)
            points = np.stack(
                [width * (1 - (times[-1] - times) / self.SPAN), (height - 3) * (1 - values / most) + 1], 1
            )
            points = points[points[:, 0] >= 0].astype(np.int32)
            cv2.polylines(area, [points], False, GREEN, max(round(self.letter / 12), 1), cv2.LINE_AA)
            end = self._text(area, side.figure.format(values[-1]), (0, 1), PALE, 0.75)
            self._text(area, f"   highest {most:.0f}   last {self.SPAN:.0f} s", (end, 1), FAINT, 0.65)

    def _ladder(self, names: tuple[str, str], since: float, coming: Row | None, area: Picture) -> None:
        newest = [*itertools.islice(reversed(self.log.events), 1000)]  # of a flood, no more
        rows = ladder([event for event in reversed(newest) if event.t >= since], names)
        ends, high = (3.0, area.shape[1] / self.letter - 0.8), area.shape[0] / self.letter
        room = ends[1] - ends[0] - 1.2
        for end, name, colour, align in zip(ends, names, PEERS, (0.0, 1.0), strict=True):
            self._text(area, name, (end - 0.8 + 1.6 * align, 1), colour, align=align)
            self._line(area, (end, 1.4), (end, high - 0.6), colour)
        for place, row in enumerate([*rows, *filter(None, [coming])][-int((high - 2.8) / 1.5) :]):
            y, first = 2.7 + 1.5 * place, row.who == names[0]
            here, there = ends if first else ends[::-1]
            colour = FAINT if row is coming else ACCENT if row in rows[-1:] else PALE
            if row.words.startswith("refused") or row.words.endswith("failed"):
                colour = RED
            if row is not coming:
                self._text(area, f"{(row.t - since) * 1000:.0f}", (2.2, y), FAINT, 0.7, 1)
            if row.to:
                for start, end in ((here, there), (there, here))[: 1 + (row.words in TOGETHER.values())]:
                    self._line(area, (start, y + 0.3), (end, y + 0.3), colour, 0.03)
                self._text(area, row.words, (sum(ends) / 2, y), colour, 0.9, 0.5, room)
            else:
                dot = 1 if row is coming else -1
                cv2.circle(area, self._pixel(here, y - 0.3), int(self.letter / 5), colour, dot, cv2.LINE_AA)
                self._text(
                    area, row.words, (here + (0.6 if first else -0.6), y), colour, 0.9, 0.0 if first else 1.0, room
                )

    def _keys(self, keys: dict[str, str], area: Picture) -> None:
        x, self.buttons = 0.1, []
        for key, words in keys.items():
            end = self._text(area, KEY_NAMES.get(key, key), (x + 0.4, 1.5), ACCENT) + 0.4
            cv2.rectangle(area, self._pixel(x, 0.4), self._pixel(end, 1.9), ACCENT, 1)
            end = self._text(area, words, (end + 0.4, 1.5), INK, 0.9)
            self.buttons.append((int(x * self.letter), int(end * self.letter), key))
            x = end + 1.6

    def key_at(self, x: int, y: int) -> str:
        """Return the key whose label is there, "" for none."""
        left, top, *_ = self.areas["keys"]
        return next((key for start, end, key in self.buttons if y >= top and start <= x - left <= end), "")


class Window:
    """A window on the screen. Raises CallError where there can be none."""

    NAME = "loopback: a WebRTC call"

    def __init__(self) -> None:
        self.clicks: deque[tuple[int, int]] = deque(maxlen=1)
        self._wheeled = math.inf  # when the wheel was last turned
        self._canvas: Picture | None = None  # what is shown
        # Qt would complain that it finds no fonts; View draws the text. cv2 sets Qt's variables at import, so here.
        os.environ["QT_LOGGING_RULES"] = "*.warning=false"
        with open_display() as screen:
            width = min(int(0.94 * screen[0]), int(0.88 * screen[1] * 2.03))
            self.size = (width, int(width / 2.03))
            self.place = (screen[0] - width) // 2, (screen[1] - self.size[1]) // 2
            self._open()
            cv2.pollKey()

    def _open(self) -> None:
        cv2.namedWindow(self.NAME, cv2.WINDOW_NORMAL | cv2.WINDOW_FREERATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.resizeWindow(self.NAME, *self.size)
        cv2.moveWindow(self.NAME, *self.place)
        cv2.setMouseCallback(self.NAME, self._on_mouse)

    def _on_mouse(self, event: int, x: int, y: int, *_: object) -> None:
        if event == cv2.EVENT_LBUTTONUP:
            self.clicks.append((x, y))
        elif event in (cv2.EVENT_MOUSEWHEEL, cv2.EVENT_MOUSEHWHEEL):
            self._wheeled = time.perf_counter()

    def show(self, canvas: Picture | None) -> str | None:
        """Show a picture, or with None leave the one that is shown. Return the key pressed, "" for none, None when the
        user has closed the window. `size` is what the window has then."""
        try:  # after the close button OpenCV has no window left to ask about, and imshow would open another
            if self._canvas is not None:
                if cv2.getWindowProperty(self.NAME, cv2.WND_PROP_VISIBLE) < 1:
                    return None
                *place, width, height = cv2.getWindowImageRect(self.NAME)
                self.place, self.size = (place[0], place[1]), (max(width, 320), max(height, 240))
        except cv2.error:
            return None
        # The wheel enlarges the picture. Qt cannot be told not to (github.com/opencv/opencv/issues/11500), and there is
        # no way back but a new window: once the wheel has come to rest.
        if time.perf_counter() > self._wheeled + 0.2:
            self._wheeled, canvas = math.inf, self._canvas
            cv2.destroyWindow(self.NAME)
            self._open()
        if canvas is not None:
            cv2.imshow(self.NAME, canvas)
            self._canvas = canvas
        key = cv2.pollKey()
        return chr(key) if 0 < key < 128 else ""  # an arrow or a function key has a larger number


@contextlib.contextmanager
def open_display() -> Iterator[tuple[int, int]]:
    """Give width and height of the screen in pixels, of one where several stand side by side. Raises CallError where no
    window can be shown: Qt, which draws OpenCV's windows on Linux, ends the whole process when it finds no display, and
    no `except` catches that, so it is asked for first, and held until Qt has its own: a server without users restarts.
    """
    if cv2.currentUIFramework() == "":
        raise CallError("this OpenCV has no windows (opencv-python-headless): install opencv-python instead of it")
    if sys.platform != "linux":
        yield 1366, 768  # macOS and Windows usually have a display, and do not end the process
        return
    loaded = list(sys.modules)
    if loaded.index("av") < loaded.index("cv2"):
        raise CallError("aiortc was imported before cv2, so a window would hang: import loopback (or cv2) first")
    try:
        x11 = ctypes.CDLL("libX11.so.6")
    except OSError as error:
        raise CallError("libX11 is missing: on Debian or Ubuntu, apt install libx11-6") from error
    # OpenCV brings a libX11-xcb made for an older libX11. With that one Xlib takes away events meant for Qt, such as
    # the news that the window is on the screen; it then stays black. Loaded before, the system's own serves instead.
    with contextlib.suppress(OSError):
        ctypes.CDLL("libX11-xcb.so.1", mode=ctypes.RTLD_GLOBAL)
    x11.XOpenDisplay.restype = ctypes.c_void_p
    if not (opened := ctypes.c_void_p(x11.XOpenDisplay(None))):
        raise CallError(f"no display (DISPLAY is {printable(os.environ.get('DISPLAY', '')) or 'not set'})")
    try:
        screen = x11.XDefaultScreen(opened)
        width, height = x11.XDisplayWidth(opened, screen), x11.XDisplayHeight(opened, screen)
        yield min(width, height * 16 // 9), height
    finally:
        x11.XCloseDisplay(opened)


def key_list(keys: dict[str, str]) -> str:
    return " · ".join(f"{KEY_NAMES.get(key, key)} {words}" for key, words in keys.items())


def write_picture(path: Path, picture: Picture | None) -> None:
    """Write a picture file, or with None see whether that could be done. Raises CallError where it cannot; a part of a
    picture is not left behind."""
    unfinished = False
    try:
        new = not path.exists()
        with path.open("ab" if picture is None else "wb") as file:
            unfinished = path.is_file() and (new or picture is not None)
            file.write(b"" if picture is None else cv2.imencode(path.suffix, picture)[1].tobytes())
        unfinished = new and picture is None
    except OSError as error:
        raise CallError(f"{printable(str(path))} cannot be written ({error.strerror}): choose another place") from error
    finally:
        if unfinished:
            path.unlink()


# ---- 11  Running: keys, command line, exit status --------------------------------------------------------------------

# The keys of the window. Another one has its words here, in Session.keys when it works, and what it does in press.
KEYS = {"c": "call again", "h": "hang up", "n": "next source", "v": "mute", "g": "grey", "s": "snapshot", "q": "quit"}
KEY_NAMES = {" ": "space"}
BEFORE = (  # --step
    "pc1 is going to call pc2. Each is an RTCPeerConnection, one end of a WebRTC call. What they tell each other are "
    "texts through a channel, which every program brings itself; here it is a pair of queues."
)


class Session:
    """What a user does with calls: look, step, hang up, call again. Holds what lives longer than one call."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.console = Console(sys.stderr if options.json else sys.stdout)
        self.log = Log(self.console.event)
        self.view = View(self.log)
        self.call: Call | None = None
        self.window: Window | None = None
        self.action: asyncio.Task[None] | None = None  # a call that is being set up, changed or hung up
        self.sources = list(dict.fromkeys((options.source, "synthetic", "night", "camera")))  # the first is in use
        self.go = asyncio.Queue[str]()  # --step: one for each key, or line that was entered
        self.ended, self.interrupted, self.failure = False, 0, ""
        self.message: Words = ("", INK)  # above the pictures
        self.words: dict[str, tuple[Words, ...]] = {}  # in place of a peer's picture
        self.sides = Side("pc1", "pc1 captures"), Side("pc2", "pc2 received")
        self.curves: tuple[deque[tuple[float, float]], ...] = (deque(maxlen=60), deque(maxlen=60))
        self.coming: Row | None = None  # --step: the next step
        self.sdp = ""  # --step: the last one
        self._measured = -math.inf

    @property
    def live(self) -> Call | None:
        """The call, until it is hung up."""
        return self.call if self.call and not self.call.closed else None

    @property
    def keys(self) -> dict[str, str]:
        """The keys that do something now, and what."""
        live, free = bool(self.live), self.action is None
        works = {"c": free and not live, "h": live or not free, "n": live and free, "v": live, "g": live}
        now = {key: words for key, words in KEYS.items() if works.get(key, key == "q" or bool(self.call))}
        return {" ": "next step", **now} if self.coming else now

    def interrupt(self, number: int, *_: object) -> None:
        """Handle Ctrl-C and SIGTERM: end at the next tick. A second one changes nothing: the end is under way."""
        self.ended, self.interrupted = True, number

    async def run(self) -> None:
        """Run until the user, --seconds or a failure ends it. Raises CallError; leaves nothing open."""
        try:
            self._open_view()
            self.press("c")
            until = math.inf
            while not self.ended and self.log.now() < until:
                await asyncio.sleep(1 / 30 if self.live or self.action else 0.1)
                try:
                    await self._tick()
                except CallError as error:
                    if not self.window or self.options.seconds:  # nobody is there to read it and to call again
                        raise
                    await self._failed(error)
                if until == math.inf and self.options.seconds and self.live and not self.action:
                    until = self.log.now() + self.options.seconds
            if self.live:
                await self.live.finish()
        finally:
            async with contextlib.AsyncExitStack() as stack:  # each of these runs, whatever the others raise
                if self.window:
                    stack.callback(cv2.destroyAllWindows)
                if self.call:
                    stack.push_async_callback(self.call.close)
                stack.push_async_callback(cancelled, self.action)
                if self.options.snapshot and self.call and self.call.meter.received:
                    self.press("s")

    def _open_view(self) -> None:
        o = self.options
        if o.view != "none":
            try:
                self.window = Window()
            except CallError as missing:
                if o.view == "window":
                    raise CallError(f"{missing}: there can be no window; use --view none") from missing
                o.snapshot = o.snapshot or Path("loopback.png")
                self.console.line(f"{missing}: no window; {printable(str(o.snapshot))} will be written at the end")
        o.seconds = o.seconds or (None if self.window else 5.0)
        if o.snapshot:
            write_picture(o.snapshot, None)
        if o.step:
            self._read_enter()

    async def _tick(self) -> None:
        if self.action and self.action.done():
            action, self.action = self.action, None
            action.result()
        if self.live:
            self._look(self.live)
            if self.live.pc2.picture is not None:
                await self.live.check()
                self.console.progress(self.live)
        if self.window:
            self._show(self.window)

    def _show(self, window: Window) -> None:
        if window.size[::-1] != self.view.shape[:2]:
            self.view.resize(*window.size)
        picture = self._draw()
        key = window.show(picture if self.view.changed else None)
        while window.clicks:
            key = key or self.view.key_at(*window.clicks.popleft())
        try:
            self.press("q" if key is None else key)
        except CallError as error:  # the call goes on all the same
            self.log("window", "no snapshot", str(error))

    def _draw(self) -> Picture:
        since = self.call.started if self.call else self.log.now()
        left, right = (
            side._replace(picture=None, words=self.words[side.name]) if side.name in self.words else side
            for side in self.sides
        )
        return self.view.draw((left, right), since=since, message=self.message, keys=self.keys, coming=self.coming)

    def _look(self, call: Call) -> None:
        """Note what there is to see of a call; figures twice a second, for who could read them faster?"""
        (left, right), now, (delay, rate) = sides(call), self.log.now(), call.meter.recent
        if now >= self._measured + 0.5 and rate:
            self._measured = now
            self.curves[0].append((now, call.pc1.health.bitrate_kbps))
            self.curves[1].append((now, delay * 1000))
        else:
            left, right = left._replace(caption=self.sides[0].caption), right._replace(caption=self.sides[1].caption)
        self.sides = left._replace(curve=self.curves[0]), right._replace(curve=self.curves[1])

    async def _failed(self, error: CallError) -> None:
        """Say why the call failed, and leave the window open."""
        await cancelled(self.action)
        Console(sys.stderr).line(f"loopback: {error}")
        self.failure, self.coming, self.action = str(error), None, None
        self.message = ("The call failed. Press c to call again", RED)
        what, _, why = self.failure.partition(" Likely cause: ")
        self.words["pc2"] = ((what, INK), (why, RED))
        if self.live:
            self._look(self.live)
            self.sides = blamed(self.sides, why)
            await self.live.close()

    def press(self, key: str) -> None:
        """Do what a key stands for, if it works now. What takes time becomes the action."""
        if key in ("q", "\x1b"):
            self.ended = True
        elif key and key not in KEYS:
            self.go.put_nowait("")
        elif key not in self.keys:
            return
        elif key == "c":
            self.action = asyncio.create_task(self._set_up())
        elif key == "h":
            self.action = asyncio.create_task(self._hang_up(self.action))
        elif key == "n" and self.live:
            self.action = asyncio.create_task(self._next_source(self.live))
        elif key == "v" and self.live:
            self.live.mute()
        elif key == "g":
            self.view.grey = not self.view.grey
        elif key == "s":
            path = self.options.snapshot or Path("loopback.png")
            if self.live:
                self._look(self.live)
            write_picture(path, self._draw())
            self.log("window", "snapshot", str(path))

    async def _set_up(self) -> None:
        o, source = self.options, open_source(self.sources[0], self.options.size, self.options.fps, self.log)
        back = open_source("night", o.size, o.fps, self.log) if o.both else None
        self.message, self.words, self.failure = (f"Opening {source.label}", INK), {}, ""
        try:
            await source.ready()
            marker_bit = o.jitter_buffer == "marker"
            self.call = Call(source, back=back, log=self.log, codec=o.codec, marker_bit=marker_bit, deadline=o.deadline)
        finally:
            if not self.live:  # else the call closes it
                await source.close()
        self.curves = deque(maxlen=60), deque(maxlen=60)
        self.sides = sides(self.call)
        await (self._step_through(self.call) if o.step else self.call.run())
        right = "Each side shows what it received" if o.both else "The right picture is the left one"
        self.message = (f"{right}, after an offer, an answer, ICE, DTLS and SRTP", INK)
        self.console.line(self._what_to_do())

    def _what_to_do(self) -> str:
        if self.window:
            keys = key_list({key: words for key, words in KEYS.items() if key != "c"})
            return f"Look at the window: right is what arrived. Keys there: {keys}. Ctrl-C ends, too."
        where = f"The view will be in {printable(str(self.options.snapshot))}. " if self.options.snapshot else ""
        return f"The call is up, and ends after {self.options.seconds:g} s. {where}Ctrl-C ends it now."

    async def _hang_up(self, action: asyncio.Task[None] | None) -> None:
        await cancelled(action)
        self.message, self.coming = ("", INK), None
        if call := self.live:
            await call.hang_up()
            self.console.line(f"hung up: {call.meter!r}")
            lasted = f"The call lasted {self.log.now() - call.started:.1f} s; {call.meter.received} pictures arrived."
            self.words = {"pc2": (("pc1 hung up: it said bye, and both sides closed.", INK), (lasted, PALE))}
            self._look(call)

    async def _next_source(self, call: Call) -> None:
        for place, spec in enumerate(self.sources[1:], 1):
            try:
                await call.switch(open_source(spec, self.options.size, self.options.fps, self.log))
                self.sources = self.sources[place:] + self.sources[:place]
                return
            except CallError as error:
                self.log("source", f"{spec} passed over", str(error))

    async def _step_through(self, call: Call) -> None:
        steps, made = call.steps, dict[str, tuple[Words, ...]]()
        self.console.wrapped(BEFORE, "")
        for number, step in enumerate(steps, 1):
            title = f"Step {number} of {len(steps)}: {step.who}: {step.what}"
            where = ", or the space bar in the window" if self.window else ""
            self.console.step(title, step.why, f"Enter{where}: next{'; sdp: show the whole SDP' * bool(self.sdp)}")
            self.message, self.coming = (f"{title}   (space bar)", ACCENT), Row(0, step.who, step.what)
            self.words = {peer.name: made.get(peer.name, ()) for peer in call.peers}
            self.words[step.who] = ((f"Next: {step.what}", ACCENT), (step.why, INK), *self.words[step.who])
            while await self.go.get() == "sdp":
                self.console.line("\n".join(map(printable, self.sdp.splitlines())))
            if meanwhile := step.peer.done(step.what).changed:  # while nobody pressed a key: ICE and DTLS go on
                self.console.wrapped(f"meanwhile, {step.who}: {', '.join(meanwhile)}", "  ")
            done = await step.run()
            lines = what_it_made(done, self.sdp)
            self.sdp = done.made if isinstance(done.made, str) else self.sdp
            self.console.made(done, lines, call.peers)
            told = [(f"{line}   {words}", GREEN if line.startswith("+") else PALE) for line, words in lines]
            new = "   (+ the SDP before had no such line)" * any(line.startswith("+") for line, _ in lines)
            made[step.who] = ((f"Done: {step.what}{new}", GREEN), *told, *((change, PALE) for change in done.changed))
        self.words, self.coming = {}, None

    def _read_enter(self) -> None:
        loop = asyncio.get_running_loop()

        def read() -> None:
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                with contextlib.suppress(OSError):  # the terminal has gone
                    while sys.stdin and (typed := os.read(0, 1024)):  # Python's buffer would be locked at the end
                        for line in typed.decode(errors="replace").splitlines():
                            loop.call_soon_threadsafe(self.go.put_nowait, line.strip().lower())
                for _ in range(0 if self.window else 99):  # nobody can press Enter: go through all steps
                    loop.call_soon_threadsafe(self.go.put_nowait, "")

        # A thread: Windows cannot wait for a terminal and for sockets in one event loop. It ends with the process.
        threading.Thread(target=read, name="stdin", daemon=True).start()

    def report(self) -> dict[str, Any]:
        """Return what --json prints: the measurements of the last call. Another figure is one line here."""
        o, call = self.options, self.call
        report: dict[str, Any] = {"source": o.source, "codec": o.codec, "fps": o.fps}
        if call:
            meter, span = call.meter, call.meter.last_arrival - call.meter.first_arrival
            rows, columns = (0, 0) if call.track.picture is None else call.track.picture.shape[:2]
            setup = {"connected": call.after("connected"), "first_frame": call.after("first picture")}
            report |= {
                "source": call.track.source.label,
                "width": columns,
                "height": rows,
                "setup_ms": {name: seconds and round(seconds * 1000, 1) for name, seconds in setup.items()},
                "latency_ms": meter.latency_ms,
                "frames": {"sent": meter.sent, "received": meter.received, "misread": meter.misread},
                "received_fps": round(meter.received_fps, 2),
                "bitrate_kbps": round(call.pc1.health.bytes_sent * 8 / span / 1000, 1) if span else 0.0,
                "packets_lost": call.pc1.health.packets_lost,
                "selected_pair": call.pc1.selected_pair._asdict(),
            }
        events = self.log.events
        log = [{"t_ms": round(e.t * 1000, 3), "who": e.who, "what": e.what, "detail": e.detail} for e in events]
        return report | {"log": log}


async def cancelled(*tasks: asyncio.Task[None] | None) -> None:
    """Cancel tasks and wait for their end."""
    for task in filter(None, tasks):
        task.cancel()
    await asyncio.gather(*filter(None, tasks), return_exceptions=True)


# What the lines on the terminal are about, in which colour, and what that is.
PHASES = {
    "signalling": (36, "each side tells the other, as text, what it offers and what it accepts"),
    "ICE": (33, "each side gathers its addresses; pairs of them are tested until one works both ways"),
    "DTLS": (35, "a handshake over that pair makes keys which only these two have"),
    "picture": (32, "cut into packets, encrypted (SRTP), put together again, decoded"),
}


def phase(event: Event) -> str:
    """Return the phase of a call that an event belongs to; "" for what is none of the peers'."""
    if event.what == "first picture":
        return "picture"
    if event.what.startswith(("dtls", "connected")) or (event.what, event.detail) == ("connectionState", "→ connected"):
        return "DTLS"
    if event.what.startswith(("ice", "addIce", "passed over", "connectionState")):
        return "ICE"
    return "" if event.who in ("call", "window", "source") or event.detail == "→ closed" else "signalling"


class Console:
    """The terminal: log lines with their phase, and on a real terminal colours, lines cut to its width, and one line of
    live progress below them."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream or open(os.devnull, "w")  # noqa: SIM115 - None: it was closed before the program began
        self.stream.reconfigure(errors="replace")  # a file or pipe on Windows may have no arrows
        self.live, self._due = self.stream.isatty(), 0.0
        self.colours = self.live and "NO_COLOR" not in os.environ
        self._begun: set[str] = set()

    @property
    def width(self) -> int:
        return shutil.get_terminal_size().columns - 1 if self.live else 10_000

    def coloured(self, text: str, colour: int) -> str:
        """Return the text in a colour (ECMA-48) where there are any."""
        return f"\x1b[{colour}m{text}\x1b[0m" if self.colours and text else text

    def event(self, event: Event) -> None:
        """Print an event, and before the first one of a phase what that phase is."""
        about = phase(event)
        colour, words = PHASES.get(about, (0, ""))
        if event.what == "new RTCPeerConnection" and "ICE" in self._begun:  # of another call
            self._begun.clear()
        if about and about not in self._begun:
            self._begun.add(about)
            self.line(self.coloured(shortened(f"{about}: {words}", self.width), colour))
        self.line(f"{self.coloured(f'{about:<10}', colour)} {shortened(str(event), self.width - 11)}")

    def step(self, title: str, why: str, prompt: str) -> None:
        """Print what the next step of --step is."""
        self.line("\n" + self.coloured(title, 1))
        self.wrapped(why, "  ")
        self.wrapped(f"[{prompt}]", "  ")

    def made(self, done: Done, lines: list[tuple[str, str]], peers: Iterable[Peer]) -> None:
        """Print what a step has made."""
        for line, words in lines:
            colour, apart = 32 if line.startswith("+") else 0, len(line) > 44
            if apart:
                self.line(self.coloured(f"  {line}", colour))
            self.wrapped(words, f"  {'' if apart else line:<44}  ", colour)
        if any(line.startswith("+") for line, _ in lines):
            self.line("  (+ the SDP before had no such line)")
        for one in (done, *peers):
            self.wrapped(repr(one), "  ")

    def wrapped(self, text: str, start: str, colour: int = 0) -> None:
        """Print a text in lines that fit, all with as much space before them as the start of the first."""
        width = max(min(self.width, 120), len(start) + 20)
        lines = textwrap.fill(text, width, initial_indent=start, subsequent_indent=" " * len(start))
        self.line(self.coloured(lines, colour))

    def line(self, text: str, end: str = "\n") -> bool:
        """Print a line. Return False when nobody can read it."""
        try:
            print(("\r\x1b[K" if self.live else "") + text, end=end, file=self.stream, flush=True)
        except OSError:  # the reader has gone (| head), or the disk is full: the call goes on without
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            return False
        return True

    def progress(self, call: Call) -> None:
        if self.live and time.perf_counter() >= self._due:
            self._due = time.perf_counter() + 0.5
            (delay, rate), meter, health = call.meter.recent, call.meter, call.pc1.health
            text = f"{rate:.1f}/s  delay {delay * 1000:.1f} ms  {health.bitrate_kbps:.0f} kbit/s  lost "
            text += f"{health.packets_lost}  {meter.received} pictures  {meter.misread} misread"
            self.line(shortened(text, self.width), end="")


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        hint = " (--help lists what there is)" if "unrecognized" in message else ""
        self.exit(2, f"loopback: {printable(message)}{hint}\n")


def checked(convert: Callable[[str], Any], fits: Callable[[Any], object], words: str) -> Callable[[str], Any]:
    """Return a converter for argparse: it gives what `convert` makes of a text, if that fits; else one line says so."""

    def converter(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if fits(value := convert(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not {words}")

    return converter


def number(least: float, most: float) -> Callable[[str], Any]:
    return checked(float, lambda value: least <= value <= most, f"a number from {least:g} to {most:g}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options. Exits with 2 and one line on standard error for wrong ones."""
    sources = "synthetic, night, camera, camera:1, or a video file"
    source = checked(str, re.compile(r"(?!camera:).+|camera:\d{1,3}", re.DOTALL).fullmatch, f"a source: {sources}")
    snapshot = checked(Path, lambda path: path.suffix.lower() in (".png", ".jpg"), "a name that ends in .png or .jpg")
    size = checked(
        lambda text: tuple(map(int, text.lower().split("x"))),
        lambda size: len(size) == 2 and 160 <= size[0] <= 3840 and 120 <= size[1] <= 2160,
        "a size like 640x480, from 160x120 to 3840x2160",
    )
    parser = Parser(prog="loopback", description="A WebRTC call between two peers in one process, laid open.")
    parser.epilog = f"Keys in the window: {key_list(KEYS)}"
    add = parser.add_argument
    add("--source", type=source, default="synthetic", help=f"{sources}; synthetic by default")
    add("--both", action="store_true", help="video both ways: pc2 sends a test picture back")
    add("--size", type=size, metavar="WxH", help="size of the picture; 640x480, or a source's own shape within it")
    add("--fps", type=number(1, 60), default=30.0, metavar="N", help="pictures a second, 1 to 60, 30 by default")
    add("--codec", type=str.upper, choices=("VP8", "H264"), default="VP8", help="VP8 by default")
    add("--view", choices=("auto", "window", "none"), default="auto", help="auto: a window where there is a display")
    add("--seconds", type=number(0.1, 86400), metavar="S", help="end after S seconds; without a window, 5 by default")
    add("--step", action="store_true", help="one step at a time: explain it, wait for Enter, show what it changed")
    add("--snapshot", type=snapshot, metavar="FILE", help="write the view at the end: .png or .jpg")
    add("--json", action="store_true", help="print the measurements as one JSON object; all else to standard error")
    add("--deadline", type=number(0.1, 600), default=5.0, metavar="S", help="give up without a picture after S s (5)")
    add("--jitter-buffer", choices=("marker", "stock"), default="marker", help="stock: aiortc's own, one frame later")
    add("--version", action="version", version=f"loopback {__version__}")
    options = parser.parse_args(arguments)
    with contextlib.suppress(OSError):  # one of them is not there, or cannot be: told when it is opened
        if options.snapshot and os.path.samefile(options.snapshot, options.source):
            parser.error(f"argument --snapshot: {options.snapshot} is the source; choose another name")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 1 the call or a device failed, 130 Ctrl-C.

    Exits with 2 for wrong arguments.
    """
    options = parse(arguments)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what matters is raised here, in one line
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    gc.freeze()  # what the imports made stays; looking through it for garbage would stop the set-up for 15 ms
    session = Session(options)
    failure, status = None, 0
    before = {number: signal.signal(number, session.interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(session.run())
    except CallError as error:
        failure, status = str(error), 1
    failure, status = (session.failure, 1) if session.failure else (failure, status)
    if session.interrupted:
        status = 128 + session.interrupted
        session.console.line("interrupted")
    if session.call and session.call.meter.received:
        session.console.line(f"{session.call.meter!r}, {session.call.pc1.health.packets_lost} packets lost")
    if options.json:
        report = session.report() | ({"error": failure} if failure else {})
        if not Console(sys.stdout).line(json.dumps(report)):
            failure, status = failure or "the report cannot be written to standard output", status or 1
    if failure and not session.failure:  # that one was told when it happened
        Console(sys.stderr).line(f"loopback: {failure}")
    for number, handler in before.items():
        signal.signal(number, handler)
    return status


if __name__ == "__main__":
    sys.exit(main())

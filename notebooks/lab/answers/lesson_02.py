"""Answers of lesson 02, reading the SDP, and what its cells borrow: calls with an edited text, a stranger's offer."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from phone.sound import SoundMeter

from loopback import Call, CallError, LoopbackOnly, SyntheticSource

from ..check import Question, register, register_quiz
from ..faults import change, faulty
from ..sdp import Table, edit, sections

__all__ = ["BROWSER_OFFER", "disturbed", "flip", "heard", "objections", "ports"]

LAYERS = ("check_description", "setRemoteDescription", "ICE", "DTLS", "nobody, but no picture", "nobody")

# In the manner of Chromium, all values made up: microphone to send, video to receive, a data channel.
BROWSER_OFFER = """\
v=0
o=- 4611731400430051336 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0 1 2
a=extmap-allow-mixed
a=msid-semantic: WMS 8d0f3b52-64c7-4e19-a2f5-71be09c3d8e6
m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126
c=IN IP4 0.0.0.0
a=rtcp:9 IN IP4 0.0.0.0
a=ice-ufrag:Qm3z
a=ice-pwd:kT7vX2nBq0LsYw5HdJr8PaEc
a=ice-options:trickle
a=fingerprint:sha-256 4E:1B:93:0C:D7:62:A8:5F:21:EE:39:74:B0:8D:C6:13:57:FA:02:9B:68:E4:AD:30:7C:F1:45:8E:D9:26:B3:0A
a=setup:actpass
a=mid:0
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time
a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01
a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid
a=sendonly
a=msid:8d0f3b52-64c7-4e19-a2f5-71be09c3d8e6 b3e7c914-0a6d-4f82-95d1-2c48f7a0be63
a=rtcp-mux
a=rtcp-rsize
a=rtpmap:111 opus/48000/2
a=rtcp-fb:111 transport-cc
a=fmtp:111 minptime=10;useinbandfec=1
a=rtpmap:63 red/48000/2
a=fmtp:63 111/111
a=rtpmap:9 G722/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:13 CN/8000
a=rtpmap:110 telephone-event/48000
a=rtpmap:126 telephone-event/8000
a=ssrc:1830452761 cname:n4Xk0pQz7RtYb2Ls
a=ssrc:1830452761 msid:8d0f3b52-64c7-4e19-a2f5-71be09c3d8e6 b3e7c914-0a6d-4f82-95d1-2c48f7a0be63
m=video 9 UDP/TLS/RTP/SAVPF 98 99 96 97 45 46 103 104
c=IN IP4 0.0.0.0
a=rtcp:9 IN IP4 0.0.0.0
a=ice-ufrag:Qm3z
a=ice-pwd:kT7vX2nBq0LsYw5HdJr8PaEc
a=ice-options:trickle
a=fingerprint:sha-256 4E:1B:93:0C:D7:62:A8:5F:21:EE:39:74:B0:8D:C6:13:57:FA:02:9B:68:E4:AD:30:7C:F1:45:8E:D9:26:B3:0A
a=setup:actpass
a=mid:1
a=extmap:14 urn:ietf:params:rtp-hdrext:toffset
a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time
a=extmap:13 urn:3gpp:video-orientation
a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01
a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid
a=recvonly
a=rtcp-mux
a=rtcp-rsize
a=rtpmap:98 VP9/90000
a=rtcp-fb:98 goog-remb
a=rtcp-fb:98 transport-cc
a=rtcp-fb:98 ccm fir
a=rtcp-fb:98 nack
a=rtcp-fb:98 nack pli
a=fmtp:98 profile-id=0
a=rtpmap:99 rtx/90000
a=fmtp:99 apt=98
a=rtpmap:96 VP8/90000
a=rtcp-fb:96 goog-remb
a=rtcp-fb:96 transport-cc
a=rtcp-fb:96 ccm fir
a=rtcp-fb:96 nack
a=rtcp-fb:96 nack pli
a=rtpmap:97 rtx/90000
a=fmtp:97 apt=96
a=rtpmap:45 AV1/90000
a=rtcp-fb:45 nack
a=rtcp-fb:45 nack pli
a=fmtp:45 level-idx=5;profile=0;tier=0
a=rtpmap:46 rtx/90000
a=fmtp:46 apt=45
a=rtpmap:103 H264/90000
a=rtcp-fb:103 nack
a=rtcp-fb:103 nack pli
a=fmtp:103 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f
a=rtpmap:104 rtx/90000
a=fmtp:104 apt=103
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=ice-ufrag:Qm3z
a=ice-pwd:kT7vX2nBq0LsYw5HdJr8PaEc
a=ice-options:trickle
a=fingerprint:sha-256 4E:1B:93:0C:D7:62:A8:5F:21:EE:39:74:B0:8D:C6:13:57:FA:02:9B:68:E4:AD:30:7C:F1:45:8E:D9:26:B3:0A
a=setup:actpass
a=mid:2
a=sctp-port:5000
a=max-message-size:262144
"""


# ---- Edits, and who objects to them ----------------------------------------------------------------------------------


def flip(sdp: str, start: str) -> str:
    """Return the SDP with another character behind the first `start`."""
    old = sdp[sdp.index(start) + len(start)]
    return edit(sdp, start + old, start + ("1" if old == "0" else "0"))


async def disturbed(who: str, *words: str) -> tuple[str, str]:
    """Make a call in which the description of pc1 or pc2 is changed: old text and new, or where to change a character.
    Return the layer that objects, and what is seen."""

    def changed(sdp: str) -> str:
        return flip(sdp, *words) if len(words) == 1 else edit(sdp, *words)

    edits = {"pc1": (change("offer", changed), None), "pc2": (None, change("answer", changed))}
    call = Call(SyntheticSource(320, 240, 30), channels=faulty(*edits[who]), deadline=1.5)
    try:
        with contextlib.suppress(CallError):
            await call.run()
        await asyncio.sleep(0.2)  # for the other side to notice
        return objection(call)
    finally:
        await call.close()  # also when the text to change is not there


def objection(call: Call) -> tuple[str, str]:
    """Return the first layer of a call that objects, and what is seen of it."""
    ice = f"pc1 {call.pc1.pc.iceConnectionState}, pc2 {call.pc2.pc.iceConnectionState}"
    dtls = f"pc1 {call.pc1.health.dtls_state}, pc2 {call.pc2.health.dtls_state}"
    events = list(call.log.events)
    if refused := [event for event in events if event.what in ("refused offer", "refused answer")]:
        first = refused[0]  # the candidates that come behind it are refused as well
        took = any(event.who == first.who and event.what.startswith("setRemote") for event in events)
        return "setRemoteDescription" if took else "check_description", f"{first.who}: {first.detail}"
    if "checking" in ice:
        return "ICE", f"ICE: {ice}"
    if "failed" in dtls:
        return "DTLS", f"DTLS: {dtls}"
    if call.pc2.picture is None:
        return "nobody, but no picture", f"ICE: {ice}; DTLS: {dtls}"
    return "nobody", "a picture"


def objections(edits: Sequence[tuple[str, ...]], found: Sequence[tuple[str, str]]) -> Table:
    """Show edits and what came of them, grouped by the layer that objects."""
    groups: dict[str, list[tuple[str, ...]]] = {layer: [] for layer in LAYERS}
    for (who, old, *new), (layer, seen) in zip(edits, found, strict=True):
        became = f"{old.strip()} → {new[0].strip() or '(nothing)'}" if new else f"{old}(one character)"
        groups[layer].append((became, "offer" if who == "pc1" else "answer", seen))
    named = [(f"who objects: {layer}", rows) for layer, rows in groups.items()]
    return Table(("edit", "in the", "the error, or what is seen"), named, (48, 10, 42), code={0})


# ---- Calls with more than video --------------------------------------------------------------------------------------


async def ports(*, bundle: bool) -> int:
    """Return how many ports a side uses in a call with video, sound and data, with or without a=group:BUNDLE."""
    config = RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.BALANCED)
    one, two = RTCPeerConnection(config), RTCPeerConnection(config)
    one.addTransceiver("video")
    one.addTransceiver("audio")
    chat = one.createDataChannel("chat")
    try:
        with LoopbackOnly():
            for speaker, listener in ((one, two), (two, one)):
                await speaker.setLocalDescription()
                said = speaker.localDescription
                sdp = said.sdp if bundle else edit(said.sdp, "a=group:BUNDLE 0 1 2\r\n", "")
                await listener.setRemoteDescription(RTCSessionDescription(sdp, said.type))
        async with asyncio.timeout(2):
            while {one.connectionState, two.connectionState} != {"connected"}:
                await asyncio.sleep(0.01)
        transports = {*(receiver.transport for receiver in one.getReceivers()), chat.transport.transport}
        found = [dtls.transport.iceGatherer.getLocalCandidates() for dtls in transports]
        return len({candidate.port for candidates in found for candidate in candidates})
    finally:
        await asyncio.gather(one.close(), two.close())


async def heard(meter: SoundMeter, within: float = 2.0) -> None:
    """Wait until a meter hears a tone. Raises TimeoutError."""
    async with asyncio.timeout(within):
        while meter.frequency is None:
            await asyncio.sleep(0.01)


# ---- Answers ---------------------------------------------------------------------------------------------------------


def reads_payload_types(answer: Callable[[str], Any], offer: str) -> bool:
    """Whether a function finds the payload types of the lesson's offer and of the browser's."""
    wanted = [
        {int(number): codec for part in sections(sdp) for number, codec in part.codecs.items()}
        for sdp in (offer, BROWSER_OFFER)
    ]
    return callable(answer) and [answer(offer), answer(BROWSER_OFFER)] == wanted


register(
    "02 payload types",
    right=reads_payload_types,
    look="the lines that begin with a=rtpmap: the number is before the space, the name before the slash",
    why="this dictionary is all that gives a packet's seven bits a meaning",
)
register(
    "02 idle",
    right={"msid", "ssrc", "ssrc-group"},
    look="the last column of the table for the word idle, and write a set, in braces",
    why="aiortc names a stream whether or not it sends one",
)
register(
    "02 mine",
    right="nobody, but no picture",
    look="the line that says who sends, and what pc2 is told if it says otherwise",
    why="both connected, nothing to see, and no layer that objects",
)
register(
    "02 stranger 1",
    right=1,
    look="the line a=group",
    why="BUNDLE 0 1 2, and rtcp-mux: one transport for everything",
)
register(
    "02 stranger 2",
    right="audio",
    look="the directions, seen from the side that wrote them",
    why="sendonly for sound, recvonly for video: a microphone, and no camera",
)
register(
    "02 stranger 3",
    right="VP8",
    look="the numbers in m=video from left to right, and their rtpmap",
    why="98 is VP9, which the peer does not know; 96 is the next one that it does",
)
register(
    "02 stranger 4",
    right=104,
    look="the a=fmtp line with apt= and the payload type of H264",
    why="rtx for 103, by apt=103",
)
register(
    "02 stranger 5",
    right="server",
    look="who begins the handshake when the answer is active",
    why="active begins, so you are the client and the browser waits",
)
register_quiz(
    "02",
    Question(
        "Two m-lines, a=group:BUNDLE 0 1. How many times does the DTLS handshake take place?",
        ("twice, once for each m-line", "once", "once, and again when the second medium starts"),
        "b",
        "one transport, so one ICE, one handshake, one pair of keys for both",
    ),
    Question(
        "An RTP packet arrives. Where does it say that it is VP8?",
        ("in its SSRC", "in its extension 1", "nowhere: it has a number, and the SDP says what that means"),
        "c",
        "the payload type is seven bits; a=rtpmap ties it to a codec",
    ),
    Question(
        "On its way the network changes one digit of the fingerprint in the offer. Who notices, and when?",
        (
            "the side that received the offer, at the end of the DTLS handshake",
            "setRemoteDescription, at once",
            "both sides, by the state of ICE",
        ),
        "a",
        "the text is well formed and the way opens; only the certificate shows the lie",
    ),
    Question(
        "a=ice-pwd was changed on its way. What do you see for the first second?",
        ("the offer is refused", "DTLS failed", "a peer that stays in checking"),
        "c",
        "tests whose signature does not fit are refused, and for a long time no state says so",
    ),
    Question(
        "A browser answers m=video 0 UDP/TLS/RTP/SAVPF 96. What has it said?",
        ("its port is not known yet", "it refuses the video", "it will take any port"),
        "b",
        "port 0 refuses an m-line, as when no codec is in common; port 9 is the one that is not known yet",
    ),
)

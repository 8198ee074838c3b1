"""Descriptions that were changed on their way, or come from a stranger: lesson 02.

disturbed(who, ...)     a call with one edit in an offer or answer: which layer objects, and what is seen
objections(edits, ...)  many of them, grouped by the layer
damages()               texts damaged on their way, and how two readers take them
ports(bundle)           the ports of a call with video, sound and data, with a=group:BUNDLE or without
BROWSER_OFFER, REUSED   an offer in the manner of Chromium; how its m-lines change in a long call
"""

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence

from aiortc import AudioStreamTrack, RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from phone.sound import SoundMeter

from loopback import NO_SERVERS, Call, CallError, LoopbackOnly, SignallingError, SyntheticSource, refusing

from .draw import Table
from .faults import change, faulty
from .sdp import edit

__all__ = ["BROWSER_OFFER", "REUSED", "damages", "disturbed", "flip", "heard", "objections", "ports"]

BUSY = "this machine is too busy: end other programs and run the cell again"
LAYERS = ("check_description", "setRemoteDescription", "ICE", "DTLS", "nobody, but no picture", "nobody", "no verdict")

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
a=rtcp-xr:rcvr-rtt=all
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
a=rtcp-xr:rcvr-rtt=all
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


# Three offers of one RTCPeerConnection of Chromium 156, measured; only the lines that matter here, and one payload type
# of each many. Between them: transceiver.stop() of the video; addTransceiver("video").
REUSED = {
    "sound and video": """\
a=group:BUNDLE 0 1
m=audio 9 UDP/TLS/RTP/SAVPF 111
a=mid:0
m=video 9 UDP/TLS/RTP/SAVPF 96
a=mid:1
""",
    "the video was stopped": """\
a=group:BUNDLE 0
m=audio 9 UDP/TLS/RTP/SAVPF 111
a=mid:0
m=video 0 UDP/TLS/RTP/SAVPF 96
a=mid:1
""",
    "another video was added": """\
a=group:BUNDLE 0 2
m=audio 9 UDP/TLS/RTP/SAVPF 111
a=mid:0
m=video 9 UDP/TLS/RTP/SAVPF 96
a=mid:2
""",
}

# ---- Edits, and who objects to them ----------------------------------------------------------------------------------


def flip(sdp: str, start: str) -> str:
    """Return the SDP with another character behind the first `start`."""
    old = sdp[sdp.index(start) + len(start)]
    return edit(sdp, start + old, start + ("1" if old == "0" else "0"))


async def disturbed(who: str, *words: str) -> tuple[str, str]:
    """Make a call in which the description of pc1 or pc2 is changed: old text and new, or where to change a character.
    Return the layer that objects, and what is seen. Where the machine is too busy to tell, the call is made again with
    more time; "no verdict" if that does not help. Raises ValueError when the text to change is not there."""

    def changed(sdp: str) -> str:
        return flip(sdp, *words) if len(words) == 1 else edit(sdp, *words)

    edits = {"pc1": (change("offer", changed), None), "pc2": (None, change("answer", changed))}
    found = "no verdict", BUSY
    for deadline in (1.5, 4.0, 10.0):
        call, failure = Call(SyntheticSource(160, 120, 15), channels=faulty(*edits[who]), deadline=deadline), ""
        try:
            try:
                await call.run()
            except CallError as error:
                failure = str(error)
            await asyncio.sleep(0.2)  # for the other side to notice
            with contextlib.suppress(CallError):
                await call.pc1.health.read_stats()
            found = objection(call, failure)
        finally:
            await call.close()
        if found[0] != "no verdict":
            break
    return found


def objection(call: Call, failure: str) -> tuple[str, str]:
    """Return the first layer of a call that objects, and what is seen of it; `failure` is what run() raised."""
    ice = f"pc1 {call.pc1.pc.iceConnectionState}, pc2 {call.pc2.pc.iceConnectionState}"
    dtls = f"pc1 {call.pc1.health.dtls_state}, pc2 {call.pc2.health.dtls_state}"
    events = list(call.log.events)
    if refused := [event for event in events if event.what in ("refused offer", "refused answer")]:
        first = refused[0]  # the candidates that come behind it are refused as well
        took = any(event.who == first.who and event.what.startswith("setRemote") for event in events)
        return "setRemoteDescription" if took else "check_description", f"{first.who}: {first.detail}"
    if "failed" in dtls:
        return "DTLS", f"DTLS: {dtls}"
    if call.pc2.picture is not None:
        return "nobody", "a picture"
    if "too busy" in failure or "new" in ice or ("checking" not in ice and "connecting" in dtls):
        return "no verdict", BUSY
    if "checking" in ice:
        return "ICE", f"ICE: {ice}"
    media = "pc1 sends media" if call.pc1.health.bytes_sent else "pc1 sends no media"
    return "nobody, but no picture", f"ICE: {ice}; DTLS: {dtls}; {media}"


def objections(edits: Sequence[tuple[str, ...]], found: Sequence[tuple[str, str]]) -> Table:
    """Show edits and what came of them, grouped by the layer that objects."""
    groups: dict[str, list[tuple[str, ...]]] = {layer: [] for layer in LAYERS}
    for (who, old, *new), (layer, seen) in zip(edits, found, strict=True):
        became = f"{old.strip()} → {new[0].strip() or '(nothing)'}" if new else f"{old}(one character)"
        groups[layer].append((became, "offer" if who == "pc1" else "answer", seen))
    named = [(f"who objects: {layer}", rows) for layer, rows in groups.items() if rows]
    return Table(("edit", "in the", "the error, or what is seen"), named, (48, 10, 42), code={0})


# ---- Damage, and two readers -----------------------------------------------------------------------------------------


def without(start: str) -> Callable[[str], str]:
    """Return what takes all lines that begin so out of a text."""
    return lambda sdp: "".join(line for line in sdp.splitlines(keepends=True) if not line.startswith(start))


def swapped(sdp: str) -> str:
    """Return the SDP with its first two m-lines in the other order."""
    session, first, second = re.split("(?=^m=)", sdp, maxsplit=2, flags=re.MULTILINE)
    return session + second + first


# What happens to a text -> what is done to it, and what Chromium 156 says (its words are from its errors).
DAMAGES: dict[str, tuple[Callable[[str], str], str]] = {
    "each \\r\\n became \\n": (lambda sdp: sdp.replace("\r\n", "\n"), "taken"),
    "made JSON twice: letters \\r\\n": (lambda sdp: sdp.replace("\r\n", "\\r\\n"), "Expect line: v="),
    "the end was trimmed": (str.rstrip, "Invalid SDP line."),
    "a blank line before m=": (lambda sdp: sdp.replace("\r\nm=", "\r\n\r\nm="), "Expects m line."),
    "no a=ice-ufrag": (without("a=ice-ufrag"), "Called with SDP without ice-ufrag and ice-pwd."),
    "no a=fingerprint": (without("a=fingerprint"), "Called with SDP without DTLS fingerprint."),
    "no a=rtcp-mux": (without("a=rtcp-mux"), "rtcp-mux must be enabled when BUNDLE is enabled."),
    "in the answer: m-lines swapped": (swapped, "The order of m-lines in answer doesn't match order in offer."),
}


async def damages() -> Table:
    """Give each damaged text to a connection of aiortc; return what it said, beside what Chromium said."""
    offerer, answerer = (RTCPeerConnection(NO_SERVERS) for _ in range(2))
    sound = AudioStreamTrack()
    rows: list[tuple[str, ...]] = []
    try:
        offerer.addTrack(sound)
        offerer.addTransceiver("video")
        with LoopbackOnly():
            await offerer.setLocalDescription()
            await answerer.setRemoteDescription(offerer.localDescription)
            await answerer.setLocalDescription()
        for name, (function, chromium) in DAMAGES.items():
            answer = name.startswith("in the answer")
            said = answerer.localDescription if answer else offerer.localDescription
            aiortc = await _taken(offerer if answer else None, RTCSessionDescription(function(said.sdp), said.type))
            rows.append((name, aiortc, chromium))
    finally:
        sound.stop()
        await asyncio.gather(offerer.close(), answerer.close())
    return Table(("what happened on the way", "aiortc", "Chromium 156"), [("", rows)], (30, 35, 35))


async def _taken(reader: RTCPeerConnection | None, description: RTCSessionDescription) -> str:
    """Return how setRemoteDescription takes a text: "taken" or its error; without a reader, of a new connection."""
    pc = reader or RTCPeerConnection(NO_SERVERS)
    try:
        with refusing():
            await pc.setRemoteDescription(description)
        return "taken"
    except SignallingError as error:
        return str(error)[:60]
    finally:
        if reader is None:
            await pc.close()


# ---- Calls with more than video --------------------------------------------------------------------------------------


async def ports(*, bundle: bool) -> list[int]:
    """Return the ports a side uses in a call with video, sound and data, with or without a=group:BUNDLE in both texts.
    Raises CallError where the two do not connect."""
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
        await _until(lambda: {one.connectionState, two.connectionState} == {"connected"})
        transports = {*(receiver.transport for receiver in one.getReceivers()), chat.transport.transport}
        found = [dtls.transport.iceGatherer.getLocalCandidates() for dtls in transports]
        return sorted({candidate.port for candidates in found for candidate in candidates})
    finally:
        await asyncio.gather(one.close(), two.close())


async def heard(meter: SoundMeter) -> None:
    """Wait until a meter hears a tone. Raises CallError."""
    await _until(lambda: meter.frequency is not None)


async def _until(reached: Callable[[], bool], within: float = 10.0) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            while not reached():
                await asyncio.sleep(0.01)
    if not reached():
        raise CallError(f"nothing came within {within:g} s; {BUSY}")

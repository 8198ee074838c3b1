"""The SDP and ICE tables: every line explained, every line accounted for, every priority computed again."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import html
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import aioice
import pytest
from aiortc import RTCPeerConnection, RTCRtpSender
from aiortc.mediastreams import AudioStreamTrack
from aiortc.sdp import candidate_to_sdp
from conftest import run
from hypothesis import given, settings
from hypothesis import strategies as st

from loopback import Call, IceOptions, LoopbackOnly, Peer, SyntheticSource, candidates_in, without_candidates

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))

from lab.ice import (
    TYPE_PREFERENCES,
    Recomputed,
    candidate_table,
    pair_priority,
    pair_table,
    parse_candidates,
    priority,
    split_priority,
)
from lab.private import CheckedPair
from lab.sdp import DIRECTIONS, Table, compare, describe_profile, edit, explain, pair_lines, sdp_table, sections

# ---- Descriptions ----------------------------------------------------------------------------------------------------

CHROMIUM = """\
v=0
o=- 7180642891154392201 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0 1 2
a=extmap-allow-mixed
a=msid-semantic: WMS 1f2e3d4c-stream
m=audio 54321 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126
c=IN IP4 203.0.113.5
a=rtcp:9 IN IP4 0.0.0.0
a=candidate:2310487653 1 udp 2122260223 192.0.2.10 54321 typ host generation 0 network-id 1 network-cost 10
a=candidate:1510613869 1 udp 2122194687 3f1b6c1e-9c1a-4c51-8d0a-5b8f3c8f7a11.local 54322 typ host generation 0
a=candidate:842163049 1 udp 1686052607 203.0.113.5 54321 typ srflx raddr 192.0.2.10 rport 54321 generation 0
a=candidate:3098765432 1 udp 41885439 198.51.100.7 60000 typ relay raddr 203.0.113.5 rport 54321 generation 0
a=candidate:4022866446 1 tcp 1518280447 192.0.2.10 9 typ host tcptype active generation 0 network-id 1
a=ice-ufrag:Xk2b
a=ice-pwd:n0tS3cretButL0ngEnough/+a
a=ice-options:trickle renomination
a=fingerprint:sha-256 AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99
a=setup:actpass
a=mid:0
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time
a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01
a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid
a=sendrecv
a=msid:1f2e3d4c-stream 5a6b7c8d-audio
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
a=ssrc:1234567890 cname:Q9wErTyUiOp
a=ssrc:1234567890 msid:1f2e3d4c-stream 5a6b7c8d-audio
a=ssrc:1234567890 mslabel:1f2e3d4c-stream
a=ssrc:1234567890 label:5a6b7c8d-audio
m=video 9 UDP/TLS/RTP/SAVPF 96 97 102 103 98 99 45 46 49 50 116 117 118 35
c=IN IP4 0.0.0.0
b=AS:2500
a=rtcp:9 IN IP4 0.0.0.0
a=ice-ufrag:Xk2b
a=ice-pwd:n0tS3cretButL0ngEnough/+a
a=ice-options:trickle
a=fingerprint:sha-256 AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99
a=setup:actpass
a=mid:1
a=extmap:14 urn:ietf:params:rtp-hdrext:toffset
a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time
a=extmap:13 urn:3gpp:video-orientation
a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01
a=extmap:5 http://www.webrtc.org/experiments/rtp-hdrext/playout-delay
a=extmap:6 http://www.webrtc.org/experiments/rtp-hdrext/video-content-type
a=extmap:7 http://www.webrtc.org/experiments/rtp-hdrext/video-timing
a=extmap:8 http://www.webrtc.org/experiments/rtp-hdrext/color-space
a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid
a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id
a=extmap:11 urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id
a=extmap:12 https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension
a=extmap:9 http://www.webrtc.org/experiments/rtp-hdrext/video-layers-allocation00
a=sendonly
a=msid:1f2e3d4c-stream 9e8d7c6b-video
a=rtcp-mux
a=rtcp-rsize
a=rtpmap:96 VP8/90000
a=rtcp-fb:96 goog-remb
a=rtcp-fb:96 transport-cc
a=rtcp-fb:96 ccm fir
a=rtcp-fb:96 nack
a=rtcp-fb:96 nack pli
a=rtcp-fb:96 rrtr
a=rtpmap:97 rtx/90000
a=fmtp:97 apt=96
a=rtpmap:102 H264/90000
a=rtcp-fb:102 ack ccfb
a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f
a=rtpmap:103 rtx/90000
a=fmtp:103 apt=102
a=rtpmap:98 VP9/90000
a=fmtp:98 profile-id=0
a=rtpmap:99 rtx/90000
a=fmtp:99 apt=98
a=rtpmap:45 AV1/90000
a=fmtp:45 level-idx=5;profile=0;tier=0
a=rtpmap:46 rtx/90000
a=fmtp:46 apt=45
a=rtpmap:49 H265/90000
a=fmtp:49 level-id=180;profile-id=1;tier-flag=0;tx-mode=SRST
a=rtpmap:50 rtx/90000
a=fmtp:50 apt=49
a=rtpmap:116 red/90000
a=rtpmap:117 rtx/90000
a=fmtp:117 apt=116
a=rtpmap:118 ulpfec/90000
a=rtpmap:35 flexfec-03/90000
a=fmtp:35 repair-window=10000000
a=rid:h send
a=rid:l send max-width=320;max-height=180
a=simulcast:send h;~l
a=ssrc-group:FID 1111111111 2222222222
a=ssrc-group:FEC-FR 1111111111 3333333333
a=ssrc-group:SIM 1111111111 4444444444 5555555555
a=ssrc:1111111111 cname:Q9wErTyUiOp
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=ice-ufrag:Xk2b
a=ice-pwd:n0tS3cretButL0ngEnough/+a
a=ice-options:trickle
a=fingerprint:sha-256 AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99
a=setup:actpass
a=mid:2
a=sctp-port:5000
a=max-message-size:262144
"""

FIREFOX = """\
v=0
o=mozilla...THIS_IS_SDPARTA-120.0 4962303333179871722 0 IN IP4 0.0.0.0
s=-
t=0 0
a=sendrecv
a=fingerprint:sha-256 0F:1E:2D:3C:4B:5A:69:78:87:96:A5:B4:C3:D2:E1:F0:0F:1E:2D:3C:4B:5A:69:78:87:96:A5:B4:C3:D2:E1:F0
a=group:BUNDLE 0 1 2
a=group:LS 0 1
a=ice-options:trickle
a=ice-lite
a=msid-semantic:WMS *
m=audio 0 UDP/TLS/RTP/SAVPF 109 9 0 8 101
c=IN IP6 ::
a=bundle-only
a=recvonly
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=extmap:2/recvonly urn:ietf:params:rtp-hdrext:csrc-audio-level
a=extmap:3 urn:ietf:params:rtp-hdrext:sdes:mid
a=fmtp:109 maxplaybackrate=48000;stereo=1;useinbandfec=1;usedtx=0;sprop-stereo=0;cbr=0;maxaveragebitrate=64000
a=fmtp:101 0-15
a=ice-pwd:6f0cf9a2bd1c11a8a5d6f0a3e9cc2b11
a=ice-ufrag:1f8a9c0d
a=mid:0
a=msid:- {5c0ba0f2-8d7f-4f0c-93aa-2f60ad0f7ee1}
a=rtcp-mux
a=rtcp-mux-only
a=rtpmap:109 opus/48000/2
a=rtpmap:9 G722/8000/1
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:101 telephone-event/8000/1
a=ptime:20
a=maxptime:60
a=setup:active
a=ssrc:3735928559 cname:{9d2b6a1e-5c2d-4b5f-8a55-1f9f3a0c7d20}
m=video 50000 UDP/TLS/RTP/SAVPF 120 124 121 125 126 127
c=IN IP4 192.0.2.20
b=TIAS:1500000
a=candidate:0 1 UDP 2122252543 192.0.2.20 50000 typ host
a=candidate:1 1 TCP 2105524479 192.0.2.20 9 typ host tcptype active
a=candidate:2 1 UDP 1686052863 203.0.113.9 50000 typ srflx raddr 192.0.2.20 rport 50000
a=candidate:5 1 UDP 92216831 198.51.100.7 61000 typ relay raddr 198.51.100.7 rport 61000
a=end-of-candidates
a=inactive
a=fmtp:126 profile-level-id=42e01f;level-asymmetry-allowed=1;packetization-mode=1
a=fmtp:120 max-fs=12288;max-fr=60
a=fmtp:124 apt=120;rtx-time=3000
a=ice-mismatch
a=ice-pacing:20
a=mid:1
a=remote-candidates:1 192.0.2.10 54321
a=imageattr:120 send * recv [x=640,y=480]
a=rtcp:50001 IN IP4 192.0.2.20
a=rtcp-fb:120 nack
a=rtcp-fb:120 ccm tmmbr
a=rtcp-fb:* transport-cc
a=rid:hi recv
a=simulcast: recv hi;lo
a=rtpmap:120 VP8/90000
a=rtpmap:124 rtx/90000
a=framerate:30
a=setup:passive
a=tls-id:89f0a3c2b1d4e5f60718
a=label:camera
a=content:main
m=application 9 DTLS/SCTP 5000
c=IN IP4 0.0.0.0
a=sendrecv
a=mid:2
a=setup:holdconn
a=sctpmap:5000 webrtc-datachannel 256
a=max-message-size:0
a=sctp-port:5000
"""

Descriptions = dict[str, str]


async def whole_call(codec: str) -> Descriptions:
    """The offer, the answer and the tables of a real call, taken while it is connected."""
    call = Call(SyntheticSource(160, 120, 30), codec=codec)
    try:
        await call.run()
        offer, answer = call.pc1.pc.localDescription.sdp, call.pc2.pc.localDescription.sdp
        check_live(sdp_table(offer, call.pc1), call.pc1)
        check_live(sdp_table(answer, call.pc2), call.pc2)
        check_remote(sdp_table(offer, call.pc2), call.pc2)
        for peer in (call.pc1, call.pc2):
            check_pairs(pair_table(peer), peer)
        return {"offer": offer, "answer": answer}
    finally:
        await call.close()


async def everything() -> Descriptions:
    """Sound, picture and data between two connections without a program around them."""
    one, other = (RTCPeerConnection(IceOptions().configuration) for _ in range(2))
    track = AudioStreamTrack()
    try:
        one.addTrack(track)
        one.addTransceiver("video")
        one.createDataChannel("chat")
        draft = await one.createOffer()
        cells = live_cells(sdp_table(draft.sdp, one))
        assert cells["a=ice-ufrag"].startswith("equal")  # a draft has no mid and no port yet
        assert cells["m=video"] == ""
        with LoopbackOnly():
            await one.setLocalDescription(draft)
            await other.setRemoteDescription(one.localDescription)
            await other.setLocalDescription(await other.createAnswer())
        table = sdp_table(one.localDescription.sdp, one)
        cells = live_cells(table)
        assert cells["a=sctp-port"] == "equal: pc.sctp.port is 5000"
        assert cells["a=max-message-size"].startswith("equal: pc.sctp.getCapabilities().maxMessageSize is ")
        assert not [cell for *_, cell in table.rows if cell.startswith("differs")]
        return {"offer": one.localDescription.sdp, "answer": other.localDescription.sdp}
    finally:
        track.stop()
        await one.close()
        await other.close()


def live_cells(table: Table) -> dict[str, str]:
    """The last column by the beginning of the line: "a=mid", "m=video"; the last line of a kind wins."""
    return {re.findall(r"^(?:m=\w+|a=[\w-]+|.=)", row[0])[0]: row[3] for row in table.rows}


def check_live(table: Table, peer: Peer) -> None:
    """Each expression in the table, typed by a reader, gives the value that stands behind it."""
    transceiver = peer.pc.getTransceivers()[0]
    dtls = transceiver.receiver.transport
    names: dict[str, Any] = {"pc": peer.pc, "t": transceiver, "dtls": dtls, "ice": dtls.transport}
    names |= {"RTCRtpSender": RTCRtpSender, "candidate_to_sdp": candidate_to_sdp}
    cells = [row[3] for row in table.rows if row[3]]
    assert len(cells) >= 16
    for cell in cells:
        found = re.fullmatch(r"equal: (?P<where>.+) is (?P<value>.+)", cell)
        assert found, cell
        assert str(eval(found["where"], names)) == found["value"]
    kinds = live_cells(table)
    wanted = {"m=video", "c=", "a=group", "a=mid", "a=rtpmap", "a=extmap", "a=candidate", "a=end-of-candidates"}
    wanted |= {"a=ice-ufrag", "a=ice-pwd", "a=fingerprint"}
    assert all(kinds[kind] for kind in wanted)
    local = peer.pc.localDescription.sdp
    changed = edit(local, "a=ice-ufrag:", "a=ice-ufrag:x")
    assert live_cells(sdp_table(changed, peer))["a=ice-ufrag"].startswith("differs: ")


def check_remote(table: Table, peer: Peer) -> None:
    """Of the other side's description a peer's public objects hold candidates, the track and the SSRC heard."""
    cells = live_cells(table)
    assert cells["a=candidate"].startswith("equal: candidate_to_sdp(ice.getRemoteCandidates()[0])")
    assert cells["a=msid"].startswith("equal: t.receiver.track.id is ")
    assert not cells["a=ice-ufrag"] + cells["a=ice-pwd"] + cells["a=fingerprint"] + cells["a=setup"]
    heard = [row for row in table.rows if row[0].startswith("a=ssrc:") and row[3]]
    assert [row[3].partition(":")[0] for row in heard] == ["equal"]


def check_pairs(table: Table, peer: Peer) -> None:
    assert table.rows
    for state, own, other, number, parts, again, chosen in table.rows:
        assert (state, chosen) == ("succeeded", "nominated")
        assert own.startswith("host 127.0.0.1:")
        assert other.startswith("host 127.0.0.1:")
        assert again == f"equal: {number}"
        assert eval(parts) == int(number)
    assert peer.pc.getTransceivers()[0].receiver.transport.transport.role in table.note


@pytest.fixture(scope="module", params=["VP8", "H264", "everything"])
def real(request: pytest.FixtureRequest) -> Descriptions:
    """Offer and answer of a real call."""
    return run(everything() if request.param == "everything" else whole_call(request.param))


# ---- Every line explained --------------------------------------------------------------------------------------------


def check_explained(sdp: str) -> None:
    for section in sections(sdp):
        for line in section.lines:
            said = explain(line, section.codecs)
            assert said.known, line
            assert "unknown" not in said.meaning, (line, said.meaning)
            assert "does not have the form" not in said.meaning, line
            assert re.search(r"RFC \d+|draft-|webrtc\.org", said.source), (line, said.source)
            assert "{" not in said.meaning or "{" in line, said.meaning
            assert said.name in repr(said)
            assert said.source in repr(said)


def test_every_line_of_a_real_call_is_explained(real: Descriptions) -> None:
    for sdp in real.values():
        check_explained(sdp)


@pytest.mark.parametrize("sdp", [CHROMIUM, FIREFOX], ids=["Chromium's style", "Firefox's style"])
def test_every_line_of_a_browser_is_explained(sdp: str) -> None:
    check_explained(sdp)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a=rtpmap:97 VP8/90000", "payload type 97 is VP8 with a 90 kHz clock"),
        ("a=rtpmap:111 opus/48000/2", "payload type 111 is opus with a 48 kHz clock and 2 channels"),
        ("a=fmtp:98 apt=97", "payload type 98: carries packets of payload type 97 again"),
        ("a=fmtp:102 profile-level-id=42e01f", "Constrained Baseline profile, level 3.1 (42e01f)"),
        ("a=fmtp:102 packetization-mode=1", "a NAL unit may be cut into several packets (mode 1)"),
        ("a=fmtp:111 minptime=10;useinbandfec=1", "at least 10 ms of sound; can use repair data inside the sound"),
        ("a=fmtp:63 111/111", "payload type 63 carries 111, up to 2 packets together"),
        ("a=fmtp:101 0-15", "telephone keys (events) 0-15"),
        ("a=rtcp-fb:97 nack pli", "needs no earlier one, after a loss (PLI)"),
        ("a=rtcp-fb:* transport-cc", "any payload type"),
        ("a=ssrc-group:FID 11 22", "SSRC 11 carries the media, 22 the packets of it that are sent again"),
        ("a=setup:active", "it is the DTLS client"),
        ("a=max-message-size:0", "of any size"),
        ("a=group:BUNDLE 0 1", "the m-lines 0, 1 share one transport, that of 0"),
        ("m=video 0 UDP/TLS/RTP/SAVPF 0", "port 0: refused, or without a transport of its own"),
        ("m=audio 9 UDP/TLS/RTP/SAVPF 0", "0 (PCMU)"),
        ("c=IN IP4 0.0.0.0", "holds the place of an address"),
        ("candidate:1 1 udp 2130706431 127.0.0.1 5000 typ host", "can be reached over UDP at 127.0.0.1:5000"),
    ],
)
def test_a_meaning_is_made_from_the_values_of_the_line(line: str, said: str) -> None:
    assert said in explain(line).meaning


def test_a_payload_type_is_named_by_its_section() -> None:
    video = sections(CHROMIUM)[2]
    assert (
        "payload type 97 (rtx): carries packets of payload type 96 (VP8)"
        in explain("a=fmtp:97 apt=96", video.codecs).meaning
    )
    assert "102 (H264)" in explain(video.lines[0], video.codecs).meaning


@pytest.mark.parametrize(
    ("level_id", "said"),
    [
        ("42001f", "Baseline profile, level 3.1"),
        ("42e01f", "Constrained Baseline profile, level 3.1"),
        ("42f00b", "Constrained Baseline profile, level 1b"),
        ("4d0032", "Main profile, level 5"),
        ("640c1f", "Constrained High profile, level 3.1"),
        ("64001f", "High profile, level 3.1"),
        ("ffffff", "does not know"),
        ("nonsense", "does not know"),
    ],
)
def test_profile_level_id_is_decoded(level_id: str, said: str) -> None:
    assert said in describe_profile(level_id)


def test_what_is_unknown_is_said_to_be_unknown() -> None:
    attribute = explain("a=made-up:1")
    assert (attribute.known, attribute.source) == (False, "RFC 8866 section 5.13")
    assert "a reader must ignore" in attribute.meaning
    letter = explain("q=1")
    assert (letter.known, letter.source) == (False, "RFC 8866 section 5")
    assert "refuse the whole" in letter.meaning
    assert not explain("").known
    assert "unknown here" in explain("a=rtcp-fb:97 made-up").meaning
    assert "unknown here" in explain("a=fmtp:97 made-up=1").meaning
    assert "unknown here" in explain("a=extmap:1 urn:made-up").meaning
    assert "does not have the form" in explain("a=rtpmap:VP8").meaning


KNOWN_LINES = [line for sdp in (CHROMIUM, FIREFOX) for line in sdp.splitlines()]
PRINTABLE = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\r", exclude_categories=("Cs", "Cc")), max_size=30
)


@given(line=st.sampled_from(KNOWN_LINES), cut=st.integers(0, 200), more=PRINTABLE)
def test_a_damaged_line_is_explained_or_refused_but_never_raises(line: str, cut: int, more: str) -> None:
    said = explain(line[:cut] + more)
    assert said.name
    assert said.meaning


@given(text=st.text(max_size=300))
def test_any_text_gives_a_table(text: str) -> None:
    table = sdp_table(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    assert [row[0] for row in table.rows] == lines
    assert compare(text, text).rows is not None
    assert "<script" not in table._repr_html_() or "<script" not in text


# ---- A table is readable in every form -------------------------------------------------------------------------------


def test_a_table_holds_every_line_as_html_and_as_text() -> None:
    for sdp in (CHROMIUM, FIREFOX):
        table = sdp_table(sdp)
        shown, text = table._repr_html_().replace("<wbr>", ""), repr(table)
        for line in sdp.splitlines():
            assert f"<code>{html.escape(line, quote=False)}</code>" in shown
            assert f"{line}\n" in text
        assert not re.search(r"<svg|<script|class=|#[0-9a-f]{6}", shown)  # no colour that one theme would hide
        assert "\n[m-line 2: application, mid 2]\n" in text


def test_markup_in_a_line_is_text() -> None:
    hostile = CHROMIUM.replace("s=-", "s=<script>alert(1)</script>")
    for table in (sdp_table(hostile), compare(hostile, hostile)):
        assert "<script>" not in table._repr_html_()


def test_a_section_and_kinds_of_line_can_be_picked() -> None:
    table = sdp_table(CHROMIUM, section="1", only=("m=", "rtpmap"))
    assert {row[0][:3] for row in table.rows} == {"m=v", "a=r"}
    assert [heading for heading, _ in table.groups] == ["m-line 1: video, mid 1"]
    assert sdp_table(CHROMIUM, section=1).rows == sdp_table(CHROMIUM, section="1").rows
    assert len(sdp_table(CHROMIUM, section="session").rows) == 7
    assert {row[0] for row in compare(CHROMIUM, CHROMIUM, section=2, only=("mid",)).rows} == {"a=mid:2"}
    with pytest.raises(ValueError, match="no section 'nine'"):
        sdp_table(CHROMIUM, section="nine")


def test_edit_replaces_once_or_fails() -> None:
    assert edit("a=mid:0\r\na=mid:0\r\n", "mid:0", "mid:1") == "a=mid:1\r\na=mid:0\r\n"
    for absent in ("a=mid:7", ""):
        with pytest.raises(ValueError, match="not in this description"):
            edit(CHROMIUM, absent, "x")


# ---- Offer beside answer ---------------------------------------------------------------------------------------------


def check_accounts_for_all_lines(offer: str, answer: str) -> Table:
    table = compare(offer, answer)
    for column, sdp in enumerate((offer, answer)):
        assert Counter(row[column] for row in table.rows if row[column]) == Counter(
            line.strip() for line in sdp.splitlines() if line.strip()
        )
    for said, reply, verdict in table.rows:
        word, _, reason = verdict.partition(": ")
        assert reason
        if word == "kept":
            assert said == reply
        else:
            assert (
                word
                == {(True, True): "changed", (True, False): "dropped", (False, True): "new"}[bool(said), bool(reply)]
            )
    return table


def verdicts(table: Table) -> dict[str, str]:
    """What became of a line, by the offered line or, where there is none, the answered one."""
    return {row[0] or row[1]: row[2] for row in table.rows}


def test_each_line_of_a_real_call_is_classified_once(real: Descriptions) -> None:
    table = check_accounts_for_all_lines(real["offer"], real["answer"])
    offer, found = real["offer"], verdicts(table)
    assert not [verdict for verdict in found.values() if re.search("wrong|suspicious", verdict)]
    for kind in ("ice-ufrag", "ice-pwd", "fingerprint", "candidate", "msid:", "ssrc"):
        lines = [line for line in offer.splitlines() if line.startswith(f"a={kind}")]
        assert lines
        assert all(found[line].startswith("changed: each side") for line in lines)
    assert found["a=setup:actpass"].endswith("actpass is an offer; pc2 chose active, so pc2 is the DTLS client")
    assert found["a=sendrecv"] == "changed: sendrecv answered with recvonly: pc2 has nothing to send"
    assert next(row[2] for row in table.rows if row[0].startswith("o=")).startswith("changed")


def test_a_description_without_its_candidates_is_compared_too(real: Descriptions) -> None:
    table = check_accounts_for_all_lines(real["offer"], without_candidates(real["answer"]))
    found = [row[2] for row in table.rows if row[0].startswith("a=candidate")]
    assert set(found) == {"dropped: each side has its own addresses"}


def test_a_codec_that_is_not_wanted_takes_its_lines_along() -> None:
    offer = CHROMIUM
    answer = "\r\n".join(
        line.replace(" 102 103 98 99", " 98 99")
        for line in offer.splitlines()
        if not re.match("a=(rtpmap|fmtp|rtcp-fb):10[23]", line)
    )
    found = verdicts(check_accounts_for_all_lines(offer, answer))
    assert found["a=rtpmap:102 H264/90000"] == "dropped: codec not wanted by pc2"
    assert found["a=rtcp-fb:102 ack ccfb"] == "dropped: goes with its codec, 102 (H264)"
    media = next(verdict for line, verdict in found.items() if line.startswith("m=video"))
    assert media == "changed: not wanted by pc2: 102 (H264), 103 (rtx)"


def test_a_refused_m_line_says_so() -> None:
    lines = ["m=video 0 UDP/TLS/RTP/SAVPF 120", "a=mid:1"]
    offer = "m=video 9 UDP/TLS/RTP/SAVPF 120\r\na=mid:1\r\na=rtpmap:120 VP8/90000\r\n"
    found = verdicts(check_accounts_for_all_lines(offer, "\r\n".join(lines)))
    assert found["m=video 9 UDP/TLS/RTP/SAVPF 120"] == "changed: port 0: pc2 refuses this m-line"
    assert found["a=rtpmap:120 VP8/90000"] == "dropped: goes with the refused m-line"


def test_an_m_line_too_many_or_too_few_is_wrong() -> None:
    longer = CHROMIUM + "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:3\r\n"
    assert verdicts(compare(CHROMIUM, longer))["a=mid:3"].startswith("new: wrong: an answer cannot add an m-line")
    assert verdicts(compare(longer, CHROMIUM))["a=mid:3"].startswith("dropped: wrong: the answer has no such m-line")


def test_lines_at_another_level_are_found() -> None:
    table = check_accounts_for_all_lines(CHROMIUM, FIREFOX)
    reasons = {row[2] for row in table.rows if "fingerprint" in row[0] + row[1]}
    assert "dropped: pc2 writes it for the whole session" in reasons
    assert "new: pc1 writes it in its m-lines" in reasons


@pytest.mark.parametrize("said", DIRECTIONS)
@pytest.mark.parametrize("reply", DIRECTIONS)
def test_directions_follow_rfc_3264(said: str, reply: str) -> None:
    table = compare(f"m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na={said}", f"m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na={reply}")
    allowed = {
        "sendrecv": DIRECTIONS,
        "sendonly": ("recvonly", "inactive"),
        "recvonly": ("sendonly", "inactive"),
        "inactive": ("inactive",),
    }
    (row,) = [row for row in table.rows if row[0] == f"a={said}"]
    assert ("wrong" not in row[2]) == (reply in allowed[said])


@pytest.mark.parametrize(
    ("said", "reply", "why"),
    [
        ("actpass", "passive", "pc2 chose passive, so pc1 is the DTLS client"),
        ("active", "passive", "the mirror: pc1 is the DTLS client"),
        ("passive", "active", "the mirror: pc2 is the DTLS client"),
        ("active", "active", "wrong"),
        ("actpass", "actpass", "wrong"),
    ],
)
def test_roles_in_dtls(said: str, reply: str, why: str) -> None:
    head = "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=setup:"
    assert why in compare(head + said, head + reply).rows[1][2]


def test_the_peers_can_have_other_names() -> None:
    table = compare(CHROMIUM, FIREFOX, names=("Anna", "Ben"))
    assert table.head[:2] == ("offer of Anna", "answer of Ben")
    assert not [row for row in table.rows if re.search(r"\bpc[12]\b", row[2])]


LINES = st.lists(st.sampled_from([*KNOWN_LINES, "a=made-up:1", "a=made-up:2", "nonsense"]), max_size=40)


@settings(max_examples=60)
@given(offered=LINES, answered=LINES)
def test_no_line_is_lost_between_any_two_texts(offered: list[str], answered: list[str]) -> None:
    check_accounts_for_all_lines("\n".join(offered), "\n".join(answered))


@given(lines=LINES)
def test_equal_lines_are_partners_in_any_order(lines: list[str]) -> None:
    assert all(one == other for one, other in pair_lines(lines, lines[::-1]))


# ---- Candidates and priorities ---------------------------------------------------------------------------------------


@given(kind=st.sampled_from(sorted(TYPE_PREFERENCES)), local=st.integers(0, 65535), component=st.integers(1, 255))
def test_a_priority_is_what_aioice_computes_and_comes_apart_again(kind: str, local: int, component: int) -> None:
    number = priority(TYPE_PREFERENCES[kind], local, component)
    assert number == aioice.candidate.candidate_priority(component, kind, local)
    assert split_priority(number) == (TYPE_PREFERENCES[kind], local, component)
    assert eval(split_priority(number).formula) == number


@given(number=st.integers(1, 2**31 - 1))
def test_every_priority_comes_apart(number: int) -> None:
    parts = split_priority(number)
    assert eval(parts.formula) == number
    assert 1 <= parts.component <= 256


@pytest.mark.parametrize("wrong", [(127, 0, 1), (-1, 0, 1), (126, 65536, 1), (126, 0, 0), (126, 0, 257)])
def test_impossible_parts_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"is not in .* \(RFC 8445 section 5.1.2.1\)"):
        priority(*wrong)
    for number in (0, 2**31):
        with pytest.raises(ValueError, match="is not in"):
            split_priority(number)


@given(one=st.integers(1, 2**31 - 1), other=st.integers(1, 2**31 - 1), controlling=st.booleans())
def test_a_pair_has_one_priority_on_both_sides(one: int, other: int, controlling: bool) -> None:
    local, remote = (aioice.Candidate("1", 1, "udp", number, "192.0.2.1", 9, "host") for number in (one, other))
    expected = aioice.ice.candidate_pair_priority(local, remote, controlling)
    assert pair_priority(*((one, other) if controlling else (other, one))) == expected
    assert abs(pair_priority(one, other) - pair_priority(other, one)) == (one != other)


@pytest.mark.parametrize("kind", ["host", "srflx", "prflx", "relay"])
def test_the_priority_of_each_type_is_computed_again(kind: str) -> None:
    number = aioice.candidate.candidate_priority(1, kind)
    line = f"candidate:1 1 udp {number} 192.0.2.1 5000 typ {kind} raddr 10.0.0.1 rport 4000"
    (row,) = candidate_table(line).rows
    assert row[6] == f"equal: {number}"
    assert row[3] == f"{kind}, for 10.0.0.1:4000"


def test_a_real_candidate_is_computed_again(real: Descriptions) -> None:
    table = candidate_table(real["offer"])
    assert [row[6] for row in table.rows] == ["equal: 2130706431"]
    lines = [line for line in real["offer"].splitlines() if line.startswith("a=candidate")]
    assert (f"{len(lines)} lines" in table.note) == (len(lines) > 1)
    assert candidate_table(candidates_in(real["offer"])).rows == table.rows
    assert candidate_table(lines).rows == table.rows
    assert candidate_table(parse_candidates(lines)).rows == table.rows


def test_a_browser_may_choose_its_own_preferences() -> None:
    table = candidate_table(CHROMIUM)
    assert len(table.rows) == 5
    assert [row[4] for row in table.rows] == sorted((row[4] for row in table.rows), key=int, reverse=True)
    said = {row[2]: row[6] for row in table.rows}
    assert said["udp 192.0.2.10:54321"].startswith("equal")
    assert said["udp 203.0.113.5:54321"].startswith("equal")
    assert "type preference 2, recommended is 0" in said["udp 198.51.100.7:60000"]
    assert "type preference 90, recommended is 126" in said["tcp 192.0.2.10:9"]
    shown = table._repr_html_() + repr(table)
    assert "not equal" in shown


def test_a_candidate_that_cannot_be_right_is_shown_as_such() -> None:
    rows = candidate_table(
        "a=candidate:1 2 udp 2130706431 192.0.2.1 5000 typ host\n"
        "a=candidate:2 1 udp 4294967295 192.0.2.2 5000 typ host\n"
        "a=candidate:3 1 udp 2130706431 2001:db8::1 5000 typ odd\n"
    ).rows
    said = {row[0]: row[6] for row in rows}
    assert "made for component 1, not 2" in said["1"]
    assert "is not in 1..2**31 - 1" in said["2"]
    assert said["3"] == "not equal: the type odd is unknown"
    assert {row[2] for row in rows} >= {"udp [2001:db8::1]:5000"}
    assert Recomputed(parse_candidates("candidate:1 300 udp 1 192.0.2.1 5000 typ host")[0]).recommended is None


def test_without_candidates_there_is_an_empty_table() -> None:
    table = candidate_table(without_candidates(CHROMIUM))
    assert table.rows == []
    assert "<table" in table._repr_html_()
    assert "RFC 8445" in repr(table)


@pytest.mark.parametrize("role", ["controlling", "controlled"])
def test_a_pair_of_unequal_candidates_is_computed_again(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("1 1 udp 2130706431 192.0.2.1 5000 typ host", "2 1 udp 1694498815 192.0.2.2 6000 typ srflx")
    sides = [aioice.Candidate.from_sdp(line) for line in lines]
    number = aioice.ice.candidate_pair_priority(*sides, role == "controlling")
    monkeypatch.setattr("lab.ice.check_list", lambda peer: [CheckedPair(*sides, "in-progress", False, number)])
    monkeypatch.setattr("lab.ice.ice_role", lambda peer: role)
    (row,) = pair_table(object()).rows
    assert row[:4] == ("in-progress", "host 192.0.2.1:5000", "srflx 192.0.2.2:6000", str(number))
    assert eval(row[4]) == number
    assert row[5:] == (f"equal: {number}", "")


def test_before_any_check_there_is_no_pair() -> None:
    async def scenario() -> None:
        peer = Peer("pc1", loopback.memory_channel()[0], loopback.Log())
        try:
            assert pair_table(peer).rows == []
            peer.pc.createDataChannel("chat")
            assert "pc1" in pair_table(peer).head[1]
        finally:
            await peer.close()

    run(scenario())

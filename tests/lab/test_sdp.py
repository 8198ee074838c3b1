"""Every line of an SDP: explained, compared, and equal to what the live objects hold."""

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import html
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiortc import RTCPeerConnection, RTCRtpSender
from aiortc.mediastreams import AudioStreamTrack
from aiortc.sdp import candidate_to_sdp
from browsers import CHROMIUM, FIREFOX
from conftest import run
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import sync_playwright

from loopback import NO_SERVERS, Call, LoopbackOnly, Peer, SyntheticSource, without_candidates

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab.sdp import (
    DIRECTIONS,
    Table,
    compare,
    describe_profile,
    edit,
    explain,
    pair_lines,
    payload_types,
    sdp_table,
    sections,
)

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
        return {"offer": offer, "answer": answer}
    finally:
        await call.close()


async def everything() -> Descriptions:
    """Sound, picture and data between two connections without a program around them."""
    one, other = (RTCPeerConnection(NO_SERVERS) for _ in range(2))
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
        ("candidate:1 1 udp 2130706431 2001:db8::1 5000 typ host", "over UDP at [2001:db8::1]:5000"),
        (
            "candidate:1 1 tcp 1 192.0.2.1 9 typ host tcptype active",
            "opens a TCP connection from 192.0.2.1:9, and takes",
        ),
        ("candidate:1 1 tcp 1 192.0.2.1 3478 typ host tcptype passive", "waits for a TCP connection at 192.0.2.1:3478"),
        ("candidate:1 1 udp 1 192.0.2.1 5 typ srflx raddr 0.0.0.0 rport 0", "saw, its own address not told"),
        ("candidate:1 1 udp 1 192.0.2.1 5 typ srflx raddr 10.0.0.1 rport 7", "a STUN server saw for 10.0.0.1:7"),
        ("candidate:1 1 udp 1 10.0.0.1 5 typ host generation 0 network-id 3", "network 3 of its machine"),
        ("candidate:1 1 udp 1 10.0.0.1 5 typ host ufrag aB network-cost 10", "ice-ufrag is aB; that network costs 10"),
        ("candidate:1 1 udp 1 10.0.0.1 5 typ host made-up 7", "made-up 7, unknown here"),
        ("m=video 9 UDP/TLS/RTP/SAVPF 0", "port 9, which holds the place of a port"),
        ("m=application 9 DTLS/SCTP 5000", "SCTP port 5000"),
        ("a=rtpmap:116 red/90000", "a wrapper around packets of the video"),
        ("a=rtpmap:63 red/48000/2", "carries a packet together with earlier ones"),
        ("a=fmtp:49 level-id=93", "level 3.1 of the codec (level-id 93)"),
        ("a=fmtp:49 level-id=120", "level 4 of the codec"),
        ("a=fmtp:45 level-idx=5;mode=L1T2", "level 3.1 of AV1 (level-idx 5); scalability mode L1T2"),
        ("a=fmtp:35 L=5;D=10;ToP=2;repair-window=200000", "repaired twice, by row and by column; repairs packets"),
        ("a=fmtp:97 x-google-min-bitrate=1000", "may not send less than 1000 kbit/s"),
        (
            "a=extmap:5 urn:ietf:params:rtp-hdrext:encrypt urn:ietf:params:rtp-hdrext:sdes:mid",
            "the mid of its m-line, enc",
        ),
        ("a=rtcp-xr:rcvr-rtt=all", "takes longer RTCP reports: the round trip as the receiver sees it"),
        ("a=cryptex", "may be encrypted"),
        ('a=dcmap:2 label="chat"', 'data channel 2 is there from the start: label="chat"'),
        ("a=sctp-init:AQAAHg==", "saves round trips before a data channel opens"),
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


OFFERS = """async () => {
    const pc = new RTCPeerConnection();
    pc.addTransceiver("audio");
    pc.addTransceiver("video", {sendEncodings: [{rid: "q", scaleResolutionDownBy: 2}, {rid: "f"}]});
    pc.createDataChannel("chat");
    await pc.setLocalDescription();
    const first = pc.localDescription.sdp;
    const other = new RTCPeerConnection();
    await other.setRemoteDescription(pc.localDescription);
    await other.setLocalDescription();
    await pc.setRemoteDescription(other.localDescription);
    pc.getTransceivers()[1].stop();
    await pc.setLocalDescription();
    return [first, other.localDescription.sdp, pc.localDescription.sdp];
}"""


def test_every_line_of_this_machines_chromium_is_explained() -> None:
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        offer, answer, second = page.evaluate(OFFERS)
        browser.close()
    for sdp in (offer, answer, second):
        check_explained(sdp)
    check_accounts_for_all_lines(offer, answer)
    assert "port 0: refused" in explain(sections(second)[2].lines[0]).meaning


def test_payload_types_are_numbers_with_their_codec() -> None:
    found = payload_types(CHROMIUM)
    assert (found[111], found[96], found[97]) == ("opus", "VP8", "rtx")
    assert payload_types("m=video 9 RTP 1\na=rtpmap:x VP8/90000") == {}


def test_lines_of_an_m_line_without_its_parts_are_compared() -> None:
    assert compare("m=", "m=").rows == [("m=", "m=", "kept: wrong: such a line has a kind, a port and a protocol")]


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
    own, bundled = "dropped: each side has its own addresses", "dropped: bundled: the first m-line's transport serves"
    for row in (row for title, rows in table.groups for row in rows if row[0].startswith("a=candidate")):
        assert row[2].startswith((own, bundled))
    assert {verdict for verdict in found if verdict.startswith(own)} == {own}
    bundled_lines = sum(verdict.startswith(bundled) for verdict in found)
    assert bundled_lines == sum(line.startswith("a=candidate") for s in sections(real["offer"])[2:] for line in s.lines)


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

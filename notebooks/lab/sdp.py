"""SDP laid open: each line of any description explained, an offer beside its answer, one edit at a time.

sdp_table(sdp)           each line with its meaning and the document that defines it
sdp_table(sdp, peer)     the same, beside the values in that peer's live objects
compare(offer, answer)   each line kept, changed, dropped or new, and why
explain(line)            one line
payload_types(sdp)       the codec behind each payload type
edit(sdp, old, new)      replace one passage, or fail
"""

from __future__ import annotations

from loopback import Peer  # first: it imports cv2 before aiortc  # isort: skip

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from aiortc import RTCPeerConnection, RTCRtpSender, RTCRtpTransceiver
from aiortc.sdp import candidate_to_sdp, parse_h264_profile_level_id

from .draw import AMBER, BLUE, GREEN, RED, Table

TINTS = {"kept": GREEN, "equal": GREEN, "changed": AMBER, "dropped": RED, "differs": RED, "new": BLUE, "wrong": RED}

# ---- Lines and sections ----------------------------------------------------------------------------------------------

Codecs = Mapping[str, str]  # payload type -> codec, as a section's a=rtpmap lines say

DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
FIXED = {"0": "PCMU", "3": "GSM", "8": "PCMA", "9": "G722", "13": "CN"}  # RFC 3551 section 6


def split_line(line: str) -> tuple[str, str]:
    """Return what kind of line it is and its value: "a=mid:0" is ("mid", "0"), "t=0 0" is ("t=", "0 0")."""
    line = re.sub("^candidate:", "a=candidate:", line.strip())
    letter, equals, value = line.partition("=")
    if letter == "a":
        kind, _, value = value.partition(":")
        return kind, value
    return letter + equals, value


class Section(NamedTuple):
    """The session part of a description, or one m-line with what belongs to it."""

    title: str
    lines: list[str]

    def value(self, kind: str) -> str:
        """The value of the first line of that kind, "" when there is none."""
        return next((value for found, value in map(split_line, self.lines) if found == kind), "")

    @property
    def media(self) -> str:
        return self.value("m=").partition(" ")[0]

    @property
    def codecs(self) -> Codecs:
        """The names of its payload types."""
        maps = [value.partition(" ") for kind, value in map(split_line, self.lines) if kind == "rtpmap"]
        return {number: codec.partition("/")[0] for number, _, codec in maps}


def sections(sdp: str) -> list[Section]:
    """Cut a description before each m-line. The first section is the session's."""
    parts: list[list[str]] = [[]]
    for line in filter(str.strip, sdp.splitlines()):
        if line.startswith("m="):
            parts.append([])
        parts[-1].append(line.strip())
    found = [Section("session", parts[0])]
    for number, lines in enumerate(parts[1:]):
        part = Section("", lines)
        mid = part.value("mid")
        found.append(part._replace(title=f"m-line {number}: {part.media}" + (f", mid {mid}" if mid else "")))
    return found


def payload_types(sdp: str) -> dict[int, str]:
    """Return the codec behind each payload type of all m-lines: {97: "VP8", 98: "rtx"}."""
    named = [(number, codec) for part in sections(sdp) for number, codec in part.codecs.items()]
    return {int(number): codec for number, codec in named if re.fullmatch("[0-9]{1,3}", number)}


def edit(sdp: str, old: str, new: str) -> str:
    """Return the description with the first `old` replaced by `new`. Raises ValueError when `old` is not there."""
    if not old or old not in sdp:
        raise ValueError(f"{old!r} is not in this description")
    return sdp.replace(old, new, 1)


# ---- What a line means -----------------------------------------------------------------------------------------------
#
# A rule is a name, the form of the value, a sentence that is filled from the value's parts, and the document. Where a
# sentence depends on the parts it is a function of them and of the section's codecs.


@dataclass(frozen=True)
class Explanation:
    """What a line is called, what its values say, and where that is written."""

    name: str
    meaning: str
    source: str
    known: bool = True

    def __repr__(self) -> str:
        return f"{self.name}: {self.meaning} ({self.source})"


Parts = dict[str, str]
Sentence = str | Callable[[Parts, Codecs], str]


class Rule(NamedTuple):
    """How lines of one kind are explained."""

    name: str
    form: str  # regular expression of the whole value
    sentence: Sentence
    source: str


def format_name(number: str, codecs: Codecs) -> str:
    """Return a payload type with its codec, as far as that is known: "97 (VP8)"."""
    codec = codecs.get(number) or FIXED.get(number)
    return f"{number} ({codec})" if codec else number


PROTOCOLS = {
    "UDP/TLS/RTP/SAVPF": "RTP over UDP, encrypted with keys from a DTLS handshake, with feedback at once (RFC 5764)",
    "TCP/TLS/RTP/SAVPF": "RTP over TCP, encrypted with keys from a DTLS handshake, with feedback at once (RFC 7850)",
    "RTP/SAVPF": "encrypted RTP with feedback at once (RFC 5124)",
    "RTP/AVP": "RTP that is not encrypted (RFC 3551)",
    "UDP/DTLS/SCTP": "data channels: SCTP inside DTLS over UDP (RFC 8841)",
    "TCP/DTLS/SCTP": "data channels: SCTP inside DTLS over TCP (RFC 8841)",
    "DTLS/SCTP": "data channels: SCTP inside DTLS, in the words of an old draft of RFC 8841",
}


def _media(parts: Parts, codecs: Codecs) -> str:
    port, formats = parts["port"], parts["formats"].split()
    ports = {
        "0": "port 0: refused, or without a transport of its own",
        "9": "port 9, which holds the place of a port: ICE candidates say the real ones",
    }
    where = ports.get(port, f"port {port}")
    what = PROTOCOLS.get(parts["protocol"], f"by the protocol {parts['protocol']}")
    listed = ", ".join(format_name(number, codecs) for number in formats)
    are = "payload types, the preferred first:" if "RTP/" in parts["protocol"] else "format"
    are = "SCTP port" if parts["protocol"] == "DTLS/SCTP" else are
    return f"an m-line for {parts['media']} on {where}; {what}; {are} {listed}"


def _origin(parts: Parts, codecs: Codecs) -> str:
    user = "a user that is not named" if parts["user"] == "-" else f"the user {parts['user']}"
    return (
        f"made by {user}: session {parts['session']}, its version {parts['version']}; "
        f"the address {parts['address']} is a formality"
    )


def _connection(parts: Parts, codecs: Codecs) -> str:
    address = parts["address"]
    if address in ("0.0.0.0", "::"):
        return f"{address} holds the place of an address: ICE candidates say the real ones"
    return f"the default address is {address}; a peer with ICE goes by the candidates instead"


def _group(parts: Parts, codecs: Codecs) -> str:
    mids = parts["mids"].split()
    if parts["semantics"] == "BUNDLE":
        if len(mids) < 2:
            return f"only the m-line {parts['mids'].strip() or '(none)'} is in the group that shares one transport"
        return f"the m-lines {', '.join(mids)} share one transport, that of {mids[0]} (one ICE, one DTLS, one UDP port)"
    if parts["semantics"] == "LS":
        return f"the m-lines {', '.join(mids)} are to be played in step (lip synchronisation)"
    return f"the m-lines {', '.join(mids)} belong together as {parts['semantics']}"


def _rtpmap(parts: Parts, codecs: Codecs) -> str:
    clock = int(parts["clock"]) / 1000
    channels = int(parts["channels"] or 1)
    more = f" and {channels} channels" if channels > 1 else ""
    special = {
        "rtx": ", which carries packets that are sent again (RFC 4588)",
        "red": ", which carries a packet together with earlier ones (RFC 2198)"
        if clock < 90
        else ", a wrapper around packets of the video and of the data to rebuild them (RFC 2198; RFC 5109 section 14)",
        "ulpfec": ", which carries data to rebuild lost packets (RFC 5109)",
        "flexfec": ", which carries data to rebuild lost packets (RFC 8627)",
        "flexfec-03": ", which carries data to rebuild lost packets (a draft of RFC 8627)",
        "telephone-event": ", which carries the tones of a telephone's keys (RFC 4733)",
        "CN": ", comfort noise for silence (RFC 3389)",
    }.get(parts["codec"], "")
    article = "an" if clock == 8 else "a"
    return f"payload type {parts['type']} is {parts['codec']} with {article} {clock:g} kHz clock{more}{special}"


FEEDBACK = {
    "nack": ("ask by number for packets that were lost (generic NACK)", "RFC 4585 section 6.2.1"),
    "nack pli": ("ask for a picture that needs no earlier one, after a loss (PLI)", "RFC 4585 section 6.3.1"),
    "nack sli": ("name the part of a picture that was lost (SLI)", "RFC 4585 section 6.3.2"),
    "nack rpsi": ("name a picture that arrived, to predict from (RPSI)", "RFC 4585 section 6.3.3"),
    "ccm fir": ("order a picture that needs no earlier one (FIR)", "RFC 5104 section 4.3.1"),
    "ccm tmmbr": ("ask the sender to stay below a bit rate (TMMBR)", "RFC 5104 section 4.2.1"),
    "goog-remb": ("tell the bit rate it believes it can receive (REMB)", "draft-alvestrand-rmcat-remb-03"),
    "transport-cc": (
        "tell when each packet arrived, for the sender to find the bit rate",
        "draft-holmer-rmcat-transport-wide-cc-extensions-01",
    ),
    "ack ccfb": ("tell when each packet arrived, for the sender to find the bit rate", "RFC 8888 section 6"),
    "rrtr": ("report its clock, to measure the round trip from the receiving side", "RFC 3611 section 4.4"),
}


def _feedback(parts: Parts, codecs: Codecs) -> str:
    number = parts["type"]
    which = "any payload type" if number == "*" else f"payload type {format_name(number, codecs)}"
    ask, _ = FEEDBACK.get(parts["feedback"], (f"send the feedback {parts['feedback']}, which is unknown here", ""))
    return f"whoever receives {which} may {ask}"


def _feedback_source(value: str) -> str:
    _, source = FEEDBACK.get(value.partition(" ")[2].strip(), ("", ""))
    if source.startswith("RFC 4585 section "):
        return f"RFC 4585 sections 4.2 and {source.removeprefix('RFC 4585 section ')}"
    return "; ".join(filter(None, ["RFC 4585 section 4.2", source]))


# Parameters of a=fmtp: name -> (what a value says, document). A dictionary stands for values that have names.
PARAMETERS: dict[str, tuple[str | dict[str, str], str]] = {
    "apt": ("carries packets of payload type {} again", "RFC 4588 section 8.1"),
    "rtx-time": ("the sender keeps packets for {} ms to send them again", "RFC 4588 section 8.1"),
    "level-asymmetry-allowed": (
        {"1": "each direction may have its own level", "0": "both directions have the same level"},
        "RFC 6184 section 8.1",
    ),
    "packetization-mode": (
        {
            "0": "each packet is one whole NAL unit (mode 0)",
            "1": "a NAL unit may be cut into several packets (mode 1)",
            "2": "packets may come in another order than they are decoded (mode 2)",
        },
        "RFC 6184 section 8.1",
    ),
    "profile-level-id": ("{}", "RFC 6184 section 8.1"),
    "sprop-parameter-sets": ("the decoder's settings are {}", "RFC 6184 section 8.1"),
    "max-br": ("at most {} thousand bits a second", "RFC 6184 section 8.1"),
    "max-mbps": ("at most {} macroblocks a second", "RFC 6184 section 8.1"),
    "max-smbps": ("at most {} static macroblocks a second", "RFC 6184 section 8.1"),
    "max-cpb": ("a coded picture buffer of {}", "RFC 6184 section 8.1"),
    "max-dpb": ("a decoded picture buffer of {}", "RFC 6184 section 8.1"),
    "max-fs": (
        "pictures of at most {} macroblocks (16 x 16 pixels)",
        "VP8: RFC 7741 section 6.1; VP9: RFC 9628 section 6; H264: RFC 6184 section 8.1",
    ),
    "max-fr": ("at most {} pictures a second", "VP8: RFC 7741 section 6.1; VP9: RFC 9628 section 6"),
    "profile-id": ("profile {} of the codec", "VP9: RFC 9628 section 6; H265: RFC 7798 section 7.1"),
    "level-id": ("level {} of the codec", "RFC 7798 section 7.1"),
    "tier-flag": ("tier {} of the codec", "RFC 7798 section 7.1"),
    "tx-mode": ("packets by mode {}", "RFC 7798 section 7.1"),
    "level-idx": ("level index {} of AV1", "AV1 RTP payload format section 7.2"),
    "mode": ("scalability mode {} of AV1", "drafts of the AV1 RTP payload format"),
    "profile": ("profile {} of AV1", "AV1 RTP payload format section 7.2"),
    "tier": ("tier {} of AV1", "AV1 RTP payload format section 7.2"),
    "minptime": ("wants packets of at least {} ms of sound", "RFC 7587 section 6.1"),
    "maxptime": ("wants packets of at most {} ms of sound", "RFC 7587 section 6.1"),
    "ptime": ("would like packets of {} ms of sound", "RFC 7587 section 6.1"),
    "useinbandfec": (
        {
            "1": "can use repair data inside the sound packets (in-band FEC)",
            "0": "cannot use repair data inside the sound packets (in-band FEC)",
        },
        "RFC 7587 section 6.1",
    ),
    "usedtx": (
        {"1": "wants almost nothing sent during silence (DTX)", "0": "wants silence sent as sound (no DTX)"},
        "RFC 7587 section 6.1",
    ),
    "stereo": ({"1": "would like stereo", "0": "would like mono"}, "RFC 7587 section 6.1"),
    "sprop-stereo": ({"1": "is likely to send stereo", "0": "is likely to send mono"}, "RFC 7587 section 6.1"),
    "cbr": ({"1": "wants a constant bit rate", "0": "takes a variable bit rate"}, "RFC 7587 section 6.1"),
    "maxplaybackrate": ("can play at most {} samples a second", "RFC 7587 section 6.1"),
    "sprop-maxcapturerate": ("is likely to send at most {} samples a second", "RFC 7587 section 6.1"),
    "maxaveragebitrate": ("wants at most {} bits a second on average", "RFC 7587 section 6.1"),
    "repair-window": ("repairs packets that are at most {} microseconds old", "RFC 8627 section 5.1"),
    "L": ("{} columns in a block of packets that is repaired", "RFC 8627 section 5.1"),
    "D": ("{} rows in a block of packets that is repaired", "RFC 8627 section 5.1"),
    "ToP": (
        {
            "0": "packets far from each other are repaired together (interleaved)",
            "1": "packets next to each other are repaired together (not interleaved)",
            "2": "each packet is repaired twice, by row and by column",
        },
        "RFC 8627 section 5.1",
    ),
    "x-google-min-bitrate": ("Chromium may not send less than {} kbit/s", "webrtc.org, no RFC"),
    "x-google-start-bitrate": ("Chromium begins to send with {} kbit/s", "webrtc.org, no RFC"),
    "x-google-max-bitrate": ("Chromium may not send more than {} kbit/s", "webrtc.org, no RFC"),
}


def describe_profile(level_id: str) -> str:
    """Return what an H264 profile-level-id says: six hex digits, two each for profile, constraints and level."""
    try:
        profile, level = parse_h264_profile_level_id(level_id)
    except ValueError:
        return f"profile-level-id {level_id}, a profile or level that aiortc does not know"
    name = profile.name.removeprefix("PROFILE_").replace("_", " ").title()
    number = level.name.removeprefix("LEVEL").replace("_", ".").replace("1.B", "1b")
    return f"{name} profile, level {number} ({level_id})"


def _parameter(text: str, codecs: Codecs) -> str:
    name, equals, value = text.strip().partition("=")
    if name == "profile-level-id":
        return describe_profile(value)
    if name == "level-id" and value.isdecimal() and value.isascii():  # RFC 7798: thirty times the level
        return f"level {int(value[:4]) / 30:.2g} of the codec (level-id {value})"
    if name == "level-idx" and re.fullmatch("[0-9]|1[0-9]|2[0-3]", value):  # AV1, annex A.3
        return f"level {2 + int(value) // 4}.{int(value) % 4} of AV1 (level-idx {value})"
    said, _ = PARAMETERS.get(name, ("", ""))
    if not equals or not said:
        return f"{text.strip()} (unknown here: a reader that does not know it ignores it)"
    if isinstance(said, dict):
        return said.get(value, f"{name} is {value}, which has no meaning")
    return said.format(format_name(value, codecs) if name == "apt" else value)


def _format_parameters(parts: Parts, codecs: Codecs) -> str:
    number, text = parts["type"], parts["parameters"]
    about = f"payload type {format_name(number, codecs)}"
    if re.fullmatch(r"\d+(/\d+)+", text):
        carried = [format_name(one, codecs) for one in dict.fromkeys(text.split("/"))]
        return f"{about} carries {', '.join(carried)}, up to {len(text.split('/'))} packets together"
    if re.fullmatch(r"[\d,-]+", text):
        return f"{about} knows the telephone keys (events) {text}"
    return f"{about}: {'; '.join(_parameter(one, codecs) for one in text.split(';') if one.strip())}"


def _parameters_source(value: str) -> str:
    text = value.partition(" ")[2].strip()
    sources = ["RFC 8866 section 6.15"]
    if re.fullmatch(r"\d+(/\d+)+", text):
        sources.append("RFC 2198 section 5")
    elif re.fullmatch(r"[\d,-]+", text):
        sources.append("RFC 4733 section 2.4.1")
    names = (one.strip().partition("=")[0] for one in text.split(";"))
    return "; ".join(dict.fromkeys([*sources, *(PARAMETERS[name][1] for name in names if name in PARAMETERS)]))


HDREXT, GOOGLE = "urn:ietf:params:rtp-hdrext:", "http://www.webrtc.org/experiments/rtp-hdrext/"
ENCRYPT = f"{HDREXT}encrypt"
EXTENSIONS = {
    f"{HDREXT}sdes:mid": ("the mid of its m-line", "RFC 9143 section 15"),
    f"{HDREXT}sdes:rtp-stream-id": ("the rid of its stream", "RFC 8852 section 3"),
    f"{HDREXT}sdes:repaired-rtp-stream-id": ("the rid of the stream it repairs", "RFC 8852 section 3"),
    f"{HDREXT}ssrc-audio-level": ("how loud its sound is", "RFC 6464"),
    f"{HDREXT}csrc-audio-level": ("how loud each mixed voice is", "RFC 6465"),
    f"{HDREXT}toffset": ("how late it was sent after its time stamp", "RFC 5450"),
    f"{HDREXT}framemarking": ("what part of which frame it is", "RFC 9626"),
    "urn:3gpp:video-orientation": ("how the camera is turned", "3GPP TS 26.114"),
    f"{GOOGLE}abs-send-time": ("the time it was sent", "webrtc.org, no RFC"),
    f"{GOOGLE}abs-capture-time": ("the time its picture or sound was captured", "webrtc.org, no RFC"),
    f"{GOOGLE}playout-delay": ("how long it may wait before it is shown", "webrtc.org, no RFC"),
    f"{GOOGLE}video-content-type": ("whether it shows a camera or a screen", "webrtc.org, no RFC"),
    f"{GOOGLE}video-timing": ("how long encoding and packing took", "webrtc.org, no RFC"),
    f"{GOOGLE}color-space": ("the colour space of the picture", "webrtc.org, no RFC"),
    f"{GOOGLE}corruption-detection": ("samples of the picture, to detect damage", "webrtc.org, no RFC"),
    f"{GOOGLE}video-layers-allocation00": ("the layers that are sent", "webrtc.org, no RFC"),
    f"{GOOGLE}video-frame-tracking-id": ("the number of its frame", "webrtc.org, no RFC"),
    f"{GOOGLE}generic-frame-descriptor-00": ("which frames its frame needs", "webrtc.org, no RFC"),
    f"{GOOGLE}transport-wide-cc-02": (
        "a number that counts across all streams",
        "draft-holmer-rmcat-transport-wide-cc-extensions-01",
    ),
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01": (
        "a number that counts across all streams",
        "draft-holmer-rmcat-transport-wide-cc-extensions-01",
    ),
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension": (
        "which frames its frame needs",
        "AV1 RTP payload format appendix A",
    ),
}


def _msid(parts: Parts, codecs: Codecs) -> str:
    stream = "the track belongs to no stream" if parts["stream"] == "-" else f"the stream is {parts['stream']}"
    return f"{stream}; its sender calls the track {parts['track']}" if parts["track"] else stream


def _extension(parts: Parts, codecs: Codecs) -> str:
    uri = parts["inner"] or parts["uri"]
    meaning, _ = EXTENSIONS.get(uri, (f"what {uri} names, which is unknown here", ""))
    meaning += ", encrypted" if parts["inner"] else ""
    way = {"sendonly": " that it sends", "recvonly": " that it receives", "inactive": " (not used)"}
    return f"an RTP packet{way.get(parts['way'] or '', '')} may carry, as extension {parts['id']}, {meaning}"


def _extension_source(value: str) -> str:
    words = re.split(r"\s+", value.strip())
    encrypted = words[1:2] == [ENCRYPT]
    _, source = EXTENSIONS.get("".join(words[2:3] if encrypted else words[1:2]), ("", ""))
    return "; ".join(filter(None, ["RFC 8285 section 5", "RFC 6904 section 4" if encrypted else "", source]))


def join_address(address: str, port: str) -> str:
    """Return address and port as one text; an IPv6 address stands in brackets, for it has colons of its own."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


# What stands behind a candidate's type: name -> what a value says. RFC 8839 lets anybody add pairs of a name and a
# value; the last four are Chromium's.
TAIL = {
    "raddr": "",  # said with the type
    "rport": "",
    "tcptype": "",  # said with the transport
    "ufrag": "of the description whose ice-ufrag is {}",
    "generation": "ICE restarts before it: {}",
    "network-id": "network {} of its machine",
    "network-cost": "that network costs {} (0 is the best, 900 is mobile)",
}
TCP = {
    "active": "opens a TCP connection from {}, and takes none (port 9 holds the place of a port)",
    "passive": "waits for a TCP connection at {}",
    "so": "opens a TCP connection from {} at the moment the other side opens its own",
}


def _candidate(parts: Parts, codecs: Codecs) -> str:
    words = parts["more"].split()
    tail = dict(zip(words[::2], words[1::2], strict=False))
    address = join_address(parts["address"], parts["port"])
    hidden = tail.get("raddr", "") in ("0.0.0.0", "::")
    base = f" for {join_address(tail['raddr'], tail.get('rport', '?'))}" if "raddr" in tail and not hidden else ""
    base = ", its own address not told" if hidden else base
    kind = {
        "host": "an address of the peer's own machine (host)",
        "srflx": f"the address a STUN server saw{base} (server-reflexive)",
        "prflx": f"the address the other peer saw{base} (peer-reflexive)",
        "relay": f"an address lent by a TURN server{base} (relay)",
    }.get(parts["type"], f"of the unknown type {parts['type']}")
    if parts["address"].endswith(".local"):
        kind += ", hidden behind a name that only the local network can look up (mDNS)"
    how = TCP.get(tail.get("tcptype", ""), f"can be reached over {parts['transport'].upper()} at {{}}").format(address)
    component = {"1": "RTP, and RTCP with it", "2": "RTCP"}.get(parts["component"], "unknown")
    said = [f"{how}, {kind}", f"component {parts['component']} ({component})", f"priority {parts['priority']}"]
    said.append(f"foundation {parts['foundation']}")
    said += [TAIL.get(name, f"{name} {{}}, unknown here").format(value) for name, value in tail.items()]
    return "; ".join(filter(None, said))


def _candidate_source(value: str) -> str:
    words = value.split()[8:]
    sources = ["RFC 8839 section 5.1"]
    sources += ["RFC 6544 section 4.5"] if "tcptype" in words else []
    sources += ["webrtc.org, no RFC"] if {"generation", "network-id", "network-cost", "ufrag"} & {*words} else []
    return "; ".join(sources)


EXTENDED_REPORTS = {
    "rcvr-rtt": "the round trip as the receiver sees it",
    "stat-summary": "a summary of losses and delays",
    "voip-metrics": "how a voice call sounds",
    "pkt-loss-rle": "which packets were lost",
    "pkt-dup-rle": "which packets came twice",
    "pkt-rcpt-times": "when each packet came",
}


def _extended_reports(parts: Parts, codecs: Codecs) -> str:
    formats = re.split(r"\s+", parts["formats"].strip())
    said = [EXTENDED_REPORTS.get(re.split("[=:]", one)[0], f"{one}, which is unknown here") for one in formats]
    return f"takes longer RTCP reports: {'; '.join(said)}"


OPTIONS = {
    "trickle": "candidates may follow later, one by one",
    "renomination": "the chosen pair may be changed (Chromium's own)",
    "ice2": "it follows RFC 8445, not the older RFC 5245",
    "rtp+ecn": "it can mark RTP for congestion (RFC 6679)",
}


def _options(parts: Parts, codecs: Codecs) -> str:
    return "; ".join(OPTIONS.get(one, f"{one}, which is unknown here") for one in parts["options"].split())


SETUP = {
    "actpass": "in DTLS this side takes either role, the other is to choose",
    "active": "this side starts the DTLS handshake: it is the DTLS client",
    "passive": "this side waits for the DTLS handshake: it is the DTLS server",
    "holdconn": "no DTLS handshake for the time being",
}

SSRC = {
    "cname": "come from the source whose lasting name (CNAME) is {}",
    "msid": "belong to the stream and track {}",
    "mslabel": "belong to the stream {}; an old form of msid",
    "label": "belong to the track {}; an old form of msid",
}
SSRC_GROUPS = {
    "FID": "SSRC {0} carries the media, {1} the packets of it that are sent again",
    "SIM": "the SSRCs {all} carry one picture in several sizes",
    "FEC": "SSRC {0} carries the media, {1} data to repair it",
    "FEC-FR": "SSRC {0} carries the media, {1} data to repair it",
}


def _source_group(parts: Parts, codecs: Codecs) -> str:
    numbers = parts["numbers"].split()
    said = SSRC_GROUPS.get(parts["semantics"], "")
    if not said or len(numbers) < 2:
        return f"the SSRCs {', '.join(numbers)} belong together as {parts['semantics']}"
    return said.format(*numbers, all=", ".join(numbers))


def _rtcp(parts: Parts, codecs: Codecs) -> str:
    if parts["port"] == "9":
        return "port 9 holds the place of a port for RTCP: none of its own is needed"
    return f"RTCP would come to port {parts['port']}, if it were not sent with RTP"


def _simulcast(parts: Parts, codecs: Codecs) -> str:
    said = []
    for way, rids in re.findall(r"(send|recv) (\S+)", parts["streams"]):
        several = rids.replace(";", ", ").replace("~", "paused ")
        said.append(f"{'sends' if way == 'send' else 'takes'} one picture as several streams: {several}")
    return "; ".join(said)


BANDWIDTH = {
    "AS": "at most {} thousand bits a second, headers included",
    "TIAS": "at most {} bits a second, without headers",
    "CT": "at most {} thousand bits a second for the whole conference",
    "RR": "{} bits a second for the RTCP of receivers",
    "RS": "{} bits a second for the RTCP of senders",
}
IDENTIFIER, NUMBER, ANY = r"\S+", r"\d+", r".+"

RULES = {
    "v=": Rule("version", "0", "the version of SDP; there is no other than 0", "RFC 8866 section 5.1"),
    "o=": Rule(
        "origin",
        r"(?P<user>\S+) (?P<session>\S+) (?P<version>\S+) IN IP[46] (?P<address>\S+)",
        _origin,
        "RFC 8866 section 5.2",
    ),
    "s=": Rule(
        "session name",
        r"(?P<name>.*)",
        lambda parts, _: "no name" if parts["name"] in ("-", " ", "") else f"the session is called {parts['name']}",
        "RFC 8866 section 5.3",
    ),
    "i=": Rule("information", f"(?P<text>{ANY})", "for people to read: {text}", "RFC 8866 section 5.4"),
    "u=": Rule("URI", f"(?P<uri>{ANY})", "more about the session is at {uri}", "RFC 8866 section 5.5"),
    "e=": Rule("e-mail address", f"(?P<who>{ANY})", "whom to write to: {who}", "RFC 8866 section 5.6"),
    "p=": Rule("telephone number", f"(?P<who>{ANY})", "whom to call: {who}", "RFC 8866 section 5.6"),
    "c=": Rule("connection data", r"IN IP[46] (?P<address>\S+)", _connection, "RFC 8866 section 5.7"),
    "b=": Rule(
        "bandwidth",
        r"(?P<kind>[\w-]+):(?P<value>\d+)",
        lambda parts, _: BANDWIDTH.get(parts["kind"], "{} of the unknown kind " + parts["kind"]).format(parts["value"]),
        "RFC 8866 section 5.8; TIAS: RFC 3890 section 6.2",
    ),
    "t=": Rule(
        "time active",
        r"(?P<start>\d+) (?P<stop>\d+)",
        lambda parts, _: (
            "no planned start or end"
            if parts["start"] == parts["stop"] == "0"
            else f"from {parts['start']} to {parts['stop']} (seconds since 1900)"
        ),
        "RFC 8866 section 5.9",
    ),
    "r=": Rule("repeat times", f"(?P<times>{ANY})", "the session comes again: {times}", "RFC 8866 section 5.10"),
    "z=": Rule("time zones", f"(?P<zones>{ANY})", "the clock is changed: {zones}", "RFC 8866 section 5.11"),
    "k=": Rule("key", f"(?P<key>{ANY})", "a key in clear text, obsolete: not to be used", "RFC 8866 section 5.12"),
    "m=": Rule(
        "media description",
        r"(?P<media>\S+) (?P<port>\d+)(/\d+)? (?P<protocol>\S+) (?P<formats>.+)",
        _media,
        "RFC 8866 section 5.14",
    ),
    "group": Rule(
        "group", r"(?P<semantics>\S+)(?P<mids>( \S+)*)", _group, "RFC 5888 section 5; BUNDLE: RFC 9143 section 5"
    ),
    "bundle-only": Rule("bundle-only", "", "to be used only inside a BUNDLE group, else refused", "RFC 9143 section 6"),
    "msid-semantic": Rule(
        "msid-semantic",
        r" ?(?P<semantics>\S+)(?P<streams>( \S+)*)",
        lambda parts, _: (
            f"a=msid lines name {'any stream' if parts['streams'].strip() in ('', '*') else parts['streams'].strip()} "
            f"in the sense of {parts['semantics']} (WebRTC media streams)"
        ),
        "drafts of RFC 8830 (draft-ietf-mmusic-msid), not the RFC",
    ),
    "msid": Rule(
        "media stream identifier",
        r"(?P<stream>\S+)(?: (?P<track>\S+))?",
        _msid,
        "RFC 8830 section 2",
    ),
    "extmap": Rule(
        "header extension",
        rf"(?P<id>\d+)(?:/(?P<way>\w+))? (?:{re.escape(ENCRYPT)} (?P<inner>\S+)|(?P<uri>\S+))(?: .*)?",
        _extension,
        "RFC 8285 section 5",
    ),
    "extmap-allow-mixed": Rule(
        "extmap-allow-mixed",
        "",
        "short and long header extensions may be mixed in one RTP stream",
        "RFC 8285 section 6",
    ),
    "ice-ufrag": Rule(
        "ICE name",
        f"(?P<ufrag>{IDENTIFIER})",
        "{ufrag} names this side in ICE's test datagrams (STUN USERNAME)",
        "RFC 8839 section 5.4",
    ),
    "ice-pwd": Rule(
        "ICE password",
        f"(?P<pwd>{IDENTIFIER})",
        "the key that signs the test datagrams sent to this side; it encrypts nothing",
        "RFC 8839 section 5.4",
    ),
    "ice-options": Rule("ICE options", f"(?P<options>{ANY})", _options, "RFC 8839 section 5.6; trickle: RFC 8840"),
    "ice-lite": Rule(
        "ICE lite", "", "this side only answers checks, as a server with a public address", "RFC 8839 section 5.3"
    ),
    "ice-mismatch": Rule(
        "ICE mismatch", "", "the default address was not among the candidates: no ICE", "RFC 8839 section 5.3"
    ),
    "ice-pacing": Rule(
        "ICE pacing", f"(?P<ms>{NUMBER})", "at least {ms} ms between two checks", "RFC 8839 section 5.5"
    ),
    "remote-candidates": Rule(
        "remote candidates", f"(?P<list>{ANY})", "the other side's chosen candidates: {list}", "RFC 8839 section 5.2"
    ),
    "candidate": Rule(
        "candidate",
        r"(?P<foundation>\S+) (?P<component>\d+) (?P<transport>\S+) (?P<priority>\d+) (?P<address>\S+) (?P<port>\d+) "
        r"typ (?P<type>\S+)(?P<more>.*)",
        _candidate,
        "RFC 8839 section 5.1",
    ),
    "end-of-candidates": Rule(
        "end of candidates", "", "these were all candidates: none will follow", "RFC 8840 section 8"
    ),
    "fingerprint": Rule(
        "fingerprint",
        r"(?P<hash>\S+) (?P<value>[0-9A-Fa-f:]+)",
        "the certificate this side will show in the DTLS handshake has this {hash} hash",
        "RFC 8122 section 5",
    ),
    "setup": Rule(
        "DTLS role",
        f"(?P<role>{'|'.join(SETUP)})",
        lambda parts, _: SETUP[parts["role"]],
        "RFC 4145 section 4; RFC 8842 section 5",
    ),
    "tls-id": Rule(
        "DTLS association",
        f"(?P<id>{IDENTIFIER})",
        "names this DTLS association; another name would ask for a new one",
        "RFC 8842 section 4",
    ),
    "identity": Rule("identity", f"(?P<text>{ANY})", "who vouches for the fingerprints", "RFC 8827 section 5"),
    "crypto": Rule(
        "SRTP key in clear",
        f"(?P<key>{ANY})",
        "a key in the SDP itself: forbidden in WebRTC",
        "RFC 4568; RFC 9429 section 5.2.1",
    ),
    "mid": Rule("m-line name", f"(?P<mid>{IDENTIFIER})", "this m-line is called {mid}", "RFC 5888 section 4"),
    "sendrecv": Rule("direction", "", "this side would send and receive", "RFC 8866 section 6.7.2"),
    "sendonly": Rule("direction", "", "this side would send, not receive", "RFC 8866 section 6.7.3"),
    "recvonly": Rule("direction", "", "this side would receive, not send", "RFC 8866 section 6.7.1"),
    "inactive": Rule("direction", "", "this side would neither send nor receive", "RFC 8866 section 6.7.4"),
    "rtcp": Rule("RTCP port", r"(?P<port>\d+)(?: IN IP[46] (?P<address>\S+))?", _rtcp, "RFC 3605 section 2.1"),
    "rtcp-mux": Rule("RTCP with RTP", "", "RTP and RTCP may share one port", "RFC 5761 section 5.1.1"),
    "rtcp-mux-only": Rule("RTCP only with RTP", "", "RTP and RTCP share one port, or nothing", "RFC 8858 section 3"),
    "rtcp-rsize": Rule("short RTCP", "", "RTCP feedback may come without a full report", "RFC 5506 section 5"),
    "rtpmap": Rule(
        "codec",
        r"(?P<type>\d+) (?P<codec>[^/\s]+)/(?P<clock>\d{1,9})(?:/(?P<channels>\d{1,3}))?",
        _rtpmap,
        "RFC 8866 section 6.6",
    ),
    "fmtp": Rule("codec parameters", r"(?P<type>\S+) (?P<parameters>.+)", _format_parameters, "RFC 8866 section 6.15"),
    "rtcp-fb": Rule("RTCP feedback", r"(?P<type>\d+|\*) (?P<feedback>.+)", _feedback, "RFC 4585 section 4.2"),
    "ssrc": Rule(
        "SSRC",
        r"(?P<number>\d+) (?P<attribute>[\w-]+)(?::(?P<value>.*))?",
        lambda parts, _: (
            f"packets with the SSRC {parts['number']} "
            + SSRC.get(parts["attribute"], f"have {parts['attribute']} {{}}").format((parts["value"] or "").strip())
        ),
        "RFC 5576 section 4.1; cname: section 6.1",
    ),
    "ssrc-group": Rule("SSRC group", r"(?P<semantics>\S+) (?P<numbers>[\d ]+)", _source_group, "RFC 5576 section 4.2"),
    "rtcp-xr": Rule("extended reports", f"(?P<formats>{ANY})", _extended_reports, "RFC 3611 section 5"),
    "cryptex": Rule(
        "cryptex", "", "header extensions of RTP packets may be encrypted, all together", "RFC 9335 section 4"
    ),
    "dcmap": Rule(
        "data channel",
        r"(?P<id>\d+)(?: (?P<options>.+))?",
        lambda parts, _: f"data channel {parts['id']} is there from the start: {parts['options'] or 'no options'}",
        "RFC 8864 section 5.1",
    ),
    "dcsa": Rule(
        "attribute of a data channel",
        r"(?P<id>\d+) (?P<line>.+)",
        "for the data channel {id}: {line}",
        "RFC 8864 section 5.2",
    ),
    "sctp-init": Rule(
        "SCTP's first message",
        f"(?P<chunk>{IDENTIFIER})",
        "what SCTP would say first (INIT), in base64: it saves round trips before a data channel opens",
        "draft-hancke-tsvwg-snap-00",
    ),
    "sctp-port": Rule("SCTP port", f"(?P<port>{NUMBER})", "SCTP port {port}, inside DTLS", "RFC 8841 section 5"),
    "max-message-size": Rule(
        "largest message",
        f"(?P<size>{NUMBER})",
        lambda parts, _: (
            "takes data channel messages of any size"
            if parts["size"] == "0"
            else f"takes data channel messages of at most {parts['size']} bytes"
        ),
        "RFC 8841 section 6",
    ),
    "sctpmap": Rule(
        "SCTP map",
        r"(?P<port>\d+) (?P<app>\S+)(?: (?P<streams>\d+))?",
        lambda parts, _: (
            f"SCTP port {parts['port']} is for {parts['app']}"
            + (f", with {parts['streams']} streams" if parts["streams"] else "")
        ),
        "drafts of RFC 8841 (draft-ietf-mmusic-sctp-sdp); the RFC has a=sctp-port",
    ),
    "rid": Rule(
        "stream of a simulcast",
        r"(?P<rid>\S+) (?P<way>send|recv)(?: (?P<limits>.+))?",
        lambda parts, _: (
            f"the stream called {parts['rid']} is for {'sending' if parts['way'] == 'send' else 'receiving'}"
            + (f", within {parts['limits']}" if parts["limits"] else "")
        ),
        "RFC 8851 section 4",
    ),
    "simulcast": Rule("simulcast", r" ?(?P<streams>(send|recv) .+)", _simulcast, "RFC 8853 section 5.1"),
    "ptime": Rule("packet time", r"(?P<ms>[\d.]+)", "would like packets of {ms} ms", "RFC 8866 section 6.4"),
    "maxptime": Rule("longest packet", r"(?P<ms>[\d.]+)", "packets of at most {ms} ms", "RFC 8866 section 6.5"),
    "framerate": Rule("frame rate", r"(?P<rate>[\d.]+)", "at most {rate} pictures a second", "RFC 8866 section 6.13"),
    "imageattr": Rule(
        "picture sizes",
        r"(?P<type>\S+) (?P<sizes>.+)",
        lambda parts, codecs: f"payload type {format_name(parts['type'], codecs)} has the sizes {parts['sizes']}",
        "RFC 6236 section 3.1",
    ),
    "content": Rule("content", f"(?P<what>{ANY})", "the media is of the kind {what}", "RFC 4796 section 5"),
    "label": Rule("label", f"(?P<label>{ANY})", "an application's name for the m-line: {label}", "RFC 4574 section 4"),
    "connection": Rule(
        "connection",
        "(?P<which>new|existing)",
        "a TCP or DTLS connection: {which}",
        "RFC 4145 section 5",
    ),
    "silenceSupp": Rule(
        "silence suppression", f"(?P<how>{ANY})", "whether silence is sent, a line of telephony: {how}", "RFC 3108"
    ),
    "source-filter": Rule(
        "source filter", f"(?P<filter>{ANY})", "only packets from these addresses: {filter}", "RFC 4570 section 3"
    ),
    "ts-refclk": Rule("clock", f"(?P<clock>{ANY})", "its time stamps go by the clock {clock}", "RFC 7273 section 4"),
    "mediaclk": Rule("media clock", f"(?P<clock>{ANY})", "how its media clock runs: {clock}", "RFC 7273 section 5"),
    "lang": Rule("language", f"(?P<tag>{ANY})", "the language of the media is {tag}", "RFC 8866 section 6.12"),
    "quality": Rule("quality", f"(?P<value>{ANY})", "quality {value} of 10", "RFC 8866 section 6.14"),
    "type": Rule("type of conference", f"(?P<what>{ANY})", "the session is of the type {what}", "RFC 8866 section 6.9"),
    "nortpproxy": Rule("rtpproxy's mark", f"(?P<text>{ANY})", "a media proxy has been here", "rtpproxy, no RFC"),
    "tool": Rule("tool", f"(?P<tool>{ANY})", "made by the program {tool}", "RFC 8866 section 6.3"),
    "x-google-flag": Rule(
        "Chromium's flag", f"(?P<flag>{ANY})", "{flag}: an old way to ask for simulcast", "webrtc.org, no RFC"
    ),
}

# For some kinds the document depends on the value.
SOURCES = {
    "fmtp": _parameters_source,
    "rtcp-fb": _feedback_source,
    "extmap": _extension_source,
    "candidate": _candidate_source,
}


def explain(line: str, codecs: Codecs | None = None) -> Explanation:
    """Explain one line of an SDP, or a candidate as it travels in a message. `codecs` names the payload types."""
    kind, value = split_line(line)
    rule = RULES.get(kind)
    if rule is None:
        return _unknown(line, kind)
    found = re.fullmatch(rule.form, value.strip() if kind != "s=" else value)
    if found is None:
        return Explanation(rule.name, "the value does not have the form that such a line has", rule.source)
    parts = found.groupdict()
    meaning = rule.sentence(parts, codecs or {}) if callable(rule.sentence) else rule.sentence.format(**parts)
    return Explanation(rule.name, meaning, SOURCES[kind](value) if kind in SOURCES else rule.source)


def _unknown(line: str, kind: str) -> Explanation:
    if line.strip().startswith("a="):
        meaning = f"the attribute {kind} is unknown here; a reader must ignore what it does not know"
        return Explanation("unknown attribute", meaning, "RFC 8866 section 5.13", known=False)
    if re.match("[a-z]=", line.strip()):
        meaning = "unknown: no line has this letter, and a reader must ignore or refuse the whole description"
        return Explanation("unknown type", meaning, "RFC 8866 section 5", known=False)
    meaning = "unknown: a line is one letter, an equals sign and a value; a reader must ignore or refuse the whole"
    return Explanation("not a line of SDP", meaning, "RFC 8866 section 5", known=False)


# ---- The table of one description ------------------------------------------------------------------------------------


class Live(NamedTuple):
    """A value found in a live object: where, what it is, and what the line should hold if it came from there."""

    where: str
    value: str
    line: str

    def __str__(self) -> str:
        return f"{'equal' if self.value == self.line else 'differs'}: {self.where} is {self.value}"


class LiveObjects:
    """The public objects of a peer that belong to one m-line. aiortc shows little of the other side's values, and its
    `getLocalParameters().role` stays "auto" after the DTLS role is chosen; where nothing is shown nothing is returned.
    """

    NOTE = (
        "t is the m-line's transceiver in pc.getTransceivers(), dtls = t.receiver.transport (for data: "
        "pc.sctp.transport) and ice = dtls.transport."
    )

    def __init__(self, pc: RTCPeerConnection, section: Section, *, remote: bool) -> None:
        self.pc, self.section, self.remote = pc, section, remote
        self.transceiver = self._transceiver()
        self.sctp = pc.sctp if section.media == "application" else None
        owner = self.transceiver.receiver if self.transceiver else self.sctp
        self.dtls = owner.transport if owner else None
        self.ice = self.dtls.transport if self.dtls else None

    def _transceiver(self) -> RTCRtpTransceiver | None:
        """The m-line's own by its mid; before setLocalDescription they have none, then the first of its kind."""
        own = [t for t in self.pc.getTransceivers() if t.mid == self.section.value("mid") and t.mid is not None]
        new = [t for t in self.pc.getTransceivers() if t.mid is None and t.kind == self.section.media]
        return next(iter(own + new), None)

    def find(self, line: str) -> Live | None:
        """Return the live value behind a line, or None where no public object holds it."""
        kind, value = split_line(line)
        for look in (
            self._of_session,
            self._of_ice,
            self._of_dtls,
            self._of_transceiver,
            self._of_capabilities,
            self._of_sctp,
        ):
            if found := look(kind, value):
                return found
        return None

    def _of_session(self, kind: str, value: str) -> Live | None:
        if kind == "group" and value.startswith("BUNDLE"):
            mids = [t.mid for t in self.pc.getTransceivers() if t.mid is not None]
            named = [mid for mid in value.split()[1:] if mid in mids]
            return (
                Live("' '.join(t.mid for t in pc.getTransceivers())", " ".join(mids), " ".join(named)) if mids else None
            )
        return None

    def _of_ice(self, kind: str, value: str) -> Live | None:
        if self.ice is None:
            return None
        gatherer = self.ice.iceGatherer
        name = "ice.getRemoteCandidates()" if self.remote else "ice.iceGatherer.getLocalCandidates()"
        candidates = self.ice.getRemoteCandidates() if self.remote else gatherer.getLocalCandidates()
        said = {"candidate": [value], "m=": value.split()[1:2], "c=": value.split()[2:3]}.get(kind)
        if said and candidates:
            attribute = {"m=": "port", "c=": "ip"}.get(kind, "")
            values = [str(getattr(one, attribute)) if attribute else candidate_to_sdp(one) for one in candidates]
            number = values.index(said[0]) if said[0] in values else 0
            where = f"{name}[{number}]"
            where = f"{where}.{attribute}" if attribute else f"candidate_to_sdp({where})"
            return Live(where, values[number], said[0])
        if self.remote:
            return None
        if kind == "end-of-candidates":
            return Live("ice.iceGatherer.state", gatherer.state, "completed")
        attribute = {"ice-ufrag": "usernameFragment", "ice-pwd": "password"}.get(kind, "")
        where = f"ice.iceGatherer.getLocalParameters().{attribute}"
        return Live(where, getattr(gatherer.getLocalParameters(), attribute), value) if attribute else None

    def _of_dtls(self, kind: str, value: str) -> Live | None:
        if self.dtls is None or self.remote:
            return None
        parameters = self.dtls.getLocalParameters()
        if kind == "fingerprint":
            algorithm, _, said = value.partition(" ")
            for number, own in enumerate(parameters.fingerprints):
                if own.algorithm == algorithm:
                    return Live(f"dtls.getLocalParameters().fingerprints[{number}].value", own.value, said)
        if (kind, value) == ("setup", "actpass"):
            return Live("dtls.getLocalParameters().role", parameters.role, "auto")
        return None

    def _of_transceiver(self, kind: str, value: str) -> Live | None:
        if (transceiver := self.transceiver) is None:
            return None
        if kind == "mid" and transceiver.mid is not None:
            return Live("t.mid", transceiver.mid, value)
        if kind in DIRECTIONS and not self.remote:
            if kind == transceiver.currentDirection:
                return Live("t.currentDirection", transceiver.currentDirection, kind)
            return Live("t.direction", transceiver.direction, kind)
        receiver, track = transceiver.receiver, transceiver.sender.track
        if kind == "msid" and self.remote and receiver.track is not None:
            return Live("t.receiver.track.id", receiver.track.id, value.partition(" ")[2])
        if kind == "msid" and not self.remote and track is not None:
            return Live("t.sender.track.id", track.id, value.partition(" ")[2])
        if kind == "ssrc" and self.remote:
            heard = [str(source.source) for source in receiver.getSynchronizationSources()]
            return self._one_of("t.receiver.getSynchronizationSources()[{}].source", heard, value.partition(" ")[0])
        return None

    def _of_capabilities(self, kind: str, value: str) -> Live | None:
        """What aiortc can do with this kind of media, where the line is one of it."""
        if self.transceiver is None:
            return None
        able, where = RTCRtpSender.getCapabilities(self.transceiver.kind), "RTCRtpSender.getCapabilities(t.kind)"
        if kind == "rtpmap":
            codecs = [codec.mimeType for codec in able.codecs]
            said = f"{self.transceiver.kind}/{value.partition(' ')[2].partition('/')[0]}"
            return self._one_of(where + ".codecs[{}].mimeType", codecs, said)
        if kind == "extmap":
            uris = [extension.uri for extension in able.headerExtensions]
            return self._one_of(where + ".headerExtensions[{}].uri", uris, value.partition(" ")[2])
        return None

    @staticmethod
    def _one_of(where: str, values: list[str], said: str) -> Live | None:
        return Live(where.format(values.index(said)), said, said) if said in values else None

    def _of_sctp(self, kind: str, value: str) -> Live | None:
        if self.sctp is None or self.remote:
            return None
        if kind == "sctp-port":
            return Live("pc.sctp.port", str(self.sctp.port), value)
        if kind == "max-message-size":
            where = "pc.sctp.getCapabilities().maxMessageSize"
            return Live(where, str(self.sctp.getCapabilities().maxMessageSize), value)
        return None


def _is_remote(pc: RTCPeerConnection, sdp: str) -> bool:
    """Whether this is the description of the other side: then it has the other side's ICE name."""
    remote = pc.remoteDescription
    names = re.findall("^a=ice-ufrag:.*$", sdp, re.MULTILINE)
    return remote is not None and bool(names) and names[0].strip() in remote.sdp


def _chosen(found: list[Section], section: str | int | None) -> list[Section]:
    """The section asked for: "session", a mid or the number of an m-line; all of them without a wish."""
    if section is None:
        return found
    chosen = [
        one
        for number, one in enumerate(found, -1)
        if section in (one.title, number) or (isinstance(section, str) and section == one.value("mid"))
    ]
    if not chosen:
        raise ValueError(f"no section {section!r}; there are: {', '.join(one.title for one in found)}")
    return chosen


def sdp_table(
    sdp: str,
    live: Peer | RTCPeerConnection | None = None,
    *,
    section: str | int | None = None,
    only: Collection[str] = (),
) -> Table:
    """Explain each line of a description; with a peer, show the value in its live objects that the line came from.

    `section` picks "session", a mid or the number of an m-line; `only` picks kinds of line ("m=", "ice-ufrag", ...).
    """
    pc = live.pc if isinstance(live, Peer) else live
    groups: list[tuple[str, list[tuple[str, ...]]]] = []
    for part in _chosen(sections(sdp), section):
        objects = LiveObjects(pc, part, remote=_is_remote(pc, sdp)) if pc else None
        rows: list[tuple[str, ...]] = []
        for line in part.lines:
            if not only or split_line(line)[0] in only:
                said = explain(line, part.codecs)
                row = (line, f"{said.name}: {said.meaning}", said.source)
                rows.append((*row, str(objects.find(line) or "")) if objects else row)
        if rows:
            groups.append((part.title, rows))
    if pc is None:
        return Table(("line", "meaning", "written in"), groups, (38, 42, 20), code={0})
    name = live.name if isinstance(live, Peer) else "the peer"
    head = ("line", "meaning", "written in", f"in the live objects of {name}")
    return Table(head, groups, (28, 32, 14, 26), code={0}, tints=TINTS, tinted=3, note=LiveObjects.NOTE)


# ---- Offer beside answer ---------------------------------------------------------------------------------------------

KEPT, CHANGED, DROPPED, NEW = "kept", "changed", "dropped", "new"

# kind of line -> verdict -> the reason. {one} made the offer, {two} the answer.
OWN_CANDIDATES = "each side has its own addresses"
BUNDLED = "bundled: the first m-line's transport serves this one too, so its candidates do"
OWN_NUMBERS = "each side numbers its own packets"
ONLY_OFFERER = "{two} does not write this line"
REASONS: dict[str, dict[str, str]] = {
    "v=": {KEPT: "there is only one version"},
    "o=": {CHANGED: "each side names its own session (aiortc: by the second it was made in)"},
    "s=": {KEPT: "neither names the session", CHANGED: "each side may name its session"},
    "t=": {KEPT: "neither plans a start or end"},
    "c=": {KEPT: "both are at this address, or have none to say yet", CHANGED: "each side has its own address"},
    "group": {
        KEPT: "both put these m-lines on one transport",
        CHANGED: "{two} leaves out the m-lines it refuses or does not bundle",
        DROPPED: "{two} does not bundle: a transport for each m-line",
    },
    "msid-semantic": {KEPT: "the same words on both sides", CHANGED: "each side names its own streams"},
    "msid": {
        CHANGED: "each side names its own stream and track",
        DROPPED: "{two} sends nothing in this m-line",
        NEW: "{two} names what it sends",
    },
    "mid": {
        KEPT: "the offer names the m-line, the answer repeats it",
        CHANGED: "wrong: the answer must repeat the mid",
    },
    "extmap": {
        KEPT: "both know this extension",
        CHANGED: "the extension has another number or direction",
        DROPPED: "{two} does not know this extension: it is not used",
        NEW: "wrong: it was not offered (RFC 8285 section 7)",
    },
    "extmap-allow-mixed": {KEPT: "both can mix them", DROPPED: "{two} cannot mix them"},
    "rtcp": {KEPT: "a formality: RTCP has no port of its own", CHANGED: "each side has its own port"},
    "rtcp-mux": {KEPT: "both agree: one port", DROPPED: "{two} wants a port of its own for RTCP"},
    "rtcp-rsize": {KEPT: "both can do it", DROPPED: "{two} wants whole reports"},
    "ssrc": {CHANGED: OWN_NUMBERS, DROPPED: "{two} sends nothing here, or names no SSRC", NEW: "{two}'s own number"},
    "ssrc-group": {CHANGED: OWN_NUMBERS, DROPPED: "{two} sends nothing here, or names no SSRC", NEW: "{two}'s own"},
    "rtpmap": {
        KEPT: "both want this codec",
        CHANGED: "one number for two codecs: each side receives by its own list",
        DROPPED: "codec not wanted by {two}",
        NEW: "not offered, which is allowed: {two} can receive it too (RFC 3264 section 6.1)",
    },
    "fmtp": {
        KEPT: "the same parameters on both sides",
        CHANGED: "each side says what it can receive",
        DROPPED: "{two} has no parameters for this codec",
        NEW: "{two} has parameters for this codec",
    },
    "rtcp-fb": {KEPT: "both can do it", DROPPED: "{two} cannot give this feedback", NEW: "only {two} has it: not used"},
    "candidate": {KEPT: "the same address on both sides", CHANGED: OWN_CANDIDATES, DROPPED: OWN_CANDIDATES}
    | {NEW: OWN_CANDIDATES},
    "end-of-candidates": {
        KEPT: "both have found all their candidates",
        DROPPED: "{two}'s candidates come later, or {two} says so otherwise",
        NEW: "{two} has found all its candidates, {one} sends its own apart",
    },
    "ice-ufrag": {CHANGED: "each side has its own ICE name", KEPT: "suspicious: each side makes a name of its own"},
    "ice-pwd": {CHANGED: "each side has its own ICE password", KEPT: "suspicious: each side makes its own password"},
    "ice-options": {KEPT: "both can do it", DROPPED: "{two} cannot do it, or does not say so"},
    "ice-lite": {DROPPED: "{two} does full ICE", NEW: "{two} only answers checks"},
    "fingerprint": {
        CHANGED: "each side has its own certificate",
        KEPT: "suspicious: each side has its own certificate",
        DROPPED: "{two} does not give this hash",
        NEW: "{two} gives this hash too",
    },
    "tls-id": {CHANGED: "each side has its own part of the name", DROPPED: ONLY_OFFERER},
    "sctp-port": {KEPT: "both use this port, inside DTLS", CHANGED: "each side has its own port"},
    "max-message-size": {KEPT: "both take the same size", CHANGED: "each side says what it can receive"},
    "rid": {CHANGED: "the mirror: what {one} sends {two} receives", DROPPED: "{two} does not take this stream"},
    "simulcast": {CHANGED: "the mirror: what {one} sends {two} receives", DROPPED: "{two} takes one stream only"},
}
OTHERWISE = {
    KEPT: "the same on both sides",
    CHANGED: "each side says its own",
    DROPPED: ONLY_OFFERER,
    NEW: "only {two} writes this line",
}


class Sides(NamedTuple):
    """An offered section, the answered one (each empty when it is missing), and who made them."""

    offered: Section
    answered: Section
    one: str
    two: str
    elsewhere: Mapping[str, Mapping[str, str]]  # verdict -> kind of line -> where else the other side has it
    bundled: bool = False  # the answered m-line goes over the transport of one before it


def pairing_key(line: str) -> tuple[str, ...]:
    """What two lines must have in common to be one row: a payload type, an extension, a hash, else their kind."""
    kind, value = split_line(line)
    words = value.split()
    if kind in DIRECTIONS:
        return ("direction",)
    if kind == "rtcp-fb":
        return (kind, *words)
    if kind == "extmap":
        return (kind, *words[1:2])
    if kind == "candidate":
        return (kind, *words[1:3], *words[7:8])  # component, transport, type
    if kind == "ssrc":
        return (kind, value.partition(" ")[2].partition(":")[0])
    if kind in ("rtpmap", "fmtp", "rid", "imageattr", "ssrc-group", "group", "fingerprint"):
        return (kind, *words[:1])
    return (kind,)


def pair_lines(offered: list[str], answered: list[str]) -> list[tuple[str, str]]:
    """Put each line beside its counterpart, "" where it has none: equal lines first, then those with an equal key."""
    partner: dict[int, int] = {}
    taken: set[int] = set()
    keys: tuple[Callable[[str], tuple[str, ...]], ...] = (lambda line: (line,), pairing_key)
    for key in keys:
        waiting: dict[tuple[str, ...], list[int]] = {}
        for number, line in enumerate(answered):
            if number not in taken:
                waiting.setdefault(key(line), []).append(number)
        for number, line in enumerate(offered):
            if number not in partner and waiting.get(key(line)):
                partner[number] = waiting[key(line)].pop(0)
                taken.add(partner[number])
    pairs = [(line, answered[partner[n]] if n in partner else "") for n, line in enumerate(offered)]
    return pairs + [("", line) for n, line in enumerate(answered) if n not in taken]


def _verdict(offered: str, answered: str) -> str:
    """The origin counts as changed even where two aiortc peers of one second write the same."""
    if not offered or not answered:
        return NEW if answered else DROPPED
    return CHANGED if offered != answered or split_line(offered)[0] == "o=" else KEPT


def _why_direction(offered: str, answered: str, sides: Sides) -> str:
    said, reply, one, two = offered[2:], answered[2:], sides.one, sides.two
    one_sends, one_takes = said in ("sendrecv", "sendonly"), said in ("sendrecv", "recvonly")
    two_sends, two_takes = reply in ("sendrecv", "sendonly"), reply in ("sendrecv", "recvonly")
    if (two_sends and not one_takes) or (two_takes and not one_sends):
        return f"wrong: {said} cannot be answered with {reply} (RFC 3264 section 6.1)"
    if said == reply:
        return "both send and receive" if two_sends else "nobody sends"
    if said == "sendrecv":
        reasons = {"recvonly": f"{two} has nothing to send", "sendonly": f"{two} does not want to receive"}
        return f"sendrecv answered with {reply}: {reasons.get(reply, f'{two} neither sends nor receives')}"
    if reply == "inactive":
        return f"{said} answered with inactive: {two} does not take part"
    sender, taker = (one, two) if one_sends else (two, one)
    return f"the mirror: {sender} sends, {taker} receives"


def _why_setup(offered: str, answered: str, sides: Sides) -> str:
    said, reply = split_line(offered)[1], split_line(answered)[1]
    clients = {"active": sides.two, "passive": sides.one}
    if reply not in clients or said == reply:
        return f"wrong: {said} cannot be answered with {reply} (RFC 4145 section 4.1)"
    if said == "actpass":
        return f"actpass is an offer; {sides.two} chose {reply}, so {clients[reply]} is the DTLS client"
    return f"the mirror: {clients[reply]} is the DTLS client"


def _why_media(offered: str, answered: str, sides: Sides) -> str:
    """What changed in an m= line: refused, its port, its payload types."""
    said, reply = offered[2:].split(), answered[2:].split()
    if len(said) < 3 or len(reply) < 3:
        return "wrong: such a line has a kind, a port and a protocol"
    if reply[1] == "0" != said[1]:
        return f"port 0: {sides.two} refuses this m-line"
    reasons = ["each side has its own port"] if said[1] != reply[1] else []
    dropped = [format_name(one, sides.offered.codecs) for one in said[3:] if one not in reply[3:]]
    added = [format_name(one, sides.answered.codecs) for one in reply[3:] if one not in said[3:]]
    kept = [one for one in said[3:] if one in reply[3:]]
    reasons += [f"not wanted by {sides.two}: {', '.join(dropped)}"] if dropped else []
    reasons += [f"not offered: {', '.join(added)}"] if added else []
    reasons += ["another order of preference"] if kept != [one for one in reply[3:] if one in said[3:]] else []
    reasons += ["wrong: another kind or protocol"] if (said[0], said[2]) != (reply[0], reply[2]) else []
    return "; ".join(reasons) or OTHERWISE[KEPT]


def _why(offered: str, answered: str, sides: Sides) -> str:
    """Say in a few words why a pair of lines is as it is."""
    kind = split_line(offered or answered)[0]
    verdict = _verdict(offered, answered)
    if not sides.answered.lines:
        return "wrong: the answer has no such m-line (RFC 3264 section 6)"
    if not sides.offered.lines:
        return "wrong: an answer cannot add an m-line (RFC 3264 section 6)"
    special = {"m=": _why_media, "setup": _why_setup} | dict.fromkeys(DIRECTIONS, _why_direction)
    if kind in special and offered and answered:
        return special[kind](offered, answered, sides)
    if kind in sides.elsewhere.get(verdict, {}):
        return sides.elsewhere[verdict][kind]
    refused = sides.answered.value("m=").split()[1:2] == ["0"]
    if verdict == DROPPED and refused:
        return "goes with the refused m-line"
    if verdict == DROPPED and kind == "candidate" and sides.bundled:
        return BUNDLED
    number = split_line(offered)[1].partition(" ")[0]
    codec_dropped = number in sides.offered.codecs and number not in sides.answered.codecs
    if verdict == DROPPED and kind in ("fmtp", "rtcp-fb") and codec_dropped:
        return f"goes with its codec, {format_name(number, sides.offered.codecs)}"
    said = REASONS.get(kind, {}).get(verdict, OTHERWISE[verdict]).format(one=sides.one, two=sides.two)
    silent = {"recvonly", "inactive"} & {split_line(line)[0] for line in sides.answered.lines}
    if kind in ("msid", "ssrc", "ssrc-group") and verdict in (CHANGED, NEW) and silent:
        return f"{said}; {sides.two} sends nothing here, so its line is idle"
    return said


def _elsewhere(number: int, found: list[Section], name: str) -> dict[str, str]:
    """The kinds of line that a side writes for the whole session or, seen from the session, for each m-line."""
    parts, where = (found[:1], "for the whole session") if number else (found[1:], "in its m-lines")
    kinds = {split_line(line)[0] for part in parts for line in part.lines} - {"c=", "b=", "i=", "k="}
    return dict.fromkeys(kinds, f"{name} writes it {where}")


def compare(
    offer: str,
    answer: str,
    *,
    names: tuple[str, str] = ("pc1", "pc2"),
    section: str | int | None = None,
    only: Collection[str] = (),
) -> Table:
    """Put an answer beside its offer, m-line by m-line: each line kept, changed, dropped or new, and why.

    `names` are who made them; `section` and `only` choose as in sdp_table().
    """
    offered, answered = sections(offer), sections(answer)
    count = max(len(offered), len(answered))
    padded = [[*found, *[Section("", [])] * (count - len(found))] for found in (offered, answered)]
    titles = [one.title or other.title for one, other in zip(*padded, strict=True)]
    chosen = {one.title for one in _chosen([*offered, *answered[len(offered) :]], section)}
    groups_of = [value.split() for kind, value in map(split_line, answered[0].lines) if kind == "group"]
    bundled = {mid for semantics, *mids in filter(None, groups_of) if semantics == "BUNDLE" for mid in mids[1:]}
    groups: list[tuple[str, list[tuple[str, ...]]]] = []
    for number, (title, one, other) in enumerate(zip(titles, *padded, strict=True)):
        elsewhere = {NEW: _elsewhere(number, offered, names[0]), DROPPED: _elsewhere(number, answered, names[1])}
        sides = Sides(one, other, *names, elsewhere, other.value("mid") in bundled)
        rows: list[tuple[str, ...]] = [
            (said, reply, f"{_verdict(said, reply)}: {_why(said, reply, sides)}")
            for said, reply in pair_lines(one.lines, other.lines)
            if not only or split_line(said or reply)[0] in only
        ]
        if rows and title in chosen:
            groups.append((title, rows))
    head = (f"offer of {names[0]}", f"answer of {names[1]}", "what became of it, and why")
    return Table(head, groups, (36, 36, 28), code={0, 1}, tints=TINTS, tinted=2)

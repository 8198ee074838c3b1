"""Answers of lesson 02, reading the SDP."""

from collections.abc import Iterator

from ..check import Case, Question, register, register_quiz
from ..edits import BROWSER_OFFER
from ..sdp import payload_types


def payload_type_cases(offer: str) -> Iterator[Case]:
    """The lesson's offer, the browser's, and no offer at all."""
    yield Case((offer,), payload_types(offer), "the offer of pc1")
    yield Case((BROWSER_OFFER,), payload_types(BROWSER_OFFER), "a browser's offer")
    yield Case(("",), {}, "an empty text")


register(
    "02 payload types",
    cases=payload_type_cases,
    look="the lines that begin with a=rtpmap: the number is before the space, the name before the slash",
    why="this dictionary is all that gives a packet's seven bits a meaning",
)
register(
    "02 idle",
    right={"msid", "ssrc", "ssrc-group"},
    also=({"a=msid", "a=ssrc", "a=ssrc-group"},),
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
        look="Watch the m-lines grow",
    ),
    Question(
        "An RTP packet arrives. Where does it say that it is VP8?",
        ("in its SSRC", "in its extension 1", "nowhere: it has a number, and the SDP says what that means"),
        "c",
        "the payload type is seven bits; a=rtpmap ties it to a codec",
        look="Which media, which codecs",
    ),
    Question(
        "On its way the network changes one digit of the fingerprint in the offer. Who notices, and when?",
        (
            "the side that received the offer, in the DTLS handshake",
            "setRemoteDescription, at once",
            "both sides, by the state of ICE",
        ),
        "a",
        "the text is well formed and the way opens; only the certificate shows the lie",
        look="Break it: one line changed on its way",
    ),
    Question(
        "a=ice-pwd was changed on its way. What do you see for the first second?",
        ("the offer is refused", "DTLS failed", "a peer that stays in checking"),
        "c",
        "tests whose signature does not fit are refused, and for a long time no state says so",
        look="Break it: one line changed on its way",
    ),
    Question(
        "A browser answers m=video 0 UDP/TLS/RTP/SAVPF 96. What has it said?",
        ("its port is not known yet", "it refuses the video", "it will take any port"),
        "b",
        "port 0 refuses an m-line, as when no codec is in common; port 9 is the one that is not known yet",
        look="No codec in common",
    ),
)

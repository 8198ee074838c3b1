"""Answers of lesson 05, DTLS and SRTP."""

import hashlib
from typing import Any

from loopback import Call

from .. import private
from ..check import Case, Question, register, register_quiz
from ..packets import decode


def fingerprint_of_pc2(answer: Any, call: Call) -> bool:
    """Whether the answer is the hash of the certificate that pc2 has shown, and stands in what pc1 was told."""
    shown = hashlib.sha256(private.remote_certificate_der(call.pc1)).digest().hex(":").upper()
    return isinstance(answer, str) and answer.upper() == shown and shown in call.pc1.pc.remoteDescription.sdp


def pictures_begun(answer: Any, plain: list[bytes]) -> bool:
    """Whether the answer is the number of pictures that begin in these decrypted packets."""
    return bool(answer == sum("VP8 frame tag" in decode(data, protected=False, codec="VP8") for data in plain))


def calls(tapped: Call, honest: Call) -> list[Case]:
    """Return both calls, and whether somebody sits in the middle."""
    return [Case((tapped,), True, "the call with Mallory"), Case((honest,), False, "an honest call")]


register(
    "05 client",
    right="client",
    look="the table above: which word of a=setup says that one begins, and which leaves it open",
    why="the offer left pc2 no choice, and pc1 has sent the ClientHello",
)
register(
    "05 fingerprint",
    right=fingerprint_of_pc2,
    look="the third flight, and the two cells that did it for pc1",
    why="pc1 was told this hash, and this certificate crossed the wire",
)
register(
    "05 pictures",
    right=pictures_begun,
    look="what all packets of one picture share, in the clear part of the header",
    why="no key was needed",
)
register(
    "05 caught",
    cases=calls,
    look="the four lines above: which two should be equal",
    why="it finds Mallory, and does not suspect the honest call",
)
register_quiz(
    "05",
    Question(
        "Which side sends the ClientHello in a usual call?",
        ("the one that offers", "the one that answers", "the one that is controlling in ICE"),
        "b",
        "the answer says a=setup:active, so that the handshake need not wait for it (RFC 5763, section 5)",
        look="Who is the client, and why",
    ),
    Question(
        "A fingerprint in the SDP matches the certificate. What do you know?",
        (
            "who the other person is",
            "that the SDP was not changed on its way",
            "that you have keys with whoever wrote the SDP you have read",
        ),
        "c",
        "the comparison ties the keys to that SDP; whose SDP it is has to be found out in another way",
        look="The fingerprint, recomputed",
    ),
    Question(
        "ICE is completed. pc2 is failed at once, pc1 is connected and sends. What do you look at first?",
        ("the firewall", "the fingerprint in what pc2 received", "the codec"),
        "b",
        "each side compares what it was shown with what it was told; only pc2 was told something wrong",
        look="Break it: one digit",
    ),
    Question(
        "Somebody changes the sequence number of an SRTP packet, which is in clear. What happens?",
        ("the packet is refused", "the packet is taken in the wrong place", "the packet is asked for again, changed"),
        "a",
        "the tag covers the header too",
        look="Forge it",
    ),
    Question(
        "Both sides are connected, and the picture is the right one. Is somebody in the middle?",
        (
            "no, the fingerprints were compared",
            "no, the handshake would have failed",
            "perhaps: compare the fingerprints over another way",
        ),
        "c",
        "with Mallory all states were the same, and the picture too",
        look="In the middle",
    ),
)

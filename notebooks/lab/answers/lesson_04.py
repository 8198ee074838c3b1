"""Answers of lesson 04, STUN, TURN and NAT."""

from collections.abc import Iterator

from ..check import Case, Question, register, register_quiz
from ..nat import KINDS, NatMatrix


def meetings(matrix: NatMatrix) -> Iterator[Case]:
    """Yield each square of the matrix: its two kinds, and whether they found a pair."""
    for (one, other), meeting in matrix.meetings.items():
        yield Case((KINDS[one], KINDS[other]), "none" not in meeting.types, f"{one} and {other}")


register(
    "04 xor",
    right=("192.0.2.1", 32853),
    look="bytes 2 and 3 of the value, XOR 0x2112, and bytes 4 to 7, XOR the whole cookie",
    why="RFC 5769, section 2.2, has the same eight bytes in its sample response",
)
register(
    "04 unknown",
    right="restricted cone",
    also=("address-restricted cone", "address-restricted"),
    look="the two lines above, whether both see the same port and which of the three got in",
    why="one outside port for everybody, and in comes who was written to, from any of its ports",
)
register(
    "04 survives",
    cases=meetings,
    look=(
        "the red squares: one side leaves through a port nobody was told of, and the other lets in only ports it has "
        "written to"
    ),
    why="all sixteen squares as measured",
)
register(
    "04 relayed bits",
    right=6,
    look="both directions, and that the server receives each byte and sends it again",
    why="3 in and 3 out: a relay pays for everything twice",
)
register_quiz(
    "04",
    Question(
        "What is a server-reflexive address?",
        (
            "the address of the STUN server",
            "an outside port of the NAT, as a STUN server saw it",
            "an address lent by a TURN server",
        ),
        "b",
        "the server writes down where the request came from; for a peer behind a NAT that is the NAT's outside",
        look="Ask somebody outside: STUN",
    ),
    Question(
        "A NAT has endpoint-independent mapping. What follows?",
        (
            "anybody may send in",
            "each destination sees another port",
            "the port that the STUN server saw is the port the other peer will see",
        ),
        "c",
        "that is what makes a server-reflexive candidate useful; who may send in is the other question, filtering",
        look="Two questions to a NAT",
    ),
    Question(
        "Which two cannot meet without a relay?",
        ("two port-restricted cones", "a symmetric NAT and a port-restricted cone", "a symmetric NAT and a full cone"),
        "b",
        "the port that one uses was told to nobody, and the other lets in only ports it has written to",
        look="Each kind against each",
    ),
    Question(
        "Through a TURN server, what can its owner read of the call?",
        ("addresses, sizes and times", "the pictures", "nothing at all"),
        "a",
        "the keys were agreed on between the peers; the server carries SRTP as it is",
        look="What a relay costs",
    ),
    Question(
        "A call behind two symmetric NATs, with a STUN server only, stays in checking. What helps?",
        ("a second STUN server", "a TURN server", "more time"),
        "b",
        "no number of checks opens that door, and no STUN server knows the port in advance",
        look="A relay: TURN, by hand",
    ),
)

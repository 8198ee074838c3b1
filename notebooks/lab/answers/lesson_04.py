"""Answers of lesson 04, STUN, TURN and NAT."""

from collections.abc import Callable
from typing import Any

from ..check import Question, register, register_quiz
from ..nat import KINDS, Kind, NatMatrix


def survives_as_measured(answer: Any, matrix: NatMatrix) -> bool:
    """Whether a function of two kinds says of each meeting in the matrix whether it found a pair."""
    survives: Callable[[Kind, Kind], Any] = answer
    return all(
        survives(KINDS[one], KINDS[other]) is ("none" not in matrix[one, other].types) for one, other in matrix.meetings
    )


register(
    "04 xor",
    right=("192.0.2.1", 32853),
    look="bytes 2 and 3 of the value, XOR 0x2112, and bytes 4 to 7, XOR the whole cookie",
    why="RFC 5769, section 2.2, has the same eight bytes in its sample response",
)
register(
    "04 unknown",
    right="restricted cone",
    look="the two lines above, whether both see the same port and which of the three got in",
    why="one outside port for everybody, and in comes who was written to, from any of its ports",
)
register(
    "04 survives",
    right=survives_as_measured,
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
    ),
    Question(
        "Which two cannot meet without a relay?",
        ("two port-restricted cones", "a symmetric NAT and a port-restricted cone", "a symmetric NAT and a full cone"),
        "b",
        "the port that one uses was told to nobody, and the other lets in only ports it has written to",
    ),
    Question(
        "Through a TURN server, what can its owner read of the call?",
        ("addresses, sizes and times", "the pictures", "nothing at all"),
        "a",
        "the keys were agreed on between the peers; the server carries SRTP as it is",
    ),
    Question(
        "A call behind two symmetric NATs, with a STUN server only, stays in checking. What helps?",
        ("a second STUN server", "a TURN server", "more time"),
        "b",
        "no number of checks opens that door, and no STUN server knows the port in advance",
    ),
)

"""Answers of lesson 09, live changes and many people."""

from collections.abc import Iterator

from ..changes import DIRECTIONS, agreed
from ..check import Case, Question, register, register_quiz

LAYERS = (("q", 150), ("h", 500), ("f", 1500))  # rid, kbit/s


def answers_to_offers() -> Iterator[Case]:
    """Yield each offered direction with each that the other side may want."""
    for offered in DIRECTIONS:
        for wanted in DIRECTIONS:
            yield Case((offered, wanted), agreed(offered, wanted), f"offered {offered}, wanted {wanted}")


def crowds() -> Iterator[Case]:
    """Yield numbers of people, with what a mesh and what a forwarding server needs."""
    for people in (2, 3, 4, 6, 16):
        yield Case((people, "mesh"), people * (people - 1), f"{people} people, mesh")
        yield Case((people, "server"), people, f"{people} people, server")


def rooms() -> Iterator[Case]:
    """Yield what a viewer's way can carry, and the layer for it."""
    for room, rid in ((2000, "f"), (1500, "f"), (1499, "h"), (600, "h"), (151, "q"), (40, "q")):
        yield Case((list(LAYERS), room), rid, f"room for {room} kbit/s")


register(
    "09 new offer",
    right="yes no no yes no",
    also=(
        (True, False, False, True, False),
        ("yes", "no", "no", "yes", "no"),
        (1, 0, 0, 1, 0),
        "1 0 0 1 0",
        "y n n y n",
        "a d",
        ("a", "d"),
        "ad",
    ),
    look="which of them has changed a line of the SDP: the m-lines there are, and their directions",
    why="an m-line more, or another direction, is in the SDP; which pictures travel on it is not",
)
register(
    "09 direction",
    cases=answers_to_offers,
    look="the rule: the answering side may send what the offer wants to receive, and what it wants to send itself",
    why="all sixteen; it is the rule of RFC 3264, section 6.1",
)
register(
    "09 encoders",
    cases=crowds,
    look="the column 'encoded, a picture': what one person's picture costs, times the people",
    why="that is the whole argument for a server",
)
register(
    "09 repair",
    right="server",
    also=("the server", "sfu", "the sfu", "leg", "the leg", "server to viewer 1"),
    look="the two lines above: on which side of the server something was asked for again, and sent again",
    why="the leg has kept the packet with its own marks; the publisher has never heard of that viewer",
)
register(
    "09 layer",
    cases=rooms,
    look="the largest that fits; and where none fits, the smallest is still better than none",
    why="this is the *selective* in selective forwarding unit",
)
register_quiz(
    "09",
    Question(
        "In a running call you add a track with addTrack, and nothing arrives. What is missing?",
        ("a second RTCPeerConnection", "a second offer and answer", "an ICE restart"),
        "b",
        "the other side must be told of the new m-line; addresses and keys are there already",
        look="One more track: an m-line, so an offer",
    ),
    Question(
        "Two video tracks over one aiortc connection; after one lost packet one of them stands still. Why?",
        (
            "the network is too slow for two",
            "the repair came on a stream that the receiver could not tell whose it is",
            "aiortc asks for no repair",
        ),
        "b",
        "both m-lines use the same payload types, and the SSRC of the repair stream was not registered",
        look="Break it: two tracks, and one lost packet",
    ),
    Question(
        "Both sides make an offer at once. What does the polite side do?",
        (
            "ignores the other's offer",
            "closes its connection",
            "takes its own offer back, answers, and then offers again",
        ),
        "c",
        "rollback, and negotiationneeded fires again as long as something is left to agree on",
        look="Both at once, and a browser is polite",
    ),
    Question(
        "A viewer joins a forwarded stream and sees nothing for seconds. What has nobody done?",
        ("asked the publisher for a key picture", "decoded the stream in the server", "opened a data channel"),
        "a",
        "later pictures hold only changes; PLI or FIR has to go on to the publisher",
        look="A viewer who comes later",
    ),
    Question(
        "What does a forwarding server change in a packet?",
        (
            "the picture: it encodes it anew for each viewer",
            "the marks of the connection and the encryption; the payload stays",
            "nothing: it passes the datagram on as it came",
        ),
        "b",
        "SSRC, payload type, header extensions; and each connection has keys of its own",
        look="What is changed on the way",
    ),
)

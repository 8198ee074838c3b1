"""Answers of lesson 08, signalling between machines."""

import itertools
from collections.abc import Iterator
from typing import Any

from ..check import Case, Question, register, register_quiz

ROOMS = {"Ann": "blue", "Ben": "blue", "Cem": "red", "Dan": "blue"}


def rooms() -> Iterator[Case]:
    """Yield who is in which room, who speaks, and who has to hear it."""
    for name in ROOMS:
        others = {other for other, room in ROOMS.items() if room == ROOMS[name] and other != name}
        yield Case((ROOMS, name), others, f"{name} speaks")


def arrivals() -> Iterator[Case]:
    """Yield the numbers that have come, as they came, and what may be handed on."""
    for arrived, expected in (
        ([], []),
        ([2], []),
        ([2, 1], [1, 2]),
        ([1, 2, 4], [1, 2]),
        ([3, 1, 4, 2], [1, 2, 3, 4]),
        ([4, 1, 3], [1]),
    ):
        yield Case((arrived,), expected, str(arrived))


def one_counts(rule: Any) -> bool | str:
    """Whether a rule, asked at both ends, lets one of two crossing calls count; in words where it does not."""
    if not callable(rule):
        return "a function is asked for"
    for one, other in itertools.combinations(("Ann", "Ben", "Cem", "Zoë", "ann"), 2):
        here, there = rule(one, other), rule(other, one)
        if here is ... or here is None:
            return "the function returns nothing yet"
        if bool(here) == bool(there):
            return f"{one} and {other} call each other, and {'both calls count' if here else 'neither call counts'}"
    return True


register(
    "08 forward",
    cases=rooms,
    look="who is in the speaker's room, and that nobody hears themselves",
    why="a room is no more than this: a list of those who hear one another",
)
register(
    "08 at most",
    right=45,
    look="the two numbers: the next ping goes out after the first, its pong is waited for during the second",
    why="25 s until the next ping, and 20 s of waiting for its pong: on average a little more than half a minute",
)
register(
    "08 deliver",
    cases=arrivals,
    look="the first number that is missing: what comes after it has to wait",
    why="nothing is handed on before what was said before it; TCP does the same with its bytes",
)
register(
    "08 ours",
    right=one_counts,
    look="what your function says at the other end, where the two names are swapped",
    why="both ends reach the same result without another word",
)
register_quiz(
    "08",
    Question(
        "What does WebRTC say about the way on which offer and answer travel?",
        ("a WebSocket", "nothing: any way that carries text", "SIP or WHIP"),
        "b",
        "unspecified means (W3C webrtc-pc, section 4.1); the others are choices",
        look="The channel in memory",
    ),
    Question(
        "The signalling server is killed in the middle of a call. What is lost?",
        ("the picture", "nothing at all", "the bye, and every later negotiation, until there is a server again"),
        "c",
        "media go from peer to peer; only texts need the server",
        look="Break it: the server dies",
    ),
    Question(
        "A telephone falls into the water during a call. What notices it on the server?",
        ("a ping that is not answered", "its socket, which closes", "the next offer"),
        "a",
        "nothing comes any more, and TCP alone does not ask (RFC 6455, section 5.5.2)",
        look="Who notices that the other is gone",
    ),
    Question(
        "A candidate arrives before its offer though it was sent after it. Where do you look?",
        (
            "at the ICE servers",
            "at what handles the messages one beside the other: the server's handlers, or one's own",
            "at TCP, which may deliver in another order",
        ),
        "b",
        "one connection keeps the order; a task for each message does not",
        look="Overtaken",
    ),
    Question(
        "Who says in whose name a message is?",
        ("the sender, in a field of the message", "the room", "the server, by the connection on which it came"),
        "c",
        "a field of the message says whatever its sender likes",
        look="Who speaks in whose name",
    ),
)

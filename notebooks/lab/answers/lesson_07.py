"""Answers of lesson 07, data channels."""

import struct
from collections.abc import Iterator

from ..check import Case, Question, register, register_quiz


def opened(label: str, protocol: str = "", kind: int = 0, parameter: int = 0) -> bytes:
    """Return a DATA_CHANNEL_OPEN message (RFC 8832 section 5.1)."""
    name, spoken = label.encode(), protocol.encode()
    return struct.pack("!BBHLHH", 3, kind, 0, parameter, len(name), len(spoken)) + name + spoken


def labels() -> Iterator[Case]:
    """Yield messages that open a channel, and the label in each."""
    for label, protocol, kind in (("chat", "", 0), ("chat", "p1", 0), ("", "p1", 0x80), ("café", "json", 0x81)):
        words = f"the message for {label!r}" + f" with the protocol {protocol!r}" * bool(protocol)
        yield Case((opened(label, protocol, kind),), label, words)


register(
    "07 label",
    cases=labels,
    look="the table above: the label begins at the thirteenth byte, and two bytes say how many bytes it has",
    why="bytes first, and then the text that they are: the other order is the mistake that you will meet below",
)
register(
    "07 ids",
    right=[3, 0, 2],
    look="who the DTLS client is: in this call it is pc2, as in lesson 05",
    why="the server, pc1, goes on with odd numbers, the client begins with even ones",
)
register(
    "07 limit",
    right=65536,
    also=("64 KiB", "64 kB", "64K"),
    look="the error of a message that is too large: it names the limit",
    why="64 KiB is what a peer has to assume that says nothing (RFC 8841, section 6.1)",
)
register(
    "07 modes",
    right="acb",
    look="what a late message is still good for, and whether the next one makes it useless",
    why="a chat has an order; an old place is worthless; a numbered piece may come at any time, but it must come",
)
register(
    "07 who",
    right="b",
    also=("pc2 closed the channel", "pc2 that closed the channel"),
    look="which peer has sent the first RE-CONFIG, and whether there is an ABORT",
    why="pc2 asks first for a reset of its stream; pc1 grants it and asks for its own; the connection lives",
)
register_quiz(
    "07",
    Question(
        "A call with video has two data channels. How many UDP ports and DTLS handshakes do the channels add?",
        ("one each", "one for both", "none"),
        "c",
        "all channels are streams of one SCTP association, inside the DTLS that protects the call already",
        look="On the wire, and under it",
    ),
    Question(
        "A channel with ordered=False and no other option. What may happen to a message?",
        ("it may be lost", "it may come after a later one", "both"),
        "b",
        "order and reliability are two options; without maxRetransmits and maxPacketLifeTime all arrive",
        look="The same messages through the same loss",
    ),
    Question(
        "A program sends a file with a loop of send() calls and no await. Chat messages said meanwhile are late. Why?",
        ("the file waits in a queue before them", "SCTP sends large messages first", "the chat is unreliable"),
        "a",
        "all that was handed over goes first; a sender that waits for bufferedamountlow keeps that queue short",
        look="Five megabytes",
    ),
    Question(
        "createDataChannel on a call that has only video so far. What more does it need?",
        ("nothing", "a new offer and answer, the first time", "a new offer and answer for each channel"),
        "b",
        "the m-line application is negotiated once; after that each channel opens itself with one message",
        look="Added to a running call",
    ),
    Question(
        "A program sends its last message and calls pc.close() at once. What arrives?",
        ("all of it: the channel is reliable", "perhaps nothing", "all but the last message"),
        "b",
        "reliable as long as the connection lives: close the channel, wait for closed, then close the connection",
        look="What is lost at the end",
    ),
)

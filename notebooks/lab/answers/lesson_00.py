"""Answers of lesson 00, a whole call in ten calls."""

from typing import Any

import numpy as np

from loopback import Call, Picture, SyntheticSource

from ..check import Question, register, register_quiz


def is_the_call(answer: Any) -> bool:
    """Whether the answer is setRemoteDescription, with brackets behind it or without."""
    return isinstance(answer, str) and answer.partition("(")[0].strip().casefold() == "setremotedescription"


def first_picture_after(answer: Any, call: Call) -> bool:
    """Whether the answer is the time from sending the offer to the first picture, in ms."""
    at = {event.what: event.t for event in call.log.events}
    return isinstance(answer, float | int) and abs(answer - (at["first picture"] - at["send offer"]) * 1000) < 1


def upside_down(answer: Any, received: Picture) -> bool:
    """Whether the rows of the picture have the colours of a view from the train, from the last row to the first."""
    height, width = received.shape[:2]
    rows, view = (
        picture.mean(axis=1)[height // 8 : -height // 8]  # without the number in the corner
        for picture in (received[::-1], SyntheticSource(width, height, 30).draw(0.0))
    )
    return float(np.abs(rows - view).mean()) < 20


register(
    "00 leaves stable",
    right=is_the_call,
    look="the first blue box at pc2's line, and the call above it: `track` is an event",
    why="with the offer pc2 goes to have-remote-offer; with its own answer it is stable again",
)
register(
    "00 first picture",
    right=first_picture_after,
    look="the two times in `at`: subtract, and mind that they are seconds",
    why="an offer, an answer, a path, a handshake, a picture: that is all of it",
)
register(
    "00 upside down",
    right=upside_down,
    look="what mine() returns: the view it was given, flipped, and otherwise as it was",
    why="what arrived has its sky below",
)
register_quiz(
    "00",
    Question(
        "What crosses the signalling channel?",
        ("the pictures", "descriptions and candidates, as text", "the keys of the encryption"),
        "b",
        "six texts in this call; pictures are datagrams, and keys never cross",
    ),
    Question(
        "Which side calls createAnswer?",
        ("both", "the one that has the camera", "the one that received the offer"),
        "c",
        "who offers and who has the camera are two questions; the answer comes from the side that was offered",
    ),
    Question(
        "pc1 makes its offer and calls addTrack afterwards. What does this offer say about the track?",
        ("nothing", "that a video will follow", "its size and rate"),
        "a",
        "an offer describes the tracks that are there when it is made (RFC 9429, section 5.2.1)",
    ),
    Question(
        "You change from camera to screen in a running call, both coded as VP8. What must be negotiated?",
        ("an offer and an answer", "nothing", "a new connection"),
        "b",
        "replaceTrack: the offer spoke of a video, not of its source",
    ),
    Question(
        "Both sides say connected, and the picture stands still. What do you know for certain?",
        ("the network carries datagrams", "the codec is the wrong one", "only that they were connected once"),
        "c",
        "it takes about 30 s without a sign of life before the state follows (RFC 7675, section 5.1)",
    ),
)

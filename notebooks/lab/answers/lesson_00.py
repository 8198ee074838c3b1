"""Answers of lesson 00, a whole call in ten calls."""

from typing import Any

import numpy as np

from loopback import Call, Picture, SyntheticSource

from ..check import Question, api_call, number, register, register_quiz


def first_picture_after(answer: Any, call: Call) -> bool | str:
    """Whether the answer is the time from sending the offer to the first picture, in ms; what is wrong, if not."""
    at = {event.what: event.t for event in call.log.events}
    seconds, given = at["first picture"] - at["send offer"], number(answer)
    if given is None:
        return "a number is asked for, in milliseconds"
    if abs(given - seconds) < 0.001 < abs(given - seconds * 1000):
        return f"{given:.3f} are seconds, and milliseconds are asked for"
    return abs(given - seconds * 1000) < 1


def upside_down(answer: Any, received: Picture | None) -> bool | str:
    """Whether the rows of the picture have the colours of a view from the train, from the last row to the first."""
    if received is None:
        return "no picture has come since"
    height, width = received.shape[:2]
    rows, view = (
        picture.mean(axis=1)[height // 8 : -height // 8]  # without the number in the corner
        for picture in (received, SyntheticSource(width, height, 30).draw(0.0))
    )
    if float(np.abs(rows - view).mean()) < 20:
        return "at pc2 the sky is above, as it was"
    return float(np.abs(rows[::-1] - view).mean()) < 20


register(
    "00 leaves stable",
    right=api_call("setRemoteDescription"),
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
        "six texts in this call; pictures are datagrams, and no key crosses",
        look="What crossed, and what did not",
    ),
    Question(
        "Which side calls createAnswer?",
        ("both", "the one that has the camera", "the one that received the offer"),
        "c",
        "who offers and who has the camera are two questions; the answer comes from the side that was offered",
        look="The ten, one by one",
    ),
    Question(
        "pc1 makes its offer and calls addTrack afterwards. What does this offer say about the track?",
        ("nothing", "that a video will follow", "its size and rate"),
        "a",
        "an offer describes the tracks that are there when it is made (RFC 9429, section 5.2.1)",
        look="The ten, one by one",
    ),
    Question(
        "You change from camera to screen in a running call, both coded as VP8. What must be negotiated?",
        ("an offer and an answer", "nothing", "a new connection"),
        "b",
        "replaceTrack: the offer spoke of a video, not of its source",
        look="Change the picture and see it arrive",
    ),
    Question(
        "Both sides say connected, and the picture stands still. What do you know for certain?",
        ("the network carries datagrams", "the codec is the wrong one", "only that they were connected once"),
        "c",
        "a state comes late: disconnected after seconds in a browser, in aiortc closed after some 30 s (RFC 7675)",
        look="Break it",
    ),
)

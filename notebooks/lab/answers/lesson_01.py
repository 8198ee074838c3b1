"""Answers of lesson 01, offer and answer, one step at a time."""

from collections.abc import Callable
from itertools import product
from typing import Any

from loopback import Log

from ..check import Question, register, register_quiz


def refused_answer(answer: Any, log: Log) -> bool:
    """Whether the answer is the reason given in the log for refusing an answer."""
    return answer in [event.detail for event in log.events if event.what == "refused answer"]


def decides_well(decide: Callable[[bool, str, str], Any]) -> bool:
    """Whether a function decides as a polite and an impolite peer should, in all eight cases."""
    right = {
        ("stable", "offer"): ("take", "take"),
        ("stable", "answer"): ("ignore", "ignore"),
        ("have-local-offer", "offer"): ("ignore", "roll back and take"),
        ("have-local-offer", "answer"): ("take", "take"),
    }
    return all(decide(polite, *case) == right[case][polite] for case, polite in product(right, (False, True)))


register(
    "01 order",
    right=lambda order, result: result == "stable, stable" and sorted(order) == list("abcdef"),
    look="the call at which it ended, printed above: what does it need, and which card makes that",
    why="each call finds what it needs, and both conversations are closed",
)
register(
    "01 refused",
    right=refused_answer,
    look="twice.log.events: find the one whose what is 'refused answer', and give its detail",
    why="pc1 was stable and waited for candidates; the call did not suffer",
)
register(
    "01 polite",
    right=decides_well,
    look="the column have-local-offer of the table, and the JavaScript above: the impolite one ignores a collision",
    why="in all eight cases",
)
register_quiz(
    "01",
    Question(
        "Which of these calls moves the signalling state?",
        ("createOffer", "setLocalDescription", "addTrack"),
        "b",
        "what is created is a draft; what is set is a commitment",
    ),
    Question(
        "setRemoteDescription(answer) raises: wrong state, stable. What does stable tell you?",
        (
            "this peer has no offer open, now",
            "the answer is malformed",
            "ICE is already connected",
        ),
        "a",
        "the state named is the one before the call: the offer was never set, or it was answered already",
    ),
    Question(
        "pc2 is stable. What do you know of pc1?",
        ("it is stable as well", "it is connected", "nothing"),
        "c",
        "pc2 may have set an answer that pc1 has not read, and may never read",
    ),
    Question(
        "A track is added after createOffer, and the draft is set. What happens to the track?",
        ("the answer adds its m-line", "it is not sent until a further offer", "an error is raised"),
        "b",
        "its transceiver has no mid; only an offer can add an m-line",
    ),
    Question(
        "Both sides have offered at once. What must a program agree on beforehand?",
        ("who has the camera", "which clock counts", "which of the two gives way"),
        "c",
        "one polite, one not; which is which does not matter",
    ),
)

"""Answers of lesson 01, offer and answer, one step at a time."""

from typing import Any

from loopback import Log

from ..check import Case, Question, register, register_quiz

DECISIONS = {  # state and message -> impolite, polite
    ("stable", "offer"): ("take", "take"),
    ("stable", "answer"): ("ignore", "ignore"),
    ("have-local-offer", "offer"): ("ignore", "roll back and take"),
    ("have-local-offer", "answer"): ("take", "take"),
}


def good_order(order: Any, result: str) -> bool | str:
    """Whether each of the six cards was played once, and all went well; what is wrong, if not."""
    if sorted(filter(str.isalnum, str(order).casefold())) != list("abcdef"):
        return "each of the six cards is played once"
    return result == "stable, stable" or result


def refused_answer(answer: Any, log: Log) -> bool:
    """Whether the answer has the reason given in the log for refusing an answer."""
    reasons = [event.detail for event in log.events if event.what == "refused answer"]
    return any(reason in str(answer) for reason in reasons)


register(
    "01 order",
    right=good_order,
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
    cases=[
        Case((polite, *case), decisions[polite]) for case, decisions in DECISIONS.items() for polite in (False, True)
    ],
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
        look="The conversation, step by step",
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
        look="Every wrong order",
    ),
    Question(
        "pc2 is stable. What do you know of pc1?",
        ("it is stable as well", "it is connected", "nothing"),
        "c",
        "pc2 may have set an answer that pc1 has not read, and may never read",
        look="Break it: the answer never comes",
    ),
    Question(
        "A track is added after createOffer, and the draft is set. What happens to the track?",
        ("the answer adds its m-line", "it is not sent until a further offer", "an error is raised"),
        "b",
        "its transceiver has no mid; only an offer can add an m-line",
        look="Why the tracks come before the offer",
    ),
    Question(
        "Both sides have offered at once. What must a program agree on beforehand?",
        ("who has the camera", "which clock counts", "which of the two gives way"),
        "c",
        "one polite, one not; which is which does not matter",
        look="Glare: both offer at once",
    ),
)

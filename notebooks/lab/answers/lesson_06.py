"""Answers of lesson 06, RTP and the bad network."""

from typing import Any

from ..check import Case, Question, number, register, register_quiz


def close_to(right: float, tolerance: float) -> Any:
    """Return what says whether an answer is that number, or as near; in milliseconds where it was seconds is told."""

    def is_it(answer: Any) -> bool | str:
        given = number(answer)
        if given is None:
            return f"{answer!r:.40} is no number"
        return abs(given - right) <= tolerance

    return is_it


SR_PICTURE, SR_SOUND = (1000.0, 90_000, 90_000), (1000.5, 5_000, 48_000)

register(
    "06 missing",
    cases=[
        Case(([5, 6, 8, 9],), [7]),
        Case(([5, 6, 7],), []),
        Case(([5, 9],), [6, 7, 8]),
        Case(([5, 8, 7],), [6]),
        Case(([100],), []),
    ],
    look="the column 'sequence number': each packet has one more than the one sent before it",
    why="that is all a receiver needs to know what to ask for",
)
register(
    "06 round trip",
    right=close_to(6.125, 0.001),
    look="the three numbers: pc1's clock stands for the first and the last; take away what pc2 kept it",
    why="RFC 3550, section 6.4.1, has this very example",
)
register(
    "06 jitter",
    right=close_to(5, 0.01),
    look="how many ticks the clock of a video stream makes in a second, and so in a millisecond",
    why="450 ticks of 1/90,000 s",
)
register(
    "06 queue",
    right="a",
    also=("the network", "network", "the link", "link"),
    look="the only row with more than a few in it",
    why="they have left pc1, and nothing has come to pc2 yet that could wait there",
)
register(
    "06 moment",
    cases=[
        Case((90_000, SR_PICTURE), 1000.0, "a picture of the report's own moment"),
        Case((180_000, SR_PICTURE), 1001.0, "a picture 90000 ticks later"),
        Case((29_000, SR_SOUND), 1001.0, "sound 24000 ticks after its report"),
        Case((45_000, SR_PICTURE), 999.5, "a picture before the report"),
    ],
    look="what a report says: one moment on both clocks. How many seconds is the timestamp away from it",
    why="now both streams have times that can be compared",
)
register_quiz(
    "06",
    Question(
        "A packet in the middle of a picture is lost. Who notices first, and by what?",
        (
            "pc1, because no acknowledgement comes",
            "pc2, because the next packet's number is two higher",
            "pc2's decoder, because the picture is torn",
        ),
        "b",
        "the sequence numbers have a gap: a NACK asks for the one that is missing (RFC 4585, section 6.2.1)",
        look="One packet is lost",
    ),
    Question(
        "The picture has stood still for a second, and packets keep coming. What mends it?",
        ("a NACK", "a new offer", "a PLI: the sender answers with a key picture"),
        "c",
        "a key picture needs no earlier one, so what was lost does not matter any more (RFC 4585, section 6.3.1)",
        look="Break it: the repair is lost too",
    ),
    Question(
        "aiortc's inbound-rtp says packetsLost 0, and the picture stutters. What do you conclude?",
        (
            "nothing: after the first repair it tells of the repairs' stream",
            "the network is fine, the decoder is too slow",
            "the sender has stopped",
        ),
        "a",
        "take the sender's remote-inbound-rtp instead, which comes from pc2's reports",
        look="What the reports say",
    ),
    Question(
        "The link carries 400 kbit/s, the encoder makes 500, and the receiver's reports do not arrive. What happens?",
        ("the encoder sends less", "every fifth picture is dropped at once", "the delay grows and grows"),
        "c",
        "what does not fit waits in a queue, and nobody tells the encoder",
        look="A narrow link",
    ),
    Question(
        "By what does a receiver know which sound belongs to which picture?",
        (
            "they have the same timestamp",
            "sender reports tie each stream's timestamps to one clock",
            "they arrive together",
        ),
        "b",
        "each stream begins at a random number and counts with its own rate (RFC 3550, section 6.4.1)",
        look="Sound beside the picture",
    ),
)

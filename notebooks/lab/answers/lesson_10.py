"""Answers of lesson 10, the fault clinic: of its recap. What its patients have stands in lab.clinic_faults."""

from ..check import Case, Question, register, register_quiz

WELL = [("checks", 4, 4), ("DTLS", 2, 2), ("SRTP", 90, 88), ("to be decoded", 44, 44), ("to be read", 44, 43)]
CLOSED = [("checks", 6, 0), ("DTLS", 0, 0), ("SRTP", 0, 0)]
UNREAD = [*WELL[:-1], ("to be read", 44, 0)]

register(
    "10 where",
    cases=[
        Case((WELL,), "well", "a call that is well"),
        Case((CLOSED,), "checks", "checks go out, none comes in"),
        Case((UNREAD,), "to be read", "decoded and not read"),
        Case(([("messages", 3, 3), ("checks", 0, 0)],), "well", "nothing has gone in yet"),
        Case(([("SRTP", 90, 0), ("to be decoded", 0, 0), ("to be read", 0, 0)],), "SRTP", "the media are cut"),
        Case(([],), "well", "no counter at all"),
    ],
    look="the cases: what went in is not 0, what came out is",
    why="a symptom stands far up, and the fault is where the count ends",
)
register_quiz(
    "10",
    Question(
        "Checks go out on both sides, none comes in, ICE is checking. What do you know?",
        (
            "a firewall blocks UDP",
            "the fault lies between what is sent and what arrives: a wrong address or a closed way, not yet which",
            "the password is wrong",
        ),
        "b",
        "both faults show exactly that; the destination of the checks tells them apart",
        look="Ask from below",
    ),
    Question(
        "Which is evidence that nobody reads the received track, and not only a symptom?",
        (
            "decoded pictures wait in the track, more and more, and few before the decoder",
            "the picture stands still",
            "no PLI is sent",
        ),
        "a",
        "the other two are as true of a decoder that hangs",
        look="It stands",
    ),
    Question(
        "Connected, no SRTP on the tap at all. What do you look at next?",
        (
            "the firewall",
            "the decoder",
            "whether pc1 may send, in the answer it took, and whether its source has given a picture",
        ),
        "c",
        "nothing was sent, so nothing can have been lost: it may not, or it has nothing",
        look="Two kinds of silence",
    ),
    Question(
        "NACKs go out at the receiver. At the sender none comes in. What is it?",
        (
            "repairs are lost",
            "requests are lost: the feedback does not get across",
            "the sender's history is too short",
        ),
        "b",
        "a sender that hears no request repeats nothing, so there is no repair that could be lost",
        look="Your patients",
    ),
    Question(
        "A call has two faults. In which order do you cure them?",
        (
            "both at once, it is quicker",
            "the one in the upper layer first",
            "the lower one alone, then look again",
        ),
        "c",
        "the upper one cannot be seen before, and two changes at once prove nothing",
        look="The harder ward: two at once",
    ),
)

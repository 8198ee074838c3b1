"""Answers of lesson 03, ICE."""

from collections.abc import Iterator

from loopback import Message

from ..check import Case, Question, register, register_quiz
from ..ice import priority

KINDS = {name: {"type": name} for name in ("offer", "answer", "candidate")} | {"end": {"type": "end-of-candidates"}}


def arrivals() -> Iterator[Case]:
    """Yield messages in some orders, and the order in which a peer can use them."""
    for names in ("candidate offer", "c1 c2 offer end", "answer c1 end", "c1 answer c2"):
        arrived: list[Message] = [KINDS.get(name, {"type": "candidate", "mid": name}) for name in names.split()]
        first = [message for message in arrived if message["type"] in ("offer", "answer")]
        others = [message for message in arrived if message not in first]
        yield Case((arrived,), first + others, f"[{names.replace(' ', ', ')}]")


register(
    "03 priority",
    right=priority(126, 65000, 1),
    look="the column 'its parts': put 65000 in the place of the local preference of a host",
    why="a little below the other two host candidates, far above every other type",
)
register(
    "03 type",
    right="prflx",
    also=("peer-reflexive",),
    look="the first of the three parts, and the four types of candidate",
    why="whoever is asked by an unknown address learns a peer-reflexive candidate, with this priority",
)
register(
    "03 order",
    cases=arrivals,
    look="what the function returns for [candidate, offer]: the offer has to stand first, the rest as it came",
    why="nothing is lost, and each peer sees a description before the first candidate",
)
register(
    "03 riddle",
    right="d",
    look="the rows that say 'in': at which peer are there none at all",
    why="pc1's requests arrive and are answered, and neither the answers nor pc2's own requests come in at pc1",
)
register_quiz(
    "03",
    Question(
        "Two candidates have priorities 2130706431 and 1694498815. What do you know without reading on?",
        (
            "the first is nearer",
            "the first is a host candidate, the second server-reflexive",
            "the first was found first",
        ),
        "b",
        "the highest byte is the type preference: 126 and 100 (RFC 8445, section 5.1.2.2)",
        look="Its priority, computed again",
    ),
    Question(
        "Who nominates the pair?",
        (
            "the controlling side: between two full agents, the one that made the offer",
            "the side with the better candidate",
            "both",
        ),
        "a",
        "with USE-CANDIDATE in a check; the other side follows (RFC 8445, sections 6.1.1 and 8.1.1)",
        look="Who nominates, and when: ice-lite",
    ),
    Question(
        "No message with pc2's candidates reaches pc1, but pc1's reach pc2. What happens?",
        ("pc1 stays in checking", "pc2 fails at once", "pc1 learns pc2's address from its checks, and they connect"),
        "c",
        "a peer-reflexive candidate (RFC 8445, section 7.3.1.3)",
        look="Never, or only as a name",
    ),
    Question(
        "The tap shows 401 responses. What do you look at first?",
        ("the firewall", "whether each side has the SDP of this very call", "the number of candidates"),
        "b",
        "the check was signed with a password that is not the receiver's",
        look="Stuck in checking",
    ),
    Question(
        "Pictures arrive, but no STUN response has come for half a minute. What must the sender do?",
        ("go on", "make a new offer", "stop sending"),
        "c",
        "its consent has expired (RFC 7675, section 5.1)",
        look="Consent",
    ),
)

"""What can be seen of a patient, and what of it a learner's words mean: `Vitals`, the one page of all instruments, and
the findings by which faults are told apart. Nothing here knows which fault a patient has.
"""

from __future__ import annotations

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import difflib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2

from loopback import Event, Message, Picture

from .draw import Table
from .sdp import payload_types
from .wire import Datagram

if TYPE_CHECKING:
    from .clinic import Patient

FEW, MANY = 10, 20  # things that wait in a queue: no trouble; trouble
HELD = 100  # packets in the jitter buffer that are more than a repair takes
DARK = 16  # of 255: the mean of a black picture after the codec
PEERS = ("pc1", "pc2")


def counted(
    datagrams: Sequence[Datagram], layer: str, who: str, direction: str, says: str = "", codec: str | None = None
) -> int:
    """Return how many datagrams are of that layer, peer and direction, and say that, or have that codec."""
    return sum(
        (d.layer, d.who, d.direction) == (layer, who, direction)
        and codec in (None, d.codec)
        and (not says or says in d.summary)
        for d in datagrams
    )


def is_black(picture: Picture | None) -> bool:
    """Whether a picture is black below its time code; one that has not come is not."""
    return picture is not None and float(cv2.mean(picture[24:])[0]) < DARK


def changes(sent: str, taken: str) -> list[tuple[str, str]]:
    """Return the lines that differ between two descriptions: as sent, and as taken; "" where there is none."""
    one, other = (text.replace("\r\n", "\n").rstrip("\n").split("\n") for text in (sent, taken))
    found: list[tuple[str, str]] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if kind != "equal":
            left, right = one[a:b], other[c:d]
            rows = max(len(left), len(right))
            found += zip(left + [""] * (rows - len(left)), right + [""] * (rows - len(right)), strict=True)
    return found


def value_of(sdp: str, name: str) -> str:
    """Return the first value of an attribute of a description, "" where it has none."""
    found = re.search(rf"(?m)^a={name}:(.*?)\r?$", sdp)
    return found[1] if found else ""


# ---- One page --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vitals:
    """What all instruments show of a patient: everything so far, and what has changed in a moment just passed."""

    patient: Patient
    events: tuple[Event, ...]
    datagrams: tuple[Datagram, ...]
    since: int  # where in them the moment began
    stats: dict[str, list[Any]]  # of each peer: the reports of getStats()
    made: tuple[int, int]  # pictures at the sender, before and after the moment
    shown: tuple[int, int]  # pictures at the receiver

    def count(self, layer: str, who: str, direction: str, says: str = "", codec: str | None = None) -> int:
        """Return how many such datagrams there were."""
        return counted(self.datagrams, layer, who, direction, says, codec)

    def now(self, layer: str, who: str, direction: str) -> int:
        """Return how many of them came in the moment just passed."""
        return counted(self.datagrams[self.since :], layer, who, direction)

    def logged(self, who: str, what: str) -> bool:
        """Whether the log has an event of that peer that begins so."""
        return any(event.who == who and event.what.startswith(what) for event in self.events)

    def reports(self, who: str, kind: str) -> list[Any]:
        """Return the statistics of that type."""
        return [one for one in self.stats[who] if one.type == kind]

    def flow(self, who: str, direction: str) -> str:
        """Say whether media pass there."""
        return flowing(self.count("SRTP", who, direction), self.now("SRTP", who, direction))

    def messages(self, who: str, verb: str) -> str:
        """Return which messages a peer's log says that it has sent, received or refused."""
        kinds = [e.what.removeprefix(f"{verb} ") for e in self.events if e.who == who and e.what.startswith(f"{verb} ")]
        return ", ".join(dict.fromkeys(kinds)) or "nothing"

    def table(self) -> Table:
        """Return the page: a row for each instrument, a column for each peer."""
        rows: list[tuple[str, ...]] = [("messages", *(self._messages(who) for who in PEERS))]
        rows += [("states", *(self._states(who) for who in PEERS))]
        for layer in ("STUN", "DTLS"):
            rows.append((layer, *(self._passed(layer, who) for who in PEERS)))
        rows.append(("SRTP", *(f"out: {self.flow(who, 'out')}; in: {self.flow(who, 'in')}" for who in PEERS)))
        rows.append(("SRTCP", *(self._feedback(who) for who in PEERS)))
        rows.append(("statistics", *(self._statistics(who) for who in PEERS)))
        rows.append(("what waits", "", self._waits()))
        shown = "stop and go on" if self.patient.pauses > 1 else flowing_of(self.shown)
        rows.append(("pictures", f"made: {flowing_of(self.made)}", f"shown: {shown}"))
        return Table(("", "pc1", "pc2"), [("", rows)], (12, 44, 44))

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def __repr__(self) -> str:
        return repr(self.table())

    def _messages(self, who: str) -> str:
        words = {"sent": "send", "received": "receive", "refused": "refused"}
        return "; ".join(f"{word}: {self.messages(who, verb)}" for word, verb in words.items())

    def _states(self, who: str) -> str:
        peer = self.patient.peer(who)
        return (
            f"signalling {peer.pc.signalingState}, ICE {peer.pc.iceConnectionState}, DTLS {peer.health.dtls_state}, "
            f"connection {peer.pc.connectionState}"
        )

    def _passed(self, layer: str, who: str) -> str:
        out, into = (self.count(layer, who, direction) for direction in ("out", "in"))
        errors = Counter(code for d in self.datagrams if (code := error_of(d)) and d.who == who and d.direction == "in")
        more = (
            "".join(f"; in with {code}: ≈{count}" for code, count in sorted(errors.items())) if layer == "STUN" else ""
        )
        return f"out: {about(out)}, in: {about(into)}{more}"

    def _feedback(self, who: str) -> str:
        parts = []
        for direction in ("out", "in"):
            asked = [f"{name} {about(self.count('SRTCP', who, direction, name))}" for name in ("NACK", "PLI")]
            reports = self.count("SRTCP", who, direction)
            # A report comes every second or so: where there may be some, whether the first has come is chance.
            told = f"≈{reports}" if self.connected else about(reports)
            parts.append(f"{direction}: {told}, of these {', '.join(asked)}")
        return "; ".join(parts)

    @property
    def connected(self) -> bool:
        """Whether both peers say connected."""
        return all(self.patient.peer(who).pc.connectionState == "connected" for who in PEERS)

    def differs(self, other: Vitals) -> list[str]:
        """Return in which rows two pages differ, but for numbers that differ from run to run."""
        pages = ([re.sub(r"≈\d+", "≈", str(row)) for row in page.table().rows] for page in (self, other))
        rows = zip(self.table().rows, *pages, strict=True)
        return [row[0] for row, mine, its in rows if mine != its]

    def _statistics(self, who: str) -> str:
        kinds = {"pc1": ("outbound-rtp",), "pc2": ("inbound-rtp",)}[who]
        return ", ".join(f"{kind}: {'yes' if self.reports(who, kind) else 'none'}" for kind in kinds)

    def _waits(self) -> str:
        waiting = self.patient.waiting
        packets = f"≈{waiting.packets}" if waiting.packets > HELD else "few"
        queues = {"pictures to be decoded": waiting.frames, "to be read": waiting.pictures}
        told = [f"{name}: {f'≈{n}' if n > MANY else 'few'}" for name, n in queues.items()]
        return ", ".join([f"packets: {packets}", *told])


def error_of(datagram: Datagram) -> str:
    """Return the code of a STUN error response, "" for anything else."""
    found = re.search(r"error response.*?(\d{3})", datagram.summary) if datagram.layer == "STUN" else None
    return found[1] if found else ""


def about(count: int) -> str:
    """Return a count as it is told: none is a fact, how many differs from run to run."""
    return f"≈{count}" if count else "0"


def flowing(count: int, lately: int) -> str:
    """Say in a word whether something flows."""
    return "flows" if lately else "has stopped" if count else "none"


def flowing_of(counts: tuple[int, int]) -> str:
    """Say in a word whether a count grows."""
    return flowing(counts[1], counts[1] - counts[0])


# ---- Findings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """Something that is so, or not so, at a patient."""

    name: str
    words: str  # a pattern: a clause of a learner's in which it is found means this
    true: Callable[[Vitals], bool]
    place: str  # the instrument that shows it

    def means(self, clause: str) -> bool:
        """Whether a clause says this. What looks ahead does so from the clause's beginning."""
        begin = "^" if self.words.startswith(("(?=", "(?!")) else ""
        return re.search(begin + self.words, clause, re.IGNORECASE) is not None


def _altered(kind: str) -> Callable[[Vitals], bool]:
    return lambda v: v.patient.altered(kind)


def _attribute(kind: str, name: str) -> Callable[[Vitals], bool]:
    def differs(v: Vitals) -> bool:
        sent, taken = v.patient.texts(kind)
        return value_of(taken, name) not in ("", value_of(sent, name))

    return differs


def _destinations(v: Vitals) -> tuple[set[int], set[int]]:
    """Return the ports that pc1's checks go to, and those that pc2 listens at."""
    sent = {
        int(d.remote.rpartition(":")[2]) for d in v.datagrams if (d.layer, d.who, d.direction) == ("STUN", "pc1", "out")
    }
    own = v.patient.peer("pc2").pc.localDescription
    return sent, {int(port) for port in re.findall(r"a=candidate:\S+ \d+ \w+ \d+ \S+ (\d+) ", own.sdp if own else "")}


def _codec_altered(v: Vitals) -> bool:
    sent, taken = v.patient.texts("offer")
    return bool(sent and taken) and set(payload_types(sent).values()) != set(payload_types(taken).values())


def _unknown_type(v: Vitals) -> bool:
    own = v.patient.peer("pc2").pc.localDescription
    known = payload_types(own.sdp) if own else {}
    return any(
        d.data[1] & 0x7F not in known for d in v.datagrams if (d.layer, d.who, d.direction) == ("SRTP", "pc2", "in")
    )


def _dtls(v: Vitals, who: str) -> str:
    return v.patient.peer(who).health.dtls_state


def _hellos(v: Vitals) -> set[str]:
    return {d.who for d in v.datagrams if d.layer == "DTLS" and d.direction == "out" and "ClientHello" in d.summary}


def _tracks(v: Vitals) -> list[Any]:
    return [sender.track for sender in v.patient.call.pc1.pc.getSenders()]


def _media_out(v: Vitals) -> bool:
    return bool(v.now("SRTP", "pc1", "out")) and not v.now("SRTP", "pc2", "in")


# What a clause says: something is not there. What follows is within one clause, so a dot, comma or semicolon ends it.
NO = (
    r"\b(?:no|not|none|never|nothing|without|n't|zero|0|empty|missing|absent|lack\w*|nobody|neither|isn't|doesn't"
    r"|stop\w*|lost)\b"
)


def both(*words: str) -> str:
    """Return a pattern for a clause that has all of these, in any order."""
    return "".join(f"(?=.*{word})" for word in words)


def but(pattern: str, *unless: str) -> str:
    """Return a pattern for a clause that has that, and none of these."""
    return "".join(f"(?!.*{word})" for word in unless) + f"(?=.*{pattern})"


ALTERED = (
    r"(?:differ|chang|alter|edit|not the same|other|another|wrong|unequal|mismatch|not match|does ?n.t match|!=|≠|cut"
    r"|half|short)"
)
REFUSED = r"(?:refus|reject)"
SENDS = r"(?:out|send|sent|sends|leav|goes|go |pc1|request)"

FINDINGS = (
    # The log: which messages went.
    Finding(
        "offer not received",
        both("offer", NO, r"(?:receiv|arriv|got|get|came|come|reach|log|deliver|there|taken|seen)"),
        lambda v: v.logged("pc1", "send offer") and not v.logged("pc2", "receive offer"),
        "pc2's log",
    ),
    Finding(
        "answer not received",
        both("answer", NO, r"(?:receiv|arriv|got|get|came|come|reach|log|deliver|there|taken|seen)"),
        lambda v: v.logged("pc2", "send answer") and not v.logged("pc1", "receive answer"),
        "pc1's log",
    ),
    Finding(
        "nothing refused",
        both(NO, r"refus|reject"),
        lambda v: not any(e.what.startswith(("refused offer", "refused answer")) for e in v.events),
        "both logs",
    ),
    Finding(
        "offer refused",
        but(both("offer", REFUSED), NO + ".*" + REFUSED) + "|no (?:video )?codec in common",
        lambda v: v.logged("pc2", "refused offer"),
        "pc2's log",
    ),
    Finding(
        "answer refused",
        but(both("answer", REFUSED), NO + ".*" + REFUSED),
        lambda v: v.logged("pc1", "refused answer") and v.patient.peer("pc1").pc.signalingState != "stable",
        "pc1's log",
    ),
    Finding(
        "no candidates",
        both(r"candidate", NO),
        lambda v: not any(v.logged(who, "addIceCandidate") and _real_candidate(v, who) for who in PEERS),
        "both logs",
    ),
    # The texts: what was sent, and what was taken.
    Finding(
        "same offer",
        both("offer", r"(?:same|equal|unchanged|unaltered|identical|as sent)"),
        lambda v: not v.patient.altered("offer"),
        "patient.on_its_way",
    ),
    Finding(
        "offer not altered",
        both(r"\boffer", r"(?:same|equal|unchanged|unaltered|identical|as sent|not (?:alter|chang))"),
        lambda v: bool(v.patient.texts("offer")[1]) and not v.patient.altered("offer"),
        "patient.on_its_way",
    ),
    Finding(
        "answer not altered",
        both(r"\banswer", r"(?:same|equal|unchanged|unaltered|identical|as sent|not (?:alter|chang))"),
        lambda v: bool(v.patient.texts("answer")[1]) and not v.patient.altered("answer"),
        "patient.on_its_way",
    ),
    Finding(
        "same candidates",
        both("candidate", r"(?:same|equal|unchanged|unaltered|identical|as sent)"),
        lambda v: bool(v.patient.texts("candidate")[1]) and not v.patient.altered("candidate"),
        "patient.on_its_way",
    ),
    Finding(
        "offer altered",
        but(both(r"\boffer", ALTERED), r"not (?:alter|chang|edit)", "pwd", "passw", "setup", "finger", "codec", "vp9"),
        _altered("offer"),
        "patient.on_its_way",
    ),
    Finding(
        "answer altered",
        but(
            both(r"\banswer", ALTERED),
            r"not (?:alter|chang|edit)",
            "pwd",
            "passw",
            "setup",
            "inactive",
            "payload",
            REFUSED,
        ),
        _altered("answer"),
        "patient.on_its_way",
    ),
    Finding("candidate altered", both("candidate", ALTERED), _altered("candidate"), "patient.on_its_way"),
    Finding(
        "codec altered",
        but(both(r"(?:codec|vp9)", r"(?:offer|taken|differ|instead|chang|became|->|→|vp9)"), "in common"),
        _codec_altered,
        "patient.on_its_way",
    ),
    Finding(
        "password of the offer altered",
        both(r"(?:pwd|passw)", r"(?:\boffer|pc1)", ALTERED),
        _attribute("offer", "ice-pwd"),
        "patient.on_its_way",
    ),
    Finding(
        "password of the answer altered",
        both(r"(?:pwd|passw)", r"(?:\banswer|pc2)", ALTERED),
        _attribute("answer", "ice-pwd"),
        "patient.on_its_way",
    ),
    Finding(
        "fingerprint altered",
        both(r"(?:finger|hash)", ALTERED),
        _attribute("offer", "fingerprint"),
        "patient.on_its_way",
    ),
    Finding("setup of the offer altered", both(r"setup", r"offer"), _attribute("offer", "setup"), "patient.on_its_way"),
    Finding(
        "setup of the answer altered", both(r"setup", r"answer"), _attribute("answer", "setup"), "patient.on_its_way"
    ),
    Finding(
        "setup altered",
        but(both(r"setup", ALTERED), "offer", "answer"),
        lambda v: _attribute("offer", "setup")(v) or _attribute("answer", "setup")(v),
        "patient.on_its_way",
    ),
    Finding("inactive in the answer", r"inactive", lambda v: "a=inactive" in v.patient.texts("answer")[1], "sdp_table"),
    # ICE on the tap.
    Finding(
        "tap empty",
        but(
            both(r"(?:tap|wire|datagram|packet|traffic)", NO),
            "dtls",
            "srtp",
            "srtcp",
            r"\bin\b",
            "come",
            "arriv",
            "ice.*complet",
        ),
        lambda v: not v.datagrams,
        "the tap",
    ),
    Finding(
        "checks unanswered",
        both(r"(?:stun|check|request|binding)", r"(?:\bout\b|sent|go)", NO),
        lambda v: all(v.count("STUN", who, "out") and not v.count("STUN", who, "in") for who in PEERS),
        "the tap",
    ),
    Finding(
        "401 at pc1",
        both("401", "pc1") + r"(?!.*(?:by|from) pc1)",
        lambda v: v.patient.errors("pc1", "401") > 0,
        "the tap",
    ),
    Finding(
        "401 at pc2",
        both("401", "pc2") + r"(?!.*(?:by|from) pc2)",
        lambda v: v.patient.errors("pc2", "401") > 0,
        "the tap",
    ),
    Finding("a 401", but("401", "pc1", "pc2"), lambda v: any(v.patient.errors(who, "401") for who in PEERS), "the tap"),
    Finding(
        "wrong destination",
        but(
            both(
                r"(?:port|destination|address|\bto\b)",
                r"(?:\b9\b|wrong|differ|elsewhere|other|nobody|not listen|not the)",
            ),
            "payload",
            "401",
        ),
        lambda v: bool(_destinations(v)[0]) and not _destinations(v)[0] & _destinations(v)[1],
        "the tap",
    ),
    Finding(
        "right destination",
        but(
            both(r"(?:port|destination|address)", r"(?:right|correct|same|match|where pc|true|its own)"),
            "wrong",
            r"\b9\b",
        ),
        lambda v: bool(_destinations(v)[0] & _destinations(v)[1]),
        "the tap",
    ),
    # DTLS on the tap, and its states.
    Finding(
        "no DTLS",
        but(
            both(r"(?:dtls|clienthello|handshake)", NO),
            r"\bout\b.*\bin\b",
            r"arriv",
            r"comes? in",
            "fail",
            "serverhello",
        ),
        lambda v: not any(d.layer == "DTLS" for d in v.datagrams),
        "the tap",
    ),
    Finding(
        "DTLS out, not in",
        both(r"(?:dtls|serverhello|handshake|flight)", r"(?:\bout\b|sent|send|leav|go)", NO)
        + r"(?!.*no dtls (?:datagram )?(?:goes|is|at all|leaves))",
        lambda v: v.count("DTLS", "pc1", "out") > 0 and v.count("DTLS", "pc2", "in") == 0,
        "the tap",
    ),
    Finding(
        "two ClientHellos",
        both(r"clienthello|client hello", r"(?:both|two|each|2)"),
        lambda v: _hellos(v) == set(PEERS),
        "the tap",
    ),
    Finding(
        "one ClientHello",
        both(r"clienthello|client hello", r"(?:one|only|single|1)"),
        lambda v: len(_hellos(v)) == 1,
        "the tap",
    ),
    Finding(
        "only pc2 failed",
        both("pc2", r"fail", r"(?:only|alone|not pc1|pc1.*connect)"),
        lambda v: _dtls(v, "pc2") == "failed" and _dtls(v, "pc1") != "failed",
        "the states",
    ),
    Finding(
        "both failed", both(r"both", r"fail"), lambda v: all(_dtls(v, who) == "failed" for who in PEERS), "the states"
    ),
    # Media.
    Finding(
        "no media",
        but(both(r"(?:\bsrtp|media|\brtp)", NO), r"\bin\b", "arriv", "come", "inbound", "sender", "report", "more"),
        lambda v: not v.count("SRTP", "pc1", "out"),
        "the tap",
    ),
    Finding(
        "media out, not in",
        but(
            both(r"(?:\bsrtp|media|\brtp\b|packets)", r"(?:\bout\b|sent|send|leav|go)", NO),
            "rtx",
            "inbound",
            "unknown",
            "srtcp",
            "nack",
            "pli",
            "payload",
            "report",
            r"no (?:srtp|media|rtp|packets?) (?:go|leav|out)",
        ),
        _media_out,
        "the tap",
    ),
    Finding(
        "media have stopped",
        both(r"(?:\bsrtp|media|\brtp\b|packets)", r"(?:stop|no more|no srtp (?:go|leav|out)|nothing (?:go|leav))"),
        lambda v: v.count("SRTP", "pc1", "out") > 0 and not v.now("SRTP", "pc1", "out"),
        "the tap",
    ),
    Finding(
        "unknown payload type",
        both(
            r"(?:payload|\bpt\b)",
            r"(?:unknown|not in|differ|120|other|another|mismatch|wrong|chang|not match|does ?n.t|none of|no such)",
        ),
        _unknown_type,
        "the tap beside the SDP",
    ),
    Finding("no inbound-rtp", both(r"inbound", NO), lambda v: not v.reports("pc2", "inbound-rtp"), "the statistics"),
    Finding("inbound-rtp", but("inbound", NO), lambda v: bool(v.reports("pc2", "inbound-rtp")), "the statistics"),
    Finding(
        "no sender report",
        both(r"(?:sender ?-?report|\bsr\b|srtcp|rtcp|remote-outbound)", NO) + r"(?!.*(?:nack|pli|\bin\b))",
        lambda v: not v.count("SRTCP", "pc1", "out"),
        "the tap",
    ),
    Finding(
        "sender report",
        but(r"(?:sender ?-?reports?|\bsr\b|remote-outbound)", NO),
        lambda v: v.count("SRTCP", "pc1", "out", "SR") > 0,
        "the tap",
    ),
    Finding(
        "PLI unheard",
        both("pli") + r"(?!.*\b(?:no|not|0|zero) pli)(?!.*pli ?:? ?0\b)",
        lambda v: v.count("SRTCP", "pc2", "out", "PLI") >= 3 and not v.count("SRTCP", "pc1", "in", "PLI"),
        "the tap",
    ),
    Finding(
        "no PLI",
        r"\b(?:no|not a|not one|zero|0) pli|pli ?:? ?0\b",
        lambda v: not v.count("SRTCP", "pc2", "out", "PLI"),
        "the tap",
    ),
    Finding(
        "NACK unheard",
        but(both("nack", NO), "rtx", "repair") + "(?!.*pc1 (?:hears|gets|receives) nack)",
        lambda v: v.count("SRTCP", "pc2", "out", "NACK") > 0 and not v.count("SRTCP", "pc1", "in", "NACK"),
        "the tap",
    ),
    Finding("NACK heard", but("nack", NO), lambda v: v.count("SRTCP", "pc1", "in", "NACK") > 0, "the tap"),
    Finding(
        "repairs out, not in",
        but(
            both(r"(?:rtx|repair|retransmi)", NO),
            r"\bno (?:rtx|repair|retransmi)\w* (?:go|leav|is sent|are sent|sent|out)",
            r"never (?:sent|goes|leaves)",
            "repeats nothing",
        ),
        lambda v: v.count("SRTP", "pc1", "out", codec="rtx") > 0 and not v.count("SRTP", "pc2", "in", codec="rtx"),
        "the tap",
    ),
    Finding(
        "no repairs",
        r"(?:no|not one|never|without)\b.{0,12}(?:rtx|repair|retransmi)\w*.{0,12}(?:go|leav|sent|out|pc1)"
        r"|repeats nothing|(?:sends|sent) no (?:rtx|repair)",
        lambda v: not v.count("SRTP", "pc1", "out", codec="rtx"),
        "the tap",
    ),
    # Source, sender, queues, pictures.
    Finding(
        "no picture was made",
        but(
            both(
                r"(?:picture|frame|meter|made|source|camera)",
                r"(?:made|sent|gave|given|gives|source|camera|produc|captur)",
                r"\b(?:no|not|none|never|nothing|zero|0)\b",
            ),
            "more",
            "receiv",
            "wait",
            "replac",
            "track is",
            "mute",
        ),
        lambda v: v.made[1] == 0,
        "call.meter",
    ),
    Finding(
        "pictures are made",
        but(both(r"(?:picture|frame|meter|source|camera)", r"(?:made|sent|gives|goes on|produc|captur|grow|flow)"), NO),
        lambda v: v.made[1] > v.made[0],
        "call.meter",
    ),
    Finding(
        "no more pictures are made",
        both(
            r"(?:picture|frame|source|camera)",
            r"(?:no more|no longer|stop|stand)",
            r"(?:made|gives|source|camera|produc)",
        ),
        lambda v: v.made[1] == v.made[0] > 0,
        "call.meter",
    ),
    Finding(
        "track is none",
        but(both(r"track", r"(?:none|null|gone|no track|missing|empty)"), r"not none", r"is not null", "still there"),
        lambda v: _tracks(v) == [None],
        "sender.track",
    ),
    Finding(
        "track is there",
        both(r"track", r"(?:there|not none|is not null|still|has a|has its|live|OutgoingTrack)") + "(?!.*not there)",
        lambda v: None not in _tracks(v),
        "sender.track",
    ),
    Finding(
        "a picture is waited for",
        both(r"(?:recv|source|camera|picture|next)", r"(?:wait|hang|pending|never return|does not return|stuck)")
        + r"(?!.*(?:decod|read|queue))",
        lambda v: _awaited(v),
        "the source",
    ),
    Finding(
        "source is asked no more",
        both(r"(?:source|recv|camera)", r"(?:asked|called)", NO),
        lambda v: not _awaited(v) and v.made[0] == v.made[1],
        "the source",
    ),
    Finding("muted", but(r"muted|enabled", NO), lambda v: v.patient.call.track.muted, "call.track"),
    Finding("not muted", both(r"muted", NO), lambda v: not v.patient.call.track.muted, "call.track"),
    Finding(
        "source is bright",
        but(
            both(r"(?:source|camera|draw)", r"(?:bright|not black|gives? (?:a )?picture|normal|colou?r|fine|well)"),
            "is black",
        ),
        lambda v: not is_black(v.patient.source_picture),
        "patient.source_picture",
    ),
    Finding(
        "source is black",
        but(both(r"(?:source|camera|lens|draw)", r"(?:black|dark)"), "not black", "bright"),
        lambda v: is_black(v.patient.source_picture),
        "patient.source_picture",
    ),
    Finding(
        "pictures wait to be decoded",
        but(
            both(r"(?:decod|frames)", r"(?:wait|queue|grow|more than|>|pile|not decoded|full|\d\d)"),
            r"\bfew\b",
            r"\bno(?:ne|thing)\b",
        ),
        lambda v: v.patient.waiting.frames > MANY,
        "patient.waiting",
    ),
    Finding(
        "nothing waits to be decoded",
        both(r"(?:decod|frames)", r"(?:\bfew\b|none|nothing|empty|no (?:picture|frame)s? wait)"),
        lambda v: v.patient.waiting.frames <= FEW,
        "patient.waiting",
    ),
    Finding(
        "pictures wait to be read",
        but(
            both(r"(?:\bread|track|queue|recv|pictures)", r"(?:wait|grow|more than|>|pile|full|unread|\d\d)"),
            r"\bfew\b",
            "to be decoded",
            "undecoded",
            r"\bno(?:ne|thing)\b waits?",
            "source",
            "frames",
            "not decoded",
        ),
        lambda v: v.patient.waiting.pictures > MANY,
        "patient.waiting",
    ),
    Finding(
        "nothing waits to be read",
        both(r"(?:\bread|track)", r"(?:\bfew\b|none|nothing|empty|no picture)") + r"(?!.*(?:track is|none as track))",
        lambda v: v.patient.waiting.pictures <= FEW,
        "patient.waiting",
    ),
    Finding(
        "picture black",
        but(both(r"(?:picture|pc2|arriv|shown)", "black"), "source", "camera", "lens", "not black"),
        lambda v: v.patient.black,
        "picture()",
    ),
)

KNOWN = {one.name: one for one in FINDINGS}


def _real_candidate(v: Vitals, who: str) -> bool:
    return bool(v.patient.peer(who).remote_candidates)


def _awaited(v: Vitals) -> bool:
    return bool(v.made[0] == v.made[1] and vars(v.patient.call.track)["_busy"].locked())


def findings_in(text: str) -> list[Finding]:
    """Return what a learner's words mean: clause by clause, and where no clause means anything, the whole."""
    clauses = re.split(r"[;,.\n]+|\band\b|\bbut\b|\bwhile\b|\byet\b|\bwhereas\b", text)
    if exact := [KNOWN[name] for name in KNOWN if name.casefold() == text.strip(" .").casefold()]:
        return exact
    found = [one for clause in [text, *clauses] for one in _meant(clause)]
    return list(dict.fromkeys(found))


def _meant(clause: str) -> list[Finding]:
    clause = " ".join(clause.split())
    return [one for one in FINDINGS if clause and one.means(clause)]


def heard(messages: Sequence[Message], kind: str) -> list[Message]:
    """Return the messages of that type."""
    return [message for message in messages if message.get("type") == kind]

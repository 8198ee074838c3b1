"""The faults of the clinic: what is done to a call, when it shows, and what is known of each.

A fault is made of parts that can be put together: edits of the messages in signalling, faults on the wire, another
source of pictures, options of the call, and something done to it while it runs. Whoever plays the patient fair does not
read on: the causes stand here.
"""

from __future__ import annotations

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import math
import queue
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .faults import Cut, Edit, WireFault, change, drop
from .private import decoder_queue, unread_queue
from .wire import Datagram, Fault, Forward, Later

if TYPE_CHECKING:
    from .clinic import Patient

LAYERS = ("signalling", "SDP", "ICE", "DTLS", "RTP", "source", "decoder", "application")
FEW, MANY = 10, 20  # pictures that wait in a queue: no trouble; trouble

# What a user says, who knows of no layers.
NOTHING = "I call, and nothing happens. It never says connected."
NO_PICTURE = "It says connected. There is no picture."
STANDS = "There was a picture. Then it stood still."
JERKS = "The picture stops, goes on, and stops again."
BLACK = "There was a picture. Then it went black."


class Thread(NamedTuple):
    """A report of the field in which this fault, or one very like it, was met."""

    repository: str
    number: int
    says: str  # what was reported, in our words
    found: str  # what it was
    kind: str = "issues"

    @property
    def url(self) -> str:
        """Where the thread is."""
        return f"https://github.com/{self.repository}/{self.kind}/{self.number}"

    def __str__(self) -> str:
        return f"{self.repository.partition('/')[2]} #{self.number}"


@dataclass(frozen=True)
class Illness:
    """One fault: how it is made, how it is told from others, and what is said about it."""

    name: str  # short, and one of the names a diagnosis may use
    layers: tuple[str, ...]  # where it lies; the first is what is told, the others count as right, too
    words: tuple[str, ...]  # patterns: a cause that one of them finds means this fault
    complaint: str
    twin: str  # the fault that looks most like it
    tells: tuple[str, ...]  # the findings that are there, and not in the twin
    looks: str  # the same in a sentence
    cure: str
    shows: Callable[[Patient], bool]  # whether what tells it can be seen by now
    one: Callable[[], list[Edit]] = list  # done to what pc1 says
    two: Callable[[], list[Edit]] = list  # done to what pc2 says
    wire: Callable[[], list[Fault]] = list
    source: Callable[[], loopback.Source] | None = None
    options: tuple[tuple[str, Any], ...] = ()
    act: Callable[[Patient], Awaitable[None]] | None = None  # done to the call when pictures flow
    thread: Thread | None = None

    @property
    def layer(self) -> str:
        """The layer it lies in."""
        return self.layers[0]

    def __repr__(self) -> str:
        return f"Illness({self.name!r})"


# ---- In signalling and SDP -------------------------------------------------------------------------------------------


def half(sdp: str) -> str:
    """Return the first half of a description, as a channel with a limit leaves it."""
    return sdp[: len(sdp) // 2]


def port_9(line: str) -> str:
    """Return a candidate line with the port 9, where nobody listens."""
    words = line.split()
    return " ".join([*words[:5], "9", *words[6:]])


def other_password(sdp: str) -> str:
    """Return a description with the password of another call."""
    return re.sub(r"a=ice-pwd:\S+", "a=ice-pwd:" + "x" * 22, sdp)


def other_digit(sdp: str) -> str:
    """Return a description with another first digit in its first fingerprint."""
    start = re.search(r"a=fingerprint:sha-256 (.)", sdp)
    assert start, "every description has a fingerprint"
    return sdp[: start.start(1)] + ("0" if start[1] != "0" else "1") + sdp[start.end(1) :]


def setup(value: str) -> Callable[[str], str]:
    """Return what gives a description that a=setup."""
    return lambda sdp: re.sub(r"a=setup:\w+", f"a=setup:{value}", sdp)


def inactive(sdp: str) -> str:
    """Return a description in which nothing is to be sent or received."""
    return re.sub(r"a=(sendrecv|sendonly|recvonly)\b", "a=inactive", sdp)


def vp9(sdp: str) -> str:
    """Return a description with a codec that aiortc has not."""
    return sdp.replace("VP8/90000", "VP9/90000")


def renumbered(sdp: str) -> str:
    """Return a description with another payload type for its video codec."""
    found = re.search(r"a=rtpmap:(\d+) VP8/", sdp)
    assert found, "the calls of the clinic use VP8"
    old, new = found[1], "120"
    sdp = re.sub(rf"(?m)^(m=video .*?) {old}\b", rf"\1 {new}", sdp)
    return re.sub(rf"(?m)^(a=(?:rtpmap|rtcp-fb|fmtp):){old}\b", rf"\g<1>{new}", sdp).replace(f"apt={old}", f"apt={new}")


# ---- On the wire -----------------------------------------------------------------------------------------------------


class Every(WireFault):
    """Loses each `step`-th datagram that it concerns, the first after `start`; with a step of infinity one only."""

    def __init__(self, start: int, step: float = math.inf, *, says: str = "", **only: str) -> None:
        super().__init__(0, **only)
        self.start, self.step, self.says = start, step, says
        self._seen = 0

    def concerns(self, datagram: Datagram) -> bool:
        """Whether it may be lost: of RTCP, what its clear part says."""
        return super().concerns(datagram) and (not self.says or datagram.summary.startswith(self.says))

    def apply(self, datagram: Datagram, forward: Forward, later: Later) -> None:
        """Let the datagram pass, or not."""
        number, self._seen = self._seen - self.start, self._seen + 1
        if number == 0 or (number > 0 and number % self.step == 0):
            self.mark(datagram, dropped=True)
        else:
            forward()


def some_lost() -> Fault:
    """Return the loss of each fiftieth packet of video, of a repair none, after the first pictures."""
    return Every(24, 50, layer="SRTP", who="pc1", codec="VP8")


# ---- Source, decoder, application ------------------------------------------------------------------------------------


class Hanging(loopback.SyntheticSource):
    """A source that gives so many pictures, then none, and no error either."""

    def __init__(self, pictures: int) -> None:
        super().__init__(SIZE[0], SIZE[1], RATE)
        self.left, self._end = pictures, asyncio.Event()

    async def next(self) -> tuple[loopback.Picture, float]:
        if self.left <= 0:
            await self._end.wait()
        self.left -= 1
        return await super().next()

    async def close(self) -> None:
        self._end.set()


class Covered(loopback.SyntheticSource):
    """A source that is black after so many pictures, as with a lid before the lens."""

    def __init__(self, pictures: int) -> None:
        super().__init__(SIZE[0], SIZE[1], RATE)
        self.left = pictures

    async def next(self) -> tuple[loopback.Picture, float]:
        picture, captured_at = await super().next()
        self.left -= 1
        return (picture if self.left > 0 else np.zeros_like(picture)), captured_at


SIZE, RATE = (320, 240), 30.0
ENOUGH = 15  # pictures that arrive before something is done to the call


async def mute(patient: Patient) -> None:
    """Send black, as an application does whose button was pressed and forgotten."""
    patient.call.mute()


async def take_away(patient: Patient) -> None:
    """Replace the track that is sent by none."""
    for sender in patient.call.pc1.pc.getSenders():
        sender.replaceTrack(None)


async def stop_reading(patient: Patient) -> None:
    """Stop the task that reads the received track. What waits is kept below what memory can bear."""
    for task in patient.call.pc2.tasks:
        if getattr(task.get_coro(), "__name__", "") == "receive_frames":
            task.cancel()
    patient.nurses.append(asyncio.create_task(trim(unread_queue(patient.call.pc2), 300)))


async def trim(waiting: asyncio.Queue[Any], most: int) -> None:
    """Keep a queue at no more than so many."""
    while True:
        while waiting.qsize() > most:
            waiting.get_nowait()
        await asyncio.sleep(0.2)


async def hang_decoder(patient: Patient) -> None:
    """Let the thread that decodes take no more pictures until it is told to end, as if it waited for a device."""
    waiting = decoder_queue(patient.call.pc2)
    take: Callable[[], Any] = waiting.get

    def hang() -> Any:
        while None not in list(waiting.queue):
            time.sleep(0.05)
        while (task := take()) is not None:
            pass
        return task

    vars(waiting)["get"] = hang  # in front of the class's own
    patient.nurses.append(asyncio.create_task(thin(waiting, 300)))


async def thin(waiting: queue.Queue[Any], most: int) -> None:
    """Keep a thread's queue at no more than so many."""
    while True:
        while waiting.qsize() > most and waiting.queue[0] is not None:
            waiting.queue.popleft()
        await asyncio.sleep(0.2)


# ---- The book --------------------------------------------------------------------------------------------------------

GONE = r"(?:lost|loss|los[et]\b|miss|drop|never|\bnot\b|n't|\bno\b|without|swallow|vanish|disappear|gone|stuck)"
CUT = rf"(?:cut|block|filter|swallow|{GONE})"
SOURCE = r"(?:source|camera|device|capture)"
NEAR = r"[^.;,]{0,40}"


def lost(what: str) -> tuple[str, str]:
    """Return patterns for something that does not arrive."""
    return rf"{what}{NEAR}{GONE}", rf"{GONE}{NEAR}{what}"


def gone(what: str) -> tuple[str, str]:
    """Return patterns for datagrams that do not arrive."""
    return rf"{what}{NEAR}{CUT}", rf"{CUT}{NEAR}{what}"


WRONG = r"(?:wrong|bad|other|another|different|chang|alter|edit|stale|old\b|mismatch|flip|incorrect|not match|invalid)"


def wrong(what: str) -> tuple[str, str]:
    """Return patterns for something that is not what it should be."""
    return rf"{what}{NEAR}{WRONG}", rf"{WRONG}{NEAR}{what}"


def both_wrong(what: str, where: str) -> tuple[str, ...]:
    """Return patterns for something wrong in one of the descriptions."""
    return (rf"(?=.*{what})(?=.*{where})",)


PASSWORD = r"(?:ice-?pwd|\bpwd\b|passw|credential|message-integrity)"

BOOK = (
    Illness(
        "offer lost",
        ("signalling",),
        lost(r"\boffer"),
        NOTHING,
        twin="no common codec",
        tells=("offer not received", "nothing refused", "same offer"),
        looks="pc1's log says that it sent the offer; pc2's says neither that it received nor that it refused one",
        cure="let the channel keep messages until the other side is there, and acknowledge them",
        shows=lambda p: p.sent("pc1", "offer") and p.ticks >= 30,
        one=lambda: [drop("offer")],
        thread=Thread(
            "mslosarz/nextrtc-signaling-server",
            16,
            "Some signals, the request for an offer most of the time, are not delivered.",
            "the server had buffered the message and did not flush it",
        ),
    ),
    Illness(
        "answer lost",
        ("signalling",),
        lost(r"\banswer"),
        NOTHING,
        twin="answer damaged",
        tells=("answer not received", "nothing refused"),
        looks="pc2's log says that it sent the answer; pc1's says neither that it received nor that it refused one",
        cure="send it again, or begin anew, when no word comes back",
        shows=lambda p: p.sent("pc2", "answer") and p.ticks >= 30,
        two=lambda: [drop("answer")],
        thread=Thread(
            "coast-team/sigver",
            16,
            "B sends its answer while A is disconnected from the signalling server for a moment; A comes back and "
            "waits.",
            "the server had thrown the answer away; they found it easier to begin the offer and answer again",
        ),
    ),
    Illness(
        "answer damaged",
        ("signalling", "SDP"),
        (
            rf"answer{NEAR}(?:damag|truncat|half|cut (?:in|off)|short|broken|incomplete|malform|corrupt|mangl)",
            rf"(?:damag|truncat|half|cut (?:in|off)|short|broken|incomplete|malform|corrupt|mangl){NEAR}answer",
        ),
        NOTHING,
        twin="answer lost",
        tells=("answer refused", "answer altered"),
        looks="pc1's log says that it refused the answer, and why; what came is a part of what was sent",
        cure="find the limit on the way: a column, a buffer, a message of at most so many bytes",
        shows=lambda p: p.refused("pc1", "answer"),
        two=lambda: [change("answer", half)],
        thread=Thread(
            "RestComm/restcomm-ios-sdk",
            78,
            "The browser cannot parse the answer: its last line reads a=ssrc:2868075579 cnam.",
            "the media server had cut its own text",
        ),
    ),
    Illness(
        "candidates lost",
        ("signalling", "ICE"),
        lost(r"candidate"),
        NOTHING,
        twin="UDP blocked",
        tells=("no candidates", "tap empty"),
        looks="no addIceCandidate in either log, so both check nothing: not one datagram on the tap",
        cure="send every candidate on, after the description it belongs to",
        shows=lambda p: p.ice("pc1", "checking") and p.ice("pc2", "checking") and p.ticks >= 40,
        one=lambda: [drop("candidate")],
        two=lambda: [drop("candidate")],
        thread=Thread(
            "CrestApps/CrestApps.Core",
            173,
            "A relayed call fails each time: candidates are handed over on both sides, and no pair is ever formed.",
            "a library had refused each candidate in silence; now the log says which one, and why",
            "pull",
        ),
    ),
    Illness(
        "no common codec",
        ("SDP",),
        (r"codec", r"\bvp9\b"),
        NOTHING,
        twin="offer lost",
        tells=("offer refused", "offer altered", "codec altered"),
        looks="pc2's log says that it refused the offer, and why: no video codec in common",
        cure="offer a codec that both have, and keep it when an SDP is edited",
        shows=lambda p: p.refused("pc2", "offer"),
        one=lambda: [change("offer", vp9)],
    ),
    Illness(
        "direction inactive",
        ("SDP",),
        (r"inactive", rf"direction{NEAR}{WRONG}", rf"{WRONG}{NEAR}direction"),
        NO_PICTURE,
        twin="source never starts",
        tells=("inactive in the answer", "answer altered", "no sender report"),
        looks="a=inactive in the answer that pc1 took; no media and not even a sender report on the tap",
        cure="answer recvonly or sendrecv; look who changes the direction on its way",
        shows=lambda p: p.connected_ticks >= 110,
        two=lambda: [change("answer", inactive)],
        thread=Thread(
            "sipsorcery-org/sipsorcery",
            1166,
            "A track that only one side has is always inactive: how is it made active?",
            "the answering side had no m-line that wants to receive, so inactive was the honest answer",
        ),
    ),
    Illness(
        "payload type changed",
        ("SDP", "RTP"),
        (r"payload", r"\bPT\b"),
        NO_PICTURE,
        twin="key picture lost",
        tells=("unknown payload type", "no inbound-rtp", "no PLI", "answer altered"),
        looks="media come in at pc2 with a payload type that is not in its SDP; its statistics have no inbound-rtp",
        cure="keep the number of the SDP in every packet, also when somebody else makes the packets",
        shows=lambda p: p.count("SRTP", "pc2", "in") >= 20 and p.connected_ticks >= 40,
        two=lambda: [change("answer", renumbered)],
        thread=Thread(
            "ossrs/srs",
            3079,
            "Firefox plays neither sound nor video of a stream that a server makes from another protocol.",
            "the server stamped its packets with its own payload type, the SDP had agreed on another",
            "pull",
        ),
    ),
    Illness(
        "wrong port",
        ("ICE", "signalling"),
        (r"\bport", r"(?:wrong|bad) (?:address|destination)"),
        NOTHING,
        twin="UDP blocked",
        tells=("wrong destination", "candidate altered"),
        looks="checks go out to port 9; the other side listens elsewhere, as its own candidate says",
        cure="write the address into the candidate that can be reached from outside",
        shows=lambda p: p.checks_go_out and p.ticks >= 40,
        one=lambda: [change("candidate", port_9)],
        two=lambda: [change("candidate", port_9)],
    ),
    Illness(
        "UDP blocked",
        ("ICE",),
        (
            r"firewall",
            rf"\budp{NEAR}{CUT}",
            rf"{CUT}{NEAR}\budp",
            rf"(?:datagram|network|stun|check)s?{NEAR}block",
            "blocked",
        ),
        NOTHING,
        twin="wrong port",
        tells=("right destination", "same candidates"),
        looks="checks go out to the right address and port, and nothing comes in on either side",
        cure="another way round: a TURN server, over TCP or TLS where UDP is closed",
        shows=lambda p: p.checks_go_out and p.ticks >= 40,
        wire=lambda: [Cut()],
        thread=Thread(
            "whitphx/streamlit-webrtc",
            553,
            "It works on localhost; on a cloud server the connection is lost, and where to begin is not known.",
            "the firewall of the server",
        ),
    ),
    Illness(
        "wrong password in the offer",
        ("ICE", "SDP", "signalling"),
        both_wrong(PASSWORD, r"(?:\boffer|pc1's|of pc1)"),
        NOTHING,
        twin="wrong password in the answer",
        tells=("401 at pc2", "offer altered", "password of the offer altered", "answer not altered"),
        looks="401 responses come in at pc2 alone: its checks are signed with what it takes for pc1's password",
        cure="do not mix the descriptions of two calls: take the offer that belongs to this answer",
        shows=lambda p: p.errors("pc2", "401") >= 1 and p.ticks >= 20,
        one=lambda: [change("offer", other_password)],
        thread=Thread(
            "feross/simple-peer",
            134,
            "An answer made for one offer is given to another peer that has made one, too. Nothing happens at all.",
            "it was tried on purpose: the answer belongs to one offer, whose name and password the other side now uses",
        ),
    ),
    Illness(
        "wrong password in the answer",
        ("ICE", "SDP", "signalling"),
        both_wrong(PASSWORD, r"(?:\banswer|pc2's|of pc2)"),
        NOTHING,
        twin="wrong password in the offer",
        tells=("401 at pc1", "answer altered", "password of the answer altered", "offer not altered"),
        looks="401 responses come in at pc1 alone: its checks are signed with what it takes for pc2's password",
        cure="give each peer the answer of this call, not of the last one",
        shows=lambda p: p.errors("pc1", "401") >= 1 and p.ticks >= 20,
        two=lambda: [change("answer", other_password)],
    ),
    Illness(
        "wrong fingerprint",
        ("DTLS", "SDP"),
        (r"finger", r"\bhash", rf"certificate{NEAR}{WRONG}", rf"{WRONG}{NEAR}certificate"),
        NOTHING,
        twin="both DTLS clients",
        tells=("only pc2 failed", "fingerprint altered", "one ClientHello"),
        looks="only pc2 fails; the fingerprint that it was told is not that of the certificate it was shown",
        cure="let nobody touch that line, and take the certificate that the SDP announced",
        shows=lambda p: p.dtls("pc2", "failed"),
        one=lambda: [change("offer", other_digit)],
        thread=Thread(
            "sipwise/rtpengine",
            647,
            "Once in 300 calls: peer certificate rejected, fingerprint mismatch, and no sound.",
            "most likely the client: its handshake used another certificate than its SDP had announced",
        ),
    ),
    Illness(
        "both DTLS clients",
        ("DTLS", "SDP"),
        (r"(?:both|two)[^.;]{0,60}(?:client|active|begin|begun|hello)", r"a=setup[^.;]{0,40}passive"),
        NOTHING,
        twin="wrong fingerprint",
        tells=("two ClientHellos", "both failed", "setup of the answer altered"),
        looks="both send a ClientHello, and both fail",
        cure="decide the role once: what a=setup announces is what is done",
        shows=lambda p: p.dtls("pc1", "failed") and p.dtls("pc2", "failed"),
        two=lambda: [change("answer", setup("passive"))],
        thread=Thread(
            "emiago/diago",
            174,
            "The answer says a=setup:passive, and then both endpoints send a ClientHello; the other side aborts.",
            "two functions decided the role, each for itself: one wrote the line, the other acted",
        ),
    ),
    Illness(
        "both DTLS servers",
        ("DTLS", "SDP"),
        (r"(?:both|two|nobody|neither)[^.;]{0,60}(?:server|passive|wait|begin)",),
        NOTHING,
        twin="DTLS datagrams lost",
        tells=("no DTLS", "setup of the offer altered", "setup of the answer altered"),
        looks="ICE is completed and not one DTLS datagram goes out: both wait to be spoken to",
        cure="one has to be active: the answering side, by the standard's advice",
        shows=lambda p: p.ice("pc1", "completed") and p.ice("pc2", "completed") and p.ticks >= 50,
        one=lambda: [change("offer", setup("active"))],
        two=lambda: [change("answer", setup("active"))],
        thread=Thread(
            "otalk/rtcpeerconnection-shim",
            173,
            "One side offers actpass, the answer says passive, and no handshake is ever begun.",
            "the role was a constant in the code, where the line should have been read",
        ),
    ),
    Illness(
        "DTLS datagrams lost",
        ("DTLS",),
        gone(r"(?:dtls|handshake|serverhello|flight)"),
        NOTHING,
        twin="both DTLS servers",
        tells=("DTLS out, not in", "one ClientHello"),
        looks="pc1's DTLS datagrams go out and never come in at pc2; ICE's small ones pass",
        cure="look at the way: a firewall that knows protocols, or datagrams that are too large for it",
        shows=lambda p: p.count("DTLS", "pc1", "out") >= 1 and p.ticks >= 50,
        wire=lambda: [Cut(layer="DTLS", who="pc1")],
        thread=Thread(
            "sipwise/rtpengine",
            1310,
            "The last datagram of the handshake is lost; the client says its part again and again, and there is no "
            "sound.",
            "the server took itself for done and did not repeat its last flight",
        ),
    ),
    Illness(
        "key picture lost",
        ("RTP",),
        (
            r"key ?-?(?:picture|frame)",
            r"\bpli",
            r"(?:srtcp|rtcp|feedback)" + NEAR + GONE,
            GONE + NEAR + r"(?:srtcp|rtcp|feedback)",
            r"first (?:packet|picture|frame)" + NEAR + GONE,
            GONE + NEAR + r"first (?:packet|picture|frame)",
        ),
        NO_PICTURE,
        twin="payload type changed",
        tells=("PLI unheard", "inbound-rtp"),
        looks="a stream of PLI goes out at pc2 and none comes in at pc1: nobody makes the key picture that it asks for",
        cure="let feedback pass, and answer a PLI with a key picture",
        shows=lambda p: p.count("SRTCP", "pc2", "out", "PLI") >= 3 and p.connected_ticks >= 40,
        wire=lambda: [Every(0, layer="SRTP", who="pc1"), Cut(layer="SRTCP", who="pc2")],
        thread=Thread(
            "paullouisageneau/libdatachannel",
            543,
            "The browser's picture freezes after minutes, and its count of PLI grows and grows.",
            "the sending program did nothing with the requests: they are the application's to answer",
        ),
    ),
    Illness(
        "repairs lost",
        ("RTP",),
        (r"\brtx", *gone(r"(?:repair|retransmi)")),
        JERKS,
        twin="requests lost",
        tells=("repairs out, not in", "NACK heard"),
        looks="packets asked for again go out at pc1 as rtx, and none of them comes in at pc2",
        cure="let the repair stream pass: it has its own payload type and SSRC",
        shows=lambda p: p.count("SRTP", "pc1", "out", codec="rtx") >= 2 and p.pauses >= 2,
        wire=lambda: [some_lost(), Cut(layer="SRTP", who="pc1", codec="rtx")],
    ),
    Illness(
        "requests lost",
        ("RTP",),
        (r"\bnack", *gone(r"(?:request|feedback)")),
        JERKS,
        twin="repairs lost",
        tells=("NACK unheard", "no repairs"),
        looks="NACK after NACK goes out at pc2, none comes in at pc1, which repeats nothing",
        cure="let feedback pass the other way: RTCP belongs to the media",
        shows=lambda p: p.count("SRTCP", "pc2", "out", "NACK") >= 2 and p.pauses >= 2,
        wire=lambda: [some_lost(), Every(0, 1, layer="SRTCP", who="pc2", says="NACK")],
        thread=Thread(
            "EricssonResearch/bowser",
            93,
            "The camera freezes for two minutes whenever a packet is lost, though NACK and PLI are sent.",
            "the sender's counts of received requests stay at zero: its feedback never arrives",
        ),
    ),
    Illness(
        "media cut",
        ("RTP", "ICE"),
        (
            rf"\b(?:s?rtp|media|video packets?)\b{NEAR}{CUT}",
            rf"{CUT}{NEAR}\b(?:s?rtp|media|video packets?)\b",
        ),
        STANDS,
        twin="source hangs",
        tells=("media out, not in", "pictures are made"),
        looks="SRTP goes out at pc1 and comes in at pc2 no more; pictures are made as before",
        cure="look at the way: STUN and RTCP pass, so the connection lives; something on it stops the media",
        shows=lambda p: p.count("SRTP", "pc1", "out") >= p.count("SRTP", "pc2", "in") + 25 and p.still >= 20,
        wire=lambda: [Cut(after=60, layer="SRTP", who="pc1")],
    ),
    Illness(
        "source never starts",
        ("source",),
        (
            rf"{SOURCE}{NEAR}(?:never|no picture|not? start|does ?n.t start|gives? (?:no|nothing))",
            r"\bno (?:source|camera|picture from the)",
        ),
        NO_PICTURE,
        twin="direction inactive",
        tells=("sender report", "a picture is waited for", "answer not altered"),
        looks="pc1 has made no picture, and its sender reports go out all the same: it would send if it had something",
        cure="wait for the first picture before the call, and say which device gives none",
        shows=lambda p: p.count("SRTCP", "pc1", "out", "SR") >= 1 and p.connected_ticks >= 40,
        source=lambda: Hanging(0),
        thread=Thread(
            "aiortc/aiortc",
            133,
            "The picture is stuck, sometimes from the start, and the program goes on without an error.",
            "the sender had ended: one of its three reasons is a track that gives no more frames",
        ),
    ),
    Illness(
        "source hangs",
        ("source",),
        (
            rf"{SOURCE}{NEAR}(?:hang|hung|stall|stop|freez|froze|stuck|dead|died|block|no more)",
            rf"(?:hang|hung|stall|frozen|stuck|dead|block\w*){NEAR}{SOURCE}",
        ),
        STANDS,
        twin="track replaced by none",
        tells=("track is there", "a picture is waited for"),
        looks="no SRTP goes out; the sender has its track, and waits in recv() for a picture that does not come",
        cure="a clock of your own beside every device: no picture for so long is an error",
        shows=lambda p: p.made_still >= 25,
        source=lambda: Hanging(30),
        thread=Thread(
            "raspberrypi/picamera2",
            1392,
            "After 11 hours the picture is frozen, without an error or a warning; the service answers as if all were "
            "well.",
            "the device had stopped giving frames: one thread waits in the system and never returns",
        ),
    ),
    Illness(
        "track replaced by none",
        ("application", "source"),
        (
            r"replace",
            rf"track{NEAR}(?:none|null|taken|remov|gone|missing|empty)",
            r"(?:no|without) track",
            rf"remov\w+{NEAR}track",
        ),
        STANDS,
        twin="source hangs",
        tells=("track is none", "source is asked no more"),
        looks="no SRTP goes out, and the sender's track is None; nothing was negotiated, so pc2 cannot know",
        cure="tell the other side in a message of your own, or send a black picture",
        shows=lambda p: p.made_still >= 25,
        act=take_away,
        thread=Thread(
            "w3c/webrtc-pc",
            3077,
            "After replaceTrack(null) nothing arrives any more, and by the standard the remote track is not muted.",
            "a question to the standard: nothing is negotiated, so the receiver sees only that packets stop",
        ),
    ),
    Illness(
        "muted",
        ("application", "source"),
        (r"\b(?:un)?mute", r"enabled? ?(?:=|is)? ?(?:false|off)", r"disabled"),
        BLACK,
        twin="lens covered",
        tells=("muted", "source is bright"),
        looks="the track says muted; the source would give a bright picture",
        cure="show the button's state, and tell the other side",
        shows=lambda p: p.black,
        act=mute,
    ),
    Illness(
        "lens covered",
        ("source",),
        (
            r"(?:lens|lid|cover|cap\b|shutter)",
            r"(?:source|camera)[^.;]{0,40}(?:black|dark)",
            r"(?:black|dark)[^.;]{0,30}(?:source|camera)",
        ),
        BLACK,
        twin="muted",
        tells=("not muted", "source is black"),
        looks="the track is not muted, and what the source gives is black already",
        cure="open the lid: the call is well",
        shows=lambda p: p.black,
        source=lambda: Covered(30),
    ),
    Illness(
        "decoder hangs",
        ("decoder",),
        (r"decod",),
        STANDS,
        twin="track not read",
        tells=("pictures wait to be decoded", "nothing waits to be read"),
        looks="all counts are right up to the decoder: whole pictures wait before it, more than 20",
        cure="find what the decoder's thread waits for; throw old pictures away and ask for a key picture",
        shows=lambda p: p.waiting.frames > MANY,
        act=hang_decoder,
        thread=Thread(
            "Eyevinn/webrtc-player",
            91,
            "The picture freezes in silence though the connection lives: packets arrive, framesDecoded stands.",
            "they watch framesDecoded, and make a new stream, with a new decoder, when it stands for seconds",
        ),
        options=(("marker_bit", False),),
    ),
    Illness(
        "track not read",
        ("application",),
        (
            r"(?:not|n't|never|nobody|no one|stop\w*|without|un)[^.;]{0,40}(?:read|recv|consum|display|show|draw)",
            r"\bunread",
            r"(?:read|consum|recv)\w*[^.;]{0,40}(?:stop|hang|end|cancel|not|never|died|dead|crash|block)",
        ),
        STANDS,
        twin="decoder hangs",
        tells=("pictures wait to be read", "nothing waits to be decoded"),
        looks="all counts are right up to the end: decoded pictures wait in the track, more than 20, for a recv()",
        cure="a task that reads each track that is received, to its end, whatever becomes of the picture",
        shows=lambda p: p.waiting.pictures > MANY,
        act=stop_reading,
        thread=Thread(
            "aiortc/aiortc",
            554,
            "A track is accepted and its frames are not consumed; the memory fills.",
            "each accepted track has to be read, if only by a sink that throws the frames away",
        ),
    ),
)

ILLNESSES = {one.name: one for one in BOOK}


def reports() -> list[Illness]:
    """Return the faults that were met in a thread of the field."""
    return [one for one in BOOK if one.thread]


def named(text: str, known: Iterable[Illness] = BOOK) -> list[Illness]:
    """Return the faults that a cause in a person's words may mean, in the order in which the text comes to them."""
    text = " ".join(text.split())
    exact = [one for one in known if re.sub(r"\W+", "", one.name).casefold() == re.sub(r"\W+", "", text).casefold()]
    if exact:
        return exact
    for word in (r"\bbecause\b", r"\bsince\b", r"\bdue to\b", r"\bas a result of\b"):  # the cause stands behind it
        text = re.split(word, text, flags=re.IGNORECASE)[-1]
    text = re.split(r",? (?:so|therefore|hence|thus|which means)\b", text, flags=re.IGNORECASE)[0]
    found = []
    for one in known:
        places = [match.start() for words in one.words if (match := re.search(words, text, re.IGNORECASE))]
        if places:
            found.append((min(places), one))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]

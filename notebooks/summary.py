"""The whole call on two pages to print, drawn from one that is made for it: see handouts.py.

Page 1 is the call from top to bottom: every API call, message, change of a state and datagram up to the first picture.
Page 2 is for the wall behind the screen: the lines of the SDP, a candidate, where to look, and what looks alike.
"""

from __future__ import annotations

import loopback  # noqa: F401  first: it imports cv2 before aiortc, which has to be so in every process  # isort: skip

import asyncio
import hashlib
import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import aiortc
import matplotlib as mpl
import numpy as np
from lab.draw import HUES, MONO, SANS, Canvas, text_width, wrapped
from lab.ice import split_priority
from lab.packets import decode
from lab.wire import Datagram, Tap
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from PIL import Image

from loopback import Call, Event, SyntheticSource, candidates_in

PAGE = 827, 1169  # A4 in hundredths of an inch, and pixels of the canvas
MARGIN = 34
DARK, GREY, PALE, BAND = "#1b2430", "#5b6573", "#9aa3ae", "#f3f5f7"
TITLE, HEADING, TEXT, SMALL = 21.0, 12.5, 9.6, 8.7  # pixels; 0.72 points each
SHARPER = 1.5  # the PNG has that many pixels to one of the canvas

# ---- The run ---------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What one call has said and done up to the first picture."""

    events: list[Event]
    datagrams: list[Datagram]
    offer: str
    answer: str

    def only(self, layer: str) -> list[Datagram]:
        """Return the datagrams of one layer, as they left."""
        return [one for one in self.datagrams if one.layer == layer and one.direction == "out"]

    @property
    def first_picture(self) -> float:
        """When the first picture was there, in s."""
        return next(event.t for event in self.events if event.what == "first picture")


async def recorded() -> Run:
    """Make a call, its steps in turns, and return what it has said and done."""
    call = Call(SyntheticSource(320, 240, 30))
    try:
        with Tap(call) as tap:
            for step in call.steps:
                await step.run()
        offer, answer = (peer.pc.localDescription.sdp for peer in call.peers)
        return Run(list(call.log.events), list(tap), offer, answer)
    finally:
        await call.close()


# ---- Texts -----------------------------------------------------------------------------------------------------------

NARROW = 0.61  # of its height is the width of a letter of the typewriter face


def write(canvas: Canvas, x: float, y: float, text: str, *, pixels: float = SMALL, **more: Any) -> None:
    """Write a line around the height `y`. All of one height stand on one base line, whatever letters are in them."""
    canvas.text(x, y + 0.36 * pixels, text, pixels=pixels, **more)
    canvas.axes.texts[-1].set_verticalalignment("baseline")


def folded(text: str, room: float, family: str = SANS) -> list[str]:
    """Return a text in lines that fit into `room`, on paper too, where letters are a little wider than on a screen."""
    if family == MONO:
        return textwrap.wrap(text, int(room / (NARROW * SMALL)))
    return wrapped(text, 0.95 * room, SMALL, family)


def cut(text: str, room: float) -> str:
    """Return the text in typewriter face, its end left out where there is no room for it."""
    letters = int(room / (NARROW * SMALL))
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


# ---- Page 1: the rows ------------------------------------------------------------------------------------------------

NOTES = {
    "new RTCPeerConnection": "all other objects are reached from it",
    "addTrack": "something to send, before the offer",
    "setCodecPreferences": "which codecs, best first",
    "createOffer": "a draft: no state changes, nothing is sent",
    "setLocalDescription(offer)": "commit: opens a UDP port, gathers candidates",
    "setRemoteDescription(offer)": "which media, whose certificate; event track",
    "addIceCandidate": "here the other one may be reached",
    "createAnswer": "keeps, cuts down or refuses, line by line",
    "setLocalDescription(answer)": "commit; from now on pc2 looks for a way",
    "setRemoteDescription(answer)": "the question is answered",
    "first picture": "decoded: the only proof that there is a call",
}
KEYS = "both have the keys; no message had them"
MACHINES = {
    "signalingState": ("signaling", HUES["message"]),
    "iceGatheringState": ("gathering", GREY),
    "iceConnectionState": ("ICE", HUES["STUN"]),
    "connectionState": ("connection", HUES["SRTCP"]),
    "dtlsState": ("DTLS", HUES["DTLS"]),
}
OFFERED = ("a=group", "m=", "a=mid", "a=sendrecv", "a=rtpmap", "a=fmtp", "a=ice", "a=fingerprint:sha-256", "a=setup")
ANSWERED = ("m=", "a=recvonly", "a=ice", "a=fingerprint:sha-256", "a=setup")


@dataclass
class Row:
    """One moment of the call: words at one peer, states at one peer, or an arrow from one to the other."""

    t: float
    who: str
    words: str = ""
    note: str = ""
    states: list[tuple[str, str]] = field(default_factory=list)  # of which machine, which
    layer: str = ""  # of the arrow
    lines: list[str] = field(default_factory=list)  # below the arrow


def rows_of(run: Run) -> list[Row]:
    """Return the rows of page 1, in the order in which they happened."""
    rows = sorted([*event_rows(run), *datagram_rows(run)], key=lambda row: row.t)
    merged: list[Row] = []
    for row in rows:
        if row.states and merged and merged[-1].who == row.who and not merged[-1].layer:
            later = dict([*merged[-1].states, *row.states])
            merged[-1] = replace(merged[-1], states=list(later.items()), note=merged[-1].note or row.note)
        else:
            merged.append(row)
    return [row for row in merged if row.t <= run.first_picture]


def event_rows(run: Run) -> Iterator[Row]:
    """Yield a row for each API call, message and change of a state."""
    noted = set()
    for event in run.events:
        kind, _, rest = event.what.partition(" ")
        if event.what in MACHINES:
            state = event.what, event.detail.removeprefix("→ ")
            yield Row(event.t, event.who, note=KEYS if state == ("dtlsState", "connected") else "", states=[state])
        elif kind == "send":
            texts = {"offer": picked(run.offer, OFFERED), "answer": picked(run.answer, ANSWERED)}
            lines = texts.get(rest, [event.detail] if event.detail else [])
            yield Row(event.t, event.who, rest, layer="message", lines=lines)
        elif event.what in NOTES:
            yield Row(event.t, event.who, event.what, "" if event.what in noted else NOTES[event.what])
            noted.add(event.what)


def datagram_rows(run: Run) -> Iterator[Row]:
    """Yield a row for each datagram of ICE and DTLS, and one for the packets of the first picture."""
    for one in run.only("STUN"):
        yield Row(one.t, one.who, one.summary, layer="STUN", lines=[in_stun(one)])
    for one in run.only("DTLS"):
        yield Row(one.t, one.who, f"{one.size} bytes", layer="DTLS", lines=[one.summary])
    media = [one for one in run.only("SRTP") if one.t < run.first_picture]
    first = next(number for number, one in enumerate(media, 1) if one.summary.endswith("marker"))
    sizes = sum(one.size for one in media[:first])
    lines = ["the first picture, encrypted; in clear: payload type, number, timestamp, marker, SSRC"]
    yield Row(media[0].t, media[0].who, f"{first} packets, {sizes} bytes", layer="SRTP", lines=lines)


def in_stun(datagram: Datagram) -> str:
    """Return what matters in a check, or in its answer."""
    fields = decode(datagram.data)
    if "USERNAME" in fields:
        role = "ICE-CONTROLLING" if "ICE-CONTROLLING" in fields else "ICE-CONTROLLED"
        return f"USERNAME {fields['USERNAME']}, {role}, signed with the pwd"
    return f"you came from {fields['XOR-MAPPED-ADDRESS']}; signed"


def picked(sdp: str, kinds: Sequence[str]) -> list[str]:
    """Return the lines of an SDP that begin so, in the order of `kinds`; what is long is cut."""
    lines = sdp.splitlines()
    return [cut(line, RIGHT - LEFT - 20) for kind in kinds for line in lines if line.startswith(kind)]


# ---- Page 1: the drawing ---------------------------------------------------------------------------------------------

LEFT, RIGHT = 312, 578  # where the peers' lines are
TOP, BOTTOM = 114, PAGE[1] - 88
LINE = 10.6  # from one line of text to the next


def height_of(row: Row) -> float:
    """Return how much room a row needs."""
    if row.layer:
        return 17 + LINE * len(lines_below(row))
    return (11 if row.words else 0) + (LINE if row.note else 0) + (14 if row.states else 0) + 4


def lines_below(row: Row) -> list[str]:
    """Return what stands below a row's arrow, in lines that fit between the peers."""
    return [part for line in row.lines for part in folded(line, RIGHT - LEFT - 20, MONO)]


def first_page(run: Run) -> Figure:
    """Return the call from top to bottom."""
    canvas = Canvas(*PAGE)
    rows = rows_of(run)
    title = "A WebRTC call, from nothing to the first picture"
    whose = f"One run of loopback.py, two peers of aiortc {aiortc.__version__}"
    heading(canvas, title, f"{whose}: every time, address and byte on this page is from it.")
    spare = (BOTTOM - TOP - sum(map(height_of, rows))) / len(rows)
    canvas.line((LEFT, LEFT), (TOP - 8, BOTTOM + 2), PALE, 1.4)
    canvas.line((RIGHT, RIGHT), (TOP - 8, BOTTOM + 2), PALE, 1.4)
    for x, name, role in ((LEFT, "pc1", "offers · ICE controlling"), (RIGHT, "pc2", "answers · begins DTLS")):
        canvas.box(x - 30, TOP - 30, 60, 20, DARK, round_by=3)
        write(canvas, x, TOP - 20, name, pixels=12, colour="white", align="center", weight="bold")
        side = -1 if x == LEFT else 1
        write(canvas, x + 38 * side, TOP - 20, role, colour=GREY, align="right" if side < 0 else "left")
    write(canvas, MARGIN + 32, TOP - 20, "ms", colour=GREY, align="right")
    y: float = TOP
    for number, row in enumerate(rows):
        high = height_of(row) + spare
        if number % 2 == 0:
            canvas.box(MARGIN, y, PAGE[0] - 2 * MARGIN, high, BAND)
        draw_row(canvas, row, y + spare / 2)
        y += high
    totals(canvas, run)
    return canvas.figure


def heading(canvas: Canvas, title: str, words: str) -> None:
    """Write a page's title, and below it a line."""
    write(canvas, MARGIN, 38, title, pixels=TITLE, colour=DARK, weight="bold")
    write(canvas, MARGIN, 60, words, pixels=TEXT, colour=GREY)


def draw_row(canvas: Canvas, row: Row, y: float) -> None:
    """Draw one row, whose upper edge is at `y`."""
    write(canvas, MARGIN + 32, y + 8, f"{row.t * 1000:.1f}", colour=GREY, align="right")
    if row.layer:
        draw_arrow(canvas, row, y)
        return
    own, side = (LEFT, -1) if row.who == "pc1" else (RIGHT, 1)
    align, x = ("right" if side < 0 else "left"), own + 10 * side
    if row.words:
        write(canvas, x, y + 8, row.words, pixels=TEXT, colour=DARK, align=align, family=MONO, weight="bold")
        canvas.box(own - 3, y + 5, 6, 6, DARK, round_by=1)
        y += 11
    if row.note:
        write(canvas, x, y + 7, row.note, colour=GREY, align=align)
        y += LINE
    states = row.states if side > 0 else row.states[::-1]
    for machine, state in states:
        x = draw_state(canvas, machine, state, x, y, side)


def draw_state(canvas: Canvas, machine: str, state: str, x: float, y: float, side: int) -> float:
    """Draw a state in its colour, from `x` to the left or right; return where the next one begins."""
    name, hue = MACHINES[machine]
    words = f"{name} {state}"
    wide = text_width(words, SMALL) + 8
    start = x if side > 0 else x - wide
    canvas.box(start, y + 2, wide, 12.5, hue, round_by=2.5)
    write(canvas, start + wide / 2, y + 8.2, words, colour="white", align="center")
    return x + (wide + 4) * side


def draw_arrow(canvas: Canvas, row: Row, y: float) -> None:
    """Draw what crosses, with its words on the arrow's shaft and its lines below."""
    start, end = (LEFT, RIGHT) if row.who == "pc1" else (RIGHT, LEFT)
    hue, middle, side = HUES[row.layer], (LEFT + RIGHT) / 2, 1 if end > start else -1
    name = f"{row.words}" if row.layer == "message" else f"{row.layer}  {row.words}"
    half = text_width(name, TEXT, "bold") / 2 + 6
    canvas.line((start, middle - half * side), (y + 8, y + 8), hue, 1.6)
    canvas.arrow((middle + half * side, y + 8), (end, y + 8), hue, 1.6)
    write(canvas, middle, y + 8, name, pixels=TEXT, colour=hue, align="center", weight="bold")
    for number, line in enumerate(lines_below(row)):
        hue = HUES.get(reader(line), DARK) if row.words in ("offer", "answer") else DARK
        write(canvas, LEFT + 12, y + 19 + LINE * number, line, colour=hue, family=MONO)
    if row.words == "offer":
        draw_readers(canvas, row, y)


READERS = {
    "message": ("m=", "a=sendrecv", "a=recvonly", "a=mid", "a=group"),
    "SRTP": ("a=rtpmap", "a=fmtp"),
    "STUN": ("a=ice",),
    "DTLS": ("a=fingerprint", "a=setup"),
}
ASIDES = {
    "message": "which media, who sends, one port for all",
    "SRTP": "what the numbers in packets will mean",
    "STUN": "whose checks are heard: name, password",
    "DTLS": "whose certificate is right, who begins",
}


def reader(line: str) -> str:
    """Return the layer that reads a line of an SDP; "" for one that goes on from the line above."""
    return next((layer for layer, begins in READERS.items() if line.startswith(begins)), "")


def draw_readers(canvas: Canvas, row: Row, y: float) -> None:
    """Write beside the offer what its lines are for, at the first line of each layer."""
    seen = set()
    for number, line in enumerate(lines_below(row)):
        layer = reader(line)
        if layer and layer not in seen:
            seen.add(layer)
            write(canvas, RIGHT + 10, y + 19 + LINE * number, ASIDES[layer], colour=HUES[layer])


def totals(canvas: Canvas, run: Run) -> None:
    """Write below the call what it has cost, and what goes on after it."""
    texts = sum(event.what.startswith("send ") for event in run.events)
    stun, dtls = run.only("STUN"), run.only("DTLS")
    y = BOTTOM + 18
    parts = (
        ("message", f"{texts} texts, by your own channel", "01, 02, 08"),
        ("STUN", f"{len(stun)} datagrams, {sum(one.size for one in stun)} bytes", "03, 04"),
        ("DTLS", f"{len(dtls)} datagrams, {sum(one.size for one in dtls)} bytes", "05"),
        ("SRTP", f"first picture after {run.first_picture * 1000:.0f} ms", "05, 06"),
    )
    wide = (PAGE[0] - 2 * MARGIN) / len(parts)
    for number, (layer, words, where) in enumerate(parts):
        x = MARGIN + wide * number
        canvas.box(x, y - 8, wide - 8, 34, HUES[layer], round_by=3)
        name = {"message": "signalling", "STUN": "ICE"}.get(layer, layer)
        write(canvas, x + 8, y + 1, name, pixels=TEXT, colour="white", weight="bold")
        write(canvas, x + wide - 16, y + 1, f"lesson {where}", colour="white", align="right")
        write(canvas, x + 8, y + 15, words, colour="white")
    after = "And then: pictures; reports and requests of RTCP (06); every 4 to 6 s a STUN request asks for consent, "
    after += "and 30 s without an answer end the call (03)."
    write(canvas, MARGIN, y + 40, after, colour=GREY)


# ---- Page 2: the texts -----------------------------------------------------------------------------------------------


class Words(NamedTuple):
    """One row of a table of page 2: the cells, and the layer in whose colour the first one is."""

    layer: str
    cells: tuple[str, ...]


SDP = (
    ("message", "a=group", "these m-lines share one port, one ICE, one DTLS", "offer/answer", "more ports, no error"),
    (
        "message",
        "m=",
        "one medium: its port, its payload types, best first",
        "offer/answer",
        "refused; port 0: rejected",
    ),
    ("message", "a=mid", "the m-line's name, for candidates and BUNDLE", "offer/answer", "refused"),
    (
        "message",
        "a=sendrecv",
        "who sends, seen from the side that wrote it",
        "sender, receiver",
        "connected, no picture",
    ),
    ("SRTP", "a=rtpmap", "what a number in the packets means", "receiver, decoder", "refused, or no picture"),
    ("SRTP", "a=fmtp:98", "98 repeats lost packets of 97", "sender, receiver", "nothing: repeated as 97"),
    ("SRTP", "a=rtcp-fb", "what the receiver may ask for", "receiver", "nothing in aiortc"),
    ("SRTP", "a=ssrc:", "the number of a stream of packets", "receiver", "nothing: the mid tells it"),
    ("STUN", "a=candidate", "an address where it may be reached", "ICE", "checking, if so on both sides"),
    ("STUN", "a=ice-ufrag", "which call a check is about", "ICE", "stuck in checking"),
    ("STUN", "a=ice-pwd", "signs the checks that come in", "ICE", "stuck in checking, 401"),
    (
        "DTLS",
        "a=fingerprint:sha-256",
        "hash of the certificate that will be shown",
        "DTLS",
        "failed, on one side or both",
    ),
    ("DTLS", "a=setup", "actpass asks, active begins, passive waits", "DTLS", "failed, on both"),
)
ORDER = (
    (
        "message",
        "signalingState",
        "not stable on one side",
        "offer or answer: lost, refused or never sent? The other side may say checking",
    ),
    (
        "message",
        "signalingState",
        "stable, all else new",
        "no m-line: the track came after the offer; or no candidate at all",
    ),
    (
        "STUN",
        "the tap, STUN",
        "nothing goes out",
        "candidates: did they arrive, no .local names, right sdpMid, after the description?",
    ),
    (
        "STUN",
        "",
        "one side sends nothing at all",
        "that side: has it the description and a port? do requests arrive there?",
    ),
    ("STUN", "", "requests out, none arrives", "the network: firewall, UDP blocked, symmetric NATs: a relay (TURN)"),
    ("STUN", "", "requests arrive, answers do not", "the network, one way"),
    ("STUN", "", "answer 401 or 487", "401: the password of another call; 487: both believe that they control"),
    ("STUN", "", "answers, no USE-CANDIDATE", "what does the controlling side see? are both lite?"),
    ("DTLS", "ICE completed", "connecting for ever", "DTLS is lost on its way, perhaps only its large datagrams"),
    ("DTLS", "", "failed", "the fingerprint, or both took the same role; with an alert: no cipher in common"),
    ("SRTP", "connected, black", "no packets leave", "the track, the direction, replaceTrack(null)"),
    ("SRTP", "", "they leave, do not arrive", "a firewall or a relay that is full"),
    ("SRTP", "", "they arrive, none is decoded", "the numbers in both texts; the key picture: is a PLI answered?"),
    ("SRTP", "", "decoded, none is seen", "your page or program: <video autoplay muted playsinline>"),
)
PROTECTS = (
    (
        "message",
        "signalling",
        "nothing by itself",
        "whoever carries the texts can read and change them: use https, and compare fingerprints by another way",
    ),
    (
        "STUN",
        "ICE: pwd",
        "strangers are not heard, and nobody is flooded",
        "it encrypts nothing, and every reader of the SDP has it",
    ),
    (
        "DTLS",
        "DTLS: fingerprint",
        "the other end has the key of that certificate",
        "not who that is: a changed SDP brings a changed fingerprint",
    ),
    (
        "SRTP",
        "SRTP: keys",
        "content: not read, changed, or repeated",
        "in clear: addresses, sizes, times, SSRC, sequence numbers",
    ),
    ("STUN", "TURN: password", "the server's bandwidth", "the server sees what the wire sees, and no picture"),
    (
        "SRTP",
        "a media server",
        "each leg by itself",
        "it has the keys of all legs; end to end needs one more layer (SFrame)",
    ),
)
ALIKE = (
    (
        "both stable, nothing happens",
        "no m-line",
        "no candidate at all",
        "m= in the offer? a=candidate in it, or sent beside it?",
    ),
    ("stuck in checking", "no candidates", "blocked UDP", "the tap: nothing goes out; nothing arrives"),
    ("stuck in checking", "blocked UDP", "wrong password", "the tap: no answer; the answer is 401"),
    ("one completed, one checking", "wrong password", "one way is shut", "the tap: 401; requests in, no answers back"),
    (
        "ICE completed, then failed",
        "fingerprint",
        "both took one role",
        "aiortc: one side has failed; both have. Compare both texts",
    ),
    (
        "connected, black",
        "nobody sends",
        "unknown payload type",
        "the tap: no SRTP arrives; its number is not in a=rtpmap",
    ),
    (
        "connected, frozen",
        "the wire is cut",
        "the source stands still",
        "the tap: nothing at all; STUN and RTCP go on",
    ),
    ("wrong state: stable", "the answer twice", "an answer to another offer", "the log: which message came before"),
    ("401 from TURN", "the first, unsigned", "a second, signed", "only the second means user or password"),
    ("closed after 30 s", "consent not answered", "gone without a bye", "the tap: media still arrive; nothing arrives"),
)
GONE = (
    ("says bye by signalling", "your program closes, at once", "the same"),
    ("close(), without a word", "closed, after milliseconds", "disconnected after 6 s, no more"),
    ("vanishes", "closed, after some 30 s", "disconnected after 6 s, failed after 16 s"),
)
NATS = ("full cone", "restricted", "port-restr.", "symmetric")
MEETINGS = ("sssp", "sssp", "sss-", "pp--")  # each kind against each: s srflx, p prflx, - none without a relay
KINDS = {"s": ("srflx", HUES["SRTP"]), "p": ("prflx", HUES["STUN"]), "-": ("relay", "#d5343a")}


def second_page(run: Run) -> Figure:
    """Return the lines of the SDP, a candidate, where to look, what is protected, and what looks alike."""
    canvas = Canvas(*PAGE)
    heading(canvas, "What to look at", "Blue is signalling, orange ICE, purple DTLS, green the media: as on page 1.")
    lines = run.offer.splitlines()
    table = [
        Words(layer, (next(line for line in lines if line.startswith(begin)), *more)) for layer, begin, *more in SDP
    ]
    y = panel(canvas, 74, "The lines of the SDP that do work", "this run's offer; lesson 02")
    y = draw_table(
        canvas, y, ("line", "what it says", "who reads it", "when it is wrong"), (232, 262, 106, 159), table, mono=True
    )
    y = panel(canvas, y, "A candidate, taken apart", "this run's; lesson 03")
    y = draw_candidate(canvas, y, candidates_in(run.offer)[0]["candidate"])
    y = panel(canvas, y, "Stuck? Ask in this order", "the first thing that is wrong is the fault; lessons 01 to 05")
    heads = ("look at", "you see", "so look for")
    y = draw_table(canvas, y, heads, (115, 185, 459), [Words(row[0], row[1:]) for row in ORDER])
    y = panel(canvas, y, "What each layer protects, and what it does not", "lessons 04 and 05")
    y = draw_table(
        canvas, y, ("layer", "protects", "does not"), (115, 270, 374), [Words(row[0], row[1:]) for row in PROTECTS]
    )
    y = panel(canvas, y, "What looks alike, and what tells it apart", "lessons 01 to 05; the clinic, lesson 10")
    heads = ("you see", "it may be", "or", "what tells them apart: one; or the other")
    y = draw_table(canvas, y, heads, (165, 125, 150, 319), [Words("", row) for row in ALIKE])
    draw_nats(canvas, panel(canvas, y, "Which NATs let a call through", "lesson 04", right=300))
    y = panel(canvas, y, "Is the other one still there?", "measured; lessons 00 and 03", left=326)
    heads = ("the other one", "aiortc says", "a browser says")
    y = draw_table(canvas, y, heads, (130, 150, 187), [Words("", row) for row in GONE], left=326)
    words = "A picture that arrives is the only proof. Give every wait of yours a deadline, keep a log of what was "
    words += "refused, and say bye."
    for number, line in enumerate(folded(words, PAGE[0] - MARGIN - 326)):
        write(canvas, 326, y + 6 + LINE * number, line, colour=GREY)
    return canvas.figure


def draw_nats(canvas: Canvas, y: float) -> None:
    """Draw which two kinds of NAT find a pair, and of which type it is."""
    first, wide, high = MARGIN + 66, 50, 15
    for column, name in enumerate(NATS):
        write(canvas, first + wide * (column + 0.5), y + 7, name, colour=GREY, align="center")
    for number, (name, types) in enumerate(zip(NATS, MEETINGS, strict=True)):
        top = y + 15 + (high + 2) * number
        write(canvas, first - 6, top + high / 2, name, colour=GREY, align="right")
        for column, kind in enumerate(types):
            word, hue = KINDS[kind]
            canvas.box(first + wide * column, top, wide - 2, high, hue, round_by=2)
            write(canvas, first + wide * (column + 0.5) - 1, top + high / 2, word, colour="white", align="center")


def panel(
    canvas: Canvas, y: float, title: str, note: str, *, left: float = MARGIN, right: float = PAGE[0] - MARGIN
) -> float:
    """Write the heading of a part of the page; return where its content begins."""
    write(canvas, left, y + 12, title, pixels=HEADING, colour=DARK, weight="bold")
    write(canvas, right, y + 12, note, colour=GREY, align="right")
    return y + 22


def draw_table(
    canvas: Canvas,
    y: float,
    heads: Iterable[str],
    widths: Sequence[float],
    rows: Sequence[Words],
    *,
    mono: bool = False,
    left: float = MARGIN,
) -> float:
    """Draw a table whose upper edge is at `y`; return its lower edge."""
    xs = [left + sum(widths[:number]) + 5 for number in range(len(widths))]
    canvas.box(left, y, sum(widths), 14, GREY)
    for x, head in zip(xs, heads, strict=True):
        write(canvas, x, y + 7, head, colour="white", weight="bold")
    y += 14
    for number, row in enumerate(rows):
        fonts = [MONO if mono and not column else SANS for column in range(len(widths))]
        cells = [
            [cut(text, wide - 8)] if family == MONO else folded(text, wide - 8)
            for text, wide, family in zip(row.cells, widths, fonts, strict=True)
        ]
        high = LINE * max(map(len, cells)) + 3.4
        if number % 2:
            canvas.box(left, y, sum(widths), high, BAND)
        for column, (x, texts) in enumerate(zip(xs, cells, strict=True)):
            hue = HUES.get(row.layer, DARK) if column == 0 else DARK
            weight = "bold" if column == 0 and not mono else "normal"
            for line, text in enumerate(texts):
                middle = y + 1.7 + LINE * (line + 0.5)
                write(canvas, x, middle, text, colour=hue, family=fonts[column], weight=weight)
        y += high
    return y + 9


def draw_candidate(canvas: Canvas, y: float, candidate: str) -> float:
    """Draw a candidate's parts side by side, each with what it says below; return the lower edge."""
    foundation, component, transport, priority, address, port, _, kind, *_ = candidate.removeprefix(
        "candidate:"
    ).split()
    parts = split_priority(int(priority))
    formula = f"2²⁴ · {parts.type_preference} + 2⁸ · {parts.local_preference} + 256 - {parts.component}"
    columns: list[tuple[str, str, float]] = [
        (f"candidate:{foundation[:6]}…", "foundation: the same for type, base, server and protocol alike", 125),
        (component, "component: 1, RTP and RTCP on one port", 92),
        (transport, "transport: tcp is for media servers", 80),
        (priority, f"priority: {formula}", 172),
        (address, "address: yours, the NAT's, the relay's, or a name in .local", 118),
        (port, "port: of a UDP socket", 82),
        (f"typ {kind}", "type: host 126, prflx 110, srflx 100, relay 0", 90),
    ]
    x = float(MARGIN)
    for words, says, wide in columns:
        canvas.box(x, y, wide - 4, 17, HUES["STUN"], round_by=2.5)
        write(canvas, x + (wide - 4) / 2, y + 8.5, words, colour="white", align="center", family=MONO)
        name, _, rest = says.partition(": ")
        write(canvas, x + 2, y + 25, name, colour=DARK, weight="bold")
        for number, line in enumerate(folded(rest, wide - 8)):
            write(canvas, x + 2, y + 36 + LINE * number, line, colour=DARK)
        x += wide
    more = "srflx and relay go on: raddr and rport, the base they stand for. A browser adds generation, ufrag, "
    more += "network-id: whoever does not know a word skips it."
    write(canvas, MARGIN + 2, y + 36 + 3 * LINE + 3, more, colour=GREY)
    return y + 36 + 4 * LINE + 8


# ---- The files -------------------------------------------------------------------------------------------------------


def version() -> str:
    """Return what tells one state of this program from another: it is in the PDF, so an old one is known."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


def make(folder: Path) -> None:
    """Make a call, and write the summary of it: summary.pdf, summary-1.png and summary-2.png."""
    run = asyncio.run(recorded())
    pages = [first_page(run), second_page(run)]
    (folder / "summary.pdf").write_bytes(pdf_of(pages))
    for number, page in enumerate(pages, 1):
        (folder / f"summary-{number}.png").write_bytes(png_of(page))


def pdf_of(pages: Sequence[Figure]) -> bytes:
    """Return the pages as a PDF file whose text can be searched."""
    file = io.BytesIO()
    about: dict[str, Any] = {"Title": "A WebRTC call on two pages", "Keywords": version(), "CreationDate": None}
    with mpl.rc_context({"pdf.fonttype": 42}), PdfPages(file, metadata=about) as pdf:
        for page in pages:
            pdf.savefig(page)
    return file.getvalue()


def png_of(page: Figure) -> bytes:
    """Return a page as a PNG file of few colours, on white."""
    page.set_dpi(100 * SHARPER)
    page.set_facecolor("white")
    canvas = FigureCanvasAgg(page)
    canvas.draw()
    file = io.BytesIO()
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
    drawn.quantize(255, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return file.getvalue()

"""What one takes along from the course: a glossary, a summary to print, a small picture of each lesson.

python notebooks/handouts.py             make all three
python notebooks/handouts.py glossary    glossary.md: each term in the words in which a lesson explains it
python notebooks/handouts.py pictures    pictures/00.png and so on, from what the lessons have shown
python notebooks/handouts.py summary     summary.pdf, summary-1.png and summary-2.png, from a call made now
python notebooks/handouts.py --check     make nothing; say what is no longer true
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

HERE = Path(__file__).resolve().parent


class HandoutError(Exception):
    """A handout cannot be made, or is not what it would be now. The text is one line."""


# ---- The lessons' prose ----------------------------------------------------------------------------------------------


class Said(NamedTuple):
    """One sentence of a lesson's prose, as Markdown, with its place."""

    lesson: Path
    heading: str
    paragraph: int
    text: str


FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
# The end of a sentence before another one, which may begin with a name that has no capital letter.
END = re.compile(r"[.?!][)\"*]*\s+(?=\(?(?:[\"*`\[]+\w|[A-Z0-9]|pc\d|m\d|aio))")


def lessons() -> list[Path]:
    """Return the lessons' files, in order."""
    return sorted(HERE.glob("[0-9][0-9]_*.ipynb"))


@cache
def cells(lesson: Path) -> list[dict[str, Any]]:
    """Return a lesson's cells. Raises HandoutError."""
    try:
        return list(json.loads(lesson.read_text(encoding="utf-8"))["cells"])
    except (OSError, ValueError, KeyError) as error:
        raise HandoutError(f"{lesson.name} is no notebook: {error}") from error


def source(cell: dict[str, Any]) -> str:
    """Return a cell's text."""
    return "".join(cell["source"])


@cache
def prose(lesson: Path) -> list[Said]:
    """Return a lesson's sentences: no code, no table, and nothing that is folded away."""
    found, heading, number = [], "", 0
    for cell in cells(lesson):
        if cell["cell_type"] != "markdown":
            continue
        for block in blocks(FENCED.sub("", FOLDED.sub("", source(cell)))):
            number += 1
            if block.startswith("#"):
                heading = block.lstrip("#").strip()
            else:
                found += [Said(lesson, heading, number, sentence) for sentence in sentences(block)]
    return found


def blocks(markdown: str) -> Iterator[str]:
    """Yield headings, paragraphs and items of lists, each in one line; tables and what is indented are left out."""
    lines: list[str] = []
    for line in [*markdown.splitlines(), ""]:
        begins = re.match(r"#+ |(?:-|\*|\d{1,2}\.) ", line)
        if lines and (begins or not line.strip() or line.startswith("|") or lines[0].startswith("#")):
            yield " ".join(lines)
            lines = []
        if line.strip() and not line.startswith(("|", "    ")):
            lines.append(re.sub(r"^(?:-|\*|\d{1,2}\.) ", "", line).strip())


def sentences(paragraph: str) -> list[str]:
    """Return a paragraph's sentences. A bracket that only opens or only closes in one is taken off its end."""
    cuts = [0, *(found.end() for found in END.finditer(paragraph)), len(paragraph)]
    parts = [paragraph[one:other].strip() for one, other in pairwise(cuts)]
    for number, part in enumerate(parts):
        if part.startswith("(") and part.count("(") > part.count(")"):
            parts[number] = part[1:]
        elif part.endswith(")") and part.count(")") > part.count("("):
            parts[number] = part[:-1]
    return parts


# ---- The glossary ----------------------------------------------------------------------------------------------------


class Term(NamedTuple):
    """A word, and how to find where a lesson explains it: the first sentence with `says` in it, and as many more of its
    paragraph as `more`. Without `says` it is the first one that has the word in bold."""

    name: str
    stands_for: str = ""
    says: str = ""
    more: int = 0


def explanation(term: Term) -> tuple[Said, str]:
    """Return the sentence that explains a term first, and the whole explanation. Raises HandoutError."""
    bold = re.compile(rf"\*\*{re.escape(term.name)}s?\*\*", re.IGNORECASE)
    for lesson in lessons():
        said = prose(lesson)
        for number, one in enumerate(said):
            if term.says in one.text if term.says else bold.search(one.text):
                following = [each.text for each in said[number : number + 1 + term.more]]
                if any(each.paragraph != one.paragraph for each in said[number : number + 1 + term.more]):
                    raise HandoutError(f"{term.name}: {lesson.name} has fewer sentences after {one.text[:40]!r}")
                return one, " ".join(following)
    raise HandoutError(f"{term.name}: no lesson says {term.says or term.name!r}")


def glossary() -> str:
    """Return the page. Raises HandoutError."""
    terms = sorted(TERMS, key=lambda term: sorting(term.name))
    letters = {letter: list(group) for letter, group in groupby(terms, key=lambda term: sorting(term.name)[0].upper())}
    lines = [
        "# Glossary",
        "",
        f"{len(terms)} words of this course, each in the words in which a lesson explains it. A heading in *italics*",
        "is the one to look for in the lesson that the link opens. This page is made by [`handouts.py`](handouts.py):",
        "to change an explanation, change the lesson. Beside it: the [questions and symptoms](questions.md), and the",
        "whole call on [two pages to print](summary.pdf).",
        "",
        " · ".join(f"[{letter}](#{letter.lower()})" for letter in letters),
    ]
    for letter, group in letters.items():
        lines += ["", f"## {letter}", "", "| word | explained | where |", "|---|---|---|", *map(row, group)]
    return "\n".join(lines) + "\n"


def sorting(name: str) -> str:
    """Return what a term is sorted by: its letters and digits."""
    return re.sub(r"^[^a-z0-9]+", "", name.casefold())


def row(term: Term) -> str:
    """Return a term's line of the table."""
    said, text = explanation(term)
    name = f"**{term.name}**" + (f", {term.stands_for}" if term.stands_for else "")
    text = text.replace("|", r"\|")
    return f"| {name} | {text} | [{said.lesson.name[:2]}]({said.lesson.name}), *{said.heading}* |"


TERMS = (
    # 00
    Term("`addTrack`", says="Then pc1 gives it something to send"),
    Term("`createOffer`", says="Write down, as text, what you want to send and receive", more=1),
    Term("`setLocalDescription`", says="Commit to the draft", more=1),
    Term("`setRemoteDescription`", says="The offer has crossed, and pc2 takes it", more=1),
    Term("`addIceCandidate`", says="Here is where the other one may be reached", more=1),
    Term("`createAnswer`", says="Write down which of the offered media and codecs it takes", more=1),
    Term("`setCodecPreferences`", says="Many pages leave out `setCodecPreferences`"),
    Term("`RTCPeerConnection`", says="the object from which all the others are reached"),
    Term("`replaceTrack`", says="One API call exchanged what the sender reads from", more=1),
    Term("`track`, the event", says="An event, `track`, tells it"),
    Term("aiortc", says="Under both lies [aiortc]"),
    Term("offer", says="an offer describes the tracks that are there when it is made"),
    Term("SDP", "Session Description Protocol", "It is written in SDP"),
    Term("signalling"),
    Term("media"),
    Term("I420", says="Codecs want it as a *frame* in the form I420"),
    Term("`pts`", "presentation timestamp", "`pts` becomes the time stamp of the RTP packets"),
    Term("time code", says="The black and white cells are a number with a checksum", more=1),
    Term("alert", says="has a good-bye of its own, an alert in one datagram", more=1),
    # 01
    Term("channel, of the signalling", says="The carrier is called a `Channel`", more=1),
    Term("signalingState"),
    Term("draft", says="An offer that was created is a draft"),
    Term("*have-local-offer*", says="And it is in *have-local-offer*"),
    Term("*have-remote-offer*", says="Now it is in *have-remote-offer*"),
    Term("*stable*", says="*stable* does not mean that the", more=1),
    Term("m-line"),
    Term("transceiver", says="Each medium has a transceiver"),
    Term("`negotiationneeded`", says="A browser reminds you with an event, `negotiationneeded`"),
    Term("provisional answer", "`pranswer`", "A *provisional* answer"),
    Term("rollback", says="There is a fourth type of description for it"),
    Term("glare", says="Both sides make an offer before they have heard of the other's", more=1),
    Term("perfect negotiation"),
    Term("call control"),
    # 02
    Term("attribute", says="`a=` is an attribute", more=1),
    Term("session part", says="speaks about the **session**, the whole call"),
    Term("port 9", says="9 is the *discard* port"),
    Term("port 0", says="A browser raises nothing here", more=1),
    Term("RTP", "Real-time Transport Protocol"),
    Term("payload type", says="A packet does not carry the name of a codec", more=1),
    Term("RTCP", "RTP Control Protocol"),
    Term("NACK", "negative acknowledgement", "*NACK*: these packets are missing"),
    Term("PLI", "picture loss indication", "*PLI*: I have lost too much"),
    Term("REMB", "receiver estimated maximum bitrate", "*REMB*: I believe that I can take"),
    Term("`rtpmap`", says="`a=rtpmap` says what each number is", more=1),
    Term("`fmtp` and `rtcp-fb`", says="`a=fmtp` gives parameters"),
    Term("rtx", "retransmission", "97 and 98 belong together", more=1),
    Term("mid", "media identification", "**mid** names the *m-line*", more=1),
    Term("msid", "media stream identification", "**msid** names", more=1),
    Term("SSRC", "synchronisation source"),
    Term("cname", "canonical name"),
    Term("extension of the RTP header", "`extmap`", "`a=extmap` gives numbers to small notes"),
    Term("direction", "`sendrecv` and the others", "`a=sendrecv` is the direction", more=1),
    Term("ufrag and pwd", "user name fragment and password", more=1),
    Term("fingerprint", says="The **fingerprint** belongs to DTLS", more=1),
    Term("`setup`", says="`a=setup` is about the DTLS handshake", more=2),
    Term("BUNDLE", says="A peer that is not told to bundle from the start"),
    Term("data channel", says="No payload types, no rtpmap, no direction, no SSRC", more=1),
    Term("`profile-level-id`", says="`profile-level-id` has a profile, constraints and a level", more=1),
    Term("`currentDirection`", says="A transceiver has a `direction`, its wish"),
    Term("mute", says="A mute is another thing"),
    Term("answer", says="Because an offer is a question and an answer belongs to it"),
    # 03
    Term("ICE", "Interactive Connectivity Establishment", "ICE (RFC 8445) is the way to find out"),
    Term("candidate", says="A **candidate** is an address and a port"),
    Term("foundation"),
    Term("loopback address", says="leaves loopback addresses out"),
    Term("host candidate", says="*host*: an address of the machine itself"),
    Term("priority of a candidate", says="so each candidate carries a number"),
    Term("type preference", says="The **type** counts most"),
    Term("local preference"),
    Term("component", says="The **component** counts least", more=1),
    Term("mDNS", "multicast DNS", "A page that may not use camera or microphone must not learn your private address"),
    Term("TCP candidate", says="**TCP** is for media servers behind firewalls", more=1),
    Term("check"),
    Term("message integrity", says="**MESSAGE-INTEGRITY** is a hash keyed", more=1),
    Term("controlling and controlled", says="**ICE-CONTROLLING**: one side decides", more=1),
    Term("nomination", says="**USE-CANDIDATE**", more=1),
    Term("pair", says="is a **pair**"),
    Term("check list"),
    Term("states of a pair", says="Two by two are four pairs", more=1),
    Term("aggressive nomination", says="This is *aggressive* nomination"),
    Term("ice-lite", says="It may be *ice-lite*"),
    Term("trickle ICE", says="A candidate may take long to find", more=1),
    Term("all at once", says="**All at once** waits until gathering is over"),
    Term("peer-reflexive", "`prflx`", "*prflx*, peer-reflexive: learned from a test datagram"),
    Term("end-of-candidates", says="says that no more candidates will come"),
    Term("consent", says="Whoever sends video to an address must make sure", more=1),
    Term("*disconnected* and *failed*", says="*disconnected* may heal by itself", more=1),
    Term("ICE restart", says="`pc.restartIce()` asks for one", more=1),
    # 04
    Term("NAT", "Network Address Translation", "stands a box that rewrites addresses, a NAT"),
    Term("private address", says="and a port behind a NAT is a private address"),
    Term("mapping", says="**Mapping** (section 4.1)", more=1),
    Term("filtering", says="**Filtering** (section 5)", more=1),
    Term("cone", says="At a full cone anybody may come in", more=2),
    Term("symmetric NAT", says="a **symmetric** NAT takes a new one"),
    Term("STUN", "Session Traversal Utilities for NAT", "STUN tells a peer how it looks from outside"),
    Term("XOR-MAPPED-ADDRESS", says="has one attribute, XOR-MAPPED-ADDRESS", more=1),
    Term("server-reflexive", "`srflx`", "That is a **server-reflexive address**", more=1),
    Term("hole punching", says="This is **hole punching**", more=3),
    Term("TURN", "Traversal Using Relays around NAT", "An address that both can write to", more=1),
    Term("realm and nonce", says="the **realm**, which names the list"),
    Term("allocation", says="TURN's messages are STUN's", more=1),
    Term("permission", says="The server is a NAT with address-dependent filtering"),
    Term("Data indication"),
    Term("channel, of TURN", says="A **Send indication** carries the whole address", more=1),
    Term("`iceTransportPolicy`", "relay", "With the policy *relay* a peer tells no other address", more=1),
    Term("`turns:`", says="`turns:` is: TURN inside TLS"),
    Term("`external-ip`", says="A TURN server in a cloud or a container knows its private", more=2),
    # 05
    Term("DTLS", "Datagram Transport Layer Security", "It is TLS, as behind `https://`, made fit for datagrams"),
    Term("flight"),
    Term("ClientHello", says="**pc2: ClientHello.**", more=1),
    Term("CertificateVerify", says="**CertificateVerify**: a signature over all", more=1),
    Term("Finished", says="**Finished**, a hash of the whole conversation"),
    Term("`use_srtp`", says="is what makes it a WebRTC handshake"),
    Term("DTLS 1.3", says="From the ServerHello on everything is encrypted"),
    Term("certificate", says="The subject is a random word, and it has signed itself", more=2),
    Term("exporter", says="From it, and from nothing else, each computes 88 bytes", more=2),
    Term("forward secrecy", says="From two public halves the secret cannot be computed"),
    Term("SRTP", "Secure Real-time Transport Protocol", "ICE has found a way (lessons 03 and 04)", more=1),
    Term("tag, of SRTP", says="Every packet has become shorter by sixteen bytes"),
    Term("replay", says="And each packet is opened once", more=1),
    Term("man in the middle", says="**Mallory** runs the server", more=5),
    Term("media server", says="**A media server is the same construction, in the open**", more=1),
    Term("end-to-end encryption", says="Unless the two encrypt once more", more=1),
    # 06
    Term("sequence number", more=1),
    Term("timestamp", more=1),
    Term("marker"),
    Term("key picture", "also key frame", "The first picture is **whole**", more=1),
    Term("delta picture", says="Each later one holds only what has changed since"),
    Term("pacing", more=1),
    Term("repair", says="pc1 keeps its last 128 packets"),
    Term("sender report", "SR", "The sender: a **sender report**", more=1),
    Term("fraction lost", says="*fraction lost* is that of the time since the last report"),
    Term("round trip", more=1),
    Term("transport-cc", says="reports each packet's arrival (transport-cc)"),
    Term("jitter", says="each packet takes up to 40 ms longer", more=1),
    Term("jitter buffer", says="**neither buffer smooths anything**", more=2),
    Term("lip sync"),
    # 07
    Term("label", says="makes a channel with a **label**"),
    Term("SCTP", "Stream Control Transmission Protocol", more=1),
    Term("association"),
    Term("SACK", "selective acknowledgement", "A SACK (*selective acknowledgement*)"),
    Term("stream, of SCTP", says="a channel is a **stream** in it"),
    Term("DCEP", "Data Channel Establishment Protocol", "To open it, one side sends one message on that stream"),
    Term("PPID", "payload protocol identifier"),
    Term("`negotiated` channel", says="If both programs know their channels from the start", more=1),
    Term("`max-message-size`", says="`max-message-size` says how large a message"),
    Term("`bufferedAmount`", says="`bufferedAmount` says how many bytes of yours wait there"),
    Term("back-pressure"),
    Term("`maxRetransmits`", says="`maxRetransmits=n`: what is lost", more=1),
    Term("`maxPacketLifeTime`", says="`maxPacketLifeTime=ms`: what is lost"),
    Term("head-of-line blocking", says="But one lost datagram holds up all that came after it", more=1),
    # 08
    Term("WebSocket", says="First a WebSocket: a connection on which both sides"),
    Term("ping", says="by a **ping**, a question that must be answered"),
    Term("socket.io", says="socket.io is a layer above the WebSocket"),
    Term("sid", says="with a new *sid*, the name that the server gives it"),
    Term("sticky sessions", says="behind several servers each request must then reach the same one"),
    Term("Redis"),
    Term("id of a call", says="So **each call has an id**"),
    Term("`Origin`", says="in the header `Origin`"),
    # 09
    Term("hold", says="This is **hold**"),
    Term("`transceiver.stop()`", says="`transceiver.stop()` gives the m-line up for good"),
    Term("`MediaRelay`", says="aiortc has it: `MediaRelay`", more=1),
    Term("mesh"),
    Term("MCU", "multipoint control unit", "(an **MCU**)"),
    Term("SFU", "selective forwarding unit", "(an **SFU**"),
    Term("FIR", "full intra request", "There is a second message for the same thing, FIR", more=1),
    Term("Janus", says="is a media server in C with plugins"),
    Term("simulcast"),
    Term("rid", "restriction identifier", "has a name, the **rid**"),
    Term("SVC", "scalable video coding"),
    # 10
    Term("symptom and evidence", says="It is true, but it would be as true of another fault", more=1),
    Term("the lowest broken layer", says="**The lowest broken layer is the one to look at.**"),
)


# ---- The pictures ----------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """What of a lesson its picture shows: the picture of that number below that heading, from `left` and `top` on,
    `width` wide and half as high, in its pixels. Without a number it is the text that is printed there first."""

    heading: str
    number: int | None = 0
    left: int = 0
    top: int = 0
    width: int = 980


WIDTH = 320  # pixels
LARGEST = 30_000  # bytes
PICTURES = {
    "00": Part("Success first", 0, 90, 0, 800),
    "01": Part("Glare: both offer at once", 0, 190, 195, 600),
    "02": Part("A draft", None),
    "03": Part("Four datagrams", 0, 190, 160, 600),
    "04": Part("Each kind against each", 0, 180, 0, 768),
    "05": Part("From datagrams to the picture", 1, 150, 0, 760),
    "06": Part("One packet is lost", 0, 0, 20, 640),
    "07": Part("The same messages through the same loss", 0, 0, 0, 720),
    "08": Part("Ringing is not WebRTC", 0, 60, 10, 840),
    "09": Part("Both at once, and a browser is polite", 1, 0, 0, 556),
    "10": Part("How far you are", 0, 540, 0, 440),
}


def outputs(lesson: Path, heading: str) -> Iterator[dict[str, Any]]:
    """Yield what the cells below a heading have shown."""
    here = False
    for cell in cells(lesson):
        if cell["cell_type"] == "code":
            yield from cell["outputs"] if here else ()
        elif headings := re.findall(r"(?m)^#+ (.+)$", FENCED.sub("", source(cell))):
            here = headings[-1].strip() == heading


def picture(lesson: Path) -> bytes:
    """Return a lesson's picture, a PNG file with what was transparent still so. Raises HandoutError."""
    part = PICTURES.get(lesson.name[:2])
    if part is None:
        raise HandoutError(f"{lesson.name}: no part of it is chosen for its picture")
    shown = list(outputs(lesson, part.heading))
    try:
        if part.number is None:
            whole = page_of("".join(next(one["text"] for one in shown if "text" in one)).splitlines())
        else:
            pngs = [data["image/png"] for one in shown if "image/png" in (data := one.get("data", {}))]
            whole = Image.open(io.BytesIO(base64.b64decode("".join(pngs[part.number])))).convert("RGBA")
    except (StopIteration, IndexError) as error:
        raise HandoutError(f"{lesson.name} shows no such picture below {part.heading!r}") from error
    cut = whole.crop((part.left, part.top, part.left + part.width, part.top + part.width // 2))
    small = cut.resize((WIDTH, WIDTH // 2), Image.Resampling.LANCZOS)
    for colours in (255, 128, 64, 32):
        file = io.BytesIO()
        small.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(file, "png", optimize=True)
        if len(file.getvalue()) <= LARGEST:
            return file.getvalue()
    raise HandoutError(f"{lesson.name}: its picture has more than {LARGEST} bytes")


def page_of(lines: list[str]) -> Image.Image:
    """Return the lines of an SDP that do work, each in the colour of the layer that reads it, 980 pixels wide."""
    from lab.draw import FAINT, HUES, MONO, Canvas, Drawing  # here, for it takes seconds, which --help should not

    readers = {
        "a=group": "message",
        "m=": "message",
        "a=mid": "message",
        "a=sendrecv": "message",
        "a=rtpmap": "SRTP",
        "a=fmtp": "SRTP",
        "a=ice": "STUN",
        "a=candidate": "STUN",
        "a=fingerprint:sha-256": "DTLS",
        "a=setup": "DTLS",
    }
    read = [(line, HUES[layer]) for line in lines for begin, layer in readers.items() if line.startswith(begin)]
    canvas, high = Canvas(980, 490), 490 / (len(read) + 1)
    for number, (line, hue) in enumerate(read, 1):
        canvas.text(20, high * (number - 0.1), line, pixels=0.8 * high, colour=hue, family=MONO)
    canvas.line((10, 10), (10, 480), FAINT, 4)
    return Image.fromarray(Drawing(canvas, "").pixels)


# ---- Command line ----------------------------------------------------------------------------------------------------


def picture_file(lesson: Path) -> Path:
    """Return where a lesson's picture is."""
    return HERE / "pictures" / f"{lesson.name[:2]}.png"


def size_of(png: bytes) -> tuple[int, int]:
    """Return a picture's width and height, in pixels."""
    return Image.open(io.BytesIO(png)).size


def make_glossary() -> None:
    """Write glossary.md. Raises HandoutError."""
    (HERE / "glossary.md").write_text(glossary(), encoding="utf-8")


def make_pictures() -> None:
    """Write a picture for each lesson. Raises HandoutError."""
    (HERE / "pictures").mkdir(exist_ok=True)
    for lesson in lessons():
        picture_file(lesson).write_bytes(picture(lesson))


def make_summary() -> None:
    """Make a call, and write the two pages."""
    from summary import make  # here, for it loads all that a call needs

    make(HERE)


MAKERS = {"glossary": make_glossary, "pictures": make_pictures, "summary": make_summary}


def stale() -> Iterator[str]:
    """Yield what is no longer as it would be made now, one line each. Raises HandoutError."""
    page = HERE / "glossary.md"
    if not page.exists() or page.read_text(encoding="utf-8") != glossary():
        yield "glossary.md is not what the lessons say now: run notebooks/handouts.py glossary"
    for lesson in lessons():
        file = picture_file(lesson)
        if not file.exists() or size_of(file.read_bytes()) != size_of(picture(lesson)):
            yield f"{lesson.name} has no picture, or one of another size: run notebooks/handouts.py pictures"
    from summary import version

    pdf = HERE / "summary.pdf"
    if not pdf.exists() or version().encode() not in pdf.read_bytes():
        yield "summary.pdf was drawn by another summary.py: run notebooks/handouts.py summary"


def main(arguments: list[str] | None = None) -> int:
    """Make the handouts that are named, or check all; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("handouts", nargs="*", metavar="HANDOUT", help=f"{', '.join(MAKERS)}; all if none")
    parser.add_argument("--check", action="store_true", help="make nothing; say what is no longer true")
    options = parser.parse_args(arguments)
    if unknown := set(options.handouts) - set(MAKERS):
        parser.error(f"no handout {', '.join(sorted(unknown))}: there is {', '.join(MAKERS)}")
    try:
        if options.check:
            found = list(stale())
            print("\n".join(found) or "all handouts are as they would be made now")
            return 1 if found else 0
        for name in options.handouts or MAKERS:
            MAKERS[name]()
            print(f"{name}: made")
    except HandoutError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

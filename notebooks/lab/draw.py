"""Diagrams of a run, drawn from its log: who said what to whom, and which state each machine was in. Where in a call's
layers a lesson is. And the table that the other rooms put their text in.

All of it stands on the page itself, bright or dark: grounds let the page through, and each colour has the same contrast
against white and against JupyterLab's dark ground, above 4.3 to 1.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import chain, groupby, pairwise, zip_longest
from typing import Any, NamedTuple, Protocol

import numpy as np
from IPython.display import HTML
from IPython.display import Image as Still
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from loopback import STATES, Event, Log

from .slider import show

DPI = 100
WIDTH = 980  # pixels: what JupyterLab and the hosting site show without scaling
INK, SOFT, FAINT, BAD, WHITE = "#6e7a8c", "#747981", "#747981", "#e2373c", "#ffffff"
SHADE, RULE = (0.5, 0.5, 0.5, 0.1), (0.5, 0.5, 0.5, 0.35)  # over the page: every second row, thin lines

# One hue for a layer, wherever it appears: its datagrams, and the state machine that tells of it.
HUES = {
    "message": "#2b77e1",
    "STUN": "#c15c05",
    "DTLS": "#9a5cd0",
    "SRTP": "#238b4e",
    "SRTCP": "#19868d",
}
BADGES = {
    "signalingState": HUES["message"],
    "iceGatheringState": INK,
    "iceConnectionState": HUES["STUN"],
    "connectionState": HUES["SRTCP"],
    "dtlsState": HUES["DTLS"],  # of the transport, not of the connection: RTCDtlsTransport (W3C webrtc-pc section 5.5)
}
SHORT = {
    "signalingState": "signaling",
    "iceGatheringState": "iceGathering",
    "iceConnectionState": "ICE",
    "connectionState": "connection",
    "dtlsState": "DTLS",
}
FIRST = {"signalingState": "stable"}  # W3C webrtc-pc section 4.3.1; the other three machines begin with "new"


class Tapped(Protocol):
    """What a diagram needs of a Tap: its datagrams, each with t, who, direction, layer, summary and dropped."""

    datagrams: Sequence[Any]


# ---- Pixels ----------------------------------------------------------------------------------------------------------


@cache
def _font(pixels: float, weight: str, family: str) -> FontProperties:
    return FontProperties(family=family, weight=weight, size=pixels * 72 / DPI)


_RULER = RendererAgg(1, 1, DPI)  # measures text as it will be drawn
SANS, MONO = "DejaVu Sans", "DejaVu Sans Mono"  # both come with matplotlib, so every machine draws the same


@cache
def text_width(text: str, pixels: float, weight: str = "normal", family: str = SANS) -> float:
    """Return how many pixels wide a text is drawn."""
    font = _font(pixels, weight, family)
    width, _, _ = _RULER.get_text_width_height_descent(text, font, ismath=False)
    return float(width)


def wrapped(text: str, room: float, pixels: float, family: str = SANS) -> list[str]:
    """Return a text in lines of at most `room` pixels, cut between words; a longer word is cut where it must be."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, pixels, family=family) <= room:
            lines[-1] = longer
            continue
        lines.append(word)
        while text_width(lines[-1], pixels, family=family) > room and len(lines[-1]) > 4:
            long = lines.pop()
            cut = next(n for n in range(len(long) - 1, 0, -1) if n <= 4 or text_width(long[:n], pixels) <= room)
            lines += [long[:cut], long[cut:]]
    return lines or [""]


def shortened(text: str, room: float, pixels: float, weight: str = "normal", family: str = SANS) -> str:
    """Return the text, its end replaced by an ellipsis where it needs more than `room` pixels; "" where none fits."""
    if text_width(text, pixels, weight, family) <= room:
        return text
    kept = text
    while kept and text_width(kept + "…", pixels, weight, family) > room:
        kept = kept[:-1]
    return f"{kept.rstrip()}…" if len(kept) > 3 else ""


def png_of(pixels: NDArray[np.uint8], *, quick: bool = False) -> bytes:
    """Return height x width x 4 as a PNG file; 255 colours are more than a diagram has, a third as large."""
    picture, file = Image.fromarray(pixels), io.BytesIO()
    if quick:
        picture.save(file, "png", compress_level=1)
    else:
        picture.quantize(255, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return file.getvalue()


class Canvas:
    """A matplotlib figure whose unit is the pixel, with the origin at the top left.

    `labels` are texts that lie over lines: the lines are taken away around them, down to the ground.
    """

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="none")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(height, 0)
        self.axes.axis("off")
        self.labels: list[tuple[Text, tuple[slice, slice]]] = []  # with the rows and columns of its box

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        colour: str = INK,
        pixels: float = 12,
        align: str = "left",
        weight: str = "normal",
        family: str = SANS,
        label: bool = False,
    ) -> None:
        """Write a text, of one line or more, with its middle at height `y`. A label lies over lines, in the middle."""
        drawn = self.axes.text(
            x,
            y,
            text,
            color=colour,
            fontproperties=_font(pixels, weight, family),
            ha=align,
            va="center",
            linespacing=1.15,
            parse_math=False,
            zorder=5,
        )
        if label:
            lines = text.split("\n")
            half = (max(text_width(line, pixels, weight, family) for line in lines) / 2 + 5, len(lines) * LINE / 2)
            rows, columns = (slice(round(mid - size), round(mid + size)) for mid, size in ((y, half[1]), (x, half[0])))
            self.labels.append((drawn, (rows, columns)))

    def line(
        self, xs: tuple[float, float], ys: tuple[float, float], colour: Any, width: float = 1, **more: Any
    ) -> None:
        """Draw a straight line."""
        options: dict[str, Any] = {"solid_capstyle": "butt", "zorder": 2} | more
        self.axes.plot(xs, ys, color=colour, linewidth=width * 72 / DPI, **options)

    def box(self, x: float, y: float, width: float, height: float, colour: Any, *, round_by: float = 0) -> None:
        """Fill a rectangle whose top left corner is (x, y)."""
        if round_by:
            style = f"round,pad=0,rounding_size={round_by}"
            patch: Any = FancyBboxPatch(
                (x, y), width, height, boxstyle=style, facecolor=colour, edgecolor="none", zorder=3
            )
        else:
            patch = Rectangle((x, y), width, height, facecolor=colour, edgecolor="none", zorder=0.5)
        self.axes.add_patch(patch)

    def frame(self, x: float, y: float, width: float, height: float, colour: Any) -> None:
        """Draw the outline of a rectangle whose top left corner is (x, y)."""
        self.axes.add_patch(Rectangle((x, y), width, height, facecolor="none", edgecolor=colour, zorder=0.5))

    def arrow(
        self, start: tuple[float, float], end: tuple[float, float], colour: str, width: float, style: str = "-|>"
    ) -> None:
        """Draw an arrow whose tip touches `end`."""
        self.axes.add_patch(
            FancyArrowPatch(
                start,
                end,
                arrowstyle=f"{style},head_length=5.5,head_width=2.6",
                mutation_scale=1.05,
                color=colour,
                linewidth=width * 72 / DPI,
                shrinkA=0,
                shrinkB=0,
                zorder=4,
            )
        )

    def cross(self, x: float, y: float, colour: str = BAD, size: float = 4.5) -> None:
        """Mark where something was lost."""
        for sign in (1, -1):
            self.line((x - size, x + size), (y - sign * size, y + sign * size), colour, 2, zorder=6)


class Moment(NamedTuple):
    """Where in a picture a time is: what lies beyond that pixel, downwards or to the right, has not happened yet."""

    t: float  # s
    pixel: float


class Drawing:
    """A finished diagram: a notebook shows its PNG, a test reads what is in it. Where somebody can move it, a slider
    above it goes through its moments."""

    def __init__(self, canvas: Canvas, name: str, moments: Iterable[Moment] = (), *, downwards: bool = True) -> None:
        self.figure, self.labels, self.name, self.downwards = canvas.figure, canvas.labels, name, downwards
        self.moments = sorted(set(moments))

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """The picture: height x width x red, green, blue and alpha."""
        canvas = FigureCanvasAgg(self.figure)
        for label, _ in self.labels:
            label.set_visible(False)
        canvas.draw()
        drawn = np.asarray(canvas.buffer_rgba())
        for _, (rows, columns) in self.labels:
            drawn[rows, columns] = drawn[rows, 2:3]  # at the left edge is nothing but the ground
        for label, _ in self.labels:
            label.set_visible(True)
            label.draw(canvas.get_renderer())
        return drawn.copy()

    @cached_property
    def png(self) -> bytes:
        """The picture as a PNG file."""
        return png_of(self.pixels)

    def at(self, moment: Moment) -> bytes:
        """Return the picture as a PNG file, what comes after that moment faint."""
        pixels, edge = self.pixels.copy(), round(moment.pixel)
        later = pixels[edge:] if self.downwards else pixels[:, edge:]
        later[..., 3] = later[..., 3] // 8
        line = pixels[edge : edge + 2] if self.downwards else pixels[:, edge : edge + 2]
        line[:] = [round(255 * part) for part in to_rgba(BAD)]
        return png_of(pixels, quick=True)

    def _repr_png_(self) -> bytes:
        return self.png

    def _ipython_display_(self) -> None:
        names = [f"{moment.t * 1000:.1f} ms" for moment in self.moments]
        show(self.png, names, lambda number: self.at(self.moments[number]))

    def __repr__(self) -> str:
        return self.name


# ---- The sequence diagram --------------------------------------------------------------------------------------------

ROW, LINE, HEAD = 21, 14, 92  # pixels: one row, a further line in it, and what is above the first
PC1_X, PC2_X = 338, 640
PAUSE = 0.08  # s: a longer silence is drawn as a gap


@dataclass
class Row:
    """One line of a sequence diagram: what one peer did, with the states that changed then."""

    t: float
    who: str
    text: str = ""
    detail: str = ""
    states: list[tuple[str, str]] = field(default_factory=list)
    bad: bool = False
    open: bool = False  # a message came in: the call it leads to belongs beside it


@dataclass
class Arrow:
    """Something that crossed, or did not: `sent` and `received` are row numbers, None where that end is missing."""

    kind: str  # the message's type, or the datagrams' layer
    who: str  # the sender
    label: str
    sent: int | None
    received: int | None = None
    datagrams: bool = False
    both_ways: bool = False
    lost: int = 0
    refused: bool = False


@dataclass
class Group:
    """Datagrams of one layer that followed each other."""

    t: float
    layer: str
    sent: Counter[str]
    lost: int
    summary: str

    @property
    def label(self) -> str:
        """What is written at its arrow."""
        count = sum(self.sent.values())
        words = self.summary if count == 1 else f"{self.layer} x{count}"
        return f"{words}, {self.lost} lost" if self.lost else words


def events_of(log: Log | Iterable[Event], since: float, until: float) -> list[Event]:
    """Return the events of a log, or of a list, between two times on its clock."""
    return [event for event in (log.events if isinstance(log, Log) else log) if since <= event.t <= until]


def datagrams_of(tap: Tapped | None, since: float, until: float) -> list[Any]:
    """Return a tap's datagrams between two times; none without a tap."""
    found = [] if tap is None else [datagram for datagram in tap.datagrams if since <= datagram.t <= until]
    return sorted(found, key=lambda datagram: datagram.t)


def _crossings(datagrams: Iterable[Any], peers: tuple[str, str]) -> Iterator[tuple[Any, str, int, int]]:
    """Yield each datagram once, as (datagram, sender, sent, lost): a peer's own view of what it was sent is counted
    only where the datagram ended there."""
    for datagram in datagrams:
        if datagram.who not in peers:
            continue
        other = peers[1 - peers.index(datagram.who)]
        if datagram.direction == "out":
            yield datagram, datagram.who, 1, int(datagram.dropped)
        elif datagram.dropped:
            yield datagram, other, 0, 1


def _grouped(datagrams: Iterable[Any], peers: tuple[str, str]) -> list[Group]:
    """Group what was sent between two events: by layer and direction, and only by layer where that is still long."""

    def gather(key: Any, found: list[tuple[Any, str, int, int]]) -> list[Group]:
        groups = []
        for _, members in groupby(found, key):
            run = list(members)
            first = run[0][0]
            sent: Counter[str] = Counter()
            for _, sender, count, _ in run:
                sent[sender] += count
            summary = first.summary if first.summary.startswith(first.layer) else f"{first.layer} {first.summary}"
            groups.append(Group(first.t, first.layer, sent, sum(lost for *_, lost in run), summary))
        return groups

    found = list(_crossings(datagrams, peers))
    groups = gather(lambda one: (one[0].layer, one[1]), found)
    if len(groups) > 5:
        order = list(dict.fromkeys(one[0].layer for one in found))
        groups = gather(lambda one: one[0].layer, sorted(found, key=lambda one: order.index(one[0].layer)))
    return groups


def _message_label(kind: str, detail: str) -> str:
    address = re.search(r" (\S+) (\d+) typ (\S+)", detail)
    if address:
        host, port, typ = address.groups()
        return f"{kind} · {typ} {host}:{port}"
    return f"{kind} · {detail}" if detail else kind


class _Script:
    """Turns events and datagrams into rows and arrows."""

    def __init__(self, events: list[Event], datagrams: list[Any], peers: tuple[str, str]) -> None:
        self.peers = peers
        self.rows: list[Row] = []
        self.arrows: list[Arrow] = []
        self.under_way: dict[tuple[str, str], deque[Arrow]] = defaultdict(deque)
        self.received: dict[str, str] = {}  # by each peer, the kind it has just taken
        waiting = deque(datagrams)
        for event in events:
            early = []
            while waiting and waiting[0].t < event.t:
                early.append(waiting.popleft())
            self.datagrams(early)
            self.event(event)
        self.datagrams(waiting)

    def other(self, who: str) -> str:
        return self.peers[1 - self.peers.index(who)] if who in self.peers else who

    def row(self, t: float, who: str, **more: Any) -> Row:
        """Add a row."""
        self.rows.append(Row(t, who, **more))
        return self.rows[-1]

    def event(self, event: Event) -> None:
        """Add one event of the log."""
        verb, _, kind = event.what.partition(" ")
        if event.who in self.peers and event.what in BADGES:
            self.state(event)
        elif event.who in self.peers and verb == "send" and kind:
            self.row(event.t, event.who)
            arrow = Arrow(kind, event.who, _message_label(kind, event.detail), len(self.rows) - 1)
            self.arrows.append(arrow)
            self.under_way[event.who, kind].append(arrow)
        elif event.who in self.peers and verb == "receive" and kind:
            self.arrival(event, kind)
            self.rows[-1].open = True
            self.received[event.who] = kind
        elif event.who in self.peers and verb == "refused" and kind:
            if self.received.pop(event.who, None) != kind:
                self.arrival(event, kind)
                self.arrows[-1].refused = True
            else:
                self.row(event.t, event.who)
            row = self.rows[-1]
            row.text, row.detail, row.bad = event.what, event.detail, True
        else:
            if event.what == "close":  # what is still under way will not be read any more
                for arrow in chain(*self.under_way.values()):
                    arrow.lost = 1
            last = self.rows[-1] if self.rows else None
            if last is None or last.who != event.who or not last.open:
                last = self.row(event.t, event.who)
            last.text, last.detail, last.open = event.what, event.detail, False

    def arrival(self, event: Event, kind: str) -> None:
        """Add the row where a message arrives, and end its arrow there."""
        self.row(event.t, event.who)
        sender = self.other(event.who)
        queue = self.under_way[sender, kind]
        if queue:
            arrow = queue.popleft()
            self.arrows.remove(arrow)
        else:
            arrow = Arrow(kind, sender, kind, None)
        arrow.received = len(self.rows) - 1
        self.arrows.append(arrow)

    def state(self, event: Event) -> None:
        """Add a state change, to the row of the one before where there is room."""
        state = (event.what, event.detail.removeprefix("→ "))
        last = self.rows[-1] if self.rows else None
        if last and last.who == event.who and last.states and _badges_width([*last.states, state]) < PC1_X - 92:
            last.states.append(state)
        else:
            self.row(event.t, event.who, states=[state])

    def datagrams(self, datagrams: Iterable[Any]) -> None:
        """Add the datagrams sent between two events."""
        for group in _grouped(datagrams, self.peers):
            sender = group.sent.most_common(1)[0][0]
            self.row(group.t, "")
            here = len(self.rows) - 1
            gone = group.lost >= sum(group.sent.values())
            arrow = Arrow(
                group.layer, sender, group.label, here, None if gone else here, datagrams=True, lost=group.lost
            )
            arrow.both_ways = sum(1 for count in group.sent.values() if count) == 2
            self.arrows.append(arrow)


def _badge_text(state: tuple[str, str]) -> str:
    return f"{SHORT[state[0]]} {state[1]}"


def _badges_width(states: list[tuple[str, str]]) -> float:
    return sum(text_width(_badge_text(state), 11) + 18 for state in states)


class SequenceDiagram(Drawing):
    """A sequence diagram, with its rows and arrows."""

    def __init__(self, canvas: Canvas, script: _Script, moments: Iterable[Moment]) -> None:
        super().__init__(canvas, "sequence diagram", moments)
        self.rows, self.arrows = script.rows, script.arrows

    @property
    def messages(self) -> list[Arrow]:
        """The arrows that are messages of the signalling."""
        return [arrow for arrow in self.arrows if not arrow.datagrams]


def sequence(
    log: Log | Iterable[Event],
    tap: Tapped | None = None,
    *,
    since: float = 0.0,
    until: float = math.inf,
    peers: tuple[str, str] = ("pc1", "pc2"),
) -> SequenceDiagram:
    """Draw what happened as a sequence diagram: time runs down, one row an event, messages and datagrams cross.

    `since` and `until`, in seconds on the log's clock, cut a part out.
    """
    script = _Script(events_of(log, since, until), datagrams_of(tap, since, until), peers)
    lifelines: dict[str, float] = dict(zip(peers, (PC1_X, PC2_X), strict=True))
    gaps = {i for i, (one, two) in enumerate(pairwise(script.rows), 1) if two.t - one.t > PAUSE}
    above, below = _lines_needed(script, lifelines)
    heights, tops, y = [], [], float(HEAD)
    for number in range(len(script.rows)):
        y += ROW * 1.2 if number in gaps else 0
        tops.append(y)
        heights.append(y + above[number] * LINE + ROW / 2)
        y += ROW + (above[number] + below[number]) * LINE
    canvas = Canvas(WIDTH, y + 8)
    _draw_head(canvas, lifelines, [state for row in script.rows for state, _ in row.states], script.arrows)
    _draw_lifelines(canvas, lifelines, y, [tops[number] for number in gaps])
    for number, (row, height) in enumerate(zip(script.rows, heights, strict=True)):
        bottom = (*tops, y)[number + 1] - (ROW * 1.2 if number + 1 in gaps else 0)
        if number % 2 == 0:
            canvas.box(0, tops[number], WIDTH, bottom - tops[number], SHADE)
        if number in gaps:
            _name_gap(canvas, lifelines, tops[number] - ROW * 0.6, row.t - script.rows[number - 1].t)
        canvas.text(66, height, f"{row.t * 1000:.1f}", colour=SOFT, pixels=11.5, align="right")
        _draw_row(canvas, row, height, lifelines)
    for arrow in script.arrows:
        _draw_arrow(canvas, arrow, heights, lifelines, peers)
    ends = (*tops, y)[1:]
    return SequenceDiagram(canvas, script, [Moment(row.t, end) for row, end in zip(script.rows, ends, strict=True)])


def _lines_needed(script: _Script, lifelines: dict[str, float]) -> tuple[list[float], list[float]]:
    """Return how many lines more than one each row needs, above and below its middle."""
    above, below = [0.0] * len(script.rows), [0.0] * len(script.rows)
    for number, row in enumerate(script.rows):
        if row.who in lifelines and not row.states:
            below[number] = len(_row_texts(row, _room_beside(lifelines, row.who))[1])
    for arrow in script.arrows:
        number = _first_row(arrow)
        half = (len(_arrow_label(arrow, lifelines)) - 1) / 2
        above[number], below[number] = max(above[number], half), max(below[number], half)
    return above, below


def _draw_lifelines(canvas: Canvas, lifelines: dict[str, float], bottom: float, gaps: list[float]) -> None:
    edges = [HEAD - 12.0, *(edge for gap in sorted(gaps) for edge in (gap - ROW * 1.05, gap - ROW * 0.15)), bottom]
    for x in lifelines.values():
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            canvas.line((x, x), (start, end), FAINT, 2)
        for start, end in zip(edges[1:-1:2], edges[2:-1:2], strict=True):
            canvas.line((x, x), (start, end), FAINT, 2, linestyle=(0, (0.9, 1.6)))


def _draw_head(canvas: Canvas, lifelines: dict[str, float], states: list[str], arrows: list[Arrow]) -> None:
    for name, x in lifelines.items():
        canvas.box(x - 36, HEAD - 40, 72, 28, INK, round_by=6)
        canvas.text(x, HEAD - 26, name, colour=WHITE, pixels=15, align="center", weight="bold")
    canvas.text(66, HEAD - 26, "ms", colour=SOFT, pixels=11.5, align="right")
    x = 24.0
    canvas.text(x, 24, "states", colour=SOFT, pixels=11.5)
    x += text_width("states", 11.5) + 10
    for state in (state for state in BADGES if state in states):
        x = _draw_badge(canvas, x, 24, state, state) + 6
    x += 12
    crossed = {arrow.kind if arrow.datagrams else "message" for arrow in arrows}
    for kind in (kind for kind in HUES if kind in crossed):
        canvas.arrow((x, 24), (x + 20, 24), HUES[kind], 2 if kind == "message" else 1.4)
        canvas.text(x + 24, 24, kind, colour=HUES[kind], pixels=11.5)
        x += 24 + text_width(kind, 11.5) + 12


def _name_gap(canvas: Canvas, lifelines: dict[str, float], y: float, seconds: float) -> None:
    middle = sum(lifelines.values()) / 2
    words = f"{seconds:.1f} s later" if seconds >= 1 else f"{seconds * 1000:.0f} ms later"
    canvas.text(middle, y, words, colour=SOFT, pixels=11.5, align="center")


def _draw_badge(canvas: Canvas, x: float, y: float, state: str, words: str) -> float:
    """Draw a badge whose left end is at x; return where it ends."""
    width = text_width(words, 11) + 12
    canvas.box(x, y - 8, width, 16, _fill(state, words.rpartition(" ")[2]), round_by=8)
    canvas.text(x + 6, y, words, colour=WHITE, pixels=11)
    return x + width


def _fill(machine: str, state: str) -> str:
    return BAD if state in ("failed", "disconnected") else BADGES[machine]


def _hue(arrow: Arrow) -> str:
    return HUES.get(arrow.kind, INK) if arrow.datagrams else HUES["message"]


def _draw_row(canvas: Canvas, row: Row, y: float, lifelines: dict[str, float]) -> None:
    if row.who not in lifelines:
        if row.text:
            left, right = min(lifelines.values()), max(lifelines.values())
            words = shortened(f"{row.who}: {row.text}", right - left - 20, 12, "bold")
            canvas.text((left + right) / 2, y, words, align="center", weight="bold")
        return
    x = lifelines[row.who]
    side = -1 if x == min(lifelines.values()) else 1
    if row.states or row.text:
        canvas.axes.plot([x], [y], "o", markersize=4.6, color=BAD if row.bad else INK, zorder=4)
    if row.states:
        start = x - 12 - _badges_width(row.states) + 6 if side < 0 else x + 12
        for state in row.states:
            start = _draw_badge(canvas, start, y, state[0], _badge_text(state)) + 6
    elif row.text:
        (name, detail), more = _row_texts(row, _room_beside(lifelines, row.who))
        align = "right" if side < 0 else "left"
        name_width = text_width(name, 12, family=MONO)
        detail_width = text_width(detail, 11) + 10 if detail else 0
        near, far = x + side * 12, x + side * (22 + name_width)
        canvas.text(
            near - (detail_width if side < 0 else 0), y, name, colour=BAD if row.bad else INK, align=align, family=MONO
        )
        canvas.text(near if side < 0 else far, y, detail, colour=SOFT, pixels=11, align=align)
        for number, line in enumerate(more, 1):
            canvas.text(near, y + number * LINE, line, colour=SOFT, pixels=11, align=align)


def _room_beside(lifelines: dict[str, float], who: str) -> float:
    x = lifelines[who]
    return x - 92 if x == min(lifelines.values()) else WIDTH - x - 24


def _row_texts(row: Row, room: float) -> tuple[tuple[str, str], list[str]]:
    """Return a row's name, the detail where it fits beside it, and otherwise the lines below it."""
    if text_width(row.text, 12, family=MONO) + 10 + text_width(row.detail, 11) <= room:
        return (row.text, row.detail), []
    name, *rest = wrapped(row.text, room, 12, MONO)
    return (name, ""), rest + (wrapped(row.detail, room, 11) if row.detail else [])


def _arrow_label(arrow: Arrow, lifelines: dict[str, float]) -> list[str]:
    """Return what is written at an arrow, in lines."""
    fate = ""
    if not arrow.datagrams and arrow.received is None:
        fate = ", lost" if arrow.lost else ", not received yet"
    room = _room_beside(lifelines, arrow.who)
    if arrow.datagrams:  # between the lines; a cross stands near the end
        room = (max(lifelines.values()) - min(lifelines.values())) * (0.64 if arrow.received is None else 0.8)
    return wrapped(arrow.label + fate, room, 11)


def _draw_arrow(
    canvas: Canvas, arrow: Arrow, heights: list[float], lifelines: dict[str, float], peers: tuple[str, str]
) -> None:
    start_x, end_x = lifelines[arrow.who], lifelines[peers[1 - peers.index(arrow.who)]]
    towards = 1 if end_x > start_x else -1
    colour = BAD if arrow.refused else _hue(arrow)
    start_y = heights[arrow.sent] if arrow.sent is not None else heights[arrow.received or 0]
    end_y = heights[arrow.received] if arrow.received is not None else start_y
    # A message's name stands where it was sent: there the other side of the line is free.
    place, align = (start_x - towards * 12, start_y), ("right", "left")[towards < 0]
    if arrow.datagrams:
        place, align = ((start_x + end_x) / 2, start_y), "center"
    if arrow.sent is None:  # nobody here sent it
        start_x = end_x - towards * 44
        place = (start_x - towards * 6, start_y)
    elif arrow.received is None:  # it never arrived
        end_x = start_x + towards * (abs(end_x - start_x) * 0.86 if arrow.datagrams else 34)
        if arrow.lost:
            canvas.cross(end_x + towards * 10, end_y)
    style = "<|-|>" if arrow.both_ways else "-|>"
    canvas.arrow((start_x, start_y), (end_x - towards * 2, end_y), colour, 1.4 if arrow.datagrams else 2, style)
    words = "\n".join(_arrow_label(arrow, lifelines))
    canvas.text(*place, words, colour=BAD if arrow.lost else colour, pixels=11, align=align, label=arrow.datagrams)


# ---- The time line ---------------------------------------------------------------------------------------------------

LANE, LEFT = 23, 176


@dataclass(frozen=True)
class Span:
    """One state of one machine, from when until when, in seconds."""

    who: str
    machine: str
    state: str
    start: float
    end: float


class TimeLine(Drawing):
    """A time line, with the states and datagrams in it."""

    def __init__(self, canvas: Canvas, spans: list[Span], datagrams: list[Any], scale: Scale) -> None:
        super().__init__(canvas, "time line", map(Moment, scale.times, scale.places), downwards=False)
        self.spans, self.datagrams = spans, datagrams


def spans_of(events: Sequence[Event], since: float, end: float, peers: tuple[str, str]) -> list[Span]:
    """Return which state each of the eight machines was in, and when."""
    spans = []
    for who in peers:
        own = [event for event in events if event.who == who]
        if not own:
            continue
        for machine in STATES:
            changes = [(own[0].t, FIRST.get(machine, "new"))]
            changes += [(event.t, event.detail.removeprefix("→ ")) for event in own if event.what == machine]
            for (start, state), (stop, _) in pairwise([*changes, (end, "")]):
                if stop > since and start < end:
                    spans.append(Span(who, machine, state, max(start, since), min(stop, end)))
    return spans


def _span_room(span: Span) -> float:
    return text_width(span.state, 11) + 14


class Scale:
    """Where a time is drawn. Between two events the room grows with the logarithm of the time between them: a crowd is
    spread out, a wait is pressed together. A span grows further until its name fits in it."""

    PASSES = 40  # enough for the names of a whole call; where there is no room for all, they are shortened

    def __init__(self, times: Iterable[float], spans: Iterable[Span], left: float, right: float) -> None:
        self.times = sorted(set(times)) or [0.0]
        weights = np.array([0.4 + math.log1p((two - one) * 1000) for one, two in pairwise(self.times)])
        wanted = [(*np.searchsorted(self.times, (span.start, span.end)), _span_room(span)) for span in spans]
        for _ in range(self.PASSES):
            weights *= (right - left) / (weights.sum() or 1)
            for first, last, room in wanted:
                if 0 < (width := weights[first:last].sum()) < room:
                    weights[first:last] *= room / width
        weights *= (right - left) / (weights.sum() or 1)
        self.places = [left, *(left + weights.cumsum())]

    def __call__(self, t: float) -> float:
        for (one, two), (x, y) in zip(pairwise(self.times), pairwise(self.places), strict=True):
            if one <= t <= two:
                return float(x + (y - x) * (t - one) / (two - one))
        return float(self.places[0] if t < self.times[0] else self.places[-1])


def timeline(
    log: Log | Iterable[Event],
    tap: Tapped | None = None,
    *,
    since: float = 0.0,
    until: float = math.inf,
    peers: tuple[str, str] = ("pc1", "pc2"),
) -> TimeLine:
    """Draw the eight state machines over time, the messages between them, and with a tap the datagrams of each class.

    The time axis is stretched where much happens. `since` and `until`, in seconds on the log's clock, cut a part out.
    """
    events = events_of(log, 0.0, until)
    datagrams = datagrams_of(tap, since, until)
    spans = spans_of(events, since, max((one.t for one in (*events, *datagrams)), default=0.0), peers)
    shown = [event for event in events if event.t >= since]
    crossings = list(_crossings(datagrams, peers))
    layers = sorted({one[0].layer for one in crossings}, key=[*HUES, "unknown"].index)
    datagrams_height = LANE * (len(layers) + 0.6) if layers else 0
    canvas = Canvas(WIDTH, 12 + LANE * (8 + 2.4) + datagrams_height + 56)
    # Datagrams move the scale only through the first and last of each layer: hundreds of them must not take the room.
    edges = [one[0].t for layer in layers for one in _ends([one for one in crossings if one[0].layer == layer])]
    moments = [event.t for event in shown if event.what in STATES or event.what.startswith(("send ", "receive "))]
    moments += [t for span in spans for t in (span.start, span.end)]
    script = _Script(shown, [], peers)
    scale = Scale(moments + edges, spans + _label_spans(script), LEFT, WIDTH - 26)
    y = 12.0
    tops = {}
    for who in peers:
        tops[who] = y
        y += LANE * 4 + (LANE * 2.4 if who == peers[0] else 0)
    _draw_axis(canvas, scale, y + datagrams_height + 8)
    for who in peers:
        _draw_lanes(canvas, who, tops[who], [span for span in spans if span.who == who], scale)
    between = (tops[peers[0]] + LANE * 4 + 5, tops[peers[1]] - 5)
    _draw_messages(canvas, script, scale, between, peers)
    y += LANE * 0.6
    for layer in layers:
        _draw_layer(canvas, layer, y, [one for one in crossings if one[0].layer == layer], scale, peers)
        y += LANE
    return TimeLine(canvas, spans, [one[0] for one in crossings], scale)


def _ends(found: list[Any]) -> list[Any]:
    return [found[0], found[-1]]


def _draw_axis(canvas: Canvas, scale: Scale, bottom: float) -> None:
    last = -math.inf
    for t, x in zip(scale.times, scale.places, strict=True):
        words = f"{t * 1000:.1f}"
        width = text_width(words, 11)
        far = x - width / 2 > last
        canvas.line((x, x), (8, bottom), RULE if far else SHADE, 1, zorder=0.6)
        if far:
            canvas.text(x, bottom + 10, words, colour=SOFT, pixels=11, align="center")
            last = x + width / 2 + 8
    canvas.text(LEFT - 34, bottom + 10, "ms", colour=SOFT, pixels=11, align="right")
    note = "The time axis is stretched where much happens and pressed together where one waits."
    canvas.text(LEFT, bottom + 32, note, colour=SOFT, pixels=11)


def _draw_lanes(canvas: Canvas, who: str, top: float, spans: list[Span], scale: Scale) -> None:
    canvas.text(14, top + LANE * 2, who, pixels=15, weight="bold")
    for number, machine in enumerate(STATES):
        y = top + LANE * number
        canvas.text(LEFT - 10, y + LANE / 2, machine, colour=BADGES[machine], pixels=11, align="right")
        for span in (span for span in spans if span.machine == machine):
            x, end = scale(span.start), scale(span.end)
            canvas.box(x + 0.5, y + 2, max(end - x - 1, 1.5), LANE - 4, _fill(machine, span.state), round_by=0.1)
            size = next((size for size in (11, 10, 9, 8) if text_width(span.state, size) <= end - x - 8), 8)
            words = shortened(span.state, end - x - 6, size)
            canvas.text(x + 5, y + LANE / 2, words, colour=WHITE, pixels=size)


def _draw_messages(
    canvas: Canvas, script: _Script, scale: Scale, between: tuple[float, float], peers: tuple[str, str]
) -> None:
    canvas.text(LEFT - 10, sum(between) / 2, "messages", colour=HUES["message"], pixels=11, align="right")
    crowds, edge = _crowds(script), float(LEFT)
    for crowd, following in zip_longest(crowds, crowds[1:]):
        middles = []
        for arrow in crowd:
            ends = scale(script.rows[_first_row(arrow)].t), scale(script.rows[arrow.received or _first_row(arrow)].t)
            _draw_message(canvas, arrow, ends, between if arrow.who == peers[0] else between[::-1])
            middles.append(sum(ends) / 2)
        words = _crowd_name(crowd)
        right, left, width = middles[-1] + 8, middles[0] - 8, text_width(words, 11)
        room = (scale(script.rows[_first_row(following[0])].t) if following else WIDTH) - right - 2
        if width <= room:
            canvas.text(right, sum(between) / 2, words, colour=HUES["message"], pixels=11)
        elif left - width > edge:  # the next message leaves before this one arrives
            canvas.text(left, sum(between) / 2, words, colour=HUES["message"], pixels=11, align="right")
        edge = right + (width if width <= room else 0)


def _crowds(script: _Script) -> list[list[Arrow]]:
    """Group the messages: a peer's candidates, with their end, share one label."""

    def family(arrow: Arrow) -> tuple[str, str]:
        return arrow.who, arrow.kind.removeprefix("end-of-").removesuffix("s")

    return [list(crowd) for _, crowd in groupby(sorted(script.arrows, key=_first_row), family)]


def _crowd_name(crowd: list[Arrow]) -> str:
    return "candidates" if len(crowd) > 1 and crowd[0].kind == "candidate" else crowd[0].kind


def _label_spans(script: _Script) -> list[Span]:
    """Return the time between a message and the next, as spans that want room for the message's name."""
    crowds = _crowds(script)
    return [
        Span("", "", _crowd_name(one), script.rows[_first_row(one[-1])].t, script.rows[_first_row(other[0])].t)
        for one, other in pairwise(crowds)
    ]


def _first_row(arrow: Arrow) -> int:
    return next(row for row in (arrow.sent, arrow.received) if row is not None)


def _draw_message(canvas: Canvas, arrow: Arrow, xs: tuple[float, float], ys: tuple[float, float]) -> None:
    colour = BAD if arrow.refused or arrow.lost else HUES["message"]
    canvas.arrow((xs[0], ys[0]), (xs[1], sum(ys) / 2 if arrow.received is None else ys[1]), colour, 1.8)
    if arrow.lost:
        canvas.cross(xs[0], sum(ys) / 2 + (ys[1] - ys[0]) * 0.15, size=3.5)


def _draw_layer(
    canvas: Canvas, layer: str, y: float, crossings: list[Any], scale: Scale, peers: tuple[str, str]
) -> None:
    sent = Counter(sender for _, sender, count, _ in crossings if count)
    counts = ", ".join(f"{count} {'▾' if peer == peers[0] else '▴'}" for peer in peers if (count := sent[peer]))
    canvas.text(14, y + LANE / 2, counts, colour=SOFT, pixels=11)
    canvas.text(LEFT - 10, y + LANE / 2, layer, colour=HUES.get(layer, INK), pixels=11.5, align="right")
    canvas.line((LEFT, WIDTH - 26), (y + LANE / 2, y + LANE / 2), RULE, 1)
    for datagram, sender, _, lost in crossings:
        down = sender == peers[0]
        x, height = scale(datagram.t), y + LANE / 2 + (-5 if down else 5)
        if lost:
            canvas.cross(x, height, size=3.5)
        else:
            canvas.axes.plot(
                [x], [height], "v" if down else "^", markersize=5, markeredgewidth=0, color=HUES.get(layer, INK)
            )


# ---- You are here ----------------------------------------------------------------------------------------------------

# The layers of a call: name -> (its box: left, top, width, height; what it does; the lesson about it).
SIGNALLING, MEDIA = 20, 352  # pixels: left edge of what the program carries, and of what goes from peer to peer
LAYERS: dict[str, tuple[tuple[float, float, float, float], str, str]] = {
    "offer/answer": ((SIGNALLING, 66, 280, 58), "who sends what, in which order", "01"),
    "SDP": ((SIGNALLING, 130, 280, 58), "the text that says it", "02"),
    "signalling": ((SIGNALLING, 194, 280, 58), "your channel: any way that carries text", "08"),
    "codec": ((MEDIA, 66, 300, 40), "pictures to bytes and back", "06"),
    "RTP": ((MEDIA, 112, 300, 40), "numbered packets, reports, repairs", "06"),
    "SRTP": ((MEDIA, 158, 190, 40), "encrypted media", "05"),
    "data channel": ((MEDIA + 308, 66, 300, 86), "messages, in order or not (SCTP)", "07"),
    "DTLS": ((MEDIA + 196, 158, 412, 40), "a handshake: keys, and whose they are", "05"),
    "ICE": ((MEDIA, 204, 608, 40), "which pair of addresses works, and still does", "03"),
    "NAT": ((MEDIA, 250, 608, 40), "the way between: STUN, TURN, UDP", "04"),
}


def you_are_here(*names: str) -> Drawing:
    """Draw the layers of a call with these lit: "offer/answer", "SDP", "signalling", "codec", "RTP", "SRTP", "DTLS",
    "data channel", "ICE", "NAT"; "call" lights all. Raises ValueError for another name."""
    if unknown := set(names) - {*LAYERS, "call"}:
        raise ValueError(f"no layer {', '.join(sorted(unknown))}: there are call, {', '.join(LAYERS)}")
    canvas = Canvas(WIDTH, 304)
    for x, words in (
        (SIGNALLING, "a few texts, carried by your program"),
        (MEDIA, "datagrams, from peer to peer"),
    ):
        canvas.text(x, 40, words, colour=SOFT, pixels=12.5)
    lit = set(LAYERS) if "call" in names else set(names)
    for name, ((x, y, width, height), does, lesson) in LAYERS.items():
        hue = HUES["message"] if x == SIGNALLING else HUES.get({"ICE": "STUN", "NAT": "STUN"}.get(name, name), INK)
        if name in lit:
            canvas.box(x, y, width, height, hue, round_by=5)
        else:
            canvas.frame(x, y, width, height, RULE)
        ink, beside = (WHITE if name in lit else INK), height < 50
        title = text_width(name, 14, "bold")
        canvas.text(x + 12, y + height / 2 - (0 if beside else 10), name, colour=ink, pixels=14, weight="bold")
        room = width - 24 - (title + 12 if beside else 0)
        size = next((size for size in (11.5, 11, 10.5, 10) if text_width(does, size) <= room - 22), 9.5)
        where = (x + 24 + title, y + height / 2 + 0.5) if beside else (x + 12, y + height / 2 + 11)
        canvas.text(*where, does, colour=ink, pixels=size)
        canvas.text(x + width - 8, y + height / 2, lesson, colour=ink, pixels=10.5, align="right")
    return Drawing(canvas, f"you are here: {', '.join(names)}")


# ---- A lesson's own chart --------------------------------------------------------------------------------------------


def chart(height: float = 270) -> tuple[Figure, Any]:
    """Return a figure as wide as the others and so many pixels high, and its axes, in colours that read on both
    grounds."""
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)
    axes.tick_params(colors=INK, labelcolor=INK)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(INK)
    return figure, axes


def still(figure: Figure) -> Still:
    """Return a chart as PNG; texts that were given no colour of their own are drawn to read on both grounds."""
    for text in figure.findobj(Text):
        if to_rgba(text.get_color()) == (0.0, 0.0, 0.0, 1.0):
            text.set_color(INK)
    for legend in figure.findobj(Legend):
        legend.get_frame().set_visible(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Still(png_of(np.array(canvas.buffer_rgba())), format="png")


# ---- Tables ----------------------------------------------------------------------------------------------------------

EDGE, HEADING = "rgba(127,127,127,.35)", "rgba(127,127,127,.16)"
GREEN, AMBER, RED, BLUE = (f"background:rgba({c},.18)" for c in ("46,160,67", "210,153,34", "218,54,51", "56,139,253"))
CHANGED = "background:rgba(210,153,34,.28)"
CELL = f"padding:3px 6px;text-align:left;vertical-align:top;border:1px solid {EDGE};"
LONG = 25  # letters: a longer word may be broken, where it can be read on


def breakable(text: str) -> str:
    """Return the HTML of a text whose long words may break: after a mark, or where there is none each 16 letters. That
    holds also where a site strips the style."""

    def cut(word: re.Match[str]) -> str:
        parts = re.findall(r"[^/;:,)=+.-]{1,16}[/;:,)=+.-]*|[/;:,)=+.-]+", word[0])
        return "<wbr>".join(html.escape(part, quote=False) for part in parts)

    pieces = re.split(rf"(\S{{{LONG},}})", text)
    return "".join(
        re.sub(r".+", cut, one) if number % 2 else html.escape(one, quote=False) for number, one in enumerate(pieces)
    )


class Cell(NamedTuple):
    """A table cell: HTML, perhaps a heading, changed since last time, or as large as several rows or columns."""

    content: str
    head: bool = False
    changed: bool = False
    rows: int = 1
    columns: int = 1
    wide: str = ""  # of its column
    title: str = ""  # shown where the mouse rests on it
    tint: str = ""  # one of GREEN, AMBER, RED, BLUE
    whole: bool = False  # in one line

    def __str__(self) -> str:
        tag = "th" if self.head else "td"
        ground = CHANGED if self.changed else f"background:{HEADING}" if self.head else self.tint
        span = f' rowspan="{self.rows}"' if self.rows > 1 else ""
        span += f' colspan="{self.columns}"' if self.columns > 1 else ""
        span += f' title="{html.escape(self.title)}"' if self.title else ""
        content = f"<b>●&nbsp;{self.content}</b>" if self.changed else self.content  # some sites take the colour away
        width = f"width:{self.wide};" if self.wide else ""
        wrap = f"white-space:{'nowrap' if self.whole else 'normal'};"
        return f'<{tag}{span} style="{CELL}{wrap}{width}{ground}">{content}</{tag}>'


def table(rows: Iterable[Iterable[Cell]], note: str = "") -> HTML:
    """Return an HTML table. Words are not broken: a column is at least as wide as its longest one. Grounds let the page
    through, and the text has the page's colour."""
    body = "\n".join(f"<tr>{''.join(map(str, row))}</tr>" for row in rows)
    style = f"border-collapse:collapse;font-size:12.5px;line-height:1.25;width:100%;max-width:{WIDTH}px;"
    style += "table-layout:auto;margin-left:0"
    below = f"\n<p>{html.escape(note, quote=False)}</p>" if note else ""
    return HTML(f'<table style="{style}">\n{body}\n</table>{below}')


@dataclass(repr=False)
class Table:
    """Rows of text under headings. A colour only repeats what a word in its row says: some viewers strip the styles.

    As text, each row is a paragraph, and nothing is wrapped or padded: a value is always whole.
    """

    head: tuple[str, ...]
    groups: list[tuple[str, list[tuple[str, ...]]]]
    widths: tuple[int, ...]  # of the columns, in per cent
    code: Collection[int] = ()  # the columns that hold what a machine writes
    tints: Mapping[str, str] | None = None  # first word of a cell in the column `tinted` -> its style
    tinted: int = 0
    note: str = ""

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """All rows, without the headings."""
        return [row for _, rows in self.groups for row in rows]

    def _repr_html_(self) -> str:
        sized = zip(self.head, self.widths, strict=True)
        lines = [[Cell(html.escape(name, quote=False), head=True, wide=f"{width}%") for name, width in sized]]
        for heading, rows in self.groups:
            if heading:
                lines.append([Cell(html.escape(heading, quote=False), head=True, columns=len(self.head))])
            lines += [[self._cell(column, text) for column, text in enumerate(row)] for row in rows]
        return str(table(lines, self.note).data)

    def _cell(self, column: int, text: str) -> Cell:
        content = breakable(text)
        content = f"<code>{content}</code>" if text and column in self.code else content
        word = text.replace(":", " ").partition(" ")[0]
        return Cell(content, tint=(self.tints or {}).get(word, "") if column == self.tinted else "")

    def __repr__(self) -> str:
        lines = []
        for heading, rows in self.groups:
            lines += [f"[{heading}]"] if heading else []
            for row in rows:
                (_, first), *others = zip(self.head, row, strict=True)
                lines += [first or "(nothing)", *[f"    {name}: {cell}" for name, cell in others if cell]]
        return "\n".join([*lines, *([self.note] if self.note else [])])


__all__ = ["sequence", "timeline", "you_are_here"]

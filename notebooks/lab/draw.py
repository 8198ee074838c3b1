"""Diagrams of a run, drawn from its log: who said what to whom, and which state each machine was in. And the table
that the other rooms put their text in."""

from __future__ import annotations

import html
import io
import math
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import chain, groupby, pairwise, zip_longest
from typing import Any, NamedTuple, Protocol

import numpy as np
from IPython.display import HTML
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image

from loopback import STATES, Event, Log

DPI = 100
WIDTH = 980  # pixels: what JupyterLab and the hosting site show without scaling
INK, SOFT, FAINT, PAPER, BAND, BAD = "#1d2733", "#5b6775", "#a9b3be", "#ffffff", "#f5f7f9", "#b3261e"

# One hue for a layer, wherever it appears: its datagrams, and the state machine that tells of it.
HUES = {
    "message": "#1d5fa8",
    "STUN": "#a85b00",
    "DTLS": "#6f42a0",
    "SRTP": "#217a46",
    "SRTCP": "#0d7377",
}
BADGES = {
    "signalingState": ("#dbe8f7", "#123f70"),
    "iceGatheringState": ("#e6e9ed", "#38424e"),
    "iceConnectionState": ("#fbe5c6", "#6b3a00"),
    "connectionState": ("#e9def5", "#472772"),
}
SHORT = {
    "signalingState": "signaling",
    "iceGatheringState": "iceGathering",
    "iceConnectionState": "ICE",
    "connectionState": "connection",
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


def shortened(text: str, room: float, pixels: float, weight: str = "normal", family: str = SANS) -> str:
    """Return the text, its end replaced by an ellipsis where it needs more than `room` pixels; "" where none fits."""
    if text_width(text, pixels, weight, family) <= room:
        return text
    kept = text
    while kept and text_width(kept + "…", pixels, weight, family) > room:
        kept = kept[:-1]
    return f"{kept.rstrip()}…" if len(kept) > 3 else ""


class Canvas:
    """A matplotlib figure whose unit is the pixel, with the origin at the top left."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(height, 0)
        self.axes.axis("off")

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
        angle: float = 0,
        halo: bool = False,
    ) -> None:
        """Write a text with its middle at height `y`."""
        box = {"boxstyle": "square,pad=0.12", "facecolor": PAPER, "edgecolor": "none"} if halo else None
        self.axes.text(
            x,
            y,
            text,
            color=colour,
            fontproperties=_font(pixels, weight, family),
            ha=align,
            va="center",
            rotation=angle,
            rotation_mode="anchor",
            bbox=box,
            parse_math=False,
            zorder=5,
        )

    def line(
        self, xs: tuple[float, float], ys: tuple[float, float], colour: str, width: float = 1, **more: Any
    ) -> None:
        """Draw a straight line."""
        options: dict[str, Any] = {"solid_capstyle": "butt", "zorder": 2} | more
        self.axes.plot(xs, ys, color=colour, linewidth=width * 72 / DPI, **options)

    def box(self, x: float, y: float, width: float, height: float, colour: str, *, round_by: float = 0) -> None:
        """Fill a rectangle whose top left corner is (x, y)."""
        if round_by:
            style = f"round,pad=0,rounding_size={round_by}"
            patch: Any = FancyBboxPatch(
                (x, y), width, height, boxstyle=style, facecolor=colour, edgecolor="none", zorder=3
            )
        else:
            patch = Rectangle((x, y), width, height, facecolor=colour, edgecolor="none", zorder=0.5)
        self.axes.add_patch(patch)

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


class Drawing:
    """A finished diagram: a notebook shows its PNG, a test reads what is in it."""

    def __init__(self, canvas: Canvas, name: str) -> None:
        self.figure, self.name = canvas.figure, name

    @cached_property
    def png(self) -> bytes:
        """The picture as a PNG file."""
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        file = io.BytesIO()
        # 255 colours are more than a diagram has, and make the stored file a third as large.
        picture.quantize(255, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(file, "png", optimize=True)
        return file.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        return self.name


# ---- The sequence diagram --------------------------------------------------------------------------------------------

ROW, HEAD = 21, 92  # pixels: one row, and what is above the first
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
        if event.who in self.peers and event.what in STATES:
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

    def __init__(self, canvas: Canvas, script: _Script) -> None:
        super().__init__(canvas, "sequence diagram")
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
    gaps = {i for i, (one, two) in enumerate(pairwise(script.rows), 1) if two.t - one.t > PAUSE}
    heights, y = [], HEAD + ROW / 2
    for number in range(len(script.rows)):
        y += ROW * 1.2 if number in gaps else 0
        heights.append(y)
        y += ROW
    canvas = Canvas(WIDTH, y + 8)
    lifelines: dict[str, float] = dict(zip(peers, (PC1_X, PC2_X), strict=True))
    _draw_head(canvas, lifelines, [state for row in script.rows for state, _ in row.states], script.arrows)
    ends = (HEAD - 12, y)
    for x in lifelines.values():
        canvas.line((x, x), ends, FAINT, 2)
    for number, (row, height) in enumerate(zip(script.rows, heights, strict=True)):
        if number % 2 == 0:
            canvas.box(0, height - ROW / 2, WIDTH, ROW, BAND)
        if number in gaps:
            _draw_gap(canvas, lifelines, height - ROW * 1.1, row.t - script.rows[number - 1].t)
        canvas.text(66, height, f"{row.t * 1000:.1f}", colour=SOFT, pixels=11.5, align="right")
        _draw_row(canvas, row, height, lifelines)
    for arrow in script.arrows:
        _draw_arrow(canvas, arrow, heights, lifelines, peers)
    return SequenceDiagram(canvas, script)


def _draw_head(canvas: Canvas, lifelines: dict[str, float], states: list[str], arrows: list[Arrow]) -> None:
    for name, x in lifelines.items():
        canvas.box(x - 36, HEAD - 40, 72, 28, INK, round_by=6)
        canvas.text(x, HEAD - 26, name, colour=PAPER, pixels=15, align="center", weight="bold")
    canvas.text(66, HEAD - 26, "ms", colour=SOFT, pixels=11.5, align="right")
    x = 24.0
    canvas.text(x, 24, "states", colour=SOFT, pixels=11.5)
    x += text_width("states", 11.5) + 10
    for state in (state for state in STATES if state in states):
        x = _draw_badge(canvas, x, 24, state, state) + 6
    x += 18
    crossed = {arrow.kind if arrow.datagrams else "message" for arrow in arrows}
    for kind in (kind for kind in HUES if kind in crossed):
        canvas.arrow((x, 24), (x + 26, 24), HUES[kind], 2 if kind == "message" else 1.4)
        canvas.text(x + 32, 24, kind, colour=HUES[kind], pixels=11.5)
        x += 32 + text_width(kind, 11.5) + 16


def _draw_gap(canvas: Canvas, lifelines: dict[str, float], y: float, seconds: float) -> None:
    for x in lifelines.values():
        canvas.box(x - 4, y - ROW * 0.45, 8, ROW * 0.9, PAPER, round_by=0.1)
        canvas.line((x, x), (y - ROW * 0.42, y + ROW * 0.42), FAINT, 2, linestyle=(0, (0.9, 1.6)), zorder=4)
    middle = sum(lifelines.values()) / 2
    words = f"{seconds:.1f} s later" if seconds >= 1 else f"{seconds * 1000:.0f} ms later"
    canvas.text(middle, y, words, colour=SOFT, pixels=11.5, align="center")


def _draw_badge(canvas: Canvas, x: float, y: float, state: str, words: str) -> float:
    """Draw a badge whose left end is at x; return where it ends."""
    fill, ink = BADGES[state]
    if words.endswith((" failed", " disconnected")):
        fill, ink = BAD, PAPER
    width = text_width(words, 11) + 12
    canvas.box(x, y - 8, width, 16, fill, round_by=8)
    canvas.text(x + 6, y, words, colour=ink, pixels=11)
    return x + width


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
    room = x - 92 if side < 0 else WIDTH - x - 24
    if row.states or row.text:
        canvas.axes.plot([x], [y], "o", markersize=4.6, color=BAD if row.bad else INK, zorder=4)
    if row.states:
        start = x - 12 - _badges_width(row.states) + 6 if side < 0 else x + 12
        for state in row.states:
            start = _draw_badge(canvas, start, y, state[0], _badge_text(state)) + 6
    elif row.text:
        colour, family = (BAD if row.bad else INK), MONO
        name = shortened(row.text, room, 12, family=family)
        detail = shortened(row.detail, room - text_width(name, 12, family=family) - 10, 11)
        align = "right" if side < 0 else "left"
        name_width = text_width(name, 12, family=family)
        detail_width = text_width(detail, 11) + 10 if detail else 0
        canvas.text(
            x + side * 12 - (detail_width if side < 0 else 0), y, name, colour=colour, align=align, family=family
        )
        canvas.text(
            x + side * 12 + (0 if side < 0 else name_width + 10), y, detail, colour=SOFT, pixels=11, align=align
        )


def _draw_arrow(
    canvas: Canvas, arrow: Arrow, heights: list[float], lifelines: dict[str, float], peers: tuple[str, str]
) -> None:
    start_x, end_x = lifelines[arrow.who], lifelines[peers[1 - peers.index(arrow.who)]]
    towards = 1 if end_x > start_x else -1
    colour = BAD if arrow.refused else _hue(arrow)
    start_y = heights[arrow.sent] if arrow.sent is not None else heights[arrow.received or 0]
    end_y = heights[arrow.received] if arrow.received is not None else start_y
    whole = arrow.datagrams or None not in (arrow.sent, arrow.received)
    fate = "" if whole or arrow.sent is None else ", lost" if arrow.lost else ", not received yet"
    width = abs(end_x - start_x)
    room = width * 0.66 if arrow.datagrams and arrow.received is None else width - 44  # a cross stands near the end
    label = shortened(arrow.label + fate, room, 11)
    angle = -math.degrees(math.atan2((end_y - start_y) * towards, abs(end_x - start_x)))
    place, align = ((start_x + end_x) / 2, (start_y + end_y) / 2), "center"
    outside = ("right", "left")[towards < 0]
    if arrow.sent is None:  # nobody here sent it
        start_x = end_x - towards * 44
        place, align = (start_x - towards * 6, start_y), outside
    elif arrow.received is None:  # it never arrived
        end_x = start_x + towards * (abs(end_x - start_x) * 0.86 if arrow.datagrams else 34)
        place, align = (place, align) if arrow.datagrams else ((start_x - towards * 12, start_y), outside)
        if arrow.lost:
            canvas.cross(end_x + towards * 10, end_y)
    style = "<|-|>" if arrow.both_ways else "-|>"
    canvas.arrow((start_x, start_y), (end_x - towards * 2, end_y), colour, 1.4 if arrow.datagrams else 2, style)
    colour = BAD if arrow.lost else colour
    canvas.text(*place, label, colour=colour, pixels=11, align=align, angle=angle, halo=whole)


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

    def __init__(self, canvas: Canvas, spans: list[Span], datagrams: list[Any]) -> None:
        super().__init__(canvas, "time line")
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
    return TimeLine(canvas, spans, [one[0] for one in crossings])


def _ends(found: list[Any]) -> list[Any]:
    return [found[0], found[-1]]


def _draw_axis(canvas: Canvas, scale: Scale, bottom: float) -> None:
    last = -math.inf
    for t, x in zip(scale.times, scale.places, strict=True):
        words = f"{t * 1000:.1f}"
        width = text_width(words, 11)
        far = x - width / 2 > last
        canvas.line((x, x), (8, bottom), "#dfe4e9" if far else "#eff1f4", 1, zorder=0.6)
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
        canvas.text(LEFT - 10, y + LANE / 2, machine, colour=BADGES[machine][1], pixels=11, align="right")
        for span in (span for span in spans if span.machine == machine):
            fill, ink = BADGES[machine]
            if span.state == "failed":
                fill, ink = BAD, PAPER
            x, end = scale(span.start), scale(span.end)
            canvas.box(x, y + 2, max(end - x, 1.5), LANE - 4, fill, round_by=0.1)
            canvas.line((x, x), (y + 2, y + LANE - 2), ink, 2, zorder=4)
            words = shortened(span.state, end - x - 9, 11)
            canvas.text(x + 6, y + LANE / 2, words, colour=ink, pixels=11)


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
    canvas.line((LEFT, WIDTH - 26), (y + LANE / 2, y + LANE / 2), "#dfe4e9", 1)
    for datagram, sender, _, lost in crossings:
        down = sender == peers[0]
        x, height = scale(datagram.t), y + LANE / 2 + (-5 if down else 5)
        if lost:
            canvas.cross(x, height, size=3.5)
        else:
            canvas.axes.plot(
                [x], [height], "v" if down else "^", markersize=5, markeredgewidth=0, color=HUES.get(layer, INK)
            )


# ---- Tables ----------------------------------------------------------------------------------------------------------

CELL = "padding:3px 8px;text-align:left;vertical-align:top;border:1px solid #d7dde3;overflow-wrap:anywhere;"


class Cell(NamedTuple):
    """A table cell: HTML, perhaps a heading, changed since last time, or as large as several rows or columns."""

    content: str
    head: bool = False
    changed: bool = False
    rows: int = 1
    columns: int = 1
    wide: str = ""  # of its column
    title: str = ""  # shown where the mouse rests on it

    def __str__(self) -> str:
        tag = "th" if self.head else "td"
        ground = "#fff0b8" if self.changed else "#e9edf1" if self.head else PAPER
        span = f' rowspan="{self.rows}"' if self.rows > 1 else ""
        span += f' colspan="{self.columns}"' if self.columns > 1 else ""
        span += f' title="{html.escape(self.title)}"' if self.title else ""
        content = f"<b>● {self.content}</b>" if self.changed else self.content  # some sites take the colour away
        width = f"width:{self.wide};" if self.wide else ""
        return f'<{tag}{span} style="{CELL}{width}color:{INK};background:{ground}">{content}</{tag}>'


def table(rows: Iterable[Iterable[Cell]]) -> HTML:
    """Return an HTML table. Every colour is given, so that it reads the same on a dark page."""
    body = "".join(f"<tr>{''.join(map(str, row))}</tr>" for row in rows)
    style = (
        f"border-collapse:collapse;font-size:13px;width:100%;max-width:{WIDTH}px;table-layout:fixed;background:{PAPER}"
    )
    return HTML(f'<table style="{style}">{body}</table>')


__all__ = ["sequence", "timeline"]

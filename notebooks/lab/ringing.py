"""Call control, from the phone's own table: people in a room, what happens between them, drawn; and lesson 08's tables.

ring = await Ringing("Ann", "Ben").join()      phones in a room; a message needs a while to it, and a while from it
ring["Ann"].press("call", "Ben")               what people do; phone.wait(21) lets their time pass
await ring.settle()                            until nothing is under way
ring.drawing()                                 who did what since join()
state_chart()                                  the table's ways from state to state
rows_of("ringing")                             its rows for one state
"""

from __future__ import annotations

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import json
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from phone.control import CALL_CONTROL, PEOPLE_SAY, Phone, Room

from .draw import BAD, HUES, INK, RULE, SHADE, WHITE, WIDTH, Canvas, Drawing, Moment, Table, shortened, text_width
from .sockets import Noticed, Relay, until

__all__ = ["Ringing", "noticed", "passed", "rows_of", "state_chart"]

STATES = ("away", "joining", "idle", "calling", "ringing", "connecting", "in call")
COLOURS = dict.fromkeys(("away", "joining", "idle"), INK) | {
    "calling": HUES["message"],
    "ringing": HUES["STUN"],
    "connecting": HUES["DTLS"],
    "in call": HUES["SRTP"],
}
ROW, HEAD, FOOT = 25, 44, 14  # pixels


# ---- People and their phones -----------------------------------------------------------------------------------------


class Slow:
    """A room that is some way off: each text needs `delay` seconds to it, and from it; none overtakes another."""

    def __init__(self, room: Room, delay: float, change: Callable[[str, str], str]) -> None:
        self.room, self.delay, self.change = room, delay, change
        self.under_way = 0

    def enter(self, hear: Callable[[str], None]) -> Callable[[str], None]:
        """For a Phone: as control.Room has it."""
        return self.later(self.room.enter(self.later(hear)))

    def later(self, take: Callable[[str], None]) -> Callable[[str], None]:
        """Return what hands a text to that function later."""
        waiting = deque[str]()

        def arrives() -> None:
            self.under_way -= 1
            take(waiting.popleft())

        def send(text: str) -> None:
            waiting.append(text)
            self.under_way += 1
            asyncio.get_running_loop().call_later(self.delay, arrives)

        return send


class Ringing:
    """Phones in one room. Their media are only said to connect: no peer is made, for call control knows of none."""

    def __init__(self, *names: str, places: int = 10, delay: float = 0.01) -> None:
        self.log = loopback.Log()
        self.room = Room(places)
        self.way = Slow(self.room, delay, lambda who, text: text)
        self.names, self.began = names, 0.0
        self.phones = {name: Phone(name, self.way, self._act, self.log) for name in names}
        self._talking: set[asyncio.TimerHandle] = set()

    def __getitem__(self, name: str) -> Phone:
        return self.phones[name]

    async def join(self) -> Self:
        """Let all come into the room, one after the other."""
        for phone in self.phones.values():
            phone.press("join")
            await self.settle()
        self.began = self.log.now()
        return self

    async def settle(self) -> None:
        """Wait until nothing is under way, and all media that were begun are connected."""
        await asyncio.sleep(0)
        while self.way.under_way or self._talking:
            await until(lambda: not self.way.under_way and not self._talking, "something is still under way")
            await asyncio.sleep(0)  # what has just reached the room is said by it a moment later

    def say(self, name: str, kind: str, **texts: str) -> None:
        """Let somebody send a text of their own making: what a phone would not send."""
        speak = self.way.later(self.room.enter(lambda text: None)) if name not in self.phones else self[name].send
        self.log(name, f"send {kind}", texts.get("to", ""))
        speak(json.dumps({"type": kind} | texts))

    def _act(self, phone: Phone, what: str) -> None:
        self.log(phone.name, what)
        if what == "negotiate":
            loop = asyncio.get_running_loop()
            handle = loop.call_later(4 * self.way.delay, lambda: self._connected(phone, handle))
            self._talking.add(handle)

    def _connected(self, phone: Phone, handle: asyncio.TimerHandle) -> None:
        self._talking.discard(handle)
        if phone.state == "connecting":
            phone.media("connected")

    def states(self) -> str:
        """Where each is, in a line."""
        return "; ".join(map(str, self.phones.values()))

    def drawing(self) -> Drawing:
        """Draw what has happened since all were in the room."""
        return drawn(
            self.names, [event for event in self.log.events if event.t >= self.began and event.who in self.names]
        )


# ---- What happened between people ------------------------------------------------------------------------------------


@dataclass
class Row:
    """One line of the drawing: what one person did or heard, and the state that followed."""

    t: float
    who: str
    text: str
    state: str = ""
    bad: bool = False
    sends: str = ""  # a kind of message
    to: str = ""
    heard: int | None = None  # the row in which it was heard
    sender: str = ""  # of what is heard here


SILENT = (
    "hear servers",
    "refused hear servers",
    "hear that",
    "hear welcome",
)  # between a person and the room: not between people
WORDS = {"negotiate": "makes its peer", "close": "closes its peer"}


def rows(events: Iterable[loopback.Event]) -> list[Row]:
    """Return the events as lines, each message with the line in which it was heard."""
    found: list[Row] = []
    under_way: dict[tuple[str, str], deque[Row]] = defaultdict(deque)
    for event in events:
        if event.what.startswith(SILENT):
            continue
        before, arrow, after = event.detail.partition(" → ")
        state = after if arrow and after in STATES and before in STATES else ""
        row = Row(event.t, event.who, WORDS.get(event.what, event.what), state, event.what.startswith("refused"))
        if event.what.startswith("send "):
            row.sends, row.to, row.text = event.what[5:], event.detail, ""
            under_way[row.to, row.sends].append(row)
        elif (kind := heard_kind(event.what)) and under_way[event.who, kind]:
            sent = under_way[event.who, kind].popleft()
            sent.heard, row.sender = len(found), sent.who
        found.append(row)
    return found


def heard_kind(what: str) -> str:
    """Return the kind of message that an event tells of, "" where it tells of none."""
    words = re.search(r"\bhear (\w+)(.*)", what)
    if not words:
        return ""
    return words[1] if words[1] in PEOPLE_SAY else "call" if words[2] == " call" else ""  # "another call"


def drawn(names: tuple[str, ...], events: Iterable[loopback.Event]) -> Drawing:
    """Draw events as a ladder, one line below the other: a column for each person."""
    found = rows(events)
    height = HEAD + ROW * len(found) + FOOT
    canvas = Canvas(WIDTH, height)
    columns = {name: WIDTH * (2 * place + 1) / (2 * len(names)) for place, name in enumerate(names)}

    def y(row: int) -> float:
        return HEAD + ROW * (row + 0.5)

    for name, x in columns.items():
        canvas.text(x, 18, name, pixels=15, weight="bold", align="center")
        canvas.line((x, x), (HEAD - 10, height - FOOT), RULE, 2)
    for number in range(1, len(found), 2):
        canvas.box(0, y(number) - ROW / 2, WIDTH, ROW, SHADE)
    for number, row in enumerate(found):
        x = columns[row.who]
        if row.sends:
            heard = None if row.heard is None else found[row.heard]
            _arrow(canvas, row, heard, (x, y(number)), columns, y)
        else:
            beyond = x > columns[row.sender] if row.sender else x > WIDTH / 2  # away from where it came
            _row(canvas, row, x, y(number), rightwards=beyond)
    moments = [Moment(row.t - found[0].t, y(number) + ROW / 2) for number, row in enumerate(found)]
    return Drawing(canvas, f"what {' and '.join(names)} did: {len(found)} lines", moments)


def _badge(state: str) -> float:
    """Return how wide a state is drawn."""
    return text_width(state, 11.5, "bold") + 16


def _arrow(
    canvas: Canvas,
    row: Row,
    heard: Row | None,
    start: tuple[float, float],
    columns: Mapping[str, float],
    y: Callable[[int], float],
) -> None:
    colour, target = HUES["message"], columns.get(row.to, start[0] + 60)
    side = 1 if target > start[0] else -1
    begin = (start[0] + 5 * side, start[1])
    if heard is None or row.heard is None:
        end = ((start[0] + target) / 2, start[1])
        canvas.cross(*end)
    else:
        end = (target - side * ((_badge(heard.state) / 2 if heard.state else 5) + 2), y(row.heard))
    canvas.arrow(begin, end, colour, 1.8)
    x = begin[0] + side * (46 + text_width(row.sends, 11.5, "bold") / 2)  # near its sender: arrows may cross
    slope = (end[1] - begin[1]) / (end[0] - begin[0])
    canvas.text(x, begin[1] + slope * (x - begin[0]), row.sends, colour=colour, pixels=11.5, align="center", label=True)


def _row(canvas: Canvas, row: Row, x: float, y: float, *, rightwards: bool) -> None:
    side, align = (1, "left") if rightwards else (-1, "right")
    edge = x + side * 12
    if row.state:
        width = _badge(row.state)
        canvas.box(x - width / 2, y - 9, width, 18, COLOURS[row.state], round_by=4)
        canvas.text(x, y, row.state, colour=WHITE, pixels=11.5, weight="bold", align="center")
        edge = x + side * (width / 2 + 8)
    else:
        canvas.box(x - 4, y - 4, 8, 8, BAD if row.bad else INK, round_by=4)
    room = (WIDTH - edge if rightwards else edge) - 4
    words = shortened(row.text, room, 11.5)
    canvas.text(edge, y, words, colour=BAD if row.bad else INK, pixels=11.5, align=align)


# ---- The table -------------------------------------------------------------------------------------------------------


class Way(NamedTuple):
    """From one state to another: all that leads there."""

    start: str
    end: str
    happens: tuple[str, ...]


def ways() -> list[Way]:
    """Return the ways from state to another state, as CALL_CONTROL has them."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (state, what), (then, _) in CALL_CONTROL.items():
        if then != state:
            found[state, then].append(what)
    order = sorted(found, key=lambda pair: (STATES.index(pair[0]), STATES.index(pair[1])))
    return [Way(*pair, tuple(found[pair])) for pair in order]


def state_chart() -> Drawing:
    """Draw the ways from state to state: a column for each state, an arrow for each way."""
    found = ways()
    canvas = Canvas(WIDTH, HEAD + 22 * len(found) + 8)
    columns = {state: 64 + (WIDTH - 128) / (len(STATES) - 1) * place for place, state in enumerate(STATES)}
    for state, x in columns.items():
        canvas.line((x, x), (HEAD - 6, HEAD + 22 * len(found)), RULE, 1)
        canvas.box(x - 48, 8, 96, 24, COLOURS[state], round_by=5)
        canvas.text(x, 20, state, colour=WHITE, pixels=12.5, weight="bold", align="center")
    for row, way in enumerate(found):
        y, start, end = HEAD + 22 * (row + 0.5), columns[way.start], columns[way.end]
        canvas.arrow((start, y), (end, y), COLOURS[way.end], 2)
        words = ", ".join(way.happens)
        on, right, left = abs(end - start) - 24, WIDTH - max(start, end) - 16, min(start, end) - 16
        pixels = next((size for size in (11, 10, 9) if text_width(words, size) <= max(on, right, left)), 8.5)
        if text_width(words, pixels) <= on or on >= max(right, left):
            middle = (start + end) / 2
            words = shortened(words, on, pixels)
        else:
            words = shortened(words, max(right, left), pixels)
            half = text_width(words, pixels) / 2 + 12
            middle = max(start, end) + half if right >= left else min(start, end) - half
        canvas.text(middle, y, words, pixels=pixels, align="center", label=True)
    return Drawing(canvas, f"the ways between the states of CALL_CONTROL: {len(found)}")


def rows_of(*states: str) -> Table:
    """Show the rows of CALL_CONTROL for these states."""
    groups = []
    for state in states:
        lines = [
            (what, then if then != state else "(stays)", ", ".join(does) or "nothing")
            for (now, what), (then, does) in CALL_CONTROL.items()
            if now == state
        ]
        groups.append((state, lines))
    return Table(("what happens", "next state", "what the phone does"), groups, (44, 20, 36))


# ---- Tables of the server --------------------------------------------------------------------------------------------


def passed(server: Relay) -> Table:
    """Show what a server has passed on."""
    lines = [(one.who, one.to or "(nobody was there)", one.kind, _size(one.size)) for one in server.passed]
    return Table(("from", "to", "type", "size"), [("", lines)], (20, 25, 30, 25))


def _size(count: int) -> str:
    return f"{count} bytes" if count < 1000 else f"{count / 1000:.1f} kB"  # a description is a few bytes more or less


def noticed(found: Iterable[Noticed]) -> Table:
    """Show how the other ends went, and after how long what noticed it."""
    names = ("bye", "socket", "ping", "media")
    said = {
        "bye": "says bye, then closes",
        "close": "closes its connection, no bye",
        "kill": "is killed",
        "halt": "stands still",
    }

    def cell(one: Noticed, name: str) -> str:
        if (seconds := dict(one.by).get(name)) is None:
            return "-"
        words = "within 2 s" if seconds < 2 else "after 3 s of silence" if seconds >= 3 else f"≈{seconds:.1f} s"
        return f"first, {words}" if one.first == name else words

    lines = [(said[one.way], *(cell(one, name) for name in names)) for one in found]
    heads = ("bye heard", "server: socket ended", "server: no pong", "media: closed or silent")
    return Table(("the other program", *heads), [("", lines)], (26, 16, 18, 18, 22))

"""Call control: who calls whom, who rings, who is busy. This is not WebRTC.

WebRTC begins when both people want to talk. How they find each other, ring, accept or refuse is no part of it: every
program makes up its own way. This is one, as a table. It knows nothing of peers and tracks, nor they of it.

    room = Room(places=2)
    ann = Phone("Ann", room, act, log)      # act(ann, "negotiate") makes the peers, act(ann, "close") closes them
    ann.press("join")
    ann.press("call", "Ben")                # who is in ann.people; it rings at his phone: ben.press("accept")
    ann.media("connected")                  # what the peers tell
    ann.wait(1 / 30)                        # again and again: time passes
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from loopback import Log, Message, SignallingError, parse_message, printable

# What people say, and what they hear: each type, and the texts it must have. A call has an id, made by who calls, so
# that a late word of an old one is known as such. Nobody says who they are: the room knows, and puts in "from".
CALL_WORDS = ("call", "ringing", "accept", "reject", "busy", "cancel", "bye")
PEOPLE_SAY: dict[str, tuple[str, ...]] = {
    "join": ("name",),
    "leave": (),
    **dict.fromkeys(CALL_WORDS, ("to", "call")),  # to another person: the room passes it on
    "signal": ("to", "call", "text"),  # a message of loopback's (offer, answer, candidate), passed on unread
    "ping": (),  # and when it was sent, a number of the sender's: "sent"
}
PEOPLE_HEAR: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(CALL_WORDS, ("from", "call")),
    "signal": ("from", "call", "text"),
    "welcome": (),  # and the list of the people who were there before
    "full": (),
    "taken": (),
    "refused": ("why",),  # what was said last, or the name
    "arrived": ("from",),
    "left": ("from",),
    "servers": ("call",),  # and what an RTCPeerConnection of that call needs: iceServers, relayOnly
    "pong": (),  # and "sent" of the ping, and "at": the room's clock in ms
}

# (state, what happens) -> (next state, what is done). What happens is a key that a person presses, a message heard,
# the time running out (PATIENCE), news of the media, or of the way to the server. What is not here is refused by its
# name. "take" makes a call that was heard of the present one; "send" speaks to the other one of the present call,
# "reply" to whoever just spoke.
CALL_CONTROL: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    ("away", "press join"): ("joining", ("send join",)),
    ("joining", "hear welcome"): ("idle", ()),
    ("joining", "hear full"): ("away", ()),  # all places of the room are taken
    ("joining", "hear taken"): ("away", ()),  # somebody there has the same name
    ("joining", "hear refused"): ("away", ()),  # not a name
    ("joining", "time-out"): ("away", ("send leave",)),  # we may be in, and the welcome was lost
    ("idle", "press call"): ("calling", ("take", "send call")),
    ("idle", "hear call"): ("ringing", ("take", "send ringing")),
    ("idle", "hear accept of an old call"): ("idle", ("reply bye",)),  # cancelled, but the cancel was not heard
    ("idle", "press leave"): ("away", ("send leave",)),
    # The caller, while it rings over there
    ("calling", "hear ringing"): ("calling", ()),
    ("calling", "hear accept"): ("connecting", ()),
    ("calling", "hear reject"): ("idle", ()),
    ("calling", "hear busy"): ("idle", ()),
    ("calling", "hear left"): ("idle", ()),
    ("calling", "hear call that crossed ours"): ("calling", ()),  # ours counts: our name is the first of the two
    ("calling", "hear call that ours crossed"): ("connecting", ("take", "send accept")),  # theirs counts
    ("calling", "hear another call"): ("calling", ("reply busy",)),
    ("calling", "hear accept of an old call"): ("calling", ("reply bye",)),
    ("calling", "press hang up"): ("idle", ("send cancel",)),
    ("calling", "press leave"): ("away", ("send cancel", "send leave")),
    ("calling", "time-out"): ("idle", ("send cancel",)),  # no answer
    # The one who is called
    ("ringing", "press accept"): ("connecting", ("send accept",)),
    ("ringing", "press reject"): ("idle", ("send reject",)),
    ("ringing", "hear cancel"): ("idle", ()),
    ("ringing", "hear left"): ("idle", ()),
    ("ringing", "hear call again"): ("ringing", ("take", "send ringing")),  # the first was cancelled, unheard
    ("ringing", "hear another call"): ("ringing", ("reply busy",)),
    ("ringing", "hear accept of an old call"): ("ringing", ("reply bye",)),
    ("ringing", "press leave"): ("away", ("send reject", "send leave")),
    ("ringing", "time-out"): ("idle", ()),
    # Both, while offer and answer, ICE and DTLS do their work
    ("connecting", "hear servers"): ("connecting", ("negotiate",)),  # the room has passed on the accept
    ("connecting", "media connected"): ("in call", ()),
    ("connecting", "media failed"): ("idle", ("send bye", "close")),
    ("connecting", "hear bye"): ("idle", ("close",)),
    ("connecting", "hear cancel"): ("idle", ("close",)),  # it crossed our accept
    ("connecting", "hear left"): ("idle", ("close",)),
    ("connecting", "hear another call"): ("connecting", ("reply busy",)),
    ("connecting", "hear accept of an old call"): ("connecting", ("reply bye",)),
    ("connecting", "press hang up"): ("idle", ("send bye", "close")),
    ("connecting", "press leave"): ("away", ("send bye", "close", "send leave")),
    ("connecting", "time-out"): ("idle", ("send bye", "close")),
    ("in call", "media failed"): ("idle", ("send bye", "close")),  # the other one vanished
    ("in call", "hear bye"): ("idle", ("close",)),
    ("in call", "hear left"): ("idle", ("close",)),
    ("in call", "hear another call"): ("in call", ("reply busy",)),
    ("in call", "hear accept of an old call"): ("in call", ("reply bye",)),
    ("in call", "press hang up"): ("idle", ("send bye", "close")),
    ("in call", "press leave"): ("away", ("send bye", "close", "send leave")),
    # The way to the server ends, and is there again. A call that is set up needs no server.
    ("joining", "server lost"): ("away", ()),
    ("idle", "server lost"): ("away", ()),
    ("calling", "server lost"): ("away", ()),
    ("ringing", "server lost"): ("away", ()),
    ("connecting", "server lost"): ("connecting", ()),  # the media may get through; if not, they fail
    ("in call", "server lost"): ("in call", ()),
    ("away", "server back"): ("joining", ("send join",)),
    ("idle", "server back"): ("joining", ("send join",)),  # the call ended meanwhile, or we were not let in
    ("connecting", "server back"): ("connecting", ("send join",)),
    ("connecting", "hear welcome"): ("connecting", ()),
    ("in call", "server back"): ("in call", ("send join",)),
    ("in call", "hear welcome"): ("in call", ()),
    ("in call", "hear full"): ("in call", ()),  # and not in the room
    ("in call", "hear taken"): ("in call", ()),
}

PATIENCE = {"joining": 5.0, "calling": 20.0, "ringing": 25.0, "connecting": 15.0}  # seconds until the time-out
LONGEST_NAME = 40  # letters


class Entrance(Protocol):
    """What a phone needs of a room: the Room itself, or the way to one on a server."""

    def enter(self, hear: Callable[[str], None]) -> Callable[[str], None]: ...


class Phone:
    """One person's side of call control: where in the table they are, and with whom.

    It has no clock and no network: `send` takes a message's text to the room; `act` is told "negotiate" or "close".
    """

    def __init__(self, name: str, room: Entrance, act: Callable[[Phone, str], None], log: Log) -> None:
        self.name, self.act, self.log = name, act, log
        self.send = room.enter(self.hear)
        self.on_signal: Callable[[str], None] = lambda text: None  # a message of loopback's, of the present call
        self.on_pong: Callable[[Message], None] = lambda message: None
        self.state, self.other, self.call = "away", "", ""
        self.servers: Message = {}  # of the present call, for an RTCPeerConnection
        self.calls = False  # whether the present call is one that this person made
        self.inside = False  # whether the room has let us in
        self.why = ""  # what happened last
        self.people: list[str] = []  # the others in the room
        self.waited = 0.0  # seconds in this state
        self._known: set[str] = set()  # who was there before the server was lost: their return is no news
        self._heard: deque[str] = deque(maxlen=100)  # calls heard of: a doubled message rings only once

    def __str__(self) -> str:
        with_whom = {"calling": " {}", "ringing": ": {} calls", "connecting": " with {}", "in call": " with {}"}
        after = f" ({self.why})" if self.state in ("away", "idle") and self.why else ""
        return f"{self.name}: {self.state}{with_whom.get(self.state, '').format(printable(self.other))}{after}"

    def press(self, what: str, other: str = "") -> None:
        """Do what this person wants: join, call somebody, accept, reject, hang up, leave."""
        if what == "call" and other not in self.people:
            self.log(self.name, "refused press call", f"{other} is not in the room")
        elif what == "call" and self.state == "idle":
            self._happens("press call", other, secrets.token_hex(4))
        else:
            self._happens(f"press {what}", self.other, self.call)

    def hear(self, text: str) -> None:
        """Take a message from the room."""
        try:
            message = parse_message(text, PEOPLE_HEAR)
            people = message.get("people", [])
            if not isinstance(people, list) or not all(isinstance(name, str) for name in people):
                raise SignallingError("people must be a list of texts")
        except SignallingError as error:
            self.log(self.name, "refused message", str(error))
            return
        kind, sender, call = message["type"], message.get("from", ""), message.get("call", "")
        if kind in ("arrived", "left"):
            self.people = [name for name in self.people if name != sender] + [sender] * (kind == "arrived")
        if kind == "pong":
            self.on_pong(message)
        elif kind == "signal":
            self._hear_signal(message)
        elif kind == "arrived" or (kind == "left" and sender != self.other):
            if kind == "left" or sender not in self._known:
                self.log(self.name, "hear that", f"{sender} {kind}")
            self._known.discard(sender)
        elif kind == "refused" and self.state != "joining":
            self.log(self.name, "hear that", f"refused: {message['why']}")
        elif kind == "call":
            self._happens(f"hear {self._which_call(sender, call)}", sender, call)
        else:
            if kind == "welcome" and not self.inside and self.state in ("joining", "connecting", "in call"):
                self.people, self.inside, self._known = people, True, self._known - {*people}
            old = " of an old call" if call != self.call and "call" in PEOPLE_HEAR[kind] else ""
            if kind == "servers" and not old and self.state == "connecting":
                old, self.servers = " again" if self.servers else "", message
            self._happens(f"hear {kind}{old}", sender, call)

    def _hear_signal(self, message: Message) -> None:
        ours = (message["from"], message["call"]) == (self.other, self.call)
        if ours and self.servers:
            self.on_signal(message["text"])
        else:
            old = "" if ours else " of an old call"
            self.log(self.name, f"refused hear signal{old}", f"in state {self.state}")

    def _which_call(self, sender: str, call: str) -> str:
        if call in self._heard:
            return "call heard before"
        self._heard.append(call)
        if sender == self.other and self.state == "calling":
            return "call that crossed ours" if self.name < sender else "call that ours crossed"
        if sender == self.other and self.state == "ringing":
            return "call again"
        return "call" if self.state == "idle" else "another call"

    def media(self, news: str) -> None:
        """Take news of the media: "connected" or "failed"."""
        self._happens(f"media {news}", self.other, self.call)

    def server(self, news: str) -> None:
        """Take news of the way to the server: "lost", or "back" to come in again."""
        if news == "lost":
            self._known, self.people, self.inside = {*self._known, *self.people}, [], False
        self._happens(f"server {news}", self.other, self.call)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.waited += seconds
        if self.waited > PATIENCE.get(self.state, math.inf):
            self._happens("time-out", self.other, self.call)

    def _happens(self, what: str, who: str, call: str) -> None:
        if (self.state, what) not in CALL_CONTROL:
            self.log(self.name, f"refused {what}", f"in state {self.state}")
            return
        before = self.state
        self.state, does = CALL_CONTROL[before, what]
        self.log(self.name, what, f"{before} → {self.state}" if self.state != before else who)
        if self.state != before:
            self.waited = 0.0
            self.why = "no answer" if what == "time-out" else what.removeprefix("hear ").removeprefix("press ")
        for action in does:
            verb, _, kind = action.partition(" ")
            if verb == "take":
                self.other, self.call, self.calls = who, call, what == "press call"
            elif verb == "send":
                self._say(kind, self.other, self.call)
            elif verb == "reply":
                self._say(kind, who, call)
            else:
                self.act(self, verb)
        if self.state in ("away", "idle"):
            self.other, self.call, self.servers = "", "", {}
        self.inside = self.inside and self.state != "away"

    def _say(self, kind: str, to: str, call: str) -> None:
        self.log(self.name, f"send {kind}", to)
        texts = {"name": self.name, "to": to, "call": call}
        self.send(json.dumps({"type": kind} | {text: texts[text] for text in PEOPLE_SAY[kind]}))


@dataclass(eq=False)
class Guest:
    """Somebody at the door of a room, or inside."""

    hear: Callable[[str], None]
    name: str = ""  # "" at the door
    rang: tuple[str, str] = ("", "")  # whom they called last, and the call

    def told(self, message: Message) -> None:
        """Let them hear it soon: after what they were told before, and not within what they say."""
        asyncio.get_running_loop().call_soon(self.hear, json.dumps(message))


class Room:
    """Where people meet. It knows who is there, and passes on what they say: on the net, a server. It sees no media.

    `servers` is what the two of a call need to reach each other: {"iceServers": [...], "relayOnly": bool}.
    """

    def __init__(self, places: int, log: Log | None = None, servers: Message | None = None) -> None:
        self.places, self.log = places, Log() if log is None else log
        self.servers = servers or {"iceServers": [], "relayOnly": False}
        self.people: dict[str, Guest] = {}

    def enter(self, hear: Callable[[str], None]) -> Callable[[str], None]:
        """Return how someone who hears in that way can speak to the room. What is said is heard soon, in order."""
        guest = Guest(hear)

        def speak(text: str) -> None:
            try:
                self._take(parse_message(text, PEOPLE_SAY), guest)
            except SignallingError as error:
                self.log("room", "refused message", f"{guest.name or 'at the door'}: {error}")
                guest.told({"type": "refused", "why": str(error)})

        return speak

    def _take(self, message: Message, guest: Guest) -> None:
        kind, inside = message["type"], self.people.get(guest.name) is guest
        if kind == "ping":
            guest.told({"type": "pong", "sent": message.get("sent"), "at": self.log.now() * 1000})
        elif kind == "join":
            self._join(check_name(message["name"]), guest, inside)
        elif kind == "leave":  # also the last word of everybody whose way to the room has ended
            if inside:
                del self.people[guest.name]
                self._tell_all({"type": "left", "from": guest.name})
        elif not inside:
            raise SignallingError(f"{kind} of somebody who is not in the room")
        elif message["to"] in self.people:
            self._pass_on(message, guest, self.people[message["to"]])
        else:
            guest.told({"type": "left", "from": message["to"]})

    def _join(self, name: str, guest: Guest, inside: bool) -> None:
        people = [*self.people]
        taken = inside or name in people  # one who speaks has one name
        refusal = "taken" if taken else "full" if len(people) >= self.places else ""
        guest.told({"type": refusal} if refusal else {"type": "welcome", "people": people})
        if not refusal:
            self._tell_all({"type": "arrived", "from": name})
            guest.name, self.people[name] = name, guest

    def _pass_on(self, message: Message, guest: Guest, to: Guest) -> None:
        kind, call = message["type"], message["call"]
        self.log("room", kind, f"{guest.name} → {to.name}")
        to.told(
            {"type": kind, "from": guest.name, **{name: message[name] for name in PEOPLE_SAY[kind] if name != "to"}}
        )
        if kind == "call":
            guest.rang = (to.name, call)
        elif kind == "accept" and to.rang == (guest.name, call):  # nobody gets a password by an accept of no call
            for one in (to, guest):
                one.told({"type": "servers", "call": call, **self.servers})

    def _tell_all(self, news: Message) -> None:
        self.log("room", news["type"], news["from"])
        for person in self.people.values():
            person.told(news)


def check_name(name: str) -> str:
    """Return a name that a person may have. Raises SignallingError for another."""
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise SignallingError(f"a name has 1 to {LONGEST_NAME} letters that can be shown, the first and last no space")
    return name

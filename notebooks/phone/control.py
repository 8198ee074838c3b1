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

from loopback import Log, Message, SignallingError, parse_message, printable

# What people say to one another names the call, so that a late word of an old one is known as such.
SPOKEN = ("from", "to", "call")
PEOPLE_SAY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("join", "leave"), ("from",)),  # to the room
    **dict.fromkeys(("call", "ringing", "accept", "reject", "busy", "cancel", "bye"), SPOKEN),  # it passes these on
}
ROOM_SAYS: dict[str, tuple[str, ...]] = {
    "welcome": (),  # and the list of the people
    "full": (),
    "taken": (),
    "arrived": ("from",),
    "left": ("from",),
}
CALL_MESSAGES = PEOPLE_SAY | ROOM_SAYS  # each type, and the texts it must have

# (state, what happens) -> (next state, what is done). What happens is a key that a person presses, a message heard,
# the time running out (PATIENCE), or news of the media. What is not here is refused by its name. "take" makes a call
# that was heard of the present one; "send" speaks to the other one of the present call, "reply" to whoever just spoke.
CALL_CONTROL: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    ("away", "press join"): ("joining", ("send join",)),
    ("joining", "hear welcome"): ("idle", ()),
    ("joining", "hear full"): ("away", ()),  # all places of the room are taken
    ("joining", "hear taken"): ("away", ()),  # somebody there has the same name
    ("joining", "time-out"): ("away", ("send leave",)),  # we may be in, and the welcome was lost
    ("idle", "press call"): ("calling", ("take", "send call")),
    ("idle", "hear call"): ("ringing", ("take", "send ringing")),
    ("idle", "hear accept of an old call"): ("idle", ("reply bye",)),  # cancelled, but the cancel was not heard
    ("idle", "press leave"): ("away", ("send leave",)),
    # The caller, while it rings over there
    ("calling", "hear ringing"): ("calling", ()),
    ("calling", "hear accept"): ("connecting", ("negotiate",)),
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
}

PATIENCE = {"joining": 5.0, "calling": 20.0, "ringing": 25.0, "connecting": 15.0}  # seconds until the time-out


class Phone:
    """One person's side of call control: where in the table they are, and with whom.

    It has no clock and no network: `send` takes a message's text to the room, `act` is told "negotiate" or "close".
    """

    def __init__(self, name: str, room: Room, act: Callable[[Phone, str], None], log: Log) -> None:
        self.name, self.act, self.log = name, act, log
        self.send = room.enter(self.hear)
        self.state, self.other, self.call = "away", "", ""
        self.why = ""  # what happened last
        self.people: list[str] = []  # the others in the room
        self.waited = 0.0  # seconds in this state
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
            message = parse_message(text, CALL_MESSAGES)
            people = message.get("people", [])
            if not isinstance(people, list) or not all(isinstance(name, str) for name in people):
                raise SignallingError("people must be a list of texts")
        except SignallingError as error:
            self.log(self.name, "refused message", str(error))
            return
        kind, sender, call = message["type"], message.get("from", ""), message.get("call", "")
        if kind == "welcome" and self.state == "joining":
            self.people = people
        if kind in ("arrived", "left"):
            self.people = [name for name in self.people if name != sender] + [sender] * (kind == "arrived")
        if kind == "arrived" or (kind == "left" and sender != self.other):
            self.log(self.name, "hear that", f"{sender} {kind}")
        elif kind == "call":
            self._happens(f"hear {self._which_call(sender, call)}", sender, call)
        else:
            old = " of an old call" if call != self.call and "call" in CALL_MESSAGES[kind] else ""
            self._happens(f"hear {kind}{old}", sender, call)

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
                self.other, self.call = who, call
            elif verb == "send":
                self._say(kind, self.other, self.call)
            elif verb == "reply":
                self._say(kind, who, call)
            else:
                self.act(self, verb)
        if self.state in ("away", "idle"):
            self.other, self.call = "", ""

    def _say(self, kind: str, to: str, call: str) -> None:
        self.log(self.name, f"send {kind}", to)
        self.send(json.dumps({"type": kind, "from": self.name, "to": to, "call": call}))


class Room:
    """Where people meet. It knows who is there, and passes on what they say: on the net, a server. It sees no media."""

    def __init__(self, places: int, log: Log | None = None) -> None:
        self.places, self.log = places, Log() if log is None else log
        self.people: dict[str, Callable[[str], None]] = {}  # name: how to reach them

    def enter(self, hear: Callable[[str], None]) -> Callable[[str], None]:
        """Return how someone who hears in that way can speak to the room. What is said is heard soon, in order."""

        def reach(text: str) -> None:
            asyncio.get_running_loop().call_soon(hear, text)

        def speak(text: str) -> None:
            try:
                self._pass_on(text, reach)
            except SignallingError as error:
                self.log("room", "refused message", str(error))

        return speak

    def _pass_on(self, text: str, reach: Callable[[str], None]) -> None:
        message = parse_message(text, PEOPLE_SAY)
        kind, name = message["type"], message["from"]
        if kind == "join":
            people = [*self.people]
            inside = name in people or reach in self.people.values()  # one who speaks has one name
            refusal = "taken" if inside else "full" if len(people) >= self.places else ""
            reach(json.dumps({"type": refusal or "welcome", "people": people}))
            if not refusal:
                self.people[name] = reach
                self._tell(people, {"type": "arrived", "from": name})
        elif self.people.get(name) is not reach:
            raise SignallingError(f"{kind} in the name of {name}, who did not come in here")
        elif kind == "leave":
            del self.people[name]
            self._tell([*self.people], {"type": "left", "from": name})
        elif message["to"] in self.people:
            self.people[message["to"]](text)
        else:
            reach(json.dumps({"type": "left", "from": message["to"]}))

    def _tell(self, people: list[str], news: Message) -> None:
        for person in people:
            self.people[person](json.dumps(news))

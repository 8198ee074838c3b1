"""Call control: the table holds in every state, and both ends agree in the end whatever the network does."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import copy
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import run

from loopback import Log

sys.path.append(str(Path(loopback.__file__).resolve().parent / "notebooks"))
from phone import control
from phone.control import CALL_CONTROL, CALL_WORDS, PATIENCE, PEOPLE_HEAR, PEOPLE_SAY, Phone, Room

STATES = ("away", "joining", "idle", "calling", "ringing", "connecting", "in call")


# ---- The table -------------------------------------------------------------------------------------------------------


def test_the_table_speaks_of_states_and_messages_that_exist() -> None:
    assert {state for state, _ in CALL_CONTROL} == set(STATES)
    assert {state for state, _ in CALL_CONTROL.values()} == set(STATES)
    assert set(PATIENCE) < set(STATES)
    for _, event in CALL_CONTROL:
        verb, _, rest = event.partition(" ")
        other = {"press": PRESSES, "media": ("connected", "failed"), "server": ("lost", "back")}
        known = rest in other[verb] if verb in other else any(word in PEOPLE_HEAR for word in rest.split())
        assert event == "time-out" or known, event
    for _, does in CALL_CONTROL.values():
        for action in does:
            verb, _, kind = action.partition(" ")
            assert (verb in ("send", "reply") and kind in PEOPLE_SAY) or action in ("take", "negotiate", "close")


def test_no_state_is_without_a_way_out() -> None:
    for state in set(STATES) - {"away", "idle"}:
        ends = [event for (now, event), (then, _) in CALL_CONTROL.items() if now == state and then in ("idle", "away")]
        assert state == "joining" or "hear left" in ends
        assert {"time-out", "media failed"} & set(ends), "nothing ends it when the other side is silent"


class Quiet:
    """A network that carries nothing, and keeps what is said."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def enter(self, hear: Callable[[str], None]) -> Callable[[str], None]:
        return lambda text: self.said.append(json.loads(text))


def phone_in(state: str) -> tuple[Phone, Quiet, list[str], Log]:
    """Return Ann's phone in a state, her call with Ben being number 1."""
    network, acts, log = Quiet(), [], Log()
    phone = Phone("Ann", network, lambda phone, what: acts.append(what), log)  # type: ignore[arg-type]
    phone.state, phone.people = state, ["Ben", "Cem"]
    if state not in ("away", "joining", "idle"):
        phone.other, phone.call = "Ben", "1"
    phone.inside = state not in ("away", "joining")
    return phone, network, acts, log


WORDS = set(PEOPLE_HEAR) - {"pong"}  # which only tells the time
PRESSES = ("join", "call", "accept", "reject", "hang up", "leave")
HAPPENINGS = [
    *(("press", what, "Ben", "") for what in PRESSES),
    *(("media", what, "", "") for what in ("connected", "failed")),
    *(("server", what, "", "") for what in ("lost", "back")),
    ("time-out", "", "", ""),
    # a message, from whom, about which call: the present one, another one of Ben's, one of a third
    *(("hear", kind, *whom) for kind in sorted(WORDS) for whom in (("Ben", "1"), ("Ben", "2"), ("Cem", "3"))),
]


def do(phone: Phone, verb: str, what: str, who: str, call: str) -> None:
    """Make it happen as it does in a program."""
    if verb == "press":
        phone.press(what, who)
    elif verb == "media":
        phone.media(what)
    elif verb == "server":
        phone.server(what)
    elif verb == "time-out":
        phone.wait(1000)
    else:
        texts = {"from": who, "call": call, "text": "{}", "why": "so"}
        phone.hear(json.dumps({"type": what, **texts, "people": ["Ben"], "sent": 1, "at": 2}))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("happening", HAPPENINGS, ids=lambda happening: " ".join(happening).strip())
def test_everything_in_every_state_moves_the_call_or_is_refused_by_name(
    state: str, happening: tuple[str, str, str, str]
) -> None:
    phone, network, acts, log = phone_in(state)
    do(phone, *happening)
    verb, what, who, call = happening
    told = [entry.what for entry in log.events if not entry.what.startswith("send")]
    if not told:
        assert verb == "time-out"
        assert state not in PATIENCE  # no time runs there
        return
    assert len(told) == 1
    assert what in f"{told[0]} {log.events[0].detail}"
    if (state, told[0]) not in CALL_CONTROL:
        assert told[0] == "hear that" or told[0].startswith("refused")  # the former is news of a third person
        assert (phone.state, network.said, acts) == (state, [], [])
        return
    then, does = CALL_CONTROL[state, told[0]]
    assert phone.state == then
    done = [f"send {message['type']}" for message in network.said] + acts
    assert sorted(done) == sorted(act.replace("reply", "send") for act in does if act != "take")
    for message in network.said:
        if f"reply {message['type']}" in does or "take" in does:
            assert message["to"] == who
            assert message["call"] == call or verb == "press"
        elif message["type"] not in ("join", "leave"):
            assert (message["to"], message["call"]) == ("Ben", "1")
    assert (phone.other == "") == (phone.state in ("away", "idle", "joining"))


def test_every_row_of_the_table_can_happen() -> None:
    happened = set()
    for name, state, happening in itertools.product(("Ann", "Zoe"), STATES, HAPPENINGS):
        phone, _, _, log = phone_in(state)
        phone.name = name
        do(phone, *happening)
        happened |= {(state, entry.what) for entry in log.events}
    assert set(CALL_CONTROL) - happened == set()


NO_MESSAGES = ["", "[]", "{}", '{"type": "call"}', '{"type": "offer", "sdp": ""}', '{"type": "dance"}']


@pytest.mark.parametrize("text", [*NO_MESSAGES, '{"type": "call", "from": "Ben", "to": "Ann", "call": 1}'])
def test_what_is_no_message_is_refused(text: str) -> None:
    phone, network, _, log = phone_in("idle")
    phone.hear(text)
    assert (phone.state, network.said) == ("idle", [])
    assert [event.what for event in log.events] == ["refused message"]


@pytest.mark.parametrize("people", ["Ben", {"Ben": 1}, ["Ben", 7], [["Ben"]], [None], None])
def test_a_welcome_whose_people_are_no_texts_is_refused(people: object) -> None:
    phone, _, _, log = phone_in("joining")
    phone.hear(json.dumps({"type": "welcome", "people": people}))
    assert (phone.state, phone.people) == ("joining", ["Ben", "Cem"])
    assert [event.what for event in log.events] == ["refused message"]


def test_an_old_welcome_does_not_bring_back_who_has_left() -> None:
    phone, _, _, _ = phone_in("idle")
    phone.hear('{"type": "left", "from": "Cem"}')
    phone.hear('{"type": "welcome", "people": ["Ben", "Cem"]}')
    assert phone.people == ["Ben"]


def test_a_name_cannot_steer_the_terminal() -> None:
    phone, _, _, log = phone_in("idle")
    for kind in ("arrived", "call", "left"):
        phone.hear(json.dumps({"type": kind, "from": "\x1b[2J\n", "to": "Ann", "call": "9"}))
        assert f"{log!r}{phone}".replace("\n", "").isprintable()
        assert "\n" not in str(phone)
    assert phone.why == "left"


# ---- Every order of events -------------------------------------------------------------------------------------------

DEPTH = 8  # events, all orders of them


class NoLog:
    def __call__(self, *_: str) -> None:
        """Keep nothing: there are many thousand worlds."""


class World:
    """Two phones and the words under way between them. It can be copied, and compared by `key`."""

    def __init__(self) -> None:
        self.queues: dict[str, list[dict[str, Any]]] = {"Ann": [], "Ben": []}  # to
        self.phones = {name: Phone(name, Entrance(self), Act(), NoLog()) for name in ("Ann", "Ben")}  # type: ignore[arg-type]
        for name, phone in self.phones.items():
            phone.state, phone.people, phone.inside = "idle", [self.other(name)], True

    def copied(self) -> "World":
        """Return another world that is like this one; copy.deepcopy would take five times as long."""
        new = copy.copy(self)
        new.queues = {name: [*words] for name, words in self.queues.items()}
        new.phones = {name: copy.copy(phone) for name, phone in self.phones.items()}
        for name, phone in new.phones.items():
            phone.send, phone._heard, phone._known = Entrance(new, name), phone._heard.copy(), {*phone._known}
        return new

    @staticmethod
    def other(name: str) -> str:
        return "Ben" if name == "Ann" else "Ann"

    @property
    def key(self) -> str:
        """The same for two worlds that differ only in the numbers of their calls."""
        numbers: dict[str, int] = {"": 0}

        def same(call: str) -> int:
            return numbers.setdefault(call, len(numbers))

        phones = [
            (phone.state, phone.other, same(phone.call), bool(phone.servers), sorted(map(same, phone._heard)))
            for phone in self.phones.values()
        ]
        words = [[(word["type"], same(word.get("call", ""))) for word in queue] for queue in self.queues.values()]
        return repr((phones, words))

    def deliver(self, name: str) -> None:
        self.phones[name].hear(json.dumps(self.queues[name].pop(0)))

    @property
    def one_call(self) -> bool:
        """Whether both are in, or on their way into, the same call, and have made their peers."""
        ann, ben = self.phones["Ann"], self.phones["Ben"]
        negotiated = bool(ann.servers) and bool(ben.servers)
        return ann.call == ben.call != "" and {ann.state, ben.state} <= {"connecting", "in call"} and negotiated

    def choices(self) -> Iterator[Callable[["World"], None]]:
        """Give everything that may happen next."""
        for name, phone in self.phones.items():
            for state, event in CALL_CONTROL:
                if state == phone.state and event.startswith("press"):
                    yield lambda world, name=name, event=event: do_in(world, name, event)
            if phone.state in PATIENCE:
                yield lambda world, name=name: world.phones[name].wait(1000)
            if phone.state == "connecting" and self.one_call:
                yield lambda world, name=name: world.phones[name].media("connected")
            if phone.state == "in call" and not self.one_call:
                yield lambda world, name=name: world.phones[name].media("failed")
            if queue := self.queues[name]:
                yield lambda world, name=name: world.deliver(name)
                if queue[0]["type"] != "left":  # that is the room's word, which does not get lost
                    yield lambda world, name=name: world.queues[name].pop(0) and None
                    if len(queue) < 4:
                        yield lambda world, name=name: world.queues[name].insert(0, world.queues[name][0])

    def settle(self) -> None:
        """Let everything arrive and all time run out, until nothing happens any more."""
        for _ in range(100):
            before = self.key
            while waiting := [name for name, queue in self.queues.items() if queue]:
                self.deliver(waiting[0])
            for phone in self.phones.values():
                if phone.state == "connecting" and self.one_call:
                    phone.media("connected")
                elif phone.state == "in call" and not self.one_call:
                    phone.media("failed")
                elif phone.state in PATIENCE:
                    phone.wait(1000)
            if self.key == before:
                return
        raise AssertionError("it never comes to rest")


class Entrance:
    """The way of one phone to the other, and what the room adds."""

    def __init__(self, world: World, name: str = "") -> None:
        self.world, self.name = world, name

    def enter(self, hear: Any) -> "Entrance":
        return Entrance(self.world, hear.__self__.name)

    def __call__(self, text: str) -> None:
        word = json.loads(text)
        kind, queues = {"leave": "left"}.get(word["type"], word["type"]), self.world.queues
        queues[World.other(self.name)].append(word | {"type": kind, "from": self.name})
        if word["type"] == "accept":
            for queue in queues.values():
                queue.append({"type": "servers", "call": word["call"]})


class Act:
    def __call__(self, phone: Phone, what: str) -> None:
        """The media are the world's business."""


def do_in(world: World, name: str, event: str) -> None:
    phone = world.phones[name]
    phone.press(event.removeprefix("press "), World.other(name))


def test_both_ends_agree_in_the_end_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count(1)
    monkeypatch.setattr(control.secrets, "token_hex", lambda _: str(next(numbers)))
    worlds, known = [World()], set()
    ends: set[tuple[str, str]] = set()
    for _ in range(DEPTH):
        after = []
        for world in worlds:
            for choice in world.choices():
                new = world.copied()
                choice(new)
                if new.key not in known:
                    known.add(new.key)
                    after.append(new)
                    rest = new.copied()
                    rest.settle()
                    ann, ben = rest.phones.values()
                    ends.add((ann.state, ben.state))
                    in_call = ann.state == ben.state == "in call"
                    assert in_call or {ann.state, ben.state} <= {"idle", "away"}, new.key
                    assert not in_call or (ann.call == ben.call and (ann.other, ben.other) == ("Ben", "Ann"))
        worlds = after
    assert ("in call", "in call") in ends
    assert len(known) > 20_000


def test_crossing_calls_become_one() -> None:
    world = World()
    ann, ben = world.phones.values()
    ann.press("call", "Ben")
    ben.press("call", "Ann")
    world.settle()
    assert (ann.state, ben.state) == ("in call", "in call")
    assert ann.call == ben.call


# ---- The room --------------------------------------------------------------------------------------------------------


def in_room(places: int, *names: str) -> tuple[list[Phone], Log]:
    """Return the phones of people who have asked to come in."""
    log, room = Log(), Room(places)
    phones = [Phone(name, room, lambda phone, what: None, log) for name in names]
    for phone in phones:
        phone.press("join")
    return phones, log


async def quiet() -> None:
    """Let every word arrive."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_the_people_of_a_room_know_one_another() -> None:
    async def scenario() -> None:
        (ann, ben, cem), _ = in_room(3, "Ann", "Ben", "Cem")
        await quiet()
        assert [sorted(phone.people) for phone in (ann, ben, cem)] == [["Ben", "Cem"], ["Ann", "Cem"], ["Ann", "Ben"]]
        ben.press("leave")
        await quiet()
        assert (ann.people, ben.state, cem.people) == (["Cem"], "away", ["Ann"])
        ann.press("call", "Ben")
        assert ann.state == "idle", "he is not there"

    run(scenario())


def test_a_room_of_two_is_full_for_the_third_until_somebody_leaves() -> None:
    async def scenario() -> None:
        (ann, ben, cem), log = in_room(2, "Ann", "Ben", "Cem")
        await quiet()
        assert [phone.state for phone in (ann, ben, cem)] == ["idle", "idle", "away"]
        assert [event.what for event in log.events if event.who == "Cem"] == ["press join", "send join", "hear full"]
        assert str(cem) == "Cem: away (full)"
        ann.press("leave")
        await quiet()
        cem.press("join")
        await quiet()
        assert (cem.state, cem.people, ben.people) == ("idle", ["Ben"], ["Cem"])

    run(scenario())


def test_a_name_belongs_to_one() -> None:
    async def scenario() -> None:
        (one, other), _ = in_room(3, "Ann", "Ann")
        await quiet()
        assert (one.state, other.state) == ("idle", "away")
        assert str(other) == "Ann: away (taken)"

    run(scenario())


def test_who_calls_someone_in_a_call_gets_busy_and_after_the_call_succeeds() -> None:
    async def scenario() -> None:
        (ann, ben, cem), _ = in_room(3, "Ann", "Ben", "Cem")
        await quiet()
        ann.press("call", "Ben")
        await quiet()
        assert (str(ann), str(ben)) == ("Ann: calling Ben", "Ben: ringing: Ann calls")
        cem.press("call", "Ben")  # while it rings already
        await quiet()
        assert str(cem) == "Cem: idle (busy)"
        ben.press("accept")
        await quiet()
        ann.media("connected")
        ben.media("connected")
        cem.press("call", "Ann")
        await quiet()
        assert [str(phone) for phone in (ann, ben, cem)] == [
            "Ann: in call with Ben",
            "Ben: in call with Ann",
            "Cem: idle (busy)",
        ]
        ben.press("hang up")
        await quiet()
        assert (str(ann), str(ben)) == ("Ann: idle (bye)", "Ben: idle (hang up)")
        cem.press("call", "Ben")
        await quiet()
        ben.press("reject")
        await quiet()
        assert str(cem) == "Cem: idle (reject)"
        cem.press("call", "Ben")
        await quiet()
        ben.press("accept")
        await quiet()
        assert (cem.state, ben.state, cem.call) == ("connecting", "connecting", ben.call)

    run(scenario())


def test_whoever_leaves_in_the_middle_is_missed() -> None:
    async def scenario() -> None:
        (ann, ben), _ = in_room(2, "Ann", "Ben")
        await quiet()
        ann.press("call", "Ben")
        await quiet()
        ben.press("leave")
        await quiet()
        assert (ann.state, ben.state, ann.people) == ("idle", "away", [])

    run(scenario())


def test_nobody_answers() -> None:
    async def scenario() -> None:
        (ann, ben), _ = in_room(2, "Ann", "Ben")
        await quiet()
        ann.press("call", "Ben")
        await quiet()
        ann.wait(PATIENCE["calling"])
        assert ann.state == "calling"
        ann.wait(0.1)
        await quiet()
        assert (str(ann), str(ben)) == ("Ann: idle (no answer)", "Ben: idle (cancel)")

    run(scenario())


def test_a_lost_welcome_or_a_doubled_word_to_the_room_does_no_harm() -> None:
    async def scenario() -> None:
        log, room = Log(), Room(2)
        phone = Phone("Ann", room, lambda phone, what: None, log)
        heard, phone.hear = phone.hear, lambda text: None  # type: ignore[method-assign]
        speak = room.enter(lambda text: phone.hear(text))
        phone.send = speak
        phone.press("join")
        await quiet()
        assert phone.state == "joining"
        phone.wait(PATIENCE["joining"] + 1)
        await quiet()
        phone.hear = heard  # type: ignore[method-assign]
        phone.press("join")
        await quiet()
        assert phone.state == "idle"
        phone.press("leave")
        speak(json.dumps({"type": "leave"}))
        await quiet()
        assert (phone.state, room.people) == ("away", {})

    run(scenario())


def entered(room: Room) -> tuple[Callable[[dict[str, Any]], None], list[dict[str, Any]]]:
    """Come into a room without a phone: return how to say something, and what is heard."""
    heard: list[dict[str, Any]] = []
    speak = room.enter(lambda text: heard.append(json.loads(text)))
    return lambda message: speak(json.dumps(message)), heard


NOT_TO_THE_ROOM = NO_MESSAGES + [json.dumps({"type": kind}) for kind in PEOPLE_HEAR]


@pytest.mark.parametrize("text", NOT_TO_THE_ROOM)
def test_what_is_no_message_does_not_disturb_the_room(text: str) -> None:
    async def scenario() -> None:
        log, heard = Log(), []
        room = Room(3, log)
        room.enter(lambda text: heard.append(json.loads(text)))(text)
        await quiet()
        assert room.people == {}
        assert [(event.who, event.what) for event in log.events] == [("room", "refused message")]
        assert [message["type"] for message in heard] == ["refused"]

    run(scenario())


async def met(*names: str, **options: Any) -> tuple[Room, list[Any], list[list[dict[str, Any]]]]:
    """Return a room in which these people are, how each of them speaks, and what each hears from now on."""
    room = Room(10, **options)
    speak, heard = zip(*(entered(room) for _ in names), strict=True)
    for say, name in zip(speak, names, strict=True):
        say({"type": "join", "name": name})
    await quiet()
    for messages in heard:
        messages.clear()
    return room, list(speak), list(heard)


@pytest.mark.parametrize("kind", sorted({*PEOPLE_HEAR} - {*PEOPLE_SAY}))
def test_nobody_can_speak_as_the_room(kind: str) -> None:
    async def scenario() -> None:
        room, (ann, _), (_, ben_hears) = await met("Ann", "Ben")
        ann({"type": kind, "from": "Ann", "to": "Ben", "call": "1", "why": "", "people": []})
        await quiet()
        assert ben_hears == []
        assert [*room.people] == ["Ann", "Ben"]

    run(scenario())


@pytest.mark.parametrize("kind", [*CALL_WORDS, "signal"])
def test_nobody_can_speak_in_the_name_of_another(kind: str) -> None:
    async def scenario() -> None:
        room, (_, _, cem), (_, ben_hears, _) = await met("Ann", "Ben", "Cem")
        word = {"type": kind, "to": "Ben", "call": "1", "text": "{}"}
        cem(word | {"from": "Ann", "people": ["Zoe"], "name": "Ann"})
        stranger, _ = entered(room)
        stranger(word | {"from": "Ann", "name": "Ann"})
        await quiet()
        text = {"text": "{}"} if kind == "signal" else {}
        assert ben_hears == [{"type": kind, "from": "Cem", "call": "1", **text}]

    run(scenario())


def test_one_person_takes_one_place() -> None:
    async def scenario() -> None:
        room = Room(3)
        ann, heard = entered(room)
        for name in ("Ann", "Ann", "Zoe"):
            ann({"type": "join", "name": name})
        await quiet()
        assert [message["type"] for message in heard] == ["welcome", "taken", "taken"]
        assert [*room.people] == ["Ann"]

    run(scenario())


@pytest.mark.parametrize(
    "name", ["", " ", " Ann", "Ann ", "A" * 41, "Ann\n", "\x1b[2J", "\u202eAnn", "\ud800", "A\u200bn"]
)
def test_what_cannot_be_shown_is_no_name(name: str) -> None:
    async def scenario() -> None:
        room = Room(3)
        phone = Phone(name, room, lambda phone, what: None, Log())
        phone.press("join")
        await quiet()
        assert (phone.state, phone.why, room.people) == ("away", "refused", {})

    run(scenario())


@pytest.mark.parametrize("name", ["A", "Zoë", "李雷", "Ann & <b>Ben</b>", "'; --", "🙂" * 40])
def test_a_name_is_text_in_any_writing(name: str) -> None:
    async def scenario() -> None:
        room, (say, _), (_, heard) = await met("Ben", name)
        say({"type": "call", "to": name, "call": "1"})
        await quiet()
        assert heard == [{"type": "call", "from": "Ben", "call": "1"}]
        assert [*room.people] == ["Ben", name]

    run(scenario())


def test_both_ends_of_a_call_are_told_the_servers_after_its_accept() -> None:
    async def scenario() -> None:
        servers = {"iceServers": [{"urls": "turn:127.0.0.1", "username": "u", "credential": "c"}], "relayOnly": True}
        _, (ann, ben, _), heard = await met("Ann", "Ben", "Cem", servers=servers)
        ann({"type": "call", "to": "Ben", "call": "1"})
        ben({"type": "accept", "to": "Ann", "call": "1"})
        await quiet()
        told = {"type": "servers", "call": "1", **servers}
        assert heard == [
            [{"type": "accept", "from": "Ben", "call": "1"}, told],
            [{"type": "call", "from": "Ann", "call": "1"}, told],
            [],
        ]

    run(scenario())


@pytest.mark.parametrize(("to", "call"), [("Ann", "2"), ("Cem", "1")])
def test_an_accept_of_no_call_gives_nobody_a_password(to: str, call: str) -> None:
    async def scenario() -> None:
        _, (ann, ben, _), heard = await met("Ann", "Ben", "Cem")
        ann({"type": "call", "to": "Ben", "call": "1"})
        ben({"type": "accept", "to": to, "call": call})
        await quiet()
        assert "servers" not in [message["type"] for messages in heard for message in messages]

    run(scenario())


def test_a_ping_is_answered_with_the_time_in_the_room() -> None:
    async def scenario() -> None:
        log = Log()
        say, heard = entered(Room(3, log))
        before = log.now() * 1000
        say({"type": "ping", "sent": 12.5})
        await quiet()
        (pong,) = heard
        assert (pong["type"], pong["sent"]) == ("pong", 12.5)
        assert before <= pong["at"] <= log.now() * 1000

    run(scenario())


# ---- The way to the server ends, and is there again ------------------------------------------------------------------


def test_a_signal_reaches_the_call_it_belongs_to_and_no_other() -> None:
    phone, _, acts, log = phone_in("connecting")
    taken: list[str] = []
    phone.on_signal = taken.append
    signal = {"type": "signal", "from": "Ben", "call": "1", "text": "early"}
    phone.hear(json.dumps(signal))
    phone.hear('{"type": "servers", "call": "1"}')
    for change in ({"text": "good"}, {"from": "Cem"}, {"call": "2"}):
        phone.hear(json.dumps(signal | change))
    phone.hear('{"type": "bye", "from": "Ben", "call": "1"}')
    phone.hear(json.dumps(signal))
    assert (taken, acts) == (["good"], ["negotiate", "close"])
    refused = [event.what for event in log.events if event.what.startswith("refused")]
    old = "refused hear signal of an old call"
    assert refused == ["refused hear signal", old, old, old]


def test_the_servers_of_a_call_are_taken_once() -> None:
    phone, _, acts, log = phone_in("connecting")
    for call in ("2", "1", "1"):
        phone.hear(json.dumps({"type": "servers", "call": call}))
    assert acts == ["negotiate"]
    assert [event.what for event in log.events] == [
        "refused hear servers of an old call",
        "hear servers",
        "refused hear servers again",
    ]


def test_a_call_outlives_the_server_and_the_return_of_the_people_is_no_news() -> None:
    phone, network, acts, log = phone_in("in call")
    phone.server("lost")
    assert (phone.state, phone.people) == ("in call", [])
    phone.server("back")
    assert network.said == [{"type": "join", "name": "Ann"}]
    phone.hear('{"type": "welcome", "people": ["Cem"]}')
    phone.hear('{"type": "arrived", "from": "Ben"}')
    phone.hear('{"type": "arrived", "from": "Zoe"}')
    assert (phone.state, phone.people, acts) == ("in call", ["Cem", "Ben", "Zoe"], [])
    assert [event.detail for event in log.events if event.what == "hear that"] == ["Zoe arrived"]


@pytest.mark.parametrize("kind", ["full", "taken"])
def test_who_is_not_let_in_during_a_call_asks_again_after_it(kind: str) -> None:
    phone, network, _, _ = phone_in("in call")
    phone.server("lost")
    phone.server("back")
    phone.hear(json.dumps({"type": kind}))
    phone.press("hang up")
    assert (phone.state, phone.inside) == ("idle", False)
    phone.server("back")
    phone.hear('{"type": "welcome", "people": ["Ben"]}')
    assert (phone.state, phone.inside, phone.people) == ("idle", True, ["Ben"])
    assert [message["type"] for message in network.said] == ["join", "bye", "join"]

"""Rooms of socket.io, as the tutorials have them; and a room that two servers share through a real Redis.

server = await RoomServer().start()           the server of lab.room_server, in this process
ann = await Person("Ann").join(server.url)    somebody in a room, who notes what they hear
channels = RoomChannel(ann), RoomChannel(ben) a loopback.Channel each, for a Call
room = await SharedRoom().start()             Redis and two servers, each a process; where Redis is missing, recorded
await room.joined(), .cost(), .outage(), .parting()      what the lesson asks of them
"""

from __future__ import annotations

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import functools
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import redis.asyncio
import socketio
from aiohttp import web
from redis.exceptions import RedisError

from loopback import CallError, ChannelError

from .bench import call_after
from .draw import Table
from .room_server import QUIET, REDIS, listening, nothing, room_server
from .sockets import CHANNELS, RUNNING, Kept, end_now, until

__all__ = [
    *("Cost", "Numbered", "Outage", "Person", "Redis", "RoomChannel", "RoomServer", "SharedRoom"),
    *("by_length", "call_between", "clear", "each_third", "in_order", "inversions"),
    *("lost_and_back", "order_of", "people", "room_server", "shared"),
]

RECORDED = Path(__file__).with_name("rooms_run.json")
PROGRAM = Path(__file__).with_name("room_server.py")


class Heard(NamedTuple):
    """Something that a person has heard from the server."""

    t: float  # s, time.perf_counter
    what: str  # created, joined, full, left, message, connect, disconnect
    text: str


class Person(Kept):
    """Somebody at a socket.io server, who notes what they hear. With `again` the client comes back by itself when the
    server was lost, as it does unless told otherwise; `rejoins` makes it join again, too."""

    EVENTS = ("created", "joined", "full", "left", "message", "connect", "disconnect")

    def __init__(self, name: str, *, again: bool = False, rejoins: bool = False) -> None:
        self.name, self.rejoins, self.room = name, rejoins, ""
        self.heard: list[Heard] = []
        self.on_message: Callable[[str], None] = lambda text: None
        self.on_lost: Callable[[], None] = lambda: None
        self.client = socketio.AsyncClient(
            reconnection=again, reconnection_delay=0.1, randomization_factor=0, logger=QUIET, engineio_logger=QUIET
        )
        for what in self.EVENTS:
            self.client.on(what, functools.partial(self._hear, what))

    async def join(self, url: str, room: str = "lesson", *, keep: bool = True) -> Self:
        """Come to the server, and into the room if it lets us in: the last of `words` tells."""
        if keep:
            await self.keep()
        self.room = room
        await self.client.connect(url, transports=["websocket"])
        await self.client.emit("join", room)
        await until(lambda: {"created", "joined", "full"} & {*self.words}, f"{self.name} hears nothing from the server")
        return self

    async def keep(self) -> None:
        """Close who was there under that name."""
        if other := self.open.get(f"Person {self.name}"):
            await other.close()
        self.open[f"Person {self.name}"] = self

    def forget(self) -> None:
        """Be gone."""
        if self.open.get(f"Person {self.name}") is self:
            del self.open[f"Person {self.name}"]

    @property
    def sid(self) -> str:
        """The name that the server has given to the present connection."""
        return str(self.client.get_sid() or "")

    @property
    def words(self) -> list[str]:
        """What was heard, without the messages' texts and without the connection's own events."""
        return [one.what for one in self.heard if one.what not in ("connect", "disconnect")]

    @property
    def connections(self) -> int:
        """How many times the client has connected."""
        return sum(one.what == "connect" for one in self.heard)

    @property
    def texts(self) -> list[str]:
        """The messages that were heard."""
        return [one.text for one in self.heard if one.what == "message"]

    async def say(self, text: str) -> None:
        """Say something to the others in the room. Raises ChannelError where there is no way to the server."""
        try:
            await self.client.emit("message", text)
        except socketio.exceptions.BadNamespaceError as error:
            raise ChannelError(f"{self.name} is not connected to the server ({type(error).__name__})") from error

    async def hears(self, what: str, seconds: float = 10.0) -> bool:
        """Wait until that was heard, a word or a message's text; return whether it was."""
        with contextlib.suppress(CallError):
            await until(lambda: any(what in (one.what, one.text) for one in self.heard), "nothing", seconds)
            return True
        return False

    async def _hear(self, what: str, *texts: Any) -> None:
        self.heard.append(Heard(time.perf_counter(), what, str(texts[0]) if texts else ""))
        if what == "message":
            self.on_message(self.heard[-1].text)
        elif what == "disconnect":
            self.on_lost()
        elif what == "connect" and self.rejoins and len(self.heard) > 1:
            await self.client.emit("join", self.room)

    async def close(self) -> None:
        """Leave the server; closing twice does no harm."""
        self.forget()
        await self.client.shutdown()

    def __repr__(self) -> str:
        return f"{self.name} heard: {', '.join(self.words) or 'nothing'}"


class RoomChannel:
    """A loopback.Channel made of a room: what one says, the other in the room hears."""

    def __init__(self, person: Person) -> None:
        self.person, self.inbox = person, asyncio.Queue[str | None]()  # None: the way has ended
        person.on_message, person.on_lost = self.inbox.put_nowait, lambda: self.inbox.put_nowait(None)

    async def send(self, text: str) -> None:
        await self.person.say(text)

    async def receive(self) -> str:
        text = await self.inbox.get()
        if text is None:
            raise ChannelError("the way to the room has ended")
        return text


class RoomServer(Kept):
    """The server of lab.room_server, in this process. `options` are those of room_server and socketio.AsyncServer."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> Self:
        """Listen on a free port, after die() on the one it had."""
        await self.keep()
        # engineio leaves a task for each socket behind, asleep until the next ping: 25 s unless told otherwise
        self.server = room_server(**{"ping_interval": 1} | self.options)
        self._runner = await listening(self.server, self.port)
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    @classmethod
    def url_now(cls) -> str:
        """Where the lesson's present server is."""
        one = cls.open[cls.__name__]
        assert isinstance(one, RoomServer)
        return one.url

    async def die(self) -> None:
        """End all at once and without a word, as a process does that is killed; start() brings it back."""
        if self._runner:
            runner, self._runner = self._runner, None
            await self.server.shutdown()
            for connection in runner.server.connections if runner.server else ():
                if isinstance(connection.transport, asyncio.Transport):
                    connection.transport.abort()
            await runner.cleanup()

    async def close(self) -> None:
        """End, for good; closing twice does no harm."""
        self.forget()
        await self.die()


async def people(*names: str, **options: Any) -> list[Person]:
    """Return people in a room of a new server with these options; they come one after the other."""
    server = await RoomServer(**options).start()
    return [await Person(name).join(server.url) for name in names]


async def call_between(
    one: Person,
    other: Person,
    around: Callable[[loopback.Channel], loopback.Channel] = lambda channel: channel,
    **options: Any,
) -> loopback.Call:
    """Return a connected call whose texts go through the room of these two, each end's channel put into `around`."""
    ends = around(RoomChannel(one)), around(RoomChannel(other))
    return await call_after(channels=ends, **options)


async def lost_and_back(*, rejoins: bool = False) -> tuple[Person, Person, dict[str, Any]]:
    """Return Ann and Ben after their server was lost and came back, and both with it; and what was seen of Ann: what
    saying something raised meanwhile, and whether her connection has its old name."""
    server = await RoomServer().start()
    pair = [Person(name, again=True, rejoins=rejoins) for name in ("Ann", "Ben")]
    ann, ben = [await person.join(server.url) for person in pair]
    before, raised = ann.sid, ""
    await server.die()
    for person in pair:
        await person.hears("disconnect")
    try:
        await ann.say("is anybody there?")
    except ChannelError as error:
        raised = str(error)
    await server.start()
    for person in pair:
        await until(lambda one=person: one.connections == 2, f"{person.name} does not come back")
    if rejoins:
        await until(lambda: len(ann.words) + len(ben.words) == 4, "not both are in the room again")
    back = "connected again" if ann.client.connected else "gone"
    return ann, ben, {"meanwhile": raised, "then": back, "with the old sid": ann.sid == before}


async def clear() -> None:
    """Close all that the lesson has open of lab.sockets and lab.rooms."""
    for one in list(Kept.open.values()):
        await one.close()
    while CHANNELS:
        await CHANNELS.popitem()[1].close()


# ---- What overtakes --------------------------------------------------------------------------------------------------


async def each_third(text: str) -> None:
    """Look something up, which takes longer for each third message."""
    await asyncio.sleep(0.05 if int(text) % 3 == 0 else 0)


async def by_length(text: str) -> None:
    """Look at each letter of a text: a long one takes longer."""
    await asyncio.sleep(len(text) * 40e-6)


async def order_of(count: int, look_up: Callable[[str], Awaitable[None]] = nothing, **options: Any) -> list[int]:
    """Let Ann say the numbers from 1 at once, through a server that looks each up; return them as Ben heard them."""
    server = await RoomServer(look_up=look_up, **options).start()
    ann, ben = Person("Ann"), Person("Ben")
    try:
        for person in (ann, ben):
            await person.join(server.url)
        for number in range(1, count + 1):
            await ann.say(str(number))
        await until(lambda: len(ben.texts) == count, f"Ben has not heard all {count}")
        return [int(text) for text in ben.texts]
    finally:
        for one in (ann, ben, server):
            await one.close()


def in_order(arrived: list[int]) -> list[int]:
    """Return, of the numbers that have come, those before which none is missing, in order."""
    return [number for number in sorted(arrived) if set(range(1, number)) <= set(arrived)]


def inversions(numbers: Sequence[int]) -> int:
    """Return how many numbers came right after a larger one."""
    return sum(one > other for one, other in itertools.pairwise(numbers))


class Numbered:
    """A channel that numbers what it sends, and hands on what it receives in that order: `deliver` is given all the
    numbers that have come so far, and returns those that may be handed on by now, in order."""

    def __init__(self, channel: loopback.Channel, deliver: Callable[[list[int]], list[int]]) -> None:
        self.channel, self.deliver = channel, deliver
        self.sent = 0
        self.arrived: dict[int, str] = {}  # number -> text, as they came
        self.handed_on = 0

    async def send(self, text: str) -> None:
        self.sent += 1
        await self.channel.send(json.dumps({"number": self.sent, "text": text}))

    async def receive(self) -> str:
        while len(ready := self.deliver(list(self.arrived))) <= self.handed_on:
            message = json.loads(await self.channel.receive())
            self.arrived[message["number"]] = message["text"]
        self.handed_on += 1
        return self.arrived[ready[self.handed_on - 1]]


# ---- Two servers, one room -------------------------------------------------------------------------------------------


@dataclass
class Cost:
    """How long a message is under way, in ms: between two at one server, and from one server to the other."""

    one: list[float]
    two: list[float]

    @property
    def table(self) -> Table:
        """The fastest and the median of each."""
        rows = [
            (name, f"≈{min(times):.2f} ms", f"≈{statistics.median(times):.2f} ms")
            for name, times in (("both at one server", self.one), ("from one server to the other", self.two))
        ]
        return Table(("way", "fastest", "median"), [("", rows)], (50, 25, 25))


@dataclass
class Outage:
    """What was said around an outage of Redis, and what was heard at the other server."""

    before: list[str]
    during: list[str]
    after: list[str]
    heard: list[str]
    raised: str  # by saying it during the outage; "" where nothing was

    @property
    def table(self) -> Table:
        """When it was said, and whether it was heard."""

        def heard(texts: list[str]) -> str:
            there = [text for text in texts if text in self.heard]
            return "all" if there == texts else "the last" if there == texts[-1:] else "none" if not there else "some"

        rows = [
            (when, ", ".join(texts) if when != "after its return" else "one each 0.1 s", heard(texts))
            for when, texts in (
                ("before", self.before),
                ("while Redis is gone", self.during),
                ("after its return", self.after),
            )
        ]
        return Table(("said at one server", "messages", "heard at the other"), [("", rows)], (34, 33, 33))


class Redis:
    """A real redis-server on a socket file of its own; it listens on no port, and keeps nothing."""

    def __init__(self) -> None:
        self.program = shutil.which("redis-server")
        self._folder = tempfile.TemporaryDirectory()
        self.url = f"unix://{self._folder.name}/redis.sock"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> Self:
        """Start it, and wait until it answers. Raises CallError where it is not installed, or does not answer."""
        if not self.program:
            raise CallError("redis-server is not installed: apt install redis-server")
        options = ("--port 0 --save '' --appendonly no --daemonize no --unixsocket", f"{self._folder.name}/redis.sock")
        words = [word.strip("'") for option in options for word in option.split()]
        self._process = await asyncio.create_subprocess_exec(
            self.program, *words, "--dir", self._folder.name, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        RUNNING.add(self._process)
        end = time.perf_counter() + 10
        async with redis.asyncio.Redis.from_url(self.url, **REDIS) as client:
            while time.perf_counter() < end:
                with contextlib.suppress(RedisError, OSError):
                    await client.ping()
                    return self
                await asyncio.sleep(0.02)
        await self.stop()
        raise CallError("redis-server does not answer within 10 s")

    async def stop(self) -> None:
        """Kill it: everybody's way to it ends. It can be started again."""
        process, self._process = self._process, None
        if process:
            end_now(process)
            await process.wait()
            RUNNING.discard(process)

    async def close(self) -> None:
        """End it, and forget its folder."""
        await self.stop()
        self._folder.cleanup()


class Server:
    """lab.room_server in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process, self.url = process, url

    @classmethod
    async def start(cls, redis_url: str, places: int) -> Server:
        """Start it, and wait until it listens. Raises CallError where it does not."""
        # -P: beside the program lies a code.py, which is not the one of the standard library
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", str(PROGRAM), "--redis", redis_url, "--places", str(places)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        RUNNING.add(process)
        assert process.stdout
        url = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
        if not url:
            raise CallError("a server that shares its rooms did not start")
        return cls(process, url)

    async def kill(self) -> None:
        """End it without asking; twice does no harm."""
        end_now(self.process)
        await self.process.communicate()
        RUNNING.discard(self.process)


Ask = Callable[..., Awaitable[Any]]


def once(ask: Ask) -> Ask:
    """Let a SharedRoom answer a question once, and the same each time it is asked again."""

    @functools.wraps(ask)
    async def asked(room: SharedRoom, *arguments: Any) -> Any:
        name = ask.__name__
        if name not in room.told:
            if room.recorded is None and name != "joined" and not {"Ann", "Ben", "Cem"} <= {*room.people}:
                raise CallError("nobody is in the room: joined() comes first, in a new one")
            room.told[name] = await ask(room, *arguments)
        return room.told[name]

    return asked


class SharedRoom(Kept):
    """Redis and two servers, A and B, that share the room of the tutorials through it. Where redis-server is missing,
    or `recorded` is wished for, every answer is that of a recorded run."""

    def __init__(self, places: int = 2, *, recorded: bool = False) -> None:
        self.places = places
        self.redis = Redis()
        self.recorded = read_recorded() if recorded or not self.redis.program else None
        self.servers: list[Server] = []
        self.people: dict[str, Person] = {}
        self.told: dict[str, Any] = {}  # what was asked before: who asks again is told the same

    async def start(self) -> Self:
        """Start all three."""
        await self.keep()
        if self.recorded is None:
            await self.redis.start()
            starts = [Server.start(self.redis.url, self.places) for _ in "AB"]
            self.servers = list(await asyncio.gather(*starts))
        return self

    @once
    async def joined(self) -> dict[str, str]:
        """Let four come one after the other, two at each server; return what each heard first."""
        if self.recorded:
            return dict(self.recorded["joined"])
        if not self.servers:
            raise CallError("the servers have ended: start() comes first")
        a, b = (server.url for server in self.servers)
        for name, url in {"Ann at A": a, "Ben at B": b, "Cem at A": a, "Dan at A": a}.items():
            self.people[name[:3]] = await Person(name).join(url, keep=False)
        return {person.name: person.words[0] for person in self.people.values()}

    @once
    async def cost(self, count: int = 100) -> Cost:
        """Let Ann say things one after the other, and time when Cem (same server) and Ben (the other) hear each."""
        if self.recorded:
            return Cost(**self.recorded["cost"])
        found: dict[str, list[float]] = {"Cem": [], "Ben": []}
        for number in range(count):
            text, began = f"cost {number}", time.perf_counter()
            await self.people["Ann"].say(text)
            for name, times in found.items():
                if not await self.people[name].hears(text):
                    raise CallError(f"{name} has not heard what Ann said")
                times.append((self.people[name].heard[-1].t - began) * 1000)
        return Cost([round(one, 3) for one in found["Cem"]], [round(one, 3) for one in found["Ben"]])

    @once
    async def parting(self) -> dict[str, str]:
        """Let Cem, at Ann's server, leave; then Ben, at the other; bring him back, and kill his server. Return what Ann
        heard each time."""
        if self.recorded:
            return dict(self.recorded["parting"])
        ann, found = self.people["Ann"], {}

        async def hears_of(what: str) -> None:
            before = len(ann.words)
            with contextlib.suppress(CallError):
                await until(lambda: len(ann.words) > before, "nothing", 1.0)
            found[what] = ", ".join(ann.words[before:]) or "nothing"

        await self.people.pop("Cem").close()
        await hears_of("Cem leaves server A")
        await self.people.pop("Ben").close()
        await hears_of("Ben leaves server B")
        self.people["Ben"] = await Person("Ben at B").join(self.servers[1].url, keep=False)
        await self.servers[1].kill()
        await hears_of("server B is killed, Ben at it")
        return found

    @once
    async def outage(self) -> Outage:
        """Let Ann say things before, in and after an outage of Redis; return what Ben heard, at the other server."""
        if self.recorded:
            return Outage(**self.recorded["outage"])
        ann, ben, raised = self.people["Ann"], self.people["Ben"], ""
        before, during, after = ["1"], ["2", "3"], list[str]()
        await ann.say("1")
        await ben.hears("1")
        await self.redis.stop()
        try:
            for text in during:
                await ann.say(text)
        except ChannelError as error:
            raised = str(error)
        await asyncio.sleep(0.2)
        await self.redis.start()
        while not (after and await ben.hears(after[-1], 0.1)) and len(after) < 100:
            after.append(str(4 + len(after)))
            await ann.say(after[-1])
        return Outage(before, during, after, [text for text in ben.texts if not text.startswith("cost")], raised)

    async def close(self) -> None:
        """End all of it; closing twice does no harm."""
        self.forget()
        people, self.people = list(self.people.values()), {}
        for person in people:
            await person.close()
        servers, self.servers = self.servers, []
        for server in servers:
            await server.kill()
        await self.redis.close()

    def __repr__(self) -> str:
        if self.recorded:
            return f"redis-server was not found: what follows is a recorded run ({self.recorded['recorded']})"
        return "Redis, server A and server B, a process each"


def read_recorded() -> dict[str, Any]:
    """Return the recorded run of a SharedRoom."""
    return dict(json.loads(RECORDED.read_text(encoding="utf-8")))


async def record(when: str) -> None:
    """Make a run, and keep it; `when` is the day and the versions."""
    room = await SharedRoom().start()
    try:
        found = {"recorded": when, "joined": await room.joined(), "cost": asdict(await room.cost())}
        found["outage"] = asdict(await room.outage())
        found["parting"] = await room.parting()
    finally:
        await room.close()
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(answer)}" for name, answer in found.items())
    RECORDED.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def shared(heard: dict[str, str], title: str = "heard") -> Table:
    """Show who heard what."""
    return Table(("", title), [("", list(heard.items()))], (50, 50))

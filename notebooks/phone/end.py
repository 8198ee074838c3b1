"""A Python end: a person in the room of a server, who calls and is called, with picture, sound, chat and files.

    ann = End("http://127.0.0.1:8080", "Ann", log)
    async with ann:                     # in the room
        await ann.call("Ben")           # rings, is accepted, is connected
        ann.conversation.talk.chat("hello")
        await ann.hang_up()

It is a control.Phone whose room is on a server, and for each call a loopback.Peer whose channel is that server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from loopback import (
    DEFAULT_SIZE,
    LONGEST_MESSAGE,
    CallError,
    ChannelError,
    Done,
    Event,
    Log,
    Message,
    Meter,
    OutgoingTrack,
    Peer,
    Picture,
    Source,
    Step,
    SyntheticSource,
    callee,
    caller,
    cancelled,
    play,
    printable,
    read_time_code,
)

from .control import PATIENCE, Phone
from .servers import from_json
from .sound import OutgoingSound, SoundMeter, SoundSource, ToneSource, to_samples
from .talk import Talk

# ---- The way to the server -------------------------------------------------------------------------------------------


class Line:
    """The way to the room on a server: a WebSocket, which is made again when it ends."""

    LONGEST_PAUSE, PATIENCE = 5.0, 600.0  # s between two attempts, s until there are no more

    def __init__(self, url: str, who: str, log: Log) -> None:
        self.url, self.who, self.log = url, who, log
        self.hear: Callable[[str], None] = lambda text: None
        self.news: Callable[[str], None] = lambda news: None  # "first", "lost", "back"
        self._outbox: asyncio.Queue[str] | None = None  # there is one while there is a socket

    @property
    def open(self) -> bool:
        return self._outbox is not None

    def enter(self, hear: Callable[[str], None]) -> Callable[[str], None]:
        """For a Phone: as control.Room has it."""
        self.hear = hear
        return self.say

    def say(self, text: str) -> None:
        """Send a text soon; without a server it is lost, and the log tells."""
        if self._outbox is None:
            self.log(self.who, "not sent", "there is no server")
        else:
            self._outbox.put_nowait(text)

    async def keep(self) -> None:
        """Be connected until cancelled. Raises CallError when the server is not there, or does not come back."""
        async with aiohttp.ClientSession() as session:
            await self._use(await self._connect(session), "first")
            while True:
                await self._use(await self._again(session), "back")

    async def _use(self, socket: aiohttp.ClientWebSocketResponse, news: str) -> None:
        """Carry texts both ways until the socket ends. What was said before this is cancelled still goes out."""
        self._outbox = outbox = asyncio.Queue[str]()
        writing = asyncio.create_task(self._write(socket, outbox))
        self.news(news)
        try:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    self.hear(message.data)
        finally:
            self._outbox = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0 if socket.closed else 1):
                    await outbox.join()
            await cancelled(writing)
            await socket.close()
        self.log(self.who, "server lost", f"{self.url} closed the socket ({socket.close_code})")
        self.news("lost")

    @staticmethod
    async def _write(socket: aiohttp.ClientWebSocketResponse, outbox: asyncio.Queue[str]) -> None:
        with contextlib.suppress(ConnectionError):  # the reader hears of it, too
            while True:
                await socket.send_str(await outbox.get())
                outbox.task_done()

    async def _connect(self, session: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        try:
            async with asyncio.timeout(10):
                where = URL(self.url) / "socket"
                return await session.ws_connect(where, heartbeat=10, max_msg_size=8 * LONGEST_MESSAGE)
        except aiohttp.ClientSSLError as error:
            advice = "if it made its certificate itself, set SSL_CERT_FILE to that"
            raise CallError(f"{self.url} is not trusted ({printable(str(error))}): {advice}") from error
        except aiohttp.WSServerHandshakeError as error:
            advice = "name the phone's server by its address"
            raise CallError(f"{self.url} refuses ({error.status}): {advice}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            advice = "start one with python notebooks/phone serve, or name another with --server"
            raise CallError(f"no server at {printable(self.url)} ({printable(str(error))}): {advice}") from error

    async def _again(self, session: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        pause, until = 0.25, time.monotonic() + self.PATIENCE
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # not everybody at once
            pause = min(2 * pause, self.LONGEST_PAUSE)
            try:
                return await self._connect(session)
            except CallError:
                if time.monotonic() > until:
                    raise


class SignalChannel:
    """A loopback.Channel for one call: its texts go as "signal" through the room, to the other person."""

    def __init__(self, line: Line, to: str, call: str) -> None:
        self.line, self.to, self.call = line, to, call
        self.inbox: asyncio.Queue[str | None] = asyncio.Queue()  # None: the server is lost
        self.lost = False

    async def send(self, text: str) -> None:
        if self.lost:
            raise ChannelError("the server is lost")
        text = with_bit_rate(text)
        self.line.say(json.dumps({"type": "signal", "to": self.to, "call": self.call, "text": text}))

    async def receive(self) -> str:
        text = None if self.lost and self.inbox.empty() else await self.inbox.get()
        if text is None:
            raise ChannelError("the server is lost")
        return text

    def lose(self) -> None:
        """The server is lost: so is what it would have brought, even if it comes back."""
        self.lost = True
        self.inbox.put_nowait(None)


class ServerClock:
    """The clock of the server at the other end of a socket, as far as this end can tell: from pings, and of those the
    one that was answered soonest."""

    def __init__(self) -> None:
        self._pings: deque[float] = deque(maxlen=100)
        self._found: deque[tuple[float, float]] = deque(maxlen=20)  # there and back (s), the server's clock at our zero

    def ping(self) -> str:
        """Return a message to send at once."""
        self._pings.append(time.perf_counter())
        return json.dumps({"type": "ping", "sent": self._pings[-1]})

    def on_pong(self, message: Message) -> None:
        """Take the answer. What is none of ours is passed over: it tells nothing."""
        now, sent, at = time.perf_counter(), message.get("sent"), message.get("at")
        if sent in self._pings and isinstance(sent, float) and isinstance(at, float) and math.isfinite(at):
            self._pings.remove(sent)
            self._found.append((now - sent, at / 1000 - (now + sent) / 2))

    @property
    def steady(self) -> bool:
        return len(self._found) >= 5

    def server_ms(self, t: float) -> float | None:
        """Return the server's clock in ms at our second `t` (perf_counter); None before the first answer."""
        return (t + min(self._found)[1]) * 1000 if self._found else None

    def local(self, ms: float) -> float | None:
        """Return our second (perf_counter) at that time of the server's."""
        return ms / 1000 - min(self._found)[1] if self._found else None


# ---- One call --------------------------------------------------------------------------------------------------------

# Chrome begins with little, and aiortc's reports on what the network carries (REMB) come after 2 s: until then Chrome
# makes the picture smaller. It takes these two, kbit/s, from the codec's line; others pass over them.
BIT_RATE = "x-google-start-bitrate=1500;x-google-min-bitrate=1000"


def with_bit_rate(text: str) -> str:
    """Return a message of loopback's; an offer or answer asks the browser that may read it for a sharp picture."""
    message = json.loads(text)
    if "sdp" in message:
        lines = message["sdp"].split("\r\n")
        numbers = re.findall(r"a=rtpmap:(\d+) (?:VP8|H264)/", message["sdp"])
        for place, line in reversed([*enumerate(lines)]):
            kind, _, rest = line.partition(":")
            if rest.partition(" ")[0] in numbers:
                if kind == "a=fmtp":
                    numbers.remove(rest.partition(" ")[0])
                    lines[place] += f";{BIT_RATE}"
                elif kind == "a=rtpmap":
                    lines.insert(place + 1, f"a=fmtp:{rest.partition(' ')[0]} {BIT_RATE}")
        message["sdp"] = "\r\n".join(lines)
    return json.dumps(message)


class Captures(Meter):
    """Counts the pictures sent, and keeps for the other end when each was captured."""

    def __init__(self) -> None:
        super().__init__()
        self.untold: deque[tuple[int, float]] = deque(maxlen=200)  # number, s

    def on_sent(self, captured_at: float) -> int:
        number = super().on_sent(captured_at)
        self.untold.append((number, captured_at))
        return number


class Arrivals(Meter):
    """Times pictures that another program captured: it tells when, afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self._arrived: dict[int, float] = {}

    def on_received(self, picture: Picture) -> None:
        """Note a decoded picture, with a time code or without."""
        now = time.perf_counter()
        number = read_time_code(picture)
        if number is None:
            self.misread += 1
        else:
            self._arrived[number] = now
            while len(self._arrived) > 1024:
                del self._arrived[next(iter(self._arrived))]
        self.received += 1
        self.first_arrival, self.last_arrival = self.first_arrival or now, now
        self._arrivals.append(now)

    def on_captured(self, times: list[tuple[int, float]]) -> None:
        """Take what the other end tells: number and second (perf_counter). One that cannot be is passed over."""
        for number, captured_at in times:
            arrived = self._arrived.pop(number, -math.inf)
            if -0.01 < arrived - captured_at < 10:
                self.delays.append(arrived - captured_at)


class Conversation:
    """The media of one call at this end: a loopback.Peer with a picture and sound both ways, and the data channel."""

    def __init__(self, end: End) -> None:
        """Raises CallError when the servers for this call cannot be used."""
        phone = end.phone
        options: dict[str, Any] = {"codec": end.codec, "deadline": end.deadline, "here_only": end.here_only}
        configuration = from_json(phone.servers)
        self.other, self.end, self.began = phone.other, end, end.log.now()
        self.task: asyncio.Task[None] | None = None
        self.channel = SignalChannel(end.line, phone.other, phone.call)
        phone.on_signal = self.channel.inbox.put_nowait
        self.peer = Peer(end.name, self.channel, end.log, configuration=configuration, **options)
        self.track, self.captures, self.arrivals = OutgoingTrack(end.source()), Captures(), Arrivals()
        self.track.meter = self.captures
        self.sound = OutgoingSound(sound) if (sound := end.sound()) else None
        self.meter = self.sound.meter if self.sound else SoundMeter()
        self.talk = Talk(end.name, end.log, end.clock, end.save)
        self.talk.on_captured, self.talk.on_bug = self.arrivals.on_captured, self.peer.bugs.append
        self.peer.on_picture = self._on_picture
        self.peer.on_sound = lambda frame: self.meter.on_received(to_samples(frame))
        self.peer.pc.on("datachannel", self.talk.use)
        self.script = self._caller() if phone.calls else self._callee()
        self._told_at = 0.0

    # The two scripts are loopback's, with sound, a data channel, and the other side's candidates last: a browser looks
    # for them while it negotiates (trickle ICE, RFC 8838), for seconds where a STUN server does not answer.

    def _caller(self) -> list[Step]:
        add_track, *rest = caller(self.peer, self.track)
        # The data channel comes last: before the first track, aiortc would close the transport that they share.
        more = [self._add_sound(), Step(self.peer, "createDataChannel", self._create_data_channel)]
        return self._candidates_last([add_track, *more, *rest])

    def _callee(self) -> list[Step]:
        *script, _ = callee(self.peer, self.track)  # without the wait for a picture: the other end may send none
        place = next(number for number, step in enumerate(script) if step.what == "addTrack")
        add_tracks = [script[place]._replace(run=self._send_picture), self._add_sound()]
        return self._candidates_last([*script[:place], *add_tracks, *script[place + 1 :]])

    def _candidates_last(self, script: list[Step]) -> list[Step]:
        *before, connect = (step for step in script if step.what != "addIceCandidate")
        return [*before, Step(self.peer, "addIceCandidate", self._receive_candidates), connect]

    async def _receive_candidates(self) -> Done:
        """Hand the other side's candidates to ICE, until it says that it has no more, or a pair has worked."""
        receiving = asyncio.create_task(play([Step(self.peer, "addIceCandidate", self.peer.receive_candidates)]))
        try:
            while not receiving.done() and self.peer.pc.connectionState != "connected":
                await asyncio.wait([receiving], timeout=0.01)
                await self.peer.health.check()
            if receiving.done():
                receiving.result()
        finally:
            await cancelled(receiving)
        self.peer.waiting = ""
        return self.peer.done("addIceCandidate", self.peer.remote_candidates)

    def _add_sound(self) -> Step:
        return Step(self.peer, "addTrack(audio)", self._send_sound)

    def _is_offered(self, kind: str) -> bool:
        return any(transceiver.kind == kind for transceiver in self.peer.pc.getTransceivers())

    async def _send_picture(self) -> Done:
        """Send a picture back, where the other side has offered an m-line for one: an answer cannot add any."""
        if self._is_offered("video"):
            return await self.peer.add_track(self.track)
        return self.peer.done("no picture was offered")

    async def _send_sound(self) -> Done:
        """Give this peer sound to send as well. Without any it only listens."""
        calls = self.peer.pc.signalingState == "stable"
        if self.sound and (calls or self._is_offered("audio")):
            return await self.peer.add_track(self.sound)
        if calls:
            self.peer.pc.addTransceiver("audio", direction="recvonly")
            self.peer.log(self.peer.name, "addTransceiver", "audio, recvonly")
        return self.peer.done("sends no sound")

    async def _create_data_channel(self) -> Done:
        """Make the channel for chat and files. It has an m-line of its own, "application", and the same port."""
        self.talk.use(self.peer.pc.createDataChannel("talk"))
        return self.peer.done("createDataChannel", self.talk.channel)

    async def set_up(self) -> None:
        """Play the script. Raises CallError."""
        await self.track.source.ready()
        if self.sound:
            await self.sound.source.ready()
        await play(self.script)

    def _on_picture(self, picture: Picture) -> None:
        if not self.arrivals.received:
            self.end.log(self.end.name, "first picture", f"{picture.shape[1]}x{picture.shape[0]} from {self.other}")
        self.arrivals.on_received(picture)

    async def watch(self) -> None:
        """Keep the other end informed. Raises CallError when the call is broken."""
        while True:
            await asyncio.sleep(0.03)
            await self.peer.health.check()
            if self.talk.open and self.end.log.now() >= self._told_at + 0.5:
                self._told_at = self.end.log.now()
                self.talk.send_captured(self.captures.untold)
                self.captures.untold.clear()
                self.talk.send_events()

    async def close(self) -> None:
        """Release everything: the sources first, so that nothing new is made."""
        self.talk.close()
        ends = [track.retire() for track in (self.track, self.sound) if track]
        outcomes = await asyncio.gather(*ends, self.peer.close(), return_exceptions=True)
        for outcome in filter(None, outcomes):
            raise outcome

    def as_dict(self) -> dict[str, Any]:
        """Return the measurements, for JSON."""
        sent, seen, health = self.captures, self.arrivals, self.peer.health
        times = {name: self.after(name) for name in ("connected", "first picture")}
        rows, columns = (0, 0) if self.peer.picture is None else self.peer.picture.shape[:2]
        return {
            "with": self.other,
            "setup_ms": {name.replace(" ", "_"): t and round(t * 1000, 1) for name, t in times.items()},
            "pictures": {"sent": sent.sent, "received": seen.received, "without_number": seen.misread},
            "received_size": f"{columns}x{rows}",
            "received_fps": round(seen.received_fps, 2),
            "latency_ms": seen.latency_ms,
            "bitrate_kbps": round(health.bitrate_kbps, 1),
            "packets_lost": health.packets_lost,
            "sound": self.meter.as_dict(),
            "selected_pair": self.peer.selected_pair._asdict(),
            "chats": [*self.talk.chats],
            "files": [path.name for path in self.talk.files],
        }

    def after(self, what: str) -> float | None:
        """Seconds from sending or receiving the offer until this end has logged that."""
        offer = ("send offer", "receive offer")
        began, times = math.inf, [event.t for event in self._events() if event.what == what]
        for event in self._events():
            began = min(began, event.t) if event.what in offer else began
        return times[0] - began if times else None

    def _events(self) -> list[Event]:
        return [event for event in self.end.log.events if event.t >= self.began and event.who == self.end.name]


# ---- A person --------------------------------------------------------------------------------------------------------


class End:
    """Somebody in the room of a server, who calls and is called.

    `source` and `sound` are asked for something to send at each call; `save` is the folder for files that are sent;
    `answers` accepts every call. Where the server is on this machine, ICE offers 127.0.0.1 alone; `here_only` False
    offers all addresses there as well, which Firefox needs. Errors are CallErrors, raised by whatever is awaited here.
    """

    def __init__(
        self,
        url: str,
        name: str,
        log: Log | None = None,
        *,
        source: Callable[[], Source] = lambda: SyntheticSource(*DEFAULT_SIZE, 30),
        sound: Callable[[], SoundSource | None] = ToneSource,
        codec: str = "VP8",
        deadline: float = 10.0,
        save: Path | None = None,
        answers: bool = False,
        here_only: bool = True,
    ) -> None:
        self.name, self.log = name, Log() if log is None else log
        self.source, self.sound, self.codec, self.deadline = source, sound, codec, deadline
        self.save, self.answers = save, answers
        self.here_only = here_only and re.match(r"\w+://(127\.0\.0\.1|localhost|\[::1\])(:|/|$)", url) is not None
        self.line = Line(url, name, self.log)
        self.line.news = self._on_news
        self.phone = Phone(name, self.line, self._act, self.log)
        # A server that was started anew counts from zero: a call keeps the clock that it began with, as the page does.
        self.clock = self._newest = ServerClock()  # of the present call, or the last; of the present socket
        self._ping_at = 0.0  # s in the log
        self.conversation: Conversation | None = None  # while there is a call
        self.last: Conversation | None = None  # the newest one, which may have ended
        self.failure = ""  # why the last call failed, "" where none has
        self.on_begin: Callable[[Conversation], None] = lambda conversation: None
        self.on_end: Callable[[Conversation], None] = lambda conversation: None
        self._wanted = False  # whether we want to be in the room
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> End:
        """Come into the room. Raises CallError where there is no server, no place, or the name is taken."""
        self._tasks = [asyncio.create_task(self.line.keep()), asyncio.create_task(self._tick())]
        try:
            phone = self.phone
            limit = PATIENCE["joining"] + 12
            await self.until(lambda: phone.inside or (phone.state == "away" and phone.why), limit, "not in the room")
            if not phone.inside:
                advice = {"taken": ": choose another --name", "full": ": wait until somebody leaves"}.get(phone.why, "")
                raise CallError(f"the room does not let {self.name} in ({phone.why}){advice}")
        except BaseException:
            await cancelled(*self._tasks)
            raise
        self._wanted = True
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Hang up, leave, and release everything. Raises CallError where that does not succeed."""
        self._wanted = False
        if self.phone.state != "away":
            self.phone.press("leave")
        await asyncio.wait(self._closing) if self._closing else None
        await cancelled(*self._tasks)
        if kind is None:
            self.check()

    async def call(self, name: str, patience: float = 30.0) -> None:
        """Call somebody: wait until they are in the room, ring, be connected. Raises CallError where that fails."""
        await self.until(lambda: name in self.phone.people, patience, f"{name} is not in the room")
        self.failure = ""
        self.phone.press("call", name)
        limit = PATIENCE["calling"] + PATIENCE["connecting"] + 5
        await self.until(lambda: self.phone.state not in ("calling", "connecting"), limit, "no answer")
        if self.phone.state != "in call":
            raise CallError(f"the call to {name} has failed: {self.failure or self.phone.why}")

    async def hang_up(self) -> None:
        """End the call; the other end is told. Returns when everything of it is released."""
        self.phone.press("hang up")
        await asyncio.gather(*self._closing)

    async def until(self, reached: Callable[[], object], seconds: float, otherwise: str) -> None:
        """Wait until something holds. Raises CallError when it does not in time, or this end is broken."""
        until = self.log.now() + seconds
        while not reached():
            self.check()
            if self.log.now() > until:
                raise CallError(f"{otherwise} after {seconds:g} s")
            await asyncio.sleep(0.005)

    def check(self) -> None:
        """Raise what ended one of this end's tasks: a server that does not come back, or a bug."""
        media = [self.last.task] if self.last and self.last.task else []
        for task in (*self._tasks, *media, *self._closing):
            if task.done() and not task.cancelled():
                task.result()

    # What happens by itself.

    async def _tick(self) -> None:
        """Let time pass: for the table, the clock, and the way back into the room."""
        now, join_at = self.log.now(), 0.0
        while True:
            await asyncio.sleep(0.02)
            before, now = now, self.log.now()
            self.phone.wait(min(now - before, 1.0))  # a process that was halted has not waited
            if self.answers and self.phone.state == "ringing":
                self.phone.press("accept")
            if self.line.open and now >= self._ping_at:
                self._ping_at = now + (5 if self._newest.steady else 0.2)
                self.line.say(self._newest.ping())
            out = not self.phone.inside and self.phone.state in ("away", "idle")
            if self._wanted and self.line.open and out and now >= join_at:
                join_at = now + 2  # it may be our own old socket that has the name, for some seconds yet
                self.phone.server("back")

    def _on_news(self, news: str) -> None:
        if news == "lost":
            if self.conversation:
                self.conversation.channel.lose()
        else:
            self._newest, self._ping_at = ServerClock(), 0.0
            self.phone.on_pong = self._newest.on_pong
        if news == "first":
            self.clock = self._newest
            self.phone.press("join")
        else:
            self.phone.server(news)

    def _act(self, phone: Phone, what: str) -> None:
        """Do what the table says: make this end's peer, or close it."""
        if what == "negotiate":
            self.clock = self._newest
            try:
                self.conversation = self.last = Conversation(self)
            except CallError as error:  # the servers cannot be used
                self._fail(error)
            else:
                self.on_begin(self.conversation)
                self.conversation.task = asyncio.create_task(self._converse(self.conversation))
        elif self.conversation:
            self.on_end(self.conversation)
            self._closing.add(asyncio.create_task(self._close(self.conversation)))
            self.conversation = None

    async def _converse(self, conversation: Conversation) -> None:
        try:
            await conversation.set_up()
            self.phone.media("connected")
            await conversation.watch()
        except CallError as error:
            if conversation.peer.pc.connectionState == "closed":
                await asyncio.sleep(0.3)  # a bye comes another way than the media's end, and tells more
            self._fail(error)

    def _fail(self, error: CallError) -> None:
        self.failure = str(error)
        self.log(self.name, "call failed", self.failure)
        asyncio.get_running_loop().call_soon(self.phone.media, "failed")

    async def _close(self, conversation: Conversation) -> None:
        try:
            if conversation.task:
                await cancelled(conversation.task)
        finally:
            await conversation.close()
        self._closing = {task for task in self._closing if task is not asyncio.current_task()}

"""Signalling over WebSockets: a channel made of one, a server between two, and the other end in a process of its own.

server = await Relay().start()                     says to the others what one says; server.passed keeps what went by
far = await OtherProgram(server).start()           a program that answers the call of whoever is at that server
near = await Caller.to(far)                        the half of a Call that makes the offer
await play(caller(near.pc1, near.track))           the script of every other lesson
report = await far.report()                        what the other program saw, once it has ended
noticed = await gone("halt")                       a call whose other end goes in that way, and who notices it first

Run as a program, this file is the other end: python sockets.py URL. So it needs no other module of the laboratory.
"""

from __future__ import annotations

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import argparse
import asyncio
import atexit
import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import aiohttp
import cv2
import numpy as np
import psutil
from aiohttp import WSMsgType, web

from loopback import (
    CallError,
    ChannelError,
    Event,
    Log,
    OutgoingTrack,
    Peer,
    Picture,
    Source,
    SyntheticSource,
    callee,
    caller,
    play,
    read_time_code,
)

__all__ = [
    *("Caller", "Noticed", "OtherProgram", "Relay", "Report", "SocketChannel"),
    *("call_through", "connect", "gone", "merged", "until"),
]

HERE = "127.0.0.1"
PROJECT = str(Path(loopback.__file__).resolve().parent)
PING = 0.4  # s between two pings of a server that gone() starts; what is used outside is 10 to 30
PATIENCE = 30.0  # s for a program to start, on a busy machine


# ---- The channel -----------------------------------------------------------------------------------------------------


class SocketChannel:
    """A loopback.Channel made of a WebSocket: one text, one message."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, session: aiohttp.ClientSession) -> None:
        self.socket, self.session = socket, session

    async def send(self, text: str) -> None:
        try:
            await self.socket.send_str(text)
        except ConnectionError as error:
            raise ChannelError("the socket to the server has ended") from error

    async def receive(self) -> str:
        message = await self.socket.receive()
        if message.type is not WSMsgType.TEXT:
            raise ChannelError(f"the socket to the server has ended ({self.socket.close_code})")
        return str(message.data)

    async def close(self) -> None:
        await self.socket.close()
        await self.session.close()


CHANNELS: dict[str, SocketChannel] = {}  # of the lesson, by name


async def connect(url: str, name: str, *, keep: bool = True, **headers: str) -> SocketChannel:
    """Return a channel to whoever else is at the server, there under that name; the lesson's older one of that name is
    closed. Raises CallError where the server refuses, or none is there."""
    if keep and (other := CHANNELS.pop(name, None)):
        await other.close()
    session = aiohttp.ClientSession()
    try:
        channel = SocketChannel(await session.ws_connect(f"{url}/{name}", headers=headers), session)
        if keep:
            CHANNELS[name] = channel
        return channel
    except aiohttp.ClientError as error:
        await session.close()
        why = f"it answers {error.status}" if isinstance(error, aiohttp.WSServerHandshakeError) else str(error)
        raise CallError(f"no way to the server at {url}: {why}") from error


# ---- The server ------------------------------------------------------------------------------------------------------


class Kept:
    """What a lesson has one of: to start another closes the one before, so a cell can be run twice."""

    open: ClassVar[dict[str, Kept]] = {}

    async def keep(self) -> None:
        """Close what is there of this kind, and be it from now on."""
        if other := self.open.get(type(self).__name__):
            await other.close()
        self.open[type(self).__name__] = self

    def forget(self) -> None:
        """Be closed."""
        if self.open.get(type(self).__name__) is self:
            del self.open[type(self).__name__]

    async def close(self) -> None:
        """Release everything; closing twice does no harm."""
        raise NotImplementedError


class Passed(NamedTuple):
    """One text that a server has passed on, or could not: `to` is empty where nobody was there."""

    t: float  # s, time.perf_counter
    who: str
    to: str
    kind: str
    size: int  # bytes


class Gone(NamedTuple):
    """Somebody's socket has ended."""

    t: float  # s, time.perf_counter
    who: str
    how: str


class Relay(Kept):
    """A signalling server: what one says, it says to the others. No line of it knows WebRTC.

    With a `heartbeat`, in s, it sends pings, and ends a socket from which no pong has come for half as long. `change`
    is what its owner does to the texts.
    """

    def __init__(self, heartbeat: float | None = None, change: Callable[[str], str] = str) -> None:
        self.heartbeat, self.change = heartbeat, change
        self.people: dict[str, web.WebSocketResponse] = {}
        self.passed: list[Passed] = []
        self.gone: list[Gone] = []
        self._runner: web.AppRunner | None = None

    async def start(self, *, keep: bool = True) -> Self:
        """Listen on a free port of 127.0.0.1."""
        if keep:
            await self.keep()
        app = web.Application()
        app.router.add_get("/{name}", self.person)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, HERE, 0).start()
        self.url = f"ws://{HERE}:{self._runner.addresses[0][1]}"
        return self

    async def person(self, request: web.Request) -> web.WebSocketResponse:
        """Be there for one person, as long as their socket is open."""
        name, socket = request.match_info["name"], web.WebSocketResponse(timeout=1, heartbeat=self.heartbeat)
        await socket.prepare(request)
        self.people[name] = socket
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                break
            await self.pass_on(name, message.data)
        if self.people.get(name) is socket:
            del self.people[name]
        self.gone.append(Gone(time.perf_counter(), name, _how(socket)))
        return socket

    async def pass_on(self, who: str, text: str) -> None:
        """Say to all the others what one has said."""
        text, others = self.change(text), {to: socket for to, socket in self.people.items() if to != who}
        self.passed.append(Passed(time.perf_counter(), who, ", ".join(others), _kind(text), len(text.encode())))
        for socket in others.values():
            with contextlib.suppress(ConnectionError):  # that person's own socket tells of it
                await socket.send_str(text)

    async def until_there(self, *names: str) -> None:
        """Wait until these people are there. Raises CallError after PATIENCE."""
        await until(lambda: set(names) <= set(self.people), f"not all of {', '.join(names)} have come")

    async def die(self) -> None:
        """End all at once and without a word, as a process does that is killed."""
        for connection in self._runner.server.connections if self._runner and self._runner.server else ():
            if isinstance(connection.transport, asyncio.Transport):
                connection.transport.abort()
        await self.close()

    async def close(self) -> None:
        """End, with a word to everybody."""
        self.forget()
        if self._runner:
            runner, self._runner = self._runner, None
            sockets = list(self.people.values())
            await asyncio.gather(*(socket.close(code=1001) for socket in sockets))  # 1001: going away
            await runner.cleanup()


def _kind(text: str) -> str:
    """Return the type of a message, for whoever watches: the server itself passes on any text."""
    with contextlib.suppress(ValueError):
        message = json.loads(text)
        if isinstance(message, dict):
            return str(message.get("type", "?"))
    return "?"


def _how(socket: web.WebSocketResponse) -> str:
    if isinstance(socket.exception(), TimeoutError):
        return "no pong"
    return "the socket ended without a word" if socket.close_code in (None, 1006) else f"closed ({socket.close_code})"


async def until(reached: Callable[[], object], otherwise: str, seconds: float = PATIENCE) -> None:
    """Wait until something holds. Raises CallError when it does not within that many seconds."""
    end = time.perf_counter() + seconds
    while not reached():
        if time.perf_counter() > end:
            raise CallError(f"{otherwise} within {seconds:g} s")
        await asyncio.sleep(0.005)


# ---- The two ends ----------------------------------------------------------------------------------------------------


class Caller(Kept):
    """pc1 alone: the half of a loopback.Call that makes the offer. Who is at the other end, it does not know."""

    def __init__(self, channel: SocketChannel, source: Source | None = None, **options: Any) -> None:
        self.channel, self.log = channel, Log()
        self.pc1 = Peer("pc1", channel, self.log, **options)
        self.track = OutgoingTrack(source or SyntheticSource(320, 240, 30))
        self._closed = False

    @classmethod
    async def to(cls, far: OtherProgram) -> Self:
        """Return a caller at the server of that program, once it is there; after its first call it is started again."""
        if far.called:
            await far.start()
            await far.server.until_there("pc2")
        far.called = True
        return await cls.at(far.server.url)

    @classmethod
    async def at(cls, url: str, *, keep: bool = True, **options: Any) -> Self:
        """Return a caller whose channel leads to that server."""
        one = cls(await connect(url, "pc1", keep=keep), **options)
        if keep:
            await one.keep()
        return one

    async def close(self) -> None:
        """Release everything; closing twice does no harm."""
        self.forget()
        if not self._closed:
            self._closed = True
            await asyncio.gather(self.track.retire(), self.pc1.close())
            await self.channel.close()


async def call_through(server: Relay) -> loopback.Call:
    """Return a connected call with both ends here, whose texts go through that server."""
    channels = await connect(server.url, "pc1"), await connect(server.url, "pc2")
    call = loopback.Call(SyntheticSource(320, 240, 30), channels=channels)
    try:
        await call.run()
    except BaseException:
        await call.close()
        raise
    return call


class Report(NamedTuple):
    """What the other program has seen."""

    pid: int  # of its process
    events: list[Event]  # t on time.perf_counter, which all processes of one machine share
    pictures: int
    misread: int
    has: str  # fingerprint of its own certificate
    told: str  # the fingerprint that it was told was the caller's
    why: str  # it ended before the bye
    jpeg: str  # the newest picture, base64; "" where there was none

    @property
    def picture(self) -> Picture | None:
        """The newest picture that it received."""
        if not self.jpeg:
            return None
        return cv2.imdecode(np.frombuffer(base64.b64decode(self.jpeg), np.uint8), cv2.IMREAD_COLOR)

    def __repr__(self) -> str:
        why = f"; {self.why}" if self.why else ""
        return f"≈{self.pictures} pictures, {self.misread} misread{why}"


class OtherProgram(Kept):
    """The end that answers, in a process of its own: it is there once it has come to the server.

    With a number of `pictures` it ends by itself after so many: with a bye, or "close" and no word.
    """

    def __init__(self, server: Relay, *, pictures: int = 0, end: str = "bye") -> None:
        self.server, self.called = server, False
        self.arguments = (f"--pictures={pictures}", f"--end={end}")
        self._process: asyncio.subprocess.Process | None = None
        self._report: Report | None = None

    async def start(self, *, keep: bool = True) -> Self:
        """Start the program; it needs about a second until it is at the server. One that runs is ended first."""
        await self.close()
        await until(lambda: "pc2" not in self.server.people, "the program before is still at the server")
        self._report = None
        if keep:
            await self.keep()
        # -P: beside this file lies a code.py, which is not the one of the standard library
        command = (sys.executable, "-P", __file__, self.server.url, *self.arguments)
        self._process = await asyncio.create_subprocess_exec(
            *command,
            env=os.environ | {"PYTHONPATH": PROJECT},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            limit=2**24,
        )
        RUNNING.add(self._process)
        return self

    @property
    def pid(self) -> int:
        """The number of its process. Raises CallError where it runs no more."""
        if self._process is None:
            raise CallError("the other program has ended: start it again")
        return self._process.pid

    def kill(self) -> None:
        """End it without asking, as the system does when memory is short."""
        psutil.Process(self.pid).kill()

    def halt(self) -> None:
        """Let it stand still, as a laptop that is closed: it is there, and does nothing."""
        psutil.Process(self.pid).suspend()

    async def report(self) -> Report:
        """Return what it has seen, once it has ended. Raises CallError when it does not end, or without a report."""
        if self._report:
            return self._report
        process = self._process
        if process is None:
            raise CallError("the other program has ended: start it again")
        try:
            async with asyncio.timeout(PATIENCE):
                printed, _ = await process.communicate()
        except TimeoutError as error:
            raise CallError(f"the other program has not ended within {PATIENCE:g} s") from error
        finally:
            await self.close()
        if not printed:
            raise CallError(f"the other program ended without a report (exit status {process.returncode})")
        read = json.loads(printed)
        self._report = Report(**read | {"events": [Event(*event) for event in read["events"]]})
        return self._report

    async def close(self) -> None:
        """End it, halted or not; closing twice does no harm."""
        self.forget()
        process, self._process = self._process, None
        if process:
            end_now(process)
            await process.communicate()
            RUNNING.discard(process)


RUNNING: set[asyncio.subprocess.Process] = set()


def end_now(process: asyncio.subprocess.Process) -> None:
    """Kill a process that still runs."""
    if process.returncode is None:
        process.kill()


@atexit.register
def _end_all() -> None:
    """A notebook that is closed half-way leaves nothing behind."""
    for process in RUNNING:
        end_now(process)


def merged(log: Log, report: Report) -> list[Event]:
    """Return the events of both programs in order, on the clock of this one's log."""
    theirs = [Event(event.t - log.start, event.who, event.what, event.detail) for event in report.events]
    return sorted([*log.events, *theirs], key=lambda event: event.t)


# ---- Who notices that the other is gone ------------------------------------------------------------------------------


class Noticed(NamedTuple):
    """How the other end went, and what noticed it, in order: (what, s later)."""

    way: str
    by: list[tuple[str, float]]

    @property
    def first(self) -> str:
        """What noticed it first: "bye", "socket", "ping" or "media"."""
        return self.by[0][0]

    def __repr__(self) -> str:
        return f"{self.way}: first the {self.first}"


async def gone(way: str, *, heartbeat: float | None = PING) -> Noticed:
    """Make a call to another program through a server that sends pings, let the program go: "bye", "close" (the
    connection, without a word before), "kill" or "halt"; return who noticed it. Raises ValueError for another way."""
    if way not in ("bye", "close", "kill", "halt"):
        raise ValueError(f"no way {way!r}: there are bye, close, kill and halt")
    server = await Relay(heartbeat).start(keep=False)
    pictures = 10 if way in ("bye", "close") else 0
    far = OtherProgram(server, pictures=pictures, end=way)
    near: Caller | None = None
    try:
        await far.start(keep=False)
        await server.until_there("pc2")
        near = await Caller.at(server.url, keep=False, source=SyntheticSource(160, 120, 20), deadline=PATIENCE)
        await play(caller(near.pc1, near.track))
        await asyncio.sleep(0.3)
        began = time.perf_counter()
        if not pictures:
            far.kill() if way == "kill" else far.halt()
        return Noticed(way, await _noticing(near, server, began))
    finally:
        if near:
            await near.close()
        await far.close()
        await server.close()


async def _noticing(near: Caller, server: Relay, began: float) -> list[tuple[str, float]]:
    """Watch pc1, its bye and the server's socket until the media have noticed, or the bye was heard."""
    found: dict[str, float] = {}

    def note(what: str) -> None:
        found.setdefault(what, time.perf_counter() - began)

    async def media() -> None:
        while not near.pc1.hung_up:
            await near.pc1.health.check()
            await asyncio.sleep(0.005)
        note("bye")

    async def socket() -> None:
        await until(lambda: server.gone, "the socket is still open")
        note("ping" if server.gone[0].how == "no pong" else "socket")

    watching = asyncio.create_task(socket())
    try:
        async with asyncio.timeout(PATIENCE):
            await media()
    except CallError:
        note("media")
    with contextlib.suppress(CallError, TimeoutError):
        await asyncio.wait_for(watching, 1.5)
    return sorted(found.items(), key=lambda one: one[1])


# ---- As a program: the other end -------------------------------------------------------------------------------------


async def answer(url: str, pictures: int, end: str) -> dict[str, Any]:
    """Answer a call; return, for a Report, what was seen until somebody said bye, or so many pictures had come."""
    log, seen, last, why = Log(), list[int | None](), list[Picture](), ""

    def on_picture(picture: Picture) -> None:
        seen.append(read_time_code(picture))
        last[:] = [picture]

    channel = await connect(url, "pc2")
    peer = Peer("pc2", channel, log, deadline=PATIENCE)
    peer.on_picture = on_picture
    try:
        await play(callee(peer))
        while not peer.hung_up and not (pictures and len(seen) >= pictures):
            await peer.health.check()
            await asyncio.sleep(0.005)
        if not peer.hung_up and end == "bye":
            await peer.hang_up()
            await asyncio.sleep(0.2)  # it arrives before the media end
    except CallError as error:
        why = str(error)
    has, told = (_fingerprint(one.sdp if one else "") for one in (peer.pc.localDescription, peer.pc.remoteDescription))
    await peer.close()
    if end == "close":  # the socket stays a little longer than the media; who does not read does not answer pings
        with contextlib.suppress(TimeoutError, ChannelError):
            await asyncio.wait_for(channel.receive(), 0.5)
    await channel.close()
    jpeg = cv2.imencode(".jpg", last[0], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes() if last else b""
    return {
        "pid": os.getpid(),
        "events": [(log.start + event.t, event.who, event.what, event.detail) for event in log.events],
        "pictures": len(seen),
        "misread": sum(number is None for number in seen),
        "has": has,
        "told": told,
        "why": why,
        "jpeg": base64.b64encode(jpeg).decode(),
    }


def _fingerprint(sdp: str) -> str:
    return next((line.split()[1] for line in sdp.splitlines() if line.startswith("a=fingerprint:sha-256")), "")


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer a call through the signalling server at URL.")
    parser.add_argument("url")
    parser.add_argument("--pictures", type=int, default=0)
    parser.add_argument("--end", default="bye")
    options = parser.parse_args()
    print(json.dumps(asyncio.run(answer(options.url, options.pictures, options.end))))


if __name__ == "__main__":
    main()

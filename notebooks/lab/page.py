"""A call between a cell of the notebook and a page in a real browser, which then change it both at the same moment.

visit = await visited()               Chromium opens the page by itself, without a window; where there is none, a
                                      recorded visit is returned, and that is printed
visit = await visited(by_hand=True)   the address is printed: open it in a browser of this machine, within a minute
javascript("polite")                  a part of the page's own source

The page is page.html, its test picture and time code are the phone's (phone/page/picture.js). The server listens on
127.0.0.1 only, takes one page, and serves these two files.
"""

from __future__ import annotations

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from aiohttp import WSMsgType, web
from IPython.display import HTML
from pygments.lexers import JavascriptLexer

from loopback import (
    CallError,
    ChannelError,
    Event,
    Log,
    Message,
    OutgoingTrack,
    Peer,
    Picture,
    SyntheticSource,
    cancelled,
    play,
    read_time_code,
)

from .code import coloured
from .draw import Table

__all__ = ["Visit", "javascript", "visit_table", "visited"]

PAGE, RECORDED = Path(__file__).with_name("page.html"), Path(__file__).with_name("page_run.json")
SHARED = Path(__file__).resolve().parents[1] / "phone" / "page"
OURS = ("note", "told")  # what the page says to the cell, and not to its peer


def javascript(part: str) -> HTML:
    """Show a part of the page's source: what stands between its marks."""
    found = re.search(rf"// begin: {part}\n(.*?)// end: {part}", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    if not found:
        raise ValueError(f"the page has no part {part!r}")
    return HTML(coloured(found[1].strip(), JavascriptLexer()))


# ---- The way to the page ---------------------------------------------------------------------------------------------


class PageChannel:
    """A Channel over the page's WebSocket. What the page does is written into the log as it is told."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.inbox, self.told = asyncio.Queue[str](), asyncio.Queue[Message]()
        self.there, self.offered = asyncio.Event(), asyncio.Event()
        self.way: web.WebSocketResponse | None = None

    async def send(self, text: str) -> None:
        if self.way is None or self.way.closed:
            raise ChannelError("the page has gone")
        await self.way.send_str(text)

    async def receive(self) -> str:
        return await self.inbox.get()

    def hear(self, text: str) -> None:
        """Take what the page says: news for the log, or a message for the peer."""
        message = json.loads(text)
        if message["type"] == "told":
            self.told.put_nowait(message)
        elif message["type"] == "note":
            self.log("page", message["what"], message["detail"])
            if message["what"] == "ready":
                self.there.set()
        else:
            self.log("page", f"send {message['type']}", str(message.get("candidate", "")))
            self.inbox.put_nowait(text)
            if message["type"] == "offer":
                self.offered.set()

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Be the page's other end, as long as it is there. The first page is the only one."""
        if self.way is not None or request.headers.get("Origin", "").partition("://")[2] != request.host:
            raise web.HTTPForbidden(text="one page, and only ours\n")
        self.way = web.WebSocketResponse(max_msg_size=2_000_000)
        await self.way.prepare(request)
        async for message in self.way:
            if message.type is WSMsgType.TEXT:
                self.hear(message.data)
        return self.way


async def _page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(PAGE)


@contextlib.asynccontextmanager
async def served(channel: PageChannel) -> AsyncIterator[str]:
    """Serve the page on 127.0.0.1 while entered; the address."""
    app = web.Application()
    app.router.add_get("/", _page)
    app.router.add_static("/page", SHARED)
    app.router.add_get("/socket", channel.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        if channel.way is not None:
            await channel.way.close()
        await runner.cleanup()


# A browser without a window, a camera or a question. As root Chromium has no sandbox of its own.
OPTIONS = (
    *("--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--mute-audio"),
    *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--allow-loopback-in-peer-connection"),
    *("--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage"),
)


def chromium() -> str | None:
    """Return where Chromium is; None where it is not installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[None]:
    """Open the page in Chromium while entered."""
    program, root = chromium(), hasattr(os, "geteuid") and os.geteuid() == 0
    assert program is not None, "the caller has looked"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        running = await asyncio.create_subprocess_exec(
            *(program, *OPTIONS, *(["--no-sandbox"] if root else []), f"--user-data-dir={folder}", f"{url}?camera"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=os.name == "posix",  # its own helpers end with it
        )
        try:
            yield
        finally:
            if running.returncode is None:
                running.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await running.wait()
            if running.returncode is None:
                running.kill()
                await running.wait()


# ---- The visit -------------------------------------------------------------------------------------------------------


@dataclass
class Visit:
    """What came of a call with a page. `recorded` says when and with what, where it was not made here and now."""

    events: list[Event]
    browser: str
    states: str  # the cell's, at the end
    received: dict[str, list[int | None]]  # by the cell, from the page: size -> numbers read in the pictures
    seen: list[dict[str, Any]]  # by the page: size, number read by JavaScript, JPEG in base64
    decoded: dict[str, int]  # by the page's own count: mid -> pictures
    jpeg: str  # the page's large picture as the cell had it, base64
    glare: tuple[float, float]  # from when to when both changed the call, s on the log's clock
    recorded: str = ""
    pictures: list[Picture] = field(default_factory=list, repr=False, compare=False)

    @property
    def at_the_page(self) -> list[Picture]:
        """What the page has seen of the cell's pictures."""
        return [_decoded(one["jpeg"].partition(",")[2]) for one in self.seen]

    @property
    def here(self) -> Picture:
        """What the cell has received of the page's first picture."""
        return _decoded(self.jpeg)

    def during(self, *, glare: bool) -> list[Event]:
        """The events of the set-up, or of the moment in which both made an offer, without candidates."""
        since, until = self.glare if glare else (0.0, self.glare[0])
        return [e for e in self.events if since <= e.t < until and "andidate" not in e.what and e.what != "ready"]

    @classmethod
    def read(cls) -> Visit:
        """Return the recorded visit."""
        stored = json.loads(RECORDED.read_text(encoding="utf-8"))
        stored["events"] = [Event(**event) for event in stored["events"]]
        return cls(**stored | {"glare": tuple(stored["glare"])})


def _decoded(jpeg: str) -> Picture:
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(jpeg), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None, "this is no JPEG"
    return picture


def store(visit: Visit, when: str) -> None:
    """Make this the recorded visit; `when` is the day and the versions."""
    kept = asdict(visit) | {"recorded": f"recorded visit: {when}"}
    kept.pop("pictures")
    RECORDED.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


async def visited(*, by_hand: bool = False, patience: float = 60.0) -> Visit:
    """Return what came of a call with a page: set up, then changed by both sides at once. Raises CallError."""
    if not by_hand and chromium() is None:
        visit = Visit.read()
        print(visit.recorded)
        return visit
    log = Log()
    channel = PageChannel(log)
    async with served(channel) as url, contextlib.AsyncExitStack() as stack:
        if by_hand:
            print(f"open {url} in a browser of this machine, within {patience:.0f} s")
        else:
            await stack.enter_async_context(opened(url))
        try:
            async with asyncio.timeout(patience):
                await channel.there.wait()
        except TimeoutError as error:
            raise CallError(f"no page came within {patience:.0f} s: run the cell again") from error
        return await _call(channel, log, by_hand)


async def _call(channel: PageChannel, log: Log, by_hand: bool) -> Visit:
    """Call the page that is there, let both sides add a picture at once, look, and hang up."""
    # A browser of one's own may not send to 127.0.0.1: it is offered this machine's other addresses, too.
    peer = Peer("pc1", channel, log, here_only=not by_hand, deadline=10)
    camera, screen = OutgoingTrack(SyntheticSource(320, 240, 30)), OutgoingTrack(SyntheticSource(240, 180, 15))
    received: dict[str, list[int | None]] = {}
    newest: dict[str, Picture] = {}
    peer.on_picture = partial(_note, received, newest)
    try:
        await _set_up(peer, camera)
        await _wait(lambda: "320x240" in received, peer)
        since = log.now()
        await _glare(peer, channel, screen)
        await _wait(lambda: "160x120" in received, peer)
        until = log.now()
        received.clear()
        told = await _told(peer, channel)
        await _wait(lambda: len(received) == 2 and all(len(found) > 5 for found in received.values()), peer)
        states = ", ".join(f"{name} {state}" for name, state in peer.states.items())
        await peer.hang_up()
    finally:
        await peer.close()
        await asyncio.gather(camera.retire(), screen.retire())
    jpeg = cv2.imencode(".jpg", newest["320x240"], [cv2.IMWRITE_JPEG_QUALITY, 70])[1].tobytes()
    return Visit(
        events=list(log.events),
        browser=_named(told["agent"]),
        states=states,
        received=received,
        seen=told["seen"],
        decoded=told["decoded"],
        jpeg=base64.b64encode(jpeg).decode(),
        glare=(since, until),
    )


def _note(received: dict[str, list[int | None]], newest: dict[str, Picture], picture: Picture) -> None:
    size = f"{picture.shape[1]}x{picture.shape[0]}"
    received.setdefault(size, []).append(read_time_code(picture))
    newest[size] = picture


async def _set_up(peer: Peer, camera: OutgoingTrack) -> None:
    """The script of a caller; the page takes candidates while it still looks for its own."""
    steps = loopback.caller(peer, camera)
    await play(steps[:-2])
    taking = asyncio.create_task(peer.receive_candidates())
    peer.tasks.append(taking)
    await play(steps[-1:])
    await cancelled(*(task for task in (peer.listening, taking) if task))


async def _glare(peer: Peer, channel: PageChannel, screen: OutgoingTrack) -> None:
    """Let the page make an offer, and make one as well before it is read. The cell is the impolite side."""
    await channel.send(json.dumps({"type": "add"}))
    async with asyncio.timeout(peer.deadline):
        channel.offered.clear()
        await channel.offered.wait()  # it lies in the mailbox
    await peer.add_track(screen)
    await peer.create_offer()
    await peer.set_local_description()
    await peer.send_description()
    await peer.receive_description("answer")  # the page's offer, which comes first, is refused by its name
    await peer.receive_description("offer")  # it asks once more
    await peer.create_answer()
    await peer.set_local_description()
    await peer.send_description()


async def _told(peer: Peer, channel: PageChannel) -> Message:
    """Ask the page what it sees, until it has read a number in both pictures."""
    until = peer.log.now() + peer.deadline
    while True:
        await channel.send(json.dumps({"type": "tell"}))
        async with asyncio.timeout(peer.deadline):
            told = await channel.told.get()
        if sum(one["number"] is not None for one in told["seen"]) == 2:
            return told
        if peer.log.now() > until:
            raise CallError(f"the page sees {len(told['seen'])} pictures of two: is its tab in front?")
        await asyncio.sleep(0.1)


async def _wait(reached: Any, peer: Peer) -> None:
    await peer.health.until(reached, "the page's picture did not come")


def _named(agent: str) -> str:
    found = re.search(r"(Firefox|Edg|HeadlessChrome|Chrome|Version)/(\d+)", agent)
    names = {"HeadlessChrome": "Chromium", "Chrome": "Chromium", "Edg": "Edge", "Version": "Safari"}
    return f"{names.get(found[1], found[1])} {found[2]}" if found else "a browser"


def visit_table(visit: Visit) -> Table:
    """Show which pictures came where, and what each end has read in them."""
    rows = [("the page", "the cell's", one["size"], _read(one["number"])) for one in visit.seen]
    rows += [("the cell", "the page's", size, _read(found[-1])) for size, found in sorted(visit.received.items())[::-1]]
    note = f"{visit.browser} on the one side, aiortc on the other. {visit.recorded}"
    return Table(("seen by", "picture", "size", "number read in it"), [("", rows)], (22, 26, 26, 26), note=note.strip())


def _read(number: int | None) -> str:
    return "none" if number is None else f"≈{number}"

"""The phone's server: it serves the page, and is the room where people meet. It passes texts on and sees no media.

    runner = await started(Room(places=2), "127.0.0.1", 0)      # address(runner) is where; page and socket
    await runner.cleanup()

Everybody has one WebSocket, and is in the room only while it is open. Nothing is kept, and no SDP is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from socket import gethostname

from aiohttp import WSCloseCode, WSMsgType, web
from yarl import URL

from loopback import LONGEST_MESSAGE, CallError, cancelled, printable

from .control import CALL_CONTROL, PATIENCE, PEOPLE_HEAR, Room

PAGE = Path(__file__).parent / "page"
AT_ONCE, A_SECOND = 200, 100  # messages of one person
UNREAD = 1_000_000  # letters that wait for somebody who does not read them
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    # Names and chats are text, never markup; should that fail once, no script of theirs runs. Nobody frames the page.
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' blob: data:; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ROOM, HOST, SOCKETS = web.AppKey("room", Room), web.AppKey("host", str), web.AppKey("sockets", set)


def application(room: Room, host: str = "127.0.0.1", *, encrypted: bool = False) -> web.Application:
    """Return the page and the room as an aiohttp application that listens on `host`."""
    app = web.Application(middlewares=[guard])
    app[ROOM], app[HOST], app[SOCKETS] = room, "" if encrypted else host, set()
    app.router.add_get("/", index)
    app.router.add_static("/page", PAGE)
    app.router.add_get("/control.json", control)
    app.router.add_get("/socket", person)
    app.on_response_prepare.append(add_headers)
    app.on_shutdown.append(close_sockets)
    return app


async def started(room: Room, host: str, port: int, certificate: ssl.SSLContext | None = None) -> web.AppRunner:
    """Return the running server; port 0 takes a free one. Raises CallError where it cannot listen."""
    app = application(room, host, encrypted=certificate is not None)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=certificate).start()
    except OSError as error:
        await runner.cleanup()
        advice = "--port 0 takes a free port, --host an address of this machine"
        raise CallError(f"{printable(host)}:{port} cannot be listened on ({error.strerror}): {advice}") from error
    return runner


def address(runner: web.AppRunner) -> str:
    """Return the URL under which this machine's browser finds the page."""
    site, (host, port, *_) = next(iter(runner.sites)), runner.addresses[0]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return str(URL.build(scheme=URL(site.name).scheme, host=host, port=port))


# ---- What a request must have ----------------------------------------------------------------------------------------


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a request for a name that is not this server's: another site's name may be made to lead here (DNS
    rebinding), and its pages would count as ours. An address cannot; where a certificate is shown, it tells."""
    if (host := request.app[HOST]) and not is_ours(request.host, host):
        raise web.HTTPForbidden(text=f"{printable(request.host, 60)} is not this server's name: use its address\n")
    return await handler(request)


def is_ours(authority: str, host: str) -> bool:
    """Whether the Host of a request is an address, or a name of this machine, where the server listens on `host`."""
    with contextlib.suppress(ValueError):
        name = URL.build(scheme="http", authority=authority).host or ""
        if name in (host, "localhost", gethostname(), f"{gethostname()}.local"):
            return True
        return bool(ipaddress.ip_address(name))
    return False


def check_origin(request: web.Request) -> None:
    """Raise HTTPForbidden unless it comes from our page, or from no page at all (RFC 6455 section 10.2): a browser lets
    any page open a WebSocket to anywhere, and says which page it was. A Python end says nothing."""
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.host:
        raise web.HTTPForbidden(text="a page of another server may not speak here\n")


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


class Allowance:
    """How much somebody may say: AT_ONCE messages, of which A_SECOND come back each second."""

    def __init__(self) -> None:
        self.left, self._at = float(AT_ONCE), time.monotonic()

    def spend(self) -> bool:
        """Take one message off. False: there is none left."""
        now = time.monotonic()
        self.left, self._at = min(AT_ONCE, self.left + (now - self._at) * A_SECOND) - 1, now
        return self.left >= 0


class Outbox:
    """What waits to be sent to somebody."""

    def __init__(self) -> None:
        self._texts, self._letters = asyncio.Queue[str](), 0

    def put(self, text: str) -> bool:
        """Take a text. False: too much waits already."""
        self._letters += len(text)
        if self._letters <= UNREAD:
            self._texts.put_nowait(text)
        return self._letters <= UNREAD

    async def get(self) -> str:
        text = await self._texts.get()
        self._letters -= len(text)
        return text


# ---- Answers ---------------------------------------------------------------------------------------------------------


async def index(request: web.Request) -> web.FileResponse:
    return web.FileResponse(PAGE / "index.html")


async def control(request: web.Request) -> web.Response:
    """The table of call control, for the page: one table, two readers."""
    table = [[state, what, then, does] for (state, what), (then, does) in CALL_CONTROL.items()]
    return web.json_response({"table": table, "patience": PATIENCE, "messages": PEOPLE_HEAR})


async def person(request: web.Request) -> web.WebSocketResponse:
    """One person, as long as they are there."""
    check_origin(request)
    room, sockets = request.app[ROOM], request.app[SOCKETS]
    if len(sockets) >= 2 * room.places + 10:  # most of them at the door
        raise web.HTTPServiceUnavailable(text="too many connections\n")
    way = web.WebSocketResponse(timeout=1, heartbeat=10, max_msg_size=LONGEST_MESSAGE, compress=False)
    await way.prepare(request)
    sockets.add(way)
    outbox = Outbox()

    def hear(text: str) -> None:
        if not outbox.put(text) and request.transport:
            request.transport.abort()  # they do not read, and would not read a farewell

    speak, writing = room.enter(hear), asyncio.create_task(write(way, outbox))
    try:
        await read(way, speak)
    finally:
        speak('{"type": "leave"}')
        sockets.discard(way)
        await cancelled(writing)
    return way


async def read(way: web.WebSocketResponse, speak: Callable[[str], None]) -> None:
    allowance = Allowance()
    async for message in way:  # until it is closed, or something too large comes: aiohttp closes it then
        if message.type is not WSMsgType.TEXT:
            await way.close(code=WSCloseCode.UNSUPPORTED_DATA, message=b"texts only")
        elif not allowance.spend():
            await way.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too many messages")
        else:
            speak(message.data)


async def write(way: web.WebSocketResponse, outbox: Outbox) -> None:
    with contextlib.suppress(ConnectionError):  # the reader hears of it, too
        while True:
            await way.send_str(await outbox.get())


async def close_sockets(app: web.Application) -> None:
    """At the end of the server: all at once, so that nobody is told that the others leave. Their calls go on."""
    ways = [way.close(code=WSCloseCode.GOING_AWAY, message=b"the server ends") for way in app[SOCKETS]]
    await asyncio.gather(*ways)

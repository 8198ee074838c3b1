"""What the tests of the phone share: its server as a program, a socket of one's own, a wait."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import importlib
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
from conftest import environment

NOTEBOOKS = Path(loopback.__file__).resolve().parent / "notebooks"
PHONE = [sys.executable, str(NOTEBOOKS / "phone")]


def command_line() -> ModuleType:
    """Return notebooks/phone/__main__.py as a module, to run in this process: a program takes a second to begin."""
    return importlib.import_module("phone.__main__")


class Server:
    """`python notebooks/phone serve` as a process; `url` is where. Ended by close() or kill()."""

    def __init__(self, *arguments: str, port: int = 0, **changes: str) -> None:
        self.process = subprocess.Popen(
            [*PHONE, "serve", "--port", str(port), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(**changes),
        )
        assert self.process.stdout is not None
        self.first = self.process.stdout.readline()
        found = re.search(r"https?://\S+", self.first)
        if not found:
            self.close()
            raise AssertionError(self.first)
        self.url = found[0]
        self.port = int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> str:
        """End it; return what it printed since."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.communicate(timeout=20)[0] or ""


@contextlib.contextmanager
def serving(*arguments: str, **options: Any) -> Iterator[Server]:
    server = Server(*arguments, **options)
    try:
        yield server
    finally:
        server.close()


class Socket:
    """Somebody's WebSocket, spoken by hand."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def say(self, kind: str, **texts: Any) -> None:
        await self.socket.send_str(json.dumps({"type": kind, **texts}))

    async def hear(self) -> dict[str, Any]:
        """Return the next message."""
        message = await asyncio.wait_for(self.socket.receive(), 20)
        assert message.type is aiohttp.WSMsgType.TEXT, message
        found = json.loads(message.data)
        assert isinstance(found, dict)
        return found

    async def hear_until(self, kind: str) -> list[dict[str, Any]]:
        """Return the next messages up to the first of that type."""
        heard = [await self.hear()]
        while heard[-1]["type"] != kind:
            heard.append(await self.hear())
        return heard

    async def closed_with(self) -> int | None:
        """Read until the server closes the socket; return the code (RFC 6455 section 7.4)."""
        while not self.socket.closed:
            await asyncio.wait_for(self.socket.receive(), 20)
        return self.socket.close_code


@contextlib.asynccontextmanager
async def sockets(url: str, *names: str) -> AsyncIterator[list[Socket]]:
    """Give the open sockets of these people, who have come into the room in that order; "" stays at the door."""
    async with aiohttp.ClientSession() as session:
        people = [Socket(await session.ws_connect(f"{url}/socket", max_msg_size=0)) for _ in names]
        try:
            for number, (one, name) in enumerate(zip(people, names, strict=True)):
                if name:
                    await one.say("join", name=name)
                    for before in people[: number + 1]:
                        if before is one or names[people.index(before)]:
                            await before.hear()  # welcome, or that one more has arrived
            yield people
        finally:
            for one in people:
                await one.socket.close()


async def until(reached: Callable[[], Any], seconds: float = 20) -> Any:
    """Return the first true value of `reached()`; fail after that many seconds."""
    async with asyncio.timeout(seconds):
        while not (value := reached()):
            await asyncio.sleep(0.01)
    return value

"""The phone's page in Firefox: it calls Python and Python calls it, and what arrives at the far end is what was sent.

Firefox is spoken to in its own words, Marionette, for Debian has no geckodriver. It offers no address of a machine
that has no route to the internet, and never 127.0.0.1: so it has a network to itself, which ends at its own address.
"""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import ctypes
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import environment
from phones import until

from loopback import Picture, SyntheticSource, read_time_code

sys.path.append(str(Path(loopback.__file__).resolve().parent / "notebooks"))
from phone.control import Room
from phone.end import Conversation, End
from phone.server import address, started

ADDRESS = "198.51.100.1"  # one that is nobody's: for documentation (RFC 5737)
CLONE_NEWNET = 0x40000000  # unshare(2)
SECONDS = 20  # for anything on a busy machine
PREFERENCES = {
    "marionette.port": 0,  # a free one
    "media.navigator.streams.fake": True,  # a camera and a microphone
    "media.navigator.permission.disabled": True,  # nobody is there to allow them
    "media.autoplay.default": 0,  # nor to press anything before a sound may be heard
    "browser.shell.checkDefaultBrowser": False,
}
Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Firefox:
    """Firefox's page, through Marionette: either way a length, a colon, and JSON."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.numbers = reader, writer, itertools.count()

    async def hear(self) -> Any:
        async with asyncio.timeout(SECONDS):
            length = await self.reader.readuntil(b":")
            return json.loads(await self.reader.readexactly(int(length[:-1])))

    async def ask(self, command: str, **what: Any) -> Any:
        """Say a command; return its result."""
        text = json.dumps([0, next(self.numbers), command, what])
        self.writer.write(f"{len(text)}:{text}".encode())
        _, _, error, result = await self.hear()
        assert error is None, error
        return result

    async def run(self, script: str) -> Any:
        """Run the body of a function in the page; return what it returns."""
        return (await self.ask("WebDriver:ExecuteScript", script=script))["value"]

    async def press(self, selector: str, keys: str = "") -> None:
        """Click on something, once it is there, and type."""
        await self.until(f"document.querySelector({json.dumps(selector)}) !== null")
        found = await self.ask("WebDriver:FindElement", using="css selector", value=selector)
        (element,) = found["value"].values()
        await self.ask("WebDriver:ElementClick", id=element)
        if keys:
            await self.ask("WebDriver:ElementSendKeys", id=element, text=keys)

    async def until(self, condition: str) -> None:
        """Wait until that is so in the page."""
        async with asyncio.timeout(SECONDS):
            while not await self.run(f"return {condition}"):
                await asyncio.sleep(0.02)

    async def in_state(self, state: str) -> None:
        await self.until(f"document.body.dataset.state === '{state}'")

    async def seen(self) -> Picture | None:
        """Return the corner with the time code of what the page shows of the other end, None while that is nothing."""
        found = await self.run(SEEN)
        return found and np.array(found, np.uint8).reshape(36, 132, 4)[:, :, 2::-1]


SEEN = """
    const video = document.querySelector("#remote");
    if (!video.videoWidth) return null;
    const pen = Object.assign(document.createElement("canvas"), {width: 132, height: 36}).getContext("2d");
    pen.drawImage(video, 0, 0);
    return Array.from(pen.getImageData(0, 0, 132, 36).data);
"""


def leave_the_network() -> None:
    """Give this thread, and what it starts, a network with one address. Its default route leads back to itself: to
    Firefox a machine without any is offline."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        pytest.skip(f"a network namespace of one's own needs root ({os.strerror(ctypes.get_errno())})")
    for command in ("link set lo up", f"addr add {ADDRESS}/32 dev lo", f"route add default dev lo src {ADDRESS}"):
        subprocess.run(["ip", *command.split()], check=True)


@pytest.fixture(scope="module")
def alone() -> Iterator[Run]:
    """A function that runs a coroutine in such a network, always in the same event loop."""
    for tool in ("firefox-esr", "ip"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt install firefox-esr iproute2")
    with ThreadPoolExecutor(1) as thread, asyncio.Runner() as runner:
        thread.submit(leave_the_network).result()
        yield lambda scenario: thread.submit(runner.run, scenario).result()


@contextlib.asynccontextmanager
async def running_firefox(folder: Path) -> AsyncIterator[Firefox]:
    profile, port = folder / "profile", folder / "profile" / "MarionetteActivePort"
    profile.mkdir()
    preferences = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items()]
    (profile / "user.js").write_text("\n".join(preferences))
    process = await asyncio.create_subprocess_exec(
        *("firefox-esr", "--headless", "--marionette", "--no-remote", "--profile", profile),
        env=environment(HOME=str(folder)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await until(lambda: port.exists() and port.read_text().strip(), SECONDS)
        firefox = Firefox(*await asyncio.open_connection("127.0.0.1", int(port.read_text())))
        await firefox.hear()  # who it is
        await firefox.ask("WebDriver:NewSession")
        yield firefox
        firefox.writer.close()
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with those that it started; to quit takes it seconds
        await process.wait()


@pytest.fixture(scope="module")
def firefox(alone: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    browser = running_firefox(tmp_path_factory.mktemp("firefox"))
    yield alone(browser.__aenter__())
    alone(browser.__aexit__(None, None, None))


@contextlib.asynccontextmanager
async def ann_and_ben(ann: Firefox, picture: str) -> AsyncIterator[End]:
    """Ann is the page in Firefox, with a test picture or a camera; give Ben, a Python end in the same room."""
    server = await started(Room(10), "127.0.0.1", 0)
    try:
        await ann.ask("WebDriver:Navigate", url=address(server))
        await ann.until("document.querySelector('#state').textContent === 'Type a name and join.'")
        await ann.press(f"#camera option[value='{picture}']")
        await ann.press("#microphone option[value='']")
        await ann.press("#name", "Ann")
        await ann.press("#enter")
        await ann.in_state("idle")
        ben = End(
            address(server), "Ben", source=lambda: SyntheticSource(320, 240, 30), deadline=SECONDS, here_only=False
        )
        async with ben:
            await until(lambda: "Ann" in ben.phone.people)
            yield ben
    finally:
        await server.cleanup()


async def numbers(look: Callable[[], Coroutine[Any, Any, Picture | None]]) -> None:
    """Wait until four pictures with a time code were seen, each later than the one before."""
    found: list[int] = []
    async with asyncio.timeout(SECONDS):
        while len(found) < 4:
            picture = await look()
            number = None if picture is None else read_time_code(picture)
            if number is not None and number not in found:
                found.append(number)
            await asyncio.sleep(0.02)
    assert found == sorted(found)


def hears(conversation: Conversation, frequency: float) -> bool:
    heard = conversation.meter.frequency
    return heard is not None and abs(heard - frequency) < 10


def test_the_page_calls_python(alone: Run, firefox: Firefox) -> None:
    """The page shows Python's pictures, and Python decodes the page's."""

    async def scenario() -> None:
        async with ann_and_ben(firefox, "test") as ben:
            ben.answers = True
            await firefox.press("#people button")
            await firefox.in_state("in call")
            await until(lambda: ben.phone.state == "in call")
            conversation = ben.conversation
            assert conversation is not None

            async def decoded() -> Picture | None:
                return conversation.peer.picture

            await numbers(firefox.seen)
            await numbers(decoded)
            await until(lambda: conversation.arrivals.delays, SECONDS)  # the page told when its pictures were captured
            await firefox.press("#hangUp")
            await until(lambda: ben.phone.state == "idle")

    alone(scenario())


def test_python_calls_the_page(alone: Run, firefox: Firefox) -> None:
    """The page sends Firefox's camera, whose picture is one colour that changes, and its microphone's tone."""

    async def scenario() -> None:
        async with ann_and_ben(firefox, "") as ben:
            calling = asyncio.create_task(ben.call("Ann"))
            await firefox.in_state("ringing")
            await firefox.press("#accept")
            await calling
            conversation = ben.conversation
            assert conversation is not None
            await numbers(firefox.seen)
            colours: list[Picture] = []

            def changes() -> bool:
                if conversation.peer.picture is not None:
                    colours.append(conversation.peer.picture.mean((0, 1)))
                return bool(colours) and np.ptp(colours, axis=0).max() > 30  # of 255: more than a codec's doing

            await until(changes, SECONDS)
            await until(lambda: hears(conversation, 1000))
            await ben.hang_up()
            await firefox.in_state("idle")

    alone(scenario())

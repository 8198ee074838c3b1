"""What the tests of the phone's page share: its server, real Chromium, and what a page shows and plays.

PYTEST_DONT_REWRITE: it is imported for its functions before pytest takes it, as a plugin, for its fixtures.
"""

import loopback  # first: it imports cv2 before aiortc, which has to be so in every process  # isort: skip

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import environment, wait_until
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Route, expect, sync_playwright

PHONE = Path(loopback.__file__).resolve().parent / "notebooks" / "phone"
SECONDS = 30  # for anything in a browser on a busy machine
ARGUMENTS = [
    *("--no-sandbox", "--disable-dev-shm-usage", "--js-flags=--expose-gc"),
    *("--use-fake-device-for-media-stream=device-count=3", "--use-fake-ui-for-media-stream"),
    "--allow-loopback-in-peer-connection",  # or a machine without a network finds no candidate
]
MEDIA = ["camera", "microphone"]
SIZE = "width: 640, height: 480, frameRate: 30"  # in page.js
SMALLER = "width: 320, height: 240, frameRate: 15"  # two pages draw, encode, decode and show two each, without a GPU


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of `python notebooks/phone serve`, and its process; ended afterwards."""
    words = folder / f"server-{len(list(folder.glob('server-*')))}.txt"
    command = [sys.executable, str(PHONE), "serve", *(options if "--port" in options else ("--port", "0", *options))]
    with words.open("wb") as file:
        server = subprocess.Popen(command, env=environment(), stdout=file, stderr=file)
    try:
        wait_until(lambda: b"Ctrl-C ends" in words.read_bytes() or server.poll() is not None, SECONDS)
        assert server.poll() is None, words.read_text()
        found = re.search(r"http://\S+", words.read_text())
        assert found
        yield found[0], server
    finally:
        server.terminate()
        server.wait(timeout=10)


def launched(playwright: Playwright, arguments: list[str] = ARGUMENTS) -> Browser:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    return playwright.chromium.launch(executable_path=chromium, args=arguments, timeout=SECONDS * 1000)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    expect.set_options(timeout=SECONDS * 1000)
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    browser = launched(playwright)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("server")) as (address, _):
        yield address


def kill(browser: Browser) -> None:
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    os.kill(next(process["id"] for process in processes if process["type"] == "browser"), signal.SIGKILL)
    browser.close()  # what is left of it, here


def with_smaller_pictures(route: Route) -> None:
    script = (PHONE / "page" / "page.js").read_text()
    assert script.count(SIZE) == 1
    route.fulfill(content_type="text/javascript", body=script.replace(SIZE, SMALLER))


Opened = Callable[..., Page]


class Shelf:
    """Pages that tests have used and can use again: to open one takes three times as long as to load it anew."""

    def __init__(self) -> None:
        self.pages: list[Page] = []
        self.errors: list[str] = []  # in any page

    def take(self, browser: Browser, **options: Any) -> Page:
        """Return a page of a browser context of its own."""
        page = browser.new_context(**options).new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self.on_console)
        return page

    def on_console(self, line: ConsoleMessage) -> None:
        if "Content Security Policy" in line.text:
            self.errors.append(line.text)


@pytest.fixture(scope="module")
def shelf(chromium: Browser) -> Shelf:
    return Shelf()  # its pages end with the browser


@pytest.fixture
def opened(chromium: Browser, address: str, shelf: Shelf) -> Iterator[Opened]:
    """A function that opens the page in a browser context that is nobody else's. Errors in a page fail the test."""
    again, once = list[Page](), list[Page]()
    shelf.errors.clear()

    def open_page(
        query: str = "",
        *,
        at: str = address,
        browser: Browser = chromium,
        media: list[str] = MEDIA,
        whole: bool = False,
        altered: bool = False,
        **options: Any,
    ) -> Page:
        """`whole`: with pictures as large as they are, not smaller ones, which cost half, and which Chromium does not
        make smaller still, for then their time code could not be read. `altered`: the test changes this page for good,
        as routes do: no other test gets it."""
        plain = browser is chromium and media is MEDIA and not (whole or altered or options)
        if plain and shelf.pages:
            page = shelf.pages.pop()
        else:
            page = shelf.take(browser, permissions=media, **{"viewport": {"width": 1280, "height": 800}} | options)
            if not whole:
                page.context.route("**/page/page.js", with_smaller_pictures)
        (again if plain else once).append(page)
        page.goto(f"{at}/{query}")
        says(page, "Type a name and join.")
        return page

    yield open_page
    for page in once:
        if page.context.browser and page.context.browser.is_connected():
            page.context.close()
    for page in again:
        if not page.is_closed():
            page.goto("about:blank")  # it leaves, and all that it holds is released
            shelf.pages.append(page)
    assert shelf.errors == []


# Playwright looks at what is expected after 0.1, 0.35, 0.85 s, and then once a second; these look all the time.


def in_state(page: Page, state: str) -> None:
    wait_until(lambda: page.locator("body").get_attribute("data-state") == state, SECONDS)


def says(page: Page, words: str) -> None:
    wait_until(lambda: words in (page.locator("#state").text_content() or ""), SECONDS)


# A mouse waits until what it clicks on has stood still for two pictures of the page, which take long to draw without a
# GPU: here the button is told. That a mouse can press them is for the tests to see, for each button once.


def press(page: Page, selector: str) -> None:
    """Press a button that can be seen and is enabled."""
    wait_until(lambda: page.locator(selector).is_enabled() and page.locator(selector).is_visible(), SECONDS)
    page.locator(selector).evaluate("button => button.click()")


def join(page: Page, name: str, picture: str = "", sound: str = "") -> Page:
    page.select_option("#camera", picture)
    page.select_option("#microphone", sound)
    page.fill("#name", name)
    press(page, "#enter")
    in_state(page, "idle")
    return page


def call(page: Page, name: str) -> None:
    press(page, f"role=button[name='Call {name}']")


def connected(ann: Page, ben: Page) -> tuple[Page, Page]:
    """Ann calls Ben, and he accepts."""
    call(ann, "Ben")
    in_state(ben, "ringing")
    press(ben, "#accept")
    for page in (ann, ben):
        in_state(page, "in call")
    return ann, ben


# In the page: what its <video> shows, what its sound is.
SEEN = """async () => {
    const {readTimeCode} = await import("/page/picture.js");
    const video = document.querySelector("#remote"), size = [video.videoWidth, video.videoHeight];
    if (!size[0]) return null;
    const pen = new OffscreenCanvas(...size).getContext("2d", {willReadFrequently: true});
    pen.drawImage(video, 0, 0);
    const picture = pen.getImageData(0, 0, ...size);
    let sum = 0, light = 0;
    for (let at = 0; at < picture.data.length; at += 4 * 97) {
        sum = (sum * 31 + picture.data[at + 1]) % 1000003;
        light = Math.max(light, picture.data[at], picture.data[at + 1], picture.data[at + 2]);
    }
    return {size, sum, light, number: readTimeCode(picture)};
}"""
HEARD = """async () => {
    const context = new AudioContext();
    const analyser = new AnalyserNode(context, {fftSize: 8192});
    context.createMediaStreamSource(document.querySelector("#remote").srcObject).connect(analyser);
    const loudness = new Float32Array(analyser.frequencyBinCount);
    await new Promise(resolve => setTimeout(resolve, 400));  // as long as the analyser's window, and more
    analyser.getFloatFrequencyData(loudness);
    const peak = loudness.indexOf(Math.max(...loudness));
    await context.close();
    return {frequency: peak * context.sampleRate / analyser.fftSize, loudness: loudness[peak]};
}"""
EVENTS = """async () => (await import("/page/page.js")).teacher.events.map(({what, detail}) => `${what} ${detail}`)"""


def seen(page: Page) -> dict[str, Any]:
    """What the page shows of the other end: size, a sum over its pixels, the brightest, the number in its time code."""
    found = wait_until(lambda: page.evaluate(SEEN), SECONDS)
    assert isinstance(found, dict)
    return found


def shape(page: Page) -> float:
    """Width to height of what the page shows: where a machine is too busy, Chromium sends fewer pixels."""
    width, height = seen(page)["size"]
    return round(width / height, 1)


def moves(page: Page) -> None:
    """Wait until three different pictures were shown from now on."""
    sums: set[int] = set()
    wait_until(lambda: sums.add(seen(page)["sum"]) or len(sums) > 3, SECONDS)


def numbers(page: Page) -> None:
    """Wait until three pictures with a time code were read, each later than the one before."""
    found: list[int] = []

    def look() -> bool:
        number = seen(page)["number"]
        if number is not None and number not in found:
            found.append(number)
        return len(found) > 3

    wait_until(look, SECONDS)
    assert found == sorted(found)


def hears(page: Page, frequency: float) -> None:
    """Wait until the loudest tone of what the page plays is this one, in Hz."""
    wait_until(lambda: abs(page.evaluate(HEARD)["frequency"] - frequency) < 10, SECONDS)


def events(page: Page) -> list[str]:
    found = page.evaluate(EVENTS)
    assert isinstance(found, list)
    return found


def logged(page: Page, start: str) -> int:
    """How many events of the page's log begin with that."""
    return sum(event.startswith(start) for event in events(page))

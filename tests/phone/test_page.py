"""The phone's page in real Chromium: two pages call each other through a real server, with the browser's fake camera."""

import loopback  # first: it imports cv2 before aiortc, which has to be so in every process  # isort: skip

import contextlib
import hashlib
import json
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
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, WebSocketRoute, expect, sync_playwright

PHONE = Path(loopback.__file__).resolve().parent / "notebooks" / "phone"
SECONDS = 30  # for anything in a browser on a busy machine
ARGUMENTS = [
    *("--no-sandbox", "--disable-dev-shm-usage", "--js-flags=--expose-gc"),
    *("--use-fake-device-for-media-stream=device-count=2", "--use-fake-ui-for-media-stream"),
    "--allow-loopback-in-peer-connection",  # or a machine without a network finds no candidate
]
MEDIA = ["camera", "microphone"]

# ---- What the tests share --------------------------------------------------------------------------------------------


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


def launched(playwright: Playwright) -> Browser:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    return playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS, timeout=SECONDS * 1000)


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


Opened = Callable[..., Page]


@pytest.fixture
def opened(chromium: Browser, address: str) -> Iterator[Opened]:
    """A function that opens the page in a browser context of its own. Errors in a page fail the test."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def open_page(
        query: str = "", *, at: str = address, browser: Browser = chromium, media: list[str] = MEDIA, **options: Any
    ) -> Page:
        context = browser.new_context(permissions=media, **{"viewport": {"width": 1280, "height": 800}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if "Content Security Policy" in line.text else None)
        page.goto(f"{at}/{query}")
        expect(page.locator("#state")).to_have_text("Type a name and join.")
        return page

    yield open_page
    for context in contexts:
        if context.browser and context.browser.is_connected():
            context.close()
    assert errors == []


def in_state(page: Page, state: str) -> None:
    expect(page.locator("body")).to_have_attribute("data-state", state)


def says(page: Page, words: str) -> None:
    expect(page.locator("#state")).to_contain_text(words)


def join(page: Page, name: str, picture: str = "", sound: str = "") -> Page:
    page.select_option("#camera", picture)
    page.select_option("#microphone", sound)
    page.fill("#name", name)
    page.click("#enter")
    in_state(page, "idle")
    return page


def call(page: Page, name: str) -> None:
    page.get_by_role("button", name=f"Call {name}", exact=True).click()


def connected(ann: Page, ben: Page) -> tuple[Page, Page]:
    """Ann calls Ben, and he accepts."""
    call(ann, "Ben")
    in_state(ben, "ringing")
    ben.click("#accept")
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


# ---- A call ----------------------------------------------------------------------------------------------------------


def test_two_pages_see_and_hear_each_other(opened: Opened) -> None:
    ann, ben = connected(join(opened(), "Ann"), join(opened(), "Ben", "test", "tone"))
    says(ann, "In a call with Ben.")
    moves(ben)  # the fake camera's picture
    numbers(ann)  # the test picture's
    hears(ann, 440)
    wait_until(lambda: ben.evaluate(HEARD)["loudness"] > -60, SECONDS)  # the fake microphone beeps once a second
    expect(ann.locator("#delay")).to_have_text(re.compile(r"^\d+ ms from captured to shown$"))
    assert ann.evaluate("!document.querySelector('#remote').muted && !document.querySelector('#remote').paused")
    assert logged(ann, "createOffer") == logged(ben, "createAnswer") == 1

    ann.click("#hangUp")
    says(ann, "You hung up.")
    says(ben, "Ann hung up.")


def test_the_page_says_the_same_as_loopback() -> None:
    """Its own copy of the messages is loopback's, without the bye, which is call control's here."""
    page = (PHONE / "page" / "page.js").read_text()
    found = re.search(r"export const MESSAGES = (\{.*\});", page)
    assert found
    ours = json.loads(re.sub(r"(?<=[{,]) (\w+):", r'"\1":', found[1]).replace(" }", "}"))
    assert {kind: tuple(texts) for kind, texts in ours.items()} | {"bye": ()} == loopback.MESSAGES


# ---- Call control ----------------------------------------------------------------------------------------------------


def test_refuse_cancel_and_hang_up_by_either(opened: Opened) -> None:
    ann, ben = join(opened(), "Ann", "test", "silence"), join(opened(), "Ben", "test", "silence")
    call(ann, "Ben")
    says(ann, "It rings at Ben.")
    says(ben, "Ann calls you.")
    ben.click("#reject")
    says(ann, "Ben refused.")

    call(ben, "Ann")
    says(ann, "Ben calls you.")
    expect(ben.locator("#hangUp")).to_have_text("Cancel")
    ben.click("#hangUp")
    says(ann, "Ben gave up.")

    connected(ann, ben)
    ben.click("#hangUp")
    says(ann, "Ben hung up.")
    for page in (ann, ben):
        in_state(page, "idle")
        assert page.evaluate("document.querySelector('#remote').srcObject") is None


def test_a_third_hears_that_both_are_busy(opened: Opened) -> None:
    ann, ben, cem = (join(opened(), name, "test", "silence") for name in ("Ann", "Ben", "Cem"))
    connected(ann, ben)
    for name in ("Ann", "Ben"):
        call(cem, name)
        says(cem, f"{name} is in another call.")
    for page in (ann, ben):
        in_state(page, "in call")


def test_nobody_answers(opened: Opened, chromium: Browser, address: str) -> None:
    """With less patience than the table has: the page takes it from there."""
    ann, ben = opened(), join(opened(), "Ben", "test", "silence")
    table = ann.request.get(f"{address}/control.json").json()
    table["patience"]["calling"] = 0.5
    ann.route("**/control.json", lambda route: route.fulfill(json=table))
    ann.reload()
    join(ann, "Ann", "test", "silence")
    call(ann, "Ben")
    says(ann, "Ben did not answer.")
    says(ben, "Ann gave up.")


def test_calls_that_cross_become_one(opened: Opened) -> None:
    ann, ben = join(opened(), "Ann", "test", "silence"), join(opened(), "Ben", "test", "silence")
    for page, name in ((ann, "Ben"), (ben, "Ann")):  # pressed before the other's call can be heard
        expect(page.get_by_role("button", name=f"Call {name}", exact=True)).to_be_enabled()
        page.evaluate("setTimeout(() => document.querySelector('#people button').click(), 300)")
    wait_until(lambda: {page.get_attribute("body", "data-state") for page in (ann, ben)} & {"in call", "ringing"}, SECONDS)
    if ann.get_attribute("body", "data-state") == "ringing" or ben.get_attribute("body", "data-state") == "ringing":
        pytest.skip("this machine was too busy to press both at once")
    for page in (ann, ben):
        in_state(page, "in call")
        moves(page)


def test_leaving_closing_the_tab_and_a_killed_browser(opened: Opened, playwright: Playwright) -> None:
    ann = join(opened(), "Ann", "test", "silence")
    ben = join(opened(), "Ben", "test", "silence")
    connected(ann, ben)
    ben.click("#leave")
    says(ann, "Ben hung up.")
    says(ben, "Type a name and join.")
    expect(ann.locator("#people li")).to_have_count(0)
    assert ben.evaluate("document.querySelector('#self').srcObject") is None  # the camera is off

    ben.click("#enter")
    in_state(ben, "idle")
    connected(ann, ben)
    ben.close(run_before_unload=True)
    in_state(ann, "idle")
    expect(ann.locator("#people li")).to_have_count(0)

    other = launched(playwright)
    cem = join(opened(browser=other), "Ben", "test", "silence")
    connected(ann, cem)
    processes = other.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    os.kill(next(process["id"] for process in processes if process["type"] == "browser"), signal.SIGKILL)
    says(ann, "Ben has left.")
    expect(ann.locator("#people li")).to_have_count(0)
    other.close()


def test_a_name_that_is_taken_a_name_that_is_none_a_full_room(opened: Opened, tmp_path: Path) -> None:
    with serving(tmp_path, "--places", "2") as (address, _):
        ann, ben, cem = (opened(at=address) for _ in range(3))
        join(ann, "Ann", "test", "silence")
        for name, words in (("Ann", "Somebody in the room is called Ann already."), ("\u200b", "takes no such name")):
            ben.select_option("#camera", "test")
            ben.fill("#name", name)
            ben.click("#enter")
            says(ben, words)
        join(ben, "Ben", "test", "silence")
        cem.fill("#name", "Cem")
        cem.click("#enter")
        says(cem, "The room is full.")
        ben.click("#leave")
        join(cem, "Cem", "test", "silence")
        expect(ann.locator("#people li")).to_have_text(["CemCall"])

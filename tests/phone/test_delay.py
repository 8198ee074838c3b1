"""Between Python and the page: the delay from captured to shown, both ways, and both ends' logs on one clock."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import shutil
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import run
from phones import serving, until
from playwright.async_api import Page, async_playwright, expect

from loopback import Picture, SyntheticSource

sys.path.append(str(Path(loopback.__file__).resolve().parent / "notebooks"))
from phone.end import End

SECONDS = 20  # for anything on a busy machine
ARGUMENTS = [
    *("--no-sandbox", "--disable-dev-shm-usage", "--allow-loopback-in-peer-connection"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
]
PICTURES = 60
# The page's clock comes from the fastest of its last ten pings, and may be wrong by half of that (room.now in page.js).
ROUND_TRIPS = """
window.roundTrips = [];
const { send } = WebSocket.prototype;
WebSocket.prototype.send = function (text) {
  this.onmessage ??= ({ data }) => {
    const message = JSON.parse(data);
    if (message.type === "pong") roundTrips.push(performance.now() - message.sent);
  };
  return send.call(this, text);
};
"""
CLOCK = """async () => {
  const { room } = await import("/page/page.js");
  return [room.now(), Math.min(...roundTrips.slice(-10)) / 2];
}"""
Report = Callable[[str, object], None]


class Claiming(SyntheticSource):
    """A test picture that says it was captured so many seconds before it was."""

    def __init__(self, earlier: float) -> None:
        super().__init__(640, 480, 30)
        self.earlier = earlier

    async def next(self) -> tuple[Picture, float]:
        picture, captured_at = await super().next()
        return picture, captured_at - self.earlier


@contextlib.asynccontextmanager
async def ann_and_ben(earlier: float) -> AsyncIterator[tuple[Page, End]]:
    """Give Ann, a page with the test picture, and Ben, a Python end, both in the room of a server."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    with serving() as server:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS, timeout=SECONDS * 1000)
            context = await browser.new_context(permissions=["camera", "microphone"])
            page, errors = await context.new_page(), []
            page.set_default_timeout(SECONDS * 1000)
            await page.add_init_script(ROUND_TRIPS)
            page.on("pageerror", lambda error: errors.append(str(error)))
            await page.goto(f"{server.url}/?log")
            await page.select_option("#camera", "test")
            await page.fill("#name", "Ann")
            await page.click("#enter")
            await in_state(page, "idle")
            async with End(server.url, "Ben", source=lambda: Claiming(earlier), deadline=30) as ben:
                await until(lambda: ben.clock.steady and "Ann" in ben.phone.people, SECONDS)
                yield page, ben
                await ben.hang_up()
                await in_state(page, "idle")
            await browser.close()
            assert errors == []


async def in_state(page: Page, state: str) -> None:
    await expect(page.locator("body")).to_have_attribute("data-state", state, timeout=SECONDS * 1000)


async def ben_calls(page: Page, ben: End) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(ben.call("Ann"))
        await in_state(page, "ringing")
        await page.click("#accept")
    await in_state(page, "in call")


async def ann_calls(page: Page, ben: End) -> None:
    ben.answers = True
    await page.get_by_role("button", name="Call Ben", exact=True).click()
    await in_state(page, "in call")
    await until(lambda: ben.phone.state == "in call", SECONDS)


# What the page's <video> shows: the numbers, and after how many ms, on the server's clock.
WATCH = """async (pictures) => {
  const { readTimeCode, watchDelay } = await import("/page/picture.js");
  const { room, talk } = await import("/page/page.js");
  const video = document.getElementById("remote"), delays = [], numbers = [];
  const pen = Object.assign(document.createElement("canvas"), { width: 132, height: 20 }).getContext("2d");
  const size = [video.videoWidth, video.videoHeight];
  await new Promise((resolve) => {
    const look = () => {
      pen.drawImage(video, 0, 0);
      numbers.push(readTimeCode(pen.getImageData(0, 0, 132, 20)));
      if (delays.length < pictures) video.requestVideoFrameCallback(look);
      else resolve(stop());
    };
    video.requestVideoFrameCallback(look);
    const stop = watchDelay(video, { capturedAt: talk.capturedAt, now: room.now, onDelay: (ms) => delays.push(ms) });
  });
  return { delays, numbers, size };
}"""
ROWS = """() => [...document.querySelectorAll("#teacher tbody tr")].map((row) =>
  [row.className, ...[...row.cells].map((cell) => cell.textContent)])"""


@dataclass
class Measured:
    """A call between Ann, a page, and Ben, a Python end. Times in ms."""

    offering: str  # "ours" (the page) or "theirs"
    earlier: float  # how long before it was Ben says that he captured a picture
    error: float  # by how much the two clocks may differ
    clocks: tuple[float, float, float]  # the server's time, read by Ben, then by the page, then by Ben
    shown: dict[str, Any]  # by the page, of Ben's pictures
    decoded: list[float]  # delays of the page's pictures at Ben's
    lasted: float  # from before the call to now
    words: str  # what the page says of the delay
    rows: list[list[str]]  # of the page's log: whose, ms, who, what, detail


async def measured(page: Page, ben: End, offering: str, earlier: float, folder: Path) -> Measured:
    """Call, and measure the call."""
    began = time.perf_counter()
    await (ann_calls if offering == "ours" else ben_calls)(page, ben)
    assert ben.conversation is not None
    arrivals = ben.conversation.arrivals
    before = await clocks(page, ben)
    shown = await page.evaluate(WATCH, PICTURES)
    await until(lambda: len(arrivals.delays) >= PICTURES, SECONDS)
    decoded, lasted = [one * 1000 for one in arrivals.delays], (time.perf_counter() - began) * 1000
    for side in ("ours", "theirs"):
        await page.locator(f".{side} .layer[data-layer=picture][data-state=done]").wait_for()
    await expect(page.locator("svg .under-way")).to_have_count(0, timeout=SECONDS * 1000)
    after = await clocks(page, ben)
    words, rows = await page.locator("#delay").text_content(), await page.evaluate(ROWS)
    await page.screenshot(path=folder / f"{offering}.png", full_page=True)
    error = max(before[1], after[1])
    return Measured(offering, earlier, error, after[0], shown, decoded, lasted, words or "", rows)


async def clocks(page: Page, ben: End) -> tuple[tuple[float, float, float], float]:
    """Read the server's time by both ends' clocks; return it with the most by which these may differ."""
    one = ben.clock.server_ms(time.perf_counter())
    then, error = await page.evaluate(CLOCK)
    other = ben.clock.server_ms(time.perf_counter())
    assert one is not None
    assert other is not None
    return (one, then, other), error + min(ben.clock._found)[0] / 2 * 1000


@pytest.fixture(scope="module", params=["the page calls", "Python calls"])
def a_call(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """A call that was measured: in the second one Ben says that he captured each picture 300 ms before he did."""
    ours, folder = request.param == "the page calls", tmp_path_factory.mktemp("log")
    earlier = 0.0 if ours else 0.3

    async def scenario() -> Measured:
        async with ann_and_ben(earlier) as (page, ben):
            return await measured(page, ben, "ours" if ours else "theirs", earlier * 1000, folder)

    found = run(scenario(), SECONDS * 5)
    assert isinstance(found, Measured)
    return found


def summary(delays: list[float]) -> str:
    ordered = sorted(delays)
    return f"p50 {statistics.median(ordered):.1f} ms, p95 {ordered[len(ordered) * 95 // 100]:.1f} ms of {len(ordered)}"


def test_the_page_reads_the_time_code_and_tells_the_delay(a_call: Measured, record_property: Report) -> None:
    shown = a_call.shown
    print(f"Python to page, captured (claimed {a_call.earlier:g} ms earlier) to shown: {summary(shown['delays'])}")
    record_property("python_to_page", summary(shown["delays"]))
    assert shown["size"] == [640, 480]
    readable = [number for number in shown["numbers"] if number is not None]
    assert len(readable) >= 0.9 * len(shown["numbers"])
    assert readable == sorted(readable)
    assert min(shown["delays"]) > a_call.earlier - a_call.error, "what the source says counts; nothing comes early"
    assert max(shown["delays"]) < a_call.earlier + a_call.lasted + a_call.error, "nothing is older than the call"
    assert "ms from captured to shown" in a_call.words


def test_python_reads_the_pages_time_code_and_has_its_delay(a_call: Measured, record_property: Report) -> None:
    print("page to Python, captured to decoded:", summary(a_call.decoded))
    record_property("page_to_python", summary(a_call.decoded))
    assert min(a_call.decoded) > -a_call.error
    assert max(a_call.decoded) < a_call.lasted + a_call.error, "nothing is older than the call"


def test_two_clocks_agree_within_their_error(a_call: Measured) -> None:
    before, then, after = a_call.clocks
    print(f"the clocks agree to {a_call.error:.2f} ms")
    assert before - a_call.error <= then <= after + a_call.error


def test_both_ends_events_are_on_one_clock_and_what_is_received_was_sent(a_call: Measured) -> None:
    times: dict[tuple[str, str], list[float]] = {}
    for end, ms, _, what, _ in a_call.rows:
        times.setdefault((end, what), []).append(float(ms))
    for kind in ("call", "accept", "offer", "answer", "candidate", "end-of-candidates"):
        for sender, receiver in (("ours", "theirs"), ("theirs", "ours")):
            sent = times.get((sender, f"send {kind}"), [])
            received = times.get((receiver, f"receive {kind}")) or times.get((receiver, f"hear {kind}"), [])
            assert len(sent) == len(received), (kind, sender)
            late = [one - other for one, other in zip(sent, received, strict=True)]
            assert all(one <= a_call.error + 0.1 for one in late), (kind, sender, a_call.error)
    offering, answering = ("ours", "theirs") if a_call.offering == "ours" else ("theirs", "ours")
    assert {(offering, "send offer"), (answering, "send answer"), (offering, "receive answer")} <= set(times)
    assert [float(row[1]) for row in a_call.rows] == sorted(float(row[1]) for row in a_call.rows)

"""The page as a teacher: its pictures carry numbers that Python reads, and what it shows of a call is what happened."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import base64
import binascii
import functools
import http.server
import shutil
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

sys.path.append(str(Path(loopback.__file__).resolve().parent / "notebooks"))
from phone.server import HEADERS, PAGE

MS = 30_000  # to wait for what takes a moment; never a measure
BLANK = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,"><link rel="stylesheet" href="/page/style.css">
<link rel="stylesheet" href="/page/teacher.css"><div id="teacher"></div>"""

# Two ends of a call in one page. `teacher` looks at the first one, `crossed` has what really crossed between the two.
CALL = """
import { testPicture } from "/page/picture.js";

export async function call(teacher, { forge = (sdp) => sdp, other = { event() {}, message() {}, watch() {} } } = {}) {
  const crossed = [], videos = [], pictures = [testPicture(320, 240, 15), testPicture(320, 240, 15)];
  const ends = [teacher, other].map((its, side) => ({ its, who: ["Ann", "Ben"][side], pc: new RTCPeerConnection() }));
  for (const { its, who, pc } of ends) {
    its.event(who, "new RTCPeerConnection");
    its.watch(pc, who);
    pc.addEventListener("track", ({ track }) => {
      const video = Object.assign(document.createElement("video"), { muted: true });
      videos.push(video);
      video.srcObject = new MediaStream([track]);
      video.addEventListener("loadeddata", () => its.event(who, "first picture"), { once: true });
      video.play().catch((error) => error.name === "AbortError" || console.error(error)); // closed before it began
    });
  }
  const pass = (type, from, detail = "") => {
    crossed.push([type, from]);
    ends[from].its.message("send", type, detail);
    ends[1 - from].its.message("receive", type, detail);
  };
  const step = (side, what, ...given) => {
    ends[side].its.event(ends[side].who, what, given[0]?.type ?? given[0]?.kind ?? "");
    return ends[side].pc[what](...given);
  };
  ends.forEach(({ pc }, side) => pc.addEventListener("icecandidate", ({ candidate }) => {
    pass(candidate ? "candidate" : "end-of-candidates", side, candidate?.candidate);
    step(1 - side, "addIceCandidate", candidate);
  }));
  const described = async (side, kind) => {
    const made = await step(side, kind === "offer" ? "createOffer" : "createAnswer");
    await step(side, "setLocalDescription", made);
    pass(kind, side, `${made.sdp.length} bytes`);
    await step(1 - side, "setRemoteDescription", { type: kind, sdp: kind === "answer" ? forge(made.sdp) : made.sdp });
  };
  step(0, "addTrack", pictures[0].track);
  const offered = described(0, "offer");
  await offered;
  step(1, "addTrack", pictures[1].track);
  await described(1, "answer");
  const close = () => {
    for (const [side, { pc }] of ends.entries()) if (pc.signalingState !== "closed") step(side, "close");
    for (const picture of pictures) picture.stop();
    for (const video of videos) video.srcObject = null;
  };
  return { crossed, close, pcs: ends.map(({ pc }) => pc) };
}
"""


class Files(http.server.SimpleHTTPRequestHandler):
    """The page's files, with the headers that the phone's server sends."""

    def do_GET(self) -> None:
        made = {"/": (BLANK, "text/html"), "/call.js": (CALL, "text/javascript")}.get(self.path)
        if made is None:
            self.path = self.path.removeprefix("/page")
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", made[1])
        self.end_headers()
        self.wfile.write(made[0].encode())

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *words: object) -> None: ...


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=PAGE)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    options = ["--no-sandbox", "--disable-dev-shm-usage", "--allow-loopback-in-peer-connection"]
    options += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # for 127.0.0.1 as a candidate
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=options, timeout=MS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Page:
    tab = browser.new_context(permissions=["camera"]).new_page()
    tab.set_default_timeout(MS)
    return tab


@pytest.fixture
def page(tab: Page, address: str) -> Iterator[Page]:
    """An empty page with a place for the teacher. The test fails where a script of it did."""
    errors: list[str] = []
    listeners = {
        "pageerror": lambda error: errors.append(str(error)),
        "console": lambda message: errors.append(message.text) if message.type == "error" else None,
    }
    for event, listener in listeners.items():
        tab.on(event, listener)  # type: ignore[call-overload]
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.goto(address)
    yield tab
    tab.goto("about:blank")
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
    assert errors == []


def evaluate(page: Page, body: str, given: Any = None) -> Any:
    """Run the lines in the page, with all that its modules export; fail when they take longer than MS."""
    modules = "{...await import('/page/picture.js'), ...await import('/page/teacher.js'), ...await import('/call.js')}"
    names = "{ writeTimeCode, readTimeCode, testPicture, watchDelay, Teacher, layersOf, ladderOf, call }"
    late = f"new Promise((_, reject) => setTimeout(() => reject(new Error('it takes too long')), {MS}))"
    lines = f"async () => {{ const {names} = {modules};\n{body}\n}}"
    return page.evaluate(f"(given) => Promise.race([({lines})(), {late}])", given)


# ---- The time code ---------------------------------------------------------------------------------------------------


def pixels(pictures: list[np.ndarray]) -> list[dict[str, Any]]:
    """Return what a page makes ImageData of, for pictures with the colours blue, green, red."""
    turned = [(picture.shape, cv2.cvtColor(picture, cv2.COLOR_BGR2RGBA)) for picture in pictures]
    return [{"width": s[1], "height": s[0], "data": base64.b64encode(rgba.tobytes()).decode()} for s, rgba in turned]


READ = """
const image = ({ width, height, data }) =>
  new ImageData(Uint8ClampedArray.from(atob(data), (letter) => letter.charCodeAt(0)), width, height);
return given.map((one) => readTimeCode(image(one)));
"""


def test_the_page_reads_what_python_wrote(page: Page) -> None:
    noise = np.random.default_rng(1)
    numbers = [0, 1, 255, 256, 32767, 32768, 65534, 65535, *noise.integers(0, 65536, 30).tolist()]
    pictures = [noise.integers(0, 256, (24, 136, 3), dtype=np.uint8) for _ in numbers]
    for picture, number in zip(pictures, numbers, strict=True):
        loopback.write_time_code(picture, number)
    blurred = [cv2.GaussianBlur(picture, (5, 5), 0) for picture in pictures]
    faint = [
        np.where(picture > 127, np.uint8(128), np.uint8(127)) for picture in pictures
    ]  # on either side of the line
    assert [loopback.read_time_code(picture) for picture in blurred + faint] == numbers * 2
    assert evaluate(page, READ, pixels(pictures + blurred + faint)) == numbers * 3


def test_what_is_unreadable_is_null_as_in_python(page: Page) -> None:
    noise = np.random.default_rng(2)
    code = np.zeros((40, 140, 3), np.uint8)
    loopback.write_time_code(code, 12345)
    flipped = code.copy()
    flipped[4:12, 4:12] = 255 - flipped[4:12, 4:12]  # one cell
    pictures = [
        *(np.full((40, 140, 3), shade, np.uint8) for shade in (0, 127, 255)),
        *(noise.integers(0, 256, (40, 140, 3), dtype=np.uint8) for _ in range(20)),
        *(flipped, np.roll(code, 4, 1), np.roll(code, 4, 0), cv2.resize(code, (280, 80)), 255 - code),
        *(code[:19], code[:, :131]),  # too small
    ]
    assert [loopback.read_time_code(picture) for picture in pictures] == [None] * len(pictures)
    assert evaluate(page, READ, pixels(pictures)) == [None] * len(pictures)


def test_python_reads_what_the_page_wrote(page: Page) -> None:
    numbers = [0, 1, 255, 256, 4660, 32768, 65535]
    written = evaluate(
        page,
        """
        const canvas = Object.assign(document.createElement("canvas"), { width: 160, height: 40 });
        return given.map((number) => {
          writeTimeCode(canvas.getContext("2d"), number);
          return canvas.toDataURL("image/png").split(",")[1];
        });""",
        numbers,
    )
    pictures = [cv2.imdecode(np.frombuffer(base64.b64decode(png), np.uint8), cv2.IMREAD_COLOR) for png in written]
    assert [loopback.read_time_code(picture) for picture in pictures] == numbers
    for picture, number in zip(pictures, numbers, strict=True):
        ours = np.zeros_like(picture)
        loopback.write_time_code(ours, number)
        assert np.array_equal(picture, ours), "the same pixels"


def test_every_number_has_the_checksum_that_python_gives_it(page: Page) -> None:
    checks = [binascii.crc_hqx(struct.pack(">H", number), 0xFFFF) for number in range(65536)]
    packed = base64.b64encode(struct.pack("<65536H", *checks)).decode()
    read = evaluate(
        page,
        """
        const image = new ImageData(132, 20); // only the four pixels around a cell's centre are looked at
        const paint = (row, word) => {
          for (let column = 0; column < 16; column++)
            for (const y of [7, 8]) for (const x of [7, 8])
              image.data[((y + row * 8) * 132 + x + column * 8) * 4 + 1] = (word >> (15 - column)) & 1 ? 255 : 0;
        };
        const checks = new Uint16Array(Uint8Array.from(atob(given), (letter) => letter.charCodeAt(0)).buffer);
        const wrong = [];
        for (const [number, check] of checks.entries()) {
          paint(0, number);
          paint(1, check);
          if (readTimeCode(image) !== number) wrong.push(number);
          paint(1, check ^ (1 << number % 16));
          if (readTimeCode(image) !== null) wrong.push(number);
        }
        return wrong;""",
        packed,
    )
    assert read == []


# ---- The test picture and the delay ----------------------------------------------------------------------------------


def test_the_test_picture_moves_and_its_numbers_count_up(page: Page, tmp_path: Path) -> None:
    seen = evaluate(
        page,
        """
        const picture = testPicture(320, 240, 20), told = [], read = [], moved = [];
        picture.onNumber = (number, at) => told.push([number, at, performance.now()]);
        const video = Object.assign(document.createElement("video"), { muted: true });
        video.srcObject = new MediaStream([picture.track]);
        await video.play();
        const canvas = Object.assign(document.createElement("canvas"), { width: 320, height: 240 });
        const pen = canvas.getContext("2d", { willReadFrequently: true });
        let before = null;
        while (read.length < 20) {
          await new Promise((resolve) => video.requestVideoFrameCallback(resolve));
          pen.drawImage(video, 0, 0);
          const image = pen.getImageData(0, 0, 320, 240);
          read.push(readTimeCode(image));
          const below = image.data.subarray(320 * 30 * 4); // the time code is above
          if (before) moved.push(below.filter((value, place) => Math.abs(value - before[place]) > 8).length);
          before = below;
        }
        const png = canvas.toDataURL("image/png").split(",")[1];
        picture.stop();
        const atStop = told.length;
        const another = testPicture(320, 240, 20); // while it makes some, the first one would, too
        await new Promise((resolve) => (another.onNumber = (number) => number > 5 && resolve()));
        another.stop();
        return { told, read, moved, png, later: told.length - atStop, ended: picture.track.readyState };""",
    )
    (tmp_path / "test_picture.png").write_bytes(base64.b64decode(seen["png"]))
    numbers = [number for number, _, _ in seen["told"]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    times = [at for _, at, _ in seen["told"]]
    assert times == sorted(set(times))
    assert all(at <= told for _, at, told in seen["told"])
    assert None not in seen["read"], "what arrives in a <video> can be read"
    assert seen["read"] == sorted(seen["read"])
    assert len(set(seen["read"])) > 10
    moved = [
        count for count, one, two in zip(seen["moved"], seen["read"], seen["read"][1:], strict=False) if one != two
    ]
    assert min(moved) > 1000, "each picture differs from the one before in more than its number"
    assert (seen["later"], seen["ended"]) == (0, "ended")


# The clock is the test's own: it stands at 250 ms after a picture was drawn until that is seen. So the delay is known.
STEPPED = """
const canvas = Object.assign(document.createElement("canvas"), { width: 160, height: 40 });
const pen = canvas.getContext("2d");
const video = Object.assign(document.createElement("video"), { muted: true });
let clock = 0;
const captured = new Map(), delays = [];
const draw = (number) => {
  clock += 1000;
  const at = clock;
  writeTimeCode(pen, number);
  clock += 250;
  return at;
};
draw(given.numbers[0]);
video.srcObject = canvas.captureStream();
await video.play();
const options = { capturedAt: (number) => captured.get(number), now: () => clock, onDelay: (ms) => delays.push(ms) };
const stop = watchDelay(video, options);
const known = [];
for (const number of given.numbers) {
  const at = draw(number), had = delays.length;
  if (given.atOnce) captured.set(number, at);
  else known.push([number, at]);
  let seen = false;
  const probe = Object.assign(document.createElement("canvas"), { width: 160, height: 40 }).getContext("2d");
  while (!seen) { // until the video shows it, and watchDelay had its turn
    await new Promise((resolve) => requestAnimationFrame(resolve));
    probe.drawImage(video, 0, 0);
    seen = readTimeCode(probe.getImageData(0, 0, 160, 40)) === number && (!given.atOnce || delays.length > had);
    pen.fillRect(150, 30, 1, 1); // a canvas that does not change makes no picture
  }
  for (let frame = 0; frame < 5; frame++) await new Promise((resolve) => requestAnimationFrame(resolve));
}
const before = delays.length;
known.forEach((one) => captured.set(...one));
clock += 5000; // that the time of capture comes late is no delay
for (let waited = 0; delays.length < given.numbers.length && waited < 1000; waited++) {
  pen.fillRect(150, 30, 1, 1);
  await new Promise((resolve) => requestAnimationFrame(resolve));
}
stop();
draw(given.numbers[0]);
for (let frame = 0; frame < 20; frame++) await new Promise((resolve) => requestAnimationFrame(resolve));
video.srcObject.getTracks().forEach((track) => track.stop());
return { before, delays };
"""


@pytest.mark.parametrize("by_frame", [True, False], ids=["requestVideoFrameCallback", "requestAnimationFrame"])
def test_a_known_delay_is_measured(page: Page, by_frame: bool) -> None:
    if not by_frame:
        page.evaluate("delete HTMLVideoElement.prototype.requestVideoFrameCallback")
    numbers = [5, 6, 7, 65535, 0, 1]
    measured = evaluate(page, STEPPED, {"numbers": numbers, "atOnce": True})
    assert measured["delays"] == [250] * len(numbers)


def test_when_a_picture_was_captured_may_be_known_later(page: Page) -> None:
    measured = evaluate(page, STEPPED, {"numbers": [5, 6, 7], "atOnce": False})
    assert measured == {"before": 0, "delays": [250, 250, 250]}


def test_a_delay_lies_between_capture_and_now(page: Page) -> None:
    found = evaluate(
        page,
        """
        const picture = testPicture(320, 240, 20), captured = new Map(), found = [];
        picture.onNumber = (number, at) => captured.set(number, at);
        const video = Object.assign(document.createElement("video"), { muted: true });
        video.srcObject = new MediaStream([picture.track]);
        await video.play();
        const now = () => performance.now();
        await new Promise((resolve) => {
          const oldest = [...captured.values()][0];
          const onDelay = (ms) => found.push([ms, now() - oldest]) === 15 && resolve(stop());
          const stop = watchDelay(video, { capturedAt: (number) => captured.get(number), now, onDelay });
        });
        picture.stop();
        return found;""",
    )
    assert all(0 < delay <= longest for delay, longest in found)


# ---- The teacher -----------------------------------------------------------------------------------------------------

NOW = "const now = () => performance.now(); const root = document.getElementById('teacher');"
SHOWN = """
const settled = () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
const until = async (holds) => { while (!holds()) await settled(); await settled(); };
const all = (places) => [...root.querySelectorAll(places)];
const texts = (places) => all(places).map((node) => node.textContent);
const states = (place = ".ours") =>
  Object.fromEntries(all(`${place} .layer`).map(({ dataset }) => [dataset.layer, dataset.state]));
const allDone = (place) => Object.values(states(place)).every((state) => state === "done");
const arrows = () => all("g.message").map(({ dataset }) => [dataset.type, Number(dataset.from)]);
const rows = (kind = "tr") => all(`tbody ${kind}`).map((row) => [...row.cells].map((cell) => cell.textContent));
const said = (node) => node.getAttribute("aria-label");
"""
LAYERS = ("signalling", "ICE", "DTLS", "SRTP", "picture")
DONE = dict.fromkeys(LAYERS, "done")


def test_the_ladder_has_the_messages_that_crossed_and_the_layers_get_done(page: Page) -> None:
    seen = evaluate(
        page,
        NOW
        + SHOWN
        + """
        const teacher = new Teacher(root, now);
        await settled();
        const atFirst = { ...states(), name: root.querySelector(".ours b").textContent };
        const { crossed, close, pcs } = await call(teacher);
        await until(() => allDone() && crossed.filter(([type]) => type === "end-of-candidates").length === 2);
        const seen = { atFirst, crossed, arrows: arrows(), states: states(), rows: rows(), events: teacher.events,
          steps: all(".step").map((step) => step.firstChild?.textContent).filter(Boolean),
          ladder: said(root.querySelector("svg")), strip: said(root.querySelector(".ours .strip")) };
        pcs[0].getReceivers()[0].track.dispatchEvent(new Event("unmute"));
        const error = { url: "stun:127.0.0.1:1", errorCode: 701, errorText: "STUN server does not answer" };
        pcs[0].dispatchEvent(new RTCPeerConnectionIceErrorEvent("icecandidateerror", error));
        seen.told = teacher.events.slice(seen.events.length).map(({ what, detail }) => [what, detail]);
        close();
        await settled();
        return { ...seen, atEnd: states() };""",
    )
    assert seen["atFirst"] == {**dict.fromkeys(LAYERS, ""), "name": "this page"}
    assert sorted(seen["arrows"]) == sorted(seen["crossed"]), "each one that crossed, and nothing else"
    offers = [arrow for arrow in seen["arrows"] if arrow[0] in ("offer", "answer")]
    assert offers == [["offer", 0], ["answer", 1]]
    assert {"candidate", "end-of-candidates"} <= {kind for kind, _ in seen["arrows"]}
    assert seen["states"] == DONE
    steps = [step for step in seen["steps"] if step not in ("addIceCandidate", "track", "connected", "first picture")]
    made = ["addTrack", "createOffer", "setLocalDescription", "setRemoteDescription"]
    assert steps == ["new RTCPeerConnection", *made]
    words = {(who, what): detail for _, who, what, detail in seen["rows"]}
    assert words["Ann", "dtlsState"] == words["Ann", "connectionState"] == "→ connected"
    assert " ↔ " in words["Ann", "connected"]
    assert words["Ann", "first packets"] == "video"
    assert [event["what"] for event in seen["events"]] == [what for _, _, what, _ in seen["rows"]]
    assert "Between Ann (this page) and the other side" in seen["ladder"]
    assert "offer sent" in seen["ladder"]
    assert "answer received" in seen["ladder"]
    assert "DTLS done (RTCDtlsTransport.state connected" in seen["strip"]
    assert seen["told"] == [["icecandidateerror", "stun:127.0.0.1:1: 701 STUN server does not answer"]]
    assert seen["atEnd"] == dict.fromkeys(LAYERS, ""), "closed: nothing is up any more"


def test_with_the_other_ends_log_each_message_has_two_ends_and_a_second_strip(page: Page) -> None:
    seen = evaluate(
        page,
        NOW
        + SHOWN
        + """
        const teacher = new Teacher(root, now), other = new Teacher(document.createElement("div"), now);
        teacher.other = "Ben";
        const { close } = await call(teacher, { other });
        await until(allDone);
        await until(() => other.events.some(({ what }) => what === "first picture"));
        teacher.theirs(other.events);
        await until(() => root.querySelector(".theirs .layer"));
        const height = (line, end) => Number(line.getAttribute(end));
        const found = { both: [states(".ours"), states(".theirs")], names: texts(".names b"),
          own: teacher.events.length, theirs: rows("tr.theirs").length, sent: other.events.length,
          underWay: all(".under-way").length,
          falls: all("g.message line").map((line) => height(line, "y2") - height(line, "y1")),
          times: rows().map(([ms]) => Number(ms)) };
        close();
        return found;""",
    )
    assert seen["both"] == [DONE, DONE]
    assert seen["names"] == ["Ann (this page)", "Ben"]
    assert seen["theirs"] == seen["sent"]
    assert seen["own"] == len(seen["times"]) - seen["theirs"], "the other's events are not sent back to it"
    assert seen["underWay"] == 0
    assert min(seen["falls"]) > 0, "a message is received below where it was sent"
    assert seen["times"] == sorted(seen["times"])


def test_a_wrong_fingerprint_is_shown_as_failed_dtls_with_the_reason(page: Page) -> None:
    seen = evaluate(
        page,
        NOW
        + SHOWN
        + """
        const forge = (sdp) =>
          sdp.replace(/(?<=a=fingerprint:sha-256 )../g, (first) => (first === "AA" ? "BB" : "AA"));
        const teacher = new Teacher(root, now), { close } = await call(teacher, { forge });
        await until(() => states().DTLS === "failed");
        const found = { states: states(), reason: texts(".reason")[0],
          strip: said(root.querySelector(".ours .strip")) };
        close();
        await settled();
        return { ...found, afterwards: states().DTLS };""",
    )
    assert seen["states"] == {**dict.fromkeys(LAYERS, ""), "signalling": "done", "ICE": "done", "DTLS": "failed"}
    assert seen["reason"].startswith("DTLS failed: the fingerprint")
    assert "DTLS failed (RTCDtlsTransport.state failed" in seen["strip"]
    assert seen["afterwards"] == "failed", "the reason stays after the page has closed the connection"


UP = [("iceGatheringState", "→ complete"), ("signalingState", "→ stable"), ("iceConnectionState", "→ completed")]


@pytest.mark.parametrize(
    ("events", "expected", "reason"),
    [
        ([], ("", "", "", "", ""), None),
        ([("signalingState", "→ have-local-offer")], ("working", "", "", "", ""), None),
        ([("iceGatheringState", "→ gathering")], ("", "working", "", "", ""), None),
        ([("refused answer", "too long")], ("failed", "", "", "", ""), "has refused answer: too long"),
        ([("refused answer", "too long"), *UP[:2]], ("done", "working", "", "", ""), None),
        ([*UP[:2], ("iceConnectionState", "→ failed")], ("done", "failed", "", "", ""), "failed: checks go unanswered"),
        (UP, ("done", "done", "working", "", ""), None),
        ([*UP, ("connectionState", "→ connected")], ("done", "done", "done", "working", ""), None),  # aiortc's log
        ([*UP, ("connectionState", "→ failed")], ("done", "done", "failed", "", ""), "failed: the fingerprint"),
        ([*UP, ("connectionState", "→ connected"), ("first picture", "")], ("done",) * 5, None),
        ([*UP, ("dtlsState", "→ connecting")], ("done", "done", "working", "", ""), None),
        ([*UP, ("dtlsState", "→ connected")], ("done", "done", "done", "working", ""), None),
        (
            [*UP, ("connectionState", "→ connected"), ("dtlsState", "→ closed")],  # by the other side
            ("done", "done", "", "", ""),
            None,
        ),
        (
            [*UP, ("connectionState", "→ connected"), ("first packets", "video")],
            ("done", "done", "done", "done", "working"),
            None,
        ),
        (
            [*UP, ("connectionState", "→ connected"), ("iceConnectionState", "→ disconnected")],
            ("done", "failed", "", "", ""),
            "is disconnected: ",
        ),
        ([*UP, ("connectionState", "→ connected"), ("first picture", ""), ("close", "")], ("",) * 5, None),
    ],
)
def test_what_a_log_tells_of_the_layers(
    page: Page, events: list[tuple[str, str]], expected: tuple[str, ...], reason: str | None
) -> None:
    found = evaluate(page, "return layersOf(given);", [{"what": what, "detail": detail} for what, detail in events])
    assert tuple(layer["state"] for layer in found) == expected
    assert [layer["reason"].startswith(reason or "") for layer in found if layer["state"] == "failed"] == [True] * (
        "failed" in expected
    )


def test_no_message_comes_before_it_is_sent_though_two_clocks_differ(page: Page) -> None:
    ours = [(10.0, "send offer"), (20.0, "receive answer"), (20.1, "setRemoteDescription"), (20.2, "receive ringing")]
    theirs = [(9.6, "receive offer"), (9.7, "setRemoteDescription(offer)"), (19.9, "send answer"), (30.0, "send bye")]
    events = [{"t": t, "what": what, "detail": "", "theirs": False} for t, what in ours]
    events += [{"t": t, "what": what, "detail": "", "theirs": True} for t, what in theirs]
    ladder = evaluate(page, "return ladderOf(given, 0);", sorted(events, key=lambda event: event["t"]))
    arrows = {arrow["type"]: (arrow["from"], arrow["sent"], arrow["received"]) for arrow in ladder["arrows"]}
    assert arrows == {"offer": (0, 0, 1), "answer": (1, 3, 4), "ringing": (1, None, 6), "bye": (1, 7, None)}
    assert [row["t"] for row in ladder["rows"]] == [10.0, 9.6, 9.7, 19.9, 20.0, 20.1, 20.2, 30.0], "no time is changed"


def test_what_call_control_hears_is_received_once(page: Page) -> None:
    ours = [(1, "send call"), (4, "receive ringing"), (5, "hear ringing")]
    theirs = [(2, "hear call"), (3, "send ringing"), (6, "hear call again")]
    events = [{"t": t, "what": what, "detail": "", "theirs": False} for t, what in ours]
    events += [{"t": t, "what": what, "detail": "", "theirs": True} for t, what in theirs]
    ladder = evaluate(page, "return ladderOf(given, 0);", sorted(events, key=lambda event: event["t"]))
    arrows = [(arrow["type"], arrow["from"], arrow["sent"], arrow["received"]) for arrow in ladder["arrows"]]
    assert arrows == [("call", 0, 0, 1), ("ringing", 1, 2, 3)]


def test_texts_from_outside_stay_text(page: Page) -> None:
    bad = "<img src=x onerror=document.title='run'><b>"
    found = evaluate(
        page,
        NOW
        + SHOWN
        + """
        const teacher = new Teacher(root, now);
        teacher.other = given;
        teacher.event(given, given, given);
        teacher.message("receive", "offer", given);
        teacher.event(given, "refused offer", given);
        teacher.theirs([{ t: now(), who: given, what: "send answer", detail: given }, { t: 1, who: given, what: given,
          detail: given }]);
        await settled();
        return { foreign: all("img, b b").length, cells: rows().flat(), reason: texts(".reason"),
          names: texts(".names b"), title: document.title };""",
        bad,
    )
    assert found["foreign"] == 0
    assert found["cells"].count(bad) == 12
    assert found["names"] == [f"{bad} (this page)", bad]
    assert bad in found["reason"][0]
    assert found["title"] != "run"


TEXTS = {"who": "Ben", "what": "close", "detail": ""}


@pytest.mark.parametrize(
    "nothing", [None, 5, "text", {}, [None, 5, {}, {"t": "1"}, {"t": "1", **TEXTS}, {"t": None, **TEXTS}]]
)
def test_what_is_no_event_is_left_out(page: Page, nothing: Any) -> None:
    lines = "const t = new Teacher(root, now); t.theirs(given); t.theirs([{ t: 1, who: 'a', what: 5, detail: '' }]);"
    assert evaluate(page, NOW + SHOWN + lines + "await settled(); return rows();", nothing) == []


def test_what_the_other_end_did_in_an_earlier_call_is_left_out(page: Page) -> None:
    found = evaluate(
        page,
        """
        const root = document.getElementById("teacher"), teacher = new Teacher(root, () => 10_000);
        teacher.event("Ann", "receive call");
        const said = (t, what) => ({ t, who: "Ben", what, detail: "" });
        const now = [said(9990, "send call"), said(10_020, "receive offer")];
        teacher.theirs([said(10, "receive offer"), said(8990, "close"), ...now]);
        return [...root.querySelectorAll("tbody tr")].map((row) => [...row.cells].map((cell) => cell.textContent));""",
    )
    assert [row[:3] for row in found] == [
        ["-10.0", "Ben", "send call"],
        ["0.0", "Ann", "receive call"],
        ["20.0", "Ben", "receive offer"],
    ]


def test_a_flood_of_events_is_bounded(page: Page) -> None:
    found = evaluate(
        page,
        NOW
        + SHOWN
        + """
        const teacher = new Teacher(root, now);
        teacher.event("Ann", "createOffer");
        const detail = "x".repeat(900);
        const many = (what) => Array.from({ length: 1500 }, (_, t) => ({ t, who: "Ben", what, detail }));
        teacher.theirs(many("send offer"));
        teacher.theirs(many("receive offer"));
        await settled();
        const ladder = arrows().length, own = teacher.events.length;
        for (let times = 0; times < 2100; times++) teacher.event("Ann", "addTrack", times);
        const longest = Math.max(...rows().map(([, , , detail]) => detail.length)), later = teacher.events;
        const counts = [own, ladder, rows("tr.theirs").length, rows().length, later.length];
        teacher.reset();
        teacher.event("Ann", "createOffer");
        return [...counts, later.at(-1).detail, longest, rows().length];""",
    )
    own, ladder, theirs, rows, own_later, newest, longest, again = found
    assert again == 1
    assert own == 1, "the other end's flood takes nothing of our own log"
    assert ladder <= 400
    assert (theirs, rows, own_later) == (2000, 4000, 2000)
    assert (newest, longest) == ("2099", 300)


def test_twenty_calls_leave_nothing_behind_and_reset_ends_the_watching(page: Page) -> None:
    one_call = (
        NOW
        + SHOWN
        + """
        const teacher = (window.oneTeacher ??= new Teacher(root, now));
        const { close, crossed, pcs } = await call(teacher);
        await until(() => allDone() && crossed.filter(([type]) => type === "end-of-candidates").length === 2);
        teacher.reset();
        await settled();
        const cleared = [rows().length, arrows().length, Object.values(states()).join("")];
        pcs[0].createDataChannel("late");
        pcs[0].dispatchEvent(new Event("signalingstatechange"));
        pcs[0].dispatchEvent(new Event("connectionstatechange"));
        const heard = teacher.events.length;
        close();
        teacher.reset();
        await settled();
        return [...cleared, heard, document.querySelectorAll("*").length];"""
    )
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def counted() -> dict[str, float]:
        session.send("HeapProfiler.collectGarbage")
        metrics = session.send("Performance.getMetrics")["metrics"]
        return {
            metric["name"]: metric["value"] for metric in metrics if metric["name"] in ("Nodes", "JSEventListeners")
        }

    sizes, counts = [], []
    for number in range(20):
        rows, arrows, states, heard, size = evaluate(page, one_call)
        assert (rows, arrows, states, heard) == (0, 0, "", 0)
        sizes.append(size)
        if number in (4, 19):
            counts.append(counted())
    session.detach()
    assert len(set(sizes)) == 1
    assert counts[1]["Nodes"] <= counts[0]["Nodes"] + 20, counts
    assert counts[1]["JSEventListeners"] <= counts[0]["JSEventListeners"] + 20, counts


@pytest.mark.parametrize("width", [1280, 390])
def test_it_can_be_read_on_a_wide_and_a_narrow_screen(page: Page, width: int, tmp_path: Path) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    lines = """
        const teacher = new Teacher(root, now);
        const { close } = await call(teacher);
        await until(allDone);
        close();
        await settled();"""
    evaluate(page, NOW + SHOWN + lines)
    assert page.get_by_role("log", name="log").get_by_role("row").count() > 30
    assert page.get_by_role("img", name="Between Ann (this page) and").is_visible()
    assert page.get_by_role("img", name="Ann (this page): signalling").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    places = "[...document.querySelectorAll('svg text, .layer small')].map((text) => text.getBoundingClientRect())"
    edges = page.evaluate(f"{places}.filter((box) => box.width).flatMap((box) => [box.left, box.right])")
    assert min(edges) >= 0
    assert max(edges) <= width
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.screenshot(path=tmp_path / f"{width}_{scheme}.png", full_page=True)

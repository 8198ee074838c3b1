"""The phone's page and `python notebooks/phone` call each other: what arrives at the far end is what was sent."""

import contextlib
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium_pages import (
    SECONDS,
    Opened,
    call,
    events,
    hears,
    in_state,
    join,
    kill,
    launched,
    moves,
    numbers,
    says,
    seen,
    serving,
)
from conftest import TURN_PASSWORD, TURN_USER, environment, running_coturn, wait_until
from phones import PHONE
from playwright.sync_api import Page, Playwright, expect

pytest_plugins = ["chromium_pages"]  # its fixtures: opened, address, chromium, playwright

HIGH = 880  # Hz; the page's tone has 660


class Python:
    """`python notebooks/phone answer`, or `call NAME`, as a process: typed to, read, ended with a report."""

    def __init__(self, folder: Path, server: str, *command: str) -> None:
        folder.mkdir()
        tone = np.sin(2 * math.pi * HIGH * np.arange(48_000 * 2) / 48_000)  # 2 s, again and again
        with wave.open(str(folder / "tone.wav"), "wb") as file:
            file.setparams((1, 2, 48_000, 0, "NONE", ""))
            file.writeframes((12_000 * tone).astype(np.int16).tobytes())
        self.folder, self.log, self.printed = folder, folder / "log.txt", folder / "report.json"
        options = ["--name", "Python", "--server", server, "--view", "none", "--json", "--size", "320x240"]
        options += ["--sound", str(folder / "tone.wav"), "--save", str(folder)]
        with self.log.open("wb") as log, self.printed.open("wb") as printed:
            self.process = subprocess.Popen(
                [*PHONE, *command, *options],
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=log,
                env=environment(),
            )

    def type(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def says(self, words: str) -> None:
        """Wait until its log has these words."""
        wait_until(lambda: words in self.log.read_text() or self.process.poll() is not None, SECONDS)
        assert words in self.log.read_text(), self.log.read_text()

    def end(self) -> dict[str, Any]:
        """End it as Ctrl-C does; return the measurements of its call."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=SECONDS)
        (found,) = json.loads(self.printed.read_text())["calls"]
        assert isinstance(found, dict)
        return found


@contextlib.contextmanager
def python(folder: Path, server: str, *command: str) -> Iterator[Python]:
    program = Python(folder / "python", server, *command)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.communicate()


def call_python(ann: Page) -> None:
    """Call from a page, until it shows Python's pictures."""
    call(ann, "Python")
    in_state(ann, "in call")
    numbers(ann)


def test_a_page_calls_python(opened: Opened, address: str, tmp_path: Path) -> None:
    """Picture, sound, chat, a file and the screen, both ways."""
    with python(tmp_path, address, "answer") as other:
        ann = join(opened(), "Ann", "test", "tone")
        call_python(ann)
        assert seen(ann)["size"] == [320, 240]
        hears(ann, HIGH)
        expect(ann.locator("#delay")).to_have_text(re.compile(r"^\d+ ms from captured to shown$"))

        other.type("Good evening")
        expect(ann.locator("#said li")).to_have_text("Python Good evening")
        ann.fill("#text", "Good evening, Python")
        ann.click("#say")
        other.says("Good evening, Python")

        sent, wanted = tmp_path / "from page.bin", tmp_path / "from python.bin"
        for file in (sent, wanted):
            file.write_bytes(os.urandom(500_000))
        ann.set_input_files("#file", sent)
        expect(ann.locator("#said li").last).to_contain_text("arrived whole")
        assert (other.folder / sent.name).read_bytes() == sent.read_bytes()
        other.type(f"/file {wanted}")
        expect(ann.locator("#said a")).to_have_text(wanted.name)
        with ann.expect_download() as download:
            ann.click("#said a")
        arrived = Path(download.value.path()).read_bytes()
        assert hashlib.sha256(arrived).digest() == hashlib.sha256(wanted.read_bytes()).digest()

        ann.click("#hangUp")
        other.says("close")
        report = other.end()
    assert report["with"] == "Ann"
    assert report["received_size"] == "320x240"
    assert report["pictures"]["received"] > 10
    assert report["pictures"]["without_number"] < 0.1 * report["pictures"]["received"]
    assert report["latency_ms"]["p50"] is not None  # the page told when its pictures were captured
    assert report["sound"]["frequency_hz"] == pytest.approx(660, abs=3)
    assert report["files"] == [sent.name]


def test_python_calls_a_page(opened: Opened, address: str, tmp_path: Path) -> None:
    """Whose camera has no time code, and which shows its screen; it keeps its size all the time."""
    ann = join(opened(whole=True), "Ann", "", "tone")
    with python(tmp_path, address, "call", "Ann") as other:
        says(ann, "Python calls you.")
        ann.click("#accept")
        in_state(ann, "in call")
        numbers(ann)
        hears(ann, HIGH)
        other.says("first picture")
        assert shown(re.findall(r"(\d+)x(\d+) from Ann", other.log.read_text())[0]) == 1.3
        ann.click("#share")
        expect(ann.locator("#share")).to_have_attribute("aria-pressed", "true")
        moves(ann)
        first = wait_until(lambda: frames_of_the_screen(ann), SECONDS)
        wait_until(lambda: frames_of_the_screen(ann) > first + 20, SECONDS)
        other.type("/bye")
        says(ann, "Python hung up.")
        report = other.end()
    assert shown(report["received_size"].split("x")) == 1.8
    assert report["pictures"]["received"] > 10
    assert report["sound"]["frequency_hz"] == pytest.approx(660, abs=3)


def shown(size: Sequence[str]) -> float:
    """Width to height: where a machine is too busy, Chromium sends fewer pixels."""
    width, height = map(int, size)
    return round(width / height, 1)


def frames_of_the_screen(page: Page) -> int:
    """How many pictures the page has encoded, once they have the shape of the browser's fake screen."""
    stats = "async () => [...(await (await import('/page/page.js')).peer.pc.getStats()).values()]"
    found = [one for one in page.evaluate(stats) if one["type"] == "outbound-rtp" and one["kind"] == "video"]
    size = [str(found[0].get(side, 1)) for side in ("frameWidth", "frameHeight")]
    return int(found[0]["framesEncoded"]) if shown(size) == 1.8 else 0


def test_a_relayed_call(opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each datagram goes through a real coturn. The server hands its user and password to both ends, for this call."""
    monkeypatch.setenv("LOOPBACK_ICE_PASSWORD", TURN_PASSWORD)
    with running_coturn(tmp_path) as (turn, _):
        options = ["--ice-server", f"turn:{turn}", "--ice-user", TURN_USER, "--relay-only"]
        with serving(tmp_path, *options) as (address, _), python(tmp_path, address, "answer") as other:
            ann = join(opened(at=address), "Ann", "test", "tone")
            call_python(ann)
            hears(ann, HIGH)
            sent = [event for event in events(ann) if event.startswith("send candidate")]
            assert sent
            assert all(" typ relay" in event for event in sent)
            ann.click("#hangUp")
            in_state(ann, "idle")
            report = other.end()
    assert {report["selected_pair"][side].split()[1] for side in ("local", "remote")} == {"relay"}
    assert report["pictures"]["received"] > report["pictures"]["without_number"]


def test_python_is_killed(opened: Opened, address: str, tmp_path: Path) -> None:
    """The room tells at once."""
    with python(tmp_path, address, "answer") as other:
        ann = join(opened(), "Ann", "test", "silence")
        call_python(ann)
        other.process.kill()
        says(ann, "Python has left.")


def test_python_is_killed_and_there_is_no_server_to_tell(opened: Opened, tmp_path: Path) -> None:
    """Then the browser notices the silence."""
    with serving(tmp_path) as (address, server), python(tmp_path, address, "answer") as other:
        ann = join(opened(at=address), "Ann", "test", "silence")
        call_python(ann)
        server.kill()
        expect(ann.locator("#server")).to_have_text("The server is gone. The call goes on.")
        other.process.kill()
        says(ann, "Nothing comes from Python any more. Waiting")
        ann.evaluate(  # as the browser does some ten seconds later
            """async () => {
                const { pc } = (await import("/page/page.js")).peer;
                Object.defineProperty(pc, "connectionState", { value: "failed" });
                pc.dispatchEvent(new Event("connectionstatechange"));
            }"""
        )
        says(ann, "The connection with Python was lost. You come back in as soon as the server is there.")


@pytest.mark.parametrize("server_dies_first", [False, True])
def test_the_browser_is_killed(opened: Opened, playwright: Playwright, tmp_path: Path, server_dies_first: bool) -> None:
    browser = launched(playwright)
    with serving(tmp_path) as (address, server), python(tmp_path, address, "answer") as other:
        ann = join(opened(at=address, browser=browser), "Ann", "test", "silence")
        call_python(ann)
        if server_dies_first:
            server.kill()
            other.says("server lost")
        kill(browser)
        other.says("the other side vanished" if server_dies_first else "hear left")
        other.says("the call with Ann is over")


def test_both_logs_on_one_clock(opened: Opened, address: str, tmp_path: Path) -> None:
    with python(tmp_path, address, "answer"):
        ann = join(opened("?log"), "Ann", "test", "silence")
        call(ann, "Python")
        in_state(ann, "in call")
        rows = "[...document.querySelectorAll('#teacher tr')].slice(1).map(row => row.innerText.split('\\t'))"
        wait_until(lambda: {"createAnswer"} <= {row[2] for row in ann.evaluate(rows) if row[1] == "Python"}, SECONDS)
        times = {(who, what): float(ms) for ms, who, what, *_ in ann.evaluate(rows)}
        order = [
            ("Ann", "send offer"),
            ("Python", "receive offer"),
            ("Python", "send answer"),
            ("Ann", "receive answer"),
        ]
        assert [times[one] for one in order] == sorted(times[one] for one in order)

"""`call` and `answer` of the command line: what a user sees, types and gets."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from conftest import Xvfb, environment, run, wait_until
from phones import PHONE, command_line, serving, until
from test_window import Shown

from loopback import CallError, Picture

sys.path.append(str(Path(loopback.__file__).resolve().parent / "notebooks"))
from phone import person as module
from phone.control import Room
from phone.person import Person
from phone.server import address, started

SMALL = ["--size", "320x240"]


def test_two_programs_call_type_and_record(tmp_path: Path) -> None:
    """As at two terminals: a line is a chat, /file sends a file, /bye hangs up; then what --json and the files say."""
    saved, sent = tmp_path / "saved", tmp_path / "data.bin"
    saved.mkdir()
    sent.write_bytes(b"0123456789" * 5_000)
    options: dict[str, Any] = {"env": environment(), "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with serving() as server:
        common = ["--server", server.url, *SMALL, "--json"]
        answer = subprocess.Popen(
            [*PHONE, "answer", *common, "--save", str(saved), "--view", "none"], stdin=subprocess.DEVNULL, **options
        )
        command = [*PHONE, "call", "Python", *common, "--snapshot", "view.png", "--record", "call.mkv"]
        call = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, **options)
        limit = threading.Timer(90, call.kill)  # then a line that does not come ends the test
        limit.start()
        try:
            assert call.stdin is not None
            assert call.stderr is not None
            lines = []

            def told(words: str) -> None:
                while words not in (line := call.stderr.readline()):
                    assert line, f"it has ended without: {words}"
                    lines.append(line)

            def typed(text: str) -> None:
                call.stdin.write(text)
                call.stdin.flush()

            told("Type a line")
            typed(f"hello é\n/file {sent}\n")
            told("file sent")
            typed("/file missing\n")
            told("not sent: missing cannot be read")
            wait_until(lambda: (tmp_path / "call.mkv").stat().st_size > 100_000)  # it is written as the call goes on
            out, err = call.communicate("/bye\n", timeout=60)
            assert call.returncode == 0, err
        finally:
            limit.cancel()
            call.kill()
            answer.terminate()
            answered, chatted = answer.communicate(timeout=60)
    assert answer.returncode == 143
    ours, theirs = json.loads(out), json.loads(answered)
    assert ("error" in ours, "error" in theirs) == (False, False)
    (one,), (other,) = ours["calls"], theirs["calls"]
    assert (one["with"], other["with"]) == ("Python", "Caller")
    assert other["chats"] == ["hello é"]
    assert other["files"] == ["data.bin"]
    assert (saved / "data.bin").read_bytes() == sent.read_bytes()
    assert "Caller: hello é" in chatted
    for report in (one, other):
        assert report["received_size"] == "320x240"
        assert report["pictures"]["received"] > 0
        assert report["pictures"]["without_number"] == 0
        assert report["sound"]["blocks_received"] > 0
    assert any("no display" in line for line in lines)
    assert cv2.imread(str(tmp_path / "view.png")).any()
    with av.open(str(tmp_path / "call.mkv")) as file:
        assert [stream.codec.name for stream in file.streams] == ["h264", "opus"]
        assert sum(1 for _ in file.decode(video=0)) > 3


# ---- In this process -------------------------------------------------------------------------------------------------


class Hand:
    """In place of a window: gives keys and clicks, keeps what is shown."""

    size = (1280, 630)

    def __init__(self) -> None:
        self.keys: deque[str | None] = deque()
        self.clicks: deque[tuple[int, int]] = deque()
        self.shown: Picture | None = None

    def show(self, canvas: Picture | None) -> str | None:
        self.shown = self.shown if canvas is None else canvas
        return self.keys.popleft() if self.keys else ""


@contextlib.asynccontextmanager
async def calling(
    monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> AsyncIterator[tuple[Person, Person, Hand, asyncio.Task[None]]]:
    """Give who calls and who answers, the caller's window, and the caller's run."""
    hand = Hand()
    monkeypatch.setattr(module, "Window", lambda: hand)
    monkeypatch.setattr(module.cv2, "destroyAllWindows", lambda: None)
    monkeypatch.setattr(Person, "_read_lines", lambda person: None)
    runner = await started(Room(5), "127.0.0.1", 0)
    parse = command_line().parse
    server = ["--server", address(runner), *SMALL]
    answerer = Person(parse(["answer", *server, "--view", "none"]))
    caller = Person(parse(["call", "Python", *server, *arguments]))
    tasks = [asyncio.create_task(person.run()) for person in (answerer, caller)]
    try:
        yield caller, answerer, hand, tasks[1]
    finally:
        await loopback.cancelled(*tasks)
        await runner.cleanup()


async def talking(person: Person) -> None:
    await until(lambda: person.end.conversation and person.end.conversation.arrivals.received)


def test_the_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with calling(monkeypatch, "--snapshot", str(tmp_path / "view.png")) as (caller, answerer, hand, running):
            await talking(caller)
            await talking(answerer)
            conversation, far = caller.end.conversation, answerer.end.conversation
            assert conversation is not None
            assert far is not None
            hand.keys.append("v")
            await until(lambda: conversation.track.muted)
            await until(lambda: far.peer.picture is not None and far.peer.picture[40:].mean() < 30)  # black arrives
            hand.keys.extend("vm")
            await until(lambda: conversation.sound and conversation.sound.muted)
            await until(lambda: far.meter.levels[1] < -60)
            x, y = caller.view.areas["keys"][:2]
            start, end, _ = next(button for button in caller.view.buttons if button[2] == "g")
            hand.clicks.append((x + (start + end) // 2, y + 5))
            await until(lambda: caller.view.grey)
            hand.keys.append("s")
            await until(lambda: (tmp_path / "view.png").exists())
            hand.keys.append("h")
            await asyncio.wait_for(running, 20)
            await until(lambda: answerer.reports)
            assert str(answerer.end.phone) == "Python: idle (bye)"
            assert len(caller.reports) == 1

    run(scenario(), 60)


@pytest.mark.parametrize("key", ["q", "\x1b", None])
def test_closing_the_window_hangs_up_and_leaves(monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    async def scenario() -> None:
        async with calling(monkeypatch) as (caller, answerer, hand, running):
            await talking(caller)
            await talking(answerer)
            hand.keys.append(key)
            await asyncio.wait_for(running, 20)
            await until(lambda: answerer.reports)
            assert answerer.end.phone.people == []

    run(scenario(), 60)


def test_what_is_shown_is_what_is_sent_beside_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with calling(monkeypatch) as (caller, _, hand, _):
            await talking(caller)
            caller.press("v")  # ours is black, so that the two sides can be told apart
            conversation = caller.end.conversation
            assert conversation is not None
            await until(lambda: conversation.track.picture is not None and not conversation.track.picture[40:].any())

            def sides() -> tuple[float, float]:
                assert hand.shown is not None
                frame = np.empty((240, 320, 3), np.uint8)
                found = [caller.view.place(side, frame) for side in (0, 1)]
                ours, theirs = (hand.shown[y + high // 2 : y + high, x : x + wide].mean() for x, y, wide, high in found)
                return float(ours), float(theirs)

            await until(lambda: sides()[0] < 5 < 40 < sides()[1])

    run(scenario(), 60)


def test_a_call_ends_after_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with calling(monkeypatch, "--seconds", "0.5", "--view", "none") as (caller, _, _, running):
            await asyncio.wait_for(running, 40)
            assert caller.reports[0]["with"] == "Python"

    run(scenario(), 60)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--save", "missing"], "missing is no folder"),
        (["--source", "missing.mp4"], "missing.mp4 cannot be read"),
        (["--sound", "missing.wav"], "missing.wav cannot be read"),
        (["--snapshot", "missing/view.png"], "cannot be written"),
        (["--record", "missing/call.mkv"], "cannot be written"),
    ],
)
def test_what_cannot_be_opened_is_told(monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str) -> None:
    async def scenario() -> None:
        async with calling(monkeypatch, "--view", "none", *arguments) as (_, _, _, running):
            with pytest.raises(CallError, match=words):
                await asyncio.wait_for(running, 30)

    run(scenario(), 60)


def test_a_source_is_not_overwritten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    film = tmp_path / "film.mkv"
    film.write_bytes(b"precious")

    async def scenario() -> None:
        async with calling(monkeypatch, "--source", str(film), "--record", str(film)) as (_, _, _, running):
            with pytest.raises(CallError, match="is the source"):
                await asyncio.wait_for(running, 30)

    run(scenario(), 60)
    assert film.read_bytes() == b"precious"


# ---- On a display ----------------------------------------------------------------------------------------------------


class PhoneShown(Shown):
    """`python notebooks/phone call` with its window on a virtual display."""

    program = (*PHONE, "call", "Python")


def test_the_window_shows_both_pictures_and_takes_keys(xvfb: Xvfb, tmp_path: Path) -> None:
    with serving() as server, contextlib.ExitStack() as stack:
        command = [*PHONE, "answer", "--server", server.url, *SMALL, "--view", "none", "--source", "night"]
        answer = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        stack.callback(answer.wait, 20)
        stack.callback(answer.terminate)
        shown = PhoneShown(xvfb, tmp_path, SMALL[1], "--server", server.url)
        stack.callback(shown.close)
        shown.reach(10)
        day, night = shown.pictures()
        assert day.mean() > night.mean() + 20, "what is sent is on the left, what came on the right"
        shown.press("q")
        assert shown.process.wait(timeout=20) == 0, shown.err
        assert shown.err == ""

"""The data channel "talk": what is said is told, what cannot be used is refused, a file is whole or not there."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import run

from loopback import CallError, Log

sys.path.append(str(Path(loopback.__file__).resolve().parent / "notebooks"))
from phone import talk as module
from phone.talk import CHUNK, LONGEST_CHAT, Talk


class Channel:
    """A data channel that keeps what is sent, or hands it to the other end."""

    label, readyState, bufferedAmount = "talk", "open", 0  # noqa: N815 - the standard's names

    def __init__(self) -> None:
        self.sent: list[str | bytes] = []
        self.to: Talk | None = None

    def on(self, event: str, handler: Callable[..., object]) -> None:
        """Nothing happens by itself here."""

    def send(self, data: str | bytes) -> None:
        self.sent.append(data)
        if self.to:
            asyncio.get_running_loop().call_soon(self.to.take, data)


class Clock:
    """The server's is 5 s ahead."""

    def server_ms(self, t: float) -> float | None:
        return (t + 5) * 1000

    def local(self, ms: float) -> float | None:
        return ms / 1000 - 5


def end(save: Path | None = None) -> tuple[Talk, Channel, Log]:
    log, channel = Log(), Channel()
    talk = Talk("Ann", log, Clock(), save)
    talk.use(channel)  # type: ignore[arg-type]
    return talk, channel, log


def pair(save: Path | None) -> tuple[Talk, Talk]:
    """Return Ann, and Ben who saves files there."""
    (ann, to_ben, _), (ben, to_ann, _) = end(), end(save)
    to_ben.to, to_ann.to = ben, ann
    return ann, ben


def refused(log: Log) -> list[str]:
    return [event.what for event in log.events if event.what.startswith("refused")]


# ---- Chat ------------------------------------------------------------------------------------------------------------


def test_a_chat_is_kept_as_it_is_and_told_so_that_it_cannot_steer_a_terminal() -> None:
    talk, _, log = end()
    told: list[str] = []
    talk.on_chat = told.append
    for text in ("hello", "<b>bold</b>", "\x1b[2J\n", "x" * LONGEST_CHAT):
        talk.take(json.dumps({"type": "chat", "text": text}))
    assert [*talk.chats] == ["hello", "<b>bold</b>", "\x1b[2J\n", "x" * LONGEST_CHAT]
    assert told == ["hello", "<b>bold</b>", "\\x1b[2J\\n", "x" * LONGEST_CHAT]
    assert refused(log) == []


def test_a_chat_has_a_length() -> None:
    talk, channel, log = end()
    talk.chat("x" * LONGEST_CHAT)
    for text in ("", "x" * (LONGEST_CHAT + 1)):
        with pytest.raises(CallError, match="1 to 2000 letters"):
            talk.chat(text)
    talk.take(json.dumps({"type": "chat", "text": "x" * (LONGEST_CHAT + 1)}))
    assert (len(channel.sent), [*talk.chats], refused(log)) == (1, [], ["refused chat"])


def test_without_an_open_channel_nothing_can_be_said() -> None:
    talk = Talk("Ann", Log(), Clock())
    with pytest.raises(CallError, match="not open"):
        talk.chat("hello")
    talk, channel, _ = end()
    channel.readyState = "closing"
    with pytest.raises(CallError, match="not open"):
        talk.chat("hello")
    talk.take(b"late")  # must not raise, within aiortc


def test_the_first_channel_of_the_name_counts() -> None:
    talk, channel, log = end()
    other = Channel()
    talk.use(other)  # type: ignore[arg-type]
    assert talk.channel is channel
    stranger = Talk("Ann", Log(), Clock())
    other.label = "spy"
    stranger.use(other)  # type: ignore[arg-type]
    assert stranger.channel is None
    assert refused(log) == ["refused datachannel"]


WRONG: list[tuple[str | bytes, str]] = [
    ("{", "refused message"),
    ("[]", "refused message"),
    ('{"type": "dance"}', "refused message"),
    ('{"type": "chat"}', "refused message"),
    ("[" * 70_000, "refused message"),
    (b"bytes", "refused chunk"),
    ('{"type": "file-end"}', "refused file-end"),
    ('{"type": "file-ok", "sha256": ""}', "refused file-ok"),
    ('{"type": "file-bad"}', "refused file-bad"),
    ('{"type": "events", "events": []}', "refused events"),
    ('{"type": "captured"}', "refused captured"),
    ('{"type": "captured", "times": [[1]]}', "refused captured"),
    ('{"type": "captured", "times": [["a", "b"]]}', "refused captured"),
    ('{"type": "captured", "times": 7}', "refused captured"),
    ('{"type": "captured", "times": [[1e400, 1]]}', "refused captured"),
    *((json.dumps({"type": "file", "name": "a", "size": size, "sha256": ""}), "refused file") for size in (
        -1, 100_000_001, "7", None, 1.5)),
]  # fmt: skip


@pytest.mark.parametrize(("data", "words"), WRONG, ids=lambda value: ascii(value)[:40])
def test_what_cannot_be_used_is_refused_by_its_name(data: str | bytes, words: str, tmp_path: Path) -> None:
    talk, _, log = end(tmp_path)
    talk.take(data)
    assert refused(log) == [words]
    talk.take('{"type": "chat", "text": "still here"}')
    assert [*talk.chats] == ["still here"]
    assert [*tmp_path.iterdir()] == []


# ---- Files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK, 3 * CHUNK + 5])
def test_a_file_arrives_whole(size: int, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    file = tmp_path / "data.tar.gz"
    file.write_bytes(os.urandom(size))

    async def scenario() -> None:
        ann, ben = pair(saved)
        done: list[tuple[str, int, int]] = []
        ben.on_progress = lambda *step: done.append(step)
        for name in ("data.tar.gz", "data (2).tar.gz"):
            assert await ann.send_file(file)
            assert (saved / name).read_bytes() == file.read_bytes()
        assert sorted(path.name for path in saved.iterdir()) == ["data (2).tar.gz", "data.tar.gz"]
        assert ben.files == [saved / "data.tar.gz", saved / "data (2).tar.gz"]
        assert not size or done[-1] == ("data.tar.gz", size, size)

    run(scenario())


def test_a_file_that_is_not_wanted_is_not_sent_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(bytes(20_000_000))

    async def scenario() -> None:
        ann, ben = pair(None)
        channel = ann.channel
        assert isinstance(channel, Channel)
        channel.bufferedAmount = module.MOST_UNSENT + 1

        async def read_some() -> None:
            await asyncio.sleep(0.05)
            channel.bufferedAmount = 0

        (arrived, _) = await asyncio.gather(ann.send_file(file), read_some())
        assert not arrived
        assert len(channel.sent) < 20
        assert refused(ben.log) == ["refused file"], "and what was under way is no news"
        assert await ann.send_file(tmp_path / "large") is False
        with pytest.raises(CallError, match="cannot be read"):
            await ann.send_file(tmp_path / "missing")
        with pytest.raises(CallError, match="cannot be read"):
            await ann.send_file(tmp_path)

    run(scenario())


NAMES = [
    ("../../escape.txt", "escape.txt"),
    ("/etc/passwd", "passwd"),
    ("C:\\Windows\\win.ini", "win.ini"),
    (".bashrc", "bashrc"),
    ("..", "file"),
    ("", "file"),
    ("a\0b\n", "a_x00b_n"),
    ("C:x", "C_x"),
    ("n" * 300, loopback.printable("n" * 300, 100)),
]


@pytest.mark.parametrize(("name", "kept"), NAMES)
def test_a_file_stays_in_its_folder_whatever_its_name(name: str, kept: str, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    talk, channel, _ = end(saved)
    data = b"some bytes"
    announced = {"type": "file", "name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    for message in (json.dumps(announced), data, '{"type": "file-end"}'):
        talk.take(message)
    assert json.loads(str(channel.sent[-1]))["type"] == "file-ok"
    assert [path.name for path in saved.iterdir()] == [kept]
    assert [*tmp_path.iterdir()] == [saved]


def announced(data: bytes, **changes: Any) -> str:
    told = {"type": "file", "name": "f", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return json.dumps(told | changes)


@pytest.mark.parametrize(
    "said",
    [
        [announced(b"right"), b"wrong", '{"type": "file-end"}'],
        [announced(b"right"), b"righ", '{"type": "file-end"}'],
        [announced(b"right"), b"right!", b"more", '{"type": "file-end"}'],
        [announced(b"right"), announced(b"other"), b"right", '{"type": "file-end"}'],
    ],
)
def test_a_file_that_is_not_as_announced_is_not_kept(said: list[str | bytes], tmp_path: Path) -> None:
    talk, channel, log = end(tmp_path)
    for message in said:
        talk.take(message)
    assert [json.loads(str(answer)) for answer in channel.sent] == [{"type": "file-bad"}]
    assert len(refused(log)) == 1
    assert [*tmp_path.iterdir()] == []
    for message in (announced(b"right"), b"right", '{"type": "file-end"}'):  # the next one is taken
        talk.take(message)
    assert (tmp_path / "f").read_bytes() == b"right"


def test_a_chat_in_the_middle_of_a_file_does_it_no_harm(tmp_path: Path) -> None:
    talk, _, _ = end(tmp_path)
    for message in (announced(b"right"), b"ri", '{"type": "chat"}', '{"type": "chat", "text": "hi"}', b"ght"):
        talk.take(message)
    talk.take('{"type": "file-end"}')
    assert ((tmp_path / "f").read_bytes(), [*talk.chats]) == (b"right", ["hi"])


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    talk, channel, log = end(tmp_path / "missing")
    talk.take(announced(b"right"))
    assert refused(log) == ["refused file"]
    assert "cannot be written" in log.events[-1].detail
    assert channel.sent == ['{"type": "file-bad"}']


def test_the_end_of_the_call_ends_what_is_under_way(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"x" * 100)
    saved = tmp_path / "saved"
    saved.mkdir()

    async def scenario() -> None:
        talk, _, _ = end(saved)
        talk.take(announced(b"right"))
        talk.take(b"ri")
        sending = asyncio.create_task(talk.send_file(tmp_path / "out"))
        await asyncio.sleep(0.1)
        with pytest.raises(CallError, match="one after the other"):
            await talk.send_file(tmp_path / "out")
        talk.close()
        with pytest.raises(CallError, match="the call ended"):
            await sending
        assert [*saved.iterdir()] == []

    run(scenario())


# ---- Times and logs --------------------------------------------------------------------------------------------------


def test_the_times_of_pictures_are_told_on_the_servers_clock() -> None:
    ann, channel, _ = end()
    ben, _, _ = end()
    told: list[list[tuple[int, float]]] = []
    ben.on_captured = told.append
    ann.send_captured([(7, 1.25), (65535, 2.5)])
    ann.send_captured([])
    (sent,) = channel.sent
    assert json.loads(sent) == {"type": "captured", "times": [[7, 6250.0], [65535, 7500.0]]}
    ben.take(sent)
    assert told == [[(7, 1.25), (65535, 2.5)]]


def test_the_log_is_sent_to_who_asks_for_it_and_once() -> None:
    talk, channel, log = end()
    for number in range(module.EVENTS_AT_ONCE + 20):
        log("Ann", f"event {number}", "\x1b")
    talk.send_events()
    assert channel.sent == []
    talk.take('{"type": "log"}')
    for _ in range(3):
        talk.send_events()
    events = [event for message in channel.sent for event in json.loads(message)["events"]]
    assert [event["what"] for event in events][:2] == ["datachannel", "event 0"]
    assert len(events) == module.EVENTS_AT_ONCE + 21
    assert all(len(message) < 65_536 for message in channel.sent)
    assert events[1]["t"] == pytest.approx((log.start + log.events[1].t + 5) * 1000, abs=0.01)
    log("Ann", "one more")
    talk.send_events()
    assert [event["what"] for event in json.loads(channel.sent[-1])["events"]] == ["one more"]

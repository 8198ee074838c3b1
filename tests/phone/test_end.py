"""Python ends call each other through a real server: picture, sound, chat and files arrive, and every fault is told."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import gc
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiortc.codecs.vpx import Vp8Encoder  # noqa: F401 - loads the codec before threads are counted
from conftest import TURN_PASSWORD, TURN_USER, environment, run, run_at_once, running_coturn
from faults import Keeping
from phones import PHONE, Server, serving, sockets, until

from loopback import CallError, Log, Peer, Picture, SyntheticSource

sys.path.append(str(Path(loopback.__file__).resolve().parent / "notebooks"))
from phone import end as module
from phone.control import PATIENCE, Room
from phone.end import Arrivals, Conversation, End, Line, ServerClock, SignalChannel, with_bit_rate
from phone.server import address, started
from phone.sound import ToneSource

SIZE = (160, 120)


class HigherTone(ToneSource):
    FREQUENCY = 660.0


def person(url: str, name: str, **options: Any) -> End:
    """Return an end with a small picture and time to spare."""
    return End(url, name, **{"source": lambda: SyntheticSource(*SIZE, 30), "deadline": 14.0} | options)


@contextlib.asynccontextmanager
async def two(server: str | Server, **options: dict[str, Any]) -> AsyncIterator[tuple[End, End]]:
    """Give Ann and Ben, who answers, both in the room of a server."""
    url = server if isinstance(server, str) else server.url
    ann, ben = (person(url, name, **options.get(name.lower(), {})) for name in ("Ann", "Ben"))
    ben.answers = True
    async with ann, ben:
        yield ann, ben


@contextlib.asynccontextmanager
async def here(**options: Any) -> AsyncIterator[str]:
    """Give the address of a server in this process."""
    runner = await started(Room(10, **options), "127.0.0.1", 0)
    try:
        yield address(runner)
    finally:
        await runner.cleanup()


async def pictures(*ends: End, more: int = 10) -> None:
    """Wait until each of them has received so many more pictures."""
    goals = [one.conversation.arrivals.received + more for one in ends if one.conversation]
    assert len(goals) == len(ends)

    def reached() -> bool:
        for one in ends:
            one.check()
        return all(one.last.arrivals.received >= goal for one, goal in zip(ends, goals, strict=True) if one.last)

    await until(reached)


def logged(end: End, *starts: str) -> list[str]:
    """Return what an end's log has that begins so."""
    return [event.what for event in end.log.events if event.what.startswith(starts)]


# ---- A call ----------------------------------------------------------------------------------------------------------


def test_picture_sound_chat_and_a_file_reach_the_other_end(tmp_path: Path) -> None:
    """Through the server as a program. The picture is known by its content, the sound by its frequency, the file by its
    hash; each way has its own."""
    file = tmp_path / "holiday é.bin"
    file.write_bytes(os.urandom(300_000))
    saved = tmp_path / "received"
    saved.mkdir()
    sent: dict[str, Keeping] = {}
    seen: dict[str, list[Picture]] = {"Ann": [], "Ben": []}

    def source(name: str) -> Callable[[], Keeping]:
        return lambda: sent.setdefault(name, Keeping(*SIZE, 30, night=name == "Ben"))

    async def scenario(server: Server) -> None:
        options = {
            "ann": {"source": source("Ann")},
            "ben": {"source": source("Ben"), "sound": HigherTone, "save": saved},
        }
        async with two(server, **options) as (ann, ben):
            for one in (ann, ben):
                one.on_begin = partial(keep, seen[one.name])
            await ann.call("Ben")
            await pictures(ann, ben, more=30)
            one, other = ann.conversation, ben.conversation
            assert one is not None
            assert other is not None
            await until(lambda: one.talk.open and other.talk.open)
            one.talk.chat("hello <b>Ben</b>")
            other.talk.chat("\x1b[2J")
            await until(lambda: one.talk.chats and other.talk.chats)
            assert ([*one.talk.chats], [*other.talk.chats]) == (["\x1b[2J"], ["hello <b>Ben</b>"])
            assert await one.talk.send_file(file)
            assert not await other.talk.send_file(file), "Ann takes no files"
            assert [path.name for path in saved.iterdir()] == [file.name]
            assert (
                hashlib.sha256((saved / file.name).read_bytes()).digest() == hashlib.sha256(file.read_bytes()).digest()
            )
            await until(lambda: one.arrivals.delays and other.arrivals.delays)
            await until(lambda: one.meter.frequency == pytest.approx(660, abs=5))  # a busy machine leaves gaps in it
            await until(lambda: other.meter.frequency == pytest.approx(440, abs=5))
            assert (one.arrivals.misread, other.arrivals.misread) == (0, 0)
            await ann.hang_up()
            await until(lambda: ben.conversation is None)
            assert (str(ann.phone), str(ben.phone)) == ("Ann: idle (hang up)", "Ben: idle (bye)")
            report = one.as_dict()
            assert report["pictures"]["received"] == len(seen["Ann"])
            assert 0 < report["setup_ms"]["connected"] < report["setup_ms"]["first_picture"]
            json.dumps(report)
        assert (ann.failure, ben.failure) == ("", "")

    with serving() as server:
        run(scenario(server), 60)
    for receiver, sender in (("Ann", "Ben"), ("Ben", "Ann")):
        check_in_order(seen[receiver], sent[sender].kept)


def keep(seen: list[Picture], conversation: Conversation) -> None:
    """Keep what arrives."""
    take = conversation.peer.on_picture

    def keeping(picture: Picture) -> None:
        seen.append(picture)
        take(picture)

    conversation.peer.on_picture = keeping


def digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def check_in_order(received: list[Picture], sent: list[Picture]) -> None:
    """Fail unless these are pictures that were sent, in that order; a busy receiver may have passed over some."""
    numbers = [loopback.read_time_code(picture) for picture in received]
    assert None not in numbers
    assert numbers == sorted(set(numbers))
    for number, picture in zip(numbers, received, strict=True):
        assert number is not None
        # Not its neighbours: a codec that lags behind keeps parts of the picture before.
        others = [sent[other] for other in range(0, len(sent), len(sent) // 5) if abs(other - number) > 9]
        likeness = [loopback.cv2.PSNR(picture[20:], other[20:]) for other in (sent[number], *others)]
        assert likeness[0] == max(likeness)


def listen(said: list[dict[str, Any]], say: Callable[[str], None], text: str) -> None:
    said.append(json.loads(text))
    say(text)


@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_what_is_offered_and_answered(codec: str) -> None:
    """Video, sound, then the data channel; the codec's line asks a browser for a sharp picture."""

    async def scenario() -> None:
        said: list[dict[str, Any]] = []
        async with (
            here() as url,
            two(url, ann={"codec": codec, "sound": lambda: None}, ben={"codec": codec}) as (ann, ben),
        ):
            for one in (ann, ben):
                one.line.say = partial(listen, said, one.line.say)  # type: ignore[method-assign]
            await ann.call("Ben")
            await pictures(ann, ben)
        texts = [json.loads(message["text"]) for message in said if message["type"] == "signal"]
        offer, answer = (next(text["sdp"] for text in texts if text["type"] == kind) for kind in ("offer", "answer"))
        for sdp in (offer, answer):
            assert [line.split()[0] for line in sdp.splitlines() if line.startswith("m=")] == [
                "m=video",
                "m=audio",
                "m=application",
            ]
            coded = {line.split()[0][9:] for line in sdp.splitlines() if line.endswith(f" {codec}/90000")}
            hinted = {line.split()[0][7:] for line in sdp.splitlines() if line.endswith(module.BIT_RATE)}
            assert coded == hinted != set()
        assert "a=recvonly" in offer
        assert [text["type"] for text in texts].count("end-of-candidates") == 2
        assert "bye" not in [text["type"] for text in texts], "call control says it"

    run(scenario())


def test_a_hint_goes_onto_the_line_that_is_there() -> None:
    sdp = "m=video 9 x 97 98 99\r\na=rtpmap:97 VP8/90000\r\na=rtpmap:98 rtx/90000\r\na=fmtp:98 apt=97\r\n"
    sdp += "a=rtpmap:99 H264/90000\r\na=fmtp:99 packetization-mode=1\r\na=rtpmap:0 PCMU/8000\r\n"
    hinted = json.loads(with_bit_rate(json.dumps({"type": "offer", "sdp": sdp})))["sdp"]
    wanted = sdp.replace("97 VP8/90000\r\n", f"97 VP8/90000\r\na=fmtp:97 {module.BIT_RATE}\r\n")
    assert hinted == wanted.replace("packetization-mode=1", f"packetization-mode=1;{module.BIT_RATE}")
    assert json.loads(with_bit_rate('{"type": "bye"}')) == {"type": "bye"}


@pytest.mark.parametrize(
    ("url", "wanted", "here_only"),
    [
        ("http://127.0.0.1:8080", True, True),
        ("https://localhost", True, True),
        ("http://[::1]:8080/", True, True),
        ("http://127.0.0.1:8080", False, False),
        ("http://192.0.2.7:8080", True, False),
        ("https://localhost.example", True, False),
    ],
)
def test_a_server_elsewhere_means_that_the_other_end_may_be_elsewhere(url: str, wanted: bool, here_only: bool) -> None:
    assert End(url, "Ann", here_only=wanted).here_only is here_only


@pytest.mark.parametrize("missing", ["picture", "sound"])
def test_what_is_not_offered_is_not_answered(missing: str) -> None:
    """A browser may offer sound alone, or a picture alone."""

    async def scenario() -> None:
        async with here() as url, two(url) as (ann, ben):
            ann.on_begin = partial(leave_out, {"picture": "addTrack", "sound": "addTrack(audio)"}[missing])
            await ann.call("Ben")
            one, other = ann.conversation, ben.conversation
            assert one is not None
            assert other is not None
            await until(lambda: one.meter.frequency if missing == "picture" else one.arrivals.received)
            await until(lambda: one.talk.open and other.talk.open)
            assert (one.arrivals.received == 0) == (missing == "picture")
            assert (one.meter.blocks_received == 0) == (missing == "sound")

    run(scenario())


def leave_out(what: str, conversation: Conversation) -> None:
    conversation.script = [step for step in conversation.script if step.what != what]


def test_who_answers_takes_one_call_after_the_other() -> None:
    async def scenario() -> None:
        async with here() as url, two(url) as (ann, ben), person(url, "Cem") as cem:
            await ann.call("Ben")
            with pytest.raises(CallError, match="busy"):
                await cem.call("Ben")
            await ann.hang_up()
            await until(lambda: ben.phone.state == "idle")
            await cem.call("Ben")
            await pictures(cem, ben)

    run(scenario())


def test_reject_no_answer_and_hanging_up_while_it_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with here() as url, two(url) as (ann, ben):
            ben.answers = False
            calling = asyncio.create_task(ann.call("Ben"))
            await until(lambda: ben.phone.state == "ringing")
            ben.phone.press("reject")
            with pytest.raises(CallError, match="reject"):
                await calling
            calling = asyncio.create_task(ann.call("Ben"))
            await until(lambda: ben.phone.state == "ringing")
            ann.phone.press("hang up")
            with pytest.raises(CallError, match="hang up"):
                await calling
            await until(lambda: ben.phone.state == "idle")
            assert ben.phone.why == "cancel"
            monkeypatch.setitem(PATIENCE, "calling", 0.3)
            with pytest.raises(CallError, match="no answer"):
                await ann.call("Ben")
            with pytest.raises(CallError, match="Zoe is not in the room"):
                await ann.call("Zoe", patience=0.1)

    run(scenario())


@pytest.mark.parametrize(("places", "name", "words"), [(2, "Ann", "taken.*--name"), (1, "Cem", "full.*wait")])
def test_who_cannot_come_in_is_told(places: int, name: str, words: str) -> None:
    async def scenario() -> None:
        runner = await started(Room(places), "127.0.0.1", 0)
        async with person(address(runner), "Ann"):
            with pytest.raises(CallError, match=words):
                async with person(address(runner), name):
                    pass
        await runner.cleanup()

    run(scenario())


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense", "ftp://127.0.0.1", "http://127.0.0.1:99999"])
def test_no_server_is_told_in_one_line(url: str) -> None:
    async def scenario() -> None:
        with pytest.raises(CallError, match=r"no server at .*python notebooks/phone serve") as raised:
            async with person(url, "Ann"):
                pass
        assert str(raised.value).isprintable()

    run(scenario())


def test_a_source_that_fails_ends_the_call_with_its_words() -> None:
    class Broken(SyntheticSource):
        async def ready(self) -> None:
            raise CallError("camera 0 is not there")

    async def scenario() -> None:
        async with here() as url, two(url, ann={"source": lambda: Broken(*SIZE, 30)}) as (ann, ben):
            with pytest.raises(CallError, match="camera 0 is not there"):
                await ann.call("Ben")
            await until(lambda: ben.phone.state == "idle")
            assert ben.phone.why in ("bye", "media failed")
            assert ann.last is not None
            assert ann.last.peer.pc.connectionState == "closed"

    run(scenario())


def test_relayed_by_a_real_turn_server(tmp_path: Path) -> None:
    """Both are given the servers by the room, for this call only, and no other candidate is sent."""

    async def scenario(server: Server) -> None:
        async with two(server) as (ann, ben):
            await ann.call("Ben")
            await pictures(ann, ben)
            for one in (ann, ben):
                assert one.last is not None
                assert " relay " in one.last.peer.selected_pair.local
                sent = [event.detail for event in one.log.events if event.what == "send candidate"]
                assert sent
                assert all(" typ relay" in candidate for candidate in sent)
                assert TURN_PASSWORD not in repr(one.log)

    with running_coturn(tmp_path) as (where, _):
        options = ("--ice-server", f"turn:{where}", "--ice-user", TURN_USER, "--relay-only")
        with serving(*options, LOOPBACK_ICE_PASSWORD=TURN_PASSWORD) as server:
            run(scenario(server), 60)


@pytest.mark.parametrize("servers", ["none", [{"urls": "http://x"}], [{"urls": "stun:127.0.0.1"}] * 2, [7]])
def test_servers_that_cannot_be_used_end_the_call(servers: Any) -> None:
    async def scenario() -> None:
        async with here(servers={"iceServers": servers, "relayOnly": False}) as url, two(url) as (ann, ben):
            with pytest.raises(CallError):
                await ann.call("Ben")
            await until(lambda: ben.phone.state == "idle")
            assert ann.conversation is None

    run(scenario())


# ---- When things die -------------------------------------------------------------------------------------------------


def test_a_call_outlives_the_server_and_both_come_back() -> None:
    async def scenario(how: str) -> None:
        server = await asyncio.to_thread(Server)
        try:
            async with two(server) as (ann, ben), person(server.url, "Cem") as cem:
                await ann.call("Ben")
                await pictures(ann, ben)
                heard = {one: len(logged(one, "hear that", "hear left")) for one in (ann, ben, cem)}
                await asyncio.to_thread(getattr(server, how))
                await until(lambda: not any(one.line.open for one in (ann, ben, cem)))
                await pictures(ann, ben)
                await until(lambda: cem.phone.state == "away")
                for one in (ann, ben):
                    await until(partial(logged, one, "server lost"))
                    assert one.phone.state == "in call"
                assert ann.conversation is not None
                times, clocks = len(ann.conversation.arrivals.delays), [one.clock for one in (ann, ben, cem)]
                server = await asyncio.to_thread(Server, port=server.port)
                await until(lambda: all(one.phone.inside for one in (ann, ben, cem)), 60)
                await until(lambda: len(ann.conversation.arrivals.delays) > times + 20)  # on the old server's clock
                await until(lambda: [len(one.phone.people) for one in (ann, ben, cem)] == [2, 2, 2])
                await pictures(ann, ben)
                for one in (ann, ben, cem):
                    assert len(logged(one, "hear that", "hear left")) == heard[one], "a storm of left and arrived"
                with pytest.raises(CallError, match="busy"):
                    await cem.call("Ben")
                await ann.hang_up()
                await until(lambda: ben.phone.state == "idle")
                assert ben.phone.why == "bye"
                # As in the page, the clock stays the same until the next call begins, in a call or out of any.
                assert [one.clock for one in (ann, ben, cem)] == clocks
                await cem.call("Ben")
                assert [one.clock in clocks for one in (ann, ben, cem)] == [True, False, False]
                await until(lambda: ben.clock.steady and cem.clock.steady)
                await pictures(ben, cem)
                for one in (ben, cem):
                    await until(lambda one=one: one.last and one.last.arrivals.delays)
        finally:
            server.close()

    run_at_once(scenario, ["kill", "close"], 90)


def test_a_call_that_ends_without_the_server_is_over_at_both_ends_and_they_come_back() -> None:
    async def scenario() -> None:
        server = Server()
        try:
            async with two(server) as (ann, ben):
                await ann.call("Ben")
                await pictures(ann, ben)
                await asyncio.to_thread(server.kill)
                await until(lambda: not ann.line.open and not ben.line.open)
                await ann.hang_up()
                assert logged(ann, "not sent")
                await until(lambda: ben.conversation is None)  # DTLS told it
                assert {ann.phone.state, ben.phone.state} <= {
                    "idle",
                    "away",
                }  # away: the socket's end came after the call's
                server = await asyncio.to_thread(Server, port=server.port)
                await until(lambda: "Ben" in ann.phone.people, 60)
                await ann.call("Ben")
                await pictures(ann, ben)
        finally:
            server.close()

    run(scenario(), 90)


def test_the_way_back_is_tried_more_and_more_slowly_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    now = itertools.count(1000.0, 50.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(module.random, "uniform", lambda low, high: 1.0)

    async def sleep(pause: float) -> None:
        pauses.append(pause)

    async def gone(session: object) -> None:
        raise CallError("no server")

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    line = Line("http://127.0.0.1:9", "Ann", Log())
    monkeypatch.setattr(line, "_connect", gone)
    with pytest.raises(CallError, match="no server"):
        run(line._again(None))  # type: ignore[arg-type]
    assert pauses[:7] == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert len(pauses) < 20


def test_an_end_that_is_killed_is_noticed() -> None:
    """By the server's word at once; without it by the silence of the media."""

    async def scenario(server_lives: bool) -> None:
        server = await asyncio.to_thread(Server)
        command = [*PHONE, "answer", "--server", server.url, "--view", "none", "--size", "160x120"]
        other = subprocess.Popen(  # noqa: ASYNC220 - it begins at once
            command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            async with person(server.url, "Ann") as ann:
                await ann.call("Python")
                await pictures(ann)
                if not server_lives:
                    await asyncio.to_thread(server.kill)
                    await until(lambda: not ann.line.open)
                other.send_signal(signal.SIGKILL)
                await until(lambda: ann.conversation is None)
                assert ann.phone.why == ("left" if server_lives else "media failed")
                assert server_lives or "vanished" in ann.failure
        finally:
            other.kill()
            other.wait(timeout=20)
            server.close()

    run_at_once(scenario, [True, False], 60)


# ---- Words that come twice, late, or in another order ----------------------------------------------------------------


def edited(end: End, edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], count: int) -> None:
    """Let an end say its first `count` signals, once they are all there, as `edit` gives them back."""
    say, kept = end.line.say, []

    def instead(text: str) -> None:
        message = json.loads(text)
        if message["type"] != "signal" or len(kept) >= count:
            say(text)
            return
        kept.append(message)
        for one in edit(kept) if len(kept) == count else []:
            say(json.dumps(one))

    end.line.say = instead  # type: ignore[method-assign]


DISORDER: list[tuple[str, int, Callable[[list[Any]], list[Any]], str]] = [
    ("twice", 3, lambda said: [one for one in said for _ in range(2)], "refused offer"),
    ("late", 3, lambda said: [*said, said[0]], "refused offer"),
    ("other order", 3, lambda said: [said[1], *said], "refused candidate"),
    ("another call's", 3, lambda said: [said[0] | {"call": "7"}, *said], "refused hear signal of an old call"),
    ("nonsense", 3, lambda said: [said[0] | {"text": "{"}, *said], "refused message"),
]


@pytest.mark.parametrize(("what", "count", "edit", "refused"), DISORDER, ids=[row[0] for row in DISORDER])
def test_a_word_at_the_wrong_time_is_refused_by_name_and_the_call_comes_about(
    what: str, count: int, edit: Callable[[list[Any]], list[Any]], refused: str
) -> None:
    async def scenario() -> None:
        async with here() as url, two(url) as (ann, ben):
            edited(ann, edit, count)
            await ann.call("Ben")
            await pictures(ann, ben)
            await until(lambda: logged(ben, refused))

    run(scenario())


def test_a_signal_after_the_call_or_in_it_changes_nothing() -> None:
    async def scenario() -> None:
        async with here() as url, two(url) as (ann, ben), sockets(url, "Cem") as (cem,):
            await ann.call("Ben")
            await pictures(ann, ben)
            text = json.dumps({"type": "offer", "sdp": "v=0"})
            call = ann.phone.call
            await cem.say("signal", to="Ben", call=call, text=text)  # by somebody else
            await until(lambda: logged(ben, "refused hear signal of an old call"))
            ann.line.say(json.dumps({"type": "signal", "to": "Ben", "call": call, "text": text}))  # a second offer
            await until(lambda: logged(ben, "refused offer"))
            await pictures(ann, ben)
            await ann.hang_up()
            await until(lambda: ben.conversation is None)
            ann.line.say(json.dumps({"type": "signal", "to": "Ben", "call": call, "text": text}))
            await until(lambda: len(logged(ben, "refused hear signal of an old call")) == 2)

    run(scenario())


def test_a_channel_whose_server_is_lost_gives_what_had_come_and_then_says_so() -> None:
    async def scenario() -> None:
        channel = SignalChannel(Line("http://127.0.0.1:9", "Ann", Log()), "Ben", "1")
        channel.inbox.put_nowait("one")
        channel.lose()
        assert await channel.receive() == "one"
        for _ in range(2):
            with pytest.raises(loopback.ChannelError, match="server is lost"):
                await channel.receive()
        other = SignalChannel(channel.line, "Ben", "1")
        waiting = asyncio.create_task(other.receive())
        await asyncio.sleep(0)
        other.lose()
        with pytest.raises(loopback.ChannelError, match="server is lost"):
            await waiting
        with pytest.raises(loopback.ChannelError):
            await channel.send("{}")

    run(scenario())


def test_an_end_that_never_stops_looking_for_candidates_is_no_hindrance() -> None:
    """Chromium on a machine without a network never says that these were all."""

    async def scenario() -> None:
        async with here() as url, two(url) as (ann, ben):
            for one in (ann, ben):
                one.line.say = partial(without_end, one.line.say)  # type: ignore[method-assign]
            await ann.call("Ben")
            await pictures(ann, ben)
            assert not logged(ann, "receive end-of-candidates")

    run(scenario())


def without_end(say: Callable[[str], None], text: str) -> None:
    if "end-of-candidates" not in text:
        say(text)


# ---- Clocks and meters -----------------------------------------------------------------------------------------------


def test_the_clock_of_the_server_is_known_from_the_soonest_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    clock = ServerClock()
    assert (clock.server_ms(1.0), clock.local(1.0)) == (None, None)
    for there, back in ((0.2, 0.6), (0.001, 0.001), (0.3, 0.0)):  # seconds on the way
        sent = json.loads(clock.ping())["sent"]
        at = (now + there + 50) * 1000  # the server's clock is 50 s ahead
        now += there + back
        clock.on_pong({"sent": sent, "at": at})
        clock.on_pong({"sent": sent, "at": at + 1e6})  # twice
    for wrong in (
        {"sent": 1.5, "at": 1},
        {"sent": "x", "at": 1},
        {"at": 1},
        {"sent": [], "at": 1},
        {"sent": now, "at": 10**400},
    ):
        clock.on_pong(wrong)
    assert clock.server_ms(200.0) == pytest.approx(250_000.0)
    assert clock.local(250_000.0) == pytest.approx(200.0)


def test_a_delay_is_counted_once_and_only_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    arrivals = Arrivals()
    for number in (1, 2, 3):
        picture = SyntheticSource(*SIZE, 30).draw(0)
        loopback.write_time_code(picture, number)
        arrivals.on_received(picture)
    arrivals.on_received(SyntheticSource(*SIZE, 30).draw(0) // 2 + 60)
    arrivals.on_captured([(1, 9.99), (1, 9.0), (2, 10.5), (3, -500.0), (9, 9.9)])
    assert [*arrivals.delays] == [pytest.approx(0.01)]
    assert (arrivals.received, arrivals.misread) == (4, 1)


# ---- Nothing is left -------------------------------------------------------------------------------------------------


def test_fifty_calls_in_a_row_leave_nothing_behind() -> None:
    def left() -> tuple[int, int, int, int]:
        gc.collect()
        peers = sum(isinstance(one, Peer) for one in gc.get_objects())
        threads = [one for one in threading.enumerate() if not one.name.startswith("asyncio_")]  # its pool, six at most
        return len(asyncio.all_tasks()), len(threads), len(os.listdir("/proc/self/fd")), peers

    async def scenario(server: Server) -> None:
        async with two(server) as (ann, ben):
            counts = []
            for number in range(50):
                await ann.call("Ben")
                await until(lambda: ann.last.arrivals.received and ben.last.arrivals.received)
                await ann.hang_up()
                await until(lambda: ben.phone.state == "idle" and not ben._closing)
                if number in (4, 49):
                    await asyncio.sleep(0.2)
                    counts.append(left())
            assert (ann.failure, ben.failure) == ("", "")
            assert counts[0][3] == 2  # the last call's
            assert all(after <= before for before, after in zip(*counts, strict=True)), counts

    with serving() as server:
        run(scenario(server), 120)

"""The call: what arrives is what was sent, step by step; what goes wrong is named; nothing is left behind."""

import asyncio
import contextlib
import gc
import itertools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aioice
import cv2
import numpy as np
import pytest
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtp import RtpPacket
from conftest import run
from faults import Edit, as_sent, calling, logged, pictures, wires
from hypothesis import given, settings
from hypothesis import strategies as st

from loopback import (
    Call,
    CallError,
    Done,
    Event,
    Log,
    LoopbackOnly,
    MarkerJitterBuffer,
    Message,
    Peer,
    Picture,
    SyntheticSource,
    memory_channel,
    read_time_code,
)

# ---- What arrives is what was sent -----------------------------------------------------------------------------------


class Keeping(SyntheticSource):
    """A test picture that keeps what it gave; the call draws the time codes into the same arrays."""

    def __init__(self, width: int, height: int, fps: float) -> None:
        super().__init__(width, height, fps)
        self.given: list[Picture] = []

    async def next(self) -> tuple[Picture, float]:
        picture, captured_at = await super().next()
        self.given.append(picture)
        return picture, captured_at


@pytest.mark.parametrize("marker_bit", [True, False], ids=["marker", "stock"])
@pytest.mark.parametrize("size", [(160, 120), (161, 121), (320, 240)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_the_pictures_that_arrive_are_the_pictures_sent(codec: str, size: tuple[int, int], marker_bit: bool) -> None:
    async def scenario() -> None:
        source = Keeping(*size, 30)
        call = Call(source, codec=codec, marker_bit=marker_bit)
        received: list[Picture] = []
        timed = call.pc2.on_picture

        def keep(picture: Picture) -> None:
            received.append(picture)
            timed(picture)

        call.pc2.on_picture = keep
        try:
            await call.run()
            await pictures(call, 25)
            await call.finish()
        finally:
            await call.close()
        numbers = [read_time_code(picture) for picture in received]
        assert numbers == list(range(len(received)))  # every one, once, in order
        assert call.meter.sent - len(received) == (0 if marker_bit else 1)  # stock keeps the last one for ever
        assert (call.meter.received, call.meter.misread) == (len(received), 0)
        assert call.pc2.picture is received[-1]
        width, height = size
        if codec == "H264":  # knows even sizes only
            width, height = width + width % 2, height + height % 2
        assert {picture.shape for picture in received} == {(height, width, 3)}
        for number, picture in enumerate(received):
            seen = picture[20 : size[1], : size[0]]  # below the time code
            likeness = [cv2.PSNR(seen, other[20:]) for other in source.given]
            assert likeness[number] > 20
            assert max(range(len(likeness)), key=likeness.__getitem__) == number, "it is like another picture sent"

    run(scenario())


def test_only_the_time_code_is_drawn_into_the_sources_picture() -> None:
    async def scenario() -> None:
        source = Keeping(160, 120, 30)
        call = Call(source)
        try:
            await call.run()
            assert call.track.picture is not None
            number = read_time_code(call.track.picture)
            slots = [source.draw(slot / 30)[20:] for slot in range(60)]
            assert number is not None
            assert any(np.array_equal(source.given[number][20:], slot) for slot in slots)
        finally:
            await call.close()

    run(scenario())


# ---- The steps -------------------------------------------------------------------------------------------------------

# who, what, and the states that the step's Done names at least
STEPS: list[tuple[str, str, tuple[str, ...]]] = [
    ("pc1", "addTrack", ()),
    ("pc1", "createOffer", ()),
    (
        "pc1",
        "setLocalDescription(offer)",
        ("signalingState stable → have-local-offer", "iceGatheringState new → complete"),
    ),
    ("pc1", "send the offer", ()),
    ("pc2", "setRemoteDescription(offer)", ("signalingState stable → have-remote-offer",)),
    ("pc1", "send its candidates", ()),
    ("pc2", "addIceCandidate", ()),
    ("pc2", "createAnswer", ()),
    (
        "pc2",
        "setLocalDescription(answer)",
        ("signalingState have-remote-offer → stable", "iceGatheringState new → complete"),
    ),
    ("pc2", "send the answer", ()),
    ("pc1", "setRemoteDescription(answer)", ("signalingState have-local-offer → stable",)),
    ("pc2", "send its candidates", ()),
    ("pc1", "addIceCandidate", ()),
    ("both", "connect", ()),
    ("pc2", "first picture", ()),
]


def test_the_list_of_steps() -> None:
    async def scenario() -> None:
        async with calling() as call:
            assert [(step.who, step.what) for step in call.steps] == [(who, what) for who, what, _ in STEPS]
            for step in call.steps:
                assert len(step.why.split()) > 8
                assert step.why.endswith((".", ")"))

    run(scenario())


@pytest.mark.parametrize(("wait", "long_before"), [(0, 10), (0.05, 10), (0.05, 4), (0, 12), (0, 13)])
def test_each_step_can_be_awaited_alone(wait: float, long_before: int) -> None:
    async def scenario() -> None:
        async with calling() as call:
            for number, (step, (who, what, changes)) in enumerate(zip(call.steps, STEPS, strict=True)):
                await asyncio.sleep(1 if number == long_before else wait)
                done = await step.run()
                assert isinstance(done, Done)
                assert done.who == who
                assert set(changes) <= set(done.changed), f"{what}: {done.changed}"
                assert all(change in repr(done) for change in changes)
                if what == "connect":
                    assert {peer.pc.connectionState for peer in (call.pc1, call.pc2)} == {"connected"}
                    if (wait, long_before) == (0, 10):  # else the steps before may have seen the change
                        assert "pc1 connectionState connecting → connected" in done.changed
                assert repr(done).startswith(f"{who}: ")
                assert "\n" not in repr(done)
                if what in ("createOffer", "send the offer", "createAnswer"):
                    assert (done.changed, done.made[:3]) == ((), "v=0")
                    assert "no state changed" in repr(done)
            await pictures(call, 5)
            assert call.meter.misread == 0

    run(scenario())


def test_every_state_call_and_message_is_in_the_log_once() -> None:
    async def scenario() -> None:
        async with calling(size=(160, 120)) as call:
            await call.run()
            await pictures(call, 2)
            await call.hang_up()
        by_peer = {
            peer.name: {
                state: [event.detail.removeprefix("→ ") for event in logged(call, state, peer.name)]
                for state in peer.states
            }
            for peer in (call.pc1, call.pc2)
        }
        for name, first in (("pc1", "have-local-offer"), ("pc2", "have-remote-offer")):
            assert by_peer[name] == {
                "signalingState": [first, "stable", "closed"],
                "iceGatheringState": ["gathering", "complete"],
                "iceConnectionState": ["checking", "completed", "closed"],
                "connectionState": ["connecting", "connected", "closed"],
            }
        rest = [(event.who, event.what) for event in call.log.events if event.what not in call.pc1.states]
        receive = ["receive candidate", "addIceCandidate", "receive end-of-candidates", "addIceCandidate(null)"]
        send = ["send candidate", "send end-of-candidates"]
        expected = {
            "pc1": [
                *("new RTCPeerConnection", "addTrack", "setCodecPreferences", "createOffer"),
                *("setLocalDescription(offer)", "send offer"),
                *(*send, "receive answer", "setRemoteDescription(answer)", *receive, "send bye", "close"),
            ],
            "pc2": [
                *("new RTCPeerConnection", "receive offer", "setRemoteDescription(offer)", "track", *receive),
                *("createAnswer", "setLocalDescription(answer)", "send answer", *send, "first picture"),
                *("receive bye", "close"),
            ],
            "call": ["connected", "closed"],
        }
        found = {who: [what for name, what in rest if name == who] for who in expected}
        assert found == expected
        times = [event.t for event in call.log.events]
        assert times == sorted(times)
        assert times[0] >= 0
        assert len(times) == len(rest) + sum(len(heard) for peer in by_peer.values() for heard in peer.values())

    run(scenario())


def test_things_print_themselves() -> None:
    async def scenario() -> None:
        seen: list[Event] = []
        log = Log(seen.append)
        async with calling(log=log) as call:
            assert repr(call.pc1).startswith("pc1: signalingState stable, ")
            await call.run()
            assert repr(call.pc2).count("\n") == 0
            assert "connectionState connected" in repr(call.pc2)
            assert "127.0.0.1:" in str(call.selected_pair)
        assert seen == list(log.events)
        assert repr(log).splitlines() == [str(event) for event in seen]
        event = Event(0.0123456, "pc1", "createOffer", "video")
        assert str(event).split() == ["12.3", "ms", "pc1", "createOffer", "video"]
        assert "\n" not in repr(event)
        assert event.as_dict() == {"t_ms": 12.346, "who": "pc1", "what": "createOffer", "detail": "video"}
        assert repr(Done("pc1", "createOffer", "v=0")) == "pc1: createOffer · no state changed"

    run(scenario())


# ---- Where the program departs from aiortc ---------------------------------------------------------------------------


def jitter_buffer(peer: Peer) -> JitterBuffer:
    found = vars(peer.pc.getReceivers()[0])["_RTCRtpReceiver__jitter_buffer"]
    assert isinstance(found, JitterBuffer)
    return found


@pytest.mark.parametrize("marker_bit", [True, False])
def test_the_marker_buffer_is_in_use_where_asked_for(marker_bit: bool) -> None:
    async def scenario() -> None:
        async with calling(marker_bit=marker_bit) as call:
            await call.run()
            buffer = jitter_buffer(call.pc2)
            assert type(buffer) is (MarkerJitterBuffer if marker_bit else JitterBuffer)
            # aiortc's receiver reads this very attribute: it has held packets.
            assert vars(buffer)["_origin"] is not None
            assert (buffer.capacity, vars(buffer)["_is_video"]) == (512, True)

    run(scenario())


def test_a_moved_buffer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiortc.rtcrtpreceiver.JitterBuffer", lambda **_: None)

    async def scenario() -> None:
        async with calling() as call:
            with pytest.raises(CallError, match="--jitter-buffer stock"):
                await call.run()

    run(scenario())


Frame = tuple[int, bytes]


def packets_of(sizes: list[int], first: int) -> list[RtpPacket]:
    """Return the packets of frames of so many packets each, the first with that sequence number."""
    found: list[RtpPacket] = []
    for frame, size in enumerate(sizes):
        for part in range(size):
            number = (first + len(found)) % 65536
            packet = RtpPacket(sequence_number=number, timestamp=frame * 3000, marker=int(part == size - 1))
            vars(packet)["_data"] = f"{frame}.{part} of {size};".encode()  # what aiortc's receiver adds
            found.append(packet)
    return found


def frames_of(sizes: list[int]) -> list[Frame]:
    return [
        (frame * 3000, "".join(f"{frame}.{part} of {size};" for part in range(size)).encode())
        for frame, size in enumerate(sizes)
    ]


def fed(buffer: JitterBuffer, packets: list[RtpPacket]) -> list[Frame | None]:
    """Return what the buffer gave after each packet."""
    given = [buffer.add(packet)[1] for packet in packets]
    return [frame and (frame.timestamp, frame.data) for frame in given]


sizes = st.lists(st.integers(1, 5), min_size=1, max_size=30)
firsts = st.sampled_from([0, 7, 500, 65500, 65535])


@given(sizes, firsts)
def test_a_frame_is_released_with_its_last_packet(sizes: list[int], first: int) -> None:
    packets = packets_of(sizes, first)
    given = fed(MarkerJitterBuffer(capacity=512, is_video=True), packets)
    assert [frame for frame in given if frame] == frames_of(sizes)
    assert [frame is not None for frame in given] == [bool(packet.marker) for packet in packets]


@given(sizes, firsts, st.randoms(use_true_random=False), st.integers(0, 40))
@settings(max_examples=300)
def test_disorder_and_duplicates_change_no_frame(sizes: list[int], first: int, random: Any, reach: int) -> None:
    # Both buffers begin with the packet that comes first and give one frame a packet: so the first one stays first, and
    # frames of two packets at the end drain what is held back.
    sizes = [*sizes, *[2] * len(sizes), 2]
    start, *rest = packets_of(sizes, first)
    disturbed = len(rest) - 2 * (len(sizes) // 2) - 2
    order = sorted(range(len(rest)), key=lambda n: n + (random.uniform(0, reach) if n < disturbed else reach))
    packets = [start, *(rest[n] for n in order)]
    for _ in range(random.randrange(5)):
        at = random.randrange(len(packets))
        packets.insert(min(at + random.randrange(reach + 1), len(packets)), packets[at])
    own = [frame for frame in fed(MarkerJitterBuffer(capacity=512, is_video=True), packets) if frame]
    stock = [frame for frame in fed(JitterBuffer(capacity=512, is_video=True), packets) if frame]
    assert own == frames_of(sizes)
    assert stock == own[: len(stock)]
    assert len(stock) >= len(own) - 2


@given(sizes, firsts, st.randoms(use_true_random=False))
def test_no_frame_with_a_gap_is_released(sizes: list[int], first: int, random: Any) -> None:
    sizes = [2, *sizes, 3]
    packets = packets_of(sizes, first)
    lost = random.randrange(1, len(packets))
    arriving = packets[:lost] + packets[lost + 1 :]
    whole = packets[lost].timestamp // 3000  # so many frames come before the one with the gap
    buffer = MarkerJitterBuffer(capacity=512, is_video=True)
    assert [frame for frame in fed(buffer, arriving) if frame] == frames_of(sizes)[:whole]
    (frame,) = fed(buffer, [packets[lost]])  # it was only late
    assert frame == frames_of(sizes)[whole]


@given(sizes, firsts)
def test_a_full_buffer_gives_up_on_a_lost_packet(sizes: list[int], first: int) -> None:
    sizes = [2, *sizes, *[2] * 40]
    packets = packets_of(sizes, first)
    del packets[1]
    buffer = MarkerJitterBuffer(capacity=16, is_video=True)
    flags = [buffer.add(packet) for packet in packets]
    given = [(frame.timestamp, frame.data) for _, frame in flags if frame]
    assert any(lost for lost, _ in flags), "the sender must be asked for a key frame"
    assert set(given) <= set(frames_of(sizes)[1:])
    assert given == sorted(given)
    assert given[-1] == frames_of(sizes)[-1]


def local(address: list[str]) -> bool:
    return address == ["127.0.0.1"]


def addresses() -> list[str]:
    return list(aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=True))


def test_loopback_only_puts_the_original_back() -> None:
    original = aioice.ice.get_host_addresses
    for _ in range(2):
        with contextlib.suppress(ZeroDivisionError), LoopbackOnly():
            assert local(addresses())
            with LoopbackOnly():
                assert local(addresses())
            assert local(addresses())
            raise ZeroDivisionError
        assert aioice.ice.get_host_addresses is original


def test_the_original_is_back_after_calls_at_once_and_a_cut_one() -> None:
    original = aioice.ice.get_host_addresses

    async def scenario() -> None:
        async with calling() as one, calling() as other, calling() as cut:
            await asyncio.gather(one.run(), other.run())
            assert aioice.ice.get_host_addresses is original
            for step in cut.steps[:2]:
                await step.run()
            gathering = asyncio.create_task(cut.pc1.set_local_description())
            await asyncio.sleep(0)
            assert local(addresses())
            gathering.cancel()
            await asyncio.gather(gathering, return_exceptions=True)
            assert aioice.ice.get_host_addresses is original

    run(scenario())


def test_the_original_is_back_when_gathering_fails() -> None:
    original = aioice.ice.get_host_addresses

    async def scenario() -> None:
        async with calling() as call:
            for step in call.steps[:2]:
                await step.run()

            async def fail(_: Any) -> None:
                raise OSError("no more sockets")

            call.pc1.pc.setLocalDescription = fail  # type: ignore[method-assign]
            with pytest.raises(OSError, match="no more sockets"):
                await call.pc1.set_local_description()
        assert aioice.ice.get_host_addresses is original

    run(scenario())


# ---- Faults ----------------------------------------------------------------------------------------------------------


def only(kind: str, edit: Edit) -> Edit:
    """Return an edit of the messages of one kind."""
    return lambda message: edit(message) if message["type"] == kind else [message]


def drop(message: Message) -> list[Message | str]:
    return []


def without(*kinds: str) -> Edit:
    return lambda message: [] if message["type"] in kinds else [message]


def changed(start: str, change: Callable[[str], str]) -> Edit:
    """Return an edit of the lines of a description that begin so; there must be one."""

    def edit(message: Message) -> list[Message | str]:
        if "sdp" not in message:
            return [message]
        lines = message["sdp"].splitlines(keepends=True)
        new = [change(line) if line.startswith(start) else line for line in lines]
        assert new != lines
        return [message | {"sdp": "".join(new)}]

    return edit


def one_digit(line: str) -> str:
    """Change the first hexadecimal digit of a fingerprint's value."""
    start, _, value = line.partition(" ")
    return f"{start} {'1' if value[0] == '0' else '0'}{value[1:]}"


def sides(edit: Edit) -> list[Any]:
    edits = {"pc1": (edit, as_sent), "pc2": (as_sent, edit), "both": (edit, edit)}
    return [pytest.param(edits[name], id=name) for name in edits]


async def failing(call: Call) -> str:
    """Run the call; return the text of the CallError that ends it. It must be one line, and no picture be shown."""
    with pytest.raises(CallError) as caught:
        await call.run()
    await asyncio.sleep(0.2)
    assert call.pc2.picture is None
    assert call.meter.received == 0
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("edits", sides(changed("a=fingerprint", one_digit)))
def test_a_wrong_fingerprint_shows_no_picture(edits: tuple[Edit, Edit]) -> None:
    async def scenario() -> None:
        async with calling(channels=wires(*edits), deadline=3) as call:
            text = await failing(call)
            assert "fingerprint" in text
            assert "DTLS failed" in text

    run(scenario())


@pytest.mark.parametrize("edits", sides(changed("a=ice-pwd", lambda line: "a=ice-pwd:" + "x" * 22 + "\r\n")))
def test_a_wrong_ice_password_is_named(edits: tuple[Edit, Edit]) -> None:
    async def scenario() -> None:
        async with calling(channels=wires(*edits), deadline=0.6) as call:
            text = await failing(call)
            assert "ICE password" in text
            assert "ICE checking" in text

    run(scenario())


def test_candidates_lost_both_ways_are_named() -> None:
    async def scenario() -> None:
        lost = without("candidate")
        async with calling(channels=wires(lost, lost), deadline=0.6) as call:
            assert "candidates did not arrive" in await failing(call)

    run(scenario())


@pytest.mark.parametrize("wait", [0, 0.3])
@pytest.mark.parametrize("edits", sides(without("candidate"))[:2])
def test_candidates_lost_one_way_are_learned_or_missed(edits: tuple[Edit, Edit], wait: float) -> None:
    # Who has been told of no candidate gives up with the end of candidates, unless a check has come by then, which
    # tells where it comes from (RFC 8445, section 7.3.1.3). Then the call is as good as any other.
    async def scenario() -> None:
        async with calling(channels=wires(*edits), deadline=1) as call:
            failure = ""
            try:
                for step in call.steps:
                    await asyncio.sleep(wait)
                    await step.run()
                await pictures(call, 2)
            except CallError as error:
                failure = str(error)
            assert ("candidates did not arrive" in failure) if failure else ("127.0.0.1:" in call.selected_pair.local)

    run(scenario())


@pytest.mark.parametrize(
    ("edits", "missing"),
    [
        ((without("offer"), as_sent), "offer"),
        ((as_sent, without("answer")), "answer"),
        ((without("end-of-candidates"), as_sent), "candidate"),
        ((as_sent, without("candidate", "end-of-candidates")), "candidate"),
    ],
    ids=["offer", "answer", "end", "candidates"],
)
def test_a_message_that_never_comes_is_named(edits: tuple[Edit, Edit], missing: str) -> None:
    async def scenario() -> None:
        async with calling(channels=wires(*edits), deadline=0.4) as call:
            with pytest.raises(CallError, match=missing):
                await call.run()

    run(scenario())


def test_no_common_codec_is_named() -> None:
    async def scenario() -> None:
        edit = changed("a=rtpmap:97 ", lambda line: line.replace("VP8", "VP9"))
        async with calling(channels=wires(edit), deadline=0.5) as call:
            text = await failing(call)
            (refused,) = logged(call, "refused offer", "pc2")
            assert "video" in refused.detail
            assert "offer" in text
            assert "refused" in text, "the offer did come"

    run(scenario())


class Slow:
    """An end of a channel that takes its time."""

    def __init__(self, inner: Any, seconds: float) -> None:
        self.inner, self.seconds = inner, seconds

    async def send(self, text: str) -> None:
        await asyncio.sleep(self.seconds)
        await self.inner.send(text)

    async def receive(self) -> str:
        text = await self.inner.receive()
        assert isinstance(text, str)
        return text


@pytest.mark.parametrize("seconds", [0.3, 3600], ids=["every message late", "a message never sent"])
def test_the_deadline_is_kept_by_the_whole_call(seconds: float) -> None:
    async def scenario() -> None:
        one, two = memory_channel()
        async with calling(channels=(Slow(one, seconds), Slow(two, seconds)), deadline=0.7) as call:
            start = time.monotonic()
            assert await failing(call)
            assert time.monotonic() - start < 5

    run(scenario(), 8)


def test_a_source_that_fails_is_named() -> None:
    class Failing(SyntheticSource):
        async def next(self) -> tuple[Picture, float]:
            if self._slot >= 5:
                raise CallError("the lens fell off")
            return await super().next()

    async def scenario() -> None:
        call = Call(Failing(160, 120, 30))
        try:
            await call.run()
            with pytest.raises(CallError, match="the lens fell off"):
                await pictures(call, 100)
        finally:
            await call.close()

    run(scenario())


class Attentive(Call):
    SILENCE = 1.6  # RTCP comes every 1.5 s


def protocols(peer: Peer) -> list[aioice.ice.StunProtocol]:
    ice = peer.pc.getReceivers()[0].transport.transport
    found = vars(vars(ice)["_connection"])["_protocols"]
    assert found
    return list(found)


def mute(peer: Peer) -> None:
    """From now on no datagram of this peer leaves it."""

    async def nothing(*_: Any) -> None: ...

    for protocol in protocols(peer):
        protocol.send_data = nothing  # type: ignore[method-assign]
        protocol.send_stun = lambda *_: None  # type: ignore[method-assign]


@pytest.mark.parametrize("name", ["pc1", "pc2"])
def test_a_peer_that_falls_silent_is_named(name: str) -> None:
    async def scenario() -> None:
        async with calling(call=Attentive) as call:
            await call.run()
            mute(getattr(call, name))
            with pytest.raises(CallError, match=f"^{name} vanished"):
                await pictures(call, 10_000)

    run(scenario())


def test_a_peer_whose_sockets_die_is_noticed() -> None:
    async def scenario() -> None:
        async with calling(call=Attentive) as call:
            await call.run()
            for protocol in protocols(call.pc1):
                protocol.transport.abort()
            with pytest.raises(CallError, match=r"^pc[12] "):
                await pictures(call, 10_000)

    run(scenario())


@pytest.mark.parametrize("name", ["pc1", "pc2"])
def test_a_peer_that_closes_without_bye_is_named(name: str) -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            await getattr(call, name).pc.close()
            with pytest.raises(CallError, match=r"^pc[12] is closed"):
                await pictures(call, 10_000)

    run(scenario())


def test_a_call_that_goes_well_is_never_called_silent() -> None:
    async def scenario() -> None:
        async with calling(call=Attentive, fps=2) as call:
            await call.run()
            await pictures(call, 5)

    run(scenario())


# ---- The end ---------------------------------------------------------------------------------------------------------


def held() -> Counter[str]:
    """Return what this process holds: files and sockets (by kind), threads but those of the executor."""
    files: list[str] = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists the others
            files.append(os.readlink(f"/proc/self/fd/{descriptor}").split("[")[0])
    threads = [thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
    return Counter(files + threads)


async def nothing_left(before: Counter[str]) -> None:
    """Fail unless tasks, files, sockets and threads are soon what they were."""
    until = time.monotonic() + 3
    while (len(asyncio.all_tasks()) > 1 or held() - before) and time.monotonic() < until:
        await asyncio.sleep(0.01)
    assert held() - before == Counter()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def alone(scenario: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Make a scenario one that leaves nothing; `run` adds no task of its own."""

    async def checked() -> None:
        before = held()
        await scenario()
        await nothing_left(before)

    return checked


def test_hanging_up() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            await pictures(call, 2)
            await call.hang_up()
            assert (call.pc2.hung_up, call.hung_up, call.closed) == (True, True, True)
            assert len(logged(call, "receive bye", "pc2")) == len(logged(call, "send bye", "pc1")) == 1
            shown, sent = call.pc2.picture, call.track.picture
            events, received = len(call.log.events), call.meter.received
            await asyncio.sleep(0.2)
            assert call.pc2.picture is shown
            assert call.track.picture is sent
            assert (len(call.log.events), call.meter.received) == (events, received)
            await asyncio.gather(call.close(), call.close())
            await call.close()
            assert len(call.log.events) == events
            assert {peer.pc.connectionState for peer in (call.pc1, call.pc2)} == {"closed"}

    run(alone(scenario)())


@pytest.mark.parametrize("ending", [Call.close, Call.hang_up], ids=["close", "hang up"])
def test_a_call_can_end_after_every_step(ending: Callable[[Call], Awaitable[None]]) -> None:
    async def scenario() -> None:
        for count in range(len(STEPS) + 1):
            call = Call(SyntheticSource(160, 120, 30))
            for step in call.steps[:count]:
                await step.run()
            await ending(call)
            assert call.closed

    run(alone(scenario)())


def test_a_call_can_be_cut_at_any_moment() -> None:
    async def scenario() -> None:
        for turns in range(0, 120, 3):  # turns of the event loop
            call = Call(SyntheticSource(160, 120, 30))
            running = asyncio.create_task(call.run())
            for _ in range(turns):
                await asyncio.sleep(0 if turns < 90 else 0.001)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await call.close()

    run(alone(scenario)())


def test_a_failed_call_leaves_nothing() -> None:
    async def scenario() -> None:
        for edit in (changed("a=fingerprint", one_digit), without("offer"), without("candidate", "end-of-candidates")):
            async with calling(channels=wires(edit, edit), deadline=0.3) as call:
                assert await failing(call)

    run(alone(scenario)())


def test_a_hundred_calls_leave_nothing() -> None:
    async def one_call() -> None:
        async with calling() as call:
            await call.run()
            assert call.pc2.picture is not None

    async def scenario() -> None:
        await one_call()  # what stays for good, stays after the first one
        gc.collect()
        before = held()
        for _ in range(100):
            await one_call()
        await nothing_left(before)
        assert all(fewer <= 0 for fewer in (held() - before).values())

    run(scenario(), 60)


def test_four_calls_at_once() -> None:
    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            codecs = ("VP8", "H264", "VP8", "H264")
            calls = [await stack.enter_async_context(calling(codec=codec)) for codec in codecs]
            await asyncio.gather(*(call.run() for call in calls))
            await asyncio.gather(*(pictures(call, 10) for call in calls))
            assert [call.meter.misread for call in calls] == [0, 0, 0, 0]
            ends = [end for call in calls for end in call.selected_pair]
            assert len(set(ends)) == 8
            await calls[0].hang_up()
            await asyncio.gather(*(pictures(call, 5) for call in calls[1:]))

    run(alone(scenario)())


def udp_sockets() -> list[str]:
    """Return the local addresses, in hexadecimal, of this process's UDP sockets."""
    mine = {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
    rows = itertools.chain.from_iterable(
        Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        for table in ("udp", "udp6")
        if Path(f"/proc/net/{table}").exists()
    )
    return [row.split()[1] for row in rows if f"socket:[{row.split()[9]}]" in mine]


@pytest.mark.skipif(not Path("/proc/net/udp").exists(), reason="reads Linux's /proc")
def test_no_socket_is_bound_outside_this_machine() -> None:
    async def scenario() -> None:
        async with calling() as call:
            for step in call.steps:
                await step.run()
                bound = udp_sockets()
                assert all(address.startswith("0100007F:") for address in bound)  # 127.0.0.1
            assert len(bound) == 2
            ports = {f"127.0.0.1:{int(address.split(':')[1], 16)} host udp" for address in bound}
            assert ports == set(call.selected_pair)
            gathered = json.dumps([call.pc1.pc.localDescription.sdp, call.pc2.pc.localDescription.sdp])
            assert gathered.count("a=candidate") == 2
        assert udp_sockets() == []

    run(scenario())

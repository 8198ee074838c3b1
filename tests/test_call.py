"""The call: what arrives is what was sent, step by step; what goes wrong is named; nothing is left behind."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import gc
import itertools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Generator
from pathlib import Path
from typing import Any, NoReturn

import aioice
import numpy as np
import pytest
from aiortc import RTCRtpReceiver, RTCRtpTransceiver
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtp import RtpPacket
from conftest import run, run_at_once
from faults import Edit, Keeping, as_sent, calling, changed, check_arrived, clock, logged, pictures, wires, without
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
    Reader,
    SyntheticSource,
    is_key_picture,
    memory_channel,
    read_time_code,
)

# ---- What arrives is what was sent -----------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_the_pictures_that_arrive_are_the_pictures_sent(codec: str) -> None:
    """In an even, an odd and a larger size, from both jitter buffers."""

    async def scenario(size: tuple[int, int], marker_bit: bool) -> None:
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
        check_arrived(received, source.kept)
        assert call.meter.sent - len(received) == (0 if marker_bit else 1)  # stock keeps the last one for ever
        assert (call.meter.received, call.meter.misread) == (len(received), 0)
        assert call.pc2.picture is received[-1]

    run_at_once(scenario, itertools.product([(160, 120), (161, 121), (320, 240)], [True, False]))


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
            assert any(np.array_equal(source.kept[number][20:], slot) for slot in slots)
        finally:
            await call.close()

    run(scenario())


def test_muted_the_pictures_are_black_and_numbered() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            call.mute()
            await pictures(call, 10)
            assert call.pc2.picture is not None
            assert read_time_code(call.pc2.picture) is not None
            assert call.pc2.picture[20:].mean() < 20
            call.mute()
            await pictures(call, 10)
            assert call.pc2.picture[20:].mean() > 60
            assert call.meter.misread == 0
            assert [event.what for event in call.log.events if "mute" in event.what] == ["mute", "unmute"]

    run(scenario())


# ---- The log ---------------------------------------------------------------------------------------------------------


def test_every_state_call_and_message_is_in_the_log_once() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            await pictures(call, 2)
            await call.hang_up()
        by_peer = {
            peer.name: {
                state: [event.detail.removeprefix("→ ") for event in logged(call, state, peer.name)]
                for state in (*peer.states, "dtlsState")
            }
            for peer in (call.pc1, call.pc2)
        }
        for name, first in (("pc1", "have-local-offer"), ("pc2", "have-remote-offer")):
            assert by_peer[name] == {
                "signalingState": [first, "stable", "closed"],
                "iceGatheringState": ["gathering", "complete"],
                "iceConnectionState": ["checking", "completed", "closed"],
                "connectionState": ["connecting", "connected", "closed"],
                "dtlsState": ["connecting", "connected", "closed"],
            }
        rest = [(event.who, event.what) for event in call.log.events if event.what not in by_peer["pc1"]]
        receive = ["receive candidate", "addIceCandidate", "receive end-of-candidates", "addIceCandidate(null)"]
        send = ["send candidate", "send end-of-candidates"]
        expected = {
            "pc1": [
                *("new RTCPeerConnection", "addTrack", "setCodecPreferences", "createOffer"),
                *("setLocalDescription(offer)", "send offer"),
                *(*send, "receive answer", "setRemoteDescription(answer)", *receive, "connected", "send bye", "close"),
            ],
            "pc2": [
                *("new RTCPeerConnection", "receive offer", "setRemoteDescription(offer)", "track", *receive),
                *("createAnswer", "setLocalDescription(answer)", "send answer", *send, "connected", "first picture"),
                *("receive bye", "close"),
            ],
            "call": ["closed"],
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
            assert "127.0.0.1:" in str(call.pc1.selected_pair)
        assert seen == list(log.events)
        assert repr(log).splitlines() == [str(event) for event in seen]
        event = Event(0.0123456, "pc1", "createOffer", "video")
        assert str(event).split() == ["12.3", "ms", "pc1", "createOffer", "video"]
        assert "\n" not in repr(event)
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


@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_a_call_without_loss_asks_for_no_key_picture(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def note(receiver: RTCRtpReceiver, ssrc: int) -> None:
        asked.append(ssrc)

    monkeypatch.setattr(RTCRtpReceiver, "_send_rtcp_pli", note)

    async def scenario() -> None:
        async with calling(size=(640, 480), codec=codec) as call:  # large: a picture is many packets
            await call.run()
            await pictures(call, 20)
            assert call.meter.misread == 0
            assert asked == []

    run(scenario())


def test_a_moved_buffer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiortc.rtcrtpreceiver.JitterBuffer", lambda **_: None)

    async def scenario() -> None:
        async with calling() as call:
            with pytest.raises(CallError, match="--jitter-buffer stock"):
                await call.run()

    run(scenario())


Frame = tuple[int, bytes]
KEY = b"\x10\x02\x00\x9d\x01\x2a"  # a VP8 key picture begins so (RFC 6386, section 9.1)


def packets_of(sizes: list[int], first: int = 7, keys: Collection[int] = (0,)) -> list[RtpPacket]:
    """Return the packets of frames of so many packets each, the first with that sequence number."""
    found: list[RtpPacket] = []
    for frame, size in enumerate(sizes):
        for part in range(size):
            number = (first + len(found)) % 65536
            packet = RtpPacket(sequence_number=number, timestamp=frame * 3000, marker=int(part == size - 1))
            start = KEY if frame in keys and part == 0 else b""
            vars(packet)["_data"] = start + f"{frame}.{part} of {size};".encode()  # what aiortc's receiver adds
            found.append(packet)
    return found


def frames_of(sizes: list[int], keys: Collection[int] = (0,)) -> list[Frame]:
    return [
        (
            frame * 3000,
            (KEY if frame in keys else b"") + "".join(f"{frame}.{part} of {size};" for part in range(size)).encode(),
        )
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
    given = fed(MarkerJitterBuffer(), packets)
    assert [frame for frame in given if frame] == frames_of(sizes)
    assert [frame is not None for frame in given] == [bool(packet.marker) for packet in packets]


@pytest.mark.parametrize("size", [1, 127, 128, 129, 200, 400])
def test_a_frame_of_many_packets_is_released_too(size: int) -> None:
    sizes = [size, 2, size, 1]
    assert [frame for frame in fed(MarkerJitterBuffer(), packets_of(sizes)) if frame] == frames_of(sizes)


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
    with clock():
        own = [frame for frame in fed(MarkerJitterBuffer(), packets) if frame]
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
    with clock() as at:
        buffer = MarkerJitterBuffer()
        assert [frame for frame in fed(buffer, arriving) if frame] == frames_of(sizes)[:whole]
        at.now += 0.4
        (frame,) = fed(buffer, [packets[lost]])  # it was only late
    assert frame == (frames_of(sizes)[whole] if whole else frames_of(sizes)[0])


def test_nothing_is_given_before_a_key_picture_and_one_is_asked_for() -> None:
    sizes = [2] * 40
    with clock() as at:
        buffer, asked = MarkerJitterBuffer(), []
        for packet in packets_of(sizes, keys=(30,)):
            at.now += 0.0125  # a frame of two packets in 25 ms
            ask, frame = buffer.add(packet)
            asked += [at.now] if ask else []
            number = packet.timestamp // 3000
            assert frame is None or (packet.marker and number >= 30)
            assert frame is not None or not packet.marker or number < 30
    assert len(asked) == 4  # in 0.75 s: at once, then again each 0.2 s
    assert min(later - sooner for sooner, later in itertools.pairwise(asked)) > 0.2


@pytest.mark.parametrize(("packets_later", "seconds_later"), [(128, 0.0), (10, 0.51)], ids=["many packets", "long"])
def test_an_old_gap_is_given_up_and_a_key_picture_asked_for(packets_later: int, seconds_later: float) -> None:
    sizes, keys, lost = [2] * 200, (0, 100), 21  # the second packet of frame 10
    packets, frames = packets_of(sizes, keys=keys), frames_of(sizes, keys)
    with clock() as at:
        buffer = MarkerJitterBuffer()
        before = fed(buffer, packets[:lost])
        assert [frame for frame in before if frame] == frames[:10]
        waiting = [buffer.add(packet) for packet in packets[lost + 1 : lost + packets_later]]
        assert waiting == [(False, None)] * (packets_later - 1)
        at.now += seconds_later
        asks, after = zip(*map(buffer.add, packets[lost + packets_later :]), strict=True)
        assert asks.index(True) <= 2
        assert [(frame.timestamp, frame.data) for frame in after if frame] == frames[100:]
        assert buffer.add(packets[lost]) == (False, None)  # much too late


@given(st.data())
@settings(max_examples=200)
def test_whatever_is_lost_only_what_can_be_decoded_is_given(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=5, max_size=60)) + [3] * 120
    keys = {0, *range(len(sizes) - 100, len(sizes), 10)} | data.draw(st.sets(st.integers(1, len(sizes)), max_size=5))
    packets, frames = packets_of(sizes, data.draw(firsts), keys), frames_of(sizes, keys)
    disturbed = len(packets) - 3 * 100
    lost = data.draw(st.sets(st.integers(0, disturbed - 1), max_size=20))
    given: list[Frame] = []
    with clock() as at:
        buffer = MarkerJitterBuffer()
        for number, packet in enumerate(packets):
            at.now += 0.01
            frame = None if number in lost else buffer.add(packet)[1]
            given += [(frame.timestamp, frame.data)] if frame else []
    assert set(given) <= set(frames), "a frame that is not whole"
    numbers = [timestamp // 3000 for timestamp, _ in given]
    assert numbers[0] in keys
    assert all(later in keys or later == sooner + 1 for sooner, later in itertools.pairwise(numbers))
    assert numbers == sorted(numbers)
    assert given[-1] == frames[-1], "it never went on"


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (KEY, True),
        (b"\x11\x02\x00\x01\x02\x03 later picture", False),
        (b"\0\0\0\1\x67 parameters", True),
        (b"\0\0\0\1\x65 a whole picture", True),
        (b"\0\0\0\1\x41 a later picture", False),
        (b"\0\0\0\1", False),
        (b"\0\0", False),
        (b"", False),
    ],
)
def test_key_pictures_are_known(data: bytes, key: bool) -> None:
    assert is_key_picture(data) is key


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


def test_other_addresses_are_offered_besides_for_somebody_on_another_machine() -> None:
    own = list(aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=False))
    with LoopbackOnly(here_only=False):
        assert addresses() == ["127.0.0.1", *own]
    assert list(aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=False)) == own


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


def one_digit(line: str) -> str:
    """Change the first hexadecimal digit of a fingerprint's value."""
    start, _, value = line.partition(" ")
    return f"{start} {'1' if value[0] == '0' else '0'}{value[1:]}"


def sides(edit: Edit) -> list[tuple[Edit, Edit]]:
    """Return what pc1 and pc2 say where one of them, or both, are edited."""
    return [(edit, as_sent), (as_sent, edit), (edit, edit)]


async def failing(call: Call) -> str:
    """Run the call; return the text of the CallError that ends it. It must be one line, and no picture be shown."""
    with pytest.raises(CallError) as caught:
        await call.run()
    await asyncio.sleep(0.2)
    assert call.pc2.picture is None
    assert call.meter.received == 0
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def running(call: Call) -> None:
    """Run the call, and watch it until it breaks."""
    await call.run()
    await pictures(call, 10_000)


def test_a_wrong_fingerprint_shows_no_picture() -> None:
    async def scenario(pc1_says: Edit, pc2_says: Edit) -> None:
        async with calling(channels=wires(pc1_says, pc2_says), deadline=10) as call:
            text = await failing(call)
            assert "fingerprint" in text
            assert "DTLS failed" in text
            assert "ICE checks go unanswered" not in text

    run_at_once(scenario, sides(changed("a=fingerprint", one_digit)))


def test_a_wrong_ice_password_is_named() -> None:
    wrong = changed("a=ice-pwd", lambda line: "a=ice-pwd:" + "x" * 22 + "\r\n")

    async def scenario(pc1_says: Edit, pc2_says: Edit) -> None:
        async with calling(channels=wires(pc1_says, pc2_says), deadline=0.6) as call:
            text = await failing(call)
            assert text.startswith("not connected after 0.6 s")
            assert "ICE checks go unanswered" in text
            assert "ICE password" in text
            assert "ICE checking" in text

    run_at_once(scenario, sides(wrong))


def test_candidates_lost_both_ways_are_named() -> None:
    async def scenario() -> None:
        lost = without("candidate")
        async with calling(channels=wires(lost, lost), deadline=0.6) as call:
            text = await failing(call)
            assert "candidates did not arrive" in text
            assert "fingerprint" not in text

    run(scenario())


def test_candidates_lost_one_way_are_learned_or_missed() -> None:
    # Who has been told of no candidate gives up with the end of candidates, unless a check has come by then, which
    # tells where it comes from (RFC 8445, section 7.3.1.3). Then the call is as good as any other.
    async def scenario(pc1_says: Edit, pc2_says: Edit, wait: float) -> None:
        async with calling(channels=wires(pc1_says, pc2_says), deadline=1) as call:
            failure = ""
            try:
                for step in call.steps:
                    await asyncio.sleep(wait)
                    await step.run()
                await pictures(call, 2)
            except CallError as error:
                failure = str(error)
            assert (
                ("candidates did not arrive" in failure)
                if failure
                else ("127.0.0.1:" in call.pc1.selected_pair.local and call.meter.misread == 0)
            )

    one_way = sides(without("candidate"))[:2]
    run_at_once(scenario, [(*edits, wait) for edits in one_way for wait in (0, 0.1)])


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in turns"])
def test_a_message_that_never_comes_is_named(at_once: bool) -> None:
    async def scenario(pc1_loses: tuple[str, ...], pc2_loses: tuple[str, ...], who: str, missing: str) -> None:
        async with calling(channels=wires(without(*pc1_loses), without(*pc2_loses)), deadline=0.5) as call:
            with pytest.raises(CallError) as caught:
                await call.run(None if at_once else call.steps)
            text = str(caught.value)
            # Told of no candidate, pc1 learns where pc2 is from pc2's checks.
            connected = (who, missing) == ("pc1", "candidate")
            assert text.startswith("no picture after 0.5 s" if connected else "not connected after 0.5 s"), text
            awaited = "candidate or end-of-candidates" if missing == "candidate" else missing
            assert text.endswith(f"Likely cause: {who} still waits for the {awaited}"), text
            assert text.count("signalling ") == 2

    cases = [
        (("offer",), (), "pc2", "offer"),
        ((), ("answer",), "pc1", "answer"),
        (("end-of-candidates",), (), "pc2", "candidate"),
        ((), ("candidate", "end-of-candidates"), "pc1", "candidate"),
    ]
    run_at_once(scenario, cases)


def test_no_common_codec_is_named_and_soon() -> None:
    # Another offer may still come, but not for long: the text comes after a second, not after the whole deadline.
    other = changed("a=rtpmap:97 ", lambda line: line.replace("VP8", "VP9"))

    async def scenario(edits: tuple[Edit, Edit], kind: str, who: str) -> None:
        async with calling(channels=wires(*edits), deadline=30) as call:
            async with asyncio.timeout(10):
                text = await failing(call)
            (refused,) = logged(call, f"refused {kind}", who)
            assert refused.detail == "no video codec in common"
            assert f"{kind} refused by {who}: no video codec in common" in text

    offered, answered, _ = sides(other)
    run_at_once(scenario, [(offered, "offer", "pc2"), (answered, "answer", "pc1")])


def test_what_was_refused_long_ago_is_not_blamed() -> None:
    # A broken offer is refused, the real one is taken; then pc1's candidates never come.
    async def scenario() -> None:
        def edit(message: Message) -> list[Message | str]:
            return {"offer": [message | {"sdp": "v=0"}, message], "end-of-candidates": []}.get(
                message["type"], [message]
            )

        async with calling(channels=wires(edit), deadline=0.5) as call:
            text = await failing(call)
            assert len(logged(call, "refused offer", "pc2")) == 1
            assert "refused" not in text
            assert "pc2 still waits for the candidate or end-of-candidates" in text

    run(scenario())


class Sluggish:
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


def test_the_deadline_is_kept_by_the_whole_call() -> None:
    """Where every message is late, and where one is never sent."""

    async def scenario(seconds: float) -> None:
        one, two = memory_channel()
        async with calling(channels=(Sluggish(one, seconds), Sluggish(two, seconds)), deadline=0.7) as call:
            assert "after 0.7 s" in await failing(call)

    run_at_once(scenario, [0.3, 3600], 8)  # a step of its own, each 0.7 s and more, would not be over by then


def test_hanging_up_during_set_up_is_heard() -> None:
    async def scenario() -> None:
        for kind in ("offer", "candidate", "end-of-candidates"):

            def edit(message: Message, kind: str = kind) -> list[Message | str]:
                return [{"type": "bye"}, message] if message["type"] == kind else [message]

            for edits, who in (((edit, as_sent), "pc2"), ((as_sent, edit), "pc1")):
                if who == "pc1" and kind == "offer":
                    continue  # it answers
                async with calling(channels=wires(*edits), deadline=30) as call:
                    async with asyncio.timeout(10):
                        with pytest.raises(CallError, match=f"^{who}: the other side hung up meanwhile$"):
                            await call.run()
                    assert call.hung_up

    run(scenario())


# ---- No picture ------------------------------------------------------------------------------------------------------


def test_a_source_that_gives_no_picture_is_named() -> None:
    class Lazy(SyntheticSource):
        async def next(self) -> tuple[Picture, float]:
            await asyncio.sleep(3600)
            return await super().next()

    async def scenario() -> None:
        call = Call(Lazy(160, 120, 30), deadline=1.5)
        try:
            text = await failing(call)
            assert "no picture" in text.partition(" after ")[0]
            assert "not connected" not in text
            assert text.count("connection connected") == 2
            assert text.endswith("Likely cause: the source gives no picture")
        finally:
            await call.close()

    run(scenario())


def test_pictures_that_are_all_lost_are_not_blamed_on_the_source() -> None:
    async def scenario() -> None:
        async with calling(deadline=1.5) as call:
            for step in call.steps[:3]:
                await step.run()
            for protocol in protocols(call.pc1):

                async def lossy(data: bytes, *address: Any, send: Any = protocol.send_data) -> None:
                    if not (128 <= data[0] < 192 and not 192 <= data[1] < 224):  # RTP (RFC 7983, RFC 5761)
                        await send(data, *address)

                protocol.send_data = lossy  # type: ignore[method-assign]
            with pytest.raises(CallError) as caught:
                await call.run(call.steps[3:])
            text = str(caught.value)
            assert call.meter.sent > 0
            assert (call.meter.received, call.pc2.picture) == (0, None)
            assert "no picture" in text.partition(" after ")[0]
            assert "not connected" not in text
            assert text.endswith("pictures were sent, but none arrived whole: the network loses packets")

    run(scenario())


class Failing(SyntheticSource):
    """A source that fails in the midst of the call."""

    def __init__(self, failure: Exception) -> None:
        super().__init__(160, 120, 30)
        self.failure = failure

    async def next(self) -> tuple[Picture, float]:
        if self._slot >= 5:
            raise self.failure
        return await super().next()


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (CallError("the lens fell off"), r"^the lens fell off$"),
        (ZeroDivisionError("no light"), r"^the source failed with ZeroDivisionError\('no light'\)"),
        (AttributeError("no \x1b[2J lens"), r"^the source failed with AttributeError\([^\x1b]*lens"),
    ],
    ids=["CallError", "ZeroDivisionError", "AttributeError"],
)
def test_a_source_that_fails_is_named(failure: Exception, words: str) -> None:
    async def scenario() -> None:
        call = Call(Failing(failure))
        try:
            await call.run()
            with pytest.raises(CallError, match=words) as caught:
                await pictures(call, 100)
            assert caught.value is failure or caught.value.__cause__ is failure
        finally:
            await call.close()

    run(scenario())


def counted(stop: threading.Event) -> Generator[tuple[Picture, float]]:
    """Give two pictures, and then divide by zero."""
    for number in (2, 1, 0):
        yield np.full((120, 160, 3), 60 // number, np.uint8), time.perf_counter()
        stop.wait(0.03)


def test_an_unforeseen_error_in_a_sources_thread_comes_out() -> None:
    async def scenario() -> None:
        def at_once(stop: threading.Event) -> Generator[int]:
            yield 1 // 0

        reader = Reader("broken", at_once)
        for use in (reader.ready, reader.next):
            with pytest.raises(ZeroDivisionError):
                await use()
        await reader.close()
        reader = Reader("broken later", lambda stop: (6 // number for number in (3, 2, 0)), keep=9)
        await asyncio.to_thread(reader._thread.join, 5)
        assert [await reader.next(), await reader.next()] == [2, 3]  # what was read before is not lost
        for use in (reader.ready, reader.next):
            with pytest.raises(ZeroDivisionError):
                await use()
        await reader.close()

    run(scenario())


def test_an_unforeseen_error_in_a_sources_thread_ends_the_call() -> None:
    async def scenario() -> None:
        call = Call(Reader("broken", counted), deadline=10)
        try:
            with pytest.raises(CallError, match=r"^the source failed with ZeroDivisionError\(") as caught:
                await running(call)
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
        finally:
            await call.close()

    run(scenario())


# ---- Own bugs are not hidden -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bug", [AttributeError, TypeError, AssertionError, ValueError, LookupError])
@pytest.mark.parametrize("place", ["describe_sdp", "check_candidate"])
def test_a_bug_in_what_apply_uses_comes_out_as_it_is(
    monkeypatch: pytest.MonkeyPatch, place: str, bug: type[Exception]
) -> None:
    def buggy(*_: Any) -> NoReturn:
        raise bug("ours")

    async def scenario() -> None:
        async with calling(deadline=10) as call:
            for step in call.steps[:3]:
                await step.run()
            monkeypatch.setattr(loopback, place, buggy)
            with pytest.raises(bug, match=r"^'?ours'?$"):
                await call.run(call.steps[3:])
            assert logged(call, "refused") == []

    run(scenario())


@pytest.mark.parametrize(
    ("who", "what"),
    [
        ("pc2", "setRemoteDescription(offer)"),  # said by apply() itself
        ("pc2", "signalingState"),  # said by a handler that aiortc calls, in the midst of setRemoteDescription
        ("pc2", "track"),
        ("pc1", "iceConnectionState"),  # and in a task of aiortc's own
    ],
)
@pytest.mark.parametrize("bug", [AttributeError, TypeError, AssertionError])
def test_a_bug_in_a_listener_of_the_log_comes_out_as_it_is(bug: type[Exception], who: str, what: str) -> None:
    def listener(event: Event) -> None:
        if (event.who, event.what) == (who, what) and "closed" not in event.detail:
            raise bug("ours")

    async def scenario() -> None:
        async with calling(log=Log(listener), deadline=10) as call:
            with pytest.raises(bug, match=r"^ours$"):
                await call.run()
            assert logged(call, "refused") == []

    run(scenario())


def test_a_bug_in_what_takes_the_pictures_comes_out_as_it_is() -> None:
    async def scenario() -> None:
        async with calling(deadline=10) as call:

            def buggy(picture: Picture) -> None:
                raise TypeError("ours")

            call.pc2.on_picture = buggy
            with pytest.raises(TypeError, match=r"^ours$"):
                await running(call)

    run(scenario())


# ---- Silence, and the end of a peer ----------------------------------------------------------------------------------


def attentive(call: Call) -> None:
    """Let a call notice silence sooner."""
    for peer in call.peers:
        peer.health.SILENCE = 1.6  # RTCP comes every 1.5 s


def protocols(peer: Peer) -> list[aioice.ice.StunProtocol]:
    ice = peer.pc.getReceivers()[0].transport.transport
    found = vars(vars(ice)["_connection"])["_protocols"]
    assert found
    return list(found)


def silence(peer: Peer) -> None:
    """From now on no datagram of this peer leaves it."""

    async def nothing(*_: Any) -> None: ...

    for protocol in protocols(peer):
        protocol.send_data = nothing  # type: ignore[method-assign]
        protocol.send_stun = lambda *_: None  # type: ignore[method-assign]


def test_a_peer_that_falls_silent_is_named() -> None:
    async def scenario(name: str, other: str) -> None:
        async with calling() as call:
            await call.run()
            attentive(call)
            silence(getattr(call, name))
            words = f"^the other side vanished: {other} got no datagram for 1.6 s, and no bye$"
            with pytest.raises(CallError, match=words):
                await pictures(call, 10_000)

    run_at_once(scenario, [("pc1", "pc2"), ("pc2", "pc1")])


def test_a_peer_whose_sockets_die_is_noticed() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            attentive(call)
            for protocol in protocols(call.pc1):
                protocol.transport.abort()
            with pytest.raises(CallError, match=r"pc[12] (is|got)"):
                await pictures(call, 10_000)

    run(scenario())


@pytest.mark.parametrize("name", ["pc1", "pc2"])
def test_a_peer_that_closes_without_bye_is_named(name: str) -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            await getattr(call, name).pc.close()
            with pytest.raises(CallError, match=r"^pc[12] is closed") as caught:
                await pictures(call, 10_000)
            assert str(caught.value).endswith("the connection was up and has ended")

    run(scenario())


def test_a_call_that_goes_well_is_never_called_silent() -> None:
    async def scenario() -> None:
        async with calling(fps=2) as call:
            await call.run()
            attentive(call)
            await pictures(call, 5)
            assert call.pc1.health.bytes_sent > 0
            assert call.pc1.health.packets_lost == 0

    run(scenario())


# ---- A busy machine --------------------------------------------------------------------------------------------------


async def hold_up() -> None:
    """Hold up the event loop again and again, as other programs would that take the processor away."""
    while True:
        time.sleep(0.2)  # noqa: ASYNC251 - that is the point
        await asyncio.sleep(0.05)


def test_a_busy_machine_is_named_with_what_helps() -> None:
    async def scenario(lost: str) -> None:
        async with calling(channels=wires(without(lost), without(lost)), deadline=2) as call:
            busy = asyncio.create_task(hold_up())
            try:
                text = await failing(call)
            finally:
                busy.cancel()
            assert text.startswith("not connected after 2 s. This machine is too busy")
            assert "--deadline" in text
            assert "--size" in text
            assert "pc1: signalling have-local-offer" in text

    run_at_once(scenario, ["offer", "answer"])


def test_a_machine_that_is_not_busy_is_not_blamed() -> None:
    async def scenario() -> None:
        texts: list[str] = []
        while not texts or ("busy" in texts[-1] and len(texts) < 4):  # it may really be busy for a moment
            async with calling(size=(640, 480), channels=wires(as_sent, without("answer")), deadline=1) as call:
                texts.append(await failing(call))
        assert "busy" not in texts[-1]
        assert texts[-1].endswith("pc1 still waits for the answer")

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
        for count in range(17):
            call = Call(SyntheticSource(160, 120, 30))
            assert len(call.steps) == 16
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


def test_a_call_that_connects_while_it_is_being_closed_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # aiortc stops its senders and receivers first, and may start them after that, when DTLS is done meanwhile.
    stop = RTCRtpTransceiver.stop

    async def slowly(transceiver: RTCRtpTransceiver) -> None:
        await stop(transceiver)
        await asyncio.sleep(0.5)

    async def scenario() -> None:
        for count in (11, 13):
            call = Call(SyntheticSource(160, 120, 30))
            for step in call.steps[:count]:
                await step.run()
            monkeypatch.setattr(RTCRtpTransceiver, "stop", slowly)
            await call.close()
            monkeypatch.undo()

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
            ends = [end for call in calls for end in call.pc1.selected_pair]
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
            assert ports == set(call.pc1.selected_pair)
            assert call.pc2.selected_pair == call.pc1.selected_pair[::-1]
            gathered = json.dumps([call.pc1.pc.localDescription.sdp, call.pc2.pc.localDescription.sdp])
            assert gathered.count("a=candidate") == 2
        assert udp_sockets() == []

    run(scenario())

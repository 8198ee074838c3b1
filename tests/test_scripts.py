"""The two scripts: merged, at once, with another process at the other end, both ways, and a peer on its own."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import colorsys
import contextlib
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import other_process
import pytest
from aiortc import RTCDataChannel
from aiortc.exceptions import InvalidStateError
from conftest import PROGRAM, run, run_at_once
from faults import Keeping, Said, calling, check_arrived, logged, pictures, wires, without
from hypothesis import given
from hypothesis import strategies as st

from loopback import (
    Call,
    CallError,
    Done,
    Log,
    OutgoingTrack,
    Peer,
    Picture,
    Step,
    SyntheticSource,
    callee,
    caller,
    in_turns,
    memory_channel,
    play,
    read_time_code,
)

# ---- In turns --------------------------------------------------------------------------------------------------------

# who, what, and the states that the step's Done names at least
CHANGES: list[tuple[str, str, tuple[str, ...]]] = [
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
    ("pc1", "connect", ()),
    ("pc2", "connect", ()),
    ("pc2", "first picture", ()),
]
STEPS = [(who, what) for who, what, _ in CHANGES]
BACK = [*STEPS[:7], ("pc2", "addTrack"), *STEPS[7:14], ("pc1", "first picture"), *STEPS[14:]]


def test_the_list_of_steps() -> None:
    async def scenario() -> None:
        async with calling() as call:
            assert [(step.who, step.what) for step in call.steps] == STEPS
            merged = in_turns(caller(call.pc1, call.track), callee(call.pc2))
            assert [(step.who, step.what) for step in merged] == STEPS
            one, two = call.scripts
            assert ([step.what for step in one], {step.peer for step in one}) == (
                [what for who, what in STEPS if who == "pc1"],
                {call.pc1},
            )
            assert ([step.what for step in two], {step.peer for step in two}) == (
                [what for who, what in STEPS if who == "pc2"],
                {call.pc2},
            )
        async with calling(back=SyntheticSource(160, 120, 30, night=True)) as call:
            assert [(step.who, step.what) for step in call.steps] == BACK

    run(scenario())


def test_every_step_says_what_it_is_for() -> None:
    async def scenario() -> None:
        async with calling(back=SyntheticSource(160, 120, 30)) as call:
            for step in call.steps:
                assert len(step.why.split()) > 8, step
                assert step.why[0].isupper()
                assert step.why.endswith((".", ".)"))
                assert "  " not in step.why
                assert "\n" not in step.why
            # A word of its own for each thing that is done; both sides say the same of the same.
            assert len({step.why for step in call.steps}) == 10

    run(scenario())


class Named:
    """All that a merge needs to know of a peer."""

    def __init__(self, name: str) -> None:
        self.name = name


async def nothing() -> Done:
    return Done("", "")


@st.composite
def finishable(draw: st.DrawFn) -> tuple[list[Step], list[Step]]:
    """Two scripts that can be finished: cut from one list in which every message is sent before it is needed."""
    peers: Any = (Named("one"), Named("two"))
    scripts: tuple[list[Step], list[Step]] = ([], [])
    for number in range(draw(st.integers(0, 20))):
        side = draw(st.integers(0, 1))
        known = sorted({step.sends for step in scripts[1 - side]} | {""})
        needs = draw(st.sampled_from(known))
        sends = draw(st.sampled_from(["", "offer", "answer", "candidates"]))
        scripts[side].append(Step(peers[side], f"step {number}", nothing, sends, needs))
    return scripts


@given(finishable())
def test_what_is_needed_was_sent_before_and_what_was_sent_is_taken_up_at_once(scripts: Any) -> None:
    merged = in_turns(*scripts)
    assert sorted(step.what for step in merged) == sorted(step.what for script in scripts for step in script)
    for script, name in zip(scripts, ("one", "two"), strict=True):
        assert [step for step in merged if step.who == name] == script, "the order within a script has changed"
    sent: dict[str, set[str]] = {"one": {""}, "two": {""}}
    other = {"one": "two", "two": "one"}
    for place, step in enumerate(merged):
        assert step.needs in sent[other[step.who]], f"{step.what} needs what was not sent: {step.needs}"
        rival = next((later for later in merged[place:] if later.who != step.who), None)
        if rival and rival.needs and rival.needs in sent[step.who]:
            assert step.needs, "the other side could have taken up what it needs"
        sent[step.who].add(step.sends)


def test_scripts_that_wait_for_one_another_are_not_merged_for_ever() -> None:
    one: Any = Named("one")
    two: Any = Named("two")
    deaf = [Step(one, "listen", nothing, "word", "answer")], [Step(two, "listen", nothing, "answer", "word")]
    with pytest.raises(ValueError, match="the scripts wait for each other"):
        in_turns(*deaf)
    assert in_turns([], []) == []


@pytest.mark.parametrize("back", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in turns"])
def test_both_ways_to_play_end_with_pictures(at_once: bool, back: bool) -> None:
    async def scenario() -> None:
        night = SyntheticSource(160, 120, 30, night=True) if back else None
        async with calling(back=night) as call:
            await call.run(None if at_once else call.steps)
            await pictures(call, 3)
            assert call.meter.misread == 0
            order = [(event.who, event.what) for event in call.log.events]
            sent = order.index(("pc1", "send end-of-candidates"))
            received = order.index(("pc2", "receive offer"))
            assert (sent < received) is at_once  # pc1 has more to say before pc2 looks
            for moment, last in (("connected", "connected"), ("first picture", "first picture")):
                after = call.after(moment)
                if at_once:
                    assert after is not None
                    assert call.started + after == pytest.approx(logged(call, last)[-1].t)
                else:  # a reader's pauses are in between: no measurement
                    assert after is None
            assert call.after("what never happens") is None
            if at_once:
                assert 0 < (call.after("connected") or 0) <= (call.after("first picture") or 0)

    run(scenario())


def test_only_this_call_is_timed() -> None:
    async def scenario() -> None:
        log = Log()
        async with calling(log=log) as call:
            assert call.after("connected") is None
            await call.run()
            over = log.now()
        async with calling(log=log) as again:
            assert again.started >= over
            assert again.after("connected") is None
            await again.run()
            after = again.after("connected")
            assert after is not None
            assert 0 < after < log.now() - over
        async with calling(log=log, channels=wires(without("offer")), deadline=0.3) as failed:
            with pytest.raises(CallError):
                await failed.run()
            assert failed.after("connected") is None

    run(scenario())


def test_each_step_can_be_awaited_alone() -> None:
    """At once or with pauses, and with a long one before a step."""

    async def scenario(wait: float, long_before: int) -> None:
        async with calling() as call:
            for number, (step, (who, what, changes)) in enumerate(zip(call.steps, CHANGES, strict=True)):
                await asyncio.sleep(1 if number == long_before else wait)
                done = await step.run()
                assert isinstance(done, Done)
                assert done.who == who
                assert set(changes) <= set(done.changed), f"{what}: {done.changed}"
                assert all(change in repr(done) for change in changes)
                if what == "connect":
                    assert step.peer.pc.connectionState == "connected"
                    assert done.made == step.peer.selected_pair
                    if (who, wait, long_before) == ("pc1", 0, 10):  # else a step before may have seen the change
                        assert "connectionState connecting → connected" in done.changed
                if what == "first picture":
                    assert done.made is not None
                    assert read_time_code(done.made) is not None
                assert repr(done).startswith(f"{who}: ")
                assert "\n" not in repr(done)
                if what in ("createOffer", "send the offer", "createAnswer"):
                    assert (done.changed, done.made[:3]) == ((), "v=0")
                    assert "no state changed" in repr(done)
            await pictures(call, 5)
            assert call.meter.misread == 0

    run_at_once(scenario, [(0, 10), (0.05, 10), (0.05, 4), (0, 12), (0, 13), (0, 14)])


# ---- Both ways -------------------------------------------------------------------------------------------------------


def kept(peer: Peer) -> list[Picture]:
    """Return a list that will hold the pictures this peer receives."""
    received: list[Picture] = []
    timed = peer.on_picture

    def both(picture: Picture) -> None:
        received.append(picture)
        timed(picture)

    peer.on_picture = both
    return received


def test_both_ways_each_side_gets_the_other_sides_pictures() -> None:
    async def scenario(codec: str) -> None:
        day, night, channels = Keeping(160, 120, 30), Keeping(160, 120, 30, night=True), wires()
        call = Call(day, back=night, codec=codec, channels=channels)
        assert call.back is not None
        there, here = kept(call.pc2), kept(call.pc1)
        try:
            await call.run()
            assert (call.pc1.picture is not None, call.pc2.picture is not None) == (True, True)
            async with asyncio.timeout(10):
                while min(call.meter.received, call.back.meter.received) < 25:
                    await call.check()
                    await asyncio.sleep(0.005)
        finally:
            await call.close()
        assert call.back.meter is not call.meter
        for peer, received, track, source in ((call.pc2, there, call.track, day), (call.pc1, here, call.back, night)):
            meter = track.meter
            check_arrived(received, source.kept)
            assert (meter.received, meter.misread, len(meter.delays)) == (len(received), 0, len(received))
            assert meter.sent >= meter.received
            assert peer.picture is received[-1]
            assert len(logged(call, "first picture", peer.name)) == 1
        assert np.mean(here) < 0.6 * np.mean(there)  # by their light alone: the night is dark
        for wire in channels:  # one m-line serves both ways
            sdp = json.loads(wire.sent[0])["sdp"]
            assert (sdp.count("m=video"), sdp.count("a=sendrecv")) == (1, 1)

    run_at_once(scenario, ["VP8", "H264"])


# ---- Another process -------------------------------------------------------------------------------------------------


class Colours(SyntheticSource):
    """Plain pictures, each of another colour than the ones before and after it."""

    def draw(self, t: float) -> Picture:
        slot = round(t * self.fps)
        red, green, blue = colorsys.hsv_to_rgb(slot * 0.381966 % 1, 0.7, 0.8)
        return np.full((self.height, self.width, 3), (255 * blue, 255 * green, 255 * red), np.uint8)


class KeptColours(Keeping):
    """Those, kept."""

    draw = Colours.draw


@contextlib.asynccontextmanager
async def another_process() -> AsyncIterator[tuple[asyncio.subprocess.Process, other_process.SocketChannel]]:
    """Start the callee in a process of its own; give it, and the channel to it."""
    arrived: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Future()
    server = await asyncio.start_server(lambda *streams: arrived.set_result(streams), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        other_process.__file__,
        str(port),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(PROGRAM.parent)},
    )
    try:
        channel = other_process.SocketChannel(*await arrived)
        yield child, channel
        channel.writer.close()
    finally:
        server.close()
        if child.returncode is None:
            child.kill()
            await child.communicate()


def test_the_other_end_may_be_another_process() -> None:
    # Nothing in loopback.py knows of it: each process plays its script.
    async def scenario(codec: str) -> None:
        source = KeptColours(160, 120, 30)
        async with another_process() as (child, channel):
            track, peer = OutgoingTrack(source), Peer("pc1", channel, Log(), codec=codec, deadline=20)
            try:
                await play(caller(peer, track))
                while track.meter.sent < 40:
                    await peer.health.check()
                    await asyncio.sleep(0.005)
                track.stop()
                await asyncio.sleep(1)  # for the last ones to arrive
                await peer.hang_up()
                printed, errors = await child.communicate()
            finally:
                await track.retire()
                await peer.close()
        assert (child.returncode, errors.decode()) == (0, "")
        told = json.loads(printed)
        numbers = [number for number, _ in told["seen"]]
        # Every one, once, in order; but for what was sent before the other process had its keys for decrypting it.
        assert numbers == list(range(numbers[0], track.meter.sent))
        assert len(numbers) >= 20
        for number, colour in told["seen"]:
            assert colour == pytest.approx(other_process.colour(source.kept[number]), abs=8), f"picture {number}"
        # Pictures that follow each other differ by more than is forgiven.
        assert min(np.abs(one[24:].astype(int) - two[24:]).mean() for one, two in itertools.pairwise(source.kept)) > 24
        assert told["pair"] == list(peer.selected_pair[::-1])
        assert told["states"]["connectionState"] == "closed"

    run_at_once(scenario, ["VP8", "H264"], 60)


# ---- A peer on its own -----------------------------------------------------------------------------------------------


def real_offer() -> str:
    """Return an offer as it is sent."""

    async def scenario() -> str:
        async with calling(channels=(channels := wires())) as call:
            await play(call.scripts[0][:4])
        return str(json.loads(channels[0].sent[0])["sdp"])

    return str(run(scenario()))


CANDIDATE = {"type": "candidate", "candidate": "candidate:1 1 udp 2130706431 127.0.0.1 9 typ host", "sdpMid": "0"}


async def looked_at(peer: Peer, stage: str) -> None:
    """Fail unless a peer can be asked everything about itself, at any stage."""
    with pytest.raises(CallError) as caught:
        await peer.health.until(lambda: False, "not reached")
    text = str(caught.value)
    assert "\n" not in text
    assert "Likely cause: " in text
    assert loopback.diagnosis(peer) in text, stage
    assert all(state in text for state in peer.states.values())
    assert f"DTLS {peer.health.dtls_state}" in text
    await peer.health.read_stats()
    assert repr(peer).startswith(peer.name)
    assert "\n" not in repr(peer)
    layer, cause = peer.health.trouble
    assert isinstance(layer, int)
    assert cause in text


def test_a_caller_alone_can_be_asked_at_every_stage() -> None:
    async def scenario() -> None:
        source = SyntheticSource(160, 120, 30)
        peer = Peer("pc1", Said(), Log(), deadline=0.05)
        await looked_at(peer, "new")
        for step in caller(peer, OutgoingTrack(source)):
            if step.needs or step.what == "connect":
                with pytest.raises(CallError) as caught:
                    await step.run()
                assert "\n" not in str(caught.value)
            else:
                await step.run()
            await looked_at(peer, step.what)
        assert "still waits for" in loopback.diagnosis(peer)
        await peer.close()
        await looked_at(peer, "closed")
        await peer.close()

    run(scenario())


def test_a_callee_alone_can_be_asked_at_every_stage() -> None:
    offer = real_offer()

    async def scenario() -> None:
        channel = Said({"type": "offer", "sdp": offer}, CANDIDATE, {"type": "end-of-candidates"})
        peer = Peer("pc2", channel, Log(), deadline=0.05)
        for step in callee(peer):
            await looked_at(peer, f"before {step.what}")
            if step.what in ("connect", "first picture"):
                with pytest.raises(CallError) as caught:
                    await step.run()
                assert "ICE checks go unanswered" in str(caught.value)
            else:
                await step.run()
        assert peer.remote_candidates == [CANDIDATE["candidate"]]
        await looked_at(peer, "alone")
        await peer.close()
        await looked_at(peer, "closed")

    run(scenario())


@pytest.mark.parametrize("early", ["set_local_description", "create_answer"])
def test_a_step_too_early_is_named(early: str) -> None:
    async def scenario() -> None:
        peer = Peer("pc1", Said(), Log())
        try:
            with pytest.raises(InvalidStateError) as caught:
                await getattr(peer, early)()
            assert len(str(caught.value).split()) > 4
            if early == "set_local_description":
                assert "createOffer" in str(caught.value)
            assert peer.states["signalingState"] == "stable"
        finally:
            await peer.close()

    run(scenario())


def test_two_peers_with_only_a_data_channel() -> None:
    # The same scripts without a track: nothing in a peer takes a picture for granted.
    async def scenario() -> None:
        one, two = memory_channel()
        peers = pc1, pc2 = Peer("pc1", one, Log(), deadline=10), Peer("pc2", two, Log(), deadline=10)
        heard: asyncio.Future[str] = asyncio.Future()
        pc2.pc.on("datachannel", lambda channel: channel.on("message", heard.set_result))
        opened: asyncio.Future[None] = asyncio.Future()
        channel: RTCDataChannel = pc1.pc.createDataChannel("words")
        channel.on("open", lambda: opened.set_result(None))
        unused = OutgoingTrack(SyntheticSource(160, 120, 30))
        try:
            await looked_at_quickly(pc1)
            script = [step for step in caller(pc1, unused) if step.what != "addTrack"]
            await asyncio.gather(play(script), play(callee(pc2)[:-1]))  # nor the first picture
            if channel.readyState != "open":
                await opened
            channel.send("hello")
            assert await heard == "hello"
            for peer in peers:
                assert peer.health.dtls_state == "connected"
                await looked_at_quickly(peer)
            assert pc1.selected_pair == pc2.selected_pair[::-1]
            await pc1.hang_up()
            while not pc2.hung_up:
                await asyncio.sleep(0.005)
        finally:
            for peer in peers:
                await peer.close()

    run(scenario())


async def looked_at_quickly(peer: Peer) -> None:
    deadline, peer.deadline = peer.deadline, 0.05
    await looked_at(peer, "with a data channel")
    peer.deadline = deadline

"""Faults on the wire and in signalling: each does what its name says, and the same in every run."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import itertools
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import run
from faults import calling, pictures
from taps import tapped

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab import private
from lab.check import Mistake
from lab.faults import Cut, Delay, Loss, Reorder, change, delay, double, drop, faulty, hold
from lab.packets import decode
from lab.wire import Datagram, Tap

# ---- Faults on the wire ----------------------------------------------------------------------------------------------


def test_a_fifth_of_the_packets_lost_and_every_picture_arrives() -> None:
    async def scenario() -> None:
        async with tapped() as (call, tap):
            await pictures(call, 5)
            # Not the repairs: aiortc asks for a lost one again only when it misses the next packet.
            tap.faults.append(Loss(0.2, seed=3, codec="VP8"))
            await pictures(call, 60)
            tap.faults.clear()
            await pictures(call, 3)  # a loss shows by what comes after it
            await call.finish()
            lost, sent = sum(d.dropped for d in tap), len(tap.only("SRTP", "pc1", "out"))
            assert 0.05 * sent < lost < 0.4 * sent
            opener = private.srtp_sessions(call.pc1).incoming
            said = [decode(opener.unprotect_rtcp(d.data), protected=False) for d in tap.only("SRTCP", "pc1", "in")]
            nacks = [decoded for decoded in said if "NACK" in decoded.summary]
            numbers = {struct.unpack(">H", d.data[2:4])[0] for d in tap.only("SRTP") if d.dropped and d.codec == "VP8"}
            assert numbers & {number for nack in nacks for number in nack["lost packets"]}
            assert call.meter.received >= 0.9 * call.meter.sent  # a busy machine throws old ones away
            assert call.meter.misread == 0

    run(scenario())


def some(number: int, who: str = "pc1", layer: str = "SRTP") -> list[Datagram]:
    """Return datagrams that no peer has sent."""
    return [Datagram(0.0, who, "out", layer, bytes([128, 0, 0, index % 256])) for index in range(number)]


def decisions(fault: Any, datagrams: list[Datagram]) -> list[str]:
    """Return what a fault does to each datagram: pass, drop, or wait for so many seconds."""
    made: list[str] = []
    for datagram in datagrams:
        done: list[str] = []

        def later(seconds: float, forward: Any, done: list[str] = done) -> Any:
            done.append(f"wait {seconds}")
            return lambda: None

        fault.apply(datagram, lambda done=done: done.append("pass"), later)
        made.append(done[0] if done else "drop")
    return made


@pytest.mark.parametrize("make", [lambda s: Loss(0.3, s), lambda s: Delay(0.1, 0.1, s), lambda s: Reorder(0.3, s)])
def test_the_same_seed_makes_the_same_decisions(make: Any) -> None:
    first = decisions(make(1), some(200))
    assert first == decisions(make(1), some(200))
    assert first != decisions(make(2), some(200))
    mixed = [d for pair in zip(some(200), some(200, "pc2"), strict=True) for d in pair]
    assert decisions(make(1), mixed)[::2] == first


def test_a_fault_strikes_only_what_it_is_limited_to() -> None:
    async def scenario() -> None:
        async with tapped(Cut(layer="SRTCP", who="pc2")) as (call, tap):
            async with asyncio.timeout(5):
                while not (tap.only("SRTCP", "pc2", "out") and tap.only("SRTCP", "pc1", "out")):
                    await asyncio.sleep(0.02)
            await pictures(call, 5)
            assert not tap.only("SRTCP", "pc1", "in")
            assert tap.only("SRTCP", "pc2", "in")
            assert all(d.dropped == (d.layer == "SRTCP" and d.who == "pc2") for d in tap.only(direction="out"))

    run(scenario())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Loss(20), "fraction, from 0 to 1"),
        (lambda: Loss(0.1, layer="RTP"), "no layer 'RTP': there are STUN"),
        (lambda: Cut(direction="up"), "no direction 'up'"),
        (lambda: Delay(-1), "before it was sent"),
        (lambda: drop("answr"), "no message of type 'answr'"),
        (lambda: change("answr", str.upper), "no message of type 'answr'"),
        (lambda: change("bye", str.upper), "in the message bye: there are none"),
        (lambda: change("offer", str.upper, "spd"), "no text 'spd' in the message offer: there are sdp"),
    ],
)
def test_a_fault_that_could_never_strike_is_refused(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


def test_a_cut_wire_makes_the_other_peer_vanish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback.Health, "SILENCE", 1.0)

    async def scenario() -> None:
        async with tapped() as (call, tap):
            await pictures(call, 5)
            tap.faults.append(Cut())
            with pytest.raises(loopback.CallError, match=r"vanished: pc\d got no datagram"):
                await pictures(call, 1000)

    run(scenario())


def test_the_first_client_hello_is_lost_and_sent_again() -> None:
    async def scenario() -> None:
        async with tapped(Cut(count=1, layer="DTLS")) as (_call, tap):
            hellos = [datagram for datagram in tap.only("DTLS", "pc2", "out") if datagram.summary == "ClientHello"]
            assert [datagram.dropped for datagram in hellos] == [True, False]
            assert 0.9 < hellos[1].t - hellos[0].t < 2  # RFC 6347 section 4.2.4.1: one second

    run(scenario())


def test_delay_delays() -> None:
    async def scenario() -> None:
        async with tapped(Delay(0.1, layer="SRTP", who="pc1")) as (call, tap):
            await pictures(call, 20)
            left = {datagram.data: datagram.t for datagram in tap.only("SRTP", "pc1", "out")}
            spans = [datagram.t - left[datagram.data] for datagram in tap.only("SRTP", "pc2", "in")]
            assert min(spans) > 0.099
            assert (call.meter.latency_ms["p50"] or 0) > 100
            assert call.meter.misread == 0
            assert not any(datagram.dropped for datagram in tap)
        kept = [datagram for datagram in tap if datagram.dropped]  # what was on its way when the tap was closed
        assert all(datagram.fault == "Delay" for datagram in kept)

    run(scenario())


def test_a_delayed_call_is_set_up_too_and_may_be_closed_at_once() -> None:
    async def scenario() -> None:
        async with calling() as call:
            with Tap(call, faults=[Delay(0.03, 0.01, seed=1)]) as tap:
                await call.run()
                await call.close()
                await asyncio.sleep(0.1)  # what is still held comes when the sockets are closed
                assert not tap._held
                assert any(datagram.dropped for datagram in tap)

    run(scenario())


def test_overtaken_packets_are_put_back_in_order() -> None:
    async def scenario() -> None:
        async with tapped(Reorder(0.3, seed=1, layer="SRTP"), size=(640, 480)) as (call, tap):
            await pictures(call, 60)
            tap.faults.clear()
            await call.finish()
            video = [datagram for datagram in tap.only("SRTP", "pc2", "in") if datagram.codec == "VP8"]
            numbers = [struct.unpack(">H", datagram.data[2:4])[0] for datagram in video]
            steps = [(after - before) % 65536 for before, after in itertools.pairwise(numbers)]
            assert steps.count(65535) > 5  # one before the one before
            assert not tap._held
            assert not any(datagram.dropped for datagram in tap)
            assert call.meter.misread == 0
            assert call.meter.received >= 0.9 * call.meter.sent  # a busy machine throws old ones away

    run(scenario())


# ---- Faults in signalling --------------------------------------------------------------------------------------------


def test_a_lost_answer_is_named() -> None:
    async def scenario() -> None:
        async with calling(channels=faulty(None, drop("answer")), deadline=5.0) as call:
            with pytest.raises(loopback.CallError, match=r"wait(s|ed|ing) for (the )?answer"):
                await call.run()

    run(scenario())


@pytest.mark.parametrize(
    "edits",
    [
        (double("candidate"), None),
        [[delay(kind, 0.05) for kind in (first, "candidate", "end-of-candidates")] for first in ("offer", "answer")],
        (change("offer", lambda sdp: sdp.replace("a=setup:actpass", "a=setup:active")), None),
        ([double("candidate"), delay("end-of-candidates", 0.05)], []),
    ],
    ids=["double", "delay", "change", "two"],
)
def test_faults_a_call_survives(edits: Any) -> None:
    async def scenario() -> None:
        async with calling(channels=faulty(*edits)) as call:
            await call.run()
            await pictures(call, 3)
            assert call.meter.misread == 0

    run(scenario())


def test_a_doubled_candidate_crosses_twice_and_a_delayed_one_late() -> None:
    async def scenario() -> None:
        one, two = faulty([double("candidate"), delay("candidate", 0.05)])
        candidate = '{"type": "candidate", "candidate": "", "sdpMid": "0"}'
        await one.send(candidate)
        await one.send('{"type": "bye"}')
        kinds = [loopback.parse_message(await two.receive())["type"] for _ in range(3)]
        assert kinds == ["bye", "candidate", "candidate"]
        assert [message["type"] for message in one.sent] == ["candidate", "bye"]

    run(scenario())


def test_a_held_offer_waits_for_its_release() -> None:
    async def scenario() -> None:
        offer = hold("offer")
        async with calling(channels=faulty(offer)) as call:
            running = asyncio.create_task(call.run(call.steps))  # in turns: no candidate overtakes the offer
            while not offer.held:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            assert call.pc2.pc.signalingState == "stable"
            assert call.pc1.pc.signalingState == "have-local-offer"
            offer.release()
            await running
            assert repr(offer) == "hold('offer'): 0 held, released"

    run(scenario())


def test_a_changed_fingerprint_is_noticed() -> None:
    def other(sdp: str) -> str:
        head, _, tail = sdp.partition("a=fingerprint:sha-256 ")
        return f"{head}a=fingerprint:sha-256 {'00' if tail[:2] != '00' else '11'}{tail[2:]}"

    async def scenario() -> None:
        async with calling(channels=faulty(change("offer", other)), deadline=2.0) as call:
            with pytest.raises(loopback.CallError, match=r"pc2 is failed.*fingerprint"):
                await call.run()

    run(scenario())


def test_a_mistake_in_a_learners_edit_is_one_line_of_theirs() -> None:
    def swap(sdp: str) -> str:
        return {"a": "b"}[sdp]

    def forgotten(sdp: str) -> None:
        sdp.replace("a", "b")

    async def scenario(edit: Any) -> None:
        async with calling(channels=faulty(change("offer", edit))) as call:
            await call.run()

    with pytest.raises(Mistake, match=r"your swap raised KeyError: .*, in line \d+ of its cell: return {"):
        run(scenario(swap))
    with pytest.raises(Mistake, match="your forgotten returned None, not a text"):
        run(scenario(forgotten))

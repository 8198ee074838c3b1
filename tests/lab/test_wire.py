"""The wire tap, on real calls."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import itertools
import socket
import sys
from pathlib import Path

import pytest
from conftest import run
from faults import calling, pictures
from taps import REQUEST, restored, tapped

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab import private
from lab.faults import Loss
from lab.packets import LAYERS, decode, hexdump
from lab.wire import Tap
from phone.sound import OutgoingSound, ToneSource, with_sound

# ---- The tap ---------------------------------------------------------------------------------------------------------


def test_a_set_up_holds_the_flights_in_their_order() -> None:
    async def scenario() -> None:
        async with tapped() as (call, tap):
            await pictures(call, 5)
        for who in ("pc1", "pc2"):
            layers = [datagram.layer for datagram in tap if datagram.who == who and datagram.layer != "SRTCP"]
            assert list(dict.fromkeys(layers)) == ["STUN", "DTLS", "SRTP"]

        stun = [datagram.summary for datagram in tap.only("STUN", direction="out")]
        assert stun.count("Binding request, USE-CANDIDATE") >= 1
        assert stun.count("Binding success response") >= 2
        assert all(
            datagram.who == "pc1"
            for datagram in tap
            if "USE-CANDIDATE" in datagram.summary
            if datagram.direction == "out"
        )
        flights = [(datagram.who, datagram.summary) for datagram in tap.only("DTLS", direction="out")]
        assert list(dict.fromkeys(flights)) == [
            ("pc2", "ClientHello"),
            ("pc1", "ServerHello, Certificate, ServerKeyExchange, CertificateRequest, ServerHelloDone"),
            ("pc2", "Certificate, ClientKeyExchange, CertificateVerify, ChangeCipherSpec, encrypted handshake"),
            ("pc1", "ChangeCipherSpec, encrypted handshake"),
        ]
        found = {peer.name: loopback.candidates_in(peer.pc.localDescription.sdp)[0] for peer in call.peers}
        addresses = {name: candidate["candidate"].split()[4:6] for name, candidate in found.items()}
        for datagram in tap:
            assert datagram.remote.split(":") == addresses["pc2" if datagram.who == "pc1" else "pc1"]
        times = [datagram.t for datagram in tap]
        assert times == sorted(times)
        connected = next(event.t for event in call.log.events if event.what == "connected")
        assert tap.only("STUN")[0].t < tap.only("DTLS")[0].t < connected < tap.only("SRTP", "pc2", "in")[-1].t
        assert tap.only("SRTP", "pc1", "out")[0].summary.startswith("VP8 seq ")

    run(scenario())


def test_what_one_peer_sends_the_other_receives() -> None:
    async def scenario() -> None:
        async with tapped() as (call, tap):
            await pictures(call, 20)
            await call.finish()
            sent, received = ([d.data for d in tap.only("SRTP", *side)] for side in (("pc1", "out"), ("pc2", "in")))
            assert sent == received
            assert len(sent) >= 20
            assert call.meter.misread == 0

    run(scenario())


def test_every_byte_of_a_real_call_has_a_name() -> None:
    async def scenario() -> None:
        async with tapped() as (_call, tap):
            async with asyncio.timeout(5):
                while not tap.only("SRTCP"):
                    await asyncio.sleep(0.02)
        assert {datagram.layer for datagram in tap} == set(LAYERS)
        for datagram in tap:
            decoded = decode(datagram.data)
            assert not decoded.malformed, repr(decoded)
            ends = [0, *itertools.accumulate(field.length for field in decoded)]
            assert [field.offset for field in decoded] == ends[:-1]
            assert ends[-1] == datagram.size
        indexes = [int.from_bytes(datagram.data[-4:], "big") for datagram in tap.only("SRTCP", "pc2", "out")]
        assert indexes == [0x80000000 + number for number in range(1, len(indexes) + 1)]  # encrypted, counted from 1

    run(scenario())


def test_sound_is_told_from_pictures_and_shares_their_transport() -> None:
    async def scenario() -> None:
        async with calling() as call:
            with Tap(call) as tap:
                await call.run(with_sound(call, OutgoingSound(ToneSource())))
                await pictures(call, 5)
            assert {datagram.codec for datagram in tap.only("SRTP")} == {"VP8", "opus"}
            assert len(private.connections(call.pc1)) == len(private.connections(call.pc2)) == 1

    run(scenario())


def test_taps_nest_and_calls_are_told_apart() -> None:
    async def scenario() -> None:
        async with calling() as one, calling() as other:
            with Tap(one) as outer, Tap(other) as others, Tap(one) as inner:
                await asyncio.gather(one.run(), other.run())
                await asyncio.gather(pictures(one, 5), pictures(other, 5))
                assert [d.data for d in outer] == [d.data for d in inner]
                assert not {d.data for d in outer} & {d.data for d in others}
                assert {d.who for d in others} == {"pc1", "pc2"}
            assert restored()
            seen = len(outer)
            await pictures(one, 5)
            assert len(outer) == seen

    run(scenario())


def test_taps_may_be_closed_in_any_order_and_opened_again() -> None:
    async def scenario() -> None:
        async with calling() as call:
            first, second = Tap(call).open(), Tap(call.pc2).open()
            await call.run()
            with pytest.raises(RuntimeError, match="open already"):
                first.open()
            first.close()
            first.close()
            before = len(first), len(second)
            await pictures(call, 5)
            assert len(first) == before[0]
            assert len(second) > before[1]
            assert {datagram.who for datagram in second} == {"pc2"}
            second.close()
            assert restored()
            with first:
                await pictures(call, 5)
            assert len(first) > before[0]

    run(scenario())
    assert restored()


def test_the_outer_tap_shows_what_the_inner_one_drops() -> None:
    async def scenario() -> None:
        async with calling() as call:
            with Tap(call) as near, Tap(call, faults=[Loss(0.3, 1, layer="SRTP")]) as far:
                await call.run()
                await pictures(call, 10)
            lost = [datagram for datagram in far if datagram.dropped]
            assert lost
            assert all(datagram.fault == "Loss" for datagram in lost)
            assert not any(datagram.dropped for datagram in near)
            arrived = {datagram.data for datagram in near.only("SRTP", "pc2", "in")}
            assert not arrived & {datagram.data for datagram in lost}

    run(scenario())


def test_a_tap_sees_what_the_guard_lets_through_and_nothing_else() -> None:
    async def scenario() -> None:
        async with tapped() as (call, tap):
            await pictures(call, 5)
            packet = tap.only("SRTP", "pc1", "out")[0].data
            before = sum(datagram.data == packet for datagram in tap.only("SRTP", "pc2", "in"))
            host, port = call.pc1.selected_pair.remote.split()[0].split(":")
            with socket.socket(type=socket.SOCK_DGRAM) as stranger:
                stranger.sendto(packet, (host, int(port)))
                stranger.sendto(REQUEST, (host, int(port)))  # STUN may come from anywhere
                stranger.sendto(b"", (host, int(port)))
                address = f"127.0.0.1:{stranger.getsockname()[1]}"
                await pictures(call, 3)
            assert [d.layer for d in tap.only(who="pc2", direction="in") if d.remote == address] == ["STUN"]
            await loopback.ice_connection(call.pc1.pc).send(packet)
            await pictures(call, 3)
            assert sum(datagram.data == packet for datagram in tap.only("SRTP", "pc2", "in")) == before + 1
            assert call.meter.misread == 0

    run(scenario())


def test_a_tap_needs_peers() -> None:
    with pytest.raises(TypeError, match=r"Tap\(call\)"):
        Tap()
    with pytest.raises(TypeError, match=r"Tap\(call\)"):
        Tap(loopback.Log())  # type: ignore[arg-type]


def test_a_tap_forgets_old_media_but_neither_the_first_nor_the_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tap, "KEPT", 40)

    async def scenario() -> None:
        async with tapped() as (call, tap):
            set_up = tap.only("STUN") + tap.only("DTLS")
            first = tap.only("SRTP")[:4]
            assert first
            await pictures(call, 30)
            assert len(tap) <= 40
            assert [datagram for datagram in set_up if datagram not in tap.datagrams] == []
            assert tap.only("SRTP")[: len(first)] == first
            assert tap.datagrams == sorted(tap.datagrams, key=lambda datagram: datagram.t)

    run(scenario())


def test_a_tap_shows_itself() -> None:
    async def scenario() -> None:
        async with tapped() as (call, tap):
            await pictures(call, 3)
        assert repr(tap).startswith("Tap: sent ≈")
        page = tap.table(limit=3)._repr_html_()
        assert page.count("<tr>") == 4
        assert "more</p>" in page
        assert "ClientHello" in repr(tap.table("DTLS"))
        dump = hexdump(tap.only("DTLS")[0].data)
        assert "use_srtp" in dump._repr_html_()
        assert "ClientHello" in repr(tap.only("DTLS")[0])

    run(scenario())

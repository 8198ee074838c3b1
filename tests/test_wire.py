"""The wire tap, its decoder, the faults and the private names, on real calls: notebooks/lab/wire.py, faults.py,
private.py."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import hashlib
import hmac
import itertools
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aioice
import pylibsrtp
import pytest
from aiortc import RTCPeerConnection
from conftest import run
from faults import calling, pictures
from hypothesis import example, given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))

from lab import private
from lab.faults import Cut, Delay, Loss, Reorder, change, delay, double, drop, faulty, hold
from lab.wire import LAYERS, Datagram, Tap, decode, handshake, hexdump, layer_of

PATCHED = ("datagram_received", "send_data", "send_stun")
STOCK = [getattr(aioice.ice.StunProtocol, name) for name in PATCHED]


def restored() -> bool:
    """Whether aioice's methods are its own."""
    return [getattr(aioice.ice.StunProtocol, name) for name in PATCHED] == STOCK


@asynccontextmanager
async def tapped(*faults: Any, **options: Any) -> AsyncIterator[tuple[loopback.Call, Tap]]:
    """Give a call that runs, with a tap that was open from the beginning."""
    async with calling(**options) as call:
        with Tap(call, faults=faults) as tap:
            await call.run()
            yield call, tap
    assert restored()


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
        addresses = {peer.name: peer.found[0]["candidate"].split()[4:6] for peer in (call.pc1, call.pc2) if peer.found}
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
        async with tapped(sound=loopback.ToneSource()) as (call, tap):
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


def test_a_tap_needs_peers_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match=r"Tap\(call\)"):
        Tap()
    with pytest.raises(TypeError, match=r"Tap\(call\)"):
        Tap(loopback.Log())  # type: ignore[arg-type]
    monkeypatch.setattr(Tap, "KEPT", 20)

    async def scenario() -> None:
        async with tapped() as (call, tap):
            await pictures(call, 20)
            assert len(tap) <= 20
            assert not tap.only("STUN")

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
            assert call.meter.received == call.meter.sent
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


class Attentive(loopback.Call):
    """A call that takes a second's silence for an end."""

    SILENCE = 1.0


def test_a_cut_wire_makes_the_other_peer_vanish() -> None:
    async def scenario() -> None:
        async with tapped(call=Attentive) as (call, tap):
            await pictures(call, 5)
            tap.faults.append(Cut())
            with pytest.raises(loopback.CallError, match=r"pc\d vanished: no datagram"):
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
            await pictures(call, 30)
            tap.faults.clear()
            await call.finish()
            video = [datagram for datagram in tap.only("SRTP", "pc2", "in") if datagram.codec == "VP8"]
            numbers = [struct.unpack(">H", datagram.data[2:4])[0] for datagram in video]
            steps = [(after - before) % 65536 for before, after in itertools.pairwise(numbers)]
            assert steps.count(65535) > 5  # one before the one before
            assert not tap._held
            assert not any(datagram.dropped for datagram in tap)
            assert call.meter.misread == 0
            assert call.meter.received == call.meter.sent

    run(scenario())


# ---- Faults in signalling --------------------------------------------------------------------------------------------


def test_a_lost_answer_is_named() -> None:
    async def scenario() -> None:
        async with calling(channels=faulty(None, drop("answer")), deadline=1.0) as call:
            with pytest.raises(loopback.CallError, match=r"pc1 still waits for the answer|waited 1 s for answer"):
                await call.run()

    run(scenario())


@pytest.mark.parametrize(
    "edits",
    [
        (double("candidate"), None),
        (delay("offer", 0.05), delay("answer", 0.05)),
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
            running = asyncio.create_task(call.run())
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
            with pytest.raises(loopback.CallError, match="certificate does not match"):
                await call.run()

    run(scenario())


# ---- What the bytes say ----------------------------------------------------------------------------------------------

# RFC 5769 section 2.1 and 2.2: a request and a response, the password of both.
PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"
REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b1"
    "51263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)
RESPONSE = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643000800142b91f599"
    "fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)


def test_the_examples_of_rfc_5769() -> None:
    request, response = decode(REQUEST), decode(RESPONSE)
    assert (request.summary, response.summary) == ("Binding request", "Binding success response")
    assert request["SOFTWARE"] == "STUN test client"
    assert request["PRIORITY"] == 0x6E0001FF
    assert request["ICE-CONTROLLED"] == bytes.fromhex("932ff9b151263b36")
    assert request["USERNAME"] == "evtj:h6vY"
    assert response["XOR-MAPPED-ADDRESS"] == "192.0.2.1:32853"
    for message in (request, response):
        crc = next(field for field in message if field.name == "FINGERPRINT")
        assert crc.meaning.endswith("recomputed: right")
        signed = next(field for field in message if field.name == "MESSAGE-INTEGRITY")
        covered = message.data[:2] + struct.pack(">H", signed.offset + 4) + message.data[4 : signed.offset]
        assert hmac.digest(PASSWORD, covered, "sha1") == signed.value
    flipped = decode(REQUEST[:40] + bytes([REQUEST[40] ^ 1]) + REQUEST[41:])
    assert list(flipped)[-1].meaning.endswith("recomputed: wrong")


def stun(kind: int, attributes: bytes) -> bytes:
    return struct.pack(">HHI", kind, len(attributes), 0x2112A442) + bytes(range(12)) + attributes


def test_errors_flags_addresses_and_turn() -> None:
    conflict = decode(stun(0x0111, struct.pack(">HHHBB", 9, 17, 0, 4, 87) + b"Role Conflict" + bytes(3)))
    assert conflict.summary == "Binding error response, 487 Role Conflict"
    made = aioice.stun.Message(aioice.stun.Method.ALLOCATE, aioice.stun.Class.RESPONSE)
    made.attributes |= {"XOR-RELAYED-ADDRESS": ("127.0.0.1", 50000), "XOR-MAPPED-ADDRESS": ("2001:db8::1", 40000)}
    made.attributes |= {"LIFETIME": 600, "NONCE": b"abc", "REALM": "lesson", "MAPPED-ADDRESS": ("10.0.0.1", 1)}
    allocated = decode(bytes(made))
    assert allocated.summary == "Allocate success response"
    assert allocated["XOR-RELAYED-ADDRESS"] == "127.0.0.1:50000"
    assert allocated["XOR-MAPPED-ADDRESS"] == "[2001:db8::1]:40000"
    assert allocated["MAPPED-ADDRESS"] == "10.0.0.1:1"
    assert (allocated["LIFETIME"], allocated["NONCE"], allocated["REALM"]) == (600, "abc", "lesson")
    assert decode(stun(0x0016, b"")).summary == "Send indication"
    assert decode(stun(0x0001, bytes.fromhex("00250000"))).summary == "Binding request, USE-CANDIDATE"
    assert decode(b"\x40\x00\x00\x04\x80\x61\x00\x01").summary == "ChannelData 0x4000: SRTP"
    assert "NONCE" in allocated
    with pytest.raises(KeyError, match="no field 'PRIORITY'"):
        allocated["PRIORITY"]


def test_the_handshake_in_clear() -> None:
    async def scenario() -> None:
        async with tapped() as (call, tap):
            server, client = (handshake(tap.only("DTLS", who, "out")) for who in ("pc1", "pc2"))
            assert list(client) == ["ClientHello", "Certificate", "ClientKeyExchange", "CertificateVerify"]
            assert not any(message.malformed for message in (*server.values(), *client.values()))
            assert server["ServerHello"]["cipher suite"] == "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
            assert server["ServerHello"]["use_srtp"] == private.srtp_profile(call.pc1)
            assert client["ClientHello"]["use_srtp"].split(", ")[0] == private.srtp_profile(call.pc2)
            assert server["ServerHello"]["server version"] == 0xFEFD
            assert server["ServerKeyExchange"]["signature algorithm"] == 0x0403
            for messages, peer in ((server, call.pc1), (client, call.pc2)):
                certificate = messages["Certificate"]["certificate"]
                assert certificate == private.certificate_der(peer)
                assert messages["Certificate"]["certificate length"] == len(certificate)

    run(scenario())


def test_an_alert_in_clear() -> None:
    assert decode(bytes.fromhex("15fefd000000000000000300020228")).summary == "alert fatal handshake_failure"


@pytest.mark.parametrize(
    ("first", "layer"),
    [
        *[(0, "STUN"), (3, "STUN"), (4, "unknown"), (20, "DTLS"), (63, "DTLS"), (64, "TURN"), (80, "unknown")],
        *[(128, "SRTP"), (191, "SRTP"), (192, "unknown")],
    ],
)
def test_the_first_byte_tells_the_layer(first: int, layer: str) -> None:
    assert layer_of(bytes([first, 97])) == layer
    assert layer_of(bytes([128, 200])) == "SRTCP"
    assert layer_of(b"") == "unknown"


STUN_LIKE = st.builds(stun, st.integers(0, 0x3FFF), st.binary(max_size=60))
DTLS_LIKE = st.builds(
    lambda content, epoch, body: struct.pack(">BHHHIH", content, 0xFEFD, epoch, 0, 0, len(body)) + body,
    *(st.integers(20, 23), st.sampled_from([0, 0, 1]), st.binary(max_size=80)),
)
HANDSHAKE_LIKE = st.builds(
    lambda kind, body: struct.pack(">BHHHIHB", 22, 0xFEFD, 0, 0, 0, len(body) + 12, kind)
    + len(body).to_bytes(3, "big") + bytes(5) + len(body).to_bytes(3, "big") + body,
    *(st.integers(0, 20), st.binary(max_size=80)),
)  # fmt: skip
RTP_LIKE = st.builds(lambda first, rest: bytes([first]) + rest, st.integers(128, 191), st.binary(max_size=80))


@given(st.one_of(st.binary(max_size=100), STUN_LIKE, DTLS_LIKE, HANDSHAKE_LIKE, RTP_LIKE), st.booleans())
@example(REQUEST, True)
def test_no_bytes_raise_and_none_are_left_out(data: bytes, protected: bool) -> None:
    decoded = decode(data, protected=protected, codec="VP8")
    assert sum(field.length for field in decoded) == len(data)
    assert bool(decoded.malformed) == ("malformed" in decoded) == decoded.summary.startswith("malformed")
    assert hexdump(data, decoded)._repr_html_() == decoded._repr_html_()
    assert repr(decoded)
    for cut in range(len(data)):
        decode(data[:cut], protected=protected)
    handshake([Datagram(0.0, "pc1", "out", "DTLS", data)])


@given(st.integers(0, len(REQUEST) - 1), st.integers(1, 255))
def test_a_damaged_request_is_malformed_or_has_a_wrong_checksum(place: int, change: int) -> None:
    damaged = bytearray(REQUEST)
    damaged[place] ^= change
    decoded = decode(bytes(damaged))
    crc = [field.meaning for field in decoded if field.name == "FINGERPRINT"]
    assert decoded.malformed or not crc or crc[0].endswith("wrong")


# ---- Keys, certificates, roles: the private names --------------------------------------------------------------------


def test_a_packet_before_and_after_protection() -> None:
    async def scenario() -> None:
        async with tapped() as (call, tap):
            sender, receiver = private.srtp_sessions(call.pc1), private.srtp_sessions(call.pc2)
            packet = tap.only("SRTP", "pc1", "out")[0]
            plain = receiver.incoming.unprotect(packet.data)
            assert sender.outgoing.protect(plain) == packet.data
            assert len(packet.data) == len(plain) + 16
            assert plain[:12] == packet.data[:12]
            decoded = decode(plain, protected=False, codec="VP8")
            assert next(f for f in decoded if f.name == "VP8 frame tag").meaning.startswith("key frame")
            for place in (1, 8, 60, len(packet.data) - 1):
                flipped = bytearray(packet.data)
                flipped[place] ^= 0x10
                with pytest.raises(pylibsrtp.Error, match="authentication"):
                    private.srtp_sessions(call.pc2).incoming.unprotect(bytes(flipped))
            await pictures(call, 3)
            assert call.meter.misread == 0

    run(scenario())


def test_both_peers_have_the_same_keys_and_nobody_sent_them() -> None:
    async def scenario() -> None:
        async with tapped() as (call, tap):
            one, two = private.srtp_keys(call.pc1), private.srtp_keys(call.pc2)
            assert (one.outgoing, one.incoming) == (two.incoming, two.outgoing)
            assert one.outgoing != one.incoming
            assert len(one.outgoing) == 32 + 12
            assert not any(key in datagram.data for key in one for datagram in tap)

    run(scenario())


def test_the_fingerprint_in_the_sdp_is_the_hash_of_the_certificate() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            for peer, other in ((call.pc1, call.pc2), (call.pc2, call.pc1)):
                digest = hashlib.sha256(private.certificate_der(peer)).digest().hex(":").upper()
                assert f"a=fingerprint:sha-256 {digest}" in other.pc.remoteDescription.sdp
                assert private.remote_certificate_der(other) == private.certificate_der(peer)

    run(scenario())


def test_check_list_and_roles() -> None:
    async def scenario() -> None:
        async with calling() as call:
            with pytest.raises(LookupError, match="no transport yet"):
                private.ice_role(call.pc1)
            for step in call.steps[:4]:
                await step.run()
            assert private.check_list(call.pc1) == []
            assert private.dtls_role(call.pc1) == "auto"
            with pytest.raises(LookupError, match="handshake"):
                private.dtls_cipher(call.pc1)
            for step in call.steps[4:]:
                await step.run()
            for peer, roles in ((call.pc1, ("controlling", "server")), (call.pc2, ("controlled", "client"))):
                (pair,) = private.check_list(peer)
                assert (pair.state, pair.nominated) == ("succeeded", True)
                assert (private.ice_role(peer), private.dtls_role(peer)) == roles
                assert private.check_list(peer.pc) == [pair]
                low, high = sorted((pair.local.priority, pair.remote.priority))
                assert pair.priority == (low << 32) + 2 * high
                assert private.dtls_version(peer) == "DTLSv1.2"
                assert private.dtls_cipher(peer) == "ECDHE-ECDSA-AES128-GCM-SHA256"
                assert private.srtp_profile(peer) == "SRTP_AEAD_AES_256_GCM"

    run(scenario())


@pytest.mark.parametrize(
    ("find", "name"),
    [
        (lambda pc: pc.getTransceivers()[0].receiver.transport.transport, "_connection"),
        (lambda pc: private.connections(pc)[0], "_check_list"),
        (private.first_transport, "_role"),
        (private.first_transport, "_ssl"),
        (private.first_transport, "_RTCDtlsTransport__local_certificate"),
        (lambda pc: private.look(private.first_transport(pc), "_RTCDtlsTransport__local_certificate"), "_cert"),
        (private.first_transport, "_srtp_profiles"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_private_name_is_where_it_was(find: Any, name: str) -> None:
    async def scenario() -> None:
        pc = RTCPeerConnection()
        pc.addTransceiver("video")
        private.look(find(pc), name)
        await pc.close()

    run(scenario())


def test_a_private_name_that_moved_is_named_with_the_version() -> None:
    async def scenario() -> None:
        pc = RTCPeerConnection()
        pc.addTransceiver("video")
        with pytest.raises(private.MovedError, match=r"aiortc \d+\.\d+\.\d+ has no RTCDtlsTransport\._gone"):
            private.look(private.first_transport(pc), "_gone")
        await pc.close()

    run(scenario())

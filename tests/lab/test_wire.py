"""The wire tap and its decoder, on real calls."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import hmac
import itertools
import socket
import struct
import sys
from pathlib import Path

import aioice
import pytest
from conftest import run
from faults import calling, pictures
from hypothesis import example, given
from hypothesis import strategies as st
from taps import restored, tapped

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab import private
from lab.faults import Loss
from lab.wire import LAYERS, Datagram, Tap, decode, handshake, hexdump, layer_of
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

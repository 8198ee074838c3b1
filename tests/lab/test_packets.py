"""What the bytes of a datagram say: notebooks/lab/packets.py, on examples of the RFCs, a real handshake and noise."""

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import hmac
import struct
import sys
from pathlib import Path

import aioice
import pytest
from conftest import run
from hypothesis import example, given
from hypothesis import strategies as st
from taps import REQUEST, tapped

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab import private
from lab.packets import decode, handshake, hexdump, layer_of
from lab.recorded import dtls13
from lab.wire import Datagram

# RFC 5769 section 2.1 and 2.2: a request and a response, the password of both.
PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"
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


# ---- DTLS 1.3, recorded ----------------------------------------------------------------------------------------------


def test_of_dtls_1_3_the_hellos_are_in_clear_and_nothing_else() -> None:
    newer = dtls13()
    assert [(one.who, one.summary) for one in newer] == [
        *[("pc2", "ClientHello (fragment)")] * 2,
        ("pc1", "ServerHello"),
        ("pc1", "encrypted record"),
        ("pc2", "encrypted record"),
        ("pc1", "encrypted record"),
    ]
    client, server = (handshake([one for one in newer if one.who == who]) for who in ("pc2", "pc1"))
    assert (list(client), list(server)) == (["ClientHello"], ["ServerHello"])
    assert client["ClientHello"]["supported_versions"] == "DTLS 1.3, DTLS 1.2"
    assert server["ServerHello"]["supported_versions"] == "DTLS 1.3"
    assert client["ClientHello"]["supported_groups"].startswith("X25519MLKEM768")
    assert "use_srtp" in client["ClientHello"]
    assert "use_srtp" not in server["ServerHello"]
    for one in newer:
        decoded = decode(one.data)
        assert not decoded.malformed
        assert sum(field.length for field in decoded) == one.size


def test_a_short_header_with_a_connection_id_is_no_record_of_webrtc() -> None:
    assert "connection id" in decode(b"\x3f" + bytes(20)).malformed


def test_an_address_is_xored_with_as_much_as_it_needs() -> None:
    made = aioice.stun.Message(aioice.stun.Method.BINDING, aioice.stun.Class.RESPONSE)
    for host, pad in (("192.0.2.1", "cookie"), ("2001:db8::1", "cookie and transaction id")):
        made.attributes = {"XOR-MAPPED-ADDRESS": (host, 4000)}
        field = next(field for field in decode(bytes(made)) if field.name == "XOR-MAPPED-ADDRESS")
        assert field.meaning.endswith(f"XORed with the {pad}")

"""SCTP in the clear: what its bytes say, the tap under the tap, the figure."""

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiortc import RTCDtlsTransport, RTCSctpTransport
from aiortc.rtcsctptransport import DataChunk, InitChunk, SackChunk, parse_packet, serialize_packet
from conftest import run
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab.channels import data_call, until
from lab.sctp import Packet, SctpTap, decode_sctp, exchange, message_of
from lab.wire import Tap

STOCK = RTCDtlsTransport._send_data, RTCSctpTransport._handle_data


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Every test leaves aiortc's two methods as they were."""
    yield
    assert (RTCDtlsTransport._send_data, RTCSctpTransport._handle_data) == STOCK


def data_packet(content: bytes, protocol: int, flags: int = 3) -> bytes:
    """Return an SCTP packet, made by aiortc, with that content on stream 5."""
    chunk = DataChunk(flags=flags)
    chunk.tsn, chunk.stream_id, chunk.stream_seq, chunk.protocol, chunk.user_data = 77, 5, 2, protocol, content
    return serialize_packet(5000, 5000, 1234, chunk)


def an_opening(label: str, protocol: str = "", kind: int = 0, parameter: int = 0) -> bytes:
    name = label.encode()
    return struct.pack("!BBHLHH", 3, kind, 0, parameter, len(name), len(protocol)) + name + protocol.encode()


@pytest.mark.parametrize(
    ("content", "protocol", "flags", "summary"),
    [
        (b"hello", 51, 3, "DATA stream 5: 'hello'"),
        ("Grüße".encode(), 51, 3, "DATA stream 5: 'Grüße'"),
        (b"x" * 200, 51, 3, "DATA stream 5: 200 bytes"),
        (b"\x00\xff", 53, 3, "DATA stream 5: 2 bytes"),
        (b"\x00", 56, 3, "DATA stream 5: empty text"),
        (b"\x00", 57, 3, "DATA stream 5: no bytes"),
        (b"x" * 1160, 53, 2, "DATA stream 5: 1160 bytes, first part"),
        (b"x" * 9, 53, 5, "DATA stream 5: 9 bytes, last part unordered"),
        (an_opening("café"), 50, 3, "DATA stream 5: DATA_CHANNEL_OPEN 'café'"),
        (b"\x02", 50, 3, "DATA stream 5: DATA_CHANNEL_ACK"),
    ],
)
def test_what_a_data_chunk_says(content: bytes, protocol: int, flags: int, summary: str) -> None:
    decoded = decode_sctp(data_packet(content, protocol, flags))
    assert decoded.summary == summary
    assert not decoded.malformed
    assert (decoded["TSN"], decoded["stream"], decoded["PPID"]) == (77, 5, protocol)
    read = sum(field.length for field in decoded)
    assert read == len(decoded.data)


@pytest.mark.parametrize(
    ("kind", "parameter", "said"),
    [
        (0x00, 0, "ordered, reliable"),
        (0x80, 0, "unordered, reliable"),
        (0x81, 3, "unordered, a number of retransmissions"),
        (0x02, 500, "ordered, a lifetime"),
    ],
)
def test_the_message_that_opens_a_channel(kind: int, parameter: int, said: str) -> None:
    packet = Packet(0.0, "pc1", "out", data_packet(an_opening("chat", "p1", kind, parameter), 50))
    message = message_of(packet)
    names = [field.name for field in message]
    assert (names[0], names[-1]) == ("PPID", "protocol")
    fields = {field.name: field for field in message}
    assert fields["channel type"].meaning == said
    assert (message["reliability parameter"], message["label"], message["protocol"]) == (parameter, b"chat", b"p1")


def test_control_chunks_and_several_in_a_packet() -> None:
    init, sack = InitChunk(), SackChunk()
    init.initiate_tag, init.advertised_rwnd, init.outbound_streams, init.inbound_streams = 9, 1000, 2, 3
    sack.cumulative_tsn, sack.gaps = 5, [(2, 3)]
    assert decode_sctp(serialize_packet(5000, 5000, 0, init))["initiate tag"] == 9
    one, other = serialize_packet(5000, 5000, 7, sack), data_packet(b"hello", 51)
    assert decode_sctp(one + other[12:]).summary == "SACK with a gap + DATA stream 5: 'hello'"


@given(st.binary(max_size=80))
def test_no_bytes_raise(noise: bytes) -> None:
    packet = data_packet(b"hello", 51)
    for data in (noise, packet[:12] + noise, packet[: len(noise)]):
        decoded = decode_sctp(data)
        assert decoded.summary


def test_the_tap_sees_what_opens_a_channel_and_the_datagram_of_each_packet() -> None:
    async def scenario() -> None:
        call = await data_call()
        with Tap(call) as wire, SctpTap(call, wire=wire) as under:
            call.channel.send("hello")
            await call.inbox.expect(1)
            await until(lambda: under.only("SACK", "pc2"))
        await call.close()
        (sent,) = under.only("DATA", "pc1")
        (seen,) = under.only("DATA", "pc2", "in")
        assert sent.data == seen.data
        assert sent.summary == "DATA stream 1: 'hello'"
        assert sent.tsn == parse_packet(sent.data)[3][0].tsn
        assert sent.datagram in wire.only("DTLS", "pc1", "out")
        assert sent.datagram.size == len(sent.data) + 37
        assert under.counts == {"DATA": 1, "SACK": 1}
        assert under.table("DATA").rows == [("pc1", "36", "73", "DATA stream 1: 'hello'")]
        before = len(under)
        assert repr(under) == "SctpTap: sent ≈1 DATA, ≈1 SACK"
        assert [len(under), under.passing] == [before, None]

    run(scenario())


def test_two_taps_and_another_call() -> None:
    async def scenario() -> None:
        call, stranger = await data_call(), await data_call()
        one, other = SctpTap(call.pc1).open(), SctpTap(call)
        with pytest.raises(RuntimeError, match="open already"):
            one.open()
        with other:
            stranger.channel.send("not ours")
            call.channel.send("ours")
            await call.inbox.expect(1)
        one.close()
        one.close()
        assert [packet.summary for packet in one.only("DATA")] == ["DATA stream 1: 'ours'"]
        assert other.only("DATA")[0].data == one.only("DATA")[0].data
        for each in (call, stranger):
            await each.close()
        with pytest.raises(TypeError, match="whose packets"):
            SctpTap("pc1")  # type: ignore[arg-type]

    run(scenario())


def test_the_figure_has_an_arrow_for_each_packet_that_was_sent() -> None:
    lost = SimpleNamespace(dropped=True)
    packets = [
        Packet(0.001 * number, "pc1", "out", data_packet(b"hello", 51), lost if number == 1 else None)  # type: ignore[arg-type]
        for number in range(3)
    ]
    drawing = exchange([*packets, Packet(0.5, "pc2", "in", packets[0].data)])
    assert len(drawing.moments) == 3
    assert drawing.png.startswith(b"\x89PNG")
    assert [packet.lost for packet in packets] == [False, True, False]
    assert repr(packets[1]).endswith("[lost]")

"""RTP and RTCP in the clear: what a tap saw is opened whole, and each number is what aiortc meant."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import itertools
import sys
from pathlib import Path
from typing import Any

import av
import pytest
from aiortc.rtp import RtcpPsfbPacket, RtcpReceiverInfo, RtcpRrPacket, RtcpSenderInfo, RtcpSrPacket, pack_remb_fci
from conftest import run

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab.badnetwork import LoseOne, Trial, far, trial
from lab.packets import decode
from lab.rtp import STAGES, Clocks, crossings, packet_bars, packet_table, pipe, report_table, stages, ticks, way


@pytest.fixture(scope="module")
def repaired() -> Trial:
    """A small call in which the first packet of picture 10 was lost, or of the first one after it that has two."""
    found = run(trial(*far(), LoseOne(), pictures=20))
    assert isinstance(found, Trial)
    return found


@pytest.mark.parametrize(
    ("later", "earlier", "bits", "distance"),
    [(5, 3, 32, 2), (3, 5, 32, -2), (1, 2**32 - 1, 32, 2), (0, 65535, 16, 1), (65535, 0, 16, -1), (7, 7, 16, 0)],
)
def test_a_counter_that_begins_anew_goes_on(later: int, earlier: int, bits: int, distance: int) -> None:
    assert ticks(later, earlier, bits) == distance


def test_a_report_puts_a_timestamp_on_the_common_clock() -> None:
    picture, sound = Clocks(1000.0, 2**32 - 45_000, 90_000), Clocks(1000.5, 5_000, 48_000)
    assert picture.at(45_000) == pytest.approx(1001.0)
    assert sound.at(29_000) == pytest.approx(1001.0)
    assert picture.at(2**32 - 90_000) == pytest.approx(999.5)


def test_reports_are_read_to_their_last_field() -> None:
    block = RtcpReceiverInfo(7, 26, -3, 70_000, 450, 0x1234, 65_536)
    sent = RtcpSrPacket(1, RtcpSenderInfo(5 << 32, 90_000, 100, 120_000), [block])
    decoded = decode(bytes(sent), protected=False)
    values = {field.name: field.value for field in decoded}
    assert (values["NTP timestamp"], values["RTP timestamp"]) == (5 << 32, 90_000)
    assert (values["packets sent"], values["bytes sent"], values["reported SSRC"]) == (100, 120_000, 7)
    assert (values["fraction lost"], values["packets lost"], values["jitter"]) == (26, -3, 450)
    assert (values["highest sequence number"], values["last SR"], values["delay since last SR"]) == (
        70_000,
        4660,
        65_536,
    )
    assert "content" not in decoded
    both = decode(bytes(RtcpRrPacket(1, [block, block])), protected=False)
    assert both.all("jitter") == [450, 450]
    remb = decode(bytes(RtcpPsfbPacket(15, 1, 0, pack_remb_fci(385_000, [7, 8]))), protected=False)
    assert remb["bit rate"] == pytest.approx(385_000, rel=1e-4)
    assert remb.all("limited SSRC") == [7, 8]


def test_a_report_that_ends_early_is_malformed_and_nothing_is_raised() -> None:
    whole = bytes(RtcpSrPacket(1, RtcpSenderInfo(5 << 32, 90_000, 100, 120_000), []))
    for length in range(len(whole)):
        decode(whole[:length], protected=False)
    assert decode(whole[:12], protected=False).malformed


def test_the_packets_of_each_picture_make_that_picture(repaired: Trial) -> None:
    decoder = av.CodecContext.create("vp8", "r")
    assert repaired.stream.pictures[0][0].key
    for number, packets in enumerate(repaired.stream.pictures):
        assert [packet.marker for packet in packets] == [False] * (len(packets) - 1) + [True]
        assert packets[0].starts
        assert not any(packet.starts for packet in packets[1:])
        (frame,) = decoder.decode(av.Packet(b"".join(packet.coded for packet in packets)))
        assert isinstance(frame, av.VideoFrame)
        assert loopback.read_time_code(loopback.to_picture(frame)) == number
    numbers = [packet.number for packet in repaired.stream.of("VP8")]
    assert all(ticks(later, earlier, 16) == 1 for earlier, later in itertools.pairwise(numbers))


def test_the_repair_brings_what_was_lost(repaired: Trial) -> None:
    (lost,) = [packet for packet in repaired.stream.of("VP8") if packet.lost]
    nack, repair = repaired.stream.said("NACK")[0], repaired.stream.of("rtx")[0]
    assert nack.asked == [lost.number] == [repair.repairs]
    assert repair.payload == lost.data
    assert repair.ssrc != lost.ssrc
    assert lost.received is None
    assert all(number in repaired.watch.shown for number in range(repaired.first, repaired.last))
    words = [one.words for one in crossings(repaired.stream, 0, 1e9) if one.words]
    assert [word.partition(":")[0] for word in words] == ["lost", "NACK", "the repair (RTX)"]


def test_each_picture_spends_its_time_in_the_stages(repaired: Trial) -> None:
    found = stages(repaired.stream, repaired.watch)
    assert len(found) >= 10
    for spans in found:
        assert list(spans) == list(STAGES)
        assert min(spans.values()) > -0.001  # s: a timestamp's tick is 11 us
        assert spans["on the way"] >= 0.02  # as far away as it was put


def test_what_is_drawn_is_a_picture_and_what_is_written_is_whole(repaired: Trial) -> None:
    stream, captured = repaired.stream, repaired.watch.captured
    drawing = way(stream, captured[10], captured[16], repaired.watch.shown)
    assert drawing.png.startswith(b"\x89PNG")
    assert len(drawing.moments) >= 8
    assert packet_bars(stream).data.startswith(b"\x89PNG")
    assert pipe({"one": stages(stream, repaired.watch)}).data.startswith(b"\x89PNG")
    rows = packet_table(stream.pictures[0]).rows
    assert [row[0] for row in rows] == [f"first + {number}" for number in range(len(rows))]
    assert {row[1] for row in rows} == {"first + 0"}
    assert rows[-1][2].startswith("1")


def test_a_table_of_a_report_marks_what_differs_from_run_to_run(repaired: Trial) -> None:
    rows: dict[str, Any] = {row[0]: row for row in report_table(repaired.stream.said("NACK")[0]).rows}
    assert rows["packet type"][2] == "NACK"
    assert rows["lost packets"][1].startswith("≈")
    assert rows["media SSRC"][1].startswith("SSRC ")

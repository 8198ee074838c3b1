"""Faults that strike a chosen packet, a link with one queue, and the trials of lesson 06."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import logging
import struct
import sys
from pathlib import Path
from typing import Any

import aiortc
import pytest
from conftest import run
from faults import calling, pictures

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab.badnetwork import (
    BEGIN,
    WAYS,
    From,
    LoseOne,
    Narrow,
    at_bitrate,
    dots,
    growing,
    in_parallel,
    lost_repair,
    nearest,
    noted,
    psnr,
    recorded_shares,
    reported,
    share_figure,
    stats_table,
    trial,
    unread,
)
from lab.faults import Cut, Loss
from lab.wire import Datagram


def packets(*sizes: int) -> list[Datagram]:
    """Return pc1's packets of pictures that have so many, the last of each with a marker."""
    return [
        Datagram(0.0, "pc1", "out", "SRTP", head(number, place == size - 1) + bytes(88), codec="VP8")
        for number, size in enumerate(sizes)
        for place in range(size)
    ]


def head(picture: int, last: bool) -> bytes:
    return struct.pack(">BBHLL", 128, 97 | last << 7, 0, 3000 * picture, 1)


def lost(fault: Any, datagrams: list[Datagram]) -> list[int]:
    """Return the places of those that a fault does not let pass."""
    gone = []
    for place, datagram in enumerate(datagrams):
        passed: list[int] = []
        if fault.concerns(datagram):
            fault.apply(datagram, lambda passed=passed: passed.append(1), None)
            if not passed:
                gone.append(place)
    return gone


@pytest.mark.parametrize(("which", "place"), [("first", 4), ("last", 6)])
def test_one_packet_of_the_first_picture_that_has_several_is_lost(which: str, place: int) -> None:
    fault = LoseOne(which, begin=2)
    assert lost(fault, packets(2, 1, 1, 3, 2)) == [place]
    assert fault.struck == 3
    with pytest.raises(ValueError, match="first and last"):
        LoseOne("middle")


def test_a_fault_begins_and_ends_with_a_picture() -> None:
    assert lost(From(Cut(), begin=1, end=3), packets(2, 2, 1, 2)) == [2, 3, 4]
    assert lost(From(Loss(0.0), begin=0), packets(2, 2)) == []


def test_a_narrow_link_has_one_queue_and_keeps_the_order() -> None:
    link, arrived, timers = Narrow(80), list[int](), list[Any]()
    for number, datagram in enumerate(packets(1, 1, 1)):
        link.apply(datagram, lambda number=number: arrived.append(number), lambda s, f: timers.append((s, f)))
    assert [seconds for seconds, _ in timers] == [pytest.approx((100 + 28) * 8 / 80_000)]  # one timer at a time
    while timers:
        timers.pop(0)[1]()
    assert arrived == [0, 1, 2]
    with pytest.raises(ValueError, match="carries nothing"):
        Narrow(0)


def test_a_lost_repair_freezes_the_one_and_the_other_asks_for_a_key_picture() -> None:
    async def scenario() -> None:
        both = await in_parallel({"marker": lost_repair(), "stock": lost_repair(marker_bit=False)})
        assert nearest(both["marker"].stood_still, 0.1, 0.5, 5) == 0.5
        assert len(both["marker"].stream.said("PLI")) >= 1
        assert any(packets[0].key for packets in both["marker"].stream.pictures[BEGIN:])
        assert both["stock"].stood_still == float("inf")
        assert both["stock"].stream.said("PLI") == []
        assert both["stock"].after_loss == []
        assert both["stock"].waiting.packets > 30

    run(scenario())


def test_what_getstats_says_of_a_repaired_call() -> None:
    async def scenario() -> None:
        one = await reported()
        assert one.share > 0.8
        assert one.lost > 2
        rows = {row[0]: row[1:] for row in stats_table(one).rows}
        assert rows["pc2 inbound-rtp ssrc"][0] == "that of the repairs"
        assert rows["pc2 inbound-rtp packetsLost"][0] == "0"
        assert rows["pc1 remote-inbound-rtp packetsLost"][0] != "≈0"
        assert not any("not as expected" in row for row in rows.values())

    run(scenario())


def test_on_a_narrow_link_without_reports_the_delay_grows() -> None:
    async def scenario() -> None:
        deaf = await trial(From(Narrow(200, layer="SRTP")), Cut(layer="SRTCP", who="pc2"), pictures=45, more=0)
        assert growing(deaf)
        assert [one for one in deaf.stream.said("REMB") if one.received is not None] == []
        assert dots({"deaf": deaf}).data.startswith(b"\x89PNG")

    run(scenario())


def test_what_nobody_reads_piles_up() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            await pictures(call, 2)
            found = await unread(call, moments=2, seconds=0.3)
            assert found[1].pictures > found[0].pictures > 2

    run(scenario())


def test_the_recorded_sweep_says_that_repair_is_what_matters() -> None:
    stored = recorded_shares()
    assert set(stored["shares"]) == set(WAYS)
    assert all(len(shares) == len(stored["rates"]) for shares in stored["shares"].values())
    assert min(stored["shares"]["repaired"]) > 0.9
    assert stored["recorded"].startswith("recorded")
    assert share_figure({name: {} for name in WAYS}).data.startswith(b"\x89PNG")


def test_more_bits_are_more_like_the_original() -> None:
    (original, low, few), (_, high, many) = at_bitrate(250, 8), at_bitrate(1500, 8)
    assert psnr(original, high) > psnr(original, low)
    assert many > few


def test_words_about_pictures_that_cannot_be_decoded_are_kept_from_the_cell(capsys: Any) -> None:
    logger = logging.getLogger(aiortc.rtcrtpreceiver.__name__)
    before = logger.handlers[:], logger.propagate
    with noted() as said:
        logger.warning("failed to decode")
    assert said == ["failed to decode"]
    assert (logger.handlers, logger.propagate) == before
    assert capsys.readouterr().err == ""
    assert loopback.CallError  # the module is the one that the trials use

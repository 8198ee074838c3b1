"""What lesson 09 borrows to change a running call: notebooks/lab/changes.py."""

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import asyncio
import logging
import sys
from pathlib import Path

import pytest
from aiortc.rtcpeerconnection import and_direction, reverse_direction
from conftest import run

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab import Tap, call_after
from lab.changes import (
    DIRECTIONS,
    OneLoss,
    added,
    after_one_loss,
    agreed,
    another_offer,
    arrivals,
    direction_table,
    directions,
    m_lines,
    overheard,
    ssrc_of,
    transceiver_of,
)

from loopback import SyntheticSource, play


def test_a_track_waits_for_an_offer_can_be_held_and_comes_back() -> None:
    async def scenario() -> None:
        call = await call_after()
        try:
            screen = await added(call, SyntheticSource(240, 180, 30))
            assert set(await arrivals(call, 0.2)) == {"320x240"}
            assert m_lines(call).rows[1][2:4] == ("(knows nothing of it)", "not yet")
            with Tap(call) as tap:
                await play(another_offer(call))
            assert tap.only("STUN") + tap.only("DTLS") == []
            both = await arrivals(call, 0.2)
            assert repr(both).startswith("320x240: ≈")
            assert set(both) == {"320x240", "240x180"}
            transceiver_of(call.pc1, screen).direction = "inactive"
            await play(another_offer(call))
            assert directions(call.pc2.pc.localDescription.sdp) == ["recvonly", "inactive"]
            assert set(await arrivals(call, 0.2)) == {"320x240"}
            transceiver_of(call.pc1, screen).direction = "sendrecv"
            await play(another_offer(call, offering=call.pc2))
            assert directions(call.pc1.pc.localDescription.sdp) == ["sendonly", "sendonly"]
            assert m_lines(call).rows[1][1:5] == ("sendrecv", "recvonly", "sendonly", "recvonly")
        finally:
            await call.close()
        assert screen.readyState == "ended"

    run(scenario())


def test_after_one_loss_the_repair_is_thrown_away_and_two_ways_out_help() -> None:
    async def scenario() -> None:
        ways = ({"rtx": True}, {"rtx": False}, {"rtx": True, "stock": False})
        stock, repeated, ours = await asyncio.gather(*(after_one_loss(**options, seconds=0.9) for options in ways))
        assert stock["first"] == "stands still for good"
        assert repeated["first"] != "stands still for good"
        assert ours["first"] != "stands still for good"
        assert {fates["second"] for fates in (stock, repeated, ours)} == {"goes on"}

    run(scenario())


def test_one_loss_takes_one_packet_of_one_stream() -> None:
    async def scenario() -> None:
        call = await call_after()
        try:
            with Tap(call, faults=[OneLoss(2, ssrc_of(call.pc1.pc.getSenders()[0]))]) as tap:
                await asyncio.sleep(0.2)
            lost = [datagram.dropped for datagram in tap.only("SRTP", "pc1", "out") if datagram.codec == "VP8"]
            assert lost.count(True) == 1
            assert lost[1]
        finally:
            await call.close()

    run(scenario())


@pytest.mark.parametrize("offered", DIRECTIONS)
def test_directions_are_agreed_as_aiortc_does(offered: str) -> None:
    for wanted in DIRECTIONS:
        assert agreed(offered, wanted) == and_direction(wanted, reverse_direction(offered))
    assert [row[0] for row in direction_table().rows] == list(DIRECTIONS)


def test_what_a_library_says_is_kept_from_the_screen(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("some.library")
    with overheard("some.library") as said:
        logger.warning("Traceback\n  line 1\nKeyError: 'x'")
    assert said == ["KeyError: 'x'"]
    assert caplog.records == []
    assert logger.propagate

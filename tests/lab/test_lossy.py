"""The window over a bad network: packets are lost, the key l mends it, and nothing stays behind."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import run
from faults import pictures
from taps import restored

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab import lossy


def test_the_key_l_switches_the_loss_and_each_call_has_a_tap_of_its_own() -> None:
    options = loopback.parse(["--size", "160x120", "--view", "none", "--seconds", "30"])

    async def scenario() -> None:
        session = lossy.LossySession(options, rate=0.3)
        running = asyncio.create_task(session.run())
        try:
            async with asyncio.timeout(10):
                while not (session.live and session.live.meter.received > 3):
                    await asyncio.sleep(0.01)
            first = session.tap
            assert session.keys["l"] == "loss of 30% off"
            await until_lost(session)
            session.press("l")
            assert session.keys["l"] == "loss of 30% on"
            first.datagrams.clear()
            await pictures(session.live, 5)
            assert not any(one.dropped for one in first)
            session.press("l")
            await until_lost(session)
            session.press("h")
            async with asyncio.timeout(10):
                while session.live or session.action:
                    await asyncio.sleep(0.01)
            assert "l" not in session.keys
            session.press("c")
            async with asyncio.timeout(10):
                while not session.live or session.action:
                    await asyncio.sleep(0.01)
            assert session.tap is not first
        finally:
            session.press("q")
            await running
        assert session.tap is None

    run(scenario(), 40)
    assert restored()


async def until_lost(session: Any) -> None:
    """Wait until a packet was lost, but no first one."""
    async with asyncio.timeout(10):
        while not any(one.dropped for one in session.tap):
            await asyncio.sleep(0.01)
    assert not session.tap.only("SRTP", "pc1", "out")[0].dropped


def test_as_a_program_it_reports_the_losses_and_shows_its_view() -> None:
    view, report = run(lossy.seen(0.3, seconds=2))
    assert report["loss"] == 0.3
    assert report["packets_lost"] > 0
    assert report["frames"]["misread"] == 0
    assert view.data.startswith(b"\x89PNG")


def test_loopback_has_its_own_session_again(capsys: pytest.CaptureFixture[str]) -> None:
    stock = loopback.Session
    assert lossy.main(["--loss", "0", "--size", "160x120", "--seconds", "0.2", "--view", "none", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packets_lost"] == 0
    assert loopback.Session is stock
    assert restored()


@pytest.mark.parametrize("loss", ["20", "-0.1", "much"])
def test_a_loss_that_is_no_fraction_is_refused_in_one_line(loss: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        lossy.main(["--loss", loss])
    assert ended.value.code == 2
    assert "is not a fraction from 0 to 0.5" in capsys.readouterr().err


def test_help_names_both_programs_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        lossy.main(["--help"])
    said = capsys.readouterr().out
    assert "--loss" in said
    assert "--jitter-buffer" in said

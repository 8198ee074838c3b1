"""Bare connections: every call in every state, and nothing left open."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import sys
from pathlib import Path

import pytest
from aiortc import InvalidStateError, RTCSessionDescription, VideoStreamTrack
from conftest import run

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab import bare


def test_the_tries_are_28_and_close_what_they_open() -> None:
    async def scenario() -> bare.Tries:
        before = asyncio.all_tasks()
        tries = await bare.try_all()
        assert bare.made == []
        async with asyncio.timeout(5):
            while asyncio.all_tasks() > before:
                await asyncio.sleep(0.01)
        return tries

    tries = run(scenario(), 60)
    assert len(tries.outcomes) == 28
    assert tries.refused == sum(isinstance(one, InvalidStateError) for one in tries.outcomes.values()) == 14
    moves = {key: to for key, to in tries.outcomes.items() if isinstance(to, str) and to != key[0]}
    assert moves == {
        ("stable", "setLocalDescription(offer)"): "have-local-offer",
        ("stable", "setRemoteDescription(offer)"): "have-remote-offer",
        ("have-local-offer", "setRemoteDescription(answer)"): "stable",
        ("have-remote-offer", "setLocalDescription(answer)"): "stable",
    }
    assert tries._repr_html_().count("<tr>") == 8


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ("bfecad", "stable, stable"),
        ("BFECAD", "stable, stable"),
        ("b, f, e, c, d, a", "stable, stable"),
        ("bacdef", "pc2 setLocalDescription: there is no answer yet"),
        ("bx", "there is no card 'x'"),
        ("bec", "stable, have-remote-offer"),
    ],
)
def test_cards_are_played_however_they_are_written(order: str, said: str) -> None:
    assert run(bare.play_cards(order)) == said
    assert bare.made == []


def test_close_all_says_in_which_states_they_are() -> None:
    async def scenario() -> None:
        one, two = bare.fresh(VideoStreamTrack()), bare.fresh()
        await bare.negotiate(one, two)
        assert {one.signalingState, two.signalingState} == {"stable"}
        with pytest.raises(InvalidStateError):
            await one.setRemoteDescription(RTCSessionDescription(two.localDescription.sdp, "answer"))
        assert await bare.close_all() == {"closed"}
        assert bare.made == []

    run(scenario())
    assert loopback.LoopbackOnly.entered == 0


def test_what_is_closed_while_it_connects_leaves_nothing_running() -> None:
    async def scenario() -> None:
        before = asyncio.all_tasks()
        for step in range(25):  # the moment in which a timer or a sender is started behind close() is one of these
            await bare.negotiate(bare.fresh(VideoStreamTrack()), bare.fresh())
            await asyncio.sleep(step * 0.002)
            await bare.close_all()
        async with asyncio.timeout(5):
            while asyncio.all_tasks() > before:
                await asyncio.sleep(0.01)

    run(scenario(), 60)

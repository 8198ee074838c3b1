"""Code in a lesson: it is the source of what runs."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import run
from faults import calling
from pages import rows_of, words

from loopback import Call, Peer

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

import lab


def test_a_listing_is_the_source() -> None:
    for subject in (Peer.create_offer, Peer, loopback.candidates_in):
        shown = lab.listing(subject)
        assert shown.source == inspect.getsource(subject)
        page = words(shown._repr_html_())
        assert f"loopback.{subject.__qualname__}" in page
    assert repr(lab.listing(Peer.create_offer)).startswith("async def create_offer(self)")
    assert lab.listing(Peer.states).source == inspect.getsource(vars(Peer)["states"].fget)


def test_a_listing_of_a_step_or_a_bound_method_is_that_of_its_function() -> None:
    async def scenario() -> None:
        async with calling() as call:
            steps = {step.what: step for step in call.steps}
            assert lab.listing(steps["createOffer"]).source == inspect.getsource(Peer.create_offer)
            assert lab.listing(steps["addTrack"]).source.lstrip().startswith("async def add_track")
            assert lab.listing(call.pc1.create_offer).source == inspect.getsource(Peer.create_offer)

    run(scenario())


@pytest.mark.parametrize(
    ("function", "calls", "line"),
    [
        (Peer.create_offer, "", "self.draft = await self.pc.createOffer()"),
        (Peer.set_local_description, "", "await self.pc.setLocalDescription(self.draft)"),
        (Peer.apply, "setRemoteDescription", "await self.pc.setRemoteDescription(RTCSessionDescription("),
        (Peer.__init__, "RTCPeerConnection", "self.pc = RTCPeerConnection(configuration)"),
        (Call.switch, "replaceTrack", ".replaceTrack(self.track)"),
        (Peer.hang_up, "", "await self._send("),
    ],
)
def test_python_stands_beside_javascript_as_it_is_in_the_source(function: Any, calls: str, line: str) -> None:
    page = lab.beside(function, "await pc.anything();", "differs <so>", calls=calls).data
    heads, [python, javascript, note] = rows_of(page)
    assert heads == ["Python, aiortc", "JavaScript, browser", "where aiortc differs"]
    plain = re.sub(r"\s|&\w+;|&#\d+;", "", python)
    assert re.sub(r'\s|["\']', "", line) in plain
    assert line in inspect.getsource(function)
    assert "".join(javascript.split()) == "awaitpc.anything();"
    assert note == "differs &lt;so&gt;"


def test_beside_refuses_a_call_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="does not call createAnswer"):
        lab.beside(Peer.create_offer, "", calls="createAnswer")

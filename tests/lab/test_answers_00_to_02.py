"""Lessons 00 to 02: right answers are taken in the words people use, and a wrong one is told what is wrong."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import unwrapped

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

import lab
from lab.edits import BROWSER_OFFER
from lab.sdp import payload_types

EVENTS = [
    loopback.Event(1.0, "pc1", "send offer"),
    loopback.Event(1.05, "pc2", "first picture"),
    loopback.Event(1.1, "pc1", "refused answer", "in state stable, waiting for candidate"),
]
LOG = SimpleNamespace(events=EVENTS)
CALL = SimpleNamespace(log=LOG)


def decides(polite: bool, state: str, kind: str) -> str:
    if kind == "answer":
        return "take" if state == "have-local-offer" else "ignore"
    return "take" if state == "stable" else "roll back and take" if polite else "ignore"


@pytest.mark.parametrize(
    ("name", "answer", "facts"),
    [
        ("00 leaves stable", "setRemoteDescription", {}),
        ("00 leaves stable", "pc2 setRemoteDescription(offer)", {}),
        ("00 leaves stable", "pc2.setRemoteDescription", {}),
        ("00 leaves stable", "pc.setRemoteDescription()", {}),
        ("00 first picture", 50.0, {"call": CALL}),
        ("00 first picture", "50.2", {"call": CALL}),
        ("01 order", "bfecad", {"result": "stable, stable"}),
        ("01 order", "B F E C A D", {"result": "stable, stable"}),
        ("01 order", ["b", "f", "e", "c", "a", "d"], {"result": "stable, stable"}),
        ("01 refused", "in state stable, waiting for candidate", {"log": LOG}),
        ("01 refused", EVENTS[2], {"log": LOG}),
        ("01 polite", decides, {}),
        ("02 payload types", payload_types, {"offer": BROWSER_OFFER}),
        ("02 idle", {"msid", "ssrc", "ssrc-group"}, {}),
        ("02 idle", ["ssrc", "msid", "ssrc-group"], {}),
        ("02 idle", "msid, ssrc, ssrc-group", {}),
        ("02 idle", {"a=msid", "a=ssrc", "a=ssrc-group"}, {}),
        ("02 mine", "nobody, but no picture", {}),
        ("02 stranger 1", "1", {}),
        ("02 stranger 3", "VP8/90000", {}),
        ("02 stranger 3", "vp8", {}),
        ("02 stranger 4", "104", {}),
        ("02 stranger 5", "Server", {}),
    ],
)
def test_a_right_answer_is_taken(
    name: str, answer: Any, facts: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    lab.check(name, answer, **facts)
    assert capsys.readouterr().out.startswith("right: ")


@pytest.mark.parametrize(
    ("name", "answer", "facts", "said"),
    [
        ("00 leaves stable", "setLocalDescription", {}, "setLocalDescription"),
        ("00 first picture", 0.05, {"call": CALL}, "0.050 are seconds, and milliseconds are asked for"),
        ("00 first picture", "soon", {"call": CALL}, "a number is asked for, in milliseconds"),
        ("00 first picture", 5, {"call": CALL}, "5 is not it"),
        ("00 upside down", lambda view: view, {"received": None}, "no picture has come since"),
        ("01 order", "bfeca", {"result": "x"}, "each of the six cards is played once"),
        ("01 order", "bacdef", {"result": "pc2 createAnswer: no"}, "pc2 createAnswer: no"),
        ("01 polite", lambda polite, state, kind: "take", {}, "4 of 8; (False, 'stable', 'answer'): yours 'take'"),
        ("01 polite", lambda polite: "take", {}, "takes 1 positional argument"),
        ("02 payload types", lambda sdp: {}, {"offer": BROWSER_OFFER}, "1 of 3; the offer of pc1"),
        ("02 idle", {"msid", "ssrc"}, {}, "is not it"),
    ],
)
def test_a_wrong_one_is_told_what_is_wrong(
    name: str, answer: Any, facts: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.check(name, answer, **facts)
    out = capsys.readouterr().out
    assert out.startswith("not yet: ")
    assert said in out


def test_upside_down_is_told_from_upright(capsys: pytest.CaptureFixture[str]) -> None:
    view = loopback.SyntheticSource(320, 240, 30).draw(3.0)
    lab.check("00 upside down", len, received=view)
    lab.check("00 upside down", len, received=view[::-1])
    upright, flipped = unwrapped(capsys.readouterr().out).splitlines()
    assert upright.startswith("not yet: at pc2 the sky is above, as it was")
    assert flipped.startswith("right: ")

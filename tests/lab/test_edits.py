"""Descriptions changed on their way: the layer that objects is named, and a busy machine is no layer."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import run
from faults import calling

import loopback

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab import edits
from lab.answers.lesson_02 import payload_type_cases
from lab.sdp import sections


@pytest.mark.parametrize(
    ("words", "layer", "seen"),
    [
        (("pc1", "a=mid:0", "a=mid:7"), "check_description", "pc2: a=group names an m-line that is not there"),
        (("pc1", "a=rtcp-mux\r\n", ""), "setRemoteDescription", "RTCP mux is not enabled"),
        (("pc1", "a=ice-pwd:"), "ICE", "pc1 completed, pc2 checking"),
        (("pc2", "a=fingerprint:sha-256 "), "DTLS", "pc1 failed, pc2 connected"),
        (("pc1", "a=sendrecv", "a=recvonly"), "nobody, but no picture", "DTLS: pc1 connected, pc2 connected"),
        (("pc2", "a=rtpmap:97 ", "a=rtpmap:105 "), "nobody, but no picture", "pc1 sends media"),
        (("pc2", "a=recvonly", "a=inactive"), "nobody, but no picture", "pc1 sends no media"),
        (("pc1", "c=IN IP4 127.0.0.1", "c=IN IP4 192.0.2.1"), "nobody", "a picture"),
    ],
)
def test_the_layer_that_objects_is_found(words: tuple[str, ...], layer: str, seen: str) -> None:
    found = run(edits.disturbed(*words), 60)
    assert found[0] == layer
    assert seen in found[1]
    assert [title for title, _ in edits.objections([words], [found]).groups] == [f"who objects: {layer}"]


def test_where_the_machine_was_too_busy_there_is_no_verdict() -> None:
    async def scenario() -> None:
        async with calling() as call:
            assert edits.objection(call, "")[0] == "no verdict"  # ICE is still new
            await call.run()
            call.pc2.picture = None
            assert edits.objection(call, "no picture after 1.5 s. This machine is too busy")[0] == "no verdict"
            assert edits.objection(call, "no picture after 1.5 s.")[0] == "nobody, but no picture"

    run(scenario())


def test_a_text_that_is_not_there_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="is not in this description"):
        edits.edit("a=mid:0", "a=mid:7", "")


def test_damage_is_taken_or_refused_as_the_lesson_says() -> None:
    rows = {row[0]: row for row in run(edits.damages(), 30).rows}
    assert len(rows) == len(edits.DAMAGES)
    taken = {name for name, aiortc, _ in rows.values() if aiortc == "taken"}
    assert taken == {"each \\r\\n became \\n", "the end was trimmed", "a blank line before m=", "no a=fingerprint"}
    assert "Media sections in answer do not match" in rows["in the answer: m-lines swapped"][1]


def test_bundling_saves_ports() -> None:
    async def scenario() -> tuple[list[int], list[int]]:
        return await edits.ports(bundle=True), await edits.ports(bundle=False)

    bundled, alone = run(scenario(), 60)
    assert (len(bundled), len(alone)) == (1, 3)


def test_what_never_comes_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edits._until, "__defaults__", (0.05,))
    silent: Any = SimpleNamespace(frequency=None)
    with pytest.raises(loopback.CallError, match=r"nothing came within 0\.05 s; this machine is too busy"):
        run(edits.heard(silent))


def test_the_texts_of_browsers_are_whole() -> None:
    assert [one.media for one in sections(edits.BROWSER_OFFER)[1:]] == ["audio", "video", "application"]
    mids = [[one.value("mid") for one in sections(text)[1:]] for text in edits.REUSED.values()]
    assert mids == [["0", "1"], ["0", "1"], ["0", "2"]]
    assert [case.expected.get(98) for case in payload_type_cases(edits.BROWSER_OFFER)] == ["VP9", "VP9", None]

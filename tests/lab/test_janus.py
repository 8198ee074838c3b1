"""Janus in a network of its own, and what is shown where it is not installed: notebooks/lab/janus.py."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import run

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab import janus
from lab.crowd import Cost
from lab.janus import RECORDED, JanusChannel, janus_table, through_janus

needs_janus = pytest.mark.skipif(shutil.which("janus") is None, reason="Janus is not installed: apt install janus")


def recorded() -> Cost:
    return Cost(**json.loads(RECORDED.read_text(encoding="utf-8")))


def shape(cost: Cost) -> dict[str, Any]:
    """Return what is the same in every run."""
    return {
        "people": cost.people,
        "encoders": cost.encoders,
        "unreadable": sum(cost.more["arrived"].values()) - cost.readable,
        "viewers": sorted(cost.more["arrived"]),
        "SSRCs": {name: len(found) for name, found in cost.more["SSRC"].items()},
        "key requests": cost.more["key requests"] > 0,
        "rows": [row[0] for row in janus_table(cost).rows],
        "fields": sorted(cost.more),
    }


@needs_janus
def test_the_recorded_run_has_the_shape_of_a_real_one() -> None:
    real = run(through_janus(3, 0.5), seconds=60)
    assert shape(real) == shape(recorded())
    assert real.recorded == ""
    assert len({ssrc for found in real.more["SSRC"].values() for ssrc in found}) == 4
    assert not [process for process in psutil.Process().children(recursive=True) if process.name() == "janus"]


def test_without_janus_the_recorded_run_is_shown_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert run(through_janus(3)) == recorded()
    assert "recorded run" in capsys.readouterr().out
    assert "Janus 1.1.2" in janus_table(recorded()).note
    assert "10.9.0.1 host" in janus_table(recorded()).note


def test_a_room_that_fails_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janus, "namespace", lambda: [sys.executable, "-c", "raise SystemExit('no such card')", "--"])
    with pytest.raises(loopback.CallError, match="no such card"):
        run(through_janus(1))


def test_a_description_is_laid_into_the_mailbox_with_its_candidates_behind_it() -> None:
    class Toy:
        """A handle that answers an offer at once."""

        def __init__(self) -> None:
            self.said: list[Any] = []

        async def ask(self, body: dict[str, Any], jsep: dict[str, Any]) -> dict[str, Any]:
            self.said.append(body["request"])
            line = "a=candidate:1 1 udp 2015363327 10.9.0.1 40000 typ host"
            return {"jsep": {"type": "answer", "sdp": f"v=0\r\nm=video 9\r\na=mid:0\r\n{line}\r\n"}}

        async def trickle(self, candidate: dict[str, Any]) -> None:
            self.said.append(candidate)

    async def scenario() -> None:
        toy = Toy()
        channel = JanusChannel(toy)  # type: ignore[arg-type]
        await channel.send(json.dumps({"type": "offer", "sdp": "v=0"}))
        await channel.send(json.dumps({"type": "end-of-candidates"}))
        async with asyncio.timeout(5):
            texts = [json.loads(await channel.receive()) for _ in range(3)]
        assert [text["type"] for text in texts] == ["answer", "candidate", "end-of-candidates"]
        assert "candidate" not in texts[0]["sdp"]
        assert toy.said == ["publish", {"completed": True}]

    run(scenario())

"""What lesson 07 tries with data channels: a call that has nothing else, loss by message, a file, endings, labels."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import hashlib
import logging
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiortc import RTCDataChannel, RTCDtlsTransport, RTCSctpTransport
from conftest import run

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab import channels
from lab.channels import (
    CHUNK,
    HIGH,
    DataCall,
    Inbox,
    Race,
    a_sound,
    announced,
    as_jpeg,
    as_wav,
    data_call,
    delivered,
    ended_by,
    nearest,
    race,
    race_chart,
    race_table,
    send_file,
    someone_ends,
    sound_chart,
    transfer,
    transfer_chart,
    until,
)

from loopback import CallError, SyntheticSource

STOCK = RTCDtlsTransport._send_data, RTCSctpTransport._handle_data


def test_a_call_with_nothing_but_channels() -> None:
    async def scenario() -> None:
        call = await data_call()
        assert call.pc1.pc.localDescription.sdp.count("m=") == 1
        assert [step.what for step in call.steps if "rack" in step.what or "picture" in step.what] == []
        call.channel.send("hello")
        assert await call.inbox.expect(1) == ["hello"]
        assert (call.inbox.channel.label, call.heard) == ("chat", [call.inbox.channel])
        with pytest.raises(TimeoutError):
            await call.inbox.expect(2, within=0.01)
        await call.close()
        assert {peer.pc.connectionState for peer in call.peers} == {"closed"}

    run(scenario())


def test_a_call_that_cannot_connect_is_closed() -> None:
    async def scenario() -> None:
        made: list[Any] = []
        with pytest.raises(ZeroDivisionError):
            await data_call(lambda pc: made.append(pc) or 1 / 0)
        assert made[0].connectionState == "closed"

    run(scenario())


def expected_losses(rate: float, messages: int, seed: int = 1) -> set[int]:
    return {n for n in range(messages) if random.Random(f"{seed} {n} 1").random() < rate}


def test_each_kind_of_channel_meets_the_same_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "RATE", 0.3)
    monkeypatch.setattr(channels, "ONE_WAY", 0.005)
    kinds = {
        "ordered": {},
        "unordered": {"ordered": False},
        "never again": {"ordered": False, "maxRetransmits": 0},
        "zero": {"ordered": False, "maxPacketLifeTime": 0},
    }
    races = run(race(kinds, messages=30))
    ordered, unordered, never, zero = races
    lost = expected_losses(0.3, 30)
    assert len(lost) > 4
    assert [one.lost for one in races] == [lost] * 4
    assert never.missing == lost
    assert ordered.missing == unordered.missing == zero.missing == set()
    assert ordered.in_order
    assert not unordered.in_order
    assert (never.again, ordered.again > 0) == (0, True)
    assert min(ordered.delays.values()) >= 5
    assert [row[:2] for row in race_table(races).rows] == [(name, str(len(lost))) for name in kinds]
    assert race_chart(races).data.startswith(b"\x89PNG")
    assert repr(never) == f"never again: {30 - len(lost)} of 30 arrived, in order"
    assert (RTCDtlsTransport._send_data, RTCSctpTransport._handle_data) == STOCK


def test_what_is_late_and_what_is_missing() -> None:
    one = Race("x", sent={0: 1.0, 1: 1.0, 2: 1.0}, arrived={2: 1.02, 0: 1.05})
    assert (one.late, one.missing, one.in_order) == (1, {1}, False)
    assert one.delays[0] == pytest.approx(50)


def test_a_file_with_and_without_waiting() -> None:
    async def scenario() -> None:
        data, said = os.urandom(900_001), list[str]()
        at_once, waiting = await transfer(data, wait=False, progress=said.append), await transfer(data)
        assert said == [f"{part:3} % has arrived" for part in (20, 40, 60, 80, 100)]
        for one in (at_once, waiting):
            assert one.sha256 == hashlib.sha256(data).hexdigest()
            assert one.handed[-1][1] == one.arrived[-1][1] == len(data)
            assert one.chat[0] < one.chat[1]
        assert (at_once.most_waiting, at_once.meanwhile) == (len(data), 0)
        assert waiting.most_waiting == HIGH + CHUNK
        assert at_once.ahead == 28 * CHUNK  # all that was handed over before the chat: a little more than half
        assert waiting.ahead < at_once.ahead
        assert transfer_chart({"one": at_once, "other": waiting}).data.startswith(b"\x89PNG")
        assert repr(at_once).startswith("900,001 bytes in ≈")

    run(scenario())


class Stuck:
    """A channel from which nothing leaves, until it closes."""

    def __init__(self) -> None:
        self.readyState, self.bufferedAmount, self.bufferedAmountLowThreshold = "open", HIGH + 1, 0
        self.handlers: dict[str, Any] = {}

    def on(self, event: str, handler: Any) -> None:
        self.handlers[event] = handler


def test_a_file_does_not_wait_for_a_channel_that_has_closed() -> None:
    async def scenario() -> None:
        channel: Any = Stuck()
        sending = asyncio.create_task(send_file(channel, b"x" * CHUNK))
        await asyncio.sleep(0)
        channel.readyState = "closed"
        channel.handlers["close"]()
        with pytest.raises(CallError, match="closed while a file"):
            await sending

    run(scenario())


def test_a_picture_and_a_sound() -> None:
    picture, samples = SyntheticSource(320, 240, 30).draw(0.0), a_sound(0.1)
    jpeg, wav = as_jpeg(picture), as_wav(samples)
    assert run(delivered(jpeg, wav)) == [jpeg, wav]
    assert len(wav) == 44 + samples.nbytes
    assert np.abs(samples).max() > 10_000
    assert sound_chart(wav).data.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("how", "arrive", "last"),
    [("pc.close()", 0, "ABORT"), ("channel.close()", 100, "RE-CONFIG reset stream 1, RE-CONFIG performed")],
)
def test_what_is_lost_at_the_end(how: str, arrive: int, last: str) -> None:
    found = run(ended_by(how, messages=100))
    assert repr(found) == f"{how}: {arrive} of 100 arrived; the end was {last}"


def test_labels_as_aiortc_writes_them() -> None:
    async def scenario() -> list[str]:
        handlers = list(logging.getLogger("aiortc").handlers)
        said = [await announced(label) for label in ("chat", "café!", "é")]
        assert logging.getLogger("aiortc").handlers == handlers
        assert asyncio.get_running_loop().get_exception_handler() is None
        return said

    chat, cut, broken = run(scenario())
    assert (chat, cut) == ("pc2 has a channel 'chat'", "pc2 has a channel 'café'")
    assert broken.startswith("no channel at pc2; pc2 closed its connection: UnicodeDecodeError")


def test_the_riddle_shows_who_ended_it() -> None:
    found = [(packet.who, packet.summary) for packet in run(someone_ends()).only()]
    assert next(pair for pair in found if "RE-CONFIG" in pair[1]) == ("pc2", "RE-CONFIG reset stream 1")
    assert not any("ABORT" in summary for _, summary in found)


def test_small_helpers() -> None:
    assert nearest(3.7, 1, 4, 16) == 4
    with pytest.raises(TimeoutError):
        run(until(lambda: False, within=0.01))
    box = Inbox()
    with pytest.raises(AttributeError):
        box.take(None)  # type: ignore[arg-type]


def test_a_data_call_is_a_call_with_its_channels_in_the_place_of_the_track() -> None:
    async def scenario() -> None:
        call = DataCall()
        assert [step.what for step in call.steps][:2] == ["createDataChannel", "createOffer"]
        done = await call.create()
        assert isinstance(done.made, RTCDataChannel)
        assert done.made.readyState == "connecting"
        await call.close()
        assert isinstance(call, loopback.Call)

    run(scenario())

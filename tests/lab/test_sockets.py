"""A channel made of a WebSocket, the server between two, the other end in a process, and who notices that it is gone:
notebooks/lab/sockets.py."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import run

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab.sockets import CHANNELS, RUNNING, Caller, Kept, OtherProgram, Relay, connect, gone, merged


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Every test ends its programs and closes what it has opened."""
    yield
    assert not Kept.open
    assert not RUNNING
    CHANNELS.clear()


def fingerprint(sdp: str) -> str:
    return next(line.split()[1] for line in sdp.splitlines() if line.startswith("a=fingerprint:sha-256"))


def test_the_same_script_with_the_other_end_in_a_process() -> None:
    async def scenario() -> None:
        server = await Relay().start()
        far = await OtherProgram(server).start()
        pid = far.pid
        await server.until_there("pc2")
        near = await Caller.to(far)
        await loopback.play(loopback.caller(near.pc1, near.track))
        await asyncio.sleep(0.3)
        await near.pc1.hang_up()
        report = await far.report()
        assert (report.pid, report.misread, report.why) == (pid, 0, "")
        assert report.pictures > 0
        assert report.picture is not None
        assert report.picture.shape == (240, 320, 3)
        assert report.told == fingerprint(near.pc1.pc.localDescription.sdp)
        assert report.has == fingerprint(near.pc1.pc.remoteDescription.sdp)
        kinds = [(one.who, one.to, one.kind) for one in server.passed]
        three = ("candidate", "end-of-candidates")
        assert kinds == [
            *(("pc1", "pc2", kind) for kind in ("offer", *three)),
            *(("pc2", "pc1", kind) for kind in ("answer", *three)),
            ("pc1", "pc2", "bye"),
        ]
        events = merged(near.log, report)
        times = {(event.who, event.what): event.t for event in reversed(events)}
        assert [event.t for event in events] == sorted(event.t for event in events)
        assert times["pc1", "send offer"] < times["pc2", "receive offer"] < times["pc1", "receive answer"]
        assert not psutil.pid_exists(pid)
        assert await far.report() is report, "what it has said once it says again"
        for one in (near, server):
            await one.close()
            await one.close()

    run(scenario(), 40)


def test_who_notices_first() -> None:
    async def scenario() -> None:
        kill, halt = await asyncio.gather(gone("kill"), gone("halt"))
        assert [one.first for one in (kill, halt)] == ["socket", "ping"]
        assert dict(kill.by)["media"] >= loopback.Health.SILENCE

    run(scenario(), 60)
    with pytest.raises(ValueError, match="no way 'leave'"):
        run(gone("leave"))


def test_a_server_that_dies_ends_every_channel_in_one_kind_of_error() -> None:
    async def scenario() -> None:
        server = await Relay().start()
        one, other = await connect(server.url, "one"), await connect(server.url, "other")
        await one.send('{"type": "bye"}')
        assert await other.receive() == '{"type": "bye"}'
        await server.die()
        for channel in (one, other):
            with pytest.raises(loopback.ChannelError):
                await channel.receive()
            with pytest.raises(loopback.ChannelError):
                await channel.send("x")
            await channel.close()
        with pytest.raises(loopback.CallError, match="no way to the server"):
            await connect(server.url, "one")

    run(scenario())


def test_the_server_passes_on_any_text_tells_who_spoke_and_may_change_it() -> None:
    async def scenario() -> None:
        server = await Relay(change=str.upper).start()
        one = await connect(server.url, "one")
        await one.send("to nobody")
        other = await connect(server.url, "other")
        await one.send("to you")
        assert await other.receive() == "TO YOU"
        assert [(passed.who, passed.to, passed.kind) for passed in server.passed] == [
            ("one", "", "?"),
            ("one", "other", "?"),
        ]
        waiting = asyncio.create_task(other.receive())
        await asyncio.sleep(0.01)
        waiting.cancel()  # a channel loses nothing when somebody stops waiting
        await asyncio.wait([waiting])
        await one.send("again")
        assert await other.receive() == "AGAIN"
        again = await connect(server.url, "one")  # the same name: the older one is closed
        with pytest.raises(loopback.ChannelError):
            await one.receive()
        for channel in (again, other):
            await channel.close()
        await server.close()
        assert {one.how for one in server.gone} == {"closed (1000)"}

    run(scenario())


def test_what_a_lesson_has_one_of() -> None:
    async def scenario() -> None:
        first = await Relay().start()
        second = await Relay().start()
        with pytest.raises(loopback.CallError):
            await connect(first.url, "one")
        far = await OtherProgram(second).start()
        process = psutil.Process(far.pid)
        far.halt()
        await far.close()  # also one that stands still
        assert not process.is_running()
        with pytest.raises(loopback.CallError, match="has ended"):
            await far.report()
        await second.close()

    run(scenario())


def test_a_program_without_a_server_ends_without_a_report() -> None:
    async def scenario() -> None:
        server = await Relay().start()
        far = OtherProgram(server)
        await server.close()
        await far.start()
        with pytest.raises(loopback.CallError, match="without a report"):
            await far.report()

    run(scenario())

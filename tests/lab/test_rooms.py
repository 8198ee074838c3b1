"""Rooms of socket.io, what overtakes, and a room that two servers share: notebooks/lab/rooms.py and room_server.py."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import run

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab import rooms
from lab.rooms import (
    Numbered,
    Person,
    RoomChannel,
    RoomServer,
    SharedRoom,
    by_length,
    call_between,
    clear,
    each_third,
    in_order,
    inversions,
    lost_and_back,
    order_of,
    people,
)
from lab.sockets import RUNNING, Kept


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Every test ends its servers and closes what it has opened."""
    yield
    assert not Kept.open
    assert not RUNNING


def test_a_room_for_two() -> None:
    async def scenario() -> None:
        ann, ben = await people("Ann", "Ben")
        cem = await Person("Cem").join(RoomServer.url_now())
        assert [person.words for person in (ann, ben, cem)] == [["created"], ["joined"], ["full"]]
        await ann.say("hello")
        await cem.say("let me in")
        assert await ben.hears("hello")
        await ben.close()
        assert await ann.hears("left")
        assert (ann.texts, ben.texts, cem.texts) == ([], ["hello"], [])
        await clear()

    run(scenario())


async def calling(around: Any = lambda channel: channel, **options: Any) -> str:
    """Return what came of a call through a room of such a server: "" or its error."""
    try:
        call = await call_between(*await people("Ann", "Ben", **options), around, deadline=1)
    except loopback.CallError as error:
        return str(error)
    await call.close()
    return ""


def test_what_overtakes_and_three_cures() -> None:
    async def scenario() -> None:
        assert await order_of(6, each_third) == [1, 2, 4, 5, 3, 6]
        assert await order_of(6, each_third, async_handlers=False) == [1, 2, 3, 4, 5, 6]
        assert "still waits for the candidate" in await calling(look_up=by_length)
        assert await calling(look_up=by_length, async_handlers=False) == ""
        assert await calling(lambda channel: Numbered(channel, in_order), look_up=by_length) == ""
        await clear()

    run(scenario(), 40)
    assert inversions([1, 2, 4, 3, 2]) == 2


@pytest.mark.parametrize("seed", range(5))
def test_numbers_put_any_order_right(seed: int) -> None:
    async def scenario() -> None:
        one, other = loopback.memory_channel()
        sender, receiver = Numbered(one, in_order), Numbered(other, in_order)
        for number in range(10):
            await sender.send(f"text {number}")
        mixed = [await other.receive() for _ in range(10)]
        random.Random(seed).shuffle(mixed)
        for text in mixed:
            await one.send(text)
        assert [await receiver.receive() for _ in range(10)] == [f"text {number}" for number in range(10)]

    run(scenario())


def test_who_comes_back_has_to_join_again() -> None:
    async def scenario() -> None:
        for rejoins in (False, True):
            ann, ben, seen = await lost_and_back(rejoins=rejoins)
            assert "not connected" in seen["meanwhile"]
            assert not seen["with the old sid"]
            await ann.say("hello")
            assert await ben.hears("hello", 0.3 if not rejoins else 10) is rejoins
        await clear()

    run(scenario())


def test_a_channel_of_a_room_ends_in_our_error() -> None:
    async def scenario() -> None:
        ann, ben = await people("Ann", "Ben")
        channel, other = RoomChannel(ann), RoomChannel(ben)
        await channel.send("hello")
        assert await other.receive() == "hello"
        await Kept.open["RoomServer"].close()
        with pytest.raises(loopback.ChannelError):
            await channel.receive()
        with pytest.raises(loopback.ChannelError):
            await channel.send("x")
        await clear()

    run(scenario())


async def story(room: SharedRoom) -> dict[str, Any]:
    """Return all that the lesson asks of a shared room."""
    try:
        found: dict[str, Any] = {"joined": await room.joined(), "cost": asdict(await room.cost(20))}
        return found | {"outage": asdict(await room.outage()), "parting": await room.parting()}
    finally:
        await room.close()


def shape(found: dict[str, Any]) -> dict[str, Any]:
    """Return what is the same in every run."""
    outage = found["outage"]
    return {
        "joined": found["joined"],
        "cost": {name: all(time > 0 for time in times) for name, times in found["cost"].items()},
        "parting": found["parting"],
        "outage": (outage["before"], outage["during"], outage["raised"]),
        "heard": (outage["heard"][0], outage["heard"][-1] == outage["after"][-1], len(outage["heard"])),
    }


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_two_servers_share_messages_and_no_lists() -> None:
    async def scenario() -> dict[str, Any]:
        return await story(await SharedRoom().start())

    found = run(scenario(), 60)
    assert found["joined"] == {"Ann at A": "created", "Ben at B": "created", "Cem at A": "joined", "Dan at A": "full"}
    assert list(found["parting"].values()) == ["left", "left", "nothing"]
    assert not {"2", "3"} & set(found["outage"]["heard"])
    recorded = rooms.read_recorded()
    assert shape(recorded) == shape(found)


def test_where_redis_is_missing_the_recorded_run_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)

    async def scenario() -> None:
        room = await SharedRoom().start()
        assert "recorded run (" in repr(room)
        assert list((await room.joined()).values()) == ["created", "created", "joined", "full"]
        outage = await room.outage()
        assert [row[-1] for row in outage.table.rows] == ["all", "none", "the last"]
        cost = await room.cost()
        assert min(cost.two) > min(cost.one)
        assert len(cost.table.rows) == 2
        assert (await room.parting())["server B is killed, Ben at it"] == "nothing"
        await asyncio.gather(room.close(), room.close())

    run(scenario())

"""Coturn, what a relay costs, TURN by hand and TURN tapped: notebooks/lab/relay.py and turn.py."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import aioice
import pytest
from aiortc import RTCIceServer
from conftest import run

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab.nat import Machine, at_home
from lab.packets import Decoded
from lab.relay import RECORDED, Coturn, Run, configured, paths, ways
from lab.turn import UDP, TurnTap, turn_table

HOOKS = [getattr(aioice.turn.TurnClientMixin, name) for name in TurnTap.HOOKS]


@pytest.fixture(autouse=True)
def restored() -> Any:
    """Every test leaves aioice's TURN client as it was, and no server."""
    yield
    assert [getattr(aioice.turn.TurnClientMixin, name) for name in TurnTap.HOOKS] == HOOKS
    assert not Coturn.started


def calling(**options: Any) -> loopback.Call:
    return loopback.Call(loopback.SyntheticSource(320, 240, 30), **options)


NAMES = ["relay only", "relay only over TCP", "all candidates"]
needs_coturn = pytest.mark.skipif(shutil.which("turnserver") is None, reason="coturn is not installed")


async def carried(name: str, coturn: Coturn) -> Run:
    """Return a run of that kind: the recorded one where the server is not installed."""
    if name == "all candidates":
        stun = RTCIceServer(f"stun:127.0.0.1:{coturn.port}")
        call, *_ = at_home("symmetric", configured(stun, coturn.ice_server()))
    else:
        server = coturn.ice_server("tcp" if "TCP" in name else "udp")
        call = calling(configuration=configured(server, policy="relay"))
    return await coturn.run(call)


def shape(one: Run) -> dict[str, Any]:
    """Return what is the same in every run of a kind."""
    return {
        "types": sorted(loopback.parse_candidate(line).type for line in one.candidates),
        "relay": "relay" in one.pair,
        "layers": [row[0] for row in one.datagrams],
        "columns": {len(row) for row in one.datagrams},
        "below TURN": [row[1] + row[3].partition("peer")[0] for row in one.turn.rows],
        "misread": one.misread,
        "while halted": one.while_halted,
        "size": one.picture.shape,
        "some waited": any(way > 100 for _, way in one.ways),
        "fields": {name: type(value) for name, value in vars(one).items()},
    }


@needs_coturn
@pytest.mark.parametrize("name", NAMES)
def test_the_recorded_run_has_the_shape_of_a_real_one(name: str) -> None:
    async def scenario() -> Run:
        coturn = await Coturn().start()
        assert coturn.running
        try:
            return await carried(name, coturn)
        finally:
            await coturn.close()
            await coturn.close()

    real, recorded = run(scenario()), Run.read(name)
    assert shape(real) == shape(recorded)
    assert real.recorded == ""
    assert recorded.recorded.startswith("recorded run: ")
    assert "coturn" in recorded.recorded
    assert real.path_ms > 0
    assert recorded.path_ms > 0


@needs_coturn
def test_the_password_is_new_each_time_and_shown_nowhere() -> None:
    async def scenario() -> None:
        coturn = await Coturn().start()
        try:
            assert coturn.password not in repr(coturn)
            assert coturn.password != Coturn().password
        finally:
            await coturn.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(("127.0.0.1", coturn.port))  # the server is gone

    run(scenario())


def test_without_coturn_the_recorded_run_is_shown_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)

    async def scenario() -> None:
        coturn = await Coturn().start()
        assert not coturn.running
        assert "recorded" in repr(coturn)
        relayed = await carried("relay only", coturn)
        assert relayed == Run.read("relay only")
        assert "recorded run" in repr(relayed.wire)
        call = calling()
        direct = await coturn.run(call)
        assert call.closed
        assert direct.while_halted > 3
        assert direct.recorded == ""
        table = paths({"direct": direct, "relayed": relayed})
        assert "recorded run" in table.note
        assert "Against direct: relayed connected " in table.note
        assert ways({"direct": direct, "relayed": relayed}).data.startswith(b"\x89PNG")
        await coturn.close()

    run(scenario())


def test_the_recorded_runs_hold_no_secret() -> None:
    stored = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert set(stored) == {*NAMES, "by hand", "two errors"}
    assert "password" not in RECORDED.read_text(encoding="utf-8")


# ---- TURN by hand ----------------------------------------------------------------------------------------------------


async def refused(coturn: Coturn) -> list[str]:
    """Go through the conversation of lesson 04 with a server that says another address, and denies one; return what it
    has lent and said."""
    client = await coturn.client()
    client.sign(await client.request("Allocate", {"REQUESTED-TRANSPORT": UDP}))
    lent = (await client.request("Allocate", {"REQUESTED-TRANSPORT": UDP}))["XOR-RELAYED-ADDRESS"].split(":")[0]
    peers = [("198.51.100.7", 5000), ("198.51.100.8", 5000)]
    said = [(await client.request("CreatePermission", {"XOR-PEER-ADDRESS": peer})).summary for peer in peers]
    client.close()
    return [lent, *said]


def test_the_two_errors_are_the_same_where_there_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    options = "--external-ip=192.0.2.1/127.0.0.1", "--denied-peer-ip=198.51.100.7"
    words = [
        "192.0.2.1",
        "CreatePermission error response, 403 Forbidden IP",
        "CreatePermission success response",
    ]

    async def scenario() -> None:
        if shutil.which("turnserver"):
            server = await Coturn(*options).start()
            assert await refused(server) == words
            await server.close()
        monkeypatch.setattr("shutil.which", lambda name: None)
        assert await refused(await Coturn(*options).start()) == words

    run(scenario())


async def spoken(coturn: Coturn) -> tuple[list[Decoded], list[tuple[str, ...]], list[bytes]]:
    """Go through the conversation of lesson 04; return the answers, the table's rows, and what the friend has heard."""
    client, friend = await coturn.client(), Machine("friend")
    allocate = {"REQUESTED-TRANSPORT": UDP}
    answers = [await client.request("Allocate", allocate)]
    for password in ("guessed", ""):
        client.sign(answers[0], password)
        answers.append(await client.request("Allocate", allocate))
    host, port = answers[-1]["XOR-RELAYED-ADDRESS"].split(":")
    if coturn.running:
        friend.send(b"do you hear me?", (host, int(port)))
    assert await client.receive() is None
    if coturn.running:
        with pytest.raises(loopback.CallError, match="an address already"):
            client.sign(answers[0], "guessed")  # as where the cell is run again: what follows is signed as before
        with pytest.raises(loopback.CallError, match="an address already"):
            await client.request("Allocate", allocate)
        client.passed[-2:] = []  # not in the recorded one
    answers.append(await client.request("CreatePermission", {"XOR-PEER-ADDRESS": friend.address}))
    if coturn.running:
        friend.send(b"and now?", (host, int(port)))
    arrived = await client.receive()
    assert arrived is not None
    answers.append(arrived)
    client.send(b"hello friend", friend.address)
    bound = {"CHANNEL-NUMBER": 0x4000, "XOR-PEER-ADDRESS": friend.address}
    answers.append(await client.request("ChannelBind", bound))
    client.send_on(0x4000, b"hello friend")
    heard = [(await friend.receive() or (b"", ()))[0] for _ in range(2)]
    answers.append(await client.request("Refresh", {"LIFETIME": 0}))
    rows = client.table().rows
    client.close()
    if coturn.running:
        with pytest.raises(loopback.CallError, match="begin again"):
            client.send(b"too late", friend.address)
    friend.close()
    return answers, rows, heard


def check_spoken(answers: list[Decoded], rows: list[tuple[str, ...]]) -> None:
    assert [answer.summary for answer in answers] == [
        *["Allocate error response, 401 Unauthorized"] * 2,
        "Allocate success response",
        "CreatePermission success response",
        "Data indication",
        "ChannelBind success response",
        "Refresh success response",
    ]
    assert answers[0]["REALM"] == "loopback"
    assert answers[4]["DATA"] == b"and now?"
    sizes = {row[3].partition(",")[0]: row[2] for row in rows if row[0] == "out"}
    assert (sizes["Send indication"], sizes["ChannelData 0x4000: 12 bytes"]) == ("48", "16")
    assert any("signed by learner" in row[3] for row in rows)


@needs_coturn
def test_a_real_server_lends_an_address_to_who_signs_and_opens_it_to_who_is_permitted() -> None:
    async def scenario() -> None:
        coturn = await Coturn().start()
        try:
            answers, rows, heard = await spoken(coturn)
        finally:
            await coturn.close()
        check_spoken(answers, rows)
        assert heard == [b"hello friend"] * 2

    run(scenario())


def test_the_recorded_conversation_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)

    async def scenario() -> None:
        answers, rows, heard = await spoken(await Coturn().start())
        check_spoken(answers, rows)
        assert heard == [b"", b""]
        client = await Coturn().client()
        await client.request("Allocate")
        assert "recorded" in client.table().note

    run(scenario())


@needs_coturn
def test_another_server_ends_the_one_before() -> None:
    async def scenario() -> None:
        first = await Coturn().start()
        second = await Coturn().start()
        try:
            assert (first.running, second.running) == (False, True)
        finally:
            await second.close()

    run(scenario())


@needs_coturn
def test_a_wrong_password_is_a_second_401_and_no_candidate() -> None:
    async def scenario() -> None:
        coturn = await Coturn().start()
        wrong = RTCIceServer(f"turn:127.0.0.1:{coturn.port}", username=coturn.user, credential="wrong")
        call = calling(configuration=configured(wrong, policy="relay"))
        try:
            with TurnTap() as tap, pytest.raises(loopback.CallError, match="lends no address"):
                await call.run()
        finally:
            await call.close()
            await coturn.close()
        said = [row[3] for row in turn_table(tap.first).rows]
        assert said == [
            "Allocate request",
            "Allocate error response, 401 Unauthorized",
            "Allocate request, signed by learner",
            "Allocate error response, 401 Unauthorized",
        ]

    run(scenario())

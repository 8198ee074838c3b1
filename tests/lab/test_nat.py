"""The toy NATs, and real ICE across them: notebooks/lab/nat.py."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aioice
import pytest
from aiortc import RTCIceServer
from conftest import run

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab.nat import KINDS, Box, Homes, Kind, Machine, Nat, at_home, named, nat_matrix
from lab.relay import configured
from lab.wire import Tap

STOCK = aioice.ice.StunProtocol.connection_made


class Reflector(asyncio.DatagramProtocol):
    """A STUN server made of aioice's messages."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        request = aioice.stun.parse_message(data)
        response = aioice.stun.Message(
            request.message_method, aioice.stun.Class.RESPONSE, transaction_id=request.transaction_id
        )
        response.attributes["XOR-MAPPED-ADDRESS"] = addr
        self.transport.sendto(bytes(response), addr)


@asynccontextmanager
async def reflector() -> AsyncIterator[tuple[str, int]]:
    """Give the address of a running STUN server."""
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Reflector, local_addr=("127.0.0.1", 0))
    try:
        yield transport.get_extra_info("sockname")
    finally:
        transport.close()
        await asyncio.sleep(0)


def calling(**options: Any) -> loopback.Call:
    return loopback.Call(loopback.SyntheticSource(320, 240, 30), **options)


def nothing_left() -> bool:
    """Whether the toy net has let go of everything."""
    return not Box.owners and not Nat.homes and aioice.ice.StunProtocol.connection_made is STOCK


@pytest.fixture(autouse=True)
def clean_net() -> Any:
    """Every test leaves the toy net and aioice as they were."""
    yield
    assert nothing_left()


# ---- NATs by hand ----------------------------------------------------------------------------------------------------


async def probed(kind: str | Kind) -> tuple[list[bool], list[str]]:
    """Return whether three destinations see one port (the second: another port of the first), and who gets in."""
    nat = Nat(kind)
    boxes = [nat, laptop := Machine("laptop", nat), one := Machine("one", ports=3), two := Machine("two")]
    seen = []
    for machine, to in ((one, one.addresses[0]), (one, one.addresses[1]), (two, two.address)):
        laptop.send(b"hello", to)
        arrived = await machine.receive()
        assert arrived is not None
        seen.append(arrived[1])
    stranger = Machine("stranger")
    one.send(b"port", seen[0])
    one.send(b"address", seen[0], port=2)
    stranger.send(b"stranger", seen[0])
    heard = [await laptop.receive(0.05) for _ in range(3)]
    for box in (*boxes, stranger):
        box.close()
    return [at == seen[0] for at in seen[1:]], [each[0].decode() for each in heard if each]


@pytest.mark.parametrize(
    ("kind", "same", "let_in"),
    [
        ("full cone", [True, True], ["port", "address", "stranger"]),
        ("restricted cone", [True, True], ["port", "address"]),
        ("port-restricted cone", [True, True], ["port"]),
        ("symmetric", [False, False], ["port"]),
        (Kind("address-dependent", "address-dependent"), [True, False], ["port", "address"]),
    ],
)
def test_each_kind_maps_and_filters_as_its_name_says(kind: str | Kind, same: list[bool], let_in: list[str]) -> None:
    assert run(probed(kind)) == (same, let_in)


def test_a_private_address_is_reached_from_its_own_home_only() -> None:
    async def scenario() -> None:
        home, other = Nat("full cone", "home"), Nat("full cone", "other")
        laptop, phone, far = Machine("laptop", home), Machine("phone", home), Machine("far", other)
        open_net = Machine("open net")
        laptop.send(b"hello", phone.address)
        assert await phone.receive() == (b"hello", laptop.address)
        far.send(b"hello", phone.address)
        open_net.send(b"hello", phone.address)
        assert await phone.receive(0.05) is None
        assert [row[-1] for row in home.table().passages.rows] == ["delivered at home"]
        assert [row[-1] for row in other.table().passages.rows] == ["dropped: a private address, not of this home"]
        for box in (home, other, laptop, phone, far, open_net):
            box.close()

    run(scenario())


def test_the_table_names_who_is_who_and_tells_each_thing_once() -> None:
    async def scenario() -> None:
        nat = Nat("symmetric")
        laptop, server = Machine("laptop", nat), Machine("server", ports=2)
        for _ in range(3):
            laptop.send(b"hello", server.address)
        arrived = await server.receive()
        assert arrived is not None
        door = arrived[1]
        server.send(b"other port", door, port=1)
        assert await laptop.receive(0.05) is None
        table = nat.table()
        assert table.bindings.rows == [
            (
                f"laptop 127.0.0.1:{laptop.address[1]}",
                f"NAT 127.0.0.1:{door[1]}",
                *[f"server 127.0.0.1:{server.address[1]}"] * 2,
            )
        ]
        fates = [row[-1] for row in table.passages.rows]
        assert fates == [f"left from NAT 127.0.0.1:{door[1]}", "dropped: nothing was sent to that port from here"]
        assert "address-and-port-dependent mapping" in repr(table)
        assert table._repr_html_().count("<table") == 2
        assert nat.table().passages.rows == []
        for box in (nat, laptop, server):
            box.close()
        nat.send(laptop.address, b"too late", door)
        assert not nat.table().passages.rows

    run(scenario())


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="full cone, restricted cone"):
        Nat("round")


# ---- ICE through NATs ------------------------------------------------------------------------------------------------


def test_every_kind_against_every_kind() -> None:
    async def scenario() -> None:
        async with reflector() as server:
            matrix = await nat_matrix(server, deadline=2)
        assert list(matrix.meetings) == [(one, other) for one in KINDS for other in KINDS]
        narrow, symmetric = "port-restricted cone", "symmetric"
        for (one, other), meeting in matrix.meetings.items():
            if symmetric not in (one, other):
                assert meeting.types == ("srflx", "srflx")
            elif {one, other} <= {narrow, symmetric}:
                assert meeting.types == ("none", "none")
            else:
                assert meeting.types == tuple("prflx" if kind == symmetric else "srflx" for kind in (one, other))
        assert matrix["full cone", "symmetric"].kinds == ("full cone", "symmetric")
        assert matrix.png.startswith(b"\x89PNG")

    run(scenario())


def test_a_call_crosses_two_nats_and_the_tap_sees_the_outside_ports() -> None:
    async def scenario() -> None:
        async with reflector() as server:
            call = calling(configuration=configured(RTCIceServer(f"stun:127.0.0.1:{server[1]}")))
            nats = Nat("restricted cone", "NAT 1"), Nat("symmetric", "NAT 2")
            with Homes({call.pc1: nats[0], call.pc2: nats[1]}):
                with Tap(call) as tap:
                    await call.run()
                assert call.pc1.selected_pair.remote.split()[1] == "prflx"
                remote = {datagram.remote for datagram in tap.only("SRTP", "pc1", "out")}
                ports = {int(one.rpartition(":")[2]) for one in remote}
                assert ports <= {binding.outside[1] for binding in nats[1].bindings}
                await call.close()

    run(scenario())


@pytest.mark.parametrize("at_home", [True, False])
def test_a_peer_at_home_is_deaf_to_what_has_not_come_through_its_nat(at_home: bool) -> None:
    async def scenario() -> None:
        call, stranger = calling(), Machine("stranger")
        check = aioice.stun.Message(aioice.stun.Method.BINDING, aioice.stun.Class.REQUEST)
        check.attributes["PRIORITY"] = 1
        knock = bytes(check)
        with Homes({call.pc1: Nat("full cone")} if at_home else {}), Tap(call) as tap:
            await call.run(call.steps[:3])
            [own] = loopback.candidates_in(call.pc1.pc.localDescription.sdp)
            stranger.send(knock, ("127.0.0.1", loopback.parse_candidate(own["candidate"]).port))
            await asyncio.sleep(0.05)
            await call.close()
        assert len(tap.only("STUN", "pc1", "in")) == (0 if at_home else 1)
        stranger.close()

    run(scenario())


def test_between_two_symmetric_nats_a_call_stays_in_checking() -> None:
    async def scenario() -> None:
        async with reflector() as server:
            asking = configured(RTCIceServer(f"stun:127.0.0.1:{server[1]}"))
            call, nat1, _ = at_home("symmetric", asking, deadline=0.7)
            sign = named("STUN server", server)
            with pytest.raises(loopback.CallError, match="ICE checking"):
                await call.run()
            assert "STUN server" in repr(nat1.table("no"))
            await call.close()  # and the homes with it, see clean_net
            sign.close()

    run(scenario())

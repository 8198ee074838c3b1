"""ICE's arithmetic: candidates and pairs, each priority computed again from its parts."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import sys
from pathlib import Path

import aioice
import pytest
from aiortc import RTCPeerConnection
from browsers import CHROMIUM
from conftest import run
from faults import calling
from hypothesis import given
from hypothesis import strategies as st

from loopback import NO_SERVERS, LoopbackOnly, Peer, candidates_in, without_candidates

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab.draw import Table
from lab.ice import (
    TYPE_PREFERENCES,
    Recomputed,
    candidate_table,
    pair_priority,
    pair_table,
    parse_candidates,
    priority,
    split_priority,
)
from lab.private import CheckedPair


@given(kind=st.sampled_from(sorted(TYPE_PREFERENCES)), local=st.integers(0, 65535), component=st.integers(1, 255))
def test_a_priority_is_what_aioice_computes_and_comes_apart_again(kind: str, local: int, component: int) -> None:
    number = priority(TYPE_PREFERENCES[kind], local, component)
    assert number == aioice.candidate.candidate_priority(component, kind, local)
    assert split_priority(number) == (TYPE_PREFERENCES[kind], local, component)
    assert eval(split_priority(number).formula) == number


@given(number=st.integers(1, 2**31 - 1))
def test_every_priority_comes_apart(number: int) -> None:
    parts = split_priority(number)
    assert eval(parts.formula) == number
    assert 1 <= parts.component <= 256


@pytest.mark.parametrize("wrong", [(127, 0, 1), (-1, 0, 1), (126, 65536, 1), (126, 0, 0), (126, 0, 257)])
def test_impossible_parts_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"is not in .* \(RFC 8445 section 5.1.2.1\)"):
        priority(*wrong)
    for number in (0, 2**31):
        with pytest.raises(ValueError, match="is not in"):
            split_priority(number)


@given(one=st.integers(1, 2**31 - 1), other=st.integers(1, 2**31 - 1), controlling=st.booleans())
def test_a_pair_has_one_priority_on_both_sides(one: int, other: int, controlling: bool) -> None:
    local, remote = (aioice.Candidate("1", 1, "udp", number, "192.0.2.1", 9, "host") for number in (one, other))
    expected = aioice.ice.candidate_pair_priority(local, remote, controlling)
    assert pair_priority(*((one, other) if controlling else (other, one))) == expected
    assert abs(pair_priority(one, other) - pair_priority(other, one)) == (one != other)


@pytest.mark.parametrize("kind", ["host", "srflx", "prflx", "relay"])
def test_the_priority_of_each_type_is_computed_again(kind: str) -> None:
    number = aioice.candidate.candidate_priority(1, kind)
    line = f"candidate:1 1 udp {number} 192.0.2.1 5000 typ {kind} raddr 10.0.0.1 rport 4000"
    (row,) = candidate_table(line).rows
    assert row[6] == f"equal: {number}"
    assert row[3] == f"{kind}, for 10.0.0.1:4000"


async def offered(kinds: list[str]) -> str:
    """Return an offer for media of these kinds, with its candidates."""
    pc = RTCPeerConnection(NO_SERVERS)
    for kind in kinds:
        pc.addTransceiver(kind)
    with LoopbackOnly():
        await pc.setLocalDescription(await pc.createOffer())
    await pc.close()
    return str(pc.localDescription.sdp)


@pytest.mark.parametrize("kinds", [["video"], ["audio", "video"]])
def test_a_real_candidate_is_computed_again(kinds: list[str]) -> None:
    offer = run(offered(kinds))
    table = candidate_table(offer)
    assert [row[6] for row in table.rows] == ["equal: 2130706431"]
    lines = [line for line in offer.splitlines() if line.startswith("a=candidate")]
    assert len(lines) == len(kinds)
    assert (f"{len(lines)} lines" in table.note) == (len(lines) > 1)
    assert candidate_table(candidates_in(offer)).rows == table.rows
    assert candidate_table(lines).rows == table.rows
    assert candidate_table(parse_candidates(lines)).rows == table.rows


def test_a_browser_may_choose_its_own_preferences() -> None:
    table = candidate_table(CHROMIUM)
    assert len(table.rows) == 5
    assert [row[4] for row in table.rows] == sorted((row[4] for row in table.rows), key=int, reverse=True)
    said = {row[2]: row[6] for row in table.rows}
    assert said["udp 192.0.2.10:54321"].startswith("equal")
    assert said["udp 203.0.113.5:54321"].startswith("equal")
    assert said["udp 198.51.100.7:60000"] == "own choice: type preference 2, recommended is 0"
    assert said["tcp 192.0.2.10:9"] == "below UDP's 126, as TCP should be"
    assert "not equal" not in table._repr_html_() + repr(table)
    kinds = {row[2]: row[3] for row in table.rows}
    assert kinds["udp 192.0.2.10:54321"] == "host (generation 0, network-id 1, network-cost 10)"
    assert kinds["tcp 192.0.2.10:9"] == "host, active (generation 0, network-id 1)"
    assert candidate_table("candidate:1 1 tcp 2130706431 192.0.2.1 9 typ host tcptype active").rows[0][6] == (
        "not below UDP's 126, as TCP should be"
    )


def test_a_candidate_that_cannot_be_right_is_shown_as_such() -> None:
    rows = candidate_table(
        "a=candidate:1 2 udp 2130706431 192.0.2.1 5000 typ host\n"
        "a=candidate:2 1 udp 4294967295 192.0.2.2 5000 typ host\n"
        "a=candidate:3 1 udp 2130706431 2001:db8::1 5000 typ odd\n"
    ).rows
    said = {row[0]: row[6] for row in rows}
    assert "made for component 1, not 2" in said["1"]
    assert "is not in 1..2**31 - 1" in said["2"]
    assert said["3"] == "not equal: the type odd is unknown"
    assert {row[2] for row in rows} >= {"udp [2001:db8::1]:5000"}
    assert Recomputed(parse_candidates("candidate:1 300 udp 1 192.0.2.1 5000 typ host")[0]).recommended is None


def test_without_candidates_there_is_an_empty_table() -> None:
    table = candidate_table(without_candidates(CHROMIUM))
    assert table.rows == []
    assert "<table" in table._repr_html_()
    assert "RFC 8445" in repr(table)


@pytest.mark.parametrize("role", ["controlling", "controlled"])
def test_a_pair_of_unequal_candidates_is_computed_again(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("1 1 udp 2130706431 192.0.2.1 5000 typ host", "2 1 udp 1694498815 192.0.2.2 6000 typ srflx")
    sides = [aioice.Candidate.from_sdp(line) for line in lines]
    number = aioice.ice.candidate_pair_priority(*sides, role == "controlling")
    monkeypatch.setattr("lab.ice.check_list", lambda peer: [CheckedPair(*sides, "in-progress", False, number)])
    monkeypatch.setattr("lab.ice.ice_role", lambda peer: role)
    (row,) = pair_table(object()).rows
    assert row[:4] == ("in-progress", "host 192.0.2.1:5000", "srflx 192.0.2.2:6000", str(number))
    assert eval(row[4]) == number
    assert row[5:] == (f"equal: {number}", "")


def test_before_any_check_there_is_no_pair() -> None:
    async def scenario() -> None:
        peer = Peer("pc1", loopback.memory_channel()[0], loopback.Log())
        try:
            assert pair_table(peer).rows == []
            peer.pc.createDataChannel("chat")
            assert "pc1" in pair_table(peer).head[1]
        finally:
            await peer.close()

    run(scenario())


def test_the_pair_of_a_real_call_is_computed_again() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            for peer in call.peers:
                check_pairs(pair_table(peer), peer)

    run(scenario())


def check_pairs(table: Table, peer: Peer) -> None:
    assert table.rows
    for state, own, other, number, parts, again, chosen in table.rows:
        assert (state, chosen) == ("succeeded", "nominated")
        assert own.startswith("host 127.0.0.1:")
        assert other.startswith("host 127.0.0.1:")
        assert again == f"equal: {number}"
        assert eval(parts) == int(number)
    assert peer.pc.getTransceivers()[0].receiver.transport.transport.role in table.note

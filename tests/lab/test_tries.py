"""What lesson 03 borrows: addresses that ICE finds, a call walked through in other ways, faults, waiting."""

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import sys
from pathlib import Path
from typing import Any

import aioice
import pytest
from conftest import run

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab import call_after, candidate_table, change, faulty
from lab.tries import (
    STRANGERS,
    Rounds,
    addresses,
    as_mdns,
    at_once,
    attempt,
    bars,
    check_lists,
    ice_lite,
    impatient,
    stopwatch,
    strips,
    trickled,
    ufrag,
    usable,
    wrong_password,
)
from lab.wire import Tap

from loopback import Call, LoopbackOnly, SyntheticSource, candidates_in

STOCK = LoopbackOnly.__enter__, aioice.ice.get_host_addresses, aioice.ice.CONSENT_INTERVAL


@pytest.fixture(autouse=True)
def restored() -> Any:
    """Every test leaves the guard and aioice as they were."""
    yield
    assert (LoopbackOnly.__enter__, aioice.ice.get_host_addresses, aioice.ice.CONSENT_INTERVAL) == STOCK


def hosts(call: Call) -> list[str]:
    return [line["candidate"].split()[4] for line in candidates_in(call.pc1.pc.localDescription.sdp)]


@pytest.mark.parametrize("found", [["127.0.0.1", "127.0.0.2"], ["127.0.0.2"], []])
def test_ice_finds_the_addresses_that_it_shall_find(found: list[str]) -> None:
    if found and usable(*found) != found:
        pytest.skip("this system has no second loopback address")

    async def scenario() -> None:
        with addresses(*found):
            call = await call_after("setLocalDescription(offer)")
        try:
            assert hosts(call) == found
            assert call.pc1.pc.iceConnectionState == "new"
        finally:
            await call.close()

    run(scenario())


def test_of_four_pairs_the_one_that_is_not_blocked_works() -> None:
    own, others = usable("127.0.0.1", "127.0.0.2"), usable("127.0.0.3", "127.0.0.4")
    if len(own + others) < 4:
        pytest.skip("this system has no second loopback address")

    async def scenario() -> None:
        table, seen = await check_lists(own, others, [own[0], others[0]])
        assert [row[0] for row in table.rows] == ["frozen"] * 4
        last = {name: states[-1][1] for name, states in seen.items()}
        assert last.pop("127.0.0.2 → 127.0.0.4") == "succeeded"
        assert "succeeded" not in last.values()
        assert strips(seen).data.startswith(b"\x89PNG")

    run(scenario())


@pytest.mark.parametrize("way", [trickled, at_once])
def test_both_ways_connect_and_are_timed(way: Any) -> None:
    milliseconds = run(stopwatch(way, faulty()))
    assert milliseconds > 0
    assert bars({"trickled": [milliseconds]}).data.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("times", "steady"),
    [([30, 40, 45, 345], True), ([30, 40, 80, 345], False), ([30, 40, 45, 380], False)],
)
def test_a_saving_is_told_only_where_the_fastest_rounds_can_be_right(times: list[float], steady: bool) -> None:
    found = Rounds({str(number): [time, 999.0] for number, time in enumerate(times)})
    assert found.steady is steady
    assert list(found.fastest.values()) == times
    assert "too busy" in str(found)


def test_a_lite_partner_is_nominated_by_the_book() -> None:
    async def scenario() -> None:
        requests = {}
        for name, edits in {"full": None, "lite": change("answer", ice_lite)}.items():
            call = Call(SyntheticSource(320, 240, 30), channels=faulty(None, edits))
            with Tap(call) as tap:
                await call.run()
            await call.close()
            sent = [datagram.summary for datagram in tap.only("STUN", "pc1", "out")]
            requests[name] = [summary for summary in sent if "request" in summary]
        assert requests["full"][0] == "Binding request, USE-CANDIDATE"
        assert requests["lite"][0] == "Binding request"
        assert "Binding request, USE-CANDIDATE" in requests["lite"]

    run(scenario())


def test_names_on_both_sides_leave_nothing_to_check(capsys: pytest.CaptureFixture[str]) -> None:
    _, tap = run(attempt(faulty(*2 * [change("candidate", as_mdns)])))
    assert len(tap) == 0
    assert "ICE checking" in capsys.readouterr().out


def test_a_wrong_password_is_answered_with_401(capsys: pytest.CaptureFixture[str]) -> None:
    _, tap = run(attempt(faulty(None, change("answer", wrong_password))))
    assert any("401" in datagram.summary for datagram in tap.only("STUN", "pc1", "in"))
    assert "not connected" in capsys.readouterr().out


def test_consent_is_asked_for_as_often_as_wanted() -> None:
    with impatient(0.2, 2):
        assert aioice.ice.CONSENT_INTERVAL == 0.2


def test_what_strangers_write_is_laid_open() -> None:
    rows = candidate_table(STRANGERS).rows
    assert len(rows) == 4
    assert {row[6].partition(":")[0].partition(" ")[0] for row in rows} == {"equal", "below"}
    assert ufrag("a=ice-ufrag:abcd\r\n") == "abcd"

"""STUN and TURN: what a user gives is checked, and works against a real coturn on 127.0.0.1."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiortc import RTCConfiguration
from conftest import TURN_PASSWORD, TURN_USER, run, run_at_once, running_coturn
from faults import calling, logged, pictures

from loopback import Call, CallError

sys.path.append(str(Path(loopback.__file__).resolve().parent / "notebooks"))
from phone.servers import check_uri, ice_configuration


@pytest.fixture(scope="module")
def coturn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a running STUN and TURN server that knows one user."""
    with running_coturn(tmp_path_factory.mktemp("coturn")) as (address, _):
        yield address


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOPBACK_ICE_PASSWORD", raising=False)


@pytest.fixture
def password(no_password: None, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LOOPBACK_ICE_PASSWORD", TURN_PASSWORD)
    return TURN_PASSWORD


# ---- Against a server ------------------------------------------------------------------------------------------------


async def carried(configuration: RTCConfiguration) -> Call:
    """Return a call that has carried some pictures and was closed."""
    async with calling((320, 240), configuration=configuration) as call:
        await call.run()
        await pictures(call, 10)
    assert call.meter.misread == 0
    return call


def called(configuration: RTCConfiguration) -> Call:
    call = run(carried(configuration))
    assert isinstance(call, Call)
    return call


def candidate_types(call: Call) -> set[str]:
    return {event.detail.split(" typ ")[1].split()[0] for event in logged(call, "send candidate")}


def test_stun_tells_a_server_reflexive_address(coturn: str) -> None:
    assert candidate_types(called(ice_configuration([f"stun:{coturn}"]))) == {"host", "srflx"}


@pytest.mark.parametrize("transport", ["", "?transport=tcp"])
def test_a_relayed_call_carries_the_picture(coturn: str, password: str, transport: str) -> None:
    call = called(ice_configuration([f"turn:{coturn}{transport}"], TURN_USER, relay_only=True))
    assert candidate_types(call) == {"relay"}
    assert {side.split()[1] for side in call.pc1.selected_pair} == {"relay"}


def test_all_three_kinds_of_candidate(coturn: str, password: str) -> None:
    call = called(ice_configuration([f"stun:{coturn}", f"turn:{coturn}"], TURN_USER))
    assert candidate_types(call) == {"host", "srflx", "relay"}
    assert call.pc1.selected_pair.local.split()[1] == "host"  # the highest priority wins (RFC 8445 section 5.1.2)


def test_the_password_is_shown_nowhere(coturn: str, password: str, capfd: pytest.CaptureFixture[str]) -> None:
    configuration = ice_configuration([f"turn:{coturn}"], TURN_USER)
    call = called(configuration)
    shown = f"{configuration} {configuration!r} {call.log!r} {call.pc1} {''.join(capfd.readouterr())}"
    assert f"turn:{coturn}" in shown
    assert password not in shown


def test_a_wrong_password_is_one_line_that_names_the_server(coturn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPBACK_ICE_PASSWORD", "wrong-horse")
    with pytest.raises(CallError, match=f"turn:{coturn} lends no address") as raised:
        called(ice_configuration([f"turn:{coturn}"], TURN_USER))
    assert str(raised.value).isprintable()
    assert "wrong-horse" not in str(raised.value)


def test_a_server_that_does_not_answer_is_named(password: str) -> None:
    async def scenario(kind: str, user: str) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:  # bound, and never read
            silent.bind(("127.0.0.1", 0))
            uri = f"{kind}:127.0.0.1:{silent.getsockname()[1]}"
            with pytest.raises(CallError, match=uri) as raised:
                await carried(ice_configuration([uri], user))
        assert str(raised.value).isprintable()

    run_at_once(scenario, [("stun", ""), ("turn", TURN_USER)])


# ---- What a user gives -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("stun:localhost", "stun"),
        ("stun:stun.example.org:65535", "stun"),
        ("turn:127.0.0.1:1?transport=udp", "turn"),
        ("turn:127.0.0.1?transport=tcp", "turn"),
        ("turns:turn.example.org", "turn"),
    ],
)
def test_a_uri_that_aiortc_can_use(uri: str, kind: str) -> None:
    assert check_uri(uri) == kind


WRONG = [
    "",
    "stun",
    "stun:",
    "stun:127.0.0.1:",
    "stun:127.0.0.1:x",
    "stun:127.0.0.1:99999",
    "turn:127.0.0.1:65536",
    "stun:127.0.0.1:0",
    f"stun:127.0.0.1:{'9' * 5000}",
    f"stun:{'h' * 5000}",
    f"stun:{'h' * 64}.org",
    "stun:a..b",
    "stun:.",
    "stun:two words",
    "stun:\x1b[2J\n",
    "stun:\udce9",
    "stun:127.0.0.1?transport=udp",
    "stuns:127.0.0.1",
    "turn:127.0.0.1?transport=sctp",
    "turns:127.0.0.1?transport=udp",
    "http://127.0.0.1",
]


@pytest.mark.parametrize("uri", WRONG, ids=lambda uri: ascii(uri[:30]))
def test_a_uri_that_aiortc_cannot_use_is_refused_in_one_line(uri: str) -> None:
    with pytest.raises(CallError) as raised:
        ice_configuration([uri])
    text = str(raised.value)
    assert text.startswith(loopback.printable(uri, 60))
    assert text.isprintable()
    assert len(text) < 200


@pytest.mark.parametrize(
    ("uris", "user", "relay_only", "words"),
    [
        (["stun:127.0.0.1", "stun:127.0.0.2"], "", False, "one STUN and one TURN server"),
        (["turn:127.0.0.1", "turns:127.0.0.2"], TURN_USER, False, "one STUN and one TURN server"),
        (["turn:127.0.0.1"], "", False, "needs a user"),
        (["stun:127.0.0.1"], TURN_USER, False, "only a TURN server"),
        (["stun:127.0.0.1"], "", True, "only a TURN server"),
        ([], TURN_USER, False, "only a TURN server"),
        ([], "", True, "only a TURN server"),
    ],
)
def test_what_does_not_go_together_is_refused(
    password: str, uris: list[str], user: str, relay_only: bool, words: str
) -> None:
    with pytest.raises(CallError, match=words) as raised:
        ice_configuration(uris, user, relay_only=relay_only)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("empty", [True, False])
def test_a_turn_server_needs_the_password_from_the_environment(monkeypatch: pytest.MonkeyPatch, empty: bool) -> None:
    if empty:
        monkeypatch.setenv("LOOPBACK_ICE_PASSWORD", "")
    with pytest.raises(CallError, match="LOOPBACK_ICE_PASSWORD"):
        ice_configuration(["turn:127.0.0.1"], TURN_USER)


def test_without_servers_it_is_what_a_call_has_anyway() -> None:
    assert ice_configuration([]) == loopback.NO_SERVERS


def test_a_stun_server_is_told_no_password(password: str) -> None:
    stun, turn = ice_configuration(["stun:127.0.0.1", "turn:127.0.0.1"], TURN_USER).iceServers or []
    assert (stun.username, stun.credential) == (None, None)
    assert (turn.username, turn.credential) == (TURN_USER, TURN_PASSWORD)

"""STUN and TURN, against a real coturn on 127.0.0.1."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiortc import RTCIceServer
from conftest import program, report, wait_until

USER, PASSWORD = "learner", "correct-horse-battery"
SHORT = ("--view", "none", "--seconds", "1", "--size", "320x240")


@pytest.fixture(scope="module")
def coturn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a running STUN and TURN server that knows one user."""
    if shutil.which("turnserver") is None:
        pytest.skip("coturn is not installed: apt install coturn")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("coturn")
    command = ["turnserver", "-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", f"--listening-port={port}"]
    command += [f"--user={USER}:{PASSWORD}", "--realm=loopback", "--lt-cred-mech", "--allow-loopback-peers"]
    command += ["--no-tls", "--no-dtls", "--no-cli", "--log-file=stdout", f"--pidfile={folder / 'pid'}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        wait_until(lambda: f":{port:04X} " in Path("/proc/net/udp").read_text())
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=10)


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LOOPBACK_ICE_PASSWORD", PASSWORD)
    return PASSWORD


def candidate_types(found: dict[str, object]) -> set[str]:
    log = found["log"]
    assert isinstance(log, list)
    return {event["detail"].split(" typ ")[1].split()[0] for event in log if event["what"] == "send candidate"}


def test_stun_tells_a_server_reflexive_address(coturn: str, tmp_path: Path) -> None:
    found = report("--ice-server", f"stun:{coturn}", *SHORT, cwd=tmp_path)
    assert candidate_types(found) == {"host", "srflx"}
    assert found["frames"]["received"] > 10


@pytest.mark.parametrize("transport", ["", "?transport=tcp"])
def test_a_relayed_call_carries_the_picture(coturn: str, password: str, tmp_path: Path, transport: str) -> None:
    arguments = ("--ice-server", f"turn:{coturn}{transport}", "--ice-user", USER, "--relay-only", *SHORT)
    found = report(*arguments, cwd=tmp_path)
    assert candidate_types(found) == {"relay"}
    assert {side.split()[1] for side in found["selected_pair"].values()} == {"relay"}
    assert found["frames"]["received"] > 10
    assert found["frames"]["misread"] == 0


def test_all_three_kinds_of_candidate(coturn: str, password: str, tmp_path: Path) -> None:
    servers = ("--ice-server", f"stun:{coturn}", "--ice-server", f"turn:{coturn}", "--ice-user", USER)
    found = report(*servers, *SHORT, cwd=tmp_path)
    assert candidate_types(found) == {"host", "srflx", "relay"}
    assert found["selected_pair"]["local"].split()[1] == "host"  # the highest priority wins (RFC 8445 section 5.1.2)


def test_the_password_is_printed_nowhere(coturn: str, password: str, tmp_path: Path) -> None:
    arguments = ("--ice-server", f"turn:{coturn}", "--ice-user", USER, "--json", *SHORT)
    ended = program(*arguments, cwd=tmp_path)
    assert ended.returncode == 0
    assert password not in ended.stdout + ended.stderr


def test_the_options_do_not_show_it_either() -> None:
    server = RTCIceServer("turn:127.0.0.1", USER, PASSWORD)
    assert PASSWORD not in repr(loopback.IceOptions((server,)))


def test_a_wrong_password_is_one_line_that_names_the_server(
    coturn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOOPBACK_ICE_PASSWORD", "wrong-horse")
    ended = program("--ice-server", f"turn:{coturn}", "--ice-user", USER, *SHORT, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert f"turn:{coturn} lends no address" in ended.stderr
    assert "wrong-horse" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("kind", ["stun", "turn"])
def test_a_server_that_does_not_answer_is_named(kind: str, password: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:  # bound, and never read
        silent.bind(("127.0.0.1", 0))
        uri = f"{kind}:127.0.0.1:{silent.getsockname()[1]}"
        user = ("--ice-user", USER) if kind == "turn" else ()
        ended = program("--ice-server", uri, *user, *SHORT, cwd=tmp_path, seconds=10)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert uri in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--ice-server", "http://127.0.0.1"),
        ("--ice-server", "stuns:127.0.0.1"),
        ("--ice-server", "turn:127.0.0.1?transport=sctp", "--ice-user", USER),
        ("--ice-server", "stun:127.0.0.1", "--ice-server", "stun:127.0.0.2"),
        ("--ice-server", "turn:127.0.0.1"),
        ("--relay-only",),
    ],
)
def test_wrong_options_are_one_line_and_status_2(password: str, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ended = program(*arguments, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1


def test_a_turn_server_needs_the_password_from_the_environment(tmp_path: Path) -> None:
    assert "LOOPBACK_ICE_PASSWORD" not in os.environ
    ended = program("--ice-server", "turn:127.0.0.1", "--ice-user", USER, cwd=tmp_path)
    assert ended.returncode == 2
    assert "LOOPBACK_ICE_PASSWORD" in ended.stderr

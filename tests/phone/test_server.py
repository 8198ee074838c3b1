"""The phone's server: what it serves, whom it lets speak, what it limits, and that it keeps nothing."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import datetime
import json
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from conftest import TURN_PASSWORD, environment, run
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from phones import PHONE, Server, Socket, command_line, serving, sockets, until

from loopback import CallError, Log

sys.path.append(str(Path(loopback.__file__).resolve().parent / "notebooks"))
from phone import server as module
from phone.control import CALL_CONTROL, PATIENCE, PEOPLE_HEAR, PEOPLE_SAY, Room
from phone.server import address, started


@contextlib.asynccontextmanager
async def room_of(places: int = 10, **options: Any) -> AsyncIterator[tuple[Room, str]]:
    """Give a room and the address of its server, in this process."""
    room = Room(places, **options)
    runner = await started(room, "127.0.0.1", 0)
    try:
        yield room, address(runner)
    finally:
        await runner.cleanup()


async def get(url: str, **headers: str) -> tuple[int, str, Any]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.text(), answer.headers


# ---- What it serves --------------------------------------------------------------------------------------------------


def test_the_page_its_files_and_the_table() -> None:
    async def scenario() -> None:
        async with room_of() as (_, url):
            status, page, headers = await get(url)
            assert (status, page) == (200, (module.PAGE / "index.html").read_text())
            assert headers["Cache-Control"] == "no-store"
            assert "default-src 'self'" in headers["Content-Security-Policy"]
            for file in module.PAGE.iterdir():
                status, _, headers = await get(f"{url}/page/{file.name}")
                assert (status, headers["Cache-Control"]) == (200, "no-store")
            _, text, _ = await get(f"{url}/control.json")
            told = json.loads(text)
            table = {(state, what): (then, tuple(does)) for state, what, then, does in told["table"]}
            assert table == CALL_CONTROL
            assert told["patience"] == PATIENCE
            assert {kind: tuple(texts) for kind, texts in told["messages"].items()} == PEOPLE_HEAR

    run(scenario())


@pytest.mark.parametrize(
    "path", ["/page/../server.py", "/page/%2e%2e/server.py", "/server.py", "/page/", "/etc/passwd"]
)
def test_nothing_else_is_served(path: str) -> None:
    async def scenario() -> None:
        async with room_of() as (_, url):
            port = int(url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)  # a client would tidy up the path
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            assert answer.split(b" ")[1] in (b"403", b"404")

    run(scenario())


# ---- Who may speak ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[", "localhost.evil"]
)
def test_a_request_under_another_name_is_refused(host: str) -> None:
    async def scenario() -> None:
        async with room_of() as (_, url):
            for path in ("", "/control.json", "/socket"):
                assert (await get(f"{url}{path}", Host=host))[0] in (400, 403)

    run(scenario())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "[::1]:80", "192.0.2.7:8080"])
def test_an_address_is_no_other_name(host: str) -> None:
    async def scenario() -> None:
        async with room_of() as (_, url):
            assert (await get(f"{url}/control.json", Host=host))[0] == 200

    run(scenario())


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null", "", "http://localhost"])
def test_a_page_of_another_server_cannot_open_the_socket(origin: str) -> None:
    async def scenario() -> None:
        async with room_of() as (_, url), aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
                await session.ws_connect(f"{url}/socket", headers={"Origin": origin})
            assert raised.value.status == 403
            own = await session.ws_connect(f"{url}/socket", headers={"Origin": url})
            await own.close()

    run(scenario())


@pytest.mark.parametrize("kind", sorted({*PEOPLE_SAY} - {"join", "leave", "ping"}))
def test_the_server_says_who_speaks(kind: str) -> None:
    async def scenario() -> None:
        async with room_of() as (_, url), sockets(url, "Ann", "Ben", "Cem", "") as (_, ben, cem, stranger):
            for one in (stranger, cem):
                await one.say(kind, **{"from": "Ann", "to": "Ben", "call": "1", "text": "{}", "name": "Ann"})
            heard = await ben.hear()
            assert (heard["type"], heard["from"]) == (kind, "Cem")
            assert (await stranger.hear())["type"] == "refused"

    run(scenario())


def test_taken_full_and_no_name() -> None:
    async def scenario() -> None:
        async with room_of(2) as (_, url), sockets(url, "Ann", "Ben", "", "", "") as (_, _, *door):
            for one, name, answer in zip(door, ("Ann", "Cem", "\n"), ("taken", "full", "refused"), strict=True):
                await one.say("join", name=name)
                assert (await one.hear())["type"] == answer

    run(scenario())


# ---- Who leaves ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["leave", "close", "abort"])
def test_whoever_goes_leaves_the_list_at_once(how: str) -> None:
    async def scenario() -> None:
        async with room_of() as (room, url), sockets(url, "Ann", "Ben") as (ann, ben):
            if how == "leave":
                await ben.say("leave")
            elif how == "close":
                await ben.socket.close()
            else:  # the program is killed: the system closes its connections
                ben.socket._response.connection.transport.abort()  # type: ignore[union-attr]
            assert await ann.hear() == {"type": "left", "from": "Ben"}
            assert [*room.people] == ["Ann"]

    run(scenario())


def test_when_the_server_ends_nobody_is_told_that_the_others_leave() -> None:
    async def scenario() -> None:
        with serving() as server:
            async with sockets(server.url, "Ann", "Ben") as people:
                server.process.send_signal(signal.SIGTERM)
                for one in people:
                    message = await asyncio.wait_for(one.socket.receive(), 20)
                    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.GOING_AWAY)
            server.process.wait(timeout=20)
            assert "Traceback" not in server.close()
            assert server.process.returncode == 128 + signal.SIGTERM

    run(scenario())


# ---- What is limited -------------------------------------------------------------------------------------------------


def test_who_floods_the_room_is_put_out() -> None:
    async def scenario() -> None:
        async with room_of() as (_, url), sockets(url, "Ann", "Ben") as (ann, ben):
            for _ in range(module.AT_ONCE // 2):
                await ben.say("ping", sent=1)
                assert (await ben.hear())["type"] == "pong"
            with contextlib.suppress(ConnectionError):
                for _ in range(10 * module.AT_ONCE):
                    await ben.say("ping", sent=1)
            assert await ben.closed_with() == aiohttp.WSCloseCode.POLICY_VIOLATION
            assert await ann.hear() == {"type": "left", "from": "Ben"}

    run(scenario())


def test_an_allowance_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    allowance = module.Allowance()
    assert [allowance.spend() for _ in range(module.AT_ONCE + 1)] == [True] * module.AT_ONCE + [False]
    now += 1.025
    assert [allowance.spend() for _ in range(module.A_SECOND + 2)][-3:] == [True, True, False]
    now += 3600
    assert [allowance.spend() for _ in range(module.AT_ONCE + 1)] == [True] * module.AT_ONCE + [False]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (json.dumps({"type": "signal", "to": "Ben", "call": "1", "text": "x" * 70_000}), 1009),
        (json.dumps({"type": "signal", "to": "Ben", "call": "1", "text": "é" * 33_000}, ensure_ascii=False), 1009),
        (b"\0\1\2", 1003),
    ],
)
def test_what_is_too_large_or_no_text_ends_the_socket_alone(data: str | bytes, code: int) -> None:
    async def scenario() -> None:
        async with room_of() as (_, url), sockets(url, "Ann", "Ben") as (ann, ben):
            await (ann.socket.send_str(data) if isinstance(data, str) else ann.socket.send_bytes(data))
            assert await ann.closed_with() == code
            assert await ben.hear() == {"type": "left", "from": "Ann"}

    run(scenario())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type": 7}', '{"type": "dance"}', "[" * 30_000, '{"type": "call"}'])
def test_what_is_no_message_is_refused_by_its_name(text: str) -> None:
    async def scenario() -> None:
        async with room_of() as (room, url), sockets(url, "Ann", "Ben") as (ann, ben):
            await ann.socket.send_str(text)
            assert (await ann.hear())["type"] == "refused"
            await ann.say("call", to="Ben", call="1")
            assert (await ben.hear())["type"] == "call"
            assert len(room.people) == 2

    run(scenario())


def test_who_does_not_read_is_put_out_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNREAD", 200_000)

    async def scenario() -> None:
        async with room_of() as (room, url), sockets(url, "Ann", "Cem") as (ann, cem):
            _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]), limit=1)
            key = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
            writer.write(f"GET /socket HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}{'A' * 22}==\r\n\r\n".encode())
            join = json.dumps({"type": "join", "name": "Ben"}).encode()
            writer.write(bytes([0x81, 0x80 | len(join), 0, 0, 0, 0]) + join)  # RFC 6455 section 5.2, masked by zeros
            assert (await ann.hear())["from"] == "Ben"
            assert (await cem.hear())["from"] == "Ben"
            for _ in range(module.AT_ONCE - 50):
                await cem.say("signal", to="Ben", call="1", text="x" * 60_000)
            assert await ann.hear() == {"type": "left", "from": "Ben"}
            await ann.say("call", to="Cem", call="1")
            assert (await cem.hear_until("call"))[-1]["from"] == "Ann"
            assert [*room.people] == ["Ann", "Cem"]
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    run(scenario())


def test_the_door_holds_only_so_many() -> None:
    async def scenario() -> None:
        async with room_of(1) as (_, url), sockets(url, *[""] * 12), aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
                await session.ws_connect(f"{url}/socket")
            assert raised.value.status == 503

    run(scenario())


def test_two_hundred_people_see_one_another() -> None:
    async def scenario() -> None:
        names = [f"person {number}" for number in range(200)]
        with serving("--places", "200") as server:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                people = [Socket(await session.ws_connect(f"{server.url}/socket")) for _ in names]
                seen = [{name} for name in names]

                async def live(number: int) -> None:
                    await people[number].say("join", name=names[number])
                    while len(seen[number]) < 200:
                        message = await people[number].hear()
                        seen[number] |= {message["from"]} if "from" in message else {*message["people"]}

                await asyncio.gather(*(live(number) for number in range(200)))
                one_more = Socket(await session.ws_connect(f"{server.url}/socket"))
                await one_more.say("join", name="one more")
                assert (await one_more.hear())["type"] == "full"
                for one in people:
                    await one.socket.close()
            server.close()

    run(scenario(), 60)


# ---- What is kept, and what is printed -------------------------------------------------------------------------------


def test_no_sdp_and_no_password_is_printed() -> None:
    options = ("--ice-server", "turn:127.0.0.1:9", "--ice-user", "someone", "--relay-only")

    async def scenario(server: Server) -> None:
        async with sockets(server.url, "Ann", "Ben") as (ann, ben):
            await ann.say("call", to="Ben", call="1")
            await ben.hear()
            await ben.say("accept", to="Ann", call="1")
            told = (await ann.hear_until("servers"))[-1]
            assert told["relayOnly"] is True
            credentials = {"username": "someone", "credential": TURN_PASSWORD}
            assert told["iceServers"] == [{"urls": "turn:127.0.0.1:9", **credentials}]
            await ben.hear_until("servers")
            await ann.say("signal", to="Ben", call="1", text=json.dumps({"type": "offer", "sdp": "v=0 secret"}))
            assert json.loads((await ben.hear())["text"]) == {"type": "offer", "sdp": "v=0 secret"}

    with serving(*options, LOOPBACK_ICE_PASSWORD=TURN_PASSWORD) as server:
        run(scenario(server))
        printed = server.first + server.close()
    assert "Ann → Ben" in printed
    assert "secret" not in printed
    assert TURN_PASSWORD not in printed


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 that lasts an hour, and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "t")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(module.ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(*pem))
    return paths


def test_with_a_certificate_it_is_https(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=str(cert))

    async def scenario(url: str) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session:
            async with session.get(f"{url}/control.json", headers={"Host": "phone.example"}) as answer:
                assert answer.status == 200  # under a wrong name a browser would have refused the certificate
            socket = await session.ws_connect(f"{url}/socket", headers={"Origin": url})
            await socket.close()
        await asyncio.sleep(0.25)  # TLS ends after that (aiohttp's manual, "Graceful Shutdown")

    with serving("--cert", str(cert), "--key", str(key)) as server:
        assert server.url.startswith("https://")
        run(scenario(server.url))


def test_an_address_that_others_reach_comes_with_a_word_on_cameras() -> None:
    with serving("--host", "0.0.0.0") as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert server.process.stdout is not None
        assert "https" in server.process.stdout.readline()


def test_a_port_that_is_taken_is_named() -> None:
    async def scenario() -> None:
        async with room_of() as (_, url):
            with pytest.raises(CallError, match=r"127\.0\.0\.1:\d+ cannot be listened on .*--port 0"):
                await started(Room(2), "127.0.0.1", int(url.rpartition(":")[2]))

    run(scenario())


WRONG: list[tuple[list[str], str]] = [
    (["serve", "--port", "70000"], "a port"),
    (["serve", "--places", "0"], "a number of places"),
    (["serve", "--cert", "missing.pem", "--key", "missing.pem"], "missing.pem"),
    (["serve", "--cert", "missing.pem"], "go together"),
    (["serve", "--host", "192.0.2.1"], "--host"),
    (["serve", "--ice-server", "http://x"], "not a URI like"),
    (["serve", "--relay-only"], "only a TURN server"),
    (["call"], "NAME"),
    (["call", "\x1b[2J"], "a name has"),
    (["answer", "--name", " x"], "a name has"),
    (["dance"], "dance"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=[ascii(" ".join(one)) for one, _ in WRONG])
def test_what_cannot_be_is_told_in_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = command_line().main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("phone: ")
    assert words in line
    assert line.isprintable()


def test_it_starts_as_a_folder_from_anywhere(tmp_path: Path) -> None:
    command = [*PHONE, "serve", "--port", "70000"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "phone: argument --port: '70000' is not a port, 0 to 65535\n"


def test_the_log_of_a_server_is_not_kept() -> None:
    """serve's own log only prints; what a Room notes has no text of a message in it."""

    async def scenario() -> None:
        log = Log()
        async with room_of(log=log) as (_, url), sockets(url, "Ann", "Ben") as (ann, ben):
            await ann.say("signal", to="Ben", call="1", text="a secret")
            await ben.hear()
        await until(lambda: [event.what for event in log.events].count("left") == 2)
        assert "secret" not in repr(log)

    run(scenario())

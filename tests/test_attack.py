"""What others do to a call: datagrams from strangers, messages made to be slow, a wire that is cut or loses packets, a
server that falls silent, a machine that is too slow. All on 127.0.0.1.

Times are processor times of one call of a function, the least of a few: they do not depend on what else runs.
"""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import dataclasses
import functools
import gc
import json
import logging
import random
import signal
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aioice
import av
import cv2
import pytest
from aiortc import RTCConfiguration, RTCIceServer
from aiortc.codecs.vpx import Vp8Decoder
from aiortc.mediastreams import VIDEO_TIME_BASE
from aiortc.rtcconfiguration import RTCIceTransportPolicy
from aiortc.rtcrtpreceiver import RemoteStreamTrack
from aiortc.rtp import RtpPacket
from conftest import TURN_PASSWORD, TURN_USER, run, running_coturn
from faults import calling, logged, pictures, wires

from loopback import (
    LONGEST_DESCRIPTION,
    LONGEST_MESSAGE,
    MOST_CANDIDATES,
    MOST_LINES,
    NO_SERVERS,
    Call,
    CallError,
    Log,
    MarkerJitterBuffer,
    Message,
    Peer,
    Picture,
    SignallingError,
    SyntheticSource,
    candidates_in,
    memory_channel,
    parse_message,
    read_time_code,
    without_candidates,
)

MOST = 0.05  # s of processor time that one message or datagram may take


@contextlib.asynccontextmanager
async def undisturbed() -> AsyncIterator[None]:
    """Fail if anything is reported to the event loop or logged as a warning meanwhile."""
    reports: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(repr(context)))
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: reports.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield
        gc.collect()  # a task whose exception nobody has seen says so when it goes
        await asyncio.sleep(0)
    finally:
        logging.getLogger().removeHandler(handler)
        asyncio.get_running_loop().set_exception_handler(None)
    assert reports == []


def least(function: Callable[[], Any], times: int = 5) -> float:
    """Return the processor time in seconds of a call of this function, the least of a few."""
    found = []
    for _ in range(times):
        before = time.thread_time()
        function()
        found.append(time.thread_time() - before)
    return min(found)


# ---- Datagrams from a stranger ---------------------------------------------------------------------------------------


def stun(kind: int, *attributes: tuple[int, bytes]) -> bytes:
    """Return a STUN message of that type (RFC 8489 section 5)."""
    body = b"".join(struct.pack("!HH", name, len(value)) + value + bytes(-len(value) % 4) for name, value in attributes)
    return struct.pack("!HHI", kind, len(body), aioice.stun.COOKIE) + bytes(range(12)) + body


MALFORMED = [
    stun(1, (0x0024, b"abc")),  # a PRIORITY of 3 bytes
    stun(1, (0x0024, b"abcde")),
    stun(1, (0x8029, b"1234567")),  # an ICE-CONTROLLED of 7 bytes
    stun(1, (0x0009, b"")),
    stun(1, (0x0020, b"\0\1\0\0")),
    stun(1, (0x0020, b"\0\2" + b"x" * 17)),
    stun(1, (0x0006, b"\xff\xfe")),  # a USERNAME that is not UTF-8
    stun(1, (0x8028, b"")),
    stun(0x101, (0x0020, b"\0\1ab127.")),
    stun(0x3FFF),  # no such method
    stun(1)[:19],
    stun(1)[:2] + b"\xff\xff" + stun(1)[4:],
    stun(1, *[(0x0006, b"a:b")] * 180)[:1500],
]
LIKE_MEDIA = [bytes([first, second]) for first in (128, 144, 191) for second in (0, 96, 200, 206, 255)]
GARBAGE = [
    b"",
    *(bytes([value]) for value in range(256)),
    *(
        first + bytes(size)
        for size in (11, 1500, 2100, 9000, 65000)
        for first in (*LIKE_MEDIA, b"\0", b"\x16", b"\x80\x60")
    ),
    b"\x16\xfe\xfd" + bytes(8) + b"\0\x0c\x01" + bytes(11),  # the beginning of a ClientHello
    b"\x15\xfe\xfd" + bytes(8) + b"\0\2\1\0",  # DTLS: close_notify
    b"\x17\xfe\xfd" + bytes(8) + b"\0\1x",
    b"\x14\xfe\xfd" + bytes(8) + b"\0\1\1",
    *MALFORMED,
]


def ports(peer: Peer) -> list[int]:
    """Return the UDP ports of a peer, none before it has any."""
    local = peer.pc.localDescription
    return [int(found["candidate"].split()[5]) for found in candidates_in(local.sdp)] if local else []


class Stranger:
    """A program that is no part of the call and sends to the ports of both peers."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def send(self, *datagrams: bytes) -> None:
        for port in (port for peer in self.call.peers for port in ports(peer)):
            for datagram in datagrams:
                self.socket.sendto(datagram, ("127.0.0.1", port))

    def __enter__(self) -> "Stranger":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


async def quiet(seconds: float = 0.02) -> None:
    """Let what was sent arrive."""
    await asyncio.sleep(seconds)


def test_garbage_at_every_moment_of_a_call_changes_nothing() -> None:
    async def scenario() -> None:
        async with undisturbed(), calling(deadline=15) as call:
            with Stranger(call) as stranger:
                for step in call.steps:
                    stranger.send(*GARBAGE)
                    if step.needs or step.sends:
                        await quiet()  # some of it is read before the step, some while it is taken
                    await step.run()
                assert call.pc2.picture is not None
                for _ in range(10):
                    stranger.send(*GARBAGE)
                    await pictures(call, 2)
                assert call.meter.misread == 0
                assert len(logged(call, "connected")) == 2

    run(scenario(), 30)


def test_garbage_is_kept_out_as_soon_as_a_socket_is_open() -> None:
    # With a STUN or TURN server, gathering takes up to 5 s, and all the while the port is open.
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        opening = loop.create_datagram_endpoint

        async def opened(*arguments: Any, **options: Any) -> Any:
            made = await opening(*arguments, **options)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                for datagram in GARBAGE[::3] + MALFORMED:
                    stranger.sendto(datagram, made[0].get_extra_info("sockname"))
            await quiet()
            return made

        loop.create_datagram_endpoint = opened  # type: ignore[method-assign]
        async with undisturbed(), calling(deadline=15) as call:
            await call.run()
            await pictures(call, 5)

    run(scenario())


def test_a_flood_during_the_set_up_does_not_stop_it() -> None:
    async def scenario() -> None:
        async with undisturbed(), calling(deadline=15) as call:
            with Stranger(call) as stranger:
                for step in call.steps:
                    if step.what in ("send its candidates", "connect"):
                        stranger.send(*[b"", *MALFORMED, b"\x80\x60" + bytes(2000), bytes(20), b"\x16" * 500] * 125)
                    await step.run()
                await pictures(call, 5)

    run(scenario(), 30)


async def recorded(call: Call) -> list[tuple[Any, bytes]]:
    """Set a call up; return the STUN messages that went to pc1, each with the socket it came to."""
    found = []
    original = aioice.ice.StunProtocol.datagram_received

    def keep(protocol: Any, data: bytes, address: Any) -> None:
        if data[0] < 4:
            found.append((protocol, data))
        original(protocol, data, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aioice.ice.StunProtocol, "datagram_received", keep)
        await call.run()
    assert len(found) >= 4
    return found


def mutated(message: bytes, chance: random.Random, key: bytes | None) -> bytes:
    """Return a STUN message with a few of its attributes and bytes changed; signed again, if there is a key."""
    body, attributes = message[20:], []
    while len(body) >= 4:
        name, size = struct.unpack("!HH", body[:4])
        attributes.append((name, body[4 : 4 + size]))
        body = body[4 + size + -size % 4 :]
    attributes = [one for one in attributes if one[0] not in (0x0008, 0x8028)]  # MESSAGE-INTEGRITY, FINGERPRINT
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(attributes) + 1)
        name = chance.choice([*aioice.stun.ATTRIBUTES_BY_TYPE, chance.randrange(65536)])
        attributes[at : at + chance.randrange(2)] = [(name, chance.randbytes(chance.choice((0, 1, 3, 4, 8, 20, 60))))]
    made = bytearray(stun(struct.unpack("!H", message[:2])[0], *attributes))
    made[8:20] = message[8:20] if chance.random() < 0.5 else chance.randbytes(12)
    for _ in range(chance.randrange(3)):
        made[chance.randrange(len(made))] = chance.randrange(256)
    if key:
        hashed = aioice.stun.message_integrity(bytes(made), key)
        made += struct.pack("!HH", 0x0008, 20) + hashed
        made[2:4] = struct.pack("!H", len(made) - 20)
    return bytes(made[: chance.randrange(len(made))] if chance.random() < 0.1 else made)


@pytest.mark.parametrize("signed", [False, True], ids=["stranger", "peer"])
def test_no_stun_message_raises_or_takes_long(signed: bool) -> None:
    async def scenario() -> None:
        chance = random.Random(7)
        async with undisturbed(), calling() as call:
            real = await recorded(call)
            slowest = 0.0
            for number in range(1000 if signed else 4000):
                protocol, message = real[number % len(real)]
                key = protocol.receiver.local_password.encode() if signed else None
                data = mutated(message, chance, key)
                address = (f"127.9.{number // 250}.{number % 250 + 1}", 9)  # each from somewhere else
                handed = functools.partial(protocol.datagram_received, data, address)
                slowest = max(slowest, least(handed, 2))
                if number % 100 == 0:
                    await asyncio.sleep(0)
            assert slowest < MOST
            if not signed:  # what is signed may take the call elsewhere
                await pictures(call, 5)

    run(scenario(), 60)


@pytest.mark.parametrize(
    "datagram",
    [stun(1, *[(0x7F00, b"")] * 370), stun(1, *[(0x0020, b"\0\2" + bytes(18))] * 60), b"\x80\x60" + bytes(65000)],
    ids=["370 attributes", "60 addresses", "65,000 bytes"],
)
def test_no_datagram_of_a_stranger_takes_long(datagram: bytes) -> None:
    async def scenario() -> None:
        async with calling() as call:
            protocol, _ = (await recorded(call))[0]
            assert least(lambda: protocol.datagram_received(datagram, ("127.0.0.1", 9))) < MOST / 5

    run(scenario())


@contextlib.contextmanager
def losing(lost: Callable[[Any, bytes], bool]) -> Iterator[None]:
    """Lose the datagrams for which `lost(socket, data)` holds, on their way out; STUN is given as one zero byte."""
    kind = aioice.ice.StunProtocol
    send_data, send_stun = kind.send_data, kind.send_stun

    async def data(protocol: Any, data: bytes, address: Any) -> None:
        if not lost(protocol, data):
            await send_data(protocol, data, address)

    def message(protocol: Any, message: Any, address: Any) -> None:
        if not lost(protocol, b"\0"):
            send_stun(protocol, message, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "send_data", data)
        patch.setattr(kind, "send_stun", message)
        yield


def of(peer: Peer) -> Callable[[Any], bool]:
    """Return whether a socket is that peer's."""
    return lambda protocol: protocol.local_candidate.port in ports(peer)


def test_garbage_does_not_count_as_heard() -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            with Stranger(call) as stranger, losing(lambda protocol, data: of(call.pc2)(protocol)):

                async def heard() -> None:
                    while True:
                        stranger.send(b"\0", *GARBAGE[::20], *MALFORMED)
                        await asyncio.sleep(0.05)
                        await call.pc1.health.check()

                begun = time.monotonic()
                with pytest.raises(CallError, match="pc1 got no datagram for 3 s"):
                    await heard()
                assert time.monotonic() - begun < 12  # it was 15.6 s

    run(scenario(), 40)


# ---- Messages --------------------------------------------------------------------------------------------------------

BEGIN = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n"
BEGIN += "a=setup:actpass\r\na=fingerprint:sha-256 " + ":".join(["AA"] * 32) + "\r\n"
VP8 = "a=rtpmap:96 VP8/90000"


def offer(*lines: str, m_lines: int = 1, session: str = "") -> str:
    """Return an offer, as a message, of so many m-lines that have all these lines."""
    media = ["m=video 9 UDP/TLS/RTP/SAVPF 96", "c=IN IP4 0.0.0.0", "a=sendrecv", "a=rtcp-mux", VP8, *lines]
    sections = ["\r\n".join([*media, f"a=mid:{mid}"]) + "\r\n" for mid in range(m_lines)]
    return json.dumps({"type": "offer", "sdp": BEGIN + session + "".join(sections)})


def candidate(port: int, component: int = 1) -> Message:
    line = f"candidate:{port} {component} udp {port} 127.0.0.1 {port} typ host"
    return {"type": "candidate", "candidate": line, "sdpMid": "0"}


ONE, NACK = "a=rtpmap:97 VP8/90000", "a=rtcp-fb:* nack"
SLOW = {
    "200 rtpmap, 200 rtcp-fb:*": offer(*[ONE] * 200, *[NACK] * 200),
    "100 equal rtpmap, 220 rtcp-fb": offer(*[VP8] * 99, *["a=rtcp-fb:96 nack pli"] * 220),
    "16,000 ssrc": offer(*[f"a=ssrc:{number} cname:x" for number in range(16_000)]),
    "3,000 short ssrc": offer(*[f"a=ssrc:{number} a:" for number in range(3_000)]),
    "20,000 candidates in the SDP": offer(*[f"a={candidate(port)['candidate']}" for port in range(1, 20_001)]),
    "1,000 candidates in the SDP": offer(*[f"a={candidate(port)['candidate']}" for port in range(1, 1_001)]),
    "1,000 m-lines": offer(m_lines=1000),
    "100 m-lines": offer(m_lines=100),
    "100 codecs, 3,000 fmtp": offer(
        *[f"a=rtpmap:{number} VP8/90000" for number in range(100, 200)], *["a=fmtp:199 a"] * 3_000
    ),
    "10 MB": json.dumps({"type": "offer", "sdp": "v=0\r\n" * 2_000_000}),
    "10 MB of nothing": " " * 10_000_000,
    "deep JSON": "[" * 65_000,
    "deeper JSON": '{"type":' * 1_000_000,
    "many keys": json.dumps({f"{number}": 0 for number in range(6_000)} | {"type": "offer"}),
    "a long number": "9" * 65_000,
    "a long line": offer("a=fmtp:96 " + ";".join(map(str, range(9_000)))),
    "a long m-line": offer().replace("SAVPF 96", "SAVPF" + " 96" * 20_000),
    "a long group": offer(m_lines=16, session="a=group:BUNDLE" + " 0 1 2 3 4 5" * 4_000 + "\r\n"),
    "lines that mean nothing": offer(*["a=x"] * (LONGEST_DESCRIPTION - 14)),
}


def unique(count: int, codec: str, fmtp: str = "") -> list[str]:
    found = [f"a=rtpmap:{number} {codec}" for number in range(97, 97 + count)]
    return found + [f"a=fmtp:{number} {fmtp}" for number in range(97, 97 + count) if fmtp]


MOST_CODECS, MOST_FB, MOST_STARS = (MOST_LINES[start] for start in ("a=rtpmap:", "a=rtcp-fb:", "a=rtcp-fb:*"))
H264 = "packetization-mode=1;profile-level-id=42e01f"
FEEDBACK = [NACK] * MOST_STARS + [f"a=rtcp-fb:{97 + number % 100} q{number}" for number in range(MOST_FB - MOST_STARS)]
WORST = {  # what a search for the slowest offer that is taken has found
    f"{codec} {filled}": offer(*lines, *FEEDBACK, *[line] * (LONGEST_DESCRIPTION - 14 - len(lines) - len(FEEDBACK)))
    for codec, lines in (
        ("VP8", unique(MOST_CODECS - 1, "VP8/90000")),
        ("H264", unique(MOST_CODECS - 1, "H264/90000", H264)),
        ("rtx", unique(MOST_CODECS - 1, "rtx/90000", "apt=96")),
    )
    for filled, line in (
        ("and fmtp", f"a=fmtp:{95 + MOST_CODECS} a=1;b=2;c=3"),
        ("and extmap", "a=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid"),
    )
}
WORST["16 m-lines"] = offer(*unique(MOST_CODECS // 16 - 1, "H264/90000", H264), m_lines=16)
EDITS = (Path(loopback.__file__).parent / "notebooks" / "lab" / "edits.py").read_text(encoding="utf-8")
SOUND = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=sendrecv\r\na=rtcp-mux\r\na=mid:9\r\na=rtpmap:111 opus/48000/2\r\n"
OTHERS = [line for number in range(35, 79) for line in (f"a=rtpmap:{number} H265/90000", f"a=fmtp:{number} a=1")]
BROWSERS = {
    "sound, a video, data": EDITS.split('BROWSER_OFFER = """\\\n')[1].split('"""')[0],
    "sound, two videos": json.loads(offer(*OTHERS, *["a=rtcp-fb:35 nack pli"] * 105, m_lines=2))["sdp"] + SOUND,
}
BROWSERS = {name: json.dumps({"type": "offer", "sdp": sdp}) for name, sdp in BROWSERS.items()}


async def taken(text: str) -> tuple[str, float]:
    """Let a new peer use a message; return why it was refused, and the processor time, with the answer's if it was
    not."""
    peer, refused = Peer("pc2", memory_channel()[0], Log()), ""
    before = time.thread_time()
    try:
        await peer.apply(parse_message(text))
        await peer.create_answer()
    except SignallingError as error:
        refused = str(error)
    spent = time.thread_time() - before
    await peer.close()
    return refused, spent


@pytest.mark.parametrize("text", [*SLOW.values(), *WORST.values(), *BROWSERS.values()], ids=[*SLOW, *WORST, *BROWSERS])
def test_no_message_takes_long(text: str) -> None:
    async def scenario() -> None:
        runs = [await taken(text) for _ in range(3)]
        refused, _ = runs[0]
        assert min(spent for _, spent in runs) < MOST
        if text in (*WORST.values(), *BROWSERS.values()):
            assert refused == ""
        else:
            assert refused.isprintable()

    run(scenario(), 120)


def test_the_worst_offers_are_as_large_as_may_be() -> None:
    for text in WORST.values():
        assert len(text) <= LONGEST_MESSAGE
    lines = [parse_message(text)["sdp"].splitlines() for text in WORST.values()]
    assert max(map(len, lines)) == LONGEST_DESCRIPTION
    for start, most in MOST_LINES.items():
        if start != "a=ssrc":
            assert max(sum(line.startswith(start) for line in one) for one in lines) == most


def test_20_000_candidates_do_not_stop_the_call() -> None:
    async def scenario() -> None:
        def edit(message: Message) -> list[Message | str]:
            many = [candidate(1024 + port) for port in range(20_000)]
            return [*many, message] if message["type"] == "end-of-candidates" else [message]

        async with calling(channels=wires(edit), deadline=30) as call:
            await call.run()
            assert len(call.pc2.remote_candidates) == MOST_CANDIDATES
            await pictures(call, 5)

    before = time.process_time()
    run(scenario(), 60)
    assert time.process_time() - before < 30  # it was 183 s


def test_a_candidate_of_rtcp_does_not_hide_the_right_one() -> None:
    async def scenario() -> None:
        def edit(message: Message) -> list[Message | str]:
            if message["type"] != "candidate":
                return [message]
            wrong = message["candidate"].replace(" 1 udp ", " 2 udp ")
            assert wrong != message["candidate"]
            return [message | {"candidate": wrong}, message]

        async with undisturbed(), calling(channels=wires(edit, edit)) as call:
            await call.run()
            await pictures(call, 2)
            assert len(logged(call, "refused candidate")) == 2

    run(scenario())


def test_candidates_in_a_description_are_not_looked_at() -> None:
    # Firefox writes them, also those of RTCP; a .local one would be looked up in the network.
    async def scenario() -> None:
        def edit(message: Message) -> list[Message | str]:
            if "sdp" not in message:
                return [message]
            wrong = ("1 2 udp 1 127.0.0.1 9", "1 1 udp 1 e0a0.local 9", "1 1 udp 1 127.0.0.1 70000", "x")
            more = "".join(f"a=candidate:{one} typ host\r\n" for one in wrong) + "a=end-of-candidates\r\n"
            return [message | {"sdp": message["sdp"] + more}]

        async with undisturbed(), calling(channels=wires(edit, edit)) as call:
            await call.run()
            await pictures(call, 2)
            assert without_candidates(call.pc2.pc.remoteDescription.sdp).count("candidate") == 0
            assert len(call.pc2.remote_candidates) == 1

    run(scenario())


# ---- A wire that is cut, or loses datagrams --------------------------------------------------------------------------


@dataclasses.dataclass
class Arrival:
    """A picture that arrived: when, when it was captured (s; None: it cannot be read), how like it is to the one sent
    (dB)."""

    at: float
    captured: float | None
    likeness: float = 0.0


SAMPLE = slice(20, None, 4), slice(None, None, 4)  # rows below the time code, columns


class Sampling(SyntheticSource):
    """A test picture that keeps a sixteenth of what it gave."""

    def __init__(self, width: int, height: int, fps: float) -> None:
        super().__init__(width, height, fps)
        self.kept: list[Picture] = []

    async def next(self) -> tuple[Picture, float]:
        picture, captured_at = await super().next()
        self.kept.append(picture[SAMPLE].copy())
        return picture, captured_at


def arriving(call: Call) -> list[Arrival]:
    """Return a list that each picture received from now on is added to."""
    found: list[Arrival] = []
    timed, kept = call.pc2.on_picture, getattr(call.track.source, "kept", None)

    def note(picture: Picture) -> None:
        known = len(call.meter.delays)
        timed(picture)
        arrival = Arrival(time.perf_counter(), None)
        if len(call.meter.delays) > known:
            arrival.captured = arrival.at - call.meter.delays[-1]
            if kept:
                arrival.likeness = cv2.PSNR(picture[SAMPLE].copy(), kept[read_time_code(picture) or 0])
        found.append(arrival)

    call.pc2.on_picture = note
    return found


def media(protocol: Any, data: bytes) -> bool:
    """Whether it is a packet of pc1's video, repeated or not."""
    return data[0] > 127 and not 192 <= data[1] <= 223 and protocol.receiver.ice_controlling


def first_packet_and_its_repairs() -> Callable[[Any, bytes], bool]:
    """Lose one packet, and all that come under another payload type than it had: repairs (RFC 4588)."""
    kinds: list[int] = []

    def lost(protocol: Any, data: bytes) -> bool:
        if not media(protocol, data):
            return False
        kinds.append(data[1] & 127)
        return len(kinds) == 1 or kinds[-1] != kinds[0]

    return lost


OUTAGES = {
    "cut": (lambda: lambda protocol, data: True, 30.0, "VP8"),
    "cut, 5 pictures a second": (lambda: lambda protocol, data: True, 5.0, "VP8"),
    "cut, H264": (lambda: lambda protocol, data: True, 30.0, "H264"),
    "one packet, no repair": (first_packet_and_its_repairs, 30.0, "VP8"),
    "one packet, no repair, H264": (first_packet_and_its_repairs, 30.0, "H264"),
}


@pytest.mark.parametrize(("outage", "fps", "codec"), OUTAGES.values(), ids=OUTAGES)
def test_after_an_outage_of_3_s_pictures_are_new_again_at_once(outage: Any, fps: float, codec: str) -> None:
    async def scenario() -> None:
        call = Call(Sampling(640, 480, fps), codec=codec)
        try:
            await call.run()
            await asyncio.sleep(1)
            found = arriving(call)
            with losing(outage()):
                await asyncio.sleep(3)
            mended = time.perf_counter()
            await asyncio.sleep(3)
        finally:
            await call.close()
        after = [one for one in found if one.at > mended]
        new = [one for one in after if one.captured and one.captured > mended]
        assert new, "no new picture within 3 s"
        late = [one for one in after if one.at > new[0].at and one not in new]
        assert len(late) <= 2, "old pictures go on to come"
        assert min(one.likeness for one in found) > 20, "it was decoded without the picture before it"
        delays = sorted(one.at - one.captured for one in new[len(new) // 2 :] if one.captured)
        assert delays[len(delays) // 2] < 0.5

    run(scenario(), 30)


def test_while_one_packet_is_missing_the_call_asks_for_a_new_picture() -> None:
    async def scenario() -> None:
        async with calling() as call:  # so small that 128 packets take more than 2 s
            await call.run()
            await pictures(call, 10)
            found, begun = arriving(call), time.perf_counter()
            with losing(first_packet_and_its_repairs()):
                await asyncio.sleep(2)
            assert [one for one in found if one.captured and one.captured > begun + 0.5]  # it was 7.7 s until one came

    run(scenario())


def test_a_call_begins_where_the_first_packet_is_lost() -> None:
    async def scenario() -> None:
        async with calling() as call:
            with losing(first_packet_and_its_repairs()):
                await call.run()
                await pictures(call, 5)
            assert call.meter.misread == 0

    run(scenario())


def test_no_packets_are_lost_where_more_came_than_were_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with calling() as call:
            await call.run()
            await pictures(call, 5)
            sender = call.pc1.pc.getSenders()[0]
            async with asyncio.timeout(10):
                while "remote-inbound-rtp" not in {one.type for one in (await sender.getStats()).values()}:
                    await asyncio.sleep(0.05)
            report = await call.pc1.pc.getStats()
            (told,) = (one for one in report.values() if one.type == "remote-inbound-rtp")
            told.packetsLost = -5

            async def stats() -> Any:
                return report

            monkeypatch.setattr(call.pc1.pc, "getStats", stats)
            await call.pc1.health.read_stats()
            assert call.pc1.health.packets_lost == 0

    run(scenario())


# ---- A machine that is too slow --------------------------------------------------------------------------------------


def test_where_decoding_is_too_slow_the_newest_picture_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    decode, pause = Vp8Decoder.decode, [0.0]

    def slow(decoder: Vp8Decoder, frame: Any) -> Any:
        time.sleep(pause[0])
        return decode(decoder, frame)

    monkeypatch.setattr(Vp8Decoder, "decode", slow)

    async def scenario() -> None:
        async with calling(size=(320, 240)) as call:
            await call.run()
            pause[0] = 0.1  # 10 pictures a second instead of 30: after 5 s the last one would be 3.3 s old
            await asyncio.sleep(5)
            found = arriving(call)
            await asyncio.sleep(1)
            ages = sorted(one.at - one.captured for one in found if one.captured)
            assert ages[len(ages) // 2] < 1.5
            assert len(ages) > 3
            pause[0] = 0.0
            await pictures(call, 30)  # and it recovers
            assert call.meter.misread == 0

    run(scenario(), 30)


def test_a_burst_of_frames_is_no_slow_decoder() -> None:
    # After a repaired gap many are whole at once: none of them is thrown away.
    waiting = [0]
    buffer = MarkerJitterBuffer(lambda: waiting[0])
    given = []
    for number in range(40):
        packet = RtpPacket(sequence_number=number, timestamp=number * 3000, marker=1)
        vars(packet)["_data"] = b"\0\0\0\x9d\1\x2a key" if number == 0 else b"later"
        ask, frame = buffer.add(packet)
        assert not ask
        given.append(frame)
        waiting[0] = number
    assert all(given)


def test_of_many_pictures_that_wait_only_the_newest_are_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        track = RemoteStreamTrack("video")
        received: list[Picture] = []
        peer = Peer("pc2", memory_channel()[0], Log(), marker_bit=False)
        peer.on_picture = received.append
        frame = av.VideoFrame(160, 120, "yuv420p")
        frame.time_base = VIDEO_TIME_BASE
        for _ in range(30):
            vars(track)["_queue"].put_nowait(frame)
        vars(track)["_queue"].put_nowait(None)  # the end
        await loopback.receive_frames(peer, track)
        assert 1 <= len(received) <= 4
        await peer.close()

    run(scenario())


# ---- A TURN server that falls silent ---------------------------------------------------------------------------------


@pytest.fixture
def coturn(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """HOST:PORT of a running TURN server, and its process."""
    with running_coturn(tmp_path) as running:
        yield running


def relayed(server: str) -> RTCConfiguration:
    return dataclasses.replace(
        NO_SERVERS,
        iceServers=[RTCIceServer(f"turn:{server}", TURN_USER, TURN_PASSWORD)],
        iceTransportPolicy=RTCIceTransportPolicy.RELAY,
    )


def test_a_turn_server_that_stops_answering_does_not_keep_the_call(
    coturn: tuple[str, subprocess.Popen[bytes]],
) -> None:
    server, process = coturn

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        opened: list[Any] = []
        opening = loop.create_datagram_endpoint

        async def keep(*arguments: Any, **options: Any) -> Any:
            made = await opening(*arguments, **options)
            opened.append(made[0])
            return made

        loop.create_datagram_endpoint = keep  # type: ignore[method-assign]
        async with undisturbed():
            call = Call(SyntheticSource(160, 120, 30), configuration=relayed(server), deadline=10)
            await call.run()
            await pictures(call, 3)
            assert "relay" in call.pc1.selected_pair.local
            process.send_signal(signal.SIGSTOP)
            begun = time.monotonic()
            await call.close()
            assert time.monotonic() - begun < 10  # 3 s; aioice alone takes 63
            notes = [event.detail for event in logged(call, "note")]
            assert notes == [f"turn:{server}: no answer at the end of the call"] * 2
            assert {peer.pc.connectionState for peer in call.peers} == {"closed"}
            await asyncio.sleep(0.1)
            assert opened
            assert all(transport.is_closing() for transport in opened)
            assert asyncio.all_tasks() - {asyncio.current_task()} <= {
                task for task in asyncio.all_tasks() if task.done()
            }

    asyncio.run(scenario())

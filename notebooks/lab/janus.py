"""A real forwarding server, Janus, where Debian's package is installed: a publisher, viewers, and what it costs.

room = await through_janus(viewers=3)      a run; where Janus cannot be run here, the recorded one, and that is printed
listing(Handle), listing(JanusChannel)     a client of Janus: its requests, and the channel that loopback's scripts use
janus_table(room)                          what has been seen

Janus offers no candidate on 127.0.0.1. So it gets a network of its own, a namespace with one made-up card (veth), and
the publisher and the viewers are there as well, in a second Python: a kernel cannot move into a namespace. Nothing
leaves it. It needs `unshare`, `ip`, and the right to make a namespace.
"""

from __future__ import annotations

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import argparse
import asyncio
import contextlib
import json
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from loopback import (
    CallError,
    Log,
    OutgoingTrack,
    Peer,
    SyntheticSource,
    callee,
    caller,
    candidates_in,
    play,
    read_time_code,
    without_candidates,
)

from .crowd import Cost, Work
from .draw import Table
from .wire import Tap

__all__ = ["Handle", "JanusChannel", "JanusRun", "janus_table", "through_janus"]

RECORDED = Path(__file__).with_name("janus_run.json")
CARD, ADDRESS, PORT, ROOM = "lab0", "10.9.0.1", 8088, 1234
Message = dict[str, Any]


# ---- A client --------------------------------------------------------------------------------------------------------


class Handle:
    """A session with Janus and a handle on its plugin VideoRoom: requests over HTTP, answers fetched one by one."""

    def __init__(self, http: aiohttp.ClientSession, session: str) -> None:
        self.http, self.session, self.url = http, session, ""

    @classmethod
    async def open(cls, http: aiohttp.ClientSession, janus: str) -> Handle:
        """Create a session and attach to the plugin."""
        session = await said(http, janus, {"janus": "create"})
        handle = cls(http, f"{janus}/{session['data']['id']}")
        plugin = await said(http, handle.session, {"janus": "attach", "plugin": "janus.plugin.videoroom"})
        handle.url = f"{handle.session}/{plugin['data']['id']}"
        return handle

    async def ask(self, body: Message, jsep: Message | None = None) -> Message:
        """Make a request of the plugin, perhaps with a description, and return its event. Raises CallError."""
        message: Message = {"janus": "message", "body": body}
        sent = await said(self.http, self.url, message | ({"jsep": jsep} if jsep else {}))
        if sent["janus"] == "success":  # some requests are answered at once
            return sent
        event: Message = {}
        while event.get("transaction") != sent["transaction"]:  # other news: webrtcup, media, a publisher that came
            async with self.http.get(self.session) as response:
                event = await response.json()
        if error := event["plugindata"]["data"].get("error"):
            raise CallError(f"Janus refused {body['request']}: {error}")
        return event

    async def trickle(self, candidate: Message) -> None:
        """Tell a candidate, or that there are no more."""
        await said(self.http, self.url, {"janus": "trickle", "candidate": candidate})


async def said(http: aiohttp.ClientSession, url: str, message: Message) -> Message:
    """Send one message, and return the answer. Raises CallError where it is an error."""
    async with http.post(url, json=message | {"transaction": secrets.token_hex(6)}) as response:
        answer: Message = await response.json()
    if answer["janus"] == "error":
        raise CallError(f"Janus refused {message['janus']}: {answer['error']['reason']}")
    return answer


class JanusChannel:
    """A Channel whose other end is Janus: what the scripts of loopback.py say becomes its requests, and back."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.inbox = asyncio.Queue[str]()

    async def send(self, text: str) -> None:
        message = json.loads(text)
        if message["type"] in ("offer", "answer"):
            request = {"offer": "publish", "answer": "start"}[message["type"]]
            self.take(await self.handle.ask({"request": request}, message))
        elif message["type"] == "candidate":
            await self.handle.trickle({"candidate": message["candidate"], "sdpMid": message["sdpMid"]})
        elif message["type"] == "end-of-candidates":
            await self.handle.trickle({"completed": True})

    def take(self, event: Message) -> None:
        """Put the description that came with an event into the mailbox, its candidates behind it: Janus waits until it
        has all, and sends them inside."""
        if jsep := event.get("jsep"):
            candidates = [{"type": "candidate", **one} for one in candidates_in(jsep["sdp"])]
            described = {"type": jsep["type"], "sdp": without_candidates(jsep["sdp"])}
            for message in (described, *candidates, {"type": "end-of-candidates"}):
                self.inbox.put_nowait(json.dumps(message))

    async def receive(self) -> str:
        return await self.inbox.get()


class JanusRun:
    """The publisher and the viewers of one room."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.http, self.url, self.log = http, f"http://127.0.0.1:{PORT}/janus", Log()
        self.peers: list[Peer] = []
        self.feed = 0  # the publisher's number

    async def publish(self, track: OutgoingTrack) -> Peer:
        """Send a track to the room: the script of a caller."""
        handle = await Handle.open(self.http, self.url)
        joined = await handle.ask({"request": "join", "ptype": "publisher", "room": ROOM, "display": "camera"})
        self.feed = joined["plugindata"]["data"]["id"]
        peer = self._peer("publisher", JanusChannel(handle))
        await play(caller(peer, track))
        await self._listed(handle)
        return peer

    async def _listed(self, handle: Handle) -> None:
        """Wait until Janus has noticed, too, that the publisher is connected: before, there is nothing to watch."""
        async with asyncio.timeout(5):
            while True:
                answer = await handle.ask({"request": "listparticipants", "room": ROOM})
                people = answer["plugindata"]["data"]["participants"]
                if any(one["id"] == self.feed and one["publisher"] for one in people):
                    return
                await asyncio.sleep(0.02)

    async def subscribe(self, name: str) -> Peer:
        """Watch the publisher: the script of a callee, for here Janus makes the offer."""
        handle = await Handle.open(self.http, self.url)
        channel = JanusChannel(handle)
        streams = [{"feed": self.feed}]
        channel.take(await handle.ask({"request": "join", "ptype": "subscriber", "room": ROOM, "streams": streams}))
        peer = self._peer(name, channel)
        await play(callee(peer))
        return peer

    def _peer(self, name: str, channel: JanusChannel) -> Peer:
        self.peers.append(Peer(name, channel, self.log, here_only=False))
        return self.peers[-1]


# ---- Inside the namespace --------------------------------------------------------------------------------------------

CONFIGURATIONS = {
    "janus.jcfg": 'general: {{ plugins_folder = "{folder}/plugins"\n transports_folder = "{folder}/transports"\n'
    ' debug_level = 0 }}\nnat: {{ ice_enforce_list = "{card}" }}\n',
    "janus.transport.http.jcfg": 'general: {{ http = true\n port = {port}\n ip = "127.0.0.1" }}\n',
    "janus.plugin.videoroom.jcfg": 'room-{room}: {{ publishers = 1\n bitrate = 500000\n videocodec = "vp8"\n'
    " fir_freq = 0 }}\n",
}


def plugins() -> Path | None:
    """Return where Debian's package has put Janus' plugins; None where it is not installed."""
    found = sorted(Path("/usr/lib").glob("*/janus")) if shutil.which("janus") else []
    return next(iter(found), None)


def card_up() -> None:
    """Bring up the made-up card."""
    for command in (
        *("link set lo up", f"link add {CARD} type veth peer name {CARD}x", f"addr add {ADDRESS}/24 dev {CARD}"),
        *(f"link set {CARD} up", f"link set {CARD}x up"),
    ):
        subprocess.run(["ip", *command.split()], check=True, capture_output=True)


def begun(folder: str) -> psutil.Popen:
    """Write Janus' configuration into a folder, and start it."""
    for name, text in CONFIGURATIONS.items():
        filled = text.format(folder=plugins(), card=ADDRESS, port=PORT, room=ROOM)
        Path(folder, name).write_text(filled, encoding="utf-8")
    return psutil.Popen(
        ["janus", "-F", folder, "-C", f"{folder}/janus.jcfg", "-N"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextlib.asynccontextmanager
async def janus_running() -> AsyncIterator[psutil.Popen]:
    """Bring up the card, and Janus on it; end it afterwards. Raises CallError where it does not answer within 5 s."""
    card_up()
    with tempfile.TemporaryDirectory() as folder:
        janus = begun(folder)
        try:
            await _answers()
            yield janus
        finally:
            janus.terminate()
            with contextlib.suppress(psutil.TimeoutExpired):
                janus.wait(5)
            if janus.is_running():
                janus.kill()
                janus.wait(5)


async def _answers() -> None:
    try:
        async with asyncio.timeout(5), aiohttp.ClientSession() as http:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"http://127.0.0.1:{PORT}/janus/info"):
                        return
                await asyncio.sleep(0.02)
    except TimeoutError as error:
        raise CallError("Janus does not answer after 5 s: does janus start by hand?") from error


async def inside(viewers: int, seconds: float) -> Cost:
    """Run a room with one publisher and so many viewers, of whom the last comes later; return what was seen."""
    numbers: dict[str, list[int | None]] = {}
    async with janus_running() as server, aiohttp.ClientSession() as http:
        room, track = JanusRun(http), OutgoingTrack(SyntheticSource(320, 240, 30))
        try:
            publisher = await room.publish(track)
            early = [await room.subscribe(f"viewer {n}") for n in range(1, viewers)]
            await asyncio.sleep(0.3)
            with Tap(publisher) as tap:
                late = await room.subscribe(f"viewer {viewers}")
            requests = sum("PLI" in d.summary or "FIR" in d.summary for d in tap.only("SRTCP", direction="in"))
            for peer in (*early, late):
                heard = numbers.setdefault(peer.name, [])
                peer.on_picture = lambda picture, heard=heard: heard.append(read_time_code(picture))  # type: ignore[misc]
            sent, before = track.meter.sent, sum(server.cpu_times()[:2])
            with Tap(*room.peers) as tap, Work() as work:
                await asyncio.sleep(seconds)
            spent, sent = sum(server.cpu_times()[:2]) - before, track.meter.sent - sent
            ssrcs = {p.name: _ssrcs(tap, p.name, "out" if p is publisher else "in") for p in room.peers}
            pair = str(publisher.selected_pair)
        finally:
            await asyncio.gather(*(peer.close() for peer in room.peers))
            await track.retire()
    uploaded = sum(d.size for d in tap.only("SRTP", "publisher", "out"))
    readable = sum(number is not None for found in numbers.values() for number in found)
    arrived = {name: len(found) for name, found in numbers.items()}
    more = {"arrived": arrived, "key requests": requests, "SSRC": ssrcs, "pair": pair}
    return Cost(
        *(viewers + 1, viewers + 1, sent, work.encoded, work.decoded, uploaded, work.seconds, work.lasted, spent),
        readable=readable,
        more=more,
    )


def _ssrcs(tap: Tap, who: str, direction: str) -> list[int]:
    found = {int.from_bytes(d.data[8:12], "big") for d in tap.only("SRTP", who, direction) if d.codec == "VP8"}
    return sorted(found)


# ---- Outside ---------------------------------------------------------------------------------------------------------


def namespace() -> list[str]:
    """Return the command that runs another one in a network of its own; [] where this machine has none for us."""
    if plugins() is None or not all(map(shutil.which, ("unshare", "ip"))):
        return []
    for way in (["unshare", "-n"], ["unshare", "-rn"]):  # as root, or as root of a user namespace
        if subprocess.run([*way, "true"], capture_output=True, check=False).returncode == 0:
            return way
    return []


async def through_janus(viewers: int = 3, seconds: float = 1.5) -> Cost:
    """Return what a room of Janus has shown, run in a namespace of its own; where that cannot be, the recorded run, and
    that is printed. Raises CallError where it could be run and failed."""
    way = namespace()
    if not way:
        recorded = Cost(**json.loads(RECORDED.read_text(encoding="utf-8")))
        print(recorded.recorded)
        return recorded
    running = await asyncio.create_subprocess_exec(
        *(*way, sys.executable, "-m", __name__, str(viewers), str(seconds)),
        cwd=Path(__file__).parents[1],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(40):
            told, trouble = await running.communicate()
    except TimeoutError as error:
        raise CallError("the room of Janus did not end within 40 s: run the cell again") from error
    finally:
        if running.returncode is None:
            running.terminate()
            await running.wait()
    if running.returncode:
        last = trouble.decode(errors="replace").strip().splitlines() or ["no word"]
        raise CallError(f"the room of Janus failed ({last[-1]:.200}): run the cell again")
    return Cost(**json.loads(told))


def janus_table(cost: Cost) -> Table:
    """Show what was seen at the publisher and at each viewer of a room."""
    publisher, *viewers = cost.more["SSRC"]
    rows: list[tuple[str, ...]] = [
        (publisher, "sends", f"≈{cost.pictures} pictures", _named(cost, publisher)),
        *((name, "receives", f"≈{cost.more['arrived'][name]} pictures", _named(cost, name)) for name in viewers),
    ]
    alike = len({ssrc for found in cost.more["SSRC"].values() for ssrc in found})
    note = f"{alike} different SSRCs for one camera; pictures whose number could not be read: {_unread(cost)}. "
    pair = re.sub(r":\d+", "", cost.more["pair"])
    note += f"The publisher's pair of addresses: {pair}. {cost.recorded}"
    return Table(("who", "", "in this time", "with"), [("", rows)], (20, 20, 30, 30), note=note.strip())


def _named(cost: Cost, name: str) -> str:
    return ", ".join(f"SSRC {ssrc}" for ssrc in cost.more["SSRC"][name])


def _unread(cost: Cost) -> str:
    return str(sum(cost.more["arrived"].values()) - cost.readable)


def main() -> None:
    """Run a room in this network namespace, and print what was seen as JSON."""
    options = argparse.ArgumentParser(description=main.__doc__)
    options.add_argument("viewers", type=int)
    options.add_argument("seconds", type=float)
    given = options.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that Janus is ended, too
    print(json.dumps(asdict(asyncio.run(inside(given.viewers, given.seconds)))))


if __name__ == "__main__":
    main()

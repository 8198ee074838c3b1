"""The callee in a process of its own, for test_scripts.py: it answers whoever listens at 127.0.0.1:PORT, and at the end
prints as JSON what it saw. The channel is a socket with one text a line."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any

from loopback import ChannelError, Peer, Picture, callee, play, read_time_code


@dataclass
class SocketChannel:
    """A loopback.Channel made of a socket; JSON has no line breaks of its own."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, text: str) -> None:
        self.writer.write(text.encode() + b"\n")

    async def receive(self) -> str:
        try:
            return (await self.reader.readuntil()).decode()
        except asyncio.IncompleteReadError as error:
            raise ChannelError("the other process has closed it") from error


def colour(picture: Picture) -> list[float]:
    """Return the mean blue, green and red below the time code."""
    return [round(float(mean), 2) for mean in picture[24:].mean((0, 1))]


async def answer(port: int) -> dict[str, Any]:
    """Take a call; return what was seen until the other side said bye."""
    channel = SocketChannel(*await asyncio.open_connection("127.0.0.1", port))
    peer = Peer("pc2", channel, loopback.Log(), deadline=20)
    seen: list[tuple[int | None, list[float]]] = []
    peer.on_picture = lambda picture: seen.append((read_time_code(picture), colour(picture)))
    try:
        await play(callee(peer))
        while not peer.hung_up:
            await peer.health.check()
            await asyncio.sleep(0.01)
    finally:
        await peer.close()
        channel.writer.close()
    return {"seen": seen, "states": peer.states, "pair": peer.selected_pair}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(answer(int(sys.argv[1])))))

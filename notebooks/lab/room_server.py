"""The socket.io server of the tutorials: a room for two, what one says the other hears. Lesson 08 prints it.

As a program it is one of several that share their rooms through Redis: python room_server.py --redis URL. It prints
its address, and ends when its standard input does. It needs no other module of the laboratory.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import socketio
from aiohttp import web

HERE = "127.0.0.1"
# redis-py ends a read after 5 s in which nothing came, which for a subscriber is no fault, and tries each thing again
# for seconds: https://github.com/open-webui/open-webui/pull/26462
REDIS = {"socket_timeout": None, "retry": None}

QUIET = logging.getLogger("room_server")  # an outage is shown by what is heard, not by lines on stderr
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False


async def nothing(text: str) -> None:
    """Look nothing up."""


def room_server(
    places: int = 2, look_up: Callable[[str], Awaitable[None]] = nothing, **options: Any
) -> socketio.AsyncServer:
    """Return the server: who joins hears created, joined or full; what is said, the others in the room hear."""
    server = socketio.AsyncServer(async_mode="aiohttp", logger=QUIET, engineio_logger=QUIET, **options)

    @server.event
    async def join(sid: str, room: str) -> None:
        there = len([*server.manager.get_participants("/", room)])
        if there >= places:
            await server.emit("full", to=sid)
            return
        await server.enter_room(sid, room)
        await server.emit("joined" if there else "created", to=sid)

    @server.event
    async def message(sid: str, text: str) -> None:
        await look_up(text)  # whether this one may say that: in a database, for example
        for room in set(server.rooms(sid)) - {sid}:
            await server.emit("message", text, room=room, skip_sid=sid)

    @server.event
    async def disconnect(sid: str, reason: str) -> None:
        for room in set(server.rooms(sid)) - {sid}:
            await server.emit("left", room=room, skip_sid=sid)

    return server


async def listening(server: socketio.AsyncServer, port: int = 0) -> web.AppRunner:
    """Return what runs the server on a port of 127.0.0.1; 0 takes a free one."""
    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, HERE, port).start()
    return runner


async def serve(redis: str, places: int) -> None:
    """Run one of the servers that share a Redis, until standard input ends."""
    manager = socketio.AsyncRedisManager(redis, redis_options=REDIS, logger=QUIET)
    runner = await listening(room_server(places, client_manager=manager))
    print(f"http://{HERE}:{runner.addresses[0][1]}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a socket.io server that shares its rooms through Redis.")
    parser.add_argument("--redis", required=True)
    parser.add_argument("--places", type=int, default=2)
    options = parser.parse_args()
    asyncio.run(serve(options.redis, options.places))


if __name__ == "__main__":
    main()

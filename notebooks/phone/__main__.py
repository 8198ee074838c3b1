"""The phone's command line: python notebooks/phone serve | call NAME | answer. README.md beside it tells what for."""

from __future__ import annotations

import sys
from pathlib import Path

# Started as a folder, Python looks for modules in it; this package is beside it, and loopback.py one above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

import loopback  # first: it imports cv2 before aiortc

# isort: split

import argparse
import asyncio
import gc
import json
import os
import signal
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import cv2

from loopback import CallError, Console, Log, SignallingError, checked, number, printable

try:
    from phone.control import Room, check_name
    from phone.person import Person
    from phone.recorder import Recorder
    from phone.server import address, started
    from phone.servers import as_json, ice_configuration
except ModuleNotFoundError as missing:
    sys.exit(f"phone: the package {missing.name} is missing: pip install -c constraints.txt -e '.[phone]'")


# ---- Options ---------------------------------------------------------------------------------------------------------


class Parser(loopback.Parser):
    """Its errors, by this program's name."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"phone: {printable(message)}\n")


def person_name(text: str) -> str:
    try:
        return check_name(text)
    except SignallingError as error:
        raise argparse.ArgumentTypeError(f"{text!r:.60}: {error}") from error


def file_name(*endings: str) -> Callable[[str], Any]:
    return checked(Path, lambda path: path.suffix.lower() in endings, f"a name that ends in {', '.join(endings)}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options. Exits with 2 and one line on standard error for wrong ones."""
    parser = Parser(prog="phone", description="People call each other: browsers and Python programs.")
    commands = parser.add_subparsers(dest="command", required=True)
    add_serve_options(commands.add_parser("serve", help="the page, and the room where people meet").add_argument)
    call = commands.add_parser("call", help="call somebody who is in the room")
    call.add_argument("whom", type=person_name, metavar="NAME", help="who is called; waited for, if not there yet")
    answer = commands.add_parser("answer", help="wait in the room and accept every call, one after the other")
    for command, name in ((call, "Caller"), (answer, "Python")):
        add_person_options(command.add_argument, name)
    return parser.parse_args(arguments)


def add_serve_options(add: Callable[..., object]) -> None:
    port = checked(int, lambda value: 0 <= value <= 65535, "a port, 0 to 65535")
    places = checked(int, lambda value: 1 <= value <= 1000, "a number of places, 1 to 1000")
    add("--host", default="127.0.0.1", help="the address to listen on; 127.0.0.1, for this machine alone, by default")
    add("--port", type=port, default=8080, help="8080 by default; 0 takes a free one")
    add("--places", type=places, default=250, metavar="N", help="people in the room at most; 250 by default")
    add("--ice-server", action="append", default=[], metavar="URI", help="stun:HOST or turn:HOST, for every call")
    add("--ice-user", default="", metavar="U", help="for the TURN server; the password is in LOOPBACK_ICE_PASSWORD")
    add("--relay-only", action="store_true", help="calls go through the TURN server")
    add("--cert", type=Path, metavar="F", help="a certificate: https, which browsers ask for on other machines")
    add("--key", type=Path, metavar="F", help="its key")


def add_person_options(add: Callable[..., object], name: str) -> None:
    size = checked(
        lambda text: tuple(map(int, text.lower().split("x"))),
        lambda size: len(size) == 2 and 160 <= size[0] <= 3840 and 120 <= size[1] <= 2160,
        "a size like 640x480, from 160x120 to 3840x2160",
    )
    add("--server", default="http://127.0.0.1:8080", metavar="URL", help="http://127.0.0.1:8080 by default")
    add("--name", type=person_name, default=name, help=f"how others see this end; {name} by default")
    add("--source", default="synthetic", help="synthetic (by default), night, camera, camera:1, screen, a video file")
    add("--size", type=size, metavar="WxH", help="size of the picture; 640x480, or a source's own shape within it")
    add("--fps", type=number(1, 60), default=30.0, metavar="N", help="pictures a second, 1 to 60, 30 by default")
    add("--codec", type=str.upper, choices=("VP8", "H264"), default="VP8", help="VP8 by default")
    add("--sound", default="tone", help="tone (by default), mic, mic:DEVICE, a sound file, or none")
    add("--all-addresses", action="store_true", help="offer not only 127.0.0.1: for Firefox on this machine")
    add("--save", type=Path, metavar="DIR", help="take files that are sent, into this folder")
    add("--record", type=file_name(*Recorder.KINDS), metavar="FILE", help="record what is seen and heard")
    add("--seconds", type=number(0.1, 86400), metavar="S", help="hang up after S seconds")
    add("--view", choices=("auto", "window", "none"), default="auto", help="auto: a window where there is a display")
    add("--snapshot", type=file_name(".png", ".jpg"), metavar="FILE", help="write the view at the end: .png or .jpg")
    add("--json", action="store_true", help="print the measurements as one JSON object; all else to standard error")


# ---- serve -----------------------------------------------------------------------------------------------------------


def certificate(options: argparse.Namespace) -> ssl.SSLContext | None:
    """Return what TLS needs, None without --cert. Raises CallError where that cannot be used."""
    if options.cert is None and options.key is None:
        return None
    if options.cert is None or options.key is None:
        raise CallError("--cert and --key go together: give both")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.cert, options.key)
    except OSError as error:  # ssl.SSLError is one
        words = f"{printable(str(options.cert))} or {printable(str(options.key))} cannot be used"
        raise CallError(f"{words} ({error.strerror or error}): give a certificate and its key as PEM files") from error
    return context


async def serve(options: argparse.Namespace) -> None:
    """Serve until cancelled."""
    console = Console(sys.stdout)
    log = Log(lambda event: console.line(str(event)))
    log.events = deque(maxlen=0)  # the server keeps nothing
    configuration = ice_configuration(options.ice_server, options.ice_user, relay_only=options.relay_only)
    room, tls = Room(options.places, log, as_json(configuration)), certificate(options)
    runner = await started(room, options.host, options.port, tls)
    try:
        console.line(f"open {address(runner)} in a browser; Ctrl-C ends")
        if options.host not in ("127.0.0.1", "localhost", "::1") and tls is None:
            console.line("note: on other machines browsers give a camera to https only: use --cert and --key")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


# ---- Running ---------------------------------------------------------------------------------------------------------


def run(program: Coroutine[object, object, None]) -> tuple[str, int]:
    """Run until it ends, Ctrl-C or SIGTERM. Return what failed, "" for nothing, and the exit status: 0 done, 1 failed,
    130 Ctrl-C, 143 SIGTERM."""
    ended_by, before = 0, {}

    async def until_signal() -> None:
        task, loop = asyncio.ensure_future(program), asyncio.get_running_loop()

        def end(sign: int, *_: object) -> None:
            nonlocal ended_by
            if not ended_by:  # a second one changes nothing: the end is under way
                loop.call_soon_threadsafe(task.cancel)
            ended_by = sign

        before.update({sign: signal.signal(sign, end) for sign in (signal.SIGINT, signal.SIGTERM)})
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    try:
        asyncio.run(until_signal())
    except CallError as error:
        return str(error), 1
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
    return "", 128 + ended_by if ended_by else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status. Exits with 2 for wrong arguments."""
    options = parse(arguments)
    person = None if options.command == "serve" else Person(options)
    if person:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what matters is raised, in one line
        os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
        gc.freeze()  # looking for garbage among what the imports made would stop a set-up for 15 ms
    failure, status = run(person.run() if person else serve(options))
    if person and options.json:
        report = person.report() | ({"error": failure} if failure else {})
        if not Console(sys.stdout).line(json.dumps(report)):
            failure, status = failure or "the report cannot be written to standard output", status or 1
    if failure:
        Console(sys.stderr).line(f"phone: {failure}")
    return status


if __name__ == "__main__":
    sys.exit(main())

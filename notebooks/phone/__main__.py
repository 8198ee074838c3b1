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
import signal
import ssl
from collections import deque
from collections.abc import Coroutine

from loopback import CallError, Console, Log, checked, number, printable

try:
    from phone.control import Room
    from phone.server import address, started
    from phone.servers import as_json, ice_configuration
except ModuleNotFoundError as missing:
    sys.exit(f"phone: the package {missing.name} is missing: pip install -c constraints.txt -e '.[phone]'")


class Parser(loopback.Parser):
    """Its errors, by this program's name."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"phone: {printable(message)}\n")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options. Exits with 2 and one line on standard error for wrong ones."""
    parser = Parser(prog="phone", description="People call each other: browsers and Python programs.")
    commands = parser.add_subparsers(dest="command", required=True)
    whole = checked(int, lambda value: 0 <= value <= 65535, "a port, 0 to 65535")
    serve = commands.add_parser("serve", help="the page, and the room where people meet")
    add = serve.add_argument
    add("--host", default="127.0.0.1", help="the address to listen on: 127.0.0.1, this machine alone, by default")
    add("--port", type=whole, default=8080, help="8080 by default; 0 takes a free one")
    add("--places", type=number(1, 1000), default=250, metavar="N", help="people in the room at most; 250 by default")
    add("--ice-server", action="append", default=[], metavar="URI", help="stun:HOST or turn:HOST, for every call")
    add("--ice-user", default="", metavar="U", help="for the TURN server; the password is in LOOPBACK_ICE_PASSWORD")
    add("--relay-only", action="store_true", help="calls go through the TURN server")
    add("--cert", type=Path, metavar="F", help="a certificate: https, which browsers ask for on other machines")
    add("--key", type=Path, metavar="F", help="its key")
    return parser.parse_args(arguments)


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
    room, tls = Room(int(options.places), log, as_json(configuration)), certificate(options)
    runner = await started(room, options.host, options.port, tls)
    try:
        console.line(f"open {address(runner)} in a browser; Ctrl-C ends")
        if options.host not in ("127.0.0.1", "localhost", "::1") and tls is None:
            console.line("note: on other machines browsers give a camera to https only: use --cert and --key")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def run(program: Coroutine[object, object, None]) -> int:
    """Run until it ends, Ctrl-C or SIGTERM; return the exit status: 0 done, 1 a failure, told in one line."""
    ended_by = 0

    async def until_signal() -> None:
        task, loop = asyncio.ensure_future(program), asyncio.get_running_loop()

        def end(sign: int, *_: object) -> None:
            nonlocal ended_by
            ended_by = sign
            loop.call_soon_threadsafe(task.cancel)

        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, end)
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    try:
        asyncio.run(until_signal())
    except CallError as error:
        Console(sys.stderr).line(f"phone: {error}")
        return 1
    return 128 + ended_by if ended_by else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = parse(arguments)
    return run(serve(options))


if __name__ == "__main__":
    sys.exit(main())

"""loopback's own window over a network that loses packets: its "lost" moves, and the key l mends the network.

python notebooks/lab/lossy.py                 5 % of pc1's packets are lost
python notebooks/lab/lossy.py --loss 0.2      20 %; --size 320x240 and the rest are loopback's own options
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # as a program it is on its own; in a lesson or a test `lab` is there
    here = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(here.parent), str(here)]

import loopback  # before aiortc: it imports cv2  # isort: skip

import argparse
import asyncio
import functools
import json
import tempfile
from typing import Any

import cv2
from IPython.display import Image

from lab.draw import png_of
from lab.faults import Loss
from lab.wire import Datagram, Tap
from loopback import Call, Session


class Weather(Loss):
    """Loss that can be switched off and on, and lets the first picture through: without it there is nothing to see."""

    def __init__(self, rate: float, seed: int = 1) -> None:
        super().__init__(rate, seed, layer="SRTP", who="pc1")
        self.bad = True
        self.call: Call | None = None

    def concerns(self, datagram: Datagram) -> bool:
        """Whether this datagram may be lost."""
        begun = self.call is not None and self.call.pc2.picture is not None
        return self.bad and begun and super().concerns(datagram)


class LossySession(Session):
    """A Session whose calls run over a bad network. The key l switches its loss off, and on again."""

    def __init__(self, options: argparse.Namespace, rate: float, seed: int = 1) -> None:
        self.weather, self.tap = Weather(rate, seed), None
        super().__init__(options)

    # The seam: a Session keeps its call here, from the moment it is made.
    @property
    def call(self) -> Call | None:  # type: ignore[override]
        """The call; each new one gets a tap with the loss."""
        return self.weather.call

    @call.setter
    def call(self, call: Call | None) -> None:
        self.close_tap()
        self.weather.call = call
        if call:
            self.tap: Tap | None = Tap(call, faults=[self.weather]).open()

    def close_tap(self) -> None:
        """Stop listening to the last call."""
        if self.tap:
            self.tap.close()
            self.tap = None

    @property
    def keys(self) -> dict[str, str]:
        """loopback's keys, and l."""
        words = f"loss of {self.weather.rate:.0%} {'off' if self.weather.bad else 'on'}"
        return {**super().keys, **({"l": words} if self.live else {})}

    def press(self, key: str) -> None:
        """Do what a key stands for."""
        if key == "l":
            self.weather.bad = not self.weather.bad
            self.log("network", "loses packets" if self.weather.bad else "loses nothing", f"{self.weather.rate:.0%}")
        else:
            super().press(key)

    async def run(self) -> None:
        """Run until the user, --seconds or a failure ends it."""
        try:
            await super().run()
        finally:
            self.close_tap()

    def report(self) -> dict[str, Any]:
        """loopback's report, and the loss that was asked for."""
        return super().report() | {"loss": self.weather.rate}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return loopback's exit status."""
    parser = loopback.Parser(prog="lossy", add_help=False, description="loopback over a network that loses packets.")
    rate = loopback.checked(float, lambda value: 0 <= value <= 0.5, "a fraction from 0 to 0.5")
    parser.add_argument("--loss", type=rate, default=0.05, metavar="P", help="part of pc1's packets lost, 0.05")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="other packets are lost with another number")
    given = sys.argv[1:] if arguments is None else arguments
    options, others = parser.parse_known_args(given)
    if {"-h", "--help"} & set(given):
        print(parser.format_help())
    stock = loopback.Session
    # What loopback.main makes.
    vars(loopback)["Session"] = functools.partial(LossySession, rate=options.loss, seed=options.seed)
    try:
        return loopback.main(others)
    finally:
        vars(loopback)["Session"] = stock


async def seen(loss: float, seconds: float = 1.7) -> tuple[Image, dict[str, Any]]:
    """Run this program for some seconds without a window; return what its window would show, and its report."""
    with tempfile.TemporaryDirectory() as folder:
        view = Path(folder) / "view.png"
        options = ("--loss", str(loss), "--seconds", str(seconds), "--size", "320x240", "--view", "none", "--json")
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, *options, "--snapshot", str(view)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            report, _ = await program.communicate()
        finally:
            if program.returncode is None:  # the cell was interrupted
                program.terminate()
                await program.wait()
        shown = cv2.cvtColor(cv2.resize(cv2.imread(str(view)), None, fx=0.75, fy=0.75), cv2.COLOR_BGR2RGBA)
    return Image(png_of(shown), format="png"), json.loads(report)


if __name__ == "__main__":
    sys.exit(main())

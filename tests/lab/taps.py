"""What the tests of the wire share: a call that runs with a tap that was open from the beginning."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aioice
from faults import calling

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab.wire import Tap

# RFC 5769 section 2.1: a request, which is let in from anywhere.
REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b1"
    "51263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)

PATCHED = ("datagram_received", "send_data", "send_stun")
STOCK = [getattr(aioice.ice.StunProtocol, name) for name in PATCHED]


def restored() -> bool:
    """Whether aioice's methods are its own."""
    return [getattr(aioice.ice.StunProtocol, name) for name in PATCHED] == STOCK


@asynccontextmanager
async def tapped(*faults: Any, **options: Any) -> AsyncIterator[tuple[loopback.Call, Tap]]:
    """Give a call that runs, with a tap that was open from the beginning."""
    async with calling(**options) as call:
        with Tap(call, faults=faults) as tap:
            await call.run()
            yield call, tap
    assert restored()

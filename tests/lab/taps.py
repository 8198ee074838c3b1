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

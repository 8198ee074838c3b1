"""What goes on around the cells of a lesson: a section's state restored, a clock that says whether a measurement can be
right, calls that rest while nobody runs a cell, old calls closed, errors in one line."""

from __future__ import annotations

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any

import psutil
from aiortc import RTCPeerConnection
from IPython.core.getipython import get_ipython

from .check import Mistake, wrapped
from .wire import Tap

# ---- A section's state -----------------------------------------------------------------------------------------------


async def call_after(
    step: str | int | None = None, *, source: loopback.Source | None = None, **options: Any
) -> loopback.Call:
    """Return a new call that has taken its steps up to and with that one: "createOffer", "pc2 connect", or how many;
    without a step it is connected. `options` are those of Call. Raises Mistake where no step has that name."""
    call = loopback.Call(source or loopback.SyntheticSource(320, 240, 30), **options)
    try:
        if step is None:
            await call.run()
        else:
            for one in call.steps[: _count(call, step)]:
                await one.run()
    except BaseException:
        await call.close()
        raise
    return call


def _count(call: loopback.Call, step: str | int) -> int:
    if isinstance(step, int):
        return step
    names = [(one.what, f"{one.who} {one.what}") for one in call.steps]
    for count, name in enumerate(names, 1):
        if step in name:
            return count
    raise Mistake(f"no step is called {step!r}; there is {', '.join(full for _, full in names)}")


# ---- Is this machine too busy? ---------------------------------------------------------------------------------------


class steady:  # noqa: N801  it reads as a statement: `with steady() as clock:`
    """Note, while entered, whether a measurement can be right: how long this process was kept waiting, and whether
    other programs took the processors."""

    TICK, TOLERANCE = 0.01, 0.02  # s
    MOST_LATE, LEAST_FREE = 0.1, 0.25  # parts of the time: kept waiting; left over by the other programs

    def __enter__(self) -> steady:
        self.lasted = self.late = 0.0  # s
        self.free = 1.0
        self._began, self._cpu, self._own = time.perf_counter(), psutil.cpu_times(), time.process_time()
        self._watching = asyncio.create_task(self._watch())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watching.cancel()
        self.lasted = time.perf_counter() - self._began
        before, now = self._cpu, psutil.cpu_times()
        idle = now.idle - before.idle
        whole = self.lasted * (psutil.cpu_count() or 1)
        if whole > 0.5:  # the system counts in hundredths of a second
            self.free = (idle + time.process_time() - self._own) / whole

    async def _watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(self.TICK)
            self.late += max(0.0, time.perf_counter() - before - self.TICK - self.TOLERANCE)

    @property
    def steady(self) -> bool:
        """Whether what was measured meanwhile can be right."""
        return self.late <= self.MOST_LATE * self.lasted and self.free >= self.LEAST_FREE

    def __str__(self) -> str:
        if self.steady:
            return f"this machine kept up: {self.lasted:.1f} s"
        return (
            f"this machine is too busy: of {self.lasted:.1f} s the program waited {self.late:.1f} s, and others left "
            f"{max(0, self.free):.0%} of the processors. End other programs and run the cell again"
        )


# ---- Around each cell ------------------------------------------------------------------------------------------------


class Rest:
    """Between two cells a call's pictures come at 5 a second, in a cell as they were asked for: while one reads, 30 a
    second would take 20 to 40 % of a core."""

    INTERVAL = 0.2  # s

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.over.set()

    def slowing(self, recv: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        """Return what takes the place of a track's recv()."""

        @functools.wraps(recv)
        async def resting(track: Any) -> Any:
            if not self.over.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.over.wait(), self.INTERVAL)
            while track.successor:  # replaced meanwhile: this one has ended
                track = track.successor
            return await recv(track)

        return resting


class Names:
    """Closes what a name of the notebook stood for, when the name is given something else and no other has it."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names, self.before = names, dict[str, Any]()
        self.closing: set[asyncio.Task[None]] = set()

    def note(self) -> None:
        """Keep what is open, before a cell."""
        self.before = {
            name: one for name, one in self.names.items() if isinstance(one, tuple(CLOSED)) and name[0] != "_"
        }

    def close_old(self) -> None:
        """Close, after a cell, what has lost its name."""
        for name, old in self.before.items():
            if self.names.get(name) is old or any(one is old for one in self._named()):
                continue
            if asyncio.iscoroutine(closing := old.close()):
                task = asyncio.get_running_loop().create_task(closing)
                self.closing.add(task)
                task.add_done_callback(self.closing.discard)
        self.before = {}

    def _named(self) -> Iterator[Any]:
        for name, one in self.names.items():
            if name[0] != "_" and name not in ("In", "Out"):  # what the notebook itself keeps
                yield one
                yield from one.values() if isinstance(one, dict) else one if isinstance(one, list | tuple | set) else ()


CLOSED: list[type] = [loopback.Call, RTCPeerConnection, Tap]  # lab.turn and others add theirs
ONE_LINE = (loopback.CallError, loopback.SignallingError, Mistake, asyncio.CancelledError, KeyboardInterrupt)


def in_one_line(shell: Any, kind: type[BaseException], error: BaseException, *_: Any, **__: Any) -> list[str]:
    """Show an error whose text says all, or an interrupt, without its traceback."""
    stopped = issubclass(kind, asyncio.CancelledError | KeyboardInterrupt)
    lines = [wrapped("interrupted" if stopped else f"{kind.__name__}: {error}")]
    shell._showtraceback(kind, error, lines)  # IPython leaves the showing to its own handlers only
    return lines


def set_up(shell: Any) -> None:
    """Make a kernel ready for the lessons."""
    rest, names = Rest(), Names(shell.user_ns)
    loopback.OutgoingTrack.recv = rest.slowing(loopback.OutgoingTrack.recv)  # type: ignore[method-assign]
    shell.events.register("pre_run_cell", lambda *_: (names.note(), rest.over.set()))
    shell.events.register("post_run_cell", lambda *_: (names.close_old(), rest.over.clear()))
    shell.set_custom_exc(ONE_LINE, in_one_line)


if shell := get_ipython():
    set_up(shell)

__all__ = ["call_after", "steady"]

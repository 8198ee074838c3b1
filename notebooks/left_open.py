"""What a lesson has not closed: calls, sockets, tasks, threads, processes, replaced functions.

Runs in the lesson's kernel, so it needs little: render.py imports nbformat, which takes a second and a half.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import psutil

HERE = Path(__file__).resolve().parent
FRONT_END = ("ipykernel", "IPython", "tornado", "zmq", "jupyter_client")


async def left_open(patience: float = 3.0) -> list[str]:
    """Return what a lesson has not closed, after giving it that many seconds. Runs in the lesson's kernel."""
    until = time.monotonic() + patience
    while (left := sorted(set(open_now()))) and time.monotonic() < until:
        await asyncio.sleep(0.02)
    return left


def open_now() -> Iterator[str]:
    """Yield the name of each open call, task, socket, thread and child process, and of each function still replaced."""
    for thing in gc.get_objects():
        kind = type(thing)
        if kind.__module__ == "loopback" and kind.__name__ == "Call" and not thing.closed:
            yield "a Call"
        elif kind.__name__ == "RTCPeerConnection" and thing.connectionState != "closed":
            yield "an RTCPeerConnection"
        elif issubclass(kind, socket.socket) and thing.family != socket.AF_UNIX and thing.fileno() >= 0:
            yield f"the socket of {thing.getsockname()[0]}, {thing.type.name}"
    for task in asyncio.all_tasks():
        code = getattr(task.get_coro(), "cr_code", None)
        if code is not None and not set(Path(code.co_filename).parts) & set(FRONT_END):
            yield f"the task {code.co_qualname}"
    for thread in threading.enumerate():
        if thread.name.startswith("source "):
            yield f"the thread {thread.name}"
    for child in psutil.Process().children(recursive=True):
        yield f"the process {child.name()}"
    yield from replaced()


def replaced() -> Iterator[str]:
    """Yield each function of aioice and aiortc that a lesson, lab or loopback has put another in place of."""
    ours = (str(HERE), str(HERE.parent / "loopback.py"))
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("aioice", "aiortc"):
            kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == name]
            for holder, path in [(module, name), *((kind, f"{name}.{kind.__name__}") for kind in kinds)]:
                for attribute, function in vars(holder).items():
                    function = getattr(function, "__func__", function)  # of a static or class method
                    if isinstance(function, FunctionType):
                        file = function.__code__.co_filename
                        if "ipykernel" in file or (file.startswith(ours) and "site-packages" not in file):
                            yield f"{path}.{attribute} is replaced"

"""What the tests share: a time limit for coroutines, the real command line, a virtual X display."""

import loopback  # first: it imports cv2 before aiortc, which has to be so in every process  # isort: skip

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

PROGRAM = Path(loopback.__file__).resolve()

settings.register_profile("loopback", deadline=None)  # no test asserts a time
settings.load_profile("loopback")


def run(scenario: Coroutine[Any, Any, Any], seconds: float = 20) -> Any:
    """Run a coroutine in a loop of its own; fail when it takes longer than that."""

    async def limited() -> Any:
        async with asyncio.timeout(seconds):
            return await scenario

    return asyncio.run(limited())


def run_at_once(scenario: Callable[..., Coroutine[Any, Any, Any]], cases: Iterable[Any], seconds: float = 20) -> None:
    """Run a scenario with each of these cases (a tuple is its arguments) in one loop, for most of the time each only
    waits. Fail with all that fail, each with its case."""

    async def named(case: Any) -> Exception | None:
        try:
            await scenario(*case if isinstance(case, tuple) else (case,))
        except Exception as error:  # noqa: BLE001 - it is raised below
            error.add_note(f"case: {case}")
            return error
        return None

    async def together() -> None:
        failed = [error for error in await asyncio.gather(*map(named, cases)) if error]
        if failed:
            raise ExceptionGroup(f"{len(failed)} cases fail", failed)

    run(together(), seconds)


def unwrapped(out: str) -> str:
    """Return what the laboratory has told a learner as it was before it was broken into lines."""
    return out.replace("\n    ", " ")


def environment(**changes: str) -> dict[str, str]:
    """Return this environment without a display, plus the changes."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    return kept | {"PYTHONUNBUFFERED": "1"} | changes


def program(
    *arguments: str, cwd: Path, seconds: float = 30, display: str | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run `python loopback.py` with these arguments in `cwd` until it ends."""
    defaults: dict[str, Any] = {"env": environment(**({"DISPLAY": display} if display else {}))}
    if "input" not in options:
        defaults["stdin"] = subprocess.DEVNULL
    return subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=seconds,
        **defaults | options,
    )


def report(*arguments: str, cwd: Path, **options: Any) -> dict[str, Any]:
    """Run the program with --json and return its report; fail when it did not end well."""
    ended = program(*arguments, "--json", cwd=cwd, **options)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert isinstance(found, dict)
    return found


class Xvfb:
    """A virtual X server whose screen can be read from a file."""

    def __init__(self, folder: Path) -> None:
        self.screen = folder / "Xvfb_screen0"
        read, write = os.pipe()
        self.process = subprocess.Popen(
            [
                "Xvfb",
                "-displayfd",
                str(write),
                "-screen",
                "0",
                "1400x900x24",
                "-fbdir",
                str(folder),
                "-nolisten",
                "tcp",
            ],
            pass_fds=[write],
            stderr=subprocess.DEVNULL,
        )
        os.close(write)
        with os.fdopen(read) as numbers:
            self.name = f":{int(numbers.readline())}"

    def picture(self) -> np.ndarray:
        """Return what the screen shows: (900, 1400, 3) uint8, blue-green-red. The file has the XWD format."""
        raw = self.screen.read_bytes()
        header = struct.unpack(">25I", raw[:100])
        start, width, height, line, colours = header[0], header[4], header[5], header[12], header[19]
        pixels = np.frombuffer(raw, np.uint8, count=line * height, offset=start + colours * 12)
        return pixels.reshape(height, line // 4, 4)[:, :width, :3]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(timeout=10)


@pytest.fixture
def xvfb(tmp_path: Path) -> Iterator[Xvfb]:
    """A running virtual display."""
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed: apt install xvfb")
    folder = tmp_path / "framebuffer"
    folder.mkdir()
    server = Xvfb(folder)
    yield server
    server.close()


TURN_USER, TURN_PASSWORD = "learner", "correct-horse-battery"


@contextlib.contextmanager
def running_coturn(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """HOST:PORT of a STUN and TURN server that knows one user, and its process; ended afterwards, also when halted."""
    if shutil.which("turnserver") is None:
        pytest.skip("coturn is not installed: apt install coturn")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["turnserver", "-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", f"--listening-port={port}"]
    command += [f"--user={TURN_USER}:{TURN_PASSWORD}", "--realm=loopback", "--lt-cred-mech", "--allow-loopback-peers"]
    command += ["--no-tls", "--no-dtls", "--no-cli", "--log-file=stdout", f"--pidfile={folder / 'pid'}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        wait_until(lambda: f":{port:04X} " in Path("/proc/net/udp").read_text())
        yield f"127.0.0.1:{port}", server
    finally:
        server.send_signal(signal.SIGCONT)
        server.terminate()
        server.wait(timeout=10)


def wait_until(reached: Any, seconds: float = 20.0) -> Any:
    """Return the first true value of `reached()`; fail after that many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := reached():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not reached within {seconds} s")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI everything is installed, so there a skipped test is a failure."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and terminal is not None and terminal.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

"""The real command line, as a process of its own: output, files, exit status, Ctrl-C, missing parts of the system."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import PROGRAM, environment, program, report, wait_until

import loopback

SMALL = ("--size", "320x240", "--view", "none")
ENDLESS = (*SMALL, "--seconds", "60")

NEGOTIATION = [  # both scripts played at once: a peer goes on until it needs something from the other
    ("pc1", "new RTCPeerConnection"),
    ("pc2", "new RTCPeerConnection"),
    ("pc1", "addTrack"),
    ("pc1", "createOffer"),
    ("pc1", "setLocalDescription(offer)"),
    ("pc1", "send offer"),
    ("pc1", "send candidate"),
    ("pc1", "send end-of-candidates"),
    ("pc2", "receive offer"),
    ("pc2", "setRemoteDescription(offer)"),
    ("pc2", "receive candidate"),
    ("pc2", "addIceCandidate"),
    ("pc2", "receive end-of-candidates"),
    ("pc2", "addIceCandidate(null)"),
    ("pc2", "createAnswer"),
    ("pc2", "setLocalDescription(answer)"),
    ("pc2", "send answer"),
    ("pc2", "send candidate"),
    ("pc2", "send end-of-candidates"),
    ("pc1", "receive answer"),
    ("pc1", "setRemoteDescription(answer)"),
    ("pc1", "receive candidate"),
    ("pc1", "addIceCandidate"),
    ("pc1", "receive end-of-candidates"),
    ("pc1", "addIceCandidate(null)"),
    ("pc2", "first picture"),
    ("call", "closed"),
]
LOG_LINE = re.compile(
    r"(?:signalling|ICE|DTLS|picture)? *(?P<t>\d+\.\d) ms  (?P<who>\w+) +(?P<what>.{1,28})(?: |$)(?P<detail>.*)"
)
SUMMARY = re.compile(r"\d+ pictures sent, \d+ received, .* delay in ms: .* p50, .* packets lost")


def negotiation(seen: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Keep what NEGOTIATION knows; state changes come in between. Either peer may be connected first."""
    connected = [who for who, what in seen if what == "connected"]
    assert sorted(connected) == ["pc1", "pc2"]
    assert seen.index(("pc2", "connected")) < seen.index(("pc2", "first picture"))
    return [entry for entry in seen if entry in NEGOTIATION]


def logged(lines: Sequence[str]) -> list[tuple[float, str, str]]:
    """Return (ms, who, what) of the log lines among these."""
    found = filter(None, map(LOG_LINE.fullmatch, lines))
    return [(float(match["t"]), match["who"], match["what"].strip()) for match in found]


@contextlib.contextmanager
def running(
    *arguments: str, cwd: Path, command: Sequence[str] = (sys.executable, str(PROGRAM)), **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Start the program (or another command) and make sure that it is gone afterwards."""
    defaults = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment()}
    process = subprocess.Popen([*command, *arguments], cwd=cwd, text=True, **{**defaults, **options})
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=10)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Return what the process prints up to a line with this text; a process that ends or hangs before fails."""
    assert process.stdout
    seen = ""
    for line in iter(process.stdout.readline, ""):
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} was never printed; {seen!r}")


def panes(view: np.ndarray | None, size: tuple[int, int] = (320, 240)) -> list[np.ndarray]:
    """Cut the two pictures of that size out of a view."""
    layout, picture = loopback.View(loopback.Log()), np.empty((size[1], size[0], 3), np.uint8)
    assert view is not None
    assert view.shape == layout.shape
    places = [layout.place(side, picture) for side in (0, 1)]
    return [
        cv2.resize(view[y : y + high, x : x + wide], size, interpolation=cv2.INTER_AREA) for x, y, wide, high in places
    ]


def check_one_line(stderr: str, *names: str) -> str:
    """Check for one line that names what is wrong; return its text."""
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    text = lines[0].removeprefix("loopback: ")
    assert text != lines[0]
    assert all(name in text for name in names), text
    return text


# ---- What it prints


@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_json_is_one_object_with_every_measurement(codec: str, tmp_path: Path) -> None:
    ended = program(*SMALL, "--seconds", "1.5", "--codec", codec, "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    nested = {name: sorted(value) for name, value in found.items() if isinstance(value, dict)}
    assert nested == {
        "setup_ms": ["connected", "first_frame"],
        "latency_ms": ["max", "p50", "p95"],
        "frames": ["misread", "received", "sent"],
        "selected_pair": ["local", "remote"],
    }
    plain = {"source": "synthetic", "width": 320, "height": 240, "fps": 30, "codec": codec, "packets_lost": 0}
    assert {name: found[name] for name in plain} == plain
    assert set(found) == {*plain, *nested, "received_fps", "bitrate_kbps", "log"}

    assert 0 < found["setup_ms"]["connected"] <= found["setup_ms"]["first_frame"]
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p95"] <= found["latency_ms"]["max"]
    assert found["frames"]["sent"] == found["frames"]["received"] > 5
    assert found["frames"]["misread"] == 0
    assert found["received_fps"] > 0
    assert found["bitrate_kbps"] > 0
    ends = [re.fullmatch(r"127\.0\.0\.1:(\d+) host udp", found["selected_pair"][end]) for end in ("local", "remote")]
    ports = [end and end[1] for end in ends]
    assert all(ports)
    assert ports[0] != ports[1]

    log = found["log"]
    assert all(set(entry) == {"t_ms", "who", "what", "detail"} for entry in log)
    assert [entry["t_ms"] for entry in log] == sorted(entry["t_ms"] for entry in log)
    assert negotiation([(entry["who"], entry["what"]) for entry in log]) == NEGOTIATION
    for peer in ("pc1", "pc2"):
        states = {(entry["what"], entry["detail"]) for entry in log if entry["who"] == peer}
        assert {("iceGatheringState", "→ complete"), ("iceConnectionState", "→ completed")} <= states
        assert {("connectionState", "→ connecting"), ("connectionState", "→ connected")} <= states
        assert {("signalingState", "→ stable"), ("signalingState", "→ closed")} <= states


def test_size_and_rate_are_honoured(tmp_path: Path) -> None:
    found = report("--size", "321x243", "--fps", "10", "--view", "none", "--seconds", "1", cwd=tmp_path)
    assert (found["width"], found["height"], found["fps"]) == (321, 243, 10)
    assert found["frames"]["misread"] == 0


def test_video_both_ways(tmp_path: Path) -> None:
    found = report(*SMALL, "--both", "--seconds", "1", "--snapshot", "view.png", cwd=tmp_path)
    seen = [(entry["who"], entry["what"]) for entry in found["log"]]
    for peer in ("pc1", "pc2"):
        assert seen.count((peer, "addTrack")) == seen.count((peer, "track")) == seen.count((peer, "first picture")) == 1
    assert seen.count(("pc1", "createOffer")) == 1, "one offer and one answer are enough"
    left, right = panes(cv2.imread(str(tmp_path / "view.png")))
    assert None not in [loopback.read_time_code(pane) for pane in (left, right)]
    assert left[24:].mean() < 0.6 * right[24:].mean(), "pc1 has not received the night of pc2"


@pytest.mark.parametrize(("buffer", "kept"), [("marker", 0), ("stock", 1)])
def test_stock_jitter_buffer_keeps_a_frame_until_the_next_one_begins(buffer: str, kept: int, tmp_path: Path) -> None:
    """So it still has the last one of all at the end."""
    frames = report(*SMALL, "--fps", "10", "--seconds", "1", "--jitter-buffer", buffer, cwd=tmp_path)["frames"]
    assert frames["sent"] - frames["received"] == kept


def test_terminal_tells_each_step_with_its_time_and_a_summary(tmp_path: Path) -> None:
    ended = program(*SMALL, "--seconds", "1", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    *lines, last = ended.stdout.splitlines()
    entries = logged(lines)
    phases = [line.partition(":")[0] for line in lines if not LOG_LINE.fullmatch(line)]
    assert phases[:-1] == ["signalling", "ICE", "DTLS", "picture"]  # each is told once, before its first line
    assert phases[-1] == "The call is up, and ends after 1 s. Ctrl-C ends it now."
    assert [entry[0] for entry in entries] == sorted(entry[0] for entry in entries)
    assert negotiation([entry[1:] for entry in entries]) == NEGOTIATION
    assert SUMMARY.fullmatch(last)
    assert "\r" not in ended.stdout
    assert not list(tmp_path.iterdir())


def in_terminal(columns: int, *arguments: str, cwd: Path, **changes: str) -> str:
    """Return what the program prints on a terminal of that width, where somebody presses Enter all the time."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    with running(*SMALL, *arguments, cwd=cwd, stdin=slave, stdout=slave, env=environment(**changes)) as process:
        os.close(slave)
        os.write(master, b"\n" * 40)
        output = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(master, 65536):
                output += part
        os.close(master)
        assert process.wait(timeout=10) == 0
    return output.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("colour", [True, False])
def test_steps_fit_the_terminal_with_colour_and_without(columns: int, colour: bool, tmp_path: Path) -> None:
    text = in_terminal(columns, "--step", "--seconds", "0.3", cwd=tmp_path, **({} if colour else {"NO_COLOR": "1"}))
    assert bool(re.search(r"\x1b\[\d+m", text)) == colour
    plain = [line.rpartition("\r\x1b[K")[2] for line in re.sub(r"\x1b\[\d*m", "", text).split("\n")]
    assert max(len(line) for line in plain if not SUMMARY.fullmatch(line) and "display" not in line) < columns
    for told in (
        "+ a=setup:active",
        "where to send test",
        "[Enter: next",
        "Step 16 of 16: pc2: first picture",
    ):
        assert any(told in line for line in plain), told


def test_the_whole_sdp_is_printed_on_request(tmp_path: Path) -> None:
    ended = program(*SMALL, "--step", "--seconds", "0.3", cwd=tmp_path, input="\n\nSDP\n")
    assert ended.returncode == 0, ended.stderr
    before, _, after = ended.stdout.partition("Step 3 of 16")
    assert "a=fingerprint:sha-512" not in before
    assert "a=fingerprint:sha-512" in after.partition("Step 4 of 16")[0]


def test_progress_is_one_line_and_leaves_the_log_intact(tmp_path: Path) -> None:
    columns = 80
    text = in_terminal(columns, "--seconds", "1.5", cwd=tmp_path).rstrip("\n")
    assert "\x1b[33mICE" in text
    drawn = [line.split("\r\x1b[K") for line in re.sub(r"\x1b\[\d*m", "", text).split("\n")]
    *lines, last = [parts[-1] for parts in drawn]
    assert negotiation([entry[1:] for entry in logged(lines)]) == NEGOTIATION
    assert max(map(len, lines)) < columns
    assert SUMMARY.fullmatch(last)
    live = [part for parts in drawn for part in parts[:-1] if part]
    assert live
    assert all(re.search(r"delay \d+\.\d ms .* \d+ pictures", part) for part in live)
    assert max(map(len, live)) < columns  # a line that wraps is not overwritten by the next


@pytest.mark.parametrize(
    ("encoding", "arguments"), [("cp1252", ()), ("ascii", ()), ("cp1252", ("--json",)), ("ascii", ("--step",))]
)
def test_output_of_any_encoding(encoding: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Windows writes cp1252 into files and pipes, which has no arrows."""
    env = environment(PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    with running(*SMALL, "--seconds", "0.3", *arguments, cwd=tmp_path, env=env) as process:
        _, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors
    assert process.returncode == 0


@pytest.mark.parametrize("arguments", [(), ("--json",)])
@pytest.mark.parametrize("how", ["reader goes", "no reader", "closed", "full"])
def test_output_that_goes_nowhere(how: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    options: dict[str, Any] = {}
    if how == "closed":
        options = {"preexec_fn": functools.partial(os.close, 1)}
    elif how == "full":
        options = {"stdout": os.open("/dev/full", os.O_WRONLY)}
    with running(*SMALL, "--seconds", "0.5", *arguments, cwd=tmp_path, **options) as process:
        if "stdout" in options:
            os.close(options["stdout"])
        elif how == "reader goes" and not arguments:
            assert process.stdout
            process.stdout.readline()
        if process.stdout:
            process.stdout.close()
        assert process.stderr
        errors = process.stderr.read()
        process.wait(timeout=20)
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    if arguments and how != "closed":  # then there is no standard output that could fail
        assert process.returncode == 1
        assert errors.endswith("loopback: the report cannot be written to standard output\n")
    else:
        assert process.returncode == 0


# ---- Files


@pytest.mark.parametrize("name", ["view.png", "view.jpg", "VIEW.PNG"])
def test_snapshot_shows_both_pictures(name: str, tmp_path: Path) -> None:
    ended = program(*SMALL, "--seconds", "1", "--snapshot", name, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    view = cv2.imread(str(tmp_path / name))
    assert view is not None
    left, right = panes(view)
    codes = [loopback.read_time_code(pane) for pane in (left, right)]
    assert None not in codes
    assert codes[0] == codes[1] != 0  # all that was sent has arrived
    assert np.abs(left.astype(int) - right).mean() < 12  # compressed
    assert left.std() > 20  # not a plain colour


def test_snapshot_that_does_not_fit_on_the_disk_leaves_no_broken_file(tmp_path: Path) -> None:
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, 20_000))  # bytes
    ended = program(*SMALL, "--seconds", "0.5", "--snapshot", "view.png", cwd=tmp_path, preexec_fn=limit)
    assert ended.returncode == 1
    check_one_line(ended.stderr, "view.png", "File too large")
    assert not list(tmp_path.iterdir())


def test_call_that_fails_leaves_no_snapshot(tmp_path: Path) -> None:
    ended = program(*SMALL, "--source", "missing.mp4", "--snapshot", "view.png", cwd=tmp_path)
    assert ended.returncode == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("link", ["same", "hard link", "symbolic link"])
def test_snapshot_does_not_overwrite_its_source(link: str, tmp_path: Path) -> None:
    path, other = tmp_path / "still.png", tmp_path / "other.png"
    cv2.imwrite(str(path), np.full((120, 160, 3), 90, np.uint8))
    content = path.read_bytes()
    if link == "hard link":
        other.hardlink_to(path)
    elif link == "symbolic link":
        other.symlink_to(path)
    else:
        other = tmp_path / ".." / tmp_path.name / "still.png"
    ended = program(*SMALL, "--source", "still.png", "--snapshot", str(other), cwd=tmp_path)
    assert ended.returncode == 2
    check_one_line(ended.stderr, "--snapshot", "source")
    assert path.read_bytes() == content


# ---- Exit status


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with things that cannot be read or written."""
    (tmp_path / "text.mp4").write_text("no video\n")
    for suffix in (".mp4", ".png"):
        (tmp_path / f"folder{suffix}").mkdir()
        (tmp_path / f"loop{suffix}").symlink_to(f"loop{suffix}")
    (tmp_path / "full.png").symlink_to("/dev/full")  # each write fails: no space left on device
    return tmp_path


FAILURES: list[tuple[str, ...]] = [
    ("--snapshot", "missing/view.png"),
    ("--snapshot", "folder.png"),
    ("--snapshot", "full.png"),
    ("--snapshot", "loop.png"),
    ("--snapshot", f"{'long' * 64}.png"),
    ("--source", "missing.mp4"),
    ("--source", "text.mp4"),
    ("--source", "folder.mp4"),
    ("--source", "camera:97"),
    ("--source", "screen"),  # moved to notebooks/phone: here it is a file that is not there
    ("--view", "window"),
]


@pytest.mark.parametrize("arguments", FAILURES, ids=lambda arguments: " ".join(arguments)[:40])
def test_failure_is_one_line_and_status_1(arguments: tuple[str, ...], place: Path) -> None:
    ended = program(*SMALL, "--seconds", "0.5", *arguments, cwd=place)
    assert ended.returncode == 1
    value = arguments[1]
    if not value.startswith("full"):
        assert "RTCPeerConnection" not in ended.stdout  # found out before a call is made in vain
    name = {"window": "display"}.get(value, value.removeprefix("camera:"))
    check_one_line(ended.stderr, name)


@pytest.mark.parametrize(
    "arguments", [FAILURES[0], FAILURES[2], ("--source", "missing.mp4"), ("--source", "folder.mp4")], ids=" ".join
)
def test_failure_in_json(arguments: tuple[str, ...], place: Path) -> None:
    ended = program(*SMALL, "--seconds", "0.5", *arguments, "--json", cwd=place)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    found = json.loads(ended.stdout)
    assert {"source", "codec", "fps", "log"} < set(found)
    assert ended.stderr.splitlines()[-1] == f"loopback: {found['error']}"
    assert arguments[1] in found["error"]


WRONG = [
    *(("--size", value) for value in ("0x0", "-1x5", "99999x99999", "abc", "640", "640x480x3")),
    *(("--fps", value) for value in ("0", "-1", "nan", "inf", "1000", "x")),
    *(("--seconds", value) for value in ("0", "-1", "nan", "inf", "x")),
    *(("--deadline", value) for value in ("0", "-1", "nan")),
    *(("--codec", value) for value in ("VP9", "")),
    ("--view", "x"),
    ("--jitter-buffer", "x"),
    *(("--snapshot", value) for value in ("out.gif", "out")),
    *(("--source", value) for value in ("", "camera:", "camera:x", "camera:99999999999999")),
    *((option, "1") for option in ("--record", "--audio", "--ice-server", "--places")),  # moved to notebooks/phone
    ("--unknown", "1"),
    ("--json=1",),
    ("--fps",),
    ("stray",),
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_option_is_one_line_and_status_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ended = program(*arguments, cwd=tmp_path, seconds=15)
    assert ended.returncode == 2
    assert ended.stdout == ""
    check_one_line(ended.stderr, arguments[0].split("=")[0])
    assert not list(tmp_path.iterdir())


# A terminal obeys these: the title becomes x, all is red from here on, a line is written over.
STEERING = "\x1b]0;x\a\x1b[31m\r\n loopback: all is well \x9b2J\u202e"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--source", STEERING), 1),
        (("--source", f"camera:{STEERING}"), 2),
        (("--snapshot", f"{STEERING}/view.png"), 1),
        (("--snapshot", f"{STEERING}.gif"), 2),
        (("--snapshot", f"{STEERING}.png", "--seconds", "0.2"), 0),
        (("--snapshot", f"{STEERING}.png", "--seconds", "0.2", "--view", "auto"), 0),
        (("--size", STEERING), 2),
        (("--fps", STEERING), 2),
        (("--codec", STEERING), 2),
        ((f"--{STEERING}",), 2),
        ((STEERING,), 2),
    ],
    ids=ascii,
)
def test_what_would_steer_the_terminal_is_escaped(arguments: tuple[str, ...], status: int, tmp_path: Path) -> None:
    ended = program(*SMALL, *arguments, cwd=tmp_path)
    assert ended.returncode == status, ended.stderr
    for line in (ended.stdout + ended.stderr).split("\n"):
        assert line.isprintable(), line
        assert not line.strip().startswith("loopback: all is well"), line
    if status:
        check_one_line(ended.stderr)


@pytest.mark.parametrize(
    "option", ["--source", "--snapshot", "--size", "--fps", "--codec", "--view", "--seconds", "--deadline", "--x", ""]
)
def test_long_value_is_not_echoed_whole(option: str, tmp_path: Path) -> None:
    value = "x" * 5000
    ended = program(*SMALL, *([f"{option}={value}"] if option else [value]), cwd=tmp_path)
    assert ended.returncode in (1, 2)
    assert len(check_one_line(ended.stderr)) < 500


def test_help_names_every_option_and_key(tmp_path: Path) -> None:
    ended = program("--help", cwd=tmp_path)
    assert ended.returncode == 0
    options = (
        "source both size fps codec view seconds step snapshot json deadline jitter-buffer version".split()  # noqa: SIM905
    )
    assert all(f"--{option}" in ended.stdout for option in options)
    keys = ("c call again", "h hang up", "n next source", "v mute", "g grey", "s snapshot", "q quit")
    assert all(key in " ".join(ended.stdout.split()) for key in keys)


def test_version(tmp_path: Path) -> None:
    ended = program("--version", cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"loopback {loopback.__version__}\n", "")


# ---- Ctrl-C


def interrupt(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C, check for a polite end, and return what was printed from here on."""
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=10)
    assert process.returncode == 130, errors
    assert errors == ""
    return output


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what a process has loaded")
@pytest.mark.parametrize("delay", [0.0, 0.03, 0.06, 0.09, 0.12, 0.15, 0.18, 0.21, 0.25, 0.3, 0.4, 0.6])
def test_ctrl_c_at_any_moment(delay: float, tmp_path: Path) -> None:
    """From the import of OpenCV on. Before the program's first lines run, a Ctrl-C is Python's own affair."""
    with running(*ENDLESS, cwd=tmp_path) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        wait_until(lambda: "/cv2/" in maps.read_text())
        time.sleep(delay)
        output = interrupt(process)
    if "first picture" in output:
        assert SUMMARY.search(output)


@pytest.mark.parametrize(
    ("moment", "called"),
    [
        ("the session is made", "cv2.FontFace"),
        ("the event loop is made", "asyncio.events.new_event_loop"),
        ("the event loop opens its sockets", "socket.socketpair"),
        ("an SDP is packed", "json.dumps"),
        ("a picture is drawn", "cv2.ellipse"),
        ("the summary is made", "numpy.percentile"),
    ],
)
def test_ctrl_c_just_when(moment: str, called: str, tmp_path: Path) -> None:
    """The same, at moments too short to be hit by chance: the function called there presses Ctrl-C."""
    module = called.rpartition(".")[0]
    code = f"""
import os, runpy, signal, sys
import cv2, aiortc, {module}
original, sys.argv = {called}, {[str(PROGRAM), *SMALL, "--seconds", "0.5"]}
def interrupted(*arguments, **options):
    {called} = original
    os.kill(os.getpid(), signal.SIGINT)
    return original(*arguments, **options)
{called} = interrupted
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    with running("-c", code, cwd=tmp_path, command=(sys.executable,)) as process:
        output, errors = process.communicate(timeout=15)
    assert errors == ""
    assert process.returncode in ((0, 130) if moment == "the summary is made" else (130,))
    if "first picture" in output:
        assert SUMMARY.search(output)


def test_ctrl_c_during_the_call_prints_the_summary_and_keeps_the_snapshot(tmp_path: Path) -> None:
    with running(*ENDLESS, "--snapshot", "view.png", cwd=tmp_path) as process:
        read_until(process, "first picture")
        time.sleep(0.5)
        output = interrupt(process)
    assert SUMMARY.fullmatch(output.splitlines()[-1])
    assert cv2.imread(str(tmp_path / "view.png")) is not None


def test_sigterm_ends_as_well(tmp_path: Path) -> None:
    with running(*ENDLESS, cwd=tmp_path) as process:
        read_until(process, "first picture")
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (143, "")
    assert SUMMARY.fullmatch(output.splitlines()[-1])


def test_ctrl_c_with_json_still_prints_the_report(tmp_path: Path) -> None:
    with running(*ENDLESS, "--json", cwd=tmp_path, stderr=subprocess.STDOUT) as process:
        read_until(process, "first picture")
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    found = json.loads(next(line for line in text.splitlines() if line.startswith("{")))
    assert "error" not in found
    assert found["frames"]["received"] > 0


@pytest.mark.parametrize("pause", [0.0, 0.002, 0.005, 0.01, 0.02])
def test_impatient_ctrl_c_ctrl_c(pause: float, tmp_path: Path) -> None:
    with running(*ENDLESS, cwd=tmp_path) as process:
        read_until(process, "first picture")
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        time.sleep(pause)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert errors == ""
    assert process.returncode in (130, -signal.SIGINT)  # the second one may find the interpreter already packing up


# ---- One step at a time

STEPS = 16


@pytest.mark.parametrize("stdin", ["lines", "ended", "closed"])
def test_step_explains_each_step_and_shows_both_states_after_it(stdin: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "lines": {"input": "\n" * (STEPS + 5)},
        "ended": {"stdin": subprocess.DEVNULL},
        "closed": {"preexec_fn": functools.partial(os.close, 0)},
    }[stdin]
    ended = program(*SMALL, "--seconds", "0.5", "--step", cwd=tmp_path, seconds=10, **options)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    _, *steps = re.split(r"^Step (?=\d)", ended.stdout, flags=re.MULTILINE)
    for number, step in enumerate(steps, 1):
        title, rest = step.split("\n", 1)
        why, prompt, rest = re.split(r"\n  (?=\[Enter)|(?<=\])\n", rest, maxsplit=2)
        why = " ".join(why.split())
        assert re.match(rf"{number} of {STEPS}: pc[12]: \w+", title)
        assert re.fullmatch(r"\w.{60,}[.)]", why)
        assert "Enter" in prompt
        states = [line for line in rest.splitlines() if re.match(r"  pc[12]: signalingState \w", line)]
        assert [line[2:5] for line in states] == ["pc1", "pc2"]
        assert all("iceConnectionState" in line and "connectionState" in line for line in states)
    assert len(steps) == STEPS
    assert SUMMARY.search(ended.stdout)


def test_step_with_video_both_ways_takes_two_steps_more(tmp_path: Path) -> None:
    ended = program(*SMALL, "--seconds", "0.5", "--step", "--both", cwd=tmp_path)
    titles = re.findall(rf"^Step \d+ of {STEPS + 2}: (.*)$", ended.stdout, re.MULTILINE)
    assert len(titles) == STEPS + 2
    assert {"pc2: addTrack", "pc1: first picture"} < set(titles)


def test_step_does_not_measure_the_reader(tmp_path: Path) -> None:
    found = report(*SMALL, "--seconds", "0.5", "--step", cwd=tmp_path)
    assert found["setup_ms"] == {"connected": None, "first_frame": None}
    assert found["frames"]["received"] > 0


def test_step_waits_for_enter(tmp_path: Path) -> None:
    with running(*ENDLESS, "--step", cwd=tmp_path, stdin=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin
        assert process.stdout
        for number in (1, 2, 3):
            read_until(process, f"Step {number} of")
            read_until(process, "Enter")
            assert not select.select([process.stdout], [], [], 0.3)[0]
            process.stdin.write("\n")
        process.stdin.close()  # goes on by itself from here
        process.stdin = None
        read_until(process, f"Step {STEPS} of")
        read_until(process, "pc2: first picture")
        interrupt(process)


def test_ctrl_c_while_a_step_waits(tmp_path: Path) -> None:
    with running(*ENDLESS, "--step", cwd=tmp_path, stdin=subprocess.PIPE) as process:
        read_until(process, "Enter")
        interrupt(process)


# ---- The system around it


@pytest.mark.parametrize("arguments", [("--seconds", "3"), ("--seconds", "1", "--step")], ids=" ".join)
def test_terminal_that_goes_away(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """A closed window, a lost connection, with SIGHUP ignored as under nohup: the call ends as it would have."""
    master, slave = pty.openpty()

    def new_session() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    options = {"stdin": slave, "stdout": slave, "preexec_fn": new_session}
    with running(*SMALL, *arguments, cwd=tmp_path, **options) as process:
        os.close(slave)
        seen = b""
        while b"Enter" not in seen and b"first picture" not in seen:
            seen += os.read(master, 65536)
        os.close(master)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux libraries")
@pytest.mark.parametrize(
    ("library", "package"), [("libGL.so.1", "libgl1"), ("libglib-2.0.so.0", "libglib2.0-0"), ("libxcb.so.1", "libxcb1")]
)
def test_missing_library_is_named_with_its_package(library: str, package: str, tmp_path: Path) -> None:
    (tmp_path / library).touch()  # found before the system's, and useless: "file too short"
    with running(*SMALL, cwd=tmp_path, env=environment(LD_LIBRARY_PATH=str(tmp_path))) as process:
        output, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    assert output == ""
    check_one_line(errors, library, package, "apt install")


def test_machine_with_only_the_loopback_interface(tmp_path: Path) -> None:
    for tool in ("unshare", "ip"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt install util-linux iproute2")
    alone = ("unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("a network namespace of one's own needs root")
    with running(
        *SMALL, "--seconds", "1", "--json", cwd=tmp_path, command=(*alone, sys.executable, str(PROGRAM))
    ) as process:
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    frames = json.loads(output)["frames"]
    assert frames["received"] == frames["sent"] > 5


def udp_sockets(pid: int) -> list[str]:
    """Return the local addresses of a process's UDP sockets, as /proc/net/udp has them: hexadecimal, little-endian."""
    files = [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()]
    inodes = {name[len("socket:[") : -1] for name in files if name.startswith("socket:")}
    rows = [line.split() for kind in ("udp", "udp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    return [row[1].split(":")[0] for row in rows if row[9] in inodes]


@pytest.mark.skipif(not Path("/proc/net/udp").exists(), reason="needs /proc/net to see the sockets of a process")
def test_no_socket_outside_127_0_0_1(tmp_path: Path) -> None:
    with running(*ENDLESS, cwd=tmp_path) as process:
        read_until(process, "pc1    addIceCandidate(null)")
        early = udp_sockets(process.pid)
        read_until(process, "first picture")
        late = udp_sockets(process.pid)
        interrupt(process)
    assert set(early + late) == {"0100007F"}
    assert len(early) == len(late) == 2


def test_import_prints_and_opens_nothing(tmp_path: Path) -> None:
    code = """
import os, signal, threading
import loopback
assert threading.active_count() == 1, threading.enumerate()
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
files = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
opened = [os.readlink(file) for file in files if os.path.lexists(file)]
assert not [name for name in opened if "socket" in name or "video" in name], opened
"""
    env = environment(PYTHONPATH=str(PROGRAM.parent))
    with running("-c", code, cwd=tmp_path, command=(sys.executable,), env=env) as process:
        output, errors = process.communicate(timeout=10)
    assert (process.returncode, output, errors) == (0, "", "")
    assert not list(tmp_path.iterdir())


def test_without_a_display_it_says_so_and_leaves_a_picture(tmp_path: Path) -> None:
    ended = program("--size", "320x240", "--seconds", "1", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert [line for line in ended.stdout.splitlines() if "no display" in line and "loopback.png" in line]
    view = cv2.imread(str(tmp_path / "loopback.png"))
    assert view is not None
    assert None not in [loopback.read_time_code(pane) for pane in panes(view)]

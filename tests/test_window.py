"""The window on a virtual X display: what it shows, its keys, its end, and what happens where there is no display."""

import loopback  # first: it imports cv2 before av, which has to be so in every process  # isort: skip

import contextlib
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import Xlib.display
import Xlib.error
from conftest import PROGRAM, Xvfb, environment, program, run, wait_until
from Xlib import XK, X
from Xlib.ext import xtest
from Xlib.protocol.event import ClientMessage

SUMMARY = re.compile(r"(\d+) pictures sent, (\d+) received, \d+ misread, .*packets lost")


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean difference of two pictures below the time code, in steps of brightness (0..255)."""
    return float(np.abs(one[24:].astype(int) - other[24:].astype(int)).mean())


def colourfulness(picture: np.ndarray) -> float:
    return float(np.ptp(picture, axis=2).mean())


def both(view: np.ndarray, layout: loopback.View, sent: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the left and the right picture of a view, at the size they were sent."""
    places = [layout.place(side, np.empty((sent[1], sent[0], 3), np.uint8)) for side in (0, 1)]
    one, other = (
        cv2.resize(view[y : y + high, x : x + wide], sent, interpolation=cv2.INTER_LINEAR)
        for x, y, wide, high in places
    )
    return one, other


def codes_in(left: np.ndarray, right: np.ndarray) -> tuple[int, int] | None:
    """Return the two time codes, or None while one of them cannot be read (the screen is read while it changes)."""
    one, other = loopback.read_time_code(left), loopback.read_time_code(right)
    return None if one is None or other is None else (one, other)


class Shown:
    """`python loopback.py` with its window on a virtual display: a hand on the keys, an eye on the screen."""

    program: tuple[str, ...] = (sys.executable, str(PROGRAM))

    def __init__(self, xvfb: Xvfb, folder: Path, size: str, *arguments: str) -> None:
        width, height = map(int, size.split("x"))
        self.view = loopback.View(loopback.Log())  # as large as the window, once that is there
        self.sent = (width, height)
        self.xvfb, self.folder = xvfb, folder
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            self.process = subprocess.Popen(
                [*self.program, "--size", size, *arguments],
                cwd=folder,
                env=environment(DISPLAY=xvfb.name),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self.display = Xlib.display.Display(xvfb.name)
        self.display.screen().root.warp_pointer(0, 0)  # off the pictures
        self.window = wait_until(self._window)

    def _window(self) -> object:
        """Return the top-level window that has a close button, once it is on the screen."""
        assert self.process.poll() is None, self.err
        delete = self.display.intern_atom("WM_DELETE_WINDOW")
        for window in self.display.screen().root.query_tree().children:
            with contextlib.suppress(Xlib.error.BadWindow):  # it has gone since
                if delete in window.get_wm_protocols() and window.get_attributes().map_state == X.IsViewable:
                    return window
        return None

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def pictures(self) -> tuple[np.ndarray, np.ndarray]:
        """Return both pictures as they are on the screen, at the size they were sent."""
        place = self.window.get_geometry()
        if self.view.shape[:2] != (place.height, place.width):
            self.view.resize(place.width, place.height)
        screen = self.xvfb.picture()[place.y : place.y + place.height, place.x : place.x + place.width]
        return both(screen, self.view, self.sent)

    def codes(self) -> tuple[int, int] | None:
        return codes_in(*self.pictures())

    def reach(self, number: int) -> tuple[int, int]:
        """Wait until both time codes on the screen are at least that number."""

        def reached() -> tuple[int, int] | None:
            codes = self.codes()
            return codes if codes and min(codes) >= number else None

        found: tuple[int, int] = wait_until(reached)
        return found

    def udp(self) -> list[str]:
        """Return the local addresses of the program's UDP sockets, as /proc/net writes them."""
        own = set()
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was closed since
                own.add(os.readlink(entry))
        lines = [line.split() for name in ("udp", "udp6") for line in Path("/proc/net", name).read_text().splitlines()]
        return [fields[1] for fields in lines if f"socket:[{fields[9]}]" in own]

    def press(self, key: str) -> None:
        """Press and release a key, as a keyboard does."""
        self.window.set_input_focus(X.RevertToParent, X.CurrentTime)
        code = self.display.keysym_to_keycode(XK.string_to_keysym(key))
        xtest.fake_input(self.display, X.KeyPress, code)
        xtest.fake_input(self.display, X.KeyRelease, code)
        self.display.sync()

    def click(self, x: int, y: int, button: int = 1) -> None:
        """Press and release a button of the mouse there in the window; 4 and 5 are the wheel."""
        place = self.window.get_geometry()
        xtest.fake_input(self.display, X.MotionNotify, x=place.x + x, y=place.y + y)
        xtest.fake_input(self.display, X.ButtonPress, button)
        xtest.fake_input(self.display, X.ButtonRelease, button)
        self.display.sync()

    def click_close(self) -> None:
        """Do what a window manager does when the X button is clicked (ICCCM 4.2.8.1)."""
        data = (32, [self.display.intern_atom("WM_DELETE_WINDOW"), X.CurrentTime, 0, 0, 0])
        kind = self.display.intern_atom("WM_PROTOCOLS")
        self.window.send_event(ClientMessage(window=self.window, client_type=kind, data=data))
        self.display.sync()

    def ended(self) -> None:
        """The program ends well by itself: status 0, a summary, and nothing from Qt or anyone else on stderr."""
        assert self.process.wait(timeout=10) == 0, self.err
        assert self.err == ""
        if "→ connected" in self.out:
            summary = SUMMARY.match(self.out.splitlines()[-1])
            assert summary
            assert int(summary[2]) > 0

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=10)
        self.display.close()


@pytest.fixture
def show(xvfb: Xvfb, tmp_path: Path) -> Iterator[Callable[..., Shown]]:
    """Start the program with a size and more arguments, its window on the display; ended when the test is over."""
    with contextlib.ExitStack() as stack:

        def start(size: str = "320x240", *arguments: str) -> Shown:
            shown = Shown(xvfb, tmp_path, size, *arguments)
            stack.callback(shown.close)
            return shown

        yield start


# ---- What it shows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["320x240", "640x480", "1280x720"])
def test_both_pictures_move_on_the_screen_and_are_the_same(show: Callable[..., Shown], size: str) -> None:
    shown = show(size)
    captured: dict[int, np.ndarray] = {}

    def pair() -> tuple[int, np.ndarray, np.ndarray] | None:
        """Return a number, the picture captured and the one received with it; they need not be shown together."""
        left, right = shown.pictures()
        if codes := codes_in(left, right):
            captured[codes[0]] = left
            if codes[1] in captured:
                return codes[1], captured[codes[1]], right
        return None

    first, *_ = wait_until(pair)
    time.sleep(1)
    later, left, right = wait_until(pair)
    assert later > first
    assert left.std() > 20
    assert 0 < difference(left, right) < 10, "the right one has been through the codec"
    shown.press("q")
    shown.ended()


@pytest.mark.parametrize("both_ways", [False, True])
def test_left_is_what_pc1_captures_or_with_video_both_ways_what_it_received(both_ways: bool) -> None:
    def plain(grey: int) -> np.ndarray:
        return np.full((240, 320, 3), grey, np.uint8)

    async def shown() -> list[float]:
        source, back = (loopback.SyntheticSource(320, 240, 30) for _ in range(2))
        call = loopback.Call(source, back=back if both_ways else None)
        call.track.picture, call.pc1.picture, call.pc2.picture = plain(50), plain(100), plain(150)
        if call.back:
            call.back.picture = plain(200)
        layout = loopback.View(call.log)
        view = layout.draw(loopback.sides(call))
        await call.close()
        return [float(np.median(picture)) for picture in both(view, layout, (320, 240))]

    assert run(shown()) == [100 if both_ways else 50, 150]


# ---- Keys ------------------------------------------------------------------------------------------------------------


def test_h_hangs_up_and_c_calls_again(show: Callable[..., Shown]) -> None:
    shown = show()
    before = shown.reach(45)
    shown.press("c")  # in a call it does nothing
    shown.reach(before[0] + 15)
    sockets = shown.udp()
    assert len(sockets) == 2
    assert all(address.startswith("0100007F:") for address in sockets), "bound outside 127.0.0.1"

    shown.press("h")
    wait_until(lambda: re.search(r"^hung up: \d+ pictures sent", shown.out, re.MULTILINE))
    assert re.search(r"pc1 +send bye.*pc2 +receive bye.*call +closed", shown.out, re.DOTALL)
    wait_until(lambda: not shown.udp())
    wait_until(lambda: shown.pictures()[1].mean() < 80)  # words on dark ground
    stopped = shown.pictures()
    assert loopback.read_time_code(stopped[0]) is not None, "the own picture has gone"
    for key in "hnv":  # without a call they do nothing
        shown.press(key)
        time.sleep(0.2)
    assert np.array_equal(stopped, shown.pictures())
    assert shown.out.count("hung up:") == 1

    shown.press("c")
    codes = wait_until(shown.codes)
    assert max(codes) < min(before), "the time codes did not start again"
    shown.reach(15)
    assert len(shown.udp()) == 2
    assert shown.out.count("new RTCPeerConnection") == 4
    shown.press("h")  # and once more
    wait_until(lambda: shown.out.count("hung up:") == 2)
    wait_until(lambda: not shown.udp())
    shown.press("q")
    shown.ended()


def test_g_greys_the_right_picture_and_brings_its_colours_back(show: Callable[..., Shown]) -> None:
    shown = show()
    shown.reach(15)
    shown.press("g")
    wait_until(lambda: colourfulness(shown.pictures()[1]) == 0)
    left, right = shown.pictures()
    assert colourfulness(left) > 20
    assert right.std() > 20
    shown.press("g")
    wait_until(lambda: colourfulness(shown.pictures()[1]) > 20)
    shown.press("q")
    shown.ended()


def next_source(shown: Shown, switch: str) -> None:
    """Press n until that switch of sources is logged: while one is under way, the key is not heard."""
    count = shown.out.count(switch)
    for _ in range(3):
        shown.press("n")
        with contextlib.suppress(AssertionError):
            wait_until(lambda: shown.out.count(switch) > count, 6)
            return
    raise AssertionError(f"{switch} never came; {shown.out[-500:]}")


def test_n_goes_to_the_next_source_that_works_and_the_numbers_go_on(show: Callable[..., Shown]) -> None:
    shown = show()
    before, _ = shown.reach(15)
    scene = shown.pictures()[0]
    next_source(shown, "synthetic → night")
    after, _ = shown.reach(before + 15)
    assert after < before + 600  # they did not start again
    assert not similar(scene, shown.pictures()[1])
    next_source(shown, "night → synthetic")
    assert re.search("camera passed over .*camera 0", shown.out)  # there is none
    shown.reach(after + 15)
    assert similar(scene, shown.pictures()[1])
    assert shown.out.count("replaceTrack") == 2
    assert shown.out.count("createOffer") == 1, "nothing was negotiated"
    shown.press("q")
    shown.ended()


def test_n_comes_back_to_the_file_it_began_with(show: Callable[..., Shown], tmp_path: Path) -> None:
    path = tmp_path / "still\n\x1b[31m.png"  # a name that must not reach the terminal as it is
    cv2.imwrite(str(path), np.full((240, 320, 3), (200, 60, 60), np.uint8))
    shown = show("320x240", "--source", path.name)
    wait_until(lambda: blue(shown.pictures()[1]))
    next_source(shown, "→ synthetic")
    wait_until(lambda: shown.codes() and not blue(shown.pictures()[1]))
    next_source(shown, "synthetic → night")
    next_source(shown, "night → still")
    wait_until(lambda: blue(shown.pictures()[1]))
    path.unlink()
    for switch in ("→ synthetic", "synthetic → night", "night → synthetic"):  # the file has gone: it is passed over
        next_source(shown, switch)
    assert re.search(r"still\S+ passed over", shown.out)
    assert "\x1b" not in shown.out
    shown.press("q")
    shown.ended()


def similar(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the sky below the time code is nearly the same: it hardly moves."""
    sky = (slice(24, 60), slice(0, 100))
    return float(np.abs(one[sky].astype(int) - other[sky]).mean()) < 15


def blue(picture: np.ndarray) -> bool:
    return bool(np.abs(picture[40:200, 40:280].mean(axis=(0, 1)) - (200, 60, 60)).max() < 16)


def test_v_sends_black_and_then_the_picture_again(show: Callable[..., Shown]) -> None:
    shown = show()
    shown.reach(5)
    shown.press("v")
    wait_until(lambda: max(picture[24:].max() for picture in shown.pictures()) < 40)
    shown.reach(max(shown.reach(5)) + 10)  # black, and still numbered
    shown.press("v")
    wait_until(lambda: min(picture[24:].max() for picture in shown.pictures()) > 100)
    assert re.search(r"pc1 +mute +video.*pc1 +unmute +video", shown.out, re.DOTALL)
    shown.press("q")
    shown.ended()


def test_mute_stays_with_another_source(show: Callable[..., Shown]) -> None:
    shown = show()
    shown.reach(5)
    shown.press("v")
    wait_until(lambda: "unmute" not in shown.out and re.search(r"pc1 +mute", shown.out))
    next_source(shown, "synthetic → night")
    shown.reach(max(shown.reach(5)) + 10)
    assert max(picture[24:].max() for picture in shown.pictures()) < 40
    shown.press("q")
    shown.ended()


def test_both_ways_shows_the_two_pictures_received(show: Callable[..., Shown]) -> None:
    shown = show("320x240", "--both")
    before = shown.reach(15)
    left, right = shown.pictures()
    assert not similar(left, right), "they are of two sources"
    assert left[24:].mean() < 0.6 * right[24:].mean(), "the left one is not the night that pc2 sends"
    shown.reach(max(before) + 15)
    shown.press("v")  # pc1's picture, which pc2 shows
    wait_until(lambda: shown.pictures()[1][24:].max() < 40)
    assert shown.pictures()[0][24:].max() > 100
    shown.press("h")
    wait_until(lambda: not shown.udp())
    shown.press("c")
    wait_until(lambda: shown.out.count("first picture") == 4)
    shown.press("q")
    shown.ended()


def test_s_writes_the_view_to_a_file(show: Callable[..., Shown], tmp_path: Path) -> None:
    shown = show()
    before = shown.reach(15)
    shown.press("s")
    wait_until(lambda: re.search(r"snapshot +loopback\.png", shown.out))
    assert_shows_a_call(tmp_path / "loopback.png", least=min(before))
    shown.reach(max(before) + 15)  # the call goes on
    shown.press("q")
    shown.ended()


def test_a_snapshot_that_cannot_be_written_does_not_end_the_call(show: Callable[..., Shown], tmp_path: Path) -> None:
    shown = show()
    before = shown.reach(5)
    (tmp_path / "loopback.png").mkdir()
    shown.press("s")
    wait_until(lambda: "no snapshot" in shown.out)
    shown.reach(max(before) + 15)
    shown.press("q")
    shown.ended()


@pytest.mark.parametrize(
    ("key", "arguments"), [("q", ("1280x720", "--fps", "60")), ("Escape", ())], ids=["q under load", "Esc"]
)
def test_q_and_escape_end(show: Callable[..., Shown], key: str, arguments: tuple[str, ...]) -> None:
    shown = show(*arguments)
    shown.reach(5)
    shown.press(key)
    shown.ended()


def test_a_key_that_is_not_in_the_list_does_nothing(show: Callable[..., Shown]) -> None:
    """X numbers the keys Menu and Find 0xff67 and 0xff68: only their last bytes are those of g and h."""
    shown = show()
    shown.reach(5)
    for key in ("Menu", "Find"):
        shown.press(key)
        time.sleep(0.3)
    assert "hung up" not in shown.out
    assert min(map(colourfulness, shown.pictures())) > 20
    shown.press("q")
    shown.ended()


def test_step_takes_one_step_for_each_key(show: Callable[..., Shown]) -> None:
    shown = show("320x240", "--step")
    count = 16
    for step in range(1, count + 1):
        wait_until(lambda step=step: f"\nStep {step} of {count}: " in shown.out)
        if step == 3:  # it waits: only a key takes it on, and Shift alone is none
            shown.press("Shift_L")
            time.sleep(0.3)
        assert f"Step {step + 1} " not in shown.out
        shown.press("space")
    shown.reach(5)
    shown.press("q")
    shown.ended()


def test_q_ends_in_the_middle_of_the_steps(show: Callable[..., Shown]) -> None:
    shown = show("320x240", "--step")
    wait_until(lambda: "Step 1 of" in shown.out)
    shown.press("space")
    wait_until(lambda: "Step 2 of" in shown.out)
    shown.press("q")
    shown.ended()


# ---- Mouse, size, failure --------------------------------------------------------------------------------------------


def test_a_click_on_a_keys_label_is_that_key(show: Callable[..., Shown]) -> None:
    shown = show()
    shown.reach(5)
    shown.click(*label(shown, "v", "hnvgsq"))
    wait_until(lambda: re.search(r"pc1 +mute", shown.out))
    shown.click(*label(shown, "h", "hnvgsq"))
    wait_until(lambda: "hung up:" in shown.out)
    wait_until(lambda: not shown.udp())
    shown.click(5, 5)  # no label: nothing
    shown.click(*label(shown, "q", "csq"))
    shown.ended()


def label(shown: Shown, key: str, keys: str) -> tuple[int, int]:
    """Return where a key's label is in the window, while these keys are offered."""
    sides = (loopback.Side("pc1", ""), loopback.Side("pc2", ""))
    shown.view.draw(sides, keys={one: loopback.KEYS[one] for one in keys})
    left, top, _, height = shown.view.areas["keys"]
    start = next(start for start, _, one in shown.view.buttons if one == key)
    return left + start + 5, top + height // 2


def test_the_wheel_does_not_zoom_the_picture_away(show: Callable[..., Shown]) -> None:
    shown = show()
    before, first, place = shown.reach(5), shown.window, geometry(shown)
    for _ in range(3):
        shown.click(300, 200, button=4)
        time.sleep(0.05)
    shown.window = wait_until(lambda: (window := shown._window()) != first and window)
    shown.reach(max(before) + 30)
    assert geometry(shown) == place
    shown.press("q")
    shown.ended()


def test_a_window_is_never_black(xvfb: Xvfb, tmp_path: Path) -> None:
    """With libX11-xcb as OpenCV brings it, one of eight was: Qt had not heard that it is on the screen. On a quiet
    machine it may be one of thirty, so the cause is looked for, too."""
    script = f"""
import loopback, ctypes, cv2, numpy, pathlib, sys, time
for number in range(10):
    window, until = loopback.Window(), time.monotonic() + 3
    white = numpy.full((window.size[1], window.size[0], 3), 255, numpy.uint8)
    while numpy.frombuffer(pathlib.Path({str(xvfb.screen)!r}).read_bytes()[4096:], numpy.uint8).mean() < 100:
        if time.monotonic() > until:
            sys.exit(f"window {{number}} stays black")
        window.show(white)
    cv2.destroyAllWindows()
ctypes.CDLL(None).XSetEventQueueOwner  # found in the whole process: the system's, before OpenCV's own
"""
    ended = python(script, tmp_path, xvfb.name)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_resized_window_is_laid_out_anew(show: Callable[..., Shown]) -> None:
    shown = show()
    before = shown.reach(5)
    for width, height in ((900, 700), (1390, 520)):
        shown.window.configure(width=width, height=height)
        shown.display.sync()
        wait_until(lambda size=(width, height): (geometry(shown)) == size)
        before = shown.reach(max(before) + 15)
    shown.press("q")
    shown.ended()


def geometry(shown: Shown) -> tuple[int, int]:
    found = shown.window.get_geometry()
    return found.width, found.height


def test_a_call_that_fails_leaves_the_window_open_and_can_be_made_again(
    show: Callable[..., Shown], tmp_path: Path
) -> None:
    film = tmp_path / "film.png"
    shown = show("320x240", "--source", "film.png")
    wait_until(lambda: "film.png cannot be read" in shown.err)
    assert shown.process.poll() is None
    shown.press("h")  # there is nothing to hang up
    shown.press("c")
    wait_until(lambda: shown.err.count("film.png cannot be read") == 2)
    cv2.imwrite(str(film), np.full((240, 320, 3), (200, 60, 60), np.uint8))
    shown.press("c")
    wait_until(lambda: blue(shown.pictures()[1]))
    shown.press("q")
    assert shown.process.wait(timeout=10) == 0, "the last call went well"


def test_a_failed_call_is_told_by_the_exit_status(show: Callable[..., Shown]) -> None:
    shown = show("320x240", "--source", "film.png")
    wait_until(lambda: "cannot be read" in shown.err)
    shown.press("q")
    assert shown.process.wait(timeout=10) == 1
    assert shown.err.count("\n") == 1


# ---- Its end ---------------------------------------------------------------------------------------------------------


def test_the_close_button_ends(show: Callable[..., Shown]) -> None:
    shown = show()
    shown.reach(5)
    shown.click_close()
    shown.ended()


# ---- No display ------------------------------------------------------------------------------------------------------


def assert_shows_a_call(path: Path, least: int = 1) -> None:
    """The file holds the view of a call at 320x240: both pictures, of at least that number, the same or nearly so."""
    written = cv2.imread(str(path))
    assert written is not None
    layout = loopback.View(loopback.Log(), written.shape[1::-1])
    left, right = both(written, layout, (320, 240))
    codes = codes_in(left, right)
    assert codes is not None
    assert min(codes) >= least
    assert abs(codes[0] - codes[1]) <= 3
    assert difference(left, right) < 16


def test_without_a_display_the_call_runs_and_leaves_a_picture(tmp_path: Path) -> None:
    ended = program("--size", "320x240", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert len([line for line in lines if "no window" in line and "loopback.png" in line]) == 1
    summary = SUMMARY.match(lines[-1])
    assert summary
    assert int(summary[1]) > 10
    assert_shows_a_call(tmp_path / "loopback.png", least=10)


def test_a_display_that_restarts_whenever_nobody_uses_it_is_held(tmp_path: Path, xvfb: Xvfb) -> None:
    for _ in range(5):  # asked first and left again, it restarted under Qt's feet in two of five runs
        ended = program("--size", "160x120", "--seconds", "0.1", cwd=tmp_path, display=xvfb.name)
        assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("display", [None, ":4242", "nonsense"])
def test_a_window_without_a_display_is_refused_in_one_line(tmp_path: Path, display: str | None) -> None:
    assert_refused(program("--view", "window", cwd=tmp_path, display=display), f"display.*{display or 'not set'}")


def assert_refused(ended: subprocess.CompletedProcess[str], reason: str) -> None:
    assert ended.returncode == 1
    assert re.fullmatch(f"loopback: .*{reason}.*\n", ended.stderr), ended.stderr
    assert ended.stdout == ""


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[str]:
    """The name of a display that lets in only those who have its cookie; the program has not."""
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed: apt install xvfb")
    cookie = (b"", b"", b"MIT-MAGIC-COOKIE-1", bytes(16))  # the format is in Xau(3); 0xffff: for every host
    (tmp_path / "cookie").write_bytes(
        struct.pack(">H", 0xFFFF) + b"".join(struct.pack(">H", len(part)) + part for part in cookie)
    )
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-auth", str(tmp_path / "cookie"), "-nolisten", "tcp"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as numbers:
        yield f":{int(numbers.readline())}"
    server.terminate()
    server.wait(timeout=10)


def test_a_display_that_lets_nobody_in_is_refused(tmp_path: Path, locked: str) -> None:
    ended = program("--view", "window", cwd=tmp_path, display=locked)
    assert ended.returncode == 1
    xlib, ours = ended.stderr.splitlines()[0], ended.stderr.splitlines()[-1]
    assert "Authorization required" in xlib  # said by the X library itself, and more than we know
    assert re.fullmatch(f"loopback: .*display.*{locked}.*", ours)


# ---- Import order ----------------------------------------------------------------------------------------------------


def python(script: str, cwd: Path, display: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=cwd,
        env=environment(DISPLAY=display, PYTHONPATH=str(PROGRAM.parent)),
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_loopback_imports_cv2_before_everything_that_brings_another_libxcb(tmp_path: Path) -> None:
    ended = python("import loopback, sys; print(*sys.modules)", tmp_path, display="")
    modules = ended.stdout.split()
    assert modules.index("cv2") < min(modules.index("av"), modules.index("aiortc"))


@pytest.mark.parametrize("package", ["aiortc", "av"])
def test_a_window_after_aiortc_was_imported_first_is_refused_instead_of_hanging(
    tmp_path: Path, xvfb: Xvfb, package: str
) -> None:
    script = f"import {package}, loopback, sys; sys.exit(loopback.main(['--view', 'window']))"
    assert_refused(python(script, tmp_path, xvfb.name), "imported before cv2")


def test_after_aiortc_was_imported_first_the_call_runs_without_a_window(tmp_path: Path, xvfb: Xvfb) -> None:
    script = "import aiortc, loopback, sys; sys.exit(loopback.main(['--size', '320x240', '--seconds', '1']))"
    ended = python(script, tmp_path, xvfb.name)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(re.findall("imported before cv2.*no window", ended.stdout)) == 1
    assert_shows_a_call(tmp_path / "loopback.png")

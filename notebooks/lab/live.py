"""Pictures in a cell: both ends of a running call, moving, single pictures side by side, and a learner's own."""

import asyncio
import io
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import PIL.Image as pil  # noqa: N813 - IPython has an Image too
from IPython.display import DisplayHandle, Image

from loopback import Call, CallError, Picture, SyntheticSource, fit, read_time_code

from .check import blamed, note_mistake

WIDTH, WIDEST, GAP, CAPTION = 980, 560, 12, 34  # pixels: of all, of one picture, between, above
GROUND, PALE, FAINT = (38, 30, 26), (240, 236, 232), (170, 160, 150)  # blue, green, red
FONT = cv2.FontFace("sans")
STILL = 1.0  # s without a new picture, then it stands still


def _write(canvas: Picture, text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> int:
    end, _ = cv2.putText(canvas, text, at, colour, FONT, 15, 450)
    return int(end[0])


def side_by_side(pictures: list[Picture | None], captions: list[tuple[str, str]]) -> Picture:
    """Return the pictures in one row, each below its name and a word about it; None is a picture that has not come."""
    width = min((WIDTH - GAP) // len(pictures) - GAP, WIDEST)
    known = [picture for picture in pictures if picture is not None]
    shape = known[0].shape if known else (3, 4, 3)
    height = max((round(p.shape[0] * width / p.shape[1]) for p in known), default=width * shape[0] // shape[1])
    canvas = np.full((CAPTION + height + GAP, GAP + len(pictures) * (width + GAP), 3), GROUND, np.uint8)
    for number, (picture, (name, words)) in enumerate(zip(pictures, captions, strict=True)):
        x = GAP + number * (width + GAP)
        pane = canvas[CAPTION : CAPTION + height, x : x + width]
        if picture is None:
            pane[:] = 0
            _write(pane, "no picture yet", (14, height // 2), FAINT)
        else:
            pane[:] = fit(picture if picture.ndim == 3 else cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR), (width, height))
        end = _write(canvas, name, (x, 22), PALE)
        _write(canvas[:, : x + width], words, (end + 14, 22), FAINT)
    return canvas


def still_for(call: Call) -> float:
    """Return for how many seconds pc2 has had no new picture; 0.0 while they come, and before the first."""
    passed = time.perf_counter() - call.meter.last_arrival if call.pc2.picture is not None else 0.0
    return passed if passed > STILL else 0.0


def both(call: Call, rate: float = 0.0) -> Picture:
    """Return what pc1 sends beside what pc2 has received, at this moment; grey where none came for a while. `rate` is
    in pictures a second, as counted at pc2."""
    sent, received = call.track.picture, call.pc2.picture
    size = f"{sent.shape[1]}x{sent.shape[0]}" if sent is not None else ""
    kbps = call.pc1.health.bitrate_kbps
    traffic = f"   {kbps:.0f} kbit/s" if kbps else ""
    if still := still_for(call):
        words = f"no picture for {still:.1f} s"
        grey = cv2.cvtColor(received, cv2.COLOR_BGR2GRAY) if received is not None else None
        received = cv2.addWeighted(grey, 0.5, np.full_like(grey, 90), 0.5, 0) if grey is not None else None
    else:
        delay, _ = call.meter.recent
        words = f"{call.codec}" + (f"   delay {delay * 1000:.1f} ms" if delay else "")
        words += f"   {rate:.0f}/s" if rate else ""
    return side_by_side(
        [sent, received],
        [("pc1 sends", f"{call.track.source.label[-24:]}   {size}{traffic}"), ("pc2 receives", words)],
    )


class Rate:
    """Counts the pictures that pc2 receives while one watches: before, a call may have rested."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.seen: deque[tuple[float, int]] = deque(maxlen=15)  # time, pictures so far

    def __call__(self) -> float:
        """Return the pictures a second since about a second ago; 0.0 at first."""
        self.seen.append((time.perf_counter(), self.call.meter.received))
        (begun, first), (now, last) = self.seen[0], self.seen[-1]
        return (last - first) / (now - begun) if now - begun > 0.3 else 0.0


async def watch(call: Call, seconds: float = 2.0, *, rate: float = 15.0) -> None:
    """Show both pictures of a running call in the cell, moving, for some seconds or until it is hung up.

    The last ones stay. Raises CallError when the call breaks meanwhile. `rate` is in pictures a second.
    """
    handle, counted = DisplayHandle(), Rate(call)
    until = call.log.now() + seconds
    handle.display(_jpeg(both(call)))
    try:
        while call.log.now() < until:
            await asyncio.sleep(1 / rate)
            if call.hung_up or call.closed:
                break
            await call.check()
            handle.update(_jpeg(both(call, counted())))
    finally:  # also when it is interrupted
        handle.update(_still(both(call, counted())))


async def new_picture(call: Call, within: float = 5.0) -> Picture:
    """Return the first picture at pc2 that was made after this moment. Raises CallError when none comes, in s."""
    first, until = call.meter.sent, call.log.now() + within
    while call.log.now() < until:
        await call.check()
        picture = call.pc2.picture
        number = None if picture is None else read_time_code(picture)
        if picture is not None and number is not None and (number - first) % 65536 < 32768:
            return picture
        await asyncio.sleep(0.01)
    raise CallError(f"no new picture within {within:g} s: is the call still up, and does its source draw?")


class Painted(SyntheticSource):
    """The test picture after a function of the learner's: it gets each view, and what it returns is sent.

    A mistake in it does not end the call: the view is sent grey, and check() says what was wrong.
    """

    def __init__(self, paint: Callable[[Picture], Any], width: int, height: int, fps: float) -> None:
        super().__init__(width, height, fps)
        self.paint = paint

    def draw(self, t: float) -> Picture:
        view = super().draw(t)
        try:
            painted = self.paint(view.copy())
        except Exception as error:  # noqa: BLE001  of any kind: the function is a learner's
            note_mistake(self.paint, blamed(error, self.paint) or f"{type(error).__name__}: {error}")
        else:
            if isinstance(painted, np.ndarray) and painted.shape == view.shape and painted.dtype == np.uint8:
                return np.ascontiguousarray(painted)
            note_mistake(self.paint, f"your {self.paint.__name__} returned {_kind(painted)}, not {_kind(view)}")
        return cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {' x '.join(map(str, value.shape))}, {value.dtype}"
    return repr(value)[:40]


def _jpeg(canvas: Picture) -> Image:
    return Image(cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes(), format="jpeg")


def _still(canvas: Picture) -> Image:
    """Return what stays in the notebook: PNG, which every site shows, of 255 colours, a third as large."""
    file = io.BytesIO()
    drawn = pil.fromarray(canvas[:, :, ::-1])
    drawn.quantize(255, pil.Quantize.MEDIANCUT, dither=pil.Dither.NONE).save(file, "png", optimize=True)
    return Image(file.getvalue(), format="png")


def picture(image: Picture | None, *more: Picture | None, titles: tuple[str, ...] = ()) -> Image:
    """Return the picture, or several side by side, as PNG for the cell. Pictures are OpenCV's: blue, green, red."""
    images = [image, *more]
    if titles and len(titles) != len(images):
        raise ValueError(f"{len(images)} pictures, but {len(titles)} titles")
    captions = [(title, "") for title in titles] or [("", "")] * len(images)
    canvas = side_by_side(images, captions)
    if not titles:
        canvas = canvas[CAPTION - GAP :]
    return _still(canvas)


__all__ = ["Painted", "new_picture", "picture", "watch"]

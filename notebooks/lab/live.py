"""Pictures in a cell: both ends of a running call, moving, and single pictures side by side."""

import asyncio
import io

import cv2
import numpy as np
import PIL.Image as pil  # noqa: N813 - IPython has an Image too
from IPython.display import DisplayHandle, Image

from loopback import Call, Picture, fit

WIDTH, WIDEST, GAP, CAPTION = 980, 560, 12, 34  # pixels: of all, of one picture, between, above
GROUND, PALE, FAINT = (38, 30, 26), (240, 236, 232), (170, 160, 150)  # blue, green, red
FONT = cv2.FontFace("sans")


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


def both(call: Call) -> Picture:
    """Return what pc1 sends beside what pc2 has received, at this moment."""
    picture, (delay, rate) = call.track.picture, call.meter.recent
    size = f"{picture.shape[1]}x{picture.shape[0]}" if picture is not None else ""
    measured = f"delay {delay * 1000:.1f} ms   {rate:.0f}/s" if rate else ""
    kbps = call.pc1.health.bitrate_kbps
    traffic = f"   {kbps:.0f} kbit/s" if kbps else ""
    return side_by_side(
        [picture, call.pc2.picture],
        [
            ("pc1 sends", f"{call.track.source.label[-24:]}   {size}"),
            ("pc2 receives", f"{call.codec}   {measured}{traffic}"),
        ],
    )


async def watch(call: Call, seconds: float = 2.0, *, rate: float = 15.0) -> None:
    """Show both pictures of a running call in the cell, moving, for some seconds or until it is hung up.

    The last ones stay. Raises CallError when the call breaks meanwhile. `rate` is in pictures a second.
    """
    handle = DisplayHandle()
    until = call.log.now() + seconds
    handle.display(_jpeg(both(call)))
    try:
        while call.log.now() < until:
            await asyncio.sleep(1 / rate)
            if call.hung_up or call.closed:
                break
            await call.check()
            handle.update(_jpeg(both(call)))
    finally:
        handle.update(_still(both(call)))


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


__all__ = ["picture", "watch"]

"""The screen as a source of pictures: what a browser gives with getDisplayMedia().

call = Call(ScreenSource(None, fps=30))         # or, in a running call: await call.switch(ScreenSource(None, fps=30))
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import numpy as np

from loopback import CallError, Picture, Reader, fit, printable


class ScreenSource(Reader[tuple[Picture, float]]):
    """What the first screen shows, up to `fps` times a second. Without a size, in its own shape. (Through av's x11grab
    the process would crash: it is linked to another libxcb than OpenCV.)"""

    def __init__(self, size: tuple[int, int] | None, fps: float) -> None:
        self.size, self.fps = size, fps
        super().__init__("screen", self._pictures)

    def _pictures(self, stop: threading.Event) -> Generator[tuple[Picture, float]]:
        try:
            import mss
            import mss.exception
        except ImportError as error:
            raise CallError(
                "the screen needs the package mss: pip install -e '.[phone]', or pip install mss"
            ) from error
        try:
            with mss.MSS() as grabber:
                due = time.perf_counter()
                while not stop.wait(max(0.0, due - time.perf_counter())):
                    now = time.perf_counter()
                    due = max(due + 1 / self.fps, now)  # a grab that took too long is not made up for
                    picture = np.asarray(grabber.grab(grabber.monitors[1]))[:, :, :3]
                    fitted = fit(picture, self.size)
                    self.given = f"{picture.shape[1]}x{picture.shape[0]}" if picture.shape != fitted.shape else ""
                    yield fitted, now
        except mss.exception.ScreenShotError as error:
            raise CallError(f"the screen cannot be read ({printable(str(error))}): is there a display?") from error

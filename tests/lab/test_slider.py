"""Time that moves: a slider in a live kernel, a still where nobody can move it."""

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.manager import start_new_kernel

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))

from lab import slider  # noqa: E402 - lies beside the lessons, not installed

WIDGET = "application/vnd.jupyter.widget-view+json"
LIVE = """
from lab import *
from loopback import *
call = Call(SyntheticSource(160, 120, 30))
display(strip(call))
await call.run()
tap = Tap(call)
for shown in (sequence(call.log), timeline(call.log), strip(call)):
    display(shown)
await call.close()
"""


@pytest.fixture
def published() -> Any:
    """What a shell publishes, as data by kind."""
    shell = InteractiveShell.instance()
    before, shell.display_pub = shell.display_pub, CapturingDisplayPublisher()
    yield lambda: [one["data"] for one in shell.display_pub.outputs]
    shell.display_pub = before
    InteractiveShell.clear_instance()


def test_the_slider_shows_the_moment_it_stands_at_and_at_the_end_the_still() -> None:
    asked = []

    def at(number: int) -> bytes:
        asked.append(number)
        return b"picture %d" % number

    top, shown = slider.slider(b"still", ["0 ms", "5 ms", "now"], at).children
    play, place, name = top.children
    assert (shown.value, name.value, place.value, place.max, play.max) == (b"still", "now", 2, 2, 2)
    place.value = 1
    assert (shown.value, name.value) == (b"picture 1", "5 ms")
    place.value = 2
    assert (shown.value, name.value) == (b"still", "now")
    assert asked == [1]


def test_where_nobody_can_move_it_there_is_the_still_alone(published: Any) -> None:
    slider.show(b"still", ["0 ms", "now"], lambda number: b"")
    slider.show("<b>still</b>", ["0 ms", "now"], lambda number: "")
    assert [set(data) - {"text/plain"} for data in published()] == [{"image/png"}, {"text/html"}]


@pytest.mark.parametrize("still", [False, True])
def test_in_a_live_kernel_a_run_can_be_gone_through(still: bool) -> None:
    changes = {slider.STILL: "1"} if still else {}
    manager, client = start_new_kernel(
        kernel_name="python3", cwd=str(NOTEBOOKS), startup_timeout=60, env={**os.environ, **changes}
    )
    try:
        asked, shown = client.execute(LIVE), []
        while True:
            message = client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != asked:
                continue
            assert message["msg_type"] not in ("error", "stream"), message["content"]
            if message["msg_type"] == "display_data":
                shown.append(set(message["content"]["data"]) - {"text/plain"})
            if message["content"].get("execution_state") == "idle":
                break
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    more = set() if still else {WIDGET}
    # The first strip has nothing behind it yet.
    assert shown == [{"text/html"}, {"image/png"} | more, {"image/png"} | more, {"text/html"} | more]

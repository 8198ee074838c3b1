"""A slider over a picture or a table, for a run that moves: in a live notebook only. What is stored stays still."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from typing import Any

from IPython.core.getipython import get_ipython
from IPython.display import display
from ipywidgets import HTML, Box, HBox, Image, IntSlider, Label, Layout, Play, VBox, jslink

STILL = "LAB_STILL"  # set by render.py: nobody is there to move a slider, and no site would show it
PACE = 400  # ms from one moment to the next, when it plays


def movable() -> bool:
    """Whether there is somebody to move a slider."""
    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel") and STILL not in os.environ


def show(still: bytes | str, moments: Sequence[str], at: Callable[[int], bytes | str]) -> None:
    """Display a PNG or HTML. In a live notebook a slider above it goes through the moments, which are their names;
    `at` gives what is seen at one of them. It begins at the last, with the still."""
    kind = "image/png" if isinstance(still, bytes) else "text/html"
    data: dict[str, Any] = {kind: base64.b64encode(still).decode() if isinstance(still, bytes) else still}
    if len(moments) > 1 and movable():
        # Beside the slider the still goes into the file, for whoever opens it without this kernel.
        data |= slider(still, moments, at)._repr_mimebundle_()
    display({"text/plain": "", **data} if kind == "text/html" else data, raw=True)


def slider(still: bytes | str, moments: Sequence[str], at: Callable[[int], bytes | str]) -> Box:
    """Return a slider, a button that plays, the moment's name, and below what is seen."""
    last = len(moments) - 1
    shown = Image(value=still, format="png") if isinstance(still, bytes) else HTML(value=still)
    shown.layout = Layout(max_width="100%", object_fit="contain")
    place = IntSlider(value=last, max=last, readout=False, layout=Layout(width="45%"))
    play = Play(value=last, max=last, interval=PACE, show_repeat=False)
    name = Label(value=moments[last])
    jslink((play, "value"), (place, "value"))

    def move(change: dict[str, Any]) -> None:
        name.value = moments[change["new"]]
        shown.value = still if change["new"] == last else at(change["new"])

    place.observe(move, "value")
    return VBox([HBox([play, place, name]), shown])

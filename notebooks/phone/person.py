"""Somebody at a terminal who calls or answers: what they see, type and get. `call` and `answer` of the command line.

person = Person(options)        # as __main__.parse gives them
await person.run()              # until the call is over, or for good
person.report()                 # what --json prints
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import sys
import threading
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from loopback import (
    FAINT,
    INK,
    CallError,
    Console,
    Log,
    Picture,
    Side,
    Source,
    View,
    Window,
    Words,
    cancelled,
    open_source,
    printable,
    write_picture,
)

from .end import Conversation, End
from .recorder import Recorder, check_not_a_source
from .screen import ScreenSource
from .sound import SoundSource, draw_level, open_sound

# The keys of the window. The terminal takes lines: a chat, or one of these.
KEYS = {"h": "hang up", "v": "mute picture", "m": "mute sound", "g": "grey", "s": "snapshot", "q": "quit"}
TYPED = "Type a line to chat, /file PATH to send a file, /bye to hang up"
WAITING: tuple[Words, ...] = (("waiting for the first picture", FAINT),)
RECORDED = (1280, 630)  # pixels: the window may change its size, a recording may not


class Person:
    """One end, its window and its terminal. All that goes wrong is raised by run() as a CallError."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = o = options
        self.console = Console(sys.stderr if o.json else sys.stdout)
        self.log = Log(self.console.event)
        sends = {"source": self._source, "sound": self._sound, "codec": o.codec, "here_only": not o.all_addresses}
        self.end = End(o.server, o.name, self.log, **sends, save=o.save, answers=o.command == "answer")
        self.end.on_begin, self.end.on_end = self._on_begin, self._on_end
        self.view, self.recorded = View(self.log), View(self.log, RECORDED)
        self.window: Window | None = None
        self.recorder: Recorder | None = None
        self.reports: deque[dict[str, Any]] = deque(maxlen=1000)  # of the calls that are over
        self.ended = False
        self._last: Picture | None = None  # the view at the end of the last call
        self._begun, self._measured = math.inf, -math.inf  # s
        self._curves: tuple[deque[tuple[float, float]], ...] = (deque(maxlen=60), deque(maxlen=60))
        self._sending: asyncio.Task[None] | None = None  # a file
        self._told: Conversation | None = None  # in which one the user was told what to type

    def _source(self) -> Source:
        o = self.options
        return ScreenSource(o.size, o.fps) if o.source == "screen" else open_source(o.source, o.size, o.fps, self.log)

    def _sound(self) -> SoundSource | None:
        return None if self.options.sound == "none" else open_sound(self.options.sound)

    async def run(self) -> None:
        """Call, or answer, until it is over or cancelled. Leaves nothing open."""
        o = self.options
        async with contextlib.AsyncExitStack() as stack:
            self._open_files(stack)
            self._open_view(stack)
            await stack.enter_async_context(self.end)
            calling = asyncio.create_task(self.end.call(o.whom)) if o.command == "call" else None
            stack.push_async_callback(cancelled, calling)
            self._read_lines()
            while not self.ended:
                await asyncio.sleep(1 / 30)
                self.end.check()
                if calling and calling.done():
                    calling.result()
                    self.ended = self.end.conversation is None
                self._tick()
        if o.command == "call" and self.end.failure:
            raise CallError(self.end.failure)

    def _open_files(self, stack: contextlib.AsyncExitStack) -> None:
        o = self.options
        if o.save and not o.save.is_dir():
            raise CallError(f"{printable(str(o.save))} is no folder: make it first, or name another with --save")
        if o.record:
            check_not_a_source(o.record, o.source, o.sound)
            self.recorder = Recorder(o.record, self.recorded.shape, sound=True)
            stack.push_async_callback(self.recorder.close)

    def _open_view(self, stack: contextlib.AsyncExitStack) -> None:
        o = self.options
        if o.view != "none":
            try:
                self.window = Window()
                stack.callback(cv2.destroyAllWindows)
            except CallError as missing:
                if o.view == "window":
                    raise CallError(f"{missing}: there can be no window; use --view none") from missing
                o.snapshot = o.snapshot or Path("phone.png")
                self.console.line(f"{missing}: no window; {printable(str(o.snapshot))} will be written at the end")
        if o.snapshot:
            check_not_a_source(o.snapshot, o.source)
            write_picture(o.snapshot, None)
            stack.callback(lambda: None if self._last is None else write_picture(o.snapshot, self._last))

    # What happens in a call.

    def _on_begin(self, conversation: Conversation) -> None:
        self._begun = math.inf
        conversation.talk.on_chat = partial(self._on_chat, conversation.other)
        conversation.talk.on_progress = self._on_progress
        if recorder := self.recorder:
            conversation.meter.on_block = lambda samples: recorder.write_sound(samples, self.log.now())

    def _on_chat(self, who: str, text: str) -> None:
        self.console.line(f"{printable(who)}: {text}")

    def _on_progress(self, name: str, done: int, size: int) -> None:
        if self.console.live and (done == size or done // 16_384 % 64 == 0):
            self.console.line(f"{name}: {done} of {size} bytes", end="")

    def _on_end(self, conversation: Conversation) -> None:
        self._last = self._draw(self.view, conversation).copy()
        self.reports.append(conversation.as_dict())
        seen, delays = conversation.arrivals, conversation.arrivals.latency_ms
        delay = "" if delays["p50"] is None else f"; delay {delays['p50']} ms p50, {delays['p95']} ms p95"
        pictures = f"{conversation.captures.sent} pictures sent, {seen.received} received{delay}"
        self.console.line(f"the call with {printable(conversation.other)} is over: {pictures}")
        for curve in self._curves:
            curve.clear()

    def _tick(self) -> None:
        o, conversation, now = self.options, self.end.conversation, self.log.now()
        if self.end.phone.state == "in call" and self._begun == math.inf:
            self._begun = now
        if conversation:
            if conversation.talk.open and conversation is not self._told:
                self._told = conversation
                self.console.line(TYPED)
            self._measure(conversation)
            if self.recorder:
                self.recorder.write(self._draw(self.recorded, conversation).copy(), now)
            if o.seconds and now > self._begun + o.seconds and self.end.phone.state == "in call":
                self.end.phone.press("hang up")
        if self.window:
            self._show(self.window)

    # The window.

    def _show(self, window: Window) -> None:
        if window.size[::-1] != self.view.shape[:2]:
            self.view.resize(*window.size)
        picture = self._draw(self.view, self.end.conversation)
        key = window.show(picture if self.view.changed else None)
        while window.clicks:
            key = key or self.view.key_at(*window.clicks.popleft())
        self.press("q" if key is None else key)

    def press(self, key: str) -> None:
        """Do what a key stands for."""
        conversation = self.end.conversation
        if key in ("q", "\x1b"):
            self.ended = True
        elif key == "g":
            self.view.grey = self.recorded.grey = not self.view.grey
        elif key == "h" and conversation:
            self.end.phone.press("hang up")
        elif key in ("v", "m") and conversation:
            track = conversation.track if key == "v" else conversation.sound
            if track:
                track.muted = not track.muted
                self.log(self.end.name, "mute" if track.muted else "unmute", track.kind)
        elif key == "s" and conversation:
            path = self.options.snapshot or Path("phone.png")
            try:
                write_picture(path, self._draw(self.view, conversation))
                self.log("window", "snapshot", str(path))
            except CallError as error:  # the call goes on all the same
                self.log("window", "no snapshot", str(error))

    def _measure(self, conversation: Conversation) -> None:
        if (now := self.log.now()) > self._measured + 0.5:
            self._measured = now
            delay, rate = conversation.arrivals.recent
            self._curves[0].append((now, conversation.peer.health.bitrate_kbps))
            if rate:
                self._curves[1].append((now, delay * 1000))

    def _draw(self, view: View, conversation: Conversation | None) -> Picture:
        phone, name = self.end.phone, self.end.name
        keys = {key: words for key, words in KEYS.items() if conversation or key in "gq"}
        text = str(phone)
        if conversation and phone.state in ("idle", "away"):
            text = f"{name}: the call with {conversation.other} is over"
        elif not self.end.line.open:
            text += "   (no server; a call goes on without)"
        message: Words = (text, INK)
        if conversation is None:
            others = ", ".join(phone.people) or "nobody else"
            words = ((f"In the room: {others}", INK), ("The pictures come with a call.", FAINT))
            return view.draw(
                (Side(name, name, None, words), Side("", "")), since=self.log.now(), message=message, keys=keys
            )
        canvas = view.draw(
            (self._my_side(conversation), self._their_side(conversation)),
            since=conversation.began,
            message=message,
            keys=keys,
        )
        for side, level in enumerate(conversation.meter.levels):
            draw_level(canvas, view, side, level)
        return canvas

    def _my_side(self, conversation: Conversation) -> Side:
        peer, track, sound = conversation.peer, conversation.track, conversation.sound
        muted = "   picture muted" * track.muted + "   sound muted" * bool(sound and sound.muted)
        caption = f"{track.source.label[-24:]}   {size_of(track.picture)}{muted}"
        curve = "bit rate {:.0f} kbit/s", tuple(self._curves[0])
        name = self.end.name
        return Side(name, f"{name} sends", track.picture, WAITING, caption, peer.health.layers, *curve)

    def _their_side(self, conversation: Conversation) -> Side:
        name, picture, (delay, rate) = conversation.other, conversation.peer.picture, conversation.arrivals.recent
        caption = f"{size_of(picture)}   {rate:.1f}/s   " + (f"delay {delay * 1000:.1f} ms" if delay else "")
        return Side(name, f"{name} sends", picture, WAITING, caption, (), "delay {:.1f} ms", tuple(self._curves[1]))

    # The terminal.

    def _read_lines(self) -> None:
        loop = asyncio.get_running_loop()

        def read() -> None:
            rest = b""
            with contextlib.suppress(OSError, RuntimeError):  # the terminal has gone; the event loop has ended
                while sys.stdin and (typed := os.read(0, 4096)):  # Python's buffer would be locked at the end
                    *lines, rest = (rest + typed).split(b"\n")
                    for line in lines:
                        loop.call_soon_threadsafe(self.typed, line.decode(errors="replace").strip())

        # A thread: Windows cannot wait for a terminal and for sockets in one event loop. It ends with the process.
        threading.Thread(target=read, name="stdin", daemon=True).start()

    def typed(self, line: str) -> None:
        """Do what a line says: a chat, /file PATH, /bye."""
        command, _, rest = line.partition(" ")
        try:
            if self.end.conversation is None or command == "/bye":
                self.press("h")
            elif command == "/file":
                if self._sending and not self._sending.done():
                    raise CallError("a file is being sent: one after the other")
                self._sending = asyncio.create_task(self._send_file(self.end.conversation, Path(rest.strip())))
            elif line:
                self.end.conversation.talk.chat(line)
        except CallError as error:
            self.console.line(f"not sent: {error}")

    async def _send_file(self, conversation: Conversation, path: Path) -> None:
        try:
            await conversation.talk.send_file(path)
        except CallError as error:
            self.console.line(f"not sent: {error}")

    def report(self) -> dict[str, Any]:
        """Return what --json prints: the measurements of all calls."""
        o, events = self.options, self.log.events
        log = [{"t_ms": round(e.t * 1000, 3), "who": e.who, "what": e.what, "detail": e.detail} for e in events]
        return {"name": o.name, "source": o.source, "codec": o.codec, "calls": [*self.reports], "log": log}


def size_of(picture: Picture | None) -> str:
    return "" if picture is None else f"{picture.shape[1]}x{picture.shape[0]}"

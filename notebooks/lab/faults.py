"""Named, seeded faults: on the wire, for `Tap(call, faults=[...])`; in signalling, for `Call(channels=faulty(...))`.

    with Tap(call, faults=[Loss(0.2, seed=1, layer="SRTP")]) as tap: ...
    call = Call(source, channels=faulty(drop("offer")))

A fault on the wire strikes where datagrams leave a peer, unless it is given `direction="in"`: the tap shows the
datagram at its sender, marked, and not at its receiver. All faults take `layer`, `who`, `direction` and `codec` (of
SRTP: "VP8", "rtx" ...) to strike only some.
"""

import loopback  # first: loopback imports cv2 before aiortc  # isort: skip

import asyncio
import json
import math
import random
from collections.abc import Callable, Iterable

from .check import Mistake, blamed
from .wire import LAYERS, Datagram, Forward, Later

__all__ = [
    *("Cut", "Delay", "Edit", "Hold", "Loss", "Reorder"),
    *("change", "delay", "double", "drop", "faulty", "hold"),
]

# ---- On the wire -----------------------------------------------------------------------------------------------------


class WireFault:
    """What the faults share: which datagrams they strike, and chances that are the same in every run with one seed.

    Each stream of datagrams, that is peer, direction and layer, has chances of its own: whether the tenth SRTP datagram
    of pc1 is lost does not depend on what else was sent meanwhile.
    """

    def __init__(
        self,
        seed: int,
        *,
        layer: str | None = None,
        who: str | None = None,
        direction: str = "out",
        codec: str | None = None,
    ) -> None:
        if layer is not None and layer not in LAYERS:
            raise ValueError(f"no layer {layer!r}: there are {', '.join(LAYERS)}")
        if direction not in ("out", "in"):
            raise ValueError(f"no direction {direction!r}: there are out and in")
        self.seed, self.layer, self.who, self.direction, self.codec = seed, layer, who, direction, codec
        self._chances: dict[str, random.Random] = {}

    def concerns(self, datagram: Datagram) -> bool:
        """Whether this fault may strike that datagram."""
        return (
            self.layer in (None, datagram.layer)
            and self.who in (None, datagram.who)
            and self.codec in (None, datagram.codec)
            and self.direction == datagram.direction
        )

    def chance(self, datagram: Datagram) -> float:
        """Return the next number between 0 and 1 for the stream of that datagram."""
        stream = f"{self.seed} {datagram.who} {datagram.direction} {datagram.layer}"
        return self._chances.setdefault(stream, random.Random(stream)).random()

    def mark(self, datagram: Datagram, *, dropped: bool = False) -> None:
        """Write on the datagram what was done to it."""
        datagram.fault = f"{datagram.fault}, {self}".removeprefix(", ")
        datagram.dropped = datagram.dropped or dropped

    def __str__(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        limits = (
            f"{name}={value}" for name, value in vars(self).items() if not name.startswith("_") and value is not None
        )
        return f"{self}({', '.join(limits)})"


class Loss(WireFault):
    """Lose a part of the datagrams, `rate` between 0 and 1."""

    def __init__(self, rate: float, seed: int = 1, **only: str) -> None:
        super().__init__(seed, **only)
        self.rate = fraction(rate)

    def apply(self, datagram: Datagram, forward: Forward, later: Later) -> None:
        """Let the datagram pass, or not."""
        if self.chance(datagram) < self.rate:
            self.mark(datagram, dropped=True)
        else:
            forward()


class Delay(WireFault):
    """Keep each datagram back for `seconds`, plus up to `jitter` seconds; with jitter they overtake each other."""

    def __init__(self, seconds: float, jitter: float = 0.0, seed: int = 1, **only: str) -> None:
        super().__init__(seed, **only)
        if seconds < 0 or jitter < 0:
            raise ValueError("a datagram cannot arrive before it was sent")
        self.seconds, self.jitter = seconds, jitter

    def apply(self, datagram: Datagram, forward: Forward, later: Later) -> None:
        """Let the datagram pass later."""
        self.mark(datagram)
        later(self.seconds + self.jitter * self.chance(datagram), forward)


class Reorder(WireFault):
    """Let a part of the datagrams, `rate` between 0 and 1, be overtaken by the next one of their stream."""

    PATIENCE = 0.05  # s; when no other comes, the datagram goes on

    def __init__(self, rate: float, seed: int = 1, **only: str) -> None:
        super().__init__(seed, **only)
        self.rate = fraction(rate)
        self._held: dict[tuple[str, str], tuple[Forward, Forward]] = {}

    def apply(self, datagram: Datagram, forward: Forward, later: Later) -> None:
        """Let the datagram pass, and then the one that waits; or let it wait."""
        stream = datagram.who, datagram.layer
        wait = self.chance(datagram) < self.rate
        if overtaken := self._held.pop(stream, None):
            go_on, cancel = overtaken
            cancel()
            forward()
            go_on()
        elif wait:
            self.mark(datagram)
            self._held[stream] = forward, later(self.PATIENCE, lambda: self._alone(stream))
        else:
            forward()

    def _alone(self, stream: tuple[str, str]) -> None:
        forward, _ = self._held.pop(stream)
        forward()


class Cut(WireFault):
    """Let `after` datagrams pass, then none; or, with `count`, not the next so many.

    Given to an open tap it works at once: `tap.faults.append(Cut())`, and `tap.faults.clear()` mends the wire.
    """

    def __init__(self, after: int = 0, count: float = math.inf, **only: str) -> None:
        super().__init__(0, **only)
        self.after, self.count = after, count
        self._passed = 0

    def apply(self, datagram: Datagram, forward: Forward, later: Later) -> None:
        """Let the datagram pass, or not."""
        cut = self.after <= self._passed < self.after + self.count
        self._passed += 1
        if cut:
            self.mark(datagram, dropped=True)
        else:
            forward()


def fraction(rate: float) -> float:
    """Return a rate that is between 0 and 1. Raises ValueError for others: 20 is not 20 %."""
    if not 0 <= rate <= 1:
        raise ValueError(f"a rate of {rate}: it is a fraction, from 0 to 1")
    return rate


# ---- In signalling ---------------------------------------------------------------------------------------------------

Send = Callable[[loopback.Message], None]
Edit = Callable[[loopback.Message, Send], None]  # what becomes of a message; other kinds are sent on


def drop(kind: str) -> Edit:
    """Lose every message of that type."""
    return _edit(kind, lambda message, send: None)


def double(kind: str) -> Edit:
    """Send every message of that type twice."""

    def twice(message: loopback.Message, send: Send) -> None:
        send(message)
        send(message)

    return _edit(kind, twice)


def change(kind: str, function: Callable[[str], str], field: str = "") -> Edit:
    """Change the text in every message of that type: the SDP of an offer or answer, the line of a candidate, or the
    field named."""
    fields = loopback.MESSAGES[_known(kind)]
    name = field or next((name for name in ("sdp", "candidate") if name in fields), "")
    if name not in fields:
        raise ValueError(f"no text {name!r} in the message {kind}: there are {', '.join(fields) or 'none'}")

    def changed(message: loopback.Message, send: Send) -> None:
        try:
            text = function(message[name])
        except Exception as error:
            # Of any kind: the function is a learner's, who is told in one line.
            raise (Mistake(words) if (words := blamed(error, function)) else error) from error
        if not isinstance(text, str):
            raise Mistake(f"your {function.__name__} returned {text!r:.40}, not a text")
        send(message | {name: text})

    return _edit(kind, changed)


def delay(kind: str, seconds: float) -> Edit:
    """Let every message of that type arrive later; others overtake it."""
    return _edit(kind, lambda message, send: _later(seconds, send, message))


class Hold:
    """Keeps every message of that type, until `release()` sends them on in order, and lets all pass from then on."""

    def __init__(self, kind: str) -> None:
        self.kind = _known(kind)
        self.held: list[loopback.Message] = []
        self._send: Send | None = None
        self.released = False

    def __call__(self, message: loopback.Message, send: Send) -> None:
        if message["type"] != self.kind or self.released:
            send(message)
            return
        self.held.append(message)
        self._send = send

    def release(self) -> None:
        """Send on what was held."""
        self.released = True
        while self.held and self._send:
            self._send(self.held.pop(0))

    def __repr__(self) -> str:
        return f"hold({self.kind!r}): {len(self.held)} held{', released' if self.released else ''}"


def hold(kind: str) -> Hold:
    """Keep every message of that type until told otherwise: `offer = hold("offer")`, later `offer.release()`."""
    return Hold(kind)


class FaultyChannel(loopback.MemoryChannel):
    """One end of a channel that changes what its peer sends; `sent` keeps what the peer meant to say."""

    def __init__(self, inbox: asyncio.Queue[str], outbox: asyncio.Queue[str], edits: Iterable[Edit]) -> None:
        super().__init__(inbox, outbox)
        self.edits = list(edits)
        self.sent: list[loopback.Message] = []

    async def send(self, text: str) -> None:
        message = json.loads(text)
        self.sent.append(message)
        self._edited(message, self.edits)

    def _edited(self, message: loopback.Message, edits: list[Edit]) -> None:
        if edits:
            edits[0](message, lambda edited: self._edited(edited, edits[1:]))
        else:
            self.outbox.put_nowait(json.dumps(message))


def faulty(
    edit1: Edit | Iterable[Edit] | None = None, edit2: Edit | Iterable[Edit] | None = None
) -> tuple[FaultyChannel, FaultyChannel]:
    """Return the two ends of a channel: what pc1 says goes through `edit1`, what pc2 says through `edit2`, each one
    edit or several."""
    one, two = loopback.memory_channel()
    edits = [[edit] if callable(edit) else list(edit or ()) for edit in (edit1, edit2)]
    return FaultyChannel(one.inbox, one.outbox, edits[0]), FaultyChannel(two.inbox, two.outbox, edits[1])


def _known(kind: str) -> str:
    if kind not in loopback.MESSAGES:
        raise ValueError(f"no message of type {kind!r}: there are {', '.join(loopback.MESSAGES)}")
    return kind


def _edit(kind: str, edit: Edit) -> Edit:
    _known(kind)
    return lambda message, send: edit(message, send) if message["type"] == kind else send(message)


def _later(seconds: float, send: Send, message: loopback.Message) -> None:
    asyncio.get_running_loop().call_later(seconds, send, message)

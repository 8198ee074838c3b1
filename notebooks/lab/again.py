"""A conversation taken step by step, one cell a step, whose cells can be run twice: lesson 01.

before(call, step)      the call, where it stands before that step; else a new call, taken so far
"""

from __future__ import annotations

from loopback import Call, SyntheticSource

from .check import Mistake

__all__ = ["before"]

# What the log says when a step was taken, where that is not the step's own name.
SAID = {
    "send the offer": "send offer",
    "send the answer": "send answer",
    "send its candidates": "send end-of-candidates",
    "addIceCandidate": "addIceCandidate(null)",
    "connect": "connected",
}


def steps_taken(call: Call) -> list[int]:
    """Return which of its steps a call has taken, by their numbers."""
    said = {(event.who, event.what) for event in call.log.events}
    return [number for number, step in enumerate(call.steps) if (step.who, SAID.get(step.what, step.what)) in said]


def steps_before(call: Call, number: int) -> list[int]:
    """Return which steps come before that one: all above it, and what the other side can send without it."""
    steps, mine = call.steps, call.steps[number].who
    found = list(range(number))
    for later in range(number + 1, len(steps)):
        if steps[later].who != mine:
            if not steps[later].sends:
                break
            found.append(later)
    return found


async def before(call: Call, step: str) -> Call:
    """Return the call, where the step of that name ("createOffer", "pc2 connect") is the one to take now. Else return a
    new call that has come so far, and print so. Raises Mistake where no step has that name."""
    names = [(one.what, f"{one.who} {one.what}") for one in call.steps]
    number = next((number for number, name in enumerate(names) if step in name), None)
    if number is None:
        raise Mistake(f"no step is called {step!r}; there is {', '.join(full for _, full in names)}")
    wanted = steps_before(call, number)
    if not call.closed and {*range(number)} <= {*steps_taken(call)} <= {*wanted}:
        return call
    print(f"a new call: the old one does not stand before {names[number][1]}")
    fresh = Call(SyntheticSource(320, 240, 30))
    try:
        for earlier in wanted:
            await fresh.steps[earlier].run()
    except BaseException:
        await fresh.close()
        raise
    return fresh

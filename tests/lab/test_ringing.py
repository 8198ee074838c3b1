"""Call control driven and drawn, lesson 08's tables, and its answers: notebooks/lab/ringing.py."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import run, unwrapped

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab.check import check, quiz
from lab.ringing import Ringing, drawn, noticed, passed, rows, rows_of, state_chart, ways
from lab.sockets import Noticed, Passed, Relay
from phone.control import CALL_CONTROL


async def events_of(*names: str, acts: Callable[[Ringing], Any]) -> tuple[Ringing, list[loopback.Event]]:
    """Return people after some acts, and what they did since they joined."""
    ring = await Ringing(*names).join()
    for act in acts(ring):
        act()
        await ring.settle()
    return ring, [event for event in ring.log.events if event.t >= ring.began]


def test_a_call_a_busy_line_and_a_bye_are_drawn_with_each_message_from_row_to_row() -> None:
    async def scenario() -> None:
        def acts(ring: Ringing) -> Any:
            yield lambda: ring["Ann"].press("call", "Ben")
            yield lambda: ring["Ben"].press("accept")
            yield lambda: ring["Cem"].press("call", "Ben")
            yield lambda: ring["Ann"].press("hang up")

        ring, events = await events_of("Ann", "Ben", "Cem", acts=acts)
        assert ring.states() == "Ann: idle (hang up); Ben: idle (bye); Cem: idle (busy)"
        found = rows(events)
        sent = [(row.who, row.sends, row.to, found[row.heard].text) for row in found if row.sends and row.heard]
        assert sent == [
            ("Ann", "call", "Ben", "hear call"),
            ("Ben", "ringing", "Ann", "hear ringing"),
            ("Ben", "accept", "Ann", "hear accept"),
            ("Cem", "call", "Ben", "hear another call"),
            ("Ben", "busy", "Cem", "hear busy"),
            ("Ann", "bye", "Ben", "hear bye"),
        ]
        assert len(sent) == sum(bool(row.sends) for row in found)
        drawing = ring.drawing()
        assert len(drawing.moments) == len(found)
        assert drawing.pixels.shape[1] == 980
        assert drawing.pixels.std() > 0

    run(scenario())


def test_crossing_calls_become_one_and_late_words_are_told() -> None:
    async def scenario() -> None:
        def both(ring: Ringing) -> Any:
            yield lambda: (ring["Ann"].press("call", "Ben"), ring["Ben"].press("call", "Ann"))

        ring, _ = await events_of("Ann", "Ben", acts=both)
        assert {phone.state for phone in ring.phones.values()} == {"in call"}
        assert ring["Ann"].call == ring["Ben"].call

        def late(ring: Ringing) -> Any:
            yield lambda: ring["Ann"].press("call", "Ben")
            yield lambda: (ring["Ann"].press("hang up"), ring["Ben"].press("accept"))

        ring, events = await events_of("Ann", "Ben", acts=late)
        found = rows(events)
        heard = {(row.sends, found[row.heard].text) for row in found if row.sends and row.heard is not None}
        assert ("accept", "hear accept of an old call") in heard
        assert ("bye", "refused hear bye of an old call") in heard
        assert [row.bad for row in found if "refused" in row.text] == [True]

    run(scenario())


def test_a_text_of_ones_own_is_passed_on_under_ones_own_name() -> None:
    async def scenario() -> None:
        def acts(ring: Ringing) -> Any:
            yield lambda: ring["Ann"].press("call", "Ben")
            yield lambda: ring.say("Cem", "bye", to="Ann", call="0", **{"from": "Ben"})

        ring, _ = await events_of("Ann", "Ben", "Cem", acts=acts)
        assert ring.room.log.events[-1].detail == "Cem → Ann"
        assert ring["Ann"].state == "calling"

    run(scenario())


def test_a_message_that_nobody_hears_is_drawn_as_lost() -> None:
    event = loopback.Event(0.0, "Ann", "send call", "Ben")
    (row,) = rows([event])
    assert row.heard is None
    assert drawn(("Ann", "Ben"), [event]).pixels.shape[0] > 0


def test_the_chart_has_every_way_of_the_table() -> None:
    told = {(way.start, way.end, what) for way in ways() for what in way.happens}
    assert told == {(state, then, what) for (state, what), (then, _) in CALL_CONTROL.items() if state != then}
    assert state_chart().pixels.shape[1] == 980
    assert len(rows_of("ringing").rows) == sum(state == "ringing" for state, _ in CALL_CONTROL)


def test_the_tables_of_the_server() -> None:
    server = Relay()
    server.passed += [Passed(0, "pc1", "pc2", "offer", 1368), Passed(1, "pc2", "", "bye", 15)]
    assert passed(server).rows == [("pc1", "pc2", "offer", "1.4 kB"), ("pc2", "(nobody was there)", "bye", "15 bytes")]
    table = noticed([Noticed("kill", [("socket", 0.02), ("media", 3.1)])])
    assert table.rows == [("is killed", "-", "first, within 2 s", "-", "after 3 s of silence")]


RIGHT: list[tuple[str, Any]] = [
    ("08 forward", lambda rooms, who: [name for name in rooms if rooms[name] == rooms[who] and name != who]),
    ("08 forward", lambda rooms, who: {name for name in rooms if rooms[name] == rooms[who]} - {who}),
    *(("08 at most", answer) for answer in (45, 45.0, "45", "45.", 25 + 20)),
    ("08 deliver", lambda arrived: [n for n in sorted(arrived) if set(range(1, n)) <= set(arrived)]),
    ("08 deliver", lambda arrived: tuple(n for n in sorted(arrived) if all(k in arrived for k in range(1, n)))),
    ("08 ours", lambda own, other: own < other),
    ("08 ours", lambda own, other: own > other),
    ("08 ours", lambda own, other: int(own == max(own, other))),
    ("08 ours", lambda own, other: [own, other] == sorted([own, other])),
]
WRONG: list[tuple[str, Any, str]] = [
    ("08 forward", lambda rooms, who: [name for name in rooms if name != who], "Ann speaks"),
    ("08 at most", 25, "25 is not it"),
    ("08 deliver", sorted, "[2]: yours [2], expected []"),
    ("08 ours", lambda own, other: True, "both calls count"),
    ("08 ours", lambda own, other: len(own) < len(other), "neither call counts"),
    ("08 ours", lambda own, other: own.no_such_thing, "raised AttributeError"),
    ("08 ours", lambda own, other: ..., "returns nothing yet"),
    ("08 ours", "Ann", "a function is asked for"),
]


@pytest.mark.parametrize(("name", "answer"), RIGHT)
def test_every_right_answer_is_taken(name: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    check(name, answer)
    assert capsys.readouterr().out.startswith("right: ")


@pytest.mark.parametrize(("name", "answer", "told"), WRONG)
def test_a_wrong_answer_is_told_why(name: str, answer: Any, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    check(name, answer)
    said = unwrapped(capsys.readouterr().out)
    assert said.startswith("not yet: ")
    assert told in said
    assert "Look at" in said


def test_the_recap(capsys: pytest.CaptureFixture[str]) -> None:
    quiz("08", "bcabc")
    assert "right: 5 of 5" in capsys.readouterr().out

"""Questions: the right answer is taken, another is not, and what is said of it is said once."""

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import sys
from pathlib import Path
from typing import Any

import pytest
from aiortc.exceptions import InvalidStateError
from conftest import run
from faults import calling

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

import lab
from lab.check import Question, register, register_quiz

register("99 state", "have-local-offer", look="the strip", why="an offer is out")
register("99 count", 2, look="the log")
register("99 port", lambda answer, port: answer == port, look="the candidates")
register_quiz(
    "99",
    Question("Which peer is controlling?", ("pc1 <offers>", "pc2"), "a", "the offering one"),
    Question("Who is DTLS client?", ("pc1", "pc2"), "b", "the answering one"),
)


@pytest.mark.parametrize(
    ("name", "answer", "facts", "said"),
    [
        ("99 state", "have-local-offer", {}, "right: an offer is out\n"),
        ("99 state", " Have-Local-Offer", {}, "right: an offer is out\n"),
        ("99 state", "stable", {}, "not yet: 'stable' is not it. Look at the strip.\n"),
        ("99 state", ..., {}, "not yet: replace the dots by your answer. Look at the strip.\n"),
        ("99 count", 2, {}, "right\n"),
        ("99 count", True, {}, "not yet: True is not it. Look at the log.\n"),
        ("99 port", 4000, {"port": 4000}, "right\n"),
        ("99 port", 4001, {"port": 4000}, "not yet: 4001 is not it. Look at the candidates.\n"),
    ],
)
def test_check_takes_the_right_answer_only(
    name: str, answer: Any, facts: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.check(name, answer, **facts)
    assert capsys.readouterr().out == said


def test_check_refuses_a_name_that_is_not_registered() -> None:
    with pytest.raises(ValueError, match="nothing is called '98 nothing'"):
        lab.check("98 nothing", 1)


def test_the_recap_asks_and_corrects(capsys: pytest.CaptureFixture[str]) -> None:
    lab.quiz("99", ...)
    assert capsys.readouterr().out == "not yet: replace the dots by 2 letters, one for each question.\n"
    lab.quiz("99", "a")
    assert capsys.readouterr().out == "not yet: 2 questions, but 1 letters.\n"
    lab.quiz("99", "bb")
    out = capsys.readouterr().out
    assert "1 b  think again: Which peer is controlling?" in out
    assert out.endswith("not yet: 1 of 2\n")
    lab.quiz("99", "A b")
    assert capsys.readouterr().out.endswith("right: 2 of 2\n")
    with pytest.raises(ValueError, match="none of ab"):
        Question("?", ("x", "y"), "c", "")


def test_a_prediction_stands_beside_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    lab.predict("states", "stable")
    lab.outcome("states", "have-local-offer")
    lab.outcome("states", "Stable")
    lab.predict("open", ...)
    lab.outcome("open", 4)
    assert capsys.readouterr().out.splitlines() == [
        "noted: stable",
        "happened: have-local-offer   predicted: stable   not as predicted",
        "happened: Stable   predicted: stable   as predicted",
        "no prediction yet: replace the dots by your guess",
        "happened: 4   (no prediction)",
    ]


def test_expect_prints_the_real_error_and_nothing_less(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with calling() as call:
            with lab.expect(InvalidStateError) as seen:
                await call.pc1.create_answer()
            assert isinstance(seen.error, InvalidStateError)

    run(scenario())
    assert capsys.readouterr().out == 'InvalidStateError: Cannot create answer in signaling state "stable"\n'
    with (
        pytest.raises(AssertionError, match="nothing was raised, ValueError or KeyError was expected"),
        lab.expect(ValueError, KeyError),
    ):
        pass
    with pytest.raises(KeyError), lab.expect(ValueError):
        raise KeyError("x")

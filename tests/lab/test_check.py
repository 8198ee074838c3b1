"""Questions: the right answer is taken, another is not, and what is said of it is said once."""

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from aiortc.exceptions import InvalidStateError
from conftest import run, unwrapped
from faults import calling

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))

import lab  # noqa: E402 - lies beside the lessons, not installed
from lab.check import (  # noqa: E402
    LETTERS,
    Case,
    Question,
    api_call,
    questions_of,
    register,
    register_quiz,
    same,
    wrapped,
)
from lab.nat import KINDS, Meeting, NatMatrix  # noqa: E402

register("99 state", "have-local-offer", look="the strip", why="an offer is out")
register("99 count", 2, look="the log")
register("99 kind", "restricted cone", look="the table", also=("address-restricted cone",))


def is_port(answer: Any, port: int) -> bool | str:
    if port == []:
        raise TypeError("a bug of the check's, which does not say right")
    return answer == port or (f"yours {answer}, the socket {port}" if answer is None else False)


register("99 port", is_port, look="the candidates")
register_quiz(
    "99",
    Question("Which peer is controlling?", ("pc1 <offers>", "pc2"), "a", "the offering one"),
    Question("Who is DTLS client?", ("pc1", "pc2"), "b", "the answering one", look="Who begins"),
)


def test_what_is_said_is_broken_between_words() -> None:
    text = "not yet: " + "some words of an answer, right " * 6 + "\na second line"
    lines = wrapped(text).splitlines()
    assert max(map(len, lines)) <= LETTERS
    assert unwrapped("\n".join(lines)) == text.replace("right \n", "right\n")
    assert not any(line.startswith("right") for line in lines)  # it would be taken for the verdict


@pytest.mark.parametrize(
    ("name", "answer", "facts", "said"),
    [
        ("99 state", "have-local-offer", {}, "right: an offer is out\n"),
        ("99 state", " Have-Local-Offer", {}, "right: an offer is out\n"),
        ("99 state", "stable", {}, "not yet: 'stable' is not it. Look at the strip.\n"),
        ("99 state", ..., {}, "not yet: replace the dots by your answer. Look at the strip.\n"),
        ("99 count", 2, {}, "right\n"),
        ("99 count", "2", {}, "right\n"),
        ("99 count", "two", {}, "right\n"),
        ("99 count", np.int64(2), {}, "right\n"),
        ("99 count", True, {}, "not yet: True is not it: a number is asked for. Look at the log.\n"),
        ("99 count", "2 kbit/s", {}, "not yet: '2 kbit/s' is not it: a number is asked for. Look at the log.\n"),
        ("99 port", 4000, {"port": 4000}, "right\n"),
        ("99 port", "4000", {"port": 4000}, "right\n"),
        ("99 port", np.int32(4000), {"port": 4000}, "right\n"),
        ("99 port", 4001, {"port": 4000}, "not yet: 4001 is not it. Look at the candidates.\n"),
        ("99 port", None, {"port": 4000}, "not yet: yours None, the socket 4000. Look at the candidates.\n"),
        ("99 port", "x", {"port": []}, "not yet: 'x' cannot be it (TypeError). Look at the candidates.\n"),
        ("99 kind", "address-restricted cone", {}, "right\n"),
        ("99 kind", "Restricted-Cone", {}, "right\n"),
        ("99 kind", "port-restricted cone", {}, "not yet: 'port-restricted cone' is not it. Look at the table.\n"),
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


@pytest.mark.parametrize("answers", [["a", ...], [..., ...], 5, [1, 2]])
def test_a_recap_half_filled_in_is_one_line(answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    lab.quiz("99", answers)
    assert capsys.readouterr().out == "not yet: replace the dots by 2 letters, one for each question.\n"


def test_a_wrong_answer_of_a_recap_says_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    lab.quiz("99", ["a", "a"])
    assert 'think again: Who is DTLS client? Look under "Who begins".\n' in capsys.readouterr().out


# ---- In the words a person would use ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "answers"),
    [
        ("have-local-offer", ["have local offer", "HAVE_LOCAL_OFFER", "'have-local-offer'", "have-local-offer."]),
        ("H264", ["h.264", "H264/90000"]),
        ("server", ["the server", "Server"]),
        ("bfecad", ["BFECAD", "b f e c a d", "b, f, e, c, a, d", list("bfecad"), tuple("bfecad")]),
        ("stable, closed", ["stable closed", ("stable", "closed"), ["stable", "closed"]]),
        ("yes", [True, 1, np.bool_(True), "Yes", "true"]),
        ("no", [False, 0, np.False_, "no."]),
        (True, [1, np.bool_(True), "yes", "True"]),
        (False, [0, np.False_, "no"]),
        (2130569471, ["2130569471", " 2130569471 ", "2,130,569,471", 2130569471.0, np.int64(2130569471)]),
        (6, [6.0, "6", "six", np.float32(6)]),
        (("192.0.2.1", 32853), [["192.0.2.1", "32853"], "192.0.2.1:32853", "192.0.2.1 32853", "('192.0.2.1', 32853)"]),
        ((True, False), [[1, 0], ("yes", "no"), np.array([True, False])]),
        ({"msid", "ssrc"}, [["ssrc", "msid"], ("msid", "ssrc"), "ssrc, msid", {"MSID", "ssrc"}, "msid ssrc"]),
        ([{"type": "offer"}], [({"type": "offer"},)]),
        ({96: "VP8"}, [{"96": "vp8"}]),
    ],
)
def test_the_same_in_other_words_is_the_same(right: Any, answers: list[Any]) -> None:
    for answer in [right, *answers]:
        assert same(answer, right), answer


@pytest.mark.parametrize(
    ("right", "answers"),
    [
        ("have-local-offer", ["have-remote-offer", "have-local-pranswer", "", None, 5, "offer"]),
        ("VP8", ["VP9", "VP", "V P 8 9"]),
        ("no picture", ["yes", "picture", 3, "x"]),
        ("yes", ["no", 0, 2, "perhaps", None]),
        (True, [0, "no", 2, None, "right"]),
        (1, [True, "yes", "11", None, [1]]),
        (12, ["1 2", "1, 2", [1, 2]]),
        ((1, 2), ["12", (2, 1), (1,), 12]),
        ({"msid", "ssrc"}, [["msid"], ["msid", "msid"], "msid ssrc cname"]),
        (("stable", "closed"), [("closed", "stable"), "closed stable"]),
        ({96: "VP8"}, [{96: "VP9"}, {97: "VP8"}, [96, "VP8"]]),
    ],
)
def test_another_answer_is_another(right: Any, answers: list[Any]) -> None:
    for answer in answers:
        assert not same(answer, right), answer


@pytest.mark.parametrize(
    "answer",
    [
        *("setRemoteDescription", "pc2 setRemoteDescription(offer)", "pc2.setRemoteDescription"),
        *("pc.setRemoteDescription()", "await pc2.setRemoteDescription(offer)", " SetRemoteDescription "),
    ],
)
def test_an_api_call_is_taken_as_a_person_writes_it(answer: str) -> None:
    assert api_call("setRemoteDescription")(answer)
    assert not api_call("setLocalDescription")(answer)


# Each row of what a review found refused, at the lessons' own answers.
@pytest.mark.parametrize(
    ("name", "answers"),
    [
        (
            "00 leaves stable",
            ["pc2 setRemoteDescription(offer)", "pc2.setRemoteDescription", "pc.setRemoteDescription()"],
        ),
        ("04 unknown", ["address-restricted cone", "restricted-cone", "restricted cone"]),
        ("04 xor", [["192.0.2.1", 32853], ("192.0.2.1", "32853"), "192.0.2.1:32853"]),
        ("04 relayed bits", ["6", "six", 6.0]),
        ("02 stranger 1", ["1"]),
        ("02 stranger 3", ["VP8/90000", "vp8"]),
        ("02 stranger 4", ["104"]),
        ("03 priority", ["2130569471"]),
        ("02 idle", [["msid", "ssrc", "ssrc-group"], "msid, ssrc, ssrc-group"]),
    ],
)
def test_what_a_review_found_refused_is_taken(
    name: str, answers: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for answer in answers:
        lab.check(name, answer)
        assert capsys.readouterr().out.startswith("right"), answer


def test_a_function_may_return_a_tuple_for_a_list_and_one_for_true(capsys: pytest.CaptureFixture[str]) -> None:
    descriptions = ("offer", "answer")
    lab.check("03 order", lambda arrived: tuple(sorted(arrived, key=lambda one: one["type"] not in descriptions)))
    assert capsys.readouterr().out.startswith("right")


@pytest.mark.parametrize("yes_no", [bool, int, np.bool_, lambda found: "yes" if found else "no"])
def test_a_function_may_say_yes_and_no_in_its_own_way(yes_no: Any, capsys: pytest.CaptureFixture[str]) -> None:
    types = {False: ("srflx", "srflx"), True: ("none", "none")}
    meetings = [Meeting((one, other), types["symmetric" in (one, other)], 0.1) for one in KINDS for other in KINDS]
    symmetric = KINDS["symmetric"]
    lab.check("04 survives", lambda one, other: yes_no(symmetric not in (one, other)), matrix=NatMatrix(meetings))
    lab.check("05 caught", lambda call: yes_no(call == "with Mallory"), tapped="with Mallory", honest="honest")
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["right", "right"]


# ---- A learner's function --------------------------------------------------------------------------------------------

CASES = [
    Case((polite, kind), "take" if polite else "ignore") for polite in (True, False) for kind in ("offer", "answer")
]
register("99 decide", cases=CASES, look="the table", why="in all four")
register("99 flags", cases=lambda flag: [Case(([flag],), flag, "the list"), Case(([False],), False)], look="the list")


def raises(polite: bool, kind: str) -> str:
    rows = {"offer": "take"}
    return rows[kind]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda polite, kind: "take" if polite else "ignore", "right: in all four"),
        (
            lambda polite, kind: "take",
            "not yet: 2 of 4; (False, 'offer'): yours 'take', expected 'ignore'. Look at the table.",
        ),
        (lambda polite, kind: ..., "not yet: replace the dots by your answer. Look at the table."),
        (5, "not yet: a function is asked for, 5 is none. Look at the table."),
    ],
)
def test_the_case_that_failed_is_told_with_both_results(
    function: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.check("99 decide", function)
    assert unwrapped(capsys.readouterr().out) == f"{said}\n"


def test_an_error_in_a_learners_function_is_shown_as_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    line = raises.__code__.co_firstlineno + 2
    lab.check("99 decide", raises)
    said = unwrapped(capsys.readouterr().out)
    assert said.startswith("not yet: 1 of 4; (True, 'answer'): your raises raised KeyError: 'answer', ")
    assert said.endswith(f"in line {line} of its cell: return rows[kind]. Look at the table.\n")
    lab.check("99 decide", lambda: 1)
    assert "takes 0 positional arguments but 2 were given, in line" in capsys.readouterr().out
    register("99 predicate", lambda function: function(True, "answer") == "take", look="it")
    lab.check("99 predicate", raises)
    assert capsys.readouterr().out.startswith("not yet: your raises raised KeyError: 'answer', in line")


def test_cases_may_need_facts_and_a_function_cannot_spoil_them(capsys: pytest.CaptureFixture[str]) -> None:
    lab.check("99 flags", lambda found: found.pop(), flag=True)
    lab.check("99 flags", lambda found: not found.pop(), flag=True)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "right"
    assert second == "not yet: 0 of 2; the list: yours False, expected True. Look at the list."
    register("99 pop", cases=[Case(([5],), 5)], look="it")
    for _ in range(2):
        lab.check("99 pop", lambda found: found.pop())
        assert capsys.readouterr().out == "right\n"


# ---- The lessons -----------------------------------------------------------------------------------------------------


def test_predict_refuses_a_name_that_no_outcome_has() -> None:
    with pytest.raises(ValueError, match=r"no prediction is called '00 pixles'; this lesson has .*00 pixels"):
        lab.predict("00 pixles", "no")


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_each_question_of_a_recap_names_a_heading_of_its_lesson(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    headings = {line.lstrip("# ") for cell in cells for line in cell.source.splitlines() if line.startswith("##")}
    lesson = path.stem[:2]
    lost = [one.text for one in questions_of(lesson) if one.look not in headings]
    assert lost == []


def test_where_the_machine_was_too_busy_there_is_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    class Clock:
        steady = False

        def __str__(self) -> str:
            return "this machine is too busy"

    lab.predict("99 late", 5)
    lab.outcome("99 late", 5, Clock())
    lab.check("99 count", 2, clock=Clock())
    assert capsys.readouterr().out.splitlines()[1:] == [
        "happened: 5   no verdict: this machine is too busy",
        "no verdict: this machine is too busy",
    ]


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

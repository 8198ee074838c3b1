"""Questions and their answers: predictions, exercises, recaps, and errors that are expected.

The right answers of a lesson are registered by the module `lab.answers.lesson_NN`, which is imported the first time a
name that begins with `NN` is asked for:

    from lab.check import Case, Question, api_call, register, register_quiz

    register("01 state", right="have-local-offer", look="the strip after setLocalDescription", why="an offer is out")
    register("01 call", right=api_call("setRemoteDescription"), look="the first blue box at pc2")
    register("01 ports", right=lambda answer, call: answer == len(call.pc2.remote_candidates), look="pc1's candidates")
    register("01 polite", cases=[Case((True, "stable", "offer"), "take")], look="the table")
    register_quiz("01", Question("Who is controlling?", ("pc1", "pc2"), "a", "the offering one", look="Who leads"))
"""

from __future__ import annotations

import copy
import functools
import html
import importlib
import importlib.util
import linecache
import math
import re
import reprlib
import textwrap
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from IPython.display import HTML, display

from .draw import Cell, table

LESSONS = Path(__file__).resolve().parents[1]
OURS = __name__.partition(".")[0]


class Mistake(ValueError):  # noqa: N818  it is a learner's, and shown to one
    """A mistake of the learner's, in one line that says where. A cell shows it without a traceback."""


# ---- Whether two answers are the same --------------------------------------------------------------------------------

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
TRUTHS = {"yes": True, "true": True, "no": False, "false": False}


def same(answer: Any, right: Any) -> bool:
    """Whether an answer means the same as the right one: in the words a person would use, list or tuple, number or
    text. A set as the right answer wants its members in any order."""
    answer, right = plain(answer), plain(right)
    if isinstance(right, bool):
        return truth(answer) is right
    if isinstance(right, int | float):
        given = number(answer)
        return given is not None and math.isclose(given, right, rel_tol=1e-9)
    if isinstance(right, str):
        if (wanted := number(right)) is not None:
            return number(answer) == wanted
        return spelled(answer, right) or (truth(right) is not None and truth(answer) is truth(right))
    if isinstance(right, AbstractSet):
        given = members(answer)
        return len(given) == len(right) and all(any(same(one, other) for one in given) for other in right)
    if isinstance(right, list | tuple):
        if isinstance(answer, str):
            return spelled(answer, " ".join(map(str, right)))
        given = members(answer)
        return len(given) == len(right) and all(map(same, given, right))
    if isinstance(right, dict):
        return isinstance(answer, dict) and same(sorted(answer.items(), key=str), sorted(right.items(), key=str))
    return bool(answer == right)


def plain(value: Any) -> Any:
    """Return numpy's values as Python's own."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def readings(answer: Any) -> list[Any]:
    """Return what an answer may mean to a function that says whether it is right: itself, and the number in a text."""
    read = [plain(answer)]
    if isinstance(answer, str) and (found := number(answer)) is not None:
        read.append(int(found) if found == int(found) else found)
    return read


def truth(answer: Any) -> bool | None:
    """Return the yes or no in an answer, None where there is neither."""
    if isinstance(answer, str):
        return TRUTHS.get(answer.strip(" .!\"'").casefold(), {"1": True, "0": False}.get(answer.strip()))
    return bool(answer) if isinstance(answer, bool | int | float) and answer in (0, 1) else None


def number(answer: Any) -> float | None:
    """Return the number in an answer, None where there is none. A yes to the question "how many" is none."""
    if isinstance(answer, str):
        text = answer.strip(" .\"'").casefold()
        text = text.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+", text) else text
        if text in NUMBERS:
            return NUMBERS.index(text)
        return float(text) if re.fullmatch(r"[-+]?\d+(\.\d+)?", text) else None
    return answer if isinstance(answer, int | float) and not isinstance(answer, bool) else None


def words(text: str) -> list[str]:
    """Return the words of a text, without what stands between them: "Have-Local-Offer" has three, "H.264" one."""
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", "", text.casefold())
    return [word for word in re.split(r"[\s,;:_\-\"'()\[\]{}]+", text) if word and word != "the"] or [""]


def spelled(answer: Any, right: str) -> bool:
    """Whether an answer, a text or several, has the same words; where there are no digits, spaces do not matter. The
    clock rate behind a codec ("VP8/90000") is no part of its name."""
    text = " ".join(map(str, members(answer)))
    given, wanted = words(text if "/" in right else re.sub(r"(/\d+)+$", "", text)), words(right)
    return given == wanted or ("".join(given) == "".join(wanted) and not re.search(r"\d", right))


def members(answer: Any) -> list[Any]:
    """Return what is in an answer of several things; a text is cut at its commas and spaces."""
    if isinstance(answer, str):
        return [word for word in re.split(r"[\s,;]+", answer.strip(" ()[]{}")) if word]
    return list(answer) if isinstance(answer, Iterable) else [answer]


def api_call(name: str) -> Callable[..., bool]:
    """Return what says whether an answer is that call, with or without object and brackets:
    "pc2.setRemoteDescription(offer)"."""

    def is_it(answer: Any, **facts: Any) -> bool:
        text = answer if isinstance(answer, str) else getattr(answer, "__name__", "")
        return re.sub(r"^(await\s+)?\w+[.\s]+(?=\w)|\(.*$|\s", "", text.strip()).casefold() == name.casefold()

    return is_it


# ---- Registering -----------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """One call of a learner's function: its arguments, what it has to return, and words for the arguments."""

    arguments: tuple[Any, ...]
    expected: Any
    name: str = ""

    def __str__(self) -> str:
        return self.name or _short(self.arguments)


Cases = Iterable[Case] | Callable[..., Iterable[Case]]


@dataclass(frozen=True)
class Expected:
    """The right answer of an exercise: a value, or several, or a function that is given the answer (and facts) and
    returns whether it is right or, as a text, what is wrong with it; or cases for a learner's function."""

    right: Any
    also: tuple[Any, ...]
    cases: Cases | None
    look: str  # where to look when the answer is not right
    why: str  # said when it is

    def fault(self, answer: Any, facts: dict[str, Any]) -> str | None:
        """Return what is wrong with an answer, None when it is right."""
        if self.cases is not None:
            return _fault_in_cases(answer, self.cases(**facts) if callable(self.cases) else self.cases)
        shown = getattr(answer, "__name__", _short(answer))  # a function by its name, not by where it lies
        if not callable(self.right):
            if any(same(answer, right) for right in (self.right, *self.also)):
                return None
            more = ": a number is asked for" if _is_number(self.right) and number(plain(answer)) is None else ""
            return f"{shown} is not it{more}"
        try:
            verdicts = [self.right(reading, **facts) for reading in readings(answer)]
        except Exception as error:  # noqa: BLE001  of any kind: the answer may be a learner's function
            return blamed(error, answer) or f"{shown} cannot be it ({type(error).__name__})"
        if any(verdict and not isinstance(verdict, str) for verdict in verdicts):
            return None
        return next((verdict for verdict in verdicts if isinstance(verdict, str)), f"{shown} is not it")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    limits = reprlib.Repr()
    limits.maxstring = limits.maxother = 60
    limits.maxtuple = limits.maxlist = 8
    return limits.repr(plain(value))


@dataclass(frozen=True)
class Question:
    """A question of a recap: its options are called a, b, c, ..."""

    text: str
    options: tuple[str, ...]
    right: str
    why: str
    look: str = ""  # the lesson's heading under which the answer is

    def __post_init__(self) -> None:
        if self.right not in self.letters:
            raise ValueError(f"{self.text}: the right answer {self.right!r} is none of {self.letters}")

    @property
    def letters(self) -> str:
        """The names of the options, in order."""
        return "abcdefgh"[: len(self.options)]


_expected: dict[str, Expected] = {}
_quizzes: dict[str, tuple[Question, ...]] = {}
_predictions: dict[str, Any] = {}
_mistakes: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # in learners' functions, noted where they ran


def register(
    name: str,
    right: Any = None,
    look: str = "",
    why: str = "",
    *,
    also: tuple[Any, ...] = (),
    cases: Cases | None = None,
) -> None:
    """Give an exercise its right answer, or the cases of a function. The name begins with the lesson's two digits.
    `also` are other words for it."""
    _expected[name] = Expected(right, also, cases, look, why)


def register_quiz(lesson: str, *questions: Question) -> None:
    """Give a lesson its recap."""
    _quizzes[lesson] = questions


def questions_of(lesson: str) -> tuple[Question, ...]:
    """Return the questions of a lesson's recap. Raises Mistake where there is none."""
    found: tuple[Question, ...] = _find(_quizzes, lesson)
    return found


def _find(known: dict[str, Any], name: str) -> Any:
    if name not in known:
        module = f"{__package__}.answers.lesson_{name[:2]}"
        if importlib.util.find_spec(f"{__package__}.answers") and importlib.util.find_spec(module):
            importlib.import_module(module)
    if name not in known:
        raise Mistake(f"nothing is called {name!r}; there is {', '.join(sorted(known)) or 'nothing yet'}")
    return known[name]


# ---- A learner's function --------------------------------------------------------------------------------------------


def blamed(error: BaseException, function: Any) -> str:
    """Return in one line where a learner's function raised, "" where the error is none of its, or the function ours."""
    function = function.func if isinstance(function, functools.partial) else function
    code = getattr(function, "__code__", None)
    if code is None or function.__module__.partition(".")[0] == OURS:
        return ""
    line = 0
    step = error.__traceback__
    while step:
        if step.tb_frame.f_code.co_filename == code.co_filename:
            line = step.tb_lineno
        step = step.tb_next
    wrong_call = isinstance(error, TypeError) and str(error).startswith(f"{function.__qualname__}()")
    if not line and not wrong_call:
        return ""
    line = line or code.co_firstlineno
    source = linecache.getline(code.co_filename, line).strip()
    return f"your {function.__name__} raised {type(error).__name__}: {error}, in line {line} of its cell: {source}"


def note_mistake(function: Any, words: str) -> None:
    """Keep the first mistake that a learner's function has made where check() cannot see it."""
    _mistakes.setdefault(function, words)


def _fault_in_cases(function: Any, cases: Iterable[Case]) -> str | None:
    if not callable(function):
        return f"a function is asked for, {_short(function)} is none"
    faults = []
    cases = list(cases)
    for case in cases:
        arguments = [copy.copy(one) if isinstance(one, list | dict | set) else one for one in case.arguments]
        try:
            result = function(*arguments)
        except Exception as error:  # noqa: BLE001  of any kind: the function is a learner's
            faults.append(f"{case}: {blamed(error, function) or f'it raised {type(error).__name__}: {error}'}")
        else:
            if unanswered(result):
                return "replace the dots by your answer"
            if not same(result, case.expected):
                faults.append(f"{case}: yours {_short(result)}, expected {_short(case.expected)}")
    return f"{len(cases) - len(faults)} of {len(cases)}; {faults[0]}" if faults else None


def unanswered(answer: Any) -> bool:
    """Whether there are dots in an answer."""
    return answer is ... or (isinstance(answer, list | tuple | set) and any(one is ... for one in answer))


# ---- What a lesson calls ---------------------------------------------------------------------------------------------


class Clock(Protocol):
    """What says whether a measurement can be right: `lab.bench.steady`."""

    @property
    def steady(self) -> bool: ...


LETTERS = 84  # in a line: what stands beside JupyterLab's list of files on a screen of 1280 pixels; it breaks words


def wrapped(text: str) -> str:
    """Return a text in lines that JupyterLab need not break; those that go on are indented."""
    options = {"subsequent_indent": "    ", "break_long_words": False, "break_on_hyphens": False}
    return "\n".join(textwrap.fill(line, LETTERS, **options) for line in text.splitlines())  # type: ignore[arg-type]


def say(text: str) -> None:
    """Print a text for the learner."""
    print(wrapped(text))


def check(name: str, answer: Any, *, clock: Clock | None = None, **facts: Any) -> None:
    """Print whether an answer is right: "right: why", or "not yet: what is wrong, where to look". `facts` are what a
    registered function needs beside the answer, such as the call. No verdict where `clock` was not steady."""
    expected: Expected = _find(_expected, name)
    if unanswered(answer):
        say(f"not yet: replace the dots by your answer. Look at {expected.look}.")
    elif clock is not None and not clock.steady:
        say(f"no verdict: {clock}")
    else:
        mistake = _mistakes.pop(answer, None) if callable(answer) else None
        fault = mistake or expected.fault(answer, facts)
        if fault:
            say(f"not yet: {fault.rstrip('.')}. Look at {expected.look}.")
        else:
            say(f"right: {expected.why}" if expected.why else "right")


def quiz(lesson: str, answers: str | Iterable[Any] | EllipsisType | None = None) -> None:
    """Without answers, show the questions of a lesson's recap. With one letter a question, as in "abcab", say of each
    whether it is right, and why."""
    questions = questions_of(lesson)
    if answers is None:
        display(_questions(questions))
        return
    given = answers if isinstance(answers, str) else [*answers] if isinstance(answers, Iterable) else [answers]
    if unanswered(given) or not all(isinstance(letter, str) for letter in given):
        say(f"not yet: replace the dots by {len(questions)} letters, one for each question.")
        return
    letters = [letter for text in given for letter in text.lower() if letter.isalnum()]
    if len(letters) != len(questions):
        say(f"not yet: {len(questions)} questions, but {len(letters)} letters.")
        return
    right = [letter == question.right for letter, question in zip(letters, questions, strict=True)]
    for place, (question, letter, good) in enumerate(zip(questions, letters, right, strict=True), 1):
        where = f' Look under "{question.look}".' if question.look else ""
        say(f"{place} {letter}  {question.why if good else f'think again: {question.text}{where}'}")
    say(f"{'right' if all(right) else 'not yet'}: {sum(right)} of {len(right)}")


def _questions(questions: tuple[Question, ...]) -> HTML:
    rows = [[Cell("", head=True, wide="4%"), Cell("question", head=True, wide="46%"), Cell("answers", head=True)]]
    for number, question in enumerate(questions, 1):
        options = zip(question.letters, question.options, strict=True)
        lines = "<br>".join(f"<b>{letter}</b> {html.escape(option)}" for letter, option in options)
        rows.append([Cell(str(number), head=True), Cell(html.escape(question.text)), Cell(lines)])
    return table(rows)


def predict(name: str, answer: Any) -> None:
    """Note what you expect, before it is run. Raises Mistake for a name under which the lesson has no outcome."""
    known = outcomes(name[:2])
    if known and name not in known:
        raise Mistake(f"no prediction is called {name!r}; this lesson has {', '.join(sorted(known))}")
    _predictions[name] = answer
    say("no prediction yet: replace the dots by your guess" if unanswered(answer) else f"noted: {answer}")


@functools.cache
def outcomes(lesson: str) -> frozenset[str]:
    """Return the names of the outcomes in the lesson with those two digits."""
    texts = [path.read_text(encoding="utf-8") for path in LESSONS.glob(f"{lesson}_*.ipynb")]
    return frozenset(name for text in texts for name in re.findall(r"outcome\(\\*[\"']([^\"'\\]+)", text))


def outcome(name: str, value: Any, clock: Clock | None = None) -> None:
    """Print what happened beside what was predicted under the same name; no verdict where `clock` was not steady."""
    guess = _predictions.get(name, ...)
    if clock is not None and not clock.steady:
        say(f"happened: {value}   no verdict: {clock}")
    elif unanswered(guess):
        say(f"happened: {value}   (no prediction)")
    else:
        verdict = "as predicted" if same(guess, value) else "not as predicted"
        say(f"happened: {value}   predicted: {guess}   {verdict}")


class expect:  # noqa: N801  it reads as a statement: `with expect(InvalidStateError):`
    """Run lines that must raise one of these errors; print the error, go on. Afterwards it is in `.error`.

    An error of another type passes through; AssertionError says that nothing was raised.
    """

    def __init__(self, *errors: type[BaseException]) -> None:
        if not errors:
            raise TypeError("which error? expect(InvalidStateError)")
        self.errors = errors
        self.error: BaseException | None = None

    def __enter__(self) -> expect:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None:
            names = " or ".join(error.__name__ for error in self.errors)
            raise AssertionError(f"nothing was raised, {names} was expected")
        if not isinstance(error, self.errors):
            return False
        self.error = error
        say(f"{type(error).__name__}: {error}")
        return True


__all__ = ["check", "expect", "outcome", "predict", "quiz"]

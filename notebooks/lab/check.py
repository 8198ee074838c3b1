"""Questions and their answers: predictions, exercises, recaps, and errors that are expected.

The right answers of a lesson are registered by the module `lab.answers.lesson_NN`, which is imported the first time a
name that begins with `NN` is asked for:

    from lab.check import Question, register, register_quiz

    register("01 states", right="have-local-offer", look="the strip after setLocalDescription", why="an offer is out")
    register("01 ports", right=lambda answer, call: answer == len(call.pc2.remote_candidates), look="pc1's candidates")
    register_quiz("01", Question("Which peer is controlling?", ("pc1", "pc2"), "a", "the offering one, RFC 8445 6.1.1"))
"""

from __future__ import annotations

import html
import importlib
import importlib.util
from dataclasses import dataclass
from types import EllipsisType, TracebackType
from typing import Any

from IPython.display import HTML, display

from .draw import Cell, table


@dataclass(frozen=True)
class Expected:
    """The right answer of an exercise: a value, or a function that is given the answer (and facts) and says yes."""

    right: Any
    look: str  # where to look when the answer is not right
    why: str  # said when it is

    def accepts(self, answer: Any, facts: dict[str, Any]) -> bool:
        """Whether an answer is right."""
        if callable(self.right):
            return bool(self.right(answer, **facts))
        if isinstance(answer, str) and isinstance(self.right, str):
            return answer.strip().casefold() == self.right.casefold()
        # True == 1: a yes to the question "how many" is no answer.
        return bool(answer == self.right) and isinstance(answer, bool) == isinstance(self.right, bool)


@dataclass(frozen=True)
class Question:
    """A question of a recap: its options are called a, b, c, ..."""

    text: str
    options: tuple[str, ...]
    right: str
    why: str

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


def register(name: str, right: Any, look: str, why: str = "") -> None:
    """Give an exercise its right answer. The name begins with the lesson's two digits."""
    _expected[name] = Expected(right, look, why)


def register_quiz(lesson: str, *questions: Question) -> None:
    """Give a lesson its recap."""
    _quizzes[lesson] = questions


def _find(known: dict[str, Any], name: str) -> Any:
    if name not in known:
        module = f"{__package__}.answers.lesson_{name[:2]}"
        if importlib.util.find_spec(f"{__package__}.answers") and importlib.util.find_spec(module):
            importlib.import_module(module)
    if name not in known:
        raise ValueError(f"nothing is called {name!r}; there is {', '.join(sorted(known)) or 'nothing yet'}")
    return known[name]


def check(name: str, answer: Any, **facts: Any) -> None:
    """Print whether an answer is right: "right: why", or "not yet: where to look". `facts` are what a registered
    function needs beside the answer, such as the call."""
    expected: Expected = _find(_expected, name)
    if answer is ...:
        print(f"not yet: replace the dots by your answer. Look at {expected.look}.")
    elif expected.accepts(answer, facts):
        print(f"right: {expected.why}" if expected.why else "right")
    else:
        shown = getattr(answer, "__name__", repr(answer)[:60])  # a function by its name, not by where it lies
        print(f"not yet: {shown} is not it. Look at {expected.look}.")


def quiz(lesson: str, answers: str | EllipsisType | None = None) -> None:
    """Without answers, show the questions of a lesson's recap. With one letter a question, as in "abcab", say of each
    whether it is right, and why."""
    questions: tuple[Question, ...] = _find(_quizzes, lesson)
    if answers is None:
        display(_questions(questions))
        return
    if answers is ...:
        print(f"not yet: replace the dots by {len(questions)} letters, one for each question.")
        return
    given = "".join(letter for letter in answers.lower() if letter.isalnum())
    if len(given) != len(questions):
        print(f"not yet: {len(questions)} questions, but {len(given)} letters.")
        return
    right = [letter == question.right for letter, question in zip(given, questions, strict=True)]
    for number, (question, letter, good) in enumerate(zip(questions, given, right, strict=True), 1):
        print(f"{number} {letter}  {question.why}" if good else f"{number} {letter}  think again: {question.text}")
    print(f"{'right' if all(right) else 'not yet'}: {sum(right)} of {len(right)}")


def _questions(questions: tuple[Question, ...]) -> HTML:
    rows = [[Cell("", head=True, wide="4%"), Cell("question", head=True, wide="46%"), Cell("answers", head=True)]]
    for number, question in enumerate(questions, 1):
        options = zip(question.letters, question.options, strict=True)
        lines = "<br>".join(f"<b>{letter}</b> {html.escape(option)}" for letter, option in options)
        rows.append([Cell(str(number), head=True), Cell(html.escape(question.text)), Cell(lines)])
    return table(rows)


def predict(name: str, answer: Any) -> None:
    """Note what you expect, before it is run."""
    _predictions[name] = answer
    print("no prediction yet: replace the dots by your guess" if answer is ... else f"noted: {answer}")


def outcome(name: str, value: Any) -> None:
    """Print what happened beside what was predicted under the same name."""
    guess = _predictions.get(name, ...)
    if guess is ...:
        print(f"happened: {value}   (no prediction)")
    else:
        same = guess.strip().casefold() == value.casefold() if _texts(guess, value) else guess == value
        print(f"happened: {value}   predicted: {guess}   {'as predicted' if same else 'not as predicted'}")


def _texts(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


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
        print(f"{type(error).__name__}: {error}")
        return True


__all__ = ["check", "expect", "outcome", "predict", "quiz"]

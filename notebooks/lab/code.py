"""Code in a lesson: always taken from the object itself, so it cannot be another than the one that runs."""

from __future__ import annotations

import ast
import functools
import html
import inspect
import textwrap
from typing import Any

from IPython.display import HTML
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import JavascriptLexer, PythonLexer
from pygments.style import Style
from pygments.token import Comment, Keyword, Name, Number, Operator, String

from .draw import HUES, SOFT, Cell, table

GROUND = "rgba(127,127,127,.1)"  # the page shows through


class BothThemes(Style):  # type: ignore[misc]
    """Colours that read on a bright page and on a dark one; what has none has the page's."""

    background_color = ""
    styles = {  # noqa: RUF012  pygments reads it from the class
        Comment: f"italic {SOFT}",
        Keyword: f"bold {HUES['message']}",
        Operator.Word: f"bold {HUES['message']}",
        Name.Function: HUES["DTLS"],
        Name.Class: HUES["DTLS"],
        String: HUES["SRTP"],
        Number: HUES["STUN"],
    }


def unwrapped(subject: Any) -> Any:
    """Return the function or class that a step, a partial, a bound method or a property stands for."""
    subject = getattr(subject, "run", subject) if type(subject).__name__ == "Step" else subject
    subject = subject.fget if isinstance(subject, property) else subject
    subject = subject.func if isinstance(subject, functools.partial) else subject
    return inspect.unwrap(subject)


def coloured(source: str, lexer: Any) -> str:
    """Return source as HTML, its colours given inline."""
    formatter = HtmlFormatter(noclasses=True, nowrap=True, style=BothThemes)
    style = (
        f"margin:0;padding:6px 10px;background:{GROUND};font-size:13px;line-height:1.4;"
        "white-space:pre-wrap;overflow-wrap:break-word;word-break:normal"  # JupyterLab would break inside words
    )
    page = highlight(source, lexer, formatter).rstrip()
    return f'<pre style="{style}">{page.replace(">.</span>", ">.</span><wbr>")}</pre>'  # a long line breaks at a dot


class Listing:
    """The source of a function or a class; a notebook shows it coloured, a terminal as it is."""

    def __init__(self, subject: Any) -> None:
        self.subject = unwrapped(subject)
        self.source = inspect.getsource(self.subject)

    def __repr__(self) -> str:
        return textwrap.dedent(self.source).rstrip()

    def _repr_html_(self) -> str:
        name = f"{self.subject.__module__}.{self.subject.__qualname__}"
        title = f'<small style="padding:4px 10px 0;display:inline-block;color:{SOFT}">{html.escape(name)}</small>'
        return f"<div>{title}{coloured(repr(self), PythonLexer())}</div>"


def listing(subject: Any) -> Listing:
    """Show the source of a function, method, class, property or Step."""
    return Listing(subject)


def api_lines(subject: Any, calls: str = "") -> str:
    """Return the statements of a function in which it calls an RTCPeerConnection or a sender of one, or makes one; all
    its statements where there is no such call. `calls` keeps those that call the method of that name."""
    source = textwrap.dedent(inspect.getsource(unwrapped(subject)))
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef), "beside() shows functions"
    simple = [node for node in ast.walk(function) if isinstance(node, ast.Expr | ast.Assign | ast.Return)]
    simple.sort(key=lambda node: node.lineno)
    chosen = [node for node in simple if any(_is_api(call, calls) for call in ast.walk(node))]
    if calls and not chosen:
        raise ValueError(f"{function.name} does not call {calls}")
    statements: list[ast.stmt] = list(chosen or function.body[ast.get_docstring(function) is not None :])
    return "\n".join(_segment(source, statement) for statement in statements)


def _is_api(node: ast.AST, calls: str) -> bool:
    if not isinstance(node, ast.Call):
        return False
    words = ast.unparse(node.func).split(".")
    on_pc = not {"pc", "sender"}.isdisjoint(words[:-1]) or words[-1] == "RTCPeerConnection"
    return on_pc and (words[-1] == calls if calls else not words[-1].startswith("get"))


def _segment(source: str, statement: ast.stmt) -> str:
    lines = source.splitlines()[statement.lineno - 1 : statement.end_lineno]
    return textwrap.dedent("\n".join(lines))


def beside(python: Any, javascript: str, note: str = "", *, calls: str = "") -> HTML:
    """Show what a function calls on its RTCPeerConnection, beside the same in a browser's JavaScript.

    `note` says where aiortc differs. `calls` chooses one method where the function calls several.
    """
    wide = "38%" if note else "50%"
    heads = [Cell("Python, aiortc", head=True, wide=wide), Cell("JavaScript, browser", head=True, wide=wide)]
    cells = [
        Cell(coloured(api_lines(python, calls), PythonLexer())),
        Cell(coloured(textwrap.dedent(javascript).strip(), JavascriptLexer())),
    ]
    if note:
        heads.append(Cell("where aiortc differs", head=True))
        cells.append(Cell(html.escape(note)))
    return table([heads, cells])


__all__ = ["beside", "listing"]

"""Every public name of the subject, parts 1 to 5 of loopback.py, is taught in a lesson: used in its code, or set as
code in its prose."""

import loopback  # first: it imports cv2 before aiortc, which has to be so in every process  # isort: skip

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat

PROGRAM = Path(loopback.__file__).resolve()
LESSONS = sorted((PROGRAM.parent / "notebooks").glob("*.ipynb"))


def subject() -> str:
    """Return the source of parts 1 to 5: from the banner of the first to that of the sixth."""
    first, sixth = (f"\n# ---- {number}  " for number in (1, 6))
    source = PROGRAM.read_text(encoding="utf-8")
    assert source.count(first) == source.count(sixth) == 1
    return source[source.index(first) : source.index(sixth)]


def public_names(source: str) -> Iterator[str]:
    """Yield the functions, classes, constants, and methods ("Class.method") in a source."""
    for node in ast.parse(source).body:
        names = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        if isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
            names += [f"{node.name}.{method.name}" for method in methods]
        yield from (name for name in names if not any(part.startswith("_") for part in name.split(".")))


def taught() -> str:
    """Return the code of all lessons, and what their prose sets as code."""
    cells = [cell for path in LESSONS for cell in nbformat.read(path, as_version=4).cells]
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    prose = [span for cell in cells if cell.cell_type == "markdown" for span in re.findall(r"`([^`]+)`", cell.source)]
    return "\n".join(code + prose)


def is_taught(name: str, text: str) -> bool:
    """Whether a name stands alone in the text, or a method behind a dot, or the whole of its class is shown."""
    owner, dot, method = name.rpartition(".")
    pattern = rf"\.{method}\b|\blisting\({owner}\)" if dot else rf"(?<![\w.]){name}\b"
    return re.search(pattern, text) is not None


def test_every_public_name_of_the_subject_is_taught() -> None:
    text, names = taught(), list(public_names(subject()))
    assert {"Log", "MESSAGES", "caller", "Peer.apply", "Call.steps"} <= set(names)  # one of each part
    missing = [name for name in names if not is_taught(name, text)]
    assert missing == [], f"no lesson mentions {', '.join(missing)}"

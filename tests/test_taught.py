"""Every public name of the subject, parts 1 to 5 of loopback.py, is taught in a lesson: used in its code, or explained
in its prose. A table that only lists it, or what is folded away, does not count."""

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


def used(code: str) -> set[str]:
    """Return what a cell's code uses: names, attributes as ".name", and classes whose listing it shows as "Class.*"."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(f".{node.attr}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "listing":
            found |= {f"{shown.id}.*" for shown in node.args if isinstance(shown, ast.Name)}
    return found


def explained(prose: str) -> set[str]:
    """Return what a cell's prose sets as code within a sentence: names, and ".name" for what stands behind a dot."""
    prose = re.sub(r"<details>.*?</details>", "", prose, flags=re.DOTALL)
    found: set[str] = set()
    for paragraph in re.split(r"\n\s*\n", prose):
        text = "\n".join(line for line in paragraph.splitlines() if not line.lstrip().startswith("|"))
        if len(re.findall(r"[^\W\d_]{2,}", re.sub(r"`[^`]*`", "", text))) >= 5:
            spans = " ".join(re.findall(r"`([^`]+)`", text))
            found |= set(re.findall(r"(?<![\w.])\w+", spans)) | set(re.findall(r"\.\w+", spans))
    return found


def taught() -> set[str]:
    """Return all that the lessons use or explain."""
    cells = [cell for path in LESSONS for cell in nbformat.read(path, as_version=4).cells]
    found = [used(cell.source) if cell.cell_type == "code" else explained(cell.source) for cell in cells]
    return set().union(*found)


def is_taught(name: str, known: set[str]) -> bool:
    """Whether a name is known, a method behind a dot, or the whole of its class."""
    owner, dot, method = name.rpartition(".")
    return bool(known & ({f".{method}", f"{owner}.*"} if dot else {name}))


def test_every_public_name_of_the_subject_is_taught() -> None:
    known, names = taught(), list(public_names(subject()))
    assert {"Log", "MESSAGES", "caller", "Peer.apply", "Call.steps"} <= set(names)  # one of each part
    missing = [name for name in names if not is_taught(name, known)]
    assert missing == [], f"no lesson uses or explains {', '.join(missing)}"


def test_a_table_or_what_is_folded_away_teaches_nothing() -> None:
    table = (
        "These are all the names there are in it:\n\n| name | part |\n| `Peer.apply` | what is done with a message |"
    )
    folded = (
        "<details><summary>All names</summary>\n\nThis is `Peer.apply`, which does what a message is for.\n</details>"
    )
    for prose in (table, folded, "`Peer.apply`, `Log`"):
        assert explained(prose) == set(), prose
    told = explained("What a message is for is done by `Peer.apply`, and `Log` keeps it.")
    assert is_taught("Peer.apply", told)
    assert is_taught("Log", told)
    assert not is_taught("apply", told)
    code = used("'Peer.close'  # Peer.health\nawait call.pc1.apply({})\nlisting(Call)")
    assert is_taught("Peer.apply", code)
    assert is_taught("Call.finish", code)
    assert not is_taught("Peer.close", code)
    assert not is_taught("Peer.health", code)

"""Run the lessons and store what they show. Nothing else writes outputs.

    python notebooks/render.py              run every lesson, store its outputs
    python notebooks/render.py 00 03_ice    run these only
    python notebooks/render.py --check      run, store nothing, say where the stored outputs are no longer true

A lesson runs from top to bottom in a kernel of its own. An error, a word on stderr, a cell of more than a minute, or
something left open at the end is a failure. What differs from run to run is masked before it is stored, so that
rendering twice changes nothing but pictures.
"""

from __future__ import annotations

import argparse
import base64
import copy
import hashlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import nbformat
import numpy as np
import psutil
from jupyter_client.kernelspec import NoSuchKernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

HERE = Path(__file__).resolve().parent
SECONDS = 60  # for one cell
LAST = "from left_open import left_open; [print(thing) for thing in await left_open()];"
TRIES, BUSY = 4, "no verdict: this machine is too busy"  # the words of lab.steady
UNSEEN = "unseen"  # the tag of cells that a test puts in
STILL = "LAB_STILL"  # tells lab that nobody is there to move a slider: see lab/slider.py
PICTURES = ("image/png",)
TEXTS = ("text/plain", "text/html")
METADATA = {
    # Without a kernelspec JupyterLab opens a dialog that stops every click.
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

# ---- What differs from run to run ------------------------------------------------------------------------------------

CELLS = r"</t[dh]>\s*<t[dh][^>]*>"  # from one cell of an HTML table to the next

OPEN, CLOSE = "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}", "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"
MARK = OPEN + "{} {}" + CLOSE

BREAK = "<wbr>"  # lab.draw.breakable puts it into long words

# The groups of these are values. Each becomes a mark with a number, the same one wherever the value stands in the
# notebook, alone or at the end of a shortened one ("3F:A0:…").
VALUES = {
    "port": rf"127\.\d+\.\d+\.\d+(?:[: ]|{CELLS})(\d{{5}})\b|\bm=\w+ (\d{{5}}) |\br?port (\d{{5}})\b",
    "ufrag": r"ice-ufrag:(\w+)",
    "pwd": r"ice-pwd:(\w+)",
    "fingerprint": r"\b((?:[0-9A-F]{2}:){19,63}[0-9A-F]{2})\b",
    "SSRC": rf"(?i:ssrc)(?:[ :=]+|{CELLS})(\d{{6,10}})\b|:FID (\d+) (\d+)",
    "cname": r"cname:([\w{}-]+)",
    "msid": r"\bmsid:([\w{}-]+) ([\w{}-]+)",
    "foundation": r"candidate:(\w{32})\b",
    "session": r"\bo=- (\d+)",
    "id": r"\b([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})\b",
    "hex": r"\b((?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{16,})\b",
}

# These become the same text each time.
CHANGING = {
    r"≈[0-9a-f]{2}(?: [0-9a-f]{2})+\b": "≈…",  # "≈" stands before bytes that are drawn at random
    r"≈ ?[-+]?\d+(?:[.,]\d+)*": "≈…",  # and before every number that was measured
    r"(?m)^ *\d+\.\d ms(?=  )": "       … ms",  # loopback.Event
    r"\b\d+ ms after the peers": "… ms after the peers",
    r"(?<=\), )\d+ bytes": "… bytes",  # loopback.describe_sdp: the SSRCs have more digits or fewer
    r"(?<=send offer)( +)\d+ bytes|(?<=send answer)( +)\d+ bytes": r"\1\2… bytes",
    r"\bt=\d+\.\d+": "t=…",
    r"\b\d+(?= pictures sent,| received,| misread,)|[\d.]+(?=/s; delay)": "…",  # loopback.Meter
    r"(?<=; delay )[\d.?]+|[\d.?]+(?= p95,)|(?<=p95, )[\d.?]+(?= max)": "…",
    r"\b0x[0-9a-f]{9,16}\b": "0x…",  # where an object lies
    r"(?<=\bseq )\d+": "…",
    r"(?<=[…\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}]) {2,}| {2,}(?=≈…)": "  ",  # columns fit what was in them
}


class Mask:
    """Replaces, in the texts of one notebook, what differs from run to run."""

    def __init__(self, texts: list[str]) -> None:
        self.marks: dict[str, str] = {}
        count: Counter[str] = Counter()
        for kind, pattern in VALUES.items():
            whole = (text.replace(BREAK, "") for text in texts)
            found = (value for text in whole for match in re.finditer(pattern, text) for value in match.groups())
            for value in found:
                if value and value not in self.marks:
                    count[kind] += 1
                    # Of sessions made within one second aiortc writes the same number: whether two agree is chance.
                    mark = MARK.format(kind, count[kind])
                    self.marks[value] = MARK.format("the", kind) if kind == "session" else mark
        values = [f"(?:{BREAK})?".join(map(re.escape, value)) for value in sorted(self.marks, key=len, reverse=True)]
        self._known = re.compile(rf"(?<!\w)(?:{'|'.join(values)})(?!\w)" if values else r"(?!)")

    def __call__(self, text: str) -> str:
        """Return the text, masked."""
        text = self._known.sub(lambda match: self.marks[match[0].replace(BREAK, "")], text)
        text = re.sub(rf"((?:[\w:+/-]|{BREAK}){{4,}})…", self._shortened, text)
        text = re.sub(rf"(?:[^\s<>{OPEN}{CLOSE}]|{BREAK}|{OPEN}[^{CLOSE}]*{CLOSE})+", _whole_where_masked, text)
        for pattern, replacement in CHANGING.items():
            text = re.sub(pattern, replacement, text)
        return text

    def _shortened(self, match: re.Match[str]) -> str:
        shown = match[1].replace(BREAK, "")
        return next((mark for value, mark in self.marks.items() if value.startswith(shown)), match[0])


def _whole_where_masked(word: re.Match[str]) -> str:
    """Take the breaks out of a word that has a mark in it: where they stood depends on what was masked."""
    return word[0].replace(BREAK, "") if OPEN in word[0] or "≈" in word[0] else word[0]


def mask(notebook: NotebookNode) -> None:
    """Mask the outputs of a notebook where they stand."""
    texts = [(holder, key) for cell in code_cells(notebook) for holder, key in texts_of(cell)]
    masked = Mask([holder[key] for holder, key in texts])
    for holder, key in texts:
        holder[key] = masked(holder[key])


def texts_of(cell: NotebookNode) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield where the texts of a cell's outputs are: a dictionary and a key."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output, "text"
        else:
            yield from ((output.data, kind) for kind in TEXTS if kind in output.data)


# ---- Run -------------------------------------------------------------------------------------------------------------


class LessonError(Exception):
    """A lesson does not run, or is not what is stored. The text is one line: which cell, and what."""


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the cells that are run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def named(notebook: NotebookNode, cell: NotebookNode) -> str:
    """Return which cell it is: its number from the top, and its first line."""
    number = next(number for number, other in enumerate(notebook.cells, 1) if other is cell)
    return f"cell {number} ({short(cell.source or 'empty', 50)})"


def short(text: str, most: int = 160) -> str:
    """Return the first line with something in it, cut to that many characters."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= most else f"{line[: most - 1]}…"


def execute(notebook: NotebookNode, folder: Path) -> list[NotebookNode]:
    """Run the notebook in a new kernel, with `folder` as its working directory, and fill in its outputs, masked. Cells
    with the tag UNSEEN are run in their place, taken out, and returned. A run in which this machine was too busy for a
    measurement is made again. Raises LessonError."""
    for _ in range(TRIES):
        fresh = copy.deepcopy(notebook)
        unseen = execute_once(fresh, folder)
        shown = {" ".join(" ".join(lines(cell)).split()): cell for cell in [*code_cells(fresh), *unseen]}
        busy = [cell for text, cell in shown.items() if BUSY in text]
        if not busy:
            notebook.update(fresh)
            return unseen
        until_quiet()
    raise LessonError(f"{short(busy[0].source, 50)!r} measured nothing in {TRIES} runs: this machine is too busy")


def until_quiet(patience: float = 60.0) -> None:
    """Wait until others leave half of the processors, at most that many seconds."""
    until = time.monotonic() + patience
    while psutil.cpu_percent(interval=1) > 50 and time.monotonic() < until:
        pass  # it has waited


def execute_once(notebook: NotebookNode, folder: Path) -> list[NotebookNode]:
    """Run the notebook as it is, once; return the cells that were taken out."""
    notebook.cells.append(new_code_cell(f"import sys; sys.path.append({str(HERE)!r}); {LAST}"))
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    )
    kept = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    kept[STILL] = "1"
    where = "the start"
    with tempfile.TemporaryDirectory() as settings:  # not the user's own start-up files
        try:
            # What cells write to stderr is in their outputs; this is what the kernel says of itself.
            with client.setup_kernel(cwd=str(folder), env=kept | {"IPYTHONDIR": settings}, stderr=subprocess.DEVNULL):
                for index, cell in enumerate(notebook.cells):
                    where = named(notebook, cell)
                    client.execute_cell(cell, index)
        except CellExecutionError as error:
            raise LessonError(f"{where} raised {error.ename}: {short(error.evalue)}") from error
        except CellTimeoutError as error:
            raise LessonError(f"{where} took more than {SECONDS} s") from error
        except DeadKernelError as error:
            raise LessonError(f"the kernel died at {where}") from error
        except (NoSuchKernel, RuntimeError) as error:
            raise LessonError(f"no kernel ({short(str(error))}): is ipykernel installed?") from error
    last = notebook.cells.pop()
    for cell in code_cells(notebook):
        for output in cell.outputs:
            refuse(output, named(notebook, cell))
    if last.outputs:
        raise LessonError(f"left open at the end: {', '.join(last.outputs[0].text.splitlines())}")
    unseen = [cell for cell in notebook.cells if UNSEEN in cell.metadata.get("tags", [])]
    notebook.cells = [cell for cell in notebook.cells if cell not in unseen]
    normalise(notebook)
    mask(notebook)
    return unseen


def refuse(output: NotebookNode, where: str) -> None:
    """Raise LessonError for an output that must not be there, or that the hosting site would not show."""
    if output.output_type == "stream":
        if output.name == "stderr":
            raise LessonError(f"{where} wrote to stderr: {short(output.text)}")
        return
    if strange := set(output.data) - {*PICTURES, *TEXTS}:
        raise LessonError(f"{where} shows {', '.join(sorted(strange))}: only {', '.join((*PICTURES, *TEXTS))} are read")


def normalise(notebook: NotebookNode) -> None:
    """Leave nothing in a notebook that a run, or the program it was edited with, has put there."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    taken: Counter[str] = Counter()
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
        name = fingerprint(cell)
        taken[name] += 1
        cell.id = name if taken[name] == 1 else f"{name}-{taken[name]}"
        cell.pop("attachments", None)
    for number, cell in enumerate(code_cells(notebook), 1):
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
            if len(output.get("data", {})) > 1:  # a table or picture in words: what no one sees need not be compared
                output.data.pop("text/plain", None)


def fingerprint(cell: NotebookNode) -> str:
    """Return what a rendered cell has as its id: a hash of its source. One that was edited since has another."""
    return hashlib.sha256(cell.source.encode()).hexdigest()[:12]


# ---- Compare ---------------------------------------------------------------------------------------------------------


def lines(cell: NotebookNode) -> list[str]:
    """Return what a cell shows, as lines; a picture is the name of its kind."""
    shown: list[str] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            shown += output.text.splitlines()
        elif output.output_type == "error":
            shown += [f"{output.ename}: {output.evalue}"]
        else:
            for kind in sorted(output.data):
                shown += [f"[{kind}]"] if kind in PICTURES else output.data[kind].splitlines()
    return shown


def sizes(cell: NotebookNode) -> list[tuple[int, int]]:
    """Return height and width of each picture a cell shows, 0 and 0 for one that cannot be read."""
    found = []
    for output in cell.outputs:
        for kind in PICTURES:
            if picture := output.get("data", {}).get(kind):
                raw = np.frombuffer(base64.b64decode(picture), np.uint8)
                decoded = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED) if raw.size else None
                found.append((0, 0) if decoded is None else decoded.shape[:2])
    return found


def alike(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two pictures are about as large: a diagram of a few more events is a little higher."""
    return all(0 < a <= 1.25 * b and b <= 1.25 * a for a, b in zip(one, other, strict=True))


def stale(notebook: NotebookNode) -> str | None:
    """Return, in one line, where a notebook was edited after it was rendered; None if nowhere."""
    for number, cell in enumerate(code_cells(notebook), 1):
        if cell.get("id", "").partition("-")[0] != fingerprint(cell) or cell.execution_count != number:
            return f"{named(notebook, cell)} was edited, moved or never rendered"
    return None


def difference(stored: NotebookNode, fresh: NotebookNode) -> str | None:
    """Return, in one line, where a notebook is not what its run has shown; None if nowhere."""
    for old, new in zip(code_cells(stored), code_cells(fresh), strict=True):
        before, now = lines(old), lines(new)
        for number in range(max(len(before), len(now))):
            one, other = (shown[number] if number < len(shown) else "nothing" for shown in (before, now))
            if one != other:
                same = sum(
                    1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
                )
                start = max(0, same - 20)  # a line of HTML may be long
                place = f"{named(stored, old)}, line {number + 1}"
                return f"{place}: stored {short(one[start:], 80)!r}, now {short(other[start:], 80)!r}"
        for size, expected in zip(sizes(old), sizes(new), strict=True):
            if not alike(size, expected):
                return f"{named(stored, old)}: a picture of {size}, now {expected} (height, width)"
    return None


# ---- Command line ----------------------------------------------------------------------------------------------------


def read(path: Path) -> NotebookNode:
    """Return the notebook in a file. Raises LessonError."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise LessonError(f"not a notebook: {short(str(error))}") from error


def render(path: Path, *, check: bool = False) -> None:
    """Run a lesson and store its outputs, or compare them with the stored ones. Raises LessonError."""
    stored = read(path)
    if check and (where := stale(stored)):
        raise LessonError(f"{where}: run notebooks/render.py")
    fresh = nbformat.from_dict(stored)
    execute(fresh, path.parent)
    if not check:
        path.write_text(nbformat.writes(fresh) + "\n", encoding="utf-8")
    elif where := difference(stored, fresh):
        raise LessonError(f"{where}: run notebooks/render.py")


def lesson(name: str) -> list[Path]:
    """Return the lessons of that name: a path, or the beginning of a file name."""
    path = Path(name)
    found = [path] if path.is_file() else sorted(HERE.glob(f"{path.stem}*.ipynb"))
    if not found:
        raise argparse.ArgumentTypeError(f"no lesson {name!r} in {HERE.name}/")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Render or check the lessons named on the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("lessons", nargs="*", type=lesson, metavar="LESSON", help="00, 03_ice, or a path; all if none")
    parser.add_argument("--check", action="store_true", help="store nothing; compare with what is stored")
    options = parser.parse_args(arguments)
    failed = 0
    for path in [path for found in options.lessons or [lesson("")] for path in found]:
        began = time.monotonic()
        try:
            render(path, check=options.check)
        except LessonError as error:
            failed = 1
            print(f"{path.name}: {error}", file=sys.stderr)
        else:
            print(f"{path.name}: {'as stored' if options.check else 'rendered'}, {time.monotonic() - began:.1f} s")
    return failed


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

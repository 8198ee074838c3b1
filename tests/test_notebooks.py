"""The lessons: each runs, as shipped and solved, shows what is stored, and closes what it opened; so does render.py."""

import loopback  # first: it imports cv2 before aiortc, which has to be so in every process  # isort: skip

import ast
import base64
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

NOTEBOOKS = Path(loopback.__file__).resolve().parent / "notebooks"
sys.path.append(str(NOTEBOOKS))
import render  # noqa: E402 - a program in notebooks/, not installed
from lab import bench  # noqa: E402
from lab.draw import breakable  # noqa: E402

PORT_1 = render.MARK.format("port", 1)
LESSONS = sorted(NOTEBOOKS.glob("*.ipynb"))
SOLUTION = re.compile(r"<details><summary>Solution</summary>\n\n.*?```python\n(.*?)```\s*</details>", re.DOTALL)

each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)

# ---- The lessons run -------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What came of running a lesson once: what a learner sees, what its solutions show, why it failed."""

    notebook: NotebookNode
    solutions: list[NotebookNode]
    failure: str


class Runs:
    """Every lesson is run once, whatever number of tests ask."""

    def __init__(self) -> None:
        self.made: dict[Path, Run] = {}

    def __call__(self, path: Path) -> Run:
        if path not in self.made:
            notebook = with_solutions(render.read(path))
            try:
                unseen, failure = render.execute(notebook, path.parent), ""
            except render.LessonError as error:
                unseen, failure = [], str(error)
            self.made[path] = Run(notebook, unseen[::2], failure)
        return self.made[path]


@pytest.fixture(scope="session")
def runs() -> Runs:
    return Runs()


def is_exercise(cell: NotebookNode) -> bool:
    return "exercise" in cell.metadata.get("tags", [])


def solution(notebook: NotebookNode, cell: NotebookNode, below: NotebookNode) -> str:
    """Return the code of the folded solution below an exercise."""
    found = SOLUTION.search(below.source)
    assert found, f"no solution below {render.named(notebook, cell)}"
    return found[1].strip()


def with_solutions(notebook: NotebookNode) -> NotebookNode:
    """Put its solution below each exercise, to be run too, and then the exercise again, as a learner would who takes
    the solution back: what follows is as shipped."""
    unseen = {"tags": [render.UNSEEN]}
    cells = []
    for cell, below in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        cells.append(cell)
        if is_exercise(cell):
            for source in (solution(notebook, cell, below), cell.source):
                cells.append(new_code_cell(source, metadata=unseen))
    notebook.cells = cells
    return notebook


def shown(notebook: NotebookNode) -> str:
    """Return all the text a notebook shows."""
    return "\n".join(line for cell in render.code_cells(notebook) for line in render.lines(cell))


def verdicts(cells: list[NotebookNode]) -> tuple[int, int]:
    """Return how many answers were found right, and how many not yet."""
    text = "\n".join(line for cell in cells for line in render.lines(cell))
    return len(re.findall(r"(?m)^right\b", text)), len(re.findall(r"(?m)^not yet\b", text))


@each_lesson
def test_it_shows_what_is_stored(path: Path, runs: Runs) -> None:
    stored, run = render.read(path), runs(path)
    assert not run.failure
    assert render.stale(stored) is None
    assert render.difference(stored, run.notebook) is None


@each_lesson
def test_as_shipped_no_exercise_is_solved(path: Path, runs: Runs) -> None:
    exercises = list(filter(is_exercise, runs(path).notebook.cells))
    right, not_yet = verdicts(exercises)
    assert right == 0
    assert not_yet >= len(exercises)


@each_lesson
def test_with_its_solutions_every_check_says_right(path: Path, runs: Runs) -> None:
    run = runs(path)
    assert not run.failure
    assert [render.short(cell.source) for cell in run.solutions if not verdicts([cell])[0] or verdicts([cell])[1]] == []
    assert len(run.solutions) == sum(map(is_exercise, run.notebook.cells))


# ---- The lessons read well -------------------------------------------------------------------------------------------


def code_lines(cell: NotebookNode) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


@each_lesson
def test_cells_are_short_and_explained(path: Path) -> None:
    notebook = render.read(path)
    code = render.code_cells(notebook)
    long = [render.named(notebook, cell) for cell in code if code_lines(cell) > 12]
    assert long == []
    assert statistics.median(map(code_lines, code)) <= 3
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    words = len(re.findall(r"[^\W\d_][\w'-]*", re.sub(r"```.*?```", "", prose, flags=re.DOTALL)))
    assert words >= 10 * sum(map(code_lines, code)), f"{words} words"
    assert all(cell.source.strip() for cell in notebook.cells)


@each_lesson
def test_nothing_is_missing(path: Path) -> None:
    notebook = render.read(path)
    first, last = notebook.cells[0], notebook.cells[-1]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    code = "\n".join(cell.source for cell in render.code_cells(notebook))
    for call in ("from lab import *", "predict(", "outcome(", "check(", "beside(", "watch(", "quiz("):
        assert call in code, f"no {call}"
    assert any(is_exercise(cell) for cell in notebook.cells)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "## Where to read on" in prose
    assert re.search(r"RFC \d{4}", prose)
    assert "webrtc-pc" in prose
    assert not last.source.isspace()


@each_lesson
def test_the_hosting_site_can_show_it(path: Path) -> None:
    notebook = render.read(path)
    assert notebook.metadata.kernelspec.name == "python3"
    kinds = {kind for cell in render.code_cells(notebook) for output in cell.outputs for kind in output.get("data", {})}
    assert kinds <= {*render.PICTURES, *render.TEXTS}
    # A table's style must be in its elements: what the site does not know it takes out.
    assert re.findall(r"<(?:svg|video|script|style|canvas|iframe)\b|\bclass=", shown(notebook)) == []


@each_lesson
def test_no_path_of_a_machine_is_in_it(path: Path) -> None:
    notebook = render.read(path)
    text = shown(notebook) + "\n".join(cell.source for cell in notebook.cells)
    assert re.findall(r"(?<![\w.:/])/(?:home|Users|root|tmp|work|opt|usr|private)/\S+|\b[A-Z]:\\\S+", text) == []


@each_lesson
def test_below_each_exercise_is_its_solution(path: Path) -> None:
    for cell in with_solutions(render.read(path)).cells:
        if render.UNSEEN in cell.metadata.get("tags", []):
            ast.parse(cell.source)


# ---- What render.py masks --------------------------------------------------------------------------------------------

digits = st.integers(10_000, 60_999).map(str)
words = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=4, max_size=4).filter(
    lambda word: word.lower() not in ("ssrc", "port")  # one name in some million is a word that the texts have
)
values = st.fixed_dictionaries(
    {
        "port": st.lists(digits, min_size=2, max_size=2, unique=True),
        "ufrag": st.lists(words, min_size=2, max_size=2, unique=True),
        "hash": st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=2, unique=True),
        "ssrc": st.lists(st.integers(10**6, 2**32 - 1).map(str), min_size=2, max_size=2, unique=True),
        "ms": st.floats(0, 9999),
    }
)


def some_output(value: dict[str, list[str]]) -> list[str]:
    """Return texts as a lesson's cells show them, with these values in them."""
    hashes = [":".join(f"{byte:02X}" for byte in raw) for raw in value["hash"]]
    return [
        f"<td>{value['ufrag'][0]}</td><td>{value['port'][1]}</td><td>{hashes[0][:23]}…</td>",
        f"m=video {value['port'][0]} UDP/TLS 97\na=ice-ufrag:{value['ufrag'][0]}\na=ssrc:{value['ssrc'][0]} x",
        f"127.0.0.1:{value['port'][1]}, 127.0.0.1:{value['port'][0]}\na=ice-ufrag:{value['ufrag'][1]}",
        f"a=fingerprint:sha-256 {hashes[1]}\n<td>{hashes[0]}</td> SSRC {value['ssrc'][1]}, after ≈{value['ms']:.1f} ms",
        f"{value['ms']:8.1f} ms  pc1    createOffer                  video (VP8 rtx), {value['port'][0][:4]} bytes",
    ]


@given(values, values)
@settings(max_examples=60, deadline=None)
def test_two_runs_that_differ_in_values_only_are_equal_once_masked(one: dict, other: dict) -> None:
    first, second = ([render.Mask(texts)(text) for text in texts] for texts in map(some_output, (one, other)))
    assert first == second


@given(values)
@settings(max_examples=60, deadline=None)
def test_a_mask_keeps_what_is_the_same_and_what_is_not(value: dict) -> None:
    texts = some_output(value)
    masked = render.Mask(texts)
    for kind, name in (("port", "port"), ("ufrag", "ufrag"), ("ssrc", "SSRC")):
        marks = [masked(each) for each in value[kind]]
        assert set(marks) == {render.MARK.format(name, 1), render.MARK.format(name, 2)}
    assert masked("\n".join(map(masked, texts))) == "\n".join(map(masked, texts))


@given(values)
@settings(max_examples=30, deadline=None)
def test_a_value_in_a_word_that_may_break_is_masked_the_same(value: dict) -> None:
    whole = [
        f"a=fingerprint:sha-256 {value['hash'][0].hex(':').upper()}",
        f"o=- 1 a=ssrc:{value['ssrc'][0]} cname:{{12345678-{value['port'][0]}-words-that-are-long}}",
        f"{'x' * 9}/127.0.0.1:{value['port'][1]}/and/what/follows/it/{value['ufrag'][0]}",
        f"m=video {value['port'][1]} a=ice-ufrag:{value['ufrag'][0]}",
    ]
    broken = [breakable(text) for text in whole]
    assert "<wbr>" in "".join(broken)
    assert [render.Mask(broken)(text) for text in broken] == [render.Mask(whole)(text) for text in whole]
    static = breakable("urn:ietf:params:rtp-hdrext:sdes:mid")
    assert render.Mask(broken)(static) == static


@pytest.mark.parametrize(
    "text",
    [
        "m=video 9 UDP/TLS/RTP/SAVPF 97 98",
        "a=rtpmap:97 VP8/90000",
        "candidate priority 2130706431 = 126 · 2^24 + 65535 · 2^8 + 255",
        "stun:127.0.0.1:3478",
        "magic cookie 0x2112a442",
        "1280x480, 30/s, sha-256, RFC 8445 section 5.1.2.1",
    ],
)
def test_what_teaches_is_not_masked(text: str) -> None:
    assert render.Mask([text])(text) == text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("≈12.3 ms and ≈41 datagrams, ≈ 3", "≈… ms and ≈… datagrams, ≈…"),
        ("id ≈5f 3a 99 then", "id ≈… then"),
        ("<Call at 0x7fbc589b7890>", "<Call at 0x…>"),
        ("   312.9 ms  pc1    close", "       … ms  pc1    close"),
        (f"127.0.0.1 {PORT_1}", f"127.0.0.1 {PORT_1}"),
    ],
)
def test_what_varies_is_masked(text: str, masked: str) -> None:
    assert render.Mask([text])(text) == masked


# ---- What render.py finds --------------------------------------------------------------------------------------------

PICTURE = """
import base64, cv2, numpy
from IPython.display import Image
Image(cv2.imencode(".png", numpy.random.default_rng().integers(0, 255, (40, 60, 3), numpy.uint8))[1].tobytes())
"""


def write(path: Path, *sources: str) -> Path:
    cells = [new_markdown_cell("# A lesson"), *map(new_code_cell, sources)]
    nbformat.write(new_notebook(cells=cells), path)
    return path


def refused(path: Path, *sources: str) -> str:
    """Return why this notebook cannot be rendered."""
    write(path, *sources)
    before = path.read_bytes()
    with pytest.raises(render.LessonError) as refusal:
        render.render(path)
    assert path.read_bytes() == before
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_rendering_twice_changes_nothing_but_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(
        tmp_path / "lesson.ipynb",
        "import random, time, uuid\nport = random.randrange(20_000, 60_000)",
        "print('127.0.0.1:%d' % port, uuid.uuid4(), '≈%.3f' % time.time())\nobject()",
        PICTURE,
        "port",
    )

    def rendered() -> NotebookNode:
        render.render(path)
        return render.read(path)

    one, other = rendered(), rendered()
    assert render.lines(one.cells[4]) == [PORT_1]
    pictures = [notebook.cells[3].outputs[0].data.pop("image/png") for notebook in (one, other)]
    assert pictures[0] != pictures[1]
    assert one == other
    assert render.main(["--check", str(path)]) == 0
    assert "as stored" in capsys.readouterr().out


def test_a_cell_that_raises_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "lesson.ipynb", "1", "2\n1 / 0") == (
        "cell 3 (2) raised ZeroDivisionError: division by zero"
    )


def test_where_this_machine_was_too_busy_the_lesson_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "until_quiet", lambda: None)
    monkeypatch.setattr(render, "TRIES", 2)
    counted = tmp_path / "runs"
    count = f"from pathlib import Path\nPath({str(counted)!r}).open('a').write('x')"
    say = f"import os\nprint('no verdict: this machine is too busy' if os.stat({str(counted)!r}).st_size < 2 else 5)"
    path = write(tmp_path / "lesson.ipynb", count, say)
    render.render(path)
    assert render.lines(render.read(path).cells[2]) == ["5"]
    assert counted.read_text() == "xx"
    busy = "print('happened: 5   no verdict: this machine is too busy: of 2.0 s')"
    found = refused(tmp_path / "busy.ipynb", busy)
    assert found.endswith("measured nothing in 2 runs: this machine is too busy")


def test_the_words_of_a_busy_clock_are_those_that_are_looked_for() -> None:
    clock = bench.steady()
    clock.late, clock.lasted, clock.free = 1.0, 2.0, 1.0
    assert f"no verdict: {clock}".startswith(render.BUSY)


def test_a_word_on_stderr_is_a_failure(tmp_path: Path) -> None:
    found = refused(tmp_path / "lesson.ipynb", "import sys", "print('careful\\nnow', file=sys.stderr)")
    assert found == "cell 3 (print('careful\\nnow', file=sys.stderr)) wrote to stderr: careful"


def test_a_cell_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "SECONDS", 1)
    found = refused(tmp_path / "lesson.ipynb", "import asyncio", "await asyncio.Event().wait()")
    assert found == "cell 3 (await asyncio.Event().wait()) took more than 1 s"


def test_a_kernel_that_dies_is_named(tmp_path: Path) -> None:
    found = refused(tmp_path / "lesson.ipynb", "import os", "os._exit(3)")
    assert found == "the kernel died at cell 3 (os._exit(3))"


def test_an_output_the_hosting_site_does_not_show_is_refused(tmp_path: Path) -> None:
    found = refused(tmp_path / "lesson.ipynb", "from IPython.display import Javascript\nJavascript('1')")
    assert "application/javascript" in found


def test_what_is_left_open_is_named(tmp_path: Path) -> None:
    found = refused(
        tmp_path / "lesson.ipynb",
        "import asyncio, subprocess, sys, threading\nfrom loopback import *",
        "call = Call(SyntheticSource(160, 120, 10))\nawait call.run()",
        "LoopbackOnly().__enter__()",
        "threading.Thread(target=time.sleep, args=(9,), name='source toy', daemon=True).start()",
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)",
        "async def forgotten():\n    await asyncio.sleep(99)",
        "task = asyncio.create_task(forgotten())",
    )
    assert found.startswith("left open at the end: ")
    for thing in (
        "a Call",
        "an RTCPeerConnection",
        "the socket of 127.0.0.1",
        "the thread source toy",
        "the process python",
        "the task forgotten",
        "the task Peer.listen",
        "aioice.ice.get_host_addresses is replaced",
    ):
        assert thing in found


def stored(*shown: NotebookNode) -> NotebookNode:
    """Return a notebook of one code cell that was rendered and shows that."""
    cell = new_code_cell("look()", outputs=list(shown))
    notebook = new_notebook(cells=[new_markdown_cell("# A lesson"), cell])
    render.normalise(notebook)
    return notebook


def picture(width: int, height: int) -> NotebookNode:
    encoded = cv2.imencode(".png", np.zeros((height, width), np.uint8))[1].tobytes()
    return new_output("display_data", {"image/png": base64.b64encode(encoded).decode()})


def test_a_cell_edited_without_rendering_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = stored()
    assert render.stale(notebook) is None
    notebook.cells[1].source += "  # the same output"
    nbformat.write(notebook, tmp_path / "lesson.ipynb")
    assert render.main(["--check", str(tmp_path / "lesson.ipynb")]) == 1
    found = capsys.readouterr().err
    assert found.startswith("lesson.ipynb: cell 2 (look()  # the same output) was edited, moved or never rendered")
    assert found.count("\n") == 1


@pytest.mark.parametrize("change", [lambda cells: cells.pop(1), lambda cells: cells.insert(1, new_code_cell("1"))])
def test_a_cell_taken_out_or_put_in_is_found(change: Callable[[list[NotebookNode]], object]) -> None:
    notebook = new_notebook(cells=[new_code_cell(source) for source in "abc"])
    render.normalise(notebook)
    assert render.stale(notebook) is None
    change(notebook.cells)
    assert render.stale(notebook)


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ([], [picture(60, 40)], "cell 2 (look()), line 1: stored 'nothing', now '[image/png]'"),
        ([picture(60, 40)], [], "cell 2 (look()), line 1: stored '[image/png]', now 'nothing'"),
        ([picture(60, 40)], [picture(60, 80)], "cell 2 (look()): a picture of (40, 60), now (80, 60) (height, width)"),
        ([picture(60, 40)], [picture(62, 42)], None),
        (
            [new_output("stream", text="one\ntwo\n")],
            [new_output("stream", text="one\nzwei\n")],
            "cell 2 (look()), line 2: stored 'two', now 'zwei'",
        ),
    ],
)
def test_a_difference_is_said_in_one_line(before: list, now: list, found: str | None) -> None:
    assert render.difference(stored(*before), stored(*now)) == found


def test_no_notebook_and_no_lesson_are_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lesson.ipynb").write_text("{")
    assert render.main([str(tmp_path / "lesson.ipynb")]) == 1
    assert capsys.readouterr().err.startswith("lesson.ipynb: not a notebook: ")
    with pytest.raises(SystemExit):
        render.main(["99_no_such_lesson"])
    assert "no lesson '99_no_such_lesson'" in capsys.readouterr().err

"""A learner's own copy: complete, without outcomes, never overwritten, and its kernels find everything."""

import loopback  # first: it imports cv2 before aiortc, which has to be so in every process  # isort: skip

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

REPOSITORY = Path(loopback.__file__).resolve().parent
NOTEBOOKS = REPOSITORY / "notebooks"
sys.path.append(str(NOTEBOOKS))
import learn  # noqa: E402 - a program in notebooks/, not installed

LESSONS = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))


def test_a_copy_has_every_lesson_and_no_outcome(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "mine"
    assert learn.copy_lessons(folder) == (LESSONS, [])
    for name in LESSONS:
        ours, theirs = (nbformat.read(place / name, as_version=4) for place in (NOTEBOOKS, folder))
        nbformat.validate(theirs)
        assert [cell.source for cell in theirs.cells] == [cell.source for cell in ours.cells]
        assert [cell.id for cell in theirs.cells] == [cell.id for cell in ours.cells]
        assert theirs.metadata == ours.metadata
        code = [cell for cell in theirs.cells if cell.cell_type == "code"]
        assert {(len(cell.outputs), cell.execution_count) for cell in code} == {(0, None)}
        assert any(cell.outputs for cell in ours.cells if cell.cell_type == "code"), "ours stay rendered"


def test_what_is_there_stays_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = LESSONS[:2]
    (tmp_path / first).write_text("what I have written")
    assert learn.copy_lessons(tmp_path) == (LESSONS[1:], [first])
    assert (tmp_path / first).read_text() == "what I have written"
    (tmp_path / second).unlink()
    started: list[list[str]] = []
    monkeypatch.setattr(learn, "WINDOWS", True)
    monkeypatch.setattr(subprocess, "call", lambda command, env: started.append(command) or 3)
    assert learn.main(["--folder", str(tmp_path), "--no-browser", "--ip=127.0.0.1"]) == 3
    said = capsys.readouterr().out
    assert said == f"{tmp_path}: 1 lessons copied, {len(LESSONS) - 1} were there and stay as they are\n"
    assert started[0][-2:] == ["--no-browser", "--ip=127.0.0.1"]


def test_beside_the_lessons_loopback_can_be_opened_too(tmp_path: Path) -> None:
    inside = learn.command(REPOSITORY / "my-lessons", [])
    assert f"--ServerApp.root_dir={REPOSITORY}" in inside
    assert f"--LabApp.default_url=/lab/tree/my-lessons/{learn.FIRST}" in inside
    outside = learn.command(tmp_path, [])
    assert f"--ServerApp.root_dir={tmp_path}" in outside
    assert f"--LabApp.default_url=/lab/tree/{learn.FIRST}" in outside
    assert learn.FIRST in LESSONS


def test_a_kernel_finds_everything_from_anywhere(tmp_path: Path) -> None:
    seen = "import lab, phone, loopback; print(lab.__file__, loopback.__file__)"
    ended = subprocess.run(
        [sys.executable, "-c", seen], cwd=tmp_path, env=learn.environment(), capture_output=True, text=True, timeout=60
    )
    assert ended.stdout.split() == [str(NOTEBOOKS / "lab" / "__init__.py"), str(REPOSITORY / "loopback.py")]


def test_where_there_can_be_no_copy_one_line_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert learn.main(["--folder", str(NOTEBOOKS)]) == 1
    (tmp_path / "file").write_text("")
    assert learn.main(["--folder", str(tmp_path / "file" / "below")]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"{NOTEBOOKS} is where the lessons come from: choose another --folder"
    assert second.startswith(f"{tmp_path / 'file' / 'below'} cannot be written (")


def test_without_jupyterlab_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(learn.importlib.util, "find_spec", lambda name: None)
    assert learn.main(["--folder", str(tmp_path / "mine")]) == 1
    assert capsys.readouterr().err == (
        "JupyterLab is not installed: pip install -e '.[notebooks]' -c constraints.txt\n"
    )
    assert not (tmp_path / "mine").exists()

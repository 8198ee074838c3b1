"""loopback.py as people get it: one file alone in a folder, or a package that brings a command."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import benchmark
import pytest
from conftest import PROGRAM, environment, wait_until

import loopback

PROJECT = PROGRAM.parent
# -P: the folder of the program is not searched for modules. PYTHONSAFEPATH does the same for the command below.
ALONE = (sys.executable, "-P")


def bare(**changes: str) -> dict[str, str]:
    """Return the environment without what could lead to other files of the project."""
    kept = {name: value for name, value in environment().items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return kept | {"PYTHONSAFEPATH": "1"} | changes


def run(*command: str, cwd: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=bare(**changes), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """loopback.py, alone in a folder."""
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copy(PROGRAM, folder)
    return folder


def test_the_file_runs_alone(copied: Path) -> None:
    ended = run(*ALONE, "loopback.py", "--view", "none", "--seconds", "0.5", cwd=copied)
    assert (ended.returncode, ended.stderr) == (0, "")
    summary = re.match(r"(\d+) pictures sent, (\d+) received", ended.stdout.splitlines()[-1])
    assert summary
    assert int(summary[2]) > 0
    assert [path.name for path in copied.iterdir()] == ["loopback.py"]


def test_the_file_needs_nothing_else_of_the_project(copied: Path) -> None:
    """Each module it has loaded comes from the copy or from what is installed, and none from the project's folder."""
    code = f"""
import sys, pathlib
sys.path.insert(0, {str(copied)!r})
import loopback
assert loopback.__file__ == {str(copied / "loopback.py")!r}, loopback.__file__
files = [pathlib.Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
print(*(file for file in files if file.is_relative_to({str(PROJECT)!r}) and not file.is_relative_to(sys.prefix)))
"""
    ended = run(*ALONE, "-c", code, cwd=copied, PYTHONDONTWRITEBYTECODE="1")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split() == []


def pyproject() -> dict[str, Any]:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text())


def test_the_block_for_uv_says_what_pyproject_says() -> None:
    """PEP 723: `uv run loopback.py` reads what to install from a comment at the top."""
    pattern = r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$"  # as the PEP gives it
    (block,) = re.finditer(pattern, PROGRAM.read_text())
    assert block["type"] == "script"
    lines = block["content"].splitlines(keepends=True)
    told = tomllib.loads("".join(line[2:] if line.startswith("# ") else line[1:] for line in lines))
    project = pyproject()["project"]
    assert told == {name: project[name] for name in ("requires-python", "dependencies")}


def test_installing_gives_a_command_and_the_version_is_read_without_importing(tmp_path: Path) -> None:
    """What `pip install .` does, without fetching anything."""
    pytest.importorskip("setuptools")
    source, target, unimportable = tmp_path / "source", tmp_path / "target", tmp_path / "unimportable"
    source.mkdir()
    unimportable.mkdir()
    for name in ("loopback.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    (unimportable / "cv2.py").write_text("raise SystemExit('the build imports loopback')\n")
    options = (
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--disable-pip-version-check",
        "--target",
        str(target),
    )
    built = run(
        sys.executable, "-m", "pip", "install", *options, str(source), cwd=tmp_path, PYTHONPATH=str(unimportable)
    )
    assert built.returncode == 0, built.stdout + built.stderr

    metadata = (target / f"loopback-{loopback.__version__}.dist-info" / "METADATA").read_text()
    assert f"\nVersion: {loopback.__version__}\n" in metadata
    modules = {path.name for path in target.iterdir()} - {"__pycache__", "bin", "Scripts"}
    assert modules == {"loopback.py", f"loopback-{loopback.__version__}.dist-info"}
    command = shutil.which("loopback", path=os.pathsep.join(map(str, (target / "bin", target / "Scripts"))))
    assert command
    empty = tmp_path / "empty"
    empty.mkdir()
    ended = run(command, "--version", cwd=empty, PYTHONPATH=str(target))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"loopback {loopback.__version__}\n", "")
    ended = run(command, "--view", "none", "--seconds", "0.5", cwd=empty, PYTHONPATH=str(target))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "pictures sent" in ended.stdout.splitlines()[-1]
    wrong = run(command, "--fps", "x", cwd=empty, PYTHONPATH=str(target))
    assert wrong.returncode == 2, "the exit status does not come through"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what a process has loaded")
def test_ctrl_c_while_the_command_imports(tmp_path: Path) -> None:
    """Most of its start; the installed command is not the module __main__."""
    command = tmp_path / "loopback"
    command.write_text("import sys\nfrom loopback import main\nsys.exit(main())\n")
    with subprocess.Popen(
        (sys.executable, str(command), "--view", "none"),
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(PROJECT)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        wait_until(lambda: "/cv2/" in maps.read_text())
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (130, b"")


def test_the_extras_that_readme_names_exist() -> None:
    extras = pyproject()["project"]["optional-dependencies"]
    named = re.findall(r"\.\[([\w,]+)\]", (PROJECT / "README.md").read_text())
    assert named
    assert {name for names in named for name in names.split(",")} <= set(extras)
    assert set(extras["phone"]) < set(extras["test"]), "the tests of the phone need what the phone needs"


def test_every_dependency_is_pinned() -> None:
    """constraints.txt has a version for each package that pyproject.toml names."""
    project = pyproject()["project"]
    wanted = [
        *project["dependencies"],
        *(name for names in project["optional-dependencies"].values() for name in names),
    ]
    pinned = {line.split("==")[0] for line in (PROJECT / "constraints.txt").read_text().splitlines()}
    names = {re.split(r"[<>=~\[ ]", name)[0] for name in wanted}
    assert len(names) > 5
    assert names - pinned == set()


def test_the_benchmark_measures_the_lessons_last_and_only_where_they_can_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--rounds", "1", "--seconds", "0.3"])
    monkeypatch.setattr(benchmark, "by_size", lambda *_: done.append("by size"))
    monkeypatch.setattr(benchmark, "from_process_start", lambda *_: done.append("from process start"))
    monkeypatch.setattr(subprocess, "run", lambda command, **_: done.append(" ".join(command[2:4])))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    benchmark.main()
    assert done == ["by size", "from process start", *(f"--together {number}" for number in (1, 2, 4, 8))]
    *_, told, line = capsys.readouterr().out.splitlines()
    assert "lessons are left out" in told
    assert "jupyter" in told
    assert "pip install" in line
    assert ".[notebooks]" in line

    done.clear()
    monkeypatch.undo()
    monkeypatch.setattr(subprocess, "run", lambda command, **_: done.append(Path(command[1]).name) or ended)
    ended = subprocess.CompletedProcess([], returncode=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    benchmark.lessons()
    assert done == ["render.py"]
    assert re.search(r"together: \d+ s$", capsys.readouterr().out)

"""Your own copy of the lessons, opened in JupyterLab: nothing in it is answered before it is asked.

    python notebooks/learn.py                    copy the lessons to my-lessons/, beside notebooks/, and open them
    python notebooks/learn.py --folder ~/webrtc  another place
    python notebooks/learn.py --no-browser       this and all other options are handed on to JupyterLab

What is in the folder already stays as it is. To begin a lesson anew, delete your copy of it and start again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
FIRST = "00_a_whole_call.ipynb"
WINDOWS = os.name == "nt"  # where a program cannot become another one


class CopyError(Exception):
    """There can be no copy. The text is one line: why, and what to do."""


def cleared(notebook: str) -> str:
    """Return a notebook's text without what its cells have shown."""
    content = json.loads(notebook)
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def copy_lessons(folder: Path) -> tuple[list[str], list[str]]:
    """Copy the lessons into a folder, without their outputs; return the names of those copied, and of those that were
    there, which stay as they are. Raises CopyError."""
    if folder.resolve() == HERE:
        raise CopyError(f"{folder} is where the lessons come from: choose another --folder")
    copied, kept = [], []
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            (folder / ".gitignore").write_text("*\n", encoding="utf-8")  # what you try is yours
        for lesson in sorted(HERE.glob("*.ipynb")):
            target = folder / lesson.name
            if target.exists():
                kept.append(lesson.name)
            else:
                target.write_text(cleared(lesson.read_text(encoding="utf-8")), encoding="utf-8")
                copied.append(lesson.name)
    except OSError as error:
        raise CopyError(f"{folder} cannot be written ({error.strerror}): choose another --folder") from error
    return copied, kept


def command(folder: Path, more: list[str]) -> list[str]:
    """Return how JupyterLab is started on a folder. Where that is in the repository, loopback.py can be opened too."""
    folder = folder.resolve()
    root = REPOSITORY if folder.is_relative_to(REPOSITORY) else folder
    first = (folder / FIRST).relative_to(root).as_posix()
    return [
        *(sys.executable, "-m", "jupyterlab"),
        f"--ServerApp.root_dir={root}",
        f"--LabApp.default_url=/lab/tree/{first}",
        *more,
    ]


def environment() -> dict[str, str]:
    """Return this process's environment, in which a kernel finds loopback, lab and phone wherever its notebook is."""
    paths = [str(HERE), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def main(arguments: list[str] | None = None) -> int:
    """Make the copy and open it; return JupyterLab's exit status, or 1 where there can be no copy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "my-lessons", help="my-lessons by default")
    options, more = parser.parse_known_args(arguments)
    folder = options.folder.expanduser()
    if importlib.util.find_spec("jupyterlab") is None:
        print("JupyterLab is not installed: pip install -e '.[notebooks]' -c constraints.txt", file=sys.stderr)
        return 1
    try:
        copied, kept = copy_lessons(folder)
    except CopyError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{folder}: {len(copied)} lessons copied, {len(kept)} were there and stay as they are", flush=True)
    if WINDOWS:
        return subprocess.call(command(folder, more), env=environment())
    return os.execve(sys.executable, command(folder, more), environment())  # Ctrl-C is then JupyterLab's own


if __name__ == "__main__":
    sys.exit(main())

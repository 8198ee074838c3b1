"""The laboratory: its rooms, as a star import opens them."""

import loopback  # noqa: F401  first: it imports cv2 before aiortc  # isort: skip

import inspect
import re
import subprocess
import sys
from pathlib import Path

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))

import lab  # noqa: E402 - lies beside the lessons, not installed


def test_a_star_import_gives_what_the_rooms_say_they_have() -> None:
    for name in lab.__all__:
        assert callable(getattr(lab, name)), name
        assert inspect.getdoc(getattr(lab, name)), name
    assert lab.__all__ == sorted(lab.__all__)


def test_the_map_names_every_room() -> None:
    rooms = {
        path.stem for path in (NOTEBOOKS / "lab").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    named = set(re.findall(r"(?m)(?:^|   +)(\w+)  +\w", lab.__doc__ or ""))
    assert rooms - {"__init__"} <= named, "rooms that the map leaves out"
    assert named <= rooms, "rooms that are on the map only"


def test_lab_imports_cv2_before_av() -> None:
    seen = "import sys, lab; loaded = list(sys.modules); print(loaded.index('cv2') < loaded.index('av'))"
    ended = subprocess.run([sys.executable, "-c", seen], cwd=NOTEBOOKS, capture_output=True, text=True, timeout=30)
    assert ended.stdout == "True\n", ended.stderr

"""What README.md says about the code."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import json
import re
from pathlib import Path

README = (Path(loopback.__file__).parent / "README.md").read_text()


def test_every_name_of_the_code_exists() -> None:
    names = set(
        re.findall(r"`((?:Peer|Call)\.\w+|[A-Z][a-z]+[A-Z]\w+|Channel|Event|Log|Peer|Call|caller|callee)`", README)
    )
    assert len(names) > 8
    for name in names:
        owner, _, member = name.partition(".")
        assert hasattr(loopback, owner), name
        assert not member or hasattr(getattr(loopback, owner), member), name


def test_the_options_exist_and_the_keys_are_told() -> None:
    source = Path(loopback.__file__).read_text()
    for option in set(re.findall(r"`(?:python loopback\.py )?[^`|]*?(--[a-z][a-z-]+)", README)) - {
        "--help",
        "--rounds",
    }:
        assert f'"{option}"' in source, option
    told = set(re.findall(r"`(\w)`", README.partition("| key in the window")[2].partition("\n\n")[0]))
    assert told == set(loopback.KEYS)


def test_its_number_of_steps_is_right() -> None:
    numbers = {"fifteen": 15, "sixteen": 16, "seventeen": 17}
    told = re.search(r"(\w+) steps, `Call.steps`", README)
    assert told

    async def count() -> int:
        call = loopback.Call(loopback.SyntheticSource(160, 120, 30))
        steps = len(call.steps)
        await call.close()
        return steps

    assert asyncio.run(count()) == numbers[told[1]]


def test_the_parts_it_names_are_the_parts_of_the_file() -> None:
    parts = re.findall(r"(?m)^# ---- (\d+) ", Path(loopback.__file__).read_text())
    assert [int(part) for part in parts] == list(range(1, len(parts) + 1))
    assert f"parts 6 to {len(parts)}" in README
    opening = loopback.__doc__ or ""
    assert all(re.search(rf"\b{part}  [A-Z]", opening) for part in parts)


def test_the_table_of_lessons_has_every_lesson_with_its_picture() -> None:
    lessons = sorted((Path(loopback.__file__).parent / "notebooks").glob("*.ipynb"))
    picture = r'<img src="notebooks/pictures/(\d\d)\.png" width="\d+" alt="">'
    cells = re.findall(rf"\[{picture}<br>(\d\d) ([^]]+)\]\(notebooks/([\w.]+)\)", README)
    assert [cell[3] for cell in cells] == [path.name for path in lessons]
    for path, (shown, number, title, _) in zip(lessons, cells, strict=True):
        first = json.loads(path.read_text())["cells"][0]["source"][0]
        assert first.strip() == f"# {number} · {title}"
        assert shown == number
        assert (path.parent / "pictures" / f"{shown}.png").exists()


def test_everything_it_links_to_is_there() -> None:
    folder = Path(loopback.__file__).parent
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link and not link.startswith("#")]
    assert len(links) > 8
    assert [link for link in links if not (folder / link).exists()] == []

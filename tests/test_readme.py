"""What README.md says about the code."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import asyncio
import inspect
import json
import re
from pathlib import Path

README = (Path(loopback.__file__).parent / "README.md").read_text()


def test_every_name_of_the_code_exists() -> None:
    names = re.findall(
        r"`((?:Peer|Call|IceOptions|Phone|Session)\.\w+|\w+_(?:pictures|blocks)|[A-Z]\w+(?:Only|Buffer)|"
        r"Channel|Event|Log|Room|CALL_CONTROL)`",
        README,
    )
    assert len(names) > 20
    for name in names:
        owner, _, member = name.partition(".")
        assert hasattr(loopback, owner), name
        thing = getattr(loopback, owner)
        assert not member or hasattr(thing, member) or f"self.{member}" in inspect.getsource(thing), name


def test_the_options_exist_and_the_keys_are_told() -> None:
    source = Path(loopback.__file__).read_text()
    for option in set(re.findall(r"loopback\.py[^`|]*?(--[a-z-]+)", README)) - {"--help"}:  # argparse's own
        assert f'"{option}"' in source, option
    for key in loopback.KEYS.split(" · "):
        assert f"`{key.split()[0]}`" in README, key


def test_its_number_of_steps_is_right() -> None:
    numbers = {"fourteen": 14, "fifteen": 15, "sixteen": 16}
    told = re.search(r"one list of (\w+) steps", README)
    assert told

    async def count() -> int:
        call = loopback.Call(loopback.SyntheticSource(160, 120, 30))
        steps = len(call.steps)
        await call.close()
        return steps

    assert asyncio.run(count()) == numbers[told[1]]


def test_the_table_of_lessons_says_what_the_lessons_say() -> None:
    lessons = sorted((Path(loopback.__file__).parent / "notebooks").glob("*.ipynb"))
    rows = re.findall(r"^\| \[(\d\d) [^]]+\]\(notebooks/([\w.]+)\) \| (.+) \|$", README, re.MULTILINE)
    assert [row[1] for row in rows] == [path.name for path in lessons]
    for path, (number, _, question) in zip(lessons, rows, strict=True):
        first = "".join(json.loads(path.read_text())["cells"][0]["source"])
        assert first.startswith(f"# {number} · ")
        assert f"**The question: {question}**" in " ".join(first.split())


def test_everything_it_links_to_is_there() -> None:
    folder = Path(loopback.__file__).parent
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link and not link.startswith("#")]
    assert len(links) > 8
    assert [link for link in links if not (folder / link).exists()] == []

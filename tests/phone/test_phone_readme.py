"""What the phone's README.md and the docstrings of its modules say about the code."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import ast
import importlib
import inspect
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import environment, run
from faults import calling
from phones import PHONE, command_line, serving

sys.path.append(str(Path(loopback.__file__).resolve().parent / "notebooks"))
import phone
import phone.person

FOLDER = Path(phone.__file__).parent
README = (FOLDER / "README.md").read_text()
MODULES = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def test_every_name_of_the_code_exists() -> None:
    names = re.findall(rf"`({'|'.join(MODULES)}|loopback)\.(?!py)(\w+)(?:\.(\w+))?`", README)
    assert len(names) > 60
    for module, name, member in names:
        thing = getattr(importlib.import_module("loopback" if module == "loopback" else f"phone.{module}"), name)
        if member and not hasattr(thing, member):  # set when one is made
            assert any(re.search(rf"self\.{member}\b", inspect.getsource(one)) for one in thing.__mro__[:-1]), name


def test_every_name_of_the_page_exists() -> None:
    names = set(re.findall(r"`page\.(?!js)(\w+)`", README))
    assert len(names) > 15
    script = (FOLDER / "page" / "page.js").read_text()
    defined = re.findall(r"(?:function|class) (\w+)", script)
    defined += re.findall(r"^  (?:async )?(\w+)\(.*\) \{$", script, re.MULTILINE)  # methods
    assert names <= set(defined), names - set(defined)


def test_every_name_is_told_with_its_module() -> None:
    """So none can hide from the tests above: all else in backquotes on the right side is a key, a file or a command."""
    for row in re.findall(r"^\|.*?\|(.*)\|$", README.partition("## Options")[0], re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", row):
            known = re.fullmatch(rf"({'|'.join(MODULES)}|loopback|page)\.\w+(\.\w+)?|\w|\.\w+|LOOPBACK_\w+", name)
            commands = ("python loopback.py ", "python notebooks/phone ", "call", "answer", "Peer")
            assert known or name.startswith(commands), name


def test_the_keys_exist() -> None:
    loopbacks = re.search(r"the start of `loopback.py`, its keys `(\w)` and `(\w)`", README)
    assert loopbacks
    assert set(loopbacks.groups()) <= set(loopback.KEYS)
    assert set(re.findall(r"`(\w)`", README)) - {"c"} == set(phone.person.KEYS)


def test_the_commands_and_options_exist() -> None:
    """Each command is taken as it stands; an option that is told alone is one of some command."""
    parse = command_line().parse
    commands = re.findall(r"python notebooks/phone ([^`\n]+)", README)
    assert len(commands) > 12
    for command in commands:
        parse(shlex.split(command))
    parsers = [parse(words) for words in (["serve"], ["call", "Ben"], ["answer"])]
    known = {name.replace("_", "-") for options in parsers for name in vars(options)} | {"step"}
    assert set(re.findall(r"--([a-z][a-z-]+)", README)) <= known


def test_its_three_commands_are_a_call(tmp_path: Path) -> None:
    """Without the installation, on a free port, for half a second."""
    blocks = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)
    serve, answer, call = (block.partition("notebooks/phone ")[2].split() for block in blocks[:3])
    assert (serve, answer, call) == (["serve"], ["answer"], ["call", "Python"])
    shape = ["--size", "160x120"]
    with serving(*serve[1:]) as server:
        where = ["--server", server.url, *shape]
        options = {"env": environment(), "cwd": tmp_path, "stdin": subprocess.DEVNULL}
        answering = subprocess.Popen([*PHONE, *answer, *where], stdout=subprocess.DEVNULL, **options)
        try:
            command = [*PHONE, *call, *where, "--seconds", "0.5"]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=90, **options)
        finally:
            answering.terminate()
            answering.wait(timeout=30)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "the call with Python is over" in ended.stdout
    assert (tmp_path / "phone.png").stat().st_size > 10_000, "as told: without a display, a picture"


def test_the_eight_acts_have_these_numbers() -> None:
    told = re.search(r"steps (\d+) to (\d+) of `python loopback.py --step`", README)
    assert told

    async def steps() -> list[str]:
        async with calling() as call:
            return [step.what for step in call.steps]

    first, *_, last = run(steps())[int(told[1]) - 1 : int(told[2])]
    assert (first, last) == ("createOffer", "setRemoteDescription(answer)")


def test_each_module_is_in_the_map_and_in_the_table() -> None:
    assert sorted(re.findall(r"^\| \[`(\w+)\.py`\]\(\1\.py\)", README, re.MULTILINE)) == MODULES
    assert sorted(re.findall(r"(?:^|  )(\w+) {2,}", phone.__doc__ or "", re.MULTILINE)) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_what_a_module_shows_at_its_top_uses_names_that_exist(module: str) -> None:
    """The lines set in by four are Python, and every name that they call is known there or in loopback."""
    code = importlib.import_module(f"phone.{module}")
    lines = re.findall(r"^    (.*)$", code.__doc__ or "", re.MULTILINE)
    called = {
        node.func.id
        for node in ast.walk(ast.parse("\n".join(lines), type_comments=False))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert [name for name in called if not hasattr(code, name) and not hasattr(loopback, name)] == []


def test_each_module_can_be_imported_first() -> None:
    """With cv2 before av and aiortc, or windows would hang."""
    env = environment(PYTHONPATH=f"{FOLDER.parents[1]}:{FOLDER.parent}")

    def imported(module: str) -> tuple[int, str]:
        code = f"import {module}, sys; names = [*sys.modules]; assert names.index('cv2') < names.index('av')"
        ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
        return ended.returncode, ended.stdout + ended.stderr

    modules = ["phone", *(f"phone.{module}" for module in MODULES)]
    with ThreadPoolExecutor(4) as threads:
        assert dict(zip(modules, threads.map(imported, modules), strict=True)) == dict.fromkeys(modules, (0, ""))


def test_everything_it_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (FOLDER / link).exists()] == []

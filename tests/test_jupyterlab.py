"""Lesson 00 as a learner meets it: a copy of their own, opened in JupyterLab, in a real browser, and run from the
menu."""

import loopback  # first: it imports cv2 before aiortc, which has to be so in every process  # isort: skip

import base64
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import nbformat
import numpy as np
import psutil
import pytest
from conftest import environment, wait_until
from playwright.sync_api import Page, sync_playwright

NOTEBOOKS = Path(loopback.__file__).resolve().parent / "notebooks"
LESSON = "00_a_whole_call.ipynb"
SECONDS = 90  # for JupyterLab to open, and for the lesson to run

SERVER = [
    *("--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", "--ServerApp.port_retries=0"),
    *("--IdentityProvider.token=", "--ServerApp.password="),
    "--LabApp.extension_manager=readonly",
]
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # also the cells out of sight are in the page
    # Nothing is asked of the network: no news, no look for another version.
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}

# How many cells have run, and the first that has not: by their text, for a layout at each look holds up the page.
CELLS = r"""() => {
    const cells = [...document.querySelectorAll('.jp-CodeCell')];
    const left = cells.filter(cell => !/^\[\d+\]:$/.test(cell.querySelector('.jp-InputPrompt').textContent.trim()));
    return [cells.length - left.length, left[0]?.querySelector('.jp-InputArea-editor').innerText];
}"""
OUTPUTS = "document.querySelectorAll('.jp-OutputArea-output').length"
MOVING = ".jp-OutputArea .widget-image"
PICTURES = "[...document.querySelectorAll(`.jp-OutputArea-output img[src^='data:image/${kind}']`)]"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab with its own settings, opened on a learner's copy; ended after the test."""
    folders = {name: tmp_path / name.lower() for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    runtime, settings = tmp_path / "runtime", tmp_path / "settings"
    for name, values in SETTINGS.items():
        file = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    changes = {"JUPYTER_RUNTIME_DIR": runtime, "JUPYTERLAB_SETTINGS_DIR": settings, **folders}
    with (tmp_path / "server.txt").open("wb") as words:
        server = subprocess.Popen(
            [sys.executable, str(NOTEBOOKS / "learn.py"), "--folder", str(tmp_path / "mine"), *SERVER],
            env=environment(**{name: str(folder) for name, folder in changes.items()}),
            stdout=words,
            stderr=words,
        )
    started = psutil.Process(server.pid)
    try:
        wait_until(lambda: list(runtime.glob("jpserver-*.json")) or server.poll() is not None, SECONDS)
        assert server.poll() is None, (tmp_path / "server.txt").read_text()
        yield json.loads(next(runtime.glob("jpserver-*.json")).read_text())["url"]
    finally:
        kernels = started.children(recursive=True) if server.poll() is None else []
        server.terminate()
        server.wait(timeout=20)
        _, left = psutil.wait_procs(kernels, timeout=20)
        for process in left:
            process.kill()
    assert left == [], "a kernel outlived the server"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A page in the system's Chromium; closed after the test."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"], timeout=SECONDS * 1000
        )
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            page.set_default_timeout(SECONDS * 1000)
            yield page
        finally:
            browser.close()


def pictures(page: Page, kind: str) -> list[str]:
    """Return the pictures of a kind (png, jpeg) that outputs show, as base64."""
    sources = page.evaluate(f"kind => {PICTURES}.map(picture => picture.src)", kind)
    return [source.partition(",")[2] for source in sources]


def look(page: Page, kind: str, number: int, screenshot: Path) -> None:
    """Bring one of the pictures into sight and take a screenshot."""
    page.evaluate(f"([kind, number]) => {PICTURES}.at(number).scrollIntoView({{block: 'center'}})", [kind, number])
    page.wait_for_timeout(200)
    page.screenshot(path=screenshot)


def decoded(picture: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR)


def run_all_cells(page: Page, screenshot: Path) -> list[str]:
    """Choose Run > Run All Cells; return each live picture that was seen while the cells ran."""
    page.locator(".jp-CodeCell").first.wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # a notebook run before would ask for its kernel
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    seen: dict[str, None] = {}
    until = time.monotonic() + SECONDS
    while (unfinished := page.evaluate(CELLS)[1]) is not None:
        assert time.monotonic() < until, unfinished
        seen.update(dict.fromkeys(pictures(page, "jpeg")))
        if len(seen) > 10 and not screenshot.exists():
            look(page, "jpeg", -1, screenshot)
        page.wait_for_timeout(80)
    assert page.evaluate(CELLS)[0] > 10
    return list(seen)


def test_lesson_00_runs_from_the_menu_and_the_picture_moves(address: str, page: Page, tmp_path: Path) -> None:
    page.goto(address)  # opens the first lesson
    page.locator(".jp-CodeCell").first.wait_for()
    assert page.evaluate(OUTPUTS) == 0, "something is answered before it is asked"
    seen = run_all_cells(page, tmp_path / "live.png")

    errors = page.locator("[data-mime-type='application/vnd.jupyter.error'], [data-mime-type*='stderr']")
    assert errors.all_inner_texts() == []
    assert page.locator(".jp-Dialog").count() == 0

    assert len(seen) >= 10, "the live picture stands still"
    frames = [decoded(picture).astype(int) for picture in seen]
    moved = [np.abs(one - other).mean() for one, other in itertools.pairwise(frames) if one.shape == other.shape]
    assert sum(change > 1 for change in moved) >= 5, moved

    figures = pictures(page, "png")
    stored = nbformat.read(NOTEBOOKS / LESSON, as_version=4)
    outputs = [output for cell in stored.cells for output in cell.get("outputs", [])]
    moving = page.locator(MOVING)
    assert len(figures) + moving.count() == sum("image/png" in output.get("data", {}) for output in outputs)
    look(page, "png", 0, tmp_path / "figure.png")
    for number, figure in enumerate(figures):
        assert decoded(figure).std() > 5, f"figure {number} is empty"
    assert max(decoded(figure).shape[1] for figure in figures) >= 600

    # The diagram has a slider: to its left is an earlier moment.
    diagram = moving.first
    handle = page.locator(".jp-OutputArea .widget-slider .noUi-handle").first
    handle.scroll_into_view_if_needed()
    whole = diagram.get_attribute("src")
    handle.focus()
    for _ in range(9):
        handle.press("ArrowLeft")
    page.wait_for_function("([picture, before]) => picture.src !== before", arg=[diagram.element_handle(), whole])
    page.screenshot(path=tmp_path / "slider.png")

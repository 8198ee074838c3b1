"""A call between a cell and a page in Chromium, which both change at once: notebooks/lab/page.py."""

import loopback  # first: it imports cv2 before aiortc  # isort: skip

import shutil
import sys
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from conftest import run

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lab import page
from lab.page import PageChannel, Visit, javascript, served, visit_table, visited

needs_chromium = pytest.mark.skipif(page.chromium() is None, reason="Chromium is not installed: apt install chromium")


def shape(visit: Visit) -> dict[str, Any]:
    """Return what is the same in every visit."""
    messages = ("send offer", "send answer", "refused offer")
    return {
        "negotiation": [(e.who, e.what) for e in visit.during(glare=True) if e.what in messages],
        "states of the page": [
            e.detail for e in visit.during(glare=True) if e.who == "page" and e.what == "signalingState"
        ],
        "seen": [(one["size"], one["number"] is not None) for one in visit.seen],
        "received": sorted(visit.received),
        "pictures": [visit.here.shape, *(one.shape for one in visit.at_the_page)],
        "rows": len(visit_table(visit).rows),
        "states": visit.states,
        "browser": visit.browser.partition(" ")[0],
    }


@needs_chromium
def test_the_recorded_visit_has_the_shape_of_a_real_one() -> None:
    real, recorded = run(visited(), seconds=60), Visit.read()
    assert shape(real) == shape(recorded)
    assert [who for who, what in shape(real)["negotiation"] if what == "send offer"] == ["page", "pc1", "page"]
    assert all(number is not None for found in real.received.values() for number in found[-3:])
    assert real.recorded == ""
    assert not [child for child in psutil.Process().children(recursive=True) if "chrom" in child.name()]


def test_without_chromium_the_recorded_visit_is_shown_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert run(visited()) == Visit.read()
    assert "recorded visit" in capsys.readouterr().out
    assert "recorded visit" in visit_table(Visit.read()).note


def test_by_hand_the_address_is_printed_and_nobody_is_waited_for_without_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(loopback.CallError, match="no page came"):
        run(visited(by_hand=True, patience=0.1))
    assert "http://127.0.0.1:" in capsys.readouterr().out


def test_one_page_is_let_in_and_only_ours() -> None:
    async def scenario() -> None:
        channel = PageChannel(loopback.Log())
        async with served(channel) as url, aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await http.ws_connect(f"{url}socket", origin="http://elsewhere.example")
            ours = await http.ws_connect(f"{url}socket", origin=url.rstrip("/"))
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await http.ws_connect(f"{url}socket", origin=url.rstrip("/"))
            async with http.get(f"{url}page/picture.js") as response:
                assert response.status == 200
            await ours.close()

    run(scenario())


def test_parts_of_the_page_are_shown_from_its_source() -> None:
    shown = javascript("polite").data
    assert "onnegotiationneeded" in shown
    assert "begin:" not in shown
    with pytest.raises(ValueError, match="no part"):
        javascript("rude")


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0", "Firefox 153"),
        ("Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/156.0.0.0 Safari/537.36", "Chromium 156"),
        ("Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 Version/19.1 Safari/605.1.15", "Safari 19"),
        ("curl", "a browser"),
    ],
)
def test_a_browser_is_named(agent: str, name: str) -> None:
    assert page._named(agent) == name

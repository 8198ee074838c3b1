"""What one takes along: the glossary, the pictures, the two pages. None is older than its source. No network."""

import loopback  # first: it imports cv2 before aiortc, which has to be so in every process  # isort: skip

import io
import json
import re
import sys
from pathlib import Path

import pytest
from conftest import run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

NOTEBOOKS = Path(loopback.__file__).resolve().parent / "notebooks"
sys.path.append(str(NOTEBOOKS))
import handouts  # noqa: E402 - a program in notebooks/, not installed
import summary  # noqa: E402

PAGE = (NOTEBOOKS / "glossary.md").read_text(encoding="utf-8")
ROW = re.compile(r"(?m)^\| \*\*(.+?)\*\*(?:, (.+?))? \| (.+) \| \[(\d\d)\]\((\w+\.ipynb)\), \*([^*]+)\* \|$")
rows = ROW.findall(PAGE)


def markdown(lesson: str) -> list[str]:
    """Return the texts of a lesson's cells that are no code."""
    cells = json.loads((NOTEBOOKS / lesson).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_nothing_is_older_than_what_it_was_made_from() -> None:
    assert list(handouts.stale()) == []


# ---- The glossary ----------------------------------------------------------------------------------------------------


def test_there_are_enough_words_and_the_page_counts_them() -> None:
    assert len(rows) == len(handouts.TERMS) == len({row[0] for row in rows}) >= 80
    assert len(re.findall(r"(?m)^\| ", PAGE)) == len(rows) + PAGE.count("| word | explained | where |")
    assert f"\n{len(rows)} words" in PAGE
    assert {row[3] for row in rows} == {lesson.name[:2] for lesson in handouts.lessons()}, "a lesson explains no word"


def test_every_link_leads_to_where_the_words_stand() -> None:
    for name, _, text, number, lesson, heading in rows:
        assert lesson.startswith(number), name
        cells = markdown(lesson)
        headings = {line.lstrip("#").strip() for cell in cells for line in cell.splitlines() if re.match("#+ ", line)}
        assert heading in headings, name
        first = handouts.sentences(text)[0].strip("()")
        assert any(first.replace(r"\|", "|") in one_line(cell) for cell in cells), f"{name}: {lesson} does not say it"
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        if link.startswith("#"):
            assert f"\n## {link[1:].upper()}\n" in PAGE, link
        elif "://" not in link:
            assert (NOTEBOOKS / link).exists(), link


def test_the_words_are_in_their_order() -> None:
    names = [handouts.sorting(row[0]) for row in rows]
    assert names == sorted(names)


def test_a_word_that_no_lesson_explains_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handouts, "TERMS", (*handouts.TERMS, handouts.Term("phlogiston")))
    with pytest.raises(handouts.HandoutError, match="phlogiston: no lesson says 'phlogiston'"):
        handouts.glossary()
    assert handouts.main(["--check"]) == 1


def test_what_counts_as_a_sentence() -> None:
    text = 'One (RFC 3264, section 6.1). **Two** is it. `three` too: see "3." A fourth. (It is a fifth. And a sixth.)'
    assert handouts.sentences(text) == [
        "One (RFC 3264, section 6.1).",
        "**Two** is it.",
        '`three` too: see "3."',
        "A fourth.",
        "It is a fifth.",
        "And a sixth.",
    ]


def test_code_tables_and_what_is_folded_are_not_read() -> None:
    page = "# Head\nText that\ngoes on.\n\n- one item\n  of a list\n2. another\n\n| a | table |\n\n    indented\n\nend"
    assert list(handouts.blocks(page)) == ["# Head", "Text that goes on.", "one item of a list", "another", "end"]
    said = [one.text for lesson in handouts.lessons() for one in handouts.prose(lesson)]
    assert len(said) > 1500
    assert [text for text in said if "<details>" in text or text.startswith("|") or "```" in text] == []


# ---- The pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lesson", handouts.lessons(), ids=lambda lesson: lesson.stem)
def test_each_lesson_has_a_small_picture(lesson: Path) -> None:
    file = handouts.picture_file(lesson)
    assert file.stat().st_size <= handouts.LARGEST
    assert handouts.size_of(file.read_bytes()) == (320, 160)
    shown = Image.open(io.BytesIO(file.read_bytes())).convert("RGBA")
    alone = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("L")
    dark, bright = alone.getextrema()
    assert isinstance(dark, int)
    assert bright - dark > 80, "nothing is to be seen in it"


# ---- The two pages ---------------------------------------------------------------------------------------------------


def test_the_files_can_be_printed_and_sent() -> None:
    pdf = (NOTEBOOKS / "summary.pdf").read_bytes()
    assert len(re.findall(rb"/Type /Page\b", pdf)) == 2
    assert len(pdf) < 300_000
    for number in (1, 2):
        file = NOTEBOOKS / f"summary-{number}.png"
        assert file.stat().st_size < 300_000
        width, height = handouts.size_of(file.read_bytes())
        assert height / width == pytest.approx(297 / 210, rel=0.01)  # A4


def test_page_1_has_the_whole_run_and_no_text_leaves_a_page() -> None:
    made = run(summary.recorded())
    rows = summary.rows_of(made)
    assert [row.t for row in rows] == sorted(row.t for row in rows)
    texts = [row.words for row in rows if row.layer == "message"]
    assert sorted(texts) == sorted(["offer", "answer", *2 * ["candidate", "end-of-candidates"]])
    layers = [row.layer for row in rows]
    assert layers.count("STUN") >= 4  # more, where a busy machine lost patience
    assert layers.count("DTLS") >= 4
    assert layers.count("SRTP") == 1
    states = {state for row in rows for state in row.states}
    assert {("signalingState", "have-local-offer"), ("dtlsState", "connected")} <= states
    assert rows[-1].words == "first picture"
    for page in (summary.first_page(made), summary.second_page(made)):
        page.set_dpi(150)
        wide, high = page.bbox.size
        renderer = FigureCanvasAgg(page).get_renderer()
        boxes = [text.get_window_extent(renderer) for axes in page.axes for text in axes.texts]
        assert len(boxes) > 100
        margin = 0.9 * summary.MARGIN / summary.PAGE[0] * wide
        assert all(margin <= box.x0 and box.x1 <= wide - margin / 2 for box in boxes)
        assert all(margin / 2 <= box.y0 and box.y1 <= high - margin / 2 for box in boxes)

"""notebooks/questions.md: every question has a thread, an answer and a place, and every place is there. No network."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
PAGE = (NOTEBOOKS / "questions.md").read_text(encoding="utf-8")
THREAD = re.compile(r"\[([\w.-]+) #(\d+)\]\(https://github\.com/[\w.-]+/([\w.-]+)/(?:issues|pull|discussions)/(\d+)\)")
PLACE = re.compile(r"\[(\d\d)\]\((\d\d)_\w+\.ipynb\), \*[^*]+\*")
LESSONS = [path.name for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))]

rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
entries = [row for row in rows if len(row) == 4 and row[0] != "symptom or question"]
each_entry = pytest.mark.parametrize("entry", entries, ids=lambda entry: entry[1].partition("]")[0].strip("["))


def headings(notebook: str) -> set[str]:
    """Return the headings that stand in a lesson now."""
    cells = json.loads((NOTEBOOKS / notebook).read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "markdown" for line in "".join(cell["source"]).splitlines()]
    return {line.lstrip("#").strip() for line in lines if re.match(r"#+ ", line)}


def anchor(heading: str) -> str:
    """Return what the hosting site makes of a heading of a Markdown page."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_there_are_enough_and_the_page_counts_them() -> None:
    assert len(entries) >= 200
    assert f"\n{len(entries)} questions" in PAGE


@pytest.mark.parametrize("lesson", LESSONS)
def test_each_lesson_answers_some(lesson: str) -> None:
    assert sum(f"]({lesson})" in entry[3] for entry in entries) >= 12
    found = re.search(r"## How to find your cell\n(.*?)\nAn error message", PAGE, re.DOTALL)
    assert found
    assert f"]({lesson})" in found[1], "no symptom leads to it"


def test_every_line_of_a_table_is_an_entry_or_is_known() -> None:
    others = [row for row in rows if row not in entries]
    assert {len(row) for row in others} == {2, 4}
    assert all(row == ["symptom or question", "thread", "answer", "where"] for row in others if len(row) == 4)


@each_entry
def test_it_has_a_thread_an_answer_and_a_place(entry: list[str]) -> None:
    question, thread, answer, where = entry
    assert len(question) > 10
    found = THREAD.fullmatch(thread)
    assert found, thread
    assert found.group(1, 2) == found.group(3, 4)
    assert len(answer) > 20
    assert answer.endswith(".")
    place = PLACE.fullmatch(where)
    assert place, where
    assert place[1] == place[2]


def test_no_thread_stands_twice() -> None:
    threads = Counter(re.findall(r"https://github\.com/[^)\s]+", PAGE))
    assert [thread for thread, times in threads.items() if times > 1] == []
    assert len(threads) == len(entries)


def test_every_lesson_and_heading_it_names_is_there() -> None:
    places = sorted(set(re.findall(r"\]\((\w+\.ipynb)\), \*([^*]+)\*", PAGE)))
    assert sorted({notebook for notebook, _ in places}) == LESSONS
    assert [place for place in places if place[1] not in headings(place[0])] == []


def test_every_other_link_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PAGE) if "://" not in link]
    anchors = {"#" + anchor(line.lstrip("#").strip()) for line in PAGE.splitlines() if line.startswith("#")}
    assert [link for link in links if link.startswith("#") and link not in anchors] == []
    assert [link for link in links if not link.startswith("#") and not (NOTEBOOKS / link).exists()] == []
    assert {link for link in links if link.startswith("#")} >= {
        "#" + anchor(line[4:]) for line in PAGE.splitlines() if line.startswith("### ")
    }, "a subject is not in the list"
    assert {"glossary.md", "summary.pdf"} <= set(links)

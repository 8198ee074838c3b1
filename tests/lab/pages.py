"""What the tests of the lab read: the pixels of a picture, the texts of a page."""

import io
import re

import numpy as np
from PIL import Image


def image(png: bytes) -> np.ndarray:
    """Return the pixels of a PNG or JPEG, as they look on a white page."""
    drawn = Image.open(io.BytesIO(png)).convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB"))


def words(page: str) -> str:
    """Return the text of some HTML."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).replace("&nbsp;", " ").split())


def rows_of(page: str) -> list[list[str]]:
    """Return the texts of an HTML table's cells."""
    return [
        [words(cell) for cell in re.findall(r"<t[dh].*?</t[dh]>", row, re.DOTALL)]
        for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL)
    ]


def changed_in(page: str) -> list[str]:
    """Return the cells of a strip that are marked as changed."""
    return [words(cell).removeprefix("● ") for cell in re.findall(r"<td[^>]*><b>●.*?</td>", page)]

"""The pictures of the README: the matrix as its cells are, and a real terminal."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import blocks
import demo_recording
import pytest

from ckptmigrate.compat import picture
from ckptmigrate.compat.cells import Matrix, grade, matrix

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SVG = "{http://www.w3.org/2000/svg}"
PICTURES = dict(picture.pictures(matrix()))


def test_the_pictures_are_fresh() -> None:
    assert len(PICTURES) == 4
    for name, text in PICTURES.items():
        assert (IMAGES / name).read_text() == text, "run `make facts`"


def marks(panel: ElementTree.Element) -> dict[tuple[int, int], str]:
    """Return the class of the mark at each corner of a panel."""
    return {
        (int(x), int(y)): str(path.get("class"))
        for path in panel.iter(f"{SVG}path")
        for x, y in re.findall(r"M(\d+) (\d+)", str(path.get("d")))
    }


@pytest.mark.parametrize("name", PICTURES)
def test_every_combination_has_its_mark(name: str) -> None:
    found, root = matrix(), ElementTree.fromstring(PICTURES[name])
    panels = [group for group in root.findall(f"{SVG}g") if len(marks(group)) > 3]
    assert len(panels) == 2
    writers = found.writers("idle")
    for panel, migrated in zip(panels, (False, True), strict=True):
        shown = marks(panel)
        columns, rows = ([*sorted({corner[axis] for corner in shown})] for axis in (0, 1))
        assert (len(columns), len(rows), len(shown)) == (12, 12, 144)
        for (x, y), mark in shown.items():
            key = writers[rows.index(y)], found.readers[columns.index(x)], "idle"
            cell = found.cells[key]
            assert mark == grade(cell.migrated if migrated else cell.raw), key


def luminance(color: str) -> float:
    """Return the relative luminance of a color (WCAG 2.2)."""
    parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("palette", [picture.LIGHT, picture.DARK])
def test_colors_have_enough_contrast(palette: picture.Palette) -> None:
    """WCAG 2.2: 4.5 for text, 3 for marks, which also differ in shape."""

    def contrast(color: str) -> float:
        low, high = sorted((luminance(color), luminance(palette.page)))
        return (high + 0.05) / (low + 0.05)

    assert contrast(palette.text) >= 4.5
    assert min(map(contrast, (palette.ok, palette.partial, palette.fails))) >= 3


def test_a_partial_outcome_is_in_the_legend() -> None:
    """No idle cell is partial today."""
    found = matrix()
    [first, *others] = found.matrix
    cells = (replace(first.cells[0], migrated="ok-no-fault"), *first.cells[1:])
    changed: Matrix = replace(found, matrix=(replace(first, cells=cells), *others))
    text = picture.picture(changed, picture.LIGHT, stacked=False)
    assert text.count('<path class="partial"') == 2  # the mark, and the legend
    assert "resumes without a part of it" in text
    assert '<path class="partial"' not in PICTURES["matrix-wide-light.svg"]


def test_the_readme_describes_its_pictures() -> None:
    text = (IMAGES.parents[1] / "README.md").read_text()
    shown = re.findall(r'<img src="([^"]+)"[^>]* alt="([^"]+)"', text)
    assert [name for name, _ in shown] == [
        "docs/images/demo.svg", "docs/images/matrix-wide-light.svg",
    ]  # fmt: skip
    assert all(len(alternative) > 100 for _, alternative in shown)
    assert {f"docs/images/{name}" for name in PICTURES} <= {
        *re.findall(r'(?:srcset|src)="([^"]+)"', text)
    }
    assert "86 of 144" in blocks.picture("") and "144 of 144" in blocks.picture("")


def test_the_recording_is_what_the_demo_prints() -> None:
    """In words, because versions of rich draw differently; twice the same bytes."""
    shown = demo_recording.output()
    stated = demo_recording.FILE.read_text()
    drawn = demo_recording.drawn(shown)
    assert demo_recording.words(drawn) == demo_recording.words(stated), "run `make demo-recording`"
    assert demo_recording.drawn(shown) == drawn
    lines = demo_recording.words(stated)
    assert lines[0] == "$ ckptmigrate check run --reader 0.17"
    assert lines[-1] == "run and back are equal, byte for byte."
    assert "url(http" not in stated  # a picture of a README loads no font

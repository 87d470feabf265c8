"""The matrix as SVG pictures: what resumes unmigrated, and what resumes after one command.

    python -m ckptmigrate.compat.picture DIRECTORY      (or: make facts)

There is a picture for light and for dark pages, with the two grids side by side or, for narrow
pages, one below the other. A combination that resumes is a filled square, one that fails a cross,
so that the pictures are also readable in black and white.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ckptmigrate.compat.cells import IDLE, Cell, Matrix, grade, matrix
from ckptmigrate.compat.text_tables import short_name
from ckptmigrate.pages.html_page import escaped
from ckptmigrate.storage import local_files

_CELL, _GAP = 29, 3  # a cell with its gap, and the gap
_LEFT, _TOP = 62, 86  # from a corner of a panel to its cells: labels, and titles
_BETWEEN, _MARGIN, _LEGEND = 30, 14, 34


@dataclass(frozen=True)
class Palette:
    """The colors of a picture.

    Attributes:
        page: the background.
        text: labels.
        ok, partial, fails: the marks of each grade.
    """

    page: str
    text: str
    ok: str
    partial: str
    fails: str


LIGHT: Final = Palette("#ffffff", "#1f2328", "#0b6fb8", "#9a6700", "#b3261e")
DARK: Final = Palette("#0d1117", "#e6edf3", "#58a6ff", "#d29922", "#ff8f85")
# The marks of a cell whose corner is at the start of the path.
_MARKS: Final = {
    "ok": "h26v26h-26z",
    "partial": "h26l-26 26z",
    "fails": "m7 7l12 12m0-12l-12 12",
}
_LEGENDS: Final = {
    "ok": "resumes",
    "partial": "resumes without a part of it",
    "fails": "fails to load",
}


def pictures(found: Matrix) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each picture."""
    for width, stacked in (("wide", False), ("narrow", True)):
        for color, palette in (("light", LIGHT), ("dark", DARK)):
            yield f"matrix-{width}-{color}.svg", picture(found, palette, stacked=stacked)


def alternative(found: Matrix) -> str:
    """Return the text for readers who do not see the picture."""
    raw, migrated, total = _counts(found)
    names = [short_name(reader) for reader in found.readers]
    return (
        f"Two grids of the releases {names[0]} to {names[-1]} that wrote a checkpoint, by the "
        f"releases that read it. Unmigrated, {raw} of {total} combinations resume; most older "
        f"releases fail to load the checkpoints of newer ones. After one command, {migrated} of "
        f"{total} resume."
    )


def picture(found: Matrix, palette: Palette, *, stacked: bool) -> str:
    """Return an SVG picture of the idle checkpoints.

    Args:
        stacked: whether the second grid is below the first one.
    """
    raw, migrated, total = _counts(found)
    columns, rows = len(found.readers), len(found.writers(IDLE))
    wide, high = _LEFT + columns * _CELL, _TOP + rows * _CELL
    step = (0, high + _BETWEEN) if stacked else (wide + _BETWEEN, 0)
    size = (wide + step[0] + 2 * _MARGIN, high + step[1] + 2 * _MARGIN + _LEGEND)
    grades = {grade(o) for cell in _idle(found) for o in (cell.raw, cell.migrated)}
    panels = (
        _panel(found, "Unmigrated", f"{raw} of {total} combinations resume", lambda c: c.raw),
        _panel(
            found, "After one command", f"{migrated} of {total} combinations resume",
            lambda c: c.migrated,
        ),
    )  # fmt: skip
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" '
        f'width="{size[0]}" height="{size[1]}" role="img">',
        f"<title>{escaped(alternative(found))}</title>",
        "<style>",
        f"text {{ fill: {palette.text}; font: 13px system-ui, sans-serif }}",
        ".title { font-weight: 600; font-size: 16px } .middle { text-anchor: middle } "
        ".end { text-anchor: end } .head { text-anchor: middle; font-size: 11px }",
        f".ok {{ fill: {palette.ok} }} .partial {{ fill: {palette.partial} }} "
        f".fails {{ fill: none; stroke: {palette.fails}; stroke-width: 3 }}",
        "</style>",
        f'<rect width="100%" height="100%" fill="{palette.page}"/>',
        *_moved(_MARGIN, _MARGIN, panels[0]),
        *_moved(_MARGIN + step[0], _MARGIN + step[1], panels[1]),
        *_moved(_MARGIN + _LEFT, size[1] - _MARGIN - _CELL, _legend(grades)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _idle(found: Matrix) -> list[Cell]:
    return [cell for cell in found.cells.values() if cell.scenario == IDLE]


def _counts(found: Matrix) -> tuple[int, int, int]:
    """Return the combinations that resume unmigrated, that resume migrated, and all."""
    cells = _idle(found)
    raw, migrated = (
        sum(grade(outcome) != "fails" for outcome in outcomes)
        for outcomes in ([c.raw for c in cells], [c.migrated for c in cells])
    )
    return raw, migrated, len(cells)


def _panel(found: Matrix, title: str, count: str, outcome: Callable[[Cell], str]) -> Iterator[str]:
    """Yield the lines of a grid; every mark of one grade is one path."""
    yield f'<text class="title" x="{_LEFT}" y="16">{title}</text>'
    yield f'<text x="{_LEFT}" y="36">{count}</text>'
    readers, writers = found.readers, found.writers(IDLE)
    middle = _LEFT + len(readers) * _CELL / 2
    yield f'<text class="middle" x="{middle:.0f}" y="60">read by</text>'
    middle = _TOP + len(writers) * _CELL / 2
    turned = f'transform="translate(12 {middle:.0f}) rotate(-90)"'
    yield f'<text class="middle" {turned}>written by</text>'
    for number, reader in enumerate(readers):
        x = _LEFT + number * _CELL + (_CELL - _GAP) / 2
        yield f'<text class="head" x="{x:g}" y="79">{escaped(short_name(reader))}</text>'
    for number, writer in enumerate(writers):
        y = _TOP + number * _CELL + 18
        yield f'<text class="end" x="{_LEFT - 7}" y="{y}">{escaped(short_name(writer))}</text>'
    paths: dict[str, list[str]] = {}
    for row, writer in enumerate(writers):
        for column, reader in enumerate(readers):
            mark = grade(outcome(found.cells[writer, reader, IDLE]))
            corner = f"M{_LEFT + column * _CELL} {_TOP + row * _CELL}"
            paths.setdefault(mark, []).append(corner + _MARKS[mark])
    for mark, parts in sorted(paths.items()):
        yield f'<path class="{mark}" d="{"".join(parts)}"/>'


def _legend(grades: set[str]) -> Iterator[str]:
    x = 0
    for mark, text in _LEGENDS.items():
        if mark in grades:
            yield f'<path class="{mark}" d="M{x} 0{_MARKS[mark]}"/>'
            yield f'<text x="{x + _CELL + 4}" y="18">{text}</text>'
            x += _CELL + 24 + 7 * len(text)


def _moved(x: int, y: int, lines: Iterator[str]) -> Iterator[str]:
    yield f'<g transform="translate({x} {y})">'
    yield from lines
    yield "</g>"


if __name__ == "__main__":
    for name, text in pictures(matrix()):
        local_files.write_text(Path(sys.argv[1], name), text)

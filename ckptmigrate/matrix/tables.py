"""The matrix as text: for a terminal of any width, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from ckptmigrate.matrix.cells import MEANINGS, OK, Cell, Matrix, grade
from ckptmigrate.text.lines import Line

Parts = list[tuple[str, str]]  # parts of text with a colour each, "" for none

SYMBOLS: Final = {"ok": "✓", "partial": "~", "fails": "✗"}
_COLORS: Final = {"ok": "green", "partial": "yellow", "fails": "red"}
_WRITER: Final = 11  # width of the first column
_WIDE, _NARROW = 5, 4  # widths of a reader's column
LEGEND: Final = (
    "✓ resumes, ~ resumes without something, ✗ does not resume: first as it lies, then migrated"
)


def table(matrix: Matrix, scenario: str, width: int | None) -> Iterator[Parts]:
    """One scenario: a row per writer, a column per reader, raw and migrated side by side.

    Args:
        width: of the terminal, in columns; None for no terminal. Where the table does not fit,
            there is a line per writer that names the readers that do not resume from the
            checkpoint as it lies.
    """
    readers = matrix.readers
    fits = [c for c in (_WIDE, _NARROW) if width is None or _WRITER + c * len(readers) <= width]
    if not fits:
        yield from _lists(matrix, scenario)
        return
    column = fits[0]
    names = (
        short_name(reader) if column == _WIDE else short_name(reader)[1:] for reader in readers
    )
    yield [(f"{'written by':{_WRITER}}" + "".join(f"{name:{column}}" for name in names), "")]
    for writer in matrix.writers(scenario):
        line: Parts = [(f"{writer:{_WRITER}}", "")]
        for reader in readers:
            cell = matrix.cells.get((writer, reader, scenario))
            line += _marks(cell) if cell else [("··", "")]  # not measured yet
            line.append((" " * (column - 2), ""))
        yield line


def title(matrix: Matrix, scenario: str) -> Line:
    """What a table is about, and its sum."""
    return Line(f"{scenario}: {summary(matrix, scenario)}", hang=2, style="bold")


def _lists(matrix: Matrix, scenario: str) -> Iterator[Parts]:
    for writer in matrix.writers(scenario):
        cells = [matrix.cells[writer, reader, scenario] for reader in matrix.readers]
        bad = [cell for cell in cells if grade(cell.raw) != "ok"]
        yield [(f"{writer}: {len(cells) - len(bad)} of {len(cells)} resume as it lies", "")]
        for cell in bad:
            yield [(f"  {short_name(cell.reader):6}", ""), *_marks(cell)]


def line(cell: Cell) -> Parts:
    """One cell as a line: the releases, the scenario, its marks, and the outcome unmigrated."""
    pair = f"{cell.writer} -> {cell.reader}"
    return [(f"{pair:24}{cell.scenario:{_WRITER}}", ""), *_marks(cell), (f"  {cell.raw}", "")]


def _marks(cell: Cell) -> Parts:
    return [(SYMBOLS[grade(o)], _COLORS[grade(o)]) for o in (cell.raw, cell.migrated)]


def summary(matrix: Matrix, scenario: str) -> str:
    """How many pairs resume, before and after one command."""
    cells = [cell for (_, _, of), cell in matrix.cells.items() if of == scenario]
    raw = sum(grade(cell.raw) != "fails" for cell in cells)
    migrated = sum(grade(cell.migrated) != "fails" for cell in cells)
    return f"{raw} of {len(cells)} pairs resume as they lie, {migrated} after one command"


def detail(matrix: Matrix, cell: Cell) -> list[Line]:
    """Everything about one cell; the answer in the first line."""
    answer = f"{cell.writer} -> {cell.reader}, {cell.scenario}: {matrix.meaning(cell.raw)}"
    lines = [Line(answer, hang=2, style="bold")]
    if cell.error:
        lines.append(Line(cell.error, "error    ", 2, style="red"))
    lines.append(Line(f"{cell.raw}; {cell.raw_known}", "raw      ", 2))
    lines.append(Line(f"{cell.migrated}; {cell.migrated_known}", "migrated ", 2))
    if cell.migrated != OK and cell.migrated in MEANINGS:
        lines.append(Line(matrix.meaning(cell.migrated), " " * 9, 2))
    if cell.command:
        lines.append(Line(cell.command, "run      ", 2, style="green", whole=True))
    return lines


def markdown(matrix: Matrix, scenarios: Sequence[str]) -> str:
    """Tables in Markdown, a table per scenario; raw and migrated in each cell."""
    parts = []
    for scenario in scenarios:
        row = next(each for each in matrix.scenarios if each.scenario == scenario)
        readers = matrix.readers
        head = " | ".join(short_name(reader) for reader in readers)
        lines = [
            f"**{scenario}**: {row.summary}. {summary(matrix, scenario)}.",
            "",
            f"| written by \\ read by | {head} |",
            "|---|" + ":-:|" * len(readers),
        ]
        for writer in matrix.writers(scenario):
            cells = (matrix.cells[writer, reader, scenario] for reader in readers)
            marks = " | ".join("".join(mark for mark, _ in _marks(cell)) for cell in cells)
            lines.append(f"| {writer} | {marks} |")
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, f"{LEGEND}."])


def into(text: str, matrix: Matrix) -> str:
    """A Markdown text with fresh tables wherever it has `<!-- matrix: SCENARIOS -->`, up to
    `<!-- /matrix -->`."""

    def fresh(place: re.Match[str]) -> str:
        return f"{place[1]}\n{markdown(matrix, place[2].split())}\n{place[3]}"

    return re.sub(r"(<!-- matrix: ([\w ]+) -->).*?(<!-- /matrix -->)", fresh, text, flags=re.DOTALL)


def short_name(release: str) -> str:
    """`0.13` of `0.13.1`; `0.20` of `0.20.dev0`."""
    return ".".join(release.split(".")[:2])

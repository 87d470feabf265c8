"""The matrix as text: tables for a terminal of any width, and Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from ckptmigrate.compat.cells import MEANINGS, OK, Cell, Matrix, grade
from ckptmigrate.text.lines import Line

Parts = list[tuple[str, str]]  # parts of a line, each with its color, "" for none

SYMBOLS: Final = {"ok": "✓", "partial": "~", "fails": "✗"}
_COLORS: Final = {"ok": "green", "partial": "yellow", "fails": "red"}
_WRITER: Final = 11  # width of the first column
_WIDE, _NARROW = 5, 4  # widths of a reader's column
LEGEND: Final = (
    "first mark: unmigrated, second mark: migrated. ✓ resumes, ~ resumes without the fault "
    "context or optimizer state, ✗ fails"
)


def table(matrix: Matrix, scenario: str, width: int | None) -> Iterator[Parts]:
    """Yield the lines of one scenario: a row per writer, a column per reader, two marks per cell.

    The first mark is for the unmigrated checkpoint, the second for the migrated one.

    Args:
        width: columns of the terminal, or None without a terminal. If the table is too wide, a
            list per writer replaces it, with the readers that cannot resume from the unmigrated
            checkpoint.
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
    """Return the title of a table: the scenario and the number of pairs that resume."""
    return Line(f"{scenario}: {summary(matrix, scenario)}", hang=2, style="bold")


def _lists(matrix: Matrix, scenario: str) -> Iterator[Parts]:
    for writer in matrix.writers(scenario):
        cells = [matrix.cells[writer, reader, scenario] for reader in matrix.readers]
        bad = [cell for cell in cells if grade(cell.raw) != "ok"]
        yield [(f"{writer}: {len(cells) - len(bad)} of {len(cells)} resume unmigrated", "")]
        for cell in bad:
            yield [(f"  {short_name(cell.reader):6}", ""), *_marks(cell)]


def line(cell: Cell) -> Parts:
    """Return one cell as a line: the releases, the scenario, the marks, the unmigrated outcome."""
    pair = f"{cell.writer} -> {cell.reader}"
    return [(f"{pair:24}{cell.scenario:{_WRITER}}", ""), *_marks(cell), (f"  {cell.raw}", "")]


def _marks(cell: Cell) -> Parts:
    return [(SYMBOLS[grade(o)], _COLORS[grade(o)]) for o in (cell.raw, cell.migrated)]


def summary(matrix: Matrix, scenario: str) -> str:
    """Return how many pairs resume, unmigrated and migrated."""
    cells = [cell for (_, _, of), cell in matrix.cells.items() if of == scenario]
    raw = sum(grade(cell.raw) != "fails" for cell in cells)
    migrated = sum(grade(cell.migrated) != "fails" for cell in cells)
    return f"{raw} of {len(cells)} combinations resume unmigrated, {migrated} migrated"


def detail(matrix: Matrix, cell: Cell) -> list[Line]:
    """Return all details of one cell; the first line is the answer."""
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
    """Return a Markdown table per scenario, with both marks in each cell."""
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
    """Return a Markdown text with the tables between `<!-- matrix: SCENARIOS -->` and
    `<!-- /matrix -->` replaced by new ones.
    """

    def fresh(place: re.Match[str]) -> str:
        return f"{place[1]}\n{markdown(matrix, place[2].split())}\n{place[3]}"

    return re.sub(r"(<!-- matrix: ([\w ]+) -->).*?(<!-- /matrix -->)", fresh, text, flags=re.DOTALL)


def short_name(release: str) -> str:
    """Return the minor release: `0.13` for `0.13.1`, `0.20` for `0.20.dev0`."""
    return ".".join(release.split(".")[:2])

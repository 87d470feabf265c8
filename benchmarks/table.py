"""The table of results in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final


@dataclass(frozen=True)
class Row:
    """The medians of the runs of one contender at one task.

    Attributes:
        ratio: its time divided by that of the first contender in the same repetition.
        peak_bytes, read_bytes, written_bytes: see `measure.Measurement`.
        runs: the number of runs.
    """

    task: str
    contender: str
    seconds: float
    ratio: float
    peak_bytes: float
    read_bytes: float
    written_bytes: float
    runs: int


UNITS: Final = ("B", "kB", "MB", "GB", "TB")
AMOUNT: Final = re.compile(rf"(\d[\d.]*) ({'|'.join(UNITS)})\b")
HEAD: Final = ("", "time", "ratio", "peak memory", "read", "written", "runs")


def render(rows: Iterable[Row]) -> str:
    """Return the table; a bold line names the task of the rows below it."""
    lines: list[Sequence[str]] = [HEAD, ("---", *["---:"] * (len(HEAD) - 1))]
    for task, group in groupby(rows, key=lambda row: row.task):
        lines.append((f"**{task}**", *[""] * (len(HEAD) - 1)))
        lines.extend(_cells(row) for row in group)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def parse(text: str) -> list[Row]:
    """Return the rows of the table in a text."""
    rows, task = [], ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != len(HEAD):
            continue
        if cells[0].startswith("**"):
            task = cells[0].strip("*")
        elif task:
            name, time, ratio, peak, read, written, runs = cells
            value, unit = time.split(" ")
            took = float(value) / (1000 if unit == "ms" else 1)
            sizes = size_in(peak), size_in(read), size_in(written)
            rows.append(Row(task, name, took, float(ratio), *sizes, int(runs)))
    return rows


def size_in(text: str) -> int:
    """Return the first number of bytes in a text."""
    found = AMOUNT.search(text)
    assert found, text
    return round(float(found[1]) * 10.0 ** (3 * UNITS.index(found[2])))


def _cells(row: Row) -> Sequence[str]:
    return (
        row.contender,
        seconds(row.seconds),
        f"{row.ratio:#.3g}".removesuffix("."),
        amount(row.peak_bytes),
        amount(row.read_bytes),
        amount(row.written_bytes),
        str(row.runs),
    )


def seconds(value: float) -> str:
    """Return a time with three digits, in seconds or milliseconds."""
    unit, scaled = ("s", value) if value >= 1 else ("ms", 1000 * value)
    return f"{scaled:#.3g}".removesuffix(".") + f" {unit}"


def amount(size: float) -> str:
    """Return a number of bytes with three digits."""
    for unit in UNITS[:-1]:
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {UNITS[-1]}"

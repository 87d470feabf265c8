"""The matrix as one HTML page that needs no network: a heat map and the details of one cell.

The page is pages/matrix.html with its style and script inlined. The tables are built here, so that
they are readable without JavaScript; matrix.js repaints them and shows the details of a cell.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from ckptmigrate.compat.cells import Cell, Matrix, ScenarioRow, grade
from ckptmigrate.compat.text_tables import SYMBOLS, short_name, summary
from ckptmigrate.pages.html_page import escaped, filled
from ckptmigrate.text.printable import printable

_FAILS: Final = "does not resume"


@dataclass(frozen=True)
class _Outcome:
    """The texts of one outcome on the page.

    Attributes:
        grade: `ok`, `partial` or `fails`.
        how: `measured` or `derived`.
        words: the outcome in words.
        reason: why the release cannot resume; empty if it can.
        known: the evidence, in words.
    """

    grade: str
    how: str
    words: str
    reason: str
    known: str


def page(found: Matrix) -> str:
    """Return the page, which is the same text for the same matrix.

    Texts of the matrix are escaped: for HTML in the tables, for a script element in the data.
    """
    rows = list(enumerate(found.scenarios))
    parts = {
        "data": _data(found),
        "tabs": "\n".join(_tab(number, row) for number, row in rows),
        "panels": "\n".join(_panel(found, number, row) for number, row in rows),
        **SYMBOLS,
    }
    return filled("matrix.html", parts, style="matrix.css", script="matrix.js")


def _tab(number: int, row: ScenarioRow) -> str:
    return (
        f'<button type="button" role="tab" id="tab-{number}" aria-controls="panel-{number}" '
        f'data-scenario="{escaped(row.scenario)}">{escaped(row.scenario)}</button>'
    )


def _panel(found: Matrix, number: int, row: ScenarioRow) -> str:
    """Return the panel of a scenario: its summary, the number of pairs that resume, its table."""
    heads = "".join(
        f'<th scope="col" title="{escaped(reader)}">{escaped(short_name(reader))}</th>'
        for reader in found.readers
    )
    lines = "\n".join(_line(found, row.scenario, writer) for writer in found.writers(row.scenario))
    width = max(1, len(found.readers))  # a table without columns is not valid HTML
    return f"""<section id="panel-{number}" aria-labelledby="tab-{number}">
<h2>{escaped(row.scenario)}</h2>
<p class="what">{escaped(row.summary)}</p>
<p class="count">{escaped(summary(found, row.scenario))}</p>
<div class="scroll"><table>
<thead>
<tr><td></td><th scope="colgroup" class="axis" colspan="{width}"><span>read by</span></th></tr>
<tr><th scope="col" class="axis">written by</th>{heads}</tr>
</thead>
<tbody>
{lines}
</tbody>
</table></div>
</section>"""


def _line(found: Matrix, scenario: str, writer: str) -> str:
    short = short_name(writer)
    cells = "".join(
        f"<td>{_button(found, found.cells[writer, reader, scenario])}</td>"
        for reader in found.readers
    )
    patch = f'<span class="patch">{escaped(writer[len(short) :])}</span>'
    return f'<tr><th scope="row">{escaped(short)}{patch}</th>{cells}</tr>'


def _button(found: Matrix, cell: Cell) -> str:
    """Return the button of an unmigrated cell; `paint` of matrix.js builds the migrated one."""
    raw = _outcome(found, cell.raw, cell.raw_known)
    words = f"{raw.words}: {raw.reason}" if raw.reason else raw.words
    label = f"{cell.writer} read by {cell.reader}: {words} ({raw.how})"
    act = " act" if raw.grade == "fails" else ""
    return (
        f'<button type="button" class="cell {raw.grade} {raw.how}{act}" '
        f'data-writer="{escaped(cell.writer)}" data-reader="{escaped(cell.reader)}" '
        f'aria-label="{escaped(label)}">{SYMBOLS[raw.grade]}</button>'
    )


def _outcome(found: Matrix, outcome: str, known: str) -> _Outcome:
    fails = grade(outcome) == "fails"
    meaning = found.meaning(outcome)
    return _Outcome(
        grade=grade(outcome),
        how="measured" if known.startswith("measured") else "derived",
        words=_FAILS if fails else meaning,
        reason=meaning if fails else "",
        known=known,
    )


def _data(found: Matrix) -> str:
    """Return the data of matrix.js as JSON; cells refer to `texts` by number, to save space."""
    texts: dict[str, int] = {}

    def numbers(text_of: dict[str, str]) -> dict[str, int]:
        return {key: texts.setdefault(printable(text), len(texts)) for key, text in text_of.items()}

    cells: dict[str, dict[str, Any]] = {}
    for cell in found.cells.values():
        cells["/".join((cell.scenario, cell.writer, cell.reader))] = {
            "raw": numbers(asdict(_outcome(found, cell.raw, cell.raw_known))),
            "migrated": numbers(asdict(_outcome(found, cell.migrated, cell.migrated_known))),
            **numbers({"error": cell.error, "command": cell.command}),
        }
    data = {"symbols": SYMBOLS, "texts": list(texts), "cells": cells}
    # `</script>` and `<!--` end or change the script element that contains the data.
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")

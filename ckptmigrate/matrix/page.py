"""The matrix as one HTML page that needs no network: a heat map, and all about the chosen cell.

The page is pages/matrix.html with its style and script inlined. The tables are made here, so that
they can be read without JavaScript too; matrix.js repaints them and shows a cell's details.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from ckptmigrate.matrix.cells import Cell, Matrix, ScenarioRow, grade
from ckptmigrate.matrix.tables import SYMBOLS, short_name, summary
from ckptmigrate.pages.html_page import escaped, filled
from ckptmigrate.text.printable import printable

_FAILS: Final = "does not resume"


@dataclass(frozen=True)
class _Outcome:
    """What the page says of one outcome.

    Attributes:
        grade: `ok`, `partial` or `fails`.
        how: `measured` or `derived`.
        words: the outcome in words.
        reason: why it does not resume; empty where it does.
        known: how it is known, in words.
    """

    grade: str
    how: str
    words: str
    reason: str
    known: str


def page(found: Matrix) -> str:
    """The whole page. The same matrix always gives the same text.

    Every text of the matrix is escaped: in the tables for HTML, in the data for a script element.
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
    """A scenario: what it is, how many pairs resume, and its table."""
    heads = "".join(
        f'<th scope="col" title="{escaped(reader)}">{escaped(short_name(reader))}</th>'
        for reader in found.readers
    )
    lines = "\n".join(_line(found, row.scenario, writer) for writer in found.writers(row.scenario))
    width = max(1, len(found.readers))  # a table without a column is no valid HTML
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
    """A cell as it lies. matrix.js puts the same together for the other view (`paint`)."""
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
    """What matrix.js shows of each cell, as JSON. Texts repeat: each stands once, in `texts`."""
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
    # `</script>` and `<!--` would end or change the element that the data lies in.
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")

"""A report as one printable HTML page in the style of the matrix, without script or network."""

from __future__ import annotations

from typing import Final

from ckptmigrate.compat.text_tables import SYMBOLS
from ckptmigrate.pages.html_page import escaped, filled
from ckptmigrate.report.document import Report
from ckptmigrate.report.sections import (
    GRADES,
    Block,
    Bullets,
    Command,
    Diff,
    Files,
    Heading,
    Labels,
    Section,
    sections,
)

_COLUMNS: Final = ("size after", "SHA-256 before", "SHA-256 after")
_SIGNS: Final = {"+": "add", "-": "drop", "~": "change"}


def page(report: Report) -> str:
    """Return the page, with every text escaped."""
    parts = {
        "verb": escaped(report.verb),
        "path": escaped(report.about),
        "mark": _mark(GRADES[report.document.outcome]),
        "outcome": escaped(report.document.outcome.value),
        "answer": escaped(report.document.answer),
        "time": escaped(report.time),
        "sections": "\n".join(map(_section, range(1, 100), sections(report.document))),
    }
    return filled("report.html", parts, style="report.css")


def _section(number: int, found: Section) -> str:
    inside = "\n".join(map(_block, found.blocks))
    head = f'<h2 id="part-{number}">{escaped(found.title)}</h2>'
    return f'<section aria-labelledby="part-{number}">\n{head}\n{inside}\n</section>'


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f'<p class="place"><code>{escaped(block.text)}</code></p>'
    if isinstance(block, Labels):
        return f"<dl>{''.join(_label(*row) for row in block.rows)}</dl>"
    if isinstance(block, Diff):
        lines = "\n".join(map(_changed, block.lines))
        return f'<pre class="diff"><code>{lines}</code></pre>'
    if isinstance(block, Files):
        return _files(block)
    if isinstance(block, Bullets):
        return f"<ul>{''.join(f'<li>{_sentence(text)}</li>' for text in block.texts)}</ul>"
    if isinstance(block, Command):
        text = escaped(block.text)
        return f'<p>{escaped(block.purpose)}</p>\n<pre class="command"><code>{text}</code></pre>'
    whys = "".join(_why(*why) for why in block.whys)
    title = f'<p class="title">{_mark(block.grade)}<strong>{escaped(block.title)}</strong></p>'
    return f'<div class="verdict">{title}<div class="why">{whys}</div></div>'


def _why(lines: tuple[str, ...], text: str) -> str:
    shown = "\n".join(map(escaped, lines))
    code = f'<pre class="error"><code>{shown}</code></pre>' if lines else ""
    return f"{code}<p>{_sentence(text)}</p>"


def _sentence(text: str) -> str:
    """Return a sentence as HTML, with the text between backticks as code."""
    parts = map(escaped, text.split("`"))
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))


def _label(label: str, lines: tuple[str, ...]) -> str:
    shown = "".join(f"<dd>{escaped(line)}</dd>" for line in lines)
    return f"<div><dt>{escaped(label)}</dt>{shown}</div>"


def _changed(line: str) -> str:
    return f'<span class="{_SIGNS.get(line[:1], "more")}">{escaped(line)}</span>'


def _files(block: Files) -> str:
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("file", *_COLUMNS))
    rows = "\n".join(
        f'<tr><th scope="row">{escaped(name)}</th>{"".join(map(_cell, _COLUMNS, others))}</tr>'
        for name, *others in block.rows
    )
    return f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"


def _cell(head: str, text: str | None) -> str:
    """Return a table cell with its column head, which CSS shows where rows become cards."""
    if text is None:
        return f'<td data-head="{head}" class="none">no file</td>'
    return f'<td data-head="{head}">{escaped(text)}</td>'


def _mark(grade: str) -> str:
    return f'<span class="cell {grade} act" aria-hidden="true">{SYMBOLS[grade]}</span>'

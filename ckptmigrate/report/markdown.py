"""A report as Markdown for an issue or a log; markup in texts of a checkpoint is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ckptmigrate.compat.text_tables import SYMBOLS
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
    sections,
)
from ckptmigrate.text.printable import printable

_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>#|~&$])")
_MENTION: Final = re.compile(r"([@#]|\bGH-)(?=\w)")  # of a user or an issue; `\` does not escape it
_LINK: Final = re.compile(r"(://|\bwww\.)", re.IGNORECASE)  # GitHub turns these into links


def page(report: Report) -> str:
    """Return the report as Markdown."""
    outcome = report.document.outcome
    lines = [
        f"# {_text(report.verb)} {_code(report.about)}",
        "",
        f"**{SYMBOLS[GRADES[outcome]]} {outcome.value}.** {_sentence(report.document.answer)}",
        "",
        f"ckptmigrate {_text(report.version)}, {_text(report.time)}",
    ]
    for section in sections(report.document):
        lines += ["", f"## {_text(section.title)}"]
        for block in section.blocks:
            lines += ["", *_block(block)]
    return "\n".join(lines) + "\n"


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Heading):
        yield _code(block.text)
    elif isinstance(block, Labels):
        yield from ("| what | found |", "|---|---|")
        for label, lines in block.rows:
            yield f"| {_text(label)} | {'<br>'.join(map(_text, lines))} |"
    elif isinstance(block, Diff):
        yield from _fenced("diff", block.lines)
    elif isinstance(block, Files):
        yield from ("| file | size after | SHA-256 before | SHA-256 after |", "|---|--:|---|---|")
        for row in block.rows:
            yield f"| {' | '.join(map(_cell, row))} |"
    elif isinstance(block, Bullets):
        yield from (f"- {_sentence(text)}" for text in block.texts)
    elif isinstance(block, Command):
        yield from (f"{_text(block.purpose)}:", "", *_fenced("sh", (block.text,)))
    else:
        yield f"**{SYMBOLS[block.grade]} {_text(block.title)}**"
        for lines, text in block.whys:
            if lines:
                yield from ("", *_fenced("text", lines))
            yield from ("", _sentence(text))


def _sentence(text: str) -> str:
    """Return a sentence as Markdown, with the text between backticks as code."""
    parts = text.split("`")
    shown = (_code(part) if at % 2 and part else _text(part) for at, part in enumerate(parts))
    return "".join(shown)


def _text(text: str) -> str:
    """Return a text with all markup escaped."""
    escaped = _MENTION.sub(r"\1<!-- -->", _SPECIAL.sub(r"\\\1", printable(text)))
    return _LINK.sub(lambda found: found[0].replace(":", "\\:").replace(".", "\\."), escaped)


def _code(text: str) -> str:
    """Return a text as code, delimited by more backticks than it has in a row."""
    text = printable(text)
    ticks = "`" * (_longest(text) + 1)
    room = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{room}{text}{room}{ticks}"


def _cell(text: str | None) -> str:
    """Return a text as code for a table, where a bar ends a cell even in code; None: no file."""
    return "no file" if text is None else _code(text).replace("|", "\\|")


def _fenced(kind: str, lines: tuple[str, ...]) -> list[str]:
    """Return lines as a code block, with a fence that is longer than any in the lines."""
    shown = [printable(line) for line in lines]
    fence = "`" * max(3, *(_longest(line) + 1 for line in shown)) if shown else "```"
    return [f"{fence}{kind}", *shown, fence]


def _longest(text: str) -> int:
    """Return the largest number of backticks in a row."""
    return max(map(len, re.findall("`+", text)), default=0)

"""Lines of output, wrapped to the width of a terminal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ckptmigrate.text.printable import printable

_NARROWEST: Final = 40  # columns; below that a hanging indent leaves no room for words
# A word. Text between backticks is a command to paste, so it counts as one word.
_WORD: Final = re.compile(r"(?:`[^`]*`|\S)+")


@dataclass(frozen=True)
class Line:
    """One line of output.

    Attributes:
        text: the text.
        head: a prefix, such as a label; wrapped text is aligned with `text`.
        margin: indentation of the whole line, in columns.
        hang: indentation of wrapped text after the margin, in columns; by default the width of
            the head.
        style: `bold` or a colour, for the head if there is one, otherwise for the line.
        whole: whether the line is never wrapped, such as a command to paste.
    """

    text: str
    head: str = ""
    margin: int = 0
    hang: int | None = None
    style: str = ""
    whole: bool = False


def fitted(line: Line, width: int | None) -> list[str]:
    """Return a line wrapped to a terminal, with unprintable characters escaped.

    Args:
        width: width of the terminal, in columns; None for no wrapping, for example in a pipe.
    """
    first = " " * line.margin + printable(line.head)
    text = printable(line.text)
    if line.whole or width is None or len(first) + len(text) <= width:
        return [(first + text).rstrip()]
    width = max(width, _NARROWEST)
    hang = line.margin + (len(line.head) if line.hang is None else line.hang)
    lines, current, fresh = [], first, True
    for word in _WORD.findall(text):
        if not fresh and len(current) + 1 + len(word) > width:
            lines.append(current)
            current, fresh = " " * hang, True
        current += word if fresh else f" {word}"
        fresh = False
    return [*lines, current]

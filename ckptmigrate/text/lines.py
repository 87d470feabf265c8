"""Lines of an answer, and how they fit the width of a terminal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ckptmigrate.text.printable import printable

_NARROWEST: Final = 40  # columns; below that a hanging indent leaves no room for words
# A word; what stands between backticks is a command to paste, and one word.
_WORD: Final = re.compile(r"(?:`[^`]*`|\S)+")


@dataclass(frozen=True)
class Line:
    """One line of an answer.

    Attributes:
        text: what it says.
        head: what stands before it, such as a label; text that does not fit goes on under the text.
        margin: columns before everything.
        hang: columns between the margin and text that goes on; by default the head's.
        style: `bold` or a colour: of the head where there is one, else of the line.
        whole: whether it is never broken, as a command to paste.
    """

    text: str
    head: str = ""
    margin: int = 0
    hang: int | None = None
    style: str = ""
    whole: bool = False


def fitted(line: Line, width: int | None) -> list[str]:
    """A line as one or more of a terminal, printable whatever a checkpoint put into it.

    Args:
        width: of the terminal, in columns; None to break nothing, as for a pipe.
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

"""Text from a checkpoint, made safe to print: no terminal escape gets through."""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 10_000  # characters of one line


def printable(text: str) -> str:
    """The text with every unprintable character (controls, escapes, bidi) as an escape code,
    and no longer than a terminal can bear."""
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )

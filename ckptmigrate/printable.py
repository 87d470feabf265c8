"""Text from a checkpoint, made safe to print: no terminal escape gets through."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with every unprintable character (controls, escapes, bidi) as an escape code."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )

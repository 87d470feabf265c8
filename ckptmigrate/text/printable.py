"""Escaping and shortening of text from a checkpoint before it is printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ckptmigrate.text.secrets import masked

_LONGEST: Final = 10_000  # characters of one line


def printable(text: str) -> str:
    """Return the text with unprintable characters (controls, escapes, bidi) as escape codes.

    Secrets of URLs are masked, and the text is cut after _LONGEST characters.
    """
    if ":/" in text or "@" in text:
        text = masked(text)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def few(names: Sequence[str], most: int = 4) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a count and its noun, for example `1 entry` or `2 entries`."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def number(value: int) -> str:
    """Return a number from a checkpoint as text, or its size if the number is very large.

    Python cannot convert an integer of thousands of digits to text.
    """
    return str(value) if value.bit_length() <= 128 else f"a number of {value.bit_length()} bits"

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

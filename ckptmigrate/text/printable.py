"""Text from a checkpoint, made fit to print: no terminal escape gets through, no list runs on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_LONGEST: Final = 10_000  # characters of one line


def printable(text: str) -> str:
    """The text with every unprintable character (controls, escapes, bidi) as an escape code,
    no longer than a terminal can bear, and without the secrets of URLs."""
    if ":/" in text or "@" in text:
        from ckptmigrate.text.secrets import masked

        text = masked(text)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def few(names: Sequence[str], most: int = 4) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

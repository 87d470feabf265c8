"""Sizes and numbers of data files as text."""

from __future__ import annotations


def size(count: int) -> str:
    """Return a number of bytes in decimal units."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError


def data_files(files: int, count: int) -> str:
    """Return the number and the size of data files."""
    return f"{files} data file{'' if files == 1 else 's'}, {size(count)}"

"""The CRC-32 of bytes that are end to end, from the CRC-32 of each part.

A CRC-32 is a polynomial modulo P with its bits reversed: bit 31 is the coefficient of 1. To append
`size` bytes multiplies the CRC-32 of what is before by x ** (8 * size). Source: zlib 1.2.13 crc32.c
crc32_combine.
"""

from __future__ import annotations

import functools
from typing import Final

_P: Final = 0xEDB88320
_ONE: Final = 1 << 31
_X_8: Final = 1 << 23  # x ** 8


def joined(first: int, second: int, size: int) -> int:
    """Return the CRC-32 of two byte strings that are end to end.

    Args:
        first, second: the CRC-32 of each.
        size: the bytes of the second.
    """
    return _product(_power(size), first) ^ second


@functools.lru_cache(maxsize=256)  # most cells of a parameter have the same size
def _power(size: int) -> int:
    """Return x ** (8 * size) modulo P."""
    found, square = _ONE, _X_8
    while size:
        if size & 1:
            found = _product(found, square)
        square = _product(square, square)
        size >>= 1
    return found


def _product(a: int, b: int) -> int:
    """Return the product of two polynomials modulo P."""
    found, bit = 0, _ONE
    while a:
        if a & bit:
            found ^= b
            a ^= bit
        bit >>= 1
        b = b >> 1 ^ (_P if b & 1 else 0)
    return found

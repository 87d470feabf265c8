"""Comparison of elements by hash, with fp32 parameters cast to the dtype of the weights.

The main parameters of an intact checkpoint, cast to the dtype of the weights, are the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

from ckptmigrate.errors import RefusedError
from ckptmigrate.optimizer.tensors import Spans, blocks
from ckptmigrate.storage.directories import Directory
from ckptmigrate.text.commands import install

MAIN: Final = "float32"  # dtype of main parameters
_PIECE: Final = 64 * 1024  # bytes that are cast at once; larger arrays leave the cache
_QUIET_NAN: Final = 0x7FC0  # c10::detail::round_to_nearest_even casts every NaN to it


def digest(directory: Directory, spans: Spans, dtype: str | None = None) -> bytes:
    """Return the SHA-256 hash of the elements of spans.

    Args:
        dtype: the dtype to cast fp32 elements to first; None to hash the bytes as stored.

    Raises:
        RefusedError: numpy is required and not installed.
    """
    cast = _CASTS[dtype or MAIN]
    found = hashlib.sha256()
    for block in blocks(directory, spans):
        for at in range(0, len(block), _PIECE):
            found.update(cast(block[at : at + _PIECE]))
    return found.digest()


def cast(block: bytes, dtype: str) -> bytes:
    """Return fp32 elements cast to a dtype as torch casts them."""
    return _CASTS[dtype](block)


def _to_bfloat16(block: bytes) -> bytes:
    """Round to nearest, ties to even; see c10/util/BFloat16.h."""
    np = _numpy()
    bits = np.frombuffer(block, "<u4")
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    rounded[(bits & 0x7FFFFFFF) > 0x7F800000] = _QUIET_NAN
    return bytes(rounded.astype("<u2").tobytes())


def _to_float16(block: bytes) -> bytes:
    np = _numpy()
    with np.errstate(over="ignore"):
        return bytes(np.frombuffer(block, "<f4").astype("<f2").tobytes())


def _numpy() -> Any:
    try:
        import numpy
    except ImportError as error:
        raise RefusedError(
            "numpy is needed to compare the optimizer with 16-bit weights",
            fix=f"run `{install('ckptmigrate[optimizer]')}`",
        ) from error
    return numpy


_CASTS: Final[dict[str, Callable[[bytes], bytes]]] = {
    MAIN: bytes,
    "bfloat16": _to_bfloat16,
    "float16": _to_float16,
}
DTYPES: Final = tuple(_CASTS)  # of weights

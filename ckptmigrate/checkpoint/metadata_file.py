"""Reader of `.metadata` files: large ones by rows, others as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from ckptmigrate.checkpoint import metadata
from ckptmigrate.checkpoint.damage import raise_first
from ckptmigrate.checkpoint.metadata import Metadata

# By rows and as a whole tree, to read, edit and write a file takes the same time at 0.5 MB without
# plans and at 0.8 MB with plans. Below 2 MB the whole tree takes at most half a second, and the
# written file contains no POP.
THRESHOLD: Final = 2 * 1024**2  # bytes
_KEPT: Final[list[list[Metadata]]] = []  # for each open block of `kept`, what it read last


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Keep the large file that the block read last, so that it does not read the same bytes twice.

    Other large files are kept only while they are in use.
    """
    _KEPT.append([])
    try:
        yield
    finally:
        _KEPT.pop()


def read(data: bytes, threshold: int | None = None) -> Metadata:
    """Read the bytes of a `.metadata` without executing them; read a large one by rows.

    Args:
        threshold: size in bytes from which a file is large; THRESHOLD by default.

    Raises:
        PickleError: no checkpoint writer wrote such a pickle.
        DamagedError: the pickle is not checkpoint metadata, or its tables are damaged.
    """
    found = parse(data, threshold)
    raise_first(found.damage)
    return found


def parse(data: bytes, threshold: int | None = None) -> Metadata:
    """Read a `.metadata` as `read` does, but accept `Metadata.damage`."""
    if len(data) >= (THRESHOLD if threshold is None else threshold):
        from ckptmigrate.checkpoint.large import view  # rarely needed, and its import is slow

        found = view.load(data)
        if found is not None:
            for kept in _KEPT:
                kept[:] = [found]
            return found
    return metadata.parse(data)

"""Moves of bytes into and out of a store: in pieces, counted, and sent twice where that is due."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from ckptmigrate.access.places import Url
from ckptmigrate.access.storage import Progress
from ckptmigrate.access.store_errors import code_of, says_it_exists
from ckptmigrate.errors import DamagedError, StoreError

_PIECE: Final = 16 * 1024 * 1024  # bytes read at a time


@contextlib.contextmanager
def counted(size: int, progress: Progress) -> Iterator[Any]:
    """A callback for fsspec; what it is not told (some libraries tell nothing) is told at the end.

    Args:
        size: in bytes, of the file.
    """
    from fsspec.callbacks import Callback

    class Counter(Callback):  # type: ignore[misc]
        told = 0

        def relative_update(self, inc: int = 1) -> None:
            self.told += inc
            progress(inc)

    counter = Counter()
    yield counter
    progress(size - counter.told)


@contextlib.contextmanager
def sent_twice(
    target: Url, arrived: Callable[[], bool], *, exclusive: bool = False
) -> Iterator[None]:
    """Take a write for done whose reply was lost: sent again, it meets what it has written itself.

    Args:
        arrived: whether what was to be written is there.
        exclusive: whether the write is to be refused where there is an object.

    Raises:
        FileExistsError: there is another object of this name.
    """
    try:
        yield
    except (StoreError, DamagedError):
        raise
    except Exception as error:
        # An upload in parts is over once it has succeeded.
        over = code_of(error) == "NoSuchUpload"
        if not over and not (exclusive and says_it_exists(error)):
            raise
        if arrived():
            return
        if over:
            raise
        raise FileExistsError(str(target)) from error


def pieces(size: int) -> Iterator[tuple[int, int]]:
    """The first byte, and the one after the last, of each piece of an object."""
    return ((start, min(size, start + _PIECE)) for start in range(0, size, _PIECE))

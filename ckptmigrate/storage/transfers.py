"""Transfers into and out of a store: in chunks, with progress and safe retries."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from ckptmigrate.errors import DamagedError, StoreError
from ckptmigrate.places import Url
from ckptmigrate.storage.progress import Progress
from ckptmigrate.storage.store_errors import code_of, says_it_exists

_PIECE: Final = 16 * 1024 * 1024  # bytes read at a time


@contextlib.contextmanager
def counted(size: int, progress: Progress) -> Iterator[Any]:
    """Yield an fsspec callback that reports progress; at the end, report the remaining bytes.

    Some libraries do not call the callback.

    Args:
        size: size of the file in bytes.
        progress: called with each number of bytes moved.
    """
    from fsspec.callbacks import Callback

    class Counter(Callback):  # type: ignore[misc]
        reported = 0

        def relative_update(self, inc: int = 1) -> None:
            self.reported += inc
            progress(inc)

    counter = Counter()
    yield counter
    progress(size - counter.reported)


@contextlib.contextmanager
def sent_twice(
    target: Url, arrived: Callable[[], bool], *, exclusive: bool = False
) -> Iterator[None]:
    """Treat a write as done if a retry fails because the first attempt succeeded.

    This happens if the response to the first attempt is lost.

    Args:
        target: the object to write.
        arrived: returns whether the object has the bytes to write.
        exclusive: whether the write fails if the object exists.

    Raises:
        FileExistsError: a different object of this name exists.
    """
    try:
        yield
    except (StoreError, DamagedError):
        raise
    except Exception as error:
        # A multipart upload no longer exists once it has succeeded.
        over = code_of(error) == "NoSuchUpload"
        if not over and not (exclusive and says_it_exists(error)):
            raise
        if arrived():
            return
        if over:
            raise
        raise FileExistsError(str(target)) from error


def pieces(size: int) -> Iterator[tuple[int, int]]:
    """Return the start and end (exclusive) byte of each chunk of an object."""
    return ((start, min(size, start + _PIECE)) for start in range(0, size, _PIECE))

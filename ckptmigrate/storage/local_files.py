"""Bounded reads and safe opens of local files; no other module opens files.

The author of a checkpoint chooses what is under its names, and a job may change it at any time.
Therefore only regular files are opened for reading, not a FIFO (whose open may block forever) or a
device, and every read has a limit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

LARGEST_TEXT: Final = 32 * 1024**2  # bytes
_UNSIZED: Final = 64 * 1024  # bytes read of a file whose size is 0, as for files in /proc


class NotRegularError(OSError):
    """Error for a path that is not a regular file."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, "it is not a regular file", str(path))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading.

    Raises:
        NotRegularError: the path is not a regular file.
        OSError: the file cannot be opened.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise NotRegularError(path)
    # The path may be a different file by now; NONBLOCK keeps the open of a FIFO from blocking.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NotRegularError(path)
        yield file


def size_of(file: BinaryIO) -> int:
    """Return the size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def drop_cache(handle: int) -> None:
    """Give the cached pages of an open file back, so that the next read is from disk."""
    with contextlib.suppress(OSError):  # only advice
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def read(path: Path, most: int) -> bytes:
    """Read a regular file.

    Args:
        most: maximum size in bytes.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is larger than `most`.
    """
    with opened(path) as file:
        size = size_of(file)
        if size > most:
            raise OSError(errno.EFBIG, f"it is larger than {most} bytes", str(path))
        return file.read(size or min(most, _UNSIZED))


def read_text(path: Path, most: int = LARGEST_TEXT) -> str:
    """Read a regular file as UTF-8; arguments and errors as for `read`.

    Raises:
        UnicodeDecodeError: the file is not UTF-8.
    """
    return read(path, most).decode()


def shipped(name: str) -> str:
    """Read a text file of this package."""
    # importlib.resources does the same, and takes several times as long to import.
    loader: Any = __spec__.loader
    content: bytes = loader.get_data(str(Path(__file__).parent.parent / name))
    return content.decode()


def create(path: Path, mode: int) -> BinaryIO:
    """Create a file and open it for writing; do not follow a link.

    Args:
        mode: permissions before the umask.

    Raises:
        OSError: the file exists or cannot be created.
    """
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb")


def sync(path: Path) -> None:
    """Sync a regular file to disk."""
    with opened(path) as file:
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a file that the user named; overwrite it if it exists.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_text(text, encoding="utf-8")


def append(path: Path) -> int:
    """Open a regular file for reading and appending, create it if needed, return the descriptor.

    Raises:
        NotRegularError: the path is not a regular file.
        OSError: the file cannot be opened.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    if path.exists() and not path.is_file():
        raise NotRegularError(path)
    handle = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise NotRegularError(path)
    return handle


def over(handle: int) -> BinaryIO:
    """Return a file that reads from a descriptor; closing it leaves the descriptor open."""
    return open(handle, "rb", closefd=False)


def directory(path: Path) -> int:
    """Open a directory to sync or to lock it; return the descriptor.

    Raises:
        OSError: the directory cannot be opened.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def nowhere() -> int:
    """Open the null device for writing; return the descriptor."""
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

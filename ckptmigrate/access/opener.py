"""Open files: no other module does.

Whoever made a checkpoint chose what is under its names, and a job may change it at any time. So
only regular files are opened for reading, never a FIFO, whose open may wait forever, or a device,
and every read has a bound.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

LARGEST_TEXT: Final = 32 * 1024**2  # bytes
_UNSIZED: Final = 64 * 1024  # bytes read of a file that says it has none, as those in /proc do


class NotRegularError(OSError):
    """What is under a name is not a regular file."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, "it is not a regular file", str(path))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading.

    Raises:
        NotRegularError: it is another kind of file.
        OSError: it cannot be opened.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise NotRegularError(path)
    # It may be another one by now; NONBLOCK keeps the open of a FIFO from waiting.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NotRegularError(path)
        yield file


def size_of(file: BinaryIO) -> int:
    """The bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def read(path: Path, most: int) -> bytes:
    """Read a regular file.

    Args:
        most: the most bytes that it may have.

    Raises:
        OSError: it cannot be read, is not a regular file, or has more.
    """
    with opened(path) as file:
        size = size_of(file)
        if size > most:
            raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
        return file.read(size or min(most, _UNSIZED))


def read_text(path: Path, most: int = LARGEST_TEXT) -> str:
    """Read a regular file as UTF-8; arguments and errors as of `read`.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    return read(path, most).decode()


def shipped(name: str) -> str:
    """Read a text file of this package."""
    from importlib import resources  # verbs that need none are not to import it

    return (resources.files("ckptmigrate") / name).read_text(encoding="utf-8")


def create(path: Path, mode: int) -> BinaryIO:
    """Create a file and open it for writing; never through a link.

    Args:
        mode: its permissions, of which the umask takes some away.

    Raises:
        OSError: it exists, or cannot be created.
    """
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb")


def write_text(path: Path, text: str) -> None:
    """Write a file that the user named, or write over it.

    Raises:
        OSError: it cannot be written.
    """
    path.write_text(text, encoding="utf-8")


def append(path: Path) -> int:
    """Open a regular file for reading and appending, or create one; returns the descriptor.

    Raises:
        NotRegularError: it is another kind of file.
        OSError: it cannot be opened.
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
    """A file to read what a descriptor has open; closing it leaves the descriptor open."""
    return open(handle, "rb", closefd=False)


def directory(path: Path) -> int:
    """Open a directory, to sync or to lock it; returns the descriptor.

    Raises:
        OSError: it cannot be opened.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def nowhere() -> int:
    """Open what swallows everything that is written; returns the descriptor."""
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

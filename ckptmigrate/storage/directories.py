"""Read access to one checkpoint directory: list, read, read a range.

Only regular files are opened, and links only as link_rules.py allows. Therefore an untrusted
checkpoint cannot choose which files are opened or how much of a file is held in memory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, TypeVar

from ckptmigrate.errors import DamagedError
from ckptmigrate.places import Place, Url
from ckptmigrate.storage import local_files, pointers
from ckptmigrate.storage.limits import LARGEST_PART, largest, too_large
from ckptmigrate.storage.link_rules import check_link

if TYPE_CHECKING:
    from ckptmigrate.storage.store import Store

T = TypeVar("T")
_PIECE: Final = 1024**2  # bytes


class Directory(Protocol):
    """Read access to one checkpoint directory."""

    @property
    def path(self) -> Place:
        """Return the place of the directory."""

    def files(self) -> Mapping[str, int]:
        """Return name -> size in bytes of every file directly inside."""

    def folders(self) -> Collection[str]:
        """Return the names of the directories directly inside."""

    def below(self, folder: str) -> Directory | None:
        """Return a directory directly inside; None if it does not exist or is a link."""

    def read(self, name: str) -> bytes:
        """Return the content of a small file.

        Raises:
            PointerError: only a pointer to the file was downloaded.
        """

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file in chunks, for callers that need not hold all of it."""

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; fewer at the end of the file."""

    def check_link(self, name: str) -> None:
        """Raise if a file is a link to a file that is not part of a checkpoint.

        Raises:
            DamagedError: the file is such a link; the message names its target.
        """

    def same_file(self, name: str, other: Place) -> bool:
        """Return whether two names refer to one file, so that no bytes need to be compared."""


def directory(place: Place, *, by_name: bool = False) -> Directory:
    """Return the directory at a place; by name, a store lists it only if all names are needed."""
    if isinstance(place, Path):
        return LocalDirectory(place)
    from ckptmigrate.storage.store_directories import NamedStoreDirectory, StoreDirectory

    return NamedStoreDirectory(place) if by_name else StoreDirectory(place)


def is_file(place: Place) -> bool:
    """Return whether a place is a file, links followed."""
    return place.is_file() if isinstance(place, Path) else _store_of(place).is_file(place)


def is_dir(place: Place) -> bool:
    """Return whether a place is a directory, links followed, or has objects below it."""
    return place.is_dir() if isinstance(place, Path) else _store_of(place).is_directory(place)


def exists(place: Place) -> bool:
    """Return whether a place is a file or a directory."""
    return place.exists() if isinstance(place, Path) else is_file(place) or is_dir(place)


def _store_of(url: Url) -> Store:
    from ckptmigrate.storage.store import store_of  # local checkpoints do not need it

    return store_of(url)


def start_of(file: Place, most: int) -> bytes:
    """Return the first bytes of a file without listing its directory.

    Args:
        most: maximum number of bytes.

    Raises:
        DamagedError: the file cannot be read.
        PointerError: only a pointer to the file was downloaded.
    """
    start = _start_of(file, most)
    pointers.check(file, start, len(start))
    return start


def _start_of(file: Place, most: int) -> bytes:
    if isinstance(file, Path):
        return LocalDirectory(file.parent).read_range(file.name, 0, most)
    from ckptmigrate.storage.store_directories import missing

    try:
        return _store_of(file).read_start(file, most)
    except FileNotFoundError as error:
        raise missing(file) from error


def drop_cache(file: Place) -> None:
    """Give the cached pages of a local file back."""
    if isinstance(file, Path):
        with contextlib.suppress(OSError), local_files.opened(file) as opened:
            local_files.drop_cache(opened.fileno())


class LocalDirectory:
    """Directory of the local file system."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _listing(self) -> tuple[dict[str, int], list[str]]:
        sizes: dict[str, int] = {}
        folders = []
        with os.scandir(self.path) as found:
            for item in found:
                try:
                    if item.is_file():
                        sizes[item.name] = item.stat().st_size
                    elif item.is_dir():
                        folders.append(item.name)
                except OSError:  # a dangling link is not a file
                    continue
        return dict(sorted(sizes.items())), sorted(folders)

    def files(self) -> Mapping[str, int]:
        return self._listing[0]

    def folders(self) -> Collection[str]:
        return self._listing[1]

    def below(self, folder: str) -> Directory | None:
        if folder not in self.folders() or (self.path / folder).is_symlink():
            return None
        return LocalDirectory(self.path / folder)

    def read(self, name: str) -> bytes:
        with _opened(self.path / name) as file:
            content = file.read(_size(file, self.path / name))
        pointers.check(self.path / name, content, len(content))
        return content

    def pieces(self, name: str) -> Iterator[bytes]:
        with _opened(self.path / name) as file:
            left = _size(file, self.path / name)
            while piece := file.read(min(left, _PIECE)):
                left -= len(piece)
                yield piece

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        path = self.path / name
        if length > LARGEST_PART:
            raise too_large(path, LARGEST_PART)
        with _opened(path) as file:
            size = local_files.size_of(file)
            file.seek(offset)
            return file.read(max(0, min(length, size - offset)))

    def check_link(self, name: str) -> None:
        check_link(self.path / name)

    def same_file(self, name: str, other: Place) -> bool:
        try:
            return isinstance(other, Path) and (self.path / name).samefile(other)
        except OSError:
            return False


def _size(file: BinaryIO, path: Path) -> int:
    """Return the size of an open file in bytes.

    Raises:
        DamagedError: the file is larger than the limit for its name.
    """
    size, most = local_files.size_of(file), largest(path.name)
    if size > most:
        raise too_large(path, most)
    return size


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; do not open a FIFO or a device.

    Raises:
        DamagedError: the path is not a regular file, cannot be read, or is a link out of the
            checkpoint.
    """
    check_link(path)
    try:
        with local_files.opened(path) as file:
            yield file
    except local_files.NotRegularError as error:
        raise DamagedError(
            "is not a regular file", path=path, fix="restore it from a copy"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DamagedError:
    """Return the error for a checkpoint file that the system does not let us read."""
    return DamagedError(
        f"cannot be read ({error.strerror})",
        path=path,
        fix="make it readable, then run the command again",
    )


class Once:
    """Directory that caches every file that is read as a whole."""

    def __init__(self, base: Directory) -> None:
        self.path = base.path
        self._base = base
        self._read: dict[str, bytes] = {}
        self._below: dict[str, Directory | None] = {}

    def files(self) -> Mapping[str, int]:
        return self._base.files()

    def folders(self) -> Collection[str]:
        return self._base.folders()

    def below(self, folder: str) -> Directory | None:
        if folder not in self._below:
            inside = self._base.below(folder)
            self._below[folder] = None if inside is None else Once(inside)
        return self._below[folder]

    def read(self, name: str) -> bytes:
        if name not in self._read:
            self._read[name] = self._base.read(name)
        return self._read[name]

    def pieces(self, name: str) -> Iterator[bytes]:
        yield self.read(name)

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        return self._base.read_range(name, offset, length)

    def check_link(self, name: str) -> None:
        self._base.check_link(name)

    def same_file(self, name: str, other: Place) -> bool:
        return self._base.same_file(name, other)


class Joined:
    """Directory with some files that are stored in another directory."""

    def __init__(self, base: Directory, other: Directory, names: Collection[str]) -> None:
        self.path = base.path
        self._base = base
        self._other = other
        self._names = names

    def _of(self, name: str) -> Directory:
        return self._other if name in self._names else self._base

    def files(self) -> Mapping[str, int]:
        there = self._other.files()
        return dict(sorted({**self._base.files(), **{n: there[n] for n in self._names}}.items()))

    def folders(self) -> Collection[str]:
        return self._base.folders()

    def below(self, folder: str) -> Directory | None:
        return self._base.below(folder)

    def read(self, name: str) -> bytes:
        return self._of(name).read(name)

    def pieces(self, name: str) -> Iterator[bytes]:
        return self._of(name).pieces(name)

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        return self._of(name).read_range(name, offset, length)

    def check_link(self, name: str) -> None:
        self._of(name).check_link(name)

    def same_file(self, name: str, other: Place) -> bool:
        return self._of(name).same_file(name, other)


class Overlay:
    """Directory with some of its files replaced, added, or (None) removed.

    `folder/file` names a file in a directory inside it.

    Args:
        planned: files that do not exist yet and cannot be read -> size in bytes.
    """

    def __init__(
        self,
        base: Directory,
        replaced: Mapping[str, bytes | None],
        planned: Mapping[str, int] | None = None,
    ) -> None:
        self.path = base.path
        self._base = base
        self._replaced = replaced
        self._planned = planned or {}

    def files(self) -> Mapping[str, int]:
        sizes = {n: s for n, s in self._base.files().items() if n not in self._replaced}
        own = {n: b for n, b in self._replaced.items() if "/" not in n}
        sizes.update({n: len(b) for n, b in own.items() if b is not None})
        sizes.update(self._planned)
        return dict(sorted(sizes.items()))

    def read(self, name: str) -> bytes:
        if name not in self._replaced:
            return self._base.read(name)
        content = self._replaced[name]
        if content is None:
            raise DamagedError("does not exist", path=self.path / name)
        return content

    def pieces(self, name: str) -> Iterator[bytes]:
        if name in self._replaced:
            yield self.read(name)
        else:
            yield from self._base.pieces(name)

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        if name not in self._replaced:
            return self._base.read_range(name, offset, length)
        return self.read(name)[offset : offset + length]

    def folders(self) -> Collection[str]:
        return self._base.folders()

    def below(self, folder: str) -> Directory | None:
        inside = self._base.below(folder)
        return None if inside is None else Overlay(inside, within(folder, self._replaced))

    def check_link(self, name: str) -> None:
        if name not in self._replaced:
            self._base.check_link(name)

    def same_file(self, name: str, other: Place) -> bool:
        return name not in self._replaced and self._base.same_file(name, other)


def within(folder: str, files: Mapping[str, T]) -> dict[str, T]:
    """Return the files in a folder, by their name in the folder."""
    start = f"{folder}/"
    return {n.removeprefix(start): value for n, value in files.items() if n.startswith(start)}


def size_of(directory: Directory, name: str) -> int | None:
    """Return the size of `file` or `folder/file` in bytes; None if missing or below a link."""
    *folders, file = name.split("/")
    for folder in folders:
        inside = directory.below(folder)
        if inside is None:
            return None
        directory = inside
    return directory.files().get(file)


def read_if_there(directory: Directory, name: str) -> bytes | None:
    """Return the content of `file` or `folder/file`; None if it does not exist."""
    return None if size_of(directory, name) is None else directory.read(name)


def folders_of(names: Iterable[str]) -> list[str]:
    """Return the folders of files named `folder/file`, outer folders first."""
    found = {parent for name in names for parent in PurePosixPath(name).parents}
    return sorted(str(folder) for folder in found if folder.name)

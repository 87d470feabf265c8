"""Read access to a checkpoint directory in an object store."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from typing import Final

from ckptmigrate.errors import DamagedError, StoreError
from ckptmigrate.places import Place, Url
from ckptmigrate.storage import pointers
from ckptmigrate.storage.limits import LARGEST_PART, largest, too_large
from ckptmigrate.storage.store import store_of
from ckptmigrate.storage.store_index import Listing

_PIECE: Final = 16 * 1024 * 1024  # bytes


class StoreDirectory:
    """The objects below a URL, listed once and read on demand."""

    def __init__(self, path: Url) -> None:
        self.path = path

    @cached_property
    def _listing(self) -> Listing:
        found = store_of(self.path).list(self.path)
        found.check(self.path)
        return found

    def files(self) -> Mapping[str, int]:
        return self._listing.files

    def folders(self) -> Collection[str]:
        return self._listing.folders

    @cached_property
    def _below(self) -> Mapping[str, StoreDirectory]:
        return {folder: StoreDirectory(self.path / folder) for folder in self.folders()}

    def below(self, folder: str) -> StoreDirectory | None:
        return self._below.get(folder)

    def read(self, name: str) -> bytes:
        content = b"".join(self._pieces(name, largest(name)))
        pointers.check(self.path / name, content, len(content))
        return content

    def pieces(self, name: str) -> Iterator[bytes]:
        return self._pieces(name, _PIECE)

    def _pieces(self, name: str, most: int) -> Iterator[bytes]:
        """Yield the content of a file, in one piece if it has at most so many bytes."""
        place = self.path / name
        try:
            # The listing does not include objects in subdirectories.
            size = self.files()[name] if name in self.files() else store_of(place).size(place)
            if size > largest(name):
                raise too_large(place, largest(name))
            if size <= most:
                yield store_of(place).read(place, size)
                return
            for start in range(0, size, most):
                yield store_of(place).read_range(place, start, min(size, start + most))
        except FileNotFoundError as error:
            raise (_gone(place) if name in self.files() else missing(place)) from error

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        place = self.path / name
        if length > LARGEST_PART:
            raise too_large(place, LARGEST_PART)
        size = self.files().get(name)
        if size is None:
            raise missing(place)
        end = min(size, offset + length)
        if offset >= end:
            return b""
        try:
            return store_of(place).read_range(place, offset, end)
        except FileNotFoundError as error:
            raise _gone(place) from error

    def check_link(self, name: str) -> None:
        """Do nothing: a store has no links."""

    def same_file(self, name: str, other: Place) -> bool:
        return self.path / name == other


class NamedStoreDirectory(StoreDirectory):
    """The objects below a URL, looked up by name, and listed if all names are needed."""

    @cached_property
    def _files(self) -> _NamedFiles:
        return _NamedFiles(self.path, store_of(self.path).is_file, lambda: self._listing.files)

    @cached_property
    def _folders(self) -> _Named:
        there = store_of(self.path).is_directory
        return _Named(self.path, there, lambda: self._listing.folders)

    def files(self) -> Mapping[str, int]:
        return self._files

    def folders(self) -> Collection[str]:
        return self._folders


class _Named(Collection[str]):
    """The names of files or directories in a place, each looked up at most once.

    Args:
        exists: called with the URL of a name.
        listed: returns all names.
    """

    def __init__(
        self, place: Url, exists: Callable[[Url], bool], listed: Callable[[], Collection[str]]
    ) -> None:
        self._place = place
        self._listed = listed
        self._exists = functools.cache(exists)

    def __contains__(self, name: object) -> bool:
        return self._exists(self._place / str(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed())

    def __len__(self) -> int:
        return len(self._listed())


class _NamedFiles(_Named, Mapping[str, int]):
    """The sizes of the files in a place."""

    def __getitem__(self, name: str) -> int:
        if name not in self:
            raise KeyError(name)
        place = self._place / name
        return store_of(place).size(place)


def missing(place: Url) -> DamagedError:
    """Return the error for a missing object of a checkpoint."""
    return DamagedError("does not exist", path=place, fix="restore it from a copy")


def _gone(place: Url) -> StoreError:
    return StoreError(
        "was listed, but does not exist",
        path=place,
        fix="stop other programs that remove it, then run the command again",
    )

"""Where the bytes of one checkpoint directory come from: list, read, read a range."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ckptmigrate.errors import DamagedError


class Directory(Protocol):
    """One checkpoint directory, to read from."""

    @property
    def path(self) -> Path:
        """Its place, for messages."""

    def files(self) -> Mapping[str, int]:
        """Name -> size in bytes of every file directly inside."""

    def read(self, name: str) -> bytes:
        """A whole file; only ever asked for the small ones."""

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer where the file ends before."""


class LocalDirectory:
    """A directory of the local file system."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, int] | None = None

    def files(self) -> Mapping[str, int]:
        if self._files is None:
            sizes: dict[str, int] = {}
            with os.scandir(self.path) as found:
                for item in found:
                    try:
                        if item.is_file():
                            sizes[item.name] = item.stat().st_size
                    except OSError:  # a link to nowhere is no file
                        continue
            self._files = dict(sorted(sizes.items()))
        return self._files

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise unreadable(self.path / name, error) from error

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        try:
            with (self.path / name).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            raise unreadable(self.path / name, error) from error


def unreadable(path: Path, error: OSError) -> DamagedError:
    """The error of a file of a checkpoint that the system does not let us read."""
    return DamagedError(
        f"cannot be read ({error.strerror})", path=path, fix="have it readable, then run this again"
    )


class Overlay:
    """A directory with some of its files replaced, added, or (None) taken away."""

    def __init__(self, base: Directory, replaced: Mapping[str, bytes | None]) -> None:
        self.path = base.path
        self._base = base
        self._replaced = replaced

    def files(self) -> Mapping[str, int]:
        sizes = {n: s for n, s in self._base.files().items() if n not in self._replaced}
        sizes.update({n: len(b) for n, b in self._replaced.items() if b is not None})
        return dict(sorted(sizes.items()))

    def read(self, name: str) -> bytes:
        if name not in self._replaced:
            return self._base.read(name)
        content = self._replaced[name]
        if content is None:
            raise DamagedError("does not exist", path=self.path / name)
        return content

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        if name not in self._replaced:
            return self._base.read_range(name, offset, length)
        return self.read(name)[offset : offset + length]

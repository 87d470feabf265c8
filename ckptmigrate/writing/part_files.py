"""Where the new data files of a checkpoint are written, and the records of the finished ones.

A local folder has both. In a new root in an object store, which has no rename, the data files have
their final names, and the records are objects beside the root.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from ckptmigrate.checkpoint.manifest import PAYLOAD
from ckptmigrate.checkpoint.sidecar import digest_of
from ckptmigrate.places import Place, Url
from ckptmigrate.planning.change import NewPayload
from ckptmigrate.storage import local_files
from ckptmigrate.storage.directories import Directory, directory
from ckptmigrate.storage.limits import LARGEST_JSON
from ckptmigrate.writing.durable import (
    make_directory,
    remove,
    require_space,
    sync_directory,
    write,
    write_pieces,
)
from ckptmigrate.writing.links import CANNOT

if TYPE_CHECKING:
    from ckptmigrate.storage.store import Store

_DEEPEST: Final = 4  # folders between an area and the records of a checkpoint of a save
PLAN: Final = "plan.json"  # which data files there will be; the first record
_RECORD: Final = ".json"  # the record of data file NAME is NAME.json
_PIECE: Final = 4 * 1024**2  # bytes read at once


class PartFiles(Protocol):
    """The new data files of one checkpoint, and their records."""

    @property
    def data(self) -> Place:
        """Return the place of the data files."""

    def make(self, *like: Path) -> None:
        """Create the folder; do nothing if it exists.

        Args:
            like: directories; the folder grants no more access than any of them.
        """

    def records(self) -> Mapping[str, bytes]:
        """Return the content of each record by the name of its data file; of PLAN by that name."""

    def record(self, name: str, content: bytes) -> None:
        """Write a record; it is on disk when this returns."""

    def versions(self, prefix: str = "") -> Mapping[str, str]:
        """Return the version of each data file whose name has a prefix (see `versions`)."""

    def require_space(self, size: int) -> None:
        """Raise an OSError if less space than `size` bytes is known to be free."""

    def write(self, name: str, payload: NewPayload, like: Path | None) -> None:
        """Write a data file; it is on disk when this returns."""

    def read_back(self, name: str) -> str:
        """Return the SHA-256 hash of a data file as it is on disk, in hex."""

    def remove(self, names: Collection[str]) -> None:
        """Remove data files and then their records, as far as they exist."""

    def remove_all(self) -> None:
        """Remove every data file and record."""


@dataclass(frozen=True)
class LocalPartFiles:
    """A local folder of data files and records."""

    data: Path

    def make(self, *like: Path) -> None:
        for folder in reversed((self.data, *self.data.parents)):
            if not folder.is_dir():
                make_directory(folder, *like)
                sync_directory(folder.parent)

    def records(self) -> Mapping[str, bytes]:
        return records(self.data)

    def record(self, name: str, content: bytes) -> None:
        path = self.data / _record_of(name)
        new = path.with_name(f".{path.name}")
        remove(new)
        write(new, content)
        os.rename(new, path)
        sync_directory(self.data)

    def versions(self, prefix: str = "") -> Mapping[str, str]:
        found = versions(self.data, prefix)
        return {name: found[name] for name in found if not (self.data / name).is_symlink()}

    def require_space(self, size: int) -> None:
        require_space(size, self.data / PLAN)

    def write(self, name: str, payload: NewPayload, like: Path | None) -> None:
        remove(self.data / name)  # a part of it, from an interrupted run
        write_pieces(self.data / name, payload.pieces(), like)
        sync_directory(self.data)

    def read_back(self, name: str) -> str:
        found = hashlib.sha256()
        with local_files.opened(self.data / name) as file:
            local_files.drop_cache(file.fileno())
            while piece := file.read(_PIECE):
                found.update(piece)
            local_files.drop_cache(file.fileno())
        return found.hexdigest()

    def remove(self, names: Collection[str]) -> None:
        for name in names:
            remove(self.data / name)
        sync_directory(self.data)
        for name in names:
            remove(self.data / _record_of(name))

    def remove_all(self) -> None:
        remove(self.data)


@dataclass(frozen=True)
class StorePartFiles:
    """Data files and records in an object store."""

    data: Url
    beside: Url

    def make(self, *like: Path) -> None:
        """Do nothing: a store has no folders."""

    def records(self) -> Mapping[str, bytes]:
        return records(self.beside)

    def record(self, name: str, content: bytes) -> None:
        _store(self.beside).replace(self.beside / _record_of(name), content)

    def versions(self, prefix: str = "") -> Mapping[str, str]:
        return versions(self.data, prefix)

    def require_space(self, size: int) -> None:
        """Do nothing: a store does not report its space."""

    def write(self, name: str, payload: NewPayload, like: Path | None) -> None:
        _store(self.data).create_large(self.data / name, payload.size, payload.pieces)

    def read_back(self, name: str) -> str:
        return digest_of(directory(self.data), name) or ""

    def remove(self, names: Collection[str]) -> None:
        store = _store(self.data)
        for name in names:
            store.remove(self.data / name)
        for name in names:
            store.remove(self.beside / _record_of(name))

    def remove_all(self) -> None:
        names = {*self.records(), *self.versions()} if self.data == self.beside else self.records()
        self.remove([name for name in names if name != PLAN])
        _store(self.beside).remove(self.beside / PLAN)


def part_files(data: Place, beside: Place | None = None) -> PartFiles:
    """Return the data files in a folder.

    Args:
        beside: the place of the records in an object store; by default that of the data files.
    """
    if isinstance(data, Path):
        return LocalPartFiles(data)
    assert beside is None or isinstance(beside, Url)
    return StorePartFiles(data, beside or data)


def bring(source: Path, target: Path) -> None:
    """Bring a finished data file to another directory of its file system."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in CANNOT:
            raise
        os.rename(source, target)  # if this run is interrupted, the next one writes it again


def folders(area: Place) -> Iterator[Place]:
    """Yield each folder of records in an area: the area itself, or folders below it."""
    if isinstance(area, Path) and not is_folder(area):
        return
    yield from _folders(directory(area), _DEEPEST)


def _folders(found: Directory, depth: int) -> Iterator[Place]:
    if PLAN in found.files():
        yield found.path
    for name in found.folders() if depth else ():
        below = found.below(name)
        if below is not None:
            yield from _folders(below, depth - 1)


def is_folder(path: Path) -> bool:
    """Return whether a path is a directory, and not a link to one."""
    return path.is_dir() and not path.is_symlink()


def records(folder: Place) -> dict[str, bytes]:
    """Return the content of each record by the name of its data file; of PLAN by that name."""
    if isinstance(folder, Path):
        names = sorted(os.listdir(folder)) if is_folder(folder) else []
        files = [folder / name for name in names if _is_record(name)]
        return {_of(f.name): local_files.read(f, LARGEST_JSON) for f in files if f.is_file()}
    listed = [name for name in directory(folder).files() if _is_record(name)]
    return {_of(name): _store(folder).read(folder / name) for name in listed}


def versions(folder: Place, prefix: str = "") -> dict[str, str]:
    """Return data file -> a value that changes when it is written again.

    Args:
        prefix: start of the names.
    """
    if not isinstance(folder, Path):
        listed = _store(folder).list(folder, prefix).versions
        return {n: v for n, v in listed.items() if PAYLOAD.fullmatch(n) and n.startswith(prefix)}
    found = {}
    for name in os.listdir(folder):
        if PAYLOAD.fullmatch(name) and name.startswith(prefix):
            status = (folder / name).stat()
            found[name] = f"{status.st_size}:{status.st_mtime_ns}"
    return found


def _store(place: Url) -> Store:
    from ckptmigrate.storage.store import store_of  # local checkpoints do not need it

    return store_of(place)


def _is_record(name: str) -> bool:
    return name == PLAN or (name.endswith(_RECORD) and bool(PAYLOAD.fullmatch(_of(name))))


def _record_of(name: str) -> str:
    return name if name == PLAN else f"{name}{_RECORD}"


def _of(record: str) -> str:
    return record if record == PLAN else record.removesuffix(_RECORD)

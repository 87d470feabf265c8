"""A directory on a local file system, for an in-place change (see `ckptmigrate.writing.medium`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ckptmigrate.checkpoint import sidecar
from ckptmigrate.checkpoint.migration_state import is_unfinished
from ckptmigrate.errors import CkptMigrateError, DamagedError, DestinationError, Retry
from ckptmigrate.storage import local_files
from ckptmigrate.storage.directories import folders_of
from ckptmigrate.storage.limits import LARGEST_JSON, LARGEST_PART
from ckptmigrate.text.commands import shell
from ckptmigrate.writing import journal, links, parts
from ckptmigrate.writing.durable import (
    adopt_directory,
    make_directory,
    remove,
    sync_directory,
    unwritable,
    write,
)

_NEW: Final = f"{journal.STAGE}/.new"  # the file that `create` or `copy` is writing


@dataclass(frozen=True)
class LocalMedium:
    """A directory on a local file system.

    Attributes:
        synced: directories whose entries are on disk and did not change since.
    """

    path: Path
    synced: set[Path] = field(default_factory=set, compare=False)

    def prepare(self) -> None:
        with contextlib.suppress(FileExistsError):
            self._make_folder(self.path / sidecar.FOLDER)
        self.check_folders(())

    def make_stage(self) -> None:
        self._make_folder(self.path / journal.STAGE)
        self.sync([journal.STAGE])

    def check_replaceable(self, names: Collection[str]) -> None:
        for name in sorted({*names, *folders_of(names)}):
            if (self.path / name).is_symlink():
                raise DestinationError(
                    f"{name} is a link to {os.readlink(self.path / name)}, which an in-place "
                    "migration does not replace",
                    path=self.path,
                    fix="omit --in-place; the result then has its own file",
                    retry=Retry(leave_out=("--in-place",)),
                )

    def create(self, name: str, content: bytes, like: Path | None = None) -> None:
        self._make_folders(name)
        new = self._new()
        write(new, content, like=like)
        if local_files.read(new, LARGEST_PART) != content:
            raise DamagedError(
                "differs from what was written when read back", path=self.path / name
            )
        self._rename(new, self.path / name)

    def copy(self, source: str, target: str, size: int) -> None:
        self._make_folders(target)
        old, there = self.path / source, self.path / target
        if os.path.lexists(there) and os.path.samestat(old.lstat(), there.lstat()):
            return  # a rename to another name of the same file would do nothing
        self.synced.discard(there.parent)
        if not os.path.lexists(there) and links.linked(old, there):
            return
        new = self._new()
        links.duplicate(old, new)
        self._rename(new, there)

    def _rename(self, new: Path, target: Path) -> None:
        self.synced.difference_update((new.parent, target.parent))
        os.rename(new, target)

    def _new(self) -> Path:
        """Return the path to write the next file to, which does not exist."""
        new = self.path / _NEW
        if os.path.lexists(new):  # after an error
            remove(new)
        return new

    def _make_folders(self, name: str) -> None:
        for folder in folders_of([name]):
            if not (self.path / folder).is_dir():
                self._make_folder(self.path / folder)

    def _make_folder(self, folder: Path) -> None:
        """Create a folder with the owner and permissions of the one whose files it keeps."""
        own = journal.OLD if folder.is_relative_to(self.path / journal.OLD) else journal.STAGE
        inside = folder.relative_to(self.path).parts[own.count("/") + 1 :]
        like = self.path.joinpath(*inside)
        self.synced.discard(folder.parent)
        make_directory(folder, like)
        adopt_directory(folder, like)
        self.synced.add(folder)  # it is empty

    def remove(self, name: str) -> None:
        self.synced.discard((self.path / name).parent)
        remove(self.path / name)

    def remove_folder(self, name: str) -> None:
        self.remove(name)

    def sync(self, names: Collection[str]) -> None:
        # `create` and `copy` move files out of the stage.
        for folder in dict.fromkeys([journal.STAGE, *reversed(folders_of(names)), ""]):
            place = self.path / folder
            if place not in self.synced and place.is_dir():
                sync_directory(place)
                self.synced.add(place)

    def journal(self) -> bytes | None:
        file = self.path / journal.FILE
        if not os.path.lexists(file):
            return None
        try:
            if file.is_symlink():
                raise local_files.NotRegularError(file)
            return local_files.read(file, LARGEST_JSON)
        except OSError as error:
            raise journal.broken(file, error.strerror) from error

    def check_folders(self, names: Collection[str]) -> None:
        own = (sidecar.FOLDER, journal.STAGE, journal.OLD, journal.PARTS)
        inside = [f"{home}/{each}" for home in (".", *own[1:3]) for each in folders_of(names)]
        for folder in (*own, *inside):
            place = self.path / folder
            if place.is_symlink():
                raise DamagedError(
                    "is a link, not a directory of ckptmigrate",
                    path=place,
                    fix=f"to remove the link, run `{shell('rm', place)}`",
                )

    def finish(self) -> None:
        folder = self.path / sidecar.FOLDER
        if not os.listdir(folder):
            os.rmdir(folder)
            sync_directory(self.path)

    def failure(self, error: OSError, done: str) -> CkptMigrateError:
        kept = None
        with contextlib.suppress(OSError):
            kept = parts.finished(self.path / journal.PARTS)
        return unwritable(self.path, error, left=is_unfinished(self.path), kept=kept)

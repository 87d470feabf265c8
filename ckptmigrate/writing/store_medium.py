"""A directory in an object store, for an in-place change (see `ckptmigrate.writing.medium`).

A store creates, replaces and copies an object atomically, and an answered request is on disk. There
are no folders and no links.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ckptmigrate.errors import CkptMigrateError, DestinationError, reason_of
from ckptmigrate.places import Url
from ckptmigrate.storage import directories
from ckptmigrate.storage.store import store_of
from ckptmigrate.writing import journal


@dataclass(frozen=True)
class StoreMedium:
    """The objects below a URL."""

    path: Url

    def prepare(self) -> None:
        """Do nothing."""

    def make_stage(self) -> None:
        """Do nothing."""

    def check_replaceable(self, names: Collection[str]) -> None:
        """Do nothing."""

    def create(self, name: str, content: bytes, like: Path | None = None) -> None:
        store_of(self.path).create(self.path / name, content)

    def copy(self, source: str, target: str, size: int) -> None:
        store_of(self.path).copy(self.path / source, self.path / target, size)

    def remove(self, name: str) -> None:
        store_of(self.path).remove(self.path / name)

    def remove_folder(self, name: str) -> None:
        for each, _ in list(store_of(self.path).walk(self.path / name)):
            self.remove(f"{name}/{each}")

    def sync(self, names: Collection[str]) -> None:
        """Do nothing."""

    def journal(self) -> bytes | None:
        file = self.path / journal.FILE
        # Without a journal, the staging directory is removed with the old files. Ask the store
        # twice, so that a single wrong answer does no damage.
        if directories.is_file(file) or file.name in store_of(self.path).list(file.parent).files:
            return store_of(self.path).read(file)
        return None

    def check_folders(self, names: Collection[str]) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""

    def failure(self, error: OSError, done: str) -> CkptMigrateError:
        return DestinationError(  # an object appeared or vanished
            f"was changed by another program during the migration ({reason_of(error)}); {done}",
            path=self.path,
            fix="stop other programs that write to it, then run the command again",
        )

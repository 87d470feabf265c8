"""The operations of an in-place change: on a local directory by renames, in a store by copies.

This module chooses between the two. In both, `create` and `copy` write a file
completely or not at all.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.places import Place
from ckptmigrate.writing.local_medium import LocalMedium


class Medium(Protocol):
    """The files of one directory, a checkpoint or a root, by their name relative to it."""

    @property
    def path(self) -> Place:
        """Return the place of the directory."""

    def prepare(self) -> None:
        """Create the folder of the lock.

        Raises:
            DamagedError: the folder or one in it is a link.
        """

    def make_stage(self) -> None:
        """Create the staging directory; it is on disk before anything in it.

        Raises:
            FileExistsError: an interrupted migration left one.
        """

    def check_replaceable(self, names: Collection[str]) -> None:
        """Raise if a file cannot be replaced in place.

        Raises:
            DestinationError: a file or its folder is a link.
        """

    def create(self, name: str, content: bytes, like: Path | None = None) -> None:
        """Write a new file and read it back.

        Args:
            like: the local file whose owner and permissions it gets.

        Raises:
            DamagedError, StoreError: it does not read back as written.
        """

    def copy(self, source: str, target: str, size: int) -> None:
        """Create or replace a file with another one, which stays.

        Args:
            size: of the source, in bytes.
        """

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""

    def remove_folder(self, name: str) -> None:
        """Remove a folder and everything in it."""

    def sync(self, names: Collection[str]) -> None:
        """Return once what was done to these names survives a power failure."""

    def journal(self) -> bytes | None:
        """Return the content of the journal, or None if there is none."""

    def check_folders(self, names: Collection[str]) -> None:
        """Raise if a folder of these files is a link, in the directory or in the stage.

        Raises:
            DamagedError: a folder is a link; a recovery would change files elsewhere.
        """

    def finish(self) -> None:
        """Remove the folder of the lock if it is empty."""

    def failure(self, error: OSError, done: str) -> CkptMigrateError:
        """Return the error to raise for an OSError.

        Args:
            done: what was changed, as far as the medium does not see it.
        """


def medium(path: Place) -> Medium:
    """Return the medium of a directory."""
    if isinstance(path, Path):
        return LocalMedium(path)
    from ckptmigrate.writing.store_medium import StoreMedium  # needs the library of a store

    return StoreMedium(path)

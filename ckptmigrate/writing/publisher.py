"""The publication of out-of-place migrations: by a rename, or by a last object in a store.

Both publishers guarantee that no release accepts the destination before it is complete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ckptmigrate.places import Place
from ckptmigrate.planning.new_root import NewRoot
from ckptmigrate.planning.planner import Plan
from ckptmigrate.storage.progress import Progress
from ckptmigrate.writing.leftover import Leftover
from ckptmigrate.writing.links import Link
from ckptmigrate.writing.local_publisher import LocalPublisher
from ckptmigrate.writing.parts import MOVING, Moving


class Publisher(Protocol):
    """The interface to create a destination, and to recover interrupted migrations to it."""

    def check_free(self, source: Place) -> None:
        """Raise if the destination cannot be created.

        Raises:
            DestinationError: it exists, is inside the source, or has no parent directory.
        """

    def create(
        self,
        root: NewRoot,
        *,
        link: Link = Link.AUTO,
        moving: Moving = MOVING,
        progress: Progress | None = None,
    ) -> Link:
        """Create the destination as a root with the migrated checkpoints and its other files.

        Args:
            root: what it consists of.
            link: how to bring data files to the destination.
            moving: how to write new data files. Finished ones of an interrupted run are used, and
                remain after an error.
            progress: called with a number of bytes whenever that many bytes of data files were
                copied.

        Returns:
            How the data files were brought to the destination.

        Raises:
            DestinationError, StoreError: the destination cannot be written, and was not created,
                or the message says what remains.
        """

    def add(self, plan: Plan, *, link: Link = Link.AUTO, moving: Moving = MOVING) -> Link:
        """Create the destination as one checkpoint in a root to which others are added too.

        Creates the root if it is missing, without a tracker file: no release loads it before
        `complete` is called. Arguments, result and errors as for `create`.
        """

    def complete(self, root: NewRoot) -> None:
        """Bring the files of a root that was filled with `add`, then write its tracker files.

        Existing ones are replaced.

        Raises:
            DestinationError, StoreError: a file cannot be written.
        """

    def leftovers(self) -> list[Leftover]:
        """Return the migrations to destinations directly inside: in progress, or interrupted."""

    def is_left(self) -> bool:
        """Return whether a migration to the destination is in progress or was interrupted."""

    def discard(self, *, break_lock: bool, keep: bool = False) -> tuple[Place, str]:
        """Remove the files of an interrupted migration to the destination.

        Args:
            break_lock: whether to take over a lock whose process cannot be seen from this host.
            keep: whether finished new data files remain for the next run.

        Returns:
            The path that was removed, and what was done.

        Raises:
            DestinationError: the migration still runs, or its process cannot be seen from this
                host.
            OSError, StoreError: the files cannot be removed; run it again.
        """

    def clear_tracker(self) -> list[Place]:
        """Remove the files of an interrupted `complete` and return their paths."""


def publisher(destination: Place) -> Publisher:
    """Return the publisher of a destination."""
    if isinstance(destination, Path):
        return LocalPublisher(destination)
    from ckptmigrate.writing.store_publisher import StorePublisher  # needs its library

    return StorePublisher(destination)

"""The writer of a place: a local directory (by renames) or an object store (by copies inside it).

Only this module chooses between them. Both writers guarantee the same. Out of place, no release
accepts the destination before it is complete. In place, no release accepts an incomplete
checkpoint, and `recover` restores the checkpoint from before or after the migration.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ckptmigrate.checkpoint.sidecar import Step
from ckptmigrate.checkpoint.trackers import TRACKERS
from ckptmigrate.places import Place
from ckptmigrate.storage.progress import Progress
from ckptmigrate.writing import stage, swap, transaction
from ckptmigrate.writing.durable import new_of, remove
from ckptmigrate.writing.journal import Outcome
from ckptmigrate.writing.links import Link
from ckptmigrate.writing.stage import Leftover

if TYPE_CHECKING:
    from ckptmigrate.planning.planner import Plan


class Writer(Protocol):
    """The interface to write at one place and to recover interrupted migrations there."""

    # -- out of place

    def check_free(self, source: Place) -> None:
        """Raise if the place cannot be created as a destination.

        Raises:
            DestinationError: the place exists, is inside the source, or has no parent directory.
        """

    def create(
        self,
        plans: Mapping[str, Plan],
        trackers: Mapping[str, bytes],
        *,
        link: Link,
        progress: Progress | None,
    ) -> Link:
        """Create the place as a root with the migrated checkpoints; see `transaction.create`."""

    def add(self, plan: Plan, *, link: Link) -> Link:
        """Create the place as one checkpoint of a root; see `transaction.add`."""

    def name_latest(self, trackers: Mapping[str, bytes]) -> None:
        """Write the tracker files of the place, a root; see `transaction.name_latest`."""

    def locked(self) -> list[Leftover]:
        """Return the locked destinations directly in the place: in progress, or interrupted."""

    def is_locked(self) -> bool:
        """Return whether the place is a locked destination: in progress, or interrupted."""

    def discard(self, *, break_lock: bool) -> tuple[Place, str]:
        """Remove the files of an interrupted migration to the place.

        Returns:
            The path that was removed, and what was done.

        Raises:
            DestinationError: the migration still runs, or its process is on another host.
        """

    # -- in place

    def rewrite(self, plan: Plan) -> None:
        """Change the checkpoint at the place; see `transaction.rewrite`."""

    def recover(self, *, break_lock: bool) -> Outcome:
        """Complete or roll back an interrupted in-place migration; see `swap.recover`."""

    # -- the tracker files of a root

    def repoint(self, trackers: Mapping[str, bytes], step: Step) -> None:
        """Replace the tracker files; see `transaction.repoint`."""

    def clear_tracker(self) -> list[Place]:
        """Remove the files of an interrupted `name_latest` and return their paths."""


def writer(place: Place) -> Writer:
    """Return the writer of a place."""
    if isinstance(place, Path):
        return LocalWriter(place)
    from ckptmigrate.writing.store_writer import StoreWriter

    return StoreWriter(place)


@dataclass(frozen=True)
class LocalWriter:
    """A writer for the local file system."""

    path: Path

    def check_free(self, source: Place) -> None:
        transaction.check_destination(self.path, source)

    def create(
        self,
        plans: Mapping[str, Plan],
        trackers: Mapping[str, bytes],
        *,
        link: Link,
        progress: Progress | None,
    ) -> Link:
        return transaction.create(plans, self.path, trackers, link=link, progress=progress)

    def add(self, plan: Plan, *, link: Link) -> Link:
        return transaction.add(plan, self.path, link=link)

    def name_latest(self, trackers: Mapping[str, bytes]) -> None:
        transaction.name_latest(self.path, trackers)

    def locked(self) -> list[Leftover]:
        return stage.locked(self.path)

    def is_locked(self) -> bool:
        return os.path.lexists(stage.lock_of(self.path))

    def discard(self, *, break_lock: bool) -> tuple[Place, str]:
        what = stage.recover(self.path, break_lock=break_lock)
        return stage.stage_of(self.path), what

    def rewrite(self, plan: Plan) -> None:
        transaction.rewrite(plan)

    def recover(self, *, break_lock: bool) -> Outcome:
        return swap.recover(self.path, break_lock=break_lock)

    def repoint(self, trackers: Mapping[str, bytes], step: Step) -> None:
        transaction.repoint(self.path, trackers, step)

    def clear_tracker(self) -> list[Place]:
        left = [new for name in TRACKERS if os.path.lexists(new := new_of(self.path / name))]
        for each in left:
            remove(each)
        return [*left]

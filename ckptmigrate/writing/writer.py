"""How a place is written: a local directory by renames, an object store by copies inside it.

The one spot where that is decided. What both do has the same promises: out of place, the
destination is a checkpoint only once it is whole; in place, a checkpoint that is caught half-way
is none to any reader, and `recover` makes it what it was or what it was to be.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ckptmigrate.access.places import TRACKERS, Place
from ckptmigrate.access.storage import Progress
from ckptmigrate.checkpoint.sidecar import Step
from ckptmigrate.writing import staging, swapping, transaction
from ckptmigrate.writing.durable import new_of, remove
from ckptmigrate.writing.journal import Outcome
from ckptmigrate.writing.linking import Link
from ckptmigrate.writing.staging import Leftover

if TYPE_CHECKING:
    from ckptmigrate.planning.planner import Plan


class Writer(Protocol):
    """Writes at one place, and cleans up what did not finish there."""

    # -- out of place

    def check_free(self, source: Place) -> None:
        """Make sure that the place can be created as a destination.

        Raises:
            DestinationError: it exists, lies inside the source, or has nothing to lie in.
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
        """Create the place as one checkpoint among others; see `transaction.add`."""

    def name_latest(self, trackers: Mapping[str, bytes]) -> None:
        """Give the place, a root, its tracker files; see `transaction.name_latest`."""

    def locked(self) -> list[Leftover]:
        """The destinations directly in the place that are being created, or were."""

    def is_locked(self) -> bool:
        """Whether the place is a destination that is being created, or was."""

    def discard(self, *, break_lock: bool) -> tuple[Place, str]:
        """Remove what a run that did not finish left of the place as a destination.

        Returns:
            Where that was, and what was done.

        Raises:
            DestinationError: it still runs, or cannot be seen from here.
        """

    # -- in place

    def rewrite(self, plan: Plan) -> None:
        """Change the checkpoint there; see `transaction.rewrite`."""

    def is_staged(self) -> bool:
        """Whether a migration in place has begun, and not ended."""

    def is_unfinished(self) -> bool:
        """Whether a migration in place is at work, or left something of itself."""

    def check_whole(self) -> None:
        """Make sure that no migration in place has the checkpoint in its hands.

        Raises:
            DestinationError: one has; it says whether that one still runs.
        """

    def recover(self, *, break_lock: bool) -> Outcome:
        """Finish what a migration in place left, one way or the other; see `swapping.recover`."""

    # -- the tracker files of a root

    def repoint(self, trackers: Mapping[str, bytes], step: Step) -> None:
        """Point them elsewhere; see `transaction.repoint`."""

    def clear_tracker(self) -> list[Place]:
        """Remove what a `name_latest` that did not finish left; says what."""


def writer(place: Place) -> Writer:
    """What writes at a place."""
    if isinstance(place, Path):
        return LocalWriter(place)
    from ckptmigrate.objects.writer import StoreWriter

    return StoreWriter(place)


@dataclass(frozen=True)
class LocalWriter:
    """Writes in the local file system."""

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
        return staging.locked(self.path)

    def is_locked(self) -> bool:
        return os.path.lexists(staging.lock_of(self.path))

    def discard(self, *, break_lock: bool) -> tuple[Place, str]:
        what = staging.recover(self.path, break_lock=break_lock)
        return staging.stage_of(self.path), what

    def rewrite(self, plan: Plan) -> None:
        transaction.rewrite(plan)

    def is_staged(self) -> bool:
        return swapping.stage_of(self.path).is_dir()

    def is_unfinished(self) -> bool:
        return swapping.is_unfinished(self.path)

    def check_whole(self) -> None:
        swapping.check_whole(self.path)

    def recover(self, *, break_lock: bool) -> Outcome:
        return swapping.recover(self.path, break_lock=break_lock)

    def repoint(self, trackers: Mapping[str, bytes], step: Step) -> None:
        transaction.repoint(self.path, trackers, step)

    def clear_tracker(self) -> list[Place]:
        left = [new for name in TRACKERS if os.path.lexists(new := new_of(self.path / name))]
        for each in left:
            remove(each)
        return [*left]

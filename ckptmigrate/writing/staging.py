"""The stage of a migration out of place: a hidden directory beside the destination.

A lock beside it says whose it is (lock.py). It stands from before the stage is made until after it
is published or removed, so a stage without a lock is nobody's, and is left alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ckptmigrate.access.places import Place
from ckptmigrate.errors import DestinationError
from ckptmigrate.text.commands import command, shell
from ckptmigrate.writing import lock
from ckptmigrate.writing.durable import make_directory, remove, sync_directory
from ckptmigrate.writing.lock import Holder

_STAGE: Final = ".ckptmigrate-stage"
_LOCK: Final = ".ckptmigrate-lock"
REMOVED: Final = "removed what an unfinished migration to it had staged"


@dataclass(frozen=True)
class Leftover:
    """What a migration out of place that did not finish left beside its destination."""

    destination: Place
    owner: lock.Owner | None

    @property
    def is_over(self) -> bool:
        """Whether the run that left it is known to be gone."""
        return lock.holder(self.owner) is Holder.DEAD

    @property
    def fix(self) -> str:
        """The command that removes it."""
        return command("recover", self.destination)

    def __str__(self) -> str:
        who = self.owner or "somebody unknown"
        return f"a migration to {self.destination} by {who} did not finish; run `{self.fix}`"


def stage_of(destination: Path) -> Path:
    """Where a destination is built."""
    return destination.with_name(f".{destination.name}{_STAGE}")


def lock_of(destination: Path) -> Path:
    """The lock of a destination that is being built."""
    return destination.with_name(f".{destination.name}{_LOCK}")


def take(destination: Path, *like: Path) -> Path:
    """Make the stage of a destination, and a lock beside it.

    Args:
        destination: what is to be created.
        like: directories; the stage is for no more people than any of them.

    Raises:
        DestinationError: another migration to it runs, or did not finish.
        OSError: it cannot be made.
    """
    stage = stage_of(destination)
    if os.path.lexists(stage) and not os.path.lexists(lock_of(destination)):
        raise DestinationError(
            f"cannot be staged: {stage} is there, and no lock tells whose it is",
            path=destination,
            fix=f"if no migration needs it, run `{shell('rm', '-r', stage)}`",
        )
    lock.take(lock_of(destination), destination)
    try:
        make_directory(stage, *like)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(lock_of(destination))
        raise
    return stage


def discard(destination: Path) -> None:
    """Remove the stage, then the lock.

    Raises:
        OSError: part of it is left; `recover` has to be run.
    """
    remove(stage_of(destination))
    sync_directory(destination.parent)
    os.unlink(lock_of(destination))


def publish(destination: Path) -> None:
    """Give the stage the name of the destination.

    Raises:
        OSError: something is there by now, or it cannot be renamed.
    """
    if os.path.lexists(destination):  # made by somebody else meanwhile
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), destination)
    os.rename(stage_of(destination), destination)


def release(destination: Path) -> None:
    """Put the name of what was published on disk, then remove the lock."""
    sync_directory(destination.parent)
    os.unlink(lock_of(destination))


def locked(directory: Path) -> list[Leftover]:
    """Every destination in a directory that is being built, or was."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:  # not there, or not to be read
        return []
    places = [directory / n for n in names if n.startswith(".") and n.endswith(_LOCK)]
    return [
        Leftover(
            place.with_name(place.name.removeprefix(".").removesuffix(_LOCK)), lock.owner_of(place)
        )
        for place in places
        if place.is_symlink()
    ]


def recover(destination: Path, *, break_lock: bool = False) -> str:
    """Remove what an unfinished migration to a destination left.

    Raises:
        DestinationError: it still runs, or cannot be seen from here.
        OSError: it cannot be removed; run it again.
    """
    with lock.of_the_dead(lock_of(destination), destination, break_lock=break_lock):
        remove(stage_of(destination))
        sync_directory(destination.parent)
    return REMOVED

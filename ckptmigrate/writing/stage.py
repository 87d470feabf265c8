"""The staging directory of an out-of-place migration, hidden beside the destination.

A lock beside the destination names the owner (lock.py). It exists before the staging directory is
created and until that is published or removed. A staging directory without a lock has no known
owner and is left as is.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ckptmigrate.checkpoint.lock_owner import Holder, Owner, holder, owner_of
from ckptmigrate.errors import DestinationError
from ckptmigrate.places import Place
from ckptmigrate.text.commands import command, shell
from ckptmigrate.writing import lock
from ckptmigrate.writing.durable import make_directory, remove, sync_directory

_STAGE: Final = ".ckptmigrate-stage"
_LOCK: Final = ".ckptmigrate-lock"
REMOVED: Final = "removed the staging directory of an interrupted migration"


@dataclass(frozen=True)
class Leftover:
    """The lock of an out-of-place migration that is in progress or was interrupted."""

    destination: Place
    owner: Owner | None

    @property
    def is_over(self) -> bool:
        """Return whether its process is known to have ended."""
        return holder(self.owner) is Holder.DEAD

    @property
    def fix(self) -> str:
        """Return the command that removes it."""
        return command("recover", self.destination)

    def __str__(self) -> str:
        who = self.owner or "an unknown process"
        return f"a migration to {self.destination} by {who} was interrupted: run `{self.fix}`"


def stage_of(destination: Path) -> Path:
    """Return the staging directory of a destination."""
    return destination.with_name(f".{destination.name}{_STAGE}")


def lock_of(destination: Path) -> Path:
    """Return the lock of a destination."""
    return destination.with_name(f".{destination.name}{_LOCK}")


def take(destination: Path, *like: Path) -> Path:
    """Lock a destination and create its staging directory.

    Args:
        destination: the directory to create.
        like: directories; the staging directory grants no more access than any of them.

    Raises:
        DestinationError: another migration to the destination is in progress or was interrupted.
        OSError: the lock or the staging directory cannot be created.
    """
    stage = stage_of(destination)
    if os.path.lexists(stage) and not os.path.lexists(lock_of(destination)):
        raise DestinationError(
            f"cannot be staged: {stage} exists without a lock",
            path=destination,
            fix=f"if no migration uses it, run `{shell('rm', '-r', stage)}`",
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
    """Remove the staging directory, then the lock.

    Raises:
        OSError: they could not be removed completely; run `recover`.
    """
    remove(stage_of(destination))
    sync_directory(destination.parent)
    os.unlink(lock_of(destination))


def publish(destination: Path) -> None:
    """Rename the staging directory to the destination.

    Raises:
        OSError: the destination exists, or the rename fails.
    """
    if os.path.lexists(destination):  # another process created it meanwhile
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), destination)
    os.rename(stage_of(destination), destination)


def release(destination: Path) -> None:
    """Sync the rename to disk, then remove the lock."""
    sync_directory(destination.parent)
    os.unlink(lock_of(destination))


def locked(directory: Path) -> list[Leftover]:
    """Return the locked destinations in a directory: in progress, or interrupted."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:  # missing or unreadable
        return []
    places = [directory / n for n in names if n.startswith(".") and n.endswith(_LOCK)]
    return [
        Leftover(place.with_name(place.name.removeprefix(".").removesuffix(_LOCK)), owner_of(place))
        for place in places
        if place.is_symlink()
    ]


def recover(destination: Path, *, break_lock: bool = False) -> str:
    """Remove the staging directory and lock of an interrupted migration; return what was done.

    Raises:
        DestinationError: the migration still runs, or its process cannot be seen from this host.
        OSError: the files cannot be removed; run it again.
    """
    with lock.of_the_dead(lock_of(destination), destination, break_lock=break_lock):
        remove(stage_of(destination))
        sync_directory(destination.parent)
    return REMOVED

"""Recovery from interrupted migrations, in place and out of place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ckptmigrate import places
from ckptmigrate.checkpoint import locate, root_reading
from ckptmigrate.checkpoint.lock_owner import Holder, holder
from ckptmigrate.errors import CkptMigrateError, DestinationError
from ckptmigrate.places import Place
from ckptmigrate.text.commands import command
from ckptmigrate.writing import swap
from ckptmigrate.writing.publisher import publisher


def recover(path: Place, *, break_lock: bool = False, keep: bool = False) -> dict[Place, str]:
    """Recover a checkpoint, the checkpoints of a root, or a destination.

    Staging directories are searched in PATH and beside it (those of PATH and of PATH.<target>).

    Args:
        path: a checkpoint directory, a root, or the destination of an out-of-place migration.
        break_lock: whether to remove a lock held by a process on another host. Set it only if that
            process has ended.
        keep: whether finished new data files remain, for the same command to continue.

    Returns:
        Path -> what was done there. Empty if there was nothing to recover.

    Raises:
        NotACheckpointError: `path` is not a directory, and no interrupted migration to it exists.
        CkptMigrateError: another process is still changing it, or it cannot be read or written.
            Everything else is recovered before the error is raised.
    """
    path = places.absolute(path)
    found = _Found({}, [])
    _in_place(path, found, break_lock=break_lock, keep=keep)
    destinations = _destinations(path)
    if not destinations:
        locate.require_directory(path)
    for destination in destinations:
        with found.kept(destination):
            where, what = publisher(destination).discard(break_lock=break_lock, keep=keep)
            found.done[where] = what
    return found.result()


def in_place(path: Place) -> dict[Place, str]:
    """Recover interrupted in-place migrations only, before a command changes PATH.

    Raises:
        CkptMigrateError: as `recover`.
    """
    found = _Found({}, [])
    _in_place(places.absolute(path), found, break_lock=False, keep=True)
    return found.result()


@dataclass(frozen=True)
class _Found:
    done: dict[Place, str]
    errors: list[CkptMigrateError]

    @contextlib.contextmanager
    def kept(self, place: Place) -> Iterator[None]:
        """Collect the errors of a block instead of raising them."""
        try:
            yield
        except CkptMigrateError as error:
            self.errors.append(error)
        except OSError as error:
            failure = DestinationError(
                f"cannot be recovered yet ({error.strerror})",
                path=place,
                fix=f"when it is writable again, run `{command('recover', place)}`",
            )
            failure.__cause__ = error
            self.errors.append(failure)

    def result(self) -> dict[Place, str]:
        if self.errors:
            raise self.errors[0]
        return self.done


def _in_place(path: Place, found: _Found, *, break_lock: bool, keep: bool) -> None:
    for checkpoint in dict.fromkeys((path, *root_reading.possible(path))):
        if isinstance(checkpoint, Path) and checkpoint.is_symlink() and checkpoint != path:
            continue
        with found.kept(checkpoint):
            if done := swap.recover(checkpoint, break_lock=break_lock, keep=keep):
                found.done[checkpoint] = done
    with found.kept(path):
        for left in publisher(path).clear_tracker():
            found.done[left] = "removed the rest of an interrupted tracker file update"


def _destinations(path: Place) -> list[Place]:
    """Return the destinations of unfinished migrations that belong to PATH.

    A destination that a running process is writing is returned only if it is PATH itself.
    """
    found: list[Place] = []
    inside = [each.parent for each in root_reading.possible(path)]
    for folder in dict.fromkeys((path.parent, path, *inside)):
        for left in publisher(folder).leftovers():
            name = left.destination.name
            meant = folder != path.parent or name == path.name or name.startswith(f"{path.name}.")
            alive = holder(left.owner) is Holder.ALIVE
            if meant and (not alive or left.destination == path):
                found.append(left.destination)
    # If the parent directory is unreadable, the list above misses PATH itself.
    return found if path in found or not publisher(path).is_left() else [*found, path]

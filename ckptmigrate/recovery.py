"""Find what runs that did not finish left of a PATH, in place or beside it, and clean it up."""

from __future__ import annotations

import os
from pathlib import Path

from ckptmigrate import journal, lock, staging
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.lock import Holder


def recover(path: Path, *, break_lock: bool = False) -> dict[Path, str]:
    """Make whole what a PATH means: a checkpoint, the checkpoints of a root, a destination.

    Stages are looked for beside PATH (of PATH itself and of PATH.<target>) and in it.

    Args:
        path: a checkpoint directory, a root, or a destination that was to be created.
        break_lock: whether the user says that runs which cannot be seen from here are over.

    Returns:
        Place -> what was done there; nothing where all is whole.

    Raises:
        CkptMigrateError: something is still at work there, or cannot be read. What else there
            was to do is done all the same.
        OSError: a file cannot be written; run it again.
    """
    path = Path(os.path.abspath(path))
    done: dict[Path, str] = {}
    errors: list[CkptMigrateError] = []
    done |= _in_place(path, errors, break_lock=break_lock)
    for destination in _destinations(path):
        try:
            what = staging.recover(destination, break_lock=break_lock)
            done[staging.stage_of(destination)] = what
        except CkptMigrateError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return done


def in_place(path: Path) -> dict[Path, str]:
    """The same for migrations in place alone: what a verb does first that is to change PATH.

    Raises:
        CkptMigrateError, OSError: as `recover`.
    """
    errors: list[CkptMigrateError] = []
    done = _in_place(Path(os.path.abspath(path)), errors, break_lock=False)
    if errors:
        raise errors[0]
    return done


def _in_place(path: Path, errors: list[CkptMigrateError], *, break_lock: bool) -> dict[Path, str]:
    done = {}
    inside = sorted(item for item in path.glob("*") if item.is_dir() and not item.is_symlink())
    for checkpoint in (path, *inside):
        if journal.is_unfinished(checkpoint):
            try:
                done[checkpoint] = journal.recover(checkpoint, break_lock=break_lock).value
            except CkptMigrateError as error:
                errors.append(error)
    return done


def _destinations(path: Path) -> list[Path]:
    """The destinations with a stage that PATH means; those that live are meant by name alone."""
    found = []
    for folder in (path.parent, path):
        for left in staging.locked(folder):
            name = left.destination.name
            meant = folder == path or name == path.name or name.startswith(f"{path.name}.")
            alive = lock.holder(left.owner) is Holder.ALIVE
            if meant and (not alive or left.destination == path):
                found.append(left.destination)
    return found

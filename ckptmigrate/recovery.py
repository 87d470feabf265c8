"""Find what runs that did not finish left of a PATH, in place or beside it, and clean it up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ckptmigrate import journal, lock, staging
from ckptmigrate.commands import command
from ckptmigrate.durable import new_of, remove
from ckptmigrate.errors import CkptMigrateError, DestinationError
from ckptmigrate.locate import TRACKER_FILE
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
        CkptMigrateError: something is still at work there, or cannot be read or written. What
            else there was to do is done all the same.
    """
    path = Path(os.path.abspath(path))
    found = _Found({}, [])
    _in_place(path, found, break_lock=break_lock)
    for destination in _destinations(path):
        with found.kept(destination):
            what = staging.recover(destination, break_lock=break_lock)
            found.done[staging.stage_of(destination)] = what
    return found.result()


def in_place(path: Path) -> dict[Path, str]:
    """The same for migrations in place alone: what a verb does first that is to change PATH.

    Raises:
        CkptMigrateError: as `recover`.
    """
    found = _Found({}, [])
    _in_place(Path(os.path.abspath(path)), found, break_lock=False)
    return found.result()


@dataclass(frozen=True)
class _Found:
    done: dict[Path, str]
    errors: list[CkptMigrateError]

    @contextlib.contextmanager
    def kept(self, place: Path) -> Iterator[None]:
        """Go on with other places after an error at one."""
        try:
            yield
        except CkptMigrateError as error:
            self.errors.append(error)
        except OSError as error:
            told = DestinationError(
                f"cannot be recovered yet ({error.strerror})",
                path=place,
                fix=f"when it can be written again, run `{command('recover', place)}`",
            )
            told.__cause__ = error
            self.errors.append(told)

    def result(self) -> dict[Path, str]:
        if self.errors:
            raise self.errors[0]
        return self.done


def _in_place(path: Path, found: _Found, *, break_lock: bool) -> None:
    inside = sorted(item for item in path.glob("*") if item.is_dir() and not item.is_symlink())
    for checkpoint in (path, *inside):
        with found.kept(checkpoint):
            if journal.is_unfinished(checkpoint):
                outcome = journal.recover(checkpoint, break_lock=break_lock)
                found.done[checkpoint] = outcome.value
    fresh = new_of(path / TRACKER_FILE)
    if os.path.lexists(fresh):
        with found.kept(path):
            remove(fresh)
            found.done[fresh] = "removed what giving the root its tracker file left"


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

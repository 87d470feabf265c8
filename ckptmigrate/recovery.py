"""Find what runs that did not finish left of a PATH, in place or beside it, and clean it up."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ckptmigrate import locate
from ckptmigrate.access import places, storage
from ckptmigrate.access.places import Place
from ckptmigrate.errors import CkptMigrateError, DestinationError
from ckptmigrate.text.commands import command
from ckptmigrate.writing import lock
from ckptmigrate.writing.lock import Holder
from ckptmigrate.writing.writer import writer


def recover(path: Place, *, break_lock: bool = False) -> dict[Place, str]:
    """Make whole what a PATH means: a checkpoint, the checkpoints of a root, a destination.

    Stages are looked for beside PATH (of PATH itself and of PATH.<target>) and in it.

    Args:
        path: a checkpoint directory, a root, or a destination that was to be created.
        break_lock: whether the user says that runs which cannot be seen from here are over.

    Returns:
        Place -> what was done there; nothing where all is whole.

    Raises:
        NotACheckpointError: it is no directory, and nothing is left of one that was to be created.
        CkptMigrateError: something is still at work there, or cannot be read or written. What
            else there was to do is done all the same.
    """
    path = places.absolute(path)
    found = _Found({}, [])
    _in_place(path, found, break_lock=break_lock)
    destinations = _destinations(path)
    if not destinations:
        locate.require_directory(path)
    for destination in destinations:
        with found.kept(destination):
            where, what = writer(destination).discard(break_lock=break_lock)
            found.done[where] = what
    return found.result()


def in_place(path: Place) -> dict[Place, str]:
    """The same for migrations in place alone: what a verb does first that is to change PATH.

    Raises:
        CkptMigrateError: as `recover`.
    """
    found = _Found({}, [])
    _in_place(places.absolute(path), found, break_lock=False)
    return found.result()


@dataclass(frozen=True)
class _Found:
    done: dict[Place, str]
    errors: list[CkptMigrateError]

    @contextlib.contextmanager
    def kept(self, place: Place) -> Iterator[None]:
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

    def result(self) -> dict[Place, str]:
        if self.errors:
            raise self.errors[0]
        return self.done


def _in_place(path: Place, found: _Found, *, break_lock: bool) -> None:
    there = storage.directory(path).folders() if path.is_dir() else ()
    inside = [path / name for name in there if locate.is_iteration(name)]
    for checkpoint in (path, *inside):
        if isinstance(checkpoint, Path) and checkpoint.is_symlink() and checkpoint != path:
            continue
        with found.kept(checkpoint):
            if writer(checkpoint).is_unfinished():
                outcome = writer(checkpoint).recover(break_lock=break_lock)
                found.done[checkpoint] = outcome.value
    with found.kept(path):
        for left in writer(path).clear_tracker():
            found.done[left] = "removed what giving the root its tracker file left"


def _destinations(path: Place) -> list[Place]:
    """The destinations with a stage that PATH means; those that live are meant by name alone."""
    found: list[Place] = []
    for folder in (path.parent, path):
        for left in writer(folder).locked():
            name = left.destination.name
            meant = folder == path or name == path.name or name.startswith(f"{path.name}.")
            alive = lock.holder(left.owner) is Holder.ALIVE
            if meant and (not alive or left.destination == path):
                found.append(left.destination)
    # What is around it may be closed to who may list it.
    return found if path in found or not writer(path).is_locked() else [*found, path]

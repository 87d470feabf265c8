"""The swap of an in-place change on a local file system, and the recovery of an interrupted one.

In the checkpoint, under `.ckptmigrate/`:

    lock                  the owner of the migration (lock.py)
    stage/NAME            new files
    stage/.old/NAME       replaced files
    stage/journal.json    hashes of every file before and after (journal.py); while it exists, the
                          swap may be incomplete
    NNNN/NAME             original files, for `undo` (sidecar.py)

The removal of metadata.json is synced to disk before other files change, and all other files are
synced before metadata.json is restored: without it, no release accepts the directory as a
torch_dist checkpoint. `recover` can be interrupted and run again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ckptmigrate.checkpoint import sidecar
from ckptmigrate.checkpoint.migration_state import check_complete, is_unfinished, lock_of, stage_of
from ckptmigrate.checkpoint.sidecar import FileState
from ckptmigrate.errors import DamagedError, DestinationError, Retry
from ckptmigrate.planning.change import Change
from ckptmigrate.storage import local_files
from ckptmigrate.storage.directories import LocalDirectory, folders_of
from ckptmigrate.storage.limits import LARGEST_JSON, LARGEST_PART
from ckptmigrate.text.commands import shell
from ckptmigrate.writing import journal, lock
from ckptmigrate.writing.durable import (
    adopt_directory,
    make_directory,
    remove,
    sync_directory,
    write,
)
from ckptmigrate.writing.journal import Outcome

_UNFINISHED_JOURNAL: Final = f"{journal.NAME}.new"


@dataclass(frozen=True)
class Swap:
    """A prepared swap.

    Attributes:
        path: the checkpoint.
        stage: the staging directory with the new files.
        new: name -> bytes of every new file; always includes metadata.json, which commits.
        files: name -> hashes before and after, of every changed file.
        hidden: whether no release accepts the directory during the swap (Change.marks).
    """

    path: Path
    stage: Path
    new: Mapping[str, bytes]
    files: Mapping[str, FileState]
    hidden: bool


def take(path: Path) -> None:
    """Take the lock of a checkpoint for an in-place migration.

    Raises:
        DestinationError: another process holds the lock, or ended without releasing it.
        DamagedError: `.ckptmigrate` is a link.
        OSError: the lock cannot be written.
    """
    folder = path / sidecar.FOLDER
    with contextlib.suppress(FileExistsError):
        make_own(folder, path)
    _check_own(path)
    try:
        lock.take(lock_of(path), path)
    except OSError:
        with contextlib.suppress(OSError):
            _remove_if_empty(folder)
        raise


def make_own(folder: Path, path: Path) -> None:
    """Create a folder in a checkpoint with the owner of the checkpoint, who may run `undo`."""
    make_directory(folder, path)
    adopt_directory(folder, path)


def release(path: Path) -> None:
    """Release the lock."""
    os.unlink(lock_of(path))
    _remove_if_empty(path / sidecar.FOLDER)


def _remove_if_empty(folder: Path) -> None:
    if not os.listdir(folder):
        os.rmdir(folder)


def _check_own(path: Path) -> None:
    """Raise if a folder of ckptmigrate is a link: `recover` would change files elsewhere."""
    for folder in (path / sidecar.FOLDER, stage_of(path), stage_of(path) / journal.OLD):
        if folder.is_symlink():
            raise DamagedError(
                "is a link, not a directory of ckptmigrate",
                path=folder,
                fix=f"to remove the link, run `{shell('rm', folder)}`",
            )


def _check_folders(path: Path, inside: Collection[str]) -> None:
    """Raise if a folder in a journal is a link, in the checkpoint or in the staging directory."""
    for folder in inside:
        for place in (path, stage_of(path), stage_of(path) / journal.OLD):
            if (place / folder).is_symlink():
                raise DamagedError(
                    "is a link, not a directory of the checkpoint",
                    path=place / folder,
                    fix=f"to remove the link, run `{shell('rm', place / folder)}`",
                )


def prepare(change: Change) -> Swap:
    """Create the staging directory of an in-place change, with its folders; call it locked.

    Raises:
        DestinationError: the checkpoint changed after planning, or another migration of it is
            incomplete.
        OSError: the staging directory cannot be created.
    """
    path = change.path
    assert isinstance(path, Path)
    _check_no_links(path, (*change.files, *change.marks))
    new, files = journal.changes(change, LocalDirectory(path))
    _check_originals(path)
    stage = stage_of(path)
    try:
        make_own(stage, path)
    except FileExistsError:
        check_complete(path)
        raise
    for folder in folders_of(new):
        make_own(stage / folder, path)
    sync_directory(stage.parent)  # `recover` removes new original files only if the stage exists
    return Swap(path, stage, new, files, hidden=bool(change.marks))


def _check_no_links(path: Path, names: Collection[str]) -> None:
    """Raise if a file to change is a link: its target may belong to a cache or another root."""
    for name in sorted({*names, *folders_of(names)}):
        if (path / name).is_symlink():
            raise DestinationError(
                f"{name} is a link to {os.readlink(path / name)}, which an in-place migration "
                "does not replace",
                path=path,
                fix="omit --in-place; the result then has its own file",
                retry=Retry(leave_out=("--in-place",)),
            )


def _check_originals(path: Path) -> None:
    told = len(sidecar.load(LocalDirectory(path)))
    stray = [folder for folder in _originals(path) if folder.name > journal.number(told)]
    if stray:
        raise DestinationError(
            f"contains original files that {sidecar.FILE} does not list",
            path=stray[0],
            fix="to move that directory out of the checkpoint, run "
            f"`{shell('mv', stray[0], path.with_name(f'{path.name}.originals'))}`",
        )


def _originals(path: Path) -> list[Path]:
    """Return the folders of original files, in order of their step."""
    return sorted(
        item for item in (path / sidecar.FOLDER).iterdir() if sidecar.is_folder(item.name)
    )


def begin(swap: Swap) -> None:
    """Write the journal, which `recover` needs to roll the swap back."""
    old = swap.stage / journal.OLD
    inside = folders_of(swap.files)
    for folder in ("", *inside):
        make_own(old / folder, swap.path)
    if inside:  # sync the folders before files are moved into them
        _sync(*(swap.stage / folder for folder in reversed(inside)), old)
    write(swap.stage / _UNFINISHED_JOURNAL, journal.dump(swap.files))
    os.rename(swap.stage / _UNFINISHED_JOURNAL, swap.stage / journal.NAME)
    sync_directory(swap.stage)
    sync_directory(swap.stage.parent)
    sync_directory(swap.path)


def perform(swap: Swap) -> None:
    """Move the old files out and the new files in; remove metadata.json first, restore it last.

    If `hidden` is false, each file is copied and then replaced, so that it always exists: a job
    that finds no tracker file starts from random weights (_load_base_checkpoint,
    megatron/training/checkpointing.py).

    Raises:
        DamagedError: a file does not read back as written.
        OSError: a file cannot be moved.
    """
    old = swap.stage / journal.OLD
    gone = [name for name, state in swap.files.items() if state.before is not None]
    for names in reversed(journal.groups(gone)):
        for name in reversed(names):
            if swap.hidden:
                os.rename(swap.path / name, old / name)
            else:
                content = local_files.read(swap.path / name, LARGEST_PART)
                write(old / name, content, like=swap.path / name)
        _sync_homes(names, swap.path, old)
    for names in journal.groups(swap.new):
        for name in names:
            os.rename(swap.stage / name, swap.path / name)
        _sync_homes(names, swap.path, swap.stage)
    journal.check(LocalDirectory(swap.path), {n: s.after for n, s in swap.files.items()})


def _sync_homes(names: Collection[str], *places: Path) -> None:
    """Sync each place, and the folders in it that contain files of these names."""
    for place in places:
        _sync(*(place / folder for folder in reversed(folders_of(names))), place)


def _sync(*folders: Path) -> None:
    for folder in folders:
        sync_directory(folder)


def recover(path: Path, *, break_lock: bool = False) -> Outcome:
    """Recover from an interrupted in-place migration: complete it if committed, else roll it back.

    Args:
        path: the checkpoint directory.
        break_lock: whether to take over a lock whose process cannot be seen from this host.

    Raises:
        DestinationError: the migration still runs, or its process cannot be seen from this host.
        DamagedError: the journal or a replaced file cannot be read.
        OSError: a file cannot be moved; run it again.
    """
    folder = path / sidecar.FOLDER
    if not is_unfinished(path):
        return Outcome.NOTHING
    _check_own(path)
    with lock.of_the_dead(lock_of(path), path, break_lock=break_lock):
        outcome = settle(path)
    _remove_if_empty(folder)
    sync_directory(path)
    return outcome


def settle(path: Path) -> Outcome:
    """Complete or roll back the swap, then remove the staging directory; call it locked.

    Raises:
        DamagedError: the journal or a replaced file cannot be read.
        OSError: a file cannot be moved; run `recover`.
    """
    stage = stage_of(path)
    outcome = Outcome.UNTOUCHED
    if os.path.lexists(stage / journal.NAME):
        files = _read_journal(stage / journal.NAME)
        _check_folders(path, folders_of(files))
        if journal.matches(LocalDirectory(path), files, after=True):
            outcome = Outcome.COMMITTED
        elif journal.matches(LocalDirectory(path), files, after=False):
            outcome = Outcome.UNTOUCHED
        else:
            _roll_back(path, files)
            outcome = Outcome.ROLLED_BACK
    clean(path)
    return outcome


def clean(path: Path) -> None:
    """Remove the staging directory after the migration was completed or rolled back.

    Raises:
        OSError: it could not be removed completely; run `recover`.
    """
    stage = stage_of(path)
    if os.path.lexists(stage / journal.NAME):
        # Sync all moves before the journal is removed: without it, they cannot be recovered.
        homes = ("", *folders_of(_read_journal(stage / journal.NAME)))
        places = (each / home for each in (stage / journal.OLD, stage, path) for home in homes)
        _sync(*(place for place in places if place.is_dir()))
    if os.path.lexists(stage):  # without a stage, no original files were written
        _remove_originals(path)
        sync_directory(path / sidecar.FOLDER)
    if os.path.lexists(stage / journal.NAME):
        os.unlink(stage / journal.NAME)
        sync_directory(stage)
    remove(stage)
    sync_directory(path / sidecar.FOLDER)


def _roll_back(path: Path, files: Mapping[str, FileState]) -> None:
    old = stage_of(path) / journal.OLD
    for names in journal.groups(files):
        for name in names:
            if os.path.lexists(old / name):
                os.replace(old / name, path / name)
            elif files[name].before is None and os.path.lexists(path / name):
                os.unlink(path / name)
        _sync_homes(names, path, old)
    if not journal.matches(LocalDirectory(path), files, after=False):
        raise DamagedError(
            "cannot be rolled back: a file changed, and its original is missing",
            path=path,
            fix=f"compare its files with the hashes in {stage_of(path) / journal.NAME}",
        )


def _remove_originals(path: Path) -> None:
    """Remove the original files of steps that the restored migration history does not contain."""
    try:
        told = len(sidecar.load(LocalDirectory(path)))
    except DamagedError:
        return
    for folder in _originals(path):
        if folder.name > journal.number(told):
            remove(folder)


def _read_journal(file: Path) -> dict[str, FileState]:
    try:
        if file.is_symlink():
            raise local_files.NotRegularError(file)
        content = local_files.read(file, LARGEST_JSON)
    except OSError as error:
        raise journal.broken(file, error.strerror) from error
    return journal.parse(content, file)

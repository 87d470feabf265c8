"""The swap of a change in place on a local file system, and the way out of one that did not finish.

In the checkpoint, under `.ckptmigrate/`:

    lock                  who is at it (lock.py)
    stage/NAME            new files
    stage/.old/NAME       old files, moved out of the way
    stage/journal.json    digests of every file before and after (journal.py); while it is there,
                          files may be out of place
    NNNN/NAME             originals, for `undo` (sidecar.py)

That metadata.json is gone, and that all else is back, is on disk before the next step: without it
no reader takes the directory for a torch_dist checkpoint. `recover` may itself be cut short and
run again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ckptmigrate.access import opener
from ckptmigrate.access.storage import LARGEST_JSON, LARGEST_PART, LocalDirectory, folders_of
from ckptmigrate.checkpoint import sidecar
from ckptmigrate.checkpoint.sidecar import FileState
from ckptmigrate.errors import DamagedError, DestinationError, Retry
from ckptmigrate.planning.change import Change
from ckptmigrate.text.commands import command, shell
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
    """A swap that is about to happen.

    Attributes:
        path: the checkpoint.
        stage: where the new files are written.
        new: name -> bytes of every file that comes in; metadata.json always, as it commits.
        files: name -> digests, of every file that goes or comes.
        hidden: whether the directory is nothing to a reader meanwhile (Change.marks).
    """

    path: Path
    stage: Path
    new: Mapping[str, bytes]
    files: Mapping[str, FileState]
    hidden: bool


def stage_of(path: Path) -> Path:
    """Where a migration in place stages the new files of a checkpoint."""
    return path / sidecar.FOLDER / "stage"


def lock_of(path: Path) -> Path:
    """The lock of a migration in place."""
    return path / sidecar.FOLDER / "lock"


def is_unfinished(path: Path) -> bool:
    """Whether a migration in place is at work on a checkpoint, or left something of itself."""
    folder = path / sidecar.FOLDER
    if os.path.lexists(stage_of(path)) or os.path.lexists(lock_of(path)):
        return True
    return folder.is_dir() and not folder.is_symlink() and not os.listdir(folder)


def check_whole(path: Path) -> None:
    """Make sure that no migration in place has a checkpoint in its hands.

    Raises:
        DestinationError: one has; it says whether that one still runs.
    """
    if not os.path.lexists(stage_of(path)):
        return
    if os.path.lexists(lock_of(path)):
        raise lock.refusal(lock.owner_of(lock_of(path)), path, lock_of(path))
    raise DestinationError(
        "a migration in place did not finish on it",
        path=path,
        fix=f"make it whole with `{command('recover', path)}`",
    )


def take(path: Path) -> None:
    """Take the lock of a checkpoint for a migration in place.

    Raises:
        DestinationError: somebody has it, or did not finish.
        DamagedError: `.ckptmigrate` is not a directory of the checkpoint.
        OSError: it cannot be written.
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
    """Make a folder in a checkpoint, for the owner of the checkpoint, who may want to undo."""
    make_directory(folder, path)
    adopt_directory(folder, path)


def release(path: Path) -> None:
    """Give the lock back."""
    os.unlink(lock_of(path))
    _remove_if_empty(path / sidecar.FOLDER)


def _remove_if_empty(folder: Path) -> None:
    if not os.listdir(folder):
        os.rmdir(folder)


def _check_own(path: Path) -> None:
    """A link would have `recover` move and remove files of somebody else."""
    for folder in (path / sidecar.FOLDER, stage_of(path), stage_of(path) / journal.OLD):
        if folder.is_symlink():
            raise DamagedError(
                "is a link, and no folder of ckptmigrate",
                path=folder,
                fix=f"remove the link with `{shell('rm', folder)}`",
            )


def _check_folders(path: Path, inside: Collection[str]) -> None:
    """Raise unless every folder that a journal names is one of the checkpoint and of the stage."""
    for folder in inside:
        for place in (path, stage_of(path), stage_of(path) / journal.OLD):
            if (place / folder).is_symlink():
                raise DamagedError(
                    "is a link, and no folder of the checkpoint",
                    path=place / folder,
                    fix=f"remove the link with `{shell('rm', place / folder)}`",
                )


def prepare(change: Change) -> Swap:
    """Make the stage of a change in place, with its folders, under its lock.

    Raises:
        DestinationError: the checkpoint is not as it was planned from, or one did not finish.
        OSError: the stage cannot be made.
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
        check_whole(path)
        raise
    for folder in folders_of(new):
        make_own(stage / folder, path)
    sync_directory(stage.parent)  # without a stage `recover` would leave new originals alone
    return Swap(path, stage, new, files, hidden=bool(change.marks))


def _check_no_links(path: Path, names: Collection[str]) -> None:
    """What a link leads to is not the checkpoint's own: it may be a cache's, or another root's."""
    for name in sorted({*names, *folders_of(names)}):
        if (path / name).is_symlink():
            raise DestinationError(
                f"{name} is a link, to {os.readlink(path / name)}, and is not replaced in place",
                path=path,
                fix="leave --in-place out; the result then has a file of its own",
                retry=Retry(leave_out=("--in-place",)),
            )


def _check_originals(path: Path) -> None:
    told = len(sidecar.load(LocalDirectory(path)))
    stray = [folder for folder in _originals(path) if folder.name > journal.number(told)]
    if stray:
        raise DestinationError(
            f"holds originals that {sidecar.FILE} does not tell of",
            path=stray[0],
            fix="move that folder out of the checkpoint with "
            f"`{shell('mv', stray[0], path.with_name(f'{path.name}.originals'))}`",
        )


def _originals(path: Path) -> list[Path]:
    """The folders of originals, in order of their step."""
    return sorted(
        item for item in (path / sidecar.FOLDER).iterdir() if sidecar.is_folder(item.name)
    )


def begin(swap: Swap) -> None:
    """Write the journal: from here on `recover` knows what to do."""
    old = swap.stage / journal.OLD
    inside = folders_of(swap.files)
    for folder in ("", *inside):
        make_own(old / folder, swap.path)
    if inside:  # their names are on disk before a file is moved there
        _sync(*(swap.stage / folder for folder in reversed(inside)), old)
    write(swap.stage / _UNFINISHED_JOURNAL, journal.dump(swap.files))
    os.rename(swap.stage / _UNFINISHED_JOURNAL, swap.stage / journal.NAME)
    sync_directory(swap.stage)
    sync_directory(swap.stage.parent)
    sync_directory(swap.path)


def perform(swap: Swap) -> None:
    """Old files out, new files in; the marker is the first to go and the last to come.

    Where nothing marks the directory, a file is there at every moment: a job that finds no tracker
    file begins from random weights (_load_base_checkpoint, megatron/training/checkpointing.py).

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
                content = opener.read(swap.path / name, LARGEST_PART)
                write(old / name, content, like=swap.path / name)
        _sync_homes(names, swap.path, old)
    for names in journal.groups(swap.new):
        for name in names:
            os.rename(swap.stage / name, swap.path / name)
        _sync_homes(names, swap.path, swap.stage)
    journal.check(LocalDirectory(swap.path), {n: s.after for n, s in swap.files.items()})


def _sync_homes(names: Collection[str], *places: Path) -> None:
    """Put the names of files on disk: in each place, and in the folders there that they are in."""
    for place in places:
        _sync(*(place / folder for folder in reversed(folders_of(names))), place)


def _sync(*folders: Path) -> None:
    for folder in folders:
        sync_directory(folder)


def recover(path: Path, *, break_lock: bool = False) -> Outcome:
    """Finish what a migration in place left of a checkpoint, one way or the other.

    Args:
        path: the checkpoint directory.
        break_lock: whether the user says that a run which cannot be seen from here is over.

    Raises:
        DestinationError: the migration still runs, or cannot be seen from here.
        DamagedError: the journal, or what it keeps, cannot be read.
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
    """Finish what is there, under the lock.

    Raises:
        DamagedError: the journal, or what it keeps, cannot be read.
        OSError: a file cannot be moved; `recover` has to be run.
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
    """Remove the stage, once the checkpoint is as before the migration or as after it.

    Raises:
        OSError: part of it is left; `recover` has to be run.
    """
    stage = stage_of(path)
    if os.path.lexists(stage / journal.NAME):
        # On disk before the journal goes, and with it the knowledge of what belongs where.
        homes = ("", *folders_of(_read_journal(stage / journal.NAME)))
        places = (each / home for each in (stage / journal.OLD, stage, path) for home in homes)
        _sync(*(place for place in places if place.is_dir()))
    if os.path.lexists(stage):  # without one, nothing was written either
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
            "cannot be rolled back: a file is neither as before the migration nor kept",
            path=path,
            fix=f"compare its files with the digests in {stage_of(path) / journal.NAME}",
        )


def _remove_originals(path: Path) -> None:
    """Those of steps that the sidecar, which is in its place again, does not tell of."""
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
            raise opener.NotRegularError(file)
        content = opener.read(file, LARGEST_JSON)
    except OSError as error:
        raise journal.broken(file, error.strerror) from error
    return journal.parse(content, file)

"""In-place changes of a checkpoint or a root, and the recovery of interrupted ones.

In the directory, under `.ckptmigrate/`:

    lock                  the owner of the migration (lock.py)
    stage/NAME            new files, data files among them
    stage/.old/NAME       copies of the files that are replaced or removed
    stage/journal.json    hashes of every file before and after (journal.py); while it exists, the
                          swap may be incomplete
    parts/NAME            new data files and their records (parts.py), kept after an error
    NNNN/NAME             original files, for `undo` (sidecar.py)

The steps, each on disk before the next:

    1. lock; new data files; stage
    2. other new files, originals and copies of the old files, read back and validated; the journal
    3. metadata.json is removed, then `.metadata`
    4. the other files are replaced or removed, `.metadata` is written last of them
    5. metadata.json is written, which commits
    6. the journal, the stage and the lock are removed

Until step 3 nothing has changed. From then on, no release accepts the directory as a checkpoint
until step 5. `recover` compares the hashes: if every file is as after the change, it continues with
step 6. If every file is as before, it does the same, and removes the originals of the step.
Otherwise it does steps 3 to 5 with the old files first. It can be interrupted and run again. A
change of files without which a job does not start (the tracker files of a root) has no step 3: each
file is replaced at once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ckptmigrate.checkpoint import manifest, sidecar
from ckptmigrate.checkpoint.migration_state import check_complete, is_staged, is_unfinished, lock_of
from ckptmigrate.checkpoint.sidecar import FileState
from ckptmigrate.errors import (
    CkptMigrateError,
    DamagedError,
    DestinationError,
    StoreError,
    reason_of,
)
from ckptmigrate.places import Place
from ckptmigrate.planning.change import Change
from ckptmigrate.planning.planner import Plan
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import (
    Directory,
    Joined,
    Overlay,
    directory,
    read_if_there,
    size_of,
)
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import command, shell
from ckptmigrate.writing import journal, lock, parts, validation
from ckptmigrate.writing.durable import model_of
from ckptmigrate.writing.journal import OLD, PARTS, STAGE, Recovery
from ckptmigrate.writing.medium import Medium, medium
from ckptmigrate.writing.part_files import part_files
from ckptmigrate.writing.parts import MOVING, Moving

_REFUSED: Final = (OSError, StoreError, DamagedError)


def rewrite(plan: Plan, *, moving: Moving = MOVING, progress: Progress | None = None) -> None:
    """Change a checkpoint in place, except its existing data files.

    Args:
        moving: how to write new data files.
        progress: called with each number of bytes of new data files that were written.

    Raises:
        DestinationError, StoreError: the checkpoint cannot be written. It is unchanged, or the
            message says to run `ckptmigrate recover`.
    """
    if not plan.changes_nothing:
        _swap(
            plan.change,
            lambda change, written: validation.verify(replace(plan, change=change), written),
            moving,
            progress,
        )


def repoint(root: Place, trackers: Mapping[str, bytes], step: sidecar.Step) -> None:
    """Replace the tracker files of a root and keep the original files.

    Args:
        trackers: name -> new bytes.
        step: the step to append to the migration history of the root.

    Raises:
        DamagedError: the migration history of the root cannot be read.
        DestinationError, StoreError: as `rewrite`.
    """
    now = directory(root)
    steps = sidecar.load(now)
    before = {name: read_if_there(now, name) for name in trackers}
    change = Change(
        path=root,
        files=trackers,
        sidecar=sidecar.dump((*steps, step)),
        originals={name: content for name, content in before.items() if content is not None},
        originals_folder=sidecar.folder(len(steps)),
        kept_steps=len(steps),
        before={name: sidecar.digest(content) for name, content in before.items()},
        after={name: sidecar.digest(content) for name, content in trackers.items()},
        marks=(),
    )
    _swap(change, validation.verify_files)


def _swap(
    change: Change,
    validate: Callable[[Change, Directory], None],
    moving: Moving = MOVING,
    progress: Progress | None = None,
) -> None:
    """Change files in place.

    Args:
        validate: is called with the change and the directory after it before anything is replaced,
            so that no job can read unvalidated files; raises if it is wrong.
    """
    path, target = change.path, medium(change.path)
    check_complete(path)
    try:
        target.prepare()
        with lock.held(lock_of(path), path, synced=False):  # the sync of the stage includes it
            try:
                change, new, files = _stage(target, change, moving, progress)
                after = directory(path)
                if change.payload:
                    after = Joined(after, directory(path / PARTS), change.payload)
                # `create` has read every file back, so the bytes in memory are those in the stage.
                validate(change, Overlay(after, {**dict.fromkeys(change.files), **new}))
                target.create(journal.FILE, journal.dump(files))
                target.sync(_staged(change, new, files))
                sizes = {name: len(content) for name, content in new.items()}
                sizes |= {name: payload.size for name, payload in change.payload.items()}
                homes = dict.fromkeys(change.payload, PARTS)
                _replace(target, files, lambda name: homes.get(name, STAGE), sizes)
                journal.check(directory(path), {n: state.after for n, state in files.items()})
            except BaseException as error:
                _roll_back_failed(target, error)
                raise
            try:
                if change.payload:
                    target.remove_folder(PARTS)
                _finish(target, files)
            except (OSError, StoreError) as error:
                raise DestinationError(
                    "was rewritten, but the staging files of the migration could not be removed "
                    f"({reason_of(error)})",
                    path=path,
                    fix=f"when that works again, run `{command('recover', path)}`",
                ) from error
    except OSError as error:
        with contextlib.suppress(OSError):
            target.finish()
        raise target.failure(error, "nothing was changed") from error


def _stage(
    target: Medium, change: Change, moving: Moving, progress: Progress | None
) -> tuple[Change, dict[str, bytes], dict[str, FileState]]:
    """Write all files that the swap needs, beside those that it changes.

    Returns:
        The change, with the digests of its data files; name -> bytes, of every other new file; name
        -> hashes before and after, of every changed file.
    """
    path = target.path
    target.check_replaceable((*change.files, *change.marks))
    now = directory(path)
    before = journal.check_unchanged(change, now)
    for stray in _untold(path):
        out = "to move that directory out of the checkpoint, "
        if isinstance(path, Path):
            out += f"run `{shell('mv', path / stray, path.with_name(f'{path.name}.originals'))}`"
        else:
            out += "use the tools of the store"
        raise DestinationError(
            f"contains original files that {sidecar.FILE} does not list",
            path=path / stray,
            fix=out,
        )
    if change.payload:
        like = (path,) if isinstance(path, Path) else ()
        change = parts.written(change, part_files(path / PARTS), moving, progress, *like)
        before = journal.check_unchanged(change, directory(path))  # that may have taken long
    target.make_stage()
    new, files = journal.changes(change, before, now)
    old = {n: size_of(now, n) or 0 for n, state in files.items() if state.before is not None}
    for name, content in new.items():
        target.create(f"{STAGE}/{name}", content, like=model_of(change, name))
    for name, content in change.originals.items():
        target.create(f"{change.originals_folder}/{name}", content, like=model_of(change, name))
    for name, size in old.items():
        target.copy(name, f"{OLD}/{name}", size)
    journal.check(directory(path), {f"{OLD}/{name}": files[name].before for name in old})
    return change, new, files


def _staged(change: Change, new: Collection[str], files: Mapping[str, FileState]) -> list[str]:
    """Return all files that are staged: new files, originals, copies of old files, the journal."""
    return [
        *(f"{STAGE}/{name}" for name in new),
        *(f"{change.originals_folder}/{name}" for name in change.originals),
        *(f"{OLD}/{name}" for name, state in files.items() if state.before is not None),
        journal.FILE,
    ]


def _replace(
    target: Medium,
    files: Collection[str],
    home: Callable[[str], str],
    sizes: Mapping[str, int],
) -> None:
    """Replace files; remove metadata.json first and write it last (see `journal.groups`).

    Args:
        home: returns the folder of the new content of a file.
        sizes: name -> size in bytes, of the files that have a new content; the others are removed.
    """
    marks = [name for name in files if name.rpartition("/")[2] in manifest.MARKS]
    for names in reversed(journal.groups(marks)):
        for name in reversed(names):
            target.remove(name)
        if manifest.MARKER_FILE in names:  # the other marks do not make a checkpoint without it
            target.sync(names)
    for names in journal.groups(files):
        for name in names:
            if name in sizes:
                target.copy(f"{home(name)}/{name}", name, sizes[name])
            else:
                target.remove(name)
        target.sync(names)


def _roll_back_failed(target: Medium, why: BaseException) -> None:
    """Roll back a failed change; raise if that fails, or if the change was already committed."""
    path = target.path
    try:
        kept = parts.finished(path / PARTS)
        outcome = _settle(target, keep=kept is not None)
        lock.release(lock_of(path))
        target.finish()
    except _REFUSED as error:
        with contextlib.suppress(OSError, StoreError):
            lock.release(lock_of(path))  # the process may continue, but this change is over
        raise DestinationError(
            f"cannot be written ({reason_of(why)}), and the migration could not be rolled back "
            f"({reason_of(error)})",
            path=path,
            fix=f"when it is writable again, run `{command('recover', path)}`",
        ) from error
    if not isinstance(why, Exception):
        parts.mention(why, kept, path)
        return
    if outcome is Recovery.COMMITTED:
        raise DestinationError(
            f"was rewritten, but then there was an error: {reason_of(why)}",
            path=path,
            fix=f"to examine it, run `{command('inspect', path)}`",
        ) from why
    done = outcome.value if outcome is Recovery.ROLLED_BACK else "nothing was changed"
    if isinstance(why, OSError):
        raise target.failure(why, done) from why
    if isinstance(why, CkptMigrateError) and (
        outcome is Recovery.ROLLED_BACK or (not kept and isinstance(why, StoreError | DamagedError))
    ):
        why.reason += f"; {done}"
    parts.mention(why, kept, path)


def recover(path: Place, *, break_lock: bool = False, keep: bool = False) -> str:
    """Recover from an interrupted change: complete it if committed, else roll it back.

    Args:
        path: the checkpoint or root.
        break_lock: whether to take over a lock whose process cannot be seen from this host.
        keep: whether finished new data files remain for the next run.

    Returns:
        What was done; empty if there was nothing to recover.

    Raises:
        DestinationError: the migration still runs, or its process cannot be seen from this host.
        DamagedError: the journal or a replaced file cannot be read.
        OSError, StoreError: a file cannot be written; run it again.
    """
    if not (is_unfinished(path) or (not keep and _has_parts(path))):
        return ""
    target = medium(path)
    target.check_folders(())
    with lock.taken_over(lock_of(path), path, break_lock=break_lock):
        done = parts.finished(path / PARTS)
        keep = keep and done is not None
        outcome = _settle(target, keep=keep)
    target.finish()
    if outcome is Recovery.COMMITTED:
        done = None
    return parts.recovered(outcome.value, done, keep=keep)


def _has_parts(path: Place) -> bool:
    left = path / PARTS
    return os.path.lexists(left) if isinstance(left, Path) else directories.is_dir(left)


def _settle(target: Medium, *, keep: bool) -> Recovery:
    """Complete or roll back a swap, then remove the staging directory; call it locked.

    Args:
        keep: whether finished new data files remain, unless the swap is complete.
    """
    path, outcome = target.path, Recovery.UNTOUCHED
    files: dict[str, FileState] = {}
    content = target.journal()
    if content is not None:
        files = journal.parse(content, path / journal.FILE)
        target.check_folders(files)
        if journal.matches(directory(path), files, after=True):
            outcome = Recovery.COMMITTED
        elif not journal.matches(directory(path), files, after=False):
            _roll_back(target, files)
            outcome = Recovery.ROLLED_BACK
    _clean(target, files)
    if not keep or outcome is Recovery.COMMITTED:
        target.remove_folder(PARTS)
    return outcome


def _roll_back(target: Medium, files: Mapping[str, FileState]) -> None:
    path = target.path
    now = directory(path)
    old = [name for name, state in files.items() if state.before is not None]
    sizes = {name: size for name in old if (size := size_of(now, f"{OLD}/{name}")) is not None}
    if len(sizes) == len(old):
        _replace(target, files, lambda _: OLD, sizes)
    if not journal.matches(directory(path), files, after=False):
        raise DamagedError(
            "cannot be rolled back: a file changed, and its original is missing",
            path=path,
            fix=f"compare its files with the hashes in {path / journal.FILE}",
        )


def _finish(target: Medium, files: Collection[str]) -> None:
    """Clean up after a committed change; a failure here does not roll it back."""
    _clean(target, files)
    lock.release(lock_of(target.path))
    target.finish()


def _clean(target: Medium, files: Collection[str]) -> None:
    """Remove the staging directory after the change was completed or rolled back.

    Args:
        files: the files in the journal.
    """
    if not is_staged(target.path):  # then no original files were written
        return
    target.sync(files)  # without the journal, the swap cannot be recovered
    with contextlib.suppress(DamagedError):  # the migration history cannot be read
        for folder in _untold(target.path):
            target.remove_folder(folder)
            target.sync([folder])
    target.remove(journal.FILE)  # without it, the copies beside it have no effect
    target.remove_folder(STAGE)
    target.sync([STAGE])


def _untold(path: Place) -> list[str]:
    """Return the folders of original files whose steps the migration history does not contain."""
    now = directory(path)
    count = len(sidecar.load(now))
    own = now.below(sidecar.FOLDER)
    folders = [] if own is None else own.folders()
    return [
        f"{sidecar.FOLDER}/{name}"
        for name in folders
        if sidecar.is_folder(name) and name > journal.number(count)
    ]

"""In-place migrations in an object store, and the recovery of interrupted ones.

The files in the checkpoint, under `.ckptmigrate/`, are those of swap.py:

    lock                  the owner of the migration
    stage/NAME            new files, validated before the swap starts
    stage/.old/NAME       copies of the old files
    stage/journal.json    hashes of every file before and after
    NNNN/NAME             original files, for `undo` (sidecar.py)

After the journal is written, metadata.json is removed, then `.metadata`. The new files are copied
from the staging directory over the old ones: `.metadata` next to last and metadata.json last, which
commits. A copy inside a store replaces an object atomically. The old files stay in the staging
directory until the migration is complete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping

from ckptmigrate.checkpoint import manifest, sidecar
from ckptmigrate.checkpoint.migration_state import is_unfinished, lock_of, stage_of
from ckptmigrate.checkpoint.sidecar import FileState
from ckptmigrate.errors import DamagedError, DestinationError, StoreError, reason_of
from ckptmigrate.places import Url
from ckptmigrate.planning.planner import Plan
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import Overlay, size_of
from ckptmigrate.storage.store import store_of
from ckptmigrate.storage.store_directories import StoreDirectory
from ckptmigrate.text.commands import command
from ckptmigrate.writing import journal, store_lock, transaction
from ckptmigrate.writing.journal import Outcome


def rewrite(plan: Plan, path: Url) -> None:
    """Change a checkpoint in place, except its data files.

    Raises:
        DestinationError: the checkpoint changed after planning, or another process is changing it.
        StoreError: the checkpoint cannot be written. It is unchanged, or the message says to run
            `ckptmigrate recover`.
    """
    if plan.changes_nothing:
        return
    with store_lock.held(lock_of(path), path):
        try:
            now = StoreDirectory(path)
            new, files = journal.changes(plan.change, now)
            _check_originals(path)
            _stage(plan, now, new, files)
            _begin(path, files)
            _perform(path, new, files)
        except BaseException as error:
            _take_back(path, error)
            raise
        try:
            _clean(path)
            store_lock.release(lock_of(path))
        except StoreError as error:
            raise DestinationError(
                "was rewritten, but the staging files of the migration could not be removed "
                f"({error.reason})",
                path=path,
                fix=f"when that works again, run `{command('recover', path)}`",
            ) from error


def _check_originals(path: Url) -> None:
    stray = _untold(path)
    if stray:
        raise DestinationError(
            f"contains original files that {sidecar.FILE} does not list",
            path=stray[0],
            fix="move them out of the checkpoint",
        )


def _untold(path: Url) -> list[Url]:
    """Return the folders of original files whose steps the migration history does not contain."""
    told = len(sidecar.load(StoreDirectory(path)))
    home = path / sidecar.FOLDER
    folders = [name for name in store_of(path).list(home).folders if sidecar.is_folder(name)]
    return [home / name for name in folders if name > journal.number(told)]


def _stage(
    plan: Plan, now: StoreDirectory, new: Mapping[str, bytes], files: Mapping[str, FileState]
) -> None:
    """Write all files that the swap needs, then validate the result of the swap."""
    path = now.path
    store, stage = store_of(path), stage_of(path)
    for name, content in new.items():
        store.create(stage / name, content)
    for name, content in plan.change.originals.items():
        store.create(path / plan.change.originals_folder / name, content)
    for name, state in files.items():
        if state.before is not None:
            store.copy(path / name, stage / journal.OLD / name, size_of(now, name) or 0)
    kept = {name: state.before for name, state in files.items() if state.before is not None}
    journal.check(StoreDirectory(stage / journal.OLD), kept)
    # `store.create` has read every object back, so the bytes in memory are those in the store.
    replaced: dict[str, bytes | None] = {**dict.fromkeys(plan.files), **new}
    transaction.verify(plan, Overlay(StoreDirectory(path), replaced))


def _begin(path: Url, files: Mapping[str, FileState]) -> None:
    """Write the journal, which `recover` needs to roll the swap back."""
    store_of(path).create(stage_of(path) / journal.NAME, journal.dump(files))


def _perform(path: Url, new: Mapping[str, bytes], files: Mapping[str, FileState]) -> None:
    """Copy the new files over the old ones; remove metadata.json first and write it last.

    Raises:
        DamagedError: a file does not read back as written.
    """
    store, stage = store_of(path), stage_of(path)
    _open(path, files)
    for names in journal.groups(files):
        for name in names:
            if name in new:
                store.copy(stage / name, path / name, len(new[name]))
            else:
                store.remove(path / name)
    journal.check(StoreDirectory(path), {n: s.after for n, s in files.items()})


def _open(path: Url, files: Collection[str]) -> None:
    """Remove metadata.json and `.metadata` of a checkpoint and of those nested in it, in order."""
    for names in reversed(journal.groups({*files, *manifest.MARKS})):
        for name in reversed(names):
            if name.rpartition("/")[2] in manifest.MARKS:
                store_of(path).remove(path / name)


def _take_back(path: Url, why: BaseException) -> None:
    """Roll back a failed in-place migration; raise if it was already committed."""
    try:
        outcome = _settle(path)
        store_lock.release(lock_of(path))
    except (StoreError, DamagedError, OSError) as error:
        with contextlib.suppress(StoreError):
            store_lock.release(
                lock_of(path)
            )  # the process may continue, but this migration is over
        raise DestinationError(
            f"cannot be written ({reason_of(why)}), and the migration could not be rolled back "
            f"({reason_of(error)})",
            path=path,
            fix=f"when it is writable again, run `{command('recover', path)}`",
        ) from error
    if not isinstance(why, Exception):
        return
    if outcome is Outcome.COMMITTED:
        raise DestinationError(
            f"was rewritten, but then the store failed: {reason_of(why)}",
            path=path,
            fix=f"to examine it, run `{command('inspect', path)}`",
        ) from why
    done = outcome.value if outcome is Outcome.ROLLED_BACK else "nothing was changed"
    if isinstance(why, OSError):  # an object appeared or vanished
        raise DestinationError(
            f"was changed by another program during the migration ({reason_of(why)}); {done}",
            path=path,
            fix="stop other programs that write to it, then run the command again",
        ) from why
    if isinstance(why, StoreError | DamagedError):
        why.reason += f"; {done}"


def recover(path: Url, *, break_lock: bool = False) -> Outcome:
    """Recover from an interrupted in-place migration, as `swap.recover`.

    Raises:
        DestinationError: the migration still runs, or its process cannot be seen from this host.
        DamagedError: the journal or a replaced file cannot be read.
        StoreError: an object cannot be written; run it again.
    """
    if not is_unfinished(path):
        return Outcome.NOTHING
    with store_lock.of_the_dead(lock_of(path), path, break_lock=break_lock):
        return _settle(path)


def _settle(path: Url) -> Outcome:
    """Complete or roll back the swap, then remove the staging directory; call it locked."""
    store, stage = store_of(path), stage_of(path)
    outcome = Outcome.UNTOUCHED
    place = stage / journal.NAME
    # Without a journal, the staging directory is removed with the old files. Ask the store twice,
    # so that a single wrong answer does no damage.
    if directories.is_file(place) or journal.NAME in store.list(stage).files:
        files = journal.parse(store.read(place), place)
        if journal.matches(StoreDirectory(path), files, after=True):
            outcome = Outcome.COMMITTED
        elif not journal.matches(StoreDirectory(path), files, after=False):
            _roll_back(path, files)
            outcome = Outcome.ROLLED_BACK
    _clean(path)
    return outcome


def _clean(path: Url) -> None:
    """Remove the staging directory after the migration was completed or rolled back."""
    store, stage = store_of(path), stage_of(path)
    left = [name for name, _ in store.walk(stage)]
    if left:  # without a stage, no original files were written
        for folder in _told_or_none(path):
            for name, _ in store.walk(folder):
                store.remove(folder / name)
    # Remove the journal first: without it, the copies beside it have no effect.
    for name in sorted(left, key=lambda name: name != journal.NAME):
        store.remove(stage / name)


def _told_or_none(path: Url) -> list[Url]:
    """Return the result of `_untold`; empty if the migration history cannot be read."""
    try:
        return _untold(path)
    except DamagedError:
        return []


def _roll_back(path: Url, files: Mapping[str, FileState]) -> None:
    store, old = store_of(path), stage_of(path) / journal.OLD
    kept = StoreDirectory(old)
    sizes = {name: size_of(kept, name) for name in files}
    if all(state.before is None or sizes[name] is not None for name, state in files.items()):
        _open(path, files)
        for names in journal.groups(files):
            for name in names:
                if files[name].before is not None:
                    store.copy(old / name, path / name, sizes[name] or 0)
                else:
                    store.remove(path / name)
    if not journal.matches(StoreDirectory(path), files, after=False):
        raise DamagedError(
            "cannot be rolled back: a file changed, and its original is missing",
            path=path,
            fix=f"compare its files with the hashes in {stage_of(path) / journal.NAME}",
        )

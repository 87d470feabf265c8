"""A migration in place in a store, and the way out of one that did not finish.

In the checkpoint, under `.ckptmigrate/`, lies what swapping.py keeps there, too:

    lock                  who is at it
    stage/NAME            new files, verified before any of them is in its place
    stage/.old/NAME       copies of the old files
    stage/journal.json    digests of every file before and after
    NNNN/NAME             originals, for `undo` (sidecar.py)

Once the journal is there, metadata.json is removed, then `.metadata`; what changes is copied from
the stage over what was; `.metadata` comes back, and metadata.json last, as the commit. A copy
inside a store replaces an object at once, and old files stay in the stage until all is over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping

from ckptmigrate.access.directory import StoreDirectory
from ckptmigrate.access.places import Url
from ckptmigrate.access.storage import Overlay, size_of
from ckptmigrate.checkpoint import manifest, sidecar
from ckptmigrate.checkpoint.sidecar import FileState
from ckptmigrate.errors import DamagedError, DestinationError, StoreError, reason_of
from ckptmigrate.objects import lock
from ckptmigrate.planning.planner import Plan
from ckptmigrate.text.commands import command
from ckptmigrate.writing import journal, transaction
from ckptmigrate.writing.journal import Outcome
from ckptmigrate.writing.lock import refusal


def stage_of(path: Url) -> Url:
    """Where a migration in place stages the new files of a checkpoint."""
    return path / sidecar.FOLDER / "stage"


def lock_of(path: Url) -> Url:
    """The lock of a migration in place."""
    return path / sidecar.FOLDER / "lock"


def is_unfinished(path: Url) -> bool:
    """Whether a migration in place is at work on a checkpoint, or left something of itself."""
    return lock_of(path).is_file() or stage_of(path).is_dir()


def check_whole(path: Url) -> None:
    """Make sure that no migration in place has a checkpoint in its hands.

    Raises:
        DestinationError: one has; it says whether that one still runs.
    """
    if not stage_of(path).is_dir():
        return
    if lock_of(path).is_file():
        raise refusal(lock.owner_of(lock_of(path)), path)
    raise DestinationError(
        "a migration in place did not finish on it",
        path=path,
        fix=f"make it whole with `{command('recover', path)}`",
    )


def rewrite(plan: Plan, path: Url) -> None:
    """Change a checkpoint in place; its payload is not touched.

    Raises:
        DestinationError: it is not as it was planned from, or somebody else is at it.
        StoreError: it cannot be written; it is as it was, or the sentence says that
            `ckptmigrate recover` has to make it so.
    """
    if plan.changes_nothing:
        return
    with lock.held(lock_of(path), path):
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
            lock.release(lock_of(path))
        except StoreError as error:
            raise DestinationError(
                "is rewritten, but what the migration needed meanwhile could not be removed "
                f"({error.reason})",
                path=path,
                fix=f"when it can, run `{command('recover', path)}`",
            ) from error


def _check_originals(path: Url) -> None:
    stray = _untold(path)
    if stray:
        raise DestinationError(
            f"holds originals that {sidecar.FILE} does not tell of",
            path=stray[0],
            fix="move them out of the checkpoint",
        )


def _untold(path: Url) -> list[Url]:
    """The folders of originals of steps that the sidecar does not tell of."""
    told = len(sidecar.load(StoreDirectory(path)))
    home = path / sidecar.FOLDER
    folders = [name for name in path.store.list(home).folders if sidecar.is_folder(name)]
    return [home / name for name in folders if name > journal.number(told)]


def _stage(
    plan: Plan, now: StoreDirectory, new: Mapping[str, bytes], files: Mapping[str, FileState]
) -> None:
    """Everything that is needed, and a look at it with the eyes of a reader."""
    path = now.path
    store, stage = path.store, stage_of(path)
    for name, content in new.items():
        store.create(stage / name, content)
    for name, content in plan.change.originals.items():
        store.create(path / plan.change.originals_folder / name, content)
    for name, state in files.items():
        if state.before is not None:
            store.copy(path / name, stage / journal.OLD / name, size_of(now, name) or 0)
    kept = {name: state.before for name, state in files.items() if state.before is not None}
    journal.check(StoreDirectory(stage / journal.OLD), kept)
    # What was created has been read back.
    replaced: dict[str, bytes | None] = {**dict.fromkeys(plan.files), **new}
    transaction.verify(plan, Overlay(StoreDirectory(path), replaced))


def _begin(path: Url, files: Mapping[str, FileState]) -> None:
    """Write the journal: from here on `recover` knows what to do."""
    path.store.create(stage_of(path) / journal.NAME, journal.dump(files))


def _perform(path: Url, new: Mapping[str, bytes], files: Mapping[str, FileState]) -> None:
    """The marker is the first to go and the last to come.

    Raises:
        DamagedError: a file does not read back as written.
    """
    store, stage = path.store, stage_of(path)
    _open(path, files)
    for names in journal.groups(files):
        for name in names:
            if name in new:
                store.copy(stage / name, path / name, len(new[name]))
            else:
                store.remove(path / name)
    journal.check(StoreDirectory(path), {n: s.after for n, s in files.items()})


def _open(path: Url, files: Collection[str]) -> None:
    """Remove what makes it a checkpoint to a reader, then the same of those in it."""
    for names in reversed(journal.groups({*files, *manifest.MARKS})):
        for name in reversed(names):
            if name.rpartition("/")[2] in manifest.MARKS:
                path.store.remove(path / name)


def _take_back(path: Url, why: BaseException) -> None:
    """Undo what was done by now; if it was too late for that, say so."""
    try:
        outcome = _settle(path)
        lock.release(lock_of(path))
    except (StoreError, DamagedError, OSError) as error:
        with contextlib.suppress(StoreError):
            lock.release(lock_of(path))  # this run is over, even if its process goes on
        raise DestinationError(
            f"cannot be written ({reason_of(why)}), and the migration could not be taken back "
            f"({reason_of(error)})",
            path=path,
            fix=f"when it can be written again, run `{command('recover', path)}`",
        ) from error
    if not isinstance(why, Exception):
        return
    if outcome is Outcome.COMMITTED:
        raise DestinationError(
            f"was rewritten, and at the end the store said: {reason_of(why)}",
            path=path,
            fix=f"look at it with `{command('inspect', path)}`",
        ) from why
    done = outcome.value if outcome is Outcome.ROLLED_BACK else "nothing was changed"
    if isinstance(why, OSError):  # an object appeared or vanished
        raise DestinationError(
            f"was changed by something else while it was migrated ({reason_of(why)}); {done}",
            path=path,
            fix="make sure that nothing else writes to it, then run this again",
        ) from why
    if isinstance(why, StoreError | DamagedError):
        why.reason += f"; {done}"


def recover(path: Url, *, break_lock: bool = False) -> Outcome:
    """Finish what a migration in place left of a checkpoint; as `swapping.recover`.

    Raises:
        DestinationError: the migration still runs, or cannot be seen from here.
        DamagedError: the journal, or what it keeps, cannot be read.
        StoreError: an object cannot be written; run it again.
    """
    if not is_unfinished(path):
        return Outcome.NOTHING
    with lock.of_the_dead(lock_of(path), path, break_lock=break_lock):
        return _settle(path)


def _settle(path: Url) -> Outcome:
    """Finish what is there, under the lock."""
    store, stage = path.store, stage_of(path)
    outcome = Outcome.UNTOUCHED
    place = stage / journal.NAME
    # Without it the stage is removed, old files and all: one answer that is wrong is not enough.
    if place.is_file() or journal.NAME in store.list(stage).files:
        files = journal.parse(store.read(place), place)
        if journal.matches(StoreDirectory(path), files, after=True):
            outcome = Outcome.COMMITTED
        elif not journal.matches(StoreDirectory(path), files, after=False):
            _roll_back(path, files)
            outcome = Outcome.ROLLED_BACK
    _clean(path)
    return outcome


def _clean(path: Url) -> None:
    """Remove the stage, once the checkpoint is as before the migration or as after it."""
    store, stage = path.store, stage_of(path)
    left = [name for name, _ in store.walk(stage)]
    if left:  # without a stage, no originals were written either
        for folder in _told_or_none(path):
            for name, _ in store.walk(folder):
                store.remove(folder / name)
    # The journal goes first: with it alone the copies beside it mean anything.
    for name in sorted(left, key=lambda name: name != journal.NAME):
        store.remove(stage / name)


def _told_or_none(path: Url) -> list[Url]:
    """Folders of originals that nothing tells of; none where the sidecar cannot be read."""
    try:
        return _untold(path)
    except DamagedError:
        return []


def _roll_back(path: Url, files: Mapping[str, FileState]) -> None:
    store, old = path.store, stage_of(path) / journal.OLD
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
            "cannot be rolled back: a file is neither as before the migration nor kept",
            path=path,
            fix=f"compare its files with the digests in {stage_of(path) / journal.NAME}",
        )

"""The swap of a migration in place, and the way out of one that did not finish.

In the checkpoint, under `.ckptmigrate/`:

    lock                  who is at it (lock.py)
    stage/NAME            new files
    stage/old/NAME        old files, moved out of the way
    stage/journal.json    digests of every file before and after; while it is there,
                          files may be out of place
    NNNN/NAME             originals, for `undo` (sidecar.py)

metadata.json goes away first, then `.metadata`; `.metadata` comes back, and metadata.json last.
That it is gone, and that all else is back, is on disk before the next step: without metadata.json
no reader takes the directory for a torch_dist checkpoint.
Whether a swap is complete is read from the digests, not from what the last step may have been.
`recover` may itself be cut short and run again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from ckptmigrate import lock, manifest, metadata, sidecar
from ckptmigrate.change import Change
from ckptmigrate.commands import command, shell
from ckptmigrate.durable import remove, sync_directory, write
from ckptmigrate.errors import DamagedError, DestinationError, Retry
from ckptmigrate.places import Place
from ckptmigrate.sidecar import FileState, digest
from ckptmigrate.storage import Directory, LocalDirectory, unreadable

_JOURNAL: Final = "journal.json"
_UNFINISHED_JOURNAL: Final = "journal.json.new"
_OLD: Final = "old"


class Outcome(Enum):
    """What was made of a migration in place, in words."""

    NOTHING = "nothing to recover"
    UNTOUCHED = "removed what was staged; the checkpoint had not been touched"
    ROLLED_BACK = "rolled back; the checkpoint is as it was before the migration"
    COMMITTED = "the migration was complete; removed what was left of it"


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
        raise lock.refusal(lock.owner_of(lock_of(path)), path)
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
    folder.mkdir(exist_ok=True)
    _check_own(path)
    try:
        lock.take(lock_of(path), path)
    except OSError:
        with contextlib.suppress(OSError):
            _remove_if_empty(folder)
        raise


def release(path: Path) -> None:
    """Give the lock back."""
    os.unlink(lock_of(path))
    _remove_if_empty(path / sidecar.FOLDER)


def _remove_if_empty(folder: Path) -> None:
    if not os.listdir(folder):
        os.rmdir(folder)


def _check_own(path: Path) -> None:
    """A link would have `recover` move and remove files of somebody else."""
    for folder in (path / sidecar.FOLDER, stage_of(path), stage_of(path) / _OLD):
        if folder.is_symlink():
            raise DamagedError(
                "is a link, and no folder of ckptmigrate",
                path=folder,
                fix=f"remove the link with `{shell('rm', folder)}`",
            )


def prepare(change: Change) -> Swap:
    """Make the stage of a change in place, under its lock.

    Raises:
        DestinationError: the checkpoint is not as it was planned from, or one did not finish.
        OSError: the stage cannot be made.
    """
    path = change.path
    assert isinstance(path, Path)
    _check_no_links(path, (*change.files, *change.marks))
    new, files = changes(change, LocalDirectory(path))
    _check_originals(path)
    stage = stage_of(path)
    try:
        stage.mkdir()
    except FileExistsError:
        check_whole(path)
        raise
    sync_directory(stage.parent)  # without a stage `recover` would leave new originals alone
    return Swap(path, stage, new, files, hidden=bool(change.marks))


def changes(change: Change, now: Directory) -> tuple[dict[str, bytes], dict[str, FileState]]:
    """What a change in place comes to.

    Args:
        now: the directory as it is.

    Returns:
        Name -> bytes of every file that comes in; name -> digests of every one that goes or comes.

    Raises:
        DestinationError: the directory is not as it was planned from.
    """
    for name, planned in change.before.items():
        if _digest(now, name) != planned:
            raise DestinationError(
                f"{name} was changed while the migration was planned",
                path=change.path,
                fix="run it again",
                retry=Retry(),
            )
    new = {name: content for name, content in change.files.items() if content is not None}
    if change.sidecar is not None:
        new[sidecar.FILE] = change.sidecar
    for name in change.marks:
        if name not in change.files:
            new[name] = now.read(name)
    names = sorted({*change.files, *new, sidecar.FILE})
    return new, {n: FileState(_digest(now, n), digest(new.get(n))) for n in names}


def _check_no_links(path: Path, names: Collection[str]) -> None:
    """What a link leads to is not the checkpoint's own: it may be a cache's, or another root's."""
    for name in sorted(set(names)):
        if (path / name).is_symlink():
            raise DestinationError(
                f"{name} is a link, to {os.readlink(path / name)}, and is not replaced in place",
                path=path,
                fix="leave --in-place out; the result then has a file of its own",
                retry=Retry(leave_out=("--in-place",)),
            )


def _check_originals(path: Path) -> None:
    told = len(sidecar.load(LocalDirectory(path)))
    stray = [folder for folder in _originals(path) if folder.name > number(told)]
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


def number(steps: int) -> str:
    """The name of the folder of the last of so many steps; what comes after it is newer."""
    return Path(sidecar.folder(steps - 1)).name


def begin(swap: Swap) -> None:
    """Write the journal: from here on `recover` knows what to do."""
    (swap.stage / _OLD).mkdir()
    write(swap.stage / _UNFINISHED_JOURNAL, dump(swap.files))
    os.rename(swap.stage / _UNFINISHED_JOURNAL, swap.stage / _JOURNAL)
    sync_directory(swap.stage)
    sync_directory(swap.stage.parent)
    sync_directory(swap.path)


def perform(swap: Swap) -> None:
    """Old files out, new files in; the marker is the first to go and the last to come.

    Where nothing marks the directory, a file is there at every moment: a job that finds no tracker
    file begins from random weights (_load_base_checkpoint, megatron/training/checkpointing.py).
    """
    old = swap.stage / _OLD
    gone = [name for name, state in swap.files.items() if state.before is not None]
    for names in reversed(groups(gone)):
        for name in reversed(names):
            if swap.hidden:
                os.rename(swap.path / name, old / name)
            else:
                write(old / name, (swap.path / name).read_bytes(), like=swap.path / name)
        _sync(swap.path, old)
    for names in groups(swap.new):
        for name in names:
            os.rename(swap.stage / name, swap.path / name)
        _sync(swap.path, swap.stage)


def groups(names: Collection[str]) -> list[list[str]]:
    """Names in the order of coming: the first group is on disk before the marker moves."""
    marker = manifest.MARKER_FILE
    rest = sorted(set(names) - {marker}, key=lambda name: (name == metadata.FILE, name))
    return [rest, [marker]] if marker in names else [rest]


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
    if os.path.lexists(stage / _JOURNAL):
        files = _read_journal(stage / _JOURNAL)
        if matches(LocalDirectory(path), files, after=True):
            outcome = Outcome.COMMITTED
        elif matches(LocalDirectory(path), files, after=False):
            outcome = Outcome.UNTOUCHED
        else:
            _roll_back(path, files)
            outcome = Outcome.ROLLED_BACK
        # On disk before the journal goes, and with it the knowledge of what belongs where.
        _sync(*(folder for folder in (stage / _OLD, stage, path) if folder.is_dir()))
    if os.path.lexists(stage):  # without one, nothing was written either
        _remove_originals(path)
        sync_directory(path / sidecar.FOLDER)
    if os.path.lexists(stage / _JOURNAL):
        os.unlink(stage / _JOURNAL)
        sync_directory(stage)
    remove(stage)
    sync_directory(path / sidecar.FOLDER)
    return outcome


def matches(directory: Directory, files: Mapping[str, FileState], *, after: bool) -> bool:
    """Whether every file of a swap is as it was before, or is to be after."""
    return all(
        _digest(directory, name) == (state.after if after else state.before)
        for name, state in files.items()
    )


def _roll_back(path: Path, files: Mapping[str, FileState]) -> None:
    old = stage_of(path) / _OLD
    for names in groups(files):
        for name in names:
            if os.path.lexists(old / name):
                os.replace(old / name, path / name)
            elif files[name].before is None and os.path.lexists(path / name):
                os.unlink(path / name)
        _sync(path, old)
    if not matches(LocalDirectory(path), files, after=False):
        raise DamagedError(
            "cannot be rolled back: a file is neither as before the migration nor kept",
            path=path,
            fix=f"compare its files with the digests in {stage_of(path) / _JOURNAL}",
        )


def _remove_originals(path: Path) -> None:
    """Those of steps that the sidecar, which is in its place again, does not tell of."""
    try:
        told = len(sidecar.load(LocalDirectory(path)))
    except DamagedError:
        return
    for folder in _originals(path):
        if folder.name > number(told):
            remove(folder)


def _digest(directory: Directory, name: str) -> str | None:
    return digest(directory.read(name)) if name in directory.files() else None


def _read_journal(file: Path) -> dict[str, FileState]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise unreadable(file, error) from error
    return parse(content, file)


def dump(files: Mapping[str, FileState]) -> bytes:
    """The bytes of a journal."""
    rows = {name: {"before": s.before, "after": s.after} for name, s in files.items()}
    return json.dumps({"files": rows}, indent=1).encode()


def parse(content: bytes, file: Place) -> dict[str, FileState]:
    """The digests in a journal.

    Raises:
        DamagedError: it is none.
    """
    try:
        rows = json.loads(content)["files"]
        files = {str(n): FileState(row["before"], row["after"]) for n, row in rows.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(
            f"is no journal ({error})",
            path=file,
            fix=f"put the files of {file.parent / _OLD} back by hand, metadata.json last",
        ) from error
    for name in files:
        if not (sidecar.is_small_file(name) or name == sidecar.FILE):
            raise DamagedError(f"is no journal (it names {name!r})", path=file)
    return files

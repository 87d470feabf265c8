"""The lookup of checkpoint directories from a PATH: a checkpoint, or a root."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ckptmigrate import places
from ckptmigrate.checkpoint import formats, manifest, migration_state, trackers
from ckptmigrate.errors import CkptMigrateError, NotACheckpointError, Retry, StoreError
from ckptmigrate.places import Place
from ckptmigrate.storage import directories
from ckptmigrate.text.commands import command, shell

TRACKER_FILE: Final = trackers.TRACKER_FILE
RELEASE: Final = manifest.RELEASE
_LONGEST_TRACKER: Final = 64  # characters
_SHOWN: Final = 5  # iterations
_NON_PERSISTENT: Final = "non_persistent"
_ITERATION: Final = re.compile(rf"iter_(\d{{7,{_LONGEST_TRACKER}}})", re.ASCII)


@dataclass(frozen=True)
class Located:
    """The checkpoints of a PATH.

    Attributes:
        path: the PATH, absolute.
        checkpoints: their directories, in order of iteration.
        tracker: the text of a tracker file that names the last of them; None for a checkpoint
            directory whose name no tracker file can refer to.
        is_root: whether PATH is a root.
    """

    path: Place
    checkpoints: tuple[Place, ...]
    tracker: str | None

    @property
    def is_root(self) -> bool:
        return self.checkpoints != (self.path,)

    def words(self, iteration: int | None) -> tuple[str | Place, ...]:
        """Return the arguments of a command for the same PATH and `--iteration`."""
        return (self.path, *(() if iteration is None else ("--iteration", str(iteration))))


def locate(path: Place, *, iteration: int | None = None, every: bool = False) -> Located:
    """Return the checkpoints of a PATH: the PATH itself, or those of a root.

    Args:
        path: a checkpoint directory, or a root with a tracker file.
        iteration: the iteration of a root to use instead of the one in the tracker file.
        every: whether to return every iteration of a root; no effect on a checkpoint directory.

    Raises:
        NotACheckpointError: PATH is neither a checkpoint nor a root; the tracker file is missing,
            empty or names a missing iteration; or a job may load a non-persistent checkpoint of
            the root instead.
        DestinationError: an in-place migration of one of the checkpoints is incomplete.
    """
    found = find(path, iteration=iteration, every=every)
    for checkpoint in found.checkpoints:
        migration_state.check_complete(checkpoint)
    return found


def find(path: Place, *, iteration: int | None = None, every: bool = False) -> Located:
    """Do what `locate` does, but accept checkpoints with an incomplete in-place migration."""
    path = places.absolute(path)
    require_directory(path)
    if is_one(path):
        formats.require_outermost(path)
        named = RELEASE if path.name == RELEASE else tracker_of(path.name)
        if iteration is not None:
            raise NotACheckpointError(
                "is a checkpoint, and --iteration selects a checkpoint of a root",
                path=path,
                fix="omit it",
                retry=Retry(leave_out=("--iteration",)),
            )
        return Located(path, (path,), named)
    if every:
        return _every(path)
    if iteration is not None:
        chosen = path / f"iter_{iteration:07d}"
        if not directories.is_dir(chosen):
            raise NotACheckpointError(f"has no {chosen.name}", path=path, **_choices(path))
        return Located(path, (chosen,), str(iteration))
    tracker = _read_tracker(path)
    chosen = path / directory_of(tracker)
    if not directories.is_dir(chosen):
        raise NotACheckpointError(
            f"the tracker file names {chosen.name}, which does not exist",
            path=path / TRACKER_FILE,
            **_choices(path),
        )
    _check_non_persistent(path, tracker)
    return Located(path, (chosen,), tracker)


def require_directory(path: Place) -> None:
    """Raise if a PATH is not a directory.

    Raises:
        NotACheckpointError: PATH is a file, or does not exist.
    """
    if not directories.is_dir(path):
        what = "is a file" if directories.exists(path) else "does not exist"
        raise NotACheckpointError(
            f"{what} (a checkpoint is a directory)",
            path=path,
            **_near(path),
        )


def is_one(path: Place) -> bool:
    """Return whether a directory is a checkpoint, not a root."""
    if directories.exists(path / TRACKER_FILE):
        return False
    # During a swap a checkpoint has neither of the files that identify it.
    return formats.is_checkpoint(directories.directory(path)) or migration_state.is_staged(path)


def words(checkpoint: Place) -> tuple[str | Place, ...]:
    """Return the arguments that name a checkpoint in a command: its root if that has a tracker
    file, with `--iteration` if the tracker file names another iteration; else its directory."""
    root = checkpoint.parent
    try:
        if not directories.is_file(root / TRACKER_FILE) or not is_iteration(checkpoint.name):
            return (checkpoint,)
        named = tracker_text(root)
    except (CkptMigrateError, OSError):  # the root may be unreadable, the checkpoint readable
        return (checkpoint,)
    if named is not None and directory_of(named) == checkpoint.name:
        return (root,)
    number = tracker_of(checkpoint.name)
    return (checkpoint,) if number is None else (root, "--iteration", number)


def is_iteration(name: str) -> bool:
    """Return whether a tracker file can name a directory of this name."""
    return name == RELEASE or tracker_of(name) is not None


def tracker_of(name: str) -> str | None:
    """Return the tracker text that names an iteration directory; None if no text does."""
    match = _ITERATION.fullmatch(name)
    # No tracker text names a directory with more leading zeros than Megatron writes.
    return str(int(match[1])) if match and directory_of(match[1]) == name else None


def directory_of(tracker: str) -> str:
    """Return the directory that a tracker text names (get_checkpoint_name, core_v0.19.0)."""
    return RELEASE if tracker == RELEASE else f"iter_{int(tracker):07d}"


def iterations(root: Place) -> list[int]:
    """Return the iterations of a root that have a directory, oldest first."""
    names = map(tracker_of, directories.directory(root).folders())
    return sorted(int(name) for name in names if name is not None)


def all_of(root: Place) -> tuple[Place, ...]:
    """Return the checkpoint directories of a root, oldest first; `release` is the oldest."""
    released = (root / RELEASE,) if directories.is_dir(root / RELEASE) else ()
    return (*released, *(root / f"iter_{number:07d}" for number in iterations(root)))


def _every(root: Place) -> Located:
    found = all_of(root)
    if not found:
        raise NotACheckpointError("has no iter_* directory", path=root, fix=name_one(root))
    if directories.exists(root / TRACKER_FILE):
        tracker = _read_tracker(root)
        if root / directory_of(tracker) not in found:
            raise NotACheckpointError(
                f"the tracker file names {directory_of(tracker)}, which does not exist",
                path=root / TRACKER_FILE,
                fix=f"to list the problems and fixes, run `{command('verify', root)}`",
            )
        return Located(root, found, tracker)
    return Located(root, found, tracker_of(found[-1].name) or RELEASE)


def _read_tracker(root: Place) -> str:
    tracker = root / TRACKER_FILE
    if not directories.is_file(tracker):
        raise NotACheckpointError(
            f"is neither a checkpoint nor a root (no metadata.json or {TRACKER_FILE})",
            path=root,
            **_choices(root),
        )
    text = _text(root)
    if _leads(text):
        return text
    raise NotACheckpointError(
        f"contains {text!r}, which is neither an iteration nor `release`" if text else "is empty",
        path=tracker,
        **_choices(root),
    )


def tracker_text(root: Place) -> str | None:
    """Return the text of a root's tracker file; None if neither an iteration nor RELEASE."""
    text = _text(root)
    return text if _leads(text) else None


def _text(root: Place) -> str:
    """Return the text of the tracker file; of a long file, a part that `_leads` rejects."""
    content = directories.start_of(root / TRACKER_FILE, _LONGEST_TRACKER + 1)
    text = content.decode("ascii", "replace")
    return text.strip() if len(content) <= _LONGEST_TRACKER else text


def _leads(text: str) -> bool:
    return text == RELEASE or (text.isdigit() and len(text) <= _LONGEST_TRACKER)


def _choices(root: Place) -> dict[str, Any]:
    """Return the fix for a root whose requested iteration is missing."""
    numbers = iterations(root)
    if not numbers:
        return {"fix": name_one(root)}
    return {
        "fix": f"select one with --iteration {numbers[-1]} ({_told(numbers)})",
        "retry": Retry(add=("--iteration", str(numbers[-1])), leave_out=("--all",)),
    }


def _near(path: Place) -> dict[str, Any]:
    """Return the fix for a path that is not a directory: its parent, or a checkpoint in that."""
    around = path.parent
    if directories.exists(path) and (is_one(around) or directories.is_file(around / TRACKER_FILE)):
        return {"fix": "use the directory that contains it", "retry": Retry(path=around)}
    numbers: list[int] = []
    with contextlib.suppress(OSError, StoreError):  # the parent may be unreadable
        numbers = iterations(around) if directories.is_dir(around) else []
    if numbers:
        return {
            "fix": f"use a checkpoint of the root {around} ({_told(numbers)})",
            "retry": Retry(path=around / directory_of(str(numbers[-1]))),
        }
    return {"fix": name_one(path)}


def _told(numbers: list[int]) -> str:
    """Format the iterations of a root; of more than _SHOWN, only the newest."""
    shown = ", ".join(map(str, numbers[-_SHOWN:]))
    if len(numbers) > _SHOWN:
        return f"there are {len(numbers)} iterations, the newest {shown}"
    return f"there is iteration {shown}" if len(numbers) == 1 else f"there are iterations {shown}"


def name_one(path: Place) -> str:
    """Return the fix for a path that is not a checkpoint: a command that finds one near it."""
    if not isinstance(path, Path):
        return f"use a root, which has {TRACKER_FILE}, or an iter_* directory in a root"
    there = next(each for each in (path, *path.parents) if each.is_dir())
    # Some frameworks write no tracker file; every checkpoint has a metadata.json.
    names = ("-name", TRACKER_FILE, "-o", "-name", manifest.MARKER_FILE)
    find = shell("find", there, "-maxdepth", "4", *names)
    return (
        f"use a root, which has {TRACKER_FILE}, or an iter_* directory in a root; to find one, "
        f"run `{find}`"
    )


def newest_non_persistent(root: Place, tracker: str) -> int | None:
    """Return the newest non-persistent iteration if it is not older than the tracker's, or None."""
    beside = root / _NON_PERSISTENT
    if not directories.is_dir(beside):
        return None
    newest = max(iterations(beside), default=-1)
    persistent = 0 if tracker == RELEASE else int(tracker)
    return newest if newest >= persistent else None


def _check_non_persistent(root: Place, tracker: str) -> None:
    """Raise if a job may load a non-persistent checkpoint instead of the one in the tracker file.

    With --non-persistent-ckpt-type global, a job prefers ROOT/non_persistent if its iteration is
    not older (_load_base_checkpoint, megatron/training/checkpointing.py).
    """
    beside = root / _NON_PERSISTENT
    newest = newest_non_persistent(root, tracker)
    if newest is not None:
        raise NotACheckpointError(
            f"has a non-persistent checkpoint of iteration {newest}, which a job with "
            f"--non-persistent-ckpt-type global loads instead of {tracker} in the tracker file",
            path=root,
            fix=f"use {beside / f'iter_{newest:07d}'}, or {root / directory_of(tracker)} for the "
            "one in the tracker file",
            retry=Retry(path=root / directory_of(tracker)),
        )

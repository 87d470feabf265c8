"""The swap of a migration in place, and the way out of one that did not finish.

New files are staged in `.ckptmigrate/stage/`; then metadata.json goes to `stage/old/`, then
`.metadata`, then the rest; the new files come in, `.metadata` and metadata.json last. So the files
alone tell how far a swap came, and `recover` needs nothing else than the journal's list of names:

- no `old/metadata.json`: nothing was moved yet; the stage goes.
- `old/metadata.json`, and no metadata.json in the checkpoint: in the middle; back to the old files.
- both: committed; the stage goes.

`recover` may itself be cut short and run again.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ckptmigrate import manifest, metadata, sidecar
from ckptmigrate.commands import command
from ckptmigrate.errors import DamagedError, DestinationError
from ckptmigrate.planning import Plan
from ckptmigrate.storage import LocalDirectory

_JOURNAL: Final = "journal.json"
_OLD: Final = "old"
_LAST: Final = (metadata.FILE, manifest.MARKER_FILE)  # the marker commits


@dataclass(frozen=True)
class Swap:
    """A swap that is about to happen.

    Attributes:
        path: the checkpoint.
        stage: where the new files are written.
        new: name -> bytes of every file that comes in; metadata.json always, as it commits.
        going: names of files of the checkpoint that go out.
        earlier_steps, kept_steps: steps whose originals stay if it is rolled back, or committed.
    """

    path: Path
    stage: Path
    new: Mapping[str, bytes]
    going: tuple[str, ...]
    earlier_steps: int
    kept_steps: int


def stage_of(path: Path) -> Path:
    """Where a migration in place stages the new files of a checkpoint."""
    return path / sidecar.FOLDER / "stage"


def prepare(plan: Plan) -> Swap:
    """Make the stage of a migration in place.

    Raises:
        DestinationError: another one is under way, or did not finish.
        OSError: it cannot be made.
    """
    stage = stage_of(plan.path)
    stage.parent.mkdir(exist_ok=True)
    try:
        stage.mkdir()
    except FileExistsError as error:
        raise unfinished(plan.path) from error
    new = {name: content for name, content in plan.files.items() if content is not None}
    if plan.sidecar is not None:
        new[sidecar.FILE] = plan.sidecar
    marker = manifest.MARKER_FILE
    new.setdefault(marker, (plan.path / marker).read_bytes())
    changed = {*plan.files, sidecar.FILE, marker, metadata.FILE}
    if metadata.FILE not in new:
        new[metadata.FILE] = (plan.path / metadata.FILE).read_bytes()
    going = tuple(sorted(name for name in changed if os.path.lexists(plan.path / name)))
    kept = plan.kept_steps + bool(plan.originals)
    return Swap(plan.path, stage, new, going, plan.earlier_steps, kept)


def unfinished(path: Path) -> DestinationError:
    """The error of a checkpoint that a migration in place left, or still has, in its hands."""
    return DestinationError(
        "a migration in place did not finish on it, or is still running",
        path=path,
        fix=f"if none is running, make it whole with `{command('recover', path)}`",
    )


def begin(swap: Swap) -> None:
    """Write the journal: from here on `recover` knows what to do."""
    (swap.stage / _OLD).mkdir()
    content = {
        "new": sorted(swap.new),
        "going": list(swap.going),
        "earlier_steps": swap.earlier_steps,
        "kept_steps": swap.kept_steps,
    }
    with open(swap.stage / _JOURNAL, "x") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(swap.stage)
    sync_directory(swap.stage.parent)
    sync_directory(swap.path)


def perform(swap: Swap) -> None:
    """Old files out, new files in; the marker is the first to go and the last to come."""
    old = swap.stage / _OLD
    for name in _in_order(swap.going, first=reversed(_LAST)):
        os.rename(swap.path / name, old / name)
    sync_directory(old)
    sync_directory(swap.path)
    for name in _in_order(swap.new, last=_LAST):
        if name == manifest.MARKER_FILE:
            sync_directory(swap.path)
        os.rename(swap.stage / name, swap.path / name)
    sync_directory(swap.path)


def _in_order(
    names: Iterable[str], *, first: Iterable[str] = (), last: Iterable[str] = ()
) -> list[str]:
    ahead, behind, given = list(first), list(last), set(names)
    middle = sorted(given.difference(ahead, behind))
    return [name for name in (*ahead, *middle, *behind) if name in given]


def recover(path: Path) -> str:
    """Finish what a migration in place left of a checkpoint, one way or the other.

    Returns:
        What was done, in words.

    Raises:
        DamagedError: the journal cannot be read.
        OSError: a file cannot be moved; run it again.
    """
    stage, marker = stage_of(path), manifest.MARKER_FILE
    if not stage.is_dir():
        return "nothing to recover"
    old = stage / _OLD
    if not (stage / _JOURNAL).exists():
        _sweep(path, _steps_told(path))
        return "removed what was staged; the checkpoint had not been touched"
    names = _read_journal(stage / _JOURNAL)
    if not os.path.lexists(old / marker):
        _sweep(path, names.earlier_steps)
        return "removed what was staged; the checkpoint had not been touched"
    if os.path.lexists(path / marker):
        _sweep(path, names.kept_steps)
        return "the migration was complete; removed what was left of it"
    for name in _in_order({*names.new, *names.going}, last=_LAST):
        if os.path.lexists(old / name):
            os.replace(old / name, path / name)
        elif name not in names.going and os.path.lexists(path / name):
            os.unlink(path / name)
        if name == metadata.FILE:
            sync_directory(path)
    sync_directory(path)
    _sweep(path, names.earlier_steps)
    return "rolled back; the checkpoint is as it was before the migration"


def _steps_told(path: Path) -> int | None:
    """How many steps the sidecar of a checkpoint tells of; None where it cannot be read."""
    try:
        return len(sidecar.load(LocalDirectory(path)))
    except DamagedError:
        return None


@dataclass(frozen=True)
class _Names:
    new: tuple[str, ...]
    going: tuple[str, ...]
    earlier_steps: int
    kept_steps: int


def _read_journal(file: Path) -> _Names:
    try:
        content = json.loads(file.read_bytes())
        new, going = tuple(map(str, content["new"])), tuple(map(str, content["going"]))
        steps = int(content["earlier_steps"]), int(content["kept_steps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            f"is no journal ({error})",
            path=file,
            fix=f"put the files of {file.parent / _OLD} back by hand, metadata.json last",
        ) from error
    for name in (*new, *going):
        if not (sidecar.is_small_file(name) or name == sidecar.FILE):
            raise DamagedError(f"is no journal (it names {name!r})", path=file)
    return _Names(new, going, *steps)


def _sweep(path: Path, steps: int | None) -> None:
    """Remove the stage, last its journal's folder; keep the originals of the first steps."""
    folder = path / sidecar.FOLDER
    if steps is not None:
        kept = {Path(sidecar.folder(step)).name for step in range(steps)}
        for item in list(folder.iterdir()):
            if item.name not in kept and item != stage_of(path):
                remove(item)
    # The journal last: until then `recover` can be run again.
    for item in sorted(stage_of(path).iterdir(), key=lambda item: item.name == _JOURNAL):
        remove(item)
    stage_of(path).rmdir()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    sync_directory(path)


def remove(path: Path) -> None:
    """Remove a directory of ours, or a file, whatever is left of it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Put the names in a directory on disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system without it
            raise
    finally:
        os.close(handle)

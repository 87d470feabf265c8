"""The execution of plans on a local file system.

An out-of-place migration is built in a staging directory beside the destination and published by
one rename to a name that does not exist. An in-place migration stages the new files inside the
checkpoint, removes metadata.json first and restores it last, so that every release rejects an
incomplete checkpoint with "not a distributed checkpoint".
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ckptmigrate.checkpoint import sidecar
from ckptmigrate.checkpoint.migration_state import is_unfinished
from ckptmigrate.errors import (
    CkptMigrateError,
    DamagedError,
    DestinationError,
    Retry,
    reason_of,
)
from ckptmigrate.places import Place, lies_in
from ckptmigrate.planning.change import Change
from ckptmigrate.storage import directories, local_files
from ckptmigrate.storage.directories import (
    Directory,
    LocalDirectory,
    Overlay,
    folders_of,
    read_if_there,
)
from ckptmigrate.storage.limits import LARGEST_PART
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import command, shell
from ckptmigrate.versions.detection import read
from ckptmigrate.writing import links
from ckptmigrate.writing import stage as staging
from ckptmigrate.writing import swap as swapping
from ckptmigrate.writing.durable import (
    adopt_directory,
    make_directory,
    overwrite,
    sync_directory,
    write,
)
from ckptmigrate.writing.journal import Outcome
from ckptmigrate.writing.links import Link
from ckptmigrate.writing.swap import Swap

if TYPE_CHECKING:
    from ckptmigrate.planning.planner import Plan


def check_destination(destination: Path, source: Place) -> None:
    """Raise if a destination cannot be created.

    Raises:
        DestinationError: it exists, is inside the source, or has no parent directory.
    """
    if os.path.lexists(destination):
        raise DestinationError(
            "already exists",
            path=destination,
            fix="use another destination with -o DEST",
            retry=Retry(add=("--output", str(_free(destination)))),
        )
    if isinstance(source, Path) and lies_in(destination, source):
        raise DestinationError(
            f"is inside the source {source}",
            path=destination,
            fix="use a destination outside the source with -o DEST",
            retry=Retry(add=("--output", str(_free(source.with_name(destination.name))))),
        )
    there = next(parent for parent in destination.parents if parent.exists())
    if not there.is_dir():
        raise DestinationError(
            f"cannot be created: {there} is a file",
            path=destination,
            fix="use another destination with -o DEST",
            retry=Retry(add=("--output", str(_free(there.with_name(destination.name))))),
        )
    if there != destination.parent:
        raise DestinationError(
            "cannot be created: its parent directory does not exist",
            path=destination,
            fix=f"run `{shell('mkdir', '-p', destination.parent)}`",
        )


def _free(destination: Path) -> Path:
    """Return the destination, or the first DESTINATION.N from 2 on that does not exist."""
    names = itertools.chain(
        [destination.name], (f"{destination.name}.{n}" for n in itertools.count(2))
    )
    return next(each for name in names if not os.path.lexists(each := destination.with_name(name)))


def create(
    plans: Mapping[str, Plan],
    destination: Path,
    trackers: Mapping[str, bytes],
    *,
    link: Link = Link.AUTO,
    progress: Progress | None = None,
) -> Link:
    """Create a root with the migrated checkpoints and its tracker files.

    Args:
        plans: name of the directory in the root -> plan of the checkpoint.
        destination: the root; must not exist.
        trackers: its tracker files, name -> bytes.
        link: how to bring data files to the destination.
        progress: called with a number of bytes whenever that many bytes of data files were copied.

    Returns:
        How the data files were brought to the destination.

    Raises:
        DestinationError: the destination cannot be written, and was not created.
    """
    for plan in plans.values():
        check_destination(destination, plan.path)
    carrier = links.Carrier(link, progress)
    sources = [each for plan in plans.values() for each in _local(plan.path)]
    with _told(destination, lambda: os.path.lexists(staging.lock_of(destination))):
        stage = staging.take(destination, *sources, *(each.parent for each in sources))
        try:
            for name, plan in plans.items():
                make_directory(stage / name, *_local(plan.path))
                _fill(plan, stage / name, carrier)
                verify(plan, LocalDirectory(stage / name))
                _adopt(stage / name, plan.path)
            for name, content in trackers.items():
                write(stage / name, content)
            sync_directory(stage)
            if sources:
                adopt_directory(stage, sources[0])
            staging.publish(destination)
        except BaseException:
            _discard(destination)
            raise
    _finish(destination, "written", lambda: staging.release(destination))
    return carrier.used


def add(
    plan: Plan, destination: Path, *, link: Link = Link.AUTO, progress: Progress | None = None
) -> Link:
    """Create one migrated checkpoint in a root to which other checkpoints are added too.

    Creates the root if it is missing, without a tracker file: no release loads it before
    `name_latest` is called.

    Args:
        destination: the directory of the checkpoint in the root; must not exist.
        link, progress: as in `create`.

    Returns:
        How the data files were brought to the destination.

    Raises:
        DestinationError: the destination cannot be written, and was not created.
    """
    root, sources = destination.parent, _local(plan.path)
    carrier = links.Carrier(link, progress)
    with _told(destination, lambda: os.path.lexists(staging.lock_of(destination))):
        for folder in (root.parent, root):
            if not folder.is_dir():
                with contextlib.suppress(FileExistsError):  # another run may create it first
                    make_directory(folder, *sources, *(each.parent for each in sources))
                sync_directory(folder.parent)
        check_destination(destination, plan.path)
        stage = staging.take(destination, *sources)
        try:
            _fill(plan, stage, carrier)
            verify(plan, LocalDirectory(stage))
            _adopt(stage, plan.path)
            staging.publish(destination)
        except BaseException:
            _discard(destination)
            raise
    _finish(destination, "written", lambda: staging.release(destination))
    return carrier.used


def name_latest(root: Path, trackers: Mapping[str, bytes]) -> None:
    """Write the tracker files of a root that was filled with `add`, or replace them.

    Raises:
        DestinationError: a tracker file cannot be written.
    """
    with _told(root, lambda: False):
        for name, content in trackers.items():
            overwrite(root / name, content)


def rewrite(plan: Plan) -> None:
    """Change a checkpoint in place, except its data files.

    Raises:
        DestinationError: the checkpoint cannot be written. It is unchanged, or the message says to
            run `ckptmigrate recover`.
    """
    if plan.changes_nothing:
        return
    _swap(plan.change, lambda written: verify(plan, written))


def repoint(root: Path, trackers: Mapping[str, bytes], step: sidecar.Step) -> None:
    """Replace the tracker files of a root and keep the original files.

    Args:
        trackers: name -> new bytes.
        step: the step to append to the migration history of the root.

    Raises:
        DamagedError: the migration history of the root cannot be read.
        DestinationError: as `rewrite`.
    """
    directory = LocalDirectory(root)
    steps = sidecar.load(directory)
    before = {name: read_if_there(directory, name) for name in trackers}
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
    _swap(change, lambda written: _check_files(change, written))


def _swap(change: Change, look: Callable[[Directory], None]) -> None:
    """Change metadata files in place.

    Args:
        look: validates the staged directory before the swap; raises if it is wrong.
    """
    path = change.path
    assert isinstance(path, Path)
    with _told(path, lambda: is_unfinished(path)):
        swapping.take(path)
        try:
            swap = swapping.prepare(change)
            for name, content in swap.new.items():
                write(swap.stage / name, content, like=_like(change, name))
            _write_originals(change, path)
            # Validate before the swap, so that no job can read unvalidated files.
            look(_staged(change, swap))
            swapping.begin(swap)
            swapping.perform(swap)
        except BaseException as error:
            _take_back(path, error)
            raise
    _finish(path, "rewritten", lambda: _clean(path))


def _staged(change: Change, swap: Swap) -> Directory:
    """Return the directory after the change, with the new files read from the staging directory."""
    staged = {name: local_files.read(swap.stage / name, LARGEST_PART) for name in swap.new}
    return Overlay(LocalDirectory(swap.path), {**dict.fromkeys(change.files), **staged})


def _clean(path: Path) -> None:
    swapping.clean(path)
    swapping.release(path)


def _take_back(path: Path, why: BaseException) -> None:
    """Roll back a failed in-place migration; raise if it was already committed."""
    try:
        outcome = swapping.settle(path)
        swapping.release(path)
    except (OSError, DamagedError) as error:
        with contextlib.suppress(OSError):
            swapping.release(path)  # the process may continue to run, but this migration is over
        raise DestinationError(
            f"cannot be written ({reason_of(error)}), and the migration could not be rolled back",
            path=path,
            fix=f"when it is writable again, run `{command('recover', path)}`",
        ) from error
    if outcome is Outcome.COMMITTED and isinstance(why, Exception):
        raise DestinationError(
            f"was rewritten, but then the file system failed: {reason_of(why)}",
            path=path,
            fix=f"to examine it, run `{command('inspect', path)}`",
        ) from why
    if outcome is Outcome.ROLLED_BACK and isinstance(why, CkptMigrateError):
        why.reason += f"; {outcome.value}"


def _discard(destination: Path) -> None:
    try:
        staging.discard(destination)
    except OSError as error:
        raise DestinationError(
            f"cannot be written ({error.strerror}), and the staging directory "
            f"{staging.stage_of(destination)} cannot be removed",
            path=destination,
            fix=f"when that works again, run `{command('recover', destination)}`",
        ) from error


def _finish(path: Path, what: str, finish: Callable[[], object]) -> None:
    """Clean up after a committed migration; a failure here does not roll it back."""
    try:
        finish()
    except OSError as error:
        raise DestinationError(
            f"was {what}, but the staging files of the migration could not be removed "
            f"({error.strerror})",
            path=path,
            fix=f"when that works again, run `{command('recover', path)}`",
        ) from error


def _fill(plan: Plan, target: Path, carrier: links.Carrier) -> None:
    """Write all files of a migrated checkpoint to an existing directory."""
    written = {*plan.files, sidecar.FILE, sidecar.FOLDER}
    new = {name: _writing(plan.change, name) for name, b in plan.files.items() if b is not None}
    with _unchanged(plan):
        _carry(plan.path, target, carrier, written, new)
    for step in range(plan.change.kept_steps):
        kept = sidecar.folder(step)
        if directories.is_dir(plan.path / kept):
            _make_folder(target / kept)
            _carry(plan.path / kept, target / kept, carrier)
            _adopt(target / kept, plan.path)
    _write_originals(plan.change, target)
    if plan.change.sidecar is not None:
        write(target / sidecar.FILE, plan.change.sidecar, like=_like(plan.change, sidecar.FILE))
    if (target / sidecar.FOLDER).is_dir():
        _adopt(target / sidecar.FOLDER, plan.path)
        sync_directory(target / sidecar.FOLDER)
    sync_directory(target)


def _writing(change: Change, name: str) -> links.NewFile:
    """Return the function that writes a new file of a change."""
    content = change.files[name]
    assert content is not None
    return lambda path: write(path, content, like=_like(change, name))


def _local(place: Place) -> tuple[Path, ...]:
    """Return the place if it is a local directory, whose owner and permissions can be copied."""
    return (place,) if isinstance(place, Path) else ()


def _adopt(folder: Path, like: Place) -> None:
    for each in _local(like):
        adopt_directory(folder, each)


def _make_folder(folder: Path) -> None:
    """Create a folder of original files that grants no more access than the checkpoint."""
    if not folder.parent.is_dir():
        make_directory(folder.parent, folder.parent.parent)
    make_directory(folder, folder.parent.parent)


def _unchanged(plan: Plan) -> contextlib.AbstractContextManager[None]:
    """Return a context that raises if a checkpoint in a store changes during the block."""
    if isinstance(plan.path, Path):
        return contextlib.nullcontext()
    from ckptmigrate.writing import store_transfer

    return store_transfer.unchanged(plan.path, plan.change.before)


def _carry(
    source: Place,
    target: Path,
    carrier: links.Carrier,
    except_for: Collection[str] = (),
    new: Mapping[str, links.NewFile] = links.NO_FILES,
) -> None:
    if isinstance(source, Path):
        carrier.carry_directory(source, target, except_for, new)
    else:
        carrier.carry_objects(source, target, except_for, new)


def _write_originals(change: Change, target: Path) -> None:
    if not change.originals:
        return
    folder = target / change.originals_folder
    _make_folder(folder)
    inside = folders_of(change.originals)
    for each in inside:
        make_directory(folder / each, target / each)
    for name, content in change.originals.items():
        write(folder / name, content, like=_like(change, name))
    for each in reversed(inside):
        _adopt(folder / each, change.path / each)
        sync_directory(folder / each)
    _adopt(folder, change.path)
    sync_directory(folder)


def _like(change: Change, name: str) -> Path | None:
    """Return the file whose permissions a new file gets, or None.

    It is the file that the new one replaces, else its newest original, else a file of `marks`.
    """
    if not isinstance(change.path, Path):
        return None
    kept = [change.path / sidecar.folder(step) / name for step in range(change.kept_steps, -1, -1)]
    others = [change.path / mark for mark in change.marks]
    return next((p for p in (change.path / name, *kept, *others) if p.is_file()), None)


def verify(plan: Plan, written: Directory) -> None:
    """Read the output back and validate it; what `undo` restores may lack its metadata.json."""
    _check_files(plan.change, written)
    reading = read(written, unmarked=plan.verb == "undo")
    if plan.layout not in [layout.ID for layout in reading.layouts]:
        raise DamagedError(
            f"does not have the layout {plan.layout} when read back", path=written.path
        )


def _check_files(change: Change, written: Directory) -> None:
    for name, content in change.files.items():
        if read_if_there(written, name) != content:
            raise DamagedError(
                "differs from what was written when read back", path=written.path / name
            )


_WORDS: Final = {
    errno.ENOSPC: ("the disk is full", "free disk space, or use another destination with -o DEST"),
    errno.EDQUOT: (
        "the disk quota is used up",
        "free disk space, or use another destination with -o DEST",
    ),
    errno.EACCES: ("no permission to write", "use a writable destination with -o DEST"),
    errno.EPERM: ("no permission to write", "use a writable destination with -o DEST"),
    errno.EROFS: ("the file system is read-only", "use a writable destination with -o DEST"),
}


@contextlib.contextmanager
def _told(path: Path, left: Callable[[], bool]) -> Iterator[None]:
    """Wrap an OSError of the block in a DestinationError.

    Args:
        path: the destination.
        left: returns whether files remain that could not be rolled back.
    """
    try:
        yield
    except OSError as error:
        what, fix = _WORDS.get(error.errno or 0, (error.strerror or str(error), ""))
        done = "nothing was changed"
        if left():
            done = "the unfinished work could not be rolled back"
            fix = f"when it is writable again, run `{command('recover', path)}`"
        raise DestinationError(
            f"cannot be written: {what}; {done}", path=path, fix=fix or None
        ) from error

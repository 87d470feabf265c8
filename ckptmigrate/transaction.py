"""Carry out plans: the only code that writes.

Out of place everything is built in a stage beside the destination and published by one
rename onto a name that does not exist. In place the new files are staged inside the
checkpoint, metadata.json goes away first and comes back last, so that a checkpoint caught
half-way is "not a distributed checkpoint" to every reader rather than a wrong one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from ckptmigrate import journal, linking, locate, manifest, sidecar
from ckptmigrate.commands import command, shell
from ckptmigrate.errors import DamagedError, DestinationError
from ckptmigrate.linking import Link
from ckptmigrate.planning import Plan
from ckptmigrate.reading import read
from ckptmigrate.storage import Directory, LocalDirectory, Overlay

Progress = Callable[[int], None]

_STAGE_SUFFIX: Final = ".ckptmigrate-stage"


def check_destination(destination: Path, source: Path) -> None:
    """Make sure that a destination can be created.

    Raises:
        DestinationError: it exists, lies inside the source, or has no parent directory.
    """
    if os.path.lexists(destination):
        raise DestinationError(
            "exists, and nothing is ever overwritten",
            path=destination,
            fix="name another destination with -o DEST",
        )
    real, origin = destination.parent.resolve() / destination.name, source.resolve()
    if real.is_relative_to(origin):
        raise DestinationError(
            f"lies inside the source {source}",
            path=destination,
            fix="name a destination outside of it with -o DEST",
        )
    if not destination.parent.is_dir():
        raise DestinationError(
            "cannot be created: its parent directory does not exist",
            path=destination,
            fix=f"run `{shell('mkdir', '-p', destination.parent)}` first",
        )


def create(
    plans: Mapping[str, Plan],
    destination: Path,
    tracker: str,
    *,
    link: Link = Link.AUTO,
    progress: Progress | None = None,
) -> Link:
    """Create a root with the migrated checkpoints and a tracker file.

    Args:
        plans: one per checkpoint, by the name of its directory in the root.
        destination: the root; must not exist.
        tracker: the text of its tracker file.
        link: how payload files get there.
        progress: called with the number of payload bytes that were copied.

    Returns:
        How the payload got there.

    Raises:
        DestinationError: the destination cannot be written; nothing is left of it.
    """
    for plan in plans.values():
        check_destination(destination, plan.path)
    stage = destination.with_name(f".{destination.name}{_STAGE_SUFFIX}-{os.getpid()}")
    carrier = linking.Carrier(link, progress)
    with _told(destination):
        os.mkdir(stage)
        try:
            for name, plan in plans.items():
                _create_checkpoint(plan, stage / name, carrier)
                _verify(plan, LocalDirectory(stage / name))
            _write(stage / locate.TRACKER_FILE, tracker.encode())
            journal.sync_directory(stage)
            if os.path.lexists(destination):  # made by somebody else meanwhile
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), destination)
            os.rename(stage, destination)
        except BaseException:
            journal.remove(stage)
            raise
    # Published. Where the parent cannot be synced, a crash may yet lose the name, never a file.
    with contextlib.suppress(OSError):
        journal.sync_directory(destination.parent)
    return carrier.used


def rewrite(plan: Plan) -> None:
    """Change a checkpoint in place; its payload files are not touched.

    Raises:
        DestinationError: it cannot be written; the checkpoint is as it was, or the sentence says
            that `ckptmigrate recover` has to make it so.
    """
    if plan.changes_nothing:
        return
    path = plan.path
    with _told(path):
        swap = journal.prepare(plan)
        try:
            for name, content in swap.new.items():
                _write(swap.stage / name, content, like=path / manifest.MARKER_FILE)
            _write_originals(plan, path)
            # Looked at before it is swapped in: no reader ever sees what was not verified.
            staged = {name: (swap.stage / name).read_bytes() for name in swap.new}
            _verify(plan, Overlay(LocalDirectory(path), {**dict.fromkeys(plan.files), **staged}))
            journal.begin(swap)
            journal.perform(swap)
        except BaseException:
            _roll_back(path)
            raise
        journal.recover(path)  # sweeps the stage of what is committed now


def repoint(root: Path, text: str, step: sidecar.Step) -> None:
    """Point the tracker file of a root elsewhere; the old one is kept in the root's sidecar.

    Args:
        text: the new text of the tracker file.
        step: what the sidecar of the root is to say of it.

    Raises:
        DamagedError: the sidecar of the root cannot be read.
        DestinationError: the root cannot be written; a reader finds the old tracker or the new.
    """
    steps = sidecar.load(LocalDirectory(root))
    tracker = root / locate.TRACKER_FILE
    with _told(root):
        if tracker.exists():
            folder = root / sidecar.folder(len(steps))
            if folder.exists():  # left by an attempt that failed
                journal.remove(folder)
            folder.mkdir(parents=True)
            _write(folder / tracker.name, tracker.read_bytes(), like=tracker)
            journal.sync_directory(folder)
        # The sidecar first: a step that did not come to happen has another digest, and is no harm.
        for path, content in (
            (root / sidecar.FILE, sidecar.dump((*steps, step))),
            (tracker, text.encode()),
        ):
            fresh = path.with_name(f".{path.name}{_STAGE_SUFFIX}-{os.getpid()}")
            journal.remove(fresh)
            _write(fresh, content, like=path)
            os.rename(fresh, path)
            journal.sync_directory(root)


def _roll_back(path: Path) -> None:
    try:
        journal.recover(path)
    except OSError as error:
        raise DestinationError(
            f"cannot be written ({error.strerror}), and the migration could not be taken back",
            path=path,
            fix=f"when it can be written again, run `{command('recover', path)}`",
        ) from error


def _create_checkpoint(plan: Plan, target: Path, carrier: linking.Carrier) -> None:
    os.mkdir(target)
    written = {*plan.files, sidecar.FILE, sidecar.FOLDER}
    carrier.carry_directory(plan.path, target, except_for=written)
    for step in range(plan.kept_steps):
        kept = sidecar.folder(step)
        if (plan.path / kept).is_dir():
            (target / kept).mkdir(parents=True)
            carrier.carry_directory(plan.path / kept, target / kept)
    like = plan.path / manifest.MARKER_FILE
    for name, content in plan.files.items():
        if content is not None:
            _write(target / name, content, like=like)
    _write_originals(plan, target)
    if plan.sidecar is not None:
        _write(target / sidecar.FILE, plan.sidecar, like=like)
    journal.sync_directory(target)


def _write_originals(plan: Plan, target: Path) -> None:
    if not plan.originals:
        return
    folder = target / plan.originals_folder
    if folder.exists():  # left by an attempt that failed
        journal.remove(folder)
    folder.mkdir(parents=True)
    for name, content in plan.originals.items():
        _write(folder / name, content, like=plan.path / manifest.MARKER_FILE)
    journal.sync_directory(folder)


def _verify(plan: Plan, written: Directory) -> None:
    """Look at what was written, as it reads back from disk, with the eyes of a reader."""
    for name, content in plan.files.items():
        found = written.read(name) if name in written.files() else None
        if found != content:
            raise DamagedError("does not read back as it was written", path=written.path / name)
    reading = read(written)
    if plan.layout not in [layout.ID for layout in reading.layouts]:
        raise DamagedError(f"does not read back as {plan.layout}", path=written.path)


def _write(path: Path, content: bytes, like: Path | None = None) -> None:
    """A new file, never through a link, on disk when this returns."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if like is not None and like.exists():
        shutil.copymode(like, path)


_WORDS: Final = {
    errno.ENOSPC: ("the disk is full", "free some space, or name another place with -o DEST"),
    errno.EDQUOT: (
        "the disk quota is used up",
        "free some space, or name another place with -o DEST",
    ),
    errno.EACCES: ("no permission to write", "name a place you may write to with -o DEST"),
    errno.EPERM: ("no permission to write", "name a place you may write to with -o DEST"),
    errno.EROFS: ("the file system is read-only", "name a place you may write to with -o DEST"),
}


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say what an error of the operating system means for the destination."""
    try:
        yield
    except OSError as error:
        words = _WORDS.get(error.errno or 0, (error.strerror or str(error), ""))
        raise DestinationError(
            f"cannot be written: {words[0]}; nothing was changed", path=path, fix=words[1] or None
        ) from error

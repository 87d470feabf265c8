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

from ckptmigrate import linking, locate, manifest, metadata, sidecar
from ckptmigrate.errors import CkptMigrateError, DamagedError, DestinationError
from ckptmigrate.linking import Link
from ckptmigrate.planning import Plan
from ckptmigrate.reading import read
from ckptmigrate.storage import LocalDirectory

Progress = Callable[[int], None]

_STAGE_SUFFIX: Final = ".ckptmigrate-stage"
_IN_PLACE_STAGE: Final = "stage"
# The last ones to come back in place, in this order: the marker commits.
_COMMIT_ORDER: Final = (metadata.FILE, manifest.MARKER_FILE)


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
            fix=f"run `mkdir -p {destination.parent}` first",
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
                _verify(plan, stage / name)
            _write(stage / locate.TRACKER_FILE, tracker.encode())
            _sync_directory(stage)
            if os.path.lexists(destination):  # made by somebody else meanwhile
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), destination)
            os.rename(stage, destination)
            _sync_directory(destination.parent)
        except BaseException:
            _remove(stage)
            raise
    return carrier.used


def rewrite(plan: Plan) -> None:
    """Change a checkpoint in place; its payload files are not touched.

    Raises:
        DestinationError: it cannot be written; the checkpoint is as it was.
    """
    if plan.changes_nothing:
        return
    path, folder = plan.path, plan.path / sidecar.FOLDER
    stage = folder / _IN_PLACE_STAGE
    with _told(path):
        try:
            folder.mkdir(exist_ok=True)
            os.mkdir(stage)
            for name, content in plan.files.items():
                if content is not None:
                    _write(stage / name, content, like=path / manifest.MARKER_FILE)
            if plan.sidecar is not None:
                _write(stage / sidecar.FILE, plan.sidecar, like=path / manifest.MARKER_FILE)
            _write_originals(plan, path)
            _sync_directory(stage)
            _sync_directory(folder)
            with _moves() as move:
                _swap(plan, path, stage, move)
                _verify(plan, path)
        except FileExistsError as error:
            raise DestinationError(
                f"a migration in place did not finish; its files are in {stage}",
                path=path,
                fix=f"put the files of {stage}/old back into {path} and remove {stage}",
            ) from error
        except BaseException:
            _remove(stage)
            _keep_folders(folder, plan.earlier_steps)
            raise
        _remove(stage)
        _keep_folders(folder, plan.kept_steps + bool(plan.originals))


Move = Callable[[Path, Path], None]


def _swap(plan: Plan, path: Path, stage: Path, move: Move) -> None:
    """Old files out, new files in, so that the marker is first to go and last to come."""
    old = stage / "old"
    os.mkdir(old)
    small = [*plan.files]
    last = [name for name in _COMMIT_ORDER if (path / name).exists()]
    for name in [*reversed(last), *(n for n in small if n not in last)]:
        if (path / name).exists():
            move(path / name, old / name)
    if (path / sidecar.FILE).exists():
        move(path / sidecar.FILE, old / sidecar.FILE)
    _sync_directory(path)
    for name in (n for n in small if n not in last and plan.files[n] is not None):
        move(stage / name, path / name)
    if plan.sidecar is not None:
        move(stage / sidecar.FILE, path / sidecar.FILE)
    for name in last:
        _sync_directory(path)
        move((stage if name in plan.files else old) / name, path / name)
    _sync_directory(path)


@contextlib.contextmanager
def _moves() -> Iterator[Move]:
    """Renames that are taken back, last first, where something fails among them."""
    done: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        os.rename(source, target)
        done.append((source, target))

    try:
        yield move
    except BaseException:
        for source, target in reversed(done):
            os.rename(target, source)
        raise


def _keep_folders(folder: Path, steps: int) -> None:
    """Keep the originals of the first steps only; the folder itself only where it has any."""
    kept = {Path(sidecar.folder(step)).name for step in range(steps)}
    if not folder.exists():
        return
    for item in list(folder.iterdir()):
        if item.name not in kept:
            _remove(item)
    if not any(folder.iterdir()):
        folder.rmdir()


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
    _sync_directory(target)


def _write_originals(plan: Plan, target: Path) -> None:
    if not plan.originals:
        return
    folder = target / plan.originals_folder
    if folder.exists():  # left by an attempt that failed
        _remove(folder)
    folder.mkdir(parents=True)
    for name, content in plan.originals.items():
        _write(folder / name, content, like=plan.path / manifest.MARKER_FILE)
    _sync_directory(folder)


def _verify(plan: Plan, written: Path) -> None:
    """Read back what was written, from disk, and look at it as a reader would."""
    for name, content in plan.files.items():
        path = written / name
        found = path.read_bytes() if path.exists() else None
        if found != content:
            raise CkptMigrateError("does not read back as it was written", path=path)
    reading = read(LocalDirectory(written))
    if plan.layout not in [layout.ID for layout in reading.layouts]:
        raise DamagedError(f"does not read back as {plan.layout}", path=written)


def _write(path: Path, content: bytes, like: Path | None = None) -> None:
    """A new file, never through a link, on disk when this returns."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if like is not None and like.exists():
        shutil.copymode(like, path)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system without it
            raise
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


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

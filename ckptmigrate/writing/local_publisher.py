"""Out-of-place migrations on a local file system, published by one rename.

A lock beside the destination names the owner (lock.py). It exists before the staging directory is
created, hidden beside the destination, and until that is published or removed. A staging directory
without a lock has no known owner and is left as is. New data files are first written to a third
directory (parts.py), which an interrupted run leaves for the next one.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from ckptmigrate.checkpoint import sidecar
from ckptmigrate.checkpoint.trackers import TRACKERS
from ckptmigrate.errors import DestinationError, Retry
from ckptmigrate.places import Place, lies_in
from ckptmigrate.planning.change import Change
from ckptmigrate.planning.new_root import NewRoot
from ckptmigrate.planning.planner import Plan
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import LocalDirectory, folders_of
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import command, shell
from ckptmigrate.writing import lock, parts, root_files, validation
from ckptmigrate.writing.durable import (
    adopt_directory,
    make_directory,
    model_of,
    new_of,
    overwrite,
    remove,
    sync_directory,
    unwritable,
    write,
)
from ckptmigrate.writing.leftover import LOCK, PARTS, Leftover, leftovers
from ckptmigrate.writing.links import NO_FILES, Carrier, Link, NewFile, check_store_link
from ckptmigrate.writing.part_files import bring, part_files
from ckptmigrate.writing.parts import MOVING, Moving

_STAGE: Final = ".ckptmigrate-stage"
_REMOVED: Final = "removed the staging directory of an interrupted migration"


@dataclass(frozen=True)
class LocalPublisher:
    """A destination on a local file system."""

    destination: Path

    @property
    def stage(self) -> Path:
        """Return the staging directory."""
        return self.destination.with_name(f".{self.destination.name}{_STAGE}")

    @property
    def lock(self) -> Path:
        """Return the lock."""
        return self.destination.with_name(f".{self.destination.name}{LOCK}")

    @property
    def parts(self) -> Path:
        """Return the directory of new data files, with one directory per checkpoint of a root."""
        return self.destination.with_name(f".{self.destination.name}{PARTS}")

    def check_free(self, source: Place) -> None:
        destination = self.destination
        if os.path.lexists(destination):
            raise DestinationError(
                "already exists",
                path=destination,
                fix="use another destination with -o DEST",
                retry=_other(destination),
            )
        if isinstance(source, Path) and lies_in(destination, source):
            raise DestinationError(
                f"is inside the source {source}",
                path=destination,
                fix="use a destination outside the source with -o DEST",
                retry=_other(source.with_name(destination.name)),
            )
        there = next(parent for parent in destination.parents if parent.exists())
        if not there.is_dir():
            raise DestinationError(
                f"cannot be created: {there} is a file",
                path=destination,
                fix="use another destination with -o DEST",
                retry=_other(there.with_name(destination.name)),
            )
        if there != destination.parent:
            raise DestinationError(
                "cannot be created: its parent directory does not exist",
                path=destination,
                fix=f"run `{shell('mkdir', '-p', destination.parent)}`",
            )

    def create(
        self,
        root: NewRoot,
        *,
        link: Link = Link.AUTO,
        moving: Moving = MOVING,
        progress: Progress | None = None,
    ) -> Link:
        for plan in root.plans.values():
            self.check_free(plan.path)
        sources = [each for plan in root.plans.values() for each in _local(plan.path)]

        def fill(plans: Mapping[str, Plan], carrier: Carrier) -> None:
            # A checkpoint is validated with the files beside it.
            made = root_files.bring(root.carried, self.stage, carrier)
            for name, plan in plans.items():
                made |= root_files.make_parents(self.stage, name, plan.path)
                if name:
                    make_directory(self.stage / name, *_local(plan.path))
                _write_checkpoint(plan, self.stage / name, carrier, self.parts / name)
            for name, content in root.trackers.items():
                write(self.stage / name, content)
            root_files.sync(self.stage, root, made)
            if sources:
                adopt_directory(self.stage, sources[0])

        with self._errors():
            like = [*sources, *(each.parent for each in sources)]
            return self._publish(root.plans, like, fill, Carrier(link, progress), moving)

    def add(self, plan: Plan, *, link: Link = Link.AUTO, moving: Moving = MOVING) -> Link:
        root, sources = self.destination.parent, _local(plan.path)

        def fill(plans: Mapping[str, Plan], carrier: Carrier) -> None:
            _write_checkpoint(plans[""], self.stage, carrier, self.parts)

        with self._errors():
            for folder in reversed((root, *root.parents)):
                if not folder.is_dir():
                    with contextlib.suppress(FileExistsError):  # another run may create it first
                        make_directory(folder, *sources, *(each.parent for each in sources))
                    sync_directory(folder.parent)
            self.check_free(plan.path)
            return self._publish({"": plan}, sources, fill, Carrier(link), moving)

    def _publish(
        self,
        plans: Mapping[str, Plan],
        like: Collection[Path],
        fill: Callable[[Mapping[str, Plan], Carrier], None],
        carrier: Carrier,
        moving: Moving,
    ) -> Link:
        """Write new data files, fill a staging directory and rename it to the destination.

        Args:
            plans: name of a checkpoint in the destination, or an empty string -> its plan.
            like: directories; the new directories grant no more access than any of them.
            fill: is called with the plans, which then have the digests of the new data files.
        """
        if self.is_locked() and any(plan.change.payload for plan in plans.values()):
            self.discard(break_lock=False, keep=True)  # the same command continues
        if os.path.lexists(self.stage) and not os.path.lexists(self.lock):
            raise DestinationError(
                f"cannot be staged: {self.stage} exists without a lock",
                path=self.destination,
                fix=f"if no migration uses it, run `{shell('rm', '-r', self.stage)}`",
            )
        if self.parts.is_symlink():
            raise DestinationError(
                f"cannot be staged: {self.parts} is a link",
                path=self.destination,
                fix=f"to remove the link, run `{shell('rm', self.parts)}`",
            )
        copied = sum(self._copied(plan, carrier.requested) for plan in plans.values())
        with lock.held(self.lock, self.destination):
            try:
                done = {
                    name: replace(
                        plan,
                        change=parts.written(
                            plan.change,
                            part_files(self.parts / name),
                            moving,
                            carrier.progress,
                            *like,
                            copied=copied,
                        ),
                    )
                    for name, plan in plans.items()
                }
                make_directory(self.stage, *like)
                fill(done, carrier)
                if os.path.lexists(self.destination):  # another process created it meanwhile
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.destination)
                os.rename(self.stage, self.destination)
            except BaseException as error:
                self._discard(error)
                raise
            try:
                sync_directory(self.destination.parent)
                remove(self.parts)
                lock.release(self.lock)
            except OSError as error:
                raise DestinationError(
                    "was written, but the lock of the migration could not be removed "
                    f"({error.strerror})",
                    path=self.destination,
                    fix=f"when that works again, run `{command('recover', self.destination)}`",
                ) from error
        return carrier.used

    def _copied(self, plan: Plan, link: Link) -> int:
        """Return the number of bytes of existing data files that are copied, and not linked."""
        source = plan.path
        if link is Link.AUTO and isinstance(source, Path):
            is_far = source.stat().st_dev != self.destination.parent.stat().st_dev
            return plan.payload[1] if is_far else 0
        return plan.payload[1] if link in (Link.AUTO, Link.COPY) else 0

    def _discard(self, why: BaseException) -> None:
        """Remove what a failed migration wrote, except for finished data files."""
        try:
            remove(self.stage)
            done = parts.finished(self.parts)
            if done is None:
                remove(self.parts)
            sync_directory(self.destination.parent)
            lock.release(self.lock)
        except OSError as error:
            raise DestinationError(
                f"cannot be written ({error.strerror}), and the staging directory "
                f"{self.stage} cannot be removed",
                path=self.destination,
                fix=f"when that works again, run `{command('recover', self.destination)}`",
            ) from error
        parts.mention(why, done, self.destination)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Wrap an OSError of the block in a DestinationError."""
        try:
            yield
        except OSError as error:
            left, kept = os.path.lexists(self.lock), None
            with contextlib.suppress(OSError):
                kept = parts.finished(self.parts)
            raise unwritable(self.destination, error, left=left, kept=kept) from error

    def complete(self, root: NewRoot) -> None:
        try:
            made = root_files.bring(root.carried, self.destination, Carrier(Link.AUTO))
            root_files.sync(self.destination, root, made)
            for name, content in root.trackers.items():
                overwrite(self.destination / name, content)
        except OSError as error:
            raise unwritable(self.destination, error, left=False) from error

    def leftovers(self) -> list[Leftover]:
        try:
            return leftovers(self.destination, os.listdir(self.destination))
        except OSError:  # missing or unreadable
            return []

    def is_locked(self) -> bool:
        return os.path.lexists(self.lock)

    def is_left(self) -> bool:
        return self.is_locked() or os.path.lexists(self.parts)

    def discard(self, *, break_lock: bool, keep: bool = False) -> tuple[Place, str]:
        with lock.taken_over(self.lock, self.destination, break_lock=break_lock):
            done = parts.finished(self.parts)
            remove(self.stage)
            if not (keep and done):
                remove(self.parts)
            sync_directory(self.destination.parent)
        return self.stage, parts.recovered(_REMOVED, done, keep=keep)

    def clear_tracker(self) -> list[Place]:
        left = [n for name in TRACKERS if os.path.lexists(n := new_of(self.destination / name))]
        for each in left:
            remove(each)
        return [*left]


def _other(destination: Path) -> Retry:
    """Return the option for the destination, or the first DESTINATION.N that does not exist."""
    names = itertools.chain(
        [destination.name], (f"{destination.name}.{n}" for n in itertools.count(2))
    )
    free = next(each for name in names if not os.path.lexists(each := destination.with_name(name)))
    return Retry(add=("--output", str(free)))


def _local(place: Place) -> tuple[Path, ...]:
    """Return the place if it is a local directory, whose owner and permissions can be copied."""
    return (place,) if isinstance(place, Path) else ()


def _adopt(folder: Path, like: Place) -> None:
    for each in _local(like):
        adopt_directory(folder, each)


def _write_checkpoint(plan: Plan, target: Path, carrier: Carrier, moved: Path) -> None:
    """Write all files of a migrated checkpoint to an existing directory and validate them.

    Args:
        moved: the directory of its new data files.
    """
    change = plan.change
    written = {*plan.files, sidecar.FILE, sidecar.FOLDER}
    new = {name: _writer(change, name, b) for name, b in plan.files.items() if b is not None}
    new |= {name: partial(bring, moved / name) for name in change.payload}
    with _unchanged(plan):
        _carry(plan.path, target, carrier, written, new)
    for step in range(change.kept_steps):
        kept = sidecar.folder(step)
        if directories.is_dir(plan.path / kept):
            _make_folder(target / kept)
            _carry(plan.path / kept, target / kept, carrier)
            _adopt(target / kept, plan.path)
    _write_originals(change, target)
    if change.sidecar is not None:
        write(target / sidecar.FILE, change.sidecar, like=model_of(change, sidecar.FILE))
    if (target / sidecar.FOLDER).is_dir():
        _adopt(target / sidecar.FOLDER, plan.path)
        sync_directory(target / sidecar.FOLDER)
    sync_directory(target)
    validation.verify(plan, LocalDirectory(target))
    _adopt(target, plan.path)


def _writer(change: Change, name: str, content: bytes) -> NewFile:
    return lambda path: write(path, content, like=model_of(change, name))


def _make_folder(folder: Path) -> None:
    """Create a folder of original files that grants no more access than the checkpoint."""
    if not folder.parent.is_dir():
        make_directory(folder.parent, folder.parent.parent)
    make_directory(folder, folder.parent.parent)


def _write_originals(change: Change, target: Path) -> None:
    if not change.originals:
        return
    folder = target / change.originals_folder
    _make_folder(folder)
    inside = folders_of(change.originals)
    for each in inside:
        make_directory(folder / each, target / each)
    for name, content in change.originals.items():
        write(folder / name, content, like=model_of(change, name))
    for each in (*reversed(inside), ""):
        _adopt(folder / each, change.path / each if each else change.path)
        sync_directory(folder / each)


def _unchanged(plan: Plan) -> contextlib.AbstractContextManager[None]:
    """Return a context that raises if a checkpoint in a store changes during the block."""
    if isinstance(plan.path, Path):
        return contextlib.nullcontext()
    from ckptmigrate.writing import store_transfer

    return store_transfer.unchanged(plan.path, plan.change.before)


def _carry(
    source: Place,
    target: Path,
    carrier: Carrier,
    except_for: Collection[str] = (),
    new: Mapping[str, NewFile] = NO_FILES,
) -> None:
    """Bring the files of a directory to an existing one, and write new ones (see `Carrier`)."""
    if isinstance(source, Path):
        carrier.carry_directory(source, target, except_for, new)
        return
    from ckptmigrate.writing import store_transfer

    check_store_link(carrier.requested, source)
    store_transfer.from_store(source, target, except_for, carrier.progress)
    for name, write_to in new.items():
        write_to(target / name)
    for folder in {(target / name).parent for name in new}:
        sync_directory(folder)
    carrier.used = Link.COPY

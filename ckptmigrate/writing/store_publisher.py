"""Out-of-place migrations into an object store, which has no rename.

A lock and a journal are written beside the destination. The journal names every object that will be
written, so that recovery removes no other object. Then the objects are written to their final
names: for each checkpoint first the data files, then the metadata files, then metadata.json; for a
new root, the tracker file after all checkpoints. The last object commits the migration. The records
of new data files (parts.py) are beside the destination, too; an interrupted run leaves them and the
recorded data files for the next one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from ckptmigrate.checkpoint import manifest, sidecar
from ckptmigrate.errors import DamagedError, DestinationError, StoreError, reason_of
from ckptmigrate.places import Place, Url, lies_in
from ckptmigrate.planning.new_root import NewRoot
from ckptmigrate.planning.planner import Plan
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import Overlay, directory
from ckptmigrate.storage.progress import Progress
from ckptmigrate.storage.store import store_of
from ckptmigrate.storage.store_directories import StoreDirectory
from ckptmigrate.storage.store_errors import says_denied
from ckptmigrate.text.commands import command
from ckptmigrate.writing import lock, parts, store_transfer, validation
from ckptmigrate.writing.leftover import LOCK, PARTS, Leftover, leftovers
from ckptmigrate.writing.links import Link, check_store_link
from ckptmigrate.writing.part_files import PLAN, StorePartFiles, folders, records
from ckptmigrate.writing.parts import MOVING, Moving

_JOURNAL: Final = ".ckptmigrate-journal"
_NOTHING: Final = "removed the lock of an interrupted migration, which had written nothing"
_REMOVED: Final = "removed the objects of an interrupted migration"
_COMPLETE: Final = "the migration was complete (removed its journal and lock)"


@dataclass(frozen=True)
class StorePublisher:
    """A destination in an object store."""

    destination: Url

    @property
    def lock(self) -> Url:
        """Return the lock."""
        return self.destination.with_name(f".{self.destination.name}{LOCK}")

    @property
    def journal(self) -> Url:
        """Return the journal."""
        return self.destination.with_name(f".{self.destination.name}{_JOURNAL}")

    @property
    def parts(self) -> Url:
        """Return the place of the records of new data files, by checkpoint of a root."""
        return self.destination.with_name(f".{self.destination.name}{PARTS}")

    def _finished(self) -> list[str]:
        """Return the new data files in the destination that have a record."""
        found = []
        for folder in folders(self.parts):
            inside = str(folder)[len(str(self.parts)) + 1 :]
            prefix = f"{inside}/" if inside else ""
            found += [f"{prefix}{name}" for name in records(folder) if name != PLAN]
        return found

    def _remove_parts(self) -> None:
        """Remove the records of new data files; and these, unless they were published."""
        store, finished = store_of(self.destination), self._finished()
        there = [name for name, _ in store.walk(self.destination)] if finished else []
        if all(name in finished for name in there):
            for name in there:
                store.remove(self.destination / name)
        for name, _ in list(store.walk(self.parts)):
            store.remove(self.parts / name)

    def check_free(self, source: Place) -> None:
        destination = self.destination
        if destination == destination.root:
            raise DestinationError(
                "is a bucket, and a destination must be a path in a bucket",
                path=destination,
                fix=f"use a path such as -o {destination / 'run'}",
            )
        if lies_in(destination, source):
            raise DestinationError(
                f"is inside the source {source}",
                path=destination,
                fix="use a destination outside the source with -o DEST",
            )
        self._check_empty()

    def _check_empty(self) -> None:
        destination = self.destination
        if not directories.exists(destination):
            return
        finished = self._finished()
        if not finished or any(
            n not in finished for n, _ in store_of(destination).walk(destination)
        ):
            raise DestinationError(
                "already exists",
                path=destination,
                fix="use another destination with -o DEST",
            )

    def create(
        self,
        root: NewRoot,
        *,
        link: Link = Link.AUTO,
        moving: Moving = MOVING,
        progress: Progress | None = None,
    ) -> Link:
        """Write the files outside of checkpoints, then the checkpoints, then the tracker files.

        The last object commits: a tracker file, or the metadata.json of the last checkpoint.
        """
        destination, store = self.destination, store_of(self.destination)
        check_store_link(link, destination)
        plans = {f"{name}/" if name else "": plan for name, plan in root.plans.items()}
        last, others = _last(plans, root)
        converts = any(plan.change.payload for plan in plans.values())
        if converts and self._is_locked():
            self.discard(break_lock=False, keep=True)  # the same command continues
        for plan in plans.values():
            self.check_free(plan.path)
        with lock.held(self.lock, destination):
            try:
                self._check_empty()  # another process may have written before the lock existed
                carried = {name: _carried(plan) for name, plan in plans.items()}
                written = [
                    f"{name}{file}"
                    for name, plan in plans.items()
                    for file in (
                        *(file for file, _ in carried[name]),
                        *plan.change.payload,
                        *_written(plan),
                    )
                ]
                written += [each.name for each in root.carried]
                objects = [*(name for name in written if name != last[0]), *others, last[0]]
                record = {"last": last[0], "content": last[1].decode(), "objects": objects}
                store.create(self.journal, json.dumps(record, indent=1).encode())
                self._bring(root, progress)
                for name, plan in plans.items():
                    place, beside = (
                        (each / name.rstrip("/") if name else each)
                        for each in (destination, self.parts)
                    )
                    files = StorePartFiles(place, beside)
                    change = parts.written(plan.change, files, moving, progress)
                    _create_checkpoint(replace(plan, change=change), place, carried[name], progress)
                for name, content in others.items():
                    store.create(destination / name, content)
                if last[0] not in written:
                    store.create(destination / last[0], last[1])
            except BaseException as error:
                self._remove_failed(error)
                raise
            try:
                if converts:
                    self._remove_parts()
                store.remove(self.journal)
                lock.release(self.lock)
            except StoreError as error:
                raise DestinationError(
                    "was written, but the journal or the lock of the migration could not be "
                    f"removed ({error.reason})",
                    path=destination,
                    fix=f"when that works again, run `{command('recover', destination)}`",
                ) from error
        return Link.COPY

    def add(self, plan: Plan, *, link: Link = Link.AUTO, moving: Moving = MOVING) -> Link:
        return self.create(NewRoot({"": plan}), link=link, moving=moving)

    def _bring(self, root: NewRoot, progress: Progress | None) -> None:
        """Copy the files outside of checkpoints to objects that do not exist."""
        sources = {each.name: each.place for each in root.carried}

        def bring(file: store_transfer.File, report: Progress) -> None:
            name, size = file
            store_transfer.into_store(sources[name], self.destination / name, size, report)

        files = [(each.name, each.size) for each in root.carried]
        store_transfer.at_once(files, bring, progress or (lambda _: None))

    def _remove_failed(self, why: BaseException) -> None:
        """Remove what a failed migration wrote; raise if that fails."""
        try:
            theirs = str(why) if isinstance(why, FileExistsError) else None
            kept = None if theirs else parts.finished(self.parts)
            outcome = self._settle(keep=kept is not None, theirs=theirs)
            lock.release(self.lock)
        except (StoreError, DamagedError, OSError) as error:
            raise DestinationError(
                f"cannot be written ({reason_of(why)}), and the written objects cannot be removed "
                f"({reason_of(error)})",
                path=self.destination,
                fix=f"when that works again, run `{command('recover', self.destination)}`",
            ) from error
        if isinstance(why, FileExistsError):
            raise DestinationError(
                f"is being written by another program too ({why}); the objects of this migration "
                "were removed",
                path=self.destination,
                fix="use another destination with -o DEST",
            ) from why
        if isinstance(why, StoreError | DamagedError):
            done = (
                "the migration was already complete"
                if outcome == _COMPLETE
                else f"the {'other' if kept else 'written'} objects were removed"
            )
            why.reason += f"; {done}"
            if outcome != _COMPLETE:
                parts.mention(why, kept, self.destination)

    def _settle(self, *, keep: bool, theirs: str | None = None) -> str:
        """Remove the objects in the journal unless the migration is complete, then the journal.

        Args:
            keep: whether finished new data files and their records remain.
            theirs: the URL of an object that another process has written; it is kept.

        Returns:
            _NOTHING, _REMOVED or _COMPLETE.
        """
        destination, store = self.destination, store_of(self.destination)
        try:
            last, content, names = _parse(store.read(self.journal), self.journal)
        except FileNotFoundError as error:
            # Do not act on a single wrong answer of the store.
            if directories.is_file(self.journal):
                raise StoreError(
                    "exists, but cannot be read",
                    path=self.journal,
                    fix=f"when that works again, run `{command('recover', destination)}`",
                ) from error
            if not keep:
                self._remove_parts()
            return _NOTHING
        whole = destination / last
        if directories.is_file(whole) and store.read(whole) == content.encode():
            self._remove_parts()
            store.remove(self.journal)
            return _COMPLETE
        # Remove only existing objects: the names in the journal are not trusted.
        there = {name for name, _ in store.walk(destination)}
        finished = self._finished() if keep else []
        names = [name for name in names if name not in finished]
        left = [n for n in names if n in there and str(destination / n) != theirs]
        # Remove metadata.json first, so that no release accepts an incomplete checkpoint.
        for name in (name for name in left if name.rpartition("/")[2] == manifest.MARKER_FILE):
            store.remove(destination / name)
        rest = [(name, 0) for name in left]
        store_transfer.at_once(
            rest, lambda file, _: store.remove(destination / file[0]), lambda _: None
        )
        store.abandoned(destination)
        # Not only `left`: the first listing may have been wrong.
        there = {name for name, _ in store.walk(destination)}
        still = [n for n in names if n in there and str(destination / n) != theirs]
        if still:
            raise StoreError(
                "still exists after its removal",
                path=destination / still[0],
                fix=f"when that works again, run `{command('recover', destination)}`",
            )
        if not keep:
            self._remove_parts()
        store.remove(self.journal)
        return _REMOVED

    def complete(self, root: NewRoot) -> None:
        there = {name for name, _ in store_of(self.destination).walk(self.destination)}
        for each in root.carried:
            if each.name in there:  # of an interrupted run, with another size
                store_of(self.destination).remove(self.destination / each.name)
        self._bring(root, None)
        try:
            for name, content in root.trackers.items():
                store_of(self.destination).replace(self.destination / name, content)
        except StoreError as error:
            error.reason += "; it may have been written"
            fix = f"to see which iteration it names, run `{command('inspect', self.destination)}`"
            error.fix = f"{error.fix}; {fix}"
            raise

    def leftovers(self) -> list[Leftover]:
        place = self.destination
        try:
            found = store_of(place).list(place, prefix=".")
        except StoreError as error:
            if says_denied(error.__cause__):  # only a part of the bucket is listable
                return []
            raise
        return leftovers(place, (*found.files, *found.folders))

    def _is_locked(self) -> bool:
        return directories.is_file(self.lock)

    def is_left(self) -> bool:
        return self._is_locked() or directories.is_dir(self.parts)

    def discard(self, *, break_lock: bool, keep: bool = False) -> tuple[Place, str]:
        with lock.taken_over(self.lock, self.destination, break_lock=break_lock):
            done = parts.finished(self.parts)
            outcome = self._settle(keep=keep and done is not None)
        if outcome == _COMPLETE:
            done = None
        return self.destination, parts.recovered(outcome, done, keep=keep)

    def clear_tracker(self) -> list[Place]:
        return []  # an object is replaced at once


def _last(plans: Mapping[str, Plan], root: NewRoot) -> tuple[tuple[str, bytes], dict[str, bytes]]:
    """Return the object that commits, and the tracker files to write before it."""
    if root.trackers:
        *others, last = root.trackers.items()
        return last, dict(others)
    name, plan = [*plans.items()][-1]
    return (f"{name}{manifest.MARKER_FILE}", _written(plan)[manifest.MARKER_FILE]), {}


def _carried(plan: Plan) -> list[store_transfer.File]:
    """Return the files to copy unchanged, including the original files of earlier steps."""
    written = {*plan.files, manifest.MARKER_FILE, sidecar.FILE, sidecar.FOLDER}
    found = store_transfer.files(plan.path, written)
    for step in range(plan.change.kept_steps):
        kept = sidecar.folder(step)
        if directories.is_dir(plan.path / kept):
            found += [
                (f"{kept}/{name}", size) for name, size in store_transfer.files(plan.path / kept)
            ]
    return found


def _written(plan: Plan) -> dict[str, bytes]:
    """Return name -> bytes of the files to write, in order: metadata.json last."""
    files = {name: content for name, content in plan.files.items() if content is not None}
    if manifest.MARKER_FILE not in files:
        files[manifest.MARKER_FILE] = directory(plan.path).read(manifest.MARKER_FILE)
    found = {
        f"{plan.change.originals_folder}/{name}": kept
        for name, kept in plan.change.originals.items()
    }
    if plan.change.sidecar is not None:
        found[sidecar.FILE] = plan.change.sidecar
    marker = files.pop(manifest.MARKER_FILE)
    return {**found, **files, manifest.MARKER_FILE: marker}


def _create_checkpoint(
    plan: Plan, target: Url, carried: list[store_transfer.File], progress: Progress | None
) -> None:
    def bring(file: store_transfer.File, report: Progress) -> None:
        name, size = file
        store_transfer.into_store(plan.path / name, target / name, size, report)

    with store_transfer.unchanged(plan.path, plan.change.before):
        store_transfer.at_once(carried, bring, progress or (lambda _: None))
    files = _written(plan)
    marker = files.pop(manifest.MARKER_FILE)
    for name, content in files.items():
        store_of(target).create(target / name, content)
    store_transfer.check(carried, target)
    # `store.create` has read every object back, so the bytes in memory are those in the store.
    written = {**files, manifest.MARKER_FILE: marker}
    validation.verify(plan, Overlay(StoreDirectory(target), written))
    store_of(target).create(target / manifest.MARKER_FILE, marker)


def _parse(content: bytes, journal: Url) -> tuple[str, str, list[str]]:
    """Return the name and content of the last object, and the names of all objects."""
    try:
        found = json.loads(content)
        objects = [str(name) for name in found["objects"]]
        return str(found["last"]), str(found["content"]), objects
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(
            f"is not a journal ({error})",
            path=journal,
            fix="remove it and the destination with the tools of the store",
        ) from error

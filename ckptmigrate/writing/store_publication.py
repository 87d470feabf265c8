"""Out-of-place migrations into an object store, which has no rename.

A lock and a journal are written beside the destination. The journal names every object that will be
written, so that recovery removes no other object. Then the objects are written to their final
names: for each checkpoint first the data files, then the metadata files, then metadata.json; for a
new root, the tracker file after all checkpoints. The last object commits the migration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ckptmigrate.checkpoint import lock_owner, manifest, sidecar
from ckptmigrate.errors import DamagedError, DestinationError, StoreError, reason_of
from ckptmigrate.places import Place, Url, lies_in
from ckptmigrate.planning.planner import Plan
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import Overlay, directory
from ckptmigrate.storage.progress import Progress
from ckptmigrate.storage.store import store_of
from ckptmigrate.storage.store_directories import StoreDirectory
from ckptmigrate.storage.store_errors import says_denied
from ckptmigrate.text.commands import command
from ckptmigrate.writing import store_lock, store_transfer, transaction
from ckptmigrate.writing.links import Link, check_store_link
from ckptmigrate.writing.stage import Leftover

_LOCK: Final = ".ckptmigrate-lock"
_JOURNAL: Final = ".ckptmigrate-journal"
NOTHING: Final = "removed the lock of an interrupted migration, which had written nothing"
REMOVED: Final = "removed the objects of an interrupted migration"
COMPLETE: Final = "the migration was complete (removed its journal and lock)"


def lock_of(destination: Url) -> Url:
    """Return the lock of a destination."""
    return destination.with_name(f".{destination.name}{_LOCK}")


def journal_of(destination: Url) -> Url:
    """Return the journal of a destination."""
    return destination.with_name(f".{destination.name}{_JOURNAL}")


def check_free(destination: Url, source: Place) -> None:
    """Raise if a destination cannot be created.

    Raises:
        DestinationError: it exists, is inside the source, or is a whole bucket.
    """
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
    _check_empty(destination)


def _check_empty(destination: Url) -> None:
    if directories.exists(destination):
        raise DestinationError(
            "already exists",
            path=destination,
            fix="use another destination with -o DEST",
        )


def create(
    plans: Mapping[str, Plan],
    destination: Url,
    trackers: Mapping[str, bytes],
    *,
    link: Link = Link.AUTO,
    progress: Progress | None = None,
) -> Link:
    """Create a root with the migrated checkpoints, as `transaction.create`.

    Raises:
        DestinationError: the destination cannot be written; the message says whether objects
            remain.
        StoreError: the store cannot be reached; the message says whether objects remain.
    """
    by_place = {f"{name}/": plan for name, plan in plans.items()}
    *others, last = trackers.items()
    return _publish(by_place, destination, last, link, progress, dict(others))


def add(plan: Plan, destination: Url, *, link: Link = Link.AUTO) -> Link:
    """Create one migrated checkpoint in a root, as `transaction.add`.

    Raises:
        DestinationError, StoreError: as `create`.
    """
    marker = _written(plan)[manifest.MARKER_FILE]
    return _publish({"": plan}, destination, (manifest.MARKER_FILE, marker), link, None)


def _publish(
    plans: Mapping[str, Plan],
    destination: Url,
    last: tuple[str, bytes],
    link: Link,
    progress: Progress | None,
    others: Mapping[str, bytes] = MappingProxyType({}),
) -> Link:
    """Write checkpoints and other objects to a destination.

    Args:
        plans: prefix below the destination, with a final `/`, or an empty string -> plan.
        last: name and bytes of the object that commits, written after all others.
        others: other objects directly in the destination, written before `last`.
    """
    check_store_link(link, destination)
    for plan in plans.values():
        check_free(destination, plan.path)
    with store_lock.held(lock_of(destination), destination):
        try:
            _check_empty(destination)  # another process may have written before the lock existed
            carried = {name: _carried(plan) for name, plan in plans.items()}
            written = [
                f"{name}{file}"
                for name, plan in plans.items()
                for file in (*(file for file, _ in carried[name]), *_written(plan))
            ]
            objects = [*(name for name in written if name != last[0]), *others, last[0]]
            _begin(destination, last, objects)
            for name, plan in plans.items():
                place = destination / name.rstrip("/") if name else destination
                _create_checkpoint(plan, place, carried[name], progress)
            for name, content in others.items():
                store_of(destination).create(destination / name, content)
            if last[0] not in written:
                store_of(destination).create(destination / last[0], last[1])
        except BaseException as error:
            _take_back(destination, error)
            raise
        _finish(destination)
    return Link.COPY


def _begin(destination: Url, last: tuple[str, bytes], objects: list[str]) -> None:
    """Write the journal, which names the objects that `recover` removes."""
    told = {"last": last[0], "content": last[1].decode(), "objects": objects}
    store_of(destination).create(journal_of(destination), json.dumps(told, indent=1).encode())


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
    def bring(file: store_transfer.File, told: Progress) -> None:
        name, size = file
        store_transfer.into_store(plan.path / name, target / name, size, told)

    with store_transfer.unchanged(plan.path, plan.change.before):
        store_transfer.at_once(carried, bring, progress or (lambda _: None))
    files = _written(plan)
    marker = files.pop(manifest.MARKER_FILE)
    for name, content in files.items():
        store_of(target).create(target / name, content)
    store_transfer.check(carried, target)
    # `store.create` has read every object back, so the bytes in memory are those in the store.
    written = {**files, manifest.MARKER_FILE: marker}
    transaction.verify(plan, Overlay(StoreDirectory(target), written))
    store_of(target).create(target / manifest.MARKER_FILE, marker)


def _take_back(destination: Url, why: BaseException) -> None:
    """Remove what a failed migration wrote; raise if that fails."""
    try:
        theirs = str(why) if isinstance(why, FileExistsError) else None
        outcome = _settle(destination, theirs)
        store_lock.release(lock_of(destination))
    except (StoreError, DamagedError, OSError) as error:
        raise DestinationError(
            f"cannot be written ({reason_of(why)}), and the written objects cannot be removed "
            f"({reason_of(error)})",
            path=destination,
            fix=f"when that works again, run `{command('recover', destination)}`",
        ) from error
    if isinstance(why, FileExistsError):
        raise DestinationError(
            f"is being written by another program too ({why}); the objects of this migration were "
            "removed",
            path=destination,
            fix="use another destination with -o DEST",
        ) from why
    if isinstance(why, StoreError | DamagedError):
        done = (
            ("the migration was already complete")
            if outcome == COMPLETE
            else ("the written objects were removed")
        )
        why.reason += f"; {done}"


def _finish(destination: Url) -> None:
    """Clean up after a committed migration; a failure here does not roll it back."""
    try:
        store_of(destination).remove(journal_of(destination))
        store_lock.release(lock_of(destination))
    except StoreError as error:
        raise DestinationError(
            "was written, but the journal or the lock of the migration could not be removed "
            f"({error.reason})",
            path=destination,
            fix=f"when that works again, run `{command('recover', destination)}`",
        ) from error


def _settle(destination: Url, theirs: str | None = None) -> str:
    """Remove the objects in the journal unless the migration is complete, then the journal.

    Args:
        theirs: the URL of an object that another process has written; it is kept.

    Returns:
        NOTHING, REMOVED or COMPLETE.
    """
    journal = journal_of(destination)
    store = store_of(destination)
    try:
        last, content, names = _parse(store.read(journal), journal)
    except FileNotFoundError as error:
        if directories.is_file(journal):  # do not act on a single wrong answer of the store
            raise StoreError(
                "exists, but cannot be read",
                path=journal,
                fix=f"when that works again, run `{command('recover', destination)}`",
            ) from error
        return NOTHING
    whole = destination / last
    if directories.is_file(whole) and store.read(whole) == content.encode():
        store.remove(journal)
        return COMPLETE
    # Remove only existing objects: the names in the journal are not trusted.
    there = {name for name, _ in store.walk(destination)}
    left = [n for n in names if n in there and str(destination / n) != theirs]
    # Remove metadata.json first, so that no release accepts an incomplete checkpoint.
    for name in (name for name in left if name.rpartition("/")[2] == manifest.MARKER_FILE):
        store.remove(destination / name)
    rest = [(name, 0) for name in left]
    store_transfer.at_once(
        rest, lambda file, _: store.remove(destination / file[0]), lambda _: None
    )
    store.abandoned(destination)
    still = [name for name, _ in store.walk(destination) if name in left]
    if still:
        raise StoreError(
            "still exists after its removal",
            path=destination / still[0],
            fix=f"when that works again, run `{command('recover', destination)}`",
        )
    store.remove(journal)
    return REMOVED


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


def locked(place: Url) -> list[Leftover]:
    """Return the locked destinations directly in a place: in progress, or interrupted."""
    try:
        names = store_of(place).list(place, prefix=".").files
    except StoreError as error:
        if says_denied(error.__cause__):  # only a part of the bucket is listable
            return []
        raise
    return [
        Leftover(
            place / name.removeprefix(".").removesuffix(_LOCK), lock_owner.owner_of(place / name)
        )
        for name in names
        if name.startswith(".") and name.endswith(_LOCK)
    ]


def discard(destination: Url, *, break_lock: bool) -> str:
    """Remove the objects of an interrupted migration; return what was done.

    Raises:
        DestinationError: the migration still runs, or its process cannot be seen from this host.
        StoreError: the objects cannot be removed; run it again.
    """
    with store_lock.of_the_dead(lock_of(destination), destination, break_lock=break_lock):
        return _settle(destination)

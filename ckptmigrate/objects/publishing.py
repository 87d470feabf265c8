"""A migration out of place into a store, which has no rename.

Beside the destination lie a lock, and a journal with the name of every object that is going to be
written, so that nothing else is ever removed. Then the objects are written where they belong:
payload first, small files next, metadata.json of each checkpoint last of it, and at the very end,
for a new root, the tracker file, by which a reader finds them. The last one commits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ckptmigrate.access.directory import StoreDirectory
from ckptmigrate.access.places import Place, Url, lies_in
from ckptmigrate.access.storage import Overlay, Progress, directory
from ckptmigrate.checkpoint import manifest, sidecar
from ckptmigrate.errors import DamagedError, DestinationError, StoreError, reason_of
from ckptmigrate.objects import carrying, lock
from ckptmigrate.planning.planner import Plan
from ckptmigrate.text.commands import command
from ckptmigrate.writing import transaction
from ckptmigrate.writing.linking import Link
from ckptmigrate.writing.staging import Leftover

_LOCK: Final = ".ckptmigrate-lock"
_JOURNAL: Final = ".ckptmigrate-journal"
NOTHING: Final = "an unfinished migration to it had written nothing; removed its lock"
REMOVED: Final = "removed what an unfinished migration to it had written"
COMPLETE: Final = "the migration to it was complete; removed what was left beside it"


def lock_of(destination: Url) -> Url:
    """The lock of a destination that is being written."""
    return destination.with_name(f".{destination.name}{_LOCK}")


def journal_of(destination: Url) -> Url:
    """The names of what is written there."""
    return destination.with_name(f".{destination.name}{_JOURNAL}")


def check_free(destination: Url, source: Place) -> None:
    """Make sure that a destination can be created.

    Raises:
        DestinationError: it exists, lies inside the source, or is a whole bucket.
    """
    if destination == destination.root:
        raise DestinationError(
            "is a whole bucket, and a destination is a place in one",
            path=destination,
            fix=f"name one with -o, such as {destination / 'run'}",
        )
    if lies_in(destination, source):
        raise DestinationError(
            f"lies inside the source {source}",
            path=destination,
            fix="name a destination outside of it with -o DEST",
        )
    _check_empty(destination)


def _check_empty(destination: Url) -> None:
    if destination.exists():
        raise DestinationError(
            "exists, and nothing is ever overwritten",
            path=destination,
            fix="name another destination with -o DEST",
        )


def create(
    plans: Mapping[str, Plan],
    destination: Url,
    trackers: Mapping[str, bytes],
    *,
    link: Link = Link.AUTO,
    progress: Progress | None = None,
) -> Link:
    """Create a root with the migrated checkpoints; as `transaction.create`.

    Raises:
        DestinationError: the destination cannot be written; nothing is left of it.
        StoreError: the store cannot be reached; the sentence says whether anything is left.
    """
    by_place = {f"{name}/": plan for name, plan in plans.items()}
    *others, last = trackers.items()
    return _publish(by_place, destination, last, link, progress, dict(others))


def add(plan: Plan, destination: Url, *, link: Link = Link.AUTO) -> Link:
    """Create one migrated checkpoint in a root that others are added to; as `transaction.add`.

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
    """Write checkpoints to the places in a destination that they are given by.

    Args:
        last: the object that makes it whole, written after all others.
        others: objects of the destination itself that are written before it.
    """
    carrying.check_link(link, destination)
    for plan in plans.values():
        check_free(destination, plan.path)
    with lock.held(lock_of(destination), destination):
        try:
            _check_empty(destination)  # somebody may have come before the lock was there
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
                destination.store.create(destination / name, content)
            if last[0] not in written:
                destination.store.create(destination / last[0], last[1])
        except BaseException as error:
            _take_back(destination, error)
            raise
        _finish(destination)
    return Link.COPY


def _begin(destination: Url, last: tuple[str, bytes], objects: list[str]) -> None:
    """Write the journal: from here on `recover` knows what to remove."""
    told = {"last": last[0], "content": last[1].decode(), "objects": objects}
    destination.store.create(journal_of(destination), json.dumps(told, indent=1).encode())


def _carried(plan: Plan) -> list[carrying.File]:
    """What comes along unchanged: everything but what is written anew, and old originals."""
    written = {*plan.files, manifest.MARKER_FILE, sidecar.FILE, sidecar.FOLDER}
    found = carrying.files(plan.path, written)
    for step in range(plan.change.kept_steps):
        kept = sidecar.folder(step)
        if (plan.path / kept).is_dir():
            found += [(f"{kept}/{name}", size) for name, size in carrying.files(plan.path / kept)]
    return found


def _written(plan: Plan) -> dict[str, bytes]:
    """What is written, in that order: metadata.json last."""
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
    plan: Plan, target: Url, carried: list[carrying.File], progress: Progress | None
) -> None:
    def bring(file: carrying.File, told: Progress) -> None:
        name, size = file
        carrying.into_store(plan.path / name, target / name, size, told)

    with carrying.unchanged(plan.path, plan.change.before):
        carrying.at_once(carried, bring, progress or (lambda _: None))
    files = _written(plan)
    marker = files.pop(manifest.MARKER_FILE)
    for name, content in files.items():
        target.store.create(target / name, content)
    carrying.check(carried, target)
    # What was created has been read back.
    written = {**files, manifest.MARKER_FILE: marker}
    transaction.verify(plan, Overlay(StoreDirectory(target), written))
    target.store.create(target / manifest.MARKER_FILE, marker)


def _take_back(destination: Url, why: BaseException) -> None:
    """Remove what was written by now; if that cannot be done, say so."""
    try:
        theirs = str(why) if isinstance(why, FileExistsError) else None
        outcome = _settle(destination, theirs)
        lock.release(lock_of(destination))
    except (StoreError, DamagedError, OSError) as error:
        raise DestinationError(
            f"cannot be written ({reason_of(why)}), nor can what was written be removed "
            f"({reason_of(error)})",
            path=destination,
            fix=f"when it can, run `{command('recover', destination)}`",
        ) from error
    if isinstance(why, FileExistsError):
        raise DestinationError(
            f"is being written by somebody else, too ({why}); what was written here is removed",
            path=destination,
            fix="name another destination with -o DEST",
        ) from why
    if isinstance(why, StoreError | DamagedError):
        done = "it was complete by then" if outcome == COMPLETE else "nothing is left of it"
        why.reason += f"; {done}"


def _finish(destination: Url) -> None:
    """What is left to do once it stands; if it fails, nothing is taken back."""
    try:
        destination.store.remove(journal_of(destination))
        lock.release(lock_of(destination))
    except StoreError as error:
        raise DestinationError(
            "is written, but what the migration needed meanwhile could not be removed "
            f"({error.reason})",
            path=destination,
            fix=f"when it can, run `{command('recover', destination)}`",
        ) from error


def _settle(destination: Url, theirs: str | None = None) -> str:
    """Remove what the journal names, unless all of it stands; then the journal.

    Args:
        theirs: an object of that name which somebody else has written meanwhile.

    Returns:
        Which of it.
    """
    journal = journal_of(destination)
    store = destination.store
    try:
        last, content, names = _parse(store.read(journal), journal)
    except FileNotFoundError as error:
        if journal.is_file():  # one answer that is wrong is not enough
            raise StoreError(
                "is there and cannot be read",
                path=journal,
                fix=f"when it can, run `{command('recover', destination)}`",
            ) from error
        return NOTHING
    whole = destination / last
    if whole.is_file() and store.read(whole) == content.encode():
        store.remove(journal)
        return COMPLETE
    # Of the names that the journal tells only those that are there, whoever wrote it.
    there = {name for name, _ in store.walk(destination)}
    left = [n for n in names if n in there and str(destination / n) != theirs]
    # What makes a checkpoint one goes first.
    for name in (name for name in left if name.rpartition("/")[2] == manifest.MARKER_FILE):
        store.remove(destination / name)
    rest = [(name, 0) for name in left]
    carrying.at_once(rest, lambda file, _: store.remove(destination / file[0]), lambda _: None)
    store.abandoned(destination)
    still = [name for name, _ in store.walk(destination) if name in left]
    if still:
        raise StoreError(
            "is still there after it was removed",
            path=destination / still[0],
            fix=f"when it can be removed, run `{command('recover', destination)}`",
        )
    store.remove(journal)
    return REMOVED


def _parse(content: bytes, journal: Url) -> tuple[str, str, list[str]]:
    """The object that makes it whole, its content, and every object."""
    try:
        found = json.loads(content)
        objects = [str(name) for name in found["objects"]]
        return str(found["last"]), str(found["content"]), objects
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(
            f"is no journal ({error})", path=journal, fix="remove it and the destination by hand"
        ) from error


def locked(place: Url) -> list[Leftover]:
    """Every destination directly in a place that is being written, or was."""
    try:
        names = place.store.list(place, prefix=".").files
    except StoreError as error:
        if isinstance(error.__cause__, PermissionError):  # of a bucket, one may list a part alone
            return []
        raise
    return [
        Leftover(place / name.removeprefix(".").removesuffix(_LOCK), lock.owner_of(place / name))
        for name in names
        if name.startswith(".") and name.endswith(_LOCK)
    ]


def discard(destination: Url, *, break_lock: bool) -> str:
    """Remove what an unfinished migration to a destination left; says what was done.

    Raises:
        DestinationError: it still runs, or cannot be seen from here.
        StoreError: it cannot be removed; run it again.
    """
    with lock.of_the_dead(lock_of(destination), destination, break_lock=break_lock):
        return _settle(destination)

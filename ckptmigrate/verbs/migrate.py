"""Migrations: plans for the checkpoints of a PATH, and their execution."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ckptmigrate import clock, places
from ckptmigrate.checkpoint import locate, nested, sidecar, trackers
from ckptmigrate.checkpoint.manifest import PAYLOAD
from ckptmigrate.checkpoint.sidecar import Step, digest, digest_of
from ckptmigrate.checkpoint.topology import Given
from ckptmigrate.errors import CkptMigrateError, DamagedError
from ckptmigrate.places import Place
from ckptmigrate.planning import planner, undo_plan
from ckptmigrate.planning.planner import Plan
from ckptmigrate.planning.targets import target
from ckptmigrate.releases.environment import USUAL, Environment
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import Directory, Overlay
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import removal
from ckptmigrate.version import __version__
from ckptmigrate.writing import swap
from ckptmigrate.writing.leftover import Leftover
from ckptmigrate.writing.links import Link
from ckptmigrate.writing.publisher import publisher


@dataclass(frozen=True)
class Migration:
    """The plans for the checkpoints of a PATH, and their destination.

    Attributes:
        plans: one per checkpoint.
        destination: the root to create; None in place, or if nothing has to be written.
        tracker: the text of the tracker file of `destination`.
        names: the directory name of each checkpoint in `destination`.
        recovered: checkpoint -> how an interrupted in-place migration of it was recovered first.
        leftovers: interrupted migrations to other destinations in the same directory.
        root: the existing root whose tracker file names the last of the checkpoints, or None.
        existing: whether an earlier run with the same arguments created `destination`.
    """

    plans: tuple[Plan, ...]
    destination: Place | None
    tracker: str
    names: tuple[str, ...]
    recovered: Mapping[Place, str] = field(default_factory=dict)
    leftovers: tuple[Leftover, ...] = ()
    root: Place | None = None
    existing: bool = False

    @property
    def load(self) -> Place | None:
        """Return the root to pass to `--load`; None if no root's tracker file names the result."""
        return self.destination or self.root

    def undo(self) -> list[str]:
        """Return the commands that undo the migration."""
        if self.destination is not None:
            return [removal(self.destination, "-r")]
        return [plan.undo for plan in self.plans if not plan.changes_nothing]

    def as_json(self, *, done: bool, link: Link | None) -> dict[str, Any]:
        """Return the documented JSON form (docs/json.md, `upgrade --json`)."""
        return {
            "done": done,
            "destination": None if self.destination is None else str(self.destination),
            "load": None if self.load is None else str(self.load),
            "link": None if link is None else link.value,
            "undo": self.undo(),
            "recovered": {str(path): what for path, what in self.recovered.items()},
            "leftovers": [left.fix for left in self.leftovers],
            "checkpoints": [
                plan_json(plan, self.destination / name if self.destination else plan.path)
                for plan, name in zip(self.plans, self.names, strict=True)
            ],
        }


def plan_json(plan: Plan, result: Place) -> dict[str, Any]:
    """Return the documented JSON form of a plan.

    Args:
        result: the path of the migrated checkpoint.
    """
    files, size = plan.payload
    return {
        "path": str(plan.path),
        "result": str(result),
        "verb": plan.verb,
        "from": list(plan.source),
        "to": plan.target,
        "layout": plan.layout,
        "changes": [difference.as_json() for difference in plan.differences],
        "files": [
            {
                "name": name,
                "bytes": None if content is None else len(content),
                "sha256": digest(content),
            }
            for name, content in plan.files.items()
        ],
        "losses": list(plan.losses),
        "notes": list(plan.notes),
        "payload": {"files": files, "bytes": size},
    }


def prepare(
    path: Place,
    to: str,
    *,
    verb: str | None = None,
    output: Place | None = None,
    in_place: bool = False,
    iteration: int | None = None,
    every: bool = False,
    allowed: Collection[str] = (),
    given: Given | None = None,
    torch: str | None = None,
    environment: Environment = USUAL,
    native: bool = False,
    strict: bool = False,
    hash_payload: bool = False,
    loadable: bool = False,
    progress: Progress | None = None,
) -> Migration:
    """Plan the migration of every checkpoint of `path` without writing anything.

    Args:
        output: the root to create, even if nothing has to change. By default `PATH.<to>`, and
            nothing is created if the release can resume from PATH unmigrated.
        loadable: whether the result must be a root that a job can load. If an earlier run with the
            same arguments created that root, it is used.
        progress: called with a number of bytes whenever that many bytes were hashed.

    Raises:
        CkptMigrateError: as `locate.locate`, `planner.plan`, `Writer.check_free`.
    """
    located = locate.locate(path, iteration=iteration, every=every)
    wanted = target(to, torch=torch, environment=environment, native=native, strict=strict)
    destination = None
    if not in_place:
        # Absolute, but not resolved: the destination is beside a link that the user names.
        destination = places.absolute(output) if output else default_output(located.path, to)
    now = clock.now()
    plans = tuple(
        planner.plan(
            checkpoint,
            wanted,
            verb=verb,
            allowed=allowed,
            given=given,
            now=now,
            version=__version__,
            hash_payload=hash_payload,
            progress=progress,
        )
        for checkpoint in located.checkpoints
    )
    root = _leading_root(located)
    usable = root is not None or not loadable
    if output is None and usable and all(plan.satisfied for plan in plans):
        destination = None
    if destination is not None:
        plans = tuple(plan.out_of_place() for plan in plans)
    found = leading(plans, destination, located.tracker, root)
    if loadable and found.destination is not None and _is_done(found):
        return replace(found, existing=True)
    if destination is not None:
        publisher(destination).check_free(located.path)
    return found


def _leading_root(located: locate.Located) -> Place | None:
    """Return the existing root whose tracker file names the last of the checkpoints, or None."""
    root = located.path if located.is_root else located.path.parent
    if located.tracker is None or not directories.is_file(root / locate.TRACKER_FILE):
        return None
    return root if locate.tracker_text(root) == located.tracker else None


def _is_done(found: Migration) -> bool:
    """Return whether the destination already contains the result of the plans.

    Raises:
        DamagedError: it does, and `verify` finds errors in it.
    """
    root = found.destination
    assert root is not None
    if (
        not directories.is_file(root / locate.TRACKER_FILE)
        or locate.tracker_text(root) != found.tracker
    ):
        return False
    results = [root / name for name in found.names]
    if not all(has(*each) for each in zip(found.plans, results, strict=True)):
        return False
    from ckptmigrate.checks.verification import verify_one  # other commands do not need it

    for result in results:
        errors = verify_one(result).errors
        if errors:
            raise DamagedError(
                f"is the result of an earlier run and is damaged: {errors[0].what}",
                path=result,
                fix=f"remove it with `{removal(root, '-r')}`, and run this again",
            )
    return True


def has(plan: Plan, destination: Place) -> bool:
    """Return whether a destination already contains the result of a plan, file by file."""
    if not directories.is_dir(destination) or (
        isinstance(destination, Path) and destination.is_symlink()
    ):
        return False
    there = directories.directory(destination)
    found = _payload(there)
    for name, wanted in plan.change.after.items():
        if digest_of(there, name) != wanted:
            return False
    payload = {
        name: size
        for name, size in _payload(directories.directory(plan.path)).items()
        if name not in plan.change.after
    }
    if any(found.get(name) != size for name, size in payload.items()):
        return False
    steps = sidecar.load(Overlay(there, {sidecar.FILE: plan.change.sidecar}))
    return _timeless(steps) == _timeless(sidecar.load(there))


def _payload(directory: Directory) -> dict[str, int]:
    """Return data file -> size in bytes, of a checkpoint and of the checkpoints nested in it."""
    return {
        f"{start}{name}": size
        for start, part in nested.parts(directory)
        for name, size in part.files().items()
        if PAYLOAD.fullmatch(name)
    }


def _timeless(steps: tuple[Step, ...]) -> list[Step]:
    return [replace(step, time="") for step in steps]


def leading(
    plans: tuple[Plan, ...],
    destination: Place | None,
    tracker: str | None,
    root: Place | None = None,
) -> Migration:
    """Return a migration: the plans, with the names of their checkpoints at the destination.

    Args:
        tracker: the tracker text that names the last of them. None for a directory whose name no
            tracker file can refer to; the directory then gets the name of its iteration.
    """
    names = tuple(plan.path.name for plan in plans)
    if tracker is None:
        tracker = locate.RELEASE if plans[0].iteration is None else str(plans[0].iteration)
        names = (locate.directory_of(tracker),)
    beside = [] if destination is None else publisher(destination.parent).locked()
    others = tuple(left for left in beside if left.is_over and left.destination != destination)
    return Migration(plans, destination, tracker, names, leftovers=others, root=root)


def prepare_undo(path: Place, *, iteration: int | None = None, every: bool = False) -> Migration:
    """Plan to undo the last migration of every checkpoint of `path`.

    Raises:
        CkptMigrateError: as `locate.locate`, `undoing.plan`.
    """
    located = locate.locate(path, iteration=iteration, every=every)
    plans = tuple(undo_plan.plan(checkpoint) for checkpoint in located.checkpoints)
    names = tuple(plan.path.name for plan in plans)
    return Migration(plans, None, located.tracker or "", names, root=_leading_root(located))


def default_output(path: Place, to: str) -> Place:
    """Return the default destination: the root `PATH.<to>`."""
    return path.with_name(f"{path.name}.{to}")


def carry_out(
    migration: Migration,
    *,
    link: Link = Link.AUTO,
    progress: Progress | None = None,
) -> Link | None:
    """Carry out a migration.

    Returns:
        How the data files were brought to the destination; None in place.

    Raises:
        DestinationError: the destination cannot be written; nothing was changed.
    """
    if migration.existing:
        return None
    if migration.destination is not None:
        plans = dict(zip(migration.names, migration.plans, strict=True))
        named = plans.get(locate.directory_of(migration.tracker))
        return publisher(migration.destination).create(
            plans,
            trackers.files(migration.tracker, directories.directory(named.path) if named else None),
            link=link,
            progress=progress,
        )
    done: list[Plan] = []
    for plan in migration.plans:
        try:
            swap.rewrite(plan)
        except CkptMigrateError as error:
            changed = [each for each in done if not each.changes_nothing]
            if changed:
                error.reason += f"; before it {len(changed)} other checkpoints were rewritten"
                error.fix = "take them back with `" + "`, `".join(p.undo for p in changed) + "`"
            raise
        done.append(plan)
    return None

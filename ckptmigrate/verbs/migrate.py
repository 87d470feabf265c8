"""The verbs `upgrade`, `downgrade` and `migrate`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ckptmigrate import clock, places, versions
from ckptmigrate.checkpoint import locate, nested, root_kinds, root_reading, sidecar
from ckptmigrate.checkpoint.manifest import PAYLOAD
from ckptmigrate.checkpoint.sidecar import Step, digest_of
from ckptmigrate.checkpoint.topology import Given
from ckptmigrate.errors import DamagedError
from ckptmigrate.optimizer.target import PART_SIZE
from ckptmigrate.places import Place
from ckptmigrate.planning import extra_states, planner, targets
from ckptmigrate.planning.planner import Plan
from ckptmigrate.planning.targets import Target
from ckptmigrate.releases.environment import USUAL, Environment
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import Directory, Overlay
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import removal
from ckptmigrate.verbs import recover
from ckptmigrate.verbs.changes import (
    Migration,
    before,
    default_output,
    finished,
    leading,
)
from ckptmigrate.verbs.result import Watch, unwatched
from ckptmigrate.version import __version__
from ckptmigrate.versions.detection import read
from ckptmigrate.writing.links import Link
from ckptmigrate.writing.parts import AT_ONCE, Moving
from ckptmigrate.writing.publisher import publisher


@dataclass(frozen=True)
class MigrationRequest:
    """A request to migrate the checkpoints of a PATH.

    Attributes:
        to: the target: a release, a layout or `universal`; None if the checkpoint is not migrated:
            only its optimizer, its `_extra_state` or its data files change.
        verb: `upgrade`, `downgrade`, or `migrate` for either direction.
        output: the root to create, even if nothing has to change. By default `PATH.<to>`, and
            nothing is created if the release can resume from PATH unmigrated.
        in_place: whether to change the checkpoints of PATH instead of creating a root.
        iteration, every: this iteration, or every iteration, of a root instead of the one in the
            tracker file.
        allow_loss: names of the data losses to allow.
        given: parallelism, in ranks, that the checkpoint does not contain.
        torch: the torch version of the job; None for the usual one of the release.
        environment: the Python and NumPy versions of the job.
        native, strict, optimizer, optimizer_type, extra_state, transformer_engine, compact,
            part_size: see `targets.Target`.
        jobs, verify_source: see `parts.Moving`.
        hash_payload: whether to hash the data files too and compare them with integrity.json.
        link: how to bring data files into the new root.
        loadable: whether the result must be a root that a job can load. If an earlier run with the
            same arguments created that root, it is used.
        dry_run: whether to plan only.
    """

    to: str | None
    verb: str = "migrate"
    output: Place | None = None
    in_place: bool = False
    iteration: int | None = None
    every: bool = False
    allow_loss: tuple[str, ...] = ()
    given: Given = field(default_factory=Given)
    torch: str | None = None
    environment: Environment = USUAL
    native: bool = False
    strict: bool = False
    hash_payload: bool = False
    link: Link = Link.AUTO
    loadable: bool = False
    dry_run: bool = False
    optimizer: str = targets.KEEP
    optimizer_type: str | None = None
    extra_state: str = targets.KEEP
    transformer_engine: str | None = None
    compact: bool = False
    part_size: int = PART_SIZE
    jobs: int = AT_ONCE
    verify_source: bool = False

    @property
    def target(self) -> str:
        """Return the target: a release or layout, or what is changed instead."""
        if self.to or self.optimizer_type:
            return self.to or self.optimizer_type or ""
        if self.optimizer == targets.DROP:
            return targets.WEIGHTS
        if self.extra_state != targets.KEEP:
            return extra_states.target_name(self.extra_state)
        return targets.COMPACT if self.compact else ""

    @property
    def changes_data_files(self) -> bool:
        """Return whether a target is given by the options for parts of a checkpoint."""
        return bool(self.target)

    def options(self) -> dict[str, Any]:
        """Return the options that affect the result; `link`, `jobs` and others do not."""
        return {
            "allow_loss": sorted(self.allow_loss),
            **asdict(self.given),
            "torch": self.torch,
            **asdict(self.environment),
            "native": self.native,
            "strict": self.strict,
            "optimizer": self.optimizer,
            "optimizer_type": self.optimizer_type,
            "extra_state": self.extra_state,
            "transformer_engine": self.transformer_engine,
            "compact": self.compact,
            "part_size": self.part_size,
        }

    def check_target(self) -> None:
        """Raise if the target does not exist.

        Raises:
            RefusedError: `to` is neither a layout nor a release.
        """
        self._named(self.to or versions.UNIVERSAL)

    def target_of(self, checkpoint: Place) -> Target:
        """Return the target of a checkpoint.

        Raises:
            RefusedError: `to` is neither a layout nor a release.
            CkptMigrateError: `to` is None, and the checkpoint cannot be read.
        """
        if self.to is not None:
            return self._named(self.to)
        current = self._named(read(directories.directory(checkpoint)).layouts[0].ID)
        return replace(current, name=self.target)

    def _named(self, name: str) -> Target:
        return targets.target(
            name,
            torch=self.torch,
            environment=self.environment,
            native=self.native,
            strict=self.strict,
            optimizer=self.optimizer,
            optimizer_type=self.optimizer_type,
            extra_state=self.extra_state,
            transformer_engine=self.transformer_engine,
            compact=self.compact,
            part_size=self.part_size,
        )

    @property
    def _moving(self) -> Moving:
        return Moving(self.jobs, self.verify_source)

    def run(self, path: Place, *, reported: bool = False, watch: Watch = unwatched) -> Migration:
        """Migrate the checkpoints of a PATH (see `prepare`, `carry_out`)."""
        recovered = recover.in_place(path) if self.in_place and not self.dry_run else {}
        converts = self.optimizer == targets.CONVERT or self.optimizer_type is not None
        with watch("reading", None) as progress:
            # Hashing only the metadata files is fast.
            shown = progress if self.hash_payload or converts else None
            prepared = prepare(path, self, reported=reported, progress=shown)
        prepared = replace(prepared, recovered=recovered)
        return finished(
            prepared, link=self.link, moving=self._moving, dry_run=self.dry_run, watch=watch
        )

    def add(
        self, path: Place, root: Place, name: str, *, always: bool, reported: bool = False
    ) -> Migration:
        """Migrate one checkpoint into a root that other tasks add to.

        Args:
            name: its path in the root.
            always: whether to add it even if nothing has to change in it.
        """
        found = prepare(path, replace(self, in_place=True), reported=reported)
        [plan] = found.plans
        destination = root_kinds.at(root, name)
        if plan.satisfied and not always:
            return found
        found = replace(found, plans=(plan.out_of_place(),), destination=root, added=name)
        if self.dry_run:
            return found
        beside = publisher(destination.parent).leftovers()
        if any(left.destination == destination for left in beside):
            # Remove what an interrupted run left; `discard` raises if that run is in progress.
            publisher(destination).discard(break_lock=False, keep=True)
        used = None
        if not has(found.plans[0], destination):
            used = publisher(destination).add(found.plans[0], link=self.link, moving=self._moving)
        return replace(found, done=True, link=used)


def prepare(
    path: Place,
    request: MigrationRequest,
    *,
    reported: bool = False,
    progress: Progress | None = None,
) -> Migration:
    """Plan the migration of every checkpoint of `path` without writing anything.

    Args:
        reported: whether to record the facts of each checkpoint before the change.
        progress: called with a number of bytes whenever that many bytes were hashed, or read of an
            optimizer to convert.

    Raises:
        CkptMigrateError: as `locate.locate`, `planner.plan`, `Writer.check_free`.
    """
    located = locate.locate(path, iteration=request.iteration, every=request.every)
    now = clock.now()
    plans = tuple(
        planner.plan(
            checkpoint,
            request.target_of(checkpoint),
            verb=None if request.verb == "migrate" else request.verb,
            allowed=request.allow_loss,
            given=request.given,
            now=now,
            version=__version__,
            hash_payload=request.hash_payload,
            progress=progress,
        )
        for checkpoint in located.checkpoints
    )
    root = located.loadable
    destination = None
    usable = root is not None or not request.loadable
    satisfied = usable and all(plan.satisfied for plan in plans)
    if request.output is not None:
        # Absolute, but not resolved: the destination is beside a link that the user names.
        destination = places.absolute(request.output)
    elif not request.in_place and not satisfied:
        destination = default_output(located.source, request.target)
    if destination is not None:
        plans = tuple(plan.out_of_place() for plan in plans)
    found = leading(plans, destination, located, root)
    if reported:
        found = replace(found, before=before(plans))
    if destination is None:
        return found
    if request.loadable and _is_done(found):
        return replace(found, existing=True)
    publisher(destination).check_free(located.source)
    return found


def _is_done(found: Migration) -> bool:
    """Return whether the destination already contains the result of the plans.

    Raises:
        DamagedError: it does, and `verify` finds errors in it.
    """
    root = found.destination
    assert root is not None
    if not directories.is_dir(root):
        return False
    if found.tracker is not None and (
        not root_reading.is_root(root) or root_reading.read(root).text != found.tracker
    ):
        return False
    results = found.results
    if not all(has(*each) for each in zip(found.plans, results, strict=True)):
        return False
    there = directories.directory(root)
    if any(directories.size_of(there, each.name) is None for each in found.contents.carried):
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
    new = {name: payload.size for name, payload in plan.change.payload.items()}
    if any(found.get(name) != size for name, size in new.items()):
        return False
    # The migration history has the hashes of the data files that were written.
    change = plan.change.with_payload({name: digest_of(there, name) or "" for name in new})
    for name, wanted in change.after.items():
        if digest_of(there, name) != wanted:
            return False
    payload = {
        name: size
        for name, size in _payload(directories.directory(plan.path)).items()
        if name not in change.after
    }
    if any(found.get(name) != size for name, size in payload.items()):
        return False
    steps = sidecar.load(Overlay(there, {sidecar.FILE: change.sidecar}))
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

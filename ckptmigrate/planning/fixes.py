"""Fixes for a verdict: a command that is planned, and its result checked, before it is printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

from packaging.version import Version

from ckptmigrate.checkpoint.locate import words
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import Kind
from ckptmigrate.checks.verification import verify_one
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.optimizer.target import OptimizerTarget
from ckptmigrate.places import Place
from ckptmigrate.planning import optimizers, planner, refusals, repairs
from ckptmigrate.planning.losses import LOSSES
from ckptmigrate.planning.planner import Plan
from ckptmigrate.planning.targets import CONVERT, Target, target
from ckptmigrate.releases import optimizer_state, rng, transformer_engine
from ckptmigrate.releases.job import DEFAULT_STRICTNESS, RAISE_ALL, Job
from ckptmigrate.releases.prediction import UNSAFE_LOAD, Obstacle, Verdict, check
from ckptmigrate.releases.readers import Reader
from ckptmigrate.storage.directories import Overlay
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import command
from ckptmigrate.version import __version__
from ckptmigrate.versions import UNIVERSAL, none_emitting
from ckptmigrate.versions.detection import Reading, read

# The fields of Job that each flag of an obstacle sets.
_FLAGS: Final[dict[str, dict[str, Any]]] = {
    optimizer_state.FLAG: {"no_load_optim": True},
    rng.FLAG: {"no_load_rng": True},
    f"--dist-ckpt-strictness {DEFAULT_STRICTNESS}": {"strictness": DEFAULT_STRICTNESS},
    transformer_engine.SKIP: {"strictness": transformer_engine.SKIPPING},
    transformer_engine.UNREQUESTED: {},
    UNSAFE_LOAD: {},
}


@dataclass(frozen=True)
class Advice:
    """The fix for a verdict.

    Attributes:
        command: the command to run before the job; None if none is needed, or if none works.
        flags: the flags that the job then needs.
        reason: why neither a command nor a flag works, or None.
        converts: whether the command converts the optimizer, so that the job resumes with it.
        needs_sizes: whether `reason` ends with a command that needs sizes from the user.
    """

    command: str | None = None
    flags: tuple[str, ...] = ()
    reason: str | None = None
    converts: bool = False
    needs_sizes: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/json.md, `check --json`)."""
        return {"command": self.command, "flags": list(self.flags), "reason": self.reason}


class Checked(NamedTuple):
    """A verdict and its fix."""

    verdict: Verdict
    fix: Advice


def advise(
    found: Reading,
    verdict: Verdict,
    job: Job,
    named: Sequence[str | Place] = (),
    progress: Progress | None = None,
) -> Advice:
    """Return the fix for a verdict; an empty one if it has no obstacle and no warning.

    Every command is planned as the user would run it, and its result is checked for the job.

    Args:
        named: the command-line arguments that select the checkpoint; by default its path.
        progress: called with each number of bytes read of an optimizer to convert.
    """
    if not verdict.obstacles and not verdict.warnings:
        return Advice()
    reason, needs_sizes = None, False
    if found.record.kind is Kind.CORRUPT:
        return _repaired(found, verdict.reader, job, named)
    for wanted in _targets(found.manifest, verdict.reader, job, verdict):
        try:
            options, made = _planned(found, wanted, progress)
            result = _after(made, found)
        except CkptMigrateError as error:
            if reason is None:
                needs_sizes = error.retry is not None and bool(error.retry.add)
                place = named or (found.manifest.path,)
                reason = _with_sizes(error, wanted, place) if needs_sizes else error.reason
            continue
        after = check(result, verdict.reader, job)
        flags = _flags(after)
        if wanted.optimizer == CONVERT and any(map(_is_of_optimizer, after.obstacles)):
            continue
        if made.files and flags is not None and not after.warnings:
            place = named or (found.manifest.path,)
            words = command(made.verb, *place, *options)
            return Advice(words, flags, converts=wanted.optimizer == CONVERT)
    if not verdict.obstacles:
        return Advice()
    flags = _flags(verdict, metadata_too=True)
    if flags is not None:
        after = check(found, verdict.reader, _with(job, flags))
        if all(obstacle.flag in flags for obstacle in after.obstacles):
            return Advice(flags=flags)
    return Advice(reason=reason or verdict.obstacles[0].why, needs_sizes=needs_sizes)


def _with_sizes(error: CkptMigrateError, wanted: Target, named: Sequence[str | Place]) -> str:
    """Return why there is no plan, with the command that states the sizes which are unknown."""
    add = () if error.retry is None else error.retry.add
    again = command("migrate", *named, *wanted.words, *add)
    return f"{error.reason}; run `{again}` with the sizes of the job that wrote it"


def _repaired(found: Reading, release: Reader, job: Job, named: Sequence[str | Place]) -> Advice:
    """Return the fix for a corrupt checkpoint, which only `repair` can make loadable."""
    path, options = found.manifest.path, refusals.rebuild_options(found)
    first = command("repair", *(named or words(path)), *options)
    try:
        wanted = repairs.RepairOptions(rebuild=bool(options))
        made = repairs.plan(path, wanted, verify_one(path), now="")
    except CkptMigrateError as error:
        return Advice(reason=error.reason)
    if not check(_after(made, found), release, job).obstacles:
        return Advice(first)
    return Advice(reason=f"the rerun state is corrupt: run `{first}`, then check again")


def _after(made: Plan, found: Reading) -> Reading:
    """Read the checkpoint as it would be after a plan."""
    planned = {name: new.size for name, new in made.change.payload.items()}
    return read(Overlay(found.manifest.directory, made.files, planned))


def _is_of_optimizer(found: Obstacle) -> bool:
    """Return whether an obstacle needs a conversion of the optimizer, or a job without it."""
    return found.flag == optimizer_state.FLAG and not found.metadata_only


def _targets(found: Manifest, release: Reader, job: Job, verdict: Verdict) -> Iterator[Target]:
    """Yield the targets to try: the release, then the layouts that the most jobs can load.

    A release target is planned for a job with the checkpoint's parallelism; the layouts are for
    all other jobs.
    """
    extra_state = transformer_engine.remedy(found, release, job)
    of_job = partial(
        target,
        environment=release.environment,
        extra_state=extra_state,
        transformer_engine=job.transformer_engine,
    )
    named = partial(
        of_job, release.release, torch=release.torch, strict=job.strictness == RAISE_ALL
    )
    if any(map(_is_of_optimizer, verdict.obstacles)) and optimizers.is_convertible(found):
        if optimizers.is_readable(found, release):  # but not with the TP and PP sizes of the job
            yield named(optimizer_type=OptimizerTarget.type_of(Version(release.release)))
        else:
            yield named(optimizer=CONVERT)
    if not verdict.warnings and not any(each.metadata_only for each in verdict.obstacles):
        return
    for native in (False, True):
        yield named(native=native)
    yield of_job(none_emitting.ID)
    yield of_job(UNIVERSAL)


def _planned(found: Reading, wanted: Target, progress: Progress | None) -> tuple[list[str], Plan]:
    """Plan a migration to a target, with every data loss allowed.

    Returns:
        The command-line options after command name and PATH, and the plan.

    Raises:
        CkptMigrateError: there is no plan, even with all data losses allowed.
    """
    made = planner.plan(
        found.manifest.path,
        wanted,
        verb=None,
        allowed=tuple(LOSSES),
        now="",
        version=__version__,
        progress=progress,
    )
    allowed = (word for loss in made.permitted for word in ("--allow-loss", loss))
    return [*wanted.words, *allowed], made


def _flags(verdict: Verdict, *, metadata_too: bool = False) -> tuple[str, ...] | None:
    """Return the flags that avoid all obstacles; None if an obstacle has no flag.

    Args:
        metadata_too: whether to accept flags for obstacles that a migration can remove.
    """
    flags: dict[str, None] = {}
    for obstacle in verdict.obstacles:
        if obstacle.flag is None or (obstacle.metadata_only and not metadata_too):
            return None
        flags[obstacle.flag] = None
    return tuple(flags)


def _with(job: Job, flags: tuple[str, ...]) -> Job:
    for flag in flags:
        job = replace(job, **_FLAGS[flag])
    return job

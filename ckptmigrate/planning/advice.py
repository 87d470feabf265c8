"""What to do about a verdict: the command that helps, planned and checked before it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from ckptmigrate.access.places import Place
from ckptmigrate.access.storage import Overlay
from ckptmigrate.checkpoint.rerun import Kind
from ckptmigrate.errors import CkptMigrateError, RefusedError
from ckptmigrate.locate import words
from ckptmigrate.planning import mending, planner, refusals
from ckptmigrate.planning.losses import LOSSES
from ckptmigrate.planning.planner import Plan
from ckptmigrate.planning.targets import Target, target
from ckptmigrate.releases import optimizer, rng
from ckptmigrate.releases.checking import (
    DEFAULT_STRICTNESS,
    RAISE_ALL,
    UNSAFE_LOAD,
    Job,
    Verdict,
    check,
)
from ckptmigrate.releases.readers import Reader, reader
from ckptmigrate.text.commands import command
from ckptmigrate.version import __version__
from ckptmigrate.versions import UNIVERSAL, none_emitting
from ckptmigrate.versions.reading import Reading, read

# What a flag that an obstacle names does to a job.
_FLAGS: Final[dict[str, dict[str, Any]]] = {
    optimizer.FLAG: {"no_load_optim": True},
    rng.FLAG: {"no_load_rng": True},
    f"--dist-ckpt-strictness {DEFAULT_STRICTNESS}": {"strictness": DEFAULT_STRICTNESS},
    UNSAFE_LOAD: {},
}


@dataclass(frozen=True)
class Advice:
    """How the job of a verdict gets to resume.

    Attributes:
        command: what to run first; None where no command is needed, or none works.
        flags: the flags that the job then needs.
        reason: why neither a command nor a flag works, or None.
    """

    command: str | None = None
    flags: tuple[str, ...] = ()
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The documented JSON form (docs/json.md, `check --json`)."""
        return {"command": self.command, "flags": list(self.flags), "reason": self.reason}


class Checked(NamedTuple):
    """A verdict, and how its job gets to resume."""

    verdict: Verdict
    fix: Advice


def advise(found: Reading, verdict: Verdict, job: Job, named: Sequence[str | Place] = ()) -> Advice:
    """What makes the job of a verdict resume; empty where it does, and nothing goes wrong later.

    Every command is planned here as the user would run it, and its result checked for the job.

    Args:
        named: the words that mean the checkpoint in a command; its own directory by default.
    """
    if verdict.resumes and not verdict.warnings:
        return Advice()
    reason = None
    if found.record.kind is Kind.CORRUPT:
        return _repaired(found, verdict.reader, job, named)
    if verdict.warnings or any(obstacle.metadata_only for obstacle in verdict.obstacles):
        for wanted in _targets(verdict.reader, job):
            try:
                options, made = _planned(found, wanted)
                result = _after(made, found)
            except CkptMigrateError as error:
                reason = reason or error.reason
                continue
            after = check(result, verdict.reader, job)
            flags = _flags(after)
            if made.files and flags is not None and not after.warnings:
                place = named or (found.manifest.path,)
                return Advice(command(made.verb, *place, *options), flags)
    if verdict.resumes:
        return Advice()
    flags = _flags(verdict, metadata_too=True)
    if flags is not None:
        after = check(found, verdict.reader, _with(job, flags))
        if all(obstacle.flag in flags for obstacle in after.obstacles):
            return Advice(flags=flags)
    return Advice(reason=reason or verdict.obstacles[0].why)


def _repaired(found: Reading, release: Reader, job: Job, named: Sequence[str | Place]) -> Advice:
    """What makes a corrupt checkpoint resume: no migration repairs it."""
    path, options = found.manifest.path, refusals.rebuild_options(found)
    first = command("repair", *(named or words(path)), *options)
    try:
        made = mending.plan(path, mending.Wanted(rebuild=bool(options)), now="")
    except CkptMigrateError as error:
        return Advice(reason=error.reason)
    if check(_after(made, found), release, job).resumes:
        return Advice(first)
    return Advice(reason=f"it is corrupt; run `{first}`, then check it again")


def _after(made: Plan, found: Reading) -> Reading:
    """The checkpoint as a plan would leave it."""
    return read(Overlay(found.manifest.directory, made.files))


def _targets(release: Reader, job: Job) -> Iterator[Target]:
    """The release itself; where the job is another than the one that a release target is for,
    what asks least of any job."""
    strict = job.strictness == RAISE_ALL
    for native in (False, True):
        yield target(
            release.release,
            torch=release.torch,
            environment=release.environment,
            native=native,
            strict=strict,
        )
    yield target(none_emitting.ID, environment=release.environment)
    yield target(UNIVERSAL, environment=release.environment)


def _planned(found: Reading, wanted: Target) -> tuple[list[str], Plan]:
    """The plan of a target, and its command after verb and PATH, with every loss that it needs.

    Raises:
        CkptMigrateError: there is no plan, whatever is allowed.
    """
    allowed: tuple[str, ...] = ()
    while True:
        try:
            made = planner.plan(
                found.manifest.path, wanted, verb=None, allowed=allowed, now="", version=__version__
            )
        except RefusedError as error:
            if not set(error.losses) - set(allowed):
                raise
            allowed = tuple(loss for loss in LOSSES if loss in {*allowed, *error.losses})
            continue
        words = ["--to", wanted.name, *_options(wanted)]
        return words + [word for loss in allowed for word in ("--allow-loss", loss)], made


def _options(wanted: Target) -> list[str]:
    if wanted.reader is None:
        return wanted.environment.options()
    release = wanted.reader
    usual = reader(release.release, release.compat).torch
    torch = [] if release.torch == usual else ["--torch", release.torch]
    native = ["--native"] if wanted.native else []
    strict = ["--strict"] if wanted.strict else []
    return [*torch, *wanted.environment.options(), *native, *strict]


def _flags(verdict: Verdict, *, metadata_too: bool = False) -> tuple[str, ...] | None:
    """The flags that go around every obstacle; None where one has none.

    Args:
        metadata_too: whether to go around what a migration would remove, too.
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

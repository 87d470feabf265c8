"""What the command line does, as functions: each returns values and raises errors."""

from __future__ import annotations

from collections.abc import Collection

from ckptmigrate import inspection, locate, migration, recovery, repairing, verification
from ckptmigrate.access import storage
from ckptmigrate.access.places import Place, place
from ckptmigrate.access.storage import Progress
from ckptmigrate.checkpoint import diffing
from ckptmigrate.checkpoint.diffing import Difference
from ckptmigrate.checkpoint.topology import Given
from ckptmigrate.inspection import Inspection
from ckptmigrate.planning import advice, mending
from ckptmigrate.planning.advice import Checked
from ckptmigrate.planning.planner import Plan
from ckptmigrate.releases import checking
from ckptmigrate.releases.checking import Job
from ckptmigrate.releases.environment import environment
from ckptmigrate.releases.facts import compat
from ckptmigrate.releases.readers import reader, readers
from ckptmigrate.repairing import Repair
from ckptmigrate.verification import Verification
from ckptmigrate.versions.reading import read
from ckptmigrate.writing.linking import Link


def inspect(path: str | Place, *, iteration: int | None = None) -> Inspection:
    """What a checkpoint is.

    Args:
        path: a checkpoint directory, or a root (then the iteration its tracker names).
        iteration: of a root, this one instead.

    Raises:
        CkptMigrateError: there is no readable torch_dist checkpoint.
    """
    return inspection.inspect(_one(path, iteration))


def check(
    path: str | Place,
    *,
    release: str | None = None,
    job: Job | None = None,
    torch: str | None = None,
    python: str | None = None,
    numpy: str | None = None,
    iteration: int | None = None,
) -> tuple[Checked, ...]:
    """Predict whether a job resumes from a checkpoint, and what to do where it does not.

    Args:
        path: a checkpoint directory, or a root (then the iteration its tracker names).
        release: of the job, such as `0.13.1` or `0.13`; None asks every release that is known.
        job: its parallel sizes and flags; by default those of the checkpoint, reruns enabled.
        torch: of the job; by default the one that its release usually has.
        python: of the job; 3.12 by default.
        numpy: of the job; by default unknown, and `Verdict.depends` tells what depends on it.
        iteration: of a root, this one instead.

    Returns:
        A verdict and its fix per release, oldest first; the fix is empty where the job resumes.

    Raises:
        RefusedError: there is no such release, or another version is not one.
        CkptMigrateError: there is no readable torch_dist checkpoint.
    """
    located = locate.locate(place(path), iteration=iteration)
    found = read(storage.directory(located.checkpoints[0]))
    named = located.words(iteration)
    job = job or Job()
    where = environment(python, numpy)
    asked = (
        [reader(release, compat(), torch, where)] if release else readers(compat(), torch, where)
    )
    verdicts = [checking.check(found, each, job) for each in asked]
    return tuple(Checked(each, advice.advise(found, each, job, named)) for each in verdicts)


def plan(
    path: str | Place,
    *,
    to: str,
    iteration: int | None = None,
    verb: str | None = None,
    allow_loss: Collection[str] = (),
    given: Given | None = None,
    torch: str | None = None,
    python: str | None = None,
    numpy: str | None = None,
    native: bool = False,
    strict: bool = False,
) -> Plan:
    """What a migration would do; writes nothing.

    Args:
        path: a checkpoint directory, or a root (then the iteration its tracker names).
        to: a layout of compat_matrix.yaml, `universal`, or a release such as `0.13.1`.
        iteration: of a root, this one instead.
        verb: `upgrade` or `downgrade` to refuse the other direction; None takes either.
        allow_loss: names of losses that are accepted (see LOSSES).
        given: parallel sizes, in ranks, that the checkpoint does not tell.
        torch, native, strict: for a release: its torch; whether it gets its own layout even
            where it needs less; whether it is to resume under `raise_all`, too.
        python, numpy: of the job; modules that moved are named as they have them. By default
            Python 3.12, and names of NumPy stay as they are.

    Raises:
        CorruptError: the checkpoint lacks rerun shards that it announces.
        RefusedError: a loss that is not allowed, a wrong direction, unknown sizes.
        CkptMigrateError: there is no readable torch_dist checkpoint.
    """
    prepared = migration.prepare(
        place(path),
        to,
        verb=verb,
        in_place=True,
        iteration=iteration,
        allowed=allow_loss,
        given=given,
        torch=torch,
        environment=environment(python, numpy),
        native=native,
        strict=strict,
    )
    return prepared.plans[0]


def migrate(
    path: str | Place,
    *,
    to: str,
    output: str | Place | None = None,
    in_place: bool = False,
    iteration: int | None = None,
    every: bool = False,
    verb: str | None = None,
    allow_loss: Collection[str] = (),
    given: Given | None = None,
    torch: str | None = None,
    python: str | None = None,
    numpy: str | None = None,
    native: bool = False,
    strict: bool = False,
    link: Link = Link.AUTO,
    hash_payload: bool = False,
    progress: Progress | None = None,
) -> tuple[Plan, ...]:
    """Migrate a checkpoint, or those of a root; all are planned before any is written.

    In place, a migration that did not finish is rolled back, or forward, first.

    Args:
        path: a checkpoint directory, or a root.
        to: as in `plan`.
        output: the root to create; by default `PATH.<to>` beside `path`.
        in_place: change the checkpoint itself instead.
        iteration: of a root, this one instead of the tracker's.
        every: of a root, every iteration.
        verb, allow_loss, given, torch, python, numpy, native, strict: as in `plan`.
        link: how payload files get into `output`.
        hash_payload: whether payload, too, must have the digests of integrity.json.
        progress: called with a number of payload bytes whenever that many were copied.

    Returns:
        What was done, a plan per checkpoint.

    Raises:
        ValueError: both `output` and `in_place`.
        DestinationError: `output` exists or cannot be written; nothing is left of it.
        CkptMigrateError: as `plan`.
    """
    if in_place and output is not None:
        raise ValueError("output and in_place exclude each other")
    if in_place:
        recovery.in_place(place(path))
    prepared = migration.prepare(
        place(path),
        to,
        verb=verb,
        output=None if output is None else place(output),
        in_place=in_place,
        iteration=iteration,
        every=every,
        allowed=allow_loss,
        given=given,
        torch=torch,
        environment=environment(python, numpy),
        native=native,
        strict=strict,
        hash_payload=hash_payload,
    )
    migration.carry_out(prepared, link=link, progress=progress)
    return prepared.plans


def verify(
    path: str | Place,
    *,
    load: bool = False,
    hashed: bool = False,
    iteration: int | None = None,
    every: bool = False,
    known: Collection[str] = (),
    progress: Progress | None = None,
) -> Verification:
    """Everything that is wrong with a checkpoint, or those of a root; writes nothing.

    Args:
        path: a checkpoint directory, or a root.
        load: read every tensor with torch, too.
        hashed: hash payload files against integrity.json, too.
        iteration: of a root, this one instead of the tracker's.
        every: of a root, every iteration.
        known: dotted names of symbols in its pickles that you vouch for.
        progress: called with a number of payload bytes whenever that many were read, from any
            thread.

    Raises:
        RefusedError: `load`, and torch is not installed.
        CkptMigrateError: there is no torch_dist checkpoint; what is wrong with one is a finding.
    """
    return verification.verify(
        place(path),
        load=load,
        hashed=hashed,
        iteration=iteration,
        every=every,
        known=known,
        progress=progress,
    )


def repair(
    path: str | Place,
    *,
    output: str | Place | None = None,
    in_place: bool = False,
    rebuild_sentinel: bool = False,
    drop_rerun: bool = False,
    iteration: int | None = None,
    every: bool = False,
    known: Collection[str] = (),
    hashed: bool = False,
    given: Given | None = None,
    link: Link = Link.AUTO,
    progress: Progress | None = None,
) -> Repair:
    """Make a checkpoint resume again where nothing but its metadata is wrong.

    Args:
        path: a checkpoint directory, or a root.
        output: the root to create; by default `PATH.repaired` beside `path`.
        in_place: change the checkpoint itself instead.
        rebuild_sentinel: write an idle rerun state with all of its shards, instead of none.
        drop_rerun: drop a fault context that is whole, too.
        iteration, every, known, hashed: as in `verify`.
        given: parallel sizes, in ranks, that the checkpoint does not tell.
        link, progress: as in `migrate`.

    Returns:
        What was done.

    Raises:
        ValueError: two options that exclude each other.
        RefusedError: something is lost that no repair can bring back.
        CkptMigrateError: there is no readable torch_dist checkpoint, or the place to write to
            cannot be written.
    """
    if in_place and output is not None:
        raise ValueError("output and in_place exclude each other")
    if rebuild_sentinel and drop_rerun:
        raise ValueError("rebuild_sentinel and drop_rerun exclude each other")
    prepared = repairing.prepare(
        place(path),
        mending.Wanted(rebuild_sentinel, drop_rerun, given, known, hashed),
        output=None if output is None else place(output),
        in_place=in_place,
        iteration=iteration,
        every=every,
    )
    repairing.carry_out(prepared, link=link, progress=progress)
    return prepared


def undo(
    path: str | Place, *, iteration: int | None = None, every: bool = False
) -> tuple[Plan, ...]:
    """Take back the last migration in place: every small file as it was, byte for byte.

    Args:
        path: a checkpoint directory, or a root.
        iteration: of a root, this one instead of the tracker's.
        every: of a root, every iteration.

    Returns:
        What was done, a plan per checkpoint.

    Raises:
        RefusedError: there is nothing to undo, or a file was changed since; it is named.
        DestinationError: it cannot be written; it is as it was, or the sentence says that
            `ckptmigrate recover` has to make it so.
    """
    recovery.in_place(place(path))
    prepared = migration.prepare_undo(place(path), iteration=iteration, every=every)
    migration.carry_out(prepared)
    return prepared.plans


def recover(path: str | Place, *, break_lock: bool = False) -> dict[Place, str]:
    """Clean up after a migration that did not finish: back, or forward once it was committed.

    Args:
        path: a checkpoint directory, a root, or a destination that was to be created.
        break_lock: whether you state that a run which cannot be seen from here is over.

    Returns:
        Place -> what was done there; nothing where all is whole.

    Raises:
        NotACheckpointError: it is no directory, and nothing is left of one that was to be created.
        CkptMigrateError: something is still at work there, or it cannot be read or written.
    """
    return recovery.recover(place(path), break_lock=break_lock)


def diff(a: str | Place, b: str | Place, *, iteration: int | None = None) -> list[Difference]:
    """What differs in meaning between two checkpoints; empty where nothing does.

    Args:
        a, b: checkpoint directories, or roots (then the iteration each tracker names).
        iteration: of roots, this one instead.

    Raises:
        CkptMigrateError: one of them is no readable torch_dist checkpoint.
    """
    first, second = (read(storage.directory(_one(path, iteration))).manifest for path in (a, b))
    return diffing.diff(first, second)


def _one(path: str | Place, iteration: int | None) -> Place:
    return locate.locate(place(path), iteration=iteration).checkpoints[0]

"""The functions of the Python API; each returns values and raises errors, and prints nothing."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext

from ckptmigrate.checkpoint import locate
from ckptmigrate.checkpoint.differences import Difference
from ckptmigrate.checkpoint.topology import Given
from ckptmigrate.checks import verification
from ckptmigrate.checks.verification import Verification
from ckptmigrate.optimizer import meaning
from ckptmigrate.optimizer.target import PART_SIZE
from ckptmigrate.places import Place
from ckptmigrate.planning.fixes import Checked
from ckptmigrate.planning.planner import Plan
from ckptmigrate.releases.environment import environment
from ckptmigrate.releases.job import Job
from ckptmigrate.storage import directories
from ckptmigrate.storage.progress import Progress
from ckptmigrate.storage.urls import place
from ckptmigrate.verbs import migrate as migration
from ckptmigrate.verbs import recover as recovery
from ckptmigrate.verbs.check import CheckRequest
from ckptmigrate.verbs.inspect import InspectRequest
from ckptmigrate.verbs.inspection import Inspection
from ckptmigrate.verbs.migrate import MigrationRequest
from ckptmigrate.verbs.repair import Repair, RepairRequest
from ckptmigrate.verbs.result import Watch
from ckptmigrate.verbs.undo import UndoRequest
from ckptmigrate.versions.detection import read
from ckptmigrate.writing.links import Link
from ckptmigrate.writing.parts import AT_ONCE


def inspect(path: str | Place, *, iteration: int | None = None) -> Inspection:
    """Inspect a checkpoint: its layout, writer, rerun state, parallelism, size and problems.

    Args:
        path: a checkpoint directory, or a root: then the iteration that its tracker file names.
        iteration: the iteration of a root to use instead of the one in the tracker file.

    Raises:
        CkptMigrateError: `path` contains no readable torch_dist checkpoint.
    """
    return InspectRequest(iteration).run(place(path))


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
    """Predict whether a Megatron release can resume from a checkpoint, and find the fix if not.

    Args:
        path: a checkpoint directory, or a root: then the iteration that its tracker file names.
        release: the release of the job, such as `0.13.1` or `0.13`. By default every known one.
        job: its parallelism and flags. By default that of the checkpoint, with reruns enabled.
        torch: the torch version of the job. By default the usual one of its release.
        python: the Python version of the job. By default 3.12.
        numpy: the NumPy version of the job. By default unknown; then `Verdict.depends` lists what
            depends on it.
        iteration: the iteration of a root to use instead of the one in the tracker file.

    Returns:
        A verdict and its fix per release, oldest first. The fix is empty if the job resumes.

    Raises:
        RefusedError: the release is unknown, or a version string is invalid.
        CkptMigrateError: `path` contains no readable torch_dist checkpoint.
    """
    request = CheckRequest(release, job or Job(), torch, environment(python, numpy), iteration)
    return tuple(Checked(*each) for each in request.checked(place(path)))


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
    optimizer: str = "keep",
    optimizer_type: str | None = None,
    extra_state: str = "keep",
    transformer_engine: str | None = None,
    compact: bool = False,
) -> Plan:
    """Plan a migration without writing anything.

    Args:
        path: a checkpoint directory, or a root: then the iteration that its tracker file names.
        to: the target: a release such as `0.13.1`, a layout of compat_matrix.yaml, or `universal`.
        iteration: the iteration of a root to use instead of the one in the tracker file.
        verb: `upgrade` or `downgrade`, to refuse the other direction. None allows both.
        allow_loss: names of the data losses to allow (see LOSSES).
        given: parallelism, in ranks, that the checkpoint does not contain.
        torch: the torch version of the target release. By default the usual one.
        native: whether to write the layout that the target release itself writes, instead of
            making the smallest change that lets it resume.
        strict: whether the target release must also resume with `--dist-ckpt-strictness raise_all`.
        optimizer: `keep`, `convert` where the target release does not load it as it is, or `drop`.
        optimizer_type: the sharding type to convert the optimizer to. By default
            `fully_sharded_model_space` up to 0.14 and `fully_reshardable` from 0.15 on.
        extra_state, transformer_engine: as the options of `ckptmigrate migrate`.
        compact: whether to rewrite data files that contain bytes of no key without these bytes.
        python, numpy: the versions of the job. Module names in pickles are changed to those that
            these versions have. By default Python 3.12; module names of NumPy stay unchanged.

    Raises:
        CorruptError: rerun shards that the common state requires are missing.
        RefusedError: a data loss is not allowed, the direction is wrong, or the parallelism is
            unknown.
        CkptMigrateError: `path` contains no readable torch_dist checkpoint.
    """
    request = MigrationRequest(
        to,
        verb or "migrate",
        in_place=True,
        iteration=iteration,
        allow_loss=tuple(allow_loss),
        given=given or Given(),
        torch=torch,
        environment=environment(python, numpy),
        native=native,
        strict=strict,
        optimizer=optimizer,
        optimizer_type=optimizer_type,
        extra_state=extra_state,
        transformer_engine=transformer_engine,
        compact=compact,
    )
    return migration.prepare(place(path), request).plans[0]


def migrate(
    path: str | Place,
    *,
    to: str | None = None,
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
    optimizer: str = "keep",
    optimizer_type: str | None = None,
    extra_state: str = "keep",
    transformer_engine: str | None = None,
    compact: bool = False,
    part_size: int = PART_SIZE,
    jobs: int = AT_ONCE,
    verify_source: bool = False,
    link: Link = Link.AUTO,
    hash_payload: bool = False,
    progress: Progress | None = None,
) -> tuple[Plan, ...]:
    """Migrate a checkpoint, or the checkpoints of a root; return the plan of each as carried out.

    All checkpoints are planned before the first one is written. With `in_place`, an interrupted
    in-place migration is recovered first: completed if it was committed, else rolled back.

    Args:
        path: a checkpoint directory, or a root: then the iteration that its tracker file names.
        to: as in `plan`. Can be None with `optimizer_type`, `optimizer="drop"`, `compact` or
            `extra_state`: then nothing else changes.
        output: the root to create. By default `PATH.<to>`, and nothing is created if the target
            release can resume from `path` unmigrated.
        in_place: whether to change the checkpoint itself instead of creating a root.
        iteration: the iteration of a root to use instead of the one in the tracker file.
        every: whether to migrate every iteration of a root.
        verb, allow_loss, given, torch, python, numpy, native, strict, optimizer, optimizer_type,
            compact, extra_state, transformer_engine: as in `plan`.
        link: how to bring data files into `output` (hard link, reflink, copy, ...).
        hash_payload: whether to hash the data files too and compare them with integrity.json.
        part_size, jobs: largest size of new data files in bytes, and how many to write at once.
        verify_source: whether to compare them with the source once more.
        progress: called with each number of bytes of data files that were read or written.


    Raises:
        ValueError: both `output` and `in_place` are given.
        DestinationError: `output` exists, or cannot be written; then it is not created.
        CkptMigrateError: as `plan`.
    """
    if in_place and output is not None:
        raise ValueError("output and in_place exclude each other")
    request = MigrationRequest(
        to,
        verb or "migrate",
        None if output is None else place(output),
        in_place,
        iteration,
        every,
        tuple(allow_loss),
        given or Given(),
        torch,
        environment(python, numpy),
        native,
        strict,
        hash_payload,
        link,
        optimizer=optimizer,
        optimizer_type=optimizer_type,
        extra_state=extra_state,
        transformer_engine=transformer_engine,
        compact=compact,
        part_size=part_size,
        jobs=jobs,
        verify_source=verify_source,
    )
    if to is None and not request.changes_data_files:
        raise ValueError("neither to nor an option that changes a part is given")
    return request.run(place(path), watch=_watch(progress)).plans


def verify(
    path: str | Place,
    *,
    load: bool = False,
    hashed: bool = False,
    optimizer: bool = False,
    sample: int | None = None,
    iteration: int | None = None,
    every: bool = False,
    known: Collection[str] = (),
    progress: Progress | None = None,
) -> Verification:
    """Validate a checkpoint, or the checkpoints of a root, and list every problem with its fix.

    Args:
        path: a checkpoint directory, or a root: then the iteration that its tracker file names.
        load: whether to read every tensor with torch too.
        hashed: whether to hash the data files too and compare them with integrity.json.
        optimizer: whether to compare the main parameters of the optimizer with the weights too.
        sample: with `optimizer`, compare only this number of parts, spread evenly; None for all.
        iteration: the iteration of a root to use instead of the one in the tracker file.
        every: whether to verify every iteration of a root.
        known: dotted names of globals in the pickles to trust, for example `nemo.core.Config`.
        progress: called with each number of bytes of data files that were read, by any thread.

    Raises:
        RefusedError: `load` is set and torch is not installed.
        CkptMigrateError: `path` contains no torch_dist checkpoint. Problems of a checkpoint do not
            raise; they are findings.
    """
    return verification.verify(
        place(path),
        load=load,
        hashed=hashed,
        optimizer=optimizer,
        sample=sample,
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
    drop_optimizer: bool = False,
    iteration: int | None = None,
    every: bool = False,
    known: Collection[str] = (),
    hashed: bool = False,
    given: Given | None = None,
    link: Link = Link.AUTO,
    progress: Progress | None = None,
) -> Repair:
    """Repair a checkpoint whose metadata is damaged.

    Args:
        path: a checkpoint directory, or a root: then the iteration that its tracker file names.
        output: the root to create, by default `PATH.repaired`. Nothing is created if there is
            nothing to repair.
        in_place: whether to change the checkpoint itself instead of creating a root.
        rebuild_sentinel: whether to write an idle rerun state with all its shards, instead of
            removing the rerun state.
        drop_rerun: whether to drop an intact fault context too.
        drop_optimizer: whether to remove the optimizer; jobs then need --no-load-optim.
        iteration, every, known, hashed: as in `verify`.
        given: parallelism, in ranks, that the checkpoint does not contain.
        link, progress: as in `migrate`.

    Returns:
        The repair, as carried out.

    Raises:
        ValueError: two options exclude each other.
        RefusedError: the checkpoint has damage that `repair` cannot repair.
        CkptMigrateError: `path` contains no readable torch_dist checkpoint, or the destination
            cannot be written.
    """
    if in_place and output is not None:
        raise ValueError("output and in_place exclude each other")
    if rebuild_sentinel and drop_rerun:
        raise ValueError("rebuild_sentinel and drop_rerun exclude each other")
    request = RepairRequest(
        rebuild_sentinel,
        drop_rerun,
        given,
        known,
        hashed,
        drop_optimizer,
        None if output is None else place(output),
        in_place,
        iteration,
        every,
        link,
    )
    return request.run(place(path), watch=_watch(progress))


def undo(
    path: str | Place, *, iteration: int | None = None, every: bool = False, forget: bool = False
) -> tuple[Plan, ...]:
    """Undo the last in-place migration, byte for byte.

    Args:
        path: a checkpoint directory, or a root: then the iteration that its tracker file names.
        iteration: the iteration of a root to use instead of the one in the tracker file.
        every: whether to undo the last migration of every iteration of a root.
        forget: whether to remove the original files instead, so that nothing can be undone.

    Returns:
        The plan of each checkpoint, as carried out.

    Raises:
        RefusedError: there is no migration to undo, or a file changed after it.
        DestinationError: the checkpoint cannot be written; `recover` may be needed.
    """
    return UndoRequest(iteration, every, forget=forget).run(place(path)).plans


def recover(path: str | Place, *, break_lock: bool = False, keep: bool = False) -> dict[Place, str]:
    """Recover from an interrupted migration: complete it if it was committed, else roll it back.

    Args:
        path: a checkpoint directory, a root (all its checkpoints are examined), or the destination
            of an out-of-place migration.
        break_lock: whether to remove the lock of a process on another host, which has ended.
        keep: whether finished new data files remain, so that the same migration continues.

    Returns:
        Path -> what was done there. Empty if there was nothing to recover.

    Raises:
        NotACheckpointError: `path` is not a directory, and no interrupted migration to it exists.
        CkptMigrateError: another process is still changing it, or it cannot be read or written.
    """
    return recovery.recover(place(path), break_lock=break_lock, keep=keep)


def diff(
    a: str | Place, b: str | Place, *, iteration: int | None = None, values: bool = False
) -> list[Difference]:
    """List the differences in content between two checkpoints; empty if there are none.

    Distributed optimizers of different sharding types are compared by parameter and state.

    Args:
        a, b: checkpoint directories, or roots: then the iteration that each tracker file names.
        iteration: the iteration of both roots to use instead of those in the tracker files.
        values: whether to compare every element of distributed optimizers by parameter and state.

    Raises:
        CkptMigrateError: `a` or `b` contains no readable torch_dist checkpoint.
    """
    located = (locate.only(place(each), iteration=iteration).checkpoints[0] for each in (a, b))
    first, second = (read(directories.directory(each)).manifest for each in located)
    return meaning.whole_diff(first, second, values=values)


def _watch(progress: Progress | None) -> Watch:
    return lambda _what, _total: nullcontext(progress)

"""The tasks of a batch: the checkpoints of the PATHs, and the new roots that they are added to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ckptmigrate.batch import paths, roots
from ckptmigrate.batch.drive import PathTasks
from ckptmigrate.batch.shard import Partition
from ckptmigrate.batch.tasks import Task
from ckptmigrate.checkpoint import locate
from ckptmigrate.checkpoint.locate import Located
from ckptmigrate.checks import root_checks
from ckptmigrate.places import Place
from ckptmigrate.storage.urls import place
from ckptmigrate.verbs.check import CheckRequest
from ckptmigrate.verbs.migrate import MigrationRequest
from ckptmigrate.verbs.repair import RepairRequest
from ckptmigrate.verbs.result import VerbRequest
from ckptmigrate.verbs.verify import VerifyRequest

Phase = list[PathTasks]


@dataclass(frozen=True)
class Scope:
    """Which tasks a batch has.

    Attributes:
        given: the PATHs of the command line.
        partition: the part of the tasks to run, or None.
        add: whether the new root may already exist, partly written by another run.
        detail, reported: see `Task`.
        jobs: the number of processes, which fewer checkpoints than that share; None for one task at
            a time.
    """

    given: tuple[str, ...]
    partition: Partition | None = None
    add: bool = False
    detail: bool = False
    reported: bool = False
    jobs: int | None = None


def phases(request: Any, scope: Scope) -> list[Phase]:
    """Return the tasks of a request; a phase starts after all tasks of the previous one have ended.

    Raises:
        CkptMigrateError: the only PATH has no checkpoint, or a new root cannot be created.
    """
    tolerant = isinstance(request, VerifyRequest | RepairRequest)
    select = partial(
        root_checks.choose if tolerant else locate.find,
        iteration=request.iteration,
        every=request.every,
    )
    in_place = getattr(request, "in_place", False)
    groups = paths.groups(paths.expand(scope.given), select, in_place=in_place)
    several = paths.several(scope.given)
    one = len(scope.given) == 1 and (not several or paths.is_glob(str(groups[0].path)))
    if one and groups[0].error is not None:
        raise groups[0].error
    if isinstance(request, RepairRequest):
        found = _repairs(request, groups, scope, several=several)
    elif isinstance(request, MigrationRequest):
        found = [_migrations(request, groups, scope, several=several)]
    else:
        found = [_tasks(_of_one(request, scope), groups, scope)]
    if isinstance(request, VerifyRequest):
        found = [[_with_tracker(each) for each in phase] for phase in found]
    return [_part(each, scope.partition) if scope.partition else each for each in found]


def sources(found: Sequence[Phase]) -> list[Place]:
    """Return the PATHs of the tasks and the new roots that they write."""
    jobs = [job for phase in found for job in phase if job.group.error is None]
    roots = {task.root for job in jobs for task in job.tasks if task.root is not None}
    return [*(job.group.path for job in jobs), *map(place, sorted(roots))]


def _of_one(request: Any, scope: Scope) -> Any:
    """Return the request for one checkpoint of a PATH."""
    if isinstance(request, CheckRequest):  # the lines of a batch have no fix
        request = replace(request, advise=scope.detail or scope.reported)
    return replace(request, iteration=None, every=False)


def _tasks(
    request: VerbRequest,
    groups: Sequence[Located],
    scope: Scope,
    root: str | None = None,
    *,
    carry: bool = False,
) -> Phase:
    """Return the tasks of each PATH, one per checkpoint."""
    task = partial(
        Task,
        request=request,
        root=root,
        carry=carry,
        detail=scope.detail,
        reported=scope.reported,
    )
    return [
        PathTasks(
            group,
            tuple(
                task(str(path), name=name)
                for path, name in zip(group.checkpoints, group.names, strict=True)
            ),
        )
        for group in groups
    ]


def _migrations(
    request: MigrationRequest, groups: Sequence[Located], scope: Scope, *, several: bool
) -> Phase:
    request.check_target()  # fail before the batch starts if the target is not valid
    one = replace(_of_one(request, scope), output=None)
    if scope.jobs is not None:
        count = sum(len(group.checkpoints) for group in groups)
        one = replace(one, jobs=max(1, scope.jobs // max(1, count)))
    if request.in_place:
        return _tasks(one, groups, scope)
    placed = roots.place(groups, request.target, request.output, several=several, go_on=scope.add)
    if not several and placed[0][0].error is not None:
        raise placed[0][0].error
    always = request.output is not None
    return [
        job for group, root in placed for job in _tasks(one, [group], scope, root, carry=always)
    ]


def _repairs(
    request: RepairRequest, groups: Sequence[Located], scope: Scope, *, several: bool
) -> list[Phase]:
    """Return the phases of a batch of repairs.

    In place with --all, the first phase repairs every checkpoint of a root and the second its
    tracker file. In all other cases one task repairs a whole PATH, so that a checkpoint that
    cannot be repaired is not written to the new root.
    """
    if request.in_place and request.every:
        one = _of_one(request, scope)
        whole = [_whole(group) for group in groups if group.is_root]
        return [_tasks(one, groups, scope), _tasks(one, whole, scope)]
    wholes = [group if group.error else _whole(group) for group in groups]
    if request.in_place:
        return [_tasks(request, wholes, scope)]
    placed = roots.place(wholes, "repaired", request.output, several=several, go_on=False)
    return [
        [
            job
            for group, root in placed
            for job in _tasks(replace(request, output=place(root)), [group], scope, root)
        ]
    ]


def _whole(group: Located) -> Located:
    """Return a PATH with itself in place of its checkpoints."""
    return replace(group, checkpoints=(group.path,), base=group.path)


def _with_tracker(found: PathTasks) -> PathTasks:
    """Return the tasks with the check of the tracker file added to the first task of a root."""
    if not found.group.is_root:
        return found
    first, *others = found.tasks
    assert isinstance(first.request, VerifyRequest)
    checked = replace(first, request=replace(first.request, with_root=True))
    return replace(found, tasks=(checked, *others))


def _part(found: Phase, partition: Partition) -> Phase:
    """Return the tasks of a partition; a PATH without checkpoints counts as one task."""
    one_each = [PathTasks(each.group, (task,)) for each in found for task in each.tasks]
    one_each += [each for each in found if not each.tasks]
    taken: dict[str, PathTasks] = {}
    for each in partition.of(one_each):
        path = str(each.group.path)
        before = taken.get(path, PathTasks(each.group))
        taken[path] = PathTasks(each.group, before.tasks + each.tasks)
    return list(taken.values())

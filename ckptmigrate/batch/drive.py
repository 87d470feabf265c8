"""The run of a batch: skip finished tasks, run the others, record the results."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ckptmigrate import clock
from ckptmigrate.batch import roots
from ckptmigrate.batch.executors import Executor, Stop
from ckptmigrate.batch.ledger import Ledger
from ckptmigrate.batch.tasks import Done, Task, TaskOutcome
from ckptmigrate.checkpoint.locate import Located
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.storage.urls import place
from ckptmigrate.verbs.result import Status


@dataclass(frozen=True)
class PathTasks:
    """One PATH of a batch.

    Attributes:
        group: the PATH and its checkpoints.
        tasks: the tasks of this run, one per selected checkpoint.
    """

    group: Located
    tasks: tuple[Task, ...] = ()


@dataclass(frozen=True)
class Root:
    """A root that a batch creates.

    Attributes:
        path: the path of the root.
        source: the PATH that it is created from.
        tracker: the text of its tracker file; None if it has no tracker file (yet).
        error: why the tracker file could not be written, or None.
        use: the options of a job that loads it, or None.
        whole: whether a job can load it.
    """

    path: str
    source: str
    tracker: str | None
    error: CkptMigrateError | None = None
    use: str | None = None
    whole: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/many.md)."""
        return {
            "path": self.path,
            "source": self.source,
            "tracker": self.tracker,
            "error": None if self.error is None else self.error.as_json(),
        }


@dataclass(frozen=True)
class Batch:
    """The result of a batch.

    Attributes:
        outcomes: the results of the started tasks, in the order of the tasks.
        not_started: the checkpoints of the tasks that were not started.
        roots: the roots that were created or added to.
        seconds: the duration.
        signal: the number of the signal that stopped the batch, or None.
    """

    outcomes: tuple[TaskOutcome, ...]
    not_started: tuple[str, ...]
    roots: tuple[Root, ...]
    seconds: float
    signal: int | None

    @property
    def good(self) -> bool:
        """Return whether all tasks succeeded and all tracker files were written."""
        done = not self.not_started and all(outcome.status.good for outcome in self.outcomes)
        return done and all(root.error is None for root in self.roots)

    @property
    def total(self) -> int:
        """Return the number of tasks."""
        return len(self.outcomes) + len(self.not_started)

    def followed_by(self, other: Batch) -> Batch:
        """Return the combined result of this batch and the next one."""
        return Batch(
            self.outcomes + other.outcomes,
            self.not_started + other.not_started,
            self.roots + other.roots,
            self.seconds + other.seconds,
            other.signal,
        )

    def count(self, status: Status) -> int:
        """Return the number of outcomes with a status."""
        return sum(outcome.status is status for outcome in self.outcomes)


def drive(
    jobs: Sequence[PathTasks],
    executor: Executor,
    stop: Stop,
    *,
    ledger: Ledger | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Batch:
    """Run the tasks of every PATH; a failure does not stop the others.

    Args:
        jobs: the PATHs. A PATH without checkpoints is a failed outcome.
        executor: runs the tasks.
        stop: checked before each task starts.
        ledger: the record of finished tasks, to read and to append to.
        progress: called with 1 whenever a task finishes.

    Raises:
        DestinationError: the ledger cannot be written.
    """
    start = time.perf_counter()
    found: dict[str, TaskOutcome] = {}

    def run(tasks: Sequence[Task], counted: Callable[[int], None]) -> None:
        if not tasks:
            return
        with contextlib.closing(executor(tasks, stop)) as outcomes:
            for task, outcome in outcomes:
                found[task.path] = outcome
                if ledger is not None and outcome.status is not Status.SKIPPED:
                    ledger.add(task, outcome)
                counted(1)

    for job in jobs:
        if job.group.error is not None:
            path = str(job.group.path)
            found[path] = _failed(path, job.group.error)
            progress(1)
    tasks = [task for job in jobs for task in job.tasks]
    if ledger is not None:
        tasks = [replace(task, earlier=ledger.earlier(task)) for task in tasks]
    run(tasks, progress)
    # A checkpoint that needs no migration is added to the new root only if others are in it.
    run([task for job in jobs for task in _left_out(job, found)], lambda _: None)
    made = [root for job in jobs for root in _finished(job, found)]
    order = [path for job in jobs for path in (str(job.group.path), *(t.path for t in job.tasks))]
    return Batch(
        outcomes=tuple(found[path] for path in dict.fromkeys(order) if path in found),
        not_started=tuple(task.path for task in tasks if task.path not in found),
        roots=tuple(made),
        seconds=time.perf_counter() - start,
        signal=stop.number,
    )


def _failed(path: str, error: CkptMigrateError) -> TaskOutcome:
    return TaskOutcome(path, Done(Status.FAILED, str(error)), error.as_json(), time=clock.now())


def _arrived(job: PathTasks, found: dict[str, TaskOutcome]) -> list[TaskOutcome]:
    """Return the outcomes with a checkpoint, written or planned, in the new root of a PATH."""
    outcomes = [found[task.path] for task in job.tasks if task.adds and task.path in found]
    return [each for each in outcomes if each.done.result]


def _ended(job: PathTasks, found: dict[str, TaskOutcome]) -> bool:
    return all(task.path in found for task in job.tasks)


def _left_out(job: PathTasks, found: dict[str, TaskOutcome]) -> list[Task]:
    """Return the tasks that created nothing in the new root, if other tasks did."""
    if not _arrived(job, found) or not _ended(job, found):
        return []
    return [
        replace(task, carry=True, earlier=None)
        for task in job.tasks
        if (outcome := found.get(task.path)) and outcome.status.good and outcome.done.result is None
    ]


def _finished(job: PathTasks, found: dict[str, TaskOutcome]) -> list[Root]:
    """Return the new root of a PATH; write its tracker file if all tasks have finished."""
    arrived = [each for each in _arrived(job, found) if each.status is not Status.PLANNED]
    if not arrived:
        return []
    root, group = place(str(job.tasks[0].root)), job.group
    made = Root(str(root), str(group.path), None)
    there = {
        t.name.partition("/")[0] for t in job.tasks if t.path in found and found[t.path].done.result
    }
    named = group.tracker is None or group.kind.directory_of(group.tracker) in there
    if not _ended(job, found) or not named:
        return [made]
    try:
        roots.complete(root, group)
    except CkptMigrateError as error:
        return [replace(made, error=error)]
    return [replace(made, tracker=group.tracker, use=group.job_options(root), whole=True)]

"""What one checkpoint is to have done, and what came of it: values that travel between processes.

Paths are strings here, and nothing of a checkpoint's content is in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from ckptmigrate import clock, reporting
from ckptmigrate.access import storage
from ckptmigrate.access.places import place
from ckptmigrate.checkpoint import nesting
from ckptmigrate.checkpoint.manifest import METADATA_FILES
from ckptmigrate.checkpoint.sidecar import digest_of
from ckptmigrate.errors import CkptMigrateError, of_system
from ckptmigrate.reporting.report import Report
from ckptmigrate.text.commands import command
from ckptmigrate.version import __version__

# Directory -> name of a small file in it -> its digest, None for no such file.
Digests = Mapping[str, Mapping[str, str | None]]


class Status(str, Enum):
    """What came of a checkpoint."""

    DONE = "done"
    UNCHANGED = "unchanged"  # nothing had to be done
    PLANNED = "planned"  # a dry run
    SKIPPED = "skipped"  # done by an earlier run, as the ledger says
    WANTING = "wanting"  # looked at, and found wanting
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # taken back half-way

    @property
    def good(self) -> bool:
        """Whether nothing is left to do."""
        return self not in (Status.WANTING, Status.FAILED, Status.INTERRUPTED)


@dataclass(frozen=True)
class Done:
    """What a verb did to one checkpoint.

    Attributes:
        status: what came of it.
        text: it in a few words.
        result: where the checkpoint is that came of it; None where nothing was written.
        tracker: the text of a tracker file that leads to it; None for a verb that makes no root.
        link: how payload got there.
        digests: what all this was found from and led to; see `believed`.
        detail: the JSON form of the verb, where it was asked for.
        report: the report about this checkpoint alone, where it was asked for.
    """

    status: Status
    text: str
    result: str | None = None
    tracker: str | None = None
    link: str | None = None
    digests: Digests = field(default_factory=dict)
    detail: Any = None
    report: Report | None = None


class Work(Protocol):
    """A verb with its options, as work on one checkpoint."""

    @property
    def verb(self) -> str:
        """Its name."""

    @property
    def target(self) -> str | None:
        """What it leads to, for the verbs that have a target."""

    def matters(self) -> dict[str, Any]:
        """The options that decide what comes of it, in JSON's types."""

    def do(self, task: Task) -> Done:
        """Do it.

        Raises:
            CkptMigrateError: it cannot be done; the checkpoint is as it was.
        """


@dataclass(frozen=True)
class Task:
    """One checkpoint, and what is to be done.

    Attributes:
        path: its directory.
        work: what is to be done.
        root: the root that a new checkpoint goes into; None where none is made.
        carry: whether it goes there even where nothing has to be changed in it.
        earlier: what an earlier run did, to be believed while the digests are the same.
        detail: whether the outcome is to have the JSON form of the verb.
        reported: whether it is to have a report about the checkpoint.
    """

    path: str
    work: Work
    root: str | None = None
    carry: bool = False
    earlier: Done | None = None
    detail: bool = False
    reported: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from every other task: the first keys of a row of the ledger."""
        return {
            "path": self.path,
            "verb": self.work.verb,
            "target": self.work.target,
            "into": self.root,
            "options": self.work.matters(),
        }

    def report(self, tell: Callable[[Report], Report]) -> Report | None:
        """The report about the checkpoint, where there is to be one.

        Args:
            tell: adds what there is to tell to a report that has nothing to tell yet.
        """
        if not self.reported:
            return None
        return tell(reporting.building.begun(self.work.verb, [self.path]))


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    Attributes:
        path: the checkpoint.
        done: what was done; its status alone where there is an error.
        error: the JSON form of the error, or None.
        transient: whether the same may work if it is tried again at once.
        time: when it began, ISO 8601 in UTC.
        seconds: how long it took.
    """

    path: str
    done: Done
    error: Mapping[str, Any] | None = None
    transient: bool = False
    time: str = ""
    seconds: float = 0.0

    @property
    def status(self) -> Status:
        """What came of it."""
        return self.done.status

    def as_json(self) -> dict[str, Any]:
        """The documented JSON form (docs/many.md); the last keys of a row of the ledger."""
        found: dict[str, Any] = {
            "path": self.path,
            "status": self.status.value,
            "text": self.done.text,
            "result": self.done.result,
            "tracker": self.done.tracker,
            "link": self.done.link,
            "digests": self.done.digests,
            "error": self.error,
            "time": self.time,
            "seconds": round(self.seconds, 4),
            "version": __version__,
        }
        return found if self.done.detail is None else {**found, "detail": self.done.detail}


def perform(task: Task) -> Outcome:
    """Do what a task says. An error is an outcome; only what stops the process is raised."""
    began, start = clock.now(), time.perf_counter()
    error: Exception | None = None
    try:
        if task.earlier is not None and believed(task.earlier.digests):
            done = task.earlier
        else:
            done = task.work.do(task)
    except Exception as found:
        error, done = found, Done(Status.FAILED, "")
    seconds = time.perf_counter() - start
    if error is None:
        return Outcome(task.path, done, time=began, seconds=seconds)
    told = in_words(error, task.path)
    transient = any(isinstance(e, OSError | MemoryError) for e in (error, error.__cause__))
    return Outcome(
        task.path, Done(Status.FAILED, str(told)), told.as_json(), transient, began, seconds
    )


def failed(task: Task, error: CkptMigrateError, status: Status = Status.FAILED) -> Outcome:
    """The outcome of a task that could not be performed to its end."""
    return Outcome(task.path, Done(status, str(error)), error.as_json(), time=clock.now())


def checked(task: Task, found: object) -> Outcome:
    """What came of a task, as another process says; refused where it is not about the task."""
    if isinstance(found, Outcome) and found.path == task.path:
        return found
    return failed(
        task,
        CkptMigrateError(
            f"what was to perform it answered with {type(found).__name__} about "
            f"{getattr(found, 'path', 'nothing')}",
            path=task.path,
            fix="make sure that every process has the same ckptmigrate, and run it again",
        ),
    )


def died(task: Task, how: str) -> Outcome:
    """The outcome of a task whose process was gone before the end of it."""
    again = "run it again"
    if task.work.verb in ("upgrade", "downgrade", "repair", "undo"):
        again = f"make it whole with `{command('recover', task.root or task.path)}`, then {again}"
    reason = f"the process that was at work on it {how}"
    return failed(task, CkptMigrateError(reason, path=task.path, fix=again))


def interrupted(task: Task) -> Outcome:
    """The outcome of a task that was stopped, and had taken back what it had begun."""
    error = CkptMigrateError("interrupted; what was incomplete was undone", path=task.path)
    return failed(task, error, Status.INTERRUPTED)


def in_words(error: Exception, path: str) -> CkptMigrateError:
    """Any error as one of ours."""
    if isinstance(error, CkptMigrateError):
        return error
    if isinstance(error, OSError):
        return of_system(error, path)
    if isinstance(error, MemoryError):
        return CkptMigrateError("the memory does not suffice for it", path=path)
    return CkptMigrateError(f"internal error ({type(error).__name__}: {error})", path=path)


def believed(digests: Digests) -> bool:
    """Whether every small file still is what it was when an earlier run was done with it."""
    try:
        return all(digests_of(path, names) == names for path, names in digests.items())
    except (CkptMigrateError, OSError, ValueError):  # a name that no file can have
        return False


def digests_of(path: str, names: Mapping[str, Any] | None = None) -> dict[str, str | None]:
    """The digests of small files of a checkpoint: those named, or those of its metadata and of the
    checkpoints in it."""
    directory = storage.directory(place(path))
    if names is None:
        folders = [f"{folder}/" for folder, _ in nesting.nested(directory)]
        names = {f"{start}{name}": None for start in ("", *folders) for name in METADATA_FILES}
    return {name: digest_of(directory, name) for name in names}

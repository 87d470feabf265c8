"""Tasks and outcomes: values that are sent between processes, for one checkpoint each.

Paths are strings here. No value contains any content of a checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from ckptmigrate import clock, report
from ckptmigrate.checkpoint import nested
from ckptmigrate.checkpoint.manifest import METADATA_FILES
from ckptmigrate.checkpoint.sidecar import digest_of
from ckptmigrate.errors import CkptMigrateError, of_system
from ckptmigrate.report.document import Report
from ckptmigrate.storage import directories
from ckptmigrate.storage.urls import place
from ckptmigrate.text.commands import command
from ckptmigrate.version import __version__

# Directory -> name of a metadata file in it -> its hash, None if the file does not exist.
Digests = Mapping[str, Mapping[str, str | None]]


class Status(str, Enum):
    """The status of a task."""

    DONE = "done"
    UNCHANGED = "unchanged"  # nothing had to be done
    PLANNED = "planned"  # a dry run
    SKIPPED = "skipped"  # finished by an earlier run, according to the ledger
    WANTING = "wanting"  # problems found
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # rolled back

    @property
    def good(self) -> bool:
        """Return whether the task succeeded."""
        return self not in (Status.WANTING, Status.FAILED, Status.INTERRUPTED)


@dataclass(frozen=True)
class Done:
    """The result of a command on one checkpoint.

    Attributes:
        status: the status.
        text: a summary in a few words.
        result: the path of the resulting checkpoint; None if nothing was written.
        tracker: the text of a tracker file that names `result`; None for a command that creates no
            root.
        link: how the data files were brought to `result`.
        digests: the hashes of the metadata files read and written; see `believed`.
        detail: the JSON form of the command's result, if requested.
        report: the report about this checkpoint, if requested.
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
    """The interface of a command with its options, as work on one checkpoint."""

    @property
    def verb(self) -> str:
        """Return the name of the command."""

    @property
    def target(self) -> str | None:
        """Return the target, or None for a command without one."""

    def matters(self) -> dict[str, Any]:
        """Return the options that affect the result, as JSON types."""

    def do(self, task: Task) -> Done:
        """Perform the work on a checkpoint.

        Raises:
            CkptMigrateError: the work failed; the checkpoint is unchanged.
        """


@dataclass(frozen=True)
class Task:
    """One checkpoint and the work to perform on it.

    Attributes:
        path: the directory of the checkpoint.
        work: the work to perform.
        root: the root for a new checkpoint; None if no root is created.
        carry: whether to create a checkpoint in `root` even if nothing has to change in it.
        earlier: the result of an earlier run, which is valid while its hashes match.
        detail: whether to add the JSON form of the command's result to the outcome.
        reported: whether to add a report about the checkpoint to the outcome.
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
        """Return the keys that identify a task; they are the first keys of a ledger line."""
        return {
            "path": self.path,
            "verb": self.work.verb,
            "target": self.work.target,
            "into": self.root,
            "options": self.work.matters(),
        }

    def report(self, tell: Callable[[Report], Report]) -> Report | None:
        """Return the report about the checkpoint, or None if not requested.

        Args:
            tell: fills in an empty report.
        """
        if not self.reported:
            return None
        return tell(report.build.begun(self.work.verb, [self.path]))


@dataclass(frozen=True)
class Outcome:
    """The outcome of a task.

    Attributes:
        path: the checkpoint.
        done: the result; after an error, only its status and text are set.
        error: the JSON form of the error, or None.
        transient: whether an immediate retry may succeed.
        time: when the task started, ISO 8601 in UTC.
        seconds: the duration.
    """

    path: str
    done: Done
    error: Mapping[str, Any] | None = None
    transient: bool = False
    time: str = ""
    seconds: float = 0.0

    @property
    def status(self) -> Status:
        """Return the status of the result."""
        return self.done.status

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/many.md), the last keys of a ledger line."""
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
    """Perform a task and return its outcome, also after an error; raise only BaseExceptions."""
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
    """Return the outcome of a task that failed."""
    return Outcome(task.path, Done(status, str(error)), error.as_json(), time=clock.now())


def checked(task: Task, found: object) -> Outcome:
    """Return the outcome that another process sent; a failure if it does not match the task."""
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
    """Return the outcome of a task whose process ended during the task."""
    again = "run it again"
    if task.work.verb in ("upgrade", "downgrade", "repair", "undo"):
        again = f"make it whole with `{command('recover', task.root or task.path)}`, then {again}"
    reason = f"the process that was at work on it {how}"
    return failed(task, CkptMigrateError(reason, path=task.path, fix=again))


def interrupted(task: Task) -> Outcome:
    """Return the outcome of a task that was stopped and rolled back."""
    error = CkptMigrateError("interrupted; what was incomplete was undone", path=task.path)
    return failed(task, error, Status.INTERRUPTED)


def in_words(error: Exception, path: str) -> CkptMigrateError:
    """Wrap any exception in a CkptMigrateError."""
    if isinstance(error, CkptMigrateError):
        return error
    if isinstance(error, OSError):
        return of_system(error, path)
    if isinstance(error, MemoryError):
        return CkptMigrateError("the memory does not suffice for it", path=path)
    return CkptMigrateError(f"internal error ({type(error).__name__}: {error})", path=path)


def believed(digests: Digests) -> bool:
    """Return whether every metadata file still has the hash that an earlier run recorded."""
    try:
        return all(digests_of(path, names) == names for path, names in digests.items())
    except (CkptMigrateError, OSError, ValueError):  # ValueError: not a possible file name
        return False


def digests_of(path: str, names: Mapping[str, Any] | None = None) -> dict[str, str | None]:
    """Return the hashes of metadata files of a checkpoint: those in `names`, else all metadata
    files of the checkpoint and of those nested in it."""
    directory = directories.directory(place(path))
    if names is None:
        starts = [start for start, _ in nested.parts(directory)]
        names = {f"{start}{name}": None for start in starts for name in METADATA_FILES}
    return {name: digest_of(directory, name) for name in names}

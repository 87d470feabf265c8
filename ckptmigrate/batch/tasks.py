"""Tasks and outcomes: values that are sent between processes, for one checkpoint each.

Paths are strings here. No value contains any content of a checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ckptmigrate import clock
from ckptmigrate.errors import CkptMigrateError, wrapped
from ckptmigrate.report.document import Document
from ckptmigrate.storage.urls import place
from ckptmigrate.text.commands import command
from ckptmigrate.verbs.migrate import MigrationRequest
from ckptmigrate.verbs.result import (
    CHANGING,
    Digests,
    Result,
    Status,
    VerbRequest,
    digests_of,
)
from ckptmigrate.version import __version__


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
        digests: the hashes of the metadata files read and written; see `is_current`.
        detail: the JSON form of the command's result, if requested.
        document: the document of the command, if requested.
    """

    status: Status
    text: str
    result: str | None = None
    tracker: str | None = None
    link: str | None = None
    digests: Digests = field(default_factory=dict)
    detail: Any = None
    document: Document | None = None


@dataclass(frozen=True)
class Task:
    """One checkpoint and what to do with it.

    Attributes:
        path: the directory of the checkpoint.
        request: the command and its options.
        root: the root for a new checkpoint; None if no root is created.
        name: the path of the new checkpoint in `root`.
        carry: whether to create a checkpoint in `root` even if nothing has to change in it.
        earlier: the result of an earlier run, which is valid while its hashes match.
        detail: whether to add the JSON form of the command's result to the outcome.
        reported: whether to add the document of the command to the outcome.
    """

    path: str
    request: VerbRequest
    root: str | None = None
    name: str = ""
    carry: bool = False
    earlier: Done | None = None
    detail: bool = False
    reported: bool = False

    @property
    def adds(self) -> bool:
        """Return whether the task adds a checkpoint to a root, which other tasks add to as well."""
        return self.root is not None and isinstance(self.request, MigrationRequest)

    @property
    def identity(self) -> dict[str, Any]:
        """Return the keys that identify a task; they are the first keys of a ledger line."""
        return {
            "path": self.path,
            "verb": self.request.verb,
            "target": self.request.target,
            "into": self.root,
            "options": self.request.options(),
        }


@dataclass(frozen=True)
class TaskOutcome:
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


def perform(task: Task) -> TaskOutcome:
    """Perform a task and return its outcome, also after an error; raise only BaseExceptions."""
    began, start = clock.now(), time.perf_counter()
    error: Exception | None = None
    try:
        if task.earlier is not None and is_current(task.earlier.digests):
            done = task.earlier
        else:
            done = _done(task)
    except Exception as found:
        error, done = found, Done(Status.FAILED, "")
    seconds = time.perf_counter() - start
    if error is None:
        return TaskOutcome(task.path, done, time=began, seconds=seconds)
    failure = wrapped(error, task.path)
    transient = any(isinstance(e, OSError | MemoryError) for e in (error, error.__cause__))
    return TaskOutcome(
        task.path, Done(Status.FAILED, str(failure)), failure.as_json(), transient, began, seconds
    )


def _done(task: Task) -> Done:
    path = place(task.path)
    result: Result
    if task.root is not None and isinstance(task.request, MigrationRequest):
        root = place(task.root)
        result = task.request.add(path, root, task.name, always=task.carry, reported=task.reported)
    else:
        result = task.request.run(path, reported=task.reported)
    written = result.written
    return Done(
        result.status,
        result.text,
        None if written.path is None else str(written.path),
        written.tracker,
        None if written.link is None else written.link.value,
        result.digests,
        result.as_json() if task.detail else None,
        result.document() if task.reported else None,
    )


def failed(task: Task, error: CkptMigrateError, status: Status = Status.FAILED) -> TaskOutcome:
    """Return the outcome of a task that failed."""
    return TaskOutcome(task.path, Done(status, str(error)), error.as_json(), time=clock.now())


def checked(task: Task, found: object) -> TaskOutcome:
    """Return the outcome that another process sent; a failure if it does not match the task."""
    if isinstance(found, TaskOutcome) and found.path == task.path:
        return found
    return failed(
        task,
        CkptMigrateError(
            f"the worker answered with {type(found).__name__} about "
            f"{getattr(found, 'path', 'nothing')}",
            path=task.path,
            fix="make sure that every process has the same ckptmigrate, and run it again",
        ),
    )


def ended(task: Task, how: str) -> TaskOutcome:
    """Return the outcome of a task whose process ended during the task."""
    again = "run it again"
    if task.request.verb in CHANGING:
        again = f"recover it with `{command('recover', task.root or task.path)}`, then {again}"
    reason = f"the process that ran it {how}"
    return failed(task, CkptMigrateError(reason, path=task.path, fix=again))


def interrupted(task: Task) -> TaskOutcome:
    """Return the outcome of a task that was stopped and rolled back."""
    error = CkptMigrateError("interrupted; unfinished work was rolled back", path=task.path)
    return failed(task, error, Status.INTERRUPTED)


def is_current(digests: Digests) -> bool:
    """Return whether every metadata file still has the hash that an earlier run recorded."""
    try:
        return all(digests_of(place(path), names) == names for path, names in digests.items())
    except (CkptMigrateError, OSError, ValueError):  # ValueError: not a possible file name
        return False

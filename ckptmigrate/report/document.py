"""A report: the facts and the result of one command, independent of the output format."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Outcome(str, Enum):
    """How a command ended.

    done: it wrote what it planned. planned: a dry run. unchanged: there was nothing to write.
    passed, failed: the result of a command that only reads. incomplete: checkpoints of a batch are
    not finished. refused: an error with its fix.
    """

    DONE = "done"
    PLANNED = "planned"
    UNCHANGED = "unchanged"
    PASSED = "passed"
    FAILED = "failed"
    INCOMPLETE = "incomplete"
    REFUSED = "refused"


@dataclass(frozen=True)
class Facts:
    """The facts of a checkpoint before a change: label -> lines."""

    path: str
    facts: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class FileChange:
    """A metadata file that changes.

    Attributes:
        name: the path in the checkpoint.
        bytes: its new size, or None if the file is removed.
        before, after: its SHA-256 hash in hex, or None if the file does not exist.
    """

    name: str
    bytes: int | None
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Loss:
    """A data loss that the user allowed and that happens, with its meaning."""

    name: str
    meaning: str


@dataclass(frozen=True)
class Change:
    """The change of one checkpoint.

    Attributes:
        path, result: the checkpoint, and its path after the change.
        source: the layouts that it may have before the change.
        target, layout: the requested target, and the layout after the change.
        differences: changes of the content, as lines of a diff.
        files: the metadata files that change.
        losses, notes: the data losses, and notes for the user.
        payload_files, payload_bytes: number and size of the data files, which do not change.
    """

    path: str
    result: str
    source: tuple[str, ...]
    target: str
    layout: str
    differences: tuple[str, ...]
    files: tuple[FileChange, ...]
    losses: tuple[Loss, ...]
    notes: tuple[str, ...]
    payload_files: int
    payload_bytes: int


@dataclass(frozen=True)
class Reason:
    """A reason why a job cannot resume: the error, why it is raised, the flag that avoids it."""

    error: str
    why: str
    flag: str | None


@dataclass(frozen=True)
class Prediction:
    """The prediction whether a job of a release resumes from the checkpoint at `path`."""

    path: str
    release: str
    torch: str
    resumes: bool
    without: tuple[str, ...]
    warnings: tuple[str, ...]
    depends: tuple[str, ...]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Problem:
    """A problem that `verify` reports; its severity is error, warning or note."""

    severity: str
    code: str
    path: str
    what: str
    items: tuple[str, ...]
    meaning: str
    remedy: str


@dataclass(frozen=True)
class Refusal:
    """An error: what is wrong, the path, and the fix."""

    kind: str
    path: str | None
    reason: str
    fix: str | None


@dataclass(frozen=True)
class Step:
    """A command or flags of the job, for: `use`, `undo`, `fix`, `ask`, `job` or `go-on`."""

    purpose: str
    command: str


@dataclass(frozen=True)
class Member:
    """The result of one checkpoint of a batch, or of a PATH without checkpoints.

    Attributes:
        path: the checkpoint.
        status: the status in the batch, such as `done` or `not begun`.
        good: whether no work is left.
        text: what was done or found, in a few words.
        result: the path of the result, or None if nothing was written.
        refusal: the error of the checkpoint, or None.
        steps: the next steps.
    """

    path: str
    status: str
    good: bool
    text: str
    result: str | None
    refusal: Refusal | None
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Report:
    """The content of a report.

    Attributes:
        verb, paths: the command and its PATHs, absolute.
        version, time: the ckptmigrate version, and the time in ISO 8601, UTC.
        outcome, answer: the result as a word and as a sentence.
        each: the checkpoints of a batch with their results.
        found: the facts of each checkpoint.
        changes: the changes of each checkpoint.
        predictions: the result of `check`.
        problems: the result of `verify`.
        refusal: the error that ended the command, or None.
        steps: the next steps.
        cautions: the warnings.
    """

    verb: str
    paths: tuple[str, ...]
    version: str
    time: str
    outcome: Outcome
    answer: str
    each: tuple[Member, ...] = ()
    found: tuple[Facts, ...] = ()
    changes: tuple[Change, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    problems: tuple[Problem, ...] = ()
    refusal: Refusal | None = None
    steps: tuple[Step, ...] = ()
    cautions: tuple[str, ...] = ()

    @property
    def about(self) -> str:
        """Return the PATHs in a form that is short enough for a heading."""
        more = len(self.paths) - 1
        return f"{self.paths[0]} and {more} more" if more else self.paths[0]

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (`ckptmigrate schema report`)."""
        return {**asdict(self), "outcome": self.outcome.value}

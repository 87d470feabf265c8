"""A report: one neutral value of what a verb found and did, whatever it is shown as."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Outcome(str, Enum):
    """How a verb ended.

    done: it wrote what it planned. planned: a dry run. unchanged: there was nothing to write.
    passed, failed: what a verb that only looks says. incomplete: of a batch something is left to
    do. refused: an error, and its fix.
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
    """What was found at a place before anything was changed: label -> lines."""

    path: str
    facts: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class FileChange:
    """A small file that changes.

    Attributes:
        name: relative to the checkpoint.
        bytes: its new size, or None where it goes.
        before, after: SHA-256 in hex, or None where there is no such file.
    """

    name: str
    bytes: int | None
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Loss:
    """A loss that was allowed and happens, and what it means."""

    name: str
    meaning: str


@dataclass(frozen=True)
class Change:
    """What happens to one checkpoint.

    Attributes:
        path, result: the checkpoint, and where it stands afterwards.
        source: the layouts that it may have had.
        target, layout: what was asked for, and the layout afterwards.
        differences: what changes in meaning, lines of a diff.
        files: the small files that change.
        losses, notes: what is lost, and what the user should know.
        payload_files, payload_bytes: the payload, which is not touched.
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
    """Why a job does not resume: the error that it dies with, why, and the flag around it."""

    error: str
    why: str
    flag: str | None


@dataclass(frozen=True)
class Prediction:
    """Whether a job of a release resumes from the checkpoint at `path`."""

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
    """A finding of `verify`; severity is error, warning or note."""

    severity: str
    code: str
    path: str
    what: str
    items: tuple[str, ...]
    meaning: str
    remedy: str


@dataclass(frozen=True)
class Refusal:
    """An error: what is wrong, where, and what to do."""

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
    """One checkpoint of a batch (or a PATH that means none), and what it came to.

    Attributes:
        path: the checkpoint.
        status: as the batch says it, such as `done` or `not begun`.
        good: whether nothing is left to do.
        text: what was done, or found, in a few words.
        result: where the checkpoint is that came of it; None where nothing was written.
        refusal: the error that it ended with, or None.
        steps: what to do about it.
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
    """All that is told.

    Attributes:
        verb, paths: what was asked, the paths absolute.
        version, time: of ckptmigrate, and when, ISO 8601 in UTC.
        outcome, answer: how it ended, in a word and in a sentence.
        each: of a batch, what each checkpoint came to.
        found: what was found, a row per checkpoint.
        changes: what changes, a row per checkpoint.
        predictions: of `check`.
        problems: of `verify`.
        refusal: the error that ended it, or None.
        steps: what to do next.
        cautions: what to beware of.
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
        """What was asked about, short enough for a heading."""
        more = len(self.paths) - 1
        return f"{self.paths[0]} and {more} more" if more else self.paths[0]

    def as_json(self) -> dict[str, Any]:
        """The documented JSON form (`ckptmigrate schema report`)."""
        return {**asdict(self), "outcome": self.outcome.value}

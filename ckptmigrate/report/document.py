"""The document of a command: its facts and result, independent of the output format."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptmigrate.checks.findings import Finding
    from ckptmigrate.releases.prediction import Verdict


class CommandOutcome(str, Enum):
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
    facts: Mapping[str, tuple[str, ...]]


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
class AllowedLoss:
    """A data loss that the user allowed and that happens, with its meaning."""

    name: str
    meaning: str


@dataclass(frozen=True)
class CheckpointChange:
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
    losses: tuple[AllowedLoss, ...]
    notes: tuple[str, ...]
    payload_files: int
    payload_bytes: int


@dataclass(frozen=True)
class Predicted:
    """The prediction whether a job of a release resumes from the checkpoint at `path`."""

    path: str
    verdict: Verdict


@dataclass(frozen=True)
class Refusal:
    """An error: what is wrong, the path, and the fix."""

    kind: str
    path: str | None
    reason: str
    fix: str | None


@dataclass(frozen=True)
class NextStep:
    """A command or flags of the job, for: `use`, `undo`, `redo`, `fix`, `ask`, `job`, `resume`."""

    purpose: str
    command: str


@dataclass(frozen=True)
class Member:
    """The result of one checkpoint of a batch, or of a PATH without checkpoints.

    Attributes:
        path: the checkpoint.
        status: the status in the batch, such as `done` or `not started`.
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
    steps: tuple[NextStep, ...]


@dataclass(frozen=True)
class Document:
    """The content of a report, and of what a command prints.

    Attributes:
        outcome, answer: the result as a word and as a sentence.
        each: the checkpoints of a batch with their results.
        found: the facts of each checkpoint.
        changes: the changes of each checkpoint.
        predictions: the result of `check`.
        problems: the result of `verify`.
        refusal: the error that ended the command, or None.
        steps: the next steps.
        warnings: the warnings.
    """

    outcome: CommandOutcome
    answer: str
    each: tuple[Member, ...] = ()
    found: tuple[Facts, ...] = ()
    changes: tuple[CheckpointChange, ...] = ()
    predictions: tuple[Predicted, ...] = ()
    problems: tuple[Finding, ...] = ()
    refusal: Refusal | None = None
    steps: tuple[NextStep, ...] = ()
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form, the last keys of a report."""
        plain = asdict(replace(self, predictions=(), problems=()))
        return {
            **plain,
            "outcome": self.outcome.value,
            "predictions": [
                {"path": each.path, **each.verdict.as_json()} for each in self.predictions
            ],
            "problems": [each.as_json() for each in self.problems],
        }


@dataclass(frozen=True)
class Report:
    """A document with the command that it is about, as `--report FILE` writes it.

    Attributes:
        verb, paths: the command and its PATHs, absolute.
        version, time: the ckptmigrate version, and the time in ISO 8601, UTC.
        document: the facts and the result.
    """

    verb: str
    paths: tuple[str, ...]
    version: str
    time: str
    document: Document

    @property
    def about(self) -> str:
        """Return the PATHs in a form that is short enough for a heading."""
        more = len(self.paths) - 1
        return f"{self.paths[0]} and {more} more" if more else self.paths[0]

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (`ckptmigrate schema report`)."""
        about = {"verb": self.verb, "paths": list(self.paths)}
        return {**about, "version": self.version, "time": self.time, **self.document.as_json()}

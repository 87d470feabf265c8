"""The result of a batch as a document and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ckptmigrate.batch.drive import Batch, Root
from ckptmigrate.batch.tasks import TaskOutcome
from ckptmigrate.report.document import CommandOutcome, Document, Member, NextStep, Refusal
from ckptmigrate.storage.urls import place
from ckptmigrate.text.commands import command, removal
from ckptmigrate.text.printable import counted
from ckptmigrate.verbs.changes import WARNINGS
from ckptmigrate.verbs.result import CHANGING, Status

_FOR_GOOD: Final = (  # the first status that any checkpoint has
    (Status.PLANNED, CommandOutcome.PLANNED),
    (Status.DONE, CommandOutcome.DONE),
)


def document(found: Batch, verb: str, resume: str | None) -> Document:
    """Return the document of a batch.

    Args:
        resume: the command that resumes the batch, or None if the command has no ledger.
    """
    parts = [each.done.document for each in found.outcomes if each.done.document is not None]
    return Document(
        outcome=_outcome(found, verb),
        answer=_answer(found),
        each=(*map(_member, found.outcomes), *map(_not_started, found.not_started)),
        found=tuple(row for each in parts for row in each.found),
        changes=tuple(row for each in parts for row in each.changes),
        predictions=tuple(row for each in parts for row in each.predictions),
        problems=tuple(row for each in parts for row in each.problems),
        steps=tuple(_steps(found, verb, resume)),
        warnings=tuple(_warnings(found)),
    )


def as_json(found: Batch, verb: str, resume: str | None) -> dict[str, Any]:
    """Return the documented JSON form (docs/many.md)."""
    return {
        "verb": verb,
        "good": found.good,
        "summary": {
            "total": found.total,
            **{status.value: found.count(status) for status in Status},
            "not_started": len(found.not_started),
        },
        "seconds": round(found.seconds, 3),
        "signal": found.signal,
        "resume": None if found.good else resume,
        "undo": _undo(found, verb),
        "roots": [root.as_json() for root in found.roots],
        "checkpoints": [outcome.as_json() for outcome in found.outcomes],
        "not_started": list(found.not_started),
    }


def unfinished(found: Batch, resume: str | None) -> str | None:
    """Return the sentence for stderr, or None.

    None if every checkpoint is finished, although a check may have found problems.
    """
    left = [outcome for outcome in found.outcomes if not outcome.status.good]
    failed = [outcome for outcome in left if outcome.status is not Status.PROBLEMS]
    hint = f"; resume with `{resume}`" if resume else ""
    if found.signal is not None:
        ended = found.total - len(found.not_started) - found.count(Status.INTERRUPTED)
        what = "running tasks were finished or rolled back"
        return f"interrupted after {ended} of {found.total} checkpoints; {what}{hint}"
    if failed:
        total = counted(found.total, "checkpoint")
        if resume and not all(each.transient for each in failed):
            # Running the same command again does not help before the cause is fixed.
            hint = f"; fix what each line says, then resume with `{resume}`"
        return f"{len(failed)} of {total} failed, first {failed[0].path}{hint}"
    if found.not_started:
        what = f"the results of {len(found.not_started)} of {found.total} are unknown"
        return f"the Dask scheduler was lost; {what}{hint}"
    return next((str(root.error) for root in found.roots if root.error is not None), None)


def _answer(found: Batch) -> str:
    """Return the number of checkpoints by status, and the duration."""
    words = {Status.PROBLEMS: "with problems"}
    counts = [f"{n} {words.get(s, s.value)}" for s in Status if (n := found.count(s))]
    counts += [f"{len(found.not_started)} not started"] if found.not_started else []
    total = counted(found.total, "checkpoint")
    return f"{total}: {', '.join(counts) or 'nothing to do'}, in {found.seconds:.1f} s"


def _outcome(found: Batch, verb: str) -> CommandOutcome:
    if verb not in CHANGING:
        return CommandOutcome.PASSED if found.good else CommandOutcome.FAILED
    if not found.good:
        return CommandOutcome.INCOMPLETE
    for_good = (to for status, to in _FOR_GOOD if found.count(status))
    return next(for_good, CommandOutcome.UNCHANGED)


def _member(ended: TaskOutcome) -> Member:
    done, error = ended.done, ended.error
    refusal = None
    if error is not None:
        refusal = Refusal(error["kind"], error.get("path"), error["reason"], error.get("fix"))
    steps = () if done.document is None or ended.status.good else done.document.steps
    good = ended.status.good
    return Member(ended.path, ended.status.value, good, done.text, done.result, refusal, steps)


def _not_started(path: str) -> Member:
    return Member(path, "not started", False, "", None, None, ())


def _steps(found: Batch, verb: str, resume: str | None) -> Iterator[NextStep]:
    if resume is not None and not found.good:
        yield NextStep("resume", resume)
    for each in _undo(found, verb):
        yield NextStep("undo", each)
    for root in found.roots:
        if root.use is not None:
            yield NextStep("use", root.use)


def _undo(found: Batch, verb: str) -> list[str]:
    """Return the commands that undo this run."""
    if verb not in CHANGING or verb == "undo":
        return []
    done = [each for each in found.outcomes if each.status is Status.DONE and each.done.result]
    here = [each.path for each in done if each.done.result == each.path]
    made = [root.path for root in found.roots]
    if not made:  # each task of `repair` creates its own root
        made = [str(each.done.result) for each in done if each.done.result != each.path]
    removed = [removal(place(root), "-r") for root in made]
    return removed + ([command("undo", *here)] if here else [])


def _warnings(found: Batch) -> Iterator[str]:
    for root in found.roots:
        if not root.whole:
            yield f"{root.path} has no tracker file yet: {_missing(root)}"
    used = {outcome.done.link for outcome in found.outcomes}
    yield from (text for link, text in WARNINGS.items() if link in used)


def _missing(root: Root) -> str:
    """Return why a new root has no tracker file."""
    return root.error.reason if root.error else "the iteration that it names is not there"

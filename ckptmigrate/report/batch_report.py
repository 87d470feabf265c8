"""The report of a batch: the status of each checkpoint, then the details of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from ckptmigrate.batch import summary
from ckptmigrate.batch.drive import Batch
from ckptmigrate.batch.tasks import Outcome as Ended
from ckptmigrate.batch.tasks import Status
from ckptmigrate.report.document import Member, Outcome, Refusal, Report, Step
from ckptmigrate.storage.urls import place
from ckptmigrate.text.commands import load

_FOR_GOOD: Final = (  # the first status that any checkpoint has
    (Status.PLANNED, Outcome.PLANNED),
    (Status.DONE, Outcome.DONE),
)


def of_batch(report: Report, found: Batch, verb: str, again: str | None) -> Report:
    """Return the report of a batch.

    Args:
        again: the command that resumes the batch, or None if the command has no ledger.
    """
    reports = [each.done.report for each in found.outcomes if each.done.report is not None]
    return replace(
        report,
        outcome=_outcome(found, verb),
        answer=f"{summary.summary(found)}.",
        each=(*map(_member, found.outcomes), *map(_not_begun, found.not_begun)),
        found=tuple(row for each in reports for row in each.found),
        changes=tuple(row for each in reports for row in each.changes),
        predictions=tuple(row for each in reports for row in each.predictions),
        problems=tuple(row for each in reports for row in each.problems),
        steps=tuple(_steps(found, verb, again)),
        cautions=tuple(_cautions(found)),
    )


def _outcome(found: Batch, verb: str) -> Outcome:
    looks = verb not in (*summary.REWRITING, "undo")
    if looks:
        return Outcome.PASSED if found.good else Outcome.FAILED
    if not found.good:
        return Outcome.INCOMPLETE
    return next((to for status, to in _FOR_GOOD if found.count(status)), Outcome.UNCHANGED)


def _member(ended: Ended) -> Member:
    done = ended.done
    about = () if done.report is None or ended.status.good else done.report.steps
    return Member(
        ended.path,
        ended.status.value,
        ended.status.good,
        "" if ended.error else done.text,
        done.result,
        None if ended.error is None else _refusal(ended.error),
        about,
    )


def _refusal(error: Mapping[str, Any]) -> Refusal:
    return Refusal(error["kind"], error.get("path"), error["reason"], error.get("fix"))


def _not_begun(path: str) -> Member:
    return Member(path, "not begun", False, "The run was stopped before.", None, None, ())


def _steps(found: Batch, verb: str, again: str | None) -> Iterator[Step]:
    if again is not None and not found.good:
        yield Step("go-on", again)
    for root in found.roots:
        use = load(place(root.path))
        if root.tracker is not None and use is not None:
            yield Step("use", use)
    for each in summary.undo(found, verb):
        yield Step("undo", each)


def _cautions(found: Batch) -> Iterator[str]:
    for root in found.roots:
        if root.tracker is None:
            yield f"{root.path} has no tracker file yet: {summary.root_without_tracker(root)}."
    yield from (f"{text.capitalize()}." for text in summary.cautions(found))

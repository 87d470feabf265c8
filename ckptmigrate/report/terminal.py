"""A document as lines for a terminal: the answer, the reasons, then the next commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ckptmigrate.report.document import (
    CheckpointChange,
    CommandOutcome,
    Document,
    Member,
    NextStep,
    Predicted,
)
from ckptmigrate.text.lines import Line
from ckptmigrate.text.sizes import data_files, size

_MOST_LINES: Final = 40  # of one list; the number of the others is printed
_MOST_ITEMS: Final = 8  # of one problem
COLUMN: Final = 13  # width of the label column
_SIGNS: Final = {"+": "green", "-": "red", "~": "yellow"}
_SEVERITIES: Final = {"error": "red", "warning": "yellow", "note": "cyan"}
_STATUSES: Final = {
    "ok": "green",
    "done": "green",
    "unchanged": "green",
    "planned": "green",
    "problems": "yellow",
    "failed": "red",
    "interrupted": "yellow",
}
_STEPS: Final = {
    "use": "next: run the job with ",
    "undo": "to undo: ",
    "redo": "to redo: ",
    "fix": "fix: ",
    "job": "then: run the job with ",
}


def lines(
    document: Document, *, full: bool = False, facts: bool = False, changes: bool = False
) -> list[Line]:
    """Return the lines of a document.

    Args:
        full: whether to print long lists in full, and evidence.
        facts: whether to print the facts of the checkpoints.
        changes: whether to print the changes of a migration that is carried out, too.
    """
    if document.each:
        return [*_batch(document), *_end(document)]
    shown = [Line(document.answer, hang=2, style="bold")]
    if facts:
        shown += _facts(document, full=full)
    if len(document.predictions) == 1:
        shown += _prediction(document.predictions[0])
    else:
        shown += _predictions(document.predictions)
    shown += _problems(document, full=full)
    for each in document.changes:
        if changes or document.outcome is CommandOutcome.PLANNED:
            shown += _change(each, full=full)
        shown += [
            Line(f"{loss.name}: {loss.meaning}", "data loss: ", 2, style="yellow")
            for loss in each.losses
        ]
        shown += [Line(note, "note: ", 2) for note in each.notes]
    return [*shown, *_end(document)]


def cut(lines: list[Line], *, full: bool, most: int = _MOST_LINES, margin: int = 2) -> list[Line]:
    """Return the first lines of a long list and the number of the others."""
    if full or len(lines) <= most:
        return lines
    return [*lines[:most], Line(f"... and {len(lines) - most} more (--full shows all)", "", margin)]


def labelled(label: str, values: Iterable[str]) -> Iterator[Line]:
    """Yield lines with a label before the first one."""
    for number, value in enumerate(values):
        yield Line(value, f"{'' if number else label:{COLUMN}}", margin=2, hang=COLUMN + 2)


def change(text: str, *, margin: int = 2) -> Line:
    """Return a line of a diff, which starts with `+`, `-` or `~`."""
    return Line(text, margin=margin, hang=4, style=_SIGNS[text[0]])


def _facts(document: Document, *, full: bool) -> Iterator[Line]:
    for each in document.found:
        for label, values in each.facts.items():
            if full or label != "evidence":
                yield from cut(list(labelled(label, values)), full=full, margin=2 + COLUMN)


def _prediction(found: Predicted) -> Iterator[Line]:
    for obstacle in found.verdict.obstacles:
        yield Line(obstacle.why, "reason: ", 2, hang=4)
        yield Line(obstacle.error, "error: ", 4, style="red")
        if obstacle.flag:
            yield Line(f"run the job with {obstacle.flag}", "flag:  ", 4)
    yield from (Line(text, "needs: ", 2, hang=4) for text in found.verdict.needs)
    yield from (Line(text, "unknown: ", 2, hang=4) for text in found.verdict.unknown)
    if found.verdict.likely:
        yield Line(found.verdict.likely, "note: ", 2, hang=4)
    yield from (Line(t, "warning: ", 2, hang=4, style="yellow") for t in found.verdict.warnings)
    yield from (Line(text, "note: ", 2, hang=4) for text in found.verdict.notes)


def _predictions(found: Iterable[Predicted]) -> Iterator[Line]:
    """Yield one line per release."""
    depends: dict[str, None] = {}
    for each in found:
        verdict = each.verdict
        depends |= dict.fromkeys((*verdict.conditions, *verdict.depends))
        style, text = "green", "yes"
        if verdict.obstacles:
            style, text = "red", f"no: {verdict.obstacles[0].error}"
        elif not verdict.resumes:
            style, text = "yellow", verdict.answer.value
        elif verdict.without or verdict.warnings:
            style = "yellow"
            text += f", but without {', '.join(verdict.without)}" if verdict.without else ""
            text += f", at risk: {'; '.join(verdict.warnings)}" if verdict.warnings else ""
        yield Line(text, f"{verdict.reader.release:{COLUMN}}", 2, style=style)
    yield from (Line(text, "note: ", 2, hang=4) for text in depends)


def _problems(document: Document, *, full: bool) -> Iterator[Line]:
    for found in document.problems:
        severity = found.severity.value
        where = "" if document.answer.startswith(f"{found.path}: ") else f"{found.path}: "
        head = f"{severity} {found.code}: "
        yield Line(f"{where}{found.what}", head, 2, hang=4, style=_SEVERITIES[severity])
        items = [Line(item, margin=4, hang=6) for item in found.items]
        yield from cut(items, full=full, most=_MOST_ITEMS, margin=4)
        yield Line(found.remedy, "fix: ", 4)


def _change(found: CheckpointChange, *, full: bool) -> Iterator[Line]:
    if not found.files and not found.differences:
        return
    yield from cut(list(map(change, found.differences)), full=full)
    for file in found.files:
        sign = "-" if file.bytes is None else "+" if file.before is None else "~"
        held = "" if file.bytes is None else f": {size(file.bytes)}"
        yield change(f"{sign} file {file.name}{held}")
    if found.payload_files:
        held = data_files(found.payload_files, found.payload_bytes)
        yield Line(f"{held}, unchanged", margin=2, hang=4)


def _end(document: Document) -> Iterator[Line]:
    for text in document.warnings:
        yield Line(text, "warning: ", style="yellow")
    for step in document.steps:
        yield from _step(step, document)


def _step(step: NextStep, document: Document) -> Iterator[Line]:
    if step.purpose == "ask":
        yield Line("add --reader RELEASE for the reason and the fix", "hint: ")
    elif step.purpose == "job" and not any(each.purpose == "fix" for each in document.steps):
        yield Line(f"run the job with {step.command}", "fix: ", style="green")
    elif step.purpose in _STEPS:  # the command that resumes a batch is printed to stderr
        style = "green" if step.purpose in ("fix", "job") else ""
        yield Line(step.command, _STEPS[step.purpose], style=style, whole=True)


# -- a batch


def _batch(document: Document) -> Iterator[Line]:
    """Yield one line per checkpoint, then the answer."""
    yield from map(_member, document.each)
    yield Line(document.answer, hang=2, style="bold")


def _member(found: Member) -> Line:
    text = found.text
    if found.refusal is None and found.text:
        moved = f" -> {found.result}" if found.result not in (None, found.path) else ""
        text = f"{found.path}{moved}: {found.text}"
    # A small indent, because paths need the width.
    return Line(
        text or found.path,
        f"{found.status:{COLUMN}}",
        hang=2,
        style=_STATUSES.get(found.status, ""),
    )
